//! Response of `POST /v1/generate`, put together of what happens to its texts; and the same as events.

mod lints;
mod reads;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub use self::reads::{StepCaptureResult, StepLensResult};
use super::common::{Envelope, NullReason, Nulls, Provenance, target_sets};
use super::respond::Kept;
use crate::effect::stats::finite;
use crate::generate::{Done, Finish, PromptScore, Receipt, Token};
use crate::lower::facts::Words;
use crate::lower::generate::Generation;
use crate::lower::lint::Lint;
use crate::lower::measure::TargetToken;
use crate::lower::prompts::Span;
use crate::plan::output::Usage;
use crate::spec::generate::GenerateSpec;
use crate::spec::named::Named;
use crate::spec::read::escape;
use crate::tokens::Token as PromptToken;

/// Texts that a model wrote.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct GenerateResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: GenerateSpec,
    /// What was continued.
    pub prompt: PromptResult,
    /// Target sets as they were understood.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<TargetToken>>)]
    pub targets: Named<Vec<TargetToken>>,
    /// What each branch wrote.
    #[schema(value_type = std::collections::BTreeMap<String, BranchResult>)]
    pub branches: Named<BranchResult>,
    /// Why numbers that were read beside the texts are null.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost.
    pub usage: GenerateUsage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// The prompt that is continued.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PromptResult {
    /// The run.
    pub run: String,
    /// Its text; of a conversation as its template wrote it out.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<PromptToken>,
    /// Token ranges of its spans, half-open.
    #[schema(value_type = std::collections::BTreeMap<String, Span>)]
    pub spans: Named<Span>,
}

/// What a branch wrote.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BranchResult {
    /// Positions of the prompt whose keys are the base's, from the first on: so far no intervention can be seen.
    pub shared_positions: u32,
    /// Rows of the prompt that its interventions wrote, step 0 among them.
    pub prompt_cells: u64,
    /// What the prompt's own tokens scored, null of the first, before which there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<PromptLogprob>>>,
    /// Its texts.
    pub samples: Vec<TextResult>,
    /// How many of them contain one of an outcome's texts.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, OutcomeResult>)]
    pub outcomes: Named<OutcomeResult>,
}

/// What a token of the prompt scored.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural log of its probability; null where the distribution is not finite.
    pub logprob: Option<f64>,
    /// The most probable tokens in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TopChoice>,
}

/// What the prompt's tokens scored under a branch, with a null for the first; none if that was not asked for.
pub fn prompt_logprobs(
    generation: &Generation,
    tokens: &[PromptScore],
    words: &dyn Words,
) -> Option<Vec<Option<PromptLogprob>>> {
    let one = |token: &PromptScore| {
        let choice = |(id, logprob): &(u32, f64)| TopChoice {
            id: *id,
            text: words.text(*id),
            logprob: finite(*logprob),
        };
        let top = token.top.iter().map(choice).collect();
        Some(PromptLogprob { logprob: token.logprob.and_then(finite), top })
    };
    generation
        .spec
        .read
        .prompt_logprobs
        .then(|| std::iter::once(None).chain(tokens.iter().map(one)).collect())
}

/// How often something is said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct OutcomeResult {
    /// Texts that contain it.
    pub texts: u64,
    /// Texts in all.
    pub n: u64,
    /// Their share.
    pub share: f64,
    /// Wilson's interval of the share, 95 %.
    pub ci: [f64; 2],
}

/// A text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TextResult {
    /// The text.
    pub text: String,
    /// Its tokens. One at which the model ended it is the last, and stands for nothing.
    pub tokens: Vec<TokenResult>,
    /// Why it ended.
    pub finish: Finish,
    /// Its steps: tokens drawn.
    pub steps: u32,
    /// The metrics at each step.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, Vec<Option<f64>>>)]
    pub metrics: Named<Vec<Option<f64>>>,
    /// Activations of its steps, one for each entry of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<StepCaptureResult>,
    /// The logit lens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_lens: Option<StepLensResult>,
    /// The same text under the branch that is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<CompareResult>,
    /// Where it parts from the same sample of the branch that is compared with, or else of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_divergence: Option<Divergence>,
    /// What was written to its rows at steps from 1 on.
    pub receipt: StepReceipt,
}

