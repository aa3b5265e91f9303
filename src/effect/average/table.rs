//! Cells to one number for each place, case and metric.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Key, Place};
use crate::effect::bootstrap::CaseEstimate;
use crate::effect::cells::Observed;
use crate::effect::stats::{Estimate, finite};
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
}

/// Every place, in the order of arms and of their axes.
#[derive(Debug)]
pub(super) struct Table<'o> {
    pub(super) observed: &'o Observed,
    /// Indices of the kept cases by name: the order in which they are drawn and added up, whatever the order they came in.
    pub(super) order: Vec<u32>,
    pub(super) places: Vec<PlaceCases>,
}

impl<'o> Table<'o> {
    pub(super) fn new(observed: &'o Observed, by: &[Key]) -> Self {
        let cases = &observed.cases;
        let mut order: Vec<u32> = (0..cases.len() as u32).filter(|i| cases[*i as usize].kept).collect();
        order.sort_by(|a, b| (&cases[*a as usize].id, a).cmp(&(&cases[*b as usize].id, b)));
        let mut ranks = vec![None; cases.len()];
        for (rank, case) in (0_u32..).zip(&order) {
            ranks[*case as usize] = Some(rank);
        }
        let mut places = gather(observed, by, &ranks);
        for place in &mut places {
            place.finish(observed.metrics.len());
        }
        places.sort_by(|a, b| in_order(observed, &a.key, &b.key));
        Self { observed, order, places }
    }

    /// The place's name, of all cases together.
    pub(super) fn place(&self, key: &PlaceKey) -> Place {
        Place {
            arm: self.observed.arms[key.arm as usize].name.clone(),
            layer: key.layer,
            position: key.position,
            token_class: key.token_class.map(|class| TokenClass::ALL[class as usize].0.to_owned()),
            head: key.head,
            dim: key.dim,
            source_layer: key.source_layer,
            group: None,
        }
    }
}

impl PlaceCases {
    /// The effect of an entry on a metric.
    pub(super) fn effect(&self, entry: usize, metric: usize) -> Option<f64> {
        self.effects[entry * (self.effects.len() / self.entries.len()) + metric]
    }

    /// One entry, its error that over its samples; what several cells have in common is not known, so theirs is at most that.
    pub(super) fn of_one(&self, entry: usize, metric: usize) -> CaseEstimate {
        let se = self.errors[entry * (self.errors.len() / self.entries.len()) + metric];
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

/// Sums over the cells of each place and case, in as few pieces as a case's cells come in.
fn gather(observed: &Observed, by: &[Key], ranks: &[Option<u32>]) -> Vec<PlaceCases> {
    let (cells, metrics) = (&observed.cells, observed.metrics.len());
    let has = |key: Key| by.contains(&key);
    let told = [Key::Layer, Key::Position, Key::TokenClass, Key::Head, Key::Dim, Key::SourceLayer].map(has);
    let [layers, positions, classes, heads, dims, source_layers] = told;
    let mut found: HashMap<PlaceKey, usize> = HashMap::new();
    let mut places: Vec<PlaceCases> = Vec::new();
    for cell in 0..cells.len() {
        // Dropped cases have no cells.
        let Some(rank) = ranks[cells.case[cell] as usize] else { continue };
        // A position without a class, before the subject, belongs to no average by class.
        if classes && cells.position[cell].is_some() && cells.token_class[cell].is_none() {
            continue;
        }
        let key = PlaceKey {
            arm: cells.arm[cell],
            layer: cells.layer[cell].filter(|_| layers),
            position: cells.position[cell].filter(|_| positions),
            token_class: cells.token_class[cell].filter(|_| classes),
            head: cells.head[cell].filter(|_| heads),
            dim: cells.dim[cell].filter(|_| dims),
            source_layer: cells.source_layer[cell].filter(|_| source_layers),
        };
        let at = *found.entry(key).or_insert_with(|| {
            places.push(PlaceCases { key, entries: Vec::new(), effects: Vec::new(), errors: Vec::new() });
            places.len() - 1
        });
        let place = &mut places[at];
        if place.entries.last().is_none_or(|last| last.rank != rank) {
            place.entries.push(Entry { rank, cells: 0, trivial: 0, exact_null: 0 });
            place.effects.extend(std::iter::repeat_n(Some(0.0), metrics));
            place.errors.extend(std::iter::repeat_n(Some(0.0), metrics));
        }
        let Some(entry) = place.entries.last_mut() else { continue };
        entry.cells += 1;
        entry.trivial += usize::from(cells.trivial[cell] == Some(true));
        entry.exact_null += usize::from(cells.exact_null[cell] == Some(true));
        let first = place.effects.len() - metrics;
        for (sum, columns) in place.effects[first..].iter_mut().zip(&cells.metrics) {
            *sum = sum.zip(columns.effect[cell]).map(|(sum, effect)| sum + effect);
        }
        for (sum, columns) in place.errors[first..].iter_mut().zip(&cells.metrics) {
            *sum = sum.zip(columns.effect_se[cell]).map(|(sum, error)| sum + error);
        }
    }
    places
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
