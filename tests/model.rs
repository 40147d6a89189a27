//! The database against maps of maps: whatever is done to it, in whatever order, whenever it is closed, killed or loses
//! power, it answers what the model answers.
//!
//! `NARTHEX_MODEL_CASES` says how many sequences are tried; `PROPTEST_RNG_SEED` makes a run repeatable. What was found
//! once, shrunk, is a test below.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use narthex::db::{Downsampling, RetentionRule};
use narthex::head::FloatEncoding;
use narthex::model::{Labels, Matcher};
use narthex::testkit::CheckedDb;
use narthex::testkit::strategy::{self, Operation, Scope};
use narthex::wal::Compression;
use narthex::{Durability, Options, Retention};
use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// How a database is opened, and which series it gets.
#[derive(Debug, Clone)]
struct Setup {
    seed: u64,
    sync: bool,
    block: i64,
    /// How many times as long a merged block may be.
    merged: i64,
    window: i64,
    retention: Retention,
    encoding: Encoding,
    life: Life,
    pool: Vec<Labels>,
}

/// What becomes of the data that is not appended to any more.
#[derive(Debug, Clone)]
struct Life {
    /// For how many blocks' time some series are kept; 0: as long as the others.
    rule: i64,
    stale_series_share: Option<f64>,
    snapshot_at_close: bool,
    snapshot_interval: Option<Duration>,
    max_exemplars: usize,
    /// After how many blocks' time there are coarser copies; 0: never.
    downsampled: i64,
}

/// How chunks are encoded, and whether start timestamps are kept.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Default,
    Xor2,
    Starts,
    AllStarts,
}

impl Setup {
    fn options(&self) -> Options {
        Options {
            min_block_duration: self.block,
            max_block_duration: Some(self.merged * self.block),
            retention: self.retention,
            retention_rules: self.rules(),
            stale_series_share: self.life.stale_series_share,
            snapshot_at_close: self.life.snapshot_at_close,
            snapshot_interval: self.life.snapshot_interval,
            max_exemplars: self.life.max_exemplars,
            downsampling: (self.life.downsampled > 0).then(|| Downsampling {
                five_minutes_after: self.life.downsampled * self.block,
                hour_after: 2 * self.life.downsampled * self.block,
                keep_five_minutes: Some(6 * self.life.downsampled * self.block),
                keep_hours: None,
            }),
            durability: if self.sync { Durability::Sync } else { Durability::default() },
            wal_compression: Compression::Snappy,
            wal_segment_size: 32 << 10,
            out_of_order_window: self.window,
            float_encoding: match self.encoding {
                Encoding::Default => FloatEncoding::Xor,
                _ => FloatEncoding::Xor2,
            },
            start_timestamps: matches!(self.encoding, Encoding::Starts | Encoding::AllStarts),
            histogram_start_timestamps: matches!(self.encoding, Encoding::AllStarts),
            ..Options::default()
        }
    }

    /// One for some of the metrics, but for the first series.
    fn rules(&self) -> Vec<RetentionRule> {
        if self.life.rule == 0 {
            return Vec::new();
        }
        let first = self.pool[0].iter().map(|(name, value)| Matcher::equal(name, value)).collect();
        let some = vec![Matcher::new(narthex::model::MatchOp::Regex, "__name__", "[hu].*").unwrap()];
        let keep = self.life.rule * self.block;
        vec![RetentionRule { matchers: first, keep: 4 * keep }, RetentionRule { matchers: some, keep }]
    }
}

fn life() -> impl Strategy<Value = Life> {
    let rule = select(vec![0_i64, 0, 0, 1, 4]);
    let stale_series_share = select(vec![None, None, Some(0.2), Some(0.5)]);
    let snapshot_interval = select(vec![None, None, Some(Duration::ZERO), Some(Duration::from_secs(20))]);
    let max_exemplars = select(vec![3_usize, 1000]);
    let downsampled = select(vec![0_i64, 0, 0, 0, 1, 3]);
    (rule, stale_series_share, any::<bool>(), snapshot_interval, max_exemplars, downsampled).prop_map(
        |(rule, stale_series_share, snapshot_at_close, snapshot_interval, max_exemplars, downsampled)| Life {
            rule,
            stale_series_share,
            snapshot_at_close,
            snapshot_interval,
            max_exemplars,
            downsampled,
        },
    )
}

