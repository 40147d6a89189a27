//! Duration arithmetic: what stands in brackets and behind `offset`.
//!
//! In brackets it has the precedences of ordinary arithmetic. Behind `offset` it ends as early as it can, so that
//! `a offset 5m + b` adds `b` to the offset vector; only what begins with a parenthesis or with two signs goes on.

use super::ast::{BinaryOp, DurationExpr, DurationOp, Extent, Span, out_of_range};
use super::lexer::{Keyword, TokenKind};
use super::parser::{Parsed, Parser, precedence};

/// A range's or a step's duration, which must be above zero.
pub(super) fn positive(parser: &mut Parser<'_>) -> Parsed<Extent> {
    let expr = expression(parser, 0)?;
    if let DurationExpr::Literal(number) = &expr
        && number.value <= 0.0
    {
        let span = number.span;
        parser.report(span, "duration must be greater than 0");
    }
    Ok(extent(expr))
}

/// An offset's duration, and where it ends.
pub(super) fn offset(parser: &mut Parser<'_>) -> Parsed<(Extent, usize)> {
    let expr = match sign(parser) {
        None if parser.peek() == TokenKind::LeftParen => expression(parser, 0)?,
        None => operand(parser)?,
        Some((minus, span)) if sign_ahead(parser).is_some() => {
            let inner = expression(parser, precedence(BinaryOp::Mul) + 1)?;
            let signed = apply_sign(parser, minus, span, inner);
            climb(parser, signed, 0)?
        }
        Some((minus, span)) => {
            let inner = operand(parser)?;
            apply_sign(parser, minus, span, inner)
        }
    };
    let end = expr.span().end;
    Ok((extent(expr), end))
}

/// A literal is computed once and for all; the rest waits for the query's step and range.
fn extent(expr: DurationExpr) -> Extent {
    match expr {
        // Through nanoseconds, as the original holds it: what is below a millisecond is cut off, not rounded.
        DurationExpr::Literal(number) => Extent::Fixed((number.value * 1e9).round() as i64 / 1_000_000),
        expr => Extent::Expr(Box::new(expr)),
    }
}

fn sign_ahead(parser: &mut Parser<'_>) -> Option<bool> {
    match parser.peek() {
        TokenKind::Operator(BinaryOp::Add) => Some(false),
        TokenKind::Operator(BinaryOp::Sub) => Some(true),
        _ => None,
    }
}

fn sign(parser: &mut Parser<'_>) -> Option<(bool, Span)> {
    let minus = sign_ahead(parser)?;
    Some((minus, parser.bump().span))
}

fn expression(parser: &mut Parser<'_>, least: u8) -> Parsed<DurationExpr> {
    parser.deeper(|parser| {
        let left = match sign(parser) {
            Some((minus, span)) => {
                let inner = expression(parser, precedence(BinaryOp::Mul) + 1)?;
                apply_sign(parser, minus, span, inner)
            }
            None => operand(parser)?,
        };
        climb(parser, left, least)
    })
}

/// Operators behind `left` that bind at least as tight as `least`.
fn climb(parser: &mut Parser<'_>, mut left: DurationExpr, least: u8) -> Parsed<DurationExpr> {
    let mut links = 0;
    while let TokenKind::Operator(operator) = parser.peek() {
        let op = match operator {
            BinaryOp::Add => DurationOp::Add,
            BinaryOp::Sub => DurationOp::Sub,
            BinaryOp::Mul => DurationOp::Mul,
            BinaryOp::Div => DurationOp::Div,
            BinaryOp::Mod => DurationOp::Mod,
            BinaryOp::Pow => DurationOp::Pow,
            _ => break,
        };
        let binding = precedence(operator);
        if binding < least {
            break;
        }
        links += 1;
        parser.check_depth(links)?;
        let place = parser.bump().span;
        let right = expression(parser, if op == DurationOp::Pow { binding } else { binding + 1 })?;
        experimental(parser, left.span());
        if matches!(&right, DurationExpr::Literal(number) if number.value == 0.0) {
            match op {
                DurationOp::Div => parser.report(place, "division by zero"),
                DurationOp::Mod => parser.report(place, "modulo by zero"),
                _ => {}
            }
        }
        let span = left.span().to(right.span());
        left = DurationExpr::Binary { op, lhs: Box::new(left), rhs: Box::new(right), wrapped: false, span };
    }
    Ok(left)
}

fn operand(parser: &mut Parser<'_>) -> Parsed<DurationExpr> {
    match parser.peek() {
        TokenKind::Number | TokenKind::Duration => {
            let mut number = parser.number();
            if out_of_range(number.value) {
                parser.report(number.span, "duration out of range");
                number.value = 0.0;
            }
            Ok(DurationExpr::Literal(number))
        }
        TokenKind::Keyword(keyword @ (Keyword::Step | Keyword::Range)) => {
            let name = parser.bump().span;
            parser.require(TokenKind::LeftParen)?;
            let span = name.to(parser.require(TokenKind::RightParen)?.span);
            experimental(parser, span);
            let wrapped = false;
            Ok(match keyword {
                Keyword::Step => DurationExpr::Step { wrapped, span },
                _ => DurationExpr::Range { wrapped, span },
            })
        }
        TokenKind::Keyword(keyword @ (Keyword::MinOf | Keyword::MaxOf)) => {
            let name = parser.bump().span;
            parser.require(TokenKind::LeftParen)?;
            let lhs = Box::new(expression(parser, 0)?);
            parser.require(TokenKind::Comma)?;
            let rhs = Box::new(expression(parser, 0)?);
            let span = name.to(parser.require(TokenKind::RightParen)?.span);
            experimental(parser, span);
            let op = if keyword == Keyword::MinOf { DurationOp::MinOf } else { DurationOp::MaxOf };
            Ok(DurationExpr::Binary { op, lhs, rhs, wrapped: false, span })
        }
        TokenKind::LeftParen => {
            parser.bump();
            let inner = expression(parser, 0)?;
            parser.require(TokenKind::RightParen)?;
            experimental(parser, inner.span());
            Ok(wrap(inner))
        }
        _ => Err(parser.unexpected()),
    }
}

/// Parentheses around a literal mean nothing and are not kept; their bytes belong to no span, as in the original.
fn wrap(mut expr: DurationExpr) -> DurationExpr {
    match &mut expr {
        DurationExpr::Literal(_) => {}
        DurationExpr::Step { wrapped, .. }
        | DurationExpr::Range { wrapped, .. }
        | DurationExpr::Negate { wrapped, .. }
        | DurationExpr::Binary { wrapped, .. } => *wrapped = true,
    }
    expr
}

fn apply_sign(parser: &mut Parser<'_>, minus: bool, place: Span, expr: DurationExpr) -> DurationExpr {
    match expr {
        DurationExpr::Literal(mut number) => {
            if minus {
                number.value = -number.value;
            }
            number.span.start = place.start;
            if out_of_range(number.value) {
                parser.report(place, "duration out of range");
                number.value = 0.0;
            }
            DurationExpr::Literal(number)
        }
        expr if minus => {
            let span = place.to(expr.span());
            DurationExpr::Negate { expr: Box::new(expr), wrapped: false, span }
        }
        expr => expr,
    }
}

fn experimental(parser: &mut Parser<'_>, span: Span) {
    if !parser.options.duration_expressions {
        parser.report(span, "experimental duration expression is not enabled");
    }
}
