//! Reading an index: a mapped file, and what little of it is kept in memory.
//!
//! What is checked when: the table of contents, the symbol table and the postings offset table are summed once, when the
//! index is opened. Each series record and each postings list is summed the first time it is read; a bit remembers that,
//! since a sum over half a megabyte of postings costs more than the intersection they are read for. A page that rots
//! under a running process is thus seen by [`Index::verify`] alone, which sums everything each time it is called.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::error::Place;
use super::offset_table::OffsetTable;
use super::symbols::SymbolTable;
use super::toc::{Toc, Version, read_toc};
use super::{ChunkMeta, IndexError, Postings, PostingsSource, SeriesId};
use crate::codec::{Reader, crc32c};
use crate::error::Result;
use crate::model::Labels;

/// Series records begin at multiples of this, and format 2 names them by the multiple.
pub(super) const SERIES_ALIGN: u64 = 16;

/// An opened index.
#[derive(Debug)]
pub struct Index {
    file: Arc<str>,
    bytes: Bytes,
    version: Version,
    toc: Toc,
    symbols: SymbolTable,
    table: OffsetTable,
    /// One bit a place where a series record can begin.
    checked_series: CheckedOnce,
    /// One bit a postings list.
    checked_postings: CheckedOnce,
}

thread_local! {
    /// Where a label set is put together before its exact length is known.
    static PACKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Index {
    /// Opens an index that lies in `bytes`; `file` is what errors call it.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], [`IndexError::UnknownVersion`].
    pub fn open(file: &str, bytes: Bytes) -> Result<Self, IndexError> {
        let file: Arc<str> = file.into();
        let (version, toc) = read_toc(&file, &bytes)?;
        let symbols = SymbolTable::open(&file, &bytes, toc.symbols, version)?;
        let table = OffsetTable::open(&file, &bytes, toc.postings_table)?;
        let checked_series = CheckedOnce::new((toc.label_indices - toc.series) / align(version) + 1);
        let checked_postings = CheckedOnce::new(table.len() as u64);
        Ok(Self { file, bytes, version, toc, symbols, table, checked_series, checked_postings })
    }

    /// Its format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where its sections begin.
    #[must_use]
    pub fn toc(&self) -> Toc {
        self.toc
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How many symbols there are.
    #[must_use]
    pub fn symbol_count(&self) -> usize {
        self.symbols.len()
    }

    /// How many label pairs there are.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        // The list of all series is none of a pair.
        self.table.len().saturating_sub(1)
    }

    /// The symbols, ascending.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn symbols(&self) -> impl Iterator<Item = Result<&str, IndexError>> {
        self.symbols.iter().map(|item| item.map(|(_, text)| text))
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

    /// Every label pair with its list, in order; the pair ("", "") of all series first.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn pairs(&self) -> impl Iterator<Item = Result<(&str, &str, Postings), IndexError>> {
        self.table.iter().map(|entry| {
            let entry = entry?;
            Ok((entry.name, entry.value, self.list(entry.offset, entry.rank)?))
        })
    }

    /// The list at `offset`, number `rank` in the table.
    fn list(&self, offset: u64, rank: u32) -> Result<Postings, IndexError> {
        let place = Place { file: &self.file, what: "postings list", offset };
        if offset < self.toc.postings || offset >= self.toc.postings_table {
            return Err(place.corrupt("outside the postings section"));
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut reader = Reader::new(self.bytes.get(start..).unwrap_or_default());
        let len = reader.be_u32().map_err(place.read())? as usize;
        let content = reader.bytes("postings", len).map_err(place.read())?;
        if !self.checked_postings.is_set(u64::from(rank)) {
            let sum = reader.be_u32().map_err(place.read())?;
            check(place, content, sum)?;
        }
        let mut reader = Reader::new(content);
        let count = reader.be_u32().map_err(place.read())? as usize;
        if reader.rest().len() / 4 != count || !reader.rest().len().is_multiple_of(4) {
            return Err(place.corrupt(format!("{count} ids in {} bytes", reader.rest().len())));
        }
        self.checked_postings.set(u64::from(rank));
        Ok(Postings::Raw(self.bytes.slice_ref(reader.rest())))
    }

    /// The content of a series record.
    #[inline]
    fn record(&self, id: SeriesId) -> Result<&[u8], IndexError> {
        let offset = u64::from(id.0) * align(self.version);
        let place = Place { file: &self.file, what: "series", offset };
        if offset < self.toc.series || offset >= self.toc.label_indices {
            return Err(place.corrupt("outside the series section"));
        }
        let mut reader = Reader::new(self.bytes.get(offset as usize..).unwrap_or_default());
        let content = reader.uvarint_bytes("series record").map_err(place.read())?;
        let bit = (offset - self.toc.series) / align(self.version);
        if !self.checked_series.is_set(bit) {
            let sum = reader.be_u32().map_err(place.read())?;
            check(place, content, sum)?;
            self.checked_series.set(bit);
        }
        Ok(content)
    }

    /// Reads a series; `labels` and `chunks` are overwritten.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], also for an id that is none.
    pub fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<(), IndexError> {
        let place = Place { file: &self.file, what: "series", offset: u64::from(id.0) * align(self.version) };
        let mut reader = Reader::new(self.record(id)?);
        *labels = self.read_labels(place, &mut reader)?;
        read_chunks(place, &mut reader, chunks)
    }

    /// Reads a series' labels.
    ///
    /// # Errors
    /// As [`series`](Index::series).
    pub fn labels(&self, id: SeriesId) -> Result<Labels, IndexError> {
        let place = Place { file: &self.file, what: "series", offset: u64::from(id.0) * align(self.version) };
        self.read_labels(place, &mut Reader::new(self.record(id)?))
    }

    fn read_labels(&self, place: Place<'_>, reader: &mut Reader<'_>) -> Result<Labels, IndexError> {
        PACKED.with_borrow_mut(|packed| {
            packed.clear();
            let count = reader.uvarint().map_err(place.read())?;
            for _ in 0..count {
                let name = reader.uvarint().map_err(place.read())?;
                let value = reader.uvarint().map_err(place.read())?;
                self.symbols.pack(name, packed)?;
                self.symbols.pack(value, packed)?;
            }
            Ok(Labels::from_packed(packed))
        })
    }

    /// The label names that occur in the series `ids`, ascending.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn names_of(&self, ids: impl IntoIterator<Item = SeriesId>) -> Result<Vec<String>, IndexError> {
        let mut symbols = crate::codec::FixedSet::default();
        for id in ids {
            let place = Place { file: &self.file, what: "series", offset: u64::from(id.0) * align(self.version) };
            let mut reader = Reader::new(self.record(id)?);
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

    /// Checks everything: every sum, that symbols, series, chunks and postings are in order, that each series' labels are
    /// sorted and stand in exactly the right lists. `visit` is called with each series, in order, so that a caller can
    /// check what the chunks refer to.
    ///
    /// # Errors
    /// The first [`IndexError::Corrupt`] that there is, or what `visit` answers.
    pub fn verify(&self, mut visit: impl FnMut(SeriesId, &Labels, &[ChunkMeta]) -> Result<()>) -> Result<()> {
        // What the bits remember is what is to be looked at again.
        self.checked_series.clear();
        self.checked_postings.clear();
        self.verify_symbols()?;
        // How often each pair occurs among the series must be its list's length; together with "each id in a list has
        // the pair" that makes the lists exact.
        let mut all = Vec::new();
        self.all()?.append_to(&mut all);
        self.verify_ascending("list of all series", &all)?;
        let mut pairs = 0;
        let mut last = Labels::empty();
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        for (number, id) in all.iter().map(|&id| SeriesId(id)).enumerate() {
            let place = Place { file: &self.file, what: "series", offset: u64::from(id.0) * align(self.version) };
            self.series(id, &mut labels, &mut chunks)?;
            if labels.is_empty() {
                return Err(place.corrupt("no labels").into());
            }
            if !labels.iter().is_sorted_by(|a, b| a.0 < b.0) {
                return Err(place.corrupt(format!("labels are not sorted: {labels}")).into());
            }
            if number > 0 && labels <= last {
                return Err(place.corrupt(format!("{labels} comes after {last}")).into());
            }
            for chunk in &chunks {
                if chunk.min_time > chunk.max_time {
                    return Err(place.corrupt(format!("{labels}: a chunk ends before it begins: {chunk:?}")).into());
                }
            }
            if let Some([_, after]) = chunks.array_windows().find(|[a, b]| a.min_time > b.min_time) {
                return Err(place.corrupt(format!("{labels}: chunks are not sorted at {after:?}")).into());
            }
            visit(id, &labels, &chunks)?;
            pairs += labels.len() as u64;
            std::mem::swap(&mut last, &mut labels);
        }
        self.verify_lists(&all, pairs)
    }

    fn verify_symbols(&self) -> Result<()> {
        let mut last: Option<&str> = None;
        for item in self.symbols.iter() {
            let (number, symbol) = item?;
            if self.version != Version::V1 && last.is_some_and(|last| last >= symbol) {
                let place = Place { file: &self.file, what: "symbol table", offset: self.toc.symbols };
                return Err(place.corrupt(format!("symbol {number}, {symbol:?}, is not after the one before")).into());
            }
            last = Some(symbol);
        }
        Ok(())
    }

    fn verify_ascending(&self, what: &'static str, ids: &[u32]) -> Result<()> {
        let place = Place { file: &self.file, what, offset: self.toc.postings };
        if ids.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(place.corrupt("ids do not ascend").into()) }
    }

    /// Every list but that of all series against the series' own labels; `pairs` is how many labels the series have.
    fn verify_lists(&self, all: &[u32], pairs: u64) -> Result<()> {
        let mut listed = 0;
        for item in self.pairs() {
            let (name, value, list) = item?;
            if name.is_empty() && value.is_empty() {
                continue;
            }
            let place = Place { file: &self.file, what: "postings list", offset: self.toc.postings };
            let ids = list.into_vec();
            self.verify_ascending("postings list", &ids)?;
            listed += ids.len() as u64;
            for id in ids {
                if all.binary_search(&id).is_err() {
                    return Err(place.corrupt(format!("{name}={value:?} lists series {id}, which is none")).into());
                }
                if !self.has_pair(SeriesId(id), name, value)? {
                    return Err(place.corrupt(format!("{name}={value:?} lists series {id}, which has it not")).into());
                }
            }
        }
        if listed != pairs {
            let place = Place { file: &self.file, what: "postings", offset: self.toc.postings };
            return Err(place.corrupt(format!("{listed} ids in all lists; the series have {pairs} labels")).into());
        }
        Ok(())
    }

    fn has_pair(&self, id: SeriesId, name: &str, value: &str) -> Result<bool, IndexError> {
        let place = Place { file: &self.file, what: "series", offset: u64::from(id.0) * align(self.version) };
        let mut reader = Reader::new(self.record(id)?);
        for _ in 0..reader.uvarint().map_err(place.read())? {
            let label = self.symbols.get(reader.uvarint().map_err(place.read())?)?;
            let its_value = reader.uvarint().map_err(place.read())?;
            if label == name {
                return Ok(self.symbols.get(its_value)? == value);
            }
        }
        Ok(false)
    }
}

impl PostingsSource for Index {
    fn all(&self) -> Result<Postings> {
        self.postings("", "")
    }

    fn postings(&self, name: &str, value: &str) -> Result<Postings> {
        Ok(match self.table.find(name, value)? {
            Some(entry) => self.list(entry.offset, entry.rank)?,
            None => Postings::empty(),
        })
    }

    fn postings_where(
        &self,
        name: &str,
        prefix: &str,
        keep: &mut dyn FnMut(&str) -> bool,
        take: &mut dyn FnMut(Postings),
    ) -> Result<()> {
        for entry in self.table.values(name, prefix) {
            let entry = entry?;
            if !entry.value.starts_with(prefix) {
                break;
            }
            if keep(entry.value) {
                take(self.list(entry.offset, entry.rank)?);
            }
        }
        Ok(())
    }
}

fn align(version: Version) -> u64 {
    if version == Version::V1 { 1 } else { SERIES_ALIGN }
}

fn check(place: Place<'_>, content: &[u8], sum: u32) -> Result<(), IndexError> {
    let actual = crc32c(content);
    if actual == sum { Ok(()) } else { Err(place.corrupt(format!("CRC-32C is {actual:08x}, stored {sum:08x}"))) }
}

/// The chunks of a series record, behind its labels.
fn read_chunks(place: Place<'_>, reader: &mut Reader<'_>, chunks: &mut Vec<ChunkMeta>) -> Result<(), IndexError> {
    chunks.clear();
    let count = reader.uvarint().map_err(place.read())?;
    // A chunk takes three bytes at least: a count that promises more is not believed.
    chunks.reserve(usize::try_from(count).unwrap_or(usize::MAX).min(reader.rest().len() / 3));
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
        chunks.push(ChunkMeta { reference, min_time, max_time });
        (last_max, last_reference) = (max_time, reference);
    }
    Ok(())
}

/// Bits that say "this was checked"; setting one twice is harmless, so no order between threads is needed.
#[derive(Debug)]
struct CheckedOnce(Box<[AtomicU64]>);

impl CheckedOnce {
    fn new(count: u64) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn is_set(&self, bit: u64) -> bool {
        self.0.get((bit / 64) as usize).is_some_and(|word| word.load(Ordering::Relaxed) >> (bit % 64) & 1 == 1)
    }

    fn set(&self, bit: u64) {
        // A plain load first: a bit that is set already costs no write to a shared cache line.
        if !self.is_set(bit)
            && let Some(word) = self.0.get((bit / 64) as usize)
        {
            word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}
