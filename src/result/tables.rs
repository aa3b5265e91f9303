//! Responses as tidy tables for CSV: one row a measurement, missing values empty.

use super::asked_cells::CellToken;
use super::common::TopToken;
use super::inside::{AttentionResult, AttributionResult, LensResult};
use super::patch::PatchResponse;
use super::pictures::sources;
use super::rows::Rows;
use super::run::RunResponse;
use super::trace::TraceResponse;
use crate::export::csv::Column;
use crate::lower::layout::CellKey;

/// A trace: a row for each metric of each cell of each arm.
///
/// Columns: arm, site, window, layer, position, token, head, dim, source_layer, metric, value, value_se, effect, effect_se, recovery,
/// exact_null, trivial, clean, corrupted. Values, effects and `corrupted` are means over the noise samples.
///
/// Of cells that the request names in `cells`, also a row for each token that is told: its metric is `prob`, and three columns more
/// say which it is: id, says (its text), top_of (`cell`, `clean`, `corrupted`, with spaces between them).
#[expect(clippy::doc_markdown, reason = "names of columns")]
pub fn trace_table(response: &TraceResponse) -> Vec<Column> {
    let mut rows = Vec::new();
    for (name, arm) in response.arms.iter() {
        for (key, values) in arm.values.iter() {
            let (effects, recovery) = (arm.effects.get(key), arm.recovery.get(key));
            let clean = response.baselines.clean.get(key).copied().flatten();
            let corrupted = response.baselines.corrupted.get(key).and_then(|c| c.estimate.mean);
            for i in 0..values.mean.data.len() {
                rows.push(TraceRow {
                    arm: name,
                    site: arm.site.name(),
                    window: arm.window,
                    cell: CellKey::of(&arm.axes, i),
                    metric: key,
                    value: [values.mean.data[i], values.se.data[i]],
                    effect: effects.map_or([None; 2], |map| [map.mean.data[i], map.se.data[i]]),
                    recovery: recovery.and_then(|array| array.data[i]),
                    masks: [arm.masks.exact_null.data[i], arm.masks.trivial.data[i]],
                    baselines: [clean, corrupted],
                    says: None,
                });
            }
        }
    }
    for cell in &response.cells {
        let Some(arm) = response.arms.get(&cell.arm) else { continue };
        rows.extend(cell.tokens.iter().flatten().map(|says| TraceRow {
            arm: &cell.arm,
            site: arm.site.name(),
            window: arm.window,
            cell: cell.cell,
            metric: "prob",
            value: [says.prob.mean, says.prob.se],
            effect: [says.effect.mean, says.effect.se],
            recovery: None,
            masks: [None; 2],
            baselines: [says.clean, says.corrupted.mean],
            says: Some(says),
        }));
    }
    let table = Rows::new(rows)
        .text("arm", |row| row.arm)
        .text("site", |row| row.site)
        .int("window", |row| Some(row.window))
        .cell(|row| row.cell, |position| response.tokens.get(position as usize).map(|token| &token.token))
        .text("metric", |row| row.metric)
        .float("value", |row| row.value[0])
        .float("value_se", |row| row.value[1])
        .float("effect", |row| row.effect[0])
        .float("effect_se", |row| row.effect[1])
        .float("recovery", |row| row.recovery)
        .flag("exact_null", |row| row.masks[0])
        .flag("trivial", |row| row.masks[1])
        .float("clean", |row| row.baselines[0])
        .float("corrupted", |row| row.baselines[1]);
    if response.cells.is_empty() {
        return table.columns;
    }
    table
        .int("id", |row| row.says.map(|says| says.id))
        .text("says", |row| row.says.map_or("", |says| &says.text))
        .made("top_of", |row| row.says.map_or_else(String::new, CellToken::tops))
        .columns
}

struct TraceRow<'r> {
    arm: &'r str,
    site: &'static str,
    window: u32,
    cell: CellKey,
    metric: &'r str,
    value: [Option<f64>; 2],
    effect: [Option<f64>; 2],
    recovery: Option<f64>,
    masks: [Option<bool>; 2],
    baselines: [Option<f64>; 2],
    says: Option<&'r CellToken>,
}

