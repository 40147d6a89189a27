use super::*;
use crate::block::BlockRead;
use crate::chunk::Encoding;
use crate::db::{DbSource, Options};
use crate::fs::Env;
use crate::fs::sim::{OpKind, START_MS};
use crate::head::FloatEncoding;
use crate::model::Value;
use crate::query::{SelectRequest, Source, series_samples};

const MINUTE: i64 = 60_000;

fn open(env: &Env, options: Options) -> Db {
    Db::open_with(env, Path::new("/data"), options).unwrap()
}

fn labels() -> Labels {
    Labels::from_pairs([("__name__", "m")])
}

/// Times in minutes after the start, and values.
fn content(source: &DbSource) -> Vec<(i64, f64)> {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut all = Vec::new();
    while let Some(series) = set.next().unwrap() {
        for sample in series_samples(&series.chunks, TimeRange::ALL).unwrap() {
            let Value::Float(value) = sample.value else { panic!("a histogram") };
            all.push(((sample.t - START_MS) / MINUTE, value));
        }
    }
    all
}

fn append(db: &Db, minutes: impl Iterator<Item = i64>, value: f64) {
    for minute in minutes {
        let mut appender = db.appender();
        appender.append(None, &labels(), START_MS + minute * MINUTE, value).unwrap();
        appender.commit().unwrap();
    }
}

fn backfill(db: &Db, minutes: impl Iterator<Item = i64>, value: f64) -> Result<Vec<Ulid>> {
    let mut bulk = db.bulk(BulkOptions::default()).unwrap();
    for minute in minutes {
        bulk.append(&labels(), &Sample::float(START_MS + minute * MINUTE, value)).unwrap();
    }
    bulk.commit()
}

fn without_bound() -> Options {
    Options { future_bound: None, ..Options::default() }
}

fn all(minutes: std::ops::Range<i64>, value: impl Fn(i64) -> f64) -> Vec<(i64, f64)> {
    minutes.map(|minute| (minute, value(minute))).collect()
}

#[test]
fn a_backfill_is_seen_whole_once_it_is_committed_and_after_every_restart() {
    let (env, machine) = Env::simulated(1);
    let db = open(&env, without_bound());
    append(&db, 600..610, 1.0);
    let before = db.source();
    let written = backfill(&db, 0..590, 2.0).unwrap();
    assert!(written.len() > 3, "a block for each two hours");
    assert_eq!(content(&before).len(), 10, "a source is of one moment");
    let expected: Vec<_> = all(0..590, |_| 2.0).into_iter().chain(all(600..610, |_| 1.0)).collect();
    assert_eq!(content(&db.source()), expected);
    let env = machine.kill();
    assert_eq!(content(&open(&env, without_bound()).source()), expected);
}

#[test]
fn a_block_that_reaches_into_the_head_s_time_does_not_cost_the_head_its_samples() {
    let (env, machine) = Env::simulated(1);
    let db = open(&env, without_bound());
    append(&db, (0..60).step_by(2), 1.0);
    // The block ends after all that is in the log and nowhere else.
    backfill(&db, 0..90, 2.0).unwrap();
    let expected = all(0..90, |minute| if minute < 60 && minute % 2 == 0 { 1.0 } else { 2.0 });
    assert_eq!(content(&db.source()), expected);
    let env = machine.kill();
    let db = open(&env, without_bound());
    assert_eq!(content(&db.source()), expected);
    append(&db, 90..600, 3.0);
    for _ in 0..3 {
        db.maintain().unwrap();
    }
    let env = machine.kill();
    let expected: Vec<_> = expected.into_iter().chain(all(90..600, |_| 3.0)).collect();
    assert_eq!(content(&open(&env, without_bound()).source()), expected);
}

#[test]
fn what_is_there_wins_over_a_backfill_and_the_first_backfill_over_the_second() {
    let (env, _machine) = Env::simulated(1);
    let db = open(&env, without_bound());
    append(&db, (0..600).step_by(3), 1.0);
    // Begun before the head is cut, committed after.
    let mut early = db.bulk(BulkOptions::default()).unwrap();
    (0..30).for_each(|m| early.append(&labels(), &Sample::float(START_MS + m * MINUTE, 2.0)).unwrap());
    assert!(!db.maintain().unwrap().written.is_empty());
    early.commit().unwrap();
    backfill(&db, 0..40, 3.0).unwrap();
    let expected = |minute: i64| match minute {
        minute if minute % 3 == 0 => 1.0,
        0..30 => 2.0,
        _ => 3.0,
    };
    assert_eq!(content(&db.source())[..40], all(0..40, expected));
}

#[test]
fn an_append_only_database_takes_only_what_comes_between_nothing() {
    let (env, _machine) = Env::simulated(1);
    let db = open(&env, Options { append_only: true, ..without_bound() });
    append(&db, 600..610, 1.0);
    assert_eq!(backfill(&db, 500..605, 2.0).unwrap_err().kind(), ErrorKind::Unsupported);
    backfill(&db, 0..100, 2.0).unwrap();
    assert_eq!(backfill(&db, 50..60, 2.0).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(content(&db.source()).len(), 110);
    let names: Vec<_> = env.fs.list(Path::new("/data")).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!names.iter().any(|name| name.ends_with(CREATING)), "{names:?}");
}

