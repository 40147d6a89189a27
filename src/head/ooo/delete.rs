//! Deleting what came out of order: it is taken out of memory at once, so that what comes later is not deleted.

use super::super::Head;
use super::super::delete::FoundDeleted;
use super::super::holds::Site;
use super::Stored;
use crate::chunk::{WrittenChunk, rewrite};
use crate::error::Result;
use crate::model::TimeRange;
use crate::wal::Log;
use crate::wal::record::{RefTombstone, encode_tombstones};

/// A series' deletion, prepared: which of its chunks become which.
struct Deletion {
    id: u32,
    range: TimeRange,
    rewritten: Vec<(usize, Vec<WrittenChunk>)>,
}

/// Series whose late samples are deleted before commits with such samples may go on.
const SLICE: usize = 64;

impl Head {
    /// Deletes what was found of what came out of order. It gets records of its own in the log of out-of-order samples, where
    /// they stand behind what they delete and in front of what comes later; what deletes the series' other samples follows,
    /// in the log. Some series at a time: commits go on in between.
    ///
    /// # Errors
    /// `Io`, `Full`, `Corrupt`: nothing is deleted of the series at hand, and of those behind them.
    pub(crate) fn delete_late(&self, found: &FoundDeleted) -> Result<()> {
        if self.out_of_order.is_empty() {
            return Ok(());
        }
        let late: Vec<_> = found.late.iter().filter(|(id, _)| self.out_of_order.has(*id)).copied().collect();
        for slice in late.chunks(SLICE) {
            // While commits go on, if it is due: what follows writes to the log, which would do it else.
            self.out_of_order.log.as_ref().map_or(Ok(()), Log::sync_if_due)?;
            self.delete_late_slice(slice)?;
        }
        Ok(())
    }

    fn delete_late_slice(&self, deleted: &[(u32, RefTombstone)]) -> Result<()> {
        let table = &self.out_of_order;
        let _alone = table.gate.write();
        let hold = self.holds().begin_slice(Site::LateDeleted);
        let mut deletions = Vec::new();
        let mut tombstones = Vec::new();
        for (id, tombstone) in deleted {
            let chunks = table.look(*id, |it| {
                let chunks = it.chunks.iter().enumerate().filter(|(_, chunk)| chunk.range.overlaps(&tombstone.range));
                chunks.map(|(index, chunk)| (index, chunk.data.clone())).collect::<Vec<_>>()
            });
            let Some(chunks) = chunks else { continue };
            let rewritten = without(chunks, tombstone.range)?;
            deletions.push(Deletion { id: *id, range: tombstone.range, rewritten });
            tombstones.push(*tombstone);
        }
        if deletions.is_empty() {
            return Ok(());
        }
        drop(hold);
        // Who waits for the gate meanwhile would wait for its turn in this log.
        if let Some(log) = &table.log {
            let mut record = Vec::new();
            encode_tombstones(tombstones, &mut record);
            log.commit(&[&record])?;
        }
        let _hold = self.holds().begin_slice(Site::LateDeleted);
        for Deletion { id, range, rewritten } in deletions {
            table.change(id, |it| it.delete(range, rewritten));
        }
        Ok(())
    }
}

/// The chunks without the samples in `range`.
pub(super) fn without(chunks: Vec<(usize, Stored)>, range: TimeRange) -> Result<Vec<(usize, Vec<WrittenChunk>)>> {
    let mut rewritten = Vec::with_capacity(chunks.len());
    for (index, data) in chunks {
        let mut written = Vec::new();
        rewrite(&data.load()?, |t| !range.contains(t), &mut written)?;
        rewritten.push((index, written));
    }
    Ok(rewritten)
}
