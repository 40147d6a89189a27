//! Windows of floats.

use super::{Window, by_window};
use crate::block::TimedAggregates;
use crate::chunk::{Aggregate, AggregateChunk, ChunkError, XorAppender};

/// What is known of the floats of a window, and of the counter since the batch began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floats {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// What the counter has come to.
    pub(super) counter: f64,
    /// The last sample; `None` before the first.
    last: Option<f64>,
}

impl Floats {
    pub(super) fn new() -> Self {
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, counter: 0.0, last: None }
    }
}

impl Window<f64> for Floats {
    fn begin(&mut self) {
        *self = Self { counter: self.counter, last: self.last, ..Self::new() };
    }

    fn add(&mut self, value: &f64) {
        let value = *value;
        match self.last {
            None => self.counter = value,
            // It started again, and has come to its value since.
            Some(last) if value < last => self.counter += value,
            Some(last) => self.counter += value - last,
        }
        self.last = Some(value);
        self.sum += value;
        self.count += 1;
        if value < self.min {
            self.min = value;
        }
        if value > self.max {
            self.max = value;
        }
    }
}

/// The chunk of a batch of samples, if any is left without those that are not a number.
pub(super) fn of_samples(batch: &[(i64, f64)], resolution: i64) -> Result<Option<TimedAggregates>, ChunkError> {
    let batch: Vec<_> = batch.iter().copied().filter(|(_, value)| !value.is_nan()).collect();
    let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(None) };
    let mut parts = Parts::default();
    let [count, sum, min, max, counter] = &mut parts.appenders;
    counter.append(first.0, first.1)?;
    let end = by_window(&batch, resolution, &mut Floats::new(), |t, window| {
        parts.span = Some(parts.span.map_or((t, t), |(first, _)| (first, t)));
        count.append(t, window.count as f64)?;
        sum.append(t, window.sum)?;
        min.append(t, window.min)?;
        max.append(t, window.max)?;
        counter.append(t, window.counter)
    })?;
    if let Some(end) = end {
        counter.append(end, last.1)?;
    }
    Ok(parts.finish())
}

/// The parts of a chunk of floats, as they are written.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// In the order of [`Aggregate::ALL`].
    pub(super) appenders: [XorAppender; 5],
    /// The first and the last window's time.
    pub(super) span: Option<(i64, i64)>,
}

impl Parts {
    /// The chunk, if it has windows. What nothing was appended to is not there.
    pub(super) fn finish(mut self) -> Option<TimedAggregates> {
        let (min_time, max_time) = self.span?;
        let mut chunk = AggregateChunk::default();
        for (aggregate, appender) in Aggregate::ALL.into_iter().zip(&mut self.appenders) {
            if appender.sample_count() > 0 {
                chunk.set(aggregate, appender.take());
            }
        }
        Some(TimedAggregates { min_time, max_time, chunk })
    }
}
