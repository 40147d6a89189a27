//! The labels of a page's series.
//!
//! ```text
//! pairs     the label pairs that any series of the page has, each once, with how many have it
//! numbers   for each series, slot after slot, its pairs by their place in `pairs`: one byte a label
//! ends      where each slot's numbers end
//! ```
//!
//! Neighbours were created together and are mostly of one target: all of a page share some two dozen pairs. So a label costs
//! a series one byte and a little of its page's table, where a pointer would cost eight. A page with more than 256
//! different pairs takes four bytes a label.
//!
//! A slot without labels is free.

use std::sync::Arc;

use super::label_index::Pair;
use super::slab::PAGE;
use crate::model::{Labels, METRIC_NAME};

/// The labels of all slots of a page.
#[derive(Debug)]
pub(super) struct PageLabels {
    pairs: Vec<Shared>,
    numbers: Numbers,
    ends: [u32; PAGE],
}

/// A pair, and how many series of the page have it. Without any, its place is free.
#[derive(Debug, Default)]
struct Shared {
    pair: Option<Arc<Pair>>,
    series: u32,
}

/// Places of pairs.
#[derive(Debug)]
enum Numbers {
    Narrow(Vec<u8>),
    Wide(Vec<u32>),
}

/// Pairs that series had which were taken out of their pages. Neighbours have most of theirs in common: each is mostly
/// there once.
#[derive(Debug, Default)]
pub(super) struct TakenPairs {
    pairs: Vec<Arc<Pair>>,
    /// The address of the pair that was last taken from each place, of whatever page. It is in `pairs`, so nothing else
    /// has that address.
    last: Vec<usize>,
}

impl TakenPairs {
    fn note(&mut self, place: usize, pair: &Arc<Pair>) {
        if self.last.len() <= place {
            self.last.resize(place + 1, 0);
        }
        let addr = Arc::as_ptr(pair).addr();
        if let Some(last) = self.last.get_mut(place).filter(|last| **last != addr) {
            *last = addr;
            self.pairs.push(Arc::clone(pair));
        }
    }

    /// All of them, each once.
    pub(super) fn into_distinct(self) -> Vec<Arc<Pair>> {
        let mut pairs = self.pairs;
        pairs.sort_unstable_by_key(|pair| Arc::as_ptr(pair).addr());
        pairs.dedup_by(|a, b| Arc::ptr_eq(a, b));
        pairs
    }
}

impl Default for PageLabels {
    fn default() -> Self {
        Self { pairs: Vec::new(), numbers: Numbers::Narrow(Vec::new()), ends: [0; PAGE] }
    }
}

impl Shared {
    fn is(&self, pair: &Arc<Pair>) -> bool {
        self.pair.as_ref().is_some_and(|own| Arc::ptr_eq(own, pair))
    }
}

impl Numbers {
    #[inline]
    fn get(&self, index: usize) -> Option<usize> {
        match self {
            Self::Narrow(numbers) => numbers.get(index).map(|number| usize::from(*number)),
            Self::Wide(numbers) => numbers.get(index).map(|number| *number as usize),
        }
    }

    fn insert(&mut self, index: usize, number: usize) {
        if let (Self::Narrow(numbers), 256..) = (&*self, number) {
            *self = Self::Wide(numbers.iter().map(|number| u32::from(*number)).collect());
        }
        match self {
            Self::Narrow(numbers) => numbers.insert(index, number as u8),
            Self::Wide(numbers) => numbers.insert(index, number as u32),
        }
    }

    /// Makes room for so many more; at first, for as many in every slot. What a list that doubles has too much, all pages
    /// would have.
    fn reserve(&mut self, more: usize) {
        fn reserve<T>(numbers: &mut Vec<T>, more: usize) {
            if numbers.capacity() == 0 {
                numbers.reserve_exact(more * PAGE);
            } else if numbers.capacity() < numbers.len() + more {
                numbers.reserve_exact(more.max(numbers.len() / 4));
            }
        }
        match self {
            Self::Narrow(numbers) => reserve(numbers, more),
            Self::Wide(numbers) => reserve(numbers, more),
        }
    }

