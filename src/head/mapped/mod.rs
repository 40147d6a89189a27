//! Head chunks on disk: `chunks_head/`.
//!
//! A chunk that is full never changes, so it need not stay in memory: it goes to a file, and its series keeps when it is
//! and where it lies. The files are a copy of what the log says. That is why they are written without ceremony, and why a
//! damaged one costs nothing but time: what is sound of them is taken at opening, and the log is read for the rest. It
//! cannot be taken piecemeal, though: the log's samples up to a series' last chunk are skipped, so what lies behind damage
//! is dropped with it.
//!
//! Files are numbered and end at 128 MiB. One grows, the others are finished and mapped; opening begins a new one. All
//! bytes are Prometheus's; `docs/format/chunks_head.md` describes them.

#![warn(clippy::indexing_slicing)]

mod error;
mod file;
pub(crate) mod format;
mod open;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub(crate) use error::MappedError;
pub(crate) use file::ChunkFile;
pub(crate) use open::Opened;
pub use open::check_head_chunks;

use crate::chunk::{EncodedChunk, Encoding};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{File, Fs, create_dir_durably};
use crate::model::TimeRange;
use format::{HEADER_LEN, put_chunk, put_header};

/// The directory's name in a data directory.
pub(crate) const CHUNKS_HEAD_DIR: &str = "chunks_head";
/// A file is not longer than this.
const FILE_SIZE: u64 = 128 << 20;
/// Bytes collected before they are handed to the disk.
const BUFFER: usize = 1 << 20;
/// Bytes collected at most, when the disk takes none.
const MAX_BUFFER: usize = 8 << 20;
/// Bytes that a chunk takes beside its data, at most.
const OVERHEAD: u64 = 8 + 16 + 1 + 5 + 4;

/// Where a chunk lies: the file's number in the upper half, the offset in the lower. Later chunks have larger places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkPlace(pub(crate) u64);

impl ChunkPlace {
    fn new(file: u32, offset: u64) -> Self {
        Self(u64::from(file) << 32 | offset)
    }

    /// The number of its file.
    pub(crate) fn file(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn offset(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

/// A chunk that was there at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The series' number in the log.
    pub(crate) series: u64,
    /// From its first to its last sample.
    pub(crate) range: TimeRange,
    /// Where it lies.
    pub(crate) place: ChunkPlace,
    /// How it is to be read.
    pub(crate) encoding: Encoding,
    /// How many samples it has.
    pub(crate) samples: u16,
    /// Whether its samples came out of order.
    pub(crate) out_of_order: bool,
}

/// How far a file had got: what a snapshot of the head rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileThen {
    /// Its number.
    pub(crate) number: u32,
    /// Where its last chunk ended.
    pub(crate) end: u64,
    /// That chunk's sum, which tells the file from another one that got its number; `None`: not known.
    pub(crate) sum: Option<u32>,
    /// The newest sample of its chunks in order.
    pub(crate) newest: i64,
}

/// The files of one directory.
#[derive(Debug)]
pub(crate) struct MappedChunks {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    /// Bytes in a file.
    limit: u64,
    /// None for whoever only reads.
    writer: Option<Mutex<Writer>>,
    files: RwLock<BTreeMap<u32, Arc<ChunkFile>>>,
}

/// Who writes, to the last file.
#[derive(Debug)]
struct Writer {
    /// The number of the next file.
    next: u32,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    number: u32,
    shared: Arc<ChunkFile>,
    file: Box<dyn File>,
    /// A write failed: there may be a part of it in the file.
    is_torn: bool,
    /// Whether the name is durable.
    is_named: bool,
}

impl MappedChunks {
    /// Puts a chunk behind the others. It can be read at once, and is on the disk after [`flush`](Self::flush).
    ///
    /// # Errors
    /// `Io`, `Full`: the chunk is not taken. `Unsupported` if the directory was opened for reading.
    pub(crate) fn append(
        &self,
        series: u64,
        range: TimeRange,
        chunk: &EncodedChunk,
        out_of_order: bool,
    ) -> Result<ChunkPlace> {
        let mut writer = self.writer()?.lock();
        let len = chunk.data.len() as u64 + OVERHEAD;
        if let Some(current) = &writer.current {
            let (end, waiting) = current.shared.end();
            if end + len > self.limit && end > HEADER_LEN {
                self.end_file(&mut writer)?;
            } else if waiting + len as usize > MAX_BUFFER {
                // It could not be written before. A chunk that is that long itself goes through at once.
                self.flush_current(&mut writer)?;
            }
        }
        let current = self.current(&mut writer)?;
        let put = |out: &mut Vec<u8>| put_chunk(out, series, range, chunk, out_of_order);
        if !out_of_order {
            current.shared.reaches(range.max);
        }
        let place = ChunkPlace::new(current.number, current.shared.extend(put));
        if current.shared.end().1 >= BUFFER
            && let Err(error) = self.flush_current(&mut writer)
        {
            // It is tried again.
            tracing::warn!(%error, "writing head chunks");
        }
        Ok(place)
    }

