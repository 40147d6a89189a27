//! What can be wrong with a file of head chunks.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// Why a head chunk cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappedError {
    /// Bytes are not what was written.
    #[error("{}: at offset {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// In bytes from its start.
        offset: u64,
        /// What is wrong there.
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

impl MappedError {
    pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { file: file.to_owned(), source }
    }
}

impl From<MappedError> for Error {
    fn from(error: MappedError) -> Self {
        let kind = match &error {
            MappedError::Corrupt { .. } => ErrorKind::Corrupt,
            MappedError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                _ => ErrorKind::Io,
            },
        };
        Self::new(kind, error)
    }
}
