//! For tests, ours and those of programs that embed the crate: a machine that can be crashed at any operation, and the
//! workload that all figures are measured with.
//!
//! [`MemorySource`] holds series for whatever reads them, and `script` runs Prometheus's tests of PromQL.
//! [`Env::simulated`](crate::fs::Env::simulated) gives the machine. Nothing here is compiled without the feature
//! `testkit`.

#[cfg(feature = "bucket")]
mod faulty_store;
pub mod fuzz;
pub mod jsonl;
mod memory;
#[cfg(feature = "promql")]
pub mod script;
mod workload;

pub use crate::fs::sim::{CrashPoint, Image, Op, OpKind, PowerCut, START_MS, SimHandle, splitmix64};
#[cfg(feature = "bucket")]
pub use faulty_store::{FaultyStore, StoreFault};
pub use memory::MemorySource;
pub use workload::{STEP_MS, T0, Values, Workload, series_labels};
