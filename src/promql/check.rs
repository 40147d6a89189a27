//! Whether a tree means something: types, numbers of arguments, matching.

use super::ast::{Binary, Call, Cardinality, Expr, Span, ValueType, VectorSelector};
use super::error::ParseError;
use super::functions::FunctionId;
use super::lexer::quote;
use crate::model::METRIC_NAME;

/// Checks `expr`, the tree of `query`, appending what is wrong to `errors`. Settles what depends on types: a scalar
/// operand needs no matching, and a set operation matches many to many.
pub(super) fn check(query: &str, expr: &mut Expr, errors: &mut Vec<ParseError>) {
    Checker { query, errors }.expr(expr);
}

struct Checker<'q, 'e> {
    query: &'q str,
    errors: &'e mut Vec<ParseError>,
}

impl Checker<'_, '_> {
    fn report(&mut self, span: Span, message: String) {
        self.errors.push(ParseError { span, message, query: self.query.into() });
    }

    fn expr(&mut self, expr: &mut Expr) -> ValueType {
        match expr {
            Expr::Number(_) | Expr::String(_) => {}
            Expr::Vector(selector) => self.selector(selector),
            Expr::Matrix(matrix) => self.selector(&matrix.selector),
            Expr::Subquery(node) => {
                let found = self.expr(&mut node.expr);
                if found != ValueType::Vector {
                    let found = found.as_str();
                    self.report(node.span, format!("subquery is only allowed on instant vector, got {found} instead"));
                }
            }
            Expr::Unary(node) => {
                let found = self.expr(&mut node.expr);
                if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                    let found = quote(found.documented());
                    let wanted = "unary expression only allowed on expressions of type scalar or instant vector";
                    self.report(node.span, format!("{wanted}, got {found}"));
                }
            }
            Expr::Paren(node) => {
                self.expr(&mut node.expr);
            }
            Expr::StepInvariant(inner) => {
                self.expr(inner);
            }
            Expr::Aggregate(node) => {
                self.expect(&mut node.expr, ValueType::Vector, "aggregation expression");
                if let (Some(wanted), Some(param)) = (node.op.param(), &mut node.param) {
                    self.expect(param, wanted, "aggregation parameter");
                }
            }
            Expr::Binary(node) => self.binary(node),
            Expr::Call(node) => self.call(node),
        }
        expr.value_type()
    }

    fn expect(&mut self, expr: &mut Expr, wanted: ValueType, context: &str) {
        let found = self.expr(expr);
        if found != wanted {
            let (wanted, found) = (wanted.documented(), found.documented());
            self.report(expr.span(), format!("expected type {wanted} in {context}, got {found}"));
        }
    }

    fn selector(&mut self, selector: &VectorSelector) {
        if let (Some(name), Some((_, others))) = (&selector.name, selector.matchers.split_last()) {
            for matcher in others.iter().filter(|matcher| matcher.name() == METRIC_NAME) {
                let (first, second) = (quote(name), quote(matcher.value()));
                self.report(selector.span, format!("metric name must not be set twice: {first} or {second}"));
            }
        } else if !selector.may_match_all && selector.matchers.iter().all(|matcher| matcher.matches("")) {
            // Or a slip of the pen would read the whole database.
            self.report(selector.span, "vector selector must contain at least one non-empty matcher".into());
        }
    }

    fn binary(&mut self, node: &mut Binary) {
        let (left, right) = (self.expr(&mut node.lhs), self.expr(&mut node.rhs));
        let span = node.span;
        let operator = self.operator_span(node);
        let op = quote(node.op.as_str());
        if node.return_bool && !node.op.is_comparison() {
            self.report(operator, "bool modifier can only be used on comparison operators".into());
        }
        if node.op.is_comparison() && !node.return_bool && (left, right) == (ValueType::Scalar, ValueType::Scalar) {
            self.report(operator, "comparisons between scalars must use BOOL modifier".into());
        }
        if let Some(matching) = &mut node.matching {
            if node.op.is_set() && matching.card == Cardinality::OneToOne {
                matching.card = Cardinality::ManyToMany;
            }
            for label in matching.labels.iter().filter(|label| matching.on && matching.include.contains(label)) {
                let label = quote(label);
                self.report(operator, format!("label {label} must not occur in ON and GROUP clause at once"));
            }
        }
        for (found, operand) in [(left, &node.lhs), (right, &node.rhs)] {
            if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                let message = "binary expression must contain only scalar and instant vector types";
                self.report(operand.span(), message.into());
            }
        }
        let vectors = (left, right) == (ValueType::Vector, ValueType::Vector);
        if let Some(matching) = &node.matching {
            let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
            if !vectors {
                if !matching.labels.is_empty() {
                    self.report(span, "vector matching only allowed between instant vectors".into());
                }
                if fills {
                    self.report(span, "filling in missing series only allowed between instant vectors".into());
                }
            } else if node.op.is_set() {
                if matches!(matching.card, Cardinality::OneToMany | Cardinality::ManyToOne) {
                    self.report(span, format!("no grouping allowed for {op} operation"));
                }
                if fills {
                    self.report(span, "filling in missing series not allowed for set operators".into());
                }
            }
        }
        if !vectors {
            node.matching = None;
        }
        if (left == ValueType::Scalar || right == ValueType::Scalar) && node.op.is_set() {
            self.report(span, format!("set operator {op} not allowed in binary scalar expression"));
        }
    }

    /// From the operator to the last of its modifiers.
    fn operator_span(&self, node: &Binary) -> Span {
        let (start, end) = (node.lhs.span().end, node.rhs.span().start);
        let between = self.query.get(start..end).unwrap_or_default();
        let space = between.len() - between.trim_ascii_start().len();
        Span::new(start + space, start + between.trim_ascii_end().len())
    }

    fn call(&mut self, node: &mut Call) {
        let function = node.function;
        let name = quote(function.name);
        let (given, least, most) = (node.args.len(), function.min_args, function.max_args);
        if least == most && given != least {
            self.report(node.span, format!("expected {least} argument(s) in call to {name}, got {given}"));
        } else if given < least {
            self.report(node.span, format!("expected at least {least} argument(s) in call to {name}, got {given}"));
        } else if given > most {
            self.report(node.span, format!("expected at most {most} argument(s) in call to {name}, got {given}"));
        }
        if function.id == FunctionId::Info
            && let Some(labels) = node.args.get_mut(1)
        {
            let found = labels.value_type();
            if found != ValueType::Vector {
                let (wanted, found) = (ValueType::Vector.documented(), found.documented());
                self.report(node.span, format!("expected type {wanted} in call to function {name}, got {found}"));
            }
            match labels {
                Expr::Vector(selector) if selector.name.is_some() => {
                    let message = "expected label selectors only, got vector selector instead";
                    self.report(selector.span, message.into());
                }
                Expr::Vector(selector) => selector.may_match_all = true,
                other => self.report(other.span(), "expected label selectors only".into()),
            }
        }
        for (index, arg) in node.args.iter_mut().enumerate() {
            // Of arguments that are too many the number has been reported; those of a fixed number have no type.
            let last = if least == most { None } else { function.args.last() };
            let Some(&wanted) = function.args.get(index).or(last) else { break };
            self.expect(arg, wanted, &format!("call to function {name}"));
        }
    }
}
