//! Causal traces: `POST /v1/trace`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::case::{Aggregate, Case};
use super::chat::{Message, TemplateOptions};
use super::corruption::{Corruption, Method, RunNames};
use super::declare::{choices, declare, maybe, nothing, of_request, or};
use super::derive::{Derive, read_derive};
use super::endpoint::Endpoint;
use super::expected::Expected;
use super::experiment::{Experiment, Origins, Short, short_prompt};
use super::hints::{Body, Places, of};
use super::intervention::{check_heads_site, read_window};
use super::metric::{Metric, MetricKind, Target};
use super::named::Named;
use super::op::read_keys;
use super::patch::{Control, read_controls};
use super::problem::{Problems, code};
use super::prompt::{CORRUPTED, Prompt, SpanText};
use super::read::{Fields, Node};
use super::readout::{Read, read_site};
use super::select::{Dims, Heads, Layers, Positions};
use super::site::Site;
use super::statistics::Filters;

declare! {
/// A causal trace (Meng et al. 2022): every layer and position of a corrupted run restored in turn.
///
/// Short form: `{"prompt": "…", "subject": "…", "target": "…"}` puts noise of 3 sigma on the subject's tokens and
/// traces the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TraceSpec {
    /// Runs, targets, metrics, readouts.
    flat pub experiment: Experiment,
    /// How the corrupted run is made; its `from` is the clean run.
    #[schema(required = false)]
    pub corrupt: Corruption,
    /// What is restored, by name.
    #[schema(required = false, value_type = ArmsForm)]
    pub arms: Named<Arm>,
    /// Layers of the map.
    #[schema(required = false)]
    pub layers: Layers,
    /// Positions of the map.
    #[schema(required = false)]
    pub positions: Positions,
    /// The run that is patched: `corrupted`, the default, with clean states (denoising), or the clean run by its name with
    /// corrupted ones (noising).
    #[schema(required = false)]
    pub base: String,
    /// The target that the clean run should rank first, or `false` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_top1: Option<Expected>,
    /// What happens if it doesn't (without `expect_top1`, of the first target). Known only after the model has run: a
    /// refused request has cost its computation, and `/v1/plan` lets it in.
    #[schema(required = false)]
    pub on_unexpected: OnUnexpected,
    /// Controls computed beside the cells.
    #[schema(required = false)]
    pub controls: Vec<Control>,
    /// Quantities derived from the cells of each arm.
    #[schema(required = false)]
    pub derive: Vec<Derive>,
    /// What is kept beside means.
    #[schema(required = false)]
    pub keep: Keep,
    /// Cells of the map of which it is told what the model says with them: `read.topk` tokens (5 if left out), beside those of the
    /// clean and the corrupted run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<AskedCell>,
    /// Pictures put into the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plot: Vec<PlotFormat>,
}
}

declare! {
/// Body of `POST /v1/trace`: `runs` with a corruption, or in short a `prompt` and its `subject`, which gets noise of 3
/// sigma.
#[derive(ToSchema)]
#[schema(examples(json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"})))]
pub struct TraceBody {
    /// Short: the clean prompt.
    pub prompt: Option<String>,
    /// Short: a conversation as the clean prompt, written out by the model's chat template.
    pub messages: Option<Vec<Message>>,
    /// Short: with `messages`, what the template is told.
    pub template: Option<TemplateOptions>,
    /// Short: the text in it whose tokens are corrupted, or their range.
    pub subject: Option<SpanText>,
    /// Short: the token whose metrics are wanted, named `target`.
    pub target: Option<Target>,
    /// Many prompts instead of one, traced one by one and averaged by token class. Beside them `model`, `target_scoring`,
    /// `metrics`, `corrupt`, `arms` (by default `hidden`, `mlp` and `attn`), `layers`, `base`, `plot`, `strict` and
    /// `allow_trivial` mean what they mean for one, and hold for all.
    pub cases: Option<Vec<Case>>,
    /// With `cases`: which of them count.
    pub filters: Option<Filters>,
    /// With `cases`: how effects are averaged.
    pub aggregate: Option<Aggregate>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// The long form.
    flat pub long: TraceSpec,
}
}

impl Body for TraceBody {
    const AT: Endpoint = Endpoint("/v1/trace");

