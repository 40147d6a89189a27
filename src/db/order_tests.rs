//! Where a series has two samples at one time, in two places, the first write is what is seen, and goes last.

use std::io;

use super::life_tests::backfill;
use super::tests::{HOUR, START, content, dir, machine, options, series};
use super::*;
use crate::block::{Block, BlockRead, HINT_OUT_OF_ORDER};
use crate::budget::Budget;
use crate::chunk::Encoding;
use crate::error::Result;
use crate::fs::sim::{Image, OpKind, SimHandle};
use crate::head::FloatEncoding;
use crate::model::{Labels, STALE_NAN_BITS};
use crate::query::{BlockSource, HeadSource, OutOfOrderSource, SelectRequest, Source};

/// Between two samples.
const STEP: i64 = 30_000;

/// Takes samples out of order, a day late.
fn late() -> Options {
    Options { out_of_order_window: 24 * HOUR, ..options() }
}

fn open(env: &Env, options: Options) -> Db {
    Db::open_with(env, dir(), options).unwrap()
}

fn append(db: &Db, number: usize, t: i64, v: f64) -> Result<()> {
    let mut appender = db.appender();
    appender.append(None, &series(number), t, v)?;
    appender.commit().map(drop)
}

/// Samples of the value 1 of two series, so many steps from the start.
fn fill(db: &Db, steps: std::ops::Range<i64>) {
    for step in steps {
        (0..2).for_each(|number| append(db, number, START + step * STEP, 1.0).unwrap());
    }
}

/// Writes 2 where 1 stands already, of both series.
fn write_again(db: &Db, step: i64) {
    (0..2).for_each(|number| append(db, number, START + step * STEP, 2.0).unwrap());
}

/// Blocks in a closed database, and second writes beside one that are in no block.
fn leave_one_late(env: &Env) {
    let db = open(env, late());
    fill(&db, 0..620);
    db.maintain().unwrap();
    write_again(&db, 10);
}

/// Of how many samples the second write is seen, and how many samples there are.
fn losers(db: &Db) -> (usize, usize) {
    let all = content(&db.source());
    let values = || all.iter().flat_map(|(_, samples)| samples.iter());
    (values().filter(|(_, v)| *v != 1.0).count(), values().count())
}

/// Second writes in blocks of late samples, in memory beside a block, in memory beside the head's samples, and in a block
/// beside the head's. Something is deleted in a block.
fn in_all_places() -> Image {
    let (env, machine) = machine();
    let db = open(&env, late());
    fill(&db, 0..620);
    write_again(&db, 10);
    // Not in the open chunk, where it would be refused.
    write_again(&db, 490);
    assert_eq!(db.maintain().unwrap().written.len(), 4, "two in order, two of what was late: {:?}", db.status().blocks);
    let other = Matcher::equal("n", "1");
    db.delete(TimeRange::new(START, START), &[other]).unwrap();
    write_again(&db, 20);
    write_again(&db, 491);
    assert_eq!(losers(&db), (0, 1239));
    machine.image()
}

fn fail_nth(machine: &SimHandle, nth: u64) {
    let mut left = nth;
    machine.fail_when(move |_| {
        left = left.wrapping_sub(1);
        (left == u64::MAX).then_some(io::ErrorKind::StorageFull)
    });
}

#[test]
fn a_deletion_that_fails_anywhere_shows_no_sample_that_lost_and_is_finished_by_the_next() {
    let image = in_all_places();
    for nth in 0.. {
        let (env, machine) = image.boot(nth);
        let db = open(&env, late());
        fail_nth(&machine, nth);
        let done = db.delete(TimeRange::ALL, &[]);
        machine.heal();
        if done.is_ok() {
            assert!(nth > 20, "{nth} operations");
            assert_eq!(losers(&db), (0, 0));
            return;
        }
        assert_eq!(losers(&db).0, 0, "at the operation {nth}");
        // A log that could not be written may have to be opened again.
        drop(db);
        let db = open(&env, late());
        assert_eq!(losers(&db).0, 0, "at the operation {nth}, opened again");
        db.delete(TimeRange::ALL, &[]).unwrap();
        assert_eq!(losers(&db), (0, 0), "at the operation {nth}, asked again");
    }
}

