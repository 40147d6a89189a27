//! Mending a log, so that the next reader, ours or Prometheus, finds nothing wrong.
//!
//! Prometheus cuts a log at its first damage and deletes every later segment. So a torn end is cut off here, and a
//! segment with a hole is written again with the records that can be read; it takes the old one's place by a rename. The
//! old bytes stay beside it as `<segment>.damaged`, for whoever wants to look, until the segment is truncated away.
//!
//! After a failed sync the system shows bytes that may never reach the disk: it takes them for written, so that no later
//! sync of the file writes them. The log notes the segment in an empty file `<segment>.unsynced`. That file is not
//! synced either: it has to outlive the process alone, since after a power cut there is no cache to be wrong. The next
//! owner writes such a segment again, into another file.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::fs::{Env, Fs, with_suffix};

use super::checkpoint::TEMPORARY_SUFFIX;
use super::reader::read_segment;
use super::segment::{put_page_end, put_record, segment_path};
use super::{Compression, Damage, DamageKind, Decompressor, LogError};

/// Ends the name of a segment that is being written again.
const REPAIR_SUFFIX: &str = ".repair";
/// Ends the name of what a rewritten segment was before.
pub(super) const DAMAGED_SUFFIX: &str = ".damaged";
/// Ends the name of the note that a segment's sync failed.
const UNSYNCED_SUFFIX: &str = ".unsynced";

/// Mends what [`LogReader::finish`](super::LogReader::finish) reported of the log in `dir`, and removes what an
/// interrupted repair or checkpoint left there. Damage of what lies elsewhere is passed over: a log is mended only once its
/// own leftovers are gone, which stand where the repair would write. For the log's owner, before
/// [`Log::open`](super::Log::open).
///
/// # Errors
/// [`LogError::Io`]; what was mended until then stays mended.
pub fn repair(env: &Env, dir: &Path, damage: &[Damage]) -> Result<(), LogError> {
    let fs = env.fs.as_ref();
    remove_leftovers(fs, dir)?;
    rewrite_unsynced(fs, dir)?;
    let mut rewritten: Vec<&PathBuf> = Vec::new();
    for Damage { path, kind, .. } in damage.iter().filter(|damage| damage.path.starts_with(dir)) {
        match kind {
            // Written again already, without its end.
            _ if rewritten.contains(&path) => {}
            DamageKind::TornEnd { whole } => {
                // A segment with a hole further up is still to come: holes are reported before the end.
                let mut file = fs.open_append(path).map_err(LogError::io("open", path))?;
                file.set_len(*whole).map_err(LogError::io("cut", path))?;
                file.sync().map_err(LogError::io("sync", path))?;
            }
            DamageKind::Hole => {
                rewrite(fs, path)?;
                rewritten.push(path);
            }
            // The bytes are as they were written; there is nothing to mend.
            DamageKind::Record | DamageKind::Missing | DamageKind::HeadChunks => {}
        }
    }
    Ok(())
}

/// Notes that a sync of the segment failed; see the file's header.
pub(super) fn mark_unsynced(fs: &dyn Fs, dir: &Path, segment: u64) {
    let path = with_suffix(&segment_path(dir, segment), UNSYNCED_SUFFIX);
    match fs.create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::error!(path = %path.display(), %error, "noting that a sync failed");
        }
        _ => {}
    }
}

/// Writes the segments again whose sync failed.
fn rewrite_unsynced(fs: &dyn Fs, dir: &Path) -> Result<(), LogError> {
    if fs.stat(dir).map_err(LogError::io("look at", dir))?.is_none() {
        return Ok(());
    }
    for entry in fs.list(dir).map_err(LogError::io("list", dir))? {
        let Some(segment) = entry.name.strip_suffix(UNSYNCED_SUFFIX) else { continue };
        let (note, path) = (dir.join(&entry.name), dir.join(segment));
        if fs.stat(&path).map_err(LogError::io("look at", &path))?.is_some() {
            let fresh = with_suffix(&path, REPAIR_SUFFIX);
            copy(fs, &path, &fresh)?;
            fs.rename(&fresh, &path).map_err(LogError::io("rename", &fresh))?;
            fs.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        }
        fs.remove_file(&note).map_err(LogError::io("remove", &note))?;
    }
    Ok(())
}

