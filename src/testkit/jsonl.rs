//! Series as JSON lines: what `narthex tsdb dump` and `tsdb chunks` print, and what the golden files hold.
//!
//! ```text
//! {"labels":[["__name__","up"]],"samples":[[1700006400000,"3ff0000000000000"]]}
//! {"chunks":[{"bytes":48,"encoding":"XOR","encoding_byte":1,"max_time":…,"min_time":…,"ref":8,"samples":120}],
//!  "labels":[["__name__","up"]],"series_ref":23}                                                    (in one line)
//! ```
//!
//! `tsdb chunks` prints a block that has Thanos's section in another form, since what is in aggregates is what matters there:
//!
//! ```text
//! {"chunks":[{"count":PART,"counter":PART,"encoding_byte":255,"max":PART,"max_time":…,"min":PART,"min_time":…,"samples":9,
//!  "sum":PART}],"labels":{"__name__":"up"},"resolution":300000}          PART: {"encoding_byte":1,"samples":[…]}, or null
//! ```
//!
//! A sample is `[t, value]`, or `[t, value, {"st": ms}]` with a start timestamp. A float is the 16 hexadecimal digits of
//! its bits, so that the specials and the last bit survive; a histogram is an object with absolute counts.

use std::fmt::Write;

use bytes::Bytes;

use crate::chunk::{AGGREGATES, Aggregate, AggregateChunk, ChunkError, EncodedChunk, Encoding, sample_count, samples};
use crate::index::{ChunkMeta, SeriesId};
use crate::model::{CounterResetHint, FloatHistogram, Histogram, Labels, Sample, Span, Value};

/// Appends the line of a series with its samples.
///
/// # Errors
/// The first that `samples` has; the line is unfinished then.
pub fn samples_line<E>(
    out: &mut String,
    labels: &Labels,
    samples: impl IntoIterator<Item = Result<Sample, E>>,
) -> Result<(), E> {
    out.push_str("{\"labels\":");
    put_labels(out, labels);
    out.push_str(",\"samples\":");
    let start = out.len();
    for sample in samples {
        out.push(if out.len() == start { '[' } else { ',' });
        put_sample(out, &sample?);
    }
    // Go writes a list that was never made as null.
    out.push_str(if out.len() == start { "null}\n" } else { "]}\n" });
    Ok(())
}

/// Appends the line of a series with its chunks: each with its encoding byte and its data.
pub fn chunks_line(out: &mut String, id: SeriesId, labels: &Labels, chunks: &[(ChunkMeta, u8, &[u8])]) {
    out.push_str("{\"chunks\":");
    let start = out.len();
    for (meta, byte, data) in chunks {
        out.push(if out.len() == start { '[' } else { ',' });
        let encoding = Encoding::from_byte(*byte).ok();
        let name = encoding.map_or("<unknown>", Encoding::name);
        let samples = encoding.and_then(|encoding| sample_count(encoding, data).ok()).unwrap_or(0);
        let ChunkMeta { reference, min_time, max_time } = meta;
        put(
            out,
            format_args!(
                "{{\"bytes\":{},\"encoding\":\"{name}\",\"encoding_byte\":{byte},\"max_time\":{max_time},\
                 \"min_time\":{min_time},\"ref\":{reference},\"samples\":{samples}}}",
                data.len()
            ),
        );
    }
    out.push_str(if out.len() == start { "null" } else { "]" });
    out.push_str(",\"labels\":");
    put_labels(out, labels);
    put(out, format_args!(",\"series_ref\":{}}}\n", id.0));
}

