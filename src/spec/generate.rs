//! Generated text: `POST /v1/generate`.

mod cases;
mod sampling;
mod swept;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use self::cases::{TextCase, TextsForm};
pub use self::sampling::Sampling;
pub use self::swept::SweepForm;
use self::swept::Swept;
use super::declare::{declare, or};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Origins, read_metrics};
use super::hints::Body;
use super::intervention::{Intervention, OpSpec, SourceSpec};
use super::metric::{Metric, MetricKind, Of, Target, TargetScoring, TargetSet};
use super::named::Named;
use super::problem::{Problems, code};
use super::prompt::{PlainPrompt, Prompt, exclude_short, read_runs};
use super::read::{Declared, Fields, Node, did_you_mean, escape};
use super::readout::{CaptureForm, Read, read_dtype, read_layers, read_site};
use super::select::{Layers, Steps};
use super::site::Site;
use crate::spec::dtype::Dtype;

declare! {
/// Texts that a model writes after a prompt: one for each branch of interventions and each sample.
///
/// Short form: `{"prompt": "…"}` (or `tokens` or `messages`) is one run named `prompt`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GenerateSpec {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Prompts by name: the one that is continued, and those that values come from.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, Prompt>)]
    pub runs: Named<Prompt>,
    /// The run that is continued; may be left out if there is only one.
    #[schema(required = false)]
    pub base: String,
    /// Interventions by name: every branch continues the prompt with its own, or as it is with `[]`. The branch `plain` without any if
    /// nothing is named. A step of all branches and samples reads the weights once.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, Vec<Intervention>>)]
    pub branches: Named<Vec<Intervention>>,
    /// How tokens are drawn: greedily if left out.
    #[schema(required = false)]
    pub sampling: Sampling,
    /// Texts of each branch. Sample n of every branch gets the same random numbers.
    #[schema(required = false)]
    pub samples: u32,
    /// The number of the first of them, which its random numbers follow: those from 4 on are the ones after the first four.
    #[schema(required = false)]
    pub first_sample: u32,
    /// Most tokens of a text.
    #[schema(required = false)]
    pub max_tokens: u32,
    /// Texts before which a text ends. They are found across tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// A branch under which every text of the others is scored: the log-probability of its tokens, and the divergence at every step.
    /// Says what a change costs in sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare_with: Option<String>,
    /// What is read at every step.
    #[schema(required = false)]
    pub read: GenerateRead,
    /// Sets of tokens by name.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, TargetSet>)]
    pub targets: Named<TargetSet>,
    /// Texts by name: the share of each branch's samples that contain one of them is told, with an interval.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, Vec<String>>)]
    pub outcomes: Named<Vec<String>>,
    /// Controls computed beside the texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<GenerateControl>,
    /// Refuses requests that raise a lint of severity warning or above.
    #[schema(required = false)]
    pub strict: bool,
    /// Where the fields of the short form came from.
    skip pub origins: Origins,
    /// Which branches a sweep made.
    skip pub swept: Swept,
}
}

declare! {
/// Body of `POST /v1/generate`: named `runs` with `branches`, or in short one prompt, its `interventions` and what of them is swept.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The weather today is", "max_tokens": 20})))]
pub struct GenerateBody {
    /// Short: the only prompt.
    flat pub prompt: PlainPrompt,
    /// Instead of `branches`: the interventions of the only branch, `edited`, or of those that `sweep` makes.
    pub interventions: Option<Vec<Intervention>>,
    /// Values of the interventions that are tried one by one, each in a branch of its own.
    pub sweep: Option<SweepForm>,
    /// Short: a set of tokens named `target`.
    pub target: Option<Target>,
    /// Prompts that are continued one by one, instead of one: each is the run `prompt` of a request of its own, beside `runs`. Always a job,
    /// whose result is a `TextsOutcome`.
    pub dataset: Option<TextsForm>,
    /// Answers with server-sent events as the texts grow, as `Accept: text/event-stream`.
    pub stream: Option<bool>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// The long form.
    flat pub long: GenerateSpec,
}
}

impl Body for GenerateBody {
    const AT: Endpoint = Endpoint("/v1/generate");
}

declare! {
/// What is read at every step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct GenerateRead {
    /// How many of the most probable tokens are told of every step.
    #[schema(required = false)]
    pub logprobs: u32,
    /// Whether the log-probability of every token of the prompt is told, too, under each branch.
    #[schema(required = false)]
    pub prompt_logprobs: bool,
    /// What is computed of every step's distribution; by default the log-probability of every target.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub metrics: Vec<Metric>,
    /// Activations of steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<StepCapture>,
    /// Logit lens at steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_lens: Option<StepLens>,
}
}

