//! Remote write: one request, decoded into an arena that the next request uses again.
//!
//! ```text
//! body         snappy block format: the decoded size as a uvarint, then the compressed bytes
//! 1.0          WriteRequest    1 timeseries*: 1 labels*, 2 samples*, 3 exemplars*, 4 histograms*   3 metadata*
//! 2.0          Request         4 symbols*   5 timeseries*: 1 label refs*, 2 samples*, 3 histograms*, 4 exemplars*, 5 metadata
//! in memory    packed          every label set in the packed form of model::Labels, one behind the other
//!              samples, …      all samples of the request; a series holds ranges into these
//! ```
//!
//! The label set of a series is written down once, in the form that the head hashes and compares, so a series that the
//! head knows costs a hash and no allocation. Both protocols end up in the same arena.
//!
//! Two kinds of wrong are kept apart. A body that is not the message it claims to be is an error and none of it counts.
//! A series that is well-formed but invalid (no name, a name twice) is left out and [counted](WriteRequest::refused), and
//! its neighbours stay.

mod histogram;
mod series;
mod v1;
mod v2;

use std::ops::Range;

pub use series::{Refused, SeriesFault};

use super::ProtoError;
use crate::error::{Error, ErrorKind};
use crate::model::{FloatHistogram, Histogram, Metadata};

/// What one request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the body after decompression.
    pub decoded_bytes: usize,
    /// Bytes that the decoded request may hold in memory. A message of two bytes can stand for a series or a histogram
    /// of hundreds, so the size of the body alone bounds little.
    pub arena_bytes: usize,
}

impl Default for Limits {
    /// 32 MiB decoded, as in Prometheus; 256 MiB in memory, eight times what honest senders reach.
    fn default() -> Self {
        Self { decoded_bytes: 32 << 20, arena_bytes: 256 << 20 }
    }
}

/// Why a body is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is not snappy's block format, or it is damaged.
    #[error("snappy: {0}")]
    Snappy(#[from] snap::Error),
    /// It says that it decodes to more than it can.
    #[error("snappy: a body of {body} bytes cannot decode to {claimed} bytes")]
    Claim {
        /// Bytes received.
        body: usize,
        /// Bytes that its header promises.
        claimed: usize,
    },
    /// It is larger than the limit.
    #[error("the request takes {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes decoded, or needed in memory.
        size: usize,
        /// The limit that stands against it.
        limit: usize,
    },
    /// It is not the protobuf message that it claims to be.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// Version 2: the symbol table does not begin with the empty string.
    #[error("symbols: the first symbol must be the empty string")]
    FirstSymbol,
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let kind = match error {
            WireError::TooLarge { .. } => ErrorKind::LimitExceeded,
            _ => ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Snappy's longest copy takes three bytes and yields 64; no body grows by more than this.
const LARGEST_GROWTH: usize = 22;

/// Decompresses a body into `out`, whose memory is used again. The size in the header is checked against `limit`, and
/// against what so many bytes can yield, before anything is allocated.
///
/// # Errors
/// [`WireError::Snappy`], [`WireError::Claim`], [`WireError::TooLarge`].
pub fn decompress(body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), WireError> {
    let claimed = snap::raw::decompress_len(body)?;
    if claimed > limit {
        return Err(WireError::TooLarge { size: claimed, limit });
    }
    if claimed > body.len().saturating_mul(LARGEST_GROWTH) {
        return Err(WireError::Claim { body: body.len(), claimed });
    }
    out.resize(claimed, 0);
    let written = snap::raw::Decoder::new().decompress(body, out)?;
    out.truncate(written);
    Ok(())
}

/// A float sample as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct FloatSample {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown. Version 2 alone.
    pub st: i64,
    /// The value.
    pub value: f64,
}

/// A native histogram as it came; not validated yet.
#[derive(Debug, Clone)]
pub enum HistogramValue {
    /// Integer counts.
    Integer(Histogram),
    /// Float counts.
    Float(FloatHistogram),
}

/// A native histogram sample as it came.
#[derive(Debug, Clone)]
pub struct HistogramSample {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown. Version 2 alone.
    pub st: i64,
    /// The histogram.
    pub value: HistogramValue,
}

/// One decoded request. Make one a worker and use it again: decoding empties it and keeps the memory.
#[derive(Debug, Default)]
pub struct WriteRequest {
    packed: Vec<u8>,
    series: Vec<SeriesMark>,
    samples: Vec<FloatSample>,
    histograms: Vec<HistogramSample>,
    exemplars: Vec<ExemplarMark>,
    metadata: Vec<(String, Metadata)>,
    refused: Refused,
    scratch: Scratch,
    /// Bytes in the arena, and how many it may hold.
    held: usize,
    limit: usize,
}

