//! Draws [`Bars`].

use super::{BarPanels, Bars, Baseline};
use crate::draw::font::{self, Weight};
use crate::draw::frame::{AXIS, HATCH, Heading, Legend, MARGIN, MUTED, Swatch, hatch};
use crate::draw::label;
use crate::draw::scale;
use crate::draw::svg::push;
use crate::draw::svg::{Anchor, Svg, TextStyle};

const TICK: f64 = 10.0;
const LINE: f64 = TICK * 1.25;
/// Least space between labels beside each other.
const GAP: f64 = 4.0;
const PLOT_HEIGHT: f64 = 260.0;
/// Baseline to baseline of the y axis' name.
const VALUE_LINE: f64 = 13.0;
/// Series colours: Okabe and Ito's palette for colour-blind readers (2008), without its black and yellow; then dark ones of
/// Tol's muted palette. The eleventh series has the first colour again.
const COLOURS: [&str; 10] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#332288", "#882255", "#117733",
    "#999933",
];
const TRIVIAL: &str = "#b0b0b0";
/// Baseline colours, dark so that their texts read.
const BASELINES: [&str; 4] = ["#222222", "#8a2be2", "#00705a", "#a04000"];

/// The y axis: values to heights without overflow at the edges of f64.
#[derive(Clone)]
struct Axis {
    ticks: Vec<f64>,
    top: f64,
}

impl Axis {
    /// One that holds everything in any of the charts.
    fn new(charts: &[Bars]) -> Self {
        let bars = charts.iter().flat_map(|bars| &bars.series).flat_map(|s| &s.bars);
        let ends = bars.filter_map(super::Bar::finite);
        let values = ends.flat_map(|(value, error)| [Some(value), error.map(|e| e[0]), error.map(|e| e[1])]);
        let baselines = charts.iter().flat_map(|bars| &bars.baselines).map(|b| b.value);
        let values = values.flatten().chain(baselines).filter(|v| v.is_finite());
        let start = charts.first().map_or(0.0, Bars::start);
        let (lo, hi) = values.fold((start, start), |(lo, hi): (f64, f64), v| (lo.min(v), hi.max(v)));
        let reach =
            charts.first().and_then(|bars| bars.reach).filter(|reach| reach.is_finite() && *reach > 0.0);
        if let Some(reach) = reach {
            let (ticks, top) = (scale::nice_ticks(start - reach, start + reach, 5), 0.0);
            return Self { ticks, top };
        }
        Self { ticks: scale::nice_ticks(lo, hi, 5), top: 0.0 }
    }

    fn y(&self, value: f64) -> f64 {
        let (lo, hi) = (self.ticks[0] / 2.0, self.ticks[self.ticks.len() - 1] / 2.0);
        self.top + PLOT_HEIGHT * (1.0 - ((value / 2.0 - lo) / (hi - lo)).clamp(0.0, 1.0))
    }
}

/// The whole picture. Series must have passed their checks.
pub(super) fn draw(bars: &Bars) -> String {
    let chart = Chart::new(bars, &Axis::new(std::slice::from_ref(bars)));
    let legend = Legend::new(legend_entries(std::slice::from_ref(bars)), chart.content - chart.left);
    let mut svg = Svg::new();
    let bottom = chart.draw(&mut svg, MARGIN);
    legend.draw(&mut svg, MARGIN + chart.left, bottom);
    let name = if bars.title.is_empty() { "bar chart".to_owned() } else { label::one_line(&bars.title) };
    svg.finish(chart.content + 2.0 * MARGIN, bottom + legend.height() + MARGIN, &name)
}

/// Charts below each other. Series must have passed their checks.
pub(super) fn draw_panels(all: &BarPanels) -> String {
    let axis = Axis::new(&all.panels);
    let charts: Vec<Chart<'_>> = all.panels.iter().map(|bars| Chart::new(bars, &axis)).collect();
    let content = charts.iter().map(|chart| chart.content).fold(360.0, f64::max);
    let heading = Heading::new(&all.title, &all.subtitle, 14.0, content);
    let left = charts.first().map_or(0.0, |chart| chart.left);
    let legend = Legend::new(legend_entries(&all.panels), content - left);
    let mut svg = Svg::new();
    heading.draw(&mut svg, MARGIN, MARGIN);
    let mut y = MARGIN + heading.height();
    if charts.is_empty() {
        svg.text(MARGIN, y + 12.0, "no bars", TextStyle { fill: MUTED, ..TextStyle::default() });
        y += 20.0;
    }
    for chart in &charts {
        y = chart.draw(&mut svg, y);
    }
    legend.draw(&mut svg, MARGIN + left, y);
    let name = if all.title.is_empty() { "bar charts".to_owned() } else { label::one_line(&all.title) };
    svg.finish(content + 2.0 * MARGIN, y + legend.height() + MARGIN, &name)
}

