//! Flags under Prometheus's names, and how their values are written.

use std::path::PathBuf;
use std::time::Duration;

use narthex::model::{Labels, LabelsBuilder, MatchOp};
use narthex::promql::parse_duration;

use crate::app::Limits;
use crate::logs;

/// A duration as Prometheus writes it: `15d`, `2h30m`, `0`.
///
/// # Errors
/// In Prometheus's words.
pub fn duration(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(parse_duration(text)?).map_err(|error| error.to_string())
}

/// A size as Prometheus writes it: `512MB`; units are powers of 1024. `0` is none.
///
/// # Errors
/// If it is none.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("not a valid size: {text:?}"))?;
    let power = match unit {
        "" if number == 0 => 0,
        "B" => 0,
        "KB" | "KiB" => 1,
        "MB" | "MiB" => 2,
        "GB" | "GiB" => 3,
        "TB" | "TiB" => 4,
        "PB" | "PiB" => 5,
        "EB" | "EiB" => 6,
        _ => return Err(format!("not a valid size: {text:?}; units are B, KB, MB, GB, TB, PB, EB")),
    };
    number.checked_mul(1 << (10 * power)).ok_or_else(|| format!("size out of range: {text:?}"))
}

/// Hundredths of something: `0` to `100`.
///
/// # Errors
/// If it is none.
pub fn percentage(text: &str) -> Result<f64, String> {
    let is_one = |percentage: &f64| (0.0..=100.0).contains(percentage);
    text.parse().ok().filter(is_one).ok_or_else(|| format!("not a percentage: {text:?}; 0 to 100"))
}

/// A label as Thanos's `--label` has it: `cluster="eu"`.
///
/// # Errors
/// If it is none.
pub fn label(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("not a label: {text}; it looks like cluster=\"eu\", the quotes included");
    let matchers = narthex::promql::parse_selector(&format!("{{{text}}}")).map_err(|_| wrong())?;
    match matchers.as_slice() {
        [one] if one.op() == MatchOp::Equal && !one.value().is_empty() => {
            Ok((one.name().to_owned(), one.value().to_owned()))
        }
        _ => Err(wrong()),
    }
}

/// The labels of repeated `--label`.
///
/// # Errors
/// If a name is given twice.
pub fn labels(pairs: &[(String, String)]) -> Result<Labels, String> {
    let mut builder = LabelsBuilder::new();
    for (name, value) in pairs {
        builder.push(name, value);
    }
    match builder.duplicate_name() {
        Some(name) => Err(format!("--label: {name} is given twice")),
        None => Ok(builder.build()),
    }
}

/// `--objstore.*` and what belongs to it.
#[derive(Debug, Clone, clap::Args)]
pub struct ObjstoreFlags {
    /// A file that says where a bucket is: Thanos's YAML.
    #[arg(long = "objstore.config-file", value_name = "FILE")]
    pub config_file: Vec<PathBuf>,
    /// The YAML itself.
    #[arg(long = "objstore.config", value_name = "YAML", conflicts_with = "config_file")]
    pub config: Option<String>,
    /// Where lists and headers of blocks in buckets are kept for the next start. They can be deleted at any time.
    #[arg(long = "data-dir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How often a bucket is listed.
    #[arg(long = "sync-block-duration", default_value = "3m", value_parser = duration)]
    pub sync_block_duration: Duration,
    /// How many bytes of what was read from buckets are kept in memory.
    #[arg(long = "index-cache-size", default_value = "250MB", value_parser = size)]
    pub index_cache_size: u64,
}

/// Flags whose value nobody is shown: it may hold a password.
const SECRET: [&str; 1] = ["objstore.config"];

/// `--query.*`.
#[derive(Debug, Clone, clap::Args)]
pub struct QueryFlags {
    /// How long a query may take.
    #[arg(long = "query.timeout", default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
    /// How many queries run at a time; others wait.
    #[arg(long = "query.max-concurrency", default_value_t = 20)]
    pub max_concurrency: usize,
    /// How many samples a query may hold in memory at a time.
    #[arg(long = "query.max-samples", default_value_t = 50_000_000)]
    pub max_samples: u64,
    /// How far back a query looks for a series' latest sample.
    #[arg(long = "query.lookback-delta", default_value = "5m", value_parser = duration)]
    pub lookback_delta: Duration,
}

/// `--log.*`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogFlags {
    /// Which log lines are written.
    #[arg(long = "log.level", value_enum, default_value = "info")]
    pub level: logs::Level,
    /// How log lines are written.
    #[arg(long = "log.format", value_enum, default_value = "logfmt")]
    pub format: logs::Format,
}

impl QueryFlags {
    /// The limits that these flags set; the others have their defaults.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            query_timeout: self.timeout,
            query_concurrency: self.max_concurrency,
            query_samples: self.max_samples,
            lookback_delta: self.lookback_delta,
            ..Limits::default()
        }
    }
}

/// The flags of `command` as `status/flags` shows them: names without dashes and values as they were given or defaulted.
#[must_use]
pub fn shown(command: &clap::Command, matches: &clap::ArgMatches) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| {
            let values = matches.get_raw(argument.get_id().as_str());
            let values: Vec<_> = values.into_iter().flatten().map(|value| value.to_string_lossy()).collect();
            let name = argument.get_long()?;
            let value =
                if SECRET.contains(&name) && !values.is_empty() { "<secret>".to_owned() } else { values.join(",") };
            Some((name.to_owned(), value))
        })
        .collect();
    flags.sort();
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("512MB"), Ok(512 << 20));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("3B"), Ok(3));
        assert!(size("1000").is_err());
        assert!(size("16EB").is_err());
        assert!(size("MB").is_err());
    }

    #[test]
    fn percentages_end_at_a_hundred() {
        assert_eq!(percentage("12.5"), Ok(12.5));
        for wrong in ["100.1", "-1", "NaN", "5%", ""] {
            assert!(percentage(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_quoted_as_thanos_wants_them() {
        assert_eq!(label(r#"cluster="eu""#), Ok(("cluster".to_owned(), "eu".to_owned())));
        assert_eq!(label(r#"replica="a\"b=c""#), Ok(("replica".to_owned(), "a\"b=c".to_owned())));
        for wrong in ["cluster=eu", "cluster", r#"cluster!="eu""#, r#"cluster="""#, r#"a="1",b="2""#, ""] {
            assert!(label(wrong).unwrap_err().contains("cluster=\"eu\""), "{wrong}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(labels(&[pair("b", "2"), pair("a", "1")]), Ok(Labels::from_pairs([("a", "1"), ("b", "2")])));
        assert!(labels(&[pair("a", "2"), pair("a", "1")]).is_err());
    }

    #[test]
    fn a_bucket_given_on_the_command_line_is_not_shown() {
        use clap::{Args, Command};
        let command = ObjstoreFlags::augment_args(Command::new("test"));
        let matches = command.clone().get_matches_from(["test", "--objstore.config", "secret_key: hush"]);
        let shown = shown(&command, &matches);
        assert!(shown.contains(&("objstore.config".to_owned(), "<secret>".to_owned())), "{shown:?}");
        assert!(!format!("{shown:?}").contains("hush"));
    }

    #[test]
    fn durations_are_those_of_the_query_language() {
        assert_eq!(duration("15d"), Ok(Duration::from_secs(15 * 86_400)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
    }
}
