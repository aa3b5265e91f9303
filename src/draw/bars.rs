//! What a bar chart shows: one number a label, e.g. the effect of each layer of a sweep.

mod svg;

use serde::{Deserialize, Serialize};

use super::{MAX_MARKS, PictureError};

/// Bars over labels, in one or several series side by side, with horizontal baselines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bars {
    /// Bold first line; wrapped. May be empty.
    pub title: String,
    /// Line under it; wrapped. May be empty.
    pub subtitle: String,
    /// Labels on x, e.g. layers. Left out where they would overlap.
    pub labels: Vec<String>,
    /// What x is, e.g. `layer`. May be empty.
    pub x_label: String,
    /// What the bars measure, with its unit: the label of the y axis.
    pub value_label: String,
    /// The bars. A legend names them where there is more than one series.
    pub series: Vec<Series>,
    /// Dashed lines over the whole width, e.g. the base and the source run's probability.
    pub baselines: Vec<Baseline>,
    /// Where bars begin, e.g. the base run's value: what does nothing then has no bar. Not finite: 0.
    pub origin: f64,
    /// How far the y axis reaches to either side of `origin`; as far as anything drawn if left out. Bars beyond are cut.
    pub reach: Option<f64>,
}

/// Bars of one colour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// One bar for each label.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bar {
    /// Its height. `None` or not finite: no bar.
    pub value: Option<f64>,
    /// It was measured and is no number: the place of the bar is hatched. Else, without a height, there is nothing.
    pub not_finite: bool,
    /// Half length of its error bar, e.g. a standard error. Negative or not finite: none.
    pub error: Option<f64>,
    /// Ends of its error bar where they are not equally far, e.g. of a confidence interval; goes before `error`. Not in order or
    /// not finite: none.
    pub interval: Option<[f64; 2]>,
    /// Drawn grey: nothing is left to compute after the edit, so its height says nothing.
    pub trivial: bool,
}

/// A dashed horizontal line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// Its name, printed at its right end with the value.
    pub label: String,
    /// Where it lies. Not finite: not drawn.
    pub value: f64,
}

impl Bar {
    /// A bar without an error.
    pub const fn of(value: f64) -> Self {
        Self { value: Some(value), not_finite: false, error: None, interval: None, trivial: false }
    }

    /// Height and the ends of the error bar, if the height is finite.
    pub(super) fn finite(&self) -> Option<(f64, Option<[f64; 2]>)> {
        let value = self.value.filter(|v| v.is_finite())?;
        let ordered = |ends: &[f64; 2]| ends.iter().all(|end| end.is_finite()) && ends[0] < ends[1];
        let around = self.error.filter(|e| e.is_finite() && *e > 0.0).map(|e| [value - e, value + e]);
        Some((value, self.interval.or(around).filter(ordered)))
    }
}

/// Several charts below each other on one scale, each with its own title, with one legend below them: that of the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BarPanels {
    /// Bold first line; wrapped. May be empty.
    pub title: String,
    /// Lines under it; wrapped. May be empty.
    pub subtitle: String,
    /// The charts; they have the same series.
    pub panels: Vec<Bars>,
}

impl BarPanels {
    /// Draws the charts as SVG.
    ///
    /// # Errors
    /// As [`Bars::to_svg`], for all charts together.
    pub fn to_svg(&self) -> Result<String, PictureError> {
        let marks = self.panels.iter().map(Bars::check).sum::<Result<usize, _>>()?;
        if marks > MAX_MARKS {
            return Err(PictureError::TooMany { got: marks, limit: MAX_MARKS });
        }
        Ok(svg::draw_panels(self))
    }
}

impl Bars {
    /// Draws the chart as SVG; bars carry their exact value as a tooltip. The y axis includes `origin`,
    /// every bar, error bar and baseline, unless `reach` says otherwise.
    ///
    /// # Errors
    /// [`PictureError::RaggedSeries`]: a series has not one bar for each label; [`PictureError::TooMany`]: more than
    /// [`MAX_MARKS`] bars.
    pub fn to_svg(&self) -> Result<String, PictureError> {
        let got = self.check()?;
        if got > MAX_MARKS {
            return Err(PictureError::TooMany { got, limit: MAX_MARKS });
        }
        Ok(svg::draw(self))
    }

    /// Where bars begin.
    pub(super) fn start(&self) -> f64 {
        if self.origin.is_finite() { self.origin } else { 0.0 }
    }

