//! The chunk that a series' samples go to: of floats, or of one kind of histograms.

use super::batch::{Batch, RecordKind};
use super::blocks::Blocks;
use super::column::Column;
use super::cut::{HISTOGRAM_BYTES, MAX_FLOAT_BYTES, MIN_HISTOGRAMS, SAMPLES_PER_CHUNK, predict_end, range_end};
use super::open_floats::OpenFloats;
use super::rules::ChunkRules;
use crate::chunk::{
    Appended, Appender, ChunkError, EncodedChunk, Encoding, Floats, Integers, Kind, Xor2Appender, XorAppender,
    counter_reset, samples,
};
use crate::model::{FloatHistogram, Histogram, Native as _, Sample, TimeRange, Value, is_stale};

/// The chunk that grows. Floats stand inline, but their bytes, which are in their page's blocks: nearly all series have
/// them. Whoever drops a chunk [gives them back](Open::clear).
#[derive(Debug, Default)]
pub(super) enum Open {
    /// None yet.
    #[default]
    None,
    /// Of floats.
    Float(OpenFloats),
    /// Of floats with start timestamps, or of those whom that encoding was chosen for.
    Xor2(Box<Xor2Appender>),
    /// Of histograms.
    Histogram(Box<OpenHistogram<Integers>>),
    /// Of float histograms.
    FloatHistogram(Box<OpenHistogram<Floats>>),
}

/// A chunk of histograms that grows.
#[derive(Debug)]
pub(super) struct OpenHistogram<K> {
    appender: Appender<K>,
    /// Whether the end was predicted.
    predicted: bool,
}

/// What became of the chunk that an append found.
#[derive(Debug)]
pub(super) enum Next {
    /// The sample is in it.
    Same,
    /// It is full: the sample has begun another one.
    Full(EncodedChunk),
}

/// The times that decide when a chunk ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// When the open chunk began.
    pub(super) since: i64,
    /// Its last sample.
    pub(super) newest: i64,
    /// When it must end.
    pub(super) next_at: i64,
}

/// What the head must know of a kind of histograms.
pub(super) trait HistogramKind: Kind {
    fn of(open: &mut Open) -> Option<&mut OpenHistogram<Self>>;
    fn into_open(open: Box<OpenHistogram<Self>>) -> Open;
    /// The histogram of a sample, if it is of this kind.
    fn in_sample(sample: &Sample) -> Option<&Self::Histogram>;
    /// The histogram as a value.
    fn into_value(histogram: Self::Histogram) -> Value;
    /// The list that it waits in for its commit.
    fn pending(batch: &mut Batch) -> &mut Column<Self::Histogram>;
    /// The record that it goes into, with buckets of its own bounds or not.
    fn record(custom: bool) -> RecordKind;

    /// Whether a sample, read from a chunk, is this one.
    fn is(sample: &Sample, histogram: &Self::Histogram) -> bool {
        // A chunk has every bucket that any of its histograms has, so only the filled ones can be compared.
        let last = Self::in_sample(sample);
        last.is_some_and(|last| last.clone().compacted().same(&histogram.clone().compacted()))
    }
}

impl HistogramKind for Integers {
    fn of(open: &mut Open) -> Option<&mut OpenHistogram<Self>> {
        if let Open::Histogram(open) = open { Some(open) } else { None }
    }

    fn into_open(open: Box<OpenHistogram<Self>>) -> Open {
        Open::Histogram(open)
    }

    fn in_sample(sample: &Sample) -> Option<&Histogram> {
        if let Value::Histogram(histogram) = &sample.value { Some(histogram) } else { None }
    }

    fn into_value(histogram: Histogram) -> Value {
        Value::Histogram(Box::new(histogram))
    }

    fn pending(batch: &mut Batch) -> &mut Column<Histogram> {
        &mut batch.histograms
    }

    fn record(custom: bool) -> RecordKind {
        if custom { RecordKind::CustomHistogram } else { RecordKind::Histogram }
    }
}

