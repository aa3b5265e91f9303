//! How likely each token of a text is: `POST /v1/surprisal`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::{Declared, declare};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Short};
use super::hints::Body;
use super::named::Named;
use super::problem::Problems;
use super::prompt::{PlainPrompt, Prompt};
use super::read::Node;
use super::run::read_short;

declare! {
/// Texts whose tokens are scored one by one, each after all tokens before it.
///
/// Short form: `{"prompt": "…"}` (or `tokens`, with `spans` and `bos`) is one run named `run`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SurprisalSpec {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Texts by name. One may be another with interventions.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, Prompt>)]
    pub runs: Named<Prompt>,
    /// How many of the most probable tokens are told at each position; none if left out.
    #[schema(required = false)]
    pub topk: u32,
    /// Refuses requests that raise a lint of severity warning or above.
    #[schema(required = false)]
    pub strict: bool,
    /// The same in the form that all requests share.
    skip pub experiment: Experiment,
}
}

declare! {
/// Body of `POST /v1/surprisal`: named `runs`, or in short one `prompt`.
#[derive(ToSchema)]
#[schema(examples(json!({"runs": {"good": "The keys to the cabinet are", "bad": "The keys to the cabinet is"}})))]
pub struct SurprisalBody {
    /// Short: the only text.
    flat pub prompt: PlainPrompt,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// The long form.
    flat pub long: SurprisalSpec,
}
}

impl Body for SurprisalBody {
    const AT: Endpoint = Endpoint("/v1/surprisal");
}

impl SurprisalSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(SurprisalBody::AT, body).fields_of::<SurprisalBody>(out)?;
        let short = Short { fields: PlainPrompt::FIELDS, read: &read_short };
        let experiment = Experiment::read(&fields, &short, 0, false, out);
        let topk = fields.get("topk").and_then(|n| n.count(1, out)).unwrap_or(0);
        let mut experiment = experiment?;
        experiment.read.topk = topk;
        experiment.origins.0.push(("/read/topk", "/topk"));
        let (model, runs, strict) = (experiment.model.clone(), experiment.runs.clone(), experiment.strict);
        Some(Self { model, runs, topk, strict, experiment })
    }
}
