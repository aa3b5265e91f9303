//! Traces of many prompts: each case as the trace that it is by itself, and what they share: the size of the noise, and
//! problems and remarks said once.

use std::ops::Range;

use super::corrupt;
use super::facts::Facts;
use super::gather::{Gathered, OfTrace};
use super::layout::{Lowered, SigmaUsed, TraceLayout};
use super::lint::Lint;
use super::measure::TargetToken;
use super::prompts::{Span, TokenRun};
use super::{fingerprint, prepare, trace};
use crate::spec::cases::{CasesSpec, RUN, TARGET};
use crate::spec::corruption::{Method, Sigma};
use crate::spec::metric::{Metric, MetricKind};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::select::TokenClass;

/// A request for the traces of many prompts, checked as far as that goes without their grids.
#[derive(Debug, Clone)]
pub struct Cases {
    /// The request.
    pub spec: CasesSpec,
    /// Each case's tokens.
    pub runs: Vec<TokenRun>,
    /// The token range of each case's subject.
    subjects: Vec<Range<u32>>,
    /// Each case's target as it was understood.
    pub targets: Vec<Vec<TargetToken>>,
    /// The size of the noise, if it has one.
    pub sigma: Option<SigmaUsed>,
    /// SHA-256 of the request and all token ids, in hex.
    pub plan_sha256: String,
    /// Whether the corruption's positions are the default: the subject.
    on_subject: bool,
}

/// `POST /v1/trace` with `cases`: a body to cases, or everything that is wrong with them short of their grids.
pub fn cases(body: &serde_json::Value, facts: &dyn Facts) -> Result<Cases, Problems> {
    let mut out = Problems::default();
    let Some(spec) = CasesSpec::read(body, &mut out) else { return Err(out) };
    let on_subject = body.pointer("/corrupt/positions").is_none_or(serde_json::Value::is_null);
    let mut found = Gathered::of_trace(&spec, on_subject);
    let prepared = tokenised(&spec, facts, &mut found);
    if !out.is_empty() {
        // What couldn't be read has its default here. Only what is said of the cases that were read is true of them.
        let of_cases = |p: &crate::spec::problem::FieldProblem| p.pointer.starts_with("/cases/");
        out.0.extend(found.problems().0.into_iter().filter(of_cases));
        out.0.truncate(Problems::MOST);
        return Err(out);
    }
    found.problems().or(Some(()))?;
    let (runs, targets): (Vec<TokenRun>, Vec<Vec<TargetToken>>) = prepared.into_iter().unzip();
    let spans = runs.iter().map(|run| run.spans.get("subject").and_then(Span::range));
    for (case, _) in spans.clone().enumerate().filter(|(_, subject)| subject.is_none()) {
        let detail = "cases are averaged around one occurrence of their subject";
        out.push(format!("/cases/{case}/subject"), code::CONFLICT, detail, "say which: {\"occurrence\": 0}");
    }
    let subjects: Vec<Range<u32>> = spans.map(Option::unwrap_or_default).collect();
    check_size(&spec, facts, &mut out);
    let sigma = match spec.corrupt.method.sigma() {
        Some(sigma) => {
            let tokens = |(run, range): (_, &Range<u32>)| subject_of(run, range);
            let subjects: Vec<&[u32]> = runs.iter().zip(&subjects).map(tokens).collect();
            corrupt::pooled_sigma(sigma, &subjects, "/corrupt/sigma", facts, &mut out)
        }
        None => None,
    };
    if let Method::Run { .. } = &spec.corrupt.method {
        let detail = "cases have no other runs";
        let fix = "use noise or replace_tokens, or trace one pair of prompts at a time";
        out.push("/corrupt/method", code::NOT_SUPPORTED, detail, fix);
    }
    out.or(Some(()))?;
    let named: Named<TokenRun> =
        spec.cases.iter().zip(&runs).map(|(case, run)| (case.id.clone(), run.clone())).collect();
    let plan_sha256 = fingerprint(&spec, &named);
    Ok(Cases { spec, runs, subjects, targets, sigma, plan_sha256, on_subject })
}

