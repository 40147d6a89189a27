//! Samples that come out of order: older than their series' newest, and not older than the window allows.
//!
//! ```text
//! append    t at or before the series' newest, or before what may be cut next; at or after newest of all - window
//! commit    into the log of out-of-order samples (`wbl/`), then into the series' buffer: sorted, 32 samples
//! full      the buffer becomes a chunk in `chunks_head`; a marker in the log says so, in front of what comes next
//! query     behind all that came in order, and behind the blocks: buffers' chunks in the order of their making
//! cut       after the head's: blocks of their own, which say that they hold only this; then the log is shortened
//! ```
//!
//! **The first write wins**, and the order above is why: what came in order at a time came before whatever came out of
//! order at it, an earlier chunk was full before a later one began, and a block was cut before anything that is still
//! here came. So no sample that comes late changes an answer that somebody had.
//!
//! Few series have such samples, so they stand beside the slots, in a table by slot. The lock of a shard of it is taken
//! under the lock of the series' page, if both are. A commit with such samples holds the gate open from its log record to
//! its last sample; a cut and a deletion close it for a moment, and then know exactly which samples stand before them in
//! the log: those that are in memory.

mod commit;
mod cut;
mod delete;
mod lost;
mod read;
mod replay;
mod series;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicI64, AtomicU64};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::error::Refusal;
use super::mapped::{ChunkFile, ChunkPlace};
use super::series::Applied;
use crate::chunk::{EncodedChunk, Encoding};
use crate::codec::FixedMap;
use crate::error::Result as AnyResult;
use crate::model::{Sample, Value};
use crate::wal::Log;

pub(crate) use cut::ClosedGate;
pub use cut::{OutOfOrderCut, OutOfOrderHead};
pub use read::OutOfOrderChunk;

pub(super) use commit::{Late, sort_late};
pub(super) use lost::LostMarkers;
pub(super) use series::{OutOfOrder, same_value};

const SHARDS: usize = 64;
/// A shard with room for so many series is not worth making smaller.
const SMALL: usize = 64;

/// Where a chunk's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// Here.
    Memory(EncodedChunk),
    /// In a file, which is not deleted as long as a chunk lies there.
    Mapped(Arc<ChunkFile>, ChunkPlace),
}

impl Stored {
    /// The bytes.
    fn load(&self) -> AnyResult<EncodedChunk> {
        match self {
            Self::Memory(chunk) => Ok(chunk.clone()),
            Self::Mapped(file, place) => Ok(file.read(*place)?),
        }
    }
}

type Shard = FixedMap<u32, Box<OutOfOrder>>;

/// What the series of a head have out of order, by slot.
pub(super) struct OutOfOrderTable {
    shards: [Mutex<Shard>; SHARDS],
    /// Series in it.
    series: AtomicU64,
    /// Samples taken so far.
    samples: AtomicU64,
    /// How many cuts there were.
    generation: AtomicU64,
    /// The newest of all samples that were newer than their series' newest in order: there are few, since only what is
    /// about to be cut may not come in order although it could. Samples in order up to here look whether one was theirs.
    ahead: AtomicI64,
    /// What `ahead` was when blocks took over what there was: nobody here knows any more whose samples they were.
    ahead_passed: AtomicI64,
    /// The first and the last time of the samples that were taken since somebody began to look.
    came_from: AtomicI64,
    came_to: AtomicI64,
    /// Shared by commits from their record in the log to their last sample in memory.
    gate: RwLock<()>,
    /// Blocks have what came before this cut: readers that open from now on do not look for it here. It may lie here longer
    /// than in the blocks, and would answer where retention dropped the sample that was written first.
    passed_to: AtomicU64,
    /// What blocks have, but readers may still ask for.
    passed: Mutex<Vec<cut::Passed>>,
    /// The log of out-of-order samples; none if the window was never open.
    pub(super) log: Option<Log>,
    /// How floats without a start timestamp are encoded.
    floats: Encoding,
}

impl OutOfOrderTable {
    /// An empty one, whose floats become chunks of the encoding `floats`.
    pub(super) fn new(floats: Encoding) -> Self {
        Self {
            floats,
            shards: std::array::from_fn(|_| Mutex::default()),
            series: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            ahead: AtomicI64::new(i64::MIN),
            ahead_passed: AtomicI64::new(i64::MIN),
            came_from: AtomicI64::new(i64::MAX),
            came_to: AtomicI64::new(i64::MIN),
            gate: RwLock::default(),
            passed_to: AtomicU64::new(0),
            passed: Mutex::default(),
            log: None,
        }
    }
}

impl fmt::Debug for OutOfOrderTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OutOfOrderTable").field("series", &self.series).finish_non_exhaustive()
    }
}

