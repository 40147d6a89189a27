//! Samples of every kind through a head: what is taken is what is read, whole and cut out for a block.

#![expect(clippy::panic, reason = "panicking is how a fuzz target tells")]

use super::input::Input;
use crate::block::BlockRead as _;
use crate::chunk::{EncodedChunk, samples};
use crate::fs::Env;
use crate::head::{FloatEncoding, Head, HeadOptions};
use crate::model::{Labels, Native as _, Sample, TimeRange, Value, is_stale};

/// Appends samples made of `data` to a head with the options that its first bytes say.
pub fn head_append(data: &[u8]) {
    let mut input = Input(data);
    let (choice, cut) = (input.byte(), u32::from(input.byte()));
    let keeps = choice & 1 != 0;
    let options = HeadOptions {
        chunk_range: if choice & 8 != 0 { 100_000 } else { 7_200_000 },
        future_bound: None,
        float_encoding: if keeps || choice & 2 != 0 { FloatEncoding::Xor2 } else { FloatEncoding::Xor },
        start_timestamps: keeps,
        histogram_start_timestamps: choice & 4 != 0,
        ..HeadOptions::default()
    };
    let head = Head::without_log(&Env::simulated(0).0, options);
    let labels = Labels::from_pairs([("__name__", "fuzzed")]);
    let mut model: Vec<Sample> = Vec::new();
    for Sample { t, st, value } in input.samples() {
        let mut appender = head.appender();
        let appended = match &value {
            Value::Float(v) => appender.append_with_start(None, &labels, st, t, *v),
            Value::Histogram(h) => appender.append_histogram_with_start(None, &labels, st, t, (**h).clone()),
            Value::FloatHistogram(h) => appender.append_float_histogram_with_start(None, &labels, st, t, (**h).clone()),
        };
        let committed = appender.commit().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(committed.appended, u64::from(appended.is_ok()), "the only appender loses nothing");
        if appended.is_ok() {
            let kept = keeps && (options.histogram_start_timestamps || matches!(value, Value::Float(_)));
            model.push(Sample { t, st: if kept { st } else { 0 }, value });
        }
    }
    let reader = head.reader(TimeRange::ALL);
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    let Ok(selected) = reader.select(&[]) else { panic!("a head can be selected from") };
    let Some((id, _)) = selected.first() else { return assert!(model.is_empty()) };
    reader.chunks(*id, &mut chunks, &mut hide);
    assert!(hide.is_empty());
    let chunks: Vec<EncodedChunk> = chunks.iter().filter_map(|chunk| chunk.load().ok()).collect();
    compare(chunks.iter(), &model);

    let Some(first) = model.get(cut as usize % model.len().max(1)) else { return };
    let Some(last) = model.last().map(|last| last.t - i64::from(cut % 7)) else { return };
    let range = TimeRange::new(first.t, last.max(first.t));
    let part = head.range_head(range);
    let mut metas = Vec::new();
    assert!(part.series(*id, &mut Labels::empty(), &mut metas).is_ok());
    let chunks: Vec<EncodedChunk> = metas.iter().filter_map(|meta| part.chunk(meta).ok()).collect();
    assert_eq!(chunks.len(), metas.len());
    model.retain(|sample| range.contains(sample.t));
    compare(chunks.iter(), &model);
}

fn compare<'a>(chunks: impl Iterator<Item = &'a EncodedChunk>, model: &[Sample]) {
    let found = chunks.flat_map(|chunk| samples(chunk.encoding, &chunk.data));
    let found: Vec<Sample> = found.map(|sample| sample.unwrap_or_else(|error| panic!("{error}"))).collect();
    let times = |samples: &[Sample]| samples.iter().map(|sample| sample.t).collect::<Vec<_>>();
    assert_eq!(times(&found), times(model));
    for (found, expected) in found.iter().zip(model) {
        // A histogram's stale marker that came as a float has what histograms have.
        let as_float = matches!(found.value, Value::Float(_)) == matches!(expected.value, Value::Float(_));
        assert!(found.st == expected.st || !as_float && found.st == 0, "{found:?} instead of {expected:?}");
        let equal = match (&found.value, &expected.value) {
            (Value::Float(found), Value::Float(expected)) => found.to_bits() == expected.to_bits(),
            (Value::Histogram(found), Value::Histogram(expected)) => {
                let mut expected = expected.clone();
                expected.prepare().is_ok() && found.clone().compacted().same(&expected.compacted())
            }
            (Value::FloatHistogram(found), Value::FloatHistogram(expected)) => {
                let mut expected = expected.clone();
                expected.prepare().is_ok() && found.clone().compacted().same(&expected.compacted())
            }
            // A stale marker is one of the series' own kind.
            (_, Value::Float(expected)) => found.is_stale() && is_stale(*expected),
            _ => false,
        };
        assert!(equal, "{found:?} instead of {expected:?}");
    }
}