/// A token of a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenResult {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Natural log of its probability under the model, before temperature and filters.
    pub logprob: Option<f64>,
    /// Share of the probability that temperature and filters left to draw from.
    pub mass_kept: f64,
    /// The most probable tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TopChoice>,
}

/// A token that could have been drawn.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TopChoice {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Natural log of its probability.
    pub logprob: Option<f64>,
}

/// A text under another branch.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompareResult {
    /// Natural log of the probability of each token under that branch, after the same text.
    pub logprob: Vec<Option<f64>>,
    /// Their mean.
    pub mean_logprob: Option<f64>,
    /// Divergence in nats of each step's distribution from that branch's: KL(that branch || this one).
    pub kl: Vec<Option<f64>>,
}

/// Where two texts part.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Divergence {
    /// The branch of the other text.
    pub from: String,
    /// The first step with another token.
    pub step: u32,
}

/// What was written to a text's rows.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct StepReceipt {
    /// The first and the last step written; null if none was.
    pub steps_written: Option<[u32; 2]>,
    /// Rows that were to be written, each as often as there are edits of it.
    pub expected: u64,
    /// Rows that were.
    pub cells: u64,
    /// Largest absolute change of a number; null if one is not finite.
    pub max_abs_delta: Option<f64>,
    /// The longest way that an addition, a multiple or a bound moved a row, in lengths of the row as it was; null if nothing did.
    /// Above 1, what was written outweighs what was there.
    pub max_relative_delta: Option<f64>,
}

/// What texts cost.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct GenerateUsage {
    /// What reading the prompt cost.
    pub prefill: Usage,
    /// Steps that the texts took part in.
    pub steps: u64,
    /// Rows computed in them.
    pub step_rows: u64,
    /// Their seconds; of a step that other requests had a part in, its own part by rows.
    pub step_seconds: f64,
    /// Bytes of keys and values that were kept for the texts, at most.
    pub keys_bytes: u64,
}

/// A response in the making.
#[derive(Debug)]
pub struct Collecting {
    /// By branch and sample.
    texts: Vec<Vec<Collected>>,
    branches: Vec<String>,
    metrics: Vec<String>,
    compare: Option<usize>,
    /// What it cost so far.
    pub usage: GenerateUsage,
}

#[derive(Debug, Default, Clone)]
struct Collected {
    text: String,
    tokens: Vec<Token>,
    end: Option<(Finish, Receipt)>,
    is_cut: bool,
}

/// Activations of a text's steps that are to be stored.
#[derive(Debug)]
pub struct KeptSteps {
    /// Index of the branch.
    pub branch: usize,
    /// The sample.
    pub sample: usize,
    /// Index of the entry of the request.
    pub capture: usize,
    /// Steps.
    pub steps: Vec<u32>,
    /// The token of each row; none of step 0, whose is the prompt's last.
    pub tokens: Vec<Option<u32>>,
    /// The numbers, `[layers, steps, width]`.
    pub values: Vec<f32>,
}

impl GenerateResponse {
    /// Where the handle of what was stored is told.
    pub fn handle_of(&mut self, kept: &KeptSteps) -> &mut Option<Kept> {
        &mut self.branches.0[kept.branch].1.samples[kept.sample].captures[kept.capture].kept
    }
}

impl Collecting {
    /// Nothing yet.
    pub fn new(generation: &Generation) -> Collecting {
        let samples = generation.spec.samples as usize;
        Collecting {
            texts: vec![vec![Collected::default(); samples]; generation.branches.len()],
            branches: generation.branches.iter().map(|branch| branch.name.clone()).collect(),
            metrics: generation.common.measures.iter().map(|m| m.metric.to_string()).collect(),
            compare: generation.compare,
            usage: GenerateUsage::default(),
        }
    }

