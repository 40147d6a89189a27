//! Logs that Prometheus wrote, read back: the head has the samples that Prometheus's own querier found, and a block cut
//! from it has the chunks that Prometheus cut.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use narthex::block::{Block, BlockRead};
use narthex::budget::Budget;
use narthex::chunk::samples;
use narthex::compact::write_block;
use narthex::fs::Env;
use narthex::head::{FloatEncoding, Head, HeadOptions, HeadReader, Replayed};
use narthex::model::{Labels, Sample, TimeRange, Value};
use narthex::wal::record::Record;
use narthex::wal::{Decompressor, LogReader};
use serde_json::Value as Json;

const DIRECTORIES: [&str; 4] = ["xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd", "all-st-wal-snappy"];
/// Where `block-0` ends and the head goes on.
const BLOCK_END: i64 = 1_700_013_600_000;

fn golden(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14").join(directory)
}

fn replay(directory: &Path, floor: i64) -> (Arc<Head>, Replayed) {
    Head::open_read_only(&Env::real(), directory, options(directory), floor).unwrap()
}

/// What the writer of the directory was told.
fn options(directory: &Path) -> HeadOptions {
    let is = |part: &str| directory.components().any(|name| name.as_os_str().to_string_lossy().contains(part));
    let start_timestamps = is("-st-");
    let float_encoding = if start_timestamps { FloatEncoding::Xor2 } else { FloatEncoding::Xor };
    let histogram_start_timestamps = is("all-st");
    HeadOptions { float_encoding, start_timestamps, histogram_start_timestamps, ..HeadOptions::default() }
}

fn records(directory: &Path) -> Vec<Record> {
    let mut reader = LogReader::open(&Env::real().fs, directory).unwrap();
    let (mut decompressor, mut bytes, mut records) = (Decompressor::default(), Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
        records.push(Record::decode(&bytes).unwrap());
    }
    records
}

/// The series that have out-of-order samples: those lie in a log of their own.
fn out_of_order(directory: &Path) -> BTreeSet<Labels> {
    let mut labels = BTreeMap::new();
    for record in records(&directory.join("wal")) {
        if let Record::Series(series) = record {
            labels.extend(series);
        }
    }
    let mut references = BTreeSet::new();
    for record in records(&directory.join("wbl")) {
        match record {
            Record::Samples(samples) => references.extend(samples.iter().map(|sample| sample.reference)),
            Record::Histograms(samples) => references.extend(samples.iter().map(|sample| sample.reference)),
            Record::FloatHistograms(samples) => references.extend(samples.iter().map(|sample| sample.reference)),
            _ => {}
        }
    }
    references.iter().map(|reference| labels[reference].clone()).collect()
}

/// A time, and what tells one value from another: a float's bits, or a histogram's count and sum.
fn value(sample: &Sample) -> (i64, String) {
    let bits = |value: f64| format!("{:016x}", value.to_bits());
    let value = match &sample.value {
        Value::Float(value) => bits(*value),
        Value::Histogram(h) => format!("{} {}", h.count, bits(h.sum)),
        Value::FloatHistogram(h) => format!("{} {}", bits(h.count), bits(h.sum)),
    };
    (sample.t, value)
}

type Series = BTreeMap<Labels, Vec<(i64, String)>>;

fn expected(directory: &Path) -> Series {
    let file = directory.with_extension("samples.jsonl.zst");
    let text = zstd::decode_all(Env::real().fs.read(&file).unwrap().as_slice()).unwrap();
    let mut all = Series::new();
    for line in String::from_utf8(text).unwrap().lines() {
        let line: Json = serde_json::from_str(line).unwrap();
        let pairs = line["labels"].as_array().unwrap().iter();
        let labels = Labels::from_pairs(pairs.map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap())));
        let sample = |sample: &Json| {
            let value = match sample[1].as_str() {
                Some(float) => float.to_owned(),
                None => format!("{} {}", sample[1]["count"].as_str().unwrap(), sample[1]["sum"].as_str().unwrap()),
            };
            (sample[0].as_i64().unwrap(), value)
        };
        all.insert(labels, line["samples"].as_array().unwrap().iter().map(sample).collect());
    }
    all
}

fn found(reader: &HeadReader) -> Series {
    let mut all = Series::new();
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    for (id, labels) in reader.select(&[]).unwrap() {
        reader.chunks(id, &mut chunks, &mut hide);
        let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.load().unwrap()).collect();
        let samples = chunks.iter().flat_map(|chunk| samples(chunk.encoding, &chunk.data));
        let shown = samples.map(Result::unwrap).filter(|sample| !hide.iter().any(|range| range.contains(sample.t)));
        let shown: Vec<_> = shown.map(|sample| value(&sample)).collect();
        if !shown.is_empty() {
            all.insert(labels, shown);
        }
    }
    all
}

