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

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use super::batch::{Batch, Buffers, Pending};
use super::error::Refusal;
use super::ooo::Late;
use super::open::HistogramKind as _;
use super::series::{Applied, Series};
use super::{Head, SeriesRef};
use crate::chunk::{Floats, Integers};
use crate::codec::FixedMap;
use crate::model::{Sample, Value};

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

/// What became of an attempt to claim a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is this commit's now.
    New,
    /// It was before.
    Again,
    /// Another commit has it.
    Others,
}

impl Batch {
    /// Calls `each` with the series and the time of one sample after the other, as long as it says yes; whether it always
    /// did. Loops of their own: one iterator over all kinds asks at each sample which kind it is at.
    fn all_keys(&self, mut each: impl FnMut(SeriesRef, i64) -> bool) -> bool {
        self.floats.values().all(|it| each(it.series, it.t))
            && self.histograms.values().all(|it| each(it.series, it.t))
            && self.float_histograms.values().all(|it| each(it.series, it.t))
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
        // Below this, more than the series' newest sample is to be asked.
        let from = self.floor.load(Acquire).max(self.out_of_order.ahead().saturating_add(1));
        let with_window = self.options.out_of_order_window > 0;
        let mut newer = true;
        let mut slots = self.slots.cursor();
        let mut claim = |reference: SeriesRef, t: i64| {
            let Some(series) = slots.get(reference.id()) else { return true };
            match series.claim(claimant) {
                Claim::Others => return false,
                // A series that comes again: one of its samples may be out of order after another.
                Claim::Again => newer &= !with_window,
                Claim::New => {}
            }
            newer &= series.is_newer(t) && t >= from;
            true
        };
        if !buffers.batches().all(|batch| batch.all_keys(&mut claim)) {
            return None;
        }
        for late in &buffers.late {
            if let Some(series) = self.slots.get(late.series.id())
                && series.claim(claimant) == Claim::Others
            {
                return None;
            }
        }
        Some(newer)
    }

    /// Gives back whatever series of the commit are claimed.
    pub(super) fn release(&self, buffers: &Buffers, losers: &Losers, claimant: Claimant) {
        let mut slots = self.slots.cursor();
        let mut release = |reference: SeriesRef| {
            if let Some(series) = slots.get(reference.id()) {
                series.release(claimant);
            }
        };
        for batch in buffers.batches() {
            batch.all_keys(|reference, _| {
                release(reference);
                true
            });
        }
        buffers.late.iter().for_each(|late| release(late.series));
        losers.series.iter().copied().for_each(release);
    }

    /// Takes out what no longer fits since it was appended. What is out of order now, and not before `min_late`, goes to
    /// the samples that are.
    pub(super) fn take_out_losers(&self, buffers: &mut Buffers, min_late: i64) -> Losers {
        let mut losers = Losers::default();
        let mut late = std::mem::take(&mut buffers.late);
        // Samples of this commit are not in memory yet.
        let mut newest: FixedMap<SeriesRef, i64> = FixedMap::default();
        let floor = self.floor.load(Acquire);
        let passed = self.out_of_order.ahead_passed();
        let mut keep = |reference: SeriesRef, number: u64, t: i64, check: Check<'_>, sample: &dyn Fn() -> Sample| {
            let Some(slot) = self.slots.get(reference.id()) else { return true };
            let own = newest.entry(reference).or_insert_with(|| self.out_of_order.newest(reference.id()));
            let outcome = match check(&slot) {
                Ok(Applied::Same) => Ok(Applied::Same),
                Ok(_) if t > *own && t > passed && t >= floor => {
                    *own = t;
                    return true;
                }
                Ok(_) | Err(Refusal::OutOfOrder { .. }) if t >= min_late => {
                    let sample = sample();
                    let fits = self.check_late(reference.id(), &slot, &sample);
                    if matches!(fits, Ok(Applied::Appended)) {
                        late.push(Late { series: reference, reference: number, sample });
                        return false;
                    }
                    fits
                }
                // A block was cut meanwhile: in the log it would come back at the next opening.
                Ok(_) if t < floor => Err(Refusal::TooOld { t, oldest: floor }),
                // Without a window it is found out when it is applied.
                Ok(_) => return min_late == i64::MAX,
                refused => refused,
            };
            match outcome {
                Ok(_) => losers.same += 1,
                Err(_) => losers.lost += 1,
            }
            losers.series.push(reference);
            false
        };
        for batch in buffers.batches_mut() {
            batch.floats.retain(|Pending { series, t, value, reference }, st| {
                let check: Check<'_> = &|slot| slot.lock().check_float(slot, *t, *value);
                keep(*series, *reference, *t, check, &|| Sample { t: *t, st, value: Value::Float(*value) })
            });
            batch.histograms.retain(|Pending { series, t, value, reference }, st| {
                let check: Check<'_> = &|slot| slot.lock().check_histogram::<Integers>(slot, *t, value);
                let sample = || Sample { t: *t, st, value: Integers::into_value(value.clone()) };
                keep(*series, *reference, *t, check, &sample)
            });
            batch.float_histograms.retain(|Pending { series, t, value, reference }, st| {
                let check: Check<'_> = &|slot| slot.lock().check_histogram::<Floats>(slot, *t, value);
                let sample = || Sample { t: *t, st, value: Floats::into_value(value.clone()) };
                keep(*series, *reference, *t, check, &sample)
            });
        }
        buffers.late = late;
        losers
    }
}

/// Asks a series whether a sample fits.
type Check<'a> = &'a dyn Fn(&Series<'_>) -> Result<Applied, Refusal>;

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
