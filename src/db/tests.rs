use super::*;
use crate::block::{BlockMeta, CREATING, HINT_OUT_OF_ORDER};
use crate::budget::Budget;
use crate::fs::sim::SimHandle;
use crate::model::{Labels, MatchOp};
use crate::query::{HeadSource, OutOfOrderSource, SelectRequest, Source, series_samples};
use crate::wal::Durability;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub(super) const HOUR: i64 = 3_600_000;
pub(super) const START: i64 = crate::fs::sim::START_MS;

pub(super) type Content = Vec<(Labels, Vec<(i64, f64)>)>;

pub(super) fn dir() -> &'static Path {
    Path::new("/data")
}

/// Without merges.
pub(super) fn options() -> Options {
    Options {
        max_block_duration: Some(0),
        merge_overlapping: false,
        future_bound: None,
        durability: Durability::Never,
        wal_segment_size: 32 * 1024,
        ..Options::default()
    }
}

pub(super) fn open(env: &Env) -> Db {
    Db::open_with(env, dir(), options()).unwrap()
}

pub(super) fn series(number: usize) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("n", &number.to_string())])
}

pub(super) fn value(number: usize, t: i64) -> f64 {
    (t / 1000 % 1000) as f64 + number as f64
}

/// A sample a minute for three series, from hour to hour after the start.
pub(super) fn fill(db: &Db, hours: std::ops::Range<i64>) {
    for minute in hours.start * 60..hours.end * 60 {
        let t = START + minute * 60_000;
        let mut appender = db.appender();
        for number in 0..3 {
            appender.append(None, &series(number), t, value(number, t)).unwrap();
        }
        appender.commit().unwrap();
    }
}

pub(super) fn expected(hours: std::ops::Range<i64>) -> Content {
    let times = move || (hours.start * 60..hours.end * 60).map(|minute| START + minute * 60_000);
    (0..3).map(|number| (series(number), times().map(|t| (t, value(number, t))).collect())).collect()
}

pub(super) fn content(source: &DbSource) -> Content {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut all = Vec::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        let floats = samples.iter().map(|sample| match sample.value {
            crate::model::Value::Float(v) => (sample.t, v),
            _ => panic!("a histogram"),
        });
        all.push((series.labels, floats.collect()));
    }
    all
}

pub(super) fn blocks(db: &Db) -> Vec<(i64, i64)> {
    let hours = |t: i64| (t - START) / HOUR;
    db.status().blocks.iter().map(|block| (hours(block.meta.min_time), hours(block.meta.max_time))).collect()
}

pub(super) fn machine() -> (Env, SimHandle) {
    Env::simulated(1)
}

#[test]
fn what_was_committed_is_there_after_a_kill() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let env = machine.kill();
    assert_eq!(content(&open(&env).source()), expected(0..1));
}

#[test]
fn one_process_owns_a_directory_until_it_closes_it() {
    let (env, _machine) = machine();
    let db = open(&env);
    let error = Db::open_with(&env, dir(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    db.close().unwrap();
    db.close().unwrap();
    open(&env);
}

#[test]
fn dropping_the_last_handle_closes() {
    let (env, _machine) = machine();
    let db = open(&env);
    drop(db.clone());
    assert_eq!(Db::open_with(&env, dir(), options()).unwrap_err().kind(), ErrorKind::Locked);
    drop(db);
    open(&env);
}

#[test]
fn full_blocks_are_cut_and_nothing_changes_for_a_query() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..3);
    assert_eq!(db.maintain().unwrap(), Maintenance::default(), "not half as much again yet");
    fill(&db, 3..60);
    let before = db.source();
    let log_bytes = db.status().log_bytes;
    let written = db.maintain().unwrap().written.len();
    assert_eq!(written, 29);
    assert_eq!(blocks(&db), (0..29).map(|n| (2 * n, 2 * n + 2)).collect::<Vec<_>>());
    assert_eq!(content(&db.source()), expected(0..60));
    assert_eq!(content(&before), expected(0..60), "a view from before");
    drop(before);
    assert_eq!(db.maintain().unwrap(), Maintenance::default());
    assert!(db.status().log_bytes + 32 * 1024 < log_bytes, "{} of {log_bytes}", db.status().log_bytes);
    assert_eq!(db.status().min_time, Some(START + 58 * HOUR));
    // And after a restart, too.
    let env = machine.kill();
    let db = open(&env);
    assert_eq!(content(&db.source()), expected(0..60));
    assert_eq!(db.status().min_time, Some(START + 58 * HOUR));
    fill(&db, 60..61);
    assert_eq!(content(&db.source()), expected(0..61));
}