impl HistogramKind for Floats {
    fn of(open: &mut Open) -> Option<&mut OpenHistogram<Self>> {
        if let Open::FloatHistogram(open) = open { Some(open) } else { None }
    }

    fn into_open(open: Box<OpenHistogram<Self>>) -> Open {
        Open::FloatHistogram(open)
    }

    fn in_sample(sample: &Sample) -> Option<&FloatHistogram> {
        if let Value::FloatHistogram(histogram) = &sample.value { Some(histogram) } else { None }
    }

    fn into_value(histogram: FloatHistogram) -> Value {
        Value::FloatHistogram(Box::new(histogram))
    }

    fn pending(batch: &mut Batch) -> &mut Column<FloatHistogram> {
        &mut batch.float_histograms
    }

    fn record(custom: bool) -> RecordKind {
        if custom { RecordKind::CustomFloatHistogram } else { RecordKind::FloatHistogram }
    }
}

impl Open {
    /// Whether there is none.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The chunk as it is now.
    pub(super) fn copy(&self, blocks: &Blocks) -> Option<EncodedChunk> {
        match self {
            Self::None => None,
            Self::Float(open) => Some(open.to_chunk(blocks)),
            Self::Xor2(open) => Some(open.to_chunk()),
            Self::Histogram(open) => Some(open.appender.to_chunk()),
            Self::FloatHistogram(open) => Some(open.appender.to_chunk()),
        }
    }

    /// Goes on with a chunk that was written before, the time of whose last sample is given, too.
    ///
    /// # Errors
    /// As reading it.
    pub(super) fn resume(chunk: &EncodedChunk, blocks: &mut Blocks) -> Result<(Self, Option<i64>), ChunkError> {
        let open = match chunk.encoding {
            Encoding::Xor => {
                let (open, t) = OpenFloats::resume(&chunk.data, blocks)?;
                let t = open.last_value().map(|_| t);
                return Ok((Self::Float(open), t));
            }
            Encoding::Xor2 => Self::Xor2(Box::new(Xor2Appender::resume(&chunk.data)?)),
            Encoding::Histogram | Encoding::HistogramSt => Self::Histogram(OpenHistogram::resume(chunk)?),
            Encoding::FloatHistogram | Encoding::FloatHistogramSt => {
                Self::FloatHistogram(OpenHistogram::resume(chunk)?)
            }
        };
        let last = open.last(blocks).map(|sample| sample.t);
        Ok((open, last))
    }

    /// The newest sample's value.
    pub(super) fn newest_value(&self, blocks: &Blocks) -> Option<Value> {
        match self {
            Self::Float(open) => open.last_value().map(Value::Float),
            _ => self.last(blocks).map(|sample| sample.value),
        }
    }