/// Appends the line of a series of a block of Thanos's with its chunks: those of samples in few words, those of aggregates
/// with all that is in them. `resolution` is the block's.
///
/// # Errors
/// A chunk that cannot be decoded; the line is unfinished then.
pub fn thanos_chunks_line(
    out: &mut String,
    labels: &Labels,
    resolution: i64,
    chunks: &[(ChunkMeta, u8, Bytes)],
) -> Result<(), ChunkError> {
    out.push_str("{\"chunks\":");
    let start = out.len();
    for (meta, byte, data) in chunks {
        out.push(if out.len() == start { '[' } else { ',' });
        let ChunkMeta { min_time, max_time, .. } = meta;
        if *byte != AGGREGATES {
            let encoding = Encoding::from_byte(*byte).ok();
            let samples = encoding.and_then(|encoding| sample_count(encoding, data).ok()).unwrap_or(0);
            put(
                out,
                format_args!(
                    "{{\"encoding_byte\":{byte},\"max_time\":{max_time},\"min_time\":{min_time},\"samples\":{samples}}}"
                ),
            );
            continue;
        }
        let chunk = AggregateChunk::decode(data)?;
        put_aggregate(out, "{\"count\":", &chunk, Aggregate::Count)?;
        put_aggregate(out, ",\"counter\":", &chunk, Aggregate::Counter)?;
        put(out, format_args!(",\"encoding_byte\":{byte}"));
        put_aggregate(out, ",\"max\":", &chunk, Aggregate::Max)?;
        put(out, format_args!(",\"max_time\":{max_time}"));
        put_aggregate(out, ",\"min\":", &chunk, Aggregate::Min)?;
        put(out, format_args!(",\"min_time\":{min_time},\"samples\":{}", chunk.windows()?));
        put_aggregate(out, ",\"sum\":", &chunk, Aggregate::Sum)?;
        out.push('}');
    }
    out.push_str(if out.len() == start { "null" } else { "]" });
    out.push_str(",\"labels\":{");
    let start = out.len();
    for (name, value) in labels {
        if out.len() > start {
            out.push(',');
        }
        put_text(out, name);
        out.push(':');
        put_text(out, value);
    }
    put(out, format_args!("}},\"resolution\":{resolution}}}\n"));
    Ok(())
}

fn put_aggregate(out: &mut String, key: &str, chunk: &AggregateChunk, part: Aggregate) -> Result<(), ChunkError> {
    out.push_str(key);
    let Some(EncodedChunk { encoding, data }) = chunk.get(part) else {
        out.push_str("null");
        return Ok(());
    };
    put(out, format_args!("{{\"encoding_byte\":{},\"samples\":", encoding.byte()));
    let start = out.len();
    for sample in samples(*encoding, data) {
        let sample = sample?;
        put(out, format_args!("{}[{},", if out.len() == start { '[' } else { ',' }, sample.t));
        match &sample.value {
            Value::Float(value) => put_bits(out, *value),
            Value::Histogram(histogram) => put_as_thanos(out, &histogram.to_float()),
            Value::FloatHistogram(histogram) => put_as_thanos(out, histogram),
        }
        out.push(']');
    }
    out.push_str(if out.len() == start { "null}" } else { "]}" });
    Ok(())
}

/// A histogram with the fields of Go's type, by name.
fn put_as_thanos(out: &mut String, histogram: &FloatHistogram) {
    let hint = match histogram.counter_reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::CounterReset => 1,
        CounterResetHint::NotCounterReset => 2,
        CounterResetHint::Gauge => 3,
    };
    let put_span = |out: &mut String, span: &Span| {
        put(out, format_args!("{{\"Offset\":{},\"Length\":{}}}", span.offset, span.length));
    };
    out.push_str("{\"count\":");
    put_bits(out, histogram.count);
    put(out, format_args!(",\"counter_reset_hint\":{hint}"));
    put_list(out, "negative_buckets", histogram.negative_buckets.iter().copied(), put_bits);
    put_list(out, "negative_spans", &histogram.negative_spans, put_span);
    put_list(out, "positive_buckets", histogram.positive_buckets.iter().copied(), put_bits);
    put_list(out, "positive_spans", &histogram.positive_spans, put_span);
    put(out, format_args!(",\"schema\":{},\"sum\":", histogram.schema));
    put_bits(out, histogram.sum);
    out.push_str(",\"zero_count\":");
    put_bits(out, histogram.zero_count);
    out.push_str(",\"zero_threshold\":");
    put_bits(out, histogram.zero_threshold);
    out.push('}');
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = out.write_fmt(text);
}

