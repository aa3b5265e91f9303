//! What a response shows: a trace as heatmaps, a sweep as bars or a heatmap.

use super::common::Masks;
use super::patch::PatchResponse;
use super::phrases;
use super::trace::{ArmResult, TraceResponse};
use crate::draw::PictureError;
use crate::draw::bars::{Bar, Bars, Baseline, Series};
use crate::draw::heatmap::{Arrangement, Cell, Column, Figure, Heatmap};
use crate::draw::plane;
use crate::lower::layout::Axis;
use crate::spec::intervention::SourceSpec;
use crate::tokens::Token;

/// Panels stand below each other where they would be wider than this many columns side by side.
pub(super) const WIDE: usize = 72;
/// What separates the parts of a subtitle; lines break after it.
pub(super) const DOT: &str = "\u{a0}·  ";

/// Why a response has no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureRequestError {
    /// A metric that the response doesn't have.
    #[error("the result has no metric {asked:?}; it has {}", known.join(", "))]
    UnknownMetric {
        /// The metric asked for.
        asked: String,
        /// Those of the response.
        known: Vec<String>,
    },
    /// A response without metrics.
    #[error("the result has no metrics, so there is nothing to draw")]
    NoMetrics,
    /// A response without cells.
    #[error("{of} has no cells, so there is nothing to draw")]
    NoCells {
        /// What has none.
        of: String,
    },
    /// More axes than a page has.
    #[error("{of} has the axes {}; a picture shows at most two", axes.join(", "))]
    TooManyAxes {
        /// What has them.
        of: String,
        /// Their names.
        axes: Vec<&'static str>,
    },
}

/// A picture of a patch.
#[derive(Debug, Clone, PartialEq)]
pub enum Picture {
    /// Of two axes.
    Figure(Figure),
    /// Of one axis or none.
    Bars(Bars),
}

impl Picture {
    /// Draws it.
    ///
    /// # Errors
    /// [`PictureError::TooMany`]: more cells than a picture shows.
    pub fn to_svg(&self) -> Result<String, PictureError> {
        match self {
            Self::Figure(figure) => figure.to_svg(),
            Self::Bars(bars) => bars.to_svg(),
        }
    }
}

/// The metric asked for, or else the first.
///
/// # Errors
/// [`PictureRequestError::UnknownMetric`], [`PictureRequestError::NoMetrics`].
pub(super) fn chosen<'r>(asked: Option<&str>, known: &[&'r str]) -> Result<&'r str, PictureRequestError> {
    let Some(asked) = asked else { return known.first().copied().ok_or(PictureRequestError::NoMetrics) };
    known.iter().find(|name| **name == asked).copied().ok_or_else(|| PictureRequestError::UnknownMetric {
        asked: asked.to_owned(),
        known: known.iter().map(|name| (*name).to_owned()).collect(),
    })
}

/// The heatmaps of a trace: one panel per arm on one scale, layers by tokens, each cell the mean indirect effect on
/// `metric` (the first one if left out): patched minus corrupted, or for noising patched minus clean.
///
/// An arm at `embed`, which has no layers, is a single row.
///
/// # Errors
/// [`PictureRequestError`]: an unknown metric, or nothing that can be drawn.
pub fn of_trace(response: &TraceResponse, metric: Option<&str>) -> Result<Figure, PictureRequestError> {
    let key = chosen(metric, &response.total_effect.names())?;
    let request = &response.request.experiment;
    let what = phrases::metric(key, request, &response.targets);
    if response.arms.is_empty() {
        return Err(PictureRequestError::NoCells { of: "the trace".to_owned() });
    }
    let panels = response
        .arms
        .iter()
        .map(|(name, arm)| {
            let mut panel = arm_panel(response, name, arm, key)?;
            panel.value_label = format!("indirect effect on {}", phrases::unbroken(&what));
            Ok(panel)
        })
        .collect::<Result<Vec<Heatmap>, PictureRequestError>>()?;
    let widest = panels.iter().map(|panel| panel.columns.len()).max().unwrap_or(0);
    let arrangement = if panels.len() * widest > WIDE { Arrangement::Column } else { Arrangement::Row };
    let mut subtitle = vec![
        response.model.clone(),
        phrases::direction(response.direction).to_owned(),
        phrases::corruption(response),
    ];
    subtitle.extend(response.baselines.clean.get(key).map(|clean| phrases::number("clean", *clean)));
    let corrupted = response.baselines.corrupted.get(key);
    subtitle.extend(corrupted.map(|c| phrases::estimate("corrupted", &c.estimate)));
    subtitle.extend(response.total_effect.get(key).map(|te| phrases::estimate("total effect", te)));
    Ok(Figure {
        title: format!("Causal trace: {what}"),
        subtitle: subtitle.join(DOT),
        panels,
        shared_scale: true,
        arrangement,
    })
}

