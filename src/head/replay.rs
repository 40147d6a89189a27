//! Reading the log back into memory after a restart.
//!
//! ```text
//! read      a batch of records as they are stored        beside the scattering of the batch before
//! unpack    decompress them, decode series records       side by side, by record
//! create    the series, with their chunks on the disk    side by side, by record
//! scatter   decode samples, look their series up         side by side, by record; into one list a bucket of slots
//! apply     append them                                  side by side, by bucket; in the order of the log
//! ```
//!
//! A batch has several samples of a series, far apart in the log. A bucket is as many series as a core's cache holds, so
//! that only the first of them waits for memory.
//!
//! Chunks that were full before the restart lie in `chunks_head/`: their samples are passed over as soon as their series
//! is known. Chunks that fill now go there too, when more of them wait than memory is meant for.
//!
//! A series record may stand twice (a series that was removed and came again before its old record went): the labels
//! decide, and both numbers mean the same series. A deletion of all of time says that a series was evicted: what comes
//! after it under the same labels is another one.

use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};

use bytes::Bytes;
use parking_lot::Mutex;

use super::evidence::histogram_starts;
use super::gone::Gone;
use super::isolation::Ticket;
use super::mapped::Loaded;
use super::ooo::LostMarkers;
use super::references::{Known, References};
use super::rules::{ChunkRules, HistogramStarts};
use super::series::{Applied, Header, Series, SeriesState};
use super::slab::{Locked, PAGE, Run};
use super::snapshot::LoadedSnapshot;
use super::tombstones::DeletedAt;
use super::{Head, SeriesRef, WAL_DIR, WBL_DIR};
use crate::chunk::{Floats, Integers};
use crate::error::Result;
use crate::fs::Env;
use crate::model::{Exemplar, Metadata, TimeRange, Value};
use crate::wal::record::{self, RecordType, RefFloatHistogram, RefHistogram};
use crate::wal::{Compression, Damage, Decompressor, LogError, LogReader, Position, StoredRecord};

/// Bytes of stored records in a batch, for each task that works on it.
const BATCH: usize = 4 << 20;
/// Shares of a batch, for each task: who also reads the next batch takes fewer.
const SHARES: usize = 4;
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
    /// Chunks that were found on the disk; their samples are not counted.
    pub chunks_mapped: u64,
    /// Samples that are not: before the floor, in chunks on the disk, or not newer than their series' newest.
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
    /// The segment from which the log was read, if a snapshot stands for what is before.
    pub snapshot: Option<u64>,
    /// Why there is a snapshot that was not used.
    pub snapshot_refused: Option<String>,
    /// What the log of out-of-order samples says of chunks that are not there.
    pub(super) lost_markers: LostMarkers,
}

/// A record on its way.
#[derive(Debug)]
struct Record {
    at: Position,
    bytes: Bytes,
    kind: Option<RecordType>,
    /// Numbers, series, and up to where their samples are on the disk.
    series: Vec<(u64, SeriesRef, i64)>,
    chunks_mapped: u64,
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

/// A float on its way; or, if the generation is odd, which no live series' is, the place of another sample among the
/// [others](Scattered::others). Small, and nothing to drop: there is one for every sample of the log.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    series: SeriesRef,
    t: i64,
    bits: u64,
}

/// Added to a reference: its generation is odd then.
const OTHER: u64 = 1 << 32;

/// A sample on its way that is no float, or has a start timestamp.
#[derive(Debug)]
struct OtherSample {
    series: SeriesRef,
    st: i64,
    t: i64,
    value: Value,
}

/// What was scattered of one share of a batch, in the order of the log; and slots for the series that are created of it.
#[derive(Debug, Default)]
struct Scattered {
    slots: Run,
    /// Samples, a list a bucket.
    buckets: Vec<Vec<Waiting>>,
    /// Empty lists with room. A batch fills some of the buckets and the next one others: with lists of their own all would
    /// have room in the end, for many batches.
    spare: Vec<Vec<Waiting>>,
    /// Those that are not floats alone.
    others: Vec<OtherSample>,
    /// Samples from before the floor.
    skipped: u64,
    /// A record's samples, before their series are known.
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
    full_bytes: u64,
    min: i64,
    max: i64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { samples: 0, skipped: 0, chunks: 0, full_bytes: 0, min: i64::MAX, max: i64::MIN }
    }
}

