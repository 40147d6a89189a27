//! The newest exemplars of all series, in a ring of bounded size.
//!
//! What is refused and what is dropped in silence is as in Prometheus: within a series they come in order of time, of
//! equal times in order of value; one that is a little late, within the window for samples out of order, is put where it
//! belongs, unless there is one at its time already.
//!
//! Who appends one waits for nobody who reads them all: they are copied a few at a time.

use std::cmp::Ordering;
use std::collections::VecDeque;

use parking_lot::Mutex;
use xxhash_rust::xxh64::xxh64;

use super::SeriesRef;
use super::error::Refusal;
use super::holds::{Holds, Site};
use crate::codec::FixedMap;
use crate::model::{Exemplar, TimeRange};

/// Characters that an exemplar's labels may have in all: OpenMetrics' limit.
const LONGEST: usize = 128;
/// Exemplars that are copied, and series that are forgotten, before somebody else may have the ring.
const TURN: usize = 512;
const TABLES: usize = 64;

/// A ring of exemplars.
#[derive(Debug)]
pub(super) struct Exemplars {
    capacity: usize,
    /// How much older than its series' newest one may be, in milliseconds.
    window: i64,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// In the order in which they came; the first one's number is `first`. What series had that are gone is empty.
    entries: VecDeque<Option<(SeriesRef, Exemplar)>>,
    first: u64,
    /// The numbers of each series' exemplars, in order of time.
    by_series: BySeries,
    /// Entries that are not empty.
    len: usize,
}

/// Numbers of exemplars by series, in many small tables: one large one would be moved whole when it grows.
#[derive(Debug)]
struct BySeries {
    tables: Box<[FixedMap<SeriesRef, VecDeque<u64>>]>,
}

impl Default for BySeries {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| FixedMap::default()).collect() }
    }
}

impl BySeries {
    #[expect(clippy::indexing_slicing, reason = "there are as many tables as remainders")]
    fn of(&self, series: SeriesRef) -> &FixedMap<SeriesRef, VecDeque<u64>> {
        &self.tables[series.id() as usize % TABLES]
    }

    #[expect(clippy::indexing_slicing, reason = "there are as many tables as remainders")]
    fn of_mut(&mut self, series: SeriesRef) -> &mut FixedMap<SeriesRef, VecDeque<u64>> {
        &mut self.tables[series.id() as usize % TABLES]
    }
}

/// Where an exemplar goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before so many of its series.
    BeforeLast(usize),
    /// Nowhere: it is there.
    Known,
}

impl Ring {
    fn get(&self, number: u64) -> Option<&Exemplar> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get(index)?.as_ref().map(|(_, exemplar)| exemplar)
    }

    /// The exemplars of a series, newest first.
    fn newest_first(&self, series: SeriesRef) -> impl Iterator<Item = &Exemplar> {
        self.by_series.of(series).get(&series).into_iter().flatten().rev().filter_map(|number| self.get(*number))
    }

    fn place(&self, series: SeriesRef, exemplar: &Exemplar, window: i64) -> Result<Place, Refusal> {
        let Some(newest) = self.newest_first(series).next() else { return Ok(Place::BeforeLast(0)) };
        let refused = Refusal::OutOfOrder { t: exemplar.t, newest: newest.t };
        match exemplar.t.cmp(&newest.t) {
            Ordering::Greater => Ok(Place::BeforeLast(0)),
            Ordering::Equal => match exemplar.value.partial_cmp(&newest.value) {
                Some(Ordering::Less) => Err(refused),
                Some(Ordering::Equal) if exemplar.labels == newest.labels => Ok(Place::Known),
                // Any order would do: it tells one that comes again from another event of the same millisecond.
                Some(Ordering::Equal) if hash(exemplar) < hash(newest) => Err(refused),
                _ => Ok(Place::BeforeLast(0)),
            },
            Ordering::Less if exemplar.t <= newest.t.saturating_sub(window) => Err(refused),
            Ordering::Less => {
                let later = self.newest_first(series).take_while(|other| other.t > exemplar.t).count();
                let taken = self.newest_first(series).nth(later).is_some_and(|other| other.t == exemplar.t);
                Ok(if taken { Place::Known } else { Place::BeforeLast(later) })
            }
        }
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        if let Some((series, _)) = entry {
            self.len -= 1;
            let first = self.first;
            let table = self.by_series.of_mut(series);
            if let Some(numbers) = table.get_mut(&series) {
                numbers.retain(|number| *number != first);
                if numbers.is_empty() {
                    table.remove(&series);
                }
            }
        }
        self.first += 1;
    }
}

