//! Series that have ended, taken out of the head before their time: their last sample is a stale marker.
//!
//! ```text
//! find     series that end in a stale marker and have nothing out of order
//! write    a block of them alone, for each span; the caller's business
//! mark     those that nobody has appended to since, so that whoever does from now on is noticed
//! evict    those still marked when all readers and appenders of that time are gone; the log is told
//! ```
//!
//! The block is read after what came in order, so a series that begins again must not be given samples that its block has
//! already: how far it had come is remembered until the floor has passed that.

use std::sync::atomic::Ordering;

use xxhash_rust::xxh64::xxh64;

use super::gc::unmark;
use super::{Head, SeriesRef};
use crate::error::Result;
use crate::index::SeriesId;
use crate::model::{Labels, TimeRange};
use crate::wal::record::{RefTombstone, encode_tombstones};

/// Series whose records are written to the log at once.
const SLICE: usize = 1 << 16;

/// Series that end in a stale marker.
#[derive(Debug, Clone, Default)]
pub struct StaleSeries {
    series: Vec<(SeriesRef, i64)>,
}

/// Stale series that blocks have, on their way out of the head.
#[derive(Debug)]
pub struct LeavingSeries {
    /// Whoever opened before may not know of the blocks.
    stamp: u64,
    series: Vec<(SeriesRef, i64)>,
}

impl StaleSeries {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Which they are, in the head and in a [`RangeHead`](super::RangeHead) of it.
    pub fn ids(&self) -> impl Iterator<Item = SeriesId> {
        self.series.iter().map(|(reference, _)| SeriesId(reference.id()))
    }
}

impl Head {
    /// The series whose newest sample is a stale marker, but for those that have samples out of order. It looks at each
    /// series once, and holds none of them up.
    #[must_use]
    pub fn stale_series(&self) -> StaleSeries {
        let mut stale = StaleSeries::default();
        for id in 0..self.slots.end() {
            let Some(series) = self.slots.get(id) else { continue };
            let state = series.lock();
            let tag = series.tag();
            if tag & 1 == 0 && !state.labels().is_empty() && state.ends_stale() && !self.out_of_order.has(id) {
                stale.series.push((SeriesRef::new(id, tag), series.newest()));
            }
        }
        stale
    }

    /// Marks those of `stale`, whose blocks are served by now, that are as they were. See
    /// [`evict_stale`](Head::evict_stale).
    #[must_use]
    pub fn mark_stale(&self, mut stale: StaleSeries) -> LeavingSeries {
        let mut marked = self.marked.lock();
        stale.series.retain(|(reference, newest)| {
            let Some(series) = self.slots.get(reference.id()) else { return false };
            let mut state = series.lock();
            let unchanged = series.tag() == reference.tag() && series.newest() == *newest;
            if unchanged {
                series.mark_dying(&mut state);
            }
            unchanged
        });
        let ids: Vec<u32> = stale.series.iter().map(|(reference, _)| reference.id()).collect();
        unmark(&mut marked, &ids);
        LeavingSeries { stamp: self.isolation.stamp(), series: stale.series }
    }

    /// Removes the series that are still as they were marked, and has the log say so. As long as a reader or an appender
    /// from before the marking is open nothing is done, and they are given back for another time.
    ///
    /// # Errors
    /// `Io`, `Full`: they are gone from memory, and the log does not say so yet; see
    /// [`settle_evictions`](Head::settle_evictions).
    pub fn evict_stale(&self, leaving: LeavingSeries) -> Result<Option<LeavingSeries>> {
        if !self.isolation.everybody_passed(leaving.stamp) {
            return Ok(Some(leaving));
        }
        let marked = self.marked.lock();
        let mut ids = Vec::with_capacity(leaving.series.len());
        for (reference, newest) in &leaving.series {
            let Some(series) = self.slots.get(reference.id()) else { continue };
            let mut state = series.lock();
            // Somebody wanted it since, and then it was emptied and marked for that: an appender may be about to commit.
            let marked_anew = || marked.iter().any(|later| later.has(reference.id()));
            if series.tag() != reference.tag() | 1 || marked_anew() {
                continue;
            }
            if series.newest() != *newest || self.out_of_order.has(reference.id()) {
                series.revive(&state);
                continue;
            }
            let chunks = state.drop_before(&series, i64::MAX);
            self.counters.chunks.fetch_sub(chunks as u64, Ordering::Relaxed);
            ids.push(reference.id());
        }
        let mut result = Ok(());
        for ids in ids.chunks(SLICE) {
            self.remove_series_of(ids, |shard, hash, reference, newest| {
                // Under the lock that a creation takes: who is first with these labels finds it, and the log says that the
                // series ended before it says that another one of these labels began.
                shard.end(hash, newest);
                if let Some(log) = &self.log {
                    let mut record = Vec::new();
                    encode_tombstones([RefTombstone { reference, range: TimeRange::ALL }], &mut record);
                    log.add_record(record);
                }
            });
            self.owes_evictions.store(true, Ordering::Release);
            // What is not written stays owed, in its order.
            result = result.and(self.log.as_ref().map_or(Ok(()), |log| log.commit(&[])));
        }
        drop(marked);
        result?;
        self.settle_evictions()?;
        Ok(None)
    }

    /// Makes the log say durably which series were evicted. Before something is deleted it must: blocks have what these
    /// series had, and would be told of the deletion alone; read again without this, the log would bring it back.
    ///
    /// # Errors
    /// `Io`, `Full`: it is owed as before.
    pub fn settle_evictions(&self) -> Result<()> {
        if let Some(log) = self.log.as_ref().filter(|_| self.owes_evictions.load(Ordering::Acquire)) {
            log.commit(&[])?;
            log.sync()?;
            self.owes_evictions.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// A block has what a series had that was evicted, up to `newest`: to be said after opening, as the log does not tell of
    /// those that a snapshot of the head or a checkpoint came after.
    pub(crate) fn has_ended(&self, labels: &Labels, newest: i64) {
        // What may still come in order goes by the newest of all samples, also by one that left.
        self.max_time.fetch_max(newest, Ordering::AcqRel);
        let hash = xxh64(labels.as_packed(), 0);
        let mut shard = self.map.shard(hash);
        shard.end(hash, newest);
        // One that began again, and has nothing yet that was later; or the log ends before the block does.
        if let Some((_, series)) = self.find(&shard, hash, labels.as_packed())
            && series.newest() < newest
        {
            series.lock().begin_after(&series, newest);
        }
    }
}
