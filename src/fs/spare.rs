//! Memory to use again, by the thread that used it last if it can be.
//!
//! What a thread has just written lies in its processor's cache. Another one that gets it fetches every line of it from
//! there, which costs more than what is done with it: so a buffer that threads take from each other's hands makes both
//! of them slower than one alone.

use std::thread::{self, ThreadId};

use parking_lot::Mutex;

/// What nobody uses now, each with the thread that used it last; the latest is the last.
#[derive(Debug)]
pub(crate) struct Spare<T> {
    kept: Mutex<Vec<(ThreadId, T)>>,
}

/// The most that is kept.
const MOST: usize = 8;

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<T: Default> Spare<T> {
    /// What this thread used last, if that is here; what another did, if anything is; else a new one.
    pub(crate) fn take(&self) -> T {
        let own = thread::current().id();
        let mut kept = self.kept.lock();
        let at = kept.iter().rposition(|(thread, _)| *thread == own).or(kept.len().checked_sub(1));
        at.map(|at| kept.remove(at).1).unwrap_or_default()
    }

    /// Keeps it for later. If there is enough, it comes back.
    pub(crate) fn keep(&self, used: T) -> Option<T> {
        let own = thread::current().id();
        let mut kept = self.kept.lock();
        if kept.len() >= MOST {
            return Some(used);
        }
        kept.push((own, used));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_own_before_anothers_and_anothers_before_a_new_one() {
        let spare = Spare::default();
        assert_eq!(spare.keep(1), None);
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!((spare.take(), spare.take()), (1, 0));
                assert_eq!((spare.keep(2), spare.keep(3)), (None, None));
            });
        });
        assert_eq!(spare.keep(4), None);
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(spare.keep(5), None));
        });
        assert_eq!([(); 5].map(|()| spare.take()), [4, 5, 3, 2, 0]);
    }

    #[test]
    fn what_is_too_much_comes_back() {
        let spare = Spare::default();
        let back: Vec<_> = (0..10).map(|each| spare.keep(each)).collect();
        assert_eq!(back.iter().flatten().collect::<Vec<_>>(), [&8, &9]);
    }
}
