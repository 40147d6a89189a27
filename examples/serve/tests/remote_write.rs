//! What senders are answered: the order of the checks, the status codes, and what is stored after.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::proto::{compress, series};
use common::{Random, Served, bodies, served, served_from, testdata, write_request};
use narthex::budget::Budget;
use narthex::db::Options;
use narthex::fs::Env;
use narthex::head::FloatEncoding;
use narthex::model::{Labels, MatchOp, Matcher, TimeRange, Value};
use narthex::query::{SelectRequest, Source, series_samples};
use narthex::wire::remote_write::{HistogramValue, WriteRequest, decompress};
use serve::app::{About, App};
use serve::directory::Owned;
use serve::routes::router;
use serve::storage::{BlocksStatus, Gauges};
use serve::{Limits, Storage, StorageStatus, Written};

const T: i64 = 1_795_268_000_000;

fn up(job: &str, samples: &[(i64, f64)]) -> Vec<u8> {
    series(&[("__name__", "up"), ("job", job)], samples)
}

#[tokio::test]
async fn a_request_is_answered_204_with_an_empty_body() {
    let served = served(Limits::default());
    let answered = served.write(compress(&up("a", &[(T, 1.0)]))).await;
    assert_eq!((answered.status, answered.text()), (StatusCode::NO_CONTENT, ""));
    assert!(!answered.headers.contains_key("x-prometheus-remote-write-samples-written"));
}

#[tokio::test]
async fn all_three_paths_take_writes() {
    let served = served(Limits::default());
    for path in ["write", "push", "receive"] {
        for prefix in ["", "/prometheus"] {
            let mut request = write_request(compress(&up("a", &[(T, 1.0)])));
            *request.uri_mut() = format!("{prefix}/api/v1/{path}").parse().unwrap();
            assert_eq!(served.call(request).await.status, StatusCode::NO_CONTENT, "{prefix} {path}");
        }
    }
}

