//! A simulated machine, for tests: a disk in memory, a clock that only tests move, seeded randomness, and tasks that
//! run one after another. One seed is one run.
//!
//! ```
//! # #[cfg(feature = "testkit")] {
//! use narthex::fs::Env;
//! use narthex::testkit::PowerCut;
//! use std::path::Path;
//!
//! let (env, machine) = Env::simulated(1);
//! let mut file = env.fs.create(Path::new("/a")).unwrap();
//! file.append(b"promised").unwrap();
//! file.sync().unwrap();
//! env.fs.sync_dir(Path::new("/")).unwrap();
//! let promised_at = machine.ops();
//! file.append(b", and more").unwrap();
//! for point in machine.crash_points().filter(|point| point.ops >= promised_at) {
//!     for image in point.power_cut(&PowerCut::default()) {
//!         let (env, _) = image.boot(2);
//!         assert!(env.fs.read(Path::new("/a")).unwrap().starts_with(b"promised"), "{}", image.story());
//!     }
//! }
//! # }
//! ```
//!
//! The disk promises what POSIX does and no more (its rules: `state.rs`; what a crash leaves: `images.rs`). It is
//! harsher than most: names in one directory may reach the platter out of order, a failed sync loses what it should
//! have covered for good, and changing a memory-mapped file panics.

mod disk;
mod images;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use disk::{Disk, SimFs};
pub use disk::{Op, OpKind};
pub use images::{CrashPoint, Image, PowerCut};
use state::{Change, Event, Tree};

use super::{Clock, Env, Executor, Rng, Task, Waiter};

/// Where the simulated clock starts: 2023-11-15 00:00 UTC, a multiple of two hours.
pub const START_MS: i64 = 1_700_006_400_000;

/// The next output of a splitmix64 generator.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Env {
    /// A machine of its own with an empty disk, whose choices follow from `seed`; and the handle that moves its clock,
    /// breaks its disk and looks at what a crash would leave.
    #[must_use]
    pub fn simulated(seed: u64) -> (Self, SimHandle) {
        boot(Tree::empty(), seed)
    }
}

impl Image {
    /// A machine with this disk, on which everything is durable.
    #[must_use]
    pub fn boot(&self, seed: u64) -> (Env, SimHandle) {
        boot(self.tree.clone(), seed)
    }
}

fn boot(tree: Tree, seed: u64) -> (Env, SimHandle) {
    let mut seeds = seed;
    let disk = Arc::new(Mutex::new(Disk::new(tree, splitmix64(&mut seeds))));
    let clock =
        Arc::new(SimClock { start: AtomicI64::new(START_MS), passed: AtomicU64::new(0), interrupt: Mutex::default() });
    let rng = Arc::new(SimRng(Mutex::new(splitmix64(&mut seeds))));
    let executor = Arc::new(SimExecutor {
        random: Mutex::new(splitmix64(&mut seeds)),
        waiting: Mutex::default(),
        parallelism: AtomicUsize::new(4),
        clock: Arc::clone(&clock),
    });
    let handle = SimHandle { disk, clock, rng, executor };
    (handle.env(), handle)
}

/// The other side of a simulated machine. Clones are handles of the same machine.
#[derive(Debug, Clone)]
pub struct SimHandle {
    disk: Arc<Mutex<Disk>>,
    clock: Arc<SimClock>,
    rng: Arc<SimRng>,
    executor: Arc<SimExecutor>,
}

impl SimHandle {
    /// The machine as the process that lives now sees it.
    #[must_use]
    pub fn env(&self) -> Env {
        let life = self.disk.lock().life;
        let clock: Arc<dyn Clock> = self.clock.clone();
        let rng: Arc<dyn Rng> = self.rng.clone();
        let executor: Arc<dyn Executor> = self.executor.clone();
        Env { fs: Arc::new(SimFs { disk: Arc::clone(&self.disk), life }), clock, rng, executor }
    }

    /// Kills the process: whatever it opened answers errors from now on and changes nothing, its locks are free, its
    /// tasks are gone. The page cache stays. The answer is the next process's view.
    #[must_use]
    pub fn kill(&self) -> Env {
        self.disk.lock().life += 1;
        self.executor.waiting.lock().clear();
        self.env()
    }

