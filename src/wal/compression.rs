//! Compression of whole records.

use std::io;

use super::segment::{SNAPPY_FLAG, ZSTD_FLAG};

/// How records are compressed. A record is stored compressed only if that makes it smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// Snappy's block format: Prometheus's default.
    #[default]
    Snappy,
    /// Zstandard, level 3.
    Zstd,
}

impl Compression {
    /// The flag in a fragment's first byte.
    #[must_use]
    pub fn flag(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Snappy => SNAPPY_FLAG,
            Self::Zstd => ZSTD_FLAG,
        }
    }

    /// What a fragment's first byte says; snappy where both flags are set, as the originals do.
    #[must_use]
    pub fn of_header(byte: u8) -> Self {
        if byte & SNAPPY_FLAG != 0 {
            Self::Snappy
        } else if byte & ZSTD_FLAG != 0 {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The longest record that decompression may give. A stored length is never believed beyond it.
const LONGEST_RECORD: usize = 1 << 30;

/// Compresses records; its tables are used again.
pub(super) struct Compressor {
    snappy: snap::raw::Encoder,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { snappy: snap::raw::Encoder::new(), zstd: None }
    }
}

impl Compressor {
    /// Appends `record` to `out`, compressed if that makes it smaller, and says how it stands there.
    pub(super) fn append(&mut self, compression: Compression, record: &[u8], out: &mut Vec<u8>) -> Compression {
        let start = out.len();
        match self.try_append(compression, record, out) {
            Ok(len) if compression != Compression::None && len < record.len() => {
                out.truncate(start + len);
                compression
            }
            // A record that cannot be compressed is stored as it is: there is nothing that the caller could do.
            _ => {
                out.truncate(start);
                out.extend_from_slice(record);
                Compression::None
            }
        }
    }

    fn try_append(&mut self, compression: Compression, record: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        match compression {
            Compression::None => Ok(record.len()),
            Compression::Snappy => {
                out.resize(start + snap::raw::max_compress_len(record.len()), 0);
                let room = out.get_mut(start..).unwrap_or_default();
                Ok(self.snappy.compress(record, room)?)
            }
            Compression::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Compressor::new(3)?),
                };
                out.resize(start + zstd::zstd_safe::compress_bound(record.len()), 0);
                let room = out.get_mut(start..).unwrap_or_default();
                zstd.compress_to_buffer(record, room)
            }
        }
    }
}

/// Decompresses records; its tables are used again.
#[derive(Default)]
pub struct Decompressor {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Decompressor")
    }
}

impl Decompressor {
    /// Puts the record that is stored as `bytes` into `out`, which is emptied first.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are not what the compression makes, or claim to be longer than 1 GiB.
    pub fn decompress(&mut self, compression: Compression, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match compression {
            // The originals leave an empty record alone, whatever its flags say.
            _ if bytes.is_empty() => {}
            Compression::None => out.extend_from_slice(bytes),
            Compression::Snappy => {
                let len = snap::raw::decompress_len(bytes).map_err(invalid)?;
                // Snappy's densest element is a copy of 64 bytes in 3.
                room(len, bytes.len().saturating_mul(64), out)?;
                let len = snap::raw::Decoder::new().decompress(bytes, out).map_err(invalid)?;
                out.truncate(len);
            }
            Compression::Zstd => {
                let len = match zstd::zstd_safe::get_frame_content_size(bytes) {
                    Ok(Some(len)) => usize::try_from(len).unwrap_or(usize::MAX),
                    _ => return self.decompress_stream(bytes, out),
                };
                room(len, LONGEST_RECORD, out)?;
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new()?),
                };
                let len = zstd.decompress_to_buffer(bytes, out.as_mut_slice()).map_err(invalid)?;
                out.truncate(len);
            }
        }
        Ok(())
    }

    /// A frame that does not say how long its content is.
    fn decompress_stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        use io::Read;
        let decoder = zstd::stream::read::Decoder::new(bytes)?;
        decoder.take(LONGEST_RECORD as u64 + 1).read_to_end(out).map_err(invalid)?;
        if out.len() > LONGEST_RECORD {
            return Err(invalid("record longer than 1 GiB"));
        }
        Ok(())
    }
}

fn room(len: usize, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
    if len > most.min(LONGEST_RECORD) {
        return Err(invalid("record claims to be longer than it can be"));
    }
    out.resize(len, 0);
    Ok(())
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
