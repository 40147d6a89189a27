//! Writing an index, format 2, front to back.
//!
//! The file is only ever appended to: every section's length is known before its first byte is written. What is kept in
//! memory grows with the number of different strings and label pairs, not with the number of series: the postings, an id
//! for each label of each series, go through a temporary file beside the index, and are put in order in as many passes as
//! a fixed amount of memory needs.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh64::xxh64;

use super::header::SERIES_ALIGN;
use super::members::{Members, Numbered, Spill};
use super::numbered::NumberedSeries;
use super::toc::{MAGIC, Toc};
use super::{ChunkMeta, IndexError, SeriesId};
use crate::codec::{Crc32c, crc32c, put_be_u32, put_bytes, put_uvarint, put_varint, uvarint_len};
use crate::fs::{File, Fs, with_suffix};
use crate::model::{Labels, LabelsIter};

/// The largest index that 32-bit ids of 16-byte units can name.
const LONGEST: u64 = 64 << 30;
/// Bytes collected before they are handed to the disk.
const BUFFER: usize = 1 << 20;
/// How much memory ordering the postings may take in one pass, in ids of four bytes.
const IDS_A_PASS: usize = 16 << 20;
/// How many words of label pairs are kept in memory before they go to the temporary file.
const SPILL_WORDS: usize = 4 << 20;

/// Writes one index: first all symbols, then all series, then [`finish`](IndexWriter::finish).
#[derive(Debug)]
pub struct IndexWriter {
    out: Output,
    toc: Toc,
    symbols: SymbolNumbers,
    symbols_written: bool,
    pairs: Pairs,
    members: Members,
    series: u32,
    last_labels: Labels,
    /// The pair numbers of `last_labels`: neighbours in label order share most of theirs.
    last_pairs: Vec<u32>,
    these_pairs: Vec<u32>,
    last_reference: u64,
    record: Vec<u8>,
    /// The length in front of a record.
    head: Vec<u8>,
    ids_a_pass: usize,
}

