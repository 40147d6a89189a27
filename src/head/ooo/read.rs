//! Reading what came out of order.

use super::super::HeadData;
use super::super::HeadReader;
use super::Stored;
use crate::chunk::EncodedChunk;
use crate::error::Result;
use crate::index::{SeriesId, postings_for_matchers};
use crate::model::{Labels, Matcher, TimeRange};

/// A chunk of samples that came out of order, as a reader gets it.
#[derive(Debug, Clone)]
pub struct OutOfOrderChunk {
    /// From its first to its last sample, or wider.
    pub range: TimeRange,
    pub(crate) data: HeadData,
    /// What of it must not be seen: spans, ascending.
    pub hide: Vec<TimeRange>,
}

impl OutOfOrderChunk {
    /// The samples: read from the disk, if they lie there.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn load(&self) -> Result<EncodedChunk> {
        self.data.load()
    }
}

impl HeadReader {
    /// Whether no series has samples out of order.
    #[must_use]
    pub fn has_none_out_of_order(&self) -> bool {
        self.head().out_of_order.is_empty()
    }

    /// The series that pass all `matchers` and have samples out of order, with their labels, in label order.
    ///
    /// # Errors
    /// As [`select`](HeadReader::select).
    pub fn select_out_of_order(&self, matchers: &[Matcher]) -> Result<Vec<(SeriesId, Labels)>> {
        let head = self.head();
        if head.out_of_order.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = postings_for_matchers(&head.labels, matchers)?.into_vec();
        ids.retain(|id| head.out_of_order.has(*id));
        let mut selected = Vec::with_capacity(ids.len());
        head.for_each_labels(&ids, |id, labels| selected.push((SeriesId(id), labels)));
        selected.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
        Ok(selected)
    }

    /// Overwrites `chunks` with those of a series' samples out of order that touch `range`, in order of precedence: an
    /// earlier one's samples win. They may overlap, and reach back before what is left of the head.
    pub fn out_of_order(&self, id: SeriesId, range: TimeRange, chunks: &mut Vec<OutOfOrderChunk>) {
        chunks.clear();
        self.head().out_of_order.look(id.0, |it| {
            it.read(self.snapshot(), self.late_from(), range, |range, data, hide| {
                let data = match data {
                    Stored::Memory(chunk) => HeadData::Ready(chunk),
                    Stored::Mapped(file, place) => HeadData::InFile(file, place),
                };
                chunks.push(OutOfOrderChunk { range, data, hide });
            });
        });
    }
}
