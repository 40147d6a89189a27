//! What a restart and a shortened log leave of a head: a twin that was never closed and has no log knows the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use narthex::chunk::{Encoding, samples};
use narthex::fs::Env;
use narthex::head::{FloatEncoding, Head, HeadOptions, Replayed};
use narthex::model::{
    Exemplar, FloatHistogram, Histogram, Labels, Matcher, Metadata, MetricType, Sample, Span, TimeRange, Value,
};
use narthex::wal::{Durability, LogOptions};

fn fresh_dir(name: &str) -> PathBuf {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-restart-{name}-{:016x}", env.rng.next_u64()));
    env.fs.create_dir_all(&dir).unwrap();
    dir
}

fn options() -> HeadOptions {
    HeadOptions {
        chunk_range: 1000,
        future_bound: None,
        max_exemplars: 40,
        float_encoding: FloatEncoding::Xor2,
        start_timestamps: true,
        histogram_start_timestamps: true,
        ..HeadOptions::default()
    }
}

fn open(dir: &Path, options: HeadOptions, floor: i64) -> (Arc<Head>, Replayed) {
    let log = LogOptions { segment_size: 32 << 10, durability: Durability::Never, ..LogOptions::default() };
    Head::open(&Env::real(), dir, options, log, floor).unwrap()
}

fn labels(metric: i64, n: i64) -> Labels {
    Labels::from_pairs([("__name__", format!("metric_{metric}")), ("n", n.to_string())])
}

fn exemplar(t: i64) -> Exemplar {
    Exemplar { labels: Labels::from_pairs([("trace_id", format!("{t:x}"))]), value: t as f64, t }
}

fn metadata(help: i64) -> Metadata {
    Metadata { metric_type: MetricType::Counter, unit: "things".to_owned(), help: format!("is {help}") }
}

fn histogram(n: i64) -> Histogram {
    Histogram {
        count: n.cast_unsigned(),
        sum: n as f64,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![n],
        ..Histogram::default()
    }
}

/// A round of samples at `t`, with all that goes with them.
fn append(head: &Arc<Head>, t: i64) {
    let mut appender = head.appender();
    for n in 0..20 {
        let labels = labels(n % 5, n);
        match n % 5 {
            0 => drop(appender.append_histogram_with_start(None, &labels, t - 7, t, histogram(t)).unwrap()),
            1 => {
                let value = FloatHistogram { ..histogram(t).to_float() };
                appender.append_float_histogram_with_start(None, &labels, t - 8, t, value).unwrap();
            }
            // Few counters start anew.
            _ => drop(appender.append_with_start(None, &labels, t / 500 * 500, t, t as f64).unwrap()),
        }
    }
    // One series has few, so that its are the oldest in the ring.
    let n = if t % 700 == 0 { 3 } else { t / 10 % 3 };
    appender.append_exemplar(None, &labels(n % 5, n), exemplar(t)).unwrap();
    if t % 350 == 0 {
        appender.update_metadata(None, &labels(t / 350 % 5, t / 350 % 5), metadata(t)).unwrap();
    }
    appender.commit().unwrap();
}

fn exemplars(head: &Arc<Head>) -> Vec<(Labels, Vec<Exemplar>)> {
    let all: [&[Matcher]; 1] = [&[]];
    head.reader(TimeRange::ALL).exemplars(TimeRange::ALL, &all).unwrap()
}

/// The samples from `floor` on, as text.
fn dump(head: &Arc<Head>, floor: i64) -> Vec<(Labels, Vec<String>)> {
    let reader = head.reader(TimeRange::ALL);
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    let mut all = Vec::new();
    for (id, labels) in reader.select(&[]).unwrap() {
        reader.chunks(id, &mut chunks, &mut hide);
        let loaded: Vec<_> = chunks.iter().map(|chunk| chunk.load().unwrap()).collect();
        let samples = loaded.iter().flat_map(|chunk| samples(chunk.encoding, &chunk.data));
        let samples = samples.map(Result::unwrap).filter(|sample| sample.t >= floor);
        let without_hint = |Sample { t, st, value }: Sample| match value {
            Value::Float(v) => format!("{t} {st} {v}"),
            Value::Histogram(h) => format!("{t} {st} {} {}", h.count, h.sum),
            Value::FloatHistogram(h) => format!("{t} {st} {} {}", h.count, h.sum),
        };
        all.push((labels, samples.map(without_hint).collect()));
    }
    all
}

