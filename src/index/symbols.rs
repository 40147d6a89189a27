//! The symbol table: every label name and value once, named by number from then on.
//!
//! ```text
//! len b4 | count b4 | (uvarint len, text)* | CRC-32C b4
//! ```
//!
//! The strings stay where the file is mapped; in memory there are four bytes for each, its place in the section. That is
//! more than keeping every 32nd place, and it is what makes a label set cheap: two look-ups a label, none of which walks.
//! Format 1 names a symbol by its offset in the file, so there no table is kept at all.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Place;
use super::{IndexError, Version};
use crate::codec::{Reader, crc32c};
use crate::model::put_text;

#[derive(Debug)]
pub(super) struct SymbolTable {
    file: Arc<str>,
    /// From the section's length field to the end of the last symbol: offsets into it are those in `starts`.
    section: Bytes,
    /// Where the section begins in the file.
    offset: u64,
    count: usize,
    /// Format 2: where each symbol begins in `section`.
    starts: Vec<u32>,
    version: Version,
}

/// A section's content: behind its length, before its sum, which is checked. `bytes` begin with the length.
pub(super) fn section(bytes: &Bytes, place: Place<'_>) -> Result<Bytes, IndexError> {
    let mut reader = Reader::new(bytes);
    let len = reader.be_u32().map_err(place.read())?;
    let content = reader.bytes("section", len as usize).map_err(place.read())?;
    let sum = reader.be_u32().map_err(place.read())?;
    let actual = crc32c(content);
    if actual != sum {
        return Err(place.corrupt(format!("CRC-32C is {actual:08x}, stored {sum:08x}")));
    }
    Ok(bytes.slice_ref(content))
}

impl SymbolTable {
    /// Opens the table that `bytes` begin with; in the file they begin at `offset`.
    pub(super) fn open(file: &Arc<str>, bytes: &Bytes, offset: u64, version: Version) -> Result<Self, IndexError> {
        let place = Place { file, what: "symbol table", offset };
        let content = section(bytes, place)?;
        let mut reader = Reader::new(&content);
        let count = reader.be_u32().map_err(place.read())? as usize;
        let mut starts = Vec::new();
        if version != Version::V1 {
            // A symbol takes a byte at least: a count that promises more is not believed.
            starts.reserve_exact(count.min(content.len()));
        }
        for _ in 0..count {
            let start = reader.offset();
            let text = reader.uvarint_bytes("symbol").map_err(place.read())?;
            if std::str::from_utf8(text).is_err() {
                return Err(place.corrupt(format!("symbol at {start} is not UTF-8")));
            }
            if version != Version::V1 {
                starts.push(start as u32);
            }
        }
        // The section begins with its four bytes of length.
        Ok(Self { file: Arc::clone(file), section: content, offset: offset + 4, count, starts, version })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes that it keeps beside the file's own.
    pub(super) fn memory(&self) -> usize {
        self.starts.capacity() * size_of::<u32>()
    }

    /// The bytes from the symbol's length on.
    #[inline]
    fn at(&self, symbol: u64) -> Result<&[u8], IndexError> {
        let start = match self.version {
            Version::V1 => symbol.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok()),
            Version::V2 | Version::V3 => {
                usize::try_from(symbol).ok().and_then(|symbol| self.starts.get(symbol)).map(|&start| start as usize)
            }
        };
        start.and_then(|start| self.section.get(start..)).ok_or_else(|| self.unknown(symbol))
    }

    #[cold]
    fn unknown(&self, symbol: u64) -> IndexError {
        let place = Place { file: &self.file, what: "symbol table", offset: self.offset };
        place.corrupt(format!("no symbol {symbol}; there are {}", self.count))
    }

    /// Appends the symbol to a label set's packed form.
    #[inline]
    pub(super) fn pack(&self, symbol: u64, out: &mut Vec<u8>) -> Result<(), IndexError> {
        /// Bytes that are copied for a short symbol, however short it is: that is two moves, and counting them is a call.
        const SHORT: usize = 32;
        let bytes = self.at(symbol)?;
        // A symbol of up to 127 bytes stands here as it does in a packed set: one byte of length, then the text.
        if let Some(short) = bytes.first_chunk::<SHORT>()
            && usize::from(short[0]) < SHORT
            && self.version != Version::V1
        {
            let end = out.len() + usize::from(short[0]) + 1;
            out.extend_from_slice(short);
            out.truncate(end);
            return Ok(());
        }
        if let Some(&len) = bytes.first()
            && len < 0x80
            && self.version != Version::V1
            && let Some(text) = bytes.get(..usize::from(len) + 1)
        {
            out.extend_from_slice(text);
            return Ok(());
        }
        put_text(out, self.get(symbol)?);
        Ok(())
    }

    /// The symbol's text.
    pub(super) fn get(&self, symbol: u64) -> Result<&str, IndexError> {
        let place = Place { file: &self.file, what: "symbol", offset: symbol };
        let text = Reader::new(self.at(symbol)?).uvarint_bytes("symbol").map_err(place.read())?;
        // In format 1 a damaged reference can point into the middle of another symbol, hence of a character.
        std::str::from_utf8(text).map_err(|error| place.corrupt(error))
    }

    /// The symbols in the order of the file, with what a series record calls them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<(u64, &str), IndexError>> {
        let mut reader = Reader::new(&self.section);
        // The count was read when the table was opened, and every symbol after it.
        let opened = reader.be_u32().is_ok();
        (0..if opened { self.count } else { 0 }).map(move |number| {
            let start = reader.offset() as u64;
            let place = Place { file: &self.file, what: "symbol table", offset: self.offset + start };
            let text = reader.uvarint_bytes("symbol").map_err(place.read())?;
            let text = std::str::from_utf8(text).map_err(|error| place.corrupt(error))?;
            Ok((if self.version == Version::V1 { self.offset + start } else { number as u64 }, text))
        })
    }
}
