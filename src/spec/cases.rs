//! Causal traces of many prompts, averaged: `POST /v1/trace` with `cases`. A wire form of a [`SweepSpec`].

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::case::{Aggregate, Case};
use super::chat::Chat;
use super::corruption::{Corruption, Method};
use super::declare::{Declared, declare, or};
use super::experiment::read_metrics;
use super::hints::Body as _;
use super::metric::{Metric, MetricKind, TARGET, TargetScoring};
use super::named::Named;
use super::problem::{Problems, code};
use super::prompt::{CLEAN, CORRUPTED, Prompt, PromptText};
use super::read::Node;
use super::readout::Read;
use super::select::{Layers, Positions};
use super::statistics::Filters;
use super::sweep::{Averaging, Form, KeepCells, Key, SweepCase, SweepSpec, restoring};
use super::trace::{Arm, ArmsForm, Direction, PlotFormat, TraceBody, read_arms, read_base, read_plot};

declare! {
/// A causal trace of many prompts (Meng et al. 2022): each is traced by itself, and effects are averaged by token class.
///
/// `{"cases": [{"prompt": "…", "subject": "…", "target": "…"}, …]}` puts the same noise on every subject: 3 standard
/// deviations of all subjects' embeddings, drawn with the same seed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CasesSpec {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The prompts.
    pub cases: Vec<Case>,
    /// Where each of them stands in the request's list: a case that can't be read is left out.
    skip pub places: Vec<usize>,
    /// What counts of a target text of several tokens.
    pub target_scoring: TargetScoring,
    /// What is computed from every readout; `target` is each case's own.
    #[schema(value_type = Vec<String>)]
    pub metrics: Vec<Metric>,
    /// How each case's corrupted run is made. `sigma` of `subjects` is of the corrupted tokens of all cases together (their
    /// subjects, if not told otherwise), those that are dropped included, as in ROME.
    pub corrupt: Corruption,
    /// What is restored, by name; without joint positions.
    #[schema(value_type = ArmsForm)]
    pub arms: Named<Arm>,
    /// Layers of the map.
    pub layers: Layers,
    /// The run that is patched: `corrupted`, the default, with clean states (denoising), or `clean` with corrupted ones (noising).
    pub base: String,
    /// Which cases count.
    pub filters: Filters,
    /// How effects are averaged.
    pub aggregate: Aggregate,
    /// What is kept beside averages.
    pub keep: KeepCases,
    /// Pictures put into the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plot: Vec<PlotFormat>,
    /// Refuses requests that raise a lint of severity warning or above.
    pub strict: bool,
    /// Lets in grids that are tautologies throughout (`TAUTOLOGICAL_CUT`), with a lint instead of an error.
    pub allow_trivial: bool,
}
}

declare! {
read
/// What is kept beside averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeepCases {
    /// The mean effect of every case by token class.
    #[schema(required = false)]
    pub per_case: bool = or(false, Node::flag),
}
}

