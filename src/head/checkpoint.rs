//! Shortening the log by what blocks have.

use std::sync::atomic::Ordering;

use super::gone::GoneThen;
use super::{Collected, Head, SeriesRef};
use crate::error::Result;
use crate::index::PostingsSource;
use crate::model::{Exemplar, METRIC_NAME, Metadata};
use crate::wal::{Keep, Log, remove_checkpoints, write_checkpoint};

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
        let to = first + last.saturating_sub(first + 1) * 2 / 3;
        if to > first {
            self.replace_by_checkpoint(log, to, t)?;
        }
        // A slow writer's log would otherwise be one segment for ever. Not before the checkpoint: on a full disk that makes
        // the room, and each attempt would leave a segment.
        log.next_segment()?;
        *done = t;
        Ok(())
    }

    /// Replaces the segments up to `to` by a checkpoint without the samples before `t`.
    fn replace_by_checkpoint(&self, log: &Log, to: u64, t: i64) -> Result<()> {
        let gone = self.gone.lock().outliving(to, t);
        let keep = Kept { head: self, alive: self.alive(), gone };
        write_checkpoint(&self.env, log.dir(), to, log.options().compression, t, keep)?;
        log.truncate(to + 1)?;
        self.gone.lock().retain_outliving(to, t);
        Ok(remove_checkpoints(self.env.fs.as_ref(), log.dir(), to)?)
    }

    /// How far the log has been shortened by this head.
    #[must_use]
    pub fn truncated_to(&self) -> i64 {
        self.truncated.load(Ordering::Acquire)
    }

    /// The series that there are, by number. Those that are created from here on have their record behind a checkpoint of
    /// the segments that are finished.
    fn alive(&self) -> Vec<(u64, SeriesRef)> {
        let series = (0..self.slots.end()).filter_map(|id| Some((id, self.slots.get(id)?)));
        let numbered = series.map(|(id, slot)| (slot.reference(), SeriesRef::new(id, slot.tag() & !1)));
        let mut alive: Vec<_> = numbered.filter(|(reference, _)| *reference != 0).collect();
        alive.sort_unstable_by_key(|(reference, _)| *reference);
        alive
    }
}

/// What a checkpoint keeps: what is in memory.
struct Kept<'a> {
    head: &'a Head,
    alive: Vec<(u64, SeriesRef)>,
    gone: GoneThen,
}

impl Kept<'_> {
    fn series(&self, reference: u64) -> Option<SeriesRef> {
        let index = self.alive.binary_search_by_key(&reference, |(reference, _)| *reference).ok()?;
        self.alive.get(index).map(|(_, series)| *series)
    }
}

impl Keep for Kept<'_> {
    fn keeps(&self, reference: u64) -> bool {
        self.series(reference).is_some() || self.gone.has(reference)
    }

    fn exemplar(&self, reference: u64, exemplar: &Exemplar) -> Option<u64> {
        let series = self.series(reference).or_else(|| self.gone.renamed_to(reference))?;
        let slot = self.head.known(series).filter(|_| self.head.exemplars.has(series, exemplar))?;
        Some(slot.reference())
    }

    fn metadata(&self) -> Vec<(u64, Metadata)> {
        let series_of = |name: &str| {
            let postings = PostingsSource::postings(&self.head.labels, METRIC_NAME, name).ok()?;
            let alive = postings.into_vec().into_iter().filter_map(|id| self.head.slots.get(id));
            // One that was created meanwhile has its record behind the checkpoint.
            alive.map(|slot| slot.reference()).find(|reference| self.series(*reference).is_some())
        };
        let known = self.head.metadata.get(None, self.head.holds()).into_iter();
        known.filter_map(|(name, metadata)| Some((series_of(&name)?, metadata))).collect()
    }
}
