//! Samples in, chunks out: for merges, rewrites and backfill.
//!
//! Where chunks begin is visible in a block's bytes, so the rules are Prometheus's: [`Rules::Merge`] is what its compaction
//! does with overlapping chunks, [`Rules::Bytes`] what it does with out-of-order samples. (The head has rules of its own,
//! which look at the clock.)

use super::histogram::is_consistent;
use super::{Appended, EncodedChunk, Encoding, FloatHistogramAppender, HistogramAppender, Xor2Appender, XorAppender};
use super::{ChunkError, samples};
use crate::model::{Sample, Value};

/// Samples after which a merged chunk ends.
const MERGED_SAMPLES: usize = 120;
/// Bytes above which a float chunk takes no further sample: 1024 less the longest sample.
const FLOAT_BYTES: usize = 1005;
/// Bytes above which a histogram chunk takes no further sample, if it has more than [`HISTOGRAM_SAMPLES`].
const HISTOGRAM_BYTES: usize = 1024;
/// See [`HISTOGRAM_BYTES`].
const HISTOGRAM_SAMPLES: usize = 10;

/// When a chunk ends, beside where it must: at another kind of value, a counter reset, other buckets' bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// After 120 samples.
    Merge,
    /// When it is full in bytes.
    Bytes,
}

/// A finished chunk and the times that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenChunk {
    /// The time of its first sample.
    pub min_time: i64,
    /// The time of its last sample.
    pub max_time: i64,
    /// How many samples it has.
    pub samples: usize,
    /// The chunk.
    pub chunk: EncodedChunk,
}

/// Cuts a series' samples into chunks. They are pushed in order of time; finished chunks come out as they are ready.
#[derive(Debug)]
pub struct ChunkWriter {
    /// `None`: only where a chunk must.
    rules: Option<Rules>,
    keep_start: bool,
    /// How floats without a start timestamp are encoded.
    floats: Encoding,
    open: Option<Open>,
    min_time: i64,
    max_time: i64,
}

#[derive(Debug)]
enum Open {
    Xor(XorAppender),
    Xor2(Xor2Appender),
    Integers(Box<HistogramAppender>),
    Floats(Box<FloatHistogramAppender>),
}

impl Open {
    fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Xor => Self::Xor(XorAppender::new()),
            Encoding::Xor2 => Self::Xor2(Xor2Appender::new()),
            Encoding::Histogram => Self::Integers(Box::default()),
            Encoding::HistogramSt => Self::Integers(Box::new(HistogramAppender::with_start_timestamps())),
            Encoding::FloatHistogram => Self::Floats(Box::default()),
            Encoding::FloatHistogramSt => Self::Floats(Box::new(FloatHistogramAppender::with_start_timestamps())),
        }
    }

    fn encoding(&self) -> Encoding {
        match self {
            Self::Xor(_) => Encoding::Xor,
            Self::Xor2(_) => Encoding::Xor2,
            Self::Integers(open) => open.encoding(),
            Self::Floats(open) => open.encoding(),
        }
    }

    fn samples(&self) -> usize {
        match self {
            Self::Xor(open) => open.sample_count(),
            Self::Xor2(open) => open.sample_count(),
            Self::Integers(open) => open.sample_count(),
            Self::Floats(open) => open.sample_count(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Xor(open) => open.len_bytes(),
            Self::Xor2(open) => open.len_bytes(),
            Self::Integers(open) => open.len_bytes(),
            Self::Floats(open) => open.len_bytes(),
        }
    }

    fn take(self) -> EncodedChunk {
        match self {
            Self::Xor(mut open) => open.take(),
            Self::Xor2(mut open) => open.take(),
            Self::Integers(mut open) => open.take(),
            Self::Floats(mut open) => open.take(),
        }
    }
}

