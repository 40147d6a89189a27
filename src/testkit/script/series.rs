//! A series' values: `1 2+3x4 _ _x2 stale {{schema:0 sum:5 count:4 buckets:[1 2 1]}}`.

use crate::model::{CounterResetHint, FloatHistogram, STALE_NAN_BITS, Span};

/// More values than any test needs, fewer than fill the memory.
const MOST_POINTS: usize = 1_000_000;

/// A value, or none, at one step.
#[derive(Debug, Clone)]
pub enum Point {
    /// `_`
    Omitted,
    /// A float; `stale` is the stale marker.
    Float(f64),
    /// A native histogram.
    Histogram {
        /// Its counts.
        histogram: Box<FloatHistogram>,
        /// Whether its counter reset hint was written out: only then an expectation looks at it.
        hint_given: bool,
    },
}

/// Reads the values of a series.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn parse_points(text: &str) -> Result<Vec<Point>, String> {
    let mut cursor = Cursor { text, position: 0 };
    let mut points = Vec::new();
    cursor.skip_space();
    while !cursor.rest().is_empty() {
        cursor.item(&mut points)?;
        if !cursor.rest().is_empty() && cursor.skip_space() == 0 {
            return Err(cursor.error("a space is missing between values"));
        }
    }
    Ok(points)
}

