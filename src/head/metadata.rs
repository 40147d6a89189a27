//! What is known of the metrics: type, unit and help, by name.

use std::collections::BTreeMap;

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

    /// Keeps the metrics that `is_there` says there are series of.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.by_name.lock().retain(|name, _| is_there(name));
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
