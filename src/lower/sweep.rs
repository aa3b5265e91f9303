//! Sweeps to plans: each case a plan of its own, with its unpatched runs and, arm by arm, a branch per cell and sample.

pub mod roster;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::roster::OfSweep;
use super::control::Controls;
use super::corrupt::{self, Corrupted};
use super::derive;
use super::facts::Facts;
use super::gather::Gathered;
use super::grid::{Scene, Swept, list, unswept};
use super::knockout;
use super::layout::{Axis, Common, Grid, Lowered, SigmaUsed};
use super::prompts::{Span, TokenRun, find};
use super::template::{Builder, Scope, Template, keys, template};
use super::trivial::judge;
use super::{Prepared, Size, Started, admit, fingerprint, lint_effect_metrics, prepare, start};
use crate::plan::RunId;
use crate::spec::cases::CasesSpec;
use crate::spec::corruption::Sigma;
use crate::spec::derive::Derive;
use crate::spec::experiment::Experiment;
use crate::spec::intervention::SourceSpec;
use crate::spec::metric::{Metric, MetricKind};
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{FieldProblem, Problems, code};
use crate::spec::prompt::{Prompt, PromptText};
use crate::spec::read::escape;
use crate::spec::select::TokenClass;
use crate::spec::sweep::{CORRUPTED, Form, SweepArm, SweepCase, SweepSpec, TARGET};

/// A sweep that was read, and what its cases share.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The request.
    pub spec: SweepSpec,
    /// What all of its cases share.
    pub shared: Shared,
}

/// What all cases of a sweep share beside the request: small, and the same for whoever computes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// The size of the noise, if it has one.
    pub sigma: Option<SigmaUsed>,
    /// SHA-256 of the request and all token ids, in hex.
    pub plan_sha256: String,
}

/// Which part of a case is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its unpatched runs, with the probability of its target.
    Baselines,
    /// All of it.
    Whole,
}

/// Meaning of the plan of one case.
#[derive(Debug, Clone)]
pub struct SweepLayout {
    /// Whether something is derived from what the model says in each cell.
    pub says: bool,
    /// Runs, metrics, targets.
    pub common: Common,
    /// Index of the run that corruption starts from, among the runs.
    pub clean: usize,
    /// Readout of each sample of the corrupted run; none without a corruption.
    pub corrupted: Vec<usize>,
    /// Token ids of the first corrupted run.
    pub corrupted_tokens: Vec<u32>,
    /// Token span named `subject` of the clean run.
    pub subject: Option<Range<u32>>,
    /// Arms.
    pub arms: Named<ArmLayout>,
}

/// Meaning of one arm.
#[derive(Debug, Clone)]
pub struct ArmLayout {
    /// Readouts of the run that is patched: one, or one per sample.
    pub base: Vec<usize>,
    /// The same of the run that its cells could at most reach.
    pub reference: Option<Vec<usize>>,
    /// Readouts of the run whose most probable token `top1_flip` compares with, as many: the patched run, and in a trace the
    /// clean one.
    pub answer: Vec<usize>,
    /// Number of tokens of the run that is patched.
    pub len: u32,
    /// Its token span named `subject`.
    pub subject: Option<Range<u32>>,
    /// Cells; none of [`Part::Baselines`].
    pub grid: Grid,
}

/// `POST /v1/sweep`: a body to a sweep, or what is wrong with it short of its grids.
pub fn sweep(body: &Value, facts: &dyn Facts) -> Result<Sweep, Problems> {
    let mut read = Problems::default();
    let spec = SweepSpec::read(body, &mut read);
    open(spec, body, read, facts)
}

/// `POST /v1/trace` with `cases`: the same of the sweep that it is.
pub fn traces(body: &Value, facts: &dyn Facts) -> Result<(CasesSpec, Sweep), Problems> {
    let mut read = Problems::default();
    let spec = CasesSpec::read(body, &mut read);
    let sweep = open(spec.as_ref().map(CasesSpec::sweep), body, read, facts)?;
    // It is answered at once, intervals and all.
    let (cases, draws) = (sweep.spec.cases.len(), u64::from(sweep.spec.aggregate.ci.resamples));
    let averages = TokenClass::ALL.len() * facts.config().num_layers * sweep.spec.arms.len();
    let work = draws.saturating_mul((cases * averages * sweep.spec.metrics.len()) as u64);
    let limit = facts.limits().resampled;
    let mut out = Problems::default();
    if work > limit {
        let detail = format!("{work} numbers to sum for confidence intervals, the limit is {limit}");
        out.push("/aggregate/ci/resamples", code::LIMIT, detail, "choose fewer resamples, arms or metrics");
    }
    Ok((out.or(spec)?, sweep))
}

