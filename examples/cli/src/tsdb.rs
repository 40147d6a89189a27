//! `narthex tsdb …`: what lies in a data directory or a block.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use narthex::block::{Block, BlockMeta, BlockRead, is_block};
use narthex::chunk::samples;
use narthex::fs::{Env, Fs};
use narthex::model::{Labels, Matcher, Sample, TimeRange};
use narthex::testkit::jsonl;

use crate::{CommandResult, openmetrics};

/// Data directories and blocks on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    },
    /// The blocks of a data directory, oldest first.
    List {
        /// The data directory.
        dir: PathBuf,
    },
    /// Checks every sum, order and reference of every block; ends with exit code 1 if one is damaged.
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
        Command::Chunks { block } => chunks(fs, &block),
        Command::Dump { dir, matches, min_time, max_time, format } => {
            dump(fs, &dir, &selectors(&matches)?, TimeRange::new(min_time, max_time), format)
        }
        Command::List { dir } => list(fs, &dir),
        Command::Verify { dir } => verify(fs, &dir),
    }
}

/// The blocks of a data directory, by time; a block's own directory is a list of one.
fn blocks(fs: &dyn Fs, dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if is_block(fs, dir)? {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = fs.list(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries.into_iter().filter(|entry| entry.is_dir && entry.name.len() == 26) {
        let path = dir.join(&entry.name);
        if is_block(fs, &path)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Standard output behind a buffer.
fn output() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

fn chunks(fs: &dyn Fs, dir: &Path) -> CommandResult {
    let block = Block::open(fs, dir)?;
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
        let raw: Vec<_> = raw.iter().map(|(meta, byte, data)| (*meta, *byte, &**data)).collect();
        line.clear();
        jsonl::chunks_line(&mut line, id, &labels, &raw);
        out.write_all(line.as_bytes())?;
    }
    Ok(out.flush()?)
}

fn selectors(texts: &[String]) -> Result<Vec<Vec<Matcher>>, Box<dyn Error>> {
    match texts {
        [] => Ok(vec![Vec::new()]),
        _ => Err("--match: not supported yet".into()),
    }
}

fn dump(fs: &dyn Fs, dir: &Path, selectors: &[Vec<Matcher>], range: TimeRange, format: Format) -> CommandResult {
    if !is_block(fs, dir)? {
        return Err(
            format!("{}: not a block (no meta.json); data directories: not supported yet", dir.display()).into()
        );
    }
    let block = Block::open(fs, dir)?;
    let mut out = output();
    let mut text = String::new();
    let (mut labels, mut metas) = (Labels::empty(), Vec::new());
    let mut ids = Vec::new();
    for matchers in selectors {
        ids.extend(block.select(matchers)?);
    }
    ids.sort();
    ids.dedup();
    for id in ids {
        block.series(id, &mut labels, &mut metas)?;
        let deleted = block.tombstones(id);
        let mut found: Vec<Sample> = Vec::new();
        for meta in metas.iter().filter(|meta| meta.min_time <= range.max && range.min <= meta.max_time) {
            let chunk = block.chunk(meta)?;
            for sample in samples(chunk.encoding, &chunk.data) {
                let sample = sample.map_err(|error| format!("{}: {labels}: {error}", dir.display()))?;
                if range.contains(sample.t) && !deleted.iter().any(|span| span.contains(sample.t)) {
                    found.push(sample);
                }
            }
        }
        text.clear();
        match format {
            Format::Jsonl => jsonl::samples_line(&mut text, &labels, found.into_iter().map(Ok::<_, io::Error>))?,
            Format::Openmetrics => openmetrics::series(&mut text, &labels, &found),
        }
        out.write_all(text.as_bytes())?;
    }
    if format == Format::Openmetrics {
        out.write_all(b"# EOF\n")?;
    }
    Ok(out.flush()?)
}

fn list(fs: &dyn Fs, dir: &Path) -> CommandResult {
    let mut metas: Vec<BlockMeta> =
        blocks(fs, dir)?.iter().map(|block| BlockMeta::read(fs, block)).collect::<Result<_, _>>()?;
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
    Ok(out.flush()?)
}

fn verify(fs: &dyn Fs, dir: &Path) -> CommandResult {
    let mut out = output();
    let mut damaged = 0;
    let blocks = blocks(fs, dir)?;
    for path in &blocks {
        match Block::open(fs, path).and_then(|block| block.verify().map(|()| block)) {
            Ok(block) => {
                let stats = &block.meta().stats;
                let (series, chunks) = (stats.num_series, stats.num_chunks);
                writeln!(out, "{}: good, {series} series, {chunks} chunks", path.display())?;
            }
            Err(error) => {
                damaged += 1;
                writeln!(out, "{}: DAMAGED: {error}", path.display())?;
            }
        }
    }
    out.flush()?;
    match damaged {
        0 => Ok(()),
        _ => Err(format!("{damaged} of {} blocks are damaged", blocks.len()).into()),
    }
}
