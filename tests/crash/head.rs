//! Crashes of the head and its log: appends, new series, truncation of memory and log, commits that race.

#![expect(clippy::disallowed_methods, reason = "commits race on threads of the test's own")]

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use narthex::chunk;
use narthex::fs::Env;
use narthex::head::{Head, HeadOptions};
use narthex::model::{Labels, MatchOp, Matcher, TimeRange, Value};
use narthex::testkit::{Image, OpKind, START_MS, SimHandle, splitmix64};
use narthex::wal::{Compression, DamageKind, Durability, LogOptions};

use crate::history::{History, Samples};

const DIR: &str = "/data";

/// The series' number and the sample's time.
type Key = (usize, i64);

fn value(key: Key) -> f64 {
    // Small enough to be exact, and different for every sample.
    (splitmix64(&mut ((key.0 as u64) << 48 ^ key.1.cast_unsigned())) >> 12) as f64
}

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())])
}

fn options() -> HeadOptions {
    HeadOptions { chunk_range: 60_000, future_bound: None, ..HeadOptions::default() }
}

struct Script {
    machine: SimHandle,
    history: History<Key>,
    head: Arc<Head>,
    log: LogOptions,
    started: u64,
}

impl Script {
    fn new(durability: Durability) -> Self {
        let (env, machine) = Env::simulated(7);
        env.fs.create_dir_all(Path::new("/data")).unwrap();
        machine.settle();
        let log = LogOptions { segment_size: 32 << 10, compression: Compression::Snappy, durability };
        let started = machine.ops();
        let (head, _) = Head::open(&env, Path::new(DIR), options(), log, i64::MIN).unwrap();
        Self { history: History::new(&machine), machine, head, log, started }
    }

    /// Commits a sample of each of the series, `seconds` after the start.
    fn commit(&mut self, series: impl IntoIterator<Item = usize>, seconds: i64) {
        let t = START_MS + 1000 * seconds;
        let mut appender = self.head.appender();
        let keys: Vec<Key> = series.into_iter().map(|series| (series, t)).collect();
        for &key in &keys {
            self.history.begin(key, value(key).to_bits());
            appender.append(None, &labels(key.0), t, value(key)).unwrap();
        }
        assert_eq!(appender.commit().unwrap().appended, keys.len() as u64);
        self.history.acknowledge(&keys);
        if self.log.durability == Durability::Sync {
            self.history.synced();
        }
    }

    /// Moves full chunks to the disk.
    fn map(&mut self) {
        assert!(self.head.map_full_chunks().unwrap() > 0);
    }

    fn restart(&mut self) {
        let env = self.machine.kill();
        self.head = Head::open(&env, Path::new(DIR), options(), self.log, i64::MIN).unwrap().0;
    }

    /// Forgets what is older than `seconds` after the start.
    fn truncate(&mut self, seconds: i64) {
        let t = START_MS + 1000 * seconds;
        self.history.let_go(|key| key.1 < t);
        self.head.truncate(t).unwrap();
    }
}

fn read(head: &Arc<Head>) -> Samples<Key> {
    let reader = head.reader(TimeRange::ALL);
    let mut found = Samples::new();
    for (id, labels) in reader.select(&[]).unwrap() {
        let series = labels.get("series").unwrap().parse().unwrap();
        let (mut chunks, mut hide) = (Vec::new(), Vec::new());
        reader.chunks(id, &mut chunks, &mut hide);
        for chunk in chunks {
            let chunk = chunk.load().unwrap();
            for sample in chunk::samples(chunk.encoding, &chunk.data) {
                let sample = sample.unwrap();
                let Value::Float(v) = sample.value else { panic!("{sample:?}") };
                let again = found.insert((series, sample.t), v.to_bits());
                assert_eq!(again, None, "{labels} has {} twice", sample.t);
            }
        }
    }
    found
}

