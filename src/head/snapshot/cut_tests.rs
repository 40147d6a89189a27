//! Snapshots whose files end before their end, or are not there.

use std::path::{Path, PathBuf};

use super::beside_tests::{DIR, check, commit, make_foreign, open, read};
use super::*;
use crate::fs::Env;
use crate::fs::sim::Image;
use crate::model::LabelsBuilder;
use crate::wal::{Decompressor, LogReader};

/// A head without full chunks, a snapshot of it, and no more in the log: all samples, and the snapshot's directory.
fn filled() -> (Image, std::collections::BTreeSet<(String, i64)>, PathBuf) {
    let (env, machine) = Env::simulated(3);
    env.fs.create_dir_all(Path::new(DIR)).unwrap();
    let head = open(&env).0;
    commit(&head, &["a", "b", "c", "d"], 0..500);
    head.write_snapshot().unwrap();
    let all = read(&head);
    drop(head);
    let env = machine.kill();
    let position = list_snapshots(env.fs.as_ref(), Path::new(DIR)).unwrap().pop().unwrap();
    (machine.image(), all, position.path(Path::new(DIR)))
}

/// Where the records of a snapshot begin, and where the last one ends.
fn boundaries(env: &Env, snapshot: &Path) -> Vec<usize> {
    let mut reader = LogReader::open(&env.fs, snapshot).unwrap();
    let (mut decompressor, mut bytes, mut all) = (Decompressor::default(), Vec::new(), Vec::new());
    while let Some(at) = reader.next(&mut decompressor, &mut bytes).unwrap() {
        all.push(at.offset as usize);
    }
    all
}

#[test]
fn a_snapshot_that_is_cut_between_two_records_is_refused_and_nothing_is_lost() {
    let (image, all, snapshot) = filled();
    let segment = snapshot.join("00000000");
    let cuts = boundaries(&image.boot(1).0, &snapshot);
    assert!(cuts.len() == 5 && cuts[0] == 0, "four series and what is deleted: {cuts:?}");
    for cut in cuts {
        for foreign in [false, true] {
            let (env, _machine) = image.boot(1);
            if foreign {
                make_foreign(env.fs.as_ref());
            }
            env.fs.open_append(&segment).unwrap().set_len(cut as u64).unwrap();
            let story = format!("cut to {cut} bytes, foreign: {foreign}");
            let (head, replayed) = open(&env);
            assert!(replayed.snapshot_refused.is_some(), "{story}");
            check(&head, &all, &story);
            assert_eq!(list_snapshots(env.fs.as_ref(), Path::new(DIR)).unwrap(), [], "{story}");
        }
    }
}

#[test]
fn a_snapshot_without_its_segments_is_refused_and_nothing_is_lost() {
    let (image, all, snapshot) = filled();
    let (first, second) = (snapshot.join("00000000"), snapshot.join("00000001"));
    let (env, _machine) = image.boot(1);
    env.fs.remove_file(&first).unwrap();
    let (head, replayed) = open(&env);
    assert!(replayed.snapshot_refused.is_some());
    check(&head, &all, "no segment");
    // What is there may be whole, and have the record that stands behind all series.
    let (env, _machine) = image.boot(1);
    let tail = env.fs.read(&first).unwrap().split_off(boundaries(&env, &snapshot)[4]);
    env.fs.remove_file(&first).unwrap();
    env.fs.create(&second).unwrap().append(&tail).unwrap();
    let (head, replayed) = open(&env);
    assert!(replayed.snapshot_refused.is_some());
    check(&head, &all, "the second segment alone");
}

#[test]
fn a_snapshot_with_fewer_records_than_were_written_is_refused_and_nothing_is_lost() {
    let (image, all, snapshot) = filled();
    let (env, _machine) = image.boot(1);
    // As two segments, the first of which was cut.
    let (first, second) = (snapshot.join("00000000"), snapshot.join("00000001"));
    let tail = env.fs.read(&first).unwrap().split_off(boundaries(&env, &snapshot)[4]);
    env.fs.open_append(&first).unwrap().set_len(0).unwrap();
    env.fs.create(&second).unwrap().append(&tail).unwrap();
    let (head, replayed) = open(&env);
    assert!(replayed.snapshot_refused.is_some());
    check(&head, &all, "a first segment that is empty");
}

#[test]
fn snapshots_of_prometheus_have_a_record_of_deletions_behind_all_series() {
    for dir in [
        "prometheus-3.14/xor-wal-snappy/closed/chunk_snapshot.000004.0000032768",
        "prometheus-3.14/xor2-st-wal-zstd/closed/chunk_snapshot.000003.0000032768",
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(dir);
        let mut reader = LogReader::open(&Env::real().fs, &dir).unwrap();
        let (mut decompressor, mut bytes, mut kinds) = (Decompressor::default(), Vec::new(), Vec::new());
        while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
            kinds.push(match decode(&bytes, &mut LabelsBuilder::new()).unwrap() {
                Record::Series { .. } => Kind::Series,
                Record::Tombstones(_) => Kind::Tombstones,
                Record::Exemplars(_) => Kind::Exemplars,
            });
        }
        assert!(kinds.is_sorted_by_key(|kind| *kind as u8), "{}", dir.display());
        assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Tombstones).count(), 1, "{}", dir.display());
    }
}
