//! A copy of the database at one moment, made while it is written to: blocks by hard links, the head as a block.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

use parking_lot::Mutex;

use super::{Inner, Maintenance};
use crate::block::{
    BLOCK_FILES, Block, BlockError, BlockRead, CHUNKS_DIR, CREATING, Symbols, TOMBSTONES_FILE, TimedChunk, Ulid,
};
use crate::chunk::{EncodedChunk, rewrite};
use crate::compact::write_block;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Fs, create_dir_durably, with_suffix};
use crate::head::HeadReader;
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Labels, Matcher, TimeRange};

/// Bytes that are copied at a time where a file cannot be linked.
const COPY_STEP: usize = 1 << 20;

impl Inner {
    /// See [`Db::snapshot`](super::Db::snapshot).
    pub(super) fn snapshot(&self, dir: &Path, with_head: bool) -> Result<Vec<Ulid>> {
        let refuse = |why: &str| {
            let text = format!("{}: {why}", dir.display());
            Err(Error::new(ErrorKind::InvalidInput, text))
        };
        if dir == self.dir {
            return refuse("a snapshot of a database cannot lie in its own directory");
        }
        let is_ulid = |name: &OsStr| name.to_str().is_some_and(|name| Ulid::from_string(name).is_ok());
        if dir.file_name().is_some_and(is_ulid) {
            return refuse("a snapshot's directory must not have a block's name");
        }
        let fs = self.env.fs.as_ref();
        create_dir_durably(fs, dir).map_err(BlockError::io(dir))?;
        let (mut written, head) = {
            // Nothing is cut, deleted or dropped meanwhile, and links are quick.
            let mut state = self.maintenance.lock();
            self.check_open()?;
            let mut head = None;
            if with_head {
                // What came out of order is no part of the head's block. A commit that has both comes whole.
                state.cut_late = true;
                self.cut_late(&mut state, &mut Maintenance::default())?;
                let closed = self.head.close_gate();
                self.cut_late_within(&closed, &mut state)?;
                head = (self.head.counts().chunks > 0).then(|| self.head.reader(TimeRange::ALL));
            }
            let mut written = Vec::new();
            for block in self.blocks.all().iter() {
                copy_block(fs, block, dir)?;
                written.push(block.meta().ulid);
            }
            (written, head)
        };
        if let Some(reader) = head {
            let head = HeadBlock::new(reader)?;
            if let Some(span) = head.span() {
                let end = span.max.saturating_add(1);
                let block = write_block(&self.env, dir, &head, span.min..end, &[], &self.rewrites)?;
                written.extend(block.map(|meta| meta.ulid));
            }
        }
        Ok(written)
    }
}

/// Puts the block into `dir`: under a temporary name, then renamed.
fn copy_block(fs: &dyn Fs, block: &Block, dir: &Path) -> Result<()> {
    let to = dir.join(block.meta().ulid.to_string());
    let temporary = with_suffix(&to, CREATING);
    let copy = || {
        if fs.stat(&temporary)?.is_some() {
            fs.remove_dir_all(&temporary)?;
        }
        let (from, into) = (block.dir().join(CHUNKS_DIR), temporary.join(CHUNKS_DIR));
        fs.create_dir_all(&into)?;
        for entry in fs.list(&from)?.into_iter().filter(|entry| !entry.is_dir) {
            link_or_copy(fs, &from.join(&entry.name), &into.join(&entry.name))?;
        }
        fs.sync_dir(&into)?;
        for name in BLOCK_FILES {
            let from = block.dir().join(name);
            // Thanos's compactor writes no tombstones.
            if name != TOMBSTONES_FILE || fs.stat(&from)?.is_some() {
                link_or_copy(fs, &from, &temporary.join(name))?;
            }
        }
        fs.sync_dir(&temporary)?;
        fs.rename(&temporary, &to)?;
        fs.sync_dir(dir)
    };
    let copied = copy();
    if copied.is_err() {
        // What is left of it is in nobody's way; the error says more.
        let _ = fs.remove_dir_all(&temporary);
    }
    Ok(copied.map_err(BlockError::io(&to))?)
}

