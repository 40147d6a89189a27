//! `narthex bench`: the workload of the figures, step by step, one JSON line a step.
//!
//! The same series and values are driven through the peers, whose programs print the same keys, so that two lines can be
//! divided by each other. Rates are given by the wall and by the CPU second; memory is what `/proc` says after the step,
//! `anon_mib` being the part that is not a mapped file.

mod growth;
mod lap;
mod merge;
mod queries;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use narthex::block::Block;
use narthex::budget::Budget;
use narthex::compact::write_block;
use narthex::fs::Env;
use narthex::head::{Head, HeadOptions, SeriesRef};
use narthex::model::{Labels, MatchOp, Matcher, TimeRange};
use narthex::query::{BlockSource, SelectRequest, SeriesDecoder, Source};
use narthex::testkit::{T0, TARGET, Workload};
use narthex::wal::{Compression, Durability, LogOptions};
use serde_json::json;

use self::lap::Lap;
use crate::{CommandResult, bytes_below};

/// The steps that can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Appends all samples to a new directory, one commit for each target's 500, and closes it.
    Append(Size),
    /// Opens the directory, reading its log back.
    Replay(Size),
    /// Opens the directory, writes its head's first two hours as a block and forgets them in the head.
    Headcompact(Size),
    /// Opens the directory and writes every full two hours of its head as a block.
    Blocks(Size),
    /// Merges all blocks of the directory into one and leaves it beside them; `work` is how many there were.
    Compact {
        /// The data directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Reads every sample of the directory's first block.
    Scan(Size),
    /// Five selections of labels from the first block, each 20 times.
    Select(Size),
    /// Creates series, appends to them, reads the log back and selects: what each costs a unit, to compare numbers of
    /// series.
    Growth(Size),
    /// Series that come and go, a line a round: memory, and how long a lock was held for it.
    Churn(growth::Churn),
    /// The ten range queries of the figures, or one's own, over the directory: each twice, in process. `wall_s` is the
    /// second time, `first_s` the first, `work` the samples that were read.
    Query(queries::Queries),
}

/// How much, and where.
#[derive(Debug, Args)]
pub(crate) struct Size {
    /// How many series.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// How many samples a series.
    #[arg(long, default_value_t = 480)]
    samples: usize,
    /// The data directory.
    #[arg(long)]
    dir: PathBuf,
    /// Look labels up for each sample instead of keeping references.
    #[arg(long)]
    no_refs: bool,
    /// How many threads append, each its own targets; they meet after every forty samples of a series.
    #[arg(long, default_value_t = 1)]
    appenders: usize,
}

impl Size {
    fn work(&self) -> f64 {
        self.series as f64 * self.samples as f64
    }
}

/// Runs the command.
pub(crate) fn run(command: Command) -> CommandResult {
    let env = Env::real();
    match command {
        Command::Append(size) => append(&env, &size),
        Command::Replay(size) => {
            let lap = Lap::start(&env)?;
            let head = open(&env, &size.dir)?;
            let series = head.series_count();
            let a_series = |bytes: f64| bytes / series.max(1) as f64;
            let live = json!({
                "series": series,
                "live_bytes_per_series": a_series(lap.anon_since()?),
                "counted_bytes_per_series": a_series(head.stats().bytes as f64),
            });
            lap.done("replay", size.work(), live)
        }
        Command::Headcompact(size) => headcompact(&env, &size),
        Command::Blocks(size) => merge::blocks(&env, &size),
        Command::Growth(size) => growth::growth(&env, &size),
        Command::Churn(churn) => growth::churn(&env, &churn),
        Command::Compact { dir } => merge::compact(&env, &dir),
        Command::Query(asked) => queries::run(&env, &asked),
        Command::Scan(size) => scan(&env, &size),
        Command::Select(size) => select(&env, &size),
    }
}

/// The head of the directory. As the peers run it: the log uncompressed, synced by the system alone, any time taken.
fn open(env: &Env, dir: &Path) -> narthex::error::Result<Arc<Head>> {
    let options = HeadOptions { future_bound: None, ..HeadOptions::default() };
    let log = LogOptions { compression: Compression::None, durability: Durability::Never, ..LogOptions::default() };
    env.fs.create_dir_all(dir)?;
    Ok(Head::open(env, dir, options, log, i64::MIN)?.0)
}

/// Bytes of full chunks that wait in memory.
const MAX_WAITING: u64 = 32 << 20;
/// After so many samples of a series appenders wait for each other: an hour ahead, and the others would be too late.
const TOGETHER: usize = 40;

fn append(env: &Env, size: &Size) -> CommandResult {
    if env.fs.stat(&size.dir)?.is_some() {
        return Err(format!("{} exists: give a directory that does not", size.dir.display()).into());
    }
    let head = open(env, &size.dir)?;
    let targets = size.series.div_ceil(TARGET);
    let share = targets.div_ceil(size.appenders.max(1)).max(1) * TARGET;
    let mut parts: Vec<Part> = (0..size.series)
        .step_by(share)
        .map(|first| Part::new(Workload::part(first..size.series.min(first + share)), size.no_refs))
        .collect();
    let lap = Lap::start(env)?;
    let (ours, moves) = (&head, &AtomicBool::new(false));
    for done in (0..size.samples).step_by(TOGETHER) {
        let steps = TOGETHER.min(size.samples - done);
        let task = |part| Box::new(move || run_steps(ours, part, steps, moves)) as Box<dyn FnOnce() + Send>;
        env.executor.join_all(parts.iter_mut().map(task).collect());
    }
    for part in &mut parts {
        std::mem::replace(&mut part.outcome, Ok(()))?;
    }
    let wal = bytes_below(env, &size.dir.join("wal"))? as f64 / size.work();
    lap.done("append", size.work(), json!({ "wal_bytes_per_sample": wal }))?;
    let lap = Lap::start(env)?;
    head.map_full_chunks()?;
    head.close()?;
    lap.done("close", size.work(), json!({}))
}

