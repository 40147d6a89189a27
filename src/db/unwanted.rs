//! Blocks that are to go: removed at once, or remembered until they are gone.
//!
//! What is not served hears of no delete. A block that stayed under its name would be served by the next opening, with what
//! was deleted meanwhile. So its name is noted before it is removed, and nothing is deleted while it may still be there.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::block::{DELETING, Ulid};
use crate::error::{Error, Result};
use crate::fs::{Env, with_suffix};

/// Blocks of one directory that are not served and may be there all the same.
pub(super) struct Unwanted {
    env: Env,
    dir: PathBuf,
    names: Mutex<Vec<Ulid>>,
}

impl Unwanted {
    pub(super) fn new(env: &Env, dir: &Path) -> Self {
        Self { env: env.clone(), dir: dir.to_owned(), names: Mutex::default() }
    }

    /// Their names, which no other block must get.
    pub(super) fn names(&self) -> Vec<Ulid> {
        self.names.lock().clone()
    }

    /// Removes a block that is not served.
    ///
    /// # Errors
    /// `Io`: [`finish`](Unwanted::finish) tries it again.
    pub(super) fn remove(&self, name: Ulid) -> Result<()> {
        let mut names = self.names.lock();
        names.retain(|other| *other != name);
        self.take_away(name).inspect_err(|_| names.push(name))
    }

    /// Removes blocks of a writer that has failed, as far as they were there already.
    pub(super) fn discard(&self, names: &[Ulid]) {
        for name in names {
            if let Err(error) = self.remove(*name) {
                tracing::warn!(block = %name, %error, "a block that is of no use stays: nothing is deleted until it is gone");
            }
        }
    }

    /// Removes what could not be removed before.
    ///
    /// # Errors
    /// `Io`: something is left.
    pub(super) fn finish(&self) -> Result<()> {
        let mut result = Ok(());
        self.names.lock().retain(|name| {
            let taken = self.take_away(*name);
            let stays = taken.is_err();
            if result.is_ok() {
                result = taken;
            }
            stays
        });
        result
    }

    fn take_away(&self, name: Ulid) -> Result<()> {
        let path = self.dir.join(name.to_string());
        let temporary = with_suffix(&path, DELETING);
        let fs = self.env.fs.as_ref();
        let take_away = || {
            if fs.stat(&path)?.is_some() {
                if fs.stat(&temporary)?.is_some() {
                    fs.remove_dir_all(&temporary)?;
                }
                // One rename takes it out of the way; what comes after may be interrupted.
                fs.rename(&path, &temporary)?;
                tracing::info!(block = %path.display(), "dropped a block");
            }
            // Else a power cut could undo the rename and leave a block without some of its files. Also where there is
            // nothing: another rename may have been taken back.
            fs.sync_dir(&self.dir)?;
            if fs.stat(&temporary)?.is_some() {
                fs.remove_dir_all(&temporary)?;
            }
            Ok(())
        };
        take_away().map_err(|error: std::io::Error| {
            Error::from(error).context(format_args!("dropping block {}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests;
