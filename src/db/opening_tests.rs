//! Openings that fail on the way, and what the next one finds.

use std::io;

use super::tests::{Content, HOUR, START, content, dir, fill, machine, options, series};
use super::*;
use crate::fs::Env;
use crate::fs::sim::{Image, PowerCut};

/// Changes a byte of a file.
fn damage(env: &Env, path: &Path, at: usize) {
    let mut bytes = env.fs.read(path).unwrap();
    bytes[at] ^= 0x40;
    env.fs.remove_file(path).unwrap();
    env.fs.create(path).unwrap().append(&bytes).unwrap();
}

fn late_options() -> Options {
    Options { out_of_order_window: 4 * HOUR, wal_segment_size: 1 << 20, ..options() }
}

/// A database whose log of late samples is damaged in front of whole records.
fn with_damaged_late_samples() -> Image {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), late_options()).unwrap();
    fill(&db, 0..2);
    for part in 0..3 {
        let mut appender = db.appender();
        for second in 0..2000 {
            let t = START + second * 1000 + 100 * (part + 1);
            // No two alike: a record is to span pages.
            appender.append(None, &series(0), t, 1.0 / (t as f64)).unwrap();
        }
        appender.commit().unwrap();
    }
    drop(db);
    let env = machine.kill();
    damage(&env, &dir().join(WBL_DIR).join("00000000"), 10_000);
    machine.image()
}

fn open_late(env: &Env, story: &str) -> (Content, Vec<crate::wal::DamageKind>) {
    let db = Db::open_with(env, dir(), late_options()).unwrap_or_else(|error| panic!("{story}: {error}"));
    let kinds = db.inner.replayed.damage.iter().map(|damage| damage.kind).collect();
    (content(&db.source()), kinds)
}

#[test]
fn mending_the_log_of_late_samples_that_ends_half_way_is_begun_anew_by_the_next_opening() {
    let image = with_damaged_late_samples();
    let (env, machine) = image.boot(2);
    let (expected, kinds) = open_late(&env, "undisturbed");
    assert_eq!(kinds, [crate::wal::DamageKind::Hole]);
    let ops = machine.ops();
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for failing in 0..ops {
            let (env, machine) = image.boot(2);
            machine.fail_op(failing, kind);
            drop(Db::open_with(&env, dir(), late_options()));
            let story = format!("operation {failing}, {:?}: {kind}", machine.log().get(failing as usize));
            let (found, _) = open_late(&machine.kill(), &story);
            assert!(found == expected, "{story}");
        }
    }
}

#[test]
fn mending_the_log_of_late_samples_may_be_interrupted_anywhere() {
    let (env, machine) = with_damaged_late_samples().boot(2);
    let (expected, _) = open_late(&env, "undisturbed");
    let mut images = 0;
    for point in machine.crash_points() {
        for image in point.killed().into_iter().chain(point.power_cut(&PowerCut { samples: 4, ..PowerCut::default() }))
        {
            images += 1;
            let (found, _) = open_late(&image.boot(3).0, image.story());
            assert!(found == expected, "{}", image.story());
        }
    }
    assert!(images > 50, "{images}");
}
