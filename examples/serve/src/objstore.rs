//! Buckets behind a storage: opened from flags, listed again and again, queried beside a directory, counted.
//!
//! What a query reads is decided in this order: first the view of the directory, then each bucket's list, without the
//! blocks that the view has. A block leaves the directory only after it has entered the list, so a block that is not in
//! the view any more is in the list that is taken after it: nothing is missing at any moment. What is in both for a
//! moment (a block that was merged in the bucket meanwhile) has the same samples twice, and a merge keeps one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use narthex::block::Ulid;
use narthex::bucket::{BlockList, Bucket, BucketSource, HiddenReason, ListOptions, Operation, RangeCache, StoreConfig};
use narthex::codec::FixedSet;
use narthex::error::{Error, ErrorKind, Result};
use narthex::fs::{Env, Waiter};
use narthex::query::{SelectRequest, Series, SeriesSet, Source};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::flags::ObjstoreFlags;
use crate::metrics::{Kind, counter, family, gauge};
use crate::storage::{BlocksStatus, Place};

/// What stands for the file's name in errors about a configuration given on the command line.
const INLINE: &str = "--objstore.config";
/// How long to wait before a bucket is listed again that could not be: doubled each time, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A bucket that is queried.
pub struct ListedBucket {
    bucket: Bucket,
    list: Arc<BlockList>,
    source: BucketSource,
    /// Whether it could be listed since the start. What is known before is what was known when the program last ended.
    is_listed: AtomicBool,
    refreshes: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// The buckets of a program. Blocking, as the library is: not to be called on threads that do async work.
pub struct Buckets {
    env: Env,
    buckets: Vec<ListedBucket>,
    cache: Arc<RangeCache>,
    interval: Duration,
    /// Rung when the program leaves.
    bell: Arc<dyn Waiter>,
    leaving: AtomicBool,
}

impl Buckets {
    /// Opens the buckets that `flags` name; nothing is asked of them yet. Lists and headers are kept in `cache_dir`.
    ///
    /// # Errors
    /// `InvalidInput` with file, line and key for a configuration that is none; `Unsupported` for a store that is not
    /// supported; `Io`.
    pub fn open(
        env: &Env,
        flags: &ObjstoreFlags,
        cache_dir: Option<&Path>,
        runtime: &Handle,
    ) -> Result<Option<Arc<Self>>> {
        let mut configs = Vec::new();
        for file in &flags.config_file {
            configs.push(StoreConfig::read(env, file)?);
        }
        if let Some(yaml) = &flags.config {
            configs.push(StoreConfig::parse(Path::new(INLINE), yaml)?);
        }
        if configs.is_empty() {
            return Ok(None);
        }
        let cache = Arc::new(RangeCache::new(flags.index_cache_size));
        let mut buckets: Vec<ListedBucket> = Vec::new();
        for config in configs {
            for warning in config.warnings() {
                tracing::warn!("{warning}");
            }
            let bucket = config.open(runtime)?;
            if buckets.iter().any(|other| other.bucket.name() == bucket.name()) {
                return Err(Error::new(ErrorKind::InvalidInput, format!("{} is given twice", bucket.name())));
            }
            let dir = cache_dir.map(|dir| dir.join(file_name(bucket.name())));
            let list = Arc::new(BlockList::open(&bucket, env, dir.as_deref(), ListOptions::default())?);
            let source = BucketSource::new(Arc::clone(&list), Arc::clone(&cache));
            buckets.push(ListedBucket {
                bucket,
                list,
                source,
                is_listed: AtomicBool::new(false),
                refreshes: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                last_error: Mutex::default(),
            });
        }
        Ok(Some(Arc::new(Self {
            env: env.clone(),
            buckets,
            cache,
            interval: flags.sync_block_duration.max(Duration::from_secs(1)),
            bell: env.executor.waiter(),
            leaving: AtomicBool::new(false),
        })))
    }

    /// The first bucket and its list: where a receiver ships to.
    #[must_use]
    pub fn first(&self) -> Option<(&Bucket, &Arc<BlockList>)> {
        self.buckets.first().map(|bucket| (&bucket.bucket, &bucket.list))
    }

