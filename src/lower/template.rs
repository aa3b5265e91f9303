//! An intervention resolved against its runs: indices, values and the edits of one cell.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::Prepared;
use super::facts::Facts;
use super::given::{Given, Wanted};
use super::lint::Lints;
use super::noise::{NoiseKey, numpy_legacy, philox_row};
use super::prompts::{TokenRun, find};
use super::run::width;
use super::select;
use crate::model::config::ModelConfig;
use crate::plan::{Address, Edit, EditGroup, Op, RunId, Source};
use crate::spec::corruption::{Rng, Sigma};
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::patch::{PatchSpec, SweepAxis};
use crate::spec::problem::{Problems, code};
use crate::spec::select::Positions;
use crate::spec::site::Site;

/// An intervention with indices. A list of one on a swept axis takes part in every cell.
#[derive(Clone)]
pub(super) struct Template {
    /// Site written.
    pub site: Site,
    /// Layers taken together around each.
    pub window: u32,
    /// Layers; `[0]` at `embed`.
    pub layers: Vec<u32>,
    /// Positions written.
    pub positions: Vec<u32>,
    /// Heads written; `None` for the whole width.
    pub heads: Option<Vec<u32>>,
    /// What is written.
    pub op: OpPlan,
}

#[derive(Clone)]
pub(super) enum OpPlan {
    Copy {
        run: usize,
        positions: Vec<u32>,
        coef: Option<f32>,
    },
    /// One row, of the site's width or a head's.
    Vector {
        row: Arc<[f32]>,
        coef: Option<f32>,
    },
    /// Rows of stored activations.
    Given {
        rows: Given,
        coef: Option<f32>,
    },
    Scale(f32),
    Zero,
    /// Standard deviation, seed, and `NumPy`'s rows for all positions if that is the generator.
    Noise {
        std: f64,
        seed: u64,
        stream: u32,
        numpy: Option<Arc<[f64]>>,
    },
}
/// Resolves the `i`th intervention.
pub(super) fn template(
    i: usize,
    spec: &PatchSpec,
    base: &TokenRun,
    prepared: &Prepared,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<Template> {
    let at = format!("/interventions/{i}");
    let intervention = &spec.interventions[i];
    let config = facts.config();
    let depth = config.num_layers as u32;
    let layers = match &intervention.layers {
        Some(layers) => select::layers(layers, depth, &format!("{at}/layers"), out),
        None => Some(vec![0]),
    };
    if intervention.window > depth {
        let detail = format!("a window of {} layers on {depth} layers", intervention.window);
        lints.warn("WINDOW_EXCEEDS_MODEL", format!("{at}/window"), detail, "choose a smaller window");
    }
    let positions = select::positions(&intervention.positions, base, &format!("{at}/positions"), out);
    let swept = spec.sweep.contains(&SweepAxis::Heads) && intervention.site.has_heads();
    let heads = match &intervention.heads {
        Some(heads) => Some(select::heads(heads, config.num_heads as u32, &format!("{at}/heads"), out)?),
        None => swept.then(|| (0..config.num_heads as u32).collect()),
    };
    let (layers, positions) = (layers?, positions?);
    let place = Place {
        at: &at,
        intervention,
        base,
        layers: &layers,
        positions: &positions,
        heads: heads.as_deref(),
    };
    let op = op(&place, spec, prepared, facts, lints, out)?;
    Some(Template { site: intervention.site, window: intervention.window, layers, positions, heads, op })
}

/// An intervention whose destination is resolved.
struct Place<'p> {
    at: &'p str,
    intervention: &'p Intervention,
    base: &'p TokenRun,
    layers: &'p [u32],
    positions: &'p [u32],
    heads: Option<&'p [u32]>,
}

