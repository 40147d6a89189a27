//! The pairs of a name by their values: a hash table that grows and shrinks a piece at a time.
//!
//! A table that doubles moves all it has, and looks at every value to do it: a tenth of a second for a million, under the
//! lock of its name. This one is made of parts of some hundred pairs. When there are too many pairs for so many parts, one
//! part is split; when there are too few, the last is put back to the one that it was split from (linear hashing).

use std::sync::Arc;

use hashbrown::HashTable;

use super::label_index::{Pair, hash};

/// Pairs a part, on average, above which one is split.
const MOST: usize = 512;
/// Pairs a part, on average, below which the last goes.
const LEAST: usize = 128;

/// Pairs by the hash of their packed form.
#[derive(Debug)]
pub(super) struct ValueTable {
    parts: Vec<HashTable<Arc<Pair>>>,
    len: usize,
    /// How often a part went: whoever walks over the parts then begins again.
    merges: u64,
}

impl Default for ValueTable {
    fn default() -> Self {
        Self { parts: vec![HashTable::new()], len: 0, merges: 0 }
    }
}

/// Which of `parts` parts holds a hash.
#[inline]
fn place(hash: u64, parts: usize) -> usize {
    let whole = 1 << parts.ilog2();
    // A part's own table takes the low bits.
    let wide = (hash >> 32) as usize & (2 * whole - 1);
    if wide < parts { wide } else { wide - whole }
}

fn rehash(pair: &Arc<Pair>) -> u64 {
    hash(pair.packed())
}

impl ValueTable {
    /// The pair with these bytes and their hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, packed: &[u8]) -> Option<&Arc<Pair>> {
        self.parts.get(place(hash, self.parts.len()))?.find(hash, |pair| pair.packed() == packed)
    }

    /// Takes in a pair that is not there.
    pub(super) fn insert(&mut self, hash: u64, pair: Arc<Pair>) {
        if self.len >= self.parts.len() * MOST {
            self.split();
        }
        let place = place(hash, self.parts.len());
        if let Some(part) = self.parts.get_mut(place) {
            part.insert_unique(hash, pair, rehash);
            self.len += 1;
        }
    }

    fn split(&mut self) {
        let new = self.parts.len();
        let from = new - (1 << new.ilog2());
        let mut taken = HashTable::new();
        if let Some(part) = self.parts.get_mut(from) {
            for pair in part.extract_if(|pair| place(rehash(pair), new + 1) == new) {
                taken.insert_unique(rehash(&pair), pair, rehash);
            }
            part.shrink_to(0, rehash);
        }
        self.parts.push(taken);
    }

    /// Takes out this very pair.
    pub(super) fn remove(&mut self, pair: &Pair) {
        let hash = hash(pair.packed());
        let place = place(hash, self.parts.len());
        let Some(part) = self.parts.get_mut(place) else { return };
        let Ok(entry) = part.find_entry(hash, |other| std::ptr::eq(&raw const **other, pair)) else { return };
        entry.remove();
        if part.len() * 4 < part.capacity() {
            part.shrink_to(0, rehash);
        }
        self.len -= 1;
        if self.len < (self.parts.len() - 1) * LEAST
            && let Some(last) = self.parts.pop()
        {
            let into = self.parts.len() - (1 << self.parts.len().ilog2());
            if let Some(part) = self.parts.get_mut(into) {
                for pair in last {
                    part.insert_unique(rehash(&pair), pair, rehash);
                }
            }
            self.merges += 1;
        }
    }

    /// The pairs of a part, and how often one went; nothing behind the last. Pairs move to parts behind theirs alone,
    /// unless a part goes.
    pub(super) fn part(&self, index: usize) -> Option<(impl Iterator<Item = &Arc<Pair>>, u64)> {
        Some((self.parts.get(index)?.iter(), self.merges))
    }

    /// How many pairs.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes without the pairs.
    pub(super) fn bytes(&self) -> usize {
        // An eighth of the buckets is never filled; each has a control byte.
        let part = |part: &HashTable<Arc<Pair>>| part.capacity() * 8 / 7 * 9;
        self.parts.capacity() * size_of::<HashTable<Arc<Pair>>>() + self.parts.iter().map(part).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    fn packed(n: usize) -> Labels {
        Labels::from_pairs([("n", n.to_string())])
    }

    fn insert(table: &mut ValueTable, n: usize) {
        let packed = packed(n);
        table.insert(hash(packed.as_packed()), Arc::new(Pair::new(packed.as_packed(), 0)));
    }

    fn find(table: &ValueTable, n: usize) -> Option<Arc<Pair>> {
        let packed = packed(n);
        table.find(hash(packed.as_packed()), packed.as_packed()).cloned()
    }

    #[test]
    fn what_is_put_in_is_found_while_parts_come_and_go() {
        let mut table = ValueTable::default();
        (0..5000).for_each(|n| insert(&mut table, n));
        assert!(table.parts.len() > 8);
        assert!((0..5000).all(|n| find(&table, n).is_some()) && find(&table, 5000).is_none());
        for n in (0..5000).filter(|n| n % 50 != 0) {
            let pair = find(&table, n).unwrap();
            table.remove(&pair);
        }
        assert!(table.parts.len() < 3 && table.len() == 100);
        assert!((0..5000).all(|n| find(&table, n).is_some() == (n % 50 == 0)));
    }

    #[test]
    fn who_walks_over_the_parts_while_it_grows_meets_everything_that_was_there() {
        let mut table = ValueTable::default();
        (0..3000).for_each(|n| insert(&mut table, n));
        let mut met: Vec<Arc<Pair>> = Vec::new();
        for index in 0..40 {
            let Some((pairs, _)) = table.part(index) else { break };
            met.extend(pairs.cloned());
            (0..300).for_each(|n| insert(&mut table, 10_000 + index * 300 + n));
        }
        let mut rest = 40;
        while let Some((pairs, _)) = table.part(rest) {
            met.extend(pairs.cloned());
            rest += 1;
        }
        let texts: std::collections::BTreeSet<&str> = met.iter().map(|pair| pair.text().1).collect();
        assert!((0..3000).all(|n| texts.contains(n.to_string().as_str())));
    }
}
