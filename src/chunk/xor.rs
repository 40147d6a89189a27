//! Encoding 1: floats, times as deltas of deltas, values XORed with the one before.
//!
//! ```text
//! count   2 bytes
//! first   varint t | 64 bits value
//! second  uvarint t - t₀ | value change
//! others  delta of deltas | value change
//!
//! delta of deltas   0 | 10 14 bits | 110 17 bits | 1110 20 bits | 1111 64 bits
//! value change      0: none
//!                   10, then the bits inside the last window
//!                   11, 5 bits of leading zeros, 6 bits of length (64 is 0), then the bits inside this new window
//! ```
//!
//! A window leaves out the zeros at both ends of the XOR of two values. Narrow deltas are two's complement, except that
//! the most negative pattern stands for the largest value: 14 bits hold -8191 to 8192.

use std::hint::select_unpredictable;

use bytes::Bytes;

use super::progress::Progress;
use super::{ChunkError, EncodedChunk, Encoding};
use crate::codec::{BitReader, BitWriter, PutBits};

/// Bytes before the first sample.
pub(crate) const HEADER: usize = 2;

/// The part of a value's XOR that is stored: `leading` zeros before it, `trailing` behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) leading: u8,
    pub(super) trailing: u8,
}

impl Default for Window {
    fn default() -> Self {
        Self::NONE
    }
}

impl Window {
    /// No window was written yet. A reader takes it for the whole 64 bits, since Prometheus writes into a window that
    /// it never announced after it has taken up a chunk again.
    pub(super) const NONE: Self = Self { leading: 0xff, trailing: 0 };

    /// The window that fits `xor`, which is not 0. Only 31 leading zeros fit the five bits for them.
    #[inline]
    pub(super) fn around(xor: u64) -> Self {
        Self { leading: xor.leading_zeros().min(31) as u8, trailing: xor.trailing_zeros() as u8 }
    }

    #[inline]
    pub(super) fn holds(self, inner: Self) -> bool {
        // NONE has more leading zeros than any.
        inner.leading >= self.leading && inner.trailing >= self.trailing
    }

    /// Bits inside.
    #[inline]
    pub(super) fn len(self) -> u32 {
        if self == Self::NONE { 64 } else { 64 - u32::from(self.leading) - u32::from(self.trailing) }
    }
}

/// Appends how a value differs from the one before: `xor` of their bits, behind `prefix` of `prefix_len` bits.
#[inline]
pub(super) fn write_xor(writer: &mut impl PutBits, window: &mut Window, xor: u64, prefix: u64, prefix_len: u32) {
    if xor == 0 {
        writer.bits(prefix << 1, prefix_len + 1);
        return;
    }
    // Whether the last window will do is a coin toss for many series: both answers are computed and one is chosen, since a
    // branch guessed wrong costs more than the rest of an append.
    let fits = Window::around(xor);
    let reuse = window.holds(fits);
    let announced = 0b11 << 11 | u64::from(fits.leading) << 6 | u64::from(fits.len() & 63);
    let (head, head_len) = select_unpredictable(reuse, (0b10, 2), (announced, 13));
    *window = select_unpredictable(reuse, *window, fits);
    let (head, head_len) = (prefix << head_len | head, prefix_len + head_len);
    let len = 64 - u32::from(window.leading) - u32::from(window.trailing);
    let inside = xor >> window.trailing;
    if head_len + len <= 64 {
        // `len` is at most 62 here.
        writer.bits(head << len | inside, head_len + len);
    } else {
        writer.bits(head, head_len);
        writer.bits(inside, len);
    }
}

/// Reads what [`write_xor`] wrote, without the prefix. `None` is a window of more than 64 bits.
#[inline]
pub(super) fn read_xor(reader: &mut BitReader<'_>, window: &mut Window) -> Option<u64> {
    match reader.ones(2) {
        0 => return Some(0),
        1 => {}
        _ => *window = read_window(reader)?,
    }
    Some(reader.bits(window.len()) << window.trailing)
}

/// Reads the eleven bits that announce a window. `None` if it has more than 64 bits.
#[inline]
pub(super) fn read_window(reader: &mut BitReader<'_>) -> Option<Window> {
    let head = reader.bits(11) as u32;
    let leading = head >> 6;
    let len = if head & 63 == 0 { 64 } else { head & 63 };
    let trailing = 64_u32.checked_sub(leading + len)?;
    Some(Window { leading: leading as u8, trailing: trailing as u8 })
}

/// Whether `value` fits a field of `bits` bits, the most negative pattern being the largest value.
#[inline]
pub(super) fn fits(value: i64, bits: u32) -> bool {
    let half = 1_i64 << (bits - 1);
    -half < value && value <= half
}