fn recover(image: &Image) -> Samples<Key> {
    let (env, machine) = image.boot(1);
    let open = || {
        Head::open(&env, Path::new(DIR), options(), LogOptions::default(), i64::MIN)
            .unwrap_or_else(|error| panic!("{error}. {}", image.story()))
    };
    let found = read(&open().0);
    let files = machine.image().files();
    let (head, replayed) = open();
    let left: Vec<_> = replayed.damage.iter().filter(|damage| damage.kind != DamageKind::Missing).collect();
    assert!(left.is_empty(), "{left:?} is left after the repair. {}", image.story());
    assert_eq!(read(&head), found, "{}", image.story());
    let changed: Vec<_> = files.iter().filter(|file| !machine.image().files().contains(file)).collect();
    assert!(changed.is_empty(), "the second opening changed {:?}. {}", changed[0].0, image.story());
    found
}

fn mixed(durability: Durability) -> Script {
    let mut script = Script::new(durability);
    for second in 0..8 {
        script.commit(0..second as usize + 1, second);
    }
    script.restart();
    // Many series at once: the record is longer than a page and fills a segment.
    script.commit(0..600, 30);
    script.restart();
    script.commit(0..4, 70);
    script.map();
    script.restart();
    script.commit(4..7, 71);
    script.map();
    script.truncate(60);
    script.commit(2..6, 72);
    script.commit(1000..1002, 73);
    script.restart();
    script.commit(0..8, 130);
    script.map();
    script.restart();
    script.commit(1000..1002, 131);
    script.map();
    script.restart();
    script.truncate(120);
    script.commit(0..8, 132);
    let checkpoints = script.machine.log().iter().filter(|op| op.kind == OpKind::Rename).count();
    assert!(checkpoints >= 2, "the script is to write checkpoints");
    script
}

