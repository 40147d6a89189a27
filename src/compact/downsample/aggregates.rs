//! Windows of windows.

use super::floats::{Floats, Parts};
use super::histograms::{self, alike};
use super::{by_window, chunk_count};
use crate::block::TimedAggregates;
use crate::chunk::{Aggregate, AggregateChunk, ChunkError, samples};
use crate::model::{FloatHistogram, Value, is_stale};

/// Which windows are not deleted, by their time.
type Keep<'a> = &'a dyn Fn(i64) -> bool;

/// The chunks of a series with windows of `from` milliseconds, made coarser. Windows that `keep` says no to are left out.
pub(super) fn coarser(
    chunks: &[TimedAggregates],
    from: i64,
    resolution: i64,
    keep: Keep<'_>,
) -> Result<Vec<TimedAggregates>, ChunkError> {
    let mut out = Vec::new();
    for group in chunks.chunk_by(|a, b| a.chunk.is_histogram() == b.chunk.is_histogram()) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let mut windows = 0;
        for chunk in group {
            windows += chunk.chunk.windows()?;
        }
        let count = chunk_count(first.min_time, last.max_time, from, resolution, windows);
        // Only whole chunks: the first and last values of each counter are the series' own.
        for part in group.chunks((group.len() / count).max(1)) {
            if first.chunk.is_histogram() {
                of_histograms(part, resolution, keep, &mut out)?;
            } else {
                out.extend(of_floats(part, resolution, keep)?);
            }
        }
    }
    Ok(out)
}

/// The floats of one part of a chunk.
fn floats(
    chunk: &AggregateChunk,
    aggregate: Aggregate,
    keep: Keep<'_>,
    out: &mut Vec<(i64, f64)>,
) -> Result<(), ChunkError> {
    let Some(part) = chunk.get(aggregate) else { return Ok(()) };
    for sample in samples(part.encoding, &part.data) {
        let sample = sample?;
        let Value::Float(value) = sample.value else { return Err(ChunkError::NotFloats(part.encoding)) };
        if !is_stale(value) && keep(sample.t) {
            out.push((sample.t, value));
        }
    }
    Ok(())
}

fn of_floats(
    chunks: &[TimedAggregates],
    resolution: i64,
    keep: Keep<'_>,
) -> Result<Option<TimedAggregates>, ChunkError> {
    let mut parts = Parts::default();
    let mut all = Vec::new();
    type Part = (Aggregate, fn(&Floats) -> f64);
    let simple: [Part; 4] = [
        // How many samples there were is the sum of how many there were.
        (Aggregate::Count, |window| window.sum),
        (Aggregate::Sum, |window| window.sum),
        (Aggregate::Min, |window| window.min),
        (Aggregate::Max, |window| window.max),
    ];
    for ((aggregate, of), appender) in simple.into_iter().zip(&mut parts.appenders) {
        all.clear();
        for chunk in chunks {
            floats(&chunk.chunk, aggregate, keep, &mut all)?;
        }
        by_window(&all, resolution, &mut Floats::new(), |t, window| {
            widen(&mut parts.span, t);
            appender.append(t, of(window))
        })?;
    }
    let counter = Counter::of(chunks, keep)?;
    let [.., appender] = &mut parts.appenders;
    if let Some((t, first)) = counter.samples.first() {
        appender.append(*t, *first)?;
        let end = by_window(&counter.samples, resolution, &mut Floats::new(), |t, window| {
            widen(&mut parts.span, t);
            appender.append(t, window.counter)
        })?;
        if let Some(end) = end {
            appender.append(end, counter.last)?;
        }
    }
    Ok(parts.finish())
}

fn widen(span: &mut Option<(i64, i64)>, t: i64) {
    *span = Some(span.map_or((t, t), |(min, max)| (min.min(t), max.max(t))));
}

/// What a counter had come to over several chunks, as if it had never started again.
struct Counter {
    samples: Vec<(i64, f64)>,
    /// The last value of the series itself.
    last: f64,
}

impl Counter {
    fn of(chunks: &[TimedAggregates], keep: Keep<'_>) -> Result<Self, ChunkError> {
        let (mut read, mut counter) = (Vec::new(), Self { samples: Vec::new(), last: 0.0 });
        for chunk in chunks {
            read.clear();
            floats(&chunk.chunk, Aggregate::Counter, keep, &mut read)?;
            read.iter().filter(|(_, value)| !value.is_nan()).for_each(|(t, value)| counter.add(*t, *value));
        }
        Ok(counter)
    }