fn op(
    place: &Place<'_>,
    spec: &PatchSpec,
    prepared: &Prepared,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<OpPlan> {
    let maps = matches!(place.intervention.positions, Positions::Map { .. });
    let copies = matches!(
        &place.intervention.op,
        OpSpec::Replace { source: SourceSpec::Run { .. } }
            | OpSpec::Add { source: SourceSpec::Run { .. }, .. }
    );
    if maps && !copies {
        let at = format!("{}/positions/map", place.at);
        out.push(at, code::CONFLICT, "a map needs a run to read from", "list the destinations instead");
        return None;
    }
    match &place.intervention.op {
        OpSpec::Replace { source } => source_op(place, source, None, spec, prepared, facts, lints, out),
        OpSpec::Add { source, coef } => {
            source_op(place, source, Some(*coef as f32), spec, prepared, facts, lints, out)
        }
        OpSpec::Scale { factor } => Some(OpPlan::Scale(*factor as f32)),
        OpSpec::Zero => Some(OpPlan::Zero),
        OpSpec::Noise { sigma, seed, rng } => {
            if matches!(sigma, Sigma::Relative { .. }) && place.intervention.site != Site::Embed {
                let detail = "k counts standard deviations of embeddings";
                out.push(
                    format!("{}/sigma", place.at),
                    code::CONFLICT,
                    detail,
                    "write {\"abs\": 0.1}, or use site embed",
                );
                return None;
            }
            let ids: Vec<u32> = place.positions.iter().map(|p| place.base.ids[*p as usize]).collect();
            let std = super::trace::sigma(*sigma, &ids, &format!("{}/sigma", place.at), facts, out)?.abs;
            let site_width = width(place.intervention.site, facts.config());
            let numbers = place.positions.len() as u64 * site_width as u64;
            if numbers > facts.limits().noise_elements {
                let detail =
                    format!("{numbers} random numbers, the limit is {}", facts.limits().noise_elements);
                out.push(format!("{}/positions", place.at), code::LIMIT, detail, "name fewer positions");
                return None;
            }
            let numpy = (*rng == Rng::NumpyLegacy).then(|| {
                let seed = u32::try_from(*seed).expect("BUG: checked when it was read");
                numpy_legacy(seed, numbers as usize).into()
            });
            let place_in_all =
                Site::ALL.iter().position(|site| *site == place.intervention.site).unwrap_or(0);
            Some(OpPlan::Noise { std, seed: *seed, stream: 1 + place_in_all as u32, numpy })
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of `op`")]
fn source_op(
    place: &Place<'_>,
    source: &SourceSpec,
    coef: Option<f32>,
    spec: &PatchSpec,
    prepared: &Prepared,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<OpPlan> {
    let at = place.at;
    let (run, given) = match source {
        SourceSpec::Vector { vector } => {
            let config = facts.config();
            let wanted =
                if place.heads.is_some() { config.head_dim } else { width(place.intervention.site, config) };
            if vector.len() != wanted {
                let detail = format!("{} numbers where {wanted} are written", vector.len());
                let fix = format!("give {wanted} numbers");
                out.push(format!("{at}/source/vector"), code::LENGTH_MISMATCH, detail, fix);
                return None;
            }
            return Some(OpPlan::Vector { row: vector.as_slice().into(), coef });
        }
        SourceSpec::Activation { activation, layer, positions } => {
            let written = layers_written(
                place.intervention.site,
                place.layers,
                place.intervention.window,
                facts.config(),
            );
            let wanted = Wanted {
                at,
                site: place.intervention.site,
                layers: &written,
                positions: place.positions.len(),
                activation,
                layer: *layer,
                from: positions.as_ref(),
            };
            return Some(OpPlan::Given { rows: Given::find(&wanted, facts, out)?, coef });
        }
        SourceSpec::Run { run, positions } => (run, positions),
    };
    let source_at = format!("{at}/source/positions");
    let tokens = find(run, &format!("{at}/source/run"), &spec.experiment, &prepared.runs, out)?;
    let positions = match (&place.intervention.positions, given) {
        (Positions::Map { .. }, Some(_)) => {
            let detail = "the map says already what is read";
            out.push(source_at, code::CONFLICT, detail, "leave out `source.positions`");
            return None;
        }
        (Positions::Map { map }, None) => select::map_sources(map, tokens, &format!("{at}/positions"), out)?,
        (_, Some(given)) => select::positions(given, tokens, &source_at, out)?,
        (own, None) => select::positions(own, tokens, &format!("{at}/positions"), out)?,
    };
    let (n, m) = (place.positions.len(), positions.len());
    if m != n && m != 1 {
        let detail = format!("{m} positions of {run:?} are read, {n} of {:?} are written", spec.base);
        let at = if given.is_some() { source_at } else { format!("{at}/positions") };
        out.push(
            at,
            code::LENGTH_MISMATCH,
            detail,
            "name as many source positions, or one for all, or a map",
        );
        return None;
    }
    let positions = if m == n { positions } else { vec![positions[0]; n] };
    // After another intervention the base's own values restore what that one changed.
    let alone = spec.interventions.len() == 1;
    if alone && run == &spec.base && positions == place.positions && coef.is_none() {
        let detail = format!("{run:?} is patched with its own values, which changes nothing");
        lints.info(
            "SELF_PATCH",
            format!("{at}/source"),
            detail,
            "name another source run or other positions",
        );
    }
    let absolute =
        |p: &Positions| !matches!(p, &Positions::LAST | Positions::Span { .. } | Positions::Map { .. });
    let by_index = absolute(&place.intervention.positions) || given.as_ref().is_some_and(absolute);
    if tokens.len() != place.base.len() && by_index {
        let detail = format!("{run:?} has {} tokens, {:?} has {}", tokens.len(), spec.base, place.base.len());
        lints.warn(
            "LENGTH_MISMATCH",
            format!("{at}/positions"),
            detail,
            "pair positions by `last`, spans or a map",
        );
    }
    Some(OpPlan::Copy { run: prepared.runs.place(run)?, positions, coef })
}

/// Layers that are written: the windows around those named.
fn layers_written(site: Site, layers: &[u32], window: u32, config: &ModelConfig) -> BTreeSet<u32> {
    match site {
        Site::Embed => BTreeSet::from([0]),
        _ => layers.iter().flat_map(|l| select::window(*l, window, config.num_layers as u32)).collect(),
    }
}

impl Template {
    /// Reads stored activations, as the cells of a sweep are going to ask for them. Their size has been checked.
    pub(super) fn load(&mut self, i: usize, sweep: &[SweepAxis], config: &ModelConfig, out: &mut Problems) {
        let OpPlan::Given { rows, .. } = &mut self.op else { return };
        let each_position = sweep.contains(&SweepAxis::Positions) && self.positions.len() > 1;
        let heads = self.heads.as_deref();
        let whole = |columns: Option<Range<u32>>| {
            columns.map_or(0..width(self.site, config), |c| c.start as usize..c.end as usize)
        };
        let columns = |heads: Option<&[u32]>| select::columns(heads, config.head_dim, config.num_heads);
        let ranges: Vec<Range<usize>> = match heads {
            Some(heads) if sweep.contains(&SweepAxis::Heads) => {
                heads.iter().flat_map(|head| columns(Some(&[*head]))).map(whole).collect()
            }
            heads => columns(heads).into_iter().map(whole).collect(),
        };
        rows.load(i, &ranges, each_position, out);
    }

    /// Keeps only one value of a swept axis. A single value stays in every cell.
    pub(super) fn choose(&mut self, axis: SweepAxis, index: usize, site_width: usize) {
        match axis {
            SweepAxis::Layers if self.layers.len() > 1 => self.layers = vec![self.layers[index]],
            SweepAxis::Heads => {
                if let Some(heads) = self.heads.as_mut().filter(|heads| heads.len() > 1) {
                    *heads = vec![heads[index]];
                }
            }
            SweepAxis::Positions if self.positions.len() > 1 => {
                self.positions = vec![self.positions[index]];
                match &mut self.op {
                    OpPlan::Copy { positions, .. } => *positions = vec![positions[index]],
                    OpPlan::Given { rows, .. } => rows.choose(index),
                    OpPlan::Noise { numpy: Some(rows), .. } => {
                        *rows = rows[index * site_width..(index + 1) * site_width].into();
                    }
                    _ => {}
                }
            }
            SweepAxis::Layers | SweepAxis::Positions => {}
        }
    }

    /// Edits of one cell. `roots`: the plan's run of each of the request's runs.
    pub(super) fn edits(&self, config: &ModelConfig, roots: &[RunId]) -> Vec<Edit> {
        let layers = layers_written(self.site, &self.layers, self.window, config);
        let columns = select::columns(self.heads.as_deref(), config.head_dim, config.num_heads);
        let mut edits = Vec::with_capacity(layers.len() * columns.len());
        for layer in layers {
            for columns in &columns {
                edits.push(Edit {
                    at: Address { layer, site: self.site },
                    positions: self.positions.clone(),
                    columns: columns.clone(),
                    op: self.lowered(layer, columns.clone(), config, roots),
                    group: EditGroup::Patch,
                });
            }
        }
        edits
    }

    fn lowered(&self, layer: u32, columns: Option<Range<u32>>, config: &ModelConfig, roots: &[RunId]) -> Op {
        let site_width = width(self.site, config);
        let columns = columns.map_or(0..site_width, |c| c.start as usize..c.end as usize);
        let with = |source, coef: Option<f32>| match coef {
            Some(coef) => Op::Add { source, coef },
            None => Op::Replace(source),
        };
        match &self.op {
            OpPlan::Copy { run, positions, coef } => {
                with(Source::Run { run: roots[*run], positions: positions.clone() }, *coef)
            }
            OpPlan::Vector { row, coef } => {
                // A head's vector repeats over the heads written.
                let n = self.positions.len() * (columns.len() / row.len());
                let rows: Arc<[f32]> = if n == 1 { Arc::clone(row) } else { row.repeat(n).into() };
                with(Source::Constant(rows), *coef)
            }
            OpPlan::Given { rows, coef } => with(Source::Constant(rows.block(layer, columns.start)), *coef),
            OpPlan::Scale(factor) => Op::Scale(*factor),
            OpPlan::Zero => Op::Zero,
            OpPlan::Noise { std, seed, stream, numpy } => {
                let row = |i: usize, position: u32| {
                    if let Some(rows) = numpy {
                        return rows[i * site_width..(i + 1) * site_width][columns.clone()].to_vec();
                    }
                    let key = NoiseKey { seed: *seed, stream: stream + 8 * layer, sample: 0, position };
                    philox_row(key, site_width)[columns.clone()].to_vec()
                };
                let rows = self.positions.iter().enumerate().flat_map(|(i, p)| row(i, *p));
                let rows: Arc<[f32]> = rows.map(|x| (x * std) as f32).collect();
                Op::Add { source: Source::Constant(rows), coef: 1.0 }
            }
        }
    }
}
