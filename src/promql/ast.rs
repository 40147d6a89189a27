//! A query as a tree. Every node knows its bytes in the query's text.

use std::fmt;

use super::functions::Function;
use crate::model::Matcher;

/// Bytes of the query's text, from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Span {
    /// From `start` to before `end`.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// From where `self` begins to where `last` ends.
    #[must_use]
    pub fn to(self, last: Self) -> Self {
        Self { start: self.start, end: last.end }
    }
}

/// What an expression evaluates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One number.
    Scalar,
    /// One sample a series: Prometheus's documents call it an instant vector.
    Vector,
    /// A window of samples a series: a range vector.
    Matrix,
    /// Text.
    String,
}

impl ValueType {
    /// Its name in the query API's `resultType`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }

    /// Its name in error messages.
    #[must_use]
    pub fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::String => "string",
        }
    }
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// `1.5`, `0x1f`, `5m` (300).
    Number(NumberLiteral),
    /// `"text"`
    String(StringLiteral),
    /// `up{job="a"}`
    Vector(VectorSelector),
    /// `up[5m]`
    Matrix(MatrixSelector),
    /// `rate(up[5m])[1h:1m]`
    Subquery(Subquery),
    /// `rate(up[5m])`
    Call(Call),
    /// `-up`
    Unary(Unary),
    /// `a + on (job) b`
    Binary(Box<Binary>),
    /// `sum by (job) (up)`
    Aggregate(Aggregate),
    /// `(up)`
    Paren(Paren),
    /// Something whose value does not depend on the step. The parser never makes it: the planner wraps.
    StepInvariant(Box<Expr>),
}

impl Expr {
    /// Its bytes in the query.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Number(node) => node.span,
            Self::String(node) => node.span,
            Self::Vector(node) => node.span,
            Self::Matrix(node) => node.span,
            Self::Subquery(node) => node.span,
            Self::Call(node) => node.span,
            Self::Unary(node) => node.span,
            Self::Binary(node) => node.span,
            Self::Aggregate(node) => node.span,
            Self::Paren(node) => node.span,
            Self::StepInvariant(inner) => inner.span(),
        }
    }

    /// What it evaluates to.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Number(_) => ValueType::Scalar,
            Self::String(_) => ValueType::String,
            Self::Vector(_) | Self::Aggregate(_) => ValueType::Vector,
            Self::Matrix(_) | Self::Subquery(_) => ValueType::Matrix,
            Self::Call(node) => node.function.returns,
            Self::Unary(node) => node.expr.value_type(),
            Self::Binary(node) => match (node.lhs.value_type(), node.rhs.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
            Self::Paren(node) => node.expr.value_type(),
            Self::StepInvariant(inner) => inner.value_type(),
        }
    }

    /// The expression inside all parentheses and planner's wrappers.
    #[must_use]
    pub fn unwrap_parens(&self) -> &Self {
        match self {
            Self::Paren(node) => node.expr.unwrap_parens(),
            Self::StepInvariant(inner) => inner.unwrap_parens(),
            other => other,
        }
    }

    /// Calls `visit` for each node directly below, in the order of the text (an aggregation's parameter last).
    pub fn for_each_child<'a>(&'a self, mut visit: impl FnMut(&'a Self)) {
        match self {
            Self::Number(_) | Self::String(_) | Self::Vector(_) | Self::Matrix(_) => {}
            Self::Subquery(node) => visit(&node.expr),
            Self::Call(node) => node.args.iter().for_each(visit),
            Self::Unary(node) => visit(&node.expr),
            Self::Binary(node) => {
                visit(&node.lhs);
                visit(&node.rhs);
            }
            Self::Aggregate(node) => {
                visit(&node.expr);
                if let Some(param) = &node.param {
                    visit(param);
                }
            }
            Self::Paren(node) => visit(&node.expr),
            Self::StepInvariant(inner) => visit(inner),
        }
    }

    /// The same, to change them.
    pub fn for_each_child_mut(&mut self, mut visit: impl FnMut(&mut Self)) {
        match self {
            Self::Number(_) | Self::String(_) | Self::Vector(_) | Self::Matrix(_) => {}
            Self::Subquery(node) => visit(&mut node.expr),
            Self::Call(node) => node.args.iter_mut().for_each(visit),
            Self::Unary(node) => visit(&mut node.expr),
            Self::Binary(node) => {
                visit(&mut node.lhs);
                visit(&mut node.rhs);
            }
            Self::Aggregate(node) => {
                visit(&mut node.expr);
                if let Some(param) = &mut node.param {
                    visit(param);
                }
            }
            Self::Paren(node) => visit(&mut node.expr),
            Self::StepInvariant(inner) => visit(inner),
        }
    }

    /// Every selector in it, the ones of range selectors and subqueries included, in the order of the text.
    pub fn for_each_selector<'a>(&'a self, visit: &mut dyn FnMut(&'a VectorSelector)) {
        match self {
            Self::Vector(node) => visit(node),
            Self::Matrix(node) => visit(&node.selector),
            other => other.for_each_child(|child| child.for_each_selector(visit)),
        }
    }
}

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberLiteral {
    /// Its value; of a duration: seconds.
    pub value: f64,
    /// Whether it was written as a duration, e.g. `5m`.
    pub duration: bool,
    /// Its bytes.
    pub span: Span,
}