fn arm_panel(
    response: &TraceResponse,
    name: &str,
    arm: &ArmResult,
    key: &str,
) -> Result<Heatmap, PictureRequestError> {
    let of = || format!("arm {name}");
    let effects = arm.effects.get(key).map(|map| &map.mean.data[..]).unwrap_or_default();
    check_axes(&arm.axes, of)?;
    if effects.is_empty() {
        return Err(PictureRequestError::NoCells { of: of() });
    }
    let in_subject = |position: u32| match response.subject {
        Some([start, end]) => (start..end).contains(&position),
        None => response.tokens.get(position as usize).is_some_and(|token| token.corrupted),
    };
    let tick = |axis: &Axis, value: u32| match response.tokens.get(value as usize) {
        Some(token) if axis.name == "position" => {
            Column { text: token.token.text.clone(), marked: in_subject(value) }
        }
        _ => Column { text: value.to_string(), marked: false },
    };
    let mut panel = laid_out(&arm.axes, effects, &arm.masks, arm.site.name(), tick, of)?;
    let window = if arm.window > 1 { format!(", window {}", arm.window) } else { String::new() };
    panel.title = format!("{name}: {}{window}", arm.site);
    if arm.window > 1 && panel.y_label == "layer" {
        "centre layer".clone_into(&mut panel.y_label);
    }
    let corrupted_is_subject =
        (0..).zip(&response.tokens).all(|(position, token)| token.corrupted == in_subject(position));
    let marks = match (response.subject.is_some(), corrupted_is_subject) {
        (true, true) => "subject (corrupted)",
        (true, false) => "subject",
        (false, _) => "corrupted",
    };
    marks.clone_into(&mut panel.mark_label);
    Ok(panel)
}

fn check_axes(axes: &[Axis], of: impl Fn() -> String) -> Result<(), PictureRequestError> {
    if axes.iter().any(|axis| axis.values.is_empty()) {
        return Err(PictureRequestError::NoCells { of: of() });
    }
    Ok(())
}

/// Values in row-major order of their axes as a heatmap without words but those of its axes: layers and heads go up,
/// tokens and what else there is go right. `alone` labels the only row or column where there is no axis.
pub(super) fn laid_out(
    axes: &[Axis],
    values: &[Option<f64>],
    masks: &Masks,
    alone: &str,
    tick: impl Fn(&Axis, u32) -> Column,
    of: impl Fn() -> String,
) -> Result<Heatmap, PictureRequestError> {
    let sides = axes.iter().map(|axis| plane::Axis {
        // Tokens speak for themselves.
        name: if axis.name == "position" { String::new() } else { axis.name.replace('_', " ") },
        ticks: axis.values.iter().map(|value| tick(axis, *value)).collect(),
        height: match axis.name {
            "layer" => 0,
            "head" => 1,
            _ => 2,
        },
    });
    let cell = |at: usize| Cell {
        value: values[at],
        not_finite: values[at].is_none() && !masks.lost[at],
        exact_null: masks.exact_null.data[at] == Some(true),
        trivial: masks.trivial.data[at] == Some(true),
    };
    let names = || axes.iter().map(|axis| axis.name).collect();
    plane::lay_out(sides.collect(), cell, alone)
        .ok_or_else(|| PictureRequestError::TooManyAxes { of: of(), axes: names() })
}

