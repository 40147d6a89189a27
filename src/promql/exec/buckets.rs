//! Quantiles and fractions of histograms, classic and native.

use super::scalar::log2;
use super::{
    BoxOperator, Collision, Column, Context, Operator, SeriesInfo, distinct, invalid, names_differ, scalar,
    unsupported, vector, without_names,
};
use crate::codec::FixedMap;
use crate::error::Result;
use crate::model::{Bucket, FloatHistogram, Labels, LabelsBuilder};
use crate::promql::annotation::{Monotonicity, Remark};
use crate::promql::ast::{Call, Expr, Span};
use crate::promql::functions::FunctionId;
use crate::promql::histogram_ops as ops;
use crate::promql::plan::Grid;
use crate::promql::printer::format_general;

/// The label with a classic bucket's upper bound.
const BUCKET_LABEL: &str = "le";

/// What to compute of each histogram.
enum Wanted {
    Quantile(Vec<f64>),
    Fraction(Vec<f64>, Vec<f64>),
}

/// The operator of `histogram_quantile`, `histogram_quantiles` or `histogram_fraction`.
///
/// # Errors
/// Those of the arguments; `Unsupported` for quantiles that change from step to step, where they become labels.
pub(super) fn build<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    let quantile = |arg: &'q Expr| -> Result<Vec<f64>> {
        let quantiles = scalar(cx, arg, grid)?;
        for q in quantiles.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            cx.remark(Remark::InvalidQuantile(q.to_bits()), arg.span());
        }
        Ok(quantiles)
    };
    let (wanted, input, classic, label) = match (call.function.id, &call.args[..]) {
        (FunctionId::HistogramQuantile, [q, input]) => (vec![Wanted::Quantile(quantile(q)?)], input, input, None),
        (FunctionId::HistogramFraction, [lower, upper, input]) => {
            let bounds = Wanted::Fraction(scalar(cx, lower, grid)?, scalar(cx, upper, grid)?);
            (vec![bounds], input, input, None)
        }
        (FunctionId::HistogramQuantiles, [input, label, quantiles @ ..]) => {
            let Expr::String(label) = label.unwrap_parens() else { return Err(invalid("a string is expected here")) };
            let quantiles = quantiles.iter().map(|q| Ok(Wanted::Quantile(quantile(q)?)));
            (quantiles.collect::<Result<Vec<_>>>()?, input, input, Some(label.value.as_str()))
        }
        _ => return Err(unsupported(call.function.name)),
    };
    let input_operator = vector(cx, input, grid)?;
    let groups = Groups::new(input_operator.series());
    let collide = !cx.delayed() && names_differ(&groups.series);
    let unnamed = without_names(cx, &groups.series);
    let mut series = Vec::new();
    for wanted in &wanted {
        match (label, wanted) {
            (Some(label), Wanted::Quantile(quantiles)) => {
                let first = quantiles.first().copied().unwrap_or(f64::NAN);
                if quantiles.iter().any(|q| q.to_bits() != first.to_bits()) {
                    return Err(unsupported("histogram_quantiles with quantiles that change"));
                }
                let text = open_metrics_float(first);
                let mut builder = LabelsBuilder::new();
                series.extend(unnamed.iter().map(|info| {
                    builder.clear();
                    builder.extend(&info.labels).push(label, &text);
                    SeriesInfo { labels: builder.build(), drop_name: info.drop_name }
                }));
            }
            _ => series.extend(unnamed.iter().cloned()),
        }
    }
    let operator = Box::new(HistogramFunction {
        cx,
        wanted,
        input: input_operator,
        groups,
        series,
        grid,
        classic: classic.span(),
        columns: Vec::new(),
    });
    Ok(if collide || label.is_some() { distinct(operator, Collision::AtStep) } else { operator })
}

/// A float as OpenMetrics prints it: never as an integer.
fn open_metrics_float(v: f64) -> String {
    let text = format_general(v);
    if v.is_finite() && !text.contains(['e', '.']) { text + ".0" } else { text }
}

/// Which series are the buckets of one histogram.
struct Groups {
    /// The histograms, with their names and without `le`.
    series: Vec<SeriesInfo>,
    members: Vec<Vec<Member>>,
}

