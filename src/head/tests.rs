//! The head as a whole.

use std::sync::Arc;

use super::*;
use crate::block::BlockRead;
use crate::chunk::samples;
use crate::codec::FixedMap;
use crate::error::ErrorKind;
use crate::model::{
    Exemplar, FloatHistogram, Histogram, Labels, Matcher, Metadata, MetricType, STALE_NAN_BITS, Span, TimeRange, Value,
};

fn head(options: HeadOptions) -> Arc<Head> {
    Head::without_log(&Env::real(), HeadOptions { future_bound: None, ..options })
}

fn labels(n: u32) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("n", &n.to_string())])
}

/// Everything a reader sees: labels and samples.
fn everything(reader: &HeadReader) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let mut all = Vec::new();
    for (id, labels) in reader.select(&[]).unwrap() {
        let (mut chunks, mut hide) = (Vec::new(), Vec::new());
        reader.chunks(id, &mut chunks, &mut hide);
        let mut series = Vec::new();
        for chunk in chunks {
            let chunk = chunk.load().unwrap();
            for sample in samples(chunk.encoding, &chunk.data) {
                let sample = sample.unwrap();
                let Value::Float(v) = sample.value else { panic!("floats alone were appended") };
                if !hide.iter().any(|range| range.contains(sample.t)) {
                    series.push((sample.t, v.to_bits()));
                }
            }
        }
        if !series.is_empty() {
            all.push((labels, series));
        }
    }
    all
}

#[test]
fn what_is_committed_can_be_read_and_what_is_rolled_back_cannot() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    let reference = appender.append(None, &labels(1), 1000, 1.0).unwrap();
    appender.append(Some(reference), &labels(1), 2000, 2.0).unwrap();
    assert_eq!(everything(&head.reader(TimeRange::ALL)), []);
    assert_eq!(appender.commit().unwrap(), Committed { appended: 2, out_of_order: 0, same: 0, lost: 0 });
    let mut appender = head.appender();
    appender.append(Some(reference), &labels(1), 3000, 3.0).unwrap();
    appender.append(None, &labels(2), 3000, 3.0).unwrap();
    appender.rollback();
    let expected = vec![(labels(1), vec![(1000, 1.0_f64.to_bits()), (2000, 2.0_f64.to_bits())])];
    assert_eq!(everything(&head.reader(TimeRange::ALL)), expected);
    assert_eq!((head.min_time(), head.max_time()), (Some(1000), Some(2000)));
}

#[test]
fn each_kind_of_bad_sample_is_refused_for_what_it_is_and_its_neighbours_are_kept() {
    let options = HeadOptions { max_series: Some(2), chunk_range: 1000, ..HeadOptions::default() };
    let head = head(options);
    let mut appender = head.appender();
    appender.append(None, &labels(1), 10_000, 1.0).unwrap();
    appender.commit().unwrap();

    let mut appender = head.appender();
    appender.append(None, &labels(2), 10_000, 2.0).unwrap();
    let mut refused = |labels: &Labels, t, v| appender.append(None, labels, t, v).map_err(|error| error.kind());
    assert!(refused(&labels(1), 10_000, 1.0).is_ok(), "the same sample again");
    assert_eq!(refused(&labels(1), 10_000, 1.5), Err(ErrorKind::Duplicate));
    assert_eq!(refused(&labels(1), 9_999, 1.0), Err(ErrorKind::OutOfOrder));
    assert_eq!(refused(&labels(1), 9_499, 1.0), Err(ErrorKind::TooOld));
    assert_eq!(refused(&labels(3), 10_000, 1.0), Err(ErrorKind::LimitExceeded));
    assert_eq!(refused(&Labels::empty(), 10_000, 1.0), Err(ErrorKind::InvalidInput));
    assert!(refused(&labels(1), 10_001, 1.0).is_ok());
    assert_eq!(appender.commit().unwrap(), Committed { appended: 2, out_of_order: 0, same: 0, lost: 0 });
}

#[test]
fn a_sample_far_ahead_of_the_clock_is_refused() {
    let env = Env::real();
    let head = Head::without_log(&env, HeadOptions::default());
    let mut appender = head.appender();
    let far = env.clock.now_ms() + 700_000;
    assert_eq!(appender.append(None, &labels(1), far, 1.0).unwrap_err().kind(), ErrorKind::TooFarAhead);
    appender.append(None, &labels(1), far - 200_000, 1.0).unwrap();
}

