//! Draws a [`Figure`]: measures every panel, places it, then writes it.

use super::{Figure, Heatmap};
use crate::draw::colour_bar::ColourBar;
use crate::draw::font::{self, Weight};
use crate::draw::frame::{ACCENT, AXIS, HATCH, Heading, Legend, MARGIN, MUTED, Swatch, hatch};
use crate::draw::label;
use crate::draw::scale;
use crate::draw::svg::push;
use crate::draw::svg::{Anchor, Svg, TextStyle, number};

const TICK: f64 = 10.0;
/// Size of texts in cells.
const CELL_TEXT: f64 = 8.5;
/// Baseline to baseline of labels that stand above each other.
const LINE: f64 = TICK * 1.2;

/// How token labels stand under their columns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slant {
    Flat,
    Diagonal,
    Upright,
}

/// A panel with all of its sizes; the origin is the upper left corner.
struct Panel<'a> {
    map: &'a Heatmap,
    heading: Heading,
    cell: (f64, f64),
    /// Upper left corner of the cells.
    origin: (f64, f64),
    /// Width and height of the cells together.
    plot: (f64, f64),
    slant: Slant,
    /// Index and text of the columns that are labelled.
    columns: Vec<(usize, String)>,
    /// Width of the widest row label drawn.
    row_width: f64,
    rows: Vec<(usize, String)>,
    scale_end: Option<f64>,
    from_zero: bool,
    bar: Option<ColourBar>,
    size: (f64, f64),
}

/// The whole picture. Panels must have passed their checks.
pub(super) fn draw(figure: &Figure) -> String {
    let single = figure.panels.len() == 1;
    let panels: Vec<Panel<'_>> = (0..figure.panels.len()).map(|index| Panel::new(figure, index)).collect();
    let gap = 22.0;
    let across = figure.arrangement.across(panels.len());
    let side_by_side = across >= panels.len();
    // Columns are as wide as the widest of their panels, rows as high as the highest with its plot's upper edge level with
    // the others'.
    let mut widths = vec![0.0_f64; across.min(panels.len())];
    let mut rows: Vec<(f64, f64)> = Vec::new();
    for (index, panel) in panels.iter().enumerate() {
        let column = index % across;
        if column == 0 {
            rows.push((0.0, 0.0));
        }
        widths[column] = widths[column].max(panel.size.0);
        if let Some((level, below)) = rows.last_mut() {
            *level = level.max(panel.origin.1);
            *below = below.max(panel.size.1 - panel.origin.1);
        }
    }
    let together = |sizes: &mut dyn Iterator<Item = f64>| {
        let (count, sum) = sizes.fold((0_usize, 0.0), |(n, sum), size| (n + 1, sum + size));
        sum + gap * count.saturating_sub(1) as f64
    };
    let width = together(&mut widths.iter().copied());
    let height = together(&mut rows.iter().map(|(level, below)| level + below));
    let shared = (figure.shared_scale && !single && !panels.is_empty()).then(|| {
        let plots = panels.iter().map(|p| p.plot.1).fold(0.0, f64::max);
        let room = if side_by_side { plots } else { (height - 60.0).min(480.0) };
        ColourBar::new(&figure.panels[0].value_label, figure.end_of(0), figure.from_zero, room)
    });
    let bar_width = shared.as_ref().map_or(0.0, |bar| bar.width);
    let content = (width + bar_width).max(360.0);

    // A single panel's own heading spans the picture; several keep theirs above their cells.
    let (mut title, mut subtitle) = (figure.title.clone(), figure.subtitle.clone());
    if let [only] = figure.panels.as_slice() {
        if title.is_empty() {
            title.clone_from(&only.title);
        }
        if subtitle.is_empty() {
            subtitle = only.full_subtitle();
        }
    }
    let heading = Heading::new(&title, &subtitle, 14.0, content);
    let legend = Legend::new(legend_entries(figure), content);
    let top = MARGIN + heading.height();
    let shared_height = shared.as_ref().map_or(0.0, |bar| bar.height + 20.0);
    let body = height.max(shared_height).max(if panels.is_empty() { 20.0 } else { 0.0 });
    let legend_top = top + body + if legend.height() > 0.0 { 8.0 } else { 0.0 };

    let mut svg = Svg::new();
    heading.draw(&mut svg, MARGIN, MARGIN);
    if panels.is_empty() {
        svg.text(MARGIN, top + 12.0, "no panels", TextStyle { fill: MUTED, ..TextStyle::default() });
    }
    let mut y = top;
    for (row, (line, (level, below))) in panels.chunks(across).zip(&rows).enumerate() {
        let mut x = MARGIN;
        for (column, panel) in line.iter().enumerate() {
            panel.draw(&mut svg, row * across + column, x, y + level - panel.origin.1, single);
            x += widths[column] + gap;
        }
        y += level + below + gap;
    }
    if let Some(bar) = &shared {
        let bar_top = top + rows.first().map_or(0.0, |(level, _)| *level);
        bar.draw(&mut svg, "scale", MARGIN + width + 14.0, bar_top);
    }
    legend.draw(&mut svg, MARGIN, legend_top);
    let name = if title.is_empty() { "heatmap".to_owned() } else { label::one_line(&title) };
    svg.finish(content + 2.0 * MARGIN, legend_top + legend.height() + MARGIN, &name)
}

