//! The steps of `narthex bench` do what they say: a figure of work that was not done is none.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use narthex::fs::Env;
use serde_json::Value;

const SERIES: &str = "--series=60";
const SAMPLES: &str = "--samples=1000";

struct Directory(PathBuf);

impl Directory {
    /// Sixty series over a little more than four hours, in the log alone.
    fn appended() -> Self {
        let dir = std::env::temp_dir().join(format!("narthex-bench-{:016x}", Env::real().rng.next_u64()));
        assert_eq!(bench(&["append", SERIES, SAMPLES], &dir).len(), 2);
        Self(dir)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

/// The JSON lines that the command prints.
fn bench(arguments: &[&str], dir: &Path) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narthex"));
    let output = command.arg("bench").args(arguments).arg("--dir").arg(dir).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn blocks_are_cut_where_two_hours_are_full_and_merging_them_loses_nothing() {
    let dir = Directory::appended();
    let cut = &bench(&["blocks", SERIES, SAMPLES], &dir.0)[0];
    assert_eq!((&cut["blocks"], &cut["work"]), (&Value::from(2), &Value::from(60.0 * 960.0)));
    let merged = &bench(&["compact"], &dir.0)[0];
    assert_eq!((&merged["step"], &merged["work"]), (&Value::from("compact"), &Value::from(2.0)));
    assert_eq!((&merged["samples"], &merged["series"]), (&Value::from(60 * 960), &Value::from(60)));
    assert!(dir.0.join(merged["id"].as_str().unwrap()).join("meta.json").exists());
}

#[test]
fn the_ten_queries_are_asked_and_answered_with_what_the_series_say() {
    let dir = Directory::appended();
    let lines = bench(&["query"], &dir.0);
    let series: Vec<_> = lines.iter().map(|line| line["series"].as_u64().unwrap()).collect();
    // The sixty are metrics 0 to 11 of one target, with five codes each; its job, cluster and namespace are number 0. Of
    // metric 7 three have a name without "_total", as gauges; metric 20 is none of them.
    assert_eq!(series, [1, 5, 0, 3, 1, 5, 1, 1, 5, 0]);
    assert!(lines.iter().all(|line| line["wall_s"].is_number() && line["first_s"].is_number()));
}

#[test]
fn one_s_own_queries_are_asked_in_their_place() {
    let dir = Directory::appended();
    let file = dir.0.join("queries.txt");
    Env::real().fs.create(&file).unwrap().append(b"60|count({code=\"3\"})\n\n15|vector(1)\n").unwrap();
    let lines = bench(&["query", "--queries", file.to_str().unwrap()], &dir.0);
    let shapes: Vec<_> = lines.iter().map(|line| (line["series"].clone(), line["points"].clone())).collect();
    assert_eq!(shapes, [(1.into(), 120.into()), (1.into(), 480.into())]);
}
