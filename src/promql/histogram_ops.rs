//! Arithmetic of native histograms, as PromQL's operators and functions need it.
//!
//! Two histograms with different buckets are brought together first: to the coarser schema, to a zero bucket that holds
//! both, to the custom bounds that both have. Long sums carry a compensation for every number in them.

use std::fmt::Write;
use std::sync::Arc;

use super::annotation::Remark;
use super::ast::Span as Place;
use super::exec::{Column, Context, log2};
use super::functions::FunctionId;
use super::printer::format_general;
use crate::model::{Bucket, CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Span, bucket_bound};

/// Who is told of what is odd about histograms.
pub(crate) struct Remarks<'a, 'q> {
    pub(crate) cx: &'a Context<'q>,
    /// The metric's name.
    pub(crate) name: &'a str,
    /// Where in the query.
    pub(crate) span: Place,
}

impl Remarks<'_, '_> {
    fn add(&self, remark: Remark) {
        self.cx.remark(remark, self.span);
    }

    pub(crate) fn mixed_schemas(&self) {
        self.add(Remark::MixedExponentialCustom(self.name.to_owned()));
    }
}

/// One of the two has custom buckets, the other has not.
struct Incompatible;

/// What had to be done to bring two histograms together.
#[derive(Default)]
struct Outcome {
    /// One says that the counter started again, the other that it did not.
    collision: bool,
    /// Custom bounds differed.
    reconciled: bool,
}

/// The compensation of a running sum; its buckets are those of the sum.
#[derive(Debug, Clone, Default)]
struct Compensation {
    zero_count: f64,
    count: f64,
    sum: f64,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

impl Compensation {
    fn of(histogram: &FloatHistogram) -> Self {
        Self {
            positive: vec![0.0; histogram.positive_buckets.len()],
            negative: vec![0.0; histogram.negative_buckets.len()],
            ..Self::default()
        }
    }

