//! A database and its model, side by side on a simulated machine: what is done to one is done to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::annotations::{Annotations, Pending};
use super::model::{Content, Difference, ModelDb, content, same_sample};
use super::strategy::Operation;
use super::{OpKind, PowerCut, SimHandle};
use crate::db::{Db, DbSource, Maintenance, Options};
use crate::error::{Error, Result};
use crate::fs::Env;
use crate::head::Appender;
use crate::model::{Exemplar, Labels, Matcher, STALE_NAN_BITS, Sample, TimeRange, Value};
use crate::wal::Durability;

mod beside;

/// An open appender and what was handed to it.
#[derive(Debug)]
struct Open {
    appender: Appender,
    pending: Vec<(Labels, Sample)>,
    said: Pending,
    /// What the clock said when it began.
    began: i64,
    /// Samples up to here may have been cut into a block since it began.
    cut_since: Option<i64>,
    /// The first sample that it was asked to take.
    first: Option<i64>,
}

/// A database on a simulated machine that is compared with its [`ModelDb`] after each [`Operation`].
///
/// The model does not guess what the database will refuse: it says what must be accepted, what must be refused, and takes
/// the database's word in between (how long ago is too long ago depends on when blocks are cut). What was accepted must be
/// there from its commit on, whatever happens, and nothing else may be.
///
/// ```
/// use narthex::testkit::{CheckedDb, Operation, START_MS};
/// use narthex::{Durability, Labels, Options};
///
/// # fn main() -> Result<(), narthex::testkit::Difference> {
/// let options = Options { durability: Durability::Sync, ..Options::default() };
/// let mut db = CheckedDb::open(1, options)?;
/// let labels = Labels::from_pairs([("__name__", "up")]);
/// let value = narthex::model::Value::Float(1.0);
/// db.apply(&Operation::Append { appender: 0, labels, ago: 0, value, age: 0 })?;
/// db.apply(&Operation::Commit { appender: 0 })?;
/// db.apply(&Operation::PowerCut { seed: 7 })?;
/// assert_eq!(db.model().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CheckedDb {
    env: Env,
    machine: SimHandle,
    dir: PathBuf,
    options: Options,
    db: Option<Db>,
    model: ModelDb,
    appenders: BTreeMap<usize, Open>,
    held: BTreeMap<usize, (DbSource, ModelDb)>,
    /// The newest sample of each series that was ever committed, deleted or not.
    newest: BTreeMap<Labels, i64>,
    /// The newest of them all.
    newest_of_all: i64,
    /// Samples up to here may be in blocks: they are not taken in order any more.
    cut: i64,
    /// Whatever was committed once, deleted or not.
    written: BTreeMap<Labels, BTreeSet<i64>>,
    /// Exemplars and metadata.
    annotations: Annotations,
    /// Whether something may fail.
    broken: bool,
    /// Set when what was to fail once has failed; none if nothing is to.
    fault: Option<Arc<AtomicBool>>,
    /// Whether nobody has looked yet what the last opening found.
    unsettled: bool,
    /// Whether a sync failed: until it is opened again the database refuses what it will.
    refusing: bool,
}

/// Where the database lies on its machine.
const DIR: &str = "/home/data";

