//! What becomes of blocks beside cuts and merges: backfills and imports are taken over, rules expire some of their series,
//! series that have ended leave the head, old blocks get coarser copies, the head leaves snapshots, and all of it is copied.
//! Such a life is stopped at its operations, and each fails once.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use narthex::block::{Block, BlockRead};
use narthex::budget::Budget;
use narthex::compact::downsample::{FIVE_MINUTES, downsample};
use narthex::compact::{BulkOptions, BulkWriter};
use narthex::db::{Db, Downsampling, Options, ReadOnlyDb, RetentionRule};
use narthex::model::{Labels, MatchOp, Matcher, Sample, Value};
use narthex::testkit::strategy::Operation;
use narthex::testkit::{Image, OpKind};
use narthex::wal::Durability;

use crate::db::{DIR, at};
use crate::everything::{
    self, Key, Life, SERIES, every_operation_fails_with, fingerprint, labels, read, recover, sample,
};
use crate::history::Samples;

/// Where blocks lie that are imported, and where the database is copied to.
const OTHER: &str = "/home/other";
const COPY: &str = "/home/copy";

const STALE: f64 = f64::from_bits(narthex::model::STALE_NAN_BITS);

/// The series 5 and 6 are kept for two blocks' time.
fn options(durability: Durability) -> Options {
    let some = Matcher::new(MatchOp::Regex, "series", "5|6").unwrap();
    Options {
        retention_rules: vec![RetentionRule { matchers: vec![some], keep: 120_000 }],
        stale_series_share: Some(0.1),
        downsampling: Some(Downsampling {
            five_minutes_after: 60_000,
            hour_after: 120_000,
            keep_five_minutes: None,
            keep_hours: None,
        }),
        snapshot_at_close: true,
        snapshot_interval: Some(Duration::from_secs(60)),
        ..everything::options(durability)
    }
}

/// Whether it is a sample that a rule lets expire by the end.
fn may_expire(key: &Key) -> bool {
    [5, 6].iter().any(|series| labels(*series).to_string() == key.0)
}

fn bulk_options() -> BulkOptions {
    BulkOptions { block_duration: 60_000, start_timestamps: true, ..BulkOptions::default() }
}

/// Samples of these series at these times, in milliseconds after the start.
fn samples(series: &[usize], times: &[i64]) -> Vec<(Labels, Sample)> {
    let of = |series: usize| times.iter().map(move |ms| (labels(series), sample(series, at(0) + ms)));
    series.iter().flat_map(|series| of(*series)).collect()
}

impl Life {
    /// Writes these samples in another way than by appends, and durably in any case.
    fn take_over(&mut self, samples: &[(Labels, Sample)], work: impl FnOnce(&Db)) {
        let keys: Vec<Key> = samples.iter().map(|(labels, sample)| (labels.to_string(), sample.t)).collect();
        for (key, (_, sample)) in keys.iter().zip(samples) {
            self.history.begin(key.clone(), fingerprint(sample));
        }
        work(&self.db);
        self.history.acknowledge(&keys);
        self.history.synced_alone(&keys);
    }

    fn bulk(&mut self, samples: &[(Labels, Sample)]) {
        self.take_over(samples, |db| {
            let mut bulk = db.bulk(bulk_options()).unwrap();
            samples.iter().for_each(|(labels, sample)| bulk.append(labels, sample).unwrap());
            assert!(!bulk.commit().unwrap().is_empty());
        });
    }

    /// Commits a stale marker.
    fn end(&mut self, series: usize, ms: i64) {
        let (labels, t) = (labels(series), at(0) + ms);
        let key = (labels.to_string(), t);
        self.history.begin(key.clone(), fingerprint(&Sample::float(t, STALE)));
        let mut appender = self.db.appender();
        appender.append(None, &labels, t, STALE).unwrap();
        assert_eq!(appender.commit().unwrap().appended, 1);
        self.history.acknowledge(&[key]);
        if self.options.durability == Durability::Sync {
            self.history.synced();
        }
    }

    /// Copies the database, with all that is in it.
    fn copy(&mut self) {
        let all = read(&self.db.source());
        let keys: Vec<Key> = all.keys().map(copied).collect();
        keys.iter().zip(all.values()).for_each(|(key, bits)| self.history.begin(key.clone(), *bits));
        assert!(!self.db.snapshot(Path::new(COPY), true).unwrap().is_empty());
        self.history.acknowledge(&keys);
        self.history.synced_alone(&keys);
    }
}

