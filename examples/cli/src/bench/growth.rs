//! What costs grow with: the same steps at any number of series, each by its unit; and series that come and go.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use narthex::fs::Env;
use narthex::head::HeadOptions;
use narthex::model::{MatchOp, Matcher, TimeRange};
use narthex::testkit::{STEP_MS, T0, Workload};
use serde_json::json;

use super::lap::{Lap, cpu};
use super::{Part, Size, open};
use crate::CommandResult;

/// Series that are selected in all, to time it: enough that giving back what replay needed, which falls to whoever
/// allocates next, does not count.
const SELECTED: usize = 2_000_000;

/// How many series come and go, and how often.
#[derive(Debug, Args)]
pub(crate) struct Churn {
    /// How many series are new in a round, and gone in the next but one.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// How many rounds.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// The data directory.
    #[arg(long)]
    dir: std::path::PathBuf,
}

/// Creates the series, appends to them, reads the log back and selects: one line, CPU nanoseconds a unit.
pub(super) fn growth(env: &Env, size: &Size) -> CommandResult {
    let head = open(env, &size.dir)?;
    let mut part = Part::new(Workload::part(0..size.series), size.no_refs);
    let series = size.series as f64;
    let a_unit = |time: Duration, units: f64| time.as_nanos() as f64 / units.max(1.0);

    let lap = Lap::start(env)?;
    let mut begun = cpu();
    let mut took = || {
        let now = cpu();
        now.saturating_sub(std::mem::replace(&mut begun, now))
    };
    part.step(&head);
    let create = a_unit(took(), series);
    for _ in 1..size.samples {
        part.step(&head);
    }
    let append = a_unit(took(), series * (size.samples.saturating_sub(1)) as f64);
    part.outcome?;
    drop((part.workload, part.labels, part.references));
    head.close()?;
    drop(head);

    took();
    let head = open(env, &size.dir)?;
    let replay = a_unit(took(), size.work());

    let matchers = [
        Matcher::equal("__name__", "app_metric_007_total"),
        Matcher::new(MatchOp::Regex, "namespace", "ns-1.*")?,
        Matcher::new(MatchOp::NotEqual, "code", "0")?,
    ];
    // Values are sorted once after a change.
    let reader = head.reader(TimeRange::ALL);
    let first = reader.select(&matchers)?.len();
    // As many series whatever there are: a few dozen are selected faster than the clock can tell.
    let rounds = (SELECTED / first.max(1)).max(20);
    took();
    let mut selected = 0;
    for _ in 0..rounds {
        selected += reader.select(&matchers)?.len();
    }
    let select = a_unit(took(), selected as f64);
    let units = json!({
        "series": size.series, "samples": size.samples, "selected": first,
        "create_ns": create, "append_ns": append, "replay_ns": replay, "select_ns": select,
        "counted_bytes_per_series": head.stats().bytes as f64 / series,
    });
    lap.done("growth", size.work(), units)
}

/// Every round new series take the place of the last one's, two hours later; what is before is forgotten. A line a round.
pub(super) fn churn(env: &Env, churn: &Churn) -> CommandResult {
    let head = open(env, &churn.dir)?;
    let span = HeadOptions::default().chunk_range;
    for round in 0..churn.rounds {
        let start = T0 + span * i64::try_from(round)?;
        let lap = Lap::start(env)?;
        let workload = Workload::part(round * churn.series..(round + 1) * churn.series);
        for labels in workload.labels().chunks(500) {
            let mut appender = head.appender();
            for labels in labels {
                let reference = appender.append(None, labels, start, 1.0)?;
                appender.append(Some(reference), labels, start + STEP_MS, 2.0)?;
            }
            appender.commit()?;
        }
        drop(workload);
        head.truncate(start)?;
        head.collect();
        let stats = head.stats();
        let more = json!({
            "round": round, "series": stats.series, "label_pairs": stats.label_pairs,
            "counted_mib": stats.bytes as f64 / f64::from(1 << 20),
            "longest_hold_ms": stats.longest_hold.as_secs_f64() * 1e3, "longest_hold_for": stats.longest_hold_for,
            "longest_work_ms": stats.longest_work.as_secs_f64() * 1e3, "longest_work_for": stats.longest_work_for,
        });
        lap.done("churn", churn.series as f64, more)?;
    }
    head.close()?;
    remove(env, &churn.dir)
}

fn remove(env: &Env, dir: &Path) -> CommandResult {
    Ok(env.fs.remove_dir_all(dir)?)
}
