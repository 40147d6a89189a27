//! Blocks read where they lie in a bucket: what it costs, that the answers are those of the same blocks on a disk, and
//! what becomes of damage.

#![cfg(feature = "bucket")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod answers;
mod damage;
mod listing;
mod requests;
mod support;
