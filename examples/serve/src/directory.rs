//! A data directory as what is served: owned ([`Owned`]), or read beside its owner ([`Beside`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use narthex::db::{Db, DbSource, ReadOnlyDb, Status};
use narthex::error::{Error, ErrorKind, Result};
use narthex::fs::Env;
use narthex::head::{Appender, Head};
use narthex::model::{Exemplar, Labels};
use narthex::query::Source;
use narthex::wire::remote_write::{HistogramValue, Series, WriteRequest};
use parking_lot::Mutex;

use crate::storage::{BlocksStatus, Gauges, Place, Storage, StorageStatus, Written};

/// A storage whose samples lie in a data directory.
pub trait Directory: Storage {
    /// A view of this moment, which says which blocks it has.
    ///
    /// # Errors
    /// The storage's own.
    fn view(&self) -> Result<DbSource>;
}

/// A directory that this program owns.
#[derive(Debug, Clone)]
pub struct Owned {
    db: Db,
}

impl Owned {
    /// Serves `db`.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

impl Directory for Owned {
    fn view(&self) -> Result<DbSource> {
        Ok(self.db.source())
    }
}

impl Storage for Owned {
    fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.view()?))
    }

    fn write(&self, request: &WriteRequest) -> Result<Written> {
        let mut appender = self.db.appender();
        let mut written = Written::default();
        for series in request.series() {
            append(&mut appender, &series, &mut written)?;
        }
        for (family, metadata) in request.metadata() {
            if !family.is_empty() {
                appender.describe_metric(family, metadata);
            }
        }
        let committed = appender.commit()?;
        if committed.lost > 0 {
            // Which they were is not known here: a sample of the same request, or of one that was faster, stands there.
            written.refuse("conflicting", committed.lost, || "another sample came first".to_owned());
            // They were counted when they were appended. Floats are nearly all that is ever sent.
            let floats = committed.lost.min(written.samples);
            written.samples -= floats;
            written.histograms = written.histograms.saturating_sub(committed.lost - floats);
        }
        Ok(written)
    }

    fn takes_writes(&self) -> bool {
        true
    }

    fn gauges(&self) -> Gauges {
        gauges(self.db.head(), &self.db.status())
    }

    fn status(&self, limit: usize) -> Result<StorageStatus> {
        Ok(status(self.db.head(), &self.db.status(), limit))
    }

    fn blocks(&self) -> Result<BlocksStatus> {
        Ok(blocks(self.db.status()))
    }
}

/// Appends a series' samples; what is refused is counted, and the rest goes on.
fn append(appender: &mut Appender, series: &Series<'_>, written: &mut Written) -> Result<()> {
    let packed = series.packed_labels();
    let mut reference = None;
    for sample in series.samples() {
        match appender.append_with_start_packed(reference, packed, sample.st, sample.t, sample.value) {
            Ok(known) => {
                reference = Some(known);
                written.samples += 1;
            }
            Err(error) => refuse(error, packed, written)?,
        }
    }
    for sample in series.histograms() {
        let (st, t) = (sample.st, sample.t);
        let appended = match &sample.value {
            HistogramValue::Integer(h) => {
                appender.append_histogram_with_start_packed(reference, packed, st, t, h.clone())
            }
            HistogramValue::Float(h) => {
                appender.append_float_histogram_with_start_packed(reference, packed, st, t, h.clone())
            }
        };
        match appended {
            Ok(known) => {
                reference = Some(known);
                written.histograms += 1;
            }
            Err(error) => refuse(error, packed, written)?,
        }
    }
    if let Some(metadata) = series.metadata() {
        // Says nothing if there is no such series, all of whose samples were refused then.
        let _ = appender.update_metadata_packed(reference, packed, metadata);
    }
    let exemplars = series.exemplars();
    if exemplars.len() == 0 {
        return Ok(());
    }
    let Some(labels) = Labels::parse_packed(packed) else { return Ok(()) };
    for raw in exemplars {
        let Some(own) = Labels::parse_packed(raw.packed_labels) else { continue };
        let exemplar = Exemplar { labels: own, value: raw.value, t: raw.t };
        // An exemplar that does not fit is dropped: no sender should send its samples again for it.
        if appender.append_exemplar(reference, &labels, exemplar).is_ok() {
            written.exemplars += 1;
        }
    }
    Ok(())
}

