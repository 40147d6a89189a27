//! What an expression comes down to, when it comes down to something simpler than an automaton.
//!
//! Nearly all expressions in selectors are a few literals, or literals with `.*` between them. A tree is read as pieces:
//! *one of these texts*, *characters of these sets*, *at least n of any character*. If all of it can be, comparing text
//! is all that is left to do; what cannot becomes "any characters" in a filter that is asked before the automaton.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use crate::codec::FixedSet;

/// How many texts a product of parts may make.
const MOST_TEXTS: usize = 256;
/// How many texts a plain list of alternatives may have.
const MOST_ALTERNATIVES: usize = 4096;
/// From how many texts on a hash is cheaper than a look at each.
const HASH_FROM: usize = 16;
/// How many texts a piece may have before sets of characters are cheaper.
const MOST_PIECE_TEXTS: usize = 16;

/// The values that an expression matches.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// None.
    Nothing,
    /// These, sorted.
    Texts { texts: Vec<String>, hashed: Option<FixedSet<Box<str>>> },
    /// Those that any of the globs matches.
    Globs(Vec<Glob>),
    /// A part of those that the glob matches: the automaton says which.
    Filtered(Glob),
}

impl Shape {
    /// Reads the tree of an expression that covers whole values.
    pub(super) fn of(hir: &Hir) -> Self {
        if let Some(mut texts) = texts(without_anchors(hir), MOST_ALTERNATIVES) {
            if texts.is_empty() {
                return Self::Nothing;
            }
            texts.sort();
            texts.dedup();
            let hashed = (texts.len() >= HASH_FROM).then(|| texts.iter().map(|text| text.as_str().into()).collect());
            return Self::Texts { texts, hashed };
        }
        if let HirKind::Alternation(alternatives) = hir.kind()
            && alternatives.len() <= HASH_FROM
        {
            let globs: Vec<_> = alternatives.iter().map(Glob::of).collect();
            if globs.iter().all(|glob| glob.exact) {
                return Self::Globs(globs);
            }
        }
        let glob = Glob::of(hir);
        if glob.exact { Self::Globs(vec![glob]) } else { Self::Filtered(glob) }
    }

    /// What all matched values begin with.
    pub(super) fn prefix(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Texts { texts, .. } => common_prefix(texts.iter().map(String::as_str)),
            Self::Globs(globs) => {
                let prefixes: Vec<_> = globs.iter().map(Glob::prefix).collect();
                common_prefix(prefixes.iter().map(String::as_str))
            }
            Self::Filtered(glob) => glob.prefix(),
        }
    }

    /// Whether `value` is matched; `None` if only the automaton can tell.
    pub(super) fn matches(&self, value: &str) -> Option<bool> {
        match self {
            Self::Nothing => Some(false),
            Self::Texts { hashed: Some(texts), .. } => Some(texts.contains(value)),
            Self::Texts { texts, .. } => Some(texts.iter().any(|text| text == value)),
            Self::Globs(globs) => Some(globs.iter().any(|glob| glob.matches(value))),
            Self::Filtered(glob) => {
                if glob.matches(value) {
                    None
                } else {
                    Some(false)
                }
            }
        }
    }

    /// Whether every value is matched that has `min` characters, and no other.
    pub(super) fn is_any(&self, min: u32) -> bool {
        match self {
            Self::Globs(globs) => matches!(globs.as_slice(), [glob] if *glob.pieces == [Piece::Any(min)]),
            _ => false,
        }
    }
}

fn common_prefix<'a>(mut texts: impl Iterator<Item = &'a str>) -> String {
    let Some(first) = texts.next() else { return String::new() };
    let common = texts.fold(first, |common, text| {
        let same = common.char_indices().zip(text.chars()).find(|((_, a), b)| a != b);
        let end = same.map_or(common.len().min(text.len()), |((at, _), _)| at);
        common.get(..end).unwrap_or(common)
    });
    common.to_owned()
}

