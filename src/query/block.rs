//! Anything shaped like a block, as a source.

use std::sync::Arc;

use super::{ChunkData, ChunkLoader, Paced, SelectRequest, Series, SeriesChunk, SeriesSet, Source};
use crate::block::BlockRead;
use crate::chunk::EncodedChunk;
use crate::error::Result;
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Labels, TimeRange};

/// A block as a source.
pub struct BlockSource<B: ?Sized> {
    block: Arc<B>,
}

impl<B: BlockRead + 'static> BlockSource<B> {
    /// A source of `block`'s series.
    #[must_use]
    pub fn new(block: Arc<B>) -> Self {
        Self { block }
    }
}

impl<B: BlockRead + 'static> Source for BlockSource<B> {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        request.budget.check()?;
        let range = request.range.intersect(&self.block.time_range());
        let mut ids = match range {
            Some(_) => self.block.select(request.matchers)?,
            None => Vec::new(),
        };
        ids.reverse();
        let limit = if request.hints.limit == 0 { usize::MAX } else { request.hints.limit };
        Ok(Box::new(BlockSet {
            block: Arc::clone(&self.block),
            loader: Arc::new(BlockLoader(Arc::clone(&self.block))),
            visible: self.block.time_range(),
            range: range.unwrap_or(request.range),
            labels_only: request.hints.labels_only,
            left: limit,
            paced: Paced::new(request.budget),
            ids,
            labels: Labels::empty(),
            metas: Vec::new(),
        }))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        if !request.range.overlaps(&self.block.time_range()) {
            return Ok(Vec::new());
        }
        Ok(request.hints.first_of(self.block.label_names_for(request.matchers, request.budget)?))
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        if !request.range.overlaps(&self.block.time_range()) {
            return Ok(Vec::new());
        }
        Ok(request.hints.first_of(self.block.label_values_for(name, request.matchers, request.budget)?))
    }
}

/// The series of a select, read as they are asked for.
struct BlockSet<B: ?Sized> {
    block: Arc<B>,
    loader: Arc<dyn ChunkLoader>,
    visible: TimeRange,
    range: TimeRange,
    labels_only: bool,
    left: usize,
    paced: Paced,
    /// From last to first.
    ids: Vec<SeriesId>,
    /// What was read last: an empty set each time would be an allocation.
    labels: Labels,
    metas: Vec<ChunkMeta>,
}

impl<B: BlockRead + ?Sized> SeriesSet for BlockSet<B> {
    fn next(&mut self) -> Result<Option<Series>> {
        while self.left > 0 {
            let Some(id) = self.ids.pop() else { break };
            self.paced.check()?;
            let range = self.range;
            let deleted = self.block.tombstones(id);
            if self.labels_only && deleted.is_empty() {
                let Some(labels) = self.block.labels_in(id, range)? else { continue };
                self.left -= 1;
                return Ok(Some(Series { labels, chunks: Vec::new() }));
            }
            self.block.series(id, &mut self.labels, &mut self.metas)?;
            self.metas.retain(|meta| {
                let span = TimeRange::new(meta.min_time, meta.max_time);
                let is_gone = |by: &TimeRange| by.min <= span.min.max(range.min) && span.max.min(range.max) <= by.max;
                span.overlaps(&range) && !deleted.iter().any(is_gone)
            });
            if self.metas.is_empty() || (!deleted.is_empty() && self.block.is_deleted(id)?) {
                continue;
            }
            self.left -= 1;
            let mut chunks = Vec::new();
            if !self.labels_only {
                let deleted: Option<Arc<[TimeRange]>> = (!deleted.is_empty()).then(|| Arc::from(&*deleted));
                chunks.reserve_exact(self.metas.len());
                chunks.extend(self.metas.iter().map(|meta| SeriesChunk {
                    range: TimeRange::new(meta.min_time, meta.max_time),
                    data: ChunkData::Later { loader: Arc::clone(&self.loader), meta: *meta },
                    visible: self.visible,
                    deleted: deleted.clone(),
                    source: 0,
                }));
            }
            return Ok(Some(Series { labels: self.labels.clone(), chunks }));
        }
        Ok(None)
    }
}

struct BlockLoader<B: ?Sized>(Arc<B>);

impl<B: BlockRead + ?Sized> ChunkLoader for BlockLoader<B> {
    fn load(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        self.0.chunk(meta)
    }
}
