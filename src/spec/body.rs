//! The forms in which a request may be written, for the OpenAPI document. Requests are read by each spec's `read`, which
//! lowers the short form to the long one; the response echoes the long form.

// Nothing makes these values: they are schemas.
#![expect(dead_code, reason = "only their schemas are used")]

use utoipa::ToSchema;

use super::align::AlignSpec;
use super::cases::{By, Case, Filters};
use super::corruption::Corruption;
use super::derive::Derive;
use super::metric::{TargetItem, TargetScoring, TargetSet};
use super::named::Named;
use super::patch::PatchSpec;
use super::prompt::{Prompt, SpanText};
use super::run::RunSpec;
use super::sweep::{KeepCells, Key, Order};
use super::trace::TraceSpec;

/// A target in short: one token as text or id, or a set of them.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Target {
    /// One token.
    One(TargetItem),
    /// Several.
    Set(TargetSet),
}

/// Body of `POST /v1/run`: named `runs`, or in short one `prompt`.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "target": " Paris"})))]
pub struct RunBody {
    /// Short: the only prompt; or `tokens`.
    prompt: Option<String>,
    /// Short: token ids instead of a prompt.
    tokens: Option<Vec<u32>>,
    /// Short: named spans of the prompt.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SpanText>>)]
    spans: Option<Named<SpanText>>,
    /// Short: whether a BOS token is put first.
    bos: Option<bool>,
    /// Short: the token whose metrics are wanted, named `target`.
    target: Option<Target>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    r#async: Option<bool>,
    #[serde(flatten)]
    long: RunSpec,
}

/// Body of `POST /v1/patch`: named `runs` with `interventions`, or in short the texts of `base` and `source`. Without
/// `interventions`, the last position's residual stream is replaced at every layer, one by one.
#[derive(ToSchema)]
#[schema(examples(json!({
    "base": "The wires carry high voltage electrical",
    "source": "Why do electricians make good swimmers? Because they know the",
    "target": " current"
})))]
pub struct PatchBody {
    /// Short: the text of the prompt that is read, beside `base` as the text of the one that is patched.
    source: Option<String>,
    /// Short: the token whose metrics are wanted, named `target`.
    target: Option<Target>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    r#async: Option<bool>,
    #[serde(flatten)]
    long: PatchSpec,
}

/// Body of `POST /v1/trace`: `runs` with a corruption, or in short a `prompt` and its `subject`, which gets noise of 3
/// sigma.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"})))]
pub struct TraceBody {
    /// Short: the clean prompt.
    prompt: Option<String>,
    /// Short: the text in it whose tokens are corrupted, or their range.
    subject: Option<SpanText>,
    /// Short: the token whose metrics are wanted, named `target`.
    target: Option<Target>,
    /// Many prompts instead of one, traced one by one and averaged by token class. Beside them `model`, `target_scoring`,
    /// `metrics`, `corrupt`, `arms` (by default `hidden`, `mlp` and `attn`), `layers`, `base`, `plot`, `strict` and
    /// `allow_trivial` mean what they mean for one, and hold for all.
    cases: Option<Vec<Case>>,
    /// With `cases`: which of them count.
    filters: Option<Filters>,
    /// With `cases`: how effects are averaged.
    aggregate: Option<AggregateForm>,
    /// What is kept beside means.
    keep: Option<TraceKeep>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    r#async: Option<bool>,
    #[serde(flatten)]
    long: TraceSpec,
}

/// How confidence intervals are made.
#[derive(ToSchema)]
pub struct IntervalForm {
    /// `bootstrap`, the only way.
    method: Option<String>,
    /// `case`, what is drawn.
    unit: Option<String>,
    /// Drawn sets of cases.
    #[schema(minimum = 100, maximum = 10000)]
    resamples: Option<u32>,
    /// Seed of the draws.
    seed: Option<u64>,
    /// Share of the drawn means inside the interval.
    level: Option<f64>,
}

