//! What works on series rather than on samples: sorting them, and rewriting their labels.

use std::cmp::Ordering;

use regex_automata::meta::Regex;

use super::windows::nan_first;
use super::{
    BoxOperator, Collision, Column, Columnwise, Context, Ready, Renamed, SeriesInfo, distinct, invalid, is_label_name,
    unsupported, vector,
};
use crate::error::Result;
use crate::model::{LabelsBuilder, METRIC_NAME};
use crate::promql::annotation::Remark;
use crate::promql::ast::{Call, Expr};
use crate::promql::functions::FunctionId;
use crate::promql::plan::Grid;

fn string(expr: Option<&Expr>) -> Result<&str> {
    match expr.map(Expr::unwrap_parens) {
        Some(Expr::String(literal)) => Ok(&literal.value),
        _ => Err(invalid("a string is expected here")),
    }
}

/// The operator of `sort` and its like. They order the answer of an instant query; that of a range query is ordered by
/// labels.
pub(super) fn sort<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    let Some((first, rest)) = call.args.split_first() else { return Err(unsupported(call.function.name)) };
    let mut input = vector(cx, first, grid)?;
    let by_value = matches!(call.function.id, FunctionId::Sort | FunctionId::SortDesc);
    let descending = matches!(call.function.id, FunctionId::SortDesc | FunctionId::SortByLabelDesc);
    if !grid.is_instant() {
        cx.remark(Remark::SortInRange, call.span);
        if !by_value {
            return Ok(input);
        }
        return Ok(Columnwise::keeping_name(input, |column| {
            column.histograms.clear();
            Ok(())
        }));
    }
    let names = rest.iter().map(|arg| string(Some(arg))).collect::<Result<Vec<_>>>()?;
    let mut all: Vec<(SeriesInfo, Column)> = Vec::new();
    for index in 0..input.series().len() {
        let mut column = Column::default();
        input.column(index, &mut column)?;
        if by_value {
            column.histograms.clear();
        }
        if !column.is_empty() {
            all.push((input.series()[index].clone(), column));
        }
    }
    all.sort_by(|(a, a_column), (b, b_column)| {
        if by_value {
            let (a, b) = (a_column.values[0], b_column.values[0]);
            // NaN comes last either way.
            return match (a.is_nan() || b.is_nan(), descending) {
                (true, _) => nan_first(&b, &a),
                (false, true) => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
                (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            };
        }
        let mut order = Ordering::Equal;
        for name in &names {
            let (a, b) = (a.labels.get(name).unwrap_or(""), b.labels.get(name).unwrap_or(""));
            if a != b {
                order = if natural_less(a, b) { Ordering::Less } else { Ordering::Greater };
                break;
            }
        }
        let order = order.then_with(|| a.labels.cmp(&b.labels));
        if descending { order.reverse() } else { order }
    });
    let (series, columns) = all.into_iter().unzip();
    Ok(Box::new(Ready { series, columns, steps: grid.steps(), held: None }))
}

/// Whether `a` comes before `b` when runs of digits are compared as numbers.
fn natural_less(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (runs(a).peekable(), runs(b).peekable());
    while let Some(left) = a.next() {
        let Some(right) = b.next() else { return false };
        let same = match (left.parse::<i64>(), right.parse::<i64>()) {
            (Ok(left), Ok(right)) if left != right => return left < right,
            (Ok(_), Ok(_)) => true,
            _ => left == right,
        };
        if !same {
            return left < right;
        }
        if a.peek().is_none() {
            return true;
        }
        if b.peek().is_none() {
            return false;
        }
    }
    false
}

/// The runs of digits and of other characters.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let digits = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        Some(run)
    })
}

/// What a series' new label is, if it gets one.
type NewValue<'a> = dyn FnMut(&SeriesInfo) -> Option<String> + 'a;

