//! Reading the log back into memory after a restart.
//!
//! ```text
//! read      a batch of records as they are stored        one after another
//! unpack    decompress them, decode series records       side by side, by record
//! create    the series                                   side by side, by record
//! scatter   decode samples, look their series up         side by side, by record; into one list a bucket of slots
//! apply     append them                                  side by side, by bucket; in the order of the log
//! ```
//!
//! A batch has several samples of a series, far apart in the log. A bucket is as many series as a core's cache holds, so
//! that only the first of them waits for memory.
//!
//! A series record may stand twice (a series that was removed and came again before its old record went): the labels
//! decide, and both numbers mean the same series. A deletion of all of time says that a series was evicted: what comes
//! after it under the same labels is another one.

use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};

use parking_lot::Mutex;

use super::checkpoint::Gone;
use super::evidence::histogram_starts;
use super::isolation::Ticket;
use super::rules::{ChunkRules, HistogramStarts};
use super::series::{Applied, Header, SeriesState};
use super::slab::{Locked, PAGE};
use super::{Head, SeriesRef, WAL_DIR, WBL_DIR};
use crate::chunk::{Floats, Integers};
use crate::codec::FixedMap;
use crate::error::Result;
use crate::fs::Env;
use crate::model::{Exemplar, Metadata, TimeRange, Value};
use crate::wal::record::{self, RecordType, RefFloatHistogram, RefHistogram, RefSample};
use crate::wal::{Damage, Decompressor, LogReader, Position, StoredRecord};

/// Bytes of stored records in a batch, for each task that works on it.
const BATCH: usize = 4 << 20;
/// Pages of slots in a bucket: half a kilobyte a series, with its open chunk.
const BUCKET_PAGES: usize = 8;
/// Buckets, at most: each is a place that a task writes to. With more series there are more pages in a bucket.
const BUCKETS: usize = 1024;

/// What reading the log back found.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Records read.
    pub records: u64,
    /// Series created.
    pub series: u64,
    /// Samples that are in memory now.
    pub samples: u64,
    /// Samples that are not: before the floor, or not newer than their series' newest.
    pub samples_skipped: u64,
    /// Samples, deletions and others whose series record is not there.
    pub unknown_series: u64,
    /// Samples out of order that are in memory now.
    pub out_of_order: u64,
    /// The last segment that was read.
    pub last_segment: Option<u64>,
    /// The last segment of the log of out-of-order samples.
    pub last_out_of_order_segment: Option<u64>,
    /// What is wrong with the logs.
    pub damage: Vec<Damage>,
}

/// From numbers in the log to slots. The numbers are counted up by the writer, so nearly all are small.
#[derive(Debug, Default)]
struct References {
    dense: Vec<u64>,
    sparse: FixedMap<u64, SeriesRef>,
    /// How many were inserted.
    count: u64,
    /// Numbers that stand for a series which has another one now.
    second: Vec<(u64, SeriesRef)>,
    /// Numbers of series that were evicted, and the newest sample of each.
    evicted: Vec<(u64, i64)>,
    last: u64,
}

impl References {
    fn insert(&mut self, reference: u64, series: SeriesRef) {
        /// Gaps are fine up to this many in all, four megabytes, and one a series.
        const GAPS: u64 = 1 << 19;
        self.last = self.last.max(reference);
        self.count += 1;
        if reference < self.count * 2 + GAPS {
            let index = reference as usize;
            if index >= self.dense.len() {
                self.dense.resize(index + 1, 0);
            }
            if let Some(entry) = self.dense.get_mut(index) {
                *entry = series.0;
            }
        } else {
            self.sparse.insert(reference, series);
        }
    }

    #[inline]
    fn get(&self, reference: u64) -> Option<SeriesRef> {
        match self.dense.get(reference as usize) {
            Some(0) | None => self.sparse.get(&reference).copied(),
            Some(series) => Some(SeriesRef(*series)),
        }
    }
}

/// A record on its way.
#[derive(Debug)]
struct Record {
    at: Position,
    bytes: Vec<u8>,
    kind: Option<RecordType>,
    series: Vec<(u64, SeriesRef)>,
    others: Others,
    unknown: u64,
    bad: Option<String>,
}

/// What is no sample: applied by one task, behind the samples of the run.
#[derive(Debug, Default)]
enum Others {
    #[default]
    None,
    Exemplars(Vec<(SeriesRef, Exemplar)>),
    Metadata(Vec<(SeriesRef, Metadata)>),
}

/// A sample on its way.
#[derive(Debug)]
struct Waiting {
    series: SeriesRef,
    t: i64,
    /// `None`: `t` is the start timestamp of the sample that comes next. Few have one, and this is small.
    value: Option<Value>,
}

