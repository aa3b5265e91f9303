//! The logit lens of a prompt: `POST /v1/lens`. A wire form of a [`RunSpec`].

use serde_json::Value;
use utoipa::ToSchema;

use super::declare::{Declared, declare};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Form, Short};
use super::hints::Body;
use super::metric::{Target, TargetSet};
use super::named::Named;
use super::problem::Problems;
use super::prompt::PlainPrompt;
use super::read::Node;
use super::readout::LensSpec;
use super::run::{RunSpec, read_short};
use super::select::{Layers, Positions};

declare! {
/// Body of `POST /v1/lens`: one prompt, read at every layer and position.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "target": " Paris"})))]
pub struct LensBody {
    /// The model; the one served if left out.
    pub model: Option<String>,
    /// The prompt.
    flat pub prompt: PlainPrompt,
    /// The token whose metrics are wanted at each layer and position, named `target`.
    pub target: Option<Target>,
    /// Or sets of tokens by name.
    #[schema(value_type = Option<std::collections::BTreeMap<String, TargetSet>>)]
    pub targets: Option<Named<TargetSet>>,
    /// What is computed of each layer and position; by default the probability and log-probability of every target.
    #[schema(value_type = Option<Vec<String>>)]
    pub metrics: Option<Vec<String>>,
    /// Layers; all if left out.
    pub layers: Option<Layers>,
    /// Positions; all if left out.
    pub positions: Option<Positions>,
    /// How many of the most probable tokens are told at each; 3 if left out.
    pub topk: Option<u32>,
    /// Refuses requests that raise a lint of severity warning or above.
    pub strict: Option<bool>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
}
}

impl Body for LensBody {
    const AT: Endpoint = Endpoint("/v1/lens");
}

impl Form for LensBody {
    type Request = RunSpec;
    const NAME: &'static str = "lens";

    fn read(body: &Value, out: &mut Problems) -> Option<RunSpec> {
        let fields = Node::root(Self::AT, body).fields_of::<Self>(out)?;
        let short = Short { fields: PlainPrompt::FIELDS, read: &read_short };
        let experiment = Experiment::read(&fields, &short, 1, false, out);
        let layers = fields.get("layers").and_then(|n| Layers::read(&n, out)).unwrap_or(Layers::ALL);
        let positions = fields.get("positions").and_then(|n| Positions::read(&n, false, out));
        let topk = fields.get("topk").and_then(|n| n.count(1, out)).unwrap_or(3);
        let mut experiment = experiment?;
        let positions = positions.unwrap_or(Positions::ALL);
        experiment.read.logit_lens = Some(LensSpec { layers, positions, topk });
        experiment.origins.0.extend([
            ("/read/logit_lens/layers", "/layers"),
            ("/read/logit_lens/positions", "/positions"),
            ("/read/logit_lens/topk", "/topk"),
        ]);
        Some(RunSpec { experiment })
    }
}
