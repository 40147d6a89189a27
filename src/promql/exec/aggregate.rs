//! Aggregations: one pass over the input, one cell a group and step.

use super::windows::{kahan, nan_first, quantile_sorted};
use super::{
    BoxOperator, Column, Context, Held, Ready, SeriesInfo, Steps, invalid, is_label_name, scalar, topk, vector,
};
use crate::codec::FixedMap;
use crate::error::Result;
use crate::model::{FloatHistogram, Labels, LabelsBuilder, METRIC_NAME};
use crate::promql::annotation::Remark;
use crate::promql::ast::{Aggregate, AggregateOp, Expr};
use crate::promql::histogram_ops as ops;
use crate::promql::plan::Grid;

/// The operator of an aggregation.
///
/// # Errors
/// Those of its input, which it runs through here.
pub(crate) fn build<'q>(cx: &'q Context<'q>, aggregate: &'q Aggregate, grid: Grid) -> Result<BoxOperator<'q>> {
    use AggregateOp as A;
    match (aggregate.op, aggregate.param.as_deref()) {
        (A::CountValues, Some(param)) => return count_values(cx, aggregate, param, grid),
        (A::Topk | A::Bottomk | A::Limitk | A::LimitRatio, Some(param)) => {
            return topk::build(cx, aggregate, param, grid);
        }
        _ => {}
    }
    let quantiles = match &aggregate.param {
        Some(param) => {
            let quantiles = scalar(cx, param, grid)?;
            for q in quantiles.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                cx.remark(Remark::InvalidQuantile(q.to_bits()), param.span());
            }
            quantiles
        }
        None => Vec::new(),
    };
    let mut input = vector(cx, &aggregate.expr, grid)?;
    let groups = Groups::new(aggregate, input.series());
    let steps = grid.steps();
    let mut cells = Cells::new(cx, aggregate, groups.series.len(), steps)?;
    let mut column = Column::default();
    for (index, group) in groups.of.iter().enumerate() {
        if index % 64 == 0 {
            cx.budget.check()?;
        }
        input.column(index, &mut column)?;
        if column.is_empty() {
            continue;
        }
        let name = if column.histograms.is_empty() { "" } else { input.series()[index].labels.metric_name() };
        cells.add(*group as usize, &column, name)?;
    }
    drop(input);
    let Cells { held, .. } = &mut cells;
    let held = held.take();
    let columns = cells.finish(&quantiles);
    Ok(Box::new(Ready { series: groups.series, columns, steps, held }))
}

/// Which group each series is in.
pub(super) struct Groups {
    /// The group of each series.
    pub(super) of: Vec<u32>,
    /// The groups, in the order of their first series.
    pub(super) series: Vec<SeriesInfo>,
}

impl Groups {
    pub(super) fn new(aggregate: &Aggregate, series: &[SeriesInfo]) -> Self {
        let mut groups = Self { of: Vec::with_capacity(series.len()), series: Vec::new() };
        let mut by_labels: FixedMap<Vec<u8>, u32> = FixedMap::default();
        let mut builder = LabelsBuilder::new();
        let mut packed = Vec::new();
        for info in series {
            keep_group_labels(aggregate.without, &aggregate.grouping, &info.labels, &mut builder);
            builder.pack_into(&mut packed);
            let group = match by_labels.get(packed.as_slice()) {
                Some(group) => *group,
                None => {
                    let group = groups.series.len() as u32;
                    by_labels.insert(packed.clone(), group);
                    groups.series.push(SeriesInfo { labels: builder.build(), drop_name: false });
                    group
                }
            };
            groups.series[group as usize].drop_name |= info.drop_name;
            groups.of.push(group);
        }
        groups
    }
}

/// Puts the labels that make a series' group into `builder`.
fn keep_group_labels(without: bool, grouping: &[String], labels: &Labels, builder: &mut LabelsBuilder) {
    builder.clear();
    if !without && grouping.is_empty() {
        return;
    }
    for (name, value) in labels {
        let listed = grouping.iter().any(|label| label == name);
        let keep = if without { !listed && name != METRIC_NAME } else { listed };
        if keep {
            builder.push(name, value);
        }
    }
}

