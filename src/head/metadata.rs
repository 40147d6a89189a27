//! What is known of the metrics: type, unit and help, by name.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use crate::model::Metadata;

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

    /// Keeps the metrics that `is_there` says there are series of. It locks a few at a time.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        const TURN: usize = 256;
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
    pub(super) fn get(&self, name: Option<&str>) -> Vec<(String, Metadata)> {
        let by_name = self.by_name.lock();
        match name {
            Some(name) => by_name.get(name).map(|metadata| (name.to_owned(), metadata.clone())).into_iter().collect(),
            None => by_name.iter().map(|(name, metadata)| (String::from(&**name), metadata.clone())).collect(),
        }
    }
}
