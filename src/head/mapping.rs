//! Moving full chunks to the disk, and giving back the files that nobody needs any more.

use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::Head;
use super::mapped::{ChunkPlace, MappedChunks};
use crate::error::Result;
use crate::wal::{Durability, LogError};

impl Head {
    /// Moves all full chunks from memory to `chunks_head/`, where queries and blocks find them. How many bytes of memory
    /// they took. A head without a log of its own has nowhere to put them.
    ///
    /// # Errors
    /// `Io`, `Full`: what could not be moved stays in memory.
    pub fn map_full_chunks(&self) -> Result<u64> {
        // One at a time: two would write the same chunks.
        let _turn = self.mapping.lock();
        let Some(files) = self.mapped.as_ref().filter(|files| files.is_writable()) else { return Ok(0) };
        let waited = self.waiting_bytes();
        if waited == 0 {
            // What an earlier call could not write, perhaps.
            files.flush()?;
            return Ok(0);
        }
        if let Some(log) = self.log.as_ref().filter(|log| log.options().durability != Durability::Never) {
            // After a power cut the files are not to know more than the log does.
            match log.sync() {
                // It was synced then.
                Ok(()) | Err(LogError::Closed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut freed = 0;
        let mut waiting = Vec::new();
        let mut placed: Vec<(u32, ChunkPlace)> = Vec::new();
        for id in 0..self.slots.end() {
            let Some(series) = self.slots.get(id) else { continue };
            // Together, under the lock: the slot may be another series' a moment later.
            let reference = {
                let state = series.lock();
                state.waiting(&mut waiting);
                series.reference()
            };
            if waiting.is_empty() {
                continue;
            }
            let mut result = Ok(());
            for (number, range, chunk) in waiting.drain(..) {
                match files.append(reference, range, &chunk, false) {
                    Ok(place) => {
                        freed += chunk.data.len() as u64;
                        placed.push((number, place));
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            let mut state = series.lock();
            // What was appended is in the files for good, so it must not be appended again.
            for (number, place) in placed.drain(..) {
                if series.reference() == reference {
                    state.set_mapped(number, place);
                }
            }
            drop(state);
            if result.is_err() {
                self.forget_waiting(freed);
                return result.map(|()| freed);
            }
        }
        // What was dropped before it got here was counted, too.
        self.forget_waiting(waited.max(freed));
        files.flush()?;
        Ok(freed)
    }

    /// Bytes of full chunks that are in memory still, roughly.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Relaxed)
    }

    fn forget_waiting(&self, gone: u64) {
        let _ = self.waiting_bytes.fetch_update(AcqRel, Relaxed, |bytes| Some(bytes.saturating_sub(gone)));
    }

    /// Where chunks go from now on: what is dropped after this call has no chunk in that file or behind.
    pub(super) fn next_chunk_file(&self) -> u32 {
        self.mapped.as_ref().map_or(u32::MAX, MappedChunks::next_file)
    }

    /// Deletes the files before `file`.
    pub(super) fn truncate_chunk_files(&self, file: u32) {
        if let Some(files) = self.mapped.as_ref().filter(|files| files.is_writable())
            && let Err(error) = files.truncate_before(file)
        {
            // They are deleted next time; what they hold counts for nothing.
            tracing::warn!(%error, "deleting files of head chunks");
        }
    }
}
