//! Checkpoints: what the oldest segments still mean, written again without the rest.
//!
//! ```text
//! checkpoint.%08d/    a log of its own; its number is the last segment that it stands for
//! ```
//!
//! Written beside (`.tmp`), synced, renamed, the directory synced; the segments go afterwards. So a crash leaves the old
//! log, or the new one with segments that nobody reads any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::FixedMap;
use crate::fs::{Env, Fs, with_suffix};
use crate::model::{Exemplar, Metadata};

use super::record::{
    self, RecordError, RecordType, RefExemplar, RefFloatHistogram, RefHistogram, RefMetadata, RefSample, RefTombstone,
};
use super::segment::number;
use super::{
    Compression, Damage, DamageKind, Decompressor, Durability, Log, LogError, LogOptions, LogReader, RecordBuffer,
};

const PREFIX: &str = "checkpoint.";
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";
/// Records are written this many bytes at a time.
const BATCH: usize = 1 << 20;

/// What a checkpoint kept and left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Series, samples of all kinds, tombstones, exemplars and metadata that were read.
    pub read: u64,
    /// Those of them that are in the checkpoint.
    pub kept: u64,
}

/// What a checkpoint is to keep. The answers for a reference must stay the same while it is written.
pub trait Keep {
    /// Whether the series with this reference stays, and what was deleted of it.
    fn keeps(&self, reference: u64) -> bool;

    /// The reference under which an exemplar of the series `reference` stays, whatever its time; `None` if it goes.
    fn exemplar(&self, reference: u64, exemplar: &Exemplar) -> Option<u64>;

    /// Metadata, by reference, that is to be read last: what is known now, where records about series that go, or in
    /// another order, would say something else.
    fn metadata(&self) -> Vec<(u64, Metadata)>;
}

/// Keeps series, and all of their exemplars.
impl<F: Fn(u64) -> bool> Keep for F {
    fn keeps(&self, reference: u64) -> bool {
        self(reference)
    }

    fn exemplar(&self, reference: u64, _: &Exemplar) -> Option<u64> {
        self(reference).then_some(reference)
    }

    fn metadata(&self) -> Vec<(u64, Metadata)> {
        Vec::new()
    }
}

/// The directory of checkpoint `index` of the log in `dir`.
#[must_use]
pub fn checkpoint_dir(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{index:08}"))
}

