//! The head: the window that is still written to, in memory, with the log behind it.
//!
//! A [`Head`] holds the newest few hours of every series. An [`Appender`] collects samples; its commit writes them to the
//! log, then to the series' open chunks. A [`HeadReader`] sees all of a commit or nothing of it. When two hours are full,
//! a [`RangeHead`] is what a block is written from, and [`Head::truncate`] forgets what the block has. After a crash the
//! log is read back ([`Head::open`]).
//!
//! ```text
//! label set -- series_map --> slot -- slab --> series: labels, full chunks, open chunk
//! matchers -- label_index --> slots                   each label pair once, with its postings
//! ```
//!
//! Nothing here stops the world. A slot is found without a lock; a sample is checked without one and applied under its
//! series' own; label pairs, names and shards of the map have a lock each; a query copies what it needs of a postings
//! list or a series and works outside. Memory is given back by counting who is still there, not by waiting for them:
//! see `isolation` and `gc`.
//!
//! Two orders make it safe. A series' record is put into the log's queue before the series can be found, so it stands
//! before every sample of it. And a commit is in the log before it is in memory, so a reader never saw what a crash
//! forgets.

#![warn(clippy::indexing_slicing)]

mod appender;
mod batch;
mod blocks;
mod checkpoint;
mod claim;
mod column;
mod cut;
mod delete;
mod error;
mod evidence;
mod exemplars;
mod full;
mod gc;
mod gone;
mod holds;
mod isolation;
mod label_index;
mod label_order;
pub(crate) mod mapped;
mod mapping;
mod metadata;
mod ooo;
mod open;
mod open_floats;
mod page_labels;
mod postings;
mod range_head;
mod reader;
mod references;
mod replay;
mod rules;
mod series;
mod series_map;
mod slab;
pub(crate) mod snapshot;
mod stale;
mod stats;
mod tombstones;
mod trail;
mod value_table;
mod vanished;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh64::xxh64;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Env, Spare};
use crate::model::{LabelsIter, is_packed};
use crate::wal::{Log, LogOptions, repair};

pub use appender::{Appender, Committed};
pub use error::Refusal;
pub use full::HeadChunk;
pub(crate) use full::HeadData;
pub use gc::Collected;
pub(crate) use ooo::ClosedGate;
pub use ooo::{OutOfOrderChunk, OutOfOrderCut, OutOfOrderHead};
pub use range_head::RangeHead;
pub use reader::HeadReader;
pub use replay::Replayed;
pub use rules::FloatEncoding;
pub use stale::{LeavingSeries, StaleSeries};
pub use stats::{Cardinality, HeadStats};

use batch::Buffers;
use exemplars::Exemplars;
use gone::GoneNumbers;
use holds::Holds;
use isolation::Isolation;
use label_index::LabelIndex;
pub(crate) use mapped::CHUNKS_HEAD_DIR;
pub use mapped::check_head_chunks;
use mapped::{MappedChunks, Opened};
use metadata::MetricMetadata;
use ooo::OutOfOrderTable;
use replay::OnDisk;
use series::{Header, Series, SeriesState};
use series_map::SeriesMap;
use slab::{PAGE, Run, Slab};
use snapshot::{SnapshotPosition, find_snapshot};
use tombstones::HeadTombstones;
use trail::Trail;

/// The log's directory in a data directory.
pub(crate) const WAL_DIR: &str = "wal";
/// The directory of the log of out-of-order samples.
pub(crate) const WBL_DIR: &str = "wbl";

/// What Prometheus's flag `fast-startup` keeps beside the log's segments: the last number of a series. It believes a file that
/// says it was closed in order, whoever wrote to the directory since, and would give numbers again that series here have.
const SERIES_STATE: &str = "series_state.json";

/// What a head may hold and take.
#[derive(Debug, Clone, Copy)]
pub struct HeadOptions {
    /// Milliseconds that a block cut from it spans; chunks never cross a multiple of it. Two hours.
    pub chunk_range: i64,
    /// How far ahead of the clock a sample may be, in milliseconds; `None`: any time. Ten minutes.
    pub future_bound: Option<i64>,
    /// The most series; `None`: no limit. Samples of series that exist are taken when it is reached.
    pub max_series: Option<u64>,
    /// The most exemplars kept, over all series: the newest. 100,000; 0: none, and none is taken.
    pub max_exemplars: usize,
    /// How floats are encoded. XOR.
    pub float_encoding: FloatEncoding,
    /// Whether start timestamps are kept: the log has records for them then. Needs [`FloatEncoding::Xor2`]. No.
    pub start_timestamps: bool,
    /// Whether histograms go into the encodings that have a place for start timestamps. No: then those of histograms are
    /// in the log alone.
    pub histogram_start_timestamps: bool,
    /// How far behind the newest sample of all one may be and still be taken out of order, in milliseconds. 0: none is.
    pub out_of_order_window: i64,
    /// Bytes of full chunks that may wait in memory while the log is read back; more go to the disk at once. 64 MiB.
    pub replay_memory: u64,
}

