//! Selectors, and what stands behind them: brackets, `offset`, `@`, `anchored`, `smoothed`.

use super::{AT, BRACKETS, Deep, Expected, Node, OFFSET, Parsed, Parser, is_metric_name, node};
use crate::model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher};
use crate::promql::ast::{At, BinaryOp, Edges, Expr, Extent, MatrixSelector, Span, Subquery, VectorSelector};
use crate::promql::lexer::{Keyword, Token, TokenKind};
use crate::promql::{duration, printer};

impl<'a> Parser<'a> {
    /// The selector whose name, if it has one, is `name`.
    pub(super) fn selector(&mut self, name: Option<Token<'a>>) -> Parsed<VectorSelector> {
        let mut span = name.as_ref().map(|name| name.span);
        let mut matchers = Vec::new();
        if self.peek() == TokenKind::LeftBrace {
            let braces = self.matchers(&mut matchers)?;
            span = Some(span.map_or(braces, |span| span.to(braces)));
        }
        let name = name.map(|token| token.text.to_owned());
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        Ok(VectorSelector {
            name,
            matchers,
            offset: Extent::ZERO,
            at: None,
            edges: Edges::Plain,
            may_match_all: false,
            span: span.unwrap_or_default(),
        })
    }

    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Parsed<Span> {
        const MATCHING: &str = "label matching";
        let open = self.require(TokenKind::LeftBrace)?.span;
        if let Some(close) = self.accept(TokenKind::RightBrace) {
            return Ok(open.to(close.span));
        }
        loop {
            let kind = self.peek();
            if !matches!(kind, TokenKind::Identifier | TokenKind::String) {
                return Err(self.unexpected_in(Expected(MATCHING, "identifier or \"}\"")));
            }
            let token = self.bump();
            let name = if kind == TokenKind::String { self.unquote(&token) } else { token.text.to_owned() };
            let op = match self.peek() {
                TokenKind::Equal => Some(MatchOp::Equal),
                TokenKind::Operator(BinaryOp::Ne) => Some(MatchOp::NotEqual),
                TokenKind::EqualRegex => Some(MatchOp::Regex),
                TokenKind::NotEqualRegex => Some(MatchOp::NotRegex),
                _ => None,
            };
            if let Some(op) = op {
                self.bump();
                let Some(value) = self.accept(TokenKind::String) else {
                    return Err(self.unexpected_in(Expected(MATCHING, "string")));
                };
                let text = self.unquote(&value);
                match Matcher::new(op, name, text) {
                    Ok(matcher) => matchers.push(matcher),
                    Err(error) => self.report(token.span.to(value.span), error.to_string()),
                }
            } else if kind == TokenKind::String {
                matchers.push(Matcher::equal(METRIC_NAME, name));
            } else {
                return Err(self.unexpected_in(Expected(MATCHING, "label matching operator")));
            }
            let comma = self.accept(TokenKind::Comma).is_some();
            if let Some(close) = self.accept(TokenKind::RightBrace) {
                return Ok(open.to(close.span));
            }
            if !comma {
                return Err(self.unexpected_in(Expected(MATCHING, "\",\" or \"}\"")));
            }
        }
    }

    /// A series' name and labels, and where they end. A brace that follows a name belongs to it only if it does so at
    /// once: behind a space a histogram may stand.
    pub(super) fn series(&mut self) -> Parsed<(Labels, usize)> {
        const SET: &str = "label set";
        let mut labels = LabelsBuilder::new();
        let mut end = 0;
        if self.peek() != TokenKind::LeftBrace {
            if !is_metric_name(self.peek()) {
                return Err(self.unexpected());
            }
            let name = self.bump();
            labels.push(METRIC_NAME, name.text);
            end = name.span.end;
            if !self.query.get(end..).unwrap_or_default().starts_with('{') {
                return Ok((labels.build(), end));
            }
        }
        let named = end > 0;
        self.require(TokenKind::LeftBrace)?;
        loop {
            if let Some(close) = self.accept(TokenKind::RightBrace) {
                return Ok((labels.build(), close.span.end));
            }
            let kind = self.peek();
            if !matches!(kind, TokenKind::Identifier | TokenKind::String) {
                return Err(self.unexpected_in(Expected(SET, "identifier or \"}\"")));
            }
            let token = self.bump();
            let name = if kind == TokenKind::String { self.unquote(&token) } else { token.text.to_owned() };
            if self.accept(TokenKind::Equal).is_some() {
                let Some(value) = self.accept(TokenKind::String) else {
                    return Err(self.unexpected_in(Expected(SET, "string")));
                };
                let value = self.unquote(&value);
                labels.push(&name, &value);
            } else if kind == TokenKind::String && !named {
                labels.push(METRIC_NAME, &name);
            } else {
                return Err(self.unexpected_in(Expected(SET, "\"=\"")));
            }
            if self.accept(TokenKind::Comma).is_none() && self.peek() != TokenKind::RightBrace {
                return Err(self.unexpected_in(Expected(SET, "\",\" or \"}\"")));
            }
        }
    }

