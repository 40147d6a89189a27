//! Chunks: any bytes are decoded or refused, and what is written reads back.

#![expect(clippy::panic, reason = "panicking is how a fuzz target tells")]

use super::input::Input;
use crate::chunk::{
    Aggregate, AggregateChunk, Appended, Appender, ChunkWriter, EncodedChunk, Encoding, FloatColumns, FloatDecoder,
    Floats, Integers, Kind, Rules, Xor2Appender, XorAppender, decode_floats, rewrite, sample_count, samples,
};
use crate::compact::downsample::{self, FIVE_MINUTES, ONE_HOUR};
use crate::model::{FloatHistogram, Histogram, Sample, Value};

/// Decodes `data` as an XOR chunk.
pub fn chunk_xor(data: &[u8]) {
    decode_any(Encoding::Xor, data);
}

/// Decodes `data` as an XOR2 chunk.
pub fn chunk_xor2(data: &[u8]) {
    decode_any(Encoding::Xor2, data);
}

/// Decodes `data` as a chunk of integer histograms.
pub fn chunk_histogram(data: &[u8]) {
    decode_any(Encoding::Histogram, data);
}

/// Decodes `data` as a chunk of float histograms.
pub fn chunk_float_histogram(data: &[u8]) {
    decode_any(Encoding::FloatHistogram, data);
}

/// Decodes `data` as chunks of histograms with start timestamps, of either kind.
pub fn chunk_st(data: &[u8]) {
    decode_any(Encoding::HistogramSt, data);
    decode_any(Encoding::FloatHistogramSt, data);
}

fn float(sample: &Sample) -> Option<u64> {
    match sample.value {
        Value::Float(value) => Some(value.to_bits()),
        _ => None,
    }
}

/// Histograms are equal with equal bounds, as in Prometheus, so one with a NaN among them does not equal itself. That is
/// sound, since none is valid, but chunks can be made that hold one.
fn same_float(a: f64, b: f64) -> bool {
    a == b || a.to_bits() == b.to_bits()
}

fn same_floats(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_float(*a, *b))
}

/// Whether two samples hold the same, empty buckets and hints aside.
fn same(a: &Sample, b: &Sample) -> bool {
    let values = match (&a.value, &b.value) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Histogram(a), Value::Histogram(b)) => {
            let (mut a, mut b) = (a.clone(), b.clone());
            a.compact(0);
            b.compact(0);
            same_float(a.zero_threshold, b.zero_threshold)
                && same_floats(&a.custom_values, &b.custom_values)
                && Histogram { zero_threshold: 0.0, custom_values: Vec::new(), ..*a }.equals(&Histogram {
                    zero_threshold: 0.0,
                    custom_values: Vec::new(),
                    ..*b
                })
        }
        (Value::FloatHistogram(a), Value::FloatHistogram(b)) => {
            let (mut a, mut b) = (a.clone(), b.clone());
            a.compact(0);
            b.compact(0);
            same_float(a.zero_threshold, b.zero_threshold)
                && same_floats(&a.custom_values, &b.custom_values)
                && FloatHistogram { zero_threshold: 0.0, custom_values: Vec::new(), ..*a }.equals(&FloatHistogram {
                    zero_threshold: 0.0,
                    custom_values: Vec::new(),
                    ..*b
                })
        }
        _ => false,
    };
    values && a.t == b.t && a.st == b.st
}

fn read(chunk: &EncodedChunk) -> Vec<Sample> {
    let read: Result<Vec<_>, _> = samples(chunk.encoding, &chunk.data).collect();
    assert!(read.is_ok(), "what was written cannot be read: {read:?}");
    read.unwrap_or_default()
}

