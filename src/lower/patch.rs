//! Patch runs to a plan: every run as a root, and a branch of the base per cell.

use super::facts::Facts;
use super::layout::{Axis, Grid, Lowered, PatchLayout};
use super::prompts::find;
use super::run::width;
use super::template::{OpPlan, Template, template};
use super::trivial::{judge, triviality};
use super::{Size, admit, lint_effect_metrics, prepare, start};
use crate::model::config::ModelConfig;
use crate::plan::{Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::derive::Derive;
use crate::spec::patch::{Control, PatchSpec, SweepAxis};
use crate::spec::problem::{Problems, code};
use crate::spec::site::Site;

pub(super) fn lower(spec: PatchSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<PatchLayout>> {
    let experiment = &spec.experiment;
    let mut prepared = prepare(experiment, facts, out);
    lint_effect_metrics(&mut prepared);
    let base = find(&spec.base, "/base", experiment, &prepared.runs, out).cloned();
    if let Some(normalise) = &spec.normalise {
        find(&normalise.zero, "/normalise/zero", experiment, &prepared.runs, out);
        find(&normalise.one, "/normalise/one", experiment, &prepared.runs, out);
        if normalise.zero == normalise.one {
            let detail = format!("0 and 1 are both {:?}", normalise.zero);
            out.push("/normalise", code::SELF_REFERENCE, detail, "name two runs");
        }
    }
    let base = base?;
    let mut lints = std::mem::take(&mut prepared.lints);
    let templates: Vec<Option<Template>> = (0..spec.interventions.len())
        .map(|i| template(i, &spec, &base, &prepared, facts, &mut lints, out))
        .collect();
    prepared.lints = lints;
    let templates: Vec<Template> = templates.into_iter().collect::<Option<_>>()?;
    let axes = axes(&spec, &templates, out)?;
    let size = size(&spec, &templates, &axes, facts.config());
    admit(&size, experiment.runs.len() as u64, &prepared, experiment.read.topk, facts.limits(), out);
    check_constants(&spec, &templates, size.cells, facts, out);
    check_derive(&spec, out);
    if !out.is_empty() {
        return None;
    }

    let base_index = prepared.runs.place(&spec.base)?;
    let (mut plan, roots, mut common) = start(&spec, &spec.experiment, prepared);
    let reads: Vec<u32> = common.runs.0.iter().map(|(_, (run, _))| run.read).collect();
    let scene = Scene { spec: &spec, config: facts.config(), roots: &roots, reads: &reads, base: base_index };
    let grid = grid(&mut plan, &templates, axes, &scene);
    judge("/interventions", &grid.trivial, experiment.allow_trivial, &mut common.lints, out);
    let readout = |name: &str| common.runs.get(name).map(|(_, readout)| *readout);
    let normalise = spec.normalise.as_ref().and_then(|n| Some((readout(&n.zero)?, readout(&n.one)?)));
    let base = common.runs.0[base_index].1.1;
    Some(Lowered { plan, layout: PatchLayout { spec, common, base, normalise, grid } })
}

/// Values of the swept axes: the longest list on an axis; others are equal or apply in every cell.
fn axes(spec: &PatchSpec, templates: &[Template], out: &mut Problems) -> Option<Vec<Axis>> {
    let mut axes = Vec::new();
    for (i, axis) in spec.sweep.iter().enumerate() {
        let lists: Vec<Option<&Vec<u32>>> = templates.iter().map(|t| list(t, *axis)).collect();
        let Some(longest) = lists.iter().flatten().copied().max_by_key(|list| list.len()) else {
            let detail = format!("no intervention has {}", SweepAxis::ALL[*axis as usize].0);
            out.push(format!("/sweep/{i}"), code::CONFLICT, detail, "leave the axis out");
            continue;
        };
        for (t, own) in lists.iter().enumerate() {
            let Some(own) = own.filter(|own| own.len() > 1 && *own != longest) else { continue };
            let field = SweepAxis::ALL[*axis as usize].0;
            let detail = format!("{} {field} where another intervention sweeps {}", own.len(), longest.len());
            let fix = format!("list the same {field} in every intervention, or one for all cells");
            out.push(format!("/interventions/{t}/{field}"), code::LENGTH_MISMATCH, detail, fix);
        }
        axes.push(Axis { name: axis.singular(), values: longest.clone() });
    }
    (axes.len() == spec.sweep.len()).then_some(axes)
}

fn list(template: &Template, axis: SweepAxis) -> Option<&Vec<u32>> {
    match axis {
        SweepAxis::Layers => (template.site != Site::Embed).then_some(&template.layers),
        SweepAxis::Positions => Some(&template.positions),
        SweepAxis::Heads => template.heads.as_ref(),
    }
}

/// Layers, positions and heads that a template writes in one cell, at most.
fn extent(spec: &PatchSpec, t: &Template, depth: u64) -> [u64; 3] {
    let one_if_swept = |axis, n: usize| if spec.sweep.contains(&axis) { 1 } else { n as u64 };
    let layers =
        one_if_swept(SweepAxis::Layers, t.layers.len()).saturating_mul(u64::from(t.window)).min(depth);
    let positions = one_if_swept(SweepAxis::Positions, t.positions.len());
    let heads = one_if_swept(SweepAxis::Heads, t.heads.as_ref().map_or(1, Vec::len));
    [layers, positions, heads]
}

fn size(spec: &PatchSpec, templates: &[Template], axes: &[Axis], config: &ModelConfig) -> Size {
    let copies = if spec.controls.contains(&Control::SelfPatch) { 2 } else { 1 };
    let cells = axes.iter().fold(copies, |n: u64, axis| n.saturating_mul(axis.values.len() as u64));
    let (mut edits, mut written) = (0_u64, 0_u64);
    for t in templates {
        let [layers, positions, heads] = extent(spec, t, config.num_layers as u64);
        edits = edits.saturating_add(layers * heads);
        written = written.saturating_add(layers * heads * positions);
    }
    Size { cells, edits: cells.saturating_mul(edits), positions: cells.saturating_mul(written), at: "/sweep" }
}

/// Bounds the memory of constants, which every cell holds its own of.
fn check_constants(
    spec: &PatchSpec,
    templates: &[Template],
    cells: u64,
    facts: &dyn Facts,
    out: &mut Problems,
) {
    let config = facts.config();
    let limit = facts.limits().noise_elements;
    for (i, t) in templates.iter().enumerate() {
        if !matches!(t.op, OpPlan::Noise { .. } | OpPlan::Vector { .. }) {
            continue;
        }
        let [layers, positions, _] = extent(spec, t, config.num_layers as u64);
        let rows = cells.saturating_mul(layers * positions);
        let numbers = rows.saturating_mul(width(t.site, config) as u64);
        if numbers > limit {
            let detail = format!("up to {numbers} constants, the limit is {limit}");
            let fix = "write fewer layers, positions or cells";
            out.push(format!("/interventions/{i}"), code::LIMIT, detail, fix);
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
        } else {
            continue;
        };
        out.push(format!("/derive/{i}"), code::CONFLICT, detail, fix);
    }
}

struct Scene<'s> {
    spec: &'s PatchSpec,
    config: &'s ModelConfig,
    roots: &'s [RunId],
    reads: &'s [u32],
    base: usize,
}

fn grid(plan: &mut Plan, templates: &[Template], axes: Vec<Axis>, scene: &Scene<'_>) -> Grid {
    let cells: usize = axes.iter().map(|axis| axis.values.len()).product();
    let control = scene.spec.controls.contains(&Control::SelfPatch);
    let (base, read) = (scene.roots[scene.base], scene.reads[scene.base]);
    let read_of =
        |run: RunId| scene.roots.iter().position(|root| *root == run).map_or(read, |i| scene.reads[i]);
    let mut grid = Grid { axes, samples: 1, readouts: vec![], controls: vec![], trivial: vec![] };
    for cell in 0..cells {
        let mut chosen = templates.to_vec();
        let mut rest = cell;
        for (axis, kind) in grid.axes.iter().zip(&scene.spec.sweep).rev() {
            let index = rest % axis.values.len();
            rest /= axis.values.len();
            for template in &mut chosen {
                template.choose(*kind, index, width(template.site, scene.config));
            }
        }
        let edits: Vec<Edit> = chosen.iter().flat_map(|t| t.edits(scene.config, scene.roots)).collect();
        if control {
            let itself = edits.iter().map(|edit| Edit {
                op: Op::Replace(Source::Run { run: base, positions: edit.positions.clone() }),
                group: EditGroup::Control,
                ..edit.clone()
            });
            let run = plan.branch(base, itself.collect());
            grid.controls.push(plan.read(run, read));
        }
        let run = plan.branch(base, edits);
        grid.readouts.push(plan.read(run, read));
        grid.trivial.push(triviality(plan, run, read, read_of, scene.config.num_layers as u32));
    }
    grid
}
