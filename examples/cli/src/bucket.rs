//! `narthex bucket …`: blocks in object storage, in Thanos's layout.

mod fetch;
mod listing;
mod show;
mod table;
mod upload;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use narthex::bucket::{Bucket, StoreConfig};
use narthex::fs::Env;
use narthex::model::{METRIC_NAME, Matcher};
use narthex::promql::parse_selector;
use tokio::runtime::Runtime;

use crate::CommandResult;

/// Blocks in object storage.
///
/// With `--output json` every command prints one JSON object a line, and each has the key `block`, a ULID.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the blocks of a bucket: hidden, marked and partial ones too.
    ///
    /// JSON keys: block, min_time, max_time (milliseconds, the end exclusive), level, resolution_ms, labels, source,
    /// series, samples, chunks, files, bytes, marks (the mark's name: Unix seconds); of a block that is not whole only
    /// block, partial (why), files, bytes, marks.
    Ls(show::Ls),
    /// Shows a table of the blocks of a bucket, with the columns that Thanos's tool has.
    Inspect(show::Inspect),
    /// Reads every block of a bucket wholly and says what is wrong; ends with exit code 1 if anything is. Changes
    /// nothing.
    ///
    /// Issues: partial-upload (no meta.json), unreadable-meta, unreadable, missing-file, wrong-size, wrong-hash,
    /// unlisted-segment, damaged (index, chunks or tombstones), no-labels, no-sources, duplicate (all it was made of is
    /// in another block too), overlap (with another block of the same labels and resolution), left-behind (marked for
    /// deletion longer than the delay). Blocks that are marked for deletion are read, but not held against others.
    ///
    /// JSON keys, one object a block: block, good, bytes, issues: a list of issue, detail, and file or other (a ULID)
    /// where there is one.
    Verify(verify::Verify),
    /// Uploads the blocks of a data directory; those that are there already are left alone. Ends with exit code 1 if one
    /// could not be uploaded.
    ///
    /// JSON keys: block, result (uploaded, already-there, skipped, failed), bytes, and reason where there is one.
    UploadBlocks(upload::UploadBlocks),
}

/// Which bucket.
#[derive(Debug, Args)]
pub(crate) struct Objstore {
    /// The bucket, in Thanos's YAML: `type: FILESYSTEM` or `S3`, `config`, `prefix`.
    #[arg(long = "objstore.config-file", value_name = "FILE")]
    config_file: PathBuf,
}

impl Objstore {
    /// The bucket, and what its requests run on: to be kept as long as the bucket is used.
    fn open(&self, env: &Env) -> Result<(Runtime, Bucket), Box<dyn std::error::Error>> {
        let config = StoreConfig::read(env, &self.config_file)?;
        for warning in config.warnings() {
            crate::warn(format_args!("{warning}"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let bucket = config.open(runtime.handle())?;
        Ok((runtime, bucket))
    }
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> CommandResult {
    let env = Env::real();
    match command {
        Command::Ls(command) => show::ls(&env, &command),
        Command::Inspect(command) => show::inspect(&env, &command),
        Command::Verify(command) => verify::run(&env, &command),
        Command::UploadBlocks(command) => upload::run(&env, &command),
    }
}

/// `k="v"`, or several of them with commas between, with any of the four operators.
fn selector(text: &str) -> Result<Vec<Matcher>, String> {
    // A selector of a query must match something that is not empty, one of blocks need not.
    let mut matchers =
        parse_selector(&format!("{{{METRIC_NAME}!=\"\",{text}}}")).map_err(|error| format!("{text}: {error}"))?;
    matchers.remove(0);
    Ok(matchers)
}

/// Writes to the standard output.
fn print(write: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> io::Result<()>) -> CommandResult {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}
