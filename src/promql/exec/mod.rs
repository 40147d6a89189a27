//! The evaluator: operators that stream by series.
//!
//! An [`Operator`] first says which series it will give, and then gives the results of any one of them as a [`Column`]:
//! a value a step. Selectors decode a series when it is asked for, functions work on the column that they are handed,
//! and an aggregation runs through its input once and holds only its groups. So a query holds its results, its groups
//! and one series at a time, whatever it selects. Series that turn out to have no samples are given as empty columns
//! and left out at the end.
//!
//! Sums are taken in the order of the series, with Prometheus's compensation, so that an answer is Prometheus's to the
//! last bits; where a window can be moved along without changing a bit of any result, it is.

#![expect(
    clippy::indexing_slicing,
    reason = "indices are those of columns and series lists that are made here, to lengths that are made here"
)]
#![expect(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "with a NaN, `!(a >= b)` and `a < b` differ, and it is the former that Prometheus computes"
)]

mod aggregate;
mod binary;
mod buckets;
mod call;
mod column;
mod distinct;
mod edges;
mod order;
mod range;
mod scalar;
mod select;
mod set_op;
mod topk;
mod windows;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use call::Columnwise;
pub(crate) use column::{Column, Steps};
pub(crate) use distinct::{Collision, distinct};
pub(crate) use scalar::{log2, scalar};
pub(crate) use select::{Plans, Selection, subquery_grid, window_samples};

use super::EngineOptions;
use super::annotation::{Annotations, Remark};
use super::ast::{Expr, Span, VectorSelector};
use super::functions::FunctionId;
use super::plan::Grid;
use crate::budget::Budget;
use crate::codec::FixedMap;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, METRIC_NAME};

/// A series that an operator gives.
#[derive(Debug, Clone)]
pub(crate) struct SeriesInfo {
    /// What it is called.
    pub(crate) labels: Labels,
    /// Whether its name goes at the end of the query: only with delayed name removal.
    pub(crate) drop_name: bool,
}

/// A part of a running query.
pub(crate) trait Operator: Send {
    /// The series, in order. Some may turn out to have no samples.
    fn series(&self) -> &[SeriesInfo];

    /// The results of series `index`. `out` is overwritten. Cheapest if each is asked for once, in order.
    ///
    /// # Errors
    /// The source's; the budget's; `InvalidInput` for what only the data shows to be wrong.
    fn column(&mut self, index: usize, out: &mut Column) -> Result<()>;
}

/// An operator of a query that lives for `'q`.
pub(crate) type BoxOperator<'q> = Box<dyn Operator + 'q>;

/// What all operators of a query share.
pub(crate) struct Context<'q> {
    pub(crate) budget: &'q Budget,
    pub(crate) options: &'q EngineOptions,
    pub(crate) annotations: Annotations,
    pub(crate) selections: Vec<Selection>,
    /// Where a selector's series are, by where it begins in the query.
    pub(crate) slots: FixedMap<usize, usize>,
    pub(crate) samples: AtomicU64,
}

impl<'q> Context<'q> {
    pub(crate) fn delayed(&self) -> bool {
        self.options.delayed_name_removal
    }

    pub(crate) fn remark(&self, remark: Remark, span: Span) {
        self.annotations.add(remark, span);
    }

    pub(crate) fn selection(&self, selector: &VectorSelector) -> Result<&Selection> {
        let slot = self.slots.get(&selector.span.start).and_then(|slot| self.selections.get(*slot));
        slot.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a selector was not planned"))
    }

    /// Takes `count` decoded samples; to be given back when they are dropped.
    pub(crate) fn take_samples(&self, count: usize) -> Result<()> {
        self.samples.fetch_add(count as u64, Ordering::Relaxed);
        self.budget.take_samples(count as u64)
    }

    pub(crate) fn give_samples(&self, count: usize) {
        self.budget.give_samples(count as u64);
    }
}

/// Bytes taken from a budget until dropped.
pub(crate) struct Held<'q> {
    budget: &'q Budget,
    bytes: u64,
}

impl<'q> Held<'q> {
    pub(crate) fn new(budget: &'q Budget, bytes: usize) -> Result<Self> {
        budget.take_bytes(bytes as u64)?;
        Ok(Self { budget, bytes: bytes as u64 })
    }

    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes as u64;
        self.budget.take_bytes(bytes as u64)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.give_bytes(self.bytes);
    }
}

