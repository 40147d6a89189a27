//! The header and the table of contents: where each section of an index begins.

use std::sync::Arc;

use super::IndexError;
use super::error::Place;
use crate::codec::{Reader, crc32c, put_be_u32, put_be_u64};

pub(super) const MAGIC: u32 = 0xBAAA_D700;
/// Magic and version byte.
pub(super) const HEADER_LEN: usize = 5;
/// Six offsets and their sum.
pub(super) const TOC_LEN: usize = 6 * 8 + 4;

/// The format of an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Up to Prometheus 2.1: symbols are named by their offset, series too, and nothing is sorted.
    V1,
    /// What everything writes.
    V2,
    /// Reads as 2; reserved by Prometheus for another encoding of postings, and never written.
    V3,
}

impl Version {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }

    /// The byte that an index has for it.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Offsets of the sections, in bytes from the file's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Toc {
    /// The symbol table.
    pub symbols: u64,
    /// The series records.
    pub series: u64,
    /// Where the series end. Label indices stood here once; nobody writes them any more.
    pub label_indices: u64,
    /// The table of label indices; equals `postings_table` today.
    pub label_indices_table: u64,
    /// The postings lists, before their alignment.
    pub postings: u64,
    /// The postings offset table.
    pub postings_table: u64,
}

impl Toc {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let start = out.len();
        for offset in [
            self.symbols,
            self.series,
            self.label_indices,
            self.label_indices_table,
            self.postings,
            self.postings_table,
        ] {
            put_be_u64(out, offset);
        }
        let sum = crc32c(out.get(start..).unwrap_or_default());
        put_be_u32(out, sum);
    }
}

/// Reads the header that an index begins with.
pub(super) fn read_version(file: &Arc<str>, bytes: &[u8]) -> Result<Version, IndexError> {
    let place = Place { file, what: "header", offset: 0 };
    let mut header = Reader::new(bytes);
    let magic = header.be_u32().map_err(place.read())?;
    if magic != MAGIC {
        return Err(place.corrupt(format!("magic number {magic:08x}, not {MAGIC:08x}")));
    }
    let version = header.u8().map_err(place.read())?;
    Version::from_byte(version).ok_or_else(|| IndexError::UnknownVersion { file: Arc::clone(file), version })
}

/// Reads the table of contents that an index of `size` bytes ends with. `tail` are its last bytes.
pub(super) fn read_toc(file: &Arc<str>, tail: &[u8], size: u64) -> Result<Toc, IndexError> {
    let start = size.saturating_sub(TOC_LEN as u64).max(HEADER_LEN as u64);
    let place = Place { file, what: "table of contents", offset: start };
    let len = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX);
    let toc = tail.len().checked_sub(len).and_then(|start| tail.get(start..)).unwrap_or_default();
    let mut toc = Reader::new(toc);
    let offsets = toc.bytes("offsets", TOC_LEN - 4).map_err(place.read())?;
    let sum = toc.be_u32().map_err(place.read())?;
    if crc32c(offsets) != sum {
        return Err(place.corrupt(format!("CRC-32C is {:08x}, stored {sum:08x}", crc32c(offsets))));
    }
    let mut reader = Reader::new(offsets);
    let mut next = || reader.be_u64().map_err(place.read());
    let toc = Toc {
        symbols: next()?,
        series: next()?,
        label_indices: next()?,
        label_indices_table: next()?,
        postings: next()?,
        postings_table: next()?,
    };
    let ascending = toc.symbols <= toc.series
        && toc.series <= toc.label_indices
        && toc.label_indices <= toc.postings
        && toc.postings <= toc.postings_table
        && toc.postings_table <= start
        && toc.symbols >= HEADER_LEN as u64;
    if !ascending {
        return Err(place.corrupt(format!("sections do not follow each other: {toc:?}")));
    }
    Ok(toc)
}
