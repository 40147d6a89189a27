//! The header of a block's index: what of it has to be at hand to ask for the rest.
//!
//! It comes out of memory, else out of a file below the cache directory, else out of the bucket in three requests at
//! most: the index's end, whose length is guessed (table of contents, and the postings offset table directly before it);
//! then, side by side, what the guess left out of the table, and the symbols at the front. An index that is shorter than
//! the guess comes whole in the first.
//!
//! The file is what Thanos keeps of a block, byte for byte; `docs/format/index-header.md` describes it. It is mapped, so a
//! header that lies on the disk takes little memory.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join;

use super::Bucket;
use crate::block::BlockError;
use crate::codec::{Reader, crc32c, put_be_u32, put_be_u64};
use crate::error::Result;
use crate::fs::Fs;
use crate::index::{IndexHeader, Version};

/// The file's name in the block's directory below the cache directory, as Thanos has it.
const FILE: &str = "index-header";
const MAGIC: u32 = 0xBAAA_D792;
const VERSION: u8 = 1;
/// Magic, version, the index's version, the offset of the postings offset table in the index.
const HEAD_LEN: usize = 4 + 1 + 1 + 8;
/// Two offsets and their sum.
const TOC_LEN: usize = 8 + 8 + 4;
/// The least that is read of an index's end: it holds the table of a block with a thousand label pairs.
const TAIL_MIN: u64 = 64 << 10;
/// The most; longer tables are read in two requests.
const TAIL_MAX: u64 = 4 << 20;

/// What was fetched to make a header: its sections, and what came with them.
#[derive(Debug)]
pub(super) struct FetchedHeader {
    version: Version,
    /// Where the postings offset table begins in the index.
    pub(super) table: u64,
    /// From the symbol table to the series.
    symbols: Bytes,
    /// From the postings offset table to the end.
    tail: Bytes,
    /// What was read of the index's end, and where it begins.
    pub(super) end: (u64, Bytes),
}

/// Reads from the bucket what makes the header of the index `key`, which has `size` bytes.
pub(super) async fn fetch(bucket: &Bucket, key: &str, size: u64) -> Result<FetchedHeader> {
    let name = format!("{}/{key}", bucket.name());
    let guess = (size / 32).clamp(TAIL_MIN, TAIL_MAX).min(size);
    let start = size - guess;
    let end = whole(bucket, key, start..size).await?;
    let toc = IndexHeader::toc_of(&name, &end, size)?;
    let table = toc.postings_table;
    let missing_table =
        async { if table >= start { Ok(Bytes::new()) } else { whole(bucket, key, table..start).await } };
    let front = async { if start == 0 { Ok(end.clone()) } else { whole(bucket, key, 0..toc.series).await } };
    let (missing_table, front) = try_join(missing_table, front).await?;
    let version = IndexHeader::version_of(&name, &front)?;
    // Copies, so that no more is held than needed.
    let symbols = front.get(toc.symbols as usize..toc.series as usize).unwrap_or_default();
    let mut tail = BytesMut::with_capacity((size - table) as usize);
    tail.extend_from_slice(&missing_table);
    tail.extend_from_slice(end.get(table.saturating_sub(start) as usize..).unwrap_or_default());
    Ok(FetchedHeader {
        version,
        table,
        symbols: Bytes::copy_from_slice(symbols),
        tail: tail.freeze(),
        end: (start, end),
    })
}

async fn whole(bucket: &Bucket, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
    let bytes = bucket.get_range(key, range.clone()).await?;
    if bytes.len() as u64 == range.end - range.start {
        return Ok(bytes);
    }
    let at = range.start + bytes.len() as u64;
    let reason =
        format!("the object ends here; the bucket's list promises {} bytes more", range.end.saturating_sub(at));
    Err(BlockError::corrupt(Path::new(&format!("{}/{key}", bucket.name())), at, reason).into())
}

