//! A tree as JSON: what Prometheus's `/api/v1/parse_query` answers with, and what its query page draws.

use serde_json::{Value, json};

use super::ast::{At, DurationExpr, DurationOp, Edges, Expr, Extent, NumberLiteral, ValueType, VectorSelector};
use super::printer::format_float;

/// `expr` as JSON, its keys in alphabetical order as Go writes them.
#[must_use]
pub fn to_json(expr: &Expr) -> Value {
    match expr {
        Expr::Number(node) => json!({"type": "numberLiteral", "val": format_float(node.value, None)}),
        Expr::String(node) => json!({"type": "stringLiteral", "val": node.value}),
        Expr::Vector(node) => selector(node, "vectorSelector", None),
        Expr::Matrix(node) => selector(&node.selector, "matrixSelector", Some(&node.range)),
        Expr::Subquery(node) => json!({
            "expr": to_json(&node.expr),
            "offset": fixed(Some(&node.offset)),
            "offsetExpr": computed(Some(&node.offset)),
            "range": fixed(Some(&node.range)),
            "rangeExpr": computed(Some(&node.range)),
            "startOrEnd": start_or_end(node.at),
            "step": fixed(node.step.as_ref()),
            "stepExpr": computed(node.step.as_ref()),
            "timestamp": timestamp(node.at),
            "type": "subquery",
        }),
        Expr::Call(node) => {
            let function = node.function;
            // Go's convention: 0 for a fixed number, -1 for no limit, else how many beyond the last but one.
            let variadic = match (function.min_args, function.max_args) {
                (least, most) if least == most => 0,
                (_, usize::MAX) => -1,
                (least, most) => (most - least) as i64,
            };
            json!({
                "args": node.args.iter().map(to_json).collect::<Vec<_>>(),
                "func": {
                    "argTypes": function.args.iter().copied().map(ValueType::as_str).collect::<Vec<_>>(),
                    "name": function.name,
                    "returnType": function.returns.as_str(),
                    "variadic": variadic,
                },
                "type": "call",
            })
        }
        Expr::Unary(node) => {
            json!({"expr": to_json(&node.expr), "op": if node.minus { "-" } else { "+" }, "type": "unaryExpr"})
        }
        Expr::Binary(node) => json!({
            "bool": node.return_bool,
            "lhs": to_json(&node.lhs),
            "matching": node.matching.as_ref().map(|matching| json!({
                "card": matching.card.as_str(),
                "fillValues": {"lhs": matching.fill_left, "rhs": matching.fill_right},
                "include": matching.include,
                "labels": matching.labels,
                "on": matching.on,
            })),
            "op": node.op.as_str(),
            "rhs": to_json(&node.rhs),
            "type": "binaryExpr",
        }),
        Expr::Aggregate(node) => json!({
            "expr": to_json(&node.expr),
            "grouping": node.grouping,
            "op": node.op.as_str(),
            "param": node.param.as_deref().map(to_json),
            "type": "aggregation",
            "without": node.without,
        }),
        Expr::Paren(node) => json!({"expr": to_json(&node.expr), "type": "parenExpr"}),
        Expr::StepInvariant(inner) => to_json(inner),
    }
}

fn selector(node: &VectorSelector, kind: &str, range: Option<&Extent>) -> Value {
    let matchers: Vec<Value> = node
        .matchers
        .iter()
        .map(|matcher| json!({"name": matcher.name(), "type": matcher.op().as_str(), "value": matcher.value()}))
        .collect();
    let mut out = json!({
        "anchored": node.edges == Edges::Anchored,
        "matchers": matchers,
        "name": node.name.as_deref().unwrap_or_default(),
        "offset": fixed(Some(&node.offset)),
        "offsetExpr": computed(Some(&node.offset)),
    });
    if let Value::Object(fields) = &mut out {
        if range.is_some() {
            fields.insert("range".into(), fixed(range));
            fields.insert("rangeExpr".into(), computed(range));
        }
        fields.insert("smoothed".into(), json!(node.edges == Edges::Smoothed));
        fields.insert("startOrEnd".into(), start_or_end(node.at));
        fields.insert("timestamp".into(), timestamp(node.at));
        fields.insert("type".into(), json!(kind));
    }
    out
}

fn fixed(extent: Option<&Extent>) -> Value {
    match extent {
        Some(Extent::Fixed(milliseconds)) => json!(milliseconds),
        Some(Extent::Expr(_)) | None => json!(0),
    }
}

fn computed(extent: Option<&Extent>) -> Value {
    match extent {
        Some(Extent::Expr(expr)) => duration(expr),
        Some(Extent::Fixed(_)) | None => Value::Null,
    }
}

fn timestamp(at: Option<At>) -> Value {
    match at {
        Some(At::Time(milliseconds)) => json!(milliseconds),
        _ => Value::Null,
    }
}

fn start_or_end(at: Option<At>) -> Value {
    match at {
        Some(At::Start) => json!("start"),
        Some(At::End) => json!("end"),
        _ => Value::Null,
    }
}

fn duration(expr: &DurationExpr) -> Value {
    let node = |op: &str, lhs: Value, rhs: Value, wrapped: bool| json!({"lhs": lhs, "op": op, "rhs": rhs, "type": "durationExpr", "wrapped": wrapped});
    match expr {
        DurationExpr::Literal(NumberLiteral { value, duration, .. }) => {
            json!({"duration": duration, "type": "numberLiteral", "val": format_float(*value, None)})
        }
        DurationExpr::Step { wrapped, .. } => node("step", Value::Null, Value::Null, *wrapped),
        DurationExpr::Range { wrapped, .. } => node("range", Value::Null, Value::Null, *wrapped),
        DurationExpr::Negate { expr, wrapped, .. } => node("-", Value::Null, duration(expr), *wrapped),
        DurationExpr::Binary { op, lhs, rhs, wrapped, .. } => {
            let op = match op {
                DurationOp::Add => "+",
                DurationOp::Sub => "-",
                DurationOp::Mul => "*",
                DurationOp::Div => "/",
                DurationOp::Mod => "%",
                DurationOp::Pow => "^",
                DurationOp::MinOf => "min_of",
                DurationOp::MaxOf => "max_of",
            };
            node(op, duration(lhs), duration(rhs), *wrapped)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promql::parse;

    #[test]
    fn the_tree_has_the_fields_of_the_originals_api() {
        let json = to_json(&parse("sum by (job) (rate(up{a!=\"b\"}[5m] offset 1m)) > bool 2").unwrap()).to_string();
        assert_eq!(
            json,
            concat!(
                r#"{"bool":true,"lhs":{"expr":{"args":[{"anchored":false,"matchers":[{"name":"a","type":"!=","value":"b"},"#,
                r#"{"name":"__name__","type":"=","value":"up"}],"name":"up","offset":60000,"offsetExpr":null,"#,
                r#""range":300000,"rangeExpr":null,"smoothed":false,"startOrEnd":null,"timestamp":null,"#,
                r#""type":"matrixSelector"}],"func":{"argTypes":["matrix"],"name":"rate","returnType":"vector","#,
                r#""variadic":0},"type":"call"},"grouping":["job"],"op":"sum","param":null,"type":"aggregation","#,
                r#""without":false},"matching":null,"op":">","rhs":{"type":"numberLiteral","val":"2"},"#,
                r#""type":"binaryExpr"}"#
            )
        );
    }
}
