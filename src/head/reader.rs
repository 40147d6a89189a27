//! Reading the head: a view of it at one moment, while it is written to.

use std::hint::black_box;
use std::sync::Arc;

use super::Head;
use super::full::HeadChunk;
use super::isolation::Snapshot;
use super::page_labels::SeriesLabels;
use super::series::LockedSeries;
use super::slab::PAGE;
use crate::error::Result;
use crate::index::{SeriesId, postings_for_matchers};
use crate::model::{Exemplar, Labels, Matcher, Metadata, TimeRange};

/// A view of the head: what was committed when it was made. Keeps what it can see from being given back, and stops
/// nobody.
#[derive(Debug)]
pub struct HeadReader {
    pub(super) head: Arc<Head>,
    id: u64,
    snapshot: Arc<Snapshot>,
    range: TimeRange,
    /// Where samples lie that came in order; none if there are none.
    span: Option<TimeRange>,
    /// The first generation of samples out of order that no block has yet.
    late_from: u64,
}

impl Head {
    /// A view of the samples in `range`.
    #[must_use]
    pub fn reader(self: &Arc<Self>, range: TimeRange) -> HeadReader {
        // Also before: what is truncated while this begins may have raised it, and the reader may still see that. And a commit
        // that ends meanwhile may lower it.
        let before = self.min_time().unwrap_or(i64::MAX);
        let (id, snapshot, range) = self.isolation.begin_read(range, &self.truncated);
        let late_from = self.out_of_order.passed_to();
        let first = self.min_time().unwrap_or(i64::MAX).min(before);
        let span = self.max_time().filter(|last| first <= *last).map(|last| TimeRange::new(first, last));
        let span = span.and_then(|span| span.intersect(&range));
        HeadReader { head: Arc::clone(self), id, snapshot, range, span, late_from }
    }
}

/// Pages whose series' labels are read side by side.
const PAGES: usize = 16;

