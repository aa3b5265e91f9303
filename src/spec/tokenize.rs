//! Tokenisation: `POST /v1/tokenize`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

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
}

impl TokenizeSpec {
    /// Reads a request body.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(body).fields(&["model", "prompt", "tokens", "spans", "bos"], out)?;
        let model = fields.get("model").and_then(|n| n.name(out));
        Some(Self { model, prompt: Prompt::read_fields(&fields, out)? })
    }
}
