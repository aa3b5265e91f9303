//! Causal traces to a plan: a clean run, corrupted runs (one per noise sample) and a branch per cell.

use super::control::Controls;
use super::corrupt;
use super::derive;
use super::facts::Facts;
use super::knockout;
use super::layout::{Axis, Grid, Lowered, TraceLayout};
use super::prompts::{Span, TokenRun, find};
use super::select;
use super::template::{OpPlan, Template, keys};
use super::trivial::{judge, triviality};
use super::{Prepared, Size, Started, admit, lint_effect_metrics, prepare, start, twins};
use crate::model::config::ModelConfig;
use crate::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::named::Named;
use crate::spec::patch::Control;
use crate::spec::problem::{Problems, code};
use crate::spec::read::escape;
use crate::spec::site::Site;
use crate::spec::trace::{Direction, TraceSpec};

/// An arm with indices.
struct ArmPlan {
    site: Site,
    window: u32,
    columns: Vec<Option<std::ops::Range<u32>>>,
    /// `[0]` at sites without layers.
    layers: Vec<u32>,
    /// Positions restored together; `None`: each position of the map in turn.
    joint: Option<Vec<u32>>,
    /// Sites held at the unrestored run's values above.
    sever: Vec<Site>,
    /// What is cut in place of restoring anything, of any layer and position.
    cut: Option<Template>,
}