/// A directory of its own for a test, removed at its end.
struct TempDir(std::path::PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let env = Env::real();
        let path = std::env::temp_dir().join(format!("narthex-head-{name}-{:016x}", env.rng.next_u64()));
        env.fs.create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

fn open(dir: &TempDir, floor: i64) -> (Arc<Head>, Replayed) {
    let options = HeadOptions { future_bound: None, chunk_range: 100_000, ..HeadOptions::default() };
    // Small segments, so that there are some to truncate.
    let log = LogOptions { segment_size: 32 << 10, ..LogOptions::default() };
    Head::open(&Env::real(), &dir.0, options, log, floor).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_numbers_go_on() {
    let dir = TempDir::new("restart");
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!(replayed.records, 0);
    for round in 0..50 {
        let mut appender = head.appender();
        for n in 0..40 {
            appender.append(None, &labels(n), round * 1000, f64::from(n)).unwrap();
        }
        appender.commit().unwrap();
    }
    let before = everything(&head.reader(TimeRange::ALL));
    // Not closed: as if killed.
    drop(head);
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!(replayed.damage, []);
    assert_eq!((replayed.series, replayed.samples, replayed.unknown_series), (40, 2000, 0));
    assert_eq!(everything(&head.reader(TimeRange::ALL)), before);
    let mut appender = head.appender();
    appender.append(None, &labels(99), 50_000, 9.0).unwrap();
    appender.commit().unwrap();
    head.close().unwrap();
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!((replayed.series, replayed.samples), (41, 2001));
    assert_eq!(everything(&head.reader(TimeRange::ALL)).len(), 41);
}

#[test]
fn a_truncated_head_forgets_in_memory_and_in_the_log_and_keeps_what_is_newer() {
    let dir = TempDir::new("truncate");
    let (head, _) = open(&dir, i64::MIN);
    let mut truncated = 0;
    for round in 0..400_i64 {
        let mut appender = head.appender();
        for n in 0..40_u32 {
            // Half of the series end half way.
            if n < 20 || round < 200 {
                appender.append(None, &labels(n), round * 1000, round as f64).unwrap();
            }
        }
        appender.commit().unwrap();
        if round > 0 && round % 100 == 50 {
            truncated = (round - 50) * 1000;
            head.truncate(truncated).unwrap();
        }
    }
    assert_eq!(truncated, 300_000);
    assert_eq!(head.series_count(), 20);
    let (first, last) = head.log().unwrap().segments().unwrap();
    assert!(first > 0 && last > first, "{first} to {last}");
    let after = everything(&head.reader(TimeRange::ALL));
    assert_eq!(after.len(), 20);
    assert!(after.iter().all(|(_, samples)| samples.len() == 100 && samples[0].0 == 300_000));
    drop(head);
    let (head, replayed) = open(&dir, truncated);
    assert_eq!((replayed.damage.len(), replayed.unknown_series), (0, 0));
    assert_eq!(everything(&head.reader(TimeRange::ALL)), after);
}

fn histogram(count: u64) -> Histogram {
    Histogram {
        count,
        sum: count as f64,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![count as i64],
        ..Histogram::default()
    }
}

fn float_histogram(count: f64) -> FloatHistogram {
    FloatHistogram {
        count,
        sum: count,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![count],
        ..FloatHistogram::default()
    }
}

/// The kinds of a series' samples in order, and whether each marks the end: `f`, `h`, `g` for float histograms.
fn kinds(head: &Arc<Head>) -> String {
    let reader = head.reader(TimeRange::ALL);
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    let mut kinds = String::new();
    for (id, _) in reader.select(&[]).unwrap() {
        reader.chunks(id, &mut chunks, &mut hide);
        let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.load().unwrap()).collect();
        for sample in chunks.iter().flat_map(|chunk| samples(chunk.encoding, &chunk.data)) {
            let sample = sample.unwrap();
            kinds.push(match sample.value {
                Value::Float(_) => 'f',
                Value::Histogram(_) => 'h',
                Value::FloatHistogram(_) => 'g',
            });
            if sample.is_stale() {
                kinds.push('!');
            }
        }
    }
    kinds
}

#[test]
fn a_series_that_changes_its_kind_within_a_commit_keeps_its_order_also_over_a_restart() {
    let dir = TempDir::new("kinds");
    let (head, _) = open(&dir, i64::MIN);
    let stale = f64::from_bits(STALE_NAN_BITS);
    let mut appender = head.appender();
    appender.append(None, &labels(1), 1, 1.0).unwrap();
    appender.append_histogram(None, &labels(1), 2, histogram(2)).unwrap();
    appender.append(None, &labels(1), 3, 3.0).unwrap();
    appender.append_float_histogram(None, &labels(1), 4, float_histogram(4.0)).unwrap();
    appender.append_histogram(None, &labels(1), 5, histogram(5)).unwrap();
    // Of the kind that waits for the commit.
    appender.append(None, &labels(1), 6, stale).unwrap();
    assert_eq!(appender.pending(), 6);
    assert_eq!(appender.commit().unwrap(), Committed { appended: 6, out_of_order: 0, same: 0, lost: 0 });
    let mut appender = head.appender();
    appender.append_float_histogram(None, &labels(1), 7, float_histogram(7.0)).unwrap();
    appender.commit().unwrap();
    // Of the kind that is in memory.
    let mut appender = head.appender();
    appender.append(None, &labels(1), 8, stale).unwrap();
    appender.commit().unwrap();
    assert_eq!(kinds(&head), "fhfghh!gg!");
    drop(head);
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!(replayed.samples, 8);
    assert_eq!(kinds(&head), "fhfghh!gg!");
}

/// Appends histograms of both kinds, a series each, at `t`.
fn append_histograms(head: &Arc<Head>, t: i64) {
    let mut appender = head.appender();
    appender.append_histogram(None, &labels(1), t, histogram(1)).unwrap();
    appender.append_float_histogram(None, &labels(2), t, float_histogram(1.0)).unwrap();
    appender.commit().unwrap();
}

/// Appends stale markers to the series of [`append_histograms`].
fn append_stale(head: &Arc<Head>, t: i64) {
    let mut appender = head.appender();
    for n in 1..=2 {
        appender.append(None, &labels(n), t, f64::from_bits(STALE_NAN_BITS)).unwrap();
    }
    appender.commit().unwrap();
}

#[test]
fn a_stale_marker_that_is_read_back_is_of_the_kind_of_the_chunk_on_the_disk_before_it() {
    let dir = TempDir::new("stale-after-mapped");
    let (head, _) = open(&dir, i64::MIN);
    let chunk_range = HeadOptions::default().chunk_range;
    append_histograms(&head, 1);
    // Begins a chunk, so that the histograms' is full.
    append_stale(&head, chunk_range + 1);
    head.map_full_chunks().unwrap();
    assert_eq!(kinds(&head), "hh!gg!");
    drop(head);
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!((replayed.chunks_mapped, replayed.samples), (2, 2));
    assert_eq!(kinds(&head), "hh!gg!");
}

#[test]
fn a_stale_marker_is_of_the_kind_of_the_chunk_on_the_disk_before_it() {
    let dir = TempDir::new("stale-behind-mapped");
    let (head, _) = open(&dir, i64::MIN);
    let chunk_range = HeadOptions::default().chunk_range;
    append_histograms(&head, 1);
    let segment = head.log().unwrap().next_segment().unwrap();
    append_histograms(&head, chunk_range + 1);
    head.map_full_chunks().unwrap();
    drop(head);
    // So that all there is of the series lies on the disk.
    Env::real().fs.remove_file(&dir.0.join(format!("wal/{segment:08}"))).unwrap();
    let (head, replayed) = open(&dir, i64::MIN);
    assert_eq!((replayed.chunks_mapped, replayed.samples, kinds(&head)), (2, 0, "hg".to_owned()));
    append_stale(&head, chunk_range + 2);
    assert_eq!(kinds(&head), "hh!gg!");
    drop(head);
    assert_eq!(kinds(&open(&dir, i64::MIN).0), "hh!gg!");
}

#[test]
fn the_same_histogram_again_is_accepted_and_another_one_is_refused() {
    let head = head(HeadOptions::default());
    let append = |t, histogram: Histogram| {
        let mut appender = head.appender();
        appender.append_histogram(None, &labels(1), t, histogram).map_err(|error| error.kind())?;
        Ok(appender.commit().unwrap())
    };
    // The chunk gets a bucket that the second histogram does not store.
    let mut wide = histogram(1);
    wide.positive_spans[0].length = 2;
    wide.positive_buckets = vec![1, -1];
    append(1, wide).unwrap();
    append(2, histogram(3)).unwrap();
    assert_eq!(append(2, histogram(3)), Ok(Committed::default()));
    assert_eq!(append(2, histogram(4)), Err(ErrorKind::Duplicate));
    assert_eq!(append(1, histogram(4)), Err(ErrorKind::OutOfOrder));
    assert_eq!(append(3, Histogram { count: 9, ..histogram(4) }), Err(ErrorKind::InvalidInput));
    let mut appender = head.appender();
    assert_eq!(appender.append(None, &labels(1), 2, 3.0).unwrap_err().kind(), ErrorKind::Duplicate);
    assert_eq!(kinds(&head), "hh");
}

#[test]
fn a_finer_histogram_than_can_be_stored_is_made_coarser() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    appender.append_histogram(None, &labels(1), 1, Histogram { schema: 10, ..histogram(3) }).unwrap();
    appender.commit().unwrap();
    let reader = head.reader(TimeRange::ALL);
    let (mut chunks, id) = (Vec::new(), reader.select(&[]).unwrap()[0].0);
    reader.chunks(id, &mut chunks, &mut Vec::new());
    let chunk = chunks[0].load().unwrap();
    let sample = samples(chunk.encoding, &chunk.data).next().unwrap().unwrap();
    let Value::Histogram(histogram) = sample.value else { panic!("a histogram was appended") };
    assert_eq!((histogram.schema, histogram.count), (8, 3));
}

