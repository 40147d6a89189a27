//! What is done beside appends and their maintenance: exemplars, metadata, backfills, copies; and what retention may take.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CheckedDb, Difference, content, failed, starts_are_kept};
use crate::block::{Block, BlockMeta, BlockRead as _, Ulid};
use crate::compact::BulkOptions;
use crate::db::{Db, Maintenance, Options, RetentionRule};
use crate::error::{Error, ErrorKind};
use crate::model::{Exemplar, Labels, Metadata, Sample, TimeRange};

/// Where copies are made, one at a time.
const COPY: &str = "/home/copy";

impl CheckedDb {
    pub(super) fn append_exemplar(
        &mut self,
        slot: usize,
        labels: &Labels,
        exemplar: Exemplar,
    ) -> Result<String, Difference> {
        let mut open = self.take_appender(slot)?;
        let taken = open.appender.append_exemplar(None, labels, exemplar.clone());
        if taken.is_ok() {
            self.annotations.hand_over(&mut open.said, labels, exemplar);
        }
        self.appenders.insert(slot, open);
        Ok(taken.map_or_else(|error| format!("refused: {:?}", error.kind()), |()| "taken".to_owned()))
    }

    pub(super) fn describe(&mut self, slot: usize, labels: &Labels, metadata: &Metadata) -> Result<String, Difference> {
        let name = labels.metric_name();
        let known = self.db()?.head().reader(TimeRange::ALL).metadata(Some(name));
        let mut open = self.take_appender(slot)?;
        let taken = open.appender.update_metadata(None, labels, metadata.clone());
        // What is known already is not said again.
        if taken.is_ok() && known.first().is_none_or(|(_, known)| known != metadata) {
            self.annotations.say(&mut open.said, name, metadata.clone());
        }
        self.appenders.insert(slot, open);
        Ok(taken.map_or_else(|error| format!("refused: {:?}", error.kind()), |_| "taken".to_owned()))
    }

    /// Compares exemplars and metadata.
    pub(super) fn check_annotations(&mut self, restarted: bool) -> Result<(), Difference> {
        let head = Arc::clone(self.db()?.head());
        self.annotations.look(&head).map_err(failed("looking at the head"))?;
        if self.unsettled || !self.can_be_read()? {
            return Ok(());
        }
        self.annotations.check(&head, restarted)
    }

    /// Samples of appenders that are open may be late by now.
    pub(super) fn appenders_may_be_late(&mut self) {
        for open in self.appenders.values_mut() {
            open.cut_since = Some(self.newest_of_all);
        }
    }

    /// A backfill of those samples that are older than their series' newest: what comes in order later would win over others,
    /// as it is documented.
    pub(super) fn bulk(&mut self, mut samples: Vec<(Labels, Sample)>) -> Result<String, Difference> {
        for (_, sample) in &mut samples {
            sample.st = if starts_are_kept(&self.options, &sample.value) { sample.t - 1000 } else { 0 };
        }
        let latest = self.options.future_bound.map_or(i64::MAX, |bound| self.env.clock.now_ms().saturating_add(bound));
        samples.retain(|(labels, Sample { t, .. })| {
            *t <= self.newest(labels) && *t <= latest && !self.model.is_attempted(labels, *t)
        });
        self.look_for_doubtful(&samples)?;
        self.appenders_may_be_late();
        let options = BulkOptions {
            block_duration: self.options.min_block_duration,
            start_timestamps: self.options.start_timestamps,
            ..BulkOptions::default()
        };
        let written = (|| {
            let mut bulk = self.db().map_err(behaviour)?.bulk(options)?;
            samples.iter().try_for_each(|(labels, sample)| bulk.append(labels, sample))?;
            bulk.commit()
        })();
        let succeeded = written.is_ok();
        for (labels, sample) in samples {
            self.note(&labels, sample.t);
            match succeeded {
                true => drop(self.model.insert(&labels, sample)),
                // A part that could not be taken back may be there.
                false => self.model.attempt_half(&labels, sample),
            }
        }
        match written {
            Ok(blocks) => Ok(format!("{} blocks", blocks.len())),
            Err(error) => self.outcome::<()>(Err(error), "a backfill"),
        }
    }

    /// Copies the database, compares the copy with the model, takes its blocks over if they are wanted, and removes it.
    pub(super) fn copy(&mut self, with_head: bool, back: bool) -> Result<String, Difference> {
        let (dir, env) = (Path::new(COPY), self.env.clone());
        // A power cut can bring back the last one.
        self.remove_copy(dir)?;
        // What came out of order is cut for it.
        self.appenders_may_be_late();
        let copied = self.db()?.snapshot(dir, with_head);
        let outcome = match &copied {
            Ok(blocks) => Ok(format!("{} blocks", blocks.len())),
            Err(error) => self.outcome::<()>(Err(Error::new(error.kind(), error.to_string())), "a copy"),
        };
        if copied.is_ok() && !self.broken {
            let options = Options { background: false, ..self.options.clone() };
            let copy = Db::open_with(&env, dir, options).map_err(failed("opening a copy"))?;
            let found = content(&copy.source(), TimeRange::ALL, &[]).map_err(failed("reading a copy"))?;
            match with_head {
                true => self.compare(Ok(found), &self.model).map(drop)?,
                false => self.model.check_part(&found)?,
            }
            copy.close().map_err(failed("closing a copy"))?;
        }
        let mut story = outcome?;
        if copied.is_ok() && back {
            let imported = self.db()?.import(dir);
            story = match imported {
                Ok(blocks) => format!("{story}, {} of them again", blocks.len()),
                // The clock was set back.
                Err(error) if error.kind() == ErrorKind::TooFarAhead => format!("{story}, too far ahead"),
                Err(error) => format!("{story}, {}", self.outcome::<()>(Err(error), "an import")?),
            };
        }
        self.remove_copy(dir)?;
        Ok(story)
    }

