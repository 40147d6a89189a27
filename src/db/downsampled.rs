//! Coarser copies of old blocks, kept longer than the samples: `downsampled/01M7Z…/`, apart from the blocks, so that
//! Prometheus still opens the directory.
//!
//! ```text
//! block of samples, old enough      → windows of 5 minutes
//! those windows, older still        → windows of an hour
//! ```
//!
//! A copy says in its `meta.json`, under `narthex`, which block it was made of and how much was deleted in that. When the
//! block is merged or something is deleted in it, another copy is made, and the one that it replaces goes: that is, one with
//! the same windows, whose samples' origins are all among the newer one's. When the block expires, the copy stays until it
//! expires itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::json;

use super::blocks::delete_from;
use super::unwanted::Unwanted;
use super::{Inner, Maintenance, Quarantined};
use crate::block::{Block, BlockMeta, CREATING, DELETING, Ulid, new_ulid};
use crate::budget::Budget;
use crate::codec::FixedSet;
use crate::compact::downsample::{FIVE_MINUTES, ONE_HOUR, downsample_as};
use crate::error::{Error, Result};
use crate::fs::{Env, create_dir_durably};
use crate::model::{Matcher, TimeRange};

/// The directory's name in a database's.
pub(super) const DOWNSAMPLED_DIR: &str = "downsampled";
/// The section of `meta.json` that is ours.
const SECTION: &str = "narthex";

/// When blocks are downsampled, and how long what comes of it is kept. Times are in milliseconds, and relative to the
/// newest sample, as retention is. The defaults are those after which Thanos downsamples, and no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downsampling {
    /// Blocks of samples that ended so long ago become windows of 5 minutes: 40 h.
    pub five_minutes_after: i64,
    /// Windows of 5 minutes that ended so long ago become windows of an hour: 10 d.
    pub hour_after: i64,
    /// How long windows of 5 minutes are kept; `None`: for ever. What is less than
    /// [`hour_after`](Downsampling::hour_after) leaves nothing to make windows of an hour of.
    pub keep_five_minutes: Option<i64>,
    /// How long windows of an hour are kept; `None`: for ever.
    pub keep_hours: Option<i64>,
}

impl Default for Downsampling {
    fn default() -> Self {
        const HOUR: i64 = 3_600_000;
        Self { five_minutes_after: 40 * HOUR, hour_after: 240 * HOUR, keep_five_minutes: None, keep_hours: None }
    }
}

impl Downsampling {
    /// Width of windows, age from which they are made, age from which they go.
    fn levels(&self) -> [(i64, i64, Option<i64>); 2] {
        [(FIVE_MINUTES, self.five_minutes_after, self.keep_five_minutes), (ONE_HOUR, self.hour_after, self.keep_hours)]
    }
}

/// The coarser copies that there are.
pub(super) struct Downsampled {
    env: Env,
    dir: PathBuf,
    state: RwLock<State>,
    unwanted: Unwanted,
}

#[derive(Default)]
struct State {
    blocks: Vec<Arc<Block>>,
    quarantined: Vec<Quarantined>,
    /// What cannot be downsampled, or has nothing that could be: it is not tried again before the next opening.
    left_alone: FixedSet<(Ulid, u64)>,
}

/// An error that says where.
fn named(error: std::io::Error, path: &Path) -> Error {
    Error::from(error).context(path.display())
}

/// What a copy was made of: a block, and how many spans were deleted in it.
fn origin(meta: &BlockMeta) -> Option<(Ulid, u64)> {
    let section = meta.extra.get(SECTION)?;
    let ulid = Ulid::from_string(section.get("downsampled_from")?.as_str()?).ok()?;
    Some((ulid, section.get("tombstones")?.as_u64()?))
}

/// What a copy that is made of `block` now has for its origin.
fn origin_of_copies(block: &Block) -> (Ulid, u64) {
    (block.meta().ulid, block.all_tombstones().len() as u64)
}

impl Downsampled {
    /// Opens what lies in the database's directory `data`; writes nothing.
    pub(super) fn open(env: &Env, data: &Path) -> Result<Self> {
        let dir = data.join(DOWNSAMPLED_DIR);
        let mut state = State::default();
        let entries = match env.fs.list(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(|error| named(error, &dir))?,
        };
        for entry in entries.into_iter().filter(|entry| entry.is_dir && Ulid::from_string(&entry.name).is_ok()) {
            let path = dir.join(entry.name);
            match Block::open(env.fs.as_ref(), &path) {
                Ok(block) => state.blocks.push(Arc::new(block)),
                Err(error) => {
                    tracing::error!(block = %path.display(), %error, "a downsampled block is set aside");
                    state.quarantined.push(Quarantined { path, reason: error.to_string() });
                }
            }
        }
        let unwanted = Unwanted::new(env, &dir);
        Ok(Self { env: env.clone(), dir, state: RwLock::new(state), unwanted })
    }

