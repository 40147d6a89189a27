//! Operators between vectors, and between a vector and a scalar.

use std::sync::Arc;

use super::distinct::same_labelset;
use super::scalar::operate;
use super::{
    BoxOperator, Column, Columnwise, Context, Operator, SeriesInfo, Steps, invalid, is_metadata, scalar, set_op, vector,
};
use crate::codec::FixedMap;
use crate::error::Result;
use crate::model::{FloatHistogram, Labels, LabelsBuilder, METRIC_NAME};
use crate::promql::annotation::Remark;
use crate::promql::ast::{Binary, BinaryOp, Cardinality, Matching, Span, ValueType};
use crate::promql::histogram_ops as ops;
use crate::promql::plan::Grid;

/// The operator between two expressions, at least one of which is a vector.
///
/// # Errors
/// Those of the operands.
pub(crate) fn build<'q>(cx: &'q Context<'q>, binary: &'q Binary, grid: Grid) -> Result<BoxOperator<'q>> {
    match (binary.lhs.value_type(), binary.rhs.value_type()) {
        (ValueType::Vector, ValueType::Scalar) => {
            let right = scalar(cx, &binary.rhs, grid)?;
            with_scalar(cx, binary, vector(cx, &binary.lhs, grid)?, right, false)
        }
        (ValueType::Scalar, ValueType::Vector) => {
            let left = scalar(cx, &binary.lhs, grid)?;
            with_scalar(cx, binary, vector(cx, &binary.rhs, grid)?, left, true)
        }
        _ => {
            let left = vector(cx, &binary.lhs, grid)?;
            let right = vector(cx, &binary.rhs, grid)?;
            let everything = Matching {
                card: Cardinality::OneToOne,
                on: false,
                labels: Vec::new(),
                include: Vec::new(),
                fill_left: None,
                fill_right: None,
            };
            let matching = binary.matching.clone().unwrap_or(everything);
            if binary.op.is_set() {
                return Ok(set_op::build(binary.op, &matching, left, right, grid));
            }
            let mut operator = VectorBinary::new(cx, binary, matching, left, right, grid);
            // Now, since there may be no result to ask for: the mistake is one even where nothing else matches.
            operator.check_crowds()?;
            Ok(Box::new(operator))
        }
    }
}

/// Whether the result of `op` is no longer what the series' name says.
fn changes_meaning(op: BinaryOp) -> bool {
    use BinaryOp as B;
    matches!(op, B::Add | B::Sub | B::Mul | B::Div | B::Mod | B::Pow | B::Atan2)
}

/// A side's sample.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl Operand<'_> {
    fn kind(self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Histogram(_) => "histogram",
        }
    }
}

