//! Selectors: which series are needed from when to when, and what they are at each step.

use std::fmt::Write;

use super::range::around;
use super::{BoxOperator, Column, Context, Operator, SeriesInfo, edges, invalid, without_names};
use crate::budget::Budget;
use crate::codec::FixedMap;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Matcher, TimeRange, is_stale};
use crate::promql::EngineOptions;
use crate::promql::ast::{Edges, Expr, MatrixSelector, Subquery, VectorSelector};
use crate::promql::plan::{Grid, at_time, fixed};
use crate::promql::value::RangeSeries;
use crate::query::{Columns, SelectHints, SelectRequest, Series, SeriesDecoder, Source};

/// Where a selector looks when a step is evaluated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    offset: i64,
    at: Option<i64>,
}

impl Timing {
    pub(crate) fn of(selector: &VectorSelector) -> Self {
        Self { offset: fixed(&selector.offset), at: at_time(selector.at) }
    }

    pub(crate) fn of_subquery(subquery: &Subquery) -> Self {
        Self { offset: fixed(&subquery.offset), at: at_time(subquery.at) }
    }

    /// The time looked at from step `t`.
    pub(crate) fn look(&self, t: i64) -> i64 {
        self.at.unwrap_or(t) - self.offset
    }
}

/// The times at which a subquery evaluates what is in it.
pub(crate) fn subquery_grid(options: &EngineOptions, subquery: &Subquery, grid: Grid) -> Grid {
    let timing = Timing::of_subquery(subquery);
    let step = subquery.step.as_ref().map_or(options.default_subquery_step, fixed).max(1);
    let before = timing.look(grid.start) - fixed(&subquery.range);
    let mut start = step * (before / step);
    if start <= before {
        start += step;
    }
    Grid { start, end: timing.look(grid.last()), step }
}

/// The series of a selector, or of several with the same matchers.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) series: Vec<Series>,
}

/// Steps that anything may be evaluated at, whatever the budget.
const MOST_STEPS: u64 = 1 << 28;

/// One select that a query needs.
struct Plan<'q> {
    matchers: &'q [Matcher],
    range: TimeRange,
    hints: SelectHints<'q>,
}

/// All selects that a query needs.
#[derive(Default)]
pub(crate) struct Plans<'q> {
    plans: Vec<Plan<'q>>,
    by_text: FixedMap<String, usize>,
    /// The most steps that anything is evaluated at: the query itself, or a subquery.
    longest: usize,
    pub(crate) slots: FixedMap<usize, usize>,
}

impl<'q> Plans<'q> {
    /// Adds what `expr`, evaluated at the times of `grid`, needs.
    pub(crate) fn add(&mut self, options: &EngineOptions, expr: &'q Expr, grid: Grid) {
        let hints = SelectHints { step: if grid.is_instant() { 0 } else { grid.step }, ..SelectHints::default() };
        self.walk(options, expr, grid, hints);
    }

    fn walk(&mut self, options: &EngineOptions, expr: &'q Expr, grid: Grid, hints: SelectHints<'q>) {
        self.longest = self.longest.max(grid.steps());
        if grid.steps() == 0 {
            // Nothing is evaluated, but the selectors are there and have no series.
            expr.for_each_selector(&mut |selector| self.select(selector, TimeRange::new(0, -1), hints));
            return;
        }
        match expr {
            Expr::Vector(selector) => {
                let timing = Timing::of(selector);
                let first = timing.look(grid.start) - options.lookback + 1;
                let behind = if selector.edges == Edges::Smoothed { options.lookback } else { 0 };
                self.select(selector, TimeRange::new(first, timing.look(grid.last()) + behind), hints);
            }
            Expr::Matrix(matrix) => {
                let timing = Timing::of(&matrix.selector);
                let width = fixed(&matrix.range);
                let (before, after) = around(options.lookback, matrix.selector.edges);
                let first = timing.look(grid.start) - width - before + 1;
                let range = TimeRange::new(first, timing.look(grid.last()) + after);
                self.select(&matrix.selector, range, SelectHints { range: width, ..hints });
            }
            Expr::Subquery(subquery) => {
                let inner = subquery_grid(options, subquery, grid);
                self.walk(options, &subquery.expr, inner, SelectHints { step: inner.step, ..hints });
            }
            Expr::StepInvariant(inner) => self.walk(options, inner, grid.first_only(), hints),
            Expr::Call(call) => {
                let hints = SelectHints { function: Some(call.function.name), grouping: &[], by: false, ..hints };
                expr.for_each_child(|child| self.walk(options, child, grid, hints));
            }
            Expr::Aggregate(aggregate) => {
                let hints = SelectHints {
                    function: Some(aggregate.op.as_str()),
                    grouping: &aggregate.grouping,
                    by: !aggregate.without,
                    ..hints
                };
                expr.for_each_child(|child| self.walk(options, child, grid, hints));
            }
            _ => {
                let hints = SelectHints { function: None, grouping: &[], by: false, ..hints };
                expr.for_each_child(|child| self.walk(options, child, grid, hints));
            }
        }
    }

