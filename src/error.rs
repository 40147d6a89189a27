//! The one public error: small, and its [`kind`](Error::kind) says what a caller can do.
//!
//! Inside, each room has errors of its own with the file, the offset, the field or the series. They become this one at
//! the door: the text is theirs, the kind is what the caller acts on.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Stored bytes are not what was written. The rest of the data is still served; restore or drop what is named.
    Corrupt,
    /// The sample is older than one that the series has. Dropping it is the only choice.
    OutOfOrder,
    /// The sample is older than anything that can still be written.
    TooOld,
    /// The sample is too far in the future: a clock is wrong.
    TooFarAhead,
    /// The series has another value at that time; the first stays.
    Duplicate,
    /// A configured limit: series, bytes, samples.
    LimitExceeded,
    /// The disk is full. Reads go on; writes go on when there is room.
    Full,
    /// Another process owns the directory.
    Locked,
    /// Opening is not finished, or closing has begun. Try again later.
    NotReady,
    /// It is valid, but not built (yet).
    Unsupported,
    /// The caller's input is wrong; the text says where.
    InvalidInput,
    /// The deadline passed.
    Timeout,
    /// The caller cancelled.
    Cancelled,
    /// The operating system refused.
    Io,
}

/// An error of this crate. See [`ErrorKind`].
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Box<dyn StdError + Send + Sync>,
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `source` is its text and its cause.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }

    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What it is in detail, if that is an `E`: the error of a room, such as [`Refusal`](crate::head::Refusal), which says
    /// why a sample was not taken and what stands in its way. There is none once [`context`](Error::context) was added.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }

    /// The same error, its text behind `context` and a colon: who was doing what.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { kind: self.kind, source: format!("{context}: {}", self.source).into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, out)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            _ => ErrorKind::Io,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_io() {
        let full: Error = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
        assert_eq!(full.kind(), ErrorKind::Full);
        let other: Error = std::io::Error::from(std::io::ErrorKind::PermissionDenied).into();
        assert_eq!(other.kind(), ErrorKind::Io);
    }

    #[test]
    fn context_stands_before_the_text_and_keeps_the_kind() {
        let error = Error::new(ErrorKind::Corrupt, "bad sum").context("wal/00000001 at offset 7");
        assert_eq!(error.to_string(), "wal/00000001 at offset 7: bad sum");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
