//! The pages on formats say what the code says: each constant of a format stands on its page, as the sources have it.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources and pages; there is nothing to simulate")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a source or page that cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use narthex::chunk::Encoding;
use narthex::wal::record::RecordType;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The expression of a constant in a source file.
fn constant(source: &str, name: &str) -> String {
    let text = read(source);
    let line =
        text.lines().find(|line| line.trim_start().trim_start_matches("pub ").contains(&format!("const {name}: ")));
    let line = line.unwrap_or_else(|| panic!("{source} has no constant {name}"));
    line.split_once(" = ").unwrap().1.trim_end_matches(';').to_owned()
}

/// A constant as a page writes it: magic numbers as hexadecimal digits, sizes in KiB and MiB.
fn as_written(expression: &str) -> String {
    if let Some(text) = expression.strip_prefix("b\"").or(expression.strip_prefix('"')) {
        return text.trim_end_matches('"').to_owned();
    }
    let plain = expression.replace('_', "");
    if let Some(hex) = plain.strip_prefix("0x") {
        return hex.to_uppercase();
    }
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    let bytes = match plain.split_once("<<") {
        Some((base, shift)) => number(base) << number(shift),
        None => plain.split('*').map(number).product(),
    };
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        number if number >= 10_000 => format!("{},{:03}", number / 1000, number % 1000),
        number => number.to_string(),
    }
}

/// Which constant of which source stands on which page.
const CONSTANTS: [(&str, &str, &str); 13] = [
    ("src/block/tombstones.rs", "MAGIC", "tombstones.md"),
    ("src/block/segments.rs", "MAGIC", "block.md"),
    ("src/block/segments.rs", "SEGMENT_SIZE", "block.md"),
    ("src/index/toc.rs", "MAGIC", "index.md"),
    ("src/wal/segment.rs", "PAGE_SIZE", "wal.md"),
    ("src/wal/segment.rs", "DEFAULT_SEGMENT_SIZE", "wal.md"),
    ("src/bucket/header.rs", "MAGIC", "index-header.md"),
    ("src/head/mapped/format.rs", "MAGIC", "chunks_head.md"),
    ("src/head/mapped/mod.rs", "FILE_SIZE", "chunks_head.md"),
    ("src/head/snapshot/mod.rs", "PREFIX", "snapshot.md"),
    ("src/head/snapshot/extra.rs", "FILE", "snapshot.md"),
    ("src/head/snapshot/extra.rs", "MAGIC", "snapshot.md"),
    ("src/head/snapshot/write.rs", "EXEMPLARS", "snapshot.md"),
];

#[test]
fn constants_of_the_formats_stand_on_their_pages() {
    for (source, name, page) in CONSTANTS {
        let written = as_written(&constant(source, name));
        assert!(
            read(&format!("docs/format/{page}")).contains(&written),
            "{page} does not say {written}: {name} of {source}"
        );
    }
}

/// The only line of a page that has `marker`.
fn line_with(page: &str, marker: &str) -> String {
    let text = read(&format!("docs/format/{page}"));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(marker)).collect();
    assert_eq!(lines.len(), 1, "{page} has {marker} on as many lines");
    lines[0].to_owned()
}

/// Which version stands on which page, and what else stands on its line.
const VERSIONS: [(&str, &str, &str, &str); 7] = [
    ("src/block/tombstones.rs", "VERSION", "tombstones.md", "magic b4 = 0130BA30"),
    ("src/block/segments.rs", "VERSION", "block.md", "magic b4 = 85BD40DD"),
    ("src/block/meta.rs", "VERSION", "meta.md", "| `version` |"),
    ("src/bucket/header.rs", "VERSION", "index-header.md", "magic b4 = BAAAD792"),
    ("src/head/mapped/format.rs", "VERSION", "chunks_head.md", "magic 0130BC91"),
    ("src/head/snapshot/mod.rs", "TOMBSTONES_VERSION", "snapshot.md", "type=2"),
    ("src/head/snapshot/extra.rs", "VERSION", "snapshot.md", "\"NTHX\""),
];

#[test]
fn versions_of_the_formats_stand_on_their_pages() {
    for (source, name, page, marker) in VERSIONS {
        let (line, version) = (line_with(page, marker), constant(source, name));
        let rest = line.split_once("version").unwrap_or_else(|| panic!("{page}: no version in {line}")).1;
        // The number behind an equals sign, or in a table's next column.
        let number = rest.split_once(['=', '|']).unwrap().1.trim_start();
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(digits, version, "{page}: {line}");
    }
}

#[test]
fn flags_and_marking_bytes_of_the_formats_stand_on_their_pages() {
    for (source, name, page, before) in [
        ("src/head/mapped/format.rs", "OUT_OF_ORDER", "chunks_head.md", "Bit 7 ("),
        ("src/chunk/aggregate.rs", "AGGREGATES", "aggregate.md", "all its chunks have the encoding byte "),
    ] {
        let byte = constant(source, name);
        assert!(line_with(page, before).contains(&format!("{before}{byte}")), "{page} does not say {byte}");
    }
    let byte = u8::from_str_radix(constant("src/chunk/aggregate.rs", "AGGREGATES").trim_start_matches("0x"), 16);
    assert!(line_with("chunks.md", "Thanos's aggregates").starts_with(&format!("| {} |", byte.unwrap())));
    // The flags' byte, from its highest bit to its lowest: names and how many bits each has.
    let line = line_with("wal.md", "kind        3 bits");
    let mut above = 8;
    let mut fields = Vec::new();
    for field in line.split('│').map(str::trim).filter(|field| !field.is_empty()) {
        let words: Vec<&str> = field.trim_end_matches(" bits").split_whitespace().collect();
        let [name, width] = words[..] else { panic!("{field}") };
        above -= width.parse::<u32>().unwrap();
        fields.push((name, format!("1 << {above}")));
    }
    assert_eq!(above, 0, "{line}");
    for (name, constant_name) in [("snappy", "SNAPPY_FLAG"), ("zstd", "ZSTD_FLAG")] {
        let expression = constant("src/wal/segment.rs", constant_name);
        assert!(fields.contains(&(name, expression)), "{line}: {fields:?}");
    }
}

#[test]
fn every_record_type_and_every_encoding_has_its_place_on_a_page() {
    let wal = read("docs/format/wal.md");
    for byte in 0..=u8::MAX {
        if RecordType::from_byte(byte).is_some() {
            // The numbers in front of what is described, in bold: `**7, 9, histograms; 8, 10, float histograms**`.
            let mut bold = wal.lines().filter(|line| line.starts_with("**")).filter_map(|line| line.split("**").nth(1));
            let number = byte.to_string();
            let has = |heading: &str| heading.split([' ', ',', ';']).any(|word| word == number);
            assert!(bold.any(has), "wal.md does not describe record type {byte}");
        }
    }
    let chunks = read("docs/format/chunks.md");
    for byte in 0..=u8::MAX {
        if let Ok(encoding) = Encoding::from_byte(byte) {
            assert!(chunks.contains(encoding.name()), "chunks.md does not describe {}", encoding.name());
        }
    }
}

#[test]
fn every_page_has_a_diagram_or_a_table_and_names_the_code_that_reads_it() {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("docs/format")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() >= 9, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.contains('└') || text.contains("|---|"), "{} shows nothing", page.display());
        let source = text.split('`').find(|part| part.starts_with("src/"));
        let source = source.unwrap_or_else(|| panic!("{} does not name its code", page.display()));
        assert!(root().join(source).exists(), "{} names {source}, which is not there", page.display());
    }
}
