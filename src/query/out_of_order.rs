//! What came out of order to the head, as a source of its own: it stands behind the blocks.

use std::sync::Arc;

use super::head::{collect_strings, promise};
use super::{HeadSource, Paced, SelectRequest, Series, SeriesChunk, SeriesSet, Source};
use crate::error::Result;
use crate::head::{HeadReader, OutOfOrderChunk};
use crate::index::SeriesId;
use crate::model::{Labels, TimeRange};

/// What came out of order to a head, as a source behind all others: it loses wherever they have a sample at the same time.
#[derive(Debug, Clone)]
pub struct OutOfOrderSource {
    reader: Arc<HeadReader>,
}

impl OutOfOrderSource {
    /// What the reader of `head` sees that came out of order.
    #[must_use]
    pub fn new(head: &HeadSource) -> Self {
        Self { reader: Arc::clone(head.reader()) }
    }

    fn set(&self, request: &SelectRequest<'_>, labels_only: bool, limit: usize) -> Result<LateSet> {
        request.budget.check()?;
        let mut series = self.reader.select_out_of_order(request.matchers)?;
        series.reverse();
        let left = if limit == 0 { usize::MAX } else { limit };
        Ok(LateSet {
            reader: Arc::clone(&self.reader),
            series,
            range: request.range,
            labels_only,
            left,
            paced: Paced::new(request.budget),
            chunks: Vec::new(),
        })
    }
}

impl Source for OutOfOrderSource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        let set = self.set(request, request.hints.labels_only, request.hints.limit)?;
        Ok(Box::new(set))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let mut set = self.set(request, true, 0)?;
        collect_strings(&mut set, request, |labels, names| names.extend(labels.iter().map(|(name, _)| name.to_owned())))
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let mut set = self.set(request, true, 0)?;
        collect_strings(&mut set, request, |labels, values| values.extend(labels.get(name).map(str::to_owned)))
    }
}

struct LateSet {
    reader: Arc<HeadReader>,
    /// From last to first.
    series: Vec<(SeriesId, Labels)>,
    range: TimeRange,
    labels_only: bool,
    left: usize,
    paced: Paced,
    chunks: Vec<OutOfOrderChunk>,
}

impl SeriesSet for LateSet {
    fn next(&mut self) -> Result<Option<Series>> {
        while self.left > 0 {
            let Some((id, labels)) = self.series.pop() else { break };
            self.paced.check()?;
            self.reader.out_of_order(id, self.range, &mut self.chunks);
            if self.chunks.is_empty() {
                continue;
            }
            self.left -= 1;
            if self.labels_only {
                return Ok(Some(Series { labels, chunks: Vec::new() }));
            }
            let chunks = self.chunks.drain(..).map(|OutOfOrderChunk { range, data, hide }| SeriesChunk {
                deleted: (!hide.is_empty()).then(|| Arc::from(hide)),
                ..SeriesChunk::new(range, promise(range, data))
            });
            return Ok(Some(Series { labels, chunks: chunks.collect() }));
        }
        Ok(None)
    }
}
