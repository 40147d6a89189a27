//! The text of queries, and of their tests.

use crate::promql::ast::{At, Expr};
use crate::promql::{parse, parse_selector, parse_series, pretty, to_json};
use crate::testkit::script::{parse_points, parse_script};

/// Times up to this many milliseconds are floats without rounding, and so are written as they were read.
const EXACT: i64 = 1 << 53;

/// Reads a query. What is read is written, and what is written reads back as the same; mistakes have a place in the text.
pub fn promql_parse(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    let _ = parse_selector(query);
    if let Ok((_, end)) = parse_series(query) {
        assert!(query.is_char_boundary(end), "a series ends inside a character");
    }
    let expr = match parse(query) {
        Ok(expr) => expr,
        Err(error) => {
            assert!(query.is_empty() || error.line_and_column().is_some(), "{error}");
            return;
        }
    };
    check_spans(&expr, query);
    let _ = to_json(&expr);
    let text = expr.to_string();
    // These two are written as the original writes them, which cannot be read back: a range below a millisecond, and a time
    // beyond what a float can tell.
    if text.contains("[0s") || text.contains(":0s]") || !times_are_exact(&expr) {
        return;
    }
    let again = parse(&text).map(|expr| expr.to_string());
    assert_eq!(again.as_ref(), Ok(&text), "of {query:?}");
    let laid_out = pretty(&expr);
    assert_eq!(parse(&laid_out).map(|expr| expr.to_string()), Ok(text), "{laid_out}");
}

fn check_spans(expr: &Expr, query: &str) {
    let span = expr.span();
    assert!(query.get(span.start..span.end).is_some(), "{expr} at {span:?}");
    expr.for_each_child(|child| check_spans(child, query));
}

fn times_are_exact(expr: &Expr) -> bool {
    let at = match expr {
        Expr::Vector(selector) => selector.at,
        Expr::Matrix(matrix) => matrix.selector.at,
        Expr::Subquery(subquery) => subquery.at,
        _ => None,
    };
    let mut exact = !matches!(at, Some(At::Time(t)) if t.unsigned_abs() >= EXACT.unsigned_abs());
    expr.for_each_child(|child| exact &= times_are_exact(child));
    exact
}

/// Reads a test file. A mistake has a line, and one command's mistake leaves the others.
pub fn promql_script(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count();
    for error in parse_script(text).iter().filter_map(|command| command.as_ref().err()) {
        assert!((1..=lines).contains(&error.line), "{error}");
    }
    let _ = parse_points(text);
}
