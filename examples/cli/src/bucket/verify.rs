//! `verify`: every block of a bucket read wholly, and all that is wrong with it named.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use narthex::block::{Block, INDEX_FILE, META_FILE, Ulid};
use narthex::bucket::{Bucket, hash_file};
use narthex::fs::Env;
use serde_json::{Value, json};

use super::fetch::{Scratch, fetch};
use super::listing::{Listed, Meta, Partial, list};
use super::{Objstore, Output, print};
use crate::CommandResult;
use crate::progress::{Bar, size};

/// What of the bucket is verified, and how.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    store: Objstore,
    /// Only this block; may be given several times.
    #[arg(long, value_name = "ULID", value_parser = ulid)]
    id: Vec<Ulid>,
    /// For how long after it was marked for deletion a block may still be there, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 48)]
    delete_delay: i64,
    /// Blocks that are not whole are left alone as long as they are younger than this, in minutes: their upload may be
    /// under way.
    #[arg(long, value_name = "MINUTES", default_value_t = 0)]
    consistency_delay: i64,
    /// Where blocks are copied to, one at a time [default: the system's directory for such files].
    #[arg(long = "tmp.dir", value_name = "DIR")]
    tmp_dir: Option<PathBuf>,
    /// How the result is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn ulid(text: &str) -> Result<Ulid, String> {
    Ulid::from_string(text).map_err(|error| error.to_string())
}

/// Something that is wrong with a block.
#[derive(Debug)]
struct Issue {
    /// What scripts know it by.
    name: &'static str,
    file: Option<String>,
    other: Option<Ulid>,
    detail: String,
}

impl Issue {
    fn new(name: &'static str, detail: impl ToString) -> Self {
        Self { name, file: None, other: None, detail: detail.to_string() }
    }

    fn of_file(name: &'static str, file: &str, detail: impl ToString) -> Self {
        Self { file: Some(file.to_owned()), ..Self::new(name, detail) }
    }

    fn with(name: &'static str, other: &Listed, detail: impl ToString) -> Self {
        Self { other: Some(other.ulid), ..Self::new(name, detail) }
    }

    fn to_json(&self) -> Value {
        let mut line = json!({ "issue": self.name, "detail": self.detail });
        if let Value::Object(line) = &mut line {
            line.extend(self.file.iter().map(|file| ("file".to_owned(), json!(file))));
            line.extend(self.other.iter().map(|other| ("other".to_owned(), json!(other.to_string()))));
        }
        line
    }
}

impl std::fmt::Display for Issue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.name)?;
        if let Some(file) = &self.file {
            write!(out, " {file}")?;
        }
        if let Some(other) = self.other {
            write!(out, " {other}")?;
        }
        write!(out, ": {}", self.detail)
    }
}

pub(super) fn run(env: &Env, command: &Verify) -> CommandResult {
    let (_runtime, bucket) = command.store.open(env)?;
    let blocks = list(&bucket)?;
    let chosen: Vec<&Listed> =
        blocks.iter().filter(|block| command.id.is_empty() || command.id.contains(&block.ulid)).collect();
    let missing: Vec<String> = command
        .id
        .iter()
        .filter(|id| !blocks.iter().any(|block| block.ulid == **id))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        return Err(format!("no such block: {}", missing.join(", ")).into());
    }
    let mut among = among_each_other(&blocks);
    let scratch = Scratch::new(env, &command.tmp_dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let bar = Bar::new(env, chosen.iter().map(|block| block.size()).sum());
    let mut bad = 0;
    for block in &chosen {
        let mut issues = by_itself(env, &bucket, block, command, scratch.path(), &bar)?;
        issues.extend(among.remove(&block.ulid).unwrap_or_default());
        bad += usize::from(!issues.is_empty());
        bar.clear();
        // As it comes: verifying a bucket takes hours, and who reads this may want to stop it.
        print(|out| match command.output {
            Output::Json => {
                let issues: Vec<_> = issues.iter().map(Issue::to_json).collect();
                let good = issues.is_empty();
                let line =
                    json!({ "block": block.ulid.to_string(), "good": good, "bytes": block.size(), "issues": issues });
                writeln!(out, "{line}")
            }
            Output::Text if issues.is_empty() => writeln!(out, "{}: good, {}", block.ulid, size(block.size())),
            Output::Text => issues.iter().try_for_each(|issue| writeln!(out, "{}: {issue}", block.ulid)),
        })?;
    }
    match bad {
        0 => Ok(()),
        _ => Err(format!("{bad} of {} blocks have issues", chosen.len()).into()),
    }
}

