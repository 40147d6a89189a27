//! `narthex tsdb compact|delete|clean-tombstones|snapshot`: what changes a data directory. Each opens it as its owner: not
//! beside another process that has it open.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use narthex::db::{Db, Maintenance, Options};
use narthex::fs::Env;
use narthex::model::{Matcher, TimeRange};

use crate::CommandResult;
use crate::tsdb::output;

/// What `compact` takes.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    /// The data directory.
    dir: PathBuf,
    /// Whether to cut what is in the log into blocks first.
    #[arg(long)]
    with_head: bool,
    /// How many hours a block spans at most: 31 days.
    #[arg(long, value_name = "HOURS")]
    max_block_duration: Option<u32>,
}

/// What `snapshot` takes.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The data directory.
    dir: PathBuf,
    /// Where the copy goes; created if it is not there. Blocks are hard links if it is on the same disk.
    out: PathBuf,
    /// Leave out what is not in blocks yet.
    #[arg(long)]
    no_head: bool,
}

/// Opens the directory, which must be there: a mistyped name is no new database.
fn open(env: &Env, dir: &Path, options: Options) -> Result<Db, Box<dyn std::error::Error>> {
    if env.fs.stat(dir).ok().flatten().is_none_or(|stat| !stat.is_dir) {
        return Err(format!("{}: no such directory", dir.display()).into());
    }
    let db = Db::open_with(env, dir, Options { future_bound: None, ..options })?;
    let status = db.status();
    for block in status.quarantined {
        crate::warn(format_args!("{}: {}", block.path.display(), block.reason));
    }
    for damage in status.log_damage {
        crate::warn(format_args!("{damage}"));
    }
    Ok(db)
}

/// A line a block: what became of it, and its name.
fn print(done: &Maintenance) -> CommandResult {
    let mut out = output();
    for (what, blocks) in [("cut", &done.written), ("wrote", &done.merged), ("dropped", &done.dropped)] {
        for block in blocks {
            writeln!(out, "{what} {block}")?;
        }
    }
    Ok(out.flush()?)
}

pub(crate) fn compact(env: &Env, wanted: &Compact) -> CommandResult {
    const HOUR: Duration = Duration::from_secs(3600);
    let max = wanted.max_block_duration.map(|hours| (HOUR * hours).as_millis() as i64);
    let db = open(env, &wanted.dir, Options { max_block_duration: max, ..Options::default() })?;
    if wanted.with_head {
        print(&db.flush()?)?;
    }
    let done = db.compact()?;
    db.close()?;
    print(&done)
}

pub(crate) fn clean_tombstones(env: &Env, dir: &Path) -> CommandResult {
    let db = open(env, dir, Options::default())?;
    let done = db.clean_tombstones()?;
    db.close()?;
    print(&done)
}

pub(crate) fn delete(env: &Env, dir: &Path, selectors: &[Vec<Matcher>], range: TimeRange) -> CommandResult {
    let db = open(env, dir, Options::default())?;
    let mut deleted = 0;
    for matchers in selectors {
        deleted += db.delete(range, matchers)?;
    }
    db.close()?;
    let mut out = output();
    writeln!(out, "{deleted}")?;
    Ok(out.flush()?)
}

pub(crate) fn snapshot(env: &Env, wanted: &Snapshot) -> CommandResult {
    let db = open(env, &wanted.dir, Options::default())?;
    let blocks = db.snapshot(&wanted.out, !wanted.no_head)?;
    db.close()?;
    let mut out = output();
    for block in blocks {
        writeln!(out, "{block}")?;
    }
    Ok(out.flush()?)
}
