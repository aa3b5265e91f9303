//! Responses as tidy tables for CSV: one row a measurement, missing values empty.

use super::files::wanted;
use super::patch::PatchResponse;
use super::pictures::sources;
use super::run::RunResponse;
use super::trace::TraceResponse;
use crate::export::csv::{Column, ColumnData};
use crate::lower::layout::CellKey;
use crate::tokens::Token;

/// Rows that become columns.
pub(super) struct Table<R> {
    rows: Vec<R>,
    pub(super) columns: Vec<Column>,
}

impl<R> Table<R> {
    pub(super) const fn new(rows: Vec<R>) -> Self {
        Self { rows, columns: Vec::new() }
    }

    fn add(mut self, name: &str, data: impl FnOnce(&[R]) -> ColumnData) -> Self {
        let data = data(&self.rows);
        self.columns.push(Column { name: name.to_owned(), data });
        self
    }

    pub(super) fn text<'r>(self, name: &str, field: impl Fn(&R) -> &'r str) -> Self {
        self.add(name, |rows| ColumnData::Text(rows.iter().map(|row| field(row).to_owned()).collect()))
    }

    pub(super) fn int(self, name: &str, field: impl Fn(&R) -> Option<u32>) -> Self {
        self.add(name, |rows| ColumnData::Int(rows.iter().map(|row| field(row).map(i64::from)).collect()))
    }

    pub(super) fn float(self, name: &str, field: impl Fn(&R) -> Option<f64>) -> Self {
        self.add(name, |rows| ColumnData::Float(rows.iter().map(field).collect()))
    }

    fn flag(self, name: &str, field: impl Fn(&R) -> Option<bool>) -> Self {
        self.add(name, |rows| ColumnData::Bool(rows.iter().map(field).collect()))
    }

    /// The columns of a cell's coordinates, with the text of its token.
    fn cell<'r>(self, key: impl Fn(&R) -> CellKey, token: impl Fn(u32) -> Option<&'r Token>) -> Self {
        let text = |row: &R| key(row).position.and_then(&token).map_or("", |token| token.text.as_str());
        self.int("layer", |row| key(row).layer)
            .int("position", |row| key(row).position)
            .text("token", text)
            .int("head", |row| key(row).head)
    }
}

/// A trace: a row for each metric (`only` that one, if given) of each cell of each arm.
///
/// Columns: arm, site, window, layer, position, token, head, metric, value, value_se, effect, effect_se, recovery,
/// exact_null, trivial, clean, corrupted. Values, effects and `corrupted` are means over the noise samples.
#[expect(clippy::doc_markdown, reason = "names of columns")]
pub fn trace_table(response: &TraceResponse, only: Option<&str>) -> Vec<Column> {
    let mut rows = Vec::new();
    for (name, arm) in response.arms.iter() {
        for (key, values) in wanted(&arm.values, only) {
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
                });
            }
        }
    }
    Table::new(rows)
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
        .float("corrupted", |row| row.baselines[1])
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
}

/// A patch: a row for each metric (`only` that one, if given) of each cell.
///
/// Columns: layer, position, token, head, dim, source_layer, metric, value, effect, normalised, exact_null, trivial, base, source. Tokens are
/// the base run's; `base` and `source` are the metric of the unpatched runs, the latter empty unless exactly one other
/// run is read.
#[expect(clippy::doc_markdown, reason = "names of columns")]
pub fn patch_table(response: &PatchResponse, only: Option<&str>) -> Vec<Column> {
    let base = response.request.base.as_str();
    let source = match sources(response)[..] {
        [only] => Some(only),
        _ => None,
    };
    let mut rows = Vec::new();
    for (key, values) in wanted(&response.values, only) {
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
    Table::new(rows)
        .cell(|row| row.cell, |position| tokens.get(position as usize))
        .int("dim", |row| row.cell.dim)
        .int("source_layer", |row| row.cell.source_layer)
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

/// Clean runs: a row for each metric (`only` that one, if given) and for each of the most probable tokens.
///
/// Columns: run, kind (`metric` or `topk`), metric, value, rank, id, token, logit, logprob, prob; those of the other kind
/// are empty. Captures have no place in a table: `npz` and `safetensors` carry them.
pub fn run_table(response: &RunResponse, only: Option<&str>) -> Vec<Column> {
    let mut rows = Vec::new();
    for (name, run) in response.runs.iter() {
        let metrics = wanted(&run.metrics, only);
        rows.extend(metrics.map(|(key, value)| (name, Err((key, *value)))));
        rows.extend(run.tokens.topk.iter().flatten().map(|token| (name, Ok(token))));
    }
    Table::new(rows)
        .text("run", |(run, _)| run)
        .text("kind", |(_, row)| if row.is_ok() { "topk" } else { "metric" })
        .text("metric", |(_, row)| row.err().map_or("", |(key, _)| key))
        .float("value", |(_, row)| row.err()?.1)
        .int("rank", |(_, row)| Some(row.ok()?.rank))
        .int("id", |(_, row)| Some(row.ok()?.id))
        .text("token", |(_, row)| row.map_or("", |token| token.text.as_str()))
        .float("logit", |(_, row)| row.ok()?.logit)
        .float("logprob", |(_, row)| row.ok()?.logprob)
        .float("prob", |(_, row)| row.ok()?.prob)
        .columns
}
