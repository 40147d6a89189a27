//! The blocks of a data directory go into the bucket, oldest first, and may be dropped only then.
//!
//! What is in the bucket is noted in `thanos.shipper.json` in the data directory, in Thanos's format. The note only saves
//! questions: without it the bucket is asked once for each block, and a block that it names is looked for again when a
//! process starts, in the list of the bucket's blocks if there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::Bucket;
use super::rewrite::remove_rewritten;
use super::upload::{Progress, UploadOptions, Uploaded, upload_block};
use crate::block::meta::write_file;
use crate::block::{BlockError, BlockMeta, META_FILE, Ulid};
use crate::db::BlockGuard;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, Env};

/// The note's name in the data directory.
pub const SHIPPER_FILE: &str = "thanos.shipper.json";
/// The one version of the note that there is.
const VERSION: u64 = 1;

/// What is shipped, and as what.
#[derive(Debug, Clone)]
pub struct ShipOptions {
    /// How blocks are uploaded.
    pub upload: UploadOptions,
    /// Ship blocks too that were merged here, of a level above 1. Without it they stay, and are dropped only if the bucket
    /// has all blocks that they were merged from: else they may hold samples that it has not.
    pub compacted: bool,
}

/// The list of the bucket's blocks, as the shipper sees it.
pub trait Catalog: Send + Sync {
    /// A block is in the bucket, with this meta: it can be read there from now on.
    fn uploaded(&self, meta: &BlockMeta);

    /// Whether the block's samples are known to be in the bucket: it is there, or one that was made of it is.
    fn holds(&self, block: Ulid) -> bool;
}

/// What one look through the directory did.
#[derive(Debug, Default)]
pub struct Shipped {
    /// Blocks that are in the bucket now and were not before.
    pub uploaded: Vec<Ulid>,
    /// Blocks that were there already, and nobody knew.
    pub found: Vec<Ulid>,
    /// Blocks that are not there. Each is tried again the next time.
    pub failed: Vec<(Ulid, Error)>,
    /// Blocks that are not to be shipped, being of a level above 1.
    pub left: Vec<Ulid>,
    /// Bytes that were sent.
    pub bytes: u64,
}

impl Shipped {
    /// Whether everything that is to be in the bucket is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// What a shipper did since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShipperStatus {
    /// Blocks uploaded.
    pub uploads: u64,
    /// Uploads that failed.
    pub failures: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Blocks here that are in the bucket.
    pub shipped: usize,
    /// Blocks here that are not, and why, as of the last look.
    pub failed: BTreeMap<Ulid, String>,
}

#[derive(Default)]
struct State {
    /// In the bucket.
    there: BTreeSet<Ulid>,
    /// In the bucket, says the note of an earlier process.
    noted: BTreeSet<Ulid>,
    /// Without samples.
    empty: BTreeSet<Ulid>,
    status: ShipperStatus,
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u64,
    /// Go writes an empty list as null.
    uploaded: Option<Vec<String>>,
}

/// Ships the blocks of one data directory. As the directory's [`BlockGuard`] it lets a block go once it is in the bucket.
pub struct Shipper {
    env: Env,
    bucket: Bucket,
    dir: PathBuf,
    options: ShipOptions,
    catalog: Option<Arc<dyn Catalog>>,
    /// Held while shipping: one at a time.
    turn: Mutex<()>,
    state: RwLock<State>,
}