/// `^` at the beginning and `$` at the end say nothing about an expression that covers the whole value.
fn without_anchors(hir: &Hir) -> &[Hir] {
    let mut items = match hir.kind() {
        HirKind::Concat(items) => items.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    while let [first, rest @ ..] = items
        && matches!(first.kind(), HirKind::Look(Look::Start))
    {
        items = rest;
    }
    while let [rest @ .., last] = items
        && matches!(last.kind(), HirKind::Look(Look::End))
    {
        items = rest;
    }
    items
}

/// All texts that the items, one after another, match, if they are few.
fn texts(items: &[Hir], most: usize) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    for item in items {
        let mut next = Vec::new();
        texts_of(item, most, &mut next)?;
        let limit = if items.len() == 1 { most } else { MOST_TEXTS };
        if all.len().checked_mul(next.len())? > limit {
            return None;
        }
        all = all.iter().flat_map(|head| next.iter().map(move |tail| format!("{head}{tail}"))).collect();
    }
    Some(all)
}

fn texts_of(hir: &Hir, most: usize, out: &mut Vec<String>) -> Option<()> {
    match hir.kind() {
        HirKind::Empty => out.push(String::new()),
        HirKind::Literal(literal) => out.push(String::from_utf8(literal.0.to_vec()).ok()?),
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.iter().map(|range| range.end() as usize - range.start() as usize + 1).sum();
            if count > MOST_TEXTS {
                return None;
            }
            out.extend(class.iter().flat_map(|range| range.start()..=range.end()).map(String::from));
        }
        // The tree of a class without characters, which nothing matches.
        HirKind::Class(Class::Bytes(class)) if class.ranges().is_empty() => {}
        HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) => return None,
        HirKind::Capture(capture) => texts_of(&capture.sub, most, out)?,
        HirKind::Concat(items) => out.extend(texts(items, most)?),
        HirKind::Alternation(items) => {
            for item in items {
                texts_of(item, most, out)?;
                if out.len() > most {
                    return None;
                }
            }
        }
        HirKind::Repetition(repetition) => {
            let max = repetition.max.filter(|max| *max <= 8)?;
            let mut once = Vec::new();
            texts_of(&repetition.sub, MOST_TEXTS, &mut once)?;
            let mut power = vec![String::new()];
            for count in 0..=max {
                if count >= repetition.min {
                    out.extend(power.iter().cloned());
                }
                if count < max && power.len().checked_mul(once.len())? > MOST_TEXTS || out.len() > MOST_TEXTS {
                    return None;
                }
                if count < max {
                    power =
                        power.iter().flat_map(|head| once.iter().map(move |tail| format!("{head}{tail}"))).collect();
                }
            }
        }
    }
    (out.len() <= most).then_some(())
}

/// One piece of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// At least so many of any character.
    Any(u32),
    /// One of these, the shortest first.
    Texts(Vec<String>),
    /// A character of each of these sets, as literals without case are. Only at the beginning.
    Chars(Vec<Vec<char>>),
}

/// Pieces, one after another.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    /// No two [`Piece::Any`] and no two [`Piece::Texts`] follow each other.
    pieces: Vec<Piece>,
    /// Whether nothing was left out.
    exact: bool,
}

impl Glob {
    fn of(hir: &Hir) -> Self {
        let mut glob = Self { pieces: Vec::new(), exact: true };
        for item in without_anchors(hir) {
            glob.add(item);
        }
        for piece in &mut glob.pieces {
            if let Piece::Texts(texts) = piece {
                texts.sort_by_key(String::len);
                texts.dedup();
            }
        }
        glob
    }

    fn add(&mut self, hir: &Hir) {
        if let Some(min) = any_characters(hir) {
            self.add_any(min);
            return;
        }
        if let HirKind::Concat(items) = hir.kind() {
            items.iter().for_each(|item| self.add(item));
            return;
        }
        let mut texts = Vec::new();
        if texts_of(hir, MOST_TEXTS, &mut texts).is_some() {
            if let Some(Piece::Texts(before)) = self.pieces.last_mut()
                && before.len() * texts.len() <= MOST_PIECE_TEXTS
            {
                *before =
                    before.iter().flat_map(|head| texts.iter().map(move |tail| format!("{head}{tail}"))).collect();
                return;
            }
            if !matches!(self.pieces.last(), Some(Piece::Texts(_) | Piece::Chars(_))) {
                self.pieces.push(Piece::Texts(texts));
                return;
            }
        }
        // Sets of characters, at the beginning alone: a literal without case that is too long for a list.
        if let [Piece::Texts(_) | Piece::Chars(_)] = self.pieces.as_slice()
            && let Some(more) = char_sets(hir)
            && let Some(sets) = self.pieces.first().and_then(Piece::char_sets)
        {
            self.pieces = vec![Piece::Chars(sets.into_iter().chain(more).collect())];
            return;
        }
        self.exact = false;
        self.add_any(0);
    }

