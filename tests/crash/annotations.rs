//! Crashes beside exemplars and metadata: what was acknowledged of them is there, through restarts, checkpoints and snapshots
//! of the head.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use narthex::fs::Env;
use narthex::head::{Head, HeadOptions};
use narthex::model::{Exemplar, Labels, Metadata, MetricType, TimeRange};
use narthex::testkit::{Image, OpKind, START_MS, SimHandle};
use narthex::wal::{Compression, Durability, LogOptions};

use crate::history::{History, Samples};

const DIR: &str = "/data";
const SERIES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Of the series with this number, and its time.
    Exemplar(usize, i64),
    /// What was said of the metric, counted.
    Metadata(u64),
}

fn options() -> HeadOptions {
    HeadOptions { chunk_range: 60_000, future_bound: None, max_exemplars: 1000, ..HeadOptions::default() }
}

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())])
}

struct Script {
    machine: SimHandle,
    history: History<Key>,
    head: Arc<Head>,
    log: LogOptions,
    started: u64,
    /// What was said of the metric so far, counted.
    said: u64,
}

impl Script {
    fn new(durability: Durability) -> Self {
        let (env, machine) = Env::simulated(7);
        env.fs.create_dir_all(Path::new(DIR)).unwrap();
        machine.settle();
        let log = LogOptions { segment_size: 32 << 10, compression: Compression::Snappy, durability };
        let started = machine.ops();
        let (head, _) = Head::open(&env, Path::new(DIR), options(), log, i64::MIN).unwrap();
        Self { history: History::new(&machine), machine, head, log, started, said: 0 }
    }

    /// Commits a sample of each series with an exemplar, so many seconds after the start, and says something else of the metric.
    fn commit(&mut self, seconds: i64) {
        let t = START_MS + 1000 * seconds;
        let mut appender = self.head.appender();
        let mut keys = Vec::new();
        for series in 0..SERIES {
            let value = (seconds * 10) as f64 + series as f64;
            let reference = appender.append(None, &labels(series), t, value).unwrap();
            let key = Key::Exemplar(series, t);
            self.history.begin(key.clone(), value.to_bits());
            let exemplar = Exemplar { labels: Labels::from_pairs([("trace", value.to_string())]), value, t };
            appender.append_exemplar(Some(reference), &labels(series), exemplar).unwrap();
            keys.push(key);
        }
        self.said += 1;
        let said = self.said;
        // From here on it may be the one or the other.
        self.history.let_go(|key| matches!(key, Key::Metadata(before) if *before < said));
        self.history.begin(Key::Metadata(said), said);
        let metadata = Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: said.to_string() };
        appender.update_metadata(None, &labels(0), metadata).unwrap();
        keys.push(Key::Metadata(said));
        appender.commit().unwrap();
        self.history.acknowledge(&keys);
        if self.log.durability == Durability::Sync {
            self.history.synced();
        }
    }

    fn restart(&mut self) {
        let env = self.machine.kill();
        self.head = Head::open(&env, Path::new(DIR), options(), self.log, i64::MIN).unwrap().0;
        self.history.check_now(&read(&self.head), "a restart");
    }
}

fn read(head: &Arc<Head>) -> Samples<Key> {
    let reader = head.reader(TimeRange::ALL);
    let mut found = Samples::new();
    for (labels, exemplars) in reader.exemplars(TimeRange::ALL, &[&[]]).unwrap() {
        let series = labels.get("series").unwrap().parse().unwrap();
        for exemplar in exemplars {
            assert_eq!(exemplar.labels.get("trace"), Some(exemplar.value.to_string().as_str()));
            assert_eq!(found.insert(Key::Exemplar(series, exemplar.t), exemplar.value.to_bits()), None);
        }
    }
    for (_, metadata) in reader.metadata(Some("up")) {
        let said = metadata.help.parse().unwrap();
        found.insert(Key::Metadata(said), said);
    }
    found
}

fn recover(image: &Image) -> Samples<Key> {
    let (env, _machine) = image.boot(1);
    let open = || {
        Head::open(&env, Path::new(DIR), options(), LogOptions::default(), i64::MIN)
            .unwrap_or_else(|error| panic!("{error}. {}", image.story()))
    };
    let found = read(&open().0);
    assert_eq!(read(&open().0), found, "{}", image.story());
    found
}

fn mixed(durability: Durability) -> Script {
    let mut script = Script::new(durability);
    (0..4).for_each(|second| script.commit(second));
    script.restart();
    script.commit(30);
    script.head.write_snapshot().unwrap();
    script.commit(31);
    script.restart();
    script.commit(70);
    script.restart();
    script.commit(71);
    // Their samples go, and they stay, as the series do.
    script.head.truncate(START_MS + 60_000).unwrap();
    script.commit(72);
    script.restart();
    script.commit(130);
    script.head.write_snapshot().unwrap();
    script.head.truncate(START_MS + 120_000).unwrap();
    script.commit(131);
    script.restart();
    let is_checkpoint = |op: &&narthex::testkit::Op| op.kind == OpKind::Rename && op.path.contains("/checkpoint.");
    assert!(script.machine.log().iter().filter(is_checkpoint).count() >= 2, "the script is to write checkpoints");
    script
}

#[test]
fn exemplars_and_metadata_that_were_acknowledged_survive_a_power_cut_if_commits_are_synced() {
    let script = mixed(Durability::Sync);
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

#[test]
fn exemplars_and_metadata_that_were_acknowledged_survive_a_killed_process_in_any_case() {
    let script = mixed(Durability::Interval(Duration::from_secs(1)));
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}
