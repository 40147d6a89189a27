//! The write-ahead log: what was committed and is not in a block yet.
//!
//! A commit is acknowledged when its records stand in the log. The log is a directory of numbered segments; a record is
//! what one commit says about one kind of thing ([`record`]), perhaps compressed, cut into fragments that never span a
//! page of 32 KiB, each with a sum of its own ([`segment`]). [`Log`] is the writer: commits that come at the same time
//! are written, and made durable, together. [`LogReader`] gives the records back after a crash: damage is
//! reported and read around, and [`repair`] mends it. A checkpoint is a small log in a directory of its own that stands
//! for the segments before it ([`write_checkpoint`]). The same format carries the log of out-of-order samples.
//!
//! All bytes are Prometheus's; `docs/format/wal.md` describes them.

#![warn(clippy::indexing_slicing)]

mod checkpoint;
mod compression;
mod log;
mod new_series;
mod reader;
pub mod record;
mod record_buffer;
mod repair;
pub mod segment;
mod segment_reader;

pub use checkpoint::{CheckpointStats, Keep, checkpoint_dir, list_checkpoints, remove_checkpoints, write_checkpoint};
pub use compression::{Compression, Decompressor};
pub use log::{Durability, Log, LogError, LogOptions};
pub use reader::{Damage, DamageKind, LogReader, Position, StoredRecord, check_segment};
pub use record_buffer::RecordBuffer;
pub use repair::repair;
pub(crate) use repair::{Replace, replace_records};
