//! A source whose series all get the same labels: a replica's name, a cluster's. Thanos calls them external labels.
//!
//! They stand over what a series has of the same name, so two series can become one. And they can change the order. Of
//! two sets that differ in a pair both get the same pairs at the same places, so the order stays. But a set that is the
//! beginning of another comes first, and no longer does when a label is added behind it that belongs behind the other's
//! next one:
//!
//! ```text
//! {a="1"}          {a="1", z="x"}             with z="x", the second
//! {a="1", b="2"}   {a="1", b="2", z="x"}      comes first: b < z
//! ```
//!
//! So a series waits while those that follow are longer and the name that they have more sorts before the last external
//! one. Those are few, and none is held longer than that. Only a source some of whose series have a label of an external
//! name needs a sort.

use super::{SelectRequest, Series, SeriesChunk, SeriesSet, Source, merge_sets};
use crate::error::Result;
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};

/// A source with labels added to every series. Matchers see them too.
#[derive(Debug, Clone)]
pub struct WithLabels<S> {
    source: S,
    labels: Labels,
}

impl<S: Source> WithLabels<S> {
    /// `source` with `labels` added to its series. They replace a series' own labels of the same names.
    #[must_use]
    pub fn new(source: S, labels: Labels) -> Self {
        Self { source, labels }
    }

    /// Whether a series may have a label that is replaced.
    fn has_own(&self, request: &SelectRequest<'_>) -> Result<bool> {
        let names = self.source.label_names(&SelectRequest::labels_only(request.range, &[], request.budget))?;
        Ok(self.labels.iter().any(|(name, _)| names.binary_search_by(|own| own.as_str().cmp(name)).is_ok()))
    }

    /// Whether any series passes.
    fn has_any(&self, request: &SelectRequest<'_>) -> Result<bool> {
        let mut first = SelectRequest::labels_only(request.range, request.matchers, request.budget);
        first.hints.limit = 1;
        if first.matchers.is_empty() {
            // Cheaper than to choose one of all.
            return Ok(!self.source.label_names(&first)?.is_empty());
        }
        Ok(self.source.select(&first)?.next()?.is_some())
    }
}

impl<S: Source> Source for WithLabels<S> {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        if self.labels.is_empty() {
            return self.source.select(request);
        }
        let Some(matchers) = strip_matchers(&self.labels, request.matchers) else { return Ok(merge_sets(Vec::new())) };
        let mut request = SelectRequest { matchers: &matchers, ..*request };
        if !self.has_own(&request)? {
            let set = self.source.select(&request)?;
            // A series that was created meanwhile may have such a label, and the set may have it.
            if !self.has_own(&request)? {
                return Ok(add_labels(set, &self.labels));
            }
        }
        // Two of what the source counts can be one here.
        let limit = std::mem::take(&mut request.hints.limit);
        Ok(replace_labels(self.source.select(&request)?, &self.labels, limit))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let Some(matchers) = strip_matchers(&self.labels, request.matchers) else { return Ok(Vec::new()) };
        let mut names = self.source.label_names(&SelectRequest { matchers: &matchers, ..*request })?;
        if !names.is_empty() {
            names.extend(self.labels.iter().map(|(name, _)| name.to_owned()));
            names.sort();
            names.dedup();
        }
        Ok(request.hints.first_of(names))
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let Some(matchers) = strip_matchers(&self.labels, request.matchers) else { return Ok(Vec::new()) };
        let request = SelectRequest { matchers: &matchers, ..*request };
        match self.labels.get(name) {
            None => self.source.label_values(name, &request),
            Some(value) if self.has_any(&request)? => Ok(vec![value.to_owned()]),
            Some(_) => Ok(Vec::new()),
        }
    }

    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let lists: Vec<Vec<Matcher>> = matchers.iter().filter_map(|list| strip_matchers(&self.labels, list)).collect();
        if lists.is_empty() {
            return Ok(Vec::new());
        }
        let lists: Vec<&[Matcher]> = lists.iter().map(Vec::as_slice).collect();
        let mut found = self.source.exemplars(range, &lists)?;
        for (labels, _) in &mut found {
            *labels = labels.with(&self.labels);
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut merged: Vec<(Labels, Vec<Exemplar>)> = Vec::with_capacity(found.len());
        for (labels, exemplars) in found {
            match merged.last_mut() {
                Some((last, list)) if *last == labels => {
                    list.extend(exemplars);
                    list.sort_by_key(|exemplar| exemplar.t);
                }
                _ => merged.push((labels, exemplars)),
            }
        }
        Ok(merged)
    }

    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        self.source.metadata(metric)
    }
}

