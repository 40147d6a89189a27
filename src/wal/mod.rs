//! The write-ahead log: what was committed and is not in a block yet.
//!
//! A commit is acknowledged when its records stand in the log. The log is a directory of numbered segments; a record is
//! what one commit says about one kind of thing ([`record`]), perhaps compressed, cut into fragments that never span a
//! page of 32 KiB, each with a sum of its own ([`segment`]). [`Log`] is the writer: commits that come at the same time
//! are written, and made durable, together. A checkpoint is a small log in a directory of its own that
//! stands for the segments before it. The same format carries the log of out-of-order samples.
//!
//! All bytes are Prometheus's; `docs/format/wal.md` describes them.

#![warn(clippy::indexing_slicing)]

mod compression;
mod log;
pub mod record;
pub mod segment;

pub use compression::{Compression, Decompressor};
pub use log::{Durability, Log, LogError, LogOptions};