/// One chart laid out.
struct Chart<'b> {
    bars: &'b Bars,
    axis: Axis,
    tick_texts: Vec<String>,
    tick_width: f64,
    /// The y axis' name.
    value_lines: Vec<String>,
    /// Width of a group of bars with its gap, and of all of them.
    slot: f64,
    plot_width: f64,
    labels: Vec<(usize, String)>,
    slanted: bool,
    label_depth: f64,
    baselines: Vec<PlacedBaseline>,
    /// Distance of the plot from the margin.
    left: f64,
    /// Width of everything.
    content: f64,
    heading: Heading,
}

impl<'b> Chart<'b> {
    fn new(bars: &'b Bars, axis: &Axis) -> Self {
        let groups = bars.labels.len();
        let series = bars.series.len().max(1);
        // A group is its bars and a gap of one bar; the plot aims at 560 units and bars stay visible.
        let slot = (560.0 / groups.max(1) as f64)
            .clamp(2.5 * (series + 1) as f64, 56.0 + 24.0 * (series - 1) as f64);
        let plot_width = (slot * groups as f64).max(160.0);
        let tick_texts = scale::tick_labels(&axis.ticks);
        let tick_width = tick_texts.iter().map(|text| text_width(text)).fold(0.0, f64::max);
        let labels = place_labels(bars, slot);
        let slanted =
            labels.iter().any(|(_, text)| text_width(text) + GAP > slot * labels_stride(&labels) as f64);
        let label_depth = labels
            .iter()
            .map(|(_, text)| if slanted { text_width(text) * 0.7072 + 16.0 } else { 16.0 })
            .fold(0.0, f64::max);
        // Few bars stand in the middle of the narrowest plot.
        let shift = (plot_width - slot * groups as f64) / 2.0;
        let overhang = labels
            .iter()
            .map(|(at, text)| {
                let centre = shift + (*at as f64 + 0.5) * slot;
                if slanted { text_width(text) * 0.7072 - centre } else { text_width(text) / 2.0 - centre }
            })
            .fold(0.0, f64::max);
        let value_lines =
            font::wrap(&label::one_line(&bars.value_label), 11.0, Weight::Regular, PLOT_HEIGHT, 3);
        let left = (3.0 + value_lines.len().max(1) as f64 * VALUE_LINE + tick_width + 10.0).max(overhang);
        let baselines = place_baselines(bars, axis);
        let right = baselines.iter().map(|b| text_width(&b.text) + 16.0).fold(8.0, f64::max);
        let content = (left + plot_width + right).max(360.0);
        let heading = Heading::new(&bars.title, &bars.subtitle, 14.0, content);
        Self {
            bars,
            axis: axis.clone(),
            tick_texts,
            tick_width,
            value_lines,
            slot,
            plot_width,
            labels,
            slanted,
            label_depth,
            baselines,
            left,
            content,
            heading,
        }
    }