pub(super) fn lower(spec: TraceSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<TraceLayout>> {
    let experiment = &spec.experiment;
    let mut prepared = prepare(experiment, facts, out);
    lint_effect_metrics(&mut prepared);
    let layers = select::layers(&spec.layers, facts.config().num_layers as u32, "/layers", out);
    if let Some(name) = spec.expect_top1.as_deref().filter(|name| experiment.targets.get(name).is_none()) {
        super::measure::unknown_target(name, "/expect_top1", &experiment.targets, out);
    }
    let clean = find(&spec.corrupt.from, "/corrupt/from", experiment, &prepared.runs, out).cloned();
    let arms = arms(&spec, layers.as_deref().unwrap_or_default(), clean.as_ref(), facts, &mut prepared, out);
    let samples = corrupt::samples(&spec.corrupt.method, facts, out);
    let (Some(clean), Some(samples)) = (clean, samples) else { return None };
    let positions = select::positions(&spec.positions, &clean, "/positions", out);
    let corrupting = corrupt::resolve(&spec.corrupt, experiment, &clean, samples, facts, &mut prepared, out);
    let (Some(positions), Some(corrupting)) = (positions, corrupting) else { return None };
    check_cuts(&arms, &positions, &prepared, &spec.corrupt.from, facts.config(), out);
    for (name, arm) in arms.iter() {
        let at = format!("/arms/{}", escape(name));
        knockout::lint(arm.cut.as_slice(), &at, &prepared.measures, &mut prepared.lints);
    }
    for (i, control) in spec.controls.iter().enumerate() {
        if *control != Control::SelfPatch && arms.iter().any(|(_, arm)| arm.cut.is_some()) {
            let detail = "an edge that is cut reads no run and moves no row: the control would repeat it";
            let fix =
                "cut edges from other keys to compare with, in an arm of its own, or leave the control out";
            out.push(format!("/controls/{i}"), code::CONFLICT, detail, fix);
        }
    }
    for (i, _) in spec.derive.iter().enumerate().filter(|(_, derive)| derive.needs_layers()) {
        if spec.arms.iter().all(|(_, arm)| !arm.site.has_layer()) {
            let fix = "add an arm at resid_post, or leave it out";
            out.push(format!("/derive/{i}"), code::CONFLICT, "no arm has layers", fix);
        }
    }
    let size = size(&spec, &arms, &positions, samples, facts.config());
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
    let Started { mut plan, roots, prelude, mut common } = start(&spec, &spec.experiment, prepared, facts);
    let clean_readout = common.runs.0[clean_run].1.1;
    let readouts: Vec<(RunId, usize)> =
        roots.iter().zip(&common.runs.0).map(|(root, (_, (_, readout)))| (*root, *readout)).collect();
    let sigma = corrupting.sigma();
    let corrupted =
        corrupting.build(&spec.corrupt.method, &clean, roots[clean_run], &readouts, &mut plan, facts);
    let scene = Scene {
        spec: &spec,
        clean: roots[clean_run],
        corrupted: &corrupted.runs,
        read: clean.read,
        positions: &positions,
    };
    let controls = Controls::new(&spec.controls, &common.runs, &roots, &mut plan, facts);
    let grids = arms.map(|_, arm| grid(&mut plan, arm, &scene, &controls, facts.config()));
    twins(&mut plan, &mut common, clean_run, roots[clean_run]);
    for (name, grid) in grids.iter() {
        let at = format!("/arms/{}", escape(name));
        judge(&at, &grid.trivial, experiment.allow_trivial, &mut common.lints, out);
    }
    let layout = TraceLayout {
        common,
        clean_run,
        clean: clean_readout,
        corrupted: corrupted.runs.iter().map(|(_, readout)| *readout).collect(),
        corrupted_positions: corrupted.positions,
        replaced: corrupted.replaced,
        subject: clean.spans.get("subject").and_then(Span::range),
        sigma,
        arms: grids,
        spec,
    };
    Some(Lowered { prelude: prelude.into_plan(), plan, layout })
}

fn arms(
    spec: &TraceSpec,
    layers: &[u32],
    clean: Option<&TokenRun>,
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Named<ArmPlan> {
    let (config, keys) = (facts.config(), keys(&prepared.runs));
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
        select::site(arm.site, config, &format!("{at}/site"), out);
        let (site, written) = (arm.site, arm.site.written_as());
        let n = config.site_heads(written);
        let part = config.site_width(written, keys) / n.unwrap_or(1);
        let heads = match (&arm.heads, n) {
            (Some(heads), Some(n)) => select::heads(heads, n as u32, &format!("{at}/heads"), out),
            _ => None,
        };
        if arm.site == Site::HeadOut && arm.dims.is_some() {
            let detail = "a head's output is restored as a whole";
            let fix = "use attn_out for columns of the residual stream, or z for a head's own";
            out.push(format!("{at}/dims"), code::NOT_SUPPORTED, detail, fix);
        }
        let dims = arm.dims.as_ref();
        let dims = dims.and_then(|dims| select::dims(dims, part as u32, &format!("{at}/dims"), out));
        let joint = arm.positions.as_ref();
        let joint = joint.and_then(|p| select::positions(p, clean?, &format!("{at}/positions"), out));
        let columns = select::columns(heads.as_deref(), dims.as_deref(), part, n.unwrap_or(1));
        let layers = if site.has_layer() { layers.to_vec() } else { vec![0] };
        let sever = arm.sever.clone();
        let keys_cut = arm.keys.as_ref();
        let keys_cut = keys_cut.and_then(|keys| select::positions(keys, clean?, &format!("{at}/keys"), out));
        let cut = keys_cut.map(|keys_cut| Template {
            at: site,
            site,
            window: arm.window,
            layers: Vec::new(),
            positions: Vec::new(),
            heads,
            dims: Some(keys_cut),
            keys,
            frozen: false,
            above: false,
            op: OpPlan::Cut,
        });
        (name.to_owned(), ArmPlan { site, window: arm.window, columns, layers, joint, sever, cut })
    });
    arms.collect()
}

/// Refuses knockouts that cut nothing, or all that a position attends to.
fn check_cuts(
    arms: &Named<ArmPlan>,
    positions: &[u32],
    prepared: &Prepared,
    clean: &str,
    config: &ModelConfig,
    out: &mut Problems,
) {
    let run = prepared.runs.place(clean);
    for (name, arm) in arms.iter() {
        let Some(cut) = &arm.cut else { continue };
        let at = format!("/arms/{}/keys", escape(name));
        let written = Template {
            layers: arm.layers.clone(),
            positions: arm.joint.clone().unwrap_or_else(|| positions.to_vec()),
            ..cut.clone()
        };
        if written.cut_edges(config).is_empty() {
            let detail = "every key named comes after every position: there is no such edge";
            out.push(at, code::EMPTY, detail, "name keys at or before the positions");
            continue;
        }
        let inherited = run.map(|run| derive::inherited(&prepared.derived, run)).unwrap_or_default();
        if let Some(blind) = knockout::blind(&[written], &inherited, config) {
            blind.report(&at, out);
        }
    }
}

