//! A database under load on the real disk, for as long as is asked: four appenders, two queriers, series that come and
//! go, late samples, blocks that are cut, merged, deleted from and dropped. All that queries answer is compared.
//!
//! `NARTHEX_SOAK_SECONDS` says how long (20). Once a minute a line says how it goes:
//!
//! ```text
//! NARTHEX_SOAK_SECONDS=1200 cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! The line's memory is to stay as it is after two minutes. Its last part says how long a lock was held at most so far
//! that an append or a query may wait for, and what for; then, since a thread may lose its processor while it holds one,
//! how much of such work was done in one hold; and how long a piece of work that holds nothing, half a millisecond without
//! a neighbour, took at most: what the machine adds to any. With `chrt -f 1` before the command the threads do not take
//! each other's processor.
//!
//! What must be there is not stored but computed: an appender gives all its living series a sample at each of its ticks,
//! and the value follows from the series and the time. So the memory that is printed is the database's.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::disallowed_methods, reason = "/proc says how much memory there is")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use narthex::fs::Env;
use narthex::model::{FloatHistogram, Histogram, Labels, MatchOp, Matcher, Sample, Span, TimeRange, Value};
use narthex::testkit::{Content, content, same_sample, splitmix64};
use narthex::{Appender, Db, DbSource, Options, Retention, SeriesRef};
use parking_lot::{Mutex, RwLock};

const APPENDERS: u64 = 4;
const QUERIERS: u64 = 2;
/// Series of an appender that live from the first second to the last.
const LASTING: u64 = 400;
/// Series that an appender creates each second; each lives for [`LIFE_MS`].
const NEW_A_SECOND: u64 = 25;
const LIFE_MS: i64 = 30_000;
const TICK: Duration = Duration::from_millis(200);
/// What is not older than this must be there.
const KEPT_MS: i64 = 60_000;
/// How late a sample may be.
const WINDOW_MS: i64 = 5_000;
/// Into so many classes series fall, by their label `class`: deletions take one.
const CLASSES: u64 = 10;

/// A directory of its own, removed at the end.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

fn options() -> Options {
    Options {
        min_block_duration: 10_000,
        max_block_duration: Some(90_000),
        retention: Retention { time: Some(KEPT_MS), ..Retention::default() },
        wal_segment_size: 4 << 20,
        out_of_order_window: WINDOW_MS,
        background: true,
        maintenance_interval: Duration::from_secs(1),
        ..Options::default()
    }
}

fn labels(appender: u64, series: u64) -> Labels {
    Labels::from_pairs([
        ("__name__", "soak".to_owned()),
        ("appender", appender.to_string()),
        ("class", (series % CLASSES).to_string()),
        ("series", format!("{series:08}")),
    ])
}

/// What series `series` has at `t`.
fn sample(series: u64, t: i64) -> Sample {
    let drawn = splitmix64(&mut (series << 44 ^ t.cast_unsigned())) >> 40;
    let (low, high) = (drawn % 100, drawn % 1000);
    let value = match series % CLASSES {
        8 => Value::Histogram(Box::new(Histogram {
            count: low + high,
            sum: drawn as f64,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![low.cast_signed(), high.cast_signed() - low.cast_signed()],
            ..Histogram::default()
        })),
        9 => Value::FloatHistogram(Box::new(FloatHistogram {
            count: high as f64 / 2.0,
            sum: drawn as f64,
            positive_spans: vec![Span { offset: -3, length: 1 }],
            positive_buckets: vec![high as f64 / 2.0],
            ..FloatHistogram::default()
        })),
        _ => Value::Float(drawn as f64),
    };
    Sample { t, st: 0, value }
}

fn append(appender: &mut Appender, reference: Option<SeriesRef>, labels: &Labels, sample: Sample) -> SeriesRef {
    let Sample { t, value, .. } = sample;
    match value {
        Value::Float(value) => appender.append(reference, labels, t, value),
        Value::Histogram(histogram) => appender.append_histogram(reference, labels, t, *histogram),
        Value::FloatHistogram(histogram) => appender.append_float_histogram(reference, labels, t, *histogram),
    }
    .unwrap()
}

/// What an appender has committed.
#[derive(Default)]
struct Written {
    /// When it gave each living series a sample.
    ticks: VecDeque<i64>,
    /// From when to when each series lived.
    lives: BTreeMap<u64, (i64, i64)>,
    /// Samples beside the ticks.
    late: BTreeSet<(u64, i64)>,
}

/// What was deleted: a span of time of a class.
type Deleted = Vec<(TimeRange, u64)>;

