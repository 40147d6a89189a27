//! Collecting samples and committing them.
//!
//! An append checks its sample against what is in memory, without a lock, and refuses it with a reason of its own; the
//! others are not touched. Until the commit somebody else may have appended to a series: the commit looks once more, and
//! what no longer fits is left out and counted ([`Committed`]). The rest goes to the log, then into memory, series by
//! series, and meanwhile no other commit touches these series (`claim`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch::{Batch, Buffers, Pending, RecordKind};
use super::claim::{Claimant, Losers};
use super::error::Refusal;
use super::isolation::Ticket;
use super::ooo::{Late, sort_late};
use super::open::HistogramKind;
use super::rules::ChunkRules;
use super::series::{Applied, Header, OpenSeries, SeriesState};
use super::slab::{Cursor, Locked};
use super::trail::Trail;
use super::{Head, SeriesRef};
use crate::chunk::{Floats, Integers};
use crate::error::Result;
use crate::model::{
    CUSTOM_BUCKETS_SCHEMA, Exemplar, FloatHistogram, Histogram, Labels, LabelsIter, METRIC_NAME, Metadata, Native as _,
    Sample, Value, is_stale,
};

/// What became of a commit's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Samples that are in the head now.
    pub appended: u64,
    /// Those of them that came out of order.
    pub out_of_order: u64,
    /// Samples that were there already, with the same value.
    pub same: u64,
    /// Samples that somebody else's commit, or an earlier one of the same, made impossible.
    pub lost: u64,
}

/// Collects samples for one commit. Dropping it is a [`rollback`](Appender::rollback).
///
/// Each sample is judged by itself, when it is appended: what is refused says why, and its neighbours are not touched. The
/// [kind](crate::Error::kind) of the error is what a caller acts on, the [`Refusal`] behind it what it can tell a sender.
/// Until the commit another one may have taken a sample's place; such samples are [lost](Committed::lost), and counted.
///
/// ```
/// use narthex::head::{Committed, Head, HeadOptions, Refusal};
/// use narthex::{ErrorKind, Labels};
///
/// # fn main() -> narthex::Result<()> {
/// let head = Head::without_log(&narthex::fs::Env::real(), HeadOptions::default());
/// let up = Labels::from_pairs([("__name__", "up"), ("job", "api")]);
/// let mut appender = head.appender();
/// let reference = appender.append(None, &up, 60_000, 1.0)?;
/// appender.append(Some(reference), &up, 75_000, 1.0)?;
/// assert_eq!(appender.commit()?.appended, 2);
///
/// let mut appender = head.appender();
/// for (t, v) in [(75_000, 1.0), (75_000, 2.0), (70_000, 1.0), (90_000, 0.0)] {
///     match appender.append(Some(reference), &up, t, v) {
///         // It waits for the commit, or it was there already, as the first one was.
///         Ok(_) => {}
///         Err(error) => match error.kind() {
///             // The series has another value at that time, and the first stays.
///             ErrorKind::Duplicate => assert_eq!(v, 2.0),
///             // Sending it again would not help. What is in its way:
///             ErrorKind::OutOfOrder => {
///                 assert_eq!(error.downcast_ref(), Some(&Refusal::OutOfOrder { t: 70_000, newest: 75_000 }));
///             }
///             // The others of a sample: `TooOld`, `TooFarAhead`, `LimitExceeded`, `InvalidInput`.
///             _ => return Err(error),
///         },
///     }
/// }
/// assert_eq!(appender.commit()?, Committed { appended: 1, ..Committed::default() });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Appender {
    head: Arc<Head>,
    id: u64,
    /// Samples before this are refused: frozen at the beginning, so that a cut knows what may still come.
    min_valid: i64,
    /// Whether `min_valid` is still to be learnt from the first sample, since the head is empty.
    unbounded: bool,
    /// Samples before this are not taken out of order either; `i64::MAX`: none is.
    min_late: i64,
    /// Samples after this are refused.
    max_valid: i64,
    trail: Trail,
    /// Whether start timestamps are kept.
    starts: bool,
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
            min_late: self.window_start(),
            max_valid: self.options.future_bound.map_or(i64::MAX, |bound| now.saturating_add(bound)),
            trail: Trail::default(),
            starts: self.options.start_timestamps,
            buffers: self.buffers.take(),
        }
    }
}

