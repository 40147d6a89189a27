//! A postings list in whatever form it lies, and intersection, union and subtraction of such lists.
//!
//! There are no iterators that call each other through pointers: every operation takes whole lists and has a loop of its
//! own. The smallest list drives an intersection and gallops through the others: a list of ten against one of a million
//! costs ten searches. A union goes through a bit set as soon as that is smaller than a sort.

use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringBitmap;

/// Ids of series, ascending, each once.
#[derive(Debug, Clone)]
pub enum Postings {
    /// Big-endian 32-bit numbers, as they stand in an index file.
    Raw(Bytes),
    /// A plain list.
    List(Vec<u32>),
    /// A frozen bitmap and what came after it; `delta` ascends and shares nothing with `base`. The head's form.
    Bitmap {
        /// Most of the ids.
        base: Arc<RoaringBitmap>,
        /// The rest.
        delta: Vec<u32>,
    },
    /// A bit an id, over the span of ids that occur: what a union of many lists becomes.
    Bits(Bits),
}

/// A set of ids as bits.
#[derive(Debug, Clone)]
pub struct Bits {
    /// The id of the first word's lowest bit; a multiple of 64.
    first: u32,
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// An empty set with room for ids from `min` to `max`.
    fn with_span(min: u32, max: u32) -> Self {
        let first = min & !63;
        Self { first, words: vec![0; ((max - first) / 64 + 1) as usize], len: 0 }
    }

    fn insert(&mut self, id: u32) {
        let bit = id.wrapping_sub(self.first);
        if let Some(word) = self.words.get_mut((bit / 64) as usize) {
            let mask = 1 << (bit % 64);
            self.len += usize::from(*word & mask == 0);
            *word |= mask;
        }
    }

    fn contains(&self, id: u32) -> bool {
        // An id below the first one wraps round to far beyond the last word.
        let bit = id.wrapping_sub(self.first);
        self.words.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let mut base = self.first;
        self.words.iter().flat_map(move |&word| {
            let start = base;
            base = base.wrapping_add(64);
            let mut word = word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (word != 0).then(|| {
                    word &= word - 1;
                    start + bit
                })
            })
        })
    }
}

impl Default for Postings {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Vec<u32>> for Postings {
    /// `ids` must ascend, each once.
    fn from(ids: Vec<u32>) -> Self {
        debug_assert!(ids.is_sorted_by(|a, b| a < b), "postings ascend");
        Self::List(ids)
    }
}

impl Postings {
    /// The list without ids.
    #[must_use]
    pub fn empty() -> Self {
        Self::List(Vec::new())
    }

