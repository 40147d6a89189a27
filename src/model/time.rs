//! A span of time.

/// From `min` to `max`, both inclusive, in milliseconds. A block's meta.json has an exclusive end: `block` converts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    /// The first millisecond.
    pub min: i64,
    /// The last millisecond.
    pub max: i64,
}

impl TimeRange {
    /// All of time.
    pub const ALL: Self = Self { min: i64::MIN, max: i64::MAX };

    /// From `min` to `max`, both inclusive.
    #[must_use]
    pub fn new(min: i64, max: i64) -> Self {
        Self { min, max }
    }

    /// Whether `t` lies in it.
    #[must_use]
    pub fn contains(&self, t: i64) -> bool {
        self.min <= t && t <= self.max
    }

    /// Whether the two share a millisecond.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }

    /// What the two share, if anything.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let range = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (range.min <= range.max).then_some(range)
    }
}
