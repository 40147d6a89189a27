//! Appending values to a byte vector: what [`Reader`](super::Reader) reads back.

/// Appends `value` as a uvarint: seven bits a byte, least significant group first.
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as a zigzag varint.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

/// Appends a big-endian 16-bit number.
pub fn put_be_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a big-endian 32-bit number.
pub fn put_be_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a big-endian 64-bit number.
pub fn put_be_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a float as the big-endian 64-bit number of its bits.
pub fn put_be_f64(out: &mut Vec<u8>, value: f64) {
    put_be_u64(out, value.to_bits());
}

/// Appends `bytes` behind their length as a uvarint.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that [`put_uvarint`] takes for `value`: 1 to 10.
#[must_use]
pub fn uvarint_len(value: u64) -> usize {
    // One byte for each started group of seven bits; zero still takes one.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_reads_back(unsigned: u64, signed: i64, float: f64, word: u32, half: u16, tail: Vec<u8>) {
            let mut bytes = Vec::new();
            put_uvarint(&mut bytes, unsigned);
            prop_assert_eq!(bytes.len(), uvarint_len(unsigned));
            put_varint(&mut bytes, signed);
            put_be_f64(&mut bytes, float);
            put_be_u32(&mut bytes, word);
            put_be_u16(&mut bytes, half);
            put_bytes(&mut bytes, &tail);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.uvarint(), Ok(unsigned));
            prop_assert_eq!(reader.varint(), Ok(signed));
            prop_assert_eq!(reader.be_f64().map(f64::to_bits), Ok(float.to_bits()));
            prop_assert_eq!(reader.be_u32(), Ok(word));
            prop_assert_eq!(reader.be_u16(), Ok(half));
            prop_assert_eq!(reader.uvarint_bytes("tail"), Ok(tail.as_slice()));
            prop_assert!(reader.is_empty());
        }
    }
}
