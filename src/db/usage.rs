//! What each metric costs, over the head and all blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Db;
use crate::block::{Block, MetricUsage, Ulid, Usage, add_usage, metric_usage};
use crate::budget::Budget;
use crate::error::Result;
use crate::model::TimeRange;

/// What was found in blocks, which do not change.
#[derive(Debug, Default)]
pub(super) struct UsageCache {
    of_block: Mutex<BTreeMap<Ulid, Arc<MetricUsage>>>,
}

impl UsageCache {
    /// What the metrics of `blocks` cost in each. What is known of others is forgotten.
    fn of(&self, blocks: &[Arc<Block>], budget: &Budget) -> Result<Vec<Arc<MetricUsage>>> {
        let mut found = Vec::with_capacity(blocks.len());
        for block in blocks {
            let ulid = block.meta().ulid;
            let known = self.of_block.lock().get(&ulid).cloned();
            if let Some(usage) = known {
                found.push(usage);
                continue;
            }
            // Read without the lock: a large block takes seconds.
            let usage = Arc::new(metric_usage(block.as_ref(), budget)?);
            self.of_block.lock().insert(ulid, Arc::clone(&usage));
            found.push(usage);
        }
        self.of_block.lock().retain(|ulid, _| blocks.iter().any(|block| block.meta().ulid == *ulid));
        Ok(found)
    }
}

impl Db {
    /// What each metric costs: its series, chunks and their bytes, in the head and in all blocks together. A series
    /// counts in each of them that has it; what came out of order and is in no block yet is not counted. A block is read
    /// once, the first time that this is asked.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Timeout` or `Cancelled` of the budget.
    pub fn metric_usage(&self, budget: &Budget) -> Result<MetricUsage> {
        let mut usage = MetricUsage::new();
        for block in self.inner.usage.of(&self.inner.blocks.all(), budget)? {
            for (name, cost) in block.iter() {
                *usage.entry(name.clone()).or_default() += *cost;
            }
        }
        let reader = self.inner.head.reader(TimeRange::ALL);
        let (mut chunks, mut hidden) = (Vec::new(), Vec::new());
        for (id, labels) in reader.select(&[])? {
            budget.check()?;
            reader.chunks(id, &mut chunks, &mut hidden);
            let mut cost = Usage { series: 1, chunks: chunks.len() as u64, bytes: 0 };
            for chunk in &chunks {
                cost.bytes += chunk.load()?.data.len() as u64;
            }
            add_usage(&mut usage, &labels, cost);
        }
        Ok(usage)
    }
}
