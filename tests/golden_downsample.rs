//! Downsampling against Thanos 0.43: of the same samples the same files come out, byte for byte.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use narthex::block::{Block, BlockMeta, BlockRead};
use narthex::budget::Budget;
use narthex::chunk::{Aggregate, AggregateChunk, samples};
use narthex::compact::downsample::{FIVE_MINUTES, ONE_HOUR, downsample};
use narthex::fs::Env;
use narthex::model::Labels;

const TWO_DAYS: &str = "01M7Z03ERTE4J4F677AD6528F3";
const TWO_DAYS_5M: &str = "01M7Z03EZJ1117QGTGRP5WDMV8";
const TWO_WEEKS: &str = "01M7Z03ESY3W1KCWH19HVHTBVH";
const TWO_WEEKS_5M: &str = "01M7Z03F0Q9K0921TN8673XY41";
const TWO_WEEKS_1H: &str = "01M7Z03F2977G3H5KYV3YV2S0Q";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/thanos-0.43/bucket").join(name)
}

/// What is in a block, decoded, for people to compare.
fn text(block: &Block) -> Vec<String> {
    let (mut labels, mut metas, mut lines) = (Labels::empty(), Vec::new(), Vec::new());
    for id in block.select(&[]).unwrap() {
        block.series(id, &mut labels, &mut metas).unwrap();
        for meta in &metas {
            lines.push(format!("{labels} {} {}", meta.min_time, meta.max_time));
            let chunk = AggregateChunk::decode(&block.any_chunk(meta).unwrap().1).unwrap();
            for aggregate in Aggregate::ALL {
                let Some(part) = chunk.get(aggregate) else { continue };
                lines.push(format!("{labels} {}: {:02x?}", aggregate.name(), part.data.get(..3)));
                lines.extend(samples(part.encoding, &part.data).map(|sample| format!("{:?}", sample.unwrap())));
            }
        }
    }
    lines
}

fn assert_downsamples_as_thanos(from: &str, resolution: i64, theirs: &str) {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-downsample-{theirs}-{}", std::process::id()));
    env.fs.create_dir_all(&dir).unwrap();
    let source = Block::open(&*env.fs, &golden(from)).unwrap();
    let meta = downsample(&env, &dir, &source, source.meta(), resolution, &Budget::unlimited()).unwrap().unwrap();
    let ours = Block::open(&*env.fs, &dir.join(meta.ulid.to_string())).unwrap();
    let theirs = Block::open(&*env.fs, &golden(theirs)).unwrap();
    let (our_text, their_text) = (text(&ours), text(&theirs));
    for (ours, theirs) in our_text.iter().zip(&their_text) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(our_text.len(), their_text.len());
    for file in ["chunks/000001", "index"] {
        let read = |block: &Block| env.fs.read(&block.dir().join(file)).unwrap();
        assert!(read(&ours) == read(&theirs), "{file} differs");
    }
    let without_files = |meta: &BlockMeta| {
        let mut meta = BlockMeta { ulid: source.meta().ulid, ..meta.clone() };
        // What Thanos adds when it has the files: their names, their sizes, and when they were uploaded.
        meta.set_resolution(resolution);
        meta
    };
    assert_eq!(without_files(&meta), without_files(theirs.meta()));
    assert_eq!((meta.resolution(), theirs.meta().resolution()), (resolution, resolution));
    ours.verify().unwrap();
    theirs.verify().unwrap();
    env.fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn samples_become_windows_of_five_minutes_as_in_thanos() {
    assert_downsamples_as_thanos(TWO_DAYS, FIVE_MINUTES, TWO_DAYS_5M);
    assert_downsamples_as_thanos(TWO_WEEKS, FIVE_MINUTES, TWO_WEEKS_5M);
}

#[test]
fn windows_of_five_minutes_become_windows_of_an_hour_as_in_thanos() {
    assert_downsamples_as_thanos(TWO_WEEKS_5M, ONE_HOUR, TWO_WEEKS_1H);
}
