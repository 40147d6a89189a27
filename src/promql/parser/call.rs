//! Aggregations and calls.

use super::{AGGREGATION, Expected, Node, Parsed, Parser, Stop, is_label_name, node, starts_expression};
use crate::promql::ast::{Aggregate, AggregateOp, Call, Expr, Span, StringLiteral};
use crate::promql::functions::Function;
use crate::promql::lexer::{Keyword, Token, TokenKind, quote};

impl<'a> Parser<'a> {
    pub(super) fn aggregate_or_name(&mut self) -> Parsed<Node> {
        let name = self.bump();
        let starts_aggregation = matches!(
            self.peek(),
            TokenKind::LeftParen | TokenKind::Keyword(Keyword::By) | TokenKind::Keyword(Keyword::Without)
        );
        let TokenKind::Aggregate(op) = name.kind else { return self.named(name) };
        if !starts_aggregation {
            return self.named(name);
        }
        let outer = std::mem::replace(&mut self.expected, AGGREGATION);
        let before = self.grouping_modifier()?;
        let (args, end) = self.arguments()?;
        let (grouping, end) = match before {
            Some(before) => (Some(before), end),
            None => self.grouping_modifier()?.map_or((None, end), |after| (Some(after), self.last_end)),
        };
        self.expected = outer;
        self.aggregate(op, Span::new(name.span.start, end), grouping, args)
    }

    fn aggregate(
        &mut self,
        op: AggregateOp,
        span: Span,
        modifier: Option<(Vec<String>, bool)>,
        args: Vec<Node>,
    ) -> Parsed<Node> {
        let (grouping, without) = modifier.unwrap_or_default();
        let height = args.iter().map(|arg| arg.height).max().unwrap_or_default() + 1;
        self.check_depth(height)?;
        let wanted = if op.param().is_some() { 2 } else { 1 };
        let given = args.len();
        let mut args = args.into_iter().map(|arg| Box::new(arg.expr));
        if given == 0 {
            self.report(span, "no arguments for aggregate expression provided");
        } else if op.is_experimental() && !self.options.experimental_functions {
            let flag = "--enable-feature=promql-experimental-functions";
            self.report(span, format!("{op}() is experimental and must be enabled with {flag}"));
        } else if given != wanted {
            let message = "wrong number of arguments for aggregate expression provided";
            self.report(span, format!("{message}, expected {wanted}, got {given}"));
        }
        let param = if wanted == 2 { args.next() } else { None };
        let Some(expr) = args.next() else { return Err(self.stopped(span)) };
        let aggregate = Aggregate { op, expr, param, grouping, without, span };
        Ok(node(Expr::Aggregate(aggregate), height))
    }

    /// Gives up behind a mistake that has been reported; one that has not would be ours.
    fn stopped(&mut self, span: Span) -> Stop {
        if self.errors.is_empty() {
            self.report(span, "unexpected error");
        }
        Stop
    }

    /// The labels of `by (a, b)` or `without (a, b)`, and whether it is the latter.
    fn grouping_modifier(&mut self) -> Parsed<Option<(Vec<String>, bool)>> {
        let without = match self.peek() {
            TokenKind::Keyword(Keyword::By) => false,
            TokenKind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.bump();
        Ok(Some((self.labels()?, without)))
    }

    /// `(a, b)`
    pub(super) fn labels(&mut self) -> Parsed<Vec<String>> {
        const GROUPING: &str = "grouping opts";
        if self.accept(TokenKind::LeftParen).is_none() {
            return Err(self.unexpected_in(Expected(GROUPING, "\"(\"")));
        }
        let mut labels = Vec::new();
        loop {
            if self.accept(TokenKind::RightParen).is_some() {
                return Ok(labels);
            }
            let kind = self.peek();
            if kind != TokenKind::String && !is_label_name(kind) {
                return Err(self.unexpected_in(Expected(GROUPING, "label")));
            }
            let token = self.bump();
            let label = if kind == TokenKind::String { self.unquote(&token) } else { token.text.to_owned() };
            if label.is_empty() {
                self.report(token.span, format!("invalid label name for grouping: {}", quote(&label)));
            }
            labels.push(label);
            if self.accept(TokenKind::Comma).is_none() && self.peek() != TokenKind::RightParen {
                return Err(self.unexpected_in(Expected(GROUPING, "\",\" or \")\"")));
            }
        }
    }

    /// `(a, b)`, and where it ends.
    fn arguments(&mut self) -> Parsed<(Vec<Node>, usize)> {
        self.require(TokenKind::LeftParen)?;
        let mut args = Vec::new();
        if let Some(close) = self.accept(TokenKind::RightParen) {
            return Ok((args, close.span.end));
        }
        loop {
            args.push(self.binary(0)?);
            if let Some(comma) = self.accept(TokenKind::Comma) {
                if !starts_expression(self.peek()) {
                    if self.peek() == TokenKind::Error {
                        return Err(self.unexpected());
                    }
                    self.report(comma.span, "trailing commas not allowed in function call args");
                    return Err(Stop);
                }
            } else {
                let close = self.require(TokenKind::RightParen)?;
                return Ok((args, close.span.end));
            }
        }
    }

    pub(super) fn call(&mut self, name: Token<'a>) -> Parsed<Node> {
        let (args, end) = self.arguments()?;
        let span = Span::new(name.span.start, end);
        let height = args.iter().map(|arg| arg.height).max().unwrap_or_default() + 1;
        self.check_depth(height)?;
        let args: Vec<Expr> = args.into_iter().map(|arg| arg.expr).collect();
        let Some(function) = Function::by_name(name.text) else {
            self.report(name.span, format!("unknown function with name {}", quote(name.text)));
            // Something to read on with: the text has been refused.
            return Ok(node(Expr::String(StringLiteral { value: String::new(), span }), 1));
        };
        if function.experimental && !self.options.experimental_functions {
            self.report(name.span, format!("function {} is not enabled", quote(name.text)));
        }
        Ok(node(Expr::Call(Call { function, args, span }), height))
    }
}
