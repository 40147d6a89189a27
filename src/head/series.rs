//! A series: its full chunks, and the open one; its labels stand in its page (`page_labels`), and so do the bytes of the
//! open chunk (`blocks`).
//!
//! What an append asks first (is this the series I mean, is the sample newer than its newest) stands outside the lock,
//! so that checking a sample locks nothing. Everything else stands under the lock of its page in the slab, taken at
//! commit and once a query.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use super::blocks::Blocks;
use super::claim::{Claim, Claimant};
use super::cut::{SAMPLES_PER_CHUNK, predict_end, range_end};
use super::error::Refusal;
use super::full::{FullChunk, HeadChunk, HeadData};
use super::isolation::{History, Snapshot, Ticket};
use super::label_index::Pair;
use super::mapped::{ChunkPlace, Loaded, MappedChunks};
use super::open::{HistogramKind, Next, Open, OpenHistogram, Times};
use super::page_labels::{PageLabels, SeriesLabels, TakenPairs};
use super::rules::ChunkRules;
use super::slab::{Body, Guard, Locked, Slot, page_bytes};
use crate::chunk::{ChunkError, EncodedChunk, Encoding, Floats, Integers};
use crate::model::{FloatHistogram, Histogram, Native as _, Sample, TimeRange, Value, is_stale};

/// A series in its slot.
pub(super) type Series<'a> = Slot<'a, Header, SeriesState>;

/// A series that is locked.
pub(super) type LockedSeries<'a> = Guard<'a, SeriesState>;

/// What of a series is read without a lock.
#[derive(Debug)]
pub(super) struct Header {
    /// The generation: even, and another one each time the slot is used. One more while the series is about to be
    /// removed; whoever meets that looks again under the lock.
    tag: AtomicU32,
    /// Which commit is between its log record and its samples in memory; 0 is none.
    claim: AtomicU32,
    /// The newest sample's time; `i64::MIN` before the first. Changed under the lock.
    newest: AtomicI64,
    /// The series' number in the log.
    reference: AtomicU64,
}

/// What the lock protects. What an append touches stands first.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct SeriesState {
    open: Open,
    /// When the open chunk must end.
    next_at: i64,
    history: History,
    /// When the open chunk began.
    open_since: i64,
    /// Chunks that are full, ascending.
    full: Box<[FullChunk]>,
    /// The number of the first chunk: how many were dropped before it.
    first_number: u32,
    /// By how much the number of the series that was last seen to come after this one differs from this one's
    /// successor: series that are created together come together.
    pub(super) skip: u32,
}

/// What the series of a page share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) labels: PageLabels,
    /// Bytes of open chunks.
    blocks: Blocks,
}

impl Shared {
    /// Bytes beside the page.
    pub(super) fn heap_bytes(&self) -> usize {
        self.labels.heap_bytes() + self.blocks.heap_bytes()
    }
}

impl Body for SeriesState {
    type Common = Shared;
}

/// A locked series that can be appended to.
pub(super) struct OpenSeries<'a> {
    pub(super) state: &'a mut SeriesState,
    blocks: &'a mut Blocks,
}

impl<'a> Locked<'a, Header, SeriesState> {
    /// The series of `slot`. No other may be locked by this thread meanwhile.
    #[inline]
    pub(super) fn series(&mut self, slot: &Series<'a>) -> OpenSeries<'_> {
        let (state, shared) = self.parts(slot);
        OpenSeries { state, blocks: &mut shared.blocks }
    }
}

// A million series are a million of these: whoever makes them larger should know it.
const _: () = assert!(size_of::<SeriesState>() == 104 && size_of::<Header>() == 24);
// Allocators have sizes of 10 KiB and of 12: a page that is a little larger than one of these takes the next.
const _: () = assert!(page_bytes::<Header, SeriesState>() <= 10 << 10);

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// It is in the open chunk.
    Appended,
    /// It is in a new open chunk; the one before it, if there was one, is full and has so many bytes.
    NewChunk(u32),
    /// It was there already.
    Same,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            tag: AtomicU32::new(0),
            claim: AtomicU32::new(0),
            newest: AtomicI64::new(i64::MIN),
            reference: AtomicU64::new(0),
        }
    }
}

