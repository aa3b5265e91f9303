//! Everything that can be drawn of a result, and how a request chooses from it. A job keeps these, so that its pictures can
//! be chosen from later as those of an answer are.

use serde::{Deserialize, Serialize};

use super::format::{Format, PictureRequestError, RenderError};
use crate::draw::bars::Bars;
use crate::draw::heatmap::Figure;
use crate::draw::{PictureError, raster};
use crate::spec::choices;
use crate::spec::select::TokenClass;

/// Pixels of a PNG per unit of its SVG.
const PNG_SCALE: f32 = 2.0;

/// Panels that one picture shows at most.
pub const MAX_PANELS: usize = 32;

choices! {
/// A kind of picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plot {
    /// Numbers along one axis; of a sweep one series an arm, with intervals.
    Bars = "bars",
    /// Numbers by two axes, one panel an arm.
    Heatmap = "heatmap",
    /// What each layer would predict at each position.
    Lens = "lens",
    /// Attention patterns, one panel a head.
    Attention = "attention",
    /// Shares of a logit by layer, and by head.
    Attribution = "attribution",
}
}

/// What a request asks to be shown; whatever suits the result where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Show {
    /// The metric.
    pub metric: Option<String>,
    /// The kind of picture.
    pub kind: Option<Plot>,
    /// The group of cases.
    pub group: Option<String>,
    /// The class of tokens.
    pub token_class: Option<TokenClass>,
    /// The arm, or the head.
    pub arm: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// The first line, in place of the usual one.
    pub title: Option<String>,
    /// The end of the scale.
    pub vmax: Option<f64>,
}

/// A picture of one panel or several, or of bars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picture {
    /// Heatmaps.
    Figure(Figure),
    /// Bars.
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

/// A picture with what it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plate {
    /// Its kind.
    pub kind: Plot,
    /// The metric shown, if it is one.
    pub metric: Option<String>,
    /// The run shown, if it is one of several.
    pub run: Option<String>,
    /// The group of cases shown alone.
    pub group: Option<String>,
    /// Names of the panels, if there are some to choose from.
    pub parts: Vec<String>,
    /// The picture.
    pub picture: Picture,
}

/// Everything that can be drawn of a result, what is usual first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pictures(pub Vec<Plate>);

impl Pictures {
    /// The picture asked for.
    ///
    /// # Errors
    /// [`PictureRequestError`]: something is asked for that the result doesn't have.
    pub fn chosen(&self, show: &Show) -> Result<Picture, PictureRequestError> {
        if show.token_class.is_some() {
            let of = "is of a sweep averaged by token class";
            return Err(PictureRequestError::NotHere { parameter: "token_class", of });
        }
        let mut left: Vec<&Plate> = self.0.iter().collect();
        if show.group.is_none() {
            left.retain(|plate| plate.group.is_none());
        } else if left.iter().all(|plate| plate.group.is_none()) {
            return Err(PictureRequestError::NotHere { parameter: "group", of: "is of cases with groups" });
        }
        narrow(&mut left, "group", show.group.as_deref(), |plate| plate.group.as_deref())?;
        let asked = show.kind.map(Plot::name);
        narrow(&mut left, "kind", asked, |plate| Some(plate.kind.name()))?;
        narrow(&mut left, "run", show.run.as_deref(), |plate| plate.run.as_deref())?;
        narrow(&mut left, "metric", show.metric.as_deref(), |plate| plate.metric.as_deref())?;
        let plate = left.first().ok_or(PictureRequestError::NoMetrics)?;
        let mut picture = plate.picture.clone();
        if let Some(arm) = &show.arm {
            let unknown = || unknown("arm", arm, plate.parts.iter().map(String::as_str));
            let at = plate.parts.iter().position(|part| part == arm).ok_or_else(unknown)?;
            if let Picture::Figure(figure) = &mut picture {
                let panel = figure.panels.swap_remove(at);
                // A single panel's own title isn't drawn.
                figure.title = [figure.title.as_str(), panel.title.as_str()].join(", ");
                figure.panels = vec![panel];
            }
        } else if let Picture::Figure(figure) = &mut picture
            && figure.panels.len() > MAX_PANELS
        {
            let all = figure.panels.len();
            figure.panels.truncate(MAX_PANELS);
            figure.subtitle = format!(
                "{}\u{a0}·  the first {MAX_PANELS} of {all}: `arm` names one, as {}",
                figure.subtitle,
                plate.parts[all - 1]
            );
        }
        match &mut picture {
            Picture::Figure(figure) => {
                figure.scale_end = show.vmax.or(figure.scale_end);
                if let Some(title) = &show.title {
                    figure.title.clone_from(title);
                }
            }
            Picture::Bars(bars) => {
                bars.reach = show.vmax.or(bars.reach);
                if let Some(title) = &show.title {
                    bars.title.clone_from(title);
                }
            }
        }
        Ok(picture)
    }

    /// The picture asked for as SVG or PNG.
    ///
    /// # Errors
    /// As [`Pictures::chosen`], or it cannot be drawn.
    pub fn draw(&self, show: &Show, format: Format) -> Result<Vec<u8>, RenderError> {
        pixels(self.chosen(show)?.to_svg()?, format)
    }
}

/// An SVG as it is, or as PNG.
pub(super) fn pixels(svg: String, format: Format) -> Result<Vec<u8>, RenderError> {
    Ok(if format == Format::Png { raster::png(&svg, PNG_SCALE)? } else { svg.into_bytes() })
}

/// Leaves the plates that have what is asked for.
fn narrow(
    left: &mut Vec<&Plate>,
    parameter: &'static str,
    asked: Option<&str>,
    of: impl for<'p> Fn(&'p Plate) -> Option<&'p str>,
) -> Result<(), PictureRequestError> {
    let Some(asked) = asked else { return Ok(()) };
    let known = left.clone();
    left.retain(|plate| of(plate) == Some(asked));
    if left.is_empty() {
        return Err(unknown(parameter, asked, known.into_iter().filter_map(of)));
    }
    Ok(())
}

/// What is asked for is not there; what is, each once.
pub(super) fn unknown<'k>(
    parameter: &'static str,
    asked: &str,
    all: impl Iterator<Item = &'k str>,
) -> PictureRequestError {
    let mut known: Vec<String> = Vec::new();
    for one in all {
        if !known.iter().any(|name| name == one) {
            known.push(one.to_owned());
        }
    }
    PictureRequestError::Unknown { parameter, asked: asked.to_owned(), known }
}
