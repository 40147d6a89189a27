//! A life with everything in it: samples of all kinds, in order and late, start timestamps, deletions in the head and in
//! blocks, cuts, merges, chunks of the head in files, restarts. It is stopped at its operations, and each fails once.

use std::io;
use std::path::Path;
use std::time::Duration;

use narthex::db::{Db, Options, ReadOnlyDb};
use narthex::head::FloatEncoding;
use narthex::model::{Histogram, Labels, Matcher, Sample, Span, TimeRange, Value};
use narthex::testkit::strategy::Operation;
use narthex::testkit::{CheckedDb, Image, OpKind, SimHandle, content, splitmix64};
use narthex::wal::{Compression, DamageKind, Durability};
use xxhash_rust::xxh64::xxh64;

use crate::db::{DIR, at};
use crate::history::{History, Samples, stride};

/// The series' name and the sample's time.
pub(crate) type Key = (String, i64);

/// Series of one kind of samples each: 0 and 1 floats, 2 integer histograms, 3 float histograms, 4 custom buckets.
pub(crate) const SERIES: usize = 5;

pub(crate) fn options(durability: Durability) -> Options {
    Options {
        min_block_duration: 60_000,
        max_block_duration: Some(180_000),
        out_of_order_window: 100_000,
        durability,
        wal_compression: Compression::Zstd,
        wal_segment_size: 32 << 10,
        future_bound: None,
        float_encoding: FloatEncoding::Xor2,
        start_timestamps: true,
        histogram_start_timestamps: true,
        ..Options::default()
    }
}

pub(crate) fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())])
}

/// What a series has at a time: always the same, so that an invented one is seen.
pub(crate) fn sample(series: usize, t: i64) -> Sample {
    let drawn = splitmix64(&mut ((series as u64) << 48 ^ t.cast_unsigned()));
    let histogram = || {
        let (low, high) = (drawn % 50, drawn >> 8 & 63);
        Histogram {
            count: low + high,
            sum: (drawn >> 40) as f64,
            positive_spans: vec![Span { offset: (drawn >> 16 & 1) as i32, length: 2 }],
            positive_buckets: vec![low.cast_signed(), high.cast_signed() - low.cast_signed()],
            ..Histogram::default()
        }
    };
    let value = match series % SERIES {
        2 => Value::Histogram(Box::new(histogram())),
        3 => Value::FloatHistogram(Box::new(histogram().to_float())),
        4 => Value::Histogram(Box::new(Histogram { schema: -53, custom_values: vec![0.5, 1.0, 2.5], ..histogram() })),
        _ => Value::Float((drawn >> 12) as f64),
    };
    Sample { t, st: if drawn.is_multiple_of(3) { 0 } else { t - 5000 }, value }
}

/// A sample as a number: two that say the same have the same.
pub(crate) fn fingerprint(sample: &Sample) -> u64 {
    let value = match &sample.value {
        Value::Float(value) => format!("{:x}", value.to_bits()),
        Value::Histogram(histogram) => {
            let counts: Vec<_> = histogram.to_float().positive_counts().filter(|(_, count)| *count != 0.0).collect();
            format!("{} {} {} {counts:?}", histogram.schema, histogram.count, histogram.sum)
        }
        Value::FloatHistogram(histogram) => {
            let counts: Vec<_> = histogram.positive_counts().filter(|(_, count)| *count != 0.0).collect();
            format!("float {} {} {counts:?}", histogram.count, histogram.sum)
        }
    };
    xxh64(format!("{} {} {value}", sample.t, sample.st).as_bytes(), 0)
}

pub(crate) struct Life {
    pub(crate) machine: SimHandle,
    pub(crate) history: History<Key>,
    pub(crate) db: Db,
    pub(crate) options: Options,
    pub(crate) started: u64,
}

impl Life {
    pub(crate) fn new(options: Options) -> Self {
        let (env, machine) = narthex::fs::Env::simulated(7);
        env.fs.create_dir_all(Path::new("/home")).unwrap();
        machine.settle();
        let started = machine.ops();
        let db = Db::open_with(&env, Path::new(DIR), options.clone()).unwrap();
        Self { history: History::new(&machine), machine, db, options, started }
    }

