//! From a label set to its series.
//!
//! Sharded by hash, each shard a table of (hash, slot) pairs: eight bytes an entry. The labels themselves are looked at
//! on a hit alone, in the slot.

use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use roaring::RoaringBitmap;

use super::holds::{Holds, Site};
use crate::codec::FixedMap;

const SHARDS: usize = 128;

/// One shard. Whoever creates a series holds it from the look-up to the entry.
#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<Entry>,
    /// How far series had come that were taken out of the head before their time, by the hash of their labels.
    ended: FixedMap<u64, i64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    id: u32,
}

/// All shards.
#[derive(Debug)]
pub(super) struct SeriesMap {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for SeriesMap {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

/// The part of the hash that is stored: the shard comes from the other end.
fn stored(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Spreads the stored part over all 64 bits, since the table takes its bits from both ends.
fn spread(stored: u32) -> u64 {
    u64::from(stored).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl SeriesMap {
    /// Locks the shard of a label set.
    #[expect(clippy::indexing_slicing, reason = "there are as many shards as the remainder has values")]
    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[hash as usize % SHARDS].lock()
    }

    /// Takes out all slots that are in `dead`, shard by shard.
    pub(super) fn remove_all(&self, dead: &RoaringBitmap, holds: &Holds) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let _hold = holds.begin_slice(Site::SeriesRemoved);
            shard.table.retain(|entry| !dead.contains(entry.id));
            shard.shrink();
        }
    }

    /// Roughly how many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        let shard = |shard: &Mutex<Shard>| {
            // An eighth of the buckets is never filled; each has a control byte.
            let shard = shard.lock();
            let ended = shard.ended.capacity() * 8 / 7 * (size_of::<(u64, i64)>() + 1);
            shard.table.capacity() * 8 / 7 * (size_of::<Entry>() + 1) + ended + size_of::<Mutex<Shard>>()
        };
        self.shards.iter().map(shard).sum()
    }

    /// Forgets how far series had come that ended before `t`.
    pub(super) fn forget_ended(&self, t: i64, holds: &Holds) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            if !shard.ended.is_empty() {
                let _hold = holds.begin_slice(Site::Ended);
                shard.ended.retain(|_, newest| *newest >= t);
                if shard.ended.len() * 4 < shard.ended.capacity() {
                    shard.ended.shrink_to_fit();
                }
            }
        }
    }
}

impl Shard {
    /// Notes how far a series with labels of this hash had come that is taken out.
    pub(super) fn end(&mut self, hash: u64, newest: i64) {
        let ended = self.ended.entry(hash).or_insert(newest);
        *ended = newest.max(*ended);
    }

    /// How far a series with labels of this hash had come that was taken out, if one was.
    pub(super) fn ended_at(&self, hash: u64) -> Option<i64> {
        self.ended.get(&hash).copied()
    }

    /// The slot with this hash that `is_it` says has the labels.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let wanted = stored(hash);
        self.table.find(spread(wanted), |entry| entry.hash == wanted && is_it(entry.id)).map(|entry| entry.id)
    }

    /// Enters a slot that is not there.
    pub(super) fn insert(&mut self, hash: u64, id: u32, holds: &Holds) {
        let entry = Entry { hash: stored(hash), id };
        let _hold = (self.table.len() == self.table.capacity()).then(|| holds.begin_slice(Site::MapGrown));
        self.table.insert_unique(spread(entry.hash), entry, |entry| spread(entry.hash));
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, hash: u64, id: u32) {
        if let Ok(entry) = self.table.find_entry(spread(stored(hash)), |entry| entry.id == id) {
            entry.remove();
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.table.len() * 4 < self.table.capacity() {
            self.table.shrink_to(0, |entry| spread(entry.hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_with_equal_hashes_are_told_apart_by_their_labels() {
        let map = SeriesMap::default();
        map.shard(42).insert(42, 1, &Holds::default());
        map.shard(42).insert(42, 2, &Holds::default());
        assert_eq!(map.shard(42).find(42, |id| id == 2), Some(2));
        assert_eq!(map.shard(42).find(42, |_| false), None);
        map.shard(42).remove(42, 2);
        assert_eq!(map.shard(42).find(42, |id| id == 2), None);
        assert_eq!(map.shard(42).find(42, |_| true), Some(1));
    }

    #[test]
    fn many_are_taken_out_at_once_and_leave_no_room_behind() {
        let map = SeriesMap::default();
        let hash = |id: u32| u64::from(id) << 32 | u64::from(id);
        (0..50_000).for_each(|id| map.shard(hash(id)).insert(hash(id), id, &Holds::default()));
        let full = map.bytes();
        map.remove_all(&(0..50_000).filter(|id| id % 100 != 7).collect(), &Holds::default());
        let found = |id| map.shard(hash(id)).find(hash(id), |other| other == id);
        assert!((0..50_000).all(|id| found(id).is_some() == (id % 100 == 7)));
        assert!(map.bytes() < full / 10);
    }
}
