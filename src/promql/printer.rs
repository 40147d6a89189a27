//! A tree as text: on one line, as annotations and label names quote it, and laid out for people.
//!
//! The one-line form is `Display`: it reads back as the same tree. Matchers are sorted, parentheses stand where the query
//! had them, durations are in their largest units.

use std::fmt::{self, Display, Write as _};

use super::ast::{
    Aggregate, At, Binary, BinaryOp, Call, Cardinality, DurationExpr, DurationOp, Edges, Expr, Extent, MatrixSelector,
    NumberLiteral, Subquery, VectorSelector,
};
use super::literal::format_duration;
use crate::model::{METRIC_NAME, MatchOp, Quoted};

/// Lines beyond this many bytes are split by [`pretty`].
const LINE: usize = 100;

/// A number as Go's `FormatFloat(v, 'f', …)` writes it: never with an exponent; `decimals` of `None` are as many as it
/// takes to read the same number back.
#[must_use]
pub fn format_float(value: f64, decimals: Option<usize>) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    match decimals {
        Some(decimals) => format!("{value:.decimals$}"),
        None => format!("{value}"),
    }
}

/// A number as Go's `%v` and `%g` write it: with an exponent below 1e-4 and from 1e6 on.
#[must_use]
pub fn format_general(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return format_float(value, None);
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

impl Display for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(node) => node.fmt(out),
            Self::String(node) => out.write_str(&readable(Quoted(&node.value))),
            Self::Vector(node) => node.fmt(out),
            Self::Matrix(node) => node.fmt(out),
            Self::Subquery(node) => write!(out, "{}{}", node.expr, SubquerySuffix(node)),
            Self::Call(node) => node.fmt(out),
            Self::Unary(node) => write!(out, "{}{}", if node.minus { '-' } else { '+' }, node.expr),
            Self::Binary(node) => write!(out, "{} {} {}", Base(node), Operator(node), node.rhs),
            Self::Aggregate(node) => node.fmt(out),
            Self::Paren(node) => write!(out, "({})", node.expr),
            Self::StepInvariant(inner) => inner.fmt(out),
        }
    }
}

/// An operator's left operand. A sign would take a power's exponent to itself, so infinity stands there without one; the
/// original writes it nevertheless.
struct Base<'a>(&'a Binary);

impl Base<'_> {
    fn is_infinite(&self) -> bool {
        self.0.op == BinaryOp::Pow && matches!(&self.0.lhs, Expr::Number(number) if number.value == f64::INFINITY)
    }
}

impl Display for Base<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_infinite() { out.write_str("Inf") } else { self.0.lhs.fmt(out) }
    }
}

/// The text of something in quotes, as it can be read back: the replacement character, which stands for bytes that are no
/// text, is only accepted when it is spelled out.
fn readable(quoted: impl Display) -> String {
    let text = quoted.to_string();
    if text.contains('\u{fffd}') { text.replace('\u{fffd}', "\\ufffd") } else { text }
}

impl Display for NumberLiteral {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.duration {
            return out.write_str(&format_float(self.value, None));
        }
        let sign = if self.value < 0.0 { "-" } else { "" };
        let nanoseconds = (self.value.abs() * 1e9) as i64;
        write!(out, "{sign}{}", format_duration(nanoseconds / 1_000_000))
    }
}

/// Label names, in quotes if they are none of Prometheus 2's.
fn write_labels(out: &mut fmt::Formatter<'_>, labels: &[String]) -> fmt::Result {
    for (index, label) in labels.iter().enumerate() {
        if index > 0 {
            out.write_str(", ")?;
        }
        let plain = label.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && label.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        if plain { out.write_str(label)? } else { Quoted(label).fmt(out)? }
    }
    Ok(())
}

/// An aggregation's name and grouping.
struct AggregateHead<'a>(&'a Aggregate);

impl Display for AggregateHead<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node) = self;
        out.write_str(node.op.as_str())?;
        if node.without || !node.grouping.is_empty() {
            out.write_str(if node.without { " without (" } else { " by (" })?;
            write_labels(out, &node.grouping)?;
            out.write_str(") ")?;
        }
        Ok(())
    }
}

