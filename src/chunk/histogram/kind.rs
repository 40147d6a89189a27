//! The two kinds of native histograms: what differs between integer and float counts.

use std::fmt::Debug;

use super::layout::Layout;
use super::spans::{Lacks, compare, spread};
use crate::chunk::xor::{WIDE, Window, read_xor, write_xor};
use crate::chunk::{Encoding, varbit};
use crate::codec::{BitReader, BitWriter};
use crate::model::{
    CounterResetHint, EXPONENTIAL_SCHEMA_MAX, FloatHistogram, Histogram, Native, STALE_NAN_BITS, Span, Value, is_stale,
};

/// A kind of native histogram, with what a writer or a reader knows of the last one in the chunk. Implemented by
/// [`Integers`] and [`Floats`], and by nothing else.
pub trait Kind: Default + Clone + Debug + sealed::State {}

impl Kind for Integers {}
impl Kind for Floats {}

pub(super) mod sealed {
    use super::*;

    pub trait State: Sized {
        /// The histogram itself.
        type Histogram: Native;
        const ENCODING: Encoding;
        const ENCODING_ST: Encoding;
        /// Whether a chunk's header tells more than "reset": integers say "not reset" and "unknown" where floats do not.
        const TELLS_NOT_RESET: bool;

        /// Lays the buckets out for spans that have all of the histogram's.
        fn spread(histogram: &mut Self::Histogram, positive: &[Span], negative: &[Span]);
        fn value(histogram: Self::Histogram) -> Value;

        fn is_stale(&self) -> bool;
        /// Whether the count of all observations is less than the last one.
        fn count_fell(&self, histogram: &Self::Histogram) -> bool;
        fn zero_count_fell(&self, histogram: &Self::Histogram) -> bool;
        /// [`compare`] on both sides; `None` is a reset.
        fn compare(&self, layout: &Layout, histogram: &Self::Histogram) -> Option<[Lacks; 2]>;

        fn write_first(&mut self, writer: &mut BitWriter, histogram: &Self::Histogram);
        fn write_next(&mut self, writer: &mut BitWriter, histogram: &Self::Histogram);
        fn read_first(&mut self, reader: &mut BitReader<'_>, positive: usize, negative: usize);
        fn read_next(&mut self, reader: &mut BitReader<'_>) -> Result<(), &'static str>;
        /// The last one read.
        fn histogram(&self, layout: &Layout, hint: CounterResetHint) -> Result<Self::Histogram, &'static str>;
    }
}

/// A float whose changes are XORed, each within the last window or a new one.
#[derive(Debug, Clone, Copy, Default)]
struct Xored {
    bits: u64,
    window: Window,
}

impl Xored {
    fn new(value: f64) -> Self {
        Self { bits: value.to_bits(), window: Window::NONE }
    }

    fn get(self) -> f64 {
        f64::from_bits(self.bits)
    }

    fn write_first(&mut self, writer: &mut BitWriter, value: f64) {
        *self = Self::new(value);
        writer.bits(self.bits, 64);
    }

    fn write(&mut self, writer: &mut BitWriter, value: f64) {
        write_xor(writer, &mut self.window, self.bits ^ value.to_bits(), 0, 0);
        self.bits = value.to_bits();
    }

    fn read_first(reader: &mut BitReader<'_>) -> Self {
        Self { bits: reader.bits(64), window: Window::NONE }
    }

    fn read(&mut self, reader: &mut BitReader<'_>) -> Result<(), &'static str> {
        self.bits ^= read_xor(reader, &mut self.window).ok_or(WIDE)?;
        Ok(())
    }
}

/// A number whose changes are deltas of deltas.
#[derive(Debug, Clone, Copy, Default)]
struct Dod {
    value: i64,
    delta: i64,
}

impl Dod {
    fn new(value: i64) -> Self {
        Self { value, delta: 0 }
    }

