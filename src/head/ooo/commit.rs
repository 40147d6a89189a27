//! A commit's out-of-order samples, from the appender to the log to memory.
//!
//! They are written in rounds: a round ends where a series' buffer is full, since the marker that says so must stand in
//! front of what comes after. Nearly all commits have one round.

use parking_lot::RwLockReadGuard;

use super::super::appender::Commit;
use super::super::series::{Applied, Series};
use super::super::{Head, SeriesRef};
use super::Stored;
use super::same_value;
use crate::codec::FixedMap;
use crate::error::Result;
use crate::head::error::Refusal;
use crate::model::{CUSTOM_BUCKETS_SCHEMA, Sample, TimeRange, Value};
use crate::wal::record::{
    RefMarker, RefSample, encode_custom_float_histograms, encode_custom_histograms, encode_float_histograms,
    encode_float_histograms_st, encode_histograms, encode_histograms_st, encode_markers, encode_samples,
    encode_samples_st,
};

/// A sample out of order that waits for its commit.
#[derive(Debug)]
pub(in crate::head) struct Late {
    pub(in crate::head) series: SeriesRef,
    /// The series' number in the log.
    pub(in crate::head) reference: u64,
    pub(in crate::head) sample: Sample,
}

/// A buffer that was full when the round began, as chunks.
#[derive(Debug)]
struct Full {
    id: u32,
    /// The series' number in the log.
    reference: u64,
    chunks: Vec<(TimeRange, Stored)>,
}

/// What is in the log and is to be applied.
#[derive(Debug)]
pub(in crate::head) struct Round<'a> {
    samples: &'a [Late],
    full: Vec<Full>,
}

/// Which record a sample goes into: they are written, and applied, in this order.
fn rank(sample: &Sample, with_starts: bool) -> u8 {
    let custom = |schema: i32| u8::from(schema == CUSTOM_BUCKETS_SCHEMA && !with_starts);
    match &sample.value {
        Value::Float(_) => 0,
        Value::Histogram(histogram) => 1 + custom(histogram.schema),
        Value::FloatHistogram(histogram) => 3 + custom(histogram.schema),
    }
}

impl Head {
    /// Whether a sample fits behind the others of its series; `series` is not newer than it.
    ///
    /// # Errors
    /// `Duplicate`, if it can be seen at once that the series has another value at this time.
    pub(in crate::head) fn check_late(
        &self,
        id: u32,
        series: &Series<'_>,
        sample: &Sample,
    ) -> Result<Applied, Refusal> {
        let there = series.lock().in_order_at(series, sample.t);
        match there.filter(|_| !self.tombstones.hides(id, sample.t)) {
            Some(there) if same_value(&there, &sample.value) => Ok(Applied::Same),
            Some(_) => Err(Refusal::Duplicate { t: sample.t }),
            None => self.out_of_order.check(id, sample.t, &sample.value),
        }
    }

    /// Keeps cuts and deletions away until all samples are applied.
    pub(in crate::head) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.out_of_order.gate.read()
    }

    /// Writes the first round of `waiting` to the log; what is left of them. The series are claimed, the gate is held.
    ///
    /// # Errors
    /// `Io`, `Full`: nothing of the round counts.
    pub(in crate::head) fn log_late<'a>(&self, waiting: &'a [Late]) -> Result<(Round<'a>, &'a [Late])> {
        let table = &self.out_of_order;
        if let Some(log) = &table.log {
            // Before chunks are written that no marker will name.
            log.check_end()?;
        }
        let generation = table.generation.load(std::sync::atomic::Ordering::Acquire);
        let low = self.isolation.low();
        let mut room: FixedMap<u32, usize> = FixedMap::default();
        let mut full = Vec::new();
        let mut taken = 0;
        for late in waiting {
            let id = late.series.id();
            let left = match room.get_mut(&id) {
                Some(left) => left,
                None => {
                    let left = table.room(id, generation, low);
                    if left == 0 {
                        full.extend(self.fill(id, late.reference)?);
                    }
                    room.entry(id).or_insert(if left == 0 { super::series::CAPACITY } else { left })
                }
            };
            let Some(fewer) = left.checked_sub(1) else { break };
            *left = fewer;
            taken += 1;
        }
        let (samples, rest) = waiting.split_at_checked(taken).unwrap_or((waiting, &[]));
        if let Some(log) = &table.log {
            let mut records = Records::default();
            records.put_markers(&self.map_late(&mut full)?);
            records.put(samples);
            log.commit(&records.slices())?;
        }
        Ok((Round { samples, full }, rest))
    }

    /// The full buffer of a series as chunks.
    fn fill(&self, id: u32, reference: u64) -> Result<Option<Full>> {
        let Some(written) = self.out_of_order.look(id, super::OutOfOrder::encode) else { return Ok(None) };
        let chunks =
            written?.into_iter().map(|it| (TimeRange::new(it.min_time, it.max_time), Stored::Memory(it.chunk)));
        Ok(Some(Full { id, reference, chunks: chunks.collect() }))
    }

    /// Puts the chunks of full buffers into the files of head chunks, and gives the markers that say so. The files are
    /// handed to the system first: a marker must not stand in the log before its chunk can be found. If a power cut
    /// takes the chunk all the same, its samples stand in the log.
    fn map_late(&self, full: &mut [Full]) -> Result<Vec<RefMarker>> {
        let Some(files) = self.mapped.as_ref().filter(|files| files.is_writable() && !full.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut places = Vec::new();
        for Full { reference, chunks, .. } in &*full {
            for (range, data) in chunks {
                places.push(files.append(*reference, *range, &data.load()?, true)?);
            }
        }
        files.flush()?;
        let mut markers = Vec::with_capacity(places.len());
        let mut places = places.into_iter();
        for Full { reference, chunks, .. } in full {
            for ((_, data), place) in chunks.iter_mut().zip(&mut places) {
                markers.push(RefMarker { reference: *reference, chunk: place.0 });
                if let Some(file) = files.file(place) {
                    *data = Stored::Mapped(file, place);
                }
            }
        }
        Ok(markers)
    }
}

