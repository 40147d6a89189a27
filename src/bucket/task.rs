//! Work on the runtime that a thread outside of it waits for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::budget::Budget;
use crate::error::{Error, ErrorKind, Result};

/// How often a waiting thread looks whether its query was cancelled or is out of time.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Work under way. Dropping it ends the work.
pub(super) struct Task<T> {
    slot: Arc<Slot<T>>,
    abort: AbortHandle,
}

struct Slot<T> {
    result: Mutex<Option<Result<T>>>,
    done: Condvar,
}

/// Fills the slot whatever happens to the work.
struct Finish<T>(Arc<Slot<T>>);

impl<T> Finish<T> {
    fn with(&self, result: Result<T>) {
        *self.0.result.lock() = Some(result);
        self.0.done.notify_all();
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let mut result = self.0.result.lock();
        if result.is_none() {
            *result = Some(Err(Error::new(ErrorKind::NotReady, "the runtime that reads the bucket is shut down")));
            self.0.done.notify_all();
        }
    }
}

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(runtime: &Handle, work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        let slot = Arc::new(Slot { result: Mutex::new(None), done: Condvar::new() });
        let finish = Finish(Arc::clone(&slot));
        let task = runtime.spawn(async move { finish.with(work.await) });
        Self { slot, abort: task.abort_handle() }
    }

    /// Waits for the result, which is given once.
    pub(super) fn wait(&self, budget: &Budget) -> Result<T> {
        let mut result = self.slot.result.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            budget.check()?;
            self.slot.done.wait_for(&mut result, LOOK_EVERY);
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