    fn places() -> Places {
        of::<Self>("").only("/read", Read::OF_PATCHED)
    }
}

/// Ways to write arms.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ArmsForm {
    /// Arms by names of one's own.
    Map(std::collections::BTreeMap<String, Arm>),
    /// ROME's own: `hidden`, `mlp` and `attn` (windows of 1, 10 and 10 layers).
    Names(Vec<String>),
}

declare! {
/// One kind of restored state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Arm {
    /// Site restored.
    pub site: Site,
    /// Layers restored together around each layer, `[l - w/2, l + ceil(w/2))` clipped to the model (ROME).
    #[schema(required = false)]
    pub window: u32,
    /// Heads restored together, at a per-head site; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Columns restored together: neurons, channels, a head's dimensions; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dims: Option<Dims>,
    /// Positions restored together in every cell; the arm then has no position axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// Sites held at the unrestored run's values in all layers above, at the restored positions, as the operation `freeze` at the
    /// layers `above` does (ROME's severed traces: `mlp_out`, `attn_out`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Site>,
    /// `"knockout"`, at site `scores`: each cell cuts edges of attention in the unrestored run, from `keys` to its position,
    /// in place of restoring anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<ArmOp>,
    /// The key positions of a knockout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Positions>,
}
}

/// What an arm does, if it restores nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArmOp {
    /// Cuts edges of attention (Geva et al. 2023).
    Knockout,
}

/// Which run's states go into which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Clean states into the corrupted run: what suffices to restore the answer.
    Denoising,
    /// Corrupted states into the clean run: what is necessary for the answer.
    Noising,
}

choices! {
/// What happens if the clean run's answer isn't the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum OnUnexpected {
    /// The lint `TARGET_NOT_TOP1`.
    Warn = "warn",
    /// An error (422, `unexpected_answer`) instead of a result, after the computation.
    Refuse = "refuse",
}
}

declare! {
read
/// What is kept beside means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Keep {
    /// Of one prompt: the value of every sample of every cell.
    #[schema(required = false)]
    pub per_sample: bool = or(false, Node::flag),
    /// With `cases`: the mean effect of every case by token class.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<bool>)]
    pub per_case: () = or((), of_cases),
}
}

declare! {
read
/// A cell of the map, by its coordinates on the axes of its arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AskedCell {
    /// Its arm; may be left out where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String> = maybe(Node::name),
    /// Its layer, if the arm has layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32> = maybe(Node::index),
    /// Its position, if the arm has positions; negative ones count from the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<i64> = maybe(Node::int),
}
}

choices! {
/// A picture format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum PlotFormat {
    /// Vector graphics.
    Svg = "svg",
    /// Pixels.
    Png = "png",
}
}

/// Tokens told of a cell that is asked for, where the request does not say how many.
const TOLD: u32 = 5;

/// ROME's arms.
const PRESETS: [(&str, Arm); 3] = [
    ("hidden", Arm::new(Site::ResidPost, 1)),
    ("mlp", Arm::new(Site::MlpOut, 10)),
    ("attn", Arm::new(Site::AttnOut, 10)),
];

impl Arm {
    /// An arm without heads.
    pub const fn new(site: Site, window: u32) -> Self {
        Self {
            site,
            window,
            heads: None,
            dims: None,
            positions: None,
            freeze: Vec::new(),
            op: None,
            keys: None,
        }
    }