/// The operator for an expression that is a vector.
///
/// # Errors
/// Those of the operators that must run through their input at once; `Unsupported` for what is not there yet.
pub(crate) fn vector<'q>(cx: &'q Context<'q>, expr: &'q Expr, grid: Grid) -> Result<BoxOperator<'q>> {
    cx.budget.check()?;
    match expr {
        Expr::Vector(selector) => select::instant(cx, selector, grid, select::Give::Value),
        Expr::Paren(paren) => vector(cx, &paren.expr, grid),
        Expr::StepInvariant(inner) => {
            let input = vector(cx, inner, grid.first_only())?;
            Ok(Box::new(Invariant { input, steps: grid.steps(), first: Column::default() }))
        }
        Expr::Unary(unary) if unary.minus => {
            let input = vector(cx, &unary.expr, grid)?;
            let negate = |column: &mut Column| {
                column.map_floats(|v| -v);
                super::histogram_ops::scale_column(column, -1.0);
                Ok(())
            };
            Columnwise::dropping_name(cx, input, negate)
        }
        Expr::Unary(unary) => vector(cx, &unary.expr, grid),
        Expr::Aggregate(aggregate) => aggregate::build(cx, aggregate, grid),
        Expr::Binary(binary) => binary::build(cx, binary, grid),
        Expr::Call(call) => call::build(cx, call, grid),
        Expr::Number(_) | Expr::String(_) | Expr::Matrix(_) | Expr::Subquery(_) => {
            Err(Error::new(ErrorKind::InvalidInput, "an instant vector is expected here"))
        }
    }
}

/// What is not there yet.
pub(crate) fn unsupported(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("not supported yet: {name}"))
}

/// What only the data shows to be wrong.
pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, text.into())
}

/// Whether a query may give this name to a label. The replacement character stands for bytes that are no text, and those
/// make no name.
pub(crate) fn is_label_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\u{fffd}')
}

/// Whether `name` says what a series is rather than where it comes from: those labels go when its meaning changes.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// The labels without name, type and unit.
pub(crate) fn drop_metadata(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) { labels.without(is_metadata) } else { labels.clone() }
}

/// Series whose meaning a function has changed: without their names, now or at the end.
pub(crate) fn without_names(cx: &Context<'_>, series: &[SeriesInfo]) -> Vec<SeriesInfo> {
    let changed = series.iter().map(|info| SeriesInfo {
        labels: if cx.delayed() { info.labels.clone() } else { drop_metadata(&info.labels) },
        drop_name: true,
    });
    changed.collect()
}

/// Whether dropping names may make two series the same: not if they all have one name.
pub(crate) fn names_differ(series: &[SeriesInfo]) -> bool {
    let metadata = |info: &SeriesInfo| {
        let get = |name| info.labels.get(name).map(str::to_owned);
        (get(METRIC_NAME), get("__type__"), get("__unit__"))
    };
    let Some(first) = series.first() else { return false };
    let (name, kind, unit) = metadata(first);
    let same = |labels: &Labels| {
        labels.get(METRIC_NAME) == name.as_deref()
            && labels.get("__type__") == kind.as_deref()
            && labels.get("__unit__") == unit.as_deref()
    };
    !series.iter().all(|info| same(&info.labels))
}

/// The function's name, where it is one whose value is a vector and that has a window.
pub(crate) fn is_over_window(id: FunctionId) -> bool {
    super::functions::FUNCTIONS
        .iter()
        .any(|function| function.id == id && function.args.contains(&super::ast::ValueType::Matrix))
}

/// One step's results at every step.
struct Invariant<'q> {
    input: BoxOperator<'q>,
    steps: usize,
    first: Column,
}

impl Operator for Invariant<'_> {
    fn series(&self) -> &[SeriesInfo] {
        self.input.series()
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        self.input.column(index, &mut self.first)?;
        out.reset(self.steps);
        if let Some(value) = self.first.get(0) {
            out.values.fill(value);
            out.present.fill();
        } else if let Some(histogram) = self.first.histogram(0) {
            for step in 0..self.steps {
                out.push_histogram(step, histogram.clone());
            }
        }
        Ok(())
    }
}

/// Columns that are there already.
pub(crate) struct Ready<'q> {
    pub(crate) series: Vec<SeriesInfo>,
    pub(crate) columns: Vec<Column>,
    pub(crate) steps: usize,
    pub(crate) held: Option<Held<'q>>,
}

impl Operator for Ready<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        match self.columns.get(index) {
            Some(column) => out.clone_from(column),
            None => out.reset(self.steps),
        }
        Ok(())
    }
}

/// The same series under other names.
pub(crate) struct Renamed<'q> {
    pub(crate) series: Vec<SeriesInfo>,
    pub(crate) input: BoxOperator<'q>,
}

impl Operator for Renamed<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        self.input.column(index, out)
    }
}
