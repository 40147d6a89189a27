//! A sample: a value of a series at a time.

use super::{CounterResetHint, FloatHistogram, Histogram};

/// The bits of the NaN that says "this series has ended". Any other NaN is a value like another.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Whether `value` is the stale marker. `value.is_nan()` would also hide NaNs that somebody measured.
#[must_use]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// What was measured.
#[derive(Debug, Clone)]
pub enum Value {
    /// A float: a counter's or a gauge's value, or one series of a classic histogram.
    Float(f64),
    /// A native histogram with integer counts.
    Histogram(Box<Histogram>),
    /// A native histogram with float counts.
    FloatHistogram(Box<FloatHistogram>),
}

impl Value {
    /// Makes a histogram say nothing of the sample before it, which is another one now.
    pub(crate) fn forget_reset(&mut self) {
        let hint = match self {
            Self::Float(_) => return,
            Self::Histogram(histogram) => &mut histogram.counter_reset_hint,
            Self::FloatHistogram(histogram) => &mut histogram.counter_reset_hint,
        };
        if *hint != CounterResetHint::Gauge {
            *hint = CounterResetHint::Unknown;
        }
    }
}

/// A value at a time.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown.
    pub st: i64,
    /// What was measured.
    pub value: Value,
}

impl Sample {
    /// A float sample without a start timestamp.
    #[must_use]
    pub fn float(t: i64, value: f64) -> Self {
        Self { t, st: 0, value: Value::Float(value) }
    }

    /// Whether it marks the end of its series: a stale NaN, as value or as a histogram's sum.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match &self.value {
            Value::Float(value) => is_stale(*value),
            Value::Histogram(histogram) => is_stale(histogram.sum),
            Value::FloatHistogram(histogram) => is_stale(histogram.sum),
        }
    }
}