/// Tokenises the cases of a sweep, and finds what they share. `read`: what was wrong with the body so far.
fn open(
    spec: Option<SweepSpec>,
    body: &Value,
    mut read: Problems,
    facts: &dyn Facts,
) -> Result<Sweep, Problems> {
    let Some(spec) = spec else { return Err(read) };
    let mut found = Gathered::new(OfSweep { spec: &spec, body });
    let (runs, ids) = tokenised(&spec, read.is_empty(), facts, &mut found);
    if !read.is_empty() {
        // What couldn't be read has its default here. Only what is said of the cases that were read is true of them.
        let of_cases =
            |p: &FieldProblem| p.pointer.strip_prefix(spec.form.list()).is_some_and(|p| !p.is_empty());
        read.0.extend(found.problems().0.into_iter().filter(of_cases));
        read.0.truncate(Problems::MOST);
        return Err(read);
    }
    found.problems().or(Some(()))?;
    let sigma = spec.corrupt.as_ref().and_then(|corrupt| corrupt.method.sigma());
    let mut out = Problems::default();
    let sigma = sigma.and_then(|sigma| {
        let subjects: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        corrupt::pooled_sigma(sigma, &subjects, "/corrupt/sigma", facts, &mut out)
    });
    out.or(Some(()))?;
    let shared = Shared { sigma, plan_sha256: fingerprint(&spec, &Named(runs)) };
    Ok(Sweep { spec, shared })
}

/// The tokens of all runs of all cases, and of each case those that get noise. `corrupts`: whether it is known which.
fn tokenised(
    spec: &SweepSpec,
    corrupts: bool,
    facts: &dyn Facts,
    found: &mut Gathered<OfSweep<'_>>,
) -> (Vec<(String, TokenRun)>, Vec<Vec<u32>>) {
    let limits = facts.limits();
    let (mut runs, mut ids) = (Vec::with_capacity(spec.cases.len()), Vec::new());
    if spec.cases.len() as u64 > limits.cases {
        let detail = format!("{} cases, the limit is {}", spec.cases.len(), limits.cases);
        found.all(spec.form.list(), code::LIMIT, detail, "send fewer cases per request");
        return (runs, ids);
    }
    // What is answered at once has no more prompts than any other request.
    let mut budget = if spec.form == Form::Trace { limits.prompt_bytes } else { u64::MAX };
    for case in 0..spec.cases.len() {
        let (field, bytes) = prompt_bytes(&spec.cases[case]);
        if bytes > budget {
            let detail =
                format!("{bytes} bytes of prompt; {budget} of {} bytes are left for it", limits.prompt_bytes);
            let at = format!("{}/{field}", spec.places[case]);
            found.all(&at, code::LIMIT, detail, "shorten the prompt, or send fewer cases");
            break;
        }
        budget -= bytes;
        let mut problems = Problems::default();
        let experiment = spec.experiment(case);
        let mut prepared = prepare(&experiment, facts, &mut problems);
        if let Some(corrupt) = spec.corrupt.as_ref().filter(|_| corrupts)
            && let Some(clean) =
                find(&corrupt.from, "/corrupt/from", &experiment, &prepared.runs, &mut problems).cloned()
            && let Some(draws) = corrupt.method.draws()
        {
            let at = &draws.positions;
            let positions =
                corrupt::corrupted_positions(at, draws.include_bos, &clean, &mut prepared, &mut problems);
            ids.extend(positions.map(|positions| {
                positions.iter().map(|position| clean.ids[*position as usize]).collect::<Vec<u32>>()
            }));
        }
        found.add_problems(case, problems);
        runs.extend(prepared.runs.0);
    }
    (runs, ids)
}

