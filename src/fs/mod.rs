//! The seams to the world: the disk, the clock, randomness and threads.
//!
//! Nothing outside this room touches any of them (`clippy.toml` and `tests/architecture.rs` see to it), so that a whole
//! run can be simulated: the n-th operation fails, unsynced writes are lost, reordered and torn, and one seed is one
//! trace. [`Env`] bundles the four. [`Env::real`] is the machine; the simulated one is in feature `testkit`.

mod real;
#[cfg(any(test, feature = "testkit"))]
pub mod sim;
mod spare;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use spare::Spare;

/// A disk. Paths are what the caller opened the database with, joined; the seam does not resolve them.
pub trait Fs: Send + Sync + Debug {
    /// Creates a file for appending; an existing one is an error.
    ///
    /// # Errors
    /// The operating system's; `AlreadyExists` if the file is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens an existing file for appending at its end.
    ///
    /// # Errors
    /// The operating system's.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file that may still grow, for reading at offsets (`pread`).
    ///
    /// # Errors
    /// The operating system's.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadAt>>;
    /// A finished, immutable file as bytes, memory-mapped where the system can. A file that still grows or may be cut
    /// must be read with [`open_read`](Fs::open_read): a cut under a mapping is a SIGBUS.
    ///
    /// # Errors
    /// The operating system's.
    fn map(&self, path: &Path) -> io::Result<Bytes>;
    /// A small file whole, as a copy.
    ///
    /// # Errors
    /// The operating system's.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Gives a finished file a second name, on the same disk.
    ///
    /// # Errors
    /// The operating system's; `AlreadyExists` if `to` is there. Not every disk can.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file or directory; durable after [`sync_dir`](Fs::sync_dir) of the parents.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents.
    ///
    /// # Errors
    /// The operating system's.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// What lies in a directory, sorted by name.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether something is there, and what.
    ///
    /// # Errors
    /// The operating system's; an absent path is `Ok(None)`.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock that other processes respect, creating the file; held until dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Bytes that can still be written to the disk that holds `path`.
    ///
    /// # Errors
    /// The operating system's.
    fn available(&self, path: &Path) -> io::Result<u64> {
        Ok(self.space(path)?.available)
    }
    /// How large the disk is that holds `path`, and how much of it is free.
    ///
    /// # Errors
    /// The operating system's.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// A disk's size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What can still be written.
    pub available: u64,
}

/// A file that is being written, at its end.
pub trait File: Send + Sync + Debug {
    /// Appends all of `bytes`. After an error, how much of them is in the file is unknown: [`set_len`](File::set_len)
    /// back to a known length before going on.
    ///
    /// # Errors
    /// The operating system's.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes content and length durable (`fdatasync`). After an error the file must not be trusted any more: the
    /// kernel may have dropped the pages that it could not write.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file, or lengthens it with zeros; appending goes on at the new end.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Bytes in the file.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether there are none.
    ///
    /// # Errors
    /// The operating system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file that is read at offsets.
pub trait ReadAt: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the file's end.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Bytes in the file now.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether there are none now.
    ///
    /// # Errors
    /// The operating system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A held lock; dropping it gives it back.
pub trait Lock: Send + Sync + Debug {}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name alone, without its directory. Names that are not UTF-8 are none of ours and are left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes, of a file.
    pub len: u64,
}

/// Time.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// Time since some fixed moment; never goes back. For durations and deadlines.
    fn monotonic(&self) -> Duration;
    /// For how long the calling thread has had a processor; `None` if the machine does not say.
    fn processor_time(&self) -> Option<Duration> {
        None
    }
}

/// Randomness.
pub trait Rng: Send + Sync + Debug {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Threads: who runs work beside the caller.
pub trait Executor: Send + Sync + Debug {
    /// Runs `task` beside the caller. Dropping the handle does not stop it. Nothing may wait for what the task does in
    /// any way but [`Task::join`]: a simulated machine runs it only then, or when its test says so.
    ///
    /// # Errors
    /// If the system gives no thread.
    fn spawn(&self, name: &str, task: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>>;
    /// Runs all `tasks`, side by side where there are cores, and returns when the last is done. Borrowing is allowed.
    /// No task may wait for another of them: with one core they run one after another, in any order.
    fn join_all<'a>(&self, tasks: Vec<Box<dyn FnOnce() + Send + 'a>>);
    /// How many tasks are worth running side by side: at least 1.
    fn parallelism(&self) -> usize;
    /// A new bell.
    fn waiter(&self) -> Arc<dyn Waiter>;
}

/// Work that runs beside the caller.
pub trait Task: Send {
    /// Waits for its end.
    fn join(self: Box<Self>);
}

/// A bell: one side waits for a time at most, the other rings.
pub trait Waiter: Send + Sync + Debug {
    /// Returns after `timeout`, or at once when rung; a ring before the wait counts.
    fn wait(&self, timeout: Duration);
    /// Ends one wait.
    fn ring(&self);
}

/// The four seams, passed to whatever needs any of them.
#[derive(Debug, Clone)]
pub struct Env {
    /// The disk.
    pub fs: Arc<dyn Fs>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Threads.
    pub executor: Arc<dyn Executor>,
}

impl Env {
    /// This machine's.
    #[must_use]
    pub fn real() -> Self {
        real::env()
    }
}

/// `path` with `suffix` appended to its last name: `x/01ABC` and `.tmp-for-creation`.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Creates `path` and its missing parents as [`Fs::create_dir_all`] does, and makes their names durable: what is synced
/// inside is of no use under a name that a power cut takes away.
///
/// # Errors
/// The operating system's.
pub fn create_dir_durably(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    let mut unsynced = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        // The directory itself even if it is there: whoever made it may have been killed before the sync.
        let there = fs.stat(ancestor)?.is_some();
        if there && !unsynced.is_empty() {
            break;
        }
        unsynced.push(ancestor);
        if there {
            break;
        }
    }
    fs.create_dir_all(path)?;
    for created in unsynced.into_iter().rev() {
        // The parent of a relative path's first name is the working directory.
        let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs.sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}
