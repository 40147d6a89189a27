//! Whole chunks of encoding 1 into columns, two at a time.
//!
//! Where a sample begins is known only when the one before it is read, and a processor that waits for that does nothing
//! most of the time. Two chunks have nothing to do with each other: they are read in turn, a sample of this one, a sample
//! of that one, and one's waiting is the other's work.
//!
//! Nothing is checked on the way. A chunk is copied to where there is room for any that Prometheus writes, and places
//! count modulo that room. Whatever is read behind the chunk's end is no sample, and one look at where the reading has
//! ended tells; if that is too far, [`XorIter`] is asked what is wrong, where.

use std::hint::select_unpredictable;

use super::xor::{HEADER, XorIter, widen};
use super::{ChunkError, EncodedChunk, Encoding, FloatColumns, decode_floats, sample_count};

/// Bytes of a chunk that are read here, at most: a power of two. The head ends its chunks at 1,024.
const LONGEST: usize = 2048;

/// A chunk, and room to read a word from its last byte.
type Room = [u8; LONGEST + 8];

/// Decodes chunk after chunk in the same memory.
#[derive(Debug, Clone)]
pub struct FloatDecoder {
    rooms: Box<[Room; 2]>,
}

impl Default for FloatDecoder {
    fn default() -> Self {
        Self { rooms: Box::new([[0; LONGEST + 8]; 2]) }
    }
}

impl FloatDecoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a whole chunk of floats, of whichever encoding, and appends its samples to `out`.
    ///
    /// # Errors
    /// As [`decode_floats`].
    pub fn decode(&mut self, chunk: &EncodedChunk, out: &mut FloatColumns) -> Result<(), ChunkError> {
        let EncodedChunk { encoding, data } = chunk;
        let [room, _] = &mut *self.rooms;
        if *encoding == Encoding::Xor { decode_one(room, data, out) } else { decode_floats(*encoding, data, out) }
    }

    /// Decodes two chunks of floats, `first` before `second`: faster than one after the other.
    ///
    /// # Errors
    /// As [`decode_floats`], for the first chunk that it has an error for; `out` is as before then.
    pub fn decode_two(
        &mut self,
        first: &EncodedChunk,
        second: &EncodedChunk,
        out: &mut FloatColumns,
    ) -> Result<(), ChunkError> {
        let fits = |chunk: &EncodedChunk| chunk.encoding == Encoding::Xor && chunk.data.len() <= LONGEST;
        if fits(first) && fits(second) {
            let [a, b] = &mut *self.rooms;
            let outcome = appending(out, |out| decode_both([a, b], [&first.data, &second.data], out));
            if outcome.is_ok() {
                return outcome;
            }
        }
        // What is wrong is to be told of the first of them if it is in both.
        let (before, starts) = (out.t.len(), out.st.len());
        self.decode(first, out)?;
        self.decode(second, out).inspect_err(|_| {
            out.t.truncate(before);
            out.v.truncate(before);
            out.st.truncate(starts);
        })
    }
}

/// Decodes all samples of a chunk of encoding 1 into `out`.
pub(super) fn decode(data: &[u8], out: &mut FloatColumns) -> Result<(), ChunkError> {
    decode_one(&mut [0; LONGEST + 8], data, out)
}

fn decode_one(room: &mut Room, data: &[u8], out: &mut FloatColumns) -> Result<(), ChunkError> {
    appending(out, |out| {
        let before = out.t.len();
        let Some(place) = room.get_mut(..data.len()).filter(|place| place.len() <= LONGEST) else {
            for sample in XorIter::new(data) {
                let (t, v) = sample?;
                out.t.push(t);
                out.v.push(v);
            }
            return Ok(());
        };
        place.copy_from_slice(data);
        let count = sample_count(Encoding::Xor, data)?;
        out.t.resize(before + count, 0);
        out.v.resize(before + count, 0.0);
        let to = (out.t.get_mut(before..).unwrap_or_default(), out.v.get_mut(before..).unwrap_or_default());
        let Some((mut lane, to)) = Lane::begin(room, to) else { return find_error(data) };
        lane.read_all(room, to);
        lane.check(data)
    })
}

