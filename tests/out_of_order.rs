//! Samples that come out of order: taken within the window, found by every query, never in place of an earlier one;
//! through full buffers, cuts, restarts, kills and deletions. Compared with a map.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use narthex::block::HINT_OUT_OF_ORDER;
use narthex::budget::Budget;
use narthex::db::{Db, DbSource, Options, ReadOnlyDb};
use narthex::error::ErrorKind;
use narthex::fs::Env;
use narthex::model::{
    CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Labels, MatchOp, Matcher, Span, TimeRange, Value,
};
use narthex::query::{SelectRequest, Source, series_samples};
use narthex::testkit::jsonl::samples_line;
use narthex::testkit::{Op, OpKind, START_MS, SimHandle};
use narthex::wal::record::{RecordType, RefTombstone, decode_markers, encode_tombstones};
use narthex::wal::{Decompressor, Durability, Log, LogOptions, LogReader};
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const WINDOW: i64 = 30 * MINUTE;
const DIR: &str = "/data";

fn options() -> Options {
    Options {
        out_of_order_window: WINDOW,
        min_block_duration: 20 * MINUTE,
        future_bound: None,
        durability: Durability::Never,
        wal_segment_size: 32 << 10,
        ..Options::default()
    }
}

fn open(env: &Env) -> Db {
    Db::open_with(env, Path::new(DIR), options()).unwrap()
}

fn machine() -> (Env, SimHandle) {
    Env::simulated(3)
}

fn series(number: u8) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("n", &number.to_string())])
}

/// A sample's kind and its number.
type Point = (u8, u32);

fn histogram(number: u32, custom: bool) -> Histogram {
    Histogram {
        schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { 1 },
        count: u64::from(number),
        sum: f64::from(number),
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![i64::from(number), -i64::from(number)],
        custom_values: if custom { vec![1.0, 2.0] } else { Vec::new() },
        ..Histogram::default()
    }
}

fn point(value: &Value) -> Point {
    let kind = |base, schema| base + u8::from(schema == CUSTOM_BUCKETS_SCHEMA);
    match value {
        Value::Float(v) => (0, *v as u32),
        Value::Histogram(h) => (kind(1, h.schema), h.sum as u32),
        Value::FloatHistogram(h) => (kind(3, h.schema), h.sum as u32),
    }
}

type Content = BTreeMap<u8, BTreeMap<i64, Point>>;

fn content(source: &DbSource) -> Content {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut all = Content::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        let samples: BTreeMap<_, _> = samples.iter().map(|sample| (sample.t, point(&sample.value))).collect();
        if !samples.is_empty() {
            all.insert(series.labels.get("n").unwrap().parse().unwrap(), samples);
        }
    }
    all
}

#[derive(Debug, Clone)]
enum Step {
    /// Samples: series, how far from now, kind. Then time goes on by so much.
    Commit(Vec<(u8, i64, u8)>, i64),
    Maintain,
    Flush,
    Reopen,
    Kill,
    Delete(u8, i64, i64),
    /// Opens a reader, or looks through the one that is open.
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![4 => Just(0i64), 4 => (0..2 * WINDOW / 5000).prop_map(|n| -n * 5000)];
    // Mostly floats, or most chunks would have one sample.
    let kind = prop_oneof![8 => Just(0u8), 1 => 0..5u8];
    let sample = (0..4u8, offset, kind);
    prop_oneof![
        40 => (prop::collection::vec(sample, 1..40), prop_oneof![Just(5000i64), Just(MINUTE), Just(7 * MINUTE)])
            .prop_map(|(samples, passes)| Step::Commit(samples, passes)),
        3 => Just(Step::Maintain),
        1 => Just(Step::Flush),
        2 => Just(Step::Reopen),
        2 => Just(Step::Kill),
        2 => (0..4u8, 0..2 * WINDOW, 0..WINDOW).prop_map(|(n, ago, width)| Step::Delete(n, ago, width)),
        4 => Just(Step::Read),
    ]
}

