//! Chunk snapshots: the head as it was, so that a restart reads back only what came after.
//!
//! ```text
//! chunk_snapshot.SSSSSS.OOOOOOOOOO/   a log of its own (the framing of `wal`); stands for the log before segment S, offset O
//!   00000000 …
//!     1  series       be64 ref, labels, be64 0, uvarint 0: no open chunk, or 1 and the chunk
//!        chunk        be64 mint, be64 maxt, encoding byte, uvarint len bytes, last value
//!        last value   of floats: 3 × (be64 0, be64 0), be64 0, be64 value; of histograms: a histogram as in the log
//!     2  tombstones   uvarint len, {1, (uvarint ref, varint mint, varint maxt)*}     once, behind all series
//!     3  exemplars    as in the log
//!   narthex           what the log says besides and the format above has no place for; the original does not look at it
//! ```
//!
//! A snapshot has no full chunks: they are in `chunks_head`, which is written and synced before. It stands for nothing
//! that is not also in the log, the log is never shortened because of one, and so a snapshot that is damaged, or that
//! does not fit what lies beside it, is reported and the whole log is read instead.
//!
//! It counts only if `chunks_head` still has all that it had then. A snapshot of ours says how far each file had got; with
//! one of the original the log before it is asked for samples that no chunk has. An owner removes a snapshot that does not
//! count before it mends `chunks_head` or puts anything there: behind that, nobody could see any more that something was
//! missing.
//!
//! # How it is consistent while commits go on
//!
//! Nothing stops meanwhile. What is captured of each series is what stands there when its turn comes; what makes the
//! whole right is the position P from which the log is read behind it, and that reading there is idempotent.
//!
//! 1. A new segment is begun: P is its start. (The original counts pages from where it begins to read, so P must be at
//!    the beginning of a page; a segment's start is, and it stays where it is whatever is repaired.)
//! 2. A commit whose record stands before P may not be in memory yet. Commits say so before they write to the log and
//!    again when they have applied everything; those that were under way at P are waited for. A deletion holds the lock
//!    that the snapshot holds. So all that stands before P is in memory: samples, deletions, exemplars, metadata. And a
//!    series is in memory before its record is in the log's queue.
//! 3. The series are captured one by one, each under its lock. What was full before is in `chunks_head`; a series that
//!    has filled a chunk since then waits until that is there too.
//! 4. What is captured may be from behind P. Read again from there, a sample at or before its series' newest is skipped,
//!    a deletion deletes once more what it deleted (later samples are newer than its end), an exemplar that is there
//!    already is not added, metadata ends as the last that was said.
//! 5. `chunks_head` is synced, and the log: no sample is in the snapshot of which a power cut could take the commit.
//! 6. The snapshot is synced under a temporary name, renamed, the directory synced; older ones are removed after.
//!
//! So at any moment there is the newest whole snapshot, or an older one with a log that still has everything behind it.
//! When a checkpoint stands for P and more, the snapshot tells nothing that is not read anyway, and is not read.

#![warn(clippy::indexing_slicing)]

mod covered;
mod decode;
mod encode;
mod extra;
mod load;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::codec::ReadError;
use crate::error::{Error, ErrorKind};
use crate::fs::Fs;
use crate::wal::record::RecordError;

pub(crate) use decode::{Record, decode};
pub(crate) use encode::{put_exemplars, put_series, put_tombstones};
#[cfg(feature = "testkit")]
pub(crate) use extra::Extra;
pub(super) use load::{LoadedSnapshot, find_snapshot};
pub(super) use write::{remove_leftovers, remove_snapshots};

const PREFIX: &str = "chunk_snapshot.";
/// Ends the name of one that is being written, or removed.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The first byte of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Series = 1,
    Tombstones = 2,
    Exemplars = 3,
}

/// The version of the tombstones that stand in a record.
const TOMBSTONES_VERSION: u8 = 1;

/// Up to where in the log a snapshot stands for it. They sort by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotPosition {
    /// The segment from which the log is read behind it.
    pub(crate) segment: u64,
    /// Where in that segment.
    pub(crate) offset: u64,
}

impl SnapshotPosition {
    /// The directory of this snapshot of the head in `dir`.
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{PREFIX}{:06}.{:010}", self.segment, self.offset))
    }

    /// The position that a directory's name tells, if it is a finished snapshot's.
    fn of_name(name: &str) -> Option<Self> {
        let (segment, offset) = name.strip_prefix(PREFIX)?.split_once('.')?;
        let number = |digits: &str| {
            // `parse` would take a sign.
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        };
        Some(Self { segment: number(segment)?, offset: number(offset)? })
    }
}

/// The finished snapshots in `dir`, oldest first. A missing directory has none.
pub(crate) fn list_snapshots(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<SnapshotPosition>> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let dirs = entries.iter().filter(|entry| entry.is_dir);
    let mut found: Vec<SnapshotPosition> = dirs.filter_map(|entry| SnapshotPosition::of_name(&entry.name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Why a snapshot's bytes are not what a writer can have written. Offsets count from the record's first byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// A record of a type that no writer known here makes, or an empty one.
    #[error("unknown type of record: {0:?}")]
    Type(Option<u8>),
    /// It ends inside a value, or a number does not fit.
    #[error("{record} record: {source}")]
    Read {
        /// What the record holds.
        record: &'static str,
        /// What failed.
        source: ReadError,
    },
    /// A part that is as in the log cannot be read.
    #[error(transparent)]
    InLog(#[from] RecordError),
    /// A value that cannot be.
    #[error("{record} record, before offset {offset}: {what}")]
    Invalid {
        /// What the record holds.
        record: &'static str,
        /// Where the decoder stood.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}

impl From<SnapshotError> for Error {
    fn from(error: SnapshotError) -> Self {
        Self::new(ErrorKind::Corrupt, error)
    }
}

#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod tests;
