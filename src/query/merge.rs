//! Several sources as one: series merged in label order, their chunks one list in order of precedence.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{SelectRequest, Series, SeriesChunk, SeriesSet, Source};
use crate::error::Result;
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};

/// Several sources as one. The order is that of precedence: where two have a sample of the same series and time, the
/// one of the earlier source is seen.
#[derive(Clone)]
pub struct Merged {
    sources: Vec<Arc<dyn Source>>,
}

impl Merged {
    /// A source of `sources`, in order of precedence.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Self { sources }
    }
}

impl Source for Merged {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        // All are planned before the first is asked for a series, so that those behind a network work side by side.
        let sets = self.sources.iter().map(|source| source.select(request)).collect::<Result<Vec<_>>>()?;
        // Each gives as many as are asked for; of those behind, one that another source has too might come without its chunks.
        Ok(merge_at_most(sets, request.hints.limit))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let lists = self.sources.iter().map(|source| source.label_names(request));
        Ok(request.hints.first_of(merge_sorted_strings(lists.collect::<Result<_>>()?)))
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let lists = self.sources.iter().map(|source| source.label_values(name, request));
        Ok(request.hints.first_of(merge_sorted_strings(lists.collect::<Result<_>>()?)))
    }

    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut all: Vec<(Labels, Vec<Exemplar>)> = Vec::new();
        for source in &self.sources {
            all.extend(source.exemplars(range, matchers)?);
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<(Labels, Vec<Exemplar>)> = Vec::new();
        for (labels, exemplars) in all {
            match merged.last_mut() {
                Some((last, list)) if *last == labels => {
                    list.extend(exemplars);
                    list.sort_by_key(|exemplar| exemplar.t);
                    list.dedup();
                }
                _ => merged.push((labels, exemplars)),
            }
        }
        Ok(merged)
    }

    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        let mut all = Vec::new();
        for source in &self.sources {
            all.extend(source.metadata(metric)?);
        }
        // Stable: of one metric, what the source of higher precedence says comes first.
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup();
        Ok(all)
    }
}

/// Merges sets in label order; chunks of series that several have are concatenated in the order of `sets`.
#[must_use]
pub fn merge_sets(sets: Vec<Box<dyn SeriesSet>>) -> Box<dyn SeriesSet> {
    merge_at_most(sets, 0)
}

/// As [`merge_sets`], the first `limit` series; 0 is no limit. Each set must give that many of its own, if it has them: of those
/// behind, one may lack the chunks of a set that had reached its limit.
#[must_use]
pub fn merge_at_most(mut sets: Vec<Box<dyn SeriesSet>>, limit: usize) -> Box<dyn SeriesSet> {
    match (sets.len(), sets.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            sets.extend(last);
            let left = if limit == 0 { usize::MAX } else { limit };
            Box::new(MergedSet { sets, heap: BinaryHeap::new(), started: false, left })
        }
    }
}

/// Merges sorted lists into one, without repetitions.
#[must_use]
pub fn merge_sorted_strings(mut lists: Vec<Vec<String>>) -> Vec<String> {
    if lists.len() == 1 {
        return lists.pop().unwrap_or_default();
    }
    let mut all: Vec<String> = lists.into_iter().flatten().collect();
    // The standard sort finds the runs that are sorted already and merges them.
    all.sort();
    all.dedup();
    all
}

/// The next series of one set.
struct Head {
    series: Series,
    set: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.series.labels.cmp(&other.series.labels).then(self.set.cmp(&other.set))
    }
}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}

struct MergedSet {
    sets: Vec<Box<dyn SeriesSet>>,
    heap: BinaryHeap<Reverse<Head>>,
    started: bool,
    left: usize,
}

impl MergedSet {
    fn advance(&mut self, set: usize) -> Result<()> {
        if let Some(series) = self.sets.get_mut(set).map_or(Ok(None), |set| set.next())? {
            self.heap.push(Reverse(Head { series, set }));
        }
        Ok(())
    }
}

impl SeriesSet for MergedSet {
    fn next(&mut self) -> Result<Option<Series>> {
        if self.left == 0 {
            return Ok(None);
        }
        if !self.started {
            self.started = true;
            for set in 0..self.sets.len() {
                self.advance(set)?;
            }
        }
        let Some(Reverse(Head { mut series, set })) = self.heap.pop() else { return Ok(None) };
        self.advance(set)?;
        while self.heap.peek().is_some_and(|Reverse(next)| next.series.labels == series.labels) {
            let Some(Reverse(next)) = self.heap.pop() else { break };
            let sources = series.chunks.iter().map(|chunk| chunk.source + 1).max().unwrap_or(0);
            let chunks = next.series.chunks.into_iter();
            series.chunks.extend(chunks.map(|chunk| SeriesChunk { source: chunk.source + sources, ..chunk }));
            self.advance(next.set)?;
        }
        self.left -= 1;
        Ok(Some(series))
    }