/// Where a series' parts lie in the arena.
#[derive(Debug, Clone)]
struct SeriesMark {
    labels: Range<usize>,
    samples: Range<usize>,
    histograms: Range<usize>,
    exemplars: Range<usize>,
    /// The index of its metadata, version 2 alone.
    metadata: Option<u32>,
}

#[derive(Debug, Clone)]
struct ExemplarMark {
    labels: Range<usize>,
    t: i64,
    value: f64,
}

/// What a decoder needs while it reads one series.
#[derive(Debug, Default)]
struct Scratch {
    /// Where in the body each label's name and value stand.
    labels: Vec<(Range<usize>, Range<usize>)>,
    /// Version 2: where in the body each symbol stands, and the references of one series.
    symbols: Vec<Range<usize>>,
    references: Vec<u32>,
}

impl WriteRequest {
    /// An empty arena.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the (decompressed) body of a 1.0 request.
    ///
    /// # Errors
    /// [`WireError::Proto`] if it is no `WriteRequest`, [`WireError::TooLarge`]. The arena is empty then.
    pub fn decode_v1(&mut self, message: &[u8], limits: Limits) -> Result<(), WireError> {
        self.start(limits);
        v1::request(self, message).inspect_err(|_| self.clear())
    }

    /// Decodes the (decompressed) body of a 2.0 request.
    ///
    /// # Errors
    /// As [`decode_v1`](Self::decode_v1), and [`WireError::FirstSymbol`].
    pub fn decode_v2(&mut self, message: &[u8], limits: Limits) -> Result<(), WireError> {
        self.start(limits);
        v2::request(self, message).inspect_err(|_| self.clear())
    }

    fn start(&mut self, limits: Limits) {
        self.clear();
        self.limit = limits.arena_bytes;
    }

    /// Empties the arena. Memory is kept, unless one large request has made it larger than most will need.
    pub fn clear(&mut self) {
        if self.held > KEPT_BYTES {
            *self = Self::default();
        }
        self.packed.clear();
        self.series.clear();
        self.samples.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
        self.refused = Refused::default();
        self.held = 0;
    }

    /// The valid series in the order they came.
    #[must_use]
    pub fn series(&self) -> impl ExactSizeIterator<Item = Series<'_>> {
        self.series.iter().map(|mark| Series { request: self, mark })
    }

    /// Metadata of metric families: name, and what is said of it. Version 1; in version 2 each series has its own.
    #[must_use]
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &Metadata)> {
        self.metadata.iter().map(|(name, metadata)| (name.as_str(), metadata))
    }

    /// What was left out for being invalid.
    #[must_use]
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Adds to what the request holds in memory.
    #[inline]
    fn charge(&mut self, bytes: usize) -> Result<(), WireError> {
        self.held += bytes;
        if self.held > self.limit {
            return Err(WireError::TooLarge { size: self.held, limit: self.limit });
        }
        Ok(())
    }
}

/// An arena larger than this is given back after use.
const KEPT_BYTES: usize = 8 << 20;

/// A series of a request.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    request: &'a WriteRequest,
    mark: &'a SeriesMark,
}

impl<'a> Series<'a> {
    /// Its labels in the packed form of [`Labels`](crate::model::Labels): sorted, no name twice, with a metric name.
    #[must_use]
    pub fn packed_labels(&self) -> &'a [u8] {
        self.request.packed.get(self.mark.labels.clone()).unwrap_or(&[])
    }

    /// Its float samples in the order they came.
    #[must_use]
    pub fn samples(&self) -> &'a [FloatSample] {
        self.request.samples.get(self.mark.samples.clone()).unwrap_or(&[])
    }

    /// Its native histograms in the order they came.
    #[must_use]
    pub fn histograms(&self) -> &'a [HistogramSample] {
        self.request.histograms.get(self.mark.histograms.clone()).unwrap_or(&[])
    }

    /// Its exemplars in the order they came.
    #[must_use]
    pub fn exemplars(&self) -> impl ExactSizeIterator<Item = RawExemplar<'a>> + use<'a> {
        let request = self.request;
        let marks = request.exemplars.get(self.mark.exemplars.clone()).unwrap_or(&[]);
        marks.iter().map(|mark| RawExemplar {
            packed_labels: request.packed.get(mark.labels.clone()).unwrap_or(&[]),
            t: mark.t,
            value: mark.value,
        })
    }

    /// Its metadata, in version 2.
    #[must_use]
    pub fn metadata(&self) -> Option<&'a Metadata> {
        let index = usize::try_from(self.mark.metadata?).ok()?;
        self.request.metadata.get(index).map(|(_, metadata)| metadata)
    }
}

/// An exemplar as it came.
#[derive(Debug, Clone, Copy)]
pub struct RawExemplar<'a> {
    /// Its own labels, packed.
    pub packed_labels: &'a [u8],
    /// Milliseconds since the epoch.
    pub t: i64,
    /// What was measured.
    pub value: f64,
}

#[cfg(test)]
mod tests;
