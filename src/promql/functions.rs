//! What can be called: names, argument types, result types.

use std::fmt;

use super::ast::ValueType;

/// A function's signature.
#[derive(Debug)]
pub struct Function {
    /// Which it is: what an evaluator matches on.
    pub id: FunctionId,
    /// Its name in queries.
    pub name: &'static str,
    /// Its arguments' types. Arguments beyond them have the last one's.
    pub args: &'static [ValueType],
    /// The fewest arguments that it takes.
    pub min_args: usize,
    /// The most; `usize::MAX` if there is no limit.
    pub max_args: usize,
    /// What it answers with.
    pub returns: ValueType,
    /// Whether Prometheus still calls it experimental.
    pub experimental: bool,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Function {}

impl fmt::Display for Function {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}

impl Function {
    /// The function called `name`, if there is one. Names are case-sensitive.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        // Linear, and only run once a call in a query's text.
        FUNCTIONS.iter().find(|function| function.name == name)
    }

    /// The type that argument `index`, counted from 0, must have; `None` if there can be none.
    #[must_use]
    pub fn arg_type(&self, index: usize) -> Option<ValueType> {
        if index < self.max_args { self.args.get(index).or(self.args.last()).copied() } else { None }
    }
}

macro_rules! functions {
    ($($id:ident $name:literal ($($arg:ident),*) $min:literal..$max:expr => $returns:ident $experimental:literal;)*) => {
        /// Names a function.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FunctionId {
            $(#[doc = concat!("`", $name, "`")] $id,)*
        }

        /// Every function of the language.
        pub static FUNCTIONS: &[Function] = &[$(Function {
            id: FunctionId::$id,
            name: $name,
            args: &[$(ValueType::$arg),*],
            min_args: $min,
            max_args: $max,
            returns: ValueType::$returns,
            experimental: $experimental,
        },)*];
    };
}

