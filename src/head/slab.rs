//! Slots for series, found by number without a lock.
//!
//! ```text
//! directory k   holds 16 << k pages        made when its first page is
//! page          256 slots, side by side    made when its first slot is, and then for good
//! ```
//!
//! Pages never move, so a slot's address is three loads away and no reader can be in somebody's way. Slots of removed
//! series are used again, but only after everybody who could still know their numbers is gone.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

/// Slots in a page: small enough that an empty database costs little, large enough to be few.
const PAGE: usize = 256;
const FIRST_DIRECTORY: usize = 16;
/// Enough for 2³² slots.
const DIRECTORIES: usize = 21;

type Directory<T> = Box<[OnceLock<Box<[T]>>]>;

/// Slots that begin as `T::default()`.
#[derive(Debug)]
pub(super) struct Slab<T> {
    directories: [OnceLock<Directory<T>>; DIRECTORIES],
    next: AtomicU32,
    /// Free slots, each with the stamp of its removal, oldest first.
    free: Mutex<VecDeque<(u32, u64)>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { directories: std::array::from_fn(|_| OnceLock::new()), next: AtomicU32::new(0), free: Mutex::default() }
    }
}

/// Which directory, which page in it, which slot in that.
#[inline]
fn place(id: u32) -> (usize, usize, usize) {
    let page = id as usize / PAGE + FIRST_DIRECTORY;
    let directory = (page / FIRST_DIRECTORY).ilog2() as usize;
    (directory, page - (FIRST_DIRECTORY << directory), id as usize % PAGE)
}

impl<T: Default> Slab<T> {
    /// The slot with this number, if its page was ever used.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        let (directory, page, slot) = place(id);
        self.directories.get(directory)?.get()?.get(page)?.get()?.get(slot)
    }

    /// A slot to use: a free one that `passed` says everybody has forgotten, or a new one. `None`: there are 2³².
    pub(super) fn take(&self, passed: impl FnOnce(u64) -> bool) -> Option<(u32, &T)> {
        let id = self.take_id(passed)?;
        let (directory, page, slot) = place(id);
        let directory = self.directories.get(directory)?.get_or_init(|| {
            let pages = FIRST_DIRECTORY << directory;
            (0..pages).map(|_| OnceLock::new()).collect()
        });
        let page = directory.get(page)?.get_or_init(|| (0..PAGE).map(|_| T::default()).collect());
        Some((id, page.get(slot)?))
    }

    fn take_id(&self, passed: impl FnOnce(u64) -> bool) -> Option<u32> {
        let mut free = self.free.lock();
        if let Some((id, _)) = free.front().copied().filter(|(_, stamp)| passed(*stamp)) {
            free.pop_front();
            return Some(id);
        }
        drop(free);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| next.checked_add(1)).ok()
    }

    /// Gives a slot back, free for use when `stamp` has passed.
    pub(super) fn give_back(&self, id: u32, stamp: u64) {
        self.free.lock().push_back((id, stamp));
    }

    /// All numbers ever used are below this.
    pub(super) fn end(&self) -> u32 {
        self.next.load(Ordering::Acquire)
    }

    /// Bytes of the pages and directories, without what the slots point to.
    pub(super) fn bytes(&self) -> usize {
        let pages = |directory: &Directory<T>| {
            let used = directory.iter().filter(|page| page.get().is_some()).count();
            used * PAGE * size_of::<T>() + size_of_val(&**directory)
        };
        size_of::<Self>() + self.directories.iter().filter_map(OnceLock::get).map(pages).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_number_has_a_place_of_its_own_and_places_follow_each_other() {
        let mut expected = (0, 0, 0);
        for id in 0..2_000_000 {
            assert_eq!(place(id), expected, "{id}");
            expected.2 += 1;
            if expected.2 == PAGE {
                expected = (expected.0, expected.1 + 1, 0);
            }
            if expected.1 == FIRST_DIRECTORY << expected.0 {
                expected = (expected.0 + 1, 0, 0);
            }
        }
        assert!(place(u32::MAX).0 < DIRECTORIES);
    }

    #[test]
    fn a_slot_is_used_again_only_when_its_stamp_has_passed() {
        let slab = Slab::<AtomicU64>::default();
        let taken: Vec<u32> = (0..600).map(|_| slab.take(|_| false).unwrap().0).collect();
        assert_eq!(taken, (0..600).collect::<Vec<_>>());
        slab.give_back(7, 1);
        assert_eq!(slab.take(|stamp| stamp < 1).unwrap().0, 600);
        assert_eq!(slab.take(|stamp| stamp <= 1).unwrap().0, 7);
        assert_eq!(slab.end(), 601);
        assert!(slab.get(600).is_some() && slab.get(768).is_none());
    }

    #[test]
    fn threads_that_take_at_once_get_different_slots() {
        let slab = Slab::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        slab.take(|_| true).unwrap().1.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!((0..20_000).all(|id| slab.get(id).unwrap().load(Ordering::Relaxed) == 1));
    }
}
