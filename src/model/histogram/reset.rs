//! Whether a counter started again between two histograms.

use super::combine::{Cell, cells, coarser, common_bounds, widened_zero};
use super::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint, FloatHistogram, bucket_bound};

impl FloatHistogram {
    /// Whether the counter started again between `before` and this: what its hint says, else whether any count fell or the
    /// resolution became finer.
    #[must_use]
    pub fn is_reset_after(&self, before: &Self) -> bool {
        detect_reset(self, before)
    }
}

fn detect_reset(now: &FloatHistogram, before: &FloatHistogram) -> bool {
    match now.counter_reset_hint {
        CounterResetHint::CounterReset => return true,
        CounterResetHint::NotCounterReset => return false,
        CounterResetHint::Unknown | CounterResetHint::Gauge => {}
    }
    if now.count < before.count {
        return true;
    }
    if now.uses_custom_buckets() {
        if !before.uses_custom_buckets() {
            return true;
        }
        if now.custom_values != before.custom_values {
            return custom_reset(now, before);
        }
    }
    if now.schema > before.schema || now.zero_threshold < before.zero_threshold {
        return true;
    }
    let (zero_count, _, threshold) = widened_zero(before, now.zero_threshold, None);
    if threshold != now.zero_threshold || now.zero_count < zero_count {
        return true;
    }
    let visible = |counts: Vec<Cell>, schema: i32| {
        let mut all = if schema > now.schema { coarser(counts, schema, now.schema, false) } else { counts };
        if !now.uses_custom_buckets() {
            all.retain(|cell| bucket_bound(cell.index, now.schema, &[]) > now.zero_threshold);
        }
        all
    };
    let lost = |now: Vec<Cell>, before: Vec<Cell>| {
        let mut now = now.into_iter().peekable();
        before.into_iter().any(|before| {
            while now.next_if(|cell| cell.index < before.index).is_some() {}
            match now.peek() {
                Some(cell) if cell.index == before.index => cell.count < before.count,
                _ => before.count != 0.0,
            }
        })
    };
    lost(
        visible(cells(now.positive_counts(), None), now.schema),
        visible(cells(before.positive_counts(), None), before.schema),
    ) || lost(
        visible(cells(now.negative_counts(), None), now.schema),
        visible(cells(before.negative_counts(), None), before.schema),
    )
}

/// Whether a count has become smaller in the buckets between the bounds that both have.
fn custom_reset(now: &FloatHistogram, before: &FloatHistogram) -> bool {
    let bounds = common_bounds(&now.custom_values, &before.custom_values);
    let rolled_up = |histogram: &FloatHistogram| {
        let mut sums = vec![0.0; bounds.len() + 1];
        for (index, count) in histogram.positive_counts() {
            let bound = bucket_bound(index, CUSTOM_BUCKETS_SCHEMA, &histogram.custom_values);
            if let Some(sum) = sums.get_mut(bounds.partition_point(|common| *common < bound)) {
                *sum += count;
            }
        }
        sums
    };
    rolled_up(now).iter().zip(rolled_up(before)).any(|(now, before)| *now < before)
}
