//! The work behind: cutting blocks, shortening the log, dropping what is no longer wanted.
//!
//! ```text
//! raise the floor      no more samples before the cut; what is under way is waited for
//! write the block      beside, then renamed: a crash leaves it whole or not there
//! serve it             queries see its samples twice for a moment, never not at all
//! truncate the head    the samples go from memory
//! shorten the log      once for all cuts: a checkpoint stands for the older part
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::status::dir_bytes;
use super::{Inner, WAL_DIR};
use crate::block::Ulid;
use crate::budget::Budget;
use crate::compact::write_block;
use crate::error::{Error, Result};
use crate::fs::{Clock, Task};
use crate::model::TimeRange;
use crate::wal::Durability;

/// What a round of maintenance did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintenance {
    /// Blocks cut from the head.
    pub written: Vec<Ulid>,
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
}

impl Default for State {
    fn default() -> Self {
        Self { shorten_to: None, collect: true }
    }
}

impl Inner {
    pub(super) fn maintain(&self) -> Result<Maintenance> {
        let mut state = self.maintenance.lock();
        self.check_open()?;
        let mut done = Maintenance::default();
        let result = self.round(&mut state, &mut done, Self::full_range);
        self.finish(result, done)
    }

    pub(super) fn flush(&self) -> Result<Maintenance> {
        let mut state = self.maintenance.lock();
        self.check_open()?;
        let mut done = Maintenance::default();
        // What comes after this moment is not flushed.
        let until = self.head.max_time();
        let result = self.round(&mut state, &mut done, |inner| {
            // An empty head has nothing to cut, and cutting it would refuse the next sample.
            let min = inner.head.min_time().filter(|_| inner.head.counts().chunks > 0)?;
            let max = until?.min(inner.range_end(min) - 1);
            (min <= max).then_some(TimeRange::new(min, max))
        });
        self.finish(result, done)
    }

    fn finish(&self, result: Result<()>, done: Maintenance) -> Result<Maintenance> {
        *self.last_error.lock() = result.as_ref().err().map(ToString::to_string);
        result.map(|()| done)
    }

    fn round(
        &self,
        state: &mut State,
        done: &mut Maintenance,
        next: impl Fn(&Self) -> Option<TimeRange>,
    ) -> Result<()> {
        let synced = self.head.log().map_or(Ok(()), |log| log.sync_if_due().map_err(Error::from));
        let cut = self.cut_all(state, done, next);
        if self.is_closed() {
            return synced.and(cut);
        }
        // One that fails keeps none of the others from being done: on a full disk, what makes room is the last of them.
        let shortened = state.shorten_to.map_or(Ok(()), |t| self.head.truncate_log(t));
        if shortened.is_ok() {
            state.shorten_to = None;
        }
        if state.collect {
            state.collect = self.head.collect().series_marked > 0;
        }
        let other_bytes = dir_bytes(&self.env, &self.dir.join(WAL_DIR));
        let reloaded = self.blocks.reload(self.options.retention, other_bytes);
        synced.and(cut).and(shortened).and(reloaded.map(|dropped| done.dropped.extend(dropped)))
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

    /// The oldest span of the head, if the head holds half as much again: what is that far back takes no more samples.
    fn full_range(&self) -> Option<TimeRange> {
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
        let end = range.max.saturating_add(1);
        self.head.raise_floor(end);
        let source = self.head.range_head(range);
        let budget = Budget::unlimited();
        let written = write_block(&self.env, &self.dir, &source, range.min..end, &[], &budget)?.map(|meta| meta.ulid);
        drop(source);
        // Retention is for later: what is cut is served first, whatever it drops.
        self.blocks.refresh()?;
        state.collect |= self.head.truncate_memory(end).series_marked > 0;
        state.shorten_to = Some(end);
        if let Some(block) = written {
            tracing::info!(%block, min = range.min, max = range.max, "cut a block from the head");
        }
        Ok(written)
    }
}

/// Starts the thread that maintains `inner` until it is closed or nobody has it any more.
pub(super) fn spawn(inner: &Arc<Inner>) -> Result<Box<dyn Task>> {
    let weak = Arc::downgrade(inner);
    let bell = Arc::clone(&inner.bell);
    let clock = Arc::clone(&inner.env.clock);
    let interval = inner.options.maintenance_interval;
    // Often enough that no commit waits for its sync much longer than was promised.
    let tick = match inner.options.durability {
        Durability::Interval(sync) => interval.min(sync).max(Duration::from_millis(1)),
        _ => interval,
    };
    let task = move || {
        let mut due = clock.monotonic() + interval;
        while step(&weak, clock.as_ref(), interval, &mut due) {
            bell.wait(tick);
        }
    };
    Ok(inner.env.executor.spawn("narthex-maintenance", Box::new(task))?)
}

/// One look; whether there is to be another.
fn step(weak: &Weak<Inner>, clock: &dyn Clock, interval: Duration, due: &mut Duration) -> bool {
    let Some(inner) = weak.upgrade().filter(|inner| !inner.is_closed()) else { return false };
    let result = if clock.monotonic() < *due {
        inner.head.log().map_or(Ok(()), |log| log.sync_if_due().map_err(Into::into))
    } else {
        *due = clock.monotonic() + interval;
        inner.maintain().map(|_| ())
    };
    if let Err(error) = result {
        tracing::error!(dir = %inner.dir.display(), %error, "maintenance failed; it is tried again");
    }
    true
}
