//! The commands that change a data directory, and what `analyze` says of one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use narthex::db::{Db, Options};
use narthex::fs::Env;
use narthex::model::Labels;

const HOUR: i64 = 3_600_000;

/// A directory of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Self(std::env::temp_dir().join(format!("narthex-upkeep-{name}-{}", std::process::id())));
        Env::real().fs.create_dir_all(&place.0).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

fn narthex(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_narthex")).args(arguments).output().unwrap()
}

/// What it prints, which must be all that it says.
fn good(arguments: &[&str]) -> String {
    let output = narthex(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.is_empty(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it fails.
fn bad(arguments: &[&str]) -> String {
    let output = narthex(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn options() -> Options {
    Options { max_block_duration: Some(0), future_bound: None, ..Options::default() }
}

/// A day of three series, in blocks of two hours, and the last hours in the head.
fn fill(dir: &str) -> Db {
    let db = Db::open(Path::new(dir), options()).unwrap();
    for step in 0..24 * 6 {
        let mut appender = db.appender();
        for n in ["a", "bb", "ccc"] {
            let labels = Labels::from_pairs([("__name__", "m"), ("n", n)]);
            appender.append(None, &labels, step * HOUR / 6, step as f64).unwrap();
        }
        appender.commit().unwrap();
    }
    db.maintain().unwrap();
    db
}

#[test]
fn blocks_are_merged_cleaned_and_copied() {
    let place = Place::new("life");
    let dir = &place.path("data");
    fill(dir).close().unwrap();
    let all = good(&["tsdb", "dump", dir]);
    assert_eq!(good(&["tsdb", "list", dir]).lines().count(), 1 + 11);

    let told = good(&["tsdb", "compact", dir]);
    let count = |what: &str| told.lines().filter(|line| line.starts_with(what)).count();
    // Nine of two hours become three of six, and those one of eighteen.
    assert_eq!((count("wrote "), count("dropped ")), (4, 12), "{told}");
    assert_eq!(good(&["tsdb", "list", dir]).lines().count(), 1 + 3);
    assert_eq!(good(&["tsdb", "compact", dir]), "");
    assert_eq!(good(&["tsdb", "dump", dir]), all);

    let hour = HOUR.to_string();
    let deleted = good(&["tsdb", "delete", dir, "--match", "m{n=\"a\"}", "--match", "{n=\"bb\"}", "--min-time", &hour]);
    // Two series in three blocks and in the head.
    assert_eq!(deleted, "8\n");
    let left = good(&["tsdb", "dump", dir]);
    assert!(left.len() < all.len() / 2);
    let cleaned = good(&["tsdb", "clean-tombstones", dir]);
    assert_eq!(cleaned.lines().filter(|line| line.starts_with("wrote ")).count(), 3, "{cleaned}");
    assert_eq!(good(&["tsdb", "clean-tombstones", dir]), "");
    assert_eq!(good(&["tsdb", "dump", dir]), left);

    let (with, without) = (&place.path("with"), &place.path("without"));
    assert_eq!(good(&["tsdb", "snapshot", dir, with]).lines().count(), 4);
    assert_eq!(good(&["tsdb", "snapshot", dir, without, "--no-head"]).lines().count(), 3);
    assert_eq!(good(&["tsdb", "dump", with]), left);
    assert!(good(&["tsdb", "dump", without]).len() < left.len());
    assert!(good(&["tsdb", "verify", with]).lines().all(|line| line.contains(": good")));

    let told = good(&["tsdb", "compact", dir, "--with-head"]);
    assert!(told.lines().any(|line| line.starts_with("cut ")), "{told}");
    assert_eq!(good(&["tsdb", "dump", dir]), left);
}

#[test]
fn what_cannot_be_done_is_said_with_its_path() {
    let place = Place::new("wrong");
    let (dir, missing) = (&place.path("data"), &place.path("missing"));
    let db = fill(dir);
    let error = bad(&["tsdb", "compact", dir]);
    assert!(error.contains(&format!("{dir}: the database is open already")), "{error}");
    db.close().unwrap();
    for command in ["compact", "clean-tombstones"] {
        let error = bad(&["tsdb", command, missing]);
        assert!(error.contains(&format!("{missing}: no such directory")), "{error}");
    }
    assert!(Env::real().fs.stat(Path::new(missing)).unwrap().is_none(), "a mistyped name is no new database");
    let error = bad(&["tsdb", "snapshot", dir, dir]);
    assert!(error.contains(dir) && error.contains("its own directory"), "{error}");
    assert_eq!(narthex(&["tsdb", "delete", dir]).status.code(), Some(2), "delete wants a selector");
    let error = bad(&["tsdb", "delete", dir, "--match", "m", "--min-time", "2", "--max-time", "1"]);
    assert!(error.contains("--min-time 2 is after --max-time 1"), "{error}");
    let error = bad(&["tsdb", "analyze", dir, "01M7Z00JPA5HEV9YCPZSAACAM8"]);
    assert!(error.contains("01M7Z00JPA5HEV9YCPZSAACAM8: no such block"), "{error}");
}

#[test]
fn analyze_prints_what_promtool_does() {
    let place = Place::new("analyze");
    let dir = &place.path("data");
    let db = Db::open(Path::new(dir), options()).unwrap();
    let mut appender = db.appender();
    for (labels, until) in [
        (vec![("__name__", "up"), ("job", "node"), ("pod", "a")], 3),
        (vec![("__name__", "up"), ("job", "node"), ("pod", "long-name")], 0),
        (vec![("__name__", "http"), ("job", "web")], 3),
    ] {
        for step in 0..=until {
            appender.append(None, &Labels::from_pairs(labels.clone()), step * HOUR / 2, 1.0).unwrap();
        }
    }
    appender.commit().unwrap();
    db.flush().unwrap();
    let ulid = db.status().blocks[0].meta.ulid.to_string();
    db.close().unwrap();
    let expected = format!(
        "Block ID: {ulid}
Duration: 1h30m0.001s
Total Series: 3
Label names: 3
Postings (unique label pairs): 6
Postings entries (total label pairs): 8

Label pairs most involved in churning:
1 __name__=up
1 job=node

Label names most involved in churning:
1 __name__
1 job

Most common label pairs:
2 __name__=up
2 job=node

Label names with highest cumulative label value length:
10 pod
7 job

Highest cardinality labels:
2 __name__
2 job

Highest cardinality metric names:
2 up
1 http
"
    );
    assert_eq!(good(&["tsdb", "analyze", dir, "--limit", "2"]), expected);
    assert_eq!(good(&["tsdb", "analyze", dir, &ulid, "--limit", "2"]), expected);
    let one = good(&["tsdb", "analyze", dir, "--match", "{job=\"web\"}", "--bytes"]);
    assert!(one.contains("Matcher: {job=\"web\"}\nLabel names: 2\nMatched series: 1\n"), "{one}");
    assert!(one.contains("\nBytes of chunks by metric names:\n"), "{one}");
}