#[test]
fn what_a_view_kept_in_memory_goes_with_the_next_round_after_it() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..60);
    let view = db.source();
    db.maintain().unwrap();
    let kept = db.head().counts().chunks;
    drop(view);
    db.maintain().unwrap();
    let left = db.head().counts().chunks;
    assert!(left * 4 < kept, "{left} chunks of {kept}");
}

#[test]
fn flushing_leaves_nothing_in_the_head() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..3);
    assert_eq!(db.flush().unwrap().written.len(), 2);
    assert_eq!(content(&db.source()), expected(0..3));
    fill(&db, 3..4);
    assert_eq!(db.flush().unwrap().written.len(), 1);
    // Again, it does nothing, and the next sample is taken.
    assert_eq!(db.flush().unwrap().written.len(), 0);
    assert_eq!(db.flush().unwrap().written.len(), 0);
    let mut appender = db.appender();
    appender.append(None, &series(0), START + 4 * HOUR - 59_999, 1.0).unwrap();
    appender.rollback();
    db.close().unwrap();
    assert_eq!(content(&open(&env).source()), expected(0..4));
}

#[test]
fn a_block_that_cannot_be_read_is_set_aside_and_the_rest_is_served() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    let ulid = db.status().blocks[0].meta.ulid.to_string();
    db.close().unwrap();
    let index = dir().join(&ulid).join("index");
    let bytes = env.fs.read(&index).unwrap();
    env.fs.remove_file(&index).unwrap();
    env.fs.create(&index).unwrap().append(&bytes[..bytes.len() / 2]).unwrap();
    let db = open(&env);
    let quarantined = db.status().quarantined;
    assert_eq!(quarantined.len(), 1);
    assert!(quarantined[0].path.ends_with(&ulid) && quarantined[0].reason.contains("index"), "{quarantined:?}");
    assert_eq!(content(&db.source()), expected(2..8));
    db.maintain().unwrap();
    assert!(env.fs.stat(&dir().join(&ulid)).unwrap().is_some(), "it is still there, for a person");
}

#[test]
fn a_block_whose_chunks_are_not_all_there_is_set_aside_before_a_query_meets_it() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    let ids: Vec<_> = db.status().blocks.iter().map(|block| block.meta.ulid.to_string()).collect();
    db.close().unwrap();
    let chunks = |n: usize| dir().join(&ids[n]).join("chunks/000001");
    env.fs.remove_file(&chunks(0)).unwrap();
    // As a copy that was broken off leaves it.
    let bytes = env.fs.read(&chunks(1)).unwrap();
    env.fs.remove_file(&chunks(1)).unwrap();
    env.fs.create(&chunks(1)).unwrap().append(&bytes[..bytes.len() - 1]).unwrap();
    let db = open(&env);
    let reasons: Vec<_> = db.status().quarantined.into_iter().map(|block| block.reason).collect();
    assert!(reasons.len() == 2 && reasons.iter().all(|reason| reason.contains("chunks/000001")), "{reasons:?}");
    assert_eq!(content(&db.source()), expected(4..8));
}

