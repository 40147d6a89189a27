//! What the programs share: HTTP routers over the library, and the metrics, flags and logs around them.
//!
//! [`App`] is what a router serves: a [`Storage`] (a data directory that is owned, or one that is only read) behind a gate
//! that is closed until it is open. [`routes::router`] puts the paths of Prometheus on it: the query API ([`api`]), remote
//! write ([`mod@write`]) where the storage takes it, the
//! handful of paths that every monitored program has ([`ops`]), and the pages for people (`ui`).
//!
//! The library is synchronous. A request is read and answered by the async runtime; what happens in between (decode,
//! append, evaluate, compress) runs on threads for blocking work, of which each kind has a small fixed number: see
//! [`Limits`]. What does not fit waits or is sent away, so that a burst costs time and not memory.

pub mod api;
pub mod app;
pub mod combined;
pub mod directory;
pub mod flags;
pub mod form;
pub mod json;
pub mod logs;
pub mod metrics;
pub mod objstore;
pub mod ops;
pub mod routes;
pub mod server;
pub mod storage;
mod ui;
pub mod write;

pub use app::{App, Limits};
pub use storage::{BlockRow, BlocksStatus, Place, Storage, StorageStatus, Written};