/// The log, read a batch ahead.
struct Ahead {
    reader: LogReader,
    /// Bytes in a batch.
    limit: usize,
    next: Option<Result<Vec<StoredRecord>, LogError>>,
}

impl Ahead {
    /// Reads the next batch, unless it is there.
    fn read(&mut self) {
        if self.next.is_none() {
            self.next = Some(self.batch());
        }
    }

    fn batch(&mut self) -> Result<Vec<StoredRecord>, LogError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < self.limit
            && let Some(stored) = self.reader.next_stored()?
        {
            bytes += stored.data.len();
            batch.push(stored);
        }
        Ok(batch)
    }

    fn take(&mut self) -> Result<Vec<StoredRecord>, LogError> {
        self.read();
        self.next.take().unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// The chunks that were found on the disk, by series.
pub(super) struct OnDisk {
    /// Sorted by series; those of one as they were written.
    chunks: Vec<Loaded>,
    /// Those whose samples came out of order, as they were written.
    late: Vec<Loaded>,
    /// The largest number of a series that has any, or had some before the floor.
    last: u64,
}

impl OnDisk {
    /// Those that hold something from `floor` on, in order.
    pub(super) fn new(mut chunks: Vec<Loaded>, floor: i64) -> Self {
        let last = chunks.iter().map(|chunk| chunk.series).max().unwrap_or(0);
        let late = chunks.iter().filter(|chunk| chunk.out_of_order).copied().collect();
        chunks.retain(|chunk| !chunk.out_of_order && chunk.range.max >= floor);
        chunks.sort_by_key(|chunk| chunk.series);
        Self { chunks, late, last }
    }

    /// The numbers of the series that have chunks with something from `floor` on, ascending, again and again.
    pub(super) fn series(&self, floor: i64) -> impl Iterator<Item = u64> {
        self.chunks.iter().filter(move |chunk| chunk.range.max >= floor).map(|chunk| chunk.series)
    }

    pub(super) fn of(&self, series: u64) -> &[Loaded] {
        let first = self.chunks.partition_point(|chunk| chunk.series < series);
        let rest = self.chunks.get(first..).unwrap_or_default();
        let count = rest.iter().take_while(|chunk| chunk.series == series).count();
        rest.get(..count).unwrap_or_default()
    }
}

impl Head {
    /// Reads the logs of the data directory `dir` into this head, which has what `snapshot` stands for and is nobody
    /// else's yet; `on_disk` are the chunks that are there already.
    pub(super) fn replay(
        &self,
        env: &Env,
        dir: &Path,
        on_disk: &OnDisk,
        snapshot: Option<&LoadedSnapshot>,
    ) -> Result<Replayed> {
        let wal = dir.join(WAL_DIR);
        let reader = match snapshot.map(|snapshot| snapshot.position) {
            Some(from) => LogReader::open_from(&env.fs, &wal, from.segment, from.offset)?,
            None => LogReader::open(&env.fs, &wal)?,
        };
        let mut rules = self.options.replay_rules();
        let mut asked = rules.histograms != HistogramStarts::WhenKnown;
        let mut replayed = Replayed { last_segment: reader.last_segment(), ..Replayed::default() };
        let mut references = References::default();
        if let Some(snapshot) = snapshot {
            replayed.snapshot = Some(snapshot.position.segment);
            replayed.chunks_mapped = snapshot.chunks_mapped;
            for (reference, series, until) in snapshot.series.iter().chain(&snapshot.second) {
                references.insert(*reference, *series, *until);
            }
            references.last = references.last.max(snapshot.last_reference);
            references.deleted.clone_from(&snapshot.deleted);
        }
        let tasks = env.executor.parallelism();
        let mut scattered: Vec<Scattered> = (0..tasks * SHARES).map(|_| Scattered::default()).collect();
        // Numbers that chunks have must not be given to other series, whatever became of the log.
        references.last = references.last.max(on_disk.last);
        let mut ahead = Ahead { reader, limit: BATCH * tasks, next: None };
        loop {
            let batch = ahead.take()?;
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
                self.replay_run(
                    env,
                    before,
                    &rules,
                    &mut scattered,
                    &mut references,
                    &mut replayed,
                    on_disk,
                    &mut ahead,
                );
                let Some((deletion, after)) = after.split_first_mut() else { break };
                self.replay_deletion(deletion, &mut references, &mut replayed);
                rest = after;
            }
            for record in records {
                replayed.unknown_series += record.unknown;
                if let Some(reason) = record.bad {
                    ahead.reader.note_bad_record(record.at, reason);
                }
            }
            if self.waiting_bytes() > self.options.replay_memory
                && let Err(error) = self.map_full_chunks()
            {
                // They stay in memory: what was written before the restart is still to be had.
                tracing::warn!(%error, "moving full chunks to the disk");
            }
        }
        scattered.into_iter().for_each(|scattered| self.slots.end_run(scattered.slots));
        self.last_reference.store(references.last, Release);
        // Records under a second number may stand in any segment up to here.
        let last = replayed.last_segment.unwrap_or(0);
        let newest = |series: SeriesRef| self.known(series).map_or(i64::MIN, |slot| slot.newest());
        let second = references.second.iter().map(|(reference, series)| (*reference, newest(*series), Some(*series)));
        let evicted = references.evicted.iter().map(|(reference, newest)| (*reference, *newest, None));
        let gone = second.chain(evicted);
        let mut numbers = self.gone.lock();
        gone.for_each(|(number, newest, series)| numbers.insert(number, Gone { segment: last, newest, series }));
        drop(numbers);
        replayed.damage = ahead.reader.finish();
        if !asked {
            // The log of what came out of order may be the first that has histograms.
            rules.histograms = histogram_starts(env, dir).unwrap_or(rules.histograms);
        }
        let series = |reference| references.get(reference).map(|known| known.series);
        self.replay_late(env, &dir.join(WBL_DIR), on_disk.late.clone(), &series, rules, &mut replayed)?;
        self.deleted_elsewhere.store(!references.deleted.is_empty(), Release);
        for (series, range) in &references.deleted {
            self.replay_late_deletion(*series, *range)?;
        }
        replayed.series = self.series_count();
        Ok(replayed)
    }

    fn unpack(&self, env: &Env, batch: Vec<StoredRecord>) -> Vec<Record> {
        let blank = |stored: &StoredRecord| Record {
            at: stored.at,
            bytes: Bytes::new(),
            kind: None,
            series: Vec::new(),
            chunks_mapped: 0,
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
                            if stored.compression == Compression::None {
                                record.bytes = stored.data.clone();
                            } else {
                                let mut bytes = Vec::new();
                                match decompressor.decompress(stored.compression, &stored.data, &mut bytes) {
                                    Ok(()) => record.bytes = bytes.into(),
                                    Err(error) => {
                                        record.bad = Some(error.to_string());
                                        continue;
                                    }
                                }
                            }
                            record.kind = RecordType::of(&record.bytes);
                        }
                    })
                })
                .collect(),
        );
        records
    }

    /// Replays records among which there is no deletion. `scattered` is memory to use again, for each share of them.
    #[expect(clippy::too_many_arguments, reason = "the state of one replay, borrowed apart for its tasks")]
    fn replay_run(
        &self,
        env: &Env,
        records: &mut [Record],
        rules: &ChunkRules,
        scattered: &mut [Scattered],
        references: &mut References,
        replayed: &mut Replayed,
        on_disk: &OnDisk,
        ahead: &mut Ahead,
    ) {
        if records.is_empty() {
            return;
        }
        let share = records.len().div_ceil(scattered.len());
        if records.iter().any(|record| record.kind == Some(RecordType::Series)) {
            let create = |(records, scattered): (&mut [Record], &mut Scattered)| {
                for record in records.iter_mut().filter(|record| record.kind == Some(RecordType::Series)) {
                    self.replay_series(record, on_disk, &mut scattered.slots);
                }
            };
            work_off(env, records.chunks_mut(share).zip(scattered.iter_mut()), || {}, create);
        }
        for record in records.iter_mut() {
            replayed.chunks_mapped += std::mem::take(&mut record.chunks_mapped);
            for (reference, series, until) in std::mem::take(&mut record.series) {
                if self.slots.get(series.id()).is_some_and(|slot| slot.reference() != reference) {
                    references.second.push((reference, series));
                }
                references.insert(reference, series, until);
            }
        }

        let pages = (self.slots.end() as usize).div_ceil(PAGE);
        let bucket_pages = pages.div_ceil(BUCKETS).max(BUCKET_PAGES);
        let buckets = pages.div_ceil(bucket_pages);
        let floor = self.floor.load(Relaxed);
        let known = &*references;
        let scatter = |(records, scattered): (&mut [Record], &mut Scattered)| {
            scattered.clear(buckets);
            for record in records {
                scattered.scatter(record, known, floor, bucket_pages * PAGE);
            }
        };
        let mut shares = records.chunks_mut(share);
        let shares = scattered.iter_mut().map(|scattered| (shares.next().unwrap_or_default(), scattered));
        // The next batch is read and summed up meanwhile.
        work_off(env, shares, || ahead.read(), scatter);

        let applied = &*scattered;
        let total = Mutex::new(Tally::default());
        let apply = |bucket: usize| {
            let mut tally = Tally::default();
            let mut locked = Locked::default();
            for scattered in applied {
                for Waiting { series, t, bits } in scattered.buckets.get(bucket).into_iter().flatten() {
                    if series.0 & OTHER == 0 {
                        let value = Value::Float(f64::from_bits(*bits));
                        self.replay_sample(*series, (0, *t), &value, rules, &mut locked, &mut tally);
                    } else if let Some(other) = scattered.others.get(*bits as usize) {
                        let OtherSample { series, st, t, value } = other;
                        self.replay_sample(*series, (*st, *t), value, rules, &mut locked, &mut tally);
                    }
                }
            }
            drop(locked);
            let mut total = total.lock();
            total.samples += tally.samples;
            total.skipped += tally.skipped;
            total.chunks += tally.chunks;
            total.full_bytes += tally.full_bytes;
            total.min = total.min.min(tally.min);
            total.max = total.max.max(tally.max);
        };
        work_off(env, 0..buckets, || {}, apply);

        let total = total.into_inner();
        for record in records {
            self.replay_others(std::mem::take(&mut record.others));
        }
        replayed.samples += total.samples;
        replayed.samples_skipped += total.skipped + scattered.iter().map(|it| it.skipped).sum::<u64>();
        self.counters.samples.fetch_add(total.samples, Relaxed);
        self.counters.chunks.fetch_add(total.chunks, Relaxed);
        self.waiting_bytes.fetch_add(total.full_bytes, Relaxed);
        self.cover(total.min, total.max);
    }

    fn replay_series(&self, record: &mut Record, on_disk: &OnDisk, slots: &mut Run) {
        let Record { bytes, series, bad, chunks_mapped, .. } = record;
        let mut packed = Vec::new();
        let mut refused = None;
        let decoded = record::decode_series(bytes, |reference, labels| {
            labels.pack_into(&mut packed);
            match self.get_or_create(&packed, Some(reference), slots) {
                Ok((found, slot)) => {
                    let (attached, until) = self.attach(&slot, on_disk.of(reference));
                    *chunks_mapped += attached;
                    series.push((reference, found, until));
                }
                Err(refusal) => refused = Some(refusal.to_string()),
            }
        });
        *bad = decoded.err().map(|error| error.to_string()).or(refused);
    }

    /// Gives a series its chunks on the disk; how many, and up to where all its samples are there.
    pub(super) fn attach(&self, series: &Series<'_>, chunks: &[Loaded]) -> (u64, i64) {
        let floor = self.floor.load(Relaxed);
        // A snapshot can say of more than blocks do that it is not wanted.
        let chunks = chunks.get(chunks.partition_point(|chunk| chunk.range.max < floor)..).unwrap_or_default();
        let mut state = series.lock();
        let count = state.attach(series, chunks.iter().copied());
        let until = state.mapped_until();
        drop(state);
        let attached = chunks.get(..count).unwrap_or_default();
        if let (Some(first), Some(last)) = (attached.first(), attached.last()) {
            self.counters.chunks.fetch_add(count as u64, Relaxed);
            if first.range.min < floor {
                // It goes on behind the blocks; what it holds before that is theirs.
                self.truncated.fetch_max(floor, Release);
            }
            self.cover(first.range.min.max(floor), last.range.max);
        }
        (count as u64, until)
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
        let mut open = locked.series(&series);
        let appended = match value {
            Value::Float(v) => open.append_float(&series, ticket, rules, st, t, *v),
            Value::Histogram(histogram) => open.append_histogram::<Integers>(&series, ticket, rules, st, t, histogram),
            Value::FloatHistogram(histogram) => {
                open.append_histogram::<Floats>(&series, ticket, rules, st, t, histogram)
            }
        };
        match appended {
            Err(_) | Ok(Applied::Same) => tally.skipped += 1,
            Ok(applied) => {
                tally.samples += 1;
                if let Applied::NewChunk(full) = applied {
                    tally.chunks += 1;
                    tally.full_bytes += u64::from(full);
                }
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
        let floor = self.floor.load(Relaxed);
        for same in deletions.chunk_by(|a, b| a == b) {
            let Some(deletion) = same.first() else { continue };
            let Some(Known { series, .. }) = references.get(deletion.reference) else {
                replayed.unknown_series += 1;
                continue;
            };
            if deletion.range == TimeRange::ALL {
                if let Some(slot) = self.known(series) {
                    references.evicted.push((deletion.reference, slot.newest()));
                    evicted.push(series);
                }
            } else if self.known(series).is_some() {
                self.tombstones.add(series.id(), deletion.range, DeletedAt::REPLAY);
                // Where blocks already were, Prometheus had forgotten it: what came late after that was served again.
                if same.len() == 1 && deletion.range.max >= floor {
                    references.deleted.push((series, deletion.range));
                }
            }
        }
        self.evict(&evicted);
    }
}

fn task<'a>(task: impl FnOnce() + Send + 'a) -> Box<dyn FnOnce() + Send + 'a> {
    Box::new(task)
}

