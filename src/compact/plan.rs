//! Which blocks to merge next: a pure function of what the blocks say of themselves. It plans as Prometheus 3.14 does, so
//! that a directory can change hands without being merged anew.
//!
//! ```text
//! classes            regular blocks, then those of stale series, then those of selected series; never mixed
//!   overlaps         the first run of blocks that overlap, all of it
//!   levels           the newest block is left out: somebody may be about to copy it
//!     6 h, 18 h, …   the first aligned span that two blocks or more lie in, if they fill it, or if it lies wholly
//!                    before the newest block that is left: nothing can come that would still belong there
//!   tombstones       from the newest down, a large block of which more than 5 % is deleted, alone
//! ```
//!
//! A block whose merge failed is left alone, and so is every group that it belongs to. (The original tries a run of
//! overlapping blocks again and again, and merges nothing else meanwhile.)

use crate::block::{BlockMeta, HINT_SELECTED_SERIES, HINT_STALE_SERIES, Ulid};

/// How many levels there can be, as in the original.
const LEVELS: usize = 10;
/// How many blocks of a level make one of the next.
const LEVEL_FACTOR: i64 = 3;
/// A block of which a larger part is deleted is written again.
const DELETED_PART: f64 = 0.05;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The blocks to merge into one, by the time where they begin. A single one is written again without what is deleted.
    pub blocks: Vec<Ulid>,
    /// Why.
    pub reason: Reason,
}

/// Why blocks are to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// They overlap.
    Overlap,
    /// They lie in one aligned span of so many milliseconds.
    Level(i64),
    /// Much of the block is deleted.
    Tombstones,
}

/// The spans, in milliseconds, that blocks are merged to: the first is what is cut from the head, each further one is
/// three times as long, and none is longer than `max`.
#[must_use]
pub fn block_ranges(min: i64, max: i64) -> Vec<i64> {
    let mut ranges = vec![min];
    let longer = std::iter::successors(min.checked_mul(LEVEL_FACTOR), |range| range.checked_mul(LEVEL_FACTOR));
    ranges.extend(longer.take(LEVELS - 1).take_while(|range| *range <= max));
    ranges
}

/// What to merge next of `blocks`, given in any order; `None` if there is nothing to do. `ranges` are the spans of the
/// levels, ascending, as [`block_ranges`] gives them. Without `overlapping` blocks that overlap stay apart.
#[must_use]
pub fn plan(blocks: &[BlockMeta], ranges: &[i64], overlapping: bool) -> Option<Plan> {
    let mut classes: [Vec<&BlockMeta>; 3] = Default::default();
    for meta in blocks.iter().filter(|meta| !meta.compaction.deletable) {
        let [regular, stale, selected] = &mut classes;
        // Parts chosen by series keep their hint only among themselves; without it they would move the log's cut-off.
        // Blocks of out-of-order samples are no class: merging them with what they overlap is what they are waiting for.
        let class = match &meta.compaction {
            compaction if compaction.has_hint(HINT_STALE_SERIES) => stale,
            compaction if compaction.has_hint(HINT_SELECTED_SERIES) => selected,
            _ => regular,
        };
        class.push(meta);
    }
    classes.into_iter().find_map(|mut class| {
        class.sort_by_key(|meta| meta.min_time);
        plan_class(&class, ranges, overlapping)
    })
}

