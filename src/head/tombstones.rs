//! Deletions in the head: spans of time that a series hides until they are cut into a block without them.
//!
//! One deletion may be of every series there is. So they lie in many small tables, and a query waits for one of these at
//! most.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use roaring::RoaringBitmap;

use super::holds::{Holds, Site};
use crate::block::add_span;
use crate::codec::FixedMap;
use crate::model::TimeRange;

const SHARDS: usize = 256;

type Shard = FixedMap<u32, Vec<TimeRange>>;

/// Deleted spans by slot.
#[derive(Debug)]
pub(super) struct HeadTombstones {
    shards: Box<[Mutex<Shard>]>,
    /// Series in it: with none, which is most of the time, nobody locks anything.
    series: AtomicUsize,
}

impl Default for HeadTombstones {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), series: AtomicUsize::new(0) }
    }
}

impl HeadTombstones {
    #[expect(clippy::indexing_slicing, reason = "there are as many shards as remainders")]
    fn shard(&self, id: u32) -> MutexGuard<'_, Shard> {
        self.shards[id as usize % SHARDS].lock()
    }

    fn is_empty(&self) -> bool {
        self.series.load(Ordering::Acquire) == 0
    }

    /// Deletes a span of a series.
    pub(super) fn add(&self, id: u32, range: TimeRange) {
        let mut shard = self.shard(id);
        let ranges = shard.entry(id).or_default();
        if ranges.is_empty() {
            self.series.fetch_add(1, Ordering::AcqRel);
        }
        add_span(ranges, range);
    }

    /// Adds a series' deleted spans to `hide`, whose own ascend and do not touch.
    pub(super) fn hide(&self, id: u32, hide: &mut Vec<TimeRange>) {
        if self.is_empty() {
            return;
        }
        for range in self.shard(id).get(&id).into_iter().flatten() {
            add_span(hide, *range);
        }
    }

    /// Whether a series' sample at `t` is deleted.
    pub(super) fn hides(&self, id: u32, t: i64) -> bool {
        !self.is_empty() && self.shard(id).get(&id).is_some_and(|ranges| ranges.iter().any(|range| range.contains(t)))
    }

    /// The series of which something is deleted, by ascending ids.
    pub(super) fn series(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.series.load(Ordering::Acquire));
        if !self.is_empty() {
            self.shards.iter().for_each(|shard| ids.extend(shard.lock().keys().copied()));
        }
        ids.sort_unstable();
        ids
    }

    /// All of them, by slot.
    pub(super) fn all(&self) -> Vec<(u32, Vec<TimeRange>)> {
        let mut all = Vec::with_capacity(self.series.load(Ordering::Acquire));
        for shard in &self.shards {
            all.extend(shard.lock().iter().map(|(id, ranges)| (*id, ranges.clone())));
        }
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Forgets spans that end before `t`.
    pub(super) fn drop_before(&self, t: i64, holds: &Holds) {
        self.retain(holds, |_, ranges| {
            ranges.retain(|range| range.max >= t);
            !ranges.is_empty()
        });
    }

    /// Forgets series.
    pub(super) fn remove(&self, dead: &RoaringBitmap, holds: &Holds) {
        self.retain(holds, |id, _| !dead.contains(id));
    }

    fn retain(&self, holds: &Holds, mut keep: impl FnMut(u32, &mut Vec<TimeRange>) -> bool) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let _hold = holds.begin_slice(Site::Tombstones);
            let before = shard.len();
            shard.retain(|id, ranges| keep(*id, ranges));
            let gone = before - shard.len();
            self.series.fetch_sub(gone, Ordering::AcqRel);
            if gone > 0 && shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
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
        tombstones.drop_before(61, &Holds::default());
        let mut hide = Vec::new();
        tombstones.hide(1, &mut hide);
        assert_eq!(hide, [TimeRange::new(100, i64::MAX)]);
        tombstones.remove(&[1].into_iter().collect(), &Holds::default());
        tombstones.hide(1, &mut hide);
        assert_eq!(hide.len(), 1);
        assert!(tombstones.is_empty() && tombstones.series().is_empty());
    }
}