    /// Commits a sample of each of the series at each of these times, in milliseconds after the start.
    pub(crate) fn commit(
        &mut self,
        series: impl IntoIterator<Item = usize> + Clone,
        times: impl IntoIterator<Item = i64>,
    ) {
        let mut keys: Vec<Key> = Vec::new();
        let mut appender = self.db.appender();
        for t in times.into_iter().map(|ms| at(0) + ms) {
            for series in series.clone() {
                let (labels, sample) = (labels(series), sample(series, t));
                let key = (labels.to_string(), t);
                self.history.begin(key.clone(), fingerprint(&sample));
                keys.push(key);
                let Sample { t, st, value } = sample;
                match value {
                    Value::Float(value) => appender.append_with_start(None, &labels, st, t, value),
                    Value::Histogram(histogram) => {
                        appender.append_histogram_with_start(None, &labels, st, t, *histogram)
                    }
                    Value::FloatHistogram(histogram) => {
                        appender.append_float_histogram_with_start(None, &labels, st, t, *histogram)
                    }
                }
                .unwrap();
            }
        }
        let committed = appender.commit().unwrap();
        assert_eq!(committed.appended, keys.len() as u64, "{committed:?}");
        self.history.acknowledge(&keys);
        if self.options.durability == Durability::Sync {
            self.history.synced();
        }
    }

    /// Deletes from one time to another, in milliseconds after the start.
    pub(crate) fn delete(&mut self, series: usize, from: i64, to: i64) {
        let range = TimeRange::new(at(0) + from, at(0) + to);
        let name = labels(series).to_string();
        let meant = |key: &Key| key.0 == name && range.contains(key.1);
        self.history.let_go(meant);
        self.db.delete(range, &[Matcher::equal("series", series.to_string())]).unwrap();
        if self.options.durability == Durability::Sync {
            self.history.deleted(meant);
        }
    }

    pub(crate) fn restart(&mut self) {
        let env = self.machine.kill();
        self.db = Db::open_with(&env, Path::new(DIR), self.options.clone()).unwrap();
    }
}

pub(crate) fn read(source: &dyn narthex::Source) -> Samples<Key> {
    let found = content(source, TimeRange::ALL, &[]).unwrap();
    let samples = |(labels, samples): (Labels, std::collections::BTreeMap<i64, Sample>)| {
        let name = labels.to_string();
        samples.into_iter().map(move |(t, sample)| ((name.clone(), t), fingerprint(&sample))).collect::<Vec<_>>()
    };
    found.into_iter().flat_map(samples).collect()
}

/// Whether a sample says what was written at its time.
fn is_as_written(key: &Key, bits: u64) -> bool {
    (0..9).any(|series| labels(series).to_string() == key.0 && fingerprint(&sample(series, key.1)) == bits)
}

/// What one of two has and the other has not, and whether it is what was written.
fn difference(a: &Samples<Key>, b: &Samples<Key>) -> String {
    let only = |a: &Samples<Key>, b: &Samples<Key>| {
        let differing = a.iter().filter(|(key, bits)| b.get(*key) != Some(bits));
        differing.map(|(key, bits)| (key.clone(), is_as_written(key, *bits))).take(9).collect::<Vec<_>>()
    };
    format!("{:?} in the first alone, {:?} in the second", only(a, b), only(b, a))
}

fn same(a: &Samples<Key>, b: &Samples<Key>, what: &str, story: &str) {
    assert!(a == b, "{what}: {}. {story}", difference(a, b));
}

