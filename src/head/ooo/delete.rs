//! Deleting what came out of order: it is taken out of memory at once, so that what comes later is not deleted.

use super::super::Head;
use super::Stored;
use crate::chunk::{WrittenChunk, rewrite};
use crate::error::Result;
use crate::model::TimeRange;
use crate::wal::record::{RefTombstone, encode_tombstones};

/// A series' deletion, prepared: which of its chunks become which.
struct Deletion {
    id: u32,
    range: TimeRange,
    rewritten: Vec<(usize, Vec<WrittenChunk>)>,
}

impl Head {
    /// Deletes what the series of these slots have out of order in these ranges. What deletes the series' other samples is
    /// in the log already; this deletion gets a record of its own in the log of out-of-order samples, where it stands
    /// behind what it deletes and in front of what comes later.
    ///
    /// # Errors
    /// `Io`, `Full`, `Corrupt`: nothing is deleted.
    pub(in crate::head) fn delete_late(&self, deleted: &[(u32, RefTombstone)]) -> Result<()> {
        if self.out_of_order.is_empty() {
            return Ok(());
        }
        let table = &self.out_of_order;
        let _alone = table.gate.write();
        let mut deletions = Vec::new();
        let mut tombstones = Vec::new();
        for (id, tombstone) in deleted {
            let found = table.look(*id, |it| {
                let chunks = it.chunks.iter().enumerate().filter(|(_, chunk)| chunk.range.overlaps(&tombstone.range));
                chunks.map(|(index, chunk)| (index, chunk.data.clone())).collect::<Vec<_>>()
            });
            let Some(found) = found else { continue };
            let rewritten = without(found, tombstone.range)?;
            deletions.push(Deletion { id: *id, range: tombstone.range, rewritten });
            tombstones.push(*tombstone);
        }
        if deletions.is_empty() {
            return Ok(());
        }
        if let Some(log) = &table.log {
            let mut record = Vec::new();
            encode_tombstones(tombstones, &mut record);
            log.commit(&[&record])?;
        }
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
