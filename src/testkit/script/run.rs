//! Runs a test's commands and compares answers with what is expected.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nhcb::native_histograms;
use super::parse::{Command, Eval, Expectation, Expected, Load, Message, Timing, parse_script};
use super::series::Point;
use crate::budget::Budget;
use crate::model::{FloatHistogram, Labels, Sample, Span, Value as Stored, is_stale};
use crate::promql::ast::{At, Expr};
use crate::promql::functions::FunctionId;
use crate::promql::{Engine, EngineOptions, QueryResult, RangeSeries, SampleValue, Value, parse};
use crate::testkit::MemorySource;

/// How far a float may be from the expected one, relative to the sum of both.
const EPSILON: f64 = 0.000_001;
/// Failures of the query itself, not of a comparison, begin with this.
const FAILED: &str = "the query failed";

/// How a test file went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// `eval` commands whose answer was as expected.
    pub passed: usize,
    /// Commands that went wrong: `eval`s, and whatever could not be read or loaded.
    pub failures: Vec<Failure>,
}

/// A command that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its line, counted from 1.
    pub line: usize,
    /// The query, or nothing.
    pub query: String,
    /// What is wrong.
    pub message: String,
}

/// The engine that the language's own tests are meant for: names are removed late.
#[must_use]
pub fn test_engine() -> Engine {
    Engine::new(EngineOptions { delayed_name_removal: true, ..EngineOptions::default() })
}

/// Runs a test file. What goes wrong is reported, and the next command is run.
#[must_use]
pub fn run_script(engine: &Engine, text: &str) -> Report {
    let mut report = Report::default();
    let mut source = MemorySource::new();
    for command in parse_script(text) {
        let failed = match command {
            Ok(Command::Clear) => {
                source.clear();
                continue;
            }
            Ok(Command::Load(command)) => match load(&mut source, &command) {
                Ok(()) => continue,
                Err(message) => Failure { line: command.line, query: String::new(), message },
            },
            Ok(Command::Eval(eval)) => match (Run { engine, source: &source, eval: &eval }).run() {
                Ok(()) => {
                    report.passed += 1;
                    continue;
                }
                Err(message) => Failure { line: eval.line, query: eval.query.clone(), message },
            },
            Err(error) => Failure { line: error.line, query: String::new(), message: error.message },
        };
        report.failures.push(failed);
    }
    report
}

fn load(source: &mut MemorySource, load: &Load) -> Result<(), String> {
    for series in &load.series {
        for (index, point) in series.points.iter().enumerate() {
            let t = index as i64 * load.interval;
            let value = match point {
                Point::Omitted => continue,
                Point::Float(value) => Stored::Float(*value),
                Point::Histogram { histogram, .. } => Stored::FloatHistogram(histogram.clone()),
            };
            let st = series.starts.get(index).copied().flatten().map_or(0, |start| t + start);
            source.push(&series.labels, Sample { t, st, value });
        }
    }
    if load.with_nhcb {
        for (labels, t, histogram) in native_histograms(load)? {
            source.push(&labels, Sample { t, st: 0, value: Stored::FloatHistogram(Box::new(histogram)) });
        }
    }
    Ok(())
}

struct Run<'r> {
    engine: &'r Engine,
    source: &'r MemorySource,
    eval: &'r Eval,
}

