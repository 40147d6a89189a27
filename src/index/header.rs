//! What of an index has to be at hand to use the rest: its table of contents, symbols and postings offset table.
//!
//! A mapped index ([`Index`](super::Index)) and one in object storage share it. It says where a list or a record lies,
//! and reads either out of bytes that somebody else brings, so it does not know where they come from.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Place;
use super::offset_table::{Entry, OffsetTable};
use super::symbols::SymbolTable;
use super::toc::{Toc, Version, read_toc, read_version};
use super::{ChunkMeta, IndexError, Postings, SeriesId};
use crate::codec::{Reader, crc32c};
use crate::model::{Labels, TimeRange};

/// Series records begin at multiples of this, and format 2 names them by the multiple.
pub(super) const SERIES_ALIGN: u64 = 16;
/// The sum behind a section, a list or a record.
const SUM_LEN: u64 = 4;

/// An index's table of contents, symbols and postings offset table.
#[derive(Debug)]
pub struct IndexHeader {
    pub(super) file: Arc<str>,
    pub(super) version: Version,
    pub(super) toc: Toc,
    pub(super) symbols: SymbolTable,
    pub(super) table: OffsetTable,
    sections: usize,
}

/// Where a postings list lies: from its length field to where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPlace {
    /// Its first byte.
    pub offset: u64,
    /// Where it ends at the latest, if the table tells. The tables of format 1 do not.
    pub end: Option<u64>,
}

