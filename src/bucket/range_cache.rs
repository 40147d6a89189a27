//! What was read from object storage lately, within one budget of bytes: pages of files, and headers of indexes.
//!
//! A file is read by pages. A read names all the ranges that a step of a query needs; pages that are missing are fetched
//! together, neighbours in one request, and so are pages with a small gap between them, since a request costs as much
//! time as tens of kilobytes. A page that somebody else is fetching is waited for, not fetched again. What lies in a gap
//! is thrown away: nobody asked for it, and it would push out what somebody did.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use quick_cache::sync::{Cache, GuardResult, PlaceholderGuard};
use quick_cache::{OptionsBuilder, Weighter};

use super::Bucket;
use crate::block::{BlockError, Ulid};
use crate::error::Result;
use crate::index::IndexHeader;

/// Bytes of a page. A read of a few hundred bytes wastes most of a page, and each page costs a hundred bytes of
/// bookkeeping. `docs/thanos.md` has what sizes around this one fetch.
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
    cache: Cache<Key, Entry, Weigh, Hasher, Lifecycle>,
    page: u64,
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

/// One seed, one order of what is evicted.
type Hasher = foldhash::fast::FixedState;
type Lifecycle = quick_cache::sync::DefaultLifecycle<Key, Entry>;
type Guard<'a> = PlaceholderGuard<'a, Key, Entry, Weigh, Hasher, Lifecycle>;

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
        Self::with_page_size(bytes, PAGE)
    }

    /// The same with pages of `page` bytes, 512 at least.
    #[must_use]
    pub fn with_page_size(bytes: u64, page: u64) -> Self {
        let page = page.max(512);
        let mut options = OptionsBuilder::new();
        options
            .weight_capacity(bytes)
            .estimated_items_capacity(usize::try_from(bytes / page).unwrap_or(usize::MAX).max(1))
            .shards(usize::try_from((bytes / SHARD).clamp(1, 16)).unwrap_or(1));
        let cache = match options.build() {
            Ok(options) => Cache::with_options(options, Weigh, Hasher::default(), Lifecycle::default()),
            // All that it asks for is set; were it not, these are the same without the shards.
            Err(_) => Cache::with(1024, bytes, Weigh, Hasher::default(), Lifecycle::default()),
        };
        Self { cache, page, spaces: AtomicU32::new(0), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
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

    /// Takes in what is whole pages of `bytes`, which lie at `offset` of a file of `size` bytes, up to the page of the
    /// byte before `until`.
    pub(super) fn put(&self, file: FileId, size: u64, offset: u64, bytes: &Bytes, until: u64) {
        let end = offset + bytes.len() as u64;
        let mut number = offset.div_ceil(self.page);
        while let Some(page) = self.page_range(number, size).filter(|page| page.end <= end && page.start < until) {
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
            let first = (range.start / self.page) as u32;
            let last = ((end - 1) / self.page) as u32;
            // Neighbours share a page.
            let from = if numbers.last() == Some(&first) { first + 1 } else { first };
            numbers.extend(from..=last);
        }
        numbers.sort_unstable();
        numbers.dedup();

        let mut pages = Pages { page: self.page, pages: BTreeMap::new() };
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
            let Some(page) = self.page_range(u64::from(number), size) else { continue };
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
                let content = self.page_range(u64::from(number), size).and_then(|page| cut(&bytes, run.start, &page));
                let Some(content) = content else {
                    let at = run.start + bytes.len() as u64;
                    let reason = format!("the object ends here; the bucket's list says that it has {size} bytes");
                    return Err(BlockError::corrupt(Path::new(&format!("{}/{key}", bucket.name())), at, reason).into());
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

    /// Where a page lies in a file of `size` bytes.
    fn page_range(&self, number: u64, size: u64) -> Option<Range<u64>> {
        let start = number * self.page;
        (start < size).then(|| start..(start + self.page).min(size))
    }
}

/// The part `range` of `bytes`, which lie at `offset`.
fn cut<'a>(bytes: &'a [u8], offset: u64, range: &Range<u64>) -> Option<&'a [u8]> {
    let start = usize::try_from(range.start.checked_sub(offset)?).ok()?;
    bytes.get(start..start + usize::try_from(range.end - range.start).ok()?)
}

/// Pages of one file that were read together.
#[derive(Debug)]
pub(super) struct Pages {
    page: u64,
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
            let number = at / self.page;
            let Some(page) = u32::try_from(number).ok().and_then(|number| self.pages.get(&number)) else { break };
            let page_end = number * self.page + page.len() as u64;
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
        // A damaged length may ask for more than there is memory.
        let len = self.available(range.start, range.end.saturating_sub(range.start));
        let range = range.start..range.start + len;
        let mut whole: Option<BytesMut> = None;
        let mut first = Bytes::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / self.page;
            let Some(page) = u32::try_from(number).ok().and_then(|number| self.pages.get(&number)) else { break };
            let start = (at - number * self.page) as usize;
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
        }
        whole.map_or(first, BytesMut::freeze)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Operation;
    use object_store::memory::InMemory;
    use proptest::prelude::*;

    /// A bucket with one object of `size` bytes, each the low byte of a number that depends on its place.
    fn bucket(runtime: &tokio::runtime::Runtime, size: u64) -> (Bucket, Vec<u8>) {
        let content: Vec<u8> = (0..size).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
        let bucket = Bucket::new("memory", Arc::new(InMemory::new()), runtime.handle().clone());
        runtime.block_on(bucket.put("file", content.clone().into())).unwrap();
        (bucket, content)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    const FILE: FileId = FileId { space: 0, ulid: Ulid::nil(), part: Part::Index };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_read_gives_the_bytes_that_are_there_whatever_is_kept(
            size in 1u64..600_000,
            capacity in prop_oneof![Just(0u64), Just(30_000), Just(10 << 20)],
            reads in prop::collection::vec(
                prop::collection::vec((0u64..650_000, 0u64..40_000), 0..6), 1..4),
        ) {
            let runtime = runtime();
            let (bucket, content) = bucket(&runtime, size);
            let cache = RangeCache::new(capacity);
            for read in &reads {
                let ranges: Vec<_> = read.iter().map(|(start, len)| *start..start + len).collect();
                let pages = runtime.block_on(cache.read(&bucket, "file", FILE, size, ranges.clone())).unwrap();
                for range in &ranges {
                    let expected = content.get(range.start.min(size) as usize..range.end.min(size) as usize).unwrap();
                    prop_assert_eq!(&*pages.slice(range.clone()), expected);
                    prop_assert_eq!(pages.available(range.start, range.end - range.start), expected.len() as u64);
                }
                let before = bucket.counts(Operation::GetRange).requests;
                runtime.block_on(cache.read(&bucket, "file", FILE, size, ranges)).unwrap();
                let after = bucket.counts(Operation::GetRange).requests;
                prop_assert!(capacity < 1 << 20 || before == after, "kept, and fetched again");
            }
            prop_assert!(cache.stats().bytes <= capacity);
        }
    }

    #[test]
    fn neighbours_come_in_one_request_and_what_is_far_apart_in_several() {
        let runtime = runtime();
        let (bucket, _) = bucket(&runtime, 2 << 20);
        let cache = RangeCache::new(10 << 20);
        let requests = || bucket.counts(Operation::GetRange);
        let read = |ranges: &[Range<u64>]| {
            runtime.block_on(cache.read(&bucket, "file", FILE, 2 << 20, ranges.iter().cloned())).unwrap();
        };
        // Three pages, the second of them nobody's: a gap.
        read(&[0..1, 2 * PAGE..2 * PAGE + 1]);
        assert_eq!((requests().requests, requests().bytes), (1, 3 * PAGE));
        assert_eq!(cache.stats().entries, 2);
        read(std::slice::from_ref(&(PAGE..PAGE + 1)));
        assert_eq!((requests().requests, requests().bytes), (2, 4 * PAGE));
        let far = 5 * PAGE + GAP;
        read(&[3 * PAGE..3 * PAGE + 1, far..far + 1]);
        assert_eq!((requests().requests, requests().bytes), (4, 6 * PAGE));
    }

    #[test]
    fn an_object_that_is_shorter_than_listed_is_an_error_that_says_so() {
        let runtime = runtime();
        let (bucket, _) = bucket(&runtime, 10_000);
        let cache = RangeCache::new(1 << 20);
        let error =
            runtime.block_on(cache.read(&bucket, "file", FILE, 20_000, std::iter::once(0..20_000))).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt);
        assert!(error.to_string().contains("memory/file: at offset 10000: the object ends here"), "{error}");
    }
}
