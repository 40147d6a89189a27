//! The life of blocks: merged by level, merged because they overlap, written again without what was deleted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::tests::{Gate, HOUR, START, blocks, content, dir, expected, fill, machine, options, series};
use super::*;
use crate::block::{Block, BlockMeta, BlockWriter, HINT_OUT_OF_ORDER, TimedChunk, Ulid, new_ulid};
use crate::chunk::XorAppender;
use crate::fs::Env;
use crate::fs::sim::OpKind;
use crate::model::{Labels, MatchOp, Matcher};
use crate::query::{SelectRequest, Source};

/// With merges, as by default.
fn merging() -> Options {
    Options { max_block_duration: None, merge_overlapping: true, ..options() }
}

fn open(env: &Env) -> Db {
    Db::open_with(env, dir(), merging()).unwrap()
}

fn metas(db: &Db) -> Vec<BlockMeta> {
    db.status().blocks.into_iter().map(|block| block.meta).collect()
}

fn ulids(db: &Db) -> Vec<Ulid> {
    metas(db).iter().map(|meta| meta.ulid).collect()
}

fn number(n: usize) -> Vec<Matcher> {
    vec![Matcher::new(MatchOp::Equal, "n", n.to_string()).unwrap()]
}

/// Writes a block of one series beside the database, as a backfill does: samples at hours after the start. A moment later
/// than whatever is there.
pub(super) fn backfill(env: &Env, samples: &[(i64, f64)], change: impl FnOnce(&mut BlockMeta)) -> Ulid {
    env.executor.waiter().wait(Duration::from_millis(1));
    let at = |hour: i64| START + hour * HOUR;
    let (first, last) = (at(samples[0].0), at(samples[samples.len() - 1].0));
    let mut meta = BlockMeta::new(new_ulid(env), first, last + 1);
    (meta.compaction.level, meta.compaction.sources) = (1, vec![meta.ulid]);
    change(&mut meta);
    let ulid = meta.ulid;
    let mut writer = BlockWriter::create(&env.fs, dir(), meta).unwrap();
    ["", "0", "__name__", "m", "n"].iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
    let mut chunk = XorAppender::new();
    samples.iter().for_each(|(hour, v)| chunk.append(at(*hour), *v).unwrap());
    let chunk = TimedChunk { min_time: first, max_time: last, chunk: chunk.take() };
    writer.add_series(&series(0), &[chunk]).unwrap();
    writer.finish().unwrap();
    ulid
}

#[test]
fn blocks_are_merged_level_by_level_and_nothing_changes_for_a_query() {
    let (env, machine) = machine();
    let db = open(&env);
    // Two hours at a time, as a server lives.
    for hours in 0..32 {
        fill(&db, 2 * hours..2 * hours + 2);
        db.maintain().unwrap();
    }
    let before = db.source();
    let start = START / HOUR;
    let aligned = |range: i64| (0..64).find(|hour| (start + hour) % range == 0).unwrap();
    // What fits no span of 18 or 54 hours stays at 6.
    let spans = blocks(&db);
    assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0), "{spans:?}");
    assert!(spans.iter().any(|(min, max)| *min == aligned(18) && max - min >= 18), "{spans:?}");
    assert!(spans.len() < 12, "{spans:?}");
    assert_eq!(content(&before), expected(0..64));
    for meta in metas(&db) {
        let compaction = &meta.compaction;
        assert_eq!(compaction.sources.len() as i64, (meta.max_time - meta.min_time) / (2 * HOUR));
        assert!(compaction.sources.is_sorted());
        let level = match compaction.sources.len() {
            1 => 1,
            2 | 3 => 2,
            n if n <= 9 => 3,
            _ => 4,
        };
        assert_eq!(compaction.level, level, "{compaction:?}");
        assert_eq!(compaction.parents.is_empty(), level == 1);
        assert!(compaction.parents.is_sorted_by_key(|parent| parent.min_time));
        Block::open(env.fs.as_ref(), &dir().join(meta.ulid.to_string())).unwrap().verify().unwrap();
    }
    assert_eq!(db.compact().unwrap(), Maintenance::default(), "nothing is left to do");
    let env = machine.kill();
    assert_eq!(content(&open(&env).source()), expected(0..64));
}

