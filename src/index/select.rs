//! From matchers to the ids of the series that pass them all: once, for the head, blocks and buckets.
//!
//! An absent label is an empty one. So a matcher that accepts "" accepts all series without the label, and there may be
//! millions of those: it is turned round, and the series that it *refuses* are subtracted from the rest. What is left
//! intersects. With nothing to intersect, the subtraction starts from all series.

use super::Postings;
use crate::error::Result;
use crate::model::{MatchOp, Matcher, Reach};

/// Something that keeps a postings list for each label pair.
pub trait PostingsSource {
    /// All series.
    ///
    /// # Errors
    /// The source's own: damaged bytes, an unreachable store.
    fn all(&self) -> Result<Postings>;

    /// The series with the label `name="value"`; an empty list if there are none. `value` is not empty.
    ///
    /// # Errors
    /// As [`all`](PostingsSource::all).
    fn postings(&self, name: &str, value: &str) -> Result<Postings>;

    /// Calls `take` with the list of each value of `name` that begins with `prefix` and that `keep` accepts. In any
    /// order; the source asks `keep` about each value at most once.
    ///
    /// # Errors
    /// As [`all`](PostingsSource::all).
    fn postings_where(
        &self,
        name: &str,
        prefix: &str,
        keep: &mut dyn FnMut(&str) -> bool,
        take: &mut dyn FnMut(Postings),
    ) -> Result<()>;

    /// The series that have a label `name`. A source that keeps such a list can give it; the default unites the values'.
    ///
    /// # Errors
    /// As [`all`](PostingsSource::all).
    fn with_name(&self, name: &str) -> Result<Postings> {
        let mut lists = Vec::new();
        self.postings_where(name, "", &mut |_| true, &mut |list| lists.push(list))?;
        Ok(Postings::union(lists))
    }
}

/// The series of `source` that pass every one of `matchers`, ids ascending; without matchers, all.
///
/// # Errors
/// The source's own.
pub fn postings_for_matchers<S: PostingsSource + ?Sized>(source: &S, matchers: &[Matcher]) -> Result<Postings> {
    let mut include: Vec<&Matcher> = Vec::new();
    let mut exclude: Vec<&Matcher> = Vec::new();
    for matcher in matchers {
        match matcher.reach() {
            Reach::Everything => continue,
            Reach::Nothing => return Ok(Postings::empty()),
            _ => {}
        }
        if !matcher.matches("") {
            include.push(matcher);
        } else {
            exclude.push(matcher);
        }
    }
    // Cheap and selective ones first: an empty list ends it all before a regular expression meets a million values.
    include.sort_by_key(|matcher| match matcher.op() {
        MatchOp::Equal => 0,
        MatchOp::Regex if matcher.set_matches().is_some() => 1,
        MatchOp::Regex => 2,
        MatchOp::NotEqual | MatchOp::NotRegex => 3,
    });

    let mut lists = Vec::with_capacity(include.len());
    for matcher in include {
        let list = accepted(source, matcher)?;
        if list.is_empty() {
            return Ok(list);
        }
        lists.push(list);
    }
    let mut result = if lists.is_empty() { source.all()? } else { Postings::intersect(lists) };
    for matcher in exclude {
        if result.is_empty() {
            break;
        }
        result = result.subtract(&refused(source, matcher)?);
    }
    Ok(result)
}

/// The series with the label that `matcher` accepts; it does not accept "".
fn accepted<S: PostingsSource + ?Sized>(source: &S, matcher: &Matcher) -> Result<Postings> {
    let name = matcher.name();
    match matcher.op() {
        MatchOp::Equal => return source.postings(name, matcher.value()),
        MatchOp::Regex => {
            if let Some(values) = matcher.set_matches() {
                return one_of(source, name, values);
            }
        }
        MatchOp::NotEqual | MatchOp::NotRegex => {}
    }
    if matcher.reach() == Reach::Present {
        return source.with_name(name);
    }
    let mut lists = Vec::new();
    // What a negative expression accepts has no common prefix.
    let prefix = if matcher.op() == MatchOp::Regex { matcher.prefix() } else { "" };
    source.postings_where(name, prefix, &mut |value| matcher.matches(value), &mut |list| lists.push(list))?;
    Ok(Postings::union(lists))
}

/// The series with the label that `matcher` refuses; it accepts "".
fn refused<S: PostingsSource + ?Sized>(source: &S, matcher: &Matcher) -> Result<Postings> {
    let name = matcher.name();
    if matcher.reach() == Reach::Absent {
        return source.with_name(name);
    }
    match matcher.op() {
        MatchOp::NotEqual => return source.postings(name, matcher.value()),
        MatchOp::NotRegex => {
            if let Some(values) = matcher.set_matches() {
                return one_of(source, name, values);
            }
        }
        MatchOp::Equal | MatchOp::Regex => {}
    }
    // What a positive expression refuses has no common prefix; what a negative one refuses is what the expression takes.
    let prefix = if matcher.op() == MatchOp::NotRegex { matcher.prefix() } else { "" };
    let mut lists = Vec::new();
    source.postings_where(name, prefix, &mut |value| !matcher.matches(value), &mut |list| lists.push(list))?;
    Ok(Postings::union(lists))
}

fn one_of<S: PostingsSource + ?Sized>(source: &S, name: &str, values: &[String]) -> Result<Postings> {
    let mut lists = Vec::with_capacity(values.len());
    for value in values.iter().filter(|value| !value.is_empty()) {
        lists.push(source.postings(name, value)?);
    }
    Ok(Postings::union(lists))
}
