//! PromQL against tests in its own language: ours, and upstream's where they are at hand.

#![expect(clippy::disallowed_methods, reason = "this test reads its own files; there is nothing to simulate")]
#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]
#![expect(clippy::expect_used, reason = "what a test needs is there, or it fails")]
use std::path::{Path, PathBuf};

use narthex::promql::parse;
use narthex::testkit::script::{Command, parse_script, run_script, test_engine};

/// Upstream's files: the directory that this variable names.
const UPSTREAM: &str = "NARTHEX_PROMQLTEST";

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "test")).collect();
    files.sort();
    assert!(!files.is_empty(), "no tests in {}", dir.display());
    files
}

fn upstream() -> Vec<PathBuf> {
    let dir = std::env::var_os(UPSTREAM).expect("NARTHEX_PROMQLTEST names the directory of upstream's test files");
    files(Path::new(&dir))
}

#[test]
fn our_own_tests_pass() {
    let engine = test_engine();
    let mut failures = Vec::new();
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/promql")) {
        let report = run_script(&engine, &std::fs::read_to_string(&path).unwrap());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(report.passed > 0, "{name}: nothing was tested");
        failures
            .extend(report.failures.iter().map(|it| format!("{name}:{}: {}\n    {}", it.line, it.query, it.message)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "needs NARTHEX_PROMQLTEST"]
fn upstreams_test_files_can_be_read_to_the_last_command() {
    for path in upstream() {
        let commands = parse_script(&std::fs::read_to_string(&path).unwrap());
        for command in commands {
            let command = command.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // What is written must read back as the same.
            if let Command::Eval(eval) = command {
                let text = parse(&eval.query).unwrap().to_string();
                assert_eq!(parse(&text).unwrap().to_string(), text, "{}", eval.query);
            }
        }
    }
}
