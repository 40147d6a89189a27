//! Full chunks of a series: in memory until they are mapped, then only when they are and where they lie.

use std::sync::Arc;

use super::mapped::{ChunkFile, ChunkPlace, MappedChunks};
use crate::chunk::{EncodedChunk, Encoding};
use crate::error::{Error, ErrorKind, Result};
use crate::model::TimeRange;

/// A chunk that takes no more samples.
#[derive(Debug)]
pub(super) struct FullChunk {
    min: i64,
    data: Data,
}

// A series has one for each of its last chunks.
const _: () = assert!(size_of::<FullChunk>() == 24);

/// What of a chunk is in memory, and how many milliseconds are from its first sample to its last.
#[derive(Debug)]
enum Data {
    Waiting {
        span: u32,
        chunk: Box<EncodedChunk>,
    },
    Mapped {
        /// What the newest chunk holds is asked when its samples are not in memory any more.
        encoding: Encoding,
        span: u32,
        place: ChunkPlace,
    },
    /// More than seven weeks.
    Long(Box<(i64, Stored)>),
}

#[derive(Debug)]
enum Stored {
    Waiting(EncodedChunk),
    Mapped(Encoding, ChunkPlace),
}

/// A chunk as a reader gets it.
#[derive(Debug, Clone)]
pub struct HeadChunk {
    /// Its number in its series; does not change as long as the chunk is there.
    pub number: u32,
    /// From its first to its last sample.
    pub range: TimeRange,
    pub(crate) data: HeadData,
}

/// A chunk's bytes, or where they are.
#[derive(Debug, Clone)]
pub(crate) enum HeadData {
    /// Here.
    Ready(EncodedChunk),
    /// In a file, which stays readable as long as somebody has it.
    InFile(Arc<ChunkFile>, ChunkPlace),
    /// In a file that is not there any more.
    Gone(ChunkPlace),
}

impl HeadChunk {
    /// The samples: read from the disk, if they lie there.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn load(&self) -> Result<EncodedChunk> {
        self.data.load()
    }
}

impl HeadData {
    pub(crate) fn load(&self) -> Result<EncodedChunk> {
        match self {
            Self::Ready(chunk) => Ok(chunk.clone()),
            Self::InFile(file, place) => Ok(file.read(*place)?),
            Self::Gone(place) => {
                let text = format!("file {} of head chunks is missing, and a chunk lies there", place.file());
                Err(Error::new(ErrorKind::Corrupt, text))
            }
        }
    }
}

impl FullChunk {
    pub(super) fn waiting(range: TimeRange, chunk: EncodedChunk) -> Self {
        Self::new(range, Stored::Waiting(chunk))
    }

    pub(super) fn mapped(range: TimeRange, encoding: Encoding, place: ChunkPlace) -> Self {
        Self::new(range, Stored::Mapped(encoding, place))
    }

    fn new(range: TimeRange, stored: Stored) -> Self {
        let span = range.max.checked_sub(range.min).and_then(|span| u32::try_from(span).ok());
        let data = match (span, stored) {
            (Some(span), Stored::Waiting(chunk)) => Data::Waiting { span, chunk: Box::new(chunk) },
            (Some(span), Stored::Mapped(encoding, place)) => Data::Mapped { encoding, span, place },
            (None, stored) => Data::Long(Box::new((range.max, stored))),
        };
        Self { min: range.min, data }
    }

    pub(super) fn range(&self) -> TimeRange {
        let max = match &self.data {
            Data::Waiting { span, .. } | Data::Mapped { span, .. } => self.min + i64::from(*span),
            Data::Long(long) => long.0,
        };
        TimeRange::new(self.min, max)
    }

    /// How its samples are to be read.
    pub(super) fn encoding(&self) -> Encoding {
        match &self.data {
            Data::Waiting { chunk, .. } => chunk.encoding,
            Data::Mapped { encoding, .. } => *encoding,
            Data::Long(long) => match &long.1 {
                Stored::Waiting(chunk) => chunk.encoding,
                Stored::Mapped(encoding, _) => *encoding,
            },
        }
    }

    /// Where it lies on the disk, if it does.
    pub(super) fn place(&self) -> Option<ChunkPlace> {
        match &self.data {
            Data::Mapped { place, .. } => Some(*place),
            Data::Long(long) => {
                if let Stored::Mapped(_, place) = &long.1 {
                    Some(*place)
                } else {
                    None
                }
            }
            Data::Waiting { .. } => None,
        }
    }

    /// The bytes, if they are in memory.
    pub(super) fn in_memory(&self) -> Option<&EncodedChunk> {
        match &self.data {
            Data::Waiting { chunk, .. } => Some(chunk),
            Data::Long(long) => {
                if let Stored::Waiting(chunk) = &long.1 {
                    Some(chunk)
                } else {
                    None
                }
            }
            Data::Mapped { .. } => None,
        }
    }

    /// The bytes, or where to get them.
    pub(super) fn data(&self, files: Option<&MappedChunks>) -> HeadData {
        match (self.in_memory(), self.place()) {
            (Some(chunk), _) => HeadData::Ready(chunk.clone()),
            (None, place) => {
                let place = place.unwrap_or(ChunkPlace(0));
                let file = files.and_then(|files| files.file(place));
                file.map_or(HeadData::Gone(place), |file| HeadData::InFile(file, place))
            }
        }
    }

    /// Bytes beside the value itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let data = self.in_memory().map_or(0, |chunk| chunk.data.len());
        data + match &self.data {
            Data::Waiting { .. } => size_of::<EncodedChunk>(),
            Data::Mapped { .. } => 0,
            Data::Long(_) => size_of::<(i64, Stored)>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::XorAppender;

    #[test]
    fn a_chunk_knows_its_range_however_long_it_is() {
        for (min, max) in [(5, 5), (-3, 9), (0, i64::from(u32::MAX)), (0, 1 << 32), (i64::MIN, i64::MAX)] {
            let mut appender = XorAppender::new();
            appender.append(min, 1.0).unwrap();
            let (range, data) = (TimeRange::new(min, max), appender.take());
            let waiting = FullChunk::waiting(range, data.clone());
            assert_eq!((waiting.range(), waiting.in_memory(), waiting.place()), (range, Some(&data), None));
            let mapped = FullChunk::mapped(range, Encoding::Xor2, ChunkPlace(7));
            assert_eq!((mapped.range(), mapped.in_memory(), mapped.place()), (range, None, Some(ChunkPlace(7))));
            assert_eq!((waiting.encoding(), mapped.encoding()), (Encoding::Xor, Encoding::Xor2));
        }
    }
}