/// A second name where the disk can; else a copy. The files of a block are replaced, never written to.
fn link_or_copy(fs: &dyn Fs, from: &Path, to: &Path) -> std::io::Result<()> {
    if fs.hard_link(from, to).is_ok() {
        return Ok(());
    }
    let (source, mut target) = (fs.open_read(from)?, fs.create(to)?);
    let mut buffer = vec![0; COPY_STEP];
    let mut offset = 0;
    loop {
        let read = source.read_at(offset, &mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        target.append(bytes)?;
        offset += read as u64;
    }
    target.sync()
}

/// What a reader of the head sees, as a block: it may be written to meanwhile.
struct HeadBlock {
    reader: HeadReader,
    series: Vec<(SeriesId, Labels)>,
    /// The chunks of the series that was asked for last.
    chunks: Mutex<Vec<TimedChunk>>,
}

impl HeadBlock {
    fn new(reader: HeadReader) -> Result<Self> {
        let series = reader.select(&[])?;
        Ok(Self { reader, series, chunks: Mutex::default() })
    }

    /// Where its samples lie: from the first to the last, or a little more.
    fn span(&self) -> Option<TimeRange> {
        let (mut span, mut chunks, mut hidden): (Option<TimeRange>, _, _) = (None, Vec::new(), Vec::new());
        for (id, _) in &self.series {
            self.reader.chunks(*id, &mut chunks, &mut hidden);
            for range in chunks.iter().filter_map(|chunk| chunk.range.intersect(&self.reader.range())) {
                let so_far = span.unwrap_or(range);
                span = Some(TimeRange::new(so_far.min.min(range.min), so_far.max.max(range.max)));
            }
        }
        span
    }

    /// The chunks of a series by precedence, without what must not be seen.
    fn read(&self, index: usize, out: &mut Vec<TimedChunk>) -> Result<Labels> {
        let Some((id, labels)) = self.series.get(index) else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("no series {index} in the head")));
        };
        let (mut chunks, mut hidden) = (Vec::new(), Vec::new());
        self.reader.chunks(*id, &mut chunks, &mut hidden);
        let range = self.reader.range();
        for chunk in chunks {
            let span = chunk.range;
            let untouched = range.min <= span.min && span.max <= range.max;
            if untouched && !hidden.iter().any(|by| by.overlaps(&span)) {
                out.push(TimedChunk { min_time: span.min, max_time: span.max, chunk: chunk.load()? });
                continue;
            }
            let keep = |t| range.contains(t) && !hidden.iter().any(|by| by.contains(t));
            let mut written = Vec::new();
            rewrite(&chunk.load()?, keep, &mut written)
                .map_err(|error| Error::new(ErrorKind::Corrupt, format!("a chunk of {labels} in the head: {error}")))?;
            out.extend(written.into_iter().map(|chunk| TimedChunk {
                min_time: chunk.min_time,
                max_time: chunk.max_time,
                chunk: chunk.chunk,
            }));
        }
        Ok(labels.clone())
    }
}

impl BlockRead for HeadBlock {
    fn time_range(&self) -> TimeRange {
        self.reader.range()
    }

    fn label_names(&self) -> Result<Vec<String>> {
        Ok(self.reader.label_names())
    }

    fn label_values(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.reader.label_values(name))
    }

    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
        let numbered = self.series.iter().zip(0..);
        let selected = numbered.filter(|((_, labels), _)| {
            matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
        });
        Ok(selected.map(|(_, index)| SeriesId(index)).collect())
    }

    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        let mut current = self.chunks.lock();
        current.clear();
        *labels = self.read(id.0 as usize, &mut current)?;
        chunks.clear();
        // By precedence and not by time: what is merged from it sorts that out.
        chunks.extend(current.iter().zip(u64::from(id.0) << 32..).map(|(chunk, reference)| ChunkMeta {
            reference,
            min_time: chunk.min_time,
            max_time: chunk.max_time,
        }));
        Ok(())
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        let current = self.chunks.lock();
        let chunk = current.get(meta.reference as u32 as usize).map(|chunk| chunk.chunk.clone());
        chunk.ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("no chunk {meta:?} in the head")))
    }

    fn tombstones(&self, _: SeriesId) -> Cow<'_, [TimeRange]> {
        // What is deleted was left out already.
        Cow::Borrowed(&[])
    }

    fn symbols(&self) -> Result<Symbols<'_>> {
        let strings = self.series.iter().flat_map(|(_, labels)| labels.iter());
        // The original has the empty string too: see `RangeHead`.
        let mut symbols: Vec<&str> = strings.flat_map(|(name, value)| [name, value]).chain([""]).collect();
        symbols.sort_unstable();
        symbols.dedup();
        Ok(Box::new(symbols.into_iter().map(|symbol| Ok(Cow::Borrowed(symbol)))))
    }
}
