//! The program's own metrics, under Prometheus's names where the meaning is the same, so that existing dashboards and
//! alerts work.

use std::fmt::{Display, Write};

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::storage::Gauges;

/// Which handler answered, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandlerLabels {
    handler: &'static str,
    code: u16,
}

/// Which handler answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandlerLabel {
    handler: &'static str,
}

/// What became of samples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    outcome: &'static str,
}

type Labelled<L> = Family<L, Counter>;
type Timings = Family<HandlerLabel, Histogram, fn() -> Histogram>;

/// Writes metrics that somebody else counts, as [`counter`], [`gauge`] and [`family`] do.
pub type Collector = Box<dyn Fn(&mut String) + Send + Sync>;

/// Counters that handlers raise.
pub struct Metrics {
    registry: Registry,
    collectors: RwLock<Vec<Collector>>,
    requests: Labelled<HandlerLabels>,
    durations: Timings,
    samples: Labelled<OutcomeLabel>,
    queries: Gauge<i64>,
}

fn request_durations() -> Histogram {
    Histogram::new([0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        // The registry ends each help text with a full stop of its own.
        let mut registry = Registry::default();
        let requests = Labelled::default();
        registry.register("prometheus_http_requests", "Counter of HTTP requests", requests.clone());
        let durations = Timings::new_with_constructor(request_durations);
        registry.register(
            "prometheus_http_request_duration_seconds",
            "Histogram of latencies for HTTP requests",
            durations.clone(),
        );
        let samples = Labelled::default();
        registry.register(
            "narthex_remote_write_samples",
            "Samples received by remote write, by what became of them",
            samples.clone(),
        );
        let queries = Gauge::default();
        registry.register(
            "prometheus_engine_queries",
            "The current number of queries being executed or waiting",
            queries.clone(),
        );
        Self { registry, collectors: RwLock::default(), requests, durations, samples, queries }
    }

    /// Shows what `collector` writes, too.
    pub fn add(&self, collector: Collector) {
        self.collectors.write().push(collector);
    }

    /// Counts an answered request.
    pub fn answered(&self, handler: &'static str, code: u16, seconds: f64) {
        self.requests.get_or_create(&HandlerLabels { handler, code }).inc();
        self.durations.get_or_create(&HandlerLabel { handler }).observe(seconds);
    }

    /// Counts what became of samples that were pushed.
    pub fn wrote(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            self.samples.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
    }

    /// Notes that a query runs, until the guard is dropped.
    #[must_use]
    pub fn query(&self) -> impl Drop + use<> {
        self.queries.inc();
        Running(self.queries.clone())
    }

    /// Everything as OpenMetrics text, with what the storage and the machine say now.
    #[must_use]
    pub fn text(&self, storage: Option<Gauges>, version: &str) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail, and metrics that are not there are seen by whoever looks for them.
        let _ = prometheus_client::encoding::text::encode_registry(&mut out, &self.registry);
        gauge(&mut out, "prometheus_ready", "Whether the storage is open.", f64::from(u8::from(storage.is_some())));
        let _ = writeln!(
            out,
            "# HELP prometheus_build_info Which version runs.\n# TYPE prometheus_build_info gauge\nprometheus_build_info{{version={version:?}}} 1"
        );
        if let Some(storage) = storage {
            let seconds = |t: Option<i64>| t.map_or(0.0, |t| t as f64);
            gauge(&mut out, "prometheus_tsdb_head_series", "Series in memory.", storage.head_series as f64);
            counter(
                &mut out,
                "prometheus_tsdb_head_series_created",
                "Series created.",
                storage.head_series_created as f64,
            );
            counter(
                &mut out,
                "prometheus_tsdb_head_series_removed",
                "Series removed.",
                storage.head_series_removed as f64,
            );
            gauge(&mut out, "prometheus_tsdb_head_chunks", "Chunks in memory.", storage.head_chunks as f64);
            counter(
                &mut out,
                "prometheus_tsdb_head_samples_appended",
                "Samples appended.",
                storage.head_samples as f64,
            );
            gauge(
                &mut out,
                "prometheus_tsdb_head_min_time",
                "The oldest sample in memory, in milliseconds.",
                seconds(storage.head_min_time),
            );
            gauge(
                &mut out,
                "prometheus_tsdb_head_max_time",
                "The newest sample in memory, in milliseconds.",
                seconds(storage.head_max_time),
            );
            gauge(&mut out, "prometheus_tsdb_blocks_loaded", "Blocks on disk.", storage.blocks as f64);
            gauge(
                &mut out,
                "prometheus_tsdb_storage_blocks_bytes",
                "Bytes of the blocks on disk.",
                storage.block_bytes as f64,
            );
        }
        for collect in self.collectors.read().iter() {
            collect(&mut out);
        }
        process(&mut out);
        // The registry ends its text; what is written here stands before that end.
        let mut out = out.replace("# EOF\n", "");
        out.push_str("# EOF\n");
        out
    }
}

struct Running(Gauge<i64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Writes a gauge.
pub fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

/// Writes a counter; `name` without the `_total` that it is shown with.
pub fn counter(out: &mut String, name: &str, help: &str, value: f64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name}_total {value}");
}

/// Writes a counter, `name` without its `_total`, or a gauge for each of `rows`: labels and value.
pub fn family<V: Display>(
    out: &mut String,
    kind: Kind,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Vec<(&'static str, String)>, V)>,
) {
    let (kind, suffix) = match kind {
        Kind::Counter => ("counter", "_total"),
        Kind::Gauge => ("gauge", ""),
    };
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in rows {
        let labels: Vec<String> =
            labels.into_iter().map(|(name, value)| format!("{name}={}", quoted(&value))).collect();
        let _ = writeln!(out, "{name}{suffix}{{{}}} {value}", labels.join(","));
    }
}

/// What kind of metric a [`family`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// A label's value as the exposition formats quote it.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// What the system says of this process: the names that every Prometheus client library uses.
fn process(out: &mut String) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The second field is the program's name in brackets and may hold spaces: count from behind it.
    let Some((_, fields)) = stat.rsplit_once(')') else { return };
    let fields: Vec<f64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number).copied().unwrap_or(0.0);
    // Linux counts time for user space in hundredths of a second, whatever the kernel's own tick is.
    counter(
        out,
        "process_cpu_seconds",
        "Total user and system CPU time spent in seconds.",
        (field(11) + field(12)) / 100.0,
    );
    gauge(out, "process_virtual_memory_bytes", "Virtual memory size in bytes.", field(20));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    gauge(out, "process_resident_memory_bytes", "Resident memory size in bytes.", resident.unwrap_or(0.0) * 1024.0);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    gauge(out, "process_open_fds", "Number of open file descriptors.", files as f64);
}