fn setup() -> impl Strategy<Value = Setup> {
    let block = select(vec![10_000_i64, 60_000]);
    // In halves of a block.
    let window = select(vec![0_i64, 0, 1, 6, 40]);
    let time = |time| Retention { time: Some(time), ..Retention::default() };
    let bytes = |bytes| Retention { bytes: Some(bytes), ..Retention::default() };
    let retention = prop_oneof![
        5 => Just(Retention::default()),
        2 => select(vec![60_000_i64, 200_000]).prop_map(time),
        1 => select(vec![6000_u64, 40_000]).prop_map(bytes),
    ];
    let encoding =
        select(vec![Encoding::Default, Encoding::Default, Encoding::Xor2, Encoding::Starts, Encoding::AllStarts]);
    let merged = select(vec![1_i64, 3, 9]);
    (any::<u64>(), any::<bool>(), block, merged, window, retention, encoding, life(), strategy::pool(5)).prop_map(
        |(seed, sync, block, merged, window, retention, encoding, life, pool)| Setup {
            seed,
            sync,
            block,
            merged,
            window: window * block / 2,
            retention,
            encoding,
            life,
            pool,
        },
    )
}

/// The sequence's own state: a [`CheckedDb`] has the model beside the database.
struct Plan;

impl ReferenceStateMachine for Plan {
    type State = Setup;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Setup> {
        setup().boxed()
    }

    fn transitions(setup: &Setup) -> BoxedStrategy<Operation> {
        strategy::operation(
            &setup.pool,
            Scope { reach: 2 * setup.block + setup.window.min(4 * setup.block), faults: false, beside: true },
        )
    }

    fn apply(setup: Setup, _: &Operation) -> Setup {
        setup
    }
}

struct Database;

impl StateMachineTest for Database {
    type SystemUnderTest = CheckedDb;
    type Reference = Plan;

    fn init_test(setup: &Setup) -> CheckedDb {
        CheckedDb::open(setup.seed, setup.options()).unwrap()
    }

    fn apply(mut db: CheckedDb, _: &Setup, operation: Operation) -> CheckedDb {
        // Compares everything, too.
        let outcome = db.apply(&operation).unwrap_or_else(|difference| panic!("{difference}, after {operation:?}"));
        // Shown for the case that fails.
        println!("{operation:?}: {outcome}");
        db
    }

