//! Cells to one number for each place, case and metric.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Key, Place};
use crate::effect::bootstrap::CaseEstimate;
use crate::effect::cells::{Cells, Observed, Sampled};
use crate::effect::stats::{Estimate, estimate, finite};
use crate::spec::select::TokenClass;

/// What cells are averaged by, as numbers; what they aren't told apart by is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PlaceKey {
    pub(super) arm: u32,
    pub(super) layer: Option<u32>,
    pub(super) position: Option<u32>,
    pub(super) token_class: Option<u8>,
    pub(super) head: Option<u32>,
    pub(super) dim: Option<u32>,
    pub(super) source_layer: Option<u32>,
}

/// A case's cells of one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The case, as an index into [`Table::order`].
    pub(super) rank: u32,
    pub(super) cells: usize,
    pub(super) trivial: usize,
    pub(super) exact_null: usize,
}

/// One place in every case that has it.
#[derive(Debug)]
pub(super) struct PlaceCases {
    pub(super) key: PlaceKey,
    /// By rank.
    pub(super) entries: Vec<Entry>,
    /// Mean effects over the cells of each case, `[entries, metrics]`; null where one isn't finite.
    effects: Vec<Option<f64>>,
    /// Mean standard errors over samples of the cells of each case, `[entries, metrics]`; null for a single sample.
    errors: Vec<Option<f64>>,
    /// Sums over the cells in each sample, `[metrics, samples]`, by rank: of cases that are averaged alone.
    sampled: HashMap<u32, Vec<Option<f64>>>,
}

/// Every place, in the order of arms and of their axes.
#[derive(Debug)]
pub(super) struct Table<'o> {
    pub(super) observed: &'o Observed,
    /// Indices of the kept cases by name: the order in which they are drawn and added up, whatever the order they came in.
    pub(super) order: Vec<u32>,
    pub(super) places: Vec<PlaceCases>,
}

/// A table whose cells come in pieces, which need not be held once they are added.
#[derive(Debug)]
pub(super) struct Filling {
    by: Vec<Key>,
    metrics: usize,
    order: Vec<u32>,
    /// Each case's place in that order, if it counts.
    ranks: Vec<Option<u32>>,
    found: HashMap<PlaceKey, usize>,
    places: Vec<PlaceCases>,
}

impl<'o> Table<'o> {
    pub(super) fn new(observed: &'o Observed, by: &[Key]) -> Self {
        let mut filling = Filling::new(observed, by);
        filling.add(&observed.cells, &observed.sampled);
        filling.finish(observed)
    }

    /// The place's name, of all cases together.
    pub(super) fn place(&self, key: &PlaceKey) -> Place {
        key.name(self.observed)
    }
}

impl Filling {
    /// Of these cases; `observed` need not have their cells.
    pub(super) fn new(observed: &Observed, by: &[Key]) -> Self {
        let cases = &observed.cases;
        let mut order: Vec<u32> = (0..cases.len() as u32).filter(|i| cases[*i as usize].kept).collect();
        order.sort_by(|a, b| (&cases[*a as usize].id, a).cmp(&(&cases[*b as usize].id, b)));
        let mut ranks = vec![None; cases.len()];
        for (rank, case) in (0_u32..).zip(&order) {
            ranks[*case as usize] = Some(rank);
        }
        let (by, metrics) = (by.to_vec(), observed.metrics.len());
        Self { by, metrics, order, ranks, found: HashMap::new(), places: Vec::new() }
    }

    /// Adds cells to the sums over each place and case.
    pub(super) fn add(&mut self, cells: &Cells, sampled: &[Sampled]) {
        let metrics = self.metrics;
        let mut sampled: HashMap<u32, _> = sampled.iter().map(|one| (one.case, one.effects.iter())).collect();
        for cell in 0..cells.len() {
            let in_samples = sampled.get_mut(&cells.case[cell]).and_then(Iterator::next);
            // Dropped cases have no cells.
            let Some(rank) = self.ranks[cells.case[cell] as usize] else { continue };
            let Some(key) = PlaceKey::of(cells, cell, &self.by) else { continue };
            let at = *self.found.entry(key).or_insert_with(|| {
                self.places.push(PlaceCases {
                    key,
                    entries: Vec::new(),
                    effects: Vec::new(),
                    errors: Vec::new(),
                    sampled: HashMap::new(),
                });
                self.places.len() - 1
            });
            let place = &mut self.places[at];
            if place.entries.last().is_none_or(|last| last.rank != rank) {
                place.entries.push(Entry { rank, cells: 0, trivial: 0, exact_null: 0 });
                place.effects.extend(std::iter::repeat_n(Some(0.0), metrics));
                place.errors.extend(std::iter::repeat_n(Some(0.0), metrics));
            }
            let Some(entry) = place.entries.last_mut() else { continue };
            entry.cells += 1;
            entry.trivial += usize::from(cells.trivial[cell] == Some(true));
            entry.exact_null += usize::from(cells.exact_null[cell] == Some(true));
            if let Some(effects) = in_samples {
                let sums = place.sampled.entry(rank).or_insert_with(|| vec![Some(0.0); effects.len()]);
                for (sum, effect) in sums.iter_mut().zip(effects) {
                    *sum = sum.zip(*effect).map(|(sum, effect)| sum + effect);
                }
            }
            let first = place.effects.len() - metrics;
            for (sum, columns) in place.effects[first..].iter_mut().zip(&cells.metrics) {
                *sum = sum.zip(columns.effect[cell]).map(|(sum, effect)| sum + effect);
            }
            for (sum, columns) in place.errors[first..].iter_mut().zip(&cells.metrics) {
                *sum = sum.zip(columns.effect_se[cell]).map(|(sum, error)| sum + error);
            }
        }
    }