#[test]
fn the_owner_removes_what_was_left_unfinished_and_a_reader_does_not() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let left = dir().join(format!("{}{CREATING}", crate::block::new_ulid(&env)));
    let others = dir().join("mine.tmp-for-creation");
    env.fs.create_dir_all(&left).unwrap();
    env.fs.create_dir_all(&others).unwrap();
    let env = machine.kill();
    let reader = ReadOnlyDb::open_with(&env, dir()).unwrap();
    assert_eq!(content(&reader.source()), expected(0..1));
    assert!(env.fs.stat(&left).unwrap().is_some());
    open(&env);
    assert!(env.fs.stat(&left).unwrap().is_none());
    assert!(env.fs.stat(&others).unwrap().is_some(), "not a block's name");
}

#[test]
fn a_reader_beside_the_owner_sees_all_commits_and_changes_nothing() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    fill(&db, 8..9);
    let before = machine.image().fingerprint();
    let reader = ReadOnlyDb::open_with(&env, dir()).unwrap();
    assert_eq!(content(&reader.source()), expected(0..9));
    assert_eq!(reader.status().log_damage, []);
    assert_eq!(machine.image().fingerprint(), before);
    fill(&db, 9..10);
    assert_eq!(content(&reader.source()), expected(0..9), "the moment of opening");
}

#[test]
fn a_reader_of_nothing_says_so() {
    let (env, _machine) = machine();
    assert_eq!(ReadOnlyDb::open_with(&env, dir()).unwrap_err().kind(), ErrorKind::InvalidInput);
    env.fs.create_dir_all(dir()).unwrap();
    assert_eq!(content(&ReadOnlyDb::open_with(&env, dir()).unwrap().source()), []);
}

/// Lets blocks go when it is told to.
#[derive(Default)]
pub(super) struct Gate(pub(super) AtomicBool);

impl BlockGuard for Gate {
    fn may_drop(&self, _: &BlockMeta, _: &Path) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_block_beyond_retention_stays_until_its_guard_lets_it_go() {
    let (env, _machine) = machine();
    let gate = Arc::new(Gate::default());
    let retention = Retention { time: Some(4 * HOUR), ..Retention::default() };
    let options = Options { retention, block_guard: Some(gate.clone()), ..options() };
    let db = Db::open_with(&env, dir(), options).unwrap();
    fill(&db, 0..10);
    assert_eq!(db.maintain().unwrap().dropped, []);
    assert_eq!(blocks(&db), [(0, 2), (2, 4), (4, 6), (6, 8)]);
    assert_eq!(content(&db.source()), expected(0..10));
    let before = db.source();
    gate.0.store(true, Ordering::Relaxed);
    let dropped = db.maintain().unwrap().dropped;
    assert_eq!(dropped.len(), 2);
    let left: Vec<_> = before.blocks().iter().filter(|block| !dropped.contains(block)).copied().collect();
    assert_eq!(db.source().blocks(), left);
    assert_eq!(blocks(&db), [(4, 6), (6, 8)]);
    assert_eq!(content(&db.source()), expected(4..10));
    assert_eq!(content(&before), expected(0..10), "who looked before sees them still");
}

#[test]
fn a_block_that_another_was_made_from_is_dropped() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    // As after a merge whose process died before it removed the parents.
    let metas: Vec<BlockMeta> = db.status().blocks.into_iter().map(|block| block.meta).collect();
    let path = dir().join(metas[1].ulid.to_string());
    let mut child = metas[1].clone();
    child.compaction.parents = vec![metas[0].desc()];
    db.close().unwrap();
    child.write(env.fs.as_ref(), &path).unwrap();
    let reader = ReadOnlyDb::open_with(&env, dir()).unwrap();
    assert_eq!(content(&reader.source()), expected(2..8));
    let db = open(&env);
    assert_eq!(content(&db.source()), expected(2..8));
    assert_eq!(db.maintain().unwrap().dropped, [metas[0].ulid]);
    assert!(env.fs.stat(&dir().join(metas[0].ulid.to_string())).unwrap().is_none());
}

#[test]
fn a_block_that_names_itself_as_its_parent_stays() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    let mut meta = db.status().blocks.remove(0).meta;
    meta.compaction.parents = vec![meta.desc()];
    db.close().unwrap();
    meta.write(env.fs.as_ref(), &dir().join(meta.ulid.to_string())).unwrap();
    let db = open(&env);
    assert_eq!(content(&db.source()), expected(0..8));
    assert_eq!(db.maintain().unwrap().dropped, []);
}