fn decode_any(encoding: Encoding, data: &[u8]) {
    let one_by_one: Result<Vec<_>, _> = samples(encoding, data).collect();
    // After an error there are no more samples.
    assert!(samples(encoding, data).filter(Result::is_err).count() <= 1);
    assert_eq!(samples(encoding, data).last().is_some_and(|last| last.is_err()), one_by_one.is_err());
    if let Ok(read) = &one_by_one {
        assert_eq!(sample_count(encoding, data), Ok(read.len()));
    }
    if encoding.is_float() {
        let before = FloatColumns { t: vec![7], v: vec![7.0], st: vec![] };
        let mut columns = before.clone();
        match (decode_floats(encoding, data, &mut columns), &one_by_one) {
            (Ok(()), Ok(read)) => {
                assert!(columns.t.iter().skip(1).eq(read.iter().map(|sample| &sample.t)));
                assert!(columns.v.iter().skip(1).map(|v| Some(v.to_bits())).eq(read.iter().map(float)));
                let starts = columns.st.iter().skip(1).copied();
                assert!(columns.st.is_empty() || starts.eq(read.iter().map(|sample| sample.st)));
                assert!(!columns.st.is_empty() || read.iter().all(|sample| sample.st == 0));
            }
            (Err(batch), Err(single)) => {
                assert_eq!(batch, *single);
                assert_eq!(columns, before, "a failed decode left something behind");
            }
            (batch, single) => panic!("at once {batch:?}, one by one {single:?}"),
        }
        let chunk = EncodedChunk { encoding, data: data.to_vec().into() };
        let (mut both, mut one) = (FloatColumns::default(), FloatColumns::default());
        let outcome = FloatDecoder::new().decode_two(&chunk, &chunk, &mut both);
        let expected = (0..2).try_for_each(|_| decode_floats(encoding, data, &mut one));
        assert_eq!(outcome, expected);
        if outcome.is_ok() {
            assert_eq!((&both.t, &both.st), (&one.t, &one.st));
            assert!(both.v.iter().map(|v| v.to_bits()).eq(one.v.iter().map(|v| v.to_bits())));
        }
    }
    let chunk = EncodedChunk { encoding, data: data.to_vec().into() };
    let mut rewritten = Vec::new();
    let outcome = rewrite(&chunk, |_| true, &mut rewritten);
    if let (Ok(()), Ok(read_before)) = (outcome, &one_by_one) {
        let again: Vec<_> = rewritten.iter().flat_map(|chunk| read(&chunk.chunk)).collect();
        assert_eq!(again.len(), read_before.len());
        assert!(again.iter().zip(read_before).all(|(a, b)| same(a, b)), "{read_before:?} became {again:?}");
    }
}

/// Decodes `data` as a chunk of aggregates.
pub fn chunk_aggregates(data: &[u8]) {
    let Ok(chunk) = AggregateChunk::decode(&data.to_vec().into()) else { return };
    for aggregate in Aggregate::ALL {
        if let Some(part) = chunk.get(aggregate) {
            decode_any(part.encoding, &part.data);
        }
    }
    let again = AggregateChunk::decode(&chunk.encode());
    assert!(again.is_ok(), "{again:?}");
    let again = again.unwrap_or_default();
    for aggregate in Aggregate::ALL {
        // A counter is always written, lest Thanos find the chunk too short.
        assert!(chunk.get(aggregate) == again.get(aggregate) || aggregate == Aggregate::Counter);
    }
    // Windows of windows are made of whatever can be decoded, or refused.
    let _ = downsample::windows_of_windows(&[chunk], FIVE_MINUTES, ONE_HOUR);
}

