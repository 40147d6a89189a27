//! The ids of the series that have a label pair, growing while queries read them.
//!
//! ```text
//! Few    0, 1 or 2 ids, inline: what most pairs of a churning label have
//! Many   base: a frozen roaring bitmap, shared with the queries that read it; delta: ids that came since, unsorted
//! ```
//!
//! A query takes a reference to the base and a copy of the short delta, and does its set algebra outside the lock. The
//! delta is merged into the base when it has grown to an eighth of all, so that an id is moved a bounded number of times.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::index;

/// The delta may always hold this many ids: below it, a merge would cost more than reading the delta does.
const DELTA_FLOOR: usize = 64;

/// And never more than this: merging it is what adding an id can cost.
const DELTA_CEILING: usize = 4096;

/// A growing set of series ids.
#[derive(Debug, Default)]
pub(super) enum Postings {
    /// None.
    #[default]
    None,
    /// One id.
    One(u32),
    /// Two ids.
    Two(u32, u32),
    /// More.
    Many(Box<Many>),
}

/// More than two ids.
#[derive(Debug)]
pub(super) struct Many {
    base: Arc<RoaringBitmap>,
    delta: Vec<u32>,
    /// How many there are: a bitmap counts all its runs when it is asked.
    len: u64,
}

impl Postings {
    /// Adds an id that is not in it. What `upkeep` gives is kept as long as that takes more than adding one.
    pub(super) fn add<T>(&mut self, id: u32, upkeep: impl FnOnce() -> T) {
        match self {
            Self::None => *self = Self::One(id),
            Self::One(first) => *self = Self::Two(*first, id),
            Self::Two(first, second) => {
                let base = Arc::new([*first, *second, id].into_iter().collect());
                *self = Self::Many(Box::new(Many { base, delta: Vec::new(), len: 3 }));
            }
            Self::Many(many) => many.add(id, upkeep),
        }
    }

    /// Takes out all ids that are in `dead`; some are.
    pub(super) fn subtract(&mut self, dead: &RoaringBitmap) {
        match self {
            Self::None => {}
            Self::One(id) => {
                if dead.contains(*id) {
                    *self = Self::None;
                }
            }
            Self::Two(first, second) => {
                *self = match (dead.contains(*first), dead.contains(*second)) {
                    (false, false) => return,
                    (true, false) => Self::One(*second),
                    (false, true) => Self::One(*first),
                    (true, true) => Self::None,
                };
            }
            Self::Many(many) => {
                many.merge();
                let base = Arc::make_mut(&mut many.base);
                *base -= dead;
                many.len = base.len();
                let mut ids = many.base.iter();
                let small = match (ids.next(), ids.next(), ids.next()) {
                    (Some(_), Some(_), Some(_)) => return,
                    (Some(first), Some(second), None) => Self::Two(first, second),
                    (Some(id), None, _) => Self::One(id),
                    _ => Self::None,
                };
                drop(ids);
                *self = small;
            }
        }
    }

    /// The set as it is now.
    pub(super) fn snapshot(&self) -> index::Postings {
        let (base, mut delta) = match self {
            Self::None => return index::Postings::empty(),
            Self::One(id) => return index::Postings::List(vec![*id]),
            Self::Two(first, second) => (None, vec![*first, *second]),
            Self::Many(many) => (Some(Arc::clone(&many.base)), many.delta.clone()),
        };
        // Ids ascend unless slots are used again.
        if !delta.is_sorted() {
            delta.sort_unstable();
        }
        match base {
            Some(base) => index::Postings::Bitmap { base, delta },
            None => index::Postings::List(delta),
        }
    }

    /// How many ids are in it.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Two(..) => 2,
            Self::Many(many) => many.len,
        }
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Whether taking ids out may take long.
    pub(super) fn is_large(&self) -> bool {
        /// About a bitmap of one container.
        const LARGE: u64 = 1 << 12;
        self.len() > LARGE
    }

    /// Bytes beside the value itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Many(many) => size_of::<Many>() + many.base.serialized_size() + many.delta.capacity() * 4,
            _ => 0,
        }
    }
}

impl Many {
    fn add<T>(&mut self, id: u32, upkeep: impl FnOnce() -> T) {
        self.len += 1;
        if let Some(base) = Arc::get_mut(&mut self.base).filter(|_| self.delta.is_empty()) {
            // Nobody reads: the base can grow in place.
            base.insert(id);
            // Series of a target are neighbours: as runs they take a fraction.
            if self.len.is_power_of_two() {
                let _upkeep = upkeep();
                base.optimize();
            }
            return;
        }
        self.delta.push(id);
        let most = (self.len / 8).min(DELTA_CEILING as u64);
        if self.delta.len() > DELTA_FLOOR && self.delta.len() as u64 > most {
            let _upkeep = upkeep();
            self.merge();
        }
    }

    fn merge(&mut self) {
        if !self.delta.is_empty() {
            let base = Arc::make_mut(&mut self.base);
            base.extend(std::mem::take(&mut self.delta));
            base.optimize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_a_set_would_while_snapshots_stay_as_they_were(
            rounds in prop::collection::vec((prop::collection::btree_set(0..500_u32, 0..90),
                                             prop::collection::btree_set(0..500_u32, 0..60), any::<bool>()), 0..8)) {
            let mut postings = Postings::default();
            let mut model = BTreeSet::new();
            let mut snapshots: Vec<(index::Postings, BTreeSet<u32>)> = Vec::new();
            for (add, remove, look) in rounds {
                for id in add {
                    if model.insert(id) {
                        postings.add(id, || ());
                    }
                }
                if look {
                    snapshots.push((postings.snapshot(), model.clone()));
                }
                postings.subtract(&remove.iter().copied().collect());
                model.retain(|id| !remove.contains(id));
                prop_assert_eq!(postings.len(), model.len() as u64);
                prop_assert_eq!(postings.is_empty(), model.is_empty());
            }
            snapshots.push((postings.snapshot(), model));
            for (snapshot, model) in snapshots {
                prop_assert_eq!(snapshot.into_vec(), model.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_query_that_holds_the_base_does_not_make_every_addition_copy_it() {
        let mut postings = Postings::default();
        (0..10_000).for_each(|id| postings.add(id, || ()));
        let held = postings.snapshot();
        (10_000..10_100).for_each(|id| postings.add(id, || ()));
        let Postings::Many(many) = &postings else { panic!("ten thousand ids are many") };
        assert_eq!(many.delta.len(), 100);
        assert_eq!(held.len(), 10_000);
    }
}
