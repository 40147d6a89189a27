//! Which commits a reader sees: all of a commit or nothing of it, and nobody waits for anybody.
//!
//! ```text
//! commit    gets the next number when it begins to apply its samples; is "open" until the last is applied
//! snapshot  a reader's view: the last number given out, and those of them that were open
//! history   per series: (commit, newest timestamp before it), oldest first; the last one inline
//! ```
//!
//! Samples of a series are strictly increasing in time, so the samples of a commit in it are those between the bound of
//! its record and that of the next: hiding them is a matter of time ranges, which survive the recoding of a chunk and
//! need no record a sample. A series keeps records only while some reader can tell the difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::tombstones::DeletedAt;
use crate::model::TimeRange;

/// What a reader sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The last commit that had begun.
    last: u64,
    /// Those that had not ended, ascending.
    open: Box<[u64]>,
}

impl Snapshot {
    /// Whether the commit's samples are seen.
    pub(super) fn sees(&self, commit: u64) -> bool {
        commit <= self.last && self.open.binary_search(&commit).is_err()
    }

    /// Commits below this are seen, all of them.
    fn low(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.last.saturating_add(1))
    }
}

/// A commit that is being applied, and what it needs to know of the readers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// The commit's number.
    id: u64,
    /// Commits below this are seen by every reader there is and will be.
    low: u64,
    /// No open reader sees a commit above this.
    newest_read: u64,
    /// The oldest open commit.
    oldest_open: u64,
}

impl Ticket {
    /// For replay: nobody reads yet.
    pub(super) const REPLAY: Self = Self { id: 0, low: 1, newest_read: 0, oldest_open: 0 };

    /// The commit's number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Commits below this are seen by every reader there is and will be.
    pub(super) fn low(&self) -> u64 {
        self.low
    }

    /// Whether no reader can tell these two commits apart, now or later: open readers see neither, later ones both.
    fn are_one(&self, a: u64, b: u64) -> bool {
        let alike = |commit| commit > self.newest_read && commit < self.oldest_open;
        alike(a) && alike(b)
    }
}

/// An open reader's entry.
#[derive(Debug)]
struct Reader {
    id: u64,
    snapshot: Arc<Snapshot>,
    range: TimeRange,
}

#[derive(Debug, Default)]
struct State {
    last_commit: u64,
    open_commits: Vec<u64>,
    /// Numbers readers and appenders alike, so that "older than" can be asked across.
    clock: u64,
    readers: Vec<Reader>,
    appenders: Vec<u64>,
    /// Those of the appenders that write to the log, or have written and are applying it.
    committing: Vec<u64>,
}

/// Who is reading, appending and committing.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    state: Mutex<State>,
}

impl Isolation {
    /// Begins to apply a commit.
    pub(super) fn begin_commit(&self) -> Ticket {
        let mut state = self.state.lock();
        state.last_commit += 1;
        let id = state.last_commit;
        state.open_commits.push(id);
        let oldest_open = state.open_commits.first().copied().unwrap_or(id);
        let (mut low, mut newest_read) = (oldest_open, 0);
        for reader in &state.readers {
            low = low.min(reader.snapshot.low());
            newest_read = newest_read.max(reader.snapshot.last);
        }
        Ticket { id, low, newest_read, oldest_open }
    }

    /// The commit is applied: readers from now on see it.
    pub(super) fn end_commit(&self, ticket: Ticket) {
        self.state.lock().open_commits.retain(|commit| *commit != ticket.id);
    }

    /// Commits below this are seen by every reader there is and will be.
    pub(super) fn low(&self) -> u64 {
        let state = self.state.lock();
        let next = state.last_commit.saturating_add(1);
        let low = state.open_commits.first().copied().unwrap_or(next);
        state.readers.iter().fold(low, |low, reader| low.min(reader.snapshot.low()))
    }

    /// The number of the last commit that began.
    pub(super) fn last_commit(&self) -> u64 {
        self.state.lock().last_commit
    }

    /// Whether all commits up to `commit` are applied.
    pub(super) fn commits_passed(&self, commit: u64) -> bool {
        self.state.lock().open_commits.iter().all(|open| *open > commit)
    }

