//! What a response shows: a trace as heatmaps, a sweep as bars or a heatmap.

use super::common::{Masks, NdArray};
pub use super::format::PictureRequestError;
use super::patch::PatchResponse;
use super::phrases;
use super::plates::{Picture, Plate, Plot, unknown};
use super::trace::{ArmResult, TraceResponse};
use crate::draw::bars::{Bar, Bars, Baseline, Series};
use crate::draw::heatmap::{Arrangement, Cell, Column, Figure, Heatmap};
use crate::draw::plane;
use crate::lower::layout::Axis;
use crate::spec::intervention::SourceSpec;
use crate::spec::site::Site;
use crate::tokens::Token;

/// Panels stand below each other where they would be wider than this many columns side by side.
pub(super) const WIDE: usize = 72;
/// Panels beside each other, at most.
const MAX_ACROSS: usize = 6;
/// What separates the parts of a subtitle; lines break after it.
pub(super) const DOT: &str = "\u{a0}·  ";

/// The metric asked for, or else the first.
///
/// # Errors
/// [`PictureRequestError::Unknown`], [`PictureRequestError::NoMetrics`].
pub(super) fn chosen<'r>(asked: Option<&str>, known: &[&'r str]) -> Result<&'r str, PictureRequestError> {
    let Some(asked) = asked else { return known.first().copied().ok_or(PictureRequestError::NoMetrics) };
    let found = known.iter().find(|name| **name == asked).copied();
    found.ok_or_else(|| unknown("metric", asked, known.iter().copied()))
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
    let panels = trace_parts(response)
        .into_iter()
        .map(|part| {
            let mut panel = arm_panel(response, &part, key)?;
            panel.value_label = format!("indirect effect on {}", phrases::unbroken(&what));
            Ok(panel)
        })
        .collect::<Result<Vec<Heatmap>, PictureRequestError>>()?;
    let arrangement = arrangement(&panels, None);
    let mut subtitle = vec![
        response.model.clone(),
        phrases::prompt(response.tokens.iter().map(|token| &token.token)),
        phrases::direction(response.direction).to_owned(),
        phrases::corruption(response),
    ];
    subtitle.extend(response.baselines.clean.get(key).map(|clean| phrases::number("clean", *clean)));
    let corrupted = response.baselines.corrupted.get(key);
    subtitle.extend(corrupted.map(|c| phrases::estimate("corrupted", &c.estimate)));
    subtitle.extend(response.total_effect.get(key).map(|te| phrases::estimate("total effect", te)));
    subtitle.extend(phrases::warnings(&response.lints));
    Ok(Figure {
        title: format!("Causal trace: {what}"),
        subtitle: subtitle.join(DOT),
        panels,
        shared_scale: true,
        arrangement,
        ..Figure::default()
    })
}

/// A panel of a trace: an arm, or one of its controls.
struct Part<'r> {
    arm: (&'r str, &'r ArmResult),
    control: Option<&'r str>,
}

impl Part<'_> {
    fn name(&self) -> String {
        match self.control {
            None => self.arm.0.to_owned(),
            Some(control) => format!("{}: {control}", self.arm.0),
        }
    }
}

/// Each arm, followed by its controls.
fn trace_parts(response: &TraceResponse) -> Vec<Part<'_>> {
    let arms = response.arms.iter().flat_map(|arm| {
        let controls = arm.1.controls.iter().map(|(name, _)| Some(name));
        std::iter::once(None).chain(controls).map(move |control| Part { arm, control })
    });
    arms.collect()
}

/// The pictures of a trace, one a metric.
pub(super) fn trace_plates(response: &TraceResponse) -> Result<Vec<Plate>, PictureRequestError> {
    let names = response.total_effect.names();
    let plates = names.iter().map(|metric| {
        Ok(Plate {
            kind: Plot::Heatmap,
            metric: Some((*metric).to_owned()),
            run: None,
            group: None,
            parts: trace_parts(response).iter().map(Part::name).collect(),
            picture: Picture::Figure(of_trace(response, Some(metric))?),
        })
    });
    plates.collect()
}

