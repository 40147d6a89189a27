//! The log: any bytes are records or refused, any file is a segment with holes, and what is written reads back.

use super::input::Input;
use crate::wal::record::{self, Record, RecordType};
use crate::wal::segment::{put_page_end, put_record};
use crate::wal::{Compression, Decompressor, check_segment};

/// Decodes `data` as a record, whatever its type. What was decoded, written again, must decode to the same.
pub fn wal_record(data: &[u8]) {
    let Ok(decoded) = Record::decode(data) else { return };
    let Some(kind) = RecordType::of(data) else { return };
    let mut all = String::new();
    for bytes in encode(kind, &decoded) {
        let again = Record::decode(&bytes);
        assert!(again.is_ok(), "{kind} record: {again:?}");
        all.push_str(&again.map_or_else(|error| error.to_string(), |record| content(&record)));
    }
    let mut expected = content(&decoded);
    if matches!(kind, RecordType::Histograms | RecordType::CustomHistograms | RecordType::FloatHistograms)
        || kind == RecordType::CustomFloatHistograms
    {
        // They are sorted into two records by their buckets.
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        (all, expected) = (sorted(&all), sorted(&expected));
    }
    assert_eq!(all, expected, "{kind} record");
}

/// The entries of a record, a line each; floats by their bits, which text does not tell apart where it matters.
fn content(record: &Record) -> String {
    let mut lines = String::new();
    let mut line = |text: String| {
        lines.push_str(&text);
        lines.push('\n');
    };
    match record {
        Record::Series(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::Samples(all) => {
            all.iter().for_each(|s| line(format!("{} {} {} {:x}", s.reference, s.t, s.st, s.v.to_bits())));
        }
        Record::Tombstones(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::Exemplars(all) => {
            for e in all {
                let exemplar = &e.exemplar;
                line(format!(
                    "{} {} {:x} {:?}",
                    e.reference,
                    exemplar.t,
                    exemplar.value.to_bits(),
                    exemplar.labels.as_packed()
                ));
            }
        }
        Record::MmapMarkers(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::Metadata(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::Histograms(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::FloatHistograms(all) => all.iter().for_each(|entry| line(format!("{entry:?}"))),
        Record::Unknown(_) => {}
    }
    lines
}

/// The record again; histograms without start timestamps as two.
fn encode(kind: RecordType, decoded: &Record) -> Vec<Vec<u8>> {
    let (mut out, mut second) = (Vec::new(), Vec::new());
    match decoded {
        Record::Series(all) => {
            record::encode_series(all.iter().map(|(reference, labels)| (*reference, labels)), &mut out);
        }
        Record::Samples(all) if kind == RecordType::Samples => record::encode_samples(all.iter().copied(), &mut out),
        Record::Samples(all) => record::encode_samples_st(all.iter().copied(), &mut out),
        Record::Tombstones(all) => record::encode_tombstones(all.iter().copied(), &mut out),
        Record::Exemplars(all) => record::encode_exemplars(all.iter().map(|e| (e.reference, &e.exemplar)), &mut out),
        Record::MmapMarkers(all) => record::encode_markers(all.iter().copied(), &mut out),
        Record::Metadata(all) => record::encode_metadata(all.iter().map(|m| (m.reference, &m.metadata)), &mut out),
        Record::Histograms(all) if kind == RecordType::HistogramsSt => {
            record::encode_histograms_st(all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram)), &mut out);
        }
        Record::Histograms(all) => {
            let entries = || all.iter().map(|h| (h.reference, h.t, &*h.histogram));
            record::encode_histograms(entries(), &mut out);
            record::encode_custom_histograms(entries(), &mut second);
        }
        Record::FloatHistograms(all) if kind == RecordType::FloatHistogramsSt => {
            record::encode_float_histograms_st(all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram)), &mut out);
        }
        Record::FloatHistograms(all) => {
            let entries = || all.iter().map(|h| (h.reference, h.t, &*h.histogram));
            record::encode_float_histograms(entries(), &mut out);
            record::encode_custom_float_histograms(entries(), &mut second);
        }
        Record::Unknown(_) => {}
    }
    [out, second].into_iter().filter(|record| !record.is_empty()).collect()
}

/// Reads `data` as a segment. Its whole records, framed again, must be a segment of the same records; each of them may
/// decompress or not.
pub fn wal_segment(data: &[u8]) {
    let records = read(data);
    let framed = frame(&records);
    assert_eq!(read(&framed), records, "framed again");
    let (mut decompressor, mut out) = (Decompressor::default(), Vec::new());
    for (compression, bytes) in &records {
        let _ = decompressor.decompress(*compression, bytes, &mut out);
    }
}

/// Makes records of `data`, frames them, and changes a byte: what is read back is what was written, without some.
pub fn wal_segment_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let place = input.word();
    let flip = input.byte();
    let mut records = Vec::new();
    while !input.is_empty() && records.len() < 64 {
        let compression = [Compression::None, Compression::Snappy, Compression::Zstd][usize::from(input.byte()) % 3];
        // Up to two pages and a little.
        let len = (input.word() % 70_000) as usize >> (input.byte() % 17);
        let seed = input.byte();
        records.push((compression, (0..len).map(|i| (i as u8).wrapping_mul(seed)).collect::<Vec<_>>()));
    }
    let mut framed = frame(&records);
    assert_eq!(read(&framed), records, "unharmed");
    let len = framed.len().max(1) as u64;
    if let Some(byte) = framed.get_mut((place % len) as usize) {
        *byte ^= flip;
    }
    // A fragment's header is under no sum, in the original's format too: a record may be told to be compressed otherwise
    // than it is, and a fragment to be a whole record.
    let mut left = records.iter().map(|(_, bytes)| bytes);
    for (_, bytes) in read(&framed) {
        let is_it =
            |written: &Vec<u8>| *written == bytes || written.windows(bytes.len().max(1)).any(|part| part == bytes);
        assert!(left.any(is_it), "a record of {} bytes that nobody wrote", bytes.len());
    }
}

fn read(segment: &[u8]) -> Vec<(Compression, Vec<u8>)> {
    let mut records = Vec::new();
    let read = check_segment(segment, |compression, bytes| records.push((compression, bytes.to_vec())));
    assert!(read.is_ok_and(|count| count == records.len()), "reading from memory cannot fail");
    records
}

fn frame(records: &[(Compression, Vec<u8>)]) -> Vec<u8> {
    let mut segment = Vec::new();
    for (compression, bytes) in records {
        put_record(segment.len() as u64, *compression, bytes, &mut segment);
    }
    put_page_end(segment.len() as u64, &mut segment);
    segment
}