    /// Registers a reader of what lies in `range` and not before `floor`, and says what that is; give it back with
    /// [`end_read`](Isolation::end_read).
    ///
    /// The floor is looked at while nobody else can: who raises it and then asks for the [`oldest_read`] finds this reader, or
    /// it is one that finds the floor raised. If it were registered with all that it asks for, readers that come and go
    /// without a gap would keep everything there ever was.
    ///
    /// [`oldest_read`]: Isolation::oldest_read
    pub(super) fn begin_read(&self, range: TimeRange, floor: &AtomicI64) -> (u64, Arc<Snapshot>, TimeRange) {
        let mut state = self.state.lock();
        let range = TimeRange::new(range.min.max(floor.load(Ordering::Acquire)), range.max);
        state.clock += 1;
        let id = state.clock;
        let snapshot = Arc::new(Snapshot { last: state.last_commit, open: state.open_commits.as_slice().into() });
        state.readers.push(Reader { id, snapshot: Arc::clone(&snapshot), range });
        (id, snapshot, range)
    }

    /// Forgets a reader.
    pub(super) fn end_read(&self, id: u64) {
        self.state.lock().readers.retain(|reader| reader.id != id);
    }

    /// The oldest timestamp that an open reader may still ask for, if that is below `t`; else `t`.
    pub(super) fn oldest_read(&self, t: i64) -> i64 {
        self.state.lock().readers.iter().fold(t, |oldest, reader| oldest.min(reader.range.min))
    }

    /// Registers an appender; give it back with [`end_append`](Isolation::end_append).
    pub(super) fn begin_append(&self) -> u64 {
        let mut state = self.state.lock();
        state.clock += 1;
        let id = state.clock;
        state.appenders.push(id);
        id
    }

    /// Forgets an appender.
    pub(super) fn end_append(&self, id: u64) {
        let mut state = self.state.lock();
        state.appenders.retain(|appender| *appender != id);
        state.committing.retain(|appender| *appender != id);
    }

    /// An appender is about to write to the log; it is until [`end_append`](Isolation::end_append).
    pub(super) fn begin_logging(&self, id: u64) {
        self.state.lock().committing.push(id);
    }

    /// The appenders that may have written to the log what is not in memory yet.
    pub(super) fn committing(&self) -> Vec<u64> {
        self.state.lock().committing.clone()
    }

    /// Whether none of these appenders is committing any more.
    pub(super) fn have_committed(&self, appenders: &[u64]) -> bool {
        self.state.lock().committing.iter().all(|id| !appenders.contains(id))
    }

    /// A stamp: whoever opens from now on is younger than it.
    pub(super) fn stamp(&self) -> u64 {
        self.state.lock().clock
    }

    /// Now, for a deletion.
    pub(super) fn deleted_now(&self) -> DeletedAt {
        let state = self.state.lock();
        let oldest_reader = state.readers.iter().map(|reader| reader.id).min().unwrap_or(u64::MAX);
        DeletedAt { stamp: state.clock, oldest_reader }
    }

    /// Whether all appenders that were open at `stamp` are closed.
    pub(super) fn appenders_passed(&self, stamp: u64) -> bool {
        self.state.lock().appenders.iter().all(|id| *id > stamp)
    }

    /// Whether all readers that were open at `stamp` are closed.
    pub(super) fn readers_passed(&self, stamp: u64) -> bool {
        self.state.lock().readers.iter().all(|reader| reader.id > stamp)
    }

    /// Whether all readers and appenders that were open at `stamp` are closed.
    pub(super) fn everybody_passed(&self, stamp: u64) -> bool {
        let state = self.state.lock();
        state.appenders.iter().all(|id| *id > stamp) && state.readers.iter().all(|reader| reader.id > stamp)
    }
}

/// A series' record: this commit appended to it, and before that its newest sample was at `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    commit: u64,
    before: i64,
}

/// A series' records, oldest first, the last inline: one is all that most series ever have.
#[derive(Debug)]
pub(super) struct History {
    last: Record,
    #[expect(clippy::box_collection, reason = "one word instead of three in every series; nearly always absent")]
    older: Option<Box<Vec<Record>>>,
}

impl Default for History {
    fn default() -> Self {
        Self { last: Record { commit: 0, before: i64::MIN }, older: None }
    }
}

impl History {
    /// A sample of `ticket`'s commit is about to be appended; the series' newest one is at `newest`.
    pub(super) fn note(&mut self, ticket: &Ticket, newest: i64) {
        if self.last.commit == ticket.id {
            return;
        }
        let record = Record { commit: ticket.id, before: newest };
        if self.older.is_none() && self.last.commit < ticket.low {
            self.last = record;
            return;
        }
        self.keep_last(ticket);
        self.last = record;
    }

