//! What an earlier version wrote, this one reads: directories are kept as each version left them, with what was in them.
//!
//! `testdata/own/VERSION/data` was copied while its database was open, as a crash would leave it: blocks (one of them
//! with deletions, one of out-of-order samples), both logs, and chunks of the head; `closed` is the same after a close
//! with a snapshot. A new format gets a new directory; the old ones stay as they are.
//! `NARTHEX_WRITE_FIXTURE=testdata/own/VERSION cargo test --test old_formats` writes one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use narthex::budget::Budget;
use narthex::db::{Db, Options};
use narthex::fs::{Env, Fs};
use narthex::head::FloatEncoding;
use narthex::model::{
    CounterResetHint, Exemplar, FloatHistogram, Histogram, Labels, Matcher, Metadata, MetricType, STALE_NAN_BITS, Span,
    TimeRange,
};
use narthex::query::{SelectRequest, Source, series_samples};
use narthex::testkit::jsonl::samples_line;
use narthex::wal::Durability;

const HOUR: i64 = 3_600_000;
/// A multiple of two hours.
const START: i64 = 1_750_003_200_000;

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/own")
}

fn options() -> Options {
    Options {
        future_bound: None,
        durability: Durability::Never,
        out_of_order_window: 30 * 60_000,
        float_encoding: FloatEncoding::Xor2,
        start_timestamps: true,
        histogram_start_timestamps: true,
        ..Options::default()
    }
}

fn series(name: &str, n: i64) -> Labels {
    Labels::from_pairs([("__name__", name), ("n", &n.to_string()), ("ort", "Köln")])
}

fn histogram(count: u64) -> Histogram {
    Histogram {
        schema: 1,
        zero_threshold: 0.001,
        zero_count: count,
        count: 4 * count,
        sum: 2.5 * count as f64,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![count as i64, count as i64],
        ..Histogram::default()
    }
}

fn custom(count: f64) -> FloatHistogram {
    FloatHistogram {
        counter_reset_hint: CounterResetHint::Gauge,
        schema: -53,
        count: 2.0 * count,
        sum: count,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![count, count],
        custom_values: vec![0.5, 1.0],
        ..FloatHistogram::default()
    }
}

/// A sample every half minute from `from` hours to `to`, of each kind.
fn fill(db: &Db, from: i64, to: i64) {
    for half_minute in from * 120..to * 120 {
        let t = START + half_minute * 30_000;
        let mut appender = db.appender();
        for n in 0..3 {
            let value = match half_minute % 50 {
                49 => f64::from_bits(STALE_NAN_BITS),
                17 => f64::NEG_INFINITY,
                _ => (half_minute * (n + 1)) as f64 / 8.0,
            };
            appender.append_with_start(None, &series("floats", n), t - 60_000 * (n % 2), t, value).unwrap();
        }
        if half_minute % 4 == 0 {
            let count = 1 + (half_minute as u64 % 40);
            appender.append_histogram_with_start(None, &series("counts", 0), START, t, histogram(count)).unwrap();
            appender.append_float_histogram(None, &series("gauges", 0), t, custom(count as f64)).unwrap();
        }
        if half_minute % 100 == 0 {
            let labels = Labels::from_pairs([("trace_id", t.to_string())]);
            appender.append_exemplar(None, &series("floats", 0), Exemplar { labels, value: 1.5, t }).unwrap();
        }
        appender.commit().unwrap();
    }
    let mut appender = db.appender();
    let metadata = Metadata { metric_type: MetricType::Counter, unit: "s".to_owned(), help: "Zeit".to_owned() };
    appender.update_metadata(None, &series("floats", 0), metadata).unwrap();
    // Between the samples that are there.
    for n in 0..40 {
        let t = START + to * HOUR - 15_000 - n * 30_000;
        appender.append(None, &series("floats", 1), t, n as f64).unwrap();
    }
    appender.commit().unwrap();
}

fn copy(fs: &dyn Fs, from: &Path, to: &Path) {
    fs.create_dir_all(to).unwrap();
    for entry in fs.list(from).unwrap() {
        let (from, to) = (from.join(&entry.name), to.join(&entry.name));
        if entry.is_dir {
            copy(fs, &from, &to);
        } else if entry.name != "lock" {
            let mut file = fs.create(&to).unwrap();
            file.append(&fs.read(&from).unwrap()).unwrap();
            file.sync().unwrap();
        }
    }
}

