//! Readers of a directory beside the process that owns it, while that one writes, cuts, merges, deletes and drops.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use narthex::fs::Env;
use narthex::model::{Labels, Matcher, TimeRange, Value};
use narthex::testkit::content;
use narthex::{Db, ErrorKind, Options};

/// A directory of its own, removed at the end.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.0);
    }
}

const TICKS: i64 = 1500;
const STEP: i64 = 20;
const SERIES: i64 = 5;
/// The series of which something is deleted now and then.
const TORN: i64 = 4;

fn labels(series: i64) -> Labels {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())])
}

fn options() -> Options {
    Options {
        min_block_duration: 4000,
        max_block_duration: Some(12_000),
        wal_segment_size: 32 << 10,
        out_of_order_window: 30_000,
        future_bound: None,
        ..Options::default()
    }
}

/// How far the owner is.
#[derive(Default)]
struct Progress {
    /// Ticks that are acknowledged are below this.
    acknowledged: AtomicI64,
    /// Ticks that may have been written are below this.
    begun: AtomicI64,
    /// Ticks of the torn series that are deleted are below this.
    deleted: AtomicI64,
    /// Those that may be.
    deleting: AtomicI64,
    done: AtomicBool,
}

fn own(db: &Db, progress: &Progress) {
    for tick in 0..TICKS {
        progress.begun.store(tick + 1, Ordering::SeqCst);
        let mut appender = db.appender();
        for series in 0..SERIES {
            appender.append(None, &labels(series), tick * STEP, tick as f64).unwrap();
        }
        // One comes late, at a time that no tick has.
        if tick > 10 {
            appender.append(None, &labels(0), (tick - 10) * STEP + 1, -1.0).unwrap();
        }
        appender.commit().unwrap();
        progress.acknowledged.store(tick + 1, Ordering::SeqCst);
        if tick % 37 == 36 {
            let until = tick - 10;
            progress.deleting.store(until, Ordering::SeqCst);
            let range = TimeRange::new(0, until * STEP - 1);
            db.delete(range, &[Matcher::equal("series", TORN.to_string())]).unwrap();
            progress.deleted.store(until, Ordering::SeqCst);
        }
        if tick % 20 == 19 {
            db.maintain().unwrap();
        }
        if tick % 200 == 199 {
            db.clean_tombstones().unwrap();
        }
    }
    progress.done.store(true, Ordering::SeqCst);
}

/// Opens and compares until the owner is done; how often that went well.
fn read(dir: &TempDir, progress: &Progress) -> u64 {
    let mut opened = 0;
    loop {
        let done = progress.done.load(Ordering::SeqCst);
        let (acknowledged, deleted) =
            (progress.acknowledged.load(Ordering::SeqCst), progress.deleted.load(Ordering::SeqCst));
        match Db::open_read_only(&dir.0) {
            Ok(db) => {
                let found = content(&db.source(), TimeRange::ALL, &[]).unwrap();
                let status = db.status();
                assert!(status.quarantined.is_empty() && status.log_damage.is_empty(), "{status:?}");
                let (begun, deleting) =
                    (progress.begun.load(Ordering::SeqCst), progress.deleting.load(Ordering::SeqCst));
                for series in 0..SERIES {
                    let samples = found.get(&labels(series));
                    let ticks = samples.into_iter().flatten().filter(|(t, _)| *t % STEP == 0);
                    let ticks: BTreeSet<i64> = ticks
                        .map(|(t, sample)| {
                            let tick = t / STEP;
                            assert!(matches!(sample.value, Value::Float(v) if v == tick as f64), "{sample:?}");
                            tick
                        })
                        .collect();
                    let (gone, from) = if series == TORN { (deleted, deleting) } else { (0, 0) };
                    let missing = (from..acknowledged).find(|tick| !ticks.contains(tick));
                    assert_eq!(missing, None, "series {series} of {acknowledged} ticks, deleted below {from}");
                    assert!(ticks.range(..gone).next().is_none(), "series {series} has what was deleted below {gone}");
                    assert!(ticks.range(begun..).next().is_none(), "series {series} has what nobody wrote");
                }
                let late = found.get(&labels(0)).into_iter().flatten().filter(|(t, _)| *t % STEP == 1).count();
                assert!(late as i64 >= acknowledged - 11, "{late} late samples of {acknowledged} ticks");
                opened += 1;
            }
            // The owner is quicker now and then: that is told, and no harm.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotReady, "{error}"),
        }
        if done {
            return opened;
        }
    }
}

#[test]
fn a_reader_beside_the_owner_sees_what_was_acknowledged_and_nothing_else() {
    let env = Env::real();
    let dir = TempDir(std::env::temp_dir().join(format!("narthex-beside-{:016x}", env.rng.next_u64())));
    let db = Db::open(&dir.0, options()).unwrap();
    let progress = Progress::default();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&dir, &progress))).collect();
        own(&db, &progress);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "a reader got through at least when the owner was done");
        }
    });
    assert!(db.status().blocks.len() > 2, "blocks were cut and merged meanwhile");
    db.close().unwrap();
}
