//! This machine: `std::fs`, memory maps, the system clock, threads.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file is the seam: the one place that reaches the system"
)]

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Clock, DirEntry, Env, Executor, File, Fs, Lock, ReadAt, Rng, Space, Stat, Task, Waiter};

pub(super) fn env() -> Env {
    Env {
        fs: Arc::new(RealFs),
        clock: Arc::new(RealClock(Instant::now())),
        // The seed of the standard library's hash maps: random a process, without another dependency.
        rng: Arc::new(SplitMix(AtomicU64::new(RandomState::new().build_hasher().finish()))),
        executor: Arc::new(Threads),
    }
}

#[derive(Debug)]
struct RealFs;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(OpenOptions::new().append(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(RealReadAt(fs::File::open(path)?)))
    }

    #[expect(unsafe_code, reason = "a memory map is the one thing that std cannot do safely")]
    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let file = fs::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: callers map finished files alone, which nobody writes to or cuts again; they are only ever unlinked,
        // and an unlinked file's pages stay as long as the mapping does.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Bytes::from_owner(map))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Stat { is_dir: metadata.is_dir(), len: metadata.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock(file))),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        // Opened with O_APPEND: the next write goes to the new end by itself.
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[derive(Debug)]
struct RealReadAt(fs::File);

impl ReadAt for RealReadAt {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The lock goes with the file's descriptor: dropping it, or the process's death, gives it back.
#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "held for its descriptor")] fs::File);

impl Lock for RealLock {}

#[derive(Debug)]
struct RealClock(Instant);

impl Clock for RealClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn processor_time(&self) -> Option<Duration> {
        Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).ok()
    }
}

#[derive(Debug)]
struct SplitMix(AtomicU64);

impl Rng for SplitMix {
    fn next_u64(&self) -> u64 {
        let step = 0x9E37_79B9_7F4A_7C15;
        let state = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[derive(Debug)]
struct Threads;

impl Executor for Threads {
    fn spawn(&self, name: &str, task: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(task)?;
        Ok(Box::new(ThreadTask(handle)))
    }

    fn join_all<'a>(&self, tasks: Vec<Box<dyn FnOnce() + Send + 'a>>) {
        // In slots of their own: a thread that cannot be made would take its task with it.
        let tasks: Vec<_> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
        let run = |slot: &Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>| {
            let task = slot.lock().take();
            if let Some(task) = task {
                task();
            }
        };
        let run = &run;
        thread::scope(|scope| {
            for slot in tasks.iter().skip(1) {
                if thread::Builder::new().spawn_scoped(scope, move || run(slot)).is_err() {
                    // The system has no more threads: those that there are, and the caller, do the work.
                    break;
                }
            }
            // The caller works too, and does what has no thread: one thread fewer, and with one task none at all.
            tasks.iter().for_each(run);
        });
    }

    fn parallelism(&self) -> usize {
        thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(Bell { rung: Mutex::new(false), changed: Condvar::new() })
    }
}

struct ThreadTask(thread::JoinHandle<()>);

impl Task for ThreadTask {
    fn join(self: Box<Self>) {
        // A panic in the task was already printed by the panic hook; there is nothing to add for the waiting side.
        drop(self.0.join());
    }
}

#[derive(Debug)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Waiter for Bell {
    fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_for(&mut rung, timeout);
        }
        *rung = false;
    }

    fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }
}
