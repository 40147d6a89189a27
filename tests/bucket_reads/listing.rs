//! Which blocks a list serves, what it asks the bucket for, and what it keeps.

use std::path::Path;
use std::sync::Arc;

use narthex::block::{BlockMeta, Ulid};
use narthex::bucket::{
    BlockList, Bucket, BucketSource, DELETION_MARK_FILE, DeletionMark, HiddenReason, ListOptions, Mark, Operation,
    RangeCache, Refreshed,
};
use narthex::budget::Budget;
use narthex::fs::Env;
use narthex::model::TimeRange;
use narthex::query::{SelectRequest, Source};
use serde_json::json;

use crate::support::{TWO_HOURS, golden, list, memory, runtime, scratch};

fn ulid(number: u64) -> Ulid {
    Ulid::from_parts(number, 7)
}

/// A block's `meta.json`: `sources` are its level-1 blocks, `files` what it names.
fn meta(number: u64, sources: &[u64], cluster: &str, resolution: i64, files: &[(&str, usize)]) -> BlockMeta {
    let mut meta = BlockMeta::new(ulid(number), number as i64 * TWO_HOURS, (number as i64 + 1) * TWO_HOURS);
    meta.compaction.level = if sources.len() > 1 { 2 } else { 1 };
    meta.compaction.sources = sources.iter().copied().map(ulid).collect();
    meta.stats.num_series = 1;
    let mut named: Vec<_> = files.iter().map(|(name, size)| json!({"rel_path": name, "size_bytes": size})).collect();
    named.push(json!({"rel_path": "meta.json"}));
    meta.extra.insert(
        "thanos".to_owned(),
        json!({
            "version": 1, "labels": {"cluster": cluster}, "downsample": {"resolution": resolution}, "source": "test",
            "files": named, "index_stats": {},
        }),
    );
    meta
}

fn put(bucket: &Bucket, key: &str, content: impl Into<bytes::Bytes>) {
    bucket.block_on(bucket.put(key, content.into())).unwrap();
}

/// Puts a block that cannot be read, but listed.
fn put_block(bucket: &Bucket, meta: &BlockMeta) {
    put(bucket, &format!("{}/index", meta.ulid), vec![0; 100]);
    put(bucket, &format!("{}/chunks/000001", meta.ulid), vec![0; 50]);
    put(bucket, &format!("{}/meta.json", meta.ulid), meta.to_json());
}

const FILES: &[(&str, usize)] = &[("chunks/000001", 50), ("index", 100)];

fn served(list: &BlockList) -> Vec<Ulid> {
    list.blocks().iter().map(|block| block.ulid()).collect()
}

fn requests(bucket: &Bucket) -> (u64, u64) {
    (bucket.counts(Operation::List).requests, bucket.counts(Operation::Get).requests)
}

fn open(bucket: &Bucket, env: &Env, dir: Option<&Path>) -> BlockList {
    BlockList::open(bucket, env, dir, ListOptions::default()).unwrap()
}

#[test]
fn what_is_not_whole_is_set_aside_with_the_reason() {
    let (env, runtime) = (Env::real(), runtime());
    let bucket = memory(&runtime);
    for number in 1..=6 {
        put_block(&bucket, &meta(number, &[number], "eu", 0, FILES));
    }
    bucket.block_on(bucket.delete(&format!("{}/meta.json", ulid(2)))).unwrap();
    put(&bucket, &format!("{}/meta.json", ulid(3)), "{");
    bucket.block_on(bucket.delete(&format!("{}/chunks/000001", ulid(4)))).unwrap();
    put(&bucket, &format!("{}/index", ulid(5)), vec![0; 99]);
    put(&bucket, &format!("{}/meta.json", ulid(6)), meta(7, &[7], "eu", 0, FILES).to_json());
    put(&bucket, "debug/metas/x.json", "{}");
    put(&bucket, "README", "not a block");

    let list = open(&bucket, &env, None);
    let refreshed = list.refresh().unwrap();
    assert_eq!(refreshed, Refreshed { blocks: 1, objects: 18, metas: 5, ..Refreshed::default() });
    assert_eq!(served(&list), [ulid(1)]);
    let partial = list.partial();
    let reasons: Vec<_> = partial.iter().map(|block| (block.ulid, block.reason.as_str())).collect();
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    for ((found, reason), (number, text)) in reasons.iter().zip([
        (2, "meta.json is not there"),
        (3, "meta.json: at offset 1"),
        (4, "chunks/000001 is named in meta.json and is not there"),
        (5, "index has 99 bytes; meta.json says 100"),
        (6, "it says that this is block"),
    ]) {
        assert_eq!(*found, ulid(number));
        assert!(reason.contains(text), "{reason}");
    }
    // Nothing of it is asked for again.
    let before = requests(&bucket);
    list.refresh().unwrap();
    assert_eq!(requests(&bucket), (before.0 + 1, before.1));
    // Repaired, it is served.
    put(&bucket, &format!("{}/meta.json", ulid(3)), meta(3, &[3], "eu", 0, FILES).to_json());
    put(&bucket, &format!("{}/index", ulid(5)), vec![0; 100]);
    assert_eq!(list.refresh().unwrap().metas, 1);
    assert_eq!(served(&list), [ulid(1), ulid(3), ulid(5)]);
}

