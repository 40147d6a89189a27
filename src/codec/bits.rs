//! Bit streams, most significant bit first: what chunks are made of.
//!
//! A chunk is read once front to back and written once, so both ends keep a 64-bit word and touch memory in words.
//! Reading past the end gives zero bits and is remembered: a decoder of many small fields asks [`BitReader::check`] once
//! a sample instead of testing every field. That cannot run away, since every length in these formats is bounded by the
//! caller against [`BitReader::bits_left`].

/// A field reached past the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bits end at bit {bit_offset}, inside a value")]
pub struct OutOfBits {
    /// Where the bits end, counted from the start of the slice the reader was made from.
    pub bit_offset: usize,
}

/// A position in a bit stream.
#[derive(Debug, Clone, Copy)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next byte that is not in `word` as a whole.
    next: usize,
    /// The bits ahead, left-aligned. After a refill all 64 are the stream's, though only `valid` are accounted for: the
    /// next refill ORs the same bits again, which changes nothing.
    word: u64,
    valid: u32,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of the byte at `offset`; [`position`](Self::position) counts from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, next: offset, word: 0, valid: 0 }
    }

    /// Makes at least 56 bits valid, and all 64 true.
    #[inline]
    fn refill(&mut self) {
        self.word |= word_at(self.bytes, self.next) >> self.valid;
        self.next += ((63 - self.valid) >> 3) as usize;
        self.valid |= 56;
    }

    #[inline]
    fn consume(&mut self, count: u32) {
        self.word <<= count;
        self.valid -= count;
    }

    /// The next bit.
    #[inline]
    pub fn bit(&mut self) -> bool {
        if self.valid == 0 {
            self.refill();
        }
        let bit = self.word >> 63 == 1;
        self.consume(1);
        bit
    }

    /// The next `count` bits as a number; at most 64.
    #[inline]
    pub fn bits(&mut self, count: u32) -> u64 {
        if count > 56 {
            let high = self.bits(32);
            return high << (count - 32) | self.bits(count - 32);
        }
        if count == 0 {
            return 0;
        }
        if self.valid < count {
            self.refill();
        }
        let bits = self.word >> (64 - count);
        self.consume(count);
        bits
    }

    /// How many one bits come first, `limit` at most; they and the zero that ends them (if not `limit`) are taken.
    #[inline]
    pub fn ones(&mut self, limit: u32) -> u32 {
        if self.valid < limit {
            self.refill();
        }
        let ones = self.word.leading_ones().min(limit);
        self.consume((ones + 1).min(limit));
        ones
    }

    /// A uvarint that begins at any bit. Past 64 bits it is cut off, as a chunk's reader in Go would fail there: `None`.
    pub fn uvarint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.bits(8);
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag varint that begins at any bit; `None` past 64 bits.
    pub fn varint(&mut self) -> Option<i64> {
        let zigzag = self.uvarint()?;
        Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Bits before the next one, from the start of the slice. Larger than the slice if a read reached past its end.
    #[inline]
    #[must_use]
    pub fn position(&self) -> usize {
        self.next * 8 - self.valid as usize
    }

    /// Bits that are still there; 0 past the end.
    #[must_use]
    pub fn bits_left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.position())
    }

    /// Whether everything read so far was there.
    ///
    /// # Errors
    /// [`OutOfBits`] once a read has reached past the end.
    #[inline]
    pub fn check(&self) -> Result<(), OutOfBits> {
        let end = self.bytes.len() * 8;
        if self.position() <= end { Ok(()) } else { Err(OutOfBits { bit_offset: end }) }
    }
}

/// The 64 bits from the byte at `offset` on, zeros past the end.
#[inline]
fn word_at(bytes: &[u8], offset: usize) -> u64 {
    match bytes.get(offset..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_be_bytes(*word),
        None => last_word(bytes, offset),
    }
}

/// The same where fewer than eight bytes are left. Not rare: an idle series has a quarter of its samples there.
#[inline(never)]
fn last_word(bytes: &[u8], offset: usize) -> u64 {
    if let (Some(word), missing @ ..8) = (bytes.last_chunk(), (offset + 8).saturating_sub(bytes.len())) {
        return u64::from_be_bytes(*word) << (missing * 8);
    }
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    u64::from_be_bytes(word)
}

/// Bytes that a writer with a header begins with. The first two samples of a series take some twenty.
const FIRST: usize = 32;

/// Something that bits are appended to.
pub trait PutBits {
    /// Appends the low `count` bits of `value`, 64 at most; higher bits are ignored.
    fn bits(&mut self, value: u64, count: u32);

    /// Appends a uvarint at any bit.
    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bits(value | 0x80, 8);
            value >>= 7;
        }
        self.bits(value, 8);
    }

    /// Appends a zigzag varint at any bit.
    fn varint(&mut self, value: i64) {
        self.uvarint((value << 1 ^ value >> 63).cast_unsigned());
    }
}

