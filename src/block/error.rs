//! What can be wrong with a block: always with the file, and the offset where there is one, so that the block can be set
//! aside and a person can look.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// Why a block cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Bytes are not what a writer can have written.
    #[error("{}: at offset {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// In bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The parts of the block do not fit each other.
    #[error("{}: {reason}", dir.display())]
    Inconsistent {
        /// The block's directory.
        dir: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// It is readable, but not by us.
    #[error("{}: {reason}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What is not supported.
        reason: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl BlockError {
    pub(crate) fn corrupt(file: &Path, offset: u64, reason: impl ToString) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, reason: reason.to_string() }
    }

    pub(crate) fn inconsistent(dir: &Path, reason: impl ToString) -> Self {
        Self::Inconsistent { dir: dir.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn io(file: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { file: file.to_owned(), source }
    }
}

impl From<BlockError> for Error {
    fn from(error: BlockError) -> Self {
        let kind = match &error {
            BlockError::Corrupt { .. } | BlockError::Inconsistent { .. } => ErrorKind::Corrupt,
            BlockError::Unsupported { .. } => ErrorKind::Unsupported,
            BlockError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                _ => ErrorKind::Io,
            },
        };
        Self::new(kind, error)
    }
}
