//! The file in which a list of blocks survives a restart.
//!
//! ```text
//! magic "NXBL" | version b1 | uvarint len, bucket's name | uvarint count | block*  | CRC-32 (IEEE) of all before, b4
//! block   ULID b16 | uvarint bytes of meta.json | varint ms when it was written | kind b1
//!   kind 0, a block        uvarint len, meta.json | uvarint count | (uvarint len, name | uvarint bytes)* | mark
//!   kind 1, unreadable     uvarint len, reason
//! mark    0, or 1 | uvarint bytes of the mark | varint ms when it was written | varint ms of the mark | uvarint len, details
//! ```
//!
//! It is written anew whenever something changes, beside the old one, and then takes its place. It can be lost at any time:
//! what it says can be asked for again. So it is not synced, and one that does not read is left aside with a warning.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::list::Entry;
use super::listed::{BlockFile, FileVersion, ListedBlock, Marked};
use crate::block::Ulid;
use crate::codec::{FixedSet, ReadError, Reader, put_be_u32, put_bytes, put_uvarint, put_varint};
use crate::fs::Fs;
use crate::model::Labels;

/// The file's name in the directory.
const FILE: &str = "blocks";
const MAGIC: &[u8] = b"NXBL";
const VERSION: u8 = 1;

/// What the directory holds of the bucket `name`; nothing if there is no file, or one that does not read.
pub(super) fn read(fs: &dyn Fs, dir: &Path, name: &str, labels: &mut FixedSet<Labels>) -> BTreeMap<Ulid, Entry> {
    let file = dir.join(FILE);
    if !matches!(fs.stat(&file), Ok(Some(_))) {
        return BTreeMap::new();
    }
    let read = fs.read(&file).map_err(|error| error.to_string());
    match read.and_then(|bytes| decode(&bytes, name, labels)) {
        Ok(entries) => entries,
        Err(reason) => {
            tracing::warn!(file = %file.display(), reason, "what was known of the bucket is thrown away");
            BTreeMap::new()
        }
    }
}

/// Replaces what the directory holds.
pub(super) fn write(fs: &dyn Fs, dir: &Path, name: &str, entries: &BTreeMap<Ulid, Entry>) -> std::io::Result<()> {
    let (file, temporary) = (dir.join(FILE), dir.join(format!("{FILE}.tmp")));
    if fs.stat(&temporary)?.is_some() {
        fs.remove_file(&temporary)?;
    }
    fs.create(&temporary)?.append(&encode(name, entries))?;
    fs.rename(&temporary, &file)
}

/// The content of the file for what `bytes`, a content too, say of the bucket `name`.
#[cfg(any(test, feature = "testkit"))]
pub(crate) fn written_again(bytes: &[u8], name: &str) -> Result<Vec<u8>, String> {
    decode(bytes, name, &mut FixedSet::default()).map(|entries| encode(name, &entries))
}

pub(super) fn encode(name: &str, entries: &BTreeMap<Ulid, Entry>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    put_bytes(&mut out, name.as_bytes());
    put_uvarint(&mut out, entries.len() as u64);
    for (ulid, entry) in entries {
        out.extend_from_slice(&ulid.to_bytes());
        match entry {
            Entry::Block(block) => {
                put_version(&mut out, block.version);
                out.push(0);
                put_bytes(&mut out, &block.meta);
                put_uvarint(&mut out, block.files.len() as u64);
                for file in &block.files {
                    put_bytes(&mut out, file.name.as_bytes());
                    put_uvarint(&mut out, file.size);
                }
                out.push(u8::from(block.marked.is_some()));
                if let Some(mark) = &block.marked {
                    put_version(&mut out, mark.version);
                    put_varint(&mut out, mark.at_ms);
                    put_bytes(&mut out, mark.details.as_bytes());
                }
            }
            Entry::Unreadable { version, reason } => {
                put_version(&mut out, *version);
                out.push(1);
                put_bytes(&mut out, reason.as_bytes());
            }
        }
    }
    let sum = crc32fast::hash(&out);
    put_be_u32(&mut out, sum);
    out
}

fn put_version(out: &mut Vec<u8>, version: FileVersion) {
    put_uvarint(out, version.size);
    put_varint(out, version.modified_ms);
}

pub(super) fn decode(bytes: &[u8], name: &str, labels: &mut FixedSet<Labels>) -> Result<BTreeMap<Ulid, Entry>, String> {
    let Some((content, sum)) = bytes.split_last_chunk() else { return Err("too short".to_owned()) };
    let (sum, actual) = (u32::from_be_bytes(*sum), crc32fast::hash(content));
    if sum != actual {
        return Err(format!("CRC-32 is {actual:08x}, stored {sum:08x}"));
    }
    let mut reader = Reader::new(content);
    let text = |error: ReadError| error.to_string();
    if reader.bytes("magic", MAGIC.len()).map_err(text)? != MAGIC {
        return Err("not a list of blocks".to_owned());
    }
    let version = reader.u8().map_err(text)?;
    if version != VERSION {
        return Err(format!("version {version}; {VERSION} is known"));
    }
    let bucket = reader.uvarint_bytes("bucket's name").map_err(text)?;
    if bucket != name.as_bytes() {
        return Err(format!("it is of the bucket {}", String::from_utf8_lossy(bucket)));
    }
    let mut entries = BTreeMap::new();
    for _ in 0..reader.uvarint().map_err(text)? {
        let ulid = reader.bytes("ULID", 16).map_err(text)?;
        let ulid = Ulid::from_bytes(ulid.try_into().unwrap_or_default());
        let version = read_version(&mut reader).map_err(text)?;
        let entry = match reader.u8().map_err(text)? {
            0 => Entry::Block(Arc::new(read_block(&mut reader, ulid, version, labels)?)),
            1 => Entry::Unreadable { version, reason: read_text(&mut reader)?.into() },
            kind => return Err(format!("kind {kind} of block {ulid} is not known")),
        };
        entries.insert(ulid, entry);
    }
    if reader.is_empty() { Ok(entries) } else { Err(format!("{} bytes too many", reader.rest().len())) }
}

fn read_version(reader: &mut Reader<'_>) -> Result<FileVersion, ReadError> {
    Ok(FileVersion { size: reader.uvarint()?, modified_ms: reader.varint()? })
}

fn read_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, String> {
    let bytes = reader.uvarint_bytes("text").map_err(|error| error.to_string())?;
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

fn read_block(
    reader: &mut Reader<'_>,
    ulid: Ulid,
    version: FileVersion,
    labels: &mut FixedSet<Labels>,
) -> Result<ListedBlock, String> {
    let text = |error: ReadError| error.to_string();
    let meta = reader.uvarint_bytes("meta.json").map_err(text)?;
    let mut files = Vec::new();
    for _ in 0..reader.uvarint().map_err(text)? {
        let name = read_text(reader)?.into();
        files.push(BlockFile { name, size: reader.uvarint().map_err(text)? });
    }
    if !files.is_sorted_by(|a, b| a.name < b.name) {
        return Err(format!("files of block {ulid} are not sorted"));
    }
    let marked = match reader.u8().map_err(text)? {
        0 => None,
        1 => Some(Marked {
            version: read_version(reader).map_err(text)?,
            at_ms: reader.varint().map_err(text)?,
            details: read_text(reader)?.into(),
        }),
        other => return Err(format!("mark {other} of block {ulid} is not known")),
    };
    let mut block = ListedBlock::parse("meta.json", ulid, meta, version, files, labels)
        .map_err(|error| format!("block {ulid}: {error}"))?;
    block.marked = marked;
    Ok(block)
}
