//! Retention that is not the same for all series: what a rule lets expire goes from blocks that have others too.
//!
//! A rule is due for a block when all that the block has of its series is older than the rule says. The block is then
//! written again without them, as merging does it: a crash leaves the old block, or both and the knowledge which counts.
//! After that no series passes the rule, so it is done once.

use std::sync::Arc;

use super::merging::is_lasting;
use super::{Inner, Maintenance, RetentionRule};
use crate::block::{Block, Ulid};
use crate::codec::{FixedMap, FixedSet};
use crate::compact::{Part, merge_sealed, series_of_rules};
use crate::error::Result;
use crate::index::SeriesId;

/// Of which blocks it is known that the rules that are due have nothing left in them, and which rules those were.
pub(super) type Settled = FixedMap<Ulid, Vec<bool>>;

impl Inner {
    /// Writes the blocks again in which rules have something that expired.
    pub(super) fn expire_by_rules(&self, done: &mut Maintenance) -> Result<()> {
        let rules = &self.options.retention_rules;
        if rules.is_empty() {
            return Ok(());
        }
        let _turn = self.rewriting.lock();
        let mut settled = self.settled.lock();
        let all = self.blocks.all();
        let Some(newest) = all.iter().map(|block| block.meta().max_time).max() else { return Ok(()) };
        settled.retain(|ulid, _| all.iter().any(|block| block.meta().ulid == *ulid));
        drop(all);
        let due = |block: &Block| due_rules(rules, newest.saturating_sub(block.meta().max_time));
        let mut result = Ok(());
        while !self.is_closed() {
            let choose = |blocks: &[Arc<Block>]| {
                let chosen = blocks.iter().filter(|block| !block.meta().compaction.failed).find(|block| {
                    let due = due(block);
                    if settled.get(&block.meta().ulid) == Some(&due) {
                        return false;
                    }
                    // What cannot be read is found out again by whoever writes it, who has somebody to tell.
                    let nothing = matches!(dropped_by(block, rules, &due), Ok(series) if series.is_empty());
                    if nothing {
                        settled.insert(block.meta().ulid, due);
                    }
                    !nothing
                });
                chosen.map(|block| vec![Arc::clone(block)])
            };
            let write = |blocks: &[Arc<Block>]| {
                let [block] = blocks else { return Ok(None) };
                let dropped = dropped_by(block, rules, &due(block))?;
                tracing::info!(block = %block.meta().ulid, series = dropped.len(), "series expired before their block");
                let left = Part::without(block.as_ref(), dropped);
                merge_sealed(&self.env, &self.dir, &[(&left, block.meta())], &self.rewrites)
            };
            match self.rewrite(done, choose, write) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if is_lasting(&error) => result = result.and(Err(error)),
                Err(error) => return result.and(Err(error)),
            }
        }
        result
    }
}

/// For each rule whether it is due for a block that ends `age` milliseconds before the newest one.
fn due_rules(rules: &[RetentionRule], age: i64) -> Vec<bool> {
    rules.iter().map(|rule| age >= rule.keep).collect()
}

fn dropped_by(block: &Block, rules: &[RetentionRule], due: &[bool]) -> Result<FixedSet<SeriesId>> {
    if !due.contains(&true) {
        return Ok(FixedSet::default());
    }
    let matchers = rules.iter().map(|rule| rule.matchers.as_slice());
    series_of_rules(block, matchers, |rule| due.get(rule).copied().unwrap_or(false))
}

#[cfg(test)]
mod tests;
