//! What is served: something that can be queried, and perhaps written to.

use narthex::error::Result;
use narthex::query::Source;
use narthex::wire::remote_write::WriteRequest;

/// A data directory, or whatever else stands behind a router.
pub trait Storage: Send + Sync + 'static {
    /// What queries read. One is asked for per query.
    ///
    /// # Errors
    /// `NotReady` while opening or closing; the storage's own.
    fn source(&self) -> Result<Box<dyn Source>>;

    /// Takes a decoded request: all valid samples, in one commit.
    ///
    /// # Errors
    /// If nothing was written: `Unsupported` (it is only read), `NotReady`, `Full`, `Io`. Invalid samples are no error;
    /// [`Written`] counts them.
    fn write(&self, request: &WriteRequest) -> Result<Written>;

    /// Whether [`write`](Storage::write) can succeed.
    fn takes_writes(&self) -> bool;

    /// Counts and sizes for `/metrics`: cheap, asked for at every scrape.
    fn gauges(&self) -> Gauges;

    /// Counts and the costliest names, for `status/tsdb`.
    ///
    /// # Errors
    /// The storage's own.
    fn status(&self, limit: usize) -> Result<StorageStatus>;
}

/// What became of a request's samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Float samples that are stored now, those that were there already included.
    pub samples: u64,
    /// Histogram samples that are stored now.
    pub histograms: u64,
    /// Exemplars that are kept now.
    pub exemplars: u64,
    /// Samples and histograms that were refused.
    pub refused: u64,
    /// How many were refused for what, and the first of each kind. Kinds in order of their first.
    pub reasons: Vec<Reason>,
}

/// Samples that were refused for one kind of reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The kind: `out of order`, say.
    pub kind: &'static str,
    /// How many samples.
    pub count: u64,
    /// The first one's error, with its series.
    pub first: String,
}

impl Written {
    /// Counts a refused sample.
    pub fn refuse(&mut self, kind: &'static str, count: u64, first: impl FnOnce() -> String) {
        self.refused += count;
        match self.reasons.iter_mut().find(|reason| reason.kind == kind) {
            Some(reason) => reason.count += count,
            None => self.reasons.push(Reason { kind, count, first: first() }),
        }
    }
}

/// What `/metrics` shows of a storage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Series in memory.
    pub head_series: u64,
    /// Series created since the start.
    pub head_series_created: u64,
    /// Series removed since the start.
    pub head_series_removed: u64,
    /// Chunks in memory.
    pub head_chunks: u64,
    /// Samples appended since the start.
    pub head_samples: u64,
    /// The oldest sample in memory, milliseconds.
    pub head_min_time: Option<i64>,
    /// The newest sample in memory, milliseconds.
    pub head_max_time: Option<i64>,
    /// Blocks on disk.
    pub blocks: u64,
    /// Bytes of the blocks on disk.
    pub block_bytes: u64,
}

/// What `status/tsdb` shows.
#[derive(Debug, Clone, Default)]
pub struct StorageStatus {
    /// Counts.
    pub gauges: Gauges,
    /// Distinct label pairs in memory.
    pub label_pairs: u64,
    /// Metrics by their series.
    pub series_by_metric: Vec<(String, u64)>,
    /// Label names by their values.
    pub values_by_label: Vec<(String, u64)>,
    /// Label names by the bytes of their values.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Label pairs by their series.
    pub series_by_pair: Vec<(String, u64)>,
}
