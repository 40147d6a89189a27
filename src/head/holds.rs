//! How long locks are held by work that nobody asked for: collection, and the upkeep of the label index.
//!
//! An append and a query wait for such a lock at worst as long as the longest of these times. Appends themselves are not
//! timed: reading a clock twice a sample would cost more than what it watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::fs::Clock;

/// The longest time so far.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Without a clock nothing is timed.
    clock: Option<Arc<dyn Clock>>,
    longest: AtomicU64,
}

/// A lock that is held. It is dropped before the lock is.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    holds: &'a Holds,
    since: Duration,
}

impl Holds {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Some(Arc::clone(clock)), longest: AtomicU64::new(0) }
    }

    fn now(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.monotonic())
    }

    /// Begins: the lock has been taken.
    pub(super) fn begin(&self) -> Hold<'_> {
        Hold { holds: self, since: self.now() }
    }

    /// The longest time that a lock was held.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let held = self.holds.now().saturating_sub(self.since);
        self.holds.longest.fetch_max(held.as_nanos() as u64, Ordering::Relaxed);
    }
}
