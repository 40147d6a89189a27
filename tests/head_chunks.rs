//! Full chunks of the head on the disk: what queries, blocks and restarts see is the same as if they were in memory.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use narthex::block::BlockRead;
use narthex::budget::Budget;
use narthex::chunk::samples;
use narthex::fs::Env;
use narthex::head::{Head, HeadOptions, HeadReader, Replayed};
use narthex::model::{Labels, TimeRange, Value};
use narthex::query::{HeadSource, SelectRequest, SeriesDecoder, Source};
use narthex::testkit::SimHandle;
use narthex::wal::{DamageKind, LogOptions};
use proptest::prelude::*;

const DIR: &str = "/data";
/// A chunk has ten samples at most.
const CHUNK_RANGE: i64 = 10;

fn labels(n: u32) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())])
}

fn open_with(env: &Env, floor: i64, replay_memory: u64) -> (Arc<Head>, Replayed) {
    let options = HeadOptions { future_bound: None, chunk_range: CHUNK_RANGE, replay_memory, ..HeadOptions::default() };
    let log = LogOptions { segment_size: 32 << 10, ..LogOptions::default() };
    Head::open(env, Path::new(DIR), options, log, floor).unwrap()
}

fn open(env: &Env, floor: i64) -> Arc<Head> {
    let (head, replayed) = open_with(env, floor, u64::MAX);
    assert_eq!((replayed.damage, replayed.unknown_series), (vec![], 0));
    head
}

fn append(head: &Arc<Head>, t: i64, series: impl IntoIterator<Item = u32>) {
    let mut appender = head.appender();
    for n in series {
        appender.append(None, &labels(n), t, f64::from(n) + t as f64 / 1024.0).unwrap();
    }
    appender.commit().unwrap();
}

type Content = BTreeMap<Labels, BTreeMap<i64, u64>>;

fn content(reader: &HeadReader) -> Content {
    let mut all = Content::new();
    let (mut chunks, mut hide) = (Vec::new(), Vec::new());
    for (id, labels) in reader.select(&[]).unwrap() {
        reader.chunks(id, &mut chunks, &mut hide);
        let mut series = BTreeMap::new();
        for chunk in &chunks {
            let bytes = chunk.load().unwrap();
            for sample in samples(bytes.encoding, &bytes.data) {
                let sample = sample.unwrap();
                let Value::Float(value) = sample.value else { panic!("floats alone were appended") };
                assert!(chunk.range.contains(sample.t));
                if reader.range().contains(sample.t) && !hide.iter().any(|range| range.contains(sample.t)) {
                    assert_eq!(series.insert(sample.t, value.to_bits()), None, "each time once");
                }
            }
        }
        if !series.is_empty() {
            all.insert(labels, series);
        }
    }
    all
}

fn all(head: &Arc<Head>) -> Content {
    content(&head.reader(TimeRange::ALL))
}

/// What a block of the span would get.
fn block(head: &Arc<Head>, range: TimeRange) -> Content {
    let head = head.range_head(range);
    let (mut labels, mut metas, mut all) = (Labels::empty(), Vec::new(), Content::new());
    for id in head.select(&[]).unwrap() {
        head.series(id, &mut labels, &mut metas).unwrap();
        for meta in &metas {
            let chunk = head.chunk(meta).unwrap();
            for sample in samples(chunk.encoding, &chunk.data) {
                let sample = sample.unwrap();
                let Value::Float(value) = sample.value else { panic!("floats alone were appended") };
                all.entry(labels.clone()).or_default().insert(sample.t, value.to_bits());
            }
        }
    }
    all
}

/// The files of head chunks.
fn files(env: &Env) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("chunks_head");
    env.fs.list(&dir).unwrap_or_default().into_iter().map(|entry| dir.join(entry.name)).collect()
}

fn filled() -> (Env, SimHandle, Arc<Head>) {
    let (env, machine) = Env::simulated(1);
    let head = open(&env, i64::MIN);
    for t in 0..95 {
        append(&head, t, 0..20);
    }
    (env, machine, head)
}

