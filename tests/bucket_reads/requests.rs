//! What a query over a bucket costs: requests and bytes, cold, with headers at hand, and warm.

use std::sync::Arc;

use narthex::block::{Block, BlockRead};
use narthex::bucket::{Bucket, BucketSource, ObjectStore, RangeCache};
use narthex::budget::Budget;
use narthex::fs::Env;
use narthex::model::{Labels, Matcher, TimeRange};
use narthex::promql::{Engine, Value};
use narthex::query::{BlockSource, Merged, SelectRequest, Source};
use narthex::testkit::{STEP_MS, T0};
use object_store::memory::InMemory;

use crate::support::{TWO_HOURS, list, runtime, scratch, spent, upload, write_blocks};

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
        upload(&env, &bucket, &block, &[]);
        local.push(Arc::new(BlockSource::new(Arc::new(Block::open(&*env.fs, &block).unwrap()))));
    }

    // A hundred series: five codes on twenty targets.
    let query = "sum by (code) (rate(app_metric_002_total[5m]))";
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
        let block = Block::open(&*env.fs, &dir.join("blocks").join(ulid.to_string())).unwrap();
        let matcher = Matcher::equal("__name__", "app_metric_002_total");
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        let ids = block.select(&[matcher]).unwrap();
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
    for page in [2, 4, 8, 16, 32] {
        let mut costs = String::new();
        // The series of a metric lie together, those of a target far from each other.
        for query in [query, r#"count by (job) ({instance="10.0.0.7:9100"})"#] {
            let cache = Arc::new(RangeCache::with_page_size(64 << 20, page << 10));
            let source = BucketSource::new(list(&bucket, &env, Some(&cache_dir)), cache);
            let before = spent(&bucket);
            engine.range(&source, query, start, end, 60_000, &Budget::unlimited()).unwrap();
            let after = spent(&bucket);
            let (requests, bytes) = ((after.0 - before.0) as f64 / blocks as f64, (after.1 - before.1) / blocks);
            costs.push_str(&format!("; {requests:.2} requests and {bytes} bytes a block"));
        }
        println!("pages of {page} KiB{costs}");
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
        upload(&env, &bucket, &dir.join("blocks").join(ulid.to_string()), &[]);
    }
    let source = BucketSource::new(list(&bucket, &env, None), Arc::new(RangeCache::new(1 << 20)));
    let before = spent(&bucket);
    let range = TimeRange::new(T0 - 2, T0 - 1);
    assert!(source.label_names(&SelectRequest::labels_only(range, &[], &Budget::unlimited())).unwrap().is_empty());
    assert_eq!(spent(&bucket), before);
    env.fs.remove_dir_all(&dir).unwrap();
}