#[test]
fn blocks_that_overlap_become_one_and_the_first_write_wins() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..4);
    db.maintain().unwrap();
    let first = ulids(&db);
    // An hour that the block has, and one between those of its minutes.
    backfill(&env, &[(0, -1.0), (1, -2.0)], |_| {});
    drop(db);
    let db = open(&env);
    let done = db.compact().unwrap();
    assert_eq!((done.merged.len(), done.dropped.len()), (1, 2));
    assert!(done.dropped.contains(&first[0]));
    assert_eq!(content(&db.source()), expected(0..4));
    assert_eq!(metas(&db)[0].compaction.level, 2);
}

#[test]
fn what_is_older_wins_before_and_after_a_merge_whoever_was_merged() {
    let (env, _machine) = machine();
    let t = [(0, 1.0), (1, 1.0)];
    let old = backfill(&env, &t, |_| {});
    let young = backfill(&env, &[(1, 2.0), (4, 2.0)], |_| {});
    let late = backfill(&env, &[(0, 3.0), (1, 3.0), (2, 3.0), (3, 3.0)], |meta| {
        meta.compaction.add_hint(HINT_OUT_OF_ORDER);
    });
    assert!(old < young && young < late);
    let expected = [(0, 1.0), (1, 1.0), (2, 3.0), (3, 3.0), (4, 2.0)].map(|(hour, v)| (START + hour * HOUR, v));
    let db = open(&env);
    assert_eq!(content(&db.source())[0].1, expected);
    db.compact().unwrap();
    assert_eq!(content(&db.source())[0].1, expected);
    let meta = &metas(&db)[0];
    assert!(!meta.compaction.is_hinted(), "part of it came in order");
    // The youngest of all names is its own, and it is as old as the oldest in it.
    backfill(&env, &[(0, 4.0), (5, 4.0)], |_| {});
    drop(db);
    assert_eq!(content(&open(&env).source())[0].1[..5], expected);
}

#[test]
fn downsampled_blocks_are_not_merged_with_what_they_were_made_of() {
    let (env, _machine) = machine();
    backfill(&env, &[(0, 1.0), (1, 1.0)], |_| {});
    backfill(&env, &[(0, 2.0), (1, 2.0)], |meta| meta.set_resolution(300_000));
    assert_eq!(open(&env).compact().unwrap(), Maintenance::default());
}

#[test]
fn blocks_that_overlap_stay_apart_if_that_is_wanted() {
    let (env, _machine) = machine();
    backfill(&env, &[(0, 1.0), (1, 1.0)], |_| {});
    backfill(&env, &[(1, 2.0), (2, 2.0)], |_| {});
    let db = Db::open_with(&env, dir(), Options { merge_overlapping: false, ..merging() }).unwrap();
    assert_eq!(db.compact().unwrap(), Maintenance::default());
}

#[test]
fn nothing_is_merged_before_its_guard_lets_it_go() {
    let (env, _machine) = machine();
    let gate = Arc::new(Gate::default());
    let db = Db::open_with(&env, dir(), Options { block_guard: Some(gate.clone()), ..merging() }).unwrap();
    fill(&db, 0..24);
    let done = db.maintain().unwrap();
    assert_eq!((done.written.len(), done.merged.len()), (11, 0));
    gate.0.store(true, Ordering::Relaxed);
    assert!(db.maintain().unwrap().merged.len() >= 2);
    assert_eq!(content(&db.source()), expected(0..24));
}

