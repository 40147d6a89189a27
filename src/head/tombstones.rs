//! Deletions in the head: spans of time that a series hides until they are cut into a block without them.

use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::block::add_span;
use crate::codec::FixedMap;
use crate::model::TimeRange;

/// Deleted spans by slot.
#[derive(Debug, Default)]
pub(super) struct HeadTombstones {
    by_id: Mutex<FixedMap<u32, Vec<TimeRange>>>,
}

impl HeadTombstones {
    /// Deletes a span of a series.
    pub(super) fn add(&self, id: u32, range: TimeRange) {
        add_span(self.by_id.lock().entry(id).or_default(), range);
    }

    /// Adds a series' deleted spans to `hide`, whose own ascend and do not touch.
    pub(super) fn hide(&self, id: u32, hide: &mut Vec<TimeRange>) {
        for range in self.by_id.lock().get(&id).into_iter().flatten() {
            add_span(hide, *range);
        }
    }

    /// Whether a series' sample at `t` is deleted.
    pub(super) fn hides(&self, id: u32, t: i64) -> bool {
        self.by_id.lock().get(&id).is_some_and(|ranges| ranges.iter().any(|range| range.contains(t)))
    }

    /// The series of which something is deleted, by ascending ids.
    pub(super) fn series(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.by_id.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// All of them, by slot.
    pub(super) fn all(&self) -> Vec<(u32, Vec<TimeRange>)> {
        let mut all: Vec<_> = self.by_id.lock().iter().map(|(id, ranges)| (*id, ranges.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Forgets spans that end before `t`.
    pub(super) fn drop_before(&self, t: i64) {
        self.by_id.lock().retain(|_, ranges| {
            ranges.retain(|range| range.max >= t);
            !ranges.is_empty()
        });
    }

    /// Forgets series.
    pub(super) fn remove(&self, dead: &RoaringBitmap) {
        self.by_id.lock().retain(|id, _| !dead.contains(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_become_one_and_old_ones_go() {
        let tombstones = HeadTombstones::default();
        for (min, max) in [(50, 60), (10, 20), (21, 30), (100, i64::MAX), (55, 58)] {
            tombstones.add(1, TimeRange::new(min, max));
        }
        let mut hide = vec![TimeRange::new(61, 70)];
        tombstones.hide(1, &mut hide);
        assert_eq!(hide, [(10, 30), (50, 70), (100, i64::MAX)].map(|(min, max)| TimeRange::new(min, max)));
        tombstones.drop_before(61);
        let mut hide = Vec::new();
        tombstones.hide(1, &mut hide);
        assert_eq!(hide, [TimeRange::new(100, i64::MAX)]);
        tombstones.remove(&[1].into_iter().collect());
        tombstones.hide(1, &mut hide);
        assert_eq!(hide.len(), 1);
    }
}
