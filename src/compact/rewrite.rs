//! A block without some of its series: for retention that is not the same for all.

use std::borrow::Cow;

use bytes::Bytes;

use crate::block::{BlockRead, Symbols};
use crate::budget::Budget;
use crate::chunk::EncodedChunk;
use crate::codec::FixedSet;
use crate::error::Result;
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Labels, Matcher, TimeRange};

/// A block as if some of its series were not there. Merging it alone writes it again without them.
pub struct Without<'a> {
    block: &'a dyn BlockRead,
    dropped: FixedSet<SeriesId>,
}

impl<'a> Without<'a> {
    /// `block` without the series `dropped`.
    #[must_use]
    pub fn new(block: &'a dyn BlockRead, dropped: FixedSet<SeriesId>) -> Self {
        Self { block, dropped }
    }
}

/// The series of `block` that one of the rules for which `due` says yes is about. Each rule is a set of matchers, all of
/// which a series has to pass; a series is the first rule's that it passes, so a rule before another one exempts from it.
///
/// # Errors
/// `Corrupt`, `Io`.
pub fn series_of_rules<'r>(
    block: &dyn BlockRead,
    rules: impl IntoIterator<Item = &'r [Matcher]>,
    due: impl Fn(usize) -> bool,
) -> Result<FixedSet<SeriesId>> {
    let (mut dropped, mut spoken_for) = (FixedSet::default(), FixedSet::default());
    for (number, matchers) in rules.into_iter().enumerate() {
        for id in block.select(matchers)? {
            if spoken_for.insert(id) && due(number) {
                dropped.insert(id);
            }
        }
    }
    Ok(dropped)
}

impl BlockRead for Without<'_> {
    fn time_range(&self) -> TimeRange {
        self.block.time_range()
    }

    fn label_names(&self) -> Result<Vec<String>> {
        // Those of what is left.
        self.label_names_for(&[], &Budget::unlimited())
    }

    fn label_values(&self, name: &str) -> Result<Vec<String>> {
        self.label_values_for(name, &[], &Budget::unlimited())
    }

    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
        let mut ids = self.block.select(matchers)?;
        ids.retain(|id| !self.dropped.contains(id));
        Ok(ids)
    }

    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        self.block.series(id, labels, chunks)
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        self.block.chunk(meta)
    }

    fn any_chunk(&self, meta: &ChunkMeta) -> Result<(u8, Bytes)> {
        self.block.any_chunk(meta)
    }

    fn tombstones(&self, id: SeriesId) -> Cow<'_, [TimeRange]> {
        self.block.tombstones(id)
    }

    fn symbols(&self) -> Result<Symbols<'_>> {
        self.block.symbols()
    }

    fn label_names_for(&self, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        let mut names = std::collections::BTreeSet::new();
        for id in self.select(matchers)? {
            budget.check()?;
            names.extend(self.block.labels(id)?.iter().map(|(name, _)| name.to_owned()));
        }
        Ok(names.into_iter().collect())
    }

    fn label_values_for(&self, name: &str, matchers: &[Matcher], budget: &Budget) -> Result<Vec<String>> {
        let mut values = std::collections::BTreeSet::new();
        for id in self.select(matchers)? {
            budget.check()?;
            values.extend(self.block.labels(id)?.get(name).map(str::to_owned));
        }
        Ok(values.into_iter().collect())
    }
}
