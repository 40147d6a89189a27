//! Putting a series into the arena: labels sorted, checked and packed; what is invalid left out and counted.

use std::ops::Range;

use super::{SeriesMark, WireError, WriteRequest};
use crate::model::{LABEL_LONGEST, METRIC_NAME, put_packed_label};

/// Why a series is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeriesFault {
    /// No `__name__`, or an empty one.
    #[error("no metric name")]
    NoMetricName,
    /// A label without a name.
    #[error("a label with an empty name")]
    EmptyName,
    /// Two labels of the same name.
    #[error("label name {0:?} twice")]
    DuplicateName(String),
    /// A name or value that is not UTF-8.
    #[error("label {0:?} is not UTF-8")]
    NotUtf8(String),
    /// A name or value longer than can be stored.
    #[error("label {0:?} is longer than {LABEL_LONGEST} bytes")]
    TooLong(String),
    /// Version 2: a reference to a symbol that is not there.
    #[error("a reference to symbol {0}, which is not in the request")]
    NoSuchSymbol(u32),
    /// Version 2: an odd number of label references.
    #[error("an odd number of label references")]
    OddReferences,
    /// Version 2: neither samples nor histograms.
    #[error("neither a sample nor a histogram")]
    Empty,
    /// Version 2: samples and histograms in one series.
    #[error("samples and histograms in one series")]
    Mixed,
}

/// What was left out of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Invalid series.
    pub series: u64,
    /// Their float samples.
    pub samples: u64,
    /// Their histograms.
    pub histograms: u64,
    /// Why, for the first few: the labels as far as they can be shown, and the fault.
    pub reasons: Vec<(String, SeriesFault)>,
}

/// Reasons are kept for this many series; the rest is counted. A body can be made of nothing but invalid series.
const REASONS_KEPT: usize = 10;
/// Of a refused label set, this many characters are shown.
const SHOWN_CHARS: usize = 200;

/// Where in the arena the parts of a series begin.
pub(super) struct Start {
    packed: usize,
    samples: usize,
    histograms: usize,
    exemplars: usize,
}

impl WriteRequest {
    /// Notes where the next series begins.
    pub(super) fn begin_series(&mut self) -> Start {
        self.scratch.labels.clear();
        Start {
            packed: self.packed.len(),
            samples: self.samples.len(),
            histograms: self.histograms.len(),
            exemplars: self.exemplars.len(),
        }
    }

    /// Ends a series: its labels, in `scratch`, are packed, or it is left out for its fault.
    pub(super) fn end_series(
        &mut self,
        message: &[u8],
        start: Start,
        known_ascii: bool,
        metadata: Option<u32>,
        fault: Option<SeriesFault>,
    ) -> Result<(), WireError> {
        // Exemplars have packed their labels before the series' own, so that these begin here.
        let labels = self.packed.len();
        let packed = match fault {
            Some(fault) => Err(fault),
            None => self.pack_labels(message, known_ascii, true),
        };
        match packed {
            Ok(()) => {
                self.charge(size_of::<SeriesMark>())?;
                self.charge(self.packed.len() - labels)?;
                self.series.push(SeriesMark {
                    labels: labels..self.packed.len(),
                    samples: start.samples..self.samples.len(),
                    histograms: start.histograms..self.histograms.len(),
                    exemplars: start.exemplars..self.exemplars.len(),
                    metadata,
                });
            }
            Err(fault) => {
                self.refused.series += 1;
                self.refused.samples += (self.samples.len() - start.samples) as u64;
                self.refused.histograms += (self.histograms.len() - start.histograms) as u64;
                if self.refused.reasons.len() < REASONS_KEPT {
                    let shown = self.show_labels(message);
                    self.refused.reasons.push((shown, fault));
                }
                self.packed.truncate(start.packed);
                self.samples.truncate(start.samples);
                self.histograms.truncate(start.histograms);
                self.exemplars.truncate(start.exemplars);
            }
        }
        Ok(())
    }

    /// Sorts, checks and packs the labels in `scratch` at the end of `packed`. `known_ascii`: the caller has looked.
    pub(super) fn pack_labels(
        &mut self,
        message: &[u8],
        known_ascii: bool,
        metric_name: bool,
    ) -> Result<(), SeriesFault> {
        let Self { packed, scratch, .. } = self;
        let name = |label: &(Range<usize>, Range<usize>)| message.get(label.0.clone()).unwrap_or(&[]);
        let value = |label: &(Range<usize>, Range<usize>)| message.get(label.1.clone()).unwrap_or(&[]);
        let labels = &mut scratch.labels;
        // Senders sort already; a look is cheaper than a sort.
        if !labels.is_sorted_by(|a, b| name(a) <= name(b)) {
            labels.sort_by(|a, b| name(a).cmp(name(b)));
        }
        let shown = |label| String::from_utf8_lossy(name(label)).into_owned();
        let mut named = false;
        let mut previous: Option<&[u8]> = None;
        for label in labels.iter() {
            let (name, value) = (name(label), value(label));
            if name.is_empty() {
                return Err(SeriesFault::EmptyName);
            }
            if previous == Some(name) {
                return Err(SeriesFault::DuplicateName(shown(label)));
            }
            previous = Some(name);
            if !known_ascii && (std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err()) {
                return Err(SeriesFault::NotUtf8(shown(label)));
            }
            if name.len() > LABEL_LONGEST || value.len() > LABEL_LONGEST {
                return Err(SeriesFault::TooLong(shown(label)));
            }
            // An empty value is no label; it is the same series with and without it.
            if value.is_empty() {
                continue;
            }
            named |= name == METRIC_NAME.as_bytes();
            put_packed_label(packed, name);
            put_packed_label(packed, value);
        }
        if metric_name && !named { Err(SeriesFault::NoMetricName) } else { Ok(()) }
    }

    fn show_labels(&self, message: &[u8]) -> String {
        let text = |range: &Range<usize>| {
            let bytes = message.get(range.clone()).unwrap_or(&[]);
            let shown = bytes.get(..SHOWN_CHARS).unwrap_or(bytes);
            String::from_utf8_lossy(shown).into_owned()
        };
        let mut out = String::from("{");
        for (index, (name, value)) in self.scratch.labels.iter().enumerate() {
            if out.chars().count() > SHOWN_CHARS {
                out.push_str(", …");
                break;
            }
            let comma = if index > 0 { ", " } else { "" };
            out.push_str(&format!("{comma}{}={:?}", text(name), text(value)));
        }
        out.push('}');
        out
    }
}
