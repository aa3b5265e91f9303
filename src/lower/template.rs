//! An intervention resolved against its runs: indices, values and the edits of one cell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::align;
use super::basis::BasisPlan;
use super::facts::Facts;
use super::lint::Lints;
use super::noise::{NoiseKey, numpy_legacy, numpy_legacy_of, philox_row};
use super::prelude::Prelude;
use super::prompts::TokenRun;
use super::select;
use super::source::{ValuesPlan, resolve};
use crate::model::config::ModelConfig;
use crate::plan::{Address, Edit, EditGroup, Op, RunId, Source};
use crate::spec::corruption::{Rng, Sigma};
use crate::spec::experiment::Experiment;
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};
use crate::spec::select::{Layers, Positions};
use crate::spec::site::Site;

/// What a list of interventions belongs to.
pub(super) struct Scope<'s> {
    /// Pointer to the list.
    pub at: String,
    /// Name of the run that is changed.
    pub base: &'s str,
    /// That run.
    pub run: &'s TokenRun,
    /// The list.
    pub interventions: &'s [Intervention],
    /// Axes that are enumerated.
    pub sweep: &'s [SweepAxis],
    /// The request.
    pub experiment: &'s Experiment,
    /// Runs that may be read.
    pub runs: &'s Named<TokenRun>,
    /// Columns of a head at `scores` and `pattern`.
    pub keys: usize,
}

/// Columns of a head at `scores` and `pattern`: the length of the longest run.
pub(super) fn keys(runs: &Named<TokenRun>) -> usize {
    runs.iter().map(|(_, run)| run.len() as usize).max().unwrap_or(0)
}

/// An intervention with indices. A list of one on a swept axis takes part in every cell.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// Site written.
    pub at: Site,
    /// The site whose numbers are written there: heads, columns and values are counted as it has them.
    pub site: Site,
    /// Layers taken together around each.
    pub window: u32,
    /// Layers; none counts as `[0]` at sites without.
    pub layers: Vec<u32>,
    /// Positions written.
    pub positions: Vec<u32>,
    /// Heads written; `None` for the whole width.
    pub heads: Option<Vec<u32>>,
    /// Columns written of each head, or of the site; `None` for all.
    pub dims: Option<Vec<u32>>,
    /// Columns of a head at `scores` and `pattern`.
    pub keys: usize,
    /// Takes part in every cell, before the others.
    pub frozen: bool,
    /// Holds the layers above those that the others write in a cell, at the swept positions; frozen too.
    pub above: bool,
    /// What is written.
    pub op: OpPlan,
}

/// What a template writes.
#[derive(Debug, Clone)]
pub(super) enum OpPlan {
    /// Values from somewhere.
    Write { values: ValuesPlan, how: How },
    /// A multiple.
    Scale(f32),
    /// Zeros.
    Zero,
    /// What is left outside of a span.
    ProjectOut(BasisPlan),
    /// No attention: the columns are keys.
    Cut,
    /// Gaussian noise.
    Noise(NoisePlan),
}

/// Noise with its numbers, where a generator's order decides them.
#[derive(Debug, Clone)]
pub(super) struct NoisePlan {
    /// Standard deviation.
    std: f64,
    seed: u64,
    stream: u32,
    /// `NumPy`'s numbers by layer, `[positions, width]`, if that is the generator.
    numpy: Option<Arc<BTreeMap<u32, Vec<f64>>>>,
    /// Which of the positions is written, where they are swept.
    chosen: Option<usize>,
}

/// How values are written.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// In place of what is there.
    Replace,
    /// Added.
    Add { coef: f32, norm_match: bool },
    /// In place of what lies in a span.
    Swap(BasisPlan),
}

