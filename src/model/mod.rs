//! What the data is: label sets, matchers, samples, histograms, exemplars, metadata, and spans of time.
//!
//! Times are milliseconds since the Unix epoch, signed, as everywhere in Prometheus. Label sets and matchers know their
//! text `{a="b"}`. Nothing here knows how any of it is stored.

mod exemplar;
mod histogram;
mod labels;
mod matcher;
mod metadata;
mod regex;
mod sample;
mod shape;
mod time;

pub use exemplar::Exemplar;
pub use histogram::{
    Bucket, BucketIndices, CUSTOM_BUCKETS_SCHEMA, Combined, CounterResetHint, EXPONENTIAL_SCHEMA_MAX,
    EXPONENTIAL_SCHEMA_MIN, FloatHistogram, Histogram, HistogramError, Incompatible, Span, bucket_bound,
};
#[cfg(feature = "promql")]
pub(crate) use histogram::{Compensation, combine, kahan};
pub(crate) use histogram::{Native, bucket_count};
#[cfg(feature = "promql")]
pub(crate) use labels::Quoted;
#[cfg(feature = "wire")]
pub(crate) use labels::put_packed_label;
pub use labels::{LABEL_LONGEST, Labels, LabelsBuilder, LabelsIter, METRIC_NAME, quoted};
pub(crate) use labels::{is_packed, put_text};
pub use matcher::{MatchOp, Matcher, MatcherError, Reach};
pub use metadata::{Metadata, MetricType};
pub use sample::{STALE_NAN_BITS, Sample, Value, is_stale};
pub use time::TimeRange;
pub(crate) use time::civil;