/// Bytes of a case's prompts, and the field of the first.
fn prompt_bytes(case: &SweepCase) -> (&'static str, u64) {
    let of = |prompt: &Prompt| match &prompt.text {
        PromptText::Prompt(text) => ("prompt", text.len()),
        PromptText::Tokens(ids) => ("tokens", 4 * ids.len()),
        PromptText::Derived { .. } => ("prompt", 0),
    };
    let all: Vec<(&str, usize)> = case.runs.iter().map(|(_, prompt)| of(prompt)).collect();
    (all.first().map_or("prompt", |(field, _)| field), all.iter().map(|(_, bytes)| *bytes as u64).sum())
}

impl Sweep {
    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.spec.cases.len()
    }

    /// Whether there are none; never so after [`sweep`].
    pub fn is_empty(&self) -> bool {
        self.spec.cases.is_empty()
    }

    /// A place for the problems and remarks of each case.
    pub fn gather<'s>(&'s self, body: &'s Value) -> Gathered<OfSweep<'s>> {
        Gathered::new(OfSweep { spec: &self.spec, body })
    }

    /// The plan of a case.
    pub fn case(&self, case: usize, part: Part, facts: &dyn Facts) -> Result<Lowered<SweepLayout>, Problems> {
        let mut out = Problems::default();
        let lowered = self.lower(case, part, facts, &mut out);
        out.or(lowered)
    }

    fn lower(
        &self,
        case: usize,
        part: Part,
        facts: &dyn Facts,
        out: &mut Problems,
    ) -> Option<Lowered<SweepLayout>> {
        let spec = &self.spec;
        let mut experiment = spec.experiment(case);
        let prob = Metric::new(MetricKind::Prob, TARGET);
        let judged = experiment.targets.get(TARGET).is_some() && !experiment.metrics.contains(&prob);
        if part == Part::Baselines && judged {
            experiment.metrics.push(prob);
        }
        let mut prepared = prepare(&experiment, facts, out);
        lint_effect_metrics(&mut prepared);
        let clean_run = self.clean(&prepared.runs)?;
        let clean = prepared.runs.0[clean_run].1.clone();
        let corrupting = match &spec.corrupt {
            Some(given) => {
                let mut given = given.clone();
                if let (Some(sigma), Some(used)) = (given.method.sigma_mut(), &self.shared.sigma) {
                    *sigma = Sigma::Absolute { abs: used.abs };
                }
                let samples = corrupt::samples(&given.method, facts, out)?;
                let resolved =
                    corrupt::resolve(&given, &experiment, &clean, samples, facts, &mut prepared, out)?;
                Some((given, samples, resolved))
            }
            None => None,
        };
        let samples = corrupting.as_ref().map_or(1, |(_, samples, _)| *samples);
        let named =
            WithCorrupted::new(&experiment, &prepared.runs, corrupting.is_some(), spec.from(), &clean);
        let arms = self.arms(&named, samples, facts, &mut prepared, out)?;
        for arm in &arms {
            knockout::lint(&arm.templates, &arm.at, &prepared.measures, &mut prepared.lints);
        }
        let mut size = Size { cells: 0, edits: 0, positions: 0, at: "/arms" };
        for arm in &arms {
            let swept = Swept { at: &arm.at, sweep: &arm.sweep };
            let one = swept.size(&arm.templates, &arm.axes, arm.samples as u64, facts.config());
            swept.check_constants(&arm.templates, one.cells, facts, out);
            size.cells = size.cells.saturating_add(one.cells);
            size.edits = size.edits.saturating_add(one.edits);
            size.positions = size.positions.saturating_add(one.positions);
        }
        let unpatched = experiment.runs.len() as u64 + samples;
        admit(&size, unpatched, &prepared, experiment.read.topk, facts.limits(), out);
        if !out.is_empty() {
            return None;
        }
        let mut arms = arms;
        for arm in &mut arms {
            for (i, template) in arm.templates.iter_mut().enumerate() {
                template.load(&format!("{}/{i}", arm.at), &arm.sweep, facts.config(), out);
            }
        }
        if !out.is_empty() {
            return None;
        }

        // The corrupted run comes from the clean one.
        let line = |base: usize| if base < prepared.runs.len() { base } else { clean_run };
        let inherited = |arm: &ArmPlan<'_>| derive::inherited(&prepared.derived, line(arm.base));
        let inherited: Vec<Vec<Template>> = arms.iter().map(inherited).collect();
        let Started { mut plan, roots, mut prelude, mut common } = start(spec, &experiment, prepared, facts);
        let readouts: Vec<(RunId, usize)> =
            roots.iter().zip(&common.runs.0).map(|(root, (_, (_, readout)))| (*root, *readout)).collect();
        let corrupted = corrupting.map(|(given, _, resolved)| {
            resolved.build(&given.method, &clean, roots[clean_run], &readouts, &mut plan, facts)
        });
        let corrupted = corrupted.unwrap_or(Corrupted { runs: vec![], positions: vec![], replaced: vec![] });
        let mut reads: Vec<u32> = common.runs.0.iter().map(|(_, (run, _))| run.read).collect();
        reads.push(clean.read);
        let controls = Controls::new(&[], &common.runs, &roots, &mut plan, facts);
        let mut built = Named::default();
        for (arm, inherited) in arms.iter().zip(&inherited) {
            let mut grid = Grid {
                axes: arm.axes.clone(),
                samples: arm.samples,
                readouts: vec![],
                controls: vec![],
                trivial: vec![],
            };
            let cells = if part == Part::Whole { arm.cells() } else { 0 };
            let swept = Swept { at: &arm.at, sweep: &arm.sweep };
            for cell in 0..cells {
                let chosen = swept.cell(&arm.templates, &arm.axes, cell);
                if let Some(blind) = knockout::blind(&chosen, inherited, facts.config()) {
                    blind.report_in(&chosen, &arm.at, out);
                    return None;
                }
                for sample in 0..arm.samples {
                    let mut roots = roots.clone();
                    roots.extend(corrupted.runs.get(sample).map(|(run, _)| *run));
                    let mut builder =
                        Builder { config: facts.config(), roots: &roots, prelude: &mut prelude };
                    let scene = Scene { roots: &roots, reads: &reads, base: arm.base };
                    scene.add(&mut plan, &chosen, cell, &mut grid, &controls, &mut builder);
                }
            }
            let at = format!("/arms/{}", escape(arm.name));
            judge(&at, &grid.trivial, spec.allow_trivial, &mut common.lints, out);
            let all = |run: usize| match readouts.get(run) {
                Some((_, readout)) => vec![*readout],
                None => corrupted.runs.iter().map(|(_, readout)| *readout).collect(),
            };
            let layout = ArmLayout {
                base: all(arm.base),
                answer: all(if spec.form == Form::Trace { clean_run } else { arm.base }),
                reference: arm.reference.map(all),
                len: arm.len,
                subject: arm.subject.clone(),
                grid,
            };
            built.0.push((arm.name.to_owned(), layout));
        }
        let tokens = corrupted.runs.first().map(|(run, _)| plan.run(*run).tokens.to_vec());
        let layout = SweepLayout {
            says: Derive::of_answers(&spec.derive),
            clean: clean_run,
            corrupted: corrupted.runs.iter().map(|(_, readout)| *readout).collect(),
            corrupted_tokens: tokens.unwrap_or_default(),
            subject: clean.spans.get("subject").and_then(Span::range),
            arms: built,
            common,
        };
        Some(Lowered { prelude: prelude.into_plan(), plan, layout })
    }

    /// Index of the run that corruption starts from; without one of that name, of the first arm's reference.
    fn clean(&self, runs: &Named<TokenRun>) -> Option<usize> {
        let reference = self.spec.arms.iter().find_map(|(_, arm)| arm.reference.as_deref());
        let named = runs.place(self.spec.from());
        match self.spec.corrupt {
            Some(_) => named,
            None => named.or_else(|| runs.place(reference?)).or((!runs.is_empty()).then_some(0)),
        }
    }

    fn arms<'s>(
        &'s self,
        named: &WithCorrupted,
        samples: u64,
        facts: &dyn Facts,
        prepared: &mut Prepared,
        out: &mut Problems,
    ) -> Option<Vec<ArmPlan<'s>>> {
        let mut lints = std::mem::take(&mut prepared.lints);
        let arms = self.spec.arms.iter().map(|(name, arm)| {
            ArmPlan::new(name, arm, &self.spec.sweep, named, samples, facts, &mut lints, out)
        });
        let arms: Vec<Option<ArmPlan<'_>>> = arms.collect();
        prepared.lints = lints;
        let arms: Vec<ArmPlan<'_>> = arms.into_iter().collect::<Option<_>>()?;
        for (i, axis) in self.spec.sweep.iter().enumerate() {
            if arms.iter().all(|arm| !arm.sweep.contains(axis)) {
                let detail = format!("no arm has {}", SweepAxis::ALL[*axis as usize].0);
                out.push(format!("/sweep/{i}"), code::CONFLICT, detail, unswept(*axis, "arm"));
            }
        }
        Some(arms)
    }
}

