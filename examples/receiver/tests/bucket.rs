//! What the receiver shipped is answered from the bucket alone, after the receiver and its disk are gone.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, and print what they compared"
)]

#[path = "common/answers.rs"]
mod answers;
#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use answers::{QUERIES, compare, copy};
use common::proto::{compress, series};
use common::{Connection, Program, Scratch, WRITE_HEADERS, api, free_port, get};
use narthex::budget::Budget;
use narthex::db::Db;
use narthex::model::{TimeRange, Value as SampleValue};
use narthex::query::{SelectRequest, Source, series_samples};
use serde_json::{Map, Value};

/// The golden data is five minutes long; it is sent again and again, as if time went on.
const ROUND_MS: i64 = 300_000;
/// No series has these names.
const EXTERNAL: [(&str, &str); 2] = [("receive_replica", "0"), ("tenant_id", "test")];
/// So many blocks of two minutes are waited for.
const BLOCKS: usize = 8;

/// A series and its floats.
struct Recorded {
    labels: Vec<(String, String)>,
    samples: Vec<(i64, f64)>,
}

/// What a real Prometheus scraped, every second. It has classic histograms of its peer only: those stand for its own, too.
fn recorded() -> Vec<Recorded> {
    let shared = PathBuf::from(std::env::var_os("NARTHEX_SHARED").expect("NARTHEX_SHARED names the golden data"));
    let db = Db::open_read_only(shared.join("golden/live/a")).unwrap();
    let budget = Budget::unlimited();
    let mut set = db.source().select(&SelectRequest::new(TimeRange::ALL, &[], &budget)).unwrap();
    let mut all = Vec::new();
    while let Some(series) = set.next().unwrap() {
        let samples = series_samples(&series.chunks, TimeRange::ALL).unwrap();
        let floats = samples.iter().filter_map(|sample| match sample.value {
            SampleValue::Float(value) => Some((sample.t, value)),
            _ => None,
        });
        let samples: Vec<_> = floats.collect();
        let labels: Vec<_> = series.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        if series.labels.metric_name() == "alertmanager_http_request_duration_seconds_bucket" {
            let mut labels = labels.clone();
            for (name, value) in &mut labels {
                if name == "__name__" {
                    *value = "prometheus_http_request_duration_seconds_bucket".to_owned();
                }
            }
            all.push(Recorded { labels, samples: samples.clone() });
        }
        all.push(Recorded { labels, samples });
    }
    all
}

/// Sends real requests, native histograms among them, and then the recorded samples, round after round and a second a
/// request, until the receiver is gone.
fn load(port: u16, recorded: &[Recorded], gone: &AtomicBool, sent: &AtomicUsize) {
    let shared = PathBuf::from(std::env::var_os("NARTHEX_SHARED").unwrap());
    let mut bodies: Vec<_> =
        std::fs::read_dir(shared.join("golden/wire")).unwrap().map(|entry| entry.unwrap().path()).collect();
    bodies.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rw1-")));
    bodies.retain(|path| path.extension().is_some_and(|extension| extension == "body"));
    bodies.sort();
    let mut connection = Connection::open(port).unwrap();
    for body in bodies {
        let body = std::fs::read(body).unwrap();
        let (status, text) = connection.send("POST", "/api/v1/write", WRITE_HEADERS, &body).unwrap();
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&text));
    }
    for round in 1.. {
        let mut next = vec![0; recorded.len()];
        let begin = recorded.iter().filter_map(|series| series.samples.first()).map(|(t, _)| *t).min().unwrap();
        for second in 1..=ROUND_MS / 1000 {
            let until = begin + second * 1000;
            let mut message = Vec::new();
            for (recorded, next) in recorded.iter().zip(&mut next) {
                let labels: Vec<_> = recorded.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
                while let Some((t, value)) = recorded.samples.get(*next).filter(|(t, _)| *t < until) {
                    message.extend(series(&labels, t + round * ROUND_MS, *value));
                    *next += 1;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            if gone.load(Ordering::Relaxed) {
                return;
            }
            match connection.send("POST", "/api/v1/write", WRITE_HEADERS, &compress(&message)) {
                Ok((204, _)) => {}
                Ok((status, text)) => panic!("{status} {}", String::from_utf8_lossy(&text)),
                // It was killed.
                Err(_) => return,
            }
        }
    }
}

/// The blocks in the bucket's directory that are whole: their directories, and the times where they begin and end.
fn blocks(bucket: &Path) -> Vec<(PathBuf, i64, i64)> {
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(bucket).into_iter().flatten() {
        let path = entry.unwrap().path();
        let Ok(meta) = std::fs::read(path.join("meta.json")) else { continue };
        // It may be being written.
        let Ok(meta) = serde_json::from_slice::<Value>(&meta) else { continue };
        blocks.push((path, meta["minTime"].as_i64().unwrap(), meta["maxTime"].as_i64().unwrap()));
    }
    blocks.sort_by_key(|(_, min, _)| *min);
    blocks
}

/// Takes the external labels off an answer's metrics.
fn without_external(mut data: Value) -> Value {
    for series in data["result"].as_array_mut().unwrap() {
        let metric = std::mem::take(series["metric"].as_object_mut().unwrap());
        let own = metric.into_iter().filter(|(name, value)| {
            let external = EXTERNAL.iter().find(|(external, _)| name == external);
            if let Some((name, expected)) = external {
                assert_eq!(value, expected, "{name}");
            }
            external.is_none()
        });
        series["metric"] = Value::Object(own.collect::<Map<_, _>>());
    }
    data
}

/// `query` of this build, beside the receiver.
fn query(dir: &Path, flags: &[String]) -> Program {
    let path = Path::new(env!("CARGO_BIN_EXE_receiver")).with_file_name("query");
    assert!(path.exists(), "{} is not there: cargo build -p query", path.display());
    let port = free_port();
    let mut command = Command::new(path);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).args(flags);
    let program = Program::start(command, port, &dir.join("query.log"));
    program.wait_for("/-/ready");
    program
}

