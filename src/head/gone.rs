//! Numbers in the log that no series has any more, but whose records may still stand there.
//!
//! A cut may remove a million series at once. What is kept of each until the log is shortened is its number and its
//! newest sample's time, segment by segment: two words, where an entry of a table takes eleven.

use super::SeriesRef;
use crate::codec::FixedMap;

/// A number in the log that no series has any more: its series record stays as long as any other record of it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// The last segment in which its records may stand.
    pub(super) segment: u64,
    /// The time of its newest sample, or later.
    pub(super) newest: i64,
    /// The series that has another number now; `None` if it is gone.
    pub(super) series: Option<SeriesRef>,
}

impl Gone {
    /// Whether records of it may be left when a checkpoint up to segment `to` leaves out the samples before `t`.
    fn outlives(self, to: u64, t: i64) -> bool {
        self.segment > to || self.newest >= t
    }
}

/// Such numbers.
#[derive(Debug, Default)]
pub(super) struct GoneNumbers {
    /// Of series that have another number now.
    renamed: FixedMap<u64, Gone>,
    /// Of series that are gone: a run for each segment.
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Default)]
struct Run {
    segment: u64,
    /// Numbers, each with its series' newest sample, as they came.
    numbers: Vec<(u64, i64)>,
}

/// Numbers at one moment, to be looked up in.
#[derive(Debug)]
pub(super) struct GoneThen {
    renamed: FixedMap<u64, Gone>,
    /// The numbers of each run ascend.
    runs: Vec<Run>,
}

impl GoneNumbers {
    /// Adds a number.
    pub(super) fn insert(&mut self, number: u64, gone: Gone) {
        let Gone { segment, newest, series } = gone;
        if series.is_some() {
            self.renamed.insert(number, gone);
            return;
        }
        self.extend(segment, &[(number, newest)]);
    }

    /// Adds the numbers of series that are gone, each with its newest sample, whose records may stand in the log up to
    /// `segment`.
    pub(super) fn extend(&mut self, segment: u64, numbers: &[(u64, i64)]) {
        // The last is the one that is added to.
        match self.runs.iter_mut().rev().find(|run| run.segment == segment) {
            Some(run) => run.numbers.extend_from_slice(numbers),
            None => self.runs.push(Run { segment, numbers: numbers.to_vec() }),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Gone)> {
        let gone = self.runs.iter().flat_map(|Run { segment, numbers }| {
            numbers.iter().map(|(number, newest)| (*number, Gone { segment: *segment, newest: *newest, series: None }))
        });
        gone.chain(self.renamed.iter().map(|(number, gone)| (*number, *gone)))
    }

    /// Those that records may be left of when a checkpoint up to segment `to` leaves out the samples before `t`.
    pub(super) fn outliving(&self, to: u64, t: i64) -> GoneThen {
        let renamed = self.renamed.iter().filter(|(_, gone)| gone.outlives(to, t));
        let outlives = |run: &Run, newest| Gone { segment: run.segment, newest, series: None }.outlives(to, t);
        let runs = self.runs.iter().map(|run| {
            let mut numbers: Vec<_> =
                run.numbers.iter().filter(|(_, newest)| outlives(run, *newest)).copied().collect();
            // Mostly it does so already: series are removed in the order of their slots.
            numbers.sort();
            Run { segment: run.segment, numbers }
        });
        let runs = runs.filter(|run| !run.numbers.is_empty()).collect();
        GoneThen { renamed: renamed.map(|(number, gone)| (*number, *gone)).collect(), runs }
    }

    /// Keeps those alone.
    pub(super) fn retain_outliving(&mut self, to: u64, t: i64) {
        self.renamed.retain(|_, gone| gone.outlives(to, t));
        self.runs.retain_mut(|Run { segment, numbers }| {
            let before = numbers.len();
            numbers.retain(|(_, newest)| Gone { segment: *segment, newest: *newest, series: None }.outlives(to, t));
            if numbers.len() < before {
                numbers.shrink_to_fit();
            }
            !numbers.is_empty()
        });
    }
}

impl GoneThen {
    /// Whether the number is among them.
    pub(super) fn has(&self, number: u64) -> bool {
        let in_run = |Run { numbers, .. }: &Run| {
            // Of series that came and went together none is missing.
            let ahead = numbers.first().and_then(|(first, _)| number.checked_sub(*first));
            let guess = ahead.and_then(|ahead| numbers.get(usize::try_from(ahead).ok()?));
            guess.is_some_and(|(guess, _)| *guess == number)
                || numbers.binary_search_by_key(&number, |(number, _)| *number).is_ok()
        };
        self.runs.iter().any(in_run) || self.renamed.contains_key(&number)
    }

    /// The series that has another number instead of this one.
    pub(super) fn renamed_to(&self, number: u64) -> Option<SeriesRef> {
        self.renamed.get(&number)?.series
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn gone() -> impl Strategy<Value = Gone> {
        (0..4_u64, 0..9_i64, prop::option::of(0..9_u32)).prop_map(|(segment, newest, id)| Gone {
            segment,
            newest,
            series: id.map(|id| SeriesRef::new(id, 2)),
        })
    }

    proptest! {
        #[test]
        fn numbers_stay_as_long_as_records_of_them_may(
            inserted in prop::collection::btree_map(0..60_u64, gone(), 0..40).prop_map(|map| map.into_iter().collect::<Vec<_>>()).prop_shuffle(),
            cut in 0..40_usize, to in 0..4_u64, t in 0..9_i64) {
            let mut numbers = GoneNumbers::default();
            for (at, &(number, gone)) in inserted.iter().enumerate() {
                match gone.series {
                    None if at < cut => numbers.extend(gone.segment, &[(number, gone.newest)]),
                    _ => numbers.insert(number, gone),
                }
            }
            let model: BTreeMap<u64, Gone> = inserted.into_iter().collect();
            prop_assert_eq!(numbers.iter().collect::<BTreeMap<_, _>>(), model.clone());
            let left = |gone: &Gone| gone.segment > to || gone.newest >= t;
            let then = numbers.outliving(to, t);
            for number in 0..60 {
                let gone = model.get(&number).filter(|gone| left(gone));
                prop_assert_eq!(then.has(number), gone.is_some());
                prop_assert_eq!(then.renamed_to(number), gone.and_then(|gone| gone.series));
            }
            numbers.retain_outliving(to, t);
            let left: BTreeMap<_, _> = model.into_iter().filter(|(_, gone)| left(gone)).collect();
            prop_assert_eq!(numbers.iter().collect::<BTreeMap<_, _>>(), left);
        }
    }
}