struct World {
    machine: SimHandle,
    db: Db,
    model: Content,
    now: i64,
    /// The newest sample of all.
    newest: i64,
    number: u32,
    deleted: BTreeSet<(u8, i64)>,
    reader: Option<(DbSource, Content)>,
}

impl World {
    fn new() -> Self {
        let (env, machine) = machine();
        let db = open(&env);
        Self {
            machine,
            db,
            model: Content::new(),
            now: START_MS,
            newest: i64::MIN,
            number: 0,
            deleted: BTreeSet::new(),
            reader: None,
        }
    }

    fn commit(&mut self, samples: &[(u8, i64, u8)]) {
        let mut appender = self.db.appender();
        let mut taken: BTreeMap<(u8, i64), Point> = BTreeMap::new();
        let oldest = self.newest.saturating_sub(WINDOW);
        for &(n, offset, kind) in samples {
            let t = self.now + offset;
            if taken.contains_key(&(n, t)) {
                continue;
            }
            self.number += 1;
            let (labels, number) = (series(n), self.number);
            let appended = match kind {
                0 => appender.append(None, &labels, t, f64::from(number)),
                1 | 2 => appender.append_histogram(None, &labels, t, histogram(number, kind == 2)),
                _ => {
                    let histogram: FloatHistogram = histogram(number, kind == 4).to_float();
                    appender.append_float_histogram(None, &labels, t, histogram)
                }
            };
            match appended {
                Ok(_) => drop(taken.insert((n, t), (kind, number))),
                Err(error) => match error.kind() {
                    // A head that was flushed counts from the millisecond after its newest sample.
                    ErrorKind::TooOld => assert!(t <= oldest || self.newest == i64::MIN, "{error}"),
                    ErrorKind::Duplicate => {
                        // The newest sample of a series keeps its time when it is deleted.
                        let was_there = self.model.get(&n).is_some_and(|samples| samples.contains_key(&t));
                        assert!(was_there || self.deleted.contains(&(n, t)), "{error}");
                    }
                    kind => panic!("{kind:?}: {error}"),
                },
            }
        }
        let committed = appender.commit().unwrap();
        assert!(committed.appended + committed.same + committed.lost <= taken.len() as u64);
        assert!(committed.out_of_order <= committed.appended);
        let mut lost = committed.lost;
        for ((n, t), point) in taken {
            self.newest = self.newest.max(t);
            let samples = self.model.entry(n).or_default();
            match samples.entry(t) {
                // Refused now, or at every query.
                Entry::Occupied(_) => lost = lost.saturating_sub(1),
                Entry::Vacant(entry) => {
                    entry.insert(point);
                }
            }
        }
        assert_eq!(lost, 0, "{committed:?}");
    }

    fn restart(&mut self, env: &Env) {
        self.reader = None;
        self.db = open(env);
        assert!(self.db.status().log_damage.is_empty());
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Commit(samples, passes) => {
                self.commit(samples);
                self.now += passes;
            }
            Step::Maintain => drop(self.db.maintain().unwrap()),
            Step::Flush => {
                self.db.flush().unwrap();
                if self.reader.is_none() {
                    self.db.maintain().unwrap();
                    assert_eq!(self.db.status().out_of_order_series, 0);
                }
            }
            Step::Reopen => {
                self.reader = None;
                self.db.close().unwrap();
                let env = self.db.env().clone();
                self.restart(&env);
            }
            Step::Kill => {
                let env = self.machine.kill();
                self.restart(&env);
            }
            Step::Delete(n, ago, width) => {
                self.reader = None;
                let range = TimeRange::new(self.now - ago, self.now - ago + width);
                let matcher = Matcher::new(MatchOp::Equal, "n", n.to_string()).unwrap();
                self.db.delete(range, &[matcher]).unwrap();
                if let Some(samples) = self.model.get_mut(n) {
                    self.deleted.extend(samples.keys().filter(|t| range.contains(**t)).map(|t| (*n, *t)));
                    samples.retain(|t, _| !range.contains(*t));
                }
            }
            Step::Read => match self.reader.take() {
                Some((source, before)) => assert_eq!(content(&source), before, "a view changed"),
                None => {
                    let source = self.db.source();
                    let now = content(&source);
                    self.reader = Some((source, now));
                }
            },
        }
    }

    fn check(&self, after: &Step) {
        let mut model = self.model.clone();
        model.retain(|_, samples| !samples.is_empty());
        let found = content(&self.db.source());
        for n in 0..4 {
            assert_eq!(found.get(&n), model.get(&n), "series {n} after {after:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_database_with_a_window_answers_as_a_map_where_the_first_write_wins(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.check(step);
        }
    }
}