#[test]
fn a_block_that_cannot_be_merged_is_marked_and_does_not_hold_up_the_others() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..24);
    db.maintain().unwrap();
    let broken = metas(&db)[1].clone();
    db.close().unwrap();
    // A chunk in the middle of the file: opening the block does not notice.
    let path = dir().join(broken.ulid.to_string()).join("chunks/000001");
    let mut bytes = env.fs.read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x55;
    env.fs.remove_file(&path).unwrap();
    env.fs.create(&path).unwrap().append(&bytes).unwrap();
    let db = open(&env);
    let error = db.maintain().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(db.status().maintenance_error.unwrap().contains("000001"));
    let all = metas(&db);
    assert!(all.iter().any(|meta| meta.ulid == broken.ulid && meta.compaction.failed));
    assert!(all.iter().any(|meta| meta.compaction.level == 2), "the others are merged");
    assert_eq!(db.maintain().unwrap(), Maintenance::default(), "it is not tried again");
    assert!(db.status().maintenance_error.is_none());
    drop(db);
    assert!(metas(&open(&env)).iter().any(|meta| meta.compaction.failed), "the mark is on the disk");
}

#[test]
fn a_full_disk_marks_nothing_and_the_merge_is_done_when_there_is_room() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..24);
    db.maintain().unwrap();
    drop(db);
    let db = open(&env);
    machine.set_capacity(Some(machine.used() + 3000));
    assert_eq!(db.compact().unwrap_err().kind(), ErrorKind::Full);
    assert!(!metas(&db).iter().any(|meta| meta.compaction.failed));
    assert_eq!(content(&db.source()), expected(0..24));
    machine.set_capacity(None);
    assert!(!db.compact().unwrap().merged.is_empty());
    assert_eq!(content(&db.source()), expected(0..24));
}

#[test]
fn what_is_deleted_is_gone_from_the_merged_block() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..24);
    db.maintain().unwrap();
    let range = TimeRange::new(START, START + 20 * HOUR);
    db.delete(range, &number(1)).unwrap();
    let mut expected = expected(0..24);
    expected[1].1.retain(|(t, _)| !range.contains(*t));
    drop(db);
    let db = open(&env);
    db.compact().unwrap();
    assert_eq!(content(&db.source()), expected);
    let merged = metas(&db).into_iter().find(|meta| meta.compaction.level > 1).unwrap();
    assert_eq!((merged.stats.num_tombstones, merged.stats.num_series), (0, 2));
}

#[test]
fn cleaning_leaves_no_tombstone_and_no_empty_block() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..8);
    db.maintain().unwrap();
    db.delete(TimeRange::new(START, START + 2 * HOUR - 1), &[]).unwrap();
    db.delete(TimeRange::new(START + 3 * HOUR, START + 4 * HOUR - 1), &number(0)).unwrap();
    let before = content(&db.source());
    let names = ulids(&db);
    let done = db.clean_tombstones().unwrap();
    assert_eq!(done.dropped, [names[0], names[1]]);
    assert_eq!(done.merged.len(), 1);
    assert_eq!(blocks(&db), [(2, 4), (4, 6)]);
    assert_eq!(metas(&db).iter().map(|meta| meta.stats.num_tombstones).sum::<u64>(), 0);
    assert_eq!(content(&db.source()), before);
    assert_eq!(db.clean_tombstones().unwrap(), Maintenance::default());
    let env = machine.kill();
    assert_eq!(content(&Db::open_with(&env, dir(), options()).unwrap().source()), before);
}

#[test]
fn a_delete_during_a_merge_is_not_undone_by_it() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..24);
    db.maintain().unwrap();
    drop(db);
    let db = open(&env);
    let range = TimeRange::new(START + HOUR, START + 9 * HOUR);
    let other = db.clone();
    // The name of the block that is to be is made of the time: in the middle of the first merge.
    machine.at_clock_reading(0, move || assert_eq!(other.delete(range, &number(2)).unwrap(), 5));
    assert!(!db.compact().unwrap().merged.is_empty());
    let mut expected = expected(0..24);
    expected[2].1.retain(|(t, _)| !range.contains(*t));
    assert_eq!(content(&db.source()), expected);
    assert!(metas(&db).iter().any(|meta| meta.compaction.level > 1 && meta.stats.num_tombstones > 0));
    let env = machine.kill();
    assert_eq!(content(&open(&env).source()), expected);
}