    fn remove_copy(&self, dir: &Path) -> Result<(), Difference> {
        let fs = &self.env.fs;
        if fs.stat(dir).is_ok_and(|stat| stat.is_some())
            && let Err(error) = fs.remove_dir_all(dir)
        {
            self.outcome::<()>(Err(error.into()), "removing a copy")?;
        }
        Ok(())
    }

    /// What the blocks say of themselves.
    pub(super) fn blocks(&self) -> Result<Vec<BlockMeta>, Difference> {
        Ok(self.db()?.status().blocks.into_iter().map(|block| block.meta).collect())
    }

    /// Takes what retention dropped, of the blocks that were there `before` and of those that were written and dropped at
    /// once, for gone, as far as it may.
    pub(super) fn retain(&mut self, before: &[BlockMeta], done: Option<&Maintenance>) -> Result<(), Difference> {
        let after = self.blocks()?;
        let newest = before.iter().chain(&after).map(|meta| meta.max_time).max().unwrap_or(i64::MIN);
        let retention = self.options.retention;
        if retention.time.is_some() || retention.bytes.is_some() {
            let until = if retention.bytes.is_some() { None } else { retention.time };
            let limit = until.map_or(self.cut, |time| newest.saturating_sub(time).saturating_sub(1));
            // A block that was merged is there as long as the one has it that came of it.
            let there: BTreeSet<Ulid> = after.iter().flat_map(|meta| meta.compaction.sources.iter().copied()).collect();
            let gone = before.iter().filter(|meta| !meta.compaction.sources.iter().all(|it| there.contains(it)));
            for range in gone.filter_map(|meta| meta.time_range().intersect(&TimeRange::new(i64::MIN, limit))) {
                self.model.may_lose(range, |_| true);
            }
            if done.is_none_or(|done| done.written.iter().any(|it| !there.contains(it))) {
                self.model.may_lose(TimeRange::new(i64::MIN, limit), |_| true);
            }
        }
        let rules = self.options.retention_rules.clone();
        for (number, rule) in rules.iter().enumerate() {
            let expired = TimeRange::new(i64::MIN, newest.saturating_sub(rule.keep));
            let is_first = |labels: &Labels| rules.iter().position(|rule| passes(rule, labels)) == Some(number);
            self.model.may_lose(expired, is_first);
        }
        Ok(())
    }

    /// Whether what the first rule is about is gone from the blocks that are old enough.
    pub(super) fn check_rule(&self) -> Result<(), Difference> {
        let Some(rule) = self.options.retention_rules.first().filter(|_| !self.broken) else { return Ok(()) };
        if self.db()?.status().out_of_order_series > 0 {
            // What is in no block yet may lose against what has expired, which stays as long.
            return Ok(());
        }
        let blocks = self.blocks()?;
        let newest = blocks.iter().map(|meta| meta.max_time).max().unwrap_or(i64::MIN);
        let complete = blocks.iter().filter(|meta| !meta.compaction.is_hinted()).map(|meta| meta.max_time).max();
        let dirs: Vec<PathBuf> = self.db()?.block_dirs();
        for (meta, dir) in blocks.iter().zip(&dirs) {
            let is_old = newest.saturating_sub(meta.max_time) >= rule.keep;
            // Where something would lose against it, the rule waits.
            let gives_way = |other: &BlockMeta| {
                meta.precedence() < other.precedence() && other.time_range().overlaps(&meta.time_range())
            };
            // One that ends the blocks stays, whatever is left of it.
            let is_free = Some(meta.max_time) < complete && !blocks.iter().any(gives_way);
            if is_old && is_free && meta.stats.num_tombstones == 0 {
                let block = Block::open(self.env.fs.as_ref(), dir).map_err(failed("opening a block"))?;
                let kept = block.select(&rule.matchers).map_err(failed("looking through a block"))?;
                if !kept.is_empty() {
                    let what = format!("{} series have expired in block {}, and are there", kept.len(), meta.ulid);
                    return Err(Difference::Behaviour(what));
                }
            }
        }
        Ok(())
    }
}

fn passes(rule: &RetentionRule, labels: &Labels) -> bool {
    rule.matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
}

fn behaviour(difference: Difference) -> Error {
    Error::new(ErrorKind::NotReady, difference.to_string())
}