    fn each(&mut self, change: impl Fn(&mut f64)) {
        change(&mut self.zero_count);
        change(&mut self.count);
        change(&mut self.sum);
        self.positive.iter_mut().chain(&mut self.negative).for_each(change);
    }
}

/// A bucket, its count and the count's compensation.
#[derive(Debug, Clone, Copy)]
struct Cell {
    index: i64,
    count: f64,
    extra: f64,
}

fn kahan(increment: f64, cell: &mut f64, extra: &mut f64) {
    let total = *cell + increment;
    *extra = if total.is_infinite() {
        0.0
    } else if cell.abs() >= increment.abs() {
        *extra + ((*cell - total) + increment)
    } else {
        *extra + ((increment - total) + *cell)
    };
    *cell = total;
}

fn cells(counts: impl Iterator<Item = (i64, f64)>, extra: Option<&[f64]>) -> Vec<Cell> {
    let extras = extra.unwrap_or(&[]).iter().copied().chain(std::iter::repeat(0.0));
    counts.zip(extras).map(|((index, count), extra)| Cell { index, count, extra }).collect()
}

/// The cells of a coarser schema.
fn coarser(cells: Vec<Cell>, from: i32, to: i32, compensated: bool) -> Vec<Cell> {
    let steps = from.saturating_sub(to).clamp(0, 63);
    let mut out: Vec<Cell> = Vec::new();
    for cell in cells {
        let index = ((cell.index - 1) >> steps) + 1;
        match out.last_mut() {
            Some(last) if last.index == index => {
                if compensated {
                    kahan(cell.count, &mut last.count, &mut last.extra);
                    kahan(cell.extra, &mut last.count, &mut last.extra);
                } else {
                    last.count += cell.count;
                }
            }
            _ => out.push(Cell { index, ..cell }),
        }
    }
    out
}

fn merged(a: Vec<Cell>, b: &[Cell], compensated: bool) -> Vec<Cell> {
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    let mut b = b.iter().peekable();
    for mut cell in a {
        while let Some(other) = b.next_if(|other| other.index < cell.index) {
            out.push(*other);
        }
        if let Some(other) = b.next_if(|other| other.index == cell.index) {
            if compensated {
                kahan(other.count, &mut cell.count, &mut cell.extra);
                if other.extra != 0.0 {
                    kahan(other.extra, &mut cell.count, &mut cell.extra);
                }
            } else {
                cell.count += other.count;
            }
        }
        out.push(cell);
    }
    out.extend(b);
    out
}

fn spans_of(cells: &[Cell]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0;
    for cell in cells {
        match spans.last_mut() {
            Some(span) if cell.index == next => span.length += 1,
            _ => spans.push(Span { offset: (cell.index - next) as i32, length: 1 }),
        }
        next = cell.index + 1;
    }
    spans
}

fn store_positive(histogram: &mut FloatHistogram, cells: &[Cell], extra: Option<&mut Compensation>) {
    histogram.positive_spans = spans_of(cells);
    histogram.positive_buckets = cells.iter().map(|cell| cell.count).collect();
    if let Some(extra) = extra {
        extra.positive = cells.iter().map(|cell| cell.extra).collect();
    }
}

fn store_negative(histogram: &mut FloatHistogram, cells: &[Cell], extra: Option<&mut Compensation>) {
    histogram.negative_spans = spans_of(cells);
    histogram.negative_buckets = cells.iter().map(|cell| cell.count).collect();
    if let Some(extra) = extra {
        extra.negative = cells.iter().map(|cell| cell.extra).collect();
    }
}

/// The zero count that `histogram` would have with a larger threshold, its compensation, and the threshold raised to the
/// end of the populated bucket that it falls into.
fn widened_zero(histogram: &FloatHistogram, threshold: f64, extra: Option<&Compensation>) -> (f64, f64, f64) {
    let first_extra = extra.map_or(0.0, |extra| extra.zero_count);
    if threshold <= histogram.zero_threshold {
        return (histogram.zero_count, first_extra, threshold);
    }
    let mut threshold = threshold;
    loop {
        let (mut count, mut compensation) = (histogram.zero_count, first_extra);
        for (at, bucket) in histogram.positive().enumerate() {
            if bucket.lower >= threshold {
                break;
            }
            kahan(bucket.count, &mut count, &mut compensation);
            if let Some(extra) = extra.and_then(|extra| extra.positive.get(at)) {
                kahan(*extra, &mut count, &mut compensation);
            }
            if bucket.upper > threshold {
                if bucket.count != 0.0 {
                    threshold = bucket.upper;
                }
                break;
            }
        }
        let mut again = false;
        for (at, bucket) in histogram.negative().enumerate() {
            if bucket.upper <= -threshold {
                break;
            }
            kahan(bucket.count, &mut count, &mut compensation);
            if let Some(extra) = extra.and_then(|extra| extra.negative.get(at)) {
                kahan(*extra, &mut count, &mut compensation);
            }
            if bucket.lower < -threshold {
                if bucket.count != 0.0 {
                    // The positive buckets have to be looked at again.
                    threshold = -bucket.lower;
                    again = true;
                }
                break;
            }
        }
        if !again {
            return (count, compensation, threshold);
        }
    }
}

/// Drops the buckets that the zero bucket has swallowed, and empty ones.
fn drop_swallowed(histogram: &mut FloatHistogram, mut extra: Option<&mut Compensation>) {
    let (schema, threshold) = (histogram.schema, histogram.zero_threshold);
    let keep = |cell: &Cell| {
        bucket_bound(cell.index - 1, schema, &[]) >= threshold && (cell.count != 0.0 || cell.extra != 0.0)
    };
    let mut positive = cells(histogram.positive_counts(), extra.as_deref().map(|extra| &extra.positive[..]));
    positive.retain(keep);
    let mut negative = cells(histogram.negative_counts(), extra.as_deref().map(|extra| &extra.negative[..]));
    negative.retain(keep);
    store_positive(histogram, &positive, extra.as_deref_mut());
    store_negative(histogram, &negative, extra);
}

/// Widens the zero bucket of `histogram` until it is one that `other` can have too. Answers the zero count that `other`
/// would then have, with its compensation.
fn reconcile_zero(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    mut extra: Option<&mut Compensation>,
) -> (f64, f64) {
    let (mut count, mut compensation, mut threshold) = (other.zero_count, 0.0, other.zero_threshold);
    // NaN thresholds, which no writer produces, would never become equal.
    while threshold != histogram.zero_threshold && !threshold.is_nan() && !histogram.zero_threshold.is_nan() {
        if histogram.zero_threshold > threshold {
            (count, compensation, threshold) = widened_zero(other, histogram.zero_threshold, None);
        }
        if threshold > histogram.zero_threshold {
            let (zero_count, zero_extra, zero_threshold) = widened_zero(histogram, threshold, extra.as_deref());
            (histogram.zero_count, histogram.zero_threshold) = (zero_count, zero_threshold);
            if let Some(extra) = extra.as_deref_mut() {
                extra.zero_count = zero_extra;
            }
            drop_swallowed(histogram, extra.as_deref_mut());
        }
    }
    (count, compensation)
}

/// What the hint of a sum is. Answers whether the two contradict each other.
fn adjust_hint(hint: &mut CounterResetHint, other: CounterResetHint) -> bool {
    use CounterResetHint::{Gauge, Unknown};
    match (*hint, other) {
        (a, b) if a == b => {}
        (Gauge, _) => {}
        (_, Gauge) => *hint = Gauge,
        (Unknown, _) => {}
        (_, Unknown) => *hint = Unknown,
        _ => {
            *hint = Unknown;
            return true;
        }
    }
    false
}

/// Adds `other` to `histogram`, or subtracts it; with a compensation, as Neumaier's summation does.
fn combine(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    negative: bool,
    mut extra: Option<&mut Compensation>,
) -> Result<Outcome, Incompatible> {
    if histogram.uses_custom_buckets() != other.uses_custom_buckets() {
        return Err(Incompatible);
    }
    let mut outcome = Outcome {
        collision: adjust_hint(&mut histogram.counter_reset_hint, other.counter_reset_hint),
        reconciled: false,
    };
    let sign = if negative { -1.0 } else { 1.0 };
    let compensated = extra.is_some();
    let add = |value: f64, cell: &mut f64, extra: Option<&mut f64>| match extra {
        Some(extra) => kahan(value * sign, cell, extra),
        None => *cell += value * sign,
    };
    if !histogram.uses_custom_buckets() {
        let (count, compensation) = reconcile_zero(histogram, other, extra.as_deref_mut());
        add(count, &mut histogram.zero_count, extra.as_deref_mut().map(|extra| &mut extra.zero_count));
        if let Some(extra) = extra.as_deref_mut() {
            kahan(compensation, &mut histogram.zero_count, &mut extra.zero_count);
        }
    }
    add(other.count, &mut histogram.count, extra.as_deref_mut().map(|extra| &mut extra.count));
    add(other.sum, &mut histogram.sum, extra.as_deref_mut().map(|extra| &mut extra.sum));

    if histogram.uses_custom_buckets() && histogram.custom_values != other.custom_values {
        outcome.reconciled = true;
        reconcile_custom(histogram, other, negative, extra);
        return Ok(outcome);
    }
    let target = histogram.schema.min(other.schema);
    let custom = histogram.uses_custom_buckets();
    let threshold = histogram.zero_threshold;
    let others = |counts: &mut dyn Iterator<Item = (i64, f64)>| {
        let mut all = cells(counts.map(|(index, count)| (index, count * sign)), None);
        if other.schema > target {
            all = coarser(all, other.schema, target, compensated);
        }
        let swallowed = |cell: &Cell| !custom && bucket_bound(cell.index, target, &[]) <= threshold;
        let first = all.iter().position(|cell| !swallowed(cell)).unwrap_or(all.len());
        all.split_off(first)
    };
    let own = |counts: Vec<Cell>| {
        if histogram.schema > target { coarser(counts, histogram.schema, target, compensated) } else { counts }
    };
    let positive = own(cells(histogram.positive_counts(), extra.as_deref().map(|extra| &extra.positive[..])));
    let negative_cells = own(cells(histogram.negative_counts(), extra.as_deref().map(|extra| &extra.negative[..])));
    let positive = merged(positive, &others(&mut other.positive_counts()), compensated);
    let negative_cells = merged(negative_cells, &others(&mut other.negative_counts()), compensated);
    histogram.schema = target;
    store_positive(histogram, &positive, extra.as_deref_mut());
    store_negative(histogram, &negative_cells, extra);
    Ok(outcome)
}

/// Adds or subtracts a histogram with other custom bounds: both are brought to the bounds that both have.
fn reconcile_custom(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    negative: bool,
    extra: Option<&mut Compensation>,
) {
    let bounds = common_bounds(&histogram.custom_values, &other.custom_values);
    let mut sums = vec![(0.0, 0.0); bounds.len() + 1];
    let mut add = |of: &[f64], index: i64, values: &[f64]| {
        let bound = usize::try_from(index).ok().and_then(|index| of.get(index));
        let at = bound.map_or(bounds.len(), |bound| bounds.partition_point(|common| common < bound));
        if let Some((sum, extra)) = sums.get_mut(at) {
            values.iter().for_each(|value| kahan(*value, sum, extra));
        }
    };
    let own_extra = extra.as_deref().map(|extra| &extra.positive[..]);
    for cell in cells(histogram.positive_counts(), own_extra) {
        if own_extra.is_some() {
            add(&histogram.custom_values, cell.index, &[cell.count, cell.extra]);
        } else {
            add(&histogram.custom_values, cell.index, &[cell.count]);
        }
    }
    for (index, count) in other.positive_counts() {
        add(&other.custom_values, index, &[if negative { -count } else { count }]);
    }
    let all = (0i64..).zip(&sums).map(|(index, (count, extra))| Cell { index, count: *count, extra: *extra });
    let kept: Vec<Cell> = all.filter(|cell| cell.count != 0.0 || cell.extra != 0.0).collect();
    store_positive(histogram, &kept, extra);
    histogram.custom_values = bounds;
}

fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|bound| b.contains(bound)).collect()
}

