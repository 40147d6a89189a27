//! What the log says and a snapshot's records have no place for: the file `narthex` in its directory.
//!
//! ```text
//! magic "NTHX"  version 4  body  CRC-32C of version and body
//! body   be64 last number given to a series
//!        uvarint n: records of the snapshot                                not before version 4
//!        uvarint n, (uvarint number, uvarint end, be32 last sum, varint t)*n
//!                                                                         the files of `chunks_head`
//!        varint t: all before was deleted, or is in blocks                not in version 1
//!        uvarint n, (uvarint number, uvarint segment, varint t, uvarint other)*n
//!                                                                         numbers that no series has any more
//!        uvarint n, (len name, type byte, len unit, len help)*n           metadata by metric
//! ```
//!
//! Without it the part of the log that the snapshot stands for must be read for this alone, as with a snapshot that the
//! original wrote: a number must not be given twice, and a checkpoint must keep the series records of numbers whose
//! samples still stand there. In versions 1 and 2 stands, in the place of the files, one be64: the number of the last one in
//! the upper half and its end in the lower.

use super::SnapshotError;
use crate::codec::{Reader, crc32c, put_be_u32, put_be_u64, put_bytes, put_uvarint, put_varint};
use crate::head::mapped::FileThen;
use crate::model::{Metadata, MetricType};

/// The file's name: no number, so that no reader of logs takes it for a segment.
pub(super) const FILE: &str = "narthex";
const MAGIC: &[u8] = b"NTHX";
const VERSION: u8 = 4;
/// Of those that do not say how many records there are.
const VERSION_3: u8 = 3;
/// Of those that, besides, say of the files in `chunks_head` where the last one ended, alone.
const VERSION_2: u8 = 2;
/// Of those that do not say what was deleted, either.
const VERSION_1: u8 = 1;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The last number given to a series.
    pub(crate) last_reference: u64,
    /// How many records the snapshot has; `None`: not known. Between segments of which one was cut nothing else tells.
    pub(crate) records: Option<u64>,
    /// How far the files in `chunks_head` had got: what they had must be there.
    pub(crate) files: Vec<FileThen>,
    /// Nothing is left of what was before, but for what blocks have; `i64::MIN`: blocks say up to where they have all.
    pub(crate) emptied: i64,
    /// Numbers that no series has any more.
    pub(crate) gone: Vec<GoneNumber>,
    /// What is known of the metrics, by name.
    pub(crate) metadata: Vec<(String, Metadata)>,
}

/// A number in the log that no series has any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoneNumber {
    /// The number.
    pub(crate) reference: u64,
    /// The last segment in which records of it may stand.
    pub(crate) segment: u64,
    /// The time of its newest sample, or later.
    pub(crate) newest: i64,
    /// The number that the series has now; 0 if it is gone itself.
    pub(crate) other: u64,
}

