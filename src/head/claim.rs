//! One commit a series at a time, from its log record to its samples in memory.
//!
//! The log is written before memory is. If two commits that race on a series stood in the log in one order and reached
//! memory in the other, a restart would find something else than queries saw: an acknowledged sample would be out of
//! order, one that was refused would be there, or another of two values would be the first. So a commit claims its
//! series, looks once more whether its samples fit, writes those that do, applies them, and lets go. Commits that share
//! no series do not notice each other.
//!
//! A commit that meets a claim lets go of its own, takes the head's one permit to wait, and claims again, keeping what it
//! gets: whoever claims without the permit never waits, so nobody waits in a circle.

use std::time::Duration;

use super::batch::{Batch, Buffers, Pending};
use super::series::{Applied, Series};
use super::{Head, SeriesRef};
use crate::chunk::{Floats, Integers};

/// Whose claim it is: what of an appender's number fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimant(u32);

impl Claimant {
    pub(super) fn new(appender: u64) -> Self {
        // 0 is nobody. Two that are open at once and four thousand million apart would share claims; nobody does that.
        Self((appender as u32).max(1))
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

impl Batch {
    /// The series and times of all samples.
    fn keys(&self) -> impl Iterator<Item = (SeriesRef, i64)> {
        let floats = self.floats.values().map(|it| (it.series, it.t));
        let histograms = self.histograms.values().map(|it| (it.series, it.t));
        floats.chain(histograms).chain(self.float_histograms.values().map(|it| (it.series, it.t)))
    }
}

impl Head {
    /// Claims all series of a commit, waiting for others who have them; whether all samples are newer than their series.
    pub(super) fn claim(&self, buffers: &Buffers, claimant: Claimant) -> bool {
        if let Some(newer) = self.try_claim(buffers, claimant) {
            return newer;
        }
        self.release(buffers, &Losers::default(), claimant);
        let _permit = self.waiting_claim.lock();
        let waiter = self.env.executor.waiter();
        loop {
            if let Some(newer) = self.try_claim(buffers, claimant) {
                return newer;
            }
            // The time of a write to the log, or of its sync.
            waiter.wait(Duration::from_micros(100));
        }
    }

    /// Claims until it meets another's claim: then there is no answer.
    fn try_claim(&self, buffers: &Buffers, claimant: Claimant) -> Option<bool> {
        let mut newer = true;
        for (reference, t) in buffers.batches().flat_map(Batch::keys) {
            let Some(series) = self.slots.get(reference.id()) else { continue };
            if !series.claim(claimant) {
                return None;
            }
            newer &= series.is_newer(t);
        }
        Some(newer)
    }

    /// Gives back whatever series of the commit are claimed.
    pub(super) fn release(&self, buffers: &Buffers, losers: &Losers, claimant: Claimant) {
        let kept = buffers.batches().flat_map(Batch::keys).map(|(series, _)| series);
        for reference in kept.chain(losers.series.iter().copied()) {
            if let Some(series) = self.slots.get(reference.id()) {
                series.release(claimant);
            }
        }
    }

    /// Takes out what no longer fits since it was appended.
    pub(super) fn take_out_losers(&self, buffers: &mut Buffers) -> Losers {
        let mut losers = Losers::default();
        let mut keep = |reference: SeriesRef, check: &dyn Fn(&Series<'_>) -> Option<Applied>| {
            match self.slots.get(reference.id()).and_then(|slot| check(&slot)) {
                Some(Applied::Same) => losers.same += 1,
                Some(_) => return true,
                None => losers.lost += 1,
            }
            losers.series.push(reference);
            false
        };
        for batch in buffers.batches_mut() {
            batch.floats.retain(|Pending { series, t, value, .. }, _| {
                keep(*series, &|slot| slot.lock().check_float(slot, *t, *value).ok())
            });
            batch.histograms.retain(|Pending { series, t, value, .. }, _| {
                keep(*series, &|slot| slot.lock().check_histogram::<Integers>(slot, *t, value).ok())
            });
            batch.float_histograms.retain(|Pending { series, t, value, .. }, _| {
                keep(*series, &|slot| slot.lock().check_histogram::<Floats>(slot, *t, value).ok())
            });
        }
        losers
    }
}

/// Samples that a commit takes out.
#[derive(Debug, Default)]
pub(super) struct Losers {
    /// Those that are there already with the same value.
    pub(super) same: u64,
    /// Those that do not fit.
    pub(super) lost: u64,
    /// Their series, which are still claimed.
    series: Vec<SeriesRef>,
}
