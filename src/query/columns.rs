//! One series' chunks as columns: times, float values, histograms.

use std::mem::take;
use std::sync::Arc;

use super::SeriesChunk;
use crate::chunk::{self, ChunkError, EncodedChunk, FloatColumns, FloatDecoder};
use crate::error::Result;
use crate::model::{FloatHistogram, Sample, TimeRange, Value};

/// The samples of one series in order of time: floats dense, histograms beside them. A time is in one of the two.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Times of the floats, milliseconds, ascending.
    pub t: Vec<i64>,
    /// The floats, one for each time; stale markers included.
    pub v: Vec<f64>,
    /// When the counters of the floats began, milliseconds, one for each and 0 where that is unknown. Empty if it is
    /// unknown for all of them.
    pub st: Vec<i64>,
    /// Histograms with their times, ascending; stale markers included. Integer histograms are given as float ones.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
    /// When the counts of the histograms began, as `st` is for the floats.
    pub histogram_st: Vec<i64>,
}

impl Columns {
    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.t.len() + self.histograms.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.t.is_empty() && self.histograms.is_empty()
    }

    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.t.clear();
        self.v.clear();
        self.st.clear();
        self.histograms.clear();
        self.histogram_st.clear();
    }

    /// Appends the floats that `decode` decodes.
    fn decode(&mut self, decode: impl FnOnce(&mut FloatColumns) -> Result<(), ChunkError>) -> Result<()> {
        let (t, v, st) = (take(&mut self.t), take(&mut self.v), take(&mut self.st));
        let mut floats = FloatColumns { t, v, st };
        let outcome = decode(&mut floats);
        (self.t, self.v, self.st) = (floats.t, floats.v, floats.st);
        Ok(outcome?)
    }

    /// Drops the floats from `start` on that `keep` refuses.
    fn retain_floats(&mut self, start: usize, keep: impl Fn(i64) -> bool) {
        let mut kept = start;
        for index in start..self.t.len() {
            if let (Some(&t), Some(&v)) = (self.t.get(index), self.v.get(index))
                && keep(t)
            {
                if let (Some(to_t), Some(to_v)) = (self.t.get_mut(kept), self.v.get_mut(kept)) {
                    (*to_t, *to_v) = (t, v);
                }
                if let Some(&st) = self.st.get(index)
                    && let Some(to_st) = self.st.get_mut(kept)
                {
                    *to_st = st;
                }
                kept += 1;
            }
        }
        self.t.truncate(kept);
        self.v.truncate(kept);
        self.st.truncate(kept);
    }

    fn push(&mut self, sample: Sample) {
        let histogram = match sample.value {
            Value::Float(v) => {
                push_start(&mut self.st, self.t.len(), sample.st);
                self.t.push(sample.t);
                self.v.push(v);
                return;
            }
            Value::Histogram(histogram) => Arc::new(histogram.to_float()),
            Value::FloatHistogram(histogram) => Arc::from(histogram),
        };
        push_start(&mut self.histogram_st, self.histograms.len(), sample.st);
        self.histograms.push((sample.t, histogram));
    }
}

/// Appends a start timestamp to those of `before` samples, which have begun with the first one that is known.
fn push_start(starts: &mut Vec<i64>, before: usize, st: i64) {
    if st != 0 || !starts.is_empty() {
        starts.resize(before, 0);
        starts.push(st);
    }
}

/// Whether all samples of the chunk are in `range` and may be seen.
fn is_whole(chunk: &SeriesChunk, range: TimeRange) -> bool {
    let all_of = |it: &TimeRange| it.min <= chunk.range.min && chunk.range.max <= it.max;
    all_of(&chunk.visible) && all_of(&range) && chunk.deleted.is_none()
}

/// Decodes series after series into the same memory.
#[derive(Debug, Default)]
pub struct SeriesDecoder {
    columns: Columns,
    order: Vec<u32>,
    floats: FloatDecoder,
}

impl SeriesDecoder {
    /// A decoder without memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was decoded last.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Decodes the samples of `chunks` that lie in `range` and may be seen. Where chunks overlap, the earlier one in the
    /// list wins.
    ///
    /// # Errors
    /// `Corrupt` if a chunk does not decode; the loader's.
    pub fn decode(&mut self, chunks: &[SeriesChunk], range: TimeRange) -> Result<&Columns> {
        self.columns.clear();
        self.order.clear();
        let span = |chunk: &SeriesChunk| chunk.range.intersect(&chunk.visible).and_then(|it| it.intersect(&range));
        self.order.extend((0u32..).zip(chunks).filter(|(_, chunk)| span(chunk).is_some()).map(|(index, _)| index));
        let get = |index: &u32| chunks.get(*index as usize);
        let min = |index: &u32| get(index).map(|chunk| chunk.range.min);
        if !self.order.is_sorted_by_key(min) {
            self.order.sort_by_key(min);
        }
        let overlap = self.order.windows(2).any(|pair| match pair {
            [a, b] => get(a).zip(get(b)).is_some_and(|(a, b)| b.range.min <= a.range.max),
            _ => false,
        });
        let order = take(&mut self.order);
        let result = if overlap {
            self.decode_overlapping(order.iter().filter_map(get), range)
        } else {
            self.decode_in_order(order.iter().filter_map(get), range)
        };
        self.order = order;
        result.map(|()| &self.columns)
    }

