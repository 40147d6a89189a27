//! The head against a map of maps, and against itself from several threads.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use narthex::chunk::samples;
use narthex::error::ErrorKind;
use narthex::fs::Env;
use narthex::head::{Appender, Committed, Head, HeadOptions, HeadReader, SeriesRef};
use narthex::model::{Labels, Matcher, TimeRange, Value};
use narthex::wal::record::Record;
use narthex::wal::{Decompressor, LogOptions, LogReader};
use proptest::prelude::*;

/// A directory of its own for a test, removed at its end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let env = Env::real();
        let path = std::env::temp_dir().join(format!("narthex-{name}-{:016x}", env.rng.next_u64()));
        env.fs.create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

fn labels(n: u32) -> Labels {
    Labels::from_pairs([
        ("__name__", "m"),
        ("n", &n.to_string()),
        ("parity", if n.is_multiple_of(2) { "even" } else { "odd" }),
    ])
}

fn options() -> HeadOptions {
    // The window that limits how old a sample may be is as good as endless: the floor alone does.
    HeadOptions { future_bound: None, chunk_range: 1 << 40, ..HeadOptions::default() }
}

fn open(dir: &TempDir, floor: i64) -> Arc<Head> {
    let log = LogOptions { segment_size: 32 << 10, ..LogOptions::default() };
    let (head, replayed) = Head::open(&Env::real(), &dir.0, options(), log, floor).unwrap();
    assert_eq!((replayed.damage, replayed.unknown_series), (vec![], 0));
    head
}

type Content = BTreeMap<Labels, BTreeMap<i64, u64>>;

/// What a reader sees of the series that pass `matchers`.
fn content(reader: &HeadReader, matchers: &[Matcher]) -> Content {
    let mut all = Content::new();
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    let mut last = None;
    for (id, labels) in reader.select(matchers).unwrap() {
        assert!(last < Some(labels.clone()), "series come in label order, each once");
        last = Some(labels.clone());
        reader.chunks(id, &mut chunks, &mut hide);
        let mut series = BTreeMap::new();
        let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.load().unwrap()).collect();
        for sample in chunks.iter().flat_map(|chunk| samples(chunk.encoding, &chunk.data)) {
            let sample = sample.unwrap();
            let Value::Float(value) = sample.value else { panic!("floats alone were appended") };
            if reader.range().contains(sample.t) && !hide.iter().any(|range| range.contains(sample.t)) {
                assert_eq!(series.insert(sample.t, value.to_bits()), None, "each time once");
            }
        }
        if !series.is_empty() {
            all.insert(labels, series);
        }
    }
    all
}

#[derive(Debug, Clone)]
enum Step {
    Append { series: u32, t: i64, value: u8, by_reference: bool },
    Commit,
    Rollback,
    Delete { series: u32, from: i64, len: i64 },
    Truncate(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (0..6_u32, 0..60_i64, 0..2_u8, any::<bool>())
        .prop_map(|(series, t, value, by_reference)| Step::Append { series, t, value, by_reference });
    prop_oneof![
        30 => append,
        6 => Just(Step::Commit),
        2 => Just(Step::Rollback),
        1 => (0..6_u32, 0..60_i64, 0..20_i64).prop_map(|(series, from, len)| Step::Delete { series, from, len }),
        1 => (0..50_i64).prop_map(Step::Truncate),
        1 => Just(Step::Restart),
    ]
}

/// What the head should hold.
#[derive(Default)]
struct Model {
    floor: Option<i64>,
    /// The newest sample of each series, even if it is deleted or truncated.
    newest: BTreeMap<u32, (i64, u64)>,
    content: Content,
    pending: Vec<(u32, i64, u64)>,
}

impl Model {
    fn check(&self, series: u32, t: i64, value: u64) -> Result<(), ErrorKind> {
        if self.floor.is_some_and(|floor| t < floor) {
            return Err(ErrorKind::TooOld);
        }
        match self.newest.get(&series) {
            Some((newest, _)) if t < *newest => Err(ErrorKind::OutOfOrder),
            Some((newest, last)) if t == *newest && value != *last => Err(ErrorKind::Duplicate),
            _ => Ok(()),
        }
    }

    fn commit(&mut self) -> Committed {
        let mut committed = Committed::default();
        for (series, t, value) in std::mem::take(&mut self.pending) {
            let newest = self.newest.get(&series).copied();
            if self.floor.is_some_and(|floor| t < floor) || newest.is_some_and(|(newest, _)| t < newest) {
                committed.lost += 1;
            } else if let Some((_, last)) = newest.filter(|(newest, _)| *newest == t) {
                if last == value { committed.same += 1 } else { committed.lost += 1 }
            } else {
                committed.appended += 1;
                self.newest.insert(series, (t, value));
                self.content.entry(labels(series)).or_default().insert(t, value);
            }
        }
        committed
    }

