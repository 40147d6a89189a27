//! Remarks on an answer: warnings (it may be wrong) and infos (something is worth knowing).
//!
//! A remark is kept as what it is about, not as text: an operator that meets the same oddity at every step of every
//! series adds the same remark again and again, and only the first costs anything. Texts are those of Prometheus.

use std::fmt;

use parking_lot::Mutex;

use super::ast::Span;
use super::error::ParseError;
use super::printer::format_general;
use crate::codec::FixedMap;
use crate::model::civil;

/// What a remark says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Remark {
    /// Bits of the value.
    InvalidQuantile(u64),
    /// Bits of the ratio and of what it is capped to.
    InvalidRatio(u64, u64),
    BadBucketLabel {
        metric: String,
        label: String,
    },
    MixedFloatsHistograms(String),
    MixedFloatsHistogramsAggregation,
    MixedClassicNative(String),
    NotCounter(String),
    NotGauge(String),
    MixedExponentialCustom(String),
    IncompatibleBuckets(&'static str),
    SortInRange,
    PossibleNonCounter(String),
    IncompatibleTypes {
        lhs: &'static str,
        op: &'static str,
        rhs: &'static str,
    },
    IgnoredInAggregation(&'static str),
    IgnoredInMixedRange(String),
    QuantileNanResult(String),
    QuantileNanSkew(String),
    FractionNans(String),
    ResetCollision(&'static str),
    MismatchedCustomBuckets(&'static str),
    ForcedMonotonicity(String),
}

impl Remark {
    fn is_info(&self) -> bool {
        matches!(
            self,
            Self::PossibleNonCounter(_)
                | Self::IncompatibleTypes { .. }
                | Self::IgnoredInAggregation(_)
                | Self::IgnoredInMixedRange(_)
                | Self::QuantileNanResult(_)
                | Self::QuantileNanSkew(_)
                | Self::FractionNans(_)
                | Self::MismatchedCustomBuckets(_)
                | Self::ForcedMonotonicity(_)
        )
    }
}

/// ` for metric name "x"`, or nothing for a nameless one.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(out, " for metric name {:?}", self.0) }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.is_info() { "PromQL info: " } else { "PromQL warning: " })?;
        match self {
            Self::InvalidQuantile(q) => {
                write!(out, "quantile value should be between 0 and 1, got {}", format_general(f64::from_bits(*q)))
            }
            Self::InvalidRatio(got, cap) => write!(
                out,
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(f64::from_bits(*got)),
                format_general(f64::from_bits(*cap))
            ),
            Self::BadBucketLabel { metric, label } => {
                write!(out, "bucket label \"le\" is missing or has a malformed value of {label:?}{}", Named(metric))
            }
            Self::MixedFloatsHistograms(metric) => {
                write!(out, "encountered a mix of histograms and floats for metric name {metric:?}")
            }
            Self::MixedFloatsHistogramsAggregation => {
                out.write_str("encountered a mix of histograms and floats for aggregation")
            }
            Self::MixedClassicNative(metric) => {
                write!(out, "vector contains a mix of classic and native histograms{}", Named(metric))
            }
            Self::NotCounter(metric) => write!(out, "this native histogram metric is not a counter: {metric:?}"),
            Self::NotGauge(metric) => write!(out, "this native histogram metric is not a gauge: {metric:?}"),
            Self::MixedExponentialCustom(metric) => write!(
                out,
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric:?}"
            ),
            Self::IncompatibleBuckets(op) => {
                write!(out, "incompatible bucket layout encountered for binary operator {op}")
            }
            Self::SortInRange => {
                out.write_str("sort is ineffective for range queries since results are always ordered by labels")
            }
            Self::PossibleNonCounter(metric) => write!(
                out,
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
            ),
            Self::IncompatibleTypes { lhs, op, rhs } => {
                write!(out, "incompatible sample types encountered for binary operator {op:?}: {lhs} {op} {rhs}")
            }
            Self::IgnoredInAggregation(op) => write!(out, "ignored histogram in {op} aggregation"),
            Self::IgnoredInMixedRange(metric) => write!(
                out,
                "ignored histograms in a range containing both floats and histograms for metric name {metric:?}"
            ),
            Self::QuantileNanResult(metric) => {
                write!(out, "input to histogram_quantile has NaN observations, result is NaN{}", Named(metric))
            }
            Self::QuantileNanSkew(metric) => write!(
                out,
                "input to histogram_quantile has NaN observations, result is skewed higher{}",
                Named(metric)
            ),
            Self::FractionNans(metric) => write!(
                out,
                "input to histogram_fraction has NaN observations, which are excluded from all fractions{}",
                Named(metric)
            ),
            Self::ResetCollision(operation) => {
                write!(out, "conflicting counter resets during histogram {operation}")
            }
            Self::MismatchedCustomBuckets(operation) => {
                write!(out, "mismatched custom buckets were reconciled during {operation}")
            }
            Self::ForcedMonotonicity(metric) => write!(
                out,
                "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
                Named(metric)
            ),
        }
    }
}