/// The labels of the series of some pages.
fn labels_of<'a>(locked: &'a [(LockedSeries<'_>, &[u32])]) -> impl Iterator<Item = (u32, SeriesLabels<'a>)> {
    locked.iter().flat_map(|(state, ids)| {
        let (page, _) = state.common();
        ids.iter().map(move |id| (*id, page.labels.of(*id as usize % PAGE)))
    })
}

impl Head {
    /// Calls `each` with those of `ids`, ascending, that have labels, and with these.
    ///
    /// What there is to read of a series lies in half a dozen places, each of which the one before refers to, and in a head
    /// of millions none of them is in a cache. So some pages are locked at a time, and the memory of all their series is
    /// fetched place by place before it is used: it is waited for together.
    pub(super) fn for_each_labels(&self, ids: &[u32], mut each: impl FnMut(u32, Labels)) {
        let mut buffer = Vec::new();
        let mut read = |locked: &mut Vec<(LockedSeries<'_>, &[u32])>| {
            for (_, labels) in labels_of(locked) {
                black_box(labels.numbers().next());
            }
            for (_, labels) in labels_of(locked) {
                black_box(labels.iter().count());
            }
            for (_, labels) in labels_of(locked) {
                black_box(labels.iter().map(|pair| pair.packed().len()).sum::<usize>());
            }
            // A slot that is being filled or was just emptied has no labels.
            for (id, labels) in labels_of(locked).filter(|(_, labels)| !labels.is_empty()) {
                each(id, labels.to_labels(&mut buffer));
            }
            locked.clear();
        };
        let (mut slots, mut locked) = (Vec::with_capacity(PAGES), Vec::with_capacity(PAGES));
        let mut pages = ids.chunk_by(|a, b| *a as usize / PAGE == *b as usize / PAGE).peekable();
        while pages.peek().is_some() {
            let slot = |ids: &'_ [u32]| self.slots.get(*ids.first()?);
            slots.extend(pages.by_ref().take(PAGES).filter_map(|ids| Some((slot(ids)?, ids))));
            slots.iter().for_each(|(slot, _)| slot.fetch());
            for (slot, ids) in slots.drain(..) {
                let state = slot.try_lock().unwrap_or_else(|| {
                    // Who waits holds nothing that others may wait for.
                    read(&mut locked);
                    slot.lock()
                });
                locked.push((state, ids));
            }
            read(&mut locked);
        }
    }
}

impl Drop for HeadReader {
    fn drop(&mut self) {
        self.head.isolation.end_read(self.id);
    }
}

impl HeadReader {
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn late_from(&self) -> u64 {
        self.late_from
    }

    /// The span of time that it looks at.
    #[must_use]
    pub fn range(&self) -> TimeRange {
        self.range
    }

    /// Where the samples lie that it sees of those that came in order, in milliseconds, or in more than that; `None` if there
    /// are none.
    #[must_use]
    pub fn span(&self) -> Option<TimeRange> {
        self.span
    }

    /// The series that pass all `matchers`, with their labels, in label order.
    ///
    /// # Errors
    /// None of its own; it is fallible as every source is.
    pub fn select(&self, matchers: &[Matcher]) -> Result<Vec<(SeriesId, Labels)>> {
        let ids = postings_for_matchers(&self.head.labels, matchers)?.into_vec();
        let mut selected = Vec::with_capacity(ids.len());
        self.head.for_each_labels(&ids, |id, labels| selected.push((SeriesId(id), labels)));
        selected.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
        Ok(selected)
    }

    /// Overwrites `chunks` with a series' chunks that touch the range, oldest first, and `hide` with what of them must
    /// not be seen: spans, ascending, that do not touch each other. Samples outside [`range`](HeadReader::range) are to
    /// be hidden too: blocks have them.
    pub fn chunks(&self, id: SeriesId, chunks: &mut Vec<HeadChunk>, hide: &mut Vec<TimeRange>) {
        chunks.clear();
        hide.clear();
        let Some(series) = self.head.slots.get(id.0) else { return };
        {
            let state = series.lock();
            state.hidden(&self.snapshot, hide);
            state.read(&series, self.head.mapped.as_ref(), self.range, chunks);
        }
        self.head.tombstones.hide(id.0, self.id, hide);
    }

    /// All label names, ascending, but for those that only series have of which everything is deleted.
    #[must_use]
    pub fn label_names(&self) -> Vec<String> {
        let mut names = self.head.labels.names();
        if let Some(vanished) = self.vanished() {
            names.retain(|name| !vanished.has_name(name));
        }
        names
    }

    /// All values of the label `name`, ascending, but for those that only series have of which everything is deleted.
    #[must_use]
    pub fn label_values(&self, name: &str) -> Vec<String> {
        let mut values = self.head.labels.values(name);
        if let Some(vanished) = self.vanished() {
            values.retain(|value| !vanished.has_value(name, value));
        }
        values
    }

    /// The labels of a series, if there is one.
    pub(super) fn labels(&self, id: u32) -> Option<Labels> {
        let series = self.head.slots.get(id)?;
        let state = series.lock();
        (!state.labels().is_empty()).then(|| state.labels().to_labels(&mut Vec::new()))
    }

    /// The exemplars in `range` of the series that pass any of the lists of matchers, in label order.
    ///
    /// # Errors
    /// As [`select`](HeadReader::select).
    pub fn exemplars(&self, range: TimeRange, matchers: &[&[Matcher]]) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut wanted = Vec::with_capacity(matchers.len());
        for matchers in matchers {
            wanted.push(postings_for_matchers(&self.head.labels, matchers)?);
        }
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for (reference, exemplars) in self.head.exemplars.in_range(range, self.head.holds()) {
            if wanted.iter().any(|postings| postings.contains(reference.id()))
                && let Some(series) = self.head.known(reference)
            {
                found.push((series.lock().labels().to_labels(&mut buffer), exemplars));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// What is known of one metric or of all, sorted by name.
    #[must_use]
    pub fn metadata(&self, metric: Option<&str>) -> Vec<(String, Metadata)> {
        self.head.metadata.get(metric, self.head.holds())
    }
}
