//! `meta.json`: what a block is. `docs/format/meta.md` lists its fields.
//!
//! Others put sections of their own into it (Thanos a `thanos`, Mimir more). Whatever is not understood here is kept, at
//! every level, and written again.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
pub use ulid::Ulid;

use super::BlockError;
use crate::fs::{Env, Fs};
use crate::model::TimeRange;

/// The file's name in a block's directory.
pub const META_FILE: &str = "meta.json";
/// The one version of `meta.json` that there is.
const VERSION: u64 = 1;

/// The block was made of out-of-order samples.
pub const HINT_OUT_OF_ORDER: &str = "from-out-of-order";
/// The block was made of series that had ended.
pub const HINT_STALE_SERIES: &str = "from-stale-series";
/// The block was made of series that a caller chose.
pub const HINT_SELECTED_SERIES: &str = "from-selected-series";

/// A new block's identity: the time in its upper bits, so that names sort by age.
#[must_use]
pub fn new_ulid(env: &Env) -> Ulid {
    let random = u128::from(env.rng.next_u64()) << 64 | u128::from(env.rng.next_u64());
    Ulid::from_parts(u64::try_from(env.clock.now_ms()).unwrap_or(0), random)
}

/// [`new_ulid`], but after all of `others` whatever the clock says: their order is that of precedence.
#[must_use]
pub fn new_ulid_after(env: &Env, others: impl IntoIterator<Item = Ulid>) -> Ulid {
    let new = new_ulid(env);
    match others.into_iter().max() {
        // A name that was never given, not merely one that is free: names of blocks that are gone stand in others' metas.
        Some(last) if last >= new => Ulid::from_parts(last.timestamp_ms().saturating_add(1), new.random()),
        _ => new,
    }
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockMeta {
    /// Its identity, and its directory's name.
    #[serde(with = "one_ulid")]
    pub ulid: Ulid,
    /// The first millisecond.
    pub min_time: i64,
    /// The millisecond after the last one.
    pub max_time: i64,
    /// How much is in it.
    #[serde(default)]
    pub stats: BlockStats,
    /// What it was made from.
    #[serde(default)]
    pub compaction: BlockCompaction,
    /// The version of this file's format: 1.
    pub version: u64,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How much is in a block.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockStats {
    /// Samples of all kinds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_samples: u64,
    /// Samples that are floats.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_float_samples: u64,
    /// Samples that are histograms.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_histogram_samples: u64,
    /// Series.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_series: u64,
    /// Chunks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_chunks: u64,
    /// Deleted spans.
    #[serde(default, skip_serializing_if = "is_default")]
    pub num_tombstones: u64,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a block was made from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BlockCompaction {
    /// How often its samples were merged: 1 comes from the head.
    #[serde(default)]
    pub level: u32,
    /// The level-1 blocks whose samples are in it; at level 1, itself.
    #[serde(default, with = "ulids", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Ulid>,
    /// It has no samples, and goes when blocks are next looked through.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deletable: bool,
    /// The blocks that it was made from directly.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<BlockDesc>,
    /// Merging it failed: it is left alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failed: bool,
    /// Where its samples came from, if not simply from the head; see [`BlockCompaction::is_hinted`].
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// What others wrote.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BlockCompaction {
    /// Whether it has the hint.
    #[must_use]
    pub fn has_hint(&self, hint: &str) -> bool {
        self.hints.iter().any(|own| own == hint)
    }

    /// Adds a hint, once; hints are sorted.
    pub fn add_hint(&mut self, hint: &str) {
        if !self.has_hint(hint) {
            self.hints.push(hint.to_owned());
            self.hints.sort();
        }
    }

    /// Whether the block holds less than all samples of its span: there may be more of them in the head and its log, so
    /// the block's end must not move the log's cut-off. Moving it loses data.
    #[must_use]
    pub fn is_hinted(&self) -> bool {
        [HINT_OUT_OF_ORDER, HINT_STALE_SERIES, HINT_SELECTED_SERIES].iter().any(|hint| self.has_hint(hint))
    }
}

/// A block in few words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockDesc {
    /// Its identity; all zeros for "the head", in blocks with hints.
    #[serde(with = "one_ulid")]
    pub ulid: Ulid,
    /// The first millisecond.
    pub min_time: i64,
    /// The millisecond after the last one.
    pub max_time: i64,
}

impl BlockMeta {
    /// A block without content or ancestry that covers `min_time` to before `max_time`.
    #[must_use]
    pub fn new(ulid: Ulid, min_time: i64, max_time: i64) -> Self {
        Self {
            ulid,
            min_time,
            max_time,
            stats: BlockStats::default(),
            compaction: BlockCompaction::default(),
            version: VERSION,
            extra: Map::new(),
        }
    }

    /// Its span with an inclusive end.
    #[must_use]
    pub fn time_range(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time.saturating_sub(1))
    }

    /// It in few words.
    #[must_use]
    pub fn desc(&self) -> BlockDesc {
        BlockDesc { ulid: self.ulid, min_time: self.min_time, max_time: self.max_time }
    }

    /// Where two blocks have a sample of a series at the same millisecond, that of the block with the smaller key wins:
    /// what came in order before what did not, then what was written first. A block that was merged of others is as old
    /// as the oldest of them, so that merging does not change what wins.
    ///
    /// Parts of the head that were chosen by series come first. All of them came in order, and a block without a hint may
    /// have been merged with what came late to such a series when it had left the head.
    #[must_use]
    pub fn precedence(&self) -> (u8, Ulid, Ulid) {
        let compaction = &self.compaction;
        let rank = match () {
            () if compaction.has_hint(HINT_OUT_OF_ORDER) => 2,
            () if compaction.is_hinted() => 0,
            () => 1,
        };
        (rank, compaction.sources.iter().min().copied().unwrap_or(self.ulid), self.ulid)
    }

    /// The width of its windows in milliseconds, as Thanos's section says it; 0 for a block of samples.
    #[must_use]
    pub fn resolution(&self) -> i64 {
        let thanos = self.extra.get("thanos").and_then(|thanos| thanos.get("downsample"));
        thanos.and_then(|downsample| downsample.get("resolution")).and_then(Value::as_i64).unwrap_or(0)
    }

    /// Makes it the meta of a block that Thanos would take for downsampled: `resolution` is the width of its windows in
    /// milliseconds. What Thanos's section says of files is left out, since they are others.
    pub fn set_resolution(&mut self, resolution: i64) {
        let new =
            || serde_json::json!({ "version": 1, "labels": {}, "downsample": {}, "source": "", "index_stats": {} });
        let thanos = self.extra.entry("thanos").or_insert_with(new);
        if !thanos.is_object() {
            *thanos = new();
        }
        if let Value::Object(thanos) = thanos {
            thanos.insert("downsample".to_owned(), serde_json::json!({ "resolution": resolution }));
            thanos.insert("source".to_owned(), Value::from("compactor"));
            thanos.insert("index_stats".to_owned(), serde_json::json!({}));
            for stale in ["segment_files", "files"] {
                thanos.shift_remove(stale);
            }
            thanos.insert("upload_time".to_owned(), Value::from("0001-01-01T00:00:00Z"));
        }
    }

    /// Reads the content of a `meta.json`; `file` is what errors call it.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] if it is none, [`BlockError::Unsupported`] for another version.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, BlockError> {
        let meta: Self = serde_json::from_slice(bytes).map_err(|error| {
            let lines = bytes.split_inclusive(|&byte| byte == b'\n');
            let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
            BlockError::corrupt(file, (before + error.column()) as u64, error)
        })?;
        if meta.version != VERSION {
            let reason = format!("version {} of meta.json; {VERSION} is known", meta.version);
            return Err(BlockError::Unsupported { file: file.to_owned(), reason });
        }
        Ok(meta)
    }

    /// Reads the `meta.json` of the block in `dir`.
    ///
    /// # Errors
    /// As [`parse`](BlockMeta::parse), and [`BlockError::Io`].
    pub fn read(fs: &dyn Fs, dir: &Path) -> Result<Self, BlockError> {
        let file = dir.join(META_FILE);
        let bytes = fs.read(&file).map_err(BlockError::io(&file))?;
        Self::parse(&file, &bytes)
    }

    /// The file's content, byte for byte as Go writes it: indented by tabs, and `<`, `>`, `&` escaped. Thanos ends it
    /// with a line break and Prometheus does not; who wrote it shows in the section `thanos`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(&mut json, format));
        debug_assert!(written.is_ok(), "plain structs and maps with string keys cannot fail");
        let mut json = escape_as_go(&json);
        if self.extra.contains_key("thanos") {
            json.push(b'\n');
        }
        json
    }

    /// Writes it to the block in `dir`, replacing what is there: a crash leaves the old file or the new one.
    ///
    /// # Errors
    /// [`BlockError::Io`].
    pub fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<(), BlockError> {
        write_file(fs, dir, META_FILE, &self.to_json())
    }
}

