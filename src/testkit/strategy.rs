//! Strategies for `proptest`: labels, samples of every kind, matchers, and what can be done to a database.
//!
//! A failing case shrinks to few operations on few series, since everything here is drawn from small sets: the interesting
//! things happen where series, times and values meet again. Times are relative to the clock of the machine on which an
//! [`Operation`] is done, so that a sequence stays meaningful when parts of it are left out.

use std::io;

use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, Histogram, Labels, MatchOp, Matcher, Metadata, MetricType,
    STALE_NAN_BITS, Span, Value,
};

/// Something that can be done to a database on a simulated machine; [`CheckedDb`](super::CheckedDb) does it.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Hands a sample to an appender, which is begun if it is not open.
    Append {
        /// Which appender.
        appender: usize,
        /// The series.
        labels: Labels,
        /// How long before now it was measured, in milliseconds; negative: in the future.
        ago: i64,
        /// What was measured.
        value: Value,
        /// How long before that the counter started, in milliseconds; 0: unknown.
        age: i64,
    },
    /// Commits many samples of a series, in order of time: chunks fill up.
    Burst {
        /// The series.
        labels: Labels,
        /// How long before now the last one was measured, in milliseconds.
        ago: i64,
        /// From one to the next, in milliseconds.
        step: i64,
        /// How many.
        count: usize,
        /// The first value; the others rise from it.
        value: Value,
    },
    /// Commits a stale marker: the series ends, for now.
    End {
        /// The series.
        labels: Labels,
    },
    /// Hands an exemplar to an appender.
    Exemplar {
        /// Which appender.
        appender: usize,
        /// The series.
        labels: Labels,
        /// How long before now it was, in milliseconds.
        ago: i64,
        /// Its own labels.
        exemplar: Labels,
        /// Its value.
        value: u8,
    },
    /// Has an appender say what a series' metric is.
    Describe {
        /// Which appender.
        appender: usize,
        /// The series.
        labels: Labels,
        /// What it is.
        metadata: Metadata,
    },
    /// Writes blocks of samples, beside whatever goes on: those that their series are past already.
    Bulk {
        /// Series, how long before now, and what.
        samples: Vec<(Labels, i64, Value)>,
    },
    /// Copies the database, and compares the copy.
    Copy {
        /// Whether with what the head holds.
        with_head: bool,
        /// Whether the copy's blocks are taken over again, which changes nothing.
        back: bool,
    },
    /// Commits what an appender has.
    Commit {
        /// Which appender.
        appender: usize,
    },
    /// Forgets what an appender has.
    Rollback {
        /// Which appender.
        appender: usize,
    },
    /// Deletes from `ago` before now, for `len` milliseconds, all series that pass.
    Delete {
        /// Where it begins, in milliseconds before now.
        ago: i64,
        /// How much of time, in milliseconds.
        len: i64,
        /// Which series.
        matchers: Vec<Matcher>,
    },
    /// Compares what a select answers.
    Select {
        /// Where it begins, in milliseconds before now.
        ago: i64,
        /// How much of time, in milliseconds.
        len: i64,
        /// Which series.
        matchers: Vec<Matcher>,
    },
    /// Takes a view of this moment, to be read later.
    Hold {
        /// Where to keep it.
        slot: usize,
    },
    /// Reads a view that is held, and lets it go.
    ReadHeld {
        /// Which.
        slot: usize,
    },
    /// Does what is due.
    Maintain,
    /// Cuts all that the head has into blocks.
    Flush,
    /// Merges blocks as long as there are some to merge.
    Compact,
    /// Writes blocks again without what is deleted.
    CleanTombstones,
    /// Closes the database and opens it again.
    Reopen,
    /// Kills the process; the next one opens the database.
    Kill,
    /// Cuts the power; what is left of what was not synced is drawn from the seed.
    PowerCut {
        /// The seed.
        seed: u64,
    },
    /// Lets time pass.
    Pass {
        /// Milliseconds.
        time: i64,
    },
    /// Sets the wall clock ahead, or back.
    Jump {
        /// Milliseconds.
        by: i64,
    },
    /// Makes the disk fail, once, at one of the operations to come.
    Fail {
        /// How many operations go well before.
        after: u64,
        /// Whether only a sync fails: the first one after that.
        sync: bool,
        /// How.
        kind: io::ErrorKind,
    },
    /// Leaves the disk room for so many bytes.
    FullDisk {
        /// Bytes.
        room: u64,
    },
    /// Nothing fails any more, and there is room.
    Heal,
}

