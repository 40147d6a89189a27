//! Chunks of a select on one block, fetched in windows of a few megabytes in the order of the series.
//!
//! The first window is fetched as soon as the series are known, each later one when the one before it is first looked
//! into. A window whose chunks have all been taken lets go of its bytes; if one is asked for again it is fetched again,
//! mostly out of the cache. So what a select holds does not grow with what it reads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::block::{BucketBlock, Charge};
use super::range_cache::Pages;
use super::task::Task;
use crate::block::{BlockError, CHUNKS_DIR, chunk_len, segment_name, split_chunk};
use crate::budget::Budget;
use crate::chunk::{EncodedChunk, Encoding};
use crate::error::{Error, ErrorKind, Result};
use crate::index::ChunkMeta;
use crate::query::ChunkLoader;

/// The largest chunk that is expected where `meta.json` does not tell: Thanos's number.
const CHUNK_MAX: u64 = 16_000;
/// A chunk that says it is longer than this is not believed.
const CHUNK_LONGEST: u64 = 16 << 20;
/// Where the first chunk of a segment can begin.
const SEGMENT_HEADER: u64 = 8;

/// A chunk that a select needs, and where it ends if something tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct NeededChunk {
    pub(super) meta: ChunkMeta,
    /// The offset of the next chunk in the same segment.
    pub(super) end: Option<u64>,
}

impl NeededChunk {
    /// Bytes to read for it; `most` is the most that a chunk is expected to take.
    pub(super) fn len(&self, most: u64) -> u64 {
        match self.end {
            // What stands between two chunks of a series may be other series' too.
            Some(end) => (end - offset(self.meta.reference)).min(most),
            None => most,
        }
    }
}

/// The chunks of neighbouring series.
pub(super) struct Window {
    block: Arc<BucketBlock>,
    budget: Budget,
    /// By segment, the bytes to read.
    ranges: Arc<BTreeMap<u32, Vec<Range<u64>>>>,
    /// Nobody but its own series keeps it.
    next: Weak<Window>,
    state: Mutex<State>,
    count: usize,
    /// Chunks not asked for since the bytes came.
    left: AtomicUsize,
}

enum State {
    Idle,
    Running(Task<Loaded>),
    Ready(Arc<Loaded>),
    Failed(ErrorKind, String),
}

/// A window's bytes.
struct Loaded {
    segments: BTreeMap<u32, Pages>,
    _charge: Charge,
}

/// The segment of a chunk, and its offset there.
fn segment(reference: u64) -> u32 {
    (reference >> 32) as u32
}

fn offset(reference: u64) -> u64 {
    reference & 0xffff_ffff
}

/// The most that a chunk of the block is expected to take.
pub(super) fn chunk_max(block: &BucketBlock) -> u64 {
    if block.listed.chunk_max_size == 0 { CHUNK_MAX } else { block.listed.chunk_max_size }
}

impl Window {
    pub(super) fn new(
        block: &Arc<BucketBlock>,
        budget: &Budget,
        chunks: &[NeededChunk],
        next: Weak<Self>,
    ) -> Arc<Self> {
        let most = chunk_max(block);
        let mut ranges: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
        for chunk in chunks {
            let start = offset(chunk.meta.reference);
            ranges.entry(segment(chunk.meta.reference)).or_default().push(start..start + chunk.len(most));
        }
        for ranges in ranges.values_mut() {
            ranges.sort_unstable_by_key(|range| range.start);
        }
        Arc::new(Self {
            block: Arc::clone(block),
            budget: budget.clone(),
            ranges: Arc::new(ranges),
            next,
            state: Mutex::new(State::Idle),
            count: chunks.len(),
            left: AtomicUsize::new(chunks.len()),
        })
    }

    /// Begins to fetch, if nobody has.
    pub(super) fn start(&self) {
        // Whoever holds the lock is starting it, or waiting for it.
        if let Some(mut state) = self.state.try_lock() {
            self.start_locked(&mut state);
        }
    }