#[derive(Clone, Copy)]
struct Member {
    index: usize,
    /// The bucket's upper bound, if the label says one.
    upper: Option<f64>,
    /// Whether the series itself has no `le`: only such a one can be a native histogram of the group.
    whole: bool,
}

impl Groups {
    fn new(input: &[SeriesInfo]) -> Self {
        let mut groups = Self { series: Vec::new(), members: Vec::new() };
        let mut by_labels: FixedMap<Labels, usize> = FixedMap::default();
        for (index, info) in input.iter().enumerate() {
            let bound = info.labels.get(BUCKET_LABEL);
            let labels = match bound {
                Some(_) => info.labels.without(|name| name == BUCKET_LABEL),
                None => info.labels.clone(),
            };
            let next = groups.series.len();
            let group = *by_labels.entry(labels.clone()).or_insert(next);
            if group == next {
                groups.series.push(SeriesInfo { labels, drop_name: info.drop_name });
                groups.members.push(Vec::new());
            }
            let upper = bound.and_then(|bound| bound.parse().ok());
            groups.members[group].push(Member { index, upper, whole: bound.is_none() });
        }
        groups
    }
}

struct HistogramFunction<'q> {
    cx: &'q Context<'q>,
    wanted: Vec<Wanted>,
    input: BoxOperator<'q>,
    groups: Groups,
    series: Vec<SeriesInfo>,
    grid: Grid,
    /// Where remarks on histograms point.
    classic: Span,
    /// Where remarks on native histograms point.
    columns: Vec<Column>,
}

impl Operator for HistogramFunction<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        let steps = self.grid.steps();
        out.reset(steps);
        let count = self.groups.series.len();
        let (wanted, group) = (&self.wanted[index / count], index % count);
        let members = &self.groups.members[group];
        self.columns.resize_with(self.columns.len().max(members.len()), Column::default);
        let mut any_native = false;
        let mut has_native = false;
        for (member, column) in members.iter().zip(&mut self.columns) {
            self.input.column(member.index, column)?;
            if !column.histograms.is_empty() {
                has_native = true;
                if !member.whole {
                    return Err(unsupported("native histograms in series with a label \"le\""));
                }
            }
            any_native |= has_native;
        }
        // Without delayed removal, the name is gone where Prometheus words its remarks.
        let name = if self.cx.delayed() { self.groups.series[group].labels.metric_name() } else { "" };
        for (member, column) in members.iter().zip(&self.columns) {
            if member.upper.is_none() && !column.present.is_empty() {
                let label = self.input.series()[member.index].labels.get(BUCKET_LABEL).unwrap_or("").to_owned();
                self.cx.remark(Remark::BadBucketLabel { metric: name.to_owned(), label }, self.classic);
            }
        }
        let mut buckets: Vec<(f64, f64)> = Vec::with_capacity(members.len());
        for step in 0..steps {
            buckets.clear();
            for (member, column) in members.iter().zip(&self.columns) {
                if let (Some(upper), Some(value)) = (member.upper, column.get(step)) {
                    buckets.push((upper, value));
                }
            }
            let native = if any_native {
                let whole = members.iter().zip(&self.columns).filter(|(member, _)| member.whole);
                whole.filter_map(|(_, column)| column.histogram(step)).next()
            } else {
                None
            };
            if let Some(histogram) = native {
                if !buckets.is_empty() {
                    self.cx.remark(Remark::MixedClassicNative(name.to_owned()), self.classic);
                    continue;
                }
                let remarks = ops::Remarks { cx: self.cx, name, span: self.classic };
                let value = match wanted {
                    Wanted::Quantile(quantiles) => native_quantile(quantiles[step], histogram, &remarks),
                    Wanted::Fraction(lower, upper) => native_fraction(lower[step], upper[step], histogram, &remarks),
                };
                out.set(step, value);
            } else if !buckets.is_empty() {
                let value = match wanted {
                    Wanted::Quantile(quantiles) => {
                        let (value, forced) = bucket_quantile(quantiles[step], &mut buckets);
                        if let Some(forced) = forced {
                            let t = self.grid.time(step);
                            let extra = Monotonicity {
                                min_t: t,
                                max_t: t,
                                min_bucket: forced.min_bucket,
                                max_bucket: forced.max_bucket,
                                max_diff: forced.max_diff,
                                count: 1,
                            };
                            self.cx.annotations.add_monotonicity(name, self.classic, extra);
                        }
                        value
                    }
                    Wanted::Fraction(lower, upper) => bucket_fraction(lower[step], upper[step], &mut buckets),
                };
                out.set(step, value);
            }
        }
        Ok(())
    }
}

