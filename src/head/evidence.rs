//! What the program that left a directory was told, where its log does not say.
//!
//! A log with start timestamps does not tell whether histograms had them in chunks too: that is a setting of its own, and
//! with it off queries never saw them. Its blocks tell, and its head chunks.

use std::path::Path;

use super::mapped::{CHUNKS_HEAD_DIR, MappedChunks};
use super::rules::HistogramStarts;
use crate::block::{Block, BlockRead as _, Ulid};
use crate::chunk::Encoding;
use crate::fs::Env;
use crate::model::Labels;

/// Whether the histograms of the newest block in `dir` that has some have start timestamps, or, if no block can tell, those
/// of the newest head chunk that has some; `None` if nothing can tell.
pub(super) fn histogram_starts(env: &Env, dir: &Path) -> Option<HistogramStarts> {
    let entries = env.fs.list(dir).ok()?;
    let mut blocks: Vec<_> = entries.into_iter().filter(|it| it.is_dir && it.name.parse::<Ulid>().is_ok()).collect();
    // Their names are ascending in time.
    blocks.sort_unstable_by(|a, b| b.name.cmp(&a.name));
    let in_blocks = blocks.iter().find_map(|entry| in_block(env, &dir.join(&entry.name)));
    in_blocks.or_else(|| in_head_chunks(env, &dir.join(CHUNKS_HEAD_DIR)))
}

/// What head chunks tell.
fn in_head_chunks(env: &Env, dir: &Path) -> Option<HistogramStarts> {
    let opened = MappedChunks::open_read_only(env, dir).ok()?;
    opened.loaded.iter().rev().find_map(|chunk| told_by(chunk.encoding))
}

fn told_by(encoding: Encoding) -> Option<HistogramStarts> {
    match encoding {
        Encoding::Xor | Encoding::Xor2 => None,
        Encoding::Histogram | Encoding::FloatHistogram => Some(HistogramStarts::Never),
        Encoding::HistogramSt | Encoding::FloatHistogramSt => Some(HistogramStarts::Always),
    }
}

/// What a block tells. One that cannot be read tells nothing: who serves blocks says so.
fn in_block(env: &Env, dir: &Path) -> Option<HistogramStarts> {
    let block = Block::open(env.fs.as_ref(), dir).ok()?;
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    for id in block.select(&[]).ok()? {
        block.series(id, &mut labels, &mut chunks).ok()?;
        let Some(meta) = chunks.last() else { continue };
        let chunk = block.chunk(meta).ok()?;
        let told = told_by(chunk.encoding);
        if told.is_some() {
            return told;
        }
    }
    None
}
