//! Stage 2, first half: request bodies to plans: reads, checks everything, and only then builds.
//!
//! ```text
//! body -spec::read-> spec -prompts-> tokens -select, measure-> indices -run, patch, trace-> Lowered { plan, layout }
//! ```

use std::collections::HashSet;

mod align;
mod arms;
mod basis;
mod case;
pub mod classes;
mod control;
mod corrupt;
pub mod diff;
mod draw;
pub mod facts;
pub mod gather;
mod given;
mod grid;
mod inside;
mod knockout;
pub mod layout;
pub mod lint;
pub mod measure;
pub mod noise;
mod derive;
mod patch;
mod prelude;
pub mod prompts;
mod run;
mod select;
mod source;
pub mod sweep;
mod swap;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trace;
pub mod trivial;
mod upload;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::derive::Derived;
use self::facts::{Facts, Limits};
use self::layout::{AlignLayout, Common, Lowered, PatchLayout, RunLayout, TraceLayout};
use self::lint::Lints;
use self::measure::{Measure, Targets};
use self::prelude::Prelude;
use self::prompts::TokenRun;
pub use self::run::{heads, width};
pub use self::select::window;
use self::sweep::Sweep;
use self::template::Builder;
pub use self::upload::{check_mean, upload};
use crate::plan::{Plan, RunId};
use crate::spec::align::AlignSpec;
use crate::spec::canonical::hex;
use crate::spec::cases::CasesSpec;
use crate::spec::experiment::{Experiment, Origins};
use crate::spec::metric::{MetricKind, TargetScoring};
use crate::spec::named::Named;
use crate::spec::patch::PatchSpec;
use crate::spec::problem::{Problems, code};
use crate::spec::read::{did_you_mean, escape};
use crate::spec::readout::ReadAt;
use crate::spec::run::RunSpec;
use crate::spec::trace::TraceSpec;

/// `POST /v1/run`: a body to a plan, or everything that is wrong with it.
pub fn run(body: &Value, facts: &dyn Facts) -> Result<Lowered<RunLayout>, Problems> {
    let mut read = Problems::default();
    let spec = RunSpec::read(body, &mut read);
    let origins = spec.as_ref().map(|spec| spec.experiment.origins.clone());
    finish(body, origins, read, |out| run::lower(spec?, facts, out), |l| (&l.spec.experiment, &mut l.common))
}

/// `POST /v1/patch`: a body to a plan, or everything that is wrong with it.
pub fn patch(body: &Value, facts: &dyn Facts) -> Result<Lowered<PatchLayout>, Problems> {
    let mut read = Problems::default();
    let spec = PatchSpec::read(body, &mut read);
    let origins = spec.as_ref().map(|spec| spec.experiment.origins.clone());
    finish(
        body,
        origins,
        read,
        |out| patch::lower(spec?, facts, out),
        |l| (&l.spec.experiment, &mut l.common),
    )
}

/// `POST /v1/align`: a body to a plan, or everything that is wrong with it.
pub fn align(body: &Value, facts: &dyn Facts) -> Result<Lowered<AlignLayout>, Problems> {
    let mut read = Problems::default();
    let spec = AlignSpec::read(body, &mut read);
    let origins = spec.as_ref().map(|spec| spec.experiment.origins.clone());
    finish(
        body,
        origins,
        read,
        |out| align::lower(spec?, facts, out),
        |l| (&l.spec.experiment, &mut l.common),
    )
}

/// What a body of `POST /v1/trace` is.
#[derive(Debug)]
pub enum Traced {
    /// The trace of one prompt.
    One(Box<Lowered<TraceLayout>>),
    /// Those of many (`cases`): a sweep, and the form in which it was written.
    Many(Box<CasesSpec>, Box<Sweep>),
}

/// `POST /v1/trace`, whichever of its forms a body has.
pub fn traced(body: &Value, facts: &dyn Facts) -> Result<Traced, Problems> {
    if CasesSpec::is_form_of(body) {
        let (spec, sweep) = sweep::traces(body, facts)?;
        return Ok(Traced::Many(Box::new(spec), Box::new(sweep)));
    }
    Ok(Traced::One(Box::new(trace(body, facts)?)))
}

