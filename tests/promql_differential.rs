//! Our answers beside Prometheus's own, over the same directory.
//!
//! Runs where both are given: `NARTHEX_REFERENCE`, a program that serves Prometheus's query API over a directory (`PROGRAM
//! serve DIR ADDR`; it writes into it), and `NARTHEX_PROMQL_DATA`, directories to ask about, separated by colons, of which
//! copies are made. Without them it says so and passes. `NARTHEX_PROMQL_GENERATED` is how many expressions are made up for each
//! directory, beside the ones that lie in `tests/promql/`.
//!
//! Series, timestamps, warnings, infos and errors must be equal, values to one part in 10^12. A query that is not
//! supported yet is counted, and is no failure.

#![expect(
    clippy::disallowed_methods,
    reason = "this test runs a program beside the library; there is nothing to simulate"
)]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a broken set-up fails the test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use narthex::budget::Budget;
use narthex::db::Db;
use narthex::error::ErrorKind;
use narthex::model::{Labels, Matcher, TimeRange};
use narthex::promql::{Engine, EngineOptions, ParseOptions, SampleValue, Value};
use narthex::query::{SelectRequest, SeriesDecoder, Source};
use serde_json::Value as Json;

/// What an answer says of one series: floats and histograms by time.
#[derive(Debug, Default, PartialEq)]
struct Found {
    floats: Vec<(i64, f64)>,
    /// Count, sum, then the buckets' bounds and counts.
    histograms: Vec<(i64, Vec<f64>)>,
}

#[derive(Debug)]
enum Answer {
    Series { series: BTreeMap<String, Found>, order: Vec<String>, warnings: Vec<String>, infos: Vec<String> },
    Error(String),
    Unsupported(String),
}

