//! A sweep's averages as a picture.

use super::arm::{Arm, Plot, drawn};
use super::{SweepOutcome, bars, heatmaps};
use crate::draw::raster;
use crate::result::pictures::{PictureRequestError, chosen};
use crate::result::render::{Format, PNG_SCALE, RenderError};

/// Average effects over all cases on `metric` (the first one if left out), as SVG or PNG. `kind`: by default bars where
/// averages have one axis, else heatmaps. Bars of averages by token class too show the class with the largest |mean| and
/// the last token, each in a panel. Arms whose averages have too many axes for the kind are named in the subtitle.
///
/// # Errors
/// [`RenderError`]: an unknown metric, a format that is no picture, averages that have no such picture, or none at all.
pub fn picture(
    outcome: &SweepOutcome,
    metric: Option<&str>,
    kind: Option<Plot>,
    format: Format,
) -> Result<Vec<u8>, RenderError> {
    if !matches!(format, Format::Svg | Format::Png) {
        return Err(RenderError::Format { asked: format, served: &[Format::Svg, Format::Png] });
    }
    let metrics: Vec<&str> = outcome.metrics.iter().map(String::as_str).collect();
    let metric = chosen(metric, &metrics)?;
    let arms = drawn(outcome, metric);
    if arms.is_empty() {
        let kept = outcome.averages.kept;
        let of = if kept == 0 { "no case was kept; the sweep" } else { "the sweep" };
        return Err(PictureRequestError::NoCells { of: of.to_owned() }.into());
    }
    let kind = kind.unwrap_or_else(|| {
        let one = |arm: &Arm<'_>| arm.axes.len() < 2;
        if arms.iter().all(one) { Plot::Bars } else { Plot::Heatmap }
    });
    let svg = match kind {
        Plot::Bars => bars::of(outcome, metric, &arms)?.to_svg()?,
        Plot::Heatmap => heatmaps::of(outcome, metric, &arms)?.to_svg()?,
    };
    Ok(if format == Format::Svg { svg.into_bytes() } else { raster::png(&svg, PNG_SCALE)? })
}