/// Resolves the `i`th intervention.
pub(super) fn template(
    i: usize,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<Template> {
    let at = format!("{}/{i}", scope.at);
    let aligned = align::mapped(&scope.interventions[i], &at, scope, lints, out)?;
    let intervention = aligned.as_ref();
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
    let positions = select::positions(&intervention.positions, scope.run, &format!("{at}/positions"), out);
    select::site(intervention.site, config, &format!("{at}/site"), out)?;
    let site = intervention.site.written_as();
    let of_heads = config.site_heads(site);
    let swept = scope.sweep.contains(&SweepAxis::Heads);
    let heads = match (&intervention.heads, of_heads) {
        (Some(heads), Some(n)) => Some(select::heads(heads, n as u32, &format!("{at}/heads"), out)?),
        (None, Some(n)) => swept.then(|| (0..n as u32).collect()),
        (_, None) => None,
    };
    let keys = scope.keys;
    let part = part_width(site, config, keys);
    let dims = match (&intervention.op, &intervention.dims) {
        (OpSpec::Knockout { keys }, dims) => {
            if dims.is_some() {
                let fix = "leave out `dims`: `keys` names the key positions";
                out.push(format!("{at}/dims"), code::CONFLICT, "columns and keys", fix);
            }
            Some(select::positions(keys, scope.run, &format!("{at}/keys"), out)?)
        }
        (_, Some(dims)) => Some(select::dims(dims, part as u32, &format!("{at}/dims"), out)?),
        (_, None) => scope.sweep.contains(&SweepAxis::Dims).then(|| (0..part as u32).collect()),
    };
    let (layers, positions) = (layers?, positions?);
    check_site(intervention, &at, dims.is_some(), out)?;
    let place = Place {
        at: &at,
        intervention,
        site,
        layers: &layers,
        positions: &positions,
        heads: heads.as_deref(),
        dims: dims.as_deref(),
        keys,
    };
    let op = op(&place, scope, facts, lints, out)?;
    let freezes = |i: &Intervention| matches!(i.op, OpSpec::Freeze { .. });
    let (frozen, above) = (freezes(intervention), matches!(intervention.layers, Some(Layers::Above(_))));
    if above && scope.interventions.iter().all(freezes) {
        let detail = "nothing is written that layers could be above";
        let fix = "add an intervention that writes below, or name the layers";
        out.push(format!("{at}/layers"), code::CONFLICT, detail, fix);
        return None;
    }
    let at = intervention.site;
    let window = intervention.window;
    Some(Template { at, site, window, layers, positions, heads, dims, keys, frozen, above, op })
}

/// Columns of one head of a site, or of the whole site if it has none.
fn part_width(site: Site, config: &ModelConfig, keys: usize) -> usize {
    config.site_width(site, keys) / config.site_heads(site).unwrap_or(1)
}

/// Operations that a site has no meaning for.
fn check_site(intervention: &Intervention, at: &str, has_dims: bool, out: &mut Problems) -> Option<()> {
    let (site, op) = (intervention.site, &intervention.op);
    let copies = matches!(op.source(), Some(SourceSpec::Run { site: None, layer: None, .. }) | None)
        && !matches!(op, OpSpec::Noise { .. } | OpSpec::ProjectOut { .. } | OpSpec::Subspace { .. });
    let refuse = |detail: String, fix: &str, out: &mut Problems| {
        out.push(format!("{at}/op"), code::NOT_SUPPORTED, detail, fix);
        None
    };
    if matches!(op, OpSpec::Knockout { .. }) && site != Site::Scores {
        let detail = format!("edges of attention are cut before the softmax, not at {site}");
        return refuse(detail, "write \"site\": \"scores\"", out);
    }
    if site.is_over_keys() && (!copies || matches!(op, OpSpec::Add { .. } | OpSpec::Mean { .. })) {
        let detail = format!("{site} is copied from the same layer and position of a run, scaled or zeroed");
        return refuse(detail, "use replace, resample, freeze, scale or zero; or q, k and v before it", out);
    }
    let linear = !matches!(
        op,
        OpSpec::Add { .. } | OpSpec::Noise { .. } | OpSpec::ProjectOut { .. } | OpSpec::Subspace { .. }
    ) && !matches!(
        op.source(),
        Some(
            SourceSpec::Vector { .. } | SourceSpec::Activation { .. } | SourceSpec::Run { site: Some(_), .. }
        ) if !matches!(op.source(), Some(SourceSpec::Run { site: Some(Site::HeadOut), .. }))
    );
    if site == Site::HeadOut && (!linear || has_dims) {
        let field = if linear { "dims" } else { "op" };
        let detail = "a head's output is copied, averaged, scaled or zeroed as a whole";
        let fix = "use attn_out for vectors and columns of the residual stream, or z for a head's own";
        out.push(format!("{at}/{field}"), code::NOT_SUPPORTED, detail, fix);
        return None;
    }
    if has_dims && matches!(op, OpSpec::Add { norm_match: true, .. }) {
        let fix = "leave out `norm_match`, or write whole rows";
        out.push(
            format!("{at}/norm_match"),
            code::CONFLICT,
            "the norm kept is of a row or head, not of columns",
            fix,
        );
        return None;
    }
    if has_dims && matches!(op, OpSpec::ProjectOut { .. } | OpSpec::Subspace { .. }) {
        let fix = "leave out `dims`: the basis says what is written";
        out.push(format!("{at}/dims"), code::CONFLICT, "a span and single columns", fix);
        return None;
    }
    Some(())
}

/// An intervention whose destination is resolved.
pub(super) struct Place<'p> {
    /// Pointer to the intervention.
    pub at: &'p str,
    pub intervention: &'p Intervention,
    /// Site written.
    pub site: Site,
    pub layers: &'p [u32],
    pub positions: &'p [u32],
    pub heads: Option<&'p [u32]>,
    pub dims: Option<&'p [u32]>,
    /// Columns of a head at `scores` and `pattern`.
    pub keys: usize,
}

