//! The log on a disk that fails, fills up, and loses its power.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use narthex::model::Labels;
use narthex::testkit::{OpKind, PowerCut};
use narthex::wal::record::{self, Record, RefSample};
use narthex::wal::{
    Compression, Damage, DamageKind, Decompressor, Durability, Log, LogError, LogOptions, LogReader, repair,
    write_checkpoint,
};

const PAGE: u64 = 32 * 1024;

fn dir() -> &'static Path {
    Path::new("/data/wal")
}

fn options(durability: Durability) -> LogOptions {
    LogOptions { segment_size: 2 * PAGE, compression: Compression::None, durability }
}

/// A commit that can be told from all others; some fill a good part of a segment.
fn commit(log: &Log, number: u64) -> Result<(), LogError> {
    log.add_series(0, number, Labels::from_pairs([("n", number.to_string())]).iter());
    let count = if number.is_multiple_of(3) { 3000 } else { 2 };
    let mut bytes = Vec::new();
    record::encode_samples((0..count).map(|t| RefSample { reference: number, t, st: 0, v: 0.5 }), &mut bytes);
    log.commit(&[&bytes])
}

/// The numbers of the commits in the log: each with its series before it.
fn commits(env: &Env) -> (Vec<u64>, Vec<Damage>) {
    let (_, commits, damage) = content(env);
    (commits, damage)
}

/// The numbers of the series in the log and those of the commits, each with its series before it.
fn content(env: &Env) -> (Vec<u64>, Vec<u64>, Vec<Damage>) {
    let mut reader = LogReader::open(&env.fs, dir()).unwrap();
    let mut decompressor = Decompressor::default();
    let (mut series, mut commits, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
        match Record::decode(&bytes).unwrap() {
            Record::Series(all) => series.extend(all.into_iter().map(|(reference, _)| reference)),
            Record::Samples(samples) => {
                let number = samples[0].reference;
                assert_eq!(series.iter().filter(|reference| **reference == number).count(), 1, "series of {number}");
                commits.push(number);
            }
            other => unreachable!("{other:?}"),
        }
    }
    (series, commits, reader.finish())
}

#[test]
fn whichever_operation_fails_a_commit_is_in_the_log_if_and_only_if_it_was_acknowledged() {
    for durability in [Durability::Never, Durability::Sync] {
        let ops = {
            let (env, machine) = Env::simulated(1);
            let log = Log::open(&env, dir(), options(durability)).unwrap();
            let before = machine.ops();
            (0..8).for_each(|number| commit(&log, number).unwrap());
            before..machine.ops()
        };
        assert!(ops.end - ops.start > 12, "segments are begun in between");
        for failing in ops {
            let (env, machine) = Env::simulated(1);
            let log = Log::open(&env, dir(), options(durability)).unwrap();
            machine.fail_op(failing, std::io::ErrorKind::Other);
            let results: Vec<_> = (0..8).map(|number| commit(&log, number)).collect();
            let failed: Vec<_> = (0..8).filter(|number| results[*number as usize].is_err()).collect();
            let poisoned = results.iter().any(|result| matches!(result, Err(LogError::Poisoned { .. })));
            let (found, damage) = commits(&env);
            assert_eq!(damage, [], "operation {failing}");
            if poisoned {
                // What the failed sync was to cover may be there; nothing after it is.
                assert!(failed.contains(&7), "operation {failing}: poisoned logs stay so");
                let acknowledged = (0..8).filter(|number| !failed.contains(number)).collect::<Vec<_>>();
                assert!(
                    found.starts_with(&acknowledged),
                    "operation {failing}: {found:?}, acknowledged {acknowledged:?}"
                );
            } else {
                assert_eq!(failed.len(), 1, "operation {failing}");
                assert_eq!(found, (0..8).filter(|number| !failed.contains(number)).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_commits_and_with_room_again_the_log_goes_on() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), options(Durability::Never)).unwrap();
    commit(&log, 1).unwrap();
    machine.set_capacity(Some(machine.used() + 30));
    for number in 2..6 {
        let error: Error = commit(&log, number).unwrap_err().into();
        assert_eq!(error.kind(), ErrorKind::Full);
    }
    machine.set_capacity(None);
    commit(&log, 6).unwrap();
    assert_eq!(commits(&env), (vec![1, 6], Vec::new()));
}

#[test]
fn what_is_owed_after_failures_is_written_as_far_as_there_is_room() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), LogOptions { segment_size: 256 * PAGE, ..options(Durability::Never) }).unwrap();
    commit(&log, 1).unwrap();
    let (before, text) = (machine.used(), "x".repeat(10_000));
    machine.set_capacity(Some(before));
    for number in 2..500 {
        let labels = Labels::from_pairs([("n", &number.to_string()), ("text", &text)]);
        log.add_series(number as u32, number, labels.iter());
        if number.is_multiple_of(50) {
            log.commit(&[]).unwrap_err();
        }
    }
    machine.set_capacity(Some(before + (3 << 20)));
    commit(&log, 500).unwrap_err();
    assert!(machine.used() > before + (1 << 20), "{} bytes more", machine.used() - before);
    machine.set_capacity(None);
    commit(&log, 501).unwrap();
    let (mut series, commits, damage) = content(&env);
    series.sort_unstable();
    assert_eq!((series, commits, damage), ((1..=501).collect(), vec![1, 501], Vec::new()));
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_log_is_opened_again() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
    commit(&log, 1).unwrap();
    machine.fail_when(|op| (op.kind == OpKind::Sync).then_some(std::io::ErrorKind::Other));
    assert!(matches!(commit(&log, 2), Err(LogError::Poisoned { .. })));
    machine.heal();
    let error = commit(&log, 3).unwrap_err();
    assert!(error.to_string().contains("until it is opened again: sync of segment 0"), "{error}");
    drop(log);
    let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
    commit(&log, 4).unwrap();
    assert_eq!(commits(&env).0, [1, 2, 4]);
}

