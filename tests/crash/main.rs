//! Crashes, enumerated: scripted work on a simulated machine is stopped at every operation, every disk that the crash may
//! leave is started again, and what was promised is looked for.
//!
//! Three things are asked of each image. What was *promised* by then is there: after a killed process, all that was
//! acknowledged; after a power cut, all that a sync had covered. Nothing is there that was never written. And recovering
//! a second time finds what the first found and changes nothing.
//!
//! Up to six changes that were not synced, all images are made; beyond, seeded samples of them. How many is for
//! `NARTHEX_CRASH_SAMPLES` to say (20 a crash point without it, so that a change can be tested in a minute). Of the longest
//! lives one operation in 29 is looked at, with hundreds of samples one in 7, and each with `NARTHEX_CRASH_STRIDE=1`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests fail as tests do")]

mod annotations;
mod blocks;
mod db;
mod everything;
mod faults;
mod head;
mod history;
mod late;
mod wal;