    fn select(&mut self, selector: &'q VectorSelector, range: TimeRange, hints: SelectHints<'q>) {
        let mut text = String::new();
        for matcher in &selector.matchers {
            // Writing to a string cannot fail.
            let _ = write!(text, "{matcher},");
        }
        let next = self.plans.len();
        let slot = *self.by_text.entry(text).or_insert(next);
        self.slots.insert(selector.span.start, slot);
        if slot == next {
            self.plans.push(Plan { matchers: &selector.matchers, range, hints });
            return;
        }
        let plan = &mut self.plans[slot];
        // Two uses of the same series: what one does with them says nothing about the other.
        plan.hints = SelectHints { step: plan.hints.step, ..SelectHints::default() };
        if range.min > range.max {
            return;
        }
        plan.range = if plan.range.min > plan.range.max {
            range
        } else {
            TimeRange::new(plan.range.min.min(range.min), plan.range.max.max(range.max))
        };
    }

    /// Runs all selects: plans them all, then reads the series of each.
    ///
    /// # Errors
    /// The source's; the budget's.
    pub(crate) fn run(&self, source: &dyn Source, budget: &Budget) -> Result<(Vec<Selection>, Vec<String>)> {
        // A series' results have a place a step, taken before anybody knows how many are filled: a subquery of a few
        // bytes can ask for more than any machine has.
        let longest = self.longest as u64;
        budget.could_hold_samples(longest)?;
        if longest > MOST_STEPS {
            let text = format!("{longest} steps are more than the {MOST_STEPS} that can be evaluated");
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let mut sets = Vec::new();
        for plan in &self.plans {
            let request = SelectRequest { range: plan.range, matchers: plan.matchers, budget, hints: plan.hints };
            sets.push(if plan.range.min > plan.range.max { None } else { Some(source.select(&request)?) });
        }
        let mut selections = Vec::new();
        let mut warnings = Vec::new();
        for set in sets {
            let mut series = Vec::new();
            if let Some(mut set) = set {
                let mut bytes = 0;
                while let Some(next) = set.next()? {
                    bytes += size_of::<Series>()
                        + next.chunks.capacity() * size_of_val(&next.chunks[..1.min(next.chunks.len())]);
                    if series.len() % 256 == 255 {
                        budget.take_bytes(std::mem::take(&mut bytes) as u64)?;
                    }
                    series.push(next);
                }
                budget.take_bytes(bytes as u64)?;
                warnings.extend(set.warnings());
            }
            selections.push(Selection { series });
        }
        Ok((selections, warnings))
    }
}

/// What a selector gives of the sample that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Give {
    /// Its value.
    Value,
    /// Its time in seconds: `timestamp(x)`.
    Time,
}

/// The operator of an instant selector.
pub(crate) fn instant<'q>(
    cx: &'q Context<'q>,
    selector: &'q VectorSelector,
    grid: Grid,
    give: Give,
) -> Result<BoxOperator<'q>> {
    let selection = cx.selection(selector)?;
    let mut series = infos(selection);
    if give == Give::Time {
        series = without_names(cx, &series);
    }
    let timing = Timing::of(selector);
    if selector.edges == Edges::Smoothed && give == Give::Value {
        return Ok(edges::smoothed(cx, selection, series, grid, timing, selector.span));
    }
    Ok(Box::new(Instant { cx, selection, series, grid, timing, give, decoder: SeriesDecoder::new() }))
}

pub(crate) fn infos(selection: &Selection) -> Vec<SeriesInfo> {
    selection.series.iter().map(|series| SeriesInfo { labels: series.labels.clone(), drop_name: false }).collect()
}

struct Instant<'q> {
    cx: &'q Context<'q>,
    selection: &'q Selection,
    series: Vec<SeriesInfo>,
    grid: Grid,
    timing: Timing,
    give: Give,
    decoder: SeriesDecoder,
}

