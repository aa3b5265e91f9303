//! Averages over cases in the formats beside JSON: a table, named arrays, a heatmap of layers by token class.

use std::collections::BTreeMap;

use super::cases::{CasesResponse, ClassArm, ClassEstimates};
use super::common::{CLASS, Masks, NdArray};
use super::files::{Arrays, metadata, part};
use super::numbers::OfMetric;
use super::phrases;
use super::pictures::{DOT, PictureRequestError, arrangement, laid_out, restored};
use super::plates::{Picture, Plate, Plot};
use super::rows::Rows;
use crate::draw::heatmap::{Column, Figure, Heatmap};
use crate::effect::bootstrap::CaseEstimate;
use crate::effect::stats::Estimate;
use crate::export::csv::Column as TableColumn;
use crate::lower::layout::Axis;
use crate::spec::named::Named;
use crate::spec::select::TokenClass;

/// Averages: a row for each metric of each class and layer of each arm, over all cases and then
/// within each group.
///
/// Columns: group (empty: all cases), arm, site, window, class, layer, metric, effect, effect_se, effect_ci_low,
/// effect_ci_high, effect_ci_t_low, effect_ci_t_high, effect_median, effect_trimmed_mean (empty if not asked for), n, recovery, recovery_ci_low, recovery_ci_high, cells, trivial, exact_null, total_effect,
/// total_effect_ci_low, total_effect_ci_high. Where two groups are compared, rows of the group `A - B` hold differences
/// of effects, and nothing else.
#[expect(clippy::doc_markdown, reason = "names of columns")]
pub fn table(response: &CasesResponse) -> Vec<TableColumn> {
    let mut rows = Vec::new();
    for (name, arm) in response.arms.iter() {
        rows.extend(arm_rows("", name, arm, &response.total_effect));
    }
    for (group, result) in response.groups.iter() {
        for (name, arm) in result.arms.iter() {
            rows.extend(arm_rows(group, name, arm, &result.total_effect));
        }
    }
    let compared = response.difference.as_ref().map(|two| (format!("{} - {}", two.of[0], two.of[1]), two));
    if let Some((group, two)) = &compared {
        for (name, effects) in two.effects.iter() {
            let Some(arm) = response.arms.get(name) else { continue };
            for (key, estimates) in effects.iter() {
                let cells = 0..estimates.mean.data.len();
                rows.extend(cells.map(|cell| Row { group, name, arm, key, cell, estimates, pooled: None }));
            }
        }
    }
    let pooled = |row: &Row<'_>, of: fn(&ClassArm) -> &NdArray<usize>| {
        row.pooled.and(Some(of(row.arm).data[row.cell] as u32))
    };
    let share = |row: &Row<'_>, of: fn(&super::cases::ClassShares) -> &NdArray<Option<f64>>| {
        row.pooled.and(row.arm.recovery.get(row.key)).and_then(|shares| of(shares).data[row.cell])
    };
    Rows::new(rows)
        .text("group", |row| row.group)
        .text("arm", |row| row.name)
        .text("site", |row| row.arm.site.name())
        .int("window", |row| Some(row.arm.window))
        .text("class", |row| TokenClass::ALL[row.cell / depth(row.arm)].0)
        .int("layer", |row| Some(row.arm.layers.as_ref()?[row.cell % depth(row.arm)]))
        .text("metric", |row| row.key)
        .float("effect", |row| row.estimates.mean.data[row.cell])
        .float("effect_se", |row| row.estimates.se.data[row.cell])
        .float("effect_ci_low", |row| row.estimates.ci_low.data[row.cell])
        .float("effect_ci_high", |row| row.estimates.ci_high.data[row.cell])
        .float("effect_ci_t_low", |row| row.estimates.ci_t_low.data[row.cell])
        .float("effect_ci_t_high", |row| row.estimates.ci_t_high.data[row.cell])
        .float("effect_median", |row| row.estimates.median.as_ref()?.value.data[row.cell])
        .float("effect_trimmed_mean", |row| row.estimates.trimmed_mean.as_ref()?.value.data[row.cell])
        .int("n", |row| Some(row.estimates.n.data[row.cell] as u32))
        .float("recovery", |row| share(row, |shares| &shares.value))
        .float("recovery_ci_low", |row| share(row, |shares| &shares.ci_low))
        .float("recovery_ci_high", |row| share(row, |shares| &shares.ci_high))
        .int("cells", |row| pooled(row, |arm| &arm.cells))
        .int("trivial", |row| pooled(row, |arm| &arm.trivial))
        .int("exact_null", |row| pooled(row, |arm| &arm.exact_null))
        .float("total_effect", |row| row.pooled?.mean)
        .float("total_effect_ci_low", |row| Some(row.pooled?.ci?[0]))
        .float("total_effect_ci_high", |row| Some(row.pooled?.ci?[1]))
        .columns
}