#[test]
fn a_deletion_that_fails_while_blocks_are_rewritten_is_as_far_as_it_came_before_and_after() {
    let image = in_all_places();
    for rewrite in [Db::clean_tombstones, Db::compact] {
        for nth in 0.. {
            let (env, machine) = image.boot(nth);
            let db = open(&env, Options { merge_overlapping: true, ..late() });
            let seen = Arc::new(Mutex::new(None));
            let (other, machine_too, seen_too) = (db.clone(), machine.clone(), Arc::clone(&seen));
            machine.at_clock_reading(0, move || {
                fail_nth(&machine_too, nth);
                let done = other.delete(TimeRange::ALL, &[]);
                machine_too.heal();
                *seen_too.lock() = Some((done.is_ok(), content(&other.source())));
            });
            rewrite(&db).unwrap();
            let (is_done, before) = seen.lock().take().unwrap();
            assert_eq!(losers(&db).0, 0, "at the operation {nth}");
            assert_eq!(content(&db.source()), before, "at the operation {nth}");
            if is_done {
                assert!(nth > 20 && before.is_empty(), "{nth} operations");
                break;
            }
        }
    }
}

#[test]
fn a_reader_beside_a_deletion_sees_no_sample_that_lost() {
    let (env, machine) = in_all_places().boot(1);
    let db = open(&env, late());
    assert_eq!(losers(&db).0, 0);
    // When the reader has opened the blocks, and not looked at the log yet.
    machine.at_operation(OpKind::List, "/downsampled", 1, move || {
        db.delete(TimeRange::ALL, &[]).unwrap();
    });
    let reader = ReadOnlyDb::open_with(&env, dir()).unwrap();
    assert!(content(&reader.source()).iter().all(|(_, samples)| samples.iter().all(|(_, v)| *v == 1.0)));
}

#[test]
fn a_query_that_is_cancelled_gets_no_further() {
    let (env, _machine) = in_all_places().boot(1);
    let db = open(&env, late());
    let source = db.source();
    let budget = Budget::unlimited();
    let request = SelectRequest::labels_only(TimeRange::ALL, &[], &budget);
    let head = HeadSource::new(db.head().reader(TimeRange::ALL));
    let block = Block::open(env.fs.as_ref(), &db.block_dirs()[0]).unwrap();
    let sources: [&dyn Source; 4] = [&source, &OutOfOrderSource::new(&head), &BlockSource::new(Arc::new(block)), &head];
    let sets: Vec<_> = sources.iter().map(|source| source.select(&request).unwrap()).collect();
    budget.cancel();
    for mut set in sets {
        assert_eq!(set.next().unwrap_err().kind(), ErrorKind::Cancelled);
    }
    for source in sources {
        assert_eq!(source.select(&request).err().unwrap().kind(), ErrorKind::Cancelled);
    }
}

/// The samples of the first series, as hours after the start.
fn hours(db: &Db) -> Vec<(i64, f64)> {
    let all = content(&db.source()).into_iter().next().map(|(_, samples)| samples);
    all.unwrap_or_default().into_iter().map(|(t, v)| ((t - START) / HOUR, v)).collect()
}

fn rule(hours: i64) -> Vec<RetentionRule> {
    vec![RetentionRule { matchers: vec![Matcher::equal("n", "0")], keep: hours * HOUR }]
}

#[test]
fn a_rule_waits_in_a_block_until_it_is_due_in_what_lost_against_the_block() {
    let (env, _machine) = machine();
    backfill(&env, &[(0, 1.0), (1, 1.0)], |_| {});
    backfill(&env, &[(1, 2.0), (6, 2.0)], |_| {});
    backfill(&env, &[(12, 1.0)], |_| {});
    let with_rule = || Options { retention_rules: rule(8), ..options() };
    let db = open(&env, with_rule());
    assert!(db.maintain().unwrap().merged.is_empty());
    assert_eq!(hours(&db), [(0, 1.0), (1, 1.0), (6, 2.0), (12, 1.0)]);
    drop(db);
    backfill(&env, &[(15, 1.0)], |_| {});
    let db = open(&env, with_rule());
    assert_eq!(db.maintain().unwrap().dropped.len(), 2);
    assert_eq!(hours(&db), [(12, 1.0), (15, 1.0)]);
}

#[test]
fn what_came_late_and_lost_is_not_seen_when_a_rule_takes_the_first_write() {
    let (env, _machine) = machine();
    leave_one_late(&env);
    let db = open(&env, Options { retention_rules: rule(2), ..late() });
    for _ in 0..2 {
        db.maintain().unwrap();
        assert_eq!(losers(&db).0, 0);
    }
    let all = content(&db.source());
    assert!(all[0].1.len() < all[1].1.len(), "it goes with the block that it is in by then");
}

#[test]
fn what_came_late_and_lost_is_not_seen_when_retention_takes_the_first_write() {
    let (env, _machine) = machine();
    leave_one_late(&env);
    let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
    let db = open(&env, Options { retention, ..late() });
    let before = losers(&db).1;
    for _ in 0..2 {
        db.maintain().unwrap();
        assert_eq!(losers(&db).0, 0);
    }
    assert!(losers(&db).1 < before, "it goes with the block that it is in by then");
}