/// Multiplies all of it.
pub(crate) fn scale(histogram: &mut FloatHistogram, factor: f64) {
    histogram.zero_count *= factor;
    histogram.count *= factor;
    histogram.sum *= factor;
    let buckets = histogram.positive_buckets.iter_mut().chain(&mut histogram.negative_buckets);
    buckets.for_each(|count| *count *= factor);
    if factor < 0.0 {
        histogram.counter_reset_hint = CounterResetHint::Gauge;
    }
}

/// Divides all of it. Division by zero leaves no buckets.
pub(crate) fn divide(histogram: &mut FloatHistogram, divisor: f64) {
    histogram.zero_count /= divisor;
    histogram.count /= divisor;
    histogram.sum /= divisor;
    if divisor == 0.0 {
        histogram.positive_spans.clear();
        histogram.negative_spans.clear();
        histogram.positive_buckets.clear();
        histogram.negative_buckets.clear();
        return;
    }
    let buckets = histogram.positive_buckets.iter_mut().chain(&mut histogram.negative_buckets);
    buckets.for_each(|count| *count /= divisor);
    if divisor < 0.0 {
        histogram.counter_reset_hint = CounterResetHint::Gauge;
    }
}

/// Multiplies the histograms of a column.
pub(crate) fn scale_column(column: &mut Column, factor: f64) {
    for (_, histogram) in &mut column.histograms {
        scale(Arc::make_mut(histogram), factor);
    }
}

