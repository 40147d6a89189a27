//! Collecting samples and committing them.
//!
//! An append checks its sample against what is in memory, without a lock, and refuses it with a reason of its own; the
//! others are not touched. A commit writes what was collected to the log, then applies it, series by series. Between the
//! two somebody else may have appended to a series: what no longer fits then is left out and counted ([`Committed`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::Refusal;
use super::series::Applied;
use super::{Head, SeriesRef};
use crate::error::Result;
use crate::model::Labels;
use crate::wal::record::{RefSample, encode_samples};

/// A float that waits for its commit.
#[derive(Debug, Clone, Copy)]
struct PendingFloat {
    series: SeriesRef,
    /// The series' number in the log.
    reference: u64,
    t: i64,
    v: f64,
}

/// An appender's memory.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    floats: Vec<PendingFloat>,
    record: Vec<u8>,
}

/// What became of a commit's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Samples that are in the head now.
    pub appended: u64,
    /// Samples that were there already, with the same value.
    pub same: u64,
    /// Samples that somebody else's commit, or an earlier one of the same, made impossible.
    pub lost: u64,
}

/// Collects samples for one commit. Dropping it is a [`rollback`](Appender::rollback).
#[derive(Debug)]
pub struct Appender {
    head: Arc<Head>,
    id: u64,
    /// Samples before this are refused: frozen at the beginning, so that a cut knows what may still come.
    min_valid: i64,
    /// Whether `min_valid` is still to be learnt from the first sample, since the head is empty.
    unbounded: bool,
    /// Samples after this are refused.
    max_valid: i64,
    buffers: Buffers,
}

impl Head {
    /// Begins a commit.
    #[must_use]
    pub fn appender(self: &Arc<Self>) -> Appender {
        // Registered first: a cut that does not see it has raised the floor before.
        let id = self.isolation.begin_append();
        let min_valid = self.min_valid_time();
        let now = self.env.clock.now_ms();
        Appender {
            head: Arc::clone(self),
            id,
            min_valid: min_valid.unwrap_or(i64::MIN),
            unbounded: min_valid.is_none(),
            max_valid: self.options.future_bound.map_or(i64::MAX, |bound| now.saturating_add(bound)),
            buffers: self.buffers.lock().pop().unwrap_or_default(),
        }
    }
}

impl Appender {
    /// Appends a float. With a `reference` from an earlier append to this head no look-up is needed; `labels` count if it
    /// is absent or stale. The series is created if there is none, and stays if the sample is refused.
    ///
    /// A sample with the time and the value of the series' newest is accepted and changes nothing.
    ///
    /// # Errors
    /// `Duplicate`, `OutOfOrder`, `TooOld`, `TooFarAhead`: the sample is refused, and only it. `LimitExceeded`: there
    /// would be too many series. `InvalidInput`: no labels.
    #[inline]
    pub fn append(&mut self, reference: Option<SeriesRef>, labels: &Labels, t: i64, v: f64) -> Result<SeriesRef> {
        self.append_packed(reference, labels.as_packed(), t, v)
    }

    /// [`append`](Appender::append) with the labels as [`Labels::as_packed`] gives them or `LabelsBuilder::pack_into`
    /// writes them: a series that is known costs no allocation.
    ///
    /// # Errors
    /// As [`append`](Appender::append).
    #[inline]
    pub fn append_packed(&mut self, reference: Option<SeriesRef>, packed: &[u8], t: i64, v: f64) -> Result<SeriesRef> {
        if t < self.min_valid || t > self.max_valid || self.unbounded {
            self.check_time(t)?;
        }
        let head = &*self.head;
        let (series_ref, series) = match reference.and_then(|reference| Some((reference, head.known(reference)?))) {
            Some(known) => known,
            None => head.get_or_create(packed, None)?,
        };
        if !series.is_newer(t) && series.lock().check_float(series, t, v)? == Applied::Same {
            return Ok(series_ref);
        }
        self.buffers.floats.push(PendingFloat { series: series_ref, reference: series.reference(), t, v });
        Ok(series_ref)
    }

    #[cold]
    fn check_time(&mut self, t: i64) -> Result<(), Refusal> {
        if t > self.max_valid {
            return Err(Refusal::TooFarAhead { t, now: self.head.env.clock.now_ms() });
        }
        if self.unbounded {
            self.unbounded = false;
            self.min_valid = t.saturating_sub(self.head.options.chunk_range / 2);
        }
        if t < self.min_valid {
            return Err(Refusal::TooOld { t, oldest: self.min_valid });
        }
        Ok(())
    }

    /// Samples that wait for the commit.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffers.floats.len()
    }

    /// Writes everything to the log, then makes it visible: all of it at once.
    ///
    /// # Errors
    /// `Full`, `Io`: nothing was written and nothing will be visible; a later commit may succeed.
    pub fn commit(mut self) -> Result<Committed> {
        self.log()?;
        Ok(self.apply())
    }

    /// Forgets everything. Series that were created stay until they are collected.
    pub fn rollback(self) {
        drop(self);
    }

    fn log(&mut self) -> Result<()> {
        let Some(log) = &self.head.log else { return Ok(()) };
        let Buffers { floats, record } = &mut self.buffers;
        record.clear();
        if floats.is_empty() {
            return Ok(());
        }
        let samples = floats.iter().map(|f| RefSample { reference: f.reference, t: f.t, st: 0, v: f.v });
        encode_samples(samples, record);
        Ok(log.commit(&[record])?)
    }

    fn apply(&mut self) -> Committed {
        let head = &*self.head;
        let ticket = head.isolation.begin_commit();
        // Read after the commit has begun: who raises the floor waits for those that began before.
        let floor = head.floor.load(Ordering::Acquire);
        let chunk_range = head.options.chunk_range;
        let mut committed = Committed::default();
        let (mut min, mut max, mut chunks) = (i64::MAX, i64::MIN, 0);
        for &PendingFloat { series: reference, t, v, .. } in &self.buffers.floats {
            let Some(series) = head.slots.get(reference.id()).filter(|_| t >= floor) else {
                committed.lost += 1;
                continue;
            };
            let mut state = series.lock();
            if series.tag() != reference.tag() {
                if series.tag() & !1 != reference.tag() {
                    committed.lost += 1;
                    continue;
                }
                series.revive(&mut state);
            }
            match state.append_float(series, &ticket, chunk_range, t, v) {
                Ok(Applied::Same) => {
                    committed.same += 1;
                    continue;
                }
                Ok(applied) => chunks += u64::from(applied == Applied::NewChunk),
                Err(_) => {
                    committed.lost += 1;
                    continue;
                }
            }
            committed.appended += 1;
            min = min.min(t);
            max = max.max(t);
        }
        head.counters.samples.fetch_add(committed.appended, Ordering::Relaxed);
        head.counters.chunks.fetch_add(chunks, Ordering::Relaxed);
        head.cover(min, max);
        head.isolation.end_commit(ticket);
        committed
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        /// Buffers kept for later appenders, and how large they may be.
        const SPARE: usize = 8;
        const LARGEST: usize = 1 << 16;
        self.head.isolation.end_append(self.id);
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.floats.clear();
        if buffers.floats.capacity() <= LARGEST {
            let mut spare = self.head.buffers.lock();
            if spare.len() < SPARE {
                spare.push(buffers);
            }
        }
    }
}
