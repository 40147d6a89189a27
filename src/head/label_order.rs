//! The series of the head in label order, without building their labels.
//!
//! All pairs get a rank in the order of their texts. A series is then a row of numbers, and rows are compared instead of
//! texts that lie all over memory: a page's table is looked up once for all series that share it.

use std::sync::Arc;

use super::Head;
use super::slab::PAGE;
use crate::codec::FixedMap;

/// A row: the ranks of its first two pairs, and where the rest of it stands.
struct Row {
    key: u64,
    at: usize,
}

impl Head {
    /// Those of `ids`, ascending, that have labels, in label order. A series that is created meanwhile may be missing.
    pub(super) fn in_label_order(&self, ids: &[u32]) -> Vec<u32> {
        // Held as long as addresses stand for pairs: nothing else can get one of these meanwhile.
        let sorted: Vec<_> = self.labels.names().iter().filter_map(|name| self.labels.sorted(name)).collect();
        let mut ranks: FixedMap<usize, u32> = FixedMap::default();
        ranks.reserve(sorted.iter().map(|pairs| pairs.len()).sum());
        for (rank, pair) in (1..).zip(sorted.iter().flat_map(|pairs| pairs.iter())) {
            ranks.insert(Arc::as_ptr(pair).addr(), rank);
        }

        // One row behind the other: how many ranks, the series, the ranks behind the first two.
        let mut words: Vec<u32> = Vec::with_capacity(ids.len() * 8);
        let mut rows: Vec<Row> = Vec::with_capacity(ids.len());
        let mut page_ranks = Vec::new();
        for ids in ids.chunk_by(|a, b| *a as usize / PAGE == *b as usize / PAGE) {
            let Some(series) = ids.first().and_then(|id| self.slots.get(*id)) else { continue };
            let state = series.lock();
            let (page, _) = state.common();
            page_ranks.clear();
            // 0 is a pair that came after the ranks were given, with a series that did.
            let rank = |addr: usize| ranks.get(&addr).copied().unwrap_or(0);
            page_ranks.extend(page.pairs().map(|pair| pair.map_or(0, |pair| rank(Arc::as_ptr(pair).addr()))));
            for &id in ids {
                let at = words.len();
                words.extend([0, id]);
                let (mut key, mut count) = (0_u64, 0_u32);
                let mut known = true;
                for number in page.of(id as usize % PAGE).numbers() {
                    let rank = page_ranks.get(number).copied().unwrap_or(0);
                    known &= rank != 0;
                    match count {
                        0 => key = u64::from(rank) << 32,
                        1 => key |= u64::from(rank),
                        _ => words.push(rank),
                    }
                    count += 1;
                }
                if count == 0 || !known {
                    words.truncate(at);
                    continue;
                }
                if let Some(len) = words.get_mut(at) {
                    *len = count.saturating_sub(2);
                }
                rows.push(Row { key, at });
            }
        }

        rows.sort_unstable_by_key(|row| row.key);
        let rest = |row: &Row| match words.get(row.at..) {
            Some([len, _, rest @ ..]) => rest.get(..*len as usize).unwrap_or_default(),
            _ => &[],
        };
        for same in rows.chunk_by_mut(|a, b| a.key == b.key).filter(|same| same.len() > 1) {
            same.sort_unstable_by(|a, b| rest(a).cmp(rest(b)));
        }
        rows.iter().filter_map(|row| words.get(row.at + 1).copied()).collect()
    }
}
