//! `narthex tsdb create-blocks-from …`: text becomes blocks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use narthex::compact::{BulkOptions, BulkWriter};
use narthex::fs::{Env, ReadAt};
use narthex::model::{CounterResetHint, FloatHistogram, Histogram, Labels, Sample, Span, Value};
use narthex::wire::{OpenMetricsLine, parse_openmetrics_line};
use serde_json::Value as Json;

use crate::CommandResult;

/// Bytes that a line may have.
const LONGEST_LINE: u64 = 1 << 30;
/// Spans of a block: two hours times a power of three, as Prometheus merges them.
const SHORTEST_BLOCK: i64 = 2 * 60 * 60 * 1000;

/// What the text is.
#[derive(Debug, Subcommand)]
pub(crate) enum Format {
    /// OpenMetrics text with a time on each line, ending in `# EOF`. Exemplars are left out.
    Openmetrics(Backfill),
    /// What `tsdb dump` prints.
    Jsonl(Backfill),
}

/// From where to where.
#[derive(Debug, Args)]
pub(crate) struct Backfill {
    /// The text.
    file: PathBuf,
    /// The directory that the blocks are put into.
    out: PathBuf,
    /// The longest span of a block, in hours: the largest of 2, 6, 18, 54… that is not longer is taken.
    #[arg(long, value_name = "HOURS", default_value_t = 2)]
    max_block_duration: u32,
}

/// Runs one of them.
pub(crate) fn run(env: &Env, format: &Format) -> CommandResult {
    let (backfill, read): (_, fn(&mut Lines, &mut BulkWriter) -> CommandResult) = match format {
        Format::Openmetrics(backfill) => (backfill, openmetrics),
        Format::Jsonl(backfill) => (backfill, jsonl),
    };
    let longest = i64::from(backfill.max_block_duration) * 60 * 60 * 1000;
    let durations = std::iter::successors(Some(SHORTEST_BLOCK), |duration| Some(duration * 3));
    let block_duration = durations.take_while(|duration| *duration <= longest.max(SHORTEST_BLOCK)).last();
    let options = BulkOptions {
        block_duration: block_duration.unwrap_or(SHORTEST_BLOCK),
        start_timestamps: true,
        ..BulkOptions::default()
    };
    let mut lines = Lines::open(env, &backfill.file)?;
    let mut writer = BulkWriter::create(env, &backfill.out, options)?;
    read(&mut lines, &mut writer)?;
    let mut out = io::stdout().lock();
    for meta in writer.finish()? {
        let stats = &meta.stats;
        writeln!(
            out,
            "{}  {}  {}  {} series  {} samples",
            meta.ulid, meta.min_time, meta.max_time, stats.num_series, stats.num_samples
        )?;
    }
    Ok(())
}

/// A file, read from its beginning.
struct FromStart {
    file: Box<dyn ReadAt>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file's lines, with their place for errors.
struct Lines {
    name: String,
    reader: BufReader<FromStart>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    fn open(env: &Env, path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let name = path.display().to_string();
        let file = env.fs.open_read(path).map_err(|error| format!("{name}: {error}"))?;
        let reader = BufReader::with_capacity(1 << 20, FromStart { file, at: 0 });
        Ok(Self { name, reader, number: 0, line: Vec::new() })
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<&str>, Box<dyn std::error::Error>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut self.line);
        if read.map_err(|error| format!("{}: {error}", self.name))? == 0 {
            return Ok(None);
        }
        if self.line.len() as u64 == LONGEST_LINE {
            return Err(self.error("the line is too long"));
        }
        match str::from_utf8(&self.line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(format!("{}:{}: {error}", self.name, self.number).into()),
        }
    }

    fn error(&self, error: impl std::fmt::Display) -> Box<dyn std::error::Error> {
        format!("{}:{}: {error}", self.name, self.number).into()
    }
}

fn openmetrics(lines: &mut Lines, writer: &mut BulkWriter) -> CommandResult {
    let (mut exemplars, mut ended) = (0_u64, false);
    loop {
        let line = match lines.next()? {
            None => break,
            Some(line) => parse_openmetrics_line(line),
        };
        if ended {
            return Err(lines.error("something stands behind # EOF"));
        }
        match line.map_err(|error| lines.error(error))? {
            OpenMetricsLine::Comment => {}
            OpenMetricsLine::End => ended = true,
            OpenMetricsLine::Sample(sample) => {
                let Some(t) = sample.t else { return Err(lines.error("the sample has no time")) };
                exemplars += u64::from(sample.has_exemplar);
                writer.append(&sample.labels, &Sample::float(t, sample.value)).map_err(|error| lines.error(error))?;
            }
        }
    }
    if !ended {
        return Err(lines.error("the text does not end with # EOF: it may have been cut"));
    }
    if exemplars > 0 {
        crate::warn(format_args!("{exemplars} exemplars are left out: a block has none"));
    }
    Ok(())
}