struct Row<'r> {
    group: &'r str,
    name: &'r str,
    arm: &'r ClassArm,
    key: &'r str,
    /// Index into `[classes, layers]`.
    cell: usize,
    estimates: &'r ClassEstimates,
    /// The total effect of the cases averaged; none in a comparison.
    pooled: Option<&'r CaseEstimate>,
}

fn arm_rows<'r>(
    group: &'r str,
    name: &'r str,
    arm: &'r ClassArm,
    totals: &'r Named<CaseEstimate>,
) -> Vec<Row<'r>> {
    let rows = arm.effects.iter().flat_map(|(key, estimates)| {
        let cells = 0..estimates.mean.data.len();
        cells.map(move |cell| Row { group, name, arm, key, cell, estimates, pooled: totals.get(key) })
    });
    rows.collect()
}

fn depth(arm: &ClassArm) -> usize {
    arm.layers.as_ref().map_or(1, Vec::len)
}

/// Averages as arrays `[classes, layers]`.
///
/// Of each arm: `{arm}/{metric}/` + `effect_mean`, `effect_se`, `effect_ci_low`, `effect_ci_high`, `effect_ci_t_low`,
/// `effect_ci_t_high`, and if asked for `effect_median`, `effect_trimmed_mean`, `n`, `recovery`,
/// `recovery_ci_low`, `recovery_ci_high`, `argmax_histogram`; `{arm}/cells`, `{arm}/trivial`, `{arm}/exact_null`,
/// `{arm}/layers`; `total_effect/{metric}/` + `mean`, `se`, `ci_low`, `ci_high`. The same of groups under
/// `groups/{group}/`; `difference/{arm}/{metric}/` + `mean`, `se`, `ci_low`, `ci_high`, `ci_t_low`, `ci_t_high`, `n`. With `keep.per_case`
/// `cases/{id}/{arm}/{metric}`. Classes are those of the JSON response, in its order.
pub fn arrays(response: &CasesResponse) -> Vec<OfMetric> {
    let mut out = Arrays::default();
    pool(&mut out, "", &response.arms, &response.total_effect);
    for (name, group) in response.groups.iter() {
        pool(&mut out, &format!("groups/{}/", part(name)), &group.arms, &group.total_effect);
    }
    for (name, effects) in response.difference.iter().flat_map(|two| two.effects.iter()) {
        out.each(effects, |out, key, estimates| {
            estimated(out, &format!("difference/{}/{}/", part(name), part(key)), estimates);
        });
    }
    for case in &response.cases {
        for (name, effects) in case.effects.iter() {
            out.each(effects, |out, key, array| {
                out.floats(format!("cases/{}/{}/{}", part(&case.id), part(name), part(key)), array);
            });
        }
    }
    out.into_list()
}

