//! What a query may use: samples, bytes, time. Charged wherever something grows.
//!
//! One [`Budget`] goes through a whole query, over every source and thread; clones are the same account. Charging is an atomic addition; the deadline
//! and the cancellation are looked at on each charge, so charge in batches (a chunk, a column), not sample by sample.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Clock;

/// Limits of one query; `None` is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct BudgetLimits {
    /// Samples that may be held in memory at a time, as Prometheus's `--query.max-samples` counts them.
    pub samples: Option<u64>,
    /// Bytes that may be held in memory at a time.
    pub bytes: Option<u64>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// A query's account. Clones are the same account, so that work that outlives a call can be charged to it.
#[derive(Debug, Clone)]
pub struct Budget {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    limits: BudgetLimits,
    samples: AtomicU64,
    peak_samples: AtomicU64,
    bytes: AtomicU64,
    peak_bytes: AtomicU64,
    cancelled: AtomicBool,
    clock: Option<(Arc<dyn Clock>, Duration)>,
}

impl Budget {
    /// An account with `limits`; its time runs from now.
    #[must_use]
    pub fn new(limits: BudgetLimits, clock: &Arc<dyn Clock>) -> Self {
        let clock = limits.timeout.map(|timeout| (Arc::clone(clock), clock.monotonic() + timeout));
        Self::open(limits, clock)
    }

    /// An account that never runs out.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::open(BudgetLimits::default(), None)
    }

    fn open(limits: BudgetLimits, clock: Option<(Arc<dyn Clock>, Duration)>) -> Self {
        let account = Account {
            limits,
            samples: AtomicU64::new(0),
            peak_samples: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            clock,
        };
        Self { account: Arc::new(account) }
    }

    /// Takes `count` samples.
    ///
    /// # Errors
    /// `LimitExceeded`, in Prometheus's words; or as [`check`](Budget::check).
    pub fn take_samples(&self, count: u64) -> Result<()> {
        let now = self.account.samples.fetch_add(count, Ordering::Relaxed) + count;
        self.account.peak_samples.fetch_max(now, Ordering::Relaxed);
        self.could_hold_samples(now)?;
        self.check()
    }

    /// Whether `count` samples may be held at all; takes none. For what allocates before it knows what it will fill.
    ///
    /// # Errors
    /// `LimitExceeded`, in Prometheus's words.
    pub fn could_hold_samples(&self, count: u64) -> Result<()> {
        if self.account.limits.samples.is_some_and(|limit| count > limit) {
            let text = "query processing would load too many samples into memory in query execution";
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        Ok(())
    }

    /// Gives `count` samples back.
    pub fn give_samples(&self, count: u64) {
        self.account.samples.fetch_sub(count, Ordering::Relaxed);
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// `LimitExceeded`; or as [`check`](Budget::check).
    pub fn take_bytes(&self, count: u64) -> Result<()> {
        let now = self.account.bytes.fetch_add(count, Ordering::Relaxed) + count;
        self.account.peak_bytes.fetch_max(now, Ordering::Relaxed);
        if let Some(limit) = self.account.limits.bytes.filter(|limit| now > *limit) {
            let text = format!("query would hold {now} bytes in memory, more than its limit of {limit}");
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        self.check()
    }

    /// Gives `count` bytes back.
    pub fn give_bytes(&self, count: u64) {
        self.account.bytes.fetch_sub(count, Ordering::Relaxed);
    }

    /// Looks at the deadline and the cancellation.
    ///
    /// # Errors
    /// `Timeout` or `Cancelled`, in Prometheus's words.
    pub fn check(&self) -> Result<()> {
        if self.account.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "query was canceled in expression evaluation"));
        }
        if self.account.clock.as_ref().is_some_and(|(clock, deadline)| clock.monotonic() > *deadline) {
            return Err(Error::new(ErrorKind::Timeout, "query timed out in expression evaluation"));
        }
        Ok(())
    }

    /// Makes every later check fail.
    pub fn cancel(&self) {
        self.account.cancelled.store(true, Ordering::Relaxed);
    }

    /// The most samples held at a time so far.
    #[must_use]
    pub fn peak_samples(&self) -> u64 {
        self.account.peak_samples.load(Ordering::Relaxed)
    }

    /// The most bytes held at a time so far.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.account.peak_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let env = crate::fs::Env::real();
        let limits = BudgetLimits { samples: Some(10), ..BudgetLimits::default() };
        let budget = Budget::new(limits, &env.clock);
        budget.take_samples(8).unwrap();
        budget.give_samples(8);
        budget.take_samples(10).unwrap();
        assert_eq!(budget.take_samples(1).unwrap_err().kind(), ErrorKind::LimitExceeded);
        assert_eq!(budget.peak_samples(), 11);
    }

    #[test]
    fn a_cancelled_query_fails_at_its_next_charge() {
        let budget = Budget::unlimited();
        budget.cancel();
        assert_eq!(budget.take_bytes(1).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