    /// Draws with the upper edge at `top`; where what follows may begin.
    fn draw(&self, svg: &mut Svg, top: f64) -> f64 {
        let Self { bars, slot, plot_width, tick_width, label_depth, slanted, .. } = *self;
        let groups = bars.labels.len();
        let shift = (plot_width - slot * groups as f64) / 2.0;
        let axis = Axis { top: top + self.heading.height() + 6.0, ..self.axis.clone() };
        let (x0, bottom) = (MARGIN + self.left, axis.top + PLOT_HEIGHT);
        self.heading.draw(svg, MARGIN, top);
        for (tick, text) in axis.ticks.iter().zip(&self.tick_texts) {
            let y = axis.y(*tick);
            svg.line((x0, y), (x0 + plot_width, y), "#e4e4e4", 0.8);
            svg.line((x0 - 3.0, y), (x0, y), AXIS, 0.8);
            svg.text(
                x0 - 6.0,
                y + TICK * 0.36,
                text,
                TextStyle { size: TICK, anchor: Anchor::End, ..TextStyle::default() },
            );
        }
        if groups == 0 || bars.series.is_empty() {
            let style = TextStyle { fill: MUTED, anchor: Anchor::Middle, ..TextStyle::default() };
            svg.text(x0 + plot_width / 2.0, axis.top + PLOT_HEIGHT / 2.0, "no bars", style);
        }
        draw_bars(svg, bars, &axis, x0 + shift, slot);
        svg.line((x0, axis.top), (x0, bottom), AXIS, 0.8);
        let start = axis.y(bars.start());
        svg.line((x0, start), (x0 + plot_width, start), AXIS, 1.0);
        draw_baselines(svg, &self.baselines, axis.top, x0, plot_width);
        for (at, text) in &self.labels {
            let x = x0 + shift + (*at as f64 + 0.5) * slot;
            let style = if slanted {
                TextStyle { size: TICK, anchor: Anchor::End, rotate: -45.0, ..TextStyle::default() }
            } else {
                TextStyle { size: TICK, anchor: Anchor::Middle, ..TextStyle::default() }
            };
            svg.text(
                x + if slanted { 3.0 } else { 0.0 },
                bottom + if slanted { 11.0 } else { 14.0 },
                text,
                style,
            );
        }
        if !bars.x_label.is_empty() {
            let text = font::fit(&label::one_line(&bars.x_label), 11.0, Weight::Regular, plot_width);
            let style = TextStyle { size: 11.0, anchor: Anchor::Middle, ..TextStyle::default() };
            svg.text(x0 + plot_width / 2.0, bottom + label_depth + 14.0, &text, style);
        }
        for (line, text) in self.value_lines.iter().rev().enumerate() {
            let style =
                TextStyle { size: 11.0, anchor: Anchor::Middle, rotate: -90.0, ..TextStyle::default() };
            let x = x0 - tick_width - 14.0 - line as f64 * VALUE_LINE;
            svg.text(x, axis.top + PLOT_HEIGHT / 2.0, text, style);
        }
        let caption = if bars.x_label.is_empty() { 0.0 } else { 16.0 };
        bottom + label_depth.max(6.0) + caption + 8.0
    }
}

fn draw_bars(svg: &mut Svg, bars: &Bars, axis: &Axis, x0: f64, slot: f64) {
    let series = bars.series.len().max(1) as f64;
    let gap = slot * if series > 1.0 { 0.22 } else { 0.28 };
    let wide = (slot - gap) / series;
    for (group, label) in bars.labels.iter().enumerate() {
        for (index, one) in bars.series.iter().enumerate() {
            let bar = one.bars[group];
            let x = x0 + group as f64 * slot + gap / 2.0 + index as f64 * wide;
            let across = wide - if series > 1.0 { 0.5 } else { 0.0 };
            let Some((value, error)) = bar.finite() else {
                if bar.not_finite {
                    draw_hatched(svg, label, &one.name, (x, axis.top), across);
                }
                continue;
            };
            let start = bars.start();
            let (top, base) = (axis.y(value.max(start)), axis.y(value.min(start)));
            let fill = if bar.trivial { TRIVIAL } else { COLOURS[index % COLOURS.len()] };
            let mut tooltip = label::shorten(&label::visible(label), 60);
            if !one.name.is_empty() {
                push(&mut tooltip, format_args!(", {}", label::one_line(&one.name)));
            }
            push(&mut tooltip, format_args!(": {value:?}"));
            match (bar.interval, error) {
                (Some(_), Some([low, high])) => push(&mut tooltip, format_args!(" [{low:?}, {high:?}]")),
                (None, Some(_)) => {
                    push(&mut tooltip, format_args!(" ± {:?}", bar.error.unwrap_or_default()));
                }
                (_, None) => {}
            }
            if bar.trivial {
                tooltip += " (trivial)";
            }
            svg.leaf_with_tooltip(
                "rect",
                &[
                    ("x", x.into()),
                    ("y", top.into()),
                    ("width", across.into()),
                    ("height", (base - top).into()),
                    ("fill", fill.into()),
                ],
                &tooltip,
            );
            if let Some([low, high]) = error {
                let (centre, cap) = (x + wide / 2.0, (wide / 4.0).clamp(0.8, 4.0));
                let (high, low) = (axis.y(high), axis.y(low));
                svg.line((centre, high), (centre, low), "#111", 1.0);
                svg.line((centre - cap, high), (centre + cap, high), "#111", 1.0);
                svg.line((centre - cap, low), (centre + cap, low), "#111", 1.0);
            }
        }
    }
}

/// The place of a bar that has no height, from the top of the plot to its bottom.
fn draw_hatched(svg: &mut Svg, label: &str, series: &str, (x, top): (f64, f64), across: f64) {
    let mut tooltip = label::shorten(&label::visible(label), 60);
    if !series.is_empty() {
        push(&mut tooltip, format_args!(", {}", label::one_line(series)));
    }
    tooltip += ": not finite";
    svg.leaf_with_tooltip(
        "rect",
        &[
            ("x", x.into()),
            ("y", top.into()),
            ("width", across.into()),
            ("height", PLOT_HEIGHT.into()),
            ("fill", "#f0f0f0".into()),
        ],
        &tooltip,
    );
    let mut lines = String::new();
    hatch(&mut lines, (x, top), (across, PLOT_HEIGHT));
    svg.path(&lines, HATCH, 0.8);
}