fn pool(out: &mut Arrays, prefix: &str, arms: &Named<ClassArm>, totals: &Named<CaseEstimate>) {
    for (name, arm) in arms.iter() {
        let path = format!("{prefix}{}", part(name));
        out.each(&arm.effects, |out, key, estimates| {
            let metric = format!("{path}/{}", part(key));
            estimated(out, &format!("{metric}/effect_"), estimates);
            if let Some(shares) = arm.recovery.get(key) {
                out.floats(format!("{metric}/recovery"), &shares.value);
                out.floats(format!("{metric}/recovery_ci_low"), &shares.ci_low);
                out.floats(format!("{metric}/recovery_ci_high"), &shares.ci_high);
            }
            if let Some(histogram) = arm.argmax_histogram.get(key) {
                out.counts(format!("{metric}/argmax_histogram"), histogram);
            }
        });
        out.counts(format!("{path}/cells"), &arm.cells);
        out.counts(format!("{path}/trivial"), &arm.trivial);
        out.counts(format!("{path}/exact_null"), &arm.exact_null);
        if let Some(layers) = &arm.layers {
            out.ints(format!("{path}/layers"), layers.iter().copied());
        }
    }
    out.each(totals, |out, key, total| {
        let path = format!("{prefix}total_effect/{}", part(key));
        out.scalar(format!("{path}/mean"), total.mean);
        out.scalar(format!("{path}/se"), total.se);
        out.scalar(format!("{path}/ci_low"), total.ci.map(|[low, _]| low));
        out.scalar(format!("{path}/ci_high"), total.ci.map(|[_, high]| high));
    });
}

fn estimated(out: &mut Arrays, prefix: &str, estimates: &ClassEstimates) {
    out.floats(format!("{prefix}mean"), &estimates.mean);
    out.floats(format!("{prefix}se"), &estimates.se);
    out.floats(format!("{prefix}ci_low"), &estimates.ci_low);
    out.floats(format!("{prefix}ci_high"), &estimates.ci_high);
    out.floats(format!("{prefix}ci_t_low"), &estimates.ci_t_low);
    out.floats(format!("{prefix}ci_t_high"), &estimates.ci_t_high);
    for (name, robust) in [("median", &estimates.median), ("trimmed_mean", &estimates.trimmed_mean)] {
        if let Some(robust) = robust {
            out.floats(format!("{prefix}{name}"), &robust.value);
        }
    }
    let n = prefix.strip_suffix("effect_").unwrap_or(prefix);
    out.counts(format!("{n}n"), &estimates.n);
}

/// Metadata of averages, by the same names as of every response; `token_texts` is a JSON object from cases to token ids.
pub fn cases_metadata(response: &CasesResponse) -> BTreeMap<String, String> {
    let tokens: Named<&[u32]> =
        response.cases.iter().map(|case| (case.id.clone(), case.tokens.as_slice())).collect();
    metadata(&response.id, &response.model, &response.request, &response.provenance, &response.lints, &tokens)
}

