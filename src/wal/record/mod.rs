//! Records: what one entry of the log says, as bytes.
//!
//! ```text
//! 1  series               (be64 ref, labels)*
//! 2  samples              be64 ref, be64 t of the first; (varint Δref, varint Δt, be64 value)*, deltas to the first
//! 3  tombstones           (be64 ref, varint mint, varint maxt)*
//! 4  exemplars            as 2, with labels behind each value
//! 5  mmap markers         (be64 ref, be64 chunk)*                     in the log of out-of-order samples alone
//! 6  metadata             (uvarint ref, type byte, uvarint fields, (name, value)*)*
//! 7  histograms           as 2, with a histogram for the value; 8 with a float histogram
//! 9  histograms with custom buckets, as 7; 10 float ones, as 8
//! 11 samples, 12 histograms, 13 float histograms, with start timestamps and deltas to the one before
//! labels                  uvarint count, (uvarint len name, uvarint len value)*
//! ```
//!
//! The first byte is the type. `docs/format/wal.md` has the boxes. Decoders append to what the caller passes, so that
//! memory is used again from record to record; encoders append to a byte vector.

mod histograms;
mod samples;
mod series;

use std::fmt;

pub use histograms::{
    decode_float_histograms, decode_histograms, encode_custom_float_histograms, encode_custom_histograms,
    encode_float_histograms, encode_float_histograms_st, encode_histograms, encode_histograms_st,
};
pub(crate) use histograms::{put_float_histogram, put_histogram, read_one_float_histogram, read_one_histogram};
pub use samples::{
    decode_exemplars, decode_markers, decode_samples, decode_tombstones, each_sample, encode_exemplars, encode_markers,
    encode_samples, encode_samples_st, encode_tombstones,
};
pub use series::{begin_series, decode_metadata, decode_series, encode_metadata, encode_series, put_series};
pub(crate) use series::{copy_series, read_series};

use crate::codec::ReadError;
use crate::error::{Error, ErrorKind};
use crate::model::{Exemplar, FloatHistogram, Histogram, Metadata, TimeRange};

/// What a record holds: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordType {
    /// New series: reference and labels.
    Series = 1,
    /// Float samples.
    Samples = 2,
    /// Deleted spans of time; all of time says that the series was evicted.
    Tombstones = 3,
    /// Exemplars.
    Exemplars = 4,
    /// Which out-of-order samples have gone to a memory-mapped chunk.
    MmapMarkers = 5,
    /// Type, unit and help of a series' metric.
    Metadata = 6,
    /// Histograms with exponential buckets.
    Histograms = 7,
    /// Float histograms with exponential buckets.
    FloatHistograms = 8,
    /// Histograms with custom buckets.
    CustomHistograms = 9,
    /// Float histograms with custom buckets.
    CustomFloatHistograms = 10,
    /// Float samples with start timestamps.
    SamplesSt = 11,
    /// Histograms of any schema with start timestamps.
    HistogramsSt = 12,
    /// Float histograms of any schema with start timestamps.
    FloatHistogramsSt = 13,
}

impl RecordType {
    /// The type that `byte` stands for, if it is a known one.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Series,
            2 => Self::Samples,
            3 => Self::Tombstones,
            4 => Self::Exemplars,
            5 => Self::MmapMarkers,
            6 => Self::Metadata,
            7 => Self::Histograms,
            8 => Self::FloatHistograms,
            9 => Self::CustomHistograms,
            10 => Self::CustomFloatHistograms,
            11 => Self::SamplesSt,
            12 => Self::HistogramsSt,
            13 => Self::FloatHistogramsSt,
            _ => return None,
        })
    }

    /// The type of the record `bytes`; `None` for an empty record or one from a later program, which readers skip.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first().copied().and_then(Self::from_byte)
    }

    /// The record's first byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Series => "series",
            Self::Samples => "samples",
            Self::Tombstones => "tombstones",
            Self::Exemplars => "exemplars",
            Self::MmapMarkers => "mmap markers",
            Self::Metadata => "metadata",
            Self::Histograms => "histograms",
            Self::FloatHistograms => "float histograms",
            Self::CustomHistograms => "custom histograms",
            Self::CustomFloatHistograms => "custom float histograms",
            Self::SamplesSt => "samples with start timestamps",
            Self::HistogramsSt => "histograms with start timestamps",
            Self::FloatHistogramsSt => "float histograms with start timestamps",
        })
    }
}

/// A float sample of the series that a series record gave the reference to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RefSample {
    /// The series' reference in this log.
    pub reference: u64,
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown.
    pub st: i64,
    /// The value.
    pub v: f64,
}