/// What one task has scattered, in the order of the log.
#[derive(Debug, Default)]
struct Scattered {
    /// Samples, a list a bucket.
    buckets: Vec<Vec<Waiting>>,
    /// Samples from before the floor.
    skipped: u64,
    /// A record's samples, before their series are known.
    floats: Vec<RefSample>,
    histograms: Vec<RefHistogram>,
    float_histograms: Vec<RefFloatHistogram>,
}

/// The page that an applying task has locked. Buckets share no page, so nobody waits for it.
type Pages<'a> = Locked<'a, Header, SeriesState>;

/// What an applying task counted.
#[derive(Debug, Clone, Copy)]
struct Tally {
    samples: u64,
    skipped: u64,
    chunks: u64,
    min: i64,
    max: i64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { samples: 0, skipped: 0, chunks: 0, min: i64::MAX, max: i64::MIN }
    }
}

impl Head {
    /// Reads the logs of the data directory `dir` into this head, which is empty and nobody else's yet.
    pub(super) fn replay(&self, env: &Env, dir: &Path) -> Result<Replayed> {
        let mut reader = LogReader::open(&env.fs, &dir.join(WAL_DIR))?;
        let mut rules = self.options.replay_rules();
        let mut asked = rules.histograms != HistogramStarts::WhenKnown;
        let mut replayed = Replayed { last_segment: reader.last_segment(), ..Replayed::default() };
        let mut references = References::default();
        let tasks = env.executor.parallelism();
        let mut scattered: Vec<Scattered> = (0..tasks).map(|_| Scattered::default()).collect();
        loop {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while bytes < BATCH * tasks
                && let Some(stored) = reader.next_stored()?
            {
                bytes += stored.data.len();
                batch.push(stored);
            }
            if batch.is_empty() {
                break;
            }
            replayed.records += batch.len() as u64;
            let mut records = self.unpack(env, batch);
            let are_histograms =
                |kind: RecordType| matches!(kind, RecordType::HistogramsSt | RecordType::FloatHistogramsSt);
            if !asked && records.iter().any(|record| record.kind.is_some_and(are_histograms)) {
                asked = true;
                rules.histograms = histogram_starts(env, dir).unwrap_or(rules.histograms);
            }
            let mut rest = records.as_mut_slice();
            while !rest.is_empty() {
                // A deletion stands between what was before it and what came after.
                let deletion = rest.iter().position(|record| record.kind == Some(RecordType::Tombstones));
                let (before, after) = rest.split_at_mut(deletion.unwrap_or(rest.len()));
                self.replay_run(env, before, &rules, &mut scattered, &mut references, &mut replayed);
                let Some((deletion, after)) = after.split_first_mut() else { break };
                self.replay_deletion(deletion, &mut references, &mut replayed);
                rest = after;
            }
            for record in records {
                replayed.unknown_series += record.unknown;
                if let Some(reason) = record.bad {
                    reader.note_bad_record(record.at, reason);
                }
            }
        }
        self.last_reference.store(references.last, Release);
        // Records under a second number may stand in any segment up to here.
        let last = replayed.last_segment.unwrap_or(0);
        let newest = |series: SeriesRef| self.known(series).map_or(i64::MIN, |slot| slot.newest());
        let second = references.second.iter().map(|(reference, series)| (*reference, newest(*series), Some(*series)));
        let evicted = references.evicted.iter().map(|(reference, newest)| (*reference, *newest, None));
        let gone = second.chain(evicted);
        let gone = gone.map(|(reference, newest, series)| (reference, Gone { segment: last, newest, series }));
        self.gone.lock().extend(gone);
        replayed.damage = reader.finish();
        self.replay_late(env, &dir.join(WBL_DIR), &|reference| references.get(reference), &mut replayed)?;
        replayed.series = self.series_count();
        Ok(replayed)
    }

    fn unpack(&self, env: &Env, batch: Vec<StoredRecord>) -> Vec<Record> {
        let blank = |stored: &StoredRecord| Record {
            at: stored.at,
            bytes: Vec::new(),
            kind: None,
            series: Vec::new(),
            others: Others::None,
            unknown: 0,
            bad: None,
        };
        let mut records: Vec<Record> = batch.iter().map(blank).collect();
        let share = batch.len().div_ceil(env.executor.parallelism());
        let shares = batch.chunks(share).zip(records.chunks_mut(share));
        env.executor.join_all(
            shares
                .map(|(stored, records)| {
                    task(move || {
                        let mut decompressor = Decompressor::default();
                        for (stored, record) in stored.iter().zip(records) {
                            match decompressor.decompress(stored.compression, &stored.data, &mut record.bytes) {
                                Ok(()) => record.kind = RecordType::of(&record.bytes),
                                Err(error) => record.bad = Some(error.to_string()),
                            }
                        }
                    })
                })
                .collect(),
        );
        records
    }

