//! Records with a time: float samples, exemplars, tombstones, and the marks of the out-of-order log.

use crate::codec::{Reader, put_be_f64, put_be_u64, put_varint};
use crate::model::{Exemplar, LabelsBuilder, TimeRange};

use super::series::{open, put_labels, read_labels};
use super::{Place, RecordError, RecordType, RefExemplar, RefMarker, RefSample, RefTombstone};

/// The least that a sample takes: two deltas of a byte, and the value.
const MIN_SAMPLE: usize = 1 + 1 + 8;

/// Appends the samples of a record of type 2 or 11 to `out`.
///
/// # Errors
/// [`RecordError`]; samples before the failing one have been appended.
pub fn decode_samples(record: &[u8], out: &mut Vec<RefSample>) -> Result<(), RecordError> {
    out.reserve(record.len() / MIN_SAMPLE);
    each_sample(record, |sample| out.push(sample))
}

/// Calls `each` with the samples of a record of type 2 or 11, in order: for replay, which passes most of them over.
///
/// # Errors
/// [`RecordError`]; `each` was called with the samples before the failing one.
#[inline]
pub fn each_sample(record: &[u8], mut each: impl FnMut(RefSample)) -> Result<(), RecordError> {
    if RecordType::of(record) == Some(RecordType::SamplesSt) {
        return each_sample_st(record, each);
    }
    let (mut reader, mut place) = open(record, RecordType::Samples)?;
    if reader.is_empty() {
        return Ok(());
    }
    let deltas = Deltas::read(&mut reader, place)?;
    while !reader.is_empty() {
        let mut rest = reader.rest();
        let before = rest.len();
        while let Some((delta, t_delta, v, behind)) = short_sample(rest) {
            let reference = deltas.reference.wrapping_add_signed(delta);
            each(RefSample { reference, t: deltas.t.wrapping_add(t_delta), st: 0, v });
            rest = behind;
            place.entry += 1;
        }
        reader.bytes("samples", before - rest.len()).map_err(place.read())?;
        if reader.is_empty() {
            break;
        }
        // Long deltas, or too near to the end for reading words.
        let (reference, t) = deltas.next(&mut reader, place)?;
        let v = reader.be_f64().map_err(place.read())?;
        each(RefSample { reference, t, st: 0, v });
        place.entry += 1;
    }
    Ok(())
}

/// The sample that `bytes` begin with, if its deltas are of four bytes at most and there are words to read them from:
/// reference, time, value, and what is behind.
#[inline]
fn short_sample(bytes: &[u8]) -> Option<(i64, i64, f64, &[u8])> {
    let (reference, rest) = short_varint(bytes)?;
    let (t, rest) = short_varint(rest)?;
    let (value, rest) = rest.split_first_chunk()?;
    Some((reference, t, f64::from_bits(u64::from_be_bytes(*value)), rest))
}

/// The varint that `bytes` begin with, read from one word.
#[inline]
fn short_varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    if let Some((&byte, rest)) = bytes.split_first()
        && byte < 0x80
    {
        return Some((unzigzag(u64::from(byte)), rest));
    }
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let len = ((!word & 0x8080_8080_8080_8080).trailing_zeros() / 8 + 1) as usize;
    let rest = bytes.get(len..).filter(|_| len <= 4)?;
    let word = word & (u64::MAX >> (64 - 8 * len));
    let value = word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000 | word >> 3 & 0xfe0_0000;
    Some((unzigzag(value), rest))
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn each_sample_st(record: &[u8], mut each: impl FnMut(RefSample)) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::SamplesSt)?;
    let mut deltas = DeltasSt::default();
    while !reader.is_empty() {
        let (reference, t, st) = deltas.next(&mut reader, place)?;
        let v = reader.be_f64().map_err(place.read())?;
        each(RefSample { reference, t, st, v });
        place.entry += 1;
    }
    Ok(())
}

