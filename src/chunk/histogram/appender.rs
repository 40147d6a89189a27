//! Writing a chunk of histograms, with the original's rules for when it is recoded and when the next one begins.

use bytes::Bytes;

use super::iter::{HistogramIter, State};
use super::kind::Kind;
use super::layout::Layout;
use super::spans::{Lacks, union};
use super::{HEADER, counter_reset, reset_bits};
use crate::chunk::start_time::StartTime;
use crate::chunk::{ChunkError, EncodedChunk, Encoding, varbit};
use crate::codec::BitWriter;
use crate::model::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Native as _, Span, is_stale};

/// What an append did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The sample was put behind the others.
    InPlace,
    /// The chunk was written anew with more buckets, then the sample was put behind the others.
    Recoded,
    /// The chunk was finished and the sample begins the next one, which the appender now holds.
    NewChunk {
        /// The chunk before.
        finished: EncodedChunk,
        /// What the header of the new chunk says of the step between the two.
        counter_reset: CounterResetHint,
    },
}

/// An open chunk of histograms.
#[derive(Debug, Clone)]
pub struct Appender<K> {
    writer: BitWriter,
    state: State<K>,
    reset: CounterResetHint,
    count: u16,
}

/// Whether a histogram can follow in the chunk.
enum Fit {
    AsItIs,
    /// After `recode`ing the chunk for these spans, and with the histogram's buckets laid out for them.
    With {
        recode: bool,
        positive: Vec<Span>,
        negative: Vec<Span>,
    },
    /// No; with the counter reset header for the next chunk.
    Not(CounterResetHint),
}

impl<K: Kind> Default for Appender<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> Appender<K> {
    /// An empty chunk without start timestamps: encoding 2 or 3.
    #[must_use]
    pub fn new() -> Self {
        Self {
            writer: BitWriter::with_header(HEADER),
            state: State::default(),
            reset: CounterResetHint::Unknown,
            count: 0,
        }
    }

    /// An empty chunk with start timestamps: encoding 5 or 6.
    #[must_use]
    pub fn with_start_timestamps() -> Self {
        let mut appender = Self::new();
        appender.state.start = Some(StartTime::default());
        appender
    }

    /// An empty chunk of the same encoding.
    fn another(&self) -> Self {
        if self.state.start.is_some() { Self::with_start_timestamps() } else { Self::new() }
    }

    /// Goes on with a chunk that was written before.
    ///
    /// # Errors
    /// [`ChunkError::UnknownEncoding`] if the encoding is not this kind's; others as reading it.
    pub fn resume(encoding: Encoding, data: &[u8]) -> Result<Self, ChunkError> {
        if encoding != K::ENCODING && encoding != K::ENCODING_ST {
            return Err(ChunkError::UnknownEncoding(encoding.byte()));
        }
        let mut iter = HistogramIter::<K>::new(data, encoding == K::ENCODING_ST);
        while let Some(read) = iter.advance() {
            read?;
        }
        let count = iter.promised();
        let bits = if count == 0 { HEADER * 8 } else { iter.reader.position() };
        Ok(Self {
            writer: BitWriter::resume(data.to_vec(), bits),
            state: iter.state,
            reset: counter_reset(encoding, data).unwrap_or_default(),
            count,
        })
    }

    /// Appends a histogram whose start is unknown. See [`append_with_start`](Self::append_with_start).
    ///
    /// # Errors
    /// As there.
    pub fn append(&mut self, t: i64, histogram: &K::Histogram) -> Result<Appended, ChunkError> {
        self.append_with_start(0, t, histogram)
    }

    /// Appends a histogram. Where it does not fit the chunk, the chunk is recoded or finished; see [`Appended`]. `st` is
    /// dropped by the encodings that cannot store it.
    ///
    /// # Errors
    /// [`ChunkError::Full`] at [`capacity`](Self::capacity), [`ChunkError::Inconsistent`] if the histogram has more or
    /// fewer buckets than its spans say. Nothing is changed then.
    pub fn append_with_start(&mut self, st: i64, t: i64, histogram: &K::Histogram) -> Result<Appended, ChunkError> {
        if !histogram.parts().is_consistent() {
            return Err(ChunkError::Inconsistent);
        }
        if self.sample_count() >= self.capacity() {
            return Err(ChunkError::Full(self.capacity()));
        }
        if self.count == 0 {
            self.reset = match histogram.parts().counter_reset_hint {
                CounterResetHint::NotCounterReset => CounterResetHint::Unknown,
                told => told,
            };
            self.put(st, t, histogram);
            return Ok(Appended::InPlace);
        }
        match self.fit(histogram) {
            Fit::AsItIs => {
                self.put(st, t, histogram);
                Ok(Appended::InPlace)
            }
            Fit::With { recode, positive, negative } => {
                if recode {
                    *self = self.recoded(&positive, &negative)?;
                }
                let mut wider = histogram.clone();
                K::spread(&mut wider, &positive, &negative);
                self.put(st, t, &wider);
                Ok(if recode { Appended::Recoded } else { Appended::InPlace })
            }
            Fit::Not(counter_reset) => {
                let finished = self.take();
                self.reset = counter_reset;
                self.put(st, t, histogram);
                Ok(Appended::NewChunk { finished, counter_reset })
            }
        }
    }

