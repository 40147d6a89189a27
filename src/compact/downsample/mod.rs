//! Coarser blocks: of samples aggregates by windows of 5 minutes, of those windows of an hour, as Thanos makes them.
//!
//! ```text
//! window of t    ends at t - t mod r + r - 1, and at the last t of its batch if that is before
//! batch          what becomes one chunk: a run of samples such that a chunk gets 140 windows at most on average
//! floats         count, sum, min, max of each window; stale markers and NaN are left out
//! counter        the first sample itself | what the counter had come to, by window | the last window's time again, with
//!                the last sample's own value, so that the next chunk can tell whether the counter started again
//! histograms     count, sum, counter; at the coarsest resolution in the batch
//! ```
//!
//! Windows of an hour are made of whole chunks of windows of 5 minutes, since a chunk's counter begins and ends with true
//! values. The bytes are Thanos's wherever Thanos has an answer. Where it has none, or loses data, chunks are cut once
//! more than there: where histograms change the width of their zero bucket, their custom bounds, or from custom to
//! exponential buckets. What is deleted is left out, which Thanos does not look at, and overlapping chunks are resolved,
//! which Thanos refuses.

mod aggregates;
mod floats;
mod histograms;

use std::path::Path;

use super::keeps;
use super::merge::merge_symbols;
use super::overlap::resolve;
use crate::block::{BlockMeta, BlockRead, BlockWriter, TimedAggregates, TimedChunk, new_ulid};
use crate::budget::Budget;
use crate::chunk::{AGGREGATES, AggregateChunk, ChunkError, EncodedChunk, Encoding, samples};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Env;
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{FloatHistogram, Labels, Sample, TimeRange, Value};

/// Windows of 5 minutes, in milliseconds: what blocks of samples are downsampled to.
pub const FIVE_MINUTES: i64 = 300_000;
/// Windows of an hour, in milliseconds: what blocks of 5 minutes are downsampled to.
pub const ONE_HOUR: i64 = 3_600_000;
/// How far apart samples are taken to be, in milliseconds, when it is estimated how many windows they fill.
const ASSUMED_INTERVAL: i64 = 60_000;
/// The most windows that a chunk gets on average.
const WINDOWS: usize = 140;

/// Writes a block of windows of `resolution` milliseconds, made of `source`, into the directory `dir`; `None` if nothing
/// is in it. `meta` is the source's: samples, or windows that are narrower. The new block has its span, its sources and its
/// level, as in Thanos; it is told apart by the section `thanos` of its meta.
///
/// One series is in memory at a time.
///
/// # Errors
/// `InvalidInput` if the source is not finer; `Corrupt` if it is damaged; `Io`, `Full`, `Cancelled`. Nothing is left of the
/// new block then.
pub fn downsample(
    env: &Env,
    dir: &Path,
    source: &dyn BlockRead,
    meta: &BlockMeta,
    resolution: i64,
    budget: &Budget,
) -> Result<Option<BlockMeta>> {
    let new = BlockMeta { ulid: new_ulid(env), ..meta.clone() };
    downsample_as(env, dir, source, meta, new, resolution, budget)
}

/// As [`downsample`], with `new` for the new block's meta; its resolution and counts are set here.
pub(crate) fn downsample_as(
    env: &Env,
    dir: &Path,
    source: &dyn BlockRead,
    meta: &BlockMeta,
    mut new: BlockMeta,
    resolution: i64,
    budget: &Budget,
) -> Result<Option<BlockMeta>> {
    let from = meta.resolution();
    if resolution <= from {
        let reason = format!("a block of windows of {from} ms cannot be downsampled to {resolution} ms");
        return Err(Error::new(ErrorKind::InvalidInput, reason));
    }
    new.set_resolution(resolution);
    let mut writer = BlockWriter::create(&env.fs, dir, new)?;
    merge_symbols(&mut writer, &[source], budget)?;
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    for id in source.select(&[])? {
        budget.check()?;
        source.series(id, &mut labels, &mut metas)?;
        let series = Series { source, id, labels: &labels, metas: &metas, range: meta.time_range() };
        let chunks = if from == 0 { series.of_samples(resolution)? } else { series.of_windows(from, resolution)? };
        if !chunks.is_empty() {
            writer.add_aggregates(&labels, &chunks)?;
        }
    }
    writer.set_made_of(&meta.stats);
    writer.finish()
}