/// `config` says where the bucket is, `bucket` is the directory in which its objects lie in the end.
fn shipped_blocks_answer(scratch: &Scratch, config: &str, bucket: &Path) {
    let dir = scratch.0.as_path();
    let file = dir.join("bucket.yml");
    std::fs::write(&file, config).unwrap();
    let config = format!("--objstore.config-file={}", file.display());
    let mut flags = vec!["--storage.tsdb.min-block-duration=2m", "--storage.tsdb.future-bound=0", &config];
    let labels: Vec<_> = EXTERNAL.iter().map(|(name, value)| format!("--label={name}=\"{value}\"")).collect();
    flags.extend(labels.iter().map(String::as_str));
    let mut receiver = Program::receiver(dir, &flags);
    let port = receiver.port;

    let recorded = recorded();
    let (gone, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| load(port, &recorded, &gone, &sent));
        while blocks(bucket).len() < BLOCKS && begin.elapsed() < Duration::from_secs(90) {
            std::thread::sleep(Duration::from_millis(100));
        }
        // In the middle of whatever it does.
        receiver.kill();
        gone.store(true, Ordering::Relaxed);
    });
    let found = blocks(bucket);
    assert!(found.len() >= BLOCKS, "only {} blocks arrived", found.len());
    let (sent, seconds) = (sent.into_inner(), begin.elapsed().as_secs_f64());
    println!(
        "{} blocks arrived while {sent} samples were sent, in {seconds:.0} s; the receiver is killed",
        found.len()
    );
    std::fs::remove_dir_all(dir.join("data")).unwrap();

    let downloaded = dir.join("downloaded");
    for (block, _, _) in &found {
        copy(block, &downloaded.join(block.file_name().unwrap()));
    }
    let reference = std::env::var_os("NARTHEX_REFERENCE").expect("NARTHEX_REFERENCE names the program");
    let reference_port = free_port();
    let mut command = Command::new(reference);
    command.arg("serve").arg(&downloaded).arg(format!("127.0.0.1:{reference_port}"));
    let reference = Program::start(command, reference_port, &dir.join("reference.log"));
    reference.wait_for("/api/v1/labels");
    let query = query(dir, &[config, format!("--data-dir={}", dir.join("cache").display())]);

    let end = found.iter().map(|(_, _, max)| *max).max().unwrap() - 1000;
    let (start, end) = (format!("{}", (end - 300_000) / 1000), format!("{}", end / 1000));
    for expression in QUERIES {
        let parameters = [("query", expression), ("start", &*start), ("end", &*end), ("step", "5")];
        let ours = without_external(api(query.port, "query_range", &parameters));
        let theirs = api(reference.port, "query_range", &parameters);
        let points = compare(expression, &ours, &theirs);
        println!("{points:5} points equal: {expression}");
    }
    let (_, metrics) = get(query.port, "/metrics").unwrap();
    for line in String::from_utf8_lossy(&metrics).lines().filter(|line| line.starts_with("thanos_objstore_bucket_op")) {
        println!("{line}");
    }
}

#[test]
#[ignore = "needs NARTHEX_SHARED and NARTHEX_REFERENCE, and the program query built; takes a minute"]
fn after_the_disk_is_gone_a_bucket_in_a_directory_answers_as_the_reference_does() {
    let scratch = Scratch::new("bucket-directory");
    let bucket = scratch.0.join("bucket");
    let config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
    shipped_blocks_answer(&scratch, &config, &bucket);
}

#[test]
#[ignore = "needs NARTHEX_SHARED, NARTHEX_REFERENCE and NARTHEX_S3SFS, and the program query built; takes a minute"]
fn after_the_disk_is_gone_a_bucket_in_s3_answers_as_the_reference_does() {
    let scratch = Scratch::new("bucket-s3");
    let root = scratch.0.join("s3");
    std::fs::create_dir_all(root.join("metrics")).unwrap();
    let port = free_port();
    let mut command = Command::new(std::env::var_os("NARTHEX_S3SFS").expect("NARTHEX_S3SFS names the program"));
    command.args(["--host=127.0.0.1", "--access-key=key", "--secret-key=secret"]);
    command.arg(format!("--port={port}")).arg(&root);
    let _server = Program::start(command, port, &scratch.0.join("s3.log"));
    let config = format!(
        "type: S3\nconfig:\n  bucket: metrics\n  endpoint: 127.0.0.1:{port}\n  insecure: true\n  access_key: key\n  \
         secret_key: secret\nprefix: team-a\n"
    );
    shipped_blocks_answer(&scratch, &config, &root.join("metrics/team-a"));
}
