//! Backfill into a database that is open: blocks are made beside, and taken over when they are whole.
//!
//! What is there already wins over what is taken over, sample by sample: the new blocks get younger names; and so does what
//! comes in order later, as the head takes it without a look into blocks. Appends and queries go on meanwhile, but that
//! commits of late samples wait while the blocks get their names; a query sees all of a backfill or nothing of it. A crash
//! while blocks are taken over leaves each of them whole or not there; doing it again changes nothing for those that are.
//!
//! The blocks say that they are made of out-of-order samples ([`HINT_OUT_OF_ORDER`]), which is what they are: there may be
//! more of their span in the head, so their end must not move the log's cut-off, and what came in order wins over them.

use std::path::{Path, PathBuf};

use super::{Db, Inner, Maintenance};
use crate::block::{
    BLOCK_FILES, Block, BlockCompaction, BlockDesc, BlockMeta, CHUNKS_DIR, CREATING, HINT_OUT_OF_ORDER, META_FILE,
    Ulid, is_block, new_ulid,
};
use crate::budget::Budget;
use crate::compact::{BulkOptions, BulkWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Fs, with_suffix};
use crate::model::{Labels, Sample, TimeRange};

/// Bytes that are copied at once.
const COPIED_AT_ONCE: usize = 1 << 20;

/// A backfill into an open database. Dropping it before [`commit`](Bulk::commit) removes what was written.
#[derive(Debug)]
pub struct Bulk {
    db: Db,
    writer: BulkWriter,
}

impl Bulk {
    /// Takes a sample of the series `labels`; it is not there for queries before [`commit`](Bulk::commit). See
    /// [`BulkWriter::append`].
    ///
    /// # Errors
    /// As there.
    pub fn append(&mut self, labels: &Labels, sample: &Sample) -> Result<()> {
        self.writer.append(labels, sample)
    }

    /// Makes all of it part of the database, and durable. Returns the new blocks.
    ///
    /// # Errors
    /// `TooFarAhead` if a sample is further ahead of the clock than [`Options::future_bound`](super::Options) lets
    /// appends be; `Unsupported` if the database is append-only and has samples in a new block's span or could still get some;
    /// `NotReady` after [`Db::close`]; `Io`, `Full`. Nothing of it is there then.
    pub fn commit(self) -> Result<Vec<Ulid>> {
        let inner = &self.db.inner;
        let (scratch, metas) = self.writer.finish_beside(&Budget::unlimited())?;
        let blocks = metas.into_iter().map(|meta| (scratch.block(meta.ulid), meta)).collect();
        inner.adopt(blocks)
    }
}

impl Db {
    /// Begins a backfill: samples of any time, which become blocks of their own.
    ///
    /// # Errors
    /// `NotReady` after [`close`](Db::close), `InvalidInput` for options, `Io`, `Full`.
    pub fn bulk(&self, options: BulkOptions) -> Result<Bulk> {
        self.inner.check_open()?;
        let float_encoding = options.float_encoding.or(Some(self.inner.options.float_encoding));
        let options = BulkOptions { float_encoding, ..options };
        let writer = BulkWriter::create(&self.inner.env, &self.inner.dir, options)?;
        Ok(Bulk { db: self.clone(), writer })
    }

    /// Copies a block, or all blocks of a directory, into the database. The copies get names of their own. Returns those.
    ///
    /// # Errors
    /// As [`Bulk::commit`]; `Corrupt` for a block that is damaged, `InvalidInput` for one that is downsampled. Nothing was
    /// taken over then.
    pub fn import(&self, from: &Path) -> Result<Vec<Ulid>> {
        let inner = &self.inner;
        inner.check_open()?;
        let fs = &*inner.env.fs;
        let mut sources = Vec::new();
        if is_block(fs, from)? {
            sources.push(from.to_owned());
        } else {
            let entries = fs.list(from).map_err(|error| Error::from(error).context(from.display()))?;
            for entry in entries.into_iter().filter(|entry| Ulid::from_string(&entry.name).is_ok()) {
                let path = from.join(&entry.name);
                if is_block(fs, &path)? {
                    sources.push(path);
                }
            }
        }
        // All are looked at before any is copied.
        let mut blocks = Vec::with_capacity(sources.len());
        for source in sources {
            let block = Block::open(fs, &source)?;
            block.verify()?;
            if block.meta().resolution() != 0 {
                let reason = format!("{}: a downsampled block holds no samples", source.display());
                return Err(Error::new(ErrorKind::InvalidInput, reason));
            }
            blocks.push(block);
        }
        let mut copies = Copies { fs, blocks: Vec::new() };
        for block in blocks {
            let meta = BlockMeta { ulid: new_ulid(&inner.env), ..block.meta().clone() };
            let copy = with_suffix(&inner.dir.join(meta.ulid.to_string()), CREATING);
            copies.blocks.push((copy.clone(), meta));
            copy_block(fs, block.dir(), &copy).map_err(|error| Error::from(error).context(copy.display()))?;
        }
        inner.adopt(copies.blocks.clone())
    }
}

