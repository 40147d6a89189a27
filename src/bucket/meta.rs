//! The section `thanos` of a block's `meta.json`: whose samples these are, at what resolution, and in which files.
//!
//! Written as Thanos writes it, byte for byte: keys in its order, labels sorted, what is empty left out where it leaves it
//! out. What is not understood is kept at every level, behind the keys that are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::block::BlockMeta;
use crate::block::meta::{is_default, null_is_default};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, civil};

/// The section's key in `meta.json`.
pub const THANOS_SECTION: &str = "thanos";
/// The one version of the section that there is. Old writers left it out.
const VERSION: u64 = 1;
/// Go's zero time, which stands for "not uploaded".
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// What Thanos knows of a block beside what Prometheus knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThanosMeta {
    /// The section's version: 1, or 0 where it was left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: u64,
    /// The external labels: who wrote the samples. Every series of the block has them in answers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// How coarse its samples are.
    #[serde(default, deserialize_with = "null_is_default")]
    pub downsample: Downsample,
    /// Which kind of program uploaded it: `sidecar`, `receive`, `compactor`, …
    #[serde(default)]
    pub source: String,
    /// The names of its files of chunks. Thanos calls them deprecated and writes them still.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub segment_files: Vec<String>,
    /// All its files, sorted by path. Old writers left them out.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileEntry>,
    /// What was deleted or renamed in it by rewriting, each as Thanos noted it.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub rewrites: Vec<Value>,
    /// How large its series and chunks are at most.
    #[serde(default, deserialize_with = "null_is_default")]
    pub index_stats: IndexStats,
    /// Whatever others noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Value>,
    /// When `meta.json` was uploaded, as RFC 3339 text; the year 1 where that is not known.
    #[serde(default = "no_time")]
    pub upload_time: String,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How coarse a block's samples are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Downsample {
    /// Milliseconds from sample to sample: 0 as they came, 300 000 or 3 600 000.
    #[serde(default)]
    pub resolution: i64,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A file of a block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the block's: `chunks/000001`.
    pub rel_path: String,
    /// Bytes; 0 for `meta.json`, whose size is not noted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size_bytes: u64,
    /// The sum of its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<FileHash>,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The sum of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileHash {
    /// `SHA256`.
    #[serde(rename = "hashFunc", default)]
    pub func: String,
    /// In lower-case hexadecimal digits.
    #[serde(default)]
    pub value: String,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl FileHash {
    /// The SHA-256 sum with these digits.
    #[must_use]
    pub fn sha256(value: String) -> Self {
        Self { func: "SHA256".to_owned(), value, extra: Map::new() }
    }
}

/// How large a block's series and chunks are at most, in bytes: how much to fetch when their place is known and their
/// size is not. 0 is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IndexStats {
    /// The largest series, in the index.
    #[serde(default, skip_serializing_if = "is_default")]
    pub series_max_size: u64,
    /// The largest chunk, in its file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub chunk_max_size: u64,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn no_time() -> String {
    NO_TIME.to_owned()
}

impl Default for ThanosMeta {
    fn default() -> Self {
        Self {
            version: VERSION,
            labels: BTreeMap::new(),
            downsample: Downsample::default(),
            source: String::new(),
            segment_files: Vec::new(),
            files: Vec::new(),
            rewrites: Vec::new(),
            index_stats: IndexStats::default(),
            extensions: None,
            upload_time: no_time(),
            extra: Map::new(),
        }
    }
}

