//! What both kinds of histograms can do, so that what treats them alike is written once.

use std::fmt::Debug;

use super::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint, EXPONENTIAL_SCHEMA_MAX};
use super::{FloatHistogram, Histogram, HistogramError, Span};
use crate::model::is_stale;

/// A native histogram, whatever its counts are.
pub trait Native: Clone + Debug {
    fn parts(&self) -> Parts<'_>;
    /// A stale marker; `sum` is the stale NaN.
    fn stale(sum: f64) -> Self;
    fn reduce(&mut self, schema: i32) -> Result<(), HistogramError>;
    fn check(&self) -> Result<(), HistogramError>;
    /// Without empty buckets.
    fn compacted(self) -> Self;
    fn same(&self, other: &Self) -> bool;

    /// Brings a histogram of too fine a resolution to one that can be stored, and says whether it can be.
    fn prepare(&mut self) -> Result<(), HistogramError> {
        let Parts { schema, sum, .. } = self.parts();
        if schema > EXPONENTIAL_SCHEMA_MAX && schema != CUSTOM_BUCKETS_SCHEMA {
            self.reduce(EXPONENTIAL_SCHEMA_MAX)?;
        }
        if is_stale(sum) { Ok(()) } else { self.check() }
    }
}

/// A histogram without its counts.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub(crate) counter_reset_hint: CounterResetHint,
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) sum: f64,
    pub(crate) positive_spans: &'a [Span],
    pub(crate) negative_spans: &'a [Span],
    /// How many counts there are.
    pub(crate) positive_buckets: usize,
    pub(crate) negative_buckets: usize,
    pub(crate) custom_values: &'a [f64],
}

impl Parts<'_> {
    /// Whether there are as many counts as the spans have buckets. A stale marker has none that mean anything.
    pub(crate) fn is_consistent(&self) -> bool {
        is_stale(self.sum)
            || bucket_count(self.positive_spans) == self.positive_buckets as u64
                && bucket_count(self.negative_spans) == self.negative_buckets as u64
    }
}

/// How many buckets the spans have.
pub(crate) fn bucket_count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.length)).sum()
}

macro_rules! native {
    ($histogram:ty) => {
        impl Native for $histogram {
            fn parts(&self) -> Parts<'_> {
                Parts {
                    counter_reset_hint: self.counter_reset_hint,
                    schema: self.schema,
                    zero_threshold: self.zero_threshold,
                    sum: self.sum,
                    positive_spans: &self.positive_spans,
                    negative_spans: &self.negative_spans,
                    positive_buckets: self.positive_buckets.len(),
                    negative_buckets: self.negative_buckets.len(),
                    custom_values: &self.custom_values,
                }
            }

            fn stale(sum: f64) -> Self {
                Self { sum, ..Self::default() }
            }

            fn reduce(&mut self, schema: i32) -> Result<(), HistogramError> {
                self.reduce_resolution(schema)
            }

            fn check(&self) -> Result<(), HistogramError> {
                self.validate()
            }

            fn compacted(mut self) -> Self {
                self.compact(0);
                self
            }

            fn same(&self, other: &Self) -> bool {
                self.equals(other)
            }
        }
    };
}

native!(Histogram);
native!(FloatHistogram);