enum Outcome {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// What an operator makes of two samples: its value and whether a filter keeps it, or nothing if they do not go together.
fn combine(
    remarks: &ops::Remarks<'_, '_>,
    op: BinaryOp,
    left: Operand<'_>,
    right: Operand<'_>,
) -> Option<(Outcome, bool)> {
    use BinaryOp as B;
    use Operand::{Float, Histogram};
    let outcome = match (left, right) {
        (Float(l), Float(r)) if op.is_comparison() => return Some((Outcome::Float(l), operate(op, l, r) != 0.0)),
        (Float(l), Float(r)) if !matches!(op, B::TrimLower | B::TrimUpper) => Some(Outcome::Float(operate(op, l, r))),
        (Float(l), Histogram(r)) if op == B::Mul => Some(Outcome::Histogram(ops::scaled_compact(r, l).into())),
        (Histogram(l), Float(r)) => match op {
            B::Mul => Some(Outcome::Histogram(ops::scaled_compact(l, r).into())),
            B::Div => Some(Outcome::Histogram(ops::divided_compact(l, r).into())),
            B::TrimUpper => Some(Outcome::Histogram(ops::trimmed(l, r, true).into())),
            B::TrimLower => Some(Outcome::Histogram(ops::trimmed(l, r, false).into())),
            _ => None,
        },
        (Histogram(l), Histogram(r)) => match op {
            B::Add => return ops::operator_sum(l, r, remarks).map(|sum| (Outcome::Histogram(sum.into()), true)),
            B::Sub => {
                return ops::operator_difference(l, r, remarks).map(|sum| (Outcome::Histogram(sum.into()), true));
            }
            B::Eq => return Some((Outcome::Histogram(l.clone()), ops::equals(l, r))),
            B::Ne => return Some((Outcome::Histogram(l.clone()), !ops::equals(l, r))),
            _ => None,
        },
        _ => None,
    };
    if outcome.is_none() {
        let remark = Remark::IncompatibleTypes { lhs: left.kind(), op: op.as_str(), rhs: right.kind() };
        remarks.cx.remark(remark, remarks.span);
    }
    outcome.map(|outcome| (outcome, true))
}

/// An operator between a vector and a scalar; `swapped` if the scalar is on the left.
fn with_scalar<'q>(
    cx: &'q Context<'q>,
    binary: &'q Binary,
    input: BoxOperator<'q>,
    scalars: Vec<f64>,
    swapped: bool,
) -> Result<BoxOperator<'q>> {
    let (op, return_bool, span) = (binary.op, binary.return_bool, binary.span);
    let mut scratch = Column::default();
    let change = move |column: &mut Column| {
        if column.histograms.is_empty() && !matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            float_with_scalar(op, return_bool, swapped, column, &scalars);
            return Ok(());
        }
        std::mem::swap(column, &mut scratch);
        column.reset(scratch.steps());
        let remarks = ops::Remarks { cx, name: "", span };
        for (step, number) in scalars.iter().enumerate() {
            let element = match (scratch.get(step), scratch.histogram(step)) {
                (Some(value), _) => Operand::Float(value),
                (None, Some(histogram)) => Operand::Histogram(histogram),
                (None, None) => continue,
            };
            let number = Operand::Float(*number);
            let (left, right) = if swapped { (number, element) } else { (element, number) };
            let Some((mut outcome, keep)) = combine(&remarks, op, left, right) else { continue };
            if op.is_comparison() && swapped {
                outcome = match element {
                    Operand::Float(value) => Outcome::Float(value),
                    Operand::Histogram(histogram) => Outcome::Histogram(histogram.clone()),
                };
            }
            if return_bool {
                outcome = Outcome::Float(f64::from(u8::from(keep)));
            }
            if keep || return_bool {
                match outcome {
                    Outcome::Float(value) => column.set(step, value),
                    Outcome::Histogram(histogram) => column.push_histogram(step, histogram),
                }
            }
        }
        Ok(())
    };
    if changes_meaning(op) || return_bool {
        Columnwise::dropping_name(cx, input, change)
    } else {
        Ok(Columnwise::keeping_name(input, change))
    }
}

fn float_with_scalar(op: BinaryOp, return_bool: bool, swapped: bool, column: &mut Column, scalars: &[f64]) {
    if op.is_comparison() && !return_bool {
        for (step, number) in scalars.iter().enumerate() {
            let value = column.values[step];
            let (left, right) = if swapped { (*number, value) } else { (value, *number) };
            if operate(op, left, right) == 0.0 {
                column.present.clear(step);
            }
        }
        return;
    }
    for (value, number) in column.values.iter_mut().zip(scalars) {
        let (left, right) = if swapped { (*number, *value) } else { (*value, *number) };
        *value = operate(op, left, right);
    }
}

/// Puts series of two sides together whose labels agree.
pub(super) struct Signatures {
    /// The signature of each series of the left, and of the right side.
    pub(super) left: Vec<u32>,
    pub(super) right: Vec<u32>,
    /// How many there are.
    pub(super) count: usize,
}

impl Signatures {
    pub(super) fn new(matching: &Matching, left: &[SeriesInfo], right: &[SeriesInfo]) -> Self {
        let mut ids: FixedMap<Vec<u8>, u32> = FixedMap::default();
        let mut builder = LabelsBuilder::new();
        let mut packed = Vec::new();
        let mut sign = |info: &SeriesInfo| {
            builder.clear();
            for (name, value) in &info.labels {
                let listed = matching.labels.iter().any(|label| label == name);
                if if matching.on { listed } else { !listed && name != METRIC_NAME } {
                    builder.push(name, value);
                }
            }
            builder.pack_into(&mut packed);
            match ids.get(packed.as_slice()) {
                Some(id) => *id,
                None => {
                    let id = ids.len() as u32;
                    ids.insert(packed.clone(), id);
                    id
                }
            }
        };
        let left = left.iter().map(&mut sign).collect();
        let right = right.iter().map(&mut sign).collect();
        Self { left, right, count: ids.len() }
    }
}

/// Columns of one side that are needed more than once.
struct Side<'q> {
    input: BoxOperator<'q>,
    /// How often each is still needed.
    uses: Vec<u32>,
    kept: FixedMap<u32, Arc<Column>>,
}

impl<'q> Side<'q> {
    fn new(input: BoxOperator<'q>) -> Self {
        let uses = vec![0; input.series().len()];
        Self { input, uses, kept: FixedMap::default() }
    }