/// What a reader beside the owner finds, who writes nothing; then the owner; then the owner again; and after a round of
/// maintenance, which may take what `may_go` says.
pub(crate) fn recover(image: &Image, options: &Options, may_go: impl Fn(&Key) -> bool) -> (Samples<Key>, Db) {
    let (env, machine) = image.boot(1);
    let story = image.story();
    let is_there = image.files().iter().any(|(path, _)| path == &format!("{DIR}/"));
    let as_found = image.fingerprint();
    let beside = is_there.then(|| {
        let db = ReadOnlyDb::open_with(&env, Path::new(DIR)).unwrap_or_else(|error| panic!("{error}. {story}"));
        read(&db.source())
    });
    assert_eq!(machine.image().fingerprint(), as_found, "a reader wrote. {story}");
    let open =
        || Db::open_with(&env, Path::new(DIR), options.clone()).unwrap_or_else(|error| panic!("{error}. {story}"));
    let found = read(&open().source());
    if let Some(beside) = beside {
        // A reader does not know whether the owner keeps histograms' start timestamps, and may show none.
        let times = |samples: &Samples<Key>| samples.keys().map(|key| (key.clone(), 0)).collect::<Samples<Key>>();
        same(&times(&found), &times(&beside), "the owner and a reader see different things", story);
    }
    let db = open();
    let left: Vec<_> = db.status().log_damage.into_iter().filter(|it| it.kind != DamageKind::Missing).collect();
    assert!(left.is_empty(), "{left:?} is left after the repair. {story}");
    same(&read(&db.source()), &found, "the second recovery found something else", story);
    db.maintain().unwrap_or_else(|error| panic!("{error}. {story}"));
    let after = read(&db.source());
    let stays = |samples: &Samples<Key>| {
        samples.iter().filter(|(key, _)| !may_go(key)).map(|(key, bits)| (key.clone(), *bits)).collect::<Samples<Key>>()
    };
    same(&stays(&after), &stays(&found), "maintenance changed what is there", story);
    assert!(after.keys().all(|key| found.contains_key(key)), "maintenance brought something back. {story}");
    drop(db);
    let db = open();
    same(&read(&db.source()), &after, "after maintenance and a restart", story);
    (found, db)
}

fn mixed(durability: Durability) -> Life {
    let mut life = Life::new(options(durability));
    for second in 0..4 {
        life.commit(0..SERIES, [second * 1000]);
    }
    // Full chunks of floats and of histograms.
    life.commit(0..3, (0..130).map(|n| 10_000 + 10 * n));
    // Late, and more than a buffer takes.
    life.commit(0..SERIES, [9_001, 9_003]);
    life.commit([1, 2], (0..40).map(|n| 8_001 + 2 * n));
    life.delete(0, 1000, 2000);
    life.delete(2, 8_001, 8_021);
    life.restart();
    life.commit(0..SERIES, [30_000, 61_000, 95_000]);
    life.commit([3], [29_000, 28_000]);
    life.db.maintain().unwrap();
    // Into what is a block by now.
    life.commit([0, 4], [20_500, 62_500]);
    life.delete(1, 10_000, 10_400);
    life.commit(5..8, [96_000]);
    life.restart();
    life.commit(0..SERIES, [155_000]);
    life.db.maintain().unwrap();
    life.commit(0..SERIES, [156_000, 250_000]);
    life.db.maintain().unwrap();
    life.commit([2], [200_000]);
    life.db.clean_tombstones().unwrap();
    life.db.close().unwrap();
    life.restart();
    life.db.flush().unwrap();
    life.db.compact().unwrap();
    life.commit(0..2, [260_000]);
    life
}

#[test]
fn all_of_it_survives_a_power_cut_if_commits_are_synced() {
    let life = mixed(Durability::Sync);
    let log = life.machine.log();
    let renames = |name: &str| log.iter().filter(|op| op.kind == OpKind::Rename && op.path.contains(name)).count();
    assert!(renames("checkpoint") >= 1 && renames("tmp-for-creation") >= 4, "a life has blocks and checkpoints");
    assert!(log.iter().any(|op| op.kind == OpKind::Append && op.path.contains("/wbl/")), "something came late");
    let images = life.history.check_many_crashes(life.started, |image| recover(image, &life.options, |_| false).0);
    assert!(images > 20, "{images} images");
}