/// One group's cells, a step each. What they mean depends on the aggregation.
struct Group {
    seen: Steps,
    /// The sum, the mean, the extreme, the count.
    main: Vec<f64>,
    /// The compensation, or the sum of squared deviations.
    extra: Vec<f64>,
    count: Vec<f64>,
    /// Where a mean would have overflowed as a sum, and is kept as a mean.
    incremental: Option<Steps>,
    values: Vec<Vec<f64>>,
    histograms: FixedMap<u32, ops::Accumulator>,
}

struct Cells<'q> {
    cx: &'q Context<'q>,
    aggregate: &'q Aggregate,
    steps: usize,
    groups: Vec<Option<Group>>,
    held: Option<Held<'q>>,
}

impl<'q> Cells<'q> {
    fn new(cx: &'q Context<'q>, aggregate: &'q Aggregate, groups: usize, steps: usize) -> Result<Self> {
        let held = Some(Held::new(cx.budget, groups * size_of::<Option<Group>>())?);
        Ok(Self { cx, aggregate, steps, groups: (0..groups).map(|_| None).collect(), held })
    }

    fn new_group(&mut self) -> Result<Group> {
        use AggregateOp as A;
        let (op, steps) = (self.aggregate.op, self.steps);
        let cells = |used: bool, first: f64| vec![first; if used { steps } else { 0 }];
        let group = Group {
            seen: Steps::none(steps),
            // Minus zero is what a sum of minus zeros is; plus zero would make it plus zero.
            main: cells(op != A::Quantile, if op == A::Sum { -0.0 } else { 0.0 }),
            extra: cells(matches!(op, A::Sum | A::Avg | A::Stddev | A::Stdvar), 0.0),
            count: cells(matches!(op, A::Avg | A::Stddev | A::Stdvar), 0.0),
            incremental: None,
            values: vec![Vec::new(); if op == A::Quantile { steps } else { 0 }],
            histograms: FixedMap::default(),
        };
        let cells = group.main.len() + group.extra.len() + group.count.len() + 3 * group.values.len();
        if let Some(held) = &mut self.held {
            held.grow(8 * cells + steps / 8)?;
        }
        Ok(group)
    }

    /// Adds a series to its group.
    fn add(&mut self, group: usize, column: &Column, name: &str) -> Result<()> {
        let mut cells = match self.groups[group].take() {
            Some(cells) => cells,
            None => self.new_group()?,
        };
        self.add_floats(&mut cells, column)?;
        if !column.histograms.is_empty() {
            self.add_histograms(&mut cells, column, name);
        }
        self.groups[group] = Some(cells);
        Ok(())
    }