fn append(db: &Db, n: u8, times: impl IntoIterator<Item = i64>, value: f64) -> u64 {
    let mut appender = db.appender();
    for t in times {
        appender.append(None, &series(n), t, value).unwrap();
    }
    appender.commit().unwrap().out_of_order
}

fn values(db: &Db, n: u8) -> Vec<(i64, u32)> {
    let samples = content(&db.source()).remove(&n).unwrap_or_default();
    samples.into_iter().map(|(t, (_, v))| (t - START_MS, v)).collect()
}

#[test]
fn what_is_older_than_the_window_is_refused_as_too_old_and_nothing_else_is() {
    let (env, _machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS], 1.0);
    let mut appender = db.appender();
    let error = appender.append(None, &series(0), START_MS - WINDOW - 1, 2.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooOld);
    appender.append(None, &series(0), START_MS - WINDOW, 2.0).unwrap();
    let committed = appender.commit().unwrap();
    assert_eq!((committed.appended, committed.out_of_order), (1, 1));
}

#[test]
fn another_value_for_a_time_is_refused_and_the_same_changes_nothing() {
    let (env, _machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS, START_MS + 1000], 1.0);
    append(&db, 0, [START_MS - 1000], 1.0);
    for t in [START_MS, START_MS - 1000] {
        let mut appender = db.appender();
        assert_eq!(appender.append(None, &series(0), t, 2.0).unwrap_err().kind(), ErrorKind::Duplicate);
        appender.append(None, &series(0), t, 1.0).unwrap();
        assert_eq!(appender.commit().unwrap().appended, 0);
    }
}

#[test]
fn a_sample_that_was_cut_into_a_block_stays_whatever_comes_late() {
    let (env, _machine) = machine();
    let db = open(&env);
    append(&db, 0, (0..10).map(|n| START_MS + n * MINUTE), 1.0);
    append(&db, 0, [START_MS + 30_000], 2.0);
    db.flush().unwrap();
    assert_eq!(append(&db, 0, [START_MS + 30_000, START_MS + MINUTE, START_MS + 31_000], 3.0), 3);
    let found = values(&db, 0);
    assert_eq!(found[..4], [(0, 1), (30_000, 2), (31_000, 3), (60_000, 1)]);
    db.flush().unwrap();
    assert_eq!(values(&db, 0), found);
}

#[test]
fn blocks_of_what_came_late_say_so_and_do_not_move_the_log_s_beginning() {
    let (env, machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS], 1.0);
    append(&db, 1, [START_MS + 1000], 1.0);
    append(&db, 0, [START_MS - 25 * MINUTE, START_MS - 1000], 2.0);
    db.flush().unwrap();
    let blocks = db.status().blocks;
    let hinted: Vec<_> = blocks.iter().filter(|block| block.meta.compaction.has_hint(HINT_OUT_OF_ORDER)).collect();
    assert_eq!(hinted.len(), 2);
    for block in hinted {
        assert_eq!((block.meta.min_time % (20 * MINUTE), block.meta.max_time - block.meta.min_time), (0, 20 * MINUTE));
        let parents = &block.meta.compaction.parents;
        assert_eq!(parents.iter().map(|parent| parent.ulid.to_string()).collect::<Vec<_>>(), ["0".repeat(26)]);
    }
    append(&db, 0, [START_MS + 2000], 3.0);
    append(&db, 1, [START_MS + 3000], 3.0);
    drop(db);
    let db = open(&machine.kill());
    assert_eq!(values(&db, 0), [(-25 * MINUTE, 2), (-1000, 2), (0, 1), (2000, 3)]);
    assert_eq!(values(&db, 1), [(1000, 1), (3000, 3)]);
}