    fn warnings(&mut self) -> Vec<String> {
        self.sets.iter_mut().flat_map(|set| set.warnings()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::XorAppender;
    use crate::query::{ChunkData, SeriesDecoder};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    struct List(std::vec::IntoIter<Series>);
    impl SeriesSet for List {
        fn next(&mut self) -> Result<Option<Series>> {
            Ok(self.0.next())
        }
    }

    fn chunk(samples: &BTreeMap<i64, f64>) -> Option<SeriesChunk> {
        let mut appender = XorAppender::new();
        for (&t, &v) in samples {
            appender.append(t, v).unwrap();
        }
        let range = TimeRange::new(*samples.keys().next()?, *samples.keys().last()?);
        Some(SeriesChunk::new(range, ChunkData::Ready(appender.take())))
    }

    fn set(series: &BTreeMap<u8, BTreeMap<i64, f64>>) -> Box<dyn SeriesSet> {
        let list = series.iter().map(|(name, samples)| Series {
            labels: Labels::from_pairs([("n", name.to_string())]),
            chunks: chunk(samples).into_iter().collect(),
        });
        Box::new(List(list.collect::<Vec<_>>().into_iter()))
    }

    /// The first series of a list.
    struct Limited(BTreeMap<u8, BTreeMap<i64, f64>>);
    impl Source for Limited {
        fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
            Ok(set(&self.0.clone().into_iter().take(request.hints.limit).collect()))
        }
        fn label_names(&self, _: &SelectRequest<'_>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn label_values(&self, _: &str, _: &SelectRequest<'_>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn as_many_series_as_are_asked_for_come_each_with_the_chunks_of_all_sources() {
        let list = |names: [u8; 3]| Limited(names.map(|name| (name, BTreeMap::from([(1, 1.0)]))).into());
        let merged = Merged::new(vec![Arc::new(list([1, 2, 5])), Arc::new(list([3, 4, 5])), Arc::new(list([1, 3, 4]))]);
        let budget = crate::budget::Budget::unlimited();
        let mut request = SelectRequest::new(TimeRange::ALL, &[], &budget);
        request.hints.limit = 3;
        let mut set = merged.select(&request).unwrap();
        let found: Vec<_> = std::iter::from_fn(|| set.next().unwrap())
            .map(|series| (series.labels.get("n").unwrap().to_owned(), series.chunks.len()))
            .collect();
        assert_eq!(found, [("1".to_owned(), 2), ("2".to_owned(), 1), ("3".to_owned(), 2)]);
    }

    proptest! {
        #[test]
        fn the_earlier_source_wins_and_nothing_else_is_lost(
            sources in prop::collection::vec(
                prop::collection::btree_map(0u8..5, prop::collection::btree_map(0i64..60, -9.0f64..9.0, 0..8), 0..4), 0..4),
            min in -5i64..40, width in 0i64..60,
        ) {
            let range = TimeRange::new(min, min + width);
            let mut model: BTreeMap<u8, BTreeMap<i64, f64>> = BTreeMap::new();
            for source in &sources {
                for (name, samples) in source {
                    let merged = model.entry(*name).or_default();
                    for (&t, &v) in samples {
                        merged.entry(t).or_insert(v);
                    }
                }
            }
            let mut merged = merge_sets(sources.iter().map(set).collect());
            let mut decoder = SeriesDecoder::new();
            let mut found = Vec::new();
            while let Some(series) = merged.next().unwrap() {
                let columns = decoder.decode(&series.chunks, range).unwrap();
                let samples: Vec<_> = columns.t.iter().copied().zip(columns.v.iter().copied()).collect();
                found.push((series.labels.get("n").unwrap().parse::<u8>().unwrap(), samples));
            }
            let expected: Vec<_> = model
                .into_iter()
                .map(|(name, samples)| (name, samples.into_iter().filter(|(t, _)| range.contains(*t)).collect::<Vec<_>>()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn hidden_and_deleted_samples_are_not_decoded() {
        let mut chunk = chunk(&(0..10).map(|t| (t, t as f64)).collect()).unwrap();
        chunk.visible = TimeRange::new(0, 7);
        chunk.deleted = Some(Arc::from([TimeRange::new(2, 3), TimeRange::new(5, 5)]));
        let mut decoder = SeriesDecoder::new();
        assert_eq!(decoder.decode(&[chunk], TimeRange::new(1, 9)).unwrap().t, [1, 4, 6, 7]);
    }
}