/// The operator of `label_replace` or `label_join`.
pub(super) fn relabel<'q>(cx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<BoxOperator<'q>> {
    let name = call.function.name;
    let Some((first, rest)) = call.args.split_first() else { return Err(unsupported(name)) };
    let target = string(rest.first())?;
    let bad_target = || invalid(format!("invalid destination label name in {name}(): {target}"));
    let mut change: Box<NewValue<'_>> = if call.function.id == FunctionId::LabelReplace {
        let (template, source, pattern) = (string(rest.get(1))?, string(rest.get(2))?, string(rest.get(3))?);
        let regex = regex_syntax::parse(pattern).ok().and_then(|_| Regex::new(&format!("^(?s:{pattern})$")).ok());
        let regex =
            regex.ok_or_else(|| invalid(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if !is_label_name(target) {
            return Err(bad_target());
        }
        let mut captures = regex.create_captures();
        Box::new(move |info| {
            let value = info.labels.get(source).unwrap_or("");
            regex.captures(value, &mut captures);
            captures.is_match().then(|| {
                expand(template, &|group| {
                    let span = match group {
                        Group::Number(number) => captures.get_group(number),
                        Group::Name(name) => captures.get_group_by_name(name),
                    };
                    span.map_or("", |span| &value[span.range()])
                })
            })
        })
    } else {
        let separator = string(rest.get(1))?;
        let sources = rest[2.min(rest.len())..].iter().map(|arg| string(Some(arg))).collect::<Result<Vec<_>>>()?;
        if let Some(bad) = sources.iter().find(|source| !is_label_name(source)) {
            return Err(invalid(format!("invalid source label name in label_join(): {bad}")));
        }
        if !is_label_name(target) {
            return Err(bad_target());
        }
        Box::new(move |info| {
            let values: Vec<&str> = sources.iter().map(|source| info.labels.get(source).unwrap_or("")).collect();
            Some(values.join(separator))
        })
    };
    let input = vector(cx, first, grid)?;
    let mut builder = LabelsBuilder::new();
    let series = input.series().iter().map(|info| {
        let Some(value) = change(info) else { return info.clone() };
        builder.clear();
        builder.extend(&info.labels).push(target, &value);
        SeriesInfo { labels: builder.build(), drop_name: info.drop_name && target != METRIC_NAME }
    });
    let series = series.collect();
    Ok(distinct(Box::new(Renamed { series, input }), Collision::AtStep))
}

enum Group<'a> {
    Number(usize),
    Name(&'a str),
}

/// Puts groups where a template names them, as Go does: `$1`, `$name`, `${1}`; a name is as long as it can be; `$$` is a
/// dollar, and so is one that names nothing.
fn expand<'v>(template: &str, group: &dyn Fn(Group<'_>) -> &'v str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let is_name = |c: char| c == '_' || c.is_alphanumeric();
        let (name, tail) = match rest.strip_prefix('{') {
            Some(inner) => match inner.split_once('}') {
                Some((name, tail)) if !name.is_empty() && name.chars().all(is_name) => (name, tail),
                _ => ("", rest),
            },
            None => rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len())),
        };
        if name.is_empty() {
            out.push('$');
            continue;
        }
        out.push_str(match name.parse() {
            Ok(number) => group(Group::Number(number)),
            Err(_) => group(Group::Name(name)),
        });
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_compared_as_numbers() {
        assert!(natural_less("host-9", "host-10"));
        assert!(!natural_less("host-10", "host-9"));
        assert!(natural_less("host-1", "host-1-a"));
        assert!(natural_less("", "a") == natural_less("", "b"));
    }

    #[test]
    fn a_template_names_groups_as_in_go() {
        let group = |group: Group<'_>| match group {
            Group::Number(1) => "one",
            Group::Name("n") => "name",
            _ => "",
        };
        assert_eq!(expand("$1-${1}x-$n-$$1-$", &group), "one-onex-name-$1-$");
        // `1x` is a name here, and no group has it.
        assert_eq!(expand("$1x", &group), "");
    }
}