/// The number in a field of `bits` bits; undoes what [`fits`] asks.
#[inline]
pub(super) fn widen(field: u64, bits: u32) -> i64 {
    let above = field > 1 << (bits - 1);
    field.cast_signed() - (i64::from(above) << bits)
}

/// What an open chunk must know to go on, beside the time of its last sample and the place where its bits go. Small, since
/// one lives in each series of the head.
#[derive(Debug, Clone)]
pub(crate) struct XorState {
    t_delta: u64,
    value: u64,
    count: u16,
    window: Window,
}

impl XorState {
    /// An empty chunk's.
    pub(crate) const NEW: Self = Self { t_delta: 0, value: 0, count: 0, window: Window::NONE };

    /// How a chunk that was written before goes on: that, the time of its last sample, and how many bits it has, its header
    /// included.
    ///
    /// # Errors
    /// As reading it.
    pub(crate) fn resume(data: &[u8]) -> Result<(Self, i64, usize), ChunkError> {
        let mut iter = XorIter::new(data);
        for sample in &mut iter {
            sample?;
        }
        let state = Self { t_delta: iter.t_delta, value: iter.value, count: iter.progress.count, window: iter.window };
        Ok((state, iter.t, iter.reader.position()))
    }

    /// Appends a sample to `out`, which has the chunk's bits but its header; the last one's time was `before`.
    ///
    /// # Errors
    /// [`ChunkError::Full`] at [`XorAppender::CAPACITY`].
    #[inline]
    pub(crate) fn append(&mut self, before: i64, t: i64, value: f64, out: &mut impl PutBits) -> Result<(), ChunkError> {
        let value = value.to_bits();
        let xor = value ^ self.value;
        let delta = t.wrapping_sub(before).cast_unsigned();
        match self.count {
            0 => {
                out.varint(t);
                out.bits(value, 64);
                self.count = 1;
                self.value = value;
                return Ok(());
            }
            1 => {
                out.uvarint(delta);
                write_xor(out, &mut self.window, xor, 0, 0);
            }
            u16::MAX => return Err(ChunkError::Full(XorAppender::CAPACITY)),
            _ => {
                let dod = delta.wrapping_sub(self.t_delta).cast_signed();
                let (prefix, len) = if dod == 0 { (0, 1) } else { write_dod(dod, out) };
                write_xor(out, &mut self.window, xor, prefix, len);
            }
        }
        self.count += 1;
        (self.t_delta, self.value) = (delta, value);
        Ok(())
    }

    /// Samples so far.
    #[inline]
    pub(crate) fn sample_count(&self) -> u16 {
        self.count
    }

    /// The last sample's value, if there is one.
    pub(crate) fn last_value(&self) -> Option<f64> {
        (self.count > 0).then_some(f64::from_bits(self.value))
    }
}

/// The bits for a change of the delta; 64 of them are written at once.
#[inline]
fn write_dod(dod: i64, out: &mut impl PutBits) -> (u64, u32) {
    let field = |bits: u32| dod.cast_unsigned() & ((1 << bits) - 1);
    if fits(dod, 14) {
        (0b10 << 14 | field(14), 16)
    } else if fits(dod, 17) {
        (0b110 << 17 | field(17), 20)
    } else if fits(dod, 20) {
        (0b1110 << 20 | field(20), 24)
    } else {
        out.bits(0b1111, 4);
        out.bits(dod.cast_unsigned(), 64);
        (0, 0)
    }
}

/// An open chunk of floats.
#[derive(Debug, Clone)]
pub struct XorAppender {
    t: i64,
    state: XorState,
    writer: BitWriter,
}

impl Default for XorAppender {
    fn default() -> Self {
        Self::new()
    }
}

impl XorAppender {
    /// The most samples that the header can count.
    pub const CAPACITY: usize = u16::MAX as usize;

    /// An empty chunk.
    #[must_use]
    pub fn new() -> Self {
        Self { t: 0, state: XorState::NEW, writer: BitWriter::default() }
    }

    /// Goes on with a chunk that was written before.
    ///
    /// # Errors
    /// As reading it.
    pub fn resume(data: &[u8]) -> Result<Self, ChunkError> {
        let (state, t, bits) = XorState::resume(data)?;
        let empty = state.count == 0;
        Ok(Self { t, state, writer: if empty { BitWriter::default() } else { BitWriter::resume(data.to_vec(), bits) } })
    }

