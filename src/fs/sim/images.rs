//! What may be on a disk after a crash.
//!
//! After a *killed process* the page cache is still there: every operation that returned has happened, and of the write
//! that was under way any first part. After a *power cut* only what was synced is promised. Of the rest any part may be
//! there, in any order that [`Change::needs`] allows, and a write may be there in pieces:
//!
//! ```text
//! written    AAAABBBB      dropped              (nothing)
//!                          cut                  AA
//!                          length without data  00000000
//!                          cut, rest zeros      AA000000
//!                          a sector missing     AAAA0000, 0000BBBB
//! ```
//!
//! Up to [`PowerCut::exhaustive`] pending changes, every allowed choice of which happened is made, and for each choice
//! every write in it is torn in turn in a handful of ways. Beyond that, seeded samples tear at any byte.

use super::splitmix64;
use super::state::{Change, Event, Pending, State, Tree, close_over_needs};

/// What a disk writes at once: inside a sector a write is not torn into data after zeros.
const SECTOR: usize = 512;

/// How a write reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dropped,
    Whole,
    /// Only so many first bytes; the file ends there if nothing later was written.
    Cut(usize),
    /// The full length; data in the first so many bytes, zeros behind.
    ZeroTail(usize),
    /// The full length; zeros in these bytes of the write.
    ZeroHole(usize, usize),
}

/// Which images of a power cut to make.
#[derive(Debug, Clone)]
pub struct PowerCut {
    /// Up to so many pending changes, all of them.
    pub exhaustive: usize,
    /// Beyond, so many samples.
    pub samples: usize,
    /// What the samples are drawn from.
    pub seed: u64,
}

impl Default for PowerCut {
    fn default() -> Self {
        Self { exhaustive: 6, samples: 1000, seed: 1 }
    }
}

/// A disk as a machine finds it when it starts again. [`Image::boot`](super::Image::boot) starts it.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) tree: Tree,
    pub(super) story: String,
}

impl Image {
    /// How the image came about, for the message of a failing test.
    #[must_use]
    pub fn story(&self) -> &str {
        &self.story
    }

    /// Every path from the root, with its content; a directory ends in `/` and has none.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Option<Vec<u8>>)> {
        self.tree.walk().into_iter().map(|(path, content)| (path, content.map(|content| content.to_vec()))).collect()
    }

    /// The same for two images that hold the same paths and contents, so that a test can look at each but once.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = xxhash_rust::xxh64::Xxh64::new(0);
        for (path, content) in self.tree.walk() {
            hash.update(&(path.len() as u64).to_le_bytes());
            hash.update(path.as_bytes());
            if let Some(content) = content {
                hash.update(&(content.len() as u64).to_le_bytes());
                hash.update(&content);
            }
        }
        hash.digest()
    }
}

/// A moment at which the machine can stop: just after a change or a sync.
#[derive(Debug, Clone)]
pub struct CrashPoint {
    /// How many operations had begun: compare with [`SimHandle::ops`](super::SimHandle::ops) as noted beside a promise.
    pub ops: u64,
    /// The state with the last event; and the event, if it was a write, which may have been under way.
    pub(super) state: State,
    pub(super) last: Option<Event>,
    /// The state without the last event.
    pub(super) before: State,
}

