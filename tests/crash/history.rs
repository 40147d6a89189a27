//! What a script wrote and when it was told what; and the walk over all crashes.

use std::collections::BTreeMap;
use std::fmt::Debug;

use narthex::testkit::{Image, PowerCut, SimHandle};

/// Samples by whatever names them; the value as bits.
pub(crate) type Samples<K> = BTreeMap<K, u64>;

/// What a script has done so far. Moments are counts of disk operations.
pub(crate) struct History<K> {
    machine: SimHandle,
    /// Every sample that was ever handed over, with the moment when.
    begun: BTreeMap<K, (u64, u64)>,
    /// Samples that survive a killed process, each from a moment on.
    acknowledged: Vec<(u64, K)>,
    /// Samples that survive a power cut, each from a moment on.
    durable: Vec<(u64, K)>,
    /// From this moment on nothing is promised of samples that the test says are let go.
    let_go: Vec<(u64, K)>,
}

impl<K: Ord + Clone + Debug> History<K> {
    pub(crate) fn new(machine: &SimHandle) -> Self {
        Self {
            machine: machine.clone(),
            begun: BTreeMap::new(),
            acknowledged: Vec::new(),
            durable: Vec::new(),
            let_go: Vec::new(),
        }
    }

    /// The sample is about to be handed over.
    pub(crate) fn begin(&mut self, key: K, bits: u64) {
        self.begun.entry(key).or_insert((self.machine.ops(), bits));
    }

    /// The commit of these samples was acknowledged.
    pub(crate) fn acknowledge(&mut self, keys: &[K]) {
        let now = self.machine.ops();
        self.acknowledged.extend(keys.iter().map(|key| (now, key.clone())));
    }

    /// Everything acknowledged so far was said to be on the disk.
    pub(crate) fn synced(&mut self) {
        let now = self.machine.ops();
        let fresh = self.acknowledged.get(self.durable.len()..).unwrap_or_default();
        self.durable.extend(fresh.iter().map(|(_, key)| (now, key.clone())).collect::<Vec<_>>());
    }

    /// The samples that `wanted` picks are about to be given up, as a checkpoint gives up what is in a block.
    pub(crate) fn let_go(&mut self, wanted: impl Fn(&K) -> bool) {
        let now = self.machine.ops();
        self.let_go.extend(self.begun.keys().filter(|key| wanted(key)).map(|key| (now, key.clone())));
    }

    /// Looks for what is promised at the moment `ops`, and for what was never written, in `found`.
    fn check(&self, promised: &[(u64, K)], ops: u64, story: &str, found: &Samples<K>) {
        for (_, key) in promised.iter().filter(|(when, _)| *when <= ops) {
            if self.let_go.iter().any(|(when, gone)| *when <= ops && gone == key) {
                continue;
            }
            assert_eq!(found.get(key), Some(&self.begun[key].1), "{key:?} was promised. {story}");
        }
        for (key, bits) in found {
            let begun = self.begun.get(key);
            let known = begun.is_some_and(|(when, begun)| *when <= ops && begun == bits);
            assert!(known, "{key:?} = {bits:x} was never written (but {begun:x?}). {story}");
        }
    }

    /// Stops the machine at every operation since `from`, recovers every image with `recover`, and checks what it finds.
    /// Returns how many different images there were.
    pub(crate) fn check_every_crash(&self, from: u64, recover: impl Fn(&Image) -> Samples<K>) -> usize {
        let cut = PowerCut { samples: samples_a_point(), ..PowerCut::default() };
        let mut known: BTreeMap<u64, Samples<K>> = BTreeMap::new();
        let mut check = |image: &Image, promised: &[(u64, K)], ops: u64, last: &str| {
            let story = format!("After a {last}: {}", image.story());
            let found = known.entry(image.fingerprint()).or_insert_with(|| recover(image));
            self.check(promised, ops, &story, found);
        };
        for point in self.machine.crash_points().filter(|point| point.ops >= from) {
            for (index, image) in point.killed().iter().enumerate() {
                // The first image is the operation done; in the others it was still under way.
                let ops = if index == 0 { point.ops } else { point.ops - 1 };
                check(image, &self.acknowledged, ops, point.last());
            }
            for image in point.power_cut(&cut) {
                check(&image, &self.durable, point.ops, point.last());
            }
        }
        known.len()
    }
}

fn samples_a_point() -> usize {
    std::env::var("NARTHEX_CRASH_SAMPLES").map_or(20, |count| count.parse().unwrap())
}
