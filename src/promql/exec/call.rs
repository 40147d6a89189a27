//! Calls: which operator a function is.

use std::f64::consts::{LN_2, LN_10, PI};

use super::scalar::{go_max, go_min, log2, scalar};
use super::{
    BoxOperator, Collision, Column, Context, Operator, Ready, SeriesInfo, buckets, distinct, is_over_window,
    names_differ, order, range, select, unsupported, vector, without_names,
};
use crate::error::Result;
use crate::model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, civil};
use crate::promql::ast::{Call, Expr};
use crate::promql::functions::FunctionId;
use crate::promql::plan::Grid;

/// The operator of a call whose value is a vector.
///
/// # Errors
/// Those of its arguments; `Unsupported`.
pub(crate) fn build<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    use FunctionId as F;
    let id = call.function.id;
    if id == F::AbsentOverTime {
        return absent_over_time(cx, call, grid);
    }
    if is_over_window(id) {
        return range::build(cx, call, grid);
    }
    match (id, &call.args[..]) {
        (F::Vector, [arg]) => Ok(Box::new(single(Labels::empty(), scalar(cx, arg, grid)?, false))),
        (F::Absent, [arg]) => absent(cx, arg, grid),
        (F::Timestamp, [arg]) => match unwrap_parens(arg) {
            Expr::Vector(selector) => {
                let input = select::instant(cx, selector, grid, select::Give::Time)?;
                Ok(if names_may_collide(cx, arg) { distinct(input, Collision::AtStep) } else { input })
            }
            _ => Columnwise::dropping_name(cx, vector(cx, arg, grid)?, move |column| {
                column.present = column.occupied();
                column.histograms.clear();
                for step in 0..column.steps() {
                    column.values[step] = grid.time(step) as f64 / 1000.0;
                }
                Ok(())
            }),
        },
        (F::Round, [arg, nearest @ ..]) => {
            let nearest = match nearest.first() {
                Some(nearest) => scalar(cx, nearest, grid)?,
                None => vec![1.0; grid.steps()],
            };
            floats_by_step(cx, arg, grid, move |step, v| {
                let inverse = 1.0 / nearest[step];
                Some((v * inverse + 0.5).floor() / inverse)
            })
        }
        (F::Clamp, [arg, min, max]) => {
            let (min, max) = (scalar(cx, min, grid)?, scalar(cx, max, grid)?);
            floats_by_step(cx, arg, grid, move |step, v| {
                // `max < min`, and not its negation: with a NaN it goes on.
                (!(max[step] < min[step])).then(|| go_max(min[step], go_min(max[step], v)))
            })
        }
        (F::ClampMin, [arg, min]) => {
            let min = scalar(cx, min, grid)?;
            floats_by_step(cx, arg, grid, move |step, v| Some(go_max(min[step], go_min(f64::INFINITY, v))))
        }
        (F::ClampMax, [arg, max]) => {
            let max = scalar(cx, max, grid)?;
            floats_by_step(cx, arg, grid, move |step, v| Some(go_max(f64::NEG_INFINITY, go_min(max[step], v))))
        }
        (F::Sort | F::SortDesc | F::SortByLabel | F::SortByLabelDesc, _) => order::sort(cx, call, grid),
        (F::HistogramQuantile | F::HistogramQuantiles | F::HistogramFraction, _) => buckets::build(cx, call, grid),
        (F::HistogramCount | F::HistogramSum | F::HistogramAvg | F::HistogramStddev | F::HistogramStdvar, [arg]) => {
            let value = super::super::histogram_ops::statistic(id);
            Columnwise::dropping_name(cx, vector(cx, arg, grid)?, move |column| {
                let histograms = std::mem::take(&mut column.histograms);
                column.present.reset(column.values.len());
                for (step, histogram) in histograms {
                    column.set(step as usize, value(&histogram));
                }
                Ok(())
            })
        }
        (F::LabelReplace | F::LabelJoin, _) => order::relabel(cx, call, grid),
        (
            F::Minute | F::Hour | F::DayOfWeek | F::DayOfMonth | F::DayOfYear | F::DaysInMonth | F::Month | F::Year,
            args,
        ) => match args.first() {
            None => {
                let times = (0..grid.steps()).map(|step| date_part(id, grid.time(step) / 1000));
                Ok(Box::new(single(Labels::empty(), times.collect(), false)))
            }
            Some(arg) => floats(cx, arg, grid, move |v| date_part(id, whole_seconds(v))),
        },
        (_, [arg]) => match math(id) {
            Some(function) => floats(cx, arg, grid, function),
            None => Err(unsupported(call.function.name)),
        },
        _ => Err(unsupported(call.function.name)),
    }
}