    /// How many samples it has.
    pub(super) fn sample_count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Float(open) => open.sample_count(),
            Self::Xor2(open) => open.sample_count(),
            Self::Histogram(open) => open.appender.sample_count(),
            Self::FloatHistogram(open) => open.appender.sample_count(),
        }
    }

    /// Takes the chunk out.
    pub(super) fn take(&mut self, blocks: &mut Blocks) -> Option<EncodedChunk> {
        match std::mem::take(self) {
            Self::None => None,
            Self::Float(open) => Some(open.take(blocks)),
            Self::Xor2(mut open) => Some(open.take()),
            Self::Histogram(mut open) => Some(open.appender.take()),
            Self::FloatHistogram(mut open) => Some(open.appender.take()),
        }
    }

    /// Drops the chunk.
    pub(super) fn clear(&mut self, blocks: &mut Blocks) {
        if let Self::Float(open) = std::mem::take(self) {
            open.free(blocks);
        }
    }

    /// The last sample, decoded from the start: for the rare sample at the same time.
    pub(super) fn last(&self, blocks: &Blocks) -> Option<Sample> {
        let chunk = self.copy(blocks)?;
        samples(chunk.encoding, &chunk.data).last()?.ok()
    }

    /// Whether the last sample is a stale marker.
    pub(super) fn ends_stale(&self, blocks: &Blocks) -> bool {
        match self {
            Self::None => false,
            Self::Float(open) => open.last_value().is_some_and(is_stale),
            _ => self.last(blocks).is_some_and(|last| last.is_stale()),
        }
    }

    /// The sample at `t`, decoded from the start.
    pub(super) fn at(&self, blocks: &Blocks, t: i64) -> Option<Sample> {
        let chunk = self.copy(blocks)?;
        samples(chunk.encoding, &chunk.data).map_while(Result::ok).find(|sample| sample.t >= t).filter(|it| it.t == t)
    }

    /// Bytes beside the value itself and the page's blocks.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::None | Self::Float(_) => 0,
            Self::Xor2(open) => size_of_val(&**open) + open.len_bytes(),
            Self::Histogram(open) => size_of_val(&**open) + open.appender.len_bytes(),
            Self::FloatHistogram(open) => size_of_val(&**open) + open.appender.len_bytes(),
        }
    }

    /// An empty chunk for floats, the first of which has this start timestamp.
    pub(super) fn floats(rules: &ChunkRules, st: i64) -> Self {
        if rules.begins_xor2(st) { Self::Xor2(Box::default()) } else { Self::Float(OpenFloats::new()) }
    }

    /// Whether this is a chunk of floats that takes one at `t`; predicts its end when it is time to.
    #[inline]
    pub(super) fn takes_float(&self, times: &mut Times, rules: &ChunkRules, st: i64, t: i64) -> Option<()> {
        let (bytes, samples) = match self {
            Self::Float(open) if !rules.leaves_xor(st) => (open.len_bytes(), open.sample_count()),
            Self::Xor2(open) => (open.len_bytes(), open.sample_count()),
            _ => return None,
        };
        if bytes > MAX_FLOAT_BYTES {
            return None;
        }
        if samples == SAMPLES_PER_CHUNK / 4 {
            times.next_at = predict_end(times.since, times.newest, times.next_at, 4.0);
        }
        // Twice as many samples as meant: the prediction was wrong, they come faster now.
        (t < times.next_at && samples < 2 * SAMPLES_PER_CHUNK).then_some(())
    }

    /// Puts a float behind the others, the last of which is at `newest`; nothing happens if this is no chunk of floats.
    #[inline]
    pub(super) fn push_float(&mut self, blocks: &mut Blocks, newest: i64, (st, t): (i64, i64), v: f64) {
        // Full at 65,535 samples; chunks are cut at 240.
        let _ = match self {
            Self::Float(open) => open.append(blocks, newest, t, v),
            Self::Xor2(open) => open.append(st, t, v),
            _ => Ok(()),
        };
    }
}

impl<K: HistogramKind> OpenHistogram<K> {
    /// A chunk that begins with this histogram, with start timestamps or without.
    pub(super) fn begin(starts: bool, st: i64, t: i64, histogram: &K::Histogram) -> Result<Box<Self>, ChunkError> {
        let appender = if starts { Appender::with_start_timestamps() } else { Appender::new() };
        let mut open = Box::new(Self { appender, predicted: false });
        open.appender.append_with_start(st, t, histogram)?;
        Ok(open)
    }

    /// Goes on with a chunk that was written before. Its end was predicted, if it is long enough for that.
    fn resume(chunk: &EncodedChunk) -> Result<Box<Self>, ChunkError> {
        let appender = Appender::resume(chunk.encoding, &chunk.data)?;
        let predicted = appender.len_bytes() >= HISTOGRAM_BYTES / 4;
        Ok(Box::new(Self { appender, predicted }))
    }

