//! Sweeps: any grid over cases, `POST /v1/sweep`.

mod arm;
mod averaging;
mod case;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use arm::{SweepArm, SweepArmsForm, restoring};
pub use averaging::{Averaging, Key, Order, TopForm, TopK};
pub use case::{CaseForm, DatasetForm, SweepCase};

use super::corruption::Corruption;
use super::declare::{declare, or};
use super::derive::{Derive, read_derive};
use super::endpoint::Endpoint;
use super::experiment::{Experiment, Origins, read_metrics};
use super::hints::{Body, Places, of};
use super::intervention::Intervention;
pub use super::metric::{FOIL, TARGET};
use super::metric::{Metric, MetricKind, Target, TargetScoring};
use super::named::Named;
use super::patch::SweepAxis;
use super::problem::{Problems, code};
pub use super::prompt::{CLEAN, CORRUPTED};
use super::prompt::{Prompt, PromptBody, PromptText};
use super::read::{Fields, Node};
use super::readout::Read;
use super::statistics::Filters;

/// A grid over cases: every arm of every case, enumerated along the swept axes, and averaged over cases.
///
/// The cases are a data set (`dataset`), or one that is written out (`runs`); beside a data set, `runs` are added to every case,
/// after its own, e.g. one that is derived from `clean`. Each has a clean run, and with `corrupt` or a
/// prompt of its own a corrupted one; an arm patches one of them, by default the corrupted run from the clean one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepSpec {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The cases, with what they share written out in each.
    pub cases: Vec<SweepCase>,
    /// Where each of them stands in the request: a pointer to it, empty for `runs`.
    #[serde(skip)]
    pub places: Vec<String>,
    /// The form in which it was written.
    #[serde(skip)]
    pub form: Form,
    /// Runs that the request gives to every case of a data set.
    #[serde(skip)]
    pub common: Vec<String>,
    /// What is computed from every readout.
    pub metrics: Vec<Metric>,
    /// Where the distribution is read, and how many of the most probable tokens of unpatched runs are told.
    pub read: Read,
    /// How each case's run `corrupted` is made. `sigma` of `subjects` is of the corrupted tokens of all cases together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Corruption>,
    /// What is patched, by name.
    pub arms: Named<SweepArm>,
    /// Axes enumerated one by one, outermost first; an arm has those that it can have.
    pub sweep: Vec<SweepAxis>,
    /// Quantities derived from the cells of each case and arm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub derive: Vec<Derive>,
    /// Which cases count.
    pub filters: Filters,
    /// How effects are averaged over cases.
    pub aggregate: Averaging,
    /// What is kept beside averages.
    pub keep: KeepCells,
    /// Refuses requests that raise a lint of severity warning or above.
    pub strict: bool,
    /// Lets in grids that are tautologies throughout (`TAUTOLOGICAL_CUT`), with a lint instead of an error.
    pub allow_trivial: bool,
}

