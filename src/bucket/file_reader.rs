//! Reading a file for a bucket: in parts that can be sent, its SHA-256 sum taken on the way.

use std::fmt::Write;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Progress;
use super::meta::FileHash;
use crate::block::BlockError;
use crate::error::Result;
use crate::fs::{Fs, ReadAt};

/// What is read at a time where nothing is sent.
pub(super) const READ_SIZE: u64 = 4 << 20;

/// Reads a file front to back, a part at a time, and takes its sum.
pub(super) struct FileReader<'a> {
    file: Box<dyn ReadAt>,
    path: &'a Path,
    offset: u64,
    size: u64,
    part_size: u64,
    sum: Sha256,
    progress: &'a dyn Progress,
}

impl<'a> FileReader<'a> {
    pub(super) fn open(
        fs: &dyn Fs,
        path: &'a Path,
        size: u64,
        part_size: u64,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let file = fs.open_read(path).map_err(BlockError::io(path))?;
        Ok(Self { file, path, offset: 0, size, part_size, sum: Sha256::new(), progress })
    }

    fn read(&mut self) -> Result<Bytes> {
        let len = self.part_size.min(self.size - self.offset);
        let mut part = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let got = self.file.read_at(self.offset, &mut part).map_err(BlockError::io(self.path))?;
        if got != part.len() {
            let offset = self.offset + got as u64;
            return Err(BlockError::corrupt(self.path, offset, "the file ends here; it was longer before").into());
        }
        self.offset += len;
        self.sum.update(&part);
        self.progress.advance(len);
        Ok(part.into())
    }

    /// The sum of the whole file; what was not read yet is read.
    pub(super) fn finish(mut self) -> Result<FileHash> {
        self.by_ref().try_for_each(|part| part.map(drop))?;
        Ok(FileHash::sha256(hexadecimal(&self.sum.finalize())))
    }
}

impl Iterator for FileReader<'_> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.offset < self.size).then(|| self.read())
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 sum of a file, as `meta.json` notes it.
///
/// # Errors
/// `Io`; `Corrupt` if the file gets shorter meanwhile.
pub fn hash_file(fs: &dyn Fs, path: &Path, progress: &dyn Progress) -> Result<FileHash> {
    let size = fs.stat(path).map_err(BlockError::io(path))?.map_or(0, |stat| stat.len);
    FileReader::open(fs, path, size, READ_SIZE, progress)?.finish()
}