    /// Decodes chunks that follow each other: those that are wanted as a whole two at a time, which is faster.
    fn decode_in_order<'a>(&mut self, chunks: impl Iterator<Item = &'a SeriesChunk>, range: TimeRange) -> Result<()> {
        let mut waiting: Option<EncodedChunk> = None;
        for chunk in chunks {
            let encoded = chunk.data.load()?;
            if encoded.encoding.is_float() && is_whole(chunk, range) {
                match waiting.take() {
                    None => waiting = Some(encoded),
                    Some(first) => self.columns.decode(|floats| self.floats.decode_two(&first, &encoded, floats))?,
                }
                continue;
            }
            if let Some(first) = waiting.take() {
                self.columns.decode(|floats| self.floats.decode(&first, floats))?;
            }
            self.append(chunk, &encoded, range)?;
        }
        waiting.map_or(Ok(()), |last| self.columns.decode(|floats| self.floats.decode(&last, floats)))
    }

    /// Appends what is wanted of a chunk that begins after what is there.
    fn append(&mut self, chunk: &SeriesChunk, encoded: &EncodedChunk, range: TimeRange) -> Result<()> {
        let wanted = |t: i64| range.contains(t) && chunk.shows(t);
        if encoded.encoding.is_float() {
            let start = self.columns.t.len();
            self.columns.decode(|floats| self.floats.decode(encoded, floats))?;
            self.columns.retain_floats(start, wanted);
            return Ok(());
        }
        let whole = is_whole(chunk, range);
        for sample in chunk::samples(encoded.encoding, &encoded.data) {
            let sample = sample?;
            if whole || wanted(sample.t) {
                self.columns.push(sample);
            }
        }
        Ok(())
    }

    /// Decodes chunks that overlap, sample by sample. They are rare: two replicas of a series, a block and its parent
    /// after a crash, samples out of order.
    fn decode_overlapping<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a SeriesChunk> + Clone,
        range: TimeRange,
    ) -> Result<()> {
        // `chunks` are in order of time here; precedence is their order in memory, which is the caller's list.
        let mut ranked: Vec<&SeriesChunk> = chunks.collect();
        ranked.sort_by_key(|chunk| std::ptr::from_ref::<SeriesChunk>(chunk));
        let mut all: Vec<(usize, Sample)> = Vec::new();
        for (rank, chunk) in ranked.into_iter().enumerate() {
            let encoded = chunk.data.load()?;
            for sample in chunk::samples(encoded.encoding, &encoded.data) {
                let sample = sample?;
                if range.contains(sample.t) && chunk.shows(sample.t) {
                    all.push((rank, sample));
                }
            }
        }
        // Stable: of equal times the one of higher precedence stays first.
        all.sort_by_key(|(_, sample)| sample.t);
        all.dedup_by_key(|(_, sample)| sample.t);
        let mut previous = None;
        for (rank, mut sample) in all {
            // A hint compares with the sample before it in its chunk; that one is another now.
            if previous != Some(rank) {
                sample.value.forget_reset();
            }
            previous = Some(rank);
            self.columns.push(sample);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkWriter, Rules};
    use crate::query::{ChunkData, series_samples};

    /// Samples with start timestamps and without, as chunks of every encoding.
    fn chunks(with: fn(i64) -> i64) -> Vec<SeriesChunk> {
        let mut writer = ChunkWriter::new(Rules::Merge);
        let mut written = Vec::new();
        for t in 1..400 {
            let value = match t / 100 {
                0 | 2 => Value::Float(t as f64),
                1 => Value::Histogram(Box::default()),
                _ => Value::FloatHistogram(Box::default()),
            };
            written.extend(writer.push(&Sample { t, st: with(t), value }).unwrap());
        }
        written.extend(writer.finish());
        let range = |chunk: &chunk::WrittenChunk| TimeRange::new(chunk.min_time, chunk.max_time);
        written.into_iter().map(|chunk| SeriesChunk::new(range(&chunk), ChunkData::Ready(chunk.chunk))).collect()
    }

    #[test]
    fn each_sample_has_its_start_timestamp() {
        let mut decoder = SeriesDecoder::new();
        for with in [|t| t % 7, |t| if t > 150 { t - 3 } else { 0 }, |t| if t < 250 { 1 } else { 0 }] {
            let mut chunks = chunks(with);
            for range in [TimeRange::ALL, TimeRange::new(33, 361)] {
                for _ in 0..2 {
                    let columns = decoder.decode(&chunks, range).unwrap();
                    let floats = columns.t.iter().copied().zip(columns.st.iter().copied());
                    let histograms =
                        columns.histograms.iter().map(|(t, _)| *t).zip(columns.histogram_st.iter().copied());
                    let mut found: Vec<_> = floats.chain(histograms).collect();
                    found.sort_unstable();
                    let expected: Vec<_> = series_samples(&chunks, range)
                        .unwrap()
                        .into_iter()
                        .map(|sample| (sample.t, sample.st))
                        .collect();
                    assert_eq!(found, expected);
                    assert!(expected.iter().all(|(t, st)| *st == with(*t)));
                    // The second time as chunks that overlap.
                    chunks.extend(chunks.clone());
                }
            }
        }
        assert!(decoder.decode(&chunks(|_| 0), TimeRange::ALL).unwrap().st.is_empty());
    }
}
