//! What is served: something that can be queried, and perhaps written to.

use std::collections::BTreeMap;

use narthex::block::BlockMeta;
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

    /// The blocks, wherever they lie, those that cannot be read included.
    ///
    /// # Errors
    /// The storage's own.
    fn blocks(&self) -> Result<BlocksStatus>;
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

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the data directory.
    Local,
    /// In object storage.
    Bucket,
}

/// The blocks of a storage, for `status/blocks`.
#[derive(Debug, Clone, Default)]
pub struct BlocksStatus {
    /// The bucket's name, if there is one.
    pub bucket: Option<String>,
    /// A block that lies in two places is one row.
    rows: BTreeMap<String, BlockRow>,
}

/// A block, or what is left of one.
#[derive(Debug, Clone)]
pub struct BlockRow {
    /// Its identity; of a damaged one, its directory's name.
    pub ulid: String,
    /// What it says of itself, if that can be read: its times, counts, level; under `thanos`, labels, resolution, source.
    pub meta: Option<BlockMeta>,
    /// Bytes of its files, if they are known.
    pub bytes: Option<u64>,
    /// In the data directory.
    pub local: bool,
    /// In object storage.
    pub bucket: bool,
    /// Why it is not served, or not wholly: damaged, partially uploaded, marked for deletion.
    pub problem: Option<String>,
}

impl BlocksStatus {
    /// Adds a block that can be read.
    pub fn add(&mut self, meta: BlockMeta, bytes: Option<u64>, place: Place, problem: Option<String>) {
        self.add_row(meta.ulid.to_string(), Some(meta), bytes, place, problem);
    }

    /// Adds a block that cannot be read.
    pub fn add_unreadable(&mut self, name: impl Into<String>, place: Place, reason: impl Into<String>) {
        self.add_row(name.into(), None, None, place, Some(reason.into()));
    }

    fn add_row(
        &mut self,
        ulid: String,
        meta: Option<BlockMeta>,
        bytes: Option<u64>,
        place: Place,
        problem: Option<String>,
    ) {
        let row = self.rows.entry(ulid.clone()).or_insert_with(|| BlockRow {
            ulid,
            meta: None,
            bytes: None,
            local: false,
            bucket: false,
            problem: None,
        });
        match place {
            Place::Local => row.local = true,
            Place::Bucket => row.bucket = true,
        }
        row.bytes = row.bytes.or(bytes);
        // Only the shipper knows a block's labels: the bucket's copy says more of the same block.
        if row.meta.is_none() || (place == Place::Bucket && meta.is_some()) {
            row.meta = meta;
        }
        row.problem = match (row.problem.take(), problem) {
            (Some(first), Some(second)) => Some(format!("{first}; {second}")),
            (first, second) => first.or(second),
        };
    }

    /// The blocks, by the time where they begin; those that cannot be read are first.
    #[must_use]
    pub fn rows(&self) -> Vec<&BlockRow> {
        let mut rows: Vec<_> = self.rows.values().collect();
        rows.sort_by_key(|row| row.meta.as_ref().map(|meta| (meta.min_time, meta.max_time)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(second: u64, min_time: i64) -> BlockMeta {
        let text = format!(
            r#"{{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5F{second:02}","minTime":{min_time},"maxTime":{},"version":1}}"#,
            min_time + 10
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_block_in_two_places_is_one_row_that_says_what_is_wrong_in_either() {
        let mut blocks = BlocksStatus::default();
        blocks.add(meta(2, 100), Some(7), Place::Local, None);
        blocks.add(meta(2, 100), Some(8), Place::Bucket, Some("marked for deletion".to_owned()));
        blocks.add(meta(3, 50), None, Place::Bucket, None);
        blocks.add_unreadable("torn", Place::Local, "no index");
        blocks.add_unreadable("torn", Place::Bucket, "no meta.json");
        let rows = blocks.rows();
        let shown: Vec<_> = rows.iter().map(|row| (row.bytes, row.local, row.bucket, row.problem.as_deref())).collect();
        assert_eq!(
            shown,
            [
                (None, true, true, Some("no index; no meta.json")),
                (None, false, true, None),
                (Some(7), true, true, Some("marked for deletion")),
            ]
        );
    }
}