/// The sample in a copy.
fn copied((name, t): &Key) -> Key {
    (format!("copy of {name}"), *t)
}

fn life(durability: Durability) -> Life {
    let mut life = Life::new(options(durability));
    let imported = samples(&[1, 3], &[-290_000, -289_000, -230_000]);
    let env = life.machine.env();
    let mut writer = BulkWriter::create(&env, Path::new(OTHER), bulk_options()).unwrap();
    imported.iter().for_each(|(labels, sample)| writer.append(labels, sample).unwrap());
    assert_eq!(writer.finish().unwrap().len(), 2);
    life.machine.settle();
    life.started = life.machine.ops();

    life.commit(0..7, [0, 1000]);
    life.bulk(&samples(&[0, 2, 4], &[-200_000, -199_000, -150_000]));
    life.end(6, 2000);
    life.commit(0..6, [3000]);
    life.db.maintain().unwrap();
    assert_eq!(life.db.head().series_count(), 6, "the one that ended has left");
    life.commit(0..SERIES, [61_000, 95_000]);
    // Late, and in the head when the next backfill comes.
    life.commit([0, 3], [50_500]);
    life.take_over(&imported, |db| assert_eq!(db.import(Path::new(OTHER)).unwrap().len(), 2));
    life.machine.advance(Duration::from_secs(61));
    life.db.maintain().unwrap();
    life.restart();
    // It begins again.
    life.commit([6], [96_000]);
    life.copy();
    life.end(1, 97_000);
    life.commit(0..1, [155_000]);
    life.db.maintain().unwrap();
    life.db.close().unwrap();
    life.restart();
    life.commit(2..SERIES, [156_000]);
    life.delete(0, -200_000, -199_500);
    life.history.let_go(|key| may_expire(key) && key.1 < at(120));
    life.commit(0..1, [250_000]);
    life.machine.advance(Duration::from_secs(61));
    life.db.maintain().unwrap();
    let left = read(&life.db.source());
    assert!(!left.keys().any(|key| may_expire(key) && key.1 < at(60)), "the rule was due");
    life.bulk(&samples(&[0, 3], &[100_500, -60_500]));
    life.db.clean_tombstones().unwrap();
    life.db.compact().unwrap();
    life.commit(0..2, [251_000]);
    life
}

/// Encodings and bytes of chunks.
type Chunks = Vec<(u8, Vec<u8>)>;

/// The chunks of a block, by series.
fn chunks(block: &Block) -> Vec<(Labels, Chunks)> {
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    let series = block.select(&[]).unwrap().into_iter().map(|id| {
        block.series(id, &mut labels, &mut metas).unwrap();
        let chunk = |meta| block.any_chunk(meta).map(|(encoding, data)| (encoding, data.to_vec())).unwrap();
        (labels.clone(), metas.iter().map(chunk).collect())
    });
    series.collect()
}

/// Whether every block that is old enough has the copy that is made of it as it is now, and one.
fn check_coarser(db: &Db, story: &str) {
    let (status, env) = (db.status(), db.env());
    assert_eq!(status.quarantined, [], "{story}");
    let open = |path: PathBuf| Block::open(&*env.fs, &path).unwrap_or_else(|error| panic!("{error}. {story}"));
    let newest = status.blocks.iter().map(|block| block.meta.max_time).max().max(status.max_time).unwrap_or(0);
    for block in status.blocks.iter().filter(|block| newest - block.meta.max_time >= 60_000) {
        let source = open(Path::new(DIR).join(block.meta.ulid.to_string()));
        let fresh = Path::new("/fresh");
        let Some(fresh_meta) =
            downsample(env, fresh, &source, source.meta(), FIVE_MINUTES, &Budget::unlimited()).unwrap()
        else {
            continue;
        };
        let sources = &block.meta.compaction.sources;
        let copies = status.downsampled.iter().map(|copy| &copy.meta);
        let copies = copies.filter(|it| it.resolution() == FIVE_MINUTES && it.compaction.sources == *sources);
        let names: Vec<_> = copies.map(|meta| meta.ulid.to_string()).collect();
        assert_eq!(names.len(), 1, "{names:?} are made of block {}. {story}", block.meta.ulid);
        let copy = open(Path::new(DIR).join("downsampled").join(&names[0]));
        copy.verify().unwrap_or_else(|error| panic!("{error}. {story}"));
        let fresh = open(fresh.join(fresh_meta.ulid.to_string()));
        assert!(chunks(&copy) == chunks(&fresh), "a copy of block {} is not of it. {story}", block.meta.ulid);
    }
}

