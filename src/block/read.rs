//! What everything shaped like a block can do.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::writer::TimedChunk;
use crate::budget::Budget;
use crate::chunk::EncodedChunk;
use crate::error::Result;
use crate::index::{ChunkMeta, NumberedSeries, SeriesId};
use crate::model::{Labels, Matcher, TimeRange};

/// The strings of a source, ascending, each once.
pub type Symbols<'a> = Box<dyn Iterator<Item = Result<Cow<'a, str>>> + 'a>;

/// The chunks of some series.
#[derive(Debug, Default)]
pub struct SeriesChunks {
    chunks: Vec<TimedChunk>,
    /// Where the chunks of each series begin and end.
    spans: Vec<(usize, usize)>,
    /// Whose chunks come.
    current: usize,
}

impl SeriesChunks {
    /// Forgets all, and makes room for `series` series without chunks.
    pub fn begin(&mut self, series: usize) {
        self.chunks.clear();
        self.spans.clear();
        self.spans.resize(series, (0, 0));
    }

    /// The chunks of the series at `place` come now, and all at once.
    pub fn begin_series(&mut self, place: usize) {
        self.current = place;
        if let Some(span) = self.spans.get_mut(place) {
            *span = (self.chunks.len(), self.chunks.len());
        }
    }

    /// Adds a chunk of the series that was begun.
    pub fn push(&mut self, chunk: TimedChunk) {
        self.chunks.push(chunk);
        if let Some((_, end)) = self.spans.get_mut(self.current) {
            *end = self.chunks.len();
        }
    }

    /// The chunks of the series at `place`.
    #[must_use]
    pub fn of(&self, place: usize) -> &[TimedChunk] {
        let (start, end) = self.spans.get(place).copied().unwrap_or_default();
        self.chunks.get(start..end).unwrap_or_default()
    }
}

/// A set of series with their chunks: a directory, a part of the head, a block in object storage.
///
/// Reading is by steps, so that a source that is far away can be asked for a step's worth at once: select ids, read
/// series, read chunks. Nothing is decoded.
pub trait BlockRead: Send + Sync {
    /// The span of time that it covers, both ends inclusive. Samples outside it are not part of it, even if a chunk
    /// holds some.
    fn time_range(&self) -> TimeRange;

    /// All label names, ascending.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn label_names(&self) -> Result<Vec<String>>;

    /// All values of the label `name`, ascending; none if no series has it.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn label_values(&self, name: &str) -> Result<Vec<String>>;

    /// The series that pass all `matchers`, in label order; without matchers, all.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>>;

    /// A series' labels and the chunks that touch [`time_range`](BlockRead::time_range), ascending by time; both are
    /// overwritten.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `InvalidInput` for an id that [`select`](BlockRead::select) did not give.
    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()>;

    /// A series' labels alone.
    ///
    /// # Errors
    /// As [`series`](BlockRead::series).
    fn labels(&self, id: SeriesId) -> Result<Labels> {
        let mut labels = Labels::empty();
        self.series(id, &mut labels, &mut Vec::new())?;
        Ok(labels)
    }

    /// A series' labels, if one of its chunks touches `range`: for those who want to know which series there are.
    ///
    /// # Errors
    /// As [`series`](BlockRead::series).
    fn labels_in(&self, id: SeriesId, range: TimeRange) -> Result<Option<Labels>> {
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        self.series(id, &mut labels, &mut chunks)?;
        let touches = |chunk: &ChunkMeta| TimeRange::new(chunk.min_time, chunk.max_time).overlaps(&range);
        Ok(chunks.iter().any(touches).then_some(labels))
    }

    /// A chunk's bytes, checked against their sum where they have one.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk>;

    /// A chunk's encoding byte and its data, whatever the encoding: Thanos's aggregates have the byte 0xff.
    ///
    /// # Errors
    /// As [`chunk`](BlockRead::chunk).
    fn any_chunk(&self, meta: &ChunkMeta) -> Result<(u8, Bytes)> {
        let EncodedChunk { encoding, data } = self.chunk(meta)?;
        Ok((encoding.byte(), data))
    }

    /// All series, as [`select`](BlockRead::select) without matchers gives them, by the numbers of their label pairs; nothing
    /// if the source has them as texts alone. Chunks of such a series ascend by time and do not overlap.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn numbered(&self) -> Result<Option<Arc<dyn NumberedSeries>>> {
        Ok(None)
    }

    /// The chunks of some series with their bytes, as [`series`](BlockRead::series) and [`chunk`](BlockRead::chunk) give
    /// them; `chunks` is overwritten. A source may look at the series in another order, if that is better for it.
    ///
    /// # Errors
    /// As these.
    fn chunks_of(&self, ids: &[SeriesId], chunks: &mut SeriesChunks) -> Result<()> {
        chunks.begin(ids.len());
        let mut metas = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            self.series(*id, &mut Labels::empty(), &mut metas)?;
            chunks.begin_series(place);
            for meta in &metas {
                chunks.push(TimedChunk { min_time: meta.min_time, max_time: meta.max_time, chunk: self.chunk(meta)? });
            }
        }
        Ok(())
    }

    /// What is deleted of a series: spans, ascending, that do not touch each other.
    fn tombstones(&self, id: SeriesId) -> Cow<'_, [TimeRange]>;

    /// Whether every sample of a series is deleted. What cannot say so cheaply says no.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    fn is_deleted(&self, id: SeriesId) -> Result<bool> {
        let _ = id;
        Ok(false)
    }

    /// Every string that occurs as a label's name or value, ascending. There may be more than the series use.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; each item may fail too.
    fn symbols(&self) -> Result<Symbols<'_>>;

    /// The label names that the series passing `matchers` have, ascending.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Timeout`, `Cancelled` of the budget.
    fn label_names_for(&self, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        if matchers.is_empty() {
            return self.label_names();
        }
        let mut names = BTreeSet::new();
        for id in self.select(matchers)? {
            budget.check()?;
            for (name, _) in &self.labels(id)? {
                if !names.contains(name) {
                    names.insert(name.to_owned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// The values of `name` that the series passing `matchers` have, ascending.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Timeout`, `Cancelled` of the budget.
    fn label_values_for(&self, name: &str, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        if matchers.is_empty() {
            return self.label_values(name);
        }
        let mut values = BTreeSet::new();
        for id in self.select(matchers)? {
            budget.check()?;
            let labels = self.labels(id)?;
            if let Some(value) = labels.get(name).filter(|value| !values.contains(*value)) {
                values.insert(value.to_owned());
            }
        }
        Ok(values.into_iter().collect())
    }
}