    /// How many ids there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len() / 4,
            Self::List(ids) => ids.len(),
            Self::Bitmap { base, delta } => base.len() as usize + delta.len(),
            Self::Bits(bits) => bits.len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Bitmap { base, delta } => base.is_empty() && delta.is_empty(),
            other => other.len() == 0,
        }
    }

    /// Whether `id` is in it. For one question; a loop should use the set operations.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        match self {
            Self::Raw(bytes) => Gallop::new(BigEndian(bytes)).seek(id),
            Self::List(ids) => ids.binary_search(&id).is_ok(),
            Self::Bitmap { base, delta } => base.contains(id) || delta.binary_search(&id).is_ok(),
            Self::Bits(bits) => bits.contains(id),
        }
    }

    /// The ids, ascending.
    #[must_use]
    pub fn into_vec(self) -> Vec<u32> {
        match self {
            Self::List(ids) => ids,
            other => {
                let mut ids = Vec::new();
                other.append_to(&mut ids);
                ids
            }
        }
    }

    /// Appends the ids, ascending, to `out`.
    pub fn append_to(&self, out: &mut Vec<u32>) {
        out.reserve(self.len());
        match self {
            Self::Raw(bytes) => out.extend(BigEndian(bytes).iter()),
            Self::List(ids) => out.extend_from_slice(ids),
            Self::Bits(bits) => out.extend(bits.ids()),
            Self::Bitmap { base, delta } => {
                let start = out.len();
                out.extend(base.iter());
                out.extend_from_slice(delta);
                // Usually the delta's ids are younger, hence larger, than all of the base's.
                if let Some(tail) = out.get_mut(start..).filter(|tail| !tail.is_sorted()) {
                    tail.sort();
                }
            }
        }
    }

    /// The lowest and the highest id.
    fn span(&self) -> Option<(u32, u32)> {
        match self {
            Self::Raw(bytes) => {
                let ids = BigEndian(bytes);
                let (first, last) = (ids.at(0)?, ids.at(ids.len().checked_sub(1)?)?);
                // These bytes come from a file: that they ascend is a hope.
                Some((first.min(last), last.max(first)))
            }
            Self::List(ids) => Some((*ids.first()?, *ids.last()?)),
            Self::Bitmap { base, delta } => {
                let ends = [base.min(), base.max(), delta.first().copied(), delta.last().copied()];
                let ends = || ends.iter().flatten().copied();
                Some((ends().min()?, ends().max()?))
            }
            Self::Bits(bits) => {
                let last = bits.first.saturating_add((bits.words.len() as u32).saturating_mul(64).saturating_sub(1));
                (bits.len > 0).then_some((bits.first, last))
            }
        }
    }

    /// The ids that are in every one of `lists`; of no lists at all, none.
    #[must_use]
    pub fn intersect(mut lists: Vec<Self>) -> Self {
        lists.sort_by_key(Self::len);
        let mut lists = lists.into_iter();
        let Some(mut result) = lists.next() else { return Self::empty() };
        for list in lists {
            if result.is_empty() {
                return result;
            }
            result = result.and(&list);
        }
        result
    }

    /// The ids that are in both; `self` should be the shorter one.
    fn and(self, other: &Self) -> Self {
        if let (Self::Bitmap { base: a, delta: x }, Self::Bitmap { base: b, delta: y }) = (&self, other)
            && x.is_empty()
            && y.is_empty()
        {
            return Self::Bitmap { base: Arc::new(&**a & &**b), delta: Vec::new() };
        }
        let mut ids = self.into_vec();
        retain(&mut ids, other, true);
        Self::List(ids)
    }

    /// The ids that are not in `other`.
    #[must_use]
    pub fn subtract(self, other: &Self) -> Self {
        if other.is_empty() || self.is_empty() {
            return self;
        }
        let mut ids = self.into_vec();
        retain(&mut ids, other, false);
        Self::List(ids)
    }

    /// Whether the two share an id.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let (short, long) = if self.len() <= other.len() { (self, other) } else { (other, self) };
        match short {
            Self::List(ids) => any_in(ids.iter().copied(), long),
            Self::Raw(bytes) => any_in(BigEndian(bytes).iter(), long),
            Self::Bits(bits) => any_in(bits.ids(), long),
            Self::Bitmap { base, delta } => any_in(base.iter(), long) || any_in(delta.iter().copied(), long),
        }
    }

    /// The ids that are in any of `lists`.
    #[must_use]
    pub fn union(mut lists: Vec<Self>) -> Self {
        lists.retain(|list| !list.is_empty());
        if lists.len() <= 1 {
            return lists.pop().unwrap_or_default();
        }
        if let Some(bitmap) = union_bitmaps(&lists) {
            return bitmap;
        }
        let total: usize = lists.iter().map(Self::len).sum();
        let span = lists.iter().filter_map(Self::span).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let Some((min, max)) = span else { return Self::empty() };
        // A bit set costs a bit for each id of the span, a sort some 10 ns an id; one word a 64 ids breaks even at
        // about one id in 256, and a set of a few thousand ids fits the first cache either way.
        if (max - min) as usize / 256 <= total {
            let mut bits = Bits::with_span(min, max);
            for list in &lists {
                list.insert_into(&mut bits);
            }
            return Self::Bits(bits);
        }
        let mut ids = Vec::with_capacity(total);
        for list in &lists {
            list.append_to(&mut ids);
        }
        // The stable sort finds the ascending runs and merges them.
        ids.sort();
        ids.dedup();
        Self::List(ids)
    }

    fn insert_into(&self, bits: &mut Bits) {
        match self {
            Self::Raw(bytes) => BigEndian(bytes).iter().for_each(|id| bits.insert(id)),
            Self::List(ids) => ids.iter().for_each(|&id| bits.insert(id)),
            Self::Bits(other) => other.ids().for_each(|id| bits.insert(id)),
            Self::Bitmap { base, delta } => {
                base.iter().for_each(|id| bits.insert(id));
                delta.iter().for_each(|&id| bits.insert(id));
            }
        }
    }
}