#[test]
fn all_of_it_survives_a_killed_process_in_any_case() {
    let life = mixed(Durability::Interval(Duration::from_secs(1)));
    let images = life.history.check_many_crashes(life.started, |image| recover(image, &life.options, |_| false).0);
    assert!(images > 20, "{images} images");
}

/// The same for a [`CheckedDb`], of which any operation may fail.
fn operations() -> Vec<Operation> {
    let append = |appender, series: usize, ago| Operation::Append {
        appender,
        labels: labels(series),
        ago,
        value: sample(series, ago).value,
        age: 5000,
    };
    let commit = Operation::Commit { appender: 0 };
    let delete = |series: usize, ago, len| Operation::Delete {
        ago,
        len,
        matchers: vec![Matcher::equal("series", series.to_string())],
    };
    let mut all: Vec<Operation> = (0..SERIES).map(|series| append(0, series, 0)).collect();
    all.push(commit.clone());
    all.push(Operation::Pass { time: 2000 });
    for series in 0..2 {
        let value = sample(series, 1).value;
        all.push(Operation::Burst { labels: labels(series), ago: 0, step: 10, count: 130, value });
    }
    all.push(Operation::Burst { labels: labels(0), ago: 1003, step: 20, count: 45, value: Value::Float(7.0) });
    all.push(delete(0, 1000, 100));
    for (time, late) in [(60_000, 30_000), (65_000, 90_000)] {
        all.push(Operation::Pass { time });
        all.extend((0..SERIES).map(|series| append(0, series, 0)));
        all.extend((0..SERIES).map(|series| append(0, series, late)));
        all.push(commit.clone());
        all.push(Operation::Maintain);
        all.push(delete(1, 150_000, 60_000));
    }
    all.push(append(0, 3, 50_500));
    all.push(commit.clone());
    all.push(Operation::Reopen);
    all.push(append(0, 2, 50_500));
    all.push(commit);
    all.push(Operation::Flush);
    all.push(Operation::CleanTombstones);
    all.push(Operation::Compact);
    all
}

/// What is wrong in the end, or the first thing on the way there.
fn live(options: &Options, operations: &[Operation], fault: &Operation) -> Result<(), String> {
    let mut db = CheckedDb::open(7, options.clone()).unwrap();
    let opened = db.machine().ops();
    let last = [Operation::Heal, Operation::Kill, Operation::PowerCut { seed: 1 }, Operation::PowerCut { seed: 3 }];
    for (number, operation) in std::iter::once(fault).chain(operations).chain(&last).enumerate() {
        db.apply(operation).map_err(|difference| {
            let failed = match fault {
                Operation::Fail { after, .. } => db.machine().log().into_iter().nth((opened + after) as usize),
                _ => None,
            };
            format!("{difference}, after operation {number}, {operation:?}, with {fault:?}, which is {failed:?}")
        })?;
    }
    Ok(())
}

/// Lives the life once for each operation of the disk, which fails; or for one in [`stride`].
pub(crate) fn every_operation_fails_with(kind: io::ErrorKind, options: &Options, operations: &[Operation]) {
    let whole = {
        let mut db = CheckedDb::open(7, options.clone()).unwrap();
        let opened = db.machine().ops();
        for operation in operations {
            db.apply(operation).unwrap_or_else(|difference| panic!("{difference}, after {operation:?}"));
        }
        db.machine().ops() - opened
    };
    assert!(whole > 300, "{whole} operations are not a life");
    println!("{whole} operations of the disk, one in {} fails", stride());
    let lives = (0..whole).step_by(stride() as usize);
    let wrong: Vec<String> = lives
        .filter_map(|after| live(options, operations, &Operation::Fail { after, sync: false, kind }).err())
        .collect();
    assert!(wrong.is_empty(), "{} lives go wrong: {wrong:#?}", wrong.len());
}

#[test]
fn whichever_operation_of_it_fails_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::Other, &options(Durability::Sync), &operations());
}

#[test]
fn whichever_operation_of_it_finds_the_disk_full_nothing_acknowledged_is_lost() {
    every_operation_fails_with(io::ErrorKind::StorageFull, &options(Durability::Sync), &operations());
}
