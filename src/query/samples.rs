//! One series' chunks as samples of their own kinds: for dumps and exports, which must not lose what columns leave out.

use super::SeriesChunk;
use crate::chunk;
use crate::error::Result;
use crate::model::{Sample, TimeRange};

/// The samples of `chunks` that lie in `range` and may be seen, in order of time, each time once: where chunks overlap,
/// the earlier one in the list wins.
///
/// # Errors
/// `Corrupt` if a chunk does not decode; the loader's.
pub fn series_samples(chunks: &[SeriesChunk], range: TimeRange) -> Result<Vec<Sample>> {
    let mut all: Vec<(u32, Sample)> = Vec::new();
    let mut in_order = true;
    for chunk in chunks {
        let span = chunk.range.intersect(&chunk.visible).and_then(|span| span.intersect(&range));
        if span.is_none() {
            continue;
        }
        let encoded = chunk.data.load()?;
        for sample in chunk::samples(encoded.encoding, &encoded.data) {
            let sample = sample?;
            if range.contains(sample.t) && chunk.shows(sample.t) {
                in_order &= all.last().is_none_or(|(_, last)| last.t < sample.t);
                all.push((chunk.source, sample));
            }
        }
    }
    if !in_order {
        // Stable: of equal times the one of higher precedence stays first.
        all.sort_by_key(|(_, sample)| sample.t);
        all.dedup_by_key(|(_, sample)| sample.t);
    }
    let merged = chunks.iter().any(|chunk| chunk.source != 0);
    let mut previous = None;
    let samples = all.into_iter().map(|(source, mut sample)| {
        // A hint compares with the sample before it in its source.
        if merged && previous != Some(source) {
            sample.value.forget_reset();
        }
        previous = Some(source);
        sample
    });
    Ok(samples.collect())
}
