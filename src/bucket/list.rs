//! Which blocks there are in a bucket.
//!
//! A refresh asks the bucket for the list of all its objects, once, and reads the `meta.json` of blocks that it has not
//! seen before, many at a time. What it learns is kept in memory and in one file in a local directory, so that a second
//! start asks for the list and nothing else. The list says how large each file is, so nobody has to ask for that.
//!
//! Not every block in the list is to be read. One without `meta.json` is being written, or deleted; one whose files are
//! not what its `meta.json` says is damaged; one whose sources are all in another block has been merged into that one; one
//! that was marked for deletion a day ago will be gone soon. These are kept apart, with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};

use super::listed::{BlockFile, FileVersion, ListedBlock, Marked};
use super::{Bucket, Catalog, DELETION_MARK_FILE, DeletionMark, Mark, list_cache};
use crate::block::{BlockMeta, META_FILE, Ulid};
use crate::codec::{FixedMap, FixedSet};
use crate::error::{Error, Result};
use crate::fs::Env;
use crate::model::Labels;

/// Small objects asked for at a time. The bucket has a bound of its own for all requests.
const CONCURRENCY: usize = 64;

/// How a bucket is listed.
#[derive(Debug, Clone, Copy)]
pub struct ListOptions {
    /// How long a block is served after it was marked for deletion. Thanos's readers wait half as long as its compactor
    /// waits before it deletes, so that the block which replaces it is seen before it goes.
    pub served_when_marked: Duration,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self { served_when_marked: Duration::from_hours(24) }
    }
}

/// The blocks of a bucket. Clones of what it answers stay as they are; a refresh makes new ones.
pub struct BlockList {
    bucket: Bucket,
    env: Env,
    options: ListOptions,
    cache_dir: Option<PathBuf>,
    /// Held by a refresh from its beginning to its end.
    turn: Mutex<()>,
    known: Mutex<Known>,
    view: RwLock<Arc<View>>,
}

/// All that was ever learned and still counts.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) entries: BTreeMap<Ulid, Entry>,
    /// Blocks in the list without `meta.json`, and their bytes.
    without_meta: BTreeMap<Ulid, u64>,
    /// How many refreshes have begun.
    refreshes: u64,
    /// Blocks that this process added, and during which refresh: one that had begun by then may not have seen them.
    added: FixedMap<Ulid, u64>,
    labels: FixedSet<Labels>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Block(Arc<ListedBlock>),
    /// A `meta.json` that cannot be read, and why.
    Unreadable {
        version: FileVersion,
        reason: Box<str>,
    },
}

impl Catalog for BlockList {
    fn uploaded(&self, meta: &BlockMeta) {
        if let Err(error) = self.add(meta) {
            tracing::warn!(%error, "a block is served from the bucket after the next look at it only");
        }
    }

    fn holds(&self, block: Ulid) -> bool {
        let known = self.known.lock();
        let whole = |entry: &Entry| match entry {
            Entry::Block(known) => known.problem.is_none() && (known.ulid == block || known.sources.contains(&block)),
            Entry::Unreadable { .. } => false,
        };
        known.entries.get(&block).is_some_and(whole) || known.entries.values().any(whole)
    }
}

/// What the known blocks come to.
#[derive(Debug, Default)]
struct View {
    served: Arc<Vec<Arc<ListedBlock>>>,
    hidden: Arc<Vec<HiddenBlock>>,
    partial: Arc<Vec<PartialBlock>>,
}

/// A whole block that is not to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct HiddenBlock {
    /// The block.
    pub block: Arc<ListedBlock>,
    /// Why.
    pub reason: HiddenReason,
}

/// Why a whole block is not to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenReason {
    /// All its sources are in this block too.
    MergedInto(Ulid),
    /// It was marked for deletion too long ago.
    MarkedForDeletion,
}

