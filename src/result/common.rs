//! What responses share.

use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::effect::measure::{noise_floor, value};
use crate::effect::nulls::Null;
use crate::lower::facts::{Facts, Words};
use crate::lower::layout::Common;
use crate::lower::lint::{Lint, Lints};
use crate::lower::measure::{self, Measure, TargetToken};
use crate::lower::prompts::{self, Span, TokenRun};
use crate::plan::EditGroup;
use crate::plan::Score;
use crate::plan::output::{EditStats, Missing, PlanOutput};
use crate::spec::experiment::{Experiment, Origins};
use crate::spec::metric::{TargetItem, TargetScoring};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::read::{describe, escape};
use crate::spec::tokenize::TokenizeSpec;
use crate::tokens::Token;

/// The name of the axis of token classes; its values are indices into [`TokenClass::ALL`](crate::spec::select::TokenClass::ALL).
pub(super) const CLASS: &str = "token_class";

/// What the server knows beside the results.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Id of the request's result, as `trace_…`.
    pub id: String,
    /// The model that answered.
    pub model: String,
    /// How the numbers came about; `plan_sha256` and `rng` are filled in here.
    pub provenance: Provenance,
}

/// How numbers came about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    /// Server version.
    pub server: String,
    /// SHA-256 of the weights, or the revision they were fetched at.
    pub model_sha: Option<String>,
    /// SHA-256 of the tokenizer.
    pub tokenizer_sha: Option<String>,
    /// Number format of the stored weights.
    pub weights_dtype: String,
    /// Number format of the computation.
    pub compute: String,
    /// Number format of the residual stream.
    pub residual: String,
    /// Number format of the logits.
    pub logits: String,
    /// Where it was computed.
    pub device: String,
    /// How many devices share the model. Other sizes round otherwise.
    pub tensor_parallel: u32,
    /// Why a row's bits do not depend on what else was in its batch: `by_construction` of the kernels, or `measured` when the
    /// server started; `violated` if they do depend on it.
    pub batch_invariance: String,
    /// Generator of the noise, if there was any.
    pub rng: Option<RngUsed>,
    /// SHA-256 of the resolved request and its token ids.
    pub plan_sha256: String,
    /// How far each metric differs between two computations of one run in different rows of the batch; effects below
    /// it mean nothing.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>, required = false)]
    pub noise_floor: Named<Option<f64>>,
}

/// The generator of the noise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RngUsed {
    /// `philox` or `numpy_legacy`.
    pub algo: crate::spec::corruption::Rng,
    /// Seed.
    pub seed: u64,
}

/// An array shaped like the axes of its result; a single number where there is no axis.
#[derive(Debug, Clone, PartialEq)]
pub struct NdArray<T> {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<T>,
}

impl<T> NdArray<T> {
    /// Values of the cells of a grid.
    pub fn new(shape: &[usize], data: Vec<T>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape: shape.to_vec(), data }
    }
}

impl<T: Serialize> Serialize for NdArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Slice { shape: &self.shape, data: &self.data }.serialize(serializer)
    }
}

struct Slice<'a, T> {
    shape: &'a [usize],
    data: &'a [T],
}

impl<T: Serialize> Serialize for Slice<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((n, inner)) = self.shape.split_first() else { return self.data[0].serialize(serializer) };
        let size: usize = inner.iter().product();
        let mut list = serializer.serialize_seq(Some(*n))?;
        for i in 0..*n {
            list.serialize_element(&Slice { shape: inner, data: &self.data[i * size..(i + 1) * size] })?;
        }
        list.end()
    }
}

/// Cells known beforehand, in the order of the axes; null where a cell, or what it is compared with, is not finite.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Masks {
    /// The edit can't reach the readout: the effect is exactly 0.
    #[schema(value_type = serde_json::Value)]
    pub exact_null: NdArray<Option<bool>>,
    /// The answer is the source's by construction.
    #[schema(value_type = serde_json::Value)]
    pub trivial: NdArray<Option<bool>>,
    /// Cells that could not be computed.
    #[serde(skip)]
    #[schema(ignore)]
    pub lost: Vec<bool>,
}