/// A series to be downsampled.
struct Series<'a> {
    source: &'a dyn BlockRead,
    id: SeriesId,
    labels: &'a Labels,
    metas: &'a [ChunkMeta],
    range: TimeRange,
}

impl Series<'_> {
    fn corrupt(&self, error: &ChunkError) -> Error {
        Error::new(ErrorKind::Corrupt, format!("downsampling {}: {error}", self.labels))
    }

    fn of_samples(&self, resolution: i64) -> Result<Vec<TimedAggregates>> {
        let mut chunks = Vec::with_capacity(self.metas.len());
        for meta in self.metas {
            let chunk = self.source.chunk(meta)?;
            chunks.push(TimedChunk { min_time: meta.min_time, max_time: meta.max_time, chunk });
        }
        let mut resolved = Vec::with_capacity(chunks.len());
        resolve(self.labels, &mut chunks, Encoding::Xor, &mut resolved)?;
        let deleted = self.source.tombstones(self.id);
        let mut runs = Runs::new(resolution);
        for TimedChunk { chunk, .. } in &resolved {
            let read = runs.add_chunk(chunk, |t| keeps(self.range, &deleted, t));
            read.map_err(|error| self.corrupt(&error))?;
        }
        runs.finish().map_err(|error| self.corrupt(&error))
    }

    fn of_windows(&self, from: i64, resolution: i64) -> Result<Vec<TimedAggregates>> {
        let deleted = self.source.tombstones(self.id);
        let mut chunks = Vec::with_capacity(self.metas.len());
        for meta in self.metas {
            let (byte, data) = self.source.any_chunk(meta)?;
            if byte == AGGREGATES {
                let chunk = AggregateChunk::decode(&data).map_err(|error| self.corrupt(&error))?;
                chunks.push(TimedAggregates { min_time: meta.min_time, max_time: meta.max_time, chunk });
                continue;
            }
            // Old versions of Thanos left some chunks of samples in downsampled blocks.
            let fixed = || {
                let mut runs = Runs::new(from);
                runs.add_chunk(&EncodedChunk { encoding: Encoding::from_byte(byte)?, data }, |_| true)?;
                runs.finish()
            };
            chunks.extend(fixed().map_err(|error| self.corrupt(&error))?);
        }
        let keep = |t| !deleted.iter().any(|span| span.contains(t));
        aggregates::coarser(&chunks, from, resolution, &keep).map_err(|error| self.corrupt(&error))
    }
}

/// What [`downsample`] makes of a series' chunks of samples, which do not overlap.
///
/// # Errors
/// As decoding them.
pub fn windows_of_samples(chunks: &[EncodedChunk], resolution: i64) -> Result<Vec<AggregateChunk>, ChunkError> {
    let mut runs = Runs::new(resolution);
    chunks.iter().try_for_each(|chunk| runs.add_chunk(chunk, |_| true))?;
    Ok(runs.finish()?.into_iter().map(|timed| timed.chunk).collect())
}

/// What [`downsample`] makes of a series' chunks of windows of `from` milliseconds.
///
/// # Errors
/// As decoding them; [`ChunkError::Inconsistent`] if the parts of one have other times than each other.
pub fn windows_of_windows(
    chunks: &[AggregateChunk],
    from: i64,
    resolution: i64,
) -> Result<Vec<AggregateChunk>, ChunkError> {
    let mut timed = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let Some(count) = chunk.get(crate::chunk::Aggregate::Count) else { continue };
        let times = samples(count.encoding, &count.data).map(|sample| Ok(sample?.t)).collect::<Result<Vec<_>, _>>()?;
        if let (Some(min_time), Some(max_time)) = (times.first(), times.last()) {
            timed.push(TimedAggregates { min_time: *min_time, max_time: *max_time, chunk: chunk.clone() });
        }
    }
    Ok(aggregates::coarser(&timed, from, resolution, &|_| true)?.into_iter().map(|timed| timed.chunk).collect())
}

/// The samples of a series, gathered as long as they are of one kind.
struct Runs {
    resolution: i64,
    floats: Vec<(i64, f64)>,
    histograms: Vec<(i64, FloatHistogram)>,
    out: Vec<TimedAggregates>,
}

