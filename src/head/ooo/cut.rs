//! What came out of order, as a source of blocks; and forgetting it when blocks have it.
//!
//! ```text
//! cut        the gate is closed for a moment: a new segment begins; what came before it is in memory
//! blocks     are written of what came before, and served
//! shorten    the segments before go
//! forget     the chunks go, once no reader is left that was there before the blocks were
//! ```
//!
//! A crash between any two of them leaves samples in a block and in the log: they are read twice, and are the same.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use parking_lot::RwLockWriteGuard;

use super::super::Head;
use super::super::holds::Site;
use super::OutOfOrder;
use crate::block::{BlockRead, Symbols};
use crate::chunk::EncodedChunk;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{ChunkMeta, SeriesId, postings_for_matchers};
use crate::model::{Labels, Matcher, TimeRange};
use crate::wal::Log;

/// What had come out of order up to a moment.
#[derive(Debug)]
pub struct OutOfOrderCut {
    head: Arc<Head>,
    ids: Arc<[u32]>,
    /// Blocks had what came before this cut: it may lie here still, for readers, and some of it may have expired.
    from: u64,
    generation: u64,
    /// The first segment of the log that has nothing of it.
    segment: Option<u64>,
}

/// As long as it is there, no commit of samples out of order is applied.
#[derive(Debug)]
pub(crate) struct ClosedGate<'a> {
    _alone: RwLockWriteGuard<'a, ()>,
}

/// What blocks have of a cut; it may go when all readers of this stamp and before are gone.
#[derive(Debug)]
pub(super) struct Passed {
    stamp: u64,
    ids: Arc<[u32]>,
    generation: u64,
}

/// The part of a cut that lies in a span of time, as a block.
#[derive(Debug)]
pub struct OutOfOrderHead {
    head: Arc<Head>,
    ids: Arc<[u32]>,
    generations: Range<u64>,
    range: TimeRange,
}

impl Head {
    /// Everything that came out of order up to now, for blocks to be made of it; `None` if there is nothing, in memory or
    /// in the log. One cut at a time; give it to [`truncate_out_of_order`](Head::truncate_out_of_order) when it is in
    /// blocks. What comes meanwhile is not part of it.
    ///
    /// # Errors
    /// `Io`, `Full`.
    pub fn cut_out_of_order(self: &Arc<Self>) -> Result<Option<OutOfOrderCut>> {
        if !self.has_out_of_order()? {
            return Ok(None);
        }
        // What is in the log by now is synced while commits go on. With the gate closed there is little left to sync; who
        // waits for the gate then would wait for its turn in that log.
        self.out_of_order.log.as_ref().map_or(Ok(()), Log::sync)?;
        let closed = self.close_gate();
        let begun = self.begin_cut(&closed)?;
        drop(closed);
        Ok(Some(self.gather_cut(begun)))
    }

