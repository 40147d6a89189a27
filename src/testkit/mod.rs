//! For tests, ours and those of programs that embed the crate: a machine that can be crashed at any operation, a model of
//! what a database must answer, strategies for `proptest`, and the workload that all figures are measured with.
//!
//! A program that stores through this crate tests itself in the same way as the crate does: it runs on a simulated
//! machine, keeps a [`ModelDb`] of what it was told is stored, crashes the machine wherever it likes, and compares. The
//! example in [`ModelDb`]'s file does it once; [`CheckedDb`] does it after every [`Operation`], and with [`strategy`]
//! `proptest` looks for a sequence that goes wrong and shrinks it:
//!
//! ```
//! use narthex::testkit::{CheckedDb, strategy};
//! use narthex::{Durability, Options};
//! use proptest::prelude::*;
//!
//! let sequence = strategy::pool(4).prop_flat_map(|pool| {
//!     let scope = strategy::Scope { reach: 60_000, faults: true, beside: true };
//!     prop::collection::vec(strategy::operation(&pool, scope), 1..40)
//! });
//! proptest!(ProptestConfig::with_cases(8), |(sequence in sequence, seed: u64)| {
//!     let options = Options { durability: Durability::Sync, min_block_duration: 60_000, ..Options::default() };
//!     let mut db = CheckedDb::open(seed, options).unwrap();
//!     for operation in &sequence {
//!         // A program's own invariants would be looked at here, too.
//!         db.apply(operation).unwrap();
//!     }
//! });
//! ```
//!
//! [`MemorySource`] holds series for whatever reads them, and `script` runs Prometheus's tests of PromQL.
//! [`Env::simulated`](crate::fs::Env::simulated) gives the machine. Nothing here is compiled without the feature
//! `testkit`.

mod annotations;
mod checked;
#[cfg(feature = "bucket")]
mod faulty_store;
pub mod fuzz;
pub mod jsonl;
mod memory;
mod model;
#[cfg(feature = "promql")]
pub mod script;
pub mod strategy;
mod workload;

pub use crate::fs::sim::{CrashPoint, Image, Op, OpKind, PowerCut, START_MS, SimHandle, splitmix64};
pub use checked::CheckedDb;
#[cfg(feature = "bucket")]
pub use faulty_store::{FaultyStore, StoreFault};
pub use memory::MemorySource;
pub use model::{Content, Difference, ModelDb, content, same_sample};
pub use strategy::Operation;
pub use workload::{STEP_MS, T0, TARGET, Values, Workload, series_labels};