impl Appender {
    /// Appends a float. With a `reference` from an earlier append to this head no look-up is needed; `labels` count if it
    /// is absent or stale. The series is created if there is none, and stays if the sample is refused.
    ///
    /// A sample with the time and the value of the series' newest is accepted and changes nothing. A stale marker for a
    /// series of histograms becomes a histogram's.
    ///
    /// # Errors
    /// `Duplicate`, `OutOfOrder`, `TooOld`, `TooFarAhead`: the sample is refused, and only it. `LimitExceeded`: there
    /// would be too many series. `InvalidInput`: no labels.
    #[inline]
    pub fn append(&mut self, reference: Option<SeriesRef>, labels: &Labels, t: i64, v: f64) -> Result<SeriesRef> {
        self.append_packed(reference, labels.as_packed(), t, v)
    }

    /// [`append`](Appender::append) with the labels as [`Labels::as_packed`] gives them or `LabelsBuilder::pack_into`
    /// writes them: a series that is known costs no allocation. Bytes that are the packed form of no set (cut off, not sorted,
    /// a name twice, an empty value) name no series, and none is created for them; if there is a good reference, they are not
    /// looked at.
    ///
    /// # Errors
    /// As [`append`](Appender::append); `InvalidInput` for bytes that are no set.
    #[inline]
    pub fn append_packed(&mut self, reference: Option<SeriesRef>, packed: &[u8], t: i64, v: f64) -> Result<SeriesRef> {
        self.append_float(reference, packed, 0, t, v)
    }

    /// [`append`](Appender::append) with the time `st` at which the counter began, in milliseconds; 0 if that is unknown.
    /// It is dropped unless [`HeadOptions::start_timestamps`](super::HeadOptions::start_timestamps) is set, as Prometheus
    /// does; and it is not looked at: one that is after `t` is kept like any other.
    ///
    /// # Errors
    /// As [`append`](Appender::append).
    #[inline]
    pub fn append_with_start(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        st: i64,
        t: i64,
        v: f64,
    ) -> Result<SeriesRef> {
        self.append_float(reference, labels.as_packed(), st, t, v)
    }

