//! From the tree of a query to one that can be run: constants folded, durations computed, `start()` and `end()` resolved,
//! and what does not depend on the step wrapped, so that it is evaluated once.

use super::ast::{At, Expr, Extent, NumberLiteral};
use super::functions::FunctionId;
use crate::error::{Error, ErrorKind, Result};

/// The times at which an expression is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The first, milliseconds.
    pub(crate) start: i64,
    /// None is later, milliseconds.
    pub(crate) end: i64,
    /// Between two of them, milliseconds; above zero.
    pub(crate) step: i64,
}

impl Grid {
    /// How many there are.
    pub(crate) fn steps(&self) -> usize {
        if self.end < self.start { 0 } else { ((self.end - self.start) / self.step) as usize + 1 }
    }

    /// The one with number `index`.
    pub(crate) fn time(&self, index: usize) -> i64 {
        self.start + index as i64 * self.step
    }

    /// The last one.
    pub(crate) fn last(&self) -> i64 {
        self.start + (self.end - self.start) / self.step * self.step
    }

    /// The first one alone.
    pub(crate) fn first_only(&self) -> Self {
        Self { end: self.start, ..*self }
    }

    /// Whether there is one only: an instant query, or what looks like one.
    pub(crate) fn is_instant(&self) -> bool {
        self.start == self.end
    }
}

/// The query's own times, as `start()`, `end()`, `range()` and `step()` see them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryTimes {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// 0 for an instant query.
    pub(crate) step: i64,
}

/// Makes `expr` ready to be run.
///
/// # Errors
/// `InvalidInput` if a duration cannot be computed.
pub(crate) fn prepare(mut expr: Expr, times: QueryTimes) -> Result<Expr> {
    fold(&mut expr, times)?;
    let (_, wrap) = invariance(&mut expr);
    Ok(if wrap { Expr::StepInvariant(Box::new(expr)) } else { expr })
}

/// Puts numbers where the query's times stand.
fn fold(expr: &mut Expr, times: QueryTimes) -> Result<()> {
    let at = |at: &mut Option<At>| match at {
        Some(At::Start) => *at = Some(At::Time(times.start)),
        Some(At::End) => *at = Some(At::Time(times.end)),
        _ => {}
    };
    let extent = |extent: &mut Extent, negative: bool| -> Result<()> {
        let value = extent.resolve(times.step, times.end - times.start, negative);
        *extent = Extent::Fixed(value.map_err(|text| Error::new(ErrorKind::InvalidInput, text))?);
        Ok(())
    };
    match expr {
        Expr::Vector(selector) => {
            at(&mut selector.at);
            extent(&mut selector.offset, true)?;
        }
        Expr::Matrix(matrix) => {
            at(&mut matrix.selector.at);
            extent(&mut matrix.selector.offset, true)?;
            extent(&mut matrix.range, false)?;
        }
        Expr::Subquery(subquery) => {
            at(&mut subquery.at);
            extent(&mut subquery.offset, true)?;
            extent(&mut subquery.range, false)?;
            if let Some(step) = &mut subquery.step {
                extent(step, false)?;
            }
        }
        Expr::Call(call) => {
            let value = match call.function.id {
                FunctionId::Start => times.start as f64 / 1000.0,
                FunctionId::End => times.end as f64 / 1000.0,
                FunctionId::Range => seconds(times.end - times.start),
                FunctionId::Step if times.start == times.end => 0.0,
                FunctionId::Step => seconds(times.step),
                _ => f64::NAN,
            };
            if !value.is_nan() {
                *expr = Expr::Number(NumberLiteral { value, duration: false, span: call.span });
                return Ok(());
            }
        }
        _ => {}
    }
    let mut result = Ok(());
    expr.for_each_child_mut(|child| {
        if result.is_ok() {
            result = fold(child, times);
        }
    });
    result
}

/// Milliseconds in seconds, rounded as Go's `Duration.Seconds` does.
pub(crate) fn seconds(milliseconds: i64) -> f64 {
    (milliseconds / 1000) as f64 + (milliseconds % 1000 * 1_000_000) as f64 / 1e9
}