impl Header {
    /// The generation; odd while the series is about to be removed.
    #[inline]
    pub(super) fn tag(&self) -> u32 {
        self.tag.load(Acquire)
    }

    /// The series' number in the log.
    #[inline]
    pub(super) fn reference(&self) -> u64 {
        self.reference.load(Relaxed)
    }

    /// The newest sample's time; `i64::MIN` if there is none.
    #[inline]
    pub(super) fn newest(&self) -> i64 {
        self.newest.load(Acquire)
    }

    /// Makes the slot a series, under its lock; gives the generation.
    pub(super) fn occupy(&self, state: &mut LockedSeries<'_>, labels: Vec<Arc<Pair>>, reference: u64) -> u32 {
        let (page, slot) = state.common_mut();
        page.labels.set(slot, labels);
        self.reference.store(reference, Relaxed);
        // Slots begin at 0, which no reference has; a removal leaves the next even number.
        let tag = self.tag().max(2);
        self.tag.store(tag, Release);
        tag
    }

    /// Marks the series as about to be removed, under its lock.
    pub(super) fn mark_dying(&self, _state: &mut SeriesState) {
        self.tag.fetch_or(1, AcqRel);
    }

    /// Takes the mark away, under the lock; gives the generation.
    pub(super) fn revive(&self, _state: &SeriesState) -> u32 {
        self.tag.fetch_and(!1, AcqRel) & !1
    }

    /// The generation, the mark taken away if there is one; under the lock.
    #[inline]
    pub(super) fn revive_if_dying(&self, state: &SeriesState) -> u32 {
        let tag = self.tag();
        if tag & 1 == 1 { self.revive(state) } else { tag }
    }

    /// Empties the slot, under its lock; adds the labels it had to `taken`.
    pub(super) fn vacate(&self, state: &mut LockedSeries<'_>, taken: &mut TakenPairs) {
        let tag = (self.tag() & !1).wrapping_add(2);
        // Never 0: that is a slot without a past.
        self.tag.store(if tag == 0 { 2 } else { tag }, Release);
        self.newest.store(i64::MIN, Release);
        self.reference.store(0, Relaxed);
        let (body, page) = state.parts();
        body.open.clear(&mut page.blocks);
        *body = SeriesState::default();
        let (page, slot) = state.common_mut();
        page.labels.take(slot, taken);
    }

    /// Claims the series for a commit.
    #[inline]
    pub(super) fn claim(&self, claimant: Claimant) -> Claim {
        match self.claim.compare_exchange(0, claimant.number(), AcqRel, Acquire) {
            Ok(_) => Claim::New,
            Err(holder) if holder == claimant.number() => Claim::Again,
            Err(_) => Claim::Others,
        }
    }

    /// Gives the claim back, if it is this commit's.
    #[inline]
    pub(super) fn release(&self, claimant: Claimant) {
        if self.claim.load(Relaxed) == claimant.number() {
            self.claim.store(0, Release);
        }
    }

    /// Whether a sample that is newer than all others fits; `false` says to ask [`SeriesState::check_float`].
    #[inline]
    pub(super) fn is_newer(&self, t: i64) -> bool {
        t > self.newest()
    }
}

