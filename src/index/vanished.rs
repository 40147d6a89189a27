//! Names and values that only series carry of which all samples are deleted: listings leave them out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Postings, PostingsSource};
use crate::error::Result;
use crate::model::Labels;

/// Series of which nothing is left, and what goes with them.
#[derive(Debug)]
pub(crate) struct Vanished {
    series: Postings,
    names: BTreeSet<String>,
    values: BTreeMap<String, BTreeSet<String>>,
}

impl Vanished {
    /// What goes with the series `gone` of `source`, given by ascending ids.
    pub(crate) fn find(gone: &[(u32, Labels)], source: &dyn PostingsSource) -> Result<Self> {
        let mut counts: BTreeMap<&str, (usize, BTreeMap<&str, usize>)> = BTreeMap::new();
        for (name, value) in gone.iter().flat_map(|(_, labels)| labels.iter()) {
            let (series, values) = counts.entry(name).or_default();
            *series += 1;
            *values.entry(value).or_default() += 1;
        }
        let series: Vec<u32> = gone.iter().map(|(id, _)| *id).collect();
        let mut vanished = Self { series: series.into(), names: BTreeSet::new(), values: BTreeMap::new() };
        for (name, (series, counts)) in counts {
            // Nobody else has it if the list is as long as those who had it.
            if source.with_name(name)?.len() <= series {
                vanished.names.insert(name.to_owned());
            }
            let mut values = BTreeSet::new();
            for (value, count) in counts {
                if source.postings(name, value)?.len() <= count {
                    values.insert(value.to_owned());
                }
            }
            vanished.values.insert(name.to_owned(), values);
        }
        Ok(vanished)
    }

    /// The series.
    pub(crate) fn series(&self) -> &Postings {
        &self.series
    }

    /// Whether none but them have the name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether none but them have the value of the name.
    pub(crate) fn has_value(&self, name: &str, value: &str) -> bool {
        self.values.get(name).is_some_and(|values| values.contains(value))
    }
}
