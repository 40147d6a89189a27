//! One directory, two owners in turn: what this library leaves in it, Prometheus reads; what Prometheus goes on to write,
//! this library reads; and so on. Every kind of sample, deletions, out-of-order samples, a log that nobody compacted,
//! closed and killed, for each encoding, with snapshots and without.
//!
//! `NARTHEX_CONTINUE` is the program in `tests/interop`, which goes on writing and dumps; `NARTHEX_REFERENCE` is another
//! program's dump of the same.

#![expect(
    clippy::disallowed_methods,
    reason = "this test runs a program beside the library; there is nothing to simulate"
)]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a broken set-up fails the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use narthex::budget::Budget;
use narthex::db::{Db, Options};
use narthex::error::ErrorKind;
use narthex::head::{Appender, FloatEncoding, SeriesRef};
use narthex::model::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Exemplar, Histogram, Labels, MatchOp, Matcher, Metadata, MetricType,
    STALE_NAN_BITS, Span, TimeRange,
};
use narthex::query::{SelectRequest, Source, series_samples};
use narthex::testkit::jsonl::samples_line;
use narthex::wal::Compression;

const BEGIN: i64 = 1_700_006_400_000;
const STEP: i64 = 15_000;
const WINDOW: i64 = 30 * 60_000;

/// How both sides write.
#[derive(Debug, Clone, Copy)]
struct Setting {
    window: i64,
    encoding: FloatEncoding,
    starts: bool,
    histogram_starts: bool,
    snapshots: bool,
    compression: Compression,
    /// Whether this library, and Prometheus, are killed instead of closing.
    killed: [bool; 2],
    /// Whether either side compacts before it goes.
    compact: bool,
}

const PLAIN: Setting = Setting {
    window: 0,
    encoding: FloatEncoding::Xor,
    starts: false,
    histogram_starts: false,
    snapshots: false,
    compression: Compression::Snappy,
    killed: [false, false],
    compact: false,
};

impl Setting {
    fn options(self) -> Options {
        Options {
            future_bound: None,
            out_of_order_window: self.window,
            float_encoding: self.encoding,
            start_timestamps: self.starts,
            histogram_start_timestamps: self.histogram_starts,
            snapshot_at_close: self.snapshots,
            // At every round of maintenance.
            snapshot_interval: self.snapshots.then_some(std::time::Duration::ZERO),
            wal_compression: self.compression,
            // As long as blocks are cut: see what `continue` says about longer ones.
            max_block_duration: Some(2 * 3_600_000),
            ..Options::default()
        }
    }

    fn flags(self) -> Vec<String> {
        let yes = |on: bool, name: &str| format!("-{name}={on}");
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Snappy => "snappy",
            Compression::Zstd => "zstd",
        };
        vec![
            format!("-out-of-order={}ms", self.window),
            format!("-floats={}", if self.encoding == FloatEncoding::Xor2 { "xor2" } else { "xor" }),
            yes(self.starts, "starts"),
            yes(self.histogram_starts, "histogram-starts"),
            yes(self.snapshots, "snapshot"),
            format!("-compression={compression}"),
        ]
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A histogram that grows, widens now and then, and begins again now and then.
fn histogram(round: i64, i: i64, custom: bool) -> Histogram {
    let age = (round + i * 11) % 55;
    let len = if custom { 3 } else { 2 + (age / 18) as u32 };
    let counts = (1..=i64::from(len)).map(|bucket| age * bucket + i);
    let mut before = 0;
    let deltas: Vec<i64> = counts.clone().map(|count| count - std::mem::replace(&mut before, count)).collect();
    let zero_count = if custom { 0 } else { age.cast_unsigned() };
    Histogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema: if custom { CUSTOM_BUCKETS_SCHEMA } else { 2 },
        zero_threshold: if custom { 0.0 } else { 0.01 },
        zero_count,
        count: zero_count + counts.sum::<i64>().cast_unsigned(),
        sum: age as f64 * 2.5,
        positive_spans: vec![Span { offset: 0, length: len }],
        positive_buckets: deltas,
        custom_values: if custom { vec![0.5, 1.0, 2.0 + (round / 120) as f64] } else { Vec::new() },
        ..Histogram::default()
    }
}

fn labels(name: &str, i: i64) -> Labels {
    Labels::from_pairs([("__name__", name), ("i", &i.to_string()), ("written_by", "narthex")])
}

