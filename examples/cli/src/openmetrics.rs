//! Series as OpenMetrics text, as `promtool tsdb dump-openmetrics` prints them.

use std::fmt::Write;

use narthex::model::{Labels, METRIC_NAME, Sample, Value};
use narthex::promql::format_general;

/// Appends the float samples of a series, a line each.
pub(crate) fn series(out: &mut String, labels: &Labels, samples: &[Sample]) {
    let name = labels.metric_name();
    let rest = labels.without(|label| label == METRIC_NAME);
    for sample in samples {
        let Value::Float(value) = sample.value else { continue };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{name}{rest} {} {:.3}", format_general(value), sample.t as f64 / 1000.0);
    }
}
