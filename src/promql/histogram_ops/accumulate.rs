//! Sums, means and differences of many histograms.

use std::sync::Arc;

use super::{Remarks, detect_reset, divide, scale};
use crate::model::{Combined, Compensation, CounterResetHint, FloatHistogram, Incompatible, combine};
use crate::promql::annotation::Remark;

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

    fn add_to_sum(&mut self, histogram: &FloatHistogram) -> Result<Combined, Incompatible> {
        let mut extra = self.extra.take().unwrap_or_else(|| Compensation::of(&self.value));
        let outcome = combine(&mut self.value, histogram, false, Some(&mut extra));
        self.extra = Some(extra);
        outcome
    }

    fn add_to_mean(&mut self, histogram: &FloatHistogram) -> Result<Combined, Incompatible> {
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
