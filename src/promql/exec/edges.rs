//! Windows and instants whose edges are computed: `anchored` and `smoothed`.
//!
//! An anchored window begins with the value that the series had at its start: that of the last sample before it. A
//! smoothed one has, at either edge, the value on the line between the samples around it; so has a smoothed instant.

use std::sync::Arc;

use super::select::Timing;
use super::windows::{Samples, Shape};
use super::{BoxOperator, Column, Context, Operator, Selection, SeriesInfo};
use crate::error::Result;
use crate::model::{CounterResetHint, FloatHistogram};
use crate::promql::annotation::Remark;
use crate::promql::ast::Span;
use crate::promql::histogram_ops as ops;
use crate::promql::plan::Grid;
use crate::query::SeriesDecoder;

type Point = (i64, Arc<FloatHistogram>);

/// A window with computed edges.
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) smoothed: bool,
    pub(super) is_counter: bool,
}

/// The value at `t` on the line between two samples. A counter that started again in between did so from zero.
fn between(a: (i64, f64), b: (i64, f64), t: i64, is_counter: bool) -> f64 {
    let from = if is_counter && b.1 < a.1 { 0.0 } else { a.1 };
    from + (b.1 - from) * (t - a.0) as f64 / (b.0 - a.0) as f64
}

impl Window {
    /// The samples that the edges are made of: the last one at or before the start, or the first, and the last one, or
    /// with smoothing the first one at or behind the end. `None` if no sample lies behind the start.
    fn bounds(&self, count: usize, time: impl Fn(usize) -> i64) -> Option<(usize, usize)> {
        let mut last = count.checked_sub(1)?;
        let before_last = last;
        let position =
            |wanted: &dyn Fn(i64) -> bool| (0..before_last).find(|at| wanted(time(*at))).unwrap_or(before_last);
        let first = position(&|t| t > self.start).saturating_sub(1);
        if self.smoothed {
            last = position(&|t| t >= self.end);
        }
        (time(last) > self.start).then_some((first, last))
    }

    fn left(&self, point: &dyn Fn(usize) -> (i64, f64), first: usize) -> f64 {
        let at = point(first);
        if self.smoothed && at.0 < self.start {
            return between(at, point(first + 1), self.start, self.is_counter);
        }
        at.1
    }

    fn right(&self, point: &dyn Fn(usize) -> (i64, f64), last: usize) -> f64 {
        let at = point(last);
        if self.smoothed && last > 0 && at.0 > self.end {
            return between(point(last - 1), at, self.end, self.is_counter);
        }
        at.1
    }

    /// How much the value changed from edge to edge; of a counter, how much it rose.
    pub(super) fn change(&self, t: &[i64], v: &[f64]) -> Option<f64> {
        let (mut first, mut last) = self.bounds(t.len(), |at| t[at])?;
        if self.smoothed && t[first] > self.end {
            return None;
        }
        let point = |at: usize| (t[at], v[at]);
        let (left, right) = (self.left(&point, first), self.right(&point, last));
        let mut change = right - left;
        if self.is_counter {
            if t[first] <= self.start {
                first += 1;
            }
            // One past the last sample that lies before the end.
            if t[last] < self.end {
                last += 1;
            }
            let mut lost = 0.0;
            let mut before = left;
            for value in v.get(first..last).unwrap_or_default() {
                if *value < before {
                    lost += before;
                }
                before = *value;
            }
            if right < before {
                lost += before;
            }
            change += lost;
        }
        Some(change)
    }

    /// The samples of the window, with one at either edge.
    pub(super) fn extend(&self, floats: &[(i64, f64)]) -> Vec<(i64, f64)> {
        let Some((first, last)) = self.bounds(floats.len(), |at| floats[at].0) else { return Vec::new() };
        let point = |at: usize| floats[at];
        let inside = floats[first..=last].iter().filter(|(t, _)| *t > self.start && *t < self.end);
        let mut all = vec![(self.start, self.left(&point, first))];
        all.extend(inside.copied());
        all.push((self.end, self.right(&point, last)));
        all
    }

