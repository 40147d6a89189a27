//! Expressions that are one number a step.

use super::{Column, Context, unsupported, vector};
use crate::error::Result;
use crate::promql::ast::{BinaryOp, Expr};
use crate::promql::functions::FunctionId;
use crate::promql::plan::Grid;

/// The number at every step.
///
/// # Errors
/// Those of a vector below; `Unsupported`.
pub(crate) fn scalar(cx: &Context<'_>, expr: &Expr, grid: Grid) -> Result<Vec<f64>> {
    let steps = grid.steps();
    Ok(match expr {
        Expr::Number(number) => vec![number.value; steps],
        Expr::Paren(paren) => scalar(cx, &paren.expr, grid)?,
        Expr::StepInvariant(inner) => {
            let first = scalar(cx, inner, grid.first_only())?;
            vec![first.first().copied().unwrap_or(f64::NAN); steps]
        }
        Expr::Unary(unary) => {
            let mut values = scalar(cx, &unary.expr, grid)?;
            if unary.minus {
                values.iter_mut().for_each(|value| *value = -*value);
            }
            values
        }
        Expr::Binary(binary) => {
            let mut left = scalar(cx, &binary.lhs, grid)?;
            let right = scalar(cx, &binary.rhs, grid)?;
            for (left, right) in left.iter_mut().zip(right) {
                *left = operate(binary.op, *left, right);
            }
            left
        }
        Expr::Call(call) => match (call.function.id, &call.args[..]) {
            (FunctionId::Time, _) => (0..steps).map(|step| grid.time(step) as f64 / 1000.0).collect(),
            (FunctionId::Pi, _) => vec![std::f64::consts::PI; steps],
            (FunctionId::Scalar, [arg]) => only_value(cx, arg, grid)?,
            (FunctionId::MinOf, [a, b]) => pairwise(cx, a, b, grid, go_min)?,
            (FunctionId::MaxOf, [a, b]) => pairwise(cx, a, b, grid, go_max)?,
            _ => return Err(unsupported(call.function.name)),
        },
        other => return Err(unsupported(other.value_type().documented())),
    })
}

fn pairwise(cx: &Context<'_>, a: &Expr, b: &Expr, grid: Grid, pick: fn(f64, f64) -> f64) -> Result<Vec<f64>> {
    let (a, b) = (scalar(cx, a, grid)?, scalar(cx, b, grid)?);
    Ok(a.into_iter().zip(b).map(|(a, b)| pick(a, b)).collect())
}

/// `scalar(v)`: the value of the only float, or NaN.
fn only_value(cx: &Context<'_>, arg: &Expr, grid: Grid) -> Result<Vec<f64>> {
    let mut input = vector(cx, arg, grid)?;
    let mut values = vec![f64::NAN; grid.steps()];
    let mut found = vec![0u8; grid.steps()];
    let mut column = Column::default();
    for index in 0..input.series().len() {
        input.column(index, &mut column)?;
        for step in column.present.iter() {
            values[step] = if found[step] == 0 { column.values[step] } else { f64::NAN };
            found[step] = 1;
        }
    }
    Ok(values)
}

/// The value of `left op right` for two floats; a comparison is 1 or 0.
pub(crate) fn operate(op: BinaryOp, left: f64, right: f64) -> f64 {
    let truth = |holds: bool| f64::from(u8::from(holds));
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => power(left, right),
        BinaryOp::Atan2 => left.atan2(right),
        BinaryOp::Eq => truth(left == right),
        BinaryOp::Ne => truth(left != right),
        BinaryOp::Gt => truth(left > right),
        BinaryOp::Lt => truth(left < right),
        BinaryOp::Ge => truth(left >= right),
        BinaryOp::Le => truth(left <= right),
        // Neither is allowed here: the parser refuses them.
        BinaryOp::TrimUpper | BinaryOp::TrimLower | BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => f64::NAN,
    }
}

/// Go's `math.Pow`: as C's but for -1 and an infinite exponent, which C agrees on too, and for exact small powers.
fn power(base: f64, exponent: f64) -> f64 {
    base.powf(exponent)
}

/// Go's `math.Log2`: exact for powers of two, else by the natural logarithm of the fraction.
pub(crate) fn log2(v: f64) -> f64 {
    let bits = v.to_bits();
    let exponent = bits >> 52 & 0x7ff;
    if v <= 0.0 || v.is_nan() || exponent == 0 || exponent == 0x7ff {
        return v.log2();
    }
    let fraction = f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52);
    let exponent = (exponent as i64 - 1022) as f64;
    if fraction == 0.5 {
        return exponent - 1.0;
    }
    fraction.ln() * (1.0 / std::f64::consts::LN_2) + exponent
}

/// Go's `math.Max`: NaN if either is, and +0 above -0.
pub(crate) fn go_max(a: f64, b: f64) -> f64 {
    if a.is_infinite() && a > 0.0 || b.is_infinite() && b > 0.0 {
        return f64::INFINITY;
    }
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == 0.0 && b == 0.0 {
        return if a.is_sign_negative() { b } else { a };
    }
    if a > b { a } else { b }
}

/// Go's `math.Min`: NaN if either is, and -0 below +0.
pub(crate) fn go_min(a: f64, b: f64) -> f64 {
    -go_max(-a, -b)
}
