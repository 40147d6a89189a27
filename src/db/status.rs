//! What is here and how it is: for status pages and for people.

use std::path::Path;
use std::sync::Arc;

use super::blocks::Blocks;
use super::downsampled::Downsampled;
use super::{Quarantined, WAL_DIR, WBL_DIR};
use crate::block::{Block, BlockMeta};
use crate::fs::Env;
use crate::head::{Head, Replayed};
use crate::wal::Damage;

/// A database's condition.
#[derive(Debug, Clone)]
pub struct Status {
    /// The blocks that are served, by the time where they begin.
    pub blocks: Vec<BlockStatus>,
    /// The coarser copies of blocks, by the width of their windows and the time where they begin.
    pub downsampled: Vec<BlockStatus>,
    /// The blocks that cannot be read, and why.
    pub quarantined: Vec<Quarantined>,
    /// What was wrong with the logs when they were opened.
    pub log_damage: Vec<Damage>,
    /// Samples, deletions, exemplars and metadata in the logs of series that no record there names: they could not be read
    /// back. Some are left behind a damaged place, or where another program shortened its log.
    pub unknown_series: u64,
    /// The log's segment from which it was read back, if a snapshot of the head stood for what was before.
    pub snapshot: Option<u64>,
    /// Why there was a snapshot of the head that was of no use: the whole log was read instead, and nothing is lost.
    pub snapshot_refused: Option<String>,
    /// Bytes of the logs.
    pub log_bytes: u64,
    /// The oldest sample in the head, in milliseconds.
    pub min_time: Option<i64>,
    /// The newest sample in the head, in milliseconds.
    pub max_time: Option<i64>,
    /// Series in the head.
    pub series: u64,
    /// Series that have samples out of order which are not in a block yet.
    pub out_of_order_series: u64,
    /// What the last maintenance failed with, if it did.
    pub maintenance_error: Option<String>,
}

/// A block that is served.
#[derive(Debug, Clone)]
pub struct BlockStatus {
    /// What it is.
    pub meta: BlockMeta,
    /// Its bytes on the disk.
    pub bytes: u64,
}

impl BlockStatus {
    fn of(block: &Arc<Block>) -> Self {
        Self { meta: block.meta().clone(), bytes: block.size() }
    }
}

impl Status {
    /// Of what lies in `dir`, opened; no maintenance has failed.
    pub(super) fn of(env: &Env, dir: &Path, head: &Head, blocks: &Blocks, replayed: &Replayed) -> Self {
        Self {
            blocks: blocks.all().iter().map(BlockStatus::of).collect(),
            downsampled: Vec::new(),
            quarantined: blocks.quarantined(),
            log_damage: replayed.damage.clone(),
            unknown_series: replayed.unknown_series,
            snapshot: replayed.snapshot,
            snapshot_refused: replayed.snapshot_refused.clone(),
            log_bytes: dir_bytes(env, &dir.join(WAL_DIR)) + dir_bytes(env, &dir.join(WBL_DIR)),
            min_time: head.min_time(),
            max_time: head.max_time(),
            series: head.series_count(),
            out_of_order_series: head.out_of_order_series(),
            maintenance_error: None,
        }
    }

    /// It, with what lies in `downsampled/`.
    pub(super) fn with_downsampled(mut self, downsampled: &Downsampled) -> Self {
        self.downsampled = downsampled.all().iter().map(BlockStatus::of).collect();
        self.quarantined.extend(downsampled.quarantined());
        self
    }
}

/// Bytes of all files in a directory and below; what cannot be looked at counts nothing.
pub(super) fn dir_bytes(env: &Env, dir: &Path) -> u64 {
    let entries = env.fs.list(dir).unwrap_or_default();
    let bytes = entries.into_iter().map(|entry| {
        let path = dir.join(entry.name);
        if entry.is_dir {
            return dir_bytes(env, &path);
        }
        env.fs.stat(&path).ok().flatten().map_or(0, |stat| stat.len)
    });
    bytes.sum()
}
