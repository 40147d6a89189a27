//! Chunks to hold against other decoders: what the appenders make of arbitrary samples.

use super::input::Input;
use crate::chunk::{
    Appended, Appender, ChunkError, EncodedChunk, FloatHistogramAppender, HistogramAppender, Kind, Xor2Appender,
    XorAppender,
};
use crate::model::Value;

/// The chunks, of all six encodings, that the appenders make of the samples in `data`, each of at least one sample.
#[must_use]
pub fn encoded_chunks(data: &[u8]) -> Vec<EncodedChunk> {
    let samples = Input(data).samples();
    let mut chunks = Vec::new();
    let (mut xor, mut xor2) = (XorAppender::new(), Xor2Appender::new());
    let mut integers = [HistogramAppender::new(), HistogramAppender::with_start_timestamps()];
    let mut floats = [FloatHistogramAppender::new(), FloatHistogramAppender::with_start_timestamps()];
    for sample in &samples {
        let (st, t) = (sample.st, sample.t);
        // A full chunk takes no more, and what does not fit a chunk is refused: neither makes another chunk here.
        let appended = match &sample.value {
            Value::Float(v) => xor.append(t, *v).and_then(|()| xor2.append(st, t, *v)),
            Value::Histogram(h) => integers.iter_mut().try_for_each(|it| append(it, st, t, h, &mut chunks)),
            Value::FloatHistogram(h) => floats.iter_mut().try_for_each(|it| append(it, st, t, h, &mut chunks)),
        };
        drop(appended);
    }
    chunks.extend([xor.to_chunk(), xor2.to_chunk()]);
    chunks.extend(integers.iter().map(Appender::to_chunk));
    chunks.extend(floats.iter().map(Appender::to_chunk));
    chunks.retain(|chunk| crate::chunk::sample_count(chunk.encoding, &chunk.data).is_ok_and(|count| count > 0));
    chunks
}

fn append<K: Kind>(
    appender: &mut Appender<K>,
    st: i64,
    t: i64,
    histogram: &K::Histogram,
    chunks: &mut Vec<EncodedChunk>,
) -> Result<(), ChunkError> {
    if let Appended::NewChunk { finished, .. } = appender.append_with_start(st, t, histogram)? {
        chunks.push(finished);
    }
    Ok(())
}
