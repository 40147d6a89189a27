//! Forgetting what blocks have, and giving its memory back, while everybody goes on.
//!
//! ```text
//! raise the floor   no sample before it is appended any more; what was under way is waited for: milliseconds
//! drop chunks       those that end before it, unless an open reader may still ask for them
//! mark              series without samples, so that whoever appends to one from now on notices
//! remove            those still marked and empty when all appenders that were open at the marking are gone
//! use again         a slot whose removal all readers and appenders of that time have outlived
//! ```
//!
//! Nothing waits for a reader or an appender: what cannot be done yet is left for the next round.

use std::sync::atomic::Ordering;
use std::time::Duration;

use roaring::RoaringBitmap;
use xxhash_rust::xxh64::xxh64;

use super::holds::Site;
use super::page_labels::TakenPairs;
use super::series::Series;
use super::series_map::Shard;
use super::{Head, SeriesRef};
use crate::model::METRIC_NAME;
use crate::wal::Log;

/// Series that were marked when the clock of readers and appenders stood at `stamp`.
#[derive(Debug)]
pub(super) struct Marked {
    stamp: u64,
    ids: Vec<u32>,
}

impl Marked {
    /// Whether it is about this series.
    pub(super) fn has(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }
}

/// Forgets earlier marks of series that have just been marked anew, both ascending. Somebody had appended to them in
/// between, and may not have committed yet: it is the appenders that are open now who must be gone first.
pub(super) fn unmark(marked: &mut [Marked], anew: &[u32]) {
    for earlier in marked {
        earlier.ids.retain(|id| anew.binary_search(id).is_err());
    }
}

/// A series that is not in its slot any more.
struct Vacated {
    reference: SeriesRef,
    /// Its number in the log.
    number: u64,
    newest: i64,
}

/// What a round of collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Chunks that were dropped.
    pub chunks: u64,
    /// Series that were removed.
    pub series: u64,
    /// Series that will be removed by a later round, unless somebody appends to them: an appender that is open may be
    /// about to.
    pub series_marked: u64,
}

impl Head {
    /// Makes sure that no sample before `t` is appended any more: appenders that are open lose such samples at their
    /// commit, and commits under way are waited for. Call it before a block up to `t` is cut.
    pub fn raise_floor(&self, t: i64) {
        self.floor.fetch_max(t, Ordering::AcqRel);
        // A commit that began before and has not read the new floor yet is being applied.
        self.wait_for_applying();
    }

    /// Waits for the commits that are being applied: memory work alone.
    pub(crate) fn wait_for_applying(&self) {
        let last = self.isolation.last_commit();
        let waiter = self.env.executor.waiter();
        while !self.isolation.commits_passed(last) {
            waiter.wait(Duration::from_millis(1));
        }
    }

    /// Drops the chunks that end before `t` and the series that have none left, in memory; readers that open from now on
    /// see nothing before `t`. Call it when blocks have it all.
    pub fn truncate_memory(&self, t: i64) -> Collected {
        self.raise_floor(t);
        self.truncated.fetch_max(t, Ordering::AcqRel);
        self.collect()
    }

    /// Of what was before `t` all that blocks do not have was deleted. No block says so at the next opening, and the log
    /// says it of each sample; a snapshot of the head, which has none of them, must say it too.
    pub(crate) fn is_emptied_before(&self, t: i64) {
        self.floor.fetch_max(t, Ordering::AcqRel);
        self.emptied.fetch_max(t, Ordering::AcqRel);
    }

    /// Whether readers are gone for which [`collect`](Head::collect) left something.
    pub(crate) fn can_collect(&self) -> bool {
        let truncated = self.truncated.load(Ordering::Acquire);
        self.isolation.oldest_read(truncated) > self.collected_to.load(Ordering::Acquire)
    }

