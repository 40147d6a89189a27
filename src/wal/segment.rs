//! Segments: files of pages of fragments of records.
//!
//! ```text
//! segment    %08d, whole pages; the last page may be short while the segment is written to
//! page       32 KiB: fragments, then zeros where not even a header fits, or where the segment was closed
//! fragment   flags 1, length 2 BE, CRC-32C of the data 4 BE, data; never spans a page
//! flags      bits 0-2: 0 rest of the page is empty, 1 whole record, 2 first, 3 middle, 4 last; bit 3 snappy; bit 4 zstd
//! ```
//!
//! A record never spans segments, so a segment can be dropped whole.

use std::path::{Path, PathBuf};

use crate::codec::crc32c;
use crate::fs::Fs;

use super::Compression;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 32 * 1024;
/// Bytes in front of a fragment's data.
pub const HEADER_SIZE: usize = 7;
/// Bytes that a segment has room for, unless an option says otherwise.
pub const DEFAULT_SEGMENT_SIZE: u64 = 128 * 1024 * 1024;

pub(super) const SNAPPY_FLAG: u8 = 1 << 3;
pub(super) const ZSTD_FLAG: u8 = 1 << 4;
/// The file of segment `index` in the log `dir`.
#[must_use]
pub fn segment_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(segment_name(index))
}

fn segment_name(index: u64) -> String {
    format!("{index:08}")
}

/// The numbers of the segments in `dir`, ascending. Other names than [`segment_path`] gives them are others' files:
/// Prometheus too opens segments under these alone. A missing directory has none.
///
/// # Errors
/// The operating system's.
pub fn list_segments(fs: &dyn Fs, dir: &Path) -> std::io::Result<Vec<u64>> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let files = entries.iter().filter(|entry| !entry.is_dir);
    let mut indexes: Vec<u64> = files.filter_map(|entry| segment_index(&entry.name)).collect();
    indexes.sort_unstable();
    Ok(indexes)
}

/// The largest number of a segment or a checkpoint: Prometheus takes no name for one that is larger.
pub(super) const LAST_NUMBER: u64 = i64::MAX.unsigned_abs();

/// The number that these digits are.
pub(super) fn number(digits: &str) -> Option<u64> {
    // `parse` would take a sign.
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    number.filter(|number| *number <= LAST_NUMBER)
}

/// The number that a segment's name is.
fn segment_index(name: &str) -> Option<u64> {
    number(name).filter(|number| *name == segment_name(*number))
}

/// Whether a record of `len` bytes, as stored, still belongs into a segment of `segment_size` bytes of which `filled`
/// are written.
pub(super) fn has_room(filled: u64, len: usize, segment_size: u64) -> bool {
    let data_in_page = (PAGE_SIZE - HEADER_SIZE) as i64;
    let pages = (segment_size / PAGE_SIZE as u64) as i64;
    let done = (filled / PAGE_SIZE as u64) as i64;
    let in_this_page = data_in_page - (filled % PAGE_SIZE as u64) as i64;
    len as i64 <= in_this_page + data_in_page * (pages - done - 1)
}

/// Appends the fragments of `record`, stored as `compression` says, to `out`. `filled` is how long the segment is
/// before what is appended; its place in the page decides where the record is cut.
pub(crate) fn put_record(filled: u64, compression: Compression, record: &[u8], out: &mut Vec<u8>) {
    let mut place = (filled % PAGE_SIZE as u64) as usize;
    let mut rest = record;
    let mut first = true;
    // An empty record has a fragment too.
    while first || !rest.is_empty() {
        let (data, after) = rest.split_at(rest.len().min(PAGE_SIZE - place - HEADER_SIZE));
        let kind: u8 = match (first, after.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        out.push(kind | compression.flag());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&crc32c(data).to_be_bytes());
        out.extend_from_slice(data);
        place += HEADER_SIZE + data.len();
        if PAGE_SIZE - place < HEADER_SIZE {
            out.resize(out.len() + PAGE_SIZE - place, 0);
            place = 0;
        }
        rest = after;
        first = false;
    }
}

/// Appends the zeros that fill the page: what ends a segment.
pub(crate) fn put_page_end(filled: u64, out: &mut Vec<u8>) {
    let place = (filled % PAGE_SIZE as u64) as usize;
    if place > 0 {
        out.resize(out.len() + PAGE_SIZE - place, 0);
    }
}
