//! Regular expressions as Go reads them.
//!
//! Prometheus's are Go's, that is RE2's: `\d`, `\w`, `\s` and `\b` know ASCII alone, `\Q…\E` quotes, a repeat goes to 1000,
//! there is no look-around and no possessive operator. The `regex` crate's language is close and not the same (`[a&&b]`
//! or `\w` mean something else there), so the text is read here, by Go's rules and with Go's errors, into the syntax tree
//! that the crate's engines run on. A matcher's expression covers the whole value, and `.` matches a line break too.

use regex_automata::meta::{Config, Regex};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Dot, Hir, HirKind, Look, Repetition};

/// How deep groups may nest. Go allows trees of a thousand levels; the engines here go down them by recursion.
const MAX_NESTING: usize = 250;
/// The largest repeat count, also of repeats within each other.
const MAX_REPEAT: u32 = 1000;
/// Bytes that a compiled expression may take.
const MAX_SIZE: usize = 32 << 20;

/// What is wrong with an expression, in Go's words, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    code: &'static str,
    part: String,
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: `{}`", self.code, self.part)
    }
}

const INVALID_RANGE: &str = "invalid character class range";
const INVALID_ESCAPE: &str = "invalid escape sequence";
const INVALID_CAPTURE: &str = "invalid named capture";
const INVALID_PERL: &str = "invalid or unsupported Perl syntax";
const INVALID_REPEAT_OP: &str = "invalid nested repetition operator";
const INVALID_REPEAT_SIZE: &str = "invalid repeat count";
const MISSING_BRACKET: &str = "missing closing ]";
const MISSING_PAREN: &str = "missing closing )";
const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const TRAILING_BACKSLASH: &str = "trailing backslash at end of expression";
const UNEXPECTED_PAREN: &str = "unexpected )";
const TOO_DEEP: &str = "expression nests too deeply";
const TOO_LARGE: &str = "expression too large";

fn error<T>(code: &'static str, part: &str) -> Result<T, SyntaxError> {
    Err(SyntaxError { code, part: part.to_owned() })
}

/// `text` up to where `rest`, its end, begins.
fn before<'a>(text: &'a str, rest: &str) -> &'a str {
    text.get(..text.len() - rest.len()).unwrap_or(text)
}

/// What `(?i)` and its like switch.
#[derive(Debug, Clone, Copy)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_matches_newline: bool,
}

/// A group that is open: what stands in it before the last `|`, and after.
struct Group {
    alternatives: Vec<Hir>,
    items: Vec<Hir>,
    /// The flags outside, which come back when it closes.
    flags: Flags,
}

impl Group {
    fn close(mut self) -> Hir {
        self.alternatives.push(Hir::concat(self.items));
        Hir::alternation(self.alternatives)
    }
}

struct Parser<'a> {
    pattern: &'a str,
    rest: &'a str,
    flags: Flags,
    groups: Vec<Group>,
}

/// Reads `pattern` by Go's rules. The tree has no captures: nobody asks for them.
pub(super) fn parse(pattern: &str) -> Result<Hir, SyntaxError> {
    let flags = Flags { fold_case: false, multi_line: false, dot_matches_newline: true };
    let outermost = Group { alternatives: Vec::new(), items: Vec::new(), flags };
    Parser { pattern, rest: pattern, flags, groups: vec![outermost] }.parse()
}

/// Compiles a tree so that it matches whole values alone.
pub(super) fn compile(pattern: &str, hir: &Hir) -> Result<Regex, SyntaxError> {
    let whole = Hir::concat(vec![Hir::look(Look::Start), hir.clone(), Hir::look(Look::End)]);
    // Values are asked "do you match", never "where": empty matches inside a character do no harm.
    let config = Config::new().utf8_empty(false).nfa_size_limit(Some(MAX_SIZE));
    Regex::builder().configure(config).build_from_hir(&whole).or_else(|_| error(TOO_LARGE, pattern))
}

