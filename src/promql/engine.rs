//! The engine: a query's text, a source and times in, an answer out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::annotation::Annotations;
use super::ast::{Expr, Subquery, ValueType};
use super::exec::{
    BoxOperator, Collision, Column, Context, Plans, SeriesInfo, distinct, drop_metadata, scalar, vector, window_samples,
};
use super::plan::{Grid, QueryTimes, prepare};
use super::value::{InstantSample, QueryResult, QueryStats, RangeSeries, SampleValue, Value};
use super::{ParseOptions, parse_with};
use crate::budget::Budget;
use crate::error::{Error, ErrorKind, Result};
use crate::query::Source;

/// What an [`Engine`] does the same for every query.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// How long a sample is the series' value if no newer one comes, milliseconds.
    pub lookback: i64,
    /// The step of a subquery that names none, milliseconds: Prometheus takes its evaluation interval.
    pub default_subquery_step: i64,
    /// Whether functions take names away only at the end of a query, so that what is around them still sees them:
    /// Prometheus's `promql-delayed-name-removal`.
    pub delayed_name_removal: bool,
    /// What of the language is allowed.
    pub parse: ParseOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lookback: 300_000,
            default_subquery_step: 60_000,
            delayed_name_removal: false,
            parse: ParseOptions::default(),
        }
    }
}

