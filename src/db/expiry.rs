//! Retention that is not the same for all series: what a rule lets expire goes from blocks that have others too.
//!
//! A rule is due for a block when all that the block has of its series is older than the rule says. The block is then
//! written again without them, as merging does it: a crash leaves the old block, or both and the knowledge which counts.
//! After that no series passes the rule, so it is done once.
//!
//! What a block has of a series may hide what was written later and lost: in another block, or in the head, out of order. So
//! a rule waits in a block until it has nothing left in what overlaps the block and gives way to it, or until they are one.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::merging::is_lasting;
use super::{Inner, Maintenance, RetentionRule};
use crate::block::{Block, BlockMeta, Ulid};
use crate::codec::{FixedMap, FixedSet};
use crate::compact::{Part, merge_sealed, series_of_rules};
use crate::error::Result;
use crate::index::SeriesId;

/// Of blocks that were looked at, which rules have series in them. A block does not change.
pub(super) type Concerned = FixedMap<Ulid, Vec<bool>>;

impl Inner {
    /// Writes the blocks again in which rules have something that expired; with `yielding`, until the head is to be cut.
    pub(super) fn expire_by_rules(&self, done: &mut Maintenance, yielding: bool) -> Result<()> {
        if self.options.retention_rules.is_empty() {
            return Ok(());
        }
        let _turn = self.rewriting.lock();
        let concerned = RefCell::new(self.concerned.lock());
        let all = self.blocks.all();
        let Some(newest) = all.iter().map(|block| block.meta().max_time).max() else { return Ok(()) };
        concerned.borrow_mut().retain(|ulid, _| all.iter().any(|block| block.meta().ulid == *ulid));
        drop(all);
        let expired = |block: &Block| self.expired_rules(block, newest, &mut concerned.borrow_mut());
        let (mut result, waits) = (Ok(()), Cell::new(false));
        while !self.is_to_end(yielding) {
            let chosen_for = RefCell::default();
            let choose = |blocks: &[Arc<Block>]| {
                let mut blocks: Vec<_> = blocks.iter().filter(|block| !block.meta().compaction.failed).collect();
                // What gives way first: then the others need not wait for it.
                blocks.sort_by_key(|block| std::cmp::Reverse(block.meta().precedence()));
                let chosen = blocks.into_iter().find(|block| {
                    let due = expired(block);
                    if !due.contains(&true) {
                        return false;
                    }
                    let hides_late = self.hides_late(block);
                    waits.set(waits.get() || hides_late);
                    *chosen_for.borrow_mut() = due;
                    !hides_late
                });
                chosen.map(|block| vec![Arc::clone(block)])
            };
            let write = |blocks: &[Arc<Block>]| {
                let [block] = blocks else { return Ok(None) };
                let dropped = dropped_by(block, &self.options.retention_rules, &chosen_for.borrow())?;
                tracing::info!(block = %block.meta().ulid, series = dropped.len(), "series expired before their block");
                let left = Part::without(block.as_ref(), dropped);
                merge_sealed(
                    &self.env,
                    &self.dir,
                    &[(&left, block.meta())],
                    self.options.float_encoding.into(),
                    &self.rewrites,
                )
            };
            // Something late may have come meanwhile, or have become a block.
            let still = |blocks: &[Arc<Block>]| {
                blocks.iter().all(|block| !self.hides_late(block) && expired(block) == *chosen_for.borrow())
            };
            match self.rewrite(done, choose, write, still) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if is_lasting(&error) => result = result.and(Err(error)),
                Err(error) => return result.and(Err(error)),
            }
        }
        if waits.get() {
            // Once it is in a block, the rule will find it there.
            self.maintenance.lock().cut_late = true;
        }
        result
    }

    /// For each rule whether the block is to be written again for it.
    fn expired_rules(&self, block: &Block, newest: i64, concerned: &mut Concerned) -> Vec<bool> {
        let (meta, rules) = (block.meta(), &self.options.retention_rules);
        let age = newest.saturating_sub(meta.max_time);
        let mut due: Vec<bool> = rules.iter().map(|rule| age >= rule.keep).collect();
        let without = |due: &mut Vec<bool>, other: &[bool], unless: bool| {
            due.iter_mut().zip(other).for_each(|(due, has)| *due &= *has != unless);
        };
        if due.contains(&true) {
            without(&mut due, &rules_in(block, rules, concerned), false);
        }
        for other in self.blocks.all().iter() {
            if due.contains(&true) && gives_way(other.meta(), meta) {
                without(&mut due, &rules_in(other, rules, concerned), true);
            }
        }
        due
    }

    /// Whether the head has something out of order that lies where the block does, and is in no block.
    fn hides_late(&self, block: &Block) -> bool {
        let span = block.meta().time_range();
        self.head.while_nothing_comes_late(|late| late.is_some_and(|late| late.overlaps(&span)))
    }
}

fn gives_way(other: &BlockMeta, meta: &BlockMeta) -> bool {
    other.precedence() > meta.precedence() && other.time_range().overlaps(&meta.time_range())
}

/// For each rule whether the block has series of it. What cannot be read is taken to have them: whoever writes it finds it
/// out again, and has somebody to tell.
fn rules_in(block: &Block, rules: &[RetentionRule], concerned: &mut Concerned) -> Vec<bool> {
    let ulid = block.meta().ulid;
    if let Some(known) = concerned.get(&ulid) {
        return known.clone();
    }
    let has = |number: usize| {
        let only: Vec<bool> = (0..rules.len()).map(|other| other == number).collect();
        Ok(!dropped_by(block, rules, &only)?.is_empty())
    };
    let Ok(found) = (0..rules.len()).map(has).collect::<Result<Vec<bool>>>() else { return vec![true; rules.len()] };
    concerned.insert(ulid, found.clone());
    found
}

fn dropped_by(block: &Block, rules: &[RetentionRule], due: &[bool]) -> Result<FixedSet<SeriesId>> {
    let matchers = rules.iter().map(|rule| rule.matchers.as_slice());
    series_of_rules(block, matchers, |rule| due.get(rule).copied().unwrap_or(false))
}

#[cfg(test)]
mod tests;