    /// The table of the same cases.
    pub(super) fn finish(self, observed: &Observed) -> Table<'_> {
        let Self { order, mut places, metrics, .. } = self;
        for place in &mut places {
            place.finish(metrics);
        }
        places.sort_by(|a, b| in_order(observed, &a.key, &b.key));
        Table { observed, order, places }
    }
}

impl PlaceKey {
    /// Its name, of all cases together.
    pub(super) fn name(&self, observed: &Observed) -> Place {
        Place {
            arm: observed.arms[self.arm as usize].name.clone(),
            layer: self.layer,
            position: self.position,
            token_class: self.token_class.map(|class| TokenClass::ALL[class as usize].0.to_owned()),
            head: self.head,
            dim: self.dim,
            source_layer: self.source_layer,
            group: None,
        }
    }

    /// A cell by itself.
    pub(super) fn whole(cells: &Cells, cell: usize) -> Self {
        Self {
            arm: cells.arm[cell],
            layer: cells.layer[cell],
            position: cells.position[cell],
            token_class: cells.token_class[cell],
            head: cells.head[cell],
            dim: cells.dim[cell],
            source_layer: cells.source_layer[cell],
        }
    }

    /// The place of a cell among what is told apart. None where a position has no class, before the subject: it belongs to
    /// no average by class.
    pub(super) fn of(cells: &Cells, cell: usize, by: &[Key]) -> Option<Self> {
        let has = |key: Key| by.contains(&key);
        let classes = has(Key::TokenClass);
        if classes && cells.position[cell].is_some() && cells.token_class[cell].is_none() {
            return None;
        }
        let whole = Self::whole(cells, cell);
        Some(Self {
            arm: whole.arm,
            layer: whole.layer.filter(|_| has(Key::Layer)),
            position: whole.position.filter(|_| has(Key::Position)),
            token_class: whole.token_class.filter(|_| classes),
            head: whole.head.filter(|_| has(Key::Head)),
            dim: whole.dim.filter(|_| has(Key::Dim)),
            source_layer: whole.source_layer.filter(|_| has(Key::SourceLayer)),
        })
    }
}

impl PlaceCases {
    /// The effect of an entry on a metric.
    pub(super) fn effect(&self, entry: usize, metric: usize) -> Option<f64> {
        self.effects[entry * (self.effects.len() / self.entries.len()) + metric]
    }

    /// One entry, its error that of its mean over samples. Of a case that is one of several, and whose samples were not kept,
    /// that is at most the mean of the cells' errors: of a place that no other case has.
    pub(super) fn of_one(&self, entry: usize, metric: usize) -> CaseEstimate {
        let metrics = self.errors.len() / self.entries.len();
        let Entry { rank, cells, .. } = self.entries[entry];
        let se = match self.sampled.get(&rank) {
            Some(sums) => {
                let samples = sums.len() / metrics;
                let of_metric = sums[metric * samples..][..samples].iter();
                estimate(of_metric.map(|sum| sum.map(|sum| sum / cells as f64))).se
            }
            None => self.errors[entry * metrics + metric],
        };
        CaseEstimate::of_one(Estimate { mean: self.effect(entry, metric), se })
    }

    /// Cases go in order, and sums become means.
    fn finish(&mut self, metrics: usize) {
        let mut by_rank: Vec<usize> = (0..self.entries.len()).collect();
        by_rank.sort_by_key(|i| self.entries[*i].rank);
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries.len());
        let mut sums: [Vec<Option<f64>>; 2] = [0, 1].map(|_| Vec::with_capacity(self.effects.len()));
        for i in by_rank {
            let (next, range) = (self.entries[i], i * metrics..(i + 1) * metrics);
            let own = [&self.effects[range.clone()], &self.errors[range]];
            if let Some(last) = entries.last_mut().filter(|last| last.rank == next.rank) {
                // Its cells came in several pieces.
                last.cells += next.cells;
                last.trivial += next.trivial;
                last.exact_null += next.exact_null;
                for (sums, own) in sums.iter_mut().zip(own) {
                    let first = sums.len() - metrics;
                    for (sum, own) in sums[first..].iter_mut().zip(own) {
                        *sum = sum.zip(*own).map(|(a, b)| a + b);
                    }
                }
            } else {
                entries.push(next);
                sums.iter_mut().zip(own).for_each(|(sums, own)| sums.extend(own));
            }
        }
        for sums in &mut sums {
            for (entry, numbers) in entries.iter().zip(sums.chunks_mut(metrics.max(1))) {
                for number in numbers {
                    *number = number.and_then(|sum| finite(sum / entry.cells as f64));
                }
            }
        }
        let [effects, errors] = sums;
        (self.entries, self.effects, self.errors) = (entries, effects, errors);
    }
}

/// Arms in order, then the arm's axes from the outermost in: a place of a class stands where its positions would.
fn in_order(observed: &Observed, a: &PlaceKey, b: &PlaceKey) -> Ordering {
    let axes = observed.arms.get(a.arm as usize).map(|arm| &arm.axes[..]).unwrap_or_default();
    let by_axes = axes.iter().map(|axis| match axis.as_str() {
        "layer" => a.layer.cmp(&b.layer),
        "position" => (a.token_class, a.position).cmp(&(b.token_class, b.position)),
        "head" => a.head.cmp(&b.head),
        "source_layer" => a.source_layer.cmp(&b.source_layer),
        _ => a.dim.cmp(&b.dim),
    });
    let by_axes = by_axes.fold(Ordering::Equal, Ordering::then);
    // An arm of a fixed position may still have its class.
    a.arm.cmp(&b.arm).then(by_axes).then(a.token_class.cmp(&b.token_class))
}