    fn remove(&mut self, range: std::ops::Range<usize>) {
        match self {
            Self::Narrow(numbers) => drop(numbers.drain(range)),
            Self::Wide(numbers) => drop(numbers.drain(range)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Narrow(numbers) => numbers.capacity(),
            Self::Wide(numbers) => numbers.capacity() * 4,
        }
    }
}

impl PageLabels {
    fn range(&self, slot: usize) -> std::ops::Range<usize> {
        let end = |slot: usize| self.ends.get(slot).map_or(0, |end| *end as usize);
        slot.checked_sub(1).map_or(0, end)..end(slot)
    }

    /// The labels of a slot.
    #[inline]
    pub(super) fn of(&self, slot: usize) -> SeriesLabels<'_> {
        let range = self.range(slot);
        SeriesLabels { page: self, at: range.start, end: range.end }
    }

    /// The pairs of all slots; nothing where a place is free.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Option<&Arc<Pair>>> {
        self.pairs.iter().map(|shared| shared.pair.as_ref())
    }

    /// Gives a slot, which has none, its labels.
    pub(super) fn set(&mut self, slot: usize, pairs: Vec<Arc<Pair>>) {
        let start = self.range(slot).start;
        let len = pairs.len();
        self.numbers.reserve(len);
        // The slot before most often has the same pair at the same place.
        let neighbour = slot.checked_sub(1).map_or(0..0, |before| self.range(before));
        for (place, pair) in pairs.into_iter().enumerate() {
            let near = Some(neighbour.start + place).filter(|near| neighbour.contains(near));
            let near = near.and_then(|near| self.numbers.get(near));
            let near = near.filter(|near| self.pairs.get(*near).is_some_and(|shared| shared.is(&pair)));
            let number = near.or_else(|| self.pairs.iter().position(|shared| shared.is(&pair)));
            let number = number.unwrap_or_else(|| self.add(pair));
            if let Some(shared) = self.pairs.get_mut(number) {
                shared.series += 1;
            }
            self.numbers.insert(start + place, number);
        }
        self.ends.iter_mut().skip(slot).for_each(|end| *end += len as u32);
    }

    fn add(&mut self, pair: Arc<Pair>) -> usize {
        let shared = Shared { pair: Some(pair), series: 0 };
        match self.pairs.iter().position(|shared| shared.pair.is_none()) {
            Some(free) => {
                if let Some(place) = self.pairs.get_mut(free) {
                    *place = shared;
                }
                free
            }
            None => {
                if self.pairs.len() == self.pairs.capacity() {
                    self.pairs.reserve_exact(8.max(self.pairs.len() / 4));
                }
                self.pairs.push(shared);
                self.pairs.len() - 1
            }
        }
    }

    /// Takes a slot's labels away.
    pub(super) fn take(&mut self, slot: usize, taken: &mut TakenPairs) {
        let range = self.range(slot);
        for index in range.clone() {
            let Some(number) = self.numbers.get(index) else { continue };
            let Some(shared) = self.pairs.get_mut(number) else { continue };
            shared.series -= 1;
            if let Some(pair) = &shared.pair {
                taken.note(number, pair);
            }
            if shared.series == 0 {
                shared.pair = None;
            }
        }
        self.ends.iter_mut().skip(slot).for_each(|end| *end -= range.len() as u32);
        self.numbers.remove(range);
        if self.ends.last() == Some(&0) {
            *self = Self::default();
        }
    }

    /// Bytes beside the page.
    pub(super) fn heap_bytes(&self) -> usize {
        self.pairs.capacity() * size_of::<Shared>() + self.numbers.bytes()
    }
}

/// The labels of a series, in its locked page.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeriesLabels<'a> {
    page: &'a PageLabels,
    at: usize,
    end: usize,
}

