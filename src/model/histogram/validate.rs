//! What a histogram must be to be stored. The rules are Prometheus's.

use super::buckets::from_deltas;
use super::native::{Native as _, Parts, bucket_count};
use super::{
    CUSTOM_BUCKETS_SCHEMA, EXPONENTIAL_SCHEMA_MAX, EXPONENTIAL_SCHEMA_MIN, FloatHistogram, Histogram, HistogramError,
    Span,
};

fn invalid<T>(what: impl Into<String>) -> Result<T, HistogramError> {
    Err(HistogramError(what.into()))
}

impl Parts<'_> {
    fn check(&self, zero_is_empty: bool) -> Result<(), HistogramError> {
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            return self.check_custom(zero_is_empty);
        }
        if !(EXPONENTIAL_SCHEMA_MIN..=EXPONENTIAL_SCHEMA_MAX).contains(&self.schema) {
            return invalid(format!(
                "schema {} is neither {EXPONENTIAL_SCHEMA_MIN} to {EXPONENTIAL_SCHEMA_MAX} nor {CUSTOM_BUCKETS_SCHEMA}",
                self.schema
            ));
        }
        check_spans("positive", self.positive_spans, self.positive_buckets)?;
        check_spans("negative", self.negative_spans, self.negative_buckets)?;
        if !self.custom_values.is_empty() {
            return invalid("custom bounds with an exponential schema");
        }
        Ok(())
    }

    fn check_custom(&self, zero_is_empty: bool) -> Result<(), HistogramError> {
        if self.custom_values.iter().any(|bound| bound.is_nan()) {
            return invalid("a custom bound is NaN");
        }
        if !self.custom_values.is_sorted_by(|a, b| a < b) {
            return invalid("custom bounds do not rise");
        }
        if self.custom_values.last() == Some(&f64::INFINITY) {
            return invalid("the bound +Inf is implied and must not be listed");
        }
        if self.positive_spans.first().is_some_and(|span| span.offset < 0) {
            return invalid("custom buckets begin at a negative index");
        }
        check_spans("positive", self.positive_spans, self.positive_buckets)?;
        let covered: i64 = self.positive_spans.iter().map(|span| i64::from(span.offset) + i64::from(span.length)).sum();
        if covered > self.custom_values.len() as i64 + 1 {
            return invalid(format!("{} custom bounds do not cover {covered} buckets", self.custom_values.len()));
        }
        if !zero_is_empty || self.zero_threshold != 0.0 {
            return invalid("custom buckets with a zero bucket");
        }
        if !self.negative_spans.is_empty() || self.negative_buckets > 0 {
            return invalid("custom buckets with negative buckets");
        }
        Ok(())
    }
}

/// Whether spans do not overlap and have as many buckets as there are counts.
pub(super) fn check_spans(side: &str, spans: &[Span], counts: usize) -> Result<(), HistogramError> {
    if spans.iter().skip(1).any(|span| span.offset < 0) {
        return invalid(format!("{side} side: a span overlaps the one before"));
    }
    let wanted = bucket_count(spans);
    if wanted != counts as u64 {
        return invalid(format!("{side} side: the spans have {wanted} buckets, but there are {counts}"));
    }
    Ok(())
}

impl Histogram {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// [`HistogramError`]: an unknown schema, spans and buckets that do not agree, a negative bucket, bounds that do not
    /// rise, or a count that is not the sum of the buckets (with a NaN as the sum: less than it, since observed NaNs are
    /// in no bucket).
    pub fn validate(&self) -> Result<(), HistogramError> {
        self.parts().check(self.zero_count == 0)?;
        let mut total = u128::from(self.zero_count);
        for (side, buckets) in [("positive", &self.positive_buckets), ("negative", &self.negative_buckets)] {
            for (index, count) in from_deltas(buckets).enumerate() {
                let Ok(count) = u128::try_from(count) else {
                    return invalid(format!("{side} side: bucket {index} has the count {count}"));
                };
                total += count;
            }
        }
        let count = u128::from(self.count);
        if total > count || (total < count && !self.sum.is_nan()) {
            return invalid(format!("{total} observations in buckets, but the count is {count}"));
        }
        Ok(())
    }
}

impl FloatHistogram {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// [`HistogramError`]: an unknown schema, spans and buckets that do not agree, a negative count, or bounds that do
    /// not rise. The count is not compared with the buckets, as their sum is not exact.
    pub fn validate(&self) -> Result<(), HistogramError> {
        self.parts().check(self.zero_count == 0.0)?;
        if self.count < 0.0 || self.zero_count < 0.0 {
            return invalid(format!("a negative count: {} in all, {} in the zero bucket", self.count, self.zero_count));
        }
        for (side, buckets) in [("positive", &self.positive_buckets), ("negative", &self.negative_buckets)] {
            if let Some(index) = buckets.iter().position(|&count| count < 0.0) {
                return invalid(format!("{side} side: bucket {index} has a negative count"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram {
        Histogram {
            zero_count: 1,
            count: 6,
            sum: 3.0,
            positive_spans: vec![Span { offset: -2, length: 1 }, Span { offset: 0, length: 1 }],
            positive_buckets: vec![2, 1],
            ..Histogram::default()
        }
    }

    #[test]
    fn a_sound_histogram_passes() {
        assert_eq!(histogram().validate(), Ok(()));
        assert_eq!(histogram().to_float().validate(), Ok(()));
    }

    #[test]
    fn the_count_may_exceed_the_buckets_only_after_a_nan() {
        let more = Histogram { count: 7, ..histogram() };
        assert!(more.validate().is_err());
        assert_eq!(Histogram { sum: f64::NAN, ..more }.validate(), Ok(()));
        assert!(Histogram { count: 5, sum: f64::NAN, ..histogram() }.validate().is_err());
    }

    #[test]
    fn spans_must_not_overlap_and_must_agree_with_the_buckets() {
        let mut overlapping = histogram();
        overlapping.positive_spans[1].offset = -1;
        assert!(overlapping.validate().is_err());
        let mut longer = histogram();
        longer.positive_spans[1].length = 2;
        assert!(longer.validate().is_err());
        assert!(longer.to_float().validate().is_err());
    }

    #[test]
    fn custom_bounds_must_rise_be_finite_and_cover_the_buckets() {
        let custom = |bounds: &[f64], length| FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            positive_spans: vec![Span { offset: 0, length }],
            positive_buckets: vec![1.0; length as usize],
            custom_values: bounds.to_vec(),
            ..FloatHistogram::default()
        };
        assert_eq!(custom(&[1.0, 2.0], 3).validate(), Ok(()));
        assert!(custom(&[1.0, 2.0], 4).validate().is_err());
        assert!(custom(&[1.0, 1.0], 1).validate().is_err());
        assert!(custom(&[1.0, f64::INFINITY], 1).validate().is_err());
        assert!(custom(&[f64::NAN], 1).validate().is_err());
        assert!(FloatHistogram { zero_threshold: 1.0, ..custom(&[1.0], 1) }.validate().is_err());
    }

    #[test]
    fn a_schema_must_be_one_that_is_used() {
        for schema in [-5, 9, -54] {
            assert!(Histogram { schema, ..histogram() }.validate().is_err(), "{schema}");
        }
    }
}
