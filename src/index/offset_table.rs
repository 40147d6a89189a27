//! The postings offset table: for each label pair, where its list lies.
//!
//! ```text
//! len b4 | count b4 | ( 2 | uvarint len, name | uvarint len, value | uvarint offset )* | CRC-32C b4
//! ```
//!
//! Entries are sorted by name, then value; the pair ("", "") comes first and stands for all series. In memory there is an
//! entry a name and the place of every 16th value: a look-up searches those and walks at most fifteen entries. The whole
//! table is checked when the index is opened. Format 1 does not sort it; then (and if any other index should not) the
//! place of every entry is kept, in order.

use std::sync::Arc;

use bytes::Bytes;

use super::IndexError;
use super::error::Place;
use super::symbols::section;
use crate::codec::{ReadError, Reader};

/// How many entries share one remembered place.
const STEP: u32 = 16;

#[derive(Debug)]
pub(super) struct OffsetTable {
    file: Arc<str>,
    content: Bytes,
    /// Where `content` begins in the file.
    offset: u64,
    /// Sorted by name.
    names: Vec<Name>,
    /// Places of entries in `content`, name after name.
    places: Vec<u32>,
    step: u32,
    entries: u32,
}

#[derive(Debug)]
struct Name {
    name: Box<str>,
    /// How many entries stand before this name's.
    rank: u32,
    count: u32,
    /// Its first place in `places`.
    place: u32,
}

/// A label pair and where its list lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    /// In the file.
    pub(super) offset: u64,
    /// The entry's number in (name, value) order.
    pub(super) rank: u32,
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8], u64), ReadError> {
    // The number of keys: 2, ever. Checked when the table is opened.
    reader.uvarint()?;
    Ok((reader.uvarint_bytes("label name")?, reader.uvarint_bytes("label value")?, reader.uvarint()?))
}

