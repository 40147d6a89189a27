//! Reading an index: a mapped file, and what little of it is kept in memory.
//!
//! What is checked when: the table of contents, the symbol table and the postings offset table are summed once, when the
//! index is opened. Each series record and each postings list is summed the first time it is read; a bit remembers that,
//! since a sum over half a megabyte of postings costs more than the intersection they are read for. A page that rots
//! under a running process is thus seen by [`Index::verify`] alone, which sums everything each time it is called.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::error::Place;
use super::header::align;
use super::toc::{Toc, Version};
use super::{ChunkMeta, IndexError, IndexHeader, Postings, PostingsSource, SeriesId};
use crate::codec::Reader;
use crate::error::Result;
use crate::model::{Labels, TimeRange};

/// An opened index.
#[derive(Debug)]
pub struct Index {
    header: IndexHeader,
    bytes: Bytes,
    /// One bit a place where a series record can begin.
    checked_series: CheckedOnce,
    /// One bit a postings list.
    checked_postings: CheckedOnce,
}

impl Index {
    /// Opens an index that lies in `bytes`; `file` is what errors call it.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], [`IndexError::UnknownVersion`].
    pub fn open(file: &str, bytes: Bytes) -> Result<Self, IndexError> {
        let header = IndexHeader::open(file, &bytes, &bytes, bytes.len() as u64)?;
        let checked_series =
            CheckedOnce::new((header.toc.label_indices - header.toc.series) / align(header.version) + 1);
        let checked_postings = CheckedOnce::new(header.table.len() as u64);
        Ok(Self { header, bytes, checked_series, checked_postings })
    }

    /// What is kept of it in memory.
    #[must_use]
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// Its format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.header.version
    }

    /// Where its sections begin.
    #[must_use]
    pub fn toc(&self) -> Toc {
        self.header.toc
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How many symbols there are.
    #[must_use]
    pub fn symbol_count(&self) -> usize {
        self.header.symbols.len()
    }

    /// How many label pairs there are.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        // The list of all series is none of a pair.
        self.header.table.len().saturating_sub(1)
    }

    /// The symbols, ascending.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn symbols(&self) -> impl Iterator<Item = Result<&str, IndexError>> {
        self.header.symbols.iter().map(|item| item.map(|(_, text)| text))
    }

    /// The label names, ascending.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.header.table.names()
    }

    /// The values of `name`, ascending, from the first that is not below `from`.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn label_values<'a>(&'a self, name: &str, from: &str) -> impl Iterator<Item = Result<&'a str, IndexError>> {
        self.header.table.values(name, from).map(|item| item.map(|entry| entry.value))
    }

    /// Every label pair with its list, in order; the pair ("", "") of all series first.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] in the iterator.
    pub fn pairs(&self) -> impl Iterator<Item = Result<(&str, &str, Postings), IndexError>> {
        self.header.table.iter().map(|entry| {
            let entry = entry?;
            Ok((entry.name, entry.value, self.list(entry.offset, entry.rank)?))
        })
    }

    /// The list at `offset`, number `rank` in the table.
    fn list(&self, offset: u64, rank: u32) -> Result<Postings, IndexError> {
        let is_checked = self.checked_postings.is_set(u64::from(rank));
        let ids = self.header.split_list(offset, self.from(offset), !is_checked)?;
        self.checked_postings.set(u64::from(rank));
        Ok(Postings::Raw(self.bytes.slice_ref(ids)))
    }

    fn from(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default()
    }

    /// The series whose record stands last, if there is one and the list of all says so; the list is not read for it, and
    /// its sum not checked.
    pub(crate) fn last_series(&self) -> Option<SeriesId> {
        let entry = self.header.table.find("", "").ok()??;
        let ids = self.header.split_list(entry.offset, self.from(entry.offset), false).ok()?;
        ids.last_chunk().map(|id| SeriesId(u32::from_be_bytes(*id)))
    }

    /// The content of a series record.
    #[inline]
    fn record(&self, id: SeriesId) -> Result<&[u8], IndexError> {
        let offset = self.header.series_offset(id);
        // Out of the section is out of the bits too, and is refused.
        let bit = offset.wrapping_sub(self.header.toc.series) / align(self.header.version);
        let is_checked = self.checked_series.is_set(bit);
        let content = self.header.split_series(id, self.from(offset), !is_checked)?;
        self.checked_series.set(bit);
        Ok(content)
    }

    /// Reads a series; `labels` and `chunks` are overwritten.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`], also for an id that is none.
    pub fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<(), IndexError> {
        self.header.read_record(id, self.record(id)?, labels, chunks)
    }

    /// Reads a series' labels.
    ///
    /// # Errors
    /// As [`series`](Index::series).
    pub fn labels(&self, id: SeriesId) -> Result<Labels, IndexError> {
        let place = self.header.series_place(id);
        self.header.read_labels(place, &mut Reader::new(self.record(id)?))
    }

    /// Reads a series' labels, if one of its chunks touches `range`.
    ///
    /// # Errors
    /// As [`series`](Index::series).
    pub fn labels_in(&self, id: SeriesId, range: TimeRange) -> Result<Option<Labels>, IndexError> {
        self.header.read_labels_in(id, self.record(id)?, range)
    }

    /// The label names that occur in the series `ids`, ascending.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`].
    pub fn names_of(&self, ids: impl IntoIterator<Item = SeriesId>) -> Result<Vec<String>, IndexError> {
        self.header.names_of(ids.into_iter().map(|id| Ok((id, self.record(id)?))))
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
            let place = self.header.series_place(id);
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
        for item in self.header.symbols.iter() {
            let (number, symbol) = item?;
            if self.header.version != Version::V1 && last.is_some_and(|last| last >= symbol) {
                let place = Place { file: &self.header.file, what: "symbol table", offset: self.header.toc.symbols };
                return Err(place.corrupt(format!("symbol {number}, {symbol:?}, is not after the one before")).into());
            }
            last = Some(symbol);
        }
        Ok(())
    }

    fn verify_ascending(&self, what: &'static str, ids: &[u32]) -> Result<()> {
        let place = Place { file: &self.header.file, what, offset: self.header.toc.postings };
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
            let place = Place { file: &self.header.file, what: "postings list", offset: self.header.toc.postings };
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
            let place = Place { file: &self.header.file, what: "postings", offset: self.header.toc.postings };
            return Err(place.corrupt(format!("{listed} ids in all lists; the series have {pairs} labels")).into());
        }
        Ok(())
    }

    fn has_pair(&self, id: SeriesId, name: &str, value: &str) -> Result<bool, IndexError> {
        let place = self.header.series_place(id);
        let mut reader = Reader::new(self.record(id)?);
        for _ in 0..reader.uvarint().map_err(place.read())? {
            let label = self.header.symbols.get(reader.uvarint().map_err(place.read())?)?;
            let its_value = reader.uvarint().map_err(place.read())?;
            if label == name {
                return Ok(self.header.symbols.get(its_value)? == value);
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
        Ok(match self.header.table.find(name, value)? {
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
        for entry in self.header.table.values(name, prefix) {
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
