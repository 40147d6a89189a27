//! What a script wrote and when it was told what; and the walk over all crashes.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use narthex::testkit::{Image, PowerCut, SimHandle};

/// Samples by whatever names them; the value as bits.
pub(crate) type Samples<K> = BTreeMap<K, u64>;

/// What a script has done so far. Moments are counts of disk operations.
pub(crate) struct History<K> {
    machine: SimHandle,
    /// Every sample that was ever handed over, with the moment when.
    begun: BTreeMap<K, (u64, u64)>,
    /// Samples that survive a killed process, each from a moment on.
    acknowledged: BTreeMap<K, u64>,
    /// Samples that survive a power cut, each from a moment on.
    durable: BTreeMap<K, u64>,
    /// From this moment on nothing is promised of samples that the test says are let go.
    let_go: BTreeMap<K, u64>,
    /// Samples that are deleted for good, each from a moment on.
    deleted: BTreeMap<K, u64>,
}

impl<K: Ord + Clone + Debug> History<K> {
    pub(crate) fn new(machine: &SimHandle) -> Self {
        Self {
            machine: machine.clone(),
            begun: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            durable: BTreeMap::new(),
            let_go: BTreeMap::new(),
            deleted: BTreeMap::new(),
        }
    }

    /// The sample is about to be handed over.
    pub(crate) fn begin(&mut self, key: K, bits: u64) {
        self.begun.entry(key).or_insert((self.machine.ops(), bits));
    }

    /// The commit of these samples was acknowledged.
    pub(crate) fn acknowledge(&mut self, keys: &[K]) {
        let now = self.machine.ops();
        for key in keys {
            self.acknowledged.entry(key.clone()).or_insert(now);
        }
    }

    /// These samples, acknowledged, were said to be on the disk.
    pub(crate) fn synced_alone(&mut self, keys: &[K]) {
        let now = self.machine.ops();
        for key in keys {
            self.durable.entry(key.clone()).or_insert(now);
        }
    }

    /// Everything acknowledged so far was said to be on the disk.
    pub(crate) fn synced(&mut self) {
        let now = self.machine.ops();
        for key in self.acknowledged.keys() {
            self.durable.entry(key.clone()).or_insert(now);
        }
    }

    /// The samples that `wanted` picks are about to be given up, as a checkpoint gives up what is in a block.
    pub(crate) fn let_go(&mut self, wanted: impl Fn(&K) -> bool) {
        let now = self.machine.ops();
        for key in self.begun.keys().filter(|key| wanted(key)) {
            self.let_go.entry(key.clone()).or_insert(now);
        }
    }

    /// The samples that `wanted` picks were deleted, and that was said to be on the disk.
    pub(crate) fn deleted(&mut self, wanted: impl Fn(&K) -> bool) {
        let now = self.machine.ops();
        for key in self.begun.keys().filter(|key| wanted(key)) {
            self.deleted.entry(key.clone()).or_insert(now);
        }
    }

    /// Looks for what is promised at the moment `ops`, and for what was never written, in `found`.
    fn check(&self, promised: &BTreeMap<K, u64>, ops: u64, story: &fmt::Arguments<'_>, found: &Samples<K>) {
        for (key, _) in promised.iter().filter(|(_, when)| **when <= ops) {
            if self.let_go.get(key).is_none_or(|when| *when > ops) {
                assert_eq!(found.get(key), Some(&self.begun[key].1), "{key:?} was promised. {story}");
            }
        }
        for (key, bits) in found {
            let begun = self.begun.get(key);
            let known = begun.is_some_and(|(when, begun)| *when <= ops && begun == bits);
            assert!(known, "{key:?} = {bits:x} was never written (but {begun:x?}). {story}");
            let is_back = self.deleted.get(key).is_some_and(|when| *when <= ops);
            assert!(!is_back, "{key:?} was deleted. {story}");
        }
    }

    /// All that was acknowledged so far.
    pub(crate) fn acknowledged(&self) -> Samples<K> {
        self.acknowledged.keys().map(|key| (key.clone(), self.begun[key].1)).collect()
    }

    /// Checks what is found now, after `what`.
    pub(crate) fn check_now(&self, found: &Samples<K>, what: &str) {
        self.check(&self.acknowledged, u64::MAX, &format_args!("{what}"), found);
    }

    /// Stops the machine at every operation since `from`, recovers every image with `recover`, and checks what it finds.
    /// Returns how many different images there were.
    pub(crate) fn check_every_crash(&self, from: u64, recover: impl Fn(&Image) -> Samples<K>) -> usize {
        self.check_crashes(|ops| ops >= from, &PowerCut { samples: samples_a_point(), ..PowerCut::default() }, recover)
    }

    /// [`check_every_crash`](Self::check_every_crash), of a life so long that only one operation in [`stride`] is looked at,
    /// and few of the disks that a power cut may leave there.
    pub(crate) fn check_many_crashes(&self, from: u64, recover: impl Fn(&Image) -> Samples<K>) -> usize {
        let cut = PowerCut { exhaustive: 1, samples: (samples_a_point() / 50).clamp(2, 20), seed: 1 };
        self.check_crashes(|ops| ops >= from && ops.is_multiple_of(stride()), &cut, recover)
    }

    fn check_crashes(
        &self,
        wanted: impl Fn(u64) -> bool,
        cut: &PowerCut,
        recover: impl Fn(&Image) -> Samples<K>,
    ) -> usize {
        let mut known: BTreeMap<u64, Samples<K>> = BTreeMap::new();
        let mut check = |image: &Image, promised: &BTreeMap<K, u64>, ops: u64, last: &str| {
            let found = known.entry(image.fingerprint()).or_insert_with(|| recover(image));
            self.check(promised, ops, &format_args!("After a {last}: {}", image.story()), found);
        };
        for point in self.machine.crash_points().filter(|point| wanted(point.ops)) {
            for (index, image) in point.killed().iter().enumerate() {
                // The first image is the operation done; in the others it was still under way.
                let ops = if index == 0 { point.ops } else { point.ops - 1 };
                check(image, &self.acknowledged, ops, point.last());
            }
            for image in point.power_cut(cut) {
                check(&image, &self.durable, point.ops, point.last());
            }
        }
        known.len()
    }
}

/// One in how many operations of a long life is looked at: few in a run that a change is tested with, all with
/// `NARTHEX_CRASH_STRIDE=1`.
pub(crate) fn stride() -> u64 {
    if let Ok(stride) = std::env::var("NARTHEX_CRASH_STRIDE") {
        return stride.parse().unwrap();
    }
    match samples_a_point() {
        ..100 => 29,
        100..10_000 => 7,
        _ => 1,
    }
}

fn samples_a_point() -> usize {
    std::env::var("NARTHEX_CRASH_SAMPLES").map_or(20, |count| count.parse().unwrap())
}