/// Adds `other`; `None`, and a remark, if they do not go together.
pub(crate) fn add(histogram: &mut FloatHistogram, other: &FloatHistogram, remarks: &Remarks<'_, '_>) -> Option<()> {
    told(combine(histogram, other, false, None), "addition", remarks)
}

/// Subtracts `other`; `None`, and a remark, if they do not go together.
pub(crate) fn subtract(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    remarks: &Remarks<'_, '_>,
) -> Option<()> {
    told(combine(histogram, other, true, None), "subtraction", remarks)
}

fn told(outcome: Result<Outcome, Incompatible>, operation: &'static str, remarks: &Remarks<'_, '_>) -> Option<()> {
    let Ok(outcome) = outcome else {
        remarks.mixed_schemas();
        return None;
    };
    if outcome.reconciled {
        remarks.add(Remark::MismatchedCustomBuckets(operation));
    }
    Some(())
}

/// `h * factor`
pub(crate) fn scaled_compact(histogram: &FloatHistogram, factor: f64) -> FloatHistogram {
    let mut result = histogram.clone();
    scale(&mut result, factor);
    result.compact(0);
    result
}

/// `h / divisor`
pub(crate) fn divided_compact(histogram: &FloatHistogram, divisor: f64) -> FloatHistogram {
    let mut result = histogram.clone();
    divide(&mut result, divisor);
    result.compact(0);
    result
}

/// Whether both are the same data.
pub(crate) fn equals(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    a.equals(b)
}

/// `a + b`; nothing, and a remark, if they do not go together.
pub(crate) fn operator_sum(
    a: &FloatHistogram,
    b: &FloatHistogram,
    remarks: &Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    operator(a, b, false, remarks)
}

/// `a - b`; nothing, and a remark, if they do not go together.
pub(crate) fn operator_difference(
    a: &FloatHistogram,
    b: &FloatHistogram,
    remarks: &Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    operator(a, b, true, remarks)
}