/// What `matchers` ask of a series' own labels when `labels` are added to it; none if a matcher refuses one of those.
#[must_use]
pub fn strip_matchers(labels: &Labels, matchers: &[Matcher]) -> Option<Vec<Matcher>> {
    let mut rest = Vec::with_capacity(matchers.len());
    for matcher in matchers {
        match labels.get(matcher.name()) {
            Some(value) if !matcher.matches(value) => return None,
            Some(_) => {}
            None => rest.push(matcher.clone()),
        }
    }
    Some(rest)
}

/// The series of `set`, none of which has a label of one of these names, with `labels` added. They are given as they
/// come, but for those that change places.
#[must_use]
pub fn add_labels(set: Box<dyn SeriesSet>, labels: &Labels) -> Box<dyn SeriesSet> {
    let last = labels.iter().last().map_or_else(String::new, |(name, _)| name.to_owned());
    Box::new(Streamed { set, labels: labels.clone(), last, waiting: Vec::new(), next: None })
}

/// The series of `set` with `labels` in place of what they have of the same names; the first `limit` of them, or all if
/// it is 0. All are read before the first is given.
#[must_use]
pub fn replace_labels(set: Box<dyn SeriesSet>, labels: &Labels, limit: usize) -> Box<dyn SeriesSet> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    Box::new(Sorted { set, labels: labels.clone(), limit, sorted: None })
}

/// Series none of which has a label of an external name.
struct Streamed {
    set: Box<dyn SeriesSet>,
    labels: Labels,
    /// The external name that sorts last.
    last: String,
    /// Each is the beginning of the one behind it, which comes first with the labels added.
    waiting: Vec<Series>,
    /// Read, and not behind the waiting ones.
    next: Option<Series>,
}

impl Streamed {
    /// Whether `before`, which the source has first, comes behind `after` with the labels added.
    fn swaps(&self, before: &Labels, after: &Labels) -> bool {
        // A longer set of which this is the beginning begins with its bytes, and the next of them are a name.
        let Some(rest) = after.as_packed().strip_prefix(before.as_packed()) else { return false };
        let at = before.len();
        !rest.is_empty() && after.iter().nth(at).is_some_and(|(name, _)| name < self.last.as_str())
    }
}

impl SeriesSet for Streamed {
    fn next(&mut self) -> Result<Option<Series>> {
        loop {
            if self.next.is_none() {
                self.next = self.set.next()?;
            }
            let series = match (self.waiting.last(), &self.next) {
                (Some(last), Some(next)) if !self.swaps(&last.labels, &next.labels) => self.waiting.pop(),
                (_, None) => self.waiting.pop(),
                (_, Some(_)) => {
                    self.waiting.extend(self.next.take());
                    continue;
                }
            };
            return Ok(series.map(|series| Series { labels: series.labels.with(&self.labels), ..series }));
        }
    }

    fn warnings(&mut self) -> Vec<String> {
        self.set.warnings()
    }
}

/// Series some of which may have a label of an external name: all are read before the first is given.
struct Sorted {
    set: Box<dyn SeriesSet>,
    labels: Labels,
    limit: usize,
    sorted: Option<std::iter::Take<std::vec::IntoIter<Series>>>,
}

impl SeriesSet for Sorted {
    fn next(&mut self) -> Result<Option<Series>> {
        if self.sorted.is_none() {
            self.sorted = Some(Vec::new().into_iter().take(0));
            let mut all = Vec::new();
            while let Some(series) = self.set.next()? {
                all.push(Series { labels: series.labels.with(&self.labels), ..series });
            }
            // Stable: of series that become one, the one that the source has first wins.
            all.sort_by(|a, b| a.labels.cmp(&b.labels));
            self.sorted = Some(join_equal(all).into_iter().take(self.limit));
        }
        Ok(self.sorted.as_mut().and_then(Iterator::next))
    }

    fn warnings(&mut self) -> Vec<String> {
        self.set.warnings()
    }
}

