//! The blocks of a directory: found, opened, replaced, dropped.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::Retention;
use super::retention::{Kept, expired};
use super::unwanted::Unwanted;
use crate::block::{Block, BlockError, BlockMeta, BlockRead, CREATING, DELETING, HINT_OUT_OF_ORDER, Tombstones, Ulid};
use crate::codec::FixedSet;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, Env, Fs};
use crate::head::Head;
use crate::index::ChunkMeta;
use crate::model::{Labels, Matcher, TimeRange};

/// What old versions of Prometheus wrote for [`CREATING`].
const OLD_TEMPORARY: &str = ".tmp";

/// A block that cannot be read: it lies where it lay, or is gone; the others are served without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Asked before a block is dropped, whether it expired or something replaces it: a shipper says no until it has it.
pub trait BlockGuard: Send + Sync {
    /// Whether the block in `dir` may go.
    fn may_drop(&self, meta: &BlockMeta, dir: &Path) -> bool;
}

impl fmt::Debug for dyn BlockGuard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("BlockGuard")
    }
}

/// Whether a block that was answered with `error` may be as it was written, and be read the next time.
fn is_passing(error: &Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    match error.downcast_ref::<BlockError>() {
        // Another attempt would miss the same file.
        Some(BlockError::Io { source, .. }) => !matches!(source.kind(), NotFound | NotADirectory | IsADirectory),
        Some(_) => false,
        None => matches!(error.kind(), ErrorKind::Io | ErrorKind::Full),
    }
}

/// Makes an error say what was tried with which path.
fn failed<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::from(error).context(format_args!("{what} {}", path.display()))
}

/// What a look through the directory found.
#[derive(Debug, Default)]
struct Found {
    blocks: Vec<Arc<Block>>,
    quarantined: Vec<Quarantined>,
    /// Why some of those could not be read this time, though nothing may be wrong with them.
    passing: Vec<(Ulid, Error)>,
    /// Blocks that are served and not there.
    vanished: Vec<Quarantined>,
    /// Blocks of which nothing is left, and those that others replace; whether these can be read does not matter.
    obsolete: Vec<Ulid>,
    /// Blocks that replace others which are there.
    replacing: FixedSet<Ulid>,
}

/// The blocks that are served.
pub(super) struct Blocks {
    env: Env,
    dir: PathBuf,
    current: RwLock<Served>,
    unwanted: Unwanted,
    guard: Option<Arc<dyn BlockGuard>>,
}

#[derive(Clone, Default)]
struct Served {
    blocks: Arc<Vec<Arc<Block>>>,
    quarantined: Vec<Quarantined>,
    /// Blocks that were served and are not there any more, though nobody here removed them.
    vanished: Vec<Quarantined>,
}