fn operator(a: &FloatHistogram, b: &FloatHistogram, minus: bool, remarks: &Remarks<'_, '_>) -> Option<FloatHistogram> {
    let mut result = a.clone();
    let name = if minus { "subtraction" } else { "addition" };
    let Ok(outcome) = combine(&mut result, b, minus, None) else {
        remarks.add(Remark::IncompatibleBuckets(if minus { "-" } else { "+" }));
        return None;
    };
    if outcome.collision {
        remarks.add(Remark::ResetCollision(name));
        return None;
    }
    if outcome.reconciled {
        remarks.add(Remark::MismatchedCustomBuckets(name));
    }
    if minus {
        result.counter_reset_hint = CounterResetHint::Gauge;
    }
    result.compact(0);
    Some(result)
}

/// Whether the counter started again between `before` and `now`.
pub(crate) fn detect_reset(now: &FloatHistogram, before: &FloatHistogram) -> bool {
    match now.counter_reset_hint {
        CounterResetHint::CounterReset => return true,
        CounterResetHint::NotCounterReset => return false,
        CounterResetHint::Unknown | CounterResetHint::Gauge => {}
    }
    if now.count < before.count {
        return true;
    }
    if now.uses_custom_buckets() {
        if !before.uses_custom_buckets() {
            return true;
        }
        if now.custom_values != before.custom_values {
            return custom_reset(now, before);
        }
    }
    if now.schema > before.schema || now.zero_threshold < before.zero_threshold {
        return true;
    }
    let (zero_count, _, threshold) = widened_zero(before, now.zero_threshold, None);
    if threshold != now.zero_threshold || now.zero_count < zero_count {
        return true;
    }
    let visible = |counts: Vec<Cell>, schema: i32| {
        let mut all = if schema > now.schema { coarser(counts, schema, now.schema, false) } else { counts };
        if !now.uses_custom_buckets() {
            all.retain(|cell| bucket_bound(cell.index, now.schema, &[]) > now.zero_threshold);
        }
        all
    };
    let lost = |now: Vec<Cell>, before: Vec<Cell>| {
        let mut now = now.into_iter().peekable();
        before.into_iter().any(|before| {
            while now.next_if(|cell| cell.index < before.index).is_some() {}
            match now.peek() {
                Some(cell) if cell.index == before.index => cell.count < before.count,
                _ => before.count != 0.0,
            }
        })
    };
    lost(
        visible(cells(now.positive_counts(), None), now.schema),
        visible(cells(before.positive_counts(), None), before.schema),
    ) || lost(
        visible(cells(now.negative_counts(), None), now.schema),
        visible(cells(before.negative_counts(), None), before.schema),
    )
}

/// Whether a count has become smaller in the buckets between the bounds that both have.
fn custom_reset(now: &FloatHistogram, before: &FloatHistogram) -> bool {
    let bounds = common_bounds(&now.custom_values, &before.custom_values);
    let rolled_up = |histogram: &FloatHistogram| {
        let mut sums = vec![0.0; bounds.len() + 1];
        for (index, count) in histogram.positive_counts() {
            let bound = bucket_bound(index, CUSTOM_BUCKETS_SCHEMA, &histogram.custom_values);
            if let Some(sum) = sums.get_mut(bounds.partition_point(|common| *common < bound)) {
                *sum += count;
            }
        }
        sums
    };
    rolled_up(now).iter().zip(rolled_up(before)).any(|(now, before)| *now < before)
}

fn overflows(histogram: &FloatHistogram) -> bool {
    let buckets = histogram.positive_buckets.iter().chain(&histogram.negative_buckets);
    let totals = [histogram.zero_count, histogram.count, histogram.sum];
    totals.iter().chain(buckets).chain(&histogram.custom_values).any(|value| value.is_infinite())
}

fn add_compensation(histogram: &mut FloatHistogram, extra: &Compensation) {
    histogram.zero_count += extra.zero_count;
    histogram.count += extra.count;
    histogram.sum += extra.sum;
    histogram.positive_buckets.iter_mut().zip(&extra.positive).for_each(|(count, extra)| *count += extra);
    histogram.negative_buckets.iter_mut().zip(&extra.negative).for_each(|(count, extra)| *count += extra);
}

/// A running sum or mean.
#[derive(Debug, Clone)]
pub(crate) struct Accumulator {
    /// The sum, or the mean once the sum would have overflowed.
    value: FloatHistogram,
    extra: Option<Compensation>,
    count: f64,
    average: bool,
    incremental: bool,
    incompatible: bool,
    reset_seen: bool,
    no_reset_seen: bool,
}

impl Accumulator {
    /// The sum or mean of `first` alone.
    pub(crate) fn new(first: &FloatHistogram, average: bool) -> Self {
        let mut this = Self {
            value: first.clone(),
            extra: None,
            count: 1.0,
            average,
            incremental: false,
            incompatible: false,
            reset_seen: false,
            no_reset_seen: false,
        };
        this.note_hint(first);
        this
    }