/// Copies that go again unless they were renamed.
struct Copies<'a> {
    fs: &'a dyn Fs,
    blocks: Vec<(PathBuf, BlockMeta)>,
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        for (path, _) in &self.blocks {
            if matches!(self.fs.stat(path), Ok(Some(_)))
                && let Err(error) = self.fs.remove_dir_all(path)
            {
                tracing::warn!(dir = %path.display(), %error, "an unfinished block is left behind");
            }
        }
    }
}

fn copy_block(fs: &dyn Fs, from: &Path, to: &Path) -> std::io::Result<()> {
    fs.create_dir_all(&to.join(CHUNKS_DIR))?;
    for name in BLOCK_FILES.iter().filter(|name| **name != META_FILE) {
        // Thanos leaves the tombstones out.
        if fs.stat(&from.join(name))?.is_some() {
            copy_file(fs, &from.join(name), &to.join(name))?;
        }
    }
    for entry in fs.list(&from.join(CHUNKS_DIR))? {
        let name = Path::new(CHUNKS_DIR).join(entry.name);
        copy_file(fs, &from.join(&name), &to.join(&name))?;
    }
    fs.sync_dir(&to.join(CHUNKS_DIR))
}

fn copy_file(fs: &dyn Fs, from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = fs.map(from)?;
    let mut file = fs.create(to)?;
    bytes.chunks(COPIED_AT_ONCE).try_for_each(|part| file.append(part))?;
    file.sync()
}

impl Inner {
    /// Takes over finished blocks that lie on the same disk. They get younger names than all blocks there are.
    fn adopt(&self, mut blocks: Vec<(PathBuf, BlockMeta)>) -> Result<Vec<Ulid>> {
        // No block is cut, merged or dropped meanwhile.
        let mut state = self.maintenance.lock();
        self.check_open()?;
        let fs = &*self.env.fs;
        for (_, meta) in &blocks {
            self.check_adoptable(meta.time_range())?;
        }
        // What came out of order before this comes before it in blocks too. Most of it while commits go on; what comes
        // meanwhile when no more does until the new blocks are served: seen before them, it must not lose against them.
        state.cut_late = true;
        self.cut_late(&mut state, &mut Maintenance::default())?;
        let closed = self.head.close_gate();
        self.cut_late_within(&closed, &mut state)?;
        self.blocks.add(|names| {
            for (path, meta) in &mut blocks {
                meta.ulid = self.new_ulid(names);
                names.push(meta.ulid);
                meta.compaction = BlockCompaction {
                    level: 1,
                    sources: vec![meta.ulid],
                    parents: vec![BlockDesc { ulid: Ulid::nil(), min_time: 0, max_time: 0 }],
                    hints: vec![HINT_OUT_OF_ORDER.to_owned()],
                    ..BlockCompaction::default()
                };
                meta.write(fs, path)?;
            }
            let rename = |(path, meta): &(PathBuf, BlockMeta)| fs.rename(path, &self.dir.join(meta.ulid.to_string()));
            let renamed = blocks.iter().try_for_each(rename).and_then(|()| fs.sync_dir(&self.dir));
            let dir = self.dir.display();
            renamed.map_err(|error| Error::from(error).context(format_args!("taking blocks over into {dir}")))
        })
    }

    fn check_adoptable(&self, range: TimeRange) -> Result<()> {
        if let Some(bound) = self.options.future_bound {
            let latest = self.env.clock.now_ms().saturating_add(bound);
            if range.max > latest {
                let reason = format!("a sample at {} is more than {bound} ms ahead of the clock", range.max);
                return Err(Error::new(ErrorKind::TooFarAhead, reason));
            }
        }
        if !self.options.append_only {
            return Ok(());
        }
        self.check_apart(range)?;
        // The head would take samples of these times, and they would win. From here on it does not; what it took meanwhile is
        // looked at.
        self.head.raise_floor(range.max.saturating_add(1));
        self.check_apart(range)
    }

    /// Whether there is nothing in `range`, and nothing can come there.
    fn check_apart(&self, range: TimeRange) -> Result<()> {
        let refuse = |why: String| {
            let TimeRange { min, max } = range;
            let reason = format!("the database is append-only: {why} a backfill from {min} to {max}");
            Err(Error::new(ErrorKind::Unsupported, reason))
        };
        let all = self.blocks.all();
        let block = all.iter().map(|block| block.meta().time_range()).find(|other| other.overlaps(&range));
        let head = self.head.min_time().zip(self.head.max_time()).map(|(min, max)| TimeRange::new(min, max));
        if let Some(other) = block.or(head.filter(|head| head.overlaps(&range))) {
            return refuse(format!(
                "it has samples from {} to {}, which could come between those of",
                other.min, other.max
            ));
        }
        match self.head.min_valid_time().filter(|from| head.is_some() && *from <= range.max) {
            Some(from) => refuse(format!("samples from {from} on are still to come, and could change")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
