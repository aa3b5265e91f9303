//! Averages of an arm laid out on their axes.

use std::collections::BTreeSet;

use super::SweepOutcome;
use crate::effect::average::{Average, Place};
use crate::effect::cells::ArmHead;
use crate::lower::layout::Axis;
use crate::result::common::CLASS;
use crate::spec::patch::SweepAxis;
use crate::spec::select::TokenClass;

/// An arm's averages of one metric and group, in row-major order of their axes.
pub(super) struct Dense<'o> {
    /// Outermost first, as the arm's; token classes stand where positions would.
    pub(super) axes: Vec<Axis>,
    /// `None` where no case has such a cell.
    pub(super) rows: Vec<Option<&'o Average>>,
}

impl<'o> Dense<'o> {
    /// `group`: `None` for all cases together; `class`: of one token class alone. No axes and no rows where there are no
    /// averages.
    pub(super) fn new(
        outcome: &'o SweepOutcome,
        arm: &ArmHead,
        group: Option<&str>,
        class: Option<TokenClass>,
        metric: &str,
    ) -> Self {
        let all = outcome.averages.rows.iter();
        let rows: Vec<&Average> = all
            .filter(|row| row.at.arm == arm.name && row.at.group.as_deref() == group && row.metric == metric)
            .filter(|row| class.is_none_or(|class| row.at.token_class.as_deref() == Some(class.name())))
            .collect();
        let axes: Vec<Axis> = names(arm)
            .filter_map(|name| {
                let values: BTreeSet<u32> = rows.iter().filter_map(|row| value(&row.at, name)).collect();
                (!values.is_empty()).then(|| Axis { name, values: values.into_iter().collect() })
            })
            .collect();
        let cells = if rows.is_empty() { 0 } else { axes.iter().map(|axis| axis.values.len()).product() };
        let mut placed = vec![None; cells];
        for row in rows {
            let at = axes.iter().try_fold(0, |at, axis| {
                let value = value(&row.at, axis.name)?;
                Some(at * axis.values.len() + axis.values.binary_search(&value).ok()?)
            });
            // Rows have a value on every axis that any row of their arm has.
            if let Some(at) = at {
                placed[at] = Some(row);
            }
        }
        Self { axes, rows: placed }
    }

    /// Lengths of the axes.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.values.len()).collect()
    }

    /// Numbers of the averages; null where there are none.
    pub(super) fn numbers(&self, of: impl Fn(&Average) -> Option<f64>) -> Vec<Option<f64>> {
        self.rows.iter().map(|row| row.and_then(&of)).collect()
    }

    /// Whether all cells of each average are counted by `of`.
    pub(super) fn all(&self, of: impl Fn(&Average) -> usize) -> Vec<bool> {
        let all = |row: &Average| row.cells > 0 && of(row) == row.cells;
        self.rows.iter().map(|row| row.is_some_and(all)).collect()
    }
}

/// Names of the axes that averages of an arm can have. An arm of a fixed position may still have its class.
fn names(arm: &ArmHead) -> impl Iterator<Item = &'static str> + '_ {
    let of = |name: &String| match SweepAxis::ALL
        .map(|(_, axis)| axis)
        .iter()
        .find(|axis| axis.singular() == name)
    {
        Some(SweepAxis::Positions) => &[CLASS, "position"][..],
        Some(SweepAxis::Layers) => &["layer"],
        Some(SweepAxis::Heads) => &["head"],
        Some(SweepAxis::Dims) => &["dim"],
        Some(SweepAxis::SourceLayers) => &["source_layer"],
        None => &[],
    };
    let fixed = if arm.axes.iter().any(|axis| axis == "position") { &[][..] } else { &[CLASS] };
    arm.axes.iter().flat_map(of).chain(fixed).copied()
}

fn value(at: &Place, axis: &str) -> Option<u32> {
    match axis {
        "layer" => at.layer,
        "position" => at.position,
        "head" => at.head,
        "dim" => at.dim,
        "source_layer" => at.source_layer,
        _ => {
            let name = at.token_class.as_deref()?;
            TokenClass::ALL.iter().position(|(class, _)| *class == name).map(|i| i as u32)
        }
    }
}
