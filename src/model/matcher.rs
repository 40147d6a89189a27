//! A matcher: what a selector asks of one label.

use std::fmt;
use std::sync::Arc;

use regex_automata::meta::Regex;

use super::labels::Quoted;
use super::regex;
use super::shape::Shape;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends.
    Regex,
    /// `!~`, anchored at both ends.
    NotRegex,
}

impl MatchOp {
    /// The operator's text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// Why a matcher cannot be made: the regular expression is not one. The text is Go's.
#[derive(Debug, Clone, thiserror::Error)]
#[error("error parsing regexp: {reason}")]
pub struct MatcherError {
    /// The expression as given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which values a matcher accepts, where that needs no look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All, the absent label included: `=~".*"`.
    Everything,
    /// All but "": `=~".+"`, `!=""`.
    Present,
    /// "" alone: `=""`, `!~".+"`.
    Absent,
    /// None: `!~".*"`.
    Nothing,
    /// It depends on the value.
    Some,
}

impl Reach {
    /// What is accepted when this is refused.
    fn inverse(self) -> Self {
        match self {
            Self::Everything => Self::Nothing,
            Self::Present => Self::Absent,
            Self::Absent => Self::Present,
            Self::Nothing => Self::Everything,
            Self::Some => Self::Some,
        }
    }
}

/// One label's condition. An absent label has the value "". Cheap to clone.
#[derive(Debug, Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    expression: Option<Arc<Expression>>,
}

/// A regular expression, in the simplest form that it has.
#[derive(Debug)]
struct Expression {
    shape: Shape,
    prefix: String,
    /// Made only if the shape does not decide by itself.
    regex: Option<Regex>,
}

impl Expression {
    fn new(pattern: &str) -> Result<Self, MatcherError> {
        let failed =
            |error: regex::SyntaxError| MatcherError { pattern: pattern.to_owned(), reason: error.to_string() };
        let hir = regex::parse(pattern).map_err(failed)?;
        let shape = Shape::of(&hir);
        let regex = match &shape {
            Shape::Filtered(_) => Some(regex::compile(pattern, &hir).map_err(failed)?),
            _ => None,
        };
        Ok(Self { prefix: shape.prefix(), shape, regex })
    }

    fn matches(&self, value: &str) -> bool {
        self.shape.matches(value).unwrap_or_else(|| self.regex.as_ref().is_some_and(|regex| regex.is_match(value)))
    }

    fn reach(&self) -> Reach {
        match &self.shape {
            Shape::Nothing => Reach::Nothing,
            Shape::Texts { texts, .. } if matches!(texts.as_slice(), [text] if text.is_empty()) => Reach::Absent,
            shape if shape.is_any(0) => Reach::Everything,
            shape if shape.is_any(1) => Reach::Present,
            _ => Reach::Some,
        }
    }
}

