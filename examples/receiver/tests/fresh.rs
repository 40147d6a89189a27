//! What is written is seen at once, and always: while blocks are cut, uploaded and dropped under a load, a probe counts
//! its samples again and again, and measures how long each takes to be seen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::proto::{compress, series};
use common::{Connection, Program, Scratch, WRITE_HEADERS, api, get};

/// How long it runs: some blocks of ten seconds are cut, uploaded and dropped.
const RUN: Duration = Duration::from_secs(75);
/// Between two samples of the probe.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// The load: so many series, each with a sample a second, by so many senders.
const SERIES: usize = 20_000;
const SENDERS: usize = 2;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn write(connection: &mut Connection, message: &[u8]) {
    let (status, text) = connection.send("POST", "/api/v1/write", WRITE_HEADERS, &compress(message)).unwrap();
    assert_eq!(status, 204, "{}", String::from_utf8_lossy(&text));
}

/// A sample a second for this sender's share of the series, in ten requests.
fn load(port: u16, sender: usize, done: &AtomicBool, sent: &AtomicU64) {
    let mut connection = Connection::open(port).unwrap();
    let share = SERIES / SENDERS / 10;
    for request in 0.. {
        let begin = Instant::now();
        let mut message = Vec::new();
        for index in 0..share {
            let name = (request % 10 * share + index).to_string();
            let labels = [("__name__", "load"), ("sender", &*sender.to_string()), ("series", &*name)];
            message.extend(series(&labels, now_ms(), request as f64));
        }
        write(&mut connection, &message);
        sent.fetch_add(share as u64, Ordering::Relaxed);
        if done.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100).saturating_sub(begin.elapsed()));
    }
}

/// The value of an instant query that answers with one sample, or none.
fn value(port: u16, query: &str, time_ms: i64) -> Option<f64> {
    let time = format!("{}.{:03}", time_ms / 1000, time_ms % 1000);
    let data = api(port, "query", &[("query", query), ("time", &time)]);
    let result = data["result"].as_array().unwrap();
    assert!(result.len() <= 1, "one series is several: {data}");
    result.first().map(|series| series["value"][1].as_str().unwrap().parse().unwrap())
}

/// What the probe has sent, and what of it was acknowledged.
#[derive(Default)]
struct Probe {
    sent: AtomicI64,
    acknowledged: AtomicI64,
}

/// Writes sample after sample and waits until each is seen. How long that took, from before the write on.
fn probe(port: u16, probe: &Probe) -> Vec<Duration> {
    let mut connection = Connection::open(port).unwrap();
    let (begin, mut taken, mut last) = (Instant::now(), Vec::new(), 0);
    while begin.elapsed() < RUN {
        let number = probe.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let started = Instant::now();
        // Its samples are in order whatever the clock does.
        let t = now_ms().max(last + 1);
        last = t;
        write(&mut connection, &series(&[("__name__", "probe")], t, number as f64));
        probe.acknowledged.store(number, Ordering::SeqCst);
        while value(port, "probe", t) != Some(number as f64) {
            assert!(started.elapsed() < Duration::from_secs(30), "sample {number} is not seen");
        }
        taken.push(started.elapsed());
        std::thread::sleep(PROBE_EVERY.saturating_sub(started.elapsed()));
    }
    taken
}

/// Counts the probe's samples until it is done: never fewer than were acknowledged before, never more than were sent.
fn count(port: u16, probe: &Probe, done: &AtomicBool) -> usize {
    let mut counts = 0;
    while !done.load(Ordering::Relaxed) {
        let before = probe.acknowledged.load(Ordering::SeqCst);
        let found = value(port, "count_over_time(probe[1h])", now_ms() + 1000).unwrap_or(0.0) as i64;
        let after = probe.sent.load(Ordering::SeqCst);
        assert!(before <= found, "{found} samples are found, {before} were acknowledged");
        assert!(found <= after, "{found} samples are found, {after} were sent");
        counts += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    counts
}

fn whole_blocks(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter(|entry| entry.as_ref().unwrap().path().join("meta.json").exists())
        .count()
}

fn metric(port: u16, name: &str) -> f64 {
    let (_, body) = get(port, "/metrics").unwrap();
    let text = String::from_utf8(body).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "runs for a minute and a quarter; prints how fresh answers are"]
fn what_is_written_is_seen_while_blocks_are_cut_uploaded_and_dropped() {
    let scratch = Scratch::new("fresh");
    let (dir, bucket) = (scratch.0.as_path(), scratch.0.join("bucket"));
    let config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
    std::fs::write(dir.join("bucket.yml"), config).unwrap();
    let config = format!("--objstore.config-file={}", dir.join("bucket.yml").display());
    let flags = [
        "--storage.tsdb.min-block-duration=10s",
        "--storage.tsdb.retention.time=20s",
        "--label=cluster=\"eu\"",
        "--log.level=warn",
        &config,
    ];
    let receiver = Program::receiver(dir, &flags);
    let port = receiver.port;
    let (shared, done, sent) = (Probe::default(), AtomicBool::new(false), AtomicU64::new(0));
    let (mut taken, counts) = std::thread::scope(|scope| {
        let (shared, done, sent) = (&shared, &done, &sent);
        for sender in 0..SENDERS {
            scope.spawn(move || load(port, sender, done, sent));
        }
        let counting = scope.spawn(move || count(port, shared, done));
        let probing = scope.spawn(move || probe(port, shared));
        let taken = probing.join();
        // Whatever happened, the others end.
        done.store(true, Ordering::Relaxed);
        (taken.unwrap(), counting.join().unwrap())
    });
    taken.sort();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let (uploads, local) = (metric(port, "thanos_shipper_uploads_total"), whole_blocks(&dir.join("data")));
    println!(
        "{} samples of the probe beside {} of the load; counted {counts} times; {uploads} blocks uploaded, {local} of them \
         still on the disk",
        taken.len(),
        sent.into_inner()
    );
    println!("written to visible, milliseconds: p50={:.1} p99={:.1} max={:.1}", at(0.5), at(0.99), at(1.0));
    assert!(uploads >= 4.0, "only {uploads} blocks were uploaded");
    assert!((local as f64) < uploads, "no block was dropped");
    assert!(whole_blocks(&bucket) as f64 >= uploads);
}