    /// How much a histogram changed from edge to edge; of a counter, how much it rose. Nothing, and a remark, if the
    /// histograms do not go together.
    pub(super) fn histogram_change(&self, points: &[Point], remarks: &ops::Remarks<'_, '_>) -> Option<FloatHistogram> {
        let (first, last) = self.bounds(points.len(), |at| points[at].0)?;
        if self.smoothed && points[first].0 > self.end {
            return None;
        }
        let custom = points[first].1.uses_custom_buckets();
        for (_, histogram) in &points[first..=last] {
            if histogram.uses_custom_buckets() != custom {
                remarks.mixed_schemas();
                return None;
            }
            if self.is_counter && histogram.counter_reset_hint == CounterResetHint::Gauge {
                remarks.cx.remark(Remark::NotCounter(remarks.name.to_owned()), remarks.span);
            }
        }
        let left = if self.smoothed && points[first].0 < self.start {
            interpolated(&points[first], &points[first + 1], self.start, self.is_counter, remarks)?
        } else {
            FloatHistogram::clone(&points[first].1)
        };
        let right = if self.smoothed && last > 0 && points[last].0 > self.end {
            interpolated(&points[last - 1], &points[last], self.end, self.is_counter, remarks)?
        } else {
            FloatHistogram::clone(&points[last].1)
        };
        let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
        if !(self.is_counter || is_gauge(&left) && is_gauge(&right)) {
            remarks.cx.remark(Remark::NotGauge(remarks.name.to_owned()), remarks.span);
        }
        let mut result = right.clone();
        ops::subtract(&mut result, &left, remarks)?;
        if self.is_counter {
            for lost in self.lost(points, (first, last), (&left, &right)) {
                ops::add(&mut result, lost, remarks)?;
            }
        }
        Some(result)
    }

    /// The histograms before which the counter started again.
    fn lost<'h>(
        &self,
        points: &'h [Point],
        (first, last): (usize, usize),
        (left, right): (&'h FloatHistogram, &'h FloatHistogram),
    ) -> Vec<&'h FloatHistogram> {
        let mut from = first + 1;
        let mut before = left;
        let edge_spans_reset = self.smoothed
            && points[first].0 < self.start
            && points.get(first + 1).is_some_and(|next| ops::detect_reset(&next.1, &points[first].1));
        if edge_spans_reset {
            // The left edge was made of that reset already.
            before = &points[first + 1].1;
            from += 1;
        }
        // The last sample is in the right edge, which has its hint: it would find its own reset a second time.
        if from > last {
            return Vec::new();
        }
        let mut lost = Vec::new();
        let middle = points[from..last].iter().map(|(_, histogram)| &**histogram);
        for now in middle.chain(std::iter::once(right)) {
            if ops::detect_reset(now, before) {
                lost.push(before);
            }
            before = now;
        }
        lost
    }
}

/// The histogram at `t` on the line between two.
fn interpolated(
    a: &Point,
    b: &Point,
    t: i64,
    is_counter: bool,
    remarks: &ops::Remarks<'_, '_>,
) -> Option<FloatHistogram> {
    if t == a.0 {
        return Some(FloatHistogram::clone(&a.1));
    }
    let mut result = FloatHistogram::clone(&b.1);
    if t == b.0 {
        return Some(result);
    }
    let fraction = (t - a.0) as f64 / (b.0 - a.0) as f64;
    if is_counter && ops::detect_reset(&b.1, &a.1) {
        ops::scale(&mut result, fraction);
        return Some(result);
    }
    ops::subtract(&mut result, &a.1, remarks)?;
    ops::scale(&mut result, fraction);
    ops::add(&mut result, &a.1, remarks)?;
    Some(result)
}