#[test]
fn a_block_whose_sources_are_all_in_another_of_its_group_is_hidden() {
    let (env, runtime) = (Env::real(), runtime());
    let bucket = memory(&runtime);
    for block in [
        meta(1, &[1], "eu", 0, FILES),
        meta(2, &[2], "eu", 0, FILES),
        meta(3, &[3], "eu", 0, FILES),
        // The same sources in another group.
        meta(4, &[1], "us", 0, FILES),
        meta(5, &[1], "eu", 300_000, FILES),
        meta(6, &[1, 2], "eu", 0, FILES),
        // The copy of a merge: the older one stays.
        meta(7, &[2, 1], "eu", 0, FILES),
        // Without sources it is a part of anything.
        meta(8, &[], "eu", 0, FILES),
    ] {
        put_block(&bucket, &block);
    }
    let list = open(&bucket, &env, None);
    list.refresh().unwrap();
    assert_eq!(served(&list), [3, 4, 5, 6].map(ulid));
    let hidden: Vec<_> = list.hidden().iter().map(|hidden| (hidden.block.ulid(), hidden.reason)).collect();
    assert_eq!(hidden, [1, 2, 7, 8].map(|number| (ulid(number), HiddenReason::MergedInto(ulid(6)))));
    // Gone, what it hid is served again.
    bucket.block_on(bucket.delete(&format!("{}/meta.json", ulid(6)))).unwrap();
    list.refresh().unwrap();
    assert_eq!(served(&list), [3, 4, 5, 7].map(ulid));
}

#[test]
fn a_block_is_served_for_a_day_after_it_was_marked_for_deletion() {
    let (env, runtime) = (Env::real(), runtime());
    let bucket = memory(&runtime);
    let now = env.clock.now_ms() / 1000;
    for (number, age) in [(1, 25 * 3600), (2, 23 * 3600)] {
        put_block(&bucket, &meta(number, &[number], "eu", 0, FILES));
        let mark = DeletionMark::new(ulid(number), "too old", now - age);
        put(&bucket, &format!("{}/{DELETION_MARK_FILE}", ulid(number)), mark.to_json());
    }
    // What the marked block was merged from is served again: it hides nothing.
    put_block(&bucket, &meta(3, &[3], "eu", 0, FILES));
    put(&bucket, &format!("{}/{DELETION_MARK_FILE}", ulid(3)), "{");
    let list = open(&bucket, &env, None);
    let refreshed = list.refresh().unwrap();
    assert_eq!((refreshed.marks, refreshed.blocks), (3, 2));
    assert_eq!(served(&list), [ulid(2), ulid(3)]);
    assert_eq!(list.hidden()[0].reason, HiddenReason::MarkedForDeletion);
    let blocks = list.blocks();
    assert_eq!(&*blocks[0].marked().unwrap().details, "too old");
    assert_eq!(blocks[0].marked().unwrap().at_ms, (now - 23 * 3600) * 1000);
    // A mark is read once; one that cannot be read may be whole the next time.
    assert_eq!(list.refresh().unwrap().marks, 1);
    // The mark is taken away.
    bucket.block_on(bucket.delete(&format!("{}/{DELETION_MARK_FILE}", ulid(1)))).unwrap();
    list.refresh().unwrap();
    assert_eq!(served(&list), [ulid(1), ulid(2), ulid(3)]);
}

#[test]
fn a_block_that_was_just_uploaded_is_served_at_once_and_counts_as_held() {
    use narthex::bucket::Catalog;
    let (env, runtime) = (Env::real(), runtime());
    let bucket = memory(&runtime);
    let list = open(&bucket, &env, None);
    list.refresh().unwrap();
    let merged = meta(3, &[1, 2], "eu", 0, FILES);
    put_block(&bucket, &merged);
    list.uploaded(&merged);
    assert_eq!(served(&list), [ulid(3)]);
    assert_eq!(list.blocks()[0].size_of("index"), Some(100));
    assert!([1, 2, 3].into_iter().all(|number| list.holds(ulid(number))) && !list.holds(ulid(4)));
    // The list confirms it, and its meta.json need not be read.
    assert_eq!(list.refresh().unwrap().metas, 0);
    assert_eq!(served(&list), [ulid(3)]);
    bucket.block_on(bucket.delete(&format!("{}/meta.json", ulid(3)))).unwrap();
    assert_eq!(list.refresh().unwrap().removed, 1);
    assert!(served(&list).is_empty() && !list.holds(ulid(1)));
}

