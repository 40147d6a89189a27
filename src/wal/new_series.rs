//! New series on their way into the log.
//!
//! Each lane is an open series record behind a lock of its own, so that appenders that create series side by side do not
//! wait for each other, nor send one buffer to and fro between their caches. A commit closes all that hold something.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::record::{begin_series, put_series};
use crate::model::LabelsIter;

/// As many as a word has bits: a commit asks one word which of them hold something.
const LANES: u32 = u32::BITS;

/// Series that no commit has taken along yet.
#[derive(Debug, Default)]
pub(super) struct NewSeries {
    lanes: [Lane; LANES as usize],
    /// A bit for each lane that holds something; changed under the lane's lock.
    filled: AtomicU32,
}

/// Two lanes in one cache line would be one for the processors.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Lane(Mutex<Vec<u8>>);

impl NewSeries {
    /// Adds a series to the record of a lane; all numbers are lanes.
    #[expect(clippy::indexing_slicing, reason = "there are as many lanes as remainders")]
    pub(super) fn add(&self, lane: u32, reference: u64, labels: LabelsIter<'_>) {
        let number = lane % LANES;
        let mut record = self.lanes[number as usize].0.lock();
        if record.is_empty() {
            begin_series(&mut record);
            self.filled.fetch_or(1 << number, Ordering::Release);
        }
        put_series(reference, labels, &mut record);
    }

    /// Gives the record of each lane that holds something to `each`, and lanes the memory of `buffers`. A series that was
    /// added before this is called has been given, to this caller or to one before.
    pub(super) fn take(&self, buffers: &mut Vec<Vec<u8>>, mut each: impl FnMut(Vec<u8>)) {
        let filled = self.filled.load(Ordering::Acquire);
        if filled == 0 {
            return;
        }
        for (number, Lane(lane)) in self.lanes.iter().enumerate().filter(|(number, _)| filled >> number & 1 == 1) {
            let mut record = lane.lock();
            let bytes = std::mem::replace(&mut *record, buffers.pop().unwrap_or_default());
            self.filled.fetch_and(!(1 << number), Ordering::AcqRel);
            drop(record);
            each(bytes);
        }
    }
}