    /// Replays records among which there is no deletion. `scattered` is memory to use again, for each task.
    fn replay_run(
        &self,
        env: &Env,
        records: &mut [Record],
        rules: &ChunkRules,
        scattered: &mut [Scattered],
        references: &mut References,
        replayed: &mut Replayed,
    ) {
        if records.is_empty() {
            return;
        }
        let parts = scattered.len();
        let share = records.len().div_ceil(parts);
        let create = |records: &mut [Record]| {
            for record in records.iter_mut().filter(|record| record.kind == Some(RecordType::Series)) {
                self.replay_series(record);
            }
        };
        let tasks = records.chunks_mut(share).map(|records| task(move || create(records)));
        env.executor.join_all(tasks.collect());
        for record in records.iter_mut() {
            for (reference, series) in std::mem::take(&mut record.series) {
                if self.slots.get(series.id()).is_some_and(|slot| slot.reference() != reference) {
                    references.second.push((reference, series));
                }
                references.insert(reference, series);
            }
        }

        let pages = (self.slots.end() as usize).div_ceil(PAGE);
        let bucket_pages = pages.div_ceil(BUCKETS).max(BUCKET_PAGES);
        let buckets = pages.div_ceil(bucket_pages);
        let floor = self.floor.load(Relaxed);
        let known = &*references;
        let scatter = |records: &mut [Record], scattered: &mut Scattered| {
            for record in records {
                scattered.scatter(record, known, floor, bucket_pages * PAGE);
            }
        };
        let mut shares = records.chunks_mut(share);
        let tasks = scattered.iter_mut().map(|scattered| {
            let records = shares.next().unwrap_or_default();
            task(move || {
                scattered.clear(buckets);
                scatter(records, scattered);
            })
        });
        env.executor.join_all(tasks.collect());

        let applied = &*scattered;
        let total = Mutex::new(Tally::default());
        let apply = |part| {
            let mut tally = Tally::default();
            let mut locked = Locked::default();
            for bucket in (part..buckets).step_by(parts) {
                let mut st = 0;
                for Waiting { series, t, value } in applied.iter().filter_map(|it| it.buckets.get(bucket)).flatten() {
                    match value {
                        Some(value) => {
                            let times = (std::mem::take(&mut st), *t);
                            self.replay_sample(*series, times, value, rules, &mut locked, &mut tally);
                        }
                        None => st = *t,
                    }
                }
            }
            drop(locked);
            let mut total = total.lock();
            total.samples += tally.samples;
            total.skipped += tally.skipped;
            total.chunks += tally.chunks;
            total.min = total.min.min(tally.min);
            total.max = total.max.max(tally.max);
        };
        let apply = &apply;
        let tasks = (0..parts).map(|part| task(move || apply(part)));
        env.executor.join_all(tasks.collect());

        let total = total.into_inner();
        for record in records {
            self.replay_others(std::mem::take(&mut record.others));
        }
        replayed.samples += total.samples;
        replayed.samples_skipped += total.skipped + scattered.iter().map(|it| it.skipped).sum::<u64>();
        self.counters.samples.fetch_add(total.samples, Relaxed);
        self.counters.chunks.fetch_add(total.chunks, Relaxed);
        self.cover(total.min, total.max);
    }

    fn replay_series(&self, record: &mut Record) {
        let Record { bytes, series, bad, .. } = record;
        let mut packed = Vec::new();
        let mut refused = None;
        let decoded = record::decode_series(bytes, |reference, labels| {
            labels.pack_into(&mut packed);
            match self.get_or_create(&packed, Some(reference)) {
                Ok((found, _)) => series.push((reference, found)),
                Err(refusal) => refused = Some(refusal.to_string()),
            }
        });
        *bad = decoded.err().map(|error| error.to_string()).or(refused);
    }