    fn note_hint(&mut self, histogram: &FloatHistogram) {
        self.reset_seen |= histogram.counter_reset_hint == CounterResetHint::CounterReset;
        self.no_reset_seen |= histogram.counter_reset_hint == CounterResetHint::NotCounterReset;
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, histogram: &FloatHistogram, remarks: &Remarks<'_, '_>) {
        if self.incompatible {
            return;
        }
        self.count += 1.0;
        self.note_hint(histogram);
        let outcome = if self.average { self.add_to_mean(histogram) } else { self.add_to_sum(histogram) };
        match outcome {
            Ok(outcome) if outcome.reconciled => remarks.add(Remark::MismatchedCustomBuckets("aggregation")),
            Ok(_) => {}
            Err(Incompatible) => {
                remarks.mixed_schemas();
                self.incompatible = true;
            }
        }
    }

    fn add_to_sum(&mut self, histogram: &FloatHistogram) -> Result<Outcome, Incompatible> {
        let mut extra = self.extra.take().unwrap_or_else(|| Compensation::of(&self.value));
        let outcome = combine(&mut self.value, histogram, false, Some(&mut extra));
        self.extra = Some(extra);
        outcome
    }

    fn add_to_mean(&mut self, histogram: &FloatHistogram) -> Result<Outcome, Incompatible> {
        if !self.incremental {
            let before = (self.value.clone(), self.extra.clone());
            let outcome = self.add_to_sum(histogram)?;
            if !overflows(&self.value) {
                return Ok(outcome);
            }
            (self.value, self.extra) = before;
            self.incremental = true;
            let count = self.count - 1.0;
            divide(&mut self.value, count);
            if let Some(extra) = &mut self.extra {
                extra.each(|value| *value /= count);
            }
        }
        let q = (self.count - 1.0) / self.count;
        scale(&mut self.value, q);
        if let Some(extra) = &mut self.extra {
            extra.each(|value| *value *= q);
        }
        let mut part = histogram.clone();
        divide(&mut part, self.count);
        self.add_to_sum(&part)
    }

    /// The result, or nothing if the histograms do not go together.
    pub(crate) fn finish(self, remarks: &Remarks<'_, '_>) -> Option<FloatHistogram> {
        let mut result = self.uncompacted(remarks)?;
        result.compact(0);
        Some(result)
    }

    fn uncompacted(mut self, remarks: &Remarks<'_, '_>) -> Option<FloatHistogram> {
        if self.incompatible {
            return None;
        }
        if self.reset_seen && self.no_reset_seen {
            remarks.add(Remark::ResetCollision("aggregation"));
        }
        if self.average && !self.incremental {
            let count = self.count;
            divide(&mut self.value, count);
            if let Some(extra) = &mut self.extra {
                extra.each(|value| *value /= count);
            }
        }
        if let Some(extra) = &self.extra {
            add_compensation(&mut self.value, extra);
        }
        Some(self.value)
    }
}

/// `sum_over_time` and `avg_over_time`.
pub(crate) fn sum_over_time<'h>(
    mut histograms: impl Iterator<Item = &'h FloatHistogram>,
    average: bool,
    remarks: &Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    let mut accumulator = Accumulator::new(histograms.next()?, average);
    histograms.for_each(|histogram| accumulator.add(histogram, remarks));
    accumulator.uncompacted(remarks)
}

