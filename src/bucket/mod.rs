//! Blocks in object storage, in Thanos's layout: shipped there, listed, and read where they lie.
//!
//! A [`Bucket`] is an object store behind a counter: every request that leaves goes through it, so that what a query
//! costs can be said. Below it, `<ULID>/meta.json`, `<ULID>/index` and `<ULID>/chunks/000001` are what they are on a
//! disk; `meta.json` is written last and says that the block is whole. `docs/thanos.md` has the layout.
//!
//! This is the one room that speaks async inside. It starts no runtime: it runs on the handle that it is given, and what
//! it offers to others blocks, so a caller that is itself async calls it from a thread for blocking work.

#![warn(clippy::indexing_slicing)]

mod block;
mod config;
mod file_reader;
mod header;
mod list;
mod list_cache;
mod listed;
mod mark;
mod meta;
mod range_cache;
mod rewrite;
mod ship;
mod source;
mod store;
mod task;
mod upload;
mod window;

#[cfg(any(test, feature = "testkit"))]
pub(crate) use header::open_file as open_header_file;
#[cfg(any(test, feature = "testkit"))]
pub(crate) use list_cache::written_again as list_written_again;

pub use config::StoreConfig;
pub use file_reader::hash_file;
pub use list::{BlockList, HiddenBlock, HiddenReason, ListOptions, PartialBlock, Refreshed};
pub use listed::{BlockFile, ListedBlock, Marked};
pub use mark::{
    DELETION_MARK_FILE, DeletionMark, Mark, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, NoCompactMark,
    NoDownsampleMark,
};
pub use meta::{Downsample, FileEntry, FileHash, IndexStats, THANOS_SECTION, ThanosMeta};
pub use object_store::ObjectStore;
pub use range_cache::{CacheStats, RangeCache};
pub use ship::{Catalog, SHIPPER_FILE, ShipOptions, Shipped, Shipper, ShipperStatus};
pub use source::BucketSource;
pub use store::{Bucket, Operation, OperationCounts, StoredObject};
pub use upload::{Progress, SOURCE_RECEIVE, UploadOptions, Uploaded, upload_block};
