//! Clean runs: `POST /v1/run`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::experiment::{Experiment, Origins, SHARED, Short};
use super::hints::Endpoint;
use super::named::Named;
use super::problem::Problems;
use super::prompt::Prompt;
use super::read::{Fields, Node};

/// One or several prompts, computed as they are.
///
/// Short form: `{"prompt": "…"}` (or `tokens`, with `spans` and `bos`) is one run named `run`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunSpec {
    /// Runs, targets, metrics, readouts.
    #[serde(flatten)]
    pub experiment: Experiment,
}

const PROMPT: [&str; 4] = ["prompt", "tokens", "spans", "bos"];

impl RunSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let known: Vec<&str> = SHARED.into_iter().chain(PROMPT).collect();
        let fields = Node::root(Endpoint::Run, body).fields(&known, out)?;
        let short = Short { fields: &PROMPT, read: &read_short };
        Some(Self { experiment: Experiment::read(&fields, &short, 10, true, out)? })
    }
}

fn read_short(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    let prompt = Prompt::read_fields(fields, out)?;
    let origins = vec![
        ("/runs/run/prompt", "/prompt"),
        ("/runs/run/tokens", "/tokens"),
        ("/runs/run/spans", "/spans"),
        ("/runs/run/bos", "/bos"),
    ];
    Some((Named::one("run", prompt), Origins(origins)))
}
