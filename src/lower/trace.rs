//! Causal traces to a plan: one case, whose arms restore the states of the clean run in the corrupted one, or the reverse.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::arms::as_restored;
use super::asked_cells;
use super::case::{Answer, Case, Part, Written};
use super::facts::Facts;
use super::layout::{Lowered, TraceLayout};
use super::lint::Lints;
use super::measure::unknown_target;
use super::request::request;
use super::sweep::{self, Sweep};
use crate::spec::cases::CasesSpec;
use crate::spec::experiment::Experiment;
use crate::spec::problem::{Problems, code};
use crate::spec::read::escape;
use crate::spec::sweep::{CORRUPTED, restoring};
use crate::spec::trace::{Arm, TraceSpec};

/// What a body of `POST /v1/trace` is.
#[derive(Debug)]
pub enum Traced {
    /// The trace of one prompt.
    One(Box<Lowered<TraceLayout>>),
    /// Those of many (`cases`): a sweep, and the form in which it was written.
    Many(Box<CasesSpec>, Box<Sweep>),
}

/// `POST /v1/trace`, whichever of its forms a body has.
pub fn traced(body: &Arc<Value>, facts: &dyn Facts) -> Result<Traced, Problems> {
    if CasesSpec::is_form_of(body) {
        let (spec, sweep) = sweep::traces(body, facts)?;
        return Ok(Traced::Many(Box::new(spec), Box::new(sweep)));
    }
    Ok(Traced::One(Box::new(super::lower::<TraceSpec>(body, facts)?)))
}

request!("trace", TraceSpec, TraceLayout, lower, case.common);

fn lower(spec: TraceSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<TraceLayout>> {
    let experiment = &spec.experiment;
    let expected = spec.expect_top1.as_ref().and_then(|expected| expected.target());
    if let Some(name) = expected.filter(|name| experiment.targets.get(name).is_none()) {
        unknown_target(name, "/expect_top1", &experiment.targets, out);
    }
    check_derive(&spec, out);
    let corrupted = free_name(experiment);
    let ends = spec.direction().ends(&spec.corrupt.from, &corrupted);
    let (arms, sweep) = restoring(&spec.arms, &spec.layers, &spec.positions, ends);
    let case = Case {
        spec: &spec,
        experiment,
        clean: &spec.corrupt.from,
        corrupt: Some(&spec.corrupt),
        corrupted: &corrupted,
        arms: &arms,
        written: Written::Arms,
        zero: None,
        sweep: &sweep,
        derive: &spec.derive,
        controls: &spec.controls,
        answer: Answer::Clean,
        twin: true,
        part: Part::Whole,
    };
    let mut found = Problems::default();
    let lowered = case.lower(facts, &mut found);
    let own = |name: &str, (own, arm): (&str, &Arm)| escape(own) == name && arm.positions.is_some();
    let joint = |name: &str| spec.arms.iter().any(|arm| own(name, arm));
    let told = |pointer: &str| as_restored(pointer, joint);
    let mut seen = HashSet::new();
    for mut problem in found.0 {
        problem.pointer = told(&problem.pointer);
        if seen.insert((problem.pointer.clone(), problem.detail.clone())) {
            out.0.push(problem);
        }
    }
    let Lowered { prelude, mut plan, layout: mut case } = lowered.filter(|_| out.is_empty())?;
    case.common.lints = said_once(case.common.lints, &told);
    let cells = asked_cells::resolve(&spec, &case, &mut plan, facts, out)?;
    Some(Lowered { prelude, plan, layout: TraceLayout { spec, case, cells } })
}

/// A name for the corrupted run that no run has.
fn free_name(experiment: &Experiment) -> String {
    let mut name = CORRUPTED.to_owned();
    while experiment.runs.get(&name).is_some() {
        name.push('\'');
    }
    name
}

/// Refuses derived quantities that no arm has.
fn check_derive(spec: &TraceSpec, out: &mut Problems) {
    for (i, _) in spec.derive.iter().enumerate().filter(|(_, derive)| derive.needs_layers()) {
        if spec.arms.iter().all(|(_, arm)| !arm.site.has_layer()) {
            let fix = "add an arm at resid_post, or leave it out";
            out.push(format!("/derive/{i}"), code::CONFLICT, "no arm has layers", fix);
        }
    }
}

/// Remarks with pointers as the caller wrote them; what is true of several arms in the same words is said once.
fn said_once(lints: Lints, told: &impl Fn(&str) -> String) -> Lints {
    let mut once = Lints::default();
    for mut lint in lints.0 {
        lint.pointer = told(&lint.pointer);
        if !once.0.contains(&lint) {
            once.0.push(lint);
        }
    }
    once
}