/// Makes windows of samples of all kinds, and windows of those.
pub fn downsample(data: &[u8]) {
    let samples_in = Input(data).samples();
    let counted = samples_in.iter().filter(|sample| match &sample.value {
        Value::Float(value) => !value.is_nan(),
        Value::Histogram(histogram) => !histogram.sum.is_nan(),
        Value::FloatHistogram(histogram) => !histogram.sum.is_nan(),
    });
    let counted = counted.count() as f64;
    let mut writer = ChunkWriter::new(Rules::Merge);
    let mut chunks = Vec::new();
    for sample in &samples_in {
        chunks.extend(writer.push(sample).ok().flatten());
    }
    chunks.extend(writer.finish());
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| chunk.chunk).collect();
    let fine = downsample::windows_of_samples(&chunks, FIVE_MINUTES);
    assert!(fine.is_ok(), "{fine:?}");
    let fine: Vec<_> = fine.unwrap_or_default();
    let total = |chunks: &[AggregateChunk]| {
        let counts = chunks.iter().filter_map(|chunk| chunk.get(Aggregate::Count));
        let counts = counts.flat_map(read).map(|sample| float(&sample).map_or(0.0, f64::from_bits));
        counts.sum::<f64>()
    };
    assert_eq!(total(&fine), counted);
    assert!(fine.iter().all(|chunk| AggregateChunk::decode(&chunk.encode()).as_ref() == Ok(chunk)));
    let coarse = downsample::windows_of_windows(&fine, FIVE_MINUTES, ONE_HOUR);
    assert!(coarse.is_ok(), "{coarse:?}");
    assert_eq!(total(&coarse.unwrap_or_default()), counted);
}

/// Writes floats made of `data`, with a second appender that takes the chunk up in the middle.
pub fn chunk_xor_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let (mut t, mut step, mut value) = (input.word().cast_signed(), 0, 0.0);
    let mut written = Vec::new();
    let mut appender = XorAppender::new();
    let resume_at = usize::from(input.byte());
    while !input.is_empty() && written.len() < 500 {
        (t, value) = (input.time(t, &mut step), input.float(value));
        if written.len() == resume_at {
            let resumed = XorAppender::resume(appender.as_bytes());
            assert!(resumed.is_ok(), "{resumed:?}");
            appender = resumed.unwrap_or_default();
        }
        assert!(appender.append(t, value).is_ok());
        written.push((t, value.to_bits()));
    }
    let mut continuous = XorAppender::new();
    for &(t, value) in &written {
        assert!(continuous.append(t, f64::from_bits(value)).is_ok());
    }
    assert_eq!(appender.as_bytes(), continuous.as_bytes());
    assert_eq!(appender.to_chunk(), continuous.to_chunk());
    let chunk = appender.take();
    assert!(read(&chunk).iter().map(|sample| (sample.t, float(sample))).eq(written.iter().map(|&(t, v)| (t, Some(v)))));
    decode_any(Encoding::Xor, &chunk.data);
}

/// As [`chunk_xor_round_trip`], with start timestamps.
pub fn chunk_xor2_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let (mut t, mut step, mut value, mut st) = (input.word().cast_signed(), 0, 0.0, 0);
    let mut written = Vec::new();
    let mut appender = Xor2Appender::new();
    let resume_at = usize::from(input.byte());
    let with_st = input.byte() % 4 > 0;
    while !input.is_empty() && written.len() < 500 {
        (t, value) = (input.time(t, &mut step), input.float(value));
        if with_st {
            st = input.start(st, t);
        }
        if written.len() == resume_at {
            let resumed = Xor2Appender::resume(appender.as_bytes());
            assert!(resumed.is_ok(), "{resumed:?}");
            appender = resumed.unwrap_or_default();
        }
        assert!(appender.append(st, t, value).is_ok());
        written.push((st, t, value.to_bits()));
    }
    let mut continuous = Xor2Appender::new();
    for &(st, t, value) in &written {
        assert!(continuous.append(st, t, f64::from_bits(value)).is_ok());
    }
    assert_eq!(appender.as_bytes(), continuous.as_bytes());
    assert_eq!(appender.to_chunk(), continuous.to_chunk());
    let chunk = appender.take();
    let read = read(&chunk);
    assert!(read.iter().map(|s| (s.st, s.t, float(s))).eq(written.iter().map(|&(st, t, v)| (st, t, Some(v)))));
    decode_any(Encoding::Xor2, &chunk.data);
}