/// Puts the low `count` bits of `value`, 64 at most, behind the `pending_bits` leftmost of `pending`, fewer than 64; the
/// others are 0. Gives a word when one is full.
#[inline]
pub(crate) fn push_bits(pending: &mut u64, pending_bits: &mut u8, value: u64, count: u32) -> Option<u64> {
    if count == 0 {
        return None;
    }
    let value = value << (64 - count);
    let before = u32::from(*pending_bits);
    let word = *pending | value >> before;
    let bits = before + count;
    if bits < 64 {
        *pending = word;
        *pending_bits = bits as u8;
        return None;
    }
    // All of a shift by 64 would be left out, which the processor does not do.
    *pending = if bits == 64 { 0 } else { value << (64 - before) };
    *pending_bits = (bits - 64) as u8;
    Some(word)
}

/// Bits appended to bytes.
///
/// The last bits stay in the writer until they are a word of 64, so only every few samples one goes to the bytes. With
/// many chunks open, their ends are in no cache, and memory is what an append would wait for.
#[derive(Debug, Clone, Default)]
pub struct BitWriter {
    /// The first `len` are what is written as whole words behind what the writer began with; the others are room.
    bytes: Box<[u8]>,
    /// The bits that are in no word yet, leftmost; the others are 0.
    pending: u64,
    len: u32,
    /// How many bits are pending, 0 to 63.
    pending_bits: u8,
}

impl PutBits for BitWriter {
    #[inline]
    fn bits(&mut self, value: u64, count: u32) {
        BitWriter::bits(self, value, count);
    }
}

