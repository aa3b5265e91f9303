//! The colour bar beside a heatmap.

use super::font::{self, Weight};
use super::frame::AXIS;
use super::label;
use super::scale;
use super::svg::{Anchor, Svg, TextStyle};

const TICK: f64 = 10.0;
const BAR_WIDTH: f64 = 12.0;

/// A vertical strip of the scale's colours with ticks and a label.
pub(super) struct ColourBar {
    /// Of the strip.
    pub(super) height: f64,
    lines: Vec<String>,
    /// Places from 0 (bottom) to 1, and texts.
    ticks: Vec<(f64, String)>,
    from_zero: bool,
    /// With ticks and label, and the space before it.
    pub(super) width: f64,
}

impl ColourBar {
    /// `end`: the scale's end, `None` where nothing was measured. `room`: the height of what the bar stands beside.
    pub(super) fn new(title: &str, end: Option<f64>, from_zero: bool, room: f64) -> Self {
        let height = room.max(100.0);
        let title = label::one_line(title);
        let lines = font::wrap(&title, 11.0, Weight::Regular, height, 4);
        let ticks = match end {
            None => vec![(0.5, "no data".to_owned())],
            Some(end) if end > 0.0 => scale::symmetric_ticks(end)
                .into_iter()
                .zip(if from_zero { [-1.0, -0.5, 0.0, 0.5, 1.0] } else { [0.0, 0.25, 0.5, 0.75, 1.0] })
                .map(|((_, text), at)| (at, text))
                .filter(|(at, _)| *at >= 0.0)
                .collect(),
            Some(_) => vec![(0.5, "0".to_owned())],
        };
        let widest = ticks.iter().map(|(_, text)| width(text)).fold(0.0, f64::max);
        let width = 14.0 + BAR_WIDTH + 6.0 + widest + lines.len() as f64 * 14.0 + 6.0;
        Self { height, lines, ticks, from_zero, width }
    }

    /// `(x, y)`: upper left corner of the coloured strip. `id` names its gradient.
    pub(super) fn draw(&self, svg: &mut Svg, id: &str, x: f64, y: f64) {
        let flat = self.ticks.len() == 1;
        svg.open(
            "linearGradient",
            &[
                ("id", id.into()),
                ("x1", 0.0.into()),
                ("y1", 0.0.into()),
                ("x2", 0.0.into()),
                ("y2", 1.0.into()),
            ],
        );
        for step in 0..=32 {
            let at = f64::from(step) / 32.0;
            let colour = if flat {
                scale::NEUTRAL
            } else {
                scale::diverging(if self.from_zero { 1.0 - at } else { 1.0 - 2.0 * at })
            };
            let (offset, colour) = (format!("{at}"), colour.to_string());
            svg.leaf("stop", &[("offset", offset.as_str().into()), ("stop-color", colour.as_str().into())]);
        }
        svg.close("linearGradient");
        let fill = format!("url(#{id})");
        svg.leaf(
            "rect",
            &[
                ("x", x.into()),
                ("y", y.into()),
                ("width", BAR_WIDTH.into()),
                ("height", self.height.into()),
                ("fill", fill.as_str().into()),
                ("stroke", AXIS.into()),
                ("stroke-width", 0.8.into()),
            ],
        );
        let mut right: f64 = 0.0;
        for (at, text) in &self.ticks {
            let ty = y + self.height * (1.0 - at);
            svg.line((x + BAR_WIDTH, ty), (x + BAR_WIDTH + 3.0, ty), AXIS, 0.8);
            svg.text(
                x + BAR_WIDTH + 6.0,
                ty + TICK * 0.36,
                text,
                TextStyle { size: TICK, ..TextStyle::default() },
            );
            right = right.max(width(text));
        }
        for (index, line) in self.lines.iter().enumerate() {
            let lx = x + BAR_WIDTH + 6.0 + right + 14.0 * (index + 1) as f64;
            let style =
                TextStyle { size: 11.0, anchor: Anchor::Middle, rotate: -90.0, ..TextStyle::default() };
            svg.text(lx, y + self.height / 2.0, line, style);
        }
    }
}

fn width(text: &str) -> f64 {
    font::width(text, TICK, Weight::Regular)
}