impl Extra {
    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        put_be_u64(&mut bytes, self.last_reference);
        put_uvarint(&mut bytes, self.records.unwrap_or(0));
        put_uvarint(&mut bytes, self.files.len() as u64);
        for file in &self.files {
            put_uvarint(&mut bytes, u64::from(file.number));
            put_uvarint(&mut bytes, file.end);
            put_be_u32(&mut bytes, file.sum.unwrap_or(0));
            put_varint(&mut bytes, file.newest);
        }
        put_varint(&mut bytes, self.emptied);
        put_uvarint(&mut bytes, self.gone.len() as u64);
        for gone in &self.gone {
            put_uvarint(&mut bytes, gone.reference);
            put_uvarint(&mut bytes, gone.segment);
            put_varint(&mut bytes, gone.newest);
            put_uvarint(&mut bytes, gone.other);
        }
        put_uvarint(&mut bytes, self.metadata.len() as u64);
        for (name, metadata) in &self.metadata {
            put_bytes(&mut bytes, name.as_bytes());
            bytes.push(metadata.metric_type.number());
            put_bytes(&mut bytes, metadata.unit.as_bytes());
            put_bytes(&mut bytes, metadata.help.as_bytes());
        }
        let sum = crc32c(bytes.get(MAGIC.len()..).unwrap_or_default());
        put_be_u32(&mut bytes, sum);
        bytes
    }

    /// What stands in the file with these bytes.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let summed = bytes.strip_prefix(MAGIC).ok_or_else(|| invalid(0, "not the file that it should be"))?;
        let (summed, sum) = summed.split_last_chunk::<4>().ok_or_else(|| invalid(MAGIC.len(), "no sum"))?;
        if crc32c(summed) != u32::from_be_bytes(*sum) {
            return Err(invalid(bytes.len() - sum.len(), "wrong sum"));
        }
        match summed.split_first() {
            Some((&version @ (VERSION_1 | VERSION_2 | VERSION_3 | VERSION), body)) => Self::parse_body(version, body),
            _ => Err(invalid(MAGIC.len(), "unknown version")),
        }
    }

    /// What stands between the version and the sum.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn parse_body(version: u8, body: &[u8]) -> Result<Self, SnapshotError> {
        let read = |source| SnapshotError::Read { record: FILE, source };
        let mut reader = Reader::new(body);
        let mut extra = Self {
            last_reference: reader.be_u64().map_err(read)?,
            records: (version == VERSION).then(|| reader.uvarint()).transpose().map_err(read)?,
            files: parse_files(version, &mut reader)?,
            emptied: if version == VERSION_1 { i64::MIN } else { reader.varint().map_err(read)? },
            gone: Vec::new(),
            metadata: Vec::new(),
        };
        // An entry takes some bytes, so a wild count ends at the file's end.
        for _ in 0..reader.uvarint().map_err(read)? {
            extra.gone.push(GoneNumber {
                reference: reader.uvarint().map_err(read)?,
                segment: reader.uvarint().map_err(read)?,
                newest: reader.varint().map_err(read)?,
                other: reader.uvarint().map_err(read)?,
            });
        }
        for _ in 0..reader.uvarint().map_err(read)? {
            let text = |reader: &mut Reader<'_>, what| {
                let bytes = reader.uvarint_bytes(what).map_err(read)?;
                let text =
                    std::str::from_utf8(bytes).map_err(|_| invalid(reader.offset(), "text that is not UTF-8"))?;
                Ok::<_, SnapshotError>(text.to_owned())
            };
            let name = text(&mut reader, "metric")?;
            let metric_type = MetricType::of_number(reader.u8().map_err(read)?.into());
            let (unit, help) = (text(&mut reader, "unit")?, text(&mut reader, "help")?);
            extra.metadata.push((name, Metadata { metric_type, unit, help }));
        }
        if reader.is_empty() { Ok(extra) } else { Err(invalid(reader.offset(), "bytes too many")) }
    }
}

fn parse_files(version: u8, reader: &mut Reader<'_>) -> Result<Vec<FileThen>, SnapshotError> {
    let read = |source| SnapshotError::Read { record: FILE, source };
    if matches!(version, VERSION_1 | VERSION_2) {
        let place = reader.be_u64().map_err(read)?;
        let last = FileThen { number: (place >> 32) as u32, end: place & 0xffff_ffff, sum: None, newest: i64::MAX };
        return Ok(if place == 0 { Vec::new() } else { vec![last] });
    }
    let mut files = Vec::new();
    for _ in 0..reader.uvarint().map_err(read)? {
        let number = reader.uvarint().map_err(read)?;
        files.push(FileThen {
            number: number.try_into().map_err(|_| invalid(reader.offset(), "a file's number that is too large"))?,
            end: reader.uvarint().map_err(read)?,
            sum: Some(reader.be_u32().map_err(read)?),
            newest: reader.varint().map_err(read)?,
        });
    }
    Ok(files)
}

fn invalid(offset: usize, what: &str) -> SnapshotError {
    SnapshotError::Invalid { record: FILE, offset, what: what.to_owned() }
}
