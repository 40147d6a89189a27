//! Snapshots beside a `chunks_head` that does not have what it had: whoever wrote them, whatever is missing there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunk::samples;
use crate::fs::sim::{PowerCut, SimHandle};
use crate::fs::{Env, Fs};
use crate::head::{CHUNKS_HEAD_DIR, Head, HeadOptions, Replayed, WAL_DIR};
use crate::model::{Labels, TimeRange};
use crate::wal::LogOptions;

pub(super) const DIR: &str = "/data";

fn options() -> HeadOptions {
    HeadOptions { future_bound: None, chunk_range: 1000, ..HeadOptions::default() }
}

pub(super) fn open(env: &Env) -> (Arc<Head>, Replayed) {
    Head::open(env, Path::new(DIR), options(), LogOptions::default(), i64::MIN).unwrap()
}

pub(super) fn commit(head: &Arc<Head>, names: &[&str], times: std::ops::Range<i64>) {
    let mut appender = head.appender();
    for t in times.step_by(10) {
        for name in names {
            appender.append(None, &Labels::from_pairs([("__name__", *name)]), t, t as f64).unwrap();
        }
    }
    appender.commit().unwrap();
}

/// All samples: the series' name and the time.
pub(super) fn read(head: &Arc<Head>) -> BTreeSet<(String, i64)> {
    let reader = head.reader(TimeRange::ALL);
    let mut found = BTreeSet::new();
    for (id, labels) in reader.select(&[]).unwrap() {
        let (mut chunks, mut hide) = (Vec::new(), Vec::new());
        reader.chunks(id, &mut chunks, &mut hide);
        for chunk in chunks {
            let chunk = chunk.load().unwrap();
            let times = samples(chunk.encoding, &chunk.data).map(|sample| sample.unwrap().t);
            found.extend(times.map(|t| (labels.metric_name().to_owned(), t)));
        }
    }
    found
}

/// Not all samples, if they differ: there are many.
pub(super) fn check(head: &Arc<Head>, all: &BTreeSet<(String, i64)>, story: &str) {
    let found = read(head);
    let different: Vec<_> = all.symmetric_difference(&found).take(5).collect();
    assert!(different.is_empty(), "{story}: {} of {}: {different:?}", found.len(), all.len());
}

/// Four files of head chunks, a snapshot, and more in the log: the machine, and all samples.
fn filled() -> (SimHandle, BTreeSet<(String, i64)>) {
    let (env, machine) = Env::simulated(3);
    env.fs.create_dir_all(Path::new(DIR)).unwrap();
    machine.settle();
    let mut head = open(&env).0;
    for (names, times) in [(&["early", "always"][..], 0..2500), (&["always"], 2500..4500), (&["always"], 4500..6500)] {
        commit(&head, names, times);
        assert!(head.map_full_chunks().unwrap() > 0);
        drop(head);
        head = open(&machine.kill()).0;
    }
    commit(&head, &["always"], 6500..7500);
    head.write_snapshot().unwrap();
    commit(&head, &["always"], 7500..7600);
    let all = read(&head);
    assert_eq!(all.len(), 250 + 760);
    (machine, all)
}

/// As Prometheus leaves a snapshot: without the file that says what `chunks_head` had.
pub(super) fn make_foreign(fs: &dyn Fs) {
    let position = super::list_snapshots(fs, Path::new(DIR)).unwrap().pop().unwrap();
    fs.remove_file(&position.path(Path::new(DIR)).join(super::extra::FILE)).unwrap();
}

fn chunk_files(fs: &dyn Fs) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(CHUNKS_HEAD_DIR);
    let mut files: Vec<_> = fs.list(&dir).unwrap().into_iter().map(|entry| dir.join(entry.name)).collect();
    files.sort();
    files
}

fn rewrite(fs: &dyn Fs, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs.read(path).unwrap().to_vec();
    change(&mut bytes);
    fs.remove_file(path).unwrap();
    let mut file = fs.create(path).unwrap();
    file.append(&bytes).unwrap();
    file.sync().unwrap();
}

