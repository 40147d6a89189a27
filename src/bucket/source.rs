//! The blocks of a bucket as a source for queries.
//!
//! A select starts a task for each block that can have something, and returns. A task reads the index's header, then the
//! postings lists that the matchers need, then the series, each in one round of requests; then it begins to fetch the
//! first window of chunks. So all blocks wait for the store at the same time, and the caller waits once a stage.

use std::sync::{Arc, Weak};

use super::block::{BucketBlock, Charge, Shared, passes};
use super::list::BlockList;
use super::listed::ListedBlock;
use super::range_cache::RangeCache;
use super::task::Task;
use super::window::{NeededChunk, Window, chunk_max};
use crate::block::Ulid;
use crate::budget::Budget;
use crate::codec::FixedSet;
use crate::error::Result;
use crate::index::ChunkMeta;
use crate::model::{Labels, Matcher, TimeRange};
use crate::query::{
    ChunkData, ChunkLoader, SelectRequest, Series, SeriesChunk, SeriesSet, Source, merge_at_most, merge_sorted_strings,
    strip_matchers,
};

/// Bytes of chunks that all blocks of a select fetch at a time.
const WINDOWS: u64 = 64 << 20;
/// The largest window of one block.
const WINDOW_MAX: u64 = 4 << 20;
/// The smallest: less is not worth a request.
const WINDOW_MIN: u64 = 256 << 10;

/// The blocks of a bucket, as the list has them when they are asked. Clones share everything.
#[derive(Debug, Clone)]
pub struct BucketSource {
    list: Arc<BlockList>,
    shared: Arc<Shared>,
    excluded: Arc<FixedSet<Ulid>>,
}

impl BucketSource {
    /// A source of the raw blocks of `list`; what is read stays in `cache`, which may serve other buckets too.
    #[must_use]
    pub fn new(list: Arc<BlockList>, cache: Arc<RangeCache>) -> Self {
        let shared = Shared {
            bucket: list.bucket().clone(),
            space: cache.new_space(),
            cache,
            env: list.env().clone(),
            cache_dir: list.cache_dir().map(std::path::Path::to_owned),
        };
        Self { list, shared: Arc::new(shared), excluded: Arc::default() }
    }

    /// The same without the blocks `ulids`, which are read elsewhere, and without those that were merged from none but
    /// them.
    #[must_use]
    pub fn excluding(&self, ulids: &FixedSet<Ulid>) -> Self {
        Self { excluded: Arc::new(ulids.clone()), ..self.clone() }
    }

    /// The list.
    #[must_use]
    pub fn list(&self) -> &Arc<BlockList> {
        &self.list
    }

    /// The blocks that can have samples in `range`, in order of precedence.
    fn blocks(&self, range: TimeRange) -> Vec<Arc<BucketBlock>> {
        let is_excluded = |block: &ListedBlock| {
            let sources = block.sources();
            self.excluded.contains(&block.ulid())
                || (!sources.is_empty() && sources.iter().all(|source| self.excluded.contains(source)))
        };
        let blocks = self.list.blocks();
        let wanted = blocks
            .iter()
            .filter(|block| block.resolution_ms() == 0 && block.time_range().overlaps(&range) && !is_excluded(block));
        wanted
            .map(|listed| Arc::new(BucketBlock { shared: Arc::clone(&self.shared), listed: Arc::clone(listed) }))
            .collect()
    }
}

impl Source for BucketSource {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        let blocks = self.blocks(request.range);
        let blocks: Vec<_> = blocks
            .into_iter()
            // The external labels are known: only matchers of a series' own labels are asked in the block.
            .filter_map(|block| strip_matchers(block.listed.labels(), request.matchers).map(|own| (block, own)))
            .collect();
        let window = (WINDOWS / (blocks.len() as u64).max(1)).clamp(WINDOW_MIN, WINDOW_MAX);
        let limit = if request.hints.limit == 0 { usize::MAX } else { request.hints.limit };
        let sets = blocks.into_iter().map(|(block, matchers)| {
            let wanted = Wanted {
                range: request.range,
                matchers,
                labels_only: request.hints.labels_only,
                limit,
                window,
                budget: request.budget.clone(),
            };
            let visible = block.listed.time_range();
            let runtime = block.shared.bucket.runtime().clone();
            let task = Task::spawn(&runtime, async move { read(&block, wanted).await });
            let (budget, found) = (request.budget.clone(), None);
            Box::new(BlockSet { task: Some(task), found, budget, visible, left: limit }) as Box<dyn SeriesSet>
        });
        Ok(merge_at_most(sets.collect(), request.hints.limit))
    }

    fn label_names(&self, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        self.strings(request, |block, matchers, budget| async move {
            let mut names = block.label_names(&matchers, &budget).await?;
            if !names.is_empty() {
                names.extend(block.listed.labels().iter().map(|(name, _)| name.to_owned()));
                names.sort_unstable();
                names.dedup();
            }
            Ok(names)
        })
    }

    fn label_values(&self, name: &str, request: &SelectRequest<'_>) -> Result<Vec<String>> {
        let name: Arc<str> = name.into();
        self.strings(request, |block, matchers, budget| {
            let name = Arc::clone(&name);
            async move {
                match block.listed.labels().get(&name) {
                    None => block.label_values(&name, &matchers, &budget).await,
                    Some(value) if block.has_any(&matchers, &budget).await? => Ok(vec![value.to_owned()]),
                    Some(_) => Ok(Vec::new()),
                }
            }
        })
    }
}

