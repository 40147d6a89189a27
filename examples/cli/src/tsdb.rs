//! `narthex tsdb …`: what lies in a data directory or a block.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use narthex::block::{Block, BlockMeta, BlockRead, Ulid, is_block};
use narthex::budget::Budget;
use narthex::db::{Options, ReadOnlyDb};
use narthex::fs::{Env, Fs};
use narthex::head::FloatEncoding;
use narthex::model::{Labels, Matcher, TimeRange};
use narthex::promql::parse_selector;
use narthex::query::{BlockSource, SelectRequest, Source, merge_sets, series_samples};
use narthex::testkit::jsonl;

use crate::analyze::{self, Wanted};
use crate::{CommandResult, backfill, openmetrics, upkeep, verify};

/// Data directories and blocks on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Blocks of text: history from elsewhere, to be put into a data directory.
    #[command(subcommand)]
    CreateBlocksFrom(backfill::Format),
    /// The chunks of a block, one JSON line a series.
    Chunks {
        /// The block's directory.
        block: PathBuf,
    },
    /// The samples of a data directory or a block, one series after another in label order. Nothing is written.
    Dump {
        /// A data directory (blocks and WAL), or one block.
        dir: PathBuf,
        /// Only series that pass this selector; may be given several times, then any of them.
        #[arg(long = "match", value_name = "SELECTOR")]
        matches: Vec<String>,
        /// Only samples from this time on, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = i64::MIN, hide_default_value = true, allow_negative_numbers = true)]
        min_time: i64,
        /// Only samples up to this time, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = i64::MAX, hide_default_value = true, allow_negative_numbers = true)]
        max_time: i64,
        /// What to print.
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        /// The directory's owner keeps no start timestamps of histograms, though its log has them: a Prometheus that keeps those
        /// of floats, without the feature histograms-st-encoding.
        #[arg(long)]
        no_histogram_starts: bool,
    },
    /// The blocks of a data directory, oldest first.
    List {
        /// The data directory.
        dir: PathBuf,
    },
    /// What the series of a block are made of: names, values and metrics with most of everything, as promtool prints it.
    Analyze {
        /// The data directory, or one block.
        dir: PathBuf,
        /// Which block; the newest.
        block: Option<String>,
        /// How many lines a list has.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Only series that pass this selector.
        #[arg(long = "match", value_name = "SELECTOR")]
        matches: Option<String>,
        /// Also the bytes of each metric's chunks, which are read for it.
        #[arg(long)]
        bytes: bool,
    },
    /// Merges the blocks of a data directory as a server does, until there is nothing to do.
    Compact(upkeep::Compact),
    /// Deletes samples from a data directory: they are hidden at once, and gone when their block is next written.
    Delete {
        /// The data directory.
        dir: PathBuf,
        /// The series that pass this selector; may be given several times, then any of them.
        #[arg(long = "match", value_name = "SELECTOR", required = true)]
        matches: Vec<String>,
        /// Only samples from this time on, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = i64::MIN, hide_default_value = true, allow_negative_numbers = true)]
        min_time: i64,
        /// Only samples up to this time, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = i64::MAX, hide_default_value = true, allow_negative_numbers = true)]
        max_time: i64,
    },
    /// Writes the blocks again of which something is deleted.
    CleanTombstones {
        /// The data directory.
        dir: PathBuf,
    },
    /// A copy of a data directory as it is now.
    Snapshot(upkeep::Snapshot),
    /// Checks every sum, order and reference of every block and of every coarser copy, and reads the logs and the head's
    /// chunks through; ends with exit code 1 if anything is damaged. Nothing is written.
    Verify {
        /// A data directory, or one block.
        dir: PathBuf,
    },
}

