//! Tokenisation: `POST /v1/tokenize`.

use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::endpoint::Endpoint;
use super::hints::Body;
use super::problem::Problems;
use super::prompt::{PlainPrompt, Prompt};
use super::read::Node;

/// One prompt to be tokenised, with spans to be found in it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeSpec {
    /// The model; the one served if left out.
    pub model: Option<String>,
    /// The prompt.
    pub prompt: Prompt,
    /// A text whose tokens after the prompt are told, as targets are read.
    pub continuation: Option<String>,
}

declare! {
/// Body of `POST /v1/tokenize`: one prompt to be tokenised, with spans to be found in it.
#[derive(ToSchema)]
pub struct TokenizeBody {
    /// The model; the one served if left out.
    pub model: Option<String>,
    /// The prompt.
    flat pub prompt: PlainPrompt,
    /// A text whose tokens after the prompt are told, as targets are read.
    pub continuation: Option<String>,
}
}

impl Body for TokenizeBody {
    const AT: Endpoint = Endpoint("/v1/tokenize");
}

impl TokenizeSpec {
    /// Reads a request body.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(TokenizeBody::AT, body).fields_of::<TokenizeBody>(out)?;
        let model = fields.get("model").and_then(|n| n.name(out));
        let continuation = fields.get("continuation").and_then(|n| n.name(out));
        Some(Self { model, continuation, prompt: Prompt::read_fields(&fields, out)? })
    }
}
