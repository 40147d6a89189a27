//! A label set: pairs of name and value, sorted by name, each name once.
//!
//! ```text
//! packed   (len name len value)*      len: one byte up to 254, else 255 and 3 bytes little-endian
//! ```
//!
//! One allocation a set, shared when cloned. The packed form is canonical, so equality is one comparison of bytes and a
//! hash is one pass over them. A vector of pairs of strings would cost two allocations and 48 bytes a label; sets are
//! cloned at every step of a query.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// The longest name or value that the packed form can hold, in bytes.
pub const LABEL_LONGEST: usize = (1 << 24) - 1;

/// A label set, sorted by name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    packed: Arc<[u8]>,
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl Labels {
    /// The set without labels.
    #[must_use]
    pub fn empty() -> Self {
        Self { packed: Arc::from(&[][..]) }
    }

    /// The set of `pairs`, in any order. Pairs with an empty value are left out, as an empty label is an absent one in
    /// Prometheus; of pairs with the same name the last wins. A name or value of more than 16 MiB, which the packed form has
    /// no place for, is cut at a character's boundary: who takes texts from outside limits them before.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = LabelsBuilder::new();
        for (name, value) in pairs {
            builder.push(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// The set whose packed form is `packed`; `None` if no set has that form.
    #[must_use]
    pub fn parse_packed(packed: &[u8]) -> Option<Self> {
        is_packed(packed).then(|| Self { packed: Arc::from(packed) })
    }

    /// The labels in order of their names.
    #[must_use]
    pub fn iter(&self) -> LabelsIter<'_> {
        LabelsIter { rest: &self.packed }
    }

    /// The value of the label `name`, if the set has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().take_while(|(label, _)| *label <= name).find(|(label, _)| *label == name).map(|(_, value)| value)
    }

    /// The value of `__name__`, or "".
    #[must_use]
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The canonical bytes of the set: equal bytes are equal sets. See the file's header for the layout.
    #[must_use]
    pub fn as_packed(&self) -> &[u8] {
        &self.packed
    }

    /// The set whose canonical bytes are `packed`, as [`put_text`] wrote them, name after name in order. A caller that
    /// breaks the order makes a set in which look-ups miss; nothing worse.
    pub(crate) fn from_packed(packed: &[u8]) -> Self {
        Self { packed: Arc::from(packed) }
    }

    /// xxh64 (seed 0) over the packed form: what the head finds a series by.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        xxh64(&self.packed, 0)
    }

    /// A copy without the labels that `drop` names.
    #[must_use]
    pub fn without(&self, drop: impl Fn(&str) -> bool) -> Self {
        let mut packed = Vec::with_capacity(self.packed.len());
        for (name, value) in self.iter().filter(|(name, _)| !drop(name)) {
            put_text(&mut packed, name);
            put_text(&mut packed, value);
        }
        Self { packed: packed.into() }
    }

    /// A copy with the labels of `over` in it; where both have a name, `over`'s value stands.
    #[must_use]
    pub fn with(&self, over: &Self) -> Self {
        let mut packed = Vec::with_capacity(self.packed.len() + over.packed.len());
        let mut put = |(name, value): (&str, &str)| {
            put_text(&mut packed, name);
            put_text(&mut packed, value);
        };
        let mut over = over.iter().peekable();
        for own in self {
            while let Some(before) = over.next_if(|(name, _)| *name < own.0) {
                put(before);
            }
            put(over.next_if(|(name, _)| *name == own.0).unwrap_or(own));
        }
        over.for_each(put);
        Self { packed: packed.into() }
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    /// Label order: pair by pair, name before value; a set that is a prefix of another comes first. The order of series
    /// in a block and of every merge. The packed bytes do not sort this way, since lengths stand in them.
    ///
    /// Series that are sorted have most of their labels in common, so the first byte that differs is looked for eight at a
    /// time, and only then in which text it stands.
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (&*self.packed, &*other.packed);
        let at = first_difference(left, right);
        let (Some(a), Some(b)) = (left.get(at), right.get(at)) else { return left.len().cmp(&right.len()) };
        let mut texts = self.iter();
        loop {
            let start = left.len() - texts.rest.len();
            // Names and values alternate on both sides, and text sorts as its bytes do, without being looked at as text.
            let Some(text) = texts.bytes() else { return a.cmp(b) };
            let end = left.len() - texts.rest.len();
            if at + text.len() >= end && at < end {
                return a.cmp(b);
            }
            if at < end {
                // It is their lengths that differ.
                let right = LabelsIter { rest: right.get(start..).unwrap_or_default() }.bytes();
                return Some(text).cmp(&right);
            }
        }
    }
}

