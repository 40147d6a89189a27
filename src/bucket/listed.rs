//! One block of a bucket, as far as it is known without reading it: its `meta.json`, and what the list says of its files.

use std::path::Path;

use bytes::Bytes;

use super::ThanosMeta;
use crate::block::{BlockMeta, BlockStats, CHUNKS_DIR, INDEX_FILE, META_FILE, Ulid};
use crate::codec::FixedSet;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, TimeRange};

/// A file of a block, as a list of the bucket has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFile {
    /// Its name below the block's: `chunks/000001`.
    pub name: Box<str>,
    /// Bytes.
    pub size: u64,
}

/// A block that is marked for deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// When it was marked, milliseconds.
    pub at_ms: i64,
    /// Why, for people.
    pub details: Box<str>,
    /// What the list said of the mark when it was read.
    pub(super) version: FileVersion,
}

/// How a list tells that a file is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileVersion {
    pub(super) size: u64,
    /// 0 where it is not known: this process wrote the file itself.
    pub(super) modified_ms: i64,
}

impl FileVersion {
    pub(super) fn is_same(self, other: Self) -> bool {
        self.size == other.size
            && (self.modified_ms == other.modified_ms || self.modified_ms == 0 || other.modified_ms == 0)
    }
}

/// A block of a bucket. Thousands are kept, so it holds little beside the content of `meta.json` without its spaces.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedBlock {
    pub(super) ulid: Ulid,
    pub(super) min_time: i64,
    pub(super) max_time: i64,
    pub(super) level: u32,
    pub(super) is_hinted: bool,
    pub(super) sources: Box<[Ulid]>,
    pub(super) labels: Labels,
    pub(super) resolution_ms: i64,
    pub(super) series: u64,
    pub(super) series_max_size: u64,
    pub(super) chunk_max_size: u64,
    pub(super) files: Box<[BlockFile]>,
    pub(super) marked: Option<Marked>,
    /// What keeps it from being read.
    pub(super) problem: Option<Box<str>>,
    pub(super) meta: Bytes,
    pub(super) version: FileVersion,
}

impl ListedBlock {
    /// Takes in the content of the `meta.json` of block `ulid`; `file` is what errors call it.
    pub(super) fn parse(
        file: &str,
        ulid: Ulid,
        content: &[u8],
        version: FileVersion,
        files: Vec<BlockFile>,
        known_labels: &mut FixedSet<Labels>,
    ) -> Result<Self> {
        let meta = BlockMeta::parse(Path::new(file), content)?;
        let damaged = |reason: String| Error::new(ErrorKind::Corrupt, format!("{file}: {reason}"));
        if meta.ulid != ulid {
            return Err(damaged(format!("it says that this is block {}", meta.ulid)));
        }
        let mut block = Self::of(&meta, version, known_labels).map_err(|error| error.context(file))?;
        block.set_files(files.into());
        Ok(block)
    }

    /// The block of `meta`, with the files that the section `thanos` names.
    pub(super) fn of(meta: &BlockMeta, version: FileVersion, known_labels: &mut FixedSet<Labels>) -> Result<Self> {
        let section = ThanosMeta::of(meta)?.unwrap_or_default();
        // Most blocks of a bucket have one of a few sets of labels.
        let labels = known_labels.get_or_insert_with(&section.external_labels(), Labels::clone).clone();
        let mut files: Vec<BlockFile> = section
            .files
            .iter()
            .map(|file| {
                let size = if file.rel_path == META_FILE { version.size } else { file.size_bytes };
                BlockFile { name: file.rel_path.as_str().into(), size }
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            ulid: meta.ulid,
            min_time: meta.min_time,
            max_time: meta.max_time,
            level: meta.compaction.level,
            is_hinted: meta.compaction.is_hinted(),
            sources: meta.compaction.sources.as_slice().into(),
            labels,
            resolution_ms: section.downsample.resolution,
            series: meta.stats.num_series,
            series_max_size: section.index_stats.series_max_size,
            chunk_max_size: section.index_stats.chunk_max_size,
            files: files.into(),
            marked: None,
            problem: None,
            meta: compact(meta).into(),
            version,
        })
    }

