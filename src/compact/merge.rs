//! Several sources, one stream of series.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::keeps;
use super::overlap::resolve;
use crate::block::{BlockError, BlockRead, BlockWriter, Symbols, TimedChunk};
use crate::budget::Budget;
use crate::chunk::rewrite;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Labels, TimeRange};

/// Gives `writer` the symbols and series of all `sources`, merged; samples outside `range` and deleted ones are left out.
/// Sources come by precedence.
///
/// # Errors
/// `Corrupt` if a source is damaged, `Io`, `Full`, `Cancelled`.
pub fn populate(writer: &mut BlockWriter, sources: &[&dyn BlockRead], range: TimeRange, budget: &Budget) -> Result<()> {
    merge_symbols(writer, sources, budget)?;
    let mut cursors = sources.iter().map(|source| Cursor::new(*source)).collect::<Result<Vec<_>>>()?;
    let mut chunks = Vec::new();
    let mut resolved = Vec::new();
    while let Some(first) = first_of(&cursors) {
        budget.check()?;
        let labels = first.clone();
        chunks.clear();
        for cursor in &mut cursors {
            if cursor.labels.as_ref() == Some(&labels) {
                cursor.take_chunks(range, &labels, &mut chunks)?;
                cursor.advance()?;
            }
        }
        resolved.clear();
        resolve(&labels, &mut chunks, &mut resolved)?;
        if !resolved.is_empty() {
            writer.add_series(&labels, &resolved)?;
        }
    }
    Ok(())
}

/// The smallest label set that any cursor stands at.
fn first_of<'a>(cursors: &'a [Cursor<'_>]) -> Option<&'a Labels> {
    // Few blocks are merged at a time: looking at each is cheaper than keeping them in a heap.
    cursors.iter().filter_map(|cursor| cursor.labels.as_ref()).min()
}

/// A source and the series that it stands at.
struct Cursor<'a> {
    source: &'a dyn BlockRead,
    ids: std::vec::IntoIter<SeriesId>,
    id: SeriesId,
    /// `None` at the end.
    labels: Option<Labels>,
    metas: Vec<ChunkMeta>,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a dyn BlockRead) -> Result<Self> {
        let ids = source.select(&[])?.into_iter();
        let mut cursor = Self { source, ids, id: SeriesId(0), labels: None, metas: Vec::new() };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<()> {
        let last = self.labels.take();
        let Some(id) = self.ids.next() else { return Ok(()) };
        let mut labels = Labels::empty();
        self.source.series(id, &mut labels, &mut self.metas)?;
        if last.is_some_and(|last| last >= labels) {
            let reason = format!("series {labels} does not come after the one before");
            return Err(Error::new(ErrorKind::Corrupt, reason));
        }
        (self.id, self.labels) = (id, Some(labels));
        Ok(())
    }

    /// Appends the chunks of the series with what is left of them in `range`.
    fn take_chunks(&self, range: TimeRange, labels: &Labels, out: &mut Vec<TimedChunk>) -> Result<()> {
        let deleted: Cow<'_, [TimeRange]> = self.source.tombstones(self.id);
        for meta in &self.metas {
            let span = TimeRange::new(meta.min_time, meta.max_time);
            let gone = |by: &TimeRange| by.min <= span.min && span.max <= by.max;
            if !span.overlaps(&range) || deleted.iter().any(gone) {
                continue;
            }
            let chunk = self.source.chunk(meta)?;
            let inside = range.min <= span.min && span.max <= range.max;
            if inside && !deleted.iter().any(|by| by.overlaps(&span)) {
                out.push(TimedChunk { min_time: meta.min_time, max_time: meta.max_time, chunk });
                continue;
            }
            let mut written = Vec::new();
            rewrite(&chunk, |t| keeps(range, &deleted, t), &mut written)
                .map_err(|error| Error::new(ErrorKind::Corrupt, format!("chunk {meta:?} of {labels}: {error}")))?;
            out.extend(written.into_iter().map(|chunk| TimedChunk {
                min_time: chunk.min_time,
                max_time: chunk.max_time,
                chunk: chunk.chunk,
            }));
        }
        Ok(())
    }
}

/// Gives `writer` the symbols of all sources, ascending, each once.
pub(super) fn merge_symbols(writer: &mut BlockWriter, sources: &[&dyn BlockRead], budget: &Budget) -> Result<()> {
    let mut streams: Vec<(Symbols<'_>, Option<Cow<'_, str>>)> = Vec::with_capacity(sources.len());
    for source in sources {
        let mut stream = source.symbols()?;
        let first = stream.next().transpose()?;
        streams.push((stream, first));
    }
    loop {
        let Some(symbol) = streams.iter().filter_map(|(_, head)| head.as_deref()).min().map(str::to_owned) else {
            return Ok(());
        };
        budget.check()?;
        writer.add_symbol(&symbol)?;
        for (stream, head) in &mut streams {
            while head.as_deref() == Some(&symbol) {
                *head = stream.next().transpose()?;
                if head.as_deref().is_some_and(|next| next.cmp(&symbol) == Ordering::Less) {
                    return Err(BlockError::inconsistent(writer.directory(), "a source's symbols do not ascend").into());
                }
            }
        }
    }
}
