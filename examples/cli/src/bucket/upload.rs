//! `upload-blocks`: the blocks of a directory into a bucket, as Thanos's tool does it.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use narthex::block::{BlockMeta, Ulid, is_block};
use narthex::bucket::{Progress, UploadOptions, Uploaded, upload_block};
use narthex::fs::Env;
use narthex::model::{Labels, LabelsBuilder, MatchOp};
use serde_json::{Value, json};

use super::{Objstore, Output, print, selector};
use crate::CommandResult;
use crate::progress::{Bar, size};

/// Which program Thanos is told that it was.
const SOURCE: &str = "bucket.upload";

/// What is uploaded, and how.
#[derive(Debug, Args)]
pub(crate) struct UploadBlocks {
    #[command(flatten)]
    store: Objstore,
    /// The directory that the blocks lie in.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    path: PathBuf,
    /// An external label that all blocks get; may be given several times.
    #[arg(long, value_name = "KEY=\"VALUE\"", required = true)]
    label: Vec<String>,
    /// Uploads blocks that are merged from others too; without it only those of level 1.
    #[arg(long = "shipper.upload-compacted")]
    upload_compacted: bool,
    /// How the result is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What became of a block.
enum Outcome {
    Uploaded(u64),
    AlreadyThere,
    Skipped(String),
    Failed(String),
}

impl Outcome {
    fn to_json(&self, block: &str) -> Value {
        match self {
            Self::Uploaded(bytes) => json!({ "block": block, "result": "uploaded", "bytes": bytes }),
            Self::AlreadyThere => json!({ "block": block, "result": "already-there", "bytes": 0 }),
            Self::Skipped(reason) => json!({ "block": block, "result": "skipped", "bytes": 0, "reason": reason }),
            Self::Failed(reason) => json!({ "block": block, "result": "failed", "bytes": 0, "reason": reason }),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uploaded(bytes) => write!(out, "uploaded, {}", size(*bytes)),
            Self::AlreadyThere => write!(out, "already there"),
            Self::Skipped(reason) => write!(out, "skipped: {reason}"),
            Self::Failed(reason) => write!(out, "FAILED: {reason}"),
        }
    }
}

pub(super) fn run(env: &Env, command: &UploadBlocks) -> CommandResult {
    let options = UploadOptions { source: SOURCE.to_owned(), ..UploadOptions::new(external_labels(&command.label)?) };
    let (_runtime, bucket) = command.store.open(env)?;
    let dirs = block_dirs(env, &command.path)?;
    let bar = Bar::new(env, dirs.iter().map(|(_, bytes)| bytes).sum());
    let mut failed = 0;
    for (dir, bytes) in &dirs {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        bar.subject(&name);
        let before = bar.done();
        let outcome = match BlockMeta::read(env.fs.as_ref(), dir) {
            Err(error) => Outcome::Failed(error.to_string()),
            Ok(meta) if meta.compaction.level > 1 && !command.upload_compacted => {
                Outcome::Skipped(format!("level {}, and --shipper.upload-compacted is not set", meta.compaction.level))
            }
            Ok(_) => match upload_block(&bucket, env, dir, &options, &bar) {
                Ok(Uploaded::Now { bytes, .. }) => Outcome::Uploaded(bytes),
                Ok(Uploaded::Already(_)) => Outcome::AlreadyThere,
                Ok(Uploaded::Nothing) => Outcome::Skipped("it has no samples".to_owned()),
                Err(error) => Outcome::Failed(error.to_string()),
            },
        };
        // What needed no reading is done too.
        bar.add(bytes.saturating_sub(bar.done() - before));
        failed += usize::from(matches!(outcome, Outcome::Failed(_)));
        bar.clear();
        print(|out| match command.output {
            Output::Json => writeln!(out, "{}", outcome.to_json(&name)),
            Output::Text => writeln!(out, "{name}: {outcome}"),
        })?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} of {} blocks could not be uploaded", dirs.len()).into()),
    }
}

impl Progress for Bar {
    fn advance(&self, bytes: u64) {
        self.add(bytes);
    }
}

fn external_labels(texts: &[String]) -> Result<Labels, String> {
    let mut labels = LabelsBuilder::new();
    for text in texts {
        for matcher in selector(text)? {
            if matcher.op() != MatchOp::Equal {
                return Err(format!("{text}: a label is KEY=\"VALUE\""));
            }
            labels.push(matcher.name(), matcher.value());
        }
    }
    match labels.duplicate_name() {
        Some(name) => Err(format!("label {name} is given twice")),
        None => Ok(labels.build()),
    }
}

/// The blocks in `dir`, oldest first, each with its bytes.
fn block_dirs(env: &Env, dir: &Path) -> Result<Vec<(PathBuf, u64)>, Box<dyn std::error::Error>> {
    let entries = env.fs.list(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries.into_iter().filter(|entry| entry.is_dir && Ulid::from_string(&entry.name).is_ok()) {
        let path = dir.join(&entry.name);
        if is_block(env.fs.as_ref(), &path)? {
            let bytes = crate::bytes_below(env, &path)?;
            found.push((path, bytes));
        }
    }
    found.sort();
    Ok(found)
}
