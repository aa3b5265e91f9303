//! Patch runs to a plan: every run as a root, and a branch of the base per cell.

use super::control::Controls;
use super::facts::Facts;
use super::layout::{Axis, Grid, Lowered, PatchLayout};
use super::prompts::find;
use super::source::ValuesPlan;
use super::template::{Builder, OpPlan, Scope, Template, keys, template};
use super::trivial::{judge, triviality};
use super::{Size, Started, admit, derive, lint_effect_metrics, prepare, start, twins};
use crate::model::config::ModelConfig;
use crate::plan::{Plan, RunId};
use crate::spec::derive::Derive;
use crate::spec::patch::{Control, PatchSpec, SweepAxis};
use crate::spec::problem::{Problems, code};

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
    let scope = Scope {
        at: "/interventions".to_owned(),
        base: &spec.base,
        run: &base,
        interventions: &spec.interventions,
        sweep: &spec.sweep,
        experiment,
        runs: &prepared.runs,
        keys: keys(&prepared.runs),
    };
    let templates: Vec<Option<Template>> =
        (0..spec.interventions.len()).map(|i| template(i, &scope, facts, &mut lints, out)).collect();
    prepared.lints = lints;
    let mut templates: Vec<Template> = templates.into_iter().collect::<Option<_>>()?;
    check_controls(&spec, &templates, out);
    let axes = axes(&spec, &templates, out)?;
    let size = size(&spec, &templates, &axes, facts.config());
    admit(&size, experiment.runs.len() as u64, &prepared, experiment.read.topk, facts.limits(), out);
    check_constants(&spec, &templates, size.cells, facts, out);
    check_derive(&spec, out);
    if !out.is_empty() {
        return None;
    }
    for (i, template) in templates.iter_mut().enumerate() {
        template.load(&format!("/interventions/{i}"), &spec.sweep, facts.config(), out);
    }
    if !out.is_empty() {
        return None;
    }

    let base_index = prepared.runs.place(&spec.base)?;
    let Started { mut plan, roots, mut prelude, mut common } =
        start(&spec, &spec.experiment, prepared, facts);
    let reads: Vec<u32> = common.runs.0.iter().map(|(_, (run, _))| run.read).collect();
    let controls = Controls::new(&spec.controls, &common.runs, &roots, &mut plan, facts);
    let scene = Scene { spec: &spec, roots: &roots, reads: &reads, base: base_index };
    let mut builder = Builder { config: facts.config(), roots: &roots, prelude: &mut prelude };
    let grid = grid(&mut plan, &templates, axes, &scene, &controls, &mut builder);
    twins(&mut plan, &mut common, base_index, roots[base_index]);
    judge("/interventions", &grid.trivial, experiment.allow_trivial, &mut common.lints, out);
    let readout = |name: &str| common.runs.get(name).map(|(_, readout)| *readout);
    let normalise = spec.normalise.as_ref().and_then(|n| Some((readout(&n.zero)?, readout(&n.one)?)));
    let base = common.runs.0[base_index].1.1;
    Some(Lowered {
        prelude: prelude.into_plan(),
        plan,
        layout: PatchLayout { spec, common, base, normalise, grid },
    })
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
        _ if template.frozen => None,
        SweepAxis::Layers => template.site.has_layer().then_some(&template.layers),
        SweepAxis::Positions => Some(&template.positions),
        SweepAxis::Heads => template.heads.as_ref(),
        SweepAxis::Dims => template.dims.as_ref(),
    }
}

/// Layers, positions and edits per layer of a template in one cell, at most.
fn extent(spec: &PatchSpec, t: &Template, config: &ModelConfig) -> [u64; 3] {
    let one_if_swept = |axis, n: usize| if spec.sweep.contains(&axis) && !t.frozen { 1 } else { n as u64 };
    let layers = one_if_swept(SweepAxis::Layers, t.layers.len()).saturating_mul(u64::from(t.window));
    let positions = one_if_swept(SweepAxis::Positions, t.positions.len());
    let mut one = t.clone();
    for axis in spec.sweep.iter().filter(|axis| matches!(axis, SweepAxis::Heads | SweepAxis::Dims)) {
        one.choose(*axis, 0, config);
    }
    [layers.min(config.num_layers as u64), positions, one.edits_per_layer(config) as u64]
}

