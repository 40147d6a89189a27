//! Remote write and text: no body makes the decoder panic, and what it accepts is what the head may be handed.

use crate::model::{Labels, METRIC_NAME};
use crate::wire::remote_write::{Limits, WireError, WriteRequest, decompress};
use crate::wire::{OpenMetricsLine, parse_openmetrics_line};

const LIMITS: Limits = Limits { decoded_bytes: 1 << 20, arena_bytes: 16 << 20 };

/// What is true of every request that was decoded.
fn check(request: &WriteRequest) {
    for series in request.series() {
        let labels = Labels::parse_packed(series.packed_labels());
        let labels = labels.unwrap_or_else(|| unreachable!("packed labels that are no label set"));
        assert!(labels.get(METRIC_NAME).is_some(), "a series without a name");
        for exemplar in series.exemplars() {
            assert!(Labels::parse_packed(exemplar.packed_labels).is_some(), "an exemplar's labels");
        }
        let _ = series.metadata();
    }
    let refused = request.refused();
    assert!(refused.reasons.len() as u64 <= refused.series, "more reasons than refused series");
}

fn decode(data: &[u8], decode: impl Fn(&mut WriteRequest, &[u8]) -> Result<(), WireError>) {
    let mut message = Vec::new();
    let _ = decompress(data, &mut message, LIMITS.decoded_bytes);
    let mut request = WriteRequest::new();
    // Also an arena that held something else gives the same.
    for message in [&message[..], data, &[]] {
        let outcome = decode(&mut request, message).is_ok();
        check(&request);
        let mut fresh = WriteRequest::new();
        assert_eq!(decode(&mut fresh, message).is_ok(), outcome, "an arena that was used decodes otherwise");
        assert_eq!(fresh.series().len(), request.series().len(), "an arena that was used holds other series");
        assert_eq!(fresh.refused(), request.refused(), "an arena that was used refuses others");
    }
}

/// The input is a body of remote write 1.0, compressed or not.
pub fn remote_write_v1(data: &[u8]) {
    decode(data, |request, message| request.decode_v1(message, LIMITS));
}

/// The input is a body of remote write 2.0, compressed or not.
pub fn remote_write_v2(data: &[u8]) {
    decode(data, |request, message| request.decode_v2(message, LIMITS));
}

/// Reads `data` as lines of OpenMetrics text; what a sample says reads back from its shortest form.
pub fn openmetrics(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        let Ok(OpenMetricsLine::Sample(sample)) = parse_openmetrics_line(line) else { continue };
        assert!(Labels::parse_packed(sample.labels.as_packed()).is_some(), "labels of {line}");
        let pairs = sample.labels.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
        let time = sample.t.map_or(String::new(), |t| {
            let sign = if t < 0 { "-" } else { "" };
            format!(" {sign}{}.{:03}", t.unsigned_abs() / 1000, t.unsigned_abs() % 1000)
        });
        let exemplar = if sample.has_exemplar { " # {} 1" } else { "" };
        let text = format!("{{{}}} {:?}{time}{exemplar}", pairs.collect::<Vec<_>>().join(","), sample.value);
        match parse_openmetrics_line(&text) {
            Ok(OpenMetricsLine::Sample(again)) => {
                assert_eq!(again.value.to_bits(), sample.value.to_bits(), "{line}");
                assert_eq!((again.labels, again.has_exemplar), (sample.labels, sample.has_exemplar), "{line}");
                // Past some 10^15 seconds have no room for milliseconds.
                let exact = sample.t.is_none_or(|t| t.abs() < 1 << 50);
                assert!(!exact || again.t == sample.t, "{line}");
            }
            other => unreachable!("{text} became {other:?}"),
        }
    }
}

fn escaped(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
