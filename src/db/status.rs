//! What is here and how it is: for status pages and for people.

use std::path::Path;
use std::sync::Arc;

use super::blocks::Blocks;
use super::{Quarantined, WAL_DIR};
use crate::block::{Block, BlockMeta};
use crate::error::Result;
use crate::fs::Env;
use crate::head::{Head, Replayed};
use crate::wal::record::{self, RecordType};
use crate::wal::{Damage, Decompressor, LogReader};

/// A database's condition.
#[derive(Debug, Clone)]
pub struct Status {
    /// The blocks that are served, by the time where they begin.
    pub blocks: Vec<BlockStatus>,
    /// The blocks that cannot be read, and why.
    pub quarantined: Vec<Quarantined>,
    /// What was wrong with the log when it was opened.
    pub log_damage: Vec<Damage>,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// The oldest sample in the head, in milliseconds.
    pub min_time: Option<i64>,
    /// The newest sample in the head, in milliseconds.
    pub max_time: Option<i64>,
    /// Series in the head.
    pub series: u64,
    /// Samples that came out of order and lie in `wbl`; they are not read yet.
    pub unread_out_of_order: u64,
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

impl Status {
    /// Of what lies in `dir`, opened; no maintenance has failed.
    pub(super) fn of(
        env: &Env,
        dir: &Path,
        head: &Head,
        blocks: &Blocks,
        replayed: &Replayed,
        unread_out_of_order: u64,
    ) -> Self {
        let status = |block: &Arc<Block>| BlockStatus { meta: block.meta().clone(), bytes: block.size() };
        Self {
            blocks: blocks.all().iter().map(status).collect(),
            quarantined: blocks.quarantined(),
            log_damage: replayed.damage.clone(),
            log_bytes: dir_bytes(env, &dir.join(WAL_DIR)),
            min_time: head.min_time(),
            max_time: head.max_time(),
            series: head.series_count(),
            unread_out_of_order,
            maintenance_error: None,
        }
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

/// How many samples lie in the log of out-of-order samples. What cannot be read of it is not counted.
pub(super) fn count_out_of_order(env: &Env, dir: &Path) -> Result<u64> {
    let mut reader = LogReader::open(&env.fs, dir)?;
    let (mut decompressor, mut bytes, mut samples) = (Decompressor::default(), Vec::new(), 0);
    let (mut floats, mut histograms, mut float_histograms) = (Vec::new(), Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut bytes)?.is_some() {
        floats.clear();
        histograms.clear();
        float_histograms.clear();
        let _ = match RecordType::of(&bytes) {
            Some(RecordType::Samples | RecordType::SamplesSt) => record::decode_samples(&bytes, &mut floats),
            Some(RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt) => {
                record::decode_histograms(&bytes, &mut histograms)
            }
            Some(RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt) => {
                record::decode_float_histograms(&bytes, &mut float_histograms)
            }
            _ => Ok(()),
        };
        samples += (floats.len() + histograms.len() + float_histograms.len()) as u64;
    }
    Ok(samples)
}
