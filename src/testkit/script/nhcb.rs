//! Classic histograms as native ones with custom buckets: what `load_with_nhcb` adds.

use std::collections::BTreeMap;

use super::parse::Load;
use super::series::Point;
use crate::model::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Labels, LabelsBuilder, METRIC_NAME, Span};

/// What the series of a classic histogram say of one time.
#[derive(Debug, Default)]
struct Classic {
    /// Upper bounds and cumulative counts.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Classic {
    fn native(mut self) -> Result<FloatHistogram, &'static str> {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.buckets.dedup_by(|later, earlier| later.0 == earlier.0);
        let count = self.count.or(self.buckets.last().map(|bucket| bucket.1)).unwrap_or_default();
        if self.buckets.last().is_none_or(|bucket| bucket.0 != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        if self.buckets.last().is_some_and(|bucket| bucket.1 != count) {
            return Err("a classic histogram whose count is not that of its last bucket");
        }
        let mut before = 0.0;
        let mut counts = Vec::with_capacity(self.buckets.len());
        for &(_, cumulative) in &self.buckets {
            if cumulative < before {
                return Err("a classic histogram whose counts fall");
            }
            counts.push(cumulative - before);
            before = cumulative;
        }
        let mut histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length: counts.len() as u32 }],
            positive_buckets: counts,
            custom_values: self.buckets.iter().map(|bucket| bucket.0).filter(|bound| bound.is_finite()).collect(),
            ..FloatHistogram::default()
        };
        // Whole counts are converted by way of integers upstream, and those keep up to two empty buckets.
        let whole = histogram.positive_buckets.iter().all(|count| count.fract() == 0.0);
        histogram.compact(if whole { 2 } else { 0 });
        Ok(histogram)
    }
}

/// The native histograms that the classic ones of `load` make, with their times.
///
/// # Errors
/// If counts do not fit each other.
pub(super) fn native_histograms(load: &Load) -> Result<Vec<(Labels, i64, FloatHistogram)>, &'static str> {
    let mut found: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
    for series in &load.series {
        let name = series.labels.metric_name();
        let suffix = ["_bucket", "_count", "_sum"].into_iter().find(|suffix| name.ends_with(suffix));
        let Some((suffix, base)) = suffix.and_then(|suffix| Some((suffix, name.strip_suffix(suffix)?))) else {
            continue;
        };
        let bound = series.labels.get("le").and_then(|le| le.parse::<f64>().ok()).filter(|bound| !bound.is_nan());
        if suffix == "_bucket" && bound.is_none() {
            continue;
        }
        let labels = LabelsBuilder::new().extend(&series.labels).push(METRIC_NAME, base).push("le", "").build();
        let times = found.entry(labels).or_default();
        for (index, point) in series.points.iter().enumerate() {
            let Point::Float(value) = point else { continue };
            let classic = times.entry(index as i64 * load.interval).or_default();
            match (suffix, bound) {
                ("_bucket", Some(bound)) => classic.buckets.push((bound, *value)),
                ("_count", _) => classic.count = Some(*value),
                _ => classic.sum = *value,
            }
        }
    }
    let mut out = Vec::new();
    for (labels, times) in found {
        for (t, classic) in times {
            out.push((labels.clone(), t, classic.native()?));
        }
    }
    Ok(out)
}
