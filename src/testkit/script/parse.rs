//! A test's text as commands.

use regex_automata::meta::Regex;

use super::series::{Point, parse_points};
use crate::model::Labels;
use crate::promql::{ParseError, ast, parse, parse_duration, parse_series};

/// What a test file is wrong about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A command.
#[derive(Debug)]
pub enum Command {
    /// Forget all series.
    Clear,
    /// Add samples.
    Load(Load),
    /// Run a query and look at its answer.
    Eval(Box<Eval>),
}

/// Samples to add.
#[derive(Debug)]
pub struct Load {
    /// The line of the command, counted from 1.
    pub line: usize,
    /// Time between two values, milliseconds; the first is at 0.
    pub interval: i64,
    /// Whether classic histograms are loaded a second time, as native ones with custom buckets.
    pub with_nhcb: bool,
    /// The series.
    pub series: Vec<LoadedSeries>,
}

/// A series to add.
#[derive(Debug)]
pub struct LoadedSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its values, one an interval.
    pub points: Vec<Point>,
    /// Start timestamps, relative to each value's time, milliseconds; empty if none are given.
    pub starts: Vec<Option<i64>>,
}

/// When to run a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// At one time, milliseconds.
    Instant {
        /// The time.
        at: i64,
    },
    /// At many.
    Range {
        /// The first time, milliseconds.
        start: i64,
        /// The last.
        end: i64,
        /// Time between two.
        step: i64,
    },
}

/// A query and what is expected of its answer.
#[derive(Debug)]
pub struct Eval {
    /// The line of the command, counted from 1.
    pub line: usize,
    /// The query.
    pub query: String,
    /// When to run it.
    pub timing: Timing,
    /// What its value should be.
    pub expected: Expected,
    /// What else is expected.
    pub expectations: Vec<Expectation>,
}

/// What a query's value should be.
#[derive(Debug)]
pub enum Expected {
    /// These series; by default none.
    Series(Vec<(Labels, Vec<Point>)>),
    /// Of an instant query: these windows, from `start` on with a value every `step`, milliseconds.
    Windows {
        /// The first value's time.
        start: i64,
        /// The last value's time at most.
        end: i64,
        /// Time between two values.
        step: i64,
        /// The series.
        series: Vec<(Labels, Vec<Point>)>,
    },
    /// A number.
    Scalar(f64),
    /// A text.
    String(String),
}

/// What an `expect` line says.
#[derive(Debug)]
pub enum Expectation {
    /// The series come in the order in which they are listed.
    Ordered,
    /// The query fails.
    Fail(Message),
    /// There is such a warning, and every warning is expected.
    Warn(Message),
    /// There is such an info, and every info is expected.
    Info(Message),
    /// There is no warning.
    NoWarn,
    /// There is no info.
    NoInfo,
}

/// What an error or an annotation should say.
#[derive(Debug)]
pub enum Message {
    /// Anything.
    Any,
    /// Exactly this.
    Exactly(String),
    /// Something that this matches, anywhere in it.
    Matching(Box<Regex>),
}

impl Message {
    /// Whether `text` is what is expected.
    #[must_use]
    pub fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => wanted == text,
            Self::Matching(regex) => regex.is_match(text),
        }
    }
}

/// A line without its indentation; empty if it is a comment.
fn trimmed(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') { "" } else { line }
}

/// The first word and what follows it.
fn split_word(line: &str) -> (&str, &str) {
    let end = line.find([' ', '\t']).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, rest.trim_start())
}

/// Reads a test file. A command that cannot be read is an error in its place; the ones around it are read.
#[must_use]
pub fn parse_script(text: &str) -> Vec<Result<Command, ScriptError>> {
    let lines: Vec<&str> = text.lines().map(trimmed).collect();
    let mut commands = Vec::new();
    let mut blocks = Block { lines: &lines, line: 0 };
    while let Some(head) = blocks.next_head() {
        let line = blocks.line;
        let error = |message: String| ScriptError { line, message };
        let (word, rest) = split_word(head);
        let body = if word.eq_ignore_ascii_case("clear") { Vec::new() } else { blocks.body() };
        commands.push(match word.to_ascii_lowercase().as_str() {
            "clear" => Ok(Command::Clear),
            "load" => load(line, rest, false, &body).map(Command::Load),
            "load_with_nhcb" => load(line, rest, true, &body).map(Command::Load),
            "eval" => eval(line, None, rest, &body).map(|eval| Command::Eval(Box::new(eval))),
            "eval_fail" | "eval_warn" | "eval_info" | "eval_ordered" => {
                let mode = word.get("eval_".len()..).unwrap_or_default();
                eval(line, Some(mode), rest, &body).map(|eval| Command::Eval(Box::new(eval)))
            }
            _ => Err(error(format!("invalid command {head:?}"))),
        });
    }
    commands
}