#[test]
fn exemplars_metadata_and_start_timestamps_outlive_the_log_that_they_came_in() {
    let dir = fresh_dir("kept");
    let twin = Head::without_log(&Env::real(), options());
    let (mut head, _) = open(&dir, options(), i64::MIN);
    let mut floor = i64::MIN;
    for round in 0..6 {
        for t in (round * 3000..(round + 1) * 3000).step_by(10) {
            append(&head, t);
            append(&twin, t);
        }
        // Most of what the ring holds is in the part of the log that goes, and older than what stays.
        floor = (round + 1) * 3000 - 50;
        head.truncate(floor).unwrap();
        twin.truncate_memory(floor);
        let checkpoints = Env::real().fs.list(&dir.join("wal")).unwrap();
        assert!(round == 0 || checkpoints.iter().any(|entry| entry.name.starts_with("checkpoint.")));
        head.close().unwrap();
        drop(head);
        let replayed;
        (head, replayed) = open(&dir, options(), floor);
        assert_eq!((replayed.damage, replayed.unknown_series), (vec![], 0));
        assert_eq!(exemplars(&head), exemplars(&twin));
        assert_eq!(exemplars(&head).iter().map(|(_, all)| all.len()).sum::<usize>(), 40);
        let known = |head: &Arc<Head>| head.reader(TimeRange::ALL).metadata(None);
        assert_eq!(known(&head), known(&twin));
        assert_eq!(known(&head).len(), 5);
        assert_eq!(dump(&head, floor), dump(&twin, floor));
    }
    let found = dump(&head, floor);
    assert!(found.iter().all(|(_, samples)| samples.len() >= 5), "{found:?}");
    Env::real().fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn metadata_outlives_the_series_that_it_was_said_of_while_the_metric_has_others() {
    let dir = fresh_dir("metadata");
    let (head, _) = open(&dir, options(), i64::MIN);
    let mut appender = head.appender();
    let first = labels(1, 1);
    appender.append(None, &first, 0, 1.0).unwrap();
    appender.update_metadata(None, &first, metadata(1)).unwrap();
    appender.commit().unwrap();
    // The others of the metric say nothing new.
    for t in (10..20_000).step_by(10) {
        let mut appender = head.appender();
        for n in 2..30 {
            appender.append(None, &labels(1, n), t, t as f64).unwrap();
        }
        appender.update_metadata(None, &labels(1, 2), metadata(1)).unwrap();
        appender.commit().unwrap();
    }
    head.truncate(19_000).unwrap();
    head.collect();
    head.close().unwrap();
    drop(head);
    let (head, _) = open(&dir, options(), 19_000);
    assert_eq!(head.reader(TimeRange::ALL).metadata(Some("metric_1")), [("metric_1".to_owned(), metadata(1))]);
    Env::real().fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn start_timestamps_of_a_log_are_kept_by_a_head_that_takes_none() {
    let dir = fresh_dir("kept-by-others");
    let (head, _) = open(&dir, options(), i64::MIN);
    (1000..1900).step_by(10).for_each(|t| append(&head, t));
    head.close().unwrap();
    let before = dump(&head, 0);
    drop(head);
    let plain = HeadOptions { chunk_range: 1000, future_bound: None, ..HeadOptions::default() };
    let (head, _) = open(&dir, plain, i64::MIN);
    assert_eq!(dump(&head, 0), before);
    // What comes now has none.
    append(&head, 1900);
    let st = |line: &String| line.split(' ').nth(1).unwrap().to_owned();
    assert!(dump(&head, 1900).iter().all(|(_, samples)| samples.iter().all(|line| st(line) == "0")));
    Env::real().fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn start_timestamps_need_an_encoding_that_has_a_place_for_them() {
    let options = HeadOptions { float_encoding: FloatEncoding::Xor, ..options() };
    let error = Head::open(&Env::real(), &fresh_dir("refused"), options, LogOptions::default(), 0).unwrap_err();
    assert_eq!(error.kind(), narthex::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("XOR2"), "{error}");
}

#[test]
fn what_is_not_kept_is_dropped_at_the_door() {
    let head = Head::without_log(&Env::real(), HeadOptions { future_bound: None, ..HeadOptions::default() });
    append(&head, 1000);
    let reader = head.reader(TimeRange::ALL);
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    for (id, _) in reader.select(&[]).unwrap() {
        reader.chunks(id, &mut chunks, &mut hide);
        let encodings = [Encoding::Xor, Encoding::Histogram, Encoding::FloatHistogram];
        assert!(chunks.iter().all(|chunk| encodings.contains(&chunk.load().unwrap().encoding)));
    }
}
