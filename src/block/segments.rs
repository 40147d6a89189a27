//! Chunk segments: the files in `chunks/`, numbered from 000001.
//!
//! ```text
//! magic 85BD40DD | version 1 | 3 zero bytes | chunk*
//! chunk   uvarint length of the data | encoding b1 | data | CRC-32C of encoding and data, b4
//! ```
//!
//! A chunk is referred to by its segment's number, counted from 0, in the upper 32 bits, and its offset in the lower.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::BlockError;
use crate::codec::{Reader, crc32c, put_be_u32, put_uvarint};
use crate::fs::{File, Fs};

/// The directory's name in a block's directory.
pub const CHUNKS_DIR: &str = "chunks";
const MAGIC: u32 = 0x85BD_40DD;
const VERSION: u8 = 1;
const HEADER_LEN: u64 = 8;
/// A segment is not longer than this, unless a single chunk is.
pub const SEGMENT_SIZE: u64 = 512 << 20;
/// Bytes that a chunk takes beside its data, at most: length, encoding, sum.
const OVERHEAD: u64 = 5 + 1 + 4;
/// Bytes collected before they are handed to the disk.
const BUFFER: usize = 1 << 20;

/// The segments of a block, mapped.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    /// By number, from 0.
    files: Vec<Bytes>,
}

impl Segments {
    pub(super) fn open(fs: &dyn Fs, block: &Path) -> Result<Self, BlockError> {
        let dir = block.join(CHUNKS_DIR);
        let mut numbered: Vec<Option<Bytes>> = Vec::new();
        for entry in fs.list(&dir).map_err(BlockError::io(&dir))? {
            // 64 GiB of index can refer to more segments than any disk holds; a name past that is none of a segment.
            let number = match entry.name.parse::<u32>() {
                Ok(number) if (1..1 << 20).contains(&number) && !entry.is_dir => number as usize,
                _ => continue,
            };
            let path = dir.join(&entry.name);
            let bytes = fs.map(&path).map_err(BlockError::io(&path))?;
            let mut header = Reader::new(&bytes);
            let magic = header.be_u32().map_err(|error| BlockError::corrupt(&path, 0, error))?;
            let version = header.u8().map_err(|error| BlockError::corrupt(&path, 4, error))?;
            if magic != MAGIC || version != VERSION || bytes.len() < HEADER_LEN as usize {
                return Err(BlockError::corrupt(&path, 0, format!("magic {magic:08x}, version {version}")));
            }
            if numbered.len() < number {
                numbered.resize(number, None);
            }
            if let Some(slot) = numbered.get_mut(number - 1) {
                *slot = Some(bytes);
            }
        }
        let mut files = Vec::with_capacity(numbered.len());
        for (number, file) in numbered.into_iter().enumerate() {
            let path = || dir.join(segment_name(number));
            files.push(
                file.ok_or_else(|| BlockError::corrupt(&path(), 0, "the file is missing, and later ones are there"))?,
            );
        }
        Ok(Self { dir, files })
    }

    pub(super) fn size(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// The encoding byte and the data of a chunk, checked against their sum.
    #[inline]
    pub(super) fn chunk(&self, reference: u64) -> Result<(u8, Bytes), BlockError> {
        let (file, bytes) = self.place(reference)?;
        let (encoding, data) = split_chunk(bytes).map_err(|reason| self.damaged(reference, reason))?;
        Ok((encoding, file.slice_ref(data)))
    }

    /// Whether the file of a chunk is there and goes on as far as the chunk does.
    pub(super) fn check_place(&self, reference: u64) -> Result<(), BlockError> {
        let (_, bytes) = self.place(reference)?;
        if chunk_len(bytes).is_none_or(|len| len > bytes.len() as u64) {
            return Err(self.damaged(reference, format!("the file ends {} bytes into a chunk", bytes.len())));
        }
        Ok(())
    }

    /// A chunk's file, and its bytes from the chunk on.
    #[inline]
    fn place(&self, reference: u64) -> Result<(&Bytes, &[u8]), BlockError> {
        let (number, offset) = ((reference >> 32) as usize, reference & 0xffff_ffff);
        let Some(file) = self.files.get(number) else {
            return Err(self.damaged(reference, "a chunk is here, and the file is missing"));
        };
        if offset < HEADER_LEN {
            return Err(self.damaged(reference, "a chunk cannot begin in the header"));
        }
        Ok((file, file.get(offset as usize..).unwrap_or_default()))
    }

    #[cold]
    fn damaged(&self, reference: u64, reason: impl ToString) -> BlockError {
        BlockError::corrupt(&self.path((reference >> 32) as usize), reference & 0xffff_ffff, reason)
    }

    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.dir.join(segment_name(number))
    }
}