/// One of the most probable tokens.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopToken {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Its logit.
    pub logit: Option<f64>,
    /// Natural log of its probability.
    pub logprob: Option<f64>,
    /// Its probability.
    pub prob: Option<f64>,
    /// Its rank, 1 = most probable.
    pub rank: u32,
}

/// A run's tokens and what it predicts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunTokens {
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Token ranges of its spans, half-open.
    #[schema(value_type = std::collections::BTreeMap<String, Span>)]
    pub spans: Named<Span>,
    /// Position at which it is read.
    pub read: u32,
    /// Most probable next tokens there; null where the logits are not finite.
    pub topk: Option<Vec<TopToken>>,
}

/// What edits wrote.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Receipt {
    /// Rows written.
    pub cells: u64,
    /// Numbers written.
    pub elements_written: u64,
    /// Largest absolute change of a number; null if one is not finite, as where edges of attention are cut.
    pub max_abs_delta: Option<f64>,
    /// Of the rows, those that `norm_match` was to keep the norm of and could not: what was added cancelled them to zero.
    pub cancelled: u64,
}

/// What all edits wrote.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Receipts {
    /// By the patched runs.
    #[serde(flatten)]
    pub patched: Receipt,
    /// By the corruption.
    pub corruption: Receipt,
    /// By controls.
    pub controls: Receipt,
}

/// Results of controls.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Controls {
    /// Patching every cell with its own run's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_patch: Option<SelfPatch>,
    /// Effects of the other controls by metric: what the cells' own effects should stand out from.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, ControlEffects>>)]
    pub others: Named<Named<ControlEffects>>,
}

/// Effects of a control, cell by cell.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ControlEffects {
    /// Mean over cells of the absolute effect; null if a value isn't finite.
    pub mean_abs: Option<f64>,
    /// Largest absolute effect.
    pub max_abs: Option<f64>,
    /// Mean over samples of the effect of each cell.
    #[schema(value_type = serde_json::Value)]
    pub effects: NdArray<Option<f64>>,
}

impl ControlEffects {
    /// Sums up the effects of all cells of a grid.
    pub fn new(shape: &[usize], effects: Vec<Option<f64>>) -> Self {
        let sizes: Option<Vec<f64>> = effects.iter().map(|e| e.map(f64::abs)).collect();
        let mean = |sizes: &[f64]| sizes.iter().sum::<f64>() / sizes.len() as f64;
        Self {
            mean_abs: sizes.as_deref().filter(|sizes| !sizes.is_empty()).map(mean),
            max_abs: sizes.and_then(|sizes| sizes.into_iter().reduce(f64::max)),
            effects: NdArray::new(shape, effects),
        }
    }
}

/// The self-patch control.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct SelfPatch {
    /// Largest absolute effect over all cells, samples and metrics; 0 unless something is broken, null if a value
    /// isn't finite.
    pub max_abs_effect: Option<f64>,
}

/// Numbers that are null and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NullReason {
    /// JSON pointer into the response.
    #[serde(rename = "where")]
    pub pointer: String,
    /// Why.
    pub reason: String,
}

/// Reasons of nulls, gathered while a response is put together.
#[derive(Debug, Default)]
pub(super) struct Nulls(pub(super) Vec<NullReason>);

impl Nulls {
    pub(super) fn add(&mut self, pointer: impl Into<String>, reason: impl std::fmt::Display) {
        self.0.push(NullReason { pointer: pointer.into(), reason: reason.to_string() });
    }

    /// The reason of a single number, if it is null.
    pub(super) fn one(&mut self, pointer: impl Into<String>, reason: Option<impl std::fmt::Display>) {
        if let Some(reason) = reason {
            self.add(pointer, reason);
        }
    }