struct Reference {
    child: Child,
    address: String,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reference {
    fn start(program: &Path, dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(program).arg("serve").arg(dir).arg(&address).spawn().unwrap();
        let this = Self { child, address };
        for _ in 0..600 {
            if TcpStream::connect(&this.address).is_ok() {
                return this;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the reference does not answer");
    }

    fn post(&self, path: &str, fields: &[(&str, String)]) -> Json {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        let body = body.join("&");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // HTTP/1.0: the answer ends where the connection does.
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let start = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        serde_json::from_slice(&answer[start..]).unwrap()
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn float(json: &Json) -> f64 {
    match json.as_str().unwrap() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        text => text.parse().unwrap(),
    }
}

fn millis(json: &Json) -> i64 {
    (json.as_f64().unwrap() * 1000.0).round() as i64
}

fn histogram(json: &Json) -> Vec<f64> {
    let mut out = vec![float(&json["count"]), float(&json["sum"])];
    for bucket in json["buckets"].as_array().into_iter().flatten() {
        out.push(bucket[0].as_f64().unwrap());
        out.extend([&bucket[1], &bucket[2], &bucket[3]].map(float));
    }
    out
}

fn strings(json: &Json) -> Vec<String> {
    let mut all: Vec<String> =
        json.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect();
    all.sort();
    all
}

fn reference_answer(json: &Json) -> Answer {
    if json["status"] != "success" {
        let text = json["error"].as_str().unwrap().to_owned();
        return Answer::Error(text.replace("invalid parameter \"query\": ", ""));
    }
    let mut series = BTreeMap::new();
    let mut order = Vec::new();
    let data = &json["data"];
    let mut add = |labels: String, found: Found| {
        order.push(labels.clone());
        assert!(series.insert(labels, found).is_none(), "the reference gives a series twice");
    };
    match data["resultType"].as_str().unwrap() {
        "scalar" => add(
            "scalar".into(),
            Found { floats: vec![(millis(&data["result"][0]), float(&data["result"][1]))], ..Found::default() },
        ),
        "string" => add(data["result"][1].as_str().unwrap().to_owned(), Found::default()),
        _ => {
            for entry in data["result"].as_array().unwrap() {
                let labels = Labels::from_pairs(
                    entry["metric"].as_object().unwrap().iter().map(|(n, v)| (n, v.as_str().unwrap())),
                );
                let mut found = Found::default();
                let list = |name: &str| entry[name].as_array().cloned().unwrap_or_default();
                for point in list("values").iter().chain(entry.get("value")) {
                    found.floats.push((millis(&point[0]), float(&point[1])));
                }
                for point in list("histograms").iter().chain(entry.get("histogram")) {
                    found.histograms.push((millis(&point[0]), histogram(&point[1])));
                }
                add(labels.to_string(), found);
            }
        }
    }
    Answer::Series { series, order, warnings: strings(&json["warnings"]), infos: strings(&json["infos"]) }
}

/// A histogram as the API writes it.
fn flat(histogram: &narthex::model::FloatHistogram) -> Vec<f64> {
    let mut out = vec![histogram.count, histogram.sum];
    for bucket in histogram.all_buckets() {
        if bucket.count != 0.0 {
            let edges = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                (false, true) => 0.0,
                (true, false) => 1.0,
                (false, false) => 2.0,
                (true, true) => 3.0,
            };
            out.extend([edges, bucket.lower, bucket.upper, bucket.count]);
        }
    }
    out
}

fn our_answer(result: narthex::error::Result<narthex::promql::QueryResult>) -> Answer {
    let result = match result {
        Ok(result) => result,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Answer::Unsupported(error.to_string()),
        Err(error) => return Answer::Error(error.to_string()),
    };
    let mut series = BTreeMap::new();
    let mut order = Vec::new();
    let mut add = |labels: String, found: Found| {
        order.push(labels.clone());
        assert!(series.insert(labels, found).is_none(), "a series is given twice");
    };
    match result.value {
        Value::Scalar { t, v } => add("scalar".into(), Found { floats: vec![(t, v)], ..Found::default() }),
        Value::String { v, .. } => add(v, Found::default()),
        Value::Vector(samples) => {
            for sample in samples {
                let found = match sample.value {
                    SampleValue::Float(v) => Found { floats: vec![(sample.t, v)], ..Found::default() },
                    SampleValue::Histogram(h) => Found { histograms: vec![(sample.t, flat(&h))], ..Found::default() },
                };
                add(sample.labels.to_string(), found);
            }
        }
        Value::Matrix(all) => {
            for one in all {
                let histograms = one.histograms.iter().map(|(t, histogram)| (*t, flat(histogram))).collect();
                add(one.labels.to_string(), Found { floats: one.floats, histograms });
            }
        }
    }
    Answer::Series { series, order, warnings: result.warnings, infos: result.infos }
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// What differs first, if anything does.
fn difference(ours: &Answer, theirs: &Answer, ordered: bool, made_up: bool) -> Option<String> {
    match (ours, theirs) {
        (Answer::Error(ours), Answer::Error(theirs)) => {
            // Which of several duplicates is found first is up to the order of a Go map.
            let masked = |text: &str| {
                if text.starts_with("found duplicate series") {
                    "found duplicate series".to_owned()
                } else {
                    text.to_owned()
                }
            };
            (masked(ours) != masked(theirs)).then(|| format!("errors differ:\n    ours   {ours}\n    theirs {theirs}"))
        }
        (
            Answer::Series { series: a, order: a_order, warnings: a_warnings, infos: a_infos },
            Answer::Series { series: b, order: b_order, warnings: b_warnings, infos: b_infos },
        ) => {
            if a.keys().ne(b.keys()) {
                let missing: Vec<_> = b.keys().filter(|key| !a.contains_key(*key)).take(3).collect();
                let extra: Vec<_> = a.keys().filter(|key| !b.contains_key(*key)).take(3).collect();
                return Some(format!("{} series, not {}: missing {missing:?}, extra {extra:?}", a.len(), b.len()));
            }
            for (labels, ours) in a {
                let theirs = &b[labels];
                let floats = ours.floats.len() == theirs.floats.len()
                    && ours.floats.iter().zip(&theirs.floats).all(|(a, b)| a.0 == b.0 && close(a.1, b.1));
                if !floats {
                    let at = ours.floats.iter().zip(&theirs.floats).find(|(a, b)| a.0 != b.0 || !close(a.1, b.1));
                    return Some(format!(
                        "{labels}: {} floats, not {}; first {at:?}",
                        ours.floats.len(),
                        theirs.floats.len()
                    ));
                }
                let same = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(*a, *b));
                let histograms = ours.histograms.len() == theirs.histograms.len()
                    && ours.histograms.iter().zip(&theirs.histograms).all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1));
                if !histograms {
                    let at =
                        ours.histograms.iter().zip(&theirs.histograms).find(|(a, b)| a.0 != b.0 || !same(&a.1, &b.1));
                    return Some(format!(
                        "{labels}: {} histograms, not {}; first {at:?}",
                        ours.histograms.len(),
                        theirs.histograms.len()
                    ));
                }
            }
            if ordered && a_order != b_order {
                return Some("the order differs".into());
            }
            // The reference says ten at most, and there may be remarks on series that we need not compute: those that no
            // series of the other side of an operator matches. Where buckets were forced to rise, its count is not one.
            // Of several places with the same remark, which one is told is up to the order of evaluation.
            let masked = |text: &String| {
                let text = text.split(", over ").next().unwrap_or("");
                if made_up { text.rsplit_once(" (").map_or(text, |(text, _)| text).to_owned() } else { text.to_owned() }
            };
            let more = |ours: &[String], theirs: &[String]| {
                let theirs: Vec<String> = theirs.iter().map(masked).collect();
                theirs.len() < 10 && ours.iter().any(|text| !theirs.contains(&masked(text)))
            };
            if more(a_warnings, b_warnings) {
                return Some(format!("warnings {a_warnings:?}, not {b_warnings:?}"));
            }
            if more(a_infos, b_infos) {
                return Some(format!("infos {a_infos:?}, not {b_infos:?}"));
            }
            let fewer = b_warnings.len() + b_infos.len() > a_warnings.len() + a_infos.len();
            (fewer && !made_up && b_warnings.len() < 10 && b_infos.len() < 10)
                .then(|| format!("remarks {a_warnings:?} {a_infos:?}, not {b_warnings:?} {b_infos:?}"))
        }
        (Answer::Error(ours), _) => Some(format!("an error of ours: {ours}")),
        // A mistake among series that need not be computed is not seen.
        (_, Answer::Error(theirs)) if made_up && theirs.contains("same labelset") => None,
        (_, Answer::Error(theirs)) => Some(format!("no error, but theirs: {theirs}")),
        _ => None,
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// splitmix64: the same expressions in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % bound as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// What there is to ask about.
struct Shape {
    names: Vec<String>,
    labels: Vec<String>,
    values: BTreeMap<String, Vec<String>>,
}

impl Shape {
    fn of(source: &dyn Source) -> Self {
        let budget = Budget::unlimited();
        let every = SelectRequest::labels_only(TimeRange::ALL, &[], &budget);
        let names = source.label_values("__name__", &every).unwrap();
        let labels = source.label_names(&every).unwrap();
        let labels: Vec<String> = labels.into_iter().filter(|label| label != "__name__").collect();
        let values = labels.iter().map(|label| (label.clone(), source.label_values(label, &every).unwrap()));
        Self { values: values.collect(), names, labels }
    }

    fn selector(&self, rng: &mut Rng) -> String {
        let mut text = match rng.below(12) {
            0 => format!(
                "{{__name__=~\"{}.*\"",
                &self.names[rng.below(self.names.len())].split('_').take(3).collect::<Vec<_>>().join("_")
            ),
            _ => format!("{}{{", self.names[rng.below(self.names.len())]),
        };
        if rng.below(3) == 0 {
            let label = &self.labels[rng.below(self.labels.len())];
            let values = &self.values[label];
            let value = &values[rng.below(values.len())];
            let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ':');
            let (op, value) = match rng.below(4) {
                0 => ("=", value.clone()),
                1 => ("!=", value.clone()),
                2 if plain => ("=~", format!("{}.*", &value[..value.len() / 2])),
                _ => ("!~", "[a-c].*".to_owned()),
            };
            if !text.ends_with('{') {
                text.push(',');
            }
            text += &format!("{label}{op}{value:?}");
        }
        text + "}"
    }

    fn modifiers(&self, rng: &mut Rng) -> &'static str {
        rng.pick(&["", "", "", "", "", " offset 1m", " offset -30s", " @ start()", " @ end()", " offset 2m"])
    }

    fn grouping(&self, rng: &mut Rng) -> String {
        let mut labels = vec![self.labels[rng.below(self.labels.len())].as_str()];
        if rng.below(2) == 0 {
            labels.push(&self.labels[rng.below(self.labels.len())]);
        }
        if rng.below(8) == 0 {
            labels.push("__name__");
        }
        match rng.below(4) {
            0 => String::new(),
            1 => format!("without ({})", labels.join(", ")),
            _ => format!("by ({})", labels.join(", ")),
        }
    }

    fn window(&self, rng: &mut Rng, depth: usize) -> String {
        let range = rng.pick(&["30s", "1m", "2m", "5m", "7m13s", "10m"]);
        if depth > 0 && rng.below(4) == 0 {
            let step = rng.pick(&["", "15s", "30s", "1m"]);
            return format!("({})[{range}:{step}]{}", self.vector(rng, depth - 1), self.modifiers(rng));
        }
        format!("{}[{range}]{}", self.selector(rng), self.modifiers(rng))
    }

    fn scalar(&self, rng: &mut Rng, depth: usize) -> String {
        match rng.below(8) {
            0 => "time()".into(),
            1 if depth > 0 => format!("scalar({})", self.vector(rng, depth - 1)),
            2 => "-1".into(),
            3 => "0".into(),
            4 => "(2 ^ 3 % 5)".into(),
            _ => rng.pick(&["0.5", "2", "10", "1e3", "Inf", "NaN", "0.99"]).into(),
        }
    }

    fn vector(&self, rng: &mut Rng, depth: usize) -> String {
        if depth == 0 {
            return match rng.below(3) {
                0 => self.over_window(rng, 0),
                _ => format!("{}{}", self.selector(rng), self.modifiers(rng)),
            };
        }
        match rng.below(16) {
            0..=3 => {
                let op = rng.pick(&["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]);
                format!("{op} {} ({})", self.grouping(rng), self.vector(rng, depth - 1))
            }
            4 => {
                // Of equal values, which ones are chosen is up to the order of a Go map, unless they are stored ones.
                let (op, k) = (rng.pick(&["topk", "bottomk"]), rng.pick(&["1", "3", "7"]));
                format!("{op} {} ({k}, {})", self.grouping(rng), self.selector(rng))
            }
            5 => format!(
                "quantile {} ({}, {})",
                self.grouping(rng),
                rng.pick(&["0.5", "0.9", "0", "1.1"]),
                self.vector(rng, depth - 1)
            ),
            6 | 7 => self.over_window(rng, depth - 1),
            8 => {
                let function = rng.pick(&[
                    "abs",
                    "ceil",
                    "floor",
                    "sqrt",
                    "exp",
                    "ln",
                    "log2",
                    "log10",
                    "sgn",
                    "deg",
                    "rad",
                    "sin",
                    "cos",
                    "atan",
                    "tanh",
                    "timestamp",
                    "absent",
                    "sort",
                    "sort_desc",
                    "round",
                    "minute",
                    "hour",
                    "day_of_week",
                    "day_of_year",
                    "year",
                    "days_in_month",
                    "month",
                    "histogram_count",
                    "histogram_sum",
                    "histogram_avg",
                    "histogram_stddev",
                    "-",
                    "+",
                ]);
                format!("{function}({})", self.vector(rng, depth - 1))
            }
            9 => {
                let op = rng.pick(&[
                    "+", "-", "*", "/", "%", "^", "==", "!=", ">", "<", ">=", "<=", "> bool", "== bool", "atan2",
                ]);
                let (vector, scalar) = (self.vector(rng, depth - 1), self.scalar(rng, depth - 1));
                if rng.below(2) == 0 {
                    format!("({vector}) {op} {scalar}")
                } else {
                    format!("{scalar} {op} ({vector})")
                }
            }
            10 | 11 => {
                let op = rng.pick(&["+", "-", "*", "/", "%", ">", "<", "==", "!=", ">= bool", "atan2"]);
                let label = &self.labels[rng.below(self.labels.len())];
                let matching = match rng.below(6) {
                    0 => format!("on ({label})"),
                    1 => format!("ignoring ({label})"),
                    2 => format!("on ({label}) group_left ()"),
                    3 => format!("ignoring ({label}) group_left ()"),
                    4 => format!("on ({label}) group_right ()"),
                    _ => String::new(),
                };
                let left = self.vector(rng, depth - 1);
                let right = if rng.below(2) == 0 { left.clone() } else { self.vector(rng, depth - 1) };
                let right = if matching.contains("group_left") { format!("sum by ({label}) ({right})") } else { right };
                let left = if matching.contains("group_right") { format!("sum by ({label}) ({left})") } else { left };
                format!("({left}) {op} {matching} ({right})")
            }
            12 => {
                let op = rng.pick(&["and", "or", "unless"]);
                let label = &self.labels[rng.below(self.labels.len())];
                let matching = match rng.below(3) {
                    0 => format!("on ({label})"),
                    1 => format!("ignoring ({label})"),
                    _ => String::new(),
                };
                let (left, right) = (self.vector(rng, depth - 1), self.vector(rng, depth - 1));
                format!("({left} > {}) {op} {matching} ({right})", self.scalar(rng, 0))
            }
            13 => {
                let label = &self.labels[rng.below(self.labels.len())];
                format!("label_replace({}, \"new\", \"$1-x\", \"{label}\", \"(.).*\")", self.vector(rng, depth - 1))
            }
            14 => format!("clamp({}, {}, {})", self.vector(rng, depth - 1), self.scalar(rng, 0), self.scalar(rng, 0)),
            _ => format!("histogram_quantile({}, {})", rng.pick(&["0.5", "0.99", "0"]), self.vector(rng, depth - 1)),
        }
    }

    fn over_window(&self, rng: &mut Rng, depth: usize) -> String {
        let window = self.window(rng, depth);
        match rng.below(24) {
            0 => format!("quantile_over_time({}, {window})", rng.pick(&["0.5", "0.9", "0.1"])),
            1 => format!("predict_linear({window}, 600)"),
            2..=8 => format!(
                "{}({window})",
                rng.pick(&["rate", "increase", "delta", "irate", "idelta", "resets", "changes", "deriv"])
            ),
            _ => format!(
                "{}({window})",
                rng.pick(&[
                    "avg_over_time",
                    "sum_over_time",
                    "min_over_time",
                    "max_over_time",
                    "count_over_time",
                    "stddev_over_time",
                    "stdvar_over_time",
                    "last_over_time",
                    "first_over_time",
                    "present_over_time",
                    "absent_over_time",
                    "mad_over_time",
                    "ts_of_min_over_time",
                    "ts_of_max_over_time",
                    "ts_of_last_over_time",
                ])
            ),
        }
    }
}

fn span_of(source: &dyn Source) -> TimeRange {
    let matchers = [Matcher::equal("nosuchlabel", "")];
    let budget = Budget::unlimited();
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &matchers, &budget)).unwrap();
    let mut span = TimeRange::new(i64::MAX, i64::MIN);
    let mut decoder = SeriesDecoder::new();
    for _ in 0..200 {
        let Some(series) = set.next().unwrap() else { break };
        let columns = decoder.decode(&series.chunks, TimeRange::ALL).unwrap();
        for t in columns.t.iter().copied().chain(columns.histograms.iter().map(|(t, _)| *t)) {
            span = TimeRange::new(span.min.min(t), span.max.max(t));
        }
    }
    span
}

#[test]
#[ignore = "needs NARTHEX_REFERENCE and NARTHEX_PROMQL_DATA"]
fn answers_are_prometheus_s_own() {
    let named = |variable| std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set"));
    let (program, data) = (named("NARTHEX_REFERENCE"), named("NARTHEX_PROMQL_DATA"));
    let generated: usize = std::env::var("NARTHEX_PROMQL_GENERATED").map_or(300, |count| count.parse().unwrap());
    let seed: u64 = std::env::var("NARTHEX_PROMQL_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut failures = 0;
    for (number, dir) in std::env::split_paths(&data).enumerate() {
        let scratch =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("promql-{}-{number}", std::process::id()));
        copy(&dir, &scratch);
        let db = Db::open_read_only(&dir).unwrap();
        let source = db.source();
        let reference = Reference::start(Path::new(&program), &scratch);
        failures += compare(&dir, &source, &reference, generated, seed);
        drop(reference);
        std::fs::remove_dir_all(&scratch).unwrap();
    }
    assert_eq!(failures, 0, "answers differ");
}

fn compare(dir: &Path, source: &dyn Source, reference: &Reference, generated: usize, seed: u64) -> usize {
    let span = span_of(source);
    let shape = Shape::of(source);
    let mut rng = Rng(seed);
    let mut expressions: Vec<String> = Vec::new();
    let list = if shape.names.iter().any(|name| name.starts_with("app_metric")) { "workload.txt" } else { "live.txt" };
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql").join(list);
    let text = std::fs::read_to_string(list).unwrap();
    expressions.extend(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned));
    let handwritten = expressions.len();
    expressions.extend((0..generated).map(|index| shape.vector(&mut rng, 1 + index % 4)));
    let options = EngineOptions {
        parse: ParseOptions { duration_expressions: false, ..ParseOptions::default() },
        ..EngineOptions::default()
    };
    let engine = Engine::new(options);
    let (mut failures, mut unsupported, mut errors) = (0, BTreeMap::<String, usize>::new(), 0);
    let total = expressions.len();
    for (index, expression) in expressions.iter().enumerate() {
        let middle = span.min + (span.max - span.min) * (1 + index as i64 % 7) / 8 / 1000 * 1000;
        let start = span.min + (span.max - span.min) / 6 / 1000 * 1000;
        let end = span.max + 60_000;
        let step = [15_000, 30_000, 60_000, 300_000, 7_000][index % 5].max((end - start) / 150_000 * 1000).max(1000);
        let seconds = |t: i64| format!("{}", t as f64 / 1000.0);
        let ours = our_answer(engine.instant(source, expression, middle, &Budget::unlimited()));
        let theirs = reference_answer(
            &reference.post("/api/v1/query", &[("query", expression.clone()), ("time", seconds(middle))]),
        );
        let ordered = expression.starts_with("sort");
        let made_up = index >= handwritten;
        let instant =
            difference(&ours, &theirs, ordered, made_up).map(|text| format!("at {}: {text}", seconds(middle)));
        let mut kinds = vec![ours];
        let range = {
            let ours = our_answer(engine.range(source, expression, start, end, step, &Budget::unlimited()));
            let fields = [
                ("query", expression.clone()),
                ("start", seconds(start)),
                ("end", seconds(end)),
                ("step", seconds(step)),
            ];
            let theirs = reference_answer(&reference.post("/api/v1/query_range", &fields));
            let text = difference(&ours, &theirs, false, made_up);
            kinds.push(ours);
            text.map(|text| format!("from {} to {} step {}: {text}", seconds(start), seconds(end), seconds(step)))
        };
        for kind in kinds {
            match kind {
                Answer::Unsupported(text) => *unsupported.entry(text).or_default() += 1,
                Answer::Error(_) => errors += 1,
                Answer::Series { .. } => {}
            }
        }
        for text in instant.into_iter().chain(range) {
            failures += 1;
            println!("{expression}\n  {text}");
        }
    }
    println!(
        "{}: {total} expressions, {failures} differ, {errors} agreed errors, not supported yet: {unsupported:?}",
        dir.display()
    );
    failures
}