/// JSON with the characters escaped that Go escapes and others do not.
pub(crate) fn escape_as_go(json: &[u8]) -> Vec<u8> {
    // Outside of strings JSON has none of these characters, so this touches strings alone.
    let text = String::from_utf8_lossy(json);
    let mut escaped = Vec::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
            }
            c => escaped.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    escaped
}

/// Writes a small file, durable and whole or not at all.
pub(crate) fn write_file(fs: &dyn Fs, dir: &Path, name: &str, content: &[u8]) -> Result<(), BlockError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.tmp"));
    let write = || {
        if fs.stat(&temporary)?.is_some() {
            fs.remove_file(&temporary)?;
        }
        let mut file = fs.create(&temporary)?;
        file.append(content)?;
        file.sync()?;
        fs.rename(&temporary, &path)?;
        fs.sync_dir(dir)
    };
    write().map_err(BlockError::io(&path))
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go writes a list that was never made as null.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A ULID as its 26 characters.
pub(crate) mod one_ulid {
    use super::{Deserialize, Deserializer, Serializer, Ulid};

    pub(crate) fn serialize<S: Serializer>(ulid: &Ulid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(ulid)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Ulid, D::Error> {
        let text = String::deserialize(from)?;
        Ulid::from_string(&text).map_err(|error| serde::de::Error::custom(format!("ULID {text:?}: {error}")))
    }
}

mod ulids {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Ulid, one_ulid};

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "one_ulid")] Ulid);

    pub(super) fn serialize<S: Serializer>(ulids: &[Ulid], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ulids.iter().map(|ulid| One(*ulid)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Ulid>, D::Error> {
        let list = Option::<Vec<One>>::deserialize(from)?.unwrap_or_default();
        Ok(list.into_iter().map(|One(ulid)| ulid).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &str = r#"{
	"ulid": "01M7Z00JQ9CQWV8BSSHBPHF8W8",
	"minTime": -5,
	"maxTime": 7200000,
	"stats": {
		"numSamples": 2,
		"numDogs": 3
	},
	"compaction": {
		"level": 2,
		"sources": [
			"01M7Z00JQ9CQWV8BSSHBPHF8W8"
		],
		"deletable": true,
		"failed": true,
		"hints": [
			"from-out-of-order",
			"from-selected-series",
			"from-stale-series",
			"from-tomorrow"
		],
		"mood": [
			1.5,
			null
		]
	},
	"version": 1,
	"mimir": {
		"z": {},
		"a": "\u003ctag\u003e \u0026 ü"
	}
}"#;

    fn parse(text: &str) -> Result<BlockMeta, BlockError> {
        BlockMeta::parse(Path::new("meta.json"), text.as_bytes())
    }

    #[test]
    fn what_is_not_understood_survives_at_every_level() {
        let meta = parse(FOREIGN).unwrap();
        assert_eq!(String::from_utf8(meta.to_json()).unwrap(), FOREIGN);
        assert!(meta.compaction.is_hinted() && meta.compaction.has_hint("from-tomorrow"));
    }

    #[test]
    fn another_version_is_refused() {
        let error = parse(&FOREIGN.replace("\"version\": 1", "\"version\": 2")).unwrap_err();
        assert!(matches!(error, BlockError::Unsupported { .. }), "{error}");
    }

    #[test]
    fn an_error_says_where() {
        let at = FOREIGN.find("numSamples").unwrap() as u64;
        let error = parse(&FOREIGN.replace("numSamples\": 2", "numSamples\": -2")).unwrap_err();
        let BlockError::Corrupt { offset, .. } = error else { panic!("{error}") };
        assert!(offset > at && offset < at + 20, "{offset} is not near {at}");
    }

    #[test]
    fn go_s_null_is_an_empty_list() {
        let meta = parse(
            r#"{"ulid":"01M7Z00JQ9CQWV8BSSHBPHF8W8","minTime":0,"maxTime":1,"version":1,
                "compaction":{"level":1,"sources":null,"parents":null,"hints":null}}"#,
        );
        assert_eq!(meta.unwrap().compaction, BlockCompaction { level: 1, ..BlockCompaction::default() });
    }
}
