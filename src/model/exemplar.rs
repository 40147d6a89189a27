//! An exemplar: one event behind a sample, usually a trace.

use super::Labels;

/// A value with labels of its own (`trace_id`, say), attached to a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The exemplar's own labels; not the series'.
    pub labels: Labels,
    /// What was measured.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub t: i64,
}
