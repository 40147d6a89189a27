//! The ten queries, and whether two answers to one are the same.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// One of each kind that a dashboard is made of.
pub(crate) const QUERIES: [&str; 10] = [
    "rate(prometheus_http_requests_total[15s])",
    "sum by (mode) (rate(node_cpu_seconds_total[20s]))",
    "avg_over_time(node_memory_MemAvailable_bytes[20s])",
    "histogram_quantile(0.9, sum by (le, handler) (rate(prometheus_http_request_duration_seconds_bucket[30s])))",
    "topk(3, node_filesystem_size_bytes + node_filesystem_files)",
    "rate(node_cpu_seconds_total[20s]) * on (instance) group_left (nodename, release) node_uname_info",
    "{__name__=~\"node_memory_.+_bytes\", job!~\"prom.*\"}",
    "increase(prometheus_tsdb_head_samples_appended_total[15s] offset 10s)",
    "max_over_time(deriv(process_resident_memory_bytes[10s])[30s:5s])",
    "count by (job, __name__) ({job=~\".+\"})",
];

/// Copies a directory and all below it.
pub(crate) fn copy(from: &Path, to: &Path) {
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

/// The series of a matrix by their labels.
fn matrix(data: &Value) -> BTreeMap<String, &Vec<Value>> {
    let result = data["result"].as_array().unwrap().iter();
    result.map(|series| (series["metric"].to_string(), series["values"].as_array().unwrap())).collect()
}

fn equal(a: &str, b: &str) -> bool {
    let (a, b): (f64, f64) = (a.parse().unwrap(), b.parse().unwrap());
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// Compares two matrices; how many points they have.
pub(crate) fn compare(query: &str, ours: &Value, theirs: &Value) -> usize {
    let (ours, theirs) = (matrix(ours), matrix(theirs));
    let names = |matrix: &BTreeMap<String, &Vec<Value>>| matrix.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "series of {query}");
    assert!(!ours.is_empty(), "nothing is found for {query}");
    let mut points = 0;
    for (labels, values) in ours {
        let others = theirs[&labels];
        let times = |values: &Vec<Value>| values.iter().map(|point| point[0].to_string()).collect::<Vec<_>>();
        assert_eq!(times(values), times(others), "times of {query} for {labels}");
        for (a, b) in values.iter().zip(others) {
            let (x, y) = (a[1].as_str().unwrap(), b[1].as_str().unwrap());
            assert!(equal(x, y), "{query} for {labels} at {}: {x}, Prometheus says {y}", a[0]);
            points += 1;
        }
    }
    points
}
