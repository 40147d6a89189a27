//! Random samples appended as Prometheus appends them: counter resets, buckets that come and go, gauges, stale markers,
//! custom bounds and start timestamps. Which chunks come out, and their bytes, are what Prometheus's appenders made of the
//! same samples.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;

use narthex::chunk::{
    Appended, Appender, ChunkWriter, EncodedChunk, FloatHistogramAppender, HistogramAppender, Kind, Rules,
};
use narthex::fs::Env;
use narthex::model::{CounterResetHint, FloatHistogram, Histogram, Sample, Span, Value};
use serde_json::Value as Json;

/// Samples after which the file's `append` cases end a chunk on their own account.
const CUT: usize = 4;

fn float(json: &Json) -> f64 {
    f64::from_bits(u64::from_str_radix(json.as_str().unwrap(), 16).unwrap())
}

fn floats(json: &Json) -> Vec<f64> {
    json.as_array().unwrap().iter().map(float).collect()
}

fn number(json: &Json) -> i64 {
    json.as_str().unwrap().parse().unwrap()
}

fn deltas(json: &Json) -> Vec<i64> {
    let counts = json.as_array().unwrap().iter().map(number);
    let mut last = 0;
    counts.map(|count| count - std::mem::replace(&mut last, count)).collect()
}

fn spans(json: &Json) -> Vec<Span> {
    let span = |span: &Json| Span {
        offset: span[0].as_i64().unwrap().try_into().unwrap(),
        length: span[1].as_i64().unwrap().try_into().unwrap(),
    };
    json.as_array().unwrap().iter().map(span).collect()
}

fn value(json: &Json) -> Value {
    if json.is_string() {
        return Value::Float(float(json));
    }
    let counter_reset_hint = match json["counter_reset_hint"].as_str().unwrap() {
        "reset" => CounterResetHint::CounterReset,
        "not_reset" => CounterResetHint::NotCounterReset,
        "gauge" => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    };
    let schema = json["schema"].as_i64().unwrap().try_into().unwrap();
    if json["float"] == true {
        return Value::FloatHistogram(Box::new(FloatHistogram {
            counter_reset_hint,
            schema,
            zero_threshold: float(&json["zero_threshold"]),
            zero_count: float(&json["zero_count"]),
            count: float(&json["count"]),
            sum: float(&json["sum"]),
            positive_spans: spans(&json["positive_spans"]),
            negative_spans: spans(&json["negative_spans"]),
            positive_buckets: floats(&json["positive_buckets"]),
            negative_buckets: floats(&json["negative_buckets"]),
            custom_values: floats(&json["custom_values"]),
        }));
    }
    Value::Histogram(Box::new(Histogram {
        counter_reset_hint,
        schema,
        zero_threshold: float(&json["zero_threshold"]),
        zero_count: number(&json["zero_count"]).cast_unsigned(),
        count: number(&json["count"]).cast_unsigned(),
        sum: float(&json["sum"]),
        positive_spans: spans(&json["positive_spans"]),
        negative_spans: spans(&json["negative_spans"]),
        positive_buckets: deltas(&json["positive_buckets"]),
        negative_buckets: deltas(&json["negative_buckets"]),
        custom_values: floats(&json["custom_values"]),
    }))
}

fn samples(json: &Json) -> Vec<Sample> {
    let sample = |json: &Json| Sample {
        t: json[0].as_i64().unwrap(),
        st: json[2]["st"].as_i64().unwrap_or(0),
        value: value(&json[1]),
    };
    json.as_array().unwrap().iter().map(sample).collect()
}

/// How often each outcome of an append was seen, so that the file cannot be one that asks nothing.
#[derive(Debug, Default)]
struct Seen {
    in_place: usize,
    recoded: usize,
    new: usize,
    cut: usize,
}

fn append<'a, K: Kind>(
    mut appender: Appender<K>,
    samples: impl Iterator<Item = (i64, i64, &'a K::Histogram)>,
    seen: &mut Seen,
) -> Vec<EncodedChunk>
where
    K::Histogram: 'a,
{
    let mut chunks = Vec::new();
    let mut in_chunk = 0;
    for (st, t, histogram) in samples {
        if in_chunk == CUT {
            chunks.push(appender.cut(st, t, histogram).unwrap());
            (in_chunk, seen.cut) = (0, seen.cut + 1);
        } else {
            match appender.append_with_start(st, t, histogram).unwrap() {
                Appended::InPlace => seen.in_place += 1,
                Appended::Recoded => seen.recoded += 1,
                Appended::NewChunk { finished, .. } => {
                    chunks.push(finished);
                    (in_chunk, seen.new) = (0, seen.new + 1);
                }
            }
        }
        in_chunk += 1;
    }
    chunks.push(appender.take());
    chunks
}

fn written(rules: &str, samples: &[Sample], seen: &mut Seen) -> Vec<EncodedChunk> {
    if rules == "merge" {
        let mut writer = ChunkWriter::new(Rules::Merge);
        let mut chunks: Vec<_> = samples.iter().filter_map(|sample| writer.push(sample).unwrap()).collect();
        chunks.extend(writer.finish());
        return chunks.into_iter().map(|chunk| chunk.chunk).collect();
    }
    let with_st = rules == "append_st";
    if matches!(samples.first(), Some(Sample { value: Value::Histogram(_), .. })) {
        let appender = if with_st { HistogramAppender::with_start_timestamps() } else { HistogramAppender::new() };
        let histograms = samples.iter().filter_map(|sample| match &sample.value {
            Value::Histogram(histogram) => Some((sample.st, sample.t, &**histogram)),
            _ => None,
        });
        append(appender, histograms, seen)
    } else {
        let appender =
            if with_st { FloatHistogramAppender::with_start_timestamps() } else { FloatHistogramAppender::new() };
        let histograms = samples.iter().filter_map(|sample| match &sample.value {
            Value::FloatHistogram(histogram) => Some((sample.st, sample.t, &**histogram)),
            _ => None,
        });
        append(appender, histograms, seen)
    }
}

#[test]
fn appended_samples_become_the_chunks_that_prometheus_makes_of_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14/appends.jsonl.zst");
    let text = zstd::decode_all(&Env::real().fs.read(&path).unwrap()[..]).unwrap();
    let mut seen = Seen::default();
    for (index, line) in String::from_utf8(text).unwrap().lines().enumerate() {
        let case: Json = serde_json::from_str(line).unwrap();
        let rules = case["rules"].as_str().unwrap();
        let ours = written(rules, &samples(&case["samples"]), &mut seen);
        let theirs = case["chunks"].as_array().unwrap();
        for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert_eq!(ours.encoding.byte(), theirs[0], "chunk {at} of line {index}, {rules}");
            let hex: String = ours.data.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, theirs[1].as_str().unwrap(), "chunk {at} of line {index}, {rules}");
        }
        assert_eq!(ours.len(), theirs.len(), "line {index}, {rules}");
    }
    assert!(seen.in_place > 500 && seen.recoded > 100 && seen.new > 500 && seen.cut > 100, "{seen:?}");
}
