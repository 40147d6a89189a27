//! The codec: what Prometheus wrote, and what is written here; and what a head is after one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::decode::OpenChunk;
use super::extra::Extra;
use super::*;
use crate::chunk::{EncodedChunk, Encoding, samples};
use crate::codec::crc32c;
use crate::fs::Env;
use crate::head::mapped::FileThen;
use crate::head::{Head, HeadOptions, Replayed};
use crate::model::{Labels, LabelsBuilder, Metadata, MetricType, TimeRange, Value};
use crate::wal::{Decompressor, LogOptions, LogReader};

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

#[test]
fn a_file_of_the_first_version_says_nothing_of_what_was_deleted_and_of_chunks_where_they_ended() {
    let extra = Extra {
        last_reference: 7,
        records: Some(3),
        files: vec![FileThen { number: 2, end: 1 << 20, sum: Some(77), newest: -5 }],
        emptied: 1000,
        gone: Vec::new(),
        metadata: vec![("up".to_owned(), Metadata::default())],
    };
    assert_eq!(Extra::parse(&extra.to_bytes()), Ok(extra.clone()));
    let first = b"NTHX\x01\0\0\0\0\0\0\0\x07\0\0\0\x03\0\0\0\x09\0\x01\x02up";
    let mut first = first.to_vec();
    first.extend([Metadata::default().metric_type.number(), 0, 0]);
    let sum = crc32c(&first[4..]);
    first.extend(sum.to_be_bytes());
    let last = FileThen { number: 3, end: 9, sum: None, newest: i64::MAX };
    assert_eq!(Extra::parse(&first), Ok(Extra { emptied: i64::MIN, files: vec![last], records: None, ..extra }));
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

fn open(env: &Env, floor: i64) -> (Arc<Head>, Replayed) {
    let options = HeadOptions { future_bound: None, chunk_range: 1000, ..HeadOptions::default() };
    Head::open(env, Path::new("/data"), options, LogOptions::default(), floor).unwrap()
}

fn commit(head: &Arc<Head>, names: &[&str], times: std::ops::Range<i64>) {
    let mut appender = head.appender();
    for t in times {
        for name in names {
            let labels = Labels::from_pairs([("__name__", *name)]);
            let reference = appender.append(None, &labels, t, t as f64).unwrap();
            if t % 100 == 0 {
                let metadata = Metadata { metric_type: MetricType::Gauge, unit: "s".to_owned(), help: format!("{t}") };
                appender.update_metadata(Some(reference), &labels, metadata).unwrap();
            }
        }
    }
    appender.commit().unwrap();
}

/// What must be as before: the last number, those that are gone, metadata.
fn numbers(head: &Head) -> (u64, Vec<u64>, Vec<(String, Metadata)>) {
    let mut gone: Vec<_> = head.gone.lock().iter().map(|(number, _)| number).collect();
    gone.sort_unstable();
    (head.last_reference.load(Ordering::Acquire), gone, head.metadata.get(None, head.holds()))
}

#[test]
fn numbers_of_series_that_are_gone_are_not_given_again_whoever_wrote_the_snapshot() {
    let (env, machine) = Env::simulated(3);
    env.fs.create_dir_all(Path::new("/data")).unwrap();
    let (head, _) = open(&env, i64::MIN);
    commit(&head, &["stays"], 0..2100);
    commit(&head, &["goes"], 1900..1950);
    head.truncate_memory(2000);
    head.collect();
    assert_eq!(head.series_count(), 1);
    let before = numbers(&head);
    assert_eq!((before.0, &before.1[..]), (2, &[2][..]));
    head.write_snapshot().unwrap();
    let env = machine.kill();
    let (head, replayed) = open(&env, 2000);
    assert_eq!((replayed.snapshot, replayed.snapshot_refused, replayed.samples), (Some(1), None, 0));
    assert_eq!(numbers(&head), before);
    // Prometheus leaves no such file: the log must be asked.
    let dir = SnapshotPosition { segment: 1, offset: 0 }.path(Path::new("/data"));
    let env = machine.kill();
    env.fs.remove_file(&dir.join("narthex")).unwrap();
    let (head, replayed) = open(&env, 2000);
    assert_eq!((replayed.snapshot, replayed.snapshot_refused), (Some(1), None));
    assert_eq!(numbers(&head), before);
    commit(&head, &["comes"], 2100..2101);
    assert_eq!(numbers(&head).0, 3);
}

#[test]
fn nothing_is_written_if_nothing_was_committed_since_and_older_ones_go() {
    let (env, machine) = Env::simulated(3);
    env.fs.create_dir_all(Path::new("/data")).unwrap();
    let (head, _) = open(&env, i64::MIN);
    let list = || list_snapshots(env.fs.as_ref(), Path::new("/data")).unwrap();
    commit(&head, &["a", "b"], 0..50);
    head.write_snapshot().unwrap();
    let first = list();
    let ops = machine.ops();
    head.write_snapshot().unwrap();
    assert_eq!(list(), first);
    assert!(machine.ops() - ops < 10, "{} operations", machine.ops() - ops);
    commit(&head, &["a"], 50..60);
    head.write_snapshot().unwrap();
    let second = list();
    assert!(second.len() == 1 && second > first, "{first:?}, then {second:?}");
}