/// The stale marker.
const STALE: f64 = f64::from_bits(STALE_NAN_BITS);

/// Label sets: a name and up to four labels, drawn from few names and values, some of them odd.
pub fn labels() -> impl Strategy<Value = Labels> {
    let name = select(vec!["up", "http_requests_total", "temperature", "größe", "a.b/c"]);
    let other = select(vec!["job", "instance", "zone", "le", "ünï", "__x"]);
    let value =
        prop_oneof![4 => "[a-c]{1,2}", 1 => Just("\u{1f525} \"quoted\"\n".to_owned()), 1 => "[a-z0-9.:]{20,40}"];
    (name, prop::collection::btree_map(other, value, 0..4)).prop_map(|(name, others)| {
        let name = ("__name__".to_owned(), name.to_owned());
        Labels::from_pairs(others.into_iter().map(|(name, value)| (name.to_owned(), value)).chain([name]))
    })
}

/// So many different label sets.
pub fn pool(series: usize) -> impl Strategy<Value = Vec<Labels>> {
    prop::collection::btree_set(labels(), series).prop_map(|labels| labels.into_iter().collect())
}

/// Floats: counters' and gauges', and those that break encodings. A stale marker now and then.
pub fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0..1000_u32).prop_map(f64::from),
        4 => any::<f64>(),
        2 => Just(STALE),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, f64::MAX]),
    ]
}

/// Spans, and how many buckets they have. The first may begin below zero unless buckets are custom ones.
fn spans(from: i32) -> impl Strategy<Value = (Vec<Span>, usize)> {
    let first = (from..6, 1..4_u32);
    let others = prop::collection::vec((0..5_i32, 1..4_u32), 0..3);
    (first, others).prop_map(|(first, others)| {
        let spans: Vec<Span> =
            [first].into_iter().chain(others).map(|(offset, length)| Span { offset, length }).collect();
        let buckets = spans.iter().map(|span| span.length as usize).sum();
        (spans, buckets)
    })
}

fn side(from: i32) -> impl Strategy<Value = (Vec<Span>, Vec<u32>)> {
    let some = spans(from).prop_flat_map(|(spans, buckets)| {
        (Just(spans), prop::collection::vec(prop_oneof![3 => 0..20_u32, 1 => 0..1_000_000_u32], buckets))
    });
    prop_oneof![4 => some, 1 => Just((Vec::new(), Vec::new()))]
}

fn hint() -> impl Strategy<Value = CounterResetHint> {
    use CounterResetHint::{CounterReset, Gauge, NotCounterReset, Unknown};
    prop_oneof![6 => Just(Unknown), 1 => select(vec![CounterReset, NotCounterReset, Gauge])]
}

/// Native histograms with integer counts, exponential and with custom buckets, valid ones; a stale one now and then.
pub fn histogram() -> impl Strategy<Value = Histogram> {
    let exponential = (-4..=8_i32, 0..9_u64, side(-6), side(-6), hint(), -1e9..1e9_f64);
    let exponential = exponential.prop_map(|(schema, zero_count, positive, negative, counter_reset_hint, sum)| {
        let total = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        Histogram {
            counter_reset_hint,
            schema,
            zero_threshold: 1e-9,
            zero_count,
            count: zero_count + total(&positive.1) + total(&negative.1),
            sum,
            positive_buckets: deltas(&positive.1),
            negative_buckets: deltas(&negative.1),
            positive_spans: positive.0,
            negative_spans: negative.0,
            custom_values: Vec::new(),
        }
    });
    let custom = (side(0), hint(), 0.0..1e9_f64).prop_map(|((spans, counts), counter_reset_hint, sum)| Histogram {
        counter_reset_hint,
        schema: CUSTOM_BUCKETS_SCHEMA,
        count: counts.iter().map(|count| u64::from(*count)).sum(),
        sum,
        positive_buckets: deltas(&counts),
        custom_values: bounds(&spans),
        positive_spans: spans,
        ..Histogram::default()
    });
    prop_oneof![6 => exponential, 3 => custom, 1 => Just(Histogram { sum: STALE, ..Histogram::default() })]
}

