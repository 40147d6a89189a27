//! Aggregations that choose among the series: `topk`, `bottomk`, `limitk`, `limit_ratio`.

use super::aggregate::Groups;
use super::{BoxOperator, Column, Context, Held, Operator, Ready, SeriesInfo, invalid, scalar, vector};
use crate::error::Result;
use crate::promql::annotation::Remark;
use crate::promql::ast::{Aggregate, AggregateOp, Expr};
use crate::promql::plan::Grid;
use crate::promql::printer::format_general;

/// The operator of an aggregation that chooses.
///
/// # Errors
/// Those of its input, which it runs through here; a parameter that is not a number of series.
pub(super) fn build<'q>(
    cx: &'q Context<'q>,
    aggregate: &'q Aggregate,
    param: &'q Expr,
    grid: Grid,
) -> Result<BoxOperator<'q>> {
    let params = scalar(cx, param, grid)?;
    let nan = params.iter().any(|param| param.is_nan());
    let max = params.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = params.iter().copied().fold(f64::INFINITY, f64::min);
    let input = vector(cx, &aggregate.expr, grid)?;
    let nothing = Ready { series: Vec::new(), columns: Vec::new(), steps: grid.steps(), held: None };
    if aggregate.op == AggregateOp::LimitRatio {
        if max == 0.0 && min == 0.0 && !nan {
            return Ok(Box::new(nothing));
        }
        if nan {
            return Err(invalid("Ratio value is NaN"));
        }
        if max > 1.0 {
            cx.remark(Remark::InvalidRatio(max.to_bits(), 1.0f64.to_bits()), param.span());
        }
        if min < -1.0 {
            cx.remark(Remark::InvalidRatio(min.to_bits(), (-1.0f64).to_bits()), param.span());
        }
        return Ok(Box::new(Ratio { input, ratios: params }));
    }
    if max < 1.0 && !nan {
        return Ok(Box::new(nothing));
    }
    if nan {
        return Err(invalid("Parameter value is NaN"));
    }
    if min <= i64::MIN as f64 {
        return Err(invalid(format!("Scalar value {} underflows int64", format_general(min))));
    }
    if max >= i64::MAX as f64 {
        return Err(invalid(format!("Scalar value {} overflows int64", format_general(max))));
    }
    if aggregate.op == AggregateOp::Limitk {
        return limit(cx, aggregate, input, &params, grid);
    }
    choose(cx, aggregate, input, &params, grid)
}

/// `limit_ratio`: series by their hash, so that the same ones are chosen always and everywhere.
struct Ratio<'q> {
    input: BoxOperator<'q>,
    ratios: Vec<f64>,
}

impl Operator for Ratio<'_> {
    fn series(&self) -> &[SeriesInfo] {
        self.input.series()
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        self.input.column(index, out)?;
        let offset = self.input.series()[index].labels.hash64() as f64 / u64::MAX as f64;
        let chosen = |ratio: f64| {
            let ratio = ratio.clamp(-1.0, 1.0);
            ratio != 0.0 && (ratio >= 0.0 && offset < ratio || ratio < 0.0 && offset >= 1.0 + ratio)
        };
        for (step, ratio) in self.ratios.iter().enumerate() {
            if !chosen(*ratio) {
                out.present.clear(step);
            }
        }
        out.histograms.retain(|(step, _)| chosen(self.ratios[*step as usize]));
        Ok(())
    }
}

/// `limitk`: the first series of each group.
fn limit<'q>(
    cx: &'q Context<'q>,
    aggregate: &'q Aggregate,
    mut input: BoxOperator<'q>,
    params: &[f64],
    grid: Grid,
) -> Result<BoxOperator<'q>> {
    let groups = Groups::new(aggregate, input.series());
    let steps = grid.steps();
    let mut held = Held::new(cx.budget, groups.series.len() * steps * 8)?;
    let mut left: Vec<Vec<i64>> = vec![params.iter().map(|param| *param as i64).collect(); groups.series.len()];
    let mut unfinished = left.iter().flatten().filter(|left| **left > 0).count();
    let mut ready = Ready { series: Vec::new(), columns: Vec::new(), steps, held: None };
    for (index, group) in groups.of.iter().enumerate() {
        if unfinished == 0 {
            break;
        }
        let mut column = Column::default();
        input.column(index, &mut column)?;
        let left = &mut left[*group as usize];
        let mut take = |step: usize| {
            if left[step] < 1 {
                return false;
            }
            left[step] -= 1;
            unfinished -= usize::from(left[step] == 0);
            true
        };
        column.histograms.retain(|(step, _)| take(*step as usize));
        let present: Vec<usize> = column.present.iter().collect();
        for step in present {
            if !take(step) {
                column.present.clear(step);
            }
        }
        if !column.is_empty() {
            held.grow(9 * steps)?;
            ready.series.push(input.series()[index].clone());
            ready.columns.push(column);
        }
    }
    ready.held = Some(held);
    Ok(Box::new(ready))
}