    /// Drops what [`truncate_memory`](Head::truncate_memory) left because somebody could still see it.
    pub fn collect(&self) -> Collected {
        let mut marked = self.marked.lock();
        let mut collected = self.remove_marked(&mut marked);
        let truncated = self.truncated.load(Ordering::Acquire);
        let t = self.isolation.oldest_read(truncated);
        self.collected_to.store(t, Ordering::Release);
        // A series without samples whose record could not be written: who tries again would create it again, and owe another.
        let owes = self.log.as_ref().is_some_and(Log::owes_series);
        let (mut oldest, mut ids) = (i64::MAX, Vec::new());
        let mut first_file = self.next_chunk_file();
        // What a commit adds behind the loop's back is noted.
        self.covered_from.store(i64::MAX, Ordering::Release);
        for id in 0..self.slots.end() {
            let Some(series) = self.slots.get(id) else { continue };
            let mut state = series.lock();
            if state.labels().is_empty() {
                continue;
            }
            collected.chunks += state.drop_before(&series, t) as u64;
            first_file = first_file.min(state.first_file().unwrap_or(u32::MAX));
            match state.oldest() {
                Some(first) => oldest = oldest.min(first),
                None if !owes && series.tag() & 1 == 0 && !self.out_of_order.has(id) => {
                    series.mark_dying(&mut state);
                    ids.push(id);
                }
                None => {}
            }
        }
        self.counters.chunks.fetch_sub(collected.chunks, Ordering::Relaxed);
        if collected.chunks > 0 {
            self.truncate_chunk_files(first_file.min(self.out_of_order.first_file()));
        }
        self.tombstones.drop_before(t, self.holds());
        // Nobody can append what they would refuse.
        self.map.forget_ended(truncated, self.holds());
        if truncated > i64::MIN {
            self.set_min_time(oldest, truncated);
        }
        unmark(&mut marked, &ids);
        marked.push(Marked { stamp: self.isolation.stamp(), ids });
        let removed = self.remove_marked(&mut marked);
        drop(marked);
        collected.series += removed.series;
        collected.series_marked = removed.series_marked;
        if collected.series > 0 {
            self.metadata.retain(|name| self.labels.has(METRIC_NAME, name));
        }
        self.labels.forget_outdated();
        collected
    }