    /// How many operations the disk has begun.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.disk.lock().log.len() as u64
    }

    /// All operations so far.
    #[must_use]
    pub fn log(&self) -> Vec<Op> {
        self.disk.lock().log.clone()
    }

    /// Makes the operation with this number (from 0, as [`ops`](SimHandle::ops) counts) fail, once.
    pub fn fail_op(&self, number: u64, kind: io::ErrorKind) {
        self.fail_when(move |op| (op.number == number).then_some(kind));
    }

    /// Asks `fault` before each operation whether it shall fail. A failing append writes a part; a failing sync loses
    /// what it should have covered, if the power is cut later; any other changes nothing.
    pub fn fail_when(&self, fault: impl FnMut(&Op) -> Option<io::ErrorKind> + Send + 'static) {
        self.disk.lock().fault = Some(Box::new(fault));
    }

    /// Lets all operations go well again.
    pub fn heal(&self) {
        self.disk.lock().fault = None;
    }

    /// Gives the disk a size in bytes of file content: beyond it writes are cut and answer `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// Bytes of content in all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.image()
            .files()
            .iter()
            .filter_map(|(_, content)| content.as_ref())
            .map(|content| content.len() as u64)
            .sum()
    }

    /// Makes all durable, as minutes of quiet do.
    pub fn settle(&self) {
        self.disk.lock().happen(Event::SyncAll);
    }

    /// What programs see on the disk now.
    #[must_use]
    pub fn image(&self) -> Image {
        let disk = self.disk.lock();
        Image { tree: disk.state.live.clone(), story: format!("operation {}: as it is", disk.log.len()) }
    }

    /// Every moment so far at which a crash leaves something else than the moment before, oldest first; the last is now.
    pub fn crash_points(&self) -> impl Iterator<Item = CrashPoint> + use<> {
        let (mut state, journal, now) = {
            let disk = self.disk.lock();
            (disk.initial.clone(), disk.journal.clone(), disk.log.len() as u64)
        };
        let events = journal.into_iter().map(|(ops, event)| (ops, Some(event)));
        events.chain([(now, None)]).map(move |(ops, last)| {
            let before = state.clone();
            if let Some(event) = &last {
                state.apply(event);
            }
            CrashPoint { ops, state: state.clone(), last, before }
        })
    }

    /// This moment alone: what a crash leaves that happens now.
    #[must_use]
    pub fn now(&self) -> CrashPoint {
        let disk = self.disk.lock();
        CrashPoint { ops: disk.log.len() as u64, state: disk.state.clone(), last: None, before: disk.state.clone() }
    }

    /// Runs `work` in the middle of whatever reads a clock, after `skip` more readings: so another appender, say,
    /// overtakes the one that reads. What was interrupted goes on afterwards, on the same thread, and still holds what
    /// it holds: work that waits for it would wait for ever.
    pub fn at_clock_reading(&self, skip: u64, work: impl FnOnce() + Send + 'static) {
        *self.clock.interrupt.lock() = Some((skip, Box::new(work)));
    }

    /// Runs `work` in the middle of whatever does an operation of this kind with a path that ends in `path`, before it is
    /// done, after `skip` more of them; see [`at_clock_reading`](SimHandle::at_clock_reading).
    pub fn at_operation(&self, kind: OpKind, path: &str, skip: u64, work: impl FnOnce() + Send + 'static) {
        let interrupt = disk::Interrupt { kind, path: path.to_owned(), skip, work: Box::new(work) };
        self.disk.lock().interrupt = Some(interrupt);
    }

    /// Sets the wall clock.
    pub fn set_now_ms(&self, now: i64) {
        let passed = self.clock.passed().as_millis() as i64;
        self.clock.start.store(now - passed, Ordering::SeqCst);
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Sets what [`Executor::parallelism`] answers; 4 at first.
    pub fn set_parallelism(&self, tasks: usize) {
        self.executor.parallelism.store(tasks.max(1), Ordering::SeqCst);
    }

    /// Runs what was spawned and has not run yet, in an order drawn from the seed. A task must end by itself.
    pub fn run_spawned(&self) {
        while let Some(task) = self.executor.draw() {
            task();
        }
    }
}

struct SimClock {
    start: AtomicI64,
    /// Nanoseconds.
    passed: AtomicU64,
    /// After how many readings to run what.
    interrupt: Mutex<Option<(u64, Work)>>,
}

