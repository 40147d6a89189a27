//! What was read from object storage lately, within one budget of bytes: pages of files, and headers of indexes.
//!
//! A file is read by pages. A read names all the ranges that a step of a query needs; pages that are missing are fetched
//! together, neighbours in one request, and so are pages with a small gap between them, since a request costs as much
//! time as tens of kilobytes. A page that somebody else is fetching is waited for, not fetched again. What lies in a gap
//! is thrown away: nobody asked for it, and it would push out what somebody did.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use quick_cache::sync::{Cache, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::Bucket;
use crate::block::{BlockError, Ulid};
use crate::error::Result;
use crate::index::IndexHeader;

/// Bytes of a page. A read of a few hundred bytes wastes most of a page, and each page costs some hundred bytes of
/// bookkeeping; measured over the queries of `tests/bucket_requests.rs`, 4 KiB and 8 KiB waste the same, 16 KiB more.
const PAGE: u64 = 8 << 10;
/// Missing pages with no more than this between them are fetched in one request. At 50 to 100 MB/s it is about a
/// millisecond, where a request takes ten to fifty.
const GAP: u64 = 64 << 10;
/// A request asks for no more than this, so that a large read uses several connections.
const LONGEST: u64 = 8 << 20;
/// What the bookkeeping of an entry takes, about.
const ENTRY_BYTES: u64 = 128;
/// A shard of the cache has at least so many bytes where the budget allows: an entry must fit into one.
const SHARD: u64 = 128 << 20;

/// Pages and headers of blocks in object storage, within a budget of bytes. One serves all buckets of a process.
pub struct RangeCache {
    cache: Cache<Key, Entry, Weigh>,
    spaces: AtomicU32,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How the cache fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Pages and headers that were there when they were needed.
    pub hits: u64,
    /// Those that had to be fetched.
    pub misses: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes that may be held.
    pub capacity: u64,
    /// Pages and headers held.
    pub entries: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    file: FileId,
    page: u32,
}

/// A file of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    /// Which bucket: two may have blocks of the same name.
    pub(super) space: u32,
    pub(super) ulid: Ulid,
    pub(super) part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Header,
    Index,
    Segment(u32),
}

#[derive(Clone)]
enum Entry {
    Page(Bytes),
    Header(Arc<IndexHeader>, u64),
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Entry> for Weigh {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        ENTRY_BYTES
            + match entry {
                Entry::Page(bytes) => bytes.len() as u64,
                Entry::Header(_, bytes) => *bytes,
            }
    }
}

type Guard<'a> =
    PlaceholderGuard<'a, Key, Entry, Weigh, DefaultHashBuilder, quick_cache::sync::DefaultLifecycle<Key, Entry>>;

/// A page that this read is to fetch.
type Missing<'a> = (u32, Guard<'a>);

impl fmt::Debug for RangeCache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RangeCache({:?})", self.stats())
    }
}