    /// The chunk at `place`.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    #[cfg_attr(not(test), expect(dead_code, reason = "chunks in order are read through their files"))]
    pub(crate) fn read(&self, place: ChunkPlace) -> Result<EncodedChunk> {
        let file = self.file(place).ok_or_else(|| MappedError::Corrupt {
            file: self.dir.join(file_name(place.file())),
            offset: place.offset(),
            reason: "a chunk is here, and the file is missing".to_owned(),
        })?;
        Ok(file.read(place)?)
    }

    /// The file that a chunk lies in, if it was not deleted yet. Whoever has it can read it after that, too.
    pub(crate) fn file(&self, place: ChunkPlace) -> Option<Arc<ChunkFile>> {
        self.files.read().get(&place.file()).cloned()
    }

    /// Hands what was appended to the disk.
    ///
    /// # Errors
    /// `Io`, `Full`: what could not be written stays in memory, and the next call tries it again.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut writer = self.writer()?.lock();
        Ok(self.flush_current(&mut writer)?)
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub(crate) fn sync(&self) -> Result<()> {
        let mut writer = self.writer()?.lock();
        self.flush_current(&mut writer)?;
        if let Some(current) = &mut writer.current {
            current.file.sync().map_err(MappedError::io(current.shared.path()))?;
            if !current.is_named {
                self.fs.sync_dir(&self.dir).map_err(MappedError::io(&self.dir))?;
                current.is_named = true;
            }
        }
        Ok(())
    }