    /// A view of each bucket, without the blocks `seen`, which the caller reads elsewhere.
    #[must_use]
    pub fn sources(&self, seen: &FixedSet<Ulid>) -> Vec<Arc<dyn Source>> {
        let mut sources: Vec<Arc<dyn Source>> = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            sources.push(Arc::new(bucket.source.excluding(seen)));
            if !bucket.is_listed.load(Ordering::Acquire) {
                let reason = bucket.last_error.lock().clone();
                sources.push(Arc::new(NotListed { bucket: bucket.bucket.name().to_owned(), reason }));
            }
        }
        sources
    }

    /// Lists all buckets, and says whether each could be listed since the start.
    fn refresh(&self) -> bool {
        for bucket in &self.buckets {
            bucket.refreshes.fetch_add(1, Ordering::Relaxed);
            let begin = self.env.clock.monotonic();
            match bucket.list.refresh() {
                Ok(refreshed) => {
                    *bucket.last_error.lock() = None;
                    let seconds = self.env.clock.monotonic().saturating_sub(begin).as_secs_f64();
                    let name = bucket.bucket.name();
                    if !bucket.is_listed.swap(true, Ordering::AcqRel) {
                        tracing::info!(bucket = name, blocks = refreshed.blocks, seconds, "listed");
                    } else {
                        tracing::debug!(bucket = name, blocks = refreshed.blocks, seconds, "listed again");
                    }
                }
                Err(error) => {
                    bucket.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "a bucket cannot be listed; it is tried again");
                    *bucket.last_error.lock() = Some(error.to_string());
                }
            }
        }
        self.are_listed()
    }

    /// Whether each bucket could be listed since the start.
    #[must_use]
    pub fn are_listed(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.is_listed.load(Ordering::Acquire))
    }

    /// Returns when each bucket could be listed, or the program leaves; whether it is the first.
    #[must_use]
    pub fn wait_until_listed(&self) -> bool {
        let mut wait = Duration::from_secs(1);
        while !self.leaving.load(Ordering::Acquire) {
            if self.refresh() {
                return true;
            }
            self.bell.wait(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        false
    }

    /// Starts the thread that lists the buckets every so often until the program leaves; at once, if they never were.
    /// Nobody waits for its end: a bucket that does not answer would keep the program from leaving.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn keep_listed(self: &Arc<Self>) -> Result<()> {
        let buckets = Arc::clone(self);
        let task = move || {
            if !buckets.are_listed() {
                let _ = buckets.wait_until_listed();
            }
            loop {
                buckets.bell.wait(buckets.interval);
                if buckets.leaving.load(Ordering::Acquire) {
                    break;
                }
                buckets.refresh();
            }
        };
        self.env.executor.spawn("buckets", Box::new(task))?;
        Ok(())
    }

    /// Lists no more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Adds the buckets' blocks.
    pub fn status(&self, status: &mut BlocksStatus) {
        let names: Vec<&str> = self.buckets.iter().map(|bucket| bucket.bucket.name()).collect();
        status.bucket = Some(names.join(", "));
        for ListedBucket { list, .. } in &self.buckets {
            let marked = |marked: bool| marked.then(|| "marked for deletion".to_owned());
            let mut add = |meta: Result<_>, ulid: Ulid, bytes, problem| match meta {
                Ok(meta) => status.add(meta, Some(bytes), Place::Bucket, problem),
                Err(error) => status.add_unreadable(ulid.to_string(), Place::Bucket, error.to_string()),
            };
            for block in list.blocks().iter() {
                add(block.meta(), block.ulid(), block.size(), marked(block.marked().is_some()));
            }
            for hidden in list.hidden().iter() {
                let problem = match hidden.reason {
                    HiddenReason::MergedInto(parent) => Some(format!("merged into {parent}")),
                    HiddenReason::MarkedForDeletion => marked(true),
                };
                add(hidden.block.meta(), hidden.block.ulid(), hidden.block.size(), problem);
            }
            for partial in list.partial().iter() {
                status.add_unreadable(partial.ulid.to_string(), Place::Bucket, partial.reason.clone());
            }
        }
    }

    /// Writes what is counted, under Thanos's names where the meaning is the same.
    pub fn collect(&self, out: &mut String) {
        let operations = |kind: fn(&Bucket, Operation) -> u64, which: &'static [Operation]| {
            let rows = self.buckets.iter().flat_map(move |bucket| which.iter().map(move |which| (bucket, *which)));
            rows.map(move |(ListedBucket { bucket, .. }, which)| {
                let labels = vec![("bucket", bucket.name().to_owned()), ("operation", which.name().to_owned())];
                (labels, kind(bucket, which))
            })
        };
        let each = |value: fn(&ListedBucket) -> u64| {
            self.buckets.iter().map(move |one| (vec![("bucket", one.bucket.name().to_owned())], value(one)))
        };
        family(
            out,
            Kind::Counter,
            "thanos_objstore_bucket_operations",
            "Requests sent to a bucket.",
            operations(|bucket, which| bucket.counts(which).requests, &Operation::ALL),
        );
        family(
            out,
            Kind::Counter,
            "thanos_objstore_bucket_operation_failures",
            "Requests to a bucket that failed.",
            operations(|bucket, which| bucket.counts(which).failures, &Operation::ALL),
        );
        family(
            out,
            Kind::Counter,
            "thanos_objstore_bucket_operation_fetched_bytes",
            "Bytes received from a bucket.",
            operations(|bucket, which| bucket.counts(which).bytes, &[Operation::Get, Operation::GetRange]),
        );
        family(
            out,
            Kind::Counter,
            "narthex_objstore_uploaded_bytes",
            "Bytes sent to a bucket.",
            each(|one| one.bucket.counts(Operation::Upload).bytes),
        );
        family(
            out,
            Kind::Counter,
            "thanos_blocks_meta_syncs",
            "How often a bucket was listed, failures included.",
            each(|one| one.refreshes.load(Ordering::Relaxed)),
        );
        family(
            out,
            Kind::Counter,
            "thanos_blocks_meta_sync_failures",
            "How often a bucket could not be listed.",
            each(|one| one.failures.load(Ordering::Relaxed)),
        );
        family(
            out,
            Kind::Gauge,
            "thanos_bucket_store_blocks_loaded",
            "Blocks of a bucket that are queried.",
            each(|one| one.list.blocks().len() as u64),
        );
        family(
            out,
            Kind::Gauge,
            "narthex_bucket_blocks_partial",
            "Blocks of a bucket that are not whole.",
            each(|one| one.list.partial().len() as u64),
        );
        let cache = self.cache.stats();
        let hits = cache.hits as f64;
        counter(
            out,
            "thanos_store_index_cache_requests",
            "Parts of blocks in buckets that queries needed.",
            hits + cache.misses as f64,
        );
        counter(out, "thanos_store_index_cache_hits", "Those of them that were in memory.", hits);
        gauge(out, "thanos_store_index_cache_items", "Parts of blocks in memory.", cache.entries as f64);
        gauge(out, "thanos_store_index_cache_total_size_bytes", "Their bytes.", cache.bytes as f64);
        gauge(out, "thanos_store_index_cache_max_size_bytes", "How many there may be.", cache.capacity as f64);
    }
}

/// A bucket's name as a directory's.
fn file_name(bucket: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let text: String =
        bucket.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("_{b:02x}") }).collect();
    // Names of files are at most 255 bytes long; what is cut off is not what tells buckets apart.
    text.get(text.len().saturating_sub(200)..).unwrap_or_default().to_owned()
}

/// Stands for the blocks of a bucket that nobody knows of yet: a query is told that they may be missing.
struct NotListed {
    bucket: String,
    reason: Option<String>,
}

impl Source for NotListed {
    fn select(&self, _: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
        let reason = self.reason.as_deref().unwrap_or("it is being listed");
        Ok(Box::new(Told(vec![format!("{}: blocks may be missing: {reason}", self.bucket)])))
    }

    fn label_names(&self, _: &SelectRequest<'_>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn label_values(&self, _: &str, _: &SelectRequest<'_>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// No series, and a warning.
struct Told(Vec<String>);

impl SeriesSet for Told {
    fn next(&mut self) -> Result<Option<Series>> {
        Ok(None)
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}