impl super::OutOfOrderTable {
    /// How many samples fit into the series' buffer, which notices the last cut.
    fn room(&self, id: u32, generation: u64, low: u64) -> usize {
        let mut shard = self.shard(id);
        let Some(it) = shard.get_mut(&id) else { return super::series::CAPACITY };
        it.touch(generation, low);
        it.room()
    }
}

impl Commit<'_> {
    /// Puts a round into memory.
    pub(in crate::head) fn apply_late(&mut self, round: Round<'_>) {
        let (commit, low) = (self.ticket.id(), self.ticket.low());
        let head = self.head;
        let rules = head.options.rules();
        for Full { id, chunks, .. } in round.full {
            head.out_of_order.change(id, |it| it.seal(chunks, low));
        }
        for Late { series, sample, .. } in round.samples {
            let id = series.id();
            let applied = self.with_series(*series, |slot| {
                // Under the page's lock: a collection sees the series with it, or does not remove it.
                if sample.st == 0 || rules.keeps_start(sample) {
                    return head.out_of_order.insert(id, sample, slot.newest(), commit, low);
                }
                let sample = Sample { st: 0, ..sample.clone() };
                head.out_of_order.insert(id, &sample, slot.newest(), commit, low)
            });
            match applied {
                Some(Ok(Applied::Same)) => self.committed.same += 1,
                Some(Ok(_)) => {
                    self.committed.appended += 1;
                    self.committed.out_of_order += 1;
                }
                Some(Err(_)) | None => self.committed.lost += 1,
            }
        }
        self.unlock();
    }
}

/// Sorts samples as they are written: floats, then histograms by their records. Those of a kind stay in their order.
pub(in crate::head) fn sort_late(late: &mut [Late]) {
    let with_starts = late.iter().any(|late| late.sample.st != 0);
    late.sort_by_key(|late| rank(&late.sample, with_starts));
}

/// Encoded records, one behind the other, and where each ends.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    fn end(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.bytes.len() {
            self.ends.push(self.bytes.len());
        }
    }

    fn put_markers(&mut self, markers: &[RefMarker]) {
        if !markers.is_empty() {
            encode_markers(markers.iter().copied(), &mut self.bytes);
            self.end();
        }
    }

    /// Encodes samples that are sorted.
    fn put(&mut self, samples: &[Late]) {
        let with_starts = samples.iter().any(|late| late.sample.st != 0);
        let floats = samples.iter().filter_map(|Late { reference, sample, .. }| match sample.value {
            Value::Float(v) => Some(RefSample { reference: *reference, t: sample.t, st: sample.st, v }),
            _ => None,
        });
        let histograms = || {
            samples.iter().filter_map(|Late { reference, sample, .. }| match &sample.value {
                Value::Histogram(histogram) => Some((*reference, sample.t, sample.st, &**histogram)),
                _ => None,
            })
        };
        let float_histograms = || {
            samples.iter().filter_map(|Late { reference, sample, .. }| match &sample.value {
                Value::FloatHistogram(histogram) => Some((*reference, sample.t, sample.st, &**histogram)),
                _ => None,
            })
        };
        let (has_floats, has_histograms, has_float_histograms) =
            (floats.clone().next().is_some(), histograms().next().is_some(), float_histograms().next().is_some());
        match (has_floats, with_starts) {
            (false, _) => {}
            (true, false) => encode_samples(floats, &mut self.bytes),
            (true, true) => encode_samples_st(floats, &mut self.bytes),
        }
        self.end();
        if has_histograms && with_starts {
            encode_histograms_st(histograms(), &mut self.bytes);
            self.end();
        } else if has_histograms {
            let plain = || histograms().map(|(reference, t, _, histogram)| (reference, t, histogram));
            let custom = encode_histograms(plain(), &mut self.bytes);
            self.end();
            if custom > 0 {
                encode_custom_histograms(plain(), &mut self.bytes);
                self.end();
            }
        }
        if has_float_histograms && with_starts {
            encode_float_histograms_st(float_histograms(), &mut self.bytes);
            self.end();
        } else if has_float_histograms {
            let plain = || float_histograms().map(|(reference, t, _, histogram)| (reference, t, histogram));
            let custom = encode_float_histograms(plain(), &mut self.bytes);
            self.end();
            if custom > 0 {
                encode_custom_float_histograms(plain(), &mut self.bytes);
                self.end();
            }
        }
    }

    fn slices(&self) -> Vec<&[u8]> {
        let mut start = 0;
        let slice = |end: &usize| self.bytes.get(std::mem::replace(&mut start, *end)..*end).unwrap_or_default();
        self.ends.iter().map(slice).collect()
    }
}