impl Written {
    /// What must be in `range` of the series that `wanted` picks.
    fn expected(&self, appender: u64, range: TimeRange, deleted: &Deleted, wanted: impl Fn(u64) -> bool) -> Content {
        let mut all = Content::new();
        for (&series, &(born, died)) in self.lives.iter().filter(|(series, _)| wanted(**series)) {
            let is_deleted =
                |t: i64| deleted.iter().any(|(range, class)| *class == series % CLASSES && range.contains(t));
            let ticks = self.ticks.iter().copied().filter(|t| (born..died).contains(t));
            let late = self.late.range((series, i64::MIN)..=(series, i64::MAX)).map(|(_, t)| *t);
            let times = ticks.chain(late).filter(|t| range.contains(*t) && !is_deleted(*t));
            let samples: BTreeMap<i64, Sample> = times.map(|t| (t, sample(series, t))).collect();
            if !samples.is_empty() {
                all.insert(labels(appender, series), samples);
            }
        }
        all
    }

    /// Forgets what may be dropped.
    fn forget_before(&mut self, t: i64) {
        while self.ticks.front().is_some_and(|tick| *tick < t) {
            self.ticks.pop_front();
        }
        self.lives.retain(|_, (_, died)| *died >= t);
        self.late.retain(|(_, late)| *late >= t);
    }
}

struct Soak {
    env: Env,
    db: Db,
    written: Vec<Mutex<Written>>,
    /// Held for reading by who commits, for writing by who deletes: what is under way when something is deleted may be
    /// deleted or not.
    deleted: RwLock<Deleted>,
    samples: AtomicU64,
    compared: AtomicU64,
    /// How many series deletions have hit, counted for the head and each block.
    hit: AtomicU64,
    /// The longest time that a piece of work took which holds nothing, in nanoseconds.
    unheld: AtomicU64,
    done: AtomicBool,
}

/// No more series than this are in memory: those that live, and those that ended in the last minute.
const SERIES: u64 = APPENDERS * (LASTING + NEW_A_SECOND * (LIFE_MS.unsigned_abs() / 1000 + 60));

/// No piece of work takes longer while it holds a lock that an append or a query may wait for.
const LONGEST_WORK: Duration = Duration::from_millis(5);

/// Some half a millisecond of work.
const WORK: u64 = 500_000;

impl Soak {
    fn now(&self) -> i64 {
        self.env.clock.now_ms()
    }

    fn pause(&self, time: Duration) {
        self.env.executor.waiter().wait(time);
    }