/// What is wrong with a block whatever the others are.
fn by_itself(
    env: &Env,
    bucket: &Bucket,
    block: &Listed,
    command: &Verify,
    scratch: &Path,
    bar: &Bar,
) -> Result<Vec<Issue>, Box<dyn std::error::Error>> {
    let mut issues = Vec::new();
    let age = |since_ms: i64| env.clock.now_ms().saturating_sub(since_ms);
    if let Some(marked) = block.deletion() {
        match marked.map(|seconds| age(seconds.saturating_mul(1000)) / 3_600_000) {
            Some(hours) if hours >= command.delete_delay => {
                issues.push(Issue::new("left-behind", format!("marked for deletion {hours} hours ago")));
            }
            Some(_) => {}
            None => issues.push(Issue::new("left-behind", "marked for deletion, and the mark cannot be read")),
        }
    }
    let meta = match &block.meta {
        Ok(meta) => meta,
        Err(partial) => {
            bar.add(block.size());
            let is_young = age(block.modified_ms) < command.consistency_delay.saturating_mul(60_000);
            match partial {
                Partial::NoMeta if is_young => {}
                Partial::NoMeta => {
                    let detail = format!("{partial}, {} files of {}", block.files.len(), size(block.size()));
                    issues.push(Issue::new("partial-upload", detail));
                }
                Partial::Unreadable(reason) => issues.push(Issue::of_file("unreadable-meta", META_FILE, reason)),
            }
            return Ok(issues);
        }
    };
    files(block, meta, &mut issues);
    if meta.thanos.labels.is_empty() {
        issues.push(Issue::new("no-labels", "there are no external labels, so nobody knows whose samples these are"));
    }
    if meta.block.compaction.sources.is_empty() {
        issues.push(Issue::new("no-sources", "no sources are named, so Thanos takes it for a part of any other block"));
    }
    let dir = scratch.join(block.ulid.to_string());
    env.fs.create_dir_all(&dir)?;
    // One block that cannot be read, or that goes while it is read, is no reason not to look at the others.
    if let Err(error) = fetch(env, bucket, block, &dir, bar) {
        issues.push(Issue::new("unreadable", error));
        env.fs.remove_dir_all(&dir)?;
        return Ok(issues);
    }
    for entry in &meta.thanos.files {
        if let Some(said) = entry.hash.as_ref().filter(|said| said.func == "SHA256")
            && block.files.contains_key(&entry.rel_path)
        {
            let found = hash_file(env.fs.as_ref(), &dir.join(&entry.rel_path), &())?.value;
            if !said.value.eq_ignore_ascii_case(&found) {
                let detail = format!("SHA-256 is {found}, {META_FILE} says {}", said.value);
                issues.push(Issue::of_file("wrong-hash", &entry.rel_path, detail));
            }
        }
    }
    if block.files.contains_key(INDEX_FILE) {
        bar.subject(format_args!("{}: checking", block.ulid));
        if let Err(error) = Block::open(env.fs.as_ref(), &dir).and_then(|opened| opened.verify()) {
            // Paths below the scratch directory mean nothing to a reader.
            let text = error.to_string().replace(&format!("{}/", dir.display()), "");
            issues.push(Issue::new("damaged", text));
        }
    }
    env.fs.remove_dir_all(&dir)?;
    Ok(issues)
}

