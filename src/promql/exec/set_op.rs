//! `and`, `or`, `unless`: which of a vector's samples stay, by whether the other has one with the same labels.

use super::binary::Signatures;
use super::{BoxOperator, Collision, Column, Operator, SeriesInfo, Steps, distinct};
use crate::error::Result;
use crate::promql::ast::{BinaryOp, Matching};
use crate::promql::plan::Grid;

/// The operator of a set operation.
pub(super) fn build<'q>(
    op: BinaryOp,
    matching: &Matching,
    left: BoxOperator<'q>,
    right: BoxOperator<'q>,
    grid: Grid,
) -> BoxOperator<'q> {
    let signatures = Signatures::new(matching, left.series(), right.series());
    let has = |list: &[u32]| {
        let mut has = vec![false; signatures.count];
        list.iter().for_each(|signature| has[*signature as usize] = true);
        has
    };
    let (on_left, on_right) = (has(&signatures.left), has(&signatures.right));
    let mut series: Vec<SeriesInfo> = left.series().to_vec();
    // `and` gives nothing of series that cannot have a partner: they need not be computed.
    let mut from: Vec<usize> = (0..series.len()).collect();
    if op == BinaryOp::And {
        from.retain(|index| on_right[signatures.left[*index] as usize]);
        series = from.iter().map(|index| series[*index].clone()).collect();
    }
    if op == BinaryOp::Or {
        series.extend(right.series().iter().cloned());
    }
    let shared = on_left.iter().zip(&on_right).map(|(left, right)| *left && *right).collect();
    let operator = Box::new(SetOperator {
        op,
        left,
        right,
        present: vec![None; signatures.count],
        seen: Vec::new(),
        shared,
        signatures,
        series,
        from,
        steps: grid.steps(),
    });
    if op == BinaryOp::Or { distinct(operator, Collision::AtStep) } else { operator }
}

struct SetOperator<'q> {
    op: BinaryOp,
    left: BoxOperator<'q>,
    right: BoxOperator<'q>,
    signatures: Signatures,
    /// Whether a signature is on both sides.
    shared: Vec<bool>,
    series: Vec<SeriesInfo>,
    /// For each series that is given, which one of the left it is; for `or` the right ones follow.
    from: Vec<usize>,
    /// For each signature on both sides, the steps at which the side that decides has a sample.
    present: Vec<Option<Steps>>,
    /// For `or`: the series of the left whose steps are in `present`.
    seen: Vec<bool>,
    steps: usize,
}

impl Operator for SetOperator<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        match self.op {
            BinaryOp::Or => self.or(index, out),
            _ => self.filter(index, out),
        }
    }
}

impl SetOperator<'_> {
    fn note(present: &mut Option<Steps>, column: &Column) {
        match present {
            Some(steps) => steps.union(&column.occupied()),
            None => *present = Some(column.occupied()),
        }
    }

    /// `and` and `unless`.
    fn filter(&mut self, index: usize, out: &mut Column) -> Result<()> {
        if self.seen.is_empty() {
            self.seen = vec![true];
            for (index, signature) in self.signatures.right.iter().enumerate() {
                if self.shared[*signature as usize] {
                    self.right.column(index, out)?;
                    Self::note(&mut self.present[*signature as usize], out);
                }
            }
        }
        let index = self.from[index];
        self.left.column(index, out)?;
        let signature = self.signatures.left[index] as usize;
        match (&self.present[signature], self.op) {
            (Some(steps), BinaryOp::And) => out.retain(steps),
            (Some(steps), _) => {
                let mut rest = Steps::none(self.steps);
                rest.fill();
                rest.subtract(steps);
                out.retain(&rest);
            }
            (None, BinaryOp::And) => out.reset(self.steps),
            (None, _) => {}
        }
        Ok(())
    }

    fn or(&mut self, index: usize, out: &mut Column) -> Result<()> {
        let lefts = self.signatures.left.len();
        self.seen.resize(lefts, false);
        if let Some(signature) = self.signatures.left.get(index) {
            self.left.column(index, out)?;
            if self.shared[*signature as usize] && !self.seen[index] {
                self.seen[index] = true;
                Self::note(&mut self.present[*signature as usize], out);
            }
            return Ok(());
        }
        let signature = self.signatures.right[index - lefts];
        if self.shared[signature as usize] {
            // Lefts of this signature that nobody has asked for yet decide too.
            for left in 0..lefts {
                if self.signatures.left[left] == signature && !self.seen[left] {
                    self.left.column(left, out)?;
                    self.seen[left] = true;
                    Self::note(&mut self.present[signature as usize], out);
                }
            }
        }
        self.right.column(index - lefts, out)?;
        if let Some(steps) = &self.present[signature as usize] {
            let mut rest = Steps::none(self.steps);
            rest.fill();
            rest.subtract(steps);
            out.retain(&rest);
        }
        Ok(())
    }
}