impl Runs {
    fn new(resolution: i64) -> Self {
        Self { resolution, floats: Vec::new(), histograms: Vec::new(), out: Vec::new() }
    }

    fn add_chunk(&mut self, chunk: &EncodedChunk, keep: impl Fn(i64) -> bool) -> Result<(), ChunkError> {
        let has_others = if chunk.encoding.is_float() { !self.histograms.is_empty() } else { !self.floats.is_empty() };
        if has_others {
            self.end_run()?;
        }
        for sample in samples(chunk.encoding, &chunk.data) {
            let sample = sample?;
            if sample.is_stale() || !keep(sample.t) {
                continue;
            }
            let Sample { t, value, .. } = sample;
            match value {
                Value::Float(value) => self.floats.push((t, value)),
                Value::Histogram(histogram) => self.histograms.push((t, histogram.to_float())),
                Value::FloatHistogram(histogram) => self.histograms.push((t, *histogram)),
            }
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), ChunkError> {
        for batch in batches(&self.floats, self.resolution) {
            self.out.extend(floats::of_samples(batch, self.resolution)?);
        }
        for batch in batches(&self.histograms, self.resolution) {
            histograms::of_samples(batch, self.resolution, &mut self.out)?;
        }
        self.floats.clear();
        self.histograms.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<TimedAggregates>, ChunkError> {
        self.end_run()?;
        Ok(self.out)
    }
}

/// Where the window that `t` falls into ends: its last millisecond.
fn window_end(t: i64, resolution: i64) -> i64 {
    t.saturating_sub(t.rem_euclid(resolution)).saturating_add(resolution - 1)
}

/// How many chunks `count` samples from `min` to `max`, `from` milliseconds apart if none is missing, become.
fn chunk_count(min: i64, max: i64, from: i64, resolution: i64, count: usize) -> usize {
    let span = max.saturating_sub(min);
    let fullness = (count as f64 / (span as f64 / from as f64)).min(1.0);
    let windows = ((span / resolution) as f64 * fullness) as usize + 1;
    // The smallest number of chunks with 140 windows at most on average, rounded down.
    let enough = |chunks: &usize| windows / chunks <= WINDOWS;
    ((windows / (WINDOWS + 1)).max(1)..).find(enough).unwrap_or(1)
}

/// Cuts samples into batches. A batch that would end inside a window takes the rest of the window too.
fn batches<T>(samples: &[(i64, T)], resolution: i64) -> impl Iterator<Item = &[(i64, T)]> {
    let span = samples.first().zip(samples.last()).map_or((0, 0), |(first, last)| (first.0, last.0));
    let chunks = chunk_count(span.0, span.1, ASSUMED_INTERVAL, resolution, samples.len());
    let size = samples.len() / chunks + 1;
    let mut rest = samples;
    std::iter::from_fn(move || {
        let at_least = size.min(rest.len());
        let end = window_end(rest.get(..at_least)?.last()?.0, resolution);
        let (batch, more) = rest.split_at(at_least + rest.get(at_least..)?.partition_point(|(t, _)| *t <= end));
        rest = more;
        Some(batch)
    })
}

/// What gathers the samples of a window.
trait Window<T> {
    /// Begins another window.
    fn begin(&mut self);
    /// Takes a sample.
    fn add(&mut self, sample: &T);
}

/// Runs `samples` through `window` and calls `ended` with the time of each window that ends. Returns the last one's.
fn by_window<T, W: Window<T>, E>(
    samples: &[(i64, T)],
    resolution: i64,
    window: &mut W,
    mut ended: impl FnMut(i64, &W) -> Result<(), E>,
) -> Result<Option<i64>, E> {
    let mut end: Option<i64> = None;
    let last = samples.last().map_or(i64::MIN, |(t, _)| *t);
    for (t, sample) in samples {
        if end.is_none_or(|end| *t > end) {
            if let Some(end) = end {
                ended(end, window)?;
            }
            window.begin();
            // Not beyond the batch, whose last window the next batch may go on with.
            end = Some(window_end(*t, resolution).min(last));
        }
        window.add(sample);
    }
    if let Some(end) = end {
        ended(end, window)?;
    }
    Ok(end)
}