/// What is there, and what is in the copy.
fn look(image: &Image, options: &Options) -> Samples<Key> {
    let (mut found, db) = recover(image, options, may_expire);
    check_coarser(&db, image.story());
    let (env, _) = image.boot(1);
    if env.fs.stat(Path::new(COPY)).unwrap().is_some() {
        let copy = ReadOnlyDb::open_with(&env, Path::new(COPY)).unwrap();
        assert_eq!(copy.status().quarantined, [], "{}", image.story());
        found.extend(read(&copy.source()).iter().map(|(key, bits)| (copied(key), *bits)));
    }
    found
}

#[test]
fn whatever_becomes_of_blocks_survives_a_power_cut() {
    let life = life(Durability::Sync);
    let log = life.machine.log();
    let renames = |name: &str| log.iter().filter(|op| op.kind == OpKind::Rename && op.path.contains(name)).count();
    assert!(renames("downsampled/") >= 4 && renames("chunk_snapshot") >= 2, "a life has copies and snapshots");
    let images = life.history.check_many_crashes(life.started, |image| look(image, &life.options));
    assert!(images > 20, "{images} images");
}

#[test]
fn whatever_becomes_of_blocks_survives_a_killed_process_in_any_case() {
    let life = life(Durability::Interval(Duration::from_secs(1)));
    let images = life.history.check_many_crashes(life.started, |image| look(image, &life.options));
    assert!(images > 20, "{images} images");
}

/// The like for a `CheckedDb`, of which any operation may fail.
fn operations() -> Vec<Operation> {
    let append = |series: usize, ago| {
        let (labels, value) = (labels(series), sample(series, ago).value);
        Operation::Append { appender: 0, labels, ago, value, age: 5000 }
    };
    let commit = Operation::Commit { appender: 0 };
    let bulk = |series: &[usize], ago: &[i64]| Operation::Bulk {
        samples: series
            .iter()
            .flat_map(|s| ago.iter().map(|ago| (labels(*s), *ago, Value::Float(*ago as f64))))
            .collect(),
    };
    let mut all: Vec<Operation> = (0..7).map(|series| append(series, 0)).collect();
    all.push(commit.clone());
    let traced = Labels::from_pairs([("trace_id", "a")]);
    all.push(Operation::Exemplar { appender: 0, labels: labels(0), ago: 0, exemplar: traced, value: 1 });
    let metadata = narthex::model::Metadata { unit: "seconds".to_owned(), ..Default::default() };
    all.push(Operation::Describe { appender: 0, labels: labels(0), metadata });
    all.push(commit.clone());
    all.push(bulk(&[0, 1], &[200_000, 150_000]));
    all.push(Operation::Pass { time: 2000 });
    all.push(Operation::End { labels: labels(6) });
    all.push(Operation::Maintain);
    all.push(Operation::Pass { time: 61_000 });
    all.extend((0..SERIES).map(|series| append(series, 0)));
    all.push(append(2, 30_000));
    all.push(commit.clone());
    all.push(Operation::Copy { with_head: true, back: true });
    all.push(Operation::Pass { time: 62_000 });
    all.push(append(6, 0));
    all.push(append(0, 0));
    all.push(commit.clone());
    all.push(Operation::Maintain);
    all.push(Operation::Delete { ago: 210_000, len: 20_000, matchers: vec![Matcher::equal("series", "0")] });
    all.push(Operation::Reopen);
    all.push(Operation::Pass { time: 120_000 });
    all.push(append(0, 0));
    all.push(commit.clone());
    all.push(Operation::Maintain);
    all.push(append(0, 0));
    all.push(commit);
    all.push(Operation::CleanTombstones);
    all.push(Operation::Compact);
    all.push(Operation::Copy { with_head: false, back: false });
    all
}

#[test]
fn whichever_operation_on_blocks_fails_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::Other, &options(Durability::Sync), &operations());
}

#[test]
fn whichever_operation_on_blocks_finds_the_disk_full_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::StorageFull, &options(Durability::Sync), &operations());
}
