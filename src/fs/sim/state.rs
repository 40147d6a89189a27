//! What the simulated disk holds: as programs see it, as it would be after a power cut, and the changes in between.
//!
//! ```text
//! live      what every read sees: the page cache over the platter
//! durable   the platter: all that a sync has reached
//! pending   changes that are in `live` and not yet promised to be in `durable`, oldest first
//! ```
//!
//! A file is an inode and a name is an entry in a directory, apart from each other as on a real disk: syncing a file
//! makes its content durable and not its name, syncing a directory makes its names durable and not what they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// The number of an inode. The root directory is [`ROOT`].
pub(super) type Ino = u64;

/// The root directory.
pub(super) const ROOT: Ino = 0;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) dir: Ino,
    pub(super) name: String,
}

/// A file or a directory.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Arc<Vec<u8>>),
    Dir(BTreeMap<String, Ino>),
}

/// All inodes of a disk. Cloning shares the files' contents.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<Ino, Node>,
}

impl Tree {
    pub(super) fn empty() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::Dir(BTreeMap::new()))]) }
    }

    pub(super) fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub(super) fn entry(&self, dir: Ino, name: &str) -> Option<Ino> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(entries)) => entries.get(name).copied(),
            _ => None,
        }
    }

    pub(super) fn content(&self, ino: Ino) -> Option<&Arc<Vec<u8>>> {
        match self.nodes.get(&ino) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    fn content_mut(&mut self, ino: Ino) -> Option<&mut Vec<u8>> {
        // A file can be synced before its name is: its inode then comes into being here.
        match self.nodes.entry(ino).or_insert_with(|| Node::File(Arc::default())) {
            Node::File(content) => Some(Arc::make_mut(content)),
            Node::Dir(_) => None,
        }
    }

    fn entries_mut(&mut self, dir: Ino) -> Option<&mut BTreeMap<String, Ino>> {
        match self.nodes.entry(dir).or_insert_with(|| Node::Dir(BTreeMap::new())) {
            Node::Dir(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    fn link(&mut self, at: &Entry, ino: Ino) {
        if let Some(entries) = self.entries_mut(at.dir) {
            entries.insert(at.name.clone(), ino);
        }
    }

    fn unlink(&mut self, at: &Entry) {
        if let Some(entries) = self.entries_mut(at.dir) {
            entries.remove(&at.name);
        }
    }

    /// Writes `bytes` at `offset`; what lies between the file's end and there becomes zeros.
    pub(super) fn write(&mut self, ino: Ino, offset: usize, bytes: &[u8]) {
        let Some(content) = self.content_mut(ino) else { return };
        let end = offset + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        if let Some(place) = content.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
    }

    /// Takes in a change as a whole.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { ino, offset, bytes } => self.write(*ino, *offset, bytes),
            Change::SetLen { ino, len } => {
                if let Some(content) = self.content_mut(*ino) {
                    content.resize(*len, 0);
                }
            }
            Change::Link { at, ino, is_dir } => {
                if *is_dir {
                    self.entries_mut(*ino);
                } else {
                    self.content_mut(*ino);
                }
                self.link(at, *ino);
            }
            Change::Unlink { at } => self.unlink(at),
            Change::Rename { from, to, ino, is_dir } => {
                if *is_dir {
                    self.entries_mut(*ino);
                } else {
                    self.content_mut(*ino);
                }
                self.unlink(from);
                self.link(to, *ino);
            }
        }
    }

    /// Every file that a name leads to, with its path from the root; directories end in `/`.
    pub(super) fn walk(&self) -> Vec<(String, Option<Arc<Vec<u8>>>)> {
        let mut found = Vec::new();
        self.walk_into(ROOT, "/", &mut found);
        found
    }

    fn walk_into(&self, dir: Ino, prefix: &str, found: &mut Vec<(String, Option<Arc<Vec<u8>>>)>) {
        let Some(Node::Dir(entries)) = self.nodes.get(&dir) else { return };
        for (name, ino) in entries {
            match self.nodes.get(ino) {
                Some(Node::File(content)) => found.push((format!("{prefix}{name}"), Some(Arc::clone(content)))),
                Some(Node::Dir(_)) => {
                    let path = format!("{prefix}{name}/");
                    found.push((path.clone(), None));
                    self.walk_into(*ino, &path, found);
                }
                None => {}
            }
        }
    }

    /// The inode number that is surely free.
    pub(super) fn next_ino(&self) -> Ino {
        self.nodes.last_key_value().map_or(ROOT, |(ino, _)| *ino) + 1
    }
}

/// One change that a program made.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { ino: Ino, offset: usize, bytes: Bytes },
    SetLen { ino: Ino, len: usize },
    Link { at: Entry, ino: Ino, is_dir: bool },
    Unlink { at: Entry },
    Rename { from: Entry, to: Entry, ino: Ino, is_dir: bool },
}