#[test]
fn a_block_of_some_samples_of_its_span_does_not_take_the_others_from_the_log() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    let mut metas: Vec<BlockMeta> = db.status().blocks.into_iter().map(|block| block.meta).collect();
    db.close().unwrap();
    // It reaches over what the head alone has.
    let last = metas.last_mut().unwrap();
    last.compaction.add_hint(HINT_OUT_OF_ORDER);
    last.max_time = START + 8 * HOUR;
    last.write(env.fs.as_ref(), &dir().join(last.ulid.to_string())).unwrap();
    assert_eq!(content(&open(&env).source()), expected(0..8));
}

#[test]
fn maintenance_that_fails_is_told_and_done_the_next_time() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    machine.set_capacity(Some(machine.used() + 1000));
    assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Full);
    assert!(db.status().maintenance_error.is_some());
    assert_eq!(content(&db.source()), expected(0..8));
    machine.set_capacity(None);
    assert_eq!(db.maintain().unwrap().written.len(), 3);
    assert_eq!(db.status().maintenance_error, None);
    assert_eq!(content(&db.source()), expected(0..8));
    fill(&db, 8..9);
    assert_eq!(content(&db.source()), expected(0..9));
}

#[test]
fn a_full_disk_keeps_no_block_from_expiring() {
    let (env, machine) = machine();
    let gate = Arc::new(Gate::default());
    let retention = Retention { time: Some(4 * HOUR), ..Retention::default() };
    let options = Options { retention, block_guard: Some(gate.clone()), ..options() };
    let db = Db::open_with(&env, dir(), options).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    fill(&db, 10..12);
    assert_eq!(blocks(&db), [(0, 2), (2, 4), (4, 6), (6, 8)]);
    gate.0.store(true, Ordering::Relaxed);
    machine.set_capacity(Some(machine.used()));
    assert_eq!(db.maintain().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(blocks(&db), [(4, 6), (6, 8)]);
}

#[test]
fn on_a_full_disk_series_that_are_tried_again_are_the_same_ones() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let append = || {
        let mut appender = db.appender();
        for number in 3..50 {
            appender.append(None, &series(number), START + HOUR, 1.0).unwrap();
        }
        appender.commit()
    };
    machine.set_capacity(Some(machine.used()));
    for _ in 0..3 {
        assert_eq!(append().unwrap_err().kind(), ErrorKind::Full);
        // It can do little, and says so.
        drop(db.maintain());
    }
    assert_eq!(db.head().counts().series_created, 50);
    machine.set_capacity(None);
    append().unwrap();
    assert_eq!(content(&open(&machine.kill()).source()).len(), 50);
}

#[test]
fn deleted_samples_are_gone_from_head_and_blocks_and_stay_so() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    db.maintain().unwrap();
    let one = [Matcher::new(MatchOp::Equal, "n", "1").unwrap()];
    // From the middle of a block, over one, into the head, which begins at six.
    let range = TimeRange::new(START + HOUR, START + 7 * HOUR - 1);
    assert_eq!(db.delete(range, &one).unwrap(), 4);
    let mut expected = expected(0..8);
    expected[1].1.retain(|(t, _)| !range.contains(*t));
    assert_eq!(content(&db.source()), expected);
    assert_eq!(db.delete(TimeRange::new(0, 1), &one).unwrap(), 0);
    let env = machine.kill();
    let db = open(&env);
    assert_eq!(content(&db.source()), expected, "after a kill");
    db.flush().unwrap();
    assert_eq!(content(&db.source()), expected, "cut without them");
    let tombstones: Vec<_> = db.status().blocks.iter().map(|block| block.meta.stats.num_tombstones).collect();
    assert_eq!(tombstones, [1, 1, 1, 0]);
}

#[test]
fn an_append_only_database_refuses_deletes() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), Options { append_only: true, ..options() }).unwrap();
    let error = db.delete(TimeRange::ALL, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("append-only"), "{error}");
}