impl Run<'_> {
    fn run(&self) -> Result<(), String> {
        match self.eval.timing {
            Timing::Range { start, end, step } => {
                let answer = self.range(&self.eval.query, start, end, step);
                self.check(answer, Some((start, end, step)))
            }
            Timing::Instant { at } => {
                let at = if let Expected::Windows { end, .. } = self.eval.expected { end } else { at };
                self.instant_everywhere(&self.eval.query, at)?;
                let expr = parse(&self.eval.query).map_err(|error| error.to_string())?;
                if let Some(fixed) = fixed_at(expr, at) {
                    // Whatever the time is at which a query fixed by `@` is evaluated, the answer is the same.
                    let others = if at == 0 { vec![-1000, 0, 1000] } else { vec![-10 * at, 0, at / 5, at, 10 * at] };
                    for other in others {
                        let query = fixed.to_string();
                        let context = |message| format!("{message} (as {query} at {other})");
                        self.instant_everywhere(&query, other).map_err(context)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn range(&self, query: &str, start: i64, end: i64, step: i64) -> Result<QueryResult, String> {
        let answer = self.engine.range(self.source, query, start, end, step, &Budget::unlimited());
        answer.map_err(|error| error.to_string())
    }

    /// As an instant query, and as the middle step of a range query.
    fn instant_everywhere(&self, query: &str, at: i64) -> Result<(), String> {
        let answer = self.engine.instant(self.source, query, at, &Budget::unlimited());
        let failed = answer.is_err();
        let is_scalar = matches!(&answer, Ok(QueryResult { value: Value::Scalar { .. }, .. }));
        self.check(answer.map_err(|error| error.to_string()), None)?;
        let depends_on_range = ["start()", "end()", "range()", "step()"].iter().any(|call| query.contains(call));
        let no_vector = matches!(self.eval.expected, Expected::Windows { .. } | Expected::String(_));
        if failed || depends_on_range || no_vector || self.is_ordered() {
            return Ok(());
        }
        let context = |message| format!("{message} (in range mode)");
        let answer = self.range(query, at - 60_000, at + 60_000, 60_000).map_err(context)?;
        let Value::Matrix(series) = &answer.value else { return Err("a range query gave no matrix".into()) };
        let middle: Vec<(Labels, SampleValue)> =
            series.iter().filter_map(|series| Some((series.labels.clone(), value_at(series, at)?))).collect();
        match (is_scalar, middle.first()) {
            (true, Some((_, SampleValue::Float(v)))) => self.scalar(*v).map_err(context),
            (true, _) => Err(context("a scalar without a value".into())),
            (false, _) => self.vector(&middle).map_err(context),
        }
    }

    fn is_ordered(&self) -> bool {
        self.eval.expectations.iter().any(|it| matches!(it, Expectation::Ordered))
    }

    fn check(&self, answer: Result<QueryResult, String>, range: Option<(i64, i64, i64)>) -> Result<(), String> {
        let failure = self.eval.expectations.iter().find_map(|it| match it {
            Expectation::Fail(message) => Some(message),
            _ => None,
        });
        let answer = match (answer, failure) {
            (Err(error), Some(message)) if message.accepts(&error) => return Ok(()),
            (Err(error), Some(message)) => return Err(format!("{FAILED} with {error:?}, not with {message:?}")),
            (Err(error), None) => return Err(format!("{FAILED}: {error}")),
            (Ok(_), Some(message)) => return Err(format!("the query did not fail; expected {message:?}")),
            (Ok(answer), None) => answer,
        };
        self.remarks("warning", &answer.warnings, |it| match it {
            Expectation::Warn(message) => Some(Some(message)),
            Expectation::NoWarn => Some(None),
            _ => None,
        })?;
        self.remarks("info", &answer.infos, |it| match it {
            Expectation::Info(message) => Some(Some(message)),
            Expectation::NoInfo => Some(None),
            _ => None,
        })?;
        match &answer.value {
            Value::Scalar { v, .. } => self.scalar(*v),
            Value::String { v, .. } => match &self.eval.expected {
                Expected::String(wanted) if wanted == v => Ok(()),
                other => Err(format!("expected {other:?}, got the string {v:?}")),
            },
            Value::Vector(samples) => {
                let samples: Vec<_> =
                    samples.iter().map(|sample| (sample.labels.clone(), sample.value.clone())).collect();
                self.vector(&samples)
            }
            Value::Matrix(series) => self.matrix(series, range),
        }
    }

    /// Each expected remark is there and each that is there is expected; if none is expected, anything goes.
    fn remarks(
        &self,
        kind: &str,
        found: &[String],
        wanted: impl Fn(&Expectation) -> Option<Option<&Message>>,
    ) -> Result<(), String> {
        let wanted: Vec<Option<&Message>> = self.eval.expectations.iter().filter_map(wanted).collect();
        let messages: Vec<&Message> = wanted.iter().copied().flatten().collect();
        if wanted.len() > messages.len() && !found.is_empty() {
            return Err(format!("expected no {kind}, got {found:?}"));
        }
        for message in &messages {
            if !found.iter().any(|text| message.accepts(text)) {
                return Err(format!("expected a {kind} {message:?}, got {found:?}"));
            }
        }
        match found.iter().find(|text| !messages.is_empty() && !messages.iter().any(|message| message.accepts(text))) {
            Some(text) => Err(format!("expected no {kind} {text:?}")),
            None => Ok(()),
        }
    }

    fn scalar(&self, v: f64) -> Result<(), String> {
        match &self.eval.expected {
            Expected::Scalar(wanted) if almost_equal(*wanted, v) => Ok(()),
            other => Err(format!("expected {}, got the scalar {v}", shown(other))),
        }
    }

    fn vector(&self, samples: &[(Labels, SampleValue)]) -> Result<(), String> {
        let Expected::Series(wanted) = &self.eval.expected else {
            return Err(format!("expected {}, got a vector of {}", shown(&self.eval.expected), samples.len()));
        };
        let mut left: BTreeMap<&Labels, (usize, &[Point])> =
            wanted.iter().enumerate().map(|(index, (labels, points))| (labels, (index, points.as_slice()))).collect();
        for (index, (labels, value)) in samples.iter().enumerate() {
            let Some((place, points)) = left.remove(labels) else {
                return Err(format!("unexpected series {labels} with {}", shown_value(value)));
            };
            if self.is_ordered() && place != index {
                return Err(format!("expected {labels} at place {place}, got it at {index}"));
            }
            let matches = match (points.first(), value) {
                (Some(Point::Float(wanted)), SampleValue::Float(v)) => almost_equal(*wanted, *v),
                (Some(Point::Histogram { histogram, hint_given }), SampleValue::Histogram(found)) => {
                    same_histogram(histogram, found, *hint_given)
                }
                _ => false,
            };
            if !matches {
                return Err(format!("expected {} for {labels}, got {}", shown_points(points), shown_value(value)));
            }
        }
        match left.keys().next() {
            Some(labels) => Err(format!("expected a series {labels}, it is missing")),
            None => Ok(()),
        }
    }

    fn matrix(&self, series: &[RangeSeries], range: Option<(i64, i64, i64)>) -> Result<(), String> {
        let (wanted, (start, end, step)) = match (&self.eval.expected, range) {
            (Expected::Windows { start, end, step, series }, _) => (series, (*start, *end, *step)),
            (Expected::Series(series), Some(range)) => (series, range),
            (Expected::Series(series), None) if series.is_empty() => (series, (0, 0, 1)),
            (other, _) => return Err(format!("expected {}, got a matrix", shown(other))),
        };
        if let Some(pair) = series.windows(2).find(|pair| matches!(pair, [a, b] if a.labels > b.labels)) {
            return Err(format!("series out of order: {pair:?}"));
        }
        let mut left: BTreeMap<&Labels, &[Point]> =
            wanted.iter().map(|(labels, points)| (labels, points.as_slice())).collect();
        for series in series {
            let labels = &series.labels;
            let Some(points) = left.remove(labels) else {
                return Err(format!("unexpected series {labels}: {}", shown_series(series)));
            };
            let times = (0..).map(|index| start + index * step);
            if start + (points.len() as i64 - 1) * step > end {
                return Err(format!("{} values are expected for {labels}, more than there are steps", points.len()));
            }
            let differ =
                || Err(format!("expected {} for {labels}, got {}", shown_points(points), shown_series(series)));
            let (mut floats, mut histograms) = (series.floats.iter(), series.histograms.iter());
            for (t, point) in times.zip(points) {
                let matches = match point {
                    Point::Omitted => true,
                    Point::Float(wanted) => {
                        floats.next().is_some_and(|&(found_t, v)| found_t == t && almost_equal(*wanted, v))
                    }
                    Point::Histogram { histogram, hint_given } => histograms
                        .next()
                        .is_some_and(|(found_t, found)| *found_t == t && same_histogram(histogram, found, *hint_given)),
                };
                if !matches {
                    return differ();
                }
            }
            if floats.next().is_some() || histograms.next().is_some() {
                return differ();
            }
        }
        match left.keys().next() {
            Some(labels) => Err(format!("expected a series {labels}, it is missing")),
            None => Ok(()),
        }
    }
}

fn value_at(series: &RangeSeries, at: i64) -> Option<SampleValue> {
    let float = series.floats.iter().find(|(t, _)| *t == at).map(|(_, v)| SampleValue::Float(*v));
    let histogram = || series.histograms.iter().find(|(t, _)| *t == at);
    float.or_else(|| histogram().map(|(_, histogram)| SampleValue::Histogram(Arc::clone(histogram))))
}

/// The query with every selector fixed to a time, if that cannot change its answer.
fn fixed_at(mut expr: Expr, t: i64) -> Option<Expr> {
    fix(&mut expr, t).then_some(expr)
}

fn fix(expr: &mut Expr, t: i64) -> bool {
    let set = |at: &mut Option<At>| {
        if !matches!(at, Some(At::Time(_))) {
            *at = Some(At::Time(t));
        }
    };
    match expr {
        Expr::Vector(selector) => set(&mut selector.at),
        Expr::Matrix(matrix) => set(&mut matrix.selector.at),
        Expr::Subquery(subquery) => {
            set(&mut subquery.at);
            // What is inside is evaluated at the subquery's times, and must stay so.
            return true;
        }
        // These answer with something of the time at which they are evaluated.
        Expr::Call(call)
            if matches!(
                call.function.id,
                FunctionId::DaysInMonth
                    | FunctionId::DayOfMonth
                    | FunctionId::DayOfWeek
                    | FunctionId::DayOfYear
                    | FunctionId::Hour
                    | FunctionId::Minute
                    | FunctionId::Month
                    | FunctionId::Year
                    | FunctionId::PredictLinear
                    | FunctionId::Time
                    | FunctionId::Timestamp
                    | FunctionId::Start
                    | FunctionId::End
                    | FunctionId::Range
                    | FunctionId::Step
            ) =>
        {
            return false;
        }
        _ => {}
    }
    let mut can = true;
    expr.for_each_child_mut(|child| can &= fix(child, t));
    can
}

fn almost_equal(a: f64, b: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

fn same_histogram(wanted: &FloatHistogram, found: &FloatHistogram, with_hint: bool) -> bool {
    let (mut wanted, mut found) = (wanted.clone(), found.clone());
    wanted.compact(0);
    found.compact(0);
    let counts = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| almost_equal(*a, *b));
    let stored = |spans: &[Span]| -> Vec<Span> { spans.iter().copied().filter(|span| span.length > 0).collect() };
    wanted.schema == found.schema
        && almost_equal(wanted.count, found.count)
        && almost_equal(wanted.sum, found.sum)
        && (!wanted.uses_custom_buckets() || wanted.custom_values == found.custom_values)
        && wanted.zero_threshold == found.zero_threshold
        && almost_equal(wanted.zero_count, found.zero_count)
        && stored(&wanted.positive_spans) == stored(&found.positive_spans)
        && stored(&wanted.negative_spans) == stored(&found.negative_spans)
        && counts(&wanted.positive_buckets, &found.positive_buckets)
        && counts(&wanted.negative_buckets, &found.negative_buckets)
        && (!with_hint || wanted.counter_reset_hint == found.counter_reset_hint)
}

fn shown(expected: &Expected) -> String {
    match expected {
        Expected::Series(series) | Expected::Windows { series, .. } => format!("{} series", series.len()),
        Expected::Scalar(v) => format!("the scalar {v}"),
        Expected::String(text) => format!("the string {text:?}"),
    }
}

fn shown_histogram(histogram: &FloatHistogram) -> String {
    let mut out = format!("{{{{schema:{} sum:{} count:{}", histogram.schema, histogram.sum, histogram.count);
    if histogram.zero_count != 0.0 || histogram.zero_threshold != 0.0 {
        out += &format!(" z_bucket:{} z_bucket_w:{}", histogram.zero_count, histogram.zero_threshold);
    }
    if !histogram.custom_values.is_empty() {
        out += &format!(" custom_values:{:?}", histogram.custom_values);
    }
    if !histogram.positive_buckets.is_empty() {
        out += &format!(" {:?} buckets:{:?}", histogram.positive_spans, histogram.positive_buckets);
    }
    if !histogram.negative_buckets.is_empty() {
        out += &format!(" {:?} n_buckets:{:?}", histogram.negative_spans, histogram.negative_buckets);
    }
    format!("{out} counter_reset_hint:{:?}}}}}", histogram.counter_reset_hint)
}

fn shown_value(value: &SampleValue) -> String {
    match value {
        SampleValue::Float(v) => v.to_string(),
        SampleValue::Histogram(histogram) => shown_histogram(histogram),
    }
}

fn shown_points(points: &[Point]) -> String {
    let shown: Vec<String> = points
        .iter()
        .map(|point| match point {
            Point::Omitted => "_".into(),
            Point::Float(v) => v.to_string(),
            Point::Histogram { histogram, .. } => shown_histogram(histogram),
        })
        .collect();
    shown.join(" ")
}

fn shown_series(series: &RangeSeries) -> String {
    let floats = series.floats.iter().map(|(t, v)| format!("{v}@{t}"));
    let histograms = series.histograms.iter().map(|(t, histogram)| format!("{}@{t}", shown_histogram(histogram)));
    floats.chain(histograms).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> (usize, Vec<String>) {
        let report = run_script(&test_engine(), text);
        (
            report.passed,
            report.failures.into_iter().map(|failure| format!("{}: {}", failure.line, failure.message)).collect(),
        )
    }

    const LOAD: &str = "load 1m\n a{x=\"1\"} 1 2 3\n a{x=\"2\"} 4 _ 6\n\n";

    #[test]
    fn an_answer_as_expected_passes_and_another_fails() {
        let text = format!(
            "{LOAD}eval instant at 2m a\n a{{x=\"1\"}} 3\n a{{x=\"2\"}} 6\n\neval instant at 2m a\n a{{x=\"1\"}} 3"
        );
        assert_eq!(report(&text), (1, vec!["9: unexpected series {__name__=\"a\", x=\"2\"} with 6".into()]));
        let text = format!("{LOAD}eval range from 0 to 2m step 1m a{{x=\"1\"}}\n a{{x=\"1\"}} 1 2 4");
        assert_eq!(report(&text).1.len(), 1);
    }

    #[test]
    fn what_is_expected_and_missing_fails() {
        let text = format!("{LOAD}eval instant at 2m a{{x=\"3\"}}\n a{{x=\"3\"}} 3");
        assert_eq!(report(&text), (0, vec!["5: expected a series {__name__=\"a\", x=\"3\"}, it is missing".into()]));
        let text = format!(
            "{LOAD}eval instant at 2m a{{x=\"1\"}}\n expect fail\n\neval instant at 2m a + on() a\n expect fail"
        );
        assert_eq!(report(&text), (1, vec!["5: the query did not fail; expected Any".into()]));
        let text = format!("{LOAD}eval instant at 2m a{{x=\"1\"}}\n expect warn\n a{{x=\"1\"}} 3");
        assert_eq!(report(&text), (0, vec!["5: expected a warning Any, got []".into()]));
    }

    #[test]
    fn floats_are_equal_to_a_millionth() {
        assert!(almost_equal(1.0, 1.000_001) && !almost_equal(1.0, 1.000_01));
        assert!(almost_equal(f64::NAN, f64::NAN) && !almost_equal(0.0, 1e-9));
        assert!(!almost_equal(f64::from_bits(crate::model::STALE_NAN_BITS), f64::NAN));
    }
}
