//! Alignment of two prompts: `POST /v1/align`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Origins, Short};
use super::hints::{Body, Places, of};
use super::metric::Target;
use super::named::Named;
use super::problem::{Problems, code};
use super::prompt::{Prompt, PromptBody};
use super::read::{Fields, Node};
use super::readout::Read;

declare! {
/// Two prompts to be compared: the first run is `a`, the second `b`.
///
/// Short form: `{"a": "…", "b": "…"}`, each a text or an object as in `runs`. With targets the model is run, and says
/// whether the prompts differ in what they are to differ in.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlignSpec {
    /// Exactly two runs; targets, metrics, readouts.
    flat pub experiment: Experiment,
}
}

declare! {
/// Body of `POST /v1/align`: two named `runs`, or in short `a` and `b`.
#[derive(ToSchema)]
#[schema(examples(json!({"a": "The Eiffel Tower is in the city of", "b": "The Colosseum is in the city of", "target": " Paris"})))]
pub struct AlignBody {
    /// Short: the first prompt, whose positions come first in the map: the source of a patch.
    pub a: Option<PromptBody>,
    /// Short: the second prompt: the base of a patch.
    pub b: Option<PromptBody>,
    /// Short: the token whose probabilities are compared, named `target`.
    pub target: Option<Target>,
    /// The long form.
    flat pub long: AlignSpec,
}
}

impl Body for AlignBody {
    const AT: Endpoint = Endpoint("/v1/align");

    fn places() -> Places {
        of::<Self>("").only("/read", Read::OF_PATCHED)
    }
}

impl AlignSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(AlignBody::AT, body).fields_of::<AlignBody>(out)?;
        let short = Short { fields: &["a", "b"], read: &read_short };
        let experiment = Experiment::read(&fields, &short, 5, false, out)?;
        // Runs that couldn't be read are reported already.
        if let Some(runs) =
            fields.get("runs").filter(|node| node.value.as_object().is_some_and(|map| map.len() != 2))
        {
            let n = runs.value.as_object().map_or(0, serde_json::Map::len);
            let detail = format!("{n} runs, and two are aligned");
            out.push(&runs.at, code::LENGTH_MISMATCH, detail, "name two runs: {\"a\": \"…\", \"b\": \"…\"}");
            return None;
        }
        Some(Self { experiment })
    }
}

fn read_short(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    const FIX: &str = "write the prompts as `a` and `b`, or give two `runs`";
    let a = fields.need("a", FIX, out);
    let b = fields.need("b", FIX, out);
    let prompt = |node: &Option<Node<'_>>, out: &mut Problems| Prompt::read(node.as_ref()?, out);
    let (prompt_a, prompt_b) = (prompt(&a, out), prompt(&b, out));
    let text = |node: &Option<Node<'_>>| node.as_ref().is_some_and(|node| node.value.is_string());
    let mut origins = Vec::new();
    // A plain text has no field of its own to point at.
    if text(&a) {
        origins.push(("/runs/a/prompt", "/a"));
    }
    if text(&b) {
        origins.push(("/runs/b/prompt", "/b"));
    }
    origins.extend([("/runs/a", "/a"), ("/runs/b", "/b"), ("/runs", "")]);
    let runs = vec![("a".to_owned(), prompt_a?), ("b".to_owned(), prompt_b?)];
    Some((Named(runs), Origins(origins)))
}
