//! The writer: many commits, one file, one write for all that wait.
//!
//! A committer compresses its records without holding anything, puts them into the queue, and asks for the turn. Who
//! gets it writes everything that is in the queue, in one piece, and syncs once if commits are to be durable; the others
//! find theirs done. So the cost of a write, and of a sync, is shared by all who came while the last one ran.
//!
//! Beside the queue are open series records. A new series is put there before anybody else can find it
//! ([`Log::add_series`]), and every commit closes those records ahead of its own: whichever appender made a series and
//! whichever writes first, its series record stands before its samples.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};
use crate::fs::{Clock, Env, File, Fs, Spare, create_dir_durably, with_suffix};
use crate::model::LabelsIter;

use super::Compression;
use super::compression::Compressor;
use super::new_series::NewSeries;
use super::repair::{DAMAGED_SUFFIX, mark_unsynced};
use super::segment::{
    DEFAULT_SEGMENT_SIZE, LAST_NUMBER, PAGE_SIZE, has_room, list_segments, put_page_end, put_record, segment_path,
};

/// What an acknowledged commit survives. All of them survive the process's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut too: a commit returns when it is on the disk. Commits that wait together share one sync.
    Sync,
    /// A power cut, if it is older than this. Synced by [`Log::sync_if_due`] and by commits.
    Interval(Duration),
    /// A power cut, once its segment is full and synced, which no other commit waits for.
    Never,
}

impl Default for Durability {
    fn default() -> Self {
        Self::Interval(Duration::from_secs(1))
    }
}

/// How a log is written.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Bytes in a segment: a multiple of 32 KiB.
    pub segment_size: u64,
    /// How records are compressed.
    pub compression: Compression,
    /// What a commit survives.
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_size: DEFAULT_SEGMENT_SIZE,
            compression: Compression::default(),
            durability: Durability::default(),
        }
    }
}

/// Bytes of series records that are written at once: what more there is is written before, a piece at a time.
const PIECE: usize = 1 << 20;

/// Why the log cannot do what it was asked to. Cheap to clone: all commits of a failed write get the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The operating system refused; the log is as it was before and can be tried again.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
    /// A sync failed, or a failed write could not be undone: what the file holds is unknown. Reopening reads what is
    /// there and goes on.
    #[error("the log {} takes no more commits until it is opened again: {reason}", dir.display())]
    Poisoned {
        /// The log's directory.
        dir: PathBuf,
        /// What failed.
        reason: String,
    },
    /// It was closed.
    #[error("the log {} is closed", dir.display())]
    Closed {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Bytes that a checkpoint would stand for have rotted since the log was opened.
    #[error("no checkpoint: {0}")]
    Damaged(Box<super::Damage>),
    /// The options are wrong.
    #[error("segment size {0} is not a multiple of 32 KiB")]
    SegmentSize(u64),
}

impl LogError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source: Arc::new(source) }
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Io { source, .. } => Self::from(io::Error::from(source.kind())).kind(),
            LogError::Poisoned { .. } => ErrorKind::Io,
            LogError::Closed { .. } => ErrorKind::NotReady,
            LogError::Damaged(_) => ErrorKind::Corrupt,
            LogError::SegmentSize(_) => ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A log that is open for writing. All methods take `&self`; committers may come from any number of threads.
pub struct Log {
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    options: LogOptions,
    new_series: NewSeries,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    /// Committers' memory, to use again.
    scratch: Spare<Box<Scratch>>,
    /// A second way to the segment that is written to: an interval's sync does not stop commits.
    sync: Mutex<Sync>,
    /// When the oldest write that is not synced was made, in nanoseconds of the monotonic clock; `u64::MAX`: none.
    unsynced_since: AtomicU64,
    /// Whether the last write failed, so that records of new series may be owed.
    owes: AtomicBool,
    /// Whether the writer has left segments without a sync: looked at for each commit.
    has_left: AtomicBool,
    /// Who syncs beside commits holds this, and takes the writer, the file to sync and what was left for a moment: who
    /// comes second waits here, with nothing in hand that commits wait for.
    syncing: Mutex<()>,
    /// Whether `ended` says something: looked at for each commit.
    has_ended: AtomicBool,
    /// Why nothing is written any more.
    ended: Mutex<Option<LogError>>,
}