#[test]
fn queries_and_blocks_find_chunks_on_the_disk_as_they_found_them_in_memory() {
    let (env, _, head) = filled();
    let range = TimeRange::new(13, 57);
    let (before, block_before) = (all(&head), block(&head, range));
    assert!(head.waiting_bytes() > 0 && files(&env).is_empty());
    let bytes = head.stats().bytes;
    let freed = head.map_full_chunks().unwrap();
    assert_eq!((head.waiting_bytes(), files(&env).len()), (0, 1));
    assert!(freed > 20 * 9 * 10 && head.stats().bytes + freed <= bytes);
    assert_eq!(head.map_full_chunks().unwrap(), 0, "there are none any more");
    assert_eq!((all(&head), block(&head, range)), (before.clone(), block_before));
    // Through a source: chunks are promises.
    let budget = Budget::unlimited();
    let mut set =
        HeadSource::new(head.reader(TimeRange::ALL)).select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut decoder = SeriesDecoder::new();
    while let Some(series) = set.next().unwrap() {
        let columns = decoder.decode(&series.chunks, TimeRange::ALL).unwrap();
        let found: BTreeMap<i64, u64> = columns.t.iter().copied().zip(columns.v.iter().map(|v| v.to_bits())).collect();
        assert_eq!(found, before[&series.labels]);
    }
}

#[test]
fn a_restart_takes_the_chunks_on_the_disk_and_passes_over_their_samples_in_the_log() {
    let (_, machine, head) = filled();
    head.map_full_chunks().unwrap();
    append(&head, 95, 0..25);
    let before = all(&head);
    drop(head);
    let (head, replayed) = open_with(&machine.kill(), i64::MIN, u64::MAX);
    assert_eq!((replayed.chunks_mapped, replayed.samples, replayed.samples_skipped), (20 * 9, 20 * 5 + 25, 20 * 90));
    assert_eq!((head.min_time(), head.max_time()), (Some(0), Some(95)));
    assert_eq!(all(&head), before);
    append(&head, 120, 0..25);
    head.map_full_chunks().unwrap();
    let before = all(&head);
    drop(head);
    assert_eq!(all(&open(&machine.kill(), i64::MIN)), before);
}

#[test]
fn reading_a_log_back_keeps_to_its_memory() {
    let (_, machine, head) = filled();
    let before = all(&head);
    drop(head);
    let env = machine.kill();
    let (head, replayed) = open_with(&env, i64::MIN, 0);
    assert_eq!((replayed.chunks_mapped, head.waiting_bytes(), files(&env).len()), (0, 0, 1));
    assert_eq!(all(&head), before);
    drop(head);
    let (head, replayed) = open_with(&machine.kill(), i64::MIN, 0);
    assert_eq!(replayed.chunks_mapped, 20 * 9);
    assert_eq!(all(&head), before);
}

#[test]
fn files_go_when_blocks_have_what_is_in_them_and_who_reads_them_reads_on() {
    let (env, _, head) = filled();
    head.map_full_chunks().unwrap();
    let source = HeadSource::new(head.reader(TimeRange::ALL));
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let held = set.next().unwrap().unwrap();
    drop((set, source));
    head.truncate(50).unwrap();
    assert_eq!(files(&env).len(), 1, "half of it is needed");
    for t in 95..130 {
        append(&head, t, 0..20);
    }
    head.map_full_chunks().unwrap();
    assert_eq!(files(&env).len(), 2, "a truncation ends a file");
    let before = all(&head);
    head.truncate(90).unwrap();
    assert_eq!(files(&env).len(), 1);
    let expected: Content = before
        .into_iter()
        .map(|(labels, series)| (labels, series.into_iter().filter(|(t, _)| *t >= 90).collect()))
        .collect();
    assert_eq!(all(&head), expected);
    let columns = SeriesDecoder::new().decode(&held.chunks, TimeRange::ALL).unwrap().len();
    assert_eq!(columns, 95);
}

