//! Label pairs, each stored once, with the series that have it.
//!
//! ```text
//! names    name -> its values           one lock for the rare change
//! values   value -> pair, a hash table  one lock a name
//! pair     its packed bytes, and the ids of its series
//! ```
//!
//! A page of series refers to its pairs (`page_labels`): a pair's text is in memory once however many series have it. A pair
//! is in the index as long as a series has it: it goes with the last one, under its name's lock, and its memory with it.
//! Locks are held a name or a pair at a time, so series are created side by side, and a regular expression over one
//! name's values runs on a snapshot and stops nobody. What a lock is held for is small, however many values there are:
//! the table of a name grows a part at a time, and is read a part at a time.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;
use xxhash_rust::xxh64::xxh64;

use super::holds::{Holds, Site};
use super::postings::Postings;
use super::value_table::ValueTable;
use crate::codec::FixedMap;
use crate::error::Result;
use crate::fs::Clock;
use crate::index::{self, PostingsSource};
use crate::model::{Labels, LabelsIter};

/// A label pair and the series that have it.
#[derive(Debug)]
pub(super) struct Pair {
    /// The packed form of the set with this pair alone.
    packed: Box<[u8]>,
    postings: Mutex<Postings>,
}

impl Pair {
    /// The pair with these bytes, which series `id` has.
    pub(super) fn new(packed: &[u8], id: u32) -> Self {
        Self { packed: packed.into(), postings: Mutex::new(Postings::One(id)) }
    }

    /// Adds series `id`, if there is any that has the pair: it is in the index then, and stays there.
    fn join(&self, id: u32, holds: &Holds) -> bool {
        let mut postings = self.postings.lock();
        let any = !postings.is_empty();
        if any {
            postings.add(id, || holds.begin_slice(Site::PostingsMerged));
        }
        any
    }

    /// Its bytes in the packed form of a set.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// Adds a series that does not have it yet.
    fn add(&self, id: u32, holds: &Holds) {
        self.postings.lock().add(id, || holds.begin_slice(Site::PostingsMerged));
    }

    /// Name and value.
    pub(super) fn text(&self) -> (&str, &str) {
        LabelsIter::of_packed(&self.packed).next().unwrap_or(("", ""))
    }
}

/// Values in order of their text.
pub(super) type SortedPairs = Arc<[Arc<Pair>]>;

#[derive(Debug, Default)]
struct Values {
    table: ValueTable,
    /// All of `table`, sorted, as it was at some version: made when a query asks. A change does not drop it: that would
    /// have whoever creates a series walk over a million values.
    sorted: Option<(u64, SortedPairs)>,
    /// Counts the changes.
    version: u64,
}

impl Values {
    /// All values sorted, if they are as they were then.
    fn sorted(&self) -> Option<SortedPairs> {
        self.sorted.as_ref().filter(|(version, _)| *version == self.version).map(|(_, sorted)| Arc::clone(sorted))
    }
}

#[derive(Debug, Default)]
struct NameIndex {
    values: RwLock<Values>,
}

/// All label pairs of the head.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    names: RwLock<FixedMap<Box<str>, Arc<NameIndex>>>,
    all: Mutex<Postings>,
    /// How long locks were held for the upkeep of all this.
    pub(super) holds: Holds,
}

/// What a pair is found by.
pub(super) fn hash(packed: &[u8]) -> u64 {
    xxh64(packed, 0)
}

impl NameIndex {
    /// The pair with these bytes, `id` among its postings.
    fn add(&self, packed: &[u8], id: u32, holds: &Holds) -> Arc<Pair> {
        let hash = hash(packed);
        if let Some(pair) = self.values.read().table.find(hash, packed) {
            // Under the lock of the table: nobody can find the pair empty and take it away meanwhile.
            pair.add(id, holds);
            return Arc::clone(pair);
        }
        let mut values = self.values.write();
        let _hold = holds.begin(Site::ValueCreated);
        if let Some(pair) = values.table.find(hash, packed) {
            pair.add(id, holds);
            return Arc::clone(pair);
        }
        let pair = Arc::new(Pair::new(packed, id));
        values.table.insert(hash, Arc::clone(&pair));
        values.version += 1;
        pair
    }

    /// Takes out a pair if no series has it any more; whether any value is left.
    fn remove_if_unused(&self, pair: &Pair, holds: &Holds) -> bool {
        let mut values = self.values.write();
        let _hold = holds.begin(Site::ValueRemoved);
        if pair.postings.lock().is_empty() {
            values.table.remove(pair);
            values.version += 1;
        }
        values.table.len() > 0
    }