impl fmt::Debug for SimClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SimClock").field("start", &self.start).field("passed", &self.passed()).finish_non_exhaustive()
    }
}

impl SimClock {
    fn advance(&self, time: Duration) {
        self.passed.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Ordering::SeqCst))
    }

    fn interrupt(&self) {
        let due = {
            let mut interrupt = self.interrupt.lock();
            match &mut *interrupt {
                Some((skip, _)) if *skip > 0 => {
                    *skip -= 1;
                    None
                }
                _ => interrupt.take(),
            }
        };
        if let Some((_, work)) = due {
            work();
        }
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        self.interrupt();
        self.start.load(Ordering::SeqCst) + self.passed().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.interrupt();
        self.passed()
    }
}

#[derive(Debug)]
struct SimRng(Mutex<u64>);

impl Rng for SimRng {
    fn next_u64(&self) -> u64 {
        splitmix64(&mut self.0.lock())
    }
}

type Work = Box<dyn FnOnce() + Send>;
/// Holds a task until it runs.
type Slot = Arc<Mutex<Option<Work>>>;

/// Runs nothing side by side. A spawned task runs when it is joined or when [`SimHandle::run_spawned`] is called;
/// [`join_all`](Executor::join_all) runs its tasks in an order drawn from the seed.
struct SimExecutor {
    random: Mutex<u64>,
    waiting: Mutex<Vec<Slot>>,
    parallelism: AtomicUsize,
    clock: Arc<SimClock>,
}

impl fmt::Debug for SimExecutor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SimExecutor").field("waiting", &self.waiting.lock().len()).finish_non_exhaustive()
    }
}

impl SimExecutor {
    fn below(&self, bound: usize) -> usize {
        (splitmix64(&mut self.random.lock()) % bound.max(1) as u64) as usize
    }

    fn draw(&self) -> Option<Work> {
        loop {
            let slot = {
                let mut waiting = self.waiting.lock();
                if waiting.is_empty() {
                    return None;
                }
                let index = self.below(waiting.len());
                waiting.swap_remove(index)
            };
            // A task that was joined has already run.
            let work = slot.lock().take();
            if work.is_some() {
                return work;
            }
        }
    }
}

impl Executor for SimExecutor {
    fn spawn(&self, _name: &str, task: Work) -> io::Result<Box<dyn Task>> {
        let slot = Arc::new(Mutex::new(Some(task)));
        self.waiting.lock().push(Arc::clone(&slot));
        Ok(Box::new(SimTask(slot)))
    }

    fn join_all<'a>(&self, mut tasks: Vec<Box<dyn FnOnce() + Send + 'a>>) {
        while !tasks.is_empty() {
            let index = self.below(tasks.len());
            tasks.swap_remove(index)();
        }
    }

    fn parallelism(&self) -> usize {
        self.parallelism.load(Ordering::SeqCst)
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(SimBell { rung: Mutex::new(false), clock: Arc::clone(&self.clock) })
    }
}

struct SimTask(Slot);

impl Task for SimTask {
    fn join(self: Box<Self>) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work();
        }
    }
}

/// Waiting lets the simulated time pass at once.
#[derive(Debug)]
struct SimBell {
    rung: Mutex<bool>,
    clock: Arc<SimClock>,
}

impl Waiter for SimBell {
    fn wait(&self, timeout: Duration) {
        let rung = std::mem::take(&mut *self.rung.lock());
        if !rung {
            self.clock.advance(timeout);
        }
    }

    fn ring(&self) {
        *self.rung.lock() = true;
    }
}

impl CrashPoint {
    /// What happened last, in a few words.
    #[must_use]
    pub fn last(&self) -> &'static str {
        match &self.last {
            Some(Event::Change(Change::Write { .. })) => "write",
            Some(Event::Change(Change::SetLen { .. })) => "set_len",
            Some(Event::Change(Change::Link { .. })) => "create",
            Some(Event::Change(Change::Unlink { .. })) => "remove",
            Some(Event::Change(Change::Rename { .. })) => "rename",
            Some(Event::Sync { .. } | Event::SyncDir { .. } | Event::SyncAll) => "sync",
            Some(Event::SyncFailed { .. }) => "failed sync",
            None => "nothing",
        }
    }
}
