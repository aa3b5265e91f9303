//! Causal traces to a plan: a clean run, corrupted runs (one per noise sample) and a branch per cell.

use std::sync::Arc;

use super::facts::Facts;
use super::layout::{Axis, Grid, Lowered, SigmaUsed, TraceLayout};
use super::noise::{NoiseKey, numpy_legacy, philox_row};
use super::prompts::{TokenRun, find};
use super::select;
use super::trivial::{judge, triviality};
use super::{Prepared, Size, admit, lint_effect_metrics, prepare, start};
use crate::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Source};
use crate::spec::corruption::{Gaussian, Method, Rng, Sigma, SigmaOf};
use crate::spec::named::Named;
use crate::spec::patch::Control;
use crate::spec::problem::{Problems, code};
use crate::spec::read::escape;
use crate::spec::select::Positions;
use crate::spec::site::Site;
use crate::spec::trace::{Direction, TraceSpec};

/// Fewer samples than this leave a standard error uncertain by more than a third of itself, `1 / sqrt(2 (n - 1))`.
const FEW_SAMPLES: u64 = 5;

/// An arm with indices.
struct ArmPlan {
    site: Site,
    window: u32,
    columns: Vec<Option<std::ops::Range<u32>>>,
    /// `[0]` at `embed`, which has no layer.
    layers: Vec<u32>,
}

