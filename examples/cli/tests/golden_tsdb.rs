//! What the tool prints of the originals' blocks is what the originals' own readers print.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use narthex::fs::Env;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden")
}

fn narthex(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_narthex")).args(arguments).arg(path).output().unwrap()
}

/// The lines of a file that zstd packed.
fn lines(path: &Path) -> Vec<String> {
    let packed = Env::real().fs.read(path).unwrap();
    let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The blocks of the four directories, with the path of what they hold.
fn blocks() -> Vec<PathBuf> {
    let sets = golden().join("prometheus-3.14");
    let mut found = Vec::new();
    for set in Env::real().fs.list(&sets).unwrap().into_iter().filter(|entry| entry.is_dir) {
        for block in ["block-0", "block-1"] {
            found.push(sets.join(&set.name).join(block));
        }
    }
    found
}

fn assert_lines(command: &str, kind: &str) {
    for block in blocks() {
        let output = narthex(&["tsdb", command], &block);
        assert!(output.status.success(), "{}: {}", block.display(), String::from_utf8_lossy(&output.stderr));
        let ours = String::from_utf8(output.stdout).unwrap();
        let ours: Vec<_> = ours.lines().collect();
        let theirs = lines(&PathBuf::from(format!("{}.{kind}.jsonl.zst", block.display())));
        assert_eq!(ours.len(), theirs.len(), "{}", block.display());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            if ours != theirs {
                let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
                let from = at.saturating_sub(200);
                assert_eq!(&ours[from..], &theirs[from..], "{}", block.display());
            }
        }
    }
}

#[test]
fn chunks_prints_what_the_original_reads_of_every_block() {
    assert_lines("chunks", "chunks");
}

#[test]
fn chunks_prints_thanos_s_blocks_aggregate_by_aggregate() {
    let bucket = golden().join("thanos-0.43/bucket");
    let blocks: Vec<_> = Env::real().fs.list(&bucket).unwrap().into_iter().filter(|entry| entry.is_dir).collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        let output = narthex(&["tsdb", "chunks"], &bucket.join(&block.name));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs = lines(&bucket.join(format!("{}.chunks.jsonl.zst", block.name))).join("\n") + "\n";
        assert!(output.stdout == theirs.as_bytes(), "{}", block.name);
    }
}

#[test]
fn dump_prints_what_the_original_reads_of_every_block() {
    assert_lines("dump", "samples");
}

#[test]
fn dump_of_a_directory_prints_what_its_owner_read() {
    let (before, after) = ("crashed-before-compaction", "crashed-after-compaction");
    let sets = ["xor-wal-plain", "xor-wal-snappy", "xor2-st-wal-zstd", "all-st-wal-snappy"];
    for (set, dir) in sets.into_iter().flat_map(|set| [(set, before), (set, after)]) {
        // Nothing in this one tells that its owner kept none.
        let is_undecided = (set, dir) == ("xor2-st-wal-zstd", before);
        let options: &[&str] = if is_undecided { &["--no-histogram-starts"] } else { &[] };
        let root = golden().join("prometheus-3.14").join(set);
        let output = narthex(&[&["tsdb", "dump"], options].concat(), &root.join(dir));
        assert!(output.status.success(), "{set} {dir}: {}", String::from_utf8_lossy(&output.stderr));
        let ours = String::from_utf8(output.stdout).unwrap();
        let theirs = lines(&root.join(format!("{dir}.samples.jsonl.zst")));
        assert!(ours.lines().eq(&theirs), "{set} {dir}");
    }
}

#[test]
fn dump_takes_selectors_and_times_and_prints_text() {
    let block = golden().join("prometheus-3.14/xor-wal-plain/block-0");
    let arguments = [
        "tsdb",
        "dump",
        "--format",
        "openmetrics",
        "--match",
        "constant",
        "--match",
        "{__name__=~\"noi.e\"}",
        "--min-time",
        "1700006400000",
        "--max-time",
        "1700006415000",
    ];
    let text = String::from_utf8(narthex(&arguments, &block).stdout).unwrap();
    let expected = "constant{empty_dropped=\"x\"} 42 1700006400.000\nconstant{empty_dropped=\"x\"} 42 1700006415.000\n\
                    noise{} 0 1700006400.000\nnoise{} 1.6486619586169158 1700006415.000\n# EOF\n";
    assert_eq!(text, expected);
}

