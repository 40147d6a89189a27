//! Values made of a fuzzer's bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    BucketIndices, CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Histogram, STALE_NAN_BITS, Sample, Span,
    Value,
};

/// Buckets by index.
type Counts = BTreeMap<i64, i64>;

/// Bytes that are taken from the front; zeros when there are no more.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    pub(super) fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[usize::from(self.byte()) % N]
    }

    /// A time after `t` as a rule: the same step again, a little off, far away, or before.
    pub(super) fn time(&mut self, t: i64, step: &mut i64) -> i64 {
        match self.byte() % 8 {
            0..=3 => {}
            4 => *step = step.wrapping_add(i64::from(self.byte().cast_signed())),
            5 => *step = step.wrapping_add(i64::from(self.byte()) << 11),
            6 => *step = (self.word() >> (self.byte() & 63)).cast_signed(),
            _ => *step = self.word().cast_signed(),
        }
        t.wrapping_add(*step)
    }

    /// A value near `value`, a special one, or any.
    pub(super) fn float(&mut self, value: f64) -> f64 {
        match self.byte() % 8 {
            0 | 1 => value,
            2 => value + 1.0,
            3 => value + f64::from(self.byte()) / 100.0,
            4 => f64::from_bits(value.to_bits() ^ (u64::from(self.byte()) << (self.byte() % 57))),
            5 => self.pick([0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE]),
            6 => f64::from_bits(STALE_NAN_BITS),
            _ => f64::from_bits(self.word()),
        }
    }

    /// A start timestamp: none, the last one, the sample before, or any.
    pub(super) fn start(&mut self, last: i64, t: i64) -> i64 {
        match self.byte() % 8 {
            0..=2 => last,
            3 => 0,
            4 | 5 => t.wrapping_sub(i64::from(self.byte())),
            6 => t,
            _ => self.word().cast_signed(),
        }
    }

    fn spans(&mut self, first_may_be_negative: bool) -> Vec<Span> {
        let spans = usize::from(self.byte() % 4);
        let mut spans: Vec<_> = (0..spans)
            .map(|_| Span { offset: i32::from(self.byte() % 4), length: u32::from(self.byte() % 5) })
            .collect();
        if let (Some(first), true) = (spans.first_mut(), first_may_be_negative) {
            first.offset -= 3;
        }
        spans
    }

    /// Spans that are others, and have the filled buckets of `before` or all of them as well, unless they have none.
    fn other_spans(&mut self, first_may_be_negative: bool, before: &Counts) -> Vec<Span> {
        let keep = self.byte() % 8;
        let fresh = self.spans(first_may_be_negative);
        if keep == 0 {
            return fresh;
        }
        let mut indices: BTreeSet<_> = BucketIndices::new(&fresh).collect();
        indices.extend(before.iter().filter(|(_, count)| keep > 4 || **count > 0).map(|(index, _)| index));
        let mut spans: Vec<Span> = Vec::new();
        let mut next = 0;
        for index in indices {
            match spans.last_mut() {
                Some(span) if next == index => span.length += 1,
                _ => spans.push(Span { offset: (index - next) as i32, length: 1 }),
            }
            next = index + 1;
        }
        spans
    }

    /// Counts of the buckets in `spans`, as deltas, each somewhat larger than before.
    fn grown(&mut self, spans: &[Span], before: &Counts) -> Vec<i64> {
        let mut last = 0;
        let mut delta = |count: i64| count - std::mem::replace(&mut last, count);
        let mut grow = |index| {
            let more = match self.byte() {
                255 => self.word().cast_signed() >> 20,
                byte => i64::from(byte % 16),
            };
            delta((before.get(&index).copied().unwrap_or(0) + more).clamp(0, 1 << 50))
        };
        BucketIndices::new(spans).map(&mut grow).collect()
    }

    /// A valid histogram with integer counts: the last one grown a little, or any.
    pub(super) fn histogram(&mut self, last: &Histogram) -> Histogram {
        let choice = self.byte();
        if choice % 16 == 15 {
            return Histogram { sum: f64::from_bits(STALE_NAN_BITS), ..Histogram::default() };
        }
        let mut next = last.clone();
        next.counter_reset_hint = CounterResetHint::Unknown;
        if choice.is_multiple_of(16) || crate::model::is_stale(last.sum) {
            let custom = choice & 64 != 0;
            next = Histogram {
                schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { i32::from(self.byte() % 13) - 4 },
                zero_threshold: if custom { 0.0 } else { self.pick([0.0, 0.001, 1.0, 2_f64.powi(-128)]) },
                positive_spans: self.spans(!custom),
                negative_spans: if custom { Vec::new() } else { self.spans(true) },
                ..Histogram::default()
            };
            let custom_values = if custom { 16 + u16::from(self.byte() % 2) } else { 0 };
            next.custom_values = (0..custom_values).map(|bound| f64::from(bound) * self.pick([0.5, 0.01])).collect();
            next.custom_values.sort_by(f64::total_cmp);
            next.custom_values.dedup();
        }
        // Other buckets of the same resolution, with the last ones (a chunk is recoded) or without (a reset, if one was in
        // use; otherwise the histogram is given empty ones).
        let (before_positive, before_negative): (Counts, Counts) =
            (next.positive_counts().collect(), next.negative_counts().collect());
        if choice % 4 == 1 {
            let custom = next.schema == CUSTOM_BUCKETS_SCHEMA;
            next.positive_spans = self.other_spans(!custom, &before_positive);
            if !custom {
                next.negative_spans = self.other_spans(true, &before_negative);
            }
        }
        if choice & 32 != 0 {
            next.counter_reset_hint = self.pick([
                CounterResetHint::Gauge,
                CounterResetHint::Gauge,
                CounterResetHint::CounterReset,
                CounterResetHint::NotCounterReset,
            ]);
        }
        next.positive_buckets = self.grown(&next.positive_spans, &before_positive);
        next.negative_buckets = self.grown(&next.negative_spans, &before_negative);
        if next.schema != CUSTOM_BUCKETS_SCHEMA {
            next.zero_count += u64::from(self.byte() % 4);
        }
        let filled = next.positive_counts().chain(next.negative_counts()).map(|(_, count)| count.cast_unsigned());
        next.count = filled.sum::<u64>() + next.zero_count;
        next.sum = self.float(next.sum);
        if crate::model::is_stale(next.sum) {
            next.sum = 1.0;
        }
        next
    }

    /// A valid histogram with float counts: one with integer counts, halved.
    pub(super) fn float_histogram(&mut self, last: &Histogram) -> (Histogram, FloatHistogram) {
        let next = self.histogram(last);
        let mut float = next.to_float();
        for count in float.positive_buckets.iter_mut().chain(&mut float.negative_buckets) {
            *count /= 2.0;
        }
        (next, float)
    }

    /// Samples of one series, times in order, values of any kind.
    pub(super) fn samples(&mut self) -> Vec<Sample> {
        let (mut t, mut step, mut value, mut histogram) = (0_i64, 1000_i64, 0.0, Histogram::default());
        let mut samples = Vec::new();
        while !self.is_empty() && samples.len() < 1000 {
            let next = self.time(t, &mut step);
            t = if next > t { next } else { t.saturating_add(1) };
            let st = if self.byte() % 8 == 7 { self.start(0, t) } else { 0 };
            let sample_value = match self.byte() % 8 {
                0..=3 => {
                    value = self.float(value);
                    Value::Float(value)
                }
                4 | 5 => {
                    histogram = self.histogram(&histogram);
                    Value::Histogram(Box::new(histogram.clone()))
                }
                _ => {
                    let (integers, floats) = self.float_histogram(&histogram);
                    histogram = integers;
                    Value::FloatHistogram(Box::new(floats))
                }
            };
            samples.push(Sample { t, st, value: sample_value });
        }
        samples
    }
}
