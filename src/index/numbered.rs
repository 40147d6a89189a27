//! Series by numbers instead of texts.

use std::fmt;

use super::SeriesId;

/// Series in label order, each as the numbers of its label pairs.
///
/// A source that has its labels like this is written without looking at a text more than once: numbers are compared,
/// counted and sorted instead.
pub trait NumberedSeries: fmt::Debug + Send + Sync {
    /// Every string that is a name or a value of a pair, and the empty one, ascending, each once.
    fn symbols(&self) -> Vec<&str>;

    /// The label pairs, ascending by name, then by value. A pair's number is its place here, from 0. There may be more
    /// than the series use.
    fn pairs(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_>;

    /// The series at a place in label order, with the numbers of its pairs, ascending; nothing behind the last.
    fn series(&self, index: usize) -> Option<(SeriesId, &[u32])>;
}