fn hash(exemplar: &Exemplar) -> u64 {
    xxh64(exemplar.labels.as_packed(), 0)
}

impl Exemplars {
    pub(super) fn new(capacity: usize, window: i64) -> Self {
        Self { capacity, window, ring: Mutex::default() }
    }

    /// Whether any are kept.
    pub(super) fn is_enabled(&self) -> bool {
        self.capacity > 0
    }

    /// Whether it can be added: `false` if the series has it already.
    ///
    /// # Errors
    /// `ExemplarTooLong`, `OutOfOrder`.
    pub(super) fn check(&self, series: SeriesRef, exemplar: &Exemplar) -> Result<bool, Refusal> {
        let characters = |text: &str| text.chars().count();
        let runes = exemplar.labels.iter().map(|(name, value)| characters(name) + characters(value)).sum();
        if runes > LONGEST {
            return Err(Refusal::ExemplarTooLong { runes });
        }
        Ok(self.ring.lock().place(series, exemplar, self.window)? != Place::Known)
    }

    /// Adds it, unless what came meanwhile is in its way.
    pub(super) fn add(&self, series: SeriesRef, exemplar: Exemplar) {
        if self.capacity == 0 {
            return;
        }
        let mut ring = self.ring.lock();
        if !matches!(ring.place(series, &exemplar, self.window), Ok(Place::BeforeLast(_))) {
            return;
        }
        while ring.entries.len() >= self.capacity {
            ring.drop_oldest();
        }
        // Asked again: the one that went to make room may have been one of the later ones.
        let Ok(Place::BeforeLast(later)) = ring.place(series, &exemplar, self.window) else { return };
        let number = ring.first + ring.entries.len() as u64;
        ring.entries.push_back(Some((series, exemplar)));
        ring.len += 1;
        let numbers = ring.by_series.of_mut(series).entry(series).or_default();
        numbers.insert(numbers.len().saturating_sub(later), number);
    }

    /// Whether it is here.
    pub(super) fn has(&self, series: SeriesRef, exemplar: &Exemplar) -> bool {
        let ring = self.ring.lock();
        let is_it = |other: &Exemplar| {
            other.t == exemplar.t
                && other.value.to_bits() == exemplar.value.to_bits()
                && other.labels == exemplar.labels
        };
        ring.newest_first(series)
            .skip_while(|other| other.t > exemplar.t)
            .take_while(|other| other.t == exemplar.t)
            .any(is_it)
    }

    /// Forgets what series had that are gone.
    pub(super) fn forget(&self, series: &[SeriesRef], holds: &Holds) {
        for series in series.chunks(TURN) {
            let mut ring = self.ring.lock();
            if ring.len == 0 {
                return;
            }
            let _hold = holds.begin_slice(Site::Exemplars);
            for series in series {
                for number in ring.by_series.of_mut(*series).remove(series).unwrap_or_default() {
                    let index = (number - ring.first) as usize;
                    if ring.entries.get_mut(index).and_then(Option::take).is_some() {
                        ring.len -= 1;
                    }
                }
            }
        }
    }

    /// The exemplars in `range`, series by series in order of their references, each oldest first.
    pub(super) fn in_range(&self, range: TimeRange, holds: &Holds) -> Vec<(SeriesRef, Vec<Exemplar>)> {
        let mut all = self.copy(holds, |exemplar| range.contains(exemplar.t));
        // Of equal times they are in order as they came.
        all.sort_by_key(|(series, exemplar)| (series.0, exemplar.t));
        let of_series = all.chunk_by(|a, b| a.0 == b.0).filter_map(|own| {
            let (series, _) = own.first()?;
            Some((*series, own.iter().map(|(_, exemplar)| exemplar.clone()).collect()))
        });
        of_series.collect()
    }

