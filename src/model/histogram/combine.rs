//! Bringing two histograms together: their schemas, their zero buckets, their bounds, their hints.

use super::{CounterResetHint, FloatHistogram, Span, bucket_bound};

/// One of two histograms has custom buckets, the other has not: they have no sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("histograms with custom and with exponential buckets cannot be combined")]
pub struct Incompatible;

/// What had to be done to bring two histograms together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Combined {
    /// One says that the counter started again, the other that it did not.
    pub collision: bool,
    /// Custom bounds differed: what is left are those that both have.
    pub reconciled: bool,
}

impl FloatHistogram {
    /// Adds `other`, bucket by bucket, at the coarser of the two resolutions and with a zero bucket that holds both.
    ///
    /// # Errors
    /// [`Incompatible`]; nothing is changed then.
    pub fn add(&mut self, other: &Self) -> Result<Combined, Incompatible> {
        combine(self, other, false, None)
    }

    /// Subtracts `other` as [`add`](FloatHistogram::add) adds it.
    ///
    /// # Errors
    /// [`Incompatible`]; nothing is changed then.
    pub fn subtract(&mut self, other: &Self) -> Result<Combined, Incompatible> {
        combine(self, other, true, None)
    }
}

/// The compensation of a running sum; its buckets are those of the sum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compensation {
    pub(crate) zero_count: f64,
    pub(crate) count: f64,
    pub(crate) sum: f64,
    pub(crate) positive: Vec<f64>,
    pub(crate) negative: Vec<f64>,
}

#[cfg(feature = "promql")]
impl Compensation {
    pub(crate) fn of(histogram: &FloatHistogram) -> Self {
        Self {
            positive: vec![0.0; histogram.positive_buckets.len()],
            negative: vec![0.0; histogram.negative_buckets.len()],
            ..Self::default()
        }
    }

    pub(crate) fn each(&mut self, change: impl Fn(&mut f64)) {
        change(&mut self.zero_count);
        change(&mut self.count);
        change(&mut self.sum);
        self.positive.iter_mut().chain(&mut self.negative).for_each(change);
    }
}

/// A bucket, its count and the count's compensation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) index: i64,
    pub(super) count: f64,
    pub(super) extra: f64,
}

pub(crate) fn kahan(increment: f64, cell: &mut f64, extra: &mut f64) {
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

pub(super) fn cells(counts: impl Iterator<Item = (i64, f64)>, extra: Option<&[f64]>) -> Vec<Cell> {
    let extras = extra.unwrap_or(&[]).iter().copied().chain(std::iter::repeat(0.0));
    counts.zip(extras).map(|((index, count), extra)| Cell { index, count, extra }).collect()
}

/// The cells of a coarser schema.
pub(super) fn coarser(cells: Vec<Cell>, from: i32, to: i32, compensated: bool) -> Vec<Cell> {
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
pub(super) fn widened_zero(
    histogram: &FloatHistogram,
    threshold: f64,
    extra: Option<&Compensation>,
) -> (f64, f64, f64) {
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
pub(crate) fn combine(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    negative: bool,
    mut extra: Option<&mut Compensation>,
) -> Result<Combined, Incompatible> {
    if histogram.uses_custom_buckets() != other.uses_custom_buckets() {
        return Err(Incompatible);
    }
    let mut outcome = Combined {
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

pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|bound| b.contains(bound)).collect()
}