    fn write(&mut self, writer: &mut BitWriter, value: i64) {
        let delta = value.wrapping_sub(self.value);
        varbit::write_int(writer, delta.wrapping_sub(self.delta));
        *self = Self { value, delta };
    }

    fn read(&mut self, reader: &mut BitReader<'_>) {
        self.delta = self.delta.wrapping_add(varbit::read_int(reader));
        self.value = self.value.wrapping_add(self.delta);
    }
}

/// Counts from a bucket's number each being the difference to the one before.
fn counts(deltas: impl IntoIterator<Item = i64>) -> impl Iterator<Item = i64> {
    deltas.into_iter().scan(0_i64, |count, delta| {
        *count = count.wrapping_add(delta);
        Some(*count)
    })
}

fn spread_deltas(from: &[Span], to: &[Span], deltas: &[i64]) -> Vec<i64> {
    let mut last = 0_i64;
    let mut spread = spread(from, to, counts(deltas.iter().copied()));
    for count in &mut spread {
        let delta = count.wrapping_sub(last);
        last = std::mem::replace(count, delta);
    }
    spread
}

/// Native histograms with integer counts.
#[derive(Debug, Clone, Default)]
pub struct Integers {
    count: Dod,
    zero_count: Dod,
    sum: Xored,
    positive: Vec<Dod>,
    negative: Vec<Dod>,
}

impl sealed::State for Integers {
    type Histogram = Histogram;
    const ENCODING: Encoding = Encoding::Histogram;
    const ENCODING_ST: Encoding = Encoding::HistogramSt;
    const TELLS_NOT_RESET: bool = true;

    fn spread(histogram: &mut Histogram, positive: &[Span], negative: &[Span]) {
        let Histogram { positive_spans, negative_spans, positive_buckets, negative_buckets, .. } = histogram;
        *positive_buckets = spread_deltas(positive_spans, positive, positive_buckets);
        *negative_buckets = spread_deltas(negative_spans, negative, negative_buckets);
        *positive_spans = positive.to_vec();
        *negative_spans = negative.to_vec();
    }

    fn value(histogram: Histogram) -> Value {
        Value::Histogram(Box::new(histogram))
    }

    fn is_stale(&self) -> bool {
        self.sum.bits == STALE_NAN_BITS
    }

    fn count_fell(&self, histogram: &Histogram) -> bool {
        histogram.count < self.count.value.cast_unsigned()
    }

    fn zero_count_fell(&self, histogram: &Histogram) -> bool {
        histogram.zero_count < self.zero_count.value.cast_unsigned()
    }

    fn compare(&self, layout: &Layout, histogram: &Histogram) -> Option<[Lacks; 2]> {
        let side = |spans: &[Span], state: &[Dod], theirs: &[Span], buckets: &[i64]| {
            let ours = counts(state.iter().map(|bucket| bucket.value));
            compare(spans, ours, theirs, counts(buckets.iter().copied()))
        };
        Some([
            side(&layout.positive, &self.positive, &histogram.positive_spans, &histogram.positive_buckets)?,
            side(&layout.negative, &self.negative, &histogram.negative_spans, &histogram.negative_buckets)?,
        ])
    }

    fn write_first(&mut self, writer: &mut BitWriter, histogram: &Histogram) {
        self.count = Dod::new(histogram.count.cast_signed());
        self.zero_count = Dod::new(histogram.zero_count.cast_signed());
        varbit::write_uint(writer, histogram.count);
        varbit::write_uint(writer, histogram.zero_count);
        self.sum.write_first(writer, histogram.sum);
        for (state, buckets) in
            [(&mut self.positive, &histogram.positive_buckets), (&mut self.negative, &histogram.negative_buckets)]
        {
            state.clear();
            state.extend(buckets.iter().map(|&bucket| Dod::new(bucket)));
            for &bucket in buckets {
                varbit::write_int(writer, bucket);
            }
        }
    }

