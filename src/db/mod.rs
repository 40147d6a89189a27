//! One directory, opened: the head, the blocks, and the work that keeps both in order.
//!
//! ```text
//! data/
//!   lock                         held by the one process that writes
//!   wal/                         the head's log
//!   wbl/                         the log of samples that came out of order
//!   chunks_head/                 the head's full chunks: a copy of what the log says
//!   chunk_snapshot.000004.…/     what the head held, so that opening reads less of the log
//!   01M7Z…/                      blocks
//!   01M7Z….tmp-for-creation/     a block, or a backfill, that is being written; `.tmp-for-deletion`: a block on its way out
//!   downsampled/01M7Z…/          coarser copies of blocks
//! ```
//!
//! `docs/format/directory.md` has all of it.
//!
//! A [`Db`] owns the directory: it appends, answers, and cuts blocks from the head when it is due ([`Db::maintain`], or a
//! thread of its own if the opener wants one). A [`ReadOnlyDb`] reads a directory that somebody else may own, and never
//! writes. Both answer through a [`DbSource`], a view of one moment.
//!
//! Nothing that is damaged stops the rest: a block that cannot be read is set aside, a log is read around its holes, and
//! [`Status`] says so. What a crash leaves half done is finished or removed at the next opening.

#![warn(clippy::indexing_slicing)]

mod blocks;
mod bulk;
mod downsampled;
mod expiry;
mod maintain;
mod merging;
mod options;
mod read_only;
mod retention;
mod snapshot;
mod source;
mod stale;
mod status;
mod unwanted;
mod usage;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::block::{HINT_OUT_OF_ORDER, Ulid};
use crate::budget::Budget;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Env, Lock, Task, Waiter, create_dir_durably};
use crate::head::{Appender, Head, Replayed, WAL_DIR, WBL_DIR};
use crate::model::{Matcher, TimeRange};

pub use blocks::{BlockGuard, Quarantined};
pub use bulk::Bulk;
pub use downsampled::Downsampling;
pub use maintain::Maintenance;
pub use options::{Options, Retention, RetentionRule};
pub use read_only::ReadOnlyDb;
pub use source::DbSource;
pub use status::{BlockStatus, Status};

use blocks::Blocks;
use downsampled::Downsampled;

const LOCK_FILE: &str = "lock";
/// Where the head keeps what is on the disk.
const HEAD_DIRS: [&str; 3] = [WAL_DIR, WBL_DIR, "chunks_head"];

