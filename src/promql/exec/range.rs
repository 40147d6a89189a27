//! Functions of windows: `rate`, `*_over_time` and their like.

use super::distinct::{Collision, distinct};
use super::select::{Timing, infos, subquery_grid};
use super::windows::{
    ExtremeWindow, Samples, Shape, SortedWindow, Window, exact_sums, kahan, nan_first, quantile_sorted,
};
use super::{
    BoxOperator, Column, Context, Operator, Selection, SeriesInfo, edges, invalid, names_differ, scalar, unsupported,
    vector, without_names,
};
use crate::error::Result;
use crate::model::CounterResetHint;
use crate::promql::annotation::Remark;
use crate::promql::ast::{Call, Edges, Expr, Span, ValueType};
use crate::promql::functions::FunctionId;
use crate::promql::histogram_ops as ops;
use crate::promql::plan::{Grid, fixed, seconds};
use crate::query::SeriesDecoder;

/// The operator of a function of a window.
///
/// # Errors
/// Those of its arguments; `Unsupported`.
pub(crate) fn build<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    let mut scalars = Vec::new();
    let mut window = None;
    for arg in &call.args {
        if arg.value_type() == ValueType::Matrix {
            window = Some(arg);
        } else {
            scalars.push(scalar(cx, arg, grid)?);
        }
    }
    let Some(window) = window else { return Err(unsupported(call.function.name)) };
    let Windows { input, series, timing, width, edges } = source(cx, window, grid)?;
    check_edges(edges, call.function.id, call.function.name)?;
    let (before, after) = around(cx.options.lookback, edges);
    let keeps_name = matches!(call.function.id, FunctionId::FirstOverTime | FunctionId::LastOverTime);
    let named = series;
    // Of what is absent only the absence counts, not what it would be called.
    let keeps_name = keeps_name || call.function.id == FunctionId::AbsentOverTime;
    let (series, collide) = if keeps_name {
        (named.clone(), false)
    } else {
        (without_names(cx, &named), !cx.delayed() && names_differ(&named))
    };
    let operator = Box::new(RangeFunction {
        cx,
        id: call.function.id,
        input,
        named,
        series,
        shape: Shape { grid, timing, width, before, after },
        edges,
        scalars,
        at: match call.args.first() {
            // Prometheus has replaced a subquery by its samples here, and those stand nowhere in the text.
            Some(first) if matches!(first.unwrap_parens(), Expr::Subquery(_)) => Span::default(),
            Some(first) => first.span(),
            None => call.span,
        },
        samples: Samples::default(),
        column: Column::default(),
    });
    Ok(if collide { distinct(operator, Collision::Ever) } else { operator })
}

/// How much more than its window a selector has to see.
pub(super) fn around(lookback: i64, edges: Edges) -> (i64, i64) {
    match edges {
        Edges::Plain => (0, 0),
        Edges::Anchored => (lookback, 0),
        Edges::Smoothed => (lookback, lookback),
    }
}

/// Most functions cannot do with samples outside their window.
fn check_edges(edges: Edges, id: FunctionId, name: &str) -> Result<()> {
    use FunctionId as F;
    let smoothed = matches!(id, F::Rate | F::Increase | F::Delta);
    let anchored = smoothed || matches!(id, F::Changes | F::Resets);
    match edges {
        Edges::Anchored if !anchored => Err(invalid(format!(
            "anchored modifier can only be used with: changes, delta, increase, rate, resets - not with {name}"
        ))),
        Edges::Smoothed if !smoothed => {
            Err(invalid(format!("smoothed modifier can only be used with: delta, increase, rate - not with {name}")))
        }
        _ => Ok(()),
    }
}

/// Where a function's windows come from.
struct Windows<'q> {
    input: Input<'q>,
    series: Vec<SeriesInfo>,
    timing: Timing,
    width: i64,
    edges: Edges,
}

