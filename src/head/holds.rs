//! How long locks are held by work that nobody asked for: collection, deletion, the upkeep of the label index.
//!
//! An append and a query wait for such a lock at worst as long as the longest of these times. Appends themselves are not
//! timed: reading a clock twice a sample would cost more than what it watches.
//!
//! A thread that holds a lock may lose its processor to another, and the clock goes on. So what is long by nature, since it
//! grows with what the head holds, is timed by the thread's own processor time too: that tells work from waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::fs::Clock;

/// What a lock is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Site {
    /// A part of the map of series grows.
    MapGrown = 1,
    /// A label gets a value.
    ValueCreated,
    /// A label loses one.
    ValueRemoved,
    /// A part of a label's values is looked through.
    ValuesRead,
    /// What waits to be put into a pair's list of series is.
    PostingsMerged,
    /// Removed series leave a pair's list.
    PostingsRemoved,
    /// Removed series leave the list of all.
    AllRemoved,
    /// Label names without values go.
    NamesRemoved,
    /// A part of the deletions is looked through.
    Tombstones,
    /// A part of what is known of series that ended is looked through.
    Ended,
    /// Removed series leave the map.
    SeriesRemoved,
    /// Some exemplars are copied or forgotten.
    Exemplars,
    /// Metadata of some metrics is copied.
    Metadata,
    /// What came out of order is deleted.
    LateDeleted,
    /// What came out of order waits while blocks change.
    LateHeld,
}

/// All sites, by their numbers.
const SITES: [(Site, &str); 15] = [
    (Site::MapGrown, "series map grown"),
    (Site::ValueCreated, "value created"),
    (Site::ValueRemoved, "value removed"),
    (Site::ValuesRead, "values read"),
    (Site::PostingsMerged, "postings merged"),
    (Site::PostingsRemoved, "series removed from a pair"),
    (Site::AllRemoved, "series removed from all"),
    (Site::NamesRemoved, "names removed"),
    (Site::Tombstones, "tombstones read"),
    (Site::Ended, "ended series read"),
    (Site::SeriesRemoved, "series removed"),
    (Site::Exemplars, "exemplars read"),
    (Site::Metadata, "metadata read"),
    (Site::LateDeleted, "late samples deleted"),
    (Site::LateHeld, "late samples held"),
];

/// The longest of some times, and what it was for: nanoseconds above the site's number.
#[derive(Debug, Default)]
struct Longest(AtomicU64);

/// Bits of a site's number.
const SITE_BITS: u32 = 8;

impl Longest {
    fn note(&self, time: Duration, site: Site) {
        let nanoseconds = (time.as_nanos() as u64).min(u64::MAX >> SITE_BITS);
        self.0.fetch_max(nanoseconds << SITE_BITS | u64::from(site as u8), Ordering::Relaxed);
    }

    fn get(&self) -> (Duration, &'static str) {
        let packed = self.0.load(Ordering::Relaxed);
        let site = (packed as u8).checked_sub(1).and_then(|index| SITES.get(usize::from(index)));
        (Duration::from_nanos(packed >> SITE_BITS), site.map_or("", |(_, name)| name))
    }
}

/// The longest times so far.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Without a clock nothing is timed.
    clock: Option<Arc<dyn Clock>>,
    longest: Longest,
    longest_work: Longest,
}

/// A lock that is held. It is dropped before the lock is.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    holds: &'a Holds,
    site: Site,
    since: Duration,
    /// The processor time that the thread had had by then, if that is asked for and known.
    worked: Option<Duration>,
}

impl Holds {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Some(Arc::clone(clock)), ..Self::default() }
    }

    fn now(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.monotonic())
    }

    fn worked(&self) -> Option<Duration> {
        self.clock.as_ref().and_then(|clock| clock.processor_time())
    }

    /// Begins: the lock has been taken, for something short.
    pub(super) fn begin(&self, site: Site) -> Hold<'_> {
        Hold { holds: self, site, since: self.now(), worked: None }
    }

    /// Begins something that grows with what the head holds, and so is cut into slices. Asking for the processor time
    /// costs as much as half a thousand instructions.
    pub(super) fn begin_slice(&self, site: Site) -> Hold<'_> {
        Hold { holds: self, site, since: self.now(), worked: self.worked() }
    }

    /// The longest time that a lock was held, and what for.
    pub(super) fn longest(&self) -> (Duration, &'static str) {
        self.longest.get()
    }

    /// The longest processor time that a slice took, and what of.
    pub(super) fn longest_work(&self) -> (Duration, &'static str) {
        self.longest_work.get()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let held = self.holds.now().saturating_sub(self.since);
        self.holds.longest.note(held, self.site);
        if let Some((now, before)) = self.holds.worked().filter(|_| self.worked.is_some()).zip(self.worked) {
            self.holds.longest_work.note(now.saturating_sub(before), self.site);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each look at the wall takes what it shows on; the thread has worked a tenth of it.
    #[derive(Debug, Default)]
    struct Stepping(AtomicU64);

    impl Clock for Stepping {
        fn now_ms(&self) -> i64 {
            0
        }
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.fetch_add(10, Ordering::Relaxed))
        }
        fn processor_time(&self) -> Option<Duration> {
            Some(Duration::from_millis(self.0.load(Ordering::Relaxed) / 10))
        }
    }

    #[test]
    fn the_longest_hold_tells_what_it_was_for_and_how_much_of_it_was_work() {
        let clock: Arc<dyn Clock> = Arc::new(Stepping::default());
        let holds = Holds::new(&clock);
        assert_eq!((holds.longest(), holds.longest_work()), ((Duration::ZERO, ""), (Duration::ZERO, "")));
        let long = holds.begin_slice(Site::LateDeleted);
        drop(holds.begin(Site::ValueCreated));
        drop(long);
        assert_eq!(holds.longest(), (Duration::from_millis(30), "late samples deleted"));
        assert_eq!(holds.longest_work(), (Duration::from_millis(3), "late samples deleted"));
    }

    #[test]
    fn every_site_has_its_name() {
        for (index, (site, _)) in SITES.iter().enumerate() {
            assert_eq!(*site as usize, index + 1);
        }
    }
}