/// What waits to be written.
#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    /// Tickets handed out so far; a commit's ticket is its number, from 1.
    tickets: u64,
}

/// What a committer works with.
#[derive(Default)]
struct Scratch {
    compressor: Compressor,
    /// For entries.
    buffers: Vec<Vec<u8>>,
    /// What is being written.
    frame: Vec<u8>,
}

/// Bytes to be written, in order.
struct Entry {
    what: What,
    bytes: Vec<u8>,
}

enum What {
    /// A record of series that are new or have ended, raw. It belongs to nobody: if its write fails it is owed before the
    /// next one.
    Series,
    /// A committer's record as it is stored.
    Record(Compression),
}

/// Who has the turn holds this.
struct Writer {
    file: Box<dyn File>,
    segment: u64,
    filled: u64,
    /// The last ticket that was dealt with, well or not.
    done: u64,
    /// Tickets whose write failed and whose committers have not asked yet.
    failed: Vec<(u64, LogError)>,
    /// Segments that were left without a sync, oldest first.
    left: Vec<(u64, Box<dyn File>)>,
}

struct Sync {
    file: Box<dyn File>,
    segment: u64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Log").field("dir", &self.dir).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in `dir`, creating it if need be, and begins a new segment behind those that are there. What stands
    /// in them is to be read, and a torn end repaired, before.
    ///
    /// # Errors
    /// [`LogError::Io`]; [`LogError::SegmentSize`].
    pub fn open(env: &Env, dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        if options.segment_size == 0 || !options.segment_size.is_multiple_of(PAGE_SIZE as u64) {
            return Err(LogError::SegmentSize(options.segment_size));
        }
        let fs = Arc::clone(&env.fs);
        create_dir_durably(fs.as_ref(), dir).map_err(LogError::io("create", dir))?;
        let segments = list_segments(fs.as_ref(), dir).map_err(LogError::io("list", dir))?;
        let segment = segments.last().map_or(0, |last| last + 1);
        // What this process found there, it builds on: samples that it will sync belong to series in there. The process
        // that wrote it may have been killed before its own sync.
        for segment in segments {
            let path = segment_path(dir, segment);
            let mut file = fs.open_append(&path).map_err(LogError::io("open", &path))?;
            if let Err(error) = file.sync() {
                mark_unsynced(fs.as_ref(), dir, segment);
                return Err(LogError::io("sync", &path)(error));
            }
        }
        let (file, sync) = create_segment(fs.as_ref(), dir, segment)?;
        Ok(Self {
            fs,
            clock: Arc::clone(&env.clock),
            dir: dir.to_owned(),
            options,
            new_series: NewSeries::default(),
            queue: Mutex::default(),
            writer: Mutex::new(Writer { file, segment, filled: 0, done: 0, failed: Vec::new(), left: Vec::new() }),
            scratch: Spare::default(),
            sync: Mutex::new(Sync { file: sync, segment }),
            unsynced_since: AtomicU64::new(u64::MAX),
            owes: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            syncing: Mutex::default(),
            has_ended: AtomicBool::new(false),
            ended: Mutex::new(None),
        })
    }

    /// The log's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How it is written.
    #[must_use]
    pub fn options(&self) -> LogOptions {
        self.options
    }

    /// Puts a new series into the log's queue: it will stand before the records of every commit that begins after this
    /// returns. Call it before anybody else can find the series. It is written with the next commit. Callers with
    /// different numbers for `lane` do not wait for each other.
    pub fn add_series(&self, lane: u32, reference: u64, labels: LabelsIter<'_>) {
        if !self.has_ended.load(Ordering::Acquire) {
            self.new_series.add(lane, reference, labels);
        }
    }

    /// Puts a record into the log's queue that belongs to no commit: series that are added after this returns stand behind it,
    /// whatever fails meanwhile. It is written with the next commit.
    pub(crate) fn add_record(&self, record: Vec<u8>) {
        if !self.has_ended.load(Ordering::Acquire) {
            self.queue.lock().entries.push(Entry { what: What::Series, bytes: record });
        }
    }

