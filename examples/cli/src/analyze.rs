//! `narthex tsdb analyze`: what a block's series are made of, in the words and the layout of `promtool tsdb analyze`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use narthex::block::{Block, BlockRead, metric_usage};
use narthex::budget::Budget;
use narthex::fs::Fs;
use narthex::model::{Labels, METRIC_NAME, Matcher};

use crate::CommandResult;

/// What to print.
pub(crate) struct Wanted<'a> {
    /// The text of the selector, and what it means.
    pub(crate) selector: Option<(&'a str, Vec<Matcher>)>,
    /// Lines a list.
    pub(crate) limit: usize,
    /// Whether to read all chunks for their bytes.
    pub(crate) bytes: bool,
}

/// Prints it of the block in `dir`.
pub(crate) fn analyze(fs: &dyn Fs, dir: &Path, wanted: &Wanted<'_>, out: &mut dyn Write) -> CommandResult {
    let block = Block::open(fs, dir)?;
    let meta = block.meta();
    let span = meta.max_time.saturating_sub(meta.min_time).max(1).unsigned_abs();
    writeln!(out, "Block ID: {}", meta.ulid)?;
    writeln!(out, "Duration: {}", go_duration(span))?;
    writeln!(out, "Total Series: {}", meta.stats.num_series)?;
    let matchers = match &wanted.selector {
        Some((text, matchers)) => {
            writeln!(out, "Matcher: {text}")?;
            matchers.as_slice()
        }
        None => &[],
    };
    let selected = block.select(matchers)?;

    let mut names: BTreeMap<String, Name> = BTreeMap::new();
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    for id in &selected {
        block.series(*id, &mut labels, &mut chunks)?;
        let covered = match (chunks.first(), chunks.last()) {
            (Some(first), Some(last)) => last.max_time.saturating_sub(first.min_time).unsigned_abs(),
            _ => 0,
        };
        let uncovered = span.saturating_sub(covered);
        for (name, value) in &labels {
            // Most series bring no new name, and many no new value.
            let name = match names.get_mut(name) {
                Some(known) => known,
                None => names.entry(name.to_owned()).or_default(),
            };
            name.uncovered += u128::from(uncovered);
            let value = match name.values.get_mut(value) {
                Some(known) => known,
                None => name.values.entry(value.to_owned()).or_default(),
            };
            value.series += 1;
            value.uncovered += u128::from(uncovered);
        }
    }
    writeln!(out, "Label names: {}", names.len())?;
    if wanted.selector.is_some() {
        writeln!(out, "Matched series: {}", selected.len())?;
    }
    let values = || names.values().flat_map(|name| name.values.values());
    writeln!(out, "Postings (unique label pairs): {}", values().count())?;
    writeln!(out, "Postings entries (total label pairs): {}", values().map(|value| value.series).sum::<u64>())?;

    let pairs = || {
        let of = |(name, all): (&'_ String, &'_ Name)| -> Vec<(String, Value)> {
            all.values.iter().map(|(value, counts)| (format!("{name}={value}"), *counts)).collect()
        };
        names.iter().flat_map(of)
    };
    let missed = |uncovered: u128| u64::try_from(uncovered / u128::from(span)).unwrap_or(u64::MAX);
    let mut list = |title: &str, counts: Vec<(String, u64)>| print_list(out, title, counts, wanted.limit);
    list("Label pairs most involved in churning", pairs().map(|(pair, v)| (pair, missed(v.uncovered))).collect())?;
    let each = |count: &dyn Fn(&Name) -> u64| names.iter().map(|(name, all)| (name.clone(), count(all))).collect();
    list("Label names most involved in churning", each(&|name| missed(name.uncovered)))?;
    list("Most common label pairs", pairs().map(|(pair, v)| (pair, v.series)).collect())?;
    list(
        "Label names with highest cumulative label value length",
        each(&|name| name.values.keys().map(|value| value.len() as u64).sum()),
    )?;
    list("Highest cardinality labels", each(&|name| name.values.len() as u64))?;
    let metrics = names.get(METRIC_NAME).map(|name| &name.values);
    let metrics = metrics.into_iter().flatten().map(|(metric, counts)| (metric.clone(), counts.series));
    list("Highest cardinality metric names", metrics.collect())?;
    if wanted.bytes {
        let usage = metric_usage(&block, &Budget::unlimited())?;
        let bytes = usage.into_iter().map(|(metric, usage)| (metric, usage.bytes));
        list("Bytes of chunks by metric names", bytes.collect())?;
    }
    Ok(())
}

#[derive(Default)]
struct Name {
    /// Milliseconds of the block, summed over the series that have the name, in which the series has no samples.
    uncovered: u128,
    values: BTreeMap<String, Value>,
}

#[derive(Default, Clone, Copy)]
struct Value {
    series: u64,
    uncovered: u128,
}

fn print_list(out: &mut dyn Write, title: &str, mut counts: Vec<(String, u64)>, limit: usize) -> CommandResult {
    writeln!(out, "\n{title}:")?;
    // Stable: of equal counts the smaller name comes first.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (key, count) in counts.iter().take(limit) {
        writeln!(out, "{count} {key}")?;
    }
    Ok(())
}

/// Milliseconds as Go prints a duration: `2h0m0s`, `1.5s`, `20ms`.
fn go_duration(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let seconds = match ms % 1000 {
        0 => format!("{seconds}s"),
        rest => format!("{}s", format!("{seconds}.{rest:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::go_duration;

    #[test]
    fn durations_look_as_go_s() {
        let shown = [1, 1_500, 61_000, 7_200_000, 7_199_999, 194_400_000].map(go_duration);
        assert_eq!(shown, ["1ms", "1.5s", "1m1s", "2h0m0s", "1h59m59.999s", "54h0m0s"]);
    }
}