    fn add_floats(&mut self, cells: &mut Group, column: &Column) -> Result<()> {
        use AggregateOp as A;
        let Column { values, present, .. } = column;
        match self.aggregate.op {
            A::Sum => {
                if present.is_full() {
                    let cells = cells.main.iter_mut().zip(&mut cells.extra);
                    for ((sum, compensation), value) in cells.zip(values) {
                        (*sum, *compensation) = kahan(*value, *sum, *compensation);
                    }
                } else {
                    for step in present.iter() {
                        (cells.main[step], cells.extra[step]) =
                            kahan(values[step], cells.main[step], cells.extra[step]);
                    }
                }
            }
            A::Avg => {
                for step in present.iter() {
                    cells.add_to_mean(step, values[step]);
                }
            }
            A::Min => {
                for step in present.iter() {
                    let main = &mut cells.main[step];
                    if !cells.seen.get(step) || *main > values[step] || main.is_nan() {
                        *main = values[step];
                    }
                }
            }
            A::Max => {
                for step in present.iter() {
                    let main = &mut cells.main[step];
                    if !cells.seen.get(step) || *main < values[step] || main.is_nan() {
                        *main = values[step];
                    }
                }
            }
            A::Count => {
                if present.is_full() {
                    cells.main.iter_mut().for_each(|count| *count += 1.0);
                } else {
                    present.iter().for_each(|step| cells.main[step] += 1.0);
                }
            }
            A::Group => present.iter().for_each(|step| cells.main[step] = 1.0),
            A::Stddev | A::Stdvar => {
                for step in present.iter() {
                    let value = values[step];
                    cells.count[step] += 1.0;
                    if !cells.seen.get(step) {
                        cells.main[step] = value;
                        cells.extra[step] = if value.is_finite() { 0.0 } else { f64::NAN };
                        continue;
                    }
                    let delta = value - cells.main[step];
                    cells.main[step] += delta / cells.count[step];
                    cells.extra[step] += delta * (value - cells.main[step]);
                }
            }
            A::Quantile => {
                if let Some(held) = &mut self.held {
                    held.grow(8 * present.count())?;
                }
                present.iter().for_each(|step| cells.values[step].push(values[step]));
            }
            A::Topk | A::Bottomk | A::CountValues | A::Limitk | A::LimitRatio => {}
        }
        cells.seen.union(present);
        Ok(())
    }

    fn add_histograms(&self, cells: &mut Group, column: &Column, name: &str) {
        use AggregateOp as A;
        let span = self.aggregate.expr.span();
        for (step, histogram) in &column.histograms {
            let at = *step as usize;
            match self.aggregate.op {
                A::Count => {
                    cells.main[at] += 1.0;
                    cells.seen.set(at);
                }
                A::Group => {
                    cells.main[at] = 1.0;
                    cells.seen.set(at);
                }
                A::Sum | A::Avg => {
                    let remarks = ops::Remarks { cx: self.cx, name, span };
                    let average = self.aggregate.op == A::Avg;
                    match cells.histograms.get_mut(step) {
                        Some(accumulator) => accumulator.add(histogram, &remarks),
                        None => {
                            cells.histograms.insert(*step, ops::Accumulator::new(histogram, average));
                        }
                    }
                }
                _ => self.cx.remark(Remark::IgnoredInAggregation(self.aggregate.op.as_str()), span),
            }
        }
    }

    /// The groups' results.
    fn finish(self, quantiles: &[f64]) -> Vec<Column> {
        let Self { cx, aggregate, steps, groups, .. } = self;
        let span = aggregate.expr.span();
        let finish = |group: Option<Group>| {
            let Some(group) = group else { return Column::new(steps) };
            let Group { mut seen, mut main, mut extra, count, incremental, mut values, histograms } = group;
            match aggregate.op {
                AggregateOp::Sum => main.iter_mut().zip(&extra).for_each(|(sum, extra)| *sum += extra),
                AggregateOp::Avg => {
                    for step in seen.iter() {
                        let is_mean = incremental.as_ref().is_some_and(|steps| steps.get(step));
                        main[step] = if is_mean {
                            main[step] + extra[step]
                        } else {
                            main[step] / count[step] + extra[step] / count[step]
                        };
                    }
                }
                AggregateOp::Stdvar | AggregateOp::Stddev => {
                    for step in seen.iter() {
                        let variance = extra[step] / count[step];
                        extra[step] = if aggregate.op == AggregateOp::Stdvar { variance } else { variance.sqrt() };
                    }
                    main = extra;
                }
                AggregateOp::Quantile => {
                    main = vec![0.0; steps];
                    for step in seen.iter() {
                        values[step].sort_unstable_by(nan_first);
                        main[step] = quantile_sorted(quantiles[step], &values[step]);
                    }
                }
                _ => {}
            }
            let mut sums: Vec<(u32, std::sync::Arc<FloatHistogram>)> = Vec::new();
            for (step, accumulator) in histograms {
                if seen.get(step as usize) {
                    cx.remark(Remark::MixedFloatsHistogramsAggregation, span);
                    seen.clear(step as usize);
                } else if let Some(sum) = accumulator.finish(&ops::Remarks { cx, name: "", span }) {
                    sums.push((step, sum.into()));
                }
            }
            sums.sort_by_key(|(step, _)| *step);
            Column { values: main, present: seen, histograms: sums }
        };
        groups.into_iter().map(finish).collect()
    }
}

