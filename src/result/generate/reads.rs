//! What was read of the rows that predicted a text's tokens: activations, and the logit lens.

use serde::Serialize;
use utoipa::ToSchema;

use super::Collected;
use crate::generate::Token;
use crate::lower::facts::Words;
use crate::lower::generate::Generation;
use crate::lower::layout::LensKey;
use crate::lower::step_reads::{StepCaptureKey, StepReads};
use crate::plan::Score;
use crate::result::common::{NdArray, Nulls, TopToken};
use crate::result::inside;
use crate::result::respond::Kept;
use crate::spec::dtype::Dtype;
use crate::spec::named::Named;
use crate::spec::select::Steps;
use crate::spec::site::Site;

/// Activations of the rows that predicted a text's tokens, at one site.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepCaptureResult {
    /// Site.
    pub site: Site,
    /// Layers; null at sites that have none.
    pub layers: Option<Vec<u32>>,
    /// Steps: those asked for that the text has.
    pub steps: Vec<u32>,
    /// Names of the axes of `values`.
    pub axes: Vec<&'static str>,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Number format.
    pub dtype: &'static str,
    /// The numbers, nested as `shape`; null where not finite. Absent where they are kept by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub values: Option<NdArray<Option<f32>>>,
    /// Where they are kept; nowhere if the text has none of the steps.
    #[serde(flatten)]
    pub kept: Option<Kept>,
}

/// What the residual stream would have written at each step, `[layers, steps]` each.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepLensResult {
    /// Layers; each is read where it ends.
    pub layers: Vec<u32>,
    /// Steps: those asked for that the text has.
    pub steps: Vec<u32>,
    /// Most probable tokens; null where the logits are not finite.
    #[schema(value_type = serde_json::Value)]
    pub topk: NdArray<Option<Vec<TopToken>>>,
    /// Entropy of the distribution in nats.
    #[schema(value_type = serde_json::Value)]
    pub entropy: NdArray<Option<f64>>,
    /// Metrics of targets' first tokens, as requested.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub metrics: Named<NdArray<Option<f64>>>,
}

/// The steps of a text that are among those asked for, with their tokens.
fn steps_of<'t>(text: &'t Collected, steps: &'t Steps) -> impl Iterator<Item = &'t Token> {
    text.tokens.iter().filter(|token| steps.contains(token.step))
}

/// Numbers of the `i`th capture, `[layers, steps, width]`.
pub(super) fn numbers(reads: &StepReads, i: usize, text: &Collected) -> Vec<f32> {
    let key = &reads.captures[i];
    let first = |step: u32| {
        let before = reads.captures[..i].iter().filter(|key| key.steps.contains(step));
        before.map(|key| key.addresses.len()).sum::<usize>()
    };
    let layer = |layer: usize| {
        steps_of(text, &key.steps).filter_map(move |token| token.read.captures.get(first(token.step) + layer))
    };
    (0..key.addresses.len()).flat_map(layer).flatten().copied().collect()
}

/// Steps of the `i`th capture that a text has.
pub(super) fn steps(key: &StepCaptureKey, text: &Collected) -> Vec<u32> {
    steps_of(text, &key.steps).map(|token| token.step).collect()
}

/// What was captured of a text, found at `at`.
pub(super) fn captures(
    reads: &StepReads,
    text: &Collected,
    (at, nulls): (&str, &mut Nulls),
) -> Vec<StepCaptureResult> {
    let one = |(i, key): (usize, &StepCaptureKey)| {
        let steps = steps(key, text);
        let (mut axes, mut shape) = (vec!["step", "dim"], vec![steps.len(), key.width]);
        if key.layers.is_some() {
            axes.insert(0, "layer");
            shape.insert(0, key.addresses.len());
        }
        let values = key.handle.is_none().then(|| {
            let rows: Vec<Option<f32>> =
                numbers(reads, i, text).into_iter().map(|x| x.is_finite().then_some(x)).collect();
            nulls.numbers(&format!("{at}/captures/{i}/values"), &rows);
            NdArray::new(&shape, rows)
        });
        StepCaptureResult {
            site: key.site,
            layers: key.layers.clone(),
            steps,
            axes,
            dtype: key.handle.unwrap_or(Dtype::F32).name(),
            values,
            kept: None,
            shape,
        }
    };
    reads.captures.iter().enumerate().map(one).collect()
}

/// What the lens shows of a text, found at `at`.
pub(super) fn lens(
    generation: &Generation,
    text: &Collected,
    words: &dyn Words,
    (at, nulls): (&str, &mut Nulls),
) -> Option<StepLensResult> {
    let (key, spec) = (generation.reads.lens.as_ref()?, generation.spec.read.logit_lens.as_ref()?);
    let tokens: Vec<&Token> = steps_of(text, &key.steps).collect();
    let layer = |i: usize| tokens.iter().filter_map(move |token| token.read.lens.get(i)).cloned();
    let scores: Vec<Score> = (0..key.layers.len()).flat_map(layer).collect();
    let positions: Vec<u32> = tokens.iter().map(|token| token.step).collect();
    let key = LensKey { run: 0, layers: key.layers.clone(), positions, first: 0 };
    let at = format!("{at}/logit_lens");
    let found = inside::lens(&key, &generation.common, &scores, spec.topk, words, (&at, nulls));
    Some(StepLensResult {
        layers: found.layers,
        steps: found.positions,
        topk: found.topk,
        entropy: found.entropy,
        metrics: found.metrics,
    })
}
