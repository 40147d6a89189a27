//! Encoding 4: floats like encoding 1 with a joint code for time and value, a code for stale markers, and optional start
//! timestamps.
//!
//! ```text
//! count   2 bytes
//! header  1 byte, see `start_time`
//! first   varint t | 64 bits value | start
//! second  uvarint t - t₀ | value change | start
//! others  0                        delta of deltas 0, value unchanged | start
//!         10     value inside      delta of deltas 0                  | start
//!         110    13 bits, value change                                | start
//!         1110   20 bits, value change                                | start
//!         11110  64 bits, value change                                | start
//!         11111                    delta of deltas 0, stale marker    | start
//!
//! value change   0 none | 10 inside the last window | 110 a new window | 111 stale marker
//! value inside   0 inside the last window | 1 a new window
//! ```
//!
//! Here narrow deltas are plain two's complement. A stale marker leaves the value that the next one is XORed with alone.

use bytes::Bytes;

use super::progress::Progress;
use super::start_time::StartTime;
use super::xor::{VARINT, WIDE, Window, read_window};
use super::{ChunkError, EncodedChunk, Encoding, FloatColumns};
use crate::codec::{BitReader, BitWriter};
use crate::model::STALE_NAN_BITS;

/// Bytes before the first sample.
const HEADER: usize = 3;

/// An open chunk of floats with start timestamps.
#[derive(Debug, Clone)]
pub struct Xor2Appender {
    writer: BitWriter,
    t: i64,
    t_delta: u64,
    /// The last value that was no stale marker.
    base: u64,
    start: StartTime,
    window: Window,
    count: u16,
}

impl Default for Xor2Appender {
    fn default() -> Self {
        Self::new()
    }
}

impl Xor2Appender {
    /// The most samples that the header can count.
    pub const CAPACITY: usize = u16::MAX as usize;

    /// An empty chunk.
    #[must_use]
    pub fn new() -> Self {
        Self {
            writer: BitWriter::with_header(HEADER),
            t: 0,
            t_delta: 0,
            base: 0,
            start: StartTime::default(),
            window: Window::NONE,
            count: 0,
        }
    }

    /// Goes on with a chunk that was written before.
    ///
    /// # Errors
    /// As reading it.
    pub fn resume(data: &[u8]) -> Result<Self, ChunkError> {
        let mut iter = Xor2Iter::new(data);
        for sample in &mut iter {
            sample?;
        }
        if iter.progress.count == 0 {
            return Ok(Self::new());
        }
        Ok(Self {
            writer: BitWriter::resume(data.to_vec(), iter.reader.position()),
            t: iter.t,
            t_delta: iter.t_delta,
            base: iter.base,
            start: iter.start,
            window: iter.window,
            count: iter.progress.count,
        })
    }

    /// Appends a sample; `st` is 0 where the start is unknown.
    ///
    /// # Errors
    /// [`ChunkError::Full`] at [`CAPACITY`](Self::CAPACITY).
    pub fn append(&mut self, st: i64, t: i64, value: f64) -> Result<(), ChunkError> {
        let value = value.to_bits();
        let delta = t.wrapping_sub(self.t).cast_unsigned();
        match self.count {
            u16::MAX => return Err(ChunkError::Full(Self::CAPACITY)),
            0 => {
                self.writer.varint(t);
                self.writer.bits(value, 64);
            }
            1 => {
                self.writer.uvarint(delta);
                self.write_change(value);
            }
            _ => self.write_joint(delta.wrapping_sub(self.t_delta).cast_signed(), value),
        }
        self.start.write(&mut self.writer, usize::from(self.count), self.t, t, st);
        if self.count > 0 {
            self.t_delta = delta;
        }
        if value != STALE_NAN_BITS {
            self.base = value;
        }
        self.t = t;
        self.count += 1;
        Ok(())
    }

    fn write_joint(&mut self, dod: i64, value: u64) {
        let field = |bits: u32| dod.cast_unsigned() & ((1 << bits) - 1);
        match dod {
            0 if value == STALE_NAN_BITS => return self.writer.bits(0b11111, 5),
            0 if value == self.base => return self.writer.bits(0, 1),
            0 => {
                self.writer.bits(0b10, 2);
                return self.write_inside(value ^ self.base, 0, 1);
            }
            -0x1000..=0xfff => self.writer.bits(0b110 << 13 | field(13), 16),
            -0x8_0000..=0x7_ffff => self.writer.bits(0b1110 << 20 | field(20), 24),
            _ => {
                self.writer.bits(0b11110, 5);
                self.writer.bits(dod.cast_unsigned(), 64);
            }
        }
        self.write_change(value);
    }

    fn write_change(&mut self, value: u64) {
        if value == STALE_NAN_BITS {
            self.writer.bits(0b111, 3);
        } else if value == self.base {
            self.writer.bits(0, 1);
        } else {
            self.write_inside(value ^ self.base, 0b10, 2);
        }
    }

    /// Writes the bits inside a window; `reuse` of `len` bits says that it is the last one, `reuse` with a 1 behind it (or
    /// instead of its only bit) that it is new.
    fn write_inside(&mut self, xor: u64, reuse: u64, len: u32) {
        let fits = Window::around(xor);
        if self.window.holds(fits) {
            self.writer.bits(reuse, len);
        } else {
            self.window = fits;
            let (new, len) = if len == 1 { (1, 1) } else { (0b110, 3) };
            let head = new << 11 | u64::from(fits.leading) << 6 | u64::from(fits.len() & 63);
            self.writer.bits(head, len + 11);
        }
        self.writer.bits(xor >> self.window.trailing, self.window.len());
    }