/// The union, if all of `lists` are bitmaps or short.
fn union_bitmaps(lists: &[Postings]) -> Option<Postings> {
    let bitmaps = lists.iter().filter(|list| matches!(list, Postings::Bitmap { .. })).count();
    if bitmaps * 2 < lists.len() {
        return None;
    }
    let mut union = RoaringBitmap::new();
    for list in lists {
        match list {
            Postings::Bitmap { base, delta } => {
                union |= &**base;
                union.extend(delta.iter().copied());
            }
            Postings::List(ids) => union.extend(ids.iter().copied()),
            Postings::Raw(bytes) => union.extend(BigEndian(bytes).iter()),
            Postings::Bits(bits) => union.extend(bits.ids()),
        }
    }
    Some(Postings::Bitmap { base: Arc::new(union), delta: Vec::new() })
}

/// Keeps of `ids` those whose presence in `other` is `wanted`.
fn retain(ids: &mut Vec<u32>, other: &Postings, wanted: bool) {
    match other {
        Postings::Raw(bytes) => {
            let mut other = Gallop::new(BigEndian(bytes));
            ids.retain(|&id| other.seek(id) == wanted);
        }
        Postings::List(list) => {
            let mut other = Gallop::new(Native(list));
            ids.retain(|&id| other.seek(id) == wanted);
        }
        Postings::Bits(bits) => ids.retain(|&id| bits.contains(id) == wanted),
        Postings::Bitmap { base, delta } => {
            let mut rest = Gallop::new(Native(delta));
            ids.retain(|&id| (base.contains(id) || rest.seek(id)) == wanted);
        }
    }
}

/// Whether any of the ascending `ids` is in `other`.
fn any_in(mut ids: impl Iterator<Item = u32>, other: &Postings) -> bool {
    match other {
        Postings::Raw(bytes) => {
            let mut other = Gallop::new(BigEndian(bytes));
            ids.any(|id| other.seek(id))
        }
        Postings::List(list) => {
            let mut other = Gallop::new(Native(list));
            ids.any(|id| other.seek(id))
        }
        Postings::Bits(bits) => ids.any(|id| bits.contains(id)),
        Postings::Bitmap { base, delta } => ids.any(|id| base.contains(id) || delta.binary_search(&id).is_ok()),
    }
}

/// Ascending ids that can be looked at by position.
trait Ids: Copy {
    fn len(self) -> usize;
    fn at(self, index: usize) -> Option<u32>;
}

#[derive(Clone, Copy)]
struct Native<'a>(&'a [u32]);

impl Ids for Native<'_> {
    fn len(self) -> usize {
        self.0.len()
    }
    fn at(self, index: usize) -> Option<u32> {
        self.0.get(index).copied()
    }
}

#[derive(Clone, Copy)]
struct BigEndian<'a>(&'a [u8]);

impl<'a> BigEndian<'a> {
    fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word))
    }
}

impl Ids for BigEndian<'_> {
    fn len(self) -> usize {
        self.0.len() / 4
    }
    fn at(self, index: usize) -> Option<u32> {
        self.0.as_chunks::<4>().0.get(index).map(|word| u32::from_be_bytes(*word))
    }
}

/// A position in a list that only goes forward, in steps that double until the target is passed.
struct Gallop<T> {
    ids: T,
    position: usize,
}

impl<T: Ids> Gallop<T> {
    fn new(ids: T) -> Self {
        Self { ids, position: 0 }
    }