// Name, arguments, how many of them (both ends included), result, whether experimental.
functions! {
    // Numbers.
    Abs "abs" (Vector) 1..1 => Vector false;
    Ceil "ceil" (Vector) 1..1 => Vector false;
    Floor "floor" (Vector) 1..1 => Vector false;
    Round "round" (Vector, Scalar) 1..2 => Vector false;
    Sgn "sgn" (Vector) 1..1 => Vector false;
    Sqrt "sqrt" (Vector) 1..1 => Vector false;
    Exp "exp" (Vector) 1..1 => Vector false;
    Ln "ln" (Vector) 1..1 => Vector false;
    Log2 "log2" (Vector) 1..1 => Vector false;
    Log10 "log10" (Vector) 1..1 => Vector false;
    Clamp "clamp" (Vector, Scalar, Scalar) 3..3 => Vector false;
    ClampMin "clamp_min" (Vector, Scalar) 2..2 => Vector false;
    ClampMax "clamp_max" (Vector, Scalar) 2..2 => Vector false;
    MinOf "min_of" (Scalar, Scalar) 2..2 => Scalar true;
    MaxOf "max_of" (Scalar, Scalar) 2..2 => Scalar true;
    // Angles.
    Acos "acos" (Vector) 1..1 => Vector false;
    Acosh "acosh" (Vector) 1..1 => Vector false;
    Asin "asin" (Vector) 1..1 => Vector false;
    Asinh "asinh" (Vector) 1..1 => Vector false;
    Atan "atan" (Vector) 1..1 => Vector false;
    Atanh "atanh" (Vector) 1..1 => Vector false;
    Cos "cos" (Vector) 1..1 => Vector false;
    Cosh "cosh" (Vector) 1..1 => Vector false;
    Sin "sin" (Vector) 1..1 => Vector false;
    Sinh "sinh" (Vector) 1..1 => Vector false;
    Tan "tan" (Vector) 1..1 => Vector false;
    Tanh "tanh" (Vector) 1..1 => Vector false;
    Deg "deg" (Vector) 1..1 => Vector false;
    Rad "rad" (Vector) 1..1 => Vector false;
    Pi "pi" () 0..0 => Scalar false;
    // Times and dates.
    Time "time" () 0..0 => Scalar false;
    Timestamp "timestamp" (Vector) 1..1 => Vector false;
    StartTimestamp "start_timestamp" (Vector) 1..1 => Vector true;
    Start "start" () 0..0 => Scalar true;
    End "end" () 0..0 => Scalar true;
    Range "range" () 0..0 => Scalar true;
    Step "step" () 0..0 => Scalar true;
    Minute "minute" (Vector) 0..1 => Vector false;
    Hour "hour" (Vector) 0..1 => Vector false;
    DayOfWeek "day_of_week" (Vector) 0..1 => Vector false;
    DayOfMonth "day_of_month" (Vector) 0..1 => Vector false;
    DayOfYear "day_of_year" (Vector) 0..1 => Vector false;
    DaysInMonth "days_in_month" (Vector) 0..1 => Vector false;
    Month "month" (Vector) 0..1 => Vector false;
    Year "year" (Vector) 0..1 => Vector false;
    // Counters and gauges over a window.
    Rate "rate" (Matrix) 1..1 => Vector false;
    Increase "increase" (Matrix) 1..1 => Vector false;
    Delta "delta" (Matrix) 1..1 => Vector false;
    Irate "irate" (Matrix) 1..1 => Vector false;
    Idelta "idelta" (Matrix) 1..1 => Vector false;
    Resets "resets" (Matrix) 1..1 => Vector false;
    Changes "changes" (Matrix) 1..1 => Vector false;
    Deriv "deriv" (Matrix) 1..1 => Vector false;
    PredictLinear "predict_linear" (Matrix, Scalar) 2..2 => Vector false;
    DoubleExponentialSmoothing "double_exponential_smoothing" (Matrix, Scalar, Scalar) 3..3 => Vector true;
    // Windows.
    AvgOverTime "avg_over_time" (Matrix) 1..1 => Vector false;
    SumOverTime "sum_over_time" (Matrix) 1..1 => Vector false;
    CountOverTime "count_over_time" (Matrix) 1..1 => Vector false;
    MinOverTime "min_over_time" (Matrix) 1..1 => Vector false;
    MaxOverTime "max_over_time" (Matrix) 1..1 => Vector false;
    FirstOverTime "first_over_time" (Matrix) 1..1 => Vector false;
    LastOverTime "last_over_time" (Matrix) 1..1 => Vector false;
    PresentOverTime "present_over_time" (Matrix) 1..1 => Vector false;
    AbsentOverTime "absent_over_time" (Matrix) 1..1 => Vector false;
    QuantileOverTime "quantile_over_time" (Scalar, Matrix) 2..2 => Vector false;
    StddevOverTime "stddev_over_time" (Matrix) 1..1 => Vector false;
    StdvarOverTime "stdvar_over_time" (Matrix) 1..1 => Vector false;
    MadOverTime "mad_over_time" (Matrix) 1..1 => Vector true;
    TsOfFirstOverTime "ts_of_first_over_time" (Matrix) 1..1 => Vector true;
    TsOfLastOverTime "ts_of_last_over_time" (Matrix) 1..1 => Vector true;
    TsOfMinOverTime "ts_of_min_over_time" (Matrix) 1..1 => Vector true;
    TsOfMaxOverTime "ts_of_max_over_time" (Matrix) 1..1 => Vector true;
    // Histograms.
    HistogramQuantile "histogram_quantile" (Scalar, Vector) 2..2 => Vector false;
    HistogramQuantiles "histogram_quantiles" (Vector, String, Scalar, Scalar) 3..12 => Vector true;
    HistogramFraction "histogram_fraction" (Scalar, Scalar, Vector) 3..3 => Vector false;
    HistogramCount "histogram_count" (Vector) 1..1 => Vector false;
    HistogramSum "histogram_sum" (Vector) 1..1 => Vector false;
    HistogramAvg "histogram_avg" (Vector) 1..1 => Vector false;
    HistogramStddev "histogram_stddev" (Vector) 1..1 => Vector false;
    HistogramStdvar "histogram_stdvar" (Vector) 1..1 => Vector false;
    // Labels, order, presence, type.
    LabelReplace "label_replace" (Vector, String, String, String, String) 5..5 => Vector false;
    LabelJoin "label_join" (Vector, String, String, String) 3..usize::MAX => Vector false;
    Info "info" (Vector, Vector) 1..2 => Vector true;
    Sort "sort" (Vector) 1..1 => Vector false;
    SortDesc "sort_desc" (Vector) 1..1 => Vector false;
    SortByLabel "sort_by_label" (Vector, String) 1..usize::MAX => Vector true;
    SortByLabelDesc "sort_by_label_desc" (Vector, String) 1..usize::MAX => Vector true;
    Absent "absent" (Vector) 1..1 => Vector false;
    Scalar "scalar" (Vector) 1..1 => Scalar false;
    Vector "vector" (Scalar) 1..1 => Vector false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name_and_takes_what_its_types_say() {
        for function in FUNCTIONS {
            assert_eq!(Function::by_name(function.name), Some(function));
            assert!(function.min_args <= function.max_args, "{function}");
            assert!(function.max_args >= function.args.len(), "{function}");
            assert_eq!(function.arg_type(function.max_args), None, "{function}");
        }
        let stable = FUNCTIONS.iter().filter(|function| !function.experimental).count();
        assert_eq!((stable, FUNCTIONS.len()), (73, 90));
    }

    #[test]
    fn arguments_beyond_the_listed_ones_have_the_last_type() {
        let join = Function::by_name("label_join").unwrap();
        assert_eq!(
            (join.min_args, join.arg_type(0), join.arg_type(9)),
            (3, Some(ValueType::Vector), Some(ValueType::String))
        );
        assert_eq!(Function::by_name("Rate"), None);
    }
}
