//! A real Prometheus scrapes, sends what it scraped to the receiver, and the receiver answers what Prometheus would.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "common/answers.rs"]
mod answers;
#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use answers::{QUERIES, compare, copy};
use common::{Program, Scratch, api, free_port};
use serde_json::Value;

const STEP: &str = "5";

fn find(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin").join(name);
    path.exists().then_some(path)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Every sample of every series in `(start, end]`, as text: `labels` without the sender's external ones, `[t, "v"]`.
fn everything(port: u16, start: f64, end: f64) -> BTreeMap<String, Vec<String>> {
    let window = format!("{{__name__=~\".+\"}}[{}ms]", ((end - start) * 1000.0) as i64 + 1);
    let data = api(port, "query", &[("query", &window), ("time", &format!("{end:.3}"))]);
    let mut all = BTreeMap::new();
    for series in data["result"].as_array().unwrap() {
        let labels = series["metric"].as_object().unwrap().iter().filter(|(name, _)| *name != "cluster");
        let labels: BTreeMap<_, _> = labels.collect();
        let points = series["values"].as_array().unwrap().iter();
        // Whether a window's first millisecond is in it changed between versions of Prometheus.
        let points = points.filter(|point| point[0].as_f64().unwrap() > start + 0.01).map(Value::to_string);
        all.insert(format!("{labels:?}"), points.collect());
    }
    all.retain(|_, points: &mut Vec<String>| !points.is_empty());
    all
}

#[test]
#[ignore = "needs Debian's prometheus and prometheus-node-exporter, and NARTHEX_REFERENCE; takes a minute and a half"]
fn what_prometheus_sends_is_answered_as_prometheus_would() {
    let prometheus = find("prometheus").expect("Debian's prometheus is installed");
    let node_exporter = find("prometheus-node-exporter").expect("Debian's prometheus-node-exporter is installed");
    let reference = std::env::var_os("NARTHEX_REFERENCE").expect("NARTHEX_REFERENCE names the program");
    let scratch = Scratch::new("prometheus");
    let dir = scratch.0.as_path();
    let receiver = Program::receiver(dir, &[]);

    let node_port = free_port();
    let mut command = Command::new(node_exporter);
    command.arg(format!("--web.listen-address=127.0.0.1:{node_port}"));
    let node = Program::start(command, node_port, &dir.join("node.log"));
    node.wait_for("/metrics");

    let port = free_port();
    let config = format!(
        "global: {{scrape_interval: 1s, external_labels: {{cluster: test}}}}\n\
         scrape_configs:\n\
         - {{job_name: prometheus, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n\
         - {{job_name: node, static_configs: [{{targets: ['127.0.0.1:{node_port}']}}]}}\n\
         - {{job_name: receiver, static_configs: [{{targets: ['127.0.0.1:{receiver}']}}]}}\n\
         remote_write:\n\
         - url: http://127.0.0.1:{receiver}/api/v1/write\n  \
           queue_config: {{batch_send_deadline: 1s, min_shards: 2, max_shards: 4}}\n",
        receiver = receiver.port
    );
    std::fs::write(dir.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new(prometheus);
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let sender = Program::start(command, port, &dir.join("prometheus.log"));
    sender.wait_for("/-/ready");
    let begin = now();
    std::thread::sleep(Duration::from_secs(60));

    // The window begins when all targets are scraped and ends a while ago: nothing of it is still under way for long.
    let (start, end) = (begin + 5.0, now() - 5.0);
    let sent = everything(sender.port, start, end);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut received = everything(receiver.port, start, end);
    while received != sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        received = everything(receiver.port, start, end);
    }
    let count = |all: &BTreeMap<String, Vec<String>>| (all.len(), all.values().map(Vec::len).sum::<usize>());
    assert_eq!(count(&received), count(&sent), "series and samples, of the receiver and of the sender");
    for (labels, points) in &sent {
        assert_eq!(received.get(labels), Some(points), "{labels}");
    }
    assert!(sent.len() > 500, "only {} series", sent.len());

    for job in ["node", "prometheus", "receiver"] {
        let up = format!("up{{job=\"{job}\"}}");
        let data = api(receiver.port, "query", &[("query", &up), ("time", &format!("{end:.3}"))]);
        assert_eq!(data["result"][0]["value"][1].as_str(), Some("1"), "whether Prometheus can scrape the {job}");
    }

    let copied = dir.join("copy");
    copy(&dir.join("data"), &copied);
    let reference_port = free_port();
    let mut command = Command::new(reference);
    command.arg("serve").arg(&copied).arg(format!("127.0.0.1:{reference_port}"));
    let reference = Program::start(command, reference_port, &dir.join("reference.log"));
    reference.wait_for("/api/v1/labels");

    let (start, end) = (format!("{:.3}", end - 40.0), format!("{end:.3}"));
    for query in QUERIES {
        let parameters = [("query", query), ("start", &*start), ("end", &*end), ("step", STEP)];
        let ours = api(receiver.port, "query_range", &parameters);
        let theirs = api(reference.port, "query_range", &parameters);
        let points = compare(query, &ours, &theirs);
        println!("{points:5} points equal: {query}");
    }
    let (series, samples) = count(&sent);
    println!("{series} series with {samples} samples equal to the sender's");
}
