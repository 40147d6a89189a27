//! The model database: what a database must answer, in the plainest words, maps of maps.
//!
//! A test does to a [`ModelDb`] what it does to the database and then [compares](ModelDb::check). The model knows what was
//! *acknowledged*, which must be there, and what was *attempted* without an answer, which may be there after a crash. It
//! follows the rules that the database promises: the first write of a series and time wins, a delete takes what is there
//! and not what comes later, retention takes what is old.
//!
//! ```
//! use narthex::testkit::{ModelDb, content};
//! use narthex::{Db, Labels, Options, Sample, TimeRange};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (env, machine) = narthex::fs::Env::simulated(1);
//! let db = Db::open_with(&env, Path::new("/data"), Options::default())?;
//! let mut model = ModelDb::new();
//!
//! let (labels, now) = (Labels::from_pairs([("__name__", "up")]), env.clock.now_ms());
//! let mut appender = db.appender();
//! appender.append(None, &labels, now, 1.0)?;
//! appender.commit()?;
//! model.insert(&labels, Sample::float(now, 1.0));
//!
//! // The process is killed; what was acknowledged is there when the next one opens the directory.
//! let env = machine.kill();
//! let db = Db::open_with(&env, Path::new("/data"), Options::default())?;
//! model.check(&content(&db.source(), TimeRange::ALL, &[])?)?;
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::budget::Budget;
use crate::error::Result;
use crate::model::{CounterResetHint, Labels, Matcher, Sample, TimeRange, Value};
use crate::query::{SelectRequest, Source, series_samples};

/// Series with their samples by time: what a source answers.
pub type Content = BTreeMap<Labels, BTreeMap<i64, Sample>>;

/// In what a database differs from its model.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// A sample that was acknowledged is not there.
    #[error("lost: {labels} at {}: {}", .sample.t, Shown(.sample))]
    Missing {
        /// The series.
        labels: Labels,
        /// What was acknowledged.
        sample: Sample,
    },
    /// A sample is there that was never written, or was deleted.
    #[error("invented: {labels} at {}: {}", .sample.t, Shown(.sample))]
    Invented {
        /// The series.
        labels: Labels,
        /// What is there.
        sample: Sample,
    },
    /// Another sample than the first that was written.
    #[error("changed: {labels} at {}: {} was written first, {} is there", .wanted.t, Shown(.wanted), Shown(.found))]
    Changed {
        /// The series.
        labels: Labels,
        /// What was written first.
        wanted: Sample,
        /// What is there.
        found: Sample,
    },
    /// Label names or values are not those of the series.
    #[error("{of}: {missing:?} is missing, {invented:?} should not be there")]
    Listing {
        /// What was listed.
        of: String,
        /// Names or values of series that have samples.
        missing: Vec<String>,
        /// Names or values of no series that was ever written.
        invented: Vec<String>,
    },
    /// The database did what it had no reason for: refused what it must take, or the other way round.
    #[error("{0}")]
    Behaviour(String),
}

/// A sample without its time, in one line.
struct Shown<'a>(&'a Sample);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.value {
            _ if self.0.is_stale() => write!(out, "stale"),
            Value::Float(value) => write!(out, "{value}"),
            Value::Histogram(histogram) => write!(out, "{histogram:?}"),
            Value::FloatHistogram(histogram) => write!(out, "{histogram:?}"),
        }?;
        if self.0.st == 0 { Ok(()) } else { write!(out, ", started at {}", self.0.st) }
    }
}

