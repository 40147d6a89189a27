//! What each metric costs in a block: series, chunks, bytes of chunks.
//!
//! A block never changes, so whoever asks again may keep the answer; those of several blocks add up, except that a series
//! counts in each block that has it.

use std::collections::BTreeMap;

use super::BlockRead;
use crate::budget::Budget;
use crate::error::Result;
use crate::model::{Labels, METRIC_NAME};

/// What a metric costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Series.
    pub series: u64,
    /// Chunks of all of them.
    pub chunks: u64,
    /// Bytes of these chunks, without the frames around them.
    pub bytes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.series += other.series;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

/// What each metric costs, by its name; series without a name stand under the empty one.
pub type MetricUsage = BTreeMap<String, Usage>;

/// Adds to `usage` what a series with these labels costs.
pub(crate) fn add_usage(usage: &mut MetricUsage, labels: &Labels, cost: Usage) {
    let name = labels.get(METRIC_NAME).unwrap_or_default();
    match usage.get_mut(name) {
        Some(sum) => *sum += cost,
        None => drop(usage.insert(name.to_owned(), cost)),
    }
}

/// What each metric costs in `block`. Reads all of it.
///
/// # Errors
/// `Corrupt`, `Io`; `Timeout` or `Cancelled` of the budget.
pub fn metric_usage(block: &dyn BlockRead, budget: &Budget) -> Result<MetricUsage> {
    let mut usage = MetricUsage::new();
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    for id in block.select(&[])? {
        budget.check()?;
        block.series(id, &mut labels, &mut chunks)?;
        let mut cost = Usage { series: 1, chunks: chunks.len() as u64, bytes: 0 };
        for chunk in &chunks {
            cost.bytes += block.chunk(chunk)?.data.len() as u64;
        }
        add_usage(&mut usage, &labels, cost);
    }
    Ok(usage)
}