    /// How many marks it has.
    fn check(&self) -> Result<usize, PictureError> {
        let expected = self.labels.len();
        for (series, got) in self.series.iter().map(|s| s.bars.len()).enumerate() {
            if got != expected {
                return Err(PictureError::RaggedSeries { series, expected, got });
            }
        }
        Ok(expected.max(1).saturating_mul(self.series.len().max(1)).max(self.baselines.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Bars {
        let bar = |value, error| Bar { error, ..Bar::of(value) };
        Bars {
            title: "sweep".into(),
            labels: (0..4).map(|layer| layer.to_string()).collect(),
            value_label: "P".into(),
            series: vec![Series {
                name: "mlp".into(),
                bars: vec![bar(0.25, Some(0.05)), bar(-0.5, None), Bar::default(), bar(1.0 / 3.0, None)],
            }],
            baselines: vec![Baseline { label: "base".into(), value: 0.1 }],
            ..Bars::default()
        }
    }

    fn rects(svg: &str) -> Vec<(f64, f64)> {
        let document = resvg::usvg::roxmltree::Document::parse(svg).expect("well-formed");
        let number = |node: &resvg::usvg::roxmltree::Node<'_, '_>, name| {
            node.attribute(name).and_then(|text| text.parse::<f64>().ok()).expect("a number")
        };
        let bars = document.descendants().filter(|n| n.has_tag_name("rect") && n.has_children());
        bars.map(|n| (number(&n, "y"), number(&n, "height"))).collect()
    }

    #[test]
    fn heights_are_proportional_and_signs_lie_on_either_side_of_zero() {
        let svg = example().to_svg().expect("drawn");
        let bars = rects(&svg);
        assert_eq!(bars.len(), 3);
        let (zero_from_above, zero_from_below) = (bars[0].0 + bars[0].1, bars[1].0);
        assert!((zero_from_above - zero_from_below).abs() < 0.02);
        assert!((bars[1].1 / bars[0].1 - 2.0).abs() < 0.01);
        assert!(svg.contains("0.3333333333333333"), "the exact value is in the tooltip");
    }

    #[test]
    fn bars_begin_at_the_origin_so_that_what_does_nothing_has_none() {
        let bars = Bars {
            labels: ["up", "none", "down"].map(str::to_owned).to_vec(),
            series: vec![Series { name: String::new(), bars: [-8.0, -8.7, -9.4].map(Bar::of).to_vec() }],
            origin: -8.7,
            ..Bars::default()
        };
        let drawn = rects(&bars.to_svg().expect("drawn"));
        let start = drawn[1].0;
        assert!(drawn[1].1 < 0.01, "{drawn:?}");
        assert!((drawn[0].0 + drawn[0].1 - start).abs() < 0.02 && drawn[0].1 > 20.0, "{drawn:?}");
        assert!((drawn[2].0 - start).abs() < 0.02 && (drawn[2].1 - drawn[0].1).abs() < 0.02, "{drawn:?}");
        // Far from 0, the axis shows what there is.
        assert!(!bars.to_svg().expect("drawn").contains(">0.0<"));
        let wide = Bars { reach: Some(7.0), ..bars }.to_svg().expect("drawn");
        let low = rects(&wide)[0].1;
        assert!(low > 1.0 && low < drawn[0].1 / 8.0, "{low} {drawn:?}");
    }

    #[test]
    fn the_same_chart_gives_the_same_bytes() {
        assert_eq!(example().to_svg(), example().to_svg());
    }

    #[test]
    fn a_series_of_another_length_is_an_error() {
        let mut bars = example();
        bars.series[0].bars.pop();
        assert_eq!(bars.to_svg(), Err(PictureError::RaggedSeries { series: 0, expected: 4, got: 3 }));
    }

    #[test]
    fn no_number_is_too_odd_to_draw() {
        let odd = [0.0, -0.0, 5e-324, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-30];
        for a in odd {
            for b in odd {
                let mut bars = example();
                bars.series[0].bars[0] =
                    Bar { error: Some(b), interval: Some([b, a]), trivial: true, ..Bar::of(a) };
                bars.baselines[0].value = b;
                let svg = bars.to_svg().expect("drawn");
                assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{a} {b}");
                resvg::usvg::roxmltree::Document::parse(&svg).expect("well-formed");
            }
        }
        assert!(Bars::default().to_svg().expect("drawn").contains("no bars"));
        let baseline_only = Bars { baselines: example().baselines, ..Bars::default() };
        assert!(baseline_only.to_svg().is_ok());
    }
}
