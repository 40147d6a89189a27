//! Numbers of varying width inside a chunk: a run of ones says how wide.
//!
//! ```text
//! 0           0              11110     12 bits
//! 10          3 bits         111110    18 bits
//! 110         6 bits         1111110   25 bits
//! 1110        9 bits         11111110  56 bits
//!                            11111111  64 bits
//! ```
//!
//! Signed numbers are two's complement of that width, except that the most negative pattern is the largest value.

use super::xor::{fits, widen};
use crate::codec::{BitReader, BitWriter};

/// Widths by the number of ones before them.
const WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// The run of ones for `class`, the zero behind it included, and its length.
#[inline]
fn prefix(class: u32) -> (u64, u32) {
    if class == 8 { (0xff, 8) } else { ((1 << (class + 1)) - 2, class + 1) }
}

#[inline]
fn write(writer: &mut BitWriter, value: u64, class: u32, width: u32) {
    let (ones, len) = prefix(class);
    if len + width <= 64 {
        writer.bits(ones << width | value & ((1 << width) - 1), len + width);
    } else {
        writer.bits(ones, len);
        writer.bits(value, width);
    }
}

/// Appends a signed number.
#[inline]
pub(super) fn write_int(writer: &mut BitWriter, value: i64) {
    if value == 0 {
        return writer.bits(0, 1);
    }
    for (class, width) in (0..).zip(WIDTHS).skip(1) {
        if width == 64 || fits(value, width) {
            return write(writer, value.cast_unsigned(), class, width);
        }
    }
}

/// Appends an unsigned number.
#[inline]
pub(super) fn write_uint(writer: &mut BitWriter, value: u64) {
    for (class, width) in (0..).zip(WIDTHS) {
        if width == 64 || value >> width == 0 {
            return write(writer, value, class, width);
        }
    }
}

/// Reads a signed number.
#[inline]
pub(super) fn read_int(reader: &mut BitReader<'_>) -> i64 {
    match width(reader) {
        0 => 0,
        64 => reader.bits(64).cast_signed(),
        width => widen(reader.bits(width), width),
    }
}

/// Reads an unsigned number.
#[inline]
pub(super) fn read_uint(reader: &mut BitReader<'_>) -> u64 {
    let width = width(reader);
    reader.bits(width)
}

#[inline]
fn width(reader: &mut BitReader<'_>) -> u32 {
    WIDTHS.get(reader.ones(8) as usize).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits_of_int(value: i64) -> usize {
        let mut writer = BitWriter::default();
        write_int(&mut writer, value);
        writer.bit(true);
        // The marker bit is the last one that is set.
        writer.len() * 8 - writer.to_vec().last().unwrap().trailing_zeros() as usize - 1
    }

    #[test]
    fn each_width_ends_where_prometheus_ends_it() {
        for (value, bits) in [
            (0, 1),
            (1, 5),
            (-3, 5),
            (4, 5),
            (-4, 9),
            (32, 9),
            (-32, 13),
            (256, 13),
            (-256, 17),
            (2048, 17),
            (131_072, 24),
            (-131_072, 32),
            (16_777_216, 32),
            (16_777_217, 64),
            (36_028_797_018_963_968, 64),
            (-36_028_797_018_963_968, 72),
            (i64::MIN, 72),
        ] {
            assert_eq!(bits_of_int(value), bits, "{value}");
        }
    }

    proptest! {
        #[test]
        fn numbers_read_back(signed: i64, unsigned: u64, shift in 0_u32..64, lead in 0_u32..8) {
            let (signed, unsigned) = (signed >> shift, unsigned >> shift);
            let mut writer = BitWriter::default();
            writer.bits(0, lead);
            write_int(&mut writer, signed);
            write_uint(&mut writer, unsigned);
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes, 0);
            reader.bits(lead);
            prop_assert_eq!(read_int(&mut reader), signed);
            prop_assert_eq!(read_uint(&mut reader), unsigned);
            prop_assert!(reader.check().is_ok());
        }
    }
}