fn legend_entries(figure: &Figure) -> Vec<(Swatch<'static>, String)> {
    let any = |test: fn(&super::Cell) -> bool| figure.panels.iter().any(|p| p.any(test));
    let mut entries = Vec::new();
    if figure.panels.iter().any(|p| p.columns.iter().any(|c| c.marked)) {
        let name = figure.panels.iter().map(|p| p.mark_label.as_str()).find(|l| !l.is_empty());
        entries.push((Swatch::Bar(ACCENT), format!("* {}", name.unwrap_or("marked"))));
    }
    if any(|cell| cell.exact_null) {
        entries.push((Swatch::Dot, "zero by construction".to_owned()));
    }
    if any(|cell| cell.trivial) {
        entries.push((Swatch::Outline, "trivial: the answer of the source by construction".to_owned()));
    }
    if any(|cell| cell.finite().is_none() && cell.not_finite) {
        entries.push((Swatch::Hatched, "not finite".to_owned()));
    }
    if any(|cell| cell.finite().is_none() && !cell.not_finite) {
        entries.push((Swatch::Filled("#bebebe"), "not measured".to_owned()));
    }
    entries
}

impl<'a> Panel<'a> {
    fn new(figure: &'a Figure, index: usize) -> Self {
        let map = &figure.panels[index];
        let (rows, cols) = (map.rows.len(), map.columns.len());
        let single = figure.panels.len() == 1;
        let across = figure.arrangement.across(figure.panels.len());
        let down = figure.panels.len().div_ceil(across);
        // Cells share a target extent, within sizes that can be seen and don't look silly.
        let extent = (
            if across == 1 { 560.0 } else { (900.0 / across as f64).max(260.0) },
            if down == 1 { 480.0 } else { (900.0 / down as f64).max(200.0) },
        );
        let cell = (
            (extent.0 / cols.max(1) as f64).floor().clamp(5.0, 48.0),
            (extent.1 / rows.max(1) as f64).floor().clamp(4.0, 26.0),
        );
        // Texts need room; the longest are cut.
        let widest = map.texts.iter().flatten().map(|text| cell_text_width(text)).fold(0.0, f64::max);
        let cell = if map.texts.is_empty() {
            cell
        } else {
            {
                let most = (1800.0 / cols.max(1) as f64).floor().clamp(24.0, 56.0);
                (cell.0.min(most).max((widest + 6.0).ceil().clamp(24.0, most)), cell.1.max(15.0))
            }
        };
        let plot = (cell.0 * cols as f64, cell.1 * rows as f64);

        let (slant, columns) = place_columns(map, cell.0);
        let row_labels = place_rows(map, cell.1);
        let row_width = row_labels.iter().map(|(_, text)| width(text)).fold(0.0, f64::max);
        let y_label = if map.y_label.is_empty() { 0.0 } else { 16.0 };
        let centre = |column: usize| (column as f64 + 0.5) * cell.0;
        let reach = |(column, text): &(usize, String)| {
            let wide = label_width(map, *column, text);
            match slant {
                Slant::Flat => (wide / 2.0 - centre(*column), 14.0),
                Slant::Diagonal => {
                    (wide * std::f64::consts::FRAC_1_SQRT_2 - centre(*column), wide * 0.7072 + 14.0)
                }
                Slant::Upright => (0.0, wide + 10.0),
            }
        };
        let overhang = columns.iter().map(|c| reach(c).0).fold(0.0, f64::max);
        let label_height = columns.iter().map(|c| reach(c).1).fold(0.0, f64::max);
        let left = (y_label + row_width + 8.0).max(overhang + 2.0);
        let caption = if map.x_label.is_empty() { 0.0 } else { 16.0 };

        let scale_end = figure.end_of(index);
        let bar = (single || !figure.shared_scale)
            .then(|| ColourBar::new(&map.value_label, scale_end, figure.from_zero, plot.1));
        let bar_width = bar.as_ref().map_or(0.0, |bar| bar.width);
        let right = columns.last().filter(|_| slant == Slant::Flat).map_or(0.0, |(column, text)| {
            (label_width(map, *column, text) / 2.0 + centre(*column) - plot.0).max(0.0)
        });
        let heading = if single {
            Heading::new("", "", 12.0, 0.0)
        } else {
            Heading::new(&map.title, &map.full_subtitle(), 12.0, plot.0.max(140.0))
        };
        let wide = plot.0.max(if single { 60.0 } else { 140.0 }) + right;
        let tall = (plot.1.max(20.0) + 6.0 + label_height + caption)
            .max(bar.as_ref().map_or(0.0, |bar| bar.height + 10.0));
        Self {
            map,
            cell,
            origin: (left, heading.height() + 4.0),
            plot,
            slant,
            columns,
            row_width,
            rows: row_labels,
            scale_end,
            from_zero: figure.from_zero,
            size: (left + wide + bar_width, heading.height() + 4.0 + tall),
            bar,
            heading,
        }
    }