/// Something in the bucket that looks like a block and cannot be read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialBlock {
    /// Its name.
    pub ulid: Ulid,
    /// What is wrong.
    pub reason: String,
    /// Bytes of its files.
    pub size: u64,
}

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// Blocks that are served now.
    pub blocks: usize,
    /// Objects in the bucket.
    pub objects: usize,
    /// `meta.json` files that were read.
    pub metas: usize,
    /// Deletion marks that were read.
    pub marks: usize,
    /// Blocks that are gone.
    pub removed: usize,
    /// Small objects that could not be read; they are asked for again next time.
    pub failed: usize,
}

impl fmt::Debug for BlockList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BlockList({}, {} blocks)", self.bucket.name(), self.blocks().len())
    }
}

/// What a listing says of one block.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<BlockFile>,
    meta: Option<FileVersion>,
    mark: Option<FileVersion>,
}

/// A small object that a refresh asks for.
enum Wanted {
    Meta(FileVersion),
    Mark(FileVersion),
}

impl BlockList {
    /// The blocks of `bucket` as they were when `cache_dir` was last written; nothing is asked of the bucket before
    /// [`refresh`](BlockList::refresh). `cache_dir` is this bucket's alone.
    ///
    /// # Errors
    /// `Io` if the directory cannot be made. What lies in it and is damaged is thrown away with a warning.
    pub fn open(bucket: &Bucket, env: &Env, cache_dir: Option<&Path>, options: ListOptions) -> Result<Self> {
        let mut known = Known::default();
        if let Some(dir) = cache_dir {
            env.fs.create_dir_all(dir).map_err(|error| Error::from(error).context(dir.display()))?;
            let mut labels = FixedSet::default();
            known.entries = list_cache::read(&*env.fs, dir, bucket.name(), &mut labels);
            known.labels = labels;
        }
        let list = Self {
            bucket: bucket.clone(),
            env: env.clone(),
            options,
            cache_dir: cache_dir.map(Path::to_owned),
            turn: Mutex::new(()),
            view: RwLock::default(),
            known: Mutex::new(known),
        };
        list.publish(&list.known.lock());
        Ok(list)
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The machine that it runs on.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Where it keeps what it learned.
    #[must_use]
    pub fn cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    /// The blocks that are to be read, those of higher precedence first: of two that have a sample of the same series and
    /// time, the earlier one's counts.
    #[must_use]
    pub fn blocks(&self) -> Arc<Vec<Arc<ListedBlock>>> {
        Arc::clone(&self.view.read().served)
    }

    /// Whole blocks that are not to be read, and why, sorted by name.
    #[must_use]
    pub fn hidden(&self) -> Arc<Vec<HiddenBlock>> {
        Arc::clone(&self.view.read().hidden)
    }

    /// What looks like a block and is none, and why, sorted by name.
    #[must_use]
    pub fn partial(&self) -> Arc<Vec<PartialBlock>> {
        Arc::clone(&self.view.read().partial)
    }

    /// Bytes that the known blocks take in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let entries = &self.known.lock().entries;
        entries.values().map(|entry| if let Entry::Block(block) = entry { block.memory() } else { 0 }).sum()
    }

    /// Puts in a block that this process has just uploaded whole. Without the section `thanos`, which names its files, it
    /// is not served before the next refresh.
    ///
    /// # Errors
    /// `Corrupt` if the section `thanos` is none of Thanos's.
    pub fn add(&self, meta: &BlockMeta) -> Result<()> {
        let version = FileVersion { size: meta.to_json().len() as u64, modified_ms: 0 };
        let mut known = self.known.lock();
        let block = ListedBlock::of(meta, version, &mut known.labels)?;
        let refreshes = known.refreshes;
        known.added.insert(meta.ulid, refreshes);
        known.without_meta.remove(&meta.ulid);
        known.entries.insert(meta.ulid, Entry::Block(Arc::new(block)));
        self.publish(&known);
        Ok(())
    }

