//! What deletes took from the head's listings.

use super::HeadReader;
use crate::index::{SeriesId, Vanished};
use crate::model::TimeRange;

impl HeadReader {
    /// The series that have nothing to show because of deletes, and the names and values that go with them; `None` if
    /// nothing is deleted. Looked for each time, since the next sample of a series changes it: among the series alone of
    /// which something is deleted.
    pub(super) fn vanished(&self) -> Option<Vanished> {
        let ids = self.head.tombstones.series();
        let (mut gone, mut chunks, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            let Some(labels) = self.labels(id) else { continue };
            self.chunks(SeriesId(id), &mut chunks, &mut hidden);
            let is_hidden = |span: &TimeRange| hidden.iter().any(|h| h.min <= span.min && span.max <= h.max);
            if chunks.iter().all(|chunk| is_hidden(&chunk.range)) {
                gone.push((id, labels));
            }
        }
        if gone.is_empty() {
            return None;
        }
        // The head's lists are in memory and cannot fail.
        Vanished::find(&gone, &self.head.labels).ok()
    }
}
