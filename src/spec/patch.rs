//! Patch runs: `POST /v1/patch`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::{choices, declare, need};
use super::derive::{Derive, read_derive};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Origins, Short, short_prompt};
use super::hints::{Body, Places, of};
use super::intervention::{Intervention, OpSpec, SourceSpec};
use super::metric::{Metric, MetricKind, Target};
use super::named::Named;
use super::problem::Problems;
use super::prompt::{Prompt, PromptText};
use super::read::{Fields, Node};
use super::readout::Read;

declare! {
/// A base run with interventions, applied jointly or swept.
///
/// Short form: `{"base": "…", "source": "…", "target": "…"}` with two prompts sweeps the residual stream over all
/// layers, last position to last position.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PatchSpec {
    /// Runs, targets, metrics, readouts.
    flat pub experiment: Experiment,
    /// The run that is patched.
    pub base: String,
    /// What is written.
    #[schema(required = false)]
    pub interventions: Vec<Intervention>,
    /// Axes enumerated one by one, outermost first; all else applies jointly.
    #[schema(required = false)]
    pub sweep: Vec<SweepAxis>,
    /// Runs whose metrics count as 0 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Normalise>,
    /// Controls computed beside the cells.
    #[schema(required = false)]
    pub controls: Vec<Control>,
    /// Quantities derived from the cells.
    #[schema(required = false)]
    pub derive: Vec<Derive>,
}
}

declare! {
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
    pub source: Option<String>,
    /// Short: the token whose metrics are wanted, named `target`.
    pub target: Option<Target>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// The long form.
    flat pub long: PatchSpec,
}
}

impl Body for PatchBody {
    const AT: Endpoint = Endpoint("/v1/patch");

    fn places() -> Places {
        of::<Self>("").only("/read", Read::OF_PATCHED)
    }
}

choices! {
/// An axis of the interventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum SweepAxis {
    /// Layer by layer.
    Layers = "layers",
    /// Position by position.
    Positions = "positions",
    /// Head by head.
    Heads = "heads",
    /// Column by column (neurons, channels; the keys of a knockout).
    Dims = "dims",
    /// Layer by layer of those that a source names as its `layer`: with `layers`, every layer into every other.
    SourceLayers = "source_layers",
}
}

impl SweepAxis {
    /// Name of the axis in a result.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Layers => "layer",
            Self::Positions => "position",
            Self::Heads => "head",
            Self::Dims => "dim",
            Self::SourceLayers => "source_layer",
        }
    }
}

declare! {
read
/// `(value - zero) / (one - zero)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Normalise {
    /// Run whose value counts as 0.
    pub zero: String = need("name the run that counts as 0", Node::name),
    /// Run whose value counts as 1.
    pub one: String = need("name the run that counts as 1", Node::name),
}
}

choices! {
/// Something computed to show that the method itself adds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Control {
    /// Every cell again with its own unpatched run as the source; the effect must be exactly 0.
    SelfPatch = "self_patch",
    /// Every cell again reading random other positions of its source run.
    RandomPosition = "random_position",
    /// Every cell again moving each row as far as the patch does, in a random direction.
    RandomVector = "random_vector",
    /// Every cell again reading an unrelated prompt, as far from its end: the run named `unrelated`, or one of our own.
    UnrelatedPrompt = "unrelated_prompt",
}
}

impl PatchSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(PatchBody::AT, body).fields_of::<PatchBody>(out)?;
        let is_short = fields.get("runs").is_none();
        let short = Short { fields: &["source"], read: &read_short };
        let experiment = Experiment::read(&fields, &short, 5, false, out);
        let base = if is_short { Some("base".to_owned()) } else { read_base(&fields, out) };
        let given = fields.get("interventions");
        let interventions = match given {
            // One that can't be read is held by another: problems found later name interventions by their place.
            Some(node) => node.each(out, |n, out| {
                Some(Intervention::read(n, out).unwrap_or_else(|| Intervention::last_residual("source")))
            }),
            None if is_short => Some(vec![Intervention::last_residual("source")]),
            None => {
                let fix = "list what is written: [{\"site\": \"resid_post\", \"source\": {\"run\": name}}]";
                fields.need("interventions", fix, out);
                None
            }
        };
        let default_sweep =
            if is_short && fields.get("interventions").is_none() { vec![SweepAxis::Layers] } else { vec![] };
        let sweep = fields.get("sweep").and_then(|n| read_sweep(&n, out)).unwrap_or(default_sweep);
        let normalise = fields.get("normalise").and_then(|n| Normalise::read(&n, out));
        let controls = fields.get("controls").and_then(|n| read_controls(&n, out)).unwrap_or_default();
        let derive = fields.get("derive").and_then(|n| read_derive(&n, out)).unwrap_or_default();
        let (mut experiment, base) = (experiment?, base?);
        let interventions = interventions.filter(|list| !list.is_empty())?;
        if experiment.metrics.is_empty() {
            experiment.metrics =
                vec![Metric::new(MetricKind::Kl, &base), Metric::new(MetricKind::Top1Flip, "")];
        }
        let normalise = normalise.or_else(|| default_normalise(&base, &interventions, &experiment.runs));
        Some(Self { experiment, base, interventions, sweep, normalise, controls, derive })
    }
}

fn read_short(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    let base = short_prompt(fields, "base", "write the prompt that is patched, or give `runs`", out);
    // Interventions of their own may need no source run.
    let needs_source = fields.get("interventions").is_none() || fields.get("source").is_some();
    let fix = "write the prompt that is read, or give `runs`";
    let source = needs_source.then(|| short_prompt(fields, "source", fix, out));
    let mut runs = vec![("base".to_owned(), base?)];
    if let Some(source) = source {
        runs.push(("source".to_owned(), source?));
    }
    let mut origins = vec![("/runs/base/prompt", "/base"), ("/runs/source/prompt", "/source")];
    if fields.get("interventions").is_none() {
        // The intervention that the short form stands for.
        origins.push(("/interventions", "/source"));
    }
    Some((Named(runs), Origins(origins)))
}

fn read_base(fields: &Fields<'_>, out: &mut Problems) -> Option<String> {
    fields.need("base", "name the run that is patched", out)?.name(out)
}

fn read_sweep(node: &Node<'_>, out: &mut Problems) -> Option<Vec<SweepAxis>> {
    node.distinct(out, |n, out| n.choice(&SweepAxis::ALL, &["arms"], out))
}

/// Reads a list of controls; an empty one means none.
pub(super) fn read_controls(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Control>> {
    node.distinct(out, |n, out| n.choice(&Control::ALL, &[], out))
}

/// The base as 0 and the only source as 1, where there is just one source and it is a prompt: a run derived from the
/// base is no other end of a scale.
fn default_normalise(base: &str, interventions: &[Intervention], runs: &Named<Prompt>) -> Option<Normalise> {
    let sources = interventions.iter().filter_map(|intervention| match &intervention.op {
        OpSpec::Replace { source: SourceSpec::Run { run, .. } } => Some(run),
        _ => None,
    });
    let mut sources: Vec<&String> = sources.collect();
    sources.dedup();
    let derived = |name: &str| {
        let run = runs.get(name);
        run.is_some_and(|run| matches!(run.text, PromptText::Derived { .. }))
    };
    match sources[..] {
        [one] if one != base && !derived(one) => Some(Normalise { zero: base.to_owned(), one: one.clone() }),
        _ => None,
    }
}