impl BitWriter {
    /// Continues after the last of `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u32;
        Self { bytes: bytes.into_boxed_slice(), pending: 0, len, pending_bits: 0 }
    }

    /// Begins with `len` zero bytes, to be set in the end.
    #[must_use]
    pub fn with_header(len: usize) -> Self {
        let bytes = vec![0; FIRST.max(len)].into_boxed_slice();
        Self { bytes, pending: 0, len: len as u32, pending_bits: 0 }
    }

    /// Continues after the first `bits` bits of `bytes`; what follows them is cut off.
    #[must_use]
    pub fn resume(mut bytes: Vec<u8>, bits: usize) -> Self {
        bytes.truncate(bits.div_ceil(8));
        let pending_bits = (bits.min(bytes.len() * 8) % 8) as u8;
        let mut pending = 0;
        if pending_bits > 0
            && let Some(last) = bytes.pop()
        {
            pending = u64::from(last & !(0xff >> pending_bits)) << 56;
        }
        Self { pending, pending_bits, ..Self::new(bytes) }
    }

    #[inline]
    fn word(&mut self, word: u64) {
        let len = self.len as usize;
        if self.bytes.len() < len + 8 {
            self.grow();
        }
        // Its length known to the compiler, it is one store.
        if let Some(end) = self.bytes.get_mut(len..).and_then(<[u8]>::first_chunk_mut) {
            *end = word.to_be_bytes();
        }
        self.len = len as u32 + 8;
    }

    /// The pending bits as bytes, the last one filled up with zeros.
    fn pending_bytes(&self) -> ([u8; 8], usize) {
        (self.pending.to_be_bytes(), usize::from(self.pending_bits).div_ceil(8))
    }

    /// Few sizes: a million series have a million of these open, and mostly grow at the same time, so what an allocator
    /// keeps for a size that most have left is lost. Half of a power of two apart from 128 on; below, powers of two.
    #[cold]
    fn grow(&mut self) {
        let wanted = self.len as usize + 8;
        let power = wanted.next_power_of_two();
        let wanted = if power > 128 { wanted.next_multiple_of(power / 4) } else { power.max(FIRST) };
        let mut grown = Vec::with_capacity(wanted);
        grown.extend_from_slice(&self.bytes);
        grown.resize(wanted, 0);
        self.bytes = grown.into_boxed_slice();
    }

    /// Appends one bit.
    #[inline]
    pub fn bit(&mut self, bit: bool) {
        self.bits(u64::from(bit), 1);
    }

    /// Appends the low `count` bits of `value`, 64 at most; higher bits are ignored.
    #[inline]
    pub fn bits(&mut self, value: u64, count: u32) {
        if let Some(word) = push_bits(&mut self.pending, &mut self.pending_bits, value, count) {
            self.word(word);
        }
    }

    /// Appends a uvarint at any bit.
    pub fn uvarint(&mut self, value: u64) {
        PutBits::uvarint(self, value);
    }

    /// Appends a zigzag varint at any bit.
    pub fn varint(&mut self, value: i64) {
        PutBits::varint(self, value);
    }

    /// Bytes written, one that is not full included.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize + usize::from(self.pending_bits).div_ceil(8)
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is written, the last byte filled up with zeros. It may be changed where a header was left room for.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        let (pending, len) = self.pending_bytes();
        let (start, end) = (self.len as usize, self.len as usize + len);
        if self.bytes.len() < end {
            self.grow();
        }
        if let (Some(room), Some(pending)) = (self.bytes.get_mut(start..end), pending.get(..len)) {
            // Behind the whole words, where the word that these bits become will stand.
            room.copy_from_slice(pending);
        }
        self.bytes.get_mut(..end).unwrap_or_default()
    }

    /// A copy of what is written, the last byte filled up with zeros.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(self.bytes.get(..self.len as usize).unwrap_or_default());
        let (pending, len) = self.pending_bytes();
        bytes.extend(pending.iter().take(len));
        bytes
    }

    /// Bytes of memory held, used or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, the last one filled up with zeros.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        let len = self.as_mut_bytes().len();
        let mut bytes = self.bytes.into_vec();
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields() -> impl Strategy<Value = Vec<(u64, u32)>> {
        prop::collection::vec((any::<u64>(), 0_u32..=64), 0..60)
    }

    fn low(value: u64, count: u32) -> u64 {
        if count == 0 { 0 } else { value << (64 - count) >> (64 - count) }
    }

    #[test]
    fn a_read_past_the_end_gives_zeros_and_is_remembered() {
        let mut reader = BitReader::new(&[0xff], 0);
        assert_eq!(reader.bits(4), 0xf);
        assert_eq!(reader.check(), Ok(()));
        assert_eq!(reader.bits(64), 0xf << 60);
        assert_eq!(reader.check(), Err(OutOfBits { bit_offset: 8 }));
        assert_eq!(reader.bits_left(), 0);
    }

    #[test]
    fn ones_stop_at_their_limit() {
        let mut reader = BitReader::new(&[0b1101_1111], 0);
        assert_eq!(reader.ones(4), 2);
        assert_eq!(reader.ones(4), 4);
        assert_eq!(reader.position(), 7);
    }

    #[test]
    fn a_varint_of_more_than_64_bits_is_none() {
        assert_eq!(BitReader::new(&[0xff; 16], 0).uvarint(), None);
    }

    proptest! {
        #[test]
        fn every_field_reads_back(fields in fields()) {
            let mut writer = BitWriter::new(vec![7]);
            let mut model = String::new();
            for &(value, count) in &fields {
                writer.bits(value, count);
                if count > 0 {
                    model += &format!("{:0width$b}", low(value, count), width = count as usize);
                }
            }
            let bytes = writer.into_bytes();
            prop_assert_eq!(bytes.len(), 1 + model.len().div_ceil(8));
            let text: String = bytes[1..].iter().map(|byte| format!("{byte:08b}")).collect();
            prop_assert_eq!(&text[..model.len()], model.as_str());
            prop_assert!(text[model.len()..].bytes().all(|bit| bit == b'0'));
            let mut reader = BitReader::new(&bytes, 1);
            for &(value, count) in &fields {
                prop_assert_eq!(reader.bits(count), low(value, count));
            }
            prop_assert_eq!(reader.position(), 8 + model.len());
            prop_assert_eq!(reader.check(), Ok(()));
        }

        #[test]
        fn writing_goes_on_where_it_stopped(before in fields(), after in fields(), junk in prop::collection::vec(any::<u8>(), 0..3)) {
            let mut whole = BitWriter::default();
            let mut bits = 0;
            for &(value, count) in &before {
                whole.bits(value, count);
                bits += count as usize;
            }
            let mut stored = whole.to_vec();
            stored.extend(junk);
            let mut resumed = BitWriter::resume(stored, bits);
            for &(value, count) in &after {
                whole.bits(value, count);
                resumed.bits(value, count);
            }
            prop_assert_eq!(whole.len(), whole.to_vec().len());
            prop_assert_eq!(whole.as_mut_bytes(), resumed.as_mut_bytes());
            prop_assert_eq!(whole.to_vec(), whole.into_bytes());
        }

        #[test]
        fn varints_read_back_at_any_bit(lead in 0_u32..8, value: i64, other: u64) {
            let mut writer = BitWriter::default();
            writer.bits(0, lead);
            writer.varint(value);
            writer.uvarint(other);
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes, 0);
            reader.bits(lead);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert_eq!(reader.uvarint(), Some(other));
        }

        #[test]
        fn single_bits_are_the_bits_of_the_bytes(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut reader = BitReader::new(&bytes, 0);
            for (index, byte) in bytes.iter().enumerate() {
                for bit in 0..8 {
                    prop_assert_eq!(reader.position(), index * 8 + bit);
                    prop_assert_eq!(reader.bit(), byte >> (7 - bit) & 1 == 1);
                }
            }
            prop_assert_eq!(reader.bits_left(), 0);
        }
    }
}
