//! Where a reader of samples is in its chunk.

use super::{ChunkError, Encoding};
use crate::codec::BitReader;

/// How many samples of a chunk were read, and how many there are. The first error is told once and ends the chunk.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) encoding: Encoding,
    pub(super) count: u16,
    pub(super) read: u16,
    failed: Option<ChunkError>,
}

impl Progress {
    /// Before the first of `count` samples; `None`: there is no header in the `len` bytes of the chunk.
    pub(super) fn new(encoding: Encoding, count: Option<u16>, len: usize) -> Self {
        let failed = count.is_none().then_some(ChunkError::Header { encoding, len });
        Self { encoding, count: count.unwrap_or(0), read: 0, failed }
    }

    /// Whether there is a sample to read now.
    #[inline]
    pub(super) fn begin(&mut self) -> Option<Result<(), ChunkError>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        (self.read < self.count).then_some(Ok(()))
    }

    /// The outcome of reading a sample: `step` is what its reader says. What is beyond the end reads as zeros, so a cut
    /// chunk is told first: any other complaint follows from it.
    #[inline]
    pub(super) fn end(&mut self, reader: &BitReader<'_>, step: Result<(), &'static str>) -> Result<(), ChunkError> {
        let (encoding, sample, count) = (self.encoding, usize::from(self.read), usize::from(self.count));
        let outcome = match (reader.check(), step) {
            (Ok(()), Ok(())) => {
                self.read += 1;
                return Ok(());
            }
            (Err(source), _) => ChunkError::Short { encoding, sample, count, source },
            (Ok(()), Err(what)) => ChunkError::Invalid { encoding, sample, bit_offset: reader.position(), what },
        };
        self.stop();
        Err(outcome)
    }

    /// Reads no more.
    pub(super) fn stop(&mut self) {
        self.count = self.read;
    }
}