/// Checks that need the number of cases only.
fn check_size(spec: &CasesSpec, facts: &dyn Facts, out: &mut Problems) {
    let limits = facts.limits();
    let averages = TokenClass::ALL.len() * facts.config().num_layers * spec.arms.len() * spec.metrics.len();
    let work = u64::from(spec.aggregate.ci.resamples)
        .saturating_mul(spec.cases.len() as u64)
        .saturating_mul(averages as u64);
    if work > limits.resampled {
        let detail =
            format!("{work} numbers to sum for confidence intervals, the limit is {}", limits.resampled);
        out.push("/aggregate/ci/resamples", code::LIMIT, detail, "choose fewer resamples, arms or metrics");
    }
}

/// Every case's tokens and target; those with problems are missing.
fn tokenised(
    spec: &CasesSpec,
    facts: &dyn Facts,
    found: &mut Gathered<OfTrace<'_>>,
) -> Vec<(TokenRun, Vec<TargetToken>)> {
    let limits = facts.limits();
    if spec.cases.len() as u64 > limits.cases {
        let detail = format!("{} cases, the limit is {}", spec.cases.len(), limits.cases);
        found.all("/cases", code::LIMIT, detail, "send fewer cases per request");
        return Vec::new();
    }
    let mut budget = limits.prompt_bytes;
    let mut prepared = Vec::with_capacity(spec.cases.len());
    for (case, given) in spec.cases.iter().enumerate() {
        let ids = given.tokens.as_ref().map_or(0, |ids| 4 * ids.len());
        let bytes = given.prompt.as_ref().map_or(ids, String::len) as u64;
        if bytes > budget {
            let detail =
                format!("{bytes} bytes of prompt; {budget} of {} bytes are left for it", limits.prompt_bytes);
            let at = if given.prompt.is_some() { "prompt" } else { "tokens" };
            let at = format!("/cases/{}/{at}", spec.places[case]);
            found.all(&at, code::LIMIT, detail, "shorten the prompt, or send fewer cases");
            return prepared;
        }
        budget -= bytes;
        let mut problems = Problems::default();
        let mut one = prepare(&spec.experiment(case), facts, &mut problems);
        if problems.is_empty()
            && let (Some((_, run)), Some((_, target))) = (one.runs.0.pop(), one.targets.sets.0.pop())
        {
            prepared.push((run, target));
        }
        found.add_problems(case, problems);
    }
    prepared
}

/// Tokens of a run's subject.
fn subject_of<'r>(run: &'r TokenRun, range: &Range<u32>) -> &'r [u32] {
    &run.ids[range.start as usize..range.end as usize]
}

impl Cases {
    /// How many.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there are none; never so after [`cases`].
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// A place for the problems and remarks of each case.
    pub fn gather(&self) -> Gathered<OfTrace<'_>> {
        Gathered::of_trace(&self.spec, self.on_subject)
    }

    /// The token range of a case's subject.
    pub fn subject(&self, case: usize) -> Range<u32> {
        self.subjects[case].clone()
    }

    /// The plan of a case's clean and corrupted runs alone, with the probability of its target.
    pub fn baseline(&self, case: usize, facts: &dyn Facts) -> Result<Lowered<TraceLayout>, Problems> {
        let mut spec = self.of(case);
        spec.arms = Named::default();
        let prob = Metric::new(MetricKind::Prob, TARGET);
        if !spec.experiment.metrics.contains(&prob) {
            spec.experiment.metrics.push(prob);
        }
        lower(spec, facts)
    }

    /// The plan of a case's whole trace.
    pub fn trace(&self, case: usize, facts: &dyn Facts) -> Result<Lowered<TraceLayout>, Problems> {
        lower(self.of(case), facts)
    }

    /// A case as a trace of its own, with the noise that all share.
    fn of(&self, case: usize) -> crate::spec::trace::TraceSpec {
        let mut spec = self.spec.trace(case);
        if let (Some(sigma), Some(used)) = (spec.corrupt.method.sigma_mut(), self.sigma) {
            *sigma = Sigma::Absolute { abs: used.abs };
        }
        debug_assert_eq!(spec.corrupt.from, RUN, "checked when the first case was lowered");
        spec
    }

    /// What `strict` refuses of these remarks.
    pub fn refused(&self, lints: &[Lint]) -> Result<(), Problems> {
        let refused = super::lint::Lints(lints.to_vec()).refused();
        if self.spec.strict && !refused.is_empty() { Err(refused) } else { Ok(()) }
    }
}

fn lower(spec: crate::spec::trace::TraceSpec, facts: &dyn Facts) -> Result<Lowered<TraceLayout>, Problems> {
    let mut out = Problems::default();
    let lowered = trace::lower(spec, facts, &mut out);
    out.or(lowered)
}