/// Appends a sample of kind `kind` at `t`; out-of-order ones may be refused.
fn append(appender: &mut Appender, kind: usize, i: i64, round: i64, st: i64, t: i64) -> Option<(Labels, SeriesRef)> {
    let mut state = (round * 7 + i).cast_unsigned();
    let stale = f64::from_bits(STALE_NAN_BITS);
    let float = |v: f64, name: &str, appender: &mut Appender| {
        let labels = labels(name, i);
        (appender.append_with_start(None, &labels, st, t, v), labels)
    };
    let integers = |h: Histogram, name: &str, appender: &mut Appender| {
        let labels = labels(name, i);
        (appender.append_histogram_with_start(None, &labels, st, t, h), labels)
    };
    let floats = |h: &Histogram, name: &str, appender: &mut Appender| {
        let labels = labels(name, i);
        (appender.append_float_histogram_with_start(None, &labels, st, t, h.to_float()), labels)
    };
    let gauge = |mut h: Histogram| {
        h.counter_reset_hint = CounterResetHint::Gauge;
        h
    };
    let specials = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324, f64::MAX, 1.0];
    let (appended, labels) = match kind {
        0 => float((round * 100) as f64 + (splitmix(&mut state) % 50) as f64, "ours_counter_total", appender),
        1 => float((splitmix(&mut state) % 1_000_003) as f64 / 1000.0, "ours_gauge", appender),
        2 => float(specials[round as usize % specials.len()], "ours_specials", appender),
        3 => float(if round % 17 == 16 { stale } else { 1.0 }, "ours_stale", appender),
        4 if round % 43 == 42 => float(stale, "ours_integers", appender),
        4 => integers(histogram(round, i, false), "ours_integers", appender),
        5 => floats(&histogram(round, i, false), "ours_floats", appender),
        6 => integers(gauge(histogram(round, i, false)), "ours_gauge_integers", appender),
        7 => integers(histogram(round, i, true), "ours_custom", appender),
        8 => floats(&histogram(round, i, true), "ours_custom_floats", appender),
        9 => match round / 25 % 3 {
            0 => float(round as f64, "ours_mixed", appender),
            1 => integers(histogram(round, i, false), "ours_mixed", appender),
            _ => floats(&histogram(round, i, true), "ours_mixed", appender),
        },
        _ => float(round as f64, "unsere größte Metrik", appender),
    };
    match appended {
        Ok(reference) => Some((labels, reference)),
        Err(error) => {
            let expected = [ErrorKind::OutOfOrder, ErrorKind::TooOld, ErrorKind::Duplicate];
            assert!(expected.contains(&error.kind()), "{labels:?} at {t}: {error}");
            None
        }
    }
}

const KINDS: usize = 11;

/// Writes `rounds` samples to each of our series from `from` on, maintaining the database as its owner would.
fn fill(db: &Db, setting: Setting, from: i64, rounds: i64) {
    for round in 0..rounds {
        let t = from + round * STEP;
        let mut appender = db.appender();
        for kind in 0..KINDS {
            for i in 0..2 {
                let st = if setting.starts { from - 500 - round / 60 } else { 0 };
                let appended = append(&mut appender, kind, i, round, st, t + kind as i64 % 5);
                let Some((labels, reference)) = appended else { continue };
                if round % 9 == 4 {
                    let trace = Labels::from_pairs([("trace_id", &format!("{t:x}"))]);
                    let exemplar = Exemplar { labels: trace, value: round as f64, t };
                    appender.append_exemplar(Some(reference), &labels, exemplar).unwrap();
                }
                if round % 50 == 0 {
                    let help = format!("round {}", round / 100);
                    let metadata = Metadata { metric_type: MetricType::Gauge, unit: "s".to_owned(), help };
                    appender.update_metadata(Some(reference), &labels, metadata).unwrap();
                }
            }
        }
        appender.commit().unwrap();
        if setting.window > 0 && round > 40 && round % 5 == 0 {
            let mut appender = db.appender();
            for kind in (0..KINDS).filter(|kind| kind % 2 == 0) {
                append(&mut appender, kind, 0, round, 0, t - (7 + round % 31) * STEP + STEP / 3);
            }
            appender.commit().unwrap();
        }
        if round % 100 == 99 {
            db.maintain().unwrap();
        }
    }
    let equal = |name: &str, value: &str| Matcher::new(MatchOp::Equal, name, value).unwrap();
    db.delete(TimeRange::new(from + 20 * STEP, from + 35 * STEP), &[equal("__name__", "ours_gauge")]).unwrap();
    let late = TimeRange::new(from + (rounds - 30) * STEP, from + (rounds - 20) * STEP);
    db.delete(late, &[equal("__name__", "ours_integers")]).unwrap();
}

