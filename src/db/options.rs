//! What an opener may choose.

use std::sync::Arc;
use std::time::Duration;

use super::{BlockGuard, Downsampling};
use crate::compact::block_ranges;
use crate::head::{FloatEncoding, HeadOptions};
use crate::model::Matcher;
use crate::wal::{Compression, Durability, LogOptions, segment};

/// How a database is opened. The defaults are Prometheus's where it has the setting.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much time a block cut from the head spans, in milliseconds: 2 h. The head is cut when it holds one and a half
    /// times as much.
    pub min_block_duration: i64,
    /// How much time a merged block spans at most, in milliseconds; `None`: 31 days, or a tenth of the retention time if
    /// that is less. What is not longer than [`min_block_duration`](Options::min_block_duration) keeps blocks from being
    /// merged by age.
    pub max_block_duration: Option<i64>,
    /// Whether blocks that overlap are merged; yes.
    pub merge_overlapping: bool,
    /// When blocks are dropped.
    pub retention: Retention,
    /// Series that are kept for a shorter time than their blocks; a series is the first rule's whose matchers it passes.
    /// None.
    pub retention_rules: Vec<RetentionRule>,
    /// From which share of all series on those that have ended, whose newest sample is a stale marker, leave the head for
    /// blocks of their own: 0.25 is a quarter. `None`: they stay until the head is cut.
    pub stale_series_share: Option<f64>,
    /// Whether old blocks get coarser copies, kept apart; no.
    pub downsampling: Option<Downsampling>,
    /// What an acknowledged commit survives: an interval of 1 s.
    pub durability: Durability,
    /// How log records are compressed: snappy.
    pub wal_compression: Compression,
    /// Bytes in a log segment, a multiple of 32 KiB: 128 MiB.
    pub wal_segment_size: u64,
    /// How far ahead of the clock a sample may be, in milliseconds; `None`: any time. 10 min.
    pub future_bound: Option<i64>,
    /// How far behind the newest sample of all one may be and still be taken when it is out of order in its series, in
    /// milliseconds: 0. An append-only database has none.
    pub out_of_order_window: i64,
    /// The most series in the head; `None`: no limit.
    pub max_series: Option<u64>,
    /// The most exemplars kept, over all series, in memory and in the log: the newest. 100,000; 0: none are kept.
    pub max_exemplars: usize,
    /// How floats are encoded: XOR. [`FloatEncoding::Xor2`] is for readers since Prometheus 3.14; Thanos is none.
    pub float_encoding: FloatEncoding,
    /// Whether start timestamps are kept, as Prometheus's `st-storage` does: no. With [`FloatEncoding::Xor`], which has no
    /// place for them, opening fails.
    pub start_timestamps: bool,
    /// Whether histograms are encoded with a place for start timestamps, as with Prometheus's `histograms-st-encoding`: no.
    /// Theirs are in the log alone then.
    pub histogram_start_timestamps: bool,
    /// Bytes of full chunks that may wait in memory while the log is read back at opening; more go to the disk at once.
    /// 64 MiB. Who opens a directory to read it alone has no place on the disk for them, and holds them all.
    pub replay_memory: u64,
    /// Whether history is evidence: deletes and rewrites are refused by the library itself, and so are backfills of times at
    /// which it has samples or could still get some, and samples at the times of a backfill. No.
    pub append_only: bool,
    /// Whether a thread does the maintenance ([`Db::maintain`](super::Db::maintain)); otherwise the opener calls it. No:
    /// a library starts no thread that nobody asked for.
    pub background: bool,
    /// How often that thread looks: 1 min.
    pub maintenance_interval: Duration,
    /// Whether closing leaves a snapshot of the head, so that the next opening reads no log: no. There is none as long as the
    /// log has deletions that Prometheus wrote and the directory a `wbl/`: see [`Head::write_snapshot`](crate::head::Head::write_snapshot).
    pub snapshot_at_close: bool,
    /// How often maintenance leaves one, so that opening after a crash reads only the log behind it; `None`: never.
    pub snapshot_interval: Option<Duration>,
    /// Who is asked before a block is dropped; nobody.
    pub block_guard: Option<Arc<dyn BlockGuard>>,
}

/// When blocks are dropped. Time is relative to the newest block, not to the clock: a database that nobody writes to
/// keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Retention {
    /// Blocks that end so many milliseconds before the newest one does, or more.
    pub time: Option<i64>,
    /// The oldest blocks beyond so many bytes, log and head included.
    pub bytes: Option<u64>,
    /// The oldest blocks beyond so many hundredths of the disk's size, log and head included. Overrides
    /// [`bytes`](Retention::bytes) wherever the disk says how large it is.
    pub percentage: Option<f64>,
}

/// How long the samples of some series are kept. It is looked at block by block: when all that a block has is old enough,
/// counted from the newest block, the block is written again without those series.
#[derive(Debug, Clone)]
pub struct RetentionRule {
    /// Which series: those that pass all of these. Without matchers, all.
    pub matchers: Vec<Matcher>,
    /// For how many milliseconds.
    pub keep: i64,
}

impl Default for Options {
    fn default() -> Self {
        let head = HeadOptions::default();
        Self {
            min_block_duration: head.chunk_range,
            max_block_duration: None,
            merge_overlapping: true,
            retention: Retention::default(),
            retention_rules: Vec::new(),
            stale_series_share: None,
            downsampling: None,
            durability: Durability::default(),
            wal_compression: Compression::default(),
            wal_segment_size: segment::DEFAULT_SEGMENT_SIZE,
            future_bound: head.future_bound,
            out_of_order_window: 0,
            max_series: head.max_series,
            max_exemplars: head.max_exemplars,
            float_encoding: head.float_encoding,
            start_timestamps: head.start_timestamps,
            histogram_start_timestamps: head.histogram_start_timestamps,
            replay_memory: head.replay_memory,
            append_only: false,
            background: false,
            maintenance_interval: Duration::from_secs(60),
            snapshot_at_close: false,
            snapshot_interval: None,
            block_guard: None,
        }
    }
}

/// The most time that a block spans unless somebody says otherwise: 31 days.
const MAX_BLOCK_DURATION: i64 = 31 * 24 * 3_600_000;

impl Options {
    /// The spans that blocks are merged to, in milliseconds.
    pub(super) fn block_ranges(&self) -> Vec<i64> {
        let part_of_retention = self.retention.time.map_or(i64::MAX, |time| time / 10);
        let max = self.max_block_duration.unwrap_or(MAX_BLOCK_DURATION.min(part_of_retention));
        block_ranges(self.min_block_duration, max)
    }

    pub(super) fn head(&self) -> HeadOptions {
        HeadOptions {
            chunk_range: self.min_block_duration,
            future_bound: self.future_bound,
            max_series: self.max_series,
            max_exemplars: self.max_exemplars,
            float_encoding: self.float_encoding,
            start_timestamps: self.start_timestamps,
            histogram_start_timestamps: self.histogram_start_timestamps,
            out_of_order_window: self.out_of_order_window,
            replay_memory: self.replay_memory,
        }
    }

    pub(super) fn log(&self) -> LogOptions {
        LogOptions {
            segment_size: self.wal_segment_size,
            compression: self.wal_compression,
            durability: self.durability,
        }
    }
}
