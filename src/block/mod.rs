//! A block: series, their chunks and their deletions over a span of time, in a directory that never changes.
//!
//! ```text
//! 01M7Z00JPA5HEV9YCPZSAACAM8/
//!   meta.json      what it is: span of time, counts, what it was made from      docs/format/meta.md
//!   index          which series there are and where their chunks lie            docs/format/index.md
//!   chunks/000001  the chunks, one after another, in files of 512 MiB at most   docs/format/block.md
//!   tombstones     what is deleted in it, but still there                       docs/format/tombstones.md
//! ```
//!
//! [`BlockRead`] is the seam: whatever can be read like a block, wherever it lies. Compaction, downsampling, verification
//! and queries are written once, against it.

#![warn(clippy::indexing_slicing)]

mod directory;
mod error;
pub(crate) mod meta;
mod read;
mod segments;
mod tombstones;
mod usage;
mod writer;

pub use directory::{BLOCK_FILES, Block, INDEX_FILE, is_block};
pub use error::BlockError;
pub use meta::{
    BlockCompaction, BlockDesc, BlockMeta, BlockStats, HINT_OUT_OF_ORDER, HINT_SELECTED_SERIES, HINT_STALE_SERIES,
    META_FILE, Ulid, new_ulid, new_ulid_after,
};
pub use read::{BlockRead, SeriesChunks, Symbols};
pub use segments::{CHUNKS_DIR, SEGMENT_SIZE, segment_name};
#[cfg(feature = "bucket")]
pub(crate) use segments::{chunk_len, split_chunk};
pub use tombstones::{TOMBSTONES_FILE, Tombstones, add_span};
pub(crate) use usage::add_usage;
pub use usage::{MetricUsage, Usage, metric_usage};
pub use writer::{BlockWriter, CREATING, DELETING, SealedBlock, TimedAggregates, TimedChunk};
