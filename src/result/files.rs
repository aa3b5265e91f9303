//! Responses as named arrays, for `.npz` and `.safetensors`.
//!
//! Names are paths: `hidden/prob:target/effect_mean`. A name that the request chose is one part of the path, so `~` and
//! `/` in it are written `~0` and `~1`, as in a JSON pointer. Missing numbers are NaN, and masks false where they are not known. Integers are 64 bits wide, as
//! indices are in `PyTorch`. Text arrays are for `.npz` only; the metadata carry the same texts.
//!
//! Metadata say where numbers come from: `id`, `model`, `server`, `plan_sha256` and, as JSON, `request` (its long form),
//! `provenance`, `lints`, `token_texts`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::asked_cells::{CellToken, CellTokens};
use super::common::{Masks, NdArray, Provenance, TopToken};
use super::numbers::OfMetric;
use super::patch::PatchResponse;
use super::run::RunResponse;
use super::trace::TraceResponse;
use crate::export::array::{ArrayData, NamedArray};
use crate::lower::layout::Axis;
use crate::lower::lint::Lint;
use crate::spec::named::Named;
use crate::spec::read::escape;
use crate::tokens::Token;

/// A number of something, and its name.
pub(super) type NumberOf<T> = (&'static str, fn(&T) -> Option<f64>);

/// Arrays of a trace.
///
/// Of each arm, over its axes: `{arm}/{metric}/` + `effect_mean`, `effect_se`, `value_mean`, `value_se`, `recovery`, and
/// with `keep.per_sample` `value_samples` (samples are the last axis); masks `{arm}/exact_null`, `{arm}/trivial`; axes
/// `{arm}/layers`, `{arm}/positions`. Baselines: `clean/{metric}`, `corrupted/{metric}/` + `mean`, `se`, `samples`,
/// `total_effect/{metric}/` + `mean`, `se`. The clean run: `tokens`, `token_starts` and `token_ends` (characters),
/// `token_texts`, `token_corrupted`, `subject`.
///
/// Of the cells that the request names, `[cells]`: `cells/arms`, `cells/layers`, `cells/positions` (-1: none); and `[cells, tokens]`,
/// as long as the longest list: `cells/ids` (-1: none), `cells/texts`, `cells/top_of`, `cells/` + `prob`, `prob_se`, `effect`,
/// `effect_se`, `clean`, `corrupted`, `corrupted_se`.
pub fn trace_arrays(response: &TraceResponse) -> Vec<OfMetric> {
    let mut out = Arrays::default();
    for (name, arm) in response.arms.iter() {
        let arm_path = part(name);
        out.axes(&format!("{arm_path}/"), &arm.axes);
        out.masks(&format!("{arm_path}/"), &arm.masks);
        out.each(&arm.effects, |out, key, effects| {
            let path = format!("{arm_path}/{}", part(key));
            out.floats(format!("{path}/effect_mean"), &effects.mean);
            out.floats(format!("{path}/effect_se"), &effects.se);
            if let Some(values) = arm.values.get(key) {
                out.floats(format!("{path}/value_mean"), &values.mean);
                out.floats(format!("{path}/value_se"), &values.se);
                if let Some(samples) = &values.samples {
                    out.floats(format!("{path}/value_samples"), samples);
                }
            }
            if let Some(recovery) = arm.recovery.get(key) {
                out.floats(format!("{path}/recovery"), recovery);
            }
        });
    }
    out.each(&response.baselines.clean, |out, key, clean| {
        out.scalar(format!("clean/{}", part(key)), *clean);
    });
    out.each(&response.baselines.corrupted, |out, key, corrupted| {
        let path = format!("corrupted/{}", part(key));
        out.scalar(format!("{path}/mean"), corrupted.estimate.mean);
        out.scalar(format!("{path}/se"), corrupted.estimate.se);
        let n = corrupted.samples.len();
        out.numbers(format!("{path}/samples"), vec![n], &corrupted.samples);
    });
    out.each(&response.total_effect, |out, key, total| {
        let path = format!("total_effect/{}", part(key));
        out.scalar(format!("{path}/mean"), total.mean);
        out.scalar(format!("{path}/se"), total.se);
    });
    out.tokens("", response.tokens.iter().map(|token| &token.token));
    let corrupted: Vec<bool> = response.tokens.iter().map(|token| token.corrupted).collect();
    out.push("token_corrupted", vec![corrupted.len()], ArrayData::Bool(corrupted));
    if let Some([start, end]) = response.subject {
        out.ints("subject", [start, end]);
    }
    if !response.cells.is_empty() {
        out.cells(&response.cells);
    }
    out.list
}

/// Arrays of a patch.
///
/// Over the axes: `values/{metric}`, `effects/{metric}`, `normalised/{metric}`, `exact_null`, `trivial`, and with one axis
/// more `topk_ids` (-1: none) and `topk_logprobs`; the axes themselves: `layers`, `positions`, `heads`. Of each unpatched
/// run: `runs/{run}/{metric}` and its tokens and predictions as in [`run_arrays`].
pub fn patch_arrays(response: &PatchResponse) -> Vec<OfMetric> {
    let mut out = Arrays::default();
    out.axes("", &response.axes);
    out.masks("", &response.masks);
    let groups =
        [("values", &response.values), ("effects", &response.effects), ("normalised", &response.normalised)];
    for (group, arrays) in groups {
        out.each(arrays, |out, key, array| out.floats(format!("{group}/{}", part(key)), array));
    }
    out.topk("", &response.topk.shape, &response.topk.data);
    for (name, run) in response.runs.iter() {
        let path = format!("runs/{}/", part(name));
        out.tokens(&path, run.tokens.iter());
        out.topk(&path, &[], std::slice::from_ref(&run.topk));
        if let Some(metrics) = response.baselines.get(name) {
            out.each(metrics, |out, key, value| out.scalar(format!("{path}{}", part(key)), *value));
        }
    }
    out.list
}

/// Arrays of clean runs.
///
/// `{run}/{site}` is a capture, `[layers, positions, width]` in 32 bits (at `embed` without layers), with its
/// `{run}/{site}/layers` and `{run}/{site}/positions`; a site captured again is `{site}.2`. Of captures that the server
/// keeps, the handles are in the metadata `activations`. `{run}/{metric}`;
/// of the logit lens `{run}/logit_lens/` + `layers`, `positions`, `topk_ids`, `topk_logprobs`, `topk_texts`, `entropy`, `{metric}`; of
/// attention patterns `{run}/attention`, `[layers, heads, positions, keys]` in 32 bits, with its `layers`, `heads`, `positions` (a second
/// entry is `attention.2`); of an attribution `{run}/attribution/` + `position`, `logit`, `embed`, `positions`, `bias`, `attn_out`,
/// `mlp_out`, `attn_bias`, `heads`, `remainder`;
/// `{run}/topk_ids`, `{run}/topk_logprobs`; `{run}/tokens`, `{run}/token_starts`, `{run}/token_ends`,
/// `{run}/token_texts`.
pub fn run_arrays(response: &RunResponse) -> Vec<OfMetric> {
    let mut out = Arrays::default();
    for (name, run) in response.runs.iter() {
        let path = format!("{}/", part(name));
        out.tokens(&path, run.tokens.tokens.iter());
        out.topk(&path, &[], std::slice::from_ref(&run.tokens.topk));
        out.each(&run.metrics, |out, key, value| out.scalar(format!("{path}{}", part(key)), *value));
        for (i, capture) in run.captures.iter().enumerate() {
            let before = run.captures[..i].iter().filter(|other| other.site == capture.site).count();
            let again = if before > 0 { format!(".{}", before + 1) } else { String::new() };
            let site = format!("{path}{}{again}", capture.site);
            if let Some(layers) = &capture.layers {
                out.ints(format!("{site}/layers"), layers.iter().copied());
            }
            out.ints(format!("{site}/positions"), capture.positions.iter().copied());
            if let Some(values) = &capture.values {
                out.singles(site, values);
            }
        }
        if let Some(lens) = &run.logit_lens {
            let path = format!("{path}logit_lens/");
            out.ints(format!("{path}layers"), lens.layers.iter().copied());
            out.ints(format!("{path}positions"), lens.positions.iter().copied());
            out.topk(&path, &lens.topk.shape, &lens.topk.data);
            out.top_texts(&path, &lens.topk.shape, &lens.topk.data);
            out.floats(format!("{path}entropy"), &lens.entropy);
            out.each(&lens.metrics, |out, key, values| out.floats(format!("{path}{}", part(key)), values));
        }
        for (i, attention) in run.attention.iter().enumerate() {
            let again = if i > 0 { format!(".{}", i + 1) } else { String::new() };
            let path = format!("{path}attention{again}");
            out.ints(format!("{path}/layers"), attention.layers.iter().copied());
            out.ints(format!("{path}/heads"), attention.heads.iter().copied());
            out.ints(format!("{path}/positions"), attention.positions.iter().copied());
            out.singles(path, &attention.values);
        }
        if let Some(found) = &run.attribution {
            let path = format!("{path}attribution");
            out.ints(format!("{path}/position"), [found.position]);
            for (name, value) in [
                ("logit", found.logit),
                ("embed", found.embed),
                ("positions", found.positions),
                ("bias", found.bias),
                ("remainder", found.remainder),
            ] {
                out.scalar(format!("{path}/{name}"), value);
            }
            let none = Vec::new();
            let biases = found.attn_bias.as_ref().unwrap_or(&none);
            for (name, values) in
                [("attn_out", &found.attn_out), ("mlp_out", &found.mlp_out), ("attn_bias", biases)]
            {
                if !values.is_empty() {
                    out.numbers(format!("{path}/{name}"), vec![values.len()], values);
                }
            }
            if let Some(heads) = &found.heads {
                out.floats(format!("{path}/heads"), heads);
            }
        }
    }
    out.list
}

/// Metadata of a trace, by the same names for every response; `token_texts` is a JSON list.
pub fn trace_metadata(response: &TraceResponse) -> BTreeMap<String, String> {
    let texts: Vec<&str> = response.tokens.iter().map(|token| token.token.text.as_str()).collect();
    metadata(&response.id, &response.model, &response.request, &response.provenance, &response.lints, &texts)
}

/// Metadata of a patch, by the same names for every response; `token_texts` is a JSON object with a list for each run.
pub fn patch_metadata(response: &PatchResponse) -> BTreeMap<String, String> {
    let texts: Named<_> =
        response.runs.iter().map(|(name, run)| (name.to_owned(), texts(&run.tokens))).collect();
    metadata(&response.id, &response.model, &response.request, &response.provenance, &response.lints, &texts)
}

/// Metadata of clean runs, by the same names for every response; `token_texts` is a JSON object with a list for each run.
pub fn run_metadata(response: &RunResponse) -> BTreeMap<String, String> {
    let texts: Named<_> =
        response.runs.iter().map(|(name, run)| (name.to_owned(), texts(&run.tokens.tokens))).collect();
    let (id, model) = (&response.id, &response.model);
    let mut metadata = metadata(id, model, &response.request, &response.provenance, &response.lints, &texts);
    let kept = response.runs.iter().flat_map(|(name, run)| {
        let kept = run.captures.iter().filter_map(|capture| Some((capture.site, capture.kept.as_ref()?)));
        kept.map(move |(site, kept)| json!({"run": name, "site": site, "activation": kept.activation}))
    });
    let kept: Vec<_> = kept.collect();
    if !kept.is_empty() {
        metadata.insert("activations".to_owned(), to_json(&kept));
    }
    metadata
}

/// See the module.
pub(super) fn metadata(
    id: &str,
    model: &str,
    request: &impl Serialize,
    provenance: &Provenance,
    lints: &[Lint],
    token_texts: &impl Serialize,
) -> BTreeMap<String, String> {
    let entries = [
        ("id", id.to_owned()),
        ("model", model.to_owned()),
        ("server", provenance.server.clone()),
        ("plan_sha256", provenance.plan_sha256.clone()),
        ("request", to_json(request)),
        ("provenance", to_json(provenance)),
        ("lints", to_json(&lints)),
        ("token_texts", to_json(token_texts)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A part of a response as text.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("BUG: the same value is part of every JSON response")
}

fn texts(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

/// A name as one part of a path. Names of dots only get a `~`, so that no file name climbs out of a folder.
pub(super) fn part(name: &str) -> String {
    let escaped = escape(name).replace('\0', "~2");
    if escaped.bytes().all(|byte| byte == b'.') { format!("~{escaped}") } else { escaped }
}

/// Truths; those that are not known are false, for arrays have no other place for them: their numbers are NaN.
pub(super) fn truths(known: &[Option<bool>]) -> ArrayData {
    ArrayData::Bool(known.iter().map(|known| *known == Some(true)).collect())
}

/// Arrays being collected.
#[derive(Default)]
pub(super) struct Arrays {
    list: Vec<OfMetric>,
    metric: Option<String>,
}

impl Arrays {
    pub(super) fn push(&mut self, name: impl Into<String>, shape: Vec<usize>, data: ArrayData) {
        let array = NamedArray { name: name.into(), shape, data };
        self.list.push(OfMetric { metric: self.metric.clone(), array });
    }

    pub(super) fn into_list(self) -> Vec<OfMetric> {
        self.list
    }

    /// Adds what there is of each metric.
    pub(super) fn each<'n, T>(
        &mut self,
        metrics: &'n Named<T>,
        mut add: impl FnMut(&mut Self, &'n str, &'n T),
    ) {
        for (key, value) in metrics.iter() {
            self.metric = Some(key.to_owned());
            add(self, key, value);
        }
        self.metric = None;
    }

    pub(super) fn numbers(&mut self, name: String, shape: Vec<usize>, values: &[Option<f64>]) {
        let NamedArray { name, shape, data } = NamedArray::from_options(name, shape, values);
        self.push(name, shape, data);
    }

    pub(super) fn counts(&mut self, name: String, array: &NdArray<usize>) {
        let values = array.data.iter().map(|n| *n as i64).collect();
        self.push(name, array.shape.clone(), ArrayData::I64(values));
    }

    pub(super) fn floats(&mut self, name: String, array: &NdArray<Option<f64>>) {
        self.numbers(name, array.shape.clone(), &array.data);
    }

    fn singles(&mut self, name: String, array: &NdArray<Option<f32>>) {
        let values = array.data.iter().map(|x| x.unwrap_or(f32::NAN)).collect();
        self.push(name, array.shape.clone(), ArrayData::F32(values));
    }

    /// The texts of predictions; the last axis is as long as the longest list.
    fn top_texts(&mut self, prefix: &str, shape: &[usize], cells: &[Option<Vec<TopToken>>]) {
        let k = cells.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let text = |cell: &Option<Vec<TopToken>>, i: usize| {
            cell.as_ref().and_then(|top| top.get(i)).map(|token| token.text.clone()).unwrap_or_default()
        };
        let texts = cells.iter().flat_map(|cell| (0..k).map(move |i| text(cell, i))).collect();
        let shape = shape.iter().copied().chain([k]).collect();
        self.push(format!("{prefix}topk_texts"), shape, ArrayData::Text(texts));
    }

    /// What named cells of a trace say.
    fn cells(&mut self, cells: &[CellTokens]) {
        let or_none = |n: Option<u32>| n.map_or(-1, i64::from);
        let n = cells.len();
        let arms = cells.iter().map(|cell| cell.arm.clone()).collect();
        self.push("cells/arms", vec![n], ArrayData::Text(arms));
        for (name, values) in [
            ("layers", cells.iter().map(|cell| or_none(cell.cell.layer)).collect()),
            ("positions", cells.iter().map(|cell| or_none(cell.cell.position)).collect()),
        ] {
            self.push(format!("cells/{name}"), vec![n], ArrayData::I64(values));
        }
        let lists: Vec<&[CellToken]> =
            cells.iter().map(|cell| cell.tokens.as_deref().unwrap_or_default()).collect();
        let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
        let shape = vec![n, longest];
        let padded = || lists.iter().flat_map(|list| (0..longest).map(|i| list.get(i)));
        let ids = padded().map(|token| or_none(token.map(|token| token.id))).collect();
        self.push("cells/ids", shape.clone(), ArrayData::I64(ids));
        let texts =
            padded().map(|token| token.map_or_else(String::new, |token| token.text.clone())).collect();
        self.push("cells/texts", shape.clone(), ArrayData::Text(texts));
        let tops = padded().map(|token| token.map_or_else(String::new, CellToken::tops)).collect();
        self.push("cells/top_of", shape.clone(), ArrayData::Text(tops));
        let numbers: [NumberOf<CellToken>; 7] = [
            ("prob", |token| token.prob.mean),
            ("prob_se", |token| token.prob.se),
            ("effect", |token| token.effect.mean),
            ("effect_se", |token| token.effect.se),
            ("clean", |token| token.clean),
            ("corrupted", |token| token.corrupted.mean),
            ("corrupted_se", |token| token.corrupted.se),
        ];
        for (name, number) in numbers {
            let values: Vec<_> = padded().map(|token| token.and_then(number)).collect();
            self.numbers(format!("cells/{name}"), shape.clone(), &values);
        }
    }

    pub(super) fn scalar(&mut self, name: String, value: Option<f64>) {
        self.numbers(name, Vec::new(), &[value]);
    }

    pub(super) fn ints(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = u32>) {
        let values: Vec<i64> = values.into_iter().map(i64::from).collect();
        self.push(name, vec![values.len()], ArrayData::I64(values));
    }

    fn axes(&mut self, prefix: &str, axes: &[Axis]) {
        for axis in axes {
            self.ints(format!("{prefix}{}s", axis.name), axis.values.iter().copied());
        }
    }

    fn masks(&mut self, prefix: &str, masks: &Masks) {
        for (name, mask) in [("exact_null", &masks.exact_null), ("trivial", &masks.trivial)] {
            self.push(format!("{prefix}{name}"), mask.shape.clone(), truths(&mask.data));
        }
    }

    pub(super) fn tokens<'t>(&mut self, prefix: &str, tokens: impl Iterator<Item = &'t Token> + Clone) {
        let index = |n: usize| n as u32;
        self.ints(format!("{prefix}tokens"), tokens.clone().map(|token| token.id));
        self.ints(format!("{prefix}token_starts"), tokens.clone().map(|token| index(token.start)));
        self.ints(format!("{prefix}token_ends"), tokens.clone().map(|token| index(token.end)));
        let texts: Vec<String> = tokens.map(|token| token.text.clone()).collect();
        self.push(format!("{prefix}token_texts"), vec![texts.len()], ArrayData::Text(texts));
    }

    /// Predictions of cells; the last axis is as long as the longest list.
    fn topk(&mut self, prefix: &str, shape: &[usize], cells: &[Option<Vec<TopToken>>]) {
        let cells: Vec<&[TopToken]> = cells.iter().map(|cell| cell.as_deref().unwrap_or_default()).collect();
        let k = cells.iter().map(|cell| cell.len()).max().unwrap_or(0);
        let shape: Vec<usize> = shape.iter().copied().chain([k]).collect();
        let padded = || cells.iter().flat_map(|cell| (0..k).map(|i| cell.get(i)));
        let ids = padded().map(|token| token.map_or(-1, |token| i64::from(token.id))).collect();
        let logprobs: Vec<Option<f64>> = padded().map(|token| token?.logprob).collect();
        self.push(format!("{prefix}topk_ids"), shape.clone(), ArrayData::I64(ids));
        self.numbers(format!("{prefix}topk_logprobs"), shape, &logprobs);
    }
}