    /// Writes `records`, in their order and behind all series added so far, and returns when they survive what
    /// [`Durability`] says. Without records it writes the series.
    ///
    /// # Errors
    /// [`LogError::Io`]: none of the records is in the log, and the next commit may well succeed (a full disk:
    /// `ErrorKind::Full`). [`LogError::Poisoned`]: nothing can be said about them, and all later commits fail.
    pub fn commit(&self, records: &[&[u8]]) -> Result<(), LogError> {
        self.check_end()?;
        let mut scratch = self.scratch.take();
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let mut bytes = scratch.buffers.pop().unwrap_or_default();
            let stored = scratch.compressor.append(self.options.compression, record, &mut bytes);
            entries.push(Entry { what: What::Record(stored), bytes });
        }
        let ticket = {
            let mut queue = self.queue.lock();
            // Under the queue's lock: who finds a record taken finds it in the queue as well.
            self.new_series.take(&mut scratch.buffers, |bytes| queue.entries.push(Entry { what: What::Series, bytes }));
            queue.entries.append(&mut entries);
            queue.tickets += 1;
            queue.tickets
        };
        let result = self.take_turn(ticket, &mut scratch);
        drop(self.scratch.keep(scratch));
        self.sync_left()?;
        self.sync_if_due()?;
        result
    }

    /// Waits for the turn; if the ticket is still open then, deals with everything that is in the queue.
    fn take_turn(&self, ticket: u64, scratch: &mut Scratch) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        if writer.done < ticket {
            let (mut entries, last) = {
                let mut queue = self.queue.lock();
                (std::mem::take(&mut queue.entries), queue.tickets)
            };
            let first = writer.done + 1;
            let result = self.check_end().and_then(|()| self.write_owed(&mut writer, &mut entries, scratch));
            let result = result.and_then(|()| self.write(&mut writer, &entries, scratch));
            writer.done = last;
            if let Err(error) = result {
                let mut queue = self.queue.lock();
                writer.failed.extend((first..=last).map(|ticket| (ticket, error.clone())));
                // Their series live on in memory, so the series records are owed before anything else is written.
                entries.retain(|entry| matches!(entry.what, What::Series));
                entries.append(&mut queue.entries);
                queue.entries = entries;
                self.owes.store(true, Ordering::Release);
            } else {
                scratch.keep_buffers(entries);
                if self.owes.load(Ordering::Acquire) {
                    self.owes.store(false, Ordering::Release);
                }
            }
        }
        match writer.failed.iter().position(|(failed, _)| *failed == ticket) {
            Some(index) => Err(writer.failed.swap_remove(index).1),
            None => Ok(()),
        }
    }

    /// Writes the series records that stand before all else a piece at a time, as long as they are more than one. What is owed
    /// after many failures may be more than there is room for: a piece that is written is not owed any more, and one that is
    /// not spares the others the attempt.
    fn write_owed(&self, writer: &mut Writer, entries: &mut Vec<Entry>, scratch: &mut Scratch) -> Result<(), LogError> {
        loop {
            let (mut piece, mut bytes) = (0, 0);
            for entry in entries.iter().take_while(|entry| matches!(entry.what, What::Series)) {
                if bytes >= PIECE {
                    break;
                }
                (piece, bytes) = (piece + 1, bytes + entry.bytes.len());
            }
            if bytes < PIECE {
                return Ok(());
            }
            self.write(writer, entries.get(..piece).unwrap_or_default(), scratch)?;
            scratch.keep_buffers(entries.drain(..piece).collect());
        }
    }

    /// Whether records of new series could not be written, and are to be before anything else.
    pub fn owes_series(&self) -> bool {
        self.owes.load(Ordering::Acquire)
    }

    /// Writes `entries`, or leaves the log as it was.
    fn write(&self, writer: &mut Writer, entries: &[Entry], scratch: &mut Scratch) -> Result<(), LogError> {
        let Scratch { compressor, frame, .. } = scratch;
        let mut stored = Vec::new();
        let mut batch = Batch::new(writer, frame);
        let mut result = Ok(());
        for entry in entries {
            let (compression, bytes) = match entry.what {
                What::Record(compression) => (compression, &entry.bytes),
                What::Series => {
                    stored.clear();
                    (compressor.append(self.options.compression, &entry.bytes, &mut stored), &stored)
                }
            };
            if !has_room(batch.writer.filled + batch.frame.len() as u64, bytes.len(), self.options.segment_size) {
                result = batch.next_segment(self);
                if result.is_err() {
                    break;
                }
            }
            put_record(batch.writer.filled + batch.frame.len() as u64, compression, bytes, batch.frame);
        }
        batch.finish(self, result)
    }

    /// Ends the segment that is written to and begins the next, whose number is returned.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn next_segment(&self) -> Result<u64, LogError> {
        self.check_end()?;
        let mut writer = self.writer.lock();
        let mut frame = Vec::new();
        let mut batch = Batch::new(&mut writer, &mut frame);
        let result = batch.next_segment(self);
        batch.finish(self, result)?;
        let segment = writer.segment;
        drop(writer);
        self.sync_left()?;
        Ok(segment)
    }

    /// The number of the segment that is written to, and how many bytes of it are.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        let writer = self.writer.lock();
        (writer.segment, writer.filled)
    }

    /// The numbers of the first segment and of the one that is written to.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn segments(&self) -> Result<(u64, u64), LogError> {
        let segments = list_segments(self.fs.as_ref(), &self.dir).map_err(LogError::io("list", &self.dir))?;
        let last = self.writer.lock().segment;
        Ok((segments.first().copied().unwrap_or(last), last))
    }

    /// Makes everything that was committed so far durable.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.check_end()?;
        self.sync_now()
    }

    /// Syncs the segments that were left without, unless somebody syncs already. It takes as long as a segment takes to
    /// write, and nobody waits for it but who filled one.
    fn sync_left(&self) -> Result<(), LogError> {
        if !self.has_left.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(_alone) = self.syncing.try_lock() else { return Ok(()) };
        let left = self.take_left(&mut self.writer.lock());
        self.sync_segments(left)
    }

    fn take_left(&self, writer: &mut Writer) -> Vec<(u64, Box<dyn File>)> {
        self.has_left.store(false, Ordering::Release);
        std::mem::take(&mut writer.left)
    }

    fn sync_segments(&self, segments: Vec<(u64, Box<dyn File>)>) -> Result<(), LogError> {
        for (segment, mut file) in segments {
            file.sync().map_err(|error| self.sync_failed(segment, &error))?;
        }
        Ok(())
    }

    fn sync_now(&self) -> Result<(), LogError> {
        let _alone = self.syncing.lock();
        let mut writer = self.writer.lock();
        // Together: no segment is on its way from the one to the other.
        let (left, mut sync) = (self.take_left(&mut writer), self.sync.lock());
        drop(writer);
        self.sync_segments(left)?;
        // Asked for when nobody else syncs: who finds nothing to do has waited for who did it. A write that comes between
        // here and the sync is noted again, and synced once more than it needs.
        if self.unsynced_since.swap(u64::MAX, Ordering::AcqRel) == u64::MAX {
            return Ok(());
        }
        let segment = sync.segment;
        sync.file.sync().map_err(|error| self.sync_failed(segment, &error))
    }

    /// Makes what was committed durable if the oldest of it is older than [`Durability::Interval`] allows. Whoever opens
    /// a log with that durability calls this now and then, since the last commit has no other behind it.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn sync_if_due(&self) -> Result<(), LogError> {
        let Durability::Interval(interval) = self.options.durability else { return Ok(()) };
        let since = self.unsynced_since.load(Ordering::Acquire);
        if since == u64::MAX || self.clock.monotonic() < Duration::from_nanos(since) + interval {
            return Ok(());
        }
        self.sync()
    }

    /// Removes all segments before `segment`.
    ///
    /// # Errors
    /// [`LogError::Io`]; those before the failing one are gone.
    pub fn truncate(&self, segment: u64) -> Result<(), LogError> {
        self.remove_before(segment, false)?;
        self.fs.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))
    }

    /// [`truncate`](Log::truncate), so that after a power cut too no segment is there without those behind it: for a log in
    /// which a later record takes back what an earlier one says.
    ///
    /// # Errors
    /// As there.
    pub fn truncate_in_order(&self, segment: u64) -> Result<(), LogError> {
        self.remove_before(segment, true)
    }

    fn remove_before(&self, segment: u64, sync_each: bool) -> Result<(), LogError> {
        let segments = list_segments(self.fs.as_ref(), &self.dir).map_err(LogError::io("list", &self.dir))?;
        let last = self.writer.lock().segment;
        // Ascending: a crash in between leaves no gap.
        for index in segments.into_iter().filter(|index| *index < segment.min(last)) {
            let path = segment_path(&self.dir, index);
            self.fs.remove_file(&path).map_err(LogError::io("remove", &path))?;
            let damaged = with_suffix(&path, DAMAGED_SUFFIX);
            if self.fs.stat(&damaged).map_err(LogError::io("look at", &damaged))?.is_some() {
                self.fs.remove_file(&damaged).map_err(LogError::io("remove", &damaged))?;
            }
            if sync_each {
                self.fs.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))?;
            }
        }
        Ok(())
    }

    /// Writes what is in the queue, fills the last page, makes everything durable, and takes no more commits. Again, it
    /// does nothing.
    ///
    /// # Errors
    /// As [`Log::commit`]: what was committed is durable all the same, unless the log was poisoned, and no more is taken.
    pub fn close(&self) -> Result<(), LogError> {
        let written = match self.commit(&[]) {
            Err(LogError::Closed { .. }) => return Ok(()),
            Err(error @ LogError::Poisoned { .. }) => return Err(error),
            written => written,
        };
        let mut writer = self.writer.lock();
        let mut frame = Vec::new();
        put_page_end(writer.filled, &mut frame);
        let batch = Batch { writer: &mut writer, frame: &mut frame, left: Vec::new() };
        let filled = batch.finish(self, Ok(()));
        // Also when nothing could be written any more: the directory is given back, and a commit that succeeded from now on
        // would stand beside those of the next owner. Who waits for the turn has not been acknowledged, and finds the end.
        self.end(LogError::Closed { dir: self.dir.clone() });
        drop(writer);
        let synced = self.sync_now();
        written.and(filled).and(synced)
    }

    /// Whether anything can still be written.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_end(&self) -> Result<(), LogError> {
        if !self.has_ended.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ended.lock().clone().map_or(Ok(()), Err)
    }

    fn end(&self, why: LogError) {
        self.ended.lock().get_or_insert(why);
        self.has_ended.store(true, Ordering::Release);
    }

    fn sync_failed(&self, segment: u64, error: &io::Error) -> LogError {
        mark_unsynced(self.fs.as_ref(), &self.dir, segment);
        self.poison(&format!("sync of segment {segment}: {error}"))
    }

    fn poison(&self, reason: &str) -> LogError {
        tracing::error!(dir = %self.dir.display(), reason, "the log takes no more commits");
        let error = LogError::Poisoned { dir: self.dir.clone(), reason: reason.to_owned() };
        self.end(error.clone());
        error
    }
}