/// Where counts had to be raised, so that they do not fall from bucket to bucket.
struct Forced {
    min_bucket: f64,
    max_bucket: f64,
    max_diff: f64,
}

/// Sorts buckets of upper bound and cumulative count, and adds up those with the same bound. Answers whether the last
/// one is unbounded, as it must be.
fn sort_buckets(buckets: &mut Vec<(f64, f64)>) -> bool {
    buckets.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
    if !buckets.last().is_some_and(|(upper, _)| *upper == f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, last| {
        let same = next.0 == last.0;
        if same {
            last.1 += next.1;
        }
        same
    });
    true
}

fn bucket_quantile(q: f64, buckets: &mut Vec<(f64, f64)>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if !sort_buckets(buckets) {
        return (f64::NAN, None);
    }
    let forced = force_rising(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].1;
    if buckets.len() < 2 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    // As Go's binary search goes: NaN counts are never at least anything.
    let at = buckets[..last].partition_point(|(_, count)| !(*count >= rank));
    let value = if at == last {
        buckets[last - 1].0
    } else if at == 0 && buckets[0].0 <= 0.0 {
        buckets[0].0
    } else {
        let (end, mut count) = buckets[at];
        let mut start = 0.0;
        if at > 0 {
            start = buckets[at - 1].0;
            count -= buckets[at - 1].1;
            rank -= buckets[at - 1].1;
        }
        start + (end - start) * (rank / count)
    };
    (value, forced)
}