/// Where an anchored window begins among its floats and its histograms: with the last sample at or before its start.
/// `None` if no sample lies behind the start.
pub(super) fn first_of_anchored(t: &[i64], histograms: &[Point], start: i64) -> Option<(usize, usize)> {
    let floats = t.partition_point(|t| *t <= start);
    let before = histograms.partition_point(|(t, _)| *t <= start);
    if floats >= t.len() && before >= histograms.len() {
        return None;
    }
    let float = floats.checked_sub(1).map(|at| t[at]);
    let histogram = before.checked_sub(1).map(|at| histograms[at].0);
    Some(match (float, histogram) {
        (None, None) => (0, 0),
        (Some(_), None) => (floats - 1, before),
        (Some(float), Some(histogram)) if float >= histogram => (floats - 1, before),
        _ => (floats, before - 1),
    })
}

/// The operator of a smoothed instant selector.
pub(super) fn smoothed<'q>(
    cx: &'q Context<'q>,
    selection: &'q Selection,
    series: Vec<SeriesInfo>,
    grid: Grid,
    timing: Timing,
    span: Span,
) -> BoxOperator<'q> {
    let lookback = cx.options.lookback;
    // A window from one lookback before the instant to one behind it.
    let shape = Shape { grid, timing, width: lookback, before: 0, after: lookback };
    Box::new(Smoothed {
        cx,
        selection,
        series,
        shape,
        span,
        decoder: SeriesDecoder::new(),
        samples: Samples::default(),
    })
}

struct Smoothed<'q> {
    cx: &'q Context<'q>,
    selection: &'q Selection,
    series: Vec<SeriesInfo>,
    shape: Shape,
    span: Span,
    decoder: SeriesDecoder,
    samples: Samples,
}

impl Operator for Smoothed<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        out.reset(self.shape.grid.steps());
        if out.steps() == 0 {
            return Ok(());
        }
        let columns = self.decoder.decode(&self.selection.series[index].chunks, self.shape.range())?;
        self.cx.take_samples(columns.len())?;
        self.samples.take(columns);
        let held = columns.len();
        let name = self.series[index].labels.metric_name();
        let remarks = ops::Remarks { cx: self.cx, name, span: self.span };
        self.shape.each(&self.samples, |w| {
            let now = w.end;
            if !w.histograms.is_empty() && !w.t.is_empty() {
                self.cx.remark(Remark::MixedFloatsHistograms(name.to_owned()), self.span);
                return Ok(());
            }
            if w.histograms.is_empty() {
                let at = w.t.partition_point(|t| *t < now);
                let value = match (at.checked_sub(1), w.t.get(at)) {
                    (_, Some(t)) if *t == now => Some(w.v[at]),
                    (Some(before), Some(t)) => Some(between((w.t[before], w.v[before]), (*t, w.v[at]), now, false)),
                    (Some(before), None) => Some(w.v[before]),
                    (None, _) => None,
                };
                if let Some(value) = value {
                    out.set(w.step, value);
                }
                return Ok(());
            }
            let at = w.histograms.partition_point(|(t, _)| *t < now);
            let value = match (at.checked_sub(1).map(|at| &w.histograms[at]), w.histograms.get(at)) {
                (_, Some((t, histogram))) if *t == now => Some(histogram.clone()),
                (Some(before), Some(next)) => {
                    let gauge = |point: &Point| point.1.counter_reset_hint == CounterResetHint::Gauge;
                    let is_counter = !(gauge(before) && gauge(next));
                    if before.1.uses_custom_buckets() == next.1.uses_custom_buckets() {
                        interpolated(before, next, now, is_counter, &remarks).map(Arc::new)
                    } else {
                        remarks.mixed_schemas();
                        None
                    }
                }
                (Some((_, histogram)), None) => {
                    let mut copy = FloatHistogram::clone(histogram);
                    copy.counter_reset_hint = CounterResetHint::Unknown;
                    Some(Arc::new(copy))
                }
                (None, _) => None,
            };
            if let Some(value) = value {
                out.push_histogram(w.step, value);
            }
            Ok(())
        })?;
        self.cx.give_samples(held);
        Ok(())
    }
}
