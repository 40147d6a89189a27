//! Encoding 0xff: Thanos's aggregates, five chunks in one.
//!
//! ```text
//! count | sum | min | max | counter      each: uvarint length of the data | encoding byte | data
//!                                        one that is not there is the length 0 alone
//! ```
//!
//! A downsampled block has no other chunks. Each part has one sample for each window of 5 m or 1 h; the `counter` of floats
//! has two more, see [`crate::compact::downsample`]. For native histograms `min` and `max` are not there, and `sum` and
//! `counter` are float histograms. Where the last part is not there Thanos finds the chunk too short, so an empty one is
//! written instead. `docs/format/aggregate.md` draws it.

use bytes::Bytes;

use super::{ChunkError, EncodedChunk, Encoding, XorAppender, sample_count};
use crate::codec::{ReadError, Reader, put_uvarint};

/// The encoding byte of a chunk of aggregates. It is no [`Encoding`], since no query reads samples out of it as they are.
pub const AGGREGATES: u8 = 0xff;

/// What is known of the samples of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// How many there were.
    Count,
    /// Their sum.
    Sum,
    /// The least of them.
    Min,
    /// The greatest of them.
    Max,
    /// What a counter had come to, as if it had never started again.
    Counter,
}

impl Aggregate {
    /// All of them, in the order that they lie in.
    pub const ALL: [Self; 5] = [Self::Count, Self::Sum, Self::Min, Self::Max, Self::Counter];

    /// Thanos's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Counter => "counter",
        }
    }
}

/// A chunk of aggregates, its parts undecoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AggregateChunk {
    parts: [Option<EncodedChunk>; 5],
}

impl AggregateChunk {
    /// The part that has `aggregate`.
    #[must_use]
    pub fn get(&self, aggregate: Aggregate) -> Option<&EncodedChunk> {
        self.parts.get(aggregate as usize).and_then(Option::as_ref)
    }

    /// Sets the part that has `aggregate`.
    pub fn set(&mut self, aggregate: Aggregate, chunk: EncodedChunk) {
        if let Some(part) = self.parts.get_mut(aggregate as usize) {
            *part = Some(chunk);
        }
    }

    /// Whether it is about native histograms: its counter then is.
    #[must_use]
    pub fn is_histogram(&self) -> bool {
        self.get(Aggregate::Counter).is_some_and(|counter| !counter.encoding.is_float())
    }

    /// How many windows it has: the samples of its count.
    ///
    /// # Errors
    /// [`ChunkError::Header`].
    pub fn windows(&self) -> Result<usize, ChunkError> {
        self.get(Aggregate::Count).map_or(Ok(0), |count| sample_count(count.encoding, &count.data))
    }

    /// Reads a chunk's data. The parts are views of it, and are not looked into.
    ///
    /// # Errors
    /// [`ChunkError::Aggregate`]; [`ChunkError::UnknownEncoding`] for a part.
    pub fn decode(data: &Bytes) -> Result<Self, ChunkError> {
        let mut reader = Reader::new(data);
        let mut parts = <[Option<EncodedChunk>; 5]>::default();
        for (part, aggregate) in parts.iter_mut().zip(Aggregate::ALL) {
            let offset = reader.offset();
            let damaged = |error: ReadError| ChunkError::Aggregate { aggregate, offset, reason: error.to_string() };
            let len = reader.uvarint().map_err(damaged)?;
            if len == 0 {
                continue;
            }
            let encoding = Encoding::from_byte(reader.u8().map_err(damaged)?)?;
            // A length beyond the address space is beyond the data too.
            let bytes = reader.bytes("an aggregate", usize::try_from(len).unwrap_or(usize::MAX)).map_err(damaged)?;
            *part = Some(EncodedChunk { encoding, data: data.slice_ref(bytes) });
        }
        if !reader.is_empty() {
            let (aggregate, reason) = (Aggregate::Counter, format!("{} bytes behind it", reader.rest().len()));
            return Err(ChunkError::Aggregate { aggregate, offset: reader.offset(), reason });
        }
        Ok(Self { parts })
    }

    /// The chunk's data.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut data = Vec::new();
        for (part, aggregate) in self.parts.iter().zip(Aggregate::ALL) {
            let empty;
            let part = match (part, aggregate) {
                (Some(part), _) => part,
                (None, Aggregate::Counter) => {
                    empty = XorAppender::new().to_chunk();
                    &empty
                }
                (None, _) => {
                    data.push(0);
                    continue;
                }
            };
            put_uvarint(&mut data, part.data.len() as u64);
            data.push(part.encoding.byte());
            data.extend_from_slice(&part.data);
        }
        data.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(points: &[(i64, f64)]) -> EncodedChunk {
        let mut appender = XorAppender::new();
        points.iter().for_each(|(t, value)| appender.append(*t, *value).unwrap());
        appender.take()
    }

    #[test]
    fn what_is_written_reads_back_and_parts_that_are_not_there_stay_so() {
        let mut chunk = AggregateChunk::default();
        chunk.set(Aggregate::Count, floats(&[(1, 2.0), (3, 4.0)]));
        chunk.set(Aggregate::Counter, floats(&[(1, 5.0)]));
        let data = chunk.encode();
        assert_eq!(AggregateChunk::decode(&data), Ok(chunk.clone()));
        assert_eq!((chunk.windows(), chunk.get(Aggregate::Min)), (Ok(2), None));
    }

    #[test]
    fn a_counter_is_written_even_if_there_is_none() {
        let mut chunk = AggregateChunk::default();
        chunk.set(Aggregate::Count, floats(&[(1, 2.0)]));
        let read = AggregateChunk::decode(&chunk.encode()).unwrap();
        let counter = read.get(Aggregate::Counter).unwrap();
        assert_eq!(sample_count(counter.encoding, &counter.data), Ok(0));
    }

    #[test]
    fn a_chunk_that_is_cut_or_has_too_much_is_refused_with_the_part_in_question() {
        let mut chunk = AggregateChunk::default();
        chunk.set(Aggregate::Sum, floats(&[(1, 2.0)]));
        let data = chunk.encode();
        for len in 0..data.len() {
            let error = AggregateChunk::decode(&data.slice(..len)).unwrap_err();
            assert!(matches!(error, ChunkError::Aggregate { .. }), "{len}: {error}");
        }
        let longer: Bytes = [&*data, &[0]].concat().into();
        assert!(AggregateChunk::decode(&longer).unwrap_err().to_string().contains("1 bytes behind it"));
    }
}