/// How many bytes two slices have in common at their beginning.
fn first_difference(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let mut same = 0;
    for (a, b) in words {
        let differs = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differs != 0 {
            return same + differs.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    let rest = a.get(same..).unwrap_or_default().iter().zip(b.get(same..).unwrap_or_default());
    same + rest.take_while(|(a, b)| a == b).count()
}

impl fmt::Display for Labels {
    /// `{a="b", c="d"}` as Prometheus writes it: values quoted as in Go, names quoted where they are not plain.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("{")?;
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                out.write_str(", ")?;
            }
            if is_plain_name(name) {
                write!(out, "{name}=")?;
            } else {
                write!(out, "{}=", Quoted(name))?;
            }
            write!(out, "{}", Quoted(value))?;
        }
        out.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = LabelsIter<'a>;
    fn into_iter(self) -> LabelsIter<'a> {
        self.iter()
    }
}

/// The labels of a set in order: pairs of name and value.
#[derive(Debug, Clone)]
pub struct LabelsIter<'a> {
    rest: &'a [u8],
}

impl<'a> LabelsIter<'a> {
    /// The labels of a packed form that came out of a set or a builder.
    pub(crate) fn of_packed(packed: &'a [u8]) -> Self {
        Self { rest: packed }
    }

    /// The packed form of what is not iterated yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next label in packed form.
    #[inline]
    pub(crate) fn next_packed(&mut self) -> Option<&'a [u8]> {
        let before = self.rest;
        self.bytes()?;
        self.bytes()?;
        before.get(..before.len() - self.rest.len())
    }

    fn text(&mut self) -> Option<&'a str> {
        // Packed bytes are made by this file from `str`s alone, so this is a check that cannot fail, not a conversion.
        std::str::from_utf8(self.bytes()?).ok()
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (&first, mut rest) = self.rest.split_first()?;
        let mut len = usize::from(first);
        if first == 255 {
            let (wide, tail) = rest.split_first_chunk::<3>()?;
            len = usize::from(wide[0]) | usize::from(wide[1]) << 8 | usize::from(wide[2]) << 16;
            rest = tail;
            // One form only: a short text with a wide length would be a second packed form of the same set.
            if len < 255 {
                return None;
            }
        }
        let (text, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some(text)
    }
}

impl<'a> Iterator for LabelsIter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        Some((self.text()?, self.text()?))
    }
}

/// Collects pairs in any order into [`Labels`]. Reusable: [`clear`](LabelsBuilder::clear) keeps the memory.
#[derive(Debug, Clone, Default)]
pub struct LabelsBuilder {
    text: String,
    /// Where in `text` each pair stands: start of the name, start of the value, end of the value.
    pairs: Vec<(u32, u32, u32)>,
}

impl LabelsBuilder {
    /// A builder without pairs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all pairs.
    pub fn clear(&mut self) {
        self.text.clear();
        self.pairs.clear();
    }

    /// Takes in a pair. An empty value removes what an earlier push of the name gave. See [`Labels::from_pairs`] for texts of
    /// more than 16 MiB.
    pub fn push(&mut self, name: &str, value: &str) -> &mut Self {
        let start = self.text.len() as u32;
        self.text.push_str(name);
        let middle = self.text.len() as u32;
        self.text.push_str(value);
        self.pairs.push((start, middle, self.text.len() as u32));
        self
    }

