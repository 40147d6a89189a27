//! Whole directories that Prometheus wrote and left in the middle of its work: opened for reading, every series answers
//! what Prometheus's own querier answered, samples that came out of order and are still in their log included.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use narthex::budget::Budget;
use narthex::db::{Options, ReadOnlyDb};
use narthex::fs::Env;
use narthex::head::FloatEncoding;
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

fn dump(dir: &Path, owner: &Options) -> Vec<String> {
    let db = ReadOnlyDb::open_as(&Env::real(), dir, owner).unwrap();
    let status = db.status();
    assert!(status.log_damage.is_empty() && status.quarantined.is_empty(), "{status:?}");
    // Else the whole log would be read, and answer the same.
    let entries = Env::real().fs.list(dir).unwrap();
    let has_snapshot = entries.iter().any(|entry| entry.name.starts_with("chunk_snapshot."));
    assert_eq!((status.snapshot.is_some(), status.snapshot_refused), (has_snapshot, None), "{}", dir.display());
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

/// What the owner of a directory kept, where nothing in it tells: with neither blocks nor head chunks of histograms, whether
/// their start timestamps, which the log has, went into chunks.
fn owner(writer: &str, state: &str) -> Options {
    match (writer, state) {
        ("xor2-st-wal-zstd", "crashed-before-compaction") => {
            Options { start_timestamps: true, float_encoding: FloatEncoding::Xor2, ..Options::default() }
        }
        _ => Options::default(),
    }
}

fn check(writer: &str, state: &str) {
    let dir = root().join(writer).join(state);
    let keep = |lines: Vec<String>| -> BTreeMap<String, String> {
        lines.into_iter().map(|line| (name_of(&line).to_owned(), line)).collect()
    };
    let (ours, theirs) = (keep(dump(&dir, &owner(writer, state))), keep(golden(writer, state)));
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
    let mut snapshots = 0;
    for writer in ["xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd", "all-st-wal-snappy"] {
        for state in ["closed", "crashed-after-compaction", "crashed-before-compaction"] {
            let dir = root.join(writer).join(state);
            let expected = if state == "closed" { "crashed-after-compaction" } else { state };
            snapshots += usize::from(ReadOnlyDb::open_with(&Env::real(), &dir).unwrap().status().snapshot.is_some());
            let (ours, theirs) = (dump(&dir, &owner(writer, state)), golden(writer, expected));
            let wrong = ours.iter().zip(&theirs).filter(|(a, b)| a != b);
            let wrong: Vec<_> = wrong.map(|(ours, theirs)| difference(ours, theirs)).take(3).collect();
            let equal = ours.len() == theirs.len() && wrong.is_empty();
            assert!(equal, "{writer}/{state}: {} {}: {}", ours.len(), theirs.len(), wrong.join("\n"));
        }
    }
    assert_eq!(snapshots, 2, "of the two writers that left one");
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
    check("xor2-st-wal-zstd", "crashed-before-compaction");
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