impl<'a> Parser<'a> {
    fn parse(mut self) -> Result<Hir, SyntaxError> {
        // Where the last thing read was a repeat, where that began: in Perl's syntax two in a row are an error.
        let mut last_repeat: Option<&str> = None;
        while let Some(c) = self.rest.chars().next() {
            let start = self.rest;
            let mut repeat = None;
            match c {
                '(' if start.starts_with("(?") => self.perl_group()?,
                '(' => {
                    self.bump();
                    self.open(self.flags)?;
                }
                '|' => {
                    self.bump();
                    if let Some(group) = self.groups.last_mut() {
                        let items = std::mem::take(&mut group.items);
                        group.alternatives.push(Hir::concat(items));
                    }
                }
                ')' => self.close()?,
                '^' => self.push_look(if self.flags.multi_line { Look::StartLF } else { Look::Start }),
                '$' => self.push_look(if self.flags.multi_line { Look::EndLF } else { Look::End }),
                '.' => {
                    self.bump();
                    let all = self.flags.dot_matches_newline;
                    self.push(Hir::dot(if all { Dot::AnyChar } else { Dot::AnyCharExceptLF }));
                }
                '[' => self.class()?,
                '*' | '+' | '?' => {
                    self.bump();
                    let (min, max) = [('*', (0, None)), ('+', (1, None)), ('?', (0, Some(1)))]
                        .into_iter()
                        .find_map(|(op, range)| (op == c).then_some(range))
                        .unwrap_or((0, None));
                    self.repeat(start, min, max, last_repeat)?;
                    repeat = Some(start);
                }
                '{' => match parse_counts(start) {
                    None => {
                        self.bump();
                        self.push_char('{');
                    }
                    Some((counts, rest)) => {
                        self.rest = rest;
                        let size = || error(INVALID_REPEAT_SIZE, before(start, rest));
                        let Some((min, max)) = counts else { return size() };
                        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
                            return size();
                        }
                        self.repeat(start, min, max, last_repeat)?;
                        repeat = Some(start);
                    }
                },
                '\\' => self.escape()?,
                c => {
                    self.bump();
                    self.push_char(c);
                }
            }
            last_repeat = repeat;
        }
        match (self.groups.pop(), self.groups.is_empty()) {
            (Some(group), true) => Ok(group.close()),
            _ => error(MISSING_PAREN, self.pattern),
        }
    }

    /// Goes past the next character.
    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn push(&mut self, hir: Hir) {
        if let Some(group) = self.groups.last_mut() {
            group.items.push(hir);
        }
    }

    fn push_look(&mut self, look: Look) {
        self.bump();
        self.push(Hir::look(look));
    }

    fn push_char(&mut self, c: char) {
        let hir = if self.flags.fold_case {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            fold(&mut class);
            Hir::class(Class::Unicode(class))
        } else {
            Hir::literal(c.encode_utf8(&mut [0; 4]).as_bytes())
        };
        self.push(hir);
    }

    fn open(&mut self, flags: Flags) -> Result<(), SyntaxError> {
        if self.groups.len() > MAX_NESTING {
            return error(TOO_DEEP, self.pattern);
        }
        self.groups.push(Group { alternatives: Vec::new(), items: Vec::new(), flags: self.flags });
        self.flags = flags;
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        let Some(group) = self.groups.pop_if(|_| true).filter(|_| !self.groups.is_empty()) else {
            return error(UNEXPECTED_PAREN, self.pattern);
        };
        self.bump();
        self.flags = group.flags;
        self.push(group.close());
        Ok(())
    }

    /// `(?…`: a name or flags.
    fn perl_group(&mut self) -> Result<(), SyntaxError> {
        let start = self.rest;
        let name = start.strip_prefix("(?P<").or_else(|| start.strip_prefix("(?<"));
        // Go wants at least a character behind the `<` before it takes this for a name.
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let Some((name, rest)) = name.split_once('>') else { return error(INVALID_CAPTURE, start) };
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_word) {
                return error(INVALID_CAPTURE, before(start, rest));
            }
            self.rest = rest;
            return self.open(self.flags);
        }
        let mut flags = self.flags;
        let (mut on, mut saw_flag) = (true, false);
        let mut chars = start.strip_prefix("(?").unwrap_or(start).chars();
        while let Some(c) = chars.next() {
            match c {
                'i' => flags.fold_case = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_matches_newline = on,
                // Which match is preferred does not change whether there is one.
                'U' => {}
                '-' if on => {
                    on = false;
                    saw_flag = false;
                    continue;
                }
                ':' | ')' if on || saw_flag => {
                    self.rest = chars.as_str();
                    if c == ':' {
                        return self.open(flags);
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return error(INVALID_PERL, before(start, chars.as_str())),
            }
            saw_flag = true;
        }
        error(INVALID_PERL, start)
    }

    /// Repeats what was read last; the operator began at `start` and is read.
    fn repeat(
        &mut self,
        start: &'a str,
        min: u32,
        max: Option<u32>,
        last_repeat: Option<&'a str>,
    ) -> Result<(), SyntaxError> {
        let greedy = match self.rest.strip_prefix('?') {
            Some(rest) => {
                self.rest = rest;
                false
            }
            None => true,
        };
        if let Some(last) = last_repeat {
            return error(INVALID_REPEAT_OP, before(last, self.rest));
        }
        let Some(sub) = self.groups.last_mut().and_then(|group| group.items.pop()) else {
            return error(MISSING_ARGUMENT, before(start, self.rest));
        };
        let counted = min >= 2 || max.is_some_and(|max| max >= 2);
        if counted && !repeats_fit(&sub, MAX_REPEAT / max.unwrap_or(min).max(1)) {
            return error(INVALID_REPEAT_SIZE, before(start, self.rest));
        }
        self.push(Hir::repetition(Repetition { min, max, greedy, sub: Box::new(sub) }));
        Ok(())
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        let start = self.rest;
        match start.as_bytes().get(1) {
            Some(b'C') => return error(INVALID_ESCAPE, start.get(..2).unwrap_or(start)),
            Some(b'Q') => {
                let quoted = start.get(2..).unwrap_or_default();
                let (quoted, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                quoted.chars().for_each(|c| self.push_char(c));
                self.rest = rest;
                return Ok(());
            }
            Some(letter) => {
                let look = match letter {
                    b'A' => Some(Look::Start),
                    b'z' => Some(Look::End),
                    b'b' => Some(Look::WordAscii),
                    b'B' => Some(Look::WordAsciiNegate),
                    _ => None,
                };
                if let Some(look) = look {
                    self.bump();
                    self.push_look(look);
                    return Ok(());
                }
            }
            None => {}
        }
        if let Some(class) = self.class_escape()? {
            self.push(Hir::class(Class::Unicode(class)));
            return Ok(());
        }
        match self.char_escape()? {
            Some(c) => self.push_char(c),
            // Half of a pair of UTF-16: no string has it.
            None => self.push(Hir::fail()),
        }
        Ok(())
    }

    /// `\d`, `\pN`, `\p{Greek}` and their like, if one is next.
    fn class_escape(&mut self) -> Result<Option<ClassUnicode>, SyntaxError> {
        let start = self.rest;
        let Some(letter) = start.strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(None) };
        let ranges: &[(char, char)] = match letter.to_ascii_lowercase() {
            'd' => &[('0', '9')],
            's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            'p' => return self.unicode_class().map(Some),
            _ => return Ok(None),
        };
        self.bump();
        self.bump();
        Ok(Some(self.ascii_class(ranges, letter.is_ascii_uppercase())))
    }

    fn ascii_class(&self, ranges: &[(char, char)], negated: bool) -> ClassUnicode {
        let mut class = ClassUnicode::new(ranges.iter().map(|(low, high)| ClassUnicodeRange::new(*low, *high)));
        if self.flags.fold_case {
            fold(&mut class);
        }
        if negated {
            class.negate();
        }
        class
    }

    fn unicode_class(&mut self) -> Result<ClassUnicode, SyntaxError> {
        let start = self.rest;
        let mut negated = start.starts_with("\\P");
        let after = start.get(2..).unwrap_or_default();
        let (mut name, rest) = match after.strip_prefix('{') {
            Some(inside) => match inside.split_once('}') {
                Some(parts) => parts,
                None => return error(INVALID_RANGE, start),
            },
            None => after.split_at(after.chars().next().map_or(0, char::len_utf8)),
        };
        let part = before(start, rest);
        if let Some(positive) = name.strip_prefix('^') {
            negated = !negated;
            name = positive;
        }
        let Some(mut class) = named_class(name) else { return error(INVALID_RANGE, part) };
        if self.flags.fold_case {
            fold(&mut class);
        }
        if negated {
            class.negate();
        }
        self.rest = rest;
        Ok(class)
    }

    /// A single character behind a backslash; `None` for one that no string can have.
    fn char_escape(&mut self) -> Result<Option<char>, SyntaxError> {
        let start = self.rest;
        let mut chars = start.chars();
        chars.next();
        let Some(c) = chars.next() else { return error(TRAILING_BACKSLASH, "") };
        let code = match c {
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            // A single digit but 0 would be a back reference.
            '0'..='7' if c == '0' || chars.as_str().starts_with(|next| ('0'..='7').contains(&next)) => {
                let mut code = c as u32 - '0' as u32;
                for _ in 0..2 {
                    let Some(digit) = chars.clone().next().and_then(|next| next.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                code
            }
            'x' => match hex(&mut chars) {
                Some(code) => code,
                None => return error(INVALID_ESCAPE, before(start, chars.as_str())),
            },
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c as u32,
            _ => return error(INVALID_ESCAPE, before(start, chars.as_str())),
        };
        self.rest = chars.as_str();
        Ok(char::from_u32(code))
    }

    /// `[…]`.
    fn class(&mut self) -> Result<(), SyntaxError> {
        let start = self.rest;
        self.bump();
        let negated = self.rest.starts_with('^');
        if negated {
            self.bump();
        }
        let mut class = ClassUnicode::empty();
        let mut first = true;
        // A `]` that comes first is a character.
        while first || !self.rest.starts_with(']') {
            first = false;
            if let Some(named) = self.posix_class()? {
                class.union(&named);
                continue;
            }
            if let Some(escaped) = self.class_escape()? {
                class.union(&escaped);
                continue;
            }
            let range = self.rest;
            let low = self.class_char(start)?;
            let mut high = low;
            if self.rest.starts_with('-') && self.rest.len() >= 2 && !self.rest.starts_with("-]") {
                self.bump();
                high = self.class_char(start)?;
                if high < low {
                    return error(INVALID_RANGE, before(range, self.rest));
                }
            }
            // Halves of UTF-16 pairs are in no string; the range that is left of them may be empty.
            let low = if (0xd800..0xe000).contains(&low) { 0xe000 } else { low };
            let high = if (0xd800..0xe000).contains(&high) { 0xd7ff } else { high };
            if let (Some(low), Some(high)) = (char::from_u32(low), char::from_u32(high))
                && low <= high
            {
                let mut range = ClassUnicode::new([ClassUnicodeRange::new(low, high)]);
                if self.flags.fold_case {
                    fold(&mut range);
                }
                class.union(&range);
            }
        }
        self.bump();
        if negated {
            class.negate();
        }
        self.push(Hir::class(Class::Unicode(class)));
        Ok(())
    }

    /// `[:alpha:]` and its like, if one is next.
    fn posix_class(&mut self) -> Result<Option<ClassUnicode>, SyntaxError> {
        let start = self.rest;
        let Some((name, rest)) = start.strip_prefix("[:").and_then(|inside| inside.split_once(":]")) else {
            return Ok(None);
        };
        let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let ranges: &[(char, char)] = match name {
            "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
            "alpha" => &[('A', 'Z'), ('a', 'z')],
            "ascii" => &[('\0', '\x7f')],
            "blank" => &[('\t', '\t'), (' ', ' ')],
            "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
            "digit" => &[('0', '9')],
            "graph" => &[('!', '~')],
            "lower" => &[('a', 'z')],
            "print" => &[(' ', '~')],
            "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
            "space" => &[('\t', '\r'), (' ', ' ')],
            "upper" => &[('A', 'Z')],
            "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
            _ => return error(INVALID_RANGE, before(start, rest)),
        };
        self.rest = rest;
        Ok(Some(self.ascii_class(ranges, negated)))
    }

    /// One character of a class as its number: a half of a UTF-16 pair can be the end of a range.
    fn class_char(&mut self, class: &str) -> Result<u32, SyntaxError> {
        match self.rest.chars().next() {
            None => error(MISSING_BRACKET, class),
            // Only a surrogate is no character, and which one makes no difference to a range's ends.
            Some('\\') => Ok(self.char_escape()?.map_or(0xd800, |c| c as u32)),
            Some(c) => {
                self.bump();
                Ok(c as u32)
            }
        }
    }
}

/// The code behind `\x`: two digits, or any number in braces.
fn hex(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let first = chars.next()?;
    if first != '{' {
        let second = chars.next()?;
        return Some(first.to_digit(16)? * 16 + second.to_digit(16)?);
    }
    let mut code = None;
    loop {
        match chars.next()? {
            '}' => return code,
            c => {
                let next = code.unwrap_or(0) * 16 + c.to_digit(16)?;
                code = Some(next).filter(|code| *code <= char::MAX as u32);
                code?;
            }
        }
    }
}

/// What `{n}`, `{n,}` or `{n,m}` says.
type Counts = (u32, Option<u32>);

/// The counts of `{n}`, `{n,}` or `{n,m}` and what follows; `None` if this is no repeat but a plain `{`, and no counts if
/// they are too large to be read.
fn parse_counts(text: &str) -> Option<(Option<Counts>, &str)> {
    let (inside, rest) = text.strip_prefix('{')?.split_once('}')?;
    let (min, max) = inside.split_once(',').map_or((inside, Some(inside)), |(min, max)| (min, Some(max)));
    // A leading zero makes it no number: Go takes `{01}` for text.
    let is_number = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'))
    };
    let max = max.filter(|max| !max.is_empty());
    if !is_number(min) || max.is_some_and(|max| !is_number(max)) {
        return None;
    }
    let counts = || Some((min.parse().ok()?, max.map(str::parse).transpose().ok()?));
    Some((counts(), rest))
}

/// Whether the counted repeats within `hir` multiply to `left` at most.
fn repeats_fit(hir: &Hir, left: u32) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            let count = repetition.max.unwrap_or(repetition.min);
            // `*`, `+` and `?` are no counted repeats.
            if count <= 1 {
                repeats_fit(&repetition.sub, left)
            } else {
                count <= left && repeats_fit(&repetition.sub, left / count)
            }
        }
        HirKind::Concat(subs) | HirKind::Alternation(subs) => subs.iter().all(|sub| repeats_fit(sub, left)),
        _ => true,
    }
}

