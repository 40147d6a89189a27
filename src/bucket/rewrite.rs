//! A block without its deleted samples, on its way into a bucket: Thanos knows no tombstones there.

use std::path::{Path, PathBuf};

use crate::block::{Block, BlockError, BlockRead, BlockWriter};
use crate::budget::Budget;
use crate::compact::populate;
use crate::error::Result;
use crate::fs::{Env, Fs};

/// Where a block is rewritten, below the directory that it lies in. Thanos's shipper prepares its blocks there too.
pub(super) const REWRITE_DIR: &str = "thanos/upload";

/// Removes what was being rewritten in the data directory `dir` when a process died.
pub(super) fn remove_rewritten(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let dir = dir.join(REWRITE_DIR);
    if fs.stat(&dir).map_err(BlockError::io(&dir))?.is_some() {
        fs.remove_dir_all(&dir).map_err(BlockError::io(&dir))?;
    }
    Ok(())
}

/// A copy of a block without what is deleted in it, under the same name; it goes when this is dropped.
pub(super) struct Rewritten<'a> {
    env: &'a Env,
    pub(super) dir: PathBuf,
}

impl<'a> Rewritten<'a> {
    /// `None` if nothing is left of it.
    pub(super) fn of(env: &'a Env, block: &Block) -> Result<Option<Self>> {
        let fs = env.fs.as_ref();
        let parent = block.dir().parent().unwrap_or(Path::new("")).join(REWRITE_DIR);
        let rewritten = Self { env, dir: parent.join(block.meta().ulid.to_string()) };
        rewritten.remove()?;
        fs.create_dir_all(&parent).map_err(BlockError::io(&parent))?;
        let mut writer = BlockWriter::create(&env.fs, &parent, block.meta().clone())?;
        populate(&mut writer, &[block], block.time_range(), &Budget::unlimited())?;
        Ok(writer.finish()?.map(|_| rewritten))
    }

    fn remove(&self) -> Result<()> {
        let fs = self.env.fs.as_ref();
        if fs.stat(&self.dir).map_err(BlockError::io(&self.dir))?.is_some() {
            fs.remove_dir_all(&self.dir).map_err(BlockError::io(&self.dir))?;
        }
        Ok(())
    }
}

impl Drop for Rewritten<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "what was rewritten for the bucket stays behind");
        }
    }
}