declare! {
/// Body of `POST /v1/sweep`.
#[derive(ToSchema)]
#[schema(examples(json!({
    "dataset": {"inline": [
        {"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris"},
        {"prompt": "The Colosseum is in the city of", "subject": "Colosseum", "target": " Rome"}
    ]},
    "corrupt": {"sigma": {"k": 3}, "samples": 3},
    "arms": ["mlp", "attn"]
})))]
pub struct SweepBody {
    /// The model; the one served if left out.
    pub model: Option<String>,
    /// The cases; or `runs`.
    pub dataset: Option<DatasetForm>,
    /// The runs of a single case, by name; beside `dataset`, runs that every case has after its own, such as
    /// `{"sent": {"from": "clean", "interventions": […]}}`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, PromptBody>>)]
    pub runs: Option<Named<PromptBody>>,
    /// Targets of cases that have none of that name themselves.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Target>>)]
    pub targets: Option<Named<Target>>,
    /// The same for the target named `target`.
    pub target: Option<Target>,
    /// What counts of a target text of several tokens.
    pub target_scoring: Option<TargetScoring>,
    /// What is computed from every readout; by default the probability and log-probability of every target.
    #[schema(value_type = Option<Vec<String>>)]
    pub metrics: Option<Vec<String>>,
    /// Where the distribution is read.
    pub read: Option<Value>,
    /// How each case's run `corrupted` is made. `sigma` of `subjects` is of the corrupted tokens of all cases together.
    pub corrupt: Option<Corruption>,
    /// The run that arms patch where they don't say; by default `corrupted`, if there is one.
    pub base: Option<String>,
    /// The run whose metrics cells could at most reach; by default `clean`, or the only other one that is read.
    pub reference: Option<String>,
    /// What is patched; by default the residual stream at every position.
    pub arms: Option<SweepArmsForm>,
    /// Axes enumerated one by one, outermost first: `layers`, `positions`, `heads`, `dims` (and `arms`, which always are).
    #[schema(value_type = Option<Vec<String>>)]
    pub sweep: Option<Vec<String>>,
    /// Every arm once more with base and reference exchanged, as `<name>_swapped`.
    pub swap: Option<bool>,
    /// Quantities derived from the cells of each case and arm.
    pub derive: Option<Vec<Derive>>,
    /// Which cases count; by default those of a data set that the model answers as expected.
    pub filters: Option<Filters>,
    /// How effects are averaged over cases.
    pub aggregate: Option<Averaging>,
    /// What is kept beside averages.
    pub keep: Option<KeepCells>,
    /// Formats that will be fetched. Each is made when it is asked for, listed or not.
    pub output: Option<Vec<String>>,
    /// `low`, `normal` or `high`.
    pub priority: Option<String>,
    /// Answers with a job at once, as `Prefer: respond-async`.
    pub r#async: Option<bool>,
    /// Refuses requests that raise a lint of severity warning or above.
    pub strict: Option<bool>,
    /// Lets in grids that are tautologies throughout (`TAUTOLOGICAL_CUT`), with a lint instead of an error.
    pub allow_trivial: Option<bool>,
}
}

impl Body for SweepBody {
    const AT: Endpoint = Endpoint("/v1/sweep");

    /// Arms are lists of interventions, and `read` is what it is for patches: the contract does not say more.
    fn places() -> Places {
        let arms = of::<Intervention>("/arms/NAME/0");
        of::<Self>("").and(arms).and(of::<Read>("/read")).only("/read", Read::OF_PATCHED)
    }
}

/// The wire forms of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// A body of `POST /v1/sweep`.
    #[default]
    Sweep,
    /// A body of `POST /v1/trace` with `cases`.
    Trace,
}

impl Form {
    /// Pointer to the list of cases.
    pub const fn list(self) -> &'static str {
        match self {
            Self::Sweep => "/dataset",
            Self::Trace => "/cases",
        }
    }
}

declare! {
read
/// What is kept of a sweep beside averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeepCells {
    /// Every cell of every case.
    #[schema(required = false)]
    pub cells: bool = or(true, Node::flag),
}
}

impl Default for KeepCells {
    fn default() -> Self {
        Self { cells: true }
    }
}

/// Formats in which a result is served.
const OUTPUTS: [(&str, ()); 8] = [
    ("json", ()),
    ("jsonl", ()),
    ("csv", ()),
    ("npz", ()),
    ("safetensors", ()),
    ("parquet", ()),
    ("svg", ()),
    ("png", ()),
];

