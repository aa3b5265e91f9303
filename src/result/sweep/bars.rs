//! Averages of one axis as bars, one series an arm.

use std::collections::BTreeSet;

use super::SweepOutcome;
use super::arm::{Arm, class, subtitle, what};
use crate::draw::bars::{Bar, BarPanels, Bars, Series};
use crate::effect::average::Average;
use crate::result::common::CLASS;
use crate::result::phrases;
use crate::result::plates::{MAX_PANELS, Plot};
use crate::result::render::RenderError;
use crate::spec::select::TokenClass;

/// One panel: bars along an axis, of one token class if classes are told apart beside it.
#[derive(Clone, PartialEq)]
struct Panel {
    /// Empty for averages of no axis.
    axis: &'static str,
    class: Option<u32>,
    /// Of one group of cases, if groups have panels of their own.
    group: Option<String>,
}

/// The bars of every arm whose averages have one axis, or one beside token classes: of these the class with the largest
/// |mean| and the last token.
pub(super) fn of(outcome: &SweepOutcome, metric: &str, arms: &[Arm<'_>]) -> Result<BarPanels, RenderError> {
    let (shown, left_out): (Vec<&Arm<'_>>, Vec<&Arm<'_>>) = arms.iter().partition(|arm| along(arm).is_some());
    if shown.is_empty() {
        let reason = format!("bars show averages along one axis, but these are by {}", left_out[0].by());
        return Err(RenderError::Plot { asked: Plot::Bars.name(), reason, fix: "write `heatmap`" });
    }
    let mut panels: Vec<Panel> = Vec::new();
    let mut others = BTreeSet::new();
    for arm in &shown {
        let Some((axis, classes)) = along(arm) else { continue };
        let axis = axis_name(arm, axis);
        let classes: Vec<Option<u32>> = if classes.is_some() {
            selected(&shown, axis, &mut others).into_iter().map(Some).collect()
        } else {
            vec![None]
        };
        for class in classes {
            let panel = Panel { axis, class, group: arm.group.map(str::to_owned) };
            if !panels.contains(&panel) {
                panels.push(panel);
            }
        }
    }
    let left = panels.len().saturating_sub(MAX_PANELS);
    panels.truncate(MAX_PANELS);
    let what = what(metric);
    let title = format!("Average indirect effect: {what}");
    let one = panels.len() == 1;
    let drawn = panels.iter().map(|panel| {
        let mut bars = chart(&shown, panel);
        bars.value_label = format!("mean effect on {}", phrases::unbroken(&what));
        if !one {
            let facets = panels.iter().any(|panel| panel.group.is_some());
            let group = panel.group.clone().or_else(|| facets.then(|| "all cases".to_owned()));
            let of = panel.class.map_or_else(|| format!("by {}", panel.axis.replace('_', " ")), class);
            bars.title = group.map_or_else(|| of.clone(), |group| format!("{of}, {group}"));
        }
        bars
    });
    let mut line = subtitle(outcome, metric, &shown, true, &left_out);
    if let [Panel { class: Some(only), .. }] = panels[..] {
        line = format!("{line}\u{a0}·  token class: {}", class(only).replace(' ', "\u{a0}"));
    }
    if let [Panel { group: Some(only), .. }] = &panels[..] {
        line = format!("{line}\u{a0}·  group: {only}");
    }
    if !others.is_empty() {
        let names: Vec<String> = others.into_iter().map(class).collect();
        line = format!("{line}\u{a0}·  `token_class` shows others: {}", names.join(", "));
    }
    if left > 0 {
        line = format!("{line}\u{a0}·  {left} panels more: `group` and `arm` choose");
    }
    Ok(BarPanels { title, subtitle: line, panels: drawn.collect() })
}

/// Indices of the axis along which an arm's bars stand and, beside it, of its token classes, where it has them; `None` if it
/// has more axes.
fn along(arm: &Arm<'_>) -> Option<(Option<usize>, Option<usize>)> {
    let is_class = |i: &usize| arm.dense.axes[*i].name == CLASS;
    match arm.axes[..] {
        [] => Some((None, None)),
        [one] => Some((Some(one), None)),
        [a, b] if is_class(&b) => Some((Some(a), Some(b))),
        [a, b] if is_class(&a) => Some((Some(b), Some(a))),
        _ => None,
    }
}

fn axis_name(arm: &Arm<'_>, axis: Option<usize>) -> &'static str {
    axis.map_or("", |axis| arm.dense.axes[axis].name)
}

/// The token classes shown: the one with the largest |mean|, then the last token. `others` gets the rest.
fn selected(shown: &[&Arm<'_>], axis: &str, others: &mut BTreeSet<u32>) -> Vec<u32> {
    let mut best: Option<(f64, u32)> = None;
    let mut known = BTreeSet::new();
    for arm in shown {
        let Some((_, Some(classes))) = along(arm).filter(|(own, _)| axis_name(arm, *own) == axis) else {
            continue;
        };
        let stride: usize = arm.dense.axes[classes + 1..].iter().map(|axis| axis.values.len()).product();
        let values = &arm.dense.axes[classes].values;
        for (i, row) in arm.dense.rows.iter().enumerate() {
            let class = values[i / stride % values.len()];
            let Some(row) = row else { continue };
            known.insert(class);
            // What restores the answer itself has the whole effect by construction.
            let size = row.effect.mean.filter(|_| row.trivial < row.cells).map_or(-1.0, f64::abs);
            if best.is_none_or(|(largest, _)| size > largest) {
                best = Some((size, class));
            }
        }
    }
    let last = TokenClass::Last as u32;
    let mut classes: Vec<u32> = best.map(|(_, class)| class).into_iter().collect();
    if known.contains(&last) && !classes.contains(&last) {
        classes.push(last);
    }
    others.extend(known.into_iter().filter(|class| !classes.contains(class)));
    classes
}

fn chart(shown: &[&Arm<'_>], panel: &Panel) -> Bars {
    // The row of an arm at a value of the panel's axis.
    let row = |arm: &Arm<'_>, value: u32| -> Option<Average> {
        let (axis, classes) = along(arm)?;
        let mut at = 0;
        for (i, own) in arm.dense.axes.iter().enumerate() {
            let wanted = if Some(i) == axis {
                value
            } else if Some(i) == classes {
                panel.class?
            } else {
                own.values[0]
            };
            at = at * own.values.len() + own.values.binary_search(&wanted).ok()?;
        }
        arm.dense.rows[at].cloned()
    };
    let fits = |arm: &Arm<'_>| {
        arm.group == panel.group.as_deref()
            && along(arm).is_some_and(|(axis, classes)| {
                axis_name(arm, axis) == panel.axis && classes.is_some() == panel.class.is_some()
            })
    };
    let own = |arm: &&Arm<'_>| match along(arm).filter(|_| fits(arm)) {
        Some((Some(axis), _)) => arm.dense.axes[axis].values.clone(),
        // No axis, one bar.
        Some((None, _)) => vec![0],
        None => vec![],
    };
    let values: BTreeSet<u32> = shown.iter().flat_map(own).collect();
    let bar = |row: Option<Average>| {
        let Some(row) = row else { return Bar::default() };
        let trivial = row.cells > 0 && row.trivial == row.cells;
        let not_finite = row.effect.mean.is_none();
        Bar { value: row.effect.mean, not_finite, error: None, interval: row.effect.ci_t, trivial }
    };
    // Every arm is a series of every panel, so that it has one colour; the panel has those of its group.
    let mut heads: Vec<&Arm<'_>> = Vec::new();
    for arm in shown {
        if !heads.iter().any(|head| head.head.name == arm.head.name) {
            heads.push(arm);
        }
    }
    let series = heads.iter().map(|head| {
        let arm = shown.iter().find(|arm| arm.head.name == head.head.name && fits(arm));
        let row = |value: &u32| arm.and_then(|arm| row(arm, *value));
        Series { name: head.name(), bars: values.iter().map(|value| bar(row(value))).collect() }
    });
    let label = |value: &u32| match (panel.axis, &heads[..]) {
        ("", [only]) => only.name(),
        ("", _) => "all".to_owned(),
        (CLASS, _) => class(*value),
        _ => value.to_string(),
    };
    Bars {
        labels: values.iter().map(label).collect(),
        x_label: panel.axis.replace('_', " "),
        series: series.collect(),
        ..Bars::default()
    }
}
