//! Openings that fail on the way, and what the next one finds.

use std::io;

use super::tests::{Content, HOUR, START, blocks, content, dir, expected, fill, machine, open, options, series};
use super::*;
use crate::fs::Env;
use crate::fs::sim::{Image, Op, OpKind, PowerCut};
use crate::model::MatchOp;

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

/// Blocks, and something deleted in the newest one: what is left.
fn with_something_deleted() -> (crate::fs::sim::SimHandle, PathBuf, Content) {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    assert_eq!(blocks(&db).last(), Some(&(4, 6)));
    let newest = db.inner.blocks.all().last().unwrap().dir().to_owned();
    let matcher = Matcher::new(MatchOp::Equal, "n", "1").unwrap();
    let deleted = TimeRange::new(START + 4 * HOUR, START + 6 * HOUR - 1);
    assert_eq!(db.delete(deleted, &[matcher]).unwrap(), 1);
    let left = content(&db.source());
    assert!(left[1].1.len() < expected(0..8)[1].1.len());
    (machine, newest, left)
}

#[test]
fn an_opening_that_cannot_read_a_block_this_time_fails_and_brings_nothing_back_that_was_deleted() {
    for (kind, file, error) in [
        (OpKind::Map, "/index", io::ErrorKind::PermissionDenied),
        (OpKind::Map, "/chunks/000001", io::ErrorKind::OutOfMemory),
        (OpKind::Read, "/meta.json", io::ErrorKind::Other),
        (OpKind::Read, "/tombstones", io::ErrorKind::Other),
    ] {
        let (machine, newest, left) = with_something_deleted();
        let env = machine.kill();
        let path = newest.display().to_string() + file;
        let is_it = move |op: &Op| op.kind == kind && op.path == path;
        let mut failed = false;
        machine.fail_when(move |op| {
            let fails = !failed && is_it(op);
            failed |= fails;
            fails.then_some(error)
        });
        let refused = Db::open_with(&env, dir(), options()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Io, "{file}");
        assert!(refused.to_string().contains(&newest.display().to_string()), "{refused}");
        machine.heal();
        let db = open(&env);
        assert_eq!(content(&db.source()), left, "{file}");
        db.maintain().unwrap();
        assert_eq!(content(&open(&machine.kill()).source()), left, "{file}");
    }
}

#[test]
fn a_block_without_one_of_its_files_is_set_aside_and_the_rest_is_opened() {
    for file in ["index", "meta.json", "chunks/000001", "chunks"] {
        let (machine, newest, _) = with_something_deleted();
        let env = machine.kill();
        match file {
            "chunks" => env.fs.remove_dir_all(&newest.join(file)).unwrap(),
            _ => env.fs.remove_file(&newest.join(file)).unwrap(),
        }
        let db = open(&env);
        assert_eq!(blocks(&db), [(0, 2), (2, 4)], "{file}");
        assert_eq!(db.inner.blocks.quarantined().len(), 1, "{file}");
    }
}

#[test]
fn who_only_reads_sets_aside_what_cannot_be_read_this_time() {
    let (machine, newest, _) = with_something_deleted();
    let env = machine.kill();
    let path = newest.display().to_string() + "/index";
    machine.fail_when(move |op| (op.path == path).then_some(io::ErrorKind::Other));
    let reader = ReadOnlyDb::open_with(&env, dir()).unwrap();
    assert_eq!(reader.source().blocks().len(), 2);
}