/// The difference between the last and the first histogram of a window, with what was lost when the counter started
/// again; nothing if they do not go together.
pub(crate) fn rate(
    points: &[(i64, Arc<FloatHistogram>)],
    is_counter: bool,
    remarks: &Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    let [(_, first), middle @ .., (_, last)] = points else { return None };
    let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    if is_counter && (is_gauge(first) || is_gauge(last)) {
        remarks.add(Remark::NotCounter(remarks.name.to_owned()));
    }
    let second = middle.first().map_or(last, |(_, histogram)| histogram);
    let mut before = Arc::clone(first);
    if is_counter && detect_reset(second, first) {
        // The first one does not count then, whatever its buckets.
        before = Arc::new(FloatHistogram {
            schema: second.schema,
            custom_values: second.custom_values.clone(),
            ..FloatHistogram::default()
        });
    }
    let custom = before.uses_custom_buckets();
    if last.uses_custom_buckets() != custom {
        remarks.mixed_schemas();
        return None;
    }
    let mut schema = last.schema.min(before.schema);
    if is_counter {
        for (_, histogram) in middle {
            if is_gauge(histogram) {
                remarks.add(Remark::NotCounter(remarks.name.to_owned()));
            }
            schema = schema.min(histogram.schema);
            if histogram.uses_custom_buckets() != custom {
                remarks.mixed_schemas();
                return None;
            }
        }
    }
    let mut result = FloatHistogram::clone(last);
    if result.schema > schema && result.reduce_resolution(schema).is_ok() {
        result.counter_reset_hint = CounterResetHint::Unknown;
    }
    match combine(&mut result, &before, true, None) {
        Err(Incompatible) => {
            remarks.mixed_schemas();
            return None;
        }
        Ok(outcome) if outcome.reconciled => remarks.add(Remark::MismatchedCustomBuckets("subtraction")),
        Ok(_) => {}
    }
    if is_counter {
        for (_, now) in points.iter().skip(1) {
            if detect_reset(now, &before) {
                match combine(&mut result, &before, false, None) {
                    Err(Incompatible) => {
                        remarks.mixed_schemas();
                        return None;
                    }
                    Ok(outcome) if outcome.reconciled => remarks.add(Remark::MismatchedCustomBuckets("addition")),
                    Ok(_) => {}
                }
            }
            before = Arc::clone(now);
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        remarks.add(Remark::NotGauge(remarks.name.to_owned()));
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact(0);
    Some(result)
}

/// The difference of two neighbours, for `irate` and `idelta`.
pub(crate) fn instant_difference(
    before: &FloatHistogram,
    now: &FloatHistogram,
    is_rate: bool,
    remarks: &Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    if is_rate && (is_gauge(now) || is_gauge(before)) {
        remarks.add(Remark::NotCounter(remarks.name.to_owned()));
    }
    if !(is_rate || is_gauge(now) && is_gauge(before)) {
        remarks.add(Remark::NotGauge(remarks.name.to_owned()));
    }
    let mut result = now.clone();
    if !is_rate || !detect_reset(now, before) {
        match combine(&mut result, before, true, None) {
            Err(Incompatible) => {
                remarks.mixed_schemas();
                return None;
            }
            Ok(outcome) if outcome.reconciled => remarks.add(Remark::MismatchedCustomBuckets("subtraction")),
            Ok(_) => {}
        }
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact(0);
    Some(result)
}

/// What `histogram_count` and its like take from a histogram.
pub(crate) fn statistic(id: FunctionId) -> fn(&FloatHistogram) -> f64 {
    match id {
        FunctionId::HistogramCount => |histogram| histogram.count,
        FunctionId::HistogramSum => |histogram| histogram.sum,
        FunctionId::HistogramAvg => |histogram| histogram.sum / histogram.count,
        FunctionId::HistogramStddev => |histogram| variance(histogram).sqrt(),
        _ => variance,
    }
}

fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let (mut sum, mut extra) = (0.0, 0.0);
    for bucket in histogram.all_buckets().filter(|bucket| bucket.count != 0.0) {
        let middle = if histogram.uses_custom_buckets() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -middle } else { middle }
        };
        let delta = middle - mean;
        kahan(bucket.count * delta * delta, &mut sum, &mut extra);
    }
    (sum + extra) / histogram.count
}

/// How Prometheus prints a histogram.
pub(crate) fn text(histogram: &FloatHistogram) -> String {
    let mut text = format!("{{count:{}, sum:{}", format_general(histogram.count), format_general(histogram.sum));
    let zero = (histogram.zero_count != 0.0).then(|| histogram.zero_bucket());
    let all = histogram.negative().rev().chain(zero).chain(histogram.positive());
    for bucket in all.filter(|bucket| bucket.count != 0.0) {
        let (open, close) =
            (if bucket.lower_inclusive { '[' } else { '(' }, if bucket.upper_inclusive { ']' } else { ')' });
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            ", {open}{},{}{close}:{}",
            format_general(bucket.lower),
            format_general(bucket.upper),
            format_general(bucket.count)
        );
    }
    text.push('}');
    text
}

/// The part of a bucket's width that lies below `v`, which lies inside it.
pub(crate) fn fraction_below(bucket: &Bucket, v: f64, linear: bool) -> f64 {
    if linear {
        return (v - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper, at) = (log2(bucket.lower.abs()), log2(bucket.upper.abs()), log2(v.abs()));
    if v > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - ((at - upper) / (lower - upper)) }
}

