//! `ls` and `inspect`: what lies in a bucket, in lines and tables.

use std::io::Write;

use chrono::{DateTime, SecondsFormat};
use clap::{Args, ValueEnum};
use narthex::fs::Env;
use narthex::model::Matcher;
use serde_json::{Value, json};

use super::listing::{Listed, Meta, list};
use super::table::{Form, Table, thousands};
use super::{Objstore, print, selector};
use crate::CommandResult;
use crate::progress::size;

/// What of the bucket is listed, and how.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    store: Objstore,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = LsForm::Text)]
    output: LsForm,
    /// Leaves out blocks that are marked for deletion.
    #[arg(long)]
    exclude_delete: bool,
}

/// How `ls` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LsForm {
    /// The names of whole blocks; of others the standard error tells.
    Text,
    /// A line a block, for people.
    Wide,
    /// A table.
    Table,
    /// A JSON object a block.
    Json,
}

pub(super) fn ls(env: &Env, command: &Ls) -> CommandResult {
    let (_runtime, bucket) = command.store.open(env)?;
    let mut blocks = list(&bucket)?;
    blocks.retain(|block| !command.exclude_delete || block.deletion().is_none());
    let mut text = String::new();
    match command.output {
        LsForm::Text => {
            for block in &blocks {
                match &block.meta {
                    Ok(_) => text += &format!("{}\n", block.ulid),
                    Err(partial) => crate::warn(format_args!("{}: {partial}", block.ulid)),
                }
            }
        }
        LsForm::Wide => text.extend(blocks.iter().map(wide)),
        LsForm::Json => text.extend(blocks.iter().map(|block| format!("{}\n", described(block)))),
        LsForm::Table => {
            let rows = blocks.iter().map(row).collect();
            let header =
                vec!["ULID", "FROM", "UNTIL", "LEVEL", "RESOLUTION", "#SERIES", "#SAMPLES", "SIZE", "LABELS", "MARKS"];
            text = Table { header, rows }.text(Form::Table);
        }
    }
    print(|out| out.write_all(text.as_bytes()))
}

fn row(block: &Listed) -> Vec<String> {
    let marks = block.mark_names().join(", ");
    match &block.meta {
        Ok(meta) => vec![
            block.ulid.to_string(),
            rfc3339(meta.block.min_time),
            rfc3339(meta.block.max_time),
            meta.block.compaction.level.to_string(),
            go_duration(meta.thanos.downsample.resolution),
            thousands(meta.block.stats.num_series),
            thousands(meta.block.stats.num_samples),
            size(block.size()),
            meta.labels(),
            marks,
        ],
        Err(partial) => {
            let mut cells = vec![String::new(); 10];
            let own =
                [(0, block.ulid.to_string()), (7, size(block.size())), (8, format!("PARTIAL: {partial}")), (9, marks)];
            for (at, text) in own {
                if let Some(cell) = cells.get_mut(at) {
                    *cell = text;
                }
            }
            cells
        }
    }
}

fn wide(block: &Listed) -> String {
    let marks: String = block.mark_names().iter().map(|mark| format!(", Mark: {mark}")).collect();
    match &block.meta {
        Ok(Meta { block: meta, thanos }) => format!(
            "{} -- {} - {} Diff: {}, Compaction: {}, Downsample: {}, Source: {}{marks}\n",
            block.ulid,
            rfc3339(meta.min_time),
            rfc3339(meta.max_time),
            go_duration(meta.max_time - meta.min_time),
            meta.compaction.level,
            thanos.downsample.resolution,
            thanos.source,
        ),
        Err(partial) => format!("{} -- partial: {partial}{marks}\n", block.ulid),
    }
}

/// A block as a JSON object; see the command's help for its keys.
fn described(block: &Listed) -> Value {
    let mut line = json!({ "block": block.ulid.to_string() });
    let more = match &block.meta {
        Ok(Meta { block: meta, thanos }) => json!({
            "min_time": meta.min_time,
            "max_time": meta.max_time,
            "level": meta.compaction.level,
            "resolution_ms": thanos.downsample.resolution,
            "labels": thanos.labels,
            "source": thanos.source,
            "series": meta.stats.num_series,
            "samples": meta.stats.num_samples,
            "chunks": meta.stats.num_chunks,
        }),
        Err(partial) => json!({ "partial": partial.to_string() }),
    };
    let marks: serde_json::Map<_, _> =
        block.mark_names().iter().zip(block.marks.values()).map(|(name, at)| ((*name).to_owned(), json!(at))).collect();
    let last = json!({ "files": block.files.len(), "bytes": block.size(), "marks": marks });
    if let Value::Object(line) = &mut line {
        for part in [more, last] {
            if let Value::Object(part) = part {
                line.extend(part);
            }
        }
    }
    line
}