impl RangeCache {
    /// A cache that holds `bytes` bytes at most.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let mut options = OptionsBuilder::new();
        options
            .weight_capacity(bytes)
            .estimated_items_capacity(usize::try_from(bytes / PAGE).unwrap_or(usize::MAX).max(1))
            .shards(usize::try_from((bytes / SHARD).clamp(1, 16)).unwrap_or(1));
        let cache = match options.build() {
            Ok(options) => Cache::with_options(options, Weigh, DefaultHashBuilder::default(), Default::default()),
            // All that it asks for is set; were it not, these are the same without the shards.
            Err(_) => Cache::with_weighter(1024, bytes, Weigh),
        };
        Self { cache, spaces: AtomicU32::new(0), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// How it fares.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.cache.weight(),
            capacity: self.cache.capacity(),
            entries: self.cache.len() as u64,
        }
    }

    /// A number for a bucket, so that its blocks are not taken for another's.
    pub(super) fn new_space(&self) -> u32 {
        self.spaces.fetch_add(1, Ordering::Relaxed)
    }

    /// The header of a block's index, which `load` gets if it is not here: the header, and the bytes that it holds.
    pub(super) async fn header(
        &self,
        space: u32,
        ulid: Ulid,
        load: impl Future<Output = Result<(IndexHeader, u64)>>,
    ) -> Result<Arc<IndexHeader>> {
        let key = Key { file: FileId { space, ulid, part: Part::Header }, page: 0 };
        match self.cache.get_value_or_guard_async(&key).await {
            Ok(Entry::Header(header, _)) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Ok(header)
            }
            Ok(Entry::Page(_)) => Err(crate::error::Error::new(
                crate::error::ErrorKind::Corrupt,
                "a page of a file stands where a header belongs",
            )),
            Err(guard) => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                let (header, bytes) = load.await?;
                let header = Arc::new(header);
                // Refused if it was removed meanwhile, which nobody does.
                let _ = guard.insert(Entry::Header(Arc::clone(&header), bytes));
                Ok(header)
            }
        }
    }

    /// Takes in what is whole pages of `bytes`, which lie at `offset` of a file of `size` bytes.
    pub(super) fn put(&self, file: FileId, size: u64, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        let mut number = offset.div_ceil(PAGE);
        while let Some(page) = page_range(number, size).filter(|page| page.end <= end) {
            let Ok(key) = u32::try_from(number) else { return };
            if let Some(content) = cut(bytes, offset, &page) {
                self.cache.insert(Key { file, page: key }, Entry::Page(Bytes::copy_from_slice(content)));
            }
            number += 1;
        }
    }

    /// Reads at least the bytes `ranges` of the object `key`, which is `size` bytes long; what goes beyond its end is
    /// left out.
    ///
    /// # Errors
    /// `Io`; `Corrupt` if the object is shorter than `size`.
    pub(super) async fn read(
        &self,
        bucket: &Bucket,
        key: &str,
        file: FileId,
        size: u64,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<Pages> {
        let mut numbers: Vec<u32> = Vec::new();
        for range in ranges {
            let end = range.end.min(size);
            if range.start >= end {
                continue;
            }
            // Ranges mostly come in order, and neighbours share pages.
            let first = (range.start / PAGE) as u32;
            let last = ((end - 1) / PAGE) as u32;
            let from =
                numbers.last().filter(|known| **known >= first && **known <= last).map_or(first, |known| known + 1);
            numbers.extend(from..=last);
        }
        numbers.sort_unstable();
        numbers.dedup();

        let mut pages = Pages { pages: BTreeMap::new() };
        let (mut guards, mut others) = (Vec::new(), Vec::new());
        for number in numbers {
            match self.cache.get_value_or_guard(&Key { file, page: number }, Some(Duration::ZERO)) {
                GuardResult::Value(Entry::Page(bytes)) => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    pages.pages.insert(number, bytes);
                }
                GuardResult::Guard(guard) => guards.push((number, guard)),
                GuardResult::Value(Entry::Header(..)) | GuardResult::Timeout => others.push(number),
            }
        }
        self.fetch(bucket, key, size, guards, &mut pages).await?;
        // What others are fetching is waited for only now that nobody waits for this: no circle can arise.
        for number in others {
            match self.cache.get_value_or_guard_async(&Key { file, page: number }).await {
                Ok(Entry::Page(bytes)) => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    pages.pages.insert(number, bytes);
                }
                Ok(Entry::Header(..)) => {}
                // The other one failed, or gave up.
                Err(guard) => self.fetch(bucket, key, size, vec![(number, guard)], &mut pages).await?,
            }
        }
        Ok(pages)
    }

    async fn fetch(
        &self,
        bucket: &Bucket,
        key: &str,
        size: u64,
        guards: Vec<Missing<'_>>,
        pages: &mut Pages,
    ) -> Result<()> {
        self.misses.fetch_add(guards.len() as u64, Ordering::Relaxed);
        let mut runs: Vec<(Range<u64>, Vec<Missing<'_>>)> = Vec::new();
        for (number, guard) in guards {
            let Some(page) = page_range(u64::from(number), size) else { continue };
            match runs.last_mut() {
                Some((run, members)) if page.start - run.end <= GAP && page.end - run.start <= LONGEST => {
                    run.end = page.end;
                    members.push((number, guard));
                }
                _ => runs.push((page, vec![(number, guard)])),
            }
        }
        let requests = runs.into_iter().map(|(run, members)| async move {
            let bytes = bucket.get_range(key, run.clone()).await?;
            let mut fetched = Vec::with_capacity(members.len());
            for (number, guard) in members {
                let content = page_range(u64::from(number), size).and_then(|page| cut(&bytes, run.start, &page));
                let Some(content) = content else {
                    let at = run.start + bytes.len() as u64;
                    let reason = format!("the object ends here; the bucket's list says that it has {size} bytes");
                    return Err(BlockError::corrupt(key.as_ref(), at, reason).into());
                };
                // A copy, so that a page alone does not hold all that was fetched with it.
                let content = Bytes::copy_from_slice(content);
                let _ = guard.insert(Entry::Page(content.clone()));
                fetched.push((number, content));
            }
            Ok::<_, crate::error::Error>(fetched)
        });
        for fetched in try_join_all(requests).await? {
            pages.pages.extend(fetched);
        }
        Ok(())
    }
}

/// Where a page lies in a file of `size` bytes.
fn page_range(number: u64, size: u64) -> Option<Range<u64>> {
    let start = number * PAGE;
    (start < size).then(|| start..(start + PAGE).min(size))
}

/// The part `range` of `bytes`, which lie at `offset`.
fn cut<'a>(bytes: &'a [u8], offset: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let start = usize::try_from(range.start.checked_sub(offset)?).ok()?;
    bytes.get(start..start + usize::try_from(range.end - range.start).ok()?)
}

/// Pages of one file that were read together.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u32, Bytes>,
}

impl Pages {
    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.values().map(|page| page.len() as u64).sum()
    }

    /// How many bytes from `start` on are there, up to `most`.
    pub(super) fn available(&self, start: u64, most: u64) -> u64 {
        let mut at = start;
        let end = start.saturating_add(most);
        while at < end {
            let number = at / PAGE;
            let Some(page) = u32::try_from(number).ok().and_then(|number| self.pages.get(&number)) else { break };
            let page_end = number * PAGE + page.len() as u64;
            if page_end <= at {
                break;
            }
            at = page_end;
        }
        at.min(end) - start
    }

    /// Takes in more pages of the same file.
    pub(super) fn extend(&mut self, other: Self) {
        self.pages.extend(other.pages);
    }

    /// The bytes `range`: fewer if it goes beyond what was read. A copy only where it crosses pages.
    pub(super) fn slice(&self, range: Range<u64>) -> Bytes {
        let mut whole: Option<BytesMut> = None;
        let mut first = Bytes::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / PAGE;
            let Some(page) = u32::try_from(number).ok().and_then(|number| self.pages.get(&number)) else { break };
            let start = (at - number * PAGE) as usize;
            let len = page.len().saturating_sub(start).min((range.end - at) as usize);
            if len == 0 {
                break;
            }
            let part = page.slice(start..start + len);
            at += len as u64;
            if first.is_empty() {
                first = part;
            } else {
                let whole = whole.get_or_insert_with(|| {
                    let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
                    whole.extend_from_slice(&first);
                    whole
                });
                whole.extend_from_slice(&part);
            }
            if start + len < PAGE as usize && at < range.end {
                // The file's last page.
                break;
            }
        }
        whole.map_or(first, BytesMut::freeze)
    }
}
