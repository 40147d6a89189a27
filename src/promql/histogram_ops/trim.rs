//! A histogram without its observations on one side of a value.

use crate::model::{Bucket, FloatHistogram};
use crate::promql::exec::log2;

/// The part of a bucket's width that lies below `v`, which lies inside it.
pub(crate) fn fraction_below(bucket: &Bucket, v: f64, linear: bool) -> f64 {
    if linear {
        return (v - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper, at) = (log2(bucket.lower.abs()), log2(bucket.upper.abs()), log2(v.abs()));
    if v > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - ((at - upper) / (lower - upper)) }
}

/// `h </ at` and `h >/ at`: the histogram without its observations above, or below, a value.
pub(crate) fn trimmed(histogram: &FloatHistogram, at: f64, upper: bool) -> FloatHistogram {
    let custom = histogram.uses_custom_buckets();
    let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
    let mut side = |buckets: &mut dyn Iterator<Item = Bucket>, positive: bool| {
        let mut any = false;
        let kept: Vec<f64> = buckets
            .map(|bucket| {
                if bucket.count == 0.0 {
                    return 0.0;
                }
                any = true;
                let (whole, part) = if upper {
                    (bucket.upper <= at, bucket.lower < at)
                } else {
                    (bucket.lower >= at, bucket.upper > at)
                };
                let (kept, middle) = if whole {
                    (bucket.count, middle(bucket.lower, bucket.upper, positive, custom))
                } else if part {
                    trimmed_bucket(&bucket, at, upper, positive, custom)
                } else {
                    changed = true;
                    return 0.0;
                };
                count += kept;
                sum += middle * kept;
                changed |= kept != bucket.count;
                kept
            })
            .collect();
        (kept, any)
    };
    let (positive, has_positive) = side(&mut histogram.positive(), true);
    let (negative, has_negative) = side(&mut histogram.negative(), false);
    let mut result = histogram.clone();
    (result.positive_buckets, result.negative_buckets) = (positive, negative);
    if histogram.zero_count > 0.0 {
        let (kept, middle) = trimmed_zero(&histogram.zero_bucket(), at, has_negative, has_positive, upper);
        changed |= kept != histogram.zero_count;
        result.zero_count = kept;
        sum += middle * kept;
        count += kept;
    }
    if changed {
        (result.count, result.sum) = (count, sum);
        result.compact(0);
    }
    result
}

/// What is left of a bucket that the value falls into, and where its middle is.
fn trimmed_bucket(bucket: &Bucket, at: f64, upper: bool, positive: bool, custom: bool) -> (f64, f64) {
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return trimmed_infinite(bucket, at, upper);
    }
    let below = if at <= bucket.lower {
        0.0
    } else if at >= bucket.upper {
        bucket.count
    } else {
        bucket.count * fraction_below(bucket, at, custom)
    };
    if upper {
        (below, middle(bucket.lower, at, positive, custom))
    } else {
        (bucket.count - below, middle(at, bucket.upper, positive, custom))
    }
}

/// The same for a bucket without an end. Where its observations lie in it nobody knows, so that mostly all or none stay.
fn trimmed_infinite(bucket: &Bucket, at: f64, upper: bool) -> (f64, f64) {
    let finite = |v: f64| if v.is_infinite() { 0.0 } else { v };
    let ends = bucket.upper != f64::INFINITY;
    if bucket.lower == f64::NEG_INFINITY {
        return match upper {
            true if at >= bucket.upper => (bucket.count, 0.0),
            // Only custom buckets get here: one that ends above zero is taken to begin there.
            true if at > 0.0 && bucket.upper > 0.0 && ends => (bucket.count * at / bucket.upper, at / 2.0),
            true if bucket.upper <= 0.0 => (bucket.count, at),
            false if at <= bucket.lower => (bucket.count, 0.0),
            false if at >= 0.0 && bucket.upper > at && ends => {
                (bucket.count * (1.0 - at / bucket.upper), (at + bucket.upper) / 2.0)
            }
            _ => (0.0, finite(bucket.upper)),
        };
    }
    if !upper && at >= bucket.lower { (bucket.count, at) } else { (0.0, finite(bucket.lower)) }
}

fn trimmed_zero(bucket: &Bucket, at: f64, has_negative: bool, has_positive: bool, upper: bool) -> (f64, f64) {
    let low = if has_positive && !has_negative { 0.0 } else { bucket.lower };
    let high = if has_negative && !has_positive { 0.0 } else { bucket.upper };
    let (all, none) = ((bucket.count, (low + high) / 2.0), (0.0, 0.0));
    if at <= low {
        return if upper { none } else { all };
    }
    if at >= high {
        return if upper { all } else { none };
    }
    if upper {
        (bucket.count * ((at - low) / (high - low)), (low + at) / 2.0)
    } else {
        (bucket.count * ((high - at) / (high - low)), (at + high) / 2.0)
    }
}

/// The middle of what is left of a bucket: of an exponential one the geometric mean.
fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        _ if linear => (lower + upper) / 2.0,
        _ => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
