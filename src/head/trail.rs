//! Which series comes after which.
//!
//! A sender names its series in the same order every time. So a series remembers which one was asked for after it, and
//! an appender that is given labels compares them with that one's first: no hash is taken, and no bucket of a table that
//! is in no cache. Series that are created one after another are neighbours, so before anything was remembered the guess
//! is the next slot, and what is stored is the distance from that.

use super::series::Series;
use super::slab::Run;
use super::{Head, Refusal, SeriesRef};

/// Where an appender is.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The series that it asked for last.
    last: Option<u32>,
    /// The one that should come now.
    next: u32,
    /// How many guesses in a row were wrong.
    wrong: u32,
}

/// After so many wrong guesses in a row the order is taken for random.
const PATIENCE: u32 = 16;

impl Trail {
    /// Whether a guess is worth its while: where it never is, every sixteenth is made, to see when that changes.
    fn is_worth_it(&self) -> bool {
        self.last.is_some() && (self.wrong < PATIENCE || self.wrong.is_multiple_of(PATIENCE))
    }

    fn found(&mut self, id: u32, skip: u32) {
        self.last = Some(id);
        self.next = successor(id, skip);
    }
}

fn successor(id: u32, skip: u32) -> u32 {
    id.wrapping_add(1).wrapping_add(skip)
}

impl Head {
    /// The series with these labels, which is created if there is none.
    pub(super) fn follow(
        &self,
        trail: &mut Trail,
        packed: &[u8],
        slots: &mut Run,
    ) -> Result<(SeriesRef, Series<'_>), Refusal> {
        if trail.is_worth_it()
            && let Some(series) = self.slots.get(trail.next)
        {
            let state = series.lock();
            if !packed.is_empty() && state.labels().are_packed(packed) {
                let (id, tag) = (trail.next, series.revive_if_dying(&state));
                trail.found(id, state.skip);
                trail.wrong = 0;
                return Ok((SeriesRef::new(id, tag), series));
            }
        }
        let (reference, series) = self.get_or_create(packed, None, slots)?;
        let id = reference.id();
        if let Some(before) = trail.last.filter(|_| trail.next != id)
            && let Some(series) = self.slots.get(before)
        {
            series.lock().skip = id.wrapping_sub(successor(before, 0));
        }
        trail.found(id, series.lock().skip);
        trail.wrong = trail.wrong.saturating_add(1);
        Ok((reference, series))
    }
}