/// A case's runs with the corrupted one, if there is one, as the last.
struct WithCorrupted {
    experiment: Experiment,
    runs: Named<TokenRun>,
}

impl WithCorrupted {
    fn new(
        experiment: &Experiment,
        runs: &Named<TokenRun>,
        has_corrupted: bool,
        from: &str,
        clean: &TokenRun,
    ) -> Self {
        let (mut experiment, mut runs) = (experiment.clone(), runs.clone());
        if has_corrupted {
            // As a run derived from the clean one it can be read where it is written, and nowhere else.
            let text = PromptText::Derived { from: from.to_owned(), interventions: Vec::new() };
            let prompt = Prompt { text, spans: Named::default(), bos: None };
            experiment.runs.0.push((CORRUPTED.to_owned(), prompt));
            runs.0.push((CORRUPTED.to_owned(), clean.clone()));
        }
        Self { experiment, runs }
    }
}

/// An arm with indices.
struct ArmPlan<'s> {
    name: &'s str,
    /// Pointer to its interventions.
    at: String,
    /// Axes that it has.
    sweep: Vec<SweepAxis>,
    axes: Vec<Axis>,
    templates: Vec<Template>,
    /// Index of the run that is patched; one past the runs: the corrupted one.
    base: usize,
    reference: Option<usize>,
    samples: usize,
    len: u32,
    subject: Option<Range<u32>>,
}

