//! One series' chunks as samples of their own kinds: for dumps and exports, which must not lose what columns leave out.

use super::SeriesChunk;
use super::columns::forget_hint;
use crate::chunk;
use crate::error::Result;
use crate::model::{Sample, TimeRange};

/// The samples of `chunks` that lie in `range` and may be seen, in order of time, each time once: where chunks overlap,
/// the earlier one in the list wins.
///
/// # Errors
/// `Corrupt` if a chunk does not decode; the loader's.
pub fn series_samples(chunks: &[SeriesChunk], range: TimeRange) -> Result<Vec<Sample>> {
    let mut all: Vec<(usize, Sample)> = Vec::new();
    let mut in_order = true;
    for (rank, chunk) in chunks.iter().enumerate() {
        let span = chunk.range.intersect(&chunk.visible).and_then(|span| span.intersect(&range));
        if span.is_none() {
            continue;
        }
        let encoded = chunk.data.load()?;
        for sample in chunk::samples(encoded.encoding, &encoded.data) {
            let sample = sample?;
            if range.contains(sample.t) && chunk.shows(sample.t) {
                in_order &= all.last().is_none_or(|(_, last)| last.t < sample.t);
                all.push((rank, sample));
            }
        }
    }
    if in_order {
        return Ok(all.into_iter().map(|(_, sample)| sample).collect());
    }
    // Stable: of equal times the one of higher precedence stays first.
    all.sort_by_key(|(_, sample)| sample.t);
    all.dedup_by_key(|(_, sample)| sample.t);
    let mut previous = None;
    let samples = all.into_iter().map(|(rank, mut sample)| {
        // A hint compares with the sample before it in its chunk; going back and forth, that one is another.
        if previous.is_some_and(|previous| previous > rank) {
            forget_hint(&mut sample.value);
        }
        previous = Some(rank);
        sample
    });
    Ok(samples.collect())
}
