//! PromQL: text in, answers out.
//!
//! A query passes through here front to back. `lexer` and `parser` turn its text into the tree of `ast`, every node with
//! the bytes it came from, so that an error can point at its cause. `functions` is the table of what can be called and
//! with which types; `check` holds the tree against it. `printer` turns a tree back into the text that annotations and label
//! names quote. `plan` makes a tree ready to be run, `exec` runs it, and `engine` is the door: [`Engine::instant`] and
//! [`Engine::range`]. The language, its answers and its error texts are those of Prometheus 3.14.

#![warn(clippy::indexing_slicing)]

mod annotation;
pub mod ast;
mod check;
mod duration;
mod engine;
mod error;
mod exec;
pub mod functions;
mod histogram_ops;
mod lexer;
mod literal;
mod parser;
mod plan;
mod printer;
#[cfg(test)]
mod tests;
mod tree;
mod value;

pub use engine::{Engine, EngineOptions};
pub use error::ParseError;
pub use literal::{format_duration, parse_duration};
pub use parser::{MAX_DEPTH, MAX_NESTING, ParseOptions, parse, parse_selector, parse_series, parse_with};
pub use printer::{format_float, format_general, pretty};
pub use tree::to_json;
pub use value::{InstantSample, QueryResult, QueryStats, RangeSeries, SampleValue, Value};