    /// Finishes the chunk whatever would fit, and begins the next one with this histogram; its header tells how the two
    /// compare. This is for chunks that are cut for their size or their time.
    ///
    /// # Errors
    /// [`ChunkError::Inconsistent`] as [`append_with_start`](Self::append_with_start).
    pub fn cut(&mut self, st: i64, t: i64, histogram: &K::Histogram) -> Result<EncodedChunk, ChunkError> {
        self.cut_to(self.has_start_timestamps(), st, t, histogram)
    }

    /// [`cut`](Self::cut), to a chunk with start timestamps or to one without.
    ///
    /// # Errors
    /// As there.
    pub fn cut_to(
        &mut self,
        with_start_timestamps: bool,
        st: i64,
        t: i64,
        histogram: &K::Histogram,
    ) -> Result<EncodedChunk, ChunkError> {
        if !histogram.parts().is_consistent() {
            return Err(ChunkError::Inconsistent);
        }
        let counter_reset = self.reset_before(histogram);
        let finished = self.take();
        self.state.start = with_start_timestamps.then(StartTime::default);
        self.reset = counter_reset;
        self.put(st, t, histogram);
        Ok(finished)
    }

    /// What the header of a new chunk says if `histogram` begins it after this chunk.
    fn reset_before(&self, histogram: &K::Histogram) -> CounterResetHint {
        let hint = histogram.parts().counter_reset_hint;
        if matches!(hint, CounterResetHint::Gauge | CounterResetHint::CounterReset) {
            return hint;
        }
        match self.fit_counter(histogram) {
            Fit::Not(CounterResetHint::CounterReset) => CounterResetHint::CounterReset,
            Fit::Not(told) if K::TELLS_NOT_RESET => told,
            _ => CounterResetHint::NotCounterReset,
        }
    }

    fn fit(&self, histogram: &K::Histogram) -> Fit {
        match histogram.parts().counter_reset_hint {
            CounterResetHint::Gauge => self.fit_gauge(histogram),
            _ => match self.fit_counter(histogram) {
                Fit::Not(CounterResetHint::NotCounterReset) if !K::TELLS_NOT_RESET => {
                    Fit::Not(CounterResetHint::Unknown)
                }
                fit => fit,
            },
        }
    }

    /// Whether a counter's histogram fits. The order of the questions decides what the header tells, so it is the
    /// original's.
    fn fit_counter(&self, histogram: &K::Histogram) -> Fit {
        const RESET: Fit = Fit::Not(CounterResetHint::CounterReset);
        let State { layout, counts, .. } = &self.state;
        let parts = histogram.parts();
        if self.count > 0 && self.reset == CounterResetHint::Gauge {
            return Fit::Not(CounterResetHint::NotCounterReset);
        }
        if parts.counter_reset_hint == CounterResetHint::CounterReset {
            return RESET;
        }
        if is_stale(parts.sum) {
            return Fit::AsItIs;
        }
        if counts.is_stale() {
            return Fit::Not(CounterResetHint::Unknown);
        }
        if counts.count_fell(histogram) {
            return RESET;
        }
        if !self.same_resolution(histogram) {
            return Fit::Not(CounterResetHint::Unknown);
        }
        if !self.same_bounds(histogram) || counts.zero_count_fell(histogram) {
            return RESET;
        }
        let Some([positive, negative]) = counts.compare(layout, histogram) else { return RESET };
        let recode = positive.chunk || negative.chunk;
        let spread = positive.histogram || negative.histogram;
        let wider = |ours: &[Span], theirs: &[Span], lacks: Lacks| {
            if lacks.histogram { union(ours, theirs).0 } else { theirs.to_vec() }
        };
        match (recode, spread) {
            (false, false) => Fit::AsItIs,
            (false, true) => Fit::With { recode, positive: layout.positive.clone(), negative: layout.negative.clone() },
            (true, _) => Fit::With {
                recode,
                positive: wider(&layout.positive, parts.positive_spans, positive),
                negative: wider(&layout.negative, parts.negative_spans, negative),
            },
        }
    }

    /// Whether a gauge's histogram fits: any counts do.
    fn fit_gauge(&self, histogram: &K::Histogram) -> Fit {
        const NOT: Fit = Fit::Not(CounterResetHint::Gauge);
        let State { layout, counts, .. } = &self.state;
        let parts = histogram.parts();
        if self.reset != CounterResetHint::Gauge {
            return NOT;
        }
        if is_stale(parts.sum) {
            return Fit::AsItIs;
        }
        if counts.is_stale() || !self.same_resolution(histogram) || !self.same_bounds(histogram) {
            return NOT;
        }
        let (positive, positive_lacks) = union(&layout.positive, parts.positive_spans);
        let (negative, negative_lacks) = union(&layout.negative, parts.negative_spans);
        let recode = positive_lacks.chunk || negative_lacks.chunk;
        let spread = positive_lacks.histogram || negative_lacks.histogram;
        match (recode, spread) {
            (false, false) => Fit::AsItIs,
            (_, true) => Fit::With { recode, positive, negative },
            (true, false) => {
                Fit::With { recode, positive: parts.positive_spans.to_vec(), negative: parts.negative_spans.to_vec() }
            }
        }
    }