/// Whether two samples say the same. Histograms are compared by their buckets, stored or not, and whether they are
/// gauges; a stale marker is one whatever its kind, as a float's becomes a histogram's behind histograms, and whatever its
/// start.
#[must_use]
pub fn same_sample(a: &Sample, b: &Sample) -> bool {
    let gauge = |hint| hint == CounterResetHint::Gauge;
    let same_value = match (&a.value, &b.value) {
        _ if a.is_stale() || b.is_stale() => a.is_stale() && b.is_stale(),
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Histogram(a), Value::Histogram(b)) => {
            let (mut x, mut y) = (a.clone(), b.clone());
            x.compact(0);
            y.compact(0);
            x.equals(&y) && gauge(a.counter_reset_hint) == gauge(b.counter_reset_hint)
        }
        (Value::FloatHistogram(a), Value::FloatHistogram(b)) => {
            let (mut x, mut y) = (a.clone(), b.clone());
            x.compact(0);
            y.compact(0);
            x.equals(&y) && gauge(a.counter_reset_hint) == gauge(b.counter_reset_hint)
        }
        _ => false,
    };
    a.t == b.t && (a.st == b.st || a.is_stale()) && same_value
}

/// Everything that `source` answers in `range` of the series that pass `matchers`; series without samples are left out.
///
/// # Errors
/// The source's; `Corrupt` if it breaks a promise of every source: series in label order, each once, each time once.
pub fn content(source: &dyn Source, range: TimeRange, matchers: &[Matcher]) -> Result<Content> {
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(range, matchers, &budget))?;
    let mut all = Content::new();
    let mut last: Option<Labels> = None;
    let broken = |what: String| crate::error::Error::new(crate::error::ErrorKind::Corrupt, what);
    while let Some(series) = set.next()? {
        if last.as_ref().is_some_and(|last| *last >= series.labels) {
            return Err(broken(format!("series {} comes after {last:?}", series.labels)));
        }
        let samples = series_samples(&series.chunks, range)?;
        if !samples.is_sorted_by(|a, b| a.t < b.t) {
            return Err(broken(format!("samples of {} are not in order of time, each once", series.labels)));
        }
        if !samples.is_empty() {
            all.insert(series.labels.clone(), samples.into_iter().map(|sample| (sample.t, sample)).collect());
        }
        last = Some(series.labels);
    }
    Ok(all)
}

/// A database as maps of maps. See the file's header.
#[derive(Debug, Clone, Default)]
pub struct ModelDb {
    /// What must be there, and nothing else.
    series: Content,
    /// Samples that retention took, and that may come back for a while: it took their blocks, or failed to.
    dropped: BTreeMap<(Labels, i64), Vec<Sample>>,
    /// Samples that must be there unless a deletion that failed half way took them.
    doubtful: BTreeSet<(Labels, i64)>,
    /// Samples of commits that failed: not there now, but perhaps when the directory is opened again.
    attempted: BTreeMap<(Labels, i64), Vec<Sample>>,
    /// Those of them that may be there already.
    half_done: BTreeMap<(Labels, i64), Vec<Sample>>,
    /// Samples of which nothing is said.
    unknown: BTreeSet<(Labels, i64)>,
    /// Every label set that was ever written.
    known: BTreeSet<Labels>,
}

impl ModelDb {
    /// One without samples.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sample was acknowledged. The first write wins: whether this was it.
    pub fn insert(&mut self, labels: &Labels, sample: Sample) -> bool {
        self.known.insert(labels.clone());
        let key = (labels.clone(), sample.t);
        self.attempted.remove(&key);
        self.half_done.remove(&key);
        let samples = self.series.entry(labels.clone()).or_default();
        let is_first = !samples.contains_key(&sample.t);
        if is_first {
            samples.insert(sample.t, sample);
        }
        is_first
    }

    /// A series was created, without a sample as yet.
    pub fn know(&mut self, labels: &Labels) {
        self.known.insert(labels.clone());
    }

    /// A commit with this sample failed: it must not be seen now, and may be there when the directory is opened again.
    pub fn attempt(&mut self, labels: &Labels, sample: Sample) {
        self.known.insert(labels.clone());
        if self.get(labels, sample.t).is_none() {
            self.attempted.entry((labels.clone(), sample.t)).or_default().push(sample);
        }
    }

