//! What a query over a bucket costs: requests and bytes, cold, with headers at hand, and warm; and what a start costs.

#![cfg(feature = "bucket")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::Arc;

use narthex::block::{BlockMeta, BlockRead, BlockWriter, TimedChunk, Ulid};
use narthex::bucket::{BlockList, Bucket, BucketSource, ListOptions, ObjectStore, Operation, RangeCache};
use narthex::budget::Budget;
use narthex::chunk::XorAppender;
use narthex::fs::Env;
use narthex::model::TimeRange;
use narthex::promql::{Engine, Value};
use narthex::query::{BlockSource, Merged, Source};
use narthex::testkit::{STEP_MS, T0, Workload};
use object_store::memory::InMemory;
use serde_json::json;

const TWO_HOURS: i64 = 2 * 3600 * 1000;
const SAMPLES: i64 = TWO_HOURS / STEP_MS;
/// Samples of a chunk.
const CHUNK: i64 = 120;

/// Writes `count` two-hour blocks of `series` series each into `dir`, as the head would cut them.
fn write_blocks(env: &Env, dir: &Path, series: usize, count: i64) -> Vec<Ulid> {
    let mut workload = Workload::new(series);
    let mut order: Vec<usize> = (0..series).collect();
    order.sort_by(|a, b| workload.labels()[*a].cmp(&workload.labels()[*b]));
    let mut symbols: Vec<String> = workload
        .labels()
        .iter()
        .flat_map(|labels| {
            labels.iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect::<Vec<_>>()
        })
        .collect();
    symbols.sort();
    symbols.dedup();
    let mut ulids = Vec::new();
    for number in 0..count {
        let start = T0 + number * TWO_HOURS;
        let ulid = Ulid::from_parts(u64::try_from(start + TWO_HOURS).unwrap(), number as u128);
        let mut chunks: Vec<Vec<TimedChunk>> = vec![Vec::new(); series];
        for piece in 0..SAMPLES / CHUNK {
            let mut appenders: Vec<XorAppender> = (0..series).map(|_| XorAppender::new()).collect();
            for _ in 0..CHUNK {
                workload
                    .step(|t, first, values| {
                        for (appender, value) in appenders[first..].iter_mut().zip(values) {
                            appender.append(t, *value)?;
                        }
                        Ok::<_, narthex::chunk::ChunkError>(())
                    })
                    .unwrap();
            }
            let min_time = start + piece * CHUNK * STEP_MS;
            for (chunks, appender) in chunks.iter_mut().zip(&mut appenders) {
                chunks.push(TimedChunk {
                    min_time,
                    max_time: min_time + (CHUNK - 1) * STEP_MS,
                    chunk: appender.take(),
                });
            }
        }
        let mut meta = BlockMeta::new(ulid, start, start + TWO_HOURS);
        meta.compaction.level = 1;
        meta.compaction.sources = vec![ulid];
        let mut writer = BlockWriter::create(&env.fs, dir, meta).unwrap();
        for symbol in &symbols {
            writer.add_symbol(symbol).unwrap();
        }
        for index in &order {
            writer.add_series(&workload.labels()[*index], &chunks[*index]).unwrap();
        }
        writer.finish().unwrap();
        ulids.push(ulid);
    }
    ulids
}

/// Puts the block `dir` into the bucket, with the section that an upload adds.
fn upload(env: &Env, bucket: &Bucket, dir: &Path) {
    let mut meta = BlockMeta::read(&*env.fs, dir).unwrap();
    let mut files = vec![json!({"rel_path": "meta.json"})];
    let mut put = |name: &str| {
        let content = env.fs.read(&dir.join(name)).unwrap();
        files.push(json!({"rel_path": name, "size_bytes": content.len()}));
        bucket.block_on(bucket.put(&format!("{}/{name}", meta.ulid), content.into())).unwrap();
    };
    for segment in env.fs.list(&dir.join("chunks")).unwrap() {
        put(&format!("chunks/{}", segment.name));
    }
    put("index");
    let thanos = json!({
        "version": 1, "labels": {}, "downsample": {"resolution": 0}, "source": "test", "files": files,
        "index_stats": {},
    });
    meta.extra.insert("thanos".to_owned(), thanos);
    bucket.block_on(bucket.put(&format!("{}/meta.json", meta.ulid), meta.to_json().into())).unwrap();
}

/// Requests and bytes so far, of whole objects and of ranges.
fn spent(bucket: &Bucket) -> (u64, u64) {
    let (get, range) = (bucket.counts(Operation::Get), bucket.counts(Operation::GetRange));
    (get.requests + range.requests, get.bytes + range.bytes)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A directory of this process, empty.
fn scratch(env: &Env, name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("narthex-bucket-{name}-{}", std::process::id()));
    if env.fs.stat(&dir).unwrap().is_some() {
        env.fs.remove_dir_all(&dir).unwrap();
    }
    env.fs.create_dir_all(&dir).unwrap();
    dir
}

