//! Reading protobuf's wire format, field by field, without a schema compiler and without copying.
//!
//! ```text
//! field   tag (number << 3 | wire type, uvarint), then by wire type:
//!         0 uvarint   1 eight bytes little-endian   2 length (uvarint) and bytes   5 four bytes   3…4 a group, obsolete
//! ```
//!
//! A nested message is a reader over a part of the same bytes, so an offset in an error counts from the start of the
//! outermost message. A message is what its fields say in the order they come: a scalar given twice has its last value.

/// Why a message cannot be read. Offsets count from the start of the outermost message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The message ended inside a value.
    #[error("{field} at offset {offset}: the message ends inside it")]
    Short {
        /// Which field.
        field: &'static str,
        /// Where its value begins.
        offset: usize,
    },
    /// A uvarint that does not fit 64 bits.
    #[error("{field} at offset {offset}: a varint of more than 64 bits")]
    Overflow {
        /// Which field.
        field: &'static str,
        /// Where its value begins.
        offset: usize,
    },
    /// A field number or a wire type that does not exist.
    #[error("{field} at offset {offset}: invalid tag {tag:#x}")]
    Tag {
        /// The message or field that was being read.
        field: &'static str,
        /// Where the tag begins.
        offset: usize,
        /// The tag.
        tag: u64,
    },
    /// A field that is known has another wire type than it must have.
    #[error("{field} at offset {offset}: wire type {found:?}, not the field's own")]
    WrongType {
        /// Which field.
        field: &'static str,
        /// Where its value begins.
        offset: usize,
        /// The wire type that its tag gives.
        found: WireType,
    },
    /// Groups in groups, deeper than anything honest.
    #[error("{field} at offset {offset}: groups nested too deep")]
    Nesting {
        /// The message that was being read.
        field: &'static str,
        /// Where the innermost group begins.
        offset: usize,
    },
}

/// How a field's value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// A uvarint.
    Varint,
    /// Eight bytes, little-endian.
    Fixed64,
    /// A length and that many bytes.
    Bytes,
    /// Begins a group.
    StartGroup,
    /// Ends a group.
    EndGroup,
    /// Four bytes, little-endian.
    Fixed32,
}

/// Groups may nest this deep; as in other implementations.
const DEEPEST_GROUP: usize = 100;

/// A position in a message. Cheap to copy: copying is how to look ahead.
#[derive(Debug, Clone, Copy)]
pub struct ProtoReader<'a> {
    rest: &'a [u8],
    /// The offset of `rest`'s end in the outermost message: the position is this minus what is left.
    end: usize,
}