/// Writes histograms made of `data`, of the kind and encoding that its first byte says.
pub fn chunk_histogram_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let resume_at = usize::from(input.byte());
    let (mut t, mut step, mut st, mut last) = (0, 1000, 0, Histogram::default());
    let (mut integers, mut floats) = (Vec::new(), Vec::new());
    while !input.is_empty() && integers.len() < 200 {
        t = input.time(t, &mut step);
        if choice & 2 != 0 {
            st = input.start(st, t);
        }
        let (integer, float) = input.float_histogram(&last);
        last = integer.clone();
        integers.push((st, t, integer));
        floats.push((st, t, float));
    }
    let with_st = choice & 2 != 0;
    if choice & 1 == 0 {
        let value = |histogram: &Histogram| Value::Histogram(Box::new(histogram.clone()));
        histograms_round_trip::<Integers>(&integers, with_st, resume_at, value);
    } else {
        let value = |histogram: &FloatHistogram| Value::FloatHistogram(Box::new(histogram.clone()));
        histograms_round_trip::<Floats>(&floats, with_st, resume_at, value);
    }
}

fn histograms_round_trip<K: Kind>(
    written: &[(i64, i64, K::Histogram)],
    with_st: bool,
    resume_at: usize,
    value: impl Fn(&K::Histogram) -> Value,
) {
    let new = || if with_st { Appender::<K>::with_start_timestamps() } else { Appender::new() };
    let (mut appender, mut continuous) = (new(), new());
    let mut chunks = Vec::new();
    for (index, (st, t, histogram)) in written.iter().enumerate() {
        if index == resume_at {
            let resumed = Appender::resume(appender.encoding(), appender.as_bytes());
            assert!(resumed.is_ok(), "{resumed:?}");
            appender = resumed.unwrap_or_default();
        }
        let before = appender.sample_count();
        let appended = appender.append_with_start(*st, *t, histogram);
        assert_eq!(appended, continuous.append_with_start(*st, *t, histogram));
        assert_eq!(appender.as_bytes(), continuous.as_bytes());
        match appended {
            Ok(Appended::NewChunk { finished, .. }) => chunks.push(finished),
            Ok(_) => assert_eq!(appender.sample_count(), before + 1),
            Err(error) => panic!("{error}"),
        }
    }
    chunks.push(appender.take());
    let samples: Vec<_> = chunks.iter().flat_map(read).collect();
    assert_eq!(samples.len(), written.len());
    for (sample, (st, t, histogram)) in samples.iter().zip(written) {
        let expected = Sample { t: *t, st: if with_st { *st } else { 0 }, value: value(histogram) };
        assert!(same(sample, &expected), "{expected:?} became {sample:?}");
    }
}

/// Cuts samples of all kinds into chunks.
pub fn chunk_writer(data: &[u8]) {
    let mut input = Input(data);
    let rules = if input.byte() % 2 == 0 { Rules::Merge } else { Rules::Bytes };
    let written = input.samples();
    let mut writer = ChunkWriter::new(rules);
    let mut chunks = Vec::new();
    for sample in &written {
        let pushed = writer.push(sample);
        assert!(pushed.is_ok(), "{pushed:?}");
        chunks.extend(pushed.ok().flatten());
    }
    chunks.extend(writer.finish());
    let mut left = &written[..];
    for chunk in &chunks {
        let samples = read(&chunk.chunk);
        let (here, rest) = left.split_at(chunk.samples);
        left = rest;
        assert_eq!(here.first().map(|sample| sample.t), Some(chunk.min_time));
        assert_eq!(here.last().map(|sample| sample.t), Some(chunk.max_time));
        assert_eq!(samples.len(), here.len());
        assert!(samples.iter().zip(here).all(|(a, b)| same(a, b)), "{here:?} became {samples:?}");
        assert!(rules == Rules::Bytes || chunk.samples <= 120);
        assert!(rules == Rules::Merge || !chunk.chunk.encoding.is_float() || chunk.chunk.data.len() <= 1024 + 16);
    }
    assert!(left.is_empty());
}
