//! Deleting in the head: what came in order is hidden until it is cut into a block without it; what came out of order is
//! taken out at once.

use super::Head;
use crate::error::Result;
use crate::index::postings_for_matchers;
use crate::model::{Matcher, TimeRange};
use crate::wal::record::{RefTombstone, encode_tombstones};

/// What a deletion means in the head: found at one moment, so that what comes later is not deleted.
#[derive(Debug)]
pub(crate) struct FoundDeleted {
    /// Series by slot, each with the part of the span in which it has something that came in order. Only that: what comes in
    /// order later may be older than what came late and is deleted.
    in_order: Vec<(u32, RefTombstone)>,
    /// The same of what came out of order.
    pub(super) late: Vec<(u32, RefTombstone)>,
    /// How many series had any of both.
    series: u64,
}

impl Head {
    /// Deletes the samples in `range` of the series that pass all `matchers`: they are hidden, and gone when a block is cut.
    /// Samples that come later are not deleted. How many series had any.
    ///
    /// # Errors
    /// `Io`, `Full`: what came out of order may be deleted already; asking again deletes the rest.
    pub fn delete(&self, range: TimeRange, matchers: &[Matcher]) -> Result<u64> {
        let found = self.find_deleted(range, matchers)?;
        self.delete_late(&found)?;
        self.delete_in_order(found)
    }

    /// What deleting the samples in `range` of the series that pass all `matchers` would delete. It is deleted by
    /// [`delete_late`](Head::delete_late), whose samples lose against all others, and then by
    /// [`delete_in_order`](Head::delete_in_order); between the two comes what blocks have.
    ///
    /// # Errors
    /// None as yet.
    pub(crate) fn find_deleted(&self, range: TimeRange, matchers: &[Matcher]) -> Result<FoundDeleted> {
        let mut found = FoundDeleted { in_order: Vec::new(), late: Vec::new(), series: 0 };
        for id in postings_for_matchers(&self.labels, matchers)?.into_vec() {
            let Some(series) = self.slots.get(id) else { continue };
            let state = series.lock();
            let in_order = state.oldest().map(|oldest| TimeRange::new(oldest, series.newest()));
            let part = |own: Option<TimeRange>| {
                let range = own?.intersect(&range)?;
                Some((id, RefTombstone { reference: series.reference(), range }))
            };
            let (in_order, late) = (part(in_order), part(self.out_of_order_span_of(id)));
            found.series += u64::from(in_order.is_some() || late.is_some());
            found.in_order.extend(in_order);
            found.late.extend(late);
        }
        Ok(found)
    }

    /// Deletes what was found of what came in order. How many series had any, in order or not.
    ///
    /// # Errors
    /// `Io`, `Full`: nothing of it is deleted.
    pub(crate) fn delete_in_order(&self, FoundDeleted { in_order, series, .. }: FoundDeleted) -> Result<u64> {
        // A snapshot has all deletions that stand in the log before it.
        let _turn = self.log_truncated.lock();
        if in_order.is_empty() {
            return Ok(series);
        }
        if let Some(log) = &self.log {
            let mut record = Vec::new();
            // Twice: so replay knows that the log of out-of-order samples says for itself what is deleted of them.
            encode_tombstones(in_order.iter().flat_map(|(_, tombstone)| [*tombstone; 2]), &mut record);
            log.commit(&[&record])?;
        }
        let now = self.isolation.deleted_now();
        for (id, RefTombstone { range, .. }) in &in_order {
            self.tombstones.add(*id, *range, now);
        }
        Ok(series)
    }
}
