//! The work behind: cutting blocks, shortening the log, merging, dropping what is no longer wanted.
//!
//! There are two kinds. What the head waits for ([`tend_head`](Inner::tend_head)) is short. What blocks want of each other
//! ([`tend_blocks`](Inner::tend_blocks)) may take long, and nobody waits for it: with threads of its own, a database does
//! the two beside each other.
//!
//! ```text
//! raise the floor      no more samples before the cut; what is under way is waited for
//! write the block      beside, then renamed: a crash leaves it whole or not there
//! serve it             queries see its samples twice for a moment, never not at all
//! truncate the head    the samples go from memory
//! cut what came late   once for all cuts: what came out of order goes into blocks of its own, and from its log
//! shorten the log      once for all cuts: a checkpoint stands for the older part
//! map full chunks      from memory to `chunks_head/`; more often, when many wait
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::merging::Deletes;
use crate::block::{BlockMeta, BlockRead, HINT_OUT_OF_ORDER, Ulid, new_ulid_after};
use crate::budget::Budget;
use crate::codec::FixedSet;
use crate::compact::{spans, write_block_as};
use crate::error::Result;
use crate::fs::{Clock, Task};
use crate::head::{ClosedGate, LeavingSeries, OutOfOrderCut};
use crate::model::TimeRange;
use crate::wal::Durability;

/// Bytes of full chunks that wait in memory for the next round: more are moved to the disk before it.
const MAX_WAITING: u64 = 32 << 20;

/// What a round of maintenance did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintenance {
    /// Blocks cut from the head.
    pub written: Vec<Ulid>,
    /// Blocks written that replace others: merged, or without what was deleted.
    pub merged: Vec<Ulid>,
    /// Downsampled copies of blocks.
    pub downsampled: Vec<Ulid>,
    /// Blocks dropped: replaced, empty or expired.
    pub dropped: Vec<Ulid>,
}

/// What maintenance remembers from round to round.
#[derive(Debug)]
pub(super) struct State {
    /// Blocks are complete up to here, and the log has not been shortened to it yet.
    shorten_to: Option<i64>,
    /// Memory that somebody could still see when the head was truncated.
    collect: bool,
    /// What was deleted since a rewrite of blocks began, if one is under way.
    pub(super) deletes: Option<Deletes>,
    /// Blocks of which nothing is left, but that must stay until a newer one is there.
    pub(super) emptied: FixedSet<Ulid>,
    /// The head was cut, and what came out of order is to follow.
    pub(super) cut_late: bool,
    /// Stale series that blocks have, and that are to leave the head.
    pub(super) leaving: Option<LeavingSeries>,
    /// When the last snapshot of the head was written, or the first round was done.
    last_snapshot: Option<Duration>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            shorten_to: None,
            collect: true,
            cut_late: false,
            leaving: None,
            deletes: None,
            emptied: FixedSet::default(),
            last_snapshot: None,
        }
    }
}

/// What the last rounds of each kind failed with.
#[derive(Debug, Default)]
pub(super) struct LastErrors {
    head: Option<String>,
    blocks: Option<String>,
}

impl LastErrors {
    pub(super) fn first(&self) -> Option<String> {
        self.head.clone().or_else(|| self.blocks.clone())
    }
}

impl Inner {
    pub(super) fn maintain(&self) -> Result<Maintenance> {
        let mut done = Maintenance::default();
        let head = self.tend_head(&mut done);
        // What the head fails with does not go away while blocks wait for it.
        let blocks = self.tend_blocks(&mut done, head.is_ok());
        head.and(blocks).map(|()| done)
    }

    /// Everything that the head, its log and the disk's space wait for.
    pub(super) fn tend_head(&self, done: &mut Maintenance) -> Result<()> {
        let mut state = self.maintenance.lock();
        self.check_open()?;
        let result = self.round(&mut state, done, Self::full_range);
        self.note_head(result)
    }

    /// Whether work on blocks is to end: for good, or with `yielding` because the head is to be cut.
    pub(super) fn is_to_end(&self, yielding: bool) -> bool {
        self.is_closed() || (yielding && self.full_range().is_some())
    }

    /// What blocks become of themselves: merged, and written again. With `yielding` it ends early when the head is to be
    /// cut.
    pub(super) fn tend_blocks(&self, done: &mut Maintenance, yielding: bool) -> Result<()> {
        self.check_open()?;
        let merged = self.merge_all(done, yielding);
        // Both look at the blocks that have come of merging; neither is kept from its work by what failed before.
        let expired = self.expire_by_rules(done, yielding);
        let downsampled = self.downsample_all(done, yielding);
        let result = merged.and(expired).and(downsampled);
        self.last_errors.lock().blocks = result.as_ref().err().map(ToString::to_string);
        result
    }

