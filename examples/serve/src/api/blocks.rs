//! The blocks: `/status/tsdb/blocks` as Prometheus answers it, and `/status/blocks`, which also knows buckets and damage.

use serde_json::{Map, Value, json};

use super::{Answer, ApiError, ApiErrorKind, Call, value};
use crate::storage::BlockRow;

/// The blocks of the data directory that are served.
pub(super) fn tsdb_blocks(call: &Call) -> Result<Answer, ApiError> {
    let status = call.storage.blocks()?;
    let local = status.rows().into_iter().filter(|row| row.local);
    let metas: Result<Vec<_>, _> = local
        .filter_map(|row| row.meta.clone())
        .map(|mut meta| {
            // What others wrote into the file is not Prometheus's to answer.
            meta.extra.clear();
            meta.stats.extra.clear();
            meta.compaction.extra.clear();
            serde_json::to_value(meta)
        })
        .collect();
    let metas = metas.map_err(|error| ApiError { kind: ApiErrorKind::Internal, text: error.to_string() })?;
    value(&json!({ "blocks": metas }))
}

/// All blocks, a row each.
pub(super) fn blocks(call: &Call) -> Result<Answer, ApiError> {
    let status = call.storage.blocks()?;
    let rows: Vec<_> = status.rows().into_iter().map(row).collect();
    value(&json!({ "bucket": status.bucket, "blocks": rows }))
}

fn row(row: &BlockRow) -> Value {
    let places: Vec<_> = [(row.local, "local"), (row.bucket, "bucket")]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect();
    let mut out = json!({ "ulid": row.ulid, "places": places, "bytes": row.bytes, "problem": row.problem });
    let (Some(meta), Value::Object(out)) = (&row.meta, &mut out) else { return out };
    let none = Map::new();
    let thanos = meta.extra.get("thanos").and_then(Value::as_object).unwrap_or(&none);
    let hints = || if meta.compaction.hints.is_empty() { "head".to_owned() } else { meta.compaction.hints.join(", ") };
    let source = thanos.get("source").and_then(Value::as_str).map_or_else(hints, str::to_owned);
    let resolution = thanos.get("downsample").and_then(|downsample| downsample.get("resolution"));
    for (name, field) in [
        ("minTime", json!(meta.min_time)),
        ("maxTime", json!(meta.max_time)),
        ("level", json!(meta.compaction.level)),
        ("sources", json!(meta.compaction.sources.len())),
        ("series", json!(meta.stats.num_series)),
        ("samples", json!(meta.stats.num_samples)),
        ("chunks", json!(meta.stats.num_chunks)),
        ("tombstones", json!(meta.stats.num_tombstones)),
        ("labels", thanos.get("labels").cloned().unwrap_or_else(|| json!({}))),
        ("resolution", resolution.cloned().unwrap_or_else(|| json!(0))),
        ("source", json!(source)),
    ] {
        out.insert(name.to_owned(), field);
    }
    Value::Object(std::mem::take(out))
}
