//! `narthex bucket`: what it lists, and that it names every way in which a bucket can be damaged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use narthex::block::{BlockMeta, Ulid};
use narthex::bucket::{DeletionMark, FileHash, Mark, ThanosMeta};
use narthex::fs::Env;
use serde_json::Value;

const RAW: [&str; 2] = ["01M7Z03ERTE4J4F677AD6528F3", "01M7Z03ESY3W1KCWH19HVHTBVH"];
const FIVE_MINUTES: [&str; 2] = ["01M7Z03EZJ1117QGTGRP5WDMV8", "01M7Z03F0Q9K0921TN8673XY41"];
const HOUR: &str = "01M7Z03F2977G3H5KYV3YV2S0Q";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden")
}

/// A bucket in a directory of its own, and the file that says so.
struct Bucket {
    env: Env,
    root: PathBuf,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.env.fs.remove_dir_all(&self.root);
    }
}

impl Bucket {
    fn empty() -> Self {
        let env = Env::real();
        let root = std::env::temp_dir().join(format!("narthex-bucket-{:016x}", env.rng.next_u64()));
        env.fs.create_dir_all(&root.join("bucket")).unwrap();
        let config = format!("type: FILESYSTEM\nconfig:\n  directory: {:?}\n", root.join("bucket"));
        env.fs.create(&root.join("bucket.yml")).unwrap().append(config.as_bytes()).unwrap();
        Self { env, root }
    }

    /// With the five blocks that Thanos wrote.
    fn golden() -> Self {
        let bucket = Self::empty();
        let from = golden().join("thanos-0.43/bucket");
        for block in RAW.iter().chain(&FIVE_MINUTES).chain([&HOUR]) {
            bucket.copy(&from.join(block), &bucket.file(block));
        }
        bucket
    }

    fn copy(&self, from: &Path, to: &Path) {
        self.env.fs.create_dir_all(to).unwrap();
        for entry in self.env.fs.list(from).unwrap() {
            let (from, to) = (from.join(&entry.name), to.join(&entry.name));
            if entry.is_dir {
                self.copy(&from, &to);
            } else {
                self.env.fs.create(&to).unwrap().append(&self.env.fs.read(&from).unwrap()).unwrap();
            }
        }
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.join("bucket").join(path)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        self.env.fs.read(&self.file(path)).unwrap()
    }

    fn write(&self, path: &str, content: &[u8]) {
        let file = self.file(path);
        if self.env.fs.stat(&file).unwrap().is_some() {
            self.env.fs.remove_file(&file).unwrap();
        }
        self.env.fs.create(&file).unwrap().append(content).unwrap();
    }

    fn remove(&self, path: &str) {
        self.env.fs.remove_file(&self.file(path)).unwrap();
    }

    fn edit(&self, block: &str, edit: impl FnOnce(&mut BlockMeta, &mut ThanosMeta)) {
        let path = format!("{block}/meta.json");
        let mut meta = BlockMeta::parse(Path::new(&path), &self.read(&path)).unwrap();
        let mut thanos = ThanosMeta::of(&meta).unwrap().unwrap();
        edit(&mut meta, &mut thanos);
        thanos.put_into(&mut meta);
        self.write(&path, &meta.to_json());
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_narthex"));
        let config = format!("--objstore.config-file={}", self.root.join("bucket.yml").display());
        command.arg("bucket").args(arguments).arg(config).output().unwrap()
    }

