//! Whole directories that Prometheus wrote and left in the middle of its work: opened for reading, every series answers
//! what Prometheus's own querier answered, samples that came out of order and are still in their log included.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use narthex::budget::Budget;
use narthex::db::Db;
use narthex::fs::Env;
use narthex::model::TimeRange;
use narthex::query::{SelectRequest, Source, series_samples};
use narthex::testkit::jsonl::samples_line;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14")
}

/// A line up to its samples.
fn name_of(line: &str) -> &str {
    line.split_once("\"samples\":").unwrap().0
}

fn golden(writer: &str, state: &str) -> Vec<String> {
    let path = root().join(writer).join(format!("{state}.samples.jsonl.zst"));
    let text = zstd::decode_all(&*Env::real().fs.read(&path).unwrap()).unwrap();
    String::from_utf8(text).unwrap().lines().map(|line| format!("{line}\n")).collect()
}

fn dump(dir: &Path) -> Vec<String> {
    let db = Db::open_read_only(dir).unwrap();
    let status = db.status();
    assert!(status.log_damage.is_empty() && status.quarantined.is_empty(), "{status:?}");
    let budget = Budget::unlimited();
    let mut set = db.source().select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut lines = Vec::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        let mut line = String::new();
        samples_line(&mut line, &series.labels, samples.into_iter().map(Ok::<_, ()>)).unwrap();
        lines.push(line);
    }
    lines
}

/// The first place where two lines differ.
fn difference(ours: &str, theirs: &str) -> String {
    let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
    let part = |line: &str| {
        let start = line.floor_char_boundary(at.saturating_sub(60));
        line[start..line.floor_char_boundary(line.len().min(at + 200))].to_owned()
    };
    format!("{} at {at}:\n  ours   {}\n  theirs {}", name_of(theirs), part(ours), part(theirs))
}

fn check(writer: &str, state: &str) {
    check_changed(writer, state, |line| line);
}

/// Nothing in a directory without blocks tells whether its log's start timestamps of histograms went into chunks.
fn without_starts_of_histograms(line: String) -> String {
    let mut parts = line.split("},{\"st\":");
    let mut without = parts.next().unwrap().to_owned();
    for part in parts {
        without.push_str(part.split_once(']').map(|(_, rest)| "}]".to_owned() + rest).unwrap().as_str());
    }
    // Their chunks end elsewhere, and the first one of a chunk may know less of the one before it than the others.
    without.replace("\"not_reset\"", "\"unknown\"")
}

fn check_changed(writer: &str, state: &str, change: fn(String) -> String) {
    let dir = root().join(writer).join(state);
    let keep = |lines: Vec<String>| -> BTreeMap<String, String> {
        lines.into_iter().map(|line| (name_of(&line).to_owned(), change(line))).collect()
    };
    let (ours, theirs) = (keep(dump(&dir)), keep(golden(writer, state)));
    assert!(theirs.len() > 8, "{writer}/{state}: {} series compared", theirs.len());
    let keys = |lines: &BTreeMap<String, String>| lines.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours), keys(&theirs), "{writer}/{state}");
    let wrong: Vec<_> = theirs.iter().filter(|(name, line)| ours[*name] != **line).collect();
    let differences: Vec<_> = wrong.iter().map(|(name, line)| difference(&ours[*name], line)).collect();
    assert!(wrong.is_empty(), "{writer}/{state}: {} of {}: {}", wrong.len(), theirs.len(), differences.join("\n"));
}

/// All directories there are, of writers that were killed and of those that closed theirs.
#[test]
#[ignore = "needs the golden directories: NARTHEX_SHARED"]
fn every_golden_directory() {
    let root = Path::new(&std::env::var_os("NARTHEX_SHARED").unwrap()).join("golden/prometheus-3.14");
    for writer in ["xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd", "all-st-wal-snappy"] {
        for state in ["closed", "crashed-after-compaction", "crashed-before-compaction"] {
            let dir = root.join(writer).join(state);
            let expected = if state == "closed" { "crashed-after-compaction" } else { state };
            let undecided = writer == "xor2-st-wal-zstd" && state == "crashed-before-compaction";
            let change = if undecided { without_starts_of_histograms } else { |line| line };
            let lines = |lines: Vec<String>| lines.into_iter().map(change).collect::<Vec<_>>();
            let (ours, theirs) = (lines(dump(&dir)), lines(golden(writer, expected)));
            let wrong = ours.iter().zip(&theirs).filter(|(a, b)| a != b);
            let wrong: Vec<_> = wrong.map(|(ours, theirs)| difference(ours, theirs)).take(3).collect();
            let equal = ours.len() == theirs.len() && wrong.is_empty();
            assert!(equal, "{writer}/{state}: {} {}: {}", ours.len(), theirs.len(), wrong.join("\n"));
        }
    }
}

#[test]
fn xor_without_log_compression_before_compaction() {
    check("xor-wal-plain", "crashed-before-compaction");
}

#[test]
fn xor_without_log_compression_after_compaction() {
    check("xor-wal-plain", "crashed-after-compaction");
}

#[test]
fn xor_with_a_snappy_log_before_compaction() {
    check("xor-wal-snappy", "crashed-before-compaction");
}

#[test]
fn xor_with_a_snappy_log_after_compaction() {
    check("xor-wal-snappy", "crashed-after-compaction");
}

#[test]
fn xor2_with_start_timestamps_and_a_zstd_log_before_compaction() {
    check_changed("xor2-st-wal-zstd", "crashed-before-compaction", without_starts_of_histograms);
}

#[test]
fn xor2_with_start_timestamps_and_a_zstd_log_after_compaction() {
    check("xor2-st-wal-zstd", "crashed-after-compaction");
}

#[test]
fn all_start_timestamp_encodings_before_compaction() {
    check("all-st-wal-snappy", "crashed-before-compaction");
}

#[test]
fn all_start_timestamp_encodings_after_compaction() {
    check("all-st-wal-snappy", "crashed-after-compaction");
}