    /// Asks the bucket what there is now. A second caller waits for the first.
    ///
    /// # Errors
    /// `Io` if the bucket cannot be listed: everything stays as it was. That one `meta.json` cannot be read is none: its
    /// block is [`partial`](BlockList::partial) until it can.
    pub fn refresh(&self) -> Result<Refreshed> {
        let _turn = self.turn.lock();
        let number = {
            let mut known = self.known.lock();
            known.refreshes += 1;
            known.refreshes
        };
        let objects = self.bucket.block_on(self.bucket.list(""))?;
        let mut refreshed = Refreshed { objects: objects.len(), ..Refreshed::default() };
        let listings = group(objects);
        let wanted = self.wanted(&listings);
        let found = self.bucket.block_on(self.fetch(wanted));

        let mut known = self.known.lock();
        let before: Vec<Ulid> = known.entries.keys().copied().collect();
        let changed = self.take_in(&mut known, number, &listings, found, &mut refreshed);
        refreshed.removed = before.iter().filter(|ulid| !known.entries.contains_key(*ulid)).count();
        self.publish(&known);
        refreshed.blocks = self.blocks().len();
        if let Some(dir) = &self.cache_dir
            && (changed || refreshed.removed > 0)
        {
            self.save(dir, &known);
        }
        Ok(refreshed)
    }

    /// The small objects that a listing makes necessary to read.
    fn wanted(&self, listings: &BTreeMap<Ulid, Listing>) -> Vec<(Ulid, Wanted)> {
        let known = self.known.lock();
        let mut wanted = Vec::new();
        for (ulid, listing) in listings {
            let Some(meta) = listing.meta else { continue };
            let entry = known.entries.get(ulid);
            let is_known = match entry {
                Some(Entry::Block(block)) => block.version.is_same(meta),
                Some(Entry::Unreadable { version, .. }) => version.is_same(meta),
                None => false,
            };
            if !is_known {
                wanted.push((*ulid, Wanted::Meta(meta)));
            }
            let marked = match entry {
                Some(Entry::Block(block)) => block.marked.as_ref(),
                _ => None,
            };
            if let Some(mark) = listing.mark
                && !marked.is_some_and(|marked| marked.version.is_same(mark))
            {
                wanted.push((*ulid, Wanted::Mark(mark)));
            }
        }
        wanted
    }

    async fn fetch(&self, wanted: Vec<(Ulid, Wanted)>) -> Vec<(Ulid, Wanted, Result<Option<bytes::Bytes>>)> {
        let requests = wanted.into_iter().map(|(ulid, what)| async move {
            let name = if matches!(what, Wanted::Meta(_)) { META_FILE } else { DELETION_MARK_FILE };
            let found = self.bucket.get(&format!("{ulid}/{name}")).await;
            (ulid, what, found)
        });
        stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await
    }

