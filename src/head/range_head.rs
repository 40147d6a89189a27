//! A part of the head as a block: what a block is cut from.

use std::borrow::Cow;
use std::sync::Arc;

use super::Head;
use super::full::HeadChunk;
use super::open::trim;
use super::slab::{Locked, PAGE};
use crate::block::{BlockRead, SeriesChunks, Symbols, TimedChunk};
use crate::chunk::EncodedChunk;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{ChunkMeta, NumberedSeries, PostingsSource, SeriesId, postings_for_matchers};
use crate::model::{Labels, Matcher, TimeRange};

/// The samples of the head in a span of time, without regard to who is still committing: nobody must be, in that span
/// ([`Head::raise_floor`]). While it is there, nothing in the span is given back.
#[derive(Debug)]
pub struct RangeHead {
    head: Arc<Head>,
    range: TimeRange,
    reader: u64,
}

impl Head {
    /// The samples in `range` as a block. Samples before its end must not be appended any more.
    #[must_use]
    pub fn range_head(self: &Arc<Self>, range: TimeRange) -> RangeHead {
        let (reader, _, range) = self.isolation.begin_read(range, &self.truncated);
        RangeHead { head: Arc::clone(self), range, reader }
    }
}

impl Drop for RangeHead {
    fn drop(&mut self) {
        self.head.isolation.end_read(self.reader);
    }
}

impl RangeHead {
    fn is_inside(&self, range: TimeRange) -> bool {
        self.range.min <= range.min && range.max <= self.range.max
    }
}

fn no_series(id: u32) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("no series {id} in the head"))
}

fn reference(id: u32, number: u32) -> u64 {
    u64::from(id) << 32 | u64::from(number)
}

impl BlockRead for RangeHead {
    fn time_range(&self) -> TimeRange {
        self.range
    }

    fn label_names(&self) -> Result<Vec<String>> {
        Ok(self.head.labels.names())
    }

    fn label_values(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.head.labels.values(name))
    }

    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
        let ids = postings_for_matchers(&self.head.labels, matchers)?.into_vec();
        Ok(self.head.in_label_order(&ids).ids().collect())
    }

    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        chunks.clear();
        let series = self.head.slots.get(id.0).ok_or_else(|| no_series(id.0))?;
        let mut straddling = Vec::new();
        {
            let state = series.lock();
            if state.labels().is_empty() {
                return Err(no_series(id.0));
            }
            *labels = state.labels().to_labels(&mut Vec::new());
            state.ranges(&series, self.range, |number, range| {
                if !self.is_inside(range) {
                    let data = state.chunk(&series, self.head.mapped.as_ref(), number);
                    straddling.extend(data.map(|(_, data)| (chunks.len(), data)));
                }
                let reference = reference(id.0, number);
                chunks.push(ChunkMeta { reference, min_time: range.min, max_time: range.max });
            });
        }
        // From behind, since a chunk without samples inside goes.
        for (index, data) in straddling.into_iter().rev() {
            match (trim(&data.load()?, self.range)?, chunks.get_mut(index)) {
                (Some((range, _)), Some(meta)) => (meta.min_time, meta.max_time) = (range.min, range.max),
                _ => drop(chunks.remove(index)),
            }
        }
        Ok(())
    }

    fn labels(&self, id: SeriesId) -> Result<Labels> {
        let series = self.head.slots.get(id.0).ok_or_else(|| no_series(id.0))?;
        Ok(series.lock().labels().to_labels(&mut Vec::new()))
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        let (id, number) = ((meta.reference >> 32) as u32, meta.reference as u32);
        let series = self.head.slots.get(id).ok_or_else(|| no_series(id))?;
        let (range, data) = {
            let state = series.lock();
            state.chunk(&series, self.head.mapped.as_ref(), number).ok_or_else(|| no_series(id))?
        };
        let chunk = data.load()?;
        if self.is_inside(range) {
            return Ok(chunk);
        }
        let trimmed = trim(&chunk, self.range)?;
        trimmed.map(|(_, chunk)| chunk).ok_or_else(|| no_series(id))
    }

    fn numbered(&self) -> Result<Option<Arc<dyn NumberedSeries>>> {
        let ids = PostingsSource::all(&self.head.labels)?.into_vec();
        Ok(Some(Arc::new(self.head.in_label_order(&ids))))
    }

    fn chunks_of(&self, ids: &[SeriesId], chunks: &mut SeriesChunks) -> Result<()> {
        chunks.begin(ids.len());
        // As they lie in memory: neighbours in label order are mostly of different targets, and so of different pages.
        let mut order: Vec<(u32, usize)> = ids.iter().zip(0..).map(|(id, place)| (id.0, place)).collect();
        order.sort_unstable();
        let mut own = Vec::new();
        let mut ends = Vec::new();
        for page in order.chunk_by(|(a, _), (b, _)| *a as usize / PAGE == *b as usize / PAGE) {
            ends.clear();
            {
                let mut locked = Locked::default();
                for (id, _) in page {
                    let series = self.head.slots.get(*id).ok_or_else(|| no_series(*id))?;
                    locked.guard(&series).read(&series, self.head.mapped.as_ref(), self.range, &mut own);
                    ends.push(own.len());
                }
            }
            // What lies on the disk is read without the lock.
            let (mut read, mut ends) = (own.drain(..), ends.iter());
            let mut start = 0;
            for (_, place) in page {
                chunks.begin_series(*place);
                let end = ends.next().copied().unwrap_or(start);
                for HeadChunk { range, data, .. } in read.by_ref().take(end - start) {
                    let chunk = data.load()?;
                    let inside = self.is_inside(range);
                    let trimmed = if inside { Some((range, chunk)) } else { trim(&chunk, self.range)? };
                    if let Some((TimeRange { min, max }, chunk)) = trimmed {
                        chunks.push(TimedChunk { min_time: min, max_time: max, chunk });
                    }
                }
                start = end;
            }
        }
        Ok(())
    }

    fn tombstones(&self, id: SeriesId) -> Cow<'_, [TimeRange]> {
        let mut ranges = Vec::new();
        self.head.tombstones.hide_all(id.0, &mut ranges);
        Cow::Owned(ranges)
    }

    fn symbols(&self) -> Result<Symbols<'_>> {
        // The original keeps the list of all series under a pair of empty strings, so its blocks have this one too.
        let mut symbols = vec![String::new()];
        for name in self.head.labels.names() {
            symbols.extend(self.head.labels.values(&name));
            symbols.push(name);
        }
        symbols.sort_unstable();
        symbols.dedup();
        Ok(Box::new(symbols.into_iter().map(|symbol| Ok(Cow::Owned(symbol)))))
    }
}