    fn draw(&self, svg: &mut Svg, index: usize, x: f64, y: f64, single: bool) {
        let (left, top) = (x + self.origin.0, y + self.origin.1);
        if !single {
            self.heading.draw(svg, left, y);
        }
        if self.plot.0 <= 0.0 || self.plot.1 <= 0.0 {
            svg.text(left, top + 12.0, "no cells", TextStyle { fill: MUTED, ..TextStyle::default() });
        } else {
            self.draw_cells(svg, left, top);
        }
        self.draw_rows(svg, left, top);
        self.draw_columns(svg, left, top);
        if let Some(bar) = &self.bar {
            // A page may hold several gradients, so each has its own name.
            bar.draw(svg, &format!("scale{index}"), x + self.size.0 - bar.width + 14.0, top);
        }
    }

    fn draw_cells(&self, svg: &mut Svg, left: f64, top: f64) {
        let (w, h) = self.cell;
        let (mut dots, mut outlines, mut hatching) = (String::new(), String::new(), String::new());
        let mut texts = Vec::new();
        let inset = 1.0;
        svg.open("g", &[("shape-rendering", "crispEdges".into())]);
        for (row, cells) in self.map.cells.iter().enumerate() {
            let y = top + self.plot.1 - (row + 1) as f64 * h;
            for (column, cell) in cells.iter().enumerate() {
                let x = left + column as f64 * w;
                let fill = cell.finite().map_or(scale::MISSING, |value| {
                    let value = if self.from_zero { value.max(0.0) } else { value };
                    scale::diverging(scale::relative(value, self.scale_end.unwrap_or(0.0)))
                });
                if let Some(text) = self.map.texts.get(row).and_then(|row| row.get(column)) {
                    texts.push(((x + w / 2.0, y + h / 2.0), text, fill));
                }
                svg.leaf_with_tooltip(
                    "rect",
                    &[
                        ("x", x.into()),
                        ("y", y.into()),
                        ("width", w.into()),
                        ("height", h.into()),
                        ("fill", fill.to_string().as_str().into()),
                    ],
                    &self.tooltip(row, column, cell),
                );
                if cell.not_finite && cell.finite().is_none() {
                    hatch(&mut hatching, (x, y), (w, h));
                }
                if cell.exact_null && cell.finite().is_some() {
                    // A round cap on a line without length is a dot; one path holds them all.
                    push(&mut dots, format_args!("M{} {}h.01", number(x + w / 2.0), number(y + h / 2.0)));
                }
                if cell.trivial {
                    let (across, down) = (number(w - 2.0 * inset), number(h - 2.0 * inset));
                    push(
                        &mut outlines,
                        format_args!(
                            "M{} {}h{across}v{down}h-{across}z",
                            number(x + inset),
                            number(y + inset)
                        ),
                    );
                }
            }
        }
        svg.close("g");
        svg.path(&hatching, HATCH, 0.8);
        svg.path(&dots, "#777", (w.min(h) / 5.0).clamp(1.0, 2.4));
        // A light line under the dark one, to be seen on the scale's dark ends.
        svg.path(&outlines, "#fff", (w.min(h) / 5.0).clamp(1.4, 2.4));
        svg.path(&outlines, "#222", (w.min(h) / 10.0).clamp(0.6, 1.2));
        for ((x, y), text, fill) in texts {
            let text = font::fit(&label::visible(text), CELL_TEXT, Weight::Regular, w - 3.0);
            let style = TextStyle {
                size: CELL_TEXT,
                anchor: Anchor::Middle,
                fill: scale::ink(fill),
                ..TextStyle::default()
            };
            svg.text(x, y + CELL_TEXT * 0.36, &text, style);
        }
        svg.leaf(
            "rect",
            &[
                ("x", left.into()),
                ("y", top.into()),
                ("width", self.plot.0.into()),
                ("height", self.plot.1.into()),
                ("fill", "none".into()),
                ("stroke", AXIS.into()),
                ("stroke-width", 0.8.into()),
            ],
        );
    }