impl BucketSource {
    /// What `read` answers for each block, all at the same time, as one list.
    fn strings<F: Future<Output = Result<Vec<String>>> + Send + 'static>(
        &self,
        request: &SelectRequest<'_>,
        mut read: impl FnMut(Arc<BucketBlock>, Vec<Matcher>, Budget) -> F,
    ) -> Result<Vec<String>> {
        let runtime = self.shared.bucket.runtime();
        let mut start = |block: Arc<BucketBlock>| {
            let own = strip_matchers(block.listed.labels(), request.matchers)?;
            Some(Task::spawn(runtime, read(block, own, request.budget.clone())))
        };
        let tasks: Vec<_> = self.blocks(request.range).into_iter().filter_map(&mut start).collect();
        let lists = tasks.iter().map(|task| task.wait(request.budget)).collect::<Result<_>>()?;
        Ok(request.hints.first_of(merge_sorted_strings(lists)))
    }
}

/// What a select wants of a block.
struct Wanted {
    range: TimeRange,
    matchers: Vec<Matcher>,
    labels_only: bool,
    limit: usize,
    window: u64,
    budget: Budget,
}

/// A series that was found, its chunks by their place in the block's list.
struct FoundSeries {
    labels: Labels,
    first: usize,
    count: usize,
}

/// What was found in a block.
struct Found {
    series: std::iter::Peekable<std::vec::IntoIter<FoundSeries>>,
    chunks: Vec<ChunkMeta>,
    /// The windows, each with the number of the first chunk that is not in it.
    windows: Vec<(usize, Arc<Window>)>,
    /// What the above takes.
    _charge: Charge,
}

/// Finds the series of a block, and begins to fetch their chunks.
async fn read(block: &Arc<BucketBlock>, wanted: Wanted) -> Result<Found> {
    let header = block.header().await?;
    let mut charge = Charge::new(&wanted.budget);
    let selected = block.select(&header, &wanted.matchers, &mut charge).await?;
    let external = block.listed.labels();
    // Two series can become one under labels that replace their own.
    let replaces = header.label_names().any(|name| external.get(name).is_some());
    let limit = if replaces { usize::MAX } else { wanted.limit };
    let range = wanted.range.intersect(&block.listed.time_range()).unwrap_or(wanted.range);

    let mut series: Vec<FoundSeries> = Vec::new();
    let mut needed: Vec<NeededChunk> = Vec::new();
    block
        .series(&header, &selected.ids, &mut charge, |labels, chunks| {
            let overlaps = |chunk: &ChunkMeta| TimeRange::new(chunk.min_time, chunk.max_time).overlaps(&range);
            if !passes(&selected.late, labels) || !chunks.iter().any(overlaps) {
                return Ok(true);
            }
            let first = needed.len();
            if !wanted.labels_only {
                let ends = chunks.iter().skip(1).map(|next| Some(next.reference)).chain([None]);
                for (chunk, next) in chunks.iter().zip(ends).filter(|(chunk, _)| overlaps(chunk)) {
                    let same = |next: &u64| *next > chunk.reference && next >> 32 == chunk.reference >> 32;
                    needed.push(NeededChunk { meta: *chunk, end: next.filter(same).map(|next| next & 0xffff_ffff) });
                }
            }
            let labels = std::mem::take(labels);
            let labels = if external.is_empty() { labels } else { labels.with(external) };
            series.push(FoundSeries { labels, first, count: needed.len() - first });
            Ok(series.len() < limit)
        })
        .await?;
    // The records are gone; what was made of them stays.
    drop(charge);
    let mut charge = Charge::new(&wanted.budget);
    let labels: usize = series.iter().map(|series| size_of::<FoundSeries>() + series.labels.as_packed().len()).sum();
    charge.add((labels + needed.len() * size_of::<ChunkMeta>()) as u64)?;

    Ok(found(block, &wanted, series, needed, charge))
}

