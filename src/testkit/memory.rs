//! Series held in memory, as a source: for tests of whatever reads.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::{ChunkError, ChunkWriter, Rules, WrittenChunk};
use crate::error::Result;
use crate::model::{Labels, Matcher, Sample, TimeRange, Value, is_stale};
use crate::query::{ChunkData, SelectRequest, Series, SeriesChunk, SeriesSet, Source};

/// Series and their samples. What is read from it are chunks like a database's, cut as a database cuts them.
#[derive(Debug, Default)]
pub struct MemorySource {
    series: BTreeMap<Labels, BTreeMap<i64, Sample>>,
}

impl MemorySource {
    /// A source without series.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample, unless the series has one at that time: the first write wins. Answers whether it was added. As in
    /// a database, the stale marker behind a histogram becomes one of a histogram.
    pub fn push(&mut self, labels: &Labels, mut sample: Sample) -> bool {
        if !self.series.contains_key(labels) {
            self.series.insert(labels.clone(), BTreeMap::new());
        }
        let Some(samples) = self.series.get_mut(labels) else { return false };
        if let Value::Float(value) = sample.value
            && is_stale(value)
            && let Some((_, before)) = samples.range(..sample.t).next_back()
        {
            match &before.value {
                Value::Float(_) => {}
                Value::Histogram(_) => {
                    sample.value =
                        Value::Histogram(Box::new(crate::model::Histogram { sum: value, ..Default::default() }));
                }
                Value::FloatHistogram(_) => {
                    let stale = crate::model::FloatHistogram { sum: value, ..Default::default() };
                    sample.value = Value::FloatHistogram(Box::new(stale));
                }
            }
        }
        match samples.entry(sample.t) {
            Entry::Vacant(entry) => {
                entry.insert(sample);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Forgets all series.
    pub fn clear(&mut self) {
        self.series.clear();
    }

    fn matching<'a>(&'a self, range: TimeRange, matchers: &'a [Matcher]) -> impl Iterator<Item = &'a Labels> {
        let wanted = move |labels: &Labels| {
            matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
        };
        self.series
            .iter()
            .filter(move |(labels, samples)| wanted(labels) && samples.range(range.min..=range.max).next().is_some())
            .map(|(labels, _)| labels)
    }
}

impl Source for MemorySource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        let limit = if request.hints.limit == 0 { usize::MAX } else { request.hints.limit };
        let mut found = Vec::new();
        for labels in self.matching(request.range, request.matchers).take(limit) {
            let samples = self.series.get(labels).into_iter().flat_map(BTreeMap::values);
            let chunks = if request.hints.labels_only { Vec::new() } else { chunks(samples)? };
            found.push(Series { labels: labels.clone(), chunks });
        }
        Ok(Box::new(Found(found.into_iter())))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let matching = self.matching(request.range, request.matchers);
        let names: BTreeSet<&str> = matching.flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        Ok(request.hints.first_of(names.into_iter().map(str::to_owned).collect()))
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let matching = self.matching(request.range, request.matchers);
        let values: BTreeSet<&str> = matching.filter_map(|labels| labels.get(name)).collect();
        Ok(request.hints.first_of(values.into_iter().map(str::to_owned).collect()))
    }
}

fn chunks<'a>(samples: impl Iterator<Item = &'a Sample>) -> Result<Vec<SeriesChunk>, ChunkError> {
    let mut writer = ChunkWriter::new(Rules::Merge);
    let mut chunks = Vec::new();
    let mut keep = |written: Option<WrittenChunk>| {
        chunks.extend(written.map(|written| {
            let range = TimeRange::new(written.min_time, written.max_time);
            SeriesChunk::new(range, ChunkData::Ready(written.chunk))
        }));
    };
    for sample in samples {
        keep(writer.push(sample)?);
    }
    keep(writer.finish());
    Ok(chunks)
}

struct Found(std::vec::IntoIter<Series>);

impl SeriesSet for Found {
    fn next(&mut self) -> Result<Option<Series>> {
        Ok(self.0.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::chunk::Encoding;
    use crate::model::STALE_NAN_BITS;

    fn encodings(source: &MemorySource) -> Vec<Encoding> {
        let budget = Budget::unlimited();
        let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
        let series = set.next().unwrap().unwrap();
        series.chunks.iter().map(|chunk| chunk.data.load().unwrap().encoding).collect()
    }

    #[test]
    fn the_first_sample_at_a_time_stays() {
        let mut source = MemorySource::new();
        let labels = Labels::from_pairs([("a", "1")]);
        assert!(source.push(&labels, Sample::float(1, 1.0)));
        assert!(!source.push(&labels, Sample::float(1, 2.0)));
    }

    #[test]
    fn a_stale_marker_behind_a_histogram_is_a_histograms() {
        let mut source = MemorySource::new();
        let labels = Labels::from_pairs([("a", "1")]);
        source.push(&labels, Sample::float(0, 1.0));
        let value = Value::FloatHistogram(Box::default());
        source.push(&labels, Sample { t: 1, st: 0, value });
        source.push(&labels, Sample::float(2, f64::from_bits(STALE_NAN_BITS)));
        assert_eq!(encodings(&source), [Encoding::Xor, Encoding::FloatHistogram]);
    }
}