impl Scratch {
    /// Keeps the memory of what is written, as far as it is of a reasonable size.
    fn keep_buffers(&mut self, entries: Vec<Entry>) {
        const SPARE_BUFFERS: usize = 16;
        const LARGEST: usize = 1 << 20;
        for Entry { mut bytes, .. } in entries {
            if self.buffers.len() < SPARE_BUFFERS && bytes.capacity() <= LARGEST {
                bytes.clear();
                self.buffers.push(bytes);
            }
        }
        if self.frame.capacity() > LARGEST {
            self.frame = Vec::new();
        }
    }
}

/// A write under way, which may go over into new segments and is undone whole.
struct Batch<'a> {
    writer: &'a mut Writer,
    /// What is to be written next.
    frame: &'a mut Vec<u8>,
    /// Where it began: the segments that it left, each with its file and the length it had before.
    left: Vec<(u64, Box<dyn File>, u64)>,
}

impl<'a> Batch<'a> {
    fn new(writer: &'a mut Writer, frame: &'a mut Vec<u8>) -> Self {
        frame.clear();
        Self { writer, frame, left: Vec::new() }
    }

    /// Writes what is framed, ends the segment and begins the next.
    fn next_segment(&mut self, log: &Log) -> Result<(), LogError> {
        let Self { writer, frame, .. } = self;
        let Writer { file, segment, filled, .. } = &mut **writer;
        let before = *filled;
        put_page_end(*filled + frame.len() as u64, frame);
        let path = segment_path(&log.dir, *segment);
        file.append(frame).map_err(LogError::io("append to", &path))?;
        frame.clear();
        // Prometheus syncs a full segment whatever its settings. A failure here is a failed sync like any other. Before the
        // next one is begun, so that after a power cut none is there without all of those before it; who asks for no
        // durability would have all writers wait for a whole segment.
        if log.options.durability != Durability::Never {
            file.sync().map_err(|error| log.sync_failed(*segment, &error))?;
        }
        let (next, sync) = create_segment(log.fs.as_ref(), &log.dir, *segment + 1)?;
        *log.sync.lock() = Sync { file: sync, segment: *segment + 1 };
        self.left.push((*segment, std::mem::replace(file, next), before));
        *segment += 1;
        *filled = 0;
        Ok(())
    }

