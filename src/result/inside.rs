//! What a run was read for beside its answer: the logit lens, attention patterns, direct logit attribution.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{NdArray, Nulls, TopToken, top_tokens};
use crate::effect::attribution::attribute;
use crate::effect::measure::value;
use crate::effect::nulls::of_value;
use crate::effect::stats::finite;
use crate::lower::facts::Words;
use crate::lower::layout::{AttentionKey, AttributionKey, Common, LensKey};
use crate::plan::Score;
use crate::spec::metric::{MetricKind, Of};
use crate::spec::named::Named;
use crate::spec::read::escape;

/// What the residual stream would predict, `[layers, positions]` each.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LensResult {
    /// Layers; each is read where it ends.
    pub layers: Vec<u32>,
    /// Positions.
    pub positions: Vec<u32>,
    /// Most probable next tokens; null where the logits are not finite.
    #[schema(value_type = serde_json::Value)]
    pub topk: NdArray<Option<Vec<TopToken>>>,
    /// Entropy of the distribution in nats.
    #[schema(value_type = serde_json::Value)]
    pub entropy: NdArray<Option<f64>>,
    /// Metrics of targets' first tokens, as requested; divergences are not defined here.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub metrics: Named<NdArray<Option<f64>>>,
}

/// Attention weights, `[layers, heads, positions, keys]`; 0 at keys that come after the position.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttentionResult {
    /// Layers.
    pub layers: Vec<u32>,
    /// Heads.
    pub heads: Vec<u32>,
    /// Query positions.
    pub positions: Vec<u32>,
    /// The weights.
    #[schema(value_type = serde_json::Value)]
    pub values: NdArray<Option<f32>>,
}

/// Shares of a logit under the final norm's scale as it is (a LayerNorm also takes the mean off each). `embed`, `positions`,
/// `attn_out`, `mlp_out` and `bias` add up to `mean_logit` but for rounding; the heads of a layer, with its `attn_bias` if the model has
/// such, to its `attn_out`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttributionResult {
    /// The target, or two.
    pub target: String,
    /// Position.
    pub position: u32,
    /// The target's logit, or the difference of two. A set of several tokens counts as the **mean** of their logits, of which
    /// shares can be taken; the metric `logit` of a set is the log-sum-exp, which is no sum of shares.
    #[serde(rename = "mean_logit")]
    pub logit: Option<f64>,
    /// The token embedding's share.
    pub embed: Option<f64>,
    /// The share of the position's embedding; 0 in models whose positions are rotations.
    pub positions: Option<f64>,
    /// The share of the final norm's bias, which no component can change; 0 in models whose norm has none.
    pub bias: Option<f64>,
    /// Attention's share by layer.
    pub attn_out: Vec<Option<f64>>,
    /// The MLP's share by layer.
    pub mlp_out: Vec<Option<f64>>,
    /// Each head's share, `[layers, heads]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub heads: Option<NdArray<Option<f64>>>,
    /// Beside `heads`: the share of the bias of attention's output projection by layer, in models that have one (GPT-2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_bias: Option<Vec<Option<f64>>>,
    /// The logit less the shares of embeddings, attention, MLPs and the bias.
    pub remainder: Option<f64>,
}

/// The lens's grid, found at `at`.
pub(super) fn lens(
    key: &LensKey,
    common: &Common,
    scores: &[Score],
    topk: u32,
    words: &dyn Words,
    (at, nulls): (&str, &mut Nulls),
) -> LensResult {
    let shape = [key.layers.len(), key.positions.len()];
    let cells = &scores[key.first..key.first + shape[0] * shape[1]];
    let defined = |kind: MetricKind| matches!(kind.facts().of, Of::Target | Of::Pair);
    let measures = common.measures.iter().filter(|measure| defined(measure.metric.kind));
    let missing: Vec<_> = cells.iter().map(|score| score.missing).collect();
    for array in ["topk", "entropy"] {
        nulls.array(&format!("{at}/{array}"), &shape, &missing);
    }
    for measure in measures.clone() {
        let reasons: Vec<_> = cells.iter().map(|score| of_value(measure, score, None)).collect();
        nulls.array(&format!("{at}/metrics/{}", escape(&measure.metric.to_string())), &shape, &reasons);
    }
    LensResult {
        layers: key.layers.clone(),
        positions: key.positions.clone(),
        topk: NdArray::new(&shape, cells.iter().map(|score| top_tokens(score, topk, words)).collect()),
        entropy: NdArray::new(&shape, cells.iter().map(|score| finite(score.entropy?)).collect()),
        metrics: measures
            .map(|measure| {
                let values = cells.iter().map(|score| value(measure, score, None)).collect();
                (measure.metric.to_string(), NdArray::new(&shape, values))
            })
            .collect(),
    }
}

/// The heads asked for, keys cut to the run's; found at `at`.
pub(super) fn attention(
    key: &AttentionKey,
    captures: &[Vec<f32>],
    (at, nulls): (&str, &mut Nulls),
) -> AttentionResult {
    let shape = [key.layers.len(), key.heads.len(), key.positions.len(), key.length];
    let mut values = Vec::with_capacity(shape.iter().product());
    for capture in &captures[key.first..key.first + key.layers.len()] {
        let row = capture.len() / key.positions.len();
        for head in &key.heads {
            for position in capture.chunks(row) {
                let keys = &position[*head as usize * key.stride..][..key.length];
                values.extend(keys.iter().map(|x| x.is_finite().then_some(*x)));
            }
        }
    }
    nulls.numbers(&format!("{at}/values"), &values);
    AttentionResult {
        layers: key.layers.clone(),
        heads: key.heads.clone(),
        positions: key.positions.clone(),
        values: NdArray::new(&shape, values),
    }
}

/// Shares of the target's logit, found at `at`.
pub(super) fn attribution(
    key: &AttributionKey,
    target: &str,
    captures: &[Vec<f32>],
    layers: usize,
    (at, nulls): (&str, &mut Nulls),
) -> AttributionResult {
    let found = attribute(key, captures, layers);
    if found.logit.is_none() {
        nulls.add(
            at,
            "not_finite: the final norm of the residual stream at this position has no finite scale",
        );
    } else if found.remainder.is_none() || found.components.iter().flatten().any(Option::is_none) {
        nulls.add(at, "not_finite: a component's output has numbers that are NaN or infinite");
    }
    let mut components = found.components.into_iter();
    let mut next = || components.next().unwrap_or_default();
    let (attn_out, mlp_out, heads) = (next(), next(), next());
    AttributionResult {
        target: target.to_owned(),
        position: key.position,
        logit: found.logit,
        embed: found.embed,
        positions: found.positions,
        bias: found.bias,
        attn_out,
        mlp_out,
        heads: key.heads.then(|| NdArray::new(&[layers, heads.len() / layers], heads)),
        attn_bias: found.attention_biases,
        remainder: found.remainder,
    }
}