#[test]
fn what_comes_late_to_a_series_that_left_the_head_loses_in_whatever_block_it_is() {
    let (env, _machine) = machine();
    let options = Options { stale_series_share: Some(0.4), merge_overlapping: true, ..late() };
    let db = open(&env, options);
    for step in 0..100 {
        (0..2).for_each(|number| append(&db, number, START + step * STEP, 1.0).unwrap());
    }
    append(&db, 0, START + 100 * STEP, f64::from_bits(STALE_NAN_BITS)).unwrap();
    assert_eq!(db.maintain().unwrap().written.len(), 1);
    assert_eq!(db.head().series_count(), 1);
    append(&db, 0, START + 10 * STEP, 2.0).unwrap();
    let first = |db: &Db| content(&db.source())[0].1[10].1;
    assert_eq!(first(&db), 1.0);
    for step in 100..500 {
        append(&db, 1, START + step * STEP, 1.0).unwrap();
    }
    let done = db.maintain().unwrap();
    assert!(!done.merged.is_empty(), "what was late is in one block with what came in order: {done:?}");
    assert_eq!(first(&db), 1.0);
}

#[test]
fn retention_counts_from_the_newest_sample_not_from_the_end_of_a_span_with_late_ones() {
    let (env, _machine) = machine();
    backfill(&env, &[(0, 1.0), (1, 1.0)], |_| {});
    backfill(&env, &[(2, 1.0)], |_| {});
    backfill(&env, &[(2, 1.0)], |meta| {
        meta.max_time = START + 4 * HOUR;
        meta.compaction.add_hint(HINT_OUT_OF_ORDER);
    });
    let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
    let db = open(&env, Options { retention, ..late() });
    append(&db, 0, START + 3 * HOUR - 1, 1.0).unwrap();
    assert_eq!(db.maintain().unwrap().dropped, []);
    append(&db, 0, START + 3 * HOUR + STEP, 1.0).unwrap();
    assert_eq!(db.maintain().unwrap().dropped.len(), 1);
}

#[test]
fn a_merge_leaves_out_what_would_win_by_it() {
    let (env, _machine) = machine();
    let is_late = |meta: &mut crate::block::BlockMeta| meta.compaction.add_hint(HINT_OUT_OF_ORDER);
    backfill(&env, &[(0, 1.0), (3, 1.0)], |_| {});
    // It ends later than what is complete, so it stays apart.
    backfill(&env, &[(1, 2.0), (9, 2.0)], is_late);
    backfill(&env, &[(1, 3.0), (2, 3.0)], is_late);
    let db = open(&env, Options { merge_overlapping: true, ..options() });
    let before = [(0, 1.0), (1, 2.0), (2, 3.0), (3, 1.0), (9, 2.0)];
    assert_eq!(hours(&db), before);
    db.compact().unwrap();
    assert_eq!(hours(&db), before);
}

#[test]
fn a_snapshot_has_what_came_late_to_the_head() {
    let (env, _machine) = machine();
    let db = open(&env, late());
    fill(&db, 0..10);
    append(&db, 2, START + 20 * STEP, 1.0).unwrap();
    append(&db, 2, START + 5 * STEP, 1.0).unwrap();
    let copy = Path::new("/copies/late");
    db.snapshot(copy, true).unwrap();
    assert_eq!(content(&ReadOnlyDb::open_with(&env, copy).unwrap().source()), content(&db.source()));
}

#[test]
fn floats_that_are_written_again_are_in_the_encoding_that_is_wanted() {
    for (wanted, encoding) in [(FloatEncoding::Xor, Encoding::Xor), (FloatEncoding::Xor2, Encoding::Xor2)] {
        let (env, _machine) = machine();
        let db = open(&env, Options { float_encoding: wanted, merge_overlapping: true, ..late() });
        fill(&db, 0..620);
        write_again(&db, 10);
        append(&db, 0, START + 11 * STEP + 1, 1.0).unwrap();
        append(&db, 0, START + 9 * STEP + 1, 1.0).unwrap();
        let done = db.maintain().unwrap();
        assert!(!done.merged.is_empty(), "{done:?}");
        assert_eq!(losers(&db), (0, 1242));
        for path in db.block_dirs() {
            let block = Block::open(env.fs.as_ref(), &path).unwrap();
            let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
            for id in block.select(&[]).unwrap() {
                block.series(id, &mut labels, &mut chunks).unwrap();
                for meta in &chunks {
                    assert_eq!(block.chunk(meta).unwrap().encoding, encoding, "{meta:?} of {}", path.display());
                }
            }
        }
    }
}
