//! Windows of native histograms.

use super::{Window, by_window};
use crate::block::TimedAggregates;
use crate::chunk::XorAppender;
use crate::chunk::{Aggregate, AggregateChunk, Appended, ChunkError, EncodedChunk, FloatHistogramAppender};
use crate::model::{CounterResetHint, FloatHistogram};

/// What is known of the histograms of a window, and of the counter since the batch began.
#[derive(Debug)]
pub(super) struct Histograms {
    pub(super) count: u64,
    /// Their sum; `None` where the window begins.
    pub(super) sum: Option<FloatHistogram>,
    /// What the counter has come to.
    pub(super) counter: Option<FloatHistogram>,
    previous: Option<FloatHistogram>,
    /// What all are brought to: the coarsest of the batch.
    schema: i32,
    failed: bool,
}

impl Histograms {
    /// For a batch that [`alike`] lets through.
    pub(super) fn new(batch: &[(i64, FloatHistogram)]) -> Self {
        let schema = batch.iter().map(|(_, histogram)| histogram.schema).min().unwrap_or(0);
        Self { count: 0, sum: None, counter: None, previous: None, schema, failed: false }
    }

    /// Whether two could not be added that were taken to be alike.
    fn check(&self) -> Result<(), ChunkError> {
        if self.failed { Err(ChunkError::Inconsistent) } else { Ok(()) }
    }
}

fn add(to: &mut Option<FloatHistogram>, histogram: &FloatHistogram, failed: &mut bool) {
    match to {
        Some(to) => *failed |= to.add(histogram).is_err(),
        None => *to = Some(histogram.clone()),
    }
}

impl Window<FloatHistogram> for Histograms {
    fn begin(&mut self) {
        self.count = 0;
        self.sum = None;
    }

    fn add(&mut self, original: &FloatHistogram) {
        let mut histogram = original.clone();
        if histogram.schema > self.schema {
            self.failed |= histogram.reduce_resolution(self.schema).is_err();
            histogram.counter_reset_hint = CounterResetHint::Unknown;
        }
        // Whether it started again is asked of the histogram as it was: a finer one than the last also says so.
        let delta = match &self.previous {
            Some(previous)
                if histogram.counter_reset_hint == CounterResetHint::Gauge || !original.is_reset_after(previous) =>
            {
                let mut delta = histogram.clone();
                self.failed |= delta.subtract(previous).is_err();
                delta
            }
            _ => histogram.clone(),
        };
        add(&mut self.counter, &delta, &mut self.failed);
        add(&mut self.sum, &histogram, &mut self.failed);
        if let Some(sum) = &mut self.sum {
            // Sums may fall.
            sum.counter_reset_hint = CounterResetHint::Gauge;
        }
        self.previous = Some(histogram);
        self.count += 1;
    }
}

/// Whether two histograms go into one chunk, once they are of one resolution.
pub(super) fn alike(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    a.uses_custom_buckets() == b.uses_custom_buckets()
        && a.custom_values == b.custom_values
        && a.zero_threshold == b.zero_threshold
}

/// Appends the chunks of a batch of samples.
pub(super) fn of_samples(
    batch: &[(i64, FloatHistogram)],
    resolution: i64,
    out: &mut Vec<TimedAggregates>,
) -> Result<(), ChunkError> {
    let batch: Vec<_> = batch.iter().filter(|(_, histogram)| !histogram.sum.is_nan()).cloned().collect();
    for batch in batch.chunk_by(|(_, a), (_, b)| alike(a, b)) {
        let mut parts = Parts::new(batch, out);
        by_window(batch, resolution, &mut Histograms::new(batch), |t, window| {
            window.check()?;
            let (Some(sum), Some(counter)) = (&window.sum, &window.counter) else { return Ok(()) };
            parts.add(t, window.count as f64, sum, counter)
        })?;
        parts.finish();
    }
    Ok(())
}

/// The windows of a batch one by one: their sums, or what the counter had come to.
pub(super) fn windows(
    batch: &[(i64, FloatHistogram)],
    resolution: i64,
    of: impl Fn(&Histograms) -> Option<&FloatHistogram>,
) -> Result<Vec<(i64, FloatHistogram)>, ChunkError> {
    let mut windows = Vec::new();
    by_window(batch, resolution, &mut Histograms::new(batch), |t, window| {
        window.check()?;
        windows.extend(of(window).map(|histogram| (t, histogram.clone())));
        Ok(())
    })?;
    Ok(windows)
}

/// The parts of chunks of histograms, as they are written.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// Whether the histograms are no counters.
    gauge: bool,
    open: Open,
    out: &'a mut Vec<TimedAggregates>,
}

#[derive(Debug, Default)]
struct Open {
    span: Option<(i64, i64)>,
    count: XorAppender,
    sum: FloatHistogramAppender,
    counter: FloatHistogramAppender,
}

impl<'a> Parts<'a> {
    /// For windows of `batch`, whose first sample tells whether they are gauges.
    pub(super) fn new(batch: &[(i64, FloatHistogram)], out: &'a mut Vec<TimedAggregates>) -> Self {
        let gauge = batch.first().is_some_and(|(_, first)| first.counter_reset_hint == CounterResetHint::Gauge);
        Self { gauge, open: Open::default(), out }
    }

    /// Appends a window.
    pub(super) fn add(
        &mut self,
        t: i64,
        count: f64,
        sum: &FloatHistogram,
        counter: &FloatHistogram,
    ) -> Result<(), ChunkError> {
        let mut counter = counter.clone();
        if self.gauge {
            counter.counter_reset_hint = CounterResetHint::Gauge;
        } else if self.open.span.is_some() && counter.counter_reset_hint == CounterResetHint::CounterReset {
            // What it has come to does not start again.
            counter.counter_reset_hint = CounterResetHint::Unknown;
        }
        if let Appended::NewChunk { finished, .. } = self.open.counter.append(t, &counter)? {
            // It fell all the same, by what rounding takes or because the samples said that it had not started again.
            // Thanos loses what came before.
            let begun = std::mem::take(&mut self.open.counter);
            self.end(Some(finished));
            self.open.counter = begun;
        }
        let told = self.open.counter.counter_reset();
        if self.open.counter.sample_count() == 1 && told == CounterResetHint::Unknown {
            // Thanos compares the first sample of a chunk with itself.
            self.open.counter.set_counter_reset(CounterResetHint::NotCounterReset);
        }
        if matches!(self.open.sum.append(t, sum)?, Appended::NewChunk { .. }) {
            // All of a batch are alike.
            return Err(ChunkError::Inconsistent);
        }
        self.open.count.append(t, count)?;
        self.open.span = Some(self.open.span.map_or((t, t), |(first, _)| (first, t)));
        Ok(())
    }

    fn end(&mut self, counter: Option<EncodedChunk>) {
        let Open { span, mut count, mut sum, counter: mut open } = std::mem::take(&mut self.open);
        let Some((min_time, max_time)) = span else { return };
        let mut chunk = AggregateChunk::default();
        chunk.set(Aggregate::Count, count.take());
        chunk.set(Aggregate::Sum, sum.take());
        chunk.set(Aggregate::Counter, counter.unwrap_or_else(|| open.take()));
        self.out.push(TimedAggregates { min_time, max_time, chunk });
    }

    /// Ends the last chunk.
    pub(super) fn finish(mut self) {
        self.end(None);
    }
}