    /// Takes in all pairs of `labels`.
    pub fn extend(&mut self, labels: &Labels) -> &mut Self {
        for (name, value) in labels {
            self.push(name, value);
        }
        self
    }

    /// The first name that was pushed twice, after sorting; a set that came from outside is refused for it.
    #[must_use]
    pub fn duplicate_name(&mut self) -> Option<&str> {
        self.sort();
        let twice = self.pairs.windows(2).find_map(|pair| match pair {
            [a, b] if self.name(a) == self.name(b) => Some(*a),
            _ => None,
        })?;
        Some(self.name(&twice))
    }

    fn sort(&mut self) {
        let text = &self.text;
        let name = |pair: &(u32, u32, u32)| text.get(pair.0 as usize..pair.1 as usize);
        // Senders sort already; a look is cheaper than a sort. The sort is stable: of equal names the last stays last.
        if !self.pairs.is_sorted_by(|a, b| name(a) <= name(b)) {
            self.pairs.sort_by(|a, b| name(a).cmp(&name(b)));
        }
    }

    fn name(&self, pair: &(u32, u32, u32)) -> &str {
        self.text.get(pair.0 as usize..pair.1 as usize).unwrap_or("")
    }

    fn value(&self, pair: &(u32, u32, u32)) -> &str {
        self.text.get(pair.1 as usize..pair.2 as usize).unwrap_or("")
    }

    /// Writes the packed form of the set into `out`, which is emptied first: a look-up by hash needs no allocation.
    pub fn pack_into(&mut self, out: &mut Vec<u8>) {
        out.clear();
        self.sort();
        for (index, pair) in self.pairs.iter().enumerate() {
            let overwritten = self.pairs.get(index + 1).is_some_and(|next| self.name(next) == self.name(pair));
            if overwritten || pair.1 == pair.2 {
                continue;
            }
            put_text(out, self.name(pair));
            put_text(out, self.value(pair));
        }
    }

    /// The set of all pairs.
    #[must_use]
    pub fn build(&mut self) -> Labels {
        let mut packed = Vec::with_capacity(self.text.len() + 2 * self.pairs.len());
        self.pack_into(&mut packed);
        Labels { packed: packed.into() }
    }
}

/// Whether `packed` is the packed form of a set.
pub(crate) fn is_packed(packed: &[u8]) -> bool {
    let (mut labels, mut previous) = (LabelsIter { rest: packed }, None);
    while !labels.rest.is_empty() {
        let Some((name, value)) = labels.next() else { return false };
        if value.is_empty() || previous.is_some_and(|previous| previous >= name) {
            return false;
        }
        previous = Some(name);
    }
    true
}

/// Appends one name or value in packed form. Longer than 16 MiB is cut at a character's boundary; every way in from
/// outside has a far smaller limit of its own.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = if text.len() > LABEL_LONGEST { &text[..text.floor_char_boundary(LABEL_LONGEST)] } else { text };
    put_packed_label(out, text.as_bytes());
}

/// Appends one name or value, of [`LABEL_LONGEST`] bytes at most, in packed form. For decoders that pack in place what
/// they have checked: UTF-8, sorted, no name twice, no empty value.
#[inline]
pub(crate) fn put_packed_label(out: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(len) if len < 255 => out.push(len),
        _ => {
            let len = (text.len() as u32).to_le_bytes();
            out.extend_from_slice(&[255, len[0], len[1], len[2]]);
        }
    }
    out.extend_from_slice(text);
}

/// Whether `name` can stand unquoted: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `text` in double quotes, escaped as Go's `strconv.Quote` does: how names and values stand in Prometheus's errors.
#[must_use]
pub fn quoted(text: &str) -> String {
    Quoted(text).to_string()
}