    /// Writes the rest, or undoes everything.
    fn finish(mut self, log: &Log, framed: Result<(), LogError>) -> Result<(), LogError> {
        match framed.and_then(|()| self.append()) {
            Ok(()) => {
                self.writer.filled += self.frame.len() as u64;
                if log.options.durability == Durability::Never && !self.left.is_empty() {
                    self.writer.left.extend(self.left.drain(..).map(|(segment, file, _)| (segment, file)));
                    log.has_left.store(true, Ordering::Release);
                }
                if self.frame.is_empty() {
                    return Ok(());
                }
                if log.options.durability == Durability::Sync {
                    let segment = self.writer.segment;
                    return self.writer.file.sync().map_err(|error| log.sync_failed(segment, &error));
                }
                let now = u64::try_from(log.clock.monotonic().as_nanos()).unwrap_or(u64::MAX - 1);
                // Kept if an older write waits already.
                let _ = log.unsynced_since.compare_exchange(u64::MAX, now, Ordering::AcqRel, Ordering::Acquire);
                Ok(())
            }
            Err(error @ LogError::Poisoned { .. }) => Err(error),
            Err(error) => {
                self.undo(log).map_err(|undo| log.poison(&format!("{error}; then, undoing it: {undo}")))?;
                Err(error)
            }
        }
    }

