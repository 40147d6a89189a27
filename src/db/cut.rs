//! Writing a part of the head as a block.

use std::path::Path;

use crate::block::{BlockMeta, BlockRead, BlockWriter, TimedChunk, Ulid, new_ulid};
use crate::error::Result;
use crate::fs::Env;
use crate::model::Labels;

/// Writes what `source` holds as a level-1 block in `dir`. `None`: it holds no samples.
pub(super) fn write_head_block(env: &Env, dir: &Path, source: &dyn BlockRead) -> Result<Option<Ulid>> {
    let range = source.time_range();
    let ulid = new_ulid(env);
    let mut meta = BlockMeta::new(ulid, range.min, range.max.saturating_add(1));
    meta.compaction.level = 1;
    meta.compaction.sources = vec![ulid];
    let mut writer = BlockWriter::create(&env.fs, dir, meta)?;
    for symbol in source.symbols()? {
        writer.add_symbol(&symbol?)?;
    }
    let (mut labels, mut metas, mut chunks) = (Labels::empty(), Vec::new(), Vec::new());
    for id in source.select(&[])? {
        source.series(id, &mut labels, &mut metas)?;
        chunks.clear();
        for meta in &metas {
            let (min_time, max_time) = (meta.min_time, meta.max_time);
            chunks.push(TimedChunk { min_time, max_time, chunk: source.chunk(meta)? });
        }
        if !chunks.is_empty() {
            writer.add_series(&labels, &chunks)?;
        }
    }
    Ok(writer.finish()?.map(|meta| meta.ulid))
}
