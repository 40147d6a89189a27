//! Level-1 blocks out of a head of several hours, and all of a directory's blocks merged into one.

use std::path::Path;

use narthex::block::{Block, BlockMeta, BlockRead};
use narthex::budget::Budget;
use narthex::compact::{merge_blocks, write_block};
use narthex::fs::Env;
use narthex::head::HeadOptions;
use narthex::model::TimeRange;
use narthex::testkit::{STEP_MS, T0};
use serde_json::json;

use super::lap::Lap;
use super::{Size, open};
use crate::CommandResult;

/// Writes every full two hours of the head as a block.
pub(super) fn blocks(env: &Env, size: &Size) -> CommandResult {
    let head = open(env, &size.dir)?;
    let span = HeadOptions::default().chunk_range;
    let end = T0 + STEP_MS * i64::try_from(size.samples)?;
    let (mut start, mut written, mut samples) = (T0, 0_u32, 0_u64);
    let lap = Lap::start(env)?;
    while start + span <= end {
        let range = head.range_head(TimeRange::new(start, start + span - 1));
        let meta = write_block(env, &size.dir, &range, start..start + span, &[], &Budget::unlimited())?;
        if let Some(meta) = meta {
            written += 1;
            samples += meta.stats.num_samples;
        }
        start += span;
    }
    lap.done("blocks", samples as f64, json!({ "blocks": written }))
}

/// Merges all blocks of the directory into one, which is left there beside them.
pub(super) fn compact(env: &Env, dir: &Path) -> CommandResult {
    let mut blocks: Vec<Block> = Vec::new();
    let lap = Lap::start(env)?;
    for entry in env.fs.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir && narthex::block::is_block(env.fs.as_ref(), &path)? {
            blocks.push(Block::open(env.fs.as_ref(), &path)?);
        }
    }
    blocks.sort_by_key(|block| (block.meta().min_time, block.meta().ulid));
    let parts: Vec<(&dyn BlockRead, &BlockMeta)> =
        blocks.iter().map(|block| (block as &dyn BlockRead, block.meta())).collect();
    let meta = merge_blocks(env, dir, &parts, &Budget::unlimited())?.ok_or("there are no samples in the blocks")?;
    let more =
        json!({ "id": meta.ulid.to_string(), "samples": meta.stats.num_samples, "series": meta.stats.num_series });
    lap.done("compact", blocks.len() as f64, more)
}