fn rewrite(fs: &dyn Fs, path: &Path) -> Result<(), LogError> {
    let (fresh, damaged) = (with_suffix(path, REPAIR_SUFFIX), with_suffix(path, DAMAGED_SUFFIX));
    if fs.stat(&damaged).map_err(LogError::io("look at", &damaged))?.is_none() {
        copy(fs, path, &fresh)?;
        fs.rename(&fresh, &damaged).map_err(LogError::io("rename", &fresh))?;
    }
    write_again(fs, path, |_, _| Replace::Keep)
}

/// What becomes of a record.
pub(crate) enum Replace {
    /// It stays.
    Keep,
    /// These bytes stand in its place; none if there are none.
    By(Vec<u8>),
}

/// Writes `segment` of the log in `dir` again, with what `replace` makes of its records. For the log's owner, after
/// [`repair`] and before [`Log::open`](super::Log::open).
///
/// # Errors
/// [`LogError::Io`]: the segment is as it was, or as it is to be.
pub(crate) fn replace_records(
    env: &Env,
    dir: &Path,
    segment: u64,
    mut replace: impl FnMut(&[u8]) -> Replace,
) -> Result<(), LogError> {
    let (mut decompressor, mut bytes) = (Decompressor::default(), Vec::new());
    write_again(env.fs.as_ref(), &segment_path(dir, segment), |compression, data| {
        if compression == Compression::None {
            return replace(data);
        }
        // A record that cannot be read says nothing, and is reported as it stands.
        let read = decompressor.decompress(compression, data, &mut bytes);
        read.map_or(Replace::Keep, |()| replace(&bytes))
    })
}

/// Puts a segment with what `replace` makes of the records that can be read in the place of the one at `path`.
fn write_again(
    fs: &dyn Fs,
    path: &Path,
    mut replace: impl FnMut(Compression, &Bytes) -> Replace,
) -> Result<(), LogError> {
    let fresh = with_suffix(path, REPAIR_SUFFIX);
    let mut file = fs.create(&fresh).map_err(LogError::io("create", &fresh))?;
    let mut filled = 0;
    let mut frame = Vec::new();
    read_segment(fs, path, |compression, data| {
        frame.clear();
        match replace(compression, data) {
            Replace::Keep => put_record(filled, compression, data, &mut frame),
            Replace::By(record) if record.is_empty() => return Ok(()),
            Replace::By(record) => put_record(filled, Compression::None, &record, &mut frame),
        }
        filled += frame.len() as u64;
        file.append(&frame).map_err(LogError::io("append to", &fresh))
    })?;
    frame.clear();
    put_page_end(filled, &mut frame);
    file.append(&frame).map_err(LogError::io("append to", &fresh))?;
    file.sync().map_err(LogError::io("sync", &fresh))?;
    fs.rename(&fresh, path).map_err(LogError::io("rename", &fresh))?;
    let dir = path.parent().unwrap_or(path);
    fs.sync_dir(dir).map_err(LogError::io("sync", dir))
}

fn copy(fs: &dyn Fs, from: &Path, to: &Path) -> Result<(), LogError> {
    const PIECE: usize = 1 << 20;
    let source = fs.open_read(from).map_err(LogError::io("open", from))?;
    let mut target = fs.create(to).map_err(LogError::io("create", to))?;
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let read = source.read_at(offset, &mut buffer).map_err(LogError::io("read", from))?;
        if read == 0 {
            return target.sync().map_err(LogError::io("sync", to));
        }
        target.append(buffer.get(..read).unwrap_or_default()).map_err(LogError::io("append to", to))?;
        offset += read as u64;
    }
}

/// Removes segments that were being written again and checkpoints that were not finished.
fn remove_leftovers(fs: &dyn Fs, dir: &Path) -> Result<(), LogError> {
    if fs.stat(dir).map_err(LogError::io("look at", dir))?.is_none() {
        return Ok(());
    }
    for entry in fs.list(dir).map_err(LogError::io("list", dir))? {
        let path = dir.join(&entry.name);
        if entry.is_dir && entry.name.starts_with("checkpoint.") {
            if entry.name.ends_with(TEMPORARY_SUFFIX) {
                fs.remove_dir_all(&path).map_err(LogError::io("remove", &path))?;
            } else {
                remove_leftovers(fs, &path)?;
            }
        } else if !entry.is_dir && entry.name.ends_with(REPAIR_SUFFIX) {
            fs.remove_file(&path).map_err(LogError::io("remove", &path))?;
        }
    }
    Ok(())
}