/// Text, unquoted.
#[derive(Debug, Clone, PartialEq)]
pub struct StringLiteral {
    /// The text.
    pub value: String,
    /// Its bytes, quotes included.
    pub span: Span,
}

/// The time of an `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// `@ 1600000000.5`, in milliseconds since the epoch.
    Time(i64),
    /// `@ start()`: of the query's range.
    Start,
    /// `@ end()`
    End,
}

/// A length of time in a query: known, or depending on the query's step and range.
#[derive(Debug, Clone, PartialEq)]
pub enum Extent {
    /// Milliseconds.
    Fixed(i64),
    /// To be computed: see [`Extent::resolve`].
    Expr(Box<DurationExpr>),
}

impl Extent {
    /// No time at all.
    pub const ZERO: Self = Self::Fixed(0);

    /// Milliseconds, for a query with this `step` and `range` (both milliseconds).
    ///
    /// # Errors
    /// A text that begins with the place, as Prometheus's: a division by zero; a value that is not finite, too large,
    /// or not above zero where it must be (everywhere but in an offset: `negative` allows it).
    pub fn resolve(&self, step: i64, range: i64, negative: bool) -> Result<i64, String> {
        match self {
            Self::Fixed(milliseconds) => Ok(*milliseconds),
            Self::Expr(expr) => {
                let place = |message: &str| format!("{}:{}: {message}", expr.span().start, expr.span().end);
                let seconds = expr.seconds(step, range)?;
                if !seconds.is_finite() {
                    return Err(place("duration is NaN or infinite"));
                }
                if seconds <= 0.0 && !negative {
                    return Err(place("duration must be greater than 0"));
                }
                if out_of_range(seconds) {
                    return Err(place("duration is out of range"));
                }
                Ok((seconds * 1000.0) as i64)
            }
        }
    }
}

/// Whether so many seconds are more than 2^63 nanoseconds, the longest time that Prometheus can hold.
#[must_use]
pub fn out_of_range(seconds: f64) -> bool {
    const LONGEST: f64 = 9_223_372_036.854_776;
    !(-LONGEST..=LONGEST).contains(&seconds) && !seconds.is_nan()
}

/// An operator of duration arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurationOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `min_of(a, b)`
    MinOf,
    /// `max_of(a, b)`
    MaxOf,
}

/// Duration arithmetic, as in `[step() * 2]`.
#[derive(Debug, Clone, PartialEq)]
pub enum DurationExpr {
    /// `5m` or `300`.
    Literal(NumberLiteral),
    /// `step()`
    Step {
        /// Whether parentheses stand around it.
        wrapped: bool,
        /// Its bytes.
        span: Span,
    },
    /// `range()`
    Range {
        /// Whether parentheses stand around it.
        wrapped: bool,
        /// Its bytes.
        span: Span,
    },
    /// `-x`. A `+` says nothing and is not kept.
    Negate {
        /// What it stands before.
        expr: Box<DurationExpr>,
        /// Whether parentheses stand around it.
        wrapped: bool,
        /// Its bytes.
        span: Span,
    },
    /// `a + b`, `min_of(a, b)`
    Binary {
        /// What to compute.
        op: DurationOp,
        /// The left operand.
        lhs: Box<DurationExpr>,
        /// The right operand.
        rhs: Box<DurationExpr>,
        /// Whether parentheses stand around it.
        wrapped: bool,
        /// Its bytes.
        span: Span,
    },
}