/// Has all `jobs` worked on by one task a processor: who is done with one takes the next. One of them does `first` before.
fn work_off<J>(env: &Env, jobs: impl Iterator<Item = J> + Send, first: impl FnOnce() + Send, work: impl Fn(J) + Sync) {
    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().next();
    let work = || {
        while let Some(job) = next() {
            work(job);
        }
    };
    let one = task(|| {
        first();
        work();
    });
    let others = (1..env.executor.parallelism()).map(|_| task(work));
    env.executor.join_all([one].into_iter().chain(others).collect());
}

impl Scattered {
    /// Makes as many empty lists.
    fn clear(&mut self, buckets: usize) {
        for bucket in self.buckets.iter_mut().filter(|bucket| bucket.capacity() > 0) {
            let mut bucket = std::mem::take(bucket);
            bucket.clear();
            self.spare.push(bucket);
        }
        self.buckets.resize_with(buckets, Vec::new);
        self.others.clear();
        self.skipped = 0;
    }

    /// Decodes a record and looks its series up; a sample goes to the bucket of its series' slot.
    fn scatter(&mut self, record: &mut Record, references: &References, floor: i64, bucket_slots: usize) {
        let Record { bytes, kind, others, unknown, bad, .. } = record;
        let Self { buckets, spare, others: others_of_task, skipped, histograms, float_histograms, .. } = self;
        let mut find = |reference| {
            let series = references.get(reference);
            *unknown += u64::from(series.is_none());
            series
        };
        let mut put = |known: Option<Known>, st, t, value| {
            let Some(Known { series, until }) = known else { return };
            if t < floor || t <= until {
                *skipped += 1;
            } else if let Some(bucket) = buckets.get_mut(series.id() as usize / bucket_slots) {
                if bucket.capacity() == 0 {
                    *bucket = spare.pop().unwrap_or_default();
                }
                match value {
                    Value::Float(v) if st == 0 => bucket.push(Waiting { series, t, bits: v.to_bits() }),
                    value => {
                        bucket.push(Waiting {
                            series: SeriesRef(series.0 | OTHER),
                            t,
                            bits: others_of_task.len() as u64,
                        });
                        others_of_task.push(OtherSample { series, st, t, value });
                    }
                }
            }
        };
        let decoded = match kind {
            Some(RecordType::Samples | RecordType::SamplesSt) => {
                record::each_sample(bytes, |s| put(find(s.reference), s.st, s.t, Value::Float(s.v)))
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
                let found = all.into_iter().filter_map(|e| Some((find(e.reference)?.series, e.exemplar)));
                *others = Others::Exemplars(found.collect());
                decoded
            }
            Some(RecordType::Metadata) => {
                let mut all = Vec::new();
                let decoded = record::decode_metadata(bytes, &mut all);
                let found = all.into_iter().filter_map(|m| Some((find(m.reference)?.series, m.metadata)));
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
        *bytes = Bytes::new();
    }
}
