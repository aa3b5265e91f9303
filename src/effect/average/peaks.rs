//! Where each case's effect is largest: averages hide where it lies in each prompt (Hase et al. 2023).

use std::collections::HashMap;

use super::table::{PlaceKey, Table};
use super::{Average, Key, Peak, Place};
use crate::effect::cells::{Cells, Observed};
use crate::effect::derived::Strength;
use crate::effect::stats::fraction;

/// The strongest cells so far.
#[derive(Debug)]
pub(super) struct Peaks {
    by: Vec<Key>,
    /// `[cases, arms, metrics]`
    best: Vec<Option<Best>>,
}

#[derive(Debug, Clone, Copy)]
struct Best {
    /// The cell itself.
    cell: PlaceKey,
    /// The average that it belongs to.
    place: PlaceKey,
    effect: f64,
}

impl Peaks {
    pub(super) fn new(observed: &Observed, by: &[Key]) -> Self {
        let n = observed.cases.len() * observed.arms.len() * observed.metrics.len();
        Self { by: by.to_vec(), best: vec![None; n] }
    }

    /// Looks at more cells. What restores the answer itself is no peak, and neither is what belongs to no average.
    pub(super) fn add(&mut self, observed: &Observed, cells: &Cells) {
        for i in (0..cells.len()).filter(|i| cells.trivial[*i] != Some(true)) {
            let (case, arm) = (cells.case[i] as usize, cells.arm[i] as usize);
            let place = PlaceKey::of(cells, i, &self.by).filter(|_| observed.cases[case].kept);
            let Some(place) = place else { continue };
            for (metric, columns) in cells.metrics.iter().enumerate() {
                let Some(effect) = columns.effect[i] else { continue };
                let strength = Strength::towards(whole(observed, case, arm, metric));
                let (arms, metrics) = (observed.arms.len(), observed.metrics.len());
                let best = &mut self.best[(case * arms + arm) * metrics + metric];
                // The first of equals, so that the answer doesn't depend on the iteration.
                if best.is_none_or(|best| strength.of(effect) > strength.of(best.effect)) {
                    *best = Some(Best { cell: PlaceKey::whole(cells, i), place, effect });
                }
            }
        }
    }

    /// Each with its case and metric.
    fn each(&self, observed: &Observed) -> impl Iterator<Item = (usize, usize, &Best)> {
        let (arms, metrics) = (observed.arms.len(), observed.metrics.len());
        let found = self.best.iter().enumerate();
        found.filter_map(move |(i, best)| Some((i / metrics / arms, i % metrics, best.as_ref()?)))
    }

    /// Counts the peaks of each average.
    pub(super) fn count(&self, observed: &Observed, rows: &mut [Average]) {
        let mut counts: HashMap<(Place, &str), usize> = HashMap::new();
        for (case, metric, best) in self.each(observed) {
            let all = best.place.name(observed);
            let group = observed.cases[case].group.clone().filter(|_| self.by.contains(&Key::Group));
            let own = group.map(|group| Place { group: Some(group), ..all.clone() });
            for place in own.into_iter().chain([all]) {
                *counts.entry((place, &observed.metrics[metric])).or_default() += 1;
            }
        }
        for row in rows {
            row.peaks = counts.get(&(row.at.clone(), row.metric.as_str())).copied().unwrap_or(0);
        }
    }

    /// All of them, case by case in the order of a table.
    pub(super) fn list(&self, table: &Table<'_>) -> Vec<Peak> {
        let observed = table.observed;
        let mut ranks = vec![0; observed.cases.len()];
        for (rank, case) in table.order.iter().enumerate() {
            ranks[*case as usize] = rank;
        }
        let mut all: Vec<(usize, usize, &Best)> = self.each(observed).collect();
        all.sort_by_key(|(case, ..)| ranks[*case]);
        let peak = |(case, metric, best): (usize, usize, &Best)| Peak {
            case: observed.cases[case].id.clone(),
            metric: observed.metrics[metric].clone(),
            at: best.cell.name(observed),
            effect: best.effect,
            recovery: fraction(Some(best.effect), whole(observed, case, best.cell.arm as usize, metric)),
        };
        all.into_iter().map(peak).collect()
    }
}

/// A case's total effect.
fn whole(observed: &Observed, case: usize, arm: usize, metric: usize) -> Option<f64> {
    observed.cases[case].total_effect.get(arm)?.get(metric)?.mean
}