thread_local! {
    /// Where a label set is put together before its exact length is known.
    static PACKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl IndexHeader {
    /// Opens it from an index's first bytes, up to the series, and its last ones, from the postings offset table on; the
    /// whole file may stand for either. `size` is the file's length, `file` what errors call it.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], [`IndexError::UnknownVersion`].
    pub fn open(file: &str, front: &Bytes, tail: &Bytes, size: u64) -> Result<Self, IndexError> {
        let name: Arc<str> = file.into();
        let version = read_version(&name, front)?;
        let toc = read_toc(&name, tail, size)?;
        let symbols = front.slice(usize::try_from(toc.symbols).unwrap_or(usize::MAX).min(front.len())..);
        Self::with_toc(name, version, toc, &symbols, tail, size)
    }

    /// Opens it from the bytes that begin with the symbol table, and an index's last ones, from the postings offset
    /// table on.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], [`IndexError::UnknownVersion`].
    pub fn from_sections(
        file: &str,
        version: u8,
        symbols: &Bytes,
        tail: &Bytes,
        size: u64,
    ) -> Result<Self, IndexError> {
        let file: Arc<str> = file.into();
        let Some(version) = Version::from_byte(version) else {
            return Err(IndexError::UnknownVersion { file, version });
        };
        let toc = read_toc(&file, tail, size)?;
        Self::with_toc(file, version, toc, symbols, tail, size)
    }

    fn with_toc(
        file: Arc<str>,
        version: Version,
        toc: Toc,
        symbols: &Bytes,
        tail: &Bytes,
        size: u64,
    ) -> Result<Self, IndexError> {
        let sections = (symbols.len() as u64).min(toc.series - toc.symbols);
        let symbols = SymbolTable::open(&file, symbols, toc.symbols, version)?;
        let place = Place { file: &file, what: "postings offset table", offset: toc.postings_table };
        let table = size
            .checked_sub(toc.postings_table)
            .and_then(|len| tail.len().checked_sub(usize::try_from(len).ok()?))
            .ok_or_else(|| place.corrupt("its first bytes are missing"))?;
        let table = OffsetTable::open(&file, &tail.slice(table..), toc.postings_table)?;
        let sections = (sections + (size - toc.postings_table)) as usize;
        Ok(Self { file, version, toc, symbols, table, sections })
    }

    /// The byte of the format, out of an index's first bytes.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], [`IndexError::UnknownVersion`].
    pub fn version_of(file: &str, front: &[u8]) -> Result<Version, IndexError> {
        read_version(&file.into(), front)
    }

    /// Where the sections of the index whose last bytes are `tail` begin.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn toc_of(file: &str, tail: &[u8], size: u64) -> Result<Toc, IndexError> {
        read_toc(&file.into(), tail, size)
    }

    /// The index's format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where its sections begin.
    #[must_use]
    pub fn toc(&self) -> Toc {
        self.toc
    }

    /// Bytes of the two sections that it was opened from; they are kept as they are.
    #[must_use]
    pub fn section_bytes(&self) -> usize {
        self.sections
    }

    /// Bytes that it keeps beside those.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.symbols.memory() + self.table.memory()
    }

    /// The label names, ascending.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.table.names()
    }

    /// The values of `name`, ascending, from the first that is not below `from`.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn label_values<'a>(&'a self, name: &str, from: &str) -> impl Iterator<Item = Result<&'a str, IndexError>> {
        self.table.values(name, from).map(|item| item.map(|entry| entry.value))
    }

    /// Where the list of the pair lies, if there is one; that of all series is the pair of two empty texts.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn list_place(&self, name: &str, value: &str) -> Result<Option<ListPlace>, IndexError> {
        let Some(entry) = self.table.find(name, value)? else { return Ok(None) };
        let next = self.table.by_rank(entry.rank + 1).transpose()?;
        Ok(Some(self.place_before(entry.offset, next.map(|next| next.offset))))
    }

    /// Calls `visit` with each value of `name` that begins with `prefix`, and where its list lies.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn list_places(
        &self,
        name: &str,
        prefix: &str,
        mut visit: impl FnMut(&str, ListPlace),
    ) -> Result<(), IndexError> {
        let mut last: Option<Entry<'_>> = None;
        for entry in self.table.values(name, prefix) {
            let entry = entry?;
            if let Some(last) = last.replace(entry) {
                visit(last.value, self.place_before(last.offset, Some(entry.offset)));
            }
            if !entry.value.starts_with(prefix) {
                return Ok(());
            }
        }
        if let Some(last) = last {
            let next = self.table.by_rank(last.rank + 1).transpose()?;
            visit(last.value, self.place_before(last.offset, next.map(|next| next.offset)));
        }
        Ok(())
    }

    fn place_before(&self, offset: u64, next: Option<u64>) -> ListPlace {
        // The last list ends where the next section begins; which that is depends on the writer.
        let section = if self.toc.label_indices_table > offset {
            self.toc.label_indices_table.min(self.toc.postings_table)
        } else {
            self.toc.postings_table
        };
        let end = match next {
            // Lists that do not lie in the table's order tell nothing about each other.
            Some(next) => Some(next).filter(|next| *next > offset),
            None => Some(section).filter(|_| self.version != Version::V1),
        };
        ListPlace { offset, end: end.map(|end| end.min(section)).filter(|end| *end > offset) }
    }

    /// Bytes that the list takes which `bytes` begin with, its sum included; none if they do not tell.
    #[must_use]
    pub fn list_len(bytes: &[u8]) -> Option<u64> {
        Reader::new(bytes).be_u32().ok().map(|len| u64::from(len) + 4 + SUM_LEN)
    }

    /// Reads the list at `offset`, which `bytes` begin with, and checks its sum.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn read_list(&self, offset: u64, bytes: &Bytes) -> Result<Postings, IndexError> {
        let ids = self.split_list(offset, bytes, true)?;
        Ok(Postings::Raw(bytes.slice_ref(ids)))
    }

    /// The ids of the list at `offset`, which `bytes` begin with.
    pub(super) fn split_list<'a>(&self, offset: u64, bytes: &'a [u8], checked: bool) -> Result<&'a [u8], IndexError> {
        let place = Place { file: &self.file, what: "postings list", offset };
        if offset < self.toc.postings || offset >= self.toc.postings_table {
            return Err(place.corrupt("outside the postings section"));
        }
        let mut reader = Reader::new(bytes);
        let len = reader.be_u32().map_err(place.read())? as usize;
        let content = reader.bytes("postings", len).map_err(place.read())?;
        if checked {
            let sum = reader.be_u32().map_err(place.read())?;
            check(place, content, sum)?;
        }
        let mut reader = Reader::new(content);
        let count = reader.be_u32().map_err(place.read())? as usize;
        if reader.rest().len() / 4 != count || !reader.rest().len().is_multiple_of(4) {
            return Err(place.corrupt(format!("{count} ids in {} bytes", reader.rest().len())));
        }
        Ok(reader.rest())
    }

    /// Where the record of a series lies, in bytes from the file's start.
    #[must_use]
    pub fn series_offset(&self, id: SeriesId) -> u64 {
        u64::from(id.0) * align(self.version)
    }

    /// Where the records of all series lie.
    #[must_use]
    pub fn series_section(&self) -> Range<u64> {
        self.toc.series..self.toc.label_indices
    }

    /// Bytes that the record takes which `bytes` begin with, its sum included; none if they do not tell.
    #[must_use]
    pub fn series_len(bytes: &[u8]) -> Option<u64> {
        let mut reader = Reader::new(bytes);
        let len = reader.uvarint().ok()?;
        len.checked_add(reader.offset() as u64 + SUM_LEN)
    }

    /// Reads the record of a series, which `bytes` begin with, and checks its sum; `labels` and `chunks` are overwritten.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], also for an id that is none.
    pub fn read_series(
        &self,
        id: SeriesId,
        bytes: &[u8],
        labels: &mut Labels,
        chunks: &mut Vec<ChunkMeta>,
    ) -> Result<(), IndexError> {
        self.read_record(id, self.split_series(id, bytes, true)?, labels, chunks)
    }

    /// The content of the record of a series, which `bytes` begin with.
    #[inline]
    pub(super) fn split_series<'a>(
        &self,
        id: SeriesId,
        bytes: &'a [u8],
        checked: bool,
    ) -> Result<&'a [u8], IndexError> {
        let place = self.series_place(id);
        if !self.series_section().contains(&place.offset) {
            return Err(place.corrupt("outside the series section"));
        }
        let mut reader = Reader::new(bytes);
        let content = reader.uvarint_bytes("series record").map_err(place.read())?;
        if checked {
            let sum = reader.be_u32().map_err(place.read())?;
            check(place, content, sum)?;
        }
        Ok(content)
    }

    #[inline]
    pub(super) fn series_place(&self, id: SeriesId) -> Place<'_> {
        Place { file: &self.file, what: "series", offset: self.series_offset(id) }
    }

    /// Reads the content of the record of a series.
    pub(super) fn read_record(
        &self,
        id: SeriesId,
        content: &[u8],
        labels: &mut Labels,
        chunks: &mut Vec<ChunkMeta>,
    ) -> Result<(), IndexError> {
        let place = self.series_place(id);
        let mut reader = Reader::new(content);
        *labels = self.read_labels(place, &mut reader)?;
        read_chunks(place, &mut reader, chunks)
    }

    /// Reads the labels in the record of a series, if one of its chunks touches `range`.
    pub(super) fn read_labels_in(
        &self,
        id: SeriesId,
        content: &[u8],
        range: TimeRange,
    ) -> Result<Option<Labels>, IndexError> {
        let place = self.series_place(id);
        let mut reader = Reader::new(content);
        PACKED.with_borrow_mut(|packed| {
            self.pack_labels(place, &mut reader, packed)?;
            let mut touches = false;
            each_chunk(place, &mut reader, |chunk| {
                touches = TimeRange::new(chunk.min_time, chunk.max_time).overlaps(&range);
                !touches
            })?;
            Ok(touches.then(|| Labels::from_packed(packed)))
        })
    }

    pub(super) fn read_labels(&self, place: Place<'_>, reader: &mut Reader<'_>) -> Result<Labels, IndexError> {
        PACKED.with_borrow_mut(|packed| {
            self.pack_labels(place, reader, packed)?;
            Ok(Labels::from_packed(packed))
        })
    }

    fn pack_labels(&self, place: Place<'_>, reader: &mut Reader<'_>, packed: &mut Vec<u8>) -> Result<(), IndexError> {
        packed.clear();
        let count = reader.uvarint().map_err(place.read())?;
        for _ in 0..count {
            let name = reader.uvarint().map_err(place.read())?;
            let value = reader.uvarint().map_err(place.read())?;
            self.symbols.pack(name, packed)?;
            self.symbols.pack(value, packed)?;
        }
        Ok(())
    }

    /// The label names that occur in the series whose records' contents are given, ascending.
    pub(super) fn names_of<'a>(
        &self,
        records: impl Iterator<Item = Result<(SeriesId, &'a [u8]), IndexError>>,
    ) -> Result<Vec<String>, IndexError> {
        let mut symbols = crate::codec::FixedSet::default();
        for record in records {
            let (id, content) = record?;
            let place = self.series_place(id);
            let mut reader = Reader::new(content);
            for _ in 0..reader.uvarint().map_err(place.read())? {
                symbols.insert(reader.uvarint().map_err(place.read())?);
                reader.uvarint().map_err(place.read())?;
            }
        }
        let names: Result<Vec<_>, _> =
            symbols.into_iter().map(|name| self.symbols.get(name).map(str::to_owned)).collect();
        let mut names = names?;
        names.sort();
        Ok(names)
    }
}

