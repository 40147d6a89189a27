//! Why a query's text is not a query.

use std::fmt;

use super::ast::Span;
use crate::error::{Error, ErrorKind};

/// A mistake in a query's text, with the place it was found at. Displayed as Prometheus does: `1:5: parse error: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: parse error: {message}", Position::of(query, *span))]
pub struct ParseError {
    /// The bytes of the query that are at fault. May reach past the end, when something is missing there.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// The query.
    pub query: String,
}

impl ParseError {
    /// Line and column of the first byte at fault, both counted from 1, the column in bytes; `None` if the query is
    /// empty or the span lies outside.
    #[must_use]
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        match Position::of(&self.query, self.span) {
            Position::At { line, column } => Some((line, column)),
            Position::Unknown | Position::Invalid => None,
        }
    }
}

enum Position {
    Unknown,
    Invalid,
    At { line: usize, column: usize },
}

impl Position {
    fn of(query: &str, span: Span) -> Self {
        if query.is_empty() {
            return Self::Unknown;
        }
        let Some(before) = query.as_bytes().get(..span.start) else { return Self::Invalid };
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Self::At { line, column: span.start - line_start + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => out.write_str("unknown position"),
            Self::Invalid => out.write_str("invalid position"),
            Self::At { line, column } => write!(out, "{line}:{column}"),
        }
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        Self::new(ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(query: &str, start: usize) -> String {
        ParseError { span: Span::new(start, start + 1), message: "no".into(), query: query.into() }.to_string()
    }

    #[test]
    fn a_position_is_a_line_and_a_column_counted_from_one() {
        assert_eq!(at("a +", 3), "1:4: parse error: no");
        assert_eq!(at("a\n  b", 4), "2:3: parse error: no");
    }

    #[test]
    fn a_position_that_cannot_be_said_is_said_to_be_unknown() {
        assert_eq!(at("", 0), "unknown position: parse error: no");
        assert_eq!(at("a", 7), "invalid position: parse error: no");
    }
}