fn dump(source: &dyn Source) -> String {
    let (mut text, budget) = (String::new(), Budget::unlimited());
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        samples_line(&mut text, &series.labels, samples.into_iter().map(Ok::<_, ()>)).unwrap();
    }
    for (labels, exemplars) in source.exemplars(TimeRange::ALL, &[&[Matcher::equal("n", "0")]]).unwrap() {
        text.push_str(&format!("{labels} {exemplars:?}\n"));
    }
    text + &format!("{:?}\n", source.metadata(None).unwrap())
}

fn write_fixture(target: &Path) {
    let env = Env::real();
    let fs = env.fs.as_ref();
    let dir = std::env::temp_dir().join(format!("narthex-fixture-{:016x}", env.rng.next_u64()));
    let db = Db::open_with(&env, &dir, Options { snapshot_at_close: true, ..options() }).unwrap();
    fill(&db, 0, 4);
    db.delete(TimeRange::new(START + HOUR, START + HOUR + 900_000), &[Matcher::equal("n", "2")]).unwrap();
    db.maintain().unwrap();
    fill(&db, 4, 7);
    db.delete(TimeRange::new(START, START + 600_000), &[Matcher::equal("n", "1")]).unwrap();
    db.delete(TimeRange::new(START + 6 * HOUR, START + 6 * HOUR + 600_000), &[Matcher::equal("n", "0")]).unwrap();
    db.maintain().unwrap();
    fill(&db, 7, 8);
    copy(fs, &dir, &target.join("data"));
    let content = dump(&db.source());
    db.close().unwrap();
    copy(fs, &dir, &target.join("closed"));
    let mut file = fs.create(&target.join("content.txt.zst")).unwrap();
    file.append(&zstd::encode_all(content.as_bytes(), 19).unwrap()).unwrap();
    file.sync().unwrap();
    fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn what_earlier_versions_wrote_is_read_as_it_was_and_can_be_gone_on_with() {
    if let Some(target) = std::env::var_os("NARTHEX_WRITE_FIXTURE") {
        write_fixture(Path::new(&target));
    }
    let real = Env::real();
    let versions = real.fs.list(&own()).unwrap();
    assert!(!versions.is_empty());
    for version in versions {
        let kept = own().join(&version.name);
        let content = zstd::decode_all(&*real.fs.read(&kept.join("content.txt.zst")).unwrap()).unwrap();
        let content = String::from_utf8(content).unwrap();
        assert!(content.lines().count() > 5, "{}", version.name);
        for state in ["data", "closed"] {
            let name = format!("{}/{state}", version.name);
            let read = Db::open_read_only(kept.join(state)).unwrap();
            let status = read.status();
            assert_eq!(status.log_damage, []);
            // Else the whole log would be read, and answer the same.
            let from_snapshot = (state == "closed", None);
            assert_eq!((status.snapshot.is_some(), status.snapshot_refused), from_snapshot, "{name}, read");
            assert_eq!(dump(&read.source()), content, "{name}, read");

            let env = Env { fs: Arc::clone(&real.fs), ..real.clone() };
            let dir = std::env::temp_dir().join(format!("narthex-old-{:016x}", env.rng.next_u64()));
            copy(env.fs.as_ref(), &kept.join(state), &dir);
            let db = Db::open_with(&env, &dir, options()).unwrap();
            assert_eq!(dump(&db.source()), content, "{name}, opened");
            let status = db.status();
            assert_eq!((status.snapshot.is_some(), status.snapshot_refused), from_snapshot, "{name}, opened");
            let mut appender = db.appender();
            appender.append(None, &series("floats", 9), START + 8 * HOUR, 1.0).unwrap();
            appender.commit().unwrap();
            db.flush().unwrap();
            db.close().unwrap();
            let db = Db::open_with(&env, &dir, options()).unwrap();
            let gone_on = dump(&db.source());
            let old: Vec<&str> = gone_on.lines().filter(|line| !line.contains("[\"n\",\"9\"]")).collect();
            assert_eq!(gone_on.lines().count(), old.len() + 1);
            // The first histogram behind a cut knows less, or more, of the one before it.
            let samples = |text: &str| {
                let lines = text.lines().filter(|line| line.starts_with("{\"labels\""));
                lines.map(|line| line.replace("\"not_reset\"", "\"unknown\"")).collect::<Vec<_>>()
            };
            assert_eq!(samples(&old.join("\n")), samples(&content), "{name}, cut into blocks");
            db.close().unwrap();
            env.fs.remove_dir_all(&dir).unwrap();
        }
    }
}