impl FetchedHeader {
    /// The header; `name` is what errors call the index.
    pub(super) fn open(&self, name: &str) -> Result<IndexHeader> {
        let size = self.table + self.tail.len() as u64;
        Ok(IndexHeader::from_sections(name, self.version.byte(), &self.symbols, &self.tail, size)?)
    }

    /// The content of the file that keeps it.
    pub(super) fn to_file(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN + self.symbols.len() + self.tail.len() + TOC_LEN);
        put_be_u32(&mut out, MAGIC);
        out.extend_from_slice(&[VERSION, self.version.byte()]);
        put_be_u64(&mut out, self.table);
        out.extend_from_slice(&self.symbols);
        out.extend_from_slice(&self.tail);
        let start = out.len();
        put_be_u64(&mut out, HEAD_LEN as u64);
        put_be_u64(&mut out, (HEAD_LEN + self.symbols.len()) as u64);
        let sum = crc32c(out.get(start..).unwrap_or_default());
        put_be_u32(&mut out, sum);
        out
    }
}

/// Opens the content of a file that keeps a header; `file` is its own name, `name` what errors call the index, whose
/// length is `size`.
pub(crate) fn open_file(file: &Path, bytes: &Bytes, name: &str, size: u64) -> Result<IndexHeader> {
    let damaged = |offset: usize, reason: &dyn std::fmt::Display| BlockError::corrupt(file, offset as u64, reason);
    let mut head = Reader::new(bytes);
    let mut read_head = || Ok((head.be_u32()?, head.u8()?, head.u8()?, head.be_u64()?));
    let (magic, version, index_version, table) =
        read_head().map_err(|error: crate::codec::ReadError| damaged(0, &error))?;
    if magic != MAGIC || version != VERSION {
        return Err(damaged(0, &format!("magic number {magic:08x}, version {version}")).into());
    }
    let toc_start = bytes.len().saturating_sub(TOC_LEN);
    let toc = bytes.get(toc_start..).filter(|_| toc_start >= HEAD_LEN).unwrap_or_default();
    let mut reader = Reader::new(toc);
    let mut read_toc = || Ok((reader.be_u64()?, reader.be_u64()?, reader.be_u32()?));
    let (symbols, tail, sum) = read_toc().map_err(|error: crate::codec::ReadError| damaged(toc_start, &error))?;
    let actual = crc32c(toc.get(..16).unwrap_or_default());
    if sum != actual {
        return Err(damaged(toc_start, &format!("CRC-32C is {actual:08x}, stored {sum:08x}")).into());
    }
    let (Ok(symbols), Ok(tail)) = (usize::try_from(symbols), usize::try_from(tail)) else {
        return Err(damaged(toc_start, &"an offset beyond all memory").into());
    };
    if symbols < HEAD_LEN || symbols > tail || tail > toc_start {
        return Err(damaged(toc_start, &format!("sections at {symbols} and {tail} do not follow each other")).into());
    }
    if table.checked_add((toc_start - tail) as u64) != Some(size) {
        return Err(damaged(6, &format!("it is of an index of another length than {size} bytes")).into());
    }
    let (symbols, tail) = (bytes.slice(symbols..tail), bytes.slice(tail..toc_start));
    let header = IndexHeader::from_sections(name, index_version, &symbols, &tail, size)?;
    if header.toc().postings_table != table {
        return Err(damaged(6, &"the offset of the table is not the one in the table of contents").into());
    }
    Ok(header)
}

/// Where the header of the block `ulid` is kept.
pub(super) fn path(cache_dir: &Path, ulid: crate::block::Ulid) -> PathBuf {
    cache_dir.join(ulid.to_string()).join(FILE)
}

/// Writes the file: whole, or not at all. Not synced: it can be fetched again, and its sums tell if it is not whole.
pub(super) fn keep(fs: &dyn Fs, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = crate::fs::with_suffix(path, ".tmp");
    if let Some(dir) = path.parent() {
        fs.create_dir_all(dir)?;
    }
    if fs.stat(&temporary)?.is_some() {
        fs.remove_file(&temporary)?;
    }
    fs.create(&temporary)?.append(content)?;
    fs.rename(&temporary, path)
}
