//! What can be wrong with an index.

use std::sync::Arc;

use crate::codec::ReadError;
use crate::error::{Error, ErrorKind};

/// Why an index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Bytes are not what a writer can have written.
    #[error("{file}: {what} at offset {offset}: {reason}")]
    Corrupt {
        /// The index's path.
        file: Arc<str>,
        /// Which part of it.
        what: &'static str,
        /// Where the part begins, in bytes from the file's start.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A format that is none of 1, 2 and 3.
    #[error("{file}: index format {version} is not known; 1, 2 and 3 are")]
    UnknownVersion {
        /// The index's path.
        file: Arc<str>,
        /// The version byte.
        version: u8,
    },
    /// What was given to the writer would not make a valid index: an order is broken, or a limit of the format.
    #[error("{file}: {reason}")]
    Invalid {
        /// The index's path.
        file: Arc<str>,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("{file}: {source}")]
    Io {
        /// The index's path.
        file: Arc<str>,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        let kind = match &error {
            IndexError::Corrupt { .. } => ErrorKind::Corrupt,
            IndexError::UnknownVersion { .. } => ErrorKind::Unsupported,
            IndexError::Invalid { .. } => ErrorKind::InvalidInput,
            IndexError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Full,
            IndexError::Io { .. } => ErrorKind::Io,
        };
        Self::new(kind, error)
    }
}

/// Where errors come from: a file and a part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a Arc<str>,
    pub(super) what: &'static str,
    pub(super) offset: u64,
}

impl Place<'_> {
    pub(super) fn corrupt(self, reason: impl ToString) -> IndexError {
        let Self { file, what, offset } = self;
        IndexError::Corrupt { file: Arc::clone(file), what, offset, reason: reason.to_string() }
    }

    pub(super) fn read(self) -> impl Fn(ReadError) -> IndexError {
        let (file, what, offset) = (Arc::clone(self.file), self.what, self.offset);
        move |error| IndexError::Corrupt { file: Arc::clone(&file), what, offset, reason: error.to_string() }
    }
}
