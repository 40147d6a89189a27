//! What a query answers with.

use std::sync::Arc;

use crate::model::{FloatHistogram, Labels};

/// An answer.
#[derive(Debug, Clone)]
pub struct QueryResult {
    /// The value itself.
    pub value: Value,
    /// What may make the value wrong, in Prometheus's words, sorted.
    pub warnings: Vec<String>,
    /// What may be worth knowing, in Prometheus's words, sorted.
    pub infos: Vec<String>,
    /// What it cost.
    pub stats: QueryStats,
}

/// What a query cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Series that were selected; one that two selectors share counts twice.
    pub series: u64,
    /// Samples that were decoded.
    pub samples: u64,
    /// The most samples that were held at a time.
    pub peak_samples: u64,
}

/// A query's value.
#[derive(Debug, Clone)]
pub enum Value {
    /// One number.
    Scalar {
        /// When it holds, milliseconds.
        t: i64,
        /// The number.
        v: f64,
    },
    /// Text.
    String {
        /// When it holds, milliseconds.
        t: i64,
        /// The text.
        v: String,
    },
    /// One sample a series.
    Vector(Vec<InstantSample>),
    /// Many samples a series; the series sorted by their labels.
    Matrix(Vec<RangeSeries>),
}

/// A series and its sample at the time of the query.
#[derive(Debug, Clone)]
pub struct InstantSample {
    /// What the series is called.
    pub labels: Labels,
    /// The query's time, milliseconds.
    pub t: i64,
    /// Its value.
    pub value: SampleValue,
}

/// A float or a histogram.
#[derive(Debug, Clone)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

/// A series and its samples.
#[derive(Debug, Clone)]
pub struct RangeSeries {
    /// What the series is called.
    pub labels: Labels,
    /// Times in milliseconds and floats, ascending.
    pub floats: Vec<(i64, f64)>,
    /// Times in milliseconds and histograms, ascending. No time is in both.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}