/// As [`plan`], for blocks of one class in order of time.
fn plan_class(blocks: &[&BlockMeta], ranges: &[i64], overlapping: bool) -> Option<Plan> {
    let planned =
        |blocks: &[&BlockMeta], reason| Some(Plan { blocks: blocks.iter().map(|meta| meta.ulid).collect(), reason });
    if let Some(run) = overlapping.then(|| first_overlap(blocks)).flatten() {
        return planned(run, Reason::Overlap);
    }
    let (_, blocks) = blocks.split_last()?;
    if let Some((group, range)) = first_level(blocks, ranges) {
        return planned(group, Reason::Level(range));
    }
    let large = ranges.get(ranges.len() / 2).copied().unwrap_or(i64::MAX);
    for block in blocks.iter().rev() {
        let stats = &block.stats;
        let deleted = stats.num_tombstones as f64;
        if block.max_time.saturating_sub(block.min_time) < large {
            // A small one is soon merged anyway, unless all of it is deleted; what lies before it waits its turn.
            let all = stats.num_tombstones > 0 && stats.num_tombstones >= stats.num_series;
            return if all && !block.compaction.failed { planned(&[block], Reason::Tombstones) } else { None };
        }
        if deleted / (stats.num_series as f64 + 1.0) > DELETED_PART && !block.compaction.failed {
            return planned(&[block], Reason::Tombstones);
        }
    }
    None
}

/// The first run of blocks each of which overlaps one before it, if none of them failed.
fn first_overlap<'a, 'm>(blocks: &'a [&'m BlockMeta]) -> Option<&'a [&'m BlockMeta]> {
    let mut rest = blocks;
    while let Some(first) = rest.first() {
        let mut end = first.max_time;
        let mut len = 1;
        for block in rest.iter().skip(1) {
            if block.min_time >= end {
                break;
            }
            end = end.max(block.max_time);
            len += 1;
        }
        let (run, after) = rest.split_at(len);
        if len > 1 && !has_failed(run) {
            return Some(run);
        }
        rest = after;
    }
    None
}

/// The first group of blocks that are to become one of the next level, and that level's span.
fn first_level<'a, 'm>(blocks: &'a [&'m BlockMeta], ranges: &[i64]) -> Option<(&'a [&'m BlockMeta], i64)> {
    let newest = blocks.last()?.min_time;
    ranges.iter().skip(1).find_map(|&range| {
        let is_due = |group: &&[&BlockMeta]| {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { return false };
            let fills = last.max_time.saturating_sub(first.min_time) == range;
            group.len() > 1 && !has_failed(group) && (fills || last.max_time <= newest)
        };
        aligned_groups(blocks, range).find(is_due).map(|group| (group, range))
    })
}

fn has_failed(blocks: &[&BlockMeta]) -> bool {
    blocks.iter().any(|meta| meta.compaction.failed)
}