    /// Removes what a process that died was writing or removing: for the directory's owner.
    pub(super) fn remove_leftovers(env: &Env, data: &Path) -> Result<()> {
        let dir = data.join(DOWNSAMPLED_DIR);
        let remove = || {
            if env.fs.stat(&dir)?.is_none() {
                return Ok(());
            }
            let mut leftovers = env.fs.list(&dir)?;
            leftovers.retain(|entry| {
                let ulid = [CREATING, DELETING].iter().find_map(|suffix| entry.name.strip_suffix(suffix));
                entry.is_dir && ulid.is_some_and(|ulid| Ulid::from_string(ulid).is_ok())
            });
            if !leftovers.is_empty() {
                // The process that renamed one may have been killed before its sync: a power cut could give a copy its name
                // back without some of its files.
                env.fs.sync_dir(&dir)?;
            }
            leftovers.iter().try_for_each(|entry| env.fs.remove_dir_all(&dir.join(&entry.name)))
        };
        remove().map_err(|error| named(error, &dir))
    }

    /// The copies, by the width of their windows and the time where they begin.
    pub(super) fn all(&self) -> Vec<Arc<Block>> {
        let mut blocks = self.state.read().blocks.clone();
        blocks.sort_by_key(|block| (block.meta().resolution(), block.meta().min_time, block.meta().ulid));
        blocks
    }

    /// Those that cannot be read.
    pub(super) fn quarantined(&self) -> Vec<Quarantined> {
        self.state.read().quarantined.clone()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.state.read().blocks.iter().map(|block| block.size()).sum()
    }

    fn is_done(&self, source: &Block, resolution: i64) -> bool {
        let wanted = origin_of_copies(source);
        let state = self.state.read();
        let mut copies = state.blocks.iter().filter(|block| block.meta().resolution() == resolution);
        state.left_alone.contains(&wanted) || copies.any(|copy| origin(copy.meta()) == Some(wanted))
    }

    fn leave_alone(&self, source: &Block) {
        self.state.write().left_alone.insert(origin_of_copies(source));
    }

    /// Forgets what it was to leave alone of what is not among `sources` any more, as it is now.
    fn leave_alone_only(&self, sources: &[Arc<Block>]) {
        let there: FixedSet<_> = sources.iter().map(|source| origin_of_copies(source)).collect();
        self.state.write().left_alone.retain(|origin| there.contains(origin));
    }

    /// Makes a copy of `source`; nothing if there is nothing in it.
    fn make(&self, source: &Block, resolution: i64, budget: &Budget) -> Result<Option<Ulid>> {
        create_dir_durably(self.env.fs.as_ref(), &self.dir).map_err(|error| named(error, &self.dir))?;
        let (ulid, tombstones) = origin_of_copies(source);
        // Younger than all others by its name, whatever the clock says: what replaces what goes by that.
        let served = self.state.read().blocks.iter().map(|block| block.meta().ulid).max();
        let youngest = served.max(self.unwanted.names().into_iter().max());
        let after = youngest.and_then(|youngest| youngest.increment().ok()).unwrap_or_default();
        let mut meta = BlockMeta { ulid: new_ulid(&self.env).max(after), ..source.meta().clone() };
        meta.extra
            .insert(SECTION.to_owned(), json!({ "downsampled_from": ulid.to_string(), "tombstones": tombstones }));
        let name = meta.ulid;
        let made =
            downsample_as(&self.env, &self.dir, source, source.meta(), meta, resolution, budget).and_then(|made| {
                made.map(|_| Block::open(self.env.fs.as_ref(), &self.dir.join(name.to_string()))).transpose()
            });
        let Some(block) = made.inspect_err(|_| self.unwanted.discard(&[name]))? else { return Ok(None) };
        self.state.write().blocks.push(Arc::new(block));
        tracing::info!(block = %name, from = %ulid, resolution, "downsampled a block");
        Ok(Some(name))
    }