    fn add_any(&mut self, min: u32) {
        if let Some(Piece::Any(before)) = self.pieces.last_mut() {
            *before = before.saturating_add(min);
        } else {
            self.pieces.push(Piece::Any(min));
        }
    }

    fn prefix(&self) -> String {
        match self.pieces.first() {
            Some(Piece::Texts(texts)) => common_prefix(texts.iter().map(String::as_str)),
            Some(Piece::Chars(sets)) => {
                sets.iter().map_while(|set| if let [c] = set.as_slice() { Some(*c) } else { None }).collect()
            }
            _ => String::new(),
        }
    }

    /// Whether `value` is the pieces, one after another. Of several places where a piece fits, the one that ends first is
    /// taken: what fits behind a later one fits behind that too.
    fn matches(&self, value: &str) -> bool {
        let mut rest = value;
        let mut floating = false;
        for (number, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Any(min) => {
                    let mut chars = rest.chars();
                    if *min > 0 && chars.nth(*min as usize - 1).is_none() {
                        return false;
                    }
                    rest = chars.as_str();
                    floating = true;
                }
                Piece::Chars(sets) => {
                    let mut chars = rest.chars();
                    if !sets.iter().all(|set| chars.next().is_some_and(|c| set.contains(&c))) {
                        return false;
                    }
                    rest = chars.as_str();
                    floating = false;
                }
                Piece::Texts(texts) => {
                    if number + 1 == self.pieces.len() && floating {
                        return texts.iter().any(|text| rest.ends_with(text.as_str()));
                    }
                    let found = if floating {
                        let ends = texts.iter().filter_map(|text| rest.find(text.as_str()).map(|at| at + text.len()));
                        ends.min()
                    } else if number + 1 == self.pieces.len() {
                        return texts.iter().any(|text| rest == text);
                    } else {
                        texts.iter().find(|text| rest.starts_with(text.as_str())).map(String::len)
                    };
                    let Some(end) = found else { return false };
                    rest = rest.get(end..).unwrap_or_default();
                    floating = false;
                }
            }
        }
        rest.is_empty() || floating
    }
}

impl Piece {
    fn char_sets(&self) -> Option<Vec<Vec<char>>> {
        match self {
            Self::Chars(sets) => Some(sets.clone()),
            Self::Texts(texts) => {
                // A product of sets made these texts, if as many can be made of their characters.
                let len = texts.first()?.chars().count();
                let mut sets = vec![Vec::new(); len];
                for text in texts {
                    if text.chars().count() != len {
                        return None;
                    }
                    for (set, c) in sets.iter_mut().zip(text.chars()) {
                        if !set.contains(&c) {
                            set.push(c);
                        }
                    }
                }
                (sets.iter().map(Vec::len).product::<usize>() == texts.len()).then_some(sets)
            }
            Self::Any(_) => None,
        }
    }
}

/// The characters that `hir` can be, if it is one character, or a literal's.
fn char_sets(hir: &Hir) -> Option<Vec<Vec<char>>> {
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.iter().map(|range| range.end() as usize - range.start() as usize + 1).sum();
            (count <= 4).then(|| vec![class.iter().flat_map(|range| range.start()..=range.end()).collect()])
        }
        HirKind::Literal(literal) => Some(std::str::from_utf8(&literal.0).ok()?.chars().map(|c| vec![c]).collect()),
        _ => None,
    }
}

/// How many characters at least, if `hir` is "that many of any characters".
fn any_characters(hir: &Hir) -> Option<u32> {
    let HirKind::Repetition(repetition) = hir.kind() else { return None };
    let HirKind::Class(Class::Unicode(class)) = repetition.sub.kind() else { return None };
    let all = matches!(class.ranges(), [range] if range.start() == '\0' && range.end() == char::MAX);
    (all && repetition.max.is_none()).then_some(repetition.min)
}