/// A patch: a row for each metric of each cell.
///
/// Columns: layer, position, token, head, dim, source_layer, metric, value, effect, normalised, exact_null, trivial, base, source. Tokens are
/// the base run's; `base` and `source` are the metric of the unpatched runs, the latter empty unless exactly one other
/// run is read.
#[expect(clippy::doc_markdown, reason = "names of columns")]
pub fn patch_table(response: &PatchResponse) -> Vec<Column> {
    let base = response.request.base.as_str();
    let source = match sources(response)[..] {
        [only] => Some(only),
        _ => None,
    };
    let mut rows = Vec::new();
    for (key, values) in response.values.iter() {
        let baseline = |run: &str| *response.baselines.get(run)?.get(key)?;
        let (effects, normalised) = (response.effects.get(key), response.normalised.get(key));
        for (i, value) in values.data.iter().enumerate() {
            rows.push(PatchRow {
                cell: CellKey::of(&response.axes, i),
                metric: key,
                value: *value,
                effect: effects.and_then(|array| array.data[i]),
                normalised: normalised.and_then(|array| array.data[i]),
                masks: [response.masks.exact_null.data[i], response.masks.trivial.data[i]],
                baselines: [baseline(base), source.and_then(baseline)],
            });
        }
    }
    let tokens = response.runs.get(base).map(|run| &run.tokens[..]).unwrap_or_default();
    Rows::new(rows)
        .cell(|row| row.cell, |position| tokens.get(position as usize))
        .text("metric", |row| row.metric)
        .float("value", |row| row.value)
        .float("effect", |row| row.effect)
        .float("normalised", |row| row.normalised)
        .flag("exact_null", |row| row.masks[0])
        .flag("trivial", |row| row.masks[1])
        .float("base", |row| row.baselines[0])
        .float("source", |row| row.baselines[1])
        .columns
}

struct PatchRow<'r> {
    cell: CellKey,
    metric: &'r str,
    value: Option<f64>,
    effect: Option<f64>,
    normalised: Option<f64>,
    masks: [Option<bool>; 2],
    baselines: [Option<f64>; 2],
}

/// Clean runs: a row for each metric, for each of the most probable tokens, and for each number of
/// the logit lens, of attention patterns and of the attribution of a logit.
///
/// Columns: run, kind, layer, position, at, head, key, part, metric, value, rank, id, token, logit, logprob, prob; those that a kind
/// doesn't have are empty. Kinds: `metric` (metric, value), `topk` (rank, id, token, logit, logprob, prob); of the lens, each with
/// layer, position and the token there (`at`): `lens_topk`, `lens_metric`, `lens_entropy` (value in nats); `attention` (layer, head,
/// position, `at`, key, value); `attribution` (part, value, and layer and head where the part has them; metric is the target).
/// Captures have no place in a table: `npz` and `safetensors` carry them.
pub fn run_table(response: &RunResponse) -> Vec<Column> {
    let mut rows = Vec::new();
    for (name, run) in response.runs.iter() {
        let of = |kind| RunRow { run: name, kind, ..RunRow::default() };
        for (key, value) in run.metrics.iter() {
            rows.push(RunRow { metric: key, value: *value, ..of("metric") });
        }
        for token in run.tokens.topk.iter().flatten() {
            rows.push(RunRow { top: Some(token), ..of("topk") });
        }
        let text =
            |position: u32| run.tokens.tokens.get(position as usize).map_or("", |token| token.text.as_str());
        if let Some(lens) = &run.logit_lens {
            lens_rows(lens, &of, &text, &mut rows);
        }
        for attention in &run.attention {
            attention_rows(attention, &of, &text, &mut rows);
        }
        if let Some(found) = &run.attribution {
            attribution_rows(found, &of, &text, &mut rows);
        }
    }
    Rows::new(rows)
        .text("run", |row| row.run)
        .text("kind", |row| row.kind)
        .int("layer", |row| row.layer)
        .int("position", |row| row.position)
        .text("at", |row| row.at)
        .int("head", |row| row.head)
        .int("key", |row| row.key)
        .text("part", |row| row.part)
        .text("metric", |row| row.metric)
        .float("value", |row| row.value)
        .int("rank", |row| Some(row.top?.rank))
        .int("id", |row| Some(row.top?.id))
        .text("token", |row| row.top.map_or("", |token| token.text.as_str()))
        .float("logit", |row| row.top?.logit)
        .float("logprob", |row| row.top?.logprob)
        .float("prob", |row| row.top?.prob)
        .columns
}

