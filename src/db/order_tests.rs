//! Where a series has two samples at one time, in two places, the first write is what is seen, and goes last.

use std::io;

use super::tests::{HOUR, START, content, dir, machine, options, series};
use super::*;
use crate::error::Result;
use crate::fs::sim::{Image, SimHandle};

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
