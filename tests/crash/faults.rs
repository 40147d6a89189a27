//! Every operation of a scripted life fails once, and a disk that is full for a while.
//!
//! After a failure the database is right or refuses: what was acknowledged is there, what failed is not seen, and after a
//! restart all that was acknowledged is there still.

use std::io;
use std::path::Path;

use narthex::db::Db;
use narthex::error::ErrorKind;
use narthex::testkit::PowerCut;
use narthex::wal::Durability;

use crate::db::{DIR, Script, options, read, recover};

/// Commits, cuts and a restart, of which any may fail. The number of the operation that is to fail counts from the
/// opening of the database, which must not fail.
fn life(fail: Option<(u64, io::ErrorKind)>) -> (Script, u64) {
    let mut script = Script::new(options(Durability::Sync));
    let opened = script.machine.ops();
    if let Some((number, kind)) = fail {
        script.machine.fail_op(opened + number, kind);
    }
    // What fails is not acknowledged; that is all that there is to say about it.
    for second in [0, 1, 30, 61, 95] {
        let _ = script.try_commit(0..3, second);
    }
    let _ = script.db.maintain();
    let _ = script.try_commit(1..300, 96);
    let _ = script.try_commit(0..4, 160);
    let _ = script.db.maintain();
    let _ = script.try_commit(0..4, 161);
    (script, opened)
}

fn every_operation_fails_with(kind: io::ErrorKind) {
    let (script, opened) = life(None);
    let operations = script.machine.ops() - opened;
    assert!(operations > 50, "{operations} operations are not a life");
    for number in 0..operations {
        let (script, opened) = life(Some((number, kind)));
        let failed = &script.machine.log()[(opened + number) as usize];
        let what = format!("operation {number} of {operations}: {failed:?}");
        script.machine.heal();
        // What was refused is not seen as long as the process lives; afterwards it may be: a sync that failed may have
        // written all the same.
        assert_eq!(read(&script.db.source()).unwrap(), script.history.acknowledged(), "{what}");
        let env = script.machine.kill();
        let db = Db::open_with(&env, Path::new(DIR), script.options.clone()).unwrap();
        script.history.check_now(&read(&db.source()).unwrap(), &format!("after a restart, {what}"));
        drop(db);
        // And as if the power had gone when all was over: nothing and everything that was not synced happened.
        let point = script.machine.crash_points().last().unwrap();
        for image in point.power_cut(&PowerCut { exhaustive: 0, samples: 2, seed: number }) {
            script.history.check_now(&recover(&image), &format!("after a power cut, {what}"));
        }
    }
}

#[test]
fn whichever_operation_fails_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::Other);
}

#[test]
fn whichever_operation_finds_the_disk_full_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::StorageFull);
}

#[test]
fn on_a_full_disk_reads_go_on_and_with_room_again_writes_do() {
    let mut script = Script::new(options(Durability::Sync));
    script.commit(0..3, 0);
    script.commit(0..3, 95);
    for room in [0, 1, 20, 100] {
        script.machine.set_capacity(Some(script.machine.used() + room));
        let before = read(&script.db.source()).unwrap();
        let error = script.try_commit(0..300, 96 + room.cast_signed()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        let error = script.db.maintain().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert_eq!(read(&script.db.source()).unwrap(), before);
        script.machine.set_capacity(None);
        script.commit(0..3, 96 + room.cast_signed());
    }
    assert!(!script.db.maintain().unwrap().written.is_empty());
    script.history.check_now(&read(&script.db.source()).unwrap(), "with room again");
    assert!(script.history.check_every_crash(script.started, recover) > 50);
}