impl LockedSeries<'_> {
    /// The labels; none if the slot is free.
    #[inline]
    pub(super) fn labels(&self) -> SeriesLabels<'_> {
        let (page, slot) = self.common();
        page.labels.of(slot)
    }

    /// The labels of the slot before this one, which is free: series that are created together have most of them in common.
    pub(super) fn labels_near(&self) -> SeriesLabels<'_> {
        let (page, slot) = self.common();
        page.labels.of(slot.saturating_sub(1))
    }

    fn blocks(&self) -> &Blocks {
        &self.common().0.blocks
    }

    /// The series, to be appended to.
    pub(super) fn open(&mut self) -> OpenSeries<'_> {
        let (state, shared) = self.parts();
        OpenSeries { state, blocks: &mut shared.blocks }
    }

    /// Whether a float can be appended.
    ///
    /// # Errors
    /// `Duplicate` or `OutOfOrder`.
    pub(super) fn check_float(&self, series: &Header, t: i64, v: f64) -> Result<Applied, Refusal> {
        (**self).check_float(self.blocks(), series, t, v)
    }

    /// Whether a histogram can be appended.
    ///
    /// # Errors
    /// `Duplicate` or `OutOfOrder`.
    pub(super) fn check_histogram<K: HistogramKind>(
        &self,
        series: &Header,
        t: i64,
        histogram: &K::Histogram,
    ) -> Result<Applied, Refusal> {
        (**self).check_histogram::<K>(self.blocks(), series, t, histogram)
    }

    /// Takes chunks that were found on the disk, in the order of their making, up to one that overlaps what is here; how
    /// many. A series that had several numbers in the log gets its chunks under each when that is read, so they may come
    /// before others.
    pub(super) fn attach(&mut self, series: &Header, chunks: impl Iterator<Item = Loaded>) -> usize {
        let (state, shared) = self.parts();
        let (mut full, mut count) = (Vec::from(std::mem::take(&mut state.full)), 0);
        for Loaded { range, encoding, place, .. } in chunks {
            let newest = series.newest();
            if range.min > newest {
                if let Some(open) = state.open.take(&mut shared.blocks) {
                    full.push(FullChunk::waiting(TimeRange::new(state.open_since, newest), open));
                }
                full.push(FullChunk::mapped(range, encoding, place));
                series.newest.store(range.max, Release);
            } else {
                let position = full.partition_point(|full| full.range().max < range.min);
                let next = full.get(position).map(|full| full.range().min);
                let next = next.or((!state.open.is_none()).then_some(state.open_since));
                if next.is_none_or(|next| next <= range.max) {
                    break;
                }
                full.insert(position, FullChunk::mapped(range, encoding, place));
            }
            count += 1;
        }
        state.full = full.into_boxed_slice();
        count
    }

    /// Lets a series go on after `t` alone, which is later than its newest sample: a block has what came until then. The open
    /// chunk ends, since it goes on from the newest time.
    pub(super) fn begin_after(&mut self, series: &Header, t: i64) {
        let newest = series.newest();
        let (state, shared) = self.parts();
        if let Some(open) = state.open.take(&mut shared.blocks) {
            let mut full = Vec::from(std::mem::take(&mut state.full));
            full.push(FullChunk::waiting(TimeRange::new(state.open_since, newest), open));
            state.full = full.into_boxed_slice();
        }
        series.newest.store(t, Release);
    }

    /// The open chunk as it is now, from when to when it is, and its newest value.
    pub(super) fn open_chunk(&self, series: &Header) -> Option<(TimeRange, EncodedChunk, Value)> {
        let chunk = self.open.copy(self.blocks())?;
        let value = self.open.newest_value(self.blocks())?;
        Some((TimeRange::new(self.open_since, series.newest()), chunk, value))
    }

    /// Goes on with a chunk that was open before, whose samples are newer than all that is here; how many they are.
    ///
    /// # Errors
    /// As reading it, or if its last sample is not the range's.
    pub(super) fn resume(
        &mut self,
        series: &Header,
        range: TimeRange,
        chunk: &EncodedChunk,
        chunk_range: i64,
    ) -> Result<usize, ChunkError> {
        let (state, shared) = self.parts();
        let (mut open, last) = Open::resume(chunk, &mut shared.blocks)?;
        if last != Some(range.max) {
            open.clear(&mut shared.blocks);
            return Err(ChunkError::Inconsistent);
        }
        let samples = open.sample_count();
        let end = range_end(range.min, chunk_range);
        // It was predicted by the samples that there were then; these are more, and tell the same.
        let ratio = SAMPLES_PER_CHUNK as f64 / samples.max(1) as f64;
        let is_predicted = samples >= SAMPLES_PER_CHUNK / 4 && ratio >= 1.0;
        state.next_at = if is_predicted { predict_end(range.min, range.max, end, ratio) } else { end };
        state.open.clear(&mut shared.blocks);
        state.open = open;
        state.open_since = range.min;
        series.newest.store(range.max, Release);
        Ok(samples)
    }

    /// Appends the chunks that touch `range` to `chunks`, oldest first. The open one is copied as it is now.
    pub(super) fn read(
        &self,
        series: &Header,
        files: Option<&MappedChunks>,
        range: TimeRange,
        chunks: &mut Vec<HeadChunk>,
    ) {
        for (number, full) in (self.first_number..).zip(&self.full) {
            let own = full.range();
            if own.overlaps(&range) {
                chunks.push(HeadChunk { number, range: own, data: full.data(files) });
            }
        }
        let open_range = TimeRange::new(self.open_since, series.newest());
        if let Some(chunk) =
            Some(&self.open).filter(|_| open_range.overlaps(&range)).and_then(|open| open.copy(self.blocks()))
        {
            let number = self.first_number + self.full.len() as u32;
            chunks.push(HeadChunk { number, range: open_range, data: HeadData::Ready(chunk) });
        }
    }

    /// The chunk with this number and its span, if it is still there.
    pub(super) fn chunk(
        &self,
        series: &Header,
        files: Option<&MappedChunks>,
        number: u32,
    ) -> Option<(TimeRange, HeadData)> {
        let index = number.checked_sub(self.first_number)? as usize;
        match self.full.get(index) {
            Some(full) => Some((full.range(), full.data(files))),
            None if index == self.full.len() => {
                let open = HeadData::Ready(self.open.copy(self.blocks())?);
                Some((TimeRange::new(self.open_since, series.newest()), open))
            }
            None => None,
        }
    }

    /// The sample at `t` that came in order, if it is in the open chunk: for those that come out of order.
    pub(super) fn in_order_at(&self, series: &Header, t: i64) -> Option<Sample> {
        let inside = !self.open.is_none() && self.open_since <= t && t <= series.newest();
        if inside { self.open.at(self.blocks(), t) } else { None }
    }

    /// Drops chunks that end before `t`; how many.
    pub(super) fn drop_before(&mut self, series: &Header, t: i64) -> usize {
        let (state, shared) = self.parts();
        let mut dropped = state.full.partition_point(|full| full.range().max < t);
        if dropped > 0 {
            state.full = Vec::from(std::mem::take(&mut state.full)).into_iter().skip(dropped).collect();
        }
        if state.full.is_empty() && series.newest() < t && !state.open.is_none() {
            state.open.clear(&mut shared.blocks);
            dropped += 1;
        }
        state.first_number = state.first_number.wrapping_add(dropped as u32);
        dropped
    }

    /// Whether the newest sample is a stale marker.
    pub(super) fn ends_stale(&self) -> bool {
        self.open.ends_stale(self.blocks())
    }
}