impl Matcher {
    /// A matcher of label `name` against `value`.
    ///
    /// # Errors
    /// [`MatcherError`] if `op` is a regular expression's and `value` is none.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, MatcherError> {
        let value = value.into();
        let expression = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(Arc::new(Expression::new(&value)?)),
        };
        Ok(Self { name: name.into(), op, value, expression })
    }

    /// A matcher for equality, which needs no check.
    #[must_use]
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), expression: None }
    }

    /// The label that it looks at.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it compares.
    #[must_use]
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// What it compares with.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label with `value` passes; "" stands for an absent one.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.expression) {
            (MatchOp::Regex, Some(expression)) => expression.matches(value),
            (MatchOp::NotRegex, Some(expression)) => !expression.matches(value),
            (MatchOp::NotEqual, _) => self.value != value,
            _ => self.value == value,
        }
    }

    /// Which values it accepts, where that needs no look at them.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match (self.op, &self.expression) {
            (MatchOp::Equal, _) if self.value.is_empty() => Reach::Absent,
            (MatchOp::NotEqual, _) if self.value.is_empty() => Reach::Present,
            (MatchOp::Regex, Some(expression)) => expression.reach(),
            (MatchOp::NotRegex, Some(expression)) => expression.reach().inverse(),
            _ => Reach::Some,
        }
    }

    /// The automaton of an expression, without any short cut: what a matcher is compared with.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn automaton(pattern: &str) -> Option<Regex> {
        regex::compile(pattern, &regex::parse(pattern).ok()?).ok()
    }

    /// The values that a regular expression matches, sorted, if they are few and it matches nothing else. It is the
    /// expression's answer: a negative matcher refuses these.
    #[must_use]
    pub fn set_matches(&self) -> Option<&[String]> {
        match &self.expression.as_ref()?.shape {
            Shape::Texts { texts, .. } => Some(texts),
            _ => None,
        }
    }

    /// What every value that the regular expression matches begins with; "" if there is nothing common. As with
    /// [`set_matches`](Matcher::set_matches), a negative matcher refuses the values that this is about.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.expression.as_ref().map_or("", |expression| &expression.prefix)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && self.name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        if plain {
            out.write_str(&self.name)?;
        } else {
            fmt::Display::fmt(&Quoted(&self.name), out)?;
        }
        write!(out, "{}{}", self.op.as_str(), Quoted(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(pattern: &str) -> Matcher {
        Matcher::new(MatchOp::Regex, "a", pattern).unwrap()
    }

    #[test]
    fn a_name_that_is_no_plain_one_is_quoted() {
        assert_eq!(Matcher::equal("a.b", "c").to_string(), r#""a.b"="c""#);
        assert_eq!(Matcher::equal("a_1", "c").to_string(), r#"a_1="c""#);
    }

    #[test]
    fn a_regular_expression_matches_the_whole_value() {
        let matcher = matcher("b|cd");
        assert!(matcher.matches("b") && matcher.matches("cd"));
        assert!(!matcher.matches("bc") && !matcher.matches(""));
    }

    #[test]
    fn simple_expressions_need_no_automaton() {
        for pattern in [
            "foo",
            "foo|bar",
            "^foo$",
            "fo?o",
            "[a-c]x",
            "(?i)ab",
            "(a|b)(c|d)",
            "a{2,3}",
            "",
            "x|",
            "foo.*",
            ".*foo",
            ".*foo.*",
            "foo.+bar.*baz",
            "foo.*|bar.*",
            ".*(foo|bar).*",
            "(?i)http_requests_total.*",
            "(?i:prometheus)-.+",
            ".*",
            ".+",
            "(.*)",
            "a.*|.*b|c",
            "\\Qa.b\\E.*",
        ] {
            let expression = Expression::new(pattern).unwrap();
            assert!(expression.regex.is_none(), "{pattern}: {:?}", expression.shape);
        }
    }

    #[test]
    fn what_is_common_is_known_beforehand() {
        for (pattern, prefix) in [
            ("foo.*", "foo"),
            ("foo[0-9]+x", "foo"),
            ("foo.*|fob.+", "fo"),
            ("foo|fab", "f"),
            ("f(oo|ob)+", "f"),
            ("a*", ""),
        ] {
            assert_eq!(matcher(pattern).prefix(), prefix, "{pattern}");
        }
        assert_eq!(matcher("c|a|b").set_matches().unwrap(), ["a", "b", "c"]);
        assert_eq!(matcher("a.").set_matches(), None);
        let many: Vec<_> = (0..1000).map(|n| format!("pod-{n}")).collect();
        assert_eq!(matcher(&many.join("|")).set_matches().unwrap().len(), 1000);
    }

    #[test]
    fn an_expression_that_says_nothing_is_known_beforehand() {
        let reach = |op, value: &str| Matcher::new(op, "a", value).unwrap().reach();
        for (pattern, expected) in [
            (".*", Reach::Everything),
            ("(.+)", Reach::Present),
            ("^$", Reach::Absent),
            ("[^\\x00-\\x{10FFFF}]", Reach::Nothing),
        ] {
            assert_eq!(reach(MatchOp::Regex, pattern), expected, "{pattern}");
            assert_eq!(reach(MatchOp::NotRegex, pattern), expected.inverse(), "{pattern}");
        }
        assert_eq!(reach(MatchOp::Regex, "(?-s).*"), Reach::Some);
    }

    /// Expressions made of what selectors are made of, and of little else, so that texts hit them.
    fn pattern() -> impl Strategy<Value = String> {
        let atom = prop_oneof![
            4 => "[abAB]{1,3}",
            2 => Just(".*".to_owned()),
            1 => Just(".+".to_owned()),
            1 => prop::sample::select(vec![".", "a?", "[ab]", "[^a]", "b*", "\\d", "ü", "^", "$", "(?i)", "(?-s)", "\\b", "a{2}", ".{2,}"])
                .prop_map(str::to_owned),
        ];
        let concat = prop::collection::vec(atom, 0..5).prop_map(|atoms| atoms.concat());
        concat.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|alternatives| alternatives.join("|")),
                (inner.clone(), "[ab]{0,2}").prop_map(|(inner, tail)| format!("({inner}){tail}")),
                (inner.clone(), inner).prop_map(|(a, b)| format!("(?:{a})(?:{b})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_simple_form_answers_as_the_automaton_does(pattern in pattern(), values in prop::collection::vec("[abAB1ü\n]{0,6}", 20)) {
            let automaton = Matcher::automaton(&pattern).unwrap();
            let matcher = matcher(&pattern);
            for value in values {
                let expected = automaton.is_match(&value);
                prop_assert_eq!(matcher.matches(&value), expected, "{:?} on {:?}", &pattern, &value);
                if expected {
                    prop_assert!(value.starts_with(matcher.prefix()), "{pattern:?}: {:?}, {value:?}", matcher.prefix());
                    if let Some(texts) = matcher.set_matches() {
                        prop_assert!(texts.contains(&value));
                    }
                }
                match matcher.reach() {
                    Reach::Everything => prop_assert!(expected),
                    Reach::Present => prop_assert_eq!(expected, !value.is_empty()),
                    Reach::Absent => prop_assert_eq!(expected, value.is_empty()),
                    Reach::Nothing => prop_assert!(!expected),
                    Reach::Some => {}
                }
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(pattern in "\\PC{0,30}", soup in "[\\\\\\[\\](){}?*+|^$:,<>PpQEdxa0-9-]{0,30}") {
            let _ = Matcher::new(MatchOp::Regex, "a", pattern);
            let _ = Matcher::new(MatchOp::Regex, "a", soup);
        }
    }
}