#[test]
fn exemplars_metadata_and_deletions_survive_a_restart() {
    let dir = TempDir::new("others");
    let (head, _) = open(&dir, i64::MIN);
    let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "a")]), value: 1.0, t: 1500 };
    let metadata = Metadata { metric_type: MetricType::Counter, unit: "seconds".into(), help: "How long.".into() };
    let mut appender = head.appender();
    assert_eq!(
        appender.append_exemplar(None, &labels(1), exemplar.clone()).unwrap_err().kind(),
        ErrorKind::InvalidInput,
        "there is no such series"
    );
    for t in [1000, 2000, 3000] {
        appender.append(None, &labels(1), t, 1.0).unwrap();
    }
    appender.append_exemplar(None, &labels(1), exemplar.clone()).unwrap();
    appender.update_metadata(None, &labels(1), metadata.clone()).unwrap();
    appender.commit().unwrap();
    assert_eq!(head.delete(TimeRange::new(1500, 2500), &[]).unwrap(), 1);
    for restart in [false, true] {
        let head = if restart { open(&dir, i64::MIN).0 } else { Arc::clone(&head) };
        let reader = head.reader(TimeRange::ALL);
        let all = [Matcher::equal("__name__", "m")];
        assert_eq!(reader.exemplars(TimeRange::ALL, &[&all]).unwrap(), [(labels(1), vec![exemplar.clone()])]);
        assert_eq!(reader.exemplars(TimeRange::new(0, 1499), &[&all]).unwrap(), []);
        assert_eq!(reader.exemplars(TimeRange::ALL, &[&[Matcher::equal("n", "2")]]).unwrap(), []);
        assert_eq!(reader.metadata(None), [("m".to_owned(), metadata.clone())]);
        assert_eq!(reader.metadata(Some("other")), []);
        let times: Vec<i64> = everything(&reader)[0].1.iter().map(|(t, _)| *t).collect();
        assert_eq!(times, [1000, 3000]);
    }
}