/// What is wrong with the presence and the sizes of a block's files.
fn files(block: &Listed, meta: &Meta, issues: &mut Vec<Issue>) {
    let listed = &meta.thanos.files;
    for entry in listed {
        match block.files.get(&entry.rel_path) {
            None => issues.push(Issue::of_file("missing-file", &entry.rel_path, format!("{META_FILE} lists it"))),
            Some(&found) if entry.size_bytes != 0 && entry.size_bytes != found => {
                let detail = format!("{found} bytes, {META_FILE} says {}", entry.size_bytes);
                issues.push(Issue::of_file("wrong-size", &entry.rel_path, detail));
            }
            Some(_) => {}
        }
    }
    if listed.is_empty() && !block.files.contains_key(INDEX_FILE) {
        issues.push(Issue::of_file("missing-file", INDEX_FILE, "a block has one"));
    }
    let segments: BTreeSet<&str> = listed.iter().map(|entry| entry.rel_path.as_str()).collect();
    for path in block.files.keys().filter(|path| path.starts_with("chunks/")) {
        if !listed.is_empty() && !segments.contains(path.as_str()) {
            issues.push(Issue::of_file("unlisted-segment", path, format!("{META_FILE} does not list it")));
        }
    }
}

/// What is wrong with blocks beside each other, within a group: blocks of the same labels and resolution.
fn among_each_other(blocks: &[Listed]) -> BTreeMap<Ulid, Vec<Issue>> {
    let mut groups: BTreeMap<_, Vec<(&Listed, &Meta)>> = BTreeMap::new();
    for block in blocks.iter().filter(|block| block.deletion().is_none()) {
        if let Ok(meta) = &block.meta {
            let group = (&meta.thanos.labels, meta.thanos.downsample.resolution);
            groups.entry(group).or_default().push((block, meta));
        }
    }
    let mut issues: BTreeMap<Ulid, Vec<Issue>> = BTreeMap::new();
    for group in groups.into_values() {
        let mut rest: Vec<(&Listed, &Meta)> = Vec::new();
        for &(block, meta) in &group {
            match group.iter().find(|(other, larger)| covers(other, larger, block, meta)) {
                Some((other, _)) => {
                    let detail = "all that it was made of is in the other block too";
                    issues.entry(block.ulid).or_default().push(Issue::with("duplicate", other, detail));
                }
                None => rest.push((block, meta)),
            }
        }
        // Blocks come by their first time: whoever begins before the last end so far lies over the block that has it.
        let mut last: Option<(&Listed, &Meta)> = None;
        for (block, meta) in rest {
            if let Some((other, before)) = last
                && meta.block.min_time < before.block.max_time
            {
                let until = meta.block.max_time.min(before.block.max_time);
                let detail = format!("both cover {} to {until}", meta.block.min_time);
                issues.entry(block.ulid).or_default().push(Issue::with("overlap", other, &detail));
                issues.entry(other.ulid).or_default().push(Issue::with("overlap", block, &detail));
            }
            if last.is_none_or(|(_, before)| before.block.max_time < meta.block.max_time) {
                last = Some((block, meta));
            }
        }
    }
    issues
}

/// Whether all sources of the block `inner` are among those of `outer`. Of two that were made of the same the older stays,
/// as with readers and Thanos's compactor: were another one named here, who deletes it would lose both.
fn covers(outer: &Listed, outer_meta: &Meta, inner: &Listed, inner_meta: &Meta) -> bool {
    let sources = |meta: &Meta| meta.block.compaction.sources.iter().copied().collect::<BTreeSet<Ulid>>();
    let (all, some) = (sources(outer_meta), sources(inner_meta));
    // Blocks without sources have an issue of their own.
    outer.ulid != inner.ulid
        && !some.is_empty()
        && all.is_superset(&some)
        && (all.len() > some.len() || outer.ulid < inner.ulid)
}