fn dump(source: &dyn Source) -> String {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut text = String::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        if !samples.is_empty() {
            samples_line(&mut text, &series.labels, samples.into_iter().map(Ok::<_, ()>)).unwrap();
        }
    }
    text
}

/// As the program prints them.
fn exemplars(db: &Db) -> String {
    let mut text = String::new();
    for (labels, exemplars) in db.head().reader(TimeRange::ALL).exemplars(TimeRange::ALL, &[&[]]).unwrap() {
        let mut line = String::new();
        samples_line::<()>(&mut line, &labels, []).unwrap();
        text.push_str(line.split_once("\"samples\":").unwrap().0);
        let rows: Vec<String> = exemplars
            .iter()
            .map(|exemplar| {
                let value = exemplar.value.to_bits();
                let mut trace = String::new();
                for (name, value) in &exemplar.labels {
                    write!(trace, "[\"{name}\",\"{value}\"]").unwrap();
                }
                format!("[{},\"{value:016x}\",[{trace}]]", exemplar.t)
            })
            .collect();
        writeln!(text, "\"exemplars\":[{}]}}", rows.join(",")).unwrap();
    }
    text
}

/// The exemplars from `from` on. Older ones may be of series that only one side still has in memory, and what is before the
/// end of its blocks Prometheus forgets.
fn newer(text: &str, from: i64) -> String {
    let mut newer = String::new();
    for line in text.lines() {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        let exemplars = row["exemplars"].as_array_mut().unwrap();
        exemplars.retain(|exemplar| exemplar[0].as_i64().unwrap() >= from);
        if !exemplars.is_empty() {
            writeln!(newer, "{row}").unwrap();
        }
    }
    newer
}

/// Two programs, and a place to work in.
struct Bench {
    continues: String,
    reference: String,
    root: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn run(program: &str, arguments: &[String]) -> String {
    let (printed, _) = run_and_listen(program, arguments);
    printed
}

/// What a program prints, and what it says beside that.
fn run_and_listen(program: &str, arguments: &[String]) -> (String, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    // A log or chunks that it had to repair are not what it should find.
    for bad in
        ["corrupt", "Corrupt", "unknown series", "Unknown series", "Loading on-disk chunks failed", "Failed to load"]
    {
        assert!(!said.contains(bad), "{program} {arguments:?}: {said}");
    }
    let said = said.into_owned();
    (String::from_utf8(output.stdout).unwrap(), said)
}

/// The first place where two dumps differ.
fn assert_same(what: &str, ours: &str, theirs: &str) {
    if ours == theirs {
        return;
    }
    let name = |line: &str| line.split("\"samples\":").next().unwrap_or_default().to_owned();
    let names = |text: &str| text.lines().map(name).collect::<Vec<_>>();
    let (a, b) = (names(ours), names(theirs));
    let only = |a: &[String], b: &[String]| a.iter().filter(|name| !b.contains(name)).cloned().collect::<Vec<_>>();
    assert_eq!(a, b, "{what}: only here {:?}, only there {:?}", only(&a, &b), only(&b, &a));
    let mut differences = String::new();
    for (ours, theirs) in ours.lines().zip(theirs.lines()).filter(|(ours, theirs)| ours != theirs) {
        let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
        let part = |line: &str| {
            let start = line.floor_char_boundary(at.saturating_sub(120));
            line[start..line.floor_char_boundary(line.len().min(at + 160))].to_owned()
        };
        writeln!(differences, "{} at {at}\n  here  {}\n  there {}", name(ours), part(ours), part(theirs)).unwrap();
    }
    panic!("{what}:\n{differences}");
}

/// After a restart the first histogram behind a chunk that lies on the disk does not know the one before: Prometheus's own
/// answers change there from "not reset" to "unknown" when it is closed and opened again.
fn without_resets(text: &str) -> String {
    text.replace("\"not_reset\"", "\"unknown\"")
}

impl Bench {
    /// Prometheus takes the snapshot that lies in `dir`, and does not merely answer the same from its log.
    fn assert_they_take_the_snapshot(&self, name: &str, setting: Setting, dir: &Path) {
        let copied = self.root.join("copy");
        copy(dir, &copied);
        let mut arguments = vec!["dump".to_owned(), "-verbose=true".to_owned()];
        arguments.extend(setting.flags());
        arguments.push(copied.display().to_string());
        let (_, said) = run_and_listen(&self.continues, &arguments);
        assert!(said.contains("chunk snapshot loaded"), "{name}: {said}");
    }

