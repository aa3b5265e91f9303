//! Averages over cases by token class (Meng et al. 2022), with confidence intervals by a bootstrap over cases.
//!
//! Within a case, a cell is the mean over noise samples, and a class the mean over its positions. Across cases each case
//! that has the class counts once. The averages of sweeps ([`super::average`]) are the same of whole tables of cells; here
//! each case is reduced to its classes as soon as it is traced, so that its cells need not be held, and positions,
//! trivial cells and peaks are counted, which a table of classes would have lost.

use std::collections::HashMap;

use super::bootstrap::{CaseEstimate, Draws, difference, mean, ratio, robust};
use super::cases::{CLASSES, CaseEffects};
use super::stats::{Estimate, dominating};
use crate::spec::cases::{Aggregate, Bootstrap, Stat};
use crate::spec::trace::Direction;

/// The average of one class at one layer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Average {
    /// Mean effect over cases (AIE).
    pub effect: CaseEstimate,
    /// That mean over the mean total effect of the same cases (AIE / ATE; for noising over its negative).
    pub recovery: Option<f64>,
    /// Its interval.
    pub recovery_ci: Option<[f64; 2]>,
}

/// An average that one case makes more than half of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneCase {
    /// The case, as an index into the pool's.
    pub case: usize,
    /// The arm.
    pub arm: usize,
    /// Index into `[classes, layers]`.
    pub cell: usize,
    /// The average.
    pub mean: f64,
    /// The average of the other cases.
    pub without: f64,
}

/// Cases that are averaged together, with their draws.
#[derive(Debug)]
pub struct Pool<'c> {
    cases: Vec<&'c CaseEffects>,
    direction: Direction,
    bootstrap: Bootstrap,
    stats: Vec<Stat>,
    /// Different pools draw independently.
    set: u32,
    /// Draws by the number of cases.
    draws: HashMap<usize, Draws>,
}

impl<'c> Pool<'c> {
    /// A pool. Pools of different `set`s draw independently.
    pub fn new(cases: Vec<&'c CaseEffects>, direction: Direction, how: &Aggregate, set: u32) -> Self {
        let (bootstrap, stats) = (how.ci, how.stats.clone());
        Self { cases, direction, bootstrap, stats, set, draws: HashMap::new() }
    }

    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    fn draws(&mut self, n: usize) -> &Draws {
        let (bootstrap, set) = (&self.bootstrap, self.set);
        self.draws.entry(n).or_insert_with(|| Draws::new(n, bootstrap, set))
    }

    /// Mean total effect (ATE) on a metric, given by its place.
    pub fn total_effect(&mut self, measure: usize) -> CaseEstimate {
        let totals: Vec<_> = self.cases.iter().map(|case| case.baselines.total_effect[measure]).collect();
        self.estimate(&totals)
    }

    /// The mean of cases; of a single one with its error over samples.
    fn estimate(&mut self, cases: &[Estimate]) -> CaseEstimate {
        let values: Vec<Option<f64>> = cases.iter().map(|case| case.mean).collect();
        let stats = self.stats.clone();
        let draws = self.draws(values.len());
        let over = if let [one] = cases { CaseEstimate::of_one(*one) } else { mean(&values, draws) };
        CaseEstimate { robust: robust(&values, draws, &stats), ..over }
    }

    /// Averages of an arm and a metric, `[classes, layers]`.
    pub fn averages(&mut self, arm: usize, measure: usize, layers: usize) -> Vec<Average> {
        let mut averages = Vec::with_capacity(CLASSES * layers);
        for class in 0..CLASSES {
            let wholes = self.wholes(arm, class, measure);
            for layer in 0..layers {
                let cell = class * layers + layer;
                let parts = self.cells(arm, class, measure, cell);
                let (recovery, recovery_ci) = ratio(&parts, &wholes, self.draws(parts.len()));
                let cases: Vec<Estimate> = self
                    .with_class(arm, class)
                    .zip(&parts)
                    .map(|(case, mean)| Estimate { mean: *mean, se: case.arms[arm].errors[measure][cell] })
                    .collect();
                averages.push(Average { effect: self.estimate(&cases), recovery, recovery_ci });
            }
        }
        averages
    }

    /// This pool's averages minus another's, `[classes, layers]`.
    pub fn differences(
        &mut self,
        other: &mut Pool<'_>,
        arm: usize,
        measure: usize,
        layers: usize,
    ) -> Vec<CaseEstimate> {
        let cells = (0..CLASSES * layers).map(|cell| {
            let a = self.cells(arm, cell / layers, measure, cell);
            let b = other.cells(arm, cell / layers, measure, cell);
            difference((&a, self.draws(a.len())), (&b, other.draws(b.len())))
        });
        cells.collect()
    }

