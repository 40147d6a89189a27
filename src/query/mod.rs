//! Reading: select series over any source, merge sources, decode into columns.
//!
//! A [`Source`] is whatever can be asked for series: a block, the head, both merged, later a block in object storage or
//! another node. It answers a [`SelectRequest`] with a [`SeriesSet`]: series in label order, each with its chunks still
//! encoded, so that a query which only counts series decodes nothing, and one that aggregates decodes a series at a time.
//! [`Merged`] makes one source of several, [`WithLabels`] adds labels to all series of one, and [`SeriesDecoder`] turns
//! one series' chunks into columns.
//!
//! Two promises hold for every source. Series come in label order, each label set once. And **the first write wins**:
//! where chunks of a series overlap, the sample of the chunk that stands earlier in [`Series::chunks`] is the one that a
//! reader sees; sources are merged in order of precedence, so their chunks are too.
//!
//! A select is planned before it is fetched: [`Source::select`] only starts the work, a caller with several selectors
//! plans them all before it asks any set for its first series, and chunks may be fetched later still, many at a time,
//! by a [`ChunkLoader`]. So a source behind a network waits once a stage, not once a chunk.

#![warn(clippy::indexing_slicing)]

mod block;
mod columns;
mod head;
mod merge;
mod out_of_order;
mod samples;
mod with_labels;

use std::fmt;
use std::sync::Arc;

use crate::budget::Budget;
use crate::chunk::EncodedChunk;
use crate::error::Result;
use crate::index::ChunkMeta;
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};

pub use block::BlockSource;
pub use columns::{Columns, SeriesDecoder};
pub use head::HeadSource;
pub use merge::{Merged, merge_at_most, merge_sets, merge_sorted_strings};
pub use out_of_order::OutOfOrderSource;
pub use samples::series_samples;
pub use with_labels::{WithLabels, add_labels, replace_labels, strip_matchers};

/// What a caller wants from a [`Source`], and what it may cost.
#[derive(Debug, Clone, Copy)]
pub struct SelectRequest<'a> {
    /// Series with samples in this range are wanted. A source may answer with more samples, never with fewer.
    pub range: TimeRange,
    /// All must match.
    pub matchers: &'a [Matcher],
    /// The query's account. A source looks at the deadline and the cancellation; samples and bytes are charged by who decodes
    /// them, or fetches them from elsewhere.
    pub budget: &'a Budget,
    /// What the caller will do with the answer.
    pub hints: SelectHints<'a>,
}

/// What a caller will do with the series: a source may use it to answer with less, and may ignore it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectHints<'a> {
    /// Only labels are wanted: chunks may be left out.
    pub labels_only: bool,
    /// The query's step, milliseconds; 0 for an instant query.
    pub step: i64,
    /// The range selector's width, milliseconds; 0 for an instant selector.
    pub range: i64,
    /// The function or aggregation directly around the selector.
    pub function: Option<&'a str>,
    /// The labels of the aggregation directly around the selector.
    pub grouping: &'a [String],
    /// Whether `grouping` is `by` (or `without`).
    pub by: bool,
    /// At most so many series, or so many names or values if those are asked for; 0 is no limit.
    pub limit: usize,
}

impl SelectHints<'_> {
    /// The first of `strings`, as many as are asked for.
    #[must_use]
    pub fn first_of(&self, mut strings: Vec<String>) -> Vec<String> {
        if self.limit > 0 {
            strings.truncate(self.limit);
        }
        strings
    }
}

impl<'a> SelectRequest<'a> {
    /// A request without hints.
    #[must_use]
    pub fn new(range: TimeRange, matchers: &'a [Matcher], budget: &'a Budget) -> Self {
        Self { range, matchers, budget, hints: SelectHints::default() }
    }

    /// A request for labels alone: which series there are, their names and values.
    #[must_use]
    pub fn labels_only(range: TimeRange, matchers: &'a [Matcher], budget: &'a Budget) -> Self {
        let hints = SelectHints { labels_only: true, ..SelectHints::default() };
        Self { range, matchers, budget, hints }
    }
}

/// Whatever can be asked for series.
pub trait Source: Send + Sync {
    /// Plans a select and starts it.
    ///
    /// # Errors
    /// The source's own; `LimitExceeded`, `Timeout` or `Cancelled` of the budget.
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>>;

    /// The names of the labels of all series that match, sorted; the first [`limit`](SelectHints::limit) of them.
    ///
    /// # Errors
    /// The source's own; `LimitExceeded`, `Timeout` or `Cancelled` of the budget.
    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>>;

    /// The values of the label `name` of all series that match, sorted; the first [`limit`](SelectHints::limit) of them.
    ///
    /// # Errors
    /// As [`label_names`](Source::label_names).
    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>>;