/// A histogram sample of a series.
#[derive(Debug, Clone)]
pub struct RefHistogram {
    /// The series' reference in this log.
    pub reference: u64,
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown.
    pub st: i64,
    /// The histogram.
    pub histogram: Box<Histogram>,
}

/// A float histogram sample of a series.
#[derive(Debug, Clone)]
pub struct RefFloatHistogram {
    /// The series' reference in this log.
    pub reference: u64,
    /// Milliseconds since the epoch.
    pub t: i64,
    /// When the counter started, milliseconds since the epoch; 0 is unknown.
    pub st: i64,
    /// The histogram.
    pub histogram: Box<FloatHistogram>,
}

/// A deleted span of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefTombstone {
    /// The series' reference in this log.
    pub reference: u64,
    /// What is deleted; [`TimeRange::ALL`] says that the series was evicted.
    pub range: TimeRange,
}

/// An exemplar of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct RefExemplar {
    /// The series' reference in this log.
    pub reference: u64,
    /// The exemplar.
    pub exemplar: Exemplar,
}

/// A series' metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefMetadata {
    /// The series' reference in this log.
    pub reference: u64,
    /// Its metric's type, unit and help.
    pub metadata: Metadata,
}

/// Says that a series' out-of-order samples up to here are in a memory-mapped chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefMarker {
    /// The series' reference in the log beside.
    pub reference: u64,
    /// The chunk in `chunks_head`; 0 before there is one.
    pub chunk: u64,
}

/// Why a record cannot be decoded. Offsets count from the record's first byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is of another type than the decoder's, or empty.
    #[error("record of type {found:?} where {expected} was expected")]
    Type {
        /// What the decoder reads.
        expected: RecordType,
        /// The record's first byte.
        found: Option<u8>,
    },
    /// The record ends inside a value, or a number does not fit.
    #[error("{record} record, entry {entry}: {source}")]
    Read {
        /// What the record holds.
        record: RecordType,
        /// Which of its entries, from 0.
        entry: usize,
        /// What failed.
        source: ReadError,
    },
    /// A value that cannot be.
    #[error("{record} record, entry {entry}, before offset {offset}: {what}")]
    Invalid {
        /// What the record holds.
        record: RecordType,
        /// Which of its entries, from 0.
        entry: usize,
        /// Where the decoder stood.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::new(ErrorKind::Corrupt, error)
    }
}

/// Where a decoder is: names the record and the entry in its errors.
#[derive(Debug, Clone, Copy)]
struct Place {
    record: RecordType,
    entry: usize,
}

impl Place {
    fn read(self) -> impl Fn(ReadError) -> RecordError {
        move |source| RecordError::Read { record: self.record, entry: self.entry, source }
    }

    fn invalid(self, offset: usize, what: &'static str) -> RecordError {
        RecordError::Invalid { record: self.record, entry: self.entry, offset, what }
    }
}

/// A record decoded whole: for tools and tests. Replay uses the functions, which use memory again.
#[derive(Debug, Clone)]
pub enum Record {
    /// New series.
    Series(Vec<(u64, crate::model::Labels)>),
    /// Float samples, with or without start timestamps.
    Samples(Vec<RefSample>),
    /// Deleted spans.
    Tombstones(Vec<RefTombstone>),
    /// Exemplars.
    Exemplars(Vec<RefExemplar>),
    /// Marks of the log of out-of-order samples.
    MmapMarkers(Vec<RefMarker>),
    /// Metadata.
    Metadata(Vec<RefMetadata>),
    /// Histograms of all schemas.
    Histograms(Vec<RefHistogram>),
    /// Float histograms of all schemas.
    FloatHistograms(Vec<RefFloatHistogram>),
    /// A type from a later program, or an empty record.
    Unknown(Option<u8>),
}

impl Record {
    /// Decodes the record `bytes`.
    ///
    /// # Errors
    /// [`RecordError`], if the bytes are not a record's.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(record) = RecordType::of(bytes) else { return Ok(Self::Unknown(bytes.first().copied())) };
        match record {
            RecordType::Series => {
                let mut series = Vec::new();
                decode_series(bytes, |reference, labels| series.push((reference, labels.build())))?;
                Ok(Self::Series(series))
            }
            RecordType::Samples | RecordType::SamplesSt => collect(bytes, decode_samples).map(Self::Samples),
            RecordType::Tombstones => collect(bytes, decode_tombstones).map(Self::Tombstones),
            RecordType::Exemplars => collect(bytes, decode_exemplars).map(Self::Exemplars),
            RecordType::MmapMarkers => collect(bytes, decode_markers).map(Self::MmapMarkers),
            RecordType::Metadata => collect(bytes, decode_metadata).map(Self::Metadata),
            RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt => {
                collect(bytes, decode_histograms).map(Self::Histograms)
            }
            RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt => {
                collect(bytes, decode_float_histograms).map(Self::FloatHistograms)
            }
        }
    }
}

