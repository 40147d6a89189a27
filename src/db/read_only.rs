//! A directory that somebody else may own, read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocks::Blocks;
use super::downsampled::{DOWNSAMPLED_DIR, Downsampled};
use super::status::Status;
use super::{DbSource, Options, WAL_DIR, WBL_DIR};
use crate::block::{Block, BlockMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, Env};
use crate::head::{Head, HeadOptions, Replayed};
use crate::wal::DamageKind;

/// How often a directory is read that its owner changes meanwhile.
const ATTEMPTS: usize = 8;

/// A database opened for reading: what was there at one moment. It never writes, and its owner does not notice it.
pub struct ReadOnlyDb {
    env: Env,
    dir: PathBuf,
    head: Arc<Head>,
    blocks: Blocks,
    downsampled: Downsampled,
    replayed: Replayed,
}

impl std::fmt::Debug for ReadOnlyDb {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ReadOnlyDb").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl ReadOnlyDb {
    /// Opens the database in `dir` on the machine `env`; see [`Db::open_read_only`](super::Db::open_read_only).
    ///
    /// # Errors
    /// `NotReady` if the owner changed the directory at every attempt to read it; `InvalidInput` if it is not there;
    /// `Io`.
    pub fn open_with(env: &Env, dir: &Path) -> Result<Self> {
        Self::open_as(env, dir, &Options::default())
    }

    /// As [`open_with`](ReadOnlyDb::open_with), and reads the log as an owner with these options does. Whether the start
    /// timestamp that it has of a histogram belongs to the data is the owner's choice (`histogram_start_timestamps`, if
    /// `start_timestamps` are kept), and as long as no head chunk and no block tells nothing in the directory does; without
    /// options they are kept then.
    ///
    /// # Errors
    /// As there; `InvalidInput` for options that contradict each other.
    pub fn open_as(env: &Env, dir: &Path, options: &Options) -> Result<Self> {
        let options = options.head();
        options.check()?;
        let looking = |error| Error::from(error).context(format_args!("looking at {}", dir.display()));
        if env.fs.stat(dir).map_err(looking)?.is_none_or(|stat| !stat.is_dir) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{}: no such directory", dir.display())));
        }
        for _ in 0..ATTEMPTS {
            // The owner puts a block there, then takes its samples out of the log, then the log's segments away. So what
            // was read is whole if nothing came or went meanwhile; samples may, the last segment grows.
            let before = names(env, dir)?;
            let read = Self::read(env, dir, options);
            if names(env, dir)? == before && read.as_ref().map_or(true, Self::has_blocks_as_they_are) {
                return read;
            }
        }
        let text = format!("{}: its owner changed it {ATTEMPTS} times while it was read", dir.display());
        Err(Error::new(ErrorKind::NotReady, text))
    }

    fn read(env: &Env, dir: &Path, options: HeadOptions) -> Result<Self> {
        let blocks = Blocks::open_read_only(env, dir)?;
        let downsampled = Downsampled::open(env, dir)?;
        let floor = blocks.complete_until().unwrap_or(i64::MIN);
        let (head, mut replayed) = Head::open_read_only(env, dir, options, floor)?;
        // The owner may be about to write the rest.
        let (last, last_late) = (replayed.last_segment, replayed.last_out_of_order_segment);
        let late = dir.join(WBL_DIR);
        replayed.damage.retain(|damage| {
            let last = if damage.path.starts_with(&late) { last_late } else { last };
            let at_the_end = damage.at.in_log && Some(damage.at.segment) == last;
            !(at_the_end && matches!(damage.kind, DamageKind::TornEnd { .. }))
        });
        Ok(Self { env: env.clone(), dir: dir.to_owned(), head, blocks, downsampled, replayed })
    }

    /// Whether nothing was deleted in its blocks since they were opened. A deletion comes to blocks before it comes to the
    /// log: who has the one without the other would find in a block what lost against the sample that the log has no more.
    fn has_blocks_as_they_are(&self) -> bool {
        let is_as_it_is = |block: &Arc<Block>| {
            BlockMeta::read(self.env.fs.as_ref(), block.dir()).is_ok_and(|meta| meta == *block.meta())
        };
        self.blocks.all().iter().chain(&self.downsampled.all()).all(is_as_it_is)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the log held.
    #[must_use]
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// All of it, to be queried.
    #[must_use]
    pub fn source(&self) -> DbSource {
        DbSource::new(&self.head, &self.blocks)
    }

    /// What is here and how it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = Status::of(&self.env, &self.dir, &self.head, &self.blocks, &self.replayed);
        status.with_downsampled(&self.downsampled)
    }
}

/// The blocks, checkpoints and segments that are there.
fn names(env: &Env, dir: &Path) -> Result<Vec<DirEntry>> {
    let mut names = Vec::new();
    for dir in [dir.to_owned(), dir.join(WAL_DIR), dir.join(WBL_DIR), dir.join(DOWNSAMPLED_DIR)] {
        match env.fs.list(&dir) {
            Ok(entries) => names.extend(entries.into_iter().filter(|entry| !entry.name.contains(".tmp"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::from(error).context(format_args!("listing {}", dir.display()))),
        }
    }
    Ok(names)
}
