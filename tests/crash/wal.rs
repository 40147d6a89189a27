//! Crashes of the write-ahead log alone: append, segments, checkpoint, truncation, repair.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use narthex::model::Labels;
use narthex::testkit::{Image, OpKind, SimHandle, splitmix64};
use narthex::wal::record::{self, RecordType, RefSample};
use narthex::wal::{
    Compression, Damage, DamageKind, Decompressor, Durability, Log, LogOptions, LogReader, remove_checkpoints, repair,
    write_checkpoint,
};

use crate::history::{History, Samples};

const DIR: &str = "/data/wal";

/// Series reference and time.
type Key = (u64, i64);

/// The value that the sample at `key` always has, so that an invented one is seen.
fn bits(key: Key) -> u64 {
    splitmix64(&mut (key.0 << 32 ^ key.1.cast_unsigned()))
}

/// A log, what was written to it, and who writes.
struct Script {
    env: Env,
    machine: SimHandle,
    history: History<Key>,
    log: Log,
    options: LogOptions,
    started: u64,
}

impl Script {
    fn new(durability: Durability, compression: Compression) -> Self {
        let (env, machine) = Env::simulated(7);
        env.fs.create_dir_all(Path::new("/data")).unwrap();
        machine.settle();
        let options = LogOptions { segment_size: 32 << 10, compression, durability };
        let started = machine.ops();
        let log = Log::open(&env, Path::new(DIR), options).unwrap();
        Self { history: History::new(&machine), env, machine, log, options, started }
    }

    fn add_series(&self, reference: u64) {
        let labels = Labels::from_pairs([("__name__", "up".to_owned()), ("instance", format!("{reference:040}"))]);
        self.log.add_series(reference as u32, reference, labels.iter());
    }

    /// Commits one sample at `t` for each of the series.
    fn commit(&mut self, references: impl Iterator<Item = u64>, t: i64) {
        let keys: Vec<Key> = references.map(|reference| (reference, t)).collect();
        let mut record = Vec::new();
        let samples = keys.iter().map(|&key| RefSample { reference: key.0, t, st: 0, v: f64::from_bits(bits(key)) });
        record::encode_samples(samples, &mut record);
        keys.iter().for_each(|&key| self.history.begin(key, bits(key)));
        self.log.commit(&[&record]).unwrap();
        self.history.acknowledge(&keys);
        if self.options.durability == Durability::Sync {
            self.history.synced();
        }
    }

    fn sync(&mut self) {
        self.log.sync().unwrap();
        self.history.synced();
    }

    /// As [`commit`](Self::commit) of one series, which fails.
    fn fail_to_commit(&mut self, reference: u64, t: i64) -> Error {
        let key = (reference, t);
        let mut record = Vec::new();
        record::encode_samples([RefSample { reference, t, st: 0, v: f64::from_bits(bits(key)) }], &mut record);
        self.history.begin(key, bits(key));
        self.log.commit(&[&record]).unwrap_err().into()
    }

    /// Kills the process and starts the next on what the page cache holds.
    fn restart(&mut self) {
        self.env = self.machine.kill();
        let (_, damage) = read(&self.env);
        repair(&self.env, Path::new(DIR), &damage).unwrap();
        self.log = Log::open(&self.env, Path::new(DIR), self.options).unwrap();
    }

    /// A checkpoint that stands for all segments but the one that is written to and keeps all that reaches `mint`.
    fn checkpoint(&mut self, mint: i64) {
        let (_, last) = self.log.segments().unwrap();
        self.history.let_go(|key| key.1 < mint);
        write_checkpoint(&self.env, Path::new(DIR), last - 1, self.options.compression, mint, |_| true).unwrap();
        self.log.truncate(last).unwrap();
        remove_checkpoints(&*self.env.fs, Path::new(DIR), last - 1).unwrap();
    }

    fn check(self) -> usize {
        self.history.check_every_crash(self.started, recover)
    }
}

/// All samples in the log that stand behind their series.
fn read(env: &Env) -> (Samples<Key>, Vec<Damage>) {
    let mut reader = LogReader::open(&env.fs, Path::new(DIR)).unwrap();
    let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
    let mut series = BTreeMap::new();
    let mut found = Samples::new();
    while let Some(at) = reader.next(&mut decompressor, &mut bytes).unwrap() {
        match RecordType::of(&bytes) {
            Some(RecordType::Series) => {
                record::decode_series(&bytes, |reference, labels| {
                    series.insert(reference, labels.build());
                })
                .unwrap();
            }
            Some(RecordType::Samples) => {
                let mut samples = Vec::new();
                record::decode_samples(&bytes, &mut samples).unwrap();
                for sample in samples {
                    // One without its series is lost: if it was promised, that is seen.
                    if series.contains_key(&sample.reference) {
                        found.insert((sample.reference, sample.t), sample.v.to_bits());
                    }
                }
            }
            // One byte of a header and zeros behind it are, by the format's rules, an empty record: readers skip it.
            None if bytes.is_empty() => {}
            other => panic!("a {other:?} record at {at:?}"),
        }
    }
    (found, reader.finish())
}