declare! {
/// Activations of the rows that predict new tokens, after the edits of their step.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StepCapture {
    /// Site.
    pub site: Site,
    /// Layers; absent at sites that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Steps.
    #[schema(required = false)]
    pub steps: Steps,
    /// How they are returned.
    #[schema(required = false)]
    pub r#as: CaptureForm,
    /// Number format; inline captures are `f32`.
    #[schema(required = false)]
    pub dtype: Dtype,
}
}

declare! {
read
/// The logit lens at the rows that predict new tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StepLens {
    /// Layers.
    #[schema(required = false)]
    pub layers: Layers = or(Layers::ALL, Layers::read),
    /// Steps.
    #[schema(required = false)]
    pub steps: Steps = or(Steps::ALL, Steps::read),
    /// How many of the most probable tokens are returned.
    #[schema(required = false)]
    pub topk: u32 = or(3, |n, out| n.count(1, out)),
}
}

/// Something computed to show that the method itself adds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GenerateControl {
    /// Every text again in one forward pass over prompt and text with the same edits: the log-probabilities must differ by exactly 0.
    Recompute,
}

/// Tokens of a text where the request does not say.
pub const MAX_TOKENS: u32 = 64;
/// The only run of the short form.
const PROMPT: &str = "prompt";
/// The branch of a request without interventions.
const PLAIN: &str = "plain";
/// The only branch of a request with `interventions`.
const EDITED: &str = "edited";

impl GenerateSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(GenerateBody::AT, body).fields_of::<GenerateBody>(out)?;
        let runs = read_prompts(&fields, out);
        let base = read_base(&fields, runs.as_ref().map(|(runs, _)| runs), out);
        let model = fields.get("model").and_then(|n| n.name(out));
        let branches = read_branches(&fields, out);
        let compare_with = branches.as_ref().and_then(|(branches, _)| {
            fields.get("compare_with").and_then(|n| read_branch(&n, branches, out))
        });
        let sampling = fields.get("sampling").and_then(|n| Sampling::read(&n, out)).unwrap_or_default();
        let samples = fields.get("samples").and_then(|n| n.count(1, out)).unwrap_or(1);
        if samples > 1 && sampling.temperature == 0.0 {
            let detail = "at temperature 0 every sample is the same text";
            let fix = "write \"sampling\": {\"temperature\": 1}, or leave out `samples`";
            out.push("/samples", code::CONFLICT, detail, fix);
        }
        let first_sample = fields.get("first_sample").and_then(|n| n.index(out)).unwrap_or(0);
        if first_sample.checked_add(samples).is_none() {
            let detail = format!("{samples} samples from {first_sample} on");
            out.push("/first_sample", code::OUT_OF_RANGE, detail, "write a smaller number");
        }
        if let Some(node) = fields.get("dataset") {
            let fix = "write its prompts out, or send the whole as a job";
            out.push(&node.at, code::NOT_SUPPORTED, "one prompt is read at a time", fix);
        }
        let max_tokens = fields.get("max_tokens").and_then(|n| n.count(1, out)).unwrap_or(MAX_TOKENS);
        let stop = fields.get("stop").and_then(|n| read_texts(&n, out)).unwrap_or_default();
        let (targets, target_origins) = read_targets(&fields, out);
        let read = match fields.get("read") {
            Some(node) => GenerateRead::read(&node, &targets, out),
            None => Some(GenerateRead::of(&targets)),
        };
        let outcomes = fields.get("outcomes").and_then(|n| Named::read(&n, out, read_texts));
        let controls = fields.get("controls").and_then(|n| read_controls(&n, out)).unwrap_or_default();
        // Who answers has acted on them.
        for name in ["stream", "async"] {
            fields.get(name).and_then(|n| n.flag(out));
        }
        let strict = fields.get("strict").and_then(|n| n.flag(out)).unwrap_or(false);
        let (runs, mut origins) = runs?;
        let (branches, swept) = branches?;
        check_sources(&branches, &swept, out);
        origins.0.extend(target_origins);
        Some(Self {
            model,
            runs,
            base: base?,
            branches,
            sampling,
            samples,
            first_sample,
            max_tokens,
            stop,
            compare_with,
            read: read?,
            targets,
            outcomes: outcomes.unwrap_or_default(),
            controls,
            strict,
            origins,
            swept,
        })
    }

    /// The pointer that the caller wrote for a pointer into the long form.
    pub fn restore(&self, pointer: &str) -> String {
        self.origins.restore(&self.swept.restore(pointer))
    }

    /// How many of the most probable tokens are found at every step: two at least, to see where they are close.
    pub fn most_probable(&self) -> u32 {
        self.read.logprobs.max(2).max(self.read.logit_lens.as_ref().map_or(0, |lens| lens.topk))
    }

    /// The part that other requests about runs have too: runs, targets and metrics, read at the last position of the prompt.
    pub fn experiment(&self) -> Experiment {
        Experiment {
            model: self.model.clone(),
            runs: self.runs.clone(),
            targets: self.targets.clone(),
            target_scoring: TargetScoring::FirstToken,
            metrics: self.read.metrics.clone(),
            read: Read::last(self.most_probable()),
            strict: self.strict,
            allow_trivial: false,
            origins: self.origins.clone(),
        }
    }
}

