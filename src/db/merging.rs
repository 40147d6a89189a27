//! Blocks that replace others: merged by level or because they overlap, or written again without what was deleted.
//!
//! ```text
//! plan           on the metas; what is served then is what is written from
//! write          beside, under a temporary name; nothing waits meanwhile, no lock is held but "one rewrite at a time"
//! catch up       what was deleted from the old blocks since is marked in the new one
//! publish        one rename; the new block names the old ones as its parents
//! serve, drop    old ones go, or stay unserved until their guard lets them
//! ```
//!
//! A crash before the rename leaves the old blocks; after it, both, and the new one's parents say which count.

use std::sync::Arc;

use super::blocks::{ends_at, mark_deleted};
use super::maintain::State;
use super::{Inner, Maintenance};
use crate::block::{Block, BlockMeta, BlockRead, SealedBlock, Tombstones, Ulid};
use crate::compact::{Plan, merge_sealed, merged_meta, plan};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Matcher, TimeRange};

/// What was deleted while blocks are rewritten.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    pub(super) done: Vec<(TimeRange, Vec<Matcher>)>,
    /// One failed when some blocks had it and others had not: what is written of both cannot be made to have a part of it.
    pub(super) is_one_half_done: bool,
}

impl Inner {
    /// Merges what the planner says until there is nothing to do; with `yielding`, until the head is to be cut, which is
    /// more urgent. A merge that fails keeps none of the others from being done.
    ///
    /// What was deleted in a block while it was written is for the next pass: somebody who deletes all the time would have it
    /// written again and again, and nothing else after it.
    pub(super) fn merge_all(&self, done: &mut Maintenance, yielding: bool) -> Result<()> {
        let _turn = self.rewriting.lock();
        let ranges = self.options.block_ranges();
        let (mut result, before) = (Ok(()), done.merged.len());
        loop {
            if self.is_to_end(yielding) {
                return result;
            }
            let written: Vec<Ulid> = done.merged.iter().skip(before).copied().collect();
            let next = |blocks: &[Arc<Block>]| {
                let served = self.blocks.all();
                let mut metas: Vec<BlockMeta> = blocks.iter().map(|block| block.meta().clone()).collect();
                for meta in metas.iter_mut().filter(|meta| written.contains(&meta.ulid)) {
                    meta.stats.num_tombstones = 0;
                }
                let Plan { blocks: ulids, reason } = loop {
                    let planned = plan(&metas, &ranges, self.options.merge_overlapping)?;
                    let Some(overtaking) = overtaking(&planned.blocks, &served) else { break planned };
                    metas.retain(|meta| meta.ulid != overtaking);
                };
                tracing::debug!(blocks = ulids.len(), ?reason, "merging blocks");
                Some(blocks.iter().filter(|block| ulids.contains(&block.meta().ulid)).map(Arc::clone).collect())
            };
            match self.rewrite(done, next, |blocks| self.merge(blocks), |_| true) {
                Ok(true) => {}
                Ok(false) => return result,
                Err(_) if self.is_closed() => return result,
                Err(error) => {
                    let left_alone = is_lasting(&error);
                    result = result.and(Err(error));
                    if !left_alone {
                        return result;
                    }
                }
            }
        }
    }

    /// Writes every block again of which something is deleted.
    pub(super) fn clean_tombstones(&self, done: &mut Maintenance) -> Result<()> {
        let _turn = self.rewriting.lock();
        let mut result = Ok(());
        loop {
            let next = |blocks: &[Arc<Block>]| {
                let due = |block: &&Arc<Block>| !block.all_tombstones().is_empty() && !block.meta().compaction.failed;
                blocks.iter().find(due).map(|block| vec![Arc::clone(block)])
            };
            match self.rewrite(done, next, |blocks| self.merge(blocks), |_| true) {
                Ok(true) => {}
                Ok(false) => return result,
                Err(error) if is_lasting(&error) => result = result.and(Err(error)),
                Err(error) => return result.and(Err(error)),
            }
        }
    }

    fn merge(&self, blocks: &[Arc<Block>]) -> Result<Option<SealedBlock>> {
        let mut sources: Vec<_> = blocks.iter().map(|block| (block.as_ref() as &dyn BlockRead, block.meta())).collect();
        sources.sort_by_key(|(_, meta)| meta.precedence());
        merge_sealed(&self.env, &self.dir, &sources, self.options.float_encoding.into(), &self.rewrites)
    }