impl std::fmt::Debug for Shipper {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shipper").field("dir", &self.dir).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Shipper {
    /// A shipper of the blocks in `dir`. `catalog` is told of what it uploads, and asked whether what an earlier process
    /// noted is still true; without one the note is believed, as Thanos does.
    ///
    /// # Errors
    /// `InvalidInput` without external labels. A note that cannot be read is none.
    pub fn new(
        env: &Env,
        bucket: &Bucket,
        dir: &Path,
        options: ShipOptions,
        catalog: Option<Arc<dyn Catalog>>,
    ) -> Result<Self> {
        if options.upload.labels.is_empty() {
            let text = "blocks in a bucket need external labels: they say whose they are";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        if let Err(error) = remove_rewritten(env.fs.as_ref(), dir) {
            tracing::warn!(%error, "what an earlier process rewrote stays behind");
        }
        let mut state = State::default();
        match read_note(env, dir) {
            Ok(noted) if catalog.is_some() => state.noted = noted,
            Ok(noted) => state.there = noted,
            Err(error) => tracing::warn!(%error, "the bucket is asked for each block"),
        }
        Ok(Self {
            env: env.clone(),
            bucket: bucket.clone(),
            dir: dir.to_owned(),
            options,
            catalog,
            turn: Mutex::new(()),
            state: RwLock::new(state),
        })
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// What it did so far.
    #[must_use]
    pub fn status(&self) -> ShipperStatus {
        let state = self.state.read();
        ShipperStatus { shipped: state.there.len(), ..state.status.clone() }
    }

    /// Uploads every finished block of the directory that is not in the bucket, oldest first. A block that fails does not
    /// keep the others. Waits for the bucket: not to be called on a thread of its runtime that does async work.
    ///
    /// # Errors
    /// `Io`, `Full` if the directory cannot be listed or the note not written; what was uploaded is, and stays known to
    /// this shipper.
    pub fn ship(&self, progress: &dyn Progress) -> Result<Shipped> {
        let _turn = self.turn.lock();
        let mut shipped = Shipped::default();
        let mut noting = Ok(());
        let (local, blocks) = self.unshipped(&mut shipped)?;
        for meta in blocks {
            let ulid = meta.ulid;
            if meta.stats.num_samples == 0 {
                self.state.write().empty.insert(ulid);
                continue;
            }
            if meta.compaction.level > 1 && !self.options.compacted {
                shipped.left.push(ulid);
                continue;
            }
            let dir = self.dir.join(ulid.to_string());
            match self.was_merged(&meta) {
                Ok(false) => {}
                Ok(true) => {
                    shipped.found.push(ulid);
                    self.knows(ulid, &mut noting);
                    continue;
                }
                Err(error) => {
                    shipped.failed.push((ulid, error));
                    continue;
                }
            }
            match upload_block(&self.bucket, &self.env, &dir, &self.options.upload, progress) {
                Ok(Uploaded::Now { meta, bytes }) => {
                    tracing::info!(block = %ulid, bytes, bucket = self.bucket.name(), "shipped a block");
                    shipped.uploaded.push(ulid);
                    shipped.bytes += bytes;
                    self.is_there(&meta, &mut noting);
                }
                Ok(Uploaded::Already(meta)) => {
                    shipped.found.push(ulid);
                    self.is_there(&meta, &mut noting);
                }
                Ok(Uploaded::Nothing) => {
                    self.state.write().empty.insert(ulid);
                }
                // Whoever owns the directory dropped it meanwhile, which it may: it is empty, or nobody asked.
                Err(_) if self.env.fs.stat(&dir).is_ok_and(|stat| stat.is_none()) => {}
                Err(error) => {
                    tracing::error!(block = %ulid, %error, "a block was not shipped; it is tried again");
                    shipped.failed.push((ulid, error));
                }
            }
        }
        self.forget_all_but(&local, &mut noting);
        let mut state = self.state.write();
        let status = &mut state.status;
        status.uploads += shipped.uploaded.len() as u64;
        status.failures += shipped.failed.len() as u64;
        status.bytes += shipped.bytes;
        status.failed = shipped.failed.iter().map(|(ulid, error)| (*ulid, error.to_string())).collect();
        drop(state);
        noting.map(|()| shipped)
    }

    /// The names of all blocks here and of what they were merged from, and the metas of those that are not known to be in the bucket, oldest first.
    fn unshipped(&self, shipped: &mut Shipped) -> Result<(BTreeSet<Ulid>, Vec<BlockMeta>)> {
        let fs = self.env.fs.as_ref();
        let (mut local, mut blocks) = (BTreeSet::new(), Vec::new());
        for DirEntry { name, is_dir } in fs.list(&self.dir).map_err(BlockError::io(&self.dir))? {
            let Some(ulid) = Ulid::from_string(&name).ok().filter(|_| is_dir) else { continue };
            local.insert(ulid);
            if self.is_known(ulid) {
                continue;
            }
            match BlockMeta::read(fs, &self.dir.join(&name)) {
                Ok(meta) => {
                    // What it was merged from is still asked for, though it is not here any more.
                    local.extend(&meta.compaction.sources);
                    blocks.push(meta);
                }
                Err(error) => shipped.failed.push((ulid, error.into())),
            }
        }
        blocks.sort_by_key(|meta| (meta.min_time, meta.ulid));
        Ok((local, blocks))
    }

    /// Whether nothing is to be done about the block. What was noted becomes known if the catalog says so.
    fn is_known(&self, ulid: Ulid) -> bool {
        let state = self.state.read();
        if state.there.contains(&ulid) || state.empty.contains(&ulid) {
            return true;
        }
        let noted = state.noted.contains(&ulid);
        drop(state);
        if !noted {
            return false;
        }
        let holds = self.catalog.as_ref().is_some_and(|catalog| catalog.holds(ulid));
        let mut state = self.state.write();
        if holds {
            state.noted.remove(&ulid);
            state.there.insert(ulid);
        }
        holds
    }

    /// Whether the bucket has the block's samples, but not the block any more, since somebody merged it with others:
    /// sending it again would only make work.
    fn was_merged(&self, meta: &BlockMeta) -> Result<bool> {
        if !self.catalog.as_ref().is_some_and(|catalog| catalog.holds(meta.ulid)) {
            return Ok(false);
        }
        let key = format!("{}/{META_FILE}", meta.ulid);
        Ok(!self.bucket.block_on(self.bucket.exists(&key))?)
    }

    fn is_there(&self, meta: &BlockMeta, noting: &mut Result<()>) {
        if let Some(catalog) = &self.catalog {
            catalog.uploaded(meta);
        }
        self.knows(meta.ulid, noting);
    }

    fn knows(&self, ulid: Ulid, noting: &mut Result<()>) {
        let mut state = self.state.write();
        state.noted.remove(&ulid);
        state.there.insert(ulid);
        drop(state);
        self.write_note(noting);
    }

    /// Blocks that are not here any more are nobody's question.
    fn forget_all_but(&self, local: &BTreeSet<Ulid>, noting: &mut Result<()>) {
        let mut state = self.state.write();
        let before = state.there.len() + state.noted.len();
        state.there.retain(|ulid| local.contains(ulid));
        state.noted.retain(|ulid| local.contains(ulid));
        state.empty.retain(|ulid| local.contains(ulid));
        let forgotten = before != state.there.len() + state.noted.len();
        drop(state);
        // A note that failed is tried once more.
        if forgotten || noting.is_err() {
            *noting = Ok(());
            self.write_note(noting);
        }
    }

    fn write_note(&self, noting: &mut Result<()>) {
        let state = self.state.read();
        let uploaded: Vec<_> = state.there.union(&state.noted).map(ToString::to_string).collect();
        drop(state);
        let note = Note { version: VERSION, uploaded: (!uploaded.is_empty()).then_some(uploaded) };
        if let Err(error) = write_file(self.env.fs.as_ref(), &self.dir, SHIPPER_FILE, &note.to_json()) {
            *noting = Err(error.into());
        }
    }
}

impl BlockGuard for Shipper {
    fn may_drop(&self, meta: &BlockMeta, _: &Path) -> bool {
        let state = self.state.read();
        if meta.stats.num_samples == 0 || state.there.contains(&meta.ulid) || state.empty.contains(&meta.ulid) {
            return true;
        }
        // One that was merged here of blocks that were shipped: its samples are there, though it is not.
        let sources = &meta.compaction.sources;
        let is_there = |source| {
            state.there.contains(source) || self.catalog.as_ref().is_some_and(|catalog| catalog.holds(*source))
        };
        meta.compaction.level > 1 && !sources.is_empty() && sources.iter().all(is_there)
    }
}

impl Note {
    /// As Go writes it.
    fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(&mut json, format));
        debug_assert!(written.is_ok(), "a plain struct cannot fail");
        json.push(b'\n');
        json
    }
}

