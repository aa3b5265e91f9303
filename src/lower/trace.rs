//! Causal traces to a plan: a clean run, corrupted runs (one per noise sample) and a branch per cell.

use super::corrupt;
use super::facts::Facts;
use super::layout::{Axis, Grid, Lowered, TraceLayout};
use super::prompts::find;
use super::select;
use super::trivial::triviality;
use super::{Prepared, Size, admit, lint_effect_metrics, prepare, start};
use crate::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::named::Named;
use crate::spec::patch::Control;
use crate::spec::problem::Problems;
use crate::spec::read::escape;
use crate::spec::site::Site;
use crate::spec::trace::{Direction, TraceSpec};

/// An arm with indices.
struct ArmPlan {
    site: Site,
    window: u32,
    columns: Vec<Option<std::ops::Range<u32>>>,
    /// `[0]` at `embed`, which has no layer.
    layers: Vec<u32>,
}

pub(super) fn lower(spec: TraceSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<TraceLayout>> {
    let experiment = &spec.experiment;
    let mut prepared = prepare(experiment, facts, out);
    lint_effect_metrics(&mut prepared);
    let layers = select::layers(&spec.layers, facts.config().num_layers as u32, "/layers", out);
    let arms = arms(&spec, layers.as_deref().unwrap_or_default(), facts, &mut prepared, out);
    if let Some(name) = spec.expect_top1.as_deref().filter(|name| experiment.targets.get(name).is_none()) {
        super::measure::unknown_target(name, "/expect_top1", &experiment.targets, out);
    }
    let clean = find(&spec.corrupt.from, "/corrupt/from", experiment, &prepared.runs, out).cloned();
    let samples = corrupt::samples(&spec.corrupt.method, facts, out);
    let (Some(clean), Some(samples)) = (clean, samples) else { return None };
    let positions = select::positions(&spec.positions, &clean, "/positions", out);
    let corrupting = corrupt::resolve(&spec, &clean, samples, facts, &mut prepared, out);
    let (Some(positions), Some(corrupting)) = (positions, corrupting) else { return None };
    let depth = facts.config().num_layers as u32;
    let size = size(&spec, &arms, positions.len(), samples, depth);
    admit(
        &size,
        experiment.runs.len() as u64 + samples,
        &prepared,
        experiment.read.topk,
        facts.limits(),
        out,
    );
    if !out.is_empty() {
        return None;
    }

    let clean_run = prepared.runs.place(&spec.corrupt.from)?;
    let (mut plan, roots, common) = start(&spec, &spec.experiment, prepared);
    let clean_readout = common.runs.0[clean_run].1.1;
    let readouts: Vec<(RunId, usize)> =
        roots.iter().zip(&common.runs.0).map(|(root, (_, (_, readout)))| (*root, *readout)).collect();
    let sigma = corrupting.sigma();
    let corrupted = corrupting.build(&spec, &clean, roots[clean_run], &readouts, &mut plan, facts);
    let scene = Scene {
        spec: &spec,
        clean: roots[clean_run],
        corrupted: &corrupted.runs,
        read: clean.read,
        positions: &positions,
    };
    let grids = arms.map(|_, arm| grid(&mut plan, arm, &scene, depth));
    let layout = TraceLayout {
        common,
        clean_run,
        clean: clean_readout,
        corrupted: corrupted.runs.iter().map(|(_, readout)| *readout).collect(),
        corrupted_positions: corrupted.positions,
        replaced: corrupted.replaced,
        subject: clean.spans.get("subject").cloned(),
        sigma,
        arms: grids,
        spec,
    };
    Some(Lowered { plan, layout })
}

fn arms(
    spec: &TraceSpec,
    layers: &[u32],
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Named<ArmPlan> {
    let config = facts.config();
    let arms = spec.arms.iter().map(|(name, arm)| {
        let at = format!("/arms/{}", escape(name));
        if arm.window as usize > config.num_layers {
            let detail = format!("a window of {} layers on {} layers", arm.window, config.num_layers);
            prepared.lints.warn(
                "WINDOW_EXCEEDS_MODEL",
                format!("{at}/window"),
                detail,
                "choose a smaller window",
            );
        }
        let heads = match &arm.heads {
            Some(heads) => select::heads(heads, config.num_heads as u32, &format!("{at}/heads"), out),
            None => None,
        };
        let columns = select::columns(heads.as_deref(), config.head_dim, config.num_heads);
        let layers = if arm.site == Site::Embed { vec![0] } else { layers.to_vec() };
        (name.to_owned(), ArmPlan { site: arm.site, window: arm.window, columns, layers })
    });
    arms.collect()
}

fn size(spec: &TraceSpec, arms: &Named<ArmPlan>, positions: usize, samples: u64, depth: u32) -> Size {
    let copies = if spec.controls.contains(&Control::SelfPatch) { 2 } else { 1 };
    let mut size = Size { cells: 0, edits: 0, positions: 0, at: "/arms" };
    for (_, arm) in arms.iter() {
        let cells = (arm.layers.len() as u64)
            .saturating_mul(positions as u64)
            .saturating_mul(samples)
            .saturating_mul(copies);
        let per_cell = u64::from(arm.window.min(depth)).saturating_mul(arm.columns.len() as u64);
        size.cells = size.cells.saturating_add(cells);
        size.edits = size.edits.saturating_add(cells.saturating_mul(per_cell));
        size.positions = size.edits;
    }
    size
}

/// What every cell of a trace is made from.
struct Scene<'s> {
    spec: &'s TraceSpec,
    clean: RunId,
    /// Each sample's corrupted run and its readout.
    corrupted: &'s [(RunId, usize)],
    read: u32,
    positions: &'s [u32],
}

fn grid(plan: &mut Plan, arm: &ArmPlan, scene: &Scene<'_>, depth: u32) -> Grid {
    let mut axes = Vec::new();
    if arm.site != Site::Embed {
        axes.push(Axis { name: "layer", values: arm.layers.clone() });
    }
    axes.push(Axis { name: "position", values: scene.positions.to_vec() });
    let control = scene.spec.controls.contains(&Control::SelfPatch);
    let mut grid =
        Grid { axes, samples: scene.corrupted.len(), readouts: vec![], controls: vec![], trivial: vec![] };
    for layer in &arm.layers {
        for position in scene.positions {
            for (sample, (corrupted, _)) in scene.corrupted.iter().enumerate() {
                let (base, source) = match scene.spec.direction {
                    Direction::Denoising => (*corrupted, scene.clean),
                    Direction::Noising => (scene.clean, *corrupted),
                };
                let cell =
                    plan.branch(base, cell_edits(arm, *layer, *position, source, depth, EditGroup::Patch));
                grid.readouts.push(plan.read(cell, scene.read));
                if sample == 0 {
                    grid.trivial.push(triviality(plan, cell, scene.read, |_| scene.read, depth));
                }
                if control {
                    let edits = cell_edits(arm, *layer, *position, base, depth, EditGroup::Control);
                    let run = plan.branch(base, edits);
                    grid.controls.push(plan.read(run, scene.read));
                }
            }
        }
    }
    grid
}

fn cell_edits(
    arm: &ArmPlan,
    layer: u32,
    position: u32,
    source: RunId,
    depth: u32,
    group: EditGroup,
) -> Vec<Edit> {
    let layers = if arm.site == Site::Embed { 0..1 } else { select::window(layer, arm.window, depth) };
    let edit = |layer, columns: &Option<std::ops::Range<u32>>| Edit {
        at: Address { layer, site: arm.site },
        positions: vec![position],
        columns: columns.clone(),
        op: Op::Replace(Source::Run { run: source, positions: vec![position] }),
        instead: None,
        group,
    };
    layers.flat_map(|layer| arm.columns.iter().map(move |columns| edit(layer, columns))).collect()
}
