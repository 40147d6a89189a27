//! OpenMetrics text, line by line: for backfill, where each sample has its time.
//!
//! ```text
//! name{label="value",…} 1.5 1700000000.123 # {trace_id="x"} 0.7 1700000000.1      exemplar: seen, not kept
//! {"a name in UTF-8","a label"="value"} 1.5 1700000000.123
//! # HELP, # TYPE, # UNIT: comments here            # EOF: the end, which must be there
//! ```
//!
//! Times are seconds with any number of decimals, and are rounded to milliseconds. (Prometheus cuts them off, which takes
//! a millisecond from some that have three.) A NaN becomes the one NaN that Prometheus stores for it.

use crate::model::{Labels, LabelsBuilder, METRIC_NAME};

/// The NaN that stands for "not a number", as opposed to the one that ends a series.
const NORMAL_NAN: u64 = 0x7ff8_0000_0000_0001;

/// Why a line is none of OpenMetrics text. `column` counts bytes from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct OpenMetricsError {
    /// Where in the line.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenMetricsLine {
    /// A value of a series.
    Sample(OpenMetricsSample),
    /// Nothing about samples.
    Comment,
    /// That nothing follows.
    End,
}

/// A value of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenMetricsSample {
    /// The series, its metric's name as `__name__`.
    pub labels: Labels,
    /// The value.
    pub value: f64,
    /// Milliseconds since the epoch, if the line says so.
    pub t: Option<i64>,
    /// Whether there is an exemplar behind it.
    pub has_exemplar: bool,
}

/// Reads a line, with or without its line break.
///
/// # Errors
/// [`OpenMetricsError`].
pub fn parse_openmetrics_line(line: &str) -> Result<OpenMetricsLine, OpenMetricsError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line == "# EOF" {
        return Ok(OpenMetricsLine::End);
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(OpenMetricsLine::Comment);
    }
    let mut cursor = Cursor { line, at: 0 };
    let mut builder = LabelsBuilder::new();
    let name = cursor.name(is_metric_char);
    if !name.is_empty() {
        builder.push(METRIC_NAME, name);
    }
    if cursor.eat('{') {
        cursor.labels(&mut builder, !name.is_empty())?;
    } else if name.is_empty() {
        return Err(cursor.error("a metric's name was expected"));
    }
    let value = cursor.number("a value")?;
    let value = if value.is_nan() { f64::from_bits(NORMAL_NAN) } else { value };
    let mut t = None;
    if !cursor.at_exemplar() && !cursor.rest().trim().is_empty() {
        t = Some(cursor.time()?);
    }
    let has_exemplar = cursor.at_exemplar();
    if !has_exemplar && !cursor.rest().trim().is_empty() {
        return Err(cursor.error("the line was expected to end"));
    }
    if let Some(name) = builder.duplicate_name() {
        let reason = format!("the label {name:?} is there twice");
        return Err(cursor.error(&reason));
    }
    let labels = builder.build();
    if labels.is_empty() {
        return Err(cursor.error("a series without labels"));
    }
    Ok(OpenMetricsLine::Sample(OpenMetricsSample { labels, value, t, has_exemplar }))
}

fn is_metric_char(c: char, first: bool) -> bool {
    c == ':' || is_label_char(c, first)
}

fn is_label_char(c: char, first: bool) -> bool {
    c == '_' || c.is_ascii_alphabetic() || !first && c.is_ascii_digit()
}

struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn error(&self, reason: &str) -> OpenMetricsError {
        OpenMetricsError { column: self.at + 1, reason: reason.to_owned() }
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn skip_spaces(&mut self) {
        while self.eat(' ') || self.eat('\t') {}
    }

    fn name(&mut self, allowed: impl Fn(char, bool) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.char_indices().find(|(at, c)| !allowed(*c, *at == 0)).map_or(rest.len(), |(at, _)| at);
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// What stands in braces, the first of which is behind.
    fn labels(&mut self, builder: &mut LabelsBuilder, mut named: bool) -> Result<(), OpenMetricsError> {
        loop {
            self.skip_spaces();
            if self.eat('}') {
                return Ok(());
            }
            if self.rest().starts_with('"') {
                let name = self.quoted()?;
                self.skip_spaces();
                if name.is_empty() {
                    return Err(self.error("an empty name"));
                }
                if self.eat('=') {
                    self.skip_spaces();
                    builder.push(&name, &self.quoted()?);
                } else if named {
                    return Err(self.error("the metric has its name already"));
                } else {
                    builder.push(METRIC_NAME, &name);
                    named = true;
                }
            } else {
                let name = self.name(is_label_char);
                if name.is_empty() {
                    return Err(self.error("a label's name was expected"));
                }
                self.skip_spaces();
                if !self.eat('=') {
                    return Err(self.error("'=' was expected"));
                }
                self.skip_spaces();
                builder.push(name, &self.quoted()?);
            }
            self.skip_spaces();
            if !self.eat(',') && !self.rest().starts_with('}') {
                return Err(self.error("',' or '}' was expected"));
            }
        }
    }

    fn quoted(&mut self) -> Result<String, OpenMetricsError> {
        if !self.eat('"') {
            return Err(self.error("'\"' was expected"));
        }
        let mut text = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else { return Err(self.error("the quote does not end")) };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(text),
                '\\' => {
                    let Some(escaped) = self.rest().chars().next() else {
                        return Err(self.error("the quote does not end"));
                    };
                    self.at += escaped.len_utf8();
                    match escaped {
                        'n' => text.push('\n'),
                        '"' | '\\' => text.push(escaped),
                        // Not an escape: both stay.
                        other => text.extend(['\\', other]),
                    }
                }
                c => text.push(c),
            }
        }
    }

    /// A number between spaces.
    fn number(&mut self, what: &str) -> Result<f64, OpenMetricsError> {
        self.skip_spaces();
        let rest = self.rest();
        let word = rest.split([' ', '\t']).next().unwrap_or_default();
        let number = word.parse().map_err(|_| self.error(&format!("{what} was expected, not {word:?}")))?;
        self.at += word.len();
        Ok(number)
    }

    /// Seconds, as milliseconds.
    fn time(&mut self) -> Result<i64, OpenMetricsError> {
        let start = self.at;
        let ms = (self.number("a time in seconds")? * 1000.0).round();
        // Beyond this not all milliseconds are floats, and it is no time of anybody's.
        if !(-9e15..=9e15).contains(&ms) {
            self.at = start;
            return Err(self.error("a time in seconds was expected"));
        }
        Ok(ms as i64)
    }

    fn at_exemplar(&mut self) -> bool {
        self.skip_spaces();
        self.rest().starts_with("# ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line: &str) -> OpenMetricsSample {
        match parse_openmetrics_line(line) {
            Ok(OpenMetricsLine::Sample(sample)) => sample,
            other => panic!("{line} became {other:?}"),
        }
    }

    #[test]
    fn a_sample_has_labels_a_value_a_time_and_perhaps_an_exemplar() {
        let read =
            sample("http_total{code=\"200\", path=\"a\\\"b\\\\c\\nd\\e\"} 1.5e3 1700000000.123 # {id=\"x\"} 1 2\n");
        let labels = [("__name__", "http_total"), ("code", "200"), ("path", "a\"b\\c\nd\\e")];
        assert_eq!(read.labels, Labels::from_pairs(labels));
        assert_eq!((read.value, read.t, read.has_exemplar), (1500.0, Some(1_700_000_000_123), true));
        assert_eq!(sample("up 1").t, None);
        assert_eq!(sample("up{} -Inf 1").value, f64::NEG_INFINITY);
        assert_eq!(sample("up NaN 1").value.to_bits(), NORMAL_NAN);
        assert!(sample("up 1 # {} 1").has_exemplar);
    }

    #[test]
    fn names_in_utf_8_stand_in_quotes() {
        let read = sample("{\"über.alles\",\"a b\"=\"c\",d=\"e\"} 1 2");
        assert_eq!(read.labels, Labels::from_pairs([("__name__", "über.alles"), ("a b", "c"), ("d", "e")]));
    }

    #[test]
    fn times_are_rounded_to_milliseconds() {
        for ms in (0..3000).map(|n| 1_699_999_999_000_i64 + n) {
            let line = format!("up 1 {}.{:03}", ms / 1000, ms % 1000);
            assert_eq!(sample(&line).t, Some(ms));
        }
        assert_eq!(sample("up 1 -1.5").t, Some(-1500));
    }

    #[test]
    fn comments_and_the_end_are_told_from_samples() {
        for line in ["# HELP up Whether.", "# TYPE up gauge", "", "#"] {
            assert_eq!(parse_openmetrics_line(line), Ok(OpenMetricsLine::Comment), "{line}");
        }
        assert_eq!(parse_openmetrics_line("# EOF\r\n"), Ok(OpenMetricsLine::End));
    }

    #[test]
    fn what_is_no_sample_is_refused_with_its_column() {
        for (line, column) in [
            ("1up 1", 1),
            ("up", 3),
            ("up x", 4),
            ("up 1 x", 6),
            ("up 1 1e300", 6),
            ("up 1 2 3", 8),
            ("up{a} 1", 5),
            ("up{a=b} 1", 6),
            ("up{a=\"b} 1", 11),
            ("up{a=\"b\" c=\"d\"} 1", 10),
            ("up{\"x\"} 1", 7),
            ("{} 1", 5),
            ("{\"\"=\"a\"} 1", 4),
        ] {
            assert_eq!(parse_openmetrics_line(line).map_err(|error| error.column), Err(column), "{line}");
        }
        let error = parse_openmetrics_line("up{a=\"1\",a=\"2\"} 1").unwrap_err();
        assert!(error.reason.contains("twice"), "{error}");
    }
}