impl DurationExpr {
    /// Its bytes in the query.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Literal(number) => number.span,
            Self::Step { span, .. }
            | Self::Range { span, .. }
            | Self::Negate { span, .. }
            | Self::Binary { span, .. } => *span,
        }
    }

    fn seconds(&self, step: i64, range: i64) -> Result<f64, String> {
        let by_zero = |what: &str, rhs: f64| {
            let span = self.span();
            (rhs == 0.0).then(|| format!("{}:{}: {what} by zero", span.start, span.end)).map_or(Ok(()), Err)
        };
        Ok(match self {
            Self::Literal(number) => number.value,
            Self::Step { .. } => step as f64 / 1000.0,
            Self::Range { .. } => range as f64 / 1000.0,
            Self::Negate { expr, .. } => -expr.seconds(step, range)?,
            Self::Binary { op, lhs, rhs, .. } => {
                let (lhs, rhs) = (lhs.seconds(step, range)?, rhs.seconds(step, range)?);
                match op {
                    DurationOp::Add => lhs + rhs,
                    DurationOp::Sub => lhs - rhs,
                    DurationOp::Mul => lhs * rhs,
                    DurationOp::Div => {
                        by_zero("division", rhs)?;
                        lhs / rhs
                    }
                    DurationOp::Mod => {
                        by_zero("modulo", rhs)?;
                        lhs % rhs
                    }
                    DurationOp::Pow => lhs.powf(rhs),
                    DurationOp::MinOf => lhs.min(rhs),
                    DurationOp::MaxOf => lhs.max(rhs),
                }
            }
        })
    }
}

/// How a range selector treats the edges of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Edges {
    /// Only the samples inside.
    #[default]
    Plain,
    /// `anchored`: the last sample before each edge counts as one at the edge.
    Anchored,
    /// `smoothed`: values at the edges are interpolated.
    Smoothed,
}

/// A selector of series.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSelector {
    /// The metric name before the braces. `{"name"}` leaves it empty: there the name is a matcher like the others.
    pub name: Option<String>,
    /// All conditions. The one for `name` is among them, last.
    pub matchers: Vec<Matcher>,
    /// How far back to look; negative is forward.
    pub offset: Extent,
    /// A fixed time to look at.
    pub at: Option<At>,
    /// `anchored` and `smoothed`.
    pub edges: Edges,
    /// Whether it may match everything: as `info`'s second argument.
    pub may_match_all: bool,
    /// Its bytes, modifiers included.
    pub span: Span,
}

/// A selector of windows. Its modifiers are `selector`'s: its `offset`, `at` and `edges`.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixSelector {
    /// Which series, and when.
    pub selector: VectorSelector,
    /// The windows' length. The window excludes its start and includes its end.
    pub range: Extent,
    /// Its bytes, modifiers included.
    pub span: Span,
}

/// An expression evaluated at many times, as a window of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Subquery {
    /// What to evaluate.
    pub expr: Box<Expr>,
    /// The windows' length.
    pub range: Extent,
    /// Time between evaluations; `None`: the engine's default.
    pub step: Option<Extent>,
    /// How far back to look; negative is forward.
    pub offset: Extent,
    /// A fixed time to look at.
    pub at: Option<At>,
    /// Its bytes, modifiers included.
    pub span: Span,
}

/// A function's call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Which function.
    pub function: &'static Function,
    /// Its arguments: their number and types are what `function` asks for.
    pub args: Vec<Expr>,
    /// Its bytes.
    pub span: Span,
}

/// A sign.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary {
    /// `-`, or else `+`.
    pub minus: bool,
    /// What it stands before.
    pub expr: Box<Expr>,
    /// Its bytes.
    pub span: Span,
}