/// Appends so many samples of all series of a part. Whoever finds that much waits moves full chunks to the disk, as a
/// database's maintenance does, and Prometheus as it appends.
fn run_steps(head: &Arc<Head>, part: &mut Part, steps: usize, moves: &AtomicBool) {
    for _ in 0..steps {
        part.step(head);
        if head.waiting_bytes() > MAX_WAITING && !moves.swap(true, Ordering::AcqRel) {
            let moved = head.map_full_chunks();
            moves.store(false, Ordering::Release);
            if let Err(error) = moved {
                part.outcome = Err(error);
            }
        }
    }
}

/// What one thread appends.
struct Part {
    workload: Workload,
    labels: Vec<Labels>,
    references: Vec<Option<SeriesRef>>,
    no_refs: bool,
    outcome: narthex::error::Result<()>,
}

impl Part {
    fn new(workload: Workload, no_refs: bool) -> Self {
        let labels = workload.labels().to_vec();
        Self { references: vec![None; labels.len()], workload, labels, no_refs, outcome: Ok(()) }
    }

    /// Appends the next sample of all its series.
    fn step(&mut self, head: &Arc<Head>) {
        if self.outcome.is_err() {
            return;
        }
        let Self { workload, labels, references, no_refs, .. } = self;
        self.outcome = workload.step(|t, first, values| {
            let mut appender = head.appender();
            let known = references.iter_mut().skip(first).zip(labels.iter().skip(first));
            for (value, (reference, labels)) in values.iter().zip(known) {
                let kept = if *no_refs { None } else { *reference };
                *reference = Some(appender.append(kept, labels, t, *value)?);
            }
            appender.commit().map(drop)
        });
    }
}

fn headcompact(env: &Env, size: &Size) -> CommandResult {
    let head = open(env, &size.dir)?;
    let end = T0 + HeadOptions::default().chunk_range;
    let lap = Lap::start(env)?;
    let range = head.range_head(TimeRange::new(T0, end - 1));
    let meta = write_block(env, &size.dir, &range, T0..end, &[], &Budget::unlimited())?;
    let meta = meta.ok_or("the head is empty")?;
    drop(range);
    let block = Block::open(env.fs.as_ref(), &size.dir.join(meta.ulid.to_string()))?;
    head.truncate(end)?;
    let samples = size.work();
    let bytes = json!({ "block_bytes": block.size(), "bytes_per_sample": block.size() as f64 / samples });
    lap.done("headcompact", samples, bytes)
}

fn first_block(env: &Env, dir: &Path) -> Result<Block, Box<dyn std::error::Error>> {
    for entry in env.fs.list(dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir && narthex::block::is_block(env.fs.as_ref(), &path)? {
            return Ok(Block::open(env.fs.as_ref(), &path)?);
        }
    }
    Err(format!("{}: no block there", dir.display()).into())
}

fn scan(env: &Env, size: &Size) -> CommandResult {
    let source = BlockSource::new(Arc::new(first_block(env, &size.dir)?));
    let matchers = [Matcher::new(MatchOp::Regex, "__name__", ".+")?];
    let budget = Budget::unlimited();
    let mut decoder = SeriesDecoder::new();
    let (mut samples, mut series, mut sum) = (0_usize, 0_u64, 0.0);
    let lap = Lap::start(env)?;
    let mut set = source.select(&SelectRequest::new(TimeRange::ALL, &matchers, &budget))?;
    while let Some(one) = set.next()? {
        let columns = decoder.decode(&one.chunks, TimeRange::ALL)?;
        series += 1;
        samples += columns.len();
        sum += lanes(&columns.v);
    }
    lap.done("scan", samples as f64, json!({ "series": series, "sum": sum }))
}

/// A sum in eight lanes: one addition that waits for the one before would be a tenth of what is measured.
fn lanes(values: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, value)| *sum += value);
    }
    sums.iter().chain(rest).sum()
}

fn select(env: &Env, size: &Size) -> CommandResult {
    let source = BlockSource::new(Arc::new(first_block(env, &size.dir)?));
    let equal = |name, value| Ok(Matcher::equal(name, value));
    let with = Matcher::new;
    let sets = [
        vec![equal("__name__", "app_metric_007_total")],
        vec![with(MatchOp::Regex, "pod", "pod-1.*"), equal("code", "3")],
        vec![with(MatchOp::Regex, "pod", ".*-[0-9a-f]*7f.*")],
        vec![
            with(MatchOp::Regex, "namespace", "ns-1|ns-2|ns-30"),
            with(MatchOp::NotEqual, "code", "0"),
            with(MatchOp::NotRegex, "job", "job-1.*"),
        ],
        vec![equal("cluster", "cluster-3"), with(MatchOp::NotEqual, "code", "")],
    ];
    let budget = Budget::unlimited();
    for matchers in sets {
        let matchers = matchers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let text: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        let mut series = 0_u64;
        let lap = Lap::start(env)?;
        for _ in 0..20 {
            let mut set = source.select(&SelectRequest::labels_only(TimeRange::ALL, &matchers, &budget))?;
            while let Some(one) = set.next()? {
                series += u64::from(!one.labels.is_empty());
            }
        }
        lap.done("select", series as f64, json!({ "m": text.join(",") }))?;
    }
    Ok(())
}
