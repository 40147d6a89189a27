//! `/query`, `/query_range`, and what is about a query's text alone.

use std::sync::Arc;
use std::time::Duration;

use narthex::budget::{Budget, BudgetLimits};
use narthex::model::TimeRange;
use narthex::promql::ast::ValueType;
use narthex::promql::{self, Engine, EngineOptions, QueryResult, Value};

use super::{Answer, ApiError, Call};
use crate::form::{parse_limit, parse_limit_span, parse_span_ns, parse_time, quoted};
use crate::json::{put_labels, put_list, put_quoted_float, put_text, put_timestamp, put_value};

/// A range query may not ask for more steps: a week by minutes, a year by hours.
const MAX_STEPS: i64 = 11_000;

/// What `/query` and `/query_range` have in common.
struct Asked {
    /// Whether it is a range query.
    steps: bool,
    limit: usize,
    timeout: Duration,
    lookback_delta: Duration,
}

fn asked(call: &Call, steps: bool, limit: usize) -> Result<Asked, ApiError> {
    let limits = call.app.limits();
    let timeout = match call.form.get("timeout") {
        "" => limits.query_timeout,
        text => {
            parse_limit_span(text).map_err(|error| ApiError::parameter("timeout", error))?.min(limits.query_timeout)
        }
    };
    let lookback_delta = match call.form.get("lookback_delta") {
        "" => limits.lookback_delta,
        text => {
            let given = parse_limit_span(text)
                .map_err(|error| ApiError::bad_data(format!("error parsing lookback delta duration: {error}")))?;
            // As in the original, zero is the default.
            if given.is_zero() { limits.lookback_delta } else { given }
        }
    };
    Ok(Asked { steps, limit, timeout, lookback_delta })
}

fn limit(call: &Call) -> Result<usize, ApiError> {
    parse_limit(call.form.get("limit")).map_err(|error| ApiError::parameter("limit", error))
}

pub(super) fn instant(call: &Call) -> Result<Answer, ApiError> {
    let limit = limit(call)?;
    let time = match call.form.get("time") {
        "" => call.app.env().clock.now_ms(),
        text => parse_time(text)
            .map_err(|error| ApiError::parameter("time", format!("invalid time value for 'time': {error}")))?,
    };
    let asked = asked(call, false, limit)?;
    run(call, &asked, |engine, source, query, budget| engine.instant(source, query, time, budget))
}

pub(super) fn range(call: &Call) -> Result<Answer, ApiError> {
    let limit = limit(call)?;
    let time = |name: &str| parse_time(call.form.get(name)).map_err(|error| ApiError::parameter(name, error));
    let (start, end) = (time("start")?, time("end")?);
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step = parse_span_ns(call.form.get("step")).map_err(|error| ApiError::parameter("step", error))?;
    if step <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", text));
    }
    if i128::from(end - start) * 1_000_000 / i128::from(step) > i128::from(MAX_STEPS) {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    // Steps are milliseconds; a shorter one would stand still.
    let step = (step / 1_000_000).max(1);
    let asked = asked(call, true, limit)?;
    run(call, &asked, |engine, source, query, budget| engine.range(source, query, start, end, step, budget))
}

