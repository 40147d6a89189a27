//! A histogram's buckets one by one, with their bounds.

use super::bounds::bucket_bound;
use super::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Span};

/// A bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Where it begins.
    pub lower: f64,
    /// Where it ends.
    pub upper: f64,
    /// Whether `lower` itself lies in it.
    pub lower_inclusive: bool,
    /// Whether `upper` itself lies in it.
    pub upper_inclusive: bool,
    /// Observations in it.
    pub count: f64,
    /// Its number within its schema and its side; 0 for the zero bucket.
    pub index: i32,
}

/// The indices that spans stand for, from either end.
#[derive(Debug, Clone)]
pub struct BucketIndices<'a> {
    /// Spans of which neither end has taken all, from the one that the front is in.
    spans: &'a [Span],
    /// The front's next index, `front_left` of which are left in the first span.
    front: i64,
    front_left: u32,
    /// One past the back's next index, `back_left` of which are left in the last span.
    back: i64,
    back_left: u32,
    left: u64,
}

impl<'a> BucketIndices<'a> {
    /// Of `spans`.
    #[must_use]
    pub fn new(spans: &'a [Span]) -> Self {
        let end = spans.iter().map(|span| i64::from(span.offset) + i64::from(span.length)).sum();
        Self {
            spans,
            front: spans.first().map_or(0, |span| i64::from(span.offset)),
            front_left: spans.first().map_or(0, |span| span.length),
            back: end,
            back_left: spans.last().map_or(0, |span| span.length),
            left: spans.iter().map(|span| u64::from(span.length)).sum(),
        }
    }
}

impl Iterator for BucketIndices<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        while self.front_left == 0 {
            let (_, rest) = self.spans.split_first()?;
            self.spans = rest;
            let span = rest.first()?;
            self.front += i64::from(span.offset);
            self.front_left = span.length;
        }
        self.front_left -= 1;
        self.front += 1;
        Some(self.front - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, usize::try_from(self.left).ok())
    }
}

impl DoubleEndedIterator for BucketIndices<'_> {
    fn next_back(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        while self.back_left == 0 {
            let (last, rest) = self.spans.split_last()?;
            self.spans = rest;
            self.back -= i64::from(last.offset);
            self.back_left = rest.last()?.length;
        }
        self.back_left -= 1;
        self.back -= 1;
        Some(self.back)
    }
}

fn bucket(index: i64, count: f64, schema: i32, positive: bool, custom_values: &[f64]) -> Bucket {
    let (near, far) = (bucket_bound(index - 1, schema, custom_values), bucket_bound(index, schema, custom_values));
    let (lower, upper) = if positive { (near, far) } else { (-far, -near) };
    let (lower_inclusive, upper_inclusive) =
        if schema == CUSTOM_BUCKETS_SCHEMA { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
    Bucket { lower, upper, lower_inclusive, upper_inclusive, count, index: index as i32 }
}

impl FloatHistogram {
    /// Whether its bounds are listed rather than computed.
    #[must_use]
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// The zero bucket. A histogram with custom buckets has none; its zero count is 0.
    #[must_use]
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
            index: 0,
        }
    }

    /// Index and count of each positive bucket, without the cost of bounds.
    #[must_use]
    pub fn positive_counts(&self) -> impl DoubleEndedIterator<Item = (i64, f64)> + Clone {
        counts(&self.positive_spans, &self.positive_buckets)
    }

    /// Index and count of each negative bucket, without the cost of bounds.
    #[must_use]
    pub fn negative_counts(&self) -> impl DoubleEndedIterator<Item = (i64, f64)> + Clone {
        counts(&self.negative_spans, &self.negative_buckets)
    }

    /// The positive buckets that are stored, from zero up.
    #[must_use]
    pub fn positive(&self) -> impl DoubleEndedIterator<Item = Bucket> + Clone {
        self.positive_counts().map(|(index, count)| bucket(index, count, self.schema, true, &self.custom_values))
    }

    /// The negative buckets that are stored, from zero down.
    #[must_use]
    pub fn negative(&self) -> impl DoubleEndedIterator<Item = Bucket> + Clone {
        self.negative_counts().map(|(index, count)| bucket(index, count, self.schema, false, &[]))
    }

    /// All buckets that are stored, in ascending order; reversible. The zero bucket is among them if it is not empty. A
    /// bucket that overlaps it is cut at the zero threshold.
    #[must_use]
    pub fn all_buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + Clone {
        let threshold = self.zero_threshold;
        let zero = (self.zero_count > 0.0).then(|| self.zero_bucket());
        let negative = self.negative().rev().map(move |mut bucket| {
            if bucket.upper < 0.0 && bucket.upper > -threshold {
                bucket.upper = -threshold;
            }
            bucket
        });
        let positive = self.positive().map(move |mut bucket| {
            if bucket.lower > 0.0 && bucket.lower < threshold {
                bucket.lower = threshold;
            }
            bucket
        });
        negative.chain(zero).chain(positive)
    }
}

