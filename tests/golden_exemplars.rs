//! The exemplars in logs that Prometheus wrote are those that it answered with.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use narthex::db::Db;
use narthex::fs::Env;
use narthex::model::{Labels, Matcher, TimeRange};
use narthex::query::Source;
use serde_json::{Value as Json, json};

fn pairs(labels: &Labels) -> Json {
    labels.iter().map(|(name, value)| json!([name, value])).collect()
}

fn found(dir: &Path) -> Vec<Json> {
    let db = Db::open_read_only(dir).unwrap();
    let all: [&[Matcher]; 1] = [&[]];
    let mut lines = Vec::new();
    for (series, exemplars) in db.source().exemplars(TimeRange::ALL, &all).unwrap() {
        lines.extend(exemplars.iter().map(|exemplar| {
            json!({
                "series": pairs(&series),
                "exemplar": pairs(&exemplar.labels),
                "timestamp": exemplar.t,
                "value": format!("{:016x}", exemplar.value.to_bits()),
            })
        }));
    }
    lines
}

/// What a writer's owner answered with.
fn answered(root: &Path, writer: &str) -> Vec<Json> {
    let text =
        zstd::decode_all(&*Env::real().fs.read(&root.join(writer).join("exemplars.jsonl.zst")).unwrap()).unwrap();
    let text = String::from_utf8(text).unwrap();
    let theirs: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(theirs.len(), 76);
    theirs
}

const WRITERS: [&str; 4] = ["all-st-wal-snappy", "xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd"];

/// Which of them a directory has that was left after a compaction. The checkpoint that the writer made then has none of what
/// is before it, whatever the writer still had in memory.
fn first(writer: &str) -> usize {
    match writer {
        "xor-wal-plain" => 40,
        "xor-wal-snappy" => 42,
        _ => 0,
    }
}

#[test]
fn every_log_answers_with_the_exemplars_that_its_owner_answered_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14");
    for writer in WRITERS {
        let theirs = answered(&root, writer);
        // Two came after the first copy was made.
        for (state, expected) in [("crashed-before-compaction", 0..74), ("crashed-after-compaction", first(writer)..76)]
        {
            assert_eq!(found(&root.join(writer).join(state)), theirs[expected], "{writer}/{state}");
        }
    }
}

/// Two of the writers left a snapshot. It has all that they had in memory, also what their checkpoints have not.
#[test]
#[ignore = "needs the golden directories: NARTHEX_SHARED"]
fn every_closed_directory_answers_with_the_exemplars_that_its_owner_answered_with() {
    let root = Path::new(&std::env::var_os("NARTHEX_SHARED").unwrap()).join("golden/prometheus-3.14");
    for writer in WRITERS {
        let from = if writer == "xor-wal-snappy" { 0 } else { first(writer) };
        assert_eq!(found(&root.join(writer).join("closed")), answered(&root, writer)[from..], "{writer}");
    }
}
