//! What the head holds, for status pages and metrics.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Head;
use crate::codec::FixedMap;
use crate::model::METRIC_NAME;

/// Counts and sizes of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadStats {
    /// Series in memory.
    pub series: u64,
    /// Series created so far.
    pub series_created: u64,
    /// Series removed so far.
    pub series_removed: u64,
    /// Chunks in memory, the open ones included.
    pub chunks: u64,
    /// Samples appended so far.
    pub samples: u64,
    /// Samples that were accepted and then lost to another commit.
    pub samples_lost: u64,
    /// Samples taken out of order so far.
    pub out_of_order: u64,
    /// Series that have samples out of order which are not in a block yet.
    pub out_of_order_series: u64,
    /// Exemplars in memory.
    pub exemplars: u64,
    /// Distinct label pairs.
    pub label_pairs: u64,
    /// The oldest sample's time.
    pub min_time: Option<i64>,
    /// The newest sample's time.
    pub max_time: Option<i64>,
    /// Bytes of memory that all of it takes, by adding up what was allocated.
    pub bytes: u64,
    /// The longest time so far that collection, deletion or the upkeep of the label index held a lock which an append or
    /// a query may wait for. It includes the time in which the thread had no processor.
    pub longest_hold: Duration,
    /// What that was for; "" as long as there was nothing.
    pub longest_hold_for: &'static str,
    /// The longest processor time that such work took while it held a lock. Work that is short whatever the head holds is
    /// not counted; zero where the system does not say.
    pub longest_work: Duration,
    /// What that was for; "" as long as there was nothing.
    pub longest_work_for: &'static str,
}

/// The names and pairs that cost the most: Prometheus's `status/tsdb`. Each list descends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cardinality {
    /// Metrics by their series.
    pub series_by_metric: Vec<(String, u64)>,
    /// Label names by their values.
    pub values_by_label: Vec<(String, u64)>,
    /// Label names by the bytes of all their values, each counted as often as a series has it.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Label pairs, as `name=value`, by their series.
    pub series_by_pair: Vec<(String, u64)>,
    /// Distinct label pairs in all.
    pub label_pairs: u64,
}

/// The largest of a stream of counted names.
struct Top {
    limit: usize,
    heap: BinaryHeap<Reverse<(u64, Reverse<String>)>>,
}

impl Top {
    fn new(limit: usize) -> Self {
        Self { limit, heap: BinaryHeap::new() }
    }

    fn push(&mut self, count: u64, name: impl FnOnce() -> String) {
        if self.heap.len() == self.limit && self.heap.peek().is_none_or(|Reverse((least, _))| count < *least) {
            return;
        }
        self.heap.push(Reverse((count, Reverse(name()))));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    fn into_list(self) -> Vec<(String, u64)> {
        let entries = self.heap.into_sorted_vec().into_iter();
        entries.map(|Reverse((count, Reverse(name)))| (name, count)).collect()
    }
}

impl Head {
    /// Counts and sizes. Looks at every series for the bytes: seconds for tens of millions of them.
    #[must_use]
    pub fn stats(&self) -> HeadStats {
        let (label_bytes, label_pairs) = self.labels.memory();
        let mut bytes = label_bytes + self.slots.bytes() + self.map.bytes() + self.out_of_order.heap_bytes();
        self.slots.for_each_page(|shared| bytes += shared.heap_bytes());
        for id in 0..self.slots.end() {
            bytes += self.slots.get(id).map_or(0, |series| series.lock().heap_bytes());
        }
        HeadStats { label_pairs: label_pairs as u64, bytes: bytes as u64, ..self.counts() }
    }

    /// [`stats`](Head::stats) without label pairs and bytes, which are 0: what costs nothing to ask for at every scrape.
    #[must_use]
    pub fn counts(&self) -> HeadStats {
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (longest_hold, longest_hold_for) = self.holds().longest();
        let (longest_work, longest_work_for) = self.holds().longest_work();
        HeadStats {
            series: counter(&self.counters.series),
            series_created: counter(&self.counters.series_created),
            series_removed: counter(&self.counters.series_removed),
            chunks: counter(&self.counters.chunks),
            samples: counter(&self.counters.samples),
            samples_lost: counter(&self.counters.samples_lost),
            out_of_order: self.out_of_order.samples(),
            out_of_order_series: self.out_of_order.series(),
            exemplars: self.exemplars.len() as u64,
            label_pairs: 0,
            min_time: self.min_time(),
            max_time: self.max_time(),
            bytes: 0,
            longest_hold,
            longest_hold_for,
            longest_work,
            longest_work_for,
        }
    }

    /// The `limit` costliest of everything.
    #[must_use]
    pub fn cardinality(self: &Arc<Self>, limit: usize) -> Cardinality {
        let mut metrics = Top::new(limit);
        let mut pairs = Top::new(limit);
        let mut names: FixedMap<String, (u64, u64)> = FixedMap::default();
        let mut label_pairs = 0;
        self.labels.for_each_pair(|name, value, series| {
            label_pairs += 1;
            if name == METRIC_NAME {
                metrics.push(series, || value.to_owned());
            }
            pairs.push(series, || format!("{name}={value}"));
            let (values, bytes) = names.entry_ref(name).or_default();
            *values += 1;
            *bytes += value.len() as u64 * series;
        });
        let (mut values_by_label, mut bytes_by_label) = (Top::new(limit), Top::new(limit));
        for (name, (values, bytes)) in names {
            values_by_label.push(values, || name.clone());
            bytes_by_label.push(bytes, || name.clone());
        }
        Cardinality {
            series_by_metric: metrics.into_list(),
            values_by_label: values_by_label.into_list(),
            bytes_by_label: bytes_by_label.into_list(),
            series_by_pair: pairs.into_list(),
            label_pairs,
        }
    }
}