/// Milliseconds of an extent that [`prepare`] has resolved.
pub(crate) fn fixed(extent: &Extent) -> i64 {
    match extent {
        Extent::Fixed(milliseconds) => *milliseconds,
        Extent::Expr(_) => 0,
    }
}

/// The time of an `@` that [`prepare`] has resolved.
pub(crate) fn at_time(at: Option<At>) -> Option<i64> {
    match at {
        Some(At::Time(t)) => Some(t),
        _ => None,
    }
}

fn wrap(expr: &mut Expr) {
    let inner = std::mem::replace(expr, Expr::Number(NumberLiteral { value: 0.0, duration: false, span: expr.span() }));
    *expr = Expr::StepInvariant(Box::new(inner));
}

fn unwrap_parens(expr: &mut Expr) {
    while let Expr::Paren(paren) = expr {
        let span = paren.span;
        let placeholder = Expr::Number(NumberLiteral { value: 0.0, duration: false, span });
        let inner = std::mem::replace(&mut *paren.expr, placeholder);
        *expr = inner;
    }
}

/// Wraps what is step-invariant below `expr`, as high as possible. Answers whether `expr` itself is, and whether it
/// should be wrapped if what is around it is not.
fn invariance(expr: &mut Expr) -> (bool, bool) {
    match expr {
        Expr::Vector(selector) => (selector.at.is_some(), selector.at.is_some()),
        Expr::Matrix(matrix) => (matrix.selector.at.is_some(), false),
        Expr::Aggregate(aggregate) => {
            unwrap_parens(&mut aggregate.expr);
            let Some(param) = &mut aggregate.param else { return invariance(&mut aggregate.expr) };
            unwrap_parens(param);
            // Prometheus looks at the operand alone, and so takes the parameter of the first step for all of them.
            invariance(&mut aggregate.expr)
        }
        Expr::Binary(binary) => {
            let (left, wrap_left) = invariance(&mut binary.lhs);
            let (right, wrap_right) = invariance(&mut binary.rhs);
            if left && right {
                return (true, true);
            }
            if wrap_left {
                wrap(&mut binary.lhs);
            }
            if wrap_right {
                wrap(&mut binary.rhs);
            }
            (false, false)
        }
        Expr::Call(call) => {
            let mut invariant = !depends_on_time(call.function.id);
            // `timestamp(x @ 1)` is the time of a sample; `timestamp(abs(x @ 1))` is that of the step.
            let mut safe_timestamp = call.function.id == FunctionId::Timestamp;
            let mut wraps = Vec::new();
            for arg in &mut call.args {
                unwrap_parens(arg);
                let (arg_invariant, wrap_arg) = invariance(arg);
                invariant &= arg_invariant;
                wraps.push(wrap_arg);
                safe_timestamp &= arg_invariant && matches!(arg, Expr::Vector(_));
            }
            if invariant || safe_timestamp {
                return (true, true);
            }
            for (arg, wrap_arg) in call.args.iter_mut().zip(wraps) {
                // A window is handed to its function as it is.
                if wrap_arg && !matches!(arg, Expr::Subquery(_)) {
                    wrap(arg);
                }
            }
            (false, false)
        }
        Expr::Subquery(subquery) => {
            if invariance(&mut subquery.expr).0 {
                wrap(&mut subquery.expr);
            }
            (subquery.at.is_some(), subquery.at.is_some())
        }
        Expr::Paren(paren) => invariance(&mut paren.expr),
        Expr::Unary(unary) => invariance(&mut unary.expr),
        Expr::String(_) | Expr::Number(_) => (true, false),
        Expr::StepInvariant(_) => (true, false),
    }
}

/// Whether a function's result can change with the time of evaluation though its arguments do not.
fn depends_on_time(id: FunctionId) -> bool {
    use FunctionId as F;
    matches!(
        id,
        F::DaysInMonth
            | F::DayOfMonth
            | F::DayOfWeek
            | F::DayOfYear
            | F::End
            | F::Hour
            | F::Minute
            | F::Month
            | F::Year
            | F::PredictLinear
            | F::Range
            | F::Start
            | F::Step
            | F::Time
            | F::Timestamp
    )
}