impl IndexWriter {
    /// Begins an index at `path`, which must not exist.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn create(fs: &Arc<dyn Fs>, path: &Path) -> Result<Self, IndexError> {
        Self::with_limits(fs, path, SPILL_WORDS, IDS_A_PASS)
    }

    fn with_limits(fs: &Arc<dyn Fs>, path: &Path, spill_words: usize, ids_a_pass: usize) -> Result<Self, IndexError> {
        let name: Arc<str> = path.display().to_string().into();
        let file = fs.create(path).map_err(|source| IndexError::Io { file: Arc::clone(&name), source })?;
        let mut out = Output { file, name: Arc::clone(&name), buffer: Vec::with_capacity(BUFFER), position: 0 };
        let mut header = Vec::new();
        put_be_u32(&mut header, MAGIC);
        header.push(2);
        out.write(&header)?;
        Ok(Self {
            toc: Toc { symbols: out.position, ..Toc::default() },
            out,
            symbols: SymbolNumbers::default(),
            symbols_written: false,
            pairs: Pairs::default(),
            members: Members::Spilled(Spill::new(Arc::clone(fs), with_suffix(path, ".pairs"), name, spill_words)),
            series: 0,
            last_labels: Labels::empty(),
            last_pairs: Vec::new(),
            these_pairs: Vec::new(),
            last_reference: 0,
            record: Vec::new(),
            head: Vec::new(),
            ids_a_pass,
        })
    }

    fn invalid(&self, reason: impl Into<String>) -> IndexError {
        IndexError::Invalid { file: Arc::clone(&self.out.name), reason: reason.into() }
    }

    /// Adds a symbol; they come in ascending order, before all series.
    ///
    /// # Errors
    /// [`IndexError::Invalid`] if it does not come after the one before, or once series were added, or if the table
    /// grows past 4 GiB.
    pub fn add_symbol(&mut self, symbol: &str) -> Result<(), IndexError> {
        if self.symbols_written {
            return Err(self.invalid(format!("symbol {symbol:?} comes after a series")));
        }
        if self.symbols.last().is_some_and(|last| last >= symbol) {
            return Err(self.invalid(format!("symbol {symbol:?} comes after {:?}", self.symbols.last())));
        }
        if !self.symbols.push(symbol) {
            return Err(self.invalid("the symbols take more than 4 GiB"));
        }
        Ok(())
    }

    /// Says which series come: those of `series`, added by their places there with
    /// [`add_numbered`](IndexWriter::add_numbered), each or not. After the symbols, before all series.
    ///
    /// # Errors
    /// [`IndexError::Invalid`] once series were added, if a pair's text is no symbol or if the pairs do not ascend.
    pub fn set_numbered(&mut self, series: Arc<dyn NumberedSeries>) -> Result<(), IndexError> {
        if self.symbols_written {
            return Err(self.invalid("numbers of series come after a series"));
        }
        let symbol = |text| self.symbols.find(text).ok_or_else(|| self.invalid(format!("{text:?} is no symbol")));
        let mut pairs: Vec<Pair> = Vec::new();
        let mut last_name = None;
        for (name, value) in series.pairs() {
            let known = last_name.filter(|(last, _)| *last == name).map(|(_, number)| number);
            let number = known.map_or_else(|| symbol(name), Ok)?;
            last_name = Some((name, number));
            let pair = Pair { name: number, value: symbol(value)?, count: 0 };
            if pairs.last().is_some_and(|last| (last.name, last.value) >= (pair.name, pair.value)) {
                return Err(self.invalid(format!("the pair {name}={value:?} does not ascend")));
            }
            pairs.push(pair);
        }
        self.pairs.pairs = pairs;
        self.members = Members::Numbered(Numbered::new(series));
        Ok(())
    }

    /// Adds the series at `index` of those that were [set](IndexWriter::set_numbered); places ascend. Otherwise as
    /// [`add_series`](IndexWriter::add_series).
    ///
    /// # Errors
    /// As [`add_series`](IndexWriter::add_series).
    pub fn add_numbered(&mut self, index: usize, chunks: &[ChunkMeta]) -> Result<SeriesId, IndexError> {
        self.write_symbols()?;
        self.check_chunks(&format_args!("series {index}"), chunks)?;
        let Members::Numbered(numbered) = &self.members else {
            return Err(self.invalid("the series have no numbers"));
        };
        let Some(pairs) = numbered.next(index) else {
            return Err(self.invalid(format!("series {index} is not there, or not next")));
        };
        if numbered.last().is_some_and(|last| last >= pairs) || pairs.is_empty() {
            return Err(self.invalid(format!("series {index} does not come after the one before")));
        }
        self.these_pairs.clear();
        self.these_pairs.extend_from_slice(pairs);
        for &pair in &self.these_pairs {
            if !self.pairs.count(pair) {
                return Err(self.invalid(format!("series {index} has a pair without a text")));
            }
        }
        let id = self.put_series(chunks)?;
        if let Members::Numbered(numbered) = &mut self.members {
            numbered.push(index, id);
        }
        Ok(id)
    }

    /// Adds a series; they come in label order. Chunks ascend by time and reference.
    ///
    /// # Errors
    /// [`IndexError::Invalid`] if an order is broken, a label's text is no symbol, or the file grows past 64 GiB;
    /// [`IndexError::Io`].
    pub fn add_series(&mut self, labels: &Labels, chunks: &[ChunkMeta]) -> Result<SeriesId, IndexError> {
        if matches!(self.members, Members::Numbered(_)) {
            return Err(self.invalid("the series have numbers"));
        }
        self.write_symbols()?;
        self.check_chunks(labels, chunks)?;
        if self.find_pairs(labels)?.is_le() {
            return Err(self.invalid(format!("series {labels} comes after {}", self.last_labels)));
        }
        let id = self.put_series(chunks)?;
        if let Members::Spilled(spill) = &mut self.members {
            spill.push(id, &self.these_pairs)?;
        }
        self.last_labels = labels.clone();
        std::mem::swap(&mut self.last_pairs, &mut self.these_pairs);
        Ok(id)
    }

    /// Writes the record of the series that has `these_pairs`.
    fn put_series(&mut self, chunks: &[ChunkMeta]) -> Result<SeriesId, IndexError> {
        self.out.pad(SERIES_ALIGN)?;
        if self.out.position >= LONGEST {
            return Err(self.invalid("larger than 64 GiB"));
        }
        let id = SeriesId((self.out.position / SERIES_ALIGN) as u32);
        self.record.clear();
        put_uvarint(&mut self.record, self.these_pairs.len() as u64);
        for &pair in &self.these_pairs {
            let (name, value) = self.pairs.symbols(pair);
            put_uvarint(&mut self.record, u64::from(name));
            put_uvarint(&mut self.record, u64::from(value));
        }
        put_chunks(&mut self.record, chunks);
        let sum = crc32c(&self.record);
        self.head.clear();
        put_uvarint(&mut self.head, self.record.len() as u64);
        put_be_u32(&mut self.record, sum);
        self.out.write(&self.head)?;
        self.out.write(&self.record)?;
        self.series += 1;
        Ok(id)
    }

    fn check_chunks(&mut self, labels: &dyn fmt::Display, chunks: &[ChunkMeta]) -> Result<(), IndexError> {
        let mut last_max = None;
        for chunk in chunks {
            if chunk.reference < self.last_reference {
                return Err(self.invalid(format!("{labels}: chunk references do not ascend at {chunk:?}")));
            }
            if chunk.max_time < chunk.min_time || last_max.is_some_and(|max| chunk.min_time <= max) {
                return Err(self.invalid(format!("{labels}: chunk times do not ascend at {chunk:?}")));
            }
            last_max = Some(chunk.max_time);
            self.last_reference = chunk.reference;
        }
        Ok(())
    }

    /// Puts the numbers of the labels' pairs into `these_pairs`, and counts them; how the labels compare with the last.
    /// Neighbours share most pairs, so what is looked at is where they differ.
    fn find_pairs(&mut self, labels: &Labels) -> Result<Ordering, IndexError> {
        self.these_pairs.clear();
        let mut order = Ordering::Equal;
        let mut last = self.last_labels.iter();
        let mut last_pairs = self.last_pairs.iter();
        let mut labels_left = labels.iter();
        while let Some(packed) = labels_left.next_packed() {
            let (last_packed, last_pair) = (last.next_packed(), last_pairs.next());
            if let (Some(_), Some(&pair)) = (last_packed.filter(|last| *last == packed), last_pair) {
                self.these_pairs.push(pair);
                continue;
            }
            let Some(label) = LabelsIter::of_packed(packed).next() else { continue };
            let last = last_packed.and_then(|last| LabelsIter::of_packed(last).next());
            if order.is_eq() {
                order = last.map_or(Ordering::Greater, |last| label.cmp(&last));
            }
            let symbol = |text| self.symbols.find(text).ok_or_else(|| self.invalid(format!("{text:?} is no symbol")));
            let name = match (last, last_pair) {
                (Some((name, _)), Some(&pair)) if name == label.0 => self.pairs.symbols(pair).0,
                _ => symbol(label.0)?,
            };
            let value = symbol(label.1)?;
            self.these_pairs.push(self.pairs.number(name, value));
        }
        for &pair in &self.these_pairs {
            self.pairs.count(pair);
        }
        Ok(if order.is_eq() && !last.rest().is_empty() { Ordering::Less } else { order })
    }

    fn write_symbols(&mut self) -> Result<(), IndexError> {
        if self.symbols_written {
            return Ok(());
        }
        self.symbols_written = true;
        let content: u64 = self.symbols.iter().map(|text| (uvarint_len(text.len() as u64) + text.len()) as u64).sum();
        let Ok(len) = u32::try_from(content + 4) else { return Err(self.invalid("the symbols take more than 4 GiB")) };
        let mut section = Section::begin(&mut self.out, len)?;
        section.write_with(|out| put_be_u32(out, self.symbols.starts.len() as u32))?;
        for text in self.symbols.iter() {
            section.write_with(|out| put_bytes(out, text.as_bytes()))?;
        }
        section.end()?;
        self.toc.series = self.out.position;
        Ok(())
    }

    /// Writes what follows the series, makes the file durable and returns its length in bytes.
    ///
    /// # Errors
    /// [`IndexError::Invalid`] for a limit of the format, [`IndexError::Io`].
    pub fn finish(mut self) -> Result<u64, IndexError> {
        self.write_symbols()?;
        self.toc.label_indices = self.out.position;
        self.toc.postings = self.out.position;
        self.out.pad(4)?;
        let postings = self.out.position;
        let order = self.pairs.in_order();
        self.write_all_series()?;
        self.write_postings(&order)?;
        self.members.remove()?;
        self.toc.label_indices_table = self.out.position;
        self.toc.postings_table = self.out.position;
        self.write_table(postings, &order)?;
        let mut toc = Vec::new();
        self.toc.put(&mut toc);
        self.out.write(&toc)?;
        self.out.sync()?;
        if self.out.position > LONGEST {
            return Err(self.invalid("larger than 64 GiB"));
        }
        Ok(self.out.position)
    }

    fn write_all_series(&mut self) -> Result<(), IndexError> {
        let len = self.list_len(self.series)?;
        let mut section = Section::begin(&mut self.out, len)?;
        section.write_with(|out| put_be_u32(out, self.series))?;
        self.members.read(|id, _| section.write_with(|out| put_be_u32(out, id)))?;
        section.end()
    }

    /// The length field of a list of `count` ids.
    fn list_len(&self, count: u32) -> Result<u32, IndexError> {
        count
            .checked_mul(4)
            .and_then(|len| len.checked_add(4))
            .ok_or_else(|| self.invalid(format!("a postings list of {count} ids is too long")))
    }

    /// Writes the lists of all pairs in `order`, as many at a time as fit the memory.
    fn write_postings(&mut self, order: &[u32]) -> Result<(), IndexError> {
        /// A pair that is not in this pass.
        const NOT_NOW: u32 = u32::MAX;
        // Where in `ids` the next id of each pair goes.
        let mut next: Vec<u32> = vec![NOT_NOW; self.pairs.pairs.len()];
        let mut ids: Vec<u32> = Vec::new();
        let mut rest = order;
        while !rest.is_empty() {
            let mut total: usize = 0;
            let mut take = 0;
            for &pair in rest {
                let count = self.pairs.count_of(pair) as usize;
                if take > 0 && total + count > self.ids_a_pass {
                    break;
                }
                if let Some(slot) = next.get_mut(pair as usize) {
                    *slot = total as u32;
                }
                total += count;
                take += 1;
            }
            let (now, later) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            ids.clear();
            ids.resize(total, 0);
            self.members.read(|id, pairs| {
                for &pair in pairs {
                    if let Some(slot) = next.get_mut(pair as usize).filter(|slot| **slot != NOT_NOW)
                        && let Some(place) = ids.get_mut(*slot as usize)
                    {
                        *place = id;
                        *slot += 1;
                    }
                }
                Ok(())
            })?;
            let mut written: &[u32] = &ids;
            for &pair in now {
                let count = self.pairs.count_of(pair);
                let (list, after) = written.split_at_checked(count as usize).unwrap_or((written, &[]));
                written = after;
                let len = self.list_len(count)?;
                let mut section = Section::begin(&mut self.out, len)?;
                section.write_with(|out| {
                    put_be_u32(out, count);
                    list.iter().for_each(|&id| put_be_u32(out, id));
                })?;
                section.end()?;
                if let Some(slot) = next.get_mut(pair as usize) {
                    *slot = NOT_NOW;
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// Writes the postings offset table; the lists stand one after another from `postings` on.
    fn write_table(&mut self, postings: u64, order: &[u32]) -> Result<(), IndexError> {
        let (pairs, symbols, series) = (&self.pairs, &self.symbols, self.series);
        let entries = || table_entries(pairs, symbols, series, postings, order);
        let text_len = |text: &str| uvarint_len(text.len() as u64) + text.len();
        let content: u64 = entries()
            .map(|(name, value, offset)| (1 + text_len(name) + text_len(value) + uvarint_len(offset)) as u64)
            .sum();
        let Ok(len) = u32::try_from(content + 4) else {
            let reason = "the postings offset table takes more than 4 GiB".to_owned();
            return Err(IndexError::Invalid { file: Arc::clone(&self.out.name), reason });
        };
        let mut section = Section::begin(&mut self.out, len)?;
        section.write_with(|out| put_be_u32(out, order.len() as u32 + 1))?;
        for (name, value, offset) in entries() {
            section.write_with(|out| {
                put_uvarint(out, 2);
                put_bytes(out, name.as_bytes());
                put_bytes(out, value.as_bytes());
                put_uvarint(out, offset);
            })?;
        }
        section.end()
    }
}

/// The entries of the postings offset table: name, value, where the list begins. The first list begins at `postings`.
fn table_entries<'a>(
    pairs: &'a Pairs,
    symbols: &'a SymbolNumbers,
    series: u32,
    postings: u64,
    order: &'a [u32],
) -> impl Iterator<Item = (&'a str, &'a str, u64)> {
    // A list takes its ids and three words: length, count, sum. That is a multiple of 4 by itself.
    let mut offset = postings + 12 + 4 * u64::from(series);
    std::iter::once(("", "", postings)).chain(order.iter().map(move |&pair| {
        let start = offset;
        offset += 12 + 4 * u64::from(pairs.count_of(pair));
        let (name, value) = pairs.symbols(pair);
        (symbols.get(name), symbols.get(value), start)
    }))
}

fn put_chunks(out: &mut Vec<u8>, chunks: &[ChunkMeta]) {
    put_uvarint(out, chunks.len() as u64);
    let mut last: Option<&ChunkMeta> = None;
    for chunk in chunks {
        match last {
            None => put_varint(out, chunk.min_time),
            Some(last) => put_uvarint(out, chunk.min_time.wrapping_sub(last.max_time).cast_unsigned()),
        }
        put_uvarint(out, chunk.max_time.wrapping_sub(chunk.min_time).cast_unsigned());
        match last {
            None => put_uvarint(out, chunk.reference),
            Some(last) => put_varint(out, chunk.reference.wrapping_sub(last.reference).cast_signed()),
        }
        last = Some(chunk);
    }
}

/// The file behind a buffer.
#[derive(Debug)]
struct Output {
    file: Box<dyn File>,
    name: Arc<str>,
    buffer: Vec<u8>,
    position: u64,
}

impl Output {
    fn io(&self) -> impl Fn(io::Error) -> IndexError {
        let file = Arc::clone(&self.name);
        move |source| IndexError::Io { file: Arc::clone(&file), source }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        self.buffer.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        self.file.append(&self.buffer).map_err(self.io())?;
        self.buffer.clear();
        Ok(())
    }

    fn pad(&mut self, align: u64) -> Result<(), IndexError> {
        let zeros = [0; 16];
        let missing = (self.position.next_multiple_of(align) - self.position) as usize;
        self.write(zeros.get(..missing).unwrap_or_default())
    }

    fn sync(&mut self) -> Result<(), IndexError> {
        self.flush()?;
        self.file.sync().map_err(self.io())
    }
}

/// A part of the file between its length and its sum.
struct Section<'a> {
    out: &'a mut Output,
    sum: Crc32c,
    /// What is not written yet.
    pending: Vec<u8>,
}

impl<'a> Section<'a> {
    /// Begins a part whose content will take `len` bytes.
    fn begin(out: &'a mut Output, len: u32) -> Result<Self, IndexError> {
        out.write(&len.to_be_bytes())?;
        Ok(Self { out, sum: Crc32c::new(), pending: Vec::with_capacity(4096) })
    }

    fn write_with(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), IndexError> {
        put(&mut self.pending);
        // A sum over a few bytes costs nearly as much as one over a page.
        if self.pending.len() >= 4096 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), IndexError> {
        self.sum.update(&self.pending);
        self.out.write(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    fn end(mut self) -> Result<(), IndexError> {
        self.flush()?;
        self.out.write(&self.sum.finish().to_be_bytes())
    }
}

/// From a symbol to its number, and back.
#[derive(Debug, Default)]
struct SymbolNumbers {
    text: String,
    /// Where each symbol begins in `text`.
    starts: Vec<u32>,
    table: HashTable<u32>,
}

impl SymbolNumbers {
    fn last(&self) -> Option<&str> {
        self.starts.last().and_then(|&start| self.text.get(start as usize..))
    }

    /// Takes in the next symbol; false if there is no room for it.
    fn push(&mut self, symbol: &str) -> bool {
        let number = self.starts.len() as u32;
        let Ok(start) = u32::try_from(self.text.len()) else { return false };
        self.text.push_str(symbol);
        self.starts.push(start);
        let (text, starts) = (&self.text, &self.starts);
        let hash = |number: u32| xxh64(symbol_at(text, starts, number).as_bytes(), 0);
        self.table.insert_unique(hash(number), number, |&number| hash(number));
        u32::try_from(self.text.len()).is_ok()
    }

    fn get(&self, number: u32) -> &str {
        symbol_at(&self.text, &self.starts, number)
    }

    fn find(&self, symbol: &str) -> Option<u32> {
        self.table.find(xxh64(symbol.as_bytes(), 0), |&number| self.get(number) == symbol).copied()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.starts.len() as u32).map(|number| self.get(number))
    }
}

fn symbol_at<'a>(text: &'a str, starts: &[u32], number: u32) -> &'a str {
    let start = starts.get(number as usize).map_or(text.len(), |&start| start as usize);
    let end = starts.get(number as usize + 1).map_or(text.len(), |&start| start as usize);
    text.get(start..end).unwrap_or_default()
}