/// The name of segment `number`, counted from 0, in the directory of chunks.
#[must_use]
pub fn segment_name(number: usize) -> String {
    format!("{:06}", number + 1)
}

/// The encoding byte and the data of the chunk that `bytes` begin with, checked against their sum; or what is wrong.
#[inline]
pub(crate) fn split_chunk(bytes: &[u8]) -> Result<(u8, &[u8]), String> {
    let mut reader = Reader::new(bytes);
    let mut parts = || {
        let len = usize::try_from(reader.uvarint()?).unwrap_or(usize::MAX);
        Ok((reader.bytes("chunk", len.saturating_add(1))?, reader.be_u32()?))
    };
    let (content, sum) = parts().map_err(|error: crate::codec::ReadError| error.to_string())?;
    let actual = crc32c(content);
    if actual != sum {
        return Err(format!("chunk's CRC-32C is {actual:08x}, stored {sum:08x}"));
    }
    content.split_first().map(|(&encoding, data)| (encoding, data)).ok_or_else(|| "empty chunk".to_owned())
}

/// Bytes that the chunk takes which `bytes` begin with, its length and sum included; none if they do not tell.
pub(crate) fn chunk_len(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes);
    let len = reader.uvarint().ok()?;
    len.checked_add(reader.offset() as u64 + 1 + 4)
}

/// Writes the segments of a block, one after another.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    limit: u64,
    file: Option<Box<dyn File>>,
    /// How many segments were begun.
    count: usize,
    /// Where the next byte of the current segment goes.
    position: u64,
    buffer: Vec<u8>,
}

impl SegmentWriter {
    /// Begins in the directory `block`, whose `chunks` must not exist.
    pub(super) fn create(fs: &Arc<dyn Fs>, block: &Path, limit: u64) -> Result<Self, BlockError> {
        let dir = block.join(CHUNKS_DIR);
        fs.create_dir_all(&dir).map_err(BlockError::io(&dir))?;
        let mut writer = Self {
            fs: Arc::clone(fs),
            dir,
            limit,
            file: None,
            count: 0,
            position: 0,
            buffer: Vec::with_capacity(BUFFER),
        };
        writer.next_segment()?;
        Ok(writer)
    }

