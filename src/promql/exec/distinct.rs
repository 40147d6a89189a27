//! Series that have become the same, since a label that told them apart is gone.

use super::{BoxOperator, Column, Operator, SeriesInfo, invalid};
use crate::codec::FixedMap;
use crate::error::{Error, Result};

/// When two series with the same labels are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collision {
    /// When both have a sample at the same step; else they are one series.
    AtStep,
    /// When both have a sample at all: functions of windows.
    Ever,
}

/// Each label set once, with the series that have it; `None` if no two have the same.
fn merged(series: &[SeriesInfo]) -> Option<(Vec<SeriesInfo>, Vec<Vec<usize>>)> {
    let mut first_of: FixedMap<&[u8], usize> = FixedMap::default();
    first_of.reserve(series.len());
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (index, info) in series.iter().enumerate() {
        let next = members.len();
        let at = *first_of.entry(info.labels.as_packed()).or_insert(next);
        if at == next {
            members.push(vec![index]);
        } else {
            members[at].push(index);
        }
    }
    if members.len() == series.len() {
        return None;
    }
    let merged = members.iter().map(|list| SeriesInfo {
        labels: series[list[0]].labels.clone(),
        drop_name: list.iter().any(|index| series[*index].drop_name),
    });
    Some((merged.collect(), members))
}

/// `input` with each label set once.
pub(crate) fn distinct(input: BoxOperator<'_>, collision: Collision) -> BoxOperator<'_> {
    let Some((series, members)) = merged(input.series()) else { return input };
    Box::new(Distinct { series, members, collision, other: Column::default(), input })
}

pub(crate) fn same_labelset() -> Error {
    invalid("vector cannot contain metrics with the same labelset")
}

struct Distinct<'q> {
    series: Vec<SeriesInfo>,
    members: Vec<Vec<usize>>,
    collision: Collision,
    other: Column,
    input: BoxOperator<'q>,
}

impl Operator for Distinct<'_> {
    fn series(&self) -> &[SeriesInfo] {
        &self.series
    }

    fn column(&mut self, index: usize, out: &mut Column) -> Result<()> {
        let members = &self.members[index];
        self.input.column(members[0], out)?;
        for member in &members[1..] {
            self.input.column(*member, &mut self.other)?;
            if self.other.is_empty() {
                continue;
            }
            if out.is_empty() {
                std::mem::swap(out, &mut self.other);
                continue;
            }
            let taken = out.occupied();
            if self.collision == Collision::Ever || taken.first_common(&self.other.occupied()).is_some() {
                return Err(same_labelset());
            }
            for step in self.other.present.iter() {
                out.set(step, self.other.values[step]);
            }
            out.histograms.append(&mut self.other.histograms);
            out.histograms.sort_by_key(|(step, _)| *step);
        }
        Ok(())
    }
}
