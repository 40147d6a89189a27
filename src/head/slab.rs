//! Slots for series, found by number without a lock.
//!
//! ```text
//! directory k   holds 16 << k pages         made when its first page is
//! page          76 slots                    made when its first slot is, and then for good
//!               headers, side by side       atomics: read without a lock
//!               one lock, bodies side by side, and what they have in common
//! ```
//!
//! Pages never move, so a slot's address is three loads away and no reader can be in somebody's way. Slots of removed
//! series are used again, but only after everybody who could still know their numbers is gone.
//!
//! A page has one lock for all its bodies. Series that are created together are neighbours and get their samples
//! together, so a commit takes a few locks instead of one a sample. What that saves is not the lock: an atomic operation
//! lets no store of the sample before pass, and those are to memory that no cache has.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// Slots in a page: enough that locks are few, so few that neighbours seldom wait for each other; and as many as fill a
/// size that allocators have (see [`page_bytes`]).
pub(super) const PAGE: usize = 76;
const FIRST_DIRECTORY: usize = 16;
/// Enough for 2³² slots.
const DIRECTORIES: usize = 23;

/// What a slot holds behind its page's lock.
pub(super) trait Body: Default + fmt::Debug {
    /// What the bodies of a page have in common.
    type Common: Default + fmt::Debug;
}

/// Some slots with the lock that they share.
#[derive(Debug)]
struct Page<H, B: Body> {
    headers: [H; PAGE],
    bodies: Mutex<Bodies<B>>,
}

/// What the lock of a page protects.
#[derive(Debug)]
struct Bodies<B: Body> {
    common: B::Common,
    each: [B; PAGE],
}

type Directory<H, B> = Box<[OnceLock<Box<Page<H, B>>>]>;

/// Slots, whose headers and bodies begin as their defaults.
#[derive(Debug)]
pub(super) struct Slab<H, B: Body> {
    directories: [OnceLock<Directory<H, B>>; DIRECTORIES],
    next: AtomicU32,
    /// Free slots with the stamp of their removal, oldest first: in batches, since who takes one waits while the list
    /// grows.
    free: Mutex<VecDeque<(Vec<u32>, u64)>>,
}

/// Slots of one page for one who makes series: they are neighbours, whoever else makes some meanwhile. What two threads
/// have in one page they lock in turn, and send to and fro between their caches.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The last is used first.
    ids: Vec<u32>,
}

/// A slot: its header, and the way to its body.
#[derive(Debug)]
pub(super) struct Slot<'a, H, B: Body> {
    page: &'a Page<H, B>,
    header: &'a H,
    index: usize,
}

impl<H, B: Body> Clone for Slot<'_, H, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H, B: Body> Copy for Slot<'_, H, B> {}

impl<H, B: Body> Deref for Slot<'_, H, B> {
    type Target = H;
    fn deref(&self) -> &H {
        self.header
    }
}

impl<'a, H, B: Body> Slot<'a, H, B> {
    /// Locks the body, and its neighbours' with it.
    #[inline]
    pub(super) fn lock(&self) -> Guard<'a, B> {
        Guard { bodies: self.page.bodies.lock(), index: self.index }
    }

    /// As [`lock`](Self::lock), unless somebody has it locked.
    #[inline]
    pub(super) fn try_lock(&self) -> Option<Guard<'a, B>> {
        Some(Guard { bodies: self.page.bodies.try_lock()?, index: self.index })
    }

    /// Has the memory fetched that locking it needs. A lock waits for its own memory and lets nothing else pass; this does
    /// not, so that the memory of many slots is waited for once.
    #[inline]
    pub(super) fn fetch(&self) {
        std::hint::black_box(self.page.bodies.is_locked());
    }
}

/// A body that is locked, and its page with it.
#[derive(Debug)]
pub(super) struct Guard<'a, B: Body> {
    bodies: MutexGuard<'a, Bodies<B>>,
    index: usize,
}