    /// A commit with this sample failed half way, as one may that has samples out of order: it may be there.
    pub fn attempt_half(&mut self, labels: &Labels, sample: Sample) {
        if self.get(labels, sample.t).is_none() {
            self.half_done.entry((labels.clone(), sample.t)).or_default().push(sample.clone());
        }
        self.attempt(labels, sample);
    }

    /// Whether a commit that failed may have left a sample there, to be seen now or when the directory is opened again.
    #[must_use]
    pub fn is_attempted(&self, labels: &Labels, t: i64) -> bool {
        self.attempted.contains_key(&(labels.clone(), t))
    }

    /// Whether a commit that failed half way may have left a sample there.
    #[must_use]
    pub fn is_half_done(&self, labels: &Labels, t: i64) -> bool {
        self.half_done.contains_key(&(labels.clone(), t))
    }

    /// Deletes the samples in `range` of all series that pass `matchers`; which.
    pub fn delete(&mut self, range: TimeRange, matchers: &[Matcher]) -> Vec<(Labels, i64)> {
        let deleted = self.keys(range, matchers);
        for (labels, t) in &deleted {
            if let Some(samples) = self.series.get_mut(labels) {
                samples.remove(t);
            }
            self.doubtful.remove(&(labels.clone(), *t));
        }
        self.series.retain(|_, samples| !samples.is_empty());
        deleted
    }

    /// A deletion failed: any of the samples that it meant may be gone.
    pub fn attempt_delete(&mut self, range: TimeRange, matchers: &[Matcher]) -> Vec<(Labels, i64)> {
        let doubtful = self.keys(range, matchers);
        self.doubtful.extend(doubtful.iter().cloned());
        doubtful
    }

    /// Says nothing any more of the samples in `range` of all series that pass `matchers`: something was deleted behind a view
    /// of it, which may show that in a part of what it sees.
    pub fn forget(&mut self, range: TimeRange, matchers: &[Matcher]) {
        let forgotten = self.delete(range, matchers);
        self.unknown.extend(forgotten);
    }

    /// A sample that may be gone is gone, as somebody saw: what is written at its time from now on is the first write.
    pub fn is_gone(&mut self, labels: &Labels, t: i64) {
        let key = (labels.clone(), t);
        if self.doubtful.remove(&key)
            && let Some(sample) = self.series.get_mut(labels).and_then(|samples| samples.remove(&t))
        {
            self.dropped.entry(key).or_default().push(sample);
        }
        self.series.retain(|_, samples| !samples.is_empty());
    }

    /// Whether a sample that was acknowledged may be gone.
    #[must_use]
    pub fn is_doubtful(&self, labels: &Labels, t: i64) -> bool {
        self.doubtful.contains(&(labels.clone(), t))
    }

    /// Samples in `range` of the series that `wanted` picks may be gone from now on, as retention takes whole blocks, or
    /// whole series of them.
    pub fn may_lose(&mut self, range: TimeRange, wanted: impl Fn(&Labels) -> bool) {
        let lost = self.keys(range, &[]).into_iter().filter(|(labels, _)| wanted(labels));
        let lost: Vec<_> = lost.collect();
        self.doubtful.extend(lost);
    }

    /// The sample of a series at a time.
    #[must_use]
    pub fn get(&self, labels: &Labels, t: i64) -> Option<&Sample> {
        self.series.get(labels)?.get(&t)
    }

    /// The time of a series' newest sample; `i64::MIN` if it has none.
    #[must_use]
    pub fn newest(&self, labels: &Labels) -> i64 {
        self.series.get(labels).and_then(|samples| Some(*samples.last_key_value()?.0)).unwrap_or(i64::MIN)
    }

