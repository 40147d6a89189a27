//! Tokens as a tree: recursive descent, and precedence climbing for operators.
//!
//! ```text
//! or  <  and unless  <  == != < <= > >= </ >/  <  + -  <  * / % atan2  <  ^   (^ alone binds to the right)
//! -x binds like *;  [..], offset, @, anchored, smoothed bind tighter than anything and belong to the operand before them
//! ```
//!
//! Several mistakes can be found in one text; the first is reported, as Prometheus does. What a mistake is called depends
//! on what is being read, innermost first: an aggregation, brackets, an offset. `Expected` carries that down.

use super::ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, Cardinality, Edges, Expr, Extent, Matching, MatrixSelector,
    NumberLiteral, Paren, Span, StringLiteral, Subquery, Unary, VectorSelector,
};
use super::check::check;
use super::duration;
use super::error::ParseError;
use super::functions::Function;
use super::lexer::{Keyword, Lexer, Token, TokenKind, quote};
use super::literal::{parse_duration, parse_number, unquote};
use crate::model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher};

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

    // Aggregations and calls.

    fn aggregate_or_name(&mut self) -> Parsed<Node> {
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
    fn labels(&mut self) -> Parsed<Vec<String>> {
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

    fn call(&mut self, name: Token<'a>) -> Parsed<Node> {
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

    // Selectors and what stands behind them.

    /// The selector whose name, if it has one, is `name`.
    fn selector(&mut self, name: Option<Token<'a>>) -> Parsed<VectorSelector> {
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
    fn series(&mut self) -> Parsed<(Labels, usize)> {
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
    fn brackets(&mut self, operand: Node) -> Parsed<Node> {
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

    fn offset(&mut self, expr: &mut Expr) -> Parsed<()> {
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

    fn at(&mut self, expr: &mut Expr) -> Parsed<()> {
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
                let shown = super::printer::format_float(seconds, Some(6));
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

    fn edges(&mut self, expr: &mut Expr, edges: Edges, end: usize) {
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