/// Answers PromQL queries. Holds nothing but its options: share one, or make one a query.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// An engine with `options`.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        Self { options }
    }

    /// Its options.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The value of `query` at one time, in milliseconds.
    ///
    /// # Errors
    /// `InvalidInput` for a text that is no query, and for what only the data shows to be wrong; `Unsupported` for what
    /// is not there yet; the budget's; the source's.
    pub fn instant(&self, source: &dyn Source, query: &str, t: i64, budget: &Budget) -> Result<QueryResult> {
        let expr = parse_with(query, self.options.parse)?;
        let kind = expr.value_type();
        let times = QueryTimes { start: t, end: t, step: 0 };
        let expr = prepare(expr, times)?;
        self.run(source, query, &expr, kind, Grid { start: t, end: t, step: 1 }, true, budget)
    }

    /// The values of `query` from `start` to `end`, every `step`; all in milliseconds, the step above zero.
    ///
    /// # Errors
    /// As [`instant`](Engine::instant); `InvalidInput` for times that are none, and for a query whose value is neither
    /// scalar nor instant vector.
    pub fn range(
        &self,
        source: &dyn Source,
        query: &str,
        start: i64,
        end: i64,
        step: i64,
        budget: &Budget,
    ) -> Result<QueryResult> {
        let expr = parse_with(query, self.options.parse)?;
        if step <= 0 || end < start {
            let text = "a range query needs a step above zero and an end that is not before its start";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let kind = expr.value_type();
        if !matches!(kind, ValueType::Vector | ValueType::Scalar) {
            let text = format!(
                "invalid expression type {:?} for range query, must be Scalar or instant Vector",
                kind.documented()
            );
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let expr = prepare(expr, QueryTimes { start, end, step })?;
        self.run(source, query, &expr, kind, Grid { start, end, step }, false, budget)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where a query's parts come together")]
    fn run(
        &self,
        source: &dyn Source,
        query: &str,
        expr: &Expr,
        kind: ValueType,
        grid: Grid,
        instant: bool,
        budget: &Budget,
    ) -> Result<QueryResult> {
        budget.check()?;
        let mut plans = Plans::default();
        plans.add(&self.options, expr, grid);
        let (selections, mut source_warnings) = plans.run(source, budget)?;
        let series = selections.iter().map(|selection| selection.series.len() as u64).sum();
        let cx = Context {
            budget,
            options: &self.options,
            annotations: Annotations::default(),
            selections,
            slots: plans.slots,
            samples: AtomicU64::new(0),
        };
        let value = match kind {
            ValueType::String => match expr.unwrap_parens() {
                Expr::String(literal) => Value::String { t: grid.start, v: literal.value.clone() },
                _ => return Err(Error::new(ErrorKind::InvalidInput, "a string is expected here")),
            },
            ValueType::Scalar => {
                let values = scalar(&cx, expr, grid)?;
                if instant {
                    Value::Scalar { t: grid.start, v: values.first().copied().unwrap_or(f64::NAN) }
                } else {
                    let floats = (0..grid.steps()).map(|step| grid.time(step)).zip(values).collect();
                    Value::Matrix(vec![RangeSeries {
                        labels: crate::model::Labels::empty(),
                        floats,
                        histograms: Vec::new(),
                    }])
                }
            }
            ValueType::Matrix => matrix(&cx, expr, grid)?,
            ValueType::Vector => {
                let operator = named(&cx, vector(&cx, expr, grid)?);
                if instant { instant_vector(&cx, operator, grid.start)? } else { range_vector(&cx, operator, grid)? }
            }
        };
        let (mut warnings, infos) = cx.annotations.texts(query);
        warnings.append(&mut source_warnings);
        let stats =
            QueryStats { series, samples: cx.samples.load(Ordering::Relaxed), peak_samples: budget.peak_samples() };
        Ok(QueryResult { value, warnings, infos, stats })
    }
}

/// With delayed removal: the series without the names that functions took away.
fn named<'q>(cx: &Context<'_>, operator: BoxOperator<'q>) -> BoxOperator<'q> {
    if !cx.delayed() || !operator.series().iter().any(|info| info.drop_name) {
        return operator;
    }
    let series = operator.series().iter().map(|info| SeriesInfo {
        labels: if info.drop_name { drop_metadata(&info.labels) } else { info.labels.clone() },
        drop_name: false,
    });
    let series = series.collect();
    distinct(Box::new(super::exec::Renamed { series, input: operator }), Collision::AtStep)
}

fn instant_vector(cx: &Context<'_>, mut operator: BoxOperator<'_>, t: i64) -> Result<Value> {
    let mut samples = Vec::new();
    let mut column = Column::default();
    for index in 0..operator.series().len() {
        if index % 64 == 0 {
            cx.budget.check()?;
        }
        operator.column(index, &mut column)?;
        let value = match (column.get(0), column.histogram(0)) {
            (Some(value), _) => SampleValue::Float(value),
            (None, Some(histogram)) => SampleValue::Histogram(histogram.clone()),
            (None, None) => continue,
        };
        cx.budget.take_samples(1)?;
        if let Some(info) = operator.series().get(index) {
            samples.push(InstantSample { labels: info.labels.clone(), t, value });
        }
    }
    Ok(Value::Vector(samples))
}

fn range_vector(cx: &Context<'_>, mut operator: BoxOperator<'_>, grid: Grid) -> Result<Value> {
    let mut all = Vec::new();
    let mut column = Column::default();
    for index in 0..operator.series().len() {
        if index % 64 == 0 {
            cx.budget.check()?;
        }
        operator.column(index, &mut column)?;
        if column.is_empty() {
            continue;
        }
        cx.budget.take_samples(column.samples() as u64)?;
        let floats = column.present.iter().filter_map(|step| Some((grid.time(step), column.get(step)?))).collect();
        let histograms = column.histograms.iter();
        let histograms = histograms.map(|(step, histogram)| (grid.time(*step as usize), histogram.clone())).collect();
        if let Some(info) = operator.series().get(index) {
            all.push(RangeSeries { labels: info.labels.clone(), floats, histograms });
        }
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(Value::Matrix(all))
}

/// The samples of a range selector or a subquery that is a query by itself.
fn matrix(cx: &Context<'_>, expr: &Expr, grid: Grid) -> Result<Value> {
    match expr {
        Expr::Paren(paren) => matrix(cx, &paren.expr, grid),
        Expr::StepInvariant(inner) => matrix(cx, inner, grid),
        Expr::Matrix(selector) => {
            let mut all = window_samples(cx, selector, grid)?;
            all.sort_by(|a, b| a.labels.cmp(&b.labels));
            Ok(Value::Matrix(all))
        }
        Expr::Subquery(subquery) => subquery_samples(cx, subquery, grid),
        _ => Err(Error::new(ErrorKind::InvalidInput, "a range vector is expected here")),
    }
}

fn subquery_samples(cx: &Context<'_>, subquery: &Subquery, grid: Grid) -> Result<Value> {
    let inner = super::exec::subquery_grid(cx.options, subquery, grid);
    let operator = named(cx, vector(cx, &subquery.expr, inner)?);
    range_vector(cx, operator, inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BudgetLimits;
    use crate::error::ErrorKind;
    use crate::query::{SelectRequest, SeriesSet};

    struct Nothing;
    impl SeriesSet for Nothing {
        fn next(&mut self) -> Result<Option<crate::query::Series>> {
            Ok(None)
        }
    }
    impl Source for Nothing {
        fn select(&self, _: &SelectRequest<'_>) -> Result<Box<dyn SeriesSet>> {
            Ok(Box::new(Nothing))
        }
        fn label_names(&self, _: &SelectRequest<'_>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn label_values(&self, _: &str, _: &SelectRequest<'_>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn constants_need_no_data() {
        let engine = Engine::default();
        let result = engine.instant(&Nothing, "1 + 2 * 3", 5, &Budget::unlimited()).unwrap();
        assert!(matches!(result.value, Value::Scalar { t: 5, v: 7.0 }));
        let result = engine.range(&Nothing, "absent(up{job=\"a\"})", 0, 20, 10, &Budget::unlimited()).unwrap();
        let Value::Matrix(all) = result.value else { panic!("{:?}", result.value) };
        assert_eq!(all[0].labels.to_string(), r#"{job="a"}"#);
        assert_eq!(all[0].floats, [(0, 1.0), (10, 1.0), (20, 1.0)]);
    }

    #[test]
    fn a_range_query_must_be_a_vector_or_a_scalar() {
        let error = Engine::default().range(&Nothing, "up[5m]", 0, 1, 1, &Budget::unlimited()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"
        );
    }

    #[test]
    fn a_query_of_more_steps_than_samples_may_be_held_is_refused_before_memory_is_taken() {
        let limits = BudgetLimits { samples: Some(1000), ..BudgetLimits::default() };
        let clock = crate::fs::Env::real().clock;
        let engine = Engine::default();
        for query in
            ["sum_over_time(vector(1)[1h:1s])", "vector(1)[1h:1s]", "max_over_time(sum_over_time(up[2s:1s])[1h:1s])"]
        {
            let error = engine.instant(&Nothing, query, 0, &Budget::new(limits, &clock)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{query}: {error}");
        }
        let error = engine.range(&Nothing, "vector(1)", 0, 2000, 1, &Budget::new(limits, &clock)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(engine.range(&Nothing, "vector(1)", 0, 900, 1, &Budget::new(limits, &clock)).is_ok());
        // Nobody has so much, limit or not.
        let far = engine.instant(&Nothing, "sum_over_time(vector(1)[290y:1ms])", 0, &Budget::unlimited());
        assert_eq!(far.unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn a_cancelled_query_ends() {
        let budget = Budget::unlimited();
        budget.cancel();
        let error = Engine::default().instant(&Nothing, "up", 0, &budget).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