#[test]
fn the_costliest_names_and_pairs_are_counted() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    for n in 0..10_u32 {
        let metric = if n < 7 { "large" } else { "small" };
        let labels = Labels::from_pairs([("__name__", metric), ("n", &n.to_string()), ("job", "j")]);
        appender.append(None, &labels, 1, 1.0).unwrap();
    }
    appender.commit().unwrap();
    let cardinality = head.cardinality(2);
    let list = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(cardinality.series_by_metric, list(&[("large", 7), ("small", 3)]));
    assert_eq!(cardinality.values_by_label, list(&[("n", 10), ("__name__", 2)]));
    assert_eq!(cardinality.series_by_pair, list(&[("job=j", 10), ("__name__=large", 7)]));
    assert_eq!(cardinality.bytes_by_label, list(&[("__name__", 50), ("job", 10)]));
    assert_eq!(cardinality.label_pairs, 13);
    let stats = head.stats();
    assert_eq!((stats.series, stats.chunks, stats.samples, stats.label_pairs), (10, 10, 10, 13));
}

#[test]
fn a_raised_floor_takes_samples_from_appenders_that_are_open() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    appender.append(None, &labels(1), 1000, 1.0).unwrap();
    appender.append(None, &labels(2), 3000, 1.0).unwrap();
    head.raise_floor(2000);
    assert_eq!(appender.commit().unwrap(), Committed { appended: 1, out_of_order: 0, same: 0, lost: 1 });
    assert_eq!(everything(&head.reader(TimeRange::ALL)).len(), 1);
}

