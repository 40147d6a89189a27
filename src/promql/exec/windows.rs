//! A series' samples and the windows that move over them.

use std::sync::Arc;

use super::select::Timing;
use crate::error::Result;
use crate::model::{CounterResetHint, FloatHistogram, TimeRange, is_stale};
use crate::promql::plan::Grid;
use crate::query::Columns;

/// One series' samples in order of time, without stale markers.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) t: Vec<i64>,
    pub(crate) v: Vec<f64>,
    pub(crate) histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

impl Samples {
    pub(crate) fn clear(&mut self) {
        self.t.clear();
        self.v.clear();
        self.histograms.clear();
    }

    /// Takes over decoded samples.
    pub(crate) fn take(&mut self, columns: &Columns) {
        self.clear();
        if columns.v.iter().any(|v| is_stale(*v)) {
            for (t, v) in columns.t.iter().zip(&columns.v).filter(|(_, v)| !is_stale(**v)) {
                self.t.push(*t);
                self.v.push(*v);
            }
        } else {
            self.t.extend_from_slice(&columns.t);
            self.v.extend_from_slice(&columns.v);
        }
        self.histograms.extend(columns.histograms.iter().filter(|(_, histogram)| !is_stale(histogram.sum)).cloned());
    }

    /// Takes over what a subquery gave at the times of `grid`.
    pub(crate) fn take_results(&mut self, column: &super::Column, grid: Grid) {
        self.clear();
        for step in column.present.iter().filter(|step| !is_stale(column.values[*step])) {
            self.t.push(grid.time(step));
            self.v.push(column.values[step]);
        }
        for (step, histogram) in column.histograms.iter().filter(|(_, histogram)| !is_stale(histogram.sum)) {
            // What a hint compares with may not be among a subquery's samples.
            let histogram = match histogram.counter_reset_hint {
                CounterResetHint::CounterReset | CounterResetHint::NotCounterReset => {
                    let mut copy = FloatHistogram::clone(histogram);
                    copy.counter_reset_hint = CounterResetHint::Unknown;
                    Arc::new(copy)
                }
                _ => histogram.clone(),
            };
            self.histograms.push((grid.time(*step as usize), histogram));
        }
    }
}

/// What a function sees at one step: the samples later than `start` and not later than `end`, and with `anchored` or
/// `smoothed` those around them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) step: usize,
    /// The step's own time, milliseconds.
    pub(crate) now: i64,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Where the window's floats lie among the series'.
    pub(crate) low: usize,
    pub(crate) high: usize,
    pub(crate) t: &'a [i64],
    pub(crate) v: &'a [f64],
    pub(crate) histograms: &'a [(i64, Arc<FloatHistogram>)],
}

impl Shape {
    /// The times of all samples that some window has.
    pub(crate) fn range(&self) -> TimeRange {
        let first = self.timing.look(self.grid.start) - self.width - self.before + 1;
        TimeRange::new(first, self.timing.look(self.grid.last()) + self.after)
    }
}

/// How windows lie on the steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) grid: Grid,
    pub(crate) timing: Timing,
    pub(crate) width: i64,
    /// How far before its start, and behind its end, a window has samples too.
    pub(crate) before: i64,
    pub(crate) after: i64,
}

impl Shape {
    /// Calls `visit` for the window of each step that has samples, in order. Windows only move forward.
    pub(crate) fn each<'a>(&self, samples: &'a Samples, mut visit: impl FnMut(Window<'a>) -> Result<()>) -> Result<()> {
        let (t, histograms) = (&samples.t[..], &samples.histograms[..]);
        let (mut low, mut high, mut low_histogram, mut high_histogram) = (0, 0, 0, 0);
        for step in 0..self.grid.steps() {
            let now = self.grid.time(step);
            let end = self.timing.look(now);
            let start = end - self.width;
            let (from, to) = (start - self.before, end + self.after);
            while high < t.len() && t[high] <= to {
                high += 1;
            }
            while low < high && t[low] <= from {
                low += 1;
            }
            while high_histogram < histograms.len() && histograms[high_histogram].0 <= to {
                high_histogram += 1;
            }
            while low_histogram < high_histogram && histograms[low_histogram].0 <= from {
                low_histogram += 1;
            }
            if low == high && low_histogram == high_histogram {
                continue;
            }
            visit(Window {
                step,
                now,
                start,
                end,
                low,
                high,
                t: &t[low..high],
                v: &samples.v[low..high],
                histograms: &histograms[low_histogram..high_histogram],
            })?;
        }
        Ok(())
    }
}

/// Adds `increment` to a sum and its compensation: Neumaier's summation, as Prometheus does it.
#[inline]
pub(crate) fn kahan(increment: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + increment;
    let compensation = if total.is_infinite() {
        0.0
    } else if sum.abs() >= increment.abs() {
        compensation + ((sum - total) + increment)
    } else {
        compensation + ((increment - total) + sum)
    };
    (total, compensation)
}