    /// All of them, oldest first.
    pub(super) fn all(&self, holds: &Holds) -> Vec<(SeriesRef, Exemplar)> {
        self.copy(holds, |_| true)
    }

    /// Those that are `wanted`, as they came: all that are there from the beginning to the end of this.
    fn copy(&self, holds: &Holds, wanted: impl Fn(&Exemplar) -> bool) -> Vec<(SeriesRef, Exemplar)> {
        let (mut copied, mut next) = (Vec::new(), 0);
        loop {
            let ring = self.ring.lock();
            let _hold = holds.begin_slice(Site::Exemplars);
            next = ring.first.max(next);
            let skipped = (next - ring.first) as usize;
            if skipped >= ring.entries.len() {
                return copied;
            }
            let turn = ring.entries.range(skipped..ring.entries.len().min(skipped + TURN));
            next += turn.len() as u64;
            copied.extend(turn.flatten().filter(|(_, exemplar)| wanted(exemplar)).cloned());
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ring.lock().len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Labels;

    fn exemplar(t: i64) -> Exemplar {
        Exemplar { labels: Labels::from_pairs([("trace_id", "x")]), value: 1.0, t }
    }

    fn times(exemplars: &Exemplars) -> Vec<(SeriesRef, Vec<i64>)> {
        let all = exemplars.in_range(TimeRange::ALL, &Holds::default()).into_iter();
        all.map(|(series, exemplars)| (series, exemplars.iter().map(|e| e.t).collect())).collect()
    }

    #[test]
    fn the_ring_keeps_the_newest_and_each_series_in_order() {
        let exemplars = Exemplars::new(3, 0);
        let (a, b) = (SeriesRef::new(1, 2), SeriesRef::new(2, 2));
        for (series, t) in [(a, 1), (b, 2), (a, 3), (a, 2), (b, 4)] {
            exemplars.add(series, exemplar(t));
        }
        assert_eq!(times(&exemplars), [(a, vec![3]), (b, vec![2, 4])]);
        assert_eq!(exemplars.check(b, &exemplar(4)), Ok(false));
        assert_eq!(exemplars.check(b, &exemplar(3)), Err(Refusal::OutOfOrder { t: 3, newest: 4 }));
        assert_eq!(exemplars.len(), 3);
    }

    #[test]
    fn one_that_is_late_within_the_window_is_put_where_it_belongs() {
        let exemplars = Exemplars::new(4, 10);
        let a = SeriesRef::new(1, 2);
        [5, 20, 12, 15, 12, 20].into_iter().for_each(|t| exemplars.add(a, exemplar(t)));
        assert_eq!(times(&exemplars), [(a, vec![5, 12, 15, 20])]);
        // The window ends ten milliseconds before the newest, itself excluded.
        assert_eq!(exemplars.check(a, &exemplar(10)), Err(Refusal::OutOfOrder { t: 10, newest: 20 }));
        // Who goes is who came first, not who is oldest.
        exemplars.add(a, exemplar(11));
        exemplars.add(a, exemplar(18));
        assert_eq!(times(&exemplars), [(a, vec![11, 12, 15, 18])]);
    }

    #[test]
    fn events_of_one_millisecond_are_told_apart_by_value_and_labels() {
        let exemplars = Exemplars::new(8, 0);
        let a = SeriesRef::new(1, 2);
        let at = |value, id: &str| Exemplar { labels: Labels::from_pairs([("id", id)]), value, t: 7 };
        exemplars.add(a, at(2.0, "x"));
        assert_eq!(exemplars.check(a, &at(2.0, "x")), Ok(false));
        assert!(exemplars.check(a, &at(1.0, "x")).is_err());
        assert_eq!(exemplars.check(a, &at(3.0, "x")), Ok(true));
        // Of two that differ in their labels alone, one is the later.
        let accepts = |first: &str, second: &str| {
            let exemplars = Exemplars::new(8, 0);
            exemplars.add(a, at(2.0, first));
            exemplars.check(a, &at(2.0, second)) == Ok(true)
        };
        assert_ne!(accepts("y", "z"), accepts("z", "y"));
    }

    #[test]
    fn series_that_are_gone_keep_nothing() {
        let exemplars = Exemplars::new(3, 0);
        let (a, b) = (SeriesRef::new(1, 2), SeriesRef::new(2, 2));
        [(a, 1), (b, 2), (a, 3)].into_iter().for_each(|(series, t)| exemplars.add(series, exemplar(t)));
        assert!(exemplars.has(a, &exemplar(3)) && !exemplars.has(b, &exemplar(3)));
        exemplars.forget(&[a], &Holds::default());
        assert_eq!((times(&exemplars), exemplars.len()), (vec![(b, vec![2])], 1));
        assert!(!exemplars.has(a, &exemplar(3)));
        (4..9).for_each(|t| exemplars.add(b, exemplar(t)));
        assert_eq!(times(&exemplars), [(b, vec![6, 7, 8])]);
    }

    #[test]
    fn too_many_characters_are_refused_and_bytes_do_not_count() {
        let exemplars = Exemplars::new(1, 0);
        let labels = |n: usize| Labels::from_pairs([("t", "ü".repeat(n))]);
        let at = |n| Exemplar { labels: labels(n), value: 1.0, t: 1 };
        assert_eq!(exemplars.check(SeriesRef::new(1, 2), &at(127)), Ok(true));
        assert_eq!(exemplars.check(SeriesRef::new(1, 2), &at(128)), Err(Refusal::ExemplarTooLong { runes: 129 }));
    }

    #[test]
    fn more_than_are_copied_at_a_time_come_all() {
        let exemplars = Exemplars::new(4 * TURN, 0);
        let series = |n: usize| SeriesRef::new((n % 100) as u32, 2);
        (0..5 * TURN).for_each(|n| exemplars.add(series(n), exemplar(n as i64)));
        let all: Vec<i64> = exemplars.all(&Holds::default()).iter().map(|(_, it)| it.t).collect();
        assert_eq!(all, (TURN as i64..5 * TURN as i64).collect::<Vec<_>>());
        let gone: Vec<SeriesRef> = (0..100).map(series).collect();
        exemplars.forget(&gone, &Holds::default());
        assert_eq!((exemplars.len(), exemplars.all(&Holds::default()).len()), (0, 0));
    }

    proptest! {
        #[test]
        fn the_ring_is_what_a_list_would_be(
            capacity in 1..6usize,
            window in 0..6i64,
            steps in prop::collection::vec((1..4u32, 0..20i64, any::<bool>()), 0..60),
        ) {
            let exemplars = Exemplars::new(capacity, window);
            // In order of arrival; the gone ones keep their places.
            let mut model: Vec<Option<(SeriesRef, i64)>> = Vec::new();
            for (id, t, forget) in steps {
                let series = SeriesRef::new(id, 2);
                if forget && t == 0 {
                    exemplars.forget(&[series], &Holds::default());
                    model.iter_mut().filter(|it| it.is_some_and(|it| it.0 == series)).for_each(|it| *it = None);
                    continue;
                }
                let own: Vec<i64> = model.iter().flatten().filter(|it| it.0 == series).map(|it| it.1).collect();
                let newest = own.iter().max().copied();
                let fits = newest.is_none_or(|newest| t > newest || t > newest - window) && !own.contains(&t);
                exemplars.add(series, exemplar(t));
                if fits {
                    if model.len() == capacity {
                        model.remove(0);
                    }
                    model.push(Some((series, t)));
                }
            }
            let mut expected: Vec<(SeriesRef, Vec<i64>)> = Vec::new();
            for id in 1..4 {
                let series = SeriesRef::new(id, 2);
                let mut own: Vec<i64> = model.iter().flatten().filter(|it| it.0 == series).map(|it| it.1).collect();
                own.sort_unstable();
                if !own.is_empty() {
                    expected.push((series, own));
                }
            }
            prop_assert_eq!(exemplars.len(), model.iter().flatten().count());
            prop_assert_eq!(times(&exemplars), expected);
        }
    }
}