fn decode_both(rooms: [&mut Room; 2], data: [&[u8]; 2], out: &mut FloatColumns) -> Result<(), ChunkError> {
    let before = out.t.len();
    let [first, second] = data;
    let (count, others) = (sample_count(Encoding::Xor, first)?, sample_count(Encoding::Xor, second)?);
    out.t.resize(before + count + others, 0);
    out.v.resize(before + count + others, 0.0);
    let (Some(t), Some(v)) = (out.t.get_mut(before..), out.v.get_mut(before..)) else { return Ok(()) };
    let ((ta, tb), (va, vb)) = (t.split_at_mut(count), v.split_at_mut(count));
    let [room_a, room_b] = rooms.map(|room| &mut *room);
    for (room, data) in [(&mut *room_a, first), (&mut *room_b, second)] {
        if let Some(place) = room.get_mut(..data.len()) {
            place.copy_from_slice(data);
        }
    }
    let Some((mut a, to_a)) = Lane::begin(room_a, (ta, va)) else { return find_error(first) };
    let Some((mut b, to_b)) = Lane::begin(room_b, (tb, vb)) else { return find_error(second) };
    let both = to_a.0.len().min(to_b.0.len());
    let ((ta, rest_ta), (va, rest_va)) = (to_a.0.split_at_mut(both), to_a.1.split_at_mut(both));
    let ((tb, rest_tb), (vb, rest_vb)) = (to_b.0.split_at_mut(both), to_b.1.split_at_mut(both));
    read_both(&mut a, room_a, (ta, va), &mut b, room_b, (tb, vb));
    a.read_all(room_a, (rest_ta, rest_va));
    b.read_all(room_b, (rest_tb, rest_vb));
    a.check(first)?;
    b.check(second)
}

/// Leaves `out` as it was if `append` fails, and its start timestamps as many as the others if not.
fn appending(
    out: &mut FloatColumns,
    append: impl FnOnce(&mut FloatColumns) -> Result<(), ChunkError>,
) -> Result<(), ChunkError> {
    let before = out.t.len();
    let outcome = append(out);
    if outcome.is_err() {
        out.t.truncate(before);
        out.v.truncate(before);
    } else if !out.st.is_empty() {
        out.st.resize(out.t.len(), 0);
    }
    outcome
}

/// Where samples go: times and values, equally many.
type To<'a> = (&'a mut [i64], &'a mut [f64]);

/// Samples that differ in neither value nor delta are looked for so many at a time: two zero bits each.
const RUN: usize = 8;
/// What a sample begins with whose delta is the last one's and whose value is another.
const CHANGED: u64 = 0b01 << 62;

/// Reads as many samples of each as there is place for in both.
#[inline(never)]
fn read_both(a: &mut Lane, room_a: &Room, to_a: To<'_>, b: &mut Lane, room_b: &Room, to_b: To<'_>) {
    // Copies that no pointer leads to stay in registers.
    let (mut lane_a, mut lane_b) = (*a, *b);
    let (times_a, times_b) = (to_a.0, to_b.0);
    let mut to = to_a.1.iter_mut().zip(to_b.1).enumerate();
    while let Some((index, (to_a, to_b))) = to.next() {
        let (word_a, word_b) = (lane_a.ahead(room_a), lane_b.ahead(room_b));
        if ((word_a ^ CHANGED) | (word_b ^ CHANGED)) >> 62 == 0 {
            lane_a.change(room_a, word_a);
            lane_b.change(room_b, word_b);
        } else if (word_a | word_b) >> (64 - 2 * RUN) == 0 {
            let (value_a, value_b) = (f64::from_bits(lane_a.value), f64::from_bits(lane_b.value));
            (*to_a, *to_b) = (value_a, value_b);
            let mut run = 1;
            for (_, (to_a, to_b)) in to.by_ref().take(RUN - 1) {
                (*to_a, *to_b) = (value_a, value_b);
                run += 1;
            }
            lane_a.position += 2 * run;
            lane_b.position += 2 * run;
            continue;
        } else {
            lane_a.read(room_a, word_a, times_a, index);
            lane_b.read(room_b, word_b, times_b, index);
        }
        (*to_a, *to_b) = (f64::from_bits(lane_a.value), f64::from_bits(lane_b.value));
    }
    lane_a.end(times_a);
    lane_b.end(times_b);
    (*a, *b) = (lane_a, lane_b);
}