impl OffsetTable {
    /// Opens the table that `bytes` begin with; in the file they begin at `offset`.
    pub(super) fn open(file: &Arc<str>, bytes: &Bytes, offset: u64) -> Result<Self, IndexError> {
        let place = Place { file, what: "postings offset table", offset };
        let content = section(bytes, place)?;
        let mut reader = Reader::new(&content);
        let entries = reader.be_u32().map_err(place.read())?;
        let mut table = Self {
            file: Arc::clone(file),
            content: content.clone(),
            offset: offset + 4,
            names: Vec::new(),
            places: Vec::new(),
            step: STEP,
            entries,
        };
        let mut last: Option<(&str, &str)> = None;
        let mut sorted = true;
        for rank in 0..entries {
            let start = reader.offset() as u32;
            let keys = Reader::new(reader.rest()).uvarint().map_err(place.read())?;
            if keys != 2 {
                return Err(place.corrupt(format!("entry at {start} has {keys} keys, not 2")));
            }
            let (name, value, _) = read_entry(&mut reader).map_err(place.read())?;
            let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
                return Err(place.corrupt(format!("entry at {start} is not UTF-8")));
            };
            sorted &= last.is_none_or(|last| last < (name, value));
            last = Some((name, value));
            if sorted {
                table.note(name, rank, start);
            }
        }
        if !sorted {
            table.sort()?;
        }
        table.places.shrink_to_fit();
        Ok(table)
    }

    /// Takes in the entry `rank`, which is the next.
    fn note(&mut self, name: &str, rank: u32, start: u32) {
        match self.names.last_mut() {
            Some(last) if *last.name == *name => {
                if last.count.is_multiple_of(self.step) {
                    self.places.push(start);
                }
                last.count += 1;
            }
            _ => {
                self.names.push(Name { name: name.into(), rank, count: 1, place: self.places.len() as u32 });
                self.places.push(start);
            }
        }
    }

    /// Keeps the place of every entry, in order.
    fn sort(&mut self) -> Result<(), IndexError> {
        self.names.clear();
        self.places.clear();
        self.step = 1;
        let content = self.content.clone();
        let mut all: Vec<(&str, &str, u32)> = Vec::new();
        let mut reader = Reader::new(&content);
        reader.be_u32().map_err(self.place().read())?;
        for _ in 0..self.entries {
            let start = reader.offset() as u32;
            let (name, value, _) = read_entry(&mut reader).map_err(self.place().read())?;
            all.push((
                std::str::from_utf8(name).unwrap_or_default(),
                std::str::from_utf8(value).unwrap_or_default(),
                start,
            ));
        }
        all.sort();
        // Two lists for a pair would be two answers: neither can be known to be the right one.
        let twice = all.array_windows().find(|[a, b]| (a.0, a.1) == (b.0, b.1));
        if let Some([(name, value, _), (_, _, start)]) = twice {
            return Err(self.place().corrupt(format!("entry at {start}: {name}={value:?} stands there twice")));
        }
        for (rank, (name, _, start)) in all.into_iter().enumerate() {
            self.note(name, rank as u32, start);
        }
        Ok(())
    }

    fn place(&self) -> Place<'_> {
        Place { file: &self.file, what: "postings offset table", offset: self.offset }
    }

    /// How many lists there are.
    pub(super) fn len(&self) -> usize {
        self.entries as usize
    }

    /// Bytes that it keeps beside the file's own.
    pub(super) fn memory(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.name.len()).sum();
        names + self.names.capacity() * size_of::<Name>() + self.places.capacity() * size_of::<u32>()
    }

    /// The names, ascending; the empty one is not among them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &*name.name).filter(|name| !name.is_empty())
    }

    fn name(&self, name: &str) -> Option<&Name> {
        let at = self.names.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.names.get(at)
    }

    /// The entries of `name` from the first whose value is not below `from`.
    pub(super) fn values(&self, name: &str, from: &str) -> Values<'_> {
        let Some(name) = self.name(name) else { return Values { table: self, name: None, next: 0, end: 0, at: None } };
        let end = name.rank + name.count;
        let mut values = Values { table: self, name: Some(name), next: name.rank, end, at: None };
        if from.is_empty() {
            return values;
        }
        // The last remembered value that is below `from`, or the first of all.
        let (mut low, mut high) = (0, name.count.div_ceil(self.step));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut probe = Values { next: name.rank + middle * self.step, ..values };
            match probe.read() {
                Ok(entry) if entry.value < from => low = middle + 1,
                _ => high = middle,
            }
        }
        values.next = name.rank + low.saturating_sub(1) * self.step;
        loop {
            let before = values;
            match values.next() {
                Some(Ok(entry)) if entry.value < from => {}
                None => return values,
                _ => return before,
            }
        }
    }

    /// The entry of a pair.
    pub(super) fn find(&self, name: &str, value: &str) -> Result<Option<Entry<'_>>, IndexError> {
        match self.values(name, value).next() {
            Some(Ok(entry)) if entry.value == value => Ok(Some(entry)),
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        }
    }

    /// The entry number `rank` in (name, value) order.
    pub(super) fn by_rank(&self, rank: u32) -> Option<Result<Entry<'_>, IndexError>> {
        let name = self.names.get(self.names.partition_point(|name| name.rank <= rank).checked_sub(1)?)?;
        // From the last remembered place on.
        let next = name.rank + (rank - name.rank) / self.step * self.step;
        let mut values = Values { table: self, name: Some(name), next, end: name.rank + name.count, at: None };
        values.nth((rank - next) as usize)
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Entry<'_>, IndexError>> {
        self.names.iter().flat_map(|name| self.values(&name.name, ""))
    }
}

/// The entries of one name, ascending by value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    table: &'a OffsetTable,
    name: Option<&'a Name>,
    /// The rank of the next entry.
    next: u32,
    end: u32,
    /// Where the next entry stands, if that is known without looking it up.
    at: Option<u32>,
}

impl<'a> Values<'a> {
    fn read(&mut self) -> Result<Entry<'a>, IndexError> {
        let table = self.table;
        let place = table.place();
        let Some(name) = self.name else { return Err(place.corrupt("no such name")) };
        let number = self.next - name.rank;
        let start = match self.at {
            Some(at) if !number.is_multiple_of(table.step) => at,
            // Remembered: the first of each `step`.
            _ => {
                let remembered = table.places.get((name.place + number / table.step) as usize);
                *remembered.ok_or_else(|| place.corrupt(format!("no entry {}", self.next)))?
            }
        };
        let mut reader = Reader::new(table.content.get(start as usize..).unwrap_or_default());
        let (_, value, offset) = read_entry(&mut reader).map_err(place.read())?;
        let value = std::str::from_utf8(value).map_err(|error| place.corrupt(error))?;
        let entry = Entry { name: &name.name, value, offset, rank: self.next };
        self.next += 1;
        self.at = Some(start + reader.offset() as u32);
        Ok(entry)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Entry<'a>, IndexError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.next = self.end;
        }
        Some(entry)
    }
}
