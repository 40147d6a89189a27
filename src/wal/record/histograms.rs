//! Records with histograms.
//!
//! ```text
//! histogram        hint byte, varint schema, be64 zero threshold, uvarint zero count, uvarint count, be64 sum,
//!                  spans, spans, uvarint n, (varint Δcount)*n, the same for negative ones, bounds
//! float histogram  the same with be64 floats for all counts
//! spans            uvarint n, (varint offset, uvarint length)*n
//! bounds           only with schema -53: uvarint n, (be64)*n
//! ```

use crate::codec::{Reader, put_be_f64, put_uvarint, put_varint};
use crate::model::{
    CUSTOM_BUCKETS_SCHEMA, CounterResetHint, EXPONENTIAL_SCHEMA_MAX, EXPONENTIAL_SCHEMA_MIN, FloatHistogram, Histogram,
    Span,
};

use super::samples::{Deltas, DeltasSt};
use super::series::open;
use super::{Place, RecordError, RecordType, RefFloatHistogram, RefHistogram};

/// Appends the histograms of a record of type 7, 9 or 12 to `out`. A histogram of a schema that is not known is left
/// out, as the originals do.
///
/// # Errors
/// [`RecordError`]; histograms before the failing one have been appended.
pub fn decode_histograms(record: &[u8], out: &mut Vec<RefHistogram>) -> Result<(), RecordError> {
    let types = [RecordType::Histograms, RecordType::CustomHistograms, RecordType::HistogramsSt];
    decode(record, types, read_histogram, |reference, t, st, histogram: Histogram| {
        if is_known_schema(histogram.schema) {
            out.push(RefHistogram { reference, t, st, histogram: Box::new(histogram) });
        }
    })
}

/// Appends the float histograms of a record of type 8, 10 or 13 to `out`. A histogram of a schema that is not known is
/// left out, as the originals do.
///
/// # Errors
/// [`RecordError`]; histograms before the failing one have been appended.
pub fn decode_float_histograms(record: &[u8], out: &mut Vec<RefFloatHistogram>) -> Result<(), RecordError> {
    let types = [RecordType::FloatHistograms, RecordType::CustomFloatHistograms, RecordType::FloatHistogramsSt];
    decode(record, types, read_float_histogram, |reference, t, st, histogram: FloatHistogram| {
        if is_known_schema(histogram.schema) {
            out.push(RefFloatHistogram { reference, t, st, histogram: Box::new(histogram) });
        }
    })
}

/// Appends a histograms record (type 7) with those of `entries` whose buckets are exponential, or nothing if there are
/// none. Returns how many had custom buckets and were left out: they go into a record of their own
/// ([`encode_custom_histograms`] picks them from the same entries).
///
/// The deltas are to the first entry even if it has custom buckets: so do the originals, and readers do not mind.
pub fn encode_histograms<'a>(entries: impl IntoIterator<Item = (u64, i64, &'a Histogram)>, out: &mut Vec<u8>) -> usize {
    let entries = entries.into_iter().map(|(reference, t, h)| (reference, t, is_custom(h.schema), h));
    encode(RecordType::Histograms, entries, put_histogram, out)
}

/// Appends a record (type 9) with those of `entries` whose buckets are custom, or nothing if there are none.
pub fn encode_custom_histograms<'a>(entries: impl IntoIterator<Item = (u64, i64, &'a Histogram)>, out: &mut Vec<u8>) {
    let entries = entries.into_iter().filter(|(.., h)| is_custom(h.schema));
    let entries = entries.map(|(reference, t, h)| (reference, t, false, h));
    encode(RecordType::CustomHistograms, entries, put_histogram, out);
}

/// Appends a float histograms record (type 8): as [`encode_histograms`].
pub fn encode_float_histograms<'a>(
    entries: impl IntoIterator<Item = (u64, i64, &'a FloatHistogram)>,
    out: &mut Vec<u8>,
) -> usize {
    let entries = entries.into_iter().map(|(reference, t, h)| (reference, t, is_custom(h.schema), h));
    encode(RecordType::FloatHistograms, entries, put_float_histogram, out)
}

/// Appends a record (type 10) with those of `entries` whose buckets are custom, or nothing if there are none.
pub fn encode_custom_float_histograms<'a>(
    entries: impl IntoIterator<Item = (u64, i64, &'a FloatHistogram)>,
    out: &mut Vec<u8>,
) {
    let entries = entries.into_iter().filter(|(.., h)| is_custom(h.schema));
    let entries = entries.map(|(reference, t, h)| (reference, t, false, h));
    encode(RecordType::CustomFloatHistograms, entries, put_float_histogram, out);
}

/// Appends a histograms record with start timestamps (type 12), of all schemas.
pub fn encode_histograms_st<'a>(entries: impl IntoIterator<Item = (u64, i64, i64, &'a Histogram)>, out: &mut Vec<u8>) {
    encode_st(RecordType::HistogramsSt, entries, put_histogram, out);
}