#[test]
fn a_series_whose_record_the_log_lost_leaves_its_number_to_nobody() {
    let (_, machine, head) = filled();
    head.map_full_chunks().unwrap();
    drop(head);
    let env = machine.kill();
    // All of the log is gone, and the chunks are there.
    env.fs.remove_dir_all(&Path::new(DIR).join("wal")).unwrap();
    let head = open(&env, i64::MIN);
    assert_eq!(all(&head), Content::new());
    append(&head, 200, 100..101);
    let before = all(&head);
    drop(head);
    assert_eq!(all(&open(&machine.kill(), i64::MIN)), before);
}

#[test]
fn reading_beside_the_owner_sees_its_chunks_and_writes_nothing() {
    let (env, machine, head) = filled();
    head.map_full_chunks().unwrap();
    let before = machine.image().files();
    let options = HeadOptions { future_bound: None, chunk_range: CHUNK_RANGE, ..HeadOptions::default() };
    let (beside, replayed) = Head::open_read_only(&env, Path::new(DIR), options, i64::MIN).unwrap();
    assert_eq!((replayed.chunks_mapped, replayed.damage), (20 * 9, vec![]));
    assert_eq!(beside.map_full_chunks().unwrap(), 0);
    assert_eq!(machine.image().files(), before);
    let expected = all(&head);
    // The owner goes on, and deletes what the other one still reads.
    for t in 95..130 {
        append(&head, t, 0..20);
    }
    head.map_full_chunks().unwrap();
    head.truncate(110).unwrap();
    assert_eq!(all(&beside), expected);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u32>),
    Map,
    /// Opens again after a killed process, with so much memory.
    Restart(bool),
    Truncate(i64),
    /// Changes a byte of a file, or cuts the last one.
    Damage {
        file: prop::sample::Index,
        at: prop::sample::Index,
        cut: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => prop::collection::vec(0..5_u32, 1..5).prop_map(Step::Append),
        3 => Just(Step::Map),
        2 => any::<bool>().prop_map(Step::Restart),
        1 => (0..25_i64).prop_map(Step::Truncate),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(file, at, cut)| Step::Damage { file, at, cut }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn whatever_becomes_of_the_files_the_head_holds_what_was_committed(steps in prop::collection::vec(step(), 0..150)) {
        let (env, machine) = Env::simulated(1);
        let mut env = env;
        let mut head = open(&env, i64::MIN);
        let (mut model, mut now, mut floor) = (Content::new(), 0, i64::MIN);
        for step in steps {
            match step {
                Step::Append(mut series) => {
                    now += 1;
                    series.sort_unstable();
                    series.dedup();
                    append(&head, now, series.iter().copied());
                    for n in series {
                        let value = f64::from(n) + now as f64 / 1024.0;
                        model.entry(labels(n)).or_default().insert(now, value.to_bits());
                    }
                }
                Step::Map => drop(head.map_full_chunks().unwrap()),
                Step::Restart(little) => {
                    drop(head);
                    env = machine.kill();
                    let (opened, replayed) = open_with(&env, floor, if little { 0 } else { u64::MAX });
                    prop_assert_eq!((replayed.damage, replayed.unknown_series), (vec![], 0));
                    head = opened;
                }
                Step::Truncate(back) => {
                    floor = floor.max(now - back);
                    head.truncate(floor).unwrap();
                    for series in model.values_mut() {
                        series.retain(|t, _| *t >= floor);
                    }
                    model.retain(|_, series| !series.is_empty());
                }
                Step::Damage { file, at, cut } => {
                    drop(head);
                    env = machine.kill();
                    let files = files(&env);
                    if let Some(last) = files.last() {
                        let path = if cut { last } else { file.get(&files) };
                        let mut bytes = env.fs.read(path).unwrap();
                        let at = at.index(bytes.len());
                        if cut { bytes.truncate(at) } else { bytes[at] ^= 0x10 }
                        env.fs.remove_file(path).unwrap();
                        env.fs.create(path).unwrap().append(&bytes).unwrap();
                    }
                    let (opened, replayed) = open_with(&env, floor, u64::MAX);
                    prop_assert!(replayed.damage.iter().all(|damage| damage.kind == DamageKind::HeadChunks));
                    prop_assert!(replayed.damage.len() <= 1);
                    head = opened;
                }
            }
            prop_assert_eq!(&all(&head), &model);
        }
    }
}