/// The trace of one prompt: a body to a plan, or everything that is wrong with it.
pub fn trace(body: &Value, facts: &dyn Facts) -> Result<Lowered<TraceLayout>, Problems> {
    let mut read = Problems::default();
    let spec = TraceSpec::read(body, &mut read);
    let origins = spec.as_ref().map(|spec| spec.experiment.origins.clone());
    finish(
        body,
        origins,
        read,
        |out| trace::lower(spec?, facts, out),
        |l| (&l.spec.experiment, &mut l.case.common),
    )
}

/// Joins the problems of reading and lowering, and puts pointers where the caller wrote the field.
fn finish<L>(
    body: &Value,
    origins: Option<Origins>,
    mut read: Problems,
    lower: impl FnOnce(&mut Problems) -> Option<Lowered<L>>,
    shared: impl FnOnce(&mut L) -> (&Experiment, &mut Common),
) -> Result<Lowered<L>, Problems> {
    let origins = origins.unwrap_or_default();
    let mut found = Problems::default();
    let lowered = lower(&mut found);
    let mut absent = HashSet::new();
    for problem in &mut found.0 {
        let restored = origins.restore(&problem.pointer);
        // A field of the short form that is missing: had it been there and unreadable, nothing would have been lowered.
        if problem.code == code::MISSING && restored != problem.pointer {
            absent.insert(restored.clone());
        }
        problem.pointer = restored;
    }
    // One field can be wrong for several runs: once is enough.
    let mut seen = HashSet::new();
    found.0.retain(|problem| seen.insert((problem.pointer.clone(), problem.code)));
    if !read.is_empty() {
        // What couldn't be read has its default here. Only what is said of fields that are there, and doesn't
        // depend on names or edits that may have been lost, is true of the request itself.
        let there = |p: &str| body.pointer(p).is_some() || absent.contains(p);
        let lost = [code::UNKNOWN_NAME, trivial::TAUTOLOGY];
        found.0.retain(|p| !lost.contains(&p.code) && there(&p.pointer));
        read.0.extend(found.0);
        read.0.truncate(Problems::MOST);
        return Err(read);
    }
    let mut lowered = found.or(lowered)?;
    let (experiment, common) = shared(&mut lowered.layout);
    common.lints = std::mem::take(&mut common.lints).restored(&origins);
    if experiment.strict {
        let refused = common.lints.refused();
        if !refused.is_empty() {
            return Err(refused);
        }
    }
    Ok(lowered)
}

/// What all requests need before anything of their own.
pub(super) struct Prepared {
    /// Tokenised runs; those with problems are missing.
    pub runs: Named<TokenRun>,
    /// Target sets.
    pub targets: Targets,
    /// Metrics.
    pub measures: Vec<Measure>,
    /// Runs that divergences refer to.
    pub refs: Vec<String>,
    /// Runs derived from others.
    pub(in crate::lower) derived: Vec<Derived>,
    /// Remarks so far.
    pub lints: Lints,
}

/// Tokenises and resolves what all requests share.
pub(super) fn prepare(experiment: &Experiment, facts: &dyn Facts, out: &mut Problems) -> Prepared {
    if let Some(model) = experiment.model.as_deref().filter(|model| !facts.answers_to(model)) {
        let detail = format!("{model:?} is not served here{}", did_you_mean(model, &[facts.model()]));
        out.push(
            "/model",
            code::UNKNOWN_MODEL,
            detail,
            format!("write {:?}, or leave out `model`", facts.model()),
        );
    }
    let mut lints = Lints::default();
    let runs = prompts::tokenise(experiment, facts, out);
    let derived = derive::derived(experiment, &runs, facts, &mut lints, out);
    prompts::lint(experiment, &runs, facts, &mut lints);
    let targets = measure::targets(experiment, &runs, facts, &mut lints, out);
    let mut refs = Vec::new();
    // Too many targets are not looked at: then no metric can name one.
    let measurable = targets.sets.len() == experiment.targets.len();
    let measures =
        if measurable { measure::measures(experiment, &targets, facts, &mut refs, out) } else { Vec::new() };
    continuations(experiment, &runs, &targets, facts, out);
    let limit = facts.limits().topk.min(facts.config().vocab_size as u64);
    if u64::from(experiment.read.topk) > limit {
        let detail = format!("topk {}, the limit is {limit}", experiment.read.topk);
        out.push("/read/topk", code::LIMIT, detail, "ask for fewer tokens");
    }
    // What was written says nothing of the answer.
    let mut kinds = measures.iter().map(|m| m.metric.kind).filter(|kind| kind.is_of_the_answer()).peekable();
    if kinds.peek().is_some() && kinds.all(MetricKind::is_discrete) {
        let detail = "ranks and flips jump, and stay still while the probability moves".to_owned();
        lints.warn("DISCRETE_METRIC_ONLY", "/metrics", detail, "add logprob, logit_diff or kl");
    }
    Prepared { runs, targets, measures, refs, derived, lints }
}

