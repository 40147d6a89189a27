//! Reading a log: its newest checkpoint, then the segments behind it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::fs::Fs;

use super::checkpoint::find_checkpoints;
use super::segment::{list_segments, segment_path};
use super::segment_reader::SegmentReader;
use super::{Compression, Decompressor, LogError};

/// Where a record stands. Positions sort in the order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Whether it is in a segment of the log itself, and not of the checkpoint.
    pub in_log: bool,
    /// The segment's number, in the log or in the checkpoint.
    pub segment: u64,
    /// Bytes from the segment's beginning.
    pub offset: u64,
}

/// A record as it is stored: [`Decompressor`] makes it readable, on whatever thread.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// Where it stands.
    pub at: Position,
    /// How it is compressed.
    pub compression: Compression,
    /// Its bytes.
    pub data: Bytes,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the directory that misses one.
    pub path: PathBuf,
    /// Where in the file.
    pub at: Position,
    /// What kind.
    pub kind: DamageKind,
    /// What was found there.
    pub reason: String,
}

/// Kinds of [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The segment ends inside a record, as a crash leaves it: at most the last commits that were not acknowledged or not
    /// synced are gone. Cutting the file to `whole` bytes mends it.
    TornEnd {
        /// Where the last whole record ends.
        whole: u64,
    },
    /// Bytes between records are not what was written; the records around them were read.
    Hole,
    /// The record is whole, but does not say what a record can say.
    Record,
    /// Segments are missing: those before `at.segment`.
    Missing,
    /// Not the log, but the copy of its full chunks in `chunks_head/`: the log has what is missing there.
    HeadChunks,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DamageKind::TornEnd { .. } => "torn end",
            DamageKind::Hole => "damaged bytes",
            DamageKind::Record => "damaged record",
            DamageKind::Missing => "missing segments",
            DamageKind::HeadChunks => "damaged head chunks",
        };
        write!(out, "{kind} in {} at {}: {}", self.path.display(), self.at.offset, self.reason)
    }
}

/// Gives the records of a log in order. Never writes, so a log that somebody else writes to can be read: its end is
/// where this reader found it.
pub struct LogReader {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    /// Directory, whether it is the log itself, number: what is still to be read, last first.
    segments: Vec<(bool, u64)>,
    /// Its number, and where it lies.
    checkpoint: Option<(u64, PathBuf)>,
    current: Option<(PathBuf, bool, u64, SegmentReader)>,
    damage: Vec<Damage>,
    last_segment: Option<u64>,
    /// In this segment, what stands before this offset is not read.
    skip: (u64, u64),
}

impl fmt::Debug for LogReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LogReader").field("dir", &self.dir).field("to_read", &self.segments).finish_non_exhaustive()
    }
}