    /// Which of the strongest averages of a metric, `[classes, layers]` of every arm, trivial ones apart, one case makes: the
    /// case, as an index into the pool's, with its arm and cell, the mean, and that of the other cases; and of how many.
    pub fn dominated(&self, measure: usize, strongest: usize) -> (Vec<OneCase>, usize) {
        let arms = self.cases.first().map_or(0, |case| case.arms.len());
        let mut known = Vec::new();
        for arm in 0..arms {
            let layers = self.cases[0].arms[arm].layers;
            for cell in 0..CLASSES * layers {
                let members: Vec<usize> = (0..self.cases.len())
                    .filter(|case| self.cases[*case].arms[arm].positions[cell / layers] > 0)
                    .collect();
                let of = |case: &usize| &self.cases[*case].arms[arm];
                let trivial =
                    members.iter().all(|case| of(case).trivial[cell] == of(case).positions[cell / layers]);
                let effects: Option<Vec<f64>> =
                    members.iter().map(|case| of(case).effects[measure][cell]).collect();
                let Some(effects) = effects.filter(|effects| !trivial && !effects.is_empty()) else {
                    continue;
                };
                let mean = effects.iter().sum::<f64>() / effects.len() as f64;
                known.push((mean, arm, cell, members, effects));
            }
        }
        known.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        known.truncate(strongest);
        let of = known.len();
        let found = known.into_iter().filter_map(|(mean, arm, cell, members, effects)| {
            let (at, n) = (dominating(&effects)?, effects.len() as f64);
            let without = (mean * n - effects[at]) / (n - 1.0);
            Some(OneCase { case: members[at], arm, cell, mean, without })
        });
        (found.collect(), of)
    }

    /// The class of such an average, by number.
    pub fn class_of(&self, one: &OneCase) -> usize {
        one.cell / self.cases[one.case].arms[one.arm].layers
    }

    /// How many positions each class has in all cases together, `[classes]`.
    pub fn positions(&self, arm: usize) -> Vec<usize> {
        (0..CLASSES)
            .map(|class| self.cases.iter().map(|case| case.arms[arm].positions[class]).sum())
            .collect()
    }

    /// How many cells, `[classes, layers]`, of all cases together are counted by `of`.
    pub fn counts(&self, layers: usize, of: impl Fn(&'c CaseEffects) -> &'c [usize]) -> Vec<usize> {
        let mut counts = vec![0; CLASSES * layers];
        for case in &self.cases {
            counts.iter_mut().zip(of(case)).for_each(|(sum, n)| *sum += n);
        }
        counts
    }

    /// How many cases have their largest effect in each class and layer, `[classes, layers]`. `layer_values`: the layers of
    /// the map, if there are any.
    pub fn peaks(&self, arm: usize, measure: usize, layer_values: Option<&[u32]>) -> Vec<usize> {
        let layers = layer_values.map_or(1, <[u32]>::len);
        let mut counts = vec![0; CLASSES * layers];
        for peak in self.cases.iter().filter_map(|case| case.arms[arm].argmax[measure]) {
            let place = match (layer_values, peak.cell.layer) {
                (Some(values), Some(layer)) => values.iter().position(|value| *value == layer),
                _ => Some(0),
            };
            if let Some(place) = place {
                counts[peak.class as usize * layers + place] += 1;
            }
        }
        counts
    }

    /// The numbers of a cell in the cases that have its class.
    fn cells(&self, arm: usize, class: usize, measure: usize, cell: usize) -> Vec<Option<f64>> {
        self.with_class(arm, class).map(|case| case.arms[arm].effects[measure][cell]).collect()
    }

    /// What the whole patch would do, in the cases that have a class.
    fn wholes(&self, arm: usize, class: usize, measure: usize) -> Vec<Option<f64>> {
        let sign = match self.direction {
            Direction::Denoising => 1.0,
            Direction::Noising => -1.0,
        };
        let whole = |case: &CaseEffects| case.baselines.total_effect[measure].mean.map(|x| sign * x);
        self.with_class(arm, class).map(whole).collect()
    }

    fn with_class(&self, arm: usize, class: usize) -> impl Iterator<Item = &'c CaseEffects> + '_ {
        self.cases.iter().copied().filter(move |case| case.arms[arm].positions[class] > 0)
    }
}
