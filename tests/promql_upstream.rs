//! Prometheus's own tests of PromQL, read where they lie.
//!
//! They are upstream's files: `NARTHEX_PROMQLTEST` names the directory that has them, and without it this says so and
//! passes. `NARTHEX_PROMQLTEST_SHOW` prints every evaluation that is not as expected.

#![expect(clippy::disallowed_methods, reason = "this test reads files beside the library; there is nothing to simulate")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a broken set-up fails the test")]

use std::path::PathBuf;

use narthex::testkit::script::{run_script, test_engine};

/// How many evaluations pass now. It may rise, never fall.
const PASSING: usize = 0;

#[test]
fn prometheus_s_own_tests_pass() {
    let Some(dir) = std::env::var_os("NARTHEX_PROMQLTEST") else {
        println!("skipped: NARTHEX_PROMQLTEST is not set");
        return;
    };
    let show = std::env::var_os("NARTHEX_PROMQLTEST_SHOW").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
    files.sort();
    let engine = test_engine();
    let mut passed = 0;
    for file in files {
        let report = run_script(&engine, &std::fs::read_to_string(&file).unwrap());
        println!("{}: {} passed, {} failed", file.display(), report.passed, report.failures.len());
        for failure in report.failures.iter().filter(|_| show) {
            println!("  line {}: {}\n    {}", failure.line, failure.query, failure.message);
        }
        passed += report.passed;
    }
    assert!(passed >= PASSING, "{passed} evaluations pass, fewer than {PASSING}");
}