    /// Replaces the blocks that `choose` picks of those that may go by what `write` makes of them: a block that names them
    /// as its parents, or none. Whether there was anything to do. To be called with the turn to rewrite.
    ///
    /// `still` is asked when it is written whether it may be published: no, and it is as if it had not been tried.
    pub(super) fn rewrite(
        &self,
        done: &mut Maintenance,
        choose: impl FnOnce(&[Arc<Block>]) -> Option<Vec<Arc<Block>>>,
        write: impl FnOnce(&[Arc<Block>]) -> Result<Option<SealedBlock>>,
        still: impl FnOnce(&[Arc<Block>]) -> bool,
    ) -> Result<bool> {
        let chosen = {
            let mut state = self.maintenance.lock();
            self.check_open()?;
            let mut blocks = self.blocks.mergeable();
            let newest = self.blocks.complete_until();
            state.emptied.retain(|ulid| blocks.iter().any(|it| it.meta().ulid == *ulid && ends_at(it, newest)));
            blocks.retain(|block| !state.emptied.contains(&block.meta().ulid));
            let Some(chosen) = choose(&blocks) else { return Ok(false) };
            // From here on deletes are noted: `chosen` is what the block is written from, and does not change.
            state.deletes = Some(Deletes::default());
            chosen
        };
        let written = write(&chosen);
        let mut state = self.maintenance.lock();
        let deletes = state.deletes.take().unwrap_or_default();
        if written.is_ok() && !still(&chosen) {
            return Ok(true);
        }
        let names = || chosen.iter().map(|block| block.meta().ulid);
        let replaced = written.and_then(|sealed| self.replace(&mut state, done, &chosen, sealed, &deletes));
        if let Err(error) = &replaced
            && is_lasting(error)
        {
            for ulid in names() {
                // An error of its own kind: it must not be taken for a block that is marked.
                let marked = self.blocks.change_meta(ulid, |meta| meta.compaction.failed = true);
                marked.map_err(|error| Error::new(ErrorKind::Io, format!("marking block {ulid}: {error}")))?;
            }
        }
        let list = || names().map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
        replaced.map_err(|error| error.context(format_args!("{}: merging {}", self.dir.display(), list())))?;
        Ok(true)
    }

    fn replace(
        &self,
        state: &mut State,
        done: &mut Maintenance,
        chosen: &[Arc<Block>],
        sealed: Option<SealedBlock>,
        deletes: &Deletes,
    ) -> Result<()> {
        self.check_open()?;
        if deletes.is_one_half_done || !self.blocks.serves(chosen) {
            // Or retention took one of them meanwhile: what is left is planned anew.
            return Ok(());
        }
        match sealed {
            Some(mut sealed) => {
                self.catch_up(&mut sealed, deletes)?;
                let meta = sealed.meta().clone();
                // From here on the old ones are served no more.
                self.blocks.add(|written| {
                    written.push(meta.ulid);
                    sealed.publish().map(drop)
                })?;
                tracing::info!(
                    block = %meta.ulid, level = meta.compaction.level, parents = chosen.len(),
                    min = meta.min_time, max = meta.max_time, "wrote a block that replaces others"
                );
                done.merged.push(meta.ulid);
            }
            // Nothing of them is left; no block can say so in its parents.
            None => {
                let newest = self.blocks.complete_until();
                for block in chosen {
                    if ends_at(block, newest) {
                        // It says up to where the log is not needed: without it the next opening would take from the log
                        // what was deleted.
                        state.emptied.insert(block.meta().ulid);
                        continue;
                    }
                    self.blocks.change_meta(block.meta().ulid, |meta| meta.compaction.deletable = true)?;
                }
            }
        }
        done.dropped.extend(self.reload(state)?);
        Ok(())
    }

    /// Marks in a block that nobody sees yet what was deleted while it was written.
    fn catch_up(&self, sealed: &mut SealedBlock, deletes: &Deletes) -> Result<()> {
        if deletes.done.is_empty() {
            return Ok(());
        }
        let block = Block::open(self.env.fs.as_ref(), sealed.directory())?;
        let mut tombstones = Tombstones::default();
        for (range, matchers) in &deletes.done {
            mark_deleted(&block, &mut tombstones, *range, matchers)?;
        }
        if !tombstones.is_empty() {
            sealed.set_tombstones(&tombstones)?;
        }
        Ok(())
    }

    /// Looks through the blocks again; which were dropped.
    pub(super) fn reload(&self, state: &mut State) -> Result<Vec<Ulid>> {
        let retention = self.options.retention.in_bytes(self.env.fs.as_ref(), &self.dir);
        let (dropped, waits) = self.blocks.reload(retention, self.head_bytes(), &self.head)?;
        // For the next round: then it goes with what was cut.
        state.cut_late |= waits;
        Ok(dropped)
    }
}

/// The first of the blocks `chosen` whose samples would win, merged with the others, where they lose now: against a block
/// that stays apart.
fn overtaking(chosen: &[Ulid], served: &[Arc<Block>]) -> Option<Ulid> {
    let metas = served.iter().map(|block| block.meta());
    let (chosen, apart): (Vec<_>, Vec<_>) = metas.partition(|meta| chosen.contains(&meta.ulid));
    let merged = merged_meta(Ulid::nil(), &chosen).precedence();
    let overtakes = |meta: &&&BlockMeta| {
        let is_overtaken = |other: &&BlockMeta| {
            merged < other.precedence()
                && other.precedence() < meta.precedence()
                && other.time_range().overlaps(&meta.time_range())
        };
        apart.iter().any(is_overtaken)
    };
    chosen.iter().find(overtakes).map(|meta| meta.ulid)
}

/// Whether trying again would fail again: such blocks are marked and left alone. A full disk or a closing database says
/// nothing about them.
pub(super) fn is_lasting(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::InvalidInput)
}