    /// Arms that ROME draws, by name: `hidden`, `mlp` and `attn`.
    pub fn presets(names: &[&str]) -> Named<Self> {
        let arm =
            |name: &&str| Some(((*name).to_owned(), PRESETS.iter().find(|(own, _)| own == name)?.1.clone()));
        names.iter().filter_map(arm).collect()
    }

    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let site = fields
            .need("site", "name the site to restore, as resid_post", out)
            .and_then(|n| read_site(&n, out));
        let window = read_window(&fields, site, out);
        let heads = fields.get("heads").map_or(Some(None), |n| Heads::read(&n, out).map(Some));
        if let (Some(node), Some(site)) = (fields.get("heads"), site) {
            check_heads_site(&node.at, site, out);
        }
        if let (Some(node), Some(site)) = (fields.get("site"), site.filter(|site| !site.is_editable())) {
            let detail = format!("{site} can be read, not written");
            out.push(
                &node.at,
                code::NOT_SUPPORTED,
                detail,
                "restore final_norm, from which the logits follow",
            );
        }
        let dims = fields.get("dims").map_or(Some(None), |n| Dims::read(&n, out).map(Some));
        let positions =
            fields.get("positions").map_or(Some(None), |n| Positions::read(&n, false, out).map(Some));
        let frozen = [("mlp_out", Site::MlpOut), ("attn_out", Site::AttnOut)];
        let freeze = fields
            .get("freeze")
            .map_or(Some(Vec::new()), |n| n.each(out, |n, out| n.choice(&frozen, &[], out)));
        let op = fields
            .get("op")
            .map_or(Some(None), |n| n.choice(&[("knockout", ArmOp::Knockout)], &[], out).map(Some));
        let mut keys = None;
        if let Some(None) = op {
            let fix = "add \"op\": \"knockout\", or leave out `keys`";
            if let Some(node) = fields.get("keys") {
                out.push(&node.at, code::CONFLICT, "an arm that restores states has no keys", fix);
            }
        } else {
            keys = read_keys(&fields, out);
        }
        Some(Self {
            site: site?,
            window: window?,
            heads: heads?,
            dims: dims?,
            positions: positions?,
            freeze: freeze?,
            op: op?,
            keys,
        })
    }
}

impl Direction {
    /// The run that is patched, and the one whose states it gets.
    pub fn ends<'r>(self, clean: &'r str, corrupted: &'r str) -> [&'r str; 2] {
        match self {
            Self::Denoising => [corrupted, clean],
            Self::Noising => [clean, corrupted],
        }
    }

    /// What patching `base` is, in a trace whose clean run is `clean`.
    pub(super) fn of(base: &str, clean: &str) -> Self {
        if base == clean && base != CORRUPTED { Self::Noising } else { Self::Denoising }
    }
}

impl TraceSpec {
    /// Which run's states go into which.
    pub fn direction(&self) -> Direction {
        Direction::of(&self.base, &self.corrupt.from)
    }

    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(TraceBody::AT, body).fields_of::<TraceBody>(out)?;
        for node in ["filters", "aggregate"].iter().filter_map(|name| fields.get(name)) {
            of_cases(&node, out);
        }
        let short = Short { fields: &["prompt", "messages", "template", "subject"], read: &read_short };
        let cells = fields.get("cells").and_then(|n| n.each(out, AskedCell::read)).unwrap_or_default();
        let shown = if cells.is_empty() { 1 } else { TOLD };
        let experiment = Experiment::read(&fields, &short, shown, false, out);
        let clean = experiment.as_ref().map_or("clean", |e| clean_run(&e.runs)).to_owned();
        // What can't be read takes its default, so that the rest of the request is still looked at.
        let corrupt = fields.get("corrupt").map(|n| Corruption::read(&n, &clean, out));
        let arms = fields.get("arms").and_then(|n| read_arms(&n, out)).filter(|arms| !arms.is_empty());
        let layers = fields.get("layers").and_then(|n| Layers::read(&n, out)).unwrap_or(Layers::ALL);
        let positions =
            fields.get("positions").and_then(|n| Positions::read(&n, false, out)).unwrap_or(Positions::ALL);
        let base = fields.get("base").and_then(|n| read_base(&n, &clean, corrupt.as_ref(), out));
        let expect_top1 = fields.get("expect_top1").and_then(|n| Expected::read(&n, out));
        let on_unexpected = fields.get("on_unexpected").and_then(|n| n.choice(&OnUnexpected::ALL, &[], out));
        if let (Some(node), Some(Expected::NOTHING)) = (fields.get("on_unexpected"), &expect_top1) {
            let fix = "leave it out, or name the target that is expected";
            out.push(&node.at, code::CONFLICT, "no answer is unexpected where none is expected", fix);
        }
        let controls = fields.get("controls").and_then(|n| read_controls(&n, out)).unwrap_or_default();
        let derive = fields.get("derive").and_then(|n| read_derive(&n, out)).unwrap_or_default();
        let keep = fields.get("keep").and_then(|n| Keep::read(&n, out)).unwrap_or_default();
        let plot = fields.get("plot").and_then(|n| read_plot(&n, out));
        if fields.get("metrics").is_none() && fields.any(&["target", "targets"]).is_none() {
            let fix = "write the token whose probability is traced, with its leading space: \" Paris\"";
            fields.need("target", fix, out);
        }
        let mut experiment = experiment?;
        if experiment.metrics.is_empty() {
            experiment.metrics.push(Metric::new(MetricKind::Kl, &clean));
        }
        Some(Self {
            experiment,
            corrupt: corrupt.unwrap_or_else(|| Corruption::gaussian(&clean)),
            arms: arms.unwrap_or_else(|| Named::one("hidden", Arm::new(Site::ResidPost, 1))),
            layers,
            positions,
            base: base.unwrap_or_else(|| CORRUPTED.to_owned()),
            expect_top1,
            on_unexpected: on_unexpected.unwrap_or(OnUnexpected::Warn),
            controls,
            derive,
            keep,
            cells,
            plot: plot.unwrap_or_default(),
        })
    }
}