fn source<'q>(cx: &'q Context<'q>, window: &'q Expr, grid: Grid) -> Result<Windows<'q>> {
    match window {
        Expr::Paren(paren) => source(cx, &paren.expr, grid),
        Expr::StepInvariant(inner) => source(cx, inner, grid),
        Expr::Matrix(matrix) => {
            let selection = cx.selection(&matrix.selector)?;
            let input = Input::Selector { selection, decoder: SeriesDecoder::new() };
            Ok(Windows {
                input,
                series: infos(selection),
                timing: Timing::of(&matrix.selector),
                width: fixed(&matrix.range),
                edges: matrix.selector.edges,
            })
        }
        Expr::Subquery(subquery) => {
            let inner = subquery_grid(cx.options, subquery, grid);
            let operator = vector(cx, &subquery.expr, inner)?;
            let series = operator.series().to_vec();
            let input = Input::Subquery { operator, grid: inner };
            Ok(Windows {
                input,
                series,
                timing: Timing::of_subquery(subquery),
                width: fixed(&subquery.range),
                edges: Edges::Plain,
            })
        }
        _ => Err(invalid("a range vector is expected here")),
    }
}

enum Input<'q> {
    Selector { selection: &'q Selection, decoder: SeriesDecoder },
    Subquery { operator: BoxOperator<'q>, grid: Grid },
}

struct RangeFunction<'q> {
    cx: &'q Context<'q>,
    id: FunctionId,
    input: Input<'q>,
    /// The series as they come in, with their names.
    named: Vec<SeriesInfo>,
    series: Vec<SeriesInfo>,
    shape: Shape,
    edges: Edges,
    scalars: Vec<Vec<f64>>,
    /// Where remarks point: at the first argument.
    at: Span,
    samples: Samples,
    column: Column,
}

impl Operator for RangeFunction<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        out.reset(self.shape.grid.steps());
        if self.shape.grid.steps() == 0 {
            return Ok(());
        }
        let held = match &mut self.input {
            Input::Selector { selection, decoder } => {
                let columns = decoder.decode(&selection.series[index].chunks, self.shape.range())?;
                self.cx.take_samples(columns.len())?;
                self.samples.take(columns);
                columns.len()
            }
            Input::Subquery { operator, grid } => {
                operator.column(index, &mut self.column)?;
                self.samples.take_results(&self.column, *grid);
                0
            }
        };
        let name = self.named[index].labels.metric_name();
        let run = Run {
            cx: self.cx,
            id: self.id,
            shape: self.shape,
            edges: self.edges,
            scalars: &self.scalars,
            at: self.at,
            name,
            samples: &self.samples,
        };
        run.run(out)?;
        if matches!(self.id, FunctionId::Rate | FunctionId::Increase)
            && !name.is_empty()
            && !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
            && !out.present.is_empty()
        {
            self.cx.remark(Remark::PossibleNonCounter(name.to_owned()), self.at);
        }
        self.cx.give_samples(held);
        Ok(())
    }
}

/// A function over all windows of one series.
struct Run<'a, 'q> {
    cx: &'q Context<'q>,
    id: FunctionId,
    shape: Shape,
    edges: Edges,
    scalars: &'a [Vec<f64>],
    /// Where remarks point: at the first argument.
    at: Span,
    name: &'a str,
    samples: &'a Samples,
}