/// How effects of a trace with `cases` are averaged.
#[derive(ToSchema)]
pub struct AggregateForm {
    /// Always by `token_class`; with `group`, also within each group.
    by: Option<Vec<By>>,
    /// How confidence intervals are made.
    ci: Option<IntervalForm>,
    /// `median`, `trimmed_mean` beside the mean; `mean`, `se`, `ci`, `ci_t`, `n` are always given.
    stats: Option<Vec<String>>,
}

/// How effects of a sweep are averaged over cases.
#[derive(ToSchema)]
pub struct AveragingForm {
    /// What is told apart; `arm` always is.
    by: Vec<Key>,
    /// `median`, `trimmed_mean` beside the mean; `mean`, `se`, `ci`, `ci_t`, `n` are always given.
    stats: Option<Vec<String>>,
    /// How confidence intervals are made.
    ci: Option<IntervalForm>,
    /// The strongest averages, listed with p-values that allow for the choice among all.
    topk: Option<TopForm>,
    /// `arm`: subtracts the averages of every two arms, case by case.
    compare: Option<Vec<Key>>,
}

/// How many of the strongest averages are listed.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum TopForm {
    /// So many.
    Count(u32),
    /// The same, with the correction named.
    Named {
        /// So many.
        k: u32,
        /// `effect`, the size of the mean effect, which is the default; or `t`.
        order: Option<Order>,
        /// `max_t`, the only one.
        correction: Option<String>,
    },
}

/// What a trace keeps beside means.
#[derive(ToSchema)]
pub struct TraceKeep {
    /// Of one prompt: the value of every sample of every cell.
    per_sample: Option<bool>,
    /// With `cases`: the mean effect of every case by token class.
    per_case: Option<bool>,
}

/// A prompt in short: its text, or an object.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum PromptBody {
    /// Its text.
    Text(String),
    /// Text or tokens, with spans.
    Prompt(Prompt),
}

/// Body of `POST /v1/align`: two named `runs`, or in short `a` and `b`.
#[derive(ToSchema)]
#[schema(examples(json!({"a": "The Eiffel Tower is in the city of", "b": "The Colosseum is in the city of", "target": " Paris"})))]
pub struct AlignBody {
    /// Short: the first prompt, whose positions come first in the map: the source of a patch.
    a: Option<PromptBody>,
    /// Short: the second prompt: the base of a patch.
    b: Option<PromptBody>,
    /// Short: the token whose probabilities are compared, named `target`.
    target: Option<Target>,
    #[serde(flatten)]
    long: AlignSpec,
}

/// A sweep's cases: written out, or by the id of a stored data set.
#[derive(ToSchema)]
pub struct DatasetForm {
    /// The cases.
    inline: Option<Vec<CaseForm>>,
    /// A set stored by `POST /v1/datasets`.
    id: Option<String>,
}

/// A case as it is written.
#[derive(ToSchema)]
pub struct CaseForm {
    /// Its name; its place in the list if left out.
    id: Option<String>,
    /// The group it belongs to.
    group: Option<String>,
    /// The clean prompt, the run `clean`; or `tokens`; or `runs`.
    prompt: Option<String>,
    /// Token ids instead of a prompt.
    tokens: Option<Vec<u32>>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    bos: Option<bool>,
    /// Named spans of the prompt.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SpanText>>)]
    spans: Option<Named<SpanText>>,
    /// The span named `subject`, around which token classes lie.
    subject: Option<SpanText>,
    /// A prompt that takes the clean one's place in the run `corrupted`, instead of a corruption.
    corrupted: Option<PromptBody>,
    /// All runs by name, instead of `prompt` and `corrupted`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, PromptBody>>)]
    runs: Option<Named<PromptBody>>,
    /// What is scored, the target `target`.
    target: Option<Target>,
    /// What it is compared with, the target `foil`.
    foil: Option<Target>,
    /// Further targets by name.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Target>>)]
    targets: Option<Named<Target>>,
    /// What counts of a target text of several tokens.
    target_scoring: Option<TargetScoring>,
}

