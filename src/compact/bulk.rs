//! Backfill: samples of any time become blocks, beside whatever else goes on.
//!
//! ```text
//! append      into chunks, by series and by span of time, in memory
//! run         when that is too much: what is there becomes a block for each span, in a directory of its own
//! finish      a span with one run has its block; the runs of the others are merged, the earlier ones first
//! hand over   the blocks are renamed to where they are wanted
//! ```
//!
//! Series come in any order, and their samples too, but in order of time they cost less. Where a series has two samples
//! at a millisecond, the first one stays. What is in memory is bounded by [`BulkOptions::memory`], whatever is written.
//! The directory's name is one that opening a database removes, so a crash leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::merge::populate_with;
use super::overlap::resolve;
use crate::block::{Block, BlockMeta, BlockRead, BlockWriter, CREATING, TimedChunk, Ulid, new_ulid};
use crate::budget::Budget;
use crate::chunk::{ChunkWriter, Encoding, Rules, WrittenChunk};
use crate::codec::FixedMap;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Env, create_dir_durably, with_suffix};
use crate::head::FloatEncoding;
use crate::model::{HistogramError, Labels, Native, Sample, TimeRange, Value};

/// Bytes that a series is counted with beside its labels and chunks.
const SERIES_BYTES: usize = 160;
/// Bytes that a series' part of a span is counted with beside its chunks.
const PART_BYTES: usize = 320;

/// How a backfill is cut and how much memory it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkOptions {
    /// How much time a block spans at most, in milliseconds; blocks begin at multiples of it. 2 h. Larger ones are for
    /// years of samples: a block for each two hours of them would be very many.
    pub block_duration: i64,
    /// Bytes of series and chunks kept in memory, about: 64 MiB.
    pub memory: usize,
    /// Whether start timestamps are kept, in chunk encodings that Thanos and older versions of Prometheus cannot read. No.
    pub start_timestamps: bool,
    /// How floats are encoded; those with a start timestamp that is kept are [`FloatEncoding::Xor2`] in any case. `None`: XOR,
    /// or as the database encodes them into which [`Db::bulk`](crate::db::Db::bulk) puts them.
    pub float_encoding: Option<FloatEncoding>,
}

impl Default for BulkOptions {
    fn default() -> Self {
        Self { block_duration: 2 * 60 * 60 * 1000, memory: 64 << 20, start_timestamps: false, float_encoding: None }
    }
}

impl BulkOptions {
    /// The encoding of floats without a start timestamp.
    fn floats(&self) -> Encoding {
        self.float_encoding.unwrap_or_default().into()
    }
}

/// Makes blocks of samples. Dropping it before [`finish`](BulkWriter::finish) removes what was written.
#[derive(Debug)]
pub struct BulkWriter {
    env: Env,
    options: BulkOptions,
    scratch: Scratch,
    places: FixedMap<Labels, usize>,
    series: Vec<Buffered>,
    bytes: usize,
    samples: u64,
    /// The runs of each span, by where it begins.
    runs: BTreeMap<i64, Vec<BlockMeta>>,
}

/// A series in memory.
#[derive(Debug)]
struct Buffered {
    labels: Labels,
    /// By the span that they belong to; the last one is the most likely.
    parts: Vec<(i64, Part)>,
}

/// What a series has in a span.
#[derive(Debug)]
struct Part {
    writer: ChunkWriter,
    /// In the order that they were written in; they may overlap.
    chunks: Vec<TimedChunk>,
    last: Option<i64>,
}

impl Part {
    fn take(&mut self, chunk: Option<WrittenChunk>) -> usize {
        let Some(WrittenChunk { min_time, max_time, chunk, .. }) = chunk else { return 0 };
        let bytes = chunk.data.len() + size_of::<TimedChunk>();
        self.chunks.push(TimedChunk { min_time, max_time, chunk });
        bytes
    }
}