    fn is_over(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn append_until_over(&self, number: u64) {
        let started = self.now();
        let mut references: BTreeMap<u64, SeriesRef> = BTreeMap::new();
        let mut random = number;
        let mut last = i64::MIN;
        while !self.is_over() {
            let begun = self.env.clock.monotonic();
            {
                let deleted = self.deleted.read();
                let mut written = self.written[number as usize].lock();
                let t = self.now().max(last + 1);
                last = t;
                let created = LASTING + (t - started).unsigned_abs() * NEW_A_SECOND / 1000;
                for series in written.lives.last_key_value().map_or(0, |(series, _)| series + 1)..created {
                    let died = if series < LASTING { i64::MAX } else { t + LIFE_MS };
                    written.lives.insert(series, (t, died));
                }
                references.retain(|series, _| written.lives.get(series).is_some_and(|(_, died)| t < *died));
                let mut appender = self.db.appender();
                let mut count = 0;
                for (&series, _) in written.lives.iter().filter(|(_, (born, died))| (*born..*died).contains(&t)) {
                    let labels = labels(number, series);
                    let known = references.get(&series).copied();
                    references.insert(series, append(&mut appender, known, &labels, sample(series, t)));
                    count += 1;
                }
                // A few come late, at times that no tick has.
                let mut late = Vec::new();
                for _ in 0..10 {
                    let series = splitmix64(&mut random) % LASTING;
                    let back = (splitmix64(&mut random) % (WINDOW_MS.unsigned_abs() / 2)).cast_signed();
                    let at = t - back;
                    let is_new = !written.ticks.contains(&at) && at != t && !written.late.contains(&(series, at));
                    let is_deleted = deleted.iter().any(|(range, _)| range.contains(at));
                    if is_new && !is_deleted && at > started && !late.contains(&(series, at)) {
                        append(&mut appender, None, &labels(number, series), sample(series, at));
                        late.push((series, at));
                    }
                }
                count += late.len() as u64;
                let committed = appender.commit().unwrap();
                assert_eq!(committed.lost, 0, "{committed:?}");
                written.ticks.push_back(t);
                written.late.extend(late);
                // As long again: what a view that is being read still sees.
                written.forget_before(t - 2 * KEPT_MS);
                self.samples.fetch_add(count, Ordering::Relaxed);
            }
            self.pause(TICK.saturating_sub(self.env.clock.monotonic() - begun));
        }
    }

    /// Whether it is deleted by now. Waits for a deletion that is under way.
    fn is_deleted(&self, labels: &Labels, t: i64) -> bool {
        let is_of = |class: u64| labels.get("class") == Some(&*class.to_string());
        self.deleted.read().iter().any(|(range, class)| is_of(*class) && range.contains(t))
    }

    /// Compares what a source answers of an appender's series that pass.
    fn compare(&self, source: &DbSource, expected: &Content, range: TimeRange, matchers: &[Matcher]) {
        let found = content(source, range, matchers).unwrap();
        for (labels, samples) in expected {
            let none = BTreeMap::new();
            let there = found.get(labels).unwrap_or(&none);
            for (t, wanted) in samples {
                let there = there.get(t);
                let is_there = there.is_some_and(|it| same_sample(it, wanted));
                // What is deleted while a view is read is not seen any more.
                let is_fine = is_there || there.is_none() && self.is_deleted(labels, *t);
                assert!(is_fine, "{labels} at {t}: {there:?} for {wanted:?}");
            }
            let invented = there.keys().find(|t| !samples.contains_key(t));
            assert!(invented.is_none(), "{labels} at {invented:?} was never written, or was deleted");
        }
        let invented = found.keys().find(|labels| !expected.contains_key(labels));
        assert!(invented.is_none(), "{invented:?} was never written, or was deleted");
        let samples: usize = expected.values().map(BTreeMap::len).sum();
        self.compared.fetch_add(samples as u64, Ordering::Relaxed);
    }

    fn query_until_over(&self, number: u64) {
        let mut random = number + 77;
        while !self.is_over() {
            let appender = splitmix64(&mut random) % APPENDERS;
            let class = splitmix64(&mut random) % CLASSES;
            let (source, expected, range) = {
                // Nobody deletes and this appender does not commit between the view and what is expected of it.
                let deleted = self.deleted.read();
                let written = self.written[appender as usize].lock();
                let now = self.now();
                let oldest = now - KEPT_MS + 1000;
                let range = match splitmix64(&mut random) % 3 {
                    0 => TimeRange::new(oldest, i64::MAX),
                    1 => TimeRange::new(now - 5000, i64::MAX),
                    _ => TimeRange::new(now - 40_000, now - 20_000),
                };
                let expected = written.expected(appender, range, &deleted, |series| series % CLASSES == class);
                let source = self.db.source();
                (source, expected, range)
            };
            let matchers = [
                Matcher::equal("appender", appender.to_string()),
                Matcher::new(MatchOp::Regex, "class", format!("{class}|nobody")).unwrap(),
            ];
            self.compare(&source, &expected, range, &matchers);
            self.pause(Duration::from_millis(20));
        }
    }

    fn delete_until_over(&self) {
        let mut random = 5;
        while !self.is_over() {
            self.pause(Duration::from_secs(2));
            let mut deleted = self.deleted.write();
            let now = self.now();
            let class = splitmix64(&mut random) % CLASSES;
            // Long enough ago that nothing late comes there.
            let max = now - WINDOW_MS - (splitmix64(&mut random) % 30_000).cast_signed();
            let range = TimeRange::new(max - (splitmix64(&mut random) % 3000).cast_signed(), max);
            let hit = self.db.delete(range, &[Matcher::equal("class", class.to_string())]).unwrap();
            self.hit.fetch_add(hit, Ordering::Relaxed);
            deleted.push((range, class));
            deleted.retain(|(range, _)| range.max >= now - 3 * KEPT_MS);
        }
    }

    /// Does now and then a piece of work that holds nothing: the machine takes a processor from it as from who holds a lock.
    fn work_until_over(&self) {
        let mut random = 9;
        while !self.is_over() {
            let begun = self.env.clock.monotonic();
            for _ in 0..WORK {
                black_box(splitmix64(&mut random));
            }
            let took = (self.env.clock.monotonic() - begun).as_nanos();
            self.unheld.fetch_max(took.try_into().unwrap(), Ordering::Relaxed);
            self.pause(Duration::from_millis(20));
        }
    }

    /// Everything that must be there, of all appenders.
    fn compare_all(&self, db: &Db) {
        let deleted = self.deleted.read().clone();
        let range = TimeRange::new(self.now() - KEPT_MS + 5000, i64::MAX);
        let source = db.source();
        for (number, written) in (0..APPENDERS).zip(&self.written) {
            let expected = written.lock().expected(number, range, &deleted, |_| true);
            self.compare(&source, &expected, range, &[Matcher::equal("appender", number.to_string())]);
        }
    }
}

/// Kilobytes of anonymous memory.
fn anonymous_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "takes as long as NARTHEX_SOAK_SECONDS says"]
fn under_load_nothing_is_lost_and_memory_stays() {
    let seconds: u64 = std::env::var("NARTHEX_SOAK_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    let env = Env::real();
    let dir = TempDir(std::env::temp_dir().join(format!("narthex-soak-{:016x}", env.rng.next_u64())));
    let soak = Soak {
        db: Db::open(&dir.0, options()).unwrap(),
        env,
        written: (0..APPENDERS).map(|_| Mutex::default()).collect(),
        deleted: RwLock::default(),
        samples: AtomicU64::new(0),
        compared: AtomicU64::new(0),
        hit: AtomicU64::new(0),
        unheld: AtomicU64::new(0),
        done: AtomicBool::new(false),
    };
    let started = soak.env.clock.monotonic();
    let mut memory = Vec::new();
    // All blocks that were seen, and those of them that were merged of others.
    let (mut blocks, mut merged) = (BTreeSet::new(), BTreeSet::new());
    thread::scope(|scope| {
        let soak = &soak;
        let appenders = (0..APPENDERS).map(|number| scope.spawn(move || soak.append_until_over(number)));
        let mut threads: Vec<_> = appenders.collect();
        threads.extend((0..QUERIERS).map(|number| scope.spawn(move || soak.query_until_over(number))));
        threads.push(scope.spawn(move || soak.delete_until_over()));
        threads.push(scope.spawn(move || soak.work_until_over()));
        for second in 1..=seconds {
            let next = Duration::from_secs(second);
            soak.pause(next.saturating_sub(soak.env.clock.monotonic() - started));
            memory.push(anonymous_kb());
            for block in soak.db.status().blocks {
                if block.meta.compaction.level > 1 {
                    merged.insert(block.meta.ulid);
                }
                blocks.insert(block.meta.ulid);
            }
            if second % 60 == 0 || second == seconds {
                let status = soak.db.status();
                let held = soak.db.head().counts();
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                println!(
                    "{second} s: {} samples, {} compared, {} series in memory, {} blocks, {} MiB of log, {} MiB anonymous, \
                     locks held {:.2} ms ({}), at work {:.2} ms ({}), work that holds nothing {:.2} ms",
                    soak.samples.load(Ordering::Relaxed),
                    soak.compared.load(Ordering::Relaxed),
                    status.series,
                    status.blocks.len(),
                    status.log_bytes >> 20,
                    anonymous_kb() >> 10,
                    ms(held.longest_hold),
                    held.longest_hold_for,
                    ms(held.longest_work),
                    held.longest_work_for,
                    soak.unheld.load(Ordering::Relaxed) as f64 / 1e6,
                );
                assert_eq!(status.maintenance_error, None);
                // The time by the clock is only shown: threads lose their processor.
                assert!(held.longest_work <= LONGEST_WORK, "{:?}: {}", held.longest_work, held.longest_work_for);
                assert!(status.series <= SERIES, "series that have ended pile up: {}", status.series);
                assert!(status.quarantined.is_empty(), "{:?}", status.quarantined);
            }
            if threads.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        soak.done.store(true, Ordering::Relaxed);
    });
    // Else nothing of the above says anything.
    assert!(soak.compared.load(Ordering::Relaxed) > 0, "no query compared anything");
    if seconds >= 30 {
        let left = soak.db.status().blocks.len();
        assert!(!blocks.is_empty(), "no block was cut");
        assert!(!merged.is_empty() || left < blocks.len(), "{blocks:?}: none was merged or dropped");
        assert!(soak.hit.load(Ordering::Relaxed) > 0, "no deletion hit anything");
    }
    soak.compare_all(&soak.db);
    soak.db.close().unwrap();
    let again = Db::open(&dir.0, options()).unwrap();
    assert!(again.status().log_damage.is_empty());
    soak.compare_all(&again);
    again.close().unwrap();
    // The first two minutes fill what retention then keeps; from then on it must not grow.
    if seconds >= 300 {
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        let (middle, end) = (most(&memory[120..memory.len() * 2 / 3]), most(&memory[memory.len() * 2 / 3..]));
        assert!(end <= middle + middle / 4, "{end} KiB at most in the last third, {middle} KiB before");
    }
}