/// The runs, in their long or short form.
fn read_prompts(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    if let Some(node) = fields.get("runs") {
        exclude_short(fields, PlainPrompt::FIELDS, out);
        return Some((read_runs(&node, out)?, Origins::default()));
    }
    let prompt = Prompt::read_fields(fields, out)?;
    let origins = vec![
        ("/runs/prompt/prompt", "/prompt"),
        ("/runs/prompt/tokens", "/tokens"),
        ("/runs/prompt/messages", "/messages"),
        ("/runs/prompt/template", "/template"),
        ("/runs/prompt/spans", "/spans"),
        ("/runs/prompt/bos", "/bos"),
    ];
    Some((Named::one(PROMPT, prompt), Origins(origins)))
}

fn read_base(fields: &Fields<'_>, runs: Option<&Named<Prompt>>, out: &mut Problems) -> Option<String> {
    let Some(node) = fields.get("base") else {
        if let [only] = runs?.names()[..] {
            return Some(only.to_owned());
        }
        fields.need("base", "name the run that is continued", out);
        return None;
    };
    let name = node.name(out)?;
    if let Some(runs) = runs.filter(|runs| runs.get(&name).is_none()) {
        let names = runs.names();
        let detail = format!("no run is called {name:?}{}", did_you_mean(&name, &names));
        out.push(&node.at, code::UNKNOWN_NAME, detail, format!("the runs are {}", names.join(", ")));
    }
    Some(name)
}

/// The branches as they are named, or those that `interventions` and `sweep` stand for.
fn read_branches(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Vec<Intervention>>, Swept)> {
    if let Some(node) = fields.get("branches") {
        fields.exclude("branches", &["interventions", "sweep"], out);
        return Some((Named::read(&node, out, read_list)?, Swept::default()));
    }
    let given = fields.get("interventions");
    if let Some(sweep) = fields.get("sweep") {
        let fix = "list what is written, and sweep over its coefs, layers or vectors";
        let axes = swept::axes(&sweep, out);
        let given = fields.need("interventions", fix, out);
        return swept::branches(&sweep, &given?, &axes?, out);
    }
    let Some(node) = given else { return Some((Named::one(PLAIN, Vec::new()), Swept::default())) };
    let list = node.each(out, Intervention::read_of_text)?;
    Some((Named::one(EDITED, list), Swept::alone(EDITED)))
}