/// Recovers as an owner does: read, repair, begin a new segment. And again, which must change nothing.
fn recover(image: &Image) -> Samples<Key> {
    let (env, machine) = image.boot(1);
    let (found, damage) = read(&env);
    repair(&env, Path::new(DIR), &damage).unwrap_or_else(|error| panic!("{error}. {}", image.story()));
    drop(Log::open(&env, Path::new(DIR), LogOptions::default()).unwrap());
    let after_first = machine.image().files();
    let (again, damage) = read(&env);
    let left: Vec<_> = damage.iter().filter(|damage| damage.kind != DamageKind::Missing).collect();
    assert!(left.is_empty(), "{left:?} is left after the repair. {}", image.story());
    assert_eq!(again, found, "{}", image.story());
    repair(&env, Path::new(DIR), &damage).unwrap();
    assert_eq!(machine.image().files(), after_first, "a second repair changed something. {}", image.story());
    found
}

/// Series come and go on being written to, segments fill up, the disk is full for a moment, the process is killed and starts again, old segments are
/// given up for a checkpoint, twice.
fn mixed(durability: Durability, compression: Compression) -> Script {
    let mut script = Script::new(durability, compression);
    for t in 0..4 {
        script.add_series(t + 1);
        script.commit(1..t + 2, t.cast_signed());
    }
    // Larger than what is left of the segment, and than a page.
    script.commit((1..5).cycle().take(1700), 4);
    script.sync();
    for t in 40..52 {
        script.commit(t % 3 + 1..5, t.cast_signed());
    }
    script.machine.set_capacity(Some(script.machine.used() + 10));
    assert_eq!(script.fail_to_commit(1, 60).kind(), ErrorKind::Full);
    script.machine.set_capacity(None);
    script.commit(1..5, 61);
    script.restart();
    script.add_series(5);
    script.commit(1..6, 62);
    script.log.next_segment().unwrap();
    script.checkpoint(45);
    script.commit(1..6, 70);
    script.restart();
    script.commit(1..6, 80);
    script.log.next_segment().unwrap();
    script.checkpoint(62);
    script.commit(2..6, 90);
    script
}

#[test]
fn commits_that_are_synced_survive_a_power_cut() {
    assert!(mixed(Durability::Sync, Compression::None).check() > 100);
}

#[test]
fn commits_that_are_not_synced_survive_a_killed_process_and_what_was_synced_a_power_cut() {
    assert!(mixed(Durability::Interval(Duration::from_secs(1)), Compression::Snappy).check() > 100);
}

#[test]
fn without_syncs_a_power_cut_leaves_only_what_was_written() {
    assert!(mixed(Durability::Never, Compression::Zstd).check() > 100);
}

/// A process that does not sync leaves a series record in the page cache alone; the next one, which does, relies on it.
#[test]
fn a_commit_that_is_synced_does_not_rest_on_what_an_earlier_process_left_unsynced() {
    let mut script = Script::new(Durability::Never, Compression::None);
    script.add_series(1);
    script.commit(1..2, 0);
    script.options.durability = Durability::Sync;
    script.restart();
    script.commit(1..2, 1);
    assert!(script.check() > 4);
}

/// Without syncs, the next segment may be begun before the one that is full is on the disk; a process can end in between.
#[test]
fn a_commit_that_is_synced_does_not_rest_on_a_full_segment_that_an_earlier_process_left_unsynced() {
    let mut script = Script::new(Durability::Never, Compression::None);
    script.add_series(1);
    script.commit(1..2, 0);
    // As it is when the next one has been begun, and nothing synced yet.
    let next = script.env.fs.create(&Path::new(DIR).join("00000001")).unwrap();
    script.env.fs.sync_dir(Path::new(DIR)).unwrap();
    drop(next);
    script.options.durability = Durability::Sync;
    script.restart();
    script.commit(1..2, 1);
    assert!(script.check() > 4);
}

/// What a failed sync should have covered is in the page cache, is read after a restart, and no later sync writes it.
#[test]
fn a_commit_that_is_synced_does_not_rest_on_what_a_failed_sync_left_in_the_cache() {
    let mut script = Script::new(Durability::Sync, Compression::None);
    script.add_series(1);
    script.commit(1..2, 0);
    script.add_series(2);
    script.machine.fail_when(|op| (op.kind == OpKind::Sync).then_some(io::ErrorKind::Other));
    script.fail_to_commit(2, 1);
    script.machine.heal();
    script.restart();
    script.commit(1..3, 2);
    script.restart();
    script.commit(1..3, 3);
    assert!(script.check() > 20);
}

/// Every way in which the steps of two appenders, each with a new series and one of them with the same, can follow each
/// other: who makes a series adds it to the log before the other can find it, so either may commit first.
#[test]
fn two_appenders_that_race_on_a_new_series_lose_nothing() {
    // Appender a makes series 1, b makes series 2; each writes both.
    for order in [[0, 1, 2, 3], [0, 1, 3, 2], [1, 0, 2, 3], [1, 0, 3, 2], [0, 2, 1, 3], [1, 3, 0, 2]] {
        let mut script = Script::new(Durability::Sync, Compression::None);
        let mut made = Vec::new();
        for step in order {
            match step {
                0 | 1 => {
                    script.add_series(step + 1);
                    made.push(step + 1);
                }
                _ => script.commit(made.clone().into_iter(), step.cast_signed()),
            }
        }
        assert!(script.check() > 10, "{order:?}");
    }
}

#[test]
fn the_interval_is_kept_by_who_commits_next() {
    let mut script = Script::new(Durability::Interval(Duration::from_secs(1)), Compression::None);
    script.add_series(1);
    script.commit(1..2, 0);
    script.machine.advance(Duration::from_secs(2));
    script.commit(1..2, 1);
    // The second commit synced both.
    script.history.synced();
    script.commit(1..2, 2);
    assert!(script.check() > 4);
}