/// The run meant where none is named: the only one, or the one named `clean`.
fn clean_run(runs: &Named<Prompt>) -> &str {
    match runs.names()[..] {
        [only] => only,
        _ => "clean",
    }
}

fn read_short(fields: &Fields<'_>, out: &mut Problems) -> Option<(Named<Prompt>, Origins)> {
    let prompt = if fields.any(&["messages", "template"]).is_some() {
        Prompt::read_fields(fields, out)
    } else {
        short_prompt(fields, "prompt", "write the clean prompt, or give `runs`", out)
    };
    let subject = fields.get("subject").map(|n| SpanText::read(&n, out));
    let mut prompt = prompt?;
    if let Some(subject) = subject {
        prompt.spans = Named::one("subject", subject?);
    }
    let mut origins = vec![
        ("/runs/clean/prompt", "/prompt"),
        ("/runs/clean/messages", "/messages"),
        ("/runs/clean/template", "/template"),
        ("/runs/clean/spans/subject", "/subject"),
    ];
    if fields.get("corrupt").is_none() {
        origins.push(("/corrupt/positions", "/subject"));
    }
    Some((Named::one("clean", prompt), Origins(origins)))
}

/// Reads which of a trace's two runs is patched.
pub(super) fn read_base(
    node: &Node<'_>,
    clean: &str,
    corrupt: Option<&Corruption>,
    out: &mut Problems,
) -> Option<String> {
    let name = node.name(out)?;
    let clean = corrupt.map_or(clean, |corrupt| corrupt.from.as_str());
    let given = match corrupt.map(|corrupt| &corrupt.method) {
        Some(Method::Run { run: RunNames::One(run) }) => Some(run),
        _ => None,
    };
    if name == CORRUPTED || name == clean || given.is_some_and(|run| *run == name) {
        return Some(name);
    }
    let detail = format!("{name:?} is neither the corrupted run nor the clean one");
    out.push(&node.at, code::UNKNOWN_NAME, detail, format!("write \"{CORRUPTED}\" or {clean:?}"));
    None
}

pub(super) fn read_plot(node: &Node<'_>, out: &mut Problems) -> Option<Vec<PlotFormat>> {
    node.each(out, |n, out| n.choice(&PlotFormat::ALL, &[], out))
}

pub(super) fn read_arms(node: &Node<'_>, out: &mut Problems) -> Option<Named<Arm>> {
    if !node.value.is_array() {
        return Named::read(node, out, Arm::read);
    }
    read_presets(node, out)
}

/// Reads a list of ROME's arms by name.
pub(super) fn read_presets(node: &Node<'_>, out: &mut Problems) -> Option<Named<Arm>> {
    let names = node.each(out, |n, out| n.choice(&PRESETS.map(|(name, _)| (name, name)), &[], out))?;
    for i in (1..names.len()).filter(|i| names[..*i].contains(&names[*i])) {
        let detail = format!("{} twice", names[i]);
        out.push(format!("{}/{i}", node.at), code::DUPLICATE, detail, "list each arm once");
    }
    Some(Arm::presets(&names))
}

/// Reports a field that says something of many prompts, in a request with one.
fn of_cases(node: &Node<'_>, out: &mut Problems) -> Option<()> {
    out.push(&node.at, code::CONFLICT, "this is of a trace of many prompts", "leave it out, or list `cases`");
    None
}