#[test]
fn what_a_raised_floor_took_from_a_commit_does_not_come_back_with_the_log() {
    let dir = TempDir::new("floor");
    {
        let (head, _) = open(&dir, i64::MIN);
        let mut appender = head.appender();
        appender.append(None, &labels(1), 1000, 1.0).unwrap();
        appender.append(None, &labels(2), 3000, 2.0).unwrap();
        head.raise_floor(2000);
        assert_eq!(appender.commit().unwrap(), Committed { appended: 1, out_of_order: 0, same: 0, lost: 1 });
        head.close().unwrap();
    }
    let (head, _) = open(&dir, i64::MIN);
    assert_eq!(everything(&head.reader(TimeRange::ALL)), [(labels(2), vec![(3000, 2.0_f64.to_bits())])]);
}

#[test]
fn series_that_come_and_go_leave_no_memory_behind() {
    let head = head(HeadOptions { chunk_range: 1000, ..HeadOptions::default() });
    let mut after_round = Vec::new();
    for round in 0..30 {
        let t = i64::from(round) * 10_000;
        let mut appender = head.appender();
        for n in 0..1000 {
            let name = (format!("label_{}", (round * 7 + n) % 40), "v");
            let n = (round * 1000 + n).to_string();
            let labels = Labels::from_pairs([("__name__", "churn"), ("pod", n.as_str()), (name.0.as_str(), name.1)]);
            appender.append(None, &labels, t, 1.0).unwrap();
        }
        appender.commit().unwrap();
        head.truncate_memory(t + 1);
        head.collect();
        let stats = head.stats();
        assert_eq!((stats.series, stats.label_pairs), (0, 0));
        after_round.push(stats.bytes);
    }
    // Slots and tables are used again: what the first rounds took is enough for all.
    assert!(after_round.iter().skip(3).all(|bytes| *bytes <= after_round[2]), "{after_round:?}");
}

#[test]
fn an_order_that_is_kept_is_followed_and_one_that_changes_is_learnt() {
    let head = head(HeadOptions::default());
    let orders: [Vec<u32>; 4] = [
        (0..300).collect(),
        (0..300).rev().collect(),
        (0..300).map(|n| n * 7 % 300).collect(),
        (0..300).filter(|n| n % 3 != 0).chain([299, 299, 0]).collect(),
    ];
    let mut references = FixedMap::default();
    for (round, t) in (0..12).zip(1000_i64..) {
        let mut appender = head.appender();
        for n in &orders[round % 4] {
            let reference = appender.append(None, &labels(*n), t, 1.0).unwrap();
            assert_eq!(*references.entry(*n).or_insert(reference), reference, "{n}");
        }
        appender.commit().unwrap();
    }
    assert_eq!(head.series_count(), 300);
}

#[test]
fn a_part_of_the_head_gives_its_series_in_label_order() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    let mut expected: Vec<Labels> = (0..500_u32)
        .map(|n| {
            let n = n.wrapping_mul(2_654_435_761) % 1000;
            let names = [("a", n % 3), ("b", n % 7), ("cc", n % 5), ("c", n)];
            let pairs = names.iter().filter(|(_, value)| *value > 0).map(|(name, value)| (*name, value.to_string()));
            Labels::from_pairs(pairs.chain([("z", "1".to_owned())]))
        })
        .collect();
    for labels in &expected {
        appender.append(None, labels, 1000, 1.0).unwrap();
    }
    appender.commit().unwrap();
    expected.sort();
    expected.dedup();
    let range = head.range_head(TimeRange::ALL);
    let ids = range.select(&[]).unwrap();
    let found: Vec<Labels> = ids.iter().map(|id| range.labels(*id).unwrap()).collect();
    assert_eq!(found, expected);
    let symbols: Vec<String> = range.symbols().unwrap().map(|symbol| symbol.unwrap().into_owned()).collect();
    assert!(symbols.is_sorted_by(|a, b| a < b) && symbols.first().is_some_and(String::is_empty));
}

