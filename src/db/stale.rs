//! Series that have ended leave the head early, when they are many: what is scraped changes its names with each release, and
//! the old ones would fill memory until the head is cut.

use super::Inner;
use super::blocks::Blocks;
use super::maintain::{Maintenance, State};
use crate::block::{BlockRead as _, HINT_STALE_SERIES, Ulid};
use crate::compact::Part;
use crate::error::Result;
use crate::head::{Head, LeavingSeries, StaleSeries};
use crate::model::{Labels, TimeRange};

/// Tells the head how far the series had come that left it early and that could still be given samples: what blocks have
/// of them was written first.
pub(super) fn remember_ended(head: &Head, blocks: &Blocks, floor: i64) -> Result<()> {
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    for block in blocks.all().iter() {
        let meta = block.meta();
        if meta.max_time <= floor || !meta.compaction.has_hint(HINT_STALE_SERIES) {
            continue;
        }
        for id in block.select(&[])? {
            block.series(id, &mut labels, &mut chunks)?;
            if let Some(newest) = chunks.iter().map(|chunk| chunk.max_time).max() {
                head.has_ended(&labels, newest);
            }
        }
    }
    Ok(())
}

impl Inner {
    /// Moves stale series into blocks of their own if their share of all is large enough, and out of the head.
    pub(super) fn cut_stale(&self, state: &mut State, done: &mut Maintenance) -> Result<()> {
        let Some(threshold) = self.options.stale_series_share else { return Ok(()) };
        if let Some(leaving) = state.leaving.take() {
            return self.evict_stale(state, leaving);
        }
        let stale = self.head.stale_series();
        if stale.is_empty() || (stale.len() as f64) < threshold * self.head.series_count() as f64 || self.is_closed() {
            return Ok(());
        }
        let written = self.blocks.add(|written| self.write_stale(&stale, written))?;
        tracing::info!(series = stale.len(), blocks = written.len(), "cut series that have ended");
        done.written.extend(written);
        let leaving = self.head.mark_stale(stale);
        self.evict_stale(state, leaving)
    }

    /// Somebody may be reading who does not know of the blocks: then it is for the next round.
    fn evict_stale(&self, state: &mut State, leaving: LeavingSeries) -> Result<()> {
        state.leaving = self.head.evict_stale(leaving)?;
        Ok(())
    }

    fn write_stale(&self, stale: &StaleSeries, written: &mut Vec<Ulid>) -> Result<()> {
        let (Some(min), Some(max)) = (self.head.min_time(), self.head.max_time()) else { return Ok(()) };
        let duration = self.options.min_block_duration;
        let mut start = min.div_euclid(duration).saturating_mul(duration);
        while start <= max {
            let end = start.saturating_add(duration);
            let head = self.head.range_head(TimeRange::new(start, end - 1));
            let part = Part::only(&head, stale.ids().collect());
            self.write_new(&part, start..end, &[HINT_STALE_SERIES], written)?;
            start = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::tests::{HOUR, START, content, dir, machine, options, series};
    use crate::db::{Db, Options};
    use crate::error::ErrorKind;
    use crate::fs::Env;
    use crate::model::STALE_NAN_BITS;

    fn open(env: &Env) -> Db {
        Db::open_with(env, dir(), Options { stale_series_share: Some(0.4), ..options() }).unwrap()
    }

    fn append(db: &Db, number: usize, t: i64, value: f64) -> Result<()> {
        let mut appender = db.appender();
        appender.append(None, &series(number), t, value)?;
        appender.commit().map(drop)
    }

    /// A sample a minute for an hour of four series, two of which end then.
    fn fill(db: &Db) {
        for minute in 0..60 {
            (0..4).for_each(|number| append(db, number, START + minute * 60_000, minute as f64).unwrap());
        }
        (0..2).for_each(|number| append(db, number, START + HOUR, f64::from_bits(STALE_NAN_BITS)).unwrap());
        (2..4).for_each(|number| append(db, number, START + HOUR, 60.0).unwrap());
    }

    fn bits(db: &Db) -> Vec<Vec<(i64, u64)>> {
        let all = content(&db.source()).into_iter();
        all.map(|(_, samples)| samples.into_iter().map(|(t, value)| (t, value.to_bits())).collect()).collect()
    }

    #[test]
    fn series_that_have_ended_leave_the_head_and_nothing_changes_for_a_query() {
        let (env, machine) = machine();
        let db = open(&env);
        fill(&db);
        let expected = bits(&db);
        let done = db.maintain().unwrap();
        assert!(!done.written.is_empty());
        assert_eq!((db.head().series_count(), bits(&db)), (2, expected.clone()));
        for block in &db.status().blocks {
            assert!(block.meta.compaction.has_hint(HINT_STALE_SERIES), "the log's cut-off does not move");
            crate::block::Block::open(env.fs.as_ref(), &dir().join(block.meta.ulid.to_string()))
                .unwrap()
                .verify()
                .unwrap();
        }
        assert!(db.maintain().unwrap().written.is_empty());
        let env = machine.kill();
        let db = open(&env);
        assert_eq!((db.head().series_count(), bits(&db)), (2, expected));
    }

    #[test]
    fn a_reader_from_before_keeps_what_it_saw() {
        let (env, _machine) = machine();
        let db = open(&env);
        fill(&db);
        let (before, expected) = (db.source(), bits(&db));
        db.maintain().unwrap();
        assert_eq!(db.head().series_count(), 4, "somebody may still read them");
        assert_eq!(bits(&db), expected);
        let seen: usize = content(&before).iter().map(|(_, samples)| samples.len()).sum();
        assert_eq!(seen, 4 * 61);
        drop(before);
        db.maintain().unwrap();
        assert_eq!((db.head().series_count(), bits(&db)), (2, expected));
    }

    #[test]
    fn a_series_that_begins_again_keeps_its_past() {
        let (env, machine) = machine();
        let db = open(&env);
        fill(&db);
        db.maintain().unwrap();
        let expected = bits(&db);
        // What its block has already is not written once more.
        assert_eq!(append(&db, 0, START + HOUR - 60_000, 7.0).unwrap_err().kind(), ErrorKind::OutOfOrder);
        assert_eq!(bits(&db), expected);
        append(&db, 0, START + HOUR + 60_000, 7.0).unwrap();
        let after = bits(&db);
        assert_eq!(after[0][..61], expected[0]);
        assert_eq!(after[0][61..], [(START + HOUR + 60_000, 7f64.to_bits())]);
        let env = machine.kill();
        assert_eq!(bits(&open(&env)), after);
    }

    #[test]
    fn few_stale_series_stay_and_so_do_those_that_go_on_meanwhile() {
        let (env, _machine) = machine();
        let db = open(&env);
        fill(&db);
        append(&db, 0, START + HOUR + 60_000, 1.0).unwrap();
        assert!(db.maintain().unwrap().written.is_empty(), "one of four");
        append(&db, 0, START + HOUR + 120_000, f64::from_bits(STALE_NAN_BITS)).unwrap();
        let reader = db.source();
        db.maintain().unwrap();
        // Marked by now, and not gone yet.
        append(&db, 0, START + HOUR + 180_000, 2.0).unwrap();
        drop(reader);
        db.maintain().unwrap();
        assert_eq!(db.head().series_count(), 3);
        assert_eq!(bits(&db)[0].len(), 64);
    }
}