impl Group {
    fn add_to_mean(&mut self, step: usize, value: f64) {
        self.count[step] += 1.0;
        let count = self.count[step];
        if count == 1.0 {
            self.main[step] = value;
            return;
        }
        let (main, extra) = (&mut self.main[step], &mut self.extra[step]);
        if !self.incremental.as_ref().is_some_and(|steps| steps.get(step)) {
            let (sum, compensation) = kahan(value, *main, *extra);
            if !sum.is_infinite() {
                (*main, *extra) = (sum, compensation);
                return;
            }
            let steps = self.seen.clone();
            self.incremental.get_or_insert_with(|| Steps::none(steps.len())).set(step);
            *main /= count - 1.0;
            *extra /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (*main, *extra) = kahan(value / count, q * *main, q * *extra);
    }
}

/// `count_values`: how many series of a group have each value.
fn count_values<'q>(
    cx: &'q Context<'q>,
    aggregate: &'q Aggregate,
    param: &'q Expr,
    grid: Grid,
) -> Result<BoxOperator<'q>> {
    let Expr::String(label) = param.unwrap_parens() else { return Err(invalid("a string is expected here")) };
    if !is_label_name(&label.value) {
        return Err(invalid(format!("invalid label name {:?}", label.value)));
    }
    let mut input = vector(cx, &aggregate.expr, grid)?;
    // The value is one more label to group by.
    let mut grouping = aggregate.grouping.clone();
    if !aggregate.without {
        grouping.push(label.value.clone());
    }
    let steps = grid.steps();
    let mut by_labels: FixedMap<Labels, usize> = FixedMap::default();
    let mut ready = Ready { series: Vec::new(), columns: Vec::new(), steps, held: Some(Held::new(cx.budget, 0)?) };
    let mut column = Column::default();
    let (mut with_value, mut builder) = (LabelsBuilder::new(), LabelsBuilder::new());
    for index in 0..input.series().len() {
        input.column(index, &mut column)?;
        let labels = input.series()[index].labels.clone();
        let mut last: Option<(String, usize)> = None;
        let mut count = |text: String, step: usize, ready: &mut Ready<'_>| -> Result<()> {
            let at = match &last {
                Some((value, at)) if *value == text => *at,
                _ => {
                    with_value.clear();
                    with_value.extend(&labels).push(&label.value, &text);
                    keep_group_labels(aggregate.without, &grouping, &with_value.build(), &mut builder);
                    let group = builder.build();
                    let next = ready.series.len();
                    let at = *by_labels.entry(group.clone()).or_insert(next);
                    if at == next {
                        ready.series.push(SeriesInfo { labels: group, drop_name: false });
                        ready.columns.push(Column::new(steps));
                        if let Some(held) = &mut ready.held {
                            held.grow(9 * steps)?;
                        }
                    }
                    last = Some((text, at));
                    at
                }
            };
            let column = &mut ready.columns[at];
            let before = column.get(step).unwrap_or(0.0);
            column.set(step, before + 1.0);
            Ok(())
        };
        for step in column.present.iter() {
            count(plain_float(column.values[step]), step, &mut ready)?;
        }
        for (step, histogram) in &column.histograms {
            count(ops::text(histogram), *step as usize, &mut ready)?;
        }
    }
    Ok(Box::new(ready))
}

/// A float as Go's `FormatFloat(v, 'f', -1, 64)` prints it.
pub(super) fn plain_float(v: f64) -> String {
    if v.is_infinite() {
        return if v > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    format!("{v}")
}
