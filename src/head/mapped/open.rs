//! What is there at opening: every file is looked through once, and what is not sound is cut away.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::file::ChunkFile;
use super::format::{Broken, HEADER_LEN, chunk_len, scan};
use super::{ChunkPlace, FILE_SIZE, Loaded, MappedChunks, MappedError, Writer, file_number, number_after};
use crate::error::Result;
use crate::fs::{Env, Fs, with_suffix};
use crate::wal::{Damage, DamageKind, Position};

/// Ends the name of a file that is being written again.
const REPAIR_SUFFIX: &str = ".repair";

/// A directory of head chunks as it was found.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The files.
    pub(crate) chunks: MappedChunks,
    /// The chunks in them, in the order in which they were written.
    pub(crate) loaded: Vec<Loaded>,
    /// What is not there any more, or not what was written.
    pub(crate) damage: Vec<Damage>,
}

/// A name in the directory.
struct Entry {
    number: u32,
    name: String,
}

impl MappedChunks {
    /// Opens the files in `dir` for who owns them: what is damaged is cut away, and what lies behind it deleted. Before
    /// that `before_mending` is called: behind it nobody sees any more that something is missing.
    ///
    /// # Errors
    /// `Io`, `Full`, or what `before_mending` returns. Damage is no error.
    pub(crate) fn open(env: &Env, dir: &Path, before_mending: impl FnOnce() -> Result<()>) -> Result<Opened> {
        Self::open_sized(env, dir, FILE_SIZE, before_mending)
    }

    /// As [`open`](Self::open), with files of another size.
    pub(super) fn open_sized(
        env: &Env,
        dir: &Path,
        limit: u64,
        before_mending: impl FnOnce() -> Result<()>,
    ) -> Result<Opened> {
        let fs = env.fs.as_ref();
        let entries = list(fs, dir)?;
        let mut opened = Opened::new(env, dir, limit);
        let mut sound = 0;
        let mut torn = None;
        for entry in &entries {
            if !opened.follows(dir, entry) {
                break;
            }
            let path = dir.join(&entry.name);
            let bytes = fs.map(&path).map_err(MappedError::io(&path))?;
            let (whole, newest, broken) = opened.scan(entry, bytes);
            if let Some(broken) = broken {
                opened.note(&path, entry.number, broken.sound, broken.reason);
                torn = Some((entry, path, whole, newest)).filter(|(_, _, whole, _)| whole.len() as u64 > HEADER_LEN);
                break;
            }
            opened.keep(entry, &path, whole, newest);
            sound += 1;
        }
        if sound < entries.len() {
            before_mending()?;
        }
        if let Some((entry, path, whole, newest)) = torn {
            // Who reads the directory beside us may have the file mapped: it is not cut, but replaced.
            replace(fs, dir, &path, &whole)?;
            drop(whole);
            let bytes = fs.map(&path).map_err(MappedError::io(&path))?;
            opened.keep(entry, &path, bytes, newest);
            sound += 1;
        }
        // From behind, so that there is no gap at any moment.
        for entry in entries.iter().skip(sound).rev() {
            let path = dir.join(&entry.name);
            fs.remove_file(&path).map_err(MappedError::io(&path))?;
        }
        if sound < entries.len() {
            fs.sync_dir(dir).map_err(MappedError::io(dir))?;
        } else if let Some(last) = entries.last() {
            // The process that wrote it may have been killed before its own sync, and damage is to be at the end of the
            // last file alone.
            let path = dir.join(&last.name);
            let synced = fs.open_append(&path).and_then(|mut file| file.sync());
            synced.and_then(|()| fs.sync_dir(dir)).map_err(MappedError::io(&path))?;
        }
        let last = opened.chunks.files.read().last_key_value().map(|(number, _)| *number);
        let next = last.map_or(Ok(1), |last| number_after(dir, last))?;
        opened.chunks.writer = Some(Mutex::new(Writer { next, current: None }));
        Ok(opened)
    }

    /// Opens the files in `dir` for reading, whoever owns them. Nothing is written.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open_read_only(env: &Env, dir: &Path) -> Result<Opened> {
        let fs = env.fs.as_ref();
        let entries = list(fs, dir)?;
        let mut opened = Opened::new(env, dir, FILE_SIZE);
        for (position, entry) in entries.iter().enumerate() {
            if !opened.follows(dir, entry) {
                break;
            }
            let path = dir.join(&entry.name);
            let is_last = position + 1 == entries.len();
            // The last one may grow.
            let read = if is_last { fs.read(&path).map(Bytes::from) } else { fs.map(&path) };
            let bytes = match read {
                // Its owner has deleted it: blocks have what it held.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(MappedError::io(&path))?,
            };
            let (whole, newest, broken) = opened.scan(entry, bytes);
            if is_last {
                match fs.open_read(&path) {
                    Ok(read) => {
                        let file = ChunkFile::growing(path, read, whole.len() as u64);
                        file.reaches(newest);
                        opened.chunks.files.write().insert(entry.number, Arc::new(file));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        opened.loaded.retain(|loaded| loaded.place.file() != entry.number);
                    }
                    Err(error) => return Err(MappedError::io(&path)(error).into()),
                }
            } else {
                opened.keep(entry, &path, whole, newest);
                if let Some(broken) = broken {
                    opened.note(&path, entry.number, broken.sound, broken.reason);
                    break;
                }
            }
        }
        Ok(opened)
    }
}

