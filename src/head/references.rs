//! From numbers in the log to series, while it is read back.

use super::SeriesRef;
use crate::codec::FixedMap;
use crate::model::TimeRange;

/// From numbers in the log to slots. The numbers are counted up by the writer, so nearly all are small.
#[derive(Debug, Default)]
pub(super) struct References {
    dense: Vec<Piece>,
    sparse: FixedMap<u64, Known>,
    /// How many were inserted.
    count: u64,
    /// Numbers that stand for a series which has another one now.
    pub(super) second: Vec<(u64, SeriesRef)>,
    /// Numbers of series that were evicted, and the newest sample of each.
    pub(super) evicted: Vec<(u64, i64)>,
    /// The largest number.
    pub(super) last: u64,
    /// What Prometheus deleted: of all samples, also of those out of order.
    pub(super) deleted: Vec<(SeriesRef, TimeRange)>,
}

/// What as many neighbouring numbers stand for. A piece never moves: one list that grows would leave as much memory behind
/// as it has, next to the series that stay.
#[derive(Debug, Default)]
enum Piece {
    /// Nothing.
    #[default]
    Empty,
    /// Series without chunks on the disk; 0 is none.
    Series(Box<[SeriesRef]>),
    /// Series, some of which have chunks there.
    Known(Box<[Known]>),
}

/// Numbers in a piece.
const PIECE: usize = 4096;

/// A series, and the last time up to which its samples are in chunks on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) series: SeriesRef,
    pub(super) until: i64,
}

impl Piece {
    fn insert(&mut self, index: usize, known: Known) {
        if let Self::Empty = self {
            *self = Self::Series(vec![SeriesRef(0); PIECE].into());
        }
        if let Self::Series(list) = self
            && known.until > i64::MIN
        {
            *self = Self::Known(list.iter().map(|series| Known { series: *series, until: i64::MIN }).collect());
        }
        match self {
            Self::Empty => {}
            Self::Series(list) => {
                if let Some(entry) = list.get_mut(index) {
                    *entry = known.series;
                }
            }
            Self::Known(list) => {
                if let Some(entry) = list.get_mut(index) {
                    *entry = known;
                }
            }
        }
    }

    #[inline]
    fn get(&self, index: usize) -> Option<Known> {
        let known = match self {
            Self::Empty => return None,
            Self::Series(list) => Known { series: *list.get(index)?, until: i64::MIN },
            Self::Known(list) => *list.get(index)?,
        };
        (known.series.0 != 0).then_some(known)
    }
}

impl References {
    /// Notes a number's series, and up to where its samples are on the disk.
    pub(super) fn insert(&mut self, reference: u64, series: SeriesRef, until: i64) {
        /// Gaps are fine up to this many in all, four megabytes, and one a series.
        const GAPS: u64 = 1 << 19;
        self.last = self.last.max(reference);
        self.count += 1;
        if reference < self.count * 2 + GAPS {
            let (piece, index) = (reference as usize / PIECE, reference as usize % PIECE);
            if piece >= self.dense.len() {
                self.dense.resize_with(piece + 1, Piece::default);
            }
            if let Some(piece) = self.dense.get_mut(piece) {
                piece.insert(index, Known { series, until });
            }
        } else {
            self.sparse.insert(reference, Known { series, until });
        }
    }

    /// What a number stands for.
    #[inline]
    pub(super) fn get(&self, reference: u64) -> Option<Known> {
        let index = reference as usize;
        let dense = self.dense.get(index / PIECE).and_then(|piece| piece.get(index % PIECE));
        dense.or_else(|| self.sparse.get(&reference).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn every_number_stands_for_what_it_was_given_last(
            entries in prop::collection::vec((prop_oneof![1..9000_u64, 1..5_000_000_u64, any::<u64>()], 1..99_u32,
                                              prop_oneof![Just(i64::MIN), -5..5_i64]), 0..60)) {
            let mut references = References::default();
            let mut model = BTreeMap::new();
            for (reference, id, until) in entries {
                references.insert(reference, SeriesRef::new(id, 2), until);
                model.insert(reference, (SeriesRef::new(id, 2), until));
                for near in [reference.saturating_sub(1), reference, reference.saturating_add(1)] {
                    let known = references.get(near).map(|known| (known.series, known.until));
                    prop_assert_eq!(known, model.get(&near).copied());
                }
            }
            prop_assert_eq!(references.last, model.keys().last().copied().unwrap_or(0));
        }
    }
}