    /// As [`cut_out_of_order`](Head::cut_out_of_order), while nothing comes out of order.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn cut_out_of_order_within(self: &Arc<Self>, closed: &ClosedGate<'_>) -> Result<Option<OutOfOrderCut>> {
        if !self.has_out_of_order()? {
            return Ok(None);
        }
        Ok(Some(self.gather_cut(self.begin_cut(closed)?)))
    }

    /// Has commits of samples out of order wait.
    pub(crate) fn close_gate(&self) -> ClosedGate<'_> {
        ClosedGate { _alone: self.out_of_order.gate.write() }
    }

    /// Whether there is anything out of order, in memory or in the log.
    fn has_out_of_order(&self) -> Result<bool> {
        let table = &self.out_of_order;
        let is_logged = match &table.log {
            Some(log) => log.segments()? != (log.position().0, log.position().0) || log.position().1 > 0,
            None => false,
        };
        Ok(!table.is_empty() || is_logged)
    }

    /// Draws the line: the log's first segment and the generation of what comes after.
    fn begin_cut(&self, _: &ClosedGate<'_>) -> Result<(Option<u64>, u64)> {
        let table = &self.out_of_order;
        let segment = table.log.as_ref().map(Log::next_segment).transpose()?;
        Ok((segment, table.generation.fetch_add(1, AcqRel) + 1))
    }

    /// What is on this side of the line.
    fn gather_cut(self: &Arc<Self>, (segment, generation): (Option<u64>, u64)) -> OutOfOrderCut {
        let table = &self.out_of_order;
        let from = table.passed_to();
        let mut ids = table.ids();
        ids.retain(|id| {
            table.change(*id, |it| {
                it.touch(generation, self.isolation.low());
                it.chunks.iter().any(|chunk| chunk.generation < generation)
            })
        });
        OutOfOrderCut { head: Arc::clone(self), ids: ids.into(), from, generation, segment }
    }

    /// Forgets what is in `cut`, in the log and in memory: blocks have it, and are served. What open readers may still ask
    /// for stays until [`collect_out_of_order`](Head::collect_out_of_order) finds them gone.
    ///
    /// # Errors
    /// `Io`: the log is longer than it need be, and memory is not given back, until the next time.
    pub fn truncate_out_of_order(&self, cut: &OutOfOrderCut) -> Result<()> {
        let table = &self.out_of_order;
        // Before the stamp: a reader that does not see this yet was there before.
        table.passed_to.fetch_max(cut.generation, AcqRel);
        table.ahead_passed.fetch_max(table.ahead(), AcqRel);
        // Before memory is given back: as long as the log has these samples it must be told of what is deleted of them, and
        // memory says which there are.
        if let (Some(log), Some(segment)) = (&table.log, cut.segment) {
            log.truncate_in_order(segment)?;
        }
        let stamp = self.isolation.stamp();
        table.passed.lock().push(Passed { stamp, ids: Arc::clone(&cut.ids), generation: cut.generation });
        self.collect_out_of_order();
        Ok(())
    }

    /// Calls `work` with the span of what came out of order and is in no block; nothing comes meanwhile, so it has to be
    /// short. One caller at a time.
    pub(crate) fn while_nothing_comes_late<R>(&self, work: impl FnOnce(Option<TimeRange>) -> R) -> R {
        let table = &self.out_of_order;
        // What comes while the others are looked at is noted.
        table.came_from.store(i64::MAX, Release);
        table.came_to.store(i64::MIN, Release);
        let from = table.passed_to();
        let spans = table.ids().into_iter().filter_map(|id| table.look(id, |it| it.span_from(from)).flatten());
        let there = spans.reduce(|a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max)));
        let _alone = table.gate.write();
        let _hold = self.holds().begin(Site::LateHeld);
        let (came_from, came_to) = (table.came_from.load(Acquire), table.came_to.load(Acquire));
        let came = (came_from <= came_to).then(|| TimeRange::new(came_from, came_to));
        work(there.into_iter().chain(came).reduce(|a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max))))
    }

    /// Gives back what [`truncate_out_of_order`](Head::truncate_out_of_order) left; whether something is left still.
    pub fn collect_out_of_order(&self) -> bool {
        let table = &self.out_of_order;
        let mut passed = table.passed.lock();
        passed.retain(|Passed { stamp, ids, generation }| {
            if !self.isolation.readers_passed(*stamp) {
                return true;
            }
            for id in ids.iter() {
                let Some(series) = self.slots.get(*id) else { continue };
                let _page = series.lock();
                if table.has(*id) {
                    table.change(*id, |it| it.drop_before(*generation));
                }
            }
            false
        });
        !passed.is_empty()
    }
}

impl OutOfOrderCut {
    /// The samples in `range`, as a block.
    #[must_use]
    pub fn head(&self, range: TimeRange) -> OutOfOrderHead {
        let generations = self.from..self.generation;
        OutOfOrderHead { head: Arc::clone(&self.head), ids: Arc::clone(&self.ids), generations, range }
    }
}

fn reference(id: u32, index: usize) -> u64 {
    u64::from(id) << 32 | index as u64
}

fn no_series(id: u32) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("no series {id} in the head"))
}