/// Appends a float histograms record with start timestamps (type 13), of all schemas.
pub fn encode_float_histograms_st<'a>(
    entries: impl IntoIterator<Item = (u64, i64, i64, &'a FloatHistogram)>,
    out: &mut Vec<u8>,
) {
    encode_st(RecordType::FloatHistogramsSt, entries, put_float_histogram, out);
}

/// Reads one histogram as it stands in a record.
///
/// # Errors
/// [`RecordError`].
pub(crate) fn read_one_histogram(reader: &mut Reader<'_>) -> Result<Histogram, RecordError> {
    read_histogram(reader, Place { record: RecordType::Histograms, entry: 0 })
}

/// Reads one float histogram as it stands in a record.
///
/// # Errors
/// [`RecordError`].
pub(crate) fn read_one_float_histogram(reader: &mut Reader<'_>) -> Result<FloatHistogram, RecordError> {
    read_float_histogram(reader, Place { record: RecordType::FloatHistograms, entry: 0 })
}

fn decode<T>(
    record: &[u8],
    [exponential, custom, with_st]: [RecordType; 3],
    read: impl Fn(&mut Reader<'_>, Place) -> Result<T, RecordError>,
    mut each: impl FnMut(u64, i64, i64, T),
) -> Result<(), RecordError> {
    let found = RecordType::of(record).filter(|found| *found == custom || *found == with_st).unwrap_or(exponential);
    let (mut reader, mut place) = open(record, found)?;
    if reader.is_empty() {
        return Ok(());
    }
    if found == with_st {
        let mut deltas = DeltasSt::default();
        while !reader.is_empty() {
            let (reference, t, st) = deltas.next(&mut reader, place)?;
            each(reference, t, st, read(&mut reader, place)?);
            place.entry += 1;
        }
        return Ok(());
    }
    let deltas = Deltas::read(&mut reader, place)?;
    while !reader.is_empty() {
        let (reference, t) = deltas.next(&mut reader, place)?;
        each(reference, t, 0, read(&mut reader, place)?);
        place.entry += 1;
    }
    Ok(())
}

fn encode<'a, T: 'a>(
    record: RecordType,
    entries: impl Iterator<Item = (u64, i64, bool, &'a T)>,
    put: impl Fn(&T, &mut Vec<u8>),
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    let (mut written, mut skipped) = (0, 0);
    let mut deltas = None;
    out.push(record.byte());
    for (reference, t, skip, histogram) in entries {
        let entry = out.len();
        Deltas::put(&mut deltas, reference, t, out);
        if skip {
            // The first entry's numbers stay even if its histogram goes elsewhere.
            let keep = if written + skipped == 0 { entry + 16 } else { entry };
            out.truncate(keep);
            skipped += 1;
            continue;
        }
        put(histogram, out);
        written += 1;
    }
    if written == 0 {
        out.truncate(start);
    }
    skipped
}

fn encode_st<'a, T: 'a>(
    record: RecordType,
    entries: impl IntoIterator<Item = (u64, i64, i64, &'a T)>,
    put: impl Fn(&T, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    out.push(record.byte());
    let mut deltas = DeltasSt::default();
    for (reference, t, st, histogram) in entries {
        deltas.put(reference, t, st, out);
        put(histogram, out);
    }
}

fn is_custom(schema: i32) -> bool {
    schema == CUSTOM_BUCKETS_SCHEMA
}

fn is_known_schema(schema: i32) -> bool {
    is_custom(schema) || (EXPONENTIAL_SCHEMA_MIN..=EXPONENTIAL_SCHEMA_MAX).contains(&schema)
}

fn read_histogram(reader: &mut Reader<'_>, place: Place) -> Result<Histogram, RecordError> {
    let mut h = Histogram {
        counter_reset_hint: read_hint(reader, place)?,
        schema: read_schema(reader, place)?,
        zero_threshold: reader.be_f64().map_err(place.read())?,
        zero_count: reader.uvarint().map_err(place.read())?,
        count: reader.uvarint().map_err(place.read())?,
        sum: reader.be_f64().map_err(place.read())?,
        positive_spans: read_list(reader, place, read_span)?,
        negative_spans: read_list(reader, place, read_span)?,
        positive_buckets: read_list(reader, place, read_delta)?,
        negative_buckets: read_list(reader, place, read_delta)?,
        custom_values: Vec::new(),
    };
    if is_custom(h.schema) {
        h.custom_values = read_list(reader, place, read_float)?;
    }
    Ok(h)
}

fn read_float_histogram(reader: &mut Reader<'_>, place: Place) -> Result<FloatHistogram, RecordError> {
    let mut h = FloatHistogram {
        counter_reset_hint: read_hint(reader, place)?,
        schema: read_schema(reader, place)?,
        zero_threshold: reader.be_f64().map_err(place.read())?,
        zero_count: reader.be_f64().map_err(place.read())?,
        count: reader.be_f64().map_err(place.read())?,
        sum: reader.be_f64().map_err(place.read())?,
        positive_spans: read_list(reader, place, read_span)?,
        negative_spans: read_list(reader, place, read_span)?,
        positive_buckets: read_list(reader, place, read_float)?,
        negative_buckets: read_list(reader, place, read_float)?,
        custom_values: Vec::new(),
    };
    if is_custom(h.schema) {
        h.custom_values = read_list(reader, place, read_float)?;
    }
    Ok(h)
}

fn read_hint(reader: &mut Reader<'_>, place: Place) -> Result<CounterResetHint, RecordError> {
    match reader.u8().map_err(place.read())? {
        0 => Ok(CounterResetHint::Unknown),
        1 => Ok(CounterResetHint::CounterReset),
        2 => Ok(CounterResetHint::NotCounterReset),
        3 => Ok(CounterResetHint::Gauge),
        _ => Err(place.invalid(reader.offset(), "no such counter reset hint")),
    }
}

fn hint_byte(hint: CounterResetHint) -> u8 {
    match hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::CounterReset => 1,
        CounterResetHint::NotCounterReset => 2,
        CounterResetHint::Gauge => 3,
    }
}

fn read_schema(reader: &mut Reader<'_>, place: Place) -> Result<i32, RecordError> {
    let schema = reader.varint().map_err(place.read())?;
    i32::try_from(schema).map_err(|_| place.invalid(reader.offset(), "schema past 32 bits"))
}

fn read_span(reader: &mut Reader<'_>, place: Place) -> Result<Span, RecordError> {
    let offset = reader.varint().map_err(place.read())?;
    let length = reader.uvarint().map_err(place.read())?;
    match (i32::try_from(offset), u32::try_from(length)) {
        (Ok(offset), Ok(length)) => Ok(Span { offset, length }),
        _ => Err(place.invalid(reader.offset(), "span past 32 bits")),
    }
}

fn read_delta(reader: &mut Reader<'_>, place: Place) -> Result<i64, RecordError> {
    reader.varint().map_err(place.read())
}

fn read_float(reader: &mut Reader<'_>, place: Place) -> Result<f64, RecordError> {
    reader.be_f64().map_err(place.read())
}

/// A list behind its length. The length is not believed: memory grows with what is really there.
fn read_list<T>(
    reader: &mut Reader<'_>,
    place: Place,
    read: impl Fn(&mut Reader<'_>, Place) -> Result<T, RecordError>,
) -> Result<Vec<T>, RecordError> {
    let len = reader.uvarint().map_err(place.read())?;
    // Every element takes a byte at least.
    let mut list = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX).min(reader.rest().len()));
    for _ in 0..len {
        list.push(read(reader, place)?);
    }
    Ok(list)
}

/// Appends one histogram as it stands in a record.
pub(crate) fn put_histogram(h: &Histogram, out: &mut Vec<u8>) {
    out.push(hint_byte(h.counter_reset_hint));
    put_varint(out, i64::from(h.schema));
    put_be_f64(out, h.zero_threshold);
    put_uvarint(out, h.zero_count);
    put_uvarint(out, h.count);
    put_be_f64(out, h.sum);
    put_list(&h.positive_spans, put_span, out);
    put_list(&h.negative_spans, put_span, out);
    put_list(&h.positive_buckets, |delta, out| put_varint(out, *delta), out);
    put_list(&h.negative_buckets, |delta, out| put_varint(out, *delta), out);
    if is_custom(h.schema) {
        put_list(&h.custom_values, put_float, out);
    }
}

/// Appends one float histogram as it stands in a record.
pub(crate) fn put_float_histogram(h: &FloatHistogram, out: &mut Vec<u8>) {
    out.push(hint_byte(h.counter_reset_hint));
    put_varint(out, i64::from(h.schema));
    for value in [h.zero_threshold, h.zero_count, h.count, h.sum] {
        put_be_f64(out, value);
    }
    put_list(&h.positive_spans, put_span, out);
    put_list(&h.negative_spans, put_span, out);
    put_list(&h.positive_buckets, put_float, out);
    put_list(&h.negative_buckets, put_float, out);
    if is_custom(h.schema) {
        put_list(&h.custom_values, put_float, out);
    }
}

fn put_list<T>(list: &[T], put: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    put_uvarint(out, list.len() as u64);
    for element in list {
        put(element, out);
    }
}

fn put_span(span: &Span, out: &mut Vec<u8>) {
    put_varint(out, i64::from(span.offset));
    put_uvarint(out, u64::from(span.length));
}

fn put_float(value: &f64, out: &mut Vec<u8>) {
    put_be_f64(out, *value);
}