impl Run<'_, '_> {
    fn run(&self, out: &mut Column) -> Result<()> {
        use FunctionId as F;
        match self.id {
            F::CountOverTime => self.each_value(out, |w| (w.t.len() + w.histograms.len()) as f64),
            F::PresentOverTime | F::AbsentOverTime => self.each_value(out, |_| 1.0),
            F::TsOfFirstOverTime => self.each_value(out, |w| {
                let float = w.t.first().copied().unwrap_or(i64::MAX);
                let histogram = w.histograms.first().map_or(i64::MAX, |(t, _)| *t);
                float.min(histogram) as f64 / 1000.0
            }),
            F::TsOfLastOverTime => self.each_value(out, |w| {
                let float = w.t.last().copied().unwrap_or(0);
                let histogram = w.histograms.last().map_or(0, |(t, _)| *t);
                float.max(histogram) as f64 / 1000.0
            }),
            F::FirstOverTime => self.each(out, |w, out| {
                match (w.t.first(), w.histograms.first()) {
                    (Some(t), Some((time, histogram))) if t >= time => out.push_histogram(w.step, histogram.clone()),
                    (Some(_), _) => out.set(w.step, w.v[0]),
                    (None, Some((_, histogram))) => out.push_histogram(w.step, histogram.clone()),
                    (None, None) => {}
                }
                Ok(())
            }),
            F::LastOverTime => self.each(out, |w, out| {
                match (w.t.last(), w.histograms.last()) {
                    (Some(t), Some((time, histogram))) if time >= t => out.push_histogram(w.step, histogram.clone()),
                    (Some(_), _) => out.set(w.step, w.v[w.v.len() - 1]),
                    (None, Some((_, histogram))) => out.push_histogram(w.step, histogram.clone()),
                    (None, None) => {}
                }
                Ok(())
            }),
            F::SumOverTime => self.sum(out),
            F::AvgOverTime => self.average(out),
            F::MinOverTime => self.extreme(out, |a, b| a < b),
            F::MaxOverTime => self.extreme(out, |a, b| a > b),
            F::TsOfMinOverTime => self.each_float(out, |w| time_of(w, |now, best| now <= best)),
            F::TsOfMaxOverTime => self.each_float(out, |w| time_of(w, |now, best| now >= best)),
            F::StdvarOverTime => self.each_float(out, |w| variance(w.v)),
            F::StddevOverTime => self.each_float(out, |w| variance(w.v).sqrt()),
            F::QuantileOverTime => self.quantile(out),
            F::MadOverTime => self.each_float(out, |w| median_deviation(w.v)),
            F::Rate => self.rate(out, true, true),
            F::Increase => self.rate(out, true, false),
            F::Delta => self.rate(out, false, false),
            F::Irate => self.instant_rate(out, true),
            F::Idelta => self.instant_rate(out, false),
            F::Changes => self.transitions(
                out,
                |a, b| a != b && !(a.is_nan() && b.is_nan()),
                |now, before| !ops::equals(now, before),
            ),
            F::Resets => self.transitions(out, |before, now| now < before, ops::detect_reset),
            F::Deriv => self.regression(out, |w| linear_regression(w, w.t[0]).0),
            F::PredictLinear => self.regression(out, |w| {
                let (slope, intercept) = linear_regression(w, w.now);
                slope * self.scalars[0][w.step] + intercept
            }),
            F::DoubleExponentialSmoothing => self.smoothing(out),
            _ => Err(unsupported("this function of a range vector")),
        }
    }