impl<B: Body> Guard<'_, B> {
    /// What the bodies of the page have in common, and which of them this is.
    #[inline]
    pub(super) fn common(&self) -> (&B::Common, usize) {
        (&self.bodies.common, self.index)
    }

    /// The same, to be changed.
    pub(super) fn common_mut(&mut self) -> (&mut B::Common, usize) {
        (&mut self.bodies.common, self.index)
    }

    /// The body, and what it has in common with the others of the page, both to be changed.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a guard is made with an index that its page has")]
    pub(super) fn parts(&mut self) -> (&mut B, &mut B::Common) {
        let Bodies { common, each } = &mut *self.bodies;
        (&mut each[self.index], common)
    }
}

impl<B: Body> Deref for Guard<'_, B> {
    type Target = B;
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a guard is made with an index that its page has")]
    fn deref(&self) -> &B {
        &self.bodies.each[self.index]
    }
}

impl<B: Body> DerefMut for Guard<'_, B> {
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a guard is made with an index that its page has")]
    fn deref_mut(&mut self) -> &mut B {
        &mut self.bodies.each[self.index]
    }
}

/// Looks slots up one after another: one in the page of the last one is found at once.
#[derive(Debug)]
pub(super) struct Cursor<'a, H, B: Body> {
    slab: &'a Slab<H, B>,
    /// The last slot's page, and which one it is.
    page: Option<(u32, &'a Page<H, B>)>,
}

impl<'a, H: Default, B: Body> Cursor<'a, H, B> {
    /// As [`Slab::get`].
    #[inline]
    pub(super) fn get(&mut self, id: u32) -> Option<Slot<'a, H, B>> {
        let number = id / PAGE as u32;
        let page = match self.page {
            Some((last, page)) if last == number => page,
            _ => {
                let page = self.slab.get(id)?.page;
                self.page = Some((number, page));
                page
            }
        };
        let index = id as usize % PAGE;
        Some(Slot { page, header: page.headers.get(index)?, index })
    }
}

/// Bodies that are locked one after another: the lock is kept as long as they are of one page.
#[derive(Debug)]
pub(super) struct Locked<'a, H, B: Body> {
    held: Option<Held<'a, H, B>>,
}

#[derive(Debug)]
struct Held<'a, H, B: Body> {
    page: &'a Page<H, B>,
    guard: Guard<'a, B>,
}

impl<H, B: Body> Default for Locked<'_, H, B> {
    fn default() -> Self {
        Self { held: None }
    }
}

impl<'a, H, B: Body> Locked<'a, H, B> {
    /// The body of `slot`, and what it has in common with the others of its page. No other body may be locked by this
    /// thread meanwhile.
    #[inline]
    pub(super) fn parts(&mut self, slot: &Slot<'a, H, B>) -> (&mut B, &mut B::Common) {
        self.guard(slot).parts()
    }

    /// As [`parts`](Self::parts), as the lock of `slot` alone would be.
    #[inline]
    pub(super) fn guard(&mut self, slot: &Slot<'a, H, B>) -> &mut Guard<'a, B> {
        if !self.held.as_ref().is_some_and(|held| std::ptr::eq(held.page, slot.page)) {
            // Given back before the next one is taken: never two at a time.
            self.held = None;
        }
        let held = self.held.get_or_insert_with(|| Held { page: slot.page, guard: slot.lock() });
        held.guard.index = slot.index;
        &mut held.guard
    }
}

impl<H, B: Body> Default for Slab<H, B> {
    fn default() -> Self {
        Self { directories: std::array::from_fn(|_| OnceLock::new()), next: AtomicU32::new(0), free: Mutex::default() }
    }
}

/// Bytes of a page.
pub(super) const fn page_bytes<H, B: Body>() -> usize {
    size_of::<Page<H, B>>()
}

/// Which directory, which page in it, which slot in that.
#[inline]
fn place(id: u32) -> (usize, usize, usize) {
    // Thirty-two bits: dividing them by a constant is one multiplication.
    let (page, index) = (id / PAGE as u32, id % PAGE as u32);
    let page = page as usize + FIRST_DIRECTORY;
    let directory = (page / FIRST_DIRECTORY).ilog2() as usize;
    (directory, page - (FIRST_DIRECTORY << directory), index as usize)
}

impl<H: Default, B: Body> Slab<H, B> {
    /// The slot with this number, if its page was ever used.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<Slot<'_, H, B>> {
        let (directory, page, index) = place(id);
        let page = self.directories.get(directory)?.get()?.get(page)?.get()?;
        Some(Slot { page, header: page.headers.get(index)?, index })
    }

