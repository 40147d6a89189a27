//! The head, as a source: one view of it for all selects.

use std::sync::Arc;

use super::{ChunkData, ChunkLoader, Paced, SelectRequest, Series, SeriesChunk, SeriesSet, Source};
use crate::chunk::EncodedChunk;
use crate::error::Result;
use crate::head::mapped::{ChunkFile, ChunkPlace};
use crate::head::{HeadChunk, HeadData, HeadReader};
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};

/// A view of the head as a source. All selects see the same commits.
#[derive(Debug, Clone)]
pub struct HeadSource {
    reader: Arc<HeadReader>,
}

impl HeadSource {
    /// A source of what `reader` sees.
    #[must_use]
    pub fn new(reader: HeadReader) -> Self {
        Self { reader: Arc::new(reader) }
    }

    /// The view.
    pub(super) fn reader(&self) -> &Arc<HeadReader> {
        &self.reader
    }

    fn set(&self, request: &SelectRequest<'_>, labels_only: bool, limit: usize) -> Result<HeadSet> {
        request.budget.check()?;
        let range = request.range;
        let mut series = match range.intersect(&self.reader.range()) {
            Some(_) => self.reader.select(request.matchers)?,
            None => Vec::new(),
        };
        series.reverse();
        Ok(HeadSet {
            reader: Arc::clone(&self.reader),
            series,
            range,
            labels_only,
            left: if limit == 0 { usize::MAX } else { limit },
            paced: Paced::new(request.budget),
            chunks: Vec::new(),
            hidden: Vec::new(),
        })
    }
}

impl HeadSource {
    /// `all` without matchers, else what `collect` finds in the labels of the series that match.
    fn strings(
        &self,
        request: &SelectRequest<'_>,
        all: impl Fn(&HeadReader) -> Vec<String>,
        collect: impl FnMut(&Labels, &mut Vec<String>),
    ) -> Result<Vec<String>> {
        if request.matchers.is_empty() {
            // Of the whole head: which series has samples in the range is not looked for. The reader's range has no end.
            let touches = self.reader.span().is_some_and(|span| span.overlaps(&request.range));
            return Ok(if touches { request.hints.first_of(all(&self.reader)) } else { Vec::new() });
        }
        collect_strings(&mut self.set(request, true, 0)?, request, collect)
    }
}

impl Source for HeadSource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        let set = self.set(request, request.hints.labels_only, request.hints.limit)?;
        Ok(Box::new(set))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        self.strings(request, HeadReader::label_names, |labels, names| {
            names.extend(labels.iter().map(|(name, _)| name.to_owned()));
        })
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let all = |reader: &HeadReader| reader.label_values(name);
        self.strings(request, all, |labels, values| values.extend(labels.get(name).map(str::to_owned)))
    }

    fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        self.reader.exemplars(range, matchers)
    }

    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Metadata)>> {
        Ok(self.reader.metadata(metric))
    }
}

/// What `collect` finds in the labels of the series of `set`, sorted, each once, as many as are asked for.
pub(super) fn collect_strings(
    set: &mut dyn SeriesSet,
    request: &SelectRequest<'_>,
    mut collect: impl FnMut(&Labels, &mut Vec<String>),
) -> Result<Vec<String>> {
    /// They are sorted out when there are so many, since most are the same few again.
    const COLLECTED: usize = 1 << 16;
    let mut found = Vec::new();
    while let Some(series) = set.next()? {
        collect(&series.labels, &mut found);
        if found.len() > COLLECTED {
            request.budget.check()?;
            found.sort_unstable();
            found.dedup();
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(request.hints.first_of(found))
}

/// A chunk of the head, which is read when it is needed.
pub(super) fn promise(range: TimeRange, data: HeadData) -> ChunkData {
    match data {
        HeadData::Ready(chunk) => ChunkData::Ready(chunk),
        HeadData::InFile(loader, place) => {
            let meta = ChunkMeta { reference: place.0, min_time: range.min, max_time: range.max };
            ChunkData::Later { loader, meta }
        }
        HeadData::Gone(place) => {
            let meta = ChunkMeta { reference: place.0, min_time: range.min, max_time: range.max };
            ChunkData::Later { loader: Arc::new(Gone), meta }
        }
    }
}

impl ChunkLoader for ChunkFile {
    /// `meta` refers to a place in this file.
    fn load(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        Ok(self.read(ChunkPlace(meta.reference))?)
    }
}

/// In the place of a file that is not there any more.
struct Gone;

impl ChunkLoader for Gone {
    fn load(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        HeadData::Gone(ChunkPlace(meta.reference)).load()
    }
}

struct HeadSet {
    reader: Arc<HeadReader>,
    /// From last to first.
    series: Vec<(SeriesId, Labels)>,
    range: TimeRange,
    labels_only: bool,
    left: usize,
    paced: Paced,
    chunks: Vec<HeadChunk>,
    hidden: Vec<TimeRange>,
}

impl SeriesSet for HeadSet {
    fn next(&mut self) -> Result<Option<Series>> {
        while self.left > 0 {
            let Some((id, labels)) = self.series.pop() else { break };
            self.paced.check()?;
            self.reader.chunks(id, &mut self.chunks, &mut self.hidden);
            let range = self.range;
            let is_hidden = |span: &TimeRange| self.hidden.iter().any(|h| h.min <= span.min && span.max <= h.max);
            self.chunks.retain(|chunk| chunk.range.overlaps(&range) && !is_hidden(&chunk.range));
            if self.chunks.is_empty() {
                continue;
            }
            self.left -= 1;
            if self.labels_only {
                return Ok(Some(Series { labels, chunks: Vec::new() }));
            }
            let deleted: Option<Arc<[TimeRange]>> = (!self.hidden.is_empty()).then(|| Arc::from(&*self.hidden));
            let visible = self.reader.range();
            let chunks = self.chunks.drain(..).map(|HeadChunk { range, data, .. }| SeriesChunk {
                range,
                data: promise(range, data),
                visible,
                deleted: deleted.clone(),
                source: 0,
            });
            return Ok(Some(Series { labels, chunks: chunks.collect() }));
        }
        Ok(None)
    }
}
