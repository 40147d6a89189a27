//! Writing a block: into a directory of another name, synced file by file, then renamed.
//!
//! ```text
//! chunks/*, index   written side by side, series after series, and synced
//! meta.json         when the counts are known
//! tombstones        empty, as the originals write them
//! directory sync    of chunks/ and of the block
//! rename            01….tmp-for-creation → 01…
//! directory sync    of the parent: from here on the block is there
//! ```
//!
//! A crash before the rename leaves a directory that nobody takes for a block, and that is removed when the database is
//! next opened; after it, the block is whole.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::BlockError;
use super::directory::INDEX_FILE;
use super::meta::{BlockMeta, BlockStats};
use super::segments::{SEGMENT_SIZE, SegmentWriter};
use super::tombstones::Tombstones;
use crate::chunk::{AGGREGATES, AggregateChunk, EncodedChunk, sample_count};
use crate::error::Result;
use crate::fs::{Fs, with_suffix};
use crate::index::{ChunkMeta, IndexError, IndexWriter, NumberedSeries, SeriesId};
use crate::model::{Labels, TimeRange};

/// What the name of a directory ends in while a block is written into it.
pub const CREATING: &str = ".tmp-for-creation";
/// What the name of a directory ends in while a block is removed from it.
pub const DELETING: &str = ".tmp-for-deletion";

/// A chunk to be written, with the times of its first and last sample in milliseconds.
#[derive(Debug, Clone)]
pub struct TimedChunk {
    /// The first sample's time.
    pub min_time: i64,
    /// The last sample's time.
    pub max_time: i64,
    /// The chunk.
    pub chunk: EncodedChunk,
}

impl TimedChunk {
    pub(crate) fn span(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time)
    }
}

fn timed_parts(chunk: &TimedChunk) -> (u8, &Bytes, i64, i64) {
    let TimedChunk { min_time, max_time, chunk } = chunk;
    (chunk.encoding.byte(), &chunk.data, *min_time, *max_time)
}

fn encoded_parts<'a>((chunk, data): &'a (&TimedAggregates, Bytes)) -> (u8, &'a Bytes, i64, i64) {
    (AGGREGATES, data, chunk.min_time, chunk.max_time)
}

/// A chunk of aggregates to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedAggregates {
    /// The first window's time.
    pub min_time: i64,
    /// The last window's time.
    pub max_time: i64,
    /// The chunk.
    pub chunk: AggregateChunk,
}

/// Writes one block: all symbols, then all series, then [`finish`](BlockWriter::finish). Dropping it before that removes
/// what was written.
#[derive(Debug)]
pub struct BlockWriter {
    fs: Arc<dyn Fs>,
    parent: PathBuf,
    dir: PathBuf,
    temporary: PathBuf,
    meta: BlockMeta,
    // Both are taken by `finish`.
    index: Option<IndexWriter>,
    segments: Option<SegmentWriter>,
    metas: Vec<ChunkMeta>,
}