/// Checks what scoring texts of several tokens needs: prompts read at their end, and room for what follows them.
fn continuations(
    experiment: &Experiment,
    runs: &Named<TokenRun>,
    targets: &Targets,
    facts: &dyn Facts,
    out: &mut Problems,
) {
    let scoring = experiment.target_scoring;
    if scoring == TargetScoring::FirstToken {
        return;
    }
    if let Some((name, run)) = runs.iter().find(|(_, run)| run.read + 1 != run.len()) {
        let at = match experiment.read.at {
            ReadAt::Same(_) => "/read/at".to_owned(),
            ReadAt::PerRun(_) => format!("/read/at/{}", escape(name)),
        };
        let detail =
            format!("position {} of {} tokens: the target follows the whole prompt", run.read, run.len());
        out.push(at, code::CONFLICT, detail, "read at `last`, or \"target_scoring\": \"first_token\"");
    }
    let known = |total: usize| total as u64 <= facts.limits().target_tokens;
    let total = targets.sequences.iter().map(|sequence| sequence.len()).sum();
    if !known(total) {
        let detail = format!("targets of {total} tokens, the limit is {}", facts.limits().target_tokens);
        out.push(
            "/target_scoring",
            code::LIMIT,
            detail,
            "name fewer or shorter targets, or score the first token",
        );
        return;
    }
    let suffixes = crate::plan::sequences::continuations(&targets.sequences);
    let copies = (suffixes.len() * runs.len()) as u64;
    if copies > facts.limits().runs {
        let detail = format!(
            "{} prompts with {} continuations each, the limit is {} prompts",
            runs.len(),
            suffixes.len(),
            facts.limits().runs
        );
        let fix = "send fewer prompts, or targets of which fewer differ before their last token";
        out.push("/target_scoring", code::LIMIT, detail, fix);
    }
    let longest = prompts::longest(facts);
    let suffix = suffixes.iter().map(|suffix| suffix.len()).max().unwrap_or(0) as u64;
    for (name, run) in runs.iter().filter(|(_, run)| u64::from(run.len()) + suffix > longest) {
        let detail = format!("{} tokens and {suffix} of a target, the limit is {longest}", run.len());
        let fix = format!("shorten the prompt to {} tokens, or the target", longest.saturating_sub(suffix));
        let at = experiment.runs.get(name).map(|prompt| prompts::text_pointer(name, prompt));
        out.push(at.unwrap_or_default(), code::LIMIT, detail, fix);
    }
}

/// Remarks on metrics of effects.
pub(super) fn lint_effect_metrics(prepared: &mut Prepared) {
    use crate::spec::metric::MetricKind::Prob;
    let kinds = || prepared.measures.iter().map(|m| m.metric.kind).filter(|kind| kind.is_of_the_answer());
    if kinds().next().is_some() && kinds().all(|kind| kind == Prob) {
        let detail = "probability saturates and can hide components that lower the answer".to_owned();
        prepared.lints.info("PROB_ONLY", "/metrics", detail, "add logprob or logit_diff");
    }
}

/// A plan that has its runs, and what is needed to add cells.
pub(super) struct Started {
    /// The plan.
    pub plan: Plan,
    /// The plan's run of each of the request's runs.
    pub roots: Vec<RunId>,
    /// What is captured beforehand.
    pub(in crate::lower) prelude: Prelude,
    /// What the numbers mean.
    pub common: Common,
}