#[test]
fn what_came_late_is_read_when_the_window_is_closed_again_and_goes_with_the_next_cut() {
    let (env, _machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS], 1.0);
    append(&db, 0, (1..100).map(|n| START_MS - n * 1000), 2.0);
    db.close().unwrap();
    let closed = Options { out_of_order_window: 0, ..options() };
    let db = Db::open_with(&env, Path::new(DIR), closed).unwrap();
    assert_eq!(values(&db, 0).len(), 100);
    let mut appender = db.appender();
    assert_eq!(appender.append(None, &series(0), START_MS - 1, 2.0).unwrap_err().kind(), ErrorKind::OutOfOrder);
    drop(appender);
    db.flush().unwrap();
    assert_eq!((values(&db, 0).len(), db.status().out_of_order_series), (100, 0));
}

#[test]
fn an_append_only_database_has_no_window() {
    let (env, _machine) = machine();
    let options = Options { append_only: true, ..options() };
    assert_eq!(Db::open_with(&env, Path::new(DIR), options).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_comes_after_a_deletion_is_not_deleted_by_it() {
    let (env, machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS], 1.0);
    append(&db, 0, (1..50).map(|n| START_MS - n * 1000), 2.0);
    db.delete(TimeRange::new(START_MS - 100_000, START_MS - 1), &[]).unwrap();
    assert_eq!(values(&db, 0), [(0, 1)]);
    append(&db, 0, [START_MS - 5000], 3.0);
    let expected = [(-5000, 3), (0, 1)];
    assert_eq!(values(&db, 0), expected);
    drop(db);
    let db = open(&machine.kill());
    assert_eq!(values(&db, 0), expected);
    db.flush().unwrap();
    assert_eq!(values(&db, 0), expected);
}

#[test]
fn samples_of_one_commit_that_are_out_of_order_among_themselves_are_all_there() {
    let (env, machine) = machine();
    let db = open(&env);
    assert_eq!(append(&db, 0, [5, 3, 4, 1, 2].map(|n| START_MS + n * 1000), 1.0), 4);
    assert_eq!(values(&db, 0).len(), 5);
    drop(db);
    assert_eq!(values(&open(&machine.kill()), 0).len(), 5);
}

#[test]
fn a_log_of_late_samples_that_has_ended_is_given_no_more_chunks() {
    let (env, machine) = machine();
    let db = Db::open_with(&env, Path::new(DIR), Options { durability: Durability::Sync, ..options() }).unwrap();
    append(&db, 0, [START_MS + 20 * MINUTE], 1.0);
    assert_eq!(append(&db, 0, (0..32).map(|n| START_MS + n), 2.0), 32, "the buffer is full");
    machine.fail_when(|op| (op.kind == OpKind::Sync && op.path.contains("/wbl/")).then_some(std::io::ErrorKind::Other));
    let commit = || {
        let mut appender = db.appender();
        appender.append(None, &series(0), START_MS + 32, 2.0).unwrap();
        appender.commit()
    };
    let is_chunk = |op: &&Op| op.kind == OpKind::Append && op.path.contains("/chunks_head/");
    let chunks = || machine.log().iter().filter(is_chunk).count();
    commit().unwrap_err();
    machine.heal();
    let before = chunks();
    assert!(before > 0);
    (0..3).for_each(|_| drop(commit().unwrap_err()));
    assert_eq!(chunks(), before);
}

/// Prometheus says in its log once what is deleted of a series, in order or not.
fn delete_as_prometheus_does(env: &Env, range: TimeRange) {
    let wal = Log::open(env, &Path::new(DIR).join("wal"), LogOptions::default()).unwrap();
    let mut record = Vec::new();
    encode_tombstones([RefTombstone { reference: 1, range }], &mut record);
    wal.commit(&[&record]).unwrap();
    wal.close().unwrap();
}

#[test]
fn what_prometheus_deleted_is_deleted_of_late_samples_too() {
    let (env, machine) = machine();
    let db = open(&env);
    append(&db, 0, [START_MS - 10_000, START_MS], 1.0);
    append(&db, 0, [START_MS - 6000, START_MS - 4000], 2.0);
    drop(db);
    let env = machine.kill();
    delete_as_prometheus_does(&env, TimeRange::new(START_MS - 5000, START_MS - 1));
    assert_eq!(values(&open(&env), 0), [(-10_000, 1), (-6000, 2), (0, 1)]);
}

/// Its log keeps the deletion as long as the segment; the server, and one that starts again, have forgotten it.
#[test]
fn what_prometheus_deleted_before_the_time_of_a_block_is_not_deleted_of_late_samples() {
    let (env, machine) = machine();
    let db = open(&env);
    append(&db, 0, (0..10).map(|n| START_MS + n * MINUTE), 1.0);
    db.flush().unwrap();
    append(&db, 0, [START_MS + 30_000], 2.0);
    drop(db);
    let env = machine.kill();
    delete_as_prometheus_does(&env, TimeRange::new(START_MS + 1000, START_MS + 59_000));
    assert_eq!(values(&open(&env), 0)[..3], [(0, 1), (30_000, 2), (60_000, 1)]);
}

/// A directory of ours with everything in it, for Prometheus to read.
fn fill_for_prometheus(db: &Db) {
    let custom = |number| histogram(number, true);
    for minute in 0..45 {
        let t = START_MS + minute * MINUTE;
        append(db, 0, [t], 1.0);
        append(db, 1, [t + 1], 1.0);
        if minute > 20 {
            // Full buffers, of one kind and of several.
            append(db, 0, (1..9).map(|n| t - 19 * MINUTE - n * 5000), 2.0);
            let mut appender = db.appender();
            let number = minute.unsigned_abs() as u32 * 10;
            for n in 1..4 {
                appender.append_histogram(None, &series(2), t - n * 7000, histogram(number, false)).unwrap();
                appender.append_histogram(None, &series(3), t - n * 7000, custom(number + 1)).unwrap();
                let float = histogram(number + 2, false).to_float();
                appender.append_float_histogram(None, &series(4), t - n * 7000, float).unwrap();
                appender.append(None, &series(5), t - n * 7000, f64::from(number)).unwrap();
            }
            appender.commit().unwrap();
        }
        if minute == 35 {
            db.maintain().unwrap();
        }
    }
    let zero = Matcher::new(MatchOp::Equal, "n", "0").unwrap();
    let range = TimeRange::new(START_MS + 20 * MINUTE, START_MS + 22 * MINUTE);
    db.delete(range, &[zero]).unwrap();
}

/// Asserts that Prometheus reads the same series from `dir`, which nobody has open, as we do.
fn assert_prometheus_reads(dir: &Path, series: usize) {
    let reference = std::env::var("NARTHEX_REFERENCE").unwrap();
    let db = Db::open_read_only(dir).unwrap();
    let budget = Budget::unlimited();
    let source = db.source();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut ours = Vec::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        let mut line = String::new();
        samples_line(&mut line, &series.labels, samples.into_iter().map(Ok::<_, ()>)).unwrap();
        ours.push(line.trim_end().to_owned());
    }
    let output = std::process::Command::new(reference).arg("dump").arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Which histogram knows the one before it depends on where chunks end.
    let plain = |line: &str| line.replace("\"not_reset\"", "\"unknown\"");
    let theirs: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(plain).collect();
    let ours: Vec<String> = ours.iter().map(|line| plain(line)).collect();
    assert!(ours.len() == theirs.len() && ours.len() == series, "{} and {} series", ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
        let part = |line: &str| line.chars().skip(at.saturating_sub(80)).take(300).collect::<String>();
        assert!(ours == theirs, "at {at}:\n{}\n{}", part(ours), part(theirs));
    }
}