/// What of the bucket is inspected, and how.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    store: Objstore,
    /// Only blocks whose external labels match; may be given several times, then all of them.
    #[arg(long, short = 'l', value_name = "KEY=\"VALUE\"")]
    selector: Vec<String>,
    /// The columns to sort by.
    #[arg(long, value_name = "COLUMN", default_values = ["FROM", "UNTIL"])]
    sort_by: Vec<String>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = InspectForm::Table)]
    output: InspectForm,
}

/// How `inspect` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectForm {
    /// A table; also called text.
    #[value(alias = "text")]
    Table,
    /// Separated by commas.
    Csv,
    /// Separated by tabs.
    Tsv,
    /// A JSON object a block, as `ls` writes it.
    Json,
}

pub(super) fn inspect(env: &Env, command: &Inspect) -> CommandResult {
    let selectors: Vec<Vec<Matcher>> = command.selector.iter().map(|text| selector(text)).collect::<Result<_, _>>()?;
    let (_runtime, bucket) = command.store.open(env)?;
    let mut blocks = list(&bucket)?;
    for block in &blocks {
        if let Err(partial) = &block.meta {
            crate::warn(format_args!("{}: {partial}", block.ulid));
        }
    }
    let selected = |meta: &Meta| {
        let value = |name: &str| meta.thanos.labels.get(name).map_or("", |value| value.as_str());
        selectors.iter().flatten().all(|matcher| matcher.matches(value(matcher.name())))
    };
    blocks.retain(|block| block.meta.as_ref().is_ok_and(selected));
    let form = match command.output {
        InspectForm::Table => Form::Table,
        InspectForm::Csv => Form::Csv,
        InspectForm::Tsv => Form::Tsv,
        InspectForm::Json => {
            return print(|out| blocks.iter().try_for_each(|block| writeln!(out, "{}", described(block))));
        }
    };
    let header = vec![
        "ULID",
        "FROM",
        "UNTIL",
        "RANGE",
        "UNTIL-DOWN",
        "#SERIES",
        "#SAMPLES",
        "#CHUNKS",
        "COMP-LEVEL",
        "COMP-FAILED",
        "LABELS",
        "RESOLUTION",
        "SOURCE",
    ];
    let rows = blocks.iter().filter_map(|block| block.meta.as_ref().ok()).map(inspected).collect();
    let mut table = Table { header, rows };
    table.sort_by(&command.sort_by)?;
    let text = table.text(form);
    print(|out| out.write_all(text.as_bytes()))
}

fn inspected(meta: &Meta) -> Vec<String> {
    let Meta { block, thanos } = meta;
    let resolution = thanos.downsample.resolution;
    let range = block.max_time - block.min_time;
    let labels = thanos.labels.iter().map(|(name, value)| format!("{name}={value}"));
    vec![
        block.ulid.to_string(),
        rfc3339(block.min_time),
        rfc3339(block.max_time),
        go_duration(range),
        until_downsampling(resolution, range),
        thousands(block.stats.num_series),
        thousands(block.stats.num_samples),
        thousands(block.stats.num_chunks),
        block.compaction.level.to_string(),
        block.compaction.failed.to_string(),
        labels.collect::<Vec<_>>().join(","),
        go_duration(resolution),
        thanos.source.clone(),
    ]
}

/// By how much a block must still grow until Thanos makes one of the next coarser resolution of it.
fn until_downsampling(resolution: i64, range: i64) -> String {
    const HOUR: i64 = 3_600_000;
    match resolution {
        0 => go_duration(40 * HOUR - range),
        300_000 => go_duration(240 * HOUR - range),
        _ => "-".to_owned(),
    }
}

/// A time in milliseconds, in UTC, to the second.
fn rfc3339(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms.div_euclid(1000) * 1000);
    time.map_or_else(|| ms.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Milliseconds as Go writes a duration: `40h0m0s`, `1.5s`, `-8h0m0s`.
fn go_duration(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    let all = ms.unsigned_abs();
    let (hours, minutes, rest) = (all / 3_600_000, all / 60_000 % 60, all % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    match (hours, minutes, rest) {
        (0, 0, 0) => "0s".to_owned(),
        (0, 0, 1..1000) => format!("{sign}{rest}ms"),
        (0, 0, _) => format!("{sign}{}{point}{fraction}s", rest / 1000),
        (0, _, _) => format!("{sign}{minutes}m{}{point}{fraction}s", rest / 1000),
        _ => format!("{sign}{hours}h{minutes}m{}{point}{fraction}s", rest / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let texts = [0, 12, 1500, 300_000, 7_200_000, -28_800_000, 3_600_001].map(go_duration);
        assert_eq!(texts, ["0s", "12ms", "1.5s", "5m0s", "2h0m0s", "-8h0m0s", "1h0m0.001s"]);
    }

    #[test]
    fn times_are_utc_and_whole_seconds() {
        assert_eq!(rfc3339(1_699_488_000_999), "2023-11-09T00:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }
}