    fn append(&mut self) -> Result<(), LogError> {
        let Self { writer, frame, .. } = self;
        let Writer { file, segment, .. } = &mut **writer;
        if frame.is_empty() {
            return Ok(());
        }
        // The path is for the error alone; the file knows where it is.
        file.append(frame).map_err(LogError::io("append to segment", &segment_path(Path::new(""), *segment)))
    }

    /// Cuts the first segment back to where it was and removes those that were begun.
    fn undo(&mut self, log: &Log) -> Result<(), LogError> {
        let has_begun = !self.left.is_empty();
        while let Some((segment, mut file, filled)) = self.left.pop() {
            let path = segment_path(&log.dir, segment + 1);
            log.fs.remove_file(&path).map_err(LogError::io("remove", &path))?;
            std::mem::swap(&mut self.writer.file, &mut file);
            self.writer.segment = segment;
            self.writer.filled = filled;
        }
        if has_begun {
            // Else one could come back in a power cut, behind what is acknowledged from now on, with what was not.
            log.fs.sync_dir(&log.dir).map_err(LogError::io("sync", &log.dir))?;
        }
        let path = segment_path(&log.dir, self.writer.segment);
        self.writer.file.set_len(self.writer.filled).map_err(LogError::io("cut back", &path))?;
        let mut sync = log.sync.lock();
        if sync.segment != self.writer.segment {
            let file = log.fs.open_append(&path).map_err(LogError::io("open", &path))?;
            *sync = Sync { file, segment: self.writer.segment };
        }
        Ok(())
    }
}

/// A file for the writer and one for whoever syncs beside it.
type WriterAndSync = (Box<dyn File>, Box<dyn File>);

/// A new segment, its name durable.
fn create_segment(fs: &dyn Fs, dir: &Path, index: u64) -> Result<WriterAndSync, LogError> {
    let path = segment_path(dir, index);
    if index > LAST_NUMBER {
        // Nobody would take it for a segment.
        let reason = "there are no more numbers for segments";
        return Err(LogError::io("create", &path)(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    let file = fs.create(&path).map_err(LogError::io("create", &path))?;
    let second =
        fs.open_append(&path).and_then(|second| fs.sync_dir(dir).map(|()| second)).map_err(LogError::io("open", &path));
    if second.is_err() {
        // A segment that nothing was written to would stand in the way of the next try.
        let _ = fs.remove_file(&path);
    }
    Ok((file, second?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_size_that_is_not_whole_pages_is_refused() {
        let options = LogOptions { segment_size: 1000, ..LogOptions::default() };
        let error = Log::open(&Env::real(), Path::new("/nowhere"), options).unwrap_err();
        assert!(matches!(error, LogError::SegmentSize(1000)), "{error}");
    }
}