    /// Brings what is known up to a listing and what was read because of it; whether anything changed.
    fn take_in(
        &self,
        known: &mut Known,
        number: u64,
        listings: &BTreeMap<Ulid, Listing>,
        found: Vec<(Ulid, Wanted, Result<Option<bytes::Bytes>>)>,
        refreshed: &mut Refreshed,
    ) -> bool {
        let mut changed = false;
        // A block that was added before this refresh began is in its list, or gone.
        known.added.retain(|_, during| *during >= number);
        let Known { entries, added, without_meta, labels, .. } = known;
        let has_meta = |ulid: &Ulid| listings.get(ulid).is_some_and(|listing| listing.meta.is_some());
        entries.retain(|ulid, _| has_meta(ulid) || added.contains_key(ulid));
        *without_meta = listings
            .iter()
            .filter(|(ulid, listing)| listing.meta.is_none() && !entries.contains_key(*ulid))
            .map(|(ulid, listing)| (*ulid, listing.files.iter().map(|file| file.size).sum()))
            .collect();

        let mut marks: FixedMap<Ulid, Marked> = FixedMap::default();
        for (ulid, what, content) in found {
            let name = self.bucket.name();
            let content = match content {
                Ok(content) => content,
                Err(error) => {
                    tracing::warn!(%error, "a block of the bucket is not served for now");
                    refreshed.failed += 1;
                    if let Wanted::Meta(_) = what {
                        // No version is like this one, so it is asked for again.
                        let version = FileVersion { size: u64::MAX, modified_ms: -1 };
                        entries.insert(ulid, Entry::Unreadable { version, reason: error.to_string().into() });
                    }
                    continue;
                }
            };
            match (what, content) {
                // Deleted between the list and this.
                (Wanted::Meta(_), None) => {
                    entries.remove(&ulid);
                    without_meta.insert(ulid, 0);
                }
                (Wanted::Meta(version), Some(content)) => {
                    refreshed.metas += 1;
                    changed = true;
                    let file = format!("{name}/{ulid}/{META_FILE}");
                    let block = ListedBlock::parse(&file, ulid, &content, version, Vec::new(), labels);
                    let entry = match block {
                        Ok(block) => Entry::Block(Arc::new(block)),
                        Err(error) => {
                            tracing::warn!(%error, "a block of the bucket is not served");
                            Entry::Unreadable { version, reason: error.to_string().into() }
                        }
                    };
                    entries.insert(ulid, entry);
                }
                (Wanted::Mark(_), None) => {}
                (Wanted::Mark(version), Some(content)) => {
                    refreshed.marks += 1;
                    match DeletionMark::parse(&format!("{name}/{ulid}/{DELETION_MARK_FILE}"), &content) {
                        Ok(mark) => {
                            let at_ms = mark.deletion_time.saturating_mul(1000);
                            marks.insert(ulid, Marked { at_ms, details: mark.details.into(), version });
                        }
                        // Somebody may be writing it.
                        Err(error) => tracing::warn!(%error, "a mark is not heeded"),
                    }
                }
            }
        }

        for (ulid, entry) in entries.iter_mut() {
            let (Entry::Block(block), Some(listing)) = (entry, listings.get(ulid)) else { continue };
            let mark = match listing.mark {
                Some(_) => marks.remove(ulid).or_else(|| block.marked.clone()),
                None => None,
            };
            let version = listing.meta.unwrap_or(block.version);
            if *block.files != *listing.files || block.marked != mark || block.version != version {
                let mut now = ListedBlock { marked: mark, version, ..ListedBlock::clone(block) };
                now.set_files(listing.files.as_slice().into());
                *block = Arc::new(now);
                changed = true;
            }
        }
        changed
    }

    /// Makes the view of what is known.
    fn publish(&self, known: &Known) {
        let mut view = Listed::default();
        let size = |ulid: &Ulid| known.without_meta.get(ulid).copied().unwrap_or(0);
        for ulid in known.without_meta.keys() {
            let reason = format!("{META_FILE} is not there");
            view.partial.push(PartialBlock { ulid: *ulid, reason, size: size(ulid) });
        }
        let now = self.env.clock.now_ms();
        let delay = i64::try_from(self.options.served_when_marked.as_millis()).unwrap_or(i64::MAX);
        let mut whole = Vec::new();
        for (ulid, entry) in &known.entries {
            match entry {
                Entry::Unreadable { reason, .. } => {
                    view.partial.push(PartialBlock { ulid: *ulid, reason: reason.to_string(), size: 0 });
                }
                Entry::Block(block) => match &block.problem {
                    Some(reason) => {
                        let reason = reason.to_string();
                        view.partial.push(PartialBlock { ulid: *ulid, reason, size: block.size() });
                    }
                    None if block.marked.as_ref().is_some_and(|mark| now.saturating_sub(mark.at_ms) > delay) => {
                        let reason = HiddenReason::MarkedForDeletion;
                        view.hidden.push(HiddenBlock { block: Arc::clone(block), reason });
                    }
                    None => whole.push(Arc::clone(block)),
                },
            }
        }
        hide_merged(whole, &mut view.served, &mut view.hidden);
        view.partial.sort_by_key(|block| block.ulid);
        view.hidden.sort_by_key(|hidden| hidden.block.ulid);
        // As a database orders its blocks: what was cut in order, then the older block.
        view.served.sort_by_key(|block| (block.is_hinted, block.ulid));
        let Listed { served, hidden, partial } = view;
        *self.view.write() =
            Arc::new(View { served: Arc::new(served), hidden: Arc::new(hidden), partial: Arc::new(partial) });
    }