impl Display for Aggregate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}(", AggregateHead(self))?;
        if let Some(param) = &self.param {
            write!(out, "{param}, ")?;
        }
        write!(out, "{})", self.expr)
    }
}

impl Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}(", self.function.name)?;
        for (index, arg) in self.args.iter().enumerate() {
            if index > 0 {
                out.write_str(", ")?;
            }
            arg.fmt(out)?;
        }
        out.write_char(')')
    }
}

/// A binary operator and its modifiers.
struct Operator<'a>(&'a Binary);

impl Display for Operator<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node) = self;
        out.write_str(node.op.as_str())?;
        if node.return_bool {
            out.write_str(" bool")?;
        }
        let Some(matching) = &node.matching else { return Ok(()) };
        let group = match matching.card {
            Cardinality::ManyToOne => Some(" group_left ("),
            Cardinality::OneToMany => Some(" group_right ("),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if !matching.labels.is_empty() || matching.on || group.is_some() {
            out.write_str(if matching.on { " on (" } else { " ignoring (" })?;
            write_labels(out, &matching.labels)?;
            out.write_char(')')?;
        }
        if let Some(group) = group {
            out.write_str(group)?;
            write_labels(out, &matching.include)?;
            out.write_char(')')?;
        }
        match (matching.fill_left, matching.fill_right) {
            (Some(left), Some(right)) if left == right => write!(out, " fill ({})", format_general(left)),
            (left, right) => {
                left.map_or(Ok(()), |value| write!(out, " fill_left ({})", format_general(value)))?;
                right.map_or(Ok(()), |value| write!(out, " fill_right ({})", format_general(value)))
            }
        }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrapped = match self {
            Self::Literal(number) => return number.fmt(out),
            Self::Step { wrapped, .. }
            | Self::Range { wrapped, .. }
            | Self::Negate { wrapped, .. }
            | Self::Binary { wrapped, .. } => *wrapped,
        };
        if wrapped {
            out.write_char('(')?;
        }
        match self {
            Self::Literal(_) => {}
            Self::Step { .. } => out.write_str("step()")?,
            Self::Range { .. } => out.write_str("range()")?,
            Self::Negate { expr, .. } => write!(out, "-{expr}")?,
            Self::Binary { op, lhs, rhs, .. } => match op {
                DurationOp::Add => write!(out, "{lhs} + {rhs}")?,
                DurationOp::Sub => write!(out, "{lhs} - {rhs}")?,
                DurationOp::Mul => write!(out, "{lhs} * {rhs}")?,
                DurationOp::Div => write!(out, "{lhs} / {rhs}")?,
                DurationOp::Mod => write!(out, "{lhs} % {rhs}")?,
                DurationOp::Pow => write!(out, "{lhs} ^ {rhs}")?,
                DurationOp::MinOf => write!(out, "min_of({lhs}, {rhs})")?,
                DurationOp::MaxOf => write!(out, "max_of({lhs}, {rhs})")?,
            },
        }
        if wrapped { out.write_char(')') } else { Ok(()) }
    }
}

impl Display for Extent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(milliseconds) => out.write_str(&format_duration(*milliseconds)),
            Self::Expr(expr) => expr.fmt(out),
        }
    }
}

struct AtSuffix(Option<At>);

impl Display for AtSuffix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(At::Time(milliseconds)) => write!(out, " @ {:.3}", milliseconds as f64 / 1000.0),
            Some(At::Start) => out.write_str(" @ start()"),
            Some(At::End) => out.write_str(" @ end()"),
        }
    }
}

struct OffsetSuffix<'a>(&'a Extent);

impl Display for OffsetSuffix<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Extent::Fixed(0) => Ok(()),
            // Without parentheses it would end before its operator. The original leaves them out.
            Extent::Expr(expr) if is_open_arithmetic(expr) => write!(out, " offset ({expr})"),
            offset => write!(out, " offset {offset}"),
        }
    }
}

fn is_open_arithmetic(expr: &DurationExpr) -> bool {
    let DurationExpr::Binary { op, wrapped, .. } = expr else { return false };
    !wrapped && !matches!(op, DurationOp::MinOf | DurationOp::MaxOf)
}

impl Display for Edges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => Ok(()),
            Self::Anchored => out.write_str(" anchored"),
            Self::Smoothed => out.write_str(" smoothed"),
        }
    }
}

