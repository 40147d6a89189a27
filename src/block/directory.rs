//! A block in a directory: opened, read, verified.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;

use super::meta::{BlockMeta, META_FILE, Ulid};
use super::segments::Segments;
use super::tombstones::{TOMBSTONES_FILE, Tombstones};
use super::{BlockError, BlockRead, Symbols};
use crate::budget::Budget;
use crate::chunk::{AGGREGATES, Aggregate, AggregateChunk, EncodedChunk, Encoding, sample_count, samples};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Fs;
use crate::index::{ChunkMeta, Index, Postings, PostingsSource, SeriesId, Vanished, postings_for_matchers};
use crate::model::{Labels, Matcher, TimeRange};

/// The index's name in a block's directory.
pub const INDEX_FILE: &str = "index";

/// An opened block. Its files are mapped and stay readable after the directory is removed.
#[derive(Debug)]
pub struct Block {
    dir: PathBuf,
    meta: BlockMeta,
    index: Index,
    segments: Segments,
    tombstones: Tombstones,
    /// What deletes took from the listings: looked for when somebody first asks, if anything is deleted.
    vanished: OnceLock<Vanished>,
    /// Held by who looks for them.
    vanishing: Mutex<()>,
}

impl Block {
    /// Opens the block in `dir`. Checked are `meta.json`, the tombstones, the parts of the index that every look-up needs,
    /// and that the chunk segments are there as far as the last series' chunks go; the rest when it is read, and all of
    /// it by [`verify`](Block::verify).
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, `Io`; the text names the file, and the offset where there is one.
    pub fn open(fs: &dyn Fs, dir: &Path) -> Result<Self> {
        let meta = BlockMeta::read(fs, dir)?;
        let path = dir.join(INDEX_FILE);
        let bytes = fs.map(&path).map_err(BlockError::io(&path))?;
        let index = Index::open(&path.display().to_string(), bytes)?;
        let segments = Segments::open(fs, dir)?;
        let tombstones = Tombstones::read(fs, dir)?;
        let block = Self {
            dir: dir.to_owned(),
            meta,
            index,
            segments,
            tombstones,
            vanished: OnceLock::new(),
            vanishing: Mutex::new(()),
        };
        block.check_segments()?;
        Ok(block)
    }

    /// Whether the segments go as far as the index does: writers put the last series' chunks last, so a file that is
    /// missing or was copied in part is missed here, and not by a query that is half done.
    fn check_segments(&self) -> Result<(), BlockError> {
        let mut chunks = Vec::new();
        // A record that is damaged is found when it is read, like any other.
        let read = self.index.last_series().map(|id| self.index.series(id, &mut Labels::empty(), &mut chunks));
        if !matches!(read, Some(Ok(()))) {
            return Ok(());
        }
        chunks.iter().map(|chunk| chunk.reference).max().map_or(Ok(()), |last| self.segments.check_place(last))
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What its `meta.json` says.
    #[must_use]
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Its index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What is deleted in it.
    #[must_use]
    pub fn all_tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Bytes that its index and chunks take.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.index.size() + self.segments.size()
    }

    /// A chunk's encoding byte and its data, whatever the encoding: Thanos's aggregates have the byte 0xff.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn raw_chunk(&self, reference: u64) -> Result<(u8, Bytes)> {
        Ok(self.segments.chunk(reference)?)
    }

    /// Checks everything: what [`Index::verify`] does, that each chunk's sum is right and its samples decode, ascend and
    /// span what the index says, that all lies in the block's span, and that the counts of `meta.json` are true.
    ///
    /// # Errors
    /// The first damage there is: `Corrupt`, with file and offset.
    pub fn verify(&self) -> Result<()> {
        // A block may lie under a name of one's own choosing, but not under another block's.
        let name = self.dir.file_name().and_then(|name| name.to_str()).and_then(|name| Ulid::from_string(name).ok());
        if name.is_some_and(|name| name != self.meta.ulid) {
            let reason = format!("{META_FILE} says that this is block {}", self.meta.ulid);
            return Err(BlockError::inconsistent(&self.dir, reason).into());
        }
        let mut series = 0;
        let mut chunk_count = 0;
        self.index.verify(|_, labels, chunks| {
            series += 1;
            chunk_count += chunks.len() as u64;
            chunks.iter().try_for_each(|chunk| self.verify_chunk(labels, chunk))
        })?;
        let stats = &self.meta.stats;
        for (what, said, found) in
            [("numSeries", stats.num_series, series), ("numChunks", stats.num_chunks, chunk_count)]
        {
            if said != found {
                let reason = format!("{META_FILE} says {what} is {said}; the index has {found}");
                return Err(BlockError::inconsistent(&self.dir, reason).into());
            }
        }
        Ok(())
    }

    fn verify_chunk(&self, labels: &Labels, meta: &ChunkMeta) -> Result<()> {
        let (file, offset) = (self.segments.path((meta.reference >> 32) as usize), meta.reference & 0xffff_ffff);
        let damaged = |reason: String| BlockError::corrupt(&file, offset, format!("chunk of {labels}: {reason}"));
        let (byte, data) = self.segments.chunk(meta.reference)?;
        let span = self.meta.time_range();
        if meta.min_time < span.min || meta.max_time > span.max {
            let reason = format!("{} to {} is outside the block", meta.min_time, meta.max_time);
            return Err(damaged(reason).into());
        }
        if byte == AGGREGATES {
            return Ok(verify_aggregates(&data, meta).map_err(damaged)?);
        }
        let encoding = Encoding::from_byte(byte).map_err(|error| damaged(error.to_string()))?;
        let count = sample_count(encoding, &data).map_err(|error| damaged(error.to_string()))?;
        let mut first = None;
        let mut last: Option<i64> = None;
        let mut seen = 0;
        for sample in samples(encoding, &data) {
            let t = sample.map_err(|error| damaged(error.to_string()))?.t;
            if last.is_some_and(|last| last >= t) {
                return Err(damaged(format!("sample {seen} at {t} is not after the one before")).into());
            }
            first = first.or(Some(t));
            last = Some(t);
            seen += 1;
        }
        if seen != count || first != Some(meta.min_time) || last != Some(meta.max_time) {
            let reason = format!(
                "{seen} of {count} samples from {first:?} to {last:?}; the index says {} to {}",
                meta.min_time, meta.max_time
            );
            return Err(damaged(reason).into());
        }
        Ok(())
    }
}

