//! Sweeps to plans: each case a plan of its own, with its unpatched runs and, arm by arm, a branch per cell and sample.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::case::Part;
use super::case::{Answer, Case, Written};
use super::case_table::CaseTable;
use super::corrupted::corrupted_positions;
use super::facts::Facts;
use super::layout::{CaseLayout, Lowered, SigmaUsed};
use super::prepare::prepare;
use super::prompts::{TokenRun, find};
use super::sigma::pooled_sigma;
use super::start::fingerprint;
use crate::spec::cases::CasesSpec;
use crate::spec::corruption::Sigma;
use crate::spec::metric::{Metric, MetricKind};
use crate::spec::named::Named;
use crate::spec::problem::{FieldProblem, Problems, code};
use crate::spec::prompt::{Prompt, PromptText};
use crate::spec::select::TokenClass;
use crate::spec::sweep::{CORRUPTED, Form, SweepCase, SweepSpec, TARGET};

/// A sweep that was read, and what its cases share.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The request.
    pub spec: SweepSpec,
    /// What all of its cases share.
    pub shared: Shared,
    /// The request, as it was written.
    pub body: Arc<Value>,
}

/// What all cases of a sweep share beside the request: small, and the same for whoever computes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// The size of the noise, if it has one.
    pub sigma: Option<SigmaUsed>,
    /// SHA-256 of the request and all token ids, in hex.
    pub plan_sha256: String,
}

/// `POST /v1/sweep`: a body to a sweep, or what is wrong with it short of its grids.
pub fn sweep(body: &Arc<Value>, facts: &dyn Facts) -> Result<Sweep, Problems> {
    let mut read = Problems::default();
    let spec = SweepSpec::read(body, &mut read);
    open(spec, body, read, facts)
}

/// `POST /v1/trace` with `cases`: the same of the sweep that it is.
pub fn traces(body: &Arc<Value>, facts: &dyn Facts) -> Result<(CasesSpec, Sweep), Problems> {
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
    body: &Arc<Value>,
    mut read: Problems,
    facts: &dyn Facts,
) -> Result<Sweep, Problems> {
    let Some(spec) = spec else { return Err(read) };
    let mut found = CaseTable::new(&spec, body);
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
        pooled_sigma(sigma, &subjects, "/corrupt/sigma", facts, &mut out)
    });
    out.or(Some(()))?;
    let shared = Shared { sigma, plan_sha256: fingerprint(&spec, &Named(runs)) };
    Ok(Sweep { spec, shared, body: Arc::clone(body) })
}

/// The tokens of all runs of all cases, and of each case those that get noise. `corrupts`: whether it is known which.
fn tokenised(
    spec: &SweepSpec,
    corrupts: bool,
    facts: &dyn Facts,
    found: &mut CaseTable<'_>,
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
            let positions = corrupted_positions(at, draws.include_bos, &clean, &mut prepared, &mut problems);
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
        PromptText::Chat(chat) => ("messages", chat.bytes()),
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
    pub fn case_table(&self) -> CaseTable<'_> {
        CaseTable::new(&self.spec, &self.body)
    }

    /// The plan of a case.
    pub fn case(&self, case: usize, part: Part, facts: &dyn Facts) -> Result<Lowered<CaseLayout>, Problems> {
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
    ) -> Option<Lowered<CaseLayout>> {
        let spec = &self.spec;
        let mut experiment = spec.experiment(case);
        let prob = Metric::new(MetricKind::Prob, TARGET);
        let judged = experiment.targets.get(TARGET).is_some() && !experiment.metrics.contains(&prob);
        if part == Part::Baselines && judged {
            experiment.metrics.push(prob);
        }
        let mut corrupt = spec.corrupt.clone();
        let sigma = corrupt.as_mut().and_then(|given| given.method.sigma_mut());
        if let (Some(sigma), Some(used)) = (sigma, &self.shared.sigma) {
            *sigma = Sigma::Absolute { abs: used.abs };
        }
        let case = Case {
            spec,
            experiment: &experiment,
            clean: spec.from(),
            corrupt: corrupt.as_ref(),
            corrupted: CORRUPTED,
            arms: &spec.arms,
            written: Written::Arms,
            zero: None,
            sweep: &spec.sweep,
            derive: &spec.derive,
            controls: &[],
            answer: if spec.form == Form::Trace { Answer::Clean } else { Answer::Base },
            twin: false,
            part,
        };
        case.lower(facts, out)
    }
}