    /// All that must be there.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.series
    }

    /// How many samples must be there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.values().map(BTreeMap::len).sum()
    }

    /// Whether no sample must be there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The model of what a select of `range` and `matchers` answers.
    #[must_use]
    pub fn select(&self, range: TimeRange, matchers: &[Matcher]) -> Self {
        let passes = |labels: &Labels| passes(labels, matchers);
        let mut selected = Self { known: self.known.clone(), ..Self::default() };
        for (labels, samples) in self.series.iter().filter(|(labels, _)| passes(labels)) {
            let samples: BTreeMap<i64, Sample> =
                samples.iter().filter(|(t, _)| range.contains(**t)).map(|(t, sample)| (*t, sample.clone())).collect();
            if !samples.is_empty() {
                selected.series.insert(labels.clone(), samples);
            }
        }
        let kept = |(labels, t): &&(Labels, i64)| range.contains(*t) && passes(labels);
        let half_done = self.half_done.iter().filter(|(key, _)| kept(key));
        selected.half_done = half_done.map(|(key, samples)| (key.clone(), samples.clone())).collect();
        let dropped = self.dropped.iter().filter(|(key, _)| kept(key));
        selected.dropped = dropped.map(|(key, samples)| (key.clone(), samples.clone())).collect();
        selected.unknown = self.unknown.iter().filter(kept).cloned().collect();
        selected.doubtful = self.doubtful.iter().filter(kept).cloned().collect();
        selected
    }

    /// Compares with what a database answers that has been open since the last [`reopened`](ModelDb::reopened).
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, found: &Content) -> Result<(), Difference> {
        self.compare(found, false)
    }

    /// Compares with a part of what a database answers: nothing is there that should not be. Which of two writes is seen is
    /// not looked at, since the first may be in the other part.
    ///
    /// # Errors
    /// [`Difference::Invented`].
    pub fn check_part(&self, found: &Content) -> Result<(), Difference> {
        let mut part = Self { dropped: self.dropped.clone(), half_done: self.half_done.clone(), ..Self::default() };
        for (labels, samples) in found {
            let there = samples.iter().filter(|(t, _)| self.get(labels, **t).is_some());
            part.series.insert(labels.clone(), there.map(|(t, sample)| (*t, sample.clone())).collect());
        }
        part.compare(found, false)
    }

    /// Compares with what is there when the directory is opened again, by whoever and after whatever, and takes what is
    /// found of the attempts for the truth from now on.
    ///
    /// # Errors
    /// The first difference.
    pub fn reopened(&mut self, found: &Content) -> Result<(), Difference> {
        self.compare(found, true)?;
        self.series.clone_from(found);
        self.attempted.clear();
        self.half_done.clear();
        self.dropped.clear();
        self.doubtful.clear();
        self.unknown.clear();
        Ok(())
    }

    /// As [`reopened`](ModelDb::reopened), for somebody who could not look at once: what was attempted since and is not
    /// there may still be when the directory is opened the next time.
    ///
    /// # Errors
    /// The first difference.
    pub fn reopened_earlier(&mut self, found: &Content) -> Result<(), Difference> {
        let mut attempted = self.attempted.clone();
        attempted.retain(|(labels, t), _| found.get(labels).is_none_or(|samples| !samples.contains_key(t)));
        self.reopened(found)?;
        self.attempted = attempted;
        Ok(())
    }

    /// Compares all that `source` can be asked: samples, label names, label values.
    ///
    /// # Errors
    /// The first difference; [`Difference::Behaviour`] if the source does not answer.
    pub fn verify(&self, source: &dyn Source) -> Result<(), Difference> {
        self.check(&content(source, TimeRange::ALL, &[]).map_err(failed("a select"))?)?;
        self.verify_labels(source)
    }

    /// Compares the label names and values that `source` lists: those of series with samples must be there, and none that
    /// no series ever had.
    ///
    /// # Errors
    /// As [`verify`](ModelDb::verify).
    pub fn verify_labels(&self, source: &dyn Source) -> Result<(), Difference> {
        let budget = Budget::unlimited();
        let everything = SelectRequest::new(TimeRange::ALL, &[], &budget);
        let names = source.label_names(&everything).map_err(failed("label names"))?;
        let wanted: BTreeSet<&str> = self.sure().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        let known: BTreeSet<&str> = self.known.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
        listing("label names".to_owned(), &names, &wanted, &known)?;
        for name in &names {
            let values = source.label_values(name, &everything).map_err(failed("label values"))?;
            let wanted: BTreeSet<&str> = self.sure().filter_map(|labels| labels.get(name)).collect();
            let known: BTreeSet<&str> = self.known.iter().filter_map(|labels| labels.get(name)).collect();
            listing(format!("values of {name}"), &values, &wanted, &known)?;
        }
        Ok(())
    }

    /// Series that have samples without any doubt.
    fn sure(&self) -> impl Iterator<Item = &Labels> {
        let sure = |(labels, samples): &(&Labels, &BTreeMap<i64, Sample>)| {
            samples.keys().any(|t| !self.doubtful.contains(&((*labels).clone(), *t)))
        };
        self.series.iter().filter(sure).map(|(labels, _)| labels)
    }

    fn keys(&self, range: TimeRange, matchers: &[Matcher]) -> Vec<(Labels, i64)> {
        let series = self.series.iter().filter(|(labels, _)| passes(labels, matchers));
        let times = |(labels, samples): (&Labels, &BTreeMap<i64, Sample>)| {
            let times = samples.keys().filter(|t| range.contains(**t));
            times.map(|t| (labels.clone(), *t)).collect::<Vec<_>>()
        };
        series.flat_map(times).collect()
    }

    fn compare(&self, found: &Content, reopened: bool) -> Result<(), Difference> {
        let nothing = BTreeMap::new();
        let is_back = |labels: &Labels, found: &Sample| {
            let dropped = self.dropped.get(&(labels.clone(), found.t));
            dropped.into_iter().flatten().any(|sample| same_sample(sample, found))
        };
        for (labels, samples) in &self.series {
            let there = found.get(labels).unwrap_or(&nothing);
            for (t, wanted) in samples {
                match there.get(t) {
                    Some(found) if same_sample(wanted, found) || is_back(labels, found) => {}
                    Some(found) => {
                        let (labels, wanted, found) = (labels.clone(), wanted.clone(), found.clone());
                        return Err(Difference::Changed { labels, wanted, found });
                    }
                    None if self.doubtful.contains(&(labels.clone(), *t)) => {}
                    None => return Err(Difference::Missing { labels: labels.clone(), sample: wanted.clone() }),
                }
            }
        }
        for (labels, samples) in found {
            let wanted = self.series.get(labels).unwrap_or(&nothing);
            for sample in samples.values().filter(|sample| !wanted.contains_key(&sample.t)) {
                let attempts = if reopened { &self.attempted } else { &self.half_done };
                let attempts = attempts.get(&(labels.clone(), sample.t));
                let is_attempt = attempts.into_iter().flatten().any(|attempt| same_sample(attempt, sample));
                let is_unknown = self.unknown.contains(&(labels.clone(), sample.t));
                if !is_attempt && !is_unknown && !is_back(labels, sample) {
                    return Err(Difference::Invented { labels: labels.clone(), sample: sample.clone() });
                }
            }
        }
        Ok(())
    }
}