    pub(super) fn flush(&self) -> Result<Maintenance> {
        let mut state = self.maintenance.lock();
        self.check_open()?;
        let mut done = Maintenance::default();
        state.cut_late = true;
        // What comes after this moment is not flushed.
        let until = self.head.max_time();
        let result = self.round(&mut state, &mut done, |inner| {
            // An empty head has nothing to cut, and cutting it would refuse the next sample.
            let min = inner.head.min_time().filter(|_| inner.head.counts().chunks > 0)?;
            let max = until?.min(inner.range_end(min) - 1);
            (min <= max).then_some(TimeRange::new(min, max))
        });
        self.note_head(result).map(|()| done)
    }

    fn note_head(&self, result: Result<()>) -> Result<()> {
        self.last_errors.lock().head = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn round(
        &self,
        state: &mut State,
        done: &mut Maintenance,
        next: impl Fn(&Self) -> Option<TimeRange>,
    ) -> Result<()> {
        let synced = self.head.sync_if_due();
        // One that fails keeps none of the others from being done: on a full disk, what makes room is the last of them.
        let cut = self.cut_all(state, done, next);
        let cut = cut.and(self.cut_late(state, done));
        let cut = cut.and(self.cut_stale(state, done));
        if self.is_closed() {
            return synced.and(cut);
        }
        let mapped = self.head.map_full_chunks().map(drop);
        let shortened = state.shorten_to.map_or(Ok(()), |t| self.head.truncate_log(t));
        if shortened.is_ok() {
            state.shorten_to = None;
        }
        if state.collect || self.head.can_collect() {
            let left = self.head.collect_out_of_order();
            state.collect = self.head.collect().series_marked > 0 || left;
        }
        let snapshot = self.snapshot_if_due(state);
        let reloaded = self.reload(state);
        synced
            .and(cut)
            .and(mapped)
            .and(shortened)
            .and(snapshot)
            .and(reloaded.map(|dropped| done.dropped.extend(dropped)))
    }

    /// Leaves a snapshot of the head, if that is wanted and the last one is old.
    fn snapshot_if_due(&self, state: &mut State) -> Result<()> {
        let Some(interval) = self.options.snapshot_interval else { return Ok(()) };
        let now = self.env.clock.monotonic();
        if now < *state.last_snapshot.get_or_insert(now) + interval {
            return Ok(());
        }
        self.head.write_snapshot()?;
        state.last_snapshot = Some(now);
        Ok(())
    }

    /// What cannot wait for the next round.
    fn tick(&self) -> Result<()> {
        self.head.sync_if_due()?;
        if self.head.waiting_bytes() > MAX_WAITING {
            self.head.map_full_chunks()?;
        }
        Ok(())
    }

    fn cut_all(
        &self,
        state: &mut State,
        done: &mut Maintenance,
        next: impl Fn(&Self) -> Option<TimeRange>,
    ) -> Result<()> {
        while let Some(range) = next(self).filter(|_| !self.is_closed()) {
            done.written.extend(self.cut(state, range)?);
        }
        Ok(())
    }

    /// Cuts what came out of order, if the head was cut: blocks beside those in order, each of one span.
    pub(super) fn cut_late(&self, state: &mut State, done: &mut Maintenance) -> Result<()> {
        if !state.cut_late || self.is_closed() {
            return Ok(());
        }
        let cut = self.head.cut_out_of_order()?;
        self.put_late(state, done, cut)
    }

    /// Cuts what came out of order, up to the last of it: none comes meanwhile.
    pub(super) fn cut_late_within(&self, closed: &ClosedGate<'_>, state: &mut State) -> Result<()> {
        let cut = self.head.cut_out_of_order_within(closed)?;
        self.put_late(state, &mut Maintenance::default(), cut)
    }

    fn put_late(&self, state: &mut State, done: &mut Maintenance, cut: Option<OutOfOrderCut>) -> Result<()> {
        let Some(cut) = cut else {
            state.cut_late = false;
            return Ok(());
        };
        // If one fails, all of them are written again the next time.
        let written = self.blocks.add(|written| self.write_late(&cut, written))?;
        state.cut_late = false;
        state.collect = true;
        done.written.extend(&written);
        self.head.truncate_out_of_order(&cut)?;
        tracing::info!(blocks = written.len(), "cut what came out of order");
        Ok(())
    }

    /// A name for a block that comes after all others, and after those that are `written` and not served yet. A block
    /// that was replaced is among the others: one of its name would be taken for it, and dropped.
    pub(super) fn new_ulid(&self, written: &[Ulid]) -> Ulid {
        let served = self.blocks.all();
        let names = served.iter().flat_map(|block| {
            let BlockMeta { ulid, compaction, .. } = block.meta();
            let replaced =
                compaction.parents.iter().map(|parent| parent.ulid).chain(compaction.sources.iter().copied());
            replaced.chain([*ulid])
        });
        new_ulid_after(&self.env, names.chain(written.iter().copied()).chain(self.blocks.unwanted()))
    }

    /// Writes a block of what the head has of `span`, if there is anything, and notes it among those that are `written`.
    pub(super) fn write_new(
        &self,
        source: &dyn BlockRead,
        span: std::ops::Range<i64>,
        hints: &[&str],
        written: &mut Vec<Ulid>,
    ) -> Result<()> {
        let name = self.new_ulid(written);
        written.push(name);
        let (floats, budget) = (self.options.float_encoding.into(), Budget::unlimited());
        let meta = write_block_as(name, &self.env, &self.dir, source, span, hints, floats, &budget)?;
        if meta.is_none() {
            written.pop();
        }
        Ok(())
    }

    fn write_late(&self, cut: &OutOfOrderCut, written: &mut Vec<Ulid>) -> Result<()> {
        let all = cut.head(TimeRange::ALL);
        for span in spans(&all, all.select(&[])?, self.options.min_block_duration)? {
            let source = cut.head(TimeRange::new(span.start, span.end - 1));
            self.write_new(&source, span, &[HINT_OUT_OF_ORDER], written)?;
        }
        Ok(())
    }

    /// The oldest span of the head, if the head holds half as much again: what is that far back takes no more samples.
    pub(super) fn full_range(&self) -> Option<TimeRange> {
        let (min, max) = (self.head.min_time()?, self.head.max_time()?);
        let duration = self.options.min_block_duration;
        let is_due = max.saturating_sub(min) > duration.saturating_add(duration / 2);
        is_due.then(|| TimeRange::new(min, self.range_end(min) - 1))
    }

    /// Where the block that `t` belongs to ends.
    fn range_end(&self, t: i64) -> i64 {
        let duration = self.options.min_block_duration;
        t.div_euclid(duration).saturating_add(1).saturating_mul(duration)
    }

    fn cut(&self, state: &mut State, range: TimeRange) -> Result<Option<Ulid>> {
        self.head.raise_floor(range.max.saturating_add(1));
        // Commits that were under way may have brought older samples than there were when the range was chosen; what they
        // brought goes from memory with the rest.
        let min = self.head.min_time().map_or(range.min, |min| min.min(range.min));
        let range = TimeRange::new(min, range.max.min(self.range_end(min) - 1));
        let end = range.max.saturating_add(1);
        let source = self.head.range_head(range);
        // Retention is for later: what is cut is served first, whatever it drops.
        let written = self.blocks.add(|written| self.write_new(&source, range.min..end, &[], written))?.pop();
        drop(source);
        state.collect |= self.head.truncate_memory(end).series_marked > 0;
        state.cut_late = true;
        match written {
            Some(block) => {
                state.shorten_to = Some(end);
                tracing::info!(%block, min = range.min, max = range.max, "cut a block from the head");
            }
            // Since all of it was deleted, there is no block that says at the next opening that what the head's chunks on
            // the disk have is not wanted: it is the log's deletions that say so, and they stay; or a snapshot of the head.
            None => self.head.is_emptied_before(end),
        }
        Ok(written)
    }
}

/// Starts the threads that maintain `inner` until it is closed or nobody has it any more: one for the head, and one for the
/// blocks, whose work may take so long that the head cannot wait for it.
pub(super) fn spawn(inner: &Arc<Inner>) -> Result<Vec<Box<dyn Task>>> {
    let clock = Arc::clone(&inner.env.clock);
    let interval = inner.options.maintenance_interval;
    // Often enough that no commit waits for its sync much longer than was promised.
    let tick = match inner.options.durability {
        Durability::Interval(sync) => interval.min(sync).max(Duration::from_millis(1)),
        _ => interval,
    };
    let (weak, bell) = (Arc::downgrade(inner), Arc::clone(&inner.bell));
    let head = move || {
        let mut due = clock.monotonic() + interval;
        while step(&weak, clock.as_ref(), interval, &mut due) {
            bell.wait(tick);
        }
    };
    let (weak, bell) = (Arc::downgrade(inner), Arc::clone(&inner.blocks_bell));
    let blocks = move || {
        bell.wait(interval);
        while let Some(inner) = weak.upgrade().filter(|inner| !inner.is_closed()) {
            report(&inner, inner.tend_blocks(&mut Maintenance::default(), false));
            drop(inner);
            bell.wait(interval);
        }
    };
    Ok(vec![
        inner.env.executor.spawn("narthex-maintenance", Box::new(head))?,
        inner.env.executor.spawn("narthex-compaction", Box::new(blocks))?,
    ])
}

/// One look; whether there is to be another.
fn step(weak: &Weak<Inner>, clock: &dyn Clock, interval: Duration, due: &mut Duration) -> bool {
    let Some(inner) = weak.upgrade().filter(|inner| !inner.is_closed()) else { return false };
    let result = if clock.monotonic() < *due {
        inner.tick()
    } else {
        *due = clock.monotonic() + interval;
        let mut done = Maintenance::default();
        let result = inner.tend_head(&mut done);
        if !done.written.is_empty() {
            inner.blocks_bell.ring();
        }
        result
    };
    report(&inner, result);
    true
}

fn report(inner: &Inner, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(dir = %inner.dir.display(), %error, "maintenance failed; it is tried again");
    }
}

#[cfg(test)]
mod tests;
