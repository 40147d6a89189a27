//! Crashes of a whole database: appends, cuts of the head into blocks, shortening of the log, flush, close.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use narthex::budget::Budget;
use narthex::db::{Db, Options, ReadOnlyDb, Retention};
use narthex::error::Result;
use narthex::fs::Env;
use narthex::head::Committed;
use narthex::model::{Labels, MatchOp, Matcher, TimeRange};
use narthex::query::{SelectRequest, SeriesDecoder, Source};
use narthex::testkit::{Image, OpKind, START_MS, SimHandle, splitmix64};
use narthex::wal::{Compression, DamageKind, Durability};

use crate::history::{History, Samples};

pub(crate) const DIR: &str = "/home/data";

/// The series' number and the sample's time.
pub(crate) type Key = (usize, i64);

pub(crate) fn value(key: Key) -> f64 {
    // Small enough to be exact, and different for every sample.
    (splitmix64(&mut ((key.0 as u64) << 48 ^ key.1.cast_unsigned())) >> 12) as f64
}

pub(crate) fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())])
}

/// `seconds` after the start, in milliseconds.
pub(crate) fn at(seconds: i64) -> i64 {
    START_MS + 1000 * seconds
}

/// Blocks of a minute, segments of a page: everything happens soon.
pub(crate) fn options(durability: Durability) -> Options {
    Options {
        min_block_duration: 60_000,
        durability,
        wal_compression: Compression::Snappy,
        wal_segment_size: 32 << 10,
        future_bound: None,
        ..Options::default()
    }
}

/// A database and all that is promised of it.
pub(crate) struct Script {
    pub(crate) machine: SimHandle,
    pub(crate) history: History<Key>,
    pub(crate) db: Db,
    pub(crate) options: Options,
    pub(crate) started: u64,
}

impl Script {
    pub(crate) fn new(options: Options) -> Self {
        let (env, machine) = Env::simulated(7);
        env.fs.create_dir_all(Path::new("/home")).unwrap();
        machine.settle();
        let started = machine.ops();
        let db = Db::open_with(&env, Path::new(DIR), options.clone()).unwrap();
        Self { history: History::new(&machine), machine, db, options, started }
    }

    /// Commits a sample of each of the series, `seconds` after the start.
    pub(crate) fn try_commit(&mut self, series: impl IntoIterator<Item = usize>, seconds: i64) -> Result<Committed> {
        let keys: Vec<Key> = series.into_iter().map(|series| (series, at(seconds))).collect();
        let mut appender = self.db.appender();
        for &key in &keys {
            self.history.begin(key, value(key).to_bits());
            appender.append(None, &labels(key.0), key.1, value(key))?;
        }
        let committed = appender.commit()?;
        assert_eq!(committed.appended, keys.len() as u64);
        self.history.acknowledge(&keys);
        if self.options.durability == Durability::Sync {
            self.history.synced();
        }
        Ok(committed)
    }

    pub(crate) fn commit(&mut self, series: impl IntoIterator<Item = usize>, seconds: i64) {
        self.try_commit(series, seconds).unwrap();
    }

    /// Deletes what a series has from one second to another, both included.
    pub(crate) fn delete(&mut self, series: usize, from: i64, to: i64) {
        let range = TimeRange::new(at(from), at(to));
        let picks = |key: &Key| key.0 == series && range.contains(key.1);
        self.history.let_go(picks);
        let one = [Matcher::new(MatchOp::Equal, "series", series.to_string()).unwrap()];
        assert!(self.db.delete(range, &one).unwrap() > 0);
        self.history.deleted(picks);
    }

    pub(crate) fn restart(&mut self) {
        let env = self.machine.kill();
        self.db = Db::open_with(&env, Path::new(DIR), self.options.clone()).unwrap();
    }
}

/// Every sample that a query finds; each series and time but once.
pub(crate) fn read(source: &dyn Source) -> Result<Samples<Key>> {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget))?;
    let mut decoder = SeriesDecoder::new();
    let mut found = Samples::new();
    let mut last = None;
    while let Some(series) = set.next()? {
        assert!(last < Some(series.labels.clone()), "{} comes after {last:?}", series.labels);
        let number = series.labels.get("series").unwrap().parse().unwrap();
        let columns = decoder.decode(&series.chunks, TimeRange::ALL)?;
        assert!(columns.t.is_sorted_by(|a, b| a < b), "{}: {:?}", series.labels, columns.t);
        found.extend(columns.t.iter().zip(&columns.v).map(|(t, v)| ((number, *t), v.to_bits())));
        last = Some(series.labels);
    }
    Ok(found)
}

/// What a reader beside the owner finds, who writes nothing; then the owner; then the owner again, to whom nothing is
/// left to mend; and after a round of maintenance.
pub(crate) fn recover(image: &Image) -> Samples<Key> {
    let (env, machine) = image.boot(1);
    let story = image.story();
    let options = options(Durability::Sync);
    let is_there = image.files().iter().any(|(path, _)| path == &format!("{DIR}/"));
    let as_found = image.fingerprint();
    let beside = is_there.then(|| {
        let db = ReadOnlyDb::open_with(&env, Path::new(DIR)).unwrap_or_else(|error| panic!("{error}. {story}"));
        read(&db.source()).unwrap()
    });
    assert_eq!(machine.image().fingerprint(), as_found, "a reader wrote. {story}");

    let open =
        || Db::open_with(&env, Path::new(DIR), options.clone()).unwrap_or_else(|error| panic!("{error}. {story}"));
    let found = read(&open().source()).unwrap();
    if let Some(beside) = beside {
        assert_eq!(found, beside, "the owner and a reader see different things. {story}");
    }
    let files = machine.image().files();
    {
        let db = open();
        let left: Vec<_> = db.status().log_damage.into_iter().filter(|it| it.kind != DamageKind::Missing).collect();
        assert!(left.is_empty(), "{left:?} is left after the repair. {story}");
        assert_eq!(read(&db.source()).unwrap(), found, "the second recovery found something else. {story}");
        let now = machine.image().files();
        let changed = files.iter().find(|file| !now.contains(file));
        assert!(changed.is_none(), "the second recovery changed {:?}. {story}", changed.map(|(path, _)| path));
        db.maintain().unwrap_or_else(|error| panic!("{error}. {story}"));
        assert_eq!(read(&db.source()).unwrap(), found, "maintenance changed what is there. {story}");
    }
    assert_eq!(read(&open().source()).unwrap(), found, "after maintenance and a restart. {story}");
    found
}