/// A chunk that is being read.
///
/// Times are written when the delta changes, all that have the same at once: in most chunks it hardly ever does.
#[derive(Debug, Clone, Copy)]
struct Lane {
    /// The time of the last sample that was written.
    t: i64,
    delta: i64,
    /// Where the next time is written.
    written: usize,
    value: u64,
    /// The next bit.
    position: usize,
    /// Bits of the window, less one.
    len_less_one: u32,
    trailing: u32,
    /// The top bit is set once a window had more than 64 bits.
    wide: u32,
}

impl Lane {
    /// Reads the first two samples, which are not as the others; gives where those go. `None`: something is wrong.
    fn begin<'a>(room: &Room, to: To<'a>) -> Option<(Self, To<'a>)> {
        let mut lane =
            Self { t: 0, delta: 0, written: 0, value: 0, position: 0, len_less_one: 63, trailing: 0, wide: 0 };
        let (Some((to_t, times)), Some((to_v, values))) = (to.0.split_first_mut(), to.1.split_first_mut()) else {
            return Some((lane, (&mut [], &mut [])));
        };
        let (t, at) = uvarint(room, HEADER)?;
        lane.t = (t >> 1).cast_signed() ^ -(t & 1).cast_signed();
        lane.value = word_at(room, at * 8);
        lane.position = (at + 8) * 8;
        (*to_t, *to_v) = (lane.t, f64::from_bits(lane.value));
        let (Some((to_t, times)), Some((to_v, values))) = (times.split_first_mut(), values.split_first_mut()) else {
            return Some((lane, (&mut [], &mut [])));
        };
        let (delta, at) = uvarint(room, at + 8)?;
        lane.delta = delta.cast_signed();
        lane.t = lane.t.wrapping_add(lane.delta);
        // As if a single zero bit had told the delta.
        lane.position = at * 8 - 1;
        let word = peek(room, at * 8) >> 1;
        lane.value_of(room, word);
        (*to_t, *to_v) = (lane.t, f64::from_bits(lane.value));
        Some((lane, (times, values)))
    }

    /// What lies ahead, 57 bits at least, left-aligned.
    #[inline(always)]
    fn ahead(&self, room: &Room) -> u64 {
        peek(room, self.position)
    }

    /// Reads a sample that begins with [`CHANGED`].
    #[inline(always)]
    fn change(&mut self, room: &Room, word: u64) {
        // Whether the window is new is a coin toss for many series, so both are computed and one is chosen.
        let is_new = word >> 61 & 1 == 1;
        let announced = (word >> 50) as u32;
        let len_less_one = announced.wrapping_sub(1) & 63;
        let trailing = (63 - len_less_one).wrapping_sub(announced >> 6 & 31);
        self.len_less_one = select_unpredictable(is_new, len_less_one, self.len_less_one);
        self.trailing = select_unpredictable(is_new, trailing, self.trailing);
        self.position += select_unpredictable(is_new, 14, 3);
        self.wide |= self.trailing;
        let inside = if self.len_less_one < 57 { self.ahead(room) } else { peek_all(room, self.position) };
        self.value ^= inside.wrapping_shr(63 - self.len_less_one).wrapping_shl(self.trailing);
        self.position += self.len_less_one as usize + 1;
    }

    /// Reads any sample; `index` is its place.
    #[inline(always)]
    fn read(&mut self, room: &Room, mut word: u64, times: &mut [i64], index: usize) {
        if word >> 63 == 1 {
            let (change, len) = if word >> 62 == 0b10 {
                (widen(word << 2 >> 50, 14), 16)
            } else {
                long_change(room, self.position, word)
            };
            self.write_times(times, index);
            self.delta = self.delta.wrapping_add(change);
            // As if a single zero bit had told the delta.
            self.position += len - 1;
            word = peek(room, self.position + 1) >> 1;
        }
        self.value_of(room, word);
    }

    /// Reads a sample that begins with a zero bit.
    #[inline(always)]
    fn value_of(&mut self, room: &Room, word: u64) {
        if word >> 62 == 0 { self.position += 2 } else { self.change(room, word) }
    }

    /// Writes the times before `end`.
    #[inline(always)]
    fn write_times(&mut self, times: &mut [i64], end: usize) {
        let (mut t, delta) = (self.t, self.delta);
        for to in times.get_mut(self.written..end).unwrap_or_default() {
            t = t.wrapping_add(delta);
            *to = t;
        }
        (self.t, self.written) = (t, end);
    }

    /// Writes the times that are left.
    fn end(&mut self, times: &mut [i64]) {
        self.write_times(times, times.len());
        self.written = 0;
    }

    /// Reads as many samples as there is place for.
    #[inline(never)]
    fn read_all(&mut self, room: &Room, to: To<'_>) {
        let (times, values) = to;
        let mut lane = *self;
        let mut to = values.iter_mut().enumerate();
        while let Some((index, to_v)) = to.next() {
            let word = lane.ahead(room);
            if word >> (64 - 2 * RUN) == 0 {
                let value = f64::from_bits(lane.value);
                *to_v = value;
                let mut run = 1;
                for (_, to_v) in to.by_ref().take(RUN - 1) {
                    *to_v = value;
                    run += 1;
                }
                lane.position += 2 * run;
                continue;
            }
            lane.read(room, word, times, index);
            *to_v = f64::from_bits(lane.value);
        }
        lane.end(times);
        *self = lane;
    }

    /// Whether all that was read was there.
    fn check(&self, data: &[u8]) -> Result<(), ChunkError> {
        if self.wide >> 31 == 1 || self.position > data.len() * 8 { find_error(data) } else { Ok(()) }
    }
}