    /// Drops the sorted values if they are not those that there are: they keep pairs that are gone.
    fn forget_outdated(&self) {
        let is_outdated =
            |values: &Values| values.sorted.as_ref().is_some_and(|(version, _)| *version != values.version);
        if is_outdated(&self.values.read()) {
            let mut values = self.values.write();
            let outdated = if is_outdated(&values) { values.sorted.take() } else { None };
            drop(values);
            drop(outdated);
        }
    }

    /// Calls `each` with all pairs, part by part, each part under the lock. `restart` is called when some may have been
    /// missed, and they come all over again. Some may come twice if there are changes.
    fn for_each_part(&self, holds: &Holds, mut restart: impl FnMut(), mut each: impl FnMut(&Arc<Pair>)) {
        let (mut index, mut merges) = (0, None);
        loop {
            let values = self.values.read();
            let _hold = holds.begin_slice(Site::ValuesRead);
            let Some((pairs, now)) = values.table.part(index) else { return };
            if *merges.get_or_insert(now) == now {
                pairs.for_each(&mut each);
                index += 1;
            } else {
                restart();
                (index, merges) = (0, None);
            }
        }
    }

    /// All values in order.
    fn sorted(&self, holds: &Holds) -> SortedPairs {
        let version = {
            let values = self.values.read();
            if let Some(sorted) = values.sorted() {
                return sorted;
            }
            values.version
        };
        let pairs = RefCell::new(Vec::new());
        self.for_each_part(holds, || pairs.borrow_mut().clear(), |pair| pairs.borrow_mut().push(Arc::clone(pair)));
        let mut pairs: Vec<Arc<Pair>> = pairs.into_inner();
        pairs.sort_unstable_by(|a, b| a.text().1.cmp(b.text().1));
        // One that was removed and came again meanwhile is there twice: the one that series have stays.
        pairs.dedup_by(|next, pair| {
            let same = next.packed() == pair.packed();
            if same && pair.postings.lock().is_empty() {
                std::mem::swap(next, pair);
            }
            same
        });
        let sorted: SortedPairs = pairs.into();
        let mut values = self.values.write();
        let is_newer = values.sorted.as_ref().is_none_or(|(other, _)| *other < version);
        // What was there is dropped when the lock is not held any more.
        let old = if is_newer { values.sorted.replace((version, Arc::clone(&sorted))) } else { None };
        drop(values);
        drop(old);
        sorted
    }
}

impl LabelIndex {
    /// An index that times its locks.
    pub(super) fn timed(clock: &Arc<dyn Clock>) -> Self {
        Self { holds: Holds::new(clock), ..Self::default() }
    }

