//! The inputs that are kept for the fuzz targets, run through them once.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use narthex::fs::Env;
use narthex::testkit::fuzz::TARGETS;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The names in a directory, sorted.
fn names(path: &str) -> Vec<String> {
    let mut names: Vec<_> = Env::real().fs.list(&at(path)).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn every_kept_input_passes() {
    for (name, target) in TARGETS {
        for input in names(&format!("testdata/fuzz/{name}")) {
            let path = at(&format!("testdata/fuzz/{name}/{input}"));
            // A panic names the target's function, but not the input: this does, and is shown only then.
            println!("{}", path.display());
            target(&Env::real().fs.read(&path).unwrap());
        }
    }
}

#[test]
fn every_target_has_inputs_a_program_and_a_line_in_the_table() {
    let mut table: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    table.sort();
    let programs: Vec<_> = names("fuzz/fuzz_targets").iter().map(|file| file.replace(".rs", "")).collect();
    assert_eq!(programs, table, "fuzz/fuzz_targets");
    assert_eq!(names("testdata/fuzz"), table, "testdata/fuzz");
    let manifest = String::from_utf8(Env::real().fs.read(&at("fuzz/Cargo.toml")).unwrap()).unwrap();
    for name in table {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} in fuzz/Cargo.toml");
        assert!(!names(&format!("testdata/fuzz/{name}")).is_empty(), "testdata/fuzz/{name} is empty");
    }
}