/// The blocks that the note in `dir` names; none if there is no note.
fn read_note(env: &Env, dir: &Path) -> Result<BTreeSet<Ulid>> {
    let file = dir.join(SHIPPER_FILE);
    if env.fs.stat(&file).map_err(BlockError::io(&file))?.is_none() {
        return Ok(BTreeSet::new());
    }
    let bytes = env.fs.read(&file).map_err(BlockError::io(&file))?;
    let note: Note = serde_json::from_slice(&bytes).map_err(|error| BlockError::corrupt(&file, 0, error))?;
    if note.version != VERSION {
        let reason = format!("version {}; {VERSION} is known", note.version);
        return Err(BlockError::Unsupported { file, reason }.into());
    }
    let ulid = |text: &String| Ulid::from_string(text).map_err(|error| BlockError::corrupt(&file, 0, error).into());
    note.uploaded.iter().flatten().map(ulid).collect()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::db::{Db, Options, Retention};
    use crate::model::Labels;

    const HOUR: i64 = 3_600_000;

    fn dir() -> &'static Path {
        Path::new("/data")
    }

    /// A database of three blocks of two hours.
    fn blocks(env: &Env) -> (Db, Vec<BlockMeta>) {
        let db = Db::open_with(env, dir(), Options { future_bound: None, ..Options::default() }).unwrap();
        for half in 0..12 {
            let mut appender = db.appender();
            let t = crate::fs::sim::START_MS + half * HOUR / 2;
            appender.append(None, &Labels::from_pairs([("a", "b")]), t, half as f64).unwrap();
            appender.commit().unwrap();
        }
        assert_eq!(db.flush().unwrap().written.len(), 3);
        let metas = db.status().blocks.into_iter().map(|block| block.meta).collect();
        (db, metas)
    }

    fn bucket() -> (Bucket, Runtime) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (Bucket::new("memory", Arc::new(InMemory::new()), runtime.handle().clone()), runtime)
    }

    fn options() -> ShipOptions {
        ShipOptions { upload: UploadOptions::new(Labels::from_pairs([("cluster", "a")])), compacted: false }
    }

    fn shipper(env: &Env, bucket: &Bucket) -> Shipper {
        Shipper::new(env, bucket, dir(), options(), None).unwrap()
    }

    fn names(metas: &[BlockMeta]) -> Vec<Ulid> {
        metas.iter().map(|meta| meta.ulid).collect()
    }

    fn note(env: &Env) -> String {
        String::from_utf8(env.fs.read(&dir().join(SHIPPER_FILE)).unwrap()).unwrap()
    }

    #[test]
    fn a_block_merged_here_of_shipped_ones_may_go_when_all_of_them_are_shipped() {
        let (env, _) = Env::simulated(1);
        let (db, metas) = blocks(&env);
        let mut merged = crate::compact::merged_meta(crate::block::new_ulid(&env), &[&metas[0], &metas[1]]);
        merged.stats.num_samples = 1;
        let (bucket, _runtime) = bucket();
        let shipper = shipper(&env, &bucket);
        assert!(!shipper.may_drop(&merged, dir()));
        shipper.ship(&()).unwrap();
        assert!(shipper.may_drop(&merged, dir()));
        db.close().unwrap();
        // As after the merge: it is here, and what it was merged from is not.
        for meta in &metas[..2] {
            env.fs.remove_dir_all(&dir().join(meta.ulid.to_string())).unwrap();
        }
        let path = dir().join(merged.ulid.to_string());
        env.fs.create_dir_all(&path).unwrap();
        merged.write(env.fs.as_ref(), &path).unwrap();
        assert_eq!(shipper.ship(&()).unwrap().left, [merged.ulid]);
        assert!(shipper.may_drop(&merged, dir()), "the look does not forget");
        let again = Shipper::new(&env, &bucket, dir(), options(), None).unwrap();
        assert!(again.may_drop(&merged, dir()), "nor does a restart");
    }

    #[test]
    fn blocks_go_oldest_first_and_the_note_names_them_as_thanos_does() {
        let (env, _) = Env::simulated(1);
        let (db, metas) = blocks(&env);
        let (bucket, _runtime) = bucket();
        let shipper = shipper(&env, &bucket);
        assert_eq!(shipper.ship(&()).unwrap().uploaded, names(&metas));
        let mut sorted = names(&metas);
        sorted.sort();
        let list: Vec<_> = sorted.iter().map(|ulid| format!("\t\t\"{ulid}\"")).collect();
        assert_eq!(note(&env), format!("{{\n\t\"version\": 1,\n\t\"uploaded\": [\n{}\n\t]\n}}\n", list.join(",\n")));
        assert_eq!(shipper.status().shipped, 3);
        db.close().unwrap();
        for ulid in sorted {
            env.fs.remove_dir_all(&dir().join(ulid.to_string())).unwrap();
        }
        shipper.ship(&()).unwrap();
        assert_eq!(note(&env), "{\n\t\"version\": 1,\n\t\"uploaded\": null\n}\n");
    }

    #[test]
    fn nothing_expires_before_it_is_in_the_bucket() {
        let (env, _) = Env::simulated(1);
        let (db, metas) = blocks(&env);
        db.close().unwrap();
        drop(db);
        let (bucket, _runtime) = bucket();
        let shipper = Arc::new(shipper(&env, &bucket));
        let retention = Retention { time: Some(2 * HOUR), ..Retention::default() };
        let options_of_db =
            Options { retention, block_guard: Some(shipper.clone()), future_bound: None, ..Options::default() };
        let db = Db::open_with(&env, dir(), options_of_db).unwrap();
        assert_eq!(db.maintain().unwrap().dropped, []);
        shipper.ship(&()).unwrap();
        assert_eq!(db.maintain().unwrap().dropped, [metas[0].ulid]);
        let again = Shipper::new(&env, &bucket, dir(), options(), None).unwrap();
        assert!(again.may_drop(&metas[1], dir()), "what was noted is known to the next process");
    }

    #[test]
    fn a_block_that_fails_does_not_hold_up_the_others_and_is_tried_again() {
        let (env, _) = Env::simulated(1);
        let (_db, metas) = blocks(&env);
        let (bucket, _runtime) = bucket();
        let damaged = dir().join(metas[0].ulid.to_string()).join("meta.json");
        let aside = dir().join("aside");
        env.fs.rename(&damaged, &aside).unwrap();
        let shipper = shipper(&env, &bucket);
        let shipped = shipper.ship(&()).unwrap();
        assert_eq!((shipped.uploaded, shipped.failed.len()), (names(&metas[1..]), 1));
        assert_eq!(shipper.status().failed.keys().copied().collect::<Vec<_>>(), [metas[0].ulid]);
        assert!(!shipper.may_drop(&metas[0], dir()));
        env.fs.rename(&aside, &damaged).unwrap();
        assert_eq!(shipper.ship(&()).unwrap().uploaded, [metas[0].ulid]);
        assert_eq!((shipper.status().uploads, shipper.status().failures, shipper.status().failed.len()), (3, 1, 0));
    }

    #[test]
    fn merged_blocks_stay_unless_they_are_asked_for() {
        let (env, _) = Env::simulated(1);
        let (_db, metas) = blocks(&env);
        let mut merged = metas[1].clone();
        merged.compaction.level = 2;
        merged.write(env.fs.as_ref(), &dir().join(merged.ulid.to_string())).unwrap();
        let (bucket, _runtime) = bucket();
        let first = shipper(&env, &bucket);
        let shipped = first.ship(&()).unwrap();
        assert_eq!((shipped.left, shipped.uploaded.len()), (vec![merged.ulid], 2));
        assert!(!first.may_drop(&merged, dir()));
        let all = ShipOptions { compacted: true, ..options() };
        let shipper = Shipper::new(&env, &bucket, dir(), all, None).unwrap();
        assert_eq!(shipper.ship(&()).unwrap().uploaded, [merged.ulid]);
    }

    /// Knows some blocks, and remembers what it was told.
    #[derive(Default)]
    struct List(Mutex<BTreeSet<Ulid>>);

    impl Catalog for List {
        fn uploaded(&self, meta: &BlockMeta) {
            self.0.lock().insert(meta.ulid);
        }

        fn holds(&self, block: Ulid) -> bool {
            self.0.lock().contains(&block)
        }
    }

    #[test]
    fn what_an_earlier_process_noted_is_looked_for_in_the_list() {
        let (env, _) = Env::simulated(1);
        let (_db, metas) = blocks(&env);
        let (old, _runtime) = bucket();
        shipper(&env, &old).ship(&()).unwrap();
        // Another bucket, in which only the first is, in one that was made of it.
        let (bucket, _runtime) = bucket();
        let list = Arc::new(List::default());
        list.0.lock().insert(metas[0].ulid);
        let shipper = Shipper::new(&env, &bucket, dir(), options(), Some(list.clone())).unwrap();
        assert!(!metas.iter().any(|meta| shipper.may_drop(meta, dir())));
        assert_eq!(shipper.ship(&()).unwrap().uploaded, names(&metas[1..]));
        assert!(metas.iter().all(|meta| shipper.may_drop(meta, dir())));
        assert!(metas.iter().all(|meta| list.holds(meta.ulid)), "it was told");
    }

    #[test]
    fn without_its_note_a_block_that_was_merged_in_the_bucket_is_not_sent_again() {
        let (env, _) = Env::simulated(1);
        let (_db, metas) = blocks(&env);
        let (bucket, _runtime) = bucket();
        let list = Arc::new(List::default());
        list.0.lock().insert(metas[1].ulid);
        let shipper = Shipper::new(&env, &bucket, dir(), options(), Some(list)).unwrap();
        let shipped = shipper.ship(&()).unwrap();
        assert_eq!((shipped.found, shipped.uploaded), (vec![metas[1].ulid], vec![metas[0].ulid, metas[2].ulid]));
        assert!(metas.iter().all(|meta| shipper.may_drop(meta, dir())));
    }

    #[test]
    fn a_shipper_without_external_labels_is_refused() {
        let (env, _) = Env::simulated(1);
        let (bucket, _runtime) = bucket();
        let none = ShipOptions { upload: UploadOptions::new(Labels::empty()), compacted: false };
        let error = Shipper::new(&env, &bucket, dir(), none, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
