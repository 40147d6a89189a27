//! Writing a snapshot while commits go on; see the room's header for why that is right.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::extra::{Extra, FILE, GoneNumber};
use super::{SnapshotPosition, TEMPORARY_SUFFIX, list_snapshots, put_exemplars, put_series, put_tombstones};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Fs, with_suffix};
use crate::head::Head;
use crate::head::gone::Gone;
use crate::head::mapped::MappedChunks;
use crate::wal::{Durability, Log, LogError, LogOptions, RecordBuffer};

/// Records are written this many bytes at a time.
const BATCH: usize = 1 << 20;
/// Exemplars in a record.
const EXEMPLARS: usize = 10_000;
/// How often series that fill a chunk meanwhile are waited for.
const ROUNDS: usize = 64;

impl Head {
    /// Writes what a restart needs beside the log that comes from now on, and removes what was written of this kind
    /// before. Appends and queries go on. Nothing happens without a log, or if nothing was committed since the last time; nor
    /// as long as the log has deletions of Prometheus's and there is a log of late samples, which such a deletion hides at
    /// each opening: the next one reads the whole log.
    ///
    /// # Errors
    /// `Io`, `Full`: the snapshot before, if there is one, is still good. `NotReady` if commits fill chunks faster than
    /// they can be written.
    pub fn write_snapshot(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let Some(dir) = log.dir().parent() else { return Ok(()) };
        // A snapshot does not tell whose a deletion is, and with Prometheus's late samples are hidden at each opening.
        if self.deleted_elsewhere.load(Ordering::Acquire) && self.out_of_order.log.is_some() {
            if !self.told_of_no_snapshot.swap(true, Ordering::AcqRel) {
                let why =
                    "no snapshot of the head: the log has deletions of another program, which late samples depend on";
                tracing::info!(dir = %dir.display(), "{why}");
            }
            return Ok(());
        }
        let fs = self.env.fs.as_ref();
        // Neither a deletion nor a checkpoint meanwhile.
        let _turn = self.log_truncated.lock();
        self.map_full_chunks()?;
        let newest = list_snapshots(fs, dir)?.pop();
        let here = SnapshotPosition::of(log);
        // Nothing stands behind the one that there is.
        if newest == Some(here) {
            return Ok(());
        }
        let position = match log.next_segment() {
            Ok(segment) => SnapshotPosition { segment, offset: 0 },
            // It ends at the end of a page.
            Err(LogError::Closed { .. }) => here,
            Err(error) => return Err(error.into()),
        };
        self.wait_for_commits();
        let target = position.path(dir);
        let temporary = with_suffix(&target, TEMPORARY_SUFFIX);
        remove_if_there(fs, &temporary)?;
        if let Err(error) = self.put_into(&temporary).and_then(|()| self.put_in_place(log, &temporary, &target)) {
            // Not the error that matters, and the next try, or the next opening, removes it too.
            let _ = fs.remove_dir_all(&temporary);
            return Err(error);
        }
        if let Err(error) = remove_those(fs, dir, |other| *other < position) {
            tracing::warn!(dir = %dir.display(), %error, "removing snapshots that a newer one replaces");
        }
        Ok(())
    }

    /// Waits until what now stands in the log is in memory.
    fn wait_for_commits(&self) {
        let committing = self.isolation.committing();
        let waiter = self.env.executor.waiter();
        while !self.isolation.have_committed(&committing) {
            // The time of a write to the log, or of its sync.
            waiter.wait(Duration::from_micros(100));
        }
    }

    /// Writes the snapshot's files into `dir`.
    fn put_into(&self, dir: &Path) -> Result<()> {
        let compression = self.log.as_ref().map(|log| log.options().compression).unwrap_or_default();
        let options = LogOptions { compression, durability: Durability::Never, ..LogOptions::default() };
        let mut records =
            Records { log: Log::open(&self.env, dir, options)?, buffer: RecordBuffer::default(), count: 0 };
        let mut full: Vec<u32> = Vec::new();
        for id in 0..self.slots.end() {
            if !self.put_one(id, &mut records)? {
                full.push(id);
            }
        }
        for _ in 0..ROUNDS {
            if full.is_empty() {
                break;
            }
            self.map_full_chunks()?;
            let ids = std::mem::take(&mut full);
            for id in ids {
                if !self.put_one(id, &mut records)? {
                    full.push(id);
                }
            }
        }
        if !full.is_empty() {
            let text = format!("no snapshot: {} series fill chunks faster than they can be written", full.len());
            return Err(Error::new(ErrorKind::NotReady, text));
        }
        let deleted = self.tombstones.all().into_iter().filter_map(|(id, ranges)| {
            let reference = self.slots.get(id)?.reference();
            (reference != 0).then_some((reference, ranges))
        });
        put_tombstones(
            deleted.flat_map(|(number, all)| all.into_iter().map(move |r| (number, r))),
            records.buffer.bytes(),
        );
        records.end()?;
        let exemplars = self.exemplars.all(self.holds());
        for part in exemplars.chunks(EXEMPLARS) {
            // Of a series that is gone nobody asks.
            let known = part.iter().filter_map(|(series, exemplar)| Some((self.known(*series)?.reference(), exemplar)));
            let known: Vec<_> = known.collect();
            if !known.is_empty() {
                put_exemplars(known, records.buffer.bytes());
                records.end()?;
            }
        }
        records.buffer.write_to(&records.log)?;
        records.log.close()?;
        let path = dir.join(FILE);
        let mut file = self.env.fs.create(&path)?;
        file.append(&self.extra(records.count)?.to_bytes())?;
        file.sync()?;
        Ok(())
    }