/// `h </ at` and `h >/ at`: the histogram without its observations above, or below, a value.
pub(crate) fn trimmed(histogram: &FloatHistogram, at: f64, upper: bool) -> FloatHistogram {
    let custom = histogram.uses_custom_buckets();
    let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
    let mut side = |buckets: &mut dyn Iterator<Item = Bucket>, positive: bool| {
        let mut any = false;
        let kept: Vec<f64> = buckets
            .map(|bucket| {
                if bucket.count == 0.0 {
                    return 0.0;
                }
                any = true;
                let (whole, part) = if upper {
                    (bucket.upper <= at, bucket.lower < at)
                } else {
                    (bucket.lower >= at, bucket.upper > at)
                };
                let (kept, middle) = if whole {
                    (bucket.count, middle(bucket.lower, bucket.upper, positive, custom))
                } else if part {
                    trimmed_bucket(&bucket, at, upper, positive, custom)
                } else {
                    changed = true;
                    return 0.0;
                };
                count += kept;
                sum += middle * kept;
                changed |= kept != bucket.count;
                kept
            })
            .collect();
        (kept, any)
    };
    let (positive, has_positive) = side(&mut histogram.positive(), true);
    let (negative, has_negative) = side(&mut histogram.negative(), false);
    let mut result = histogram.clone();
    (result.positive_buckets, result.negative_buckets) = (positive, negative);
    if histogram.zero_count > 0.0 {
        let (kept, middle) = trimmed_zero(&histogram.zero_bucket(), at, has_negative, has_positive, upper);
        changed |= kept != histogram.zero_count;
        result.zero_count = kept;
        sum += middle * kept;
        count += kept;
    }
    if changed {
        (result.count, result.sum) = (count, sum);
        result.compact(0);
    }
    result
}

/// What is left of a bucket that the value falls into, and where its middle is.
fn trimmed_bucket(bucket: &Bucket, at: f64, upper: bool, positive: bool, custom: bool) -> (f64, f64) {
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return trimmed_infinite(bucket, at, upper);
    }
    let below = if at <= bucket.lower {
        0.0
    } else if at >= bucket.upper {
        bucket.count
    } else {
        bucket.count * fraction_below(bucket, at, custom)
    };
    if upper {
        (below, middle(bucket.lower, at, positive, custom))
    } else {
        (bucket.count - below, middle(at, bucket.upper, positive, custom))
    }
}

/// The same for a bucket without an end. Where its observations lie in it nobody knows, so that mostly all or none stay.
fn trimmed_infinite(bucket: &Bucket, at: f64, upper: bool) -> (f64, f64) {
    let finite = |v: f64| if v.is_infinite() { 0.0 } else { v };
    let ends = bucket.upper != f64::INFINITY;
    if bucket.lower == f64::NEG_INFINITY {
        return match upper {
            true if at >= bucket.upper => (bucket.count, 0.0),
            // Only custom buckets get here: one that ends above zero is taken to begin there.
            true if at > 0.0 && bucket.upper > 0.0 && ends => (bucket.count * at / bucket.upper, at / 2.0),
            true if bucket.upper <= 0.0 => (bucket.count, at),
            false if at <= bucket.lower => (bucket.count, 0.0),
            false if at >= 0.0 && bucket.upper > at && ends => {
                (bucket.count * (1.0 - at / bucket.upper), (at + bucket.upper) / 2.0)
            }
            _ => (0.0, finite(bucket.upper)),
        };
    }
    if !upper && at >= bucket.lower { (bucket.count, at) } else { (0.0, finite(bucket.lower)) }
}

fn trimmed_zero(bucket: &Bucket, at: f64, has_negative: bool, has_positive: bool, upper: bool) -> (f64, f64) {
    let low = if has_positive && !has_negative { 0.0 } else { bucket.lower };
    let high = if has_negative && !has_positive { 0.0 } else { bucket.upper };
    let (all, none) = ((bucket.count, (low + high) / 2.0), (0.0, 0.0));
    if at <= low {
        return if upper { none } else { all };
    }
    if at >= high {
        return if upper { all } else { none };
    }
    if upper {
        (bucket.count * ((at - low) / (high - low)), (low + at) / 2.0)
    } else {
        (bucket.count * ((high - at) / (high - low)), (at + high) / 2.0)
    }
}

/// The middle of what is left of a bucket: of an exponential one the geometric mean.
fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        _ if linear => (lower + upper) / 2.0,
        _ => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