#[test]
fn a_block_that_goes_under_us_is_named_and_the_rest_is_served() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..8);
    db.maintain().unwrap();
    let path = dir().join(ulids(&db)[1].to_string());
    env.fs.remove_dir_all(&path).unwrap();
    db.maintain().unwrap();
    let quarantined = db.status().quarantined;
    assert_eq!(quarantined.iter().map(|gone| gone.path.as_path()).collect::<Vec<_>>(), [path.as_path()]);
    assert_eq!(blocks(&db), [(0, 2), (4, 6)]);
    db.maintain().unwrap();
    assert_eq!(db.status().quarantined, quarantined, "it is not forgotten");
}

#[test]
fn retention_by_a_part_of_the_disk_takes_the_oldest() {
    let (env, machine) = machine();
    let retention = Retention { percentage: Some(50.0), bytes: Some(1), ..Retention::default() };
    let db = Db::open_with(&env, dir(), Options { retention, ..options() }).unwrap();
    fill(&db, 0..10);
    machine.set_capacity(Some(1 << 30));
    assert_eq!(db.maintain().unwrap().dropped, [], "half of the disk is enough, whatever the bytes say");
    let names = ulids(&db);
    let status = db.status();
    let bytes = status.log_bytes + status.blocks.iter().map(|block| block.bytes).sum::<u64>();
    machine.set_capacity(Some(2 * bytes - 2));
    assert_eq!(db.maintain().unwrap().dropped, [names[0]]);
}

#[test]
fn a_file_in_place_of_the_directory_is_a_clear_error() {
    let (env, _machine) = machine();
    env.fs.create(dir()).unwrap();
    let error = Db::open_with(&env, dir(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("/data: ") && error.to_string().contains("a file"), "{error}");
}

#[test]
fn whatever_may_not_be_touched_is_named() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..8);
    db.maintain().unwrap();
    let env = {
        db.close().unwrap();
        machine.kill()
    };
    let first = machine.ops();
    Db::open_with(&env, dir(), options()).unwrap().close().unwrap();
    let ops: Vec<_> = machine.log().into_iter().skip(first as usize).collect();
    assert!(ops.len() > 20);
    let mut refused_for_a_block = 0;
    for denied in ops {
        let image = machine.image();
        let (env, machine) = image.boot(3);
        let (kind, path) = (denied.kind, denied.path.clone());
        machine.fail_when(move |op| (op.kind == kind && op.path == path).then_some(io::ErrorKind::PermissionDenied));
        match Db::open_with(&env, dir(), options()) {
            Err(error) => {
                assert!(error.to_string().contains("/data"), "{denied:?}: {error}");
                assert_eq!(error.kind(), ErrorKind::Io, "{denied:?}: {error}");
                refused_for_a_block += usize::from(error.to_string().contains("block /data/"));
            }
            // What may fail without harm is the closing.
            Ok(db) => assert_eq!(db.status().quarantined, [], "{denied:?}"),
        }
    }
    assert!(refused_for_a_block > 3);
    let path = Path::new("/data");
    assert!(env.fs.stat(path).unwrap().is_some());
}

fn names(db: &Db, matchers: &[Matcher]) -> Vec<String> {
    let budget = Budget::unlimited();
    db.source().label_names(&SelectRequest::labels_only(TimeRange::ALL, matchers, &budget)).unwrap()
}

fn values(db: &Db, matchers: &[Matcher]) -> Vec<String> {
    let budget = Budget::unlimited();
    db.source().label_values("n", &SelectRequest::labels_only(TimeRange::ALL, matchers, &budget)).unwrap()
}

fn listed(db: &Db) -> Vec<Labels> {
    let budget = Budget::unlimited();
    let mut set = db.source().select(&SelectRequest::labels_only(TimeRange::ALL, &[], &budget)).unwrap();
    std::iter::from_fn(|| set.next().unwrap()).map(|series| series.labels).collect()
}

fn append(db: &Db, labels: &Labels, t: i64, v: f64) {
    let mut appender = db.appender();
    appender.append(None, labels, t, v).unwrap();
    appender.commit().unwrap();
}

