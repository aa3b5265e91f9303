//! Clean runs: `POST /v1/run`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::{Declared, declare};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Origins, Short};
use super::hints::Body;
use super::metric::Target;
use super::named::Named;
use super::problem::Problems;
use super::prompt::{PlainPrompt, Prompt};
use super::read::{Fields, Node};

declare! {
/// One or several prompts, computed as they are.
///
/// Short form: `{"prompt": "…"}` (or `tokens`, with `spans` and `bos`) is one run named `run`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunSpec {
    /// Runs, targets, metrics, readouts.
    flat pub experiment: Experiment,
}
}

declare! {
/// Body of `POST /v1/run`: named `runs`, or in short one `prompt`.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "target": " Paris"})))]
pub struct RunBody {
    /// Short: the only prompt.
    flat pub prompt: PlainPrompt,
    /// Short: the token whose metrics are wanted, named `target`.
    pub target: Option<Target>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// The long form.
    flat pub long: RunSpec,
}
}

impl Body for RunBody {
    const AT: Endpoint = Endpoint("/v1/run");
}

impl RunSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(RunBody::AT, body).fields_of::<RunBody>(out)?;
        let short = Short { fields: PlainPrompt::FIELDS, read: &read_short };
        Some(Self { experiment: Experiment::read(&fields, &short, 10, true, out)? })
    }
}

pub(super) fn read_short(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    let prompt = Prompt::read_fields(fields, out)?;
    let origins = vec![
        ("/runs/run/prompt", "/prompt"),
        ("/runs/run/tokens", "/tokens"),
        ("/runs/run/messages", "/messages"),
        ("/runs/run/template", "/template"),
        ("/runs/run/spans", "/spans"),
        ("/runs/run/bos", "/bos"),
    ];
    Some((Named::one("run", prompt), Origins(origins)))
}
