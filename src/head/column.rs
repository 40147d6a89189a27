//! Values of one kind that wait for their commit.
//!
//! Start timestamps stand beside, not in, the values: where none are kept, and that is nearly everywhere, they cost
//! neither memory nor time.

use super::batch::Pending;

/// Values of one kind, in the order in which they were appended, and their start timestamps.
#[derive(Debug)]
pub(super) struct Column<T> {
    values: Vec<Pending<T>>,
    /// One for each value, or none at all.
    starts: Vec<i64>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { values: Vec::new(), starts: Vec::new() }
    }
}

impl<T> Column<T> {
    /// Appends a value; `st` is its start timestamp, 0 if unknown, `None` if none are kept.
    #[inline]
    pub(super) fn push(&mut self, value: Pending<T>, st: Option<i64>) {
        if let Some(st) = st {
            self.starts.push(st);
        }
        self.values.push(value);
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether start timestamps are kept.
    pub(super) fn has_starts(&self) -> bool {
        !self.starts.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.starts.clear();
    }

    /// The values.
    pub(super) fn values(&self) -> std::slice::Iter<'_, Pending<T>> {
        self.values.iter()
    }

    /// The values with their start timestamps; 0 where there are none.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Pending<T>, i64)> {
        self.values.iter().enumerate().map(|(index, value)| (value, self.starts.get(index).copied().unwrap_or(0)))
    }

    /// As [`iter`](Self::iter), `len` values after another.
    #[inline]
    pub(super) fn parts(&self, len: usize) -> impl Iterator<Item = impl Iterator<Item = (&Pending<T>, i64)>> {
        self.values.chunks(len).enumerate().map(move |(part, values)| {
            let start = move |index| self.starts.get(part * len + index).copied().unwrap_or(0);
            values.iter().enumerate().map(move |(index, value)| (value, start(index)))
        })
    }

    /// Keeps the values that `keep` wants; it gets their start timestamps too.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Pending<T>, i64) -> bool) {
        if self.starts.is_empty() {
            self.values.retain(|value| keep(value, 0));
            return;
        }
        let mut kept = Vec::with_capacity(self.starts.len());
        let mut starts = self.starts.iter();
        self.values.retain(|value| {
            let st = starts.next().copied().unwrap_or(0);
            let keep = keep(value, st);
            if keep {
                kept.push(st);
            }
            keep
        });
        self.starts = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::SeriesRef;

    #[test]
    fn what_is_retained_keeps_its_start_timestamp() {
        let value = |t| Pending { series: SeriesRef::new(1, 2), reference: 1, t, value: () };
        for with_starts in [true, false] {
            let mut column = Column::default();
            (0..5).for_each(|t| column.push(value(t), with_starts.then_some(t * 10)));
            let parts: Vec<Vec<_>> = column.parts(2).map(Iterator::collect).collect();
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
            assert!(
                parts.into_iter().flatten().map(|(value, st)| (value.t, st)).eq(column.iter().map(|(v, st)| (v.t, st)))
            );
            column.retain(|value, st| {
                assert_eq!(st, if with_starts { value.t * 10 } else { 0 });
                value.t % 2 == 1
            });
            let left: Vec<_> = column.iter().map(|(value, st)| (value.t, st)).collect();
            assert_eq!(left, if with_starts { [(1, 10), (3, 30)] } else { [(1, 0), (3, 0)] });
            assert_eq!(column.has_starts(), with_starts);
        }
    }
}
