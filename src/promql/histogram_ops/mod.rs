//! Arithmetic of native histograms, as PromQL's operators and functions need it.
//!
//! Two histograms with different buckets are brought together first: to the coarser schema, to a zero bucket that holds
//! both, to the custom bounds that both have. Long sums carry a compensation for every number in them.

mod accumulate;
mod trim;

use std::fmt::Write;
use std::sync::Arc;

use super::annotation::Remark;
use super::ast::Span as Place;
use super::exec::{Column, Context};
use super::functions::FunctionId;
use super::printer::format_general;
use crate::model::{Combined, CounterResetHint, FloatHistogram, Incompatible, combine, kahan};

pub(crate) use accumulate::{Accumulator, instant_difference, rate, sum_over_time};
pub(crate) use trim::{fraction_below, trimmed};

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

fn told(outcome: Result<Combined, Incompatible>, operation: &'static str, remarks: &Remarks<'_, '_>) -> Option<()> {
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

/// Whether the counter started again between `before` and `now`.
pub(crate) fn detect_reset(now: &FloatHistogram, before: &FloatHistogram) -> bool {
    now.is_reset_after(before)
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
