//! Every chunk that the originals wrote, decoded and written again from its samples: the samples are what the originals
//! read, the bytes are the same.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use narthex::chunk::{
    Appended, Appender, EncodedChunk, Encoding, FloatColumns, FloatHistogramAppender, HistogramAppender, Kind,
    Xor2Appender, XorAppender, counter_reset, decode_floats, sample_count, samples,
};
use narthex::codec::{Reader, crc32c};
use narthex::fs::Env;
use narthex::model::{CounterResetHint, FloatHistogram, Histogram, Sample, Span, Value};
use serde_json::{Value as Json, json};

/// Thanos's downsampled aggregates, five chunks in one.
const AGGREGATES: u8 = 0xff;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

/// All chunk segments below `dir`.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let env = Env::real();
    let mut found = Vec::new();
    for entry in env.fs.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            found.extend(segments(&path));
        } else if dir.ends_with("chunks") {
            found.push(path);
        }
    }
    found
}

/// The chunks of a segment in the order in which they stand, and how many hold aggregates.
fn chunks(segment: &Path) -> (Vec<EncodedChunk>, usize) {
    let bytes = Env::real().fs.read(segment).unwrap();
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.bytes("magic, version and padding", 8), Ok(&[0x85, 0xbd, 0x40, 0xdd, 1, 0, 0, 0][..]));
    let (mut found, mut aggregates) = (Vec::new(), 0);
    while reader.offset() < bytes.len() {
        let len = reader.uvarint().unwrap() as usize;
        let record = reader.bytes("encoding and data", len + 1).unwrap();
        assert_eq!(reader.be_u32(), Ok(crc32c(record)), "{}", segment.display());
        let (&encoding, data) = record.split_first().unwrap();
        if encoding == AGGREGATES {
            aggregates += 1;
        } else {
            let encoding = Encoding::from_byte(encoding).unwrap();
            found.push(EncodedChunk { encoding, data: data.to_vec().into() });
        }
    }
    (found, aggregates)
}

fn read(chunk: &EncodedChunk) -> Vec<Sample> {
    samples(chunk.encoding, &chunk.data).map(Result::unwrap).collect()
}

fn histograms<K: Kind>(
    mut appender: Appender<K>,
    samples: &[(i64, i64, &K::Histogram)],
    told: CounterResetHint,
) -> EncodedChunk {
    for (st, t, histogram) in samples {
        assert_eq!(appender.append_with_start(*st, *t, histogram), Ok(Appended::InPlace));
    }
    appender.set_counter_reset(told);
    appender.take()
}

fn float(sample: &Sample) -> f64 {
    match sample.value {
        Value::Float(value) => value,
        _ => panic!("a histogram among floats"),
    }
}

fn integers(sample: &Sample) -> (i64, i64, &Histogram) {
    match &sample.value {
        Value::Histogram(histogram) => (sample.st, sample.t, histogram),
        _ => panic!("something else among integer histograms"),
    }
}

fn floats(sample: &Sample) -> (i64, i64, &FloatHistogram) {
    match &sample.value {
        Value::FloatHistogram(histogram) => (sample.st, sample.t, histogram),
        _ => panic!("something else among float histograms"),
    }
}

/// The chunk again, from its samples and from what its header tells of the chunk before, which no sample shows.
fn again(chunk: &EncodedChunk) -> EncodedChunk {
    let samples = read(chunk);
    let told = counter_reset(chunk.encoding, &chunk.data).unwrap_or_default();
    let integers = || samples.iter().map(integers).collect::<Vec<_>>();
    let floats = || samples.iter().map(floats).collect::<Vec<_>>();
    match chunk.encoding {
        Encoding::Xor => {
            let mut appender = XorAppender::new();
            samples.iter().for_each(|sample| appender.append(sample.t, float(sample)).unwrap());
            appender.take()
        }
        Encoding::Xor2 => {
            let mut appender = Xor2Appender::new();
            samples.iter().for_each(|sample| appender.append(sample.st, sample.t, float(sample)).unwrap());
            appender.take()
        }
        Encoding::Histogram => histograms(HistogramAppender::new(), &integers(), told),
        Encoding::FloatHistogram => histograms(FloatHistogramAppender::new(), &floats(), told),
        Encoding::HistogramSt => histograms(HistogramAppender::with_start_timestamps(), &integers(), told),
        Encoding::FloatHistogramSt => histograms(FloatHistogramAppender::with_start_timestamps(), &floats(), told),
    }
}

#[test]
fn a_chunk_written_again_from_its_samples_has_the_same_bytes() {
    let (mut by_encoding, mut aggregates) = ([0; 7], 0);
    for segment in segments(&golden()) {
        let (chunks, skipped) = chunks(&segment);
        aggregates += skipped;
        for (index, chunk) in chunks.iter().enumerate() {
            by_encoding[usize::from(chunk.encoding.byte())] += 1;
            assert!(again(chunk) == *chunk, "chunk {index} of {}: {}", segment.display(), chunk.encoding.name());
        }
    }
    let [_, xor, integer, float, xor2, integer_st, float_st] = by_encoding;
    assert!(xor > 5000 && integer > 100 && float > 50, "{by_encoding:?}");
    assert!(xor2 > 50 && integer_st > 50 && float_st > 50, "{by_encoding:?}");
    assert!(aggregates > 50, "{aggregates}");
}