/// Adds to `tombstones` what `block` has in `range` of the series that pass `matchers`; how many had any.
pub(super) fn mark_deleted(
    block: &Block,
    tombstones: &mut Tombstones,
    range: TimeRange,
    matchers: &[Matcher],
) -> Result<u64> {
    let Some(range) = block.meta().time_range().intersect(&range) else { return Ok(0) };
    let (mut labels, mut chunks, mut deleted) = (Labels::empty(), Vec::new(), 0);
    for id in block.select(matchers)? {
        block.series(id, &mut labels, &mut chunks)?;
        let touched = |chunk: &&ChunkMeta| TimeRange::new(chunk.min_time, chunk.max_time).overlaps(&range);
        let first = chunks.iter().find(touched).map(|chunk| chunk.min_time);
        let last = chunks.iter().rfind(touched).map(|chunk| chunk.max_time);
        if let (Some(first), Some(last)) = (first, last)
            && let Some(span) = range.intersect(&TimeRange::new(first, last))
        {
            tombstones.add(id, span);
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Marks in the files of `block` what it has in `range` of the series that pass `matchers`; how many had any. It is to be
/// opened again then.
pub(super) fn delete_from(fs: &dyn Fs, block: &Block, range: TimeRange, matchers: &[Matcher]) -> Result<u64> {
    let mut found = Tombstones::default();
    let series = mark_deleted(block, &mut found, range, matchers)?;
    if series > 0 {
        // Not before: most deletions are about few of the blocks, and a block may have a million.
        let mut tombstones = block.all_tombstones().clone();
        tombstones.add_all(&found);
        tombstones.write(fs, block.dir())?;
        let mut meta = block.meta().clone();
        meta.stats.num_tombstones = tombstones.len() as u64;
        meta.write(fs, block.dir())?;
    }
    Ok(series)
}

/// The blocks that it replaces. One that says it was made from itself replaces nothing: without this it would be dropped.
fn replaced(meta: &BlockMeta) -> impl Iterator<Item = Ulid> {
    meta.compaction.parents.iter().map(|parent| parent.ulid).filter(|parent| *parent != meta.ulid)
}

/// Takes out what others of them replace, and sorts the rest by the time where they begin; what they replace.
fn leave_the_newest(blocks: &mut Vec<Arc<Block>>) -> FixedSet<Ulid> {
    let parents: FixedSet<Ulid> = blocks.iter().flat_map(|block| replaced(block.meta())).collect();
    blocks.retain(|block| !parents.contains(&block.meta().ulid));
    blocks.sort_by_key(|block| (block.meta().min_time, block.meta().ulid));
    parents
}

/// See [`Blocks::complete_until`].
fn complete_until(blocks: &[Arc<Block>]) -> Option<i64> {
    let complete = blocks.iter().map(|block| block.meta()).filter(|meta| !meta.compaction.is_hinted());
    complete.map(|meta| meta.max_time).max()
}

/// Whether it is the block, or one of those, by which blocks are complete up to `newest`.
pub(super) fn ends_at(block: &Block, newest: Option<i64>) -> bool {
    let meta = block.meta();
    !meta.compaction.is_hinted() && Some(meta.max_time) == newest
}

/// Takes out of `drop` the blocks that overlap what stays and gives way to them: where both have a sample, the later write
/// would answer from then on. Blocks go together, or as the one that they are merged to; `late`, the span of what came out
/// of order and is in no block, has to be in one. Whether that is what one waits for.
fn keep_first_writes(blocks: &[Arc<Block>], late: Option<TimeRange>, drop: &mut FixedSet<Ulid>) -> bool {
    let is_late = |meta: &&BlockMeta| late.is_some_and(|late| late.overlaps(&meta.time_range()));
    let metas = blocks.iter().map(|block| block.meta());
    let waiting: Vec<Ulid> =
        metas.filter(|meta| drop.contains(&meta.ulid)).filter(is_late).map(|meta| meta.ulid).collect();
    drop.retain(|it| !waiting.contains(it));
    loop {
        let (going, staying): (Vec<_>, Vec<_>) =
            blocks.iter().map(|block| block.meta()).partition(|meta| drop.contains(&meta.ulid));
        let wins = |going: &&&BlockMeta| {
            let gives_way = |staying: &&BlockMeta| {
                going.time_range().overlaps(&staying.time_range()) && going.precedence() < staying.precedence()
            };
            staying.iter().any(gives_way)
        };
        let kept: Vec<Ulid> = going.iter().filter(wins).map(|meta| meta.ulid).collect();
        if kept.is_empty() {
            return !waiting.is_empty();
        }
        kept.iter().for_each(|ulid| drop.retain(|it| it != ulid));
    }
}

impl Blocks {
    /// Opens the blocks in `dir` for their owner; writes nothing. `guard` is asked before one is dropped.
    ///
    /// # Errors
    /// `Io`, `Full`, also for a block that could not be read this time. Set aside, it would not say up to where the log is not
    /// needed: what the log still has of its span would be taken for new, with what was deleted in the block since.
    pub(super) fn open(env: &Env, dir: &Path, guard: Option<Arc<dyn BlockGuard>>) -> Result<Self> {
        let (blocks, passing) = Self::open_what_can_be_read(env, dir, guard)?;
        match passing.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(blocks),
        }
    }

    /// Opens the blocks in `dir` for somebody who only reads: what cannot be read is set aside.
    pub(super) fn open_read_only(env: &Env, dir: &Path) -> Result<Self> {
        Self::open_what_can_be_read(env, dir, None).map(|(blocks, _)| blocks)
    }

    fn open_what_can_be_read(
        env: &Env,
        dir: &Path,
        guard: Option<Arc<dyn BlockGuard>>,
    ) -> Result<(Self, Vec<(Ulid, Error)>)> {
        let unwanted = Unwanted::new(env, dir);
        let blocks = Self { env: env.clone(), dir: dir.to_owned(), current: RwLock::default(), unwanted, guard };
        let found = blocks.look()?;
        blocks.serve(found.blocks, found.quarantined, found.vanished);
        Ok((blocks, found.passing))
    }

    /// The blocks that are served now, by the time where they begin.
    pub(super) fn all(&self) -> Arc<Vec<Arc<Block>>> {
        Arc::clone(&self.current.read().blocks)
    }

    /// The blocks that cannot be.
    pub(super) fn quarantined(&self) -> Vec<Quarantined> {
        let current = self.current.read();
        current.quarantined.iter().chain(&current.vanished).cloned().collect()
    }

    /// Up to where blocks have all samples there are: the log is not needed before that. Blocks that say that they hold
    /// only some of the samples of their span do not count.
    pub(super) fn complete_until(&self) -> Option<i64> {
        complete_until(&self.all())
    }

    /// Names that are taken, though nothing of theirs is served.
    pub(super) fn unwanted(&self) -> Vec<Ulid> {
        self.unwanted.names()
    }

    /// Serves the blocks that `write` makes in the directory, instead of those that they replace: all of them or none. It
    /// notes a name before anything can be there under it. Returns the names.
    ///
    /// # Errors
    /// What `write` answers, and `Io` for a block that cannot be opened.
    pub(super) fn add(&self, write: impl FnOnce(&mut Vec<Ulid>) -> Result<()>) -> Result<Vec<Ulid>> {
        let mut names = Vec::new();
        match write(&mut names).and_then(|()| self.serve_new(&names)) {
            Ok(()) => Ok(names),
            Err(error) => {
                self.unwanted.discard(&names);
                Err(error)
            }
        }
    }

    fn serve_new(&self, names: &[Ulid]) -> Result<()> {
        let open = |name: &Ulid| Block::open(self.env.fs.as_ref(), &self.path(*name)).map(Arc::new);
        let new = names.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut current = self.current.write();
        let mut blocks: Vec<_> = current.blocks.iter().map(Arc::clone).chain(new).collect();
        leave_the_newest(&mut blocks);
        let old = std::mem::replace(&mut current.blocks, Arc::new(blocks));
        drop(current);
        drop(old);
        Ok(())
    }

    /// Makes sure that nothing is there but what is served: before something is deleted.
    ///
    /// # Errors
    /// `Io`: a block that is not wanted cannot be removed, and what is deleted would come back with it.
    pub(super) fn settle(&self) -> Result<()> {
        self.unwanted.finish()
    }

    /// The blocks that may be merged: those that may go, up to the first one written that may not. Merging what is younger
    /// would leave single blocks behind.
    pub(super) fn mergeable(&self) -> Vec<Arc<Block>> {
        let mut blocks: Vec<_> = self.all().to_vec();
        // Downsampled ones, put here by somebody: their chunks are not samples, and what they repeat is not theirs to win.
        blocks.retain(|block| block.meta().resolution() == 0);
        // A block with less than all samples of its span that ends after those that have all, as a backfill can, would carry
        // the log's cut-off along if it became one with them: what only the log has would not be read again.
        if let Some(complete) = self.complete_until() {
            blocks.retain(|block| !block.meta().compaction.is_hinted() || block.meta().max_time <= complete);
        }
        if let Some(guard) = &self.guard {
            blocks.sort_by_key(|block| block.meta().ulid);
            let may_go = |block: &&Arc<Block>| guard.may_drop(block.meta(), block.dir());
            blocks = blocks.iter().take_while(may_go).map(Arc::clone).collect();
        }
        blocks
    }

    /// Whether all of `blocks` are served, with whatever was deleted in them since.
    pub(super) fn serves(&self, blocks: &[Arc<Block>]) -> bool {
        let served = self.all();
        blocks.iter().all(|block| served.iter().any(|other| other.meta().ulid == block.meta().ulid))
    }

    /// Changes what the block says of itself, on the disk and here.
    pub(super) fn change_meta(&self, ulid: Ulid, change: impl FnOnce(&mut BlockMeta)) -> Result<()> {
        let fs = self.env.fs.as_ref();
        let served = self.all();
        let Some(index) = served.iter().position(|block| block.meta().ulid == ulid) else { return Ok(()) };
        let Some(block) = served.get(index) else { return Ok(()) };
        let mut meta = block.meta().clone();
        change(&mut meta);
        meta.write(fs, block.dir())?;
        self.serve_again(index, block.dir())
    }

    /// Opens the block again whose files other than index and chunks have changed.
    fn serve_again(&self, index: usize, dir: &Path) -> Result<()> {
        let block = Arc::new(Block::open(self.env.fs.as_ref(), dir)?);
        let mut current = self.current.write();
        let served = Arc::make_mut(&mut current.blocks).get_mut(index);
        let old = served.map(|served| std::mem::replace(served, block));
        // Its files are unmapped when queries can go on.
        drop(current);
        drop(old);
        Ok(())
    }

    /// Looks through the directory again: serves what is new, drops what is replaced, empty or expired. Returns what was
    /// dropped, and whether something waits until what came late to `head` is in a block.
    pub(super) fn reload(&self, retention: Retention, other_bytes: u64, head: &Head) -> Result<(Vec<Ulid>, bool)> {
        let mut result = self.unwanted.finish();
        let Found { mut blocks, quarantined, vanished, mut obsolete, replacing, .. } = self.look()?;
        let kept = |block: &Arc<Block>| {
            let meta = block.meta();
            // What came late is cut when it has to be, into spans that may end after the newest sample: counted from there,
            // blocks would go before their time.
            let newest = head.max_time().filter(|_| meta.compaction.has_hint(HINT_OUT_OF_ORDER));
            let max_time = newest.map_or(meta.max_time, |newest| meta.max_time.min(newest.saturating_add(1)));
            Kept { id: meta.ulid, max_time, bytes: block.size() }
        };
        let mut drop: FixedSet<Ulid> =
            expired(blocks.iter().map(kept).collect(), other_bytes, retention).into_iter().collect();
        // It says up to where the log is not needed, and must not go before a newer one says so: the log's last segments
        // still have what was in blocks, also what was deleted there since, and the next opening would take it for new.
        let newest = complete_until(&blocks);
        blocks
            .iter()
            .filter(|block| ends_at(block, newest))
            .for_each(|block| drop.retain(|it| *it != block.meta().ulid));
        let guard = self.guard.as_ref();
        if let Some(guard) = guard {
            drop.retain(|ulid| {
                let block = blocks.iter().find(|block| block.meta().ulid == *ulid);
                block.is_some_and(|block| guard.may_drop(block.meta(), &self.path(*ulid)))
            });
        }
        if let Some(guard) = guard {
            // Replaced, but still needed by somebody: it is not served, since what replaced it is.
            obsolete.retain(|ulid| {
                let meta = BlockMeta::read(self.env.fs.as_ref(), &self.path(*ulid));
                meta.is_ok_and(|meta| guard.may_drop(&meta, &self.path(*ulid)))
            });
        }
        // What they replace would be served again, with what was deleted since.
        drop.retain(|ulid| !replacing.contains(ulid));
        obsolete.retain(|ulid| !replacing.contains(ulid));
        // Served no more before they go: a query that has them open keeps its mapping.
        let (mut dropped, mut waits) = (Vec::new(), false);
        if drop.is_empty() {
            self.serve(blocks, quarantined, vanished);
        } else {
            head.while_nothing_comes_late(|late| {
                waits = keep_first_writes(&blocks, late, &mut drop);
                blocks.retain(|block| {
                    let ulid = block.meta().ulid;
                    let goes = drop.contains(&ulid);
                    if goes {
                        dropped.push(ulid);
                    }
                    !goes
                });
                self.serve(blocks, quarantined, vanished);
            });
        }
        dropped.append(&mut obsolete);
        for ulid in &dropped {
            result = result.and(self.unwanted.remove(*ulid));
        }
        result.map(|()| (dropped, waits))
    }

    /// Marks the samples in `range` of all series that pass `matchers` as deleted; how many series of blocks had any. A
    /// crash in between leaves some blocks with and some without.
    pub(super) fn delete(&self, range: TimeRange, matchers: &[Matcher]) -> Result<u64> {
        let fs = self.env.fs.as_ref();
        let mut deleted = 0;
        let served = self.all();
        let mut order: Vec<_> = served.iter().enumerate().collect();
        // What gives way goes first: whatever fails in between, no later write answers where an earlier one is gone.
        order.sort_by_key(|(_, block)| std::cmp::Reverse(block.meta().precedence()));
        for (index, block) in order {
            let series = delete_from(fs, block, range, matchers)?;
            if series > 0 {
                self.serve_again(index, block.dir())?;
            }
            deleted += series;
        }
        Ok(deleted)
    }

    /// Removes what a process that died was writing or removing: for the directory's owner.
    pub(super) fn remove_leftovers(env: &Env, dir: &Path) -> Result<()> {
        let suffixes = [CREATING, DELETING, OLD_TEMPORARY];
        let mut leftovers = env.fs.list(dir).map_err(failed("looking for blocks in", dir))?;
        leftovers.retain(|entry| {
            let ulid = suffixes.iter().find_map(|suffix| entry.name.strip_suffix(suffix));
            entry.is_dir && ulid.is_some_and(|ulid| Ulid::from_string(ulid).is_ok())
        });
        if !leftovers.is_empty() {
            // The process that renamed one may have been killed before its sync; see `remove`.
            env.fs.sync_dir(dir).map_err(failed("syncing", dir))?;
        }
        for entry in leftovers {
            tracing::info!(dir = %dir.display(), name = entry.name, "removing an unfinished block");
            let path = dir.join(&entry.name);
            env.fs.remove_dir_all(&path).map_err(failed("removing", &path))?;
        }
        Ok(())
    }

    fn look(&self) -> Result<Found> {
        let (loaded, unwanted) = (self.all(), self.unwanted.names());
        let mut found = Found::default();
        let mut missing: Vec<_> = loaded.iter().collect();
        let mut there: FixedSet<Ulid> = unwanted.iter().copied().collect();
        let entries = self.env.fs.list(&self.dir).map_err(failed("looking for blocks in", &self.dir))?;
        for DirEntry { name, is_dir } in entries {
            let Some(ulid) = Ulid::from_string(&name).ok().filter(|it| is_dir && !unwanted.contains(it)) else {
                continue;
            };
            there.insert(ulid);
            let path = self.dir.join(&name);
            if let Some(index) = missing.iter().position(|block| block.meta().ulid == ulid) {
                found.blocks.push(Arc::clone(missing.swap_remove(index)));
                continue;
            }
            match Block::open(self.env.fs.as_ref(), &path) {
                Ok(block) => found.blocks.push(Arc::new(block)),
                Err(error) => {
                    let reason = error.to_string();
                    if is_passing(&error) {
                        found.passing.push((ulid, error.context(format_args!("block {}", path.display()))));
                    }
                    found.quarantined.push(Quarantined { path, reason });
                }
            }
        }
        let reason = "it was removed while the database was open, and not by it";
        let vanished = |block: &Arc<Block>| Quarantined { path: block.dir().to_owned(), reason: reason.to_owned() };
        found.vanished = missing.into_iter().map(vanished).collect();
        let replaces = |block: &&Arc<Block>| replaced(block.meta()).any(|parent| there.contains(&parent));
        found.replacing = found.blocks.iter().filter(replaces).map(|block| block.meta().ulid).collect();
        let parents = leave_the_newest(&mut found.blocks);
        let is_parent = |name: &str| Ulid::from_string(name).is_ok_and(|ulid| parents.contains(&ulid));
        found.quarantined.retain(|q| !q.path.file_name().and_then(|name| name.to_str()).is_some_and(is_parent));
        // What others replace is not needed, whether it can be read or not.
        found.passing.retain(|(ulid, _)| !parents.contains(ulid));
        found.obsolete = parents.into_iter().filter(|ulid| there.contains(ulid) && !unwanted.contains(ulid)).collect();
        let newest = complete_until(&found.blocks);
        found.blocks.retain(|block| {
            let is_wanted = !block.meta().compaction.deletable || ends_at(block, newest);
            if !is_wanted {
                found.obsolete.push(block.meta().ulid);
            }
            is_wanted
        });
        found.obsolete.sort_unstable();
        Ok(found)
    }

    fn serve(&self, blocks: Vec<Arc<Block>>, quarantined: Vec<Quarantined>, vanished: Vec<Quarantined>) {
        let mut current = self.current.write();
        for new in quarantined.iter().filter(|q| !current.quarantined.contains(q)) {
            tracing::error!(block = %new.path.display(), reason = new.reason, "a block is set aside; the rest is served");
        }
        for new in &vanished {
            tracing::error!(block = %new.path.display(), "a block is gone, and nobody here removed it");
        }
        let mut all_vanished = std::mem::take(&mut current.vanished);
        all_vanished.extend(vanished);
        all_vanished.retain(|gone| !blocks.iter().any(|block| block.dir() == gone.path));
        let served = Served { blocks: Arc::new(blocks), quarantined, vanished: all_vanished };
        let old = std::mem::replace(&mut *current, served);
        // The files of those that are gone are unmapped when queries can go on.
        drop(current);
        drop(old);
    }

    fn path(&self, ulid: Ulid) -> PathBuf {
        self.dir.join(ulid.to_string())
    }
}
