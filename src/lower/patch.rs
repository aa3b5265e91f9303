//! Patch runs to a plan: every run as a root, and a branch of the base per cell.

use super::arms::{ArmPlan, Asked, Beside, Runs, Stage, admit_all};
use super::control::Controls;
use super::derive;
use super::facts::Facts;
use super::knockout;
use super::layout::{ArmLayout, Lowered, PatchLayout};
use super::prepare::{lint_effect_metrics, prepare};
use super::prompts::find;
use super::request::request;
use super::source::ValuesPlan;
use super::start::{Started, start, twins};
use super::tautology::judge;
use super::template::{OpPlan, Template};
use crate::spec::derive::Derive;
use crate::spec::patch::{Control, PatchSpec, SweepAxis};
use crate::spec::problem::{Problems, code};

request!(PatchSpec, PatchLayout, lower, common);

fn lower(spec: PatchSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<PatchLayout>> {
    let experiment = &spec.experiment;
    let mut prepared = prepare(experiment, facts, out);
    lint_effect_metrics(&mut prepared);
    let base = find(&spec.base, "/base", experiment, &prepared.runs, out).is_some();
    if let Some(normalise) = &spec.normalise {
        find(&normalise.zero, "/normalise/zero", experiment, &prepared.runs, out);
        find(&normalise.one, "/normalise/one", experiment, &prepared.runs, out);
        if normalise.zero == normalise.one {
            let detail = format!("0 and 1 are both {:?}", normalise.zero);
            out.push("/normalise", code::SELF_REFERENCE, detail, "name two runs");
        }
    }
    if !base {
        return None;
    }
    let base_index = prepared.runs.place(&spec.base)?;
    let mut lints = std::mem::take(&mut prepared.lints);
    let runs = Runs { experiment, tokens: &prepared.runs, corrupted: None, samples: 1 };
    let asked = Asked {
        name: "",
        at: "/interventions".to_owned(),
        base: base_index,
        reference: None,
        interventions: &spec.interventions,
        sweep: &spec.sweep,
    };
    let arm = ArmPlan::new(&asked, &runs, |_, _| true, facts, &mut lints, out);
    prepared.lints = lints;
    let mut arms = [arm?];
    check_controls(&spec, &arms[0].templates, out);
    check_derive(&spec, out);
    let (copies, unpatched) = (1 + spec.controls.len() as u64, experiment.runs.len() as u64);
    let beside = Beside { at: "/sweep", copies, unpatched, topk: experiment.read.topk };
    admit_all(&mut arms, &beside, &mut prepared, facts, out)?;

    let inherited = derive::inherited(&prepared.derived, base_index);
    let Started { mut plan, roots, mut prelude, mut common } =
        start(&spec, &spec.experiment, prepared, facts);
    let reads: Vec<u32> = common.runs.0.iter().map(|(_, (run, _))| run.read).collect();
    let controls = Controls::new(&spec.controls, &common.runs, &roots, &mut plan, facts);
    let stage = Stage { roots: &roots, reads: &reads, corrupted: &[], controls: &controls };
    let grid = arms[0].build(&inherited, &stage, &mut plan, &mut prelude, facts.config(), out)?;
    twins(&mut plan, &mut common, base_index, roots[base_index]);
    judge("/interventions", &grid.trivial, experiment.allow_trivial, &mut common.lints, out);
    let readout = |name: &str| common.runs.get(name).map(|(_, readout)| *readout);
    let normalise = spec.normalise.as_ref().and_then(|n| Some((readout(&n.zero)?, readout(&n.one)?)));
    let base = vec![common.runs.0[base_index].1.1];
    let reference = normalise.map(|(_, one)| vec![one]);
    let ArmPlan { len, subject, .. } = &arms[0];
    let (len, subject) = (*len, subject.clone());
    let arm = ArmLayout { answer: base.clone(), base, reference, len, subject, grid };
    Some(Lowered { prelude: prelude.into_plan(), plan, layout: PatchLayout { spec, common, normalise, arm } })
}

/// Refuses controls that would only repeat the patch: those of positions and prompts, where no other run is read.
fn check_controls(spec: &PatchSpec, templates: &[Template], out: &mut Problems) {
    for (i, control) in spec.controls.iter().enumerate() {
        if *control == Control::RandomVector && templates.iter().all(knockout::cuts) {
            let detail = "an edge that is cut moves no row, and has no direction";
            let fix = "cut edges from other keys to compare with, or leave the control out";
            out.push(format!("/controls/{i}"), code::CONFLICT, detail, fix);
        }
        let changed = |t: &Template| {
            let reads_run = matches!(&t.op, OpPlan::Write { values: ValuesPlan::Run { .. }, .. });
            reads_run && !t.frozen && !(*control == Control::RandomPosition && t.site.is_over_keys())
        };
        let concerned = matches!(control, Control::RandomPosition | Control::UnrelatedPrompt);
        if concerned && !templates.iter().any(changed) {
            let detail = "no intervention reads a run at the place that it writes: nothing would change";
            let fix = "use random_vector, which suits every operation, or leave the control out";
            out.push(format!("/controls/{i}"), code::CONFLICT, detail, fix);
        }
    }
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