#[test]
fn a_chunk_decoded_at_once_has_the_samples_that_it_has_one_by_one() {
    for segment in segments(&golden()) {
        for chunk in chunks(&segment).0.iter().filter(|chunk| chunk.encoding.is_float()) {
            let mut columns = FloatColumns::default();
            decode_floats(chunk.encoding, &chunk.data, &mut columns).unwrap();
            assert_eq!(columns.t.len(), sample_count(chunk.encoding, &chunk.data).unwrap());
            let samples = read(chunk);
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(columns.t, samples.iter().map(|sample| sample.t).collect::<Vec<_>>());
            assert_eq!(bits(&columns.v), bits(&samples.iter().map(float).collect::<Vec<_>>()));
            let st: Vec<_> = samples.iter().map(|sample| sample.st).collect();
            assert!(columns.st == st || (columns.st.is_empty() && st.iter().all(|st| *st == 0)));
        }
    }
}

fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn spans(spans: &[Span]) -> Json {
    spans.iter().map(|span| json!([span.offset, span.length])).collect()
}

fn hint(hint: CounterResetHint) -> &'static str {
    match hint {
        CounterResetHint::Unknown => "unknown",
        CounterResetHint::CounterReset => "reset",
        CounterResetHint::NotCounterReset => "not_reset",
        CounterResetHint::Gauge => "gauge",
    }
}

/// A sample as the golden files write it: buckets as counts, floats as the hexadecimal digits of their bits.
fn line(sample: &Sample) -> Json {
    let mut value = match &sample.value {
        Value::Float(value) => json!(bits(*value)),
        Value::Histogram(h) => json!({
            "schema": h.schema, "zero_threshold": bits(h.zero_threshold), "zero_count": h.zero_count.to_string(),
            "count": h.count.to_string(), "sum": bits(h.sum), "positive_spans": spans(&h.positive_spans),
            "negative_spans": spans(&h.negative_spans), "counter_reset_hint": hint(h.counter_reset_hint), "float": false,
            "positive_buckets": h.positive_counts().map(|(_, count)| count.to_string()).collect::<Vec<_>>(),
            "negative_buckets": h.negative_counts().map(|(_, count)| count.to_string()).collect::<Vec<_>>(),
            "custom_values": h.custom_values.iter().map(|bound| bits(*bound)).collect::<Vec<_>>(),
        }),
        Value::FloatHistogram(h) => json!({
            "schema": h.schema, "zero_threshold": bits(h.zero_threshold), "zero_count": bits(h.zero_count),
            "count": bits(h.count), "sum": bits(h.sum), "positive_spans": spans(&h.positive_spans),
            "negative_spans": spans(&h.negative_spans), "counter_reset_hint": hint(h.counter_reset_hint), "float": true,
            "positive_buckets": h.positive_counts().map(|(_, count)| bits(count)).collect::<Vec<_>>(),
            "negative_buckets": h.negative_counts().map(|(_, count)| bits(count)).collect::<Vec<_>>(),
            "custom_values": h.custom_values.iter().map(|bound| bits(*bound)).collect::<Vec<_>>(),
        }),
    };
    if let Some(fields) = value.as_object_mut()
        && fields.get("custom_values").is_some_and(|bounds| bounds.as_array().is_some_and(Vec::is_empty))
    {
        fields.remove("custom_values");
    }
    if sample.st == 0 { json!([sample.t, value]) } else { json!([sample.t, value, { "st": sample.st }]) }
}

#[test]
fn the_samples_of_a_block_are_those_that_prometheus_reads() {
    let mut compared = 0;
    for segment in segments(&golden().join("prometheus-3.14")) {
        let block = segment.parent().unwrap().parent().unwrap();
        let expected = PathBuf::from(format!("{}.samples.jsonl.zst", block.display()));
        let Ok(packed) = Env::real().fs.read(&expected) else { continue };
        let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
        // A segment has the chunks of a series together and the series in label order, as the lines are.
        let (mut compared_here, mut hidden) = (0, 0);
        let mut ours = chunks(&segment).0.into_iter().flat_map(|chunk| read(&chunk));
        for series in text.lines() {
            let series: Json = serde_json::from_str(series).unwrap();
            for theirs in series["samples"].as_array().unwrap() {
                // What tombstones hide is still in the chunks.
                let sample = ours
                    .find(|sample| {
                        json!(sample.t) == theirs[0] || {
                            hidden += 1;
                            false
                        }
                    })
                    .unwrap();
                assert_eq!(&line(&sample), theirs, "{} of {}", series["labels"], block.display());
                compared_here += 1;
            }
        }
        hidden += ours.count();
        let meta: Json = serde_json::from_slice(&Env::real().fs.read(&block.join("meta.json")).unwrap()).unwrap();
        assert!(hidden == 0 || meta["stats"]["numTombstones"].as_u64() > Some(0), "{}", block.display());
        let stored = meta["stats"]["numSamples"].as_u64().unwrap();
        assert_eq!(compared_here + hidden as u64, stored, "{}", block.display());
        compared += compared_here;
    }
    assert!(compared > 50_000, "{compared}");
}
