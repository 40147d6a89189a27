//! Records about series: their labels and their metadata.

use crate::codec::{Reader, put_be_u64, put_bytes, put_uvarint};
use crate::model::{Labels, LabelsBuilder, LabelsIter, Metadata, MetricType};

use super::{Place, RecordError, RecordType, RefMetadata};

/// The metadata fields that are known; others are read over.
const UNIT: &str = "UNIT";
const HELP: &str = "HELP";

/// Hands each series of a series record to `each`: the reference and a builder with its labels, which is emptied for
/// the next one.
///
/// # Errors
/// [`RecordError`]; series before the failing one have been handed out.
pub fn decode_series(record: &[u8], mut each: impl FnMut(u64, &mut LabelsBuilder)) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::Series)?;
    let mut labels = LabelsBuilder::new();
    while !reader.is_empty() {
        let reference = reader.be_u64().map_err(place.read())?;
        labels.clear();
        read_labels(&mut reader, place, &mut labels)?;
        each(reference, &mut labels);
        place.entry += 1;
    }
    Ok(())
}

/// Appends the series of a series record that `keep` wants to another one, as they stand.
///
/// # Errors
/// As [`decode_series`]: series before the failing one have been appended.
pub(crate) fn copy_series(
    record: &[u8],
    mut keep: impl FnMut(u64) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::Series)?;
    while !reader.is_empty() {
        let start = reader.offset();
        let reference = reader.be_u64().map_err(place.read())?;
        for _ in 0..reader.uvarint().map_err(place.read())? {
            read_text(&mut reader, place, "label name")?;
            read_text(&mut reader, place, "label value")?;
        }
        if keep(reference) {
            out.extend_from_slice(record.get(start..reader.offset()).unwrap_or_default());
        }
        place.entry += 1;
    }
    Ok(())
}

/// Appends a series record with `series`.
pub fn encode_series<'a>(series: impl IntoIterator<Item = (u64, &'a Labels)>, out: &mut Vec<u8>) {
    begin_series(out);
    for (reference, labels) in series {
        put_series(reference, labels.iter(), out);
    }
}

/// Appends the beginning of a series record; [`put_series`] adds to it.
pub fn begin_series(out: &mut Vec<u8>) {
    out.push(RecordType::Series.byte());
}

/// Appends one series to a series record that [`begin_series`] began.
pub fn put_series(reference: u64, labels: LabelsIter<'_>, out: &mut Vec<u8>) {
    put_be_u64(out, reference);
    put_labels(labels, out);
}

/// Reads one series as it stands in a series record, and in records of others that begin with one: its labels go to
/// `labels`, which is emptied before.
///
/// # Errors
/// [`RecordError`].
pub(crate) fn read_series(reader: &mut Reader<'_>, labels: &mut LabelsBuilder) -> Result<u64, RecordError> {
    let place = Place { record: RecordType::Series, entry: 0 };
    let reference = reader.be_u64().map_err(place.read())?;
    labels.clear();
    read_labels(reader, place, labels)?;
    Ok(reference)
}

/// Appends the entries of a metadata record to `out`.
///
/// # Errors
/// [`RecordError`]; entries before the failing one have been appended.
pub fn decode_metadata(record: &[u8], out: &mut Vec<RefMetadata>) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::Metadata)?;
    while !reader.is_empty() {
        let reference = reader.uvarint().map_err(place.read())?;
        let metric_type = MetricType::of_number(reader.u8().map_err(place.read())?.into());
        let mut metadata = Metadata { metric_type, unit: String::new(), help: String::new() };
        // Each field takes two bytes at least, so a wild count ends at the record's end.
        for _ in 0..reader.uvarint().map_err(place.read())? {
            let name = read_text(&mut reader, place, "metadata field's name")?;
            let value = read_text(&mut reader, place, "metadata field")?;
            match name {
                UNIT => value.clone_into(&mut metadata.unit),
                HELP => value.clone_into(&mut metadata.help),
                _ => {}
            }
        }
        out.push(RefMetadata { reference, metadata });
        place.entry += 1;
    }
    Ok(())
}

/// Appends a metadata record with `entries`.
pub fn encode_metadata<'a>(entries: impl IntoIterator<Item = (u64, &'a Metadata)>, out: &mut Vec<u8>) {
    out.push(RecordType::Metadata.byte());
    for (reference, metadata) in entries {
        put_uvarint(out, reference);
        out.push(metadata.metric_type.number());
        put_uvarint(out, 2);
        for (name, value) in [(UNIT, &metadata.unit), (HELP, &metadata.help)] {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
}

/// A reader behind the type byte, which must be `expected`'s.
pub(super) fn open(record: &[u8], expected: RecordType) -> Result<(Reader<'_>, Place), RecordError> {
    let mut reader = Reader::new(record);
    match reader.u8() {
        Ok(byte) if byte == expected.byte() => Ok((reader, Place { record: expected, entry: 0 })),
        found => Err(RecordError::Type { expected, found: found.ok() }),
    }
}

pub(super) fn read_labels(
    reader: &mut Reader<'_>,
    place: Place,
    labels: &mut LabelsBuilder,
) -> Result<(), RecordError> {
    for _ in 0..reader.uvarint().map_err(place.read())? {
        let name = read_text(reader, place, "label name")?;
        let value = read_text(reader, place, "label value")?;
        labels.push(name, value);
    }
    Ok(())
}

pub(super) fn put_labels(labels: LabelsIter<'_>, out: &mut Vec<u8>) {
    put_uvarint(out, labels.clone().count() as u64);
    for (name, value) in labels {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn read_text<'a>(reader: &mut Reader<'a>, place: Place, what: &'static str) -> Result<&'a str, RecordError> {
    let bytes = reader.uvarint_bytes(what).map_err(place.read())?;
    std::str::from_utf8(bytes).map_err(|_| place.invalid(reader.offset(), "text that is not UTF-8"))
}
