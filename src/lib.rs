//! Embedded time-series storage whose directories, blocks and wire formats are those of Prometheus and Thanos.

pub mod block;
pub mod budget;
pub mod chunk;
pub mod codec;
pub mod compact;
pub mod db;
pub mod error;
pub mod fs;
pub mod head;
pub mod index;
pub mod model;
#[cfg(feature = "promql")]
pub mod promql;
pub mod query;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod wal;
#[cfg(feature = "wire")]
pub mod wire;
