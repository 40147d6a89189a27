//! The bytes of a file of head chunks.

use crate::chunk::{EncodedChunk, Encoding, sample_count};
use crate::codec::{Reader, crc32c, put_be_u32, put_be_u64, put_uvarint};
use crate::model::TimeRange;

const MAGIC: u32 = 0x0130_BC91;
const VERSION: u8 = 1;
/// Bytes before the first chunk.
pub(crate) const HEADER_LEN: u64 = 8;
/// Bytes of a chunk before the length of its data: series, first time, last time, encoding.
const FIXED_LEN: usize = 8 + 8 + 8 + 1;
/// Set in the encoding's byte of a chunk of out-of-order samples.
const OUT_OF_ORDER: u8 = 0x80;

/// What stands before a chunk's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the chunk begins in its file.
    pub(crate) offset: u64,
    /// The series' number in the log.
    pub(crate) series: u64,
    /// From its first to its last sample.
    pub(crate) range: TimeRange,
    /// How the data is to be read.
    pub(crate) encoding: Encoding,
    /// How many samples the data says it has.
    pub(crate) samples: u16,
    /// Whether its samples came out of order.
    pub(crate) out_of_order: bool,
}

/// Where a file stops to be sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Bytes before are sound; 0 if not even the header is.
    pub(crate) sound: u64,
    /// What is wrong behind them.
    pub(crate) reason: String,
}

/// The beginning of a file.
pub(crate) fn put_header(out: &mut Vec<u8>) {
    put_be_u32(out, MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
}

/// Appends a chunk to `out`.
pub(crate) fn put_chunk(out: &mut Vec<u8>, series: u64, range: TimeRange, chunk: &EncodedChunk, out_of_order: bool) {
    let start = out.len();
    put_be_u64(out, series);
    put_be_u64(out, range.min.cast_unsigned());
    put_be_u64(out, range.max.cast_unsigned());
    out.push(chunk.encoding.byte() | if out_of_order { OUT_OF_ORDER } else { 0 });
    put_uvarint(out, chunk.data.len() as u64);
    out.extend_from_slice(&chunk.data);
    let sum = crc32c(out.get(start..).unwrap_or_default());
    put_be_u32(out, sum);
}

/// Bytes that the chunk takes which `bytes` begin with, its sum included; `None` if they are too few to tell.
pub(crate) fn chunk_len(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes.get(FIXED_LEN..)?);
    let len = reader.uvarint().ok()?;
    len.checked_add((FIXED_LEN + reader.offset() + 4) as u64)
}

/// The chunk that `bytes` begin with, checked against its sum: what stands before its data, the data, and what is behind
/// the chunk. Or what is wrong.
#[inline]
pub(crate) fn split_chunk(bytes: &[u8], offset: u64) -> Result<(Found, &[u8], &[u8]), String> {
    let mut reader = Reader::new(bytes);
    let mut parts = || {
        let series = reader.be_u64()?;
        let range = (reader.be_u64()?.cast_signed(), reader.be_u64()?.cast_signed());
        let encoding = reader.u8()?;
        let len = usize::try_from(reader.uvarint()?).unwrap_or(usize::MAX);
        let data = reader.bytes("chunk", len)?;
        let covered = reader.offset();
        Ok((series, range, encoding, data, covered, reader.be_u32()?))
    };
    let (series, (min, max), byte, data, covered, sum) =
        parts().map_err(|error: crate::codec::ReadError| error.to_string())?;
    let actual = crc32c(bytes.get(..covered).unwrap_or_default());
    if actual != sum {
        return Err(format!("chunk's CRC-32C is {actual:08x}, stored {sum:08x}"));
    }
    let encoding = Encoding::from_byte(byte & !OUT_OF_ORDER).map_err(|error| error.to_string())?;
    let samples = sample_count(encoding, data).map_err(|error| error.to_string())?;
    if series == 0 || min > max || samples == 0 {
        return Err(format!("a chunk of series {series} with {samples} samples from {min} to {max}"));
    }
    let out_of_order = byte & OUT_OF_ORDER != 0;
    let range = TimeRange::new(min, max);
    let found = Found { offset, series, range, encoding, samples: samples as u16, out_of_order };
    Ok((found, data, reader.rest()))
}

/// Calls `each` with all chunks of a file, checked against their sums, as far as it is sound. Gives where the chunks end:
/// behind it are zeros, if anything, since the original makes its files longer than it needs them at first.
pub(crate) fn scan(bytes: &[u8], mut each: impl FnMut(Found, &[u8])) -> Result<u64, Broken> {
    let broken = |sound, reason| Broken { sound, reason };
    let mut reader = Reader::new(bytes);
    let mut header = || {
        let magic_and_version = (reader.be_u32()?, reader.u8()?);
        reader.bytes("header", 3).map(|_| magic_and_version)
    };
    let (magic, version) = header().map_err(|error: crate::codec::ReadError| broken(0, error.to_string()))?;
    if magic != MAGIC || version != VERSION {
        return Err(broken(0, format!("magic {magic:08x}, version {version}")));
    }
    let mut rest = reader.rest();
    let mut at = HEADER_LEN;
    while !rest.is_empty() {
        // No series has number 0: a header of zeros ends the file.
        if rest.iter().take(FIXED_LEN - 1).all(|byte| *byte == 0) {
            return match rest.iter().position(|byte| *byte != 0) {
                Some(more) => Err(broken(at, format!("{more} zeros, and more behind them"))),
                None => Ok(at),
            };
        }
        let (found, data, behind) = split_chunk(rest, at).map_err(|reason| broken(at, reason))?;
        each(found, data);
        at += (rest.len() - behind.len()) as u64;
        rest = behind;
    }
    Ok(at)
}
