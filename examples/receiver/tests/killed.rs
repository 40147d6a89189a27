//! A receiver that is killed in mid-stream keeps all it has acknowledged; one that is asked to leave does so in order.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use common::proto::{compress, series};
use common::{Connection, Program, Scratch, WRITE_HEADERS, api};

const T0: i64 = 1_795_268_000_000;
/// Requests of one sender are so far apart in the samples' time, in milliseconds.
const STEP: i64 = 100;
/// Requests that a sender may be ahead of another: half of the minute that the head keeps open.
const MOST_AHEAD: i64 = 300;
const SENDERS: usize = 4;
const SERIES: usize = 50;
const KILLS: usize = 10;

/// What sample `n` of a series must be.
fn value(sender: usize, series: usize, n: i64) -> f64 {
    (sender * 1_000_003 + series * 7919) as f64 + n as f64 * 0.25
}

fn body(sender: usize, n: i64) -> Vec<u8> {
    let sender_name = sender.to_string();
    let mut message = Vec::new();
    for index in 0..SERIES {
        let labels = [("__name__", "killed"), ("sender", &*sender_name), ("series", &*index.to_string())];
        message.extend(series(&labels, T0 + n * STEP, value(sender, index, n)));
    }
    compress(&message)
}

/// Sends requests from the sender's next on until the receiver is gone; its next is the first that is not acknowledged.
fn stream(port: u16, sender: usize, all: &[AtomicI64], gone: &AtomicBool) {
    let Ok(mut connection) = Connection::open(port) else { return };
    let next = &all[sender];
    while !gone.load(Ordering::Relaxed) {
        let n = next.load(Ordering::Relaxed);
        // Senders stay together: who falls half a block behind the newest sample is too late, by the head's rules.
        if all.iter().any(|other| other.load(Ordering::Relaxed) + MOST_AHEAD < n) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        match connection.send("POST", "/api/v1/write", WRITE_HEADERS, &body(sender, n)) {
            Ok((204, _)) => next.store(n + 1, Ordering::Relaxed),
            Ok((status, text)) => panic!("sender {sender}, request {n}: {status} {}", String::from_utf8_lossy(&text)),
            Err(_) => return,
        }
    }
}

/// Every acknowledged sample is there, and no sample that was never sent.
fn check(port: u16, next: &[AtomicI64]) -> usize {
    let mut samples = 0;
    for (sender, next) in next.iter().enumerate() {
        let next = next.load(Ordering::Relaxed);
        let end = (T0 / 1000 + next * STEP / 1000 + 1).to_string();
        let data = api(port, "query", &[("query", &format!("killed{{sender=\"{sender}\"}}[30d]")), ("time", &end)]);
        let all = data["result"].as_array().unwrap();
        assert_eq!(all.len(), if next > 0 { SERIES } else { all.len() }, "series of sender {sender}");
        for found in all {
            let index: usize = found["metric"]["series"].as_str().unwrap().parse().unwrap();
            let values = found["values"].as_array().unwrap();
            // The request under way when the receiver was killed may be there, whole or not yet visible to its sender.
            let count = values.len() as i64;
            assert!(
                count == next || count == next + 1,
                "sender {sender}, series {index}: {count}, acknowledged {next}"
            );
            for (n, point) in (0..).zip(values) {
                assert_eq!(point[0].as_f64(), Some((T0 + n * STEP) as f64 / 1000.0), "sender {sender}, series {index}");
                let text = value(sender, index, n).to_string();
                assert_eq!(point[1].as_str(), Some(text.as_str()), "sender {sender}, series {index}, sample {n}");
            }
            samples += values.len();
        }
    }
    samples
}

#[test]
#[ignore = "starts and kills the receiver for half a minute"]
fn killed_ten_times_it_keeps_every_sample_that_it_acknowledged() {
    let scratch = Scratch::new("killed");
    // Blocks of two minutes: after some thousand requests the head is cut, too.
    let flags = ["--storage.tsdb.future-bound=0", "--storage.tsdb.min-block-duration=2m", "--log.level=warn"];
    let next: Vec<AtomicI64> = (0..SENDERS).map(|_| AtomicI64::new(0)).collect();
    for kill in 0..KILLS {
        let mut receiver = Program::receiver(&scratch.0, &flags);
        check(receiver.port, &next);
        let port = receiver.port;
        let gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (next, gone) = (&next, &gone);
            for sender in 0..SENDERS {
                scope.spawn(move || stream(port, sender, next, gone));
            }
            // Not always at the same point of whatever it does.
            std::thread::sleep(Duration::from_millis(300 + 137 * kill as u64 % 500));
            receiver.kill();
            gone.store(true, Ordering::Relaxed);
        });
    }
    let mut receiver = Program::receiver(&scratch.0, &flags);
    let samples = check(receiver.port, &next);
    let requests: i64 = next.iter().map(|next| next.load(Ordering::Relaxed)).sum();
    println!("{KILLS} kills, {requests} requests acknowledged, {samples} samples found");
    assert!(requests > 100);
    assert!(receiver.terminate(), "asked to leave, it does not end well");
}

#[test]
fn asked_to_leave_it_closes_its_directory_and_has_all_samples_again() {
    let scratch = Scratch::new("leaving");
    let next = [AtomicI64::new(0)];
    for _ in 0..2 {
        let mut receiver = Program::receiver(&scratch.0, &["--storage.tsdb.future-bound=0", "--log.level=warn"]);
        check(receiver.port, &next);
        let mut connection = Connection::open(receiver.port).unwrap();
        for _ in 0..5 {
            let n = next[0].load(Ordering::Relaxed);
            let (status, _) = connection.send("POST", "/api/v1/write", WRITE_HEADERS, &body(0, n)).unwrap();
            assert_eq!(status, 204);
            next[0].store(n + 1, Ordering::Relaxed);
        }
        assert!(receiver.terminate());
    }
    assert_eq!(next[0].load(Ordering::Relaxed), 10);
}