/// A selector without its modifiers.
struct Bare<'a>(&'a VectorSelector);

impl Display for Bare<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node) = self;
        let name = node.name.as_deref().unwrap_or_default();
        out.write_str(name)?;
        let says_the_name = |matcher: &&crate::model::Matcher| {
            !name.is_empty()
                && matcher.name() == METRIC_NAME
                && matcher.op() == MatchOp::Equal
                && matcher.value() == name
        };
        let mut matchers: Vec<String> =
            node.matchers.iter().filter(|matcher| !says_the_name(matcher)).map(readable).collect();
        if !matchers.is_empty() {
            matchers.sort();
            write!(out, "{{{}}}", matchers.join(","))?;
        } else if name.is_empty() {
            // The original writes nothing at all for `info`'s `{}`, which does not read back.
            out.write_str("{}")?;
        }
        Ok(())
    }
}

impl Display for VectorSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}{}{}", Bare(self), AtSuffix(self.at), self.edges, OffsetSuffix(&self.offset))
    }
}

impl Display for MatrixSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = &self.selector;
        write!(out, "{}[{}]{}", Bare(selector), self.range, selector.edges)?;
        write!(out, "{}{}", AtSuffix(selector.at), OffsetSuffix(&selector.offset))
    }
}

/// `[5m:1m]` and what follows.
struct SubquerySuffix<'a>(&'a Subquery);

impl Display for SubquerySuffix<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node) = self;
        write!(out, "[{}:", node.range)?;
        match &node.step {
            None | Some(Extent::Fixed(0)) => {}
            Some(step) => step.fmt(out)?,
        }
        write!(out, "]{}{}", AtSuffix(node.at), OffsetSuffix(&node.offset))
    }
}

/// The query over as many lines as it takes to keep them below some hundred characters where it can be split.
#[must_use]
pub fn pretty(expr: &Expr) -> String {
    let mut out = String::new();
    write_pretty(&mut out, expr, 0);
    out
}

fn write_pretty(out: &mut String, expr: &Expr, level: usize) {
    let indent = "  ".repeat(level);
    let line = expr.to_string();
    let fits = line.len() <= LINE;
    match expr {
        Expr::StepInvariant(inner) => write_pretty(out, inner, level),
        Expr::Subquery(node) if !fits => {
            write_pretty(out, &node.expr, level);
            out.push_str(&SubquerySuffix(node).to_string());
        }
        // As in the original: what stands before the brackets is not indented if it fits.
        Expr::Subquery(_) => out.push_str(&line),
        Expr::Unary(node) => {
            let mut inner = String::new();
            write_pretty(&mut inner, &node.expr, level);
            out.push_str(&indent);
            out.push(if node.minus { '-' } else { '+' });
            out.push_str(inner.trim());
        }
        Expr::Aggregate(node) if !fits => {
            out.push_str(&format!("{indent}{}(\n", AggregateHead(node)));
            if let Some(param) = &node.param {
                write_pretty(out, param, level + 1);
                out.push_str(",\n");
            }
            write_pretty(out, &node.expr, level + 1);
            out.push_str(&format!("\n{indent})"));
        }
        Expr::Binary(node) if !fits => {
            if Base(node).is_infinite() {
                out.push_str(&format!("{indent}  Inf"));
            } else {
                write_pretty(out, &node.lhs, level + 1);
            }
            out.push_str(&format!("\n{indent}{}\n", Operator(node)));
            write_pretty(out, &node.rhs, level + 1);
        }
        Expr::Call(node) if !fits => {
            out.push_str(&format!("{indent}{}(\n", node.function.name));
            for (index, arg) in node.args.iter().enumerate() {
                if index > 0 {
                    out.push_str(",\n");
                }
                write_pretty(out, arg, level + 1);
            }
            out.push_str(&format!("\n{indent})"));
        }
        Expr::Paren(node) if !fits => {
            out.push_str(&format!("{indent}(\n"));
            write_pretty(out, &node.expr, level + 1);
            out.push_str(&format!("\n{indent})"));
        }
        _ => {
            out.push_str(&indent);
            out.push_str(&line);
        }
    }
}