    /// Adds a token; the event that tells of it.
    pub fn token(&mut self, token: Token) -> Value {
        let text = &mut self.texts[token.branch][token.sample as usize];
        let mut event = json!({
            "branch": self.branches[token.branch],
            "sample": token.sample,
            "step": token.step,
            "id": token.id,
            "text": token.text,
            "logprob": finite(token.logprob),
        });
        if let Some((logprob, kl)) = token.compare {
            event["compare"] = json!({"logprob": finite(logprob), "kl": finite(kl)});
        }
        text.text.push_str(&token.text);
        text.tokens.push(token);
        event
    }

    /// Ends a text; the event that tells of it.
    pub fn done(&mut self, done: &Done) -> Value {
        let text = &mut self.texts[done.branch][done.sample as usize];
        text.text.push_str(&done.text);
        text.end = Some((done.finish, done.receipt));
        text.is_cut = done.is_cut;
        json!({
            "branch": self.branches[done.branch],
            "sample": done.sample,
            "finish": done.finish,
            "text": done.text,
            "steps": text.tokens.len(),
            "receipt": receipt(done.receipt),
        })
    }

    /// Whether all texts have ended.
    pub fn is_complete(&self) -> bool {
        self.texts.iter().flatten().all(|text| text.end.is_some())
    }

    /// The response, when all texts have ended. `cells`: rows written in the prompt, by branch; `prompt`: what its tokens scored.
    pub fn response(
        self,
        generation: &Generation,
        cells: &[u64],
        prompt: &[Vec<PromptScore>],
        words: &dyn Words,
        envelope: Envelope,
    ) -> GenerateResponse {
        let Envelope { id, model, mut provenance } = envelope;
        provenance.plan_sha256.clone_from(&generation.common.plan_sha256);
        let spec = &generation.spec;
        let mut nulls = Nulls::default();
        let mut branch = |index: usize| BranchResult {
            shared_positions: generation.branches[index].first,
            prompt_cells: cells[index],
            prompt_logprobs: prompt_logprobs(generation, &prompt[index], words),
            samples: (0..self.texts[index].len())
                .map(|sample| self.text(generation, index, sample, words, &mut nulls))
                .collect(),
            outcomes: spec.outcomes.map(|_, said| outcome(&self.texts[index], said)),
        };
        let branches = self.branches.iter().enumerate().map(|(i, name)| (name.clone(), branch(i))).collect();
        let lints = lints::of(&self, generation, &provenance.compute);
        let run = generation.common.runs.get(&spec.base).map(|(run, _)| run);
        GenerateResponse {
            id,
            model,
            prompt: PromptResult {
                run: spec.base.clone(),
                text: run.map(|run| run.text.to_string()).unwrap_or_default(),
                tokens: run.map(|run| run.tokens.clone()).unwrap_or_default(),
                spans: run.map(|run| run.spans.clone()).unwrap_or_default(),
            },
            request: spec.clone(),
            targets: target_sets(&generation.common),
            branches,
            nulls: nulls.0,
            lints: generation.common.lints.0.iter().cloned().chain(lints).collect(),
            usage: self.usage,
            provenance,
        }
    }

    /// What was captured for a handle, in the order of branches, samples and entries of the request.
    pub fn kept(&self, generation: &Generation) -> Vec<KeptSteps> {
        let mut kept = Vec::new();
        for (branch, texts) in self.texts.iter().enumerate() {
            for (sample, text) in texts.iter().enumerate() {
                for (capture, key) in generation.reads.captures.iter().enumerate() {
                    let steps = reads::steps(key, text);
                    if key.handle.is_none() || steps.is_empty() {
                        continue;
                    }
                    let values = reads::numbers(&generation.reads, capture, text);
                    // A row's token is the one before the one that it predicts.
                    let before = |step: &u32| step.checked_sub(1).map(|step| text.tokens[step as usize].id);
                    let tokens = steps.iter().map(before).collect();
                    kept.push(KeptSteps { branch, sample, capture, steps, tokens, values });
                }
            }
        }
        kept
    }