#[test]
fn what_the_head_acknowledged_is_there_after_a_power_cut_if_commits_are_synced() {
    let script = mixed(Durability::Sync);
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

#[test]
fn what_the_head_acknowledged_is_there_after_a_killed_process_in_any_case() {
    let script = mixed(Durability::Interval(Duration::from_secs(1)));
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

/// Two appenders for the same series have both appended. Between the one's log record and its samples in memory the other
/// begins its commit, and gets as far as it can.
fn raced(first: Key, second: Key) -> Script {
    let mut script = Script::new(Durability::Interval(Duration::from_secs(1)));
    let appenders = [first, second].map(|key| {
        script.history.begin(key, value(key).to_bits());
        let mut appender = script.head.appender();
        appender.append(None, &labels(key.0), key.1, value(key)).unwrap();
        appender
    });
    let [one, other] = appenders;
    let (tell, told) = mpsc::channel();
    // The log reads the clock once as it writes and once when it has.
    script.machine.at_clock_reading(1, move || {
        let (done, is_done) = mpsc::channel();
        let thread = thread::spawn(move || {
            let committed = other.commit().unwrap();
            // Nobody listens any more if it had to wait for the one.
            let _ = done.send(());
            committed
        });
        let _ = is_done.recv_timeout(Duration::from_millis(50));
        tell.send(thread).unwrap();
    });
    let one = one.commit().unwrap();
    let other = told.recv().unwrap().join().unwrap();
    for (key, committed) in [(first, one), (second, other)] {
        if committed.appended == 1 {
            script.history.acknowledge(&[key]);
        }
    }
    script
}

#[test]
fn what_was_appended_in_a_race_is_there_after_a_restart() {
    for (first, second) in [(5, 10), (10, 5), (5, 5)] {
        let script = raced((1, START_MS + first), (1, START_MS + second));
        assert!(script.history.check_every_crash(script.started, recover) > 2);
        // And neither more nor less than what queries saw before.
        let before = read(&script.head);
        let env = script.machine.kill();
        let (head, _) = Head::open(&env, Path::new(DIR), options(), script.log, i64::MIN).unwrap();
        assert_eq!(read(&head), before, "{first}, then {second}");
    }
}

impl Script {
    fn snapshot(&mut self) {
        self.head.write_snapshot().unwrap();
    }

    /// Deletes what two series have up to now.
    fn delete(&mut self) {
        self.history.let_go(|key| key.0 < 2);
        let matcher = Matcher::new(MatchOp::Regex, "series", "0|1").unwrap();
        self.head.delete(TimeRange::ALL, &[matcher]).unwrap();
    }
}

/// Snapshots between all that changes what they have to say: open chunks, full ones, deletions, a shorter log, restarts.
fn with_snapshots(durability: Durability) -> Script {
    let mut script = Script::new(durability);
    for second in 0..3 {
        script.commit(0..4, second);
    }
    script.snapshot();
    script.commit(2..6, 10);
    script.delete();
    script.snapshot();
    // The chunks of the first minute are full now.
    script.commit(0..6, 61);
    script.snapshot();
    script.commit(0..6, 62);
    script.restart();
    script.commit(6..9, 63);
    script.commit(0..2, 125);
    script.snapshot();
    script.restart();
    script.truncate(60);
    script.commit(2..4, 126);
    script.snapshot();
    script.commit(0..4, 127);
    script.head.close().unwrap();
    script.snapshot();
    script.restart();
    script.commit(0..12, 128);
    script.restart();
    let snapshots = script.machine.log().iter().filter(|op| op.kind == OpKind::Rename).count();
    assert!(snapshots >= 10, "{snapshots}");
    script
}

#[test]
fn with_snapshots_what_was_acknowledged_is_there_after_a_power_cut_if_commits_are_synced() {
    let script = with_snapshots(Durability::Sync);
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

#[test]
fn with_snapshots_what_was_acknowledged_is_there_after_a_killed_process_in_any_case() {
    let script = with_snapshots(Durability::Interval(Duration::from_secs(1)));
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

/// Whatever becomes of a snapshot's files, what was acknowledged is there.
#[test]
fn a_snapshot_that_is_damaged_is_not_believed() {
    let script = with_snapshots(Durability::Sync);
    let before = read(&script.head);
    let env = script.machine.kill();
    let names = |dir: &Path| env.fs.list(dir).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    let snapshot = names(Path::new(DIR)).into_iter().find(|name| name.starts_with("chunk_snapshot.")).unwrap();
    let snapshot = Path::new(DIR).join(snapshot);
    let mut refused = 0;
    for name in names(&snapshot) {
        let path = snapshot.join(&name);
        let whole = env.fs.read(&path).unwrap();
        for place in (0..whole.len().min(400)).step_by(7) {
            let mut bytes = whole.to_vec();
            bytes[place] ^= 0x40;
            env.fs.remove_file(&path).unwrap();
            env.fs.create(&path).unwrap().append(&bytes).unwrap();
            let (head, replayed) = Head::open_read_only(&env, Path::new(DIR), options(), i64::MIN).unwrap();
            refused += usize::from(replayed.snapshot_refused.is_some());
            assert_eq!(read(&head), before, "{name}, byte {place}");
        }
        env.fs.remove_file(&path).unwrap();
        env.fs.create(&path).unwrap().append(&whole).unwrap();
    }
    // Not all of a fragment's header is under its sum.
    assert!(refused > 40, "{refused}");
    let (head, replayed) = Head::open_read_only(&env, Path::new(DIR), options(), i64::MIN).unwrap();
    assert!(replayed.snapshot.is_some() && replayed.snapshot_refused.is_none(), "{replayed:?}");
    assert_eq!(read(&head), before);
}

/// Between a commit's log record and its samples in memory a snapshot is begun, which is to stand for that record.
#[test]
fn a_snapshot_waits_for_commits_whose_records_it_stands_for() {
    let mut script = Script::new(Durability::Interval(Duration::from_secs(1)));
    script.commit(0..2, 0);
    let key = (0, START_MS + 5);
    script.history.begin(key, value(key).to_bits());
    let mut appender = script.head.appender();
    appender.append(None, &labels(key.0), key.1, value(key)).unwrap();
    let head = Arc::clone(&script.head);
    let (tell, told) = mpsc::channel();
    // The log reads the clock once as it writes and once when it has.
    script.machine.at_clock_reading(1, move || {
        let thread = thread::spawn(move || head.write_snapshot().unwrap());
        // Time enough to get as far as it can.
        thread::sleep(Duration::from_millis(50));
        tell.send(thread).unwrap();
    });
    assert_eq!(appender.commit().unwrap().appended, 1);
    script.history.acknowledge(&[key]);
    told.recv().unwrap().join().unwrap();
    let env = script.machine.kill();
    let (head, replayed) = Head::open(&env, Path::new(DIR), options(), script.log, i64::MIN).unwrap();
    assert!(replayed.snapshot.is_some(), "{replayed:?}");
    assert_eq!(read(&head).get(&key), Some(&value(key).to_bits()));
}
