//! The marks that lie beside a block in a bucket: to be deleted, not to be merged, not to be downsampled.
//!
//! A mark is a small file in the block's directory, written once. Who deletes a block does it some time after the mark, so
//! that nobody reads it any more; the mark itself goes last.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::block::Ulid;
use crate::block::meta::{escape_as_go, is_default, one_ulid};
use crate::error::{Error, ErrorKind, Result};

/// The name of a [`DeletionMark`] in a block's directory.
pub const DELETION_MARK_FILE: &str = "deletion-mark.json";
/// The name of a [`NoCompactMark`] in a block's directory.
pub const NO_COMPACT_MARK_FILE: &str = "no-compact-mark.json";
/// The name of a [`NoDownsampleMark`] in a block's directory.
pub const NO_DOWNSAMPLE_MARK_FILE: &str = "no-downsample-mark.json";
/// The one version of the marks that there is.
const VERSION: u64 = 1;

/// The block is to be deleted, a while after the time of the mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionMark {
    /// The block.
    #[serde(with = "one_ulid")]
    pub id: Ulid,
    /// The version of the file: 1.
    pub version: u64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub details: String,
    /// When it was marked, in seconds since 1970.
    pub deletion_time: i64,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The block is not to be merged with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoCompactMark {
    /// The block.
    #[serde(with = "one_ulid")]
    pub id: Ulid,
    /// The version of the file: 1.
    pub version: u64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub details: String,
    /// When it was marked, in seconds since 1970.
    pub no_compact_time: i64,
    /// Why: `manual`, `index-size-exceeding`, `block-index-out-of-order-chunk`, `downsample-vertical-compaction`.
    pub reason: String,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// No coarser block is to be made of the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDownsampleMark {
    /// The block.
    #[serde(with = "one_ulid")]
    pub id: Ulid,
    /// The version of the file: 1.
    pub version: u64,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub details: String,
    /// When it was marked, in seconds since 1970.
    pub no_downsample_time: i64,
    /// Why: `manual`.
    pub reason: String,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl DeletionMark {
    /// A mark of this moment, in seconds since 1970.
    #[must_use]
    pub fn new(id: Ulid, details: impl Into<String>, deletion_time: i64) -> Self {
        Self { id, version: VERSION, details: details.into(), deletion_time, extra: Map::new() }
    }
}

impl NoCompactMark {
    /// A mark of this moment, in seconds since 1970.
    #[must_use]
    pub fn new(id: Ulid, reason: impl Into<String>, details: impl Into<String>, no_compact_time: i64) -> Self {
        let (details, reason) = (details.into(), reason.into());
        Self { id, version: VERSION, details, no_compact_time, reason, extra: Map::new() }
    }
}

impl NoDownsampleMark {
    /// A mark of this moment, in seconds since 1970.
    #[must_use]
    pub fn new(id: Ulid, reason: impl Into<String>, details: impl Into<String>, no_downsample_time: i64) -> Self {
        let (details, reason) = (details.into(), reason.into());
        Self { id, version: VERSION, details, no_downsample_time, reason, extra: Map::new() }
    }
}

/// What the marks have in common.
pub trait Mark: Serialize + DeserializeOwned {
    /// The file's name in the block's directory.
    const FILE: &'static str;

    /// The version that the file says it has.
    fn version(&self) -> u64;

    /// Reads the file's content; `key` is what errors call it.
    ///
    /// # Errors
    /// `Corrupt` if it is none, `Unsupported` for another version.
    fn parse(key: &str, bytes: &[u8]) -> Result<Self> {
        let mark: Self =
            serde_json::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Corrupt, format!("{key}: {error}")))?;
        if mark.version() != VERSION {
            let text = format!("{key}: version {}; {VERSION} is known", mark.version());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(mark)
    }

    /// The file's content as Thanos writes it: on one line.
    fn to_json(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self);
        debug_assert!(json.is_ok(), "plain structs and maps with string keys cannot fail");
        escape_as_go(&json.unwrap_or_default())
    }
}

impl Mark for DeletionMark {
    const FILE: &'static str = DELETION_MARK_FILE;

    fn version(&self) -> u64 {
        self.version
    }
}

impl Mark for NoCompactMark {
    const FILE: &'static str = NO_COMPACT_MARK_FILE;

    fn version(&self) -> u64 {
        self.version
    }
}

impl Mark for NoDownsampleMark {
    const FILE: &'static str = NO_DOWNSAMPLE_MARK_FILE;

    fn version(&self) -> u64 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01M7Z00JQ9CQWV8BSSHBPHF8W8";

    fn same<M: Mark>(text: &str) -> M {
        let mark = M::parse("mark", text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(mark.to_json()).unwrap(), text);
        mark
    }

    #[test]
    fn marks_are_written_as_they_were_read() {
        let deletion: DeletionMark = same(&format!(
            r#"{{"id":"{ID}","version":1,"details":"a \u003e b","deletion_time":1700000000,"more":[1]}}"#
        ));
        assert_eq!((deletion.details.as_str(), deletion.deletion_time), ("a > b", 1_700_000_000));
        let no_compact: NoCompactMark =
            same(&format!(r#"{{"id":"{ID}","version":1,"no_compact_time":5,"reason":"index-size-exceeding"}}"#));
        assert_eq!(no_compact, NoCompactMark::new(no_compact.id, "index-size-exceeding", "", 5));
        let no_downsample: NoDownsampleMark =
            same(&format!(r#"{{"id":"{ID}","version":1,"details":"x","no_downsample_time":6,"reason":"manual"}}"#));
        assert_eq!(no_downsample, NoDownsampleMark::new(no_downsample.id, "manual", "x", 6));
    }

    #[test]
    fn a_mark_that_is_none_is_refused_with_its_key() {
        for (text, kind) in [
            ("", ErrorKind::Corrupt),
            ("{}", ErrorKind::Corrupt),
            (r#"{"id":"01M7Z00JQ9CQWV8BSSHBPHF8W8","version":2,"deletion_time":1}"#, ErrorKind::Unsupported),
        ] {
            let error = DeletionMark::parse("a/deletion-mark.json", text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().starts_with("a/deletion-mark.json"), "{error}");
        }
    }
}