#[derive(Clone, Copy, Default)]
struct RunRow<'r> {
    run: &'r str,
    kind: &'static str,
    layer: Option<u32>,
    position: Option<u32>,
    at: &'r str,
    head: Option<u32>,
    key: Option<u32>,
    part: &'static str,
    metric: &'r str,
    value: Option<f64>,
    top: Option<&'r TopToken>,
}

fn lens_rows<'r>(
    lens: &'r LensResult,
    of: &dyn Fn(&'static str) -> RunRow<'r>,
    text: &dyn Fn(u32) -> &'r str,
    rows: &mut Vec<RunRow<'r>>,
) {
    let layers = lens.layers.iter();
    let places = layers.flat_map(|layer| lens.positions.iter().map(move |position| (*layer, *position)));
    for (i, (layer, position)) in places.enumerate() {
        let of =
            |kind| RunRow { layer: Some(layer), position: Some(position), at: text(position), ..of(kind) };
        let top = lens.topk.data[i].iter().flatten();
        rows.extend(top.map(|token| RunRow { top: Some(token), ..of("lens_topk") }));
        rows.push(RunRow { value: lens.entropy.data[i], ..of("lens_entropy") });
        let metrics = lens.metrics.iter();
        rows.extend(metrics.map(|(metric, all)| RunRow { metric, value: all.data[i], ..of("lens_metric") }));
    }
}

/// Keys after the query are left out: nothing attends to them.
fn attention_rows<'r>(
    attention: &'r AttentionResult,
    of: &dyn Fn(&'static str) -> RunRow<'r>,
    text: &dyn Fn(u32) -> &'r str,
    rows: &mut Vec<RunRow<'r>>,
) {
    let keys = attention.values.shape[3];
    let mut weights = attention.values.data.chunks(keys.max(1));
    for layer in &attention.layers {
        for head in &attention.heads {
            for position in &attention.positions {
                let weights = weights.next().unwrap_or_default().iter().take(*position as usize + 1);
                rows.extend(weights.zip(0..).map(|(weight, key)| RunRow {
                    layer: Some(*layer),
                    head: Some(*head),
                    position: Some(*position),
                    at: text(*position),
                    key: Some(key),
                    value: weight.map(f64::from),
                    ..of("attention")
                }));
            }
        }
    }
}

fn attribution_rows<'r>(
    found: &'r AttributionResult,
    of: &dyn Fn(&'static str) -> RunRow<'r>,
    text: &dyn Fn(u32) -> &'r str,
    rows: &mut Vec<RunRow<'r>>,
) {
    let of = |part| RunRow {
        position: Some(found.position),
        at: text(found.position),
        metric: &found.target,
        part,
        ..of("attribution")
    };
    for (part, value) in [
        ("logit", found.logit),
        ("embed", found.embed),
        ("positions", found.positions),
        ("bias", found.bias),
        ("remainder", found.remainder),
    ] {
        rows.push(RunRow { value, ..of(part) });
    }
    let none = Vec::new();
    let biases = found.attn_bias.as_ref().unwrap_or(&none);
    for (part, values) in [("attn_out", &found.attn_out), ("mlp_out", &found.mlp_out), ("attn_bias", biases)]
    {
        rows.extend(values.iter().zip(0..).map(|(value, layer)| RunRow {
            layer: Some(layer),
            value: *value,
            ..of(part)
        }));
    }
    if let Some(heads) = &found.heads {
        let across = heads.shape[1].max(1) as u32;
        rows.extend(heads.data.iter().zip(0..).map(|(value, i)| RunRow {
            layer: Some(i / across),
            head: Some(i % across),
            value: *value,
            ..of("head")
        }));
    }
}