fn run(
    call: &Call,
    asked: &Asked,
    evaluate: impl FnOnce(&Engine, &dyn narthex::query::Source, &str, &Budget) -> narthex::error::Result<QueryResult>,
) -> Result<Answer, ApiError> {
    let begin = call.app.env().clock.monotonic();
    let query = call.form.get("query");
    // The text is looked at first: a mistake in it is the caller's, whatever the state of the storage.
    let expr = promql::parse(query).map_err(|error| ApiError::parameter("query", error))?;
    let kind = expr.value_type();
    if asked.steps && !matches!(kind, ValueType::Vector | ValueType::Scalar) {
        let found = quoted(kind.documented());
        let text = format!("invalid expression type {found} for range query, must be Scalar or instant Vector");
        return Err(ApiError::parameter("query", text));
    }
    let limits = BudgetLimits {
        samples: Some(call.app.limits().query_samples),
        timeout: Some(asked.timeout),
        ..BudgetLimits::default()
    };
    let budget = Arc::new(Budget::new(limits, &call.app.env().clock));
    call.watch(&budget);
    let engine = Engine::new(EngineOptions {
        lookback: i64::try_from(asked.lookback_delta.as_millis()).unwrap_or(i64::MAX),
        ..EngineOptions::default()
    });
    let source = call.storage.source()?;
    let mut result = evaluate(&engine, source.as_ref(), query, &budget)?;
    let prepared = call.app.env().clock.monotonic();
    let mut answer = Answer::default();
    answer.warnings.append(&mut result.warnings);
    answer.infos.append(&mut result.infos);
    let cut = match &mut result.value {
        Value::Vector(samples) => cut(samples, asked.limit),
        Value::Matrix(series) => cut(series, asked.limit),
        Value::Scalar { .. } | Value::String { .. } => false,
    };
    if cut {
        answer.warnings.push("results truncated due to limit".to_owned());
    }
    let stats = call.form.get("stats");
    if !matches!(stats, "" | "true" | "all") {
        answer.warnings.push(format!(
            "value {} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"",
            quoted(stats)
        ));
    }
    answer.data.push(b'{');
    put_value(&mut answer.data, &result.value);
    if !stats.is_empty() {
        let seconds = prepared.saturating_sub(begin).as_secs_f64();
        let timings = format!(
            ",\"stats\":{{\"timings\":{{\"evalTotalTime\":{seconds},\"resultSortTime\":0,\"queryPreparationTime\":0,\
             \"innerEvalTime\":{seconds},\"execQueueTime\":0,\"execTotalTime\":{seconds}}},\
             \"samples\":{{\"totalQueryableSamples\":{samples},\"samplesRead\":{samples},\"peakSamples\":{peak}}}}}",
            samples = result.stats.samples,
            peak = result.stats.peak_samples,
        );
        answer.data.extend_from_slice(timings.as_bytes());
    }
    answer.data.push(b'}');
    Ok(answer)
}

/// Keeps the first `limit`, and says whether there were more; 0 keeps all.
fn cut<T>(items: &mut Vec<T>, limit: usize) -> bool {
    let more = limit > 0 && items.len() > limit;
    if more {
        items.truncate(limit);
    }
    more
}

pub(super) fn format(call: &Call) -> Result<Answer, ApiError> {
    let expr = promql::parse(call.form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    let mut answer = Answer::default();
    put_text(&mut answer.data, &promql::pretty(&expr));
    Ok(answer)
}

/// The query's tree, for those who draw it.
pub(super) fn parse(call: &Call) -> Result<Answer, ApiError> {
    let expr = promql::parse(call.form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    super::value(&promql::to_json(&expr))
}

/// Exemplars of the series that any selector of the query finds. They are kept in memory alone.
///
/// Grafana asks with milliseconds where seconds belong: a time far ahead is no error.
pub(super) fn exemplars(call: &Call) -> Result<Answer, ApiError> {
    let time = |name: &str, default: i64| match call.form.get(name) {
        "" => Ok(default),
        text => parse_time(text)
            .map_err(|error| ApiError::parameter(name, format!("invalid time value for '{name}': {error}"))),
    };
    let range = TimeRange::new(time("start", i64::MIN)?, time("end", i64::MAX)?);
    if range.max < range.min {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = promql::parse(call.form.get("query")).map_err(|error| ApiError::bad_data(error.to_string()))?;
    let mut selectors = Vec::new();
    expr.for_each_selector(&mut |selector| selectors.push(selector.matchers.as_slice()));
    let mut answer = Answer::default();
    let found = if selectors.is_empty() { Vec::new() } else { call.storage.source()?.exemplars(range, &selectors)? };
    put_list(&mut answer.data, &found, |out, (labels, exemplars)| {
        out.extend_from_slice(b"{\"seriesLabels\":");
        put_labels(out, labels);
        out.extend_from_slice(b",\"exemplars\":");
        put_list(out, exemplars, |out, exemplar| {
            out.extend_from_slice(b"{\"labels\":");
            put_labels(out, &exemplar.labels);
            out.extend_from_slice(b",\"value\":");
            put_quoted_float(out, exemplar.value);
            out.extend_from_slice(b",\"timestamp\":");
            put_timestamp(out, exemplar.t);
            out.push(b'}');
        });
        out.push(b'}');
    });
    Ok(answer)
}