impl<'s> ArmPlan<'s> {
    #[expect(clippy::too_many_arguments, reason = "the parts of an arm")]
    fn new(
        name: &'s str,
        arm: &'s SweepArm,
        sweep: &[SweepAxis],
        named: &WithCorrupted,
        samples: u64,
        facts: &dyn Facts,
        lints: &mut super::lint::Lints,
        out: &mut Problems,
    ) -> Option<Self> {
        let at = format!("/arms/{}", escape(name));
        let place = |run: &str, out: &mut Problems| {
            let found = named.runs.place(run);
            if found.is_none() && named.experiment.runs.get(run).is_none() {
                let detail = format!("no run is called {run:?}");
                let names = named.experiment.runs.names().join(", ");
                out.push(&at, code::UNKNOWN_NAME, detail, format!("the runs are {names}"));
            }
            found
        };
        let base = place(&arm.base, out)?;
        let reference = match &arm.reference {
            Some(reference) => Some(place(reference, out)?),
            None => None,
        };
        let run = &named.runs.0[base].1;
        let scope = Scope {
            at: at.clone(),
            base: &arm.base,
            run,
            interventions: &arm.interventions,
            sweep,
            experiment: &named.experiment,
            runs: &named.runs,
            keys: keys(&named.runs),
        };
        let templates: Vec<Option<Template>> =
            (0..arm.interventions.len()).map(|i| template(i, &scope, facts, lints, out)).collect();
        let templates: Vec<Template> = templates.into_iter().collect::<Option<_>>()?;
        let has = |axis: &&SweepAxis| templates.iter().any(|template| list(template, **axis).is_some());
        let own: Vec<SweepAxis> = sweep.iter().filter(has).copied().collect();
        let axes = Swept { at: &at, sweep: &own }.axes(&templates, out)?;
        let reads_corrupted = arm.interventions.iter().any(|intervention| {
            matches!(intervention.op.source(), Some(SourceSpec::Run { run, .. }) if run == CORRUPTED)
        });
        let drawn = arm.base == CORRUPTED || reads_corrupted;
        let (len, subject) = (run.len(), run.spans.get("subject").and_then(Span::range));
        let samples = if drawn { samples as usize } else { 1 };
        Some(Self { name, at, sweep: own, axes, templates, base, reference, samples, len, subject })
    }

    fn cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.values.len()).product()
    }
}
