//! Causal traces of many prompts, averaged: `POST /v1/trace` with `cases`. A wire form of a [`SweepSpec`].

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::corruption::{Corruption, Method};
use super::expected::Expected;
use super::experiment::read_metrics;
use super::hints::Endpoint;
use super::metric::{Metric, MetricKind, TargetScoring, TargetSet, read_target};
use super::named::Named;
use super::patch::SweepAxis;
use super::problem::{Problems, code};
use super::prompt::{Prompt, PromptText, SpanText};
use super::read::Node;
use super::readout::Read;
use super::select::{Layers, Positions};
use super::sweep::{
    Averaging, CLEAN, CORRUPTED, Form, KeepCells, Key, SweepArm, SweepCase, SweepSpec, TARGET,
};
use super::trace::{Arm, ArmsForm, Direction, PlotFormat, read_arms, read_base, read_plot};

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
    #[serde(skip)]
    pub places: Vec<usize>,
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

/// One prompt of many.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Case {
    /// Its name; its place in the list if left out.
    #[schema(required = false)]
    pub id: String,
    /// The group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The clean prompt; or `tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Token ids instead of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos: Option<bool>,
    /// The text in it whose tokens are corrupted, or their range; token classes lie around it.
    pub subject: SpanText,
    /// What is scored.
    #[schema(value_type = super::body::Target)]
    pub target: TargetSet,
}

/// Which cases count. The others are dropped, and listed with the reason. Probabilities are those of the target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Filters {
    /// The target that the clean run must rank first, by default `target`; or `false` for none.
    #[schema(required = false)]
    pub expect_top1: Expected,
    /// Least probability in the clean run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_clean_prob: Option<f64>,
    /// Least total effect on the probability: clean minus corrupted, mean over samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_total_effect: Option<f64>,
}

/// How effects are averaged.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Aggregate {
    /// Always by `token_class`; with `group`, also within each group.
    #[schema(required = false)]
    pub by: Vec<By>,
    /// How confidence intervals are made.
    #[schema(required = false)]
    pub ci: Bootstrap,
    /// Averages beside the mean that few cases don't decide.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub stats: Vec<Stat>,
}

/// An average beside the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// Half of the cases are above it.
    Median,
    /// The mean without the lowest and the highest fifth of the cases.
    TrimmedMean,
}

impl Stat {
    /// Reads a list of statistics. Those that are always given may be named, too.
    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Self>> {
        let always = ["mean", "se", "ci95", "ci", "ci_t", "n"].map(|name| (name, None));
        let asked = [("median", Some(Self::Median)), ("trimmed_mean", Some(Self::TrimmedMean))];
        let choices = [&always[..], &asked].concat();
        let mut found: Vec<Self> = Vec::new();
        for stat in node.each(out, |n, out| n.choice(&choices, &[], out))?.into_iter().flatten() {
            if !found.contains(&stat) {
                found.push(stat);
            }
        }
        Some(found)
    }
}

/// What effects are averaged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Token class around the subject.
    TokenClass,
    /// The cases' groups.
    Group,
}

/// Percentile bootstrap over cases (Efron 1979): cases are drawn with replacement, and a case's tokens and samples stay
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Bootstrap {
    /// Drawn sets of cases.
    #[schema(required = false, minimum = 100, maximum = 10000)]
    pub resamples: u32,
    /// Seed of the draws.
    #[schema(required = false)]
    pub seed: u64,
    /// Share of the drawn means inside the interval.
    #[schema(required = false)]
    pub level: f64,
}

/// What is kept beside averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeepCases {
    /// The mean effect of every case by token class.
    #[schema(required = false)]
    pub per_case: bool,
}

const KNOWN: [&str; 14] = [
    "cases",
    "model",
    "target_scoring",
    "metrics",
    "corrupt",
    "arms",
    "layers",
    "base",
    "filters",
    "aggregate",
    "keep",
    "plot",
    "strict",
    "allow_trivial",
];
/// Fields of a single trace. The first are each case's own.
const OF_ONE: [&str; 12] = [
    "prompt",
    "subject",
    "target",
    "targets",
    "runs",
    "positions",
    "read",
    "controls",
    "derive",
    "expect_top1",
    "on_unexpected",
    "spans",
];

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 2000, seed: 1, level: 0.95 }
    }
}

impl Default for Aggregate {
    fn default() -> Self {
        Self { by: vec![By::TokenClass], ci: Bootstrap::default(), stats: Vec::new() }
    }
}

impl Aggregate {
    /// Whether effects are averaged within groups too.
    pub fn by_group(&self) -> bool {
        self.by.contains(&By::Group)
    }
}

