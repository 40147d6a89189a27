//! Logs that Prometheus wrote: every record is understood, and written again it is the same bytes.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use narthex::fs::Env;
use narthex::wal::record::{self, Record, RecordType};
use narthex::wal::{Compression, Decompressor, Durability, Log, LogOptions, LogReader, StoredRecord};

const WRITERS: [(&str, Compression); 4] = [
    ("xor-wal-plain", Compression::None),
    ("xor-wal-snappy", Compression::Snappy),
    ("xor2-st-wal-zstd", Compression::Zstd),
    ("all-st-wal-snappy", Compression::Snappy),
];

fn golden(writer: &str, state: &str, log: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14");
    root.join(writer).join(state).join(log)
}

/// All records of a log, as stored and as bytes; the log must be without damage.
fn records(dir: &Path) -> Vec<(StoredRecord, Vec<u8>)> {
    let env = Env::real();
    let mut reader = LogReader::open(&env.fs, dir).unwrap();
    let mut decompressor = Decompressor::default();
    let mut all = Vec::new();
    while let Some(stored) = reader.next_stored().unwrap() {
        let mut bytes = Vec::new();
        decompressor.decompress(stored.compression, &stored.data, &mut bytes).unwrap();
        all.push((stored, bytes));
    }
    assert_eq!(reader.finish(), [], "{}", dir.display());
    assert!(!all.is_empty(), "{}", dir.display());
    all
}

fn logs() -> impl Iterator<Item = (PathBuf, Compression)> {
    WRITERS.into_iter().flat_map(|(writer, compression)| {
        [
            ("crashed-before-compaction", "wal"),
            ("crashed-before-compaction", "wbl"),
            ("crashed-after-compaction", "wal"),
        ]
        .map(|(state, log)| (golden(writer, state, log), compression))
    })
}

/// The record again from what was decoded.
fn encode(kind: RecordType, record: &Record, original: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match record {
        Record::Series(series) => record::encode_series(series.iter().map(|(r, l)| (*r, l)), &mut out),
        Record::Samples(samples) if kind == RecordType::Samples => {
            record::encode_samples(samples.iter().copied(), &mut out);
        }
        Record::Samples(samples) => record::encode_samples_st(samples.iter().copied(), &mut out),
        Record::Tombstones(tombstones) => record::encode_tombstones(tombstones.iter().copied(), &mut out),
        Record::Exemplars(all) => record::encode_exemplars(all.iter().map(|e| (e.reference, &e.exemplar)), &mut out),
        Record::MmapMarkers(markers) => record::encode_markers(markers.iter().copied(), &mut out),
        Record::Metadata(all) => record::encode_metadata(all.iter().map(|m| (m.reference, &m.metadata)), &mut out),
        Record::Histograms(all) => {
            let plain = || all.iter().map(|h| (h.reference, h.t, &*h.histogram));
            match kind {
                RecordType::Histograms => assert_eq!(record::encode_histograms(plain(), &mut out), 0),
                RecordType::CustomHistograms => record::encode_custom_histograms(plain(), &mut out),
                _ => {
                    let with_st = all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram));
                    record::encode_histograms_st(with_st, &mut out);
                }
            }
        }
        Record::FloatHistograms(all) => {
            let plain = || all.iter().map(|h| (h.reference, h.t, &*h.histogram));
            match kind {
                RecordType::FloatHistograms => assert_eq!(record::encode_float_histograms(plain(), &mut out), 0),
                RecordType::CustomFloatHistograms => record::encode_custom_float_histograms(plain(), &mut out),
                _ => {
                    let with_st = all.iter().map(|h| (h.reference, h.t, h.st, &*h.histogram));
                    record::encode_float_histograms_st(with_st, &mut out);
                }
            }
        }
        Record::Unknown(kind) => panic!("unknown type {kind:?} in {original:?}"),
    }
    out
}

#[test]
fn every_record_is_understood_and_written_again_is_the_same() {
    let mut seen = std::collections::BTreeMap::new();
    for (dir, _) in logs() {
        for (stored, bytes) in records(&dir) {
            let record = Record::decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            let kind = RecordType::of(&bytes).unwrap();
            assert_eq!(encode(kind, &record, &bytes), bytes, "{} at {:?}", dir.display(), stored.at);
            *seen.entry(kind).or_insert(0) += 1;
        }
    }
    for kind in 1..=13 {
        let kind = RecordType::from_byte(kind).unwrap();
        assert!(seen.contains_key(&kind), "no {kind} record compared: {seen:?}");
    }
}

/// The same records through our writer, one commit each, give the same segments: framing, padding, where segments end,
/// and for snappy the compressed bytes. (Zstandard's bytes differ from encoder to encoder.)
#[test]
fn the_same_records_make_the_same_segments() {
    let env = Env::real();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("the_same_records_make_the_same_segments");
    for (writer, compression) in [("xor-wal-plain", Compression::None), ("xor-wal-snappy", Compression::Snappy)] {
        let source = golden(writer, "crashed-before-compaction", "wal");
        let dir = target.join(writer);
        if env.fs.stat(&dir).unwrap().is_some() {
            env.fs.remove_dir_all(&dir).unwrap();
        }
        let options = LogOptions { segment_size: 128 * 1024, compression, durability: Durability::Never };
        let log = Log::open(&env, &dir, options).unwrap();
        for (_, bytes) in records(&source) {
            log.commit(&[&bytes]).unwrap();
        }
        drop(log);
        for entry in env.fs.list(&source).unwrap() {
            let (ours, theirs) = (env.fs.read(&dir.join(&entry.name)), env.fs.read(&source.join(&entry.name)));
            assert!(ours.unwrap() == theirs.unwrap(), "{writer}: segment {} differs", entry.name);
        }
        assert_eq!(env.fs.list(&dir).unwrap().len(), env.fs.list(&source).unwrap().len());
    }
}

/// Compression is per record and only where it helps, so a log mixes both.
#[test]
fn records_that_do_not_shrink_stand_uncompressed() {
    for (dir, compression) in logs() {
        for (stored, bytes) in records(&dir) {
            if stored.compression == Compression::None {
                assert_eq!(stored.data, bytes);
            } else {
                assert_eq!(stored.compression, compression);
                assert!(stored.data.len() < bytes.len());
            }
        }
    }
}
