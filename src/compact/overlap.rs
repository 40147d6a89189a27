//! Chunks of one series that overlap become chunks that do not; the first write wins.

use crate::block::TimedChunk;
use crate::chunk::{ChunkError, ChunkIter, ChunkWriter, Encoding, Rules, WrittenChunk, samples};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, Sample};

/// Orders `chunks` by time into `out`. Runs of chunks that overlap are decoded, merged and written again; the rest is
/// moved as it is. `chunks` come by precedence and are emptied. Floats that are written again are in the encoding `floats`.
pub(super) fn resolve(
    labels: &Labels,
    chunks: &mut Vec<TimedChunk>,
    floats: Encoding,
    out: &mut Vec<TimedChunk>,
) -> Result<()> {
    // Most series have nothing to resolve: their chunks follow each other already.
    if chunks.is_sorted_by(|a, b| a.max_time < b.min_time) {
        out.append(chunks);
        return Ok(());
    }
    // The number is the chunk's precedence. The sort is stable, so of equal spans the first write comes first.
    let mut ordered: Vec<(usize, TimedChunk)> = chunks.drain(..).enumerate().collect();
    ordered.sort_by_key(|(_, chunk)| (chunk.min_time, chunk.max_time));
    let mut ordered = ordered.into_iter().peekable();
    while let Some(first) = ordered.next() {
        let mut end = first.1.max_time;
        let mut run = vec![first];
        while let Some((precedence, chunk)) = ordered.next_if(|(_, chunk)| chunk.min_time <= end) {
            end = end.max(chunk.max_time);
            // What two replicas or two backfills wrote alike needs no decoding.
            let copy = run.iter().any(|(_, other)| {
                (other.min_time, other.max_time) == (chunk.min_time, chunk.max_time) && other.chunk == chunk.chunk
            });
            if !copy {
                run.push((precedence, chunk));
            }
        }
        if run.len() == 1 {
            out.extend(run.into_iter().map(|(_, chunk)| chunk));
        } else {
            run.sort_by_key(|(precedence, _)| *precedence);
            let corrupt = |error| Error::new(ErrorKind::Corrupt, format!("merging chunks of {labels}: {error}"));
            merge(&run, floats, out).map_err(corrupt)?;
        }
    }
    Ok(())
}

/// One chunk of a run, read sample by sample.
struct Stream<'a> {
    samples: ChunkIter<'a>,
    next: Option<Sample>,
}

/// Merges the chunks of `run`, which come by precedence.
fn merge(run: &[(usize, TimedChunk)], floats: Encoding, out: &mut Vec<TimedChunk>) -> Result<(), ChunkError> {
    let mut streams = Vec::with_capacity(run.len());
    for (_, chunk) in run {
        let mut samples = samples(chunk.chunk.encoding, &chunk.chunk.data);
        let next = samples.next().transpose()?;
        streams.push(Stream { samples, next });
    }
    let mut writer = ChunkWriter::new(Rules::Merge).with_floats(floats);
    let timed =
        |chunk: WrittenChunk| TimedChunk { min_time: chunk.min_time, max_time: chunk.max_time, chunk: chunk.chunk };
    let mut last_from = usize::MAX;
    let mut last_t = None;
    loop {
        // Of equal times `min_by_key` takes the first, which has precedence.
        let next = streams.iter().enumerate().filter_map(|(from, stream)| Some((from, stream.next.as_ref()?.t)));
        let Some((from, t)) = next.min_by_key(|(_, t)| *t) else { break };
        let Some(stream) = streams.get_mut(from) else { break };
        let following = stream.samples.next().transpose()?;
        let Some(mut sample) = std::mem::replace(&mut stream.next, following) else { break };
        if last_t == Some(t) {
            continue;
        }
        if from != last_from {
            sample.value.forget_reset();
        }
        (last_from, last_t) = (from, Some(t));
        out.extend(writer.push(&sample)?.map(timed));
    }
    out.extend(writer.finish().map(timed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::chunk::XorAppender;
    use crate::model::Value;

    fn chunk(points: &[(i64, f64)]) -> TimedChunk {
        let mut appender = XorAppender::new();
        points.iter().for_each(|(t, value)| appender.append(*t, *value).unwrap());
        TimedChunk { min_time: points[0].0, max_time: points[points.len() - 1].0, chunk: appender.take() }
    }

    fn points(chunks: &[TimedChunk]) -> Vec<(i64, f64)> {
        let all = chunks.iter().flat_map(|chunk| samples(chunk.chunk.encoding, &chunk.chunk.data));
        all.map(|sample| match sample.unwrap() {
            Sample { t, value: Value::Float(value), .. } => (t, value),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn what_does_not_overlap_is_not_touched() {
        let (early, late) = (chunk(&[(1, 1.0), (5, 2.0)]), chunk(&[(6, 1.0), (9, 2.0)]));
        let mut out = Vec::new();
        resolve(&Labels::empty(), &mut vec![late.clone(), early.clone()], Encoding::Xor, &mut out).unwrap();
        assert_eq!(
            out.iter().map(|chunk| chunk.chunk.data.as_ptr()).collect::<Vec<_>>(),
            [early.chunk.data.as_ptr(), late.chunk.data.as_ptr()]
        );
    }

    #[test]
    fn a_copy_is_dropped_without_decoding() {
        let one = chunk(&[(1, 1.0), (5, 2.0)]);
        let mut out = Vec::new();
        resolve(&Labels::empty(), &mut vec![one.clone(), one.clone(), one.clone()], Encoding::Xor, &mut out).unwrap();
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].chunk.data.as_ptr(), one.chunk.data.as_ptr());
    }

    proptest! {
        #[test]
        fn the_first_write_wins_and_no_time_is_lost(
            sources in prop::collection::vec(prop::collection::btree_map(0..300i64, -4..4i32, 1..140), 1..6)
        ) {
            let mut model = BTreeMap::new();
            let mut chunks = Vec::new();
            for source in &sources {
                let points: Vec<_> = source.iter().map(|(t, value)| (*t, f64::from(*value))).collect();
                chunks.push(chunk(&points));
                points.into_iter().for_each(|(t, value)| { model.entry(t).or_insert(value); });
            }
            let mut out = Vec::new();
            resolve(&Labels::empty(), &mut chunks, Encoding::Xor, &mut out).unwrap();
            prop_assert!(out.is_sorted_by(|a, b| a.max_time < b.min_time));
            for chunk in &out {
                let points = points(std::slice::from_ref(chunk));
                prop_assert_eq!(points.first().map(|point| point.0), Some(chunk.min_time));
                prop_assert_eq!(points.last().map(|point| point.0), Some(chunk.max_time));
            }
            prop_assert_eq!(points(&out), model.into_iter().collect::<Vec<_>>());
        }
    }
}