#[test]
fn after_closing_nothing_can_be_committed() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    db.close().unwrap();
    let mut appender = db.appender();
    appender.append(None, &series(0), START + 2 * HOUR, 1.0).unwrap();
    assert_eq!(appender.commit().unwrap_err().kind(), ErrorKind::NotReady);
    assert_eq!(content(&open(&env).source()), expected(0..1));
}

#[test]
fn what_metrics_cost_is_counted_over_the_head_and_all_blocks() {
    let (env, _machine) = machine();
    let db = open(&env);
    fill(&db, 0..8);
    let mut appender = db.appender();
    appender.append(None, &Labels::from_pairs([("__name__", "other")]), START + 8 * HOUR, 1.0).unwrap();
    appender.commit().unwrap();
    db.maintain().unwrap();
    let metas: Vec<BlockMeta> = db.status().blocks.into_iter().map(|block| block.meta).collect();
    assert!(metas.len() > 1);
    for _ in 0..2 {
        let usage = db.metric_usage(&Budget::unlimited()).unwrap();
        let names: Vec<&str> = usage.keys().map(String::as_str).collect();
        assert_eq!(names, ["m", "other"]);
        assert_eq!(usage["m"].series, 3 * (metas.len() as u64 + 1));
        let in_blocks: u64 = metas.iter().map(|meta| meta.stats.num_chunks).sum();
        assert_eq!(usage["m"].chunks + usage["other"].chunks, in_blocks + db.head().counts().chunks);
        // A chunk of one float: its count, and a time and a value as they are.
        assert_eq!((usage["other"].series, usage["other"].chunks), (1, 1));
        assert!((11..=20).contains(&usage["other"].bytes), "{:?}", usage["other"]);
        assert!(usage["m"].bytes > usage["m"].chunks * 20);
    }
}

#[test]
fn a_thread_does_the_maintenance_for_those_who_ask_for_it() {
    let env = Env::real();
    let path = std::env::temp_dir().join(format!("narthex-background-{:x}", env.rng.next_u64()));
    let options = Options { background: true, maintenance_interval: Duration::from_millis(1), ..options() };
    let db = Db::open_with(&env, &path, options).unwrap();
    fill(&db, 0..8);
    let bell = env.executor.waiter();
    while blocks(&db).len() < 3 {
        bell.wait(Duration::from_millis(1));
    }
    assert_eq!(content(&db.source()), expected(0..8));
    db.close().unwrap();
    env.fs.remove_dir_all(&path).unwrap();
}

/// Flips a bit of a file.
fn damage(env: &Env, path: &Path, at: usize) {
    let mut bytes = env.fs.read(path).unwrap();
    bytes[at] ^= 4;
    env.fs.remove_file(path).unwrap();
    let mut file = env.fs.create(path).unwrap();
    file.append(&bytes).unwrap();
    file.sync().unwrap();
}

#[test]
fn what_the_logs_say_of_series_that_no_record_names_is_counted() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..30);
    assert_eq!(db.status().unknown_series, 0);
    let env = machine.kill();
    // The records of the series, which the first page begins with.
    damage(&env, &dir().join("wal/00000000"), 20);
    let read = ReadOnlyDb::open_with(&env, dir()).unwrap().status();
    let status = open(&env).status();
    assert_eq!(status.log_damage.len(), 1);
    assert!(status.series == 0 && status.unknown_series > 3 * 60, "{status:?}");
    assert_eq!(read.unknown_series, status.unknown_series);
}