fn collect<T>(
    bytes: &[u8],
    decode: impl FnOnce(&[u8], &mut Vec<T>) -> Result<(), RecordError>,
) -> Result<Vec<T>, RecordError> {
    let mut out = Vec::new();
    decode(bytes, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Labels, MetricType, Span};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn sample() -> impl Strategy<Value = RefSample> {
        (any::<u64>(), any::<i64>(), prop_oneof![Just(0), Just(7), any::<i64>()], any::<u64>())
            .prop_map(|(reference, t, st, v)| RefSample { reference, t, st, v: f64::from_bits(v) })
    }

    fn labels() -> impl Strategy<Value = Labels> {
        vec(("[a-c]{1,3}", ".{1,200}"), 0..4).prop_map(Labels::from_pairs)
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        vec((any::<i32>(), any::<u32>()).prop_map(|(offset, length)| Span { offset, length }), 0..4)
    }

    fn histogram() -> impl Strategy<Value = Histogram> {
        let schema = prop_oneof![EXPONENTIAL, Just(CUSTOM_BUCKETS_SCHEMA)];
        (schema, spans(), vec(any::<i64>(), 0..5), any::<(u64, u64, i32)>(), vec(-1e9..1e9, 0..4)).prop_map(
            |(schema, positive_spans, positive_buckets, (count, zero_count, sum), bounds)| Histogram {
                counter_reset_hint: CounterResetHint::NotCounterReset,
                schema,
                zero_threshold: 0.5,
                zero_count,
                count,
                sum: f64::from(sum),
                negative_spans: positive_spans.clone(),
                negative_buckets: positive_buckets.iter().rev().copied().collect(),
                positive_spans,
                positive_buckets,
                custom_values: if schema == CUSTOM_BUCKETS_SCHEMA { bounds } else { Vec::new() },
            },
        )
    }

    const EXPONENTIAL: std::ops::RangeInclusive<i32> = -4..=8;

    fn float_of(h: &Histogram) -> FloatHistogram {
        let floats = |deltas: &[i64]| deltas.iter().map(|delta| *delta as f64).collect();
        FloatHistogram {
            counter_reset_hint: h.counter_reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero_count: h.zero_count as f64,
            count: h.count as f64,
            sum: h.sum,
            positive_spans: h.positive_spans.clone(),
            negative_spans: h.negative_spans.clone(),
            positive_buckets: floats(&h.positive_buckets),
            negative_buckets: floats(&h.negative_buckets),
            custom_values: h.custom_values.clone(),
        }
    }

    fn bits(samples: &[RefSample]) -> Vec<(u64, i64, i64, u64)> {
        samples.iter().map(|s| (s.reference, s.t, s.st, s.v.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn samples_read_back(samples in vec(sample(), 0..20)) {
            let (mut bytes, mut with_st) = (Vec::new(), Vec::new());
            encode_samples(samples.iter().copied(), &mut bytes);
            encode_samples_st(samples.iter().copied(), &mut with_st);
            let mut back = Vec::new();
            decode_samples(&bytes, &mut back).unwrap();
            let plain: Vec<_> = samples.iter().map(|s| RefSample { st: 0, ..*s }).collect();
            prop_assert_eq!(bits(&back), bits(&plain));
            back.clear();
            decode_samples(&with_st, &mut back).unwrap();
            prop_assert_eq!(bits(&back), bits(&samples));
        }

        #[test]
        fn histograms_read_back_from_a_record_for_each_kind_of_bucket(
            all in vec((any::<u64>(), any::<i64>(), histogram()), 0..6),
        ) {
            // Equality of floats is theirs as text: none of the generated ones is a NaN.
            let expect = |custom: bool| -> Vec<String> {
                let wanted = all.iter().filter(|(.., h)| (h.schema == CUSTOM_BUCKETS_SCHEMA) == custom);
                wanted.map(|entry| format!("{entry:?}")).collect()
            };
            let entries = || all.iter().map(|(reference, t, h)| (*reference, *t, h));
            let (mut exponential, mut custom) = (Vec::new(), Vec::new());
            prop_assert_eq!(encode_histograms(entries(), &mut exponential), expect(true).len());
            encode_custom_histograms(entries(), &mut custom);
            for (bytes, is_custom) in [(exponential, false), (custom, true)] {
                let mut back = Vec::new();
                if expect(is_custom).is_empty() {
                    prop_assert!(bytes.is_empty());
                    continue;
                }
                decode_histograms(&bytes, &mut back).unwrap();
                let back: Vec<_> = back.iter().map(|h| format!("{:?}", (h.reference, h.t, &h.histogram))).collect();
                prop_assert_eq!(back, expect(is_custom));
            }
        }

        #[test]
        fn float_histograms_with_start_timestamps_read_back(
            all in vec((any::<u64>(), any::<i64>(), 0..3i64, histogram()), 0..6),
        ) {
            let all: Vec<_> = all.into_iter().map(|(r, t, st, h)| (r, t, st, float_of(&h))).collect();
            let mut bytes = Vec::new();
            encode_float_histograms_st(all.iter().map(|(r, t, st, h)| (*r, *t, *st, h)), &mut bytes);
            let mut back = Vec::new();
            decode_float_histograms(&bytes, &mut back).unwrap();
            let back: Vec<_> = back.iter().map(|h| (h.reference, h.t, h.st, &h.histogram)).collect();
            prop_assert_eq!(format!("{back:?}"), format!("{all:?}"));
        }

        #[test]
        fn what_is_about_series_reads_back(
            series in vec((any::<u64>(), labels()), 0..5),
            metadata in vec((any::<u64>(), ".{0,20}", ".{0,200}"), 0..5),
            exemplars in vec((any::<u64>(), labels(), any::<i64>(), -1e9..1e9), 0..5),
            tombstones in vec(any::<(u64, i64, i64)>(), 0..5),
        ) {
            let mut bytes = Vec::new();
            encode_series(series.iter().map(|(reference, labels)| (*reference, labels)), &mut bytes);
            let Record::Series(back) = Record::decode(&bytes).unwrap() else { panic!("another type") };
            prop_assert_eq!(back, series);

            let metadata: Vec<_> = metadata.into_iter().map(|(reference, unit, help)| RefMetadata {
                reference,
                metadata: Metadata { metric_type: MetricType::StateSet, unit, help },
            }).collect();
            bytes.clear();
            encode_metadata(metadata.iter().map(|m| (m.reference, &m.metadata)), &mut bytes);
            let Record::Metadata(back) = Record::decode(&bytes).unwrap() else { panic!("another type") };
            prop_assert_eq!(back, metadata);

            let exemplars: Vec<_> = exemplars.into_iter().map(|(reference, labels, t, value)| RefExemplar {
                reference,
                exemplar: Exemplar { labels, value, t },
            }).collect();
            bytes.clear();
            encode_exemplars(exemplars.iter().map(|e| (e.reference, &e.exemplar)), &mut bytes);
            let Record::Exemplars(back) = Record::decode(&bytes).unwrap() else { panic!("another type") };
            prop_assert_eq!(back, exemplars);

            let tombstones: Vec<_> = tombstones.into_iter().map(|(reference, min, max)| RefTombstone {
                reference,
                range: TimeRange { min, max },
            }).collect();
            bytes.clear();
            encode_tombstones(tombstones.iter().copied(), &mut bytes);
            let Record::Tombstones(back) = Record::decode(&bytes).unwrap() else { panic!("another type") };
            prop_assert_eq!(back, tombstones);
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(mut bytes in vec(any::<u8>(), 0..200), first in 0u8..15) {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let _ = Record::decode(&bytes);
        }
    }

    #[test]
    fn a_cut_record_says_which_entry_is_cut_and_where() {
        let mut bytes = Vec::new();
        let sample = |t| RefSample { reference: 1, t, st: 0, v: 1.0 };
        encode_samples([sample(10), sample(20)], &mut bytes);
        bytes.truncate(bytes.len() - 3);
        let error = decode_samples(&bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "samples record, entry 1: be_f64 at offset 29: needs 8 bytes, 5 left");
    }

    #[test]
    fn a_list_longer_than_its_record_costs_no_memory() {
        let mut bytes = vec![RecordType::Histograms.byte()];
        bytes.extend_from_slice(&[0; 16 + 2 + 1 + 1 + 8 + 1 + 1 + 8]);
        // 2^63 spans.
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        let error = decode_histograms(&bytes, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("entry 0"), "{error}");
    }
}