/// The heatmaps of averages: one panel per arm on one scale, layers by token class, each cell the mean indirect effect on
/// a metric; where there are groups, each has panels of its own. `only`: of this group alone.
fn figure(
    response: &CasesResponse,
    key: &str,
    only: Option<&str>,
) -> Result<(Figure, Vec<String>), PictureRequestError> {
    let what = phrases::metric(key, &response.request.sweep().experiment(0), &Named::default());
    let mut pools = vec![(None, &response.arms, &response.total_effect)];
    pools.extend(response.groups.iter().map(|(name, group)| (Some(name), &group.arms, &group.total_effect)));
    let facets = only.is_none() && pools.len() > 1;
    if only.is_some() {
        pools.retain(|(name, ..)| *name == only);
    }
    let (mut parts, mut panels) = (Vec::new(), Vec::new());
    for (group, arms, _) in &pools {
        for (name, arm) in arms.iter() {
            let mut panel = panel(response, name, arm, key)?;
            panel.value_label = format!("mean indirect effect on {}", phrases::unbroken(&what));
            if facets {
                panel.title = format!("{}, {}", panel.title, group.unwrap_or("all cases"));
            }
            panels.push(panel);
            parts.push(if facets {
                group.map_or_else(|| name.to_owned(), |group| format!("{name}, {group}"))
            } else {
                name.to_owned()
            });
        }
    }
    if panels.is_empty() || response.kept == 0 {
        return Err(PictureRequestError::NoCells { of: "the average".to_owned() });
    }
    let mut subtitle = vec![
        response.model.clone(),
        phrases::direction(response.direction).to_owned(),
        phrases::corruption_of_cases(response),
        format!("{} of {} cases", response.kept, response.cases.len()).replace(' ', "\u{a0}"),
    ];
    subtitle.extend(only.map(|group| format!("group: {group}")));
    for (group, _, totals) in &pools {
        let Some(total) = totals.get(key) else { continue };
        let total = Estimate { mean: total.mean, se: total.se };
        let of = group.filter(|_| facets).map_or_else(String::new, |group| format!(" of {group}"));
        subtitle.push(phrases::estimate(&format!("total effect{of}"), &total));
    }
    subtitle.extend(phrases::warnings(&response.lints));
    let arrangement = arrangement(&panels, facets.then_some(response.arms.0.len()));
    let title = format!("Average causal trace: {what}");
    let subtitle = subtitle.join(DOT);
    Ok((Figure { title, subtitle, panels, shared_scale: true, arrangement, ..Figure::default() }, parts))
}

/// The pictures of averages: of each metric one of everything, and one of each group.
pub(super) fn plates(response: &CasesResponse) -> Result<Vec<Plate>, PictureRequestError> {
    let mut plates = Vec::new();
    for metric in response.total_effect.names() {
        for group in std::iter::once(None).chain(response.groups.names().into_iter().map(Some)) {
            let (figure, parts) = figure(response, metric, group)?;
            plates.push(Plate {
                kind: Plot::Heatmap,
                metric: Some(metric.to_owned()),
                run: None,
                group: group.map(str::to_owned),
                parts,
                picture: Picture::Figure(figure),
            });
        }
    }
    Ok(plates)
}

fn panel(
    response: &CasesResponse,
    name: &str,
    arm: &ClassArm,
    key: &str,
) -> Result<Heatmap, PictureRequestError> {
    let of = || format!("arm {name}");
    let none = || PictureRequestError::NoCells { of: of() };
    let effects = arm.effects.get(key).filter(|effects| !effects.mean.data.is_empty()).ok_or_else(none)?;
    let classes = Axis { name: CLASS, values: (0..response.classes.len() as u32).collect() };
    let layers = arm.layers.iter().map(|layers| Axis { name: "layer", values: layers.clone() });
    let axes: Vec<Axis> = std::iter::once(classes).chain(layers).collect();
    let all = |counted: &NdArray<usize>| {
        let pairs = counted.data.iter().zip(&arm.cells.data);
        NdArray::new(&counted.shape, pairs.map(|(n, cells)| Some(*cells > 0 && n == cells)).collect())
    };
    let masks = Masks {
        exact_null: all(&arm.exact_null),
        trivial: all(&arm.trivial),
        // Of a class that no case has there is nothing to tell.
        lost: arm.cells.data.iter().map(|cells| *cells == 0).collect(),
    };
    let column = |axis: &Axis, value: u32| match response.classes.get(value as usize) {
        Some(class) if axis.name == CLASS => {
            Column { text: class.name().replace('_', " "), marked: *class <= TokenClass::LastSubject }
        }
        _ => Column { text: value.to_string(), marked: false },
    };
    let mut panel = laid_out(&axes, &effects.mean.data, &masks, arm.site.name(), column, of)?;
    restored(&mut panel, name, arm.site, arm.window);
    "subject".clone_into(&mut panel.mark_label);
    Ok(panel)
}