#[test]
fn a_snapshot_of_the_head_that_was_of_use_and_one_that_was_not_are_told() {
    let (env, machine) = machine();
    let options = || Options { snapshot_at_close: true, ..options() };
    let db = Db::open_with(&env, dir(), options()).unwrap();
    assert_eq!((db.status().snapshot, db.status().snapshot_refused), (None, None));
    fill(&db, 0..5);
    db.close().unwrap();
    let db = Db::open_with(&env, dir(), options()).unwrap();
    assert!(db.status().snapshot.is_some() && db.status().snapshot_refused.is_none(), "{:?}", db.status());
    db.close().unwrap();
    let env = machine.kill();
    let entries = env.fs.list(dir()).unwrap();
    let snapshot = entries.iter().find(|entry| entry.name.starts_with("chunk_snapshot.")).unwrap();
    damage(&env, &dir().join(&snapshot.name).join("00000000"), 20);
    let status = Db::open_with(&env, dir(), options()).map(|db| (db.status(), content(&db.source())));
    let (status, found) = status.unwrap();
    assert!(status.snapshot.is_none() && status.snapshot_refused.is_some(), "{status:?}");
    assert_eq!((found, status.log_damage), (expected(0..5), vec![]), "nothing is lost with it");
}

#[test]
fn names_and_values_are_those_of_what_lies_in_the_range_and_as_many_as_are_asked_for() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), Options { out_of_order_window: HOUR, ..options() }).unwrap();
    fill(&db, 0..10);
    db.maintain().unwrap();
    // The head has the last two hours, and of one of them something late.
    let head = TimeRange::new(START + 8 * HOUR, START + 10 * HOUR - 60_000);
    assert_eq!((db.status().min_time, db.status().max_time), (Some(head.min), Some(head.max)));
    let late = head.max - HOUR / 2 + 1;
    let mut appender = db.appender();
    appender.append(None, &series(2), late, 1.0).unwrap();
    appender.commit().unwrap();
    let budget = Budget::unlimited();
    let of_head = HeadSource::new(db.head().reader(TimeRange::ALL));
    let of_late = OutOfOrderSource::new(&of_head);
    let all: [&dyn Source; 2] = [&of_head, &db.source()];
    let at = |t: i64| TimeRange::new(t, t);
    let listed = |source: &dyn Source, range, matchers: &[Matcher], limit| {
        let mut request = SelectRequest::labels_only(range, matchers, &budget);
        request.hints.limit = limit;
        let mut set = source.select(&request).unwrap();
        let mut series = 0;
        while set.next().unwrap().is_some() {
            series += 1;
        }
        (source.label_names(&request).unwrap(), source.label_values("n", &request).unwrap(), series)
    };
    let strings = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let nothing = (Vec::new(), Vec::new(), 0);
    let everything = (strings(&["__name__", "n"]), strings(&["0", "1", "2"]), 3);
    let metric = [Matcher::equal("__name__", "m")];
    for matchers in [&[][..], &metric] {
        for source in all {
            for (range, limit, expected) in [
                (TimeRange::new(i64::MIN, START - 1), 0, &nothing),
                (TimeRange::new(head.max + 1, i64::MAX), 0, &nothing),
                (at(head.min), 0, &everything),
                (at(head.max), 0, &everything),
                (TimeRange::ALL, 0, &everything),
                (TimeRange::ALL, 1, &(strings(&["__name__"]), strings(&["0"]), 1)),
                (TimeRange::ALL, 2, &(strings(&["__name__", "n"]), strings(&["0", "1"]), 2)),
            ] {
                assert_eq!(listed(source, range, matchers, limit), *expected, "{matchers:?} {range:?} {limit}");
            }
        }
        // Blocks have what is before.
        let before = TimeRange::new(START, head.min - 1);
        assert_eq!(listed(&of_head, before, matchers, 0), nothing, "{matchers:?}");
        assert_eq!(listed(&db.source(), before, matchers, 0), everything, "{matchers:?}");
        assert_eq!(listed(&of_late, at(late), matchers, 0), (strings(&["__name__", "n"]), strings(&["2"]), 1));
        for range in [TimeRange::new(i64::MIN, late - 1), TimeRange::new(late + 1, i64::MAX)] {
            assert_eq!(listed(&of_late, range, matchers, 0), nothing, "{matchers:?} {range:?}");
        }
    }
}