    /// Appends a sample. Times are expected to rise; any other are stored as well, at more bits.
    ///
    /// # Errors
    /// [`ChunkError::Full`] at [`CAPACITY`](Self::CAPACITY).
    #[inline]
    pub fn append(&mut self, t: i64, value: f64) -> Result<(), ChunkError> {
        if self.state.count == 0 {
            self.writer = BitWriter::with_header(HEADER);
        }
        self.state.append(self.t, t, value, &mut self.writer)?;
        self.t = t;
        Ok(())
    }

    /// Samples so far.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        usize::from(self.state.count)
    }

    /// Bytes of the chunk so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.writer.len().max(HEADER)
    }

    /// Bytes of memory held beside the appender itself.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.writer.capacity()
    }

    /// The time of the last sample, if there is one.
    #[must_use]
    pub fn last(&self) -> Option<(i64, f64)> {
        self.state.last_value().map(|value| (self.t, value))
    }

    /// The chunk as it is now: valid at any time. The count is kept beside the bytes and put in here, so that an append
    /// touches the end of the chunk alone.
    pub fn as_bytes(&mut self) -> &[u8] {
        if self.state.count == 0 {
            return &[0; HEADER];
        }
        let bytes = self.writer.as_mut_bytes();
        put_count(bytes, self.state.count);
        bytes
    }

    /// A copy of the chunk as it is now.
    #[must_use]
    pub fn to_chunk(&self) -> EncodedChunk {
        let mut data = self.writer.to_vec();
        data.resize(data.len().max(HEADER), 0);
        put_count(&mut data, self.state.count);
        EncodedChunk { encoding: Encoding::Xor, data: data.into() }
    }

    /// Takes the chunk out, in exactly as much memory as it needs, and leaves an empty one.
    #[must_use]
    pub fn take(&mut self) -> EncodedChunk {
        let chunk = EncodedChunk { encoding: Encoding::Xor, data: Bytes::copy_from_slice(self.as_bytes()) };
        *self = Self::new();
        chunk
    }
}

fn put_count(data: &mut [u8], count: u16) {
    if let Some(header) = data.first_chunk_mut() {
        *header = count.to_be_bytes();
    }
}

/// The samples of an XOR chunk one by one. [`super::decode_floats`] is several times faster where all are wanted.
#[derive(Debug, Clone)]
pub struct XorIter<'a> {
    reader: BitReader<'a>,
    t: i64,
    t_delta: u64,
    value: u64,
    progress: Progress,
    window: Window,
}

impl<'a> XorIter<'a> {
    /// Starts before the first sample. A missing header is reported by the first `next`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        let header = data.first_chunk::<HEADER>().map(|count| u16::from_be_bytes(*count));
        Self {
            reader: BitReader::new(data, HEADER),
            t: 0,
            t_delta: 0,
            value: 0,
            progress: Progress::new(Encoding::Xor, header, data.len()),
            window: Window::NONE,
        }
    }

    fn step(&mut self) -> Result<(), &'static str> {
        match self.progress.read {
            0 => {
                self.t = self.reader.varint().ok_or(VARINT)?;
                self.value = self.reader.bits(64);
                return Ok(());
            }
            1 => self.t_delta = self.reader.uvarint().ok_or(VARINT)?,
            _ => self.t_delta = self.t_delta.wrapping_add(read_dod(&mut self.reader).cast_unsigned()),
        }
        self.t = self.t.wrapping_add(self.t_delta.cast_signed());
        self.value ^= read_xor(&mut self.reader, &mut self.window).ok_or(WIDE)?;
        Ok(())
    }
}

pub(super) const WIDE: &str = "a window of more than 64 bits";
pub(super) const VARINT: &str = "a varint of more than 64 bits";

#[inline]
fn read_dod(reader: &mut BitReader<'_>) -> i64 {
    let bits = match reader.ones(4) {
        0 => return 0,
        1 => 14,
        2 => 17,
        3 => 20,
        _ => return reader.bits(64).cast_signed(),
    };
    widen(reader.bits(bits), bits)
}

impl Iterator for XorIter<'_> {
    type Item = Result<(i64, f64), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.progress.begin()? {
            return Some(Err(error));
        }
        let step = self.step();
        Some(self.progress.end(&self.reader, step).map(|()| (self.t, f64::from_bits(self.value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back() {
        let samples = [(1000, 1.5), (2000, 1.5), (3000, 2.5), (4001, f64::NAN), (5_000_000_000_000, -0.0)];
        let mut appender = XorAppender::new();
        for (t, v) in samples {
            appender.append(t, v).unwrap();
        }
        let chunk = appender.to_chunk();
        assert_eq!(chunk.data, appender.as_bytes());
        let read: Vec<_> = XorIter::new(&chunk.data).map(Result::unwrap).map(|(t, v)| (t, v.to_bits())).collect();
        assert_eq!(read, samples.map(|(t, v)| (t, v.to_bits())));
    }
}