/// Appends a samples record (type 2), which has no room for start timestamps.
pub fn encode_samples(samples: impl IntoIterator<Item = RefSample>, out: &mut Vec<u8>) {
    out.push(RecordType::Samples.byte());
    let mut deltas: Option<Deltas> = None;
    for RefSample { reference, t, st: _, v } in samples {
        if let Some(first) = deltas {
            let series = zigzag(reference.wrapping_sub(first.reference).cast_signed());
            let time = zigzag(t.wrapping_sub(first.t));
            let [a, b, c, d, e, f, g, h] = v.to_bits().to_be_bytes();
            // Nearly all: a commit's series are near each other, and its times equal. Pieces of a known length are a few
            // stores.
            match (series, time) {
                (..0x80, ..0x80) => {
                    out.extend_from_slice(&[series as u8, time as u8, a, b, c, d, e, f, g, h]);
                    continue;
                }
                (..0x4000, ..0x80) => {
                    let [low, high] = [series as u8 | 0x80, (series >> 7) as u8];
                    out.extend_from_slice(&[low, high, time as u8, a, b, c, d, e, f, g, h]);
                    continue;
                }
                _ => {}
            }
        }
        Deltas::put(&mut deltas, reference, t, out);
        put_be_f64(out, v);
    }
}

/// Appends a samples record with start timestamps (type 11).
pub fn encode_samples_st(samples: impl IntoIterator<Item = RefSample>, out: &mut Vec<u8>) {
    out.push(RecordType::SamplesSt.byte());
    let mut deltas = DeltasSt::default();
    for RefSample { reference, t, st, v } in samples {
        deltas.put(reference, t, st, out);
        put_be_f64(out, v);
    }
}

/// Appends the exemplars of a record of type 4 to `out`.
///
/// # Errors
/// [`RecordError`]; exemplars before the failing one have been appended.
pub fn decode_exemplars(record: &[u8], out: &mut Vec<RefExemplar>) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::Exemplars)?;
    if reader.is_empty() {
        return Ok(());
    }
    let deltas = Deltas::read(&mut reader, place)?;
    let mut labels = LabelsBuilder::new();
    while !reader.is_empty() {
        let (reference, t) = deltas.next(&mut reader, place)?;
        let value = reader.be_f64().map_err(place.read())?;
        labels.clear();
        read_labels(&mut reader, place, &mut labels)?;
        out.push(RefExemplar { reference, exemplar: Exemplar { labels: labels.build(), value, t } });
        place.entry += 1;
    }
    Ok(())
}

/// Appends an exemplars record.
pub fn encode_exemplars<'a>(exemplars: impl IntoIterator<Item = (u64, &'a Exemplar)>, out: &mut Vec<u8>) {
    out.push(RecordType::Exemplars.byte());
    let mut deltas = None;
    for (reference, Exemplar { labels, value, t }) in exemplars {
        Deltas::put(&mut deltas, reference, *t, out);
        put_be_f64(out, *value);
        put_labels(labels.iter(), out);
    }
}

/// Appends the entries of a tombstones record to `out`.
///
/// # Errors
/// [`RecordError`]; entries before the failing one have been appended.
pub fn decode_tombstones(record: &[u8], out: &mut Vec<RefTombstone>) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::Tombstones)?;
    while !reader.is_empty() {
        let reference = reader.be_u64().map_err(place.read())?;
        let min = reader.varint().map_err(place.read())?;
        let max = reader.varint().map_err(place.read())?;
        out.push(RefTombstone { reference, range: TimeRange { min, max } });
        place.entry += 1;
    }
    Ok(())
}

/// Appends a tombstones record.
pub fn encode_tombstones(tombstones: impl IntoIterator<Item = RefTombstone>, out: &mut Vec<u8>) {
    out.push(RecordType::Tombstones.byte());
    for RefTombstone { reference, range } in tombstones {
        put_be_u64(out, reference);
        put_varint(out, range.min);
        put_varint(out, range.max);
    }
}

