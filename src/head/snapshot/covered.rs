//! Whether a snapshot that does not say what `chunks_head` had is still whole with what lies there: the log is asked.

use crate::codec::FixedMap;
use crate::head::{Head, SeriesRef};
use crate::model::TimeRange;
use crate::wal::record::{self, RecordError, RecordType, RefFloatHistogram, RefHistogram};

/// Looks for samples that reading the log would give and that no chunk has.
#[derive(Debug, Default)]
pub(super) struct Covered {
    /// By number in the log.
    seen: FixedMap<u64, Seen>,
    histograms: Vec<RefHistogram>,
    float_histograms: Vec<RefFloatHistogram>,
    /// The first such sample: the series' number and the time.
    pub(super) missing: Option<(u64, i64)>,
}

/// How far a series has come in the log.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// None: nobody has this number any more.
    series: Option<SeriesRef>,
    /// What is not newer came late, and counts for nothing in this log.
    newest: i64,
    /// The chunk that had the last sample.
    within: Option<TimeRange>,
}

impl Covered {
    /// Looks at a record of the log; `find` tells who has a number. Samples before `floor` are in blocks.
    ///
    /// # Errors
    /// [`RecordError`]: what stands before was looked at.
    pub(super) fn look(
        &mut self,
        head: &Head,
        record: &[u8],
        floor: i64,
        find: impl Fn(u64) -> Option<SeriesRef>,
    ) -> Result<(), RecordError> {
        let Self { seen, histograms, float_histograms, missing } = self;
        let mut look = |reference: u64, t: i64| {
            if t < floor || missing.is_some() {
                return;
            }
            let new = || Seen { series: find(reference), newest: i64::MIN, within: None };
            let seen = seen.entry(reference).or_insert_with(new);
            let Some(slot) = seen.series.and_then(|series| head.known(series)) else { return };
            if t <= seen.newest {
                return;
            }
            seen.newest = t;
            if seen.within.is_none_or(|within| !within.contains(t)) {
                seen.within = None;
                slot.lock().ranges(&slot, TimeRange::new(t, t), |_, range| seen.within = Some(range));
                if seen.within.is_none() {
                    *missing = Some((reference, t));
                }
            }
        };
        match RecordType::of(record) {
            Some(RecordType::Samples | RecordType::SamplesSt) => {
                record::each_sample(record, |s| look(s.reference, s.t))
            }
            Some(RecordType::Histograms | RecordType::CustomHistograms | RecordType::HistogramsSt) => {
                let decoded = record::decode_histograms(record, histograms);
                histograms.drain(..).for_each(|s| look(s.reference, s.t));
                decoded
            }
            Some(RecordType::FloatHistograms | RecordType::CustomFloatHistograms | RecordType::FloatHistogramsSt) => {
                let decoded = record::decode_float_histograms(record, float_histograms);
                float_histograms.drain(..).for_each(|s| look(s.reference, s.t));
                decoded
            }
            _ => Ok(()),
        }
    }
}