    /// Puts a series, if there is one in this slot; `false` if it has full chunks that are nowhere but in memory.
    fn put_one(&self, id: u32, records: &mut Records) -> Result<bool> {
        let Some(slot) = self.slots.get(id) else { return Ok(true) };
        let state = slot.lock();
        if state.labels().is_empty() {
            return Ok(true);
        }
        if state.has_full_in_memory() {
            return Ok(false);
        }
        let mut buffer = Vec::new();
        let labels = state.labels().to_labels(&mut buffer);
        let reference = slot.reference();
        let open = state.open_chunk(&slot);
        // Others may lock it now.
        drop(state);
        let open = open.as_ref().map(|(range, chunk, last)| (*range, chunk, last));
        put_series(reference, labels.iter(), open, records.buffer.bytes());
        records.end()?;
        Ok(true)
    }

    /// What stands beside so many records.
    fn extra(&self, records: u64) -> Result<Extra> {
        let gone: Vec<_> = self.gone.lock().iter().collect();
        let mut gone: Vec<GoneNumber> = gone
            .into_iter()
            .map(|(reference, Gone { segment, newest, series })| {
                let other = series.and_then(|series| self.known(series)).map_or(0, |slot| slot.reference());
                GoneNumber { reference, segment, newest, other }
            })
            .collect();
        gone.sort_unstable();
        Ok(Extra {
            last_reference: self.last_reference.load(Ordering::Acquire),
            records: Some(records),
            files: self.mapped.as_ref().map_or(Ok(Vec::new()), MappedChunks::files_now)?,
            emptied: self.emptied.load(Ordering::Acquire),
            gone,
            metadata: self.metadata.get(None, self.holds()),
        })
    }

    /// Makes what it rests on durable, then the snapshot under its name.
    fn put_in_place(&self, log: &Log, temporary: &Path, target: &Path) -> Result<()> {
        let fs = self.env.fs.as_ref();
        if let Some(files) = &self.mapped {
            files.sync()?;
        }
        // Of the snapshot's series some may have nothing in the log yet: it must know them whatever becomes of the snapshot, as
        // whoever commits to them after a restart finds them and says no more who they are.
        match log.commit(&[]).and_then(|()| log.sync()) {
            // Both was done then.
            Ok(()) | Err(LogError::Closed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        fs.sync_dir(temporary)?;
        fs.rename(temporary, target)?;
        if let Some(dir) = target.parent() {
            fs.sync_dir(dir)?;
        }
        Ok(())
    }
}

impl SnapshotPosition {
    /// Where a log ends now.
    fn of(log: &Log) -> Self {
        let (segment, offset) = log.position();
        Self { segment, offset }
    }
}

/// The snapshot's log, and the records that are not written to it yet.
struct Records {
    log: Log,
    buffer: RecordBuffer,
    /// Those that were ended.
    count: u64,
}

impl Records {
    /// Ends a record.
    fn end(&mut self) -> Result<(), LogError> {
        self.buffer.end();
        self.count += 1;
        if self.buffer.len() > BATCH { self.buffer.write_to(&self.log) } else { Ok(()) }
    }
}

/// Removes all snapshots of the head in `dir`, for good when this returns: for its owner, when they do not count.
pub(in crate::head) fn remove_snapshots(fs: &dyn Fs, dir: &Path) -> Result<()> {
    remove_those(fs, dir, |_| true)
}

/// Removes the snapshots of the head in `dir` whose position is `unwanted`.
fn remove_those(fs: &dyn Fs, dir: &Path, unwanted: impl Fn(&SnapshotPosition) -> bool) -> Result<()> {
    let mut renamed = Vec::new();
    for position in list_snapshots(fs, dir)?.into_iter().filter(unwanted) {
        // Under another name first: one that is half removed must not be read.
        let path = position.path(dir);
        let temporary = with_suffix(&path, TEMPORARY_SUFFIX);
        remove_if_there(fs, &temporary)?;
        fs.rename(&path, &temporary)?;
        renamed.push(temporary);
    }
    if renamed.is_empty() {
        return Ok(());
    }
    fs.sync_dir(dir)?;
    for temporary in renamed {
        fs.remove_dir_all(&temporary)?;
    }
    Ok(())
}

/// Removes what an interrupted write or removal left in `dir`: for its owner.
pub(in crate::head) fn remove_leftovers(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for entry in fs.list(dir)? {
        let finished = entry.name.strip_suffix(TEMPORARY_SUFFIX).and_then(SnapshotPosition::of_name);
        if entry.is_dir && finished.is_some() {
            fs.remove_dir_all(&dir.join(entry.name))?;
        }
    }
    Ok(())
}

fn remove_if_there(fs: &dyn Fs, path: &Path) -> Result<()> {
    if fs.stat(path)?.is_some() {
        fs.remove_dir_all(path)?;
    }
    Ok(())
}