    /// Keeps what is known for the next start, and removes what is kept of blocks that are gone. That it cannot be kept
    /// is no failure: the next start will ask for more.
    fn save(&self, dir: &Path, known: &Known) {
        let fs = &*self.env.fs;
        if let Err(error) = list_cache::write(fs, dir, self.bucket.name(), &known.entries) {
            tracing::warn!(%error, dir = %dir.display(), "the list of blocks cannot be kept");
        }
        for entry in fs.list(dir).unwrap_or_default() {
            let gone = Ulid::from_string(&entry.name).is_ok_and(|ulid| !known.entries.contains_key(&ulid));
            if entry.is_dir
                && gone
                && let Err(error) = fs.remove_dir_all(&dir.join(&entry.name))
            {
                tracing::warn!(%error, dir = %dir.display(), "what is kept of {} cannot be removed", entry.name);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Listed {
    served: Vec<Arc<ListedBlock>>,
    hidden: Vec<HiddenBlock>,
    partial: Vec<PartialBlock>,
}

/// Sorts a listing's objects by the block that they belong to.
fn group(objects: Vec<super::StoredObject>) -> BTreeMap<Ulid, Listing> {
    let mut listings: BTreeMap<Ulid, Listing> = BTreeMap::new();
    for object in objects {
        let Some((name, rest)) = object.key.split_once('/') else { continue };
        // Another spelling of a name would not be found under it.
        let Some(ulid) = Ulid::from_string(name).ok().filter(|ulid| ulid.to_string() == name) else { continue };
        let listing = listings.entry(ulid).or_default();
        let version = FileVersion { size: object.size, modified_ms: object.modified_ms };
        match rest {
            META_FILE => listing.meta = Some(version),
            DELETION_MARK_FILE => listing.mark = Some(version),
            _ => {}
        }
        listing.files.push(BlockFile { name: rest.into(), size: object.size });
    }
    for listing in listings.values_mut() {
        listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    }
    listings
}

/// Hides the blocks whose sources are all in another one with the same external labels and resolution. The larger block
/// is asked first, of equal ones the older: of two copies that stays. A block without sources is hidden by any other, as
/// it is by Thanos.
fn hide_merged(blocks: Vec<Arc<ListedBlock>>, served: &mut Vec<Arc<ListedBlock>>, hidden: &mut Vec<HiddenBlock>) {
    let mut groups: FixedMap<(Labels, i64), Vec<Arc<ListedBlock>>> = FixedMap::default();
    for block in blocks {
        groups.entry((block.labels.clone(), block.resolution_ms)).or_default().push(block);
    }
    for (_, mut group) in groups {
        group.sort_by_key(|block| (std::cmp::Reverse(block.sources.len()), block.ulid));
        // By each source, the blocks that have it: a block that hides another has that one's first source.
        let mut having: FixedMap<Ulid, Vec<Arc<ListedBlock>>> = FixedMap::default();
        let mut first: Option<Ulid> = None;
        for block in group {
            let parent = match block.sources.first() {
                None => first,
                Some(source) => having
                    .get(source)
                    .into_iter()
                    .flatten()
                    .find(|parent| block.sources.iter().all(|source| parent.sources.contains(source)))
                    .map(|parent| parent.ulid),
            };
            match parent {
                Some(parent) => hidden.push(HiddenBlock { block, reason: HiddenReason::MergedInto(parent) }),
                None => {
                    first = first.or(Some(block.ulid));
                    for source in &block.sources {
                        having.entry(*source).or_default().push(Arc::clone(&block));
                    }
                    served.push(block);
                }
            }
        }
    }
}
