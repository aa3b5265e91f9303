//! The forms in which a request may be written, for the OpenAPI document. Requests are read by each spec's `read`, which
//! lowers the short form to the long one; the response echoes the long form.

// Nothing makes these values: they are schemas.
#![expect(dead_code, clippy::large_enum_variant, reason = "only their schemas are used")]

use utoipa::ToSchema;

use super::patch::PatchSpec;
use super::run::RunSpec;
use super::trace::TraceSpec;

/// Body of `POST /v1/run`. Fields of the long form may be added to the short one.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "target": " Paris"})))]
#[serde(untagged)]
pub enum RunBody {
    /// One prompt.
    Short(ShortRun),
    /// Named prompts.
    Long(RunSpec),
}

/// Short form of a run.
#[derive(ToSchema)]
pub struct ShortRun {
    /// The prompt; or `tokens`.
    prompt: Option<String>,
    /// Token ids instead of a prompt.
    tokens: Option<Vec<u32>>,
    /// The token whose metrics are wanted, named `target`.
    target: Option<String>,
}

/// Body of `POST /v1/patch`. Fields of the long form may be added to the short one.
#[derive(ToSchema)]
#[schema(examples(json!({
    "base": "The wires carry high voltage electrical",
    "source": "Why do electricians make good swimmers? Because they know the",
    "target": " current"
})))]
#[serde(untagged)]
pub enum PatchBody {
    /// Two prompts; without `interventions`, the last position's residual stream at every layer, one by one.
    Short(ShortPatch),
    /// Everything named.
    Long(PatchSpec),
}

/// Short form of a patch.
#[derive(ToSchema)]
pub struct ShortPatch {
    /// The prompt that is patched.
    base: String,
    /// The prompt that is read.
    source: Option<String>,
    /// The token whose metrics are wanted, named `target`.
    target: Option<String>,
}

/// Body of `POST /v1/trace`. Fields of the long form may be added to the short one.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"})))]
#[serde(untagged)]
pub enum TraceBody {
    /// One prompt with its subject, corrupted by noise of 3 sigma.
    Short(ShortTrace),
    /// Everything named.
    Long(TraceSpec),
}

/// Short form of a trace.
#[derive(ToSchema)]
pub struct ShortTrace {
    /// The clean prompt.
    prompt: String,
    /// The text in it whose tokens are corrupted.
    subject: Option<String>,
    /// The token whose metrics are wanted, named `target`.
    target: Option<String>,
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