    fn start_locked(&self, state: &mut State) {
        if let State::Idle = state {
            let (block, ranges) = (Arc::clone(&self.block), Arc::clone(&self.ranges));
            let charge = Charge::new(&self.budget);
            let work = async move { fetch(&block, &ranges, charge).await };
            *state = State::Running(Task::spawn(self.block.shared.bucket.runtime(), work));
        }
    }

    fn loaded(&self) -> Result<Arc<Loaded>> {
        let mut state = self.state.lock();
        self.start_locked(&mut state);
        if let State::Running(task) = &*state {
            *state = match task.wait(&self.budget) {
                Ok(loaded) => {
                    self.left.store(self.count, Ordering::Relaxed);
                    State::Ready(Arc::new(loaded))
                }
                Err(error) => State::Failed(error.kind(), error.to_string()),
            };
        }
        match &*state {
            State::Ready(loaded) => Ok(Arc::clone(loaded)),
            State::Failed(kind, text) => Err(Error::new(*kind, text.as_str())),
            State::Idle | State::Running(_) => Err(Error::new(ErrorKind::NotReady, "a window of chunks did not come")),
        }
    }

    fn damaged(&self, reference: u64, reason: impl ToString) -> Error {
        let name = format!("{CHUNKS_DIR}/{}", segment_name(segment(reference) as usize));
        BlockError::corrupt(Path::new(&self.block.file_name(&name)), offset(reference), reason).into()
    }
}

impl ChunkLoader for Window {
    fn load(&self, meta: &ChunkMeta) -> Result<EncodedChunk> {
        if let Some(next) = self.next.upgrade() {
            next.start();
        }
        let reference = meta.reference;
        if offset(reference) < SEGMENT_HEADER {
            return Err(self.damaged(reference, "a chunk cannot begin in the header"));
        }
        let loaded = self.loaded()?;
        let start = offset(reference);
        let len = loaded
            .segments
            .get(&segment(reference))
            .and_then(|pages| Some((pages, chunk_len(&pages.slice(start..start + 10))?)));
        let Some((pages, len)) = len else { return Err(self.damaged(reference, "the chunk is not there")) };
        let bytes = pages.slice(start..start.saturating_add(len));
        let (byte, data) = split_chunk(&bytes).map_err(|reason| self.damaged(reference, reason))?;
        let data = bytes.slice_ref(data);
        let encoding = Encoding::from_byte(byte).map_err(|error| {
            let error = self.damaged(reference, error);
            Error::new(ErrorKind::Unsupported, error.to_string())
        })?;
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
            && let Some(mut state) = self.state.try_lock()
        {
            *state = State::Idle;
        }
        Ok(EncodedChunk { encoding, data })
    }
}

/// Reads all ranges: one round of requests, and another if a chunk is longer than expected.
async fn fetch(block: &BucketBlock, ranges: &BTreeMap<u32, Vec<Range<u64>>>, mut charge: Charge) -> Result<Loaded> {
    // Before anything is asked for: a query that may not hold it does not fetch it.
    let planned = ranges.values().flatten().map(|range| range.end - range.start).sum();
    charge.add(planned)?;
    let segments = ranges.iter().map(|(number, ranges)| async move {
        let mut pages = block.read_segment(*number, ranges.iter().cloned()).await?;
        let longer: Vec<_> = ranges
            .iter()
            .filter_map(|range| {
                let len = chunk_len(&pages.slice(range.start..range.start + 10)).filter(|len| *len <= CHUNK_LONGEST)?;
                (len > pages.available(range.start, len)).then(|| range.start..range.start.saturating_add(len))
            })
            .collect();
        if !longer.is_empty() {
            pages.extend(block.read_segment(*number, longer).await?);
        }
        Ok::<_, Error>((*number, pages))
    });
    let segments: BTreeMap<u32, Pages> = try_join_all(segments).await?.into_iter().collect();
    charge.add(segments.values().map(Pages::bytes).sum::<u64>().saturating_sub(planned))?;
    Ok(Loaded { segments, _charge: charge })
}