/// Adds what differs from the class's characters in case alone.
fn fold(class: &mut ClassUnicode) {
    // Fails only without Unicode's tables, which are compiled in.
    let folded = class.try_case_fold_simple();
    debug_assert!(folded.is_ok());
}

/// The characters of a general category or a script, by the names that Go knows.
fn named_class(name: &str) -> Option<ClassUnicode> {
    const CATEGORIES: &str =
        " C Cc Cf Cn Co L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl Zp Zs ";
    if name == "Any" {
        return Some(ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)]));
    }
    // A half of a UTF-16 pair is in no string.
    if name == "Cs" {
        return Some(ClassUnicode::empty());
    }
    let plain = !name.is_empty() && name.starts_with(|c: char| c.is_ascii_uppercase());
    if !plain || !name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') {
        return None;
    }
    // The crate takes any spelling; the words of a name are parted, but for one.
    let run_together = name.bytes().zip(name.bytes().skip(1)).any(|(a, b)| a != b'_' && b.is_ascii_uppercase());
    let property = if CATEGORIES.contains(&format!(" {name} ")) {
        format!("\\p{{gc={name}}}")
    } else {
        // Scripts have short names too, of four letters, which Go does not know; these are long ones of that length.
        let short = name.len() == 4
            && !["Ahom", "Cham", "Kawi", "Lisu", "Miao", "Modi", "Newa", "Thai", "Toto"].contains(&name);
        if short || run_together && name != "SignWriting" {
            return None;
        }
        format!("\\p{{sc={name}}}")
    };
    match regex_syntax::parse(&property).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).ok()?;
            Some(ClassUnicode::new(text.chars().map(|c| ClassUnicodeRange::new(c, c))))
        }
        _ => None,
    }
}
