//! The newest exemplars of all series, in a ring of bounded size.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::SeriesRef;
use super::error::Refusal;
use crate::codec::FixedMap;
use crate::model::{Exemplar, TimeRange};

/// Characters that an exemplar's labels may have in all: OpenMetrics' limit.
const LONGEST: usize = 128;

/// A ring of exemplars.
#[derive(Debug)]
pub(super) struct Exemplars {
    capacity: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Oldest first; the first one's number is `first`.
    entries: VecDeque<(SeriesRef, Exemplar)>,
    first: u64,
    /// The number of each series' newest.
    newest: FixedMap<SeriesRef, u64>,
}

impl Ring {
    fn newest(&self, series: SeriesRef) -> Option<&Exemplar> {
        let index = self.newest.get(&series)?.checked_sub(self.first)?;
        self.entries.get(usize::try_from(index).ok()?).map(|(_, exemplar)| exemplar)
    }

    fn drop_oldest(&mut self) {
        if let Some((series, _)) = self.entries.pop_front() {
            if self.newest.get(&series) == Some(&self.first) {
                self.newest.remove(&series);
            }
            self.first += 1;
        }
    }
}

impl Exemplars {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default() }
    }

    /// Whether any are kept.
    pub(super) fn is_enabled(&self) -> bool {
        self.capacity > 0
    }

    /// Whether it can be added: `false` if the series has it already.
    ///
    /// # Errors
    /// `ExemplarTooLong`, `OutOfOrder`, `Duplicate`.
    pub(super) fn check(&self, series: SeriesRef, exemplar: &Exemplar) -> Result<bool, Refusal> {
        let characters = |text: &str| text.chars().count();
        let runes = exemplar.labels.iter().map(|(name, value)| characters(name) + characters(value)).sum();
        if runes > LONGEST {
            return Err(Refusal::ExemplarTooLong { runes });
        }
        check_order(self.ring.lock().newest(series), exemplar)
    }

    /// Adds it, unless something newer came meanwhile.
    pub(super) fn add(&self, series: SeriesRef, exemplar: Exemplar) {
        let mut ring = self.ring.lock();
        if self.capacity == 0 || check_order(ring.newest(series), &exemplar) != Ok(true) {
            return;
        }
        while ring.entries.len() >= self.capacity {
            ring.drop_oldest();
        }
        let number = ring.first + ring.entries.len() as u64;
        ring.newest.insert(series, number);
        ring.entries.push_back((series, exemplar));
    }

    /// The exemplars in `range`, series by series in order of their references, each oldest first.
    pub(super) fn in_range(&self, range: TimeRange) -> Vec<(SeriesRef, Vec<Exemplar>)> {
        let mut found: Vec<(SeriesRef, Exemplar)> = {
            let ring = self.ring.lock();
            ring.entries.iter().filter(|(_, exemplar)| range.contains(exemplar.t)).cloned().collect()
        };
        found.sort_by_key(|(series, exemplar)| (series.0, exemplar.t));
        let mut grouped: Vec<(SeriesRef, Vec<Exemplar>)> = Vec::new();
        for (series, exemplar) in found {
            match grouped.last_mut().filter(|(last, _)| *last == series) {
                Some((_, exemplars)) => exemplars.push(exemplar),
                None => grouped.push((series, vec![exemplar])),
            }
        }
        grouped
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ring.lock().entries.len()
    }
}

fn check_order(newest: Option<&Exemplar>, exemplar: &Exemplar) -> Result<bool, Refusal> {
    let Some(newest) = newest else { return Ok(true) };
    let is_same = newest.value.to_bits() == exemplar.value.to_bits() && newest.labels == exemplar.labels;
    match exemplar.t.cmp(&newest.t) {
        std::cmp::Ordering::Equal if is_same => Ok(false),
        // Another event in the same millisecond is no contradiction, but the original refuses it too.
        std::cmp::Ordering::Equal => Err(Refusal::Duplicate { t: exemplar.t }),
        std::cmp::Ordering::Less => Err(Refusal::OutOfOrder { t: exemplar.t, newest: newest.t }),
        std::cmp::Ordering::Greater => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    fn exemplar(t: i64) -> Exemplar {
        Exemplar { labels: Labels::from_pairs([("trace_id", "x")]), value: 1.0, t }
    }

    #[test]
    fn the_ring_keeps_the_newest_and_each_series_in_order() {
        let exemplars = Exemplars::new(3);
        let (a, b) = (SeriesRef::new(1, 2), SeriesRef::new(2, 2));
        for (series, t) in [(a, 1), (b, 2), (a, 3), (a, 2), (b, 4)] {
            exemplars.add(series, exemplar(t));
        }
        let times: Vec<(SeriesRef, Vec<i64>)> = exemplars
            .in_range(TimeRange::ALL)
            .into_iter()
            .map(|(series, exemplars)| (series, exemplars.iter().map(|e| e.t).collect()))
            .collect();
        assert_eq!(times, [(a, vec![3]), (b, vec![2, 4])]);
        assert_eq!(exemplars.check(b, &exemplar(4)), Ok(false));
        assert_eq!(exemplars.check(b, &exemplar(3)), Err(Refusal::OutOfOrder { t: 3, newest: 4 }));
        assert_eq!(exemplars.len(), 3);
    }

    #[test]
    fn too_many_characters_are_refused_and_bytes_do_not_count() {
        let exemplars = Exemplars::new(1);
        let labels = |n: usize| Labels::from_pairs([("t", "ü".repeat(n))]);
        let at = |n| Exemplar { labels: labels(n), value: 1.0, t: 1 };
        assert_eq!(exemplars.check(SeriesRef::new(1, 2), &at(127)), Ok(true));
        assert_eq!(exemplars.check(SeriesRef::new(1, 2), &at(128)), Err(Refusal::ExemplarTooLong { runes: 129 }));
    }
}