/// Parentheses.
#[derive(Debug, Clone, PartialEq)]
pub struct Paren {
    /// What they hold.
    pub expr: Box<Expr>,
    /// Their bytes.
    pub span: Span,
}

/// An operator between two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `atan2`
    Atan2,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `>`
    Gt,
    /// `<`
    Lt,
    /// `>=`
    Ge,
    /// `<=`
    Le,
    /// `</`: a histogram without its observations above a value.
    TrimUpper,
    /// `>/`: a histogram without its observations below a value.
    TrimLower,
    /// `and`
    And,
    /// `or`
    Or,
    /// `unless`
    Unless,
}

impl BinaryOp {
    /// Its text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Gt => ">",
            Self::Lt => "<",
            Self::Ge => ">=",
            Self::Le => "<=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    /// Whether it compares: `==`, `!=`, `<`, `<=`, `>`, `>=`.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Gt | Self::Lt | Self::Ge | Self::Le)
    }

    /// Whether it is `and`, `or` or `unless`.
    #[must_use]
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

impl fmt::Display for BinaryOp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// How many series of one side may match one of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// Each at most one.
    OneToOne,
    /// `group_left`: the left side has many.
    ManyToOne,
    /// `group_right`: the right side has many.
    OneToMany,
    /// `and`, `or`, `unless`.
    ManyToMany,
}

impl Cardinality {
    /// Its name: `one-to-one`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneToOne => "one-to-one",
            Self::ManyToOne => "many-to-one",
            Self::OneToMany => "one-to-many",
            Self::ManyToMany => "many-to-many",
        }
    }
}

/// Which series of two vectors belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Matching {
    /// How many may match one.
    pub card: Cardinality,
    /// Whether `labels` are the ones to compare (`on`) or the ones not to (`ignoring`).
    pub on: bool,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Labels of the one side that the result takes over: `group_left (a, b)`.
    pub include: Vec<String>,
    /// The value of a left series that is missing.
    pub fill_left: Option<f64>,
    /// The value of a right series that is missing.
    pub fill_right: Option<f64>,
}

/// An operator and its operands.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// What to compute.
    pub op: BinaryOp,
    /// The left operand.
    pub lhs: Expr,
    /// The right operand.
    pub rhs: Expr,
    /// How series are matched; `None` if an operand is a scalar.
    pub matching: Option<Matching>,
    /// `bool`: a comparison answers 0 or 1 rather than filter.
    pub return_bool: bool,
    /// Its bytes.
    pub span: Span,
}

/// An aggregation's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    /// `sum`
    Sum,
    /// `avg`
    Avg,
    /// `count`
    Count,
    /// `min`
    Min,
    /// `max`
    Max,
    /// `group`
    Group,
    /// `stddev`
    Stddev,
    /// `stdvar`
    Stdvar,
    /// `topk`
    Topk,
    /// `bottomk`
    Bottomk,
    /// `count_values`
    CountValues,
    /// `quantile`
    Quantile,
    /// `limitk`
    Limitk,
    /// `limit_ratio`
    LimitRatio,
}

impl AggregateOp {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::Limitk => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    /// The type of its parameter, if it takes one.
    #[must_use]
    pub fn param(self) -> Option<ValueType> {
        match self {
            Self::Topk | Self::Bottomk | Self::Quantile | Self::Limitk | Self::LimitRatio => Some(ValueType::Scalar),
            Self::CountValues => Some(ValueType::String),
            _ => None,
        }
    }

    /// Whether Prometheus still calls it experimental.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        matches!(self, Self::Limitk | Self::LimitRatio)
    }
}

impl fmt::Display for AggregateOp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// An aggregation.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// What to compute.
    pub op: AggregateOp,
    /// Over what.
    pub expr: Box<Expr>,
    /// Its parameter: there if and only if [`AggregateOp::param`] says so.
    pub param: Option<Box<Expr>>,
    /// The labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// Whether `grouping` are the labels to drop rather than the ones to keep.
    pub without: bool,
    /// Its bytes.
    pub span: Span,
}