    /// The reasons of an array of this shape, in row-major order. What is null as a whole for one reason is named as a whole:
    /// the array, a row of it, an element.
    pub(super) fn array<T: PartialEq + std::fmt::Display>(
        &mut self,
        pointer: &str,
        shape: &[usize],
        reasons: &[Option<T>],
    ) {
        let Some(first) = reasons.first().filter(|_| reasons.iter().any(Option::is_some)) else { return };
        if let Some(reason) = first
            && reasons.iter().all(|other| other == first)
        {
            self.add(pointer, reason);
        } else if let Some((n, inner)) = shape.split_first() {
            for (i, part) in reasons.chunks(reasons.len() / n).enumerate() {
                self.array(&format!("{pointer}/{i}"), inner, part);
            }
        }
    }

    /// The reasons of means and standard errors of an array.
    pub(super) fn estimates(
        &mut self,
        pointer: &str,
        shape: &[usize],
        samples: usize,
        reasons: &[Option<Null>],
    ) {
        self.array(&format!("{pointer}/mean"), shape, reasons);
        // Of a single sample there is no standard error anyway.
        if samples > 1 {
            self.array(&format!("{pointer}/se"), shape, reasons);
        }
    }

    /// One reason for all nulls among numbers that a run was read for: there may be very many.
    pub(super) fn numbers(&mut self, pointer: &str, numbers: &[Option<f32>]) {
        let missing = numbers.iter().filter(|number| number.is_none()).count();
        if missing > 0 {
            self.add(
                pointer,
                format!("not_finite: {missing} of {} numbers are NaN or infinite", numbers.len()),
            );
        }
    }

    /// The same of attention scores, some of which are minus infinity.
    pub(super) fn numbers_and_cuts(&mut self, pointer: &str, numbers: &[Option<f32>], cut: usize) {
        let missing = numbers.iter().filter(|number| number.is_none()).count();
        if missing == 0 || cut == 0 {
            return self.numbers(pointer, numbers);
        }
        let all = numbers.len();
        self.add(
            pointer,
            format!("cut: {cut} of {all} scores are minus infinity, of edges that a knockout cuts"),
        );
        if missing > cut {
            self.add(pointer, format!("not_finite: {} of {all} numbers are NaN or infinite", missing - cut));
        }
    }

    /// The predictions of runs.
    pub(super) fn runs(&mut self, common: &Common, scores: &[Score]) {
        for (name, (_, readout)) in common.runs.iter() {
            self.one(format!("/runs/{}/topk", escape(name)), scores[*readout].missing);
        }
    }

    /// The masks of a grid, found at `at`.
    pub(super) fn masks(&mut self, at: &str, masks: &Masks) {
        for (name, mask) in [("exact_null", &masks.exact_null), ("trivial", &masks.trivial)] {
            let missing = |known: &Option<bool>| known.is_none().then_some(Missing::NotFinite);
            let reasons: Vec<_> = mask.data.iter().map(missing).collect();
            self.array(&format!("{at}/masks/{name}"), &mask.shape, &reasons);
        }
    }

    /// The numbers of a control.
    pub(super) fn control(&mut self, at: &str, effects: &ControlEffects, reasons: &[Option<Null>]) {
        self.array(&format!("{at}/effects"), &effects.effects.shape, reasons);
        let first = reasons.iter().find_map(|reason| *reason);
        for (name, number) in [("mean_abs", effects.mean_abs), ("max_abs", effects.max_abs)] {
            self.one(format!("{at}/{name}"), first.filter(|_| number.is_none()));
        }
    }