impl Place<'_> {
    /// Layers written in any cell.
    pub(super) fn layers_written(&self, config: &ModelConfig) -> BTreeSet<u32> {
        layers_written(self.site, self.layers, self.intervention.window, config)
    }

    /// Numbers of a given vector: a head's width where heads are named, else the site's; as many as `dims`, if named.
    pub(super) fn vector_width(&self, config: &ModelConfig) -> usize {
        let whole = config.site_width(self.site, self.keys);
        let part = if self.heads.is_some() { part_width(self.site, config, self.keys) } else { whole };
        self.dims.map_or(part, <[u32]>::len)
    }
}

fn op(
    place: &Place<'_>,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<OpPlan> {
    let maps = matches!(place.intervention.positions, Positions::Map { .. });
    let op = &place.intervention.op;
    if maps && !matches!(op.source(), Some(SourceSpec::Run { .. })) {
        let at = format!("{}/positions/map", place.at);
        out.push(at, code::CONFLICT, "a map needs a run to read from", "list the destinations instead");
        return None;
    }
    let how = match op {
        OpSpec::Scale { factor } => return Some(OpPlan::Scale(*factor as f32)),
        OpSpec::Zero => return Some(OpPlan::Zero),
        OpSpec::Knockout { .. } => return cut(place, out),
        OpSpec::Noise { sigma, seed, rng } => return noise(place, *sigma, *seed, *rng, scope, facts, out),
        OpSpec::ProjectOut { basis } => {
            return BasisPlan::new(basis, place, facts, out).map(OpPlan::ProjectOut);
        }
        OpSpec::Add { coef, norm_match, .. } => How::Add { coef: *coef as f32, norm_match: *norm_match },
        OpSpec::Subspace { basis, .. } => How::Swap(BasisPlan::new(basis, place, facts, out)?),
        OpSpec::Replace { .. } | OpSpec::Mean { .. } | OpSpec::Resample { .. } | OpSpec::Freeze { .. } => {
            How::Replace
        }
    };
    let values = resolve(place, scope, facts, lints, out)?;
    Some(OpPlan::Write { values, how })
}

fn cut(place: &Place<'_>, out: &mut Problems) -> Option<OpPlan> {
    let last = place.positions.iter().max();
    let first = place.dims.and_then(|keys| keys.iter().min());
    if first > last {
        let detail = "every key named comes after every position written: there is no such edge";
        let fix = "name keys at or before the positions";
        out.push(format!("{}/keys", place.at), code::EMPTY, detail, fix);
        return None;
    }
    Some(OpPlan::Cut)
}

