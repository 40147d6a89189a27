//! A query's text as tokens.
//!
//! What a character means depends on where it stands: inside braces every word is a label name, inside brackets a colon
//! separates and the only words are those of duration arithmetic. The lexer keeps that state itself, and so its errors
//! can say "inside braces". A token is made when it is asked for, never ahead: of two errors the earlier one wins.

use super::ast::{AggregateOp, BinaryOp, Span};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Eof,
    Error,
    Identifier,
    /// A word with a colon in it: only a metric's name.
    MetricIdentifier,
    Number,
    Duration,
    String,
    Comma,
    Colon,
    Equal,
    EqualRegex,
    NotEqualRegex,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    At,
    Operator(BinaryOp),
    Aggregate(AggregateOp),
    Keyword(Keyword),
}

/// A word with a meaning, where it is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

impl Keyword {
    /// Whether it can also be a function's name: then a parenthesis follows.
    pub(super) fn is_function(self) -> bool {
        matches!(self, Self::Start | Self::End | Self::Step | Self::Range | Self::MaxOf | Self::MinOf)
    }
}

/// A token: `text` are its bytes, or an error's message.
#[derive(Debug, Clone)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind,
    pub(super) text: &'a str,
    pub(super) span: Span,
    /// Why it is an error. The text is empty then.
    pub(super) message: Option<Box<str>>,
}

impl Token<'_> {
    /// As an error message names it: `identifier "foo"`, `<op:+>`, `end of input`.
    pub(super) fn describe(&self) -> String {
        let text = self.text;
        match self.kind {
            TokenKind::Eof => "end of input".into(),
            TokenKind::Identifier => format!("identifier {}", quote(text)),
            TokenKind::MetricIdentifier => format!("metric identifier {}", quote(text)),
            TokenKind::Number => format!("number {}", shortened(text)),
            TokenKind::Duration => format!("duration {}", shortened(text)),
            TokenKind::String => format!("string {}", shortened(text)),
            TokenKind::Operator(_) | TokenKind::At | TokenKind::EqualRegex | TokenKind::NotEqualRegex => {
                format!("<op:{text}>")
            }
            TokenKind::Aggregate(_) => format!("<aggr:{text}>"),
            TokenKind::Keyword(keyword) if !keyword.is_function() => format!("<{text}>"),
            _ => shortened(text),
        }
    }
}

/// `text` in quotes, as Go's `strconv.Quote` writes it.
pub(super) fn quote(text: &str) -> String {
    crate::model::Quoted(text).to_string()
}

fn shortened(text: &str) -> String {
    if text.len() <= 10 {
        return quote(text);
    }
    let head: String = text.chars().take(10).collect();
    format!("{}...", quote(&head))
}

/// A character in single quotes, as Go's `%q` writes it; the end of the text becomes the replacement character there.
fn quote_char(c: Option<char>) -> String {
    match c {
        None => "'\u{fffd}'".into(),
        Some('\'') => "'\\''".into(),
        Some('"') => "'\"'".into(),
        Some(c) => {
            let quoted = quote(c.encode_utf8(&mut [0; 4]));
            format!("'{}'", quoted.trim_matches('"'))
        }
    }
}

/// A character as Go's `%#U` writes it: `U+0071 'q'`.
fn code_point(c: Option<char>) -> String {
    match c {
        None => "the end".into(),
        Some(c) if quote(c.encode_utf8(&mut [0; 4])).starts_with("\"\\") && c != '"' && c != '\\' => {
            format!("U+{:04X}", c as u32)
        }
        Some(c) => format!("U+{:04X} '{c}'", c as u32),
    }
}