    fn write_next(&mut self, writer: &mut BitWriter, histogram: &Histogram) {
        if is_stale(histogram.sum) {
            writer.bits(0, 2);
            (self.count, self.zero_count) = (Dod::default(), Dod::default());
        } else {
            self.count.write(writer, histogram.count.cast_signed());
            self.zero_count.write(writer, histogram.zero_count.cast_signed());
        }
        self.sum.write(writer, histogram.sum);
        for (state, buckets) in
            [(&mut self.positive, &histogram.positive_buckets), (&mut self.negative, &histogram.negative_buckets)]
        {
            for (state, &bucket) in state.iter_mut().zip(buckets) {
                state.write(writer, bucket);
            }
        }
    }

    fn read_first(&mut self, reader: &mut BitReader<'_>, positive: usize, negative: usize) {
        self.count = Dod::new(varbit::read_uint(reader).cast_signed());
        self.zero_count = Dod::new(varbit::read_uint(reader).cast_signed());
        self.sum = Xored::read_first(reader);
        self.positive = (0..positive).map(|_| Dod::new(varbit::read_int(reader))).collect();
        self.negative = (0..negative).map(|_| Dod::new(varbit::read_int(reader))).collect();
    }

    fn read_next(&mut self, reader: &mut BitReader<'_>) -> Result<(), &'static str> {
        self.count.read(reader);
        self.zero_count.read(reader);
        self.sum.read(reader)?;
        if !self.is_stale() {
            for bucket in self.positive.iter_mut().chain(&mut self.negative) {
                bucket.read(reader);
            }
        }
        Ok(())
    }

    fn histogram(&self, layout: &Layout, hint: CounterResetHint) -> Result<Histogram, &'static str> {
        if self.is_stale() {
            return Ok(Histogram::stale(self.sum.get()));
        }
        let mut histogram = Histogram {
            counter_reset_hint: hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            zero_count: self.zero_count.value.cast_unsigned(),
            count: self.count.value.cast_unsigned(),
            sum: self.sum.get(),
            positive_spans: layout.positive.clone(),
            negative_spans: layout.negative.clone(),
            positive_buckets: self.positive.iter().map(|bucket| bucket.value).collect(),
            negative_buckets: self.negative.iter().map(|bucket| bucket.value).collect(),
            custom_values: layout.custom_values.clone(),
        };
        if histogram.schema > EXPONENTIAL_SCHEMA_MAX {
            histogram.reduce_resolution(EXPONENTIAL_SCHEMA_MAX).map_err(|_| UNREDUCIBLE)?;
        }
        Ok(histogram)
    }
}

const UNREDUCIBLE: &str = "a histogram of a resolution beyond what can be used, with spans that cannot be merged";

/// Native histograms with float counts.
#[derive(Debug, Clone, Default)]
pub struct Floats {
    count: Xored,
    zero_count: Xored,
    sum: Xored,
    positive: Vec<Xored>,
    negative: Vec<Xored>,
}

impl sealed::State for Floats {
    type Histogram = FloatHistogram;
    const ENCODING: Encoding = Encoding::FloatHistogram;
    const ENCODING_ST: Encoding = Encoding::FloatHistogramSt;
    const TELLS_NOT_RESET: bool = false;

    fn spread(histogram: &mut FloatHistogram, positive: &[Span], negative: &[Span]) {
        let FloatHistogram { positive_spans, negative_spans, positive_buckets, negative_buckets, .. } = histogram;
        *positive_buckets = spread(positive_spans, positive, positive_buckets.iter().copied());
        *negative_buckets = spread(negative_spans, negative, negative_buckets.iter().copied());
        *positive_spans = positive.to_vec();
        *negative_spans = negative.to_vec();
    }

    fn value(histogram: FloatHistogram) -> Value {
        Value::FloatHistogram(Box::new(histogram))
    }

    fn is_stale(&self) -> bool {
        self.sum.bits == STALE_NAN_BITS
    }