impl CasesSpec {
    /// Whether a body of `POST /v1/trace` has this form.
    pub fn is_form_of(body: &Value) -> bool {
        body.get("cases").is_some_and(|cases| !cases.is_null())
    }

    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(TraceBody::AT, body).fields_of::<TraceBody>(out)?;
        let of_one = TraceBody::FIELDS.iter().filter(|name| !Self::FIELDS.contains(name));
        fields.exclude("cases", &of_one.copied().collect::<Vec<_>>(), out);
        // What can't be read takes its default, so that the rest of the request is still looked at.
        let aggregate = fields.get("aggregate").and_then(|n| Aggregate::read(&n, out)).unwrap_or_default();
        // Also of averages that can't be read otherwise.
        let grouped = fields.get("aggregate").is_some_and(|n| Averaging::by_group(&n));
        let cases = fields.need("cases", "list cases, each with prompt, subject and target", out);
        let (places, cases) = cases.and_then(|n| read_cases(&n, grouped, out))?;
        let corrupt = fields.get("corrupt").map(|n| Corruption::read(&n, CLEAN, out));
        if let Some(Method::Run { .. }) = corrupt.as_ref().map(|corrupt| &corrupt.method) {
            let detail = "cases have no other runs";
            let fix = "use noise or replace_tokens, or trace one pair of prompts at a time";
            out.push("/corrupt/method", code::NOT_SUPPORTED, detail, fix);
        }
        let arms = fields.get("arms").and_then(|n| read_arms(&n, out)).filter(|arms| !arms.is_empty());
        for (name, _) in arms.iter().flat_map(Named::iter).filter(|(_, arm)| arm.positions.is_some()) {
            let at = format!("/arms/{}/positions", super::read::escape(name));
            let detail = "positions restored together have no token class";
            out.push(at, code::CONFLICT, detail, "leave out `positions`, or trace one prompt at a time");
        }
        let metrics = fields.get("metrics").and_then(|n| read_metrics(&n, out));
        let scoring = fields.get("target_scoring");
        let layers = fields.get("layers").and_then(|n| Layers::read(&n, out));
        let base = fields.get("base").and_then(|n| read_base(&n, CLEAN, None, out));
        let filters = fields.get("filters").and_then(|n| Filters::read(&n, out));
        if let Some(name) =
            filters.as_ref().and_then(|f| f.expect_top1.target()).filter(|name| *name != TARGET)
        {
            let detail = format!("no case has a target {name:?}");
            let fix = format!("write \"{TARGET}\", each case's own, or false");
            out.push("/filters/expect_top1", code::UNKNOWN_NAME, detail, fix);
        }
        let mut flag = |name| fields.get(name).and_then(|n| n.flag(out)).unwrap_or(false);
        let (strict, allow_trivial) = (flag("strict"), flag("allow_trivial"));
        Some(Self {
            model: fields.get("model").and_then(|n| n.name(out)),
            cases,
            places,
            target_scoring: scoring.and_then(|n| n.choice(&TargetScoring::ALL, &[], out)).unwrap_or_default(),
            metrics: metrics.unwrap_or_else(default_metrics),
            corrupt: corrupt.unwrap_or_else(|| Corruption::gaussian(CLEAN)),
            arms: arms.unwrap_or_else(|| Arm::presets(&["hidden", "mlp", "attn"])),
            layers: layers.unwrap_or(Layers::ALL),
            base: base.unwrap_or_else(|| CORRUPTED.to_owned()),
            filters: filters.unwrap_or_default(),
            aggregate,
            keep: fields.get("keep").and_then(|n| KeepCases::read(&n, out)).unwrap_or_default(),
            plot: fields.get("plot").and_then(|n| read_plot(&n, out)).unwrap_or_default(),
            strict,
            allow_trivial,
        })
    }

    /// Which run's states go into which.
    pub fn direction(&self) -> Direction {
        Direction::of(&self.base, CLEAN)
    }

    /// The sweep that it is: its arms restore the reference's states in the base at each layer and position.
    pub fn sweep(&self) -> SweepSpec {
        let ends = self.direction().ends(CLEAN, CORRUPTED);
        let (arms, sweep) = restoring(&self.arms, &self.layers, &Positions::ALL, ends);
        let mut by = vec![Key::Arm, Key::Layer, Key::TokenClass];
        by.extend(self.aggregate.by_group().then_some(Key::Group));
        SweepSpec {
            model: self.model.clone(),
            cases: self.cases.iter().map(|case| case.of_sweep(self.target_scoring)).collect(),
            places: self.places.iter().map(|place| format!("/cases/{place}")).collect(),
            form: Form::Trace,
            common: Vec::new(),
            metrics: self.metrics.clone(),
            read: Read::last(1),
            corrupt: Some(self.corrupt.clone()),
            arms,
            sweep,
            derive: Vec::new(),
            filters: self.filters.clone(),
            aggregate: Averaging {
                by,
                stats: self.aggregate.stats.clone(),
                ci: self.aggregate.ci,
                topk: None,
                compare: Vec::new(),
            },
            keep: KeepCells { cells: self.keep.per_case },
            strict: self.strict,
            allow_trivial: self.allow_trivial,
        }
    }
}

fn default_metrics() -> Vec<Metric> {
    vec![Metric::new(MetricKind::Prob, TARGET), Metric::new(MetricKind::Logprob, TARGET)]
}

/// The cases that can be read, and the place of each in the list.
fn read_cases(node: &Node<'_>, grouped: bool, out: &mut Problems) -> Option<(Vec<usize>, Vec<Case>)> {
    let items = node.items(out)?;
    let read = items.iter().enumerate().map_while(|(i, item)| {
        // Once as many problems are found as are shown, the other cases need not be looked at.
        (!out.is_full()).then(|| Case::read(item, i, grouped, out))
    });
    let read: Vec<Option<Case>> = read.collect();
    let mut seen = std::collections::HashSet::new();
    for (i, case) in read.iter().enumerate() {
        if let Some(case) = case.as_ref().filter(|case| !seen.insert(case.id.as_str())) {
            let detail = format!("an earlier case is called {:?} too", case.id);
            let fix = "give each case a name of its own, or leave out `id`";
            out.push(format!("{}/{i}/id", node.at), code::DUPLICATE, detail, fix);
        }
    }
    Some(read.into_iter().enumerate().filter_map(|(i, case)| Some((i, case?))).unzip())
}

impl Case {
    fn of_sweep(&self, target_scoring: TargetScoring) -> SweepCase {
        let text = match (&self.prompt, &self.tokens, &self.messages) {
            (None, Some(tokens), _) => PromptText::Tokens(tokens.clone()),
            (None, None, Some(messages)) => PromptText::Chat(Chat {
                messages: messages.clone(),
                template: self.template.clone().unwrap_or_default(),
            }),
            (prompt, ..) => PromptText::Prompt(prompt.clone().unwrap_or_default()),
        };
        let spans = Named::one("subject", self.subject.clone());
        SweepCase {
            id: self.id.clone(),
            group: self.group.clone(),
            runs: Named::one(CLEAN, Prompt { text, spans, bos: self.bos }),
            targets: Named::one(TARGET, self.target.clone()),
            target_scoring,
        }
    }
}
