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
    /// Of each run the readout at its first position, that of the next position behind it; and of each token from the second on its
    /// place among the tokens scored.
    pub scored: Vec<(usize, Vec<usize>)>,
}

request!("surprisal", SurprisalSpec, SurprisalLayout, lower, common);

fn lower(spec: SurprisalSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<SurprisalLayout>> {
    let mut prepared = prepare(&spec.experiment, facts, out);
    let mut scored = Vec::new();
    let places: Vec<Vec<usize>> = prepared.runs.iter().map(|(_, run)| run.places(&mut scored)).collect();
    let readouts = places.iter().map(|places| places.len() as u64).sum();
    let size = Size { cells: 0, edits: 0, positions: 0, at: "/runs" };
    admit(&size, readouts, &prepared, spec.topk, facts.limits(), out);
    let (numbers, limit) = (readouts * scored.len() as u64, facts.limits().score_elements);
    if numbers > limit {
        let detail = format!("{numbers} numbers in all readouts, the limit is {limit}");
        out.push("/runs", code::LIMIT, detail, "send fewer or shorter texts at a time");
    }
    if !out.is_empty() {
        return None;
    }
    prepared.targets.union = scored;
    let Started { mut plan, roots, prelude, common } = start(&spec, &spec.experiment, prepared, facts);
    plan.scoring.entropy = true;
    let scored = roots.into_iter().zip(places).map(|(root, places)| {
        let first = plan.readouts.len();
        for position in 0..places.len() as u32 {
            plan.read(root, position);
        }
        (first, places)
    });
    let scored = scored.collect();
    Some(Lowered { prelude: prelude.into_plan(), plan, layout: SurprisalLayout { spec, common, scored } })
}
