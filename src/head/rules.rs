//! Which encodings a head writes, and when a chunk of one must give way to another.
//!
//! Encodings are a setting, and settings change while samples stay. A log may hold start timestamps that this head would
//! not take from an appender any more: replay keeps them, in chunks that can.

use crate::chunk::Encoding;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Sample, Value};

use super::HeadOptions;

/// How new chunks of floats are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatEncoding {
    /// Encoding 1, which everybody reads. Has no place for start timestamps.
    #[default]
    Xor,
    /// Encoding 4: for Prometheus since 3.14, and smaller for values that seldom change; Thanos does not read it.
    Xor2,
}

impl From<FloatEncoding> for Encoding {
    fn from(floats: FloatEncoding) -> Self {
        match floats {
            FloatEncoding::Xor => Self::Xor,
            FloatEncoding::Xor2 => Self::Xor2,
        }
    }
}

/// Whether histograms go into chunks with start timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HistogramStarts {
    Never,
    Always,
    /// From the first one in a chunk that has one.
    WhenKnown,
}

/// What a series must know to put a sample into a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkRules {
    /// No chunk crosses a multiple of this many milliseconds.
    pub(super) chunk_range: i64,
    /// New chunks of floats are of encoding 4.
    pub(super) xor2: bool,
    /// Start timestamps are taken from appenders.
    pub(super) starts: bool,
    pub(super) histograms: HistogramStarts,
}

impl HeadOptions {
    /// Whether these options can go together.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(crate) fn check(&self) -> Result<()> {
        if self.start_timestamps && self.float_encoding == FloatEncoding::Xor {
            let text = "start timestamps cannot be stored in XOR chunks: choose the float encoding XOR2 with them";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(())
    }

    /// The rules for what is appended.
    pub(super) fn rules(&self) -> ChunkRules {
        let always = self.histogram_start_timestamps;
        ChunkRules {
            chunk_range: self.chunk_range.max(1),
            xor2: self.float_encoding == FloatEncoding::Xor2,
            starts: self.start_timestamps,
            histograms: if always { HistogramStarts::Always } else { HistogramStarts::Never },
        }
    }

    /// The rules for what the log holds. A program that kept start timestamps chose whether its histograms have them; one
    /// that keeps none may have got the directory from another, whose choice the log does not tell.
    pub(super) fn replay_rules(&self) -> ChunkRules {
        let rules = self.rules();
        match rules.histograms {
            HistogramStarts::Never if !self.start_timestamps => {
                ChunkRules { histograms: HistogramStarts::WhenKnown, ..rules }
            }
            _ => rules,
        }
    }
}

impl ChunkRules {
    /// Whether a float with this start timestamp begins a chunk of encoding 4.
    #[inline]
    pub(super) fn begins_xor2(self, st: i64) -> bool {
        self.xor2 || st != 0
    }

    /// Whether a float with this start timestamp must not go into a chunk of encoding 1 that is open.
    #[inline]
    pub(super) fn leaves_xor(self, st: i64) -> bool {
        st != 0 || self.starts
    }

    /// Whether the sample's start timestamp goes into its chunk, if it has one.
    pub(super) fn keeps_start(self, sample: &Sample) -> bool {
        matches!(sample.value, Value::Float(_)) || self.histograms != HistogramStarts::Never
    }

    /// Whether a histogram with this start timestamp goes into a chunk with start timestamps; the open one is such
    /// a chunk if `has`.
    pub(super) fn histogram_starts(self, st: i64, has: bool) -> bool {
        match self.histograms {
            HistogramStarts::Never => false,
            HistogramStarts::Always => true,
            HistogramStarts::WhenKnown => has || st != 0,
        }
    }
}