fn size(
    spec: &TraceSpec,
    arms: &Named<ArmPlan>,
    positions: &[u32],
    samples: u64,
    config: &ModelConfig,
) -> Size {
    let depth = config.num_layers as u32;
    let copies = 1 + spec.controls.len() as u64;
    let mut size = Size { cells: 0, edits: 0, positions: 0, at: "/arms" };
    for (_, arm) in arms.iter() {
        let (along, together) = arm.joint.as_ref().map_or((positions.len(), 1), |joint| (1, joint.len()));
        let cells = (arm.layers.len() as u64)
            .saturating_mul(along as u64)
            .saturating_mul(samples)
            .saturating_mul(copies);
        let severed = arm.sever.len() as u64 * u64::from(depth);
        let columns = arm.cut.as_ref().map_or(arm.columns.len(), |cut| {
            let positions = arm.joint.as_deref().unwrap_or(positions);
            Template { positions: positions.to_vec(), ..cut.clone() }.cut_edges(config).len()
        });
        let per_cell = u64::from(arm.window.min(depth)).saturating_mul(columns as u64) + severed;
        let edits = cells.saturating_mul(per_cell);
        size.cells = size.cells.saturating_add(cells);
        size.edits = size.edits.saturating_add(edits);
        size.positions = size.positions.saturating_add(edits.saturating_mul(together as u64));
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

fn grid(
    plan: &mut Plan,
    arm: &ArmPlan,
    scene: &Scene<'_>,
    controls: &Controls,
    config: &ModelConfig,
) -> Grid {
    let depth = config.num_layers as u32;
    let mut axes = Vec::new();
    if arm.site.has_layer() {
        axes.push(Axis { name: "layer", values: arm.layers.clone() });
    }
    let cells: Vec<Vec<u32>> = if let Some(joint) = &arm.joint {
        vec![joint.clone()]
    } else {
        axes.push(Axis { name: "position", values: scene.positions.to_vec() });
        scene.positions.iter().map(|position| vec![*position]).collect()
    };
    let samples = scene.corrupted.len();
    let mut grid = Grid { axes, samples, readouts: vec![], controls: controls.empty(), trivial: vec![] };
    for layer in &arm.layers {
        for positions in &cells {
            let number = grid.trivial.len() as u32;
            for (sample, (corrupted, _)) in scene.corrupted.iter().enumerate() {
                let (base, source) = match scene.spec.direction {
                    Direction::Denoising => (*corrupted, scene.clean),
                    Direction::Noising => (scene.clean, *corrupted),
                };
                let edits = cell_edits(arm, *layer, positions, source, base, config);
                controls.add(plan, config, base, &edits, number, scene.read, &mut grid.controls);
                let cell = plan.branch(base, edits);
                grid.readouts.push(plan.read(cell, scene.read));
                if sample == 0 {
                    grid.trivial.push(triviality(plan, cell, scene.read, |_| scene.read, depth));
                }
            }
        }
    }
    grid
}

/// Edits of one cell: what is restored from `source`, or cut, and what is held at the values of `base` in the layers above.
fn cell_edits(
    arm: &ArmPlan,
    layer: u32,
    positions: &[u32],
    source: RunId,
    base: RunId,
    config: &ModelConfig,
) -> Vec<Edit> {
    let depth = config.num_layers as u32;
    let layers = match arm.site {
        Site::Embed => 0..1,
        Site::FinalNorm | Site::Logits => depth..depth + 1,
        _ => select::window(layer, arm.window, depth),
    };
    let above = if arm.site == Site::Embed { 0..depth } else { layers.end.min(depth)..depth };
    let copy = |layer, site, columns: Option<std::ops::Range<u32>>, run| {
        let op = Op::Replace(Source::Run { run, positions: positions.to_vec() });
        let edit = Edit::new(Address { layer, site }, positions.to_vec(), op, EditGroup::Patch);
        Edit { columns, ..edit }
    };
    let written: Vec<Edit> = if let Some(cut) = &arm.cut {
        Template { positions: positions.to_vec(), ..cut.clone() }.cuts(config, &layers.collect())
    } else {
        let restored = layers.flat_map(|layer| {
            arm.columns.iter().map(move |columns| copy(layer, arm.site, columns.clone(), source))
        });
        restored.collect()
    };
    let held = above.flat_map(|layer| arm.sever.iter().map(move |site| copy(layer, *site, None, base)));
    written.into_iter().chain(held).collect()
}