    /// Enters series `id` with the labels of this packed form, and gives its pairs. `near` are those of a series like it:
    /// what both have at the same place needs no look-up.
    pub(super) fn add<'a>(
        &self,
        packed: &[u8],
        id: u32,
        mut near: impl Iterator<Item = &'a Arc<Pair>>,
    ) -> Vec<Arc<Pair>> {
        let mut pairs = Vec::with_capacity(16);
        let mut names = self.names.read();
        let mut labels = LabelsIter::of_packed(packed);
        while let Some(pair) = labels.next_packed() {
            if let Some(same) = near.next().filter(|near| near.packed() == pair && near.join(id, &self.holds)) {
                pairs.push(Arc::clone(same));
                continue;
            }
            let (name, _) = LabelsIter::of_packed(pair).next().unwrap_or_default();
            loop {
                if let Some(index) = names.get(name) {
                    // The names stay locked: a name without values is removed under the other kind of this lock.
                    pairs.push(index.add(pair, id, &self.holds));
                    break;
                }
                drop(names);
                self.names.write().entry(name.into()).or_default();
                names = self.names.read();
            }
        }
        drop(names);
        self.all.lock().add(id, || self.holds.begin_slice(Site::PostingsMerged));
        pairs
    }

    /// Takes out the series in `dead`, whose pairs, all together, are `pairs`. One lock at a time, for one pair.
    pub(super) fn remove(&self, dead: &RoaringBitmap, pairs: &[Arc<Pair>]) {
        if dead.is_empty() {
            return;
        }
        {
            let mut all = self.all.lock();
            let _hold = self.holds.begin_slice(Site::AllRemoved);
            all.subtract(dead);
        }
        let mut emptied_names = Vec::new();
        for pair in pairs {
            let unused = {
                let mut postings = pair.postings.lock();
                let _hold = if postings.is_large() {
                    self.holds.begin_slice(Site::PostingsRemoved)
                } else {
                    self.holds.begin(Site::PostingsRemoved)
                };
                postings.subtract(dead);
                postings.is_empty()
            };
            if !unused {
                continue;
            }
            let (name, _) = pair.text();
            // If the name goes meanwhile, its values are all gone, this one too.
            let index = self.names.read().get(name).map(Arc::clone);
            if index.is_some_and(|index| !index.remove_if_unused(pair, &self.holds)) {
                emptied_names.push(name);
            }
        }
        if !emptied_names.is_empty() {
            let mut names = self.names.write();
            let _hold = self.holds.begin_slice(Site::NamesRemoved);
            for name in emptied_names {
                if names.get(name).is_some_and(|index| index.values.read().table.len() == 0) {
                    names.remove(name);
                }
            }
        }
    }

    /// Drops sorted values that are not those that there are.
    pub(super) fn forget_outdated(&self) {
        let names: Vec<_> = self.names.read().values().map(Arc::clone).collect();
        names.iter().for_each(|index| index.forget_outdated());
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.read().keys().map(|name| String::from(&**name)).collect();
        names.sort_unstable();
        names
    }

    /// The pairs of `name` in order of their values.
    pub(super) fn sorted(&self, name: &str) -> Option<SortedPairs> {
        let index = self.names.read().get(name).map(Arc::clone)?;
        Some(index.sorted(&self.holds))
    }

    /// The values of `name`, sorted.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        self.sorted(name).iter().flat_map(|pairs| pairs.iter()).map(|pair| pair.text().1.to_owned()).collect()
    }

    /// Whether any series has the pair.
    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        let packed = Labels::from_pairs([(name, value)]);
        let packed = packed.as_packed();
        let find = |index: &NameIndex| index.values.read().table.find(hash(packed), packed).is_some();
        self.names.read().get(name).is_some_and(|index| find(index))
    }

    /// Calls `each` with every pair and how many series have it: for statistics.
    pub(super) fn for_each_pair(&self, mut each: impl FnMut(&str, &str, u64)) {
        for name in self.names() {
            for pair in self.sorted(&name).iter().flat_map(|pairs| pairs.iter()) {
                let (name, value) = pair.text();
                each(name, value, pair.postings.lock().len());
            }
        }
    }

    /// Roughly how many bytes the index holds, and how many pairs.
    pub(super) fn memory(&self) -> (usize, usize) {
        let (mut bytes, mut pairs) = (self.all.lock().heap_bytes(), 0);
        let names: Vec<_> = self.names.read().iter().map(|(name, index)| (name.len(), Arc::clone(index))).collect();
        for (name, index) in names {
            let counted = Cell::new((0, 0));
            index.for_each_part(
                &self.holds,
                || counted.set((0, 0)),
                |pair| {
                    let (bytes, pairs) = counted.get();
                    // An `Arc` has two counters beside its content.
                    let own = size_of::<Pair>() + 16 + pair.packed.len() + pair.postings.lock().heap_bytes();
                    counted.set((bytes + own, pairs + 1));
                },
            );
            let values = index.values.read();
            bytes += name + size_of::<NameIndex>() + values.table.bytes() + counted.get().0;
            bytes += values.sorted.as_ref().map_or(0, |(_, sorted)| sorted.len() * 8);
            pairs += counted.get().1;
        }
        (bytes, pairs)
    }
}

impl PostingsSource for LabelIndex {
    fn all(&self) -> Result<index::Postings> {
        Ok(self.all.lock().snapshot())
    }

    fn postings(&self, name: &str, value: &str) -> Result<index::Postings> {
        let packed = Labels::from_pairs([(name, value)]);
        let packed = packed.as_packed();
        let names = self.names.read();
        let Some(index) = names.get(name) else { return Ok(index::Postings::empty()) };
        let values = index.values.read();
        let pair = values.table.find(hash(packed), packed);
        Ok(pair.map_or_else(index::Postings::empty, |pair| pair.postings.lock().snapshot()))
    }

