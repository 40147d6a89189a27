//! A part of a block's series: all but some, for retention that is not the same for all, or some alone, for series that
//! have ended.

use std::borrow::Cow;

use bytes::Bytes;

use crate::block::{BlockRead, Symbols};
use crate::budget::Budget;
use crate::chunk::{EncodedChunk, rewrite, sample_count};
use crate::codec::FixedSet;
use crate::error::Result;
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Labels, Matcher, TimeRange};

/// A block as if it had a part of its series alone. Merging it writes it again so.
pub struct Part<'a> {
    block: &'a dyn BlockRead,
    chosen: FixedSet<SeriesId>,
    /// Whether the chosen ones are in it, or the others.
    has_chosen: bool,
}

impl<'a> Part<'a> {
    /// `block` without the series `dropped`.
    #[must_use]
    pub fn without(block: &'a dyn BlockRead, dropped: FixedSet<SeriesId>) -> Self {
        Self { block, chosen: dropped, has_chosen: false }
    }

    /// `block` with the series `kept` alone.
    #[must_use]
    pub fn only(block: &'a dyn BlockRead, kept: FixedSet<SeriesId>) -> Self {
        Self { block, chosen: kept, has_chosen: true }
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

impl BlockRead for Part<'_> {
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
        ids.retain(|id| self.chosen.contains(id) == self.has_chosen);
        Ok(ids)
    }

    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        self.block.series(id, labels, chunks)
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        let chunk = self.block.chunk(meta)?;
        if self.has_chosen {
            // The series may be growing again.
            let mut kept = Vec::new();
            rewrite(&chunk, |t| t <= meta.max_time, &mut kept)?;
            let samples: usize = kept.iter().map(|chunk| chunk.samples).sum();
            if let [kept] = kept.as_slice()
                && sample_count(chunk.encoding, &chunk.data)? != samples
            {
                return Ok(kept.chunk.clone());
            }
        }
        Ok(chunk)
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
