//! Runs derived from others: prompts with interventions that serve as base or source in turn (path patching).

use super::facts::Facts;
use super::intervention::template;
use super::knockout;
use super::lint::Lints;
use super::place::Scope;
use super::prompts::TokenRun;
use super::template::{Builder, OpPlan, Template};
use crate::plan::{Edit, Plan, RunId};
use crate::spec::experiment::Experiment;
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::read::escape;

/// A derived run with indices.
#[derive(Debug)]
pub(in crate::lower) struct Derived {
    /// Its index among the request's runs.
    pub index: usize,
    /// Index of the run it is derived from.
    from: usize,
    templates: Vec<Template>,
    /// Edits, at most.
    pub edits: u64,
    /// Positions written by all edits together, at most.
    pub positions: u64,
}

/// Resolves the interventions of every derived run.
pub(super) fn derived(
    experiment: &Experiment,
    runs: &Named<TokenRun>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Vec<Derived> {
    let mut found = Vec::new();
    for (name, prompt) in experiment.runs.iter() {
        let PromptText::Derived { from, interventions } = &prompt.text else { continue };
        let (Some(index), Some(from_index)) = (runs.place(name), runs.place(from)) else { continue };
        // Only what is defined above can be read.
        let above = Named(runs.0[..index].to_vec());
        let scope = Scope {
            at: format!("/runs/{}/interventions", escape(name)),
            base: from,
            run: &runs.0[index].1,
            interventions,
            sweep: &[],
            experiment,
            runs: &above,
            keys: super::token_run::keys(runs),
        };
        for (i, intervention) in interventions.iter().enumerate() {
            check_order(intervention, &format!("{}/{i}/source", scope.at), name, experiment, out);
        }
        let templates: Vec<Option<Template>> =
            (0..interventions.len()).map(|i| template(i, &scope, facts, lints, out)).collect();
        if let Some(mut templates) = templates.into_iter().collect::<Option<Vec<_>>>() {
            for (i, template) in templates.iter_mut().enumerate() {
                template.load(&format!("{}/{i}", scope.at), &[], facts.config(), out);
            }
            let config = facts.config();
            if let Some(blind) = knockout::blind(&templates, &inherited(&found, from_index), config) {
                blind.report_in(&templates, &scope.at, out);
            }
            let (mut edits, mut positions) = (0_u64, 0_u64);
            for t in &templates {
                let layers = (t.layers.len() as u64).saturating_mul(u64::from(t.window));
                let own = layers.min(config.num_layers as u64) * t.edits_per_layer(config) as u64;
                edits = edits.saturating_add(own);
                positions = positions.saturating_add(own.saturating_mul(t.positions.len() as u64));
            }
            found.push(Derived { index, from: from_index, templates, edits, positions });
        }
    }
    found
}

/// What cuts edges of attention in a run and in the runs that it comes from.
pub(super) fn inherited(derived: &[Derived], run: usize) -> Vec<Template> {
    let find = |run: usize| derived.iter().find(|derived| derived.index == run);
    let line = std::iter::successors(find(run), |derived| find(derived.from));
    line.flat_map(|derived| &derived.templates).filter(|template| knockout::cuts(template)).cloned().collect()
}

/// Reports sources that are not defined above the run `reader`.
fn check_order(
    intervention: &Intervention,
    at: &str,
    reader: &str,
    experiment: &Experiment,
    out: &mut Problems,
) {
    let place = experiment.runs.place(reader);
    let each = |field: &str, names: &[String]| -> Vec<(String, String)> {
        names.iter().enumerate().map(|(i, name)| (format!("{at}/{field}/{i}"), name.clone())).collect()
    };
    let read = match (&intervention.op, intervention.op.source()) {
        (OpSpec::Resample { source, .. }, _) => each("any_of", &source.any_of),
        (_, Some(SourceSpec::MeanOf { mean_of, .. })) => each("mean_of", mean_of),
        (_, Some(SourceSpec::Run { run, .. })) => vec![(format!("{at}/run"), run.clone())],
        _ => Vec::new(),
    };
    for (at, name) in read {
        if experiment.runs.place(&name) >= place && experiment.runs.get(&name).is_some() {
            let detail = format!("{name:?} is not defined above {reader:?}");
            out.push(at, code::SELF_REFERENCE, detail, "define the run before those that read it");
        }
    }
}

impl Derived {
    /// Adds the run; those defined above are in the plan already.
    pub(super) fn build(&self, plan: &mut Plan, builder: &mut Builder<'_>) -> RunId {
        let parent = builder.roots[self.from];
        plan.branch(parent, edits(&self.templates, builder))
    }
}

/// Edits of templates that apply jointly. At one place what is frozen comes first, so that the others have the last word, and
/// what is cut last, so that no edge comes back; else they keep their order. What is held above all others comes at the end,
/// layer by layer.
pub(super) fn edits(templates: &[Template], builder: &mut Builder<'_>) -> Vec<Edit> {
    let (above, mut ordered): (Vec<&Template>, Vec<&Template>) =
        templates.iter().partition(|template| template.above);
    ordered.sort_by_key(|template| match template {
        template if template.frozen => 0,
        Template { op: OpPlan::Cut, .. } => 2,
        _ => 1,
    });
    let written = ordered.iter().filter(|template| !template.frozen);
    let end = written.map(|template| template.end(builder.config)).max().unwrap_or(0);
    let mut edits: Vec<Edit> = ordered.into_iter().flat_map(|template| template.edits(builder)).collect();
    let mut held: Vec<Edit> =
        above.into_iter().flat_map(|template| template.held_above(end).edits(builder)).collect();
    held.sort_by_key(|edit| edit.at.layer);
    edits.append(&mut held);
    edits
}
