//! Queries over a directory, in process: each twice, as the figures are of the second time.

use std::path::{Path, PathBuf};

use clap::Args;
use narthex::budget::Budget;
use narthex::db::ReadOnlyDb;
use narthex::fs::Env;
use narthex::promql::{Engine, QueryResult, Value};
use narthex::testkit::T0;
use serde_json::json;

use super::lap::Lap;
use crate::CommandResult;

/// The queries of the figures.
const QUERIES: &str = include_str!("../../../../benches/peers/queries.txt");
/// From the first sample to the last query step of the figures, milliseconds.
const SPAN_MS: i64 = 7_185_000;

/// What is asked, of what.
#[derive(Debug, Args)]
pub(crate) struct Queries {
    /// The data directory.
    #[arg(long)]
    dir: PathBuf,
    /// Range queries, `STEP IN SECONDS|EXPRESSION` a line, instead of the ten of the figures.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// The first step's time, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = T0)]
    start: i64,
    /// The time that no step is after, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = T0 + SPAN_MS)]
    end: i64,
}

pub(super) fn run(env: &Env, asked: &Queries) -> CommandResult {
    let text = match &asked.queries {
        Some(file) => read(env, file)?,
        None => QUERIES.to_owned(),
    };
    let db = ReadOnlyDb::open_with(env, &asked.dir)?;
    let engine = Engine::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let parts = line.split_once('|').and_then(|(step, query)| Some((step.parse::<i64>().ok()?, query)));
        let (step, query) = parts.ok_or_else(|| format!("line {}: not STEP|EXPRESSION: {line}", number + 1))?;
        let ask = || engine.range(&db.source(), query, asked.start, asked.end, step * 1000, &Budget::unlimited());
        let lap = Lap::start(env)?;
        drop(ask()?);
        let first = lap.seconds();
        let lap = Lap::start(env)?;
        let answer = ask()?;
        let (series, points) = shape(&answer);
        let more = json!({ "query": query, "first_s": first, "series": series, "points": points });
        lap.done("query", answer.stats.samples as f64, more)?;
    }
    Ok(())
}

fn read(env: &Env, file: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let bytes = env.fs.read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(String::from_utf8(bytes).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// How many series an answer has, and how many points in all of them.
fn shape(answer: &QueryResult) -> (usize, usize) {
    match &answer.value {
        Value::Matrix(series) => (series.len(), series.iter().map(|one| one.floats.len() + one.histograms.len()).sum()),
        Value::Vector(samples) => (samples.len(), samples.len()),
        Value::Scalar { .. } | Value::String { .. } => (1, 1),
    }
}