fn noise(
    place: &Place<'_>,
    sigma: Sigma,
    seed: u64,
    rng: Rng,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<OpPlan> {
    let at = format!("{}/sigma", place.at);
    if matches!(sigma, Sigma::Relative { .. }) && place.site != Site::Embed {
        let detail = "k counts standard deviations of embeddings";
        out.push(at, code::CONFLICT, detail, "write {\"abs\": 0.1}, or use site embed");
        return None;
    }
    let ids: Vec<u32> = place.positions.iter().map(|p| scope.run.ids[*p as usize]).collect();
    let std = super::corrupt::sigma(sigma, &ids, &at, facts, out)?.abs;
    let site_width = facts.config().site_width(place.site, place.keys);
    let layers = place.layers_written(facts.config());
    let of_layer = place.positions.len() * site_width;
    let drawn = if rng == Rng::NumpyLegacy { layers.len() } else { 1 };
    let numbers = drawn as u64 * of_layer as u64;
    if numbers > facts.limits().noise_elements {
        let detail = format!("{numbers} random numbers, the limit is {}", facts.limits().noise_elements);
        out.push(format!("{}/positions", place.at), code::LIMIT, detail, "name fewer positions");
        return None;
    }
    let numpy = (rng == Rng::NumpyLegacy).then(|| {
        let seed = u32::try_from(seed).expect("BUG: checked when it was read");
        let of = |layer: u32| match place.site {
            // As ROME draws it.
            Site::Embed => numpy_legacy(seed, of_layer),
            site => {
                let layer = if site.has_layer() { layer } else { 0 };
                numpy_legacy_of(&[seed, site.facts().stream, layer], of_layer)
            }
        };
        Arc::new(layers.into_iter().map(|layer| (layer, of(layer))).collect())
    });
    let stream = 1 + place.site.facts().stream;
    Some(OpPlan::Noise(NoisePlan { std, seed, stream, numpy, chosen: None }))
}

/// What turns templates into edits.
pub(super) struct Builder<'b> {
    /// The model.
    pub config: &'b ModelConfig,
    /// The plan's run of each of the request's runs.
    pub roots: &'b [RunId],
    /// Where values from other sites and layers are captured.
    pub prelude: &'b mut Prelude,
}

/// Layers that are written, as addresses count them: the windows around those named.
fn layers_written(site: Site, layers: &[u32], window: u32, config: &ModelConfig) -> BTreeSet<u32> {
    let depth = config.num_layers as u32;
    match site {
        Site::Embed => BTreeSet::from([0]),
        Site::FinalNorm | Site::Logits => BTreeSet::from([depth]),
        _ => layers.iter().flat_map(|l| select::window(*l, window, depth)).collect(),
    }
}

impl Template {
    /// Reads stored activations, as the cells of a sweep are going to ask for them. Their size has been checked.
    pub(super) fn load(&mut self, at: &str, sweep: &[SweepAxis], config: &ModelConfig, out: &mut Problems) {
        let each_position = sweep.contains(&SweepAxis::Positions) && self.positions.len() > 1;
        let mut cells = vec![self.clone()];
        for axis in sweep {
            let n = match axis {
                SweepAxis::Heads => self.heads.as_ref().map_or(1, Vec::len),
                SweepAxis::Dims => self.dims.as_ref().map_or(1, Vec::len),
                SweepAxis::SourceLayers => self.source_layers().map_or(1, <[u32]>::len),
                SweepAxis::Layers | SweepAxis::Positions => continue,
            };
            let each = cells.iter().flat_map(|cell| {
                (0..n).map(|i| {
                    let mut cell = cell.clone();
                    cell.choose(*axis, i);
                    cell
                })
            });
            cells = each.collect();
        }
        let whole = 0..config.site_width(self.site, self.keys);
        let ranges = cells.iter().flat_map(|cell| cell.columns(config));
        let ranges: Vec<Range<usize>> =
            ranges.map(|c| c.map_or(whole.clone(), |c| c.start as usize..c.end as usize)).collect();
        if let OpPlan::Write { values: ValuesPlan::Given(given), .. } = &mut self.op {
            given.load(at, &ranges, each_position, out);
        }
    }

    /// Whether it changes along an axis.
    pub(super) fn follows(&self, axis: SweepAxis) -> bool {
        !self.frozen || (self.above && axis == SweepAxis::Positions)
    }

    /// The same at the layers from `end` on.
    pub(super) fn held_above(&self, end: u32) -> Self {
        let mut held = self.clone();
        held.layers.retain(|layer| *layer >= end);
        held
    }