impl BulkWriter {
    /// Begins a backfill whose blocks are to lie in the directory `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// `InvalidInput` for options, `Io`, `Full`.
    pub fn create(env: &Env, dir: &Path, options: BulkOptions) -> Result<Self> {
        if options.block_duration <= 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "a block must span at least a millisecond"));
        }
        let path = with_suffix(&dir.join(new_ulid(env).to_string()), CREATING);
        // The blocks' names are made durable in there at the end; what they are written in need not be.
        create_dir_durably(env.fs.as_ref(), dir).map_err(|error| Error::from(error).context(dir.display()))?;
        env.fs.create_dir_all(&path).map_err(|error| Error::from(error).context(path.display()))?;
        Ok(Self {
            env: env.clone(),
            options,
            scratch: Scratch { env: env.clone(), dir: dir.to_owned(), path },
            places: FixedMap::default(),
            series: Vec::new(),
            bytes: 0,
            samples: 0,
            runs: BTreeMap::new(),
        })
    }

    /// How many samples it was given.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Takes a sample of the series `labels`.
    ///
    /// # Errors
    /// `InvalidInput` for a series without labels or a histogram that is none; `Io`, `Full`. A sample that is refused
    /// changes nothing, and others can follow.
    pub fn append(&mut self, labels: &Labels, sample: &Sample) -> Result<()> {
        if labels.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a series without labels"));
        }
        let prepared = prepare(&sample.value)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("{labels} at {}: {error}", sample.t)))?;
        let with_value;
        let sample = match prepared {
            Some(value) => {
                with_value = Sample { value, ..*sample };
                &with_value
            }
            None => sample,
        };
        let place = match self.places.get(labels) {
            Some(place) => *place,
            None => {
                self.series.push(Buffered { labels: labels.clone(), parts: Vec::new() });
                self.places.insert(labels.clone(), self.series.len() - 1);
                // Twice: once here, once as a key.
                self.bytes += SERIES_BYTES + 2 * labels.as_packed().len();
                self.series.len() - 1
            }
        };
        let Some(series) = self.series.get_mut(place) else { return Ok(()) };
        let start = sample.t.saturating_sub(sample.t.rem_euclid(self.options.block_duration));
        let part = match series.parts.iter().rposition(|(other, _)| *other == start) {
            Some(part) => part,
            None => {
                let writer = match self.options.start_timestamps {
                    true => ChunkWriter::new(Rules::Merge),
                    false => ChunkWriter::without_start_timestamps(Rules::Merge),
                };
                let writer = writer.with_floats(self.options.floats());
                series.parts.push((start, Part { writer, chunks: Vec::new(), last: None }));
                self.bytes += PART_BYTES;
                series.parts.len() - 1
            }
        };
        let Some((_, part)) = series.parts.get_mut(part) else { return Ok(()) };
        self.samples += 1;
        if part.last == Some(sample.t) {
            return Ok(());
        }
        let before = part.writer.open_bytes();
        let mut finished = 0;
        if part.last.is_some_and(|last| sample.t < last) {
            // What comes next begins another chunk, which overlaps those before.
            let chunk = part.writer.finish();
            finished += part.take(chunk);
        }
        let chunk = part.writer.push(sample).map_err(|error| Error::from(error).context(format_args!("{labels}")))?;
        finished += part.take(chunk);
        part.last = Some(sample.t);
        self.bytes = (self.bytes + finished + part.writer.open_bytes()).saturating_sub(before);
        if self.bytes > self.options.memory {
            self.write_runs()?;
        }
        Ok(())
    }

    /// Writes what is in memory: a block for each span.
    fn write_runs(&mut self) -> Result<()> {
        let mut series = std::mem::take(&mut self.series);
        self.places.clear();
        self.bytes = 0;
        series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        let mut spans: BTreeMap<i64, Vec<(Labels, Vec<TimedChunk>)>> = BTreeMap::new();
        for Buffered { labels, parts } in series {
            for (start, mut part) in parts {
                let chunk = part.writer.finish();
                part.take(chunk);
                let mut chunks = Vec::with_capacity(part.chunks.len());
                resolve(&labels, &mut part.chunks, self.options.floats(), &mut chunks)?;
                spans.entry(start).or_default().push((labels.clone(), chunks));
            }
        }
        for (start, series) in spans {
            let meta = self.write_run(&series)?;
            self.runs.entry(start).or_default().extend(meta);
        }
        Ok(())
    }

    fn write_run(&self, series: &[(Labels, Vec<TimedChunk>)]) -> Result<Option<BlockMeta>> {
        let chunks = || series.iter().flat_map(|(_, chunks)| chunks);
        let min = chunks().map(|chunk| chunk.min_time).min().unwrap_or(0);
        let max = chunks().map(|chunk| chunk.max_time).max().unwrap_or(0);
        let mut writer = BlockWriter::create(&self.env.fs, &self.scratch.path, self.new_meta(min, max))?;
        let symbols: BTreeSet<&str> =
            series.iter().flat_map(|(labels, _)| labels).flat_map(|(name, value)| [name, value]).collect();
        symbols.into_iter().try_for_each(|symbol| writer.add_symbol(symbol))?;
        series.iter().try_for_each(|(labels, chunks)| writer.add_series(labels, chunks))?;
        writer.finish()
    }

    /// The meta of a block whose samples lie from `min` to `max`. As promtool does it, a block says no more than it has.
    fn new_meta(&self, min: i64, max: i64) -> BlockMeta {
        let mut meta = BlockMeta::new(new_ulid(&self.env), min, max.saturating_add(1));
        meta.compaction.level = 1;
        meta.compaction.sources = vec![meta.ulid];
        meta
    }

    /// Ends the backfill: the blocks are in the directory, all of them, or after an error perhaps some. Whoever has a
    /// database open there is better served by [`Db::bulk`](crate::db::Db::bulk).
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn finish(self) -> Result<Vec<BlockMeta>> {
        let (scratch, metas) = self.finish_beside(&Budget::unlimited())?;
        let fs = &*scratch.env.fs;
        let mut renamed = metas.iter().map(|meta| meta.ulid);
        renamed
            .try_for_each(|ulid| fs.rename(&scratch.block(ulid), &scratch.dir.join(ulid.to_string())))
            .and_then(|()| fs.sync_dir(&scratch.dir))
            .map_err(|error| Error::from(error).context(scratch.dir.display()))?;
        Ok(metas)
    }

    /// Ends the backfill and leaves the blocks where they were written, by time.
    pub(crate) fn finish_beside(mut self, budget: &Budget) -> Result<(Scratch, Vec<BlockMeta>)> {
        self.write_runs()?;
        let mut metas = Vec::new();
        for (_, mut runs) in std::mem::take(&mut self.runs) {
            match runs.len() {
                0 => {}
                1 => metas.append(&mut runs),
                _ => metas.extend(self.merge(&runs, budget)?),
            }
        }
        Ok((self.scratch, metas))
    }

    /// One block of the runs of a span, which come in the order that they were written in.
    fn merge(&self, runs: &[BlockMeta], budget: &Budget) -> Result<Option<BlockMeta>> {
        let fs = &self.env.fs;
        let blocks: Vec<Block> =
            runs.iter().map(|run| Block::open(&**fs, &self.scratch.block(run.ulid))).collect::<Result<_>>()?;
        let min = runs.iter().map(|run| run.min_time).min().unwrap_or(0);
        let max = runs.iter().map(|run| run.max_time).max().unwrap_or(0).saturating_sub(1);
        let sources: Vec<&dyn BlockRead> = blocks.iter().map(|block| block as &dyn BlockRead).collect();
        let mut writer = BlockWriter::create(fs, &self.scratch.path, self.new_meta(min, max))?;
        populate_with(&mut writer, &sources, TimeRange::new(min, max), self.options.floats(), budget)?;
        let meta = writer.finish()?;
        for run in runs {
            let path = self.scratch.block(run.ulid);
            fs.remove_dir_all(&path).map_err(|error| Error::from(error).context(path.display()))?;
        }
        Ok(meta)
    }
}

