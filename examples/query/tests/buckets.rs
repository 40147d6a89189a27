//! Buckets that are described wrongly, and buckets that do not answer.

#[expect(dead_code, reason = "the receiver's tests use the rest")]
#[path = "../../receiver/tests/common/mod.rs"]
mod common;

use std::process::Command;
use std::time::Instant;

use common::{Program, Scratch, free_port, get};

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_place() {
    let scratch = Scratch::new("query-config");
    let file = scratch.0.join("bucket.yml");
    std::fs::write(&file, "type: FILESYSTEM\nconfig:\n  directry: /tmp\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_query"))
        .args(["--web.listen-address=127.0.0.1:0", "--objstore.config-file"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("bucket.yml:3") && text.contains("directry"), "{text}");
}

#[test]
fn until_a_bucket_answers_it_is_alive_and_not_ready_and_leaves_when_asked() {
    let scratch = Scratch::new("query-unreachable");
    let file = scratch.0.join("bucket.yml");
    // Nobody listens there.
    let config = format!(
        "type: S3\nconfig:\n  bucket: b\n  endpoint: 127.0.0.1:{}\n  insecure: true\n  access_key: a\n  secret_key: b\n",
        free_port()
    );
    std::fs::write(&file, config).unwrap();
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_query"));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--objstore.config-file").arg(&file);
    let mut query = Program::start(command, port, &scratch.0.join("query.log"));
    query.wait_for("/-/healthy");
    assert_eq!(get(port, "/-/ready").unwrap().0, 503);
    assert_eq!(get(port, "/api/v1/query?query=up").unwrap().0, 503);
    let metrics = get(port, "/metrics").unwrap().1;
    assert!(String::from_utf8_lossy(&metrics).contains("thanos_objstore_bucket_operations_total{bucket="));
    let begin = Instant::now();
    assert!(query.terminate());
    assert!(begin.elapsed().as_secs() < 20, "it waits for the bucket");
}