/// The first chart's series, and what is seen in any chart.
fn legend_entries(charts: &[Bars]) -> Vec<(Swatch<'static>, String)> {
    let mut entries = Vec::new();
    let series = charts.first().map(|bars| &bars.series[..]).unwrap_or_default();
    if series.len() > 1 {
        let named = series.iter().enumerate();
        entries.extend(named.map(|(i, s)| (Swatch::Filled(COLOURS[i % COLOURS.len()]), s.name.clone())));
    }
    let bars = || charts.iter().flat_map(|bars| &bars.series).flat_map(|s| &s.bars);
    if bars().any(|bar| bar.not_finite && bar.finite().is_none()) {
        entries.push((Swatch::Hatched, "not finite".to_owned()));
    }
    if bars().any(|bar| bar.trivial && bar.finite().is_some()) {
        entries
            .push((Swatch::Filled(TRIVIAL), "trivial: the answer of the source by construction".to_owned()));
    }
    entries
}

fn text_width(text: &str) -> f64 {
    font::width(text, TICK, Weight::Regular)
}

/// Labels that don't overlap: all, if flat or slanted by 45 degrees they fit, else every n-th.
fn place_labels(bars: &Bars, slot: f64) -> Vec<(usize, String)> {
    let texts = bars.labels.iter().map(|text| label::shorten(&label::visible(text), 20));
    let texts: Vec<String> = texts.collect();
    let widest = texts.iter().map(|text| text_width(text)).fold(0.0, f64::max);
    // Flat labels need their width, slanted ones the height of a line.
    let need = (widest + GAP).min(LINE * std::f64::consts::SQRT_2);
    let stride = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000];
    let stride = stride.into_iter().find(|n| *n as f64 * slot >= need).unwrap_or(1_000_000);
    texts.into_iter().enumerate().step_by(stride).collect()
}

fn labels_stride(labels: &[(usize, String)]) -> usize {
    labels.get(1).map_or(1, |(second, _)| *second)
}

struct PlacedBaseline {
    /// Height of the line and of its text, from the top of the plot.
    line: f64,
    label: f64,
    text: String,
    colour: &'static str,
}

/// Baselines from the top down, their texts pushed apart until none overlaps.
fn place_baselines(bars: &Bars, axis: &Axis) -> Vec<PlacedBaseline> {
    let finite = |b: &&Baseline| b.value.is_finite();
    let mut placed: Vec<PlacedBaseline> = bars
        .baselines
        .iter()
        .filter(finite)
        .enumerate()
        .map(|(index, baseline)| {
            let line = axis.y(baseline.value) - axis.top;
            let name = label::shorten(&label::one_line(&baseline.label), 28);
            let text = format!("{name} {}", scale::significant(baseline.value, 3));
            PlacedBaseline {
                line,
                label: line,
                text: text.trim_start().to_owned(),
                colour: BASELINES[index % BASELINES.len()],
            }
        })
        .collect();
    placed.sort_by(|a, b| a.line.total_cmp(&b.line));
    // Down from the top, then back up from the bottom where the last ones ran out of room.
    let mut floor = f64::NEG_INFINITY;
    for baseline in &mut placed {
        baseline.label = baseline.label.max(floor);
        floor = baseline.label + LINE;
    }
    let mut ceiling = PLOT_HEIGHT;
    for baseline in placed.iter_mut().rev() {
        baseline.label = baseline.label.min(ceiling);
        ceiling = baseline.label - LINE;
    }
    placed
}

fn draw_baselines(svg: &mut Svg, baselines: &[PlacedBaseline], top: f64, x0: f64, width: f64) {
    for baseline in baselines {
        let (y, end) = (top + baseline.line, x0 + width);
        svg.leaf(
            "line",
            &[
                ("x1", x0.into()),
                ("y1", y.into()),
                ("x2", end.into()),
                ("y2", y.into()),
                ("stroke", baseline.colour.into()),
                ("stroke-width", 1.3.into()),
                ("stroke-dasharray", "5 3".into()),
            ],
        );
        let label = top + baseline.label;
        svg.line((end, y), (end + 8.0, label), baseline.colour, 0.7);
        let style = TextStyle { size: TICK, fill: baseline.colour, ..TextStyle::default() };
        svg.text(end + 11.0, label + TICK * 0.36, &baseline.text, style);
    }
}