struct Cursor<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn error(&self, what: &str) -> String {
        let near: String = self.rest().chars().take(20).collect();
        format!("{what} at byte {}: {near:?}", self.position)
    }

    fn skip_space(&mut self) -> usize {
        let space = self.rest().len() - self.rest().trim_start().len();
        self.position += space;
        space
    }

    fn accept(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.position += wanted.len();
        }
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = rest.len() - rest.trim_start_matches(wanted).len();
        self.position += taken;
        rest.get(..taken).unwrap_or_default()
    }

    fn item(&mut self, points: &mut Vec<Point>) -> Result<(), String> {
        if self.accept("_") {
            let count = if self.accept("x") { self.count(points)? } else { 1 };
            points.extend(std::iter::repeat_n(Point::Omitted, count));
            return Ok(());
        }
        if self.rest().starts_with("{{") {
            return self.histograms(points);
        }
        let mut value = self.value()?;
        let step = match self.rest().chars().next() {
            Some('+' | '-') => Some(self.signed()?),
            _ => None,
        };
        if !self.accept("x") {
            if step.is_some() {
                return Err(self.error("a step without a number of repetitions"));
            }
            points.push(Point::Float(value));
            return Ok(());
        }
        // So many repetitions of the first one.
        for _ in 0..=self.count(points)? {
            points.push(Point::Float(value));
            value += step.unwrap_or_default();
        }
        Ok(())
    }

    fn histograms(&mut self, points: &mut Vec<Point>) -> Result<(), String> {
        let (mut histogram, mut hint_given) = self.histogram()?;
        let mut step = None;
        if self.rest().starts_with("+{{") || self.rest().starts_with("-{{") {
            let sign = if self.accept("+") { 1.0 } else { -1.0 };
            self.accept("-");
            let (other, other_hint) = self.histogram()?;
            hint_given = other_hint;
            step = Some((sign, other));
        }
        let repetitions = match self.accept("x") {
            true => self.count(points)?,
            false if step.is_some() => return Err(self.error("a step without a number of repetitions")),
            false => 0,
        };
        for index in 0..=repetitions {
            if let (Some((sign, step)), 1..) = (&step, index) {
                histogram = sum(&histogram, step, *sign).map_err(|error| self.error(error))?;
            }
            points.push(Point::Histogram { histogram: Box::new(histogram.clone()), hint_given });
        }
        Ok(())
    }

    /// Repetitions, which leave room below [`MOST_POINTS`].
    fn count(&mut self, points: &[Point]) -> Result<usize, String> {
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse::<usize>() {
            Ok(count) if count < MOST_POINTS - points.len().min(MOST_POINTS) => Ok(count),
            Ok(_) => Err(self.error("too many values")),
            Err(_) => Err(self.error("no number of repetitions")),
        }
    }

    /// A number, signed or not, or `stale`.
    fn value(&mut self) -> Result<f64, String> {
        if self.rest().starts_with("stale") {
            self.position += "stale".len();
            return Ok(f64::from_bits(STALE_NAN_BITS));
        }
        self.signed()
    }

    fn signed(&mut self) -> Result<f64, String> {
        let sign = if self.accept("-") { -1.0 } else { 1.0 };
        if sign == 1.0 {
            self.accept("+");
        }
        Ok(sign * self.unsigned()?)
    }

    fn unsigned(&mut self) -> Result<f64, String> {
        let start = self.position;
        if self.take_while(|c| c.is_ascii_alphabetic()).is_empty() {
            self.take_while(|c| c.is_ascii_digit() || c == '.' || c == '_');
            let mantissa_end = self.position;
            if self.accept("e") || self.accept("E") {
                let _ = self.accept("+") || self.accept("-");
                if self.take_while(|c| c.is_ascii_digit()).is_empty() {
                    self.position = mantissa_end;
                }
            }
        }
        let text = self.text.get(start..self.position).unwrap_or_default();
        match text.to_ascii_lowercase().as_str() {
            "inf" => Ok(f64::INFINITY),
            "nan" => Ok(f64::NAN),
            other => other.replace('_', "").parse().map_err(|_| {
                self.position = start;
                self.error("neither a number nor \"stale\"")
            }),
        }
    }

    /// A histogram, and whether its counter reset hint was given.
    fn histogram(&mut self) -> Result<(FloatHistogram, bool), String> {
        self.accept("{{");
        let mut histogram = FloatHistogram::default();
        let (mut offset, mut negative_offset) = (0, 0);
        let mut hint_given = false;
        let mut seen = Vec::new();
        loop {
            self.skip_space();
            if self.accept("}}") {
                break;
            }
            let key = self.take_while(|c| c.is_ascii_alphabetic() || c == '_');
            if seen.contains(&key) {
                return Err(self.error("a key that was given before"));
            }
            seen.push(key);
            if !self.accept(":") {
                return Err(self.error("a key and a colon are missing"));
            }
            match key {
                "schema" => histogram.schema = self.integer()?,
                "sum" => histogram.sum = self.signed()?,
                "count" => histogram.count = self.signed()?,
                "z_bucket" => histogram.zero_count = self.signed()?,
                "z_bucket_w" => histogram.zero_threshold = self.signed()?,
                "custom_values" => histogram.custom_values = self.numbers()?,
                "buckets" => histogram.positive_buckets = self.numbers()?,
                "n_buckets" => histogram.negative_buckets = self.numbers()?,
                "offset" => offset = self.integer()?,
                "n_offset" => negative_offset = self.integer()?,
                "counter_reset_hint" => {
                    histogram.counter_reset_hint = self.hint()?;
                    hint_given = true;
                }
                _ => return Err(self.error("an unknown key before")),
            }
        }
        let spans = |offset: i32, buckets: &[f64]| match buckets.len() {
            0 => Vec::new(),
            length => vec![Span { offset, length: length as u32 }],
        };
        histogram.positive_spans = spans(offset, &histogram.positive_buckets);
        histogram.negative_spans = spans(negative_offset, &histogram.negative_buckets);
        Ok((histogram, hint_given))
    }

    fn integer(&mut self) -> Result<i32, String> {
        let start = self.position;
        self.accept("-");
        self.take_while(|c| c.is_ascii_digit());
        self.text.get(start..self.position).unwrap_or_default().parse().map_err(|_| self.error("not an integer before"))
    }

    fn numbers(&mut self) -> Result<Vec<f64>, String> {
        if !self.accept("[") {
            return Err(self.error("a list in brackets is missing"));
        }
        let mut numbers = Vec::new();
        loop {
            self.skip_space();
            if self.accept("]") {
                return Ok(numbers);
            }
            numbers.push(self.signed()?);
        }
    }

    fn hint(&mut self) -> Result<CounterResetHint, String> {
        match self.take_while(|c| c.is_ascii_alphabetic() || c == '_') {
            "unknown" => Ok(CounterResetHint::Unknown),
            "reset" => Ok(CounterResetHint::CounterReset),
            "not_reset" => Ok(CounterResetHint::NotCounterReset),
            "gauge" => Ok(CounterResetHint::Gauge),
            _ => Err(self.error("an unknown counter reset hint before")),
        }
    }
}

