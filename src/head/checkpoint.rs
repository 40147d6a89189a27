//! Shortening the log by what blocks have.

use std::sync::atomic::Ordering;

use super::{Collected, Head};
use crate::error::Result;
use crate::wal::{remove_checkpoints, write_checkpoint};

/// A number in the log that no series has any more: its series record stays as long as any other record of it may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    /// The last segment in which its records may stand.
    pub(super) segment: u64,
    /// The time of its newest sample, or later.
    pub(super) newest: i64,
}

impl Gone {
    /// Whether records of it may be left when a checkpoint up to segment `to` leaves out the samples before `t`.
    fn outlives(self, to: u64, t: i64) -> bool {
        self.segment > to || self.newest >= t
    }
}

impl Head {
    /// Forgets the samples before `t`, in memory and in the log: blocks have them.
    ///
    /// # Errors
    /// `Io`, `Full`: memory is given back, the log is longer than it need be, and the next call tries again.
    pub fn truncate(&self, t: i64) -> Result<Collected> {
        let collected = self.truncate_memory(t);
        self.truncate_log(t)?;
        Ok(collected)
    }

    /// Replaces the older two thirds of the log by a checkpoint without the samples before `t`. They are mostly about
    /// what blocks have; the last third keeps the work small next time.
    ///
    /// # Errors
    /// As [`truncate`](Head::truncate).
    pub fn truncate_log(&self, t: i64) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut done = self.log_truncated.lock();
        if t <= *done {
            return Ok(());
        }
        let (first, last) = log.segments()?;
        // A slow writer's log would otherwise be one segment for ever.
        log.next_segment()?;
        let Some(end) = last.checked_sub(1).filter(|last| *last > first) else {
            *done = t;
            return Ok(());
        };
        let to = first + (end - first) * 2 / 3;
        if to <= first {
            *done = t;
            return Ok(());
        }
        // Series that are created from here on have their record behind the checkpoint.
        let mut alive: Vec<u64> = (0..self.slots.end())
            .filter_map(|id| self.slots.get(id))
            .map(|series| series.reference())
            .filter(|reference| *reference != 0)
            .collect();
        alive.sort_unstable();
        let mut gone = self.gone.lock().clone();
        gone.retain(|_, gone| gone.outlives(to, t));
        let keep = |reference: u64| alive.binary_search(&reference).is_ok() || gone.contains_key(&reference);
        write_checkpoint(&self.env, log.dir(), to, log.options().compression, t, keep)?;
        log.truncate(to + 1)?;
        self.gone.lock().retain(|_, gone| gone.outlives(to, t));
        remove_checkpoints(self.env.fs.as_ref(), log.dir(), to)?;
        *done = t;
        Ok(())
    }

    /// How far the log has been shortened by this head.
    #[must_use]
    pub fn truncated_to(&self) -> i64 {
        self.truncated.load(Ordering::Acquire)
    }
}
