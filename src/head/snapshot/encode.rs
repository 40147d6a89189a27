//! A snapshot's records as bytes.

use super::{Kind, TOMBSTONES_VERSION};
use crate::chunk::EncodedChunk;
use crate::codec::{put_be_f64, put_be_u64, put_bytes, put_uvarint, put_varint};
use crate::model::{Exemplar, LabelsIter, TimeRange, Value};
use crate::wal::record;

/// Appends a series record: with the open chunk, from when to when it is, and its last value.
pub(crate) fn put_series(
    reference: u64,
    labels: LabelsIter<'_>,
    open: Option<(TimeRange, &EncodedChunk, &Value)>,
    out: &mut Vec<u8>,
) {
    out.push(Kind::Series as u8);
    record::put_series(reference, labels, out);
    // Was the range of chunks; readers pass over it.
    put_be_u64(out, 0);
    let Some((range, chunk, last)) = open else {
        put_uvarint(out, 0);
        return;
    };
    put_uvarint(out, 1);
    put_be_u64(out, range.min.cast_unsigned());
    put_be_u64(out, range.max.cast_unsigned());
    out.push(chunk.encoding.byte());
    put_bytes(out, &chunk.data);
    match last {
        Value::Float(last) => {
            // Were the last four samples: of the fourth the value is left.
            out.resize(out.len() + 7 * 8, 0);
            put_be_f64(out, *last);
        }
        Value::Histogram(last) => record::put_histogram(last, out),
        Value::FloatHistogram(last) => record::put_float_histogram(last, out),
    }
}

/// Appends the tombstones record.
pub(crate) fn put_tombstones(deleted: impl IntoIterator<Item = (u64, TimeRange)>, out: &mut Vec<u8>) {
    let mut body = vec![TOMBSTONES_VERSION];
    for (reference, range) in deleted {
        put_uvarint(&mut body, reference);
        put_varint(&mut body, range.min);
        put_varint(&mut body, range.max);
    }
    out.push(Kind::Tombstones as u8);
    put_bytes(out, &body);
}

/// Appends an exemplars record.
pub(crate) fn put_exemplars<'a>(exemplars: impl IntoIterator<Item = (u64, &'a Exemplar)>, out: &mut Vec<u8>) {
    let start = out.len();
    record::encode_exemplars(exemplars, out);
    if let Some(kind) = out.get_mut(start) {
        *kind = Kind::Exemplars as u8;
    }
}
