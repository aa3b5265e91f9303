//! Alignment of two runs by their tokens.

use super::diff::diff;
use super::facts::Facts;
use super::layout::{AlignLayout, Lowered};
use super::prepare::{prepare, refuse_flips};
use super::request::request;
use super::size::{Size, admit};
use super::start::{Started, start};
use crate::spec::align::AlignSpec;
use crate::spec::problem::Problems;

request!("align", AlignSpec, AlignLayout, lower, common);

/// Both runs as roots, read where the request says, and the diff of their tokens.
fn lower(spec: AlignSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<AlignLayout>> {
    let experiment = &spec.experiment;
    let prepared = prepare(experiment, facts, out);
    refuse_flips(experiment, out);
    let size = Size { cells: 0, edits: 0, positions: 0, at: "/runs" };
    admit(&size, experiment.runs.len() as u64, &prepared, experiment.read.topk, facts.limits(), out);
    if !out.is_empty() {
        return None;
    }
    let Started { plan, prelude, common, .. } = start(&spec, &spec.experiment, prepared, facts);
    let [(_, (a, _)), (_, (b, _))] = &common.runs.0[..] else { return None };
    let segments = diff(&a.ids, &b.ids);
    Some(Lowered { prelude: prelude.into_plan(), plan, layout: AlignLayout { spec, common, segments } })
}