#[test]
fn in_an_append_only_database_no_sample_comes_where_a_backfill_was() {
    let (env, machine) = Env::simulated(1);
    let options = || Options { append_only: true, ..without_bound() };
    let db = open(&env, options());
    let mut before = db.appender();
    before.append(None, &labels(), START_MS + 10 * MINUTE + 1, 1.0).unwrap();
    backfill(&db, 0..100, 2.0).unwrap();
    assert_eq!(before.commit().unwrap().lost, 1);
    let refused = |db: &Db, minute: i64| {
        let mut appender = db.appender();
        appender.append(None, &labels(), START_MS + minute * MINUTE, 1.0).unwrap_err().kind()
    };
    assert_eq!(refused(&db, 50), ErrorKind::TooOld);
    append(&db, 100..101, 1.0);
    assert_eq!(refused(&db, 99), ErrorKind::TooOld);
    // What could still be appended is not backfilled.
    assert_eq!(backfill(&db, 101..110, 2.0).unwrap_err().kind(), ErrorKind::Unsupported);
    let env = machine.kill();
    let db = open(&env, options());
    assert_eq!(refused(&db, 99), ErrorKind::TooOld);
    let expected: Vec<_> = all(0..100, |_| 2.0).into_iter().chain([(100, 1.0)]).collect();
    assert_eq!(content(&db.source()), expected);
}

#[test]
fn what_came_late_while_a_backfill_is_taken_over_wins() {
    let (env, machine) = Env::simulated(1);
    let db = open(&env, Options { out_of_order_window: 24 * 60 * MINUTE, ..without_bound() });
    append(&db, 600..601, 1.0);
    append(&db, 400..401, 1.0);
    let mut bulk = db.bulk(BulkOptions::default()).unwrap();
    bulk.append(&labels(), &Sample::float(START_MS + 10 * MINUTE, 2.0)).unwrap();
    let other = db.clone();
    // Behind the backfill's own, the block of what came late gets its name.
    machine.at_operation(OpKind::Rename, CREATING, 1, move || {
        append(&other, 10..11, 1.0);
        assert_eq!(content(&other.source())[0], (10, 1.0));
    });
    bulk.commit().unwrap();
    assert_eq!(content(&db.source()), [(10, 1.0), (400, 1.0), (600, 1.0)]);
    let env = machine.kill();
    assert_eq!(content(&open(&env, without_bound()).source())[0], (10, 1.0));
}

#[test]
fn a_backfill_of_the_future_is_refused_as_appends_are() {
    let (env, _machine) = Env::simulated(1);
    let db = open(&env, Options::default());
    let now = (env.clock.now_ms() - START_MS) / MINUTE;
    assert_eq!(backfill(&db, 0..now + 30, 1.0).unwrap_err().kind(), ErrorKind::TooFarAhead);
    assert_eq!(content(&db.source()), []);
    backfill(&db, -100..now, 1.0).unwrap();
}

#[test]
fn blocks_of_another_directory_are_copied_under_names_of_their_own() {
    let (env, _machine) = Env::simulated(1);
    let other = Path::new("/other");
    let mut writer = BulkWriter::create(&env, other, BulkOptions::default()).unwrap();
    (0..300).for_each(|m| writer.append(&labels(), &Sample::float(START_MS + m * MINUTE, 2.0)).unwrap());
    let written = writer.finish().unwrap();
    let db = open(&env, without_bound());
    append(&db, 0..10, 1.0);
    let taken = db.import(other).unwrap();
    assert_eq!(taken.len(), written.len());
    assert!(written.iter().all(|meta| !taken.contains(&meta.ulid)));
    let one = other.join(written[0].ulid.to_string());
    assert_eq!(db.import(&one).unwrap().len(), 1);
    let expected: Vec<_> = all(0..10, |_| 1.0).into_iter().chain(all(10..300, |_| 2.0)).collect();
    assert_eq!(content(&db.source()), expected);
    assert_eq!(env.fs.list(other).unwrap().len(), written.len(), "the originals stay");
}

#[test]
fn a_closed_database_takes_no_backfill() {
    let (env, _machine) = Env::simulated(1);
    let db = open(&env, without_bound());
    let bulk = db.bulk(BulkOptions::default()).unwrap();
    db.close().unwrap();
    assert_eq!(bulk.commit().unwrap_err().kind(), ErrorKind::NotReady);
    assert_eq!(db.bulk(BulkOptions::default()).unwrap_err().kind(), ErrorKind::NotReady);
}

#[test]
fn merging_a_block_that_reaches_into_the_head_s_time_does_not_cost_the_head_its_samples() {
    let (env, machine) = Env::simulated(1);
    let db = open(&env, without_bound());
    // The head is cut up to the second hour at most, and has the rest in its log alone.
    append(&db, (0..210).step_by(2), 1.0);
    db.maintain().unwrap();
    backfill(&db, 61..209, 2.0).unwrap();
    for _ in 0..3 {
        db.maintain().unwrap();
    }
    let expected = content(&db.source());
    assert_eq!(expected.iter().filter(|(_, value)| *value == 1.0).count(), 105);
    let env = machine.kill();
    assert_eq!(content(&open(&env, without_bound()).source()), expected);
}

#[test]
fn a_backfill_is_encoded_as_the_database_is_unless_it_says_otherwise() {
    let (env, _machine) = Env::simulated(1);
    let db = open(&env, Options { float_encoding: FloatEncoding::Xor2, ..without_bound() });
    for (asked, expected) in [(None, Encoding::Xor2), (Some(FloatEncoding::Xor), Encoding::Xor)] {
        let mut bulk = db.bulk(BulkOptions { float_encoding: asked, ..BulkOptions::default() }).unwrap();
        bulk.append(&labels(), &Sample::float(START_MS, 1.0)).unwrap();
        let ulids = bulk.commit().unwrap();
        let block = Block::open(&*env.fs, &Path::new("/data").join(ulids[0].to_string())).unwrap();
        let mut chunks = Vec::new();
        block.series(block.select(&[]).unwrap()[0], &mut Labels::empty(), &mut chunks).unwrap();
        assert_eq!(block.chunk(&chunks[0]).unwrap().encoding, expected);
    }
}