/// A clock that goes on by a millisecond whenever it is looked at.
#[derive(Debug, Default)]
struct Ticking(AtomicU64);

impl crate::fs::Clock for Ticking {
    fn now_ms(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn how_long_upkeep_holds_a_lock_is_measured() {
    let env = Env { clock: Arc::new(Ticking::default()), ..Env::real() };
    let head = Head::without_log(&env, HeadOptions { future_bound: None, ..HeadOptions::default() });
    assert_eq!(head.counts().longest_hold.as_millis(), 0);
    let mut appender = head.appender();
    for n in 0..100 {
        appender.append(None, &labels(n), 1000, 1.0).unwrap();
    }
    appender.commit().unwrap();
    head.truncate_memory(2000);
    head.collect();
    assert_eq!(head.counts().series_removed, 100);
    assert_eq!(head.counts().longest_hold.as_millis(), 1, "a lock is held once between two looks");
}

#[test]
fn a_series_that_is_on_its_way_out_as_stale_and_is_cut_stays_for_an_appender_that_came_between() {
    let head = head(HeadOptions { chunk_range: 1000, ..HeadOptions::default() });
    let mut appender = head.appender();
    appender.append(None, &labels(1), 100, f64::from_bits(STALE_NAN_BITS)).unwrap();
    appender.commit().unwrap();
    let before = head.appender();
    let leaving = head.mark_stale(head.stale_series());
    let leaving = head.evict_stale(leaving).unwrap().expect("an appender is open");
    before.rollback();
    let mut between = head.appender();
    between.append(None, &labels(1), 5_000, 2.0).unwrap();
    head.truncate_memory(1_000);
    assert!(head.evict_stale(leaving).unwrap().is_none());
    assert_eq!(between.commit().unwrap(), Committed { appended: 1, ..Committed::default() });
}

#[test]
fn readers_that_come_and_go_without_a_gap_keep_no_more_than_one_truncation_has() {
    let head = head(HeadOptions::default());
    for n in 1..=3 {
        let mut appender = head.appender();
        appender.append(None, &labels(n), i64::from(n) * 1000, 1.0).unwrap();
        appender.commit().unwrap();
    }
    let before = head.reader(TimeRange::ALL);
    head.truncate_memory(1500);
    let between = head.reader(TimeRange::ALL);
    assert_eq!((head.series_count(), everything(&before).len()), (3, 3));
    assert!(!head.can_collect());
    drop(before);
    assert!(head.can_collect());
    head.truncate_memory(2500);
    assert_eq!((head.series_count(), everything(&between).len()), (2, 2));
    drop(between);
    assert!(head.can_collect());
    head.collect();
    assert_eq!(head.series_count(), 1);
    assert!(!head.can_collect());
}

#[test]
fn bytes_that_are_no_packed_labels_create_no_series() {
    let head = head(HeadOptions::default());
    let mut appender = head.appender();
    let known = appender.append(None, &labels(1), 1000, 1.0).unwrap();
    for broken in [
        &b"\x05a"[..],
        b"\x01a\x01b\x01",
        b"\x01b\x01x\x01a\x01x",
        b"\x01a\x01x\x01a\x01y",
        b"\x01a\x00",
        b"\x01a\x01\xff",
        b"\xff\x01\x00\x00a\x01x",
    ] {
        let appended = appender.append_packed(None, broken, 1000, 1.0).map_err(|error| error.kind());
        assert_eq!(appended, Err(ErrorKind::InvalidInput), "{broken:?}");
        appender.append_packed(Some(known), broken, 1000, 1.0).unwrap();
    }
    appender.append_packed(None, labels(2).as_packed(), 1000, 1.0).unwrap();
    assert_eq!(head.series_count(), 2);
}
