//! Chunks: one series' run of samples, compressed.
//!
//! A chunk holds up to a few hundred samples of one kind in time order, in one of six encodings (`docs/format/chunks.md`
//! draws their bits). All six can be read whatever is configured, since data outlives flags. [`decode_floats`] decodes a
//! whole chunk into columns and is what queries use; [`samples`] goes sample by sample through any encoding; the
//! appenders write, bit for bit what Prometheus writes for the same samples. Bytes come from disks and strangers:
//! nothing here panics on them, and no length in them is believed before the bytes behind it are seen to be there.

#![warn(clippy::indexing_slicing)]

mod aggregate;
mod columns;
mod error;
mod histogram;
mod progress;
mod start_time;
mod varbit;
mod writer;
mod xor;
mod xor2;

use bytes::Bytes;

pub use aggregate::{AGGREGATES, Aggregate, AggregateChunk};
pub use columns::FloatDecoder;
pub use error::ChunkError;
pub use histogram::{
    Appended, Appender, FloatHistogramAppender, Floats, HistogramAppender, HistogramIter, Integers, Kind, counter_reset,
};
pub use writer::{ChunkWriter, Rules, WrittenChunk, rewrite};
pub(crate) use xor::{HEADER as XOR_HEADER, XorState};
pub use xor::{XorAppender, XorIter};
pub use xor2::{Xor2Appender, Xor2Iter};

use crate::model::{Sample, Value};

/// How a chunk's bytes are to be read. The number is what stands in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Floats: delta of deltas of times, XOR of values.
    Xor = 1,
    /// Native histograms with integer counts.
    Histogram = 2,
    /// Native histograms with float counts.
    FloatHistogram = 3,
    /// Floats, optionally with start timestamps.
    Xor2 = 4,
    /// Integer histograms with start timestamps.
    HistogramSt = 5,
    /// Float histograms with start timestamps.
    FloatHistogramSt = 6,
}

impl Encoding {
    /// The encoding that `byte` stands for.
    ///
    /// # Errors
    /// [`ChunkError::UnknownEncoding`].
    pub fn from_byte(byte: u8) -> Result<Self, ChunkError> {
        Ok(match byte {
            1 => Self::Xor,
            2 => Self::Histogram,
            3 => Self::FloatHistogram,
            4 => Self::Xor2,
            5 => Self::HistogramSt,
            6 => Self::FloatHistogramSt,
            _ => return Err(ChunkError::UnknownEncoding(byte)),
        })
    }

    /// The byte that stands for it.
    #[must_use]
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// Prometheus's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xor => "XOR",
            Self::Histogram => "histogram",
            Self::FloatHistogram => "floathistogram",
            Self::Xor2 => "XOR2",
            Self::HistogramSt => "histogramST",
            Self::FloatHistogramSt => "floathistogramST",
        }
    }

    /// Whether its samples are floats, so that [`decode_floats`] reads it.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::Xor | Self::Xor2)
    }
}

/// A chunk as it lies in a segment file, without the encoding byte, the length and the sum around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChunk {
    /// How to read `data`.
    pub encoding: Encoding,
    /// The chunk, its header with the sample count first.
    pub data: Bytes,
}

/// Float samples, a column for each part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FloatColumns {
    /// Times in milliseconds.
    pub t: Vec<i64>,
    /// Values.
    pub v: Vec<f64>,
    /// Start timestamps in milliseconds, 0 where none is known. Empty as long as no chunk had any.
    pub st: Vec<i64>,
}

impl FloatColumns {
    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.t.clear();
        self.v.clear();
        self.st.clear();
    }
}

/// How many samples the chunk says it has.
///
/// # Errors
/// [`ChunkError::Header`] if the bytes are too few for a header.
pub fn sample_count(encoding: Encoding, data: &[u8]) -> Result<usize, ChunkError> {
    let Some([high, low]) = data.first_chunk() else {
        return Err(ChunkError::Header { encoding, len: data.len() });
    };
    let count = u16::from_be_bytes([*high, *low]);
    // With start timestamps the third header byte is theirs, and the counter reset bits share the count's word.
    let with_reset_bits = matches!(encoding, Encoding::HistogramSt | Encoding::FloatHistogramSt);
    Ok(usize::from(if with_reset_bits { count & 0x3fff } else { count }))
}

/// Decodes a whole chunk of floats and appends its samples to `out`.
///
/// # Errors
/// [`ChunkError::NotFloats`] for a chunk of histograms, others for a damaged one; `out` is as before then.
pub fn decode_floats(encoding: Encoding, data: &[u8], out: &mut FloatColumns) -> Result<(), ChunkError> {
    match encoding {
        Encoding::Xor => columns::decode(data, out),
        Encoding::Xor2 => xor2::decode(data, out),
        _ => Err(ChunkError::NotFloats(encoding)),
    }
}

/// The samples of a chunk, one after another. After an error there are no more.
#[must_use]
pub fn samples(encoding: Encoding, data: &[u8]) -> ChunkIter<'_> {
    ChunkIter(match encoding {
        Encoding::Xor => Iter::Xor(XorIter::new(data)),
        Encoding::Xor2 => Iter::Xor2(Xor2Iter::new(data)),
        Encoding::Histogram => Iter::Integers(Box::new(HistogramIter::new(data, false))),
        Encoding::HistogramSt => Iter::Integers(Box::new(HistogramIter::new(data, true))),
        Encoding::FloatHistogram => Iter::Floats(Box::new(HistogramIter::new(data, false))),
        Encoding::FloatHistogramSt => Iter::Floats(Box::new(HistogramIter::new(data, true))),
    })
}

/// See [`samples`].
#[derive(Debug, Clone)]
pub struct ChunkIter<'a>(Iter<'a>);

#[derive(Debug, Clone)]
enum Iter<'a> {
    Xor(XorIter<'a>),
    Xor2(Xor2Iter<'a>),
    Integers(Box<HistogramIter<'a, Integers>>),
    Floats(Box<HistogramIter<'a, Floats>>),
}

impl Iterator for ChunkIter<'_> {
    type Item = Result<Sample, ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Iter::Xor(iter) => iter.next().map(|sample| sample.map(|(t, v)| Sample::float(t, v))),
            Iter::Xor2(iter) => {
                iter.next().map(|sample| sample.map(|(st, t, v)| Sample { t, st, value: Value::Float(v) }))
            }
            Iter::Integers(iter) => iter.next_sample(),
            Iter::Floats(iter) => iter.next_sample(),
        }
    }
}
