//! What the pictures of a sweep share: its arms with their averages, and the words for them.

use super::SweepOutcome;
use super::dense::{CLASS, Dense};
use crate::effect::average::Key;
use crate::effect::cells::ArmHead;
use crate::effect::stats::Estimate;
use crate::lower::layout::Axis;
use crate::result::phrases;
use crate::result::pictures::DOT;
use crate::spec::metric::METRICS;
use crate::spec::select::TokenClass;

/// A kind of picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plot {
    /// Mean effects with their intervals by layer (or what else is told apart), one series an arm.
    Bars,
    /// Mean effects by two of layer, token class, position, head and column, one panel an arm.
    Heatmap,
}

impl Plot {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 2] = [("bars", Self::Bars), ("heatmap", Self::Heatmap)];

    /// Its name in `?kind=`.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

/// An arm with averages.
pub(super) struct Arm<'o> {
    pub(super) head: &'o ArmHead,
    pub(super) dense: Dense<'o>,
    /// Indices of the axes of its averages that have several values; if none has, of the first.
    pub(super) axes: Vec<usize>,
    /// The others' values: `layer 12`.
    pub(super) fixed: Vec<String>,
}

impl Arm<'_> {
    /// An axis that has several values.
    pub(super) fn axis(&self, i: usize) -> &Axis {
        &self.dense.axes[self.axes[i]]
    }

    /// Its name, and what is fixed.
    pub(super) fn name(&self) -> String {
        let fixed = self.fixed.join(", ");
        let name = &self.head.name;
        if fixed.is_empty() { name.clone() } else { format!("{name} ({fixed})") }
    }

    /// Its axes in words.
    pub(super) fn by(&self) -> String {
        let names = (0..self.axes.len()).map(|i| self.axis(i).name.replace('_', " "));
        names.collect::<Vec<_>>().join(" × ")
    }
}

/// The arms that have averages of a metric.
pub(super) fn drawn<'o>(outcome: &'o SweepOutcome, metric: &str) -> Vec<Arm<'o>> {
    let arm = |head: &'o ArmHead| {
        let dense = Dense::new(outcome, head, None, metric);
        let (several, one): (Vec<usize>, Vec<usize>) =
            (0..dense.axes.len()).partition(|i| dense.axes[*i].values.len() > 1);
        let (axes, one) = if several.is_empty() && !one.is_empty() {
            (one[..1].to_vec(), one[1..].to_vec())
        } else {
            (several, one)
        };
        let fixed = one.iter().map(|i| fixed(&dense.axes[*i])).collect();
        (!dense.rows.is_empty()).then_some(Arm { head, dense, axes, fixed })
    };
    outcome.arms.iter().filter_map(arm).collect()
}

fn fixed(axis: &Axis) -> String {
    let value = axis.values[0];
    if axis.name == CLASS { class(value) } else { format!("{} {value}", axis.name) }
}

/// A token class in words.
pub(super) fn class(value: u32) -> String {
    TokenClass::ALL[value as usize].0.replace('_', " ")
}

/// What a metric measures, with its unit.
pub(super) fn what(metric: &str) -> String {
    let (word, of) = metric.split_once(':').unwrap_or((metric, ""));
    let facts = METRICS.iter().find(|facts| facts.name == word);
    facts.map_or_else(|| metric.to_owned(), |facts| facts.label(of))
}

/// The line under the title. `intervals`: whether the picture shows any; `left_out`: arms that it can't show.
pub(super) fn subtitle(
    outcome: &SweepOutcome,
    metric: &str,
    arms: &[&Arm<'_>],
    intervals: bool,
    left_out: &[&Arm<'_>],
) -> String {
    let held = |text: String| text.replace(' ', "\u{a0}");
    let mut parts = vec![outcome.model.clone()];
    let bases: Vec<&str> = arms.iter().map(|arm| arm.head.base.as_str()).collect();
    let same = bases.iter().all(|base| *base == bases[0]);
    parts.push(held(format!("effect = patched − {}", if same { bases[0] } else { "base" })));
    for (axis, keys) in [("position", &[Key::Position, Key::TokenClass][..]), ("head", &[Key::Head])] {
        let averaged = |arm: &&Arm<'_>| arm.head.axes.iter().any(|name| name == axis);
        if arms.iter().any(averaged) && !keys.iter().any(|key| outcome.averages.by.contains(key)) {
            parts.push(held(format!("mean over {axis}s")));
        }
    }
    parts.push(held(format!("{} of {} cases", outcome.averages.kept, outcome.cases.len())));
    let rows = || arms.iter().flat_map(|arm| arm.dense.rows.iter().flatten());
    if intervals && rows().any(|row| row.effect.ci_t.is_some()) {
        let level = outcome.request["aggregate"]["ci"]["level"].as_f64();
        let level =
            level.map_or_else(String::new, |level| format!("{}\u{a0}% ", (level * 1e4).round() / 1e2));
        parts.push(held(format!("{level}t intervals over cases")));
    }
    let totals = outcome.averages.totals.iter().filter(|total| {
        total.group.is_none() && total.metric == metric && arms.iter().any(|arm| arm.head.name == total.arm)
    });
    let mut totals: Vec<Estimate> = totals
        .filter(|total| total.total_effect.mean.is_some())
        .map(|total| Estimate { mean: total.total_effect.mean, se: total.total_effect.se })
        .collect();
    totals.dedup();
    if let [total] = totals[..] {
        parts.push(phrases::estimate("total effect", &total));
    }
    if rows().any(|row| (1..row.cells).contains(&row.trivial)) {
        parts.push(held("some averages include trivial cells".to_owned()));
    }
    if !outcome.complete {
        parts.push(held(format!("incomplete: {} of {} cells", outcome.cells_done, outcome.cells_total)));
    }
    if !left_out.is_empty() {
        let names = left_out.iter().map(|arm| format!("{} ({})", arm.head.name, arm.by()));
        parts.push(format!("not shown: {}", names.collect::<Vec<_>>().join(", ")));
    }
    parts.join(DOT)
}