    fn teardown(mut db: CheckedDb, _: Setup) {
        // Whatever is there now is there for the next process.
        db.apply(&Operation::Kill).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

fn cases() -> u32 {
    std::env::var("NARTHEX_MODEL_CASES").map_or(200, |cases| cases.parse().unwrap())
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_database_answers_as_maps_do(sequential 1..80 => Database);
}

/// A sequence that went wrong once.
fn replay(setup: Options, operations: &[Operation]) {
    let mut db = CheckedDb::open(0, setup).unwrap();
    for operation in operations {
        let outcome = db.apply(operation).unwrap_or_else(|difference| panic!("{difference}, after {operation:?}"));
        println!("{operation:?}: {outcome}");
    }
    db.apply(&Operation::Kill).unwrap_or_else(|difference| panic!("{difference}"));
}

fn append(appender: usize, name: &str, ago: i64) -> Operation {
    let labels = Labels::from_pairs([("__name__", name)]);
    Operation::Append { appender, labels, ago, value: narthex::model::Value::Float(0.0), age: 0 }
}

/// The floor rose behind an open appender, whose sample is said to be lost; it may stand in the log all the same.
#[test]
fn a_sample_that_is_lost_to_a_cut_is_said_to_be() {
    let options = Options { min_block_duration: 10_000, ..Options::default() };
    replay(
        options,
        &[
            append(2, "a", 0),
            append(1, "a", -60_000),
            append(2, "b", -151_000),
            Operation::Hold { slot: 0 },
            Operation::Commit { appender: 2 },
            Operation::Maintain,
            Operation::Commit { appender: 1 },
        ],
    );
}

/// The block that is cleaned away said up to where the log was not needed.
#[test]
fn what_was_deleted_with_the_newest_block_does_not_come_back_from_the_log() {
    let operations = [
        append(0, "a", 0),
        Operation::Commit { appender: 0 },
        Operation::Flush,
        Operation::Delete { ago: 0, len: 0, matchers: Vec::new() },
        Operation::CleanTombstones,
        Operation::Kill,
        append(0, "a", -1000),
        Operation::Commit { appender: 0 },
        Operation::Flush,
        Operation::CleanTombstones,
    ];
    replay(Options::default(), &operations);
}

/// The newest block but those of late samples says up to where the log is not needed, and was the first that retention
/// could drop.
#[test]
fn what_retention_could_drop_and_was_deleted_does_not_come_back_from_the_log() {
    let options = Options {
        min_block_duration: 10_000,
        out_of_order_window: 5000,
        retention: Retention { time: Some(60_000), ..Retention::default() },
        ..Options::default()
    };
    replay(
        options,
        &[
            append(0, "a", 0),
            Operation::Commit { appender: 0 },
            append(0, "b", -121_000),
            Operation::Commit { appender: 0 },
            append(0, "b", -120_000),
            Operation::Commit { appender: 0 },
            Operation::Maintain,
            Operation::Delete { ago: 0, len: 1000, matchers: Vec::new() },
            Operation::Kill,
        ],
    );
}

/// Writes a sample that a block has, and another one at its time, which came late; then everything up to `end`
/// milliseconds after it is cut.
fn written_twice(end: i64) -> [Operation; 8] {
    let labels = Labels::from_pairs([("__name__", "a")]);
    let value = narthex::model::Value::Float(1.0);
    [
        append(0, "a", 0),
        Operation::Commit { appender: 0 },
        Operation::Flush,
        Operation::Append { appender: 0, labels, ago: 0, value, age: 0 },
        Operation::Commit { appender: 0 },
        append(0, "b", -end),
        Operation::Commit { appender: 0 },
        Operation::Flush,
    ]
}

/// The block of the first write ended before that of the second, and so was older.
#[test]
fn retention_does_not_let_a_later_write_answer() {
    let options = Options {
        min_block_duration: 60_000,
        out_of_order_window: 200_000,
        retention: Retention { time: Some(60_000), ..Retention::default() },
        ..Options::default()
    };
    let mut operations = written_twice(61_000).to_vec();
    operations.extend([Operation::Compact, append(0, "b", -200_000), Operation::Commit { appender: 0 }]);
    operations.push(Operation::Flush);
    replay(options, &operations);
}

/// A view that is held kept the second write in memory after retention had taken the blocks of both.
#[test]
fn what_came_late_does_not_outlive_its_block_because_of_a_reader() {
    let options = Options {
        min_block_duration: 10_000,
        out_of_order_window: 200_000,
        retention: Retention { time: Some(60_000), ..Retention::default() },
        ..Options::default()
    };
    let mut operations = written_twice(101_000).to_vec();
    operations.insert(5, Operation::Hold { slot: 0 });
    operations.push(Operation::ReadHeld { slot: 0 });
    replay(options, &operations);
}

/// What a reader kept in memory was cut into a block again, after retention had taken the first one.
#[test]
fn what_came_late_and_expired_is_not_cut_again_because_of_a_reader() {
    let options = Options {
        min_block_duration: 10_000,
        out_of_order_window: 200_000,
        retention: Retention { time: Some(60_000), ..Retention::default() },
        ..Options::default()
    };
    let mut operations = written_twice(101_000).to_vec();
    operations.insert(5, Operation::Hold { slot: 0 });
    operations.push(Operation::Bulk { samples: Vec::new() });
    replay(options, &operations);
}

/// Whichever write of the deletion fails: what was written second must not outlive what was written first.
#[test]
fn a_deletion_that_fails_half_way_does_not_let_a_later_write_answer() {
    let options = Options { min_block_duration: 10_000, out_of_order_window: 200_000, ..Options::default() };
    // Both in blocks; one in a block and one in memory.
    for done in [8, 5] {
        for after in 0..40 {
            let mut operations = written_twice(30_000)[..done].to_vec();
            operations.extend([
                Operation::Fail { after, sync: false, kind: std::io::ErrorKind::Other },
                Operation::Delete { ago: 1000, len: 2000, matchers: Vec::new() },
                Operation::Heal,
            ]);
            replay(options.clone(), &operations);
        }
    }
}

/// An appender that was open before has a sample that would be in order, if blocks had not taken the late one at its time.
#[test]
fn a_late_sample_that_is_in_a_block_already_was_the_first_write() {
    let options = Options { min_block_duration: 60_000, out_of_order_window: 180_000, ..Options::default() };
    let b = Labels::from_pairs([("__name__", "b")]);
    let value = narthex::model::Value::Float(1.0);
    replay(
        options,
        &[
            append(1, "a", 0),
            append(2, "a", 0),
            append(1, "a", -136_000),
            Operation::Pass { time: 63_000 },
            Operation::Commit { appender: 1 },
            append(2, "b", 2000),
            Operation::Append { appender: 0, labels: b, ago: 2000, value, age: 0 },
            Operation::Commit { appender: 0 },
            Operation::Maintain,
            Operation::Commit { appender: 2 },
        ],
    );
}

/// With the clock behind the newest name, names are counted up, and must not meet one that was merged away: the block
/// would be taken for that one, and dropped.
#[test]
fn a_block_does_not_get_the_name_of_one_that_was_merged_away() {
    let options = Options {
        min_block_duration: 10_000,
        max_block_duration: Some(10_000),
        out_of_order_window: 60_000,
        ..Options::default()
    };
    replay(
        options,
        &[
            append(0, "a", 0),
            Operation::Commit { appender: 0 },
            Operation::Flush,
            Operation::Jump { by: -100_000 },
            append(0, "a", -112_000),
            append(0, "a", -95_000),
            append(0, "a", -111_000),
            Operation::Commit { appender: 0 },
            Operation::Flush,
            Operation::Compact,
            append(0, "a", -125_000),
            Operation::Commit { appender: 0 },
            Operation::Flush,
        ],
    );
}

/// Whoever brought it back to life between the two markings has yet to commit.
#[test]
fn a_series_that_is_marked_for_removal_twice_is_not_removed_for_the_first_time() {
    let options = Options { min_block_duration: 10_000, ..Options::default() };
    replay(
        options,
        &[
            append(0, "a", 0),
            Operation::Commit { appender: 0 },
            append(1, "a", 0),
            append(0, "b", 0),
            Operation::Commit { appender: 0 },
            Operation::Flush,
            append(2, "b", -1000),
            Operation::Maintain,
            Operation::Commit { appender: 1 },
            Operation::Maintain,
            Operation::Commit { appender: 2 },
        ],
    );
}

/// That a series had left the head early was known to the process alone that had it leave: what its block has at a time was
/// not the first write there for the next one.
#[test]
fn a_series_that_left_the_head_early_keeps_its_past_across_restarts() {
    let a = Labels::from_pairs([("__name__", "a")]);
    for snapshot_at_close in [false, true] {
        let options = Options {
            min_block_duration: 10_000,
            stale_series_share: Some(0.2),
            snapshot_at_close,
            ..Options::default()
        };
        replay(
            options,
            &[
                append(0, "a", 2000),
                append(0, "b", 0),
                Operation::Commit { appender: 0 },
                Operation::End { labels: a.clone() },
                Operation::Maintain,
                Operation::Reopen,
                append(0, "a", 1000),
                Operation::Commit { appender: 0 },
                append(0, "a", 0),
                Operation::Commit { appender: 0 },
            ],
        );
    }
}

/// Retention by size took the block of a series that had ended, and with it all that knew of its last sample.
#[test]
fn a_series_that_left_with_what_retention_took_begins_anew_where_it_had_ended() {
    let labels = Labels::from_pairs([("__name__", "temperature"), ("le", "c"), ("zone", "a")]);
    let options = Options {
        min_block_duration: 10_000,
        max_block_duration: Some(10_000),
        wal_segment_size: 32 << 10,
        wal_compression: Compression::Snappy,
        retention: Retention { bytes: Some(6000), ..Retention::default() },
        stale_series_share: Some(0.2),
        ..Options::default()
    };
    let value = narthex::model::Value::Float(0.0);
    replay(
        options,
        &[
            Operation::End { labels: labels.clone() },
            Operation::Reopen,
            Operation::Maintain,
            Operation::Reopen,
            Operation::Pass { time: 20_000 },
            Operation::Burst { labels, ago: 0, step: 1000, count: 21, value },
        ],
    );
}

/// What came late was in the head, in a table of its own.
#[test]
fn a_copy_with_the_head_has_what_came_late() {
    let options = Options { min_block_duration: 10_000, out_of_order_window: 60_000, ..Options::default() };
    let copy = Operation::Copy { with_head: true, back: false };
    replay(
        options,
        &[
            append(0, "a", 0),
            append(0, "a", 1000),
            append(0, "b", 50_000),
            Operation::Commit { appender: 0 },
            copy.clone(),
            Operation::Flush,
            append(0, "a", 2000),
            Operation::Commit { appender: 0 },
            Operation::Jump { by: -100_000 },
            append(0, "a", -98_000),
            Operation::Commit { appender: 0 },
            copy,
        ],
    );
}

/// A block had what came late, and memory not any more, but the log of it still: deletions were not written there.
#[test]
fn what_was_deleted_stays_so_where_the_log_of_late_samples_could_not_be_shortened() {
    let options = Options { min_block_duration: 10_000, out_of_order_window: 60_000, ..Options::default() };
    for after in 0..120 {
        replay(
            options.clone(),
            &[
                append(0, "a", 0),
                append(0, "a", 5000),
                Operation::Commit { appender: 0 },
                Operation::Fail { after, sync: false, kind: std::io::ErrorKind::Other },
                Operation::Flush,
                Operation::Heal,
                Operation::Delete { ago: 5000, len: 0, matchers: Vec::new() },
                Operation::Kill,
            ],
        );
    }
}

/// A snapshot had the series, and the log had not: what was committed to it after a restart was nobody's when the snapshot
/// did not count any more.
#[test]
fn a_series_without_samples_that_a_snapshot_has_is_in_the_log_too() {
    let options = Options {
        min_block_duration: 10_000,
        max_block_duration: Some(10_000),
        snapshot_interval: Some(Duration::from_secs(20)),
        ..Options::default()
    };
    let labels = Labels::from_pairs([("__name__", "b")]);
    let value = narthex::model::Value::Float(0.0);
    replay(
        options,
        &[
            append(0, "a", 0),
            Operation::Commit { appender: 0 },
            Operation::Maintain,
            append(0, "b", 0),
            Operation::Rollback { appender: 0 },
            Operation::Pass { time: 20_000 },
            Operation::Maintain,
            Operation::Kill,
            Operation::Burst { labels, ago: 0, step: 1000, count: 20, value },
            Operation::Kill,
            Operation::Maintain,
        ],
    );
}

/// A snapshot of the head in which nothing is left of series that were deleted and cut: no block says that they are past
/// those times, and a sample that was taken there would be lost with the snapshot, as the log has the first ones.
#[test]
fn what_was_deleted_and_cut_is_past_for_whoever_opens_a_snapshot() {
    let options = Options { min_block_duration: 10_000, snapshot_interval: Some(Duration::ZERO), ..Options::default() };
    let labels = Labels::from_pairs([("__name__", "a")]);
    let value = narthex::model::Value::Float(0.0);
    let burst = Operation::Burst { labels, ago: 0, step: 1, count: 20, value };
    replay(
        options,
        &[
            burst.clone(),
            Operation::Delete { ago: 1000, len: 1000, matchers: Vec::new() },
            Operation::Flush,
            Operation::Reopen,
            burst,
        ],
    );
}

/// The snapshot had neither the deletion, which the cut was done with, nor a word that chunks on the disk from before that
/// are not wanted.
#[test]
fn full_chunks_that_were_deleted_and_cut_do_not_come_back_beside_a_snapshot() {
    let options = Options { min_block_duration: 10_000, snapshot_interval: Some(Duration::ZERO), ..Options::default() };
    let labels = Labels::from_pairs([("__name__", "a")]);
    let value = narthex::model::Value::Float(0.0);
    // Their file stays, as there are chunks in it that are not cut.
    let bursts = [0, -1000].map(|ago| Operation::Burst {
        labels: labels.clone(),
        ago,
        step: 1,
        count: 300,
        value: value.clone(),
    });
    let rest = [
        Operation::Maintain,
        append(0, "a", -14_900),
        Operation::Commit { appender: 0 },
        Operation::Delete { ago: 1000, len: 999, matchers: Vec::new() },
        Operation::Maintain,
        Operation::Kill,
    ];
    replay(options, &[&bursts[..], &rest].concat());
}

/// A view that was opened before did not see what the head had any more, but still what a block had beside it, which came
/// later and had never been seen.
#[test]
fn what_is_deleted_under_a_reader_does_not_uncover_what_lost_against_it() {
    let options = Options { min_block_duration: 10_000, ..Options::default() };
    let labels = Labels::from_pairs([("__name__", "a")]);
    replay(
        options,
        &[
            append(0, "a", 1000),
            Operation::Commit { appender: 0 },
            Operation::Bulk { samples: vec![(labels, 1000, narthex::model::Value::Float(7.0))] },
            Operation::Hold { slot: 0 },
            Operation::Delete { ago: 1000, len: 0, matchers: Vec::new() },
            Operation::ReadHeld { slot: 0 },
        ],
    );
}