    /// [`append_with_start`](Appender::append_with_start) with packed labels.
    ///
    /// # Errors
    /// As [`append`](Appender::append).
    #[inline]
    pub fn append_with_start_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        st: i64,
        t: i64,
        v: f64,
    ) -> Result<SeriesRef> {
        self.append_float(reference, packed, st, t, v)
    }

    #[inline]
    fn append_float(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        st: i64,
        t: i64,
        v: f64,
    ) -> Result<SeriesRef> {
        if self.check_time(t)? == Order::Late {
            return self.append_late(reference, packed, Sample { t, st: self.kept(st), value: Value::Float(v) });
        }
        let (series_ref, series) = self.head.resolve(reference, packed, &mut self.trail, &mut self.buffers.slots)?;
        if !series.is_newer(t) {
            let outcome = series.lock().check_float(&series, t, v);
            match outcome {
                Ok(Applied::Same) => return Ok(series_ref),
                Ok(_) => {}
                Err(refusal) => {
                    return self.append_refused(
                        series_ref,
                        refusal,
                        Sample { t, st: self.kept(st), value: Value::Float(v) },
                    );
                }
            }
        }
        let reference = series.reference();
        if !self.buffers.kinds.is_empty() {
            match self.buffers.kinds.get(&series_ref) {
                Some(RecordKind::Histogram | RecordKind::CustomHistogram) if is_stale(v) => {
                    return self.append_native::<Integers>(Some(series_ref), packed, st, t, Histogram::stale(v));
                }
                Some(RecordKind::FloatHistogram | RecordKind::CustomFloatHistogram) if is_stale(v) => {
                    return self.append_native::<Floats>(Some(series_ref), packed, st, t, FloatHistogram::stale(v));
                }
                _ => self.buffers.make_room(series_ref, None),
            }
        }
        let st = self.starts.then_some(st);
        self.buffers.batch.floats.push(Pending { series: series_ref, reference, t, value: v }, st);
        Ok(series_ref)
    }

    /// Appends a native histogram; see [`append`](Appender::append). A finer resolution than can be stored is reduced.
    ///
    /// # Errors
    /// As [`append`](Appender::append); `InvalidInput` if the histogram contradicts itself.
    pub fn append_histogram(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        t: i64,
        histogram: Histogram,
    ) -> Result<SeriesRef> {
        self.append_histogram_packed(reference, labels.as_packed(), t, histogram)
    }

    /// [`append_histogram`](Appender::append_histogram) with packed labels.
    ///
    /// # Errors
    /// As there.
    pub fn append_histogram_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        t: i64,
        histogram: Histogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Integers>(reference, packed, 0, t, histogram)
    }

    /// Appends a native histogram with float counts; see [`append_histogram`](Appender::append_histogram).
    ///
    /// # Errors
    /// As there.
    pub fn append_float_histogram(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        t: i64,
        histogram: FloatHistogram,
    ) -> Result<SeriesRef> {
        self.append_float_histogram_packed(reference, labels.as_packed(), t, histogram)
    }

    /// [`append_float_histogram`](Appender::append_float_histogram) with packed labels.
    ///
    /// # Errors
    /// As there.
    pub fn append_float_histogram_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        t: i64,
        histogram: FloatHistogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Floats>(reference, packed, 0, t, histogram)
    }

    /// [`append_histogram`](Appender::append_histogram) with the time at which its counts began; see
    /// [`append_with_start`](Appender::append_with_start).
    /// [`HeadOptions::histogram_start_timestamps`](super::HeadOptions::histogram_start_timestamps) decides whether the
    /// chunk keeps it.
    ///
    /// # Errors
    /// As [`append_histogram`](Appender::append_histogram).
    pub fn append_histogram_with_start(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        st: i64,
        t: i64,
        histogram: Histogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Integers>(reference, labels.as_packed(), st, t, histogram)
    }

    /// [`append_histogram_with_start`](Appender::append_histogram_with_start) with packed labels.
    ///
    /// # Errors
    /// As there.
    pub fn append_histogram_with_start_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        st: i64,
        t: i64,
        histogram: Histogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Integers>(reference, packed, st, t, histogram)
    }

    /// [`append_histogram_with_start`](Appender::append_histogram_with_start) for float counts.
    ///
    /// # Errors
    /// As there.
    pub fn append_float_histogram_with_start(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        st: i64,
        t: i64,
        histogram: FloatHistogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Floats>(reference, labels.as_packed(), st, t, histogram)
    }

    /// [`append_float_histogram_with_start`](Appender::append_float_histogram_with_start) with packed labels.
    ///
    /// # Errors
    /// As there.
    pub fn append_float_histogram_with_start_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        st: i64,
        t: i64,
        histogram: FloatHistogram,
    ) -> Result<SeriesRef> {
        self.append_native::<Floats>(reference, packed, st, t, histogram)
    }

    fn append_native<K: HistogramKind>(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        st: i64,
        t: i64,
        mut histogram: K::Histogram,
    ) -> Result<SeriesRef> {
        let order = self.check_time(t)?;
        histogram.prepare().map_err(|error| Refusal::Histogram(error.to_string()))?;
        if order == Order::Late {
            return self.append_late(
                reference,
                packed,
                Sample { t, st: self.kept(st), value: K::into_value(histogram) },
            );
        }
        let (series_ref, series) = self.head.resolve(reference, packed, &mut self.trail, &mut self.buffers.slots)?;
        if !series.is_newer(t) {
            let outcome = series.lock().check_histogram::<K>(&series, t, &histogram);
            match outcome {
                Ok(Applied::Same) => return Ok(series_ref),
                Ok(_) => {}
                Err(refusal) => {
                    let sample = Sample { t, st: self.kept(st), value: K::into_value(histogram) };
                    return self.append_refused(series_ref, refusal, sample);
                }
            }
        }
        let reference = series.reference();
        let record = K::record(histogram.parts().schema == CUSTOM_BUCKETS_SCHEMA);
        self.buffers.make_room(series_ref, Some(record));
        let st = self.starts.then_some(st);
        K::pending(&mut self.buffers.batch).push(Pending { series: series_ref, reference, t, value: histogram }, st);
        Ok(series_ref)
    }

    /// Attaches an exemplar to a series that there is. One that the series has already is accepted and changes nothing.
    ///
    /// # Errors
    /// `InvalidInput`: there is no such series, or the exemplar's labels are too long; `OutOfOrder`: the series has a
    /// newer one, by more than the window for samples out of order, or one of the same time and a greater value.
    pub fn append_exemplar(&mut self, reference: Option<SeriesRef>, labels: &Labels, exemplar: Exemplar) -> Result<()> {
        if !self.head.exemplars.is_enabled() {
            return Ok(());
        }
        let (series_ref, series) = self.head.existing(reference, labels.as_packed()).ok_or(Refusal::UnknownSeries)?;
        if !self.head.exemplars.check(series_ref, &exemplar)? {
            return Ok(());
        }
        let (reference, t) = (series.reference(), exemplar.t);
        self.buffers.batch.exemplars.push(Pending { series: series_ref, reference, t, value: exemplar });
        Ok(())
    }

    /// Says what the metric of a series is. It is kept by the metric's name.
    ///
    /// # Errors
    /// `InvalidInput`: there is no such series.
    pub fn update_metadata(
        &mut self,
        reference: Option<SeriesRef>,
        labels: &Labels,
        metadata: Metadata,
    ) -> Result<SeriesRef> {
        let (series_ref, series) = self.head.existing(reference, labels.as_packed()).ok_or(Refusal::UnknownSeries)?;
        if !self.head.metadata.is(series.lock().labels().metric_name(), &metadata) {
            let reference = series.reference();
            self.buffers.batch.metadata.push(Pending { series: series_ref, reference, t: 0, value: metadata });
        }
        Ok(series_ref)
    }

    /// [`update_metadata`](Appender::update_metadata) with packed labels. What is known already, as it nearly always is
    /// from senders that say it with every sample, costs a look-up by the metric's name.
    ///
    /// # Errors
    /// As there.
    pub fn update_metadata_packed(
        &mut self,
        reference: Option<SeriesRef>,
        packed: &[u8],
        metadata: &Metadata,
    ) -> Result<()> {
        let name = LabelsIter::of_packed(packed).find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value);
        if !self.head.metadata.is(name, metadata) {
            let (series_ref, series) = self.head.existing(reference, packed).ok_or(Refusal::UnknownSeries)?;
            let reference = series.reference();
            self.buffers.batch.metadata.push(Pending { series: series_ref, reference, t: 0, value: metadata.clone() });
        }
        Ok(())
    }

    /// Says what a metric is, of whose name there need be no series: a histogram's series are called otherwise. It is
    /// known at once, and until the head forgets it: the log has metadata of series alone, and senders repeat themselves.
    pub fn describe_metric(&mut self, name: &str, metadata: &Metadata) {
        if !self.head.metadata.is(name, metadata) {
            self.head.metadata.set(name, metadata);
        }
    }

    #[inline]
    fn check_time(&mut self, t: i64) -> Result<Order, Refusal> {
        if t < self.min_valid || t > self.max_valid || self.unbounded { self.check_odd_time(t) } else { Ok(Order::In) }
    }

    #[cold]
    fn check_odd_time(&mut self, t: i64) -> Result<Order, Refusal> {
        if t > self.max_valid {
            return Err(Refusal::TooFarAhead { t, now: self.head.env.clock.now_ms() });
        }
        if self.unbounded {
            self.unbounded = false;
            self.min_valid = t.saturating_sub(self.head.options.chunk_range / 2);
            let window = self.head.options.out_of_order_window;
            self.min_late = if window > 0 { t.saturating_sub(window) } else { i64::MAX };
        }
        if t >= self.min_valid {
            return Ok(Order::In);
        }
        match self.min_late {
            i64::MAX => Err(Refusal::TooOld { t, oldest: self.min_valid }),
            oldest if t < oldest => Err(Refusal::BeforeWindow { t, oldest }),
            _ => Ok(Order::Late),
        }
    }

    /// The start timestamp, if they are kept.
    fn kept(&self, st: i64) -> i64 {
        if self.starts { st } else { 0 }
    }

    /// Takes a sample out of order that the series refused, if that is why and the window has it.
    #[cold]
    fn append_refused(&mut self, series: SeriesRef, refusal: Refusal, sample: Sample) -> Result<SeriesRef> {
        let t = sample.t;
        match (refusal, self.min_late) {
            (refusal @ Refusal::OutOfOrder { .. }, i64::MAX) => Err(refusal.into()),
            (Refusal::OutOfOrder { .. }, oldest) if t < oldest => Err(Refusal::BeforeWindow { t, oldest }.into()),
            (Refusal::OutOfOrder { .. }, _) => self.append_late(Some(series), &[], sample),
            (refusal, _) => Err(refusal.into()),
        }
    }

    /// Takes a sample out of order.
    #[cold]
    fn append_late(&mut self, reference: Option<SeriesRef>, packed: &[u8], mut sample: Sample) -> Result<SeriesRef> {
        let (series_ref, series) = self.head.resolve(reference, packed, &mut self.trail, &mut self.buffers.slots)?;
        if let Value::Float(v) = sample.value
            && is_stale(v)
        {
            sample.value = series.lock().stale_of_its_kind(v);
        }
        if self.head.check_late(series_ref.id(), &series, &sample)? != Applied::Same {
            let reference = series.reference();
            self.buffers.late.push(Late { series: series_ref, reference, sample });
        }
        Ok(series_ref)
    }

    /// Samples that wait for the commit.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffers.batches().map(Batch::samples).sum::<usize>() + self.buffers.late.len()
    }

    /// Writes everything to the log, then makes it visible: all of it at once.
    ///
    /// Samples out of order go to a log of their own, after the others.
    ///
    /// # Errors
    /// `Full`, `Io`: nothing was written and nothing will be visible; a later commit may succeed. If it is the log of
    /// out-of-order samples that fails, what came in order is there; to commit all of it again does no harm.
    pub fn commit(mut self) -> Result<Committed> {
        if self.buffers.is_empty() {
            return Ok(Committed::default());
        }
        let head = Arc::clone(&self.head);
        if head.log.is_none() && self.min_late == i64::MAX {
            return Ok(self.apply(&[]).0);
        }
        head.isolation.begin_logging(self.id);
        let claimant = Claimant::new(self.id);
        let mut losers = Losers::default();
        if !head.claim(&self.buffers, claimant) {
            losers = head.take_out_losers(&mut self.buffers, self.min_late);
        }
        let mut late = std::mem::take(&mut self.buffers.late);
        sort_late(&mut late);
        let committed = self.write(&late);
        self.buffers.late = late;
        head.release(&self.buffers, &losers, claimant);
        let mut committed = committed?;
        committed.same += losers.same;
        committed.lost += losers.lost;
        head.counters.samples_lost.fetch_add(losers.lost, Ordering::Relaxed);
        Ok(committed)
    }

    /// Writes what is left of the commit, whose series are claimed, to the logs, and applies it.
    fn write(&mut self, late: &[Late]) -> Result<Committed> {
        let head = Arc::clone(&self.head);
        // The losers may have been all of it. Series whose samples are late have their records in the log itself.
        let empty = self.buffers.batches().all(Batch::is_empty);
        if let Some(log) = head.log.as_ref().filter(|_| !empty || !late.is_empty()) {
            log.commit(&self.buffers.encode())?;
        }
        let (committed, written) = self.apply(late);
        written.map(|()| committed)
    }

    /// Forgets everything. Series that were created stay until they are collected.
    pub fn rollback(self) {
        drop(self);
    }

    /// Applies what is in the log; writes what came out of order to its own, and applies it if that went well.
    fn apply(&mut self, late: &[Late]) -> (Committed, Result<()>) {
        /// Samples after which a page is let go, though the next is of it too: a commit may be of one series alone.
        const TURN: usize = 1 << 12;
        let head = &*self.head;
        // A cut waits for commits that are being applied, so what can be written before is.
        let _gate = (!late.is_empty()).then(|| head.enter());
        let first = (!late.is_empty()).then(|| head.log_late(late)).transpose();
        let mut commit = Commit::begin(head);
        for batch in self.buffers.batches() {
            for part in batch.floats.parts(TURN) {
                for (&Pending { series, t, value, .. }, st) in part {
                    commit.apply(series, t, |slot, mut open, ticket, rules| {
                        open.append_float(slot, ticket, rules, st, t, value)
                    });
                }
                commit.unlock();
            }
            for part in batch.histograms.parts(TURN) {
                for (Pending { series, t, value, .. }, st) in part {
                    commit.apply(*series, *t, |slot, mut open, ticket, rules| {
                        open.append_histogram::<Integers>(slot, ticket, rules, st, *t, value)
                    });
                }
                commit.unlock();
            }
            for part in batch.float_histograms.parts(TURN) {
                for (Pending { series, t, value, .. }, st) in part {
                    commit.apply(*series, *t, |slot, mut open, ticket, rules| {
                        open.append_histogram::<Floats>(slot, ticket, rules, st, *t, value)
                    });
                }
                commit.unlock();
            }
            for Pending { series, value, .. } in &batch.exemplars {
                if head.known(*series).is_some() {
                    head.exemplars.add(*series, value.clone());
                }
            }
            for Pending { series, value, .. } in &batch.metadata {
                if let Some(slot) = head.known(*series) {
                    head.metadata.set(slot.lock().labels().metric_name(), value);
                }
            }
        }
        let written = first.and_then(|mut round| {
            while let Some((next, rest)) = round {
                commit.apply_late(next);
                round = (!rest.is_empty()).then(|| head.log_late(rest)).transpose()?;
            }
            Ok(())
        });
        (commit.end(), written)
    }
}