/// Fills some buffers of two series, then takes away the second half of the chunks that they became.
fn lose_late_chunks(env: &Env, dir: &Path) {
    let db = Db::open_with(env, dir, options()).unwrap();
    for minute in 0..40 {
        let t = START_MS + minute * MINUTE;
        append(&db, 0, [t], 1.0);
        append(&db, 1, [t], 1.0);
        append(&db, 0, (1..9).map(|n| t - 19 * MINUTE - n * 5000), 2.0);
        append(&db, 1, (1..9).map(|n| t - 19 * MINUTE - n * 5000), 2.0);
    }
    // Killed, not closed.
    drop(db);
    let file = dir.join("chunks_head/000001");
    let len = env.fs.stat(&file).unwrap().unwrap().len;
    env.fs.open_append(&file).unwrap().set_len(len / 2).unwrap();
}

/// The log of what came late: its markers' chunks, and its other records.
fn late_records(env: &Env, dir: &Path) -> (Vec<u64>, Vec<Vec<u8>>) {
    let mut reader = LogReader::open(&env.fs, &dir.join("wbl")).unwrap();
    let (mut decompressor, mut record) = (Decompressor::default(), Vec::new());
    let (mut markers, mut others) = (Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut record).unwrap().is_some() {
        match RecordType::of(&record) {
            Some(RecordType::MmapMarkers) => decode_markers(&record, &mut markers).unwrap(),
            _ => others.push(record.clone()),
        }
    }
    assert_eq!(reader.finish(), []);
    (markers.into_iter().map(|marker| marker.chunk).collect(), others)
}