impl Block {
    /// The series of which nothing is left, and what goes with them; `None` if nothing is deleted.
    fn vanished(&self) -> Result<Option<&Vanished>> {
        if self.tombstones.is_empty() {
            return Ok(None);
        }
        if let Some(vanished) = self.vanished.get() {
            return Ok(Some(vanished));
        }
        // Who comes second waits for what the first finds.
        let _turn = self.vanishing.lock();
        if let Some(vanished) = self.vanished.get() {
            return Ok(Some(vanished));
        }
        let (mut gone, mut labels, mut chunks) = (Vec::new(), Labels::empty(), Vec::new());
        for (id, spans) in self.tombstones.series() {
            self.series(id, &mut labels, &mut chunks)?;
            if self.are_deleted(&chunks, spans)? {
                gone.push((id.0, labels.clone()));
            }
        }
        let vanished = Vanished::find(&gone, &self.index)?;
        Ok(Some(self.vanished.get_or_init(|| vanished)))
    }

    /// Whether no sample of `chunks` is outside `spans`.
    fn are_deleted(&self, chunks: &[ChunkMeta], spans: &[TimeRange]) -> Result<bool> {
        for meta in chunks {
            if spans.iter().any(|span| span.min <= meta.min_time && meta.max_time <= span.max) {
                continue;
            }
            let chunk = match self.chunk(meta) {
                Ok(chunk) => chunk,
                // Aggregates are not looked into: what is left of one counts as something.
                Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(false),
                Err(error) => return Err(error),
            };
            for sample in samples(chunk.encoding, &chunk.data) {
                let t = sample.map_err(|error| Error::new(ErrorKind::Corrupt, format!("chunk {meta:?}: {error}")))?.t;
                if !spans.iter().any(|span| span.contains(t)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl BlockRead for Block {
    fn time_range(&self) -> TimeRange {
        self.meta.time_range()
    }

    fn label_names(&self) -> Result<Vec<String>> {
        let vanished = self.vanished()?;
        let names = self.index.label_names().filter(|name| !vanished.is_some_and(|vanished| vanished.has_name(name)));
        Ok(names.map(str::to_owned).collect())
    }

    fn label_values(&self, name: &str) -> Result<Vec<String>> {
        let vanished = self.vanished()?;
        let values = self.index.label_values(name, "");
        let is_left = |value: &str| !vanished.is_some_and(|vanished| vanished.has_value(name, value));
        let mut left = Vec::new();
        for value in values {
            left.extend(Some(value?).filter(|value| is_left(value)).map(str::to_owned));
        }
        Ok(left)
    }

    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
        // Ids are places in the file, and series lie there in label order.
        let ids = postings_for_matchers(&self.index, matchers)?.into_vec();
        Ok(ids.into_iter().map(SeriesId).collect())
    }

    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        Ok(self.index.series(id, labels, chunks)?)
    }

    fn labels(&self, id: SeriesId) -> Result<Labels> {
        Ok(self.index.labels(id)?)
    }

    fn labels_in(&self, id: SeriesId, range: TimeRange) -> Result<Option<Labels>> {
        Ok(self.index.labels_in(id, range)?)
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        let (byte, data) = self.segments.chunk(meta.reference)?;
        let encoding = Encoding::from_byte(byte).map_err(|error| BlockError::Unsupported {
            file: self.segments.path((meta.reference >> 32) as usize),
            reason: format!("chunk at offset {}: {error}", meta.reference & 0xffff_ffff),
        })?;
        Ok(EncodedChunk { encoding, data })
    }

    fn any_chunk(&self, meta: &ChunkMeta) -> Result<(u8, Bytes)> {
        self.raw_chunk(meta.reference)
    }

    fn tombstones(&self, id: SeriesId) -> Cow<'_, [TimeRange]> {
        Cow::Borrowed(self.tombstones.get(id))
    }

    fn is_deleted(&self, id: SeriesId) -> Result<bool> {
        let spans = self.tombstones.get(id);
        if spans.is_empty() {
            return Ok(false);
        }
        if let Some(vanished) = self.vanished.get() {
            return Ok(vanished.series().contains(id.0));
        }
        // Of this one alone: to look at all would cost a query what is deleted of series that it has not asked for, again
        // after each deletion.
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        self.series(id, &mut labels, &mut chunks)?;
        self.are_deleted(&chunks, spans)
    }

    fn symbols(&self) -> Result<Symbols<'_>> {
        if self.index.version() == crate::index::Version::V1 {
            // The one format that does not sort them.
            let mut symbols: Vec<_> = self.index.symbols().collect::<Result<_, _>>()?;
            symbols.sort_unstable();
            return Ok(Box::new(symbols.into_iter().map(|symbol| Ok(Cow::Borrowed(symbol)))));
        }
        Ok(Box::new(self.index.symbols().map(|symbol| Ok(Cow::Borrowed(symbol?)))))
    }

    fn label_names_for(&self, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        if matchers.is_empty() {
            return self.label_names();
        }
        let mut selected = self.select(matchers)?;
        if let Some(vanished) = self.vanished()? {
            selected.retain(|id| !vanished.series().contains(id.0));
        }
        budget.check()?;
        Ok(self.index.names_of(selected)?)
    }

    fn label_values_for(&self, name: &str, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        let (own, others): (Vec<_>, Vec<_>) = matchers.iter().cloned().partition(|matcher| matcher.name() == name);
        let vanished = self.vanished()?;
        let selected = match others.is_empty() {
            true => None,
            false => {
                let mut ids = postings_for_matchers(&self.index, &others)?.into_vec();
                ids.retain(|id| !vanished.is_some_and(|vanished| vanished.series().contains(*id)));
                Some(Postings::from(ids))
            }
        };
        let mut values = Vec::new();
        for value in self.index.label_values(name, "") {
            budget.check()?;
            let value = value?;
            if !own.iter().all(|matcher| matcher.matches(value)) {
                continue;
            }
            let hit = match &selected {
                None => !vanished.is_some_and(|vanished| vanished.has_value(name, value)),
                Some(selected) => selected.intersects(&self.index.postings(name, value)?),
            };
            if hit {
                values.push(value.to_owned());
            }
        }
        Ok(values)
    }
}

/// Whether the parts of a chunk of aggregates decode, ascend, and span what the index says.
fn verify_aggregates(data: &Bytes, meta: &ChunkMeta) -> Result<(), String> {
    let chunk = AggregateChunk::decode(data).map_err(|error| error.to_string())?;
    for aggregate in Aggregate::ALL {
        let Some(EncodedChunk { encoding, data }) = chunk.get(aggregate) else { continue };
        // A counter begins with the first sample itself, before its window's end, and repeats its last time.
        let exact = aggregate == Aggregate::Count;
        let mut first = None;
        let mut last: Option<i64> = None;
        for sample in samples(*encoding, data) {
            let t = sample.map_err(|error| format!("{}: {error}", aggregate.name()))?.t;
            if last.is_some_and(|last| last > t || exact && last == t) || t > meta.max_time {
                return Err(format!("{}: {t} does not come after the one before", aggregate.name()));
            }
            first = first.or(Some(t));
            last = Some(t);
        }
        if exact && (first, last) != (Some(meta.min_time), Some(meta.max_time)) {
            let (min, max) = (meta.min_time, meta.max_time);
            return Err(format!("aggregates from {first:?} to {last:?}; the index says {min} to {max}"));
        }
    }
    Ok(())
}

/// Whether `dir` looks like a block: it has a `meta.json`.
///
/// # Errors
/// `Io`.
pub fn is_block(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    Ok(fs.stat(&dir.join(META_FILE))?.is_some())
}

/// The files of a block beside its chunks.
pub const BLOCK_FILES: [&str; 3] = [META_FILE, INDEX_FILE, TOMBSTONES_FILE];