    /// Its name.
    #[must_use]
    pub fn ulid(&self) -> Ulid {
        self.ulid
    }

    /// The time that it covers.
    #[must_use]
    pub fn time_range(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time.saturating_sub(1))
    }

    /// How often its samples were merged: 1 comes from a head.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The level-1 blocks whose samples are in it.
    #[must_use]
    pub fn sources(&self) -> &[Ulid] {
        &self.sources
    }

    /// The external labels: all its series have them.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// How coarse its samples are: 0 as they came, 300 000 or 3 600 000.
    #[must_use]
    pub fn resolution_ms(&self) -> i64 {
        self.resolution_ms
    }

    /// Its files, sorted by name.
    #[must_use]
    pub fn files(&self) -> &[BlockFile] {
        &self.files
    }

    /// Bytes of a file; none if the list has no such file.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u64> {
        let at = self.files.binary_search_by(|file| (*file.name).cmp(name)).ok()?;
        self.files.get(at).map(|file| file.size)
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// When and why it was marked for deletion.
    #[must_use]
    pub fn marked(&self) -> Option<&Marked> {
        self.marked.as_ref()
    }

    /// Its `meta.json`, read anew from the text that is kept.
    ///
    /// # Errors
    /// `Corrupt`; it was read before, so this does not happen.
    pub fn meta(&self) -> Result<BlockMeta> {
        Ok(BlockMeta::parse(Path::new(META_FILE), &self.meta)?)
    }

    /// What Thanos knows of it.
    ///
    /// # Errors
    /// As [`meta`](ListedBlock::meta).
    pub fn thanos(&self) -> Result<ThanosMeta> {
        Ok(ThanosMeta::of(&self.meta()?)?.unwrap_or_default())
    }

    /// How much is in it, as its `meta.json` says.
    ///
    /// # Errors
    /// As [`meta`](ListedBlock::meta).
    pub fn stats(&self) -> Result<BlockStats> {
        Ok(self.meta()?.stats)
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let files: usize = self.files.iter().map(|file| size_of::<BlockFile>() + file.name.len()).sum();
        size_of::<Self>() + size_of_val(&*self.sources) + files + self.meta.len()
    }

    /// Takes in what a list says of its files.
    pub(super) fn set_files(&mut self, files: Box<[BlockFile]>) {
        self.files = files;
        self.problem = self.missing().map(Into::into);
    }

    /// What is not there of what its `meta.json` names, or is there in another size.
    fn missing(&self) -> Option<String> {
        let section = ThanosMeta::of(&self.meta().ok()?).ok()?.unwrap_or_default();
        for file in section.files.iter().filter(|file| file.rel_path != META_FILE) {
            match self.size_of(&file.rel_path) {
                None => return Some(format!("{} is named in {META_FILE} and is not there", file.rel_path)),
                Some(size) if size != file.size_bytes && file.size_bytes != 0 => {
                    let said = file.size_bytes;
                    return Some(format!("{} has {size} bytes; {META_FILE} says {said}", file.rel_path));
                }
                Some(_) => {}
            }
        }
        let segments = section.segment_files.iter().map(|name| format!("{CHUNKS_DIR}/{name}"));
        let missing = std::iter::once(INDEX_FILE.to_owned()).chain(segments).find(|name| self.size_of(name).is_none());
        missing.map(|name| format!("{name} is not there"))
    }
}

/// A meta without the spaces that its file has for people.
fn compact(meta: &BlockMeta) -> Box<[u8]> {
    let json = serde_json::to_vec(meta);
    debug_assert!(json.is_ok(), "plain structs and maps with string keys cannot fail");
    json.unwrap_or_default().into_boxed_slice()
}
