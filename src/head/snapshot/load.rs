//! Reading a snapshot back, before the log.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::covered::Covered;
use super::decode::OpenChunk;
use super::extra::{Extra, FILE, GoneNumber};
use super::{Record, SnapshotPosition, decode, list_snapshots};
use crate::chunk::{ChunkError, Floats, Integers, samples};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Env;
use crate::head::gone::Gone;
use crate::head::isolation::Ticket;
use crate::head::mapped::MappedChunks;
use crate::head::replay::OnDisk;
use crate::head::series::Applied;
use crate::head::slab::Run;
use crate::head::tombstones::DeletedAt;
use crate::head::{Head, SeriesRef, WAL_DIR};
use crate::model::{LabelsBuilder, Sample, TimeRange, Value};
use crate::wal::record::{self, RecordType};
use crate::wal::segment::list_segments;
use crate::wal::{Decompressor, LogReader, Position, StoredRecord};

/// Bytes of stored records in a batch, for each task that works on it.
const BATCH: usize = 1 << 20;

/// What a snapshot has put into a head.
#[derive(Debug)]
pub(in crate::head) struct LoadedSnapshot {
    /// From where the log is to be read.
    pub(in crate::head) position: SnapshotPosition,
    /// The series by their numbers in the log, which ascend, and up to where their samples are on the disk.
    pub(in crate::head) series: Vec<Entry>,
    /// The same for other numbers that stand for a series.
    pub(in crate::head) second: Vec<Entry>,
    /// What Prometheus has deleted, if it wrote the snapshot.
    pub(in crate::head) deleted: Vec<(SeriesRef, TimeRange)>,
    /// Chunks on the disk that were given to their series.
    pub(in crate::head) chunks_mapped: u64,
    /// The last number given to a series.
    pub(in crate::head) last_reference: u64,
}

/// A series' number in the log, where it is, and up to where its samples are on the disk.
type Entry = (u64, SeriesRef, i64);

/// What the tasks that read a batch found.
#[derive(Debug, Default)]
struct Found {
    series: Vec<Entry>,
    chunks_mapped: u64,
    /// What is no series: to be applied once all series are there.
    others: Vec<Record>,
    failed: Option<Error>,
}

/// The newest snapshot in `dir` that tells more than the log's newest checkpoint, and what must be read behind it is
/// there.
pub(in crate::head) fn find_snapshot(env: &Env, dir: &Path) -> Result<Option<SnapshotPosition>> {
    let fs = env.fs.as_ref();
    let Some(newest) = list_snapshots(fs, dir)?.pop() else { return Ok(None) };
    let wal = dir.join(WAL_DIR);
    let checkpoint = crate::wal::list_checkpoints(fs, &wal)?.pop();
    if checkpoint.is_some_and(|checkpoint| checkpoint >= newest.segment) {
        return Ok(None);
    }
    // Without its segment the log is another one than the snapshot's.
    Ok(list_segments(fs, &wal)?.contains(&newest.segment).then_some(newest))
}

