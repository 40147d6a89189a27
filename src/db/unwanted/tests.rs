//! Whatever of the work on blocks fails, what is deleted afterwards does not come back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::{Block, BlockMeta, BlockRead};
use crate::budget::Budget;
use crate::compact::{BulkOptions, merge_blocks};
use crate::db::tests::{HOUR, START, content, dir, fill, machine, options, series};
use crate::db::{BlockGuard, Db, Downsampling, Options, Retention, RetentionRule};
use crate::error::{ErrorKind, Result};
use crate::fs::sim::{Image, Op, OpKind};
use crate::model::{Matcher, STALE_NAN_BITS, Sample, TimeRange};
use crate::wal::Durability;

fn late() -> Options {
    Options { out_of_order_window: 24 * HOUR, durability: Durability::Sync, ..options() }
}

fn append(db: &Db, number: usize, t: i64, v: f64) {
    let mut appender = db.appender();
    appender.append(None, &series(number), t, v).unwrap();
    appender.commit().unwrap();
}

fn first() -> [Matcher; 1] {
    [Matcher::equal("n", "1")]
}

/// Whether nothing is left of it, nor of what is made of it.
fn is_gone(db: &Db) -> bool {
    let copies = db.inner.downsampled.all();
    content(&db.source()).iter().all(|(labels, _)| *labels != series(1))
        && copies.iter().all(|copy| !copy.label_values("n").unwrap().contains(&"1".to_owned()))
}

/// Whether it is about blocks: a log that fails takes nothing any more, deletes neither.
fn is_of_blocks(op: &Op) -> bool {
    !["/wal", "/wbl", "/chunks_head"].iter().any(|name| op.path.contains(name))
}

/// Deletes a series when `work` has failed at an operation on blocks, and at all after it if the failure is `lasting`.
/// Whether there was such an operation.
fn stays_deleted(
    image: &Image,
    options: &impl Fn() -> Options,
    work: &impl Fn(&Db) -> Result<()>,
    nth: u64,
    lasting: bool,
) -> bool {
    let story = format!("at operation {nth}, {}", if lasting { "and from then on" } else { "once" });
    let (env, machine) = image.boot(nth);
    let db = Db::open_with(&env, dir(), options()).unwrap();
    let before = content(&db.source());
    let (mut seen, has_failed) = (0, Arc::new(AtomicBool::new(false)));
    let failing = Arc::clone(&has_failed);
    machine.fail_when(move |op| {
        let due = is_of_blocks(op) && (seen == nth || lasting && seen > nth);
        seen += u64::from(is_of_blocks(op));
        failing.fetch_or(due, Ordering::Relaxed);
        due.then_some(io::ErrorKind::Other)
    });
    let done = work(&db);
    let has_failed = has_failed.load(Ordering::Relaxed);
    machine.heal();
    db.delete(TimeRange::ALL, &first()).unwrap();
    assert!(is_gone(&db), "{story}");
    for image in [machine.image(), machine.now().least()] {
        let db = Db::open_with(&image.boot(1).0, dir(), options()).unwrap();
        assert!(is_gone(&db), "{story}, opened again: {:?}", db.status().blocks);
    }
    db.maintain().unwrap();
    assert!(is_gone(&db), "{story}, maintained: {:?}", db.status().blocks);
    assert_eq!(db.status().quarantined, [], "{story}");
    if options().retention == Retention::default() {
        assert_eq!(content(&db.source())[0], before[0], "{story}");
    }
    if !has_failed {
        done.unwrap();
    }
    has_failed
}

fn nothing_comes_back_after(image: &Image, options: impl Fn() -> Options, work: impl Fn(&Db) -> Result<()>) {
    for lasting in [false, true] {
        let operations = (0..).take_while(|nth| stays_deleted(image, &options, &work, *nth, lasting)).count();
        assert!(operations > 20, "{operations} operations");
    }
}

#[test]
fn what_is_deleted_after_a_cut_that_failed_does_not_come_back() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..4);
    append(&db, 1, START + 1, 1.0);
    drop(db);
    nothing_comes_back_after(&machine.image(), late, |db| db.maintain().map(drop));
}

#[test]
fn what_is_deleted_after_a_cut_of_series_that_have_ended_failed_does_not_come_back() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..1);
    append(&db, 1, START + HOUR, f64::from_bits(STALE_NAN_BITS));
    drop(db);
    let with_ended = || Options { stale_series_share: Some(0.3), ..late() };
    nothing_comes_back_after(&machine.image(), with_ended, |db| db.maintain().map(drop));
}