/// The numbers of the finished checkpoints in `dir`, ascending. A missing directory has none.
///
/// # Errors
/// The operating system's.
pub fn list_checkpoints(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<u64>> {
    Ok(find_checkpoints(fs, dir)?.into_iter().map(|(index, _)| index).collect())
}

/// The finished checkpoints in `dir`, by number, and where they lie: old versions of Prometheus wrote six digits.
pub(super) fn find_checkpoints(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let dirs = entries.iter().filter(|entry| entry.is_dir);
    let index = |name: &str| number(name.strip_prefix(PREFIX)?);
    let mut found: Vec<(u64, PathBuf)> =
        dirs.filter_map(|entry| Some((index(&entry.name)?, dir.join(&entry.name)))).collect();
    // Of two with the same number the one that is written now comes last.
    found.sort_by_key(|(index, path)| (*index, *path == checkpoint_dir(dir, *index)));
    Ok(found)
}

/// Writes the checkpoint that stands for the newest one and the segments up to `to`, of the log in `dir`: series,
/// tombstones and exemplars that `keep` wants, samples from `mint` on, tombstones that reach `mint`, and of metadata the
/// latest. Records of unknown types are left out, as in Prometheus. Segments and older checkpoints stay: [`Log::truncate`]
/// and [`remove_checkpoints`] come after.
///
/// # Errors
/// [`LogError::Io`]; [`LogError::Damaged`] if bytes of what it would stand for have rotted since the log was opened, which
/// the next opening mends. There is no new checkpoint then. What no opening can mend, segments that are missing and
/// records that say nothing, is no error: there is nothing in them to stand for.
pub fn write_checkpoint(
    env: &Env,
    dir: &Path,
    to: u64,
    compression: Compression,
    mint: i64,
    keep: impl Keep,
) -> Result<CheckpointStats, LogError> {
    let fs = Arc::clone(&env.fs);
    let mut reader = LogReader::open_range(&fs, dir, to)?;
    if reader.checkpoint().is_some_and(|newest| newest >= to) {
        // It may be there by a rename whose sync failed, and the caller is about to remove what it stands for.
        fs.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        return Ok(CheckpointStats::default());
    }
    let target = checkpoint_dir(dir, to);
    let temporary = with_suffix(&target, TEMPORARY_SUFFIX);
    if fs.stat(&temporary).map_err(LogError::io("look at", &temporary))?.is_some() {
        fs.remove_dir_all(&temporary).map_err(LogError::io("remove", &temporary))?;
    }
    let options = LogOptions { compression, durability: Durability::Never, ..LogOptions::default() };
    let mut writer = Writer {
        log: Log::open(env, &temporary, options)?,
        filter: Filter {
            mint,
            keep,
            metadata: FixedMap::default(),
            metadata_read: 0,
            stats: CheckpointStats::default(),
        },
        records: RecordBuffer::default(),
    };
    let can_be_mended = |damage: &Damage| matches!(damage.kind, DamageKind::Hole | DamageKind::TornEnd { .. });
    let written = writer.copy(&mut reader).and_then(|()| match reader.finish().into_iter().find(can_be_mended) {
        Some(damage) => Err(LogError::Damaged(Box::new(damage))),
        None => writer.finish(),
    });
    let stats = match written {
        Ok(stats) => stats,
        Err(error) => {
            // Not the error that matters, and the next try removes it too.
            let _ = fs.remove_dir_all(&temporary);
            return Err(error);
        }
    };
    fs.sync_dir(&temporary).map_err(LogError::io("sync", &temporary))?;
    fs.rename(&temporary, &target).map_err(LogError::io("rename", &temporary))?;
    fs.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    Ok(stats)
}

/// Removes the checkpoints of the log in `dir` before number `before`.
///
/// # Errors
/// [`LogError::Io`].
pub fn remove_checkpoints(fs: &dyn Fs, dir: &Path, before: u64) -> Result<(), LogError> {
    let checkpoints = find_checkpoints(fs, dir).map_err(LogError::io("list", dir))?;
    for (_, path) in checkpoints.into_iter().filter(|(index, _)| *index < before) {
        fs.remove_dir_all(&path).map_err(LogError::io("remove", &path))?;
    }
    Ok(())
}

/// The checkpoint that is being written.
struct Writer<K> {
    log: Log,
    filter: Filter<K>,
    /// Those that are not written yet.
    records: RecordBuffer,
}

impl<K: Keep> Writer<K> {
    fn copy(&mut self, reader: &mut LogReader) -> Result<(), LogError> {
        let mut decompressor = Decompressor::default();
        let mut record = Vec::new();
        while let Some(at) = reader.next(&mut decompressor, &mut record)? {
            if let Err(error) = self.filter.put(&record, &mut self.records) {
                reader.note_bad_record(at, error.to_string());
            }
            if self.records.len() > BATCH {
                self.records.write_to(&self.log)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<CheckpointStats, LogError> {
        let mut metadata: Vec<_> = self.filter.metadata.drain().collect();
        // Readers that know metadata by a metric's name go by the last.
        metadata.sort_unstable_by_key(|(_, (order, _))| *order);
        self.filter.stats.kept += metadata.len() as u64;
        let last = self.filter.keep.metadata();
        if !metadata.is_empty() || !last.is_empty() {
            let entries = metadata.iter().map(|(reference, (_, metadata))| (*reference, metadata));
            let last = last.iter().map(|(reference, metadata)| (*reference, metadata));
            record::encode_metadata(entries.chain(last), self.records.bytes());
            self.records.end();
        }
        self.records.write_to(&self.log)?;
        self.log.close()?;
        Ok(self.filter.stats)
    }
}

/// What stays of a record.
struct Filter<K> {
    mint: i64,
    keep: K,
    /// The latest of each series, and when it was read; it goes to the end.
    metadata: FixedMap<u64, (u64, Metadata)>,
    metadata_read: u64,
    stats: CheckpointStats,
}

impl<K: Keep> Filter<K> {
    /// Appends what stays of `bytes` to `out`. Of a record that is damaged that is what stands before the damage: replay
    /// takes so much of it too.
    fn put(&mut self, bytes: &[u8], out: &mut RecordBuffer) -> Result<(), RecordError> {
        // Replay knows no other type either.
        let Some(kind) = RecordType::of(bytes) else { return Ok(()) };
        let mint = self.mint;
        let decoded = match kind {
            RecordType::Series => self.put_series(bytes, out.bytes()),
            RecordType::Samples | RecordType::SamplesSt => {
                let mut samples: Vec<RefSample> = Vec::new();
                let mut read = 0;
                // Blocks have most of them.
                let decoded = record::each_sample(bytes, |sample| {
                    read += 1;
                    samples.extend(Some(sample).filter(|sample| sample.t >= mint));
                });
                self.stats.read += read;
                self.stats.kept += samples.len() as u64;
                match kind {
                    _ if samples.is_empty() => {}
                    RecordType::SamplesSt => record::encode_samples_st(samples, out.bytes()),
                    _ => record::encode_samples(samples, out.bytes()),
                }
                decoded
            }
            RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt => {
                let mut all: Vec<RefHistogram> = Vec::new();
                let decoded = record::decode_histograms(bytes, &mut all);
                self.filter(&mut all, |_, sample| sample.t >= mint);
                if kind == RecordType::HistogramsSt && !all.is_empty() {
                    record::encode_histograms_st(
                        all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram)),
                        out.bytes(),
                    );
                } else {
                    record::encode_histograms(all.iter().map(|h| (h.reference, h.t, &*h.histogram)), out.bytes());
                    out.end();
                    record::encode_custom_histograms(
                        all.iter().map(|h| (h.reference, h.t, &*h.histogram)),
                        out.bytes(),
                    );
                }
                decoded
            }
            RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt => {
                let mut all: Vec<RefFloatHistogram> = Vec::new();
                let decoded = record::decode_float_histograms(bytes, &mut all);
                self.filter(&mut all, |_, sample| sample.t >= mint);
                if kind == RecordType::FloatHistogramsSt && !all.is_empty() {
                    let entries = all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram));
                    record::encode_float_histograms_st(entries, out.bytes());
                } else {
                    let entries = || all.iter().map(|h| (h.reference, h.t, &*h.histogram));
                    record::encode_float_histograms(entries(), out.bytes());
                    out.end();
                    record::encode_custom_float_histograms(entries(), out.bytes());
                }
                decoded
            }
            RecordType::Tombstones => {
                let mut tombstones: Vec<RefTombstone> = Vec::new();
                let decoded = record::decode_tombstones(bytes, &mut tombstones);
                self.filter(&mut tombstones, |keep, t| t.range.max >= mint && keep.keeps(t.reference));
                if !tombstones.is_empty() {
                    record::encode_tombstones(tombstones, out.bytes());
                }
                decoded
            }
            RecordType::Exemplars => {
                let mut all: Vec<RefExemplar> = Vec::new();
                let decoded = record::decode_exemplars(bytes, &mut all);
                self.stats.read += all.len() as u64;
                all.retain_mut(|RefExemplar { reference, exemplar }| {
                    let kept = self.keep.exemplar(*reference, exemplar);
                    *reference = kept.unwrap_or(*reference);
                    kept.is_some()
                });
                self.stats.kept += all.len() as u64;
                if !all.is_empty() {
                    record::encode_exemplars(all.iter().map(|e| (e.reference, &e.exemplar)), out.bytes());
                }
                decoded
            }
            RecordType::Metadata => {
                let mut all: Vec<RefMetadata> = Vec::new();
                let decoded = record::decode_metadata(bytes, &mut all);
                self.stats.read += all.len() as u64;
                for RefMetadata { reference, metadata } in all {
                    if self.keep.keeps(reference) {
                        self.metadata_read += 1;
                        self.metadata.insert(reference, (self.metadata_read, metadata));
                    }
                }
                decoded
            }
            // They belong to the log of out-of-order samples, which has no checkpoints.
            RecordType::MmapMarkers => Ok(()),
        };
        out.end();
        decoded
    }

    fn put_series(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let start = out.len();
        record::begin_series(out);
        let begun = out.len();
        let Self { keep, stats, .. } = self;
        let keep = |reference| {
            let kept = keep.keeps(reference);
            stats.read += 1;
            stats.kept += u64::from(kept);
            kept
        };
        let decoded = record::copy_series(bytes, keep, out);
        if out.len() == begun {
            out.truncate(start);
        }
        decoded
    }

    fn filter<T>(&mut self, entries: &mut Vec<T>, wanted: impl Fn(&K, &T) -> bool) {
        self.stats.read += entries.len() as u64;
        entries.retain(|entry| wanted(&self.keep, entry));
        self.stats.kept += entries.len() as u64;
    }
}