/// Walks over lines: a command, then the lines below it up to an empty one.
struct Block<'t> {
    lines: &'t [&'t str],
    /// Lines taken so far, which is the number of the last one.
    line: usize,
}

impl<'t> Block<'t> {
    fn next_head(&mut self) -> Option<&'t str> {
        loop {
            let line = *self.lines.get(self.line)?;
            self.line += 1;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    fn body(&mut self) -> Vec<(usize, &'t str)> {
        let mut body = Vec::new();
        while let Some(&line) = self.lines.get(self.line).filter(|line| !line.is_empty()) {
            self.line += 1;
            body.push((self.line, line));
        }
        body
    }
}

fn milliseconds(text: &str) -> Result<i64, String> {
    parse_duration(text).map(|seconds| (seconds * 1000.0).round() as i64)
}

fn series(line: usize, text: &str) -> Result<(Labels, Vec<Point>), ScriptError> {
    let (labels, end) =
        parse_series(text).map_err(|error: ParseError| ScriptError { line, message: format!("{text:?}: {error}") })?;
    let points = parse_points(text.get(end..).unwrap_or_default());
    points
        .map(|points| (labels, points))
        .map_err(|message| ScriptError { line, message: format!("{text:?}: {message}") })
}

fn load(line: usize, interval: &str, with_nhcb: bool, body: &[(usize, &str)]) -> Result<Load, ScriptError> {
    let error = |line, message| ScriptError { line, message };
    let interval = milliseconds(interval).map_err(|message| error(line, message))?;
    let mut found: Vec<LoadedSeries> = Vec::new();
    let mut starts: Option<(usize, Labels, Vec<Option<i64>>)> = None;
    for &(line, text) in body {
        let (word, rest) = split_word(text);
        if let Some(metric) = word.strip_suffix("@st") {
            let (labels, _) = series(line, metric)?;
            let items: Result<Vec<_>, _> = rest.split_whitespace().map(start_item).collect();
            let items = items.map_err(|message| error(line, message))?;
            starts = Some((line, labels, items.concat()));
            continue;
        }
        let (labels, points) = series(line, text)?;
        let starts = match starts.take() {
            None => Vec::new(),
            Some((_, of, starts)) if of == labels && starts.len() == points.len() => starts,
            Some((line, ..)) => {
                return Err(error(line, "the @st line does not fit the line of values that follows it".into()));
            }
        };
        // Of two definitions of a series the later counts.
        found.retain(|series| series.labels != labels);
        found.push(LoadedSeries { labels, points, starts });
    }
    match starts {
        Some((line, ..)) => Err(error(line, "no line of values follows the @st line".into())),
        None => Ok(Load { line, interval, with_nhcb, series: found }),
    }
}

/// `_`, `_x3`, `-1m`, `-1mx3`, `-1m+10sx3`: times relative to the samples'.
fn start_item(item: &str) -> Result<Vec<Option<i64>>, String> {
    let wrong = || format!("invalid start timestamp {item:?}");
    let count = |text: &str| text.parse::<usize>().ok().filter(|&count| count < 1_000_000).ok_or_else(wrong);
    let (shape, repetitions) = match item.split_once('x') {
        Some((shape, repetitions)) => (shape, Some(count(repetitions)?)),
        None => (item, None),
    };
    if shape == "_" {
        return Ok(vec![None; repetitions.unwrap_or(1)]);
    }
    let signed = |text: &str| {
        let magnitude = milliseconds(text.trim_start_matches(['-', '+'])).map_err(|_| wrong())?;
        Ok::<_, String>(if text.starts_with('-') { -magnitude } else { magnitude })
    };
    let step_at = shape.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-')).map(|(at, _)| at);
    let (base, step) = match step_at {
        Some(at) if repetitions.is_some() => {
            let (base, step) = shape.split_at(at);
            (signed(base)?, signed(step)?)
        }
        Some(_) => return Err(wrong()),
        None => (signed(shape)?, 0),
    };
    let last = repetitions.unwrap_or(0) as i64;
    Ok((0..=last).map(|index| Some(base + index * step)).collect())
}

/// `instant at 5m QUERY` or `range from 0 to 1h step 1m QUERY`.
fn timing(head: &str) -> Result<(Timing, &str), String> {
    let wrong = "neither \"instant at TIME QUERY\" nor \"range from TIME to TIME step TIME QUERY\"";
    let take = |rest: &mut &str, keyword: &str| -> Result<i64, String> {
        let (word, after) = split_word(rest);
        if word != keyword {
            return Err(wrong.into());
        }
        let (time, after) = split_word(after);
        *rest = after;
        milliseconds(time)
    };
    let (kind, mut rest) = split_word(head);
    let timing = match kind {
        "instant" => Timing::Instant { at: take(&mut rest, "at")? },
        "range" => {
            let start = take(&mut rest, "from")?;
            let end = take(&mut rest, "to")?;
            let step = take(&mut rest, "step")?;
            if end < start || step <= 0 {
                return Err("the range ends before it starts, or has no step".into());
            }
            Timing::Range { start, end, step }
        }
        _ => return Err(wrong.into()),
    };
    if rest.is_empty() { Err(wrong.into()) } else { Ok((timing, rest)) }
}

fn eval(line: usize, mode: Option<&str>, head: &str, body: &[(usize, &str)]) -> Result<Eval, ScriptError> {
    let error = |line, message| ScriptError { line, message };
    let (timing, query) = timing(head).map_err(|message| error(line, message))?;
    let _: ast::Expr = parse(query).map_err(|parse| error(line, format!("{query:?}: {parse}")))?;
    let mut expectations: Vec<Expectation> = match mode {
        Some("fail") => vec![Expectation::Fail(Message::Any)],
        Some("warn") => vec![Expectation::Warn(Message::Any)],
        Some("info") => vec![Expectation::Info(Message::Any)],
        Some(_) => vec![Expectation::Ordered],
        None => Vec::new(),
    };
    let mut expected = Expected::Series(Vec::new());
    for &(line, text) in body {
        if let Some(message) = text.strip_prefix("expected_fail_message") {
            expectations = vec![Expectation::Fail(Message::Exactly(message.trim().into()))];
        } else if let Some(pattern) = text.strip_prefix("expected_fail_regexp") {
            expectations = vec![Expectation::Fail(matching(pattern.trim()).map_err(|message| error(line, message))?)];
        } else if let Some(times) = text.strip_prefix("expect range vector") {
            let times = format!("range {} x", times.trim());
            let Ok((Timing::Range { start, end, step }, "x")) = self::timing(&times) else {
                return Err(error(line, format!("{text:?}: no times")));
            };
            expected = Expected::Windows { start, end, step, series: Vec::new() };
        } else if let Some(quoted) = text.strip_prefix("expect string") {
            match parse(quoted.trim()) {
                Ok(ast::Expr::String(literal)) => expected = Expected::String(literal.value),
                _ => return Err(error(line, format!("{quoted:?}: no string in quotes"))),
            }
        } else if split_word(text).0 == "expect" {
            expectations.push(expectation(text).map_err(|message| error(line, message))?);
        } else if let Some(number) = number(text) {
            expected = Expected::Scalar(number);
        } else {
            let (labels, points) = series(line, text)?;
            let several = points.len() > 1;
            match &mut expected {
                Expected::Windows { series, .. } => series.push((labels, points)),
                _ if several && matches!(timing, Timing::Instant { .. }) => {
                    let message = "an instant query gives one value a series; see \"expect range vector\"";
                    return Err(error(line, message.into()));
                }
                Expected::Series(series) => series.push((labels, points)),
                Expected::Scalar(_) | Expected::String(_) => {
                    return Err(error(line, "a series behind a number or a string".into()));
                }
            }
        }
    }
    let has = |wanted: fn(&Expectation) -> bool| expectations.iter().any(wanted);
    if has(|it| matches!(it, Expectation::Warn(_))) && has(|it| matches!(it, Expectation::NoWarn))
        || has(|it| matches!(it, Expectation::Info(_))) && has(|it| matches!(it, Expectation::NoInfo))
        || expectations.iter().filter(|it| matches!(it, Expectation::Fail(_))).count() > 1
    {
        return Err(error(line, "expectations that exclude each other".into()));
    }
    Ok(Eval { line, query: query.to_owned(), timing, expected, expectations })
}

fn number(text: &str) -> Option<f64> {
    match parse_points(text).ok()?.as_slice() {
        [Point::Float(number)] if !text.contains("stale") => Some(*number),
        _ => None,
    }
}

fn matching(pattern: &str) -> Result<Message, String> {
    let regex = Regex::new(pattern).map_err(|_| format!("invalid regex {pattern:?}"))?;
    Ok(Message::Matching(Box::new(regex)))
}

fn expectation(line: &str) -> Result<Expectation, String> {
    let (_, rest) = split_word(line);
    let (kind, message) = split_word(rest);
    let message = match message.split_once(':') {
        None if message.is_empty() => Message::Any,
        Some(("msg", text)) => Message::Exactly(text.trim().into()),
        Some(("regex", pattern)) => matching(pattern.trim())?,
        _ => return Err(format!("{line:?}: neither msg nor regex")),
    };
    match (kind, message) {
        ("ordered", Message::Any) => Ok(Expectation::Ordered),
        ("no_warn", Message::Any) => Ok(Expectation::NoWarn),
        ("no_info", Message::Any) => Ok(Expectation::NoInfo),
        ("fail", message) => Ok(Expectation::Fail(message)),
        ("warn", message) => Ok(Expectation::Warn(message)),
        ("info", message) => Ok(Expectation::Info(message)),
        _ => Err(format!("{line:?}: an unknown expectation")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Result<Command, ScriptError> {
        let mut commands = parse_script(text);
        assert_eq!(commands.len(), 1, "{commands:?}");
        commands.remove(0)
    }

    #[test]
    fn a_file_is_commands_with_the_lines_below_them() {
        let commands = parse_script(
            "# a test\nload 1m\n  a 1 2\n  b{c=\"d\"} 3\n\neval instant at 1m a\n a 2\n\nclear\nload 1m\n",
        );
        let [Ok(Command::Load(load)), Ok(Command::Eval(eval)), Ok(Command::Clear), Ok(Command::Load(_))] =
            commands.as_slice()
        else {
            panic!("{commands:?}");
        };
        assert_eq!((load.line, load.interval, load.series.len()), (2, 60_000, 2));
        assert_eq!((eval.line, eval.timing, eval.query.as_str()), (6, Timing::Instant { at: 60_000 }, "a"));
    }

    #[test]
    fn starts_are_relative_and_belong_to_the_line_below() {
        let Ok(Command::Load(load)) = only("load 1m\n a@st -1m _x2 0s-5sx1\n a 1 2 3 4 5") else { panic!() };
        assert_eq!(load.series[0].starts, [Some(-60_000), None, None, Some(0), Some(-5_000)]);
        assert!(only("load 1m\n a@st -1m\n b 1").is_err());
        assert!(only("load 1m\n a@st -1m").is_err());
    }

    #[test]
    fn expectations_are_read_and_must_not_exclude_each_other() {
        let Ok(Command::Eval(eval)) = only("eval instant at 0 a\n expect warn msg: too bad\n expect no_info\n a 1")
        else {
            panic!();
        };
        let [Expectation::Warn(message), Expectation::NoInfo] = eval.expectations.as_slice() else {
            panic!("{eval:?}")
        };
        assert!(message.accepts("too bad") && !message.accepts("bad"));
        assert!(only("eval instant at 0 a\n expect warn\n expect no_warn").is_err());
        assert!(only("eval instant at 0 a\n expect fail\n expect fail").is_err());
        assert!(only("eval instant at 0 a\n expect nonsense").is_err());
    }

    #[test]
    fn one_broken_command_leaves_the_others() {
        let commands = parse_script("eval instant at 0 a +\n\nnonsense\n\nclear");
        let [Err(query), Err(command), Ok(Command::Clear)] = commands.as_slice() else { panic!("{commands:?}") };
        assert_eq!(query.to_string(), "line 1: \"a +\": 1:4: parse error: unexpected end of input");
        assert_eq!(command.to_string(), "line 3: invalid command \"nonsense\"");
    }
}