/// Runs other than the base that interventions read, in order.
pub(super) fn sources(response: &PatchResponse) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for intervention in &response.request.interventions {
        let Some(SourceSpec::Run { run, .. }) = intervention.op.source() else { continue };
        if *run != response.request.base && !found.contains(&run.as_str()) {
            found.push(run);
        }
    }
    found
}

/// The picture of a patch. One axis, or a single cell: bars of the values of `metric` (the first one if left out) with
/// the values of base and source runs as dashed lines. Two axes: a heatmap of effects, patched minus base.
///
/// # Errors
/// [`PictureRequestError`]: an unknown metric, three axes, or nothing that can be drawn.
pub fn of_patch(response: &PatchResponse, metric: Option<&str>) -> Result<Picture, PictureRequestError> {
    let key = chosen(metric, &response.values.names())?;
    let of = || "the patch".to_owned();
    check_axes(&response.axes, of)?;
    let values = response.values.get(key).map(|values| &values.data[..]).unwrap_or_default();
    let effects = response.effects.get(key).map(|effects| &effects.data[..]).unwrap_or_default();
    if values.is_empty() || effects.len() != values.len() {
        return Err(PictureRequestError::NoCells { of: of() });
    }
    let request = &response.request;
    let what = phrases::metric(key, &request.experiment, &response.targets);
    let title = format!("Patching {}: {what}", request.base);
    let written = phrases::interventions(&request.interventions, &request.sweep);
    let subtitle = vec![response.model.clone(), written];
    let runs: Vec<&str> = [request.base.as_str()].into_iter().chain(sources(response)).collect();
    let baseline = |run: &str| response.baselines.get(run).and_then(|metrics| *metrics.get(key)?);
    let tokens = response.runs.get(&request.base).map(|run| &run.tokens[..]).unwrap_or_default();
    if let [_, _] = &response.axes[..] {
        let column = |axis: &Axis, value| Column { text: tick(axis, value, tokens), marked: false };
        let mut panel = laid_out(&response.axes, effects, &response.masks, "", column, of)?;
        panel.value_label = format!("effect on {}", phrases::unbroken(&what));
        let numbers = runs.iter().map(|run| phrases::number(run, baseline(run)));
        return Ok(Picture::Figure(Figure {
            title,
            subtitle: subtitle.into_iter().chain(numbers).collect::<Vec<_>>().join(DOT),
            panels: vec![panel],
            ..Figure::default()
        }));
    }
    if response.axes.len() > 2 {
        let axes = response.axes.iter().map(|axis| axis.name).collect();
        return Err(PictureRequestError::TooManyAxes { of: of(), axes });
    }
    let axis = response.axes.first();
    let labels = axis.map_or_else(
        || vec!["patched".to_owned()],
        |axis| axis.values.iter().map(|value| tick(axis, *value, tokens)).collect(),
    );
    let masks = &response.masks;
    let bars = values.iter().zip(&masks.trivial.data).zip(&masks.lost);
    let bars = bars.map(|((value, trivial), lost)| Bar {
        value: *value,
        not_finite: value.is_none() && !lost,
        trivial: *trivial == Some(true),
        ..Bar::default()
    });
    let bars = bars.collect();
    let lines =
        runs.iter().filter_map(|run| Some(Baseline { label: (*run).to_owned(), value: baseline(run)? }));
    Ok(Picture::Bars(Bars {
        title,
        subtitle: subtitle.join(DOT),
        labels,
        x_label: axis.map_or_else(String::new, |axis| axis_name(axis).to_owned()),
        value_label: what,
        series: vec![Series { name: String::new(), bars }],
        baselines: lines.collect(),
    }))
}

/// What an axis shows: positions are shown by their tokens.
fn axis_name(axis: &Axis) -> &'static str {
    if axis.name == "position" { "token" } else { axis.name }
}

/// A value of an axis: positions by their token.
fn tick(axis: &Axis, value: u32, tokens: &[Token]) -> String {
    match tokens.get(value as usize) {
        Some(token) if axis.name == "position" => token.text.clone(),
        _ => value.to_string(),
    }
}