impl CrashPoint {
    /// How many changes are not durable.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state.pending.len()
    }

    /// The images of a process that is killed here: the operation is done, and if it was a write, parts of it.
    #[must_use]
    pub fn killed(&self) -> Vec<Image> {
        let mut images = vec![self.image(self.state.live.clone(), "killed after it".to_owned())];
        if let Some(Event::Change(change @ Change::Write { bytes, .. })) = &self.last {
            for len in [1, bytes.len() / 2, bytes.len() - 1] {
                if len > 0 && len < bytes.len() {
                    let mut tree = self.before.live.clone();
                    apply_with(&mut tree, change, Fate::Cut(len));
                    images.push(self.image(tree, format!("killed with {len} of {} bytes written", bytes.len())));
                }
            }
        }
        images
    }

    /// The image in which nothing pending happened: the least that is promised.
    #[must_use]
    pub fn least(&self) -> Image {
        self.image(self.state.durable.clone(), "nothing that was pending happened".to_owned())
    }

    /// The images of a power cut here.
    pub fn power_cut<'a>(&'a self, options: &PowerCut) -> Box<dyn Iterator<Item = Image> + 'a> {
        if self.pending() <= options.exhaustive {
            return Box::new(self.all_images());
        }
        let mut state = options.seed ^ self.ops.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let extremes = [Fate::Dropped, Fate::Whole].map(|fate| vec![fate; self.pending()]);
        let samples = (0..options.samples).map(move |_| self.sampled_fates(&mut state));
        Box::new(extremes.into_iter().chain(samples).map(|fates| self.with_fates(&fates)))
    }

    fn all_images(&self) -> impl Iterator<Item = Image> {
        let pending = &self.state.pending;
        (0..1_u64 << pending.len().min(63)).flat_map(move |bits| {
            let chosen: Vec<bool> = (0..pending.len()).map(|index| bits >> index & 1 == 1).collect();
            let mut closed = chosen.clone();
            close_over_needs(pending, &mut closed);
            let plain: Vec<Fate> =
                chosen.iter().map(|chosen| if *chosen { Fate::Whole } else { Fate::Dropped }).collect();
            let mut choices = Vec::new();
            if closed == chosen {
                for (index, fate) in plain.iter().enumerate() {
                    let torn = if *fate == Fate::Whole { tears(pending, index) } else { Vec::new() };
                    choices.extend(torn.into_iter().map(|tear| {
                        let mut fates = plain.clone();
                        if let Some(slot) = fates.get_mut(index) {
                            *slot = tear;
                        }
                        fates
                    }));
                }
                choices.push(plain);
            }
            choices.into_iter().map(|fates| self.with_fates(&fates))
        })
    }

    fn sampled_fates(&self, random: &mut u64) -> Vec<Fate> {
        let pending = &self.state.pending;
        // How much of it made it is drawn a whole image at a time: else all samples would lose about half.
        let kept = splitmix64(random) % 101;
        let in_order = splitmix64(random).is_multiple_of(4);
        let mut chosen: Vec<bool> = pending.iter().map(|_| splitmix64(random) % 100 < kept).collect();
        if in_order {
            let first = (splitmix64(random) % (pending.len() as u64 + 1)) as usize;
            chosen = (0..pending.len()).map(|index| index < first).collect();
        }
        close_over_needs(pending, &mut chosen);
        let torn_in_a_hundred = [0, 10, 50][(splitmix64(random) % 3) as usize];
        let mut fates = Vec::with_capacity(pending.len());
        for (pending, chosen) in pending.iter().zip(chosen) {
            let fate = match &pending.change {
                _ if !chosen => Fate::Dropped,
                Change::Write { bytes, .. } if splitmix64(random) % 100 < torn_in_a_hundred => {
                    let at = |random: &mut u64| (splitmix64(random) % (bytes.len() as u64 + 1)) as usize;
                    match splitmix64(random) % 3 {
                        0 => Fate::Cut(at(random)),
                        1 => Fate::ZeroTail(at(random)),
                        _ => {
                            let (a, b) = (at(random), at(random));
                            Fate::ZeroHole(a.min(b), a.max(b))
                        }
                    }
                }
                _ => Fate::Whole,
            };
            fates.push(fate);
        }
        fates
    }

    fn with_fates(&self, fates: &[Fate]) -> Image {
        let mut tree = self.state.durable.clone();
        for (pending, fate) in self.state.pending.iter().zip(fates) {
            apply_with(&mut tree, &pending.change, *fate);
        }
        self.image(tree, format!("power cut, pending changes {fates:?}"))
    }

    fn image(&self, tree: Tree, how: String) -> Image {
        Image { tree, story: format!("operation {}: {how}", self.ops) }
    }
}

/// The ways in which the exhaustive images tear a write.
fn tears(pending: &[Pending], index: usize) -> Vec<Fate> {
    let Some(Change::Write { offset, bytes, .. }) = pending.get(index).map(|pending| &pending.change) else {
        return Vec::new();
    };
    let len = bytes.len();
    // The first boundary of sectors inside the write; none is as good as its end.
    let sector = (SECTOR - offset % SECTOR).min(len);
    let mut tears = vec![
        Fate::Cut(1),
        Fate::Cut(len / 2),
        Fate::Cut(len.saturating_sub(1)),
        Fate::Cut(sector),
        Fate::ZeroTail(0),
        Fate::ZeroTail(sector),
        Fate::ZeroHole(0, sector),
    ];
    tears.retain(|tear| match tear {
        Fate::Cut(at) => *at > 0 && *at < len,
        Fate::ZeroTail(at) => *at < len,
        Fate::ZeroHole(from, to) => from < to && *to < len,
        Fate::Dropped | Fate::Whole => false,
    });
    let mut distinct: Vec<Fate> = Vec::with_capacity(tears.len());
    for tear in tears {
        if !distinct.contains(&tear) {
            distinct.push(tear);
        }
    }
    distinct
}

fn apply_with(tree: &mut Tree, change: &Change, fate: Fate) {
    let Change::Write { ino, offset, bytes } = change else {
        if fate != Fate::Dropped {
            tree.apply(change);
        }
        return;
    };
    let mut reached = bytes.to_vec();
    match fate {
        Fate::Dropped => return,
        Fate::Whole => {}
        Fate::Cut(len) => reached.truncate(len),
        Fate::ZeroTail(from) => reached.iter_mut().skip(from).for_each(|byte| *byte = 0),
        Fate::ZeroHole(from, to) => reached.iter_mut().take(to).skip(from).for_each(|byte| *byte = 0),
    }
    tree.write(*ino, *offset, &reached);
}