    fn each(&self, out: &mut Column, mut visit: impl FnMut(Window<'_>, &mut Column) -> Result<()>) -> Result<()> {
        self.shape.each(self.samples, |window| visit(window, out))
    }

    /// A float for every window.
    fn each_value(&self, out: &mut Column, mut value: impl FnMut(&Window<'_>) -> f64) -> Result<()> {
        self.each(out, |w, out| {
            out.set(w.step, value(&w));
            Ok(())
        })
    }

    /// A float for every window with floats; histograms beside them are ignored, with a remark.
    fn each_float(&self, out: &mut Column, mut value: impl FnMut(&Window<'_>) -> f64) -> Result<()> {
        self.each(out, |w, out| {
            if w.t.is_empty() {
                return Ok(());
            }
            self.note_ignored(&w);
            out.set(w.step, value(&w));
            Ok(())
        })
    }

    fn note_ignored(&self, w: &Window<'_>) {
        if !w.histograms.is_empty() {
            self.cx.remark(Remark::IgnoredInMixedRange(self.name.to_owned()), self.at);
        }
    }

    fn note_mixed(&self) {
        self.cx.remark(Remark::MixedFloatsHistograms(self.name.to_owned()), self.at);
    }

    /// Whether windows overlap so much that running sums pay.
    fn overlapping(&self) -> bool {
        self.shape.width > self.shape.grid.step && self.shape.grid.steps() > 2
    }

    fn sum(&self, out: &mut Column) -> Result<()> {
        let sums = if self.overlapping() { exact_sums(&self.samples.v) } else { None };
        self.each(out, |w, out| {
            if w.t.is_empty() {
                return self.sum_histograms(&w, out, false);
            }
            if !w.histograms.is_empty() {
                self.note_mixed();
                return Ok(());
            }
            let value = match &sums {
                Some(sums) => sums[w.high] - sums[w.low],
                None => {
                    let (sum, compensation) = w.v.iter().fold((0.0, 0.0), |(sum, c), v| kahan(*v, sum, c));
                    if sum.is_infinite() { sum } else { sum + compensation }
                }
            };
            out.set(w.step, value);
            Ok(())
        })
    }

    fn average(&self, out: &mut Column) -> Result<()> {
        let sums = if self.overlapping() { exact_sums(&self.samples.v) } else { None };
        self.each(out, |w, out| {
            if w.t.is_empty() {
                return self.sum_histograms(&w, out, true);
            }
            if !w.histograms.is_empty() {
                self.note_mixed();
                return Ok(());
            }
            let value = match &sums {
                Some(sums) => (sums[w.high] - sums[w.low]) / w.v.len() as f64,
                None => mean(w.v),
            };
            out.set(w.step, value);
            Ok(())
        })
    }

    fn sum_histograms(&self, w: &Window<'_>, out: &mut Column, average: bool) -> Result<()> {
        let remarks = ops::Remarks { cx: self.cx, name: self.name, span: self.at };
        let histograms = w.histograms.iter().map(|(_, histogram)| &**histogram);
        if let Some(result) = ops::sum_over_time(histograms, average, &remarks) {
            out.push_histogram(w.step, result.into());
        }
        Ok(())
    }

    fn extreme(&self, out: &mut Column, better: fn(f64, f64) -> bool) -> Result<()> {
        let mut window = ExtremeWindow::default();
        self.each_float(out, |w| window.move_to(&self.samples.v, w.low, w.high, better))
    }

    fn quantile(&self, out: &mut Column) -> Result<()> {
        let mut window = SortedWindow::default();
        self.each_float(out, |w| {
            let q = self.scalars[0][w.step];
            if !(0.0..=1.0).contains(&q) {
                self.cx.remark(Remark::InvalidQuantile(q.to_bits()), self.at);
            }
            quantile_sorted(q, window.move_to(&self.samples.v, w.low, w.high))
        })
    }

    fn rate(&self, out: &mut Column, is_counter: bool, per_second: bool) -> Result<()> {
        if self.edges != Edges::Plain {
            return self.extended_rate(out, is_counter, per_second);
        }
        let extrapolation = Extrapolation { is_counter, per_second: per_second.then(|| seconds(self.shape.width)) };
        // Where the counter started again: a window adds what it had before each of those inside it.
        let v = &self.samples.v[..];
        let resets: Vec<usize> =
            if is_counter { (1..v.len()).filter(|at| v[*at] < v[*at - 1]).collect() } else { Vec::new() };
        let mut first_reset = 0;
        self.each(out, |w, out| {
            if !w.histograms.is_empty() {
                if !w.t.is_empty() {
                    self.note_mixed();
                } else if w.histograms.len() > 1 {
                    return self.histogram_rate(&w, out, &extrapolation);
                }
                return Ok(());
            }
            if w.t.len() < 2 {
                return Ok(());
            }
            while first_reset < resets.len() && resets[first_reset] <= w.low {
                first_reset += 1;
            }
            let first = w.v[0];
            let mut result = w.v[w.v.len() - 1] - first;
            for at in resets[first_reset..].iter().take_while(|at| **at < w.high) {
                result += v[*at - 1];
            }
            let zero = (result > 0.0 && first >= 0.0).then(|| first / result);
            out.set(w.step, result * extrapolation.factor(&w, w.t[0], w.t[w.t.len() - 1], w.t.len(), zero));
            Ok(())
        })
    }

    /// `rate` and its like of windows whose edges are computed rather than extrapolated to.
    fn extended_rate(&self, out: &mut Column, is_counter: bool, per_second: bool) -> Result<()> {
        let smoothed = self.edges == Edges::Smoothed;
        self.each(out, |w, out| {
            let edges = edges::Window { start: w.start, end: w.end, smoothed, is_counter };
            if w.histograms.is_empty() {
                if let Some(change) = edges.change(w.t, w.v) {
                    out.set(w.step, if per_second { change / seconds(self.shape.width) } else { change });
                }
                return Ok(());
            }
            if !w.t.is_empty() {
                self.note_mixed();
                return Ok(());
            }
            let remarks = ops::Remarks { cx: self.cx, name: self.name, span: self.at };
            if let Some(mut result) = edges.histogram_change(w.histograms, &remarks) {
                if per_second {
                    ops::divide(&mut result, seconds(self.shape.width));
                }
                result.counter_reset_hint = CounterResetHint::Gauge;
                result.compact(0);
                out.push_histogram(w.step, result.into());
            }
            Ok(())
        })
    }

    fn histogram_rate(&self, w: &Window<'_>, out: &mut Column, extrapolation: &Extrapolation) -> Result<()> {
        let remarks = ops::Remarks { cx: self.cx, name: self.name, span: self.at };
        let Some(mut result) = ops::rate(w.histograms, extrapolation.is_counter, &remarks) else { return Ok(()) };
        let (first_t, first) = &w.histograms[0];
        let last_t = w.histograms[w.histograms.len() - 1].0;
        let zero = (result.count > 0.0 && first.count >= 0.0).then(|| first.count / result.count);
        ops::scale(&mut result, extrapolation.factor(w, *first_t, last_t, w.histograms.len(), zero));
        out.push_histogram(w.step, result.into());
        Ok(())
    }

    fn instant_rate(&self, out: &mut Column, is_rate: bool) -> Result<()> {
        self.each(out, |w, out| {
            if w.histograms.is_empty() {
                let count = w.t.len();
                if count < 2 || w.t[count - 1] == w.t[count - 2] {
                    return Ok(());
                }
                let (before, now) = (w.v[count - 2], w.v[count - 1]);
                let change = if is_rate && now < before { now } else { now - before };
                let elapsed = (w.t[count - 1] - w.t[count - 2]) as f64 / 1000.0;
                out.set(w.step, if is_rate { change / elapsed } else { change });
                return Ok(());
            }
            let Some([before, now]) = last_two(&w) else { return Ok(()) };
            match (before, now) {
                ((_, Last::Float(_)), (_, Last::Float(_))) => {
                    let ((t0, Last::Float(before)), (t1, Last::Float(now))) = (before, now) else { return Ok(()) };
                    let change = if is_rate && now < before { now } else { now - before };
                    out.set(w.step, if is_rate { change / ((t1 - t0) as f64 / 1000.0) } else { change });
                }
                ((t0, Last::Histogram(before)), (t1, Last::Histogram(now))) => {
                    let remarks = ops::Remarks { cx: self.cx, name: self.name, span: self.at };
                    if let Some(mut result) = ops::instant_difference(before, now, is_rate, &remarks) {
                        if is_rate {
                            ops::divide(&mut result, (t1 - t0) as f64 / 1000.0);
                        }
                        out.push_histogram(w.step, result.into());
                    }
                }
                _ => self.note_mixed(),
            }
            Ok(())
        })
    }

    /// How often a sample differs from the one before it; between a float and a histogram always.
    fn transitions(
        &self,
        out: &mut Column,
        float: fn(f64, f64) -> bool,
        histogram: fn(&crate::model::FloatHistogram, &crate::model::FloatHistogram) -> bool,
    ) -> Result<()> {
        let v = &self.samples.v[..];
        if self.samples.histograms.is_empty() && self.edges == Edges::Plain {
            let mut so_far = vec![0u32; v.len()];
            for at in 1..v.len() {
                so_far[at] = so_far[at - 1] + u32::from(float(v[at - 1], v[at]));
            }
            return self.each_value(out, |w| f64::from(so_far[w.high - 1] - so_far[w.low]));
        }
        self.each(out, |w, out| {
            let anchored = self.edges == Edges::Anchored;
            let first = if anchored { edges::first_of_anchored(w.t, w.histograms, w.start) } else { Some((0, 0)) };
            let Some((mut at, mut at_histogram)) = first else { return Ok(()) };
            let mut before: Option<Last<'_>> = None;
            let mut count = 0u32;
            while at < w.t.len() || at_histogram < w.histograms.len() {
                let float_next =
                    at_histogram >= w.histograms.len() || at < w.t.len() && w.t[at] < w.histograms[at_histogram].0;
                let now = if float_next {
                    at += 1;
                    Last::Float(w.v[at - 1])
                } else {
                    at_histogram += 1;
                    Last::Histogram(&w.histograms[at_histogram - 1].1)
                };
                count += u32::from(match (before, now) {
                    (None, _) => false,
                    (Some(Last::Float(a)), Last::Float(b)) => float(a, b),
                    (Some(Last::Histogram(a)), Last::Histogram(b)) => histogram(b, a),
                    _ => true,
                });
                before = Some(now);
            }
            out.set(w.step, f64::from(count));
            Ok(())
        })
    }

    fn regression(&self, out: &mut Column, mut value: impl FnMut(&Window<'_>) -> f64) -> Result<()> {
        self.each(out, |w, out| {
            if w.t.is_empty() {
                return Ok(());
            }
            self.note_ignored(&w);
            if w.t.len() >= 2 {
                out.set(w.step, value(&w));
            }
            Ok(())
        })
    }

    fn smoothing(&self, out: &mut Column) -> Result<()> {
        self.each(out, |w, out| {
            let (smoothing, trend) = (self.scalars[0][w.step], self.scalars[1][w.step]);
            if smoothing <= 0.0 || smoothing >= 1.0 {
                return Err(invalid(format!("invalid smoothing factor. Expected: 0 < sf < 1, got: {smoothing:.6}")));
            }
            if trend <= 0.0 || trend >= 1.0 {
                return Err(invalid(format!("invalid trend factor. Expected: 0 < tf < 1, got: {trend:.6}")));
            }
            if w.t.is_empty() {
                return Ok(());
            }
            self.note_ignored(&w);
            if w.t.len() < 2 {
                return Ok(());
            }
            let (mut before, mut now) = (0.0, w.v[0]);
            let mut slope = w.v[1] - w.v[0];
            for at in 1..w.v.len() {
                let x = smoothing * w.v[at];
                if at > 1 {
                    slope = trend * (now - before) + (1.0 - trend) * slope;
                }
                let y = (1.0 - smoothing) * (now + slope);
                (before, now) = (now, x + y);
            }
            out.set(w.step, now);
            Ok(())
        })
    }
}

/// How a difference becomes a rate: stretched to the window's edges where the samples come close to them.
struct Extrapolation {
    is_counter: bool,
    /// The window's seconds, if the result is per second.
    per_second: Option<f64>,
}

impl Extrapolation {
    /// What to multiply the difference with. `zero`: the first value in parts of the difference, if the counter can be
    /// followed back to zero.
    fn factor(&self, w: &Window<'_>, first_t: i64, last_t: i64, count: usize, zero: Option<f64>) -> f64 {
        let mut to_start = (first_t - w.start) as f64 / 1000.0;
        let mut to_end = (w.end - last_t) as f64 / 1000.0;
        let sampled = (last_t - first_t) as f64 / 1000.0;
        let between = sampled / (count - 1) as f64;
        let threshold = between * 1.1;
        if to_start >= threshold {
            to_start = between / 2.0;
        }
        if let Some(zero) = zero.filter(|_| self.is_counter) {
            let to_zero = sampled * zero;
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
        if to_end >= threshold {
            to_end = between / 2.0;
        }
        let mut factor = 1.0;
        if sampled != 0.0 {
            factor = (sampled + to_start + to_end) / sampled;
        }
        if let Some(seconds) = self.per_second {
            factor /= seconds;
        }
        factor
    }
}

/// A sample of either kind.
#[derive(Clone, Copy)]
enum Last<'a> {
    Float(f64),
    Histogram(&'a crate::model::FloatHistogram),
}

/// The last two samples of a window, of whatever kind.
fn last_two<'a>(w: &Window<'a>) -> Option<[(i64, Last<'a>); 2]> {
    let floats = w.t.iter().zip(w.v).rev().take(2).map(|(t, v)| (*t, Last::Float(*v)));
    let histograms = w.histograms.iter().rev().take(2).map(|(t, histogram)| (*t, Last::Histogram(histogram)));
    let mut all: Vec<_> = floats.chain(histograms).collect();
    all.sort_by_key(|(t, _)| *t);
    let count = all.len();
    (count >= 2).then(|| [all[count - 2], all[count - 1]])
}

fn mean(v: &[f64]) -> f64 {
    let (mut sum, mut compensation) = (v[0], 0.0);
    let mut mean = 0.0;
    let mut incremental = false;
    let mut count = 1.0;
    for (at, value) in v.iter().enumerate().skip(1) {
        count = (at + 1) as f64;
        if !incremental {
            let (new_sum, new_compensation) = kahan(*value, sum, compensation);
            if !new_sum.is_infinite() {
                (sum, compensation) = (new_sum, new_compensation);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            compensation /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, compensation) = kahan(value / count, q * mean, q * compensation);
    }
    if incremental { mean + compensation } else { sum / count + compensation / count }
}

fn variance(v: &[f64]) -> f64 {
    let mut count = 0.0;
    let (mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0);
    for value in v {
        count += 1.0;
        let delta = value - (mean + mean_c);
        (mean, mean_c) = kahan(delta / count, mean, mean_c);
        (aux, aux_c) = kahan(delta * (value - (mean + mean_c)), aux, aux_c);
    }
    (aux + aux_c) / count
}

fn median_deviation(v: &[f64]) -> f64 {
    if v.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let mut values = v.to_vec();
    values.sort_unstable_by(nan_first);
    let median = quantile_sorted(0.5, &values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    values.sort_unstable_by(nan_first);
    quantile_sorted(0.5, &values)
}

fn time_of(w: &Window<'_>, replaces: fn(f64, f64) -> bool) -> f64 {
    let (mut best, mut time) = (w.v[0], w.t[0]);
    for (t, v) in w.t.iter().zip(w.v) {
        if replaces(*v, best) || best.is_nan() {
            (best, time) = (*v, *t);
        }
    }
    time as f64 / 1000.0
}

/// Slope, and value at `origin`, of the line that fits the samples best.
fn linear_regression(w: &Window<'_>, origin: i64) -> (f64, f64) {
    let first = w.v[0];
    let mut constant = true;
    let mut n = 0.0;
    let (mut x, mut y, mut xy, mut x2) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    for (at, (t, v)) in w.t.iter().zip(w.v).enumerate() {
        if at > 0 && *v != first {
            constant = false;
        }
        n += 1.0;
        let time = (t - origin) as f64 / 1e3;
        x = kahan(time, x.0, x.1);
        y = kahan(*v, y.0, y.1);
        xy = kahan(time * v, xy.0, xy.1);
        x2 = kahan(time * time, x2.0, x2.1);
    }
    if constant {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let (x, y, xy, x2) = (x.0 + x.1, y.0 + y.1, xy.0 + xy.1, x2.0 + x2.1);
    let covariance = xy - x * y / n;
    let variance = x2 - x * x / n;
    let slope = covariance / variance;
    (slope, y / n - slope * x / n)
}