/// The best of a group at a step, worst on top: Go's `container/heap`, move for move, since which of several equal
/// values stays depends on where they lie in it.
#[derive(Default, Clone)]
struct Heap(Vec<(f64, u32)>);

impl Heap {
    fn push(&mut self, item: (f64, u32), less: Less) {
        self.0.push(item);
        let mut at = self.0.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if !less(self.0[at].0, self.0[parent].0) {
                break;
            }
            self.0.swap(at, parent);
            at = parent;
        }
    }

    fn replace_top(&mut self, item: (f64, u32), less: Less) {
        self.0[0] = item;
        let mut at = 0;
        loop {
            let mut child = 2 * at + 1;
            if child >= self.0.len() {
                break;
            }
            if child + 1 < self.0.len() && less(self.0[child + 1].0, self.0[child].0) {
                child += 1;
            }
            if !less(self.0[child].0, self.0[at].0) {
                break;
            }
            self.0.swap(at, child);
            at = child;
        }
    }
}

type Less = fn(f64, f64) -> bool;

fn choose<'q>(
    cx: &'q Context<'q>,
    aggregate: &'q Aggregate,
    mut input: BoxOperator<'q>,
    params: &[f64],
    grid: Grid,
) -> Result<BoxOperator<'q>> {
    let less: Less = match aggregate.op {
        AggregateOp::Topk => |a, b| a.is_nan() || a < b,
        _ => |a, b| a.is_nan() || a > b,
    };
    let groups = Groups::new(aggregate, input.series());
    let steps = grid.steps();
    let mut held = Held::new(cx.budget, groups.series.len() * steps * size_of::<Heap>())?;
    let mut heaps = vec![Heap::default(); groups.series.len() * steps];
    let mut column = Column::default();
    for (index, group) in groups.of.iter().enumerate() {
        input.column(index, &mut column)?;
        if !column.histograms.is_empty() {
            cx.remark(Remark::IgnoredInAggregation(aggregate.op.as_str()), aggregate.span);
        }
        let heaps = &mut heaps[*group as usize * steps..][..steps];
        for step in column.present.iter() {
            let (value, heap) = (column.values[step], &mut heaps[step]);
            let item = (value, index as u32);
            if (heap.0.len() as i64) < params[step] as i64 {
                held.grow(size_of_val(&item))?;
                heap.push(item, less);
            } else if let Some((top, _)) = heap.0.first() {
                let better = match aggregate.op {
                    AggregateOp::Topk => *top < value,
                    _ => *top > value,
                };
                if better || top.is_nan() && !value.is_nan() {
                    heap.replace_top(item, less);
                }
            }
        }
    }
    let mut ready = Ready { series: Vec::new(), columns: Vec::new(), steps, held: None };
    if grid.is_instant() {
        // The best first, group after group.
        for mut heap in heaps {
            heap.0.sort_by(|a, b| match (less(b.0, a.0), less(a.0, b.0)) {
                (true, false) => std::cmp::Ordering::Less,
                (false, true) => std::cmp::Ordering::Greater,
                _ => std::cmp::Ordering::Equal,
            });
            for (value, index) in heap.0 {
                let mut column = Column::new(steps);
                column.set(0, value);
                ready.series.push(input.series()[index as usize].clone());
                ready.columns.push(column);
            }
        }
    } else {
        let mut chosen: Vec<(u32, u32, f64)> = Vec::new();
        for (at, heap) in heaps.into_iter().enumerate() {
            chosen.extend(heap.0.into_iter().map(|(value, index)| (index, (at % steps) as u32, value)));
        }
        chosen.sort_unstable_by_key(|(index, step, _)| (*index, *step));
        for run in chosen.chunk_by(|a, b| a.0 == b.0) {
            let mut column = Column::new(steps);
            held.grow(9 * steps)?;
            for (_, step, value) in run {
                column.set(*step as usize, *value);
            }
            ready.series.push(input.series()[run[0].0 as usize].clone());
            ready.columns.push(column);
        }
    }
    ready.held = Some(held);
    Ok(Box::new(ready))
}