/// What `dump` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON line a series.
    Jsonl,
    /// OpenMetrics text; histograms are left out, as the text has no form for them.
    Openmetrics,
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> CommandResult {
    let env = Env::real();
    let fs = &*env.fs;
    match command {
        Command::CreateBlocksFrom(format) => backfill::run(&env, &format),
        Command::Chunks { block } => chunks(fs, &block),
        Command::Dump { dir, matches, min_time, max_time, format, no_histogram_starts } => {
            let owner = match no_histogram_starts {
                true => Options { start_timestamps: true, float_encoding: FloatEncoding::Xor2, ..Options::default() },
                false => Options::default(),
            };
            dump(&env, &dir, &owner, &selectors(&matches)?, TimeRange::new(min_time, max_time), format)
        }
        Command::List { dir } => list(fs, &dir),
        Command::Analyze { dir, block, limit, matches, bytes } => {
            let matchers = matches.as_ref().map(|text| selectors(std::slice::from_ref(text))).transpose()?;
            let selector = matches.as_deref().zip(matchers.and_then(|mut matchers| matchers.pop()));
            let mut out = output();
            let wanted = Wanted { selector, limit, bytes };
            analyze::analyze(fs, &one_block(fs, &dir, block.as_deref())?, &wanted, &mut out)?;
            Ok(out.flush()?)
        }
        Command::Compact(wanted) => upkeep::compact(&env, &wanted),
        Command::Delete { dir, matches, min_time, max_time } => {
            if min_time > max_time {
                return Err(format!("--min-time {min_time} is after --max-time {max_time}").into());
            }
            upkeep::delete(&env, &dir, &selectors(&matches)?, TimeRange::new(min_time, max_time))
        }
        Command::CleanTombstones { dir } => upkeep::clean_tombstones(&env, &dir),
        Command::Snapshot(wanted) => upkeep::snapshot(&env, &wanted),
        Command::Verify { dir } => verify::verify(&env, &dir),
    }
}

/// Whether `dir` is a block, or has the name of one: that of which `meta.json` is lost is a broken block, and no data directory.
pub(crate) fn is_named_block(fs: &dyn Fs, dir: &Path) -> Result<bool, Box<dyn Error>> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_dir = fs.stat(dir).map_err(|error| format!("{}: {error}", dir.display()))?.is_some_and(|stat| stat.is_dir);
    Ok(is_block(fs, dir)? || is_dir && Ulid::from_string(name).is_ok())
}

