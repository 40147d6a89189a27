//! Prometheus's JSON, to the byte.
//!
//! Values are strings, so that NaN and infinities can stand there and no reader rounds them; times are bare seconds with
//! at most three decimals. Texts in labels are escaped as JSON asks; all other texts also have `<`, `>` and `&` escaped,
//! because that is what the original's library does to everything it is not told about.

use std::io::Write;

use narthex::model::{FloatHistogram, Labels};
use narthex::promql::{InstantSample, RangeSeries, SampleValue, Value};

/// Appends `value` as the decimal digits that the shortest text has which reads back as the same float. Exponents as in
/// Go's `strconv`: at least two digits, with a sign, and only outside 1e-6 … 1e21.
pub fn put_float(out: &mut Vec<u8>, value: f64) {
    let size = value.abs();
    if size != 0.0 && size.is_finite() && !(1e-6..1e21).contains(&size) {
        let start = out.len();
        put_display(out, format_args!("{value:e}"));
        let exponent = start + out.iter().skip(start).position(|&byte| byte == b'e').unwrap_or(0) + 1;
        let sign = if out.get(exponent) == Some(&b'-') { out.remove(exponent) } else { b'+' };
        if out.len() - exponent < 2 {
            out.insert(exponent, b'0');
        }
        out.insert(exponent, sign);
        return;
    }
    put_plain_float(out, value);
}

/// Appends `value` without an exponent, however long: Go's format `f`.
pub fn put_plain_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value.fract() == 0.0 && value.abs() < 9e15 && !(value == 0.0 && value.is_sign_negative()) {
        // Counts are most of what is ever answered, and integers print several times faster.
        put_display(out, format_args!("{}", value as i64));
    } else {
        put_display(out, format_args!("{value}"));
    }
}

fn put_display(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

/// Appends `value` in quotes.
pub fn put_quoted_float(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    put_float(out, value);
    out.push(b'"');
}

/// Appends milliseconds as seconds, with three decimals or none.
pub fn put_timestamp(out: &mut Vec<u8>, t: i64) {
    if t < 0 {
        out.push(b'-');
    }
    let t = t.unsigned_abs();
    put_display(out, format_args!("{}", t / 1000));
    if !t.is_multiple_of(1000) {
        put_display(out, format_args!(".{:03}", t % 1000));
    }
}

/// Appends milliseconds as the shortest decimal fraction of seconds: how scalars and strings give their time.
pub fn put_short_timestamp(out: &mut Vec<u8>, t: i64) {
    put_float(out, t as f64 / 1000.0);
}

/// Appends a text as a label's name or value is escaped.
pub fn put_label_text(out: &mut Vec<u8>, text: &str) {
    put_escaped(out, text, |byte| byte < 0x20 || byte == b'"' || byte == b'\\', false);
}

/// Appends a text as everything but labels is escaped.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_escaped(out, text, |byte| byte < 0x20 || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&'), true);
}

fn put_escaped(out: &mut Vec<u8>, text: &str, escaped: impl Fn(u8) -> bool, separators: bool) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        // U+2028 and U+2029, which are line ends in JavaScript: e2 80 a8 and e2 80 a9.
        let separator = separators && byte == 0xe2 && matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9]));
        if !escaped(byte) && !separator {
            continue;
        }
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        plain = at + if separator { 3 } else { 1 };
        match byte {
            _ if separator => {
                out.extend_from_slice(if bytes.get(at + 2) == Some(&0xa8) { b"\\u2028" } else { b"\\u2029" });
            }
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => put_display(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// Appends a list: `put` writes each item.
pub fn put_list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut put: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put(out, item);
    }
    out.push(b']');
}

/// Appends a label set as an object.
pub fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_label_text(out, name);
        out.push(b':');
        put_label_text(out, value);
    }
    out.push(b'}');
}

/// Appends a native histogram: count, sum and the buckets that are not empty.
///
/// A bucket is `[which ends belong to it, lower, upper, count]`; the first number is 0 for (lower, upper], 1 for
/// [lower, upper), 2 for neither end and 3 for both.
pub fn put_histogram(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    out.extend_from_slice(b"{\"count\":");
    put_quoted_float(out, histogram.count);
    out.extend_from_slice(b",\"sum\":");
    put_quoted_float(out, histogram.sum);
    let mut buckets = histogram.all_buckets().filter(|bucket| bucket.count != 0.0).peekable();
    if buckets.peek().is_some() {
        out.extend_from_slice(b",\"buckets\":");
        put_list(out, buckets, |out, bucket| {
            let ends = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                (false, true) => b'0',
                (true, false) => b'1',
                (false, false) => b'2',
                (true, true) => b'3',
            };
            out.extend_from_slice(&[b'[', ends]);
            for number in [bucket.lower, bucket.upper, bucket.count] {
                out.push(b',');
                put_quoted_float(out, number);
            }
            out.push(b']');
        });
    }
    out.push(b'}');
}