#[test]
fn what_was_learned_survives_a_restart_and_damage_to_it_is_thrown_away() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "list-cache");
    let bucket = memory(&runtime);
    for number in 1..=20 {
        put_block(&bucket, &meta(number, &[number], "eu", 0, FILES));
    }
    put(&bucket, &format!("{}/meta.json", ulid(5)), "{");
    let mark = DeletionMark::new(ulid(6), "", env.clock.now_ms() / 1000);
    put(&bucket, &format!("{}/{DELETION_MARK_FILE}", ulid(6)), mark.to_json());
    env.fs.create_dir_all(&dir.join(ulid(4).to_string())).unwrap();
    let first = open(&bucket, &env, Some(&dir));
    assert!(first.blocks().is_empty());
    first.refresh().unwrap();
    let (lists, gets) = requests(&bucket);
    assert_eq!(gets, 21);

    let second = open(&bucket, &env, Some(&dir));
    // Before any request.
    assert_eq!(second.blocks(), first.blocks());
    assert_eq!(second.partial(), first.partial());
    second.refresh().unwrap();
    assert_eq!(requests(&bucket), (lists + 1, gets));
    assert_eq!(second.blocks(), first.blocks());

    let file = dir.join("blocks");
    let good = env.fs.read(&file).unwrap();
    for at in (0..good.len()).step_by(97).chain([good.len()]) {
        let mut bytes = good.clone();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 4,
            None => bytes.truncate(at / 2),
        }
        env.fs.remove_file(&file).unwrap();
        env.fs.create(&file).unwrap().append(&bytes).unwrap();
        assert!(open(&bucket, &env, Some(&dir)).blocks().is_empty(), "byte {at}");
    }
    // Another bucket's is not believed.
    env.fs.remove_file(&file).unwrap();
    env.fs.create(&file).unwrap().append(&good).unwrap();
    let other = Bucket::new("other", Arc::new(object_store::memory::InMemory::new()), runtime.handle().clone());
    assert!(open(&other, &env, Some(&dir)).blocks().is_empty());

    // What is kept of a block goes with it.
    let third = open(&bucket, &env, Some(&dir));
    bucket.block_on(bucket.delete(&format!("{}/meta.json", ulid(4)))).unwrap();
    third.refresh().unwrap();
    assert!(env.fs.stat(&dir.join(ulid(4).to_string())).unwrap().is_none());
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn a_bucket_that_cannot_be_listed_changes_nothing() {
    let (env, runtime) = (Env::real(), runtime());
    let store = Arc::new(object_store::memory::InMemory::new());
    let bucket = Bucket::new("memory", store, runtime.handle().clone());
    put_block(&bucket, &meta(1, &[1], "eu", 0, FILES));
    let list = list(&bucket, &env, None);
    assert_eq!(served(&list), [ulid(1)]);
    // The block is there, and its index is not what it should be: the error names it.
    let source = BucketSource::new(list, Arc::new(RangeCache::new(1 << 20)));
    let budget = Budget::unlimited();
    let request = SelectRequest::labels_only(TimeRange::ALL, &[], &budget);
    let error = source.label_names(&request).unwrap_err();
    assert!(error.to_string().contains(&format!("memory/{}/index", ulid(1))), "{error}");
}

/// Bytes that this process has in memory.
fn resident(env: &Env) -> u64 {
    let text = String::from_utf8(env.fs.read(Path::new("/proc/self/statm")).unwrap_or_default()).unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[test]
fn a_start_over_five_thousand_blocks_asks_for_the_list_and_for_each_meta_once() {
    const BLOCKS: u64 = 5000;
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "five-thousand");
    let bucket = memory(&runtime);
    let block = golden("prometheus-3.14/xor-wal-plain/block-0");
    let index = bytes::Bytes::from(env.fs.read(&block.join("index")).unwrap());
    let chunks = bytes::Bytes::from(env.fs.read(&block.join("chunks/000001")).unwrap());
    let files = [("chunks/000001", chunks.len()), ("index", index.len())];
    for number in 1..=BLOCKS {
        let meta = meta(number, &[number], &format!("cluster-{}", number % 20), 0, &files);
        put(&bucket, &format!("{}/index", meta.ulid), index.clone());
        put(&bucket, &format!("{}/chunks/000001", meta.ulid), chunks.clone());
        put(&bucket, &format!("{}/meta.json", meta.ulid), meta.to_json());
    }
    let pages = (3 * BLOCKS).div_ceil(1000);
    for (what, expected) in [("first", (pages, BLOCKS)), ("second", (pages, 0))] {
        let (before, memory, start) = (requests(&bucket), resident(&env), env.clock.monotonic());
        let list = list(&bucket, &env, Some(&dir));
        let took = env.clock.monotonic() - start;
        let after = requests(&bucket);
        assert_eq!(list.blocks().len(), BLOCKS as usize);
        assert_eq!((after.0 - before.0, after.1 - before.1), expected, "{what}");
        println!(
            "{what} start: {:.2} s, {} pages of the list and {} metas, {:.1} MiB for the blocks, {:.1} MiB more resident",
            took.as_secs_f64(),
            after.0 - before.0,
            after.1 - before.1,
            list.memory() as f64 / f64::from(1 << 20),
            resident(&env).saturating_sub(memory) as f64 / f64::from(1 << 20),
        );
    }
    env.fs.remove_dir_all(&dir).unwrap();
}
