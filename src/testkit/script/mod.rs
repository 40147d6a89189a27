//! Prometheus's language for tests of PromQL.
//!
//! ```text
//! load 30s
//!     requests{job="a"} 0+10x10
//! eval instant at 5m rate(requests[2m])
//!     {job="a"} 0.3333333333333333
//! eval range from 0 to 1m step 30s requests
//!     requests{job="a"} 0 10 20
//! clear
//! ```
//!
//! `series` reads a series' values, `parse` the commands, `run` runs them. Behind `eval`, `expect` lines ask for failures,
//! warnings, an order. An instant evaluation is also run fixed with `@` at other times, and as a step of a range query:
//! that all these agree is half of what such a test tests.

mod nhcb;
mod parse;
mod run;
mod series;

pub use parse::{Command, Eval, Expectation, Expected, Load, LoadedSeries, Message, ScriptError, Timing, parse_script};
pub use run::{Failure, Report, run_script, test_engine};
pub use series::{Point, parse_points};