impl CheckedDb {
    /// A new database on a new machine whose choices follow from `seed`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(seed: u64, options: Options) -> Result<Self, Difference> {
        let (env, machine) = Env::simulated(seed);
        let dir = Path::new(DIR).to_owned();
        let db = Db::open_with(&env, &dir, options.clone()).map_err(failed("opening"))?;
        let annotations = Annotations::new(options.max_exemplars);
        Ok(Self {
            annotations,
            env,
            machine,
            dir,
            options,
            db: Some(db),
            model: ModelDb::new(),
            appenders: BTreeMap::new(),
            held: BTreeMap::new(),
            newest: BTreeMap::new(),
            newest_of_all: i64::MIN,
            cut: i64::MIN,
            written: BTreeMap::new(),
            broken: false,
            fault: None,
            unsettled: false,
            refusing: false,
        })
    }

    /// The machine that it lies on.
    #[must_use]
    pub fn machine(&self) -> &SimHandle {
        &self.machine
    }

    /// The database.
    ///
    /// # Errors
    /// If it could not be opened again.
    pub fn db(&self) -> Result<&Db, Difference> {
        self.db.as_ref().ok_or_else(|| Difference::Behaviour("the database is not open".to_owned()))
    }

    /// What must be there.
    #[must_use]
    pub fn model(&self) -> &ModelDb {
        &self.model
    }

    /// Does `operation` and compares everything; what became of it, for a trace.
    ///
    /// # Errors
    /// The first difference.
    pub fn apply(&mut self, operation: &Operation) -> Result<String, Difference> {
        let outcome = self.perform(operation)?;
        if self.has_failed() {
            self.fault = None;
        }
        if self.unsettled && self.can_be_read()? {
            self.settle(ModelDb::reopened_earlier)?;
        }
        self.check()?;
        let restarted = matches!(operation, Operation::Reopen | Operation::Kill | Operation::PowerCut { .. });
        self.check_annotations(restarted)?;
        Ok(outcome)
    }

    /// Whether all can be read: a disk that is to fail may fail a reader, too (a full one does not), and a block that could
    /// not be read for a moment is set aside until somebody looks again.
    fn can_be_read(&self) -> Result<bool, Difference> {
        Ok(self.fault.is_none() && self.db()?.status().quarantined.is_empty())
    }

    /// Compares everything.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self) -> Result<(), Difference> {
        if self.unsettled || !self.can_be_read()? {
            return Ok(());
        }
        self.model.verify(&self.db()?.source())
    }

    fn perform(&mut self, operation: &Operation) -> Result<String, Difference> {
        let now = self.env.clock.now_ms();
        match operation {
            Operation::Append { appender, labels, ago, value, age } => {
                let t = now.saturating_sub(*ago);
                let st = if *age == 0 { 0 } else { t.saturating_sub(*age) };
                self.append(*appender, labels, Sample { t, st, value: value.clone() })
            }
            Operation::Burst { labels, ago, step, count, value } => {
                const OWN: usize = usize::MAX;
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                let mut outcome = String::new();
                for number in 0..count {
                    let t = now.saturating_sub(*ago).saturating_sub((count - 1 - number).saturating_mul(*step));
                    outcome = self.append(OWN, labels, Sample { t, st: 0, value: risen(value, number) })?;
                }
                let committed = self.commit(OWN)?;
                Ok(format!("the last {outcome}, {committed}"))
            }
            Operation::End { labels } => {
                const OWN: usize = usize::MAX;
                let stale = Value::Float(f64::from_bits(STALE_NAN_BITS));
                let outcome = self.append(OWN, labels, Sample { t: now, st: 0, value: stale })?;
                let committed = self.commit(OWN)?;
                Ok(format!("{outcome}, {committed}"))
            }
            Operation::Exemplar { appender, labels, ago, exemplar, value } => {
                let exemplar =
                    Exemplar { labels: exemplar.clone(), value: f64::from(*value), t: now.saturating_sub(*ago) };
                self.append_exemplar(*appender, labels, exemplar)
            }
            Operation::Describe { appender, labels, metadata } => self.describe(*appender, labels, metadata),
            Operation::Bulk { samples } => {
                let at = |(labels, ago, value): &(Labels, i64, Value)| {
                    (labels.clone(), Sample { t: now.saturating_sub(*ago), st: 0, value: value.clone() })
                };
                self.bulk(samples.iter().map(at).collect())
            }
            Operation::Copy { with_head, back } => self.copy(*with_head, *back),
            Operation::Commit { appender } => self.commit(*appender),
            Operation::Rollback { appender } => {
                if let Some(open) = self.appenders.remove(appender) {
                    open.appender.rollback();
                }
                Ok(String::new())
            }
            Operation::Delete { ago, len, matchers } => self.delete(span(now, *ago, *len), matchers),
            Operation::Select { ago, len, matchers } => self.select(span(now, *ago, *len), matchers),
            Operation::Hold { slot } => {
                let source = self.db()?.source();
                self.held.insert(*slot, (source, self.model.clone()));
                Ok(String::new())
            }
            Operation::ReadHeld { slot } => self.read_held(*slot),
            Operation::Maintain => self.maintain(Db::maintain),
            Operation::Flush => self.maintain(Db::flush),
            Operation::Compact => {
                let done = self.maintain(Db::compact)?;
                self.check_rule()?;
                Ok(done)
            }
            Operation::CleanTombstones => self.maintain(Db::clean_tombstones),
            Operation::Reopen => {
                self.let_go();
                let closed = self.db.take().map_or(Ok(()), |db| db.close());
                let closed = self.outcome(closed, "closing")?;
                self.env = self.machine.env();
                Ok(format!("{closed}, {}", self.open_again()?))
            }
            Operation::Kill => {
                self.env = self.machine.kill();
                self.let_go();
                self.db = None;
                self.open_again()
            }
            Operation::PowerCut { seed } => {
                if self.options.durability != Durability::Sync {
                    return self.perform(&Operation::Kill);
                }
                let passed = self.env.clock.now_ms();
                let point = self.machine.now();
                let _ = self.machine.kill();
                self.let_go();
                self.db = None;
                let wanted = (*seed % 8) as usize;
                let images = point.power_cut(&PowerCut { exhaustive: 3, samples: wanted, seed: *seed });
                let image = images.take(wanted + 1).last().unwrap_or_else(|| point.least());
                let (env, machine) = image.boot(*seed);
                machine.set_now_ms(passed);
                (self.env, self.machine) = (env, machine);
                self.heal();
                self.open_again()
            }
            Operation::Pass { time } => {
                self.machine.advance(Duration::from_millis(time.unsigned_abs()));
                Ok(String::new())
            }
            Operation::Jump { by } => {
                self.machine.set_now_ms(now.saturating_add(*by));
                Ok(String::new())
            }
            Operation::Fail { after, sync, kind } => {
                let (mut left, sync, kind) = (*after, *sync, *kind);
                let failed = Arc::new(AtomicBool::new(false));
                self.fault = Some(Arc::clone(&failed));
                self.machine.fail_when(move |op| {
                    let due = left == 0 && !failed.load(Ordering::Relaxed) && (!sync || op.kind == OpKind::Sync);
                    left = left.saturating_sub(1);
                    failed.fetch_or(due, Ordering::Relaxed);
                    due.then_some(kind)
                });
                self.broken = true;
                Ok(String::new())
            }
            Operation::FullDisk { room } => {
                self.machine.set_capacity(Some(self.machine.used().saturating_add(*room)));
                self.broken = true;
                Ok(String::new())
            }
            Operation::Heal => {
                self.heal();
                Ok(String::new())
            }
        }
    }

    /// Lets everything go well again.
    fn heal(&mut self) {
        self.machine.heal();
        self.machine.set_capacity(None);
        // What failed may have been a sync: the log says no until it is opened again.
        self.refusing |= self.broken;
        (self.broken, self.fault) = (false, None);
    }

    /// Whether what is to fail has not yet.
    fn reads_may_fail(&self) -> bool {
        self.fault.is_some() && !self.has_failed()
    }

    /// Whether what was to fail has failed.
    fn has_failed(&self) -> bool {
        self.fault.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed))
    }

    /// Forgets what the process that ends had open.
    fn let_go(&mut self) {
        self.appenders.clear();
        self.held.clear();
    }

    fn open_again(&mut self) -> Result<String, Difference> {
        let open = |db: &Self| Db::open_with(&db.env, &db.dir, db.options.clone());
        let mut opened = open(self);
        let mut story = "opened".to_owned();
        if self.broken && (opened.is_err() || !self.reads_may_fail()) {
            // A block that cannot be read is set aside, so what this process sees proves nothing; what it does to the
            // directory must not cost anything.
            story =
                opened.map_or_else(|error| format!("opened after {:?}", error.kind()), |_| "opened twice".to_owned());
            self.heal();
            opened = open(self);
        }
        self.refusing = false;
        let db = opened.map_err(failed("opening"))?;
        if self.reads_may_fail() {
            // Compared, and taken for the truth, by whoever opens it next.
            self.db = Some(db);
            self.unsettled = true;
            return Ok(story);
        }
        self.db = Some(db);
        self.settle(ModelDb::reopened)?;
        Ok(story)
    }

    /// Takes what an opening found for the truth.
    fn settle(&mut self, take: fn(&mut ModelDb, &Content) -> Result<(), Difference>) -> Result<(), Difference> {
        let found = content(&self.db()?.source(), TimeRange::ALL, &[]).map_err(failed("reading"))?;
        take(&mut self.model, &found)?;
        for (labels, samples) in &found {
            samples.keys().for_each(|t| self.note(labels, *t));
        }
        self.unsettled = false;
        Ok(())
    }

    /// Remembers that a sample was committed.
    fn note(&mut self, labels: &Labels, t: i64) {
        let newest = self.newest.entry(labels.clone()).or_insert(i64::MIN);
        *newest = t.max(*newest);
        self.newest_of_all = self.newest_of_all.max(t);
        self.written.entry(labels.clone()).or_default().insert(t);
    }

    /// Where what was committed once stood, even if it is gone.
    fn was_written(&self, labels: &Labels, t: i64) -> bool {
        self.written.get(labels).is_some_and(|times| times.contains(&t))
    }

    fn newest(&self, labels: &Labels) -> i64 {
        self.newest.get(labels).copied().unwrap_or(i64::MIN)
    }

    /// Whether the database has no reason to refuse a sample at `t`.
    fn must_take(&self, open: &Open, labels: &Labels, t: i64) -> bool {
        let future = self.options.future_bound.map_or(i64::MAX, |bound| open.began.saturating_add(bound));
        let half = self.options.min_block_duration / 2;
        let newest = self.newest_of_all.max(open.first.unwrap_or(i64::MIN));
        let recent = t >= newest.saturating_sub(half) && t > self.cut;
        let in_order = t > self.newest(labels) && recent;
        let window = self.options.out_of_order_window;
        // An empty head stands just behind what was cut from it.
        let out_of_order = window > 0 && t > newest.saturating_sub(window) && !self.was_written(labels, t);
        t <= future && (in_order || out_of_order) && self.options.max_series.is_none()
    }

    /// The appender in `slot`, or a new one.
    fn take_appender(&mut self, slot: usize) -> Result<Open, Difference> {
        Ok(match self.appenders.remove(&slot) {
            Some(open) => open,
            None => Open {
                appender: self.db()?.appender(),
                pending: Vec::new(),
                said: Pending::default(),
                began: self.env.clock.now_ms(),
                cut_since: None,
                first: None,
            },
        })
    }

    fn append(&mut self, slot: usize, labels: &Labels, mut sample: Sample) -> Result<String, Difference> {
        if !starts_are_kept(&self.options, &sample.value) {
            sample.st = 0;
        }
        let mut open = self.take_appender(slot)?;
        let t = sample.t;
        let must_take = self.must_take(&open, labels, t);
        self.model.know(labels);
        let appended = hand_over(&mut open.appender, labels, &sample);
        let is_far_ahead = self.options.future_bound.is_some_and(|bound| t > open.began.saturating_add(bound));
        if !is_far_ahead {
            open.first = open.first.or(Some(t));
        }
        let verdict = match appended {
            Err(error) if must_take && !self.broken => {
                Err(Difference::Behaviour(format!("{labels} at {t} is refused without a reason: {error}")))
            }
            Err(error) => Ok(format!("refused: {:?}", error.kind())),
            Ok(()) if is_far_ahead => {
                Err(Difference::Behaviour(format!("{labels} at {t} is taken, too far ahead of the clock")))
            }
            // What was cut since the appender began is lost at its commit: the head may know nothing of the series any more.
            Ok(())
                if self.options.out_of_order_window == 0
                    && t < self.model.newest(labels)
                    && open.cut_since.is_none_or(|cut| t > cut) =>
            {
                Err(Difference::Behaviour(format!("{labels} at {t} is taken, before {}", self.model.newest(labels))))
            }
            Ok(()) => {
                open.pending.push((labels.clone(), sample));
                Ok("taken".to_owned())
            }
        };
        self.appenders.insert(slot, open);
        verdict
    }

    fn commit(&mut self, slot: usize) -> Result<String, Difference> {
        let Some(Open { appender, pending, said, cut_since, .. }) = self.appenders.remove(&slot) else {
            return Ok(String::new());
        };
        let handed_over = pending.len() as u64;
        self.look_for_doubtful(&pending)?;
        let committed = appender.commit();
        let head = Arc::clone(self.db()?.head());
        self.annotations.commit(said, committed.is_ok(), &head).map_err(failed("exemplars"))?;
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                for (labels, sample) in pending {
                    if self.options.out_of_order_window == 0 {
                        self.model.attempt(&labels, sample);
                        continue;
                    }
                    // What comes out of order has a log of its own, which may be the one that failed: the rest is there,
                    // is what later samples are compared with, and is a reason to refuse them.
                    self.note(&labels, sample.t);
                    self.model.attempt_half(&labels, sample);
                }
                return self.outcome::<()>(Err(error), "a commit");
            }
        };
        let mut unsure: Vec<(Labels, Sample)> = Vec::new();
        let window = self.options.out_of_order_window;
        let newest_of_all = pending.iter().map(|(_, sample)| sample.t).fold(self.newest_of_all, i64::max);
        let mut keys: BTreeMap<(Labels, i64), u32> = BTreeMap::new();
        for (labels, sample) in &pending {
            *keys.entry((labels.clone(), sample.t)).or_default() += 1;
        }
        for (labels, sample) in pending {
            let t = sample.t;
            // Which of two values in one commit is the first write is not said of samples out of order.
            let is_twice = window > 0 && keys.get(&(labels.clone(), t)).is_some_and(|times| *times > 1);
            let may_be_cut = cut_since.is_some_and(|cut| t <= cut);
            if is_twice || self.model.is_half_done(&labels, t) {
                unsure.push((labels, sample));
            } else if t > self.newest(&labels) && !may_be_cut {
                self.model.insert(&labels, sample);
                self.note(&labels, t);
            } else if window == 0 && t > self.model.newest(&labels) {
                // A series that left the head with what retention took since begins anew after the next opening.
                unsure.push((labels, sample));
            } else if window == 0 && !may_be_cut || self.model.get(&labels, t).is_some() {
                // Out of order or there already: the first write wins.
            } else if t > newest_of_all.saturating_sub(window) && !self.was_written(&labels, t) && !may_be_cut {
                self.model.insert(&labels, sample);
                self.note(&labels, t);
            } else {
                unsure.push((labels, sample));
            }
        }
        if !unsure.is_empty() {
            let look = || content(&self.db()?.source(), TimeRange::ALL, &[]).map_err(failed("reading"));
            // What is to fail fails once, and may be this look: what the next one finds counts.
            let found = if self.fault.is_some() { look().or_else(|_| look())? } else { look()? };
            for (labels, sample) in unsure {
                let there = found.get(&labels).and_then(|samples| samples.get(&sample.t));
                if there.is_some_and(|there| same_sample(there, &sample)) {
                    self.note(&labels, sample.t);
                    self.model.insert(&labels, sample);
                } else if self.model.is_half_done(&labels, sample.t) {
                    self.model.attempt_half(&labels, sample);
                } else {
                    // Lost, and said to be: a block was cut there meanwhile. It may stand in the log all the same.
                    self.model.attempt(&labels, sample);
                }
            }
        }
        let counted = committed.appended + committed.same + committed.lost;
        if counted > handed_over {
            let text = format!("{handed_over} samples were handed over, and {committed:?} are accounted for");
            return Err(Difference::Behaviour(text));
        }
        Ok(format!("{committed:?}"))
    }

    /// What retention took may be written anew, and is compared with what is there, as after a deletion.
    fn look_for_doubtful(&mut self, pending: &[(Labels, Sample)]) -> Result<(), Difference> {
        if pending.iter().any(|(labels, sample)| self.model.is_doubtful(labels, sample.t))
            && let Ok(found) = content(&self.db()?.source(), TimeRange::ALL, &[])
        {
            for (labels, Sample { t, .. }) in pending {
                if found.get(labels).is_none_or(|samples| !samples.contains_key(t)) {
                    self.model.is_gone(labels, *t);
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, range: TimeRange, matchers: &[Matcher]) -> Result<String, Difference> {
        let deleted = self.db()?.delete(range, matchers);
        // A view that is held shows the same commits for ever, and may or may not show a deletion, in the head and in blocks
        // each for itself: with late samples another write may be what it shows.
        for (_, model) in self.held.values_mut() {
            match self.options.out_of_order_window {
                0 => drop(model.attempt_delete(range, matchers)),
                _ => model.forget(range, matchers),
            }
        }
        match deleted {
            Ok(series) => {
                self.model.delete(range, matchers);
                Ok(format!("deleted from {series}"))
            }
            Err(error) => {
                self.model.attempt_delete(range, matchers);
                self.outcome::<()>(Err(error), "a deletion")
            }
        }
    }

    fn select(&self, range: TimeRange, matchers: &[Matcher]) -> Result<String, Difference> {
        let found = content(&self.db()?.source(), range, matchers);
        self.compare(found, &self.model.select(range, matchers))
    }

    fn read_held(&mut self, slot: usize) -> Result<String, Difference> {
        let Some((source, model)) = self.held.remove(&slot) else { return Ok(String::new()) };
        self.compare(content(&source, TimeRange::ALL, &[]), &model)
    }

    fn compare(&self, found: Result<Content>, model: &ModelDb) -> Result<String, Difference> {
        if self.unsettled || !self.can_be_read()? {
            return Ok("not compared".to_owned());
        }
        let found = match found {
            Err(error) if self.fault.is_some() => return Ok(format!("failed: {:?}", error.kind())),
            found => found.map_err(failed("a select"))?,
        };
        model.check(&found)?;
        Ok(format!("{} series", found.len()))
    }

    fn maintain(&mut self, work: impl Fn(&Db) -> Result<Maintenance>) -> Result<String, Difference> {
        // Whatever was committed may be in a block now, and be refused to appenders that are open.
        self.cut = self.cut.max(self.newest_of_all);
        self.appenders_may_be_late();
        let before = self.blocks()?;
        let done = work(self.db()?);
        self.retain(&before, done.as_ref().ok())?;
        match done {
            Ok(Maintenance { written, merged, dropped, .. }) => {
                Ok(format!("{} written, {} merged, {} dropped", written.len(), merged.len(), dropped.len()))
            }
            Err(error) => self.outcome::<()>(Err(error), "maintenance"),
        }
    }

    /// What became of something that fails only if the disk does.
    fn outcome<T>(&self, result: Result<T>, what: &str) -> Result<String, Difference> {
        match result {
            Ok(_) => Ok("done".to_owned()),
            Err(error) if self.broken || self.refusing => Ok(format!("failed: {:?}", error.kind())),
            Err(error) => Err(failed(what)(error)),
        }
    }
}

/// Whether start timestamps of such values come back out.
fn starts_are_kept(options: &Options, value: &Value) -> bool {
    options.start_timestamps && (matches!(value, Value::Float(_)) || options.histogram_start_timestamps)
}

/// Hands a sample of whatever kind to an appender.
fn hand_over(appender: &mut Appender, labels: &Labels, sample: &Sample) -> Result<(), Error> {
    let Sample { t, st, value } = sample;
    match value {
        Value::Float(value) => appender.append_with_start(None, labels, *st, *t, *value),
        Value::Histogram(histogram) => {
            appender.append_histogram_with_start(None, labels, *st, *t, (**histogram).clone())
        }
        Value::FloatHistogram(histogram) => {
            appender.append_float_histogram_with_start(None, labels, *st, *t, (**histogram).clone())
        }
    }
    .map(|_| ())
}

/// A value that has risen `number` times.
fn risen(value: &Value, number: i64) -> Value {
    let mut value = value.clone();
    match &mut value {
        Value::Float(value) => *value += number as f64,
        Value::Histogram(histogram) if !histogram.positive_buckets.is_empty() => {
            // The last bucket: no other delta changes.
            if let Some(bucket) = histogram.positive_buckets.last_mut() {
                *bucket += number;
                histogram.count += number.unsigned_abs();
            }
        }
        Value::FloatHistogram(histogram) => {
            if let Some(bucket) = histogram.positive_buckets.last_mut() {
                *bucket += number as f64;
                histogram.count += number as f64;
            }
        }
        Value::Histogram(_) => {}
    }
    value
}

fn span(now: i64, ago: i64, len: i64) -> TimeRange {
    let min = now.saturating_sub(ago);
    TimeRange::new(min, min.saturating_add(len))
}

fn failed(what: &str) -> impl Fn(Error) -> Difference {
    move |error| Difference::Behaviour(format!("{what} failed ({:?}): {error}", error.kind()))
}
