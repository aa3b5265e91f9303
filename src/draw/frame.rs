//! What every picture has around its plot: a heading above, a legend below.

use super::font::{self, Weight};
use super::label;
use super::scale;
use super::svg::{Anchor, Svg, TextStyle, number, push};

/// Distance of everything from the picture's edge.
pub(super) const MARGIN: f64 = 14.0;
/// Colour of axes and frames.
pub(super) const AXIS: &str = "#444";
/// Colour of marked tokens; neither end of the diverging scale.
pub(super) const ACCENT: &str = "#00705a";
/// Colour of dots and second-rank text.
pub(super) const MUTED: &str = "#555";

const TITLE: TextStyle<'static> =
    TextStyle { size: 14.0, weight: Weight::Bold, fill: "#111", anchor: Anchor::Start, rotate: 0.0 };
const SUBTITLE: TextStyle<'static> =
    TextStyle { size: 11.0, weight: Weight::Regular, fill: MUTED, anchor: Anchor::Start, rotate: 0.0 };
const ENTRY: f64 = 10.0;

/// Lines of a title and a subtitle, broken to a width.
pub(super) struct Heading {
    title: Vec<String>,
    subtitle: Vec<String>,
    title_size: f64,
}

impl Heading {
    /// `size` is the title's font size; the subtitle has its own. Either text may be empty.
    pub(super) fn new(title: &str, subtitle: &str, size: f64, width: f64) -> Self {
        Self {
            title: font::wrap(&label::one_line(title), size, Weight::Bold, width, 3),
            subtitle: font::wrap(&label::one_line(subtitle), SUBTITLE.size, Weight::Regular, width, 8),
            title_size: size,
        }
    }

    /// Height taken, with the space to what follows; 0 without text.
    pub(super) fn height(&self) -> f64 {
        let lines = self.title.len() as f64 * self.title_size * 1.3 + self.subtitle.len() as f64 * 15.0;
        if lines > 0.0 { lines + 8.0 } else { 0.0 }
    }

    /// Draws with the upper left corner at `(x, y)`.
    pub(super) fn draw(&self, svg: &mut Svg, x: f64, y: f64) {
        let mut y = y;
        for line in &self.title {
            svg.text(x, y + self.title_size * 0.95, line, TextStyle { size: self.title_size, ..TITLE });
            y += self.title_size * 1.3;
        }
        for line in &self.subtitle {
            svg.text(x, y + 11.0, line, SUBTITLE);
            y += 15.0;
        }
    }
}

/// Colour of hatching.
pub(super) const HATCH: &str = "#7a7a7a";

/// Adds the hatching of a rectangle to a path: lines that rise to the right.
pub(super) fn hatch(path: &mut String, (x, y): (f64, f64), (w, h): (f64, f64)) {
    // Two lines at least in the smallest cell.
    let step = (w.min(h) / 1.5).clamp(2.0, 5.0);
    let mut along = step / 2.0;
    while along < w + h {
        // From the left or lower edge to the upper or right one.
        let (left, bottom) = ((along - h).max(0.0), along.min(h));
        let (right, top) = (along.min(w), (along - w).max(0.0));
        push(
            path,
            format_args!(
                "M{} {}L{} {}",
                number(x + left),
                number(y + bottom),
                number(x + right),
                number(y + top)
            ),
        );
        along += step;
    }
}

/// The little picture before a legend's text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Swatch<'a> {
    /// A filled square.
    Filled(&'a str),
    /// A neutral square with a dot.
    Dot,
    /// A neutral square with an outline.
    Outline,
    /// A hatched square.
    Hatched,
    /// A thick short bar.
    Bar(&'a str),
}

/// A legend's entries with their places, broken into lines.
pub(super) struct Legend<'a> {
    entries: Vec<(f64, f64, Swatch<'a>, String)>,
    height: f64,
}

impl<'a> Legend<'a> {
    /// Lays the entries out in lines at most `width` wide.
    pub(super) fn new(entries: Vec<(Swatch<'a>, String)>, width: f64) -> Self {
        let (mut x, mut y) = (0.0, 0.0);
        let mut placed = Vec::new();
        for (swatch, text) in entries {
            let text = font::fit(&label::one_line(&text), ENTRY, Weight::Regular, (width - 16.0).max(40.0));
            let wide = 16.0 + font::width(&text, ENTRY, Weight::Regular);
            if x > 0.0 && x + wide > width {
                (x, y) = (0.0, y + 16.0);
            }
            placed.push((x, y, swatch, text));
            x += wide + 18.0;
        }
        let height = if placed.is_empty() { 0.0 } else { y + 16.0 };
        Self { entries: placed, height }
    }

    /// Height taken; 0 without entries.
    pub(super) fn height(&self) -> f64 {
        self.height
    }

    /// Draws with the upper left corner at `(x, y)`.
    pub(super) fn draw(&self, svg: &mut Svg, x: f64, y: f64) {
        for (dx, dy, swatch, text) in &self.entries {
            let (left, top) = (x + dx, y + dy + 2.0);
            let square = |svg: &mut Svg, fill: &str, stroke: &str, width: f64| {
                svg.leaf(
                    "rect",
                    &[
                        ("x", left.into()),
                        ("y", top.into()),
                        ("width", 10.0.into()),
                        ("height", 10.0.into()),
                        ("fill", fill.into()),
                        ("stroke", stroke.into()),
                        ("stroke-width", width.into()),
                    ],
                );
            };
            match swatch {
                Swatch::Filled(fill) => square(svg, fill, "none", 0.0),
                Swatch::Outline => square(svg, "#f6f6f6", "#222", 1.2),
                Swatch::Dot => {
                    square(svg, "#f6f6f6", "#ccc", 0.6);
                    svg.leaf(
                        "circle",
                        &[
                            ("cx", (left + 5.0).into()),
                            ("cy", (top + 5.0).into()),
                            ("r", 1.2.into()),
                            ("fill", MUTED.into()),
                        ],
                    );
                }
                Swatch::Hatched => {
                    square(svg, &scale::MISSING.to_string(), "none", 0.0);
                    let mut lines = String::new();
                    hatch(&mut lines, (left, top), (10.0, 10.0));
                    svg.path(&lines, HATCH, 0.8);
                }
                Swatch::Bar(stroke) => svg.line((left, top + 5.0), (left + 10.0, top + 5.0), stroke, 3.0),
            }
            svg.text(left + 16.0, top + 8.8, text, TextStyle { size: ENTRY, ..TextStyle::default() });
        }
    }
}