#[test]
fn whatever_a_crash_leaves_acknowledged_commits_are_there_and_mending_twice_is_mending_once() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
    let mut acknowledged = vec![machine.ops()];
    for number in 0..7 {
        commit(&log, number).unwrap();
        acknowledged.push(machine.ops());
    }
    let mut images = 0;
    for point in machine.crash_points().filter(|point| point.ops >= acknowledged[0]) {
        let promised = acknowledged.iter().filter(|ops| **ops <= point.ops).count() as u64 - 1;
        for image in point.power_cut(&PowerCut::default()) {
            images += 1;
            let (env, _) = image.boot(2);
            let (found, damage) = commits(&env);
            let begun = (0..found.len() as u64).collect::<Vec<_>>();
            assert_eq!(found, begun, "{}: none invented, none out of order", image.story());
            assert!(found.len() as u64 >= promised, "{}: {promised} promised, {found:?}", image.story());
            assert!(
                damage.iter().all(|d| matches!(d.kind, DamageKind::TornEnd { .. })),
                "{}: {damage:?}",
                image.story()
            );
            repair(&env, dir(), &damage).unwrap();
            assert_eq!(commits(&env), (found.clone(), Vec::new()), "{}: mended", image.story());
            let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
            commit(&log, 100).unwrap();
            assert_eq!(commits(&env), ([found, vec![100]].concat(), Vec::new()), "{}", image.story());
        }
    }
    assert!(images > 50, "{images}");
}

#[test]
fn an_interval_is_kept_by_whoever_comes_next() {
    let (env, machine) = Env::simulated(1);
    let second = std::time::Duration::from_secs(1);
    let log = Log::open(&env, dir(), options(Durability::Interval(second))).unwrap();
    let syncs = || machine.log().iter().filter(|op| op.kind == OpKind::Sync).count();
    let before = syncs();
    commit(&log, 1).unwrap();
    log.sync_if_due().unwrap();
    assert_eq!(syncs(), before, "not yet");
    machine.advance(second);
    log.sync_if_due().unwrap();
    assert_eq!(syncs(), before + 1);
    machine.advance(second);
    log.sync_if_due().unwrap();
    assert_eq!(syncs(), before + 1, "nothing new");
    commit(&log, 2).unwrap();
    machine.advance(second);
    commit(&log, 4).unwrap();
    assert_eq!(syncs(), before + 2, "a commit does it too");
}

#[test]
fn segments_go_only_when_the_name_of_their_checkpoint_is_durable_though_its_sync_failed_once() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
    for number in 1..=3 {
        commit(&log, number).unwrap();
        log.next_segment().unwrap();
    }
    machine.settle();
    let (mut is_renamed, mut has_failed) = (false, false);
    machine.fail_when(move |op| {
        is_renamed |= op.kind == OpKind::Rename;
        let fails = is_renamed && !has_failed && op.kind == OpKind::SyncDir && op.path == "/data/wal";
        has_failed |= fails;
        fails.then_some(std::io::ErrorKind::Other)
    });
    let checkpoint = || write_checkpoint(&env, dir(), 1, Compression::None, 0, |_| true);
    checkpoint().unwrap_err();
    let before = machine.ops();
    checkpoint().unwrap();
    log.truncate(2).unwrap();
    let mut images = 0;
    for point in machine.crash_points().filter(|point| point.ops >= before) {
        for image in point.power_cut(&PowerCut::default()) {
            images += 1;
            assert_eq!(commits(&image.boot(2).0), (vec![1, 2, 3], Vec::new()), "{}", image.story());
        }
    }
    assert!(images > 3, "{images}");
}

#[test]
fn a_segment_that_a_failed_commit_had_begun_does_not_come_back() {
    let (env, machine) = Env::simulated(1);
    let log = Log::open(&env, dir(), options(Durability::Sync)).unwrap();
    // The next one of this size goes over into another segment.
    commit(&log, 3).unwrap();
    machine.fail_when(|op| {
        (op.kind == OpKind::Append && op.path.ends_with("00000001")).then_some(std::io::ErrorKind::StorageFull)
    });
    commit(&log, 6).unwrap_err();
    machine.heal();
    commit(&log, 1).unwrap();
    assert_eq!(log.position().0, 0);
    for image in machine.now().power_cut(&PowerCut::default()) {
        let (env, _) = image.boot(2);
        assert!(env.fs.stat(&dir().join("00000001")).unwrap().is_none(), "{}", image.story());
        assert_eq!(commits(&env).0, [3, 1], "{}", image.story());
    }
}
