//! The model of what is said beside samples: exemplars of series, metadata of metrics.
//!
//! Both live in the head, and go with their series; until then they must be there, across restarts too. Which series the
//! head has is the database's word: it is looked at after every operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::model::Difference;
use crate::error::Result;
use crate::head::Head;
use crate::model::{Exemplar, Labels, METRIC_NAME, Metadata, TimeRange};

/// What was handed to an appender that is still open.
#[derive(Debug, Default)]
pub(super) struct Pending {
    exemplars: Vec<(Labels, Exemplar)>,
    metadata: Vec<(String, Metadata)>,
}

/// Exemplars and metadata as maps.
#[derive(Debug)]
pub(super) struct Annotations {
    /// The most exemplars kept.
    capacity: usize,
    /// Exemplars that must be there.
    exemplars: BTreeMap<Labels, Vec<Exemplar>>,
    /// All that were ever handed over: nothing else may be there.
    known: BTreeMap<Labels, Vec<Exemplar>>,
    /// The newest of each series that a commit had, and how many commits had in all.
    newest: BTreeMap<Labels, i64>,
    committed: usize,
    /// Whether a commit failed: what it had may be there after a restart, and others have given way to it.
    has_failed: bool,
    /// What must be said of metrics, and all that ever was.
    metadata: BTreeMap<String, Metadata>,
    said: BTreeMap<String, Vec<Metadata>>,
}

impl Annotations {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            exemplars: BTreeMap::new(),
            known: BTreeMap::new(),
            newest: BTreeMap::new(),
            committed: 0,
            has_failed: false,
            metadata: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// An appender took an exemplar.
    pub(super) fn hand_over(&mut self, pending: &mut Pending, labels: &Labels, exemplar: Exemplar) {
        self.known.entry(labels.clone()).or_default().push(exemplar.clone());
        pending.exemplars.push((labels.clone(), exemplar));
    }

    /// An appender took what is said of a metric, which is not `known` already.
    pub(super) fn say(&mut self, pending: &mut Pending, name: &str, metadata: Metadata) {
        self.said.entry(name.to_owned()).or_default().push(metadata.clone());
        pending.metadata.push((name.to_owned(), metadata));
    }

    /// The appender committed, or failed to.
    pub(super) fn commit(&mut self, pending: Pending, succeeded: bool, head: &Arc<Head>) -> Result<()> {
        let found = found(head)?;
        self.has_failed |= !succeeded;
        self.committed += pending.exemplars.len();
        for (labels, exemplar) in pending.exemplars {
            let newest = self.newest.entry(labels.clone()).or_insert(i64::MIN);
            // What is not newer than the others may be refused, and is there if somebody sees it.
            let is_newer = exemplar.t > *newest && self.capacity > 0;
            *newest = exemplar.t.max(*newest);
            let is_there = found.get(&labels).is_some_and(|there| there.contains(&exemplar));
            let wanted = self.exemplars.entry(labels).or_default();
            if succeeded && (is_newer || is_there) && !wanted.contains(&exemplar) {
                wanted.push(exemplar);
            }
        }
        for (name, metadata) in pending.metadata {
            match succeeded {
                true => self.metadata.insert(name, metadata),
                // The one before, or this one.
                false => self.metadata.remove(&name),
            };
        }
        Ok(())
    }

    /// Forgets what went with its series, or for newer exemplars. To be called after everything that may remove series.
    pub(super) fn look(&mut self, head: &Arc<Head>) -> Result<()> {
        let series = series(head)?;
        self.exemplars.retain(|labels, _| series.contains(labels));
        let metrics: BTreeSet<&str> = series.iter().filter_map(|labels| labels.get(METRIC_NAME)).collect();
        self.metadata.retain(|name, _| metrics.contains(name.as_str()));
        Ok(())
    }

    /// Compares with what is there, after a restart or another operation.
    pub(super) fn check(&mut self, head: &Arc<Head>, restarted: bool) -> Result<(), Difference> {
        let found = found(head).map_err(|error| Difference::Behaviour(format!("exemplars: {error}")))?;
        let wrong = |what: String| Err(Difference::Behaviour(what));
        let count: usize = found.values().map(Vec::len).sum();
        if count > self.capacity {
            return wrong(format!("{count} exemplars, and {} are kept at most", self.capacity));
        }
        for (labels, exemplars) in &found {
            let known = self.known.get(labels);
            if let Some(invented) = exemplars.iter().find(|it| !known.is_some_and(|known| known.contains(it))) {
                return wrong(format!("invented: an exemplar of {labels}: {invented:?}"));
            }
            if !exemplars.is_sorted_by(|a, b| a.t <= b.t && a != b) {
                return wrong(format!("exemplars of {labels} are not in order, each once: {exemplars:?}"));
            }
        }
        let is_there = |labels: &Labels, it: &Exemplar| found.get(labels).is_some_and(|there| there.contains(it));
        if self.committed > self.capacity && (!restarted || self.has_failed) {
            // Some may have given way; a restart loses none of the others.
            for (labels, wanted) in &mut self.exemplars {
                wanted.retain(|it| is_there(labels, it));
            }
        }
        for (labels, wanted) in &self.exemplars {
            if let Some(lost) = wanted.iter().find(|it| !is_there(labels, it)) {
                return wrong(format!("lost: an exemplar of {labels}: {lost:?}"));
            }
        }
        let metadata: BTreeMap<String, Metadata> = head.reader(TimeRange::ALL).metadata(None).into_iter().collect();
        if let Some((name, wanted)) = self.metadata.iter().find(|(name, wanted)| metadata.get(*name) != Some(wanted)) {
            return wrong(format!("of {name} was said {wanted:?}, and is {:?}", metadata.get(name)));
        }
        let is_known = |name: &str, it| self.said.get(name).is_some_and(|said| said.contains(it));
        match metadata.iter().find(|(name, it)| !is_known(name, it)) {
            Some((name, invented)) => wrong(format!("invented: of {name} {invented:?}")),
            None => Ok(()),
        }
    }
}

/// All exemplars, by series.
fn found(head: &Arc<Head>) -> Result<BTreeMap<Labels, Vec<Exemplar>>> {
    Ok(head.reader(TimeRange::ALL).exemplars(TimeRange::ALL, &[&[]])?.into_iter().collect())
}

/// All series that the head knows, with samples or without.
fn series(head: &Arc<Head>) -> Result<BTreeSet<Labels>> {
    Ok(head.reader(TimeRange::ALL).select(&[])?.into_iter().map(|(_, labels)| labels).collect())
}
