//! What all requests need before anything of their own: runs, targets, metrics.

use super::derive::{self, Derived};
use super::facts::Facts;
use super::lint::Lints;
use super::measure::{self, Measure, Targets};
use super::prompts::{self, TokenRun};
use crate::spec::experiment::Experiment;
use crate::spec::metric::{MetricKind, Of, TargetScoring};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::read::{did_you_mean, escape};
use crate::spec::readout::ReadAt;

/// The resolved parts that every request has.
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

/// Reports metrics that compare an answer with its base's, where there is none.
pub(super) fn refuse_flips(experiment: &Experiment, out: &mut Problems) {
    for (i, metric) in experiment.metrics.iter().enumerate() {
        let detail = match metric.kind.facts().of {
            Of::Base => "a clean run has no base to differ from",
            Of::Edits => "a clean run has no edits",
            Of::Target | Of::Pair | Of::Run => continue,
        };
        let fix = format!("use {} in /v1/patch or /v1/trace", metric.kind.name());
        out.push(format!("/metrics/{i}"), code::NOT_SUPPORTED, detail, fix);
    }
}
