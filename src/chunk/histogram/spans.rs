//! Bringing the buckets of a chunk and of a histogram together.

use crate::model::Span;

/// The indices of the buckets in `spans`.
fn indices(spans: &[Span]) -> impl Iterator<Item = i64> {
    let ranges = spans.iter().scan(0_i64, |next, span| {
        let first = *next + i64::from(span.offset);
        *next = first + i64::from(span.length);
        Some(first..*next)
    });
    ranges.flatten()
}

/// Which side lacks buckets that the other has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// The chunk lacks some: it must be recoded.
    pub(super) chunk: bool,
    /// The histogram lacks some: it gets empty ones.
    pub(super) histogram: bool,
}

/// Compares a counter's last histogram in the chunk with the next one. `None` if a bucket fell or one that was in use is
/// gone: a counter reset.
pub(super) fn compare<T: PartialOrd + Default>(
    chunk: &[Span],
    mut chunk_counts: impl Iterator<Item = T>,
    histogram: &[Span],
    mut histogram_counts: impl Iterator<Item = T>,
) -> Option<Lacks> {
    let mut lacks = Lacks::default();
    if chunk == histogram {
        let fell = chunk_counts.zip(histogram_counts).any(|(before, now)| before > now);
        return (!fell).then_some(lacks);
    }
    let (mut ours, mut theirs) = (indices(chunk).peekable(), indices(histogram).peekable());
    loop {
        let (have, want) = (ours.peek().copied(), theirs.peek().copied());
        let Some(first) = have.into_iter().chain(want).min() else { return Some(lacks) };
        let before = (have == Some(first)).then(|| ours.next()).and_then(|_| chunk_counts.next());
        let now = (want == Some(first)).then(|| theirs.next()).and_then(|_| histogram_counts.next());
        match (before, now) {
            (Some(before), Some(now)) if before > now => return None,
            (Some(before), None) if before != T::default() => return None,
            (Some(_), None) => lacks.histogram = true,
            (None, _) => lacks.chunk = true,
            (Some(_), Some(_)) => {}
        }
    }
}

/// All buckets that either has, in as few spans as they fit, and who lacks some.
pub(super) fn union(chunk: &[Span], histogram: &[Span]) -> (Vec<Span>, Lacks) {
    let mut lacks = Lacks::default();
    let mut spans = Vec::new();
    let mut next = 0;
    let (mut ours, mut theirs) = (indices(chunk).peekable(), indices(histogram).peekable());
    loop {
        let (have, want) = (ours.peek().copied(), theirs.peek().copied());
        let Some(first) = have.into_iter().chain(want).min() else { return (spans, lacks) };
        if have == Some(first) {
            ours.next();
        } else {
            lacks.chunk = true;
        }
        if want == Some(first) {
            theirs.next();
        } else {
            lacks.histogram = true;
        }
        match spans.last_mut() {
            Some(Span { length, .. }) if next == first => *length += 1,
            _ => spans.push(Span { offset: (first - next) as i32, length: 1 }),
        }
        next = first + 1;
    }
}

/// The counts of the buckets in `from`, laid out for `to`, which has all of them; those that are new are zero.
pub(super) fn spread<T: Copy + Default>(from: &[Span], to: &[Span], counts: impl Iterator<Item = T>) -> Vec<T> {
    let mut old = indices(from).zip(counts).peekable();
    indices(to).map(|index| old.next_if(|(at, _)| *at == index).map_or(T::default(), |(_, count)| count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(pairs: &[(i32, u32)]) -> Vec<Span> {
        pairs.iter().map(|&(offset, length)| Span { offset, length }).collect()
    }

    #[test]
    fn a_union_merges_neighbours() {
        let (merged, lacks) = union(&spans(&[(-2, 1), (1, 1), (3, 2)]), &spans(&[(-1, 1), (2, 1)]));
        // -2, 0, 4, 5 and -1, 2.
        assert_eq!(merged, spans(&[(-2, 3), (1, 1), (1, 2)]));
        assert_eq!(lacks, Lacks { chunk: true, histogram: true });
    }

    #[test]
    fn an_empty_span_separates_nothing() {
        let (merged, lacks) = union(&spans(&[(0, 0), (1, 2)]), &spans(&[(1, 1), (0, 1)]));
        assert_eq!(merged, spans(&[(1, 2)]));
        assert_eq!(lacks, Lacks::default());
    }

    #[test]
    fn a_bucket_may_go_if_it_was_empty() {
        let (old, new) = (spans(&[(0, 3)]), spans(&[(0, 1), (1, 2)]));
        let lacks = compare(&old, [1, 0, 2].into_iter(), &new, [1, 2, 5].into_iter());
        assert_eq!(lacks, Some(Lacks { chunk: true, histogram: true }));
        assert_eq!(compare(&old, [1, 1, 2].into_iter(), &new, [1, 2, 5].into_iter()), None);
        assert_eq!(compare(&old, [2, 0, 2].into_iter(), &new, [1, 2, 5].into_iter()), None);
    }

    #[test]
    fn spreading_leaves_zeros_in_new_buckets() {
        assert_eq!(spread(&spans(&[(1, 1), (1, 1)]), &spans(&[(0, 5)]), [7, 8].into_iter()), [0, 7, 0, 8, 0]);
    }
}
