//! A sweep's averages as a picture.

use super::arm::{Arm, drawn};
use super::{SweepOutcome, bars, heatmaps};
use crate::result::pictures::{PictureRequestError, chosen};
use crate::result::plates::{Plot, Show, pixels};
use crate::result::render::{Format, RenderError};

/// Average effects on a metric (the first one if none is asked for), as SVG or PNG: by default bars where averages have one
/// axis, else heatmaps. Where groups are told apart, each has panels of its own. Bars of averages by token class too show the class with the largest |mean| and
/// the last token, each in a panel. Arms whose averages have too many axes for the kind are named in the subtitle.
///
/// # Errors
/// [`RenderError`]: an unknown metric, a format that is no picture, averages that have no such picture, or none at all.
pub fn picture(outcome: &SweepOutcome, show: &Show, format: Format) -> Result<Vec<u8>, RenderError> {
    let metrics: Vec<&str> = outcome.metrics.iter().map(String::as_str).collect();
    let metric = chosen(show.metric.as_deref(), &metrics)?;
    if show.run.is_some() {
        return Err(PictureRequestError::NotHere { parameter: "run", of: "is of clean runs" }.into());
    }
    let arms = drawn(outcome, metric, show)?;
    if arms.is_empty() {
        let kept = outcome.averages.kept;
        let of = if kept == 0 { "no case was kept; the sweep" } else { "the sweep" };
        return Err(PictureRequestError::NoCells { of: of.to_owned() }.into());
    }
    let one = |arm: &Arm<'_>| arm.axes.len() < 2;
    let usual = if arms.iter().all(one) { Plot::Bars } else { Plot::Heatmap };
    let svg = match show.kind.unwrap_or(usual) {
        Plot::Bars => {
            let mut bars = bars::of(outcome, metric, &arms)?;
            if let Some(title) = &show.title {
                bars.title.clone_from(title);
            }
            for panel in &mut bars.panels {
                panel.reach = show.vmax;
            }
            bars.to_svg()?
        }
        Plot::Heatmap => {
            let mut figure = heatmaps::of(outcome, metric, &arms)?;
            if let Some(title) = &show.title {
                figure.title.clone_from(title);
            }
            figure.scale_end = show.vmax;
            figure.to_svg()?
        }
        other => {
            let reason = "a sweep has bars or heatmaps".to_owned();
            return Err(RenderError::Plot { asked: other.name(), reason, fix: "write `bars` or `heatmap`" });
        }
    };
    pixels(svg, format)
}