    fn column(&mut self, index: u32) -> Result<Arc<Column>> {
        let left = &mut self.uses[index as usize];
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some(column) = self.kept.remove(&index)
        {
            return Ok(column);
        }
        if let Some(column) = self.kept.get(&index) {
            return Ok(column.clone());
        }
        let mut column = Column::default();
        self.input.column(index as usize, &mut column)?;
        let column = Arc::new(column);
        if *left > 0 {
            self.kept.insert(index, column.clone());
        }
        Ok(column)
    }
}

/// A pair of series that match, or one and a fill value.
#[derive(Clone, Copy)]
struct Pair {
    many: Option<u32>,
    one: Option<u32>,
    signature: u32,
}

/// An arithmetic or comparison operator between two vectors.
///
/// The "many" side is the left one, unless `group_right` swaps them; of a one-to-one match it is the left one too.
struct VectorBinary<'q> {
    cx: &'q Context<'q>,
    binary: &'q Binary,
    matching: Matching,
    swapped: bool,
    grid: Grid,
    many: Side<'q>,
    one: Side<'q>,
    signatures: Signatures,
    series: Vec<SeriesInfo>,
    pairs: Vec<Vec<Pair>>,
    /// The series of each side by signature, where more than one has it.
    crowded: Option<Crowded>,
}

/// Signatures that several series of a side have.
struct Crowded {
    many: Vec<(u32, Vec<u32>)>,
    one: Vec<(u32, Vec<u32>)>,
}

impl<'q> VectorBinary<'q> {
    fn new(
        cx: &'q Context<'q>,
        binary: &'q Binary,
        matching: Matching,
        left: BoxOperator<'q>,
        right: BoxOperator<'q>,
        grid: Grid,
    ) -> Self {
        let swapped = matching.card == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        // From here on "left" is the many side.
        let signatures = Signatures::new(&matching, many.series(), one.series());
        let mut this = Self {
            cx,
            binary,
            swapped,
            grid,
            many: Side::new(many),
            one: Side::new(one),
            signatures,
            series: Vec::new(),
            pairs: Vec::new(),
            crowded: None,
            matching,
        };
        this.pair_up();
        this
    }

    fn fills(&self) -> (Option<f64>, Option<f64>) {
        // As in the original: with `group_right` the sides are swapped, but the values for them are not.
        (self.matching.fill_left, self.matching.fill_right)
    }

    /// Finds the pairs and the series that they result in.
    fn pair_up(&mut self) {
        let by_signature = |signatures: &[u32], count: usize| {
            let mut lists = vec![Vec::new(); count];
            for (index, signature) in (0u32..).zip(signatures) {
                lists[*signature as usize].push(index);
            }
            lists
        };
        let many = by_signature(&self.signatures.left, self.signatures.count);
        let one = by_signature(&self.signatures.right, self.signatures.count);
        let (fill_many, fill_one) = self.fills();
        let mut outputs: FixedMap<Labels, usize> = FixedMap::default();
        for (index, signature) in (0u32..).zip(self.signatures.left.clone()) {
            let matches = &one[signature as usize];
            for other in matches {
                self.add_pair(Pair { many: Some(index), one: Some(*other), signature }, &mut outputs);
            }
            if fill_one.is_some() {
                self.add_pair(Pair { many: Some(index), one: None, signature }, &mut outputs);
            }
        }
        if fill_many.is_some() {
            for (index, signature) in (0u32..).zip(self.signatures.right.clone()) {
                self.add_pair(Pair { many: None, one: Some(index), signature }, &mut outputs);
            }
        }
        let crowd = |lists: Vec<Vec<u32>>| {
            let lists = (0u32..).zip(lists);
            lists.filter(|(_, list)| list.len() > 1).collect::<Vec<_>>()
        };
        self.crowded = Some(Crowded { many: crowd(many), one: crowd(one) });
    }

    fn add_pair(&mut self, pair: Pair, outputs: &mut FixedMap<Labels, usize>) {
        let many = pair.many.map(|index| &self.many.input.series()[index as usize]);
        let one = pair.one.map(|index| &self.one.input.series()[index as usize]);
        let labels = self.result_labels(many, one);
        let drop_name = self.binary.return_bool;
        let next = self.series.len();
        let at = *outputs.entry(labels.clone()).or_insert(next);
        if at == next {
            self.series.push(SeriesInfo { labels, drop_name });
            self.pairs.push(Vec::new());
        }
        self.pairs[at].push(pair);
        if let Some(index) = pair.many {
            self.many.uses[index as usize] += 1;
        }
        if let Some(index) = pair.one {
            self.one.uses[index as usize] += 1;
        }
    }