impl BlockWriter {
    /// Begins the block `meta.ulid` in the directory `parent`. The counts in `meta` are overwritten; the rest of it is
    /// the caller's to fill in.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn create(fs: &Arc<dyn Fs>, parent: &Path, meta: BlockMeta) -> Result<Self> {
        Self::with_segment_size(fs, parent, meta, SEGMENT_SIZE)
    }

    /// As [`create`](BlockWriter::create), with segments of at most `segment_size` bytes.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn with_segment_size(fs: &Arc<dyn Fs>, parent: &Path, meta: BlockMeta, segment_size: u64) -> Result<Self> {
        let dir = parent.join(meta.ulid.to_string());
        let temporary = with_suffix(&dir, CREATING);
        if fs.stat(&temporary).map_err(BlockError::io(&temporary))?.is_some() {
            fs.remove_dir_all(&temporary).map_err(BlockError::io(&temporary))?;
        }
        fs.create_dir_all(&temporary).map_err(BlockError::io(&temporary))?;
        let mut writer = Self {
            fs: Arc::clone(fs),
            parent: parent.to_owned(),
            dir,
            temporary,
            meta,
            index: None,
            segments: None,
            metas: Vec::new(),
        };
        // From here on dropping the writer cleans up.
        writer.meta.stats = BlockStats::default();
        writer.segments = Some(SegmentWriter::create(fs, &writer.temporary, segment_size)?);
        writer.index = Some(IndexWriter::create(fs, &writer.temporary.join(INDEX_FILE))?);
        Ok(writer)
    }

    /// What the block's `meta.json` will say, with the counts so far.
    #[must_use]
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Where the block's files lie until it is finished.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.temporary
    }

    fn finished(&self) -> BlockError {
        BlockError::inconsistent(&self.temporary, "the block is finished already")
    }

    /// Adds a symbol; they come in ascending order, before all series. See [`IndexWriter::add_symbol`].
    ///
    /// # Errors
    /// `InvalidInput`, `Io`, `Full`.
    pub fn add_symbol(&mut self, symbol: &str) -> Result<()> {
        match &mut self.index {
            Some(index) => Ok(index.add_symbol(symbol)?),
            None => Err(self.finished().into()),
        }
    }

    /// Says which series come, by numbers. See [`IndexWriter::set_numbered`].
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn set_numbered(&mut self, series: Arc<dyn NumberedSeries>) -> Result<()> {
        match &mut self.index {
            Some(index) => Ok(index.set_numbered(series)?),
            None => Err(self.finished().into()),
        }
    }

    /// Adds the series at `place` of those that were [set](BlockWriter::set_numbered), with its chunks. See
    /// [`IndexWriter::add_numbered`].
    ///
    /// # Errors
    /// `InvalidInput`, `Io`, `Full`.
    pub fn add_numbered(&mut self, place: usize, chunks: &[TimedChunk]) -> Result<()> {
        self.add(chunks.iter(), timed_parts, |index, metas| index.add_numbered(place, metas))?;
        self.count(&format_args!("series {place}"), chunks)
    }

    /// Adds a series; they come in label order, with at least a chunk each, and their chunks by time. See
    /// [`IndexWriter::add_series`].
    ///
    /// # Errors
    /// `InvalidInput`, `Io`, `Full`.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[TimedChunk]) -> Result<()> {
        self.add(chunks.iter(), timed_parts, |index, metas| index.add_series(labels, metas))?;
        self.count(labels, chunks)
    }

    fn count(&mut self, series: &dyn fmt::Display, chunks: &[TimedChunk]) -> Result<()> {
        let stats = &mut self.meta.stats;
        for TimedChunk { chunk, .. } in chunks {
            let count = sample_count(chunk.encoding, &chunk.data)
                .map_err(|error| BlockError::inconsistent(&self.temporary, format!("chunk of {series}: {error}")))?;
            stats.num_samples += count as u64;
            if chunk.encoding.is_float() {
                stats.num_float_samples += count as u64;
            } else {
                stats.num_histogram_samples += count as u64;
            }
        }
        Ok(())
    }

    /// Adds a series of a downsampled block. As in Thanos, what counts as a sample there is a window; how many floats and
    /// histograms the windows were made of is the caller's to say, with [`set_made_of`](BlockWriter::set_made_of).
    ///
    /// # Errors
    /// As [`add_series`](BlockWriter::add_series).
    pub fn add_aggregates(&mut self, labels: &Labels, chunks: &[TimedAggregates]) -> Result<()> {
        let mut windows = 0;
        for TimedAggregates { chunk, .. } in chunks {
            let count = chunk.windows();
            windows += count
                .map_err(|error| BlockError::inconsistent(&self.temporary, format!("chunk of {labels}: {error}")))?;
        }
        let encoded: Vec<_> = chunks.iter().map(|chunk| (chunk, chunk.chunk.encode())).collect();
        self.add(encoded.iter(), encoded_parts, |index, metas| index.add_series(labels, metas))?;
        self.meta.stats.num_samples += windows as u64;
        Ok(())
    }

    /// Says of a downsampled block how many floats and histograms it was made of.
    pub fn set_made_of(&mut self, source: &BlockStats) {
        self.meta.stats.num_float_samples = source.num_float_samples;
        self.meta.stats.num_histogram_samples = source.num_histogram_samples;
    }

    /// Writes the chunks of a series, and the series, with `add_series`. `parts` gives a chunk's encoding byte, data, first
    /// and last time.
    fn add<'a, C: 'a>(
        &mut self,
        chunks: impl ExactSizeIterator<Item = &'a C> + Clone,
        parts: impl Fn(&'a C) -> (u8, &'a Bytes, i64, i64),
        add_series: impl FnOnce(&mut IndexWriter, &[ChunkMeta]) -> Result<SeriesId, IndexError>,
    ) -> Result<()> {
        let (Some(index), Some(segments)) = (&mut self.index, &mut self.segments) else {
            return Err(self.finished().into());
        };
        self.metas.clear();
        let metas = &mut self.metas;
        let mut times = chunks.clone().map(|chunk| {
            let (_, _, min_time, max_time) = parts(chunk);
            (min_time, max_time)
        });
        let written = chunks.clone().map(|chunk| {
            let (byte, data, _, _) = parts(chunk);
            (byte, data.as_ref())
        });
        segments.add(written, |reference| {
            metas.extend(times.next().map(|(min_time, max_time)| ChunkMeta { reference, min_time, max_time }));
        })?;
        add_series(index, &self.metas)?;
        self.meta.stats.num_series += 1;
        self.meta.stats.num_chunks += chunks.len() as u64;
        Ok(())
    }

    /// Completes the block and makes it durable and visible. A block without samples is not made: `None`, and nothing is
    /// left of it.
    ///
    /// # Errors
    /// `InvalidInput` for a limit of the format, `Io`, `Full`.
    pub fn finish(self) -> Result<Option<BlockMeta>> {
        self.seal()?.map(SealedBlock::publish).transpose()
    }

    /// Completes the block, but does not show it yet. `None` for a block without samples, and nothing is left of it.
    ///
    /// # Errors
    /// As [`finish`](BlockWriter::finish).
    pub fn seal(mut self) -> Result<Option<SealedBlock>> {
        let (Some(index), Some(segments)) = (self.index.take(), self.segments.take()) else {
            return Err(self.finished().into());
        };
        if self.meta.stats.num_samples == 0 {
            return Ok(None);
        }
        segments.finish()?;
        index.finish()?;
        let fs = &*self.fs;
        self.meta.write(fs, &self.temporary)?;
        // The last write here syncs the directory, and with it every name in it.
        Tombstones::default().write(fs, &self.temporary)?;
        Ok(Some(SealedBlock { writer: self }))
    }
}

