//! An object store, with every request counted.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind, Result};

/// Requests that are under way at a time: enough to hide a store's latency, few enough that no store throttles.
const CONCURRENCY: usize = 64;
/// Parts of one object that are under way at a time: with the one being read, what an upload holds in memory.
const PARTS_UNDER_WAY: usize = 4;
/// The parts that a large object is sent in, in bytes, if nobody says otherwise. S3 takes 10,000 of them: 156 GiB.
const PART_SIZE: u64 = 16 << 20;
/// Keys that a listing answers with at a time, in S3 and everything like it.
const KEYS_PER_PAGE: u64 = 1000;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A whole object.
    Get,
    /// A part of an object.
    GetRange,
    /// A page of the list of keys.
    List,
    /// Whether an object is there.
    Exists,
    /// Writing an object, or a part of a large one.
    Upload,
    /// Removing an object.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Get, Self::GetRange, Self::List, Self::Exists, Self::Upload, Self::Delete];

    /// What Thanos's metrics call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::List => "iter",
            Self::Exists => "exists",
            Self::Upload => "upload",
            Self::Delete => "delete",
        }
    }
}

/// What was asked of a store so far, one kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperationCounts {
    /// Requests sent, failed ones included. Retries inside the store's client are not seen.
    pub requests: u64,
    /// Requests that failed; an object that is not there is no failure.
    pub failures: u64,
    /// Bytes received or sent.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
}

/// An object that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key below the bucket's prefix: `01M7Z…/index`.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written, milliseconds.
    pub modified_ms: i64,
}

/// An object store that holds blocks. Clones are the same bucket.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
    part_size: u64,
}

struct Inner {
    name: String,
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    permits: Semaphore,
    counters: [Counter; Operation::ALL.len()],
}

impl fmt::Debug for Bucket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Bucket({})", self.inner.name)
    }
}

impl Bucket {
    /// The bucket in `store`, whose requests run on `runtime`; `name` is what errors and logs call it.
    #[must_use]
    pub fn new(name: impl Into<String>, store: Arc<dyn ObjectStore>, runtime: Handle) -> Self {
        let permits = Semaphore::new(CONCURRENCY);
        let inner = Inner { name: name.into(), store, runtime, permits, counters: Default::default() };
        Self { inner: Arc::new(inner), part_size: PART_SIZE }
    }

    /// The same bucket, to which objects larger than `bytes` are sent in parts of that size.
    #[must_use]
    pub fn with_part_size(self, bytes: u64) -> Self {
        Self { part_size: bytes.max(1), ..self }
    }

    /// The parts that an object is sent in, in bytes.
    #[must_use]
    pub fn part_size(&self) -> u64 {
        self.part_size
    }

    /// What errors and logs call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What was asked of it so far.
    #[must_use]
    pub fn counts(&self, operation: Operation) -> OperationCounts {
        let Some(counter) = self.inner.counters.get(operation as usize) else { return OperationCounts::default() };
        OperationCounts {
            requests: counter.requests.load(Ordering::Relaxed),
            failures: counter.failures.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
        }
    }