fn put_labels(out: &mut String, labels: &Labels) {
    let start = out.len();
    for (name, value) in labels {
        out.push_str(if out.len() == start { "[[" } else { ",[" });
        put_text(out, name);
        out.push(',');
        put_text(out, value);
        out.push(']');
    }
    out.push_str(if out.len() == start { "null" } else { "]" });
}

/// A JSON string, escaped as Go does without its HTML escapes.
fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => put(out, format_args!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn put_sample(out: &mut String, sample: &Sample) {
    put(out, format_args!("[{},", sample.t));
    match &sample.value {
        Value::Float(value) => put_bits(out, *value),
        Value::Histogram(histogram) => put_histogram(out, histogram),
        Value::FloatHistogram(histogram) => put_float_histogram(out, histogram),
    }
    if sample.st != 0 {
        put(out, format_args!(",{{\"st\":{}}}", sample.st));
    }
    out.push(']');
}

fn put_bits(out: &mut String, value: f64) {
    put(out, format_args!("\"{:016x}\"", value.to_bits()));
}

fn put_histogram(out: &mut String, histogram: &Histogram) {
    let absolute = |deltas: &[i64]| {
        let mut count = 0i64;
        deltas
            .iter()
            .map(move |delta| {
                count = count.wrapping_add(*delta);
                count
            })
            .collect::<Vec<_>>()
    };
    put(out, format_args!("{{\"schema\":{},\"zero_threshold\":", histogram.schema));
    put_bits(out, histogram.zero_threshold);
    put(out, format_args!(",\"zero_count\":\"{}\",\"count\":\"{}\",\"sum\":", histogram.zero_count, histogram.count));
    put_bits(out, histogram.sum);
    put_spans(out, "positive_spans", &histogram.positive_spans);
    put_spans(out, "negative_spans", &histogram.negative_spans);
    let put_count = |out: &mut String, count: i64| put(out, format_args!("\"{count}\""));
    put_list(out, "positive_buckets", absolute(&histogram.positive_buckets), put_count);
    put_list(out, "negative_buckets", absolute(&histogram.negative_buckets), put_count);
    put_end(out, &histogram.custom_values, histogram.counter_reset_hint, false);
}

fn put_float_histogram(out: &mut String, histogram: &FloatHistogram) {
    put(out, format_args!("{{\"schema\":{},\"zero_threshold\":", histogram.schema));
    put_bits(out, histogram.zero_threshold);
    out.push_str(",\"zero_count\":");
    put_bits(out, histogram.zero_count);
    out.push_str(",\"count\":");
    put_bits(out, histogram.count);
    out.push_str(",\"sum\":");
    put_bits(out, histogram.sum);
    put_spans(out, "positive_spans", &histogram.positive_spans);
    put_spans(out, "negative_spans", &histogram.negative_spans);
    put_list(out, "positive_buckets", histogram.positive_buckets.iter().copied(), put_bits);
    put_list(out, "negative_buckets", histogram.negative_buckets.iter().copied(), put_bits);
    put_end(out, &histogram.custom_values, histogram.counter_reset_hint, true);
}

fn put_list<T>(out: &mut String, key: &str, items: impl IntoIterator<Item = T>, put_item: impl Fn(&mut String, T)) {
    put(out, format_args!(",\"{key}\":["));
    let start = out.len();
    for item in items {
        if out.len() > start {
            out.push(',');
        }
        put_item(out, item);
    }
    out.push(']');
}

fn put_spans(out: &mut String, key: &str, spans: &[Span]) {
    put_list(out, key, spans, |out, span| put(out, format_args!("[{},{}]", span.offset, span.length)));
}

fn put_end(out: &mut String, custom_values: &[f64], hint: CounterResetHint, float: bool) {
    if !custom_values.is_empty() {
        put_list(out, "custom_values", custom_values.iter().copied(), put_bits);
    }
    let hint = match hint {
        CounterResetHint::Unknown => "unknown",
        CounterResetHint::CounterReset => "reset",
        CounterResetHint::NotCounterReset => "not_reset",
        CounterResetHint::Gauge => "gauge",
    };
    put(out, format_args!(",\"counter_reset_hint\":\"{hint}\",\"float\":{float}}}"));
}
