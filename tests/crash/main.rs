//! Crashes, enumerated: scripted work on a simulated machine is stopped at every operation, every disk that the crash may
//! leave is started again, and what was promised is looked for.
//!
//! Three things are asked of each image. What was *promised* by then is there: after a killed process, all that was
//! acknowledged; after a power cut, all that a sync had covered. Nothing is there that was never written. And recovering
//! a second time finds what the first found and changes nothing.
//!
//! Up to six changes that were not synced, all images are made; beyond, seeded samples of them. How many is for
//! `NARTHEX_CRASH_SAMPLES` to say (20 a crash point without it, so that a change can be tested in a minute).

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod db;
mod everything;
mod faults;
mod head;
mod history;
mod late;
mod wal;