    fn count_fell(&self, histogram: &FloatHistogram) -> bool {
        histogram.count < self.count.get()
    }

    fn zero_count_fell(&self, histogram: &FloatHistogram) -> bool {
        histogram.zero_count < self.zero_count.get()
    }

    fn compare(&self, layout: &Layout, histogram: &FloatHistogram) -> Option<[Lacks; 2]> {
        let side = |spans: &[Span], state: &[Xored], theirs: &[Span], buckets: &[f64]| {
            compare(spans, state.iter().map(|bucket| bucket.get()), theirs, buckets.iter().copied())
        };
        Some([
            side(&layout.positive, &self.positive, &histogram.positive_spans, &histogram.positive_buckets)?,
            side(&layout.negative, &self.negative, &histogram.negative_spans, &histogram.negative_buckets)?,
        ])
    }

    fn write_first(&mut self, writer: &mut BitWriter, histogram: &FloatHistogram) {
        self.count.write_first(writer, histogram.count);
        self.zero_count.write_first(writer, histogram.zero_count);
        self.sum.write_first(writer, histogram.sum);
        for (state, buckets) in
            [(&mut self.positive, &histogram.positive_buckets), (&mut self.negative, &histogram.negative_buckets)]
        {
            state.clear();
            state.extend(buckets.iter().map(|&bucket| Xored::new(bucket)));
            for bucket in buckets {
                writer.bits(bucket.to_bits(), 64);
            }
        }
    }

    fn write_next(&mut self, writer: &mut BitWriter, histogram: &FloatHistogram) {
        self.count.write(writer, histogram.count);
        self.zero_count.write(writer, histogram.zero_count);
        self.sum.write(writer, histogram.sum);
        for (state, buckets) in
            [(&mut self.positive, &histogram.positive_buckets), (&mut self.negative, &histogram.negative_buckets)]
        {
            for (state, &bucket) in state.iter_mut().zip(buckets) {
                state.write(writer, bucket);
            }
        }
    }

    fn read_first(&mut self, reader: &mut BitReader<'_>, positive: usize, negative: usize) {
        self.count = Xored::read_first(reader);
        self.zero_count = Xored::read_first(reader);
        self.sum = Xored::read_first(reader);
        self.positive = (0..positive).map(|_| Xored::read_first(reader)).collect();
        self.negative = (0..negative).map(|_| Xored::read_first(reader)).collect();
    }

    fn read_next(&mut self, reader: &mut BitReader<'_>) -> Result<(), &'static str> {
        self.count.read(reader)?;
        self.zero_count.read(reader)?;
        self.sum.read(reader)?;
        if !self.is_stale() {
            for bucket in self.positive.iter_mut().chain(&mut self.negative) {
                bucket.read(reader)?;
            }
        }
        Ok(())
    }

    fn histogram(&self, layout: &Layout, hint: CounterResetHint) -> Result<FloatHistogram, &'static str> {
        if self.is_stale() {
            return Ok(FloatHistogram::stale(self.sum.get()));
        }
        let mut histogram = FloatHistogram {
            counter_reset_hint: hint,
            schema: layout.schema,
            zero_threshold: layout.zero_threshold,
            zero_count: self.zero_count.get(),
            count: self.count.get(),
            sum: self.sum.get(),
            positive_spans: layout.positive.clone(),
            negative_spans: layout.negative.clone(),
            positive_buckets: self.positive.iter().map(|bucket| bucket.get()).collect(),
            negative_buckets: self.negative.iter().map(|bucket| bucket.get()).collect(),
            custom_values: layout.custom_values.clone(),
        };
        if histogram.schema > EXPONENTIAL_SCHEMA_MAX {
            histogram.reduce_resolution(EXPONENTIAL_SCHEMA_MAX).map_err(|_| UNREDUCIBLE)?;
        }
        Ok(histogram)
    }
}
