//! Tokens as a tree: recursive descent, and precedence climbing for operators.
//!
//! ```text
//! or  <  and unless  <  == != < <= > >= </ >/  <  + -  <  * / % atan2  <  ^   (^ alone binds to the right)
//! -x binds like *;  [..], offset, @, anchored, smoothed bind tighter than anything and belong to the operand before them
//! ```
//!
//! Several mistakes can be found in one text; the first is reported, as Prometheus does. What a mistake is called depends
//! on what is being read, innermost first: an aggregation, brackets, an offset. `Expected` carries that down.

mod call;
mod selector;

use super::ast::{
    Binary, BinaryOp, Cardinality, Edges, Expr, Matching, NumberLiteral, Paren, Span, StringLiteral, Unary,
    VectorSelector,
};
use super::check::check;
use super::error::ParseError;
use super::lexer::{Keyword, Lexer, Token, TokenKind};
use super::literal::{parse_duration, parse_number, unquote};
use crate::model::{Labels, Matcher};

/// How deep a tree may be: what walks it recurses, and texts come from strangers. Only a chain of operators gets so deep;
/// see [`MAX_NESTING`].
pub const MAX_DEPTH: usize = 512;

/// How deep parentheses, calls and signs may be nested: reading them recurses, with larger frames than walking a tree.
pub const MAX_NESTING: usize = 128;

/// What beyond the stable language is accepted. By default, everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseOptions {
    /// Functions and aggregations that Prometheus calls experimental.
    pub experimental_functions: bool,
    /// Arithmetic in brackets and offsets.
    pub duration_expressions: bool,
    /// `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
        }
    }
}

/// Parses and checks a query.
///
/// # Errors
/// The first mistake in it, in Prometheus's words.
pub fn parse(query: &str) -> Result<Expr, ParseError> {
    parse_with(query, ParseOptions::default())
}

/// As [`parse`], with some of the language switched off.
///
/// # Errors
/// The first mistake in the query, in Prometheus's words.
pub fn parse_with(query: &str, options: ParseOptions) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(query, options);
    let parsed = parser.query();
    if let (Ok(mut expr), true) = (parsed, parser.errors.is_empty()) {
        check(query, &mut expr, &mut parser.errors);
        if parser.errors.is_empty() {
            return Ok(expr);
        }
    }
    Err(parser.first_error())
}

/// Parses a series selector without modifiers, as the query API's `match[]` holds. It may select everything: whether
/// that is allowed is the caller's to say.
///
/// # Errors
/// The first mistake in it, in Prometheus's words.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut parser = Parser::new(text, ParseOptions::default());
    let parsed = parser.selector_alone();
    match parsed {
        Ok(selector) if parser.errors.is_empty() => Ok(selector.matchers),
        _ => Err(parser.first_error()),
    }
}

/// Parses a series' name and labels, `up{job="a"}`, at the beginning of `text`; values may follow. Says where it ends.
///
/// # Errors
/// The first mistake in it, in Prometheus's words.
pub fn parse_series(text: &str) -> Result<(Labels, usize), ParseError> {
    let mut parser = Parser::new(text, ParseOptions::default());
    let parsed = parser.series();
    match parsed {
        Ok(series) if parser.errors.is_empty() => Ok(series),
        _ => Err(parser.first_error()),
    }
}

/// A syntax error has been noted: there is nothing to go on with.
#[derive(Debug)]
pub(super) struct Stop;

pub(super) type Parsed<T> = Result<T, Stop>;

/// What a token that fits nowhere is said to be in, and what was expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected(pub(super) &'static str, pub(super) &'static str);

const ANYTHING: Expected = Expected("", "");
const AGGREGATION: Expected = Expected("aggregation", "");
const BRACKETS: Expected = Expected("subquery or range selector", "number, duration, step(), or range()");
const OFFSET: Expected = Expected("offset", "number, duration, step(), or range()");
const AT: Expected = Expected("@", "timestamp");

pub(super) struct Parser<'a> {
    query: &'a str,
    lexer: Lexer<'a>,
    peeked: Option<Token<'a>>,
    pub(super) options: ParseOptions,
    errors: Vec<ParseError>,
    expected: Expected,
    depth: usize,
    /// Where the token taken last ends.
    last_end: usize,
}

/// A tree and how deep it is. In a box, since the functions that hand it up recurse: their frames stay small.
struct Deep {
    expr: Expr,
    height: usize,
}

type Node = Box<Deep>;

fn node(expr: Expr, height: usize) -> Node {
    Box::new(Deep { expr, height })
}

