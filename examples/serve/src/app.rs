//! What a router serves: the storage behind its gate, and the limits around it.

use std::sync::Arc;
use std::time::Duration;

use narthex::fs::Env;
use narthex::wire::remote_write;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;
use crate::storage::Storage;

/// What requests may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `--query.timeout`.
    pub query_timeout: Duration,
    /// `--query.max-concurrency`: queries that run at a time; others wait.
    pub query_concurrency: usize,
    /// `--query.max-samples`: samples that one query may hold at a time.
    pub query_samples: u64,
    /// `--query.lookback-delta`.
    pub lookback_delta: Duration,
    /// Write requests that are decoded and appended at a time; others wait. More than there are cores, since a commit
    /// may wait for the disk, and those who wait share one write.
    pub write_concurrency: usize,
    /// Bytes of write requests, as received and decoded, that may be in memory at a time; more is sent away with 503.
    pub write_bytes_in_flight: usize,
    /// What one write request may take.
    pub write_request: remote_write::Limits,
    /// How long a client may take to send a write request's body.
    pub write_body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            query_timeout: Duration::from_secs(120),
            query_concurrency: 20,
            query_samples: 50_000_000,
            lookback_delta: Duration::from_secs(300),
            write_concurrency: 8,
            write_bytes_in_flight: 512 << 20,
            write_request: remote_write::Limits::default(),
            write_body_timeout: Duration::from_secs(60),
        }
    }
}

/// What the program says of itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The program's name: `receiver`.
    pub program: &'static str,
    /// Its flags as they were given or defaulted, for `status/flags`.
    pub flags: Vec<(String, String)>,
    /// `storageRetention` of `status/runtimeinfo`.
    pub retention: String,
}

/// Where the storage is.
enum Gate {
    Opening,
    Open(Arc<dyn Storage>),
    Closing,
}

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    gate: RwLock<Gate>,
    env: Env,
    limits: Limits,
    about: About,
    metrics: Metrics,
    queries: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    write_bytes: Mutex<usize>,
    arenas: Mutex<Vec<remote_write::WriteRequest>>,
    started_ms: i64,
}

/// The gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotReady {
    /// Whether the program is on its way out, rather than in.
    pub closing: bool,
}

impl App {
    /// An app whose gate is closed.
    #[must_use]
    pub fn new(env: Env, limits: Limits, about: About) -> Self {
        let inner = Inner {
            gate: RwLock::new(Gate::Opening),
            queries: Arc::new(Semaphore::new(limits.query_concurrency.max(1))),
            writes: Arc::new(Semaphore::new(limits.write_concurrency.max(1))),
            write_bytes: Mutex::new(0),
            arenas: Mutex::new(Vec::new()),
            metrics: Metrics::new(),
            started_ms: env.clock.now_ms(),
            env,
            limits,
            about,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens the gate, unless it is closed for good.
    pub fn open(&self, storage: Arc<dyn Storage>) {
        let mut gate = self.inner.gate.write();
        if matches!(*gate, Gate::Opening) {
            *gate = Gate::Open(storage);
        }
    }

    /// Closes the gate for good and hands back the storage, which requests under way may still hold.
    #[must_use]
    pub fn close(&self) -> Option<Arc<dyn Storage>> {
        match std::mem::replace(&mut *self.inner.gate.write(), Gate::Closing) {
            Gate::Open(storage) => Some(storage),
            Gate::Opening | Gate::Closing => None,
        }
    }

    /// The storage, if the gate is open.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn storage(&self) -> Result<Arc<dyn Storage>, NotReady> {
        match &*self.inner.gate.read() {
            Gate::Open(storage) => Ok(Arc::clone(storage)),
            Gate::Opening => Err(NotReady { closing: false }),
            Gate::Closing => Err(NotReady { closing: true }),
        }
    }

    /// The machine.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What the program says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.inner.about
    }

    /// The program's own metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// When the program started, milliseconds.
    #[must_use]
    pub fn started_ms(&self) -> i64 {
        self.inner.started_ms
    }

    /// A turn to evaluate a query. It goes with the work and not with the request: a client that leaves does not end what
    /// runs for it at once, and others must not run beside it.
    pub(crate) async fn query_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.queries).acquire_owned().await.ok()
    }

    /// A turn to decode and append; as [`query_turn`](App::query_turn).
    pub(crate) async fn write_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.writes).acquire_owned().await.ok()
    }

    /// Takes `bytes` out of what write requests may hold, or says that there is no room.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let mut held = self.inner.write_bytes.lock();
        let sum = held.checked_add(bytes).filter(|sum| *sum <= self.inner.limits.write_bytes_in_flight)?;
        *held = sum;
        Some(Reserved { app: self.clone(), bytes })
    }

    /// A decoder's memory.
    pub(crate) fn take_arena(&self) -> remote_write::WriteRequest {
        self.inner.arenas.lock().pop().unwrap_or_default()
    }

    /// Gives a decoder's memory back.
    pub(crate) fn give_arena(&self, mut arena: remote_write::WriteRequest) {
        arena.clear();
        let mut arenas = self.inner.arenas.lock();
        if arenas.len() < self.inner.limits.write_concurrency {
            arenas.push(arena);
        }
    }
}

/// Bytes that a write request holds; dropping gives them back.
pub(crate) struct Reserved {
    app: App,
    bytes: usize,
}

impl Reserved {
    /// Takes more, or says that there is no room.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let Some(mut reserved) = self.app.reserve(more) else { return false };
        self.bytes += std::mem::take(&mut reserved.bytes);
        true
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        *self.app.inner.write_bytes.lock() -= self.bytes;
    }
}