    /// Appends a histogram, to this chunk or to the one after it.
    pub(super) fn append(
        &mut self,
        times: &mut Times,
        rules: &ChunkRules,
        st: i64,
        t: i64,
        histogram: &K::Histogram,
    ) -> Result<Next, ChunkError> {
        let (bytes, samples) = (self.appender.len_bytes(), self.appender.sample_count());
        let range_ends = if self.predicted { range_end(times.since, rules.chunk_range) } else { times.next_at };
        if !self.predicted && bytes >= HISTOGRAM_BYTES / 4 {
            let ratio = HISTOGRAM_BYTES as f64 / bytes as f64;
            times.next_at = predict_end(times.since, times.newest, times.next_at, ratio);
            self.predicted = true;
        }
        let has_starts = self.appender.has_start_timestamps();
        let starts = rules.histogram_starts(st, has_starts);
        // Twice as large as meant: they come faster now, or with more buckets.
        let is_full = t >= times.next_at || bytes >= 2 * HISTOGRAM_BYTES;
        if starts != has_starts || is_full && (samples >= MIN_HISTOGRAMS || t >= range_ends) {
            let finished = self.appender.cut_to(starts, st, t, histogram)?;
            self.predicted = false;
            return Ok(Next::Full(finished));
        }
        Ok(match self.appender.append_with_start(st, t, histogram)? {
            Appended::InPlace | Appended::Recoded => Next::Same,
            // The prediction of the chunk before stays: so it is in Prometheus, and chunks must end where its do.
            Appended::NewChunk { finished, .. } => Next::Full(finished),
        })
    }
}

/// The samples of a chunk that lie in `range`, as a chunk of the same encoding, and from when to when they are; `None` if
/// there are none.
pub(super) fn trim(chunk: &EncodedChunk, range: TimeRange) -> Result<Option<(TimeRange, EncodedChunk)>, ChunkError> {
    let mut open = Open::None;
    // As large as it may be: nobody appends to it.
    let mut floats: Option<XorAppender> = None;
    let mut span: Option<TimeRange> = None;
    let mut skipped = false;
    for sample in samples(chunk.encoding, &chunk.data) {
        let Sample { t, st, value } = sample?;
        if !range.contains(t) {
            skipped |= span.is_none();
            continue;
        }
        span.get_or_insert(TimeRange::new(t, t)).max = t;
        match (&mut open, &value) {
            (Open::Xor2(open), Value::Float(v)) => open.append(st, t, *v)?,
            (Open::Histogram(open), Value::Histogram(histogram)) => {
                drop(open.appender.append_with_start(st, t, histogram)?);
            }
            (Open::FloatHistogram(open), Value::FloatHistogram(histogram)) => {
                drop(open.appender.append_with_start(st, t, histogram)?);
            }
            (open, Value::Float(v)) if chunk.encoding == Encoding::Xor2 => {
                let mut floats = Box::<Xor2Appender>::default();
                floats.append(st, t, *v)?;
                *open = Open::Xor2(floats);
            }
            (_, Value::Float(v)) => floats.get_or_insert_default().append(t, *v)?,
            (open, Value::Histogram(histogram)) => *open = begin::<Integers>(chunk, skipped, st, t, histogram)?,
            (open, Value::FloatHistogram(histogram)) => *open = begin::<Floats>(chunk, skipped, st, t, histogram)?,
        }
    }
    let trimmed = floats.map(|mut floats| floats.take()).or_else(|| open.take(&mut Blocks::default()));
    Ok(span.zip(trimmed))
}

fn begin<K: HistogramKind>(
    chunk: &EncodedChunk,
    skipped: bool,
    st: i64,
    t: i64,
    histogram: &K::Histogram,
) -> Result<Open, ChunkError> {
    let mut open = OpenHistogram::<K>::begin(chunk.encoding == K::ENCODING_ST, st, t, histogram)?;
    // If the chunk's first sample is still the first, what its header tells is still so.
    if let Some(told) = counter_reset(chunk.encoding, &chunk.data).filter(|_| !skipped) {
        open.appender.set_counter_reset(told);
    }
    Ok(K::into_open(open))
}