impl SweepSpec {
    /// Reads a request body whose data set, if it has one, is written out under `dataset.inline`. `None` where too little of
    /// it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(SweepBody::AT, body).fields_of::<SweepBody>(out)?;
        check_after(&fields, out);
        let grouped = fields.get("aggregate").is_some_and(|n| Averaging::by_group(&n));
        let shared = case::Shared::read(&fields, out);
        let cases = case::read(&fields, &shared, grouped, out);
        let of_dataset = fields.get("dataset").is_some() || fields.get("runs").is_none();
        let common = fields.get("runs").filter(|_| of_dataset).and_then(|n| n.value.as_object());
        let common = common.map_or_else(Vec::new, |runs| runs.keys().cloned().collect());
        let (places, cases) = cases.unwrap_or_default();
        let first = cases.first()?;
        let from = from_run(&first.runs).to_owned();
        let corrupt = fields.get("corrupt").map(|n| Corruption::read(&n, &from, out));
        if let (Some(node), Some(_)) = (fields.get("corrupt"), first.runs.get(CORRUPTED)) {
            let detail = "cases have a corrupted run of their own";
            out.push(&node.at, code::CONFLICT, detail, "leave out `corrupt`, or the run `corrupted`");
        }
        let has_corrupted = corrupt.is_some() || first.runs.get(CORRUPTED).is_some();
        let ends = arm::Ends::read(&fields, has_corrupted, &from, out);
        let sweep = fields.get("sweep").and_then(|n| read_sweep(&n, out));
        let arms = arm::read_arms(&fields, &ends, out);
        let metrics = fields.get("metrics").and_then(|n| read_metrics(&n, out));
        let read = fields.get("read").and_then(|n| Read::from_node(&n, 1, false, out));
        let mut flag = |name| fields.get(name).and_then(|n| n.flag(out)).unwrap_or(false);
        let (strict, allow_trivial) = (flag("strict"), flag("allow_trivial"));
        let metrics = metrics.unwrap_or_else(|| default_metrics(&cases, &arms));
        let arms = arm::with_swapped(&fields, arms, &first.runs, out);
        let filters = match fields.get("filters") {
            Some(node) => Filters::read(&node, out).unwrap_or(Filters::NONE),
            // What is written out by hand is wanted.
            None if of_dataset && has_target(&cases, TARGET) => Filters::default(),
            None => Filters::NONE,
        };
        if let Some(name) = filters.expect_top1.target().filter(|name| !has_target(&cases, name)) {
            let detail = format!("not every case has a target {name:?}");
            let fix = "give each case a target, name one that all have, or write \"expect_top1\": false";
            let given = fields.get("filters").is_some_and(|n| n.value.get("expect_top1").is_some());
            let at = if given { "/filters/expect_top1" } else { "/filters" };
            out.push(at, code::UNKNOWN_NAME, detail, fix);
        }
        let of_prob = filters.min_clean_prob.is_some() || filters.min_total_effect.is_some();
        if of_prob && !has_target(&cases, TARGET) {
            let at = fields.pointer("filters");
            let fix = "give each case a target, or leave the filters out";
            out.push(at, code::MISSING, "these filters are of the probability of each case's target", fix);
        }
        let ends = corrupt.is_some() || arms.iter().next().is_some_and(|(_, arm)| arm.reference.is_some());
        if filters.min_total_effect.is_some() && !ends && !arms.is_empty() {
            let detail = "without another run there is no total effect";
            let fix = "name it as `reference`, add `corrupt`, or leave this filter out";
            out.push("/filters/min_total_effect", code::CONFLICT, detail, fix);
        }
        let derive = fields.get("derive").and_then(|n| read_derive(&n, out)).unwrap_or_default();
        let aggregate = fields.get("aggregate").and_then(|n| Averaging::read(&n, out));
        let sweep = sweep.unwrap_or_else(|| vec![SweepAxis::Layers, SweepAxis::Positions]);
        let aggregate = aggregate.unwrap_or_else(|| Averaging::of(&sweep, &cases));
        Some(Self {
            model: fields.get("model").and_then(|n| n.name(out)),
            cases,
            places,
            form: Form::Sweep,
            common,
            metrics,
            read: read.unwrap_or_else(|| Read::last(1)),
            corrupt,
            arms,
            sweep,
            derive,
            filters,
            aggregate,
            keep: fields.get("keep").and_then(|n| KeepCells::read(&n, out)).unwrap_or_default(),
            strict,
            allow_trivial,
        })
    }

    /// The runs, targets and metrics of one case.
    pub fn experiment(&self, case: usize) -> Experiment {
        let case = &self.cases[case];
        Experiment {
            model: self.model.clone(),
            runs: case.runs.clone(),
            targets: case.targets.clone(),
            target_scoring: case.target_scoring,
            metrics: self.metrics.clone(),
            read: self.read.clone(),
            strict: false,
            allow_trivial: self.allow_trivial,
            origins: Origins::default(),
        }
    }

    /// The run that corruption starts from.
    pub fn from(&self) -> &str {
        match &self.corrupt {
            Some(corrupt) => &corrupt.from,
            None => self.cases.first().map_or(CLEAN, |case| from_run(&case.runs)),
        }
    }
}

