//! Bytes and bits: the only room that does byte arithmetic.
//!
//! Everything that lies in a Prometheus or Thanos file is made of a few shapes: varints, big-endian numbers, bit streams
//! and CRC-32C sums. They are read with [`Reader`], which never panics and says where it failed, and written with the
//! `put_*` functions, which undo it.

#![warn(clippy::indexing_slicing)]

mod bits;
mod crc;
mod hash;
mod put;
mod reader;

pub(crate) use bits::push_bits;
pub use bits::{BitReader, BitWriter, OutOfBits, PutBits};
pub use crc::{Crc32c, crc32c};
pub use hash::{FixedMap, FixedSet};
pub use put::{put_be_f64, put_be_u16, put_be_u32, put_be_u64, put_bytes, put_uvarint, put_varint, uvarint_len};
pub use reader::{ReadError, Reader};
