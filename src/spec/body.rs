//! The forms in which a request may be written, for the OpenAPI document. Requests are read by each spec's `read`, which
//! lowers the short form to the long one; the response echoes the long form.

// Nothing makes these values: they are schemas.
#![expect(dead_code, reason = "only their schemas are used")]

use utoipa::ToSchema;

use super::align::AlignSpec;
use super::cases::{Aggregate, Case, Filters};
use super::metric::{TargetItem, TargetSet};
use super::named::Named;
use super::patch::PatchSpec;
use super::prompt::{Prompt, SpanText};
use super::run::RunSpec;
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
    /// `metrics`, `corrupt`, `arms` (by default `hidden`, `mlp` and `attn`), `layers`, `direction`, `plot`, `strict` and
    /// `allow_trivial` mean what they mean for one, and hold for all.
    cases: Option<Vec<Case>>,
    /// With `cases`: which of them count.
    filters: Option<Filters>,
    /// With `cases`: how effects are averaged.
    aggregate: Option<Aggregate>,
    /// What is kept beside means.
    keep: Option<TraceKeep>,
    #[serde(flatten)]
    long: TraceSpec,
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
}