/// The pictures of a patch, one a metric.
pub(super) fn patch_plates(response: &PatchResponse) -> Result<Vec<Plate>, PictureRequestError> {
    let names = response.values.names();
    let plates = names.iter().map(|metric| {
        let picture = of_patch(response, Some(metric))?;
        let kind = if matches!(picture, Picture::Bars(_)) { Plot::Bars } else { Plot::Heatmap };
        Ok(Plate {
            kind,
            metric: Some((*metric).to_owned()),
            run: None,
            group: None,
            parts: Vec::new(),
            picture,
        })
    });
    plates.collect()
}

fn arm_panel(response: &TraceResponse, part: &Part<'_>, key: &str) -> Result<Heatmap, PictureRequestError> {
    let (name, arm) = part.arm;
    let of = || format!("arm {name}");
    let control = part.control.map(|control| arm.controls.get(control));
    let (effects, masks) = match control {
        None => (arm.effects.get(key).map(|map| &map.mean), arm.masks.clone()),
        Some(control) => (control.and_then(|of| of.get(key)).map(|of| &of.effects), unmasked(&arm.masks)),
    };
    let effects = effects.map(|effects| &effects.data[..]).unwrap_or_default();
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
    let mut panel = laid_out(&arm.axes, effects, &masks, arm.site.name(), tick, of)?;
    restored(&mut panel, name, arm.site, arm.window);
    if let Some(control) = part.control {
        panel.title = format!("{name}, control: {}", control.replace('_', " "));
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

/// Names the arm that a panel is of, and its layers where several are restored together.
pub(super) fn restored(panel: &mut Heatmap, name: &str, site: Site, window: u32) {
    panel.title = format!("{name}: {site}");
    if window > 1 {
        panel.title = format!("{}, window {window}", panel.title);
        if panel.y_label == "layer" {
            "centre layer".clone_into(&mut panel.y_label);
        }
    }
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

/// The picture of a patch. One axis, or a single cell: bars of the values of `metric` (the first one if left out) that
/// begin at the base run's, with the values of base and source runs as dashed lines, beside those of controls. Two axes:
/// heatmaps of effects, patched minus base, and of the controls'.
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
    let runs: Vec<&str> = [request.base.as_str()].into_iter().chain(sources(response)).collect();
    let baseline = |run: &str| response.baselines.get(run).and_then(|metrics| *metrics.get(key)?);
    let prompts = runs.iter().filter_map(|name| {
        let run = response.runs.get(name)?;
        Some(format!("{name}: {}", phrases::prompt(run.tokens.iter())))
    });
    let mut subtitle = vec![response.model.clone()];
    subtitle.extend(prompts);
    subtitle.push(phrases::interventions(&request.interventions, &request.sweep));
    let tokens = response.runs.get(&request.base).map(|run| &run.tokens[..]).unwrap_or_default();
    let controls = response.controls.others.iter().filter_map(|(name, metrics)| {
        let found = metrics.get(key)?;
        (found.effects.data.len() == effects.len()).then_some((name.replace('_', " "), &found.effects.data))
    });
    let controls: Vec<(String, &Vec<Option<f64>>)> = controls.collect();
    if response.axes.len() == 2 {
        let column = |axis: &Axis, value| Column { text: tick(axis, value, tokens), marked: false };
        let laid = |title: &str, effects: &[Option<f64>], masks: &Masks| {
            let mut panel = laid_out(&response.axes, effects, masks, "", column, of)?;
            panel.value_label = format!("effect on {}", phrases::unbroken(&what));
            title.clone_into(&mut panel.title);
            Ok::<_, PictureRequestError>(panel)
        };
        let mut panels = vec![laid("patch", effects, &response.masks)?];
        // What is known of a patch's cells is not known of a control's.
        let unknown = unmasked(&response.masks);
        for (name, effects) in &controls {
            panels.push(laid(&format!("control: {name}"), effects, &unknown)?);
        }
        subtitle.extend(runs.iter().map(|run| phrases::number(run, baseline(run))));
        subtitle.extend(phrases::warnings(&response.lints));
        let arrangement = arrangement(&panels, None);
        let subtitle = subtitle.join(DOT);
        return Ok(Picture::Figure(Figure {
            title,
            subtitle,
            panels,
            shared_scale: true,
            arrangement,
            ..Figure::default()
        }));
    }
    if response.axes.len() > 2 {
        let axes = response.axes.iter().map(|axis| axis.name).collect();
        return Err(PictureRequestError::TooManyAxes { of: of(), axes });
    }
    let axis = response.axes.first();
    // Tokens stand in the order in which they are read.
    let mut order: Vec<usize> = (0..values.len()).collect();
    if let Some(axis) = axis.filter(|axis| axis.name == "position") {
        order.sort_by_key(|at| axis.values[*at]);
    }
    let labels = axis.map_or_else(
        || vec!["patched".to_owned()],
        |axis| order.iter().map(|at| tick(axis, axis.values[*at], tokens)).collect(),
    );
    let masks = &response.masks;
    let bar = |at: &usize| Bar {
        value: values[*at],
        not_finite: values[*at].is_none() && !masks.lost[*at],
        trivial: masks.trivial.data[*at] == Some(true),
        ..Bar::default()
    };
    let origin = baseline(&request.base);
    let mut series = vec![Series { name: "patch".to_owned(), bars: order.iter().map(bar).collect() }];
    series.extend(controls.iter().filter_map(|(name, effects)| {
        let base = origin?;
        let bar = |at: &usize| Bar { value: effects[*at].map(|effect| base + effect), ..Bar::default() };
        Some(Series { name: format!("control: {name}"), bars: order.iter().map(bar).collect() })
    }));
    subtitle.extend(phrases::warnings(&response.lints));
    let lines =
        runs.iter().filter_map(|run| Some(Baseline { label: (*run).to_owned(), value: baseline(run)? }));
    Ok(Picture::Bars(Bars {
        title,
        subtitle: subtitle.join(DOT),
        labels,
        x_label: axis.map_or_else(String::new, axis_name),
        value_label: what,
        series,
        baselines: lines.collect(),
        origin: origin.unwrap_or(0.0),
        ..Bars::default()
    }))
}

/// Masks of cells of which nothing is known beforehand.
fn unmasked(masks: &Masks) -> Masks {
    let none = |mask: &NdArray<Option<bool>>| NdArray::new(&mask.shape, vec![None; mask.data.len()]);
    Masks {
        exact_null: none(&masks.exact_null),
        trivial: none(&masks.trivial),
        lost: vec![false; masks.lost.len()],
    }
}

/// Side by side, as long as that is not too wide; where there are facets, so many of each on a line.
pub(super) fn arrangement(panels: &[Heatmap], facet: Option<usize>) -> Arrangement {
    let widest = panels.iter().map(|panel| panel.columns.len()).max().unwrap_or(0);
    let room = (WIDE / widest.max(1)).clamp(1, MAX_ACROSS);
    match facet.unwrap_or(room).min(room) {
        columns if columns >= panels.len() => Arrangement::Row,
        1 => Arrangement::Column,
        columns => Arrangement::Grid(columns),
    }
}

/// What an axis shows: positions are shown by their tokens.
fn axis_name(axis: &Axis) -> String {
    if axis.name == "position" { "token".to_owned() } else { axis.name.replace('_', " ") }
}

/// A value of an axis: positions by their token.
fn tick(axis: &Axis, value: u32, tokens: &[Token]) -> String {
    match tokens.get(value as usize) {
        Some(token) if axis.name == "position" => token.text.clone(),
        _ => value.to_string(),
    }
}