/// Two minutes of life: new series, cuts, the log shortened, killed in between, flushed and closed.
fn mixed(durability: Durability) -> Script {
    let mut script = Script::new(options(durability));
    for second in 0..8 {
        script.commit(0..second as usize + 1, second);
    }
    script.restart();
    script.commit(0..40, 30);
    script.commit(0..4, 59);
    script.commit(1..5, 61);
    script.restart();
    script.commit(0..3, 95);
    script.db.maintain().unwrap();
    script.commit(2..6, 96);
    script.commit(1000..1002, 97);
    script.restart();
    script.commit(0..8, 155);
    script.db.maintain().unwrap();
    script.commit(0..8, 156);
    script.db.close().unwrap();
    script.restart();
    script.commit(0..2, 157);
    script.db.flush().unwrap();
    script.commit(0..2, 158);
    let renames = |name: &str| {
        script.machine.log().iter().filter(|op| op.kind == OpKind::Rename && op.path.contains(name)).count()
    };
    assert!(renames("checkpoint") >= 1, "the script is to write a checkpoint");
    assert!(renames("tmp-for-creation") >= 3, "the script is to write blocks");
    script
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_if_commits_are_synced() {
    let script = mixed(Durability::Sync);
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

#[test]
fn what_was_acknowledged_survives_a_killed_process_in_any_case() {
    let script = mixed(Durability::Interval(Duration::from_secs(1)));
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

/// The oldest blocks go; what is younger must not go with them, whenever the machine stops.
#[test]
fn retention_takes_the_oldest_blocks_alone() {
    let retention = Retention { time: Some(60_000), ..Retention::default() };
    let mut script = Script::new(Options { retention, ..options(Durability::Sync) });
    for second in (0..200).step_by(25) {
        // Blocks that end at 60 s go when one ends at 120 s.
        if second >= 150 {
            script.history.let_go(|key| key.1 < at(60));
        }
        script.commit(0..2, second);
        script.db.maintain().unwrap();
    }
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

/// Blocks are merged to larger ones, lose what is deleted, and go when nothing is left of them: the old ones, the new one,
/// or both and the knowledge which counts.
#[test]
fn merged_and_rewritten_blocks_lose_nothing_and_bring_nothing_back() {
    let mut script = Script::new(options(Durability::Sync));
    let (mut merged, mut dropped) = (0, 0);
    for minute in 0..6 {
        script.commit(0..3, 60 * minute);
        script.commit(1..4, 60 * minute + 45);
        if minute == 3 {
            // In a block, and in the head that is cut next.
            script.delete(2, 40, 200);
        }
        let done = script.db.maintain().unwrap();
        (merged, dropped) = (merged + done.merged.len(), dropped + done.dropped.len());
    }
    assert_eq!((merged, dropped), (1, 3), "three minutes become one block");
    script.delete(1, 0, 30);
    for series in 0..4 {
        // All of the fourth minute: nothing is left of its block.
        script.delete(series, 180, 239);
    }
    script.restart();
    let done = script.db.clean_tombstones().unwrap();
    assert_eq!((done.merged.len(), done.dropped.len()), (1, 2));
    script.db.maintain().unwrap();
    assert!(script.history.check_every_crash(script.started, recover) > 100);
}

/// Two appenders for a series that neither has seen, step by step in every order, also if the one that made the series
/// gives up: whoever is acknowledged finds its samples again, and their series with them.
#[test]
fn two_appenders_that_race_on_a_new_series_lose_nothing_in_any_order() {
    const ORDERS: [&str; 6] = ["AaBb", "ABab", "ABba", "BAab", "BAba", "BbAa"];
    for (order, gives_up) in ORDERS.iter().flat_map(|order| [(order, false), (order, true)]) {
        let mut script = Script::new(options(Durability::Sync));
        let mut appenders = BTreeMap::new();
        for step in order.chars() {
            let keys =
                if step.eq_ignore_ascii_case(&'a') { [(1, at(1)), (2, at(1))] } else { [(1, at(2)), (3, at(2))] };
            match step {
                'A' | 'B' => {
                    let mut appender = script.db.appender();
                    for key in keys {
                        script.history.begin(key, value(key).to_bits());
                        // The other may have been there with something newer.
                        let _ = appender.append(None, &labels(key.0), key.1, value(key));
                    }
                    appenders.insert(step.to_ascii_lowercase(), appender);
                }
                'a' if gives_up => appenders.remove(&step).unwrap().rollback(),
                _ => {
                    appenders.remove(&step).unwrap().commit().unwrap();
                    let now = read(&script.db.source()).unwrap();
                    script
                        .history
                        .acknowledge(&keys.into_iter().filter(|key| now.contains_key(key)).collect::<Vec<_>>());
                    script.history.synced();
                }
            }
        }
        assert!(script.history.check_every_crash(script.started, recover) > 5, "{order}");
    }
}
