//! The same histogram with other buckets, and whether two are the same.

use super::validate::check_spans;
use super::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, HistogramError, Span};

/// A bucket's count.
pub(super) trait Count: Copy + Default + PartialEq {
    fn plus(self, more: Self) -> Self;
}

impl Count for i64 {
    /// Counts read from a file may be anything: their sum must not panic.
    fn plus(self, more: Self) -> Self {
        self.wrapping_add(more)
    }
}

impl Count for f64 {
    fn plus(self, more: Self) -> Self {
        self + more
    }
}

/// Collects buckets in ascending order into as few spans as they fit.
pub(super) struct SpanBuilder<T> {
    spans: Vec<Span>,
    buckets: Vec<T>,
    /// The index after the last bucket.
    next: i64,
}

impl<T: Count> SpanBuilder<T> {
    pub(super) fn new() -> Self {
        Self { spans: Vec::new(), buckets: Vec::new(), next: 0 }
    }

    /// Adds `count` to the bucket `index`, which is the last one or one after it.
    pub(super) fn add(&mut self, index: i64, count: T) {
        if let (Some(last), true) = (self.buckets.last_mut(), index < self.next) {
            *last = last.plus(count);
            return;
        }
        match self.spans.last_mut() {
            Some(span) if index == self.next => span.length += 1,
            _ => self.spans.push(Span { offset: (index - self.next) as i32, length: 1 }),
        }
        self.buckets.push(count);
        self.next = index + 1;
    }

    /// Adds empty buckets up to `index` if they are few: cheaper than another span.
    fn bridge(&mut self, index: i64, at_most: usize) {
        if !self.buckets.is_empty() && index - self.next <= at_most as i64 {
            for empty in self.next..index {
                self.add(empty, T::default());
            }
        }
    }

    pub(super) fn finish(self) -> (Vec<Span>, Vec<T>) {
        (self.spans, self.buckets)
    }
}

/// Leaves empty buckets out, except for up to `max_empty` in a row between others.
fn compacted<T: Count>(buckets: impl Iterator<Item = (i64, T)>, max_empty: usize) -> (Vec<Span>, Vec<T>) {
    let mut builder = SpanBuilder::new();
    for (index, count) in buckets.filter(|(_, count)| *count != T::default()) {
        builder.bridge(index, max_empty);
        builder.add(index, count);
    }
    builder.finish()
}

/// The buckets of a schema coarser by `steps`.
fn reduced<T: Count>(buckets: impl Iterator<Item = (i64, T)>, steps: u32) -> (Vec<Span>, Vec<T>) {
    let mut builder = SpanBuilder::new();
    for (index, count) in buckets {
        builder.add(((index - 1) >> steps) + 1, count);
    }
    builder.finish()
}

fn to_deltas(mut counts: Vec<i64>) -> Vec<i64> {
    let mut last = 0_i64;
    for count in &mut counts {
        let delta = count.wrapping_sub(last);
        last = std::mem::replace(count, delta);
    }
    counts
}

/// How many steps it is from one schema down to another.
fn steps(from: i32, to: i32) -> Result<u32, HistogramError> {
    let error = || HistogramError(format!("schema {from} cannot be reduced to {to}"));
    if from == CUSTOM_BUCKETS_SCHEMA || to == CUSTOM_BUCKETS_SCHEMA {
        return Err(error());
    }
    from.checked_sub(to)
        .and_then(|steps| u32::try_from(steps).ok())
        .filter(|steps| (1..64).contains(steps))
        .ok_or_else(error)
}

/// Whether both stand for the same buckets in the same runs; spans without buckets do not count.
fn same_spans(a: &[Span], b: &[Span]) -> bool {
    fn runs(spans: &[Span]) -> impl Iterator<Item = (i64, u32)> {
        let mut gap = 0;
        spans.iter().filter_map(move |span| {
            gap += i64::from(span.offset);
            (span.length > 0).then(|| (std::mem::take(&mut gap), span.length))
        })
    }
    a == b || runs(a).eq(runs(b))
}

fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.iter().map(|value| value.to_bits()).eq(b.iter().map(|value| value.to_bits()))
}

impl Histogram {
    /// Leaves out empty buckets, except for up to `max_empty` in a row between others: each saves less than the span that
    /// it costs.
    pub fn compact(&mut self, max_empty: usize) {
        let (spans, counts) = compacted(self.positive_counts(), max_empty);
        (self.positive_spans, self.positive_buckets) = (spans, to_deltas(counts));
        let (spans, counts) = compacted(self.negative_counts(), max_empty);
        (self.negative_spans, self.negative_buckets) = (spans, to_deltas(counts));
    }

    /// Brings it to a coarser schema.
    ///
    /// # Errors
    /// [`HistogramError`] if `schema` is not coarser, if either is that of custom buckets, or if spans and buckets do not
    /// agree. Nothing is changed then.
    pub fn reduce_resolution(&mut self, schema: i32) -> Result<(), HistogramError> {
        let steps = steps(self.schema, schema)?;
        check_spans("positive", &self.positive_spans, self.positive_buckets.len())?;
        check_spans("negative", &self.negative_spans, self.negative_buckets.len())?;
        let (spans, counts) = reduced(self.positive_counts(), steps);
        (self.positive_spans, self.positive_buckets) = (spans, to_deltas(counts));
        let (spans, counts) = reduced(self.negative_counts(), steps);
        (self.negative_spans, self.negative_buckets) = (spans, to_deltas(counts));
        self.schema = schema;
        Ok(())
    }

