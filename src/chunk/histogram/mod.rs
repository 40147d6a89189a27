//! Encodings 2, 3, 5 and 6: native histograms, all of a chunk's with the same buckets.
//!
//! ```text
//! 2, 3   count 2 bytes | flags 1 byte: the two highest bits tell of counter resets
//! 5, 6   counter reset 2 bits, count 14 bits | 1 byte, see `start_time`
//! layout         zero threshold | varbit schema | positive spans | negative spans | custom bounds
//! first sample   varbit t | count | zero count | 64 bits sum | positive buckets | negative buckets | start
//! others         varbit delta of deltas of t | changes of the same fields | start
//!
//! integers (2, 5)   varbit; the sum XORed like a float; other samples' fields as deltas of deltas;
//!                   a bucket's number is its count minus that of the bucket before
//! floats   (3, 6)   64 bits; other samples' fields XORed, each with a window of its own
//! ```
//!
//! Buckets that a chunk does not have yet make it be written anew with more of them, all zero so far ("recoded"). A
//! counter reset, another resolution or other bounds start a new chunk, whose header says what is known of the step
//! between the two. A stale marker is a sum with the stale NaN; nothing is stored for the buckets then, and only stale
//! markers can follow it in the chunk.

mod appender;
mod iter;
mod kind;
mod layout;
mod spans;

pub use appender::{Appended, Appender};
pub use iter::HistogramIter;
pub use kind::{Floats, Integers, Kind};

use super::Encoding;
use crate::model::{CounterResetHint, Native as _, Value};

/// Appends native histograms with integer counts to a chunk.
pub type HistogramAppender = Appender<Integers>;
/// Appends native histograms with float counts to a chunk.
pub type FloatHistogramAppender = Appender<Floats>;

/// Bytes before the layout.
const HEADER: usize = 3;

/// The counter reset bits of a chunk's header: whether the counter was reset between the chunk before and this one, or
/// that it is a gauge. `None` for a chunk of floats or without a header.
#[must_use]
pub fn counter_reset(encoding: Encoding, data: &[u8]) -> Option<CounterResetHint> {
    let &[first, _, third] = data.first_chunk::<HEADER>()?;
    let bits = match encoding {
        Encoding::Histogram | Encoding::FloatHistogram => third,
        Encoding::HistogramSt | Encoding::FloatHistogramSt => first,
        Encoding::Xor | Encoding::Xor2 => return None,
    };
    Some(match bits >> 6 {
        0b10 => CounterResetHint::CounterReset,
        0b01 => CounterResetHint::NotCounterReset,
        0b11 => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    })
}

/// The two bits, leftmost in their byte.
fn reset_bits(hint: CounterResetHint) -> u8 {
    match hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::CounterReset => 0b1000_0000,
        CounterResetHint::NotCounterReset => 0b0100_0000,
        CounterResetHint::Gauge => 0b1100_0000,
    }
}

/// Whether an appender would take `value`: a histogram has as many buckets as its spans say, unless it is a stale marker.
pub(super) fn is_consistent(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::Histogram(histogram) => histogram.parts().is_consistent(),
        Value::FloatHistogram(histogram) => histogram.parts().is_consistent(),
    }
}