/// The blocks in order of time, grouped by the multiple of `range` that they lie in; those that lie in none are left out.
fn aligned_groups<'a, 'm>(blocks: &'a [&'m BlockMeta], range: i64) -> impl Iterator<Item = &'a [&'m BlockMeta]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        while let Some(first) = rest.first() {
            let end = first.min_time.div_euclid(range).saturating_add(1).saturating_mul(range);
            let len = rest.iter().take_while(|meta| meta.max_time <= end).count();
            let (group, after) = rest.split_at(len.max(1));
            rest = after;
            if len > 0 {
                return Some(group);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::HINT_OUT_OF_ORDER;
    use crate::compact::merged_meta;

    const RANGES: [i64; 5] = [20, 60, 180, 540, 1620];

    fn block(name: u128, min: i64, max: i64) -> BlockMeta {
        BlockMeta::new(Ulid(name), min, max)
    }

    fn spans(spans: &[(i64, i64)]) -> Vec<BlockMeta> {
        spans.iter().enumerate().map(|(name, (min, max))| block(name as u128, *min, *max)).collect()
    }

    /// The blocks that are planned, by their place in `blocks`.
    fn planned(blocks: &[BlockMeta]) -> Vec<usize> {
        let plan = plan(blocks, &RANGES, true).map_or(Vec::new(), |plan| plan.blocks);
        plan.iter().map(|ulid| blocks.iter().position(|meta| meta.ulid == *ulid).unwrap()).collect()
    }

    fn planned_spans(list: &[(i64, i64)]) -> Vec<usize> {
        planned(&spans(list))
    }

    const NONE: [usize; 0] = [];

    #[test]
    fn levels_are_three_times_as_long_up_to_a_limit() {
        const HOUR: i64 = 3_600_000;
        assert_eq!(block_ranges(2 * HOUR, 31 * 24 * HOUR), [2, 6, 18, 54, 162, 486].map(|hours| hours * HOUR));
        assert_eq!(block_ranges(2 * HOUR, 0), [2 * HOUR]);
        assert_eq!(block_ranges(1, i64::MAX).len(), LEVELS);
        assert_eq!(block_ranges(i64::MAX / 2, i64::MAX).len(), 1);
    }

    #[test]
    fn a_span_is_merged_when_it_is_full_and_a_newer_block_is_there() {
        assert_eq!(planned(&[]), NONE);
        assert_eq!(planned_spans(&[(0, 20)]), NONE);
        assert_eq!(planned_spans(&[(0, 20), (20, 40)]), NONE);
        // The newest does not count.
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (40, 60)]), NONE);
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (40, 60), (60, 80)]), [0, 1, 2]);
    }

    #[test]
    fn a_span_with_a_gap_is_merged_when_nothing_can_fill_the_gap_any_more() {
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (60, 80)]), NONE);
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (60, 80), (80, 100)]), [0, 1]);
    }

    #[test]
    fn a_lower_level_goes_first() {
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (40, 60), (60, 120), (120, 180)]), [0, 1, 2]);
    }

    #[test]
    fn a_higher_level_takes_what_the_lower_ones_left() {
        assert_eq!(planned_spans(&[(20, 40), (60, 120), (960, 980), (120, 180), (720, 960)]), [0, 1, 3]);
    }

    #[test]
    fn the_newest_block_is_the_latest_and_not_the_last_that_was_written() {
        assert_eq!(planned_spans(&[(0, 360), (540, 560), (360, 420), (420, 540)]), [2, 3]);
    }

    #[test]
    fn blocks_that_overlap_are_merged_first_even_the_newest() {
        assert_eq!(planned_spans(&[(0, 20), (19, 40), (40, 60)]), [0, 1]);
        assert_eq!(planned_spans(&[(0, 20), (20, 40), (30, 50)]), [1, 2]);
        assert_eq!(planned_spans(&[(0, 20), (10, 40), (30, 50)]), [0, 1, 2]);
        assert_eq!(planned_spans(&[(0, 360), (340, 560), (360, 420), (420, 540)]), [0, 1, 2, 3]);
        assert_eq!(planned_spans(&[(0, 10), (9, 20), (30, 40), (39, 50)]), [0, 1]);
        assert_eq!(planned_spans(&[(0, 20), (0, 20)]), [0, 1]);
    }

    #[test]
    fn blocks_that_overlap_can_be_left_apart() {
        assert_eq!(plan(&spans(&[(0, 20), (10, 40)]), &RANGES, false), None);
    }

    #[test]
    fn a_large_block_of_which_much_is_deleted_is_written_again() {
        let much = |mut meta: BlockMeta| {
            (meta.stats.num_series, meta.stats.num_tombstones) = (10, 3);
            meta
        };
        assert_eq!(planned(&[much(block(0, 0, 540))]), NONE, "it is the newest");
        let mut blocks = [much(block(0, 0, 540)), block(1, 540, 560)];
        assert_eq!(planned(&blocks), [0]);
        assert_eq!(plan(&blocks, &RANGES, true).unwrap().reason, Reason::Tombstones);
        blocks[0].compaction.failed = true;
        assert_eq!(planned(&blocks), NONE);
        assert_eq!(planned(&[much(block(0, 0, 60)), block(1, 60, 80)]), NONE, "it is small");
        let mut few = much(block(0, 0, 540));
        few.stats.num_series = 60;
        assert_eq!(planned(&[few, block(1, 540, 560)]), NONE);
        assert_eq!(
            planned(&[much(block(0, 0, 540)), block(1, 540, 560), block(2, 560, 580)]),
            NONE,
            "a small one first"
        );
    }

    #[test]
    fn a_small_block_that_is_deleted_whole_is_written_again() {
        let mut gone = block(0, 0, 20);
        (gone.stats.num_series, gone.stats.num_tombstones) = (3, 3);
        assert_eq!(planned(&[gone, block(1, 20, 40)]), [0]);
    }

    #[test]
    fn a_block_without_series_and_tombstones_is_left_alone() {
        assert_eq!(planned(&[block(0, 0, 540), block(1, 540, 560)]), NONE);
        let _ = plan(&spans(&[(0, 100), (101, 200)]), &[50], true);
    }

    #[test]
    fn a_group_with_a_block_that_failed_is_left_alone() {
        for list in [
            vec![(0, 20), (20, 40), (40, 60), (60, 80)],
            vec![(0, 20), (20, 40), (60, 80), (80, 100)],
            vec![(0, 20), (20, 40), (40, 60), (60, 120), (120, 180), (180, 200)],
            vec![(0, 20), (10, 30)],
        ] {
            let mut blocks = spans(&list);
            blocks[1].compaction.failed = true;
            assert_eq!(planned(&blocks), NONE, "{list:?}");
        }
        let mut blocks = spans(&[(0, 20), (10, 30), (60, 80), (70, 90)]);
        blocks[1].compaction.failed = true;
        assert_eq!(planned(&blocks), [2, 3], "others are not held up");
    }

    #[test]
    fn parts_chosen_by_series_are_merged_among_themselves_alone() {
        for hint in [HINT_STALE_SERIES, HINT_SELECTED_SERIES] {
            let mut blocks = spans(&[(0, 20), (0, 20), (20, 40), (40, 60), (60, 80)]);
            blocks[0].compaction.add_hint(hint);
            assert_eq!(planned(&blocks), [1, 2, 3]);
            let mut blocks = spans(&[(0, 20), (0, 20), (20, 40), (40, 60), (60, 80)]);
            blocks[1..].iter_mut().for_each(|meta| meta.compaction.add_hint(hint));
            assert_eq!(planned(&blocks), [1, 2, 3], "nothing is to be done for the regular one");
        }
    }

    #[test]
    fn blocks_of_out_of_order_samples_are_merged_with_what_they_overlap() {
        let mut blocks = spans(&[(0, 20), (5, 15), (20, 40)]);
        blocks[1].compaction.add_hint(HINT_OUT_OF_ORDER);
        assert_eq!(planned(&blocks), [0, 1]);
    }

    fn grouped(list: &[(i64, i64)], range: i64) -> Vec<Vec<(i64, i64)>> {
        let blocks = spans(list);
        let blocks: Vec<_> = blocks.iter().collect();
        let span = |meta: &&BlockMeta| (meta.min_time, meta.max_time);
        aligned_groups(&blocks, range).map(|group| group.iter().map(span).collect()).collect()
    }

    #[test]
    fn groups_are_aligned_and_leave_out_what_does_not_fit() {
        assert_eq!(grouped(&[(0, 60)], 60), [[(0, 60)]]);
        assert_eq!(grouped(&[(0, 10), (9, 15), (30, 60)], 60), [[(0, 10), (9, 15), (30, 60)]]);
        let list = [(70, 90), (125, 130), (130, 180), (1000, 1001)];
        assert_eq!(grouped(&list, 60), [vec![(70, 90)], vec![(125, 130), (130, 180)], vec![(1000, 1001)]]);
        assert_eq!(grouped(&[(50, 70), (70, 80)], 60), [[(70, 80)]]);
        assert_eq!(grouped(&[(0, 144), (144, 216), (216, 288)], 72), [[(144, 216)], [(216, 288)]]);
        let list = [(-60, -50), (-10, -5), (0, 15)];
        assert_eq!(grouped(&list, 60), [vec![(-60, -50), (-10, -5)], vec![(0, 15)]]);
    }

    prop_compose! {
        fn a_block()(
            start in -100..400i64, len in prop_oneof![Just(1i64), Just(3), Just(9), 1..30i64], aligned in any::<bool>(),
            hint in 0..8usize, failed in 0..12u8, series in 0..20u64, tombstones in 0..4u64,
        ) -> BlockMeta {
            // Twenty is the shortest level: whole multiples of it, most of them where they belong.
            let min = if aligned { (start * 20).div_euclid(20 * len) * 20 * len } else { start };
            let mut meta = block(0, min, min + if aligned { 20 * len } else { len });
            if let Some(hint) = [HINT_STALE_SERIES, HINT_SELECTED_SERIES, HINT_OUT_OF_ORDER].get(hint) {
                meta.compaction.add_hint(hint);
            }
            meta.compaction.failed = failed == 0;
            (meta.stats.num_series, meta.stats.num_tombstones) = (series, tombstones);
            meta
        }
    }

    fn class(meta: &BlockMeta) -> usize {
        let hints = [HINT_STALE_SERIES, HINT_SELECTED_SERIES];
        hints.iter().position(|hint| meta.compaction.has_hint(hint)).unwrap_or(2)
    }

    proptest! {
        #[test]
        fn every_plan_is_sound_and_they_come_to_an_end(
            blocks in prop::collection::vec(a_block(), 0..24), overlapping in any::<bool>()
        ) {
            let mut blocks = blocks;
            blocks.iter_mut().enumerate().for_each(|(name, meta)| meta.ulid = Ulid(name as u128 + 1));
            // Each plan takes a block away or the tombstones of one.
            for name in 1000..1000 + 2 * blocks.len() as u128 {
                let Some(plan) = plan(&blocks, &RANGES, overlapping) else { break };
                let (members, others): (Vec<_>, Vec<_>) =
                    blocks.iter().cloned().partition(|meta| plan.blocks.contains(&meta.ulid));
                prop_assert_eq!(members.len(), plan.blocks.len());
                prop_assert!(members.iter().all(|meta| class(meta) == class(&members[0])), "classes are mixed");
                prop_assert!(!members.iter().any(|meta| meta.compaction.failed));
                let merged = merged_meta(Ulid(name), &members.iter().collect::<Vec<_>>());
                match plan.reason {
                    Reason::Overlap => {
                        prop_assert!(overlapping && members.len() > 1);
                        for meta in &members {
                            let touches = |other: &&BlockMeta| other.ulid != meta.ulid
                                && other.min_time < meta.max_time && meta.min_time < other.max_time;
                            prop_assert!(members.iter().find(touches).is_some(), "{:?} overlaps none", meta.desc());
                        }
                    }
                    Reason::Level(range) => {
                        prop_assert!(members.len() > 1);
                        prop_assert_eq!(merged.min_time.div_euclid(range), (merged.max_time - 1).div_euclid(range));
                        // Nothing of the class lies between them, and the newest is not taken.
                        let later = |other: &&BlockMeta| class(other) == class(&merged) && other.min_time >= merged.min_time;
                        prop_assert!(others.iter().find(later).is_some(), "the newest is merged");
                        if overlapping {
                            let same = others.iter().filter(|other| class(other) == class(&merged));
                            // What failed may overlap; it is left alone.
                            let mut clean = same.filter(|other| !other.compaction.failed);
                            let clash = |other: &BlockMeta| other.min_time < merged.max_time && merged.min_time < other.max_time;
                            prop_assert!(!clean.any(clash) || blocks.iter().any(|meta| meta.compaction.failed));
                        }
                    }
                    Reason::Tombstones => {
                        prop_assert_eq!(members.len(), 1);
                        prop_assert!(members[0].stats.num_tombstones > 0);
                    }
                }
                blocks = others;
                blocks.push(merged);
            }
            prop_assert_eq!(plan(&blocks, &RANGES, overlapping), None, "it does not come to an end");
        }
    }
}
