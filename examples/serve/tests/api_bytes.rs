//! The query API's answers are Prometheus's to the byte: recorded from Prometheus's own engine and encoder over a
//! directory that this library wrote, in `testdata/golden/api/answers.jsonl`, a line `["path", "answer"]` each.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Served, served_from, testdata};
use narthex::db::{Db, Options};
use narthex::fs::Env;
use narthex::model::{CounterResetHint, Histogram, Labels, STALE_NAN_BITS, Span};
use serve::Limits;

/// Where the samples begin, in seconds; they are 15 s apart.
const T0: i64 = 1_700_000_000;

const PATHS: [&str; 38] = [
    "query?query=special&time=1700000060",
    "query?query=special&time=1700000030.5",
    "query?query=special[2m]&time=1700000060.123",
    "query?query=absent_metric&time=1700000060",
    "query?query=absent_metric[5m]&time=1700000060",
    "query?query=text&time=1700000060",
    "query?query=native&time=1700000060",
    "query?query=native[1m]&time=1700000060",
    "query?query=gone&time=1700000060",
    "query?query=gone[5m]&time=1700000060",
    "query?query=1&time=1700000060.5",
    "query?query=1e21*10&time=1700000060.123",
    "query?query=-0&time=0",
    "query?query=0/0&time=-1.5",
    "query?query=1/0&time=1700000060",
    "query?query=1e-7&time=1700000060",
    "query?query=%22a%3Cb%3E%26%5C%22%5C%5C%5Cn%22&time=1700000060",
    "query?query=ramp*1e20&time=1700000060",
    "query?query=ramp/1e9&time=1700000060",
    "query?query=sum(ramp)&time=1700000060",
    "query?query=sum+by+(job)(ramp)&time=1700000060",
    "query?query=rate(ramp[1m])&time=1700000060",
    "query?query=histogram_quantile(2,native)&time=1700000060",
    "query?query=ramp%2Bon(job)ramp&time=1700000060",
    "query?query=sum(&time=1700000060",
    "query?query=&time=1700000060",
    "query?query=foo(1)&time=1700000060",
    "query?query=ramp{job%3D~%22(%22}&time=1700000060",
    "query_range?query=ramp&start=1700000000&end=1700000060&step=15",
    "query_range?query=ramp{job%3D%22a%22}&start=1700000000.5&end=1700000060&step=7.5",
    "query_range?query=special&start=1700000000&end=1700000100&step=20",
    "query_range?query=native&start=1700000000&end=1700000060&step=30",
    "query_range?query=1&start=1700000000&end=1700000030&step=15",
    "query_range?query=absent_metric&start=1700000000&end=1700000030&step=15",
    "query_range?query=ramp[1m]&start=1700000000&end=1700000030&step=15",
    "labels?",
    "label/job/values?",
    "series?match[]=ramp&match[]=text",
];

fn fill(db: &Db) {
    let mut appender = db.appender();
    let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e21, 1.5e-9, f64::MAX];
    for step in 0..5i64 {
        let t = (T0 + 15 * step) * 1000;
        for (index, value) in specials.into_iter().enumerate() {
            let labels = Labels::from_pairs([("__name__", "special"), ("number", &index.to_string())]);
            appender.append(None, &labels, t, value).unwrap();
        }
        for (job, factor) in [("a", 1.0), ("b<c>&\"\\\u{2028}é", 0.1)] {
            let labels = Labels::from_pairs([("__name__", "ramp"), ("job", job)]);
            appender.append(None, &labels, t + 123, step as f64 * factor).unwrap();
        }
        let labels = Labels::from_pairs([("__name__", "text"), ("utf8.label", "line\nend\ttab\u{1}"), ("job", "a")]);
        appender.append(None, &labels, t, 42.0).unwrap();
        let labels = Labels::from_pairs([("__name__", "gone")]);
        let value = if step == 4 { f64::from_bits(STALE_NAN_BITS) } else { 7.0 };
        appender.append(None, &labels, t, value).unwrap();
        let histogram = Histogram {
            counter_reset_hint: CounterResetHint::Unknown,
            schema: 1,
            zero_threshold: 0.001,
            zero_count: 2,
            count: 9 + 4 * step.cast_unsigned(),
            sum: 18.4 + step as f64,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            negative_spans: vec![Span { offset: -1, length: 1 }],
            positive_buckets: vec![1 + step, 2, -2],
            negative_buckets: vec![2 + step],
            custom_values: Vec::new(),
        };
        let labels = Labels::from_pairs([("__name__", "native")]);
        appender.append_histogram(None, &labels, t, histogram).unwrap();
    }
    assert_eq!(appender.commit().unwrap().lost, 0);
}

fn filled() -> Served {
    let (env, _machine) = Env::simulated(3);
    let served = served_from(&env, Limits::default(), Options { future_bound: None, ..Options::default() });
    fill(&served.db);
    served
}

fn recorded() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(testdata("golden/api/answers.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn answers_are_those_of_prometheus_to_the_byte() {
    let served = filled();
    let recorded = recorded();
    assert_eq!(recorded.len(), PATHS.len());
    for (path, answer) in recorded {
        let ours = served.get(&format!("/api/v1/{path}")).await;
        assert_eq!(ours.text(), answer, "{path}");
        let (endpoint, form) = path.split_once('?').unwrap();
        if !endpoint.starts_with("label/") {
            let ours = served.form(&format!("/api/v1/{endpoint}"), form).await;
            assert_eq!(ours.text(), answer, "{path}, as a form");
        }
    }
}

/// Asks the reference, once it is there.
fn ask(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let path = path.replace('"', "%22");
    write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

#[test]
#[ignore = "needs NARTHEX_REFERENCE; with NARTHEX_RECORD it writes the answers anew"]
fn what_is_recorded_is_what_prometheus_answers() {
    let reference = std::env::var_os("NARTHEX_REFERENCE").expect("NARTHEX_REFERENCE names the program");
    let dir = std::env::temp_dir().join(format!("narthex-api-{}", std::process::id()));
    let db = Db::open(&dir, Options { future_bound: None, ..Options::default() }).unwrap();
    fill(&db);
    db.close().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(reference);
    command.arg("serve").arg(&dir).arg(format!("127.0.0.1:{port}")).stderr(Stdio::null());
    let mut program = command.spawn().unwrap();
    let waited = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        ask(port, "labels?").is_some()
    });
    let answers: Vec<_> = PATHS.iter().map(|path| ((*path).to_owned(), ask(port, path).unwrap_or_default())).collect();
    program.kill().unwrap();
    program.wait().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(waited, "the reference did not answer");
    if std::env::var_os("NARTHEX_RECORD").is_some() {
        let lines: Vec<_> = answers.iter().map(|answer| serde_json::to_string(answer).unwrap() + "\n").collect();
        write_file(&testdata("golden/api/answers.jsonl"), &lines.concat());
    }
    for (ours, theirs) in recorded().into_iter().zip(answers) {
        assert_eq!(ours, theirs);
    }
}

fn write_file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
