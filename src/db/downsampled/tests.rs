use super::*;
use crate::block::BlockRead;
use crate::chunk::{Aggregate, AggregateChunk, samples};
use crate::db::tests::{HOUR, blocks, content, dir, expected, fill, machine, options};
use crate::db::{Db, Options, Retention};
use crate::fs::sim::PowerCut;
use crate::fs::with_suffix;
use crate::model::{Labels, MatchOp, Value};

fn open(env: &Env) -> Db {
    open_keeping(env, Retention::default(), None)
}

fn open_keeping(env: &Env, retention: Retention, keep_five_minutes: Option<i64>) -> Db {
    let downsampling = Downsampling {
        five_minutes_after: 2 * HOUR,
        hour_after: 6 * HOUR,
        keep_five_minutes,
        ..Downsampling::default()
    };
    let options = Options { downsampling: Some(downsampling), retention, ..options() };
    Db::open_with(env, dir(), options).unwrap()
}

/// Width of windows, and the hours from and to, of each copy.
fn copies(db: &Db) -> Vec<(i64, i64, i64)> {
    let hours = |t: i64| (t - crate::db::tests::START) / HOUR;
    let status = db.status().downsampled.into_iter();
    status.map(|block| (block.meta.resolution(), hours(block.meta.min_time), hours(block.meta.max_time))).collect()
}

/// How many samples all windows of `resolution` were made of.
fn counted(db: &Db, resolution: i64) -> f64 {
    let mut counted = 0.0;
    for block in db.inner.downsampled.all().iter().filter(|block| block.meta().resolution() == resolution) {
        block.verify().unwrap();
        let (mut labels, mut metas) = (Labels::empty(), Vec::new());
        for id in block.select(&[]).unwrap() {
            block.series(id, &mut labels, &mut metas).unwrap();
            for meta in &metas {
                let chunk = AggregateChunk::decode(&block.any_chunk(meta).unwrap().1).unwrap();
                let count = chunk.get(Aggregate::Count).unwrap();
                for sample in samples(count.encoding, &count.data) {
                    let Value::Float(value) = sample.unwrap().value else { panic!("a count that is none") };
                    counted += value;
                }
            }
        }
    }
    counted
}

#[test]
fn old_blocks_get_coarser_copies_once_and_stay_as_they_are() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..14);
    db.maintain().unwrap();
    let (of_samples, made) = (blocks(&db), copies(&db));
    assert!(made.iter().any(|copy| copy.0 == FIVE_MINUTES) && made.iter().any(|copy| copy.0 == ONE_HOUR), "{made:?}");
    let hours = |resolution| made.iter().filter(move |copy| copy.0 == resolution).map(|copy| copy.2 - copy.1);
    assert!(hours(FIVE_MINUTES).sum::<i64>() > hours(ONE_HOUR).sum());
    for resolution in [FIVE_MINUTES, ONE_HOUR] {
        let samples: i64 = hours(resolution).sum::<i64>() * 60 * 3;
        assert_eq!(counted(&db, resolution), samples as f64, "{resolution}");
    }
    assert_eq!(db.maintain().unwrap(), Maintenance::default(), "nothing is left to do");
    let env = machine.kill();
    let db = open(&env);
    assert_eq!((blocks(&db), copies(&db)), (of_samples, made));
    assert_eq!(content(&db.source()), expected(0..14));
    assert_eq!(db.maintain().unwrap(), Maintenance::default());
}

#[test]
fn what_is_deleted_goes_from_the_copies_too() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..14);
    db.maintain().unwrap();
    let (before, made) = (counted(&db, FIVE_MINUTES), copies(&db));
    let first = Matcher::new(MatchOp::Equal, "n", "0").unwrap();
    db.delete(TimeRange::ALL, &[first]).unwrap();
    let done = db.maintain().unwrap();
    assert_eq!(counted(&db, FIVE_MINUTES), before / 3.0 * 2.0);
    assert_eq!(copies(&db), made, "the new ones stand for the old ones");
    assert!(done.downsampled.len() >= made.len() && done.dropped.len() >= made.len(), "{done:?}");
}

#[test]
fn copies_outlive_their_blocks_and_expire_by_their_own_age() {
    let (env, machine) = machine();
    let retention = Retention { time: Some(8 * HOUR), ..Retention::default() };
    let db = open_keeping(&env, retention, Some(12 * HOUR));
    for hours in 0..10 {
        fill(&db, 2 * hours..2 * hours + 2);
        db.maintain().unwrap();
    }
    let (oldest_block, made) = (blocks(&db)[0].0, copies(&db));
    let oldest = |resolution| made.iter().filter(|copy| copy.0 == resolution).map(|copy| copy.1).min().unwrap();
    assert!(oldest(FIVE_MINUTES) < oldest_block, "{made:?}");
    assert!(oldest(FIVE_MINUTES) >= 4, "{made:?}");
    assert_eq!(oldest(ONE_HOUR), 0, "{made:?}");
    let env = machine.kill();
    assert_eq!(copies(&open_keeping(&env, retention, Some(12 * HOUR))), made);
}

#[test]
fn a_copy_that_is_damaged_is_set_aside_and_made_again() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..10);
    db.maintain().unwrap();
    let made = copies(&db);
    let victim = db.status().downsampled[0].meta.ulid;
    drop(db);
    let env = { machine.kill() };
    let index = dir().join(DOWNSAMPLED_DIR).join(victim.to_string()).join("index");
    env.fs.remove_file(&index).unwrap();
    let db = open(&env);
    assert_eq!(db.status().quarantined.len(), 1);
    db.maintain().unwrap();
    let mut again = copies(&db);
    again.dedup();
    assert_eq!(again, made);
}

#[test]
fn a_copy_that_was_being_removed_is_whole_or_gone_whenever_the_power_is_cut_at_the_next_opening() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..14);
    db.maintain().unwrap();
    let copy = db.inner.downsampled.all().swap_remove(0).dir().to_owned();
    drop(db);
    let env = machine.kill();
    machine.settle();
    // Here its process was killed.
    env.fs.rename(&copy, &with_suffix(&copy, DELETING)).unwrap();
    let before = machine.ops();
    Downsampled::remove_leftovers(&env, dir()).unwrap();
    for point in machine.crash_points().filter(|point| point.ops >= before) {
        for image in point.power_cut(&PowerCut::default()) {
            let (env, _) = image.boot(2);
            let is_there = env.fs.stat(&copy).unwrap().is_some();
            assert!(!is_there || Block::open(env.fs.as_ref(), &copy).is_ok(), "{}", image.story());
        }
    }
    assert!(env.fs.stat(&with_suffix(&copy, DELETING)).unwrap().is_none());
}

#[test]
fn a_file_beside_the_copies_stands_in_no_opening_s_way() {
    let (env, machine) = machine();
    drop(open(&env));
    let env = machine.kill();
    let stray = dir().join(DOWNSAMPLED_DIR).join(format!("notes{DELETING}"));
    env.fs.create_dir_all(&dir().join(DOWNSAMPLED_DIR)).unwrap();
    env.fs.create(&stray).unwrap();
    open(&env);
    assert!(env.fs.stat(&stray).unwrap().is_some());
}
