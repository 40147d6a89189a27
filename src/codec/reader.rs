//! Reading a byte slice front to back, for every decoder in the crate.
//!
//! ```text
//! uvarint   7 bits a byte, least significant group first, high bit = "more follows"; at most 10 bytes
//! varint    zigzag: 0, -1, 1, -2 … become 0, 1, 2, 3 …, then as uvarint
//! be_u32    4 bytes, most significant first; Prometheus's fixed-width numbers are all of this kind
//! ```
//!
//! Bytes come from disks and strangers, so a [`Reader`] never panics and never trusts a length: each read says
//! *where* it failed and what it was reading, because "unexpected end" without an offset cannot be acted on.

/// Why a read failed. `offset` counts bytes from the start of the slice the reader was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The slice ended inside the value.
    #[error("{what} at offset {offset}: needs {needed} bytes, {left} left")]
    Short {
        /// The value's kind, e.g. `"be_u32"`.
        what: &'static str,
        /// Where the value begins.
        offset: usize,
        /// Bytes that the value takes.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A uvarint that does not fit 64 bits.
    #[error("uvarint at offset {offset}: more than 64 bits")]
    Overflow {
        /// Where the value begins.
        offset: usize,
    },
}

/// A position in a byte slice. Cheap to copy: copying is how to look ahead.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the slice's first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Takes `len` bytes as they are.
    ///
    /// # Errors
    /// [`ReadError::Short`]; nothing is consumed then.
    pub fn bytes(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], ReadError> {
        let short = ReadError::Short { what, offset: self.offset, needed: len, left: self.rest.len() };
        let (head, tail) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = tail;
        self.offset += len;
        Ok(head)
    }

    /// What is not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ReadError> {
        let mut word = [0; N];
        word.copy_from_slice(self.bytes(what, N)?);
        Ok(word)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array::<1>("u8").map(|[byte]| byte)
    }

    /// Takes a big-endian 16-bit number.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn be_u16(&mut self) -> Result<u16, ReadError> {
        self.array("be_u16").map(u16::from_be_bytes)
    }

    /// Takes a big-endian 32-bit number.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn be_u32(&mut self) -> Result<u32, ReadError> {
        self.array("be_u32").map(u32::from_be_bytes)
    }

    /// Takes a big-endian 64-bit number.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn be_u64(&mut self) -> Result<u64, ReadError> {
        self.array("be_u64").map(u64::from_be_bytes)
    }

    /// Takes a float, stored as the big-endian 64-bit number of its bits.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn be_f64(&mut self) -> Result<f64, ReadError> {
        self.array("be_f64").map(|word| f64::from_bits(u64::from_be_bytes(word)))
    }

    /// Takes a little-endian 64-bit number, protobuf's `fixed64` and `double`.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn le_u64(&mut self) -> Result<u64, ReadError> {
        self.array("le_u64").map(u64::from_le_bytes)
    }

    /// Takes bytes that stand behind their length, a uvarint.
    ///
    /// # Errors
    /// As [`Reader::uvarint`] and [`Reader::bytes`]; nothing is consumed then.
    pub fn uvarint_bytes(&mut self, what: &'static str) -> Result<&'a [u8], ReadError> {
        let mut ahead = *self;
        let len = ahead.uvarint()?;
        // A length past usize cannot be there either; saturating keeps the error's arithmetic honest.
        let bytes = ahead.bytes(what, usize::try_from(len).unwrap_or(usize::MAX))?;
        *self = ahead;
        Ok(bytes)
    }

    /// Takes a uvarint.
    ///
    /// # Errors
    /// [`ReadError::Short`], or [`ReadError::Overflow`] past 64 bits. Go's `binary.Uvarint` answers 0 with a negative
    /// length for the latter; a caller that forgets to look at the length reads zeros, which is why this is an error.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u64, ReadError> {
        // Nearly all varints in an index are one byte long, or two.
        if let Some((&byte, rest)) = self.rest.split_first() {
            if byte < 0x80 {
                self.rest = rest;
                self.offset += 1;
                return Ok(u64::from(byte));
            }
            if let Some((&second, rest)) = rest.split_first()
                && second < 0x80
            {
                self.rest = rest;
                self.offset += 2;
                return Ok(u64::from(byte & 0x7f) | u64::from(second) << 7);
            }
        }
        self.long_uvarint()
    }

    fn long_uvarint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().enumerate() {
            // The tenth byte carries bit 63 alone: anything above 1 would be shifted out unseen.
            if index == 9 && byte > 1 {
                return Err(ReadError::Overflow { offset: self.offset });
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.bytes("uvarint", index + 1)?;
                return Ok(value);
            }
        }
        let left = self.rest.len();
        Err(ReadError::Short { what: "uvarint", offset: self.offset, needed: left + 1, left })
    }

    /// Takes a zigzag varint.
    ///
    /// # Errors
    /// As [`Reader::uvarint`].
    pub fn varint(&mut self) -> Result<i64, ReadError> {
        let zigzag = self.uvarint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::super::put_uvarint;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_read_says_where_and_consumes_nothing() {
        let mut reader = Reader::new(&[0, 0, 1]);
        let expected = ReadError::Short { what: "be_u32", offset: 0, needed: 4, left: 3 };
        assert_eq!(reader.be_u32(), Err(expected));
        assert_eq!(reader.offset(), 0);
        assert_eq!(expected.to_string(), "be_u32 at offset 0: needs 4 bytes, 3 left");
    }

    #[test]
    fn the_tenth_byte_may_only_carry_the_last_bit() {
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&largest).uvarint(), Ok(u64::MAX));
        let over = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Reader::new(&over).uvarint(), Err(ReadError::Overflow { offset: 0 }));
    }

    proptest! {
        #[test]
        fn every_uvarint_reads_back_and_leaves_what_follows(value: u64, tail in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = Vec::new();
            put_uvarint(&mut bytes, value);
            let length = bytes.len();
            bytes.extend(&tail);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.uvarint(), Ok(value));
            prop_assert_eq!(reader.offset(), length);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut reader = Reader::new(&bytes);
            while reader.varint().is_ok() {}
        }
    }
}