    /// The output's JSON lines, and whether the command was content.
    fn json(&self, arguments: &[&str]) -> (Vec<Value>, bool) {
        let output = self.run(&[arguments, &["--output=json"]].concat());
        let lines = text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, output.status.success())
    }

    /// What `verify` finds: block, issue, and the file or other block; the command must fail if and only if there is
    /// something.
    fn issues(&self) -> Vec<(String, String, String)> {
        let (lines, content) = self.json(&["verify"]);
        let mut found = Vec::new();
        for line in &lines {
            for issue in line["issues"].as_array().unwrap() {
                let subject = issue.get("file").or(issue.get("other")).unwrap_or(&issue["detail"]);
                found.push(
                    [&line["block"], &issue["issue"], subject].map(|text| text.as_str().unwrap().to_owned()).into(),
                );
            }
            assert_eq!(line["good"], line["issues"].as_array().unwrap().is_empty());
        }
        assert_eq!(content, found.is_empty());
        found
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn issue(block: &str, name: &str, subject: &str) -> (String, String, String) {
    (block.to_owned(), name.to_owned(), subject.to_owned())
}

#[test]
fn ls_names_the_blocks_by_time() {
    let output = Bucket::golden().run(&["ls"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = [RAW[0], FIVE_MINUTES[0], RAW[1], FIVE_MINUTES[1], HOUR];
    assert_eq!(text(&output).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn ls_describes_blocks_in_json_with_marks_and_the_partial_ones_last() {
    let bucket = Bucket::golden();
    let mark = DeletionMark::new(Ulid::from_string(RAW[1]).unwrap(), "", 1_700_000_000);
    bucket.write(&format!("{}/deletion-mark.json", RAW[1]), &mark.to_json());
    bucket.remove(&format!("{}/meta.json", FIVE_MINUTES[0]));
    let (lines, content) = bucket.json(&["ls"]);
    assert!(content);
    let expected = serde_json::json!({
        "block": RAW[0], "min_time": 1_699_488_000_000_i64, "max_time": 1_699_660_800_000_i64, "level": 4,
        "resolution_ms": 0, "labels": { "cluster": "prod-eu1", "replica": "a" }, "source": "sidecar", "series": 7,
        "samples": 17679, "chunks": 242, "files": 4, "bytes": 145_379 + 2799 + 554 + 9, "marks": {},
    });
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1]["marks"], serde_json::json!({ "deletion": 1_700_000_000 }));
    assert_eq!(lines[4]["block"], FIVE_MINUTES[0]);
    assert_eq!(lines[4]["partial"], "no meta.json");
    assert_eq!(bucket.json(&["ls", "--exclude-delete"]).0.len(), 4);
}

#[test]
fn ls_is_wide_or_a_table_for_people() {
    let bucket = Bucket::golden();
    let wide = text(&bucket.run(&["ls", "--output=wide"]));
    let expected = "01M7Z03ERTE4J4F677AD6528F3 -- 2023-11-09T00:00:00Z - 2023-11-11T00:00:00Z Diff: 48h0m0s, \
                    Compaction: 4, Downsample: 0, Source: sidecar";
    assert_eq!(wide.lines().next().unwrap(), expected);
    let table = text(&bucket.run(&["ls", "--output=table"]));
    assert_eq!(table.lines().count(), 2 + 5);
    assert!(table.lines().last().unwrap().contains("| 1h0m0s     |"), "{table}");
}

#[test]
fn inspect_shows_the_columns_of_thanos_sorted_and_selected() {
    let bucket = Bucket::golden();
    let sorted = text(&bucket.run(&["inspect", "--output=csv", "--sort-by=#SAMPLES"]));
    let lines: Vec<_> = sorted.lines().collect();
    let header =
        "ULID,FROM,UNTIL,RANGE,UNTIL-DOWN,#SERIES,#SAMPLES,#CHUNKS,COMP-LEVEL,COMP-FAILED,LABELS,RESOLUTION,SOURCE";
    assert_eq!(lines[0], header);
    let first = "01M7Z03F2977G3H5KYV3YV2S0Q,2023-11-23T00:00:00Z,2023-12-07T00:00:00Z,336h0m0s,-,7,\"2,103\",20,4,false,\
                 \"cluster=prod-eu1,replica=a\",1h0m0s,compactor";
    assert_eq!(lines[1], first);
    assert_eq!(lines[2].split(',').next().unwrap(), FIVE_MINUTES[0]);
    let count = |selector: &str| text(&bucket.run(&["inspect", "--output=tsv", "-l", selector])).lines().count() - 1;
    assert_eq!([count("replica=\"a\""), count("replica=\"b\""), count("replica!=\"b\"")], [5, 0, 5]);
    let table = text(&bucket.run(&["inspect"]));
    assert!(table.starts_with("| ULID                       | FROM "), "{table}");
    let refused = bucket.run(&["inspect", "--sort-by=AGE"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no column AGE"));
}

#[test]
fn verify_finds_nothing_wrong_with_what_thanos_wrote() {
    let bucket = Bucket::golden();
    assert_eq!(bucket.issues(), []);
    let output = bucket.run(&["verify", "--id", RAW[0]]);
    assert_eq!(text(&output), format!("{}: good, 145.3 KiB\n", RAW[0]));
    let unknown = bucket.run(&["verify", "--id", "01M7Z03ERTE4J4F677AD6528F4"]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no such block"));
}

#[test]
fn verify_changes_nothing_and_leaves_nothing_behind() {
    let bucket = Bucket::golden();
    let scratch = bucket.root.join("scratch");
    bucket.env.fs.create_dir_all(&scratch).unwrap();
    bucket.write(&format!("{}/index", RAW[0]), b"no index");
    let before = bucket.json(&["ls"]);
    assert!(!bucket.run(&["verify", &format!("--tmp.dir={}", scratch.display())]).status.success());
    assert_eq!(bucket.json(&["ls"]), before);
    assert!(bucket.env.fs.list(&scratch).unwrap().is_empty());
}

#[test]
fn a_flipped_byte_in_a_chunk_is_found_and_its_file_is_named() {
    let bucket = Bucket::golden();
    let path = format!("{}/chunks/000001", RAW[0]);
    let mut bytes = bucket.read(&path);
    bytes[70_000] ^= 1;
    bucket.write(&path, &bytes);
    let issues = bucket.issues();
    assert_eq!(issues.len(), 1, "{issues:?}");
    let (block, name, detail) = &issues[0];
    assert_eq!((block.as_str(), name.as_str()), (RAW[0], "damaged"));
    assert!(detail.contains("chunks/000001") && detail.contains("CRC-32C"), "{detail}");
}

#[test]
fn a_truncated_index_is_found_by_its_size_and_by_its_content() {
    let bucket = Bucket::golden();
    let path = format!("{HOUR}/index");
    let bytes = bucket.read(&path);
    bucket.write(&path, &bytes[..bytes.len() - 100]);
    let issues = bucket.issues();
    assert_eq!(issues[0], issue(HOUR, "wrong-size", "index"));
    assert_eq!((issues.len(), issues[1].1.as_str()), (2, "damaged"));
    assert!(issues[1].2.contains("index"), "{issues:?}");
}

#[test]
fn a_missing_segment_is_found_whether_or_not_it_is_listed() {
    let bucket = Bucket::golden();
    for block in [RAW[0], HOUR] {
        bucket.remove(&format!("{block}/chunks/000001"));
    }
    let issues = bucket.issues();
    assert_eq!(issues.len(), 3, "{issues:?}");
    assert_eq!((issues[0].0.as_str(), issues[0].1.as_str()), (RAW[0], "damaged"));
    assert!(issues[0].2.contains("chunks"), "{issues:?}");
    assert_eq!(issues[1], issue(HOUR, "missing-file", "chunks/000001"));
}

#[test]
fn a_segment_that_is_not_listed_is_named() {
    let bucket = Bucket::golden();
    bucket.write(&format!("{HOUR}/chunks/000002"), &bucket.read(&format!("{HOUR}/chunks/000001")));
    assert_eq!(bucket.issues(), [issue(HOUR, "unlisted-segment", "chunks/000002")]);
}

#[test]
fn a_wrong_hash_is_found_in_a_file_that_is_otherwise_good() {
    let bucket = Bucket::golden();
    bucket.edit(HOUR, |_, thanos| thanos.files[1].hash = Some(FileHash::sha256("00".repeat(32))));
    assert_eq!(bucket.issues(), [issue(HOUR, "wrong-hash", "index")]);
}

#[test]
fn a_partial_upload_is_named_unless_it_may_be_under_way() {
    let bucket = Bucket::golden();
    bucket.remove(&format!("{}/meta.json", RAW[1]));
    let issues = bucket.issues();
    assert_eq!(issues.len(), 1);
    assert_eq!((issues[0].0.as_str(), issues[0].1.as_str()), (RAW[1], "partial-upload"));
    assert!(bucket.run(&["verify", "--consistency-delay=30"]).status.success());
}

#[test]
fn a_meta_that_says_nothing_or_another_block_s_name_is_named() {
    let bucket = Bucket::golden();
    bucket.write(&format!("{}/meta.json", RAW[0]), b"{");
    bucket.write(&format!("{}/meta.json", RAW[1]), &bucket.read(&format!("{HOUR}/meta.json")));
    let expected = RAW.map(|block| issue(block, "unreadable-meta", "meta.json"));
    assert_eq!(bucket.issues(), expected);
}

#[test]
fn overlapping_blocks_of_one_group_are_named_both() {
    let bucket = Bucket::golden();
    bucket.edit(RAW[1], |meta, _| meta.min_time = 1_699_660_799_999);
    let expected = [issue(RAW[0], "overlap", RAW[1]), issue(RAW[1], "overlap", RAW[0])];
    assert_eq!(bucket.issues(), expected);
    bucket.edit(RAW[1], |_, thanos| drop(thanos.labels.insert("replica".to_owned(), "b".to_owned())));
    assert_eq!(bucket.issues(), [], "replicas may overlap");
}

#[test]
fn a_block_whose_sources_are_all_in_another_is_a_duplicate_until_it_is_marked() {
    let bucket = Bucket::golden();
    let sources = RAW.map(|block| Ulid::from_string(block).unwrap()).to_vec();
    bucket.edit(RAW[1], |meta, _| meta.compaction.sources = sources);
    assert_eq!(bucket.issues(), [issue(RAW[0], "duplicate", RAW[1])]);
    let now = bucket.env.clock.now_ms() / 1000;
    let mark = |time| DeletionMark::new(Ulid::from_string(RAW[0]).unwrap(), "", time).to_json();
    bucket.write(&format!("{}/deletion-mark.json", RAW[0]), &mark(now - 3600));
    assert_eq!(bucket.issues(), []);
    bucket.write(&format!("{}/deletion-mark.json", RAW[0]), &mark(now - 49 * 3600));
    assert_eq!(bucket.issues(), [issue(RAW[0], "left-behind", "marked for deletion 49 hours ago")]);
}

#[test]
fn of_two_blocks_made_of_the_same_the_younger_is_the_duplicate_as_it_is_to_readers() {
    let bucket = Bucket::golden();
    let sources = RAW.map(|block| Ulid::from_string(block).unwrap()).to_vec();
    // The level says nothing: what was merged twice can have any.
    bucket.edit(RAW[0], |meta, _| meta.compaction.sources.clone_from(&sources));
    bucket.edit(RAW[1], |meta, _| (meta.compaction.sources, meta.compaction.level) = (sources, 9));
    assert!(RAW[0] < RAW[1]);
    assert_eq!(bucket.issues(), [issue(RAW[1], "duplicate", RAW[0])]);
}

#[test]
fn a_mark_of_any_time_is_read() {
    let bucket = Bucket::golden();
    let mark = |time| DeletionMark::new(Ulid::from_string(RAW[0]).unwrap(), "", time).to_json();
    bucket.write(&format!("{}/deletion-mark.json", RAW[0]), &mark(i64::MAX));
    assert_eq!(bucket.issues(), []);
    bucket.write(&format!("{}/deletion-mark.json", RAW[0]), &mark(i64::MIN));
    let issues = bucket.issues();
    assert!(matches!(&issues[..], [(block, name, _)] if block == RAW[0] && name == "left-behind"), "{issues:?}");
}

#[test]
fn a_block_without_labels_or_sources_is_named() {
    let bucket = Bucket::golden();
    bucket.edit(RAW[0], |meta, thanos| {
        thanos.labels.clear();
        meta.compaction.sources.clear();
    });
    let names: Vec<_> = bucket.issues().into_iter().map(|(block, name, _)| (block, name)).collect();
    assert_eq!(names, ["no-labels", "no-sources"].map(|name| (RAW[0].to_owned(), name.to_owned())));
}

#[test]
fn blocks_of_prometheus_are_uploaded_once_and_verify() {
    let bucket = Bucket::empty();
    let path = format!("--path={}", golden().join("live/a").display());
    let arguments = ["upload-blocks", &path, "--label", "cluster=\"eu\"", "--label", "replica=\"a\""];
    let (lines, content) = bucket.json(&arguments);
    assert!(content);
    assert_eq!((lines.len(), &lines[0]["result"]), (1, &Value::from("uploaded")));
    assert_eq!(bucket.issues(), []);
    let (listed, _) = bucket.json(&["ls"]);
    assert_eq!(listed[0]["labels"], serde_json::json!({ "cluster": "eu", "replica": "a" }));
    assert_eq!((&listed[0]["samples"], &listed[0]["source"]), (&Value::from(842_147), &Value::from("bucket.upload")));

    let again = bucket.run(&arguments);
    assert!(again.status.success());
    assert_eq!(text(&again), "01M7Z5SCNGPR0ZFB6ZHP0Z3ZFA: already there\n");
}

#[test]
fn a_block_that_cannot_be_uploaded_fails_the_command_and_the_others_are_uploaded() {
    let bucket = Bucket::empty();
    let data = bucket.root.join("data");
    bucket.copy(&golden().join("live/a"), &data);
    let broken = data.join("01M7Z5SCQ49R874JEGWYM5QSQV");
    bucket.env.fs.create_dir_all(&broken).unwrap();
    bucket.env.fs.create(&broken.join("meta.json")).unwrap().append(b"{").unwrap();
    let path = format!("--path={}", data.display());
    let (lines, content) = bucket.json(&["upload-blocks", &path, "--label=cluster=\"eu\""]);
    assert!(!content);
    let results: Vec<_> = lines.iter().map(|line| line["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["uploaded", "failed"]);
}

#[test]
fn wrong_labels_and_wrong_configurations_are_refused_with_a_reason() {
    let bucket = Bucket::empty();
    let output = bucket.run(&["upload-blocks", "--label=cluster=~\"eu\""]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("KEY=\"VALUE\""));
    let config = bucket.root.join("bucket.yml");
    bucket.env.fs.remove_file(&config).unwrap();
    bucket.env.fs.create(&config).unwrap().append(b"type: TAPE\nconfig: {}\n").unwrap();
    let output = bucket.run(&["ls"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("TAPE"));
}

#[test]
fn a_reader_that_goes_away_is_no_error_to_speak_of() {
    let bucket = Bucket::golden();
    for command in ["ls", "inspect", "verify"] {
        let config = format!("--objstore.config-file={}", bucket.root.join("bucket.yml").display());
        let mut program = Command::new(env!("CARGO_BIN_EXE_narthex"));
        program.args(["bucket", command]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((String::from_utf8_lossy(&output.stderr).as_ref(), output.status.code()), ("", Some(141)));
    }
}
