//! What a metric is: its type, its unit and its help text.

use std::fmt;

/// A metric's type, as the exposition formats name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum MetricType {
    /// Nobody said.
    #[default]
    Unknown,
    /// Only rises, or starts again at zero.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A classic or native histogram of counts.
    Histogram,
    /// A histogram whose buckets go up and down.
    GaugeHistogram,
    /// Quantiles computed at the source.
    Summary,
    /// Always 1; its labels are the information.
    Info,
    /// One of a set of states.
    StateSet,
}

impl MetricType {
    /// In order of their numbers, which the log and both remote-write protocols share.
    const NUMBERED: [Self; 8] = [
        Self::Unknown,
        Self::Counter,
        Self::Gauge,
        Self::Histogram,
        Self::GaugeHistogram,
        Self::Summary,
        Self::Info,
        Self::StateSet,
    ];

    /// The type with a number; one from a later program is one that nobody here knows.
    pub(crate) fn of_number(number: u64) -> Self {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        Self::NUMBERED.get(number).copied().unwrap_or_default()
    }

    /// Its number.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The name that Prometheus gives it in JSON and in text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }
}

impl fmt::Display for MetricType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A metric's type, unit and help.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Its type.
    pub metric_type: MetricType,
    /// Its unit, or "".
    pub unit: String,
    /// One line for people, or "".
    pub help: String,
}