impl Default for HeadOptions {
    fn default() -> Self {
        Self {
            chunk_range: 2 * 3_600_000,
            future_bound: Some(600_000),
            max_series: None,
            max_exemplars: 100_000,
            float_encoding: FloatEncoding::Xor,
            start_timestamps: false,
            histogram_start_timestamps: false,
            out_of_order_window: 0,
            replay_memory: 64 << 20,
        }
    }
}

/// A series in this head, for appending to it without a look-up. Good as long as the series is; a stale one is noticed,
/// and the labels that come with it are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeriesRef(u64);

impl SeriesRef {
    fn new(id: u32, tag: u32) -> Self {
        Self(u64::from(tag) << 32 | u64::from(id))
    }

    fn id(self) -> u32 {
        self.0 as u32
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The mutable window of a database.
pub struct Head {
    env: Env,
    options: HeadOptions,
    log: Option<Log>,
    /// Full chunks on the disk.
    mapped: Option<MappedChunks>,
    /// Held by who moves chunks there.
    mapping: Mutex<()>,
    /// Bytes of full chunks that were not moved there yet.
    waiting_bytes: AtomicU64,
    slots: Slab<Header, SeriesState>,
    map: SeriesMap,
    labels: LabelIndex,
    isolation: Isolation,
    /// The last number given to a series in the log.
    last_reference: AtomicU64,
    /// The oldest sample's time; `i64::MAX` as long as there is none.
    min_time: AtomicI64,
    /// The oldest sample that commits have brought since the last collection began.
    covered_from: AtomicI64,
    /// Whether the log may not say yet, or not durably, which series were evicted.
    owes_evictions: AtomicBool,
    /// The newest sample's time; `i64::MIN` as long as there is none.
    max_time: AtomicI64,
    /// Nothing older is taken: it is in blocks.
    floor: AtomicI64,
    /// Readers see nothing older: it is in blocks, and being given back.
    truncated: AtomicI64,
    /// Up to here the last collection dropped chunks: less far than the head is truncated if a reader could see them.
    collected_to: AtomicI64,
    /// Nothing is left of what was before: it was cut when all that no block had yet was deleted, so that no block says so.
    emptied: AtomicI64,
    /// Series that are about to be removed. Locked by who marks or removes any, from the first to the last: a mark does not
    /// say whose it is.
    marked: Mutex<Vec<gc::Marked>>,
    /// Numbers in the log that no series has any more, but whose records may still stand there.
    gone: Mutex<GoneNumbers>,
    tombstones: HeadTombstones,
    /// Some of them are Prometheus's, whose deletions cover late samples that the log of those still has.
    deleted_elsewhere: AtomicBool,
    /// Somebody was told that for this reason there is no snapshot.
    told_of_no_snapshot: AtomicBool,
    out_of_order: OutOfOrderTable,
    exemplars: Exemplars,
    metadata: MetricMetadata,
    /// How far the log was shortened; held by who does.
    log_truncated: Mutex<i64>,
    counters: Counters,
    /// Who holds it may wait for series that another commit has claimed.
    waiting_claim: Mutex<()>,
    /// Appenders' memory, to use again.
    buffers: Spare<Buffers>,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Counters {
    series: AtomicU64,
    series_created: AtomicU64,
    series_removed: AtomicU64,
    chunks: AtomicU64,
    samples: AtomicU64,
    samples_lost: AtomicU64,
}

impl fmt::Debug for Head {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Head")
            .field("options", &self.options)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Head {
    /// A head that writes no log: for tests, and for data that can be had again.
    #[must_use]
    pub fn without_log(env: &Env, options: HeadOptions) -> Arc<Self> {
        Arc::new(Self::new(env, options, None))
    }

    fn new(env: &Env, options: HeadOptions, log: Option<Log>) -> Self {
        Self {
            env: env.clone(),
            options: HeadOptions { chunk_range: options.chunk_range.max(1), ..options },
            log,
            mapped: None,
            mapping: Mutex::default(),
            waiting_bytes: AtomicU64::new(0),
            slots: Slab::default(),
            map: SeriesMap::default(),
            labels: LabelIndex::timed(&env.clock),
            isolation: Isolation::default(),
            last_reference: AtomicU64::new(0),
            min_time: AtomicI64::new(i64::MAX),
            covered_from: AtomicI64::new(i64::MAX),
            owes_evictions: AtomicBool::new(false),
            max_time: AtomicI64::new(i64::MIN),
            floor: AtomicI64::new(i64::MIN),
            truncated: AtomicI64::new(i64::MIN),
            collected_to: AtomicI64::new(i64::MIN),
            emptied: AtomicI64::new(i64::MIN),
            marked: Mutex::default(),
            gone: Mutex::default(),
            tombstones: HeadTombstones::default(),
            deleted_elsewhere: AtomicBool::new(false),
            told_of_no_snapshot: AtomicBool::new(false),
            out_of_order: OutOfOrderTable::new(options.float_encoding.into()),
            exemplars: Exemplars::new(options.max_exemplars, options.out_of_order_window),
            metadata: MetricMetadata::default(),
            log_truncated: Mutex::new(i64::MIN),
            counters: Counters::default(),
            waiting_claim: Mutex::default(),
            buffers: Spare::default(),
        }
    }

    /// Opens the head of the data directory `dir`, whose log is in `wal/` there: reads the log back, mends what a crash
    /// left, and begins a new segment. Samples before `floor` are in blocks already and are not taken.
    ///
    /// # Errors
    /// `Io`, `Full`; `InvalidInput` if the options contradict each other. Damage is no error: it is in [`Replayed`], and the readable rest is there.
    pub fn open(
        env: &Env,
        dir: &Path,
        options: HeadOptions,
        log: LogOptions,
        floor: i64,
    ) -> Result<(Arc<Self>, Replayed)> {
        options.check()?;
        let wal = dir.join(WAL_DIR);
        let fs = env.fs.as_ref();
        let snapshot = find_snapshot(env, dir)?;
        if snapshot.is_none() {
            // What does not count now must not when there are as many segments again, or fewer checkpoints.
            snapshot::remove_snapshots(fs, dir)?;
        }
        let before_mending = || snapshot::remove_snapshots(fs, dir);
        let opened = MappedChunks::open(env, &dir.join(CHUNKS_HEAD_DIR), before_mending)?;
        let damage = opened.damage.clone();
        let (mut head, mut replayed) = Self::read_back(env, dir, options, floor, opened, snapshot)?;
        if env.fs.stat(dir)?.is_some() {
            snapshot::remove_leftovers(env.fs.as_ref(), dir)?;
        }
        // Both, and whether the window is open or not: what is damaged was read all the same.
        let wbl = dir.join(WBL_DIR);
        repair(env, &wal, &replayed.damage)?;
        repair(env, &wbl, &replayed.damage)?;
        replayed.damage.extend(damage);
        // Before any series is created here, and for good.
        let state = wal.join(SERIES_STATE);
        let removing = |error| Error::from(error).context(format_args!("removing {}", state.display()));
        if fs.stat(&state).map_err(removing)?.is_some() {
            fs.remove_file(&state).and_then(|()| fs.sync_dir(&wal)).map_err(removing)?;
        }
        head.log = Some(Log::open(env, &wal, log)?);
        // What is in there is to go some day, even if the window is closed now.
        let looking = |error| Error::from(error).context(format_args!("looking at {}", wbl.display()));
        if options.out_of_order_window > 0 || env.fs.stat(&wbl).map_err(looking)?.is_some() {
            if let Err(error) = replayed.lost_markers.take_out(env, &wbl) {
                // They say nothing to us.
                tracing::warn!(%error, "taking markers of lost chunks out of the log");
            }
            head.out_of_order.log = Some(Log::open(env, &wbl, log)?);
        }
        Ok((Arc::new(head), replayed))
    }

    /// Reads the log of the data directory `dir` and writes nothing, there or anywhere: beside the process that owns it. What this head is
    /// given to append is in memory alone.
    ///
    /// # Errors
    /// `Io`.
    pub fn open_read_only(env: &Env, dir: &Path, options: HeadOptions, floor: i64) -> Result<(Arc<Self>, Replayed)> {
        // Looked at first: the log has what they have, and more.
        let opened = MappedChunks::open_read_only(env, &dir.join(CHUNKS_HEAD_DIR))?;
        let damage = opened.damage.clone();
        let snapshot = find_snapshot(env, dir)?;
        let (head, mut replayed) = Self::read_back(env, dir, options, floor, opened, snapshot)?;
        replayed.damage.extend(damage);
        Ok((Arc::new(head), replayed))
    }

    /// A head of what lies in `dir`: chunks on the disk, the snapshot at this position, if it counts, and the log.
    fn read_back(
        env: &Env,
        dir: &Path,
        options: HeadOptions,
        floor: i64,
        opened: Opened,
        position: Option<SnapshotPosition>,
    ) -> Result<(Self, Replayed)> {
        let fresh = || {
            let head = Self::new(env, options, None);
            head.floor.store(floor, Ordering::Release);
            head
        };
        let on_disk = OnDisk::new(opened.loaded, floor);
        let (mut head, mut snapshot, mut refused) = (fresh(), None, None);
        if let Some(position) = position {
            let loaded = match opened.damage.first() {
                None => head.load_snapshot(env, dir, position, &on_disk, &opened.chunks),
                Some(damage) => Err(Error::new(ErrorKind::Corrupt, damage.to_string())),
            };
            match loaded {
                Ok(loaded) => snapshot = Some(loaded),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "a snapshot is of no use; the whole log is read");
                    refused = Some(error.to_string());
                    if opened.chunks.is_writable() {
                        // Full chunks go to the disk while the log is read: it could pass for whole the next time.
                        snapshot::remove_snapshots(env.fs.as_ref(), dir)?;
                    }
                    // It may have been half read.
                    head = fresh();
                }
            }
        }
        head.mapped = Some(opened.chunks);
        let mut replayed = head.replay(env, dir, &on_disk, snapshot.as_ref())?;
        replayed.snapshot_refused = refused;
        if replayed.unknown_series > 0 {
            let count = replayed.unknown_series;
            tracing::warn!(dir = %dir.display(), count, "the logs tell of series that no record names; that is left out");
        }
        Ok((head, replayed))
    }

    /// Makes everything durable and ends the log. Appenders that are still open fail to commit from now on.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn close(&self) -> Result<()> {
        // A copy of what the log has: that it could not be made durable is no reason to fail.
        if let Some(Err(error)) = self.mapped.as_ref().filter(|files| files.is_writable()).map(MappedChunks::sync) {
            tracing::warn!(%error, "making head chunks durable");
        }
        let closed = self.log.as_ref().map_or(Ok(()), Log::close);
        let late = self.out_of_order.log.as_ref().map_or(Ok(()), Log::close);
        Ok(closed.and(late)?)
    }

    /// Makes durable what was committed and is older than was promised, in all logs.
    ///
    /// # Errors
    /// `Io`: the log takes no more commits.
    pub fn sync_if_due(&self) -> Result<()> {
        self.settle_evictions()?;
        let synced = self.log.as_ref().map_or(Ok(()), Log::sync_if_due);
        let late = self.out_of_order.log.as_ref().map_or(Ok(()), Log::sync_if_due);
        Ok(synced.and(late)?)
    }

    /// Who times the locks.
    fn holds(&self) -> &Holds {
        &self.labels.holds
    }

    /// The oldest sample's time, in milliseconds; `None` if there is no sample.
    #[must_use]
    pub fn min_time(&self) -> Option<i64> {
        Some(self.min_time.load(Ordering::Acquire)).filter(|t| *t != i64::MAX)
    }

    /// The newest sample's time, in milliseconds; `None` if there is no sample.
    #[must_use]
    pub fn max_time(&self) -> Option<i64> {
        Some(self.max_time.load(Ordering::Acquire)).filter(|t| *t != i64::MIN)
    }

    /// Series in memory.
    #[must_use]
    pub fn series_count(&self) -> u64 {
        self.counters.series.load(Ordering::Relaxed)
    }

    /// The log, if there is one.
    #[must_use]
    pub fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// The series with the labels of this packed form, which is created if there is none, in a slot of
    /// `slots`: under the number `logged`, if the log has it already.
    fn get_or_create(
        &self,
        packed: &[u8],
        logged: Option<u64>,
        slots: &mut Run,
    ) -> Result<(SeriesRef, Series<'_>), Refusal> {
        if packed.is_empty() {
            return Err(Refusal::NoLabels);
        }
        let hash = xxh64(packed, 0);
        let mut shard = self.map.shard(hash);
        if let Some((reference, series)) = self.find(&shard, hash, packed) {
            return Ok((reference, series));
        }
        // What the log has is taken whatever the limit is now.
        let is_new = logged.is_none();
        if is_new && !is_packed(packed) {
            return Err(Refusal::NotPacked);
        }
        let limit = self.options.max_series.filter(|_| is_new).unwrap_or(u64::MAX);
        if self.counters.series.fetch_add(1, Ordering::AcqRel) >= limit {
            self.counters.series.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::SeriesLimit { limit });
        }
        let Some((id, series)) = self.slots.take(slots, |stamp| self.isolation.everybody_passed(stamp)) else {
            self.counters.series.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::SeriesLimit { limit: u64::from(u32::MAX) });
        };
        let pairs = self.labels.add(packed, id, series.lock().labels_near().iter());
        let reference = logged.unwrap_or_else(|| self.last_reference.fetch_add(1, Ordering::Relaxed) + 1);
        // Before anybody can find it, here or by its neighbour: no sample of it can overtake it into the log.
        if let Some(log) = self.log.as_ref().filter(|_| is_new) {
            // Appenders side by side have slots in different pages.
            log.add_series(id / PAGE as u32, reference, LabelsIter::of_packed(packed));
        }
        let tag = series.occupy(&mut series.lock(), pairs, reference);
        if let Some(newest) = shard.ended_at(hash).filter(|_| is_new) {
            series.lock().begin_after(&series, newest);
        }
        shard.insert(hash, id, self.holds());
        self.counters.series_created.fetch_add(1, Ordering::Relaxed);
        Ok((SeriesRef::new(id, tag), series))
    }

    /// The series that is meant, which is created if there is none. `trail` is what the appender asked for before,
    /// `slots` what it has for new series.
    #[inline]
    fn resolve(
        &self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        trail: &mut Trail,
        slots: &mut Run,
    ) -> Result<(SeriesRef, Series<'_>), Refusal> {
        match reference.and_then(|reference| Some((reference, self.known(reference)?))) {
            Some(known) => Ok(known),
            None => self.follow(trail, packed, slots),
        }
    }

    /// The series that is meant, if there is one.
    fn existing(&self, reference: Option<SeriesRef>, packed: &[u8]) -> Option<(SeriesRef, Series<'_>)> {
        if let Some(known) = reference.and_then(|reference| Some((reference, self.known(reference)?))) {
            return Some(known);
        }
        let hash = xxh64(packed, 0);
        self.find(&self.map.shard(hash), hash, packed)
    }

    /// The series with these labels, if it is in `shard`.
    fn find(&self, shard: &series_map::Shard, hash: u64, packed: &[u8]) -> Option<(SeriesRef, Series<'_>)> {
        let mut tag = 0;
        let is_it = |id| {
            let Some(series) = self.slots.get(id) else { return false };
            let state = series.lock();
            let is_it = state.labels().are_packed(packed);
            if is_it {
                // If it was about to be removed it is not any more: under the lock that a removal takes.
                tag = series.revive_if_dying(&state);
            }
            is_it
        };
        let id = shard.find(hash, is_it)?;
        Some((SeriesRef::new(id, tag), self.slots.get(id)?))
    }

    /// The series that `reference` stands for, unless it is gone.
    #[inline]
    fn known(&self, reference: SeriesRef) -> Option<Series<'_>> {
        let series = self.slots.get(reference.id())?;
        let tag = series.tag();
        if tag == reference.tag() {
            return Some(series);
        }
        if tag == reference.tag() | 1 {
            let state = series.lock();
            if series.tag() & !1 == reference.tag() {
                series.revive(&state);
                return Some(series);
            }
        }
        None
    }

    /// Samples before this cannot be appended by an appender that begins now; `None` if any can.
    pub(crate) fn min_valid_time(&self) -> Option<i64> {
        let floor = self.floor.load(Ordering::Acquire);
        // What may be cut into a block next must not change any more.
        let window = self.max_time().map(|newest| newest.saturating_sub(self.options.chunk_range / 2));
        window.map(|window| window.max(floor)).or((floor > i64::MIN).then_some(floor))
    }

    /// Samples before this cannot be appended out of order either by an appender that begins now; `i64::MAX`: none can.
    fn window_start(&self) -> i64 {
        let window = self.options.out_of_order_window;
        if window <= 0 {
            return i64::MAX;
        }
        // After a restart it may be that blocks have everything.
        let in_blocks = Some(self.floor.load(Ordering::Acquire)).filter(|floor| *floor > i64::MIN).map(|t| t - 1);
        let newest = self.max_time().max(in_blocks);
        newest.map_or(i64::MAX, |newest| newest.saturating_sub(window))
    }

    /// Widens the head's span to what was appended.
    fn cover(&self, min: i64, max: i64) {
        // Noted first: who replaces the minimum looks for it afterwards.
        self.covered_from.fetch_min(min, Ordering::AcqRel);
        self.min_time.fetch_min(min, Ordering::AcqRel);
        self.max_time.fetch_max(max, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
