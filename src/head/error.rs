//! Why the head refuses a sample, a series or a reference.

use crate::error::{Error, ErrorKind};

/// Why a sample is refused. Its neighbours are not.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The series has another value at this time; the first stays.
    #[error("duplicate sample for timestamp {t}")]
    Duplicate {
        /// The sample's time.
        t: i64,
    },
    /// The series has a newer sample.
    #[error("out of order sample: {t} is before {newest}, the newest of the series")]
    OutOfOrder {
        /// The sample's time.
        t: i64,
        /// The newest one's.
        newest: i64,
    },
    /// Nothing so old can be written any more.
    #[error("out of bounds: sample at {t} is older than {oldest}, the oldest that can be written")]
    TooOld {
        /// The sample's time.
        t: i64,
        /// The first millisecond that can be written.
        oldest: i64,
    },
    /// The series has a newer sample, and this one is too far behind the newest of all to be taken out of order.
    #[error("too old sample: {t} is before {oldest}, where the out-of-order window begins")]
    BeforeWindow {
        /// The sample's time.
        t: i64,
        /// The first millisecond in the window.
        oldest: i64,
    },
    /// The sample is from the future.
    #[error("sample at {t} is too far in the future: the clock says {now}")]
    TooFarAhead {
        /// The sample's time.
        t: i64,
        /// This machine's.
        now: i64,
    },
    /// The series would be one too many. Samples of series that exist are still taken.
    #[error("series limit of {limit} reached")]
    SeriesLimit {
        /// The limit.
        limit: u64,
    },
    /// The label set is empty: there is nothing to find the series by.
    #[error("empty label set")]
    NoLabels,
    /// The bytes are the packed form of no label set: cut, not sorted, with a name twice or an empty value.
    #[error("labels in no packed form: cut off, not sorted by name, a name twice or an empty value")]
    NotPacked,
    /// Metadata or an exemplar for a series that there is not.
    #[error("unknown series")]
    UnknownSeries,
    /// An exemplar with too much text.
    #[error("exemplar labels have {runes} characters, more than 128")]
    ExemplarTooLong {
        /// Characters of its labels' names and values.
        runes: usize,
    },
    /// The histogram contradicts itself.
    #[error("{0}")]
    Histogram(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Duplicate { .. } => ErrorKind::Duplicate,
            Refusal::OutOfOrder { .. } => ErrorKind::OutOfOrder,
            Refusal::TooOld { .. } | Refusal::BeforeWindow { .. } => ErrorKind::TooOld,
            Refusal::TooFarAhead { .. } => ErrorKind::TooFarAhead,
            Refusal::SeriesLimit { .. } => ErrorKind::LimitExceeded,
            Refusal::NoLabels
            | Refusal::NotPacked
            | Refusal::UnknownSeries
            | Refusal::ExemplarTooLong { .. }
            | Refusal::Histogram(_) => ErrorKind::InvalidInput,
        };
        Self::new(kind, refusal)
    }
}