/// Where buckets had to be forced to rise, and by how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonicity {
    pub(crate) min_t: i64,
    pub(crate) max_t: i64,
    pub(crate) min_bucket: f64,
    pub(crate) max_bucket: f64,
    pub(crate) max_diff: f64,
    pub(crate) count: u64,
}

/// All remarks on an answer.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    all: Mutex<FixedMap<(Remark, Span), Option<Monotonicity>>>,
}

impl Annotations {
    /// Adds a remark about the expression at `span`.
    pub(crate) fn add(&self, remark: Remark, span: Span) {
        self.all.lock().entry((remark, span)).or_default();
    }

    /// Adds the remark that buckets had to be forced to rise.
    pub(crate) fn add_monotonicity(&self, metric: &str, span: Span, new: Monotonicity) {
        let mut all = self.all.lock();
        let entry = all.entry((Remark::ForcedMonotonicity(metric.to_owned()), span)).or_default();
        *entry = Some(match *entry {
            None => new,
            Some(old) => Monotonicity {
                min_t: old.min_t.min(new.min_t),
                max_t: old.max_t.max(new.max_t),
                min_bucket: old.min_bucket.min(new.min_bucket),
                max_bucket: old.max_bucket.max(new.max_bucket),
                max_diff: old.max_diff.max(new.max_diff),
                count: old.count + new.count,
            },
        });
    }

    /// The texts of warnings and of infos, sorted.
    pub(crate) fn texts(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let mut texts = (Vec::new(), Vec::new());
        // Prometheus keeps one remark of each text, whatever its place; of several places it is mostly
        // the last.
        let mut seen: FixedMap<String, (Span, bool, Option<Monotonicity>)> = FixedMap::default();
        for ((remark, span), extra) in self.all.lock().iter() {
            let entry = seen.entry(remark.to_string()).or_insert((*span, remark.is_info(), *extra));
            if span.start > entry.0.start {
                entry.0 = *span;
            }
        }
        for (text, (span, is_info, extra)) in seen {
            let place = ParseError { span, message: String::new(), query: query.to_owned() };
            let place = place.line_and_column().map_or("unknown position".to_owned(), |(l, c)| format!("{l}:{c}"));
            let text = match extra {
                None => format!("{text} ({place})"),
                Some(it) => format!(
                    "{text}, from buckets {} to {}, with a max diff of {}, over {} samples from {} to {} ({place})",
                    format_general(it.min_bucket),
                    format_general(it.max_bucket),
                    TwoDigits(it.max_diff),
                    it.count,
                    Rfc3339(it.min_t),
                    Rfc3339(it.max_t)
                ),
            };
            if is_info { texts.1.push(text) } else { texts.0.push(text) }
        }
        texts.0.sort();
        texts.1.sort();
        texts
    }
}

/// A float as Go's `%.2g` prints it.
struct TwoDigits(f64);

impl fmt::Display for TwoDigits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scientific = format!("{:.1e}", self.0);
        let Some((mantissa, exponent)) = scientific.split_once('e') else { return write!(out, "{}", self.0) };
        let exponent: i32 = exponent.parse().unwrap_or(0);
        if (-4..2).contains(&exponent) {
            let rounded: f64 = scientific.parse().unwrap_or(self.0);
            return write!(out, "{rounded}");
        }
        let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{mantissa}e{sign}{:02}", exponent.abs())
    }
}

/// A time in milliseconds as `2006-01-02T15:04:05Z`.
struct Rfc3339(i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_said_once_with_the_place_of_its_cause() {
        let annotations = Annotations::default();
        for _ in 0..3 {
            annotations.add(Remark::PossibleNonCounter("x".into()), Span::new(5, 10));
        }
        annotations.add(Remark::InvalidQuantile(1.5f64.to_bits()), Span::new(0, 1));
        let (warnings, infos) = annotations.texts("rate(x[5m])");
        assert_eq!(
            infos,
            [
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"x\" (1:6)"
            ]
        );
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:1)"]);
    }

    #[test]
    fn times_and_differences_are_written_as_go_writes_them() {
        assert_eq!(Rfc3339(1_700_000_000_000).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(TwoDigits(123.0).to_string(), "1.2e+02");
        assert_eq!(TwoDigits(2.0).to_string(), "2");
    }
}