/// Puts together what was found, and begins to fetch the first chunks.
fn found(
    block: &Arc<BucketBlock>,
    wanted: &Wanted,
    mut series: Vec<FoundSeries>,
    mut needed: Vec<NeededChunk>,
    charge: Charge,
) -> Found {
    let windows = windows(block, wanted, &series, &mut needed);
    if let Some((_, first)) = windows.first() {
        first.start();
    }
    // Labels that are added can change the order, of a few at most: the chunks stay as they are.
    if !series.is_sorted_by(|a, b| a.labels <= b.labels) {
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
    }
    let chunks = needed.into_iter().map(|chunk| chunk.meta).collect();
    Found { series: series.into_iter().peekable(), chunks, windows, _charge: charge }
}

/// Cuts the chunks into windows at the ends of series.
fn windows(
    block: &Arc<BucketBlock>,
    wanted: &Wanted,
    series: &[FoundSeries],
    needed: &mut [NeededChunk],
) -> Vec<(usize, Arc<Window>)> {
    let most = chunk_max(block);
    // A series' last chunk ends where the next one's first begins, if those two are neighbours in the file.
    for at in 1..needed.len() {
        if let Some([chunk, next]) = needed.get_mut(at - 1..=at)
            && chunk.end.is_none()
            && next.meta.reference > chunk.meta.reference
            && next.meta.reference >> 32 == chunk.meta.reference >> 32
        {
            chunk.end = Some(next.meta.reference & 0xffff_ffff);
        }
    }
    let (mut ends, mut bytes) = (Vec::new(), 0);
    for series in series {
        let end = series.first + series.count;
        bytes += needed.get(series.first..end).unwrap_or_default().iter().map(|chunk| chunk.len(most)).sum::<u64>();
        if bytes >= wanted.window {
            ends.push(end);
            bytes = 0;
        }
    }
    if bytes > 0 {
        ends.push(needed.len());
    }
    // From the last to the first: each knows the one after it.
    let mut windows: Vec<(usize, Arc<Window>)> = Vec::with_capacity(ends.len());
    for (number, end) in ends.iter().enumerate().rev() {
        let start = number.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        let next = windows.last().map_or_else(Weak::new, |(_, window)| Arc::downgrade(window));
        let chunks = needed.get(start..*end).unwrap_or_default();
        windows.push((*end, Window::new(block, &wanted.budget, chunks, next)));
    }
    windows.reverse();
    windows
}

impl Found {
    /// Appends a series' chunks to `chunks`; `source` tells them from those of another series of the same labels.
    fn chunks(&self, series: &FoundSeries, visible: TimeRange, source: u32, chunks: &mut Vec<SeriesChunk>) {
        // Windows end where a series does, so its chunks are in one.
        let at = self.windows.partition_point(|(end, _)| *end <= series.first);
        let Some((_, window)) = self.windows.get(at) else { return };
        let loader: Arc<dyn ChunkLoader> = Arc::clone(window) as _;
        let metas = self.chunks.get(series.first..series.first + series.count).unwrap_or_default();
        chunks.reserve_exact(metas.len());
        chunks.extend(metas.iter().map(|meta| SeriesChunk {
            range: TimeRange::new(meta.min_time, meta.max_time),
            data: ChunkData::Later { loader: Arc::clone(&loader), meta: *meta },
            visible,
            deleted: None,
            source,
        }));
    }
}

/// The series of one block.
struct BlockSet {
    task: Option<Task<Found>>,
    found: Option<Found>,
    budget: Budget,
    visible: TimeRange,
    left: usize,
}

impl SeriesSet for BlockSet {
    fn next(&mut self) -> Result<Option<Series>> {
        if let Some(task) = self.task.take() {
            self.found = Some(task.wait(&self.budget)?);
        }
        let Some(found) = &mut self.found else { return Ok(None) };
        let Some(series) = found.series.next().filter(|_| self.left > 0) else {
            self.found = None;
            return Ok(None);
        };
        self.left -= 1;
        let mut chunks = Vec::new();
        found.chunks(&series, self.visible, 0, &mut chunks);
        let mut source = 0;
        while let Some(same) = found.series.next_if(|next| next.labels == series.labels) {
            source += 1;
            found.chunks(&same, self.visible, source, &mut chunks);
        }
        Ok(Some(Series { labels: series.labels, chunks }))
    }
}
