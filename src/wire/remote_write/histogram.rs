//! Native histograms in remote write: the same message in 1.0 and 2.0, where 2.0 adds the start timestamp.
//!
//! One message stands for both kinds. Which it is, the count says: it is given as an integer or as a float, and the
//! buckets of the other kind are left aside.

use super::{HistogramSample, HistogramValue};
use crate::model::{CounterResetHint, FloatHistogram, Histogram, Span};
use crate::wire::{ProtoError, ProtoReader, WireType};

#[derive(Clone, Copy)]
enum Count {
    Integer(u64),
    Float(f64),
}

pub(super) fn decode(mut reader: ProtoReader<'_>) -> Result<HistogramSample, ProtoError> {
    let (mut t, mut st) = (0, 0);
    let (mut count, mut zero_count) = (Count::Integer(0), Count::Integer(0));
    let (mut sum, mut schema, mut zero_threshold) = (0.0, 0, 0.0);
    let mut counter_reset_hint = CounterResetHint::Unknown;
    let (mut positive_spans, mut negative_spans) = (Vec::new(), Vec::new());
    let (mut positive_deltas, mut negative_deltas) = (Vec::new(), Vec::new());
    let (mut positive_counts, mut negative_counts) = (Vec::new(), Vec::new());
    let mut custom_values = Vec::new();
    while let Some((number, wire)) = reader.field("histograms")? {
        match number {
            1 => count = Count::Integer(reader.integer("histograms.count_int", wire)?),
            2 => count = Count::Float(reader.double("histograms.count_float", wire)?),
            3 => sum = reader.double("histograms.sum", wire)?,
            4 => schema = reader.sint32("histograms.schema", wire)?,
            5 => zero_threshold = reader.double("histograms.zero_threshold", wire)?,
            6 => zero_count = Count::Integer(reader.integer("histograms.zero_count_int", wire)?),
            7 => zero_count = Count::Float(reader.double("histograms.zero_count_float", wire)?),
            8 => negative_spans.push(span(&mut reader, "histograms.negative_spans", wire)?),
            9 => reader.sint64s("histograms.negative_deltas", wire, &mut negative_deltas)?,
            10 => reader.doubles("histograms.negative_counts", wire, &mut negative_counts)?,
            11 => positive_spans.push(span(&mut reader, "histograms.positive_spans", wire)?),
            12 => reader.sint64s("histograms.positive_deltas", wire, &mut positive_deltas)?,
            13 => reader.doubles("histograms.positive_counts", wire, &mut positive_counts)?,
            14 => counter_reset_hint = hint(reader.integer("histograms.reset_hint", wire)?),
            15 => t = reader.integer("histograms.timestamp", wire)?.cast_signed(),
            16 => reader.doubles("histograms.custom_values", wire, &mut custom_values)?,
            17 => st = reader.integer("histograms.start_timestamp", wire)?.cast_signed(),
            _ => reader.skip("histograms", number, wire)?,
        }
    }
    let value = match count {
        Count::Integer(count) => HistogramValue::Integer(Histogram {
            counter_reset_hint,
            schema,
            zero_threshold,
            zero_count: if let Count::Integer(zero_count) = zero_count { zero_count } else { 0 },
            count,
            sum,
            positive_spans,
            negative_spans,
            positive_buckets: positive_deltas,
            negative_buckets: negative_deltas,
            custom_values,
        }),
        Count::Float(count) => HistogramValue::Float(FloatHistogram {
            counter_reset_hint,
            schema,
            zero_threshold,
            zero_count: if let Count::Float(zero_count) = zero_count { zero_count } else { 0.0 },
            count,
            sum,
            positive_spans,
            negative_spans,
            positive_buckets: positive_counts,
            negative_buckets: negative_counts,
            custom_values,
        }),
    };
    Ok(HistogramSample { t, st, value })
}

fn span(reader: &mut ProtoReader<'_>, field: &'static str, wire: WireType) -> Result<Span, ProtoError> {
    let mut reader = reader.message(field, wire)?;
    let mut span = Span { offset: 0, length: 0 };
    while let Some((number, wire)) = reader.field(field)? {
        match number {
            1 => span.offset = reader.sint32(field, wire)?,
            2 => span.length = reader.integer(field, wire)? as u32,
            _ => reader.skip(field, number, wire)?,
        }
    }
    Ok(span)
}

fn hint(number: u64) -> CounterResetHint {
    match number {
        1 => CounterResetHint::CounterReset,
        2 => CounterResetHint::NotCounterReset,
        3 => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    }
}

/// What a histogram holds beside itself.
pub(super) fn heap_bytes(value: &HistogramValue) -> usize {
    fn all<T>(spans: [&[Span]; 2], buckets: [&[T]; 2], custom: &[f64]) -> usize {
        spans.iter().map(|spans| size_of_val(*spans)).sum::<usize>()
            + buckets.iter().map(|buckets| size_of_val(*buckets)).sum::<usize>()
            + size_of_val(custom)
    }
    match value {
        HistogramValue::Integer(h) => {
            all([&h.positive_spans, &h.negative_spans], [&h.positive_buckets, &h.negative_buckets], &h.custom_values)
        }
        HistogramValue::Float(h) => {
            all([&h.positive_spans, &h.negative_spans], [&h.positive_buckets, &h.negative_buckets], &h.custom_values)
        }
    }
}