    /// Where its requests run.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    /// Waits for `work`. Not to be called on a thread of the runtime that does async work.
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.inner.runtime.block_on(work)
    }

    /// A whole object, or none if it is not there.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let request = async {
            match self.inner.store.get(&Path::from(key)).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let bytes = self.count(Operation::Get, key, request).await?;
        self.received(Operation::Get, bytes.as_ref().map_or(0, Bytes::len));
        Ok(bytes)
    }

    /// The bytes `range` of an object that must be there. Fewer come only if it ends before.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = Path::from(key);
        let bytes = self.count(Operation::GetRange, key, self.inner.store.get_range(&path, range)).await?;
        self.received(Operation::GetRange, bytes.len());
        Ok(bytes)
    }

    /// All objects below `prefix` (a block's name, or nothing for all of the bucket), in order of their keys.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<StoredObject>> {
        let prefix = (!prefix.is_empty()).then(|| Path::from(prefix));
        let request = self.inner.store.list(prefix.as_ref()).try_collect::<Vec<_>>();
        let found = self.count(Operation::List, prefix.as_ref().map_or("", Path::as_ref), request).await?;
        // The first page was counted with the request.
        let pages = (found.len() as u64).saturating_sub(1) / KEYS_PER_PAGE;
        self.counter(Operation::List).requests.fetch_add(pages, Ordering::Relaxed);
        let object = |meta: object_store::ObjectMeta| StoredObject {
            key: meta.location.to_string(),
            size: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
        };
        let mut objects: Vec<StoredObject> = found.into_iter().map(object).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Writes an object whole, replacing what is there.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<()> {
        let (path, len) = (Path::from(key), content.len());
        self.count(Operation::Upload, key, self.inner.store.put(&path, content.into())).await?;
        self.received(Operation::Upload, len);
        Ok(())
    }

    /// Writes an object out of `parts`, of which all but the last are to be of one size. A part is taken when there is
    /// room to send it. The object appears at the end, whole.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key: the object may be there all the same. The first error of
    /// `parts`, as it is.
    pub async fn put_parts(&self, key: &str, parts: impl IntoIterator<Item = Result<Bytes>>) -> Result<()> {
        let path = Path::from(key);
        let mut upload = self.count(Operation::Upload, key, self.inner.store.put_multipart(&path)).await?;
        let sent = match self.send_parts(key, upload.as_mut(), parts).await {
            Ok(()) => self.count(Operation::Upload, key, upload.complete()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            // What was sent takes room until somebody clears it away. That this fails too is likely, and no news.
            if let Err(error) = self.count(Operation::Delete, key, upload.abort()).await {
                tracing::debug!(%error, "the parts of an upload that failed stay behind");
            }
            return Err(error);
        }
        Ok(())
    }

    async fn send_parts(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        parts: impl IntoIterator<Item = Result<Bytes>>,
    ) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        for part in parts {
            let part = part?;
            if under_way.len() >= PARTS_UNDER_WAY {
                under_way.next().await.transpose()?;
            }
            let len = part.len();
            let request = self.count(Operation::Upload, key, upload.put_part(part.into()));
            under_way.push(async move {
                request.await?;
                self.received(Operation::Upload, len);
                Ok::<_, Error>(())
            });
        }
        while under_way.next().await.transpose()?.is_some() {}
        Ok(())
    }

    /// Writes an object whole if there is none by that key; whether it did. A store that cannot do both at once is asked
    /// whether it is there first: two writers at the same moment may then both write.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key. It may have been written all the same.
    pub async fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        let (path, len) = (Path::from(key), content.len());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let request = async {
            match self.inner.store.put_opts(&path, PutPayload::from(content.clone()), options).await {
                Ok(_) => Ok(Some(true)),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Some(false)),
                Err(error) if is_not_implemented(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match self.count(Operation::Upload, key, request).await? {
            Some(written) => {
                self.received(Operation::Upload, if written { len } else { 0 });
                Ok(written)
            }
            None if self.exists(key).await? => Ok(false),
            None => self.put(key, content).await.map(|()| true),
        }
    }

    /// Whether there is an object by that key.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let path = Path::from(key);
        let request = async {
            match self.inner.store.head(&path).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.count(Operation::Exists, key, request).await
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// `Io`; the text names the bucket, the operation and the key.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = Path::from(key);
        let request = async {
            match self.inner.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.count(Operation::Delete, key, request).await
    }

    async fn count<T>(
        &self,
        operation: Operation,
        key: &str,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T> {
        // Never closed, so never refused.
        let _permit = self.inner.permits.acquire().await;
        let counter = self.counter(operation);
        counter.requests.fetch_add(1, Ordering::Relaxed);
        request.await.map_err(|error| {
            counter.failures.fetch_add(1, Ordering::Relaxed);
            self.failed(operation, key, error)
        })
    }

    fn received(&self, operation: Operation, bytes: usize) {
        self.counter(operation).bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[expect(clippy::indexing_slicing, reason = "there is a counter for each of the enum's variants")]
    fn counter(&self, operation: Operation) -> &Counter {
        &self.inner.counters[operation as usize]
    }

    fn failed(&self, operation: Operation, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as Store;
        let kind = match &error {
            Store::NotImplemented { .. } | Store::NotSupported { .. } => ErrorKind::Unsupported,
            Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
            _ => ErrorKind::Io,
        };
        let name = &self.inner.name;
        Error::new(kind, io::Error::other(error)).context(format_args!("{name}: {} {key}", operation.name()))
    }
}

/// Whether the store says that it cannot do what was asked, rather than that it failed.
fn is_not_implemented(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => true,
        // The client keeps a server's answer as text alone: status 501, or S3's code for it.
        object_store::Error::Generic { source, .. } => {
            let text = source.to_string();
            text.contains("501 Not Implemented") || text.contains("<Code>NotImplemented</Code>")
        }
        _ => false,
    }
}