/// Raises counts that are smaller than those of the bucket before; differences that rounding explains are levelled
/// without a word.
fn force_rising(buckets: &mut [(f64, f64)]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut before = buckets[0].1;
    for (upper, count) in &mut buckets[1..] {
        if *count == before {
            continue;
        }
        if almost_equal(before, *count) {
            *count = before;
        } else if *count < before {
            let diff = before - *count;
            *count = before;
            let forced = forced.get_or_insert(Forced {
                min_bucket: f64::INFINITY,
                max_bucket: f64::NEG_INFINITY,
                max_diff: 0.0,
            });
            forced.min_bucket = forced.min_bucket.min(*upper);
            forced.max_bucket = forced.max_bucket.max(*upper);
            forced.max_diff = forced.max_diff.max(diff);
        } else {
            before = *count;
        }
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    const TOLERANCE: f64 = 1e-12;
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < TOLERANCE * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < TOLERANCE
}

fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<(f64, f64)>) -> f64 {
    if !sort_buckets(buckets) {
        return f64::NAN;
    }
    let count = buckets[buckets.len() - 1].1;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let (mut rank, mut lower_rank, mut upper_rank) = (0.0, None, None);
    let mut start = if buckets[0].0 <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for (end, below) in buckets.iter().copied() {
        // A bucket without a start cannot be cut: all of it lies below.
        let cut = |v: f64| {
            if start == f64::NEG_INFINITY { below } else { rank + (below - rank) * (v - start) / (end - start) }
        };
        if lower_rank.is_none() && start >= lower {
            lower_rank = Some(rank);
        }
        if upper_rank.is_none() && start >= upper {
            upper_rank = Some(rank);
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        if lower_rank.is_none() && start < lower && end > lower {
            lower_rank = Some(cut(lower));
        }
        if upper_rank.is_none() && start < upper && end > upper {
            upper_rank = Some(cut(upper));
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank = below;
        start = end;
    }
    let lower_rank = lower_rank.filter(|rank| !(*rank > count)).unwrap_or(count);
    let upper_rank = upper_rank.filter(|rank| !(*rank > count)).unwrap_or(count);
    (upper_rank - lower_rank) / count
}

/// The buckets, the zero bucket cut at zero if there are observations on one of its sides only.
fn cut_zero(histogram: &FloatHistogram, bucket: &mut Bucket) {
    let (negative, positive) = (histogram.negative_buckets.is_empty(), histogram.positive_buckets.is_empty());
    if negative && !positive {
        bucket.lower = 0.0;
    } else if positive && !negative {
        bucket.upper = 0.0;
    }
}

fn native_quantile(q: f64, histogram: &FloatHistogram, remarks: &ops::Remarks<'_, '_>) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    // NaN observations are in the count, but in no bucket: ranks then have to be counted from below.
    let with_nans = histogram.sum.is_nan();
    let forward = with_nans || q < 0.5;
    let mut rank = if forward { q * histogram.count } else { (1.0 - q) * histogram.count };
    let all: Vec<Bucket> =
        if forward { histogram.all_buckets().collect() } else { histogram.all_buckets().rev().collect() };
    let mut bucket =
        Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0, index: 0 };
    let mut count = 0.0;
    let mut rest = all.iter();
    for next in rest.by_ref() {
        bucket = *next;
        if bucket.count == 0.0 {
            continue;
        }
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    let custom = histogram.uses_custom_buckets();
    if !custom && bucket.lower < 0.0 && bucket.upper > 0.0 {
        cut_zero(histogram, &mut bucket);
    } else if custom {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return bucket.upper;
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
    }
    count = if count > histogram.count { histogram.count } else { count };
    if count < rank {
        if with_nans {
            remarks.cx.remark(Remark::QuantileNanResult(remarks.name.to_owned()), remarks.span);
            return f64::NAN;
        }
        return bucket.upper;
    }
    if forward {
        rank -= count - bucket.count;
    } else {
        rank = count - rank;
    }
    if with_nans {
        let total = rest.fold(count, |total, bucket| total + bucket.count);
        if total < histogram.count {
            remarks.cx.remark(Remark::QuantileNanSkew(remarks.name.to_owned()), remarks.span);
        }
    }
    let fraction = rank / bucket.count;
    if custom || bucket.lower <= 0.0 && bucket.upper >= 0.0 {
        return bucket.lower + (bucket.upper - bucket.lower) * fraction;
    }
    // Buckets are of equal width on a logarithmic scale.
    let (lower, upper) = (log2(bucket.lower.abs()), log2(bucket.upper.abs()));
    if bucket.lower > 0.0 {
        (lower + (upper - lower) * fraction).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - fraction)).exp2()
    }
}

fn native_fraction(lower: f64, upper: f64, histogram: &FloatHistogram, remarks: &ops::Remarks<'_, '_>) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let custom = histogram.uses_custom_buckets();
    let (mut rank, mut lower_rank, mut upper_rank) = (0.0, None, None);
    let mut count = 0.0;
    let mut buckets = histogram.all_buckets();
    for mut bucket in buckets.by_ref() {
        count += bucket.count;
        let mut linear = custom;
        if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            linear = true;
            cut_zero(histogram, &mut bucket);
        }
        let cut = |v: f64| {
            if linear && bucket.lower == f64::NEG_INFINITY {
                bucket.count
            } else {
                rank + bucket.count * ops::fraction_below(&bucket, v, linear)
            }
        };
        if lower_rank.is_none() && bucket.lower >= lower {
            lower_rank = Some(rank);
        }
        if upper_rank.is_none() && bucket.lower >= upper {
            upper_rank = Some(rank);
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        if lower_rank.is_none() && bucket.lower < lower && bucket.upper > lower {
            lower_rank = Some(cut(lower));
        }
        if upper_rank.is_none() && bucket.lower < upper && bucket.upper > upper {
            upper_rank = Some(cut(upper));
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += bucket.count;
    }
    if histogram.sum.is_nan() {
        count = buckets.fold(count, |count, bucket| count + bucket.count);
        if count < histogram.count {
            remarks.cx.remark(Remark::FractionNans(remarks.name.to_owned()), remarks.span);
        }
    } else {
        count = histogram.count;
    }
    let lower_rank = lower_rank.filter(|rank| !(*rank > count)).unwrap_or(count);
    let upper_rank = upper_rank.filter(|rank| !(*rank > count)).unwrap_or(count);
    (upper_rank - lower_rank) / histogram.count
}