fn unwrap_parens(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(paren) => unwrap_parens(&paren.expr),
        other => other,
    }
}

/// Whether the series of a selector may have several names.
fn names_may_collide(cx: &Context<'_>, arg: &Expr) -> bool {
    let one_name = match unwrap_parens(arg) {
        Expr::Vector(selector) => {
            selector.matchers.iter().any(|matcher| matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal)
        }
        _ => false,
    };
    !one_name && !cx.delayed()
}

/// Functions of one float.
fn math(id: FunctionId) -> Option<fn(f64) -> f64> {
    use FunctionId as F;
    Some(match id {
        F::Abs => f64::abs,
        F::Ceil => f64::ceil,
        F::Floor => f64::floor,
        F::Sqrt => f64::sqrt,
        F::Exp => f64::exp,
        F::Ln => f64::ln,
        F::Log2 => log2,
        // As Go does it: irate and its like blow the last bit up.
        F::Log10 => |v| log2(v) * (LN_2 / LN_10),
        F::Sgn => |v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        },
        F::Acos => f64::acos,
        F::Acosh => f64::acosh,
        F::Asin => f64::asin,
        F::Asinh => f64::asinh,
        F::Atan => f64::atan,
        F::Atanh => f64::atanh,
        F::Cos => f64::cos,
        F::Cosh => f64::cosh,
        F::Sin => f64::sin,
        F::Sinh => f64::sinh,
        F::Tan => f64::tan,
        F::Tanh => f64::tanh,
        F::Deg => |v| v * 180.0 / PI,
        F::Rad => |v| v * PI / 180.0,
        _ => return None,
    })
}

/// A float as whole seconds. What does not fit is the time that Go makes of the smallest integer: it counts from a year
/// long ago, and wraps.
fn whole_seconds(v: f64) -> i64 {
    const TO_GOS_YEAR_ZERO: i128 = 62_135_596_800 + (730_692_556 * 146_097 + 306) * 86_400;
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&v) {
        return v as i64;
    }
    let wrapped = (i128::from(i64::MIN) + TO_GOS_YEAR_ZERO).rem_euclid(1 << 64);
    (wrapped - TO_GOS_YEAR_ZERO).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// A part of the date of a time in seconds, UTC.
fn date_part(id: FunctionId, seconds: i64) -> f64 {
    use FunctionId as F;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let part = match id {
        F::Minute => second / 60 % 60,
        F::Hour => second / 3600,
        F::DayOfWeek => (days + 4).rem_euclid(7),
        F::DayOfMonth => day,
        F::DayOfYear => lengths[..(month - 1) as usize].iter().sum::<i64>() + day,
        F::DaysInMonth => lengths[(month - 1) as usize],
        F::Month => month,
        _ => year,
    };
    part as f64
}

/// A vector of one series without a name.
fn single(labels: Labels, values: Vec<f64>, drop_name: bool) -> Ready<'static> {
    let steps = values.len();
    let mut column = Column::new(steps);
    column.values = values;
    column.present.fill();
    Ready { series: vec![SeriesInfo { labels, drop_name }], columns: vec![column], steps, held: None }
}

/// An operator that changes columns one by one.
pub(crate) struct Columnwise<'q, F> {
    input: BoxOperator<'q>,
    series: Vec<SeriesInfo>,
    change: F,
}

