//! Reading the log of out-of-order samples back, behind the log itself: it has no series records of its own.
//!
//! A chunk in `chunks_head` counts if its marker stands in the log: the log is shortened when blocks have what is in it,
//! and the file of a chunk may lie there longer. A marker whose chunk is not there says nothing, since the samples stand in
//! the log too; see `lost`.

use std::path::Path;
use std::sync::atomic::Ordering::AcqRel;

use super::super::mapped::{ChunkPlace, Loaded, MappedChunks};
use super::super::replay::Replayed;
use super::super::rules::ChunkRules;
use super::super::{Head, SeriesRef};
use super::delete::without;
use super::series::encode;
use super::{Applied, Stored};
use crate::codec::FixedMap;
use crate::error::Result;
use crate::fs::Env;
use crate::model::{Sample, TimeRange, Value};
use crate::wal::record::{self, RecordType, RefMarker};
use crate::wal::{Decompressor, LogReader};

impl Head {
    /// Reads the log in `dir` into this head, which is nobody else's yet. `find` gives the series that a number in the log
    /// stands for, `on_disk` are the chunks that there may be markers of, `rules` say whether histograms keep their start timestamps.
    pub(in crate::head) fn replay_late(
        &self,
        env: &Env,
        dir: &Path,
        on_disk: Vec<Loaded>,
        find: &dyn Fn(u64) -> Option<SeriesRef>,
        rules: ChunkRules,
        replayed: &mut Replayed,
    ) -> Result<()> {
        let mut reader = LogReader::open(&env.fs, dir)?;
        replayed.last_out_of_order_segment = reader.last_segment();
        let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
        let (mut floats, mut histograms, mut float_histograms) = (Vec::new(), Vec::new(), Vec::new());
        let mut samples: Vec<(u64, Sample)> = Vec::new();
        let on_disk: FixedMap<u64, Loaded> = on_disk.into_iter().map(|chunk| (chunk.place.0, chunk)).collect();
        // What lay in files before the first was in blocks when they were deleted, and is to be forgotten. That includes
        // the place 0, with which the original says that a first chunk begins.
        let first_file = self.mapped.as_ref().and_then(MappedChunks::first_file).unwrap_or(0).max(1);
        let is_lost = |marker: &RefMarker| {
            let is_there = on_disk.get(&marker.chunk).is_some_and(|chunk| chunk.series == marker.reference);
            !is_there && ChunkPlace(marker.chunk).file() >= first_file
        };
        let mut last = 0;
        while let Some(at) = reader.next(&mut decompressor, &mut bytes)? {
            replayed.records += 1;
            let decoded = match RecordType::of(&bytes) {
                Some(RecordType::Samples | RecordType::SamplesSt) => {
                    let decoded = record::decode_samples(&bytes, &mut floats);
                    let sample = |s: record::RefSample| Sample { t: s.t, st: s.st, value: Value::Float(s.v) };
                    samples.extend(floats.drain(..).map(|s| (s.reference, sample(s))));
                    decoded
                }
                Some(RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt) => {
                    let decoded = record::decode_histograms(&bytes, &mut histograms);
                    samples.extend(
                        histograms
                            .drain(..)
                            .map(|s| (s.reference, Sample { t: s.t, st: s.st, value: Value::Histogram(s.histogram) })),
                    );
                    decoded
                }
                Some(
                    RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt,
                ) => {
                    let decoded = record::decode_float_histograms(&bytes, &mut float_histograms);
                    samples.extend(float_histograms.drain(..).map(|s| {
                        (s.reference, Sample { t: s.t, st: s.st, value: Value::FloatHistogram(s.histogram) })
                    }));
                    decoded
                }
                Some(RecordType::Tombstones) => {
                    let mut deletions = Vec::new();
                    let decoded = record::decode_tombstones(&bytes, &mut deletions);
                    for deletion in deletions {
                        match find(deletion.reference) {
                            Some(series) => self.replay_late_deletion(series, deletion.range)?,
                            None => replayed.unknown_series += 1,
                        }
                    }
                    decoded
                }
                Some(RecordType::MmapMarkers) => {
                    let mut markers = Vec::new();
                    let decoded = record::decode_markers(&bytes, &mut markers);
                    // Those of one buffer stand side by side.
                    for markers in markers.chunk_by(|a, b| a.reference == b.reference) {
                        if markers.iter().any(is_lost) {
                            replayed.lost_markers.note(at.segment, markers);
                        } else {
                            self.replay_markers(markers, &on_disk, find);
                        }
                    }
                    decoded
                }
                _ => Ok(()),
            };
            if let Err(error) = decoded {
                reader.note_bad_record(at, error.to_string());
            }
            for (reference, mut sample) in samples.drain(..) {
                last = last.max(reference);
                if !rules.keeps_start(&sample) {
                    sample.st = 0;
                }
                self.replay_late_sample(find(reference), sample, replayed);
            }
        }
        // A number whose series record was lost is not given to another series: it would inherit these samples.
        self.last_reference.fetch_max(last, AcqRel);
        replayed.damage.append(&mut reader.finish());
        Ok(())
    }

    /// Takes over the chunks that a buffer became, if all of them are there.
    fn replay_markers(
        &self,
        markers: &[RefMarker],
        on_disk: &FixedMap<u64, Loaded>,
        find: &dyn Fn(u64) -> Option<SeriesRef>,
    ) {
        let (Some(files), Some(first)) = (&self.mapped, markers.first()) else { return };
        let Some(series) = find(first.reference).filter(|series| self.known(*series).is_some()) else { return };
        let (mut chunks, mut samples) = (Vec::with_capacity(markers.len()), 0);
        for marker in markers {
            let Some(chunk) = on_disk.get(&marker.chunk).filter(|chunk| chunk.series == marker.reference) else {
                return;
            };
            let Some(file) = files.file(chunk.place) else { return };
            samples += usize::from(chunk.samples);
            chunks.push((chunk.range, Stored::Mapped(file, chunk.place)));
        }
        self.out_of_order.change(series.id(), |it| it.map(chunks, samples));
    }

    fn replay_late_sample(&self, series: Option<SeriesRef>, sample: Sample, replayed: &mut Replayed) {
        let Some(slot) = series.and_then(|series| self.known(series)) else {
            replayed.unknown_series += 1;
            return;
        };
        let Some(id) = series.map(SeriesRef::id) else { return };
        // A histogram that contradicts itself could never be encoded.
        let is_sound = matches!(sample.value, Value::Float(_))
            || encode(std::iter::once(&sample), self.out_of_order.floats).is_ok();
        if is_sound && let Ok(Applied::Appended) = self.out_of_order.insert(id, &sample, slot.newest(), 0, u64::MAX) {
            replayed.out_of_order += 1;
        } else {
            replayed.samples_skipped += 1;
        }
    }

    /// Deletes what came out of order so far.
    pub(in crate::head) fn replay_late_deletion(&self, series: SeriesRef, range: TimeRange) -> Result<()> {
        let chunks = self.out_of_order.look(series.id(), |it| {
            let chunks = it.chunks.iter().enumerate().filter(|(_, chunk)| chunk.range.overlaps(&range));
            chunks.map(|(index, chunk)| (index, chunk.data.clone())).collect::<Vec<_>>()
        });
        if let Some(chunks) = chunks {
            let rewritten = without(chunks, range)?;
            self.out_of_order.change(series.id(), |it| it.delete(range, rewritten));
        }
        Ok(())
    }
}
