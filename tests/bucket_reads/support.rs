//! Blocks to put into a bucket, and buckets to put them into.

use std::path::Path;
use std::sync::Arc;

use narthex::block::{BlockMeta, BlockWriter, TimedChunk, Ulid};
use narthex::bucket::{BlockList, Bucket, ListOptions, Operation};
use narthex::chunk::XorAppender;
use narthex::fs::Env;
use narthex::model::Labels;
use narthex::testkit::{STEP_MS, T0, Values, series_labels};
use object_store::memory::InMemory;
use serde_json::json;

pub(crate) const TWO_HOURS: i64 = 2 * 3600 * 1000;
const SAMPLES: i64 = TWO_HOURS / STEP_MS;
/// Samples of a chunk.
const CHUNK: i64 = 120;

/// The series of a block: of the workload's, fifty of each target's, so that a metric has a hundred among a thousand.
fn indexes(series: usize) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..series).map(|number| number / 50 * 500 + number % 50).collect();
    indexes.sort_by_cached_key(|index| series_labels(*index));
    indexes
}

/// Writes `count` two-hour blocks of `series` series each into `dir`, as the head would cut them.
pub(crate) fn write_blocks(env: &Env, dir: &Path, series: usize, count: i64) -> Vec<Ulid> {
    write_replica(env, dir, series, count, 0)
}

/// The same series at the same times; their values are other ones for each `replica`.
pub(crate) fn write_replica(env: &Env, dir: &Path, series: usize, count: i64, replica: usize) -> Vec<Ulid> {
    let mut all: Vec<(Labels, Values)> =
        indexes(series).into_iter().map(|index| (series_labels(index), Values::new(index + replica))).collect();
    let mut symbols: Vec<String> = all
        .iter()
        .flat_map(|(labels, _)| labels.iter().flat_map(|(name, value)| [name, value]))
        .map(str::to_owned)
        .collect();
    symbols.sort();
    symbols.dedup();
    let mut ulids = Vec::new();
    for number in 0..count {
        let start = T0 + number * TWO_HOURS;
        let ulid =
            Ulid::from_parts(u64::try_from(start + TWO_HOURS).unwrap(), ((replica as u128) << 32) + number as u128);
        let mut meta = BlockMeta::new(ulid, start, start + TWO_HOURS);
        meta.compaction.level = 1;
        meta.compaction.sources = vec![ulid];
        let mut writer = BlockWriter::create(&env.fs, dir, meta).unwrap();
        for symbol in &symbols {
            writer.add_symbol(symbol).unwrap();
        }
        for (labels, values) in &mut all {
            let chunks: Vec<TimedChunk> = (0..SAMPLES / CHUNK)
                .map(|piece| {
                    let min_time = start + piece * CHUNK * STEP_MS;
                    let mut appender = XorAppender::new();
                    for sample in 0..CHUNK {
                        appender.append(min_time + sample * STEP_MS, values.draw()).unwrap();
                    }
                    TimedChunk { min_time, max_time: min_time + (CHUNK - 1) * STEP_MS, chunk: appender.take() }
                })
                .collect();
            writer.add_series(labels, &chunks).unwrap();
        }
        writer.finish().unwrap();
        ulids.push(ulid);
    }
    ulids
}

/// Puts the block `dir` into the bucket, with the section that an upload adds.
pub(crate) fn upload(env: &Env, bucket: &Bucket, dir: &Path, labels: &[(&str, &str)]) {
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
    let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
    let thanos = json!({
        "version": 1, "labels": labels, "downsample": {"resolution": 0}, "source": "test", "files": files,
        "index_stats": {},
    });
    // A block that Thanos wrote says more than this.
    meta.extra.entry("thanos").or_insert(thanos);
    bucket.block_on(bucket.put(&format!("{}/meta.json", meta.ulid), meta.to_json().into())).unwrap();
}

/// Requests and bytes so far, of whole objects and of ranges.
pub(crate) fn spent(bucket: &Bucket) -> (u64, u64) {
    let (get, range) = (bucket.counts(Operation::Get), bucket.counts(Operation::GetRange));
    (get.requests + range.requests, get.bytes + range.bytes)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A directory of this process, empty.
pub(crate) fn scratch(env: &Env, name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("narthex-bucket-{name}-{}", std::process::id()));
    if env.fs.stat(&dir).unwrap().is_some() {
        env.fs.remove_dir_all(&dir).unwrap();
    }
    env.fs.create_dir_all(&dir).unwrap();
    dir
}

pub(crate) fn list(bucket: &Bucket, env: &Env, cache_dir: Option<&Path>) -> Arc<BlockList> {
    let list = BlockList::open(bucket, env, cache_dir, ListOptions::default()).unwrap();
    list.refresh().unwrap();
    Arc::new(list)
}

/// An empty bucket in memory.
pub(crate) fn memory(runtime: &tokio::runtime::Runtime) -> Bucket {
    Bucket::new("memory", Arc::new(InMemory::new()), runtime.handle().clone())
}

/// A file of a golden set.
pub(crate) fn golden(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(path)
}