impl OpenSeries<'_> {
    /// Appends a float. A stale marker becomes one of the series' own kind.
    ///
    /// # Errors
    /// `Duplicate` or `OutOfOrder`.
    #[inline]
    pub(super) fn append_float(
        &mut self,
        series: &Header,
        ticket: &Ticket,
        rules: &ChunkRules,
        st: i64,
        t: i64,
        v: f64,
    ) -> Result<Applied, Refusal> {
        let newest = series.newest();
        if t <= newest {
            return self.state.check_float(self.blocks, series, t, v);
        }
        if is_stale(v) {
            match self.state.stale_of_its_kind(v) {
                Value::Histogram(stale) => {
                    return self.append_histogram::<Integers>(series, ticket, rules, st, t, &stale);
                }
                Value::FloatHistogram(stale) => {
                    return self.append_histogram::<Floats>(series, ticket, rules, st, t, &stale);
                }
                Value::Float(_) => {}
            }
        }
        let Self { state, blocks } = self;
        state.history.note(ticket, newest);
        let mut times = Times { since: state.open_since, newest, next_at: state.next_at };
        let mut applied = Applied::Appended;
        match state.open.takes_float(&mut times, rules, st, t) {
            Some(()) => state.next_at = times.next_at,
            None => {
                let full = state.open.take(blocks);
                applied = Applied::NewChunk(state.begin(full, newest, t, rules.chunk_range));
                state.open = Open::floats(rules, st);
            }
        }
        state.open.push_float(blocks, newest, (st, t), v);
        series.newest.store(t, Release);
        Ok(applied)
    }

    /// Appends a histogram.
    ///
    /// # Errors
    /// `Duplicate` or `OutOfOrder`; `Histogram` if it contradicts itself.
    pub(super) fn append_histogram<K: HistogramKind>(
        &mut self,
        series: &Header,
        ticket: &Ticket,
        rules: &ChunkRules,
        st: i64,
        t: i64,
        histogram: &K::Histogram,
    ) -> Result<Applied, Refusal> {
        let newest = series.newest();
        if t <= newest {
            return self.state.check_histogram::<K>(self.blocks, series, t, histogram);
        }
        let Self { state, blocks } = self;
        let invalid = |error: ChunkError| Refusal::Histogram(error.to_string());
        let mut times = Times { since: state.open_since, newest, next_at: state.next_at };
        let mut applied = Applied::Appended;
        if let Some(open) = K::of(&mut state.open) {
            let next = open.append(&mut times, rules, st, t, histogram).map_err(invalid)?;
            state.next_at = times.next_at;
            if let Next::Full(full) = next {
                applied = Applied::NewChunk(state.begin(Some(full), newest, t, rules.chunk_range));
            }
        } else {
            let starts = rules.histogram_starts(st, false);
            let open = OpenHistogram::<K>::begin(starts, st, t, histogram).map_err(invalid)?;
            let full = state.open.take(blocks);
            applied = Applied::NewChunk(state.begin(full, newest, t, rules.chunk_range));
            state.open = K::into_open(open);
        }
        state.history.note(ticket, newest);
        series.newest.store(t, Release);
        Ok(applied)
    }
}