    /// For looking up many slots, neighbours after each other.
    pub(super) fn cursor(&self) -> Cursor<'_, H, B> {
        Cursor { slab: self, page: None }
    }

    /// The next slot of a run. If there is none in it, it gets those of a page: free ones that `passed` says everybody has
    /// forgotten, or new ones. `None`: there are 2³².
    pub(super) fn take(&self, run: &mut Run, passed: impl FnOnce(u64) -> bool) -> Option<(u32, Slot<'_, H, B>)> {
        if run.ids.is_empty() {
            run.ids = self.take_free(passed).or_else(|| self.take_page())?;
        }
        let id = run.ids.pop()?;
        Some((id, self.slot(id)?))
    }

    /// Gives back what is left of a run.
    pub(super) fn end_run(&self, run: Run) {
        if !run.ids.is_empty() {
            // Nobody knows them, so they can be used before any others.
            self.free.lock().push_front((run.ids, 0));
        }
    }

    /// The slot with this number, whose page is made if there is none.
    fn slot(&self, id: u32) -> Option<Slot<'_, H, B>> {
        let (directory, page, index) = place(id);
        let directory = self.directories.get(directory)?.get_or_init(|| {
            let pages = FIRST_DIRECTORY << directory;
            (0..pages).map(|_| OnceLock::new()).collect()
        });
        let page = directory.get(page)?.get_or_init(|| {
            let bodies = Bodies { common: B::Common::default(), each: std::array::from_fn(|_| B::default()) };
            let bodies = Mutex::new(bodies);
            Box::new(Page { headers: std::array::from_fn(|_| H::default()), bodies })
        });
        Some(Slot { page, header: page.headers.get(index)?, index })
    }

    /// Those of the slots that are to be used next that are of one page.
    fn take_free(&self, passed: impl FnOnce(u64) -> bool) -> Option<Vec<u32>> {
        let mut free = self.free.lock();
        let (ids, _) = free.front_mut().filter(|(_, stamp)| passed(*stamp))?;
        let page = ids.last()? / PAGE as u32;
        let others = ids.iter().rposition(|id| id / PAGE as u32 != page).map_or(0, |last| last + 1);
        let run = ids.split_off(others);
        if ids.is_empty() {
            free.pop_front();
        }
        Some(run)
    }

    /// A page of which no slot was ever used.
    fn take_page(&self) -> Option<Vec<u32>> {
        let end = |next: u32| next.checked_add(PAGE as u32);
        let next = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok()?;
        Some((next..end(next)?).rev().collect())
    }

    /// Gives slots back, free for use when `stamp` has passed; the last is used first.
    pub(super) fn give_back(&self, ids: Vec<u32>, stamp: u64) {
        if !ids.is_empty() {
            self.free.lock().push_back((ids, stamp));
        }
    }

    /// All numbers ever used are below this.
    pub(super) fn end(&self) -> u32 {
        self.next.load(Ordering::Acquire)
    }

    /// What the pages that are used have in common, each locked as long as `each` looks at it.
    pub(super) fn for_each_page(&self, mut each: impl FnMut(&B::Common)) {
        for directory in self.directories.iter().filter_map(OnceLock::get) {
            directory.iter().filter_map(OnceLock::get).for_each(|page| each(&page.bodies.lock().common));
        }
    }

    /// Bytes of the pages and directories, without what the slots point to.
    pub(super) fn bytes(&self) -> usize {
        let pages = |directory: &Directory<H, B>| {
            let used = directory.iter().filter(|page| page.get().is_some()).count();
            used * size_of::<Page<H, B>>() + size_of_val(&**directory)
        };
        size_of::<Self>() + self.directories.iter().filter_map(OnceLock::get).map(pages).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    impl Body for u64 {
        type Common = ();
    }

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
        let slab = Slab::<AtomicU64, u64>::default();
        let (mut run, end) = (Run::default(), 8 * PAGE as u32);
        let taken: Vec<u32> = (0..end).map(|_| slab.take(&mut run, |_| false).unwrap().0).collect();
        assert_eq!(taken, (0..end).collect::<Vec<_>>());
        slab.give_back(vec![7], 1);
        let mut other = Run::default();
        assert_eq!(slab.take(&mut other, |stamp| stamp < 1).unwrap().0, end);
        assert_eq!(slab.take(&mut run, |stamp| stamp <= 1).unwrap().0, 7);
        assert_eq!(slab.end(), end + PAGE as u32);
        let mut cursor = slab.cursor();
        for id in [0, 1, 63, 64, 5, end, end - 1, 66] {
            assert!(std::ptr::eq(cursor.get(id).unwrap().header, slab.get(id).unwrap().header), "{id}");
        }
        assert!(cursor.get(100_000).is_none() && cursor.get(66).is_some());
        assert!(slab.get(end).is_some() && slab.get(end + PAGE as u32).is_none());
    }

    #[test]
    fn who_makes_series_at_once_has_them_in_pages_of_its_own() {
        let slab = Slab::<AtomicU64, u64>::default();
        let mut runs = [Run::default(), Run::default()];
        let mut pages: [Vec<u32>; 2] = Default::default();
        for _ in 0..3 * PAGE {
            for (run, pages) in runs.iter_mut().zip(&mut pages) {
                pages.push(slab.take(run, |_| true).unwrap().0 / PAGE as u32);
            }
        }
        assert!(pages[0].iter().all(|page| !pages[1].contains(page)));
        // Removed ones too.
        slab.give_back((0..2 * PAGE as u32).rev().collect(), 0);
        let [one, other] = &mut runs;
        assert_eq!(slab.take(one, |_| true).unwrap().0, 0);
        assert_eq!(slab.take(other, |_| true).unwrap().0, PAGE as u32);
        assert_eq!(slab.take(one, |_| true).unwrap().0, 1);
    }

    #[test]
    fn what_is_left_of_a_run_is_used_next() {
        let slab = Slab::<AtomicU64, u64>::default();
        slab.give_back(vec![2], 1);
        let mut run = Run::default();
        assert_eq!(slab.take(&mut run, |_| false).unwrap().0, 0);
        slab.end_run(run);
        assert_eq!(slab.take(&mut Run::default(), |stamp| stamp < 1).unwrap().0, 1);
        assert_eq!(slab.end(), PAGE as u32);
    }

    #[test]
    fn threads_that_take_at_once_get_different_slots() {
        const TAKEN: usize = 5000;
        let slab = Slab::<AtomicU64, u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut run = Run::default();
                    for _ in 0..TAKEN {
                        slab.take(&mut run, |_| true).unwrap().1.fetch_add(1, Ordering::Relaxed);
                    }
                    slab.end_run(run);
                });
            }
        });
        let slots = || (0..slab.end()).filter_map(|id| slab.get(id));
        let mut locked = Locked::default();
        for slot in slots().filter(|slot| slot.load(Ordering::Relaxed) == 1) {
            *locked.parts(&slot).0 += 1;
        }
        drop(locked);
        assert_eq!(slots().filter(|slot| *slot.lock() == 1).count(), 4 * TAKEN);
        assert_eq!(slots().filter(|slot| slot.load(Ordering::Relaxed) == 1).count(), 4 * TAKEN);
    }
}
