//! An object store that fails when it is told to.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// It fails before it does anything, once.
    Before,
    /// It does what it shall, and its caller is told that it failed, once.
    After,
    /// The process loses the store before this operation: it and all that follow fail and do nothing.
    Kill,
    /// The process loses the store after this operation: it takes effect, and its caller learns of nothing any more.
    KillAfter,
}

impl StoreFault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Before, Self::After, Self::Kill, Self::KillAfter];
}

type Watch = dyn Fn(&str) + Send + Sync;

#[derive(Default)]
struct Plan {
    operations: Vec<String>,
    fault: Option<(usize, StoreFault)>,
    watch: Option<Arc<Watch>>,
    no_conditions: bool,
}

/// Passes everything on to another store, counts the operations, and fails one of them. Each part of an object in parts
/// counts, as do its beginning, its end and its being given up.
///
/// Clones are the same store: [`heal`](FaultyStore::heal) one to go on as the next process would.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "FaultyStore({:?})", self.inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// Whether an operation takes effect, and whether its caller is told that it did.
#[derive(Clone, Copy)]
struct Fate {
    acts: bool,
    answers: bool,
}

impl FaultyStore {
    /// A store in which all goes well so far.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// From now on operations are counted from 0 again, and that with number `number` has the fault.
    pub fn fail(&self, number: usize, fault: StoreFault) {
        let mut plan = self.plan.lock();
        plan.operations.clear();
        plan.fault = Some((number, fault));
    }

    /// Lets all operations go well again.
    pub fn heal(&self) {
        self.plan.lock().fault = None;
    }

    /// Calls `watch` after each operation, with what it was: `put a/index`.
    pub fn watch(&self, watch: impl Fn(&str) + Send + Sync + 'static) {
        self.plan.lock().watch = Some(Arc::new(watch));
    }

    /// Answers "not implemented" to whoever writes on a condition, as some stores do.
    pub fn refuse_conditions(&self) {
        self.plan.lock().no_conditions = true;
    }

    /// The operations since the last [`fail`](FaultyStore::fail), in the order that they began in.
    #[must_use]
    pub fn operations(&self) -> Vec<String> {
        self.plan.lock().operations.clone()
    }

    fn begin(&self, operation: String) -> Fate {
        let mut plan = self.plan.lock();
        let number = plan.operations.len();
        plan.operations.push(operation);
        let Some((at, fault)) = plan.fault else { return Fate { acts: true, answers: true } };
        match fault {
            StoreFault::Before => Fate { acts: number != at, answers: number != at },
            StoreFault::After => Fate { acts: true, answers: number != at },
            StoreFault::Kill => Fate { acts: number < at, answers: number < at },
            StoreFault::KillAfter => Fate { acts: number <= at, answers: number < at },
        }
    }

    fn end(&self, operation: &str) {
        let watch = self.plan.lock().watch.clone();
        if let Some(watch) = watch {
            watch(operation);
        }
    }

    async fn run<T>(&self, operation: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        let fate = self.begin(operation.clone());
        if !fate.acts {
            return Err(failure(&operation));
        }
        let done = work.await;
        self.end(&operation);
        if fate.answers { done } else { Err(failure(&operation)) }
    }
}

fn failure(operation: &str) -> Error {
    Error::Generic { store: "faulty", source: format!("made to fail: {operation}").into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if opts.mode != PutMode::Overwrite && self.plan.lock().no_conditions {
            let operation = format!("put {location} on a condition");
            return Err(Error::NotImplemented { operation, implementer: self.to_string() });
        }
        self.run(format!("put {location}"), self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.run(format!("begin {location}"), self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(FaultyUpload { store: self.clone(), inner, location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.run(format!("get {location}"), self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let one = stream::once(std::future::ready(Ok(location.clone()))).boxed();
                    let work = async { store.inner.delete_stream(one).next().await.unwrap_or(Ok(location.clone())) };
                    store.run(format!("delete {location}"), work).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let operation = format!("list {}", prefix.map_or("", Path::as_ref));
        let fate = self.begin(operation.clone());
        if fate.acts && fate.answers {
            return self.inner.list(prefix);
        }
        stream::once(std::future::ready(Err(failure(&operation)))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let operation = format!("list {}", prefix.map_or("", Path::as_ref));
        self.run(operation, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(format!("copy {from} {to}"), self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: FaultyStore,
    inner: Box<dyn MultipartUpload>,
    location: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let operation = format!("part {}", self.location);
        let fate = self.store.begin(operation.clone());
        if !fate.acts {
            return std::future::ready(Err(failure(&operation))).boxed();
        }
        let (part, store) = (self.inner.put_part(data), self.store.clone());
        async move {
            let done = part.await;
            store.end(&operation);
            if fate.answers { done } else { Err(failure(&operation)) }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let operation = format!("complete {}", self.location);
        self.store.run(operation, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let operation = format!("abort {}", self.location);
        self.store.run(operation, self.inner.abort()).await
    }
}
