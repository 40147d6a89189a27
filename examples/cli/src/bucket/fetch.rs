//! A block out of a bucket into a directory of this machine.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use narthex::bucket::Bucket;
use narthex::fs::Env;

use super::listing::Listed;
use crate::progress::Bar;

/// Bytes asked for at a time.
const PART: u64 = 8 << 20;
/// Parts that are under way at a time.
const AHEAD: usize = 4;

/// A directory that goes away with this.
#[derive(Debug)]
pub(super) struct Scratch {
    env: Env,
    path: PathBuf,
}

impl Scratch {
    /// A new directory below `parent`.
    pub(super) fn new(env: &Env, parent: &Path) -> std::io::Result<Self> {
        let path = parent.join(format!("narthex-verify-{:016x}", env.rng.next_u64()));
        env.fs.create_dir_all(&path)?;
        Ok(Self { env: env.clone(), path })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.env.fs.remove_dir_all(&self.path) {
            crate::warn(format_args!("{} is left behind: {error}", self.path.display()));
        }
    }
}

/// Copies all files of `block` to `dir`.
pub(super) fn fetch(env: &Env, bucket: &Bucket, block: &Listed, dir: &Path, bar: &Bar) -> narthex::error::Result<()> {
    for (path, &size) in &block.files {
        bar.subject(format_args!("{}/{path}", block.ulid));
        let to = dir.join(path);
        if let Some(parent) = to.parent() {
            env.fs.create_dir_all(parent)?;
        }
        let mut file = env.fs.create(&to)?;
        let mut starts = (0..size).step_by(PART as usize);
        let mut under_way = VecDeque::new();
        loop {
            while under_way.len() < AHEAD
                && let Some(start) = starts.next()
            {
                let (own, key) = (bucket.clone(), format!("{}/{path}", block.ulid));
                let part = async move { own.get_range(&key, start..(start + PART).min(size)).await };
                under_way.push_back(bucket.runtime().spawn(part));
            }
            let Some(part) = under_way.pop_front() else { break };
            let bytes = bucket.block_on(part).map_err(std::io::Error::other)??;
            file.append(&bytes)?;
            bar.add(bytes.len() as u64);
        }
    }
    Ok(())
}
