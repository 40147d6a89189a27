//! A view of the database at one moment.

use std::sync::Arc;

use super::blocks::Blocks;
use crate::block::{Block, Ulid};
use crate::error::Result;
use crate::head::Head;
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};
use crate::query::{BlockSource, HeadSource, Merged, OutOfOrderSource, SelectRequest, SeriesSet, Source};

/// The head and the blocks as they were at one moment, as one source. Cheap to clone; whoever has one keeps what it sees.
#[derive(Clone)]
pub struct DbSource {
    merged: Merged,
    blocks: Arc<[Ulid]>,
}

impl std::fmt::Debug for DbSource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("DbSource")
    }
}

impl DbSource {
    pub(super) fn new(head: &Arc<Head>, blocks: &Blocks) -> Self {
        // The head first: what it gives back after this is in blocks that are served by then. Seen twice is harmless,
        // not at all would not be.
        let head = HeadSource::new(head.reader(TimeRange::ALL));
        let mut blocks: Vec<Arc<Block>> = blocks.all().to_vec();
        // Which sample wins where two have the same time: what came in order to the head, then as blocks are merged, then
        // what came out of order since.
        blocks.sort_by_key(|block| block.meta().precedence());
        let ulids = blocks.iter().map(|block| block.meta().ulid).collect();
        let late = OutOfOrderSource::new(&head);
        let mut sources: Vec<Arc<dyn Source>> = vec![Arc::new(head)];
        sources.extend(blocks.into_iter().map(|block| Arc::new(BlockSource::new(block)) as Arc<dyn Source>));
        sources.push(Arc::new(late));
        Self { merged: Merged::new(sources), blocks: ulids }
    }

    /// The blocks that are seen through it. Whoever has copies of them elsewhere leaves those out.
    ///
    /// A block leaves the directory only when its [`BlockGuard`](super::BlockGuard) lets it. If that says yes only once
    /// the copy is in a list, whoever takes a source first and looks at the list then finds every block in one of the two.
    #[must_use]
    pub fn blocks(&self) -> &[Ulid] {
        &self.blocks
    }
}

impl Source for DbSource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        self.merged.select(request)
    }
    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        self.merged.label_names(request)
    }
    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        self.merged.label_values(name, request)
    }
    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        self.merged.exemplars(range, matchers)
    }
    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        self.merged.metadata(metric)
    }
}
