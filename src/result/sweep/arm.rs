//! What the pictures of a sweep share: its arms with their averages, and the words for them.

use super::SweepOutcome;
use super::dense::Dense;
use crate::effect::average::Key;
use crate::effect::cells::ArmHead;
use crate::effect::stats::Estimate;
use crate::lower::layout::Axis;
use crate::lower::lint::Severity;
use crate::result::common::CLASS;
use crate::result::phrases;
use crate::result::pictures::{DOT, PictureRequestError};
use crate::result::plates::{Show, unknown};
use crate::spec::metric::METRICS;
use crate::spec::select::TokenClass;

/// An arm with averages.
pub(super) struct Arm<'o> {
    pub(super) head: &'o ArmHead,
    pub(super) dense: Dense<'o>,
    /// Indices of the axes of its averages that have several values; if none has, of the first.
    pub(super) axes: Vec<usize>,
    /// The others' values: `layer 12`.
    pub(super) fixed: Vec<String>,
    /// The group whose averages these are; all cases if none.
    pub(super) group: Option<&'o str>,
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

    /// The name of its panel where groups have some of their own.
    pub(super) fn panel(&self, facets: bool) -> String {
        match self.group {
            Some(group) => format!("{}, {group}", self.name()),
            None if facets => format!("{}, all cases", self.name()),
            None => self.name(),
        }
    }

    /// Its axes in words.
    pub(super) fn by(&self) -> String {
        let names = (0..self.axes.len()).map(|i| self.axis(i).name.replace('_', " "));
        names.collect::<Vec<_>>().join(" × ")
    }
}

/// The arms that have averages of a metric: those asked for, of the group and the token class asked for. Where groups are
/// told apart and none is asked for, those of all cases and then of each group.
///
/// # Errors
/// An arm, group or class that there is none of.
pub(super) fn drawn<'o>(
    outcome: &'o SweepOutcome,
    metric: &str,
    show: &Show,
) -> Result<Vec<Arm<'o>>, PictureRequestError> {
    let known = groups(outcome);
    let of_groups: Vec<Option<&str>> = match &show.group {
        Some(asked) => {
            let found = known.iter().find(|name| *name == asked).copied();
            vec![Some(found.ok_or_else(|| unknown("group", asked, known.iter().copied()))?)]
        }
        None => std::iter::once(None).chain(known.iter().copied().map(Some)).collect(),
    };
    let arms = outcome.arms.iter();
    let arms: Vec<&ArmHead> =
        arms.filter(|arm| show.arm.as_ref().is_none_or(|asked| *asked == arm.name)).collect();
    if let (Some(asked), []) = (&show.arm, &arms[..]) {
        return Err(unknown("arm", asked, outcome.arms.iter().map(|arm| arm.name.as_str())));
    }
    let one = |head: &'o ArmHead, group: Option<&'o str>| {
        let dense = Dense::new(outcome, head, group, show.token_class, metric);
        let (several, one): (Vec<usize>, Vec<usize>) =
            (0..dense.axes.len()).partition(|i| dense.axes[*i].values.len() > 1);
        let (axes, one) = if several.is_empty() && !one.is_empty() {
            (one[..1].to_vec(), one[1..].to_vec())
        } else {
            (several, one)
        };
        let fixed = one.iter().map(|i| fixed(&dense.axes[*i])).collect();
        (!dense.rows.is_empty()).then_some(Arm { head, dense, axes, fixed, group })
    };
    let found: Vec<Arm<'o>> =
        of_groups.iter().flat_map(|group| arms.iter().filter_map(|head| one(head, *group))).collect();
    if let (Some(class), []) = (show.token_class, &found[..]) {
        let all = outcome.averages.rows.iter().filter_map(|row| row.at.token_class.as_deref());
        return Err(unknown("token_class", class.name(), all));
    }
    Ok(found)
}

/// Groups that averages are told apart by, in their order.
fn groups(outcome: &SweepOutcome) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for name in outcome.averages.rows.iter().filter_map(|row| row.at.group.as_deref()) {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
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
        let shown = |arm: &&Arm<'_>| arm.head.name == total.arm && arm.group == total.group.as_deref();
        total.metric == metric && arms.iter().any(shown)
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
    parts
        .extend(phrases::lints(outcome.lints.iter().map(|lint| (lint.code, lint.severity > Severity::Info))));
    parts.join(DOT)
}
