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

#[test]
fn every_log_answers_with_the_exemplars_that_its_owner_answered_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14");
    let mut compared = 0;
    for writer in ["all-st-wal-snappy", "xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd"] {
        let text =
            zstd::decode_all(&*Env::real().fs.read(&root.join(writer).join("exemplars.jsonl.zst")).unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        let theirs: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(theirs.len(), 76);
        for state in ["closed", "crashed-before-compaction", "crashed-after-compaction"] {
            let dir = root.join(writer).join(state);
            if Env::real().fs.stat(&dir.join("wal")).unwrap().is_some() {
                // Two came after the first copy was made. The checkpoint that the writer made in its compaction has none of
                // what is before it, whatever the writer still had in memory.
                let until = if state == "crashed-before-compaction" { 74 } else { 76 };
                let from = match (writer, state) {
                    (_, "crashed-before-compaction") => 0,
                    ("xor-wal-plain", _) => 40,
                    ("xor-wal-snappy", _) => 42,
                    _ => 0,
                };
                assert_eq!(found(&dir), theirs[from..until], "{writer}/{state}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 8, "{compared}");
}
