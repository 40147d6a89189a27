//! Several sources, one stream of series.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::keeps;
use super::overlap::resolve;
use crate::block::{BlockError, BlockRead, BlockWriter, SeriesChunks, Symbols, TimedChunk};
use crate::budget::Budget;
use crate::chunk::{Encoding, rewrite};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{ChunkMeta, NumberedSeries, SeriesId};
use crate::model::{Labels, TimeRange};

/// Gives `writer` the symbols and series of all `sources`, merged; samples outside `range` and deleted ones are left out.
/// Sources come by precedence.
///
/// # Errors
/// `Corrupt` if a source is damaged, `Io`, `Full`, `Cancelled`.
pub fn populate(writer: &mut BlockWriter, sources: &[&dyn BlockRead], range: TimeRange, budget: &Budget) -> Result<()> {
    populate_with(writer, sources, range, Encoding::Xor, budget)
}

/// As [`populate`], with floats that are written again because chunks overlap in the encoding `floats`.
pub(super) fn populate_with(
    writer: &mut BlockWriter,
    sources: &[&dyn BlockRead],
    range: TimeRange,
    floats: Encoding,
    budget: &Budget,
) -> Result<()> {
    if let [source] = sources
        && let Some(series) = source.numbered()?
    {
        return populate_numbered(writer, *source, &series, range, budget);
    }
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
        resolve(&labels, &mut chunks, floats, &mut resolved)?;
        if !resolved.is_empty() {
            writer.add_series(&labels, &resolved)?;
        }
    }
    Ok(())
}

/// Series whose chunks are fetched together: so many that most that lie together are among them, and so few that the
/// processor's cache holds their chunks.
const A_TURN: usize = 4096;

/// The same of one source that knows its series by numbers.
fn populate_numbered(
    writer: &mut BlockWriter,
    source: &dyn BlockRead,
    series: &Arc<dyn NumberedSeries>,
    range: TimeRange,
    budget: &Budget,
) -> Result<()> {
    for symbol in series.symbols() {
        writer.add_symbol(symbol)?;
    }
    writer.set_numbered(Arc::clone(series))?;
    let (mut ids, mut chunks, mut kept) = (Vec::with_capacity(A_TURN), SeriesChunks::default(), Vec::new());
    for first in (0..).step_by(A_TURN) {
        budget.check()?;
        ids.clear();
        ids.extend((first..first + A_TURN).map_while(|place| series.series(place)).map(|(id, _)| id));
        if ids.is_empty() {
            break;
        }
        source.chunks_of(&ids, &mut chunks)?;
        for (at, (id, place)) in ids.iter().zip(first..).enumerate() {
            let (deleted, own) = (source.tombstones(*id), chunks.of(at));
            let is_whole = |chunk: &TimedChunk| range.min <= chunk.min_time && chunk.max_time <= range.max;
            if deleted.is_empty() && own.iter().all(is_whole) {
                if !own.is_empty() {
                    writer.add_numbered(place, own)?;
                }
                continue;
            }
            kept.clear();
            for chunk in own.iter().filter(|chunk| is_wanted(chunk.span(), range, &deleted)) {
                keep_wanted(chunk.clone(), range, &deleted, &format_args!("series {place}"), &mut kept)?;
            }
            if !kept.is_empty() {
                writer.add_numbered(place, &kept)?;
            }
        }
    }
    Ok(())
}

/// Whether anything of a chunk may be left.
fn is_wanted(span: TimeRange, range: TimeRange, deleted: &[TimeRange]) -> bool {
    span.overlaps(&range) && !deleted.iter().any(|by| by.min <= span.min && span.max <= by.max)
}