fn passes(labels: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
}

fn failed(what: &str) -> impl Fn(crate::error::Error) -> Difference {
    move |error| Difference::Behaviour(format!("{what} failed: {error}"))
}

fn listing(of: String, found: &[String], wanted: &BTreeSet<&str>, known: &BTreeSet<&str>) -> Result<(), Difference> {
    if !found.is_sorted_by(|a, b| a < b) {
        return Err(Difference::Behaviour(format!("{of} are not in order, each once: {found:?}")));
    }
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let owned = |texts: Vec<&&str>| texts.into_iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let missing = owned(wanted.difference(&found).collect());
    let invented = owned(found.difference(known).collect());
    if missing.is_empty() && invented.is_empty() {
        return Ok(());
    }
    Err(Difference::Listing { of, missing, invented })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Labels {
        Labels::from_pairs([("__name__", "up")])
    }

    fn with(samples: &[(i64, f64)]) -> Content {
        let samples = samples.iter().map(|&(t, v)| (t, Sample::float(t, v))).collect();
        Content::from([(up(), samples)])
    }

    fn model(samples: &[(i64, f64)]) -> ModelDb {
        let mut model = ModelDb::new();
        for &(t, v) in samples {
            model.insert(&up(), Sample::float(t, v));
        }
        model
    }

    #[test]
    fn the_first_write_wins() {
        let model = model(&[(1, 1.0), (1, 2.0)]);
        model.check(&with(&[(1, 1.0)])).unwrap();
        assert!(matches!(model.check(&with(&[(1, 2.0)])), Err(Difference::Changed { .. })));
    }

    #[test]
    fn what_is_lost_and_what_is_invented_is_told() {
        let model = model(&[(1, 1.0), (2, 2.0)]);
        assert!(matches!(model.check(&with(&[(1, 1.0)])), Err(Difference::Missing { .. })));
        let more = with(&[(1, 1.0), (2, 2.0), (3, 3.0)]);
        assert!(matches!(model.check(&more), Err(Difference::Invented { .. })));
    }

    #[test]
    fn an_attempt_may_be_there_when_it_is_opened_again_and_not_before() {
        let mut model = model(&[(1, 1.0)]);
        model.attempt(&up(), Sample::float(2, 2.0));
        let found = with(&[(1, 1.0), (2, 2.0)]);
        assert!(model.check(&found).is_err());
        model.clone().reopened(&with(&[(1, 1.0)])).unwrap();
        model.reopened(&found).unwrap();
        model.check(&found).unwrap();
        assert!(matches!(model.check(&with(&[(1, 1.0)])), Err(Difference::Missing { .. })));
    }

    #[test]
    fn an_attempt_may_come_after_a_look_that_was_taken_late() {
        let mut model = model(&[(1, 1.0)]);
        model.attempt(&up(), Sample::float(2, 2.0));
        model.reopened_earlier(&with(&[(1, 1.0)])).unwrap();
        let found = with(&[(1, 1.0), (2, 2.0)]);
        assert!(model.check(&found).is_err());
        model.reopened(&found).unwrap();
    }

    #[test]
    fn a_deletion_that_failed_may_have_happened() {
        let mut model = model(&[(1, 1.0), (2, 2.0)]);
        model.attempt_delete(TimeRange::new(2, 9), &[]);
        model.check(&with(&[(1, 1.0)])).unwrap();
        model.check(&with(&[(1, 1.0), (2, 2.0)])).unwrap();
        assert!(model.check(&with(&[(2, 2.0)])).is_err());
        assert_eq!(model.delete(TimeRange::new(2, 9), &[]), [(up(), 2)]);
        assert!(model.check(&with(&[(1, 1.0), (2, 2.0)])).is_err());
    }

    #[test]
    fn a_nan_is_its_bits_and_a_stale_marker_has_no_kind() {
        let nan = Sample::float(1, f64::NAN);
        assert!(same_sample(&nan, &nan));
        assert!(!same_sample(&nan, &Sample::float(1, f64::from_bits(f64::NAN.to_bits() + 1))));
        let sum = f64::from_bits(crate::model::STALE_NAN_BITS);
        let stale = crate::model::Histogram { sum, ..crate::model::Histogram::default() };
        let stale = Sample { t: 1, st: 0, value: Value::Histogram(Box::new(stale)) };
        assert!(same_sample(&stale, &Sample::float(1, sum)));
    }
}