#[test]
fn a_crashed_log_gives_the_samples_that_the_original_finds() {
    for directory in DIRECTORIES {
        // Some of them have gone into a block of their own in the compaction.
        let mut elsewhere = out_of_order(&golden(directory).join("crashed-before-compaction"));
        elsewhere.append(&mut out_of_order(&golden(directory).join("crashed-after-compaction")));
        for (crash, floor) in [("crashed-before-compaction", i64::MIN), ("crashed-after-compaction", BLOCK_END)] {
            let directory = golden(directory).join(crash);
            let (head, replayed) = replay(&directory, floor);
            assert_eq!((replayed.damage, replayed.unknown_series), (vec![], 0), "{}", directory.display());
            let mut found = found(&head.reader(TimeRange::ALL));
            let mut expected = expected(&directory);
            for (labels, found) in found.iter().filter(|(labels, _)| elsewhere.contains(labels)) {
                let expected: BTreeSet<_> = expected[labels].iter().collect();
                assert!(found.iter().all(|sample| expected.contains(sample)), "{labels} in {}", directory.display());
            }
            found.retain(|labels, _| !elsewhere.contains(labels));
            expected.retain(|labels, samples| {
                samples.retain(|(t, _)| *t >= floor);
                !samples.is_empty() && !elsewhere.contains(labels)
            });
            assert!(expected.len() >= 9, "{}", expected.len());
            for (labels, expected) in &expected {
                assert!(found.get(labels) == Some(expected), "{labels} in {}", directory.display());
            }
            assert_eq!(found.len(), expected.len(), "{}", directory.display());
        }
    }
}

#[test]
fn a_block_cut_from_a_replayed_head_has_the_chunks_that_the_original_cut() {
    for directory in DIRECTORIES {
        let (head, _) = replay(&golden(directory).join("crashed-before-compaction"), i64::MIN);
        let block = Block::open(Env::real().fs.as_ref(), &golden(directory).join("block-0")).unwrap();
        let range = block.time_range();
        assert_eq!(range.max, BLOCK_END - 1);
        let head = head.range_head(range);
        let (ours, theirs) = (head.select(&[]).unwrap(), block.select(&[]).unwrap());
        let (mut labels, mut metas, mut same) = (Labels::empty(), Vec::new(), 0);
        let mut cut = BTreeMap::new();
        for id in ours {
            head.series(id, &mut labels, &mut metas).unwrap();
            cut.insert(labels.clone(), (id, metas.clone()));
        }
        for id in theirs {
            block.series(id, &mut labels, &mut metas).unwrap();
            let (id, ours) = &cut[&labels];
            if !head.tombstones(*id).is_empty() {
                continue;
            }
            let spans = |metas: &[narthex::index::ChunkMeta]| {
                metas.iter().map(|meta| (meta.min_time, meta.max_time)).collect::<Vec<_>>()
            };
            assert_eq!(spans(ours), spans(&metas), "{labels}");
            for (ours, theirs) in ours.iter().zip(&metas) {
                assert!(head.chunk(ours).unwrap() == block.chunk(theirs).unwrap(), "{labels} at {}", theirs.min_time);
                same += 1;
            }
        }
        assert!(same > 150, "{same} chunks");
    }
}

#[test]
fn a_block_written_from_a_replayed_head_has_the_original_s_bytes() {
    for directory in DIRECTORIES {
        let (env, theirs) = (Env::real(), golden(directory).join("block-0"));
        let (head, _) = replay(&golden(directory).join("crashed-before-compaction"), i64::MIN);
        let range = Block::open(env.fs.as_ref(), &theirs).unwrap().time_range();
        let dir = std::env::temp_dir().join(format!("narthex-golden-head-{:016x}", env.rng.next_u64()));
        env.fs.create_dir_all(&dir).unwrap();
        let (source, budget) = (head.range_head(range), Budget::unlimited());
        let meta = write_block(&env, &dir, &source, range.min..range.max + 1, &[], &budget).unwrap().unwrap();
        let ours = dir.join(meta.ulid.to_string());
        let same = ["chunks/000001", "index"]
            .map(|file| env.fs.read(&ours.join(file)).unwrap() == env.fs.read(&theirs.join(file)).unwrap());
        env.fs.remove_dir_all(&dir).unwrap();
        assert_eq!(same, [true, true], "chunks and index of {directory}");
    }
}