/// The blocks of a data directory by name, whatever is in them; a block's own directory is a list of one.
pub(crate) fn block_dirs(fs: &dyn Fs, dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if is_named_block(fs, dir)? {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = fs.list(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let named = entries.into_iter().filter(|entry| entry.is_dir && Ulid::from_string(&entry.name).is_ok());
    Ok(named.map(|entry| dir.join(entry.name)).collect())
}

/// The block of that name, or the newest.
fn one_block(fs: &dyn Fs, dir: &Path, name: Option<&str>) -> Result<PathBuf, Box<dyn Error>> {
    let Some(name) = name else {
        // Names begin with the time when the block was made.
        let mut newest = None;
        for path in block_dirs(fs, dir)? {
            if is_block(fs, &path)? {
                newest = newest.max(Some(path));
            }
        }
        return newest.ok_or_else(|| format!("{}: no blocks", dir.display()).into());
    };
    let path = dir.join(name);
    if is_block(fs, &path)? { Ok(path) } else { Err(format!("{}: no such block", path.display()).into()) }
}

/// Standard output behind a buffer.
pub(crate) fn output() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

fn chunks(fs: &dyn Fs, dir: &Path) -> CommandResult {
    let block = Block::open(fs, dir)?;
    // Thanos's blocks may hold aggregates, which are printed whole.
    let thanos = block.meta().extra.contains_key("thanos");
    let mut out = output();
    let mut line = String::new();
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    for id in block.select(&[])? {
        block.series(id, &mut labels, &mut metas)?;
        let mut raw = Vec::with_capacity(metas.len());
        for meta in &metas {
            let (byte, data) = block.raw_chunk(meta.reference)?;
            raw.push((*meta, byte, data));
        }
        line.clear();
        if thanos {
            jsonl::thanos_chunks_line(&mut line, &labels, block.meta().resolution(), &raw)
                .map_err(|error| format!("{}: {labels}: {error}", dir.display()))?;
        } else {
            let raw: Vec<_> = raw.iter().map(|(meta, byte, data)| (*meta, *byte, &**data)).collect();
            jsonl::chunks_line(&mut line, id, &labels, &raw);
        }
        out.write_all(line.as_bytes())?;
    }
    Ok(out.flush()?)
}

fn selectors(texts: &[String]) -> Result<Vec<Vec<Matcher>>, Box<dyn Error>> {
    if texts.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    let parse = |text: &String| parse_selector(text).map_err(|error| format!("--match {text}: {error}").into());
    texts.iter().map(parse).collect()
}

fn dump(
    env: &Env,
    dir: &Path,
    owner: &Options,
    selectors: &[Vec<Matcher>],
    range: TimeRange,
    format: Format,
) -> CommandResult {
    if is_block(&*env.fs, dir)? {
        let block = Block::open(&*env.fs, dir)?;
        return print_series(&BlockSource::new(Arc::new(block)), selectors, range, format);
    }
    let db = ReadOnlyDb::open_as(env, dir, owner)?;
    print_series(&db.source(), selectors, range, format)?;
    // Whatever can be read is printed first: the rest may be all that a user has.
    let status = db.status();
    let mut damage: Vec<String> =
        status.quarantined.iter().map(|block| format!("{}: {}", block.path.display(), block.reason)).collect();
    damage.extend(status.log_damage.iter().map(ToString::to_string));
    match damage.as_slice() {
        [] => Ok(()),
        _ => Err(format!("not all could be read:\n{}", damage.join("\n")).into()),
    }
}

fn print_series(source: &dyn Source, selectors: &[Vec<Matcher>], range: TimeRange, format: Format) -> CommandResult {
    let budget = Budget::unlimited();
    let select = |matchers: &Vec<Matcher>| source.select(&SelectRequest::new(range, matchers, &budget));
    let mut set = merge_sets(selectors.iter().map(select).collect::<Result<_, _>>()?);
    let mut out = output();
    let mut text = String::new();
    while let Some(series) = set.next()? {
        let samples = series_samples(&series.chunks, range).map_err(|error| format!("{}: {error}", series.labels))?;
        text.clear();
        match format {
            Format::Jsonl => {
                jsonl::samples_line(&mut text, &series.labels, samples.into_iter().map(Ok::<_, io::Error>))?;
            }
            Format::Openmetrics => openmetrics::series(&mut text, &series.labels, &samples),
        }
        out.write_all(text.as_bytes())?;
    }
    if format == Format::Openmetrics {
        out.write_all(b"# EOF\n")?;
    }
    Ok(out.flush()?)
}

fn list(fs: &dyn Fs, dir: &Path) -> CommandResult {
    let (mut metas, mut unreadable) = (Vec::new(), Vec::new());
    let blocks = block_dirs(fs, dir)?;
    for block in &blocks {
        match BlockMeta::read(fs, block) {
            Ok(meta) => metas.push(meta),
            Err(error) => unreadable.push(format!("{}: {error}", block.display())),
        }
    }
    metas.sort_by_key(|meta| (meta.min_time, meta.max_time, meta.ulid));
    let mut out = output();
    writeln!(
        out,
        "{:26}  {:>13}  {:>13}  {:>5}  {:>12}  {:>9}  {:>9}  HINTS",
        "BLOCK", "MIN TIME", "MAX TIME", "LEVEL", "SAMPLES", "CHUNKS", "SERIES"
    )?;
    for meta in metas {
        let BlockMeta { ulid, min_time, max_time, stats, compaction, .. } = meta;
        writeln!(
            out,
            "{:26}  {min_time:>13}  {max_time:>13}  {:>5}  {:>12}  {:>9}  {:>9}  {}",
            ulid.to_string(),
            compaction.level,
            stats.num_samples,
            stats.num_chunks,
            stats.num_series,
            compaction.hints.join(","),
        )?;
    }
    out.flush()?;
    match unreadable.as_slice() {
        [] => Ok(()),
        some => Err(format!("{} of {} blocks cannot be listed:\n{}", some.len(), blocks.len(), some.join("\n")).into()),
    }
}