/// Ways to write the arms of a sweep: ROME's by name, or by names of one's own lists of interventions, single ones, or
/// objects that name the runs too. An intervention without `op` and `source` restores the reference run's values.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum SweepArmsForm {
    /// `hidden`, `mlp` and `attn` (windows of 1, 10 and 10 layers), at every position.
    Names(Vec<String>),
    /// Arms by name.
    Map(std::collections::BTreeMap<String, serde_json::Value>),
}

/// Body of `POST /v1/sweep`.
#[derive(ToSchema)]
#[schema(examples(json!({
    "dataset": {"inline": [
        {"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"},
        {"prompt": "The Colosseum is in the city of", "subject": "Colosseum", "target": " Rome"}
    ]},
    "corrupt": {"sigma": {"k": 3}, "samples": 3},
    "arms": ["mlp", "attn"]
})))]
pub struct SweepBody {
    /// The model; the one served if left out.
    model: Option<String>,
    /// The cases; or `runs`.
    dataset: Option<DatasetForm>,
    /// The runs of a single case, by name; beside `dataset`, runs that every case has after its own, such as
    /// `{"sent": {"from": "clean", "interventions": […]}}`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, PromptBody>>)]
    runs: Option<Named<PromptBody>>,
    /// Targets of cases that have none of that name themselves.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Target>>)]
    targets: Option<Named<Target>>,
    /// The same for the target named `target`.
    target: Option<Target>,
    /// What counts of a target text of several tokens.
    target_scoring: Option<TargetScoring>,
    /// What is computed from every readout; by default the probability and log-probability of every target.
    #[schema(value_type = Option<Vec<String>>)]
    metrics: Option<Vec<String>>,
    /// Where the distribution is read.
    read: Option<serde_json::Value>,
    /// How each case's run `corrupted` is made. `sigma` of `subjects` is of the corrupted tokens of all cases together.
    corrupt: Option<Corruption>,
    /// The run that arms patch where they don't say; by default `corrupted`, if there is one.
    base: Option<String>,
    /// The run whose metrics cells could at most reach; by default `clean`, or the only other one that is read.
    reference: Option<String>,
    /// What is patched; by default the residual stream at every position.
    arms: Option<SweepArmsForm>,
    /// Axes enumerated one by one, outermost first: `layers`, `positions`, `heads`, `dims` (and `arms`, which always are).
    #[schema(value_type = Option<Vec<String>>)]
    sweep: Option<Vec<String>>,
    /// Every arm once more with base and reference exchanged, as `<name>_swapped`.
    swap: Option<bool>,
    /// Quantities derived from the cells of each case and arm.
    derive: Option<Vec<Derive>>,
    /// Which cases count; by default those of a data set that the model answers as expected.
    filters: Option<Filters>,
    /// How effects are averaged over cases.
    aggregate: Option<AveragingForm>,
    /// What is kept beside averages.
    keep: Option<KeepCells>,
    /// Formats that will be fetched. Each is made when it is asked for, listed or not.
    output: Option<Vec<String>>,
    /// `low`, `normal` or `high`.
    priority: Option<String>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    r#async: Option<bool>,
    /// Refuses requests that raise a lint of severity warning or above.
    strict: Option<bool>,
    /// Lets in grids that are tautologies throughout (`TAUTOLOGICAL_CUT`), with a lint instead of an error.
    allow_trivial: Option<bool>,
}

/// Body of `POST /v1/plan`: one request under the name of its endpoint.
#[derive(ToSchema)]
#[schema(examples(json!({"trace": {"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"}})))]
pub struct PlanBody {
    /// As in `POST /v1/run`.
    run: Option<RunBody>,
    /// As in `POST /v1/patch`.
    patch: Option<PatchBody>,
    /// As in `POST /v1/trace`.
    trace: Option<TraceBody>,
    /// As in `POST /v1/sweep`.
    sweep: Option<SweepBody>,
}