fn size(spec: &PatchSpec, templates: &[Template], axes: &[Axis], config: &ModelConfig) -> Size {
    let copies = 1 + spec.controls.len() as u64;
    let cells = axes.iter().fold(copies, |n: u64, axis| n.saturating_mul(axis.values.len() as u64));
    let (mut edits, mut written) = (0_u64, 0_u64);
    for t in templates {
        let [layers, positions, columns] = extent(spec, t, config);
        edits = edits.saturating_add(layers.saturating_mul(columns));
        written = written.saturating_add(layers.saturating_mul(columns).saturating_mul(positions));
    }
    Size { cells, edits: cells.saturating_mul(edits), positions: cells.saturating_mul(written), at: "/sweep" }
}

/// Refuses controls that would only repeat the patch: those of positions and prompts, where no other run is read.
fn check_controls(spec: &PatchSpec, templates: &[Template], out: &mut Problems) {
    for (i, control) in spec.controls.iter().enumerate() {
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

/// Bounds the memory of constants: every cell holds its own of noise and vectors, all share those of stored activations.
fn check_constants(
    spec: &PatchSpec,
    templates: &[Template],
    cells: u64,
    facts: &dyn Facts,
    out: &mut Problems,
) {
    let config = facts.config();
    let limit = facts.limits().noise_elements;
    let mut stored = 0_u64;
    for (i, t) in templates.iter().enumerate() {
        let numbers = match &t.op {
            OpPlan::Write { values: ValuesPlan::Given(given), .. } => {
                stored = stored.saturating_add(given.numbers());
                stored
            }
            OpPlan::Write { values: ValuesPlan::Run { .. }, .. }
            | OpPlan::Scale(_)
            | OpPlan::Zero
            | OpPlan::ProjectOut(_) => 0,
            OpPlan::Noise { .. } | OpPlan::Write { .. } => {
                let [layers, positions, _] = extent(spec, t, config);
                // One head or column of many is written in a cell of a sweep over them.
                let mut one = t.clone();
                for axis in &spec.sweep {
                    one.choose(*axis, 0, config);
                }
                let rows = cells.saturating_mul(layers * positions);
                rows.saturating_mul(one.columns_written(config) as u64)
            }
        };
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
    roots: &'s [RunId],
    reads: &'s [u32],
    base: usize,
}

fn grid(
    plan: &mut Plan,
    templates: &[Template],
    axes: Vec<Axis>,
    scene: &Scene<'_>,
    controls: &Controls,
    builder: &mut Builder<'_>,
) -> Grid {
    let layers = builder.config.num_layers as u32;
    let cells: usize = axes.iter().map(|axis| axis.values.len()).product();
    let (base, read) = (scene.roots[scene.base], scene.reads[scene.base]);
    let read_of =
        |run: RunId| scene.roots.iter().position(|root| *root == run).map_or(read, |i| scene.reads[i]);
    let mut grid = Grid { axes, samples: 1, readouts: vec![], controls: controls.empty(), trivial: vec![] };
    for cell in 0..cells {
        let mut chosen = templates.to_vec();
        let mut rest = cell;
        for (axis, kind) in grid.axes.iter().zip(&scene.spec.sweep).rev() {
            let index = rest % axis.values.len();
            rest /= axis.values.len();
            for template in &mut chosen {
                template.choose(*kind, index, builder.config);
            }
        }
        let edits = derive::edits(&chosen, builder);
        controls.add(plan, builder.config, base, &edits, cell as u32, read, &mut grid.controls);
        let run = plan.branch(base, edits);
        grid.readouts.push(plan.read(run, read));
        grid.trivial.push(triviality(plan, run, read, read_of, layers));
    }
    grid
}