    /// Whether both hold the same data: the same buckets, stored or not, and the same bits in the sum. Hints do not count.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.schema == other.schema
            && self.count == other.count
            && self.sum.to_bits() == other.sum.to_bits()
            && (self.schema != CUSTOM_BUCKETS_SCHEMA || self.custom_values == other.custom_values)
            && self.zero_threshold == other.zero_threshold
            && self.zero_count == other.zero_count
            && same_spans(&self.negative_spans, &other.negative_spans)
            && self.negative_buckets == other.negative_buckets
            && same_spans(&self.positive_spans, &other.positive_spans)
            && self.positive_buckets == other.positive_buckets
    }
}

impl FloatHistogram {
    /// Leaves out empty buckets, except for up to `max_empty` in a row between others.
    pub fn compact(&mut self, max_empty: usize) {
        (self.positive_spans, self.positive_buckets) = compacted(self.positive_counts(), max_empty);
        (self.negative_spans, self.negative_buckets) = compacted(self.negative_counts(), max_empty);
    }

    /// Brings it to a coarser schema.
    ///
    /// # Errors
    /// As [`Histogram::reduce_resolution`].
    pub fn reduce_resolution(&mut self, schema: i32) -> Result<(), HistogramError> {
        let steps = steps(self.schema, schema)?;
        check_spans("positive", &self.positive_spans, self.positive_buckets.len())?;
        check_spans("negative", &self.negative_spans, self.negative_buckets.len())?;
        (self.positive_spans, self.positive_buckets) = reduced(self.positive_counts(), steps);
        (self.negative_spans, self.negative_buckets) = reduced(self.negative_counts(), steps);
        self.schema = schema;
        Ok(())
    }

    /// Whether both hold the same data: the same buckets, stored or not, and the same bits in all numbers. Hints do not
    /// count.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.schema == other.schema
            && self.count.to_bits() == other.count.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && (self.schema != CUSTOM_BUCKETS_SCHEMA || self.custom_values == other.custom_values)
            && self.zero_threshold == other.zero_threshold
            && self.zero_count.to_bits() == other.zero_count.to_bits()
            && same_spans(&self.negative_spans, &other.negative_spans)
            && same_bits(&self.negative_buckets, &other.negative_buckets)
            && same_spans(&self.positive_spans, &other.positive_spans)
            && same_bits(&self.positive_buckets, &other.positive_buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(pairs: &[(i32, u32)]) -> Vec<Span> {
        pairs.iter().map(|&(offset, length)| Span { offset, length }).collect()
    }

    #[test]
    fn compacting_keeps_short_gaps_and_cuts_long_ones() {
        let histogram = FloatHistogram {
            positive_spans: spans(&[(-3, 4), (1, 2), (3, 2)]),
            positive_buckets: vec![0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0, 4.0],
            ..FloatHistogram::default()
        };
        let mut tight = histogram.clone();
        tight.compact(0);
        assert_eq!(tight.positive_spans, spans(&[(-2, 1), (1, 1), (1, 1), (5, 1)]));
        assert_eq!(tight.positive_buckets, [1.0, 2.0, 3.0, 4.0]);
        let mut loose = histogram;
        loose.compact(1);
        assert_eq!(loose.positive_spans, spans(&[(-2, 5), (5, 1)]));
        assert_eq!(loose.positive_buckets, [1.0, 0.0, 2.0, 0.0, 3.0, 4.0]);
    }

    #[test]
    fn reducing_merges_neighbours() {
        let mut histogram = Histogram {
            schema: 1,
            positive_spans: spans(&[(0, 3), (3, 1)]),
            positive_buckets: vec![1, 1, 1, 1],
            ..Histogram::default()
        };
        // Counts 1, 2, 3 at 0, 1, 2 and 4 at 6: bucket 0 of the coarser schema holds -1 and 0, bucket 1 holds 1 and 2.
        histogram.reduce_resolution(0).unwrap();
        assert_eq!((histogram.schema, &histogram.positive_spans), (0, &spans(&[(0, 2), (1, 1)])));
        assert_eq!(histogram.positive_buckets, [1, 4, -1]);
        assert!(histogram.reduce_resolution(0).is_err());
    }

    #[test]
    fn spans_without_buckets_do_not_tell_histograms_apart() {
        let a = FloatHistogram {
            positive_spans: spans(&[(1, 0), (1, 2)]),
            positive_buckets: vec![1.0, f64::NAN],
            ..FloatHistogram::default()
        };
        let b = FloatHistogram { positive_spans: spans(&[(2, 2), (5, 0)]), ..a.clone() };
        assert!(a.equals(&b));
        assert!(!a.equals(&FloatHistogram { positive_spans: spans(&[(3, 2)]), ..a.clone() }));
        assert!(!a.equals(&FloatHistogram { sum: -0.0, ..a.clone() }));
    }

    proptest! {
        #[test]
        fn compacting_loses_no_observation(
            runs in prop::collection::vec((0_i32..4, prop::collection::vec(0_u8..3, 0..5)), 0..5),
            max_empty in 0_usize..4,
        ) {
            let mut histogram = Histogram {
                positive_spans: runs.iter().map(|(offset, counts)| Span { offset: *offset, length: counts.len() as u32 }).collect(),
                positive_buckets: to_deltas(runs.iter().flat_map(|(_, counts)| counts).map(|&count| i64::from(count)).collect()),
                ..Histogram::default()
            };
            let filled = |histogram: &Histogram| histogram.positive_counts().filter(|(_, count)| *count != 0).collect::<Vec<_>>();
            let before = filled(&histogram);
            histogram.compact(max_empty);
            prop_assert_eq!(filled(&histogram), before);
            prop_assert!(histogram.positive_spans.iter().skip(1).all(|span| span.offset as usize > max_empty));
            let empty = histogram.positive_counts().filter(|(_, count)| *count == 0).count();
            prop_assert!(max_empty > 0 || empty == 0);
        }
    }
}