impl<'a> Parser<'a> {
    fn new(query: &'a str, options: ParseOptions) -> Self {
        Self {
            query,
            lexer: Lexer::new(query),
            peeked: None,
            options,
            errors: Vec::new(),
            expected: ANYTHING,
            depth: 0,
            last_end: 0,
        }
    }

    fn first_error(mut self) -> ParseError {
        match self.errors.is_empty() {
            false => self.errors.swap_remove(0),
            true => ParseError { span: Span::default(), message: "unexpected error".into(), query: self.query.into() },
        }
    }

    /// Notes a mistake that does not keep from reading on.
    pub(super) fn report(&mut self, span: Span, message: impl Into<String>) {
        self.errors.push(ParseError { span, message: message.into(), query: self.query.into() });
    }

    pub(super) fn peek(&mut self) -> TokenKind {
        self.peek_token().kind
    }

    pub(super) fn peek_token(&mut self) -> &Token<'a> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.read_token(),
        };
        self.peeked.insert(token)
    }

    fn read_token(&mut self) -> Token<'a> {
        let token = self.lexer.next_token();
        // At once: what is found wrong with the tokens before it comes after it, as in the original.
        if let Some(message) = &token.message {
            self.report(token.span, message.as_ref());
        }
        token
    }

    pub(super) fn bump(&mut self) -> Token<'a> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.read_token(),
        };
        self.last_end = token.span.end;
        token
    }

    pub(super) fn accept(&mut self, kind: TokenKind) -> Option<Token<'a>> {
        (self.peek() == kind).then(|| self.bump())
    }

    fn accept_keyword(&mut self, keyword: Keyword) -> bool {
        self.accept(TokenKind::Keyword(keyword)).is_some()
    }

    pub(super) fn require(&mut self, kind: TokenKind) -> Parsed<Token<'a>> {
        match self.accept(kind) {
            Some(token) => Ok(token),
            None => Err(self.unexpected()),
        }
    }

    /// The token ahead fits nowhere.
    pub(super) fn unexpected(&mut self) -> Stop {
        self.unexpected_in(self.expected)
    }

    fn unexpected_in(&mut self, Expected(context, expected): Expected) -> Stop {
        let token = self.peek_token();
        if token.kind == TokenKind::Error {
            return Stop;
        }
        let span = token.span;
        let mut message = format!("unexpected {}", token.describe());
        if !context.is_empty() {
            message = format!("{message} in {context}");
        }
        if !expected.is_empty() {
            message = format!("{message}, expected {expected}");
        }
        self.report(span, message);
        Stop
    }

    /// Reads something within which errors are called `expected`.
    fn within<T>(&mut self, expected: Expected, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let outer = std::mem::replace(&mut self.expected, expected);
        let result = read(self);
        self.expected = outer;
        result
    }

    /// Reads something one level down.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_NESTING {
            return Err(self.too_deep(MAX_NESTING));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    pub(super) fn check_depth(&mut self, height: usize) -> Parsed<()> {
        if height <= MAX_DEPTH { Ok(()) } else { Err(self.too_deep(MAX_DEPTH)) }
    }

    fn too_deep(&mut self, most: usize) -> Stop {
        let span = self.peek_token().span;
        self.report(span, format!("expression nested more than {most} deep"));
        Stop
    }

    fn query(&mut self) -> Parsed<Expr> {
        if self.peek() == TokenKind::Eof {
            self.report(Span::default(), "no expression found in input");
            return Err(Stop);
        }
        let expr = self.binary(0)?.expr;
        self.require(TokenKind::Eof)?;
        Ok(expr)
    }

    fn selector_alone(&mut self) -> Parsed<VectorSelector> {
        let selector = match self.peek() {
            TokenKind::LeftBrace => self.selector(None)?,
            kind if is_metric_name(kind) => {
                let name = self.bump();
                self.selector(Some(name))?
            }
            _ => return Err(self.unexpected()),
        };
        self.require(TokenKind::Eof)?;
        Ok(selector)
    }

    /// Operands and operators that bind at least as tight as `least`.
    fn binary(&mut self, least: u8) -> Parsed<Node> {
        self.deeper(|parser| {
            let mut left = parser.unary()?;
            while let TokenKind::Operator(op) = parser.peek() {
                let binding = precedence(op);
                if binding < least {
                    break;
                }
                parser.bump();
                let modifiers = parser.modifiers()?;
                let right = parser.binary(if op == BinaryOp::Pow { binding } else { binding + 1 })?;
                left = parser.join(op, left, right, modifiers)?;
            }
            Ok(left)
        })
    }

    #[expect(clippy::boxed_local, reason = "the box is the caller's: it keeps the frames of what recurses small")]
    fn join(&mut self, op: BinaryOp, left: Node, right: Node, modifiers: Box<(Matching, bool)>) -> Parsed<Node> {
        let (left, right, (matching, return_bool)) = (*left, *right, *modifiers);
        let span = left.expr.span().to(right.expr.span());
        if !self.options.fill_modifiers && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
            self.report(span, "binop fill modifiers are experimental and not enabled");
        }
        let height = left.height.max(right.height) + 1;
        self.check_depth(height)?;
        let binary = Binary { op, lhs: left.expr, rhs: right.expr, matching: Some(matching), return_bool, span };
        Ok(node(Expr::Binary(Box::new(binary)), height))
    }

    fn unary(&mut self) -> Parsed<Node> {
        let TokenKind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) = self.peek() else {
            return self.postfix();
        };
        let start = self.bump().span.start;
        let operand = self.binary(precedence(BinaryOp::Mul) + 1)?;
        self.signed(op == BinaryOp::Sub, start, operand)
    }

    #[expect(clippy::boxed_local, reason = "the box is the caller's: it keeps the frames of what recurses small")]
    fn signed(&mut self, minus: bool, start: usize, operand: Node) -> Parsed<Node> {
        let span = Span::new(start, operand.expr.span().end);
        let height = operand.height + 1;
        match operand.expr {
            Expr::Number(number) => {
                let value = if minus { -number.value } else { number.value };
                Ok(node(Expr::Number(NumberLiteral { value, span, ..number }), 1))
            }
            expr => {
                self.check_depth(height)?;
                Ok(node(Expr::Unary(Unary { minus, expr: Box::new(expr), span }), height))
            }
        }
    }

    /// An operand and the modifiers behind it.
    fn postfix(&mut self) -> Parsed<Node> {
        let mut operand = self.operand()?;
        loop {
            match self.peek() {
                TokenKind::LeftBracket => operand = self.brackets(operand)?,
                TokenKind::Keyword(Keyword::Offset) => {
                    self.bump();
                    self.offset(&mut operand.expr)?;
                }
                TokenKind::At => {
                    self.bump();
                    self.at(&mut operand.expr)?;
                }
                TokenKind::Keyword(Keyword::Anchored) => {
                    let end = self.bump().span.end;
                    self.edges(&mut operand.expr, Edges::Anchored, end);
                }
                TokenKind::Keyword(Keyword::Smoothed) => {
                    let end = self.bump().span.end;
                    self.edges(&mut operand.expr, Edges::Smoothed, end);
                }
                _ => return Ok(operand),
            }
        }
    }

    fn operand(&mut self) -> Parsed<Node> {
        match self.peek() {
            TokenKind::LeftParen => {
                let open = self.bump().span;
                let inner = self.binary(0)?;
                self.close_paren(open, inner)
            }
            TokenKind::Number | TokenKind::Duration => Ok(node(Expr::Number(self.number()), 1)),
            TokenKind::String => Ok(self.string()),
            TokenKind::LeftBrace => Ok(node(Expr::Vector(self.selector(None)?), 1)),
            TokenKind::Aggregate(_) => self.aggregate_or_name(),
            kind if is_metric_name(kind) => self.call_or_name(kind),
            _ => Err(self.unexpected()),
        }
    }

    #[expect(clippy::boxed_local, reason = "the box is the caller's: it keeps the frames of what recurses small")]
    fn close_paren(&mut self, open: Span, inner: Node) -> Parsed<Node> {
        let span = open.to(self.require(TokenKind::RightParen)?.span);
        let height = inner.height + 1;
        self.check_depth(height)?;
        Ok(node(Expr::Paren(Paren { expr: Box::new(inner.expr), span }), height))
    }

    fn string(&mut self) -> Node {
        let token = self.bump();
        let value = self.unquote(&token);
        node(Expr::String(StringLiteral { value, span: token.span }), 1)
    }

    fn call_or_name(&mut self, kind: TokenKind) -> Parsed<Node> {
        let name = self.bump();
        let can_be_called = match kind {
            TokenKind::Identifier => true,
            TokenKind::Keyword(keyword) => keyword.is_function(),
            _ => false,
        };
        if can_be_called && self.peek() == TokenKind::LeftParen { self.call(name) } else { self.named(name) }
    }

    fn named(&mut self, name: Token<'a>) -> Parsed<Node> {
        Ok(node(Expr::Vector(self.selector(Some(name))?), 1))
    }

    /// A number or a duration: one of them is ahead.
    pub(super) fn number(&mut self) -> NumberLiteral {
        let token = self.bump();
        let duration = token.kind == TokenKind::Duration;
        let value = if duration { parse_duration(token.text) } else { parse_number(token.text) };
        let value = value.unwrap_or_else(|message| {
            self.report(token.span, message);
            0.0
        });
        NumberLiteral { value, duration, span: token.span }
    }

    fn unquote(&mut self, token: &Token<'_>) -> String {
        unquote(token.text).unwrap_or_else(|message| {
            self.report(token.span, message);
            String::new()
        })
    }

    // Binary operators' modifiers.

    fn modifiers(&mut self) -> Parsed<Box<(Matching, bool)>> {
        let return_bool = self.accept_keyword(Keyword::Bool);
        let mut matching = Matching {
            card: Cardinality::OneToOne,
            on: false,
            labels: Vec::new(),
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let kind = self.peek();
        if matches!(kind, TokenKind::Keyword(Keyword::On | Keyword::Ignoring)) {
            self.bump();
            matching.on = kind == TokenKind::Keyword(Keyword::On);
            matching.labels = self.labels()?;
            let card = match self.peek() {
                TokenKind::Keyword(Keyword::GroupLeft) => Some(Cardinality::ManyToOne),
                TokenKind::Keyword(Keyword::GroupRight) => Some(Cardinality::OneToMany),
                _ => None,
            };
            if let Some(card) = card {
                self.bump();
                matching.card = card;
                if !starts_expression(self.peek()) || self.peek() == TokenKind::LeftParen {
                    matching.include = self.labels()?;
                }
            }
        }
        match self.peek() {
            TokenKind::Keyword(Keyword::Fill) => {
                self.bump();
                matching.fill_left = Some(self.fill_value()?);
                matching.fill_right = matching.fill_left;
            }
            TokenKind::Keyword(Keyword::FillLeft) => {
                self.bump();
                matching.fill_left = Some(self.fill_value()?);
                if self.accept_keyword(Keyword::FillRight) {
                    matching.fill_right = Some(self.fill_value()?);
                }
            }
            TokenKind::Keyword(Keyword::FillRight) => {
                self.bump();
                matching.fill_right = Some(self.fill_value()?);
                if self.accept_keyword(Keyword::FillLeft) {
                    matching.fill_left = Some(self.fill_value()?);
                }
            }
            _ => {}
        }
        Ok(Box::new((matching, return_bool)))
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.require(TokenKind::LeftParen)?;
        let (value, _) = self.signed_number()?;
        self.require(TokenKind::RightParen)?;
        Ok(value)
    }

    /// A number or a duration, perhaps with one sign, and where it ends.
    fn signed_number(&mut self) -> Parsed<(f64, usize)> {
        let sign = match self.peek() {
            TokenKind::Operator(BinaryOp::Add) => Some(1.0),
            TokenKind::Operator(BinaryOp::Sub) => Some(-1.0),
            _ => None,
        };
        if sign.is_some() {
            self.bump();
        }
        if !matches!(self.peek(), TokenKind::Number | TokenKind::Duration) {
            return Err(self.unexpected());
        }
        let number = self.number();
        Ok((number.value * sign.unwrap_or(1.0), number.span.end))
    }
}