    /// What responses with edits have in common.
    pub(super) fn accounts(
        &mut self,
        receipts: &Receipts,
        self_patch: Option<SelfPatch>,
        floors: &Named<Option<f64>>,
    ) {
        let Receipts { patched, corruption, controls } = receipts;
        for (at, receipt) in [("", patched), ("/corruption", corruption), ("/controls", controls)] {
            if receipt.max_abs_delta.is_none() {
                let reason = "not_finite: a number was changed from or to NaN or infinity";
                self.add(format!("/receipt{at}/max_abs_delta"), reason);
            }
        }
        if self_patch.is_some_and(|found| found.max_abs_effect.is_none()) {
            self.add(
                "/controls/self_patch/max_abs_effect",
                "not_finite: an effect of the control has no number",
            );
        }
        for (metric, floor) in floors.iter() {
            if floor.is_none() {
                let reason = "not_finite: the metric of the run that is computed twice has no number";
                self.add(format!("/provenance/noise_floor/{}", escape(metric)), reason);
            }
        }
    }

    /// The strongest cells of metrics that have none.
    pub(super) fn strongest<'m>(&mut self, at: &str, without: impl Iterator<Item = &'m str>) {
        for metric in without {
            self.add(format!("{at}/{}", escape(metric)), "no cell, trivial ones apart, has a known effect");
        }
    }
}

impl From<EditStats> for Receipt {
    fn from(stats: EditStats) -> Self {
        Self {
            cells: stats.cells,
            elements_written: stats.elements,
            max_abs_delta: crate::effect::stats::finite(f64::from(stats.max_abs_delta)),
            cancelled: stats.cancelled,
        }
    }
}

impl Receipts {
    /// Of a plan's output.
    pub fn of(output: &PlanOutput) -> Self {
        Self {
            patched: output.receipt(EditGroup::Patch).into(),
            corruption: output.receipt(EditGroup::Corruption).into(),
            controls: output.receipt(EditGroup::Control).into(),
        }
    }
}

impl Controls {
    /// From the largest self-patch effect, if that control was asked for, and the effects of the others.
    pub fn of(self_patch: Option<f64>, others: Named<Named<ControlEffects>>) -> Self {
        let finite = |x| SelfPatch { max_abs_effect: crate::effect::stats::finite(x) };
        Self { self_patch: self_patch.map(finite), others }
    }
}

/// The first `k` of a score's most probable tokens; `None` where it has no numbers.
pub fn top_tokens(score: &Score, k: u32, words: &dyn Words) -> Option<Vec<TopToken>> {
    let finite = crate::effect::stats::finite;
    let token = |(i, (id, logit)): (usize, &(u32, f32))| {
        let logprob = f64::from(*logit) - score.log_sum_exp;
        TopToken {
            id: *id,
            text: words.text(*id),
            logit: finite(f64::from(*logit)),
            logprob: finite(logprob),
            prob: finite(logprob.exp()),
            rank: i as u32 + 1,
        }
    };
    score.missing.is_none().then(|| score.top.iter().enumerate().take(k as usize).map(token).collect())
}

/// Tokens and predictions of every run.
pub fn run_tokens(common: &Common, scores: &[Score], k: u32, words: &dyn Words) -> Named<RunTokens> {
    common.runs.map(|_, (run, readout)| RunTokens {
        tokens: run.tokens.clone(),
        spans: run.spans.clone(),
        read: run.read,
        topk: top_tokens(&scores[*readout], k, words),
    })
}

/// What each metric varies by between two computations of one run.
pub fn noise_floors(common: &Common, scores: &[Score]) -> Named<Option<f64>> {
    let floor = |m: &Measure| (m.metric.to_string(), noise_floor(m, scores, common.twins));
    common.twins.map_or_else(Named::default, |_| common.measures.iter().map(floor).collect())
}

/// Every metric of one score.
pub fn metrics(measures: &[Measure], score: &Score, reference_top1: Option<u32>) -> Named<Option<f64>> {
    measures.iter().map(|m| (m.metric.to_string(), value(m, score, reference_top1))).collect()
}

/// Target sets as they were understood.
pub fn target_sets(common: &Common) -> Named<Vec<TargetToken>> {
    common.targets.sets.clone()
}