    /// Deletes the files before the one with the number `file`, as soon as nobody writes to them: the one that grows is
    /// ended, and goes next time. Who still has one can read it.
    ///
    /// # Errors
    /// `Io`: what was deleted until then is gone.
    pub(crate) fn truncate_before(&self, file: u32) -> Result<()> {
        let mut writer = self.writer()?.lock();
        if writer.current.as_ref().is_some_and(|current| current.shared.end().0 > HEADER_LEN) {
            self.end_file(&mut writer)?;
        }
        // From the front: without gaps at any moment.
        loop {
            let first = self.files.read().first_key_value().map(|(number, file)| (*number, file.path().to_owned()));
            let Some((number, path)) = first.filter(|(number, _)| *number < file) else { return Ok(()) };
            match self.fs.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(MappedError::io(&path)(error).into());
                }
                _ => drop(self.files.write().remove(&number)),
            }
        }
    }

    /// How far each file has got.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn files_now(&self) -> Result<Vec<FileThen>> {
        let files = self.files.read();
        let files = files.iter().map(|(&number, file)| {
            let (end, sum) = file.end_and_sum()?;
            Ok(FileThen { number, end, sum: Some(sum), newest: file.newest() })
        });
        files.collect()
    }

    /// The first of these files that is not there with all it had, unless it was deleted from the front and nothing of it
    /// is wanted any more: it ended before `floor`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn first_missing(&self, then: &[FileThen], floor: i64) -> Result<Option<u32>> {
        let files = self.files.read();
        let first = files.first_key_value().map_or(u32::MAX, |(number, _)| *number);
        for FileThen { number, end, sum, newest } in then {
            let is_there = match files.get(number) {
                Some(file) if file.end().0 < *end => false,
                Some(file) => sum.map_or(Ok(true), |sum| file.has_sum(*end, sum))?,
                None => *number < first && *newest < floor,
            };
            if !is_there {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }

    /// The number of the first file, if there is one.
    pub(crate) fn first_file(&self) -> Option<u32> {
        self.files.read().first_key_value().map(|(number, _)| *number)
    }

    /// The number that the next file gets, or the one that grows has: all chunks from now on lie there or behind.
    pub(crate) fn next_file(&self) -> u32 {
        let Some(writer) = &self.writer else { return u32::MAX };
        let writer = writer.lock();
        writer.current.as_ref().map_or(writer.next, |current| current.number)
    }

    /// Whether chunks can be put here.
    pub(crate) fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    fn writer(&self) -> Result<&Mutex<Writer>> {
        let reason = "head chunks were opened for reading";
        self.writer.as_ref().ok_or_else(|| Error::new(ErrorKind::Unsupported, reason))
    }

    /// The file that grows, which is begun if there is none.
    fn current<'a>(&self, writer: &'a mut Writer) -> Result<&'a Current, MappedError> {
        if writer.current.is_none() {
            let number = writer.next;
            let next = number_after(&self.dir, number)?;
            create_dir_durably(self.fs.as_ref(), &self.dir).map_err(MappedError::io(&self.dir))?;
            let path = self.dir.join(file_name(number));
            let file = match self.fs.create(&path) {
                // Of an attempt that failed half way.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.fs.remove_file(&path).and_then(|()| self.fs.create(&path))
                }
                created => created,
            };
            let file = file.map_err(MappedError::io(&path))?;
            let read = match self.fs.open_read(&path) {
                Ok(read) => read,
                Err(error) => {
                    // An empty file between others would be damage.
                    let _ = self.fs.remove_file(&path);
                    return Err(MappedError::io(&path)(error));
                }
            };
            let shared = Arc::new(ChunkFile::growing(path, read, 0));
            shared.extend(put_header);
            self.files.write().insert(number, Arc::clone(&shared));
            writer.next = next;
            writer.current = Some(Current { number, shared, file, is_torn: false, is_named: false });
        }
        writer.current.as_ref().ok_or_else(|| MappedError::io(&self.dir)(io::ErrorKind::NotFound.into()))
    }

    fn flush_current(&self, writer: &mut Writer) -> Result<(), MappedError> {
        let Some(Current { shared, file, is_torn, .. }) = &mut writer.current else { return Ok(()) };
        shared.flush(|at, bytes| {
            if *is_torn {
                file.set_len(at).map_err(MappedError::io(shared.path()))?;
                *is_torn = false;
            }
            file.append(bytes).map_err(|error| {
                *is_torn = true;
                MappedError::io(shared.path())(error)
            })
        })
    }

    /// Ends the file that grows. The next one is begun when there is a chunk for it.
    fn end_file(&self, writer: &mut Writer) -> Result<(), MappedError> {
        self.flush_current(writer)?;
        let Some(mut current) = writer.current.take() else { return Ok(()) };
        let path = current.shared.path();
        // Before the next one is there: damage in a file is to be at the end of the last one alone.
        let synced = current.file.sync().map_err(MappedError::io(path));
        let synced = synced.and_then(|()| self.fs.sync_dir(&self.dir).map_err(MappedError::io(&self.dir)));
        drop(current.file);
        if let Ok(bytes) = self.fs.map(path) {
            current.shared.finish(bytes);
        }
        synced
    }
}

/// The name of a file.
fn file_name(number: u32) -> String {
    format!("{number:06}")
}

/// The number of the file behind the one with the number `last` in `dir`.
fn number_after(dir: &Path, last: u32) -> Result<u32, MappedError> {
    let none = || io::Error::new(io::ErrorKind::InvalidData, format!("no number is left for a file behind {last}"));
    last.checked_add(1).ok_or_else(|| MappedError::io(dir)(none()))
}

/// The number of the file with this name, if it is one of head chunks.
fn file_number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
}
