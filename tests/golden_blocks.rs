//! Blocks that the originals wrote, written again: the bytes are the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use narthex::block::{Block, BlockMeta, BlockRead, BlockWriter, TimedChunk, Tombstones};
use narthex::budget::Budget;
use narthex::chunk::samples;
use narthex::compact::{merge_blocks, merged_meta, populate};
use narthex::fs::Env;
use narthex::model::{Labels, Sample, TimeRange, Value};

/// All blocks that Prometheus wrote below `testdata/golden`, with their chunks.
fn blocks() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut found = find(&golden.join("prometheus-3.14"));
    found.extend(find(&golden.join("live/a")));
    assert!(found.len() >= 9, "{found:?}");
    found
}

fn find(dir: &Path) -> Vec<PathBuf> {
    let env = Env::real();
    if env.fs.stat(&dir.join("meta.json")).unwrap().is_some() {
        return vec![dir.to_owned()];
    }
    let entries = env.fs.list(dir).unwrap();
    entries.iter().filter(|entry| entry.is_dir).flat_map(|entry| find(&dir.join(&entry.name))).collect()
}

/// Every file of the block in `theirs` against that of the same name in `ours`.
fn assert_same_files(env: &Env, ours: &Path, theirs: &Path) {
    let real = Env::real();
    for name in ["index", "meta.json", "tombstones", "chunks/000001"] {
        let (ours, theirs) = (env.fs.read(&ours.join(name)).unwrap(), real.fs.read(&theirs.join(name)).unwrap());
        assert!(ours == theirs, "{} of {} differs", name, theirs.len());
    }
}

fn chunks_of(block: &Block, id: narthex::index::SeriesId) -> (Labels, Vec<TimedChunk>) {
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    block.series(id, &mut labels, &mut metas).unwrap();
    let chunk = |meta: &narthex::index::ChunkMeta| {
        let chunk = block.chunk(meta).unwrap();
        TimedChunk { min_time: meta.min_time, max_time: meta.max_time, chunk }
    };
    (labels, metas.iter().map(chunk).collect())
}

/// The values of all samples, series by series, as bits; histograms as their sums.
fn content(block: &dyn BlockRead) -> Vec<(Labels, Vec<(i64, u64)>)> {
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    let mut all = Vec::new();
    for id in block.select(&[]).unwrap() {
        block.series(id, &mut labels, &mut metas).unwrap();
        let deleted = block.tombstones(id);
        let mut points = Vec::new();
        for meta in &metas {
            let chunk = block.chunk(meta).unwrap();
            for sample in samples(chunk.encoding, &chunk.data) {
                let Sample { t, value, .. } = sample.unwrap();
                let value = match value {
                    Value::Float(value) => value,
                    Value::Histogram(histogram) => histogram.sum,
                    Value::FloatHistogram(histogram) => histogram.sum,
                };
                if !deleted.iter().any(|span| span.contains(t)) {
                    points.push((t, value.to_bits()));
                }
            }
        }
        all.push((labels.clone(), points));
    }
    all
}

#[test]
fn a_block_written_from_its_content_has_the_same_files() {
    for path in blocks() {
        let theirs = Block::open(&*Env::real().fs, &path).unwrap();
        let (env, _) = Env::simulated(1);
        let mut meta = theirs.meta().clone();
        meta.stats = narthex::block::BlockStats::default();
        let mut writer = BlockWriter::create(&env.fs, Path::new("/data"), meta).unwrap();
        for symbol in theirs.symbols().unwrap() {
            writer.add_symbol(&symbol.unwrap()).unwrap();
        }
        for id in theirs.select(&[]).unwrap() {
            let (labels, chunks) = chunks_of(&theirs, id);
            writer.add_series(&labels, &chunks).unwrap();
        }
        let mut meta = writer.finish().unwrap().unwrap();
        let ours = Path::new("/data").join(meta.ulid.to_string());
        // What was deleted afterwards is no part of what is written.
        meta.stats.num_tombstones = theirs.meta().stats.num_tombstones;
        meta.write(&*env.fs, &ours).unwrap();
        theirs.all_tombstones().write(&*env.fs, &ours).unwrap();
        assert_same_files(&env, &ours, &path);
        Block::open(&*env.fs, &ours).unwrap().verify().unwrap();
    }
}

#[test]
fn a_block_without_deletions_that_goes_through_a_merge_alone_has_the_same_files() {
    let mut copied = 0;
    for path in blocks() {
        let theirs = Block::open(&*Env::real().fs, &path).unwrap();
        if !theirs.all_tombstones().is_empty() {
            continue;
        }
        let (env, _) = Env::simulated(1);
        let mut writer = BlockWriter::create(&env.fs, Path::new("/data"), theirs.meta().clone()).unwrap();
        populate(&mut writer, &[&theirs], theirs.time_range(), &Budget::unlimited()).unwrap();
        let meta = writer.finish().unwrap().unwrap();
        assert_same_files(&env, &Path::new("/data").join(meta.ulid.to_string()), &path);
        copied += 1;
    }
    assert!(copied >= 5, "{copied}");
}

