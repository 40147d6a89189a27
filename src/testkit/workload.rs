//! Workload v1: the same series and values in every figure, ours and the peers', so that figures compare.
//!
//! ```text
//! series i      target t = i / 500, metric m = i % 500, kind k = i % 10
//! labels        __name__  app_metric_%03d of m/5, "_total" behind if k <= 5 or k = 9
//!               cluster   cluster-%d of t % 8          job        job-%d of t % 20
//!               code      m % 5                        namespace  ns-%d of t % 50
//!               instance  10.a.b.c:9100, a.b.c the bytes of t
//!               pod       pod-%d-%08x of t and the low half of the first splitmix64 output seeded with t
//! values        a splitmix64 seeded with i; its first output mod 1000 is v; each sample draws r, then
//!   k 0-3       v += r % 100                           a counter
//!   k 4, 5      v += 1 if r % 8 = 0                    a slow one
//!   k 6         v                                      a constant
//!   k 7         v += (r % 2001 - 1000)/100, to 2 places, halves away from zero
//!   k 8         v += 4096 * (r % 65 - 32)              bytes
//!   k 9         v += (r % 1000000007)/1e9              seconds
//! sample j      at T0 + 15000 j ms; appended in time order, one commit for the 500 samples of a target
//! ```

use crate::fs::sim::splitmix64;
use crate::model::{Labels, METRIC_NAME};

/// The time of sample 0, in milliseconds since the epoch: a multiple of two hours.
pub const T0: i64 = 1_700_006_400_000;
/// Milliseconds from a sample to the next.
pub const STEP_MS: i64 = 15_000;
/// Series a target has, and so samples a commit.
pub const TARGET: usize = 500;

/// The labels of series `index`.
#[must_use]
pub fn series_labels(index: usize) -> Labels {
    let (target, metric, kind) = (index / TARGET, index % TARGET, index % 10);
    let suffix = if kind <= 5 || kind == 9 { "_total" } else { "" };
    let hash = splitmix64(&mut (target as u64)) as u32;
    Labels::from_pairs([
        (METRIC_NAME, format!("app_metric_{:03}{suffix}", metric / 5)),
        ("cluster", format!("cluster-{}", target % 8)),
        ("code", (metric % 5).to_string()),
        ("instance", format!("10.{}.{}.{}:9100", target >> 16, target >> 8 & 255, target & 255)),
        ("job", format!("job-{}", target % 20)),
        ("namespace", format!("ns-{}", target % 50)),
        ("pod", format!("pod-{target}-{hash:08x}")),
    ])
}

/// The values of one series, without end.
#[derive(Debug, Clone)]
pub struct Values {
    random: u64,
    value: f64,
    kind: usize,
}

impl Values {
    /// The values of series `index`, from sample 0.
    #[must_use]
    pub fn new(index: usize) -> Self {
        let mut random = index as u64;
        let value = (splitmix64(&mut random) % 1000) as f64;
        Self { random, value, kind: index % 10 }
    }

    /// The next sample's value.
    pub fn draw(&mut self) -> f64 {
        let r = splitmix64(&mut self.random);
        let centred = |modulus: u64, middle: i64| ((r % modulus).cast_signed() - middle) as f64;
        match self.kind {
            0..=3 => self.value += (r % 100) as f64,
            4 | 5 if r.is_multiple_of(8) => self.value += 1.0,
            7 => self.value = ((self.value + centred(2001, 1000) / 100.0) * 100.0).round() / 100.0,
            8 => self.value += 4096.0 * centred(65, 32),
            9 => self.value += (r % 1_000_000_007) as f64 / 1e9,
            _ => {}
        }
        self.value
    }
}

impl Iterator for Values {
    type Item = f64;
    fn next(&mut self) -> Option<f64> {
        Some(self.draw())
    }
}

/// So many series, and the values that each is at.
#[derive(Debug, Clone)]
pub struct Workload {
    values: Vec<Values>,
    labels: Vec<Labels>,
    samples: usize,
}

impl Workload {
    /// The first `series` series, before sample 0.
    #[must_use]
    pub fn new(series: usize) -> Self {
        Self::part(0..series)
    }

    /// Some of the series, the first of which is a target's first, before sample 0.
    #[must_use]
    pub fn part(series: std::ops::Range<usize>) -> Self {
        Self {
            values: series.clone().map(Values::new).collect(),
            labels: series.map(series_labels).collect(),
            samples: 0,
        }
    }

    /// The series' labels; a series is its index here.
    #[must_use]
    pub fn labels(&self) -> &[Labels] {
        &self.labels
    }

