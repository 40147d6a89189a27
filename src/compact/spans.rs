//! Where in time there is something: which blocks are to be written.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::block::BlockRead;
use crate::chunk::{EncodedChunk, samples};
use crate::error::{Error, ErrorKind, Result};
use crate::index::SeriesId;
use crate::model::Labels;

/// The spans of `duration` milliseconds, beginning at multiples of it, in which the series `ids` of `source` have something; in
/// order. What comes from a log may be a few samples at both ends of time: nobody could look at all the spans between.
///
/// # Errors
/// `Corrupt`, `Io`.
pub(crate) fn spans(
    source: &dyn BlockRead,
    ids: impl IntoIterator<Item = SeriesId>,
    duration: i64,
) -> Result<Vec<Range<i64>>> {
    let (mut labels, mut chunks, mut numbers) = (Labels::empty(), Vec::new(), BTreeSet::new());
    for id in ids {
        source.series(id, &mut labels, &mut chunks)?;
        for meta in &chunks {
            let (first, last) = (meta.min_time.div_euclid(duration), meta.max_time.div_euclid(duration));
            numbers.extend([first, last]);
            if last.saturating_sub(first) < 2 {
                continue;
            }
            let EncodedChunk { encoding, data } = source.chunk(meta)?;
            for sample in samples(encoding, &data) {
                let damaged = |error| Error::new(ErrorKind::Corrupt, format!("a chunk of {labels}: {error}"));
                numbers.insert(sample.map_err(damaged)?.t.div_euclid(duration));
            }
        }
    }
    let start = |number: i64| number.saturating_mul(duration);
    let spans = numbers.into_iter().map(|number| start(number)..start(number.saturating_add(1)));
    // A block ends before its end, so none can have the last millisecond of all.
    Ok(spans.filter(|span| !span.is_empty()).collect())
}
