//! Averages of two axes as heatmaps, one panel an arm, all on one scale.

use super::SweepOutcome;
use super::arm::{Arm, class, subtitle, what};
use crate::draw::heatmap::{Column, Figure, Heatmap};
use crate::lower::layout::Axis;
use crate::result::common::{CLASS, Masks, NdArray};
use crate::result::phrases;
use crate::result::pictures::{PictureRequestError, arrangement, laid_out};
use crate::result::plates::{MAX_PANELS, Plot};
use crate::result::render::RenderError;
use crate::spec::select::TokenClass;

/// The heatmaps of every arm whose averages have at most two axes.
pub(super) fn of(outcome: &SweepOutcome, metric: &str, arms: &[Arm<'_>]) -> Result<Figure, RenderError> {
    let (shown, left_out): (Vec<&Arm<'_>>, Vec<&Arm<'_>>) = arms.iter().partition(|arm| arm.axes.len() < 3);
    if shown.is_empty() {
        let reason = format!("a heatmap has two axes, but these averages are by {}", left_out[0].by());
        let fix = "average by two of layer, token_class, position, head and dim, or ask for numbers";
        return Err(RenderError::Plot { asked: Plot::Heatmap.name(), reason, fix });
    }
    let what = what(metric);
    // Each group on a line of its own.
    let line = shown.iter().filter(|arm| arm.group == shown[0].group).count();
    let facets = shown.iter().any(|arm| arm.group.is_some()) && shown.iter().any(|arm| arm.group.is_none());
    let all = shown.len();
    let shown: Vec<&Arm<'_>> = shown.into_iter().take(MAX_PANELS).collect();
    let panels: Vec<Heatmap> = shown
        .iter()
        .map(|arm| {
            let mut panel = panel(arm, facets)?;
            panel.value_label = format!("mean effect on {}", phrases::unbroken(&what));
            Ok(panel)
        })
        .collect::<Result<_, PictureRequestError>>()?;
    let mut title = format!("Average indirect effect: {what}");
    // A single panel's own title isn't drawn.
    if let [only] = &panels[..] {
        title = format!("{title}, {}", only.title);
    }
    let mut subtitle = subtitle(outcome, metric, &shown, false, &left_out);
    if all > shown.len() {
        subtitle =
            format!("{subtitle}\u{a0}·  the first {MAX_PANELS} of {all} panels: `group` and `arm` choose");
    }
    let arrangement = arrangement(&panels, facets.then_some(line));
    Ok(Figure { title, subtitle, panels, shared_scale: true, arrangement, ..Figure::default() })
}

fn panel(arm: &Arm<'_>, facets: bool) -> Result<Heatmap, PictureRequestError> {
    let mut axes: Vec<Axis> = (0..arm.axes.len()).map(|i| arm.axis(i).clone()).collect();
    // Layers alone go up, beside the other arms' layers.
    if let [Axis { name: "layer", .. }] = axes[..] {
        axes.push(Axis { name: "", values: vec![0] });
    }
    let shape: Vec<usize> = axes.iter().map(|axis| axis.values.len()).collect();
    let known = |cells: Vec<bool>| NdArray::new(&shape, cells.into_iter().map(Some).collect());
    let masks = Masks {
        exact_null: known(arm.dense.all(|row| row.exact_null)),
        trivial: known(arm.dense.all(|row| row.trivial)),
        lost: arm.dense.rows.iter().map(Option::is_none).collect(),
    };
    let sites = arm.head.sites.join(" + ");
    let column = |axis: &Axis, value: u32| match axis.name {
        CLASS => Column { text: class(value), marked: value <= TokenClass::LastSubject as u32 },
        "" => Column { text: arm.head.name.clone(), marked: false },
        _ => Column { text: value.to_string(), marked: false },
    };
    let values = arm.dense.numbers(|row| row.effect.mean);
    let mut map = laid_out(&axes, &values, &masks, &sites, column, || arm.name())?;
    let name = arm.panel(facets);
    map.title = if sites.is_empty() { name } else { format!("{name}: {sites}") };
    map.x_label = axes
        .iter()
        .map(|axis| axis.name.replace('_', " "))
        .find(|name| *name != map.y_label)
        .unwrap_or_default();
    "subject".clone_into(&mut map.mark_label);
    Ok(map)
}