    /// Samples so far.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes of the chunk so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.writer.len()
    }

    /// The chunk as it is now: valid at any time.
    pub fn as_bytes(&mut self) -> &[u8] {
        let bytes = self.writer.as_mut_bytes();
        put_header(bytes, self.count, self.start);
        bytes
    }

    /// A copy of the chunk as it is now.
    #[must_use]
    pub fn to_chunk(&self) -> EncodedChunk {
        let mut data = self.writer.to_vec();
        put_header(&mut data, self.count, self.start);
        EncodedChunk { encoding: Encoding::Xor2, data: data.into() }
    }

    /// Takes the chunk out, in exactly as much memory as it needs, and leaves an empty one.
    #[must_use]
    pub fn take(&mut self) -> EncodedChunk {
        let chunk = EncodedChunk { encoding: Encoding::Xor2, data: Bytes::copy_from_slice(self.as_bytes()) };
        *self = Self::new();
        chunk
    }
}

fn put_header(data: &mut [u8], count: u16, start: StartTime) {
    if let Some(header) = data.first_chunk_mut::<HEADER>() {
        let [high, low] = count.to_be_bytes();
        *header = [high, low, start.header()];
    }
}

/// The samples of an XOR2 chunk one by one: start timestamp, time, value.
#[derive(Debug, Clone)]
pub struct Xor2Iter<'a> {
    reader: BitReader<'a>,
    t: i64,
    t_delta: u64,
    base: u64,
    value: u64,
    start: StartTime,
    window: Window,
    progress: Progress,
}

impl<'a> Xor2Iter<'a> {
    /// Starts before the first sample. A missing header is reported by the first `next`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        let header = data.first_chunk::<HEADER>().copied();
        let [high, low, start] = header.unwrap_or_default();
        Self {
            reader: BitReader::new(data, HEADER),
            t: 0,
            t_delta: 0,
            base: 0,
            value: 0,
            start: StartTime::from_header(start),
            window: Window::NONE,
            progress: Progress::new(Encoding::Xor2, header.map(|_| u16::from_be_bytes([high, low])), data.len()),
        }
    }

    fn step(&mut self) -> Result<(), &'static str> {
        let t_before = self.t;
        match self.progress.read {
            0 => {
                self.t = self.reader.varint().ok_or(VARINT)?;
                self.value = self.reader.bits(64);
                if self.value != STALE_NAN_BITS {
                    self.base = self.value;
                }
            }
            1 => {
                self.t_delta = self.reader.uvarint().ok_or(VARINT)?;
                self.t = self.t.wrapping_add(self.t_delta.cast_signed());
                self.read_change()?;
            }
            _ => self.read_joint()?,
        }
        self.start.read(&mut self.reader, usize::from(self.progress.read), t_before, self.t).ok_or(VARINT)
    }

    fn read_joint(&mut self) -> Result<(), &'static str> {
        let ones = self.reader.ones(5);
        let width = match ones {
            2 => 13,
            3 => 20,
            4 => 64,
            _ => 0,
        };
        if width > 0 {
            let dod = (self.reader.bits(width) << (64 - width)).cast_signed() >> (64 - width);
            self.t_delta = self.t_delta.wrapping_add(dod.cast_unsigned());
        }
        self.t = self.t.wrapping_add(self.t_delta.cast_signed());
        match ones {
            0 => self.value = self.base,
            1 => {
                if self.reader.bit() {
                    self.window = read_window(&mut self.reader).ok_or(WIDE)?;
                }
                self.read_inside();
            }
            5 => self.value = STALE_NAN_BITS,
            _ => self.read_change()?,
        }
        Ok(())
    }

    fn read_change(&mut self) -> Result<(), &'static str> {
        match self.reader.ones(3) {
            0 => self.value = self.base,
            1 => self.read_inside(),
            2 => {
                self.window = read_window(&mut self.reader).ok_or(WIDE)?;
                self.read_inside();
            }
            _ => self.value = STALE_NAN_BITS,
        }
        Ok(())
    }

    /// What comes out becomes the base even if its bits are the stale marker's: no writer writes it so, and Prometheus
    /// reads it so.
    fn read_inside(&mut self) {
        self.base ^= self.reader.bits(self.window.len()) << self.window.trailing;
        self.value = self.base;
    }
}

impl Iterator for Xor2Iter<'_> {
    type Item = Result<(i64, i64, f64), ChunkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.progress.begin()? {
            return Some(Err(error));
        }
        let step = self.step();
        let sample = |()| (self.start.st, self.t, f64::from_bits(self.value));
        Some(self.progress.end(&self.reader, step).map(sample))
    }
}

/// Decodes all samples into `out`.
pub(super) fn decode(data: &[u8], out: &mut FloatColumns) -> Result<(), ChunkError> {
    let before = out.t.len();
    let mut iter = Xor2Iter::new(data);
    let has_st = iter.start.is_used();
    let st_before = out.st.len();
    if has_st || !out.st.is_empty() {
        out.st.resize(before, 0);
    }
    let with_st = has_st || st_before > 0;
    out.t.reserve(usize::from(iter.progress.count));
    out.v.reserve(usize::from(iter.progress.count));
    for sample in &mut iter {
        match sample {
            Ok((st, t, v)) => {
                out.t.push(t);
                out.v.push(v);
                if with_st {
                    out.st.push(st);
                }
            }
            Err(error) => {
                out.t.truncate(before);
                out.v.truncate(before);
                out.st.truncate(st_before);
                return Err(error);
            }
        }
    }
    Ok(())
}
