//! The log on a real disk: what is committed is read back, in an order that replay can rely on, and damage costs no more
//! than what it touches.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use narthex::fs::Env;
use narthex::model::Labels;
use narthex::wal::record::{self, Record, RefSample};
use narthex::wal::{
    Compression, Damage, DamageKind, Decompressor, Durability, Log, LogOptions, LogReader, remove_checkpoints, repair,
    write_checkpoint,
};

const PAGE: u64 = 32 * 1024;

fn fresh_dir(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wal_log").join(test);
    let env = Env::real();
    if env.fs.stat(&dir).unwrap().is_some() {
        env.fs.remove_dir_all(&dir).unwrap();
    }
    dir
}

fn options() -> LogOptions {
    LogOptions { segment_size: 4 * PAGE, compression: Compression::None, durability: Durability::Never }
}

fn samples(reference: u64, t: i64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode_samples((0..count).map(|i| RefSample { reference, t: t + i as i64, st: 0, v: 1.5 }), &mut bytes);
    bytes
}

/// All records, and what was wrong.
fn read(dir: &Path) -> (Vec<Vec<u8>>, Vec<Damage>) {
    let mut reader = LogReader::open(&Env::real().fs, dir).unwrap();
    let mut decompressor = Decompressor::default();
    let (mut all, mut bytes) = (Vec::new(), Vec::new());
    while reader.next(&mut decompressor, &mut bytes).unwrap().is_some() {
        all.push(bytes.clone());
    }
    (all, reader.finish())
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let fs = Env::real().fs;
    let mut bytes = fs.read(path).unwrap();
    change(&mut bytes);
    fs.remove_file(path).unwrap();
    fs.create(path).unwrap().append(&bytes).unwrap();
}

#[test]
fn records_of_all_sizes_come_back_from_every_compression() {
    for compression in [Compression::None, Compression::Snappy, Compression::Zstd] {
        let dir = fresh_dir(&format!("sizes-{compression:?}"));
        // Around a page's end, several pages, longer than a segment.
        let mut written = Vec::new();
        let noise = |len: usize| (0..len).map(|i| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0]);
        for len in [0, 1, 6, 7, 8, 32_700, 32_754, 32_755, 32_761, 32_762, 40_000, 100_000, 200_000, 3] {
            written.push(noise(len).collect::<Vec<u8>>());
            written.push(vec![b'x'; len]);
        }
        for batch in [1, written.len()] {
            let log = Log::open(&Env::real(), &dir, LogOptions { compression, ..options() }).unwrap();
            for records in written.chunks(batch) {
                log.commit(&records.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            }
            log.close().unwrap();
        }
        let (back, damage) = read(&dir);
        assert_eq!(damage, []);
        assert!(back == [written.clone(), written].concat(), "{compression:?}");
    }
}

#[test]
fn opening_begins_a_new_segment() {
    let dir = fresh_dir("opening");
    for expected in 0..3 {
        let log = Log::open(&Env::real(), &dir, options()).unwrap();
        assert_eq!(log.segments().unwrap(), (0, expected));
        log.commit(&[&samples(1, 0, 1)]).unwrap();
    }
    assert_eq!(read(&dir).0.len(), 3);
}

