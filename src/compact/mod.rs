//! Making blocks: from the head, or one out of several.
//!
//! [`write_block`] turns anything that reads like a block into a block on disk; that is how the head is cut. [`merge_blocks`]
//! makes one block of several. Both stream: symbols, then series by series in label order, so that what is in memory does
//! not grow with the number of samples. A chunk that overlaps no other and has nothing deleted is copied as it is; only
//! the others are decoded. Where two have a sample for the same millisecond **the first write wins**: sources are given in
//! order of precedence.
//!
//! What to merge next is [`plan`]'s decision, a pure function of what the blocks say of themselves. Nothing here looks at
//! a clock or a queue: when to do it is the caller's.

#![warn(clippy::indexing_slicing)]

mod bulk;
pub mod downsample;
mod merge;
mod overlap;
mod plan;
mod rewrite;
mod spans;

use std::path::Path;

use crate::block::{BlockDesc, BlockMeta, BlockRead, BlockWriter, SealedBlock, Ulid, new_ulid};
use crate::budget::Budget;
use crate::chunk::Encoding;
use crate::error::Result;
use crate::fs::Env;
use crate::model::TimeRange;

pub use bulk::{BulkOptions, BulkWriter};
use merge::populate_with;

pub use merge::populate;
pub use plan::{Plan, Reason, block_ranges, plan};
pub use rewrite::{Part, series_of_rules};
pub(crate) use spans::spans;

/// Writes what `source` has in its [`time_range`](BlockRead::time_range) as a new block of level 1 in the directory
/// `dir`, and returns its meta; `None` if there are no samples, and then no block. Deleted samples are left out.
///
/// `span` is what the block says it covers, the end exclusive; for a head that is cut at block boundaries it is wider
/// than the samples. `hints` say that there is more in the source than what was written ([`HINT_OUT_OF_ORDER`] and its
/// like). `budget` can cancel.
///
/// [`HINT_OUT_OF_ORDER`]: crate::block::HINT_OUT_OF_ORDER
///
/// # Errors
/// `Corrupt` if the source is damaged, `Io`, `Full`, `Cancelled`. Nothing is left of the block then.
pub fn write_block(
    env: &Env,
    dir: &Path,
    source: &dyn BlockRead,
    span: std::ops::Range<i64>,
    hints: &[&str],
    budget: &Budget,
) -> Result<Option<BlockMeta>> {
    write_block_as(new_ulid(env), env, dir, source, span, hints, Encoding::Xor, budget)
}

/// [`write_block`] with a name that the caller chose. Floats that are written again, where chunks overlap, are in the
/// encoding `floats`.
///
/// # Errors
/// As [`write_block`].
#[expect(clippy::too_many_arguments, reason = "those of `write_block`, and two")]
pub fn write_block_as(
    ulid: Ulid,
    env: &Env,
    dir: &Path,
    source: &dyn BlockRead,
    span: std::ops::Range<i64>,
    hints: &[&str],
    floats: Encoding,
    budget: &Budget,
) -> Result<Option<BlockMeta>> {
    let mut meta = BlockMeta::new(ulid, span.start, span.end);
    meta.compaction.level = 1;
    // Thanos takes a block whose sources are contained in another's for a duplicate: a block's own name must be there.
    meta.compaction.sources = vec![meta.ulid];
    for hint in hints {
        meta.compaction.add_hint(hint);
    }
    if !hints.is_empty() {
        // The originals note the head as the parent of such a block, by a name of zeros.
        meta.compaction.parents = vec![BlockDesc { ulid: Ulid::nil(), min_time: 0, max_time: 0 }];
    }
    seal(env, dir, &[source], meta, floats, budget)?.map(SealedBlock::publish).transpose()
}

/// Merges `blocks`, each with its meta, into a new block in `dir`, and returns its meta; `None` if nothing is left of
/// them, and then no block. They are given by [precedence](BlockMeta::precedence): where two have a sample at the same
/// millisecond, the earlier one's stays. What was deleted in them is gone in the new block.
///
/// The blocks stay where they are: they are named as parents, and may be removed once the new block is there.
///
/// # Errors
/// `Corrupt` if a block is damaged, `Io`, `Full`, `Cancelled`. Nothing is left of the new block then.
pub fn merge_blocks(
    env: &Env,
    dir: &Path,
    blocks: &[(&dyn BlockRead, &BlockMeta)],
    budget: &Budget,
) -> Result<Option<BlockMeta>> {
    merge_sealed(env, dir, blocks, Encoding::Xor, budget)?.map(SealedBlock::publish).transpose()
}

/// As [`merge_blocks`], but nobody sees the new block yet: its caller has something to settle before. Floats that are
/// written again, where chunks overlap, are in the encoding `floats`.
///
/// # Errors
/// As [`merge_blocks`].
pub fn merge_sealed(
    env: &Env,
    dir: &Path,
    blocks: &[(&dyn BlockRead, &BlockMeta)],
    floats: Encoding,
    budget: &Budget,
) -> Result<Option<SealedBlock>> {
    let mut metas: Vec<_> = blocks.iter().map(|(_, meta)| *meta).collect();
    metas.sort_by_key(|meta| meta.min_time);
    let sources: Vec<_> = blocks.iter().map(|(block, _)| *block).collect();
    seal(env, dir, &sources, merged_meta(new_ulid(env), &metas), floats, budget)
}

fn seal(
    env: &Env,
    dir: &Path,
    sources: &[&dyn BlockRead],
    meta: BlockMeta,
    floats: Encoding,
    budget: &Budget,
) -> Result<Option<SealedBlock>> {
    let range = meta.time_range();
    let mut writer = BlockWriter::create(&env.fs, dir, meta)?;
    populate_with(&mut writer, sources, range, floats, budget)?;
    writer.seal()
}

/// The meta of a block that is merged from `parents`, in the order that they are named in.
#[must_use]
pub fn merged_meta(ulid: Ulid, parents: &[&BlockMeta]) -> BlockMeta {
    let min_time = parents.iter().map(|meta| meta.min_time).min().unwrap_or(0);
    let max_time = parents.iter().map(|meta| meta.max_time).max().unwrap_or(0);
    let mut meta = BlockMeta::new(ulid, min_time, max_time);
    let compaction = &mut meta.compaction;
    compaction.level = parents.iter().map(|parent| parent.compaction.level).max().unwrap_or(0) + 1;
    compaction.sources = parents.iter().flat_map(|parent| parent.compaction.sources.iter().copied()).collect();
    compaction.sources.sort();
    compaction.sources.dedup();
    compaction.parents = parents.iter().map(|parent| parent.desc()).collect();
    // A block may move the log's cut-off as soon as any parent may, except that parts chosen by series stay parts:
    // such blocks are merged among themselves alone.
    let has = |hint: &str| parents.iter().map(move |parent| parent.compaction.has_hint(hint)).collect::<Vec<_>>();
    if has(crate::block::HINT_OUT_OF_ORDER).iter().all(|has| *has) && !parents.is_empty() {
        compaction.add_hint(crate::block::HINT_OUT_OF_ORDER);
    }
    for hint in [crate::block::HINT_STALE_SERIES, crate::block::HINT_SELECTED_SERIES] {
        if has(hint).contains(&true) {
            compaction.add_hint(hint);
        }
    }
    meta
}

/// The part of `range` that a rewrite keeps, when `deleted` is taken out of it.
fn keeps(range: TimeRange, deleted: &[TimeRange], t: i64) -> bool {
    range.contains(t) && !deleted.iter().any(|span| span.contains(t))
}
