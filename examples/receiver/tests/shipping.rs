//! A receiver with a bucket: what it asks for, and what it does when it is told to leave.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use std::process::Command;

use common::proto::{compress, series};
use common::{Connection, Program, Scratch, WRITE_HEADERS, api};

const T0: i64 = 1_795_268_000_000;

fn config(scratch: &Scratch) -> String {
    let file = scratch.0.join("bucket.yml");
    let directory = scratch.0.join("bucket");
    std::fs::write(&file, format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", directory.display())).unwrap();
    format!("--objstore.config-file={}", file.display())
}

#[test]
fn a_bucket_without_labels_is_refused_with_an_example() {
    let scratch = Scratch::new("no-labels");
    let output = Command::new(env!("CARGO_BIN_EXE_receiver"))
        .arg(format!("--storage.tsdb.path={}", scratch.0.join("data").display()))
        .args(["--web.listen-address=127.0.0.1:0", &config(&scratch)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("--label 'cluster="), "{text}");
}

#[test]
fn told_to_ship_before_it_leaves_it_leaves_nothing_behind() {
    let scratch = Scratch::new("ship-and-leave");
    let config = config(&scratch);
    let flags = ["--storage.tsdb.future-bound=0", "--label=cluster=\"eu\"", "--shutdown.ship", &config];
    let mut receiver = Program::receiver(&scratch.0, &flags);
    let mut connection = Connection::open(receiver.port).unwrap();
    for n in 0..10 {
        let message = series(&[("__name__", "kept")], T0 + n * 1000, n as f64);
        assert_eq!(connection.send("POST", "/api/v1/write", WRITE_HEADERS, &compress(&message)).unwrap().0, 204);
    }
    drop(connection);
    assert!(receiver.terminate());

    // Another disk, the same bucket.
    std::fs::remove_dir_all(scratch.0.join("data")).unwrap();
    let receiver = Program::receiver(&scratch.0, &flags);
    let end = (T0 / 1000 + 10).to_string();
    let count = || {
        let data =
            api(receiver.port, "query", &[("query", "count_over_time(kept{cluster=\"eu\"}[1h])"), ("time", &end)]);
        data["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    // The bucket is listed beside the start.
    let mut found = count();
    for _ in 0..100 {
        if found.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        found = count();
    }
    assert_eq!(found.as_deref(), Some("10"));
    let names = api(receiver.port, "labels", &[]);
    assert_eq!(names, serde_json::json!(["__name__", "cluster"]));
    assert_eq!(api(receiver.port, "label/cluster/values", &[]), serde_json::json!(["eu"]));
}
