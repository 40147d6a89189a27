//! `tombstones`: which spans of which series are deleted, though their samples are still in the chunks.
//!
//! ```text
//! magic 0130BA30 | version 1 | ( uvarint series | varint first ms | varint last ms )* | CRC-32C b4
//! ```
//!
//! The sum covers the entries alone, neither magic nor version. Spans are closed; those of one series ascend and neither
//! overlap nor touch.

use std::collections::BTreeMap;
use std::path::Path;

use super::BlockError;
use super::meta::write_file;
use crate::codec::{Reader, crc32c, put_be_u32, put_uvarint, put_varint};
use crate::fs::Fs;
use crate::index::SeriesId;
use crate::model::TimeRange;

/// The file's name in a block's directory.
pub const TOMBSTONES_FILE: &str = "tombstones";
const MAGIC: u32 = 0x0130_BA30;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 5;

/// What is deleted, series by series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tombstones {
    /// The file's references are 64 bits wide; a block's ids fit 32.
    spans: BTreeMap<u64, Vec<TimeRange>>,
}

impl Tombstones {
    /// Whether nothing is deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many spans there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.values().map(Vec::len).sum()
    }

    /// What is deleted of a series.
    #[must_use]
    pub fn get(&self, id: SeriesId) -> &[TimeRange] {
        self.spans.get(&u64::from(id.0)).map_or(&[], Vec::as_slice)
    }

    /// The series of which something is deleted, by ascending ids, and what.
    pub(super) fn series(&self) -> impl Iterator<Item = (SeriesId, &[TimeRange])> {
        // An id that is wider than a block's is no series of it.
        self.spans.iter().filter_map(|(id, spans)| Some((SeriesId(u32::try_from(*id).ok()?), spans.as_slice())))
    }

    /// Deletes a span of a series.
    pub fn add(&mut self, id: SeriesId, span: TimeRange) {
        add_span(self.spans.entry(u64::from(id.0)).or_default(), span);
    }

    /// Deletes what is deleted in `other`, too.
    pub fn add_all(&mut self, other: &Self) {
        for (id, spans) in &other.spans {
            let own = self.spans.entry(*id).or_default();
            spans.iter().for_each(|span| add_span(own, *span));
        }
    }

    /// Reads a file's content; `file` is what errors call it.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, BlockError> {
        let mut header = Reader::new(bytes);
        let magic = header.be_u32().map_err(|error| BlockError::corrupt(file, 0, error))?;
        let version = header.u8().map_err(|error| BlockError::corrupt(file, 4, error))?;
        if magic != MAGIC || version != VERSION {
            return Err(BlockError::corrupt(file, 0, format!("magic {magic:08x}, version {version}")));
        }
        let Some((entries, sum)) = header.rest().split_last_chunk::<4>() else {
            return Err(BlockError::corrupt(file, HEADER_LEN as u64, "no room for the sum"));
        };
        let sum = u32::from_be_bytes(*sum);
        if crc32c(entries) != sum {
            let reason = format!("CRC-32C is {:08x}, stored {sum:08x}", crc32c(entries));
            return Err(BlockError::corrupt(file, HEADER_LEN as u64, reason));
        }
        let mut tombstones = Self::default();
        let mut reader = Reader::new(entries);
        while !reader.is_empty() {
            let at = (HEADER_LEN + reader.offset()) as u64;
            let mut entry = || Ok((reader.uvarint()?, reader.varint()?, reader.varint()?));
            let (series, min, max) =
                entry().map_err(|error: crate::codec::ReadError| BlockError::corrupt(file, at, error))?;
            if min > max {
                return Err(BlockError::corrupt(file, at, format!("a span from {min} to {max}")));
            }
            add_span(tombstones.spans.entry(series).or_default(), TimeRange::new(min, max));
        }
        Ok(tombstones)
    }

    /// Reads those of the block in `dir`; without a file nothing is deleted (Thanos's compactor writes none).
    ///
    /// # Errors
    /// [`BlockError::Corrupt`], [`BlockError::Io`].
    pub fn read(fs: &dyn Fs, dir: &Path) -> Result<Self, BlockError> {
        let file = dir.join(TOMBSTONES_FILE);
        match fs.read(&file) {
            Ok(bytes) => Self::parse(&file, &bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(BlockError::io(&file)(error)),
        }
    }

    /// The file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for (&series, spans) in &self.spans {
            for span in spans {
                put_uvarint(&mut entries, series);
                put_varint(&mut entries, span.min);
                put_varint(&mut entries, span.max);
            }
        }
        let mut bytes = Vec::with_capacity(HEADER_LEN + entries.len() + 4);
        put_be_u32(&mut bytes, MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&entries);
        put_be_u32(&mut bytes, crc32c(&entries));
        bytes
    }

    /// Writes them to the block in `dir`, replacing what is there: a crash leaves the old file or the new one.
    ///
    /// # Errors
    /// [`BlockError::Io`].
    pub fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<(), BlockError> {
        write_file(fs, dir, TOMBSTONES_FILE, &self.to_bytes())
    }
}

/// Adds a span to ascending ones that do not touch; those that the new one overlaps or touches become one with it.
pub fn add_span(spans: &mut Vec<TimeRange>, span: TimeRange) {
    // Milliseconds are discrete: a span that ends right before the next one begins touches it.
    let first = spans.partition_point(|other| other.max < span.min.saturating_sub(1));
    let last = spans.partition_point(|other| other.min <= span.max.saturating_add(1));
    let joined = spans.get(first..last).unwrap_or_default().iter();
    let joined = joined.fold(span, |a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max)));
    spans.splice(first..last.max(first), [joined]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_at_the_ends_of_time_join_without_overflow() {
        let mut spans = Vec::new();
        add_span(&mut spans, TimeRange::new(5, i64::MAX));
        add_span(&mut spans, TimeRange::new(i64::MIN, 3));
        assert_eq!(spans.len(), 2);
        add_span(&mut spans, TimeRange::new(4, 4));
        assert_eq!(spans, [TimeRange::ALL]);
    }

    proptest! {
        #[test]
        fn spans_hold_the_milliseconds_that_were_added(added in prop::collection::vec((0..60i64, 0..8i64), 0..20)) {
            let mut spans = Vec::new();
            let mut model = std::collections::BTreeSet::new();
            for (min, len) in added {
                add_span(&mut spans, TimeRange::new(min, min + len));
                model.extend(min..=min + len);
                prop_assert!(spans.is_sorted_by(|a, b| a.max + 1 < b.min), "{spans:?}");
                let held: Vec<_> = spans.iter().flat_map(|span| span.min..=span.max).collect();
                prop_assert_eq!(held, model.iter().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_file_reads_back(added in prop::collection::vec((any::<u32>(), any::<i64>(), any::<i64>()), 0..20)) {
            let mut tombstones = Tombstones::default();
            for (id, a, b) in added {
                tombstones.add(SeriesId(id), TimeRange::new(a.min(b), a.max(b)));
            }
            let bytes = tombstones.to_bytes();
            prop_assert_eq!(Tombstones::parse(Path::new("t"), &bytes).unwrap(), tombstones);
        }

        #[test]
        fn a_changed_byte_is_an_error(flip in 0..22usize, bit in 0..8u8) {
            let mut tombstones = Tombstones::default();
            tombstones.add(SeriesId(23), TimeRange::new(1_700_007_300_000, 1_700_007_900_000));
            let mut bytes = tombstones.to_bytes();
            bytes[flip] ^= 1 << bit;
            prop_assert!(Tombstones::parse(Path::new("t"), &bytes).is_err());
        }
    }
}
