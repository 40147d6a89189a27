//! What lies in a bucket, all of it: whole blocks, partial ones, hidden ones, marks.
//!
//! A query sees less: it leaves out what is marked, merged into another block, or not whole. Here a person looks for
//! just that.

use std::collections::BTreeMap;
use std::path::Path;

use narthex::block::{BlockMeta, META_FILE, Ulid};
use narthex::bucket::{Bucket, DELETION_MARK_FILE, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, ThanosMeta};
use serde_json::Value;

/// The marks that Thanos knows, with the key in them that has the time.
const MARKS: [(&str, &str); 3] = [
    (DELETION_MARK_FILE, "deletion_time"),
    (NO_COMPACT_MARK_FILE, "no_compact_time"),
    (NO_DOWNSAMPLE_MARK_FILE, "no_downsample_time"),
];

/// A block, or what there is of one.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) ulid: Ulid,
    /// Sizes of its files by their paths in the block.
    pub(super) files: BTreeMap<String, u64>,
    /// When one of them was last written, milliseconds.
    pub(super) modified_ms: i64,
    /// What it is, or why that cannot be said.
    pub(super) meta: Result<Meta, Partial>,
    /// The names of its marks, with their times in Unix seconds if they can be read.
    pub(super) marks: BTreeMap<&'static str, Option<i64>>,
}

/// What a whole block says of itself.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) block: BlockMeta,
    pub(super) thanos: ThanosMeta,
}

/// Why a block is not whole.
#[derive(Debug)]
pub(super) enum Partial {
    /// There is no `meta.json`: its upload did not end, or its removal did not.
    NoMeta,
    /// There is one that says nothing.
    Unreadable(String),
}

impl std::fmt::Display for Partial {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoMeta => write!(out, "no {META_FILE}"),
            Self::Unreadable(reason) => write!(out, "{reason}"),
        }
    }
}

impl Listed {
    /// Bytes of all its files.
    pub(super) fn size(&self) -> u64 {
        self.files.values().sum()
    }

    /// Whether it waits to be deleted, and since when in Unix seconds.
    pub(super) fn deletion(&self) -> Option<Option<i64>> {
        self.marks.get(DELETION_MARK_FILE).copied()
    }

    /// Its marks without the ends of their names: `deletion`, `no-compact`.
    pub(super) fn mark_names(&self) -> Vec<&'static str> {
        self.marks.keys().map(|name| name.trim_end_matches("-mark.json")).collect()
    }
}

impl Meta {
    /// Its external labels as `a="b", c="d"`.
    pub(super) fn labels(&self) -> String {
        let labels = self.thanos.labels.iter().map(|(name, value)| format!("{name}={value:?}"));
        labels.collect::<Vec<_>>().join(", ")
    }
}

/// All blocks of the bucket, by time; partial ones last.
pub(super) fn list(bucket: &Bucket) -> Result<Vec<Listed>, Box<dyn std::error::Error>> {
    let objects = bucket.block_on(bucket.list(""))?;
    let mut found: BTreeMap<Ulid, Listed> = BTreeMap::new();
    for object in objects {
        // Whatever else lies in the bucket is not ours to judge.
        let Some((name, path)) = object.key.split_once('/') else { continue };
        let Ok(ulid) = Ulid::from_string(name) else { continue };
        let block = found.entry(ulid).or_insert_with(|| Listed {
            ulid,
            files: BTreeMap::new(),
            modified_ms: i64::MIN,
            meta: Err(Partial::NoMeta),
            marks: BTreeMap::new(),
        });
        block.modified_ms = block.modified_ms.max(object.modified_ms);
        block.files.insert(path.to_owned(), object.size);
    }
    let mut blocks: Vec<Listed> = found.into_values().collect();
    read_metas(bucket, &mut blocks)?;
    blocks.sort_by_key(|block| {
        let span = block.meta.as_ref().map(|meta| (meta.block.min_time, meta.block.max_time));
        (span.is_err(), span.unwrap_or_default(), block.ulid)
    });
    Ok(blocks)
}

/// Reads what is small of every block, all blocks side by side.
fn read_metas(bucket: &Bucket, blocks: &mut [Listed]) -> Result<(), Box<dyn std::error::Error>> {
    let fetch = |key: String| {
        let own = bucket.clone();
        let fetched = bucket.runtime().spawn(async move { own.get(&key).await });
        || bucket.block_on(fetched)
    };
    let mut waiting = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        let marks = MARKS.iter().filter(|(mark, _)| block.files.contains_key(*mark));
        let meta = block.files.contains_key(META_FILE).then(|| fetch(format!("{}/{META_FILE}", block.ulid)));
        let marks: Vec<_> = marks.map(|(mark, key)| (*mark, *key, fetch(format!("{}/{mark}", block.ulid)))).collect();
        waiting.push((at, meta, marks));
    }
    for (at, meta, marks) in waiting {
        let Some(block) = blocks.get_mut(at) else { continue };
        // An object that went since the listing is not there.
        if let Some(bytes) = meta.map(|fetched| fetched()).transpose()?.transpose()?.flatten() {
            block.meta = parse(block.ulid, &bytes).map_err(Partial::Unreadable);
        }
        for (mark, key, fetched) in marks {
            if let Some(bytes) = fetched()?? {
                let mark_time = serde_json::from_slice::<Value>(&bytes).ok().and_then(|mark| mark.get(key)?.as_i64());
                block.marks.insert(mark, mark_time);
            }
        }
    }
    Ok(())
}

fn parse(ulid: Ulid, bytes: &[u8]) -> Result<Meta, String> {
    let block = BlockMeta::parse(Path::new(META_FILE), bytes).map_err(|error| error.to_string())?;
    if block.ulid != ulid {
        return Err(format!("{META_FILE} says that this is block {}", block.ulid));
    }
    let thanos = ThanosMeta::of(&block).map_err(|error| error.to_string())?;
    Ok(Meta { block, thanos: thanos.ok_or_else(|| format!("{META_FILE} has no section \"thanos\""))? })
}
