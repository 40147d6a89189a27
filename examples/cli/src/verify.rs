//! `narthex tsdb verify`: all that lies in a data directory, read through.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use narthex::block::Block;
use narthex::db::ReadOnlyDb;
use narthex::fs::Env;
use narthex::head::check_head_chunks;
use narthex::wal::{Damage, DamageKind, Decompressor, LogReader};

use crate::CommandResult;
use crate::tsdb::{block_dirs, is_named_block, output};

/// Where a database keeps the coarser copies of its blocks.
const DOWNSAMPLED_DIR: &str = "downsampled";
const LOG_DIRS: [&str; 2] = ["wal", "wbl"];
const CHUNKS_HEAD_DIR: &str = "chunks_head";
/// What a log says of an end that a write did not get to, as a killed process leaves it, or a copy of the moment. An end of
/// other bytes than were written can be that of a power cut, but as well one that has rotted, with commits that were synced.
const CUT: &str = "the file ends inside a record";

/// What was looked at so far, and what of it is damaged.
struct Report<W> {
    out: W,
    looked_at: usize,
    damaged: usize,
}

impl<W: Write> Report<W> {
    fn good(&mut self, path: &Path, what: impl Display) -> CommandResult {
        self.looked_at += 1;
        Ok(writeln!(self.out, "{}: good{what}", path.display())?)
    }

    fn damaged(&mut self, path: &Path, what: impl Display) -> CommandResult {
        self.looked_at += 1;
        self.damaged += 1;
        Ok(writeln!(self.out, "{}: DAMAGED: {what}", path.display())?)
    }

    fn block(&mut self, env: &Env, path: &Path) -> CommandResult {
        match Block::open(&*env.fs, path).and_then(|block| block.verify().map(|()| block)) {
            Ok(block) => {
                let stats = &block.meta().stats;
                self.good(path, format_args!(", {} series, {} chunks", stats.num_series, stats.num_chunks))
            }
            Err(error) => self.damaged(path, error),
        }
    }

    /// A log, or the head's chunks: each place is told, and all of it counts once.
    fn part(&mut self, path: &Path, part: &Part, of_what: &str) -> CommandResult {
        for damage in &part.torn {
            writeln!(self.out, "{}: torn, and mended by the next opening: {damage}", path.display())?;
        }
        if part.damage.is_empty() {
            return self.good(path, format_args!(", {} {of_what}", part.count));
        }
        self.looked_at += 1;
        self.damaged += 1;
        part.damage.iter().try_for_each(|damage| Ok(writeln!(self.out, "{}: DAMAGED: {damage}", path.display())?))
    }
}

/// What lies beside the blocks, read.
struct Part {
    /// How many records or chunks are sound.
    count: u64,
    /// What is wrong with the end of the last file.
    torn: Vec<Damage>,
    damage: Vec<Damage>,
}

impl Part {
    /// Reads a log, its checkpoint and all segments behind it: opening leaves out what a snapshot of the head stands for.
    fn of_log(env: &Env, dir: &Path) -> Result<Self, Box<dyn Error>> {
        let mut reader = LogReader::open(&env.fs, dir)?;
        let last = reader.last_segment();
        let (mut decompressor, mut record, mut count) = (Decompressor::default(), Vec::new(), 0);
        while reader.next(&mut decompressor, &mut record)?.is_some() {
            count += 1;
        }
        let is_torn = |damage: &Damage| {
            let at_the_end = damage.at.in_log && Some(damage.at.segment) == last;
            at_the_end && matches!(damage.kind, DamageKind::TornEnd { .. }) && damage.reason == CUT
        };
        let (torn, damage) = reader.finish().into_iter().partition(is_torn);
        Ok(Self { count, torn, damage })
    }
}

/// Verifies a block, or a data directory: blocks, coarser copies, logs, chunks and snapshot of the head.
pub(crate) fn verify(env: &Env, dir: &Path) -> CommandResult {
    let fs = &*env.fs;
    let mut report = Report { out: output(), looked_at: 0, damaged: 0 };
    if is_named_block(fs, dir)? {
        report.block(env, dir)?;
    } else {
        block_dirs(fs, dir)?.iter().try_for_each(|path| report.block(env, path))?;
        let downsampled = dir.join(DOWNSAMPLED_DIR);
        if fs.stat(&downsampled)?.is_some() {
            block_dirs(fs, &downsampled)?.iter().try_for_each(|path| report.block(env, path))?;
        }
        verify_head(env, dir, &mut report)?;
    }
    report.out.flush()?;
    match report {
        Report { damaged: 0, .. } => Ok(()),
        Report { looked_at, damaged, .. } => Err(format!("{damaged} of {looked_at} are damaged").into()),
    }
}

fn verify_head(env: &Env, dir: &Path, report: &mut Report<impl Write>) -> CommandResult {
    let present = |name: &str| env.fs.stat(&dir.join(name)).map(|stat| stat.is_some());
    let mut logs = Vec::new();
    for name in LOG_DIRS {
        if present(name)? {
            logs.push((dir.join(name), Part::of_log(env, &dir.join(name))?));
        }
    }
    let has_chunks = present(CHUNKS_HEAD_DIR)?;
    if logs.is_empty() && !has_chunks {
        return Ok(());
    }
    // As a program that opens it: records must say what records can say, and a snapshot must fit what lies beside it.
    let status = ReadOnlyDb::open_with(env, dir)?.status();
    for (path, log) in &mut logs {
        let of_records = status.log_damage.iter().filter(|damage| damage.path.starts_with(&*path));
        let new: Vec<_> = of_records.filter(|damage| !log.damage.contains(damage)).cloned().collect();
        log.damage.extend(new);
        report.part(path, log, "records")?;
    }
    if has_chunks {
        let path = dir.join(CHUNKS_HEAD_DIR);
        let (count, damage) = check_head_chunks(&*env.fs, &path)?;
        let (torn, damage) = damage.into_iter().partition(|it| matches!(it.kind, DamageKind::TornEnd { .. }));
        report.part(&path, &Part { count, torn, damage }, "chunks")?;
    }
    if let Some(reason) = status.snapshot_refused {
        report
            .damaged(dir, format_args!("the snapshot of the head is of no use, and the whole log is read: {reason}"))?;
    }
    if status.unknown_series > 0 {
        // Not damage by itself: behind a hole, or where a series was removed, that is what is left.
        let count = status.unknown_series;
        writeln!(report.out, "{}: {count} entries of the logs are of series that no record names", dir.display())?;
    }
    Ok(())
}
