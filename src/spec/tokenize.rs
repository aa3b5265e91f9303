//! Tokenisation: `POST /v1/tokenize`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::hints::Endpoint;
use super::problem::Problems;
use super::prompt::Prompt;
use super::read::Node;

/// One prompt to be tokenised, with spans to be found in it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenizeSpec {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The prompt.
    #[serde(flatten)]
    pub prompt: Prompt,
    /// A text whose tokens after the prompt are told, as targets are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuation: Option<String>,
}

impl TokenizeSpec {
    /// Reads a request body.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let known = ["model", "prompt", "tokens", "spans", "bos", "continuation"];
        let fields = Node::root(Endpoint::Tokenize, body).fields(&known, out)?;
        let model = fields.get("model").and_then(|n| n.name(out));
        let continuation = fields.get("continuation").and_then(|n| n.name(out));
        Some(Self { model, continuation, prompt: Prompt::read_fields(&fields, out)? })
    }
}