/// What is lost, and how.
type Loss = (&'static str, fn(&dyn Fs));

/// The ways in which something can be missing.
fn losses() -> Vec<Loss> {
    vec![
        ("the last file ends inside a chunk", |fs| {
            rewrite(fs, chunk_files(fs).last().unwrap(), |bytes| bytes.truncate(bytes.len() - 7));
        }),
        ("the last file's last chunk is damaged", |fs| {
            rewrite(fs, chunk_files(fs).last().unwrap(), |bytes| *bytes.last_mut().unwrap() ^= 1);
        }),
        ("the last file has no chunk any more", |fs| {
            rewrite(fs, chunk_files(fs).last().unwrap(), |bytes| bytes.truncate(8));
        }),
        ("the last file is missing", |fs| fs.remove_file(chunk_files(fs).last().unwrap()).unwrap()),
        ("a file between is missing", |fs| fs.remove_file(&chunk_files(fs)[1]).unwrap()),
        ("all files are missing", |fs| chunk_files(fs).iter().for_each(|path| fs.remove_file(path).unwrap())),
        ("the directory is missing", |fs| fs.remove_dir_all(&Path::new(DIR).join(CHUNKS_HEAD_DIR)).unwrap()),
    ]
}

#[test]
fn nothing_is_lost_with_head_chunks_that_a_snapshot_rests_on_now_or_later() {
    for (what, lose) in losses() {
        for foreign in [false, true] {
            let (machine, all) = filled();
            let env = machine.kill();
            if foreign {
                make_foreign(env.fs.as_ref());
            }
            lose(env.fs.as_ref());
            let story = format!("{what}, foreign: {foreign}");
            let (head, replayed) = Head::open_read_only(&env, Path::new(DIR), options(), i64::MIN).unwrap();
            assert!(replayed.snapshot_refused.is_some(), "{story}: {replayed:?}");
            check(&head, &all, &story);
            drop(head);
            let (head, replayed) = open(&env);
            assert!(replayed.snapshot_refused.is_some(), "{story}: {replayed:?}");
            check(&head, &all, &format!("{story}: the owner"));
            // What it puts there now must not stand for what is missing.
            head.map_full_chunks().unwrap();
            drop(head);
            for _ in 0..2 {
                let (head, replayed) = open(&machine.kill());
                check(&head, &all, &format!("{story}: opened again: {replayed:?}"));
            }
        }
    }
}

#[test]
fn nothing_is_lost_wherever_the_opening_that_finds_head_chunks_damaged_ends() {
    for (what, lose) in losses() {
        for foreign in [false, true] {
            let (machine, all) = filled();
            let env = machine.kill();
            if foreign {
                make_foreign(env.fs.as_ref());
            }
            lose(env.fs.as_ref());
            machine.settle();
            let before = machine.ops();
            let (head, _) = open(&env);
            head.map_full_chunks().unwrap();
            drop(head);
            let mut images = 0;
            for point in machine.crash_points().filter(|point| point.ops > before) {
                let cut = PowerCut { exhaustive: 2, samples: 3, seed: 1 };
                for image in point.killed().into_iter().chain(point.power_cut(&cut)) {
                    let machine = image.boot(1).1;
                    for _ in 0..2 {
                        let (head, replayed) = open(&machine.kill());
                        check(&head, &all, &format!("{what}, foreign: {foreign}: {replayed:?}. {}", image.story()));
                        head.map_full_chunks().unwrap();
                    }
                    images += 1;
                }
            }
            assert!(images > 3, "{what}: {images}");
        }
    }
}

#[test]
fn a_snapshot_that_rests_on_whole_head_chunks_is_believed_whoever_wrote_it_and_stays() {
    for foreign in [false, true] {
        let (machine, all) = filled();
        let env = machine.kill();
        if foreign {
            make_foreign(env.fs.as_ref());
        }
        for _ in 0..3 {
            let (head, replayed) = open(&machine.kill());
            assert!(replayed.snapshot.is_some() && replayed.snapshot_refused.is_none(), "{foreign}: {replayed:?}");
            check(&head, &all, "believed");
        }
    }
}

#[test]
fn files_whose_samples_blocks_have_may_be_gone() {
    let (machine, all) = filled();
    let env = machine.kill();
    env.fs.remove_file(&chunk_files(env.fs.as_ref())[0]).unwrap();
    let (head, replayed) = Head::open_read_only(&env, Path::new(DIR), options(), 2000).unwrap();
    assert!(replayed.snapshot.is_some(), "{replayed:?}");
    assert!(all.iter().filter(|(_, t)| *t >= 2000).all(|sample| read(&head).contains(sample)));
}

#[test]
fn a_snapshot_whose_log_is_gone_is_not_there_when_the_log_has_come_as_far() {
    let (machine, _) = filled();
    let env = machine.kill();
    env.fs.remove_dir_all(&Path::new(DIR).join(WAL_DIR)).unwrap();
    env.fs.remove_dir_all(&Path::new(DIR).join(CHUNKS_HEAD_DIR)).unwrap();
    let mut head = open(&env).0;
    for t in 0..20 {
        commit(&head, &["new"], t * 10..t * 10 + 10);
        drop(head);
        head = open(&machine.kill()).0;
    }
    assert_eq!(read(&head), (0..20).map(|t| ("new".to_owned(), t * 10)).collect());
    let left = super::list_snapshots(machine.kill().fs.as_ref(), Path::new(DIR)).unwrap();
    assert_eq!(left, []);
}