impl Head {
    /// Reads the snapshot at `position` in `dir` into this head, which is empty and nobody else's yet. After an error the
    /// head must be thrown away.
    pub(in crate::head) fn load_snapshot(
        &self,
        env: &Env,
        dir: &Path,
        position: SnapshotPosition,
        on_disk: &OnDisk,
        chunks: &MappedChunks,
    ) -> Result<LoadedSnapshot> {
        let path = position.path(dir);
        let extra = path.join(FILE);
        let extra = env.fs.stat(&extra)?.map(|_| Ok::<_, Error>(Extra::parse(&env.fs.read(&extra)?)?)).transpose()?;
        if let Some(extra) = &extra {
            self.is_emptied_before(extra.emptied);
            if let Some(number) = chunks.first_missing(&extra.files, self.floor.load(Relaxed))? {
                return Err(corrupt(format!("not all is there that file {number} of head chunks had")));
            }
        }
        // From its first segment: what is missing in front is missing, too.
        let mut reader = LogReader::open_from(&env.fs, &path, 0, 0)?;
        let tasks = env.executor.parallelism();
        let mut runs: Vec<Run> = (0..tasks).map(|_| Run::default()).collect();
        let found = Mutex::new(Found::default());
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
            let share = batch.len().div_ceil(tasks);
            let read = |records: &[StoredRecord], slots: &mut Run| {
                let mut own = Found::default();
                own.failed = self.load_records(records, on_disk, slots, &mut own).err();
                let mut found = found.lock();
                found.series.append(&mut own.series);
                found.others.append(&mut own.others);
                found.chunks_mapped += own.chunks_mapped;
                found.failed = found.failed.take().or(own.failed);
            };
            let read = &read;
            let tasks = batch.chunks(share).zip(&mut runs).map(|(records, slots)| {
                let task: Box<dyn FnOnce() + Send + '_> = Box::new(move || read(records, slots));
                task
            });
            env.executor.join_all(tasks.collect());
            if let Some(error) = found.lock().failed.take() {
                return Err(error);
            }
        }
        runs.into_iter().for_each(|run| self.slots.end_run(run));
        if let Some(damage) = reader.finish().into_iter().next() {
            return Err(Error::new(ErrorKind::Corrupt, damage.to_string()));
        }
        let Found { mut series, chunks_mapped, others, .. } = found.into_inner();
        // Behind all series, whoever wrote it, and whether something is deleted or not. The end of a file says nothing: one
        // that is cut between two records looks whole.
        if !others.iter().any(|other| matches!(other, Record::Tombstones(_))) {
            return Err(corrupt(
                "the snapshot ends before its record of deletions, which stands behind all series".to_owned(),
            ));
        }
        let (read, written) = ((series.len() + others.len()) as u64, extra.as_ref().and_then(|extra| extra.records));
        if let Some(written) = written.filter(|written| *written != read) {
            return Err(corrupt(format!("the snapshot has {read} records of {written}")));
        }
        series.sort_unstable_by_key(|(reference, ..)| *reference);
        let mut deleted = Vec::new();
        for other in others {
            self.load_other(other, &series, &mut deleted);
        }
        let last = series.last().map_or(0, |(reference, ..)| *reference);
        let mut loaded = LoadedSnapshot {
            position,
            series,
            second: Vec::new(),
            deleted: Vec::new(),
            chunks_mapped,
            last_reference: last,
        };
        match extra {
            Some(extra) => self.load_extra(extra, on_disk, &mut loaded),
            None => {
                loaded.deleted = deleted;
                self.scan_log(env, &dir.join(WAL_DIR), on_disk, &mut loaded)?;
            }
        }
        let is_second = |number: u64| loaded.second.iter().any(|(second, ..)| *second == number);
        let is_there = |n: u64| loaded.number(n).is_some() || n > loaded.last_reference || is_second(n);
        if let Some(number) = on_disk.series(self.floor.load(Relaxed)).find(|number| !is_there(*number)) {
            // Perhaps the series has another number in the snapshot: the log tells.
            return Err(corrupt(format!(
                "head chunks on the disk are of series {number}, which is not in the snapshot"
            )));
        }
        Ok(loaded)
    }

    fn load_records(
        &self,
        records: &[StoredRecord],
        on_disk: &OnDisk,
        slots: &mut Run,
        found: &mut Found,
    ) -> Result<()> {
        let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
        let (mut labels, mut packed) = (LabelsBuilder::new(), Vec::new());
        for stored in records {
            decompressor.decompress(stored.compression, &stored.data, &mut bytes)?;
            match decode(&bytes, &mut labels)? {
                Record::Series { reference, open } => {
                    labels.pack_into(&mut packed);
                    let (series, slot) = self.get_or_create(&packed, Some(reference), slots)?;
                    if slot.reference() != reference {
                        return Err(corrupt(format!("series {reference} stands in the snapshot twice")));
                    }
                    let (attached, until) = self.attach(&slot, on_disk.of(reference));
                    found.chunks_mapped += attached;
                    found.series.push((reference, series, until));
                    if let Some(open) = open {
                        self.load_open(series, &open)?;
                    }
                }
                other => found.others.push(other),
            }
        }
        Ok(())
    }

    /// Gives a series its open chunk back, without what blocks have of it.
    fn load_open(&self, series: SeriesRef, open: &OpenChunk) -> Result<()> {
        let floor = self.floor.load(Relaxed);
        let Some(slot) = self.slots.get(series.id()) else { return Ok(()) };
        let mut state = slot.lock();
        // One that has been full since then lies in `chunks_head`, with all that this one has.
        let rules = self.options.replay_rules();
        let from = floor.max(slot.newest().saturating_add(1));
        if open.range.max < from {
            return Ok(());
        }
        if open.range.min >= from {
            let read = state.resume(&slot, open.range, &open.chunk, self.options.chunk_range).map_err(damaged)?;
            self.counters.chunks.fetch_add(1, Relaxed);
            self.counters.samples.fetch_add(read as u64, Relaxed);
            self.cover(open.range.min, open.range.max);
            return Ok(());
        }
        for sample in samples(open.chunk.encoding, &open.chunk.data) {
            let Sample { t, st, value } = sample.map_err(damaged)?;
            if t < from {
                continue;
            }
            let (ticket, rules) = (&Ticket::REPLAY, &rules);
            let appended = match &value {
                Value::Float(v) => state.open().append_float(&slot, ticket, rules, st, t, *v),
                Value::Histogram(h) => state.open().append_histogram::<Integers>(&slot, ticket, rules, st, t, h),
                Value::FloatHistogram(h) => state.open().append_histogram::<Floats>(&slot, ticket, rules, st, t, h),
            };
            let applied = appended.map_err(|refusal| corrupt(format!("a sample in the snapshot: {refusal}")))?;
            self.counters.chunks.fetch_add(u64::from(matches!(applied, Applied::NewChunk(_))), Relaxed);
            self.counters.samples.fetch_add(1, Relaxed);
            self.cover(t, t);
        }
        Ok(())
    }

    fn load_other(&self, other: Record, series: &[Entry], all_deleted: &mut Vec<(SeriesRef, TimeRange)>) {
        let find = |reference| find(series, reference);
        match other {
            Record::Series { .. } => {}
            Record::Tombstones(all) => {
                for deleted in all {
                    if let Some(series) = find(deleted.reference) {
                        self.tombstones.add(series.id(), deleted.range, DeletedAt::REPLAY);
                        all_deleted.push((series, deleted.range));
                    }
                }
            }
            Record::Exemplars(all) => {
                for entry in all {
                    if let Some(series) = find(entry.reference) {
                        self.exemplars.add(series, entry.exemplar);
                    }
                }
            }
        }
    }

    fn load_extra(&self, extra: Extra, on_disk: &OnDisk, loaded: &mut LoadedSnapshot) {
        loaded.last_reference = loaded.last_reference.max(extra.last_reference);
        for (name, metadata) in &extra.metadata {
            self.metadata.set(name, metadata);
        }
        for GoneNumber { reference, segment, newest, other } in extra.gone {
            let series = loaded.number(other);
            self.gone.lock().insert(reference, Gone { segment, newest, series });
            if let Some(series) = series {
                self.load_second(reference, series, on_disk, loaded);
            }
        }
    }

    /// A series' second number: chunks on the disk and out-of-order samples may have it.
    fn load_second(&self, reference: u64, series: SeriesRef, on_disk: &OnDisk, loaded: &mut LoadedSnapshot) {
        let Some(slot) = self.known(series) else { return };
        let (attached, until) = self.attach(&slot, on_disk.of(reference));
        loaded.chunks_mapped += attached;
        loaded.second.push((reference, series, until));
    }

    /// Reads what the snapshot stands for only for numbers and metadata, and whether all samples are there: the original's
    /// snapshots do not say what `chunks_head` had.
    fn scan_log(&self, env: &Env, wal: &Path, on_disk: &OnDisk, loaded: &mut LoadedSnapshot) -> Result<()> {
        let mut reader = LogReader::open(&env.fs, wal)?;
        let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
        let SnapshotPosition { segment, offset } = loaded.position;
        let end = Position { in_log: true, segment, offset };
        let (mut metadata, mut packed) = (Vec::new(), Vec::new());
        let (mut covered, floor) = (Covered::default(), self.floor.load(Relaxed));
        while let Some(stored) = reader.next_stored()? {
            if stored.at >= end {
                break;
            }
            // What cannot be read tells nothing, and is reported whenever the log is read for itself.
            if decompressor.decompress(stored.compression, &stored.data, &mut bytes).is_err() {
                continue;
            }
            match RecordType::of(&bytes) {
                Some(RecordType::Series) => {
                    let _ = record::decode_series(&bytes, |reference, labels| {
                        labels.pack_into(&mut packed);
                        self.note_number(reference, &packed, on_disk, loaded);
                    });
                }
                Some(RecordType::Metadata) => {
                    metadata.clear();
                    let _ = record::decode_metadata(&bytes, &mut metadata);
                    for entry in &metadata {
                        if let Some(slot) = loaded.number(entry.reference).and_then(|series| self.known(series)) {
                            self.metadata.set(slot.lock().labels().metric_name(), &entry.metadata);
                        }
                    }
                }
                _ => {
                    let second = |number| loaded.second.iter().find(|(second, ..)| *second == number);
                    let find = |number| loaded.number(number).or_else(|| second(number).map(|(_, series, _)| *series));
                    let _ = covered.look(self, &bytes, floor, find);
                }
            }
            if let Some((number, t)) = covered.missing {
                return Err(corrupt(format!("the log has a sample of series {number} at {t}, and no chunk has it")));
            }
        }
        Ok(())
    }

    /// A number that the log gives to a series. If no series has it, the record must stay as long as its samples.
    fn note_number(&self, reference: u64, packed: &[u8], on_disk: &OnDisk, loaded: &mut LoadedSnapshot) {
        loaded.last_reference = loaded.last_reference.max(reference);
        if loaded.number(reference).is_some() {
            return;
        }
        let series = self.existing(None, packed).map(|(series, _)| series);
        let newest = self.max_time().unwrap_or(i64::MAX);
        self.gone.lock().insert(reference, Gone { segment: loaded.position.segment, newest, series });
        if let Some(series) = series {
            self.load_second(reference, series, on_disk, loaded);
        }
    }
}

impl LoadedSnapshot {
    /// The series with this number.
    fn number(&self, number: u64) -> Option<SeriesRef> {
        find(&self.series, number)
    }
}

fn find(series: &[Entry], number: u64) -> Option<SeriesRef> {
    let index = series.binary_search_by_key(&number, |(number, ..)| *number).ok()?;
    series.get(index).map(|(_, series, _)| *series)
}

fn damaged(error: ChunkError) -> Error {
    corrupt(format!("an open chunk in the snapshot: {error}"))
}

fn corrupt(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}
