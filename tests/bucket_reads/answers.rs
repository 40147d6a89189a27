//! What a bucket answers is what the same blocks answer from a disk, whatever is asked and however little is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use narthex::block::{Block, BlockMeta, BlockWriter, TimedChunk, Ulid};
use narthex::bucket::{Bucket, BucketSource, RangeCache};
use narthex::budget::{Budget, BudgetLimits};
use narthex::chunk::XorAppender;
use narthex::codec::FixedSet;
use narthex::error::ErrorKind;
use narthex::fs::Env;
use narthex::model::{Labels, MatchOp, Matcher, Sample, TimeRange};
use narthex::query::{BlockSource, Merged, SelectRequest, Source, WithLabels, series_samples};
use narthex::testkit::splitmix64;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{list, memory, runtime, scratch, spent, upload, write_blocks, write_replica};

type Answer = Vec<(Labels, Vec<Sample>)>;

fn select(source: &dyn Source, range: TimeRange, matchers: &[Matcher]) -> Answer {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(range, matchers, &budget)).unwrap();
    let mut found = Vec::new();
    while let Some(series) = set.next().unwrap() {
        found.push((series.labels, series_samples(&series.chunks, range).unwrap()));
    }
    // What is not in the range may be answered too, or not.
    found.retain(|(_, samples)| !samples.is_empty());
    found
}

/// As text: some samples are not numbers, and would differ from themselves.
fn text(answer: &Answer) -> String {
    format!("{answer:?}")
}

/// Copies a golden block to `to` without its tombstones, which a bucket does not have.
fn copy(env: &Env, from: &str, to: &std::path::Path) -> PathBuf {
    let from = crate::support::golden(from);
    let dir = to.join(BlockMeta::read(&*env.fs, &from).unwrap().ulid.to_string());
    env.fs.create_dir_all(&dir.join("chunks")).unwrap();
    for name in ["index", "meta.json", "chunks/000001"] {
        let bytes = env.fs.read(&from.join(name)).unwrap();
        env.fs.create(&dir.join(name)).unwrap().append(&bytes).unwrap();
    }
    dir
}

/// A bucket, and the same blocks as they are read from a disk.
fn both(env: &Env, bucket: &Bucket, blocks: &[(PathBuf, Vec<(&str, &str)>)]) -> Merged {
    let mut local: Vec<(Ulid, Arc<dyn Source>)> = Vec::new();
    for (dir, labels) in blocks {
        upload(env, bucket, dir, labels);
        let block = Arc::new(Block::open(&*env.fs, dir).unwrap());
        let labels = match narthex::bucket::ThanosMeta::of(block.meta()).unwrap() {
            Some(thanos) => thanos.external_labels(),
            None => Labels::from_pairs(labels.iter().copied()),
        };
        let ulid = block.meta().ulid;
        local.push((ulid, Arc::new(WithLabels::new(BlockSource::new(block), labels))));
    }
    local.sort_by_key(|(ulid, _)| *ulid);
    Merged::new(local.into_iter().map(|(_, source)| source).collect())
}

/// Matchers over what `source` has, and over what it has not.
fn matchers(source: &dyn Source) -> impl Strategy<Value = Vec<Matcher>> + use<> {
    let mut pairs: Vec<(String, String)> = vec![("absent".to_owned(), "x".to_owned())];
    let budget = Budget::unlimited();
    let every = SelectRequest::labels_only(TimeRange::ALL, &[], &budget);
    for name in source.label_names(&every).unwrap() {
        let values = source.label_values(&name, &every).unwrap();
        pairs.extend(values.into_iter().take(40).map(|value| (name.clone(), value)));
    }
    let pair = prop::sample::select(pairs);
    let other = pair.clone();
    let matcher = (pair, other, 0..9u8).prop_map(|((name, value), (_, second), form)| {
        let plain: String = value.chars().take(3).filter(char::is_ascii_alphanumeric).collect();
        let (op, text) = match form {
            0 => (MatchOp::Equal, value),
            1 => (MatchOp::NotEqual, value),
            2 => (MatchOp::Regex, format!("{plain}.*")),
            3 => (MatchOp::NotRegex, format!("{plain}.*")),
            4 => (MatchOp::Regex, ".+".to_owned()),
            5 => (MatchOp::Regex, ".*[0-4]".to_owned()),
            6 => (MatchOp::Equal, String::new()),
            7 => (MatchOp::NotRegex, format!("{plain}|{}", second.replace(|c: char| !c.is_ascii_alphanumeric(), "."))),
            _ => (MatchOp::NotEqual, String::new()),
        };
        Matcher::new(op, name, text).unwrap()
    });
    prop::collection::vec(matcher, 0..4)
}

