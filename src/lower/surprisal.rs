//! Texts to a plan: a root each, and a readout at every position, of which the next token is scored.

use super::facts::Facts;
use super::layout::{Common, Lowered};
use super::prepare::prepare;
use super::request::request;
use super::size::{Size, admit};
use super::start::{Started, start};
use crate::spec::problem::{Problems, code};
use crate::spec::surprisal::SurprisalSpec;

/// Meaning of a [`SurprisalSpec`]'s plan.
#[derive(Debug, Clone)]
pub struct SurprisalLayout {
    /// The request.
    pub spec: SurprisalSpec,
    /// Runs; the targets that are scored are all tokens of all texts.
    pub common: Common,
    /// Of each run the readout at its first position. That of the next position follows it, up to the last but one.
    pub first: Vec<usize>,
}

request!("surprisal", SurprisalSpec, SurprisalLayout, lower, common);

fn lower(spec: SurprisalSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<SurprisalLayout>> {
    let mut prepared = prepare(&spec.experiment, facts, out);
    let next = || prepared.runs.iter().flat_map(|(_, run)| run.ids.iter().skip(1));
    let readouts = next().count() as u64;
    let mut tokens: Vec<u32> = next().copied().collect();
    tokens.sort_unstable();
    tokens.dedup();
    let size = Size { cells: 0, edits: 0, positions: 0, at: "/runs" };
    admit(&size, readouts, &prepared, spec.topk, facts.limits(), out);
    let (numbers, limit) = (readouts * tokens.len() as u64, facts.limits().score_elements);
    if numbers > limit {
        let detail = format!("{numbers} numbers in all readouts, the limit is {limit}");
        out.push("/runs", code::LIMIT, detail, "send fewer or shorter texts at a time");
    }
    if !out.is_empty() {
        return None;
    }
    prepared.targets.union = tokens;
    let Started { mut plan, roots, prelude, common } = start(&spec, &spec.experiment, prepared, facts);
    plan.scoring.entropy = true;
    let mut first = Vec::with_capacity(roots.len());
    for (root, (_, (run, _))) in roots.into_iter().zip(common.runs.iter()) {
        first.push(plan.readouts.len());
        for position in 0..run.len() - 1 {
            plan.read(root, position);
        }
    }
    Some(Lowered { prelude: prelude.into_plan(), plan, layout: SurprisalLayout { spec, common, first } })
}