impl Operator for Instant<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        let steps = self.grid.steps();
        out.reset(steps);
        if steps == 0 {
            return Ok(());
        }
        let lookback = self.cx.options.lookback;
        let first = self.timing.look(self.grid.start) - lookback + 1;
        let range = TimeRange::new(first, self.timing.look(self.grid.last()));
        let mut decoder = std::mem::take(&mut self.decoder);
        let columns = decoder.decode(&self.selection.series[index].chunks, range)?;
        self.cx.take_samples(columns.len())?;
        if columns.histograms.is_empty() {
            self.floats(columns, out);
        } else {
            self.mixed(columns, out);
        }
        self.cx.give_samples(columns.len());
        self.decoder = decoder;
        Ok(())
    }
}

impl Instant<'_> {
    fn floats(&self, columns: &Columns, out: &mut Column) {
        let (t, v) = (&columns.t[..], &columns.v[..]);
        let lookback = self.cx.options.lookback;
        let mut next = 0;
        for step in 0..out.steps() {
            let look = self.timing.look(self.grid.time(step));
            while next < t.len() && t[next] <= look {
                next += 1;
            }
            if next > 0 && t[next - 1] > look - lookback && !is_stale(v[next - 1]) {
                let value = if self.give == Give::Value { v[next - 1] } else { t[next - 1] as f64 / 1000.0 };
                out.set(step, value);
            }
        }
    }

    fn mixed(&self, columns: &Columns, out: &mut Column) {
        let (t, histograms) = (&columns.t[..], &columns.histograms[..]);
        let (mut next, mut next_histogram) = (0, 0);
        for step in 0..out.steps() {
            let look = self.timing.look(self.grid.time(step));
            let oldest = look - self.cx.options.lookback;
            while next < t.len() && t[next] <= look {
                next += 1;
            }
            while next_histogram < histograms.len() && histograms[next_histogram].0 <= look {
                next_histogram += 1;
            }
            let float_time = if next > 0 { t[next - 1] } else { i64::MIN };
            let histogram = next_histogram.checked_sub(1).map(|at| &histograms[at]);
            match histogram {
                Some((time, histogram)) if *time > float_time => match self.give {
                    _ if *time <= oldest || is_stale(histogram.sum) => {}
                    Give::Value => out.push_histogram(step, histogram.clone()),
                    Give::Time => out.set(step, *time as f64 / 1000.0),
                },
                _ if next > 0 && float_time > oldest && !is_stale(columns.v[next - 1]) => {
                    out.set(
                        step,
                        if self.give == Give::Value { columns.v[next - 1] } else { float_time as f64 / 1000.0 },
                    );
                }
                _ => {}
            }
        }
    }
}

/// The samples of a range selector at the only step of `grid`.
pub(crate) fn window_samples(cx: &Context<'_>, matrix: &MatrixSelector, grid: Grid) -> Result<Vec<RangeSeries>> {
    let kind = matrix.selector.edges;
    let end = Timing::of(&matrix.selector).look(grid.start);
    let start = end - fixed(&matrix.range);
    let (before, after) = around(cx.options.lookback, kind);
    let range = TimeRange::new(start - before + 1, end + after);
    let mut decoder = SeriesDecoder::new();
    let mut all = Vec::new();
    for series in &cx.selection(&matrix.selector)?.series {
        let columns = decoder.decode(&series.chunks, range)?;
        cx.take_samples(columns.len())?;
        let mut floats: Vec<(i64, f64)> =
            columns.t.iter().copied().zip(columns.v.iter().copied()).filter(|(_, v)| !is_stale(*v)).collect();
        let histograms: Vec<_> =
            columns.histograms.iter().filter(|(_, histogram)| !is_stale(histogram.sum)).cloned().collect();
        if kind != Edges::Plain {
            if !histograms.is_empty() {
                let name = if kind == Edges::Anchored { "anchored" } else { "smoothed" };
                return Err(invalid(format!("{name} modifier is not supported with histograms")));
            }
            floats = edges::Window { start, end, smoothed: kind == Edges::Smoothed, is_counter: false }.extend(&floats);
        }
        let found = RangeSeries { labels: series.labels.clone(), floats, histograms };
        if !found.floats.is_empty() || !found.histograms.is_empty() {
            all.push(found);
        }
    }
    Ok(all)
}