impl OutOfOrderHead {
    /// The series' chunks that touch the range.
    fn metas(&self, id: u32) -> Vec<ChunkMeta> {
        let metas = self.head.out_of_order.look(id, |it| {
            let chunks = it.chunks.iter().enumerate();
            let inside =
                chunks.filter(|(_, it)| self.generations.contains(&it.generation) && it.range.overlaps(&self.range));
            let meta = |(index, it): (usize, &super::series::Chunk)| ChunkMeta {
                reference: reference(id, index),
                min_time: it.range.min,
                max_time: it.range.max,
            };
            inside.map(meta).collect()
        });
        metas.unwrap_or_default()
    }
}

impl BlockRead for OutOfOrderHead {
    fn time_range(&self) -> TimeRange {
        self.range
    }

    fn label_names(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for id in self.select(&[])? {
            names.extend(self.labels(id)?.iter().map(|(name, _)| name.to_owned()));
        }
        Ok(names.into_iter().collect())
    }

    fn label_values(&self, name: &str) -> Result<Vec<String>> {
        let mut values = BTreeSet::new();
        for id in self.select(&[])? {
            values.extend(self.labels(id)?.get(name).map(str::to_owned));
        }
        Ok(values.into_iter().collect())
    }

    fn select(&self, matchers: &[Matcher]) -> Result<Vec<SeriesId>> {
        let wanted = match matchers {
            [] => None,
            matchers => Some(postings_for_matchers(&self.head.labels, matchers)?),
        };
        let mut buffer = Vec::new();
        let mut sorted: Vec<(Labels, u32)> = Vec::new();
        for id in self.ids.iter().copied() {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(id)) || self.metas(id).is_empty() {
                continue;
            }
            let series = self.head.slots.get(id).ok_or_else(|| no_series(id))?;
            sorted.push((series.lock().labels().to_labels(&mut buffer), id));
        }
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(sorted.into_iter().map(|(_, id)| SeriesId(id)).collect())
    }

    /// The chunks overlap, and come in order of precedence.
    fn series(&self, id: SeriesId, labels: &mut Labels, chunks: &mut Vec<ChunkMeta>) -> Result<()> {
        *labels = self.labels(id)?;
        *chunks = self.metas(id.0);
        Ok(())
    }

    fn labels(&self, id: SeriesId) -> Result<Labels> {
        let series = self.head.slots.get(id.0).ok_or_else(|| no_series(id.0))?;
        Ok(series.lock().labels().to_labels(&mut Vec::new()))
    }

    fn chunk(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        let (id, index) = ((meta.reference >> 32) as u32, meta.reference as u32 as usize);
        let data = self.head.out_of_order.look(id, |it| it.chunks.get(index).map(|chunk| chunk.data.clone()));
        data.flatten().ok_or_else(|| no_series(id))?.load()
    }

    fn tombstones(&self, _id: SeriesId) -> Cow<'_, [TimeRange]> {
        // What is deleted is not there any more.
        Cow::Borrowed(&[])
    }

    fn symbols(&self) -> Result<Symbols<'_>> {
        // The original keeps the list of all series under a pair of empty strings, so its blocks have this one too.
        let mut symbols = BTreeSet::from([String::new()]);
        for id in self.select(&[])? {
            for (name, value) in &self.labels(id)? {
                for symbol in [name, value] {
                    if !symbols.contains(symbol) {
                        symbols.insert(symbol.to_owned());
                    }
                }
            }
        }
        Ok(Box::new(symbols.into_iter().map(|symbol| Ok(Cow::Owned(symbol)))))
    }
}

impl Head {
    /// How many series have samples out of order that are not in a block.
    #[must_use]
    pub fn out_of_order_series(&self) -> u64 {
        self.out_of_order.series()
    }

    /// From the first to the last sample of a series that is out of order.
    pub(in crate::head) fn out_of_order_span_of(&self, id: u32) -> Option<TimeRange> {
        self.out_of_order.look(id, OutOfOrder::span).flatten()
    }

    /// From the first to the last sample that is out of order and not in a block: looks at all of them.
    #[must_use]
    pub fn out_of_order_span(&self) -> Option<TimeRange> {
        let spans = self.out_of_order.ids().into_iter();
        let spans = spans.filter_map(|id| self.out_of_order.look(id, OutOfOrder::span).flatten());
        spans.reduce(|a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max)))
    }
}
