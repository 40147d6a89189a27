//! The simulated disk behind the traits of [`fs`](crate::fs): every call is counted, logged, and may be made to fail.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::splitmix64;
use super::state::{Change, Entry, Event, Ino, Node, ROOT, State, Tree};

use crate::fs::{DirEntry, File, Fs, Lock, ReadAt, Space, Stat};

/// What a program asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the methods of the traits")]
pub enum OpKind {
    Create,
    OpenAppend,
    OpenRead,
    Map,
    Read,
    HardLink,
    Rename,
    RemoveFile,
    RemoveDir,
    CreateDir,
    List,
    Stat,
    SyncDir,
    Lock,
    Space,
    Append,
    Sync,
    SetLen,
    Len,
    ReadAt,
}

impl OpKind {
    /// Whether it changes something or makes it durable.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::HardLink
                | Self::Rename
                | Self::RemoveFile
                | Self::RemoveDir
                | Self::CreateDir
                | Self::SyncDir
                | Self::Lock
                | Self::Append
                | Self::Sync
                | Self::SetLen
        )
    }
}

/// One call, in the order in which they began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Its number, from 0.
    pub number: u64,
    /// What it was.
    pub kind: OpKind,
    /// The path that it named, or that its file was opened by.
    pub path: String,
    /// Bytes to write or to read, or the length to set.
    pub len: u64,
}

/// Decides before each operation whether it fails, and with what.
pub(super) type Fault = Box<dyn FnMut(&Op) -> Option<io::ErrorKind> + Send>;

/// What is to be run before which operation.
pub(super) struct Interrupt {
    pub(super) kind: OpKind,
    /// How its path ends.
    pub(super) path: String,
    /// How many of them come before.
    pub(super) skip: u64,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

/// The part that all handles share.
pub(super) struct Disk {
    pub(super) initial: State,
    pub(super) state: State,
    /// What happened, each with the count of operations begun by then.
    pub(super) journal: Vec<(u64, Event)>,
    pub(super) log: Vec<Op>,
    pub(super) fault: Option<Fault>,
    pub(super) interrupt: Option<Interrupt>,
    pub(super) capacity: Option<u64>,
    /// Which process lives: handles of an earlier one answer errors.
    pub(super) life: u64,
    locks: BTreeMap<Ino, u64>,
    /// One token a mapped file; others hold clones as long as they hold the mapping.
    mapped: BTreeMap<Ino, Arc<()>>,
    next_ino: Ino,
    random: u64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Disk").field("ops", &self.log.len()).field("pending", &self.state.pending).finish()
    }
}

impl Disk {
    /// What is to be run before this operation.
    fn interruption(&mut self, kind: OpKind, path: &str) -> Option<Box<dyn FnOnce() + Send>> {
        let interrupt = self.interrupt.as_mut().filter(|it| it.kind == kind && path.ends_with(&it.path))?;
        if interrupt.skip > 0 {
            interrupt.skip -= 1;
            return None;
        }
        self.interrupt.take().map(|it| it.work)
    }

    pub(super) fn new(tree: Tree, seed: u64) -> Self {
        let next_ino = tree.next_ino();
        let state = State::settled(tree);
        Self {
            initial: state.clone(),
            state,
            journal: Vec::new(),
            log: Vec::new(),
            fault: None,
            interrupt: None,
            capacity: None,
            life: 0,
            locks: BTreeMap::default(),
            mapped: BTreeMap::default(),
            next_ino,
            random: seed,
        }
    }

    /// Counts and logs an operation, and makes it fail if it shall.
    fn begin(&mut self, life: u64, kind: OpKind, path: &str, len: u64) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("the simulated process was killed"));
        }
        let op = Op { number: self.log.len() as u64, kind, path: path.to_owned(), len };
        let failure = self.fault.as_mut().and_then(|fault| fault(&op));
        self.log.push(op);
        match failure {
            Some(kind) => Err(io::Error::new(kind, "simulated failure")),
            None => Ok(()),
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.state.apply(&event);
        self.journal.push((self.log.len() as u64, event));
    }

    fn resolve(&self, path: &Path) -> Option<Ino> {
        names(path).try_fold(ROOT, |dir, name| self.state.live.entry(dir, &name))
    }

    fn file(&self, path: &Path) -> io::Result<(Ino, Arc<Vec<u8>>)> {
        let ino = self.resolve(path).ok_or(io::ErrorKind::NotFound)?;
        let content = self.state.live.content(ino).ok_or(io::ErrorKind::IsADirectory)?;
        Ok((ino, Arc::clone(content)))
    }

    fn entries(&self, ino: Ino) -> io::Result<Vec<(String, Ino)>> {
        match self.state.live.node(ino) {
            Some(Node::Dir(entries)) => Ok(entries.iter().map(|(name, ino)| (name.clone(), *ino)).collect()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The entry that `path` names; its directory must be there.
    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let mut names: Vec<String> = names(path).collect();
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir =
            names.iter().try_fold(ROOT, |dir, name| self.state.live.entry(dir, name)).ok_or(io::ErrorKind::NotFound)?;
        match self.state.live.node(dir) {
            Some(Node::Dir(_)) => Ok(Entry { dir, name }),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn link_new(&mut self, at: Entry, is_dir: bool) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.happen(Event::Change(Change::Link { at, ino, is_dir }));
        ino
    }

    fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.state.live.node(ino), Some(Node::Dir(_)))
    }

    fn used(&self) -> u64 {
        self.state
            .live
            .walk()
            .iter()
            .filter_map(|(_, content)| content.as_ref())
            .map(|content| content.len() as u64)
            .sum()
    }

    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// A mapping must not outlive what it shows: on a real machine a cut under it is a SIGBUS.
    fn refuse_if_mapped(&self, ino: Ino, path: &str) {
        let mapped = self.mapped.get(&ino).is_some_and(|token| Arc::strong_count(token) > 1);
        assert!(!mapped, "{path} is changed while it is memory-mapped: on a real machine that is a SIGBUS");
    }
}