/// Counts a sample that is refused for what it is. An error that is not the sample's fault is handed on.
fn refuse(error: Error, packed: &[u8], written: &mut Written) -> Result<()> {
    let kind = match error.kind() {
        ErrorKind::OutOfOrder => "out of order",
        ErrorKind::TooOld => "too old",
        ErrorKind::TooFarAhead => "too far in the future",
        ErrorKind::Duplicate => "duplicate",
        ErrorKind::LimitExceeded => "over a limit",
        ErrorKind::InvalidInput => "invalid",
        _ => return Err(error),
    };
    written.refuse(kind, 1, || {
        let labels = Labels::parse_packed(packed).unwrap_or_default();
        format!("{error} for series {labels}")
    });
    Ok(())
}

/// A directory that somebody else may own. It is read again when it is asked for and the last reading is old.
pub struct Beside {
    env: Env,
    dir: PathBuf,
    /// A reading older than this is done again.
    fresh_for: Duration,
    last: Mutex<Option<(Duration, Arc<ReadOnlyDb>)>>,
}

impl Beside {
    /// Reads `dir` for the first time.
    ///
    /// # Errors
    /// As [`ReadOnlyDb::open_with`].
    pub fn open(env: &Env, dir: &Path, fresh_for: Duration) -> Result<Self> {
        let beside = Self { env: env.clone(), dir: dir.to_owned(), fresh_for, last: Mutex::new(None) };
        beside.now()?;
        Ok(beside)
    }

    /// A reading that is fresh enough. While one query reads the directory again, others wait for the same reading.
    fn now(&self) -> Result<Arc<ReadOnlyDb>> {
        let mut last = self.last.lock();
        let now = self.env.clock.monotonic();
        if let Some((at, db)) = &*last
            && now.saturating_sub(*at) < self.fresh_for
        {
            return Ok(Arc::clone(db));
        }
        match ReadOnlyDb::open_with(&self.env, &self.dir) {
            Ok(db) => {
                let db = Arc::new(db);
                *last = Some((self.env.clock.monotonic(), Arc::clone(&db)));
                Ok(db)
            }
            Err(error) => match &*last {
                // Its owner is busy with it. What was read is still true.
                Some((_, db)) if error.kind() == ErrorKind::NotReady => Ok(Arc::clone(db)),
                _ => Err(error),
            },
        }
    }
}

impl Directory for Beside {
    fn view(&self) -> Result<DbSource> {
        Ok(self.now()?.source())
    }
}

impl Storage for Beside {
    fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.view()?))
    }

    fn write(&self, _: &WriteRequest) -> Result<Written> {
        Err(Error::new(ErrorKind::Unsupported, "this directory is only read here"))
    }

    fn takes_writes(&self) -> bool {
        false
    }

    fn gauges(&self) -> Gauges {
        let last = self.last.lock().as_ref().map(|(_, db)| Arc::clone(db));
        last.map(|db| gauges(db.head(), &db.status())).unwrap_or_default()
    }

    fn status(&self, limit: usize) -> Result<StorageStatus> {
        let db = self.now()?;
        Ok(status(db.head(), &db.status(), limit))
    }

    fn blocks(&self) -> Result<BlocksStatus> {
        Ok(blocks(self.now()?.status()))
    }
}

/// The blocks of a data directory.
fn blocks(status: Status) -> BlocksStatus {
    let mut blocks = BlocksStatus::default();
    for block in status.blocks {
        blocks.add(block.meta, Some(block.bytes), Place::Local, None);
    }
    for damaged in status.quarantined {
        let name = damaged.path.file_name().unwrap_or(damaged.path.as_os_str());
        blocks.add_unreadable(name.to_string_lossy(), Place::Local, damaged.reason);
    }
    blocks
}

fn gauges(head: &Arc<Head>, status: &Status) -> Gauges {
    let counts = head.counts();
    Gauges {
        head_series: counts.series,
        head_series_created: counts.series_created,
        head_series_removed: counts.series_removed,
        head_chunks: counts.chunks,
        head_samples: counts.samples,
        head_min_time: counts.min_time,
        head_max_time: counts.max_time,
        blocks: status.blocks.len() as u64,
        block_bytes: status.blocks.iter().map(|block| block.bytes).sum(),
    }
}

fn status(head: &Arc<Head>, status: &Status, limit: usize) -> StorageStatus {
    let costs = head.cardinality(limit);
    StorageStatus {
        gauges: gauges(head, status),
        label_pairs: costs.label_pairs,
        series_by_metric: costs.series_by_metric,
        values_by_label: costs.values_by_label,
        bytes_by_label: costs.bytes_by_label,
        series_by_pair: costs.series_by_pair,
    }
}