fn jsonl(lines: &mut Lines, writer: &mut BulkWriter) -> CommandResult {
    loop {
        let Some(line) = lines.next()? else { return Ok(()) };
        if line.trim().is_empty() {
            continue;
        }
        let line: Json = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => return Err(lines.error(error)),
        };
        let Some(labels) = labels(&line) else { return Err(lines.error("no \"labels\" as `tsdb dump` prints them")) };
        for json in line.get("samples").and_then(Json::as_array).into_iter().flatten() {
            let Some(sample) = sample(json) else {
                return Err(lines.error(format_args!("{json} is no sample as `tsdb dump` prints it")));
            };
            writer.append(&labels, &sample).map_err(|error| lines.error(error))?;
        }
    }
}

fn labels(line: &Json) -> Option<Labels> {
    let pairs = line.get("labels")?.as_array()?.iter();
    let pairs: Option<Vec<_>> = pairs.map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?))).collect();
    Some(Labels::from_pairs(pairs?))
}

fn sample(json: &Json) -> Option<Sample> {
    let t = json.get(0)?.as_i64()?;
    let st = json.get(2).map_or(Some(0), |more| more.get("st")?.as_i64())?;
    let value = match json.get(1)? {
        Json::Object(histogram) if histogram.get("float")?.as_bool()? => {
            Value::FloatHistogram(Box::new(float_histogram(json.get(1)?)?))
        }
        Json::Object(_) => Value::Histogram(Box::new(histogram(json.get(1)?)?)),
        value => Value::Float(float(value)?),
    };
    Some(Sample { t, st, value })
}

/// A float's bits in hexadecimal.
fn float(json: &Json) -> Option<f64> {
    u64::from_str_radix(json.as_str()?, 16).ok().map(f64::from_bits)
}

fn count<T: std::str::FromStr>(json: &Json) -> Option<T> {
    json.as_str()?.parse().ok()
}

fn list<T>(json: &Json, key: &str, item: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
    match json.get(key) {
        None | Some(Json::Null) => Some(Vec::new()),
        Some(list) => list.as_array()?.iter().map(item).collect(),
    }
}

fn spans(json: &Json, key: &str) -> Option<Vec<Span>> {
    list(json, key, |span| {
        let offset = span.get(0)?.as_i64()?.try_into().ok()?;
        Some(Span { offset, length: span.get(1)?.as_u64()?.try_into().ok()? })
    })
}

fn hint(json: &Json) -> Option<CounterResetHint> {
    Some(match json.get("counter_reset_hint")?.as_str()? {
        "unknown" => CounterResetHint::Unknown,
        "reset" => CounterResetHint::CounterReset,
        "not_reset" => CounterResetHint::NotCounterReset,
        "gauge" => CounterResetHint::Gauge,
        _ => return None,
    })
}

fn histogram(json: &Json) -> Option<Histogram> {
    let deltas = |key| {
        let counts: Vec<i64> = list(json, key, count)?;
        let mut last = 0_i64;
        Some(counts.into_iter().map(|count| count.wrapping_sub(std::mem::replace(&mut last, count))).collect())
    };
    Some(Histogram {
        counter_reset_hint: hint(json)?,
        schema: json.get("schema")?.as_i64()?.try_into().ok()?,
        zero_threshold: float(json.get("zero_threshold")?)?,
        zero_count: count(json.get("zero_count")?)?,
        count: count(json.get("count")?)?,
        sum: float(json.get("sum")?)?,
        positive_spans: spans(json, "positive_spans")?,
        negative_spans: spans(json, "negative_spans")?,
        positive_buckets: deltas("positive_buckets")?,
        negative_buckets: deltas("negative_buckets")?,
        custom_values: list(json, "custom_values", float)?,
    })
}

fn float_histogram(json: &Json) -> Option<FloatHistogram> {
    Some(FloatHistogram {
        counter_reset_hint: hint(json)?,
        schema: json.get("schema")?.as_i64()?.try_into().ok()?,
        zero_threshold: float(json.get("zero_threshold")?)?,
        zero_count: float(json.get("zero_count")?)?,
        count: float(json.get("count")?)?,
        sum: float(json.get("sum")?)?,
        positive_spans: spans(json, "positive_spans")?,
        negative_spans: spans(json, "negative_spans")?,
        positive_buckets: list(json, "positive_buckets", float)?,
        negative_buckets: list(json, "negative_buckets", float)?,
        custom_values: list(json, "custom_values", float)?,
    })
}