fn assert_same_answers(env: &Env, bucket: &Bucket, local: &Merged, cases: u32) {
    let blocks = list(bucket, env, None);
    let spans: Vec<TimeRange> = blocks.blocks().iter().map(|block| block.time_range()).collect();
    let (min, max) =
        (spans.iter().map(|span| span.min).min().unwrap(), spans.iter().map(|span| span.max).max().unwrap());
    let whole = TimeRange::new(min, max);
    let sources: Vec<BucketSource> = [0, 20_000, 64 << 20]
        .map(|bytes| BucketSource::new(Arc::clone(&blocks), Arc::new(RangeCache::new(bytes))))
        .into();
    assert_eq!(text(&select(&sources[0], whole, &[])), text(&select(local, whole, &[])));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = (matchers(local), min - 1000..max + 1000, 0..max - min, 0..sources.len());
    runner
        .run(&strategy, |(matchers, start, width, source)| {
            let (source, range) = (&sources[source], TimeRange::new(start, start + width));
            let (found, expected) = (select(source, range, &matchers), select(local, range, &matchers));
            prop_assert_eq!(text(&found), text(&expected), "{:?} {:?}", matchers, range);
            let budget = Budget::unlimited();
            let mut request = SelectRequest::labels_only(whole, &matchers, &budget);
            prop_assert_eq!(
                source.label_names(&request).unwrap(),
                local.label_names(&request).unwrap(),
                "names for {:?}",
                matchers
            );
            let name = matchers.first().map_or("__name__", |matcher| matcher.name());
            prop_assert_eq!(
                source.label_values(name, &request).unwrap(),
                local.label_values(name, &request).unwrap(),
                "values of {} for {:?}",
                name,
                matchers
            );
            let names = local.label_values("__name__", &request).unwrap();
            prop_assert_eq!(&source.label_values("__name__", &request).unwrap(), &names);
            request.hints.limit = 3;
            prop_assert_eq!(source.label_values("__name__", &request).unwrap(), &names[..names.len().min(3)]);
            let limited = |source: &dyn Source| {
                let mut set = source.select(&request).unwrap();
                std::iter::from_fn(|| set.next().unwrap()).map(|series| series.labels).collect::<Vec<_>>()
            };
            let first = limited(local);
            prop_assert!(first.len() <= 3);
            prop_assert_eq!(limited(source), first);
            Ok(())
        })
        .unwrap();
}