impl Opened {
    fn new(env: &Env, dir: &Path, limit: u64) -> Self {
        let chunks = MappedChunks {
            fs: Arc::clone(&env.fs),
            dir: dir.to_owned(),
            limit,
            writer: None,
            files: RwLock::new(BTreeMap::new()),
        };
        Self { chunks, loaded: Vec::new(), damage: Vec::new() }
    }

    /// Whether the file comes right after the last one.
    fn follows(&mut self, dir: &Path, entry: &Entry) -> bool {
        let last = self.chunks.files.read().last_key_value().map(|(number, _)| *number);
        let missing = last.filter(|last| last + 1 != entry.number);
        if let Some(last) = missing {
            self.note(dir, entry.number, 0, format!("after file {last} comes {}", entry.number));
        }
        missing.is_none()
    }

    /// Takes the chunks of a file, as far as it is sound: the bytes up to there, the newest sample of those in order, and
    /// what is wrong behind them.
    fn scan(&mut self, entry: &Entry, bytes: Bytes) -> (Bytes, i64, Option<Broken>) {
        let loaded = &mut self.loaded;
        let mut newest = i64::MIN;
        let scanned = scan(&bytes, |found, _| {
            if !found.out_of_order {
                newest = newest.max(found.range.max);
            }
            loaded.push(Loaded {
                series: found.series,
                range: found.range,
                place: ChunkPlace::new(entry.number, found.offset),
                encoding: found.encoding,
                samples: found.samples,
                out_of_order: found.out_of_order,
            });
        });
        let (sound, broken) = scanned.map_or_else(|broken| (broken.sound, Some(broken)), |end| (end, None));
        (bytes.slice(..(sound as usize).min(bytes.len())), newest, broken)
    }

    fn keep(&self, entry: &Entry, path: &Path, bytes: Bytes, newest: i64) {
        let file = ChunkFile::finished(path.to_owned(), bytes);
        file.reaches(newest);
        self.chunks.files.write().insert(entry.number, Arc::new(file));
    }

    fn note(&mut self, path: &Path, file: u32, offset: u64, reason: String) {
        let at = Position { in_log: false, segment: u64::from(file), offset };
        self.damage.push(Damage { path: path.to_owned(), at, kind: DamageKind::HeadChunks, reason });
    }
}

/// Reads the files of full chunks in the directory `dir` (`chunks_head/` of a data directory) through, and writes nothing:
/// how many chunks are sound, and what is wrong. Who opens the directory for reading passes over what is wrong at the end of
/// the last file, since the owner may be about to write the rest; here it is told: [`DamageKind::TornEnd`] if the last chunk
/// goes on where the file ends, as a process that was killed leaves it.
///
/// # Errors
/// `Io`.
pub fn check_head_chunks(fs: &dyn Fs, dir: &Path) -> Result<(u64, Vec<Damage>)> {
    let entries = list(fs, dir)?;
    let (mut chunks, mut damage) = (0, Vec::new());
    let mut before: Option<u32> = None;
    for entry in &entries {
        let at = |offset| Position { in_log: false, segment: u64::from(entry.number), offset };
        if let Some(last) = before.replace(entry.number).filter(|last| last.checked_add(1) != Some(entry.number)) {
            let reason = format!("after file {last} comes {}", entry.number);
            damage.push(Damage { path: dir.to_owned(), at: at(0), kind: DamageKind::HeadChunks, reason });
        }
        let path = dir.join(&entry.name);
        let bytes = match fs.read(&path) {
            // Its owner has deleted it: blocks have what it held.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(MappedError::io(&path))?,
        };
        if let Err(Broken { sound, reason }) = scan(&bytes, |_, _| chunks += 1) {
            let rest = bytes.get(usize::try_from(sound).unwrap_or(usize::MAX)..).unwrap_or_default();
            let is_cut = sound >= HEADER_LEN && chunk_len(rest).is_none_or(|len| len > rest.len() as u64);
            let is_last = entries.last().is_some_and(|last| last.number == entry.number);
            let kind = if is_cut && is_last { DamageKind::TornEnd { whole: sound } } else { DamageKind::HeadChunks };
            damage.push(Damage { path, at: at(sound), kind, reason });
        }
    }
    Ok((chunks, damage))
}

/// The files in the directory by number; none if it is not there.
fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<Entry>, MappedError> {
    let entries = match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(MappedError::io(dir))?,
    };
    let files = entries.into_iter().filter(|entry| !entry.is_dir);
    let mut files: Vec<Entry> =
        files.filter_map(|entry| Some(Entry { number: file_number(&entry.name)?, name: entry.name })).collect();
    files.sort_by_key(|entry| entry.number);
    files.dedup_by_key(|entry| entry.number);
    Ok(files)
}

/// Puts a file with these bytes in the place of the one at `path`.
fn replace(fs: &dyn Fs, dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), MappedError> {
    let fresh = with_suffix(path, REPAIR_SUFFIX);
    // Of a repair that was interrupted.
    match fs.remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(MappedError::io(&fresh)(error)),
        _ => {}
    }
    let mut file = fs.create(&fresh).map_err(MappedError::io(&fresh))?;
    file.append(bytes).and_then(|()| file.sync()).map_err(MappedError::io(&fresh))?;
    fs.rename(&fresh, path).map_err(MappedError::io(&fresh))?;
    fs.sync_dir(dir).map_err(MappedError::io(dir))
}
