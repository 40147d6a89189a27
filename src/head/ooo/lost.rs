//! Markers of chunks that are not on the disk: a crash took them before the system had written them, or they were cut away
//! behind damage.
//!
//! Nothing is lost here, since the log has their samples. But Prometheus goes by a marker's place alone. It disbelieves one
//! whose place is behind the last chunk there is; any other tells it to forget the samples that stand before it. So as soon
//! as a chunk is written behind the lost ones, it would forget what is nowhere else. That is why the owner takes such
//! markers out of the log when it opens.

use std::collections::BTreeSet;
use std::path::Path;

use crate::fs::Env;
use crate::wal::record::{RecordType, RefMarker, decode_markers, encode_markers};
use crate::wal::{LogError, Replace, replace_records};

/// Markers that are to leave the log.
#[derive(Debug, Default)]
pub(in crate::head) struct LostMarkers {
    /// The segments that they stand in.
    segments: BTreeSet<u64>,
    /// Their series' numbers and their chunks' places.
    markers: BTreeSet<(u64, u64)>,
}

impl LostMarkers {
    /// Notes markers that stand in `segment`.
    pub(super) fn note(&mut self, segment: u64, markers: &[RefMarker]) {
        self.segments.insert(segment);
        self.markers.extend(markers.iter().map(|marker| (marker.reference, marker.chunk)));
    }

    /// Takes them out of the log in `dir`, which was repaired and is not open yet. A crash leaves each segment with its
    /// markers or without.
    ///
    /// # Errors
    /// `Io`: some may stand there still, and the next opening finds them again.
    pub(in crate::head) fn take_out(&self, env: &Env, dir: &Path) -> Result<(), LogError> {
        for segment in &self.segments {
            replace_records(env, dir, *segment, |record| {
                let mut markers = Vec::new();
                if RecordType::of(record) != Some(RecordType::MmapMarkers)
                    || decode_markers(record, &mut markers).is_err()
                {
                    return Replace::Keep;
                }
                let all = markers.len();
                markers.retain(|marker| !self.markers.contains(&(marker.reference, marker.chunk)));
                if markers.len() == all {
                    return Replace::Keep;
                }
                let mut record = Vec::new();
                if !markers.is_empty() {
                    encode_markers(markers, &mut record);
                }
                Replace::By(record)
            })?;
        }
        Ok(())
    }
}
