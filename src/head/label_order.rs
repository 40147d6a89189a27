//! The series of the head in label order, without building their labels.
//!
//! All pairs get a number in the order of their texts. A series is then a row of numbers, and numbers are sorted instead
//! of texts that lie all over memory: a page's table is looked up once for all series that share it. A word holds as many
//! numbers as fit its bits, so most rows are put in order by one sort of words, and those that begin alike by another one
//! of what follows.

use std::sync::Arc;

use super::Head;
use super::label_index::{Pair, SortedPairs};
use super::slab::PAGE;
use crate::codec::FixedMap;
use crate::index::{NumberedSeries, SeriesId};

/// What stands for a pair that came after the numbers were given.
const UNKNOWN: u32 = u32::MAX;

/// Series in label order.
#[derive(Debug)]
pub(super) struct LabelOrder {
    /// The pairs, name by name.
    pairs: Vec<SortedPairs>,
    /// One row behind the other: the series, how many pairs, their numbers.
    words: Vec<u32>,
    /// Where the rows begin.
    starts: Vec<usize>,
}

/// A row that is being put in order.
struct Row {
    /// Some of its numbers.
    key: u64,
    /// Where it begins.
    at: usize,
}

impl LabelOrder {
    /// The series in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = SeriesId> {
        self.starts.iter().filter_map(|&at| self.words.get(at).map(|id| SeriesId(*id)))
    }

    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().flat_map(|pairs| pairs.iter()).map(|pair| pair.text())
    }
}

/// The numbers of the row that begins at `at`.
fn numbers(words: &[u32], at: usize) -> &[u32] {
    match words.get(at..) {
        Some([_, len, rest @ ..]) => rest.get(..*len as usize).unwrap_or_default(),
        _ => &[],
    }
}

impl NumberedSeries for LabelOrder {
    fn symbols(&self) -> Vec<&str> {
        let names = self.pairs.iter().filter_map(|pairs| pairs.first()).map(|pair| pair.text().0);
        // The original keeps the list of all series under a pair of empty strings, so its blocks have this one too.
        let mut symbols: Vec<&str> = std::iter::once("").chain(names).collect();
        symbols.extend(self.texts().map(|(_, value)| value));
        // A few runs that ascend already: this sort looks for such.
        symbols.sort();
        symbols.dedup();
        symbols
    }

    fn pairs(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(self.texts())
    }

    fn series(&self, index: usize) -> Option<(SeriesId, &[u32])> {
        let at = *self.starts.get(index)?;
        Some((SeriesId(*self.words.get(at)?), numbers(&self.words, at)))
    }
}

impl Head {
    /// Those of `ids`, ascending, that have labels, in label order. A series that is created meanwhile may be missing.
    pub(super) fn in_label_order(&self, ids: &[u32]) -> LabelOrder {
        // Held as long as addresses stand for pairs: nothing else can get one of these meanwhile.
        let pairs: Vec<_> = self.labels.names().iter().filter_map(|name| self.labels.sorted(name)).collect();
        let mut known: FixedMap<usize, u32> = FixedMap::default();
        known.reserve(pairs.iter().map(|pairs| pairs.len()).sum());
        for (number, pair) in (0..UNKNOWN).zip(pairs.iter().flat_map(|pairs| pairs.iter())) {
            known.insert(Arc::as_ptr(pair).addr(), number);
        }
        let number = |pair: &Arc<Pair>| known.get(&Arc::as_ptr(pair).addr()).copied().unwrap_or(UNKNOWN);

        let mut words: Vec<u32> = Vec::with_capacity(ids.len() * 12);
        let mut rows: Vec<Row> = Vec::with_capacity(ids.len());
        let mut page_numbers = Vec::new();
        for ids in ids.chunk_by(|a, b| *a as usize / PAGE == *b as usize / PAGE) {
            let Some(series) = ids.first().and_then(|id| self.slots.get(*id)) else { continue };
            let state = series.lock();
            let page = &state.common().0.labels;
            page_numbers.clear();
            page_numbers.extend(page.pairs().map(|pair| pair.map_or(UNKNOWN, number)));
            for &id in ids {
                let at = words.len();
                words.extend([id, 0]);
                let places = page.of(id as usize % PAGE).numbers();
                words.extend(places.map(|place| page_numbers.get(place).copied().unwrap_or(UNKNOWN)));
                let row = words.get_mut(at + 1..).unwrap_or_default();
                match row {
                    // One that came after the numbers were given, if it has labels at all.
                    [] | [_] => words.truncate(at),
                    [_, row @ ..] if row.contains(&UNKNOWN) => words.truncate(at),
                    [len, row @ ..] => {
                        *len = row.len() as u32;
                        rows.push(Row { key: 0, at });
                    }
                }
            }
        }
        // Each number is one more in a key, where nothing is 0.
        let bits = u64::BITS - (known.len() as u64).leading_zeros();
        sort(&mut rows, &words, 0, bits.max(1));
        // Row by row into that order: they are read one after the other, more than once, and by who waits for each.
        let mut ordered: Vec<u32> = Vec::with_capacity(words.len());
        let mut starts = Vec::with_capacity(rows.len());
        for row in rows {
            starts.push(ordered.len());
            let len = 2 + numbers(&words, row.at).len();
            ordered.extend_from_slice(words.get(row.at..row.at + len).unwrap_or_default());
        }
        LabelOrder { pairs, words: ordered, starts }
    }
}

/// Sorts rows that are alike before their number at `depth`.
fn sort(rows: &mut [Row], words: &[u32], depth: usize, bits: u32) {
    let a_key = u64::BITS / bits;
    let mut any = false;
    for row in rows.iter_mut() {
        let mut rest = numbers(words, row.at).iter().skip(depth);
        row.key = (0..a_key).fold(0, |key, _| key << bits | rest.next().map_or(0, |number| u64::from(*number) + 1));
        any |= row.key != 0;
    }
    // Two series with all labels alike could not be told apart.
    if !any {
        return;
    }
    rows.sort_unstable_by_key(|row| row.key);
    for alike in rows.chunk_by_mut(|a, b| a.key == b.key).filter(|alike| alike.len() > 1) {
        sort(alike, words, depth + a_key as usize, bits);
    }
}