pub(super) fn align(version: Version) -> u64 {
    if version == Version::V1 { 1 } else { SERIES_ALIGN }
}

fn check(place: Place<'_>, content: &[u8], sum: u32) -> Result<(), IndexError> {
    let actual = crc32c(content);
    if actual == sum { Ok(()) } else { Err(place.corrupt(format!("CRC-32C is {actual:08x}, stored {sum:08x}"))) }
}

/// The chunks of a series record, behind its labels.
fn read_chunks(place: Place<'_>, reader: &mut Reader<'_>, chunks: &mut Vec<ChunkMeta>) -> Result<(), IndexError> {
    chunks.clear();
    each_chunk(place, reader, |chunk| {
        chunks.push(chunk);
        true
    })
}

/// Calls `each` with one chunk of a series record after the other, as long as it says yes.
#[inline]
fn each_chunk(
    place: Place<'_>,
    reader: &mut Reader<'_>,
    mut each: impl FnMut(ChunkMeta) -> bool,
) -> Result<(), IndexError> {
    let count = reader.uvarint().map_err(place.read())?;
    let mut last_max = 0;
    let mut last_reference = 0;
    for number in 0..count {
        let min_time = if number == 0 {
            reader.varint().map_err(place.read())?
        } else {
            reader.uvarint().map_err(place.read())?.cast_signed().wrapping_add(last_max)
        };
        let max_time = reader.uvarint().map_err(place.read())?.cast_signed().wrapping_add(min_time);
        let reference = if number == 0 {
            reader.uvarint().map_err(place.read())?
        } else {
            reader.varint().map_err(place.read())?.cast_unsigned().wrapping_add(last_reference)
        };
        if !each(ChunkMeta { reference, min_time, max_time }) {
            break;
        }
        (last_max, last_reference) = (max_time, reference);
    }
    Ok(())
}