    /// `[5m]` or `[1h:5m]` behind an operand.
    #[expect(clippy::boxed_local, reason = "the box is the caller's: it keeps the frames of what recurses small")]
    pub(super) fn brackets(&mut self, operand: Node) -> Parsed<Node> {
        let Deep { expr, height } = *operand;
        let height = height + 1;
        self.check_depth(height)?;
        let open = self.bump().span;
        let range = self.within(BRACKETS, |parser| duration::positive(parser))?;
        if self.accept(TokenKind::Colon).is_some() {
            let mut step = None;
            if self.peek() != TokenKind::RightBracket {
                let expected = Expected("subquery selector", "number, duration, step(), range(), or \"]\"");
                step = Some(self.within(expected, |parser| duration::positive(parser))?);
            }
            let Some(close) = self.accept(TokenKind::RightBracket) else {
                return Err(self.unexpected_in(Expected("subquery selector", "\"]\"")));
            };
            let span = Span::new(expr.span().start, close.span.end);
            let expr = Box::new(expr);
            let subquery = Subquery { expr, range, step, offset: Extent::ZERO, at: None, span };
            return Ok(node(Expr::Subquery(subquery), height));
        }
        let Some(close) = self.accept(TokenKind::RightBracket) else {
            return Err(self.unexpected_in(Expected("subquery or range", "\":\" or \"]\"")));
        };
        let brackets = open.to(close.span);
        match expr {
            Expr::Vector(selector) => {
                if matches!(selector.offset, Extent::Fixed(offset) if offset != 0) {
                    self.report(brackets, "no offset modifiers allowed before range");
                } else if matches!(selector.at, Some(At::Time(_))) {
                    self.report(brackets, "no @ modifiers allowed before range");
                }
                let span = selector.span.to(brackets);
                Ok(node(Expr::Matrix(MatrixSelector { selector, range, span }), height))
            }
            other => {
                self.report(brackets, "ranges only allowed for vector selectors");
                Ok(node(other, height))
            }
        }
    }

    pub(super) fn offset(&mut self, expr: &mut Expr) -> Parsed<()> {
        let (offset, end) = self.within(OFFSET, |parser| duration::offset(parser))?;
        let span = expr.span();
        let Some(Modifiers { offset: current, end: current_end, .. }) = Modifiers::of(expr) else {
            let what = "an instant vector selector or range vector selector or a subquery";
            self.report(span, format!("offset modifier must be preceded by {what}"));
            return Ok(());
        };
        *current_end = end;
        if *current == Extent::ZERO {
            *current = offset;
        } else {
            self.report(span, "offset may not be set multiple times");
        }
        Ok(())
    }

    pub(super) fn at(&mut self, expr: &mut Expr) -> Parsed<()> {
        let span = expr.span();
        let preprocessor = match self.peek() {
            TokenKind::Keyword(Keyword::Start) => Some(At::Start),
            TokenKind::Keyword(Keyword::End) => Some(At::End),
            _ => None,
        };
        let (at, end) = self.within(AT, |parser| {
            if let Some(at) = preprocessor {
                parser.bump();
                parser.require(TokenKind::LeftParen)?;
                return Ok((at, parser.require(TokenKind::RightParen)?.span.end));
            }
            let (seconds, end) = parser.signed_number()?;
            if !seconds.is_finite() || seconds.abs() >= i64::MAX as f64 {
                let shown = printer::format_float(seconds, Some(6));
                parser.report(span, format!("timestamp out of bounds for @ modifier: {shown}"));
            }
            Ok((At::Time((seconds * 1000.0).round() as i64), end))
        })?;
        let Some(Modifiers { at: current, end: current_end, .. }) = Modifiers::of(expr) else {
            let what = "an instant vector selector or range vector selector or a subquery";
            self.report(span, format!("@ modifier must be preceded by {what}"));
            return Ok(());
        };
        *current_end = end;
        if current.is_some() {
            self.report(span, "@ <timestamp> may not be set multiple times");
        } else {
            *current = Some(at);
        }
        Ok(())
    }

    pub(super) fn edges(&mut self, expr: &mut Expr, edges: Edges, end: usize) {
        let name = if edges == Edges::Anchored { "anchored" } else { "smoothed" };
        let span = expr.span();
        if !self.options.extended_range_selectors {
            return self.report(span, format!("{name} modifier is experimental and not enabled"));
        }
        let (selector, expr_end) = match expr {
            Expr::Vector(selector) => (selector, None),
            Expr::Matrix(matrix) => (&mut matrix.selector, Some(&mut matrix.span.end)),
            Expr::Subquery(_) => {
                return self.report(span, format!("{name} modifier is not supported for subqueries"));
            }
            _ => return self.report(span, format!("{name} modifier not implemented")),
        };
        if selector.edges != Edges::Plain && selector.edges != edges {
            return self.report(span, "anchored and smoothed modifiers cannot be used together");
        }
        selector.edges = edges;
        *expr_end.unwrap_or(&mut selector.span.end) = end;
    }
}

/// What `offset` and `@` change.
struct Modifiers<'e> {
    offset: &'e mut Extent,
    at: &'e mut Option<At>,
    end: &'e mut usize,
}

impl<'e> Modifiers<'e> {
    fn of(expr: &'e mut Expr) -> Option<Self> {
        match expr {
            Expr::Vector(node) => Some(Self { offset: &mut node.offset, at: &mut node.at, end: &mut node.span.end }),
            Expr::Matrix(MatrixSelector { selector, span, .. }) => {
                Some(Self { offset: &mut selector.offset, at: &mut selector.at, end: &mut span.end })
            }
            Expr::Subquery(node) => Some(Self { offset: &mut node.offset, at: &mut node.at, end: &mut node.span.end }),
            _ => None,
        }
    }
}