    /// Moves the last record to the older ones, as far as any of them can still matter to a reader.
    fn keep_last(&mut self, ticket: &Ticket) {
        let older = self.older.get_or_insert_default();
        let passed = older.iter().take_while(|record| record.commit < ticket.low).count();
        older.drain(..passed);
        let merge = older.last().is_some_and(|record| ticket.are_one(record.commit, self.last.commit));
        let passed = older.is_empty() && self.last.commit < ticket.low;
        if !merge && !passed {
            older.push(self.last);
        }
        if older.is_empty() {
            self.older = None;
        }
    }

    /// Adds the ranges that `snapshot` must not see.
    pub(super) fn hidden(&self, snapshot: &Snapshot, hide: &mut Vec<TimeRange>) {
        let older = self.older.as_deref().map_or(&[][..], Vec::as_slice);
        if older.is_empty() && snapshot.sees(self.last.commit) {
            return;
        }
        let mut records = older.iter().chain([&self.last]).peekable();
        while let Some(record) = records.next() {
            if snapshot.sees(record.commit) {
                continue;
            }
            let min = if record.before == i64::MIN { i64::MIN } else { record.before + 1 };
            let max = records.peek().map_or(i64::MAX, |next| next.before);
            match hide.last_mut().filter(|range| range.max.checked_add(1) == Some(min)) {
                Some(range) => range.max = max,
                None if min <= max => hide.push(TimeRange::new(min, max)),
                None => {}
            }
        }
    }

    /// Bytes beside the series.
    pub(super) fn heap_bytes(&self) -> usize {
        self.older.as_ref().map_or(0, |older| size_of::<Vec<Record>>() + older.capacity() * size_of::<Record>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A series with the commit of each of its samples, and what the records say of it.
    #[derive(Default)]
    struct Modelled {
        samples: Vec<(i64, u64)>,
        history: History,
    }

    impl Modelled {
        fn append(&mut self, ticket: &Ticket) {
            let newest = self.samples.last().map_or(i64::MIN, |(t, _)| *t);
            let t = if newest == i64::MIN { 0 } else { newest + 1 };
            self.history.note(ticket, newest);
            self.samples.push((t, ticket.id));
        }

        fn seen(&self, snapshot: &Snapshot) -> Vec<i64> {
            let mut hide = Vec::new();
            self.history.hidden(snapshot, &mut hide);
            let shown = |t: i64| !hide.iter().any(|range| range.contains(t));
            self.samples.iter().map(|(t, _)| *t).filter(|t| shown(*t)).collect()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        Append(usize),
        End(usize),
        Open,
        Close(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => Just(Step::Begin),
            6 => (0..4_usize).prop_map(Step::Append),
            2 => (0..4_usize).prop_map(Step::End),
            1 => Just(Step::Open),
            1 => (0..4_usize).prop_map(Step::Close),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn every_reader_sees_just_the_commits_that_had_ended_when_it_opened(steps in steps()) {
            let isolation = Isolation::default();
            let mut series = Modelled::default();
            let mut ended: Vec<u64> = Vec::new();
            let mut open: Vec<Ticket> = Vec::new();
            let mut readers: Vec<(u64, Arc<Snapshot>, Vec<u64>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin if open.len() < 4 => open.push(isolation.begin_commit()),
                    Step::Append(n) if n < open.len() => series.append(&open[n]),
                    Step::End(n) if n < open.len() => {
                        let ticket = open.remove(n);
                        isolation.end_commit(ticket);
                        ended.push(ticket.id);
                    }
                    Step::Open => {
                        let (id, snapshot, _) = isolation.begin_read(TimeRange::ALL, &AtomicI64::new(i64::MIN));
                        readers.push((id, snapshot, ended.clone()));
                    }
                    Step::Close(n) if n < readers.len() => isolation.end_read(readers.remove(n).0),
                    _ => {}
                }
                for (_, snapshot, visible) in &readers {
                    let expected: Vec<i64> =
                        series.samples.iter().filter(|(_, commit)| visible.contains(commit)).map(|(t, _)| *t).collect();
                    prop_assert_eq!(series.seen(snapshot), expected);
                }
            }
        }
    }

    #[test]
    fn a_reader_that_stays_open_does_not_make_a_series_keep_a_record_a_commit() {
        let isolation = Isolation::default();
        let mut series = Modelled::default();
        let (_, snapshot, _) = isolation.begin_read(TimeRange::ALL, &AtomicI64::new(i64::MIN));
        for _ in 0..1000 {
            let ticket = isolation.begin_commit();
            series.append(&ticket);
            isolation.end_commit(ticket);
        }
        assert_eq!(series.seen(&snapshot), [0_i64; 0]);
        assert!(series.history.heap_bytes() < 200, "{} bytes", series.history.heap_bytes());
    }
}