/// Interventions, or none.
fn read_list(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Intervention>> {
    if node.value.as_array().is_some_and(Vec::is_empty) {
        return Some(Vec::new());
    }
    node.each(out, Intervention::read_of_text)
}

fn read_branch(node: &Node<'_>, branches: &Named<Vec<Intervention>>, out: &mut Problems) -> Option<String> {
    let name = node.name(out)?;
    check_branch(&name, &node.at, branches, out);
    Some(name)
}

fn check_branch(name: &str, at: &str, branches: &Named<Vec<Intervention>>, out: &mut Problems) {
    if branches.get(name).is_none() {
        let names = branches.names();
        let detail = format!("no branch is called {name:?}{}", did_you_mean(name, &names));
        out.push(at, code::UNKNOWN_NAME, detail, format!("the branches are {}", names.join(", ")));
    }
}

/// Checks what only generated text has: coefficients by step on steps alone, and sources that are other branches.
fn check_sources(branches: &Named<Vec<Intervention>>, swept: &Swept, out: &mut Problems) {
    for (name, list) in branches.iter() {
        for (i, one) in list.iter().enumerate() {
            let at = |field: &str| swept.restore(&format!("/branches/{}/{i}/{field}", escape(name)));
            let in_prompt = !one.positions.parts().0.is_empty();
            if let OpSpec::Add { coef, .. } = &one.op
                && coef.constant().is_none()
                && in_prompt
            {
                let detail = "a coefficient by step has no value at positions of the prompt";
                let fix =
                    "write a number, or steps alone as `positions`; step 0 is the prompt's last position";
                out.push(at("coef"), code::CONFLICT, detail, fix);
            }
            let Some(SourceSpec::Branch { branch, .. }) = one.op.source() else { continue };
            check_branch(branch, &at("source/branch"), branches, out);
            if branch == name {
                let detail = "the branch reads itself";
                out.push(at("source/branch"), code::SELF_REFERENCE, detail, "name another branch");
            }
            if in_prompt {
                let detail = "another branch is read at the same step, and the prompt has none";
                let fix = "write steps alone as `positions`, or read a run";
                out.push(at("source/branch"), code::CONFLICT, detail, fix);
            }
        }
    }
}

/// One text or several.
fn read_texts(node: &Node<'_>, out: &mut Problems) -> Option<Vec<String>> {
    if node.value.is_string() {
        return Some(vec![node.name(out)?]);
    }
    node.all(out, Node::name)
}

/// Targets, and the origins of the short form.
fn read_targets(
    fields: &Fields<'_>,
    out: &mut Problems,
) -> (Named<TargetSet>, Vec<(&'static str, &'static str)>) {
    super::experiment::read_targets(fields, out)
}

fn read_controls(node: &Node<'_>, out: &mut Problems) -> Option<Vec<GenerateControl>> {
    if node.value.as_array().is_some_and(Vec::is_empty) {
        return Some(Vec::new());
    }
    node.all(out, |n, out| n.choice(&[("recompute", GenerateControl::Recompute)], &[], out))
}

impl GenerateRead {
    /// What is read where the request does not say.
    fn of(targets: &Named<TargetSet>) -> Self {
        Self { metrics: Self::metrics_of(targets), ..Self::default() }
    }

    fn metrics_of(targets: &Named<TargetSet>) -> Vec<Metric> {
        targets.names().iter().map(|name| Metric::new(MetricKind::Logprob, name)).collect()
    }

    fn read(node: &Node<'_>, targets: &Named<TargetSet>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let logprobs = fields.get("logprobs").map_or(Some(0), |n| n.index(out));
        let metrics = match fields.get("metrics") {
            Some(node) => read_step_metrics(&node, out),
            None => Some(Self::metrics_of(targets)),
        };
        let capture = fields.get("capture").map_or(Some(Vec::new()), |n| n.each(out, StepCapture::read));
        let lens = fields.get("logit_lens").map_or(Some(None), |n| StepLens::read(&n, out).map(Some));
        let prompt_logprobs = fields.get("prompt_logprobs").map_or(Some(false), |n| n.flag(out));
        Some(Self {
            logprobs: logprobs?,
            prompt_logprobs: prompt_logprobs?,
            metrics: metrics?,
            capture: capture?,
            logit_lens: lens?,
        })
    }
}

/// Metrics of a step's own distribution.
fn read_step_metrics(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Metric>> {
    let metrics = read_metrics(node, out)?;
    for (i, metric) in metrics.iter().enumerate() {
        let (detail, fix) = match metric.kind.facts().of {
            Of::Target | Of::Pair => continue,
            Of::Run => {
                ("a step has no divergence from a run", "name a branch as `compare_with`, which gives `kl`")
            }
            Of::Base => ("a text has no base run", "name a branch as `compare_with`"),
            Of::Edits => ("what was written is told in the receipt", "leave it out"),
        };
        out.push(format!("{}/{i}", node.at), code::NOT_SUPPORTED, format!("{metric}: {detail}"), fix);
    }
    Some(metrics)
}

impl StepCapture {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let site =
            fields.need("site", "name the site to read, as resid_post", out).and_then(|n| read_site(&n, out));
        let layers = read_layers(&fields, site, out);
        let steps = fields.get("steps").map_or(Some(Steps::ALL), |n| Steps::read(&n, out));
        let inline = Some(CaptureForm::Inline);
        let form = fields.get("as").map_or(inline, |n| n.choice(&CaptureForm::ALL, &[], out));
        let dtype = fields.get("dtype").map_or(Some(Dtype::F32), |n| read_dtype(&n, out));
        if form == Some(CaptureForm::Inline) && dtype.is_some_and(|dtype| dtype != Dtype::F32) {
            let fix = "leave out `dtype`, or write \"as\": \"handle\"";
            out.push(fields.pointer("dtype"), code::NOT_SUPPORTED, "numbers in the response are f32", fix);
        }
        Some(Self { site: site?, layers: layers?, steps: steps?, r#as: form?, dtype: dtype? })
    }
}