impl<'a> ProtoReader<'a> {
    /// Starts at the first byte of the outermost message.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message, end: message.len() }
    }

    /// The position in the outermost message.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// Whether everything is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and wire type, or `None` at the message's end. `message` is for the error's text.
    ///
    /// # Errors
    /// [`ProtoError::Tag`] for what no tag can be; a tag that is cut or too long.
    #[inline]
    pub fn field(&mut self, message: &'static str) -> Result<Option<(u32, WireType)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let offset = self.offset();
        let tag = self.varint(message)?;
        let wire = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            _ => return Err(ProtoError::Tag { field: message, offset, tag }),
        };
        match u32::try_from(tag) {
            Ok(small) if small >> 3 != 0 => Ok(Some((small >> 3, wire))),
            _ => Err(ProtoError::Tag { field: message, offset, tag }),
        }
    }

    /// Takes a uvarint, whatever the field's wire type was.
    ///
    /// # Errors
    /// If it is cut or wider than 64 bits.
    #[inline]
    pub fn varint(&mut self, field: &'static str) -> Result<u64, ProtoError> {
        match self.rest.split_first() {
            // Nearly all tags, lengths and enums are one byte.
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(field),
        }
    }

    fn long_varint(&mut self, field: &'static str) -> Result<u64, ProtoError> {
        let offset = self.offset();
        let mut value = 0;
        for (index, &byte) in self.rest.iter().enumerate() {
            // The tenth byte carries bit 63 alone: anything above 1 would be shifted out unseen.
            if index == 9 && byte > 1 {
                return Err(ProtoError::Overflow { field, offset });
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.take(field, index + 1)?;
                return Ok(value);
            }
        }
        Err(ProtoError::Short { field, offset })
    }

    #[inline]
    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], ProtoError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(ProtoError::Short { field, offset: self.offset() })?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    fn expect(&self, field: &'static str, found: WireType, wanted: WireType) -> Result<(), ProtoError> {
        if found == wanted { Ok(()) } else { Err(ProtoError::WrongType { field, offset: self.offset(), found }) }
    }

    /// Takes an integer field (`int32`, `int64`, `uint32`, `uint64`, an enum) as 64 bits.
    ///
    /// # Errors
    /// As [`varint`](Self::varint); or if the wire type is not a varint's.
    #[inline]
    pub fn integer(&mut self, field: &'static str, wire: WireType) -> Result<u64, ProtoError> {
        self.expect(field, wire, WireType::Varint)?;
        self.varint(field)
    }

    /// Takes a `sint32` field.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    #[inline]
    pub fn sint32(&mut self, field: &'static str, wire: WireType) -> Result<i32, ProtoError> {
        // Wider values are cut to their low 32 bits before the sign is unfolded, as every implementation does.
        let zigzag = self.integer(field, wire)? as u32;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Takes a `double` field.
    ///
    /// # Errors
    /// If it is cut, or the wire type is another.
    #[inline]
    pub fn double(&mut self, field: &'static str, wire: WireType) -> Result<f64, ProtoError> {
        self.expect(field, wire, WireType::Fixed64)?;
        self.fixed64(field).map(f64::from_bits)
    }

    #[inline]
    fn fixed64(&mut self, field: &'static str) -> Result<u64, ProtoError> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(field, 8)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Takes a `string` or `bytes` field.
    ///
    /// # Errors
    /// If it is cut, or the wire type is another.
    #[inline]
    pub fn bytes(&mut self, field: &'static str, wire: WireType) -> Result<&'a [u8], ProtoError> {
        self.expect(field, wire, WireType::Bytes)?;
        let len = self.varint(field)?;
        self.take(field, usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Takes a nested message as a reader of its own; its offsets go on counting from the outermost message.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    #[inline]
    pub fn message(&mut self, field: &'static str, wire: WireType) -> Result<Self, ProtoError> {
        let rest = self.bytes(field, wire)?;
        Ok(Self { rest, end: self.offset() })
    }

    /// Takes a `repeated double`, packed or one at a time.
    ///
    /// # Errors
    /// If it is cut, or the wire type fits neither.
    pub fn doubles(&mut self, field: &'static str, wire: WireType, out: &mut Vec<f64>) -> Result<(), ProtoError> {
        if wire != WireType::Bytes {
            out.push(self.double(field, wire)?);
            return Ok(());
        }
        let mut packed = self.message(field, wire)?;
        out.reserve(packed.rest.len() / 8);
        while !packed.is_empty() {
            out.push(f64::from_bits(packed.fixed64(field)?));
        }
        Ok(())
    }

    /// Takes a `repeated sint64`, packed or one at a time.
    ///
    /// # Errors
    /// If it is cut, or the wire type fits neither.
    pub fn sint64s(&mut self, field: &'static str, wire: WireType, out: &mut Vec<i64>) -> Result<(), ProtoError> {
        self.varints(field, wire, |zigzag| out.push((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()))
    }

    /// Takes a `repeated uint32`, packed or one at a time.
    ///
    /// # Errors
    /// If it is cut, or the wire type fits neither.
    pub fn uint32s(&mut self, field: &'static str, wire: WireType, out: &mut Vec<u32>) -> Result<(), ProtoError> {
        self.varints(field, wire, |value| out.push(value as u32))
    }

    fn varints(&mut self, field: &'static str, wire: WireType, mut push: impl FnMut(u64)) -> Result<(), ProtoError> {
        if wire != WireType::Bytes {
            push(self.integer(field, wire)?);
            return Ok(());
        }
        let mut packed = self.message(field, wire)?;
        while !packed.is_empty() {
            push(packed.varint(field)?);
        }
        Ok(())
    }

    /// Passes over the value of a field that nobody asked for.
    ///
    /// # Errors
    /// If it is cut, or is the end of a group that did not begin.
    pub fn skip(&mut self, message: &'static str, number: u32, wire: WireType) -> Result<(), ProtoError> {
        let mut open: Vec<u32> = Vec::new();
        let (mut number, mut wire) = (number, wire);
        loop {
            let offset = self.offset();
            match wire {
                WireType::Varint => {
                    self.varint(message)?;
                }
                WireType::Fixed64 => {
                    self.take(message, 8)?;
                }
                WireType::Bytes => {
                    self.bytes(message, wire)?;
                }
                WireType::Fixed32 => {
                    self.take(message, 4)?;
                }
                WireType::StartGroup if open.len() == DEEPEST_GROUP => {
                    return Err(ProtoError::Nesting { field: message, offset });
                }
                WireType::StartGroup => open.push(number),
                WireType::EndGroup if open.pop() == Some(number) => {}
                WireType::EndGroup => {
                    return Err(ProtoError::Tag { field: message, offset, tag: u64::from(number) << 3 | 4 });
                }
            }
            if open.is_empty() {
                return Ok(());
            }
            (number, wire) = self.field(message)?.ok_or(ProtoError::Short { field: message, offset })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_nested_message_counts_from_the_outermost_start() {
        // Field 1, four bytes: field 2, eight bytes fixed of which two are there.
        let mut outer = ProtoReader::new(&[0x0a, 0x03, 0x11, 0xff, 0xff]);
        let (number, wire) = outer.field("outer").unwrap().unwrap();
        assert_eq!((number, wire), (1, WireType::Bytes));
        let mut inner = outer.message("inner", wire).unwrap();
        let (number, wire) = inner.field("inner").unwrap().unwrap();
        assert_eq!(number, 2);
        let error = inner.double("value", wire).unwrap_err();
        assert_eq!(error, ProtoError::Short { field: "value", offset: 3 });
        assert_eq!(error.to_string(), "value at offset 3: the message ends inside it");
    }

    #[test]
    fn a_group_is_skipped_to_its_own_end() {
        let bytes = [0x0b, 0x13, 0x08, 0x01, 0x14, 0x0c, 0x18, 0x07];
        let mut reader = ProtoReader::new(&bytes);
        let (number, wire) = reader.field("message").unwrap().unwrap();
        reader.skip("message", number, wire).unwrap();
        assert_eq!(reader.field("message"), Ok(Some((3, WireType::Varint))));
    }

    #[test]
    fn a_group_that_never_began_does_not_end() {
        let mut reader = ProtoReader::new(&[0x0c]);
        let (number, wire) = reader.field("message").unwrap().unwrap();
        assert!(matches!(reader.skip("message", number, wire), Err(ProtoError::Tag { .. })));
    }

    #[test]
    fn a_thousand_open_groups_are_refused() {
        let bytes = [0x0b; 1000];
        let mut reader = ProtoReader::new(&bytes);
        let (number, wire) = reader.field("message").unwrap().unwrap();
        assert!(matches!(reader.skip("message", number, wire), Err(ProtoError::Nesting { .. })));
    }

    #[test]
    fn field_number_zero_is_no_field() {
        assert!(matches!(ProtoReader::new(&[0x00]).field("message"), Err(ProtoError::Tag { .. })));
    }
}