    /// Writes the chunks of one series, encoding byte and data each, and calls `placed` with their references in order.
    /// Where segments end is the originals' rule: with each chunk they count the most that its length could take.
    pub(super) fn add<'a>(
        &mut self,
        chunks: impl IntoIterator<Item = (u8, &'a [u8])>,
        mut placed: impl FnMut(u64),
    ) -> Result<(), BlockError> {
        let mut used = if self.position > HEADER_LEN { self.position } else { HEADER_LEN };
        for (number, (encoding, data)) in chunks.into_iter().enumerate() {
            used += data.len() as u64 + OVERHEAD;
            // A segment holds a chunk at least, however long that is.
            let has_some = number > 0 || self.position > HEADER_LEN;
            if used > self.limit && has_some {
                self.end_segment()?;
                self.next_segment()?;
                used = HEADER_LEN + data.len() as u64 + OVERHEAD;
            }
            placed(((self.count - 1) as u64) << 32 | self.position);
            let start = self.buffer.len();
            put_uvarint(&mut self.buffer, data.len() as u64);
            let content = self.buffer.len();
            self.buffer.push(encoding);
            self.buffer.extend_from_slice(data);
            // In one piece: chunks may be so short that two sums cost twice as much as one.
            let sum = crc32c(self.buffer.get(content..).unwrap_or_default());
            put_be_u32(&mut self.buffer, sum);
            self.position += (self.buffer.len() - start) as u64;
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.dir.join(segment_name(self.count.saturating_sub(1)))
    }

    fn next_segment(&mut self) -> Result<(), BlockError> {
        self.count += 1;
        let path = self.path();
        self.file = Some(self.fs.create(&path).map_err(BlockError::io(&path))?);
        put_be_u32(&mut self.buffer, MAGIC);
        self.buffer.extend_from_slice(&[VERSION, 0, 0, 0]);
        self.position = HEADER_LEN;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        if let Some(file) = &mut self.file {
            file.append(&self.buffer).map_err(|source| BlockError::Io {
                file: self.dir.join(segment_name(self.count.saturating_sub(1))),
                source,
            })?;
        }
        self.buffer.clear();
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), BlockError> {
        self.flush()?;
        let path = self.path();
        if let Some(mut file) = self.file.take() {
            file.sync().map_err(BlockError::io(&path))?;
        }
        Ok(())
    }

    /// Makes everything durable.
    pub(super) fn finish(mut self) -> Result<(), BlockError> {
        self.end_segment()?;
        self.fs.sync_dir(&self.dir).map_err(BlockError::io(&self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Env;

    #[test]
    fn segments_end_before_the_chunk_that_does_not_fit_and_every_chunk_reads_back() {
        let (env, _) = Env::simulated(1);
        let block = Path::new("/block");
        let mut writer = SegmentWriter::create(&env.fs, block, 100).unwrap();
        let mut written = Vec::new();
        for series in 0..20u8 {
            let chunks: Vec<Vec<u8>> = (0..series % 4).map(|n| vec![series; usize::from(n) * 30 + 1]).collect();
            let mut references = Vec::new();
            writer.add(chunks.iter().map(|chunk| (series, chunk.as_slice())), |at| references.push(at)).unwrap();
            assert_eq!(references.len(), chunks.len());
            written.extend(references.into_iter().zip(chunks.into_iter().map(|chunk| (series, chunk))));
        }
        writer.finish().unwrap();
        assert!(written.is_sorted_by_key(|(reference, _)| *reference));

        let segments = Segments::open(&*env.fs, block).unwrap();
        assert!(segments.files.len() > 5);
        for (reference, (encoding, data)) in written {
            let (byte, bytes) = segments.chunk(reference).unwrap();
            assert_eq!((byte, bytes.as_ref()), (encoding, data.as_slice()));
        }
        for file in &segments.files {
            assert!(file.len() > HEADER_LEN as usize, "no segment is empty");
            assert!(file.len() <= 110, "only a chunk that is too long by itself exceeds the limit");
        }
    }

    #[test]
    fn a_reference_into_nowhere_is_an_error_that_names_file_and_offset() {
        let (env, _) = Env::simulated(1);
        let mut writer = SegmentWriter::create(&env.fs, Path::new("/block"), 100).unwrap();
        writer.add([(1, &b"data"[..])], |_| {}).unwrap();
        writer.finish().unwrap();
        let segments = Segments::open(&*env.fs, Path::new("/block")).unwrap();
        for reference in [0, 7, 9, 12, 4000, u64::MAX, 5 << 32 | 8] {
            let text = segments.chunk(reference).unwrap_err().to_string();
            assert!(text.contains("chunks/") && text.contains("offset"), "{reference}: {text}");
        }
    }
}