/// How the corrupted run is made, with indices.
enum Corrupting {
    Noise { positions: Vec<u32>, std: f64 },
    Run { index: usize },
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
    let samples = samples(&spec, facts, out);
    let (Some(clean), Some(samples)) = (clean, samples) else { return None };
    let positions = select::positions(&spec.positions, &clean, "/positions", out);
    let corrupting = corrupting(&spec, &clean, samples, facts, &mut prepared, out);
    let (Some(positions), Some((corrupting, sigma))) = (positions, corrupting) else { return None };
    for (i, _) in spec.derive.iter().enumerate().filter(|(_, derive)| derive.needs_layers()) {
        if spec.arms.iter().all(|(_, arm)| arm.site == Site::Embed) {
            let detail = "no arm has layers";
            out.push(
                format!("/derive/{i}"),
                code::CONFLICT,
                detail,
                "add an arm at resid_post, or leave it out",
            );
        }
    }
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
    let (mut plan, roots, mut common) = start(&spec, &spec.experiment, prepared);
    let clean_readout = common.runs.0[clean_run].1.1;
    let (corrupted_positions, corrupted) = match &corrupting {
        Corrupting::Run { index } => {
            let (other, readout) = &common.runs.0[*index].1;
            let differ = (0..clean.len()).filter(|p| other.ids[*p as usize] != clean.ids[*p as usize]);
            (differ.collect(), vec![(roots[*index], *readout)])
        }
        Corrupting::Noise { positions, std } => {
            let gaussian = spec.gaussian().expect("BUG: noise comes from a gaussian corruption");
            let width = facts.config().hidden_size;
            let runs = noise_rows(gaussian, positions, *std, width).into_iter().map(|rows| {
                let edit = Edit {
                    at: Address { layer: 0, site: Site::Embed },
                    positions: positions.clone(),
                    columns: None,
                    op: Op::Add { source: Source::Constant(rows), coef: 1.0 },
                    group: EditGroup::Corruption,
                };
                let run = plan.branch(roots[clean_run], vec![edit]);
                (run, plan.read(run, clean.read))
            });
            (positions.clone(), runs.collect::<Vec<_>>())
        }
    };
    let scene = Scene {
        spec: &spec,
        clean: roots[clean_run],
        corrupted: &corrupted,
        read: clean.read,
        positions: &positions,
    };
    let grids = arms.map(|_, arm| grid(&mut plan, arm, &scene, depth));
    for (name, grid) in grids.iter() {
        let at = format!("/arms/{}", escape(name));
        judge(&at, &grid.trivial, experiment.allow_trivial, &mut common.lints, out);
    }
    let layout = TraceLayout {
        common,
        clean_run,
        clean: clean_readout,
        corrupted: corrupted.iter().map(|(_, readout)| *readout).collect(),
        corrupted_positions,
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

fn samples(spec: &TraceSpec, facts: &dyn Facts, out: &mut Problems) -> Option<u64> {
    let Some(gaussian) = spec.gaussian() else { return Some(1) };
    let limit = facts.limits().samples;
    if gaussian.samples > limit {
        let detail = format!("{} samples, the limit is {limit}", gaussian.samples);
        let fix = format!("ask for at most {limit}; 10 are usual");
        out.push("/corrupt/samples", code::LIMIT, detail, fix);
        return None;
    }
    Some(gaussian.samples)
}

/// The corruption with indices, and the sigma that it uses.
fn corrupting(
    spec: &TraceSpec,
    clean: &TokenRun,
    samples: u64,
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<(Corrupting, Option<SigmaUsed>)> {
    let gaussian = match &spec.corrupt.method {
        Method::Gaussian(gaussian) => gaussian,
        Method::Run { run } => {
            let other = find(run, "/corrupt/run", &spec.experiment, &prepared.runs, out)?;
            if *run == spec.corrupt.from {
                let detail = format!("{run:?} would be corrupted by itself");
                out.push("/corrupt/run", code::SELF_REFERENCE, detail, "name another run");
                return None;
            }
            if other.len() != clean.len() || other.read != clean.read {
                let (a, b) = (clean.len(), other.len());
                let detail = format!("{:?} has {a} tokens, {run:?} has {b}", spec.corrupt.from);
                out.push(
                    "/corrupt/run",
                    code::LENGTH_MISMATCH,
                    detail,
                    "choose a run of equal length, read at the same position",
                );
                return None;
            }
            return Some((Corrupting::Run { index: prepared.runs.place(run)? }, None));
        }
    };
    let positions = noisy_positions(gaussian, clean, prepared, out)?;
    let elements =
        samples.saturating_mul(positions.len() as u64).saturating_mul(facts.config().hidden_size as u64);
    if elements > facts.limits().noise_elements {
        let detail = format!("{elements} random numbers, the limit is {}", facts.limits().noise_elements);
        out.push("/corrupt/samples", code::LIMIT, detail, "choose fewer samples or fewer positions");
        return None;
    }
    if gaussian.samples == 1 {
        let detail = "one draw of noise has no error bar".to_owned();
        prepared.lints.warn("SINGLE_NOISE_SAMPLE", "/corrupt/samples", detail, "10 samples are usual");
    } else if gaussian.samples < FEW_SAMPLES {
        let detail = format!("standard errors from {} samples are hardly known themselves", gaussian.samples);
        prepared.lints.info("SMALL_N", "/corrupt/samples", detail, "10 samples are usual");
    }
    let ids: Vec<u32> = positions.iter().map(|p| clean.ids[*p as usize]).collect();
    let sigma = sigma(gaussian.sigma, &ids, "/corrupt/sigma", facts, out)?;
    Some((Corrupting::Noise { positions, std: sigma.abs }, Some(sigma)))
}

fn noisy_positions(
    gaussian: &Gaussian,
    clean: &TokenRun,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Vec<u32>> {
    const AT: &str = "/corrupt/positions";
    if let Positions::Span { span, .. } = &gaussian.positions
        && span == "subject"
        && clean.spans.get(span).is_none()
    {
        let detail = "the run has no span `subject` to put noise on";
        let fix = "name the subject: \"subject\": \"its text\" (long form: in the run's `spans`), or give positions";
        out.push(AT, code::MISSING, detail, fix);
        return None;
    }
    let mut positions = select::positions(&gaussian.positions, clean, AT, out)?;
    let bos = clean.has_bos && positions.contains(&0);
    if bos && gaussian.include_bos {
        let detail = "noise on BOS moves every later position and can raise the answer".to_owned();
        prepared.lints.warn("BOS_CORRUPTED", AT, detail, "leave BOS out");
    } else if bos && matches!(gaussian.positions, Positions::ALL) {
        positions.retain(|p| *p != 0);
    } else if bos {
        let fix = "leave out position 0, or set \"include_bos\": true";
        out.push(AT, code::CONFLICT, "position 0 is BOS", fix);
        return None;
    }
    // NumPy's stream follows positions in order.
    positions.sort_unstable();
    if positions.is_empty() {
        out.push(AT, code::EMPTY, "no position but BOS", "name tokens of the prompt");
        return None;
    }
    Some(positions)
}

/// The standard deviation that a specification means for the tokens `ids`, if noise of it fits `f32`.
pub(super) fn sigma(
    spec: Sigma,
    ids: &[u32],
    at: &str,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<SigmaUsed> {
    let relative = |k: f64, of, reference: f64| SigmaUsed {
        abs: k * reference,
        k: Some(k),
        of: Some(of),
        reference: Some(reference),
    };
    let sigma = match spec {
        Sigma::Absolute { abs } => SigmaUsed { abs, k: None, of: None, reference: None },
        Sigma::Relative { k, of: SigmaOf::Vocab } => relative(k, "vocab", facts.vocab_sigma()),
        Sigma::Relative { k, of: SigmaOf::Subjects } => {
            relative(k, "subjects", deviation(&facts.embedding(ids)))
        }
    };
    // A draw is never a hundred deviations away.
    let drawn = (100.0 * sigma.abs) as f32;
    if sigma.abs as f32 > 0.0 && drawn.is_finite() {
        return Some(sigma);
    }
    let detail = format!("a standard deviation of {}", sigma.abs);
    out.push(at, code::OUT_OF_RANGE, detail, "choose another k, or write {\"abs\": 0.1}");
    None
}

/// Standard deviation over all numbers, with n - 1 as in ROME's `collect_embedding_std`.
fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0)).sqrt()
}

/// Noise of every sample, `[positions, width]` each.
pub(super) fn noise_rows(gaussian: &Gaussian, positions: &[u32], std: f64, width: usize) -> Vec<Arc<[f32]>> {
    let scaled = |values: &[f64]| -> Arc<[f32]> { values.iter().map(|x| (x * std) as f32).collect() };
    let samples = gaussian.samples as usize;
    match gaussian.rng {
        Rng::NumpyLegacy => {
            let seed = u32::try_from(gaussian.seed).expect("BUG: checked when it was read");
            let all = numpy_legacy(seed, samples * positions.len() * width);
            all.chunks(positions.len() * width).map(scaled).collect()
        }
        Rng::Philox => (0..samples as u32)
            .map(|sample| {
                let key = |position| NoiseKey { seed: gaussian.seed, stream: 0, sample, position };
                let rows: Vec<f64> = positions.iter().flat_map(|p| philox_row(key(*p), width)).collect();
                scaled(&rows)
            })
            .collect(),
    }
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
        group,
    };
    layers.flat_map(|layer| arm.columns.iter().map(move |columns| edit(layer, columns))).collect()
}