    /// Drops those that newer ones replace, and those that have been kept long enough.
    fn drop_old(&self, newest: i64, options: &Downsampling) -> Result<Vec<Ulid>> {
        let all = self.all();
        let is_replaced = |old: &BlockMeta| {
            all.iter().map(|block| block.meta()).any(|new| {
                let sources = &old.compaction.sources;
                new.ulid > old.ulid
                    && new.resolution() == old.resolution()
                    && sources.iter().all(|source| new.compaction.sources.contains(source))
            })
        };
        let has_expired = |meta: &BlockMeta| {
            let level = options.levels().into_iter().find(|(resolution, _, _)| *resolution == meta.resolution());
            let keep = level.and_then(|(_, _, keep)| keep);
            keep.is_some_and(|keep| newest.saturating_sub(meta.max_time) >= keep)
        };
        let gone: Vec<Ulid> = all
            .iter()
            .map(|block| block.meta())
            .filter(|meta| is_replaced(meta) || has_expired(meta))
            .map(|meta| meta.ulid)
            .collect();
        self.state.write().blocks.retain(|block| !gone.contains(&block.meta().ulid));
        let mut result = self.unwanted.finish();
        for ulid in &gone {
            result = result.and(self.unwanted.remove(*ulid));
        }
        result.map(|()| gone)
    }

    /// Makes sure that nothing is there but what is served: before something is deleted.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn settle(&self) -> Result<()> {
        self.unwanted.finish()
    }

    /// Marks the windows in `range` of all series that pass `matchers` as deleted. A window goes if its end is in the range.
    pub(super) fn delete(&self, range: TimeRange, matchers: &[Matcher]) -> Result<()> {
        let fs = self.env.fs.as_ref();
        for block in self.all() {
            if delete_from(fs, &block, range, matchers)? == 0 {
                continue;
            }
            let again = Arc::new(Block::open(fs, block.dir())?);
            let mut state = self.state.write();
            if let Some(place) = state.blocks.iter_mut().find(|other| other.meta().ulid == block.meta().ulid) {
                *place = again;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// What windows of `resolution` are made of: blocks of samples, or the copies with the next finer ones.
    fn downsampled_from(&self, resolution: i64) -> Vec<Arc<Block>> {
        let (mut sources, of) = match resolution {
            // Somebody may have put one here that is downsampled already.
            FIVE_MINUTES => (self.blocks.all().to_vec(), 0),
            _ => (self.downsampled.all(), FIVE_MINUTES),
        };
        sources.retain(|source| source.meta().resolution() == of);
        sources
    }

    /// Makes the coarser copies that are due, and drops those that are not wanted any more; with `yielding`, until the head is
    /// to be cut.
    pub(super) fn downsample_all(&self, done: &mut Maintenance, yielding: bool) -> Result<()> {
        let Some(options) = &self.options.downsampling else { return Ok(()) };
        let in_blocks = self.blocks.all().iter().map(|block| block.meta().max_time).max();
        let Some(newest) = in_blocks.max(self.head.max_time()) else { return Ok(()) };
        let mut result = Ok(());
        for (resolution, after, keep) in options.levels() {
            for source in self.downsampled_from(resolution) {
                if self.is_to_end(yielding) {
                    return result;
                }
                let age = newest.saturating_sub(source.meta().max_time);
                if age < after || keep.is_some_and(|keep| age >= keep) {
                    continue;
                }
                match self.downsample(source.meta().ulid, resolution) {
                    Ok(made) => done.downsampled.extend(made),
                    Err(_) if self.is_closed() => return result,
                    Err(error) => {
                        let name = source.dir().display();
                        result = result.and(Err(error.context(format_args!("downsampling {name}"))));
                    }
                }
            }
            // Before the next level, which is made of this one.
            let _turn = self.rewriting.lock();
            done.dropped.extend(self.downsampled.drop_old(newest, options)?);
        }
        let sources = [FIVE_MINUTES, ONE_HOUR].map(|resolution| self.downsampled_from(resolution));
        self.downsampled.leave_alone_only(&sources.concat());
        result
    }

    /// Makes the copy of `source`, if it is there still and has none that is like it.
    fn downsample(&self, source: Ulid, resolution: i64) -> Result<Option<Ulid>> {
        // Blocks are not replaced meanwhile, so that no copy is out of date when it is finished. A turn for each copy:
        // there may be many to make, and merges wait.
        let _turn = self.rewriting.lock();
        let is_source = |block: &Arc<Block>| block.meta().ulid == source;
        let Some(source) = self.downsampled_from(resolution).into_iter().find(is_source) else { return Ok(None) };
        if self.downsampled.is_done(&source, resolution) {
            return Ok(None);
        }
        let made = self.downsampled.make(&source, resolution, &self.rewrites);
        if made.as_ref().map_or_else(super::merging::is_lasting, Option::is_none) {
            self.downsampled.leave_alone(&source);
        }
        made
    }
}

#[cfg(test)]
mod tests;
