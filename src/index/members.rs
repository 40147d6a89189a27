//! What an index remembers of its series until their postings are written: their ids, and the pairs of each.
//!
//! Pairs that were looked up go through memory up to a limit and through a temporary file beyond it. Those of numbered
//! series stay where they are, and their ids alone are noted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::numbered::NumberedSeries;
use super::{IndexError, SeriesId};
use crate::fs::{File, Fs, ReadAt};

/// Bytes read from the temporary file at a time.
const BUFFER: usize = 1 << 20;

/// The series' ids with their pairs.
#[derive(Debug)]
pub(super) enum Members {
    /// They came one by one.
    Spilled(Spill),
    /// They are the series of a source, in its order.
    Numbered(Numbered),
}

impl Members {
    /// Calls `take` with each series and its pairs, in order.
    pub(super) fn read(&self, mut take: impl FnMut(u32, &[u32]) -> Result<(), IndexError>) -> Result<(), IndexError> {
        match self {
            Self::Spilled(spill) => spill.read(take),
            Self::Numbered(Numbered { series, ids }) => {
                for (index, &id) in ids.iter().enumerate().filter(|(_, id)| **id != 0) {
                    let pairs = series.series(index).map_or(&[][..], |(_, pairs)| pairs);
                    take(id, pairs)?;
                }
                Ok(())
            }
        }
    }

    /// Leaves nothing temporary behind.
    pub(super) fn remove(&mut self) -> Result<(), IndexError> {
        match self {
            Self::Spilled(spill) => spill.remove(),
            Self::Numbered(_) => Ok(()),
        }
    }
}

/// Numbered series, and the ids that they got.
#[derive(Debug)]
pub(super) struct Numbered {
    series: Arc<dyn NumberedSeries>,
    /// By place in label order; 0 for those that were left out, which is the header's place.
    ids: Vec<u32>,
}

impl Numbered {
    pub(super) fn new(series: Arc<dyn NumberedSeries>) -> Self {
        Self { series, ids: Vec::new() }
    }

    /// The pairs of the series at `index`; none unless it comes behind those that have ids.
    pub(super) fn next(&self, index: usize) -> Option<&[u32]> {
        if index < self.ids.len() { None } else { self.series.series(index).map(|(_, pairs)| pairs) }
    }

    /// The pairs of the series that got an id last.
    pub(super) fn last(&self) -> Option<&[u32]> {
        self.series.series(self.ids.len().checked_sub(1)?).map(|(_, pairs)| pairs)
    }

    /// Gives the series at `index`, which is next, an id.
    pub(super) fn push(&mut self, index: usize, id: SeriesId) {
        self.ids.resize(index, 0);
        self.ids.push(id.0);
    }
}

/// Pairs in memory up to a limit and in a temporary file beyond it.
#[derive(Debug)]
pub(super) struct Spill {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// The index's name, for errors.
    name: Arc<str>,
    /// `id, count, pair…` a series.
    words: Vec<u32>,
    limit: usize,
    file: Option<Box<dyn File>>,
}

impl Spill {
    pub(super) fn new(fs: Arc<dyn Fs>, path: PathBuf, name: Arc<str>, limit: usize) -> Self {
        Self { fs, path, name, words: Vec::new(), limit, file: None }
    }

    fn io(&self) -> impl Fn(io::Error) -> IndexError + use<> {
        let file = Arc::clone(&self.name);
        move |source| IndexError::Io { file: Arc::clone(&file), source }
    }

    pub(super) fn push(&mut self, id: SeriesId, pairs: &[u32]) -> Result<(), IndexError> {
        self.words.extend([id.0, pairs.len() as u32]);
        self.words.extend_from_slice(pairs);
        if self.words.len() < self.limit {
            return Ok(());
        }
        let io = self.io();
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.fs.create(&self.path).map_err(&io)?,
        };
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.words.clear();
        file.append(&bytes).map_err(&io)?;
        self.file = Some(file);
        Ok(())
    }

    /// Calls `take` with each series and its pairs, in order.
    fn read(&self, mut take: impl FnMut(u32, &[u32]) -> Result<(), IndexError>) -> Result<(), IndexError> {
        if self.file.is_some() {
            let file = self.fs.open_read(&self.path).map_err(self.io())?;
            let mut words = Words { file: &*file, offset: 0, buffer: Vec::new(), start: 0 };
            while let Some(&[id, count]) = words.take(2).map_err(self.io())? {
                match words.take(count as usize).map_err(self.io())? {
                    Some(pairs) => take(id, pairs)?,
                    None => return Err(self.io()(io::ErrorKind::UnexpectedEof.into())),
                }
            }
        }
        let mut rest: &[u32] = &self.words;
        while let [id, count, tail @ ..] = rest {
            let (pairs, tail) = tail.split_at_checked(*count as usize).unwrap_or((tail, &[]));
            take(*id, pairs)?;
            rest = tail;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), IndexError> {
        if self.file.take().is_some() {
            self.fs.remove_file(&self.path).map_err(self.io())?;
        }
        Ok(())
    }
}

/// Words of a temporary file, a piece at a time.
struct Words<'a> {
    file: &'a dyn ReadAt,
    offset: u64,
    buffer: Vec<u32>,
    /// How much of the buffer is taken already.
    start: usize,
}

impl Words<'_> {
    /// The next `count` words; nothing if the file has no more.
    fn take(&mut self, count: usize) -> io::Result<Option<&[u32]>> {
        while self.buffer.len() - self.start < count {
            self.buffer.drain(..self.start);
            self.start = 0;
            let mut bytes = vec![0; BUFFER];
            let read = self.file.read_at(self.offset, &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            self.offset += read as u64;
            let words = bytes.get(..read).unwrap_or_default().as_chunks::<4>().0;
            self.buffer.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        }
        let words = self.buffer.get(self.start..self.start + count);
        self.start += count;
        Ok(words)
    }
}