    /// The first layer above all that it writes.
    pub(super) fn end(&self, config: &ModelConfig) -> u32 {
        let depth = config.num_layers as u32;
        match self.site {
            Site::Embed => 0,
            site => {
                let written = layers_written(site, &self.layers, self.window, config);
                written.last().map_or(0, |layer| depth.min(layer + 1))
            }
        }
    }

    /// Keeps only one value of a swept axis. A single value stays in every cell, and so does what is frozen.
    pub(super) fn choose(&mut self, axis: SweepAxis, index: usize) {
        let one = |list: &mut Vec<u32>| {
            if list.len() > 1 {
                *list = vec![list[index]];
            }
        };
        match axis {
            _ if !self.follows(axis) => {}
            SweepAxis::Layers => one(&mut self.layers),
            SweepAxis::Heads => self.heads.iter_mut().for_each(one),
            SweepAxis::SourceLayers => {
                if let OpPlan::Write { values, .. } = &mut self.op {
                    values.choose_layer(index);
                }
            }
            SweepAxis::Dims => {
                // A given vector has a number for each named column.
                if let (Some(dims), OpPlan::Write { values: ValuesPlan::Row(row), .. }) =
                    (&self.dims, &mut self.op)
                    && dims.len() > 1
                {
                    *row = Arc::from([row[index]]);
                }
                self.dims.iter_mut().for_each(one);
            }
            SweepAxis::Positions if self.positions.len() > 1 => {
                self.positions = vec![self.positions[index]];
                match &mut self.op {
                    OpPlan::Write { values, .. } => values.choose(index),
                    OpPlan::Noise(noise) => noise.chosen = Some(index),
                    _ => {}
                }
            }
            SweepAxis::Positions => {}
        }
    }

    /// Edits of one cell.
    pub(super) fn edits(&self, builder: &mut Builder<'_>) -> Vec<Edit> {
        let config = builder.config;
        let layers = self.layers_written(config);
        let columns = self.columns(config);
        let mut edits = Vec::with_capacity(layers.len() * columns.len());
        if matches!(self.op, OpPlan::Cut) {
            return self.cuts(config, &layers);
        }
        for layer in layers {
            for columns in &columns {
                let at = Address { layer, site: self.at };
                let op = self.lowered(at, columns.clone(), builder);
                let columns = columns.clone();
                let edit = Edit::new(at, self.positions.clone(), op, EditGroup::Patch);
                edits.push(Edit { columns, through: self.through(at), ..edit });
            }
        }
        edits
    }

    /// Cuts edges, each at the positions that have it.
    pub(super) fn cuts(&self, config: &ModelConfig, layers: &BTreeSet<u32>) -> Vec<Edit> {
        let cuts = self.cut_edges(config);
        let of_layer = |layer: u32| {
            cuts.iter().map(move |(columns, positions)| {
                let at = Address { layer, site: self.at };
                let edit = Edit::new(at, positions.clone(), Op::Cut, EditGroup::Patch);
                Edit { columns: Some(columns.clone()), ..edit }
            })
        };
        layers.iter().flat_map(|layer| of_layer(*layer)).collect()
    }

    /// Columns of keys with the positions written that see them all.
    pub(super) fn cut_edges(&self, config: &ModelConfig) -> Vec<(Range<u32>, Vec<u32>)> {
        let keys = self.dims.as_deref().unwrap_or_default();
        let mut edges: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for position in &self.positions {
            let seen: Vec<u32> = keys.iter().copied().filter(|key| key <= position).collect();
            if seen.is_empty() {
                continue;
            }
            for range in select::columns(Some(&[0]), Some(&seen), self.keys, 1) {
                let range = range.unwrap_or(0..self.keys as u32);
                edges.entry((range.start, range.end)).or_default().push(*position);
            }
        }
        let heads = self.heads_written(config);
        let of_head = |head: u32| {
            let first = head * self.keys as u32;
            edges.iter().map(move |((a, b), positions)| (first + a..first + b, positions.clone()))
        };
        heads.into_iter().flat_map(of_head).collect()
    }

    /// The heads written: all of them where none is named.
    pub(super) fn heads_written(&self, config: &ModelConfig) -> Vec<u32> {
        let all = || (0..config.site_heads(self.site).unwrap_or(1) as u32).collect();
        self.heads.clone().unwrap_or_else(all)
    }

