//! Native histograms: counts in exponential or custom buckets, with integers or floats.
//!
//! ```text
//! schema n, -4 to 8   bucket i holds (base^(i-1), base^i], base = 2^(2^-n)
//! schema -53          custom_values are the upper bounds, ascending, +Inf left out
//! spans               runs of buckets that are stored; offset: the gap before (the first: the index itself)
//! Histogram buckets   deltas: each count minus the one before it; FloatHistogram buckets: the counts themselves
//! ```

mod bounds;
mod buckets;
mod combine;
mod native;
mod reset;
mod reshape;
mod validate;

pub use bounds::bucket_bound;
pub use buckets::{Bucket, BucketIndices};
pub use combine::{Combined, Incompatible};
#[cfg(feature = "promql")]
pub(crate) use combine::{Compensation, combine, kahan};
pub(crate) use native::{Native, bucket_count};

/// The schema that says "the bounds are listed", Prometheus's "native histogram with custom buckets".
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;
/// The coarsest exponential schema.
pub const EXPONENTIAL_SCHEMA_MIN: i32 = -4;
/// The finest exponential schema.
pub const EXPONENTIAL_SCHEMA_MAX: i32 = 8;

/// What the writer knows about the sample before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CounterResetHint {
    /// Nothing: compare with the sample before.
    #[default]
    Unknown,
    /// The counter started again.
    CounterReset,
    /// It did not.
    NotCounterReset,
    /// It is no counter.
    Gauge,
}

/// A run of stored buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first span: the index of its first bucket. The others: how many buckets are left out before it.
    pub offset: i32,
    /// How many buckets are stored.
    pub length: u32,
}

/// A native histogram with integer counts.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Counter reset hint.
    pub counter_reset_hint: CounterResetHint,
    /// The resolution; see the file's header.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// All observations.
    pub count: u64,
    /// Their sum. The stale NaN here marks the whole histogram as stale.
    pub sum: f64,
    /// Which positive buckets are stored.
    pub positive_spans: Vec<Span>,
    /// Which negative buckets are stored.
    pub negative_spans: Vec<Span>,
    /// Positive counts as deltas.
    pub positive_buckets: Vec<i64>,
    /// Negative counts as deltas.
    pub negative_buckets: Vec<i64>,
    /// Upper bounds, for [`CUSTOM_BUCKETS_SCHEMA`] alone.
    pub custom_values: Vec<f64>,
}

/// A native histogram with float counts.
#[derive(Debug, Clone, Default)]
pub struct FloatHistogram {
    /// Counter reset hint.
    pub counter_reset_hint: CounterResetHint,
    /// The resolution; see the file's header.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Their sum. The stale NaN here marks the whole histogram as stale.
    pub sum: f64,
    /// Which positive buckets are stored.
    pub positive_spans: Vec<Span>,
    /// Which negative buckets are stored.
    pub negative_spans: Vec<Span>,
    /// Positive counts.
    pub positive_buckets: Vec<f64>,
    /// Negative counts.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds, for [`CUSTOM_BUCKETS_SCHEMA`] alone.
    pub custom_values: Vec<f64>,
}

/// Why a histogram is not a valid one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid histogram: {0}")]
pub struct HistogramError(pub(crate) String);
