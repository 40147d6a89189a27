//! PromQL: text in, answers out.
//!
//! A query passes through here front to back. `lexer` and `parser` turn its text into the tree of `ast`, every node with
//! the bytes it came from, so that an error can point at its cause. `functions` is the table of what can be called and
//! with which types; `parser` checks against it. `printer` turns a tree back into the text that annotations and label
//! names quote. The language and its error texts are those of Prometheus 3.14.

#![warn(clippy::indexing_slicing)]

pub mod ast;
mod error;
pub mod functions;

pub use error::ParseError;