    /// The exemplars of the series that match any of the matcher lists, in label order; by default none.
    ///
    /// # Errors
    /// The source's own.
    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let _ = (range, matchers);
        Ok(Vec::new())
    }

    /// What is known of the metrics: pairs of name and metadata, sorted by name, of one metric or of all; by default
    /// nothing.
    ///
    /// # Errors
    /// The source's own.
    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        let _ = metric;
        Ok(Vec::new())
    }
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        (**self).select(request)
    }
    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        (**self).label_names(request)
    }
    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        (**self).label_values(name, request)
    }
    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        (**self).exemplars(range, matchers)
    }
    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        (**self).metadata(metric)
    }
}

/// Looks at the deadline and the cancellation of a query now and then, while its series are read: a clock costs as much as some
/// of them.
#[derive(Debug)]
struct Paced {
    budget: Budget,
    asked: u32,
}

impl Paced {
    fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), asked: 0 }
    }

    /// To be asked before each series.
    fn check(&mut self) -> Result<()> {
        const EACH: u32 = 64;
        let is_due = self.asked.is_multiple_of(EACH);
        self.asked = self.asked.wrapping_add(1);
        if is_due { self.budget.check() } else { Ok(()) }
    }
}

/// Series in label order, each label set once.
pub trait SeriesSet: Send {
    /// The next series, or none.
    ///
    /// # Errors
    /// The source's own. After an error the set is at its end.
    fn next(&mut self) -> Result<Option<Series>>;

    /// What went wrong without failing the select, e.g. a store that did not answer. Complete once `next` said none.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// A series and its chunks.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is called.
    pub labels: Labels,
    /// Its chunks, in order of precedence: of two that overlap, the earlier one's samples win. Chunks of one source that
    /// do not overlap are in order of time.
    pub chunks: Vec<SeriesChunk>,
}

/// A chunk of a series, with what of it may be seen.
#[derive(Debug, Clone)]
pub struct SeriesChunk {
    /// From its first to its last sample. May be wider than that, never narrower.
    pub range: TimeRange,
    /// The bytes, or how to get them.
    pub data: ChunkData,
    /// Samples outside are hidden: commits that a reader does not see yet, what lies outside a truncated head.
    pub visible: TimeRange,
    /// Samples inside any of these are hidden: deletes.
    pub deleted: Option<Arc<[TimeRange]>>,
    /// Which of the merged sources has it, counted for this series; 0 from a single one. What a histogram says about the
    /// one before it holds within a source.
    pub source: u32,
}

impl SeriesChunk {
    /// A chunk all of whose samples can be seen.
    #[must_use]
    pub fn new(range: TimeRange, data: ChunkData) -> Self {
        Self { range, data, visible: TimeRange::ALL, deleted: None, source: 0 }
    }

    /// Whether the sample at `t` may be seen.
    #[must_use]
    pub fn shows(&self, t: i64) -> bool {
        self.visible.contains(t)
            && !self.deleted.as_ref().is_some_and(|ranges| ranges.iter().any(|range| range.contains(t)))
    }
}

/// A chunk's bytes, or the promise of them.
#[derive(Clone)]
pub enum ChunkData {
    /// They are here.
    Ready(EncodedChunk),
    /// `loader` has them. Asked for when the series is about to be decoded.
    Later {
        /// Who has them.
        loader: Arc<dyn ChunkLoader>,
        /// What the loader knows them by.
        meta: ChunkMeta,
    },
}

impl fmt::Debug for ChunkData {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(chunk) => write!(out, "Ready({:?}, {} bytes)", chunk.encoding, chunk.data.len()),
            Self::Later { meta, .. } => write!(out, "Later({meta:?})"),
        }
    }
}

impl ChunkData {
    /// The bytes.
    ///
    /// # Errors
    /// The loader's.
    pub fn load(&self) -> Result<EncodedChunk> {
        match self {
            Self::Ready(chunk) => Ok(chunk.clone()),
            Self::Later { loader, meta } => loader.load(meta),
        }
    }
}

/// Who has chunks that a select left behind.
pub trait ChunkLoader: Send + Sync {
    /// One chunk.
    ///
    /// # Errors
    /// The source's own.
    fn load(&self, meta: &ChunkMeta) -> Result<EncodedChunk>;

    /// Says which chunks will be asked for soon, so that a loader behind a network can fetch them in one go. By default
    /// nothing happens.
    ///
    /// # Errors
    /// The source's own.
    fn prefetch(&self, metas: &[ChunkMeta]) -> Result<()> {
        let _ = metas;
        Ok(())
    }
}
