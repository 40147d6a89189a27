//! Merging blocks against Prometheus's own compaction of the same blocks: the same bytes come out.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use narthex::block::{Block, BlockMeta, BlockRead};
use narthex::budget::Budget;
use narthex::compact::merge_blocks;
use narthex::fs::Env;

/// Copies a block's directory to below `to`, under the block's own name.
fn copy(env: &Env, block: &Path, to: &Path) {
    let dir = to.join(BlockMeta::read(&*env.fs, block).unwrap().ulid.to_string());
    env.fs.create_dir_all(&dir.join("chunks")).unwrap();
    for name in ["index", "meta.json", "tombstones", "chunks/000001"] {
        let bytes = env.fs.read(&block.join(name)).unwrap();
        env.fs.create(&dir.join(name)).unwrap().append(&bytes).unwrap();
    }
}

/// The blocks in `dir`, by name.
fn blocks(env: &Env, dir: &Path) -> Vec<PathBuf> {
    env.fs.list(dir).unwrap().into_iter().map(|entry| dir.join(entry.name)).collect()
}

/// Has `peer` merge copies of `parents`, merges them here, and compares.
fn assert_same_merge(peer: &str, parents: &[PathBuf], name: &str) {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-merge-{name}-{}", std::process::id()));
    let (theirs, ours) = (dir.join("theirs"), dir.join("ours"));
    env.fs.create_dir_all(&ours).unwrap();
    parents.iter().for_each(|parent| copy(&env, parent, &theirs));
    let sources = blocks(&env, &theirs);
    let status = Command::new(peer).args(["-do", "compact", "-dir"]).arg(&theirs).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let theirs = blocks(&env, &theirs).into_iter().find(|block| !sources.contains(block)).unwrap();

    let opened: Vec<_> = sources.iter().map(|block| Block::open(&*env.fs, block).unwrap()).collect();
    let pairs: Vec<(&dyn BlockRead, &BlockMeta)> =
        opened.iter().map(|block| (block as &dyn BlockRead, block.meta())).collect();
    let meta = merge_blocks(&env, &ours, &pairs, &Budget::unlimited()).unwrap().unwrap();
    let ours = ours.join(meta.ulid.to_string());
    for file in ["chunks/000001", "index", "tombstones"] {
        let (ours, theirs) = (env.fs.read(&ours.join(file)).unwrap(), env.fs.read(&theirs.join(file)).unwrap());
        assert!(ours == theirs, "{name}: {file} differs: {} and {} bytes", ours.len(), theirs.len());
    }
    let mut expected = BlockMeta::read(&*env.fs, &theirs).unwrap();
    expected.ulid = meta.ulid;
    // Named in the order in which they were given: Prometheus's planner gives them by time, the peer by their names.
    expected.compaction.parents.sort_by_key(|parent| parent.min_time);
    assert_eq!(meta, expected, "{name}");
    env.fs.remove_dir_all(&dir).unwrap();
}

fn peer() -> String {
    std::env::var("NARTHEX_PEER").expect("NARTHEX_PEER names the program that runs Prometheus's compaction")
}

#[test]
#[ignore = "needs NARTHEX_PEER"]
fn blocks_that_follow_each_other_merge_to_the_same_bytes_with_deleted_samples_left_out() {
    let peer = peer();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14");
    for set in ["xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd", "all-st-wal-snappy"] {
        let parents = ["block-0", "block-1"].map(|block| golden.join(set).join(block));
        assert_same_merge(&peer, &parents, set);
    }
}

#[test]
#[ignore = "needs NARTHEX_PEER, and NARTHEX_SHARED with golden/live"]
fn blocks_of_two_replicas_that_overlap_merge_to_the_same_bytes() {
    let peer = peer();
    let shared = std::env::var_os("NARTHEX_SHARED").expect("NARTHEX_SHARED names the directory with golden/live");
    let live = Path::new(&shared).join("golden/live");
    let env = Env::real();
    let parents: Vec<_> = ["a", "b"].iter().flat_map(|replica| blocks(&env, &live.join(replica))).collect();
    assert_same_merge(&peer, &parents, "live");
}