    /// Goes to the first id that is not below `target`; whether it is `target`.
    fn seek(&mut self, target: u32) -> bool {
        let mut step = 1;
        // Everything before `low` is below the target.
        let mut low = self.position;
        let mut probe = low;
        let mut high = loop {
            match self.ids.at(probe) {
                Some(id) if id < target => {
                    low = probe + 1;
                    probe += step;
                    step *= 2;
                }
                Some(id) if id == target => {
                    self.position = probe;
                    return true;
                }
                _ => break probe.min(self.ids.len()),
            }
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ids.at(middle).is_some_and(|id| id < target) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.position = low;
        self.ids.at(low) == Some(target)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Set = BTreeSet<u32>;

    fn raw(set: &Set) -> Postings {
        Postings::Raw(set.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<u8>>().into())
    }

    fn bitmap(set: &Set, delta_every: u32) -> Postings {
        let is_delta = |id: &u32| delta_every != 0 && id.is_multiple_of(delta_every);
        Postings::Bitmap {
            base: Arc::new(set.iter().copied().filter(|id| !is_delta(id)).collect()),
            delta: set.iter().copied().filter(is_delta).collect(),
        }
    }

    /// A set and one of its forms. Dense and sparse sets, so that both ways to unite are taken.
    fn postings() -> impl Strategy<Value = (Set, Postings)> {
        let dense = prop::collection::btree_set(0..600u32, 0..80);
        let sparse = prop::collection::btree_set(any::<u32>(), 0..20);
        (prop_oneof![dense, sparse], 0..6u8).prop_map(|(set, form)| {
            let postings = match form {
                0 => Postings::List(set.iter().copied().collect()),
                1 => raw(&set),
                2 => bitmap(&set, 0),
                3 => bitmap(&set, 3),
                _ => match (set.first(), set.last()) {
                    (Some(&min), Some(&max)) if max - min < 10_000 => {
                        let mut bits = Bits::with_span(min, max);
                        set.iter().for_each(|&id| bits.insert(id));
                        Postings::Bits(bits)
                    }
                    _ => raw(&set),
                },
            };
            (set, postings)
        })
    }

    fn ids(set: &Set) -> Vec<u32> {
        set.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn every_form_holds_its_set((set, postings) in postings(), probe: u32) {
            prop_assert_eq!(postings.len(), set.len());
            prop_assert_eq!(postings.is_empty(), set.is_empty());
            prop_assert_eq!(postings.contains(probe), set.contains(&probe));
            for &id in &set {
                prop_assert!(postings.contains(id));
            }
            prop_assert_eq!(postings.into_vec(), ids(&set));
        }

        #[test]
        fn intersection_is_that_of_the_sets(lists in prop::collection::vec(postings(), 1..5)) {
            let (sets, lists): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
            let expected = sets.iter().skip(1).fold(sets[0].clone(), |a, b| &a & b);
            prop_assert_eq!(Postings::intersect(lists).into_vec(), ids(&expected));
        }

        #[test]
        fn union_is_that_of_the_sets(lists in prop::collection::vec(postings(), 0..6)) {
            let (sets, lists): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
            let expected = sets.iter().fold(Set::new(), |a, b| &a | b);
            let union = Postings::union(lists);
            prop_assert_eq!(union.len(), expected.len());
            prop_assert_eq!(union.into_vec(), ids(&expected));
        }

        #[test]
        fn subtraction_is_that_of_the_sets((a, left) in postings(), (b, right) in postings()) {
            prop_assert_eq!(left.intersects(&right), !a.is_disjoint(&b));
            prop_assert_eq!(left.subtract(&right).into_vec(), ids(&(&a - &b)));
        }

        #[test]
        fn galloping_finds_what_a_search_finds(set in prop::collection::btree_set(0..5000u32, 0..300),
                                               targets in prop::collection::btree_set(0..5000u32, 0..300)) {
            let list = ids(&set);
            let mut gallop = Gallop::new(Native(&list));
            for target in targets {
                prop_assert_eq!(gallop.seek(target), set.contains(&target));
            }
        }
    }
}