    fn postings_where(
        &self,
        name: &str,
        prefix: &str,
        keep: &mut dyn FnMut(&str) -> bool,
        take: &mut dyn FnMut(index::Postings),
    ) -> Result<()> {
        let Some(pairs) = self.sorted(name) else { return Ok(()) };
        let start = pairs.partition_point(|pair| pair.text().1 < prefix);
        for pair in pairs.iter().skip(start) {
            let (_, value) = pair.text();
            if !value.starts_with(prefix) {
                break;
            }
            if keep(value) {
                take(pair.postings.lock().snapshot());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::postings_for_matchers;
    use crate::model::{MatchOp, Matcher};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn add(index: &LabelIndex, id: u32, labels: &[(&str, &str)]) -> Vec<Arc<Pair>> {
        index.add(Labels::from_pairs(labels.iter().copied()).as_packed(), id, [].iter())
    }

    fn remove(index: &LabelIndex, id: u32, pairs: Vec<Arc<Pair>>) {
        index.remove(&[id].into_iter().collect(), &pairs);
    }

    #[test]
    fn a_pair_is_stored_once_and_goes_with_its_last_series() {
        let index = LabelIndex::default();
        let first = add(&index, 1, &[("a", "x"), ("b", "1")]);
        let second = add(&index, 2, &[("a", "x"), ("b", "2")]);
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        remove(&index, 1, first);
        assert_eq!(index.values("b"), ["2"]);
        assert_eq!(index.values("a"), ["x"]);
        remove(&index, 2, second);
        assert_eq!(index.names(), [""; 0]);
    }

    #[test]
    fn a_pair_that_has_gone_is_not_taken_from_a_neighbour() {
        let index = LabelIndex::default();
        let labels = Labels::from_pairs([("a", "x"), ("b", "1")]);
        let first = add(&index, 1, &[("a", "x"), ("b", "1")]);
        let second = index.add(labels.as_packed(), 2, first.iter());
        assert!(first.iter().zip(&second).all(|(first, second)| Arc::ptr_eq(first, second)));
        remove(&index, 1, first.clone());
        remove(&index, 2, second);
        index.add(labels.as_packed(), 3, first.iter());
        assert_eq!(index.values("a"), ["x"]);
        assert_eq!(index.postings("b", "1").unwrap().into_vec(), [3]);
    }

    #[test]
    fn churn_leaves_no_bytes_behind() {
        let index = LabelIndex::default();
        let mut after_round = Vec::new();
        for round in 0..100_u32 {
            let series: Vec<(u32, Vec<Arc<Pair>>)> = (0..200)
                .map(|n| {
                    let id = round * 200 + n;
                    let (pod, name) = (format!("pod-{id}"), format!("label_{}", id % 400));
                    (id, add(&index, id, &[("job", "churn"), ("pod", &pod), (&name, "v")]))
                })
                .collect();
            index.values("pod");
            for (id, pairs) in series {
                remove(&index, id, pairs);
            }
            after_round.push(index.memory().0);
        }
        assert!(after_round.iter().all(|bytes| *bytes <= after_round[0]), "{after_round:?}");
    }

    proptest! {
        #[test]
        fn matchers_select_what_looking_at_every_series_does(
            series in prop::collection::btree_map(0..60_u32, ("[xyz]{0,2}", "[pq]{0,1}"), 0..40),
            dead in prop::collection::btree_set(0..60_u32, 0..20),
            op in prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]),
            value in "[xyz]{0,2}", other in "[pq]?") {
            let index = LabelIndex::default();
            let mut model = BTreeMap::new();
            for (id, (a, b)) in &series {
                let labels = Labels::from_pairs([("a", a.as_str()), ("b", b.as_str()), ("job", "j")]);
                model.insert(*id, (labels.clone(), index.add(labels.as_packed(), *id, [].iter())));
            }
            for id in dead {
                if let Some((_, pairs)) = model.remove(&id) {
                    remove(&index, id, pairs);
                }
            }
            let pattern = if matches!(op, MatchOp::Regex | MatchOp::NotRegex) { format!("{value}.*") } else { value };
            let matchers = [Matcher::new(op, "a", pattern).unwrap(), Matcher::equal("b", other)];
            let got = postings_for_matchers(&index, &matchers).unwrap().into_vec();
            let passes = |labels: &Labels| matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")));
            let expected: Vec<u32> = model.iter().filter(|(_, (l, _))| passes(l)).map(|(id, _)| *id).collect();
            prop_assert_eq!(got, expected);
            let values: BTreeSet<String> = model.values().filter_map(|(l, _)| l.get("a")).map(String::from).collect();
            prop_assert_eq!(index.values("a"), values.into_iter().collect::<Vec<_>>());
        }
    }
}