    /// What Prometheus answers over a copy of `dir`.
    fn theirs(&self, setting: Setting, dir: &Path) -> String {
        let copied = self.root.join("copy");
        copy(dir, &copied);
        let mut arguments = vec!["dump".to_owned()];
        arguments.extend(setting.flags());
        arguments.push(copied.display().to_string());
        let dumped = run(&self.continues, &arguments);
        // It keeps start timestamps of everything, so it tells more than what was asked for where they are in the log.
        if setting.starts == setting.histogram_starts {
            copy(dir, &copied);
            let again = run(&self.reference, &["dump".to_owned(), copied.display().to_string()]);
            let again: Vec<_> = again.lines().filter(|line| !line.ends_with("\"samples\":null}")).collect();
            assert_same("the two programs", &without_resets(&(again.join("\n") + "\n")), &without_resets(&dumped));
        }
        dumped
    }

    fn their_exemplars(&self, setting: Setting, dir: &Path) -> String {
        let copied = self.root.join("copy");
        copy(dir, &copied);
        let mut arguments = vec!["exemplars".to_owned()];
        arguments.extend(setting.flags());
        arguments.push(copied.display().to_string());
        run(&self.continues, &arguments)
    }

    /// Takes turns on one directory.
    fn check(&self, name: &str, setting: Setting) {
        let dir = self.root.join(name);
        let compared = without_resets;

        // Ours alone.
        let db = Db::open(&dir, setting.options()).unwrap();
        fill(&db, setting, BEGIN, 700);
        if setting.compact {
            db.flush().unwrap();
        }
        let left = self.leave(db, setting, &dir);
        if setting.snapshots && !setting.killed[0] {
            self.assert_they_take_the_snapshot(name, setting, &dir);
        }
        let theirs = self.theirs(setting, &dir);
        assert_same(&format!("{name}: what we wrote"), &compared(&left.0), &compared(&theirs));
        assert_same(&format!("{name}: our exemplars"), &left.1, &self.their_exemplars(setting, &dir));
        // Whoever only reads keeps start timestamps wherever the log has them.
        let is_told = setting.starts == setting.histogram_starts;
        if is_told {
            let read_only = dump(&Db::open_read_only(&dir).unwrap().source());
            assert_same(&format!("{name}: read-only"), &compared(&left.0), &compared(&read_only));
        }

        // They go on.
        let mut arguments = vec!["write".to_owned(), "-rounds=250".to_owned()];
        // Its deletions hide out-of-order samples that come later, ours do not, and its log does not tell which came first.
        arguments.push(format!("-delete={}", setting.window == 0));
        arguments.extend(setting.flags());
        arguments.push(format!("-crash={}", setting.killed[1]));
        arguments.push(format!("-compact={}", setting.compact));
        arguments.push("-dump=".to_owned());
        arguments.push(dir.display().to_string());
        run(&self.continues, &arguments);
        let theirs = self.theirs(setting, &dir);
        let their_exemplars = self.their_exemplars(setting, &dir);
        if is_told {
            let read_only = dump(&Db::open_read_only(&dir).unwrap().source());
            assert_same(&format!("{name}: what they wrote, read-only"), &compared(&read_only), &compared(&theirs));
        }
        let db = Db::open(&dir, setting.options()).unwrap();
        let status = db.status();
        assert!(status.log_damage.is_empty() && status.quarantined.is_empty(), "{name}: {status:?}");
        if setting.snapshots && !setting.killed[1] {
            assert!(status.snapshot.is_some() && status.snapshot_refused.is_none(), "{name}: {status:?}");
        }
        assert_same(&format!("{name}: what they wrote"), &compared(&dump(&db.source())), &compared(&theirs));
        let [ours, theirs] = [&exemplars(&db), &their_exemplars].map(|text| newer(text, BEGIN + 701 * STEP));
        assert_same(&format!("{name}: their exemplars"), &ours, &theirs);

        // And we again.
        // Behind all that there is: of two values for one time each side may prefer another.
        let newest = status.blocks.iter().map(|block| block.meta.max_time).chain(status.max_time).max().unwrap();
        let from = (newest / STEP + 2) * STEP;
        fill(&db, setting, from, 300);
        if setting.compact {
            db.flush().unwrap();
        }
        let left = self.leave(db, setting, &dir);
        let theirs = self.theirs(setting, &dir);
        assert_same(&format!("{name}: what we wrote then"), &compared(&left.0), &compared(&theirs));
        let their_exemplars = newer(&self.their_exemplars(setting, &dir), from + 200 * STEP);
        assert_same(&format!("{name}: our exemplars then"), &newer(&left.1, from + 200 * STEP), &their_exemplars);
        println!("{name}: {} series, {} bytes of dump", theirs.lines().count(), theirs.len());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Closes the database or kills it; what it answered last, and its exemplars.
    fn leave(&self, db: Db, setting: Setting, dir: &Path) -> (String, String) {
        let left = (dump(&db.source()), exemplars(&db));
        if setting.killed[0] {
            // What the files hold at this moment is what a killed process leaves.
            let killed = self.root.join("killed");
            copy(dir, &killed);
            drop(db);
            std::fs::remove_dir_all(dir).unwrap();
            std::fs::rename(&killed, dir).unwrap();
        } else {
            db.close().unwrap();
            let is_snapshot = |name: &str| name.starts_with("chunk_snapshot.");
            let snapshots = std::fs::read_dir(dir)
                .unwrap()
                .filter(|entry| is_snapshot(&entry.as_ref().unwrap().file_name().to_string_lossy()));
            assert_eq!(snapshots.count(), usize::from(setting.snapshots), "snapshots in {}", dir.display());
        }
        left
    }
}

#[test]
#[ignore = "needs NARTHEX_CONTINUE, the program in tests/interop"]
fn a_directory_can_change_hands() {
    let continues = std::env::var("NARTHEX_CONTINUE").expect("NARTHEX_CONTINUE names the program in tests/interop");
    let root = std::env::temp_dir().join(format!("narthex-interop-{}", std::process::id()));
    let bench = Bench {
        continues,
        reference: std::env::var("NARTHEX_REFERENCE").expect("NARTHEX_REFERENCE names the oracle"),
        root,
    };
    let out_of_order = Setting { window: WINDOW, ..PLAIN };
    let xor2 = Setting { encoding: FloatEncoding::Xor2, compression: Compression::Zstd, ..out_of_order };
    let starts = Setting { starts: true, histogram_starts: true, ..xor2 };
    let no_window = |setting: Setting| Setting { window: 0, ..setting };
    let settings = [
        ("snapshot-starts-in-order", Setting { snapshots: true, ..no_window(starts) }),
        ("snapshot-killed", Setting { snapshots: true, killed: [true, true], ..PLAIN }),
        ("snapshot-they-are-killed-in-order", Setting { snapshots: true, killed: [false, true], ..PLAIN }),
        ("plain", PLAIN),
        ("plain-killed", Setting { killed: [true, true], compression: Compression::None, ..PLAIN }),
        ("out-of-order", out_of_order),
        ("out-of-order-killed", Setting { killed: [true, true], ..out_of_order }),
        ("xor2", xor2),
        ("xor2-compacted", Setting { compact: true, ..xor2 }),
        ("starts", starts),
        ("starts-killed", Setting { killed: [true, false], ..starts }),
        ("starts-compacted", Setting { compact: true, ..starts }),
        ("float-starts", Setting { histogram_starts: false, ..starts }),
        ("snapshot", Setting { snapshots: true, ..PLAIN }),
        ("snapshot-out-of-order", Setting { snapshots: true, ..out_of_order }),
        ("snapshot-we-are-killed", Setting { snapshots: true, killed: [true, false], ..out_of_order }),
        ("snapshot-they-are-killed", Setting { snapshots: true, killed: [false, true], ..out_of_order }),
        ("snapshot-starts", Setting { snapshots: true, ..starts }),
        ("snapshot-starts-compacted", Setting { snapshots: true, compact: true, ..starts }),
    ];
    let only = std::env::var("NARTHEX_INTEROP_ONLY").ok();
    for (name, setting) in settings {
        if only.as_ref().is_none_or(|only| only.split(',').any(|only| only == name)) {
            bench.check(name, setting);
        }
    }
}