#[test]
fn verify_finds_nothing_in_good_blocks() {
    for dir in ["live/a", "thanos-0.43/bucket", "prometheus-3.14/xor-wal-plain/block-0"] {
        let output = narthex(&["tsdb", "verify"], &golden().join(dir));
        assert!(output.status.success(), "{dir}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_flipped_bit_is_found_and_named_and_the_exit_code_says_so() {
    let env = Env::real();
    let dir = std::env::temp_dir().join(format!("narthex-verify-{}", std::process::id()));
    let good = golden().join("prometheus-3.14/xor-wal-plain/block-1");
    for (file, at) in [("index", 700), ("index", 1500), ("chunks/000001", 4000), ("tombstones", 7), ("meta.json", 12)] {
        let block = dir.join("01M7Z00JQ9CQWV8BSSHBPHF8W8");
        env.fs.create_dir_all(&block.join("chunks")).unwrap();
        for name in ["index", "chunks/000001", "tombstones", "meta.json"] {
            let mut bytes = env.fs.read(&good.join(name)).unwrap();
            if name == file {
                bytes[at] ^= 4;
            }
            env.fs.create(&block.join(name)).unwrap().append(&bytes).unwrap();
        }
        let output = narthex(&["tsdb", "verify"], &dir);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{file} at {at}: {text}");
        assert!(text.contains("DAMAGED") && text.contains(file), "{file} at {at}: {text}");
        env.fs.remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn list_names_every_block_with_its_counts() {
    let output = narthex(&["tsdb", "list"], &golden().join("live/a"));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().nth(1).unwrap();
    for part in ["01M7Z5SCNGPR0ZFB6ZHP0Z3ZFA", "1795268400177", "842147", "5648", "2808"] {
        assert!(line.contains(part), "{line}");
    }
}

/// A directory for one test.
fn temporary(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("narthex-{name}-{}", std::process::id()));
    Env::real().fs.create_dir_all(&dir).unwrap();
    dir
}

fn backfill(format: &str, file: &Path, out: &Path) -> Output {
    let arguments = ["tsdb", "create-blocks-from", format, "--max-block-duration", "54"];
    Command::new(env!("CARGO_BIN_EXE_narthex")).args(arguments).args([file, out]).output().unwrap()
}

#[test]
fn a_dump_becomes_blocks_that_dump_the_same() {
    let fs = Env::real().fs;
    let dir = temporary("backfill-jsonl");
    for set in ["xor-wal-plain", "xor2-st-wal-zstd", "all-st-wal-snappy"] {
        let theirs =
            lines(&golden().join(format!("prometheus-3.14/{set}/block-0.samples.jsonl.zst"))).join("\n") + "\n";
        let file = dir.join(format!("{set}.jsonl"));
        fs.create(&file).unwrap().append(theirs.as_bytes()).unwrap();
        let out = dir.join(set);
        let output = backfill("jsonl", &file, &out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dumped = narthex(&["tsdb", "dump"], &out);
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        // Hints depend on where chunks begin, which is another place.
        let hintless = |text: &str| {
            ["unknown", "reset", "not_reset"]
                .iter()
                .fold(text.to_owned(), |text, hint| text.replace(&format!("\"counter_reset_hint\":\"{hint}\""), ""))
        };
        let ours = String::from_utf8(dumped.stdout).unwrap();
        for (ours, theirs) in ours.lines().zip(theirs.lines()) {
            assert_eq!(hintless(ours), hintless(theirs), "{set}");
        }
        assert_eq!(ours.lines().count(), theirs.lines().count());
        assert!(narthex(&["tsdb", "verify"], &out).status.success());
    }
    fs.remove_dir_all(&dir).unwrap();
}

#[test]
fn openmetrics_text_becomes_blocks_and_what_is_cut_or_has_no_time_is_refused() {
    let fs = Env::real().fs;
    let dir = temporary("backfill-openmetrics");
    let text = "# TYPE a counter\na_total{x=\"1\"} 1 1700000000.123 # {id=\"7\"} 1\na_total{x=\"1\"} 2 1700007200\nup 1 1700000001\n";
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs.create(&path).unwrap().append(text.as_bytes()).unwrap();
        path
    };
    let out = dir.join("out");
    let output = backfill("openmetrics", &write("whole", &format!("{text}# EOF\n")), &out);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("1 exemplars are left out"), "{told}");
    let dumped = narthex(&["tsdb", "dump", "--format", "openmetrics"], &out);
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    let expected = "a_total{x=\"1\"} 1 1700000000.123\na_total{x=\"1\"} 2 1700007200.000\nup 1 1700000001.000\n# EOF\n";
    assert_eq!(dumped.replace("up{}", "up"), expected);
    for (name, text, reason) in [
        ("cut", text.to_owned(), "does not end with # EOF"),
        ("timeless", "up 1\n# EOF\n".to_owned(), "timeless:1: the sample has no time"),
        ("behind", format!("# EOF\n{text}"), "behind:2: something stands behind # EOF"),
        ("broken", "up{ 1\n# EOF\n".to_owned(), "broken:1: column"),
    ] {
        let out = dir.join(format!("{name}-out"));
        let output = backfill("openmetrics", &write(name, &text), &out);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(reason), "{name}: {told}");
        assert!(fs.list(&out).unwrap().is_empty(), "{name}: nothing is left");
    }
    fs.remove_dir_all(&dir).unwrap();
}
