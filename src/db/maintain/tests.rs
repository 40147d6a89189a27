//! What fails or goes on for ever keeps nothing else from being done, and what comes meanwhile is not lost.

use std::cell::Cell;
use std::io;

use crate::block::{CREATING, HINT_STALE_SERIES};
use crate::db::tests::{HOUR, START, content, dir, fill, machine, options, series};
use crate::db::{Db, Maintenance, Options};
use crate::error::ErrorKind;
use crate::fs::Env;
use crate::fs::sim::{Op, OpKind};
use crate::head::WBL_DIR;
use crate::model::{Matcher, STALE_NAN_BITS, TimeRange};
use crate::wal::record::{RefSample, encode_samples};
use crate::wal::{Log, LogOptions};

fn open(env: &Env, options: Options) -> Db {
    Db::open_with(env, dir(), options).unwrap()
}

fn append(db: &Db, number: usize, t: i64, value: f64) {
    let mut appender = db.appender();
    appender.append(None, &series(number), t, value).unwrap();
    appender.commit().unwrap();
}

fn is_checkpoint(op: &Op) -> bool {
    op.path.contains("/checkpoint.")
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_no_segment_at_each_attempt() {
    let (env, machine) = machine();
    let db = open(&env, options());
    fill(&db, 0..64);
    machine.fail_when(|op| (op.kind == OpKind::Create && is_checkpoint(op)).then_some(io::ErrorKind::StorageFull));
    let error = db.maintain().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let segments = || db.head().log().unwrap().segments().unwrap();
    let before = segments();
    assert!(before.1 > before.0 + 2, "{before:?}");
    (0..3).for_each(|_| assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Full));
    assert_eq!(segments(), before);
    machine.heal();
    db.maintain().unwrap();
    let after = segments();
    assert!(after.0 > before.0 && after.1 == before.1 + 1, "{before:?} {after:?}");
}

#[test]
fn blocks_are_merged_though_the_head_cannot_be_cut() {
    let (env, machine) = machine();
    let unmerged = Options { max_block_duration: Some(0), ..options() };
    let db = open(&env, unmerged);
    fill(&db, 0..12);
    db.maintain().unwrap();
    fill(&db, 12..16);
    drop(db);
    let db = open(&env, Options { max_block_duration: None, ..options() });
    assert!(db.inner.full_range().is_some());
    let mut is_cut = true;
    machine.fail_when(move |op| {
        let fails = is_cut && op.kind == OpKind::CreateDir;
        is_cut &= !fails;
        fails.then_some(io::ErrorKind::PermissionDenied)
    });
    db.maintain().unwrap_err();
    let blocks = db.status().blocks;
    assert!(blocks.iter().any(|block| block.meta.compaction.level > 1), "{blocks:?}");
    assert!(db.inner.full_range().is_some(), "the head was not cut");
}

#[test]
fn series_that_ended_leave_the_head_though_what_came_late_cannot_be_cut() {
    let (env, machine) = machine();
    let window = Options { out_of_order_window: 24 * HOUR, stale_series_share: Some(0.1), ..options() };
    let db = open(&env, window);
    fill(&db, 0..4);
    append(&db, 1, START + 1, 1.0);
    append(&db, 0, START + 4 * HOUR, f64::from_bits(STALE_NAN_BITS));
    machine.fail_when(|op| {
        (op.kind == OpKind::Create && op.path.contains("/wbl/")).then_some(io::ErrorKind::PermissionDenied)
    });
    db.maintain().unwrap_err();
    let blocks = db.status().blocks;
    assert!(blocks.iter().any(|block| block.meta.compaction.has_hint(HINT_STALE_SERIES)), "{blocks:?}");
}

#[test]
fn a_block_in_which_something_is_deleted_all_the_time_is_written_again_once_a_pass() {
    let (env, machine) = machine();
    let db = open(&env, options());
    fill(&db, 0..12);
    db.maintain().unwrap();
    let delete = |db: &Db, minute: i64| {
        let range = TimeRange::new(START + minute * 60_000, START + minute * 60_000);
        assert_eq!(db.delete(range, &[Matcher::equal("n", "0")]).unwrap(), 1);
    };
    delete(&db, 5);
    let other = db.clone();
    machine.at_clock_reading(0, move || delete(&other, 6));
    assert_eq!(db.compact().unwrap().merged.len(), 1);
    assert_eq!(db.compact().unwrap().merged.len(), 1, "what was deleted meanwhile");
    assert_eq!(db.compact().unwrap().merged.len(), 0);
}