/// A block that is written and durable, under a name that nobody takes for a block's. Dropping it removes it.
#[derive(Debug)]
pub struct SealedBlock {
    /// Without its files; it cleans up when it is dropped.
    writer: BlockWriter,
}

impl SealedBlock {
    /// What its `meta.json` says.
    #[must_use]
    pub fn meta(&self) -> &BlockMeta {
        &self.writer.meta
    }

    /// Where its files lie: it can be opened there.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.writer.temporary
    }

    /// Marks samples in it as deleted before anybody sees it.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn set_tombstones(&mut self, tombstones: &Tombstones) -> Result<()> {
        let BlockWriter { fs, temporary, meta, .. } = &mut self.writer;
        tombstones.write(&**fs, temporary)?;
        meta.stats.num_tombstones = tombstones.len() as u64;
        Ok(meta.write(&**fs, temporary)?)
    }

    /// Gives it its name: from here on the block is there, and a crash leaves it.
    ///
    /// # Errors
    /// `Io`.
    pub fn publish(self) -> Result<BlockMeta> {
        let BlockWriter { fs, parent, dir, temporary, meta, .. } = &self.writer;
        fs.rename(temporary, dir).map_err(BlockError::io(dir))?;
        if let Err(error) = fs.sync_dir(parent) {
            // The caller goes on as if it were not there, so it must not be: what is deleted meanwhile from the blocks that
            // it replaces would come back with it.
            if let Err(error) = fs.rename(dir, temporary) {
                tracing::error!(block = %dir.display(), %error, "a block that could not be made durable stays");
            }
            return Err(BlockError::io(parent)(error).into());
        }
        Ok(meta.clone())
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        self.index = None;
        self.segments = None;
        // After the rename there is nothing of that name. If removing fails, opening the database will do it.
        if matches!(self.fs.stat(&self.temporary), Ok(Some(_)))
            && let Err(error) = self.fs.remove_dir_all(&self.temporary)
        {
            tracing::warn!(dir = %self.temporary.display(), %error, "an unfinished block is left behind");
        }
    }
}