/// A string in double quotes, escaped as Go's `strconv.Quote` does.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        out.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\u{07}' => out.write_str("\\a")?,
                '\u{08}' => out.write_str("\\b")?,
                '\u{0c}' => out.write_str("\\f")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                '\u{0b}' => out.write_str("\\v")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(out, "\\x{:02x}", c as u32)?,
                c if !is_printable(c) && (c as u32) < 0x1_0000 => write!(out, "\\u{:04x}", c as u32)?,
                c if !is_printable(c) => write!(out, "\\U{:08x}", c as u32)?,
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')
    }
}

/// Go's `unicode.IsPrint`, near enough: what Rust's own `Debug` would not escape, plus combining marks.
fn is_printable(c: char) -> bool {
    c == '\'' || !c.is_whitespace() && c.escape_debug().len() == 1 || c == ' '
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_packed_form_gives_its_set_back(pairs in prop::collection::btree_map("[a-zé]{1,3}", "[a-zé]{1,300}", 0..5)) {
            let labels = Labels::from_pairs(pairs);
            prop_assert_eq!(Labels::parse_packed(labels.as_packed()), Some(labels));
        }

        #[test]
        fn bytes_that_are_no_packed_form_give_no_set(bytes in prop::collection::vec(0u8..4, 0..12)) {
            if let Some(labels) = Labels::parse_packed(&bytes) {
                let again = Labels::from_pairs(&labels);
                prop_assert_eq!(again.as_packed(), bytes);
            }
        }
    }

    #[test]
    fn a_set_is_sorted_and_without_empty_values() {
        let labels = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", "")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!(labels.get("b"), Some("2"));
        assert_eq!(labels.get("c"), None);
        assert_eq!(labels.to_string(), r#"{a="1", b="2"}"#);
    }

    #[test]
    fn of_equal_names_the_last_wins_and_can_be_asked_for() {
        let mut builder = LabelsBuilder::new();
        builder.push("a", "old").push("b", "x").push("a", "new");
        assert_eq!(builder.duplicate_name(), Some("a"));
        assert_eq!(builder.build(), Labels::from_pairs([("a", "new"), ("b", "x")]));
    }

    #[test]
    fn names_that_are_not_plain_and_values_that_need_it_are_quoted() {
        let labels = Labels::from_pairs([("my.name", "a\"b\\\n"), ("ok", "ü")]);
        assert_eq!(labels.to_string(), "{\"my.name\"=\"a\\\"b\\\\\\n\", ok=\"ü\"}");
    }

    proptest! {
        #[test]
        fn a_set_answers_as_a_map_does(pairs in prop::collection::vec(("[a-c]{1,3}", ".{0,300}"), 0..6)) {
            let mut model = std::collections::BTreeMap::new();
            for (name, value) in &pairs {
                model.insert(name.as_str(), value.as_str());
            }
            model.retain(|_, value| !value.is_empty());
            let labels = Labels::from_pairs(pairs.iter().map(|(n, v)| (n, v)));
            prop_assert_eq!(labels.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn labels_put_over_others_win(own in prop::collection::vec(("[a-d]{1,2}", "[x-z]{0,2}"), 0..5),
                                      over in prop::collection::vec(("[a-d]{1,2}", "[x-z]{0,2}"), 0..3)) {
            let (own, over) = (Labels::from_pairs(own), Labels::from_pairs(over));
            prop_assert_eq!(own.with(&over), Labels::from_pairs(own.iter().chain(&over)));
        }

        #[test]
        fn order_is_that_of_the_pairs(a in prop::collection::vec(("[a-b]{1,2}", "[x-y]{1,2}|x{250,260}y?"), 0..4),
                                      b in prop::collection::vec(("[a-b]{1,2}", "[x-y]{1,2}|x{250,260}y?"), 0..4)) {
            let (a, b) = (Labels::from_pairs(a), Labels::from_pairs(b));
            let (left, right): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(a == b, left == right);
        }
    }
}