    /// Layers written, as addresses count them.
    pub(super) fn layers_written(&self, config: &ModelConfig) -> BTreeSet<u32> {
        layers_written(self.site, &self.layers, self.window, config)
    }

    /// The layer whose output projection the values of `head_out` go through, if it is not the one written.
    fn through(&self, at: Address) -> Option<u32> {
        match &self.op {
            OpPlan::Write { values: ValuesPlan::Captured { layers, .. }, .. } if at.site == Site::HeadOut => {
                layers.first().copied().filter(|layer| *layer != at.layer)
            }
            _ => None,
        }
    }

    /// Layers read one by one, where the layer read is named.
    pub(super) fn source_layers(&self) -> Option<&[u32]> {
        match &self.op {
            OpPlan::Write { values, .. } => values.layers(),
            _ => None,
        }
    }

    /// Ranges of columns, one edit each.
    fn columns(&self, config: &ModelConfig) -> Vec<Option<Range<u32>>> {
        let parts = config.site_heads(self.site).unwrap_or(1);
        let part = part_width(self.site, config, self.keys);
        let of = |heads: Option<&[u32]>| select::columns(heads, self.dims.as_deref(), part, parts);
        match &self.heads {
            // What depends on a whole head must not see its neighbours.
            Some(heads) if self.is_headwise() => heads.iter().flat_map(|head| of(Some(&[*head]))).collect(),
            heads => of(heads.as_deref()),
        }
    }

    /// Number of edits of one layer of one cell, at most.
    pub(super) fn edits_per_layer(&self, config: &ModelConfig) -> usize {
        match self.op {
            OpPlan::Cut => self.cut_edges(config).len(),
            _ => self.columns(config).len(),
        }
    }

    /// Numbers written at one position of one layer.
    pub(super) fn columns_written(&self, config: &ModelConfig) -> usize {
        let whole = config.site_width(self.site, self.keys);
        self.columns(config).iter().map(|c| c.as_ref().map_or(whole, ExactSizeIterator::len)).sum()
    }

    fn is_headwise(&self) -> bool {
        matches!(
            self.op,
            OpPlan::ProjectOut(_)
                | OpPlan::Write { how: How::Swap(_) | How::Add { norm_match: true, .. }, .. }
        )
    }

    fn lowered(&self, at: Address, columns: Option<Range<u32>>, builder: &mut Builder<'_>) -> Op {
        let site_width = builder.config.site_width(self.site, self.keys);
        let columns = columns.map_or(0..site_width, |c| c.start as usize..c.end as usize);
        match &self.op {
            OpPlan::Write { values, how } => {
                let source = values.source(self, at, &columns, builder);
                match how {
                    How::Replace => Op::Replace(source),
                    How::Add { coef, norm_match } => Op::Add { source, coef: *coef, norm_match: *norm_match },
                    How::Swap(basis) => {
                        Op::Project { basis: basis.at(at.layer, columns.start), source: Some(source) }
                    }
                }
            }
            OpPlan::Scale(factor) => Op::Scale(*factor),
            OpPlan::Zero => Op::Zero,
            OpPlan::ProjectOut(basis) => {
                Op::Project { basis: basis.at(at.layer, columns.start), source: None }
            }
            OpPlan::Cut => Op::Cut,
            OpPlan::Noise(noise) => {
                let rows = self.positions.iter().enumerate().flat_map(|(i, position)| {
                    noise.row(at.layer, noise.chosen.unwrap_or(i), *position, site_width)[columns.clone()]
                        .to_vec()
                });
                Op::add(Source::Constant(rows.map(|x| (x * noise.std) as f32).collect()))
            }
        }
    }
}

impl NoisePlan {
    /// Standard normal numbers of the `i`th position.
    fn row(&self, layer: u32, i: usize, position: u32, width: usize) -> Vec<f64> {
        if let Some(numpy) = &self.numpy {
            return numpy[&layer][i * width..(i + 1) * width].to_vec();
        }
        let stream = self.stream + 32 * layer;
        philox_row(NoiseKey { seed: self.seed, stream, sample: 0, position }, width)
    }
}