fn keyword(word: &str) -> Option<TokenKind> {
    let lower = word.to_ascii_lowercase();
    Some(match lower.as_str() {
        "and" => TokenKind::Operator(BinaryOp::And),
        "or" => TokenKind::Operator(BinaryOp::Or),
        "unless" => TokenKind::Operator(BinaryOp::Unless),
        "atan2" => TokenKind::Operator(BinaryOp::Atan2),
        "sum" => TokenKind::Aggregate(AggregateOp::Sum),
        "avg" => TokenKind::Aggregate(AggregateOp::Avg),
        "count" => TokenKind::Aggregate(AggregateOp::Count),
        "min" => TokenKind::Aggregate(AggregateOp::Min),
        "max" => TokenKind::Aggregate(AggregateOp::Max),
        "group" => TokenKind::Aggregate(AggregateOp::Group),
        "stddev" => TokenKind::Aggregate(AggregateOp::Stddev),
        "stdvar" => TokenKind::Aggregate(AggregateOp::Stdvar),
        "topk" => TokenKind::Aggregate(AggregateOp::Topk),
        "bottomk" => TokenKind::Aggregate(AggregateOp::Bottomk),
        "count_values" => TokenKind::Aggregate(AggregateOp::CountValues),
        "quantile" => TokenKind::Aggregate(AggregateOp::Quantile),
        "limitk" => TokenKind::Aggregate(AggregateOp::Limitk),
        "limit_ratio" => TokenKind::Aggregate(AggregateOp::LimitRatio),
        "offset" => TokenKind::Keyword(Keyword::Offset),
        "smoothed" => TokenKind::Keyword(Keyword::Smoothed),
        "anchored" => TokenKind::Keyword(Keyword::Anchored),
        "by" => TokenKind::Keyword(Keyword::By),
        "without" => TokenKind::Keyword(Keyword::Without),
        "on" => TokenKind::Keyword(Keyword::On),
        "ignoring" => TokenKind::Keyword(Keyword::Ignoring),
        "group_left" => TokenKind::Keyword(Keyword::GroupLeft),
        "group_right" => TokenKind::Keyword(Keyword::GroupRight),
        "fill" => TokenKind::Keyword(Keyword::Fill),
        "fill_left" => TokenKind::Keyword(Keyword::FillLeft),
        "fill_right" => TokenKind::Keyword(Keyword::FillRight),
        "bool" => TokenKind::Keyword(Keyword::Bool),
        "start" => TokenKind::Keyword(Keyword::Start),
        "end" => TokenKind::Keyword(Keyword::End),
        "inf" | "nan" => TokenKind::Number,
        other => TokenKind::Keyword(duration_keyword(other)?),
    })
}

fn duration_keyword(lower: &str) -> Option<Keyword> {
    Some(match lower {
        "step" => Keyword::Step,
        "range" => Keyword::Range,
        "max_of" => Keyword::MaxOf,
        "min_of" => Keyword::MinOf,
        _ => return None,
    })
}

/// Where the lexer stands, as far as it changes what a character means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Statements,
    Braces,
    /// Behind `[`, until a number has been read: from there on `Statements` with `bracket_open`.
    Brackets,
    Done,
}

