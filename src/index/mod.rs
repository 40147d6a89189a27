//! Which series there are, and which of them a selector means.
//!
//! An index answers three questions: what labels and chunks does a series have, which series carry `name="value"`
//! (a *postings list*: the ids of those series, ascending), and what names and values are there. The ids of a block's
//! series ascend in label order, so a postings list is in label order too.
//!
//! [`Postings`] is such a list, in whatever form it lies (an index's own bytes, a vector, a bitmap), with the set
//! algebra on it. [`postings_for_matchers`] turns matchers into one list, over anything that is a [`PostingsSource`]:
//! the head, a block, an index header in object storage. `docs/format/index.md` describes the file's bytes.

#![warn(clippy::indexing_slicing)]

mod error;
mod header;
mod members;
mod numbered;
mod offset_table;
mod postings;
mod reader;
mod select;
mod symbols;
mod toc;
mod vanished;
mod writer;

pub use error::IndexError;
pub use header::{IndexHeader, ListPlace};
pub use numbered::NumberedSeries;
pub use postings::{Bits, Postings};
pub use reader::Index;
pub use select::{PostingsSource, postings_for_matchers};
pub use toc::{Toc, Version};
pub(crate) use vanished::Vanished;
pub use writer::IndexWriter;

/// A series within one index. In a block of format 2 it is the offset of the series' record divided by 16, in the head a
/// slot; either way it means nothing in another index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u32);

/// Where a chunk lies and what time it covers: an index's record of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkMeta {
    /// In a block: the segment's number, from 0, in the upper 32 bits, the offset in its file in the lower. Elsewhere
    /// it is whatever the source that gave it needs.
    pub reference: u64,
    /// The first sample's time, in milliseconds.
    pub min_time: i64,
    /// The last sample's time, in milliseconds.
    pub max_time: i64,
}
