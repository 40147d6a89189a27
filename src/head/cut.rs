//! When a chunk ends: Prometheus's rules, to the sample, so that blocks come out equal.
//!
//! A chunk never crosses a multiple of the chunk range (two hours), so that a block can be cut there without decoding.
//! Within it, a quarter of the way through a chunk (30 samples; for histograms, whose samples differ in size, a quarter
//! of 1,024 bytes) its end is predicted so that what is left of the range divides into chunks of equal length.

/// Samples that a float chunk is meant to hold.
pub(super) const SAMPLES_PER_CHUNK: usize = 120;
/// A float chunk larger than this takes no more samples: one more could be 19 bytes, and 1,024 is the limit.
pub(super) const MAX_FLOAT_BYTES: usize = 1024 - 19;
/// Bytes that a histogram chunk is meant to hold.
pub(super) const HISTOGRAM_BYTES: usize = 1024;
/// A histogram chunk of fewer samples than this is not cut for its size.
pub(super) const MIN_HISTOGRAMS: usize = 10;

/// The multiple of `range` at which a chunk that begins at `t` must have ended. Before 1970 it is the one after, since
/// Go's division rounds towards zero.
pub(super) fn range_end(t: i64, range: i64) -> i64 {
    (t / range).saturating_mul(range).saturating_add(range)
}

/// When a chunk should end that begins at `start`, stands at `now`, and is full to one part in `ratio`: so that all
/// chunks from `start` to `end` become about equally long.
pub(super) fn predict_end(start: i64, now: i64, end: i64, ratio: f64) -> i64 {
    let left = end.wrapping_sub(start) as f64;
    let chunks = left / (now.wrapping_sub(start).wrapping_add(1) as f64 * ratio);
    if chunks <= 1.0 { end } else { (start as f64 + left / chunks.floor()) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_predicted_so_that_the_rest_of_the_range_divides_evenly() {
        // Thirty samples a quarter of a minute apart: two hours are four chunks of 120.
        assert_eq!(predict_end(0, 29 * 15_000, 7_200_000, 4.0), 1_800_000);
        assert_eq!(predict_end(0, 100, 250, 1.0), 125);
        // Too slow for a second chunk.
        assert_eq!(predict_end(0, 7_000_000, 7_200_000, 4.0), 7_200_000);
        assert_eq!(range_end(7_199_999, 7_200_000), 7_200_000);
        assert_eq!(range_end(7_200_000, 7_200_000), 14_400_000);
    }
}