impl CasesSpec {
    /// Whether a body of `POST /v1/trace` has this form.
    pub fn is_form_of(body: &Value) -> bool {
        body.get("cases").is_some_and(|cases| !cases.is_null())
    }

    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let known: Vec<&str> = KNOWN.into_iter().chain(OF_ONE).collect();
        let fields = Node::root(Endpoint::Trace, body).fields(&known, out)?;
        fields.exclude("cases", &OF_ONE, out);
        // What can't be read takes its default, so that the rest of the request is still looked at.
        let aggregate = fields.get("aggregate").and_then(|n| Aggregate::read(&n, out)).unwrap_or_default();
        let cases = fields.need("cases", "list cases, each with prompt, subject and target", out);
        let (places, cases) = cases.and_then(|n| read_cases(&n, aggregate.by_group(), out))?;
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
            arms: arms.unwrap_or_else(default_arms),
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
        let (base, reference) = match self.direction() {
            Direction::Denoising => (CORRUPTED, CLEAN),
            Direction::Noising => (CLEAN, CORRUPTED),
        };
        let arm = |(name, arm): (&str, &Arm)| {
            (name.to_owned(), SweepArm::restoring(arm, &self.layers, &Positions::ALL, base, reference))
        };
        let layers = self.arms.iter().any(|(_, arm)| arm.site.has_layer()).then_some(SweepAxis::Layers);
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
            arms: self.arms.iter().map(arm).collect(),
            sweep: layers.into_iter().chain([SweepAxis::Positions]).collect(),
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

fn default_arms() -> Named<Arm> {
    let names = ["hidden", "mlp", "attn"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), Arm::preset(name)?))).collect()
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
        let text = match (&self.prompt, &self.tokens) {
            (None, Some(tokens)) => PromptText::Tokens(tokens.clone()),
            (prompt, _) => PromptText::Prompt(prompt.clone().unwrap_or_default()),
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

    fn read(node: &Node<'_>, index: usize, grouped: bool, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["id", "group", "prompt", "tokens", "bos", "subject", "target"], out)?;
        let id = fields.get("id").map_or(Some(index.to_string()), |n| n.label(out));
        let group = fields.get("group").map_or(Some(None), |n| n.label(out).map(Some));
        if grouped && fields.get("group").is_none() {
            fields.need("group", "name the group of every case, or aggregate by token_class alone", out);
        }
        let prompt = Prompt::read_fields(&fields, out);
        let subject = fields.need("subject", "write the text of the subject, or its token range", out);
        let subject = subject.and_then(|n| SpanText::read(&n, out));
        let target = fields.need("target", "write the answer with its leading space: \" Paris\"", out);
        let target = target.and_then(|n| read_target(&n, out)).filter(|target| !target.is_empty());
        let Prompt { text, bos, .. } = prompt?;
        let (prompt, tokens) = match text {
            PromptText::Tokens(ids) => (None, Some(ids)),
            PromptText::Prompt(text) => (Some(text), None),
            PromptText::Derived { .. } => return None,
        };
        Some(Self { id: id?, group: group?, prompt, tokens, bos, subject: subject?, target: target? })
    }
}

impl Filters {
    /// All cases count.
    pub const NONE: Self =
        Self { expect_top1: Expected::NOTHING, min_clean_prob: None, min_total_effect: None };

    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["expect_top1", "min_clean_prob", "min_total_effect"], out)?;
        Some(Self {
            expect_top1: fields.get("expect_top1").and_then(|n| Expected::read(&n, out)).unwrap_or_default(),
            min_clean_prob: fields.get("min_clean_prob").and_then(|n| probability(&n, out)),
            min_total_effect: fields.get("min_total_effect").and_then(|n| probability(&n, out)),
        })
    }
}

fn probability(node: &Node<'_>, out: &mut Problems) -> Option<f64> {
    let x = node.number(out)?;
    let inside = (0.0..=1.0).contains(&x);
    if !inside {
        let detail = format!("{x} is no probability");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "write a number from 0 to 1");
    }
    inside.then_some(x)
}

impl Aggregate {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["by", "ci", "stats"], out)?;
        let choices = [("token_class", By::TokenClass), ("group", By::Group)];
        let by = fields.get("by").and_then(|n| {
            let by = n.all(out, |n, out| n.choice(&choices, &[], out))?;
            if !by.contains(&By::TokenClass) {
                let detail = "positions of different prompts meet in token classes only";
                out.push(&n.at, code::MISSING, detail, "add token_class");
            }
            Some(by)
        });
        let ci = fields.get("ci").and_then(|n| Bootstrap::read(&n, out)).unwrap_or_default();
        let stats = fields.get("stats").and_then(|n| Stat::read(&n, out)).unwrap_or_default();
        Some(Self { by: by.unwrap_or_else(|| vec![By::TokenClass]), ci, stats })
    }
}

impl Bootstrap {
    /// Fewer draws say little of the ends of an interval, more nothing new.
    const RESAMPLES: std::ops::RangeInclusive<u32> = 100..=10_000;

    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let default = Self::default();
        let fields = node.fields(&["method", "unit", "resamples", "seed", "level"], out)?;
        // There is one way, which may be said.
        fields.get("method").and_then(|n| n.choice(&[("bootstrap", ())], &[], out));
        fields.get("unit").and_then(|n| n.choice(&[("case", ())], &[], out));
        let resamples = fields.get("resamples").and_then(|n| {
            let count = n.count(0, out)?;
            if !Self::RESAMPLES.contains(&count) {
                let (least, most) = Self::RESAMPLES.into_inner();
                let detail = format!("{count} is not from {least} to {most}");
                out.push(&n.at, code::OUT_OF_RANGE, detail, "2000 are usual");
            }
            Some(count)
        });
        let level = fields.get("level").and_then(|n| {
            let level = n.number(out)?;
            if !(0.5..1.0).contains(&level) {
                let detail = format!("{level} is not from 0.5 to below 1");
                out.push(&n.at, code::OUT_OF_RANGE, detail, "0.95 is usual");
            }
            Some(level)
        });
        Some(Self {
            resamples: resamples.unwrap_or(default.resamples),
            seed: fields.get("seed").and_then(|n| n.natural(0, out)).unwrap_or(default.seed),
            level: level.unwrap_or(default.level),
        })
    }
}

impl KeepCases {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["per_case"], out)?;
        Some(Self { per_case: fields.get("per_case").and_then(|n| n.flag(out)).unwrap_or(false) })
    }
}