impl LogReader {
    /// Looks at what lies in `dir`. A missing directory is an empty log.
    ///
    /// # Errors
    /// [`LogError::Io`]. Beside a live owner segments may vanish while they are read (`NotFound`): open again.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Self, LogError> {
        Self::open_range(fs, dir, u64::MAX)
    }

    /// As [`open`](Self::open), but reads no segment behind `last`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub(super) fn open_range(fs: &Arc<dyn Fs>, dir: &Path, last: u64) -> Result<Self, LogError> {
        let checkpoint = find_checkpoints(fs.as_ref(), dir).map_err(LogError::io("list", dir))?.pop();
        let mut damage = Vec::new();
        let mut to_read = Vec::new();
        let mut expected = None;
        if let Some((index, dir)) = &checkpoint {
            let segments = list_segments(fs.as_ref(), dir).map_err(LogError::io("list", dir))?;
            note_gaps(dir, false, &segments, Some(0), &mut damage);
            if segments.is_empty() {
                // Whoever writes a checkpoint begins its first segment, also if it keeps nothing.
                let at = Position { in_log: false, segment: 0, offset: 0 };
                let reason = "the checkpoint has no segment".to_owned();
                damage.push(Damage { path: dir.clone(), at, kind: DamageKind::Missing, reason });
            }
            to_read.extend(segments.into_iter().map(|index| (false, index)));
            expected = Some(index + 1);
        }
        let mut segments = list_segments(fs.as_ref(), dir).map_err(LogError::io("list", dir))?;
        // What the checkpoint stands for may still lie there after a crash.
        segments.retain(|index| *index >= expected.unwrap_or(0) && *index <= last);
        note_gaps(dir, true, &segments, expected, &mut damage);
        let last_segment = segments.last().copied();
        to_read.extend(segments.into_iter().map(|index| (true, index)));
        to_read.reverse();
        Ok(Self {
            fs: Arc::clone(fs),
            dir: dir.to_owned(),
            segments: to_read,
            checkpoint,
            current: None,
            damage,
            last_segment,
            skip: (0, 0),
        })
    }

    /// As [`open`](Self::open), but begins at `offset` in `segment`, where a page begins: the log before that is not read,
    /// and no checkpoint.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open_from(fs: &Arc<dyn Fs>, dir: &Path, segment: u64, offset: u64) -> Result<Self, LogError> {
        let mut segments = list_segments(fs.as_ref(), dir).map_err(LogError::io("list", dir))?;
        segments.retain(|index| *index >= segment);
        let mut damage = Vec::new();
        note_gaps(dir, true, &segments, Some(segment), &mut damage);
        let last_segment = segments.last().copied();
        let to_read = segments.into_iter().rev().map(|index| (true, index)).collect();
        let (fs, dir, skip) = (Arc::clone(fs), dir.to_owned(), (segment, offset));
        Ok(Self { fs, dir, segments: to_read, checkpoint: None, current: None, damage, last_segment, skip })
    }

    /// The number of the checkpoint that is read first, if there is one: it stands for the segments up to that number.
    #[must_use]
    pub fn checkpoint(&self) -> Option<u64> {
        self.checkpoint.as_ref().map(|(index, _)| *index)
    }

    /// The number of the last segment, if there is one.
    #[must_use]
    pub fn last_segment(&self) -> Option<u64> {
        self.last_segment
    }

    /// The next record as it is stored.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn next_stored(&mut self) -> Result<Option<StoredRecord>, LogError> {
        loop {
            if let Some((path, in_log, segment, reader)) = &mut self.current {
                if let Some(stored) = reader.next().map_err(LogError::io("read", path))? {
                    let at = Position { in_log: *in_log, segment: *segment, offset: stored.offset };
                    return Ok(Some(StoredRecord { at, compression: stored.compression, data: stored.data }));
                }
                self.finish_segment();
            }
            let Some((in_log, segment)) = self.segments.pop() else { return Ok(None) };
            let path = self.path(in_log, segment);
            let file = self.fs.open_read(&path).map_err(LogError::io("open", &path))?;
            let from = if in_log && segment == self.skip.0 { self.skip.1 } else { 0 };
            self.current = Some((path, in_log, segment, SegmentReader::from(file, from)));
        }
    }

    /// The next record, decompressed into `record`. One that cannot be is noted as damage and skipped.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn next(
        &mut self,
        decompressor: &mut Decompressor,
        record: &mut Vec<u8>,
    ) -> Result<Option<Position>, LogError> {
        while let Some(stored) = self.next_stored()? {
            match decompressor.decompress(stored.compression, &stored.data, record) {
                Ok(()) => return Ok(Some(stored.at)),
                Err(error) => self.note_bad_record(stored.at, error.to_string()),
            }
        }
        Ok(None)
    }

    /// Notes that the record at `at` cannot be understood: for those who decode.
    pub fn note_bad_record(&mut self, at: Position, reason: String) {
        let path = self.path(at.in_log, at.segment);
        self.damage.push(Damage { path, at, kind: DamageKind::Record, reason });
    }

    /// What was wrong with the log, once all is read; in its order.
    #[must_use]
    pub fn finish(mut self) -> Vec<Damage> {
        self.finish_segment();
        self.damage.sort_by_key(|damage| damage.at);
        self.damage
    }

    fn finish_segment(&mut self) {
        let Some((path, in_log, segment, reader)) = self.current.take() else { return };
        let (holes, tail) = reader.finish();
        let at = |offset| Position { in_log, segment, offset };
        for hole in holes {
            let (at, reason) = (at(hole.offset), hole.reason);
            self.damage.push(Damage { path: path.clone(), at, kind: DamageKind::Hole, reason });
        }
        if let Some(tail) = tail {
            let kind = DamageKind::TornEnd { whole: tail.whole_until };
            self.damage.push(Damage { path, at: at(tail.offset), kind, reason: tail.reason });
        }
    }

    fn path(&self, in_log: bool, segment: u64) -> PathBuf {
        match self.checkpoint.as_ref().filter(|_| !in_log) {
            Some((_, checkpoint)) => segment_path(checkpoint, segment),
            None => segment_path(&self.dir, segment),
        }
    }
}

/// The records of one segment file, wherever it lies, and whether all of it is whole: for repairs and tools.
///
/// # Errors
/// [`LogError::Io`], or what `each` returns.
pub(super) fn read_segment(
    fs: &dyn Fs,
    path: &Path,
    mut each: impl FnMut(Compression, &Bytes) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut reader = SegmentReader::new(fs.open_read(path).map_err(LogError::io("open", path))?);
    while let Some(stored) = reader.next().map_err(LogError::io("read", path))? {
        each(stored.compression, &stored.data)?;
    }
    Ok(())
}

/// A segment's bytes as somebody gave them, read in memory: what a fuzzer and a tool need. Returns how many records were
/// whole.
///
/// # Errors
/// Whatever reading from memory gives: none.
pub fn check_segment(bytes: &[u8], mut each: impl FnMut(Compression, &[u8])) -> io::Result<usize> {
    let mut reader = SegmentReader::new(Box::new(InMemory(Bytes::copy_from_slice(bytes))));
    let mut records = 0;
    while let Some(stored) = reader.next()? {
        each(stored.compression, &stored.data);
        records += 1;
    }
    Ok(records)
}

#[derive(Debug)]
struct InMemory(Bytes);

impl crate::fs::ReadAt for InMemory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

fn note_gaps(dir: &Path, in_log: bool, segments: &[u64], first: Option<u64>, damage: &mut Vec<Damage>) {
    let mut expected = first.or(segments.first().copied());
    for &segment in segments {
        if let Some(missing) = expected.filter(|expected| *expected < segment) {
            let at = Position { in_log, segment, offset: 0 };
            let reason = format!("segments {missing} to {} are not there", segment - 1);
            damage.push(Damage { path: dir.to_owned(), at, kind: DamageKind::Missing, reason });
        }
        expected = Some(segment + 1);
    }
}