impl ChunkWriter {
    /// A writer by `rules`. Samples with a start timestamp go into the encodings that can store it, which Thanos and
    /// older versions of Prometheus cannot read.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules: Some(rules), keep_start: true, floats: Encoding::Xor, open: None, min_time: 0, max_time: 0 }
    }

    /// A writer that drops start timestamps and so writes encodings 1 to 3 alone, which everybody reads.
    #[must_use]
    pub fn without_start_timestamps(rules: Rules) -> Self {
        Self { keep_start: false, ..Self::new(rules) }
    }

    /// With floats in `encoding`, XOR or XOR2. Those with a start timestamp are XOR2 in any case.
    #[must_use]
    pub fn with_floats(self, encoding: Encoding) -> Self {
        let floats = if encoding == Encoding::Xor2 { Encoding::Xor2 } else { Encoding::Xor };
        Self { floats, ..self }
    }

    /// A writer whose chunks end only where they must, for a few samples.
    #[must_use]
    pub(crate) fn unlimited() -> Self {
        Self { rules: None, ..Self::new(Rules::Merge) }
    }

    /// Takes a sample; its time is after that of the one before. Answers with the chunk that ended before it, if one did.
    ///
    /// # Errors
    /// [`ChunkError::Inconsistent`] for a histogram whose spans and buckets do not agree; it is left out then.
    pub fn push(&mut self, sample: &Sample) -> Result<Option<WrittenChunk>, ChunkError> {
        // First, since nothing else can go wrong below and a finished chunk is not to be lost.
        if !is_consistent(&sample.value) {
            return Err(ChunkError::Inconsistent);
        }
        let st = if self.keep_start { sample.st } else { 0 };
        let wanted = encoding_for(&sample.value, st, self.floats);
        let mut finished = if self.must_cut(wanted) { self.finish() } else { None };
        let before = self.open.as_ref().map_or(0, Open::samples);
        let open = self.open.get_or_insert_with(|| Open::new(wanted));
        let appended = match (open, &sample.value) {
            (Open::Xor(open), Value::Float(value)) => open.append(sample.t, *value).map(|()| Appended::InPlace),
            (Open::Xor2(open), Value::Float(value)) => open.append(st, sample.t, *value).map(|()| Appended::InPlace),
            (Open::Integers(open), Value::Histogram(value)) => open.append_with_start(st, sample.t, value),
            (Open::Floats(open), Value::FloatHistogram(value)) => open.append_with_start(st, sample.t, value),
            // A chunk of another kind was finished above.
            _ => Err(ChunkError::NotFloats(wanted)),
        };
        if let Appended::NewChunk { finished: chunk, .. } = appended? {
            finished = Some(WrittenChunk { min_time: self.min_time, max_time: self.max_time, samples: before, chunk });
            self.min_time = sample.t;
        } else if before == 0 {
            self.min_time = sample.t;
        }
        self.max_time = sample.t;
        Ok(finished)
    }

    fn must_cut(&self, wanted: Encoding) -> bool {
        let Some(open) = &self.open else { return false };
        let encoding = open.encoding();
        // XOR2 takes floats without a start timestamp as well. A histogram chunk with start timestamps would, too, but in a
        // merge Prometheus ends it there.
        let wider = match (encoding, wanted) {
            (Encoding::Xor2, Encoding::Xor) => true,
            (Encoding::HistogramSt, Encoding::Histogram) | (Encoding::FloatHistogramSt, Encoding::FloatHistogram) => {
                self.rules != Some(Rules::Merge)
            }
            _ => false,
        };
        if encoding != wanted && !wider {
            return true;
        }
        match self.rules {
            None => false,
            Some(Rules::Merge) => open.samples() >= MERGED_SAMPLES,
            Some(Rules::Bytes) if encoding.is_float() => open.bytes() > FLOAT_BYTES,
            Some(Rules::Bytes) => open.bytes() > HISTOGRAM_BYTES && open.samples() > HISTOGRAM_SAMPLES,
        }
    }

    /// Bytes of the open chunk.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, Open::bytes)
    }

    /// Ends the open chunk, if there is one. The writer can go on with another series then.
    pub fn finish(&mut self) -> Option<WrittenChunk> {
        let open = self.open.take()?;
        let samples = open.samples();
        Some(WrittenChunk { min_time: self.min_time, max_time: self.max_time, samples, chunk: open.take() })
    }
}

fn encoding_for(value: &Value, st: i64, floats: Encoding) -> Encoding {
    match (value, st) {
        (Value::Float(_), 0) => floats,
        (Value::Float(_), _) => Encoding::Xor2,
        (Value::Histogram(_), 0) => Encoding::Histogram,
        (Value::Histogram(_), _) => Encoding::HistogramSt,
        (Value::FloatHistogram(_), 0) => Encoding::FloatHistogram,
        (Value::FloatHistogram(_), _) => Encoding::FloatHistogramSt,
    }
}