    fn retain(&mut self, keep: impl Fn(&Labels, i64) -> bool) {
        for (labels, samples) in &mut self.content {
            samples.retain(|t, _| keep(labels, *t));
        }
        self.content.retain(|_, samples| !samples.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn the_head_answers_as_a_map_does(steps in prop::collection::vec(step(), 0..120)) {
        let dir = TempDir::new("model");
        let mut head = open(&dir, i64::MIN);
        let mut references: BTreeMap<u32, SeriesRef> = BTreeMap::new();
        let mut appender: Option<Appender> = None;
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Append { series, t, value, by_reference } => {
                    let appender = appender.get_or_insert_with(|| head.appender());
                    let reference = references.get(&series).copied().filter(|_| by_reference);
                    let value = f64::from(value);
                    let got = appender.append(reference, &labels(series), t, value).map_err(|error| error.kind());
                    prop_assert_eq!(got.map(|_| ()), model.check(series, t, value.to_bits()));
                    if let Ok(reference) = got {
                        references.insert(series, reference);
                        // The same as the newest is not even kept until the commit.
                        if model.newest.get(&series).is_none_or(|(newest, _)| *newest < t) {
                            model.pending.push((series, t, value.to_bits()));
                        }
                    }
                }
                Step::Commit => {
                    let committed = appender.take().map_or_else(Committed::default, |it| it.commit().unwrap());
                    prop_assert_eq!(committed, model.commit());
                }
                Step::Rollback => {
                    if let Some(appender) = appender.take() {
                        appender.rollback();
                    }
                    model.pending.clear();
                }
                Step::Delete { series, from, len } => {
                    let range = TimeRange::new(from, from + len);
                    let newest = model.newest.get(&series).map_or(i64::MIN, |(newest, _)| *newest);
                    head.delete(range, &[Matcher::equal("n", series.to_string())]).unwrap();
                    let deleted = labels(series);
                    model.retain(|labels, t| *labels != deleted || !range.contains(t) || t > newest);
                }
                Step::Truncate(t) => {
                    // An appender learns where the floor is when it is made.
                    drop(appender.take());
                    model.pending.clear();
                    head.truncate(t).unwrap();
                    let floor = model.floor.map_or(t, |floor| floor.max(t));
                    model.floor = Some(floor);
                    model.retain(|_, t| t >= floor);
                    model.newest.retain(|_, (newest, _)| *newest >= floor);
                }
                Step::Restart => {
                    drop(appender.take());
                    model.pending.clear();
                    references.clear();
                    drop(head);
                    head = open(&dir, model.floor.unwrap_or(i64::MIN));
                }
            }
            prop_assert_eq!(&content(&head.reader(TimeRange::ALL), &[]), &model.content);
        }
        let even: Content = model.content.into_iter().filter(|(labels, _)| labels.get("parity") == Some("even")).collect();
        prop_assert_eq!(content(&head.reader(TimeRange::ALL), &[Matcher::equal("parity", "even")]), even);
    }
}

/// Four writers; each commit gives each of the writer's series, and one that all share, its number as time and value.
#[test]
fn no_query_ever_sees_half_a_commit() {
    const WRITERS: u32 = 4;
    const SERIES: u32 = 40;
    const COMMITS: i64 = 150;
    let head = Head::without_log(&Env::real(), options());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (head, done) = (&head, &done);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    for commit in 0..COMMITS {
                        let mut appender = head.appender();
                        for series in 0..SERIES {
                            appender.append(None, &labels(writer * 1000 + series), commit, commit as f64).unwrap();
                        }
                        // Whoever comes first; the others lose this one sample.
                        let _ = appender.append(None, &labels(9999), commit, commit as f64);
                        appender.commit().unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(move || {
                let mut before = vec![-1; WRITERS as usize];
                while !done.load(Ordering::Relaxed) {
                    let seen = content(&head.reader(TimeRange::ALL), &[]);
                    for writer in 0..WRITERS {
                        let newest = |n| seen.get(&labels(n)).and_then(|s| Some(*s.last_key_value()?.0)).unwrap_or(-1);
                        let first = newest(writer * 1000);
                        let all: BTreeSet<i64> = (0..SERIES).map(|series| newest(writer * 1000 + series)).collect();
                        assert_eq!(all, BTreeSet::from([first]), "of writer {writer}");
                        assert!(first >= before[writer as usize], "what was seen once is seen again");
                        before[writer as usize] = first;
                    }
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let seen = content(&head.reader(TimeRange::ALL), &[]);
    assert_eq!(seen.len() as u32, WRITERS * SERIES + 1);
    assert!(seen.values().all(|samples| samples.len() as i64 == COMMITS));
}

#[test]
fn appenders_that_race_to_create_a_series_make_one_and_its_record_stands_before_its_samples() {
    const WRITERS: i64 = 4;
    let dir = TempDir::new("race");
    let head = open(&dir, i64::MIN);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let head = &head;
            scope.spawn(move || {
                for n in 0..300 {
                    let mut appender = head.appender();
                    for series in n..n + 3 {
                        // Times of its own, so that there is a sample of each writer that comes in time.
                        let _ = appender.append(None, &labels(series), i64::from(n) * WRITERS + writer, 1.0);
                    }
                    appender.commit().unwrap();
                }
            });
        }
    });
    assert_eq!(head.series_count(), 302);
    let before = content(&head.reader(TimeRange::ALL), &[]);
    head.close().unwrap();

    let mut reader = LogReader::open(&Env::real().fs, &dir.0.join("wal")).unwrap();
    let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
    let (mut known, mut sets) = (BTreeSet::new(), BTreeSet::new());
    while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
        match Record::decode(&bytes).unwrap() {
            Record::Series(series) => {
                for (reference, labels) in series {
                    assert!(known.insert(reference), "{reference} twice");
                    assert!(sets.insert(labels.clone()), "{labels} twice");
                }
            }
            Record::Samples(samples) => {
                assert!(samples.iter().all(|sample| known.contains(&sample.reference)), "a sample before its series");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sets.len(), 302);
    assert_eq!(content(&open(&dir, i64::MIN).reader(TimeRange::ALL), &[]), before);
}

#[test]
fn churn_gives_everything_back() {
    let dir = TempDir::new("churn");
    let head = open(&dir, i64::MIN);
    let mut bytes = Vec::new();
    for round in 0..100_i64 {
        let mut appender = head.appender();
        for n in 0..200_u32 {
            let pod = format!("pod-{round:03}-{n:03}");
            let labels = Labels::from_pairs([("__name__", "m"), ("pod", &pod), ("job", "churn")]);
            appender.append(None, &labels, round * 1000, 1.0).unwrap();
        }
        appender.commit().unwrap();
        head.truncate(round * 1000).unwrap();
        bytes.push(head.stats().bytes);
    }
    assert_eq!(head.series_count(), 200);
    // Two rounds are in memory at a time, once the first one is over. How full the hash tables' shards are is chance:
    // a fiftieth. What a round leaves behind would be there a hundred times.
    let most = bytes[1..10].iter().max().unwrap();
    assert!(bytes.iter().all(|bytes| *bytes <= most + most / 50), "{bytes:?}");
}

#[test]
fn a_reader_goes_on_seeing_what_is_truncated_and_its_slots_are_not_used_again() {
    let head = Head::without_log(&Env::real(), options());
    let append = |n, t| {
        let mut appender = head.appender();
        appender.append(None, &labels(n), t, f64::from(n)).unwrap();
        appender.commit().unwrap();
    };
    (0..100).for_each(|n| append(n, 1000));
    let reader = head.reader(TimeRange::ALL);
    let before = content(&reader, &[]);
    head.truncate(2000).unwrap();
    (200..300).for_each(|n| append(n, 3000));
    assert_eq!(content(&reader, &[]), before);
    assert_eq!(content(&head.reader(TimeRange::ALL), &[]).len(), 100);
    drop(reader);
    assert_eq!(head.collect().series, 100);
    assert_eq!(head.series_count(), 100);
}

#[test]
fn a_sample_that_waits_for_its_commit_keeps_its_series() {
    let head = Head::without_log(&Env::real(), options());
    let mut appender = head.appender();
    let reference = appender.append(None, &labels(1), 1000, 1.0).unwrap();
    appender.append(None, &labels(2), 1000, 1.0).unwrap();
    appender.commit().unwrap();
    let mut before = head.appender();
    before.append(Some(reference), &labels(1), 5000, 5.0).unwrap();
    assert_eq!(head.truncate(2000).unwrap().series, 0);
    let mut after = head.appender();
    after.append(Some(reference), &labels(1), 4000, 4.0).unwrap();
    assert_eq!(after.commit().unwrap().appended, 1);
    assert_eq!(before.commit().unwrap().appended, 1);
    assert_eq!(head.collect().series, 1, "the other one has nothing any more");
    let expected = BTreeMap::from([(4000, 4.0_f64.to_bits()), (5000, 5.0_f64.to_bits())]);
    assert_eq!(content(&head.reader(TimeRange::ALL), &[]), BTreeMap::from([(labels(1), expected)]));
    // A reference to a series that is gone falls back on the labels.
    head.truncate(9000).unwrap();
    assert_eq!(head.series_count(), 0);
    let mut appender = head.appender();
    appender.append(None, &labels(7), 9000, 7.0).unwrap();
    assert_ne!(appender.append(Some(reference), &labels(1), 9000, 1.0).unwrap(), reference);
    appender.commit().unwrap();
    assert_eq!(content(&head.reader(TimeRange::ALL), &[]).keys().cloned().collect::<Vec<_>>(), [labels(1), labels(7)]);
}

/// The series' first record is never followed by a sample and its second one is; both mean the same series.
#[test]
fn samples_under_a_series_second_number_outlive_the_checkpoints() {
    let dir = TempDir::new("second");
    let head = open(&dir, i64::MIN);
    head.appender().append(None, &labels(1), 0, 0.0).unwrap();
    assert_eq!(head.truncate(0).unwrap().series, 1);
    let mut appender = head.appender();
    appender.append(None, &labels(1), 41, 1.0).unwrap();
    appender.commit().unwrap();
    drop(head);
    for t in 0..6 {
        let head = open(&dir, t);
        head.truncate(t + 1).unwrap();
        assert_eq!(content(&head.reader(TimeRange::ALL), &[])[&labels(1)].len(), 1, "after {t}");
    }
}