impl ThanosMeta {
    /// The section of a block's meta; `None` if it has none, as a block that Prometheus wrote.
    ///
    /// # Errors
    /// `Corrupt` if it is none of Thanos's, `Unsupported` for another version.
    pub fn of(meta: &BlockMeta) -> Result<Option<Self>> {
        let Some(section) = meta.extra.get(THANOS_SECTION) else { return Ok(None) };
        let damaged = |error| {
            Error::new(ErrorKind::Corrupt, format!("block {}: {THANOS_SECTION} in meta.json: {error}", meta.ulid))
        };
        let section = Self::deserialize(section).map_err(damaged)?;
        if section.version > VERSION {
            let text = format!(
                "block {}: version {} of {THANOS_SECTION} in meta.json; {VERSION} is known",
                meta.ulid, section.version
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(Some(section))
    }

    /// Puts the section into a block's meta, in the place of the one that it has.
    pub fn put_into(&self, meta: &mut BlockMeta) {
        let section = serde_json::to_value(self);
        debug_assert!(section.is_ok(), "plain structs and maps with string keys cannot fail");
        if let Ok(section) = section {
            meta.extra.insert(THANOS_SECTION.to_owned(), section);
        }
    }

    /// The external labels as labels.
    #[must_use]
    pub fn external_labels(&self) -> Labels {
        Labels::from_pairs(&self.labels)
    }

    /// The size of its file `rel_path`, if it is noted.
    #[must_use]
    pub fn size_of(&self, rel_path: &str) -> Option<u64> {
        let file = self.files.iter().find(|file| file.rel_path == rel_path)?;
        (file.size_bytes != 0).then_some(file.size_bytes)
    }
}

/// A time in milliseconds since 1970 as Go writes it: `2026-11-21T12:08:09.07Z`.
pub(super) fn go_time(ms: i64) -> String {
    let (seconds, ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if ms != 0 {
        text.push_str(format!(".{ms:03}").trim_end_matches('0'));
    }
    text + "Z"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::Env;

    fn parse(text: &str) -> BlockMeta {
        BlockMeta::parse(Path::new("meta.json"), text.as_bytes()).unwrap()
    }

    fn with_section(section: &str) -> String {
        format!(
            "{{\n\t\"ulid\": \"01M7Z00JQ9CQWV8BSSHBPHF8W8\",\n\t\"minTime\": 1,\n\t\"maxTime\": 2,\n\t\"stats\": {{}},\n\t\
             \"compaction\": {{\n\t\t\"level\": 1\n\t}},\n\t\"version\": 1,\n\t\"thanos\": {section}\n}}\n"
        )
    }

    fn written_again(text: &str) -> String {
        let mut meta = parse(text);
        let section = ThanosMeta::of(&meta).unwrap().unwrap();
        section.put_into(&mut meta);
        String::from_utf8(meta.to_json()).unwrap()
    }

    #[test]
    fn what_thanos_wrote_is_written_the_same_byte_for_byte() {
        let env = Env::real();
        let bucket = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/thanos-0.43/bucket"));
        let blocks: Vec<_> = env.fs.list(bucket).unwrap().into_iter().filter(|entry| entry.is_dir).collect();
        assert_eq!(blocks.len(), 5);
        for block in blocks {
            let text = env.fs.read(&bucket.join(block.name).join("meta.json")).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(written_again(&text), text);
        }
    }

    #[test]
    fn what_is_not_understood_survives_at_every_level() {
        let text = with_section(
            "{\n\t\t\"labels\": {\n\t\t\t\"a\": \"\\u003cb\\u003e\"\n\t\t},\n\t\t\"downsample\": {\n\t\t\t\"resolution\": 5,\n\t\t\t\
             \"x\": 1\n\t\t},\n\t\t\"source\": \"\",\n\t\t\"files\": [\n\t\t\t{\n\t\t\t\t\"rel_path\": \"index\",\n\t\t\t\t\
             \"hash\": {\n\t\t\t\t\t\"hashFunc\": \"SHA256\",\n\t\t\t\t\t\"value\": \"00\",\n\t\t\t\t\t\"y\": null\n\t\t\t\t},\n\t\t\t\t\
             \"z\": []\n\t\t\t}\n\t\t],\n\t\t\"rewrites\": [\n\t\t\t{\n\t\t\t\t\"sources\": []\n\t\t\t}\n\t\t],\n\t\t\
             \"index_stats\": {\n\t\t\t\"w\": {}\n\t\t},\n\t\t\"extensions\": {\n\t\t\t\"b\": 1,\n\t\t\t\"a\": 2\n\t\t},\n\t\t\
             \"upload_time\": \"2026-11-21T12:08:09.07Z\",\n\t\t\"mood\": true\n\t}",
        );
        assert_eq!(written_again(&text), text);
    }

    #[test]
    fn go_s_nulls_and_missing_keys_are_empty() {
        let meta = parse(&with_section("{\"labels\": null, \"files\": null, \"extensions\": null}"));
        let section = ThanosMeta::of(&meta).unwrap().unwrap();
        assert_eq!(section, ThanosMeta { version: 0, ..ThanosMeta::default() });
    }

    #[test]
    fn a_block_of_prometheus_has_no_section_and_a_foreign_one_is_refused_with_the_block_s_name() {
        let mut meta = parse(&with_section("{}"));
        meta.extra.clear();
        assert_eq!(ThanosMeta::of(&meta).unwrap(), None);
        for (section, kind) in [("7", ErrorKind::Corrupt), ("{\"version\": 2}", ErrorKind::Unsupported)] {
            let error = ThanosMeta::of(&parse(&with_section(section))).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("01M7Z00JQ9CQWV8BSSHBPHF8W8"), "{error}");
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(go_time(1_795_262_889_070), "2026-11-21T12:08:09.07Z");
        assert_eq!(go_time(0), "1970-01-01T00:00:00Z");
    }
}