/// A plan with every run and a readout each, and the scoring.
pub(super) fn start(
    spec: &impl Serialize,
    experiment: &Experiment,
    prepared: Prepared,
    facts: &dyn Facts,
) -> Started {
    let Prepared { runs, targets, measures, refs, derived, lints } = prepared;
    let (mut plan, mut prelude) = (Plan::default(), Prelude::default());
    let mut roots = Vec::with_capacity(runs.len());
    let plan_sha256 = fingerprint(spec, &runs);
    let mut read = Vec::with_capacity(runs.len());
    for (index, (name, run)) in runs.0.into_iter().enumerate() {
        let root = match derived.iter().find(|derived| derived.index == index) {
            Some(derived) => {
                let mut builder = Builder { config: facts.config(), roots: &roots, prelude: &mut prelude };
                derived.build(&mut plan, &mut builder)
            }
            None => plan.root(std::sync::Arc::clone(&run.ids)),
        };
        plan.set_context(root, targets.context(&name));
        roots.push(root);
        let readout = plan.read(root, run.read);
        read.push((name, (run, readout)));
    }
    let runs = Named(read);
    plan.scoring.targets.clone_from(&targets.union);
    plan.scoring.sequences.clone_from(&targets.sequences);
    plan.scoring.topk = experiment.read.topk;
    plan.scoring.kl_refs = refs
        .iter()
        .map(|name| runs.get(name).expect("BUG: references were checked against the runs").1 as u32)
        .collect();
    Started {
        plan,
        roots,
        prelude,
        common: Common { runs, measures, targets, lints, plan_sha256, twins: None },
    }
}

/// Reads a run a second time, computed in other rows of the batch.
pub(super) fn twins(plan: &mut Plan, common: &mut Common, index: usize, root: RunId) {
    let (run, readout) = &common.runs.0[index].1;
    let (run_read, readout) = (run.read, *readout);
    let tokens = std::sync::Arc::clone(&plan.run(root).tokens);
    if plan.run(root).parent.is_none() {
        let twin = plan.root(tokens);
        plan.set_context(twin, plan.run(root).context);
        common.twins = Some((readout, plan.read(twin, run_read)));
    }
}

/// SHA-256 of the resolved request and the ids it means: equal plans have equal fingerprints.
fn fingerprint(spec: &impl Serialize, runs: &Named<TokenRun>) -> String {
    let mut hash = Sha256::new();
    let json = serde_json::to_vec(spec).expect("BUG: specs hold finite numbers and string keys only");
    hash.update(&json);
    for (name, run) in runs.iter() {
        hash.update(name.as_bytes());
        for id in run.ids.iter() {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

/// How much a plan holds, computed before it is built.
pub(super) struct Size {
    /// Edited runs.
    pub cells: u64,
    /// Edits of all of them.
    pub edits: u64,
    /// Positions written by all edits together.
    pub positions: u64,
    /// Where the size comes from.
    pub at: &'static str,
}

/// Checks the size of a plan against the limits. `runs`: readouts beside the cells.
pub(super) fn admit(
    size: &Size,
    runs: u64,
    prepared: &Prepared,
    topk: u32,
    limits: &Limits,
    out: &mut Problems,
) {
    const FIX: &str = "sweep fewer layers, positions, arms or samples";
    // The edits of derived runs are inherited by the cells, but held once.
    let (mut edits, mut positions) = (size.edits, size.positions);
    for derived in &prepared.derived {
        edits = edits.saturating_add(derived.edits);
        positions = positions.saturating_add(derived.positions);
    }
    // Every run is computed once for each continuation that targets need.
    let suffixes = crate::plan::sequences::continuations(&prepared.targets.sequences);
    let copies = suffixes.len().max(1) as u64;
    let [cells, edits, positions] = [size.cells, edits, positions].map(|n| n.saturating_mul(copies));
    if cells > limits.cells {
        let detail = format!("{cells} patched runs, the limit is {}", limits.cells);
        out.push(size.at, code::LIMIT, detail, FIX);
    } else if edits > limits.edits {
        let detail = format!("{edits} edits, the limit is {}", limits.edits);
        out.push(size.at, code::LIMIT, detail, FIX);
    } else if positions > limits.edit_positions {
        let detail = format!("{positions} edited positions, the limit is {}", limits.edit_positions);
        out.push(size.at, code::LIMIT, detail, FIX);
    }
    let tokens =
        prepared.targets.union.len() + prepared.targets.sequences.iter().map(|s| s.len()).sum::<usize>();
    let per_score = (tokens + prepared.refs.len()) as u64 + u64::from(topk).max(1);
    let readouts = 1 + suffixes.iter().map(|suffix| suffix.len()).sum::<usize>() as u64;
    let scores = size.cells.saturating_add(runs).saturating_mul(per_score).saturating_mul(readouts);
    if scores > limits.score_elements {
        let detail = format!("{scores} numbers in all readouts, the limit is {}", limits.score_elements);
        out.push("/read/topk", code::LIMIT, detail, "ask for a smaller `topk`, fewer targets or fewer cells");
    }
}
