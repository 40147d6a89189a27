//! Damaged objects: an error that says where, or nothing wrong at all; never a wrong answer, never a panic.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use narthex::block::Ulid;
use narthex::bucket::{BlockList, Bucket, BucketSource, RangeCache};
use narthex::budget::Budget;
use narthex::error::{ErrorKind, Result};
use narthex::fs::Env;
use narthex::model::{MatchOp, Matcher, TimeRange};
use narthex::query::{SelectRequest, Source, series_samples};

use crate::support::{golden, list, memory, runtime, scratch, upload, write_blocks};

/// All that a source can be asked, as text.
fn everything(list: &Arc<BlockList>) -> Result<String> {
    let source = BucketSource::new(Arc::clone(list), Arc::new(RangeCache::new(1 << 20)));
    let budget = Budget::unlimited();
    let mut found = String::new();
    for matchers in [vec![], vec![Matcher::new(MatchOp::Regex, "__name__", ".*[0-9_].*").unwrap()]] {
        let every = SelectRequest::new(TimeRange::ALL, &matchers, &budget);
        let mut set = source.select(&every)?;
        while let Some(series) = set.next()? {
            let samples = series_samples(&series.chunks, TimeRange::ALL)?;
            found.push_str(&format!("{} {samples:?}\n", series.labels));
        }
        found.push_str(&format!("{:?}\n", source.label_names(&every)?));
        found.push_str(&format!("{:?}\n", source.label_values("__name__", &every)?));
    }
    Ok(found)
}

/// Puts a damaged object in the place of a good one, asks for everything, and puts the good one back.
fn with_damage(bucket: &Bucket, list: &Arc<BlockList>, key: &str, damaged: Bytes, good: &Bytes) -> Result<String> {
    bucket.block_on(bucket.put(key, damaged))?;
    let found = everything(list);
    bucket.block_on(bucket.put(key, good.clone()))?;
    found
}

fn each_byte_damaged(env: &Env, bucket: &Bucket, ulid: Ulid, strides: [usize; 2]) {
    let list = list(bucket, env, None);
    let expected = everything(&list).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for (name, stride) in ["index", "chunks/000001"].into_iter().zip(strides) {
        let key = format!("{ulid}/{name}");
        let good = bucket.block_on(bucket.get(&key)).unwrap().unwrap();
        for at in (0..good.len()).step_by(stride) {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << (at % 8);
            match with_damage(bucket, &list, &key, bytes.into(), &good) {
                Ok(found) => {
                    harmless += 1;
                    assert!(found == expected, "byte {at} of {name} changes the answer");
                }
                Err(error) => {
                    refused += 1;
                    let (kind, text) = (error.kind(), error.to_string());
                    assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "{kind:?}: {text}");
                    assert!(text.contains(&format!("{}/{key}", bucket.name())), "byte {at} of {name}: {text}");
                    assert!(text.contains("offset") || kind == ErrorKind::Unsupported, "{text}");
                }
            }
        }
        // Shorter than the list says.
        for len in [0, 1, 5, 60, good.len() / 2, good.len() - 1] {
            let error = with_damage(bucket, &list, &key, good.slice(..len), &good).unwrap_err();
            assert!(error.to_string().contains(&key), "{error}");
        }
    }
    // Padding, headers of segments, and the lists of labels that nobody asked about are not looked at.
    assert!(refused > 2 * harmless, "{refused} refused, {harmless} harmless");
}

fn golden_block(env: &Env, bucket: &Bucket, dir: &Path, path: &str) -> Ulid {
    let block = golden(path);
    upload(env, bucket, &block, &[("cluster", "eu")]);
    let _ = dir;
    narthex::block::BlockMeta::read(&*env.fs, &block).unwrap().ulid
}

#[test]
fn any_byte_of_a_block_may_be_damaged() {
    let (env, runtime) = (Env::real(), runtime());
    let bucket = memory(&runtime);
    let ulid = golden_block(&env, &bucket, Path::new(""), "prometheus-3.14/all-st-wal-snappy/block-0");
    each_byte_damaged(&env, &bucket, ulid, [9, 211]);
}

#[test]
fn any_byte_of_a_block_with_a_longer_index_may_be_damaged() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "damage");
    let bucket = memory(&runtime);
    let ulid = write_blocks(&env, &dir, 1500, 1)[0];
    upload(&env, &bucket, &dir.join(ulid.to_string()), &[]);
    each_byte_damaged(&env, &bucket, ulid, [5_119, 39_119]);
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn a_kept_header_that_is_damaged_is_fetched_again() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "kept-header");
    let bucket = memory(&runtime);
    let ulid = golden_block(&env, &bucket, &dir, "prometheus-3.14/all-st-wal-snappy/block-0");
    let list = list(&bucket, &env, Some(&dir));
    let expected = everything(&list).unwrap();
    let file = dir.join(ulid.to_string()).join("index-header");
    let good = env.fs.read(&file).unwrap();
    for at in (0..good.len()).step_by(13) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        env.fs.remove_file(&file).unwrap();
        env.fs.create(&file).unwrap().append(&bytes).unwrap();
        assert!(everything(&list).unwrap() == expected, "byte {at}");
        assert_eq!(env.fs.read(&file).unwrap(), good, "byte {at} stays wrong");
    }
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn a_kept_header_is_laid_out_as_thanos_lays_it_out() {
    let (env, runtime) = (Env::real(), runtime());
    let dir = scratch(&env, "golden-header");
    let bucket = memory(&runtime);
    let blocks = env.fs.list(&golden("thanos-0.43/bucket")).unwrap();
    let mut seen = 0;
    for block in blocks.iter().filter(|entry| entry.is_dir) {
        let path = golden("thanos-0.43/bucket").join(&block.name);
        upload(&env, &bucket, &path, &[]);
        let index = env.fs.read(&path.join("index")).unwrap();
        let offset = |number: usize| {
            let at = index.len() - 52 + 8 * number;
            u64::from_be_bytes(index[at..at + 8].try_into().unwrap()) as usize
        };
        let (symbols, series, table) = (offset(0), offset(1), offset(5));
        let mut expected = vec![0xba, 0xaa, 0xd7, 0x92, 1, index[4]];
        expected.extend((table as u64).to_be_bytes());
        expected.extend(&index[symbols..series]);
        let at = expected.len() as u64;
        expected.extend(&index[table..]);
        let toc = [14_u64.to_be_bytes(), at.to_be_bytes()].concat();
        expected.extend(&toc);
        expected.extend(narthex::codec::crc32c(&toc).to_be_bytes());

        let list = list(&bucket, &env, Some(&dir));
        let source = BucketSource::new(Arc::clone(&list), Arc::new(RangeCache::new(1 << 20)));
        source.label_names(&SelectRequest::labels_only(TimeRange::ALL, &[], &Budget::unlimited())).unwrap();
        let listed = list.blocks().iter().find(|listed| listed.ulid().to_string() == block.name).cloned().unwrap();
        if listed.resolution_ms() == 0 {
            seen += 1;
            assert_eq!(env.fs.read(&dir.join(&block.name).join("index-header")).unwrap(), expected);
        }
    }
    assert_eq!(seen, 2);
    env.fs.remove_dir_all(&dir).unwrap();
}