fn counts<'a>(spans: &'a [Span], buckets: &'a [f64]) -> impl DoubleEndedIterator<Item = (i64, f64)> + Clone {
    Paired { indices: BucketIndices::new(spans), buckets: buckets.iter() }
}

/// A `zip` that goes both ways. The ends meet only if there are as many buckets as the spans say, which is what `validate`
/// is for.
#[derive(Debug, Clone)]
struct Paired<'a> {
    indices: BucketIndices<'a>,
    buckets: std::slice::Iter<'a, f64>,
}

impl Iterator for Paired<'_> {
    type Item = (i64, f64);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.indices.next()?, *self.buckets.next()?))
    }
}

impl DoubleEndedIterator for Paired<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some((self.indices.next_back()?, *self.buckets.next_back()?))
    }
}

impl Histogram {
    /// Whether its bounds are listed rather than computed.
    #[must_use]
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// Index and count of each positive bucket.
    pub fn positive_counts(&self) -> impl Iterator<Item = (i64, i64)> + Clone {
        BucketIndices::new(&self.positive_spans).zip(from_deltas(&self.positive_buckets))
    }

    /// Index and count of each negative bucket.
    pub fn negative_counts(&self) -> impl Iterator<Item = (i64, i64)> + Clone {
        BucketIndices::new(&self.negative_spans).zip(from_deltas(&self.negative_buckets))
    }

    /// The same histogram with float counts.
    #[must_use]
    pub fn to_float(&self) -> FloatHistogram {
        let floats = |deltas: &[i64]| from_deltas(deltas).map(|count| count as f64).collect();
        let custom = self.uses_custom_buckets();
        FloatHistogram {
            counter_reset_hint: self.counter_reset_hint,
            schema: self.schema,
            zero_threshold: if custom { 0.0 } else { self.zero_threshold },
            zero_count: if custom { 0.0 } else { self.zero_count as f64 },
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: if custom { Vec::new() } else { self.negative_spans.clone() },
            positive_buckets: floats(&self.positive_buckets),
            negative_buckets: if custom { Vec::new() } else { floats(&self.negative_buckets) },
            custom_values: if custom { self.custom_values.clone() } else { Vec::new() },
        }
    }
}

/// Counts from differences.
pub(super) fn from_deltas(deltas: &[i64]) -> impl Iterator<Item = i64> + Clone {
    deltas.iter().scan(0_i64, |count, delta| {
        *count = count.wrapping_add(*delta);
        Some(*count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> FloatHistogram {
        FloatHistogram {
            schema: 0,
            zero_threshold: 0.3,
            zero_count: 2.0,
            count: 17.0,
            positive_spans: vec![
                Span { offset: -1, length: 2 },
                Span { offset: 0, length: 0 },
                Span { offset: 1, length: 1 },
            ],
            positive_buckets: vec![1.0, 2.0, 3.0],
            negative_spans: vec![Span { offset: 0, length: 1 }, Span { offset: 2, length: 1 }],
            negative_buckets: vec![4.0, 5.0],
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn all_buckets_ascend_and_are_cut_at_the_zero_bucket() {
        let buckets: Vec<_> =
            histogram().all_buckets().map(|bucket| (bucket.lower, bucket.upper, bucket.count)).collect();
        assert_eq!(
            buckets,
            [(-8.0, -4.0, 5.0), (-1.0, -0.5, 4.0), (-0.3, 0.3, 2.0), (0.3, 0.5, 1.0), (0.5, 1.0, 2.0), (2.0, 4.0, 3.0)]
        );
    }

    #[test]
    fn buckets_read_backwards_are_the_same() {
        let histogram = histogram();
        let mut backwards: Vec<_> = histogram.all_buckets().rev().collect();
        backwards.reverse();
        assert_eq!(backwards, histogram.all_buckets().collect::<Vec<_>>());
    }

    #[test]
    fn custom_buckets_include_their_upper_bounds() {
        let histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![1.0, 2.0, 3.0],
            custom_values: vec![5.0, 10.0],
            ..FloatHistogram::default()
        };
        let bounds: Vec<_> = histogram
            .all_buckets()
            .map(|bucket| (bucket.lower, bucket.lower_inclusive, bucket.upper, bucket.upper_inclusive))
            .collect();
        assert_eq!(
            bounds,
            [(f64::NEG_INFINITY, true, 5.0, true), (5.0, false, 10.0, true), (10.0, false, f64::INFINITY, true)]
        );
    }
}
