//! The front end as a whole: what is read is written, and nothing that is read does harm.

use proptest::prelude::*;

use super::ast::{Expr, Span};
use super::{MAX_DEPTH, MAX_NESTING, parse, pretty};

fn error(query: &str) -> String {
    parse(query).unwrap_err().to_string()
}

/// What a query is written as.
fn written(query: &str) -> String {
    parse(query).unwrap_or_else(|error| panic!("{query}: {error}")).to_string()
}

#[test]
fn operators_bind_as_arithmetic_has_it() {
    for (query, tree) in [
        ("a + b * c ^ d ^ e", "(a + (b * (c ^ (d ^ e))))"),
        ("a - b - c", "((a - b) - c)"),
        ("-a ^ b", "-(a ^ b)"),
        ("-a * b", "(-a * b)"),
        ("a or b and c unless d", "(a or ((b and c) unless d))"),
        ("a < b + c", "(a < (b + c))"),
        ("a atan2 b / c", "((a atan2 b) / c)"),
    ] {
        assert_eq!(grouped(&parse(query).unwrap()), tree);
    }
}

/// The tree with all its parentheses.
fn grouped(expr: &Expr) -> String {
    match expr {
        Expr::Binary(node) => format!("({} {} {})", grouped(&node.lhs), node.op, grouped(&node.rhs)),
        Expr::Unary(node) => format!("-{}", grouped(&node.expr)),
        other => other.to_string(),
    }
}