impl Change {
    /// The file whose content it changes.
    fn file(&self) -> Option<Ino> {
        match self {
            Self::Write { ino, .. } | Self::SetLen { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// The names that it changes.
    fn names(&self) -> impl Iterator<Item = &Entry> {
        let (first, second) = match self {
            Self::Link { at, .. } | Self::Unlink { at } => (Some(at), None),
            Self::Rename { from, to, .. } => (Some(from), Some(to)),
            Self::Write { .. } | Self::SetLen { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Whether it can only be on the disk if `earlier` is: both change the same name; or `earlier` set the length of
    /// the file that this one changes, and a file system keeps the lengths that an inode was given in order.
    /// Everything else may reach the disk in any order.
    pub(super) fn needs(&self, earlier: &Self) -> bool {
        match (self.file(), earlier) {
            (Some(ino), Self::SetLen { ino: cut, .. }) => ino == *cut,
            (None, _) => self.names().any(|name| earlier.names().any(|other| other == name)),
            _ => false,
        }
    }
}

/// A change that is not durable yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) change: Change,
    /// A sync that should have covered it failed. The kernel has then marked its pages clean: a later sync answers
    /// "done" without having written them.
    given_up: bool,
}

/// What happened to the disk, in the order in which it happened.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Change(Change),
    Sync { ino: Ino },
    SyncDir { ino: Ino },
    SyncFailed { ino: Ino },
    SyncAll,
}

/// See the file's header.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) live: Tree,
    pub(super) durable: Tree,
    pub(super) pending: Vec<Pending>,
}

impl State {
    /// A disk on which everything in `tree` is durable.
    pub(super) fn settled(tree: Tree) -> Self {
        Self { live: tree.clone(), durable: tree, pending: Vec::new() }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Change(change) => {
                self.live.apply(change);
                self.pending.push(Pending { change: change.clone(), given_up: false });
            }
            Event::Sync { ino } => self.persist(|change| change.file() == Some(*ino)),
            Event::SyncDir { ino } => self.persist(|change| change.names().any(|name| name.dir == *ino)),
            Event::SyncFailed { ino } => {
                for pending in &mut self.pending {
                    pending.given_up |= pending.change.file() == Some(*ino);
                }
            }
            Event::SyncAll => {
                self.durable = self.live.clone();
                self.pending.clear();
            }
        }
    }

    /// Makes durable what `covered` names, and whatever that needs.
    fn persist(&mut self, covered: impl Fn(&Change) -> bool) {
        let mut chosen: Vec<bool> =
            self.pending.iter().map(|pending| !pending.given_up && covered(&pending.change)).collect();
        close_over_needs(&self.pending, &mut chosen);
        let mut chosen = chosen.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|pending| {
            let persisted = chosen.next().unwrap_or(false);
            if persisted {
                durable.apply(&pending.change);
            }
            !persisted
        });
    }
}

/// Adds to `chosen` every change that a chosen one needs.
pub(super) fn close_over_needs(pending: &[Pending], chosen: &mut [bool]) {
    for later in (0..pending.len()).rev() {
        if !chosen.get(later).copied().unwrap_or(false) {
            continue;
        }
        let Some(change) = pending.get(later).map(|pending| &pending.change) else { continue };
        for (earlier, slot) in pending.iter().zip(chosen.iter_mut()).take(later) {
            *slot |= change.needs(&earlier.change);
        }
    }
}
