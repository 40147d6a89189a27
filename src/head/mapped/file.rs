//! One file of head chunks, while it grows and when it is finished.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::format::{HEADER_LEN, chunk_len, split_chunk};
use super::{ChunkPlace, MappedError};
use crate::chunk::EncodedChunk;
use crate::fs::ReadAt;

/// What is read of a growing file for a chunk whose length is not known yet. Most are shorter.
const GUESS: usize = 1024;

/// A file of chunks, to be read. Whoever has it can read it, even when it was deleted.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    path: PathBuf,
    content: RwLock<Content>,
    /// The newest sample of its chunks in order; `i64::MIN` as long as there is none.
    newest: AtomicI64,
}

#[derive(Debug)]
enum Content {
    /// Nobody writes to it any more.
    Finished(Bytes),
    /// Somebody does.
    Growing {
        read: Arc<dyn ReadAt>,
        /// Bytes that were handed to the disk.
        written: u64,
        /// Bytes behind them that were not yet.
        tail: Vec<u8>,
    },
}

impl ChunkFile {
    pub(super) fn finished(path: PathBuf, bytes: Bytes) -> Self {
        Self::new(path, Content::Finished(bytes))
    }

    pub(super) fn growing(path: PathBuf, read: Box<dyn ReadAt>, written: u64) -> Self {
        Self::new(path, Content::Growing { read: Arc::from(read), written, tail: Vec::new() })
    }

    fn new(path: PathBuf, content: Content) -> Self {
        Self { path, content: RwLock::new(content), newest: AtomicI64::new(i64::MIN) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts bytes behind the others, in memory: `put` appends them. Where they begin.
    pub(super) fn extend(&self, put: impl FnOnce(&mut Vec<u8>)) -> u64 {
        match &mut *self.content.write() {
            Content::Growing { written, tail, .. } => {
                let at = *written + tail.len() as u64;
                put(tail);
                at
            }
            // Only the file that grows is extended.
            Content::Finished(bytes) => bytes.len() as u64,
        }
    }

    /// Where the next chunk goes, and how much of what is before it is not written yet.
    pub(super) fn end(&self) -> (u64, usize) {
        match &*self.content.read() {
            Content::Growing { written, tail, .. } => (*written + tail.len() as u64, tail.len()),
            Content::Finished(bytes) => (bytes.len() as u64, 0),
        }
    }

    /// A chunk in order ends at `t`.
    pub(super) fn reaches(&self, t: i64) {
        self.newest.fetch_max(t, Ordering::AcqRel);
    }

    /// The newest sample of its chunks in order.
    pub(super) fn newest(&self) -> i64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Where the next chunk goes, and the sum of the last one.
    ///
    /// # Errors
    /// [`MappedError::Io`].
    pub(super) fn end_and_sum(&self) -> Result<(u64, u32), MappedError> {
        // One lock for both: the file grows.
        let content = self.content.read();
        let end = match &*content {
            Content::Growing { written, tail, .. } => *written + tail.len() as u64,
            Content::Finished(bytes) => bytes.len() as u64,
        };
        Ok((end, content.sum_before(end).map_err(MappedError::io(&self.path))?.unwrap_or(0)))
    }

    /// Whether the sum of a chunk that ends at `end` is this one.
    ///
    /// # Errors
    /// [`MappedError::Io`].
    pub(super) fn has_sum(&self, end: u64, sum: u32) -> Result<bool, MappedError> {
        Ok(self.content.read().sum_before(end).map_err(MappedError::io(&self.path))? == Some(sum))
    }

    /// Hands what is in memory alone to `write`, which gets it and where in the file it belongs. Readers go on.
    pub(super) fn flush(&self, write: impl FnOnce(u64, &[u8]) -> Result<(), MappedError>) -> Result<(), MappedError> {
        let taken = match &*self.content.read() {
            Content::Growing { written, tail, .. } if !tail.is_empty() => {
                write(*written, tail)?;
                tail.len()
            }
            _ => return Ok(()),
        };
        if let Content::Growing { written, tail, .. } = &mut *self.content.write() {
            *written += taken as u64;
            // One writer at a time: nothing came behind it.
            tail.clear();
        }
        Ok(())
    }

    /// Nobody writes any more: the file as bytes.
    pub(super) fn finish(&self, bytes: Bytes) {
        *self.content.write() = Content::Finished(bytes);
    }

    fn damaged(&self, offset: u64, reason: String) -> MappedError {
        MappedError::Corrupt { file: self.path.clone(), offset, reason }
    }

    /// The chunk at `place`, which is in this file; checked against its sum.
    ///
    /// # Errors
    /// [`MappedError::Corrupt`], [`MappedError::Io`].
    pub(crate) fn read(&self, place: ChunkPlace) -> Result<EncodedChunk, MappedError> {
        let offset = place.offset();
        let outside = || self.damaged(offset, "no chunk begins here".to_owned());
        if offset < HEADER_LEN {
            return Err(outside());
        }
        let split = |bytes: &Bytes| {
            let (found, data, _) = split_chunk(bytes, offset).map_err(|reason| self.damaged(offset, reason))?;
            Ok(EncodedChunk { encoding: found.encoding, data: bytes.slice_ref(data) })
        };
        // What was handed to the disk is read without the lock: whoever puts a chunk here does not wait for it.
        let read = match &*self.content.read() {
            Content::Finished(bytes) if offset < bytes.len() as u64 => return split(&bytes.slice(offset as usize..)),
            Content::Finished(_) => return Err(outside()),
            Content::Growing { written, tail, .. } if offset >= *written => {
                let bytes = tail.get((offset - written) as usize..).ok_or_else(outside)?;
                let len = chunk_len(bytes).unwrap_or(0).min(bytes.len() as u64) as usize;
                return split(&Bytes::copy_from_slice(bytes.get(..len).unwrap_or_default()));
            }
            Content::Growing { read, .. } => Arc::clone(read),
        };
        let at = |len: usize| {
            let mut bytes = vec![0; len];
            let read = read.read_at(offset, &mut bytes).map_err(MappedError::io(&self.path))?;
            bytes.truncate(read);
            Ok::<_, MappedError>(bytes)
        };
        let mut bytes = at(GUESS)?;
        let len = chunk_len(&bytes).ok_or_else(outside)?;
        if len > bytes.len() as u64 {
            // Before memory is taken for it: a length may be anything.
            let there = read.len().map_err(MappedError::io(&self.path))?.saturating_sub(offset);
            bytes = at(len.min(there) as usize)?;
        }
        bytes.truncate(len as usize);
        split(&Bytes::from(bytes))
    }
}

impl Content {
    /// The four bytes before `end`, if the file goes that far.
    fn sum_before(&self, end: u64) -> io::Result<Option<u32>> {
        let Some(at) = end.checked_sub(4) else { return Ok(None) };
        let in_memory = |bytes: &[u8], at: u64| {
            let bytes = bytes.get(usize::try_from(at).unwrap_or(usize::MAX)..)?;
            bytes.first_chunk::<4>().map(|sum| u32::from_be_bytes(*sum))
        };
        match self {
            Self::Finished(bytes) => Ok(in_memory(bytes, at)),
            // Whole chunks are handed to the disk, never a part of a sum.
            Self::Growing { written, tail, .. } if at >= *written => Ok(in_memory(tail, at - written)),
            Self::Growing { written, .. } if end > *written => Ok(None),
            Self::Growing { read, .. } => {
                let mut sum = [0; 4];
                let is_whole = read.read_at(at, &mut sum)? == sum.len();
                Ok(is_whole.then(|| u32::from_be_bytes(sum)))
            }
        }
    }
}
