//! Series that have ended leave the head early, when they are many: what is scraped changes its names with each release, and
//! the old ones would fill memory until the head is cut.

use std::ops::Range;

use super::Inner;
use super::blocks::Blocks;
use super::maintain::{Maintenance, State};
use crate::block::{BlockRead as _, HINT_STALE_SERIES, Ulid};
use crate::compact::{Part, spans};
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
        let written = self.blocks.add(|written| {
            self.write_stale(&stale, written)?;
            // A commit that is being applied may have a part of it: nobody is to see that without the rest.
            self.head.wait_for_applying();
            Ok(())
        })?;
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
        for span in self.spans_of(stale)? {
            let head = self.head.range_head(TimeRange::new(span.start, span.end - 1));
            let part = Part::only(&head, stale.ids().collect());
            self.write_new(&part, span, &[HINT_STALE_SERIES], written)?;
        }
        Ok(())
    }

    /// The series' own spans: the head's oldest and newest sample do not tell of commits that are being applied.
    fn spans_of(&self, stale: &StaleSeries) -> Result<Vec<Range<i64>>> {
        spans(&self.head.range_head(TimeRange::ALL), stale.ids(), self.options.min_block_duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::CREATING;
    use crate::db::tests::{HOUR, START, content, dir, machine, options, series};
    use crate::db::{Db, Options};
    use crate::error::ErrorKind;
    use crate::fs::Env;
    use crate::fs::sim::{OpKind, SimHandle};
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
        fill_until_the_end(db);
        end(db);
    }

    fn fill_until_the_end(db: &Db) {
        for minute in 0..60 {
            (0..4).for_each(|number| append(db, number, START + minute * 60_000, minute as f64).unwrap());
        }
    }

    fn end(db: &Db) {
        (0..2).for_each(|number| append(db, number, START + HOUR, f64::from_bits(STALE_NAN_BITS)).unwrap());
        (2..4).for_each(|number| append(db, number, START + HOUR, 60.0).unwrap());
    }

    /// The log finds the disk full once a block has its name.
    fn have_no_room_behind_blocks(machine: &SimHandle) {
        let mut is_written = false;
        machine.fail_when(move |op| {
            is_written |= op.kind == OpKind::Rename && op.path.ends_with(CREATING);
            let is_log = op.kind == OpKind::Append && op.path.contains("/wal/");
            (is_written && is_log).then_some(std::io::ErrorKind::StorageFull)
        });
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

    #[test]
    fn wherever_the_power_is_cut_a_series_goes_on_at_the_times_that_it_is_given() {
        let (env, machine) = machine();
        let db = open(&env);
        fill_until_the_end(&db);
        machine.settle();
        end(&db);
        let points = machine.crash_points().count();
        db.maintain().unwrap();
        let after = START + HOUR + 16 * 60_000;
        let written = || (0..=60).map(|minute| START + minute * 60_000).chain([after]);
        let mut is_behind = false;
        for point in machine.crash_points().skip(points) {
            let (env, _machine) = point.least().boot(1);
            let db = open(&env);
            is_behind |= db.inner.replayed.samples < 4 * 61 && db.status().blocks.len() == 1;
            append(&db, 0, after, 7.0).unwrap();
            let (_, samples) = &content(&db.source())[0];
            assert_eq!(samples.last(), Some(&(after, 7.0)), "{}", point.last());
            assert!(samples.iter().all(|(t, _)| written().any(|written| written == *t)), "{samples:?}");
        }
        assert!(is_behind, "no log ended before its block");
    }

    #[test]
    fn what_may_still_come_in_order_is_the_same_when_the_series_with_the_newest_sample_has_left() {
        let (env, _machine) = machine();
        let options = || Options {
            stale_series_share: Some(0.4),
            out_of_order_window: 24 * HOUR,
            snapshot_at_close: true,
            ..options()
        };
        let open = || Db::open_with(&env, dir(), options()).unwrap();
        let db = open();
        append(&db, 0, START, 1.0).unwrap();
        append(&db, 1, START + 3 * HOUR, f64::from_bits(STALE_NAN_BITS)).unwrap();
        append(&db, 0, START + 1000, 1.0).unwrap();
        db.snapshot(std::path::Path::new("/copy"), true).unwrap();
        db.maintain().unwrap();
        assert_eq!(db.head().series_count(), 1);
        db.close().unwrap();
        let db = open();
        append(&db, 0, START + 1000, 2.0).unwrap();
        assert_eq!(content(&db.source())[0].1, [(START, 1.0), (START + 1000, 1.0)]);
    }

    #[test]
    fn what_is_deleted_of_series_that_left_stays_deleted_though_the_log_was_full_when_they_did() {
        let (env, machine) = machine();
        let db = open(&env);
        fill(&db);
        have_no_room_behind_blocks(&machine);
        assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(db.head().series_count(), 2, "they are gone from memory");
        let ended = crate::model::Matcher::equal("n", "0");
        assert_eq!(db.delete(TimeRange::ALL, std::slice::from_ref(&ended)).unwrap_err().kind(), ErrorKind::Full);
        machine.heal();
        db.delete(TimeRange::ALL, &[ended]).unwrap();
        let left = bits(&db);
        assert_eq!(left.len(), 3);
        let env = machine.kill();
        assert_eq!(bits(&open(&env)), left);
    }

    #[test]
    fn a_series_that_ended_and_begins_again_while_the_log_is_full_keeps_both_lives() {
        let (env, machine) = machine();
        let db = open(&env);
        fill(&db);
        have_no_room_behind_blocks(&machine);
        db.maintain().unwrap_err();
        machine.heal();
        append(&db, 0, START + HOUR + 60_000, 7.0).unwrap();
        append(&db, 0, START + HOUR + 120_000, 8.0).unwrap();
        let expected = bits(&db);
        assert_eq!(expected[0].len(), 63);
        let env = machine.kill();
        assert_eq!(bits(&open(&env)), expected);
    }

    #[test]
    fn blocks_are_written_where_series_end_though_the_commit_that_ended_them_is_being_applied() {
        let mut found = 0;
        for skip in 0..12 {
            let (env, machine) = machine();
            let window = Options { stale_series_share: Some(0.1), out_of_order_window: 24 * HOUR, ..options() };
            let db = Db::open_with(&env, dir(), window).unwrap();
            fill(&db);
            let mut appender = db.appender();
            appender.append(None, &series(3), START + 4 * HOUR, f64::from_bits(STALE_NAN_BITS)).unwrap();
            // More than a buffer takes: the log of late samples is written to twice.
            for second in 0..70 {
                appender.append(None, &series(2), START + 500 + second * 1000, 1.0).unwrap();
            }
            let (inner, spans) = (std::sync::Arc::clone(&db.inner), std::sync::Arc::new(parking_lot::Mutex::default()));
            let theirs = std::sync::Arc::clone(&spans);
            machine.at_clock_reading(skip, move || {
                let stale = inner.head.stale_series();
                let ends = inner.head.max_time() < Some(START + 4 * HOUR) && stale.len() == 3;
                *theirs.lock() = ends.then(|| inner.spans_of(&stale).unwrap());
            });
            appender.commit().unwrap();
            if let Some(spans) = spans.lock().take() {
                found += 1;
                assert!(spans.iter().any(|span| span.contains(&(START + 4 * HOUR))), "{spans:?}");
            }
        }
        assert!(found > 0, "nothing was looked at in the middle of a commit");
    }
}
