//! What an appender has collected, as the log takes it.
//!
//! A batch holds one kind of sample a series at most: the log writes the floats of a commit before its histograms, and
//! they are applied in that order too, so a series that changes its kind begins a new batch.

use super::SeriesRef;
use super::column::Column;
use super::ooo::Late;
use super::slab::Run;
use crate::codec::FixedMap;
use crate::model::{Exemplar, FloatHistogram, Histogram, Metadata};
use crate::wal::RecordBuffer;
use crate::wal::record::{
    RefSample, encode_custom_float_histograms, encode_custom_histograms, encode_exemplars, encode_float_histograms,
    encode_float_histograms_st, encode_histograms, encode_histograms_st, encode_metadata, encode_samples,
    encode_samples_st,
};

/// A value that waits for its commit.
#[derive(Debug, Clone)]
pub(super) struct Pending<T> {
    pub(super) series: SeriesRef,
    /// The series' number in the log.
    pub(super) reference: u64,
    pub(super) t: i64,
    pub(super) value: T,
}

/// Which record a histogram goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Histogram,
    CustomHistogram,
    FloatHistogram,
    CustomFloatHistogram,
}

/// What is written and applied together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) floats: Column<f64>,
    pub(super) histograms: Column<Histogram>,
    pub(super) float_histograms: Column<FloatHistogram>,
    pub(super) exemplars: Vec<Pending<Exemplar>>,
    pub(super) metadata: Vec<Pending<Metadata>>,
}

/// An appender's memory.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Batches that are complete.
    pub(super) done: Vec<Batch>,
    /// The batch that grows.
    pub(super) batch: Batch,
    /// Samples out of order.
    pub(super) late: Vec<Late>,
    /// The kinds of the series in it that have histograms.
    pub(super) kinds: FixedMap<SeriesRef, RecordKind>,
    /// The encoded records.
    records: RecordBuffer,
    /// For the series that it creates. They stay with the rest, so that who has it next has them in the same page.
    pub(super) slots: Run,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.samples() == 0 && self.exemplars.is_empty() && self.metadata.is_empty()
    }

    pub(super) fn samples(&self) -> usize {
        self.floats.len() + self.histograms.len() + self.float_histograms.len()
    }

    fn clear(&mut self) {
        self.floats.clear();
        self.histograms.clear();
        self.float_histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
    }
}

impl Buffers {
    /// Begins a new batch if a series in this one has samples of another kind than `kind`; `None` is a float.
    pub(super) fn make_room(&mut self, series: SeriesRef, kind: Option<RecordKind>) {
        let before = self.kinds.get(&series).copied();
        // Histograms after floats are in order within a batch; any other change is not.
        if before.is_some() && before != kind {
            self.done.push(std::mem::take(&mut self.batch));
            self.kinds.clear();
        }
        if let Some(kind) = kind {
            self.kinds.insert(series, kind);
        }
    }

    /// Forgets everything, and keeps memory of a reasonable size.
    pub(super) fn clear(&mut self) {
        const LARGEST: usize = 1 << 16;
        self.done.clear();
        self.kinds.clear();
        self.late.clear();
        if self.late.capacity() > LARGEST {
            self.late = Vec::new();
        }
        if self.batch.samples() > LARGEST || self.batch.exemplars.len() > LARGEST {
            self.batch = Batch::default();
        }
        self.batch.clear();
        self.records.clear(LARGEST * 16);
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.late.is_empty() && self.batches().all(Batch::is_empty)
    }

    /// All batches in order.
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.done.iter().chain([&self.batch])
    }

    /// All batches in order, to be changed.
    pub(super) fn batches_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        self.done.iter_mut().chain([&mut self.batch])
    }

    /// The records of all batches, in the order in which they are to stand in the log.
    pub(super) fn encode(&mut self) -> Vec<&[u8]> {
        self.records.clear(usize::MAX);
        for batch in self.done.iter().chain([&self.batch]) {
            batch.encode(&mut self.records);
        }
        self.records.records()
    }
}

impl Batch {
    fn encode(&self, out: &mut RecordBuffer) {
        if !self.metadata.is_empty() {
            encode_metadata(self.metadata.iter().map(|m| (m.reference, &m.value)), out.bytes());
            out.end();
        }
        if self.floats.has_starts() {
            let sample = |(f, st): (&Pending<f64>, i64)| RefSample { reference: f.reference, t: f.t, st, v: f.value };
            encode_samples_st(self.floats.iter().map(sample), out.bytes());
            out.end();
        } else if !self.floats.is_empty() {
            let sample = |f: &Pending<f64>| RefSample { reference: f.reference, t: f.t, st: 0, v: f.value };
            encode_samples(self.floats.values().map(sample), out.bytes());
            out.end();
        }
        // With start timestamps there is one record for all kinds of buckets.
        if self.histograms.has_starts() {
            encode_histograms_st(self.histograms.iter().map(|(h, st)| (h.reference, h.t, st, &h.value)), out.bytes());
            out.end();
        } else if !self.histograms.is_empty() {
            let entries = || self.histograms.values().map(|h| (h.reference, h.t, &h.value));
            let custom = encode_histograms(entries(), out.bytes());
            out.end();
            if custom > 0 {
                encode_custom_histograms(entries(), out.bytes());
                out.end();
            }
        }
        if self.float_histograms.has_starts() {
            let entries = self.float_histograms.iter().map(|(h, st)| (h.reference, h.t, st, &h.value));
            encode_float_histograms_st(entries, out.bytes());
            out.end();
        } else if !self.float_histograms.is_empty() {
            let entries = || self.float_histograms.values().map(|h| (h.reference, h.t, &h.value));
            let custom = encode_float_histograms(entries(), out.bytes());
            out.end();
            if custom > 0 {
                encode_custom_float_histograms(entries(), out.bytes());
                out.end();
            }
        }
        // Behind the samples that created their series.
        if !self.exemplars.is_empty() {
            encode_exemplars(self.exemplars.iter().map(|e| (e.reference, &e.value)), out.bytes());
            out.end();
        }
    }
}