    fn same_resolution(&self, histogram: &K::Histogram) -> bool {
        let parts = histogram.parts();
        parts.schema == self.state.layout.schema && parts.zero_threshold == self.state.layout.zero_threshold
    }

    fn same_bounds(&self, histogram: &K::Histogram) -> bool {
        let parts = histogram.parts();
        parts.schema != CUSTOM_BUCKETS_SCHEMA || parts.custom_values == self.state.layout.custom_values
    }

    /// Writes the sample; it fits.
    fn put(&mut self, st: i64, t: i64, histogram: &K::Histogram) {
        let stale;
        let mut histogram = histogram;
        if is_stale(histogram.parts().sum) {
            stale = K::Histogram::stale(histogram.parts().sum);
            histogram = &stale;
        }
        let State { layout, t: last_t, t_delta, counts, start } = &mut self.state;
        let writer = &mut self.writer;
        let t_before = *last_t;
        if self.count == 0 {
            let parts = histogram.parts();
            *layout = Layout {
                schema: parts.schema,
                zero_threshold: parts.zero_threshold,
                positive: parts.positive_spans.to_vec(),
                negative: parts.negative_spans.to_vec(),
                custom_values: parts.custom_values.to_vec(),
            };
            layout.write(writer);
            varbit::write_int(writer, t);
            counts.write_first(writer, histogram);
        } else {
            let delta = t.wrapping_sub(t_before);
            varbit::write_int(writer, delta.wrapping_sub(*t_delta));
            *t_delta = delta;
            counts.write_next(writer, histogram);
        }
        *last_t = t;
        if let Some(start) = start {
            start.write(writer, usize::from(self.count), t_before, t, st);
        }
        self.count += 1;
    }

    /// The same samples with more buckets.
    fn recoded(&mut self, positive: &[Span], negative: &[Span]) -> Result<Self, ChunkError> {
        let mut wider = self.another();
        wider.reset = self.reset;
        let with_st = self.state.start.is_some();
        for sample in HistogramIter::<K>::new(self.as_bytes(), with_st) {
            let (st, t, mut histogram) = sample?;
            if !is_stale(histogram.parts().sum) {
                K::spread(&mut histogram, positive, negative);
            }
            wider.put(st, t, &histogram);
        }
        Ok(wider)
    }

    /// Sets what the header tells of the chunk before: for a chunk that is copied with samples left out, say.
    pub fn set_counter_reset(&mut self, told: CounterResetHint) {
        self.reset = told;
    }

    /// What the header tells of the chunk before.
    #[must_use]
    pub fn counter_reset(&self) -> CounterResetHint {
        self.reset
    }

    /// The encoding of the chunk.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        if self.state.start.is_some() { K::ENCODING_ST } else { K::ENCODING }
    }

    /// Whether it is a chunk with start timestamps.
    #[must_use]
    pub fn has_start_timestamps(&self) -> bool {
        self.state.start.is_some()
    }

    /// The most samples that the header can count.
    #[must_use]
    pub fn capacity(&self) -> usize {
        if self.state.start.is_some() { 0x3fff } else { 0xffff }
    }

    /// Samples so far.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        usize::from(self.count)
    }

    /// The time of the last sample, if there is one.
    #[must_use]
    pub fn last_time(&self) -> Option<i64> {
        (self.count > 0).then_some(self.state.t)
    }

    /// Bytes of the chunk so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.writer.len()
    }

    fn header(&self) -> [u8; HEADER] {
        let [high, low] = self.count.to_be_bytes();
        match self.state.start {
            Some(start) => [high & 0x3f | reset_bits(self.reset), low, start.header()],
            None => [high, low, reset_bits(self.reset)],
        }
    }

    /// The chunk as it is now: valid at any time.
    pub fn as_bytes(&mut self) -> &[u8] {
        let header = self.header();
        let bytes = self.writer.as_mut_bytes();
        put_header(bytes, header);
        bytes
    }

    /// A copy of the chunk as it is now.
    #[must_use]
    pub fn to_chunk(&self) -> EncodedChunk {
        let mut data = self.writer.to_vec();
        put_header(&mut data, self.header());
        EncodedChunk { encoding: self.encoding(), data: data.into() }
    }

    /// Takes the chunk out, in exactly as much memory as it needs, and leaves an empty one of the same encoding.
    #[must_use]
    pub fn take(&mut self) -> EncodedChunk {
        let chunk = EncodedChunk { encoding: self.encoding(), data: Bytes::copy_from_slice(self.as_bytes()) };
        *self = self.another();
        chunk
    }
}

fn put_header(data: &mut [u8], header: [u8; HEADER]) {
    if let Some(place) = data.first_chunk_mut() {
        *place = header;
    }
}