    /// After a truncation to `truncated` the oldest sample is at `oldest`; a commit may add to it meanwhile.
    fn set_min_time(&self, oldest: i64, truncated: i64) {
        let before = self.min_time.load(Ordering::Acquire);
        if before < truncated {
            let now = if oldest == i64::MAX { truncated } else { oldest.max(truncated) };
            let _ = self.min_time.compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire);
            // An older one may have come since it was looked for. Its commit found a time that was older still, unless it
            // comes after this: then it finds the new one.
            self.min_time.fetch_min(self.covered_from.load(Ordering::Acquire), Ordering::AcqRel);
            self.max_time.fetch_max(truncated, Ordering::AcqRel);
        }
    }

    /// Removes series with all they have: for replay, where nobody else is.
    pub(super) fn evict(&self, evicted: &[SeriesRef]) {
        let mut ids = Vec::with_capacity(evicted.len());
        for reference in evicted {
            if let Some(series) = self.known(*reference) {
                let mut state = series.lock();
                let chunks = state.drop_before(&series, i64::MAX);
                self.counters.chunks.fetch_sub(chunks as u64, Ordering::Relaxed);
                series.mark_dying(&mut state);
                ids.push(reference.id());
            }
        }
        self.remove_series(&ids);
    }

    fn remove_marked(&self, marked: &mut Vec<Marked>) -> Collected {
        let mut collected = Collected::default();
        marked.retain(|Marked { stamp, ids }| {
            let passed = self.isolation.appenders_passed(*stamp);
            if passed {
                collected.series += self.remove_series(ids);
            } else {
                collected.series_marked += ids.len() as u64;
            }
            !passed && !ids.is_empty()
        });
        collected
    }

    /// Removes those of `ids` that are still marked and empty.
    fn remove_series(&self, ids: &[u32]) -> u64 {
        /// Looking at as many entries of the map costs as much as finding one.
        const A_LOOK_UP: u64 = 16;
        if ids.len() as u64 * A_LOOK_UP < self.series_count() {
            return self.remove_series_of(ids, |_, _, _, _| {});
        }
        let dead = self.take_out(ids, |id, series, pairs| self.vacate(id, series, pairs));
        // Until then entries lead to slots without labels, which are not used again: who comes that way creates a series.
        self.map.remove_all(&dead, self.holds());
        self.give_back(&dead)
    }

    /// As [`remove_series`](Self::remove_series), and tells of each series that goes the hash of its labels, its number in
    /// the log and its newest sample, while nobody can create it again: the locked shard of the map is there, too.
    pub(super) fn remove_series_of(&self, ids: &[u32], mut gone_too: impl FnMut(&mut Shard, u64, u64, i64)) -> u64 {
        let mut buffer = Vec::new();
        let dead = self.take_out(ids, |id, series, pairs| {
            // The shard is locked before the series, here as in a creation.
            series.lock().labels().pack_into(&mut buffer);
            let hash = xxh64(&buffer, 0);
            let mut shard = self.map.shard(hash);
            let _hold = self.holds().begin(Site::SeriesRemoved);
            let vacated = self.vacate(id, series, pairs)?;
            shard.remove(hash, id);
            gone_too(&mut shard, hash, vacated.number, vacated.newest);
            Some(vacated)
        });
        self.give_back(&dead)
    }

    /// Empties the slot of a series that is still marked and empty; its pairs go to `pairs`.
    fn vacate(&self, id: u32, series: &Series<'_>, pairs: &mut TakenPairs) -> Option<Vacated> {
        let mut state = series.lock();
        let is_empty = state.is_empty() && !self.out_of_order.has(id);
        if series.tag() & 1 == 0 || !is_empty || state.labels().is_empty() {
            return None;
        }
        let reference = SeriesRef::new(id, series.tag() & !1);
        let vacated = Vacated { reference, number: series.reference(), newest: series.newest() };
        series.vacate(&mut state, pairs);
        Some(vacated)
    }

    /// Empties slots with `vacate`, and takes what was in them out of everything but the map; those that were emptied.
    fn take_out(
        &self,
        ids: &[u32],
        mut vacate: impl FnMut(u32, &Series<'_>, &mut TakenPairs) -> Option<Vacated>,
    ) -> RoaringBitmap {
        /// At a time: bounds the memory that a removal takes, and how long postings are locked for it.
        const BATCH: usize = 1 << 16;
        let mut all = RoaringBitmap::new();
        for ids in ids.chunks(BATCH) {
            let mut dead = RoaringBitmap::new();
            let mut pairs = TakenPairs::default();
            let mut numbers = Vec::with_capacity(ids.len());
            let mut gone = Vec::with_capacity(ids.len());
            for &id in ids {
                let Some(series) = self.slots.get(id) else { continue };
                if let Some(Vacated { reference, number, newest }) = vacate(id, &series, &mut pairs) {
                    numbers.push((number, newest));
                    gone.push(reference);
                    dead.insert(id);
                }
            }
            // Series that go together are mostly neighbours: of runs, runs are taken away.
            dead.optimize();
            self.labels.remove(&dead, &pairs.into_distinct());
            self.tombstones.remove(&dead, self.holds());
            self.exemplars.forget(&gone, self.holds());
            self.forget_numbers(&numbers);
            all |= dead;
        }
        all
    }

    /// Lets slots be used again that nothing leads to any more; how many.
    fn give_back(&self, dead: &RoaringBitmap) -> u64 {
        // The lowest is used first.
        self.slots.give_back(dead.iter().rev().collect(), self.isolation.stamp());
        self.counters.series.fetch_sub(dead.len(), Ordering::AcqRel);
        self.counters.series_removed.fetch_add(dead.len(), Ordering::Relaxed);
        dead.len()
    }

    /// Remembers that records of these series, by number and newest sample, may stand in the log up to the segment that is
    /// written to: their series records must stay as long.
    fn forget_numbers(&self, numbers: &[(u64, i64)]) {
        if let Some(log) = &self.log {
            let (segment, _) = log.position();
            self.gone.lock().extend(segment, numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HeadOptions;
    use super::*;
    use crate::fs::Env;
    use crate::model::Labels;

    #[test]
    fn what_a_commit_adds_while_the_oldest_sample_is_looked_for_is_the_oldest() {
        let head = Head::without_log(&Env::real(), HeadOptions { future_bound: None, ..HeadOptions::default() });
        let append = |n: &str, t: i64| {
            let mut appender = head.appender();
            appender.append(None, &Labels::from_pairs([("n", n)]), t, 1.0).unwrap();
            appender.commit().unwrap();
        };
        append("0", 1000);
        append("1", 9000);
        head.raise_floor(5000);
        // As if each slot had been looked at when it came.
        head.covered_from.store(i64::MAX, Ordering::Release);
        append("2", 6000);
        head.set_min_time(9000, 5000);
        assert_eq!(head.min_time(), Some(6000));
    }
}