#[test]
fn what_is_committed_between_the_choice_of_a_cut_and_its_floor_is_in_the_block() {
    let (env, machine) = machine();
    let db = open(&env, options());
    append(&db, 0, START + HOUR, 1.0);
    let came = Cell::new(false);
    {
        let mut state = db.inner.maintenance.lock();
        let next = |inner: &crate::db::Inner| {
            let min = inner.head.min_time().filter(|_| inner.head.counts().chunks > 0)?;
            if !came.replace(true) {
                append(&db, 1, START + HOUR / 2, 2.0);
            }
            Some(TimeRange::new(min, START + HOUR))
        };
        db.inner.round(&mut state, &mut Maintenance::default(), next).unwrap();
    }
    let expected = vec![(series(0), vec![(START + HOUR, 1.0)]), (series(1), vec![(START + HOUR / 2, 2.0)])];
    assert_eq!(content(&db.source()), expected);
    let env = machine.kill();
    assert_eq!(content(&open(&env, options()).source()), expected);
}

#[test]
fn what_comes_in_order_after_a_deletion_and_is_older_than_what_came_late_stays() {
    let (env, machine) = machine();
    let window = || Options { out_of_order_window: 24 * HOUR, ..options() };
    let db = open(&env, window());
    append(&db, 0, START, 1.0);
    let mut before = db.appender();
    before.append(None, &series(0), START + HOUR / 2, 2.0).unwrap();
    append(&db, 1, START + 3 * HOUR, 1.0);
    // Before what may be cut next, and newer than all that the series has in order.
    append(&db, 0, START + HOUR, 3.0);
    assert_eq!(db.delete(TimeRange::ALL, &[Matcher::equal("n", "0")]).unwrap(), 1);
    assert_eq!(before.commit().unwrap().appended, 1);
    let expected = vec![(START + HOUR / 2, 2.0)];
    assert_eq!(content(&db.source())[0].1, expected);
    let env = machine.kill();
    let db = open(&env, window());
    assert_eq!(content(&db.source())[0].1, expected);
    db.flush().unwrap();
    assert_eq!(content(&db.source())[0].1, expected);
}

#[test]
fn a_copy_has_all_of_a_commit_or_nothing_of_it() {
    let (env, machine) = machine();
    let db = open(&env, Options { out_of_order_window: 24 * HOUR, ..options() });
    fill(&db, 0..2);
    append(&db, 0, START + 1, 1.0);
    let other = db.clone();
    // The block of what came late gets its name.
    machine.at_operation(OpKind::Rename, CREATING, 0, move || {
        let mut appender = other.appender();
        appender.append(None, &series(7), START + 2 * HOUR, 1.0).unwrap();
        appender.append(None, &series(7), START + 2, 1.0).unwrap();
        assert_eq!(appender.commit().unwrap().out_of_order, 1);
    });
    let copy = std::path::Path::new("/copy");
    db.snapshot(copy, true).unwrap();
    let copied = content(&Db::open_with(&env, copy, options()).unwrap().source());
    let samples = copied.iter().find(|(labels, _)| *labels == series(7)).map_or(0, |(_, samples)| samples.len());
    assert_eq!(samples, 2);
}

/// How often a block was begun.
fn begun(machine: &crate::fs::sim::SimHandle, since: u64) -> usize {
    let log = machine.log();
    log.iter().filter(|op| op.number >= since && op.kind == OpKind::CreateDir && op.path.ends_with(CREATING)).count()
}

#[test]
fn what_came_late_is_cut_where_there_is_something_and_nothing_is_begun_in_between() {
    let (env, machine) = machine();
    let db = open(&env, Options { out_of_order_window: 20 * 365 * 24 * HOUR, ..options() });
    fill(&db, 0..4);
    let mut appender = db.appender();
    for hours in [10 * 365 * 24, 5 * 365 * 24, 5] {
        appender.append(None, &series(0), START - hours * HOUR, 1.0).unwrap();
    }
    appender.commit().unwrap();
    let before = machine.ops();
    let done = db.maintain().unwrap();
    assert_eq!((done.written.len(), begun(&machine, before)), (4, 4));
    assert_eq!(content(&db.source())[0].1.len(), 4 * 60 + 3);
}

#[test]
fn what_came_late_at_both_ends_of_time_is_cut() {
    let (env, machine) = machine();
    let late = Options { out_of_order_window: HOUR, ..options() };
    let db = open(&env, late.clone());
    fill(&db, 0..4);
    drop(db);
    let env = machine.kill();
    // Somebody else's: no appender takes samples of these times here.
    let (mut bytes, times) = (Vec::new(), [i64::MIN, i64::MIN + 1, 0, i64::MAX - 1]);
    encode_samples(times.map(|t| RefSample { reference: 1, t, st: 0, v: 1.0 }), &mut bytes);
    let log = Log::open(&env, &dir().join(WBL_DIR), LogOptions::default()).unwrap();
    log.commit(&[&bytes]).unwrap();
    drop(log);
    let db = open(&env, late);
    let before = machine.ops();
    let done = db.flush().unwrap();
    assert!(begun(&machine, before) < 8, "{done:?}");
    let found = content(&db.source()).swap_remove(0).1;
    assert!(times.iter().all(|t| found.iter().any(|(at, _)| at == t)), "{found:?}");
}
