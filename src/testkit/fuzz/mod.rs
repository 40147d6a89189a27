//! What the fuzz targets do with their input, as plain functions: `fuzz/` runs them on what libFuzzer makes up,
//! `tests/fuzz_corpus.rs` on the inputs kept in `testdata/fuzz/`.
//!
//! A new target is a function here, a line in [`TARGETS`], three lines in `fuzz/fuzz_targets/NAME.rs`, a `[[bin]]` in
//! `fuzz/Cargo.toml`, and a few small inputs in `testdata/fuzz/NAME/`; the test says which of them is missing. A function
//! panics when it has found something. A decoder's function also holds what was decoded against a second way to get it:
//! "does not panic" alone finds little.

mod block;
#[cfg(feature = "bucket")]
mod bucket;
#[cfg(feature = "bucket")]
mod bucket_cache;
mod chunk;
mod encoded;
mod head_append;
mod head_chunks;
mod head_snapshot;
mod input;
#[cfg(feature = "promql")]
mod promql;
#[cfg(feature = "wire")]
mod remote_write;
mod wal;

pub use block::{index, matcher, meta_json, segment, tombstones};
#[cfg(feature = "bucket")]
pub use bucket::{store_config, thanos_meta};
#[cfg(feature = "bucket")]
pub use bucket_cache::{bucket_list, index_header};
pub use chunk::{
    chunk_aggregates, chunk_float_histogram, chunk_histogram, chunk_histogram_round_trip, chunk_st, chunk_writer,
    chunk_xor, chunk_xor_round_trip, chunk_xor2, chunk_xor2_round_trip, downsample,
};
pub use encoded::encoded_chunks;
pub use head_append::head_append;
pub use head_chunks::head_chunks;
pub use head_snapshot::head_snapshot;
#[cfg(feature = "promql")]
pub use promql::{promql_parse, promql_script};
#[cfg(feature = "wire")]
pub use remote_write::{openmetrics, remote_write_v1, remote_write_v2};
pub use wal::{wal_record, wal_segment, wal_segment_round_trip};

/// A fuzz target's body.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "bucket")]
    ("bucket_list", bucket_list),
    ("chunk_aggregates", chunk_aggregates),
    ("chunk_float_histogram", chunk_float_histogram),
    ("chunk_histogram", chunk_histogram),
    ("chunk_histogram_round_trip", chunk_histogram_round_trip),
    ("chunk_st", chunk_st),
    ("chunk_writer", chunk_writer),
    ("chunk_xor", chunk_xor),
    ("chunk_xor2", chunk_xor2),
    ("chunk_xor2_round_trip", chunk_xor2_round_trip),
    ("chunk_xor_round_trip", chunk_xor_round_trip),
    ("downsample", downsample),
    ("head_append", head_append),
    ("head_chunks", head_chunks),
    ("head_snapshot", head_snapshot),
    ("index", index),
    #[cfg(feature = "bucket")]
    ("index_header", index_header),
    ("matcher", matcher),
    ("meta_json", meta_json),
    #[cfg(feature = "wire")]
    ("openmetrics", openmetrics),
    #[cfg(feature = "promql")]
    ("promql_parse", promql_parse),
    #[cfg(feature = "promql")]
    ("promql_script", promql_script),
    #[cfg(feature = "wire")]
    ("remote_write_v1", remote_write_v1),
    #[cfg(feature = "wire")]
    ("remote_write_v2", remote_write_v2),
    ("segment", segment),
    #[cfg(feature = "bucket")]
    ("store_config", store_config),
    #[cfg(feature = "bucket")]
    ("thanos_meta", thanos_meta),
    ("tombstones", tombstones),
    ("wal_record", wal_record),
    ("wal_segment", wal_segment),
    ("wal_segment_round_trip", wal_segment_round_trip),
];