/// Where a sample stands among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// After what may be cut next.
    In,
    /// Before it, and in the out-of-order window.
    Late,
}

/// A commit that is being applied.
pub(super) struct Commit<'a> {
    pub(super) head: &'a Head,
    pub(super) ticket: Ticket,
    floor: i64,
    rules: ChunkRules,
    slots: Cursor<'a, Header, SeriesState>,
    locked: Locked<'a, Header, SeriesState>,
    pub(super) committed: Committed,
    chunks: u64,
    /// Of chunks that became full.
    full_bytes: u64,
    min: i64,
    max: i64,
}

impl<'a> Commit<'a> {
    fn begin(head: &'a Head) -> Self {
        let ticket = head.isolation.begin_commit();
        Self {
            head,
            ticket,
            // Read after the commit has begun: who raises the floor waits for those that began before.
            floor: head.floor.load(Ordering::Acquire),
            rules: head.options.rules(),
            slots: head.slots.cursor(),
            locked: Locked::default(),
            committed: Committed::default(),
            chunks: 0,
            full_bytes: 0,
            min: i64::MAX,
            max: i64::MIN,
        }
    }

    #[inline]
    fn apply(
        &mut self,
        reference: SeriesRef,
        t: i64,
        append: impl FnOnce(&Header, OpenSeries<'_>, &Ticket, &ChunkRules) -> Result<Applied, Refusal>,
    ) {
        let Some(series) = self.slots.get(reference.id()).filter(|_| t >= self.floor) else {
            self.committed.lost += 1;
            return;
        };
        let open = self.locked.series(&series);
        if series.tag() != reference.tag() {
            if series.tag() & !1 != reference.tag() {
                self.committed.lost += 1;
                return;
            }
            series.revive(open.state);
        }
        match append(&series, open, &self.ticket, &self.rules) {
            Ok(Applied::Same) => self.committed.same += 1,
            Ok(applied) => {
                if let Applied::NewChunk(full) = applied {
                    self.chunks += 1;
                    self.full_bytes += u64::from(full);
                }
                self.committed.appended += 1;
                self.min = self.min.min(t);
                self.max = self.max.max(t);
            }
            Err(_) => self.committed.lost += 1,
        }
    }

    /// Calls `change` while the series is locked; `None` if it is gone.
    pub(super) fn with_series<R>(&mut self, reference: SeriesRef, change: impl FnOnce(&Header) -> R) -> Option<R> {
        let series = self.head.slots.get(reference.id())?;
        let open = self.locked.series(&series);
        if series.tag() != reference.tag() {
            if series.tag() & !1 != reference.tag() {
                return None;
            }
            series.revive(open.state);
        }
        Some(change(&series))
    }

    /// Others may lock series now.
    pub(super) fn unlock(&mut self) {
        self.locked = Locked::default();
    }

    fn end(mut self) -> Committed {
        self.unlock();
        let counters = &self.head.counters;
        counters.samples.fetch_add(self.committed.appended, Ordering::Relaxed);
        counters.samples_lost.fetch_add(self.committed.lost, Ordering::Relaxed);
        counters.chunks.fetch_add(self.chunks, Ordering::Relaxed);
        if self.full_bytes > 0 {
            self.head.waiting_bytes.fetch_add(self.full_bytes, Ordering::Relaxed);
        }
        self.head.cover(self.min, self.max);
        self.head.isolation.end_commit(self.ticket);
        self.committed
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.head.isolation.end_append(self.id);
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.clear();
        if let Some(buffers) = self.head.buffers.keep(buffers) {
            self.head.slots.end_run(buffers.slots);
        }
    }
}