#[test]
fn blocks_that_prometheus_wrote_with_every_encoding_answer_as_from_a_disk() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "golden-prometheus");
    let bucket = memory(&runtime);
    let sets = ["all-st-wal-snappy", "xor2-st-wal-zstd"];
    let blocks: Vec<_> = sets
        .iter()
        .flat_map(|set| ["block-0", "block-1"].map(|block| (set, format!("prometheus-3.14/{set}/{block}"))))
        .map(|(set, path)| (copy(&env, &path, &dir), vec![("cluster", "eu"), ("set", set)]))
        .collect();
    let local = both(&env, &bucket, &blocks);
    assert_same_answers(&env, &bucket, &local, 150);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn raw_blocks_that_thanos_wrote_answer_as_from_a_disk_and_downsampled_ones_are_not_asked() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "golden-thanos");
    let bucket = memory(&runtime);
    let names = env.fs.list(&crate::support::golden("thanos-0.43/bucket")).unwrap();
    let mut raw = Vec::new();
    for name in names.iter().filter(|entry| entry.is_dir) {
        let block = copy(&env, &format!("thanos-0.43/bucket/{}", name.name), &dir);
        let meta = BlockMeta::read(&*env.fs, &block).unwrap();
        let thanos = narthex::bucket::ThanosMeta::of(&meta).unwrap().unwrap();
        if thanos.downsample.resolution == 0 {
            raw.push((block, Vec::new()));
        } else {
            upload(&env, &bucket, &block, &[]);
        }
    }
    assert_eq!(raw.len(), 2);
    let local = both(&env, &bucket, &raw);
    assert_eq!(list(&bucket, &env, None).blocks().len(), 5, "downsampled ones are listed");
    assert_same_answers(&env, &bucket, &local, 100);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn replicas_merge_under_equal_labels_and_the_older_block_wins() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "replicas");
    let bucket = memory(&runtime);
    // These replace what tells the targets apart, so two series of a block are one.
    let labels =
        vec![("cluster", "c"), ("instance", "i"), ("job", "j"), ("namespace", "n"), ("pod", "p"), ("zone", "z")];
    let blocks: Vec<_> = [0, 10]
        .iter()
        .flat_map(|replica| write_replica(&env, &dir, 100, 1, *replica))
        .map(|ulid| (dir.join(ulid.to_string()), labels.clone()))
        .collect();
    let local = both(&env, &bucket, &blocks);
    assert_eq!(select(&local, TimeRange::ALL, &[]).len(), 50);
    assert_same_answers(&env, &bucket, &local, 30);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn workload_blocks_answer_as_from_a_disk_with_windows_that_are_fetched_one_after_another() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "workload");
    let bucket = memory(&runtime);
    // A window is 4 MiB at most, and a block of so many series has more than one.
    let ulids = write_blocks(&env, &dir, 4000, 1);
    let blocks: Vec<_> = ulids.iter().map(|ulid| (dir.join(ulid.to_string()), Vec::new())).collect();
    let local = both(&env, &bucket, &blocks);
    assert_same_answers(&env, &bucket, &local, 8);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn blocks_that_are_read_elsewhere_are_left_out() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "excluding");
    let bucket = memory(&runtime);
    let ulids = write_blocks(&env, &dir, 10, 3);
    for ulid in &ulids {
        upload(&env, &bucket, &dir.join(ulid.to_string()), &[]);
    }
    let source = BucketSource::new(list(&bucket, &env, None), Arc::new(RangeCache::new(1 << 20)));
    let excluded: FixedSet<Ulid> = ulids[..2].iter().copied().collect();
    let rest = source.excluding(&excluded);
    let last = list(&bucket, &env, None).blocks().last().unwrap().time_range();
    assert_eq!(text(&select(&rest, TimeRange::ALL, &[])), text(&select(&source, last, &[])));
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn what_a_query_holds_is_charged_to_it_and_given_back() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "budget");
    let bucket = memory(&runtime);
    let ulids = write_blocks(&env, &dir, 100, 1);
    upload(&env, &bucket, &dir.join(ulids[0].to_string()), &[]);
    let source = BucketSource::new(list(&bucket, &env, None), Arc::new(RangeCache::new(1 << 20)));
    let ask = |limit| {
        let limits = BudgetLimits { bytes: Some(limit), ..BudgetLimits::default() };
        let budget = Budget::new(limits, &env.clock);
        let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget))?;
        while let Some(series) = set.next()? {
            series_samples(&series.chunks, TimeRange::ALL)?;
        }
        drop(set);
        let peak = budget.peak_bytes();
        // All that may be taken: so nothing of it is taken now.
        budget.take_bytes(limit)?;
        Ok::<_, narthex::Error>(peak)
    };
    let peak = ask(100 << 20).unwrap();
    assert!(peak > 50_000, "{peak} bytes for the chunks of a hundred series");
    assert_eq!(ask(peak / 2).unwrap_err().kind(), ErrorKind::LimitExceeded);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn a_query_that_is_cancelled_or_out_of_time_does_not_wait_for_the_store() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "deadline");
    let store = Arc::new(ThrottledStore::new(InMemory::new(), ThrottleConfig::default()));
    let bucket = Bucket::new("slow", Arc::clone(&store) as _, runtime.handle().clone());
    let ulids = write_blocks(&env, &dir, 10, 1);
    upload(&env, &bucket, &dir.join(ulids[0].to_string()), &[]);
    let source = BucketSource::new(list(&bucket, &env, None), Arc::new(RangeCache::new(1 << 20)));
    store.config_mut(|config| config.wait_get_per_call = Duration::from_hours(1));
    let ask = |budget: &Budget| {
        let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], budget)).unwrap();
        set.next().unwrap_err().kind()
    };
    let limits = BudgetLimits { timeout: Some(Duration::from_millis(50)), ..BudgetLimits::default() };
    assert_eq!(ask(&Budget::new(limits, &env.clock)), ErrorKind::Timeout);
    let cancelled = Budget::unlimited();
    cancelled.cancel();
    assert_eq!(ask(&cancelled), ErrorKind::Cancelled);
    // What was given up is not remembered as a failure.
    store.config_mut(|config| config.wait_get_per_call = Duration::ZERO);
    assert_eq!(select(&source, TimeRange::ALL, &[]).len(), 10);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn queries_at_the_same_time_fetch_what_they_share_once() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "shared");
    let bucket = memory(&runtime);
    let ulids = write_blocks(&env, &dir, 500, 2);
    for ulid in &ulids {
        upload(&env, &bucket, &dir.join(ulid.to_string()), &[]);
    }
    let blocks = list(&bucket, &env, None);
    let alone = BucketSource::new(Arc::clone(&blocks), Arc::new(RangeCache::new(64 << 20)));
    let before = spent(&bucket);
    let expected = text(&select(&alone, TimeRange::ALL, &[]));
    let once = spent(&bucket);
    let source = BucketSource::new(blocks, Arc::new(RangeCache::new(64 << 20)));
    let budget = Budget::unlimited();
    // All are under way before the first is read.
    let sets: Vec<_> =
        (0..8).map(|_| source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap()).collect();
    for mut set in sets {
        let mut found = Vec::new();
        while let Some(series) = set.next().unwrap() {
            found.push((series.labels, series_samples(&series.chunks, TimeRange::ALL).unwrap()));
        }
        assert_eq!(text(&found), expected);
    }
    let bytes = spent(&bucket).1 - once.1;
    assert_eq!(bytes, once.1 - before.1, "bytes of eight at the same time, and of one");
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn records_and_chunks_that_are_longer_than_expected_are_read_to_their_ends() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "long");
    let bucket = memory(&runtime);
    let ulid = Ulid::from_parts(1, 1);
    let mut meta = BlockMeta::new(ulid, 0, 10_000_000);
    meta.compaction.sources = vec![ulid];
    let mut writer = BlockWriter::create(&env.fs, &dir, meta).unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("{number:03}")).collect();
    names.iter().map(String::as_str).chain(["n"]).for_each(|symbol| writer.add_symbol(symbol).unwrap());
    let mut random = 1;
    for (number, name) in names.iter().enumerate() {
        // Every hundredth has thousands of chunks, the one after it one of tens of thousands of bytes.
        let (chunks, samples) = match number % 100 {
            0 => (3000, 1),
            1 => (1, 6000),
            _ => (1, 1),
        };
        let mut t = 0;
        let chunks: Vec<TimedChunk> = (0..chunks)
            .map(|_| {
                let (mut appender, min_time) = (XorAppender::new(), t + 1);
                for _ in 0..samples {
                    t += 1;
                    appender.append(t, splitmix64(&mut random) as f64).unwrap();
                }
                TimedChunk { min_time, max_time: t, chunk: appender.take() }
            })
            .collect();
        writer.add_series(&Labels::from_pairs([("n", name)]), &chunks).unwrap();
    }
    writer.finish().unwrap();
    let local = both(&env, &bucket, &[(dir.join(ulid.to_string()), Vec::new())]);
    assert_same_answers(&env, &bucket, &local, 20);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
#[ignore = "needs NARTHEX_SHARED, with golden/index-format-v1"]
fn a_block_with_an_index_of_format_1_answers_as_from_a_disk() {
    let (env, runtime) = (Env::real(), runtime());
    let shared = std::env::var_os("NARTHEX_SHARED").expect("NARTHEX_SHARED names the directory with golden/");
    let dir = scratch(&env, "format-1");
    let bucket = memory(&runtime);
    let block = copy(&env, std::path::Path::new(&shared).join("golden/index-format-v1").to_str().unwrap(), &dir);
    let local = both(&env, &bucket, &[(block, vec![("cluster", "eu")])]);
    assert_same_answers(&env, &bucket, &local, 100);
    env.fs.remove_dir_all(&dir).unwrap();
}