#[test]
fn every_series_record_stands_before_its_samples_and_only_once_whoever_races() {
    let dir = fresh_dir("racing");
    let env = Env::real();
    let log = Log::open(&env, &dir, LogOptions { segment_size: 64 * PAGE, ..options() }).unwrap();
    let next = AtomicU64::new(1);
    let known = AtomicU64::new(0);
    env.executor.join_all(
        (0..4)
            .map(|_| {
                let task = || {
                    for _ in 0..200 {
                        let reference = next.fetch_add(1, Ordering::Relaxed);
                        let labels = Labels::from_pairs([("n", reference.to_string())]);
                        log.add_series(reference as u32, reference, labels.iter());
                        // Whoever finds a series may write to it before its maker does.
                        known.fetch_max(reference, Ordering::AcqRel);
                        let other = known.load(Ordering::Acquire);
                        log.commit(&[&samples(other, 0, 1), &samples(reference, 1, 1)]).unwrap();
                    }
                };
                Box::new(task) as Box<dyn FnOnce() + Send>
            })
            .collect(),
    );
    drop(log);
    let (records, damage) = read(&dir);
    assert_eq!(damage, []);
    let (mut seen, mut count) = (std::collections::BTreeSet::new(), 0);
    for bytes in records {
        match Record::decode(&bytes).unwrap() {
            Record::Series(series) => {
                for (reference, _) in series {
                    assert!(seen.insert(reference), "series {reference} twice");
                }
            }
            Record::Samples(samples) => {
                for sample in samples {
                    assert!(seen.contains(&sample.reference), "sample of {} before its series", sample.reference);
                    count += 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((seen.len(), count), (800, 1600));
}

#[test]
fn a_torn_end_is_cut_at_the_last_whole_record_and_reported() {
    let dir = fresh_dir("torn");
    let log = Log::open(&Env::real(), &dir, options()).unwrap();
    let records = [samples(1, 0, 100), samples(2, 0, 5000), samples(3, 0, 100)];
    let mut ends = Vec::new();
    for record in &records {
        log.commit(&[record]).unwrap();
        ends.push(log.position().1);
    }
    drop(log);
    let segment = dir.join("00000000");
    let whole = Env::real().fs.read(&segment).unwrap();
    // Inside the last record's header and data; inside the second one's later fragment; inside the first.
    for (cut, left) in [(ends[2] - 1, 2), (ends[1] + 3, 2), (ends[1] - 1, 1), (ends[0] + 9, 1), (ends[0] - 1, 0)] {
        overwrite(&segment, |bytes| {
            bytes.clear();
            bytes.extend_from_slice(&whole[..cut as usize]);
        });
        let (back, damage) = read(&dir);
        assert!(back == records[..left], "cut at {cut}");
        let end = left.checked_sub(1).map_or(0, |last| ends[last]);
        assert_eq!(damage.iter().map(|d| d.kind).collect::<Vec<_>>(), [DamageKind::TornEnd { whole: end }]);
        repair(&Env::real(), &dir, &damage).unwrap();
        assert_eq!(read(&dir), (back, Vec::new()), "cut at {cut}, mended");
        assert_eq!(Env::real().fs.stat(&segment).unwrap().unwrap().len, end);
    }
}

#[test]
fn a_hole_costs_the_records_it_touches_and_mending_keeps_the_rest() {
    let dir = fresh_dir("hole");
    let log = Log::open(&Env::real(), &dir, LogOptions { segment_size: 16 * PAGE, ..options() }).unwrap();
    // 5 KB each: six or seven in a page, every seventh over two pages.
    let records: Vec<_> = (0..60).map(|i| samples(i, 0, 500)).collect();
    let mut ends = vec![0];
    for record in &records {
        log.commit(&[record]).unwrap();
        ends.push(log.position().1);
    }
    log.close().unwrap();
    let log = Log::open(&Env::real(), &dir, options()).unwrap();
    log.commit(&[&samples(100, 0, 1)]).unwrap();
    drop(log);
    let place = 2 * PAGE + 10_000;
    overwrite(&dir.join("00000000"), |bytes| bytes[place as usize] ^= 0x40);
    let (back, damage) = read(&dir);
    assert_eq!(damage.iter().map(|d| d.kind).collect::<Vec<_>>(), [DamageKind::Hole], "{damage:?}");
    // Lost: what stands between the damage and the page's end, whole or in part.
    let lost = |i: usize| ends[i + 1] > place && ends[i] < 3 * PAGE;
    let mut expected: Vec<_> = (0..60).filter(|i| !lost(*i)).map(|i| records[i].clone()).collect();
    expected.push(samples(100, 0, 1));
    assert_eq!(back.len(), expected.len());
    assert!(back == expected);
    assert!(expected.len() > 54);
    repair(&Env::real(), &dir, &damage).unwrap();
    let (mended, damage) = read(&dir);
    assert!(mended == expected);
    assert_eq!(damage, []);
    assert!(Env::real().fs.stat(&dir.join("00000000.damaged")).unwrap().is_some());
}

#[test]
fn a_missing_segment_is_reported_and_the_others_are_read() {
    let dir = fresh_dir("missing");
    for i in 0..3 {
        Log::open(&Env::real(), &dir, options()).unwrap().commit(&[&samples(i, 0, 1)]).unwrap();
    }
    Env::real().fs.remove_file(&dir.join("00000001")).unwrap();
    let (back, damage) = read(&dir);
    assert_eq!(back.len(), 2);
    assert_eq!(damage.iter().map(|d| (d.kind, d.at.segment)).collect::<Vec<_>>(), [(DamageKind::Missing, 2)]);
}

#[test]
fn no_single_flipped_bit_is_taken_for_another_record() {
    let dir = fresh_dir("flips");
    let log = Log::open(&Env::real(), &dir, options()).unwrap();
    let records: Vec<_> = (0..9).map(|i| samples(i, 0, 700)).collect();
    for record in &records {
        log.commit(&[record]).unwrap();
    }
    drop(log);
    let segment = dir.join("00000000");
    let whole = Env::real().fs.read(&segment).unwrap();
    for flip in (0..whole.len()).step_by(997) {
        overwrite(&segment, |bytes| {
            bytes.clone_from(&whole);
            bytes[flip] ^= 1 << (flip % 8);
        });
        // The flags for compression are under no sum: such a record fails to decompress, or is one of ours unharmed.
        let (back, damage) = read(&dir);
        assert!(!damage.is_empty() || back == records, "byte {flip}");
        assert!(back.iter().all(|record| records.contains(record)), "byte {flip}");
    }
}

#[test]
fn a_checkpoint_stands_for_what_is_still_wanted_of_the_segments_before_it() {
    let dir = fresh_dir("checkpoint");
    let env = Env::real();
    let log = Log::open(&env, &dir, options()).unwrap();
    let labels = |reference: u64| Labels::from_pairs([("n", reference.to_string())]);
    for reference in 1..=4 {
        log.add_series(reference as u32, reference, labels(reference).iter());
        log.commit(&[&samples(reference, 100 * reference as i64, 10)]).unwrap();
        log.next_segment().unwrap();
    }
    // Twice, so that the second stands for the first one too.
    for to in [1, 2] {
        write_checkpoint(&env, &dir, to, Compression::Snappy, 205, |reference| reference != 1).unwrap();
        log.truncate(to + 1).unwrap();
        remove_checkpoints(env.fs.as_ref(), &dir, to).unwrap();
    }
    assert_eq!(log.segments().unwrap(), (3, 4));
    drop(log);
    let (records, damage) = read(&dir);
    assert_eq!(damage, []);
    let (mut series, mut times) = (Vec::new(), Vec::new());
    for bytes in records {
        match Record::decode(&bytes).unwrap() {
            Record::Series(all) => series.extend(all),
            Record::Samples(all) => times.extend(all.into_iter().map(|sample| (sample.reference, sample.t))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(series, [(2, labels(2)), (3, labels(3)), (4, labels(4))]);
    let expected = (205..210).map(|t| (2, t)).chain((300..310).map(|t| (3, t))).chain((400..410).map(|t| (4, t)));
    assert_eq!(times, expected.collect::<Vec<_>>());
}

/// Two segments, and a checkpoint of the first one, which is gone.
fn with_checkpoint(name: &str) -> PathBuf {
    let (dir, env) = (fresh_dir(name), Env::real());
    let log = Log::open(&env, &dir, options()).unwrap();
    log.commit(&[&samples(1, 0, 10)]).unwrap();
    log.next_segment().unwrap();
    log.commit(&[&samples(2, 0, 10)]).unwrap();
    write_checkpoint(&env, &dir, 0, Compression::None, 0, |_| true).unwrap();
    log.truncate(1).unwrap();
    dir
}

#[test]
fn a_checkpoint_is_read_and_removed_under_the_name_that_it_has() {
    let (dir, fs) = (with_checkpoint("old-checkpoint"), Env::real().fs);
    // As older versions of Prometheus named them.
    let old = dir.join("checkpoint.000000");
    fs.rename(&dir.join("checkpoint.00000000"), &old).unwrap();
    assert_eq!(read(&dir), (vec![samples(1, 0, 10), samples(2, 0, 10)], Vec::new()));
    remove_checkpoints(fs.as_ref(), &dir, 1).unwrap();
    assert!(fs.stat(&old).unwrap().is_none());
}

#[test]
fn a_checkpoint_without_segments_is_reported() {
    let (dir, fs) = (with_checkpoint("empty-checkpoint"), Env::real().fs);
    let checkpoint = dir.join("checkpoint.00000000");
    fs.remove_file(&checkpoint.join("00000000")).unwrap();
    let (back, damage) = read(&dir);
    assert_eq!(back, [samples(2, 0, 10)]);
    assert_eq!(
        damage.iter().map(|d| (d.kind, d.path.as_path())).collect::<Vec<_>>(),
        [(DamageKind::Missing, &*checkpoint)]
    );
}

#[test]
fn a_file_whose_name_no_writer_gives_to_a_segment_is_none() {
    let (dir, env) = (fresh_dir("strays"), Env::real());
    Log::open(&env, &dir, options()).unwrap().commit(&[&samples(1, 0, 10)]).unwrap();
    for stray in ["1", "000001", "18446744073709551615"] {
        drop(env.fs.create(&dir.join(stray)).unwrap());
    }
    assert_eq!(read(&dir), (vec![samples(1, 0, 10)], Vec::new()));
    let log = Log::open(&env, &dir, options()).unwrap();
    assert_eq!(log.segments().unwrap(), (0, 1));
}

#[test]
fn a_log_whose_numbers_are_used_up_is_not_opened_for_writing() {
    let (dir, env) = (fresh_dir("last-number"), Env::real());
    env.fs.create_dir_all(&dir).unwrap();
    drop(env.fs.create(&dir.join(i64::MAX.to_string())).unwrap());
    let error = Log::open(&env, &dir, options()).unwrap_err();
    assert!(error.to_string().contains("no more numbers"), "{error}");
}

#[test]
fn a_checkpoint_stands_for_what_can_be_read_where_a_segment_is_missing_or_a_record_says_nothing() {
    let dir = fresh_dir("holey-checkpoint");
    let env = Env::real();
    let log = Log::open(&env, &dir, options()).unwrap();
    for i in 0..4 {
        log.commit(&[&samples(i, 100, 10)]).unwrap();
        log.next_segment().unwrap();
    }
    let mut torn = samples(9, 100, 10);
    torn.truncate(torn.len() - 1);
    log.commit(&[&torn, &samples(4, 100, 10)]).unwrap();
    log.next_segment().unwrap();
    env.fs.remove_file(&dir.join("00000001")).unwrap();
    write_checkpoint(&env, &dir, 4, Compression::Snappy, 0, |_| true).unwrap();
    log.truncate(5).unwrap();
    drop(log);
    let (records, damage) = read(&dir);
    assert_eq!(damage, []);
    let samples = |bytes: &Vec<u8>| match Record::decode(bytes).unwrap() {
        Record::Samples(all) => (all[0].reference, all.len()),
        other => panic!("{other:?}"),
    };
    let found: Vec<_> = records.iter().map(samples).collect();
    assert_eq!(found, [(0, 10), (2, 10), (3, 10), (9, 9), (4, 10)]);
}

#[test]
fn a_checkpoint_of_a_damaged_segment_is_refused_and_leaves_nothing() {
    let dir = fresh_dir("damaged-checkpoint");
    let env = Env::real();
    let log = Log::open(&env, &dir, options()).unwrap();
    for i in 0..3 {
        log.commit(&[&samples(i, 0, 10)]).unwrap();
    }
    log.next_segment().unwrap();
    overwrite(&dir.join("00000000"), |bytes| bytes[20] ^= 1);
    let error = write_checkpoint(&env, &dir, 0, Compression::None, 0, |_| true).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    let names: Vec<_> = env.fs.list(&dir).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["00000000", "00000001"]);
}