fn list(bucket: &Bucket, env: &Env, cache_dir: Option<&Path>) -> Arc<BlockList> {
    let list = BlockList::open(bucket, env, cache_dir, ListOptions::default()).unwrap();
    list.refresh().unwrap();
    Arc::new(list)
}

#[test]
fn a_rate_of_a_hundred_series_over_thirty_blocks_takes_few_requests_and_not_much_more_than_its_chunks() {
    const BLOCKS: i64 = 30;
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "requests");
    let ulids = write_blocks(&env, &dir.join("blocks"), 1000, BLOCKS);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let bucket = Bucket::new("memory", store, runtime.handle().clone());
    let mut local: Vec<Arc<dyn Source>> = Vec::new();
    for ulid in &ulids {
        let block = dir.join("blocks").join(ulid.to_string());
        upload(&env, &bucket, &block);
        local.push(Arc::new(BlockSource::new(Arc::new(narthex::block::Block::open(&*env.fs, &block).unwrap()))));
    }

    // A hundred series: ten metrics of five codes on two targets.
    let query = r#"sum by (__name__) (rate({__name__=~"app_metric_02[0-9]_total|app_metric_02[0-9]"}[5m]))"#;
    let (start, end) = (T0 + 300_000, T0 + BLOCKS * TWO_HOURS - STEP_MS);
    let engine = Engine::default();
    let ask = |source: &dyn Source| {
        let before = spent(&bucket);
        let answer = engine.range(source, query, start, end, 60_000, &Budget::unlimited()).unwrap();
        let Value::Matrix(series) = answer.value else { unreachable!() };
        let after = spent(&bucket);
        (format!("{series:?}"), after.0 - before.0, after.1 - before.1)
    };

    let mut held = 0;
    for ulid in &ulids {
        let block = narthex::block::Block::open(&*env.fs, &dir.join("blocks").join(ulid.to_string())).unwrap();
        let matcher = narthex::model::Matcher::new(
            narthex::model::MatchOp::Regex,
            "__name__",
            "app_metric_02[0-9]_total|app_metric_02[0-9]",
        );
        let (mut labels, mut chunks) = (narthex::model::Labels::empty(), Vec::new());
        let ids = block.select(&[matcher.unwrap()]).unwrap();
        assert_eq!(ids.len(), 100);
        for id in ids {
            block.series(id, &mut labels, &mut chunks).unwrap();
            held += chunks.iter().map(|meta| block.chunk(meta).unwrap().data.len() as u64).sum::<u64>();
        }
    }
    let (expected, _, _) = ask(&Merged::new(local));

    let cache_dir = dir.join("cache");
    let cache = Arc::new(RangeCache::new(64 << 20));
    let source = BucketSource::new(list(&bucket, &env, Some(&cache_dir)), Arc::clone(&cache));
    let blocks = BLOCKS as u64;
    let (cold, cold_requests, cold_bytes) = ask(&source);
    let (warm, warm_requests, warm_bytes) = ask(&source);
    println!("{:?}", cache.stats());
    // A new process: the headers lie on the disk, and the cache is empty.
    let source = BucketSource::new(list(&bucket, &env, Some(&cache_dir)), Arc::new(RangeCache::new(64 << 20)));
    let (headers, header_requests, header_bytes) = ask(&source);
    for (what, requests, bytes) in [
        ("cold", cold_requests, cold_bytes),
        ("with headers", header_requests, header_bytes),
        ("warm", warm_requests, warm_bytes),
    ] {
        println!(
            "{what}: {:.2} requests and {} bytes a block; the chunks hold {}",
            requests as f64 / blocks as f64,
            bytes / blocks,
            held / blocks
        );
    }
    assert!(cold == expected && headers == expected && warm == expected, "the answers differ");
    assert!(cold_requests <= 6 * blocks && header_requests <= 3 * blocks && warm_requests == 0);
    assert!(header_bytes <= 3 * held);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn select_is_lazy_about_what_lies_outside_of_its_time() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "outside");
    let ulids = write_blocks(&env, &dir.join("blocks"), 10, 2);
    let bucket = Bucket::new("memory", Arc::new(InMemory::new()), runtime.handle().clone());
    for ulid in &ulids {
        upload(&env, &bucket, &dir.join("blocks").join(ulid.to_string()));
    }
    let source = BucketSource::new(list(&bucket, &env, None), Arc::new(RangeCache::new(1 << 20)));
    let before = spent(&bucket);
    let range = TimeRange::new(T0 - 2, T0 - 1);
    assert!(source.label_names(range, &[]).unwrap().is_empty());
    assert_eq!(spent(&bucket), before);
    env.fs.remove_dir_all(&dir).unwrap();
}
