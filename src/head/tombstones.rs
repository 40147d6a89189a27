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

type Shard = FixedMap<u32, Deleted>;

/// What is deleted of a series.
#[derive(Debug, Default)]
struct Deleted {
    /// For everybody: ascending, and they do not touch.
    ranges: Vec<TimeRange>,
    /// Not for readers that had opened by that stamp. They read blocks as they were then, too, and what a block has beside
    /// a sample of the head would come out from behind it.
    young: Vec<(u64, TimeRange)>,
}

impl Deleted {
    /// All there are, of whatever age.
    fn all(&self) -> impl Iterator<Item = TimeRange> {
        self.ranges.iter().copied().chain(self.young.iter().map(|(_, range)| *range))
    }
}

/// When a deletion was made, as far as readers can tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeletedAt {
    /// Readers up to this one had opened before.
    pub(super) stamp: u64,
    /// The first of those that are open still.
    pub(super) oldest_reader: u64,
}

impl DeletedAt {
    /// For replay: nobody reads yet.
    pub(super) const REPLAY: Self = Self { stamp: 0, oldest_reader: u64::MAX };
}

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
    pub(super) fn add(&self, id: u32, range: TimeRange, DeletedAt { stamp, oldest_reader }: DeletedAt) {
        let mut shard = self.shard(id);
        let Deleted { ranges, young } = shard.entry(id).or_insert_with(|| {
            self.series.fetch_add(1, Ordering::AcqRel);
            Deleted::default()
        });
        young.retain(|(stamp, range)| {
            let is_young = *stamp >= oldest_reader;
            if !is_young {
                add_span(ranges, *range);
            }
            is_young
        });
        if stamp >= oldest_reader {
            young.push((stamp, range));
        } else {
            add_span(ranges, range);
        }
        if young.is_empty() {
            // One deletion may be of a million series.
            *young = Vec::new();
        }
    }

    /// Adds to `hide`, whose own ascend and do not touch, what was deleted of a series before this reader opened.
    pub(super) fn hide(&self, id: u32, reader: u64, hide: &mut Vec<TimeRange>) {
        if self.is_empty() {
            return;
        }
        if let Some(deleted) = self.shard(id).get(&id) {
            let known = deleted.young.iter().filter(|(stamp, _)| *stamp < reader).map(|(_, range)| range);
            deleted.ranges.iter().chain(known).for_each(|range| add_span(hide, *range));
        }
    }

    /// Adds to `hide`, whose own ascend and do not touch, what is deleted of a series by now.
    pub(super) fn hide_all(&self, id: u32, hide: &mut Vec<TimeRange>) {
        self.hide(id, u64::MAX, hide);
    }

    /// Whether a series' sample at `t` is deleted.
    pub(super) fn hides(&self, id: u32, t: i64) -> bool {
        !self.is_empty() && self.shard(id).get(&id).is_some_and(|deleted| deleted.all().any(|range| range.contains(t)))
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
            all.extend(shard.lock().iter().map(|(id, deleted)| {
                let mut ranges = Vec::new();
                deleted.all().for_each(|range| add_span(&mut ranges, range));
                (*id, ranges)
            }));
        }
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Forgets spans that end before `t`.
    pub(super) fn drop_before(&self, t: i64, holds: &Holds) {
        self.retain(holds, |_, Deleted { ranges, young }| {
            ranges.retain(|range| range.max >= t);
            young.retain(|(_, range)| range.max >= t);
            !ranges.is_empty() || !young.is_empty()
        });
    }

    /// Forgets series.
    pub(super) fn remove(&self, dead: &RoaringBitmap, holds: &Holds) {
        self.retain(holds, |id, _| !dead.contains(id));
    }

    fn retain(&self, holds: &Holds, mut keep: impl FnMut(u32, &mut Deleted) -> bool) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let _hold = holds.begin_slice(Site::Tombstones);
            let before = shard.len();
            shard.retain(|id, deleted| keep(*id, deleted));
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
            tombstones.add(1, TimeRange::new(min, max), DeletedAt::REPLAY);
        }
        let mut hide = vec![TimeRange::new(61, 70)];
        tombstones.hide_all(1, &mut hide);
        assert_eq!(hide, [(10, 30), (50, 70), (100, i64::MAX)].map(|(min, max)| TimeRange::new(min, max)));
        tombstones.drop_before(61, &Holds::default());
        let mut hide = Vec::new();
        tombstones.hide_all(1, &mut hide);
        assert_eq!(hide, [TimeRange::new(100, i64::MAX)]);
        tombstones.remove(&[1].into_iter().collect(), &Holds::default());
        tombstones.hide_all(1, &mut hide);
        assert_eq!(hide.len(), 1);
        assert!(tombstones.is_empty() && tombstones.series().is_empty());
    }
    #[test]
    fn a_reader_sees_what_was_there_when_it_opened_and_others_do_not() {
        let tombstones = HeadTombstones::default();
        let hidden = |reader| {
            let mut hide = Vec::new();
            tombstones.hide(1, reader, &mut hide);
            hide.iter().map(|range| (range.min, range.max)).collect::<Vec<_>>()
        };
        tombstones.add(1, TimeRange::new(1, 2), DeletedAt { stamp: 5, oldest_reader: 4 });
        tombstones.add(1, TimeRange::new(7, 8), DeletedAt { stamp: 9, oldest_reader: 4 });
        assert_eq!([5, 9, 10].map(hidden), [vec![], vec![(1, 2)], vec![(1, 2), (7, 8)]]);
        assert!(tombstones.hides(1, 7) && !tombstones.hides(1, 3));
        // The first reader is gone, and nobody is left who opened before the first deletion.
        tombstones.add(1, TimeRange::new(3, 3), DeletedAt { stamp: 12, oldest_reader: 8 });
        assert_eq!([8, 13].map(hidden), [vec![(1, 2)], vec![(1, 3), (7, 8)]]);
        assert_eq!(tombstones.all(), [(1, vec![TimeRange::new(1, 3), TimeRange::new(7, 8)])]);
    }
}
