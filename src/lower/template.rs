//! Interventions with indices, and the edits that they are in a cell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::basis::BasisPlan;
use super::noise::{NoiseKey, philox_row};
use super::place::{layers_written, part_width};
use super::select;
use super::source::ValuesPlan;
use super::source_pass::Prelude;
use crate::model::config::ModelConfig;
use crate::plan::{Address, Along, CapturedRows, Edit, EditGroup, Op, RunId, Source};
use crate::spec::patch::SweepAxis;
use crate::spec::problem::Problems;
use crate::spec::site::Site;

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
    /// Another part along a direction.
    Along(BasisPlan, Along),
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
    pub std: f64,
    pub seed: u64,
    pub stream: u32,
    /// `NumPy`'s numbers by layer, `[positions, width]`, if that is the generator.
    pub numpy: Option<Arc<BTreeMap<u32, Vec<f64>>>>,
    /// Which of the positions is written, where they are swept.
    pub chosen: Option<usize>,
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

/// What turns templates into edits.
pub(super) struct Builder<'b> {
    /// The model.
    pub config: &'b ModelConfig,
    /// The plan's run of each of the request's runs.
    pub roots: &'b [RunId],
    /// Where values from other sites and layers are captured.
    pub prelude: &'b mut Prelude,
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
                | OpPlan::Along(..)
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
            OpPlan::Along(direction, change) => {
                Op::Along { direction: direction.at(at.layer, columns.start), change: *change }
            }
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

impl ValuesPlan {
    /// The source of one edit, at an address and columns of the template's site.
    pub(super) fn source(
        &self,
        template: &Template,
        at: Address,
        columns: &Range<usize>,
        builder: &mut Builder<'_>,
    ) -> Source {
        match self {
            Self::Run { run, positions } => {
                Source::Run { run: builder.roots[*run], positions: positions.clone() }
            }
            Self::Captured { runs, site, layers } => {
                let depth = builder.config.num_layers as u32;
                let layer = match site {
                    Site::Embed => 0,
                    Site::FinalNorm | Site::Logits => depth,
                    _ => layers.first().copied().unwrap_or(at.layer),
                };
                let width = builder.config.site_width(*site, template.keys);
                let columns = columns.start as u32..columns.end as u32;
                let parts = runs.iter().map(|(run, ids, positions)| CapturedRows {
                    capture: builder.prelude.capture(*run, ids, Address { layer, site: *site }),
                    rows: positions.clone(),
                    columns: columns.clone(),
                    width,
                });
                Source::Captured(parts.collect())
            }
            Self::Given(given) => Source::Constant(given.block(at.layer, columns.start)),
            Self::Row(row) => Source::Constant(template.repeated(row, columns, builder)),
        }
    }
}

impl Template {
    /// A given row at every position, and over the heads or columns written.
    fn repeated(&self, row: &Arc<[f32]>, columns: &Range<usize>, builder: &Builder<'_>) -> Arc<[f32]> {
        let n = self.positions.len();
        if let Some(dims) = &self.dims {
            // One number per named column, in the order in which they were named.
            let part = builder.config.site_width(self.site, self.keys)
                / builder.config.site_heads(self.site).unwrap_or(1);
            let number = |column: usize| {
                let dim = (column % part) as u32;
                let place = dims.iter().position(|d| *d == dim);
                row[place.expect("BUG: only named columns are written") % row.len()]
            };
            let one: Vec<f32> = columns.clone().map(number).collect();
            return one.repeat(n).into();
        }
        let times = n * (columns.len() / row.len());
        if times == 1 { Arc::clone(row) } else { row.repeat(times).into() }
    }
}
