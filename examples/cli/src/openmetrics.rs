//! Series as OpenMetrics text, as `promtool tsdb dump-openmetrics` prints them.

use std::fmt::Write;

use narthex::model::{Labels, METRIC_NAME, Sample, Value};

/// Appends the float samples of a series, a line each.
pub(crate) fn series(out: &mut String, labels: &Labels, samples: &[Sample]) {
    let name = labels.metric_name();
    let rest = labels.without(|label| label == METRIC_NAME);
    for sample in samples {
        let Value::Float(value) = sample.value else { continue };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{name}{rest} {} {:.3}", go_float(value), sample.t as f64 / 1000.0);
    }
}

/// A float as Go's `strconv.FormatFloat(value, 'g', -1, 64)`: the shortest digits, with an exponent below 1e-4 and
/// from 1e6 on.
fn go_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) && value != 0.0 {
        return format!("{value}");
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::go_float;

    #[test]
    fn floats_have_go_s_form() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100_000.0, "100000"),
            (123_456_789.0, "1.23456789e+08"),
            (1e6, "1e+06"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(go_float(value), text);
        }
    }
}