    fn tooltip(&self, row: usize, column: usize, cell: &super::Cell) -> String {
        let token = label::shorten(&label::visible(&self.map.columns[column].text), 60);
        let name = label::one_line(&self.map.y_label);
        let mut text = format!("{name} {}, {token} ({column}): ", label::one_line(&self.map.rows[row]));
        if let Some(shown) = self.map.texts.get(row).and_then(|row| row.get(column)) {
            push(&mut text, format_args!("{}, ", label::shorten(&label::visible(shown), 60)));
        }
        match cell.finite() {
            // Debug of a float is its shortest form that reads back as the same number.
            Some(value) => push(&mut text, format_args!("{value:?}")),
            None if cell.not_finite => text += "not finite",
            None => text += "not measured",
        }
        if cell.exact_null {
            text += " (zero by construction)";
        }
        if cell.trivial {
            text += " (trivial)";
        }
        text.trim_start().to_owned()
    }

    fn draw_rows(&self, svg: &mut Svg, left: f64, top: f64) {
        for (row, text) in &self.rows {
            let y = top + self.plot.1 - (*row as f64 + 0.5) * self.cell.1;
            svg.line((left - 3.0, y), (left, y), AXIS, 0.8);
            let style = TextStyle { size: TICK, anchor: Anchor::End, ..TextStyle::default() };
            svg.text(left - 6.0, y + TICK * 0.36, text, style);
        }
        if !self.map.y_label.is_empty() {
            let text =
                font::fit(&label::one_line(&self.map.y_label), 11.0, Weight::Regular, self.plot.1.max(60.0));
            let (x, y) = (left - self.row_width - 13.0, top + self.plot.1 / 2.0);
            svg.text(
                x,
                y,
                &text,
                TextStyle { size: 11.0, anchor: Anchor::Middle, rotate: -90.0, ..TextStyle::default() },
            );
        }
    }