#[test]
fn what_is_deleted_after_a_merge_that_failed_does_not_come_back() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..8);
    append(&db, 1, START + 1, 1.0);
    db.maintain().unwrap();
    drop(db);
    let merging = || Options { max_block_duration: None, merge_overlapping: true, ..late() };
    nothing_comes_back_after(&machine.image(), merging, |db| db.compact().map(drop));
}

#[test]
fn what_is_deleted_after_a_backfill_that_failed_does_not_come_back() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..1);
    drop(db);
    nothing_comes_back_after(&machine.image(), late, |db| {
        let mut bulk = db.bulk(BulkOptions::default())?;
        for t in [START - 9 * HOUR, START - HOUR] {
            bulk.append(&series(1), &Sample::float(t, 1.0))?;
        }
        bulk.commit().map(drop)
    });
}

#[test]
fn what_is_deleted_after_coarser_copies_could_not_be_made_or_replaced_does_not_come_back() {
    let (env, machine) = machine();
    let downsampling = Downsampling { five_minutes_after: 2 * HOUR, hour_after: 4 * HOUR, ..Downsampling::default() };
    let with_copies = || Options { downsampling: Some(downsampling), ..late() };
    let db = Db::open_with(&env, dir(), with_copies()).unwrap();
    fill(&db, 0..6);
    db.maintain().unwrap();
    db.delete(TimeRange::ALL, &[Matcher::equal("n", "2")]).unwrap();
    drop(db);
    nothing_comes_back_after(&machine.image(), with_copies, |db| db.maintain().map(drop));
}

#[test]
fn what_is_deleted_after_retention_failed_does_not_come_back() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    drop(db);
    let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
    nothing_comes_back_after(&machine.image(), || Options { retention, ..late() }, |db| db.maintain().map(drop));
}

#[test]
fn nothing_is_deleted_while_a_block_that_was_dropped_cannot_be_removed() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    drop(db);
    let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
    let db = Db::open_with(&env, dir(), Options { retention, ..late() }).unwrap();
    machine.fail_when(|op| (op.kind == OpKind::Rename && is_of_blocks(op)).then_some(io::ErrorKind::Other));
    assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Io);
    let before = content(&db.source());
    let error = db.delete(TimeRange::ALL, &first()).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("dropping block"), "{error}");
    assert_eq!(content(&db.source()), before);
    machine.heal();
    db.delete(TimeRange::ALL, &first()).unwrap();
    assert!(is_gone(&db));
}

#[test]
fn what_a_rule_took_does_not_come_back_when_its_block_cannot_be_removed() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    let before = content(&db.source());
    drop(db);
    let of_all = RetentionRule { matchers: Vec::new(), keep: 2 * HOUR };
    let with_rule = || Options { retention_rules: vec![of_all.clone()], ..late() };
    let db = Db::open_with(&env, dir(), with_rule()).unwrap();
    let is_block = |op: &Op| Path::new(&op.path).parent() == Some(dir());
    machine.fail_when(move |op| (op.kind == OpKind::Rename && is_block(op)).then_some(io::ErrorKind::Other));
    assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Io);
    let left = content(&db.source());
    assert!(left[0].1.len() < before[0].1.len());
    machine.heal();
    assert_eq!(content(&Db::open_with(&machine.kill(), dir(), with_rule()).unwrap().source()), left);
}

/// Somebody still needs the blocks that were not merged.
struct OfLevelOne;

impl BlockGuard for OfLevelOne {
    fn may_drop(&self, meta: &BlockMeta, _: &Path) -> bool {
        meta.compaction.level > 1
    }
}

#[test]
fn a_block_stays_as_long_as_those_that_it_replaces() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late()).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    let dirs = db.block_dirs();
    drop(db);
    let blocks: Vec<_> = dirs.iter().take(2).map(|dir| Block::open(env.fs.as_ref(), dir).unwrap()).collect();
    let parents: Vec<_> = blocks.iter().map(|block| (block as &dyn BlockRead, block.meta())).collect();
    merge_blocks(&env, dir(), &parents, &Budget::unlimited()).unwrap().unwrap();
    let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
    let db =
        Db::open_with(&env, dir(), Options { retention, block_guard: Some(Arc::new(OfLevelOne)), ..late() }).unwrap();
    db.delete(TimeRange::ALL, &first()).unwrap();
    for _ in 0..2 {
        db.maintain().unwrap();
        assert!(is_gone(&db));
    }
    assert!(is_gone(&Db::open_with(&machine.kill(), dir(), late()).unwrap()));
}