impl SeriesState {
    fn check_float(&self, blocks: &Blocks, series: &Header, t: i64, v: f64) -> Result<Applied, Refusal> {
        self.check(blocks, series, t, |last| match &last.value {
            Value::Float(last) => last.to_bits() == v.to_bits(),
            // It would have become a stale marker of the series' own kind.
            _ => is_stale(v) && last.is_stale(),
        })
    }

    fn check_histogram<K: HistogramKind>(
        &self,
        blocks: &Blocks,
        series: &Header,
        t: i64,
        histogram: &K::Histogram,
    ) -> Result<Applied, Refusal> {
        self.check(blocks, series, t, |last| K::is(last, histogram))
    }

    fn check(
        &self,
        blocks: &Blocks,
        series: &Header,
        t: i64,
        is_it: impl FnOnce(&Sample) -> bool,
    ) -> Result<Applied, Refusal> {
        let newest = series.newest();
        match t.cmp(&newest) {
            Ordering::Greater => Ok(Applied::Appended),
            Ordering::Less => Err(Refusal::OutOfOrder { t, newest }),
            Ordering::Equal if self.open.last(blocks).is_some_and(|last| is_it(&last)) => Ok(Applied::Same),
            Ordering::Equal => Err(Refusal::Duplicate { t }),
        }
    }

    /// Puts a full chunk, whose last sample is at `newest`, to the others: the open one begins at `t`. The full one's
    /// bytes.
    fn begin(&mut self, full: Option<EncodedChunk>, newest: i64, t: i64, chunk_range: i64) -> u32 {
        let bytes = full.as_ref().map_or(0, |chunk| chunk.data.len() as u32);
        if let Some(chunk) = full {
            // A series has few chunks and gets another one every half hour: no room is kept for more.
            let mut full = Vec::from(std::mem::take(&mut self.full));
            full.reserve_exact(1);
            full.push(FullChunk::waiting(TimeRange::new(self.open_since, newest), chunk));
            self.full = full.into_boxed_slice();
        }
        self.open_since = t;
        self.next_at = range_end(t, chunk_range);
        bytes
    }