/// Native histograms with float counts: [`histogram`]s, not whole ones.
pub fn float_histogram() -> impl Strategy<Value = FloatHistogram> {
    (histogram(), select(vec![1.0, 0.5, 0.1])).prop_map(|(histogram, scale)| {
        let mut scaled = histogram.to_float();
        scaled.count *= scale;
        scaled.zero_count *= scale;
        let counts = scaled.positive_buckets.iter_mut().chain(&mut scaled.negative_buckets);
        counts.for_each(|count| *count *= scale);
        scaled
    })
}

/// Counts as the differences that a [`Histogram`] has.
fn deltas(counts: &[u32]) -> Vec<i64> {
    let mut before = 0;
    counts.iter().map(|count| i64::from(*count) - std::mem::replace(&mut before, i64::from(*count))).collect()
}

/// Bounds enough for these spans.
fn bounds(spans: &[Span]) -> Vec<f64> {
    let buckets: i64 = spans.iter().map(|span| i64::from(span.offset) + i64::from(span.length)).sum();
    (1..=buckets).map(|bound| bound as f64 / 4.0).collect()
}

/// Values of every kind; most are floats.
pub fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => float().prop_map(Value::Float),
        2 => histogram().prop_map(|histogram| Value::Histogram(Box::new(histogram))),
        2 => float_histogram().prop_map(|histogram| Value::FloatHistogram(Box::new(histogram))),
    ]
}

/// Matchers that pass some of the series in `pool`, all, or none.
pub fn matcher(pool: &[Labels]) -> impl Strategy<Value = Matcher> + use<> {
    let pairs: Vec<(String, String)> =
        pool.iter().flatten().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let op = select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
    let kind = 0..6_u8;
    (select(pairs), op, kind).prop_filter_map("is a pattern", |((name, value), op, kind)| {
        let first: String = value.chars().take(1).collect();
        let is_pattern = matches!(op, MatchOp::Regex | MatchOp::NotRegex);
        let value = match kind {
            0 => String::new(),
            1 if is_pattern => ".+".to_owned(),
            2 if is_pattern => ".*".to_owned(),
            3 if is_pattern => format!("{first}.*|b"),
            4 => "nobody".to_owned(),
            _ => value,
        };
        Matcher::new(op, name, value).ok()
    })
}

/// Which operations are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// How far back samples are dated, in milliseconds.
    pub reach: i64,
    /// Whether the disk fails, too.
    pub faults: bool,
    /// Whether there is more than samples and their blocks: exemplars, metadata, series that end, backfills, copies.
    pub beside: bool,
}

