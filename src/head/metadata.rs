//! What is known of the metrics: type, unit and help, by name.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use super::holds::{Holds, Site};
use crate::model::Metadata;

/// Metrics that are looked at before somebody else may have the lock.
const TURN: usize = 256;

/// Metadata by metric name.
#[derive(Debug, Default)]
pub(super) struct MetricMetadata {
    by_name: Mutex<BTreeMap<Box<str>, Metadata>>,
}

impl MetricMetadata {
    /// Whether this is what is known already.
    pub(super) fn is(&self, name: &str, metadata: &Metadata) -> bool {
        self.by_name.lock().get(name) == Some(metadata)
    }

    /// Replaces what is known.
    pub(super) fn set(&self, name: &str, metadata: &Metadata) {
        self.by_name.lock().insert(name.into(), metadata.clone());
    }

    /// Keeps the metrics that `is_there` says there are series of.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut after: Bound<Box<str>> = Bound::Unbounded;
        loop {
            let names: Vec<Box<str>> = {
                let by_name = self.by_name.lock();
                by_name
                    .range::<str, _>((after.as_ref().map(|name| &**name), Bound::Unbounded))
                    .map(|(name, _)| name.clone())
                    .take(TURN)
                    .collect()
            };
            for name in names.iter().filter(|name| !is_there(name)) {
                let mut by_name = self.by_name.lock();
                // Somebody may have come since and said what it is.
                if !is_there(name) {
                    by_name.remove(name);
                }
            }
            let Some(last) = names.into_iter().last() else { return };
            after = Bound::Excluded(last);
        }
    }

    /// Of one metric or of all, sorted by name.
    pub(super) fn get(&self, name: Option<&str>, holds: &Holds) -> Vec<(String, Metadata)> {
        if let Some(name) = name {
            let known = self.by_name.lock().get(name).cloned();
            return known.map(|metadata| (name.to_owned(), metadata)).into_iter().collect();
        }
        let mut all: Vec<(String, Metadata)> = Vec::new();
        loop {
            let before = all.len();
            let by_name = self.by_name.lock();
            let _hold = holds.begin_slice(Site::Metadata);
            let after = all.last().map_or(Bound::Unbounded, |(name, _)| Bound::Excluded(name.clone()));
            let after = after.as_ref().map(String::as_str);
            let turn = by_name.range::<str, _>((after, Bound::Unbounded)).take(TURN);
            all.extend(turn.map(|(name, metadata)| (String::from(&**name), metadata.clone())));
            if all.len() - before < TURN {
                return all;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_metrics_than_are_copied_at_a_time_come_all_and_in_order() {
        let known = MetricMetadata::default();
        let names: Vec<String> = (0..3 * TURN).map(|n| format!("m_{n:04}")).collect();
        let metadata = |name: &String| Metadata { help: name.clone(), ..Metadata::default() };
        names.iter().rev().for_each(|name| known.set(name, &metadata(name)));
        let expected: Vec<_> = names.iter().map(|name| (name.clone(), metadata(name))).collect();
        assert_eq!(known.get(None, &Holds::default()), expected);
        assert_eq!(known.get(Some("m_0001"), &Holds::default()), expected[1..2]);
        known.retain(|name| name.ends_with('7'));
        assert!(known.get(None, &Holds::default()).iter().all(|(name, _)| name.ends_with('7')));
    }
}