/// `base` and `sign` times `step`, bucket by bucket. Tests step by histograms of the same layout or a finer one.
fn sum(base: &FloatHistogram, step: &FloatHistogram, sign: f64) -> Result<FloatHistogram, &'static str> {
    let mut step = step.clone();
    if step.schema != base.schema && step.reduce_resolution(base.schema).is_err() {
        return Err("a step with another schema");
    }
    if step.zero_threshold != base.zero_threshold && step.zero_count != 0.0 || step.custom_values != base.custom_values
    {
        return Err("a step with another zero threshold or other custom values");
    }
    let mut total = base.clone();
    total.count += sign * step.count;
    total.sum += sign * step.sum;
    total.zero_count += sign * step.zero_count;
    let merged = |base: Vec<(i64, f64)>, step: Vec<(i64, f64)>| {
        let mut all: std::collections::BTreeMap<i64, f64> = base.into_iter().collect();
        for (index, count) in step {
            *all.entry(index).or_default() += sign * count;
        }
        let mut spans: Vec<Span> = Vec::new();
        let mut next = 0;
        for &index in all.keys() {
            match spans.last_mut() {
                Some(span) if index == next => span.length += 1,
                _ => spans.push(Span { offset: (index - next) as i32, length: 1 }),
            }
            next = index + 1;
        }
        (spans, all.into_values().collect())
    };
    (total.positive_spans, total.positive_buckets) =
        merged(base.positive_counts().collect(), step.positive_counts().collect());
    (total.negative_spans, total.negative_buckets) =
        merged(base.negative_counts().collect(), step.negative_counts().collect());
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let points = parse_points(text).unwrap();
        let shown: Vec<String> = points
            .iter()
            .map(|point| match point {
                Point::Omitted => "_".into(),
                Point::Float(value) if value.to_bits() == STALE_NAN_BITS => "stale".into(),
                Point::Float(value) => value.to_string(),
                Point::Histogram { histogram, .. } => format!("{}/{}", histogram.count, histogram.sum),
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn values_repeat_and_step() {
        assert_eq!(shown("1 2+3x2 -1-1x1 _ _x2 stale 5x2"), "1 2 5 8 -1 -2 _ _ _ stale 5 5 5");
        assert_eq!(shown("NaN +Inf -Inf 1e-2 1_000 1e2x1"), "NaN inf -inf 0.01 1000 100 100");
    }

    #[test]
    fn histograms_repeat_and_step() {
        assert_eq!(
            shown(
                "{{schema:0 sum:5 count:4 buckets:[1 2 1]}} {{count:1 sum:2 buckets:[1]}}+{{count:2 sum:1 buckets:[1 1]}}x2"
            ),
            "4/5 1/2 3/3 5/4"
        );
        let points = parse_points("{{schema:1 offset:2 buckets:[1 2] counter_reset_hint:gauge}}").unwrap();
        let [Point::Histogram { histogram, hint_given: true }] = points.as_slice() else { panic!("{points:?}") };
        assert_eq!(histogram.positive_spans, [Span { offset: 2, length: 2 }]);
        assert_eq!(histogram.counter_reset_hint, CounterResetHint::Gauge);
    }

    #[test]
    fn what_is_not_a_value_is_refused_with_its_place() {
        let error = parse_points("1 foo").unwrap_err();
        assert_eq!(error, "neither a number nor \"stale\" at byte 2: \"foo\"");
        for wrong in ["1+", "1+2", "1x", "1,2", "{{", "{{sum:1 sum:2}}", "{{buckets:[1}}", "1x9999999999", "_x-1"] {
            assert!(parse_points(wrong).is_err(), "{wrong}");
        }
    }
}