    /// Draws the next sample of every series and hands them to `commit` as one target's after the other's: the time,
    /// the index of the first series, and a value for it and for each that follows.
    ///
    /// # Errors
    /// The first that `commit` answers.
    pub fn step<E>(&mut self, mut commit: impl FnMut(i64, usize, &[f64]) -> Result<(), E>) -> Result<(), E> {
        let t = T0 + STEP_MS * self.samples as i64;
        let mut drawn = Vec::with_capacity(TARGET);
        for (target, values) in self.values.chunks_mut(TARGET).enumerate() {
            drawn.clear();
            drawn.extend(values.iter_mut().map(Values::draw));
            commit(t, target * TARGET, &drawn)?;
        }
        self.samples += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side is what Prometheus 3.14's database held after the Go program that the peers are measured with.
    #[test]
    fn series_and_values_are_those_of_the_original() {
        let known: [(usize, &str, [u64; 4]); 8] = [
            (
                0,
                r#"{__name__="app_metric_000_total", cluster="cluster-0", code="0", instance="10.0.0.0:9100", job="job-0", namespace="ns-0", pod="pod-0-7b1dcdaf"}"#,
                [0x4080b80000000000, 0x4083300000000000, 0x4084900000000000, 0x4086080000000000],
            ),
            (
                4,
                r#"{__name__="app_metric_000_total", cluster="cluster-0", code="4", instance="10.0.0.0:9100", job="job-0", namespace="ns-0", pod="pod-0-7b1dcdaf"}"#,
                [0x408e980000000000, 0x408e980000000000, 0x408e980000000000, 0x408e980000000000],
            ),
            (
                6,
                r#"{__name__="app_metric_001", cluster="cluster-0", code="1", instance="10.0.0.0:9100", job="job-0", namespace="ns-0", pod="pod-0-7b1dcdaf"}"#,
                [0x4082800000000000, 0x4082800000000000, 0x4082800000000000, 0x4082800000000000],
            ),
            (
                7,
                r#"{__name__="app_metric_001", cluster="cluster-0", code="2", instance="10.0.0.0:9100", job="job-0", namespace="ns-0", pod="pod-0-7b1dcdaf"}"#,
                [0x407ed80000000000, 0x407f2a6666666666, 0x407f80a3d70a3d71, 0x407eeccccccccccd],
            ),
            (
                8,
                r#"{__name__="app_metric_001", cluster="cluster-0", code="3", instance="10.0.0.0:9100", job="job-0", namespace="ns-0", pod="pod-0-7b1dcdaf"}"#,
                [0x40fe26e000000000, 0x40f726e000000000, 0x4106937000000000, 0x4101937000000000],
            ),
            (
                507,
                r#"{__name__="app_metric_001", cluster="cluster-1", code="2", instance="10.0.0.1:9100", job="job-1", namespace="ns-1", pod="pod-1-89025cc1"}"#,
                [0x4081f628f5c28f5c, 0x40822ef5c28f5c29, 0x4082210a3d70a3d7, 0x40823f47ae147ae1],
            ),
            (
                998,
                r#"{__name__="app_metric_099", cluster="cluster-1", code="3", instance="10.0.0.1:9100", job="job-1", namespace="ns-1", pod="pod-1-89025cc1"}"#,
                [0x40b0260000000000, 0x40ec04c000000000, 0x40f7026000000000, 0x4105813000000000],
            ),
            (
                1009,
                r#"{__name__="app_metric_001_total", cluster="cluster-2", code="4", instance="10.0.0.2:9100", job="job-2", namespace="ns-2", pod="pod-2-1c9756ce"}"#,
                [0x408c923d058992f7, 0x408c95a976f25855, 0x408c99c7fb9b1f08, 0x408c9dfcdbc4b754],
            ),
        ];
        for (index, labels, bits) in known {
            assert_eq!(series_labels(index).to_string(), labels);
            let drawn: Vec<u64> = Values::new(index).take(4).map(f64::to_bits).collect();
            assert_eq!(drawn, bits, "series {index}");
        }
    }

    #[test]
    fn a_step_is_one_commit_a_target() {
        let mut commits = Vec::new();
        let mut workload = Workload::new(700);
        for _ in 0..2 {
            workload
                .step(|t, first, values| {
                    commits.push((t, first, values.len()));
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
        let second = T0 + STEP_MS;
        assert_eq!(commits, [(T0, 0, 500), (T0, 500, 200), (second, 0, 500), (second, 500, 200)]);
    }
}