#[test]
fn names_and_values_go_with_the_last_sample_and_come_back_with_the_next() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    let odd = Labels::from_pairs([("__name__", "m"), ("n", "odd"), ("only", "here")]);
    append(&db, &odd, START, 1.0);
    fill(&db, 0..8);
    append(&db, &odd, START + 8 * HOUR, 1.0);
    db.maintain().unwrap();
    let metric = [Matcher::new(MatchOp::Equal, "__name__", "m").unwrap()];
    assert_eq!(names(&db, &[]), ["__name__", "n", "only"]);
    assert_eq!(values(&db, &[]), ["0", "1", "2", "odd"]);
    db.delete(TimeRange::ALL, &[Matcher::new(MatchOp::Equal, "only", "here").unwrap()]).unwrap();
    // In two pieces, between two samples.
    let cut = START + 90 * 60_000;
    db.delete(TimeRange::new(START, cut + 1_000), &number(1)).unwrap();
    assert_eq!(values(&db, &[]), ["0", "1", "2"], "half of it is there");
    db.delete(TimeRange::new(cut + 59_000, i64::MAX), &number(1)).unwrap();
    let is_gone = |db: &Db| {
        for matchers in [&[][..], &metric] {
            assert_eq!(names(db, matchers), ["__name__", "n"]);
            assert_eq!(values(db, matchers), ["0", "2"]);
        }
        assert_eq!(listed(db), [series(0), series(2)]);
    };
    is_gone(&db);
    let db = Db::open_with(&machine.kill(), dir(), options()).unwrap();
    is_gone(&db);
    append(&db, &series(1), START + 9 * HOUR, 1.0);
    assert_eq!(values(&db, &[]), ["0", "1", "2"]);
    assert_eq!(listed(&db).len(), 3);
}

fn copy_of(env: &Env, path: &Path) -> ReadOnlyDb {
    ReadOnlyDb::open_with(env, path).unwrap()
}

#[test]
fn a_snapshot_holds_what_was_committed_and_stays_so() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..8);
    db.maintain().unwrap();
    // One in a block, one in the head, over the edge of chunks.
    db.delete(TimeRange::new(START + HOUR, START + 2 * HOUR), &number(0)).unwrap();
    db.delete(TimeRange::new(START + 7 * HOUR - 1, START + 7 * HOUR), &number(2)).unwrap();
    let before = content(&db.source());
    let mut open = db.appender();
    open.append(None, &series(1), START + 8 * HOUR, 1.0).unwrap();
    let path = Path::new("/copies/one");
    assert_eq!(db.snapshot(path, true).unwrap().len(), 4);
    open.commit().unwrap();
    db.delete(TimeRange::ALL, &[]).unwrap();
    db.clean_tombstones().unwrap();
    let env = machine.kill();
    let copy = copy_of(&env, path);
    assert_eq!(copy.status().quarantined, []);
    assert_eq!(content(&copy.source()), before);
    for block in copy.status().blocks {
        Block::open(env.fs.as_ref(), &path.join(block.meta.ulid.to_string())).unwrap().verify().unwrap();
    }
    // It is a database like any other.
    let copy = Db::open_with(&env, path, merging()).unwrap();
    fill(&copy, 8..12);
    copy.maintain().unwrap();
    assert_eq!(content(&copy.source())[1].1.len(), before[1].1.len() + 240);
}

#[test]
fn a_snapshot_without_the_head_has_the_blocks_and_copies_where_it_cannot_link() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    fill(&db, 0..8);
    db.maintain().unwrap();
    machine.fail_when(|op| (op.kind == OpKind::HardLink).then_some(io::ErrorKind::Unsupported));
    let path = Path::new("/copies/two");
    assert_eq!(db.snapshot(path, false).unwrap(), ulids(&db));
    assert_eq!(content(&copy_of(&env, path).source()), expected(0..6));
    let again = db.snapshot(path, false).unwrap_err();
    assert!(again.to_string().contains("/copies/two/"), "{again}");
    for wrong in [dir(), &path.join(ulids(&db)[0].to_string())] {
        let error = db.snapshot(wrong, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&wrong.display().to_string()), "{error}");
    }
}
