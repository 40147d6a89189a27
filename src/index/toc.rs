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

/// Reads the header and the table of contents of a whole index.
pub(super) fn read_toc(file: &Arc<str>, bytes: &[u8]) -> Result<(Version, Toc), IndexError> {
    let place = Place { file, what: "header", offset: 0 };
    let mut header = Reader::new(bytes);
    let magic = header.be_u32().map_err(place.read())?;
    if magic != MAGIC {
        return Err(place.corrupt(format!("magic number {magic:08x}, not {MAGIC:08x}")));
    }
    let version = match header.u8().map_err(place.read())? {
        1 => Version::V1,
        2 => Version::V2,
        3 => Version::V3,
        version => return Err(IndexError::UnknownVersion { file: Arc::clone(file), version }),
    };

    let start = bytes.len().saturating_sub(TOC_LEN).max(HEADER_LEN);
    let place = Place { file, what: "table of contents", offset: start as u64 };
    let mut toc = Reader::new(bytes.get(start..).unwrap_or_default());
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
        && toc.postings_table <= start as u64
        && toc.symbols >= HEADER_LEN as u64;
    if !ascending {
        return Err(place.corrupt(format!("sections do not follow each other: {toc:?}")));
    }
    Ok((version, toc))
}