    fn text(
        &self,
        generation: &Generation,
        branch: usize,
        sample: usize,
        words: &dyn Words,
        nulls: &mut Nulls,
    ) -> TextResult {
        let collected = &self.texts[branch][sample];
        let Collected { text, tokens, end, .. } = collected;
        let at = format!("/branches/{}/samples/{sample}", escape(&self.branches[branch]));
        let (finish, written) = end.unwrap_or((Finish::Lost, Receipt::default()));
        let token = |token: &Token| TokenResult {
            id: token.id,
            text: words.text(token.id),
            logprob: finite(token.logprob),
            mass_kept: token.mass_kept,
            top: token
                .top
                .iter()
                .map(|(id, logprob)| TopChoice { id: *id, text: words.text(*id), logprob: finite(*logprob) })
                .collect(),
        };
        let values = |i: usize| tokens.iter().map(|token| token.metrics[i]).collect::<Vec<_>>();
        let compare = tokens.iter().map(|token| token.compare).collect::<Option<Vec<_>>>();
        let other = self.compare.unwrap_or(0);
        let parts = || {
            let others = &self.texts[other][sample].tokens;
            let same = tokens.iter().zip(others).take_while(|(a, b)| a.id == b.id).count();
            (same < tokens.len().max(others.len()))
                .then(|| Divergence { from: self.branches[other].clone(), step: same as u32 })
        };
        TextResult {
            text: text.clone(),
            tokens: tokens.iter().map(token).collect(),
            finish,
            steps: tokens.len() as u32,
            metrics: self.metrics.iter().enumerate().map(|(i, name)| (name.clone(), values(i))).collect(),
            captures: reads::captures(&generation.reads, collected, (&at, &mut *nulls)),
            logit_lens: reads::lens(generation, collected, words, (&at, nulls)),
            compare: compare.filter(|all| self.compare.is_some_and(|c| c != branch) && !all.is_empty()).map(
                |all| CompareResult {
                    logprob: all.iter().map(|(logprob, _)| finite(*logprob)).collect(),
                    mean_logprob: finite(all.iter().map(|(l, _)| l).sum::<f64>() / all.len() as f64),
                    kl: all.iter().map(|(_, kl)| finite(*kl)).collect(),
                },
            ),
            first_divergence: if other == branch { None } else { parts() },
            receipt: receipt(written),
        }
    }
}

/// How many of the texts contain one of some others.
fn outcome(texts: &[Collected], said: &[String]) -> OutcomeResult {
    let has = |text: &&Collected| said.iter().any(|said| text.text.contains(said.as_str()));
    outcome_of(texts.iter().filter(has).count() as u64, texts.len() as u64)
}

/// So many of `n`.
pub(super) fn outcome_of(texts: u64, n: u64) -> OutcomeResult {
    OutcomeResult { texts, n, share: texts as f64 / n as f64, ci: wilson(texts, n) }
}

/// Wilson's interval of a share, 95 %.
fn wilson(found: u64, n: u64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let (n, share) = (n as f64, found as f64 / n as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + Z * Z / n;
    [((middle - half) / whole).max(0.0), ((middle + half) / whole).min(1.0)]
}

fn receipt(written: Receipt) -> StepReceipt {
    StepReceipt {
        steps_written: written.steps.map(|(first, last)| [first, last]),
        expected: written.expected,
        cells: written.cells,
        max_abs_delta: finite(f64::from(written.max_abs_delta)),
        max_relative_delta: written.farthest.map(|(far, _)| far),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_wilson_s_interval() {
        // By statsmodels' proportion_confint(3, 10, method="wilson") and (0, 5).
        let near = |a: [f64; 2], b: [f64; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(wilson(3, 10), [0.107_791_3, 0.603_221_9]), "{:?}", wilson(3, 10));
        assert!(near(wilson(0, 5), [0.0, 0.434_481_6]), "{:?}", wilson(0, 5));
        let text = |text: &str| Collected { text: text.to_owned(), ..Collected::default() };
        let texts = [text("a dog"), text("a cat"), text("hot dog")];
        let found = outcome(&texts, &["dog".to_owned(), "bird".to_owned()]);
        assert_eq!((found.texts, found.n), (2, 3));
    }
}