/// The sum of every window of a series whose values are whole numbers, and few and small enough that no sum of them is
/// ever rounded: then any way of summing gives the same bits, and so do differences of running sums.
pub(crate) fn exact_sums(v: &[f64]) -> Option<Vec<f64>> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let mut magnitude = 0.0;
    let mut total = 0.0;
    let mut sums = Vec::with_capacity(v.len() + 1);
    sums.push(0.0);
    for value in v {
        magnitude += value.abs();
        if value.trunc() != *value || !(magnitude < EXACT) {
            return None;
        }
        total += value;
        sums.push(total);
    }
    Some(sums)
}

/// The `q`-quantile of sorted values.
pub(crate) fn quantile_sorted(q: f64, values: &[f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let last = (values.len() - 1) as f64;
    let rank = q * last;
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min(last);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// The order that quantiles sort by: NaN first.
pub(crate) fn nan_first(a: &f64, b: &f64) -> std::cmp::Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => a.total_cmp(b),
    }
}

/// The values of a moving window, kept sorted.
#[derive(Debug, Default)]
pub(crate) struct SortedWindow {
    values: Vec<f64>,
    low: usize,
    high: usize,
}

impl SortedWindow {
    /// Moves to the values from `low` to before `high` of `all`.
    pub(crate) fn move_to(&mut self, all: &[f64], low: usize, high: usize) -> &[f64] {
        if low >= self.high || self.values.is_empty() {
            self.values.clear();
            self.values.extend_from_slice(&all[low..high]);
            self.values.sort_unstable_by(nan_first);
        } else {
            for value in &all[self.low..low] {
                if let Ok(at) = self.values.binary_search_by(|probe| nan_first(probe, value)) {
                    self.values.remove(at);
                }
            }
            for value in &all[self.high..high] {
                let at = self.values.partition_point(|probe| nan_first(probe, value).is_lt());
                self.values.insert(at, *value);
            }
        }
        (self.low, self.high) = (low, high);
        &self.values
    }
}

/// The extreme value of a moving window, by a queue of those that can still become it.
#[derive(Debug, Default)]
pub(crate) struct ExtremeWindow {
    /// Indices, ascending; their values get no better.
    queue: std::collections::VecDeque<usize>,
    high: usize,
}

impl ExtremeWindow {
    /// Moves to the values from `low` to before `high` of `all`; `better` is `>` or `<`.
    pub(crate) fn move_to(&mut self, all: &[f64], low: usize, high: usize, better: fn(f64, f64) -> bool) -> f64 {
        for at in self.high.max(low)..high {
            if all[at].is_nan() {
                continue;
            }
            while self.queue.back().is_some_and(|back| better(all[at], all[*back])) {
                self.queue.pop_back();
            }
            self.queue.push_back(at);
        }
        self.high = high;
        while self.queue.front().is_some_and(|front| *front < low) {
            self.queue.pop_front();
        }
        // Only NaNs: the last of them, as each replaces the one before.
        self.queue.front().map_or(all[high - 1], |front| all[*front])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![4 => (-9i32..9).prop_map(f64::from), 2 => -1.0f64..1.0, 1 => Just(f64::NAN)];
        prop::collection::vec(value, 1..60)
    }

    proptest! {
        #[test]
        fn a_moving_window_knows_its_order_and_its_extremes(all in values(), moves in prop::collection::vec((0usize..9, 0usize..9), 1..20)) {
            let (mut sorted, mut highest, mut lowest) = (SortedWindow::default(), ExtremeWindow::default(), ExtremeWindow::default());
            let (mut low, mut high) = (0usize, 0usize);
            for (drop, add) in moves {
                high = (high + add).min(all.len());
                low = (low + drop).min(high);
                if low == high {
                    continue;
                }
                let mut expected = all[low..high].to_vec();
                expected.sort_by(nan_first);
                let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(sorted.move_to(&all, low, high)), bits(&expected));
                let max = all[low..high].iter().copied().fold(f64::NAN, |max, v| if v > max || max.is_nan() { v } else { max });
                let min = all[low..high].iter().copied().fold(f64::NAN, |min, v| if v < min || min.is_nan() { v } else { min });
                prop_assert_eq!(highest.move_to(&all, low, high, |a, b| a > b).to_bits(), max.to_bits());
                prop_assert_eq!(lowest.move_to(&all, low, high, |a, b| a < b).to_bits(), min.to_bits());
            }
        }

        #[test]
        fn running_sums_of_whole_numbers_are_what_compensated_ones_are(all in prop::collection::vec(-1_000_000i64..1_000_000, 1..50), low in 0usize..50, len in 1usize..50) {
            let all: Vec<f64> = all.into_iter().map(|v| v as f64).collect();
            let (low, high) = (low.min(all.len() - 1), (low + len).min(all.len()));
            prop_assume!(low < high);
            let sums = exact_sums(&all).unwrap();
            let (sum, compensation) = all[low..high].iter().fold((0.0, 0.0), |(sum, c), v| kahan(*v, sum, c));
            prop_assert_eq!((sums[high] - sums[low]).to_bits(), (sum + compensation).to_bits());
        }
    }
}