#[tokio::test]
async fn the_content_type_is_looked_at_before_the_encoding_and_that_before_the_body() {
    let served = served(Limits::default());
    let request = |content_type: &str, encoding: &str, body: &'static str| {
        Request::post("/api/v1/write")
            .header("content-type", content_type)
            .header("content-encoding", encoding)
            .body(Body::from(body))
            .unwrap()
    };
    let answered = served.call(request("application/json", "gzip", "no snappy")).await;
    assert_eq!(answered.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answered.text().contains("application/json"), "{}", answered.text());
    let answered = served.call(request("application/x-protobuf;proto=some.Message", "gzip", "no snappy")).await;
    assert_eq!(answered.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answered.text().contains("some.Message"), "{}", answered.text());
    let answered = served.call(request("application/x-protobuf", "gzip", "no snappy")).await;
    assert_eq!(answered.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answered.text().contains("gzip"), "{}", answered.text());
    let answered =
        served.call(request("application/x-protobuf; proto=prometheus.WriteRequest", "snappy", "no snappy")).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    assert!(answered.text().contains("snappy"), "{}", answered.text());
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413_and_one_that_decodes_to_too_much_is_400() {
    let limits = narthex::wire::remote_write::Limits { decoded_bytes: 1 << 16, ..Default::default() };
    let served = served(Limits { write_request: limits, ..Limits::default() });
    assert_eq!(served.write(vec![0; (1 << 16) + 1]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let answered = served.write(compress(&vec![0; (1 << 16) + 1])).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    assert!(answered.text().contains("65537"), "{}", answered.text());
}

#[tokio::test]
async fn more_bytes_than_fit_are_sent_away_to_come_again() {
    let served = served(Limits { write_bytes_in_flight: 100, ..Limits::default() });
    let answered = served.write(compress(&up("a", &[(T, 1.0)]))).await;
    assert_eq!(answered.status, StatusCode::NO_CONTENT);
    let many: Vec<u8> = (0..50).flat_map(|at| up("a", &[(T + at, 1.0)])).collect();
    let answered = served.write(compress(&many)).await;
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answered.headers["retry-after"], "1");
    // What it held is given back.
    assert_eq!(served.write(compress(&up("a", &[(T + 1, 1.0)]))).await.status, StatusCode::NO_CONTENT);
}

/// Writes wait until they are let go on, and are counted.
struct Slow {
    inner: Owned,
    running: AtomicUsize,
    done: AtomicUsize,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Storage for Slow {
    fn source(&self) -> narthex::Result<Box<dyn Source>> {
        self.inner.source()
    }
    fn write(&self, request: &WriteRequest) -> narthex::Result<Written> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.go.lock().unwrap().recv().unwrap();
        let written = self.inner.write(request);
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
        written
    }
    fn takes_writes(&self) -> bool {
        true
    }
    fn gauges(&self) -> Gauges {
        self.inner.gauges()
    }
    fn status(&self, limit: usize) -> narthex::Result<StorageStatus> {
        self.inner.status(limit)
    }
    fn blocks(&self) -> narthex::Result<BlocksStatus> {
        self.inner.blocks()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_leaves_keeps_its_turn_until_its_write_is_done() {
    let served = served(Limits::default());
    let (go, wait) = mpsc::channel();
    let (running, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let slow = Arc::new(Slow { inner: Owned::new(served.db.clone()), running, done, go: Mutex::new(wait) });
    let limits = Limits { write_concurrency: 1, ..Limits::default() };
    let app = App::new(served.db.env().clone(), limits, About { program: "test", ..About::default() });
    app.open(Arc::clone(&slow) as Arc<dyn Storage>);
    let until = async |holds: &dyn Fn() -> bool| {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let send = |job: &'static str| {
        let router = router(app.clone(), true);
        let body = compress(&up(job, &[(T, 1.0)]));
        tokio::spawn(async move { common::call(&router, write_request(body)).await })
    };

    let leaving = send("first");
    until(&|| slow.running.load(Ordering::SeqCst) == 1).await;
    leaving.abort();
    assert!(leaving.await.is_err_and(|error| error.is_cancelled()));
    let staying = send("second");
    // Long enough for it to begin beside the first, were it let.
    let both_run = || slow.running.load(Ordering::SeqCst) == 2;
    let beside = until(&both_run);
    assert!(tokio::time::timeout(Duration::from_millis(300), beside).await.is_err(), "two writes run at a time");
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(staying.await.unwrap().status, StatusCode::NO_CONTENT);
    until(&|| slow.done.load(Ordering::SeqCst) == 2).await;
    assert_eq!(stored(&served, &[("__name__", "up"), ("job", "first")]), [(T, 1.0)]);
}

#[tokio::test]
async fn before_the_log_is_read_back_senders_are_told_to_come_again() {
    let (env, _machine) = Env::simulated(1);
    let app = App::new(env, Limits::default(), Default::default());
    let router = router(app, true);
    let answered = common::call(&router, write_request(compress(&up("a", &[(T, 1.0)])))).await;
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answered.headers["retry-after"], "1");
    let ready = common::call(&router, Request::get("/-/ready").body(Body::empty()).unwrap()).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    let healthy = common::call(&router, Request::get("/-/healthy").body(Body::empty()).unwrap()).await;
    assert_eq!(healthy.status, StatusCode::OK);
}

/// All samples of a series, by time.
fn stored(served: &Served, labels: &[(&str, &str)]) -> Vec<(i64, f64)> {
    let matchers: Vec<_> =
        labels.iter().map(|(name, value)| Matcher::new(MatchOp::Equal, *name, *value).unwrap()).collect();
    let budget = Budget::unlimited();
    let mut set = served.db.source().select(&SelectRequest::new(TimeRange::ALL, &matchers, &budget)).unwrap();
    let mut all = Vec::new();
    while let Some(series) = set.next().unwrap() {
        for sample in series_samples(&series.chunks, TimeRange::ALL).unwrap() {
            if let Value::Float(value) = sample.value {
                all.push((sample.t, value));
            }
        }
    }
    all
}

#[tokio::test]
async fn invalid_samples_are_counted_by_reason_and_their_neighbours_are_stored() {
    let served = served(Limits::default());
    assert_eq!(served.write(compress(&up("a", &[(T, 1.0), (T + 10, 2.0)]))).await.status, StatusCode::NO_CONTENT);
    let mixed = [
        up("a", &[(T + 5, 9.0), (T + 10, 3.0), (T + 20, 4.0)]),
        series(&[("job", "nameless")], &[(T, 1.0), (T + 1, 1.0)]),
        series(&[("__name__", "up"), ("job", "b"), ("job", "c")], &[(T, 1.0)]),
        up("b", &[(T, 5.0)]),
    ]
    .concat();
    let answered = served.write(compress(&mixed)).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    let text = answered.text();
    for part in ["5 of 7 samples refused", "1 out of order", "1 duplicate", "3 invalid labels", "no metric name"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert_eq!(stored(&served, &[("job", "a")]), [(T, 1.0), (T + 10, 2.0), (T + 20, 4.0)]);
    assert_eq!(stored(&served, &[("job", "b")]), [(T, 5.0)]);
}

#[tokio::test]
async fn the_same_request_again_is_204_and_changes_nothing() {
    let served = served(Limits::default());
    let body = compress(&up("a", &[(T, 1.0)]));
    for _ in 0..3 {
        assert_eq!(served.write(body.clone()).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(stored(&served, &[("job", "a")]), [(T, 1.0)]);
}

#[tokio::test]
async fn two_values_for_one_time_in_one_request_are_not_both_acknowledged() {
    let served = served(Limits::default());
    let answered = served.write(compress(&up("a", &[(T, 1.0), (T, 2.0)]))).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST, "{}", answered.text());
    assert_eq!(stored(&served, &[("job", "a")]), [(T, 1.0)]);
}

#[tokio::test]
async fn a_sample_far_ahead_of_the_clock_is_refused() {
    let (env, _machine) = Env::simulated(1);
    let now = env.clock.now_ms();
    let served = served_from(&env, Limits::default(), Options::default());
    let answered = served.write(compress(&up("a", &[(now + 660_000, 1.0)]))).await;
    assert_eq!(answered.status, StatusCode::BAD_REQUEST);
    assert!(answered.text().contains("1 too far in the future"), "{}", answered.text());
    assert_eq!(served.write(compress(&up("a", &[(now + 540_000, 1.0)]))).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn version_two_says_in_headers_what_was_written() {
    let served = served(Limits::default());
    let (_, body) = bodies(&testdata("golden/wire"), "rw2-").swap_remove(0);
    let mut message = Vec::new();
    decompress(&body, &mut message, 32 << 20).unwrap();
    let mut decoded = WriteRequest::new();
    decoded.decode_v2(&message, Default::default()).unwrap();
    let samples: usize = decoded.series().map(|series| series.samples().len()).sum();
    let mut request = write_request(body);
    let content_type = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    request.headers_mut().insert("content-type", content_type.parse().unwrap());
    let answered = served.call(request).await;
    assert_eq!(answered.status, StatusCode::NO_CONTENT, "{}", answered.text());
    assert_eq!(answered.headers["x-prometheus-remote-write-samples-written"], samples.to_string().as_str());
}

#[tokio::test]
async fn the_start_timestamps_of_version_two_are_kept_where_they_are_wanted() {
    use common::proto::{bytes, double, integer};
    // Histograms end with theirs, as field 17; an integer histogram of one observation in the zero bucket.
    let histogram =
        [integer(1, 1), double(3, 1.0), double(5, 1e-128), integer(6, 1), integer(15, T), integer(17, T - 8)];
    let sample = [double(1, 5.0), integer(2, T), integer(3, T - 7)].concat();
    let series = |labels: &[u8], field, value: &[u8]| bytes(5, &[bytes(1, labels), bytes(field, value)].concat());
    let symbols = ["", "__name__", "started", "histogram"].map(|symbol| bytes(4, symbol.as_bytes()));
    let message = [symbols.concat(), series(&[1, 3], 3, &histogram.concat()), series(&[1, 2], 2, &sample)].concat();
    for (wanted, expected) in [(true, [T - 8, T - 7]), (false, [0, 0])] {
        let options = Options {
            future_bound: None,
            float_encoding: FloatEncoding::Xor2,
            start_timestamps: wanted,
            histogram_start_timestamps: wanted,
            ..Options::default()
        };
        let (env, _machine) = Env::simulated(7);
        let served = served_from(&env, Limits::default(), options);
        let mut request = write_request(compress(&message));
        let content_type = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        let answered = served.call(request).await;
        assert_eq!(answered.status, StatusCode::NO_CONTENT, "{}", answered.text());
        let budget = Budget::unlimited();
        let source = served.db.source();
        let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
        let mut found = Vec::new();
        while let Some(series) = set.next().unwrap() {
            found.extend(series_samples(&series.chunks, TimeRange::ALL).unwrap().iter().map(|sample| sample.st));
        }
        assert_eq!(found, expected);
    }
}

/// Sends all bodies, and asks the database for each of their samples.
async fn send_and_find(dir: PathBuf) {
    let served = served(Limits::default());
    let all = bodies(&dir, "rw1-");
    assert!(!all.is_empty());
    for (name, body) in &all {
        let answered = served.write(body.clone()).await;
        assert_eq!((answered.status, answered.text()), (StatusCode::NO_CONTENT, ""), "{name}");
    }
    let budget = Budget::unlimited();
    let everything = [Matcher::new(MatchOp::NotEqual, "__name__", "").unwrap()];
    let source = served.db.source();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &everything, &budget)).unwrap();
    let mut found = std::collections::BTreeMap::new();
    while let Some(series) = set.next().unwrap() {
        for sample in series_samples(&series.chunks, TimeRange::ALL).unwrap() {
            let value = match sample.value {
                Value::Float(value) => value.to_bits(),
                Value::Histogram(histogram) => histogram.sum.to_bits(),
                Value::FloatHistogram(histogram) => histogram.sum.to_bits(),
            };
            found.insert((series.labels.clone(), sample.t), value);
        }
    }
    let (mut request, mut message, mut sent) = (WriteRequest::new(), Vec::new(), 0);
    for (name, body) in &all {
        decompress(body, &mut message, 32 << 20).unwrap();
        request.decode_v1(&message, Default::default()).unwrap();
        for series in request.series() {
            let labels = Labels::parse_packed(series.packed_labels()).unwrap();
            let floats = series.samples().iter().map(|sample| (sample.t, sample.value.to_bits()));
            let histograms = series.histograms().iter().map(|sample| match &sample.value {
                HistogramValue::Integer(histogram) => (sample.t, histogram.sum.to_bits()),
                HistogramValue::Float(histogram) => (sample.t, histogram.sum.to_bits()),
            });
            for (t, value) in floats.chain(histograms) {
                sent += 1;
                assert_eq!(found.get(&(labels.clone(), t)), Some(&value), "{name}: {labels} at {t}");
            }
        }
    }
    assert_eq!(found.len(), sent);
}

#[tokio::test]
async fn what_prometheus_sent_is_taken_and_found_again() {
    send_and_find(testdata("golden/wire")).await;
}

/// Sends `count` damaged variants of the bodies: none may be answered 5xx, or not at all, and what is sent unharmed after
/// them is taken.
async fn damage(dir: PathBuf, count: usize) {
    let served = served(Limits::default());
    let all = bodies(&dir, "rw1-");
    assert!(!all.is_empty());
    let mut random = Random(0x006e_6172_7468_6578);
    let mut refused = 0;
    for variant in 0..count {
        let (name, body) = &all[random.below(all.len())];
        let mut body = body.clone();
        let what = random.below(6);
        let mut message = Vec::new();
        match what {
            0 => body.truncate(random.below(body.len())),
            1 => {
                for _ in 0..=random.below(8) {
                    let at = random.below(body.len());
                    body[at] ^= 1 << random.below(8);
                }
            }
            // Damage behind the compression reaches the decoder.
            2 | 3 => {
                decompress(&body, &mut message, 32 << 20).unwrap();
                for _ in 0..=random.below(8) {
                    let at = random.below(message.len());
                    message[at] ^= 1 << random.below(8);
                }
                if what == 3 {
                    message.truncate(random.below(message.len()));
                }
                body = compress(&message);
            }
            // A header that promises up to 4 GiB.
            4 => body.splice(0..3, common::proto::varint(random.next() & 0xffff_ffff)).for_each(drop),
            // Larger than what is allowed, compressed to little.
            _ if variant % 50 == 0 => {
                decompress(&body, &mut message, 32 << 20).unwrap();
                while message.len() <= 32 << 20 {
                    message.extend_from_within(..);
                }
                body = compress(&message);
            }
            _ => body.extend((0..random.below(64)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        }
        let answered = tokio::time::timeout(Duration::from_secs(30), served.write(body)).await;
        let answered = answered.unwrap_or_else(|_| panic!("{name}, variant {variant}: no answer"));
        let code = answered.status.as_u16();
        assert!((200..300).contains(&code) || (400..500).contains(&code), "{name}, variant {variant}: {code}");
        refused += usize::from(code >= 400);
    }
    assert!(refused * 2 > count, "only {refused} of {count} were refused: the damage does none");
    // Damaged bodies may have left samples of other times behind: a fresh time for all, then the bodies as they are.
    let fresh = common::served(Limits::default());
    for (name, body) in &all {
        let answered = fresh.write(body.clone()).await;
        assert_eq!(answered.status, StatusCode::NO_CONTENT, "{name}");
    }
    let later = compress(&up("after", &[(i64::MAX / 2, 1.0)]));
    assert_eq!(served.write(later).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn damaged_bodies_are_refused_and_harm_nothing() {
    damage(testdata("golden/wire"), 200).await;
}

fn shared_wire() -> PathBuf {
    let shared = std::env::var_os("NARTHEX_SHARED").expect("NARTHEX_SHARED names the directory with golden/wire");
    PathBuf::from(shared).join("golden/wire")
}

#[tokio::test]
#[ignore = "needs NARTHEX_SHARED: all bodies that were recorded"]
async fn everything_that_prometheus_sent_is_taken_and_found_again() {
    send_and_find(shared_wire()).await;
}

#[tokio::test]
#[ignore = "needs NARTHEX_SHARED, and some minutes"]
async fn ten_thousand_damaged_bodies_are_refused_and_harm_nothing() {
    damage(shared_wire(), 10_000).await;
}