/// Makes one of each run of equal labels.
fn join_equal(all: Vec<Series>) -> Vec<Series> {
    let mut joined: Vec<Series> = Vec::with_capacity(all.len());
    for series in all {
        match joined.last_mut() {
            Some(last) if last.labels == series.labels => {
                let sources = last.chunks.iter().map(|chunk| chunk.source + 1).max().unwrap_or(0);
                let chunks = series.chunks.into_iter();
                last.chunks.extend(chunks.map(|chunk| SeriesChunk { source: chunk.source + sources, ..chunk }));
            }
            _ => joined.push(series),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;
    use crate::model::{MatchOp, Sample};
    use crate::query::SelectHints;
    use crate::query::SeriesDecoder;
    use crate::testkit::MemorySource;

    /// A source, series by series in label order: the times of samples whose values say which series they were written to.
    type Content = BTreeMap<Labels, Vec<i64>>;

    /// Few names and values, so that sets are the beginnings of others and have labels of external names.
    fn labels(names: &'static str, most: usize) -> impl Strategy<Value = Labels> {
        prop::collection::vec((names, "[x-y]"), 0..=most).prop_map(Labels::from_pairs)
    }

    fn content() -> impl Strategy<Value = Content> {
        let series = (labels("[a-f]", 4), prop::collection::btree_set(0i64..8, 1..4));
        prop::collection::vec(series, 0..12).prop_map(|all| {
            let all = all.into_iter().filter(|(labels, _)| !labels.is_empty());
            all.map(|(labels, times)| (labels, times.into_iter().collect())).collect()
        })
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
        (op, "[a-f]", "[x-y]?").prop_map(|(op, name, value)| Matcher::new(op, name, value).unwrap())
    }

    fn source(content: &Content) -> MemorySource {
        let mut source = MemorySource::new();
        for (number, (labels, times)) in content.iter().enumerate() {
            for t in times {
                source.push(labels, Sample::float(*t, number as f64));
            }
        }
        source
    }

    /// What adding labels means: to every series, then sort and merge; of equal times the series that came first wins.
    fn model(content: &Content, external: &Labels, matchers: &[Matcher]) -> BTreeMap<Labels, BTreeMap<i64, f64>> {
        let mut all: BTreeMap<Labels, BTreeMap<i64, f64>> = BTreeMap::new();
        for (number, (labels, times)) in content.iter().enumerate() {
            let labels = Labels::from_pairs(labels.iter().chain(external));
            if matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or(""))) {
                let samples = all.entry(labels).or_default();
                for t in times {
                    samples.entry(*t).or_insert(number as f64);
                }
            }
        }
        all
    }

    fn select(source: &dyn Source, matchers: &[Matcher], limit: usize) -> Vec<(Labels, BTreeMap<i64, f64>)> {
        let budget = Budget::unlimited();
        let hints = SelectHints { limit, ..SelectHints::default() };
        let request = SelectRequest { range: TimeRange::ALL, matchers, budget: &budget, hints };
        let (mut set, mut decoder, mut found) = (source.select(&request).unwrap(), SeriesDecoder::new(), Vec::new());
        while let Some(series) = set.next().unwrap() {
            let columns = decoder.decode(&series.chunks, TimeRange::ALL).unwrap();
            let samples = columns.t.iter().copied().zip(columns.v.iter().copied()).collect();
            found.push((series.labels, samples));
        }
        found
    }

    fn every<'a>(matchers: &'a [Matcher], budget: &'a Budget) -> SelectRequest<'a> {
        SelectRequest::labels_only(TimeRange::ALL, matchers, budget)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_answers_as_a_source_that_has_the_labels(
            content in content(),
            external in labels("[a-h]", 3),
            matchers in prop::collection::vec(matcher(), 0..3),
            limit in 0usize..6,
        ) {
            let expected = model(&content, &external, &matchers);
            let with = WithLabels::new(source(&content), external);
            let found = select(&with, &matchers, 0);
            prop_assert_eq!(&found, &expected.clone().into_iter().collect::<Vec<_>>());

            let limited = select(&with, &matchers, limit);
            let count = if limit == 0 { found.len() } else { found.len().min(limit) };
            prop_assert_eq!(limited.len(), count);
            prop_assert!(limited.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert!(limited.iter().all(|(labels, samples)| expected.get(labels) == Some(samples)));

            let mut names: Vec<&str> = expected.keys().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
            names.sort_unstable();
            names.dedup();
            let own: Vec<String> = with.label_names(&every(&matchers, &Budget::unlimited())).unwrap();
            // A name that is replaced everywhere is there all the same: with the external value.
            prop_assert_eq!(own, names);
            for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                let mut values: Vec<&str> = expected.keys().filter_map(|labels| labels.get(name)).collect();
                values.sort_unstable();
                values.dedup();
                prop_assert_eq!(with.label_values(name, &every(&matchers, &Budget::unlimited())).unwrap(), values, "{}", name);
            }
        }
    }

    #[test]
    fn sets_that_begin_others_change_places() {
        let names = |all: &[(Labels, BTreeMap<i64, f64>)]| all.iter().map(|(l, _)| l.to_string()).collect::<Vec<_>>();
        let mut all = Content::new();
        for pairs in
            [&[("a", "1")][..], &[("a", "1"), ("b", "2")], &[("a", "1"), ("b", "2"), ("c", "3")], &[("a", "2")]]
        {
            all.insert(Labels::from_pairs(pairs.iter().copied()), vec![0]);
        }
        let with = WithLabels::new(source(&all), Labels::from_pairs([("z", "x")]));
        assert_eq!(
            names(&select(&with, &[], 0)),
            [r#"{a="1", b="2", c="3", z="x"}"#, r#"{a="1", b="2", z="x"}"#, r#"{a="1", z="x"}"#, r#"{a="2", z="x"}"#]
        );
    }

    #[test]
    fn a_matcher_that_refuses_an_added_label_asks_nobody() {
        struct Nobody;
        impl Source for Nobody {
            fn select(&self, _: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
                panic!("the source is asked")
            }
            fn label_names(&self, _: &SelectRequest<'_>) -> Result<Vec<String>> {
                panic!("the source is asked")
            }
            fn label_values(&self, _: &str, _: &SelectRequest<'_>) -> Result<Vec<String>> {
                panic!("the source is asked")
            }
        }
        let with = WithLabels::new(Nobody, Labels::from_pairs([("cluster", "eu")]));
        let matchers = [Matcher::new(MatchOp::Regex, "cluster", "us|ap").unwrap()];
        assert!(select(&with, &matchers, 0).is_empty());
        let budget = Budget::unlimited();
        assert!(with.label_names(&every(&matchers, &budget)).unwrap().is_empty());
        assert!(with.label_values("cluster", &every(&matchers, &budget)).unwrap().is_empty());
        assert!(with.exemplars(TimeRange::ALL, &[&matchers]).unwrap().is_empty());
    }

    #[test]
    fn exemplars_have_the_labels_and_those_of_series_that_become_one_are_in_order_of_time() {
        struct Two;
        impl Source for Two {
            fn select(&self, _: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
                Ok(merge_sets(Vec::new()))
            }
            fn label_names(&self, _: &SelectRequest<'_>) -> Result<Vec<String>> {
                Ok(Vec::new())
            }
            fn label_values(&self, _: &str, _: &SelectRequest<'_>) -> Result<Vec<String>> {
                Ok(Vec::new())
            }
            fn exemplars(&self, _: TimeRange, lists: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
                assert_eq!(lists, [&[Matcher::equal("a", "1")][..]]);
                let exemplar = |t| Exemplar { labels: Labels::from_pairs([("trace", "1")]), value: 1.0, t };
                let series = |own: &str, t| (Labels::from_pairs([("a", "1"), ("z", own)]), vec![exemplar(t)]);
                Ok(vec![series("1", 20), series("2", 10)])
            }
        }
        let with = WithLabels::new(Two, Labels::from_pairs([("z", "x")]));
        let (wanted, refused) = (
            [Matcher::equal("a", "1"), Matcher::equal("z", "x")],
            [Matcher::equal("a", "2"), Matcher::equal("z", "y")],
        );
        let found = with.exemplars(TimeRange::ALL, &[&wanted, &refused]).unwrap();
        let times: Vec<_> = found.iter().map(|(l, list)| (l.to_string(), list.iter().map(|e| e.t).collect())).collect();
        assert_eq!(times, [(r#"{a="1", z="x"}"#.to_owned(), vec![10, 20])]);
    }
}