    fn add(&mut self, t: i64, value: f64) {
        match self.samples.last() {
            None => self.samples.push((t, value)),
            Some((last_t, total)) if t > *last_t => {
                let total = if value >= self.last { total + (value - self.last) } else { total + value };
                self.samples.push((t, total));
            }
            // The sample at the end that repeats the time says what the last value really was.
            Some((last_t, _)) if t == *last_t => {}
            // Chunks that overlap: what was counted is not counted again.
            Some(_) => return,
        }
        self.last = value;
    }
}

/// The histograms of one part of a chunk.
fn of_part(
    chunk: &AggregateChunk,
    aggregate: Aggregate,
    keep: Keep<'_>,
    out: &mut Vec<(i64, FloatHistogram)>,
) -> Result<(), ChunkError> {
    let Some(part) = chunk.get(aggregate) else { return Ok(()) };
    for sample in samples(part.encoding, &part.data) {
        let sample = sample?;
        if sample.is_stale() || !keep(sample.t) {
            continue;
        }
        match sample.value {
            Value::Histogram(histogram) => out.push((sample.t, histogram.to_float())),
            Value::FloatHistogram(histogram) => out.push((sample.t, *histogram)),
            Value::Float(_) => return Err(ChunkError::Inconsistent),
        }
    }
    Ok(())
}

fn of_histograms(
    chunks: &[TimedAggregates],
    resolution: i64,
    keep: Keep<'_>,
    out: &mut Vec<TimedAggregates>,
) -> Result<(), ChunkError> {
    let mut batch = Batch::default();
    for TimedAggregates { chunk, .. } in chunks {
        let mut next = Batch::default();
        of_part(chunk, Aggregate::Counter, keep, &mut next.counters)?;
        of_part(chunk, Aggregate::Sum, keep, &mut next.sums)?;
        floats(chunk, Aggregate::Count, keep, &mut next.counts)?;
        let follows = match (batch.sums.last(), next.sums.first()) {
            (Some((_, last)), Some((_, first))) => alike(last, first),
            _ => true,
        };
        if !follows {
            std::mem::take(&mut batch).write(resolution, out)?;
        }
        batch.counters.append(&mut next.counters);
        batch.sums.append(&mut next.sums);
        batch.counts.append(&mut next.counts);
    }
    batch.write(resolution, out)
}

/// Windows of histograms that become one chunk.
#[derive(Debug, Default)]
struct Batch {
    counters: Vec<(i64, FloatHistogram)>,
    sums: Vec<(i64, FloatHistogram)>,
    counts: Vec<(i64, f64)>,
}

impl Batch {
    fn write(self, resolution: i64, out: &mut Vec<TimedAggregates>) -> Result<(), ChunkError> {
        let Self { counters, sums, counts } = self;
        let counters_by_window = histograms::windows(&counters, resolution, |window| window.counter.as_ref())?;
        let sums = histograms::windows(&sums, resolution, |window| window.sum.as_ref())?;
        let mut counts_by_window = Vec::with_capacity(sums.len());
        by_window(&counts, resolution, &mut Floats::new(), |t, window| {
            counts_by_window.push((t, window.sum));
            Ok::<(), ChunkError>(())
        })?;
        // All three were written window by window.
        let times = |t: &i64, n: usize| counts_by_window.get(n).is_some_and(|(count_t, _)| count_t == t);
        let aligned = sums.len() == counts_by_window.len()
            && counters_by_window.len() == counts_by_window.len()
            && sums.iter().enumerate().all(|(n, (t, _))| times(t, n))
            && counters_by_window.iter().enumerate().all(|(n, (t, _))| times(t, n));
        if !aligned {
            return Err(ChunkError::Inconsistent);
        }
        let mut parts = histograms::Parts::new(&counters, out);
        for (((t, count), (_, sum)), (_, counter)) in counts_by_window.iter().zip(&sums).zip(&counters_by_window) {
            parts.add(*t, *count, sum, counter)?;
        }
        parts.finish();
        Ok(())
    }
}