/// Checks fields that the job queue reads by itself, or that have no meaning here.
fn check_after(fields: &Fields<'_>, out: &mut Problems) {
    if let Some(node) = fields.get("output") {
        let formats = node.each(out, |n, out| n.choice(&OUTPUTS, &[], out));
        drop(formats);
    }
    if let Some(node) = fields.get("priority") {
        node.choice(&[("low", ()), ("normal", ()), ("high", ())], &[], out);
    }
    if let Some(node) = fields.get("async") {
        node.flag(out);
    }
}

/// The run meant where none is named: the only one, or `clean`.
fn from_run(runs: &Named<Prompt>) -> &str {
    let prompts: Vec<&str> = runs
        .iter()
        .filter(|(_, prompt)| !matches!(prompt.text, PromptText::Derived { .. }))
        .map(|(name, _)| name)
        .collect();
    match prompts[..] {
        [only] => only,
        _ => CLEAN,
    }
}

fn has_target(cases: &[SweepCase], name: &str) -> bool {
    cases.iter().all(|case| case.targets.get(name).is_some())
}

/// Probability and log-probability of every target that all cases have, and the logit difference to a foil; without
/// targets, divergence from the patched run.
fn default_metrics(cases: &[SweepCase], arms: &Named<SweepArm>) -> Vec<Metric> {
    let Some(first) = cases.first() else { return Vec::new() };
    let names = first.targets.names();
    let shared: Vec<&str> =
        names.into_iter().filter(|name| cases.iter().all(|case| case.targets.get(name).is_some())).collect();
    if shared.is_empty() {
        let base = arms.iter().map(|(_, arm)| arm.base.as_str()).find(|base| first.runs.get(base).is_some());
        return vec![Metric::new(MetricKind::Kl, base.unwrap_or(from_run(&first.runs)))];
    }
    if shared.contains(&TARGET) && shared.contains(&FOIL) {
        let difference = Metric::new(MetricKind::LogitDiff, &format!("{TARGET}-{FOIL}"));
        return vec![
            Metric::new(MetricKind::Prob, TARGET),
            Metric::new(MetricKind::Logprob, TARGET),
            difference,
        ];
    }
    let both = |of: &&str| [Metric::new(MetricKind::Prob, of), Metric::new(MetricKind::Logprob, of)];
    shared.iter().flat_map(both).collect()
}

/// The axes; arms are told apart anyway.
fn read_sweep(node: &Node<'_>, out: &mut Problems) -> Option<Vec<SweepAxis>> {
    let choices: Vec<(&'static str, Option<SweepAxis>)> =
        SweepAxis::ALL.into_iter().map(|(name, axis)| (name, Some(axis))).chain([("arms", None)]).collect();
    let axes = node.distinct(out, |n, out| n.choice(&choices, &[], out))?;
    Some(axes.into_iter().flatten().collect())
}

/// What all cases of a sweep have in common where each does not say otherwise.
pub(super) fn scoring(fields: &Fields<'_>, out: &mut Problems) -> Option<TargetScoring> {
    fields.get("target_scoring").and_then(|n| n.choice(&TargetScoring::ALL, &[], out))
}