/// Appends what is in `range` and not deleted of a chunk of `series`.
fn keep_wanted(
    chunk: TimedChunk,
    range: TimeRange,
    deleted: &[TimeRange],
    series: &dyn fmt::Display,
    out: &mut Vec<TimedChunk>,
) -> Result<()> {
    let span = chunk.span();
    let inside = range.min <= span.min && span.max <= range.max;
    if inside && !deleted.iter().any(|by| by.overlaps(&span)) {
        out.push(chunk);
        return Ok(());
    }
    let mut written = Vec::new();
    rewrite(&chunk.chunk, |t| keeps(range, deleted, t), &mut written)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("chunk of {series} at {span:?}: {error}")))?;
    let timed = written.into_iter();
    out.extend(timed.map(|chunk| TimedChunk {
        min_time: chunk.min_time,
        max_time: chunk.max_time,
        chunk: chunk.chunk,
    }));
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
            if is_wanted(TimeRange::new(meta.min_time, meta.max_time), range, &deleted) {
                let chunk = self.source.chunk(meta)?;
                let chunk = TimedChunk { min_time: meta.min_time, max_time: meta.max_time, chunk };
                keep_wanted(chunk, range, &deleted, labels, out)?;
            }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::block::BlockMeta;
    use crate::chunk::EncodedChunk;
    use crate::compact::write_block;
    use crate::fs::Env;
    use crate::head::{Head, HeadOptions, RangeHead};
    use crate::model::Matcher;

    /// A part of the head that does not tell its series' numbers.
    struct Texts(RangeHead);

    impl BlockRead for Texts {
        fn time_range(&self) -> TimeRange {
            self.0.time_range()
        }
        fn label_names(&self) -> Result<Vec<String>> {
            self.0.label_names()
        }
        fn label_values(&self, name: &str) -> Result<Vec<String>> {
            self.0.label_values(name)
        }
        fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
            self.0.select(matchers)
        }
        fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
            self.0.series(id, labels, chunks)
        }
        fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
            self.0.chunk(meta)
        }
        fn tombstones(&self, id: SeriesId) -> Cow<'_, [TimeRange]> {
            self.0.tombstones(id)
        }
        fn symbols(&self) -> Result<Symbols<'_>> {
            self.0.symbols()
        }
    }

    /// The files of the block that is written of `source`.
    fn written(source: &dyn BlockRead) -> (BlockMeta, BTreeMap<String, Vec<u8>>) {
        let (env, _) = Env::simulated(1);
        let dir = Path::new("/data");
        let meta = write_block(&env, dir, source, 0..10_000, &[], &Budget::unlimited()).unwrap().unwrap();
        let block = dir.join(meta.ulid.to_string());
        let files = ["index", "chunks/000001", "tombstones"];
        let read = |file: &str| (file.to_owned(), env.fs.read(&block.join(file)).unwrap());
        (meta, files.map(read).into_iter().collect())
    }

    #[test]
    fn a_head_that_tells_numbers_gives_the_block_that_texts_give() {
        let head = Head::without_log(&Env::real(), HeadOptions { future_bound: None, ..HeadOptions::default() });
        for step in 0..300_i64 {
            let mut appender = head.appender();
            for n in 0..120_u32 {
                // Some have no sample inside, others one that lies across the end.
                let t = step * 50 + if n % 10 == 3 { 12_000 } else { 0 };
                let values = [("a", n % 3), ("b", n.wrapping_mul(7) % 11), ("c", n), ("dd", n % 2)];
                let pairs = values.iter().filter(|(_, value)| *value > 0).map(|(name, v)| (*name, v.to_string()));
                let labels = Labels::from_pairs(pairs.chain([("z", format!("{}", n / 40))]));
                appender.append(None, &labels, t, f64::from(n) + step as f64).unwrap();
            }
            appender.commit().unwrap();
        }
        let delete = |min, max, name, value| {
            head.delete(TimeRange::new(min, max), &[Matcher::equal(name, value)]).unwrap();
        };
        delete(100, 900, "a", "1");
        delete(0, i64::MAX, "c", "57");
        for range in [TimeRange::new(0, 9_999), TimeRange::new(2_345, 7_001)] {
            let (texts, numbers) = (Texts(head.range_head(range)), head.range_head(range));
            assert!(numbers.numbered().unwrap().is_some() && texts.numbered().unwrap().is_none());
            let ((meta, files), (expected_meta, expected)) = (written(&numbers), written(&texts));
            assert_eq!(meta.stats, expected_meta.stats);
            assert!(meta.stats.num_series > 100 && meta.stats.num_series < 120);
            assert!(files == expected);
        }
    }
}
