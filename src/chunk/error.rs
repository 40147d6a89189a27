//! What can be wrong with a chunk.

use super::{Aggregate, Encoding};
use crate::codec::OutOfBits;
use crate::error::{Error, ErrorKind};

/// Why a chunk cannot be read, or appended to. Offsets count from the start of the chunk's data; which file and which
/// series it belongs to is known to whoever holds the chunk and is added there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// No encoding has this number.
    #[error("unknown chunk encoding {0}")]
    UnknownEncoding(u8),
    /// The data is shorter than the encoding's header.
    #[error("{} chunk: {len} bytes are too few for a header", encoding.name())]
    Header {
        /// The chunk's encoding.
        encoding: Encoding,
        /// Bytes that are there.
        len: usize,
    },
    /// The data ends inside a sample.
    #[error("{} chunk: sample {sample} of {count}: {source}", encoding.name())]
    Short {
        /// The chunk's encoding.
        encoding: Encoding,
        /// The sample that is cut, from 0.
        sample: usize,
        /// Samples that the header promises.
        count: usize,
        /// Where the data ends.
        source: OutOfBits,
    },
    /// Bits that no writer writes.
    #[error("{} chunk: sample {sample} near bit {bit_offset}: {what}", encoding.name())]
    Invalid {
        /// The chunk's encoding.
        encoding: Encoding,
        /// The sample, from 0.
        sample: usize,
        /// Just behind the bits in question.
        bit_offset: usize,
        /// What is wrong with them.
        what: &'static str,
    },
    /// Floats were asked of a chunk of histograms.
    #[error("a {} chunk holds no floats", .0.name())]
    NotFloats(Encoding),
    /// A histogram to append has more or fewer buckets than its spans say.
    #[error("the histogram's spans and buckets do not agree")]
    Inconsistent,
    /// The sample count has no room for another sample.
    #[error("the chunk is full: {0} samples")]
    Full(usize),
    /// A chunk of aggregates whose parts do not lie as they must.
    #[error("aggregates: {} at offset {offset}: {reason}", aggregate.name())]
    Aggregate {
        /// The part.
        aggregate: Aggregate,
        /// Where it begins, in bytes.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<ChunkError> for Error {
    fn from(error: ChunkError) -> Self {
        let kind = match error {
            ChunkError::UnknownEncoding(_) => ErrorKind::Unsupported,
            ChunkError::Header { .. }
            | ChunkError::Short { .. }
            | ChunkError::Invalid { .. }
            | ChunkError::Aggregate { .. } => ErrorKind::Corrupt,
            ChunkError::NotFloats(_) | ChunkError::Inconsistent => ErrorKind::InvalidInput,
            ChunkError::Full(_) => ErrorKind::LimitExceeded,
        };
        Self::new(kind, error)
    }
}