/// What is wrong with a chunk.
#[cold]
fn find_error(data: &[u8]) -> Result<(), ChunkError> {
    XorIter::new(data).find_map(Result::err).map_or(Ok(()), Err)
}

/// The uvarint at a byte, and the byte behind it; `None` past 64 bits.
#[inline]
fn uvarint(room: &Room, at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, &byte) in room.get(at..at + 10)?.iter().enumerate() {
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, at + index + 1));
        }
    }
    None
}

/// A change of the delta that does not fit 14 bits, and how many bits it takes with its prefix. Apart, so that reading
/// the others needs no place for what this needs.
#[cold]
#[inline(never)]
fn long_change(room: &Room, position: usize, word: u64) -> (i64, usize) {
    match word >> 60 {
        0b1111 => (peek_all(room, position + 4).cast_signed(), 68),
        0b1110 => (widen(word << 4 >> 44, 20), 24),
        _ => (widen(word << 3 >> 47, 17), 20),
    }
}

/// The word at a bit's byte.
#[inline(always)]
fn word_at(room: &Room, position: usize) -> u64 {
    let at = position >> 3 & (LONGEST - 1);
    room.get(at..at + 8).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_be_bytes(*word))
}

/// At least 57 bits from `position` on, left-aligned.
#[inline(always)]
fn peek(room: &Room, position: usize) -> u64 {
    word_at(room, position) << (position & 7)
}