/// How tight an operator binds.
pub(super) fn precedence(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Eq
        | BinaryOp::Ne
        | BinaryOp::Gt
        | BinaryOp::Lt
        | BinaryOp::Ge
        | BinaryOp::Le
        | BinaryOp::TrimUpper
        | BinaryOp::TrimLower => 3,
        BinaryOp::Add | BinaryOp::Sub => 4,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => 5,
        BinaryOp::Pow => 6,
    }
}

/// Whether a token, where an operand is due, is a metric's name. Nearly every keyword is.
fn is_metric_name(kind: TokenKind) -> bool {
    match kind {
        TokenKind::Identifier | TokenKind::MetricIdentifier | TokenKind::Aggregate(_) => true,
        TokenKind::Operator(op) => op.is_set(),
        TokenKind::Keyword(keyword) => !matches!(
            keyword,
            Keyword::Bool | Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight
        ),
        _ => false,
    }
}

/// Whether a token is a label's name in `by (…)` and its like.
fn is_label_name(kind: TokenKind) -> bool {
    match kind {
        TokenKind::Identifier | TokenKind::MetricIdentifier | TokenKind::Aggregate(_) => true,
        TokenKind::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
        TokenKind::Keyword(keyword) => keyword != Keyword::Without,
        _ => false,
    }
}

fn starts_expression(kind: TokenKind) -> bool {
    is_metric_name(kind)
        || matches!(
            kind,
            TokenKind::LeftParen
                | TokenKind::LeftBrace
                | TokenKind::Number
                | TokenKind::Duration
                | TokenKind::String
                | TokenKind::Operator(BinaryOp::Add | BinaryOp::Sub)
        )
}
