//! A snapshot's records from bytes.

use bytes::Bytes;

use super::{Kind, SnapshotError, TOMBSTONES_VERSION};
use crate::chunk::{EncodedChunk, Encoding, sample_count};
use crate::codec::{ReadError, Reader};
use crate::model::{LabelsBuilder, TimeRange, Value};
use crate::wal::record::{self, RecordType, RefExemplar, RefTombstone};

/// A record. A series' labels are where the decoder was told to put them.
#[derive(Debug, Clone)]
pub(crate) enum Record {
    /// A series by its number in the log, with its open chunk.
    Series {
        /// Its number in the log.
        reference: u64,
        /// What it has that is not in `chunks_head`.
        open: Option<OpenChunk>,
    },
    /// What is deleted.
    Tombstones(Vec<RefTombstone>),
    /// The newest exemplars, oldest first.
    Exemplars(Vec<RefExemplar>),
}

/// A chunk that was still growing.
#[derive(Debug, Clone)]
pub(crate) struct OpenChunk {
    /// From its first to its last sample.
    pub(crate) range: TimeRange,
    /// The samples.
    pub(crate) chunk: EncodedChunk,
    /// The last sample's value. The chunk has it too: nothing here relies on it.
    #[cfg_attr(not(any(test, feature = "testkit")), expect(dead_code, reason = "it is written again in tests alone"))]
    pub(crate) last: Value,
}

/// Decodes a record; a series' labels go to `labels`.
///
/// # Errors
/// [`SnapshotError`], if it is not a record of a snapshot. Whether the bytes of a chunk are a chunk's is not looked at.
pub(crate) fn decode(bytes: &[u8], labels: &mut LabelsBuilder) -> Result<Record, SnapshotError> {
    match bytes.first() {
        Some(1) => series(bytes, labels),
        Some(2) => tombstones(bytes).map(Record::Tombstones),
        Some(3) => {
            let mut record = bytes.to_vec();
            if let Some(kind) = record.first_mut() {
                *kind = RecordType::Exemplars.byte();
            }
            let mut exemplars = Vec::new();
            record::decode_exemplars(&record, &mut exemplars)?;
            Ok(Record::Exemplars(exemplars))
        }
        other => Err(SnapshotError::Type(other.copied())),
    }
}

fn series(bytes: &[u8], labels: &mut LabelsBuilder) -> Result<Record, SnapshotError> {
    let read = |source: ReadError| SnapshotError::Read { record: "series", source };
    let invalid =
        |reader: &Reader<'_>, what: String| SnapshotError::Invalid { record: "series", offset: reader.offset(), what };
    let mut reader = Reader::new(bytes);
    reader.bytes("type", size_of::<Kind>()).map_err(read)?;
    let reference = record::read_series(&mut reader, labels)?;
    reader.be_u64().map_err(read)?;
    if reader.uvarint().map_err(read)? == 0 {
        end(&reader, "series")?;
        return Ok(Record::Series { reference, open: None });
    }
    let min = reader.be_u64().map_err(read)?.cast_signed();
    let max = reader.be_u64().map_err(read)?.cast_signed();
    if min > max {
        return Err(invalid(&reader, format!("a chunk from {min} to {max}")));
    }
    let encoding = Encoding::from_byte(reader.u8().map_err(read)?);
    let encoding = encoding.map_err(|error| invalid(&reader, error.to_string()))?;
    let data = Bytes::copy_from_slice(reader.uvarint_bytes("chunk").map_err(read)?);
    let count = sample_count(encoding, &data).map_err(|error| invalid(&reader, error.to_string()))?;
    if count == 0 {
        return Err(invalid(&reader, "an open chunk without samples".to_owned()));
    }
    let last = match encoding {
        Encoding::Xor | Encoding::Xor2 => {
            reader.bytes("samples of old", 7 * 8).map_err(read)?;
            Value::Float(reader.be_f64().map_err(read)?)
        }
        Encoding::Histogram | Encoding::HistogramSt => {
            Value::Histogram(Box::new(record::read_one_histogram(&mut reader)?))
        }
        Encoding::FloatHistogram | Encoding::FloatHistogramSt => {
            Value::FloatHistogram(Box::new(record::read_one_float_histogram(&mut reader)?))
        }
    };
    end(&reader, "series")?;
    let open = OpenChunk { range: TimeRange::new(min, max), chunk: EncodedChunk { encoding, data }, last };
    Ok(Record::Series { reference, open: Some(open) })
}

fn tombstones(bytes: &[u8]) -> Result<Vec<RefTombstone>, SnapshotError> {
    let read = |source: ReadError| SnapshotError::Read { record: "tombstones", source };
    let mut reader = Reader::new(bytes);
    reader.bytes("type", size_of::<Kind>()).map_err(read)?;
    let body = reader.uvarint_bytes("tombstones").map_err(read)?;
    end(&reader, "tombstones")?;
    let mut reader = Reader::new(body);
    let invalid = |what: String, offset| SnapshotError::Invalid { record: "tombstones", offset, what };
    match reader.u8().map_err(read)? {
        TOMBSTONES_VERSION => {}
        other => return Err(invalid(format!("version {other}"), reader.offset())),
    }
    let mut all = Vec::new();
    while !reader.is_empty() {
        let reference = reader.uvarint().map_err(read)?;
        let min = reader.varint().map_err(read)?;
        let max = reader.varint().map_err(read)?;
        if min > max {
            return Err(invalid(format!("a deletion from {min} to {max}"), reader.offset()));
        }
        all.push(RefTombstone { reference, range: TimeRange::new(min, max) });
    }
    Ok(all)
}

fn end(reader: &Reader<'_>, record: &'static str) -> Result<(), SnapshotError> {
    if reader.is_empty() {
        return Ok(());
    }
    let what = format!("{} bytes too many", reader.rest().len());
    Err(SnapshotError::Invalid { record, offset: reader.offset(), what })
}