/// 64 bits from `position` on.
#[inline(always)]
fn peek_all(room: &Room, position: usize) -> u64 {
    peek(room, position) | word_at(room, position + 8) >> (8 - (position & 7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Xor2Appender, XorAppender};
    use proptest::prelude::*;

    /// Samples of every width of a change of the delta and every kind of a change of the value; many that change nothing.
    fn chunks() -> impl Strategy<Value = EncodedChunk> {
        let delta =
            prop_oneof![6 => Just(15_000), 2 => 14_000..16_000_i64, 1 => -70_000..70_000_i64, 1 => any::<i64>()];
        let value = prop_oneof![3 => Just(None), 3 => (0..50_i32).prop_map(|v| Some(f64::from(v))), 1 => any::<f64>().prop_map(Some)];
        let samples = prop::collection::vec((delta, value), 0..300);
        (samples, 0..4_u8, prop::option::weighted(0.2, 0..40_usize)).prop_map(|(samples, kind, cut)| {
            let (mut xor, mut xor2) = (XorAppender::new(), Xor2Appender::new());
            let (mut t, mut last) = (1_700_000_000_000_i64, 0.0);
            for (delta, value) in samples {
                t = t.wrapping_add(delta);
                last = value.unwrap_or(last);
                xor.append(t, last).unwrap();
                xor2.append(t.wrapping_sub(5), t, last).unwrap();
            }
            let mut chunk = if kind == 0 { xor2.to_chunk() } else { xor.to_chunk() };
            if let Some(cut) = cut {
                chunk.data.truncate(chunk.data.len().saturating_sub(cut));
            }
            chunk
        })
    }

    fn one_by_one(chunk: &EncodedChunk) -> Result<Vec<(i64, i64, u64)>, ChunkError> {
        let bits = |sample: crate::model::Sample| match sample.value {
            crate::model::Value::Float(v) => (sample.t, sample.st, v.to_bits()),
            _ => (0, 0, 0),
        };
        crate::chunk::samples(chunk.encoding, &chunk.data).map(|sample| sample.map(bits)).collect()
    }

    proptest! {
        #[test]
        fn two_chunks_at_once_are_what_they_are_one_after_the_other(first in chunks(), second in chunks(), with_st: bool) {
            let before = FloatColumns { t: vec![7], v: vec![7.0], st: if with_st { vec![1] } else { Vec::new() } };
            let mut columns = before.clone();
            let outcome = FloatDecoder::new().decode_two(&first, &second, &mut columns);
            match one_by_one(&first).and_then(|mut all| { all.extend(one_by_one(&second)?); Ok(all) }) {
                Ok(all) => {
                    prop_assert_eq!(outcome, Ok(()));
                    let found: Vec<_> = (1..columns.t.len())
                        .map(|n| (columns.t[n], columns.st.get(n).copied().unwrap_or(0), columns.v[n].to_bits()))
                        .collect();
                    prop_assert_eq!(found, all);
                    prop_assert_eq!(columns.v.len(), columns.t.len());
                    prop_assert!(columns.st.is_empty() || columns.st.len() == columns.t.len());
                }
                Err(error) => {
                    prop_assert_eq!(outcome, Err(error));
                    prop_assert_eq!(columns, before);
                }
            }
        }

        #[test]
        fn junk_beside_a_chunk_is_told_from_it(junk in prop::collection::vec(any::<u8>(), 0..200), whole in chunks()) {
            let junk = EncodedChunk { encoding: Encoding::Xor, data: junk.into() };
            for (first, second) in [(&junk, &whole), (&whole, &junk), (&junk, &junk)] {
                let mut columns = FloatColumns::default();
                let outcome = FloatDecoder::new().decode_two(first, second, &mut columns);
                let expected = one_by_one(first).and_then(|all| Ok(all.len() + one_by_one(second)?.len()));
                prop_assert_eq!(outcome.map(|()| columns.t.len()), expected);
            }
        }
    }

    #[test]
    fn a_chunk_longer_than_the_head_makes_them_is_read_all_the_same() {
        let mut appender = XorAppender::new();
        for n in 0..2000 {
            appender.append(n * 7 + n % 3, (n as f64).sqrt()).unwrap();
        }
        let chunk = appender.to_chunk();
        assert!(chunk.data.len() > LONGEST);
        let mut columns = FloatColumns::default();
        FloatDecoder::new().decode_two(&chunk, &chunk, &mut columns).unwrap();
        assert_eq!(columns.t.len(), 4000);
        assert_eq!(columns.v[3999].to_bits(), 1999_f64.sqrt().to_bits());
    }
}