#[test]
fn a_query_is_written_canonically() {
    for (query, canonical) in [
        ("foo{b=\"2\", a='1',}", "foo{a=\"1\",b=\"2\"}"),
        ("{\"my.metric\", \"l.x\"=`y`}", "{\"l.x\"=\"y\",__name__=\"my.metric\"}"),
        ("sum(foo) by (a, \"b.c\")", "sum by (a, \"b.c\") (foo)"),
        ("count_values without() (\"v\", foo)", "count_values without () (\"v\", foo)"),
        ("foo[90m:60s] @ start() offset -1h", "foo[1h30m:1m] @ start() offset -1h"),
        ("rate(foo[ 300 ] smoothed @ 1.5)", "rate(foo[5m] smoothed @ 1.500)"),
        ("a * on(x) group_left(y) fill_right(1e6) b", "a * on (x) group_left (y) fill_right (1e+06) b"),
        ("foo[step() * 2 + max_of(1m, range())]", "foo[step() * 2 + max_of(1m, range())]"),
        ("sum offset 5m + by", "sum offset 5m + by"),
        ("rate(foo[5m] offset (1h) + 5m)", "rate(foo[5m] offset (1h + 5m))"),
        ("0x1F + 1_000 - +Inf", "31 + 1000 - +Inf"),
        ("# a comment\nfoo # and another", "foo"),
        ("h </ 2 >/ 1", "h </ 2 >/ 1"),
        ("-inf ^ 2 + inf", "-Inf ^ 2 + +Inf"),
        (r#"label_join(a{c="\xff"}, "\xc3\xa9\xff", "")"#, r#"label_join(a{c="\ufffd"}, "é\ufffd", "")"#),
    ] {
        assert_eq!(written(query), canonical);
    }
}

#[test]
fn mistakes_are_told_with_their_place_in_prometheus_words() {
    for (query, expected) in [
        ("", "unknown position: parse error: no expression found in input"),
        ("a +", "1:4: parse error: unexpected end of input"),
        ("rate(foo)", "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector"),
        ("sum(a b)", "1:7: parse error: unexpected identifier \"b\" in aggregation"),
        ("foo{a=1}", "1:7: parse error: unexpected character inside braces: '1'"),
        ("foo[5m", "1:7: parse error: unclosed left bracket"),
        ("foo[0]", "1:5: parse error: duration must be greater than 0"),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("{a=\"\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("nope(a)", "1:1: parse error: unknown function with name \"nope\""),
        ("a\n  and 1", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
        ("a @ 1 @ 2", "1:1: parse error: @ <timestamp> may not be set multiple times"),
        ("(a))", "1:5: parse error: unexpected right parenthesis ')'"),
        ("\"\\q\"", "1:1: parse error: unknown escape sequence U+0071 'q'"),
        ("1e", "1:1: parse error: bad number or duration syntax: \"1e\""),
    ] {
        assert_eq!(error(query), expected, "{query}");
    }
}

#[test]
fn a_text_nested_too_deep_is_refused_and_one_nested_just_so_is_not() {
    let parens = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    let chain = |length: usize| vec!["a"; length].join("+");
    let signs = |length: usize| format!("{}a", "-".repeat(length));
    let durations = |depth: usize| format!("a[{}1{}]", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&parens(MAX_NESTING - 1)).is_ok_and(|expr| !pretty(&expr).is_empty()));
    assert!(parse(&chain(MAX_DEPTH)).is_ok_and(|expr| !pretty(&expr).is_empty()));
    for hostile in
        [parens(100_000), chain(100_000), signs(100_000), durations(100_000), format!("a{}", "[1m:]".repeat(100_000))]
    {
        let message = error(&hostile);
        assert!(message.contains("deep"), "{message}");
    }
}

#[test]
fn a_long_query_is_split_where_it_can_be() {
    let query =
        "histogram_quantile(0.9, sum by (job, instance) (rate(request_duration_seconds_bucket{job=\"api\"}[5m])))";
    assert_eq!(
        pretty(&parse(query).unwrap()),
        "histogram_quantile(\n  0.9,\n  sum by (job, instance) (rate(request_duration_seconds_bucket{job=\"api\"}[5m]))\n)"
    );
    assert_eq!(pretty(&parse("a+b").unwrap()), "a + b");
}

/// Texts that are mostly queries.
fn queries() -> impl Strategy<Value = String> {
    let duration = prop_oneof![
        Just("5m".to_owned()),
        Just("1h30m".to_owned()),
        Just("step()".to_owned()),
        Just("(1m+2m)*3".to_owned()),
        Just("min_of(5m, range())".to_owned()),
        (1u32..1_000_000).prop_map(|seconds| seconds.to_string()),
    ];
    let leaf = prop_oneof![
        Just("foo".to_owned()),
        Just("{\"a.b\",c!=\"\"}".to_owned()),
        Just("up{job=~\"a|b\",x='\\n'}".to_owned()),
        Just("sum".to_owned()),
        Just("time()".to_owned()),
        Just("5m".to_owned()),
        any::<f64>()
            .prop_filter("a number's sign is an operator", |v| v.is_sign_positive() && v.is_finite())
            .prop_map(|v| format!("{v:?}")),
    ];
    leaf.prop_recursive(5, 32, 3, move |inner| {
        let duration = duration.clone();
        prop_oneof![
            (
                inner.clone(),
                "[-+*/%^<>]|==|!=|<=|>= bool|and|or|unless|atan2|</|>/|\\* on \\(a\\) group_left \\(b\\) fill \\(-1\\)",
                inner.clone()
            )
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            (inner.clone(), duration.clone(), duration.clone()).prop_map(|(a, r, s)| format!("({a})[{r}:{s}]")),
            (inner.clone(), duration.clone()).prop_map(|(a, d)| format!("{a} offset -{d}")),
            inner.clone().prop_map(|a| format!("{a} @ end()")),
            duration.prop_map(|d| format!("rate(foo{{a=\"b\"}}[{d}] @ 7)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("topk by (x) ({a}, {b})")),
            inner.clone().prop_map(|a| format!("label_join({a}, \"d\", \",\", \"s\")")),
        ]
    })
}

/// Every span lies in its parent's, and on character boundaries.
fn check_spans(query: &str, expr: &Expr, within: Span) -> Result<(), TestCaseError> {
    let span = expr.span();
    prop_assert!(query.get(span.start..span.end).is_some(), "{span:?} in {query:?}");
    prop_assert!(within.start <= span.start && span.end <= within.end, "{span:?} of {expr} in {within:?} of {query}");
    let mut result = Ok(());
    expr.for_each_child(|child| {
        if result.is_ok() {
            result = check_spans(query, child, span);
        }
    });
    result
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same(query in queries()) {
        if let Ok(expr) = parse(&query) {
            let text = expr.to_string();
            let again = parse(&text).map_err(|error| TestCaseError::fail(format!("{query} -> {text}: {error}")))?;
            prop_assert_eq!(&again.to_string(), &text);
            prop_assert_eq!(grouped(&again), grouped(&expr));
            let laid_out = pretty(&expr);
            let again = parse(&laid_out).map_err(|error| TestCaseError::fail(format!("{laid_out}: {error}")))?;
            prop_assert_eq!(again.to_string(), text);
        }
    }

    #[test]
    fn every_node_knows_its_bytes(query in queries()) {
        if let Ok(expr) = parse(&query) {
            check_spans(&query, &expr, Span::new(0, query.len()))?;
        }
    }

    #[test]
    fn no_text_makes_it_panic(
        words in prop::collection::vec(
            "[a-z]{1,3}|[0-9.e_x]{1,4}|[({\\[\\])}:,@#\"'`\\\\=!~<>+*/%^-]|sum|by|offset|fill|step|inf|5m| |\n|\u{e9}|\u{fffd}|\\PC", 0..20
        )
    ) {
        let text = words.concat();
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