/// Lints of the plan and the result together; `strict` refuses those of the result here.
pub fn join_lints(common: &Common, found: Lints, experiment: &Experiment) -> Result<Vec<Lint>, Problems> {
    let found = found.restored(&experiment.origins);
    if experiment.strict {
        let refused = found.refused();
        if !refused.is_empty() {
            return Err(refused);
        }
    }
    Ok(common.lints.0.iter().cloned().chain(found.0).collect())
}

/// Response of `POST /v1/tokenize`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// The model whose tokenizer answered.
    pub model: String,
    /// Of `messages`, the text that the chat template wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// The tokens with text and offsets.
    pub tokens: Vec<Token>,
    /// Token ranges of the spans, half-open.
    #[schema(value_type = std::collections::BTreeMap<String, Span>)]
    pub spans: Named<Span>,
    /// Whether the first token is BOS.
    pub has_bos: bool,
    /// What the request's `continuation` adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuation: Option<Continued>,
    /// Remarks.
    pub lints: Vec<Lint>,
}

/// The tokens that a text adds to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Continued {
    /// Token ids, after the prompt's own.
    pub ids: Vec<u32>,
    /// The text of each.
    pub texts: Vec<String>,
    /// Whether the prompt's own tokens are others with the text behind them, with lint `TARGET_CHANGES_PROMPT`.
    pub changes_prompt: bool,
}

/// `POST /v1/tokenize`: a body to tokens, or everything that is wrong with it.
pub fn tokenize(body: &Value, facts: &dyn Facts) -> Result<TokenizeResponse, Problems> {
    const CONTINUATION: &str = "continuation";
    let mut out = Problems::default();
    let spec = TokenizeSpec::read(body, &mut out);
    let response = spec.and_then(|spec| {
        if let Some(model) = spec.model.as_deref().filter(|model| !facts.answers_to(model)) {
            let detail = format!("{} is not served here", describe(&Value::from(model)));
            out.push("/model", code::UNKNOWN_MODEL, detail, format!("write {:?}", facts.model()));
        }
        let text = spec.continuation.map(|text| Named::one(CONTINUATION, vec![TargetItem::Text(text)]));
        let experiment = Experiment {
            model: None,
            runs: Named::one("run", spec.prompt),
            targets: text.unwrap_or_default(),
            metrics: Vec::new(),
            read: crate::spec::readout::Read::last(0),
            strict: false,
            // All of its tokens are told.
            target_scoring: TargetScoring::Joint,
            allow_trivial: false,
            origins: Origins(vec![("/targets/continuation/0", "/continuation"), ("/runs/run", "")]),
        };
        let (mut found, mut lints) = (Problems::default(), Lints::default());
        let runs: Named<TokenRun> = prompts::tokenise(&experiment, facts, &mut found);
        prompts::lint(&experiment, &runs, facts, &mut lints);
        let targets = measure::targets(&experiment, &runs, facts, &mut lints, &mut found);
        for problem in &mut found.0 {
            problem.pointer = experiment.origins.restore(&problem.pointer);
        }
        out.0.append(&mut found.0);
        let added = targets.sets.get(CONTINUATION).and_then(|set| set.first());
        let continuation = added.map(|added| Continued {
            ids: added.tokens.clone(),
            texts: added.tokens.iter().map(|id| facts.words().text(*id)).collect(),
            changes_prompt: lints.has("TARGET_CHANGES_PROMPT"),
        });
        let (_, run) = runs.0.into_iter().next()?;
        let is_chat = matches!(experiment.runs.0[0].1.text, PromptText::Chat(_));
        Some(TokenizeResponse {
            model: facts.model().to_owned(),
            text: is_chat.then(|| run.text.to_string()),
            ids: run.ids.to_vec(),
            spans: run.spans,
            tokens: run.tokens,
            has_bos: run.has_bos,
            continuation,
            lints: lints.restored(&experiment.origins).cured(body).0,
        })
    });
    out.or(response)
}
