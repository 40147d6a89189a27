//! Encoded records that are to be written together.

use super::{Log, LogError};

/// Encoded records, one behind the other, and where each ends: a commit's, or as many as are worth a write.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl RecordBuffer {
    /// Where the next record is appended; [`end`](RecordBuffer::end) makes it one.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends the record, if there is anything of it.
    pub fn end(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.bytes.len() {
            self.ends.push(self.bytes.len());
        }
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The records, in the order in which they came.
    #[must_use]
    pub fn records(&self) -> Vec<&[u8]> {
        let mut start = 0;
        let record = |end: &usize| self.bytes.get(std::mem::replace(&mut start, *end)..*end).unwrap_or_default();
        self.ends.iter().map(record).collect()
    }

    /// Forgets them, and gives memory of more than `keep` bytes back.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.ends.clear();
        if self.bytes.capacity() > keep {
            *self = Self::default();
        }
    }

    /// Writes them to `log` and forgets them.
    ///
    /// # Errors
    /// As [`Log::commit`]; they are still here then.
    pub fn write_to(&mut self, log: &Log) -> Result<(), LogError> {
        if !self.ends.is_empty() {
            log.commit(&self.records())?;
            self.clear(usize::MAX);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in_and_empty_ones_do_not() {
        let mut buffer = RecordBuffer::default();
        buffer.end();
        buffer.bytes().extend([1, 2]);
        buffer.end();
        buffer.end();
        buffer.bytes().push(3);
        buffer.end();
        assert_eq!(buffer.records(), [&[1, 2][..], &[3]]);
        buffer.clear(0);
        assert!(buffer.is_empty() && buffer.records().is_empty());
    }
}