/// The different label pairs, numbered as they come.
#[derive(Debug, Default)]
struct Pairs {
    pairs: Vec<Pair>,
    table: HashTable<u32>,
}

#[derive(Debug)]
struct Pair {
    /// Symbols.
    name: u32,
    value: u32,
    /// How many series have it.
    count: u32,
}

fn pair_hash(name: u32, value: u32) -> u64 {
    // Fibonacci hashing: both numbers are small and dense, and the table wants its entropy in the upper bits.
    (u64::from(name) << 32 | u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
        ^ u64::from(value).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

impl Pairs {
    fn number(&mut self, name: u32, value: u32) -> u32 {
        let pairs = &mut self.pairs;
        let is_it =
            |number: &u32| pairs.get(*number as usize).is_some_and(|pair| pair.name == name && pair.value == value);
        if let Some(number) = self.table.find(pair_hash(name, value), is_it) {
            return *number;
        }
        let number = pairs.len() as u32;
        pairs.push(Pair { name, value, count: 0 });
        self.table.insert_unique(pair_hash(name, value), number, |&number| {
            pairs.get(number as usize).map_or(0, |pair| pair_hash(pair.name, pair.value))
        });
        number
    }

    /// Counts a series that has the pair; false if there is no such pair.
    fn count(&mut self, pair: u32) -> bool {
        let pair = self.pairs.get_mut(pair as usize);
        pair.map(|pair| pair.count += 1).is_some()
    }

    fn count_of(&self, pair: u32) -> u32 {
        self.pairs.get(pair as usize).map_or(0, |pair| pair.count)
    }

    fn symbols(&self, pair: u32) -> (u32, u32) {
        self.pairs.get(pair as usize).map_or((0, 0), |pair| (pair.name, pair.value))
    }

    /// The pairs that series have by name, then value. Symbols are numbered in the order of their texts.
    fn in_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.pairs.len() as u32).filter(|pair| self.count_of(*pair) > 0).collect();
        order.sort_unstable_by_key(|&pair| self.symbols(pair));
        order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::Env;
    use crate::index::{Index, PostingsSource};

    type Model = BTreeMap<Labels, Vec<ChunkMeta>>;

    /// Series of few names and values, with chunks that ascend through all of them.
    fn model() -> impl Strategy<Value = Model> {
        let labels = prop::collection::btree_map("[a-d]", "[x-z]{1,3}|ü", 1..4);
        prop::collection::vec((labels, prop::collection::vec((0..90i64, 0..90i64), 0..4)), 0..40).prop_map(|series| {
            let mut model: Model = series
                .into_iter()
                .map(|(labels, spans)| {
                    let mut t = -500;
                    let chunks = spans.into_iter().map(|(gap, len)| {
                        let min_time = t + 1 + gap;
                        t = min_time + len;
                        ChunkMeta { reference: 0, min_time, max_time: t }
                    });
                    (Labels::from_pairs(labels), chunks.collect())
                })
                .collect();
            for (number, chunk) in model.values_mut().flatten().enumerate() {
                chunk.reference = 8 + (number as u64) * 40 + ((number as u64 / 7) << 32);
            }
            model
        })
    }

    fn write(model: &Model, spill_words: usize, ids_a_pass: usize) -> (Env, Vec<SeriesId>) {
        let (env, _) = Env::simulated(1);
        let mut writer = IndexWriter::with_limits(&env.fs, Path::new("/index"), spill_words, ids_a_pass).unwrap();
        let symbols: std::collections::BTreeSet<&str> =
            model.keys().flat_map(|labels| labels.iter().flat_map(|(name, value)| [name, value])).collect();
        symbols.into_iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
        let ids = model.iter().map(|(labels, chunks)| writer.add_series(labels, chunks).unwrap()).collect();
        let len = writer.finish().unwrap();
        assert_eq!(env.fs.stat(Path::new("/index")).unwrap().map(|stat| stat.len), Some(len));
        (env, ids)
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_memory_makes_no_difference(model in model(), spill in 1..60usize, pass in 1..20usize) {
            let (env, ids) = write(&model, spill, pass);
            let bytes = env.fs.read(Path::new("/index")).unwrap();
            prop_assert_eq!(env.fs.list(Path::new("/")).unwrap().len(), 1, "nothing temporary is left");
            let (roomy, _) = write(&model, SPILL_WORDS, IDS_A_PASS);
            prop_assert!(roomy.fs.read(Path::new("/index")).unwrap() == bytes);

            let index = Index::open("index", bytes.into()).unwrap();
            index.verify(|_, _, _| Ok(())).unwrap();
            let all: Vec<_> = index.all().unwrap().into_vec().into_iter().map(SeriesId).collect();
            prop_assert_eq!(&all, &ids);
            let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
            for (id, (expected, expected_chunks)) in ids.iter().zip(&model) {
                index.series(*id, &mut labels, &mut chunks).unwrap();
                prop_assert_eq!((&labels, &chunks), (expected, expected_chunks));
            }
            let mut pairs: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
            for (id, labels) in ids.iter().zip(model.keys()) {
                labels.iter().for_each(|pair| pairs.entry(pair).or_default().push(id.0));
            }
            for (pair, expected) in &pairs {
                prop_assert_eq!(&index.postings(pair.0, pair.1).unwrap().into_vec(), expected);
            }
            let found = index.pairs().skip(1).map(|pair| pair.map(|(name, value, list)| ((name, value), list.into_vec())));
            prop_assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap(), pairs.into_iter().collect::<Vec<_>>());
        }
    }

    /// The series of a model, by numbers.
    #[derive(Debug)]
    struct Rows {
        texts: Vec<(String, String)>,
        rows: Vec<Vec<u32>>,
    }

    impl Rows {
        fn new(model: &Model) -> Self {
            let texts: std::collections::BTreeSet<(&str, &str)> = model.keys().flat_map(Labels::iter).collect();
            let number = |pair| texts.iter().position(|text| *text == pair).unwrap() as u32;
            let rows = model.keys().map(|labels| labels.iter().map(number).collect()).collect();
            Self { rows, texts: texts.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect() }
        }
    }

    impl NumberedSeries for Rows {
        fn symbols(&self) -> Vec<&str> {
            let both = self.texts.iter().flat_map(|(name, value)| [name.as_str(), value]);
            both.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
        }

        fn pairs(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
            Box::new(self.texts.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        }

        fn series(&self, index: usize) -> Option<(SeriesId, &[u32])> {
            self.rows.get(index).map(|row| (SeriesId(index as u32), row.as_slice()))
        }
    }

    fn write_numbered(series: &Arc<Rows>, chunks: &[Option<&Vec<ChunkMeta>>]) -> Vec<u8> {
        let (env, _) = Env::simulated(1);
        let mut writer = IndexWriter::create(&env.fs, Path::new("/index")).unwrap();
        series.symbols().into_iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
        writer.set_numbered(Arc::<Rows>::clone(series)).unwrap();
        for (place, chunks) in chunks.iter().enumerate() {
            if let Some(chunks) = chunks {
                writer.add_numbered(place, chunks).unwrap();
            }
        }
        writer.finish().unwrap();
        env.fs.read(Path::new("/index")).unwrap()
    }

    proptest! {
        #[test]
        fn series_by_numbers_give_the_bytes_that_their_texts_do(
            model in model(), left_out in prop::collection::btree_set(0..40usize, 0..20), pass in 1..20usize) {
            let rows = Arc::new(Rows::new(&model));
            let kept: Model = model
                .iter()
                .enumerate()
                .filter(|(place, _)| !left_out.contains(place))
                .map(|(_, (labels, chunks))| (labels.clone(), chunks.clone()))
                .collect();
            let chunks: Vec<_> = model.iter().map(|(labels, chunks)| kept.contains_key(labels).then_some(chunks)).collect();
            // Symbols that nobody uses are in the file, whoever adds them.
            let (env, _) = Env::simulated(1);
            let mut writer = IndexWriter::with_limits(&env.fs, Path::new("/index"), SPILL_WORDS, pass).unwrap();
            rows.symbols().into_iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
            for (labels, chunks) in &kept {
                writer.add_series(labels, chunks).unwrap();
            }
            writer.finish().unwrap();
            prop_assert!(env.fs.read(Path::new("/index")).unwrap() == write_numbered(&rows, &chunks));
        }
    }

    #[test]
    fn numbers_that_are_out_of_order_are_refused() {
        let texts = ["b", "c"].map(|value| ("a".to_owned(), value.to_owned()));
        let rows =
            |rows: &[&[u32]]| Rows { texts: texts.to_vec(), rows: rows.iter().map(|row| row.to_vec()).collect() };
        let set = |rows: Rows| {
            let mut writer = writer();
            writer.set_numbered(Arc::new(rows)).unwrap();
            writer
        };
        let mut right = set(rows(&[&[0], &[0, 1], &[1]]));
        right.add_numbered(1, &[]).unwrap();
        assert!(right.add_numbered(0, &[]).is_err() && right.add_numbered(1, &[]).is_err());
        assert!(right.add_series(&Labels::from_pairs([("a", "c")]), &[]).is_err());
        right.add_numbered(2, &[]).unwrap();
        assert!(right.add_numbered(3, &[]).is_err());
        assert!(right.set_numbered(Arc::new(rows(&[]))).is_err());
        let mut wrong = set(rows(&[&[1], &[0], &[2], &[]]));
        wrong.add_numbered(0, &[]).unwrap();
        (1..4).for_each(|place| assert!(wrong.add_numbered(place, &[]).is_err(), "{place}"));
        let unknown = [("a".to_owned(), "z".to_owned())].to_vec();
        assert!(writer().set_numbered(Arc::new(Rows { texts: unknown, rows: vec![] })).is_err());
        let backward = texts.iter().rev().cloned().collect();
        assert!(writer().set_numbered(Arc::new(Rows { texts: backward, rows: vec![] })).is_err());
        assert!(writer().add_numbered(0, &[]).is_err());
    }

    fn writer() -> IndexWriter {
        let mut writer = IndexWriter::create(&Env::simulated(1).0.fs, Path::new("/index")).unwrap();
        ["a", "b", "c"].iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
        writer
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let chunk = |reference, min_time, max_time| ChunkMeta { reference, min_time, max_time };
        let (ab, bc) = (Labels::from_pairs([("a", "b")]), Labels::from_pairs([("b", "c")]));
        assert!(writer().add_symbol("b").is_err());
        assert!(writer().add_series(&Labels::empty(), &[]).is_err());
        assert!(writer().add_series(&Labels::from_pairs([("a", "d")]), &[]).is_err());
        assert!(writer().add_series(&ab, &[chunk(8, 5, 4)]).is_err());
        assert!(writer().add_series(&ab, &[chunk(8, 1, 4), chunk(9, 4, 6)]).is_err());
        assert!(writer().add_series(&ab, &[chunk(8, 1, 4), chunk(7, 5, 6)]).is_err());
        let mut writer = writer();
        writer.add_series(&bc, &[chunk(9, 1, 2)]).unwrap();
        assert!(writer.add_series(&bc, &[]).is_err());
        assert!(writer.add_series(&ab, &[]).is_err());
        assert!(writer.add_symbol("d").is_err());
    }
}
