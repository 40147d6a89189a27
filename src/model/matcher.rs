//! A matcher: what a selector asks of one label.

use std::fmt;

use regex_automata::meta::Regex;

use super::labels::Quoted;

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

/// Why a matcher cannot be made: the regular expression is not one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid regular expression {pattern:?}: {reason}")]
pub struct MatcherError {
    /// The expression as given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One label's condition. An absent label has the value "".
#[derive(Debug, Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    regex: Option<Regex>,
}

impl Matcher {
    /// A matcher of label `name` against `value`.
    ///
    /// # Errors
    /// [`MatcherError`] if `op` is a regular expression's and `value` is none.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, MatcherError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => {
                let refused = |reason| MatcherError { pattern: value.clone(), reason };
                // Alone first: inside the group, `a)(b` would pass.
                regex_syntax::Parser::new().parse(&value).map_err(|error| refused(reason(&error)))?;
                let anchored = format!("^(?s:{value})$");
                Some(Regex::new(&anchored).map_err(|error| refused(error.to_string()))?)
            }
        };
        Ok(Self { name: name.into(), op, value, regex })
    }

    /// A matcher for equality, which needs no check.
    #[must_use]
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
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
        match (self.op, &self.regex) {
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::NotEqual, _) => self.value != value,
            _ => self.value == value,
        }
    }
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

impl Matcher {
    /// Which values it accepts, where that needs no look at them.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match (self.op, self.value.as_str()) {
            (MatchOp::Equal | MatchOp::Regex, "") | (MatchOp::NotRegex, ".+") => Reach::Absent,
            (MatchOp::NotEqual | MatchOp::NotRegex, "") | (MatchOp::Regex, ".+") => Reach::Present,
            (MatchOp::Regex, ".*") => Reach::Everything,
            (MatchOp::NotRegex, ".*") => Reach::Nothing,
            _ => Reach::Some,
        }
    }

    /// The values that a regular expression matches, sorted, if they are few and it matches nothing else. It is the
    /// expression's answer: a negative matcher refuses these.
    #[must_use]
    pub fn set_matches(&self) -> Option<&[String]> {
        None
    }

    /// What every value that the regular expression matches begins with; "" if there is nothing common.
    #[must_use]
    pub fn prefix(&self) -> &str {
        ""
    }
}

/// What is wrong, without the picture of the pattern that the error's own text draws over several lines.
fn reason(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
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
    use super::*;

    #[test]
    fn a_pattern_must_be_one_by_itself() {
        let error = Matcher::new(MatchOp::Regex, "a", "a)(b").unwrap_err();
        assert_eq!(error.to_string(), "invalid regular expression \"a)(b\": unopened group");
    }

    #[test]
    fn a_name_that_is_no_plain_one_is_quoted() {
        assert_eq!(Matcher::equal("a.b", "c").to_string(), r#""a.b"="c""#);
        assert_eq!(Matcher::equal("a_1", "c").to_string(), r#"a_1="c""#);
    }

    #[test]
    fn a_regular_expression_matches_the_whole_value() {
        let matcher = Matcher::new(MatchOp::Regex, "a", "b|cd").unwrap();
        assert!(matcher.matches("b") && matcher.matches("cd"));
        assert!(!matcher.matches("bc") && !matcher.matches(""));
    }
}