    fn draw_columns(&self, svg: &mut Svg, left: f64, top: f64) {
        let bottom = top + self.plot.1;
        for (column, _) in self.map.columns.iter().enumerate().filter(|(_, c)| c.marked) {
            let x = left + column as f64 * self.cell.0;
            svg.line((x + 0.5, bottom + 3.0), (x + self.cell.0 - 0.5, bottom + 3.0), ACCENT, 3.0);
        }
        let mut deepest: f64 = 0.0;
        for (column, text) in &self.columns {
            let marked = self.map.columns[*column].marked;
            let (weight, fill) = if marked { (Weight::Bold, ACCENT) } else { (Weight::Regular, "#222") };
            let x = left + (*column as f64 + 0.5) * self.cell.0;
            let wide = label_width(self.map, *column, text);
            let (dx, dy, anchor, rotate, depth) = match self.slant {
                Slant::Flat => (0.0, 15.0, Anchor::Middle, 0.0, 18.0),
                Slant::Diagonal => (3.0, 13.0, Anchor::End, -45.0, wide * 0.7072 + 18.0),
                Slant::Upright => (TICK * 0.36, 8.0, Anchor::End, -90.0, wide + 12.0),
            };
            svg.text(x + dx, bottom + dy, text, TextStyle { size: TICK, weight, fill, anchor, rotate });
            deepest = deepest.max(depth);
        }
        if !self.map.x_label.is_empty() {
            let text =
                font::fit(&label::one_line(&self.map.x_label), 11.0, Weight::Regular, self.plot.0.max(60.0));
            let style = TextStyle { size: 11.0, anchor: Anchor::Middle, ..TextStyle::default() };
            svg.text(left + self.plot.0 / 2.0, bottom + deepest + 14.0, &text, style);
        }
    }
}

fn cell_text_width(text: &str) -> f64 {
    font::width(&label::visible(text), CELL_TEXT, Weight::Regular)
}

fn width(text: &str) -> f64 {
    font::width(text, TICK, Weight::Regular)
}

fn label_width(map: &Heatmap, column: usize, text: &str) -> f64 {
    font::width(text, TICK, if map.columns[column].marked { Weight::Bold } else { Weight::Regular })
}

/// The slant that leaves most labels, and the labels that then don't overlap: marked columns first, the others at
/// regular distances between them.
fn place_columns(map: &Heatmap, cell: f64) -> (Slant, Vec<(usize, String)>) {
    let texts: Vec<String> = map
        .columns
        .iter()
        .map(|column| {
            let text = label::shorten(&label::visible(&column.text), 20);
            if column.marked { format!("{text}*") } else { text }
        })
        .collect();
    let widest = texts.iter().enumerate().map(|(i, text)| label_width(map, i, text)).fold(0.0, f64::max);
    let slant = if widest + 6.0 <= cell {
        Slant::Flat
    } else if cell >= LINE * std::f64::consts::SQRT_2 {
        Slant::Diagonal
    } else {
        Slant::Upright
    };
    let stride = if slant == Slant::Upright { (LINE / cell).ceil().max(1.0) as usize } else { 1 };
    let mut taken: Vec<bool> = vec![false; texts.len()];
    let free = |taken: &[bool], at: usize| {
        let near = at.saturating_sub(stride - 1)..(at + stride).min(taken.len());
        taken[near].iter().all(|used| !used)
    };
    for (at, column) in map.columns.iter().enumerate() {
        if column.marked && free(&taken, at) {
            taken[at] = true;
        }
    }
    for at in (0..texts.len()).step_by(stride) {
        if free(&taken, at) {
            taken[at] = true;
        }
    }
    (slant, texts.into_iter().enumerate().filter(|(at, _)| taken[*at]).collect())
}

/// Every `n`-th row label, `n` the first of 1, 2, 5, 10, .. at which they don't overlap.
fn place_rows(map: &Heatmap, cell: f64) -> Vec<(usize, String)> {
    let stride = (0..).flat_map(|p| [1, 2, 5].map(|m| m * 10usize.saturating_pow(p)));
    let stride = stride.into_iter().find(|n| *n as f64 * cell >= LINE).unwrap_or(1);
    let text = |label: &String| font::fit(&label::visible(label), TICK, Weight::Regular, 120.0);
    let rows = if map.columns.is_empty() { &[][..] } else { &map.rows[..] };
    rows.iter().enumerate().step_by(stride).map(|(row, label)| (row, text(label))).collect()
}