/// Cuts a query into tokens, one at a time.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    input: &'a str,
    position: usize,
    /// Where the token that is being read begins.
    start: usize,
    state: State,
    paren_depth: i32,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self {
            input,
            position: 0,
            start: 0,
            state: State::Statements,
            paren_depth: 0,
            brace_open: false,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
        }
    }

    /// The next token; comments and white space are skipped. Behind an error or the end there are only ends.
    pub(super) fn next_token(&mut self) -> Token<'a> {
        loop {
            let token = match self.state {
                State::Done => Some(self.emit(TokenKind::Eof)),
                State::Statements if self.brace_open => self.braces(),
                State::Statements => self.statements(),
                State::Braces => self.braces(),
                State::Brackets => self.brackets(),
            };
            if let Some(token) = token {
                return token;
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.input.get(self.position..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    /// Takes the next character if `wanted` says so.
    fn accept(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        let found = self.peek().is_some_and(wanted);
        if found {
            self.bump();
        }
        found
    }

    fn accept_run(&mut self, wanted: impl Fn(char) -> bool) {
        while self.accept(&wanted) {}
    }

    fn text(&self) -> &'a str {
        self.input.get(self.start..self.position).unwrap_or_default()
    }

    fn emit(&mut self, kind: TokenKind) -> Token<'a> {
        let token = Token { kind, text: self.text(), span: Span::new(self.start, self.position), message: None };
        self.start = self.position;
        token
    }

    fn error(&mut self, message: impl Into<Box<str>>) -> Token<'a> {
        self.state = State::Done;
        let span = Span::new(self.start, self.input.len());
        Token { kind: TokenKind::Error, text: "", span, message: Some(message.into()) }
    }

    fn skip_space(&mut self) {
        self.accept_run(is_space);
        self.start = self.position;
    }

    fn skip_comment(&mut self) {
        self.accept_run(|c| c != '\n' && c != '\r');
        self.start = self.position;
    }

    fn statements(&mut self) -> Option<Token<'a>> {
        self.state = State::Statements;
        if self.peek() == Some('#') {
            self.skip_comment();
            return None;
        }
        let Some(c) = self.bump() else {
            if self.paren_depth != 0 {
                return Some(self.error("unclosed left parenthesis"));
            }
            if self.bracket_open {
                return Some(self.error("unclosed left bracket"));
            }
            self.state = State::Done;
            return Some(self.emit(TokenKind::Eof));
        };
        let operator = |op| Some(TokenKind::Operator(op));
        let kind = match c {
            ',' => Some(TokenKind::Comma),
            '*' => operator(BinaryOp::Mul),
            '/' => operator(BinaryOp::Div),
            '%' => operator(BinaryOp::Mod),
            '+' => operator(BinaryOp::Add),
            '-' => operator(BinaryOp::Sub),
            '^' => operator(BinaryOp::Pow),
            '@' => Some(TokenKind::At),
            '<' if self.accept(|c| c == '=') => operator(BinaryOp::Le),
            '<' if self.accept(|c| c == '/') => operator(BinaryOp::TrimUpper),
            '<' => operator(BinaryOp::Lt),
            '>' if self.accept(|c| c == '=') => operator(BinaryOp::Ge),
            '>' if self.accept(|c| c == '/') => operator(BinaryOp::TrimLower),
            '>' => operator(BinaryOp::Gt),
            '=' if self.accept(|c| c == '=') => operator(BinaryOp::Eq),
            '=' if self.peek() == Some('~') => {
                return Some(self.error("unexpected character after '=': '~'"));
            }
            '=' => Some(TokenKind::Equal),
            '!' if self.accept(|c| c == '=') => operator(BinaryOp::Ne),
            '!' => {
                let found = quote_char(self.peek());
                return Some(self.error(format!("unexpected character after '!': {found}")));
            }
            _ => None,
        };
        if let Some(kind) = kind {
            return Some(self.emit(kind));
        }
        Some(match c {
            c if is_space(c) => {
                self.skip_space();
                return None;
            }
            c if c.is_ascii_digit() || self.is_leading_dot(c) => self.number_or_duration(c),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            c if is_alpha(c) || c == ':' => self.word(c),
            '(' | ')' => self.paren(c),
            '{' => {
                self.brace_open = true;
                self.state = State::Braces;
                self.emit(TokenKind::LeftBrace)
            }
            '[' if self.bracket_open => self.error("unexpected left bracket '['"),
            '[' => {
                self.got_colon = false;
                self.bracket_open = true;
                self.state = State::Brackets;
                self.emit(TokenKind::LeftBracket)
            }
            ']' if self.bracket_open => {
                self.bracket_open = false;
                self.emit(TokenKind::RightBracket)
            }
            ']' => self.error("unexpected right bracket ']'"),
            other => self.error(format!("unexpected character: {}", quote_char(Some(other)))),
        })
    }

    fn is_leading_dot(&self, c: char) -> bool {
        c == '.' && self.peek().is_some_and(|next| next.is_ascii_digit())
    }

    fn paren(&mut self, c: char) -> Token<'a> {
        let kind = if c == '(' { TokenKind::LeftParen } else { TokenKind::RightParen };
        self.paren_depth += if c == '(' { 1 } else { -1 };
        let token = self.emit(kind);
        // The original's place: behind the parenthesis.
        if self.paren_depth < 0 { self.error("unexpected right parenthesis ')'") } else { token }
    }

    /// A word outside braces; its first character `c` is taken.
    fn word(&mut self, c: char) -> Token<'a> {
        if self.bracket_open {
            if c == ':' {
                if self.got_colon {
                    return self.error("unexpected colon ':'");
                }
                self.got_colon = true;
                return self.emit(TokenKind::Colon);
            }
            return self
                .word_in_brackets(c)
                .unwrap_or_else(|| self.error(format!("unexpected character: {}, expected ':'", quote_char(Some(c)))));
        }
        self.accept_run(|c| is_alphanumeric(c) || c == ':');
        let word = self.text();
        match keyword(word) {
            // A metric may well be called `fill`: only before a parenthesis it is the modifier.
            Some(TokenKind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.rest().trim_start_matches(is_space).starts_with('(') =>
            {
                self.emit(TokenKind::Identifier)
            }
            Some(kind) => self.emit(kind),
            None if word.contains(':') => self.emit(TokenKind::MetricIdentifier),
            None => self.emit(TokenKind::Identifier),
        }
    }

    /// `step`, `range`, `max_of`, `min_of`: nothing else is a word there. The first character `c` is taken.
    fn word_in_brackets(&mut self, c: char) -> Option<Token<'a>> {
        if !matches!(c.to_ascii_lowercase(), 's' | 'r' | 'm') {
            return None;
        }
        self.accept_run(is_alpha);
        let keyword = duration_keyword(&self.text().to_ascii_lowercase())?;
        Some(self.emit(TokenKind::Keyword(keyword)))
    }

    fn braces(&mut self) -> Option<Token<'a>> {
        self.state = State::Braces;
        if self.peek() == Some('#') {
            self.skip_comment();
            return None;
        }
        let Some(c) = self.bump() else {
            return Some(self.error("unexpected end of input inside braces"));
        };
        Some(match c {
            c if is_space(c) => {
                self.skip_space();
                return None;
            }
            c if is_alpha(c) => {
                self.accept_run(is_alphanumeric);
                self.emit(TokenKind::Identifier)
            }
            ',' => self.emit(TokenKind::Comma),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '=' if self.accept(|c| c == '~') => self.emit(TokenKind::EqualRegex),
            '=' => self.emit(TokenKind::Equal),
            '!' if self.accept(|c| c == '~') => self.emit(TokenKind::NotEqualRegex),
            '!' if self.accept(|c| c == '=') => self.emit(TokenKind::Operator(BinaryOp::Ne)),
            '!' => {
                let found = quote_char(self.peek());
                self.error(format!("unexpected character after '!' inside braces: {found}"))
            }
            '{' => self.error("unexpected left brace '{'"),
            '}' => {
                self.brace_open = false;
                self.state = State::Statements;
                self.emit(TokenKind::RightBrace)
            }
            other => self.error(format!("unexpected character inside braces: {}", quote_char(Some(other)))),
        })
    }

    fn brackets(&mut self) -> Option<Token<'a>> {
        self.state = State::Brackets;
        let Some(c) = self.bump() else {
            return Some(self.error("unexpected end of input in duration expression"));
        };
        let operator = match c {
            '+' => Some(BinaryOp::Add),
            '-' => Some(BinaryOp::Sub),
            '*' => Some(BinaryOp::Mul),
            '/' => Some(BinaryOp::Div),
            '%' => Some(BinaryOp::Mod),
            '^' => Some(BinaryOp::Pow),
            _ => None,
        };
        if let Some(operator) = operator {
            return Some(self.emit(TokenKind::Operator(operator)));
        }
        Some(match c {
            c if is_space(c) => {
                self.skip_space();
                return None;
            }
            ']' => {
                self.bracket_open = false;
                self.got_colon = false;
                self.state = State::Statements;
                self.emit(TokenKind::RightBracket)
            }
            ':' => {
                let token = self.emit(TokenKind::Colon);
                if !self.got_duration {
                    return Some(self.error("unexpected colon before duration in duration expression"));
                }
                if self.got_colon {
                    return Some(self.error("unexpected repeated colon in duration expression"));
                }
                self.got_colon = true;
                token
            }
            '(' | ')' => self.paren(c),
            ',' => self.emit(TokenKind::Comma),
            c if c.is_ascii_digit() || self.is_leading_dot(c) => {
                self.got_duration = true;
                self.number_or_duration(c)
            }
            c => self.word_in_brackets(c).unwrap_or_else(|| {
                self.error(format!("unexpected character in duration expression: {}", quote_char(Some(c))))
            }),
        })
    }

    /// A number or a duration; its first character `c` is taken.
    fn number_or_duration(&mut self, c: char) -> Token<'a> {
        self.state = State::Statements;
        self.position -= c.len_utf8();
        if self.number() {
            return self.emit(TokenKind::Number);
        }
        if self.rest_of_duration() {
            return self.emit(TokenKind::Duration);
        }
        let text = quote(self.text());
        self.error(format!("bad number or duration syntax: {text}"))
    }

    /// Takes what looks like a number, `false` if it does not end where a number ends. Whether it is one is for the
    /// parser to say.
    fn number(&mut self) -> bool {
        let begin = self.position;
        let mut hexadecimal = false;
        if self.accept(|c| c == '0') && self.accept(|c| c == 'x' || c == 'X') {
            self.accept(|c| c == '_');
            hexadecimal = true;
        }
        let digit = |c: char| c.is_ascii_digit() || hexadecimal && c.is_ascii_hexdigit();
        let exponent = |c: char| c == 'e' || c == 'E';
        self.accept(|c| c == '.');
        self.accept(digit);
        let (mut dot_taken, mut exponent_taken) = (false, false);
        while let Some(c) = self.peek().filter(|&c| digit(c) || c == '.' || c == '_' || exponent(c)) {
            if c == '.' {
                self.bump();
                if dot_taken || hexadecimal || self.accept(|c| c == '_' || c == '.') {
                    return false;
                }
                dot_taken = true;
            } else if exponent(c) {
                self.bump();
                if exponent_taken {
                    return false;
                }
                exponent_taken = true;
                self.accept(|c| c == '+' || c == '-');
                if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else if c == '_' {
                self.bump();
                if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                    return false;
                }
            } else {
                self.accept_run(digit);
            }
        }
        self.position != begin && !self.peek().is_some_and(is_alphanumeric)
    }

    /// Behind digits: `m`, `m30s` and so on, up to something that is no word.
    fn rest_of_duration(&mut self) -> bool {
        if !self.accept(|c| matches!(c, 's' | 'm' | 'h' | 'd' | 'w' | 'y')) {
            return false;
        }
        // For `ms`. That there is no `hs` is found out when the duration is computed.
        self.accept(|c| c == 's');
        while self.accept(|c| c.is_ascii_digit()) {
            self.accept_run(|c| c.is_ascii_digit());
            if !self.accept(|c| matches!(c, 's' | 'm' | 'h' | 'd' | 'w')) {
                return false;
            }
            self.accept(|c| c == 's');
        }
        // If it does not end here, the character that follows is shown in the error.
        !self.accept(is_alphanumeric)
    }

    /// A string; its opening quote `open` is taken.
    fn string(&mut self, open: char) -> Token<'a> {
        loop {
            match self.bump() {
                Some('\\') => {
                    if let Err(message) = self.escape(open) {
                        return self.error(message);
                    }
                }
                Some('\u{fffd}') => return self.error("invalid UTF-8 rune"),
                None | Some('\n') => return self.error("unterminated quoted string"),
                Some(c) if c == open => return self.emit(TokenKind::String),
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self, open: char) -> Result<(), String> {
        let c = self.bump();
        let (mut digits, base, largest) = match c {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => return Ok(()),
            Some(c) if c == open => return Ok(()),
            Some('0'..='7') => (3, 8, 255),
            Some('x') => (2, 16, 255),
            Some('u') => (4, 16, 0x10_ffff),
            Some('U') => (8, 16, 0x10_ffff),
            None => return Err("escape sequence not terminated".into()),
            other => return Err(format!("unknown escape sequence {}", code_point(other))),
        };
        let mut next = if base == 8 { c } else { self.bump() };
        let mut value: u32 = 0;
        loop {
            let Some(digit) = next.and_then(|c| c.to_digit(base)) else {
                return Err(match next {
                    None => "escape sequence not terminated".into(),
                    other => format!("illegal character {} in escape sequence", code_point(other)),
                });
            };
            value = value.wrapping_mul(base).wrapping_add(digit);
            digits -= 1;
            if digits == 0 {
                break;
            }
            next = self.bump();
        }
        if value > largest || (0xd800..0xe000).contains(&value) {
            return Err("escape sequence is an invalid Unicode code point".into());
        }
        Ok(())
    }

    fn raw_string(&mut self) -> Token<'a> {
        loop {
            match self.bump() {
                Some('\u{fffd}') => return self.error("invalid UTF-8 rune"),
                None => return self.error("unterminated raw string"),
                Some('`') => return self.emit(TokenKind::String),
                Some(_) => {}
            }
        }
    }
}
