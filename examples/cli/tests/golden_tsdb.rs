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
fn dump_prints_what_the_original_reads_of_every_block() {
    assert_lines("dump", "samples");
}

/// The labels of a line: what stands before the samples.
fn labels(line: &str) -> &str {
    let end = line.find("],\"samples\"").unwrap();
    line.get(..end).unwrap()
}

/// Logs of samples that came out of order are not read yet. The series that have some are those of the block that was
/// made of them later.
#[test]
fn dump_of_a_crashed_directory_prints_what_its_owner_read() {
    for set in ["xor-wal-plain", "xor-wal-snappy"] {
        let set = golden().join("prometheus-3.14").join(set);
        let out_of_order = lines(&set.join("block-1.samples.jsonl.zst"));
        let out_of_order: Vec<_> = out_of_order.iter().map(|line| labels(line)).collect();
        for (dir, least) in [("crashed-before-compaction", 9), ("crashed-after-compaction", 28)] {
            let output = narthex(&["tsdb", "dump"], &set.join(dir));
            assert!(output.status.success(), "{dir}: {}", String::from_utf8_lossy(&output.stderr));
            let ours = String::from_utf8(output.stdout).unwrap();
            let theirs = lines(&set.join(format!("{dir}.samples.jsonl.zst")));
            assert_eq!(ours.lines().count(), theirs.len());
            let mut same = 0;
            for (ours, theirs) in ours.lines().zip(&theirs) {
                assert_eq!(labels(ours), labels(theirs));
                if ours == theirs {
                    same += 1;
                } else {
                    assert!(least < 28 && out_of_order.contains(&labels(ours)), "{dir}: {}", labels(ours));
                }
            }
            assert!(same >= least, "{dir}: only {same} series are the same");
        }
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