/// A database that this process owns. Clones are the same database; the last one to go closes it.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    dir: PathBuf,
    options: Options,
    head: Arc<Head>,
    blocks: Blocks,
    downsampled: Downsampled,
    /// Which blocks have series that rules of retention are about.
    concerned: Mutex<expiry::Concerned>,
    /// What reading the log back found.
    replayed: Replayed,
    /// What metrics cost in the blocks.
    usage: usage::UsageCache,
    /// Held while the head is cut, something is deleted, or what is served changes: one at a time, and not for long.
    maintenance: Mutex<maintain::State>,
    /// Held while blocks are written that replace others: one at a time, taken before `maintenance`.
    rewriting: Mutex<()>,
    /// The account of all rewrites: closing cancels it.
    rewrites: Budget,
    last_errors: Mutex<maintain::LastErrors>,
    closed: AtomicBool,
    /// Wakes the thread that tends the head.
    bell: Arc<dyn Waiter>,
    /// Wakes the thread that tends the blocks.
    blocks_bell: Arc<dyn Waiter>,
    background: Mutex<Vec<Box<dyn Task>>>,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl fmt::Debug for Db {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Db").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Db {
    /// Opens the database in `dir` on this machine, creating it if it is not there.
    ///
    /// # Errors
    /// `Locked` if another process has it; `Unsupported` or `InvalidInput` for options; `Io`, `Full`, also if the system
    /// would not let a block be read. Damage is no error: see [`Status`].
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_with(&Env::real(), dir.as_ref(), options)
    }

    /// [`open`](Db::open) on the machine `env`.
    ///
    /// # Errors
    /// As [`open`](Db::open).
    pub fn open_with(env: &Env, dir: &Path, options: Options) -> Result<Self> {
        if options.out_of_order_window != 0 && options.append_only {
            let reason = "an append-only database takes no samples out of order";
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        if options.out_of_order_window < 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "the out-of-order window is negative"));
        }
        if options.min_block_duration <= 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "a block must span at least a millisecond"));
        }
        let creating = |error| Error::from(error).context(format_args!("opening {}", dir.display()));
        if env.fs.stat(dir).map_err(creating)?.is_some_and(|stat| !stat.is_dir) {
            let text = format!("{}: a database is a directory, and this is a file", dir.display());
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        create_dir_durably(env.fs.as_ref(), dir).map_err(creating)?;
        let lock = env.fs.lock(&dir.join(LOCK_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let text = format!("{}: the database is open already, here or in another process", dir.display());
                Error::new(ErrorKind::Locked, text)
            }
            _ => Error::from(error).context(format_args!("locking {}", dir.display())),
        })?;
        Blocks::remove_leftovers(env, dir)?;
        Downsampled::remove_leftovers(env, dir)?;
        let downsampled = Downsampled::open(env, dir)?;
        let blocks = Blocks::open(env, dir, options.block_guard.clone())?;
        let floor = blocks.complete_until().unwrap_or(i64::MIN);
        let (head, replayed) = Head::open(env, dir, options.head(), options.log(), floor)?;
        if let Err(error) = stale::remember_ended(&head, &blocks, floor) {
            tracing::warn!(dir = %dir.display(), %error, "a block of series that have ended cannot be read");
        }
        if options.append_only {
            // What was taken over from elsewhere stays as it is: see `Inner::check_adoptable`.
            let taken_over = blocks.all();
            let metas = taken_over.iter().map(|block| block.meta());
            let ends = metas.filter(|meta| meta.compaction.has_hint(HINT_OUT_OF_ORDER)).map(|meta| meta.max_time);
            ends.max().into_iter().for_each(|end| head.raise_floor(end));
        }
        for damage in &replayed.damage {
            tracing::warn!(%damage, "the log was damaged; what can be read of it is there");
        }
        let inner = Arc::new(Inner {
            env: env.clone(),
            dir: dir.to_owned(),
            options,
            head,
            blocks,
            downsampled,
            concerned: Mutex::default(),
            replayed,
            usage: usage::UsageCache::default(),
            maintenance: Mutex::default(),
            rewriting: Mutex::default(),
            rewrites: Budget::unlimited(),
            last_errors: Mutex::default(),
            closed: AtomicBool::new(false),
            bell: env.executor.waiter(),
            blocks_bell: env.executor.waiter(),
            background: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        });
        if inner.options.background {
            *inner.background.lock() = maintain::spawn(&inner)?;
        }
        Ok(Self { inner })
    }

    /// Opens the database in `dir` on this machine for reading alone, whoever owns it: nothing is written, nothing is
    /// locked. What it sees is the moment of opening.
    ///
    /// # Errors
    /// `NotReady` if the owner changed the directory at every attempt to read it; `Io`.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<ReadOnlyDb> {
        ReadOnlyDb::open_with(&Env::real(), dir.as_ref())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The machine that it was opened on.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// How it was opened.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The mutable window: statistics, metadata, exemplars.
    #[must_use]
    pub fn head(&self) -> &Arc<Head> {
        &self.inner.head
    }

    /// Begins a commit. After [`close`](Db::close) it can still be filled, and fails to commit.
    #[must_use]
    pub fn appender(&self) -> Appender {
        self.inner.head.appender()
    }

    /// A view of this moment, to be queried: all selects of it see the same commits, each whole or not at all. Keep it as
    /// long as a query takes: it keeps memory from being given back.
    #[must_use]
    pub fn source(&self) -> DbSource {
        DbSource::new(&self.inner.head, &self.inner.blocks)
    }

    /// The directories of the blocks that are served, by the time where they begin.
    #[must_use]
    pub fn block_dirs(&self) -> Vec<PathBuf> {
        self.inner.blocks.all().iter().map(|block| block.dir().to_owned()).collect()
    }

    /// Does what is due: syncs the log, cuts full blocks from the head, shortens the log, drops blocks that are replaced
    /// or expired, and merges blocks as [`plan`](crate::compact::plan) says. Appends, queries and deletes go on meanwhile.
    /// One caller works at a time; others wait.
    ///
    /// # Errors
    /// The first that occurs; what was done stays done, and the next call tries the rest again.
    pub fn maintain(&self) -> Result<Maintenance> {
        self.inner.maintain()
    }

    /// Cuts everything that the head holds into blocks, full or not, and then does what [`maintain`](Db::maintain) does
    /// except merging: for tools, and for moving a database. Samples that come meanwhile stay in the head.
    ///
    /// # Errors
    /// As [`maintain`](Db::maintain).
    pub fn flush(&self) -> Result<Maintenance> {
        self.inner.flush()
    }

    /// Deletes the samples in `range` of all series that pass `matchers`; without matchers, of all. They are hidden at
    /// once, and gone from the disk when their block is next written. What comes later is not deleted. Returns how many
    /// series had any, counted for the head and each block.
    ///
    /// # Errors
    /// `Unsupported` for a database that is append-only; `Corrupt`, `Io`, `Full`: some may be deleted already, but no sample
    /// that lost against another is seen in its place, and asking again finishes it. `Io` with nothing deleted, if a block
    /// that is not wanted any more cannot be removed: what is deleted would come back with it.
    pub fn delete(&self, range: TimeRange, matchers: &[Matcher]) -> Result<u64> {
        if self.inner.options.append_only {
            let reason = "the database is append-only: nothing is deleted from it";
            return Err(Error::new(ErrorKind::Unsupported, reason));
        }
        let Inner { head, blocks, downsampled, .. } = &*self.inner;
        // No block is cut or dropped meanwhile; what replaces one hears of it.
        let mut state = self.inner.maintenance.lock();
        self.inner.check_open()?;
        // What lies there and is not served would not be marked, and the next opening would serve it.
        blocks.settle()?;
        downsampled.settle()?;
        head.settle_evictions()?;
        downsampled.delete(range, matchers)?;
        // Against the order in which sources are asked: what gives way goes first. Whatever fails in between, no sample
        // that lost answers where the one that won is gone.
        let in_head = head.find_deleted(range, matchers)?;
        head.delete_late(&in_head)?;
        let in_blocks = blocks.delete(range, matchers);
        if let Some(deletes) = &mut state.deletes {
            match in_blocks {
                Ok(_) => deletes.done.push((range, matchers.to_vec())),
                Err(_) => deletes.is_one_half_done = true,
            }
        }
        Ok(in_blocks? + head.delete_in_order(in_head)?)
    }

    /// Merges blocks as [`plan`](crate::compact::plan) says until there is nothing to do. Appends, queries and deletes go
    /// on meanwhile. What the head holds stays there; [`flush`](Db::flush) it before if it shall be part of it.
    ///
    /// # Errors
    /// The first that occurs; a merge that fails keeps no other from being done. Blocks that cannot be merged, being
    /// damaged, are marked, and left alone from then on.
    pub fn compact(&self) -> Result<Maintenance> {
        let mut done = Maintenance::default();
        self.inner.tend_blocks(&mut done, false).map(|()| done)
    }

    /// Writes every block again of which something is deleted, without what is. Until then deleted samples are hidden,
    /// but on the disk. What is deleted of the head goes when it is cut.
    ///
    /// # Errors
    /// As [`compact`](Db::compact).
    pub fn clean_tombstones(&self) -> Result<Maintenance> {
        let mut done = Maintenance::default();
        self.inner.check_open()?;
        self.inner.clean_tombstones(&mut done).map(|()| done)
    }

    /// Copies what is here at this moment into the directory `dir`, which is created: the blocks as hard links where the
    /// disk can, and with `with_head` what the head holds as one more block. The copy can be opened as a database. Coarser
    /// copies of blocks (`downsampled/`), exemplars and metadata are not in it: what downsampling is set for is made again of
    /// the blocks that are there. Which blocks it has.
    ///
    /// # Errors
    /// `InvalidInput` for a directory that is this one or has a block's name; `Io`, also for one that has these blocks
    /// already, `Full`.
    pub fn snapshot(&self, dir: &Path, with_head: bool) -> Result<Vec<Ulid>> {
        self.inner.snapshot(dir, with_head)
    }

    /// What is here and how it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let Inner { env, dir, head, blocks, replayed, last_errors, .. } = &*self.inner;
        let maintenance_error = last_errors.lock().first();
        let status = Status::of(env, dir, head, blocks, replayed);
        Status { maintenance_error, ..status.with_downsampled(&self.inner.downsampled) }
    }

    /// Ends maintenance, makes everything durable, and gives the directory back. Nothing is lost without it: whatever
    /// was acknowledged is in the log. Again, it does nothing.
    ///
    /// # Errors
    /// `Io`, `Full`: the directory is given back all the same, and commits fail from now on. What was acknowledged is
    /// durable unless a sync failed.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl Inner {
    /// Bytes of everything that is not a block: retention by size counts them.
    fn head_bytes(&self) -> u64 {
        let head = HEAD_DIRS.iter().map(|name| status::dir_bytes(&self.env, &self.dir.join(name)));
        head.sum::<u64>() + self.downsampled.bytes()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::new(ErrorKind::NotReady, format!("{}: the database is closed", self.dir.display())));
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A merge under way is given up: what it has written goes, and the next opening plans it again.
        self.rewrites.cancel();
        self.bell.ring();
        self.blocks_bell.ring();
        let background = std::mem::take(&mut *self.background.lock());
        for task in background {
            task.join();
        }
        let _turns = (self.rewriting.lock(), self.maintenance.lock());
        // So that the next opening finds them, and has less of the log to work through. The log has them all the same.
        if let Err(error) = self.head.map_full_chunks() {
            tracing::warn!(dir = %self.dir.display(), %error, "moving full chunks to the disk");
        }
        let closed = self.close_head();
        *self.lock.lock() = None;
        closed
    }

    /// Everything is durable when the head is closed; a snapshot only makes the next opening short.
    fn close_head(&self) -> Result<()> {
        self.head.close()?;
        if self.options.snapshot_at_close
            && let Err(error) = self.head.write_snapshot()
        {
            tracing::warn!(dir = %self.dir.display(), %error, "no snapshot of the head; opening will read the log");
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread does not count: it has no hold on this beyond a step.
        self.closed.store(true, Ordering::Release);
        self.bell.ring();
        self.blocks_bell.ring();
        if self.lock.lock().is_some()
            && let Err(error) = self.close_head()
        {
            tracing::error!(dir = %self.dir.display(), %error, "closing the database");
        }
    }
}

#[cfg(test)]
mod closing_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;