impl OutOfOrderTable {
    #[expect(clippy::indexing_slicing, reason = "there are as many shards as remainders")]
    fn shard(&self, id: u32) -> MutexGuard<'_, Shard> {
        self.shards[id as usize % SHARDS].lock()
    }

    /// Whether no series has anything: costs nothing to ask.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.series.load(Acquire) == 0
    }

    /// How many series have something.
    pub(super) fn series(&self) -> u64 {
        self.series.load(Relaxed)
    }

    /// The first generation that blocks do not have.
    pub(super) fn passed_to(&self) -> u64 {
        self.passed_to.load(Acquire)
    }

    /// Samples taken so far.
    pub(super) fn samples(&self) -> u64 {
        self.samples.load(Relaxed)
    }

    /// Whether the series has anything.
    pub(super) fn has(&self, id: u32) -> bool {
        !self.is_empty() && self.shard(id).contains_key(&id)
    }

    /// Samples in order up to here ask [`newest`](Self::newest).
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Acquire)
    }

    /// Up to here a sample that seems to be in order may be in a block of late ones already.
    pub(super) fn ahead_passed(&self) -> i64 {
        self.ahead_passed.load(Acquire)
    }

    /// The series' newest sample out of order; `i64::MIN` if there is none.
    pub(super) fn newest(&self, id: u32) -> i64 {
        if self.is_empty() {
            return i64::MIN;
        }
        self.shard(id).get(&id).map_or(i64::MIN, |it| it.newest())
    }

    /// Whether a sample fits.
    ///
    /// # Errors
    /// `Duplicate`, if that can be seen at once.
    pub(super) fn check(&self, id: u32, t: i64, value: &Value) -> Result<Applied, Refusal> {
        if self.is_empty() {
            return Ok(Applied::Appended);
        }
        self.shard(id).get(&id).map_or(Ok(Applied::Appended), |it| it.check(t, value))
    }

    /// Calls `change` with what the series has, which is made if there is none.
    fn change<R>(&self, id: u32, change: impl FnOnce(&mut OutOfOrder) -> R) -> R {
        let mut shard = self.shard(id);
        let entry = shard.entry(id).or_insert_with(|| {
            self.series.fetch_add(1, AcqRel);
            Box::new(OutOfOrder::new(self.generation.load(Acquire), self.floats))
        });
        let result = change(entry);
        if entry.is_empty() {
            shard.remove(&id);
            if shard.capacity() > SMALL && shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
            self.series.fetch_sub(1, AcqRel);
        }
        result
    }

    /// Calls `look` with what the series has, if it has anything.
    fn look<R>(&self, id: u32, look: impl FnOnce(&OutOfOrder) -> R) -> Option<R> {
        if self.is_empty() {
            return None;
        }
        self.shard(id).get(&id).map(|it| look(it))
    }

    /// The series that have something.
    fn ids(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.series() as usize);
        for shard in &self.shards {
            ids.extend(shard.lock().keys().copied());
        }
        ids
    }

    /// Puts a sample to the series' others; the buffer becomes a chunk in memory if it is full. `newest` is its newest in
    /// order; every reader sees the commits below `low`.
    ///
    /// # Errors
    /// `Duplicate`.
    fn insert(&self, id: u32, sample: &Sample, newest: i64, commit: u64, low: u64) -> Result<Applied, Refusal> {
        let applied = self.change(id, |it| {
            if it.room() == 0 && matches!(it.check(sample.t, &sample.value), Ok(Applied::Appended)) {
                it.seal_in_memory(low);
            }
            it.insert(sample, commit)
        })?;
        if applied != Applied::Same {
            self.samples.fetch_add(1, Relaxed);
            self.came_from.fetch_min(sample.t, AcqRel);
            self.came_to.fetch_max(sample.t, AcqRel);
            if sample.t > newest {
                self.ahead.fetch_max(sample.t, AcqRel);
            }
        }
        Ok(applied)
    }

    /// The first file of head chunks that is needed; `u32::MAX`: none is.
    pub(super) fn first_file(&self) -> u32 {
        if self.is_empty() {
            return u32::MAX;
        }
        let first = |shard: &Mutex<Shard>| shard.lock().values().filter_map(|it| it.first_file()).min();
        self.shards.iter().filter_map(first).min().unwrap_or(u32::MAX)
    }

    /// Bytes of memory.
    pub(super) fn heap_bytes(&self) -> usize {
        let shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.capacity() * 2 * size_of::<usize>() + shard.values().map(|it| it.heap_bytes()).sum::<usize>()
        };
        self.shards.iter().map(shard).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_back_the_room_of_series_that_have_nothing_any_more() {
        const SERIES: u32 = 64_000;
        let table = OutOfOrderTable::new(Encoding::Xor);
        let sample = Sample { t: 1, st: 0, value: Value::Float(1.0) };
        for id in 0..SERIES {
            table.insert(id, &sample, 0, 1, u64::MAX).unwrap();
        }
        let full = table.heap_bytes();
        let generation = table.generation.fetch_add(1, AcqRel) + 1;
        for id in 0..SERIES {
            table.change(id, |it| {
                it.touch(generation, u64::MAX);
                it.drop_before(generation);
            });
        }
        assert!(table.is_empty());
        let left = table.heap_bytes();
        assert!(left <= SHARDS * 2 * SMALL * 2 * size_of::<usize>(), "{left} of {full} bytes");
    }
}