    /// Up to where all samples are in chunks on the disk.
    pub(super) fn mapped_until(&self) -> i64 {
        let mapped = self.full.iter().take_while(|full| full.place().is_some());
        mapped.last().map_or(i64::MIN, |full| full.range().max)
    }

    /// Overwrites `waiting` with the full chunks that are in memory, oldest first.
    pub(super) fn waiting(&self, waiting: &mut Vec<(u32, TimeRange, EncodedChunk)>) {
        waiting.clear();
        for (number, full) in (self.first_number..).zip(&self.full) {
            waiting.extend(full.in_memory().map(|chunk| (number, full.range(), chunk.clone())));
        }
    }

    /// The full chunk with this number lies on the disk now, if it is still there.
    pub(super) fn set_mapped(&mut self, number: u32, place: ChunkPlace) {
        let full = number.checked_sub(self.first_number).and_then(|index| self.full.get_mut(index as usize));
        if let Some(full) = full {
            *full = FullChunk::mapped(full.range(), full.encoding(), place);
        }
    }

    /// The first file on the disk that has a chunk of this series. Files before it are deleted, so whatever of a series
    /// lies in files must be asked here.
    pub(super) fn first_file(&self) -> Option<u32> {
        self.full.iter().find_map(FullChunk::place).map(ChunkPlace::file)
    }

    /// Whether it has full chunks that are nowhere but in memory.
    pub(super) fn has_full_in_memory(&self) -> bool {
        self.full.iter().any(|full| full.in_memory().is_some())
    }

    /// Calls `each` with the number and the range of all chunks that touch `range`, oldest first.
    pub(super) fn ranges(&self, series: &Header, range: TimeRange, mut each: impl FnMut(u32, TimeRange)) {
        let open = (!self.open.is_none()).then(|| TimeRange::new(self.open_since, series.newest()));
        let ranges = self.full.iter().map(FullChunk::range).chain(open);
        (self.first_number..).zip(ranges).filter(|(_, own)| own.overlaps(&range)).for_each(|(n, own)| each(n, own));
    }

    /// The stale marker `v` as this series has it: of the kind of its newest sample.
    #[cold]
    pub(super) fn stale_of_its_kind(&self, v: f64) -> Value {
        // All samples may be in full chunks: after a restart, if they are on the disk.
        let newest = match self.open {
            Open::Float(_) | Open::Xor2(_) => None,
            Open::Histogram(_) => Some(Encoding::Histogram),
            Open::FloatHistogram(_) => Some(Encoding::FloatHistogram),
            Open::None => self.full.last().map(FullChunk::encoding),
        };
        match newest {
            Some(Encoding::Histogram | Encoding::HistogramSt) => Value::Histogram(Box::new(Histogram::stale(v))),
            Some(Encoding::FloatHistogram | Encoding::FloatHistogramSt) => {
                Value::FloatHistogram(Box::new(FloatHistogram::stale(v)))
            }
            Some(Encoding::Xor | Encoding::Xor2) | None => Value::Float(v),
        }
    }

    /// Adds what `snapshot` must not see to `hide`.
    pub(super) fn hidden(&self, snapshot: &Snapshot, hide: &mut Vec<TimeRange>) {
        self.history.hidden(snapshot, hide);
    }

    /// Whether there is no sample.
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_none()
    }

    /// The first sample's time, if there is one.
    pub(super) fn oldest(&self) -> Option<i64> {
        match (self.full.first(), &self.open) {
            (Some(full), _) => Some(full.range().min),
            (None, Open::None) => None,
            (None, _) => Some(self.open_since),
        }
    }

    /// Bytes beside the slot and what the page shares: chunks, records.
    pub(super) fn heap_bytes(&self) -> usize {
        let full: usize = self.full.iter().map(FullChunk::heap_bytes).sum();
        self.full.len() * size_of::<FullChunk>() + full + self.open.heap_bytes() + self.history.heap_bytes()
    }
}
