//! Patch runs to a plan: one case with one arm, whose base is the run that is patched.

use super::case::{Answer, Case, Part, Written};
use super::facts::Facts;
use super::layout::{Lowered, PatchLayout};
use super::request::request;
use crate::spec::derive::Derive;
use crate::spec::named::Named;
use crate::spec::patch::{PatchSpec, SweepAxis};
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::CORRUPTED;
use crate::spec::sweep::SweepArm;

request!("patch", PatchSpec, PatchLayout, lower, case.common);

fn lower(spec: PatchSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<PatchLayout>> {
    check_derive(&spec, out);
    let ends = spec.normalise.as_ref();
    if let Some(ends) = ends.filter(|ends| ends.zero == ends.one) {
        let detail = format!("0 and 1 are both {:?}", ends.zero);
        out.push("/normalise", code::SELF_REFERENCE, detail, "name two runs");
    }
    let arm = SweepArm {
        base: spec.base.clone(),
        reference: ends.map(|ends| ends.one.clone()),
        interventions: spec.interventions.clone(),
        together: false,
    };
    let case = Case {
        spec: &spec,
        experiment: &spec.experiment,
        clean: &spec.base,
        corrupt: None,
        corrupted: CORRUPTED,
        arms: &Named::one("", arm),
        written: Written::Interventions,
        zero: ends.map(|ends| ends.zero.as_str()).filter(|zero| *zero != spec.base),
        sweep: &spec.sweep,
        derive: &spec.derive,
        controls: &spec.controls,
        answer: Answer::Base,
        twin: true,
        part: Part::Whole,
    };
    let Lowered { prelude, plan, layout: case } = case.lower(facts, out)?;
    Some(Lowered { prelude, plan, layout: PatchLayout { spec, case } })
}

/// Refuses derived quantities that the sweep doesn't have.
fn check_derive(spec: &PatchSpec, out: &mut Problems) {
    for (i, derive) in spec.derive.iter().enumerate() {
        let (detail, fix) = if spec.sweep.is_empty() {
            ("one joint patch has nothing to compare", "name axes in `sweep`")
        } else if derive.needs_layers() && !spec.sweep.contains(&SweepAxis::Layers) {
            ("layers are not swept", "add \"layers\" to `sweep`")
        } else if *derive == Derive::HalfRecoveryLayer && spec.normalise.is_none() {
            ("there is no whole to take half of", "add `normalise`: {\"zero\": run, \"one\": run}")
        } else if *derive == Derive::ReachesSource && spec.normalise.is_none() {
            ("no one run is the source", "add `normalise`: {\"zero\": run, \"one\": run}")
        } else {
            continue;
        };
        out.push(format!("/derive/{i}"), code::CONFLICT, detail, fix);
    }
}