impl<'q, F: FnMut(&mut Column) -> Result<()> + Send + 'q> Columnwise<'q, F> {
    /// `change` over `input`, whose series keep their names.
    pub(crate) fn keeping_name(input: BoxOperator<'q>, change: F) -> BoxOperator<'q> {
        let series = input.series().to_vec();
        Box::new(Self { input, series, change })
    }

    /// `change` over `input`, whose series lose their names.
    pub(crate) fn dropping_name(cx: &Context<'_>, input: BoxOperator<'q>, change: F) -> Result<BoxOperator<'q>> {
        let collide = !cx.delayed() && names_differ(input.series());
        let series = without_names(cx, input.series());
        let operator = Box::new(Self { input, series, change });
        Ok(if collide { distinct(operator, Collision::AtStep) } else { operator })
    }
}

impl<F: FnMut(&mut Column) -> Result<()> + Send> Operator for Columnwise<'_, F> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        self.input.column(index, out)?;
        (self.change)(out)
    }
}

/// A function of each float; histograms are left out.
fn floats<'q>(
    cx: &'q Context<'q>,
    arg: &'q Expr,
    grid: Grid,
    function: impl Fn(f64) -> f64 + Send + 'q,
) -> Result<BoxOperator<'q>> {
    Columnwise::dropping_name(cx, vector(cx, arg, grid)?, move |column| {
        column.histograms.clear();
        column.map_floats(&function);
        Ok(())
    })
}

/// A function of each float and its step, which may leave it out; histograms are left out.
fn floats_by_step<'q>(
    cx: &'q Context<'q>,
    arg: &'q Expr,
    grid: Grid,
    function: impl Fn(usize, f64) -> Option<f64> + Send + 'q,
) -> Result<BoxOperator<'q>> {
    Columnwise::dropping_name(cx, vector(cx, arg, grid)?, move |column| {
        column.histograms.clear();
        for step in 0..column.steps() {
            let Some(value) = column.get(step) else { continue };
            match function(step, value) {
                Some(value) => column.values[step] = value,
                None => column.present.clear(step),
            }
        }
        Ok(())
    })
}

/// The labels that an absent series would have: those that the selector says exactly.
fn absent_labels(arg: &Expr) -> Labels {
    let matchers = match unwrap_parens(arg) {
        Expr::Vector(selector) => &selector.matchers,
        Expr::Matrix(matrix) => &matrix.selector.matchers,
        Expr::StepInvariant(inner) => return absent_labels(inner),
        _ => return Labels::empty(),
    };
    let mut said: Vec<&str> = Vec::new();
    let mut builder = LabelsBuilder::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
        if matcher.op() == MatchOp::Equal && !said.contains(&matcher.name()) {
            builder.push(matcher.name(), matcher.value());
            said.push(matcher.name());
        } else {
            builder.push(matcher.name(), "");
        }
    }
    builder.build()
}

fn absent<'q>(cx: &'q Context<'q>, arg: &'q Expr, grid: Grid) -> Result<BoxOperator<'q>> {
    // Prometheus does not look through its own wrapper for what is constant either.
    let labels = if matches!(arg, Expr::StepInvariant(_)) { Labels::empty() } else { absent_labels(arg) };
    let input = vector(cx, arg, grid)?;
    ones_where_nothing_is(input, labels, grid, false)
}

fn absent_over_time<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    let labels = call.args.first().map_or(Labels::empty(), absent_labels);
    let input = range::build(cx, call, grid)?;
    ones_where_nothing_is(input, labels, grid, true)
}

fn ones_where_nothing_is<'q>(
    mut input: BoxOperator<'q>,
    labels: Labels,
    grid: Grid,
    drop_name: bool,
) -> Result<BoxOperator<'q>> {
    let mut ones = single(labels, vec![1.0; grid.steps()], drop_name);
    let mut column = Column::default();
    for index in 0..input.series().len() {
        input.column(index, &mut column)?;
        if let Some(one) = ones.columns.first_mut() {
            one.present.subtract(&column.occupied());
            if one.present.is_empty() {
                break;
            }
        }
    }
    Ok(Box::new(ones))
}
