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

/// Hours of a sample each five seconds, some of them late: full chunks of the head, and both logs.
fn fill_head(dir: &str) {
    let db = Db::open(Path::new(dir), Options { out_of_order_window: HOUR, ..options() }).unwrap();
    let labels = Labels::from_pairs([("__name__", "m")]);
    let append = |t: i64| {
        let mut appender = db.appender();
        appender.append(None, &labels, t, t as f64).unwrap();
        appender.commit().unwrap();
    };
    (0..1000).for_each(|step| append(step * 5000));
    (0..20).for_each(|step| append(4_000_001 + step * 5000));
    db.close().unwrap();
}

/// What `verify` prints of `dir`, and with which exit code.
fn verified(dir: &str) -> (String, Option<i32>) {
    let output = narthex(&["tsdb", "verify", dir]);
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// The first line that tells of damage, with a path relative to `dir`.
fn told(dir: &str) -> (String, Option<i32>) {
    let (text, code) = verified(dir);
    let line = text.lines().find(|line| !line.contains(": good")).unwrap_or_default();
    (line.replace(&format!("{dir}/"), ""), code)
}

fn rewrite(path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let fs = Env::real().fs;
    let mut bytes = fs.read(Path::new(path)).unwrap();
    change(&mut bytes);
    fs.remove_file(Path::new(path)).unwrap();
    fs.create(Path::new(path)).unwrap().append(&bytes).unwrap();
}

#[test]
fn verify_reads_the_logs_and_the_chunks_of_the_head() {
    let place = Place::new("verify-head");
    let dir = &place.path("data");
    fill_head(dir);
    let (text, code) = verified(dir);
    assert_eq!(code, Some(0), "{text}");
    for part in ["/wal: good, ", "/wbl: good, ", "/chunks_head: good, 8 chunks"] {
        assert!(text.contains(part), "{text}");
    }
    for (file, at) in [("wal/00000000", 10_000), ("wbl/00000000", 100), ("chunks_head/000001", 20)] {
        rewrite(&format!("{dir}/{file}"), |bytes| bytes[at] ^= 4);
        let (line, code) = told(dir);
        assert_eq!(code, Some(1), "{line}");
        let (_, place) = line.split_once(&format!(" in {file} at ")).unwrap();
        // Where the record begins, or the chunk.
        let offset: usize = place.split(':').next().unwrap().parse().unwrap();
        assert!(line.contains("DAMAGED") && offset <= at && at < offset + 200, "{line}");
        rewrite(&format!("{dir}/{file}"), |bytes| bytes[at] ^= 4);
    }
    assert_eq!(verified(dir).1, Some(0));
}

#[test]
fn verify_tells_of_an_end_that_a_killed_process_leaves_and_does_not_call_it_damage() {
    for file in ["wal/00000000", "wbl/00000000", "chunks_head/000001"] {
        let place = Place::new(&format!("verify-torn-{}", &file[..3]));
        let dir = &place.path("data");
        fill_head(dir);
        // A log that was closed has zeros to the end of its page.
        rewrite(&format!("{dir}/{file}"), |bytes| {
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() - 2);
        });
        let (line, code) = told(dir);
        assert_eq!(code, Some(0), "{line}");
        assert!(line.contains("torn") && line.contains(&format!("{file} at ")), "{line}");
    }
}

#[test]
fn verify_and_list_name_a_block_that_has_lost_its_meta_and_verify_reads_coarser_copies() {
    let place = Place::new("verify-blocks");
    let dir = &place.path("data");
    let db = fill(dir);
    let blocks = db.block_dirs();
    db.close().unwrap();
    let fs = Env::real().fs;
    let copy = Path::new(dir).join("downsampled/01M7Z00JQ9CQWV8BSSHBPHF8W8");
    fs.create_dir_all(&copy.join("chunks")).unwrap();
    for name in ["index", "chunks/000001", "meta.json"] {
        let mut bytes = fs.read(&blocks[1].join(name)).unwrap();
        if name == "index" {
            bytes[30] ^= 4;
        }
        fs.create(&copy.join(name)).unwrap().append(&bytes).unwrap();
    }
    fs.remove_file(&blocks[0].join("meta.json")).unwrap();
    let (text, code) = verified(dir);
    assert_eq!(code, Some(1), "{text}");
    let damaged: Vec<&str> = text.lines().filter(|line| line.contains("DAMAGED")).collect();
    assert_eq!(damaged.len(), 2, "{text}");
    for path in [&blocks[0], &copy] {
        assert!(damaged.iter().any(|line| line.starts_with(&format!("{}: ", path.display()))), "{text}");
    }
    assert_eq!(verified(&blocks[0].display().to_string()).1, Some(1), "by its own name");
    let output = narthex(&["tsdb", "list", dir]);
    let (listed, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), listed.lines().count()), (Some(1), 1 + 10), "{listed}{error}");
    assert!(error.contains("1 of 11") && error.contains(&blocks[0].display().to_string()), "{error}");
}