    #[inline]
    fn replay_sample<'a>(
        &'a self,
        reference: SeriesRef,
        (st, t): (i64, i64),
        value: &Value,
        rules: &ChunkRules,
        locked: &mut Pages<'a>,
        tally: &mut Tally,
    ) {
        let ticket = &Ticket::REPLAY;
        // Evicted series leave their slots to others.
        let Some(series) = self.slots.get(reference.id()).filter(|slot| slot.tag() == reference.tag()) else {
            tally.skipped += 1;
            return;
        };
        let state = locked.body(&series);
        let appended = match value {
            Value::Float(v) => state.append_float(&series, ticket, rules, st, t, *v),
            Value::Histogram(histogram) => state.append_histogram::<Integers>(&series, ticket, rules, st, t, histogram),
            Value::FloatHistogram(histogram) => {
                state.append_histogram::<Floats>(&series, ticket, rules, st, t, histogram)
            }
        };
        match appended {
            Err(_) | Ok(Applied::Same) => tally.skipped += 1,
            Ok(applied) => {
                tally.samples += 1;
                tally.chunks += u64::from(applied == Applied::NewChunk);
                tally.min = tally.min.min(t);
                tally.max = tally.max.max(t);
            }
        }
    }

    fn replay_others(&self, others: Others) {
        match others {
            Others::None => {}
            Others::Exemplars(exemplars) => {
                // Of any time: blocks have none.
                for (series, exemplar) in exemplars {
                    self.exemplars.add(series, exemplar);
                }
            }
            Others::Metadata(entries) => {
                for (reference, metadata) in entries {
                    if let Some(series) = self.known(reference) {
                        self.metadata.set(series.lock().labels().metric_name(), &metadata);
                    }
                }
            }
        }
    }

    fn replay_deletion(&self, record: &mut Record, references: &mut References, replayed: &mut Replayed) {
        let mut deletions = Vec::new();
        record.bad = record::decode_tombstones(&record.bytes, &mut deletions).err().map(|error| error.to_string());
        let mut evicted = Vec::new();
        for deletion in deletions {
            let Some(series) = references.get(deletion.reference) else {
                replayed.unknown_series += 1;
                continue;
            };
            if deletion.range == TimeRange::ALL {
                if let Some(slot) = self.known(series) {
                    references.evicted.push((deletion.reference, slot.newest()));
                    evicted.push(series);
                }
            } else if self.known(series).is_some() {
                self.tombstones.add(series.id(), deletion.range);
            }
        }
        self.evict(&evicted);
    }
}

fn task<'a>(task: impl FnOnce() + Send + 'a) -> Box<dyn FnOnce() + Send + 'a> {
    Box::new(task)
}

impl Scattered {
    /// Makes as many empty lists.
    fn clear(&mut self, buckets: usize) {
        self.buckets.iter_mut().for_each(Vec::clear);
        self.buckets.resize_with(buckets, Vec::new);
        self.skipped = 0;
    }

    /// Decodes a record and looks its series up; a sample goes to the bucket of its series' slot.
    fn scatter(&mut self, record: &mut Record, references: &References, floor: i64, bucket_slots: usize) {
        let Record { bytes, kind, others, unknown, bad, .. } = record;
        let Self { buckets, skipped, floats, histograms, float_histograms } = self;
        let mut find = |reference| {
            let series = references.get(reference);
            *unknown += u64::from(series.is_none());
            series
        };
        let mut put = |series: Option<SeriesRef>, st, t, value| {
            let Some(series) = series else { return };
            if t < floor {
                *skipped += 1;
            } else if let Some(bucket) = buckets.get_mut(series.id() as usize / bucket_slots) {
                if st != 0 {
                    bucket.push(Waiting { series, t: st, value: None });
                }
                bucket.push(Waiting { series, t, value: Some(value) });
            }
        };
        let decoded = match kind {
            Some(RecordType::Samples | RecordType::SamplesSt) => {
                let decoded = record::decode_samples(bytes, floats);
                floats.drain(..).for_each(|s| put(find(s.reference), s.st, s.t, Value::Float(s.v)));
                decoded
            }
            Some(RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt) => {
                let decoded = record::decode_histograms(bytes, histograms);
                histograms.drain(..).for_each(|s| put(find(s.reference), s.st, s.t, Value::Histogram(s.histogram)));
                decoded
            }
            Some(RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt) => {
                let decoded = record::decode_float_histograms(bytes, float_histograms);
                float_histograms
                    .drain(..)
                    .for_each(|s| put(find(s.reference), s.st, s.t, Value::FloatHistogram(s.histogram)));
                decoded
            }
            Some(RecordType::Exemplars) => {
                let mut all = Vec::new();
                let decoded = record::decode_exemplars(bytes, &mut all);
                let found = all.into_iter().filter_map(|e| Some((find(e.reference)?, e.exemplar)));
                *others = Others::Exemplars(found.collect());
                decoded
            }
            Some(RecordType::Metadata) => {
                let mut all = Vec::new();
                let decoded = record::decode_metadata(bytes, &mut all);
                let found = all.into_iter().filter_map(|m| Some((find(m.reference)?, m.metadata)));
                *others = Others::Metadata(found.collect());
                decoded
            }
            // Series were read before, deletions are read after; marks do not stand in this log, and what else there is
            // came from a later program.
            Some(RecordType::Series | RecordType::Tombstones | RecordType::MmapMarkers) | None => Ok(()),
        };
        if let Err(error) = decoded {
            *bad = Some(error.to_string());
        }
        *bytes = Vec::new();
    }
}