/// The directory that a backfill is written in; it goes with this.
#[derive(Debug)]
pub(crate) struct Scratch {
    env: Env,
    /// Where the blocks are wanted.
    dir: PathBuf,
    path: PathBuf,
}

impl Scratch {
    /// Where the block `ulid` lies.
    pub(crate) fn block(&self, ulid: Ulid) -> PathBuf {
        self.path.join(ulid.to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.env.fs.remove_dir_all(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "an unfinished backfill is left behind");
        }
    }
}

/// A histogram of too fine a resolution becomes one that can be stored; `None` if the value is fine as it is.
fn prepare(value: &Value) -> std::result::Result<Option<Value>, HistogramError> {
    fn prepared<H: Native>(
        histogram: &H,
        value: impl Fn(H) -> Value,
    ) -> std::result::Result<Option<Value>, HistogramError> {
        let mut copy = histogram.clone();
        copy.prepare()?;
        Ok((copy.parts().schema != histogram.parts().schema).then(|| value(copy)))
    }
    match value {
        Value::Float(_) => Ok(None),
        Value::Histogram(histogram) => prepared(&**histogram, |h| Value::Histogram(Box::new(h))),
        Value::FloatHistogram(histogram) => prepared(&**histogram, |h| Value::FloatHistogram(Box::new(h))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::chunk::samples;
    use crate::fs::sim::PowerCut;

    fn read(env: &Env, dir: &Path, metas: &[BlockMeta], duration: i64) -> BTreeMap<(String, i64), u64> {
        let mut found = BTreeMap::new();
        for meta in metas {
            let block = Block::open(&*env.fs, &dir.join(meta.ulid.to_string())).unwrap();
            block.verify().unwrap();
            let range = meta.time_range();
            assert_eq!(range.min.div_euclid(duration), range.max.div_euclid(duration), "one span a block");
            let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
            for id in block.select(&[]).unwrap() {
                block.series(id, &mut labels, &mut chunks).unwrap();
                for meta in &chunks {
                    let chunk = block.chunk(meta).unwrap();
                    for sample in samples(chunk.encoding, &chunk.data) {
                        let sample = sample.unwrap();
                        let Value::Float(value) = sample.value else { panic!("a float became {sample:?}") };
                        let before = found.insert((labels.to_string(), sample.t), value.to_bits());
                        assert_eq!(before, None, "a sample is there once");
                    }
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn blocks_hold_the_first_of_what_was_written_in_any_order(
            written in prop::collection::vec((0..5u8, -500..1500i64, any::<u8>()), 1..400),
            memory in 600..20_000usize,
        ) {
            let (env, _) = Env::simulated(1);
            let dir = Path::new("/out");
            let options = BulkOptions { block_duration: 200, memory, ..BulkOptions::default() };
            let mut writer = BulkWriter::create(&env, dir, options).unwrap();
            let mut model = BTreeMap::new();
            for (series, t, value) in &written {
                let labels = Labels::from_pairs([("__name__", "m"), ("s", &series.to_string())]);
                writer.append(&labels, &Sample::float(*t, f64::from(*value))).unwrap();
                model.entry((labels.to_string(), *t)).or_insert(f64::from(*value).to_bits());
            }
            let metas = writer.finish().unwrap();
            prop_assert_eq!(read(&env, dir, &metas, 200), model);
            prop_assert_eq!(env.fs.list(dir).unwrap().len(), metas.len(), "nothing else is left");
        }
    }

    #[test]
    fn a_finished_backfill_survives_a_power_cut_also_in_a_directory_that_it_made() {
        let (env, machine) = Env::simulated(1);
        let dir = Path::new("/new/out");
        let mut writer = BulkWriter::create(&env, dir, BulkOptions::default()).unwrap();
        writer.append(&Labels::from_pairs([("a", "b")]), &Sample::float(1, 1.0)).unwrap();
        let metas = writer.finish().unwrap();
        for image in machine.now().power_cut(&PowerCut::default()) {
            assert_eq!(read(&image.boot(2).0, dir, &metas, 7_200_000).len(), 1, "{}", image.story());
        }
    }

    #[test]
    fn a_backfill_that_is_dropped_leaves_nothing() {
        let (env, _) = Env::simulated(1);
        let mut writer = BulkWriter::create(&env, Path::new("/out"), BulkOptions::default()).unwrap();
        writer.append(&Labels::from_pairs([("a", "b")]), &Sample::float(1, 1.0)).unwrap();
        drop(writer);
        assert!(env.fs.list(Path::new("/out")).unwrap().is_empty());
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let (env, _) = Env::simulated(1);
        let mut writer = BulkWriter::create(&env, Path::new("/out"), BulkOptions::default()).unwrap();
        let kind = writer.append(&Labels::empty(), &Sample::float(1, 1.0)).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::InvalidInput);
        let broken = crate::model::Histogram { count: 7, ..Default::default() };
        let sample = Sample { t: 1, st: 0, value: Value::Histogram(Box::new(broken)) };
        let kind = writer.append(&Labels::from_pairs([("a", "b")]), &sample).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(writer.finish().unwrap().is_empty());
    }

    #[test]
    fn floats_are_encoded_as_is_asked_in_runs_that_overlap_too() {
        let encodings = |float_encoding, memory| {
            let (env, _) = Env::simulated(1);
            let dir = Path::new("/out");
            let options = BulkOptions { float_encoding, memory, ..BulkOptions::default() };
            let mut writer = BulkWriter::create(&env, dir, options).unwrap();
            for t in (0..300).chain(100..400) {
                writer.append(&Labels::from_pairs([("a", "b")]), &Sample::float(t, 1.0)).unwrap();
            }
            let mut found = BTreeSet::new();
            for meta in writer.finish().unwrap() {
                let block = Block::open(&*env.fs, &dir.join(meta.ulid.to_string())).unwrap();
                let mut chunks = Vec::new();
                for id in block.select(&[]).unwrap() {
                    block.series(id, &mut Labels::empty(), &mut chunks).unwrap();
                    found.extend(chunks.iter().map(|meta| block.chunk(meta).unwrap().encoding.byte()));
                }
            }
            found.into_iter().collect::<Vec<_>>()
        };
        for memory in [1 << 20, 1000] {
            assert_eq!(encodings(None, memory), [Encoding::Xor.byte()]);
            assert_eq!(encodings(Some(FloatEncoding::Xor2), memory), [Encoding::Xor2.byte()]);
        }
    }
}