/// Writes a chunk again with the samples whose times `keep` says yes to, in the same encoding; nothing if there are none.
/// What the header told of the chunk before is forgotten, since the samples that it compared may be gone. This is one chunk
/// as a rule, but a stale marker in a chunk of gauges, say, begins another.
///
/// # Errors
/// As reading the chunk; `out` is as before then.
pub fn rewrite(
    chunk: &EncodedChunk,
    mut keep: impl FnMut(i64) -> bool,
    out: &mut Vec<WrittenChunk>,
) -> Result<(), ChunkError> {
    let before = out.len();
    let mut writer = ChunkWriter::unlimited();
    let mut all = || {
        for sample in samples(chunk.encoding, &chunk.data) {
            let sample = sample?;
            if keep(sample.t) {
                writer.open.get_or_insert_with(|| Open::new(chunk.encoding));
                out.extend(writer.push(&sample)?);
            }
        }
        out.extend(writer.finish());
        Ok(())
    };
    let outcome = all();
    if outcome.is_err() {
        out.truncate(before);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::counter_reset;
    use crate::model::{CounterResetHint, Histogram, STALE_NAN_BITS, Span};

    fn written(rules: Rules, samples: &[Sample]) -> Vec<WrittenChunk> {
        let mut writer = ChunkWriter::new(rules);
        let mut chunks: Vec<_> = samples.iter().filter_map(|sample| writer.push(sample).unwrap()).collect();
        chunks.extend(writer.finish());
        assert!(writer.finish().is_none());
        chunks
    }

    fn histogram(t: i64, count: u64) -> Sample {
        let value = Histogram {
            count,
            sum: 1.0,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![count.cast_signed()],
            ..Histogram::default()
        };
        Sample { t, st: 0, value: Value::Histogram(Box::new(value)) }
    }

    fn shape(chunks: &[WrittenChunk]) -> Vec<(Encoding, i64, i64, usize)> {
        chunks.iter().map(|chunk| (chunk.chunk.encoding, chunk.min_time, chunk.max_time, chunk.samples)).collect()
    }

    #[test]
    fn a_merged_chunk_ends_after_120_samples() {
        let samples: Vec<_> = (0..250).map(|t| Sample::float(t, 1.0)).collect();
        let chunks = written(Rules::Merge, &samples);
        assert_eq!(
            shape(&chunks),
            [(Encoding::Xor, 0, 119, 120), (Encoding::Xor, 120, 239, 120), (Encoding::Xor, 240, 249, 10)]
        );
    }

    #[test]
    fn by_bytes_a_chunk_ends_below_a_kibibyte() {
        let samples: Vec<_> = (0..1000).map(|t| Sample::float(t * 977 % 5000 + t * 5000, (t as f64).sin())).collect();
        let chunks = written(Rules::Bytes, &samples);
        assert!(chunks.len() > 5);
        assert!(chunks.iter().all(|chunk| chunk.chunk.data.len() <= 1024));
        assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.chunk.data.len() > FLOAT_BYTES));
    }

    #[test]
    fn another_kind_of_value_or_a_start_timestamp_begins_another_chunk() {
        let with_start = |t| Sample { st: 1, ..Sample::float(t, 1.0) };
        let samples =
            [Sample::float(1, 1.0), with_start(2), Sample::float(3, 1.0), histogram(4, 1), Sample::float(5, 1.0)];
        let expected = [
            (Encoding::Xor, 1, 1, 1),
            (Encoding::Xor2, 2, 3, 2),
            (Encoding::Histogram, 4, 4, 1),
            (Encoding::Xor, 5, 5, 1),
        ];
        assert_eq!(shape(&written(Rules::Merge, &samples)), expected);
        assert_eq!(shape(&written(Rules::Bytes, &samples)), expected);
        let mut plain = ChunkWriter::without_start_timestamps(Rules::Merge);
        assert!(samples[..3].iter().all(|sample| plain.push(sample).unwrap().is_none()));
        assert_eq!(plain.finish().map(|chunk| chunk.chunk.encoding), Some(Encoding::Xor));
    }

    #[test]
    fn a_counter_reset_begins_a_chunk_that_says_so() {
        let chunks = written(Rules::Merge, &[histogram(1, 5), histogram(2, 7), histogram(3, 6), histogram(4, 6)]);
        assert_eq!(shape(&chunks), [(Encoding::Histogram, 1, 2, 2), (Encoding::Histogram, 3, 4, 2)]);
        let told: Vec<_> = chunks.iter().map(|chunk| counter_reset(chunk.chunk.encoding, &chunk.chunk.data)).collect();
        assert_eq!(told, [Some(CounterResetHint::Unknown), Some(CounterResetHint::CounterReset)]);
    }

    #[test]
    fn a_chunk_is_rewritten_without_some_samples_in_one_piece() {
        let samples: Vec<_> = (0..120).map(|t| Sample::float(t * 1000, (t as f64).sqrt())).collect();
        let [whole] = &written(Rules::Merge, &samples)[..] else { panic!("one chunk") };
        let mut rewritten = Vec::new();
        rewrite(&whole.chunk, |t| !(5000..=7000).contains(&t) && t > 0, &mut rewritten).unwrap();
        assert_eq!(shape(&rewritten), [(Encoding::Xor, 1000, 119_000, 116)]);
        rewrite(&whole.chunk, |_| false, &mut rewritten).unwrap();
        assert_eq!(rewritten.len(), 1);
        rewrite(&whole.chunk, |_| true, &mut rewritten).unwrap();
        assert_eq!(&rewritten[1], whole);
    }

    #[test]
    fn a_histogram_that_is_refused_leaves_the_rest() {
        let mut writer = ChunkWriter::new(Rules::Merge);
        let mut bad = histogram(1, 1);
        if let Value::Histogram(value) = &mut bad.value {
            value.positive_buckets.push(1);
        }
        assert_eq!(writer.push(&bad), Err(ChunkError::Inconsistent));
        assert!(writer.finish().is_none());
        writer.push(&histogram(2, 1)).unwrap();
        assert_eq!(writer.push(&bad), Err(ChunkError::Inconsistent));
        writer
            .push(&Sample {
                value: Value::Histogram(Box::new(Histogram {
                    sum: f64::from_bits(STALE_NAN_BITS),
                    ..Histogram::default()
                })),
                ..histogram(3, 0)
            })
            .unwrap();
        assert_eq!(shape(&writer.finish().into_iter().collect::<Vec<_>>()), [(Encoding::Histogram, 2, 3, 2)]);
    }
}
