//! Plans begun: every run and a readout each, and the scoring.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::facts::Facts;
use super::layout::Common;
use super::prepare::Prepared;
use super::prompts::TokenRun;
use super::source_pass::Prelude;
use super::template::Builder;
use crate::plan::{Plan, RunId};
use crate::spec::canonical::hex;
use crate::spec::experiment::Experiment;
use crate::spec::named::Named;

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
pub(super) fn fingerprint(spec: &impl Serialize, runs: &Named<TokenRun>) -> String {
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
