//! Which blocks have been kept long enough.

use std::path::Path;

use super::Retention;
use crate::fs::Fs;

impl Retention {
    /// With the part of the disk that holds `dir` as bytes. If the disk does not say how large it is, what was said in
    /// bytes stays.
    pub(super) fn in_bytes(self, fs: &dyn Fs, dir: &Path) -> Self {
        let Some(percentage) = self.percentage.filter(|percentage| *percentage > 0.0) else { return self };
        match fs.space(dir) {
            Ok(space) if space.total > 0 => {
                Self { bytes: Some((space.total as f64 * percentage / 100.0) as u64), percentage: None, ..self }
            }
            answer => {
                let dir = dir.display();
                tracing::warn!(%dir, ?answer, "the disk's size is not known; retention by its percentage waits");
                self
            }
        }
    }
}

/// What retention looks at of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<I> {
    pub(super) id: I,
    /// The millisecond after its last one.
    pub(super) max_time: i64,
    pub(super) bytes: u64,
}

/// Which of `blocks` go. `other_bytes` are the log's and the head's.
pub(super) fn expired<I: Copy>(mut blocks: Vec<Kept<I>>, other_bytes: u64, retention: Retention) -> Vec<I> {
    // Newest first; stable, so that which of two equals goes first does not change from call to call.
    blocks.sort_by_key(|block| std::cmp::Reverse(block.max_time));
    let newest = blocks.first().map_or(0, |block| block.max_time);
    let beyond_time =
        |block: &Kept<I>| retention.time.is_some_and(|time| newest.saturating_sub(block.max_time) >= time);
    let mut bytes = other_bytes;
    let mut beyond_bytes = |block: &Kept<I>| {
        bytes = bytes.saturating_add(block.bytes);
        retention.bytes.is_some_and(|limit| bytes > limit)
    };
    // Once one goes, all older ones do: no holes in the middle of history. The newest never goes for its age.
    let first = blocks.iter().enumerate().position(|(i, block)| {
        let (too_large, too_old) = (beyond_bytes(block), i > 0 && beyond_time(block));
        too_large || too_old
    });
    blocks.split_off(first.unwrap_or(blocks.len())).into_iter().map(|block| block.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(ends: &[i64]) -> Vec<Kept<i64>> {
        ends.iter().map(|end| Kept { id: *end, max_time: *end, bytes: 10 }).collect()
    }

    #[test]
    fn nothing_expires_without_limits() {
        assert!(expired(blocks(&[1, 2, 3]), 1 << 60, Retention::default()).is_empty());
    }

    #[test]
    fn age_counts_from_the_newest_block() {
        let retention = Retention { time: Some(100), ..Retention::default() };
        assert_eq!(expired(blocks(&[1000, 1100, 1101, 1200]), 0, retention), [1100, 1000]);
        assert!(expired(blocks(&[1000]), 0, Retention { time: Some(0), ..Retention::default() }).is_empty());
    }

    #[test]
    fn size_counts_the_log_and_takes_the_oldest() {
        let retention = Retention { bytes: Some(25), ..Retention::default() };
        assert_eq!(expired(blocks(&[3, 1, 2]), 0, retention), [1]);
        assert_eq!(expired(blocks(&[3, 1, 2]), 6, retention), [2, 1]);
        assert_eq!(expired(blocks(&[3, 1, 2]), 16, retention), [3, 2, 1]);
    }

    #[test]
    fn a_part_of_the_disk_counts_before_bytes() {
        let (env, machine) = crate::fs::Env::simulated(1);
        let root = Path::new("/");
        let retention = Retention { percentage: Some(12.5), bytes: Some(1), ..Retention::default() };
        machine.set_capacity(Some(1000));
        assert_eq!(retention.in_bytes(&*env.fs, root).bytes, Some(125));
        machine.fail_when(|_| Some(std::io::ErrorKind::Unsupported));
        assert_eq!(retention.in_bytes(&*env.fs, root).bytes, Some(1));
    }
}
