//! Remote write: no body makes the decoder panic, and what it accepts is what the head may be handed.

use crate::model::{Labels, METRIC_NAME};
use crate::wire::remote_write::{Limits, WireError, WriteRequest, decompress};

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
