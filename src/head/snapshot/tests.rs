//! The codec: what Prometheus wrote, and what is written here.

use std::path::Path;

use proptest::prelude::*;

use super::decode::OpenChunk;
use super::*;
use crate::chunk::{EncodedChunk, Encoding, samples};
use crate::fs::Env;
use crate::model::{Labels, LabelsBuilder, TimeRange, Value};
use crate::wal::{Decompressor, LogReader};

/// The records of a snapshot that Prometheus wrote.
fn golden(path: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/prometheus-3.14").join(path);
    let mut reader = LogReader::open(&Env::real().fs, &dir).unwrap();
    let (mut decompressor, mut bytes, mut records) = (Decompressor::default(), Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
        records.push(bytes.clone());
    }
    assert_eq!(reader.finish(), []);
    records
}

/// A record written again.
fn again(record: &Record, labels: &Labels) -> Vec<u8> {
    let mut out = Vec::new();
    match record {
        Record::Series { reference, open } => {
            let open = open.as_ref().map(|OpenChunk { range, chunk, last }| (*range, chunk, last));
            put_series(*reference, labels.iter(), open, &mut out);
        }
        Record::Tombstones(all) => put_tombstones(all.iter().map(|it| (it.reference, it.range)), &mut out),
        Record::Exemplars(all) => put_exemplars(all.iter().map(|it| (it.reference, &it.exemplar)), &mut out),
    }
    out
}

#[test]
fn what_prometheus_wrote_is_read_and_written_again_it_is_the_same_bytes() {
    let mut encodings = Vec::new();
    for dir in [
        "xor-wal-snappy/closed/chunk_snapshot.000004.0000032768",
        "xor2-st-wal-zstd/closed/chunk_snapshot.000003.0000032768",
    ] {
        let (mut series, mut others) = (0, 0);
        for bytes in golden(dir) {
            let mut labels = LabelsBuilder::new();
            let record = decode(&bytes, &mut labels).unwrap();
            let labels = labels.build();
            assert_eq!(again(&record, &labels), bytes, "{record:?}");
            let Record::Series { open, .. } = record else {
                others += 1;
                continue;
            };
            series += 1;
            assert!(!labels.metric_name().is_empty());
            let Some(OpenChunk { range, chunk, last }) = open else { continue };
            let read: Vec<_> = samples(chunk.encoding, &chunk.data).map(Result::unwrap).collect();
            assert_eq!((read[0].t, read[read.len() - 1].t), (range.min, range.max), "{labels:?}");
            if let (Value::Float(read), Value::Float(last)) = (&read[read.len() - 1].value, &last) {
                assert_eq!(read.to_bits(), last.to_bits(), "{labels:?}");
            }
            encodings.push(chunk.encoding);
        }
        assert!(series > 20 && others >= 2, "{dir}: {series} series, {others} other records");
    }
    for encoding in [Encoding::Xor, Encoding::Xor2, Encoding::Histogram, Encoding::FloatHistogram] {
        assert!(encodings.contains(&encoding), "no {encoding:?}");
    }
}

#[test]
fn a_directory_is_a_snapshot_only_under_the_whole_name() {
    let position = SnapshotPosition { segment: 3, offset: 32768 };
    let name = position.path(Path::new("")).display().to_string();
    assert_eq!(name, "chunk_snapshot.000003.0000032768");
    assert_eq!(SnapshotPosition::of_name(&name), Some(position));
    for name in ["chunk_snapshot.000003.0000032768.tmp", "chunk_snapshot.3", "chunk_snapshot.+3.1", "snapshot.3.1"] {
        assert_eq!(SnapshotPosition::of_name(name), None, "{name}");
    }
    assert!(SnapshotPosition { segment: 1_000_000, offset: 0 } > SnapshotPosition { segment: 999_999, offset: 9 });
}

#[test]
fn what_no_writer_can_have_written_is_refused() {
    let mut labels = LabelsBuilder::new();
    let mut refused = |bytes: &[u8]| decode(bytes, &mut labels).unwrap_err().to_string();
    assert_eq!(refused(&[]), "unknown type of record: None");
    assert_eq!(refused(&[4]), "unknown type of record: Some(4)");
    let mut record = Vec::new();
    let chunk = EncodedChunk { encoding: Encoding::Xor, data: vec![0, 0].into() };
    let open = Some((TimeRange::new(1, 1), &chunk, &Value::Float(1.0)));
    put_series(7, Labels::from_pairs([("a", "b")]).iter(), open, &mut record);
    assert!(refused(&record).contains("without samples"));
    let mut record = Vec::new();
    put_series(7, Labels::from_pairs([("a", "b")]).iter(), None, &mut record);
    record.push(0);
    assert!(refused(&record).contains("1 bytes too many"));
    let mut record = Vec::new();
    put_tombstones([(1, TimeRange::new(5, 6))], &mut record);
    record[2] = 2;
    assert!(refused(&record).contains("version 2"));
}

proptest! {
    #[test]
    fn deletions_read_back(all in prop::collection::vec((any::<u64>(), any::<i64>(), any::<i64>()), 0..20)) {
        let all: Vec<_> = all.into_iter().map(|(n, a, b)| (n, TimeRange::new(a.min(b), a.max(b)))).collect();
        let mut bytes = Vec::new();
        put_tombstones(all.iter().copied(), &mut bytes);
        let Record::Tombstones(read) = decode(&bytes, &mut LabelsBuilder::new()).unwrap() else { unreachable!() };
        prop_assert_eq!(read.into_iter().map(|it| (it.reference, it.range)).collect::<Vec<_>>(), all);
    }
}