fn put_float_point(out: &mut Vec<u8>, t: i64, value: f64) {
    out.push(b'[');
    put_timestamp(out, t);
    out.push(b',');
    put_quoted_float(out, value);
    out.push(b']');
}

fn put_histogram_point(out: &mut Vec<u8>, t: i64, value: &FloatHistogram) {
    out.push(b'[');
    put_timestamp(out, t);
    out.push(b',');
    put_histogram(out, value);
    out.push(b']');
}

fn put_instant(out: &mut Vec<u8>, sample: &InstantSample) {
    out.extend_from_slice(b"{\"metric\":");
    put_labels(out, &sample.labels);
    match &sample.value {
        SampleValue::Float(value) => {
            out.extend_from_slice(b",\"value\":");
            put_float_point(out, sample.t, *value);
        }
        SampleValue::Histogram(value) => {
            out.extend_from_slice(b",\"histogram\":");
            put_histogram_point(out, sample.t, value);
        }
    }
    out.push(b'}');
}

fn put_series(out: &mut Vec<u8>, series: &RangeSeries) {
    out.extend_from_slice(b"{\"metric\":");
    put_labels(out, &series.labels);
    if !series.floats.is_empty() {
        out.extend_from_slice(b",\"values\":");
        put_list(out, &series.floats, |out, (t, value)| put_float_point(out, *t, *value));
    }
    if !series.histograms.is_empty() {
        out.extend_from_slice(b",\"histograms\":");
        put_list(out, &series.histograms, |out, (t, value)| put_histogram_point(out, *t, value));
    }
    out.push(b'}');
}

/// Appends `"resultType":…,"result":…`, the inside of an answer's data.
pub fn put_value(out: &mut Vec<u8>, value: &Value) {
    let kind = match value {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        Value::Matrix(_) => "matrix",
    };
    put_display(out, format_args!("\"resultType\":\"{kind}\",\"result\":"));
    match value {
        Value::Scalar { t, v } => {
            out.push(b'[');
            put_short_timestamp(out, *t);
            out.extend_from_slice(b",\"");
            put_plain_float(out, *v);
            out.extend_from_slice(b"\"]");
        }
        Value::String { t, v } => {
            out.push(b'[');
            put_short_timestamp(out, *t);
            out.push(b',');
            put_text(out, v);
            out.push(b']');
        }
        Value::Vector(samples) => put_list(out, samples, put_instant),
        Value::Matrix(series) => put_list(out, series, put_series),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        put_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn timestamp(t: i64) -> String {
        let mut out = Vec::new();
        put_timestamp(&mut out, t);
        String::from_utf8(out).unwrap()
    }

    fn text(value: &str) -> String {
        let mut out = Vec::new();
        put_text(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-42.0, "-42"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-07"),
            (5e-324, "5e-324"),
            (1.5e-10, "1.5e-10"),
            (999_999_999_999_999_900_000.0, "999999999999999900000"),
            (1e21, "1e+21"),
            (-1.25e100, "-1.25e+100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn times_have_three_decimals_or_none() {
        assert_eq!(timestamp(1_435_781_451_781), "1435781451.781");
        assert_eq!(timestamp(1_435_781_451_000), "1435781451");
        assert_eq!(timestamp(5), "0.005");
        assert_eq!(timestamp(-1_050), "-1.050");
        assert_eq!(timestamp(i64::MIN), "-9223372036854775.808");
    }

    #[test]
    fn texts_beside_labels_are_escaped_for_html_too() {
        assert_eq!(text("a<b>&\"\\\n\u{1}é\u{2028}"), r#""a\u003cb\u003e\u0026\"\\\n\u0001é\u2028""#);
        let mut out = Vec::new();
        put_label_text(&mut out, "a<b>&\"\\\n\u{2028}");
        assert_eq!(String::from_utf8(out).unwrap(), "\"a<b>&\\\"\\\\\\n\u{2028}\"");
    }
}