#[test]
fn who_does_not_see_a_commit_of_late_samples_is_not_told_of_its_series_by_their_chunk() {
    let (env, _machine) = machine();
    let db = Db::open_with(&env, dir(), Options { out_of_order_window: 4 * HOUR, ..options() }).unwrap();
    fill(&db, 0..3);
    let source = db.source();
    let mut appender = db.appender();
    let odd = Labels::from_pairs([("__name__", "odd"), ("n", "late")]);
    // More than a buffer holds, so that chunks are made of them, and before what may be cut next, so that all are late.
    for step in 0..80 {
        appender.append(None, &odd, START + step, 1.0).unwrap();
    }
    assert_eq!(appender.commit().unwrap().out_of_order, 80);
    let list = |source: &DbSource| {
        let budget = Budget::unlimited();
        let matchers = [Matcher::equal("__name__", "odd")];
        let mut found = Vec::new();
        for labels_only in [true, false] {
            let mut request = SelectRequest::new(TimeRange::ALL, &matchers, &budget);
            request.hints.labels_only = labels_only;
            let mut set = source.select(&request).unwrap();
            while let Some(series) = set.next().unwrap() {
                found.push(series.labels.to_string());
            }
            found.extend(source.label_values("n", &request).unwrap());
        }
        found
    };
    assert_eq!(list(&source), [""; 0]);
    assert_eq!(list(&db.source()).len(), 4);
}

#[test]
fn the_owner_removes_what_prometheus_would_believe_of_the_numbers_of_series() {
    let (env, _machine) = machine();
    open(&env).close().unwrap();
    let state = dir().join("wal/series_state.json");
    let text = br#"{"last_series_id":7,"last_wal_segment":0,"clean_shutdown":true}"#;
    env.fs.create(&state).unwrap().append(text).unwrap();
    drop(ReadOnlyDb::open_with(&env, dir()).unwrap());
    assert!(env.fs.stat(&state).unwrap().is_some(), "who only reads leaves it");
    let db = open(&env);
    assert!(env.fs.stat(&state).unwrap().is_none());
    assert_eq!(db.status().log_damage, []);
}

/// Whether a sample of a series is taken, or why not.
fn taken(db: &Db, number: usize, t: i64) -> Result<(), ErrorKind> {
    let mut appender = db.appender();
    let appended = appender.append(None, &series(number), t, 1.0).map(drop).map_err(|error| error.kind());
    appender.commit().unwrap();
    appended
}

#[test]
fn a_limit_below_the_series_that_there_are_keeps_them_all_and_has_room_again_when_some_have_gone() {
    let (env, machine) = machine();
    let db = open(&env);
    fill(&db, 0..1);
    let env = machine.kill();
    let db = Db::open_with(&env, dir(), Options { max_series: Some(2), ..options() }).unwrap();
    assert_eq!((db.status().series, content(&db.source())), (3, expected(0..1)));
    let limit = Err(ErrorKind::LimitExceeded);
    assert_eq!(taken(&db, 3, START + HOUR), limit);
    for minute in 60..8 * 60 {
        assert_eq!(taken(&db, 0, START + minute * 60_000), Ok(()));
    }
    assert_eq!(taken(&db, 3, START + 8 * HOUR), limit);
    db.maintain().unwrap();
    assert_eq!(db.status().series, 1);
    assert_eq!(taken(&db, 3, START + 8 * HOUR), Ok(()));
    assert_eq!(taken(&db, 4, START + 8 * HOUR), limit);
}

#[test]
fn a_late_sample_of_a_new_series_counts_against_the_limit() {
    let (env, _machine) = machine();
    let options = Options { max_series: Some(3), out_of_order_window: 4 * HOUR, ..options() };
    let db = Db::open_with(&env, dir(), options).unwrap();
    fill(&db, 0..3);
    assert_eq!(taken(&db, 3, START), Err(ErrorKind::LimitExceeded));
    assert_eq!((db.status().series, db.status().out_of_order_series), (3, 0));
    assert_eq!(taken(&db, 2, START + 1), Ok(()));
    assert_eq!(db.status().out_of_order_series, 1);
}
