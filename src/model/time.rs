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

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    // Eras of 400 years that begin on March 1st: the leap day is then a year's last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