/// The names in a path, from the root; a relative path starts there too.
fn names(path: &Path) -> impl Iterator<Item = String> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    })
}

fn show(path: &Path) -> String {
    names(path).fold(String::new(), |path, name| path + "/" + &name)
}

/// A process's view of the disk.
#[derive(Debug, Clone)]
pub(super) struct SimFs {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) life: u64,
}

impl SimFs {
    fn open(&self, path: &Path, ino: Ino) -> SimFile {
        SimFile { fs: self.clone(), ino, path: show(path) }
    }

    fn begin(&self, kind: OpKind, path: &Path, len: u64) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let path = show(path);
        let mut disk = self.disk.lock();
        if let Some(work) = disk.interruption(kind, &path) {
            drop(disk);
            work();
            disk = self.disk.lock();
        }
        disk.begin(self.life, kind, &path, len)?;
        Ok(disk)
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.begin(OpKind::Create, path, 0)?;
        let at = disk.entry(path)?;
        if disk.state.live.entry(at.dir, &at.name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if disk.room() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let ino = disk.link_new(at, false);
        Ok(Box::new(self.open(path, ino)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let disk = self.begin(OpKind::OpenAppend, path, 0)?;
        let (ino, _) = disk.file(path)?;
        Ok(Box::new(self.open(path, ino)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        let disk = self.begin(OpKind::OpenRead, path, 0)?;
        let (ino, _) = disk.file(path)?;
        Ok(Box::new(self.open(path, ino)))
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let mut disk = self.begin(OpKind::Map, path, 0)?;
        let (ino, content) = disk.file(path)?;
        let token = Arc::clone(disk.mapped.entry(ino).or_default());
        Ok(Bytes::from_owner(Mapping { content, _token: token }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.begin(OpKind::Read, path, 0)?;
        let (_, content) = disk.file(path)?;
        Ok(content.to_vec())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.begin(OpKind::HardLink, from, 0)?;
        let (ino, _) = disk.file(from)?;
        let at = disk.entry(to)?;
        if disk.state.live.entry(at.dir, &at.name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.happen(Event::Change(Change::Link { at, ino, is_dir: false }));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.begin(OpKind::Rename, from, 0)?;
        let (at, to) = (disk.entry(from)?, disk.entry(to)?);
        let ino = disk.state.live.entry(at.dir, &at.name).ok_or(io::ErrorKind::NotFound)?;
        let is_dir = disk.is_dir(ino);
        if let Some(over) = disk.state.live.entry(to.dir, &to.name) {
            match (is_dir, disk.is_dir(over)) {
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, true) if !disk.entries(over)?.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        if at != to {
            disk.happen(Event::Change(Change::Rename { from: at, to, ino, is_dir }));
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.begin(OpKind::RemoveFile, path, 0)?;
        disk.file(path)?;
        let at = disk.entry(path)?;
        disk.happen(Event::Change(Change::Unlink { at }));
        Ok(())
    }

    /// Name by name, as the system does it: each is an operation of its own that can fail or be the last.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let (ino, entries) = {
            let disk = self.begin(OpKind::List, path, 0)?;
            let ino = disk.resolve(path).ok_or(io::ErrorKind::NotFound)?;
            (ino, disk.entries(ino)?)
        };
        for (name, child) in entries {
            let is_dir = self.disk.lock().is_dir(child);
            if is_dir {
                self.remove_dir_all(&path.join(&name))?;
            } else {
                self.remove_file(&path.join(&name))?;
            }
        }
        let mut disk = self.begin(OpKind::RemoveDir, path, 0)?;
        if !disk.entries(ino)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let at = disk.entry(path)?;
        disk.happen(Event::Change(Change::Unlink { at }));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut so_far = std::path::PathBuf::from("/");
        for name in names(path) {
            so_far.push(&name);
            let missing = {
                let disk = self.disk.lock();
                match disk.resolve(&so_far) {
                    Some(ino) if !disk.is_dir(ino) => return Err(io::ErrorKind::NotADirectory.into()),
                    found => found.is_none(),
                }
            };
            if missing {
                let mut disk = self.begin(OpKind::CreateDir, &so_far, 0)?;
                let at = disk.entry(&so_far)?;
                disk.link_new(at, true);
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.begin(OpKind::List, path, 0)?;
        let ino = disk.resolve(path).ok_or(io::ErrorKind::NotFound)?;
        let entries = disk.entries(ino)?;
        Ok(entries.into_iter().map(|(name, ino)| DirEntry { name, is_dir: disk.is_dir(ino) }).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let disk = self.begin(OpKind::Stat, path, 0)?;
        Ok(disk.resolve(path).and_then(|ino| match disk.state.live.node(ino)? {
            Node::File(content) => Some(Stat { is_dir: false, len: content.len() as u64 }),
            Node::Dir(_) => Some(Stat { is_dir: true, len: 0 }),
        }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.begin(OpKind::SyncDir, path, 0)?;
        let ino = disk.resolve(path).ok_or(io::ErrorKind::NotFound)?;
        disk.entries(ino)?;
        disk.happen(Event::SyncDir { ino });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.begin(OpKind::Lock, path, 0)?;
        let at = disk.entry(path)?;
        let ino = match disk.state.live.entry(at.dir, &at.name) {
            Some(ino) => ino,
            None => disk.link_new(at, false),
        };
        // A lock of a killed process went with it.
        if disk.locks.get(&ino) == Some(&disk.life) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let life = disk.life;
        disk.locks.insert(ino, life);
        Ok(Box::new(SimLock { fs: self.clone(), ino }))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let disk = self.begin(OpKind::Space, path, 0)?;
        disk.resolve(path).ok_or(io::ErrorKind::NotFound)?;
        // A disk without a set size has room, but not so much that adding to it overflows.
        const LARGE: u64 = 1 << 50;
        Ok(Space { total: disk.capacity.unwrap_or(LARGE), available: disk.room().min(LARGE) })
    }
}

/// An open file, of either kind.
#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    ino: Ino,
    path: String,
}

impl SimFile {
    fn begin(&self, kind: OpKind, len: u64) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let mut disk = self.fs.disk.lock();
        disk.begin(self.fs.life, kind, &self.path, len)?;
        Ok(disk)
    }

    fn content(&self, disk: &Disk) -> Arc<Vec<u8>> {
        disk.state.live.content(self.ino).map(Arc::clone).unwrap_or_default()
    }
}

impl File for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.fs.disk.lock();
        let begun = disk.begin(self.fs.life, OpKind::Append, &self.path, bytes.len() as u64);
        if self.fs.life != disk.life {
            return begun;
        }
        disk.refuse_if_mapped(self.ino, &self.path);
        let mut written = bytes.len();
        let mut result = Ok(());
        if let Err(error) = begun {
            // A write that fails may have written any first part.
            written = (splitmix64(&mut disk.random) % (bytes.len() as u64 + 1)) as usize;
            result = Err(error);
        } else if disk.room() < bytes.len() as u64 {
            written = disk.room() as usize;
            result = Err(io::ErrorKind::StorageFull.into());
        }
        let offset = self.content(&disk).len();
        if let Some(bytes) = bytes.get(..written).filter(|bytes| !bytes.is_empty()) {
            let bytes = Bytes::copy_from_slice(bytes);
            disk.happen(Event::Change(Change::Write { ino: self.ino, offset, bytes }));
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.fs.disk.lock();
        let begun = disk.begin(self.fs.life, OpKind::Sync, &self.path, 0);
        if self.fs.life != disk.life {
            return begun;
        }
        disk.happen(if begun.is_ok() { Event::Sync { ino: self.ino } } else { Event::SyncFailed { ino: self.ino } });
        begun
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.begin(OpKind::SetLen, len)?;
        disk.refuse_if_mapped(self.ino, &self.path);
        let before = self.content(&disk).len() as u64;
        if len > before && disk.room() < len - before {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if len != before {
            disk.happen(Event::Change(Change::SetLen { ino: self.ino, len: len as usize }));
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.begin(OpKind::Len, 0)?;
        Ok(self.content(&disk).len() as u64)
    }
}

impl ReadAt for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let disk = self.begin(OpKind::ReadAt, buf.len() as u64)?;
        let content = self.content(&disk);
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buf.len());
        if let (Some(from), Some(to)) = (rest.get(..read), buf.get_mut(..read)) {
            to.copy_from_slice(from);
        }
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        File::len(self)
    }
}

/// A mapped file's bytes, and the token that says that they are in use.
struct Mapping {
    content: Arc<Vec<u8>>,
    _token: Arc<()>,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    ino: Ino,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.fs.disk.lock();
        if disk.life == self.fs.life {
            disk.locks.remove(&self.ino);
        }
    }
}