#[test]
fn every_meta_json_is_written_as_it_was_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let metas = find(&golden);
    assert!(metas.len() >= 15, "{metas:?}");
    for block in metas {
        let path = block.join("meta.json");
        let bytes = Env::real().fs.read(&path).unwrap();
        let meta = BlockMeta::parse(&path, &bytes).unwrap();
        assert_eq!(String::from_utf8(meta.to_json()), String::from_utf8(bytes), "{}", path.display());
    }
}

#[test]
fn merged_blocks_hold_all_samples_and_no_deleted_one() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14");
    for set in Env::real().fs.list(&golden).unwrap().into_iter().filter(|entry| entry.is_dir) {
        let open = |name: &str| Block::open(&*Env::real().fs, &golden.join(&set.name).join(name)).unwrap();
        let (first, second) = (open("block-0"), open("block-1"));
        assert!(!first.all_tombstones().is_empty());
        let (env, _) = Env::simulated(1);
        let dir = Path::new("/data");
        env.fs.create_dir_all(dir).unwrap();
        let parents: [(&dyn BlockRead, &BlockMeta); 2] = [(&first, first.meta()), (&second, second.meta())];
        let meta = merge_blocks(&env, dir, &parents, &Budget::unlimited()).unwrap().unwrap();
        let merged = Block::open(&*env.fs, &dir.join(meta.ulid.to_string())).unwrap();
        merged.verify().unwrap();
        assert_eq!(*merged.meta(), meta);
        assert_eq!(meta.compaction.level, 2);

        let mut expected = content(&first);
        for (labels, points) in content(&second) {
            match expected.binary_search_by(|(other, _)| other.cmp(&labels)) {
                Ok(at) => expected[at].1.extend(points),
                Err(at) => expected.insert(at, (labels, points)),
            }
        }
        expected.retain(|(_, points)| !points.is_empty());
        assert_eq!(content(&merged), expected);
        assert_eq!(merged.all_tombstones(), &Tombstones::default());
    }
}

#[test]
fn a_merge_names_its_parents_and_keeps_the_hints_that_protect_the_log() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14/xor-wal-plain");
    let meta = |name: &str| BlockMeta::read(&*Env::real().fs, &golden.join(name)).unwrap();
    let (in_order, out_of_order) = (meta("block-0"), meta("block-1"));
    let ulid = in_order.ulid;
    let merged = merged_meta(ulid, &[&in_order, &out_of_order]);
    assert_eq!((merged.min_time, merged.max_time), (in_order.min_time, out_of_order.max_time));
    assert_eq!(merged.compaction.sources, [in_order.ulid, out_of_order.ulid]);
    assert_eq!(merged.compaction.parents, [in_order.desc(), out_of_order.desc()]);
    assert!(!merged.compaction.is_hinted(), "one parent is complete");
    assert!(merged_meta(ulid, &[&out_of_order, &out_of_order]).compaction.is_hinted());
    let mut stale = in_order.clone();
    stale.compaction.add_hint(narthex::block::HINT_STALE_SERIES);
    assert!(merged_meta(ulid, &[&in_order, &stale]).compaction.is_hinted());
}

#[test]
fn a_part_of_a_block_has_the_samples_of_that_part() {
    let path = &blocks()[0];
    let theirs = Block::open(&*Env::real().fs, path).unwrap();
    let whole = theirs.time_range();
    let part = TimeRange::new(whole.min + 1_000_000, whole.min + 3_000_000);
    let (env, _) = Env::simulated(1);
    let mut meta = theirs.meta().clone();
    (meta.min_time, meta.max_time) = (part.min, part.max + 1);
    let mut writer = BlockWriter::create(&env.fs, Path::new("/data"), meta).unwrap();
    populate(&mut writer, &[&theirs], part, &Budget::unlimited()).unwrap();
    let meta = writer.finish().unwrap().unwrap();
    let ours = Block::open(&*env.fs, &Path::new("/data").join(meta.ulid.to_string())).unwrap();
    ours.verify().unwrap();
    let mut expected = content(&theirs);
    expected.iter_mut().for_each(|(_, points)| points.retain(|(t, _)| part.contains(*t)));
    expected.retain(|(_, points)| !points.is_empty());
    assert!(expected.len() > 10);
    assert_eq!(content(&ours), expected);
}

#[test]
fn a_cancelled_merge_leaves_nothing() {
    let theirs = Block::open(&*Env::real().fs, &blocks()[0]).unwrap();
    let (env, _) = Env::simulated(1);
    let budget = Budget::unlimited();
    budget.cancel();
    let parents: [(&dyn BlockRead, &BlockMeta); 1] = [(&theirs, theirs.meta())];
    merge_blocks(&env, Path::new("/data"), &parents, &budget).unwrap_err();
    assert_eq!(env.fs.list(Path::new("/data")).unwrap(), []);
}
