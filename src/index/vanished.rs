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
        let ids: Vec<u32> = gone.iter().map(|(id, _)| *id).collect();
        // Nobody else has it if all who have it are gone. A list that is longer than those who had it is not walked through; one
        // that is not need not be theirs, since the head may have taken some of them out of it meanwhile.
        let are_gone = |postings: Postings, had: usize| {
            postings.len() <= had && postings.into_vec().iter().all(|id| ids.binary_search(id).is_ok())
        };
        let (mut names, mut all_values) = (BTreeSet::new(), BTreeMap::new());
        for (name, (series, counts)) in counts {
            if are_gone(source.with_name(name)?, series) {
                names.insert(name.to_owned());
            }
            let mut values = BTreeSet::new();
            for (value, count) in counts {
                if are_gone(source.postings(name, value)?, count) {
                    values.insert(value.to_owned());
                }
            }
            all_values.insert(name.to_owned(), values);
        }
        Ok(Self { series: ids.into(), names, values: all_values })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists that are as they are, whoever was in them before.
    struct Lists(Vec<(u32, Labels)>);

    impl PostingsSource for Lists {
        fn all(&self) -> Result<Postings> {
            Ok(self.0.iter().map(|(id, _)| *id).collect::<Vec<_>>().into())
        }

        fn postings(&self, name: &str, value: &str) -> Result<Postings> {
            let with = self.0.iter().filter(|(_, labels)| labels.get(name) == Some(value));
            Ok(with.map(|(id, _)| *id).collect::<Vec<_>>().into())
        }

        fn postings_where(
            &self,
            name: &str,
            _: &str,
            _: &mut dyn FnMut(&str) -> bool,
            take: &mut dyn FnMut(Postings),
        ) -> Result<()> {
            let with = self.0.iter().filter(|(_, labels)| labels.get(name).is_some());
            take(with.map(|(id, _)| *id).collect::<Vec<_>>().into());
            Ok(())
        }
    }

    #[test]
    fn what_a_living_series_has_does_not_vanish_with_one_that_was_taken_out_of_the_lists() {
        let series = |only: &str| Labels::from_pairs([("shared", "x"), ("only", only)]);
        let gone = [(1, series("a"))];
        let both = Vanished::find(&gone, &Lists(vec![(1, series("a")), (2, series("b"))])).unwrap();
        let collected = Vanished::find(&gone, &Lists(vec![(2, series("b"))])).unwrap();
        for vanished in [both, collected] {
            assert!(!vanished.has_name("shared") && !vanished.has_value("shared", "x"));
            assert!(vanished.has_value("only", "a") && !vanished.has_value("only", "b"));
        }
        let alone = Vanished::find(&gone, &Lists(vec![(1, series("a"))])).unwrap();
        assert!(alone.has_name("shared") && alone.has_value("shared", "x"));
    }
}