#[test]
fn markers_of_chunks_that_are_lost_leave_the_log_and_nothing_else_does() {
    let (env, machine) = machine();
    let dir = Path::new(DIR);
    lose_late_chunks(&env, dir);
    let env = machine.kill();
    let before = content(&ReadOnlyDb::open_with(&env, dir).unwrap().source());
    let (markers, others) = late_records(&env, dir);
    let db = open(&env);
    assert_eq!(content(&db.source()), before);
    // The file ends with the last whole chunk now.
    let end = 1 << 32 | env.fs.stat(&dir.join("chunks_head/000001")).unwrap().unwrap().len;
    let there: Vec<u64> = markers.iter().copied().filter(|chunk| *chunk < end).collect();
    assert!(there.len() > 3 && markers.len() > there.len() + 3);
    assert_eq!(late_records(&env, dir), (there.clone(), others));
    assert_eq!(append(&db, 0, [START_MS + 30 * MINUTE + 1], 3.0), 1);
    let before = content(&db.source());
    db.close().unwrap();
    drop(db);
    let env = machine.kill();
    assert_eq!(content(&open(&env).source()), before);
    assert!(late_records(&env, dir).0.starts_with(&there));
}

#[test]
#[ignore = "needs Prometheus's tsdb: NARTHEX_REFERENCE is a program that dumps a directory"]
fn prometheus_reads_late_samples_whose_chunks_were_lost_before_we_opened() {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-lost-{}", std::process::id()));
    lose_late_chunks(&env, &dir);
    // Writes chunks behind those that were lost.
    Db::open_with(&env, &dir, options()).unwrap().close().unwrap();
    assert!(env.fs.stat(&dir.join("chunks_head/000002")).unwrap().is_some());
    assert_prometheus_reads(&dir, 2);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
#[ignore = "needs Prometheus's tsdb: NARTHEX_REFERENCE is a program that dumps a directory"]
fn prometheus_reads_what_came_late() {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-late-{}", std::process::id()));
    let db = Db::open_with(&env, &dir, options()).unwrap();
    fill_for_prometheus(&db);
    let hinted = |block: &&narthex::db::BlockStatus| block.meta.compaction.has_hint(HINT_OUT_OF_ORDER);
    let status = db.status();
    assert!(status.blocks.iter().any(|block| hinted(&block)) && status.out_of_order_series > 4);
    assert!(env.fs.list(&dir.join("chunks_head")).unwrap().iter().any(|entry| !entry.is_dir));
    db.close().unwrap();
    drop(db);
    assert_prometheus_reads(&dir, 6);
    env.fs.remove_dir_all(&dir).unwrap();
}