/// What can be done to a database with these series. Times are whole seconds, so that they meet.
pub fn operation(pool: &[Labels], scope: Scope) -> BoxedStrategy<Operation> {
    let seconds = scope.reach / 1000;
    let series = select(pool.to_vec()).boxed();
    let ago = prop_oneof![
        6 => 0..4_i64,
        3 => 0..seconds.max(1),
        1 => -700..2 * seconds.max(1),
    ]
    .prop_map(|seconds| seconds * 1000)
    .boxed();
    let age = prop_oneof![3 => Just(0), 1 => 0..100_000_i64, 1 => Just(60_000_i64)];
    let matchers = || prop::collection::vec(matcher(pool), 0..3);
    let range = (0..2 * seconds.max(1), 0..seconds.max(1)).prop_map(|(ago, len)| (ago * 1000, len * 1000));
    let append = (0..3_usize, series.clone(), ago.clone(), value(), age)
        .prop_map(|(appender, labels, ago, value, age)| Operation::Append { appender, labels, ago, value, age });
    let burst = (series.clone(), ago.clone(), select(vec![1_i64, 10, 1000]), 20..160_usize, value())
        .prop_map(|(labels, ago, step, count, value)| Operation::Burst { labels, ago, step, count, value });
    let beside = beside(&series, &ago);
    let delete =
        (range.clone(), matchers()).prop_map(|((ago, len), matchers)| Operation::Delete { ago, len, matchers });
    let select_some = (range, matchers()).prop_map(|((ago, len), matchers)| Operation::Select { ago, len, matchers });
    let pass = prop_oneof![4 => 1..5_i64, 2 => 5..60_i64, 1 => 60..200_i64];
    let work = prop_oneof![
        40 => append,
        12 => (0..3_usize).prop_map(|appender| Operation::Commit { appender }),
        2 => (0..3_usize).prop_map(|appender| Operation::Rollback { appender }),
        4 => burst,
        3 => delete,
        4 => select_some,
        2 => (0..2_usize).prop_map(|slot| Operation::Hold { slot }),
        2 => (0..2_usize).prop_map(|slot| Operation::ReadHeld { slot }),
        4 => Just(Operation::Maintain),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Compact),
        1 => Just(Operation::CleanTombstones),
        1 => Just(Operation::Reopen),
        2 => Just(Operation::Kill),
        1 => any::<u64>().prop_map(|seed| Operation::PowerCut { seed }),
        12 => pass.prop_map(|seconds| Operation::Pass { time: seconds * 1000 }),
        1 => (-100..100_i64).prop_map(|seconds| Operation::Jump { by: seconds * 1000 }),
    ];
    let work = if scope.beside { prop_oneof![96 => work, 10 => beside].boxed() } else { work.boxed() };
    if !scope.faults {
        return work;
    }
    let kind = select(vec![io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::Interrupted]);
    let fail = (0..40_u64, any::<bool>(), kind).prop_map(|(after, sync, kind)| Operation::Fail { after, sync, kind });
    prop_oneof![
        20 => work,
        1 => fail,
        1 => (0..3000_u64).prop_map(|room| Operation::FullDisk { room }),
        2 => Just(Operation::Heal),
    ]
    .boxed()
}

/// What [`Scope::beside`] is about.
fn beside(series: &BoxedStrategy<Labels>, ago: &BoxedStrategy<i64>) -> BoxedStrategy<Operation> {
    let traced = select(vec!["a", "b"]).prop_map(|id| Labels::from_pairs([("trace_id", id)]));
    let exemplar = (0..3_usize, series.clone(), ago.clone(), traced, 0..3_u8).prop_map(
        |(appender, labels, ago, exemplar, value)| Operation::Exemplar { appender, labels, ago, exemplar, value },
    );
    let metadata = (select(vec![MetricType::Counter, MetricType::Gauge]), select(vec!["", "seconds"]));
    let metadata = metadata.prop_map(|(metric_type, unit)| Metadata {
        metric_type,
        unit: unit.to_owned(),
        help: "What it says.".to_owned(),
    });
    let describe = (0..3_usize, series.clone(), metadata)
        .prop_map(|(appender, labels, metadata)| Operation::Describe { appender, labels, metadata });
    let bulk = prop::collection::vec((series.clone(), ago.clone(), value()), 1..8);
    prop_oneof![
        4 => exemplar,
        2 => describe,
        2 => series.clone().prop_map(|labels| Operation::End { labels }),
        1 => bulk.prop_map(|samples| Operation::Bulk { samples }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(with_head, back)| Operation::Copy { with_head, back }),
    ]
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        #[test]
        fn histograms_are_valid(histogram in histogram(), float in float_histogram()) {
            prop_assert!(histogram.sum.to_bits() == STALE_NAN_BITS || histogram.validate().is_ok());
            prop_assert!(float.sum.to_bits() == STALE_NAN_BITS || float.validate().is_ok());
        }

        #[test]
        fn a_pool_has_as_many_series_as_were_asked_for(pool in pool(6)) {
            prop_assert_eq!(pool.len(), 6);
        }
    }
}
