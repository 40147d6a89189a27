//! One series' results, a value a step.

use std::sync::Arc;

use crate::model::FloatHistogram;

/// Which steps, a bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    words: Vec<u64>,
    len: usize,
}

impl Steps {
    /// No step of `len`.
    pub(crate) fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    pub(crate) fn reset(&mut self, len: usize) {
        self.words.clear();
        self.words.resize(len.div_ceil(64), 0);
        self.len = len;
    }

    /// All steps.
    pub(crate) fn fill(&mut self) {
        self.words.fill(u64::MAX);
        self.trim();
    }

    fn trim(&mut self) {
        let rest = self.len % 64;
        if rest != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << rest) - 1;
        }
    }

    /// How many steps there are, in it or not.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, step: usize) -> bool {
        self.words[step / 64] >> (step % 64) & 1 != 0
    }

    pub(crate) fn set(&mut self, step: usize) {
        self.words[step / 64] |= 1 << (step % 64);
    }

    pub(crate) fn clear(&mut self, step: usize) {
        self.words[step / 64] &= !(1 << (step % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it is every step.
    pub(crate) fn is_full(&self) -> bool {
        self.count() == self.len
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn intersect(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// The first step that is in both.
    pub(crate) fn first_common(&self, other: &Self) -> Option<usize> {
        let common = self.words.iter().zip(&other.words).map(|(a, b)| a & b);
        common.enumerate().find(|(_, word)| *word != 0).map(|(at, word)| at * 64 + word.trailing_zeros() as usize)
    }

    /// The steps in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors((word != 0).then_some(word), |word| {
                let rest = word & (word - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// One series' results: floats dense with a bit each that says whether there is one, histograms sparse. A step has a
/// float, a histogram or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Column {
    /// A float a step; only those in `present` mean anything.
    pub(crate) values: Vec<f64>,
    /// Steps with a float.
    pub(crate) present: Steps,
    /// Steps with a histogram, ascending.
    pub(crate) histograms: Vec<(u32, Arc<FloatHistogram>)>,
}

impl Column {
    /// A column of `steps` steps with nothing in it.
    pub(crate) fn new(steps: usize) -> Self {
        Self { values: vec![0.0; steps], present: Steps::none(steps), histograms: Vec::new() }
    }

    /// Empties it, for `steps` steps.
    pub(crate) fn reset(&mut self, steps: usize) {
        self.values.resize(steps, 0.0);
        self.present.reset(steps);
        self.histograms.clear();
    }

    pub(crate) fn steps(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn set(&mut self, step: usize, value: f64) {
        self.values[step] = value;
        self.present.set(step);
    }

    pub(crate) fn get(&self, step: usize) -> Option<f64> {
        self.present.get(step).then(|| self.values[step])
    }

    /// Adds a histogram behind the ones that are there.
    pub(crate) fn push_histogram(&mut self, step: usize, histogram: Arc<FloatHistogram>) {
        self.histograms.push((step as u32, histogram));
    }

    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<FloatHistogram>> {
        let at = self.histograms.binary_search_by_key(&(step as u32), |(step, _)| *step).ok()?;
        Some(&self.histograms[at].1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.histograms.is_empty() && self.present.is_empty()
    }

    /// How many samples it holds.
    pub(crate) fn samples(&self) -> usize {
        self.present.count() + self.histograms.len()
    }

    /// The steps with a float or a histogram.
    pub(crate) fn occupied(&self) -> Steps {
        let mut steps = self.present.clone();
        for (step, _) in &self.histograms {
            steps.set(*step as usize);
        }
        steps
    }

    /// Changes every float.
    pub(crate) fn map_floats(&mut self, change: impl Fn(f64) -> f64) {
        // Over absent ones as well: they mean nothing, and a loop without branches is faster.
        self.values.iter_mut().for_each(|value| *value = change(*value));
    }

    /// Keeps what lies in `steps`.
    pub(crate) fn retain(&mut self, steps: &Steps) {
        self.present.intersect(steps);
        self.histograms.retain(|(step, _)| steps.get(*step as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn steps_are_a_set(a in prop::collection::btree_set(0usize..130, 0..40), b in prop::collection::btree_set(0usize..130, 0..40)) {
            let make = |set: &BTreeSet<usize>| {
                let mut steps = Steps::none(130);
                set.iter().for_each(|step| steps.set(*step));
                steps
            };
            let (left, right) = (make(&a), make(&b));
            prop_assert_eq!(left.iter().collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(left.count(), a.len());
            prop_assert_eq!(left.first_common(&right), a.intersection(&b).next().copied());
            let mut changed = left.clone();
            changed.union(&right);
            prop_assert_eq!(&changed, &make(&(&a | &b)));
            changed = left.clone();
            changed.subtract(&right);
            prop_assert_eq!(&changed, &make(&(&a - &b)));
            changed.fill();
            prop_assert!(changed.is_full());
        }
    }
}