impl<'a> SeriesLabels<'a> {
    /// Whether the slot is free.
    pub(super) fn is_empty(self) -> bool {
        self.at == self.end
    }

    /// The pairs, by name.
    #[inline]
    pub(super) fn iter(self) -> impl Iterator<Item = &'a Arc<Pair>> {
        let pair = move |index| self.page.pairs.get(self.page.numbers.get(index)?)?.pair.as_ref();
        (self.at..self.end).filter_map(pair)
    }

    /// The places of the pairs among all that the page has.
    pub(super) fn numbers(self) -> impl Iterator<Item = usize> {
        (self.at..self.end).filter_map(|index| self.page.numbers.get(index))
    }

    /// Whether these are the labels of the set with this packed form.
    #[inline]
    pub(super) fn are_packed(self, packed: &[u8]) -> bool {
        let rest = self.iter().try_fold(packed, |rest, pair| rest.strip_prefix(pair.packed()));
        rest.is_some_and(<[u8]>::is_empty)
    }

    /// Overwrites `out` with their packed form.
    pub(super) fn pack_into(self, out: &mut Vec<u8>) {
        out.clear();
        self.iter().for_each(|pair| out.extend_from_slice(pair.packed()));
    }

    /// The set. `buffer` is memory to use again.
    pub(super) fn to_labels(self, buffer: &mut Vec<u8>) -> Labels {
        self.pack_into(buffer);
        Labels::from_packed(buffer)
    }

    /// The metric's name, or "".
    pub(super) fn metric_name(self) -> &'a str {
        self.iter().map(|pair| pair.text()).find(|(name, _)| *name == METRIC_NAME).map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::label_index::LabelIndex;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_slot_has_the_labels_that_it_was_given_last(
            steps in prop::collection::vec((0..PAGE, prop::collection::btree_map("[a-d]", 0..300_u32, 1..4)), 0..400)) {
            let index = LabelIndex::default();
            let mut page = PageLabels::default();
            let mut model = vec![Labels::empty(); PAGE];
            for (slot, labels) in steps {
                let labels = Labels::from_pairs(labels.into_iter().map(|(name, value)| (name, value.to_string())));
                let mut taken = TakenPairs::default();
                page.take(slot, &mut taken);
                let taken = taken.into_distinct();
                let taken: BTreeSet<_> = taken.iter().map(|pair| pair.text()).collect();
                prop_assert_eq!(taken, model[slot].iter().collect::<BTreeSet<_>>());
                let near = page.of(slot.saturating_sub(1)).iter();
                page.set(slot, index.add(labels.as_packed(), slot as u32, near));
                model[slot] = labels;
            }
            let mut all = TakenPairs::default();
            for (slot, labels) in model.iter().enumerate() {
                prop_assert_eq!(&page.of(slot).to_labels(&mut Vec::new()), labels);
                prop_assert!(page.of(slot).are_packed(labels.as_packed()));
                prop_assert_eq!(page.of(slot).is_empty(), labels.is_empty());
                page.take(slot, &mut all);
            }
            prop_assert_eq!(page.heap_bytes(), 0);
            let all = all.into_distinct();
            let left: BTreeSet<_> = model.iter().flat_map(|labels| labels.iter()).collect();
            prop_assert_eq!(all.len(), left.len(), "each is there once");
            prop_assert_eq!(all.iter().map(|pair| pair.text()).collect::<BTreeSet<_>>(), left);
        }
    }

    #[test]
    fn more_pairs_than_a_byte_can_number_are_told_apart() {
        let index = LabelIndex::default();
        let mut page = PageLabels::default();
        let labels = |slot: usize| Labels::from_pairs((0..10).map(|n| (format!("name_{n}"), format!("{slot}"))));
        (0..PAGE).for_each(|slot| page.set(slot, index.add(labels(slot).as_packed(), slot as u32, [].iter())));
        (0..PAGE).for_each(|slot| assert!(page.of(slot).are_packed(labels(slot).as_packed())));
    }
}