/// Appends the entries of a markers record to `out`.
///
/// # Errors
/// [`RecordError`]; entries before the failing one have been appended.
pub fn decode_markers(record: &[u8], out: &mut Vec<RefMarker>) -> Result<(), RecordError> {
    let (mut reader, mut place) = open(record, RecordType::MmapMarkers)?;
    while !reader.is_empty() {
        let reference = reader.be_u64().map_err(place.read())?;
        let chunk = reader.be_u64().map_err(place.read())?;
        out.push(RefMarker { reference, chunk });
        place.entry += 1;
    }
    Ok(())
}

/// Appends a markers record.
pub fn encode_markers(markers: impl IntoIterator<Item = RefMarker>, out: &mut Vec<u8>) {
    out.push(RecordType::MmapMarkers.byte());
    for RefMarker { reference, chunk } in markers {
        put_be_u64(out, reference);
        put_be_u64(out, chunk);
    }
}

/// The first entry's reference and time, which the deltas of types 2, 4 and 7 to 10 are to. Differences wrap, as the
/// originals' do: any two numbers have one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deltas {
    reference: u64,
    t: i64,
}

impl Deltas {
    pub(super) fn read(reader: &mut Reader<'_>, place: Place) -> Result<Self, RecordError> {
        let reference = reader.be_u64().map_err(place.read())?;
        let t = reader.be_u64().map_err(place.read())?.cast_signed();
        Ok(Self { reference, t })
    }

    pub(super) fn next(self, reader: &mut Reader<'_>, place: Place) -> Result<(u64, i64), RecordError> {
        let reference = reader.varint().map_err(place.read())?;
        let t = reader.varint().map_err(place.read())?;
        Ok((self.reference.wrapping_add_signed(reference), self.t.wrapping_add(t)))
    }

    /// Appends the first entry's numbers if this is the first, and the deltas.
    pub(super) fn put(first: &mut Option<Self>, reference: u64, t: i64, out: &mut Vec<u8>) {
        let first = *first.get_or_insert_with(|| {
            put_be_u64(out, reference);
            put_be_u64(out, t.cast_unsigned());
            Self { reference, t }
        });
        put_varint(out, reference.wrapping_sub(first.reference).cast_signed());
        put_varint(out, t.wrapping_sub(first.t));
    }
}

/// What the deltas of types 11 to 13 are to: references to the one before, times to the first; a start timestamp is
/// absent, the one before's, or a delta to the first's. The first entry stands there whole, as varints.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeltasSt {
    begun: bool,
    first_t: i64,
    first_st: i64,
    reference: u64,
    st: i64,
}

const NO_ST: u8 = 0;
const SAME_ST: u8 = 1;
const EXPLICIT_ST: u8 = 2;

impl DeltasSt {
    pub(super) fn next(&mut self, reader: &mut Reader<'_>, place: Place) -> Result<(u64, i64, i64), RecordError> {
        let reference = reader.varint().map_err(place.read())?;
        let t = reader.varint().map_err(place.read())?;
        self.reference = self.reference.wrapping_add_signed(reference);
        if !self.begun {
            let st = reader.varint().map_err(place.read())?;
            *self = Self { begun: true, first_t: t, first_st: st, reference: self.reference, st };
            return Ok((self.reference, t, st));
        }
        self.st = match reader.u8().map_err(place.read())? {
            NO_ST => 0,
            SAME_ST => self.st,
            // The originals take every other byte for "explicit".
            _ => self.first_st.wrapping_add(reader.varint().map_err(place.read())?),
        };
        Ok((self.reference, self.first_t.wrapping_add(t), self.st))
    }

    pub(super) fn put(&mut self, reference: u64, t: i64, st: i64, out: &mut Vec<u8>) {
        put_varint(out, reference.wrapping_sub(self.reference).cast_signed());
        if !self.begun {
            put_varint(out, t);
            put_varint(out, st);
            *self = Self { begun: true, first_t: t, first_st: st, reference, st };
            return;
        }
        put_varint(out, t.wrapping_sub(self.first_t));
        if st == 0 {
            out.push(NO_ST);
        } else if st == self.st {
            out.push(SAME_ST);
        } else {
            out.push(EXPLICIT_ST);
            put_varint(out, st.wrapping_sub(self.first_st));
        }
        self.reference = reference;
        self.st = st;
    }
}