    fn result_labels(&self, many: Option<&SeriesInfo>, one: Option<&SeriesInfo>) -> Labels {
        let matching = &self.matching;
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        // A side that is missing has the labels that are compared.
        let filled = |other: Option<&SeriesInfo>| {
            let labels = other.map_or_else(Labels::empty, |info| info.labels.clone());
            labels.without(|name| if matching.on { !listed(name) } else { listed(name) || name == METRIC_NAME })
        };
        let many = many.map_or_else(|| filled(one), |info| info.labels.clone());
        let one = one.map_or_else(
            || filled(Some(&SeriesInfo { labels: many.clone(), drop_name: false })),
            |info| info.labels.clone(),
        );
        let drop = changes_meaning(self.binary.op) || self.binary.return_bool && !self.cx.delayed();
        let mut builder = LabelsBuilder::new();
        for (name, value) in &many {
            let keep = match matching.card {
                Cardinality::OneToOne if matching.on => listed(name),
                Cardinality::OneToOne => !listed(name),
                _ => true,
            };
            if keep && !(drop && is_metadata(name)) {
                builder.push(name, value);
            }
        }
        for name in &matching.include {
            builder.push(name, one.get(name).unwrap_or(""));
        }
        builder.build()
    }

    /// The errors that depend on several series of a signature having samples at the same step.
    fn check_crowds(&mut self) -> Result<()> {
        let Some(Crowded { many, one }) = self.crowded.take() else { return Ok(()) };
        let steps = self.grid.steps();
        let (fill_many, fill_one) = self.fills();
        let mut column = Column::default();
        for (_, list) in &one {
            let mut seen: Vec<(u32, Steps)> = Vec::new();
            for index in list {
                self.one.input.column(*index as usize, &mut column)?;
                let occupied = column.occupied();
                for (earlier, steps) in &seen {
                    if let Some(mut common) = steps.first_common(&occupied).map(|_| occupied.clone()) {
                        common.intersect(steps);
                        // Where the other side has nothing at all, Prometheus does not look.
                        if fill_many.is_some() || fill_one.is_some() || self.many_side_touches(&common)? {
                            return Err(self.duplicate(*index, *earlier));
                        }
                    }
                }
                seen.push((*index, occupied));
            }
        }
        if self.matching.card != Cardinality::OneToOne {
            return Ok(());
        }
        let mut other = vec![None; self.signatures.count];
        for (signature, list) in &many {
            let has_one: &mut Option<Steps> = &mut other[*signature as usize];
            if has_one.is_none() {
                let mut occupied = Steps::none(steps);
                for (index, of) in self.signatures.right.iter().enumerate() {
                    if of == signature {
                        self.one.input.column(index, &mut column)?;
                        occupied.union(&column.occupied());
                    }
                }
                if fill_one.is_some() {
                    occupied.fill();
                }
                *has_one = Some(occupied);
            }
            let Some(has_one) = has_one else { continue };
            if has_one.is_empty() {
                continue;
            }
            let mut seen = Steps::none(steps);
            for index in list {
                self.many.input.column(*index as usize, &mut column)?;
                let mut occupied = column.occupied();
                occupied.intersect(has_one);
                if seen.first_common(&occupied).is_some() {
                    return Err(invalid(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                seen.union(&occupied);
            }
        }
        Ok(())
    }

    fn many_side_touches(&mut self, steps: &Steps) -> Result<bool> {
        let mut column = Column::default();
        for index in 0..self.many.input.series().len() {
            self.many.input.column(index, &mut column)?;
            if column.occupied().first_common(steps).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn duplicate(&self, index: u32, earlier: u32) -> crate::error::Error {
        let info = |index: u32| &self.one.input.series()[index as usize].labels;
        let matching = &self.matching;
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        let group =
            info(index).without(|name| if matching.on { !listed(name) } else { listed(name) || name == METRIC_NAME });
        let side = if self.swapped { "left" } else { "right" };
        let (first, second) = (info(index).min(info(earlier)), info(index).max(info(earlier)));
        invalid(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side"
        ))
    }
}

impl Operator for VectorBinary<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        let steps = self.grid.steps();
        out.reset(steps);
        let (fill_many, fill_one) = self.fills();
        let pairs = std::mem::take(&mut self.pairs[index]);
        // Which signature a step's sample is of, where several pairs give one series.
        let mut owner: Vec<u32> = Vec::new();
        if pairs.len() > 1 {
            owner.resize(steps, u32::MAX);
        }
        for pair in &pairs {
            let many = pair.many.map(|index| self.many.column(index)).transpose()?;
            let one = pair.one.map(|index| self.one.column(index)).transpose()?;
            let merge = Merge {
                cx: self.cx,
                op: self.binary.op,
                return_bool: self.binary.return_bool,
                swapped: self.swapped,
                span: self.binary.span,
            };
            match (&many, &one) {
                (Some(many), Some(one)) => {
                    merge.run(many, one, pair.signature, &mut owner, out)?;
                }
                (Some(many), None) => {
                    let fill = self.filler(pair.signature, fill_one, true, many)?;
                    merge.run(many, &fill, pair.signature, &mut owner, out)?;
                }
                (None, Some(one)) => {
                    let fill = self.filler(pair.signature, fill_many, false, one)?;
                    merge.run(&fill, one, pair.signature, &mut owner, out)?;
                }
                (None, None) => {}
            }
        }
        self.pairs[index] = pairs;
        Ok(())
    }
}

impl VectorBinary<'_> {
    /// The fill value where `present` has a sample and the missing side has none of this signature.
    fn filler(&mut self, signature: u32, fill: Option<f64>, one_is_missing: bool, present: &Column) -> Result<Column> {
        let mut filler = Column::new(self.grid.steps());
        filler.values.fill(fill.unwrap_or(f64::NAN));
        filler.present = present.occupied();
        let (signatures, side) = if one_is_missing {
            (&self.signatures.right, &mut self.one)
        } else {
            (&self.signatures.left, &mut self.many)
        };
        let mut column = Column::default();
        for (index, of) in signatures.iter().enumerate() {
            if *of == signature {
                side.input.column(index, &mut column)?;
                filler.present.subtract(&column.occupied());
            }
        }
        Ok(filler)
    }
}

/// Two columns into one.
struct Merge<'a, 'q> {
    cx: &'a Context<'q>,
    op: BinaryOp,
    return_bool: bool,
    swapped: bool,
    span: Span,
}

impl Merge<'_, '_> {
    fn run(&self, many: &Column, one: &Column, signature: u32, owner: &mut [u32], out: &mut Column) -> Result<()> {
        let floats_only = many.histograms.is_empty() && one.histograms.is_empty();
        if floats_only && owner.is_empty() && !matches!(self.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            self.floats(many, one, out);
            return Ok(());
        }
        let mut both = many.occupied();
        both.intersect(&one.occupied());
        let remarks = ops::Remarks { cx: self.cx, name: "", span: self.span };
        fn operand(column: &Column, step: usize) -> Option<Operand<'_>> {
            column.get(step).map(Operand::Float).or_else(|| column.histogram(step).map(Operand::Histogram))
        }
        let mut sorted = true;
        for step in both.iter() {
            let (Some(many), Some(one)) = (operand(many, step), operand(one, step)) else { continue };
            let (left, right) = if self.swapped { (one, many) } else { (many, one) };
            let Some((mut outcome, keep)) = combine(&remarks, self.op, left, right) else { continue };
            if let Some(owner) = owner.get_mut(step) {
                if *owner == signature {
                    return Err(invalid("multiple matches for labels: grouping labels must ensure unique matches"));
                }
                if (keep || self.return_bool) && (out.present.get(step) || out.histogram(step).is_some()) {
                    return Err(same_labelset());
                }
                *owner = signature;
            }
            if self.return_bool {
                outcome = Outcome::Float(f64::from(u8::from(keep)));
            } else if !keep {
                continue;
            }
            match outcome {
                Outcome::Float(value) => out.set(step, value),
                Outcome::Histogram(histogram) => {
                    sorted &= out.histograms.last().is_none_or(|(last, _)| (*last as usize) < step);
                    out.push_histogram(step, histogram);
                    if !sorted {
                        out.histograms.sort_by_key(|(step, _)| *step);
                    }
                }
            }
        }
        Ok(())
    }

    fn floats(&self, many: &Column, one: &Column, out: &mut Column) {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        out.present.union(&left.present);
        out.present.intersect(&right.present);
        if self.op.is_comparison() && !self.return_bool {
            out.values.copy_from_slice(&left.values);
            for step in 0..out.values.len() {
                if operate(self.op, left.values[step], right.values[step]) == 0.0 {
                    out.present.clear(step);
                }
            }
            return;
        }
        for ((out, left), right) in out.values.iter_mut().zip(&left.values).zip(&right.values) {
            *out = operate(self.op, *left, *right);
        }
    }
}
