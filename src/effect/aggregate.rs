//! Averages over cases by token class (Meng et al. 2022), with confidence intervals by a bootstrap over cases.
//!
//! Within a case, a cell is the mean over noise samples, and a class the mean over its positions. Across cases each case
//! that has the class counts once. The averages of sweeps ([`super::average`]) are the same of whole tables of cells; here
//! each case is reduced to its classes as soon as it is traced, so that its cells need not be held, and positions,
//! trivial cells and peaks are counted, which a table of classes would have lost.

use std::collections::HashMap;

use super::bootstrap::{CaseEstimate, Draws, difference, mean, ratio};
use super::cases::{CLASSES, CaseEffects};
use crate::spec::cases::Bootstrap;
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

/// Cases that are averaged together, with their draws.
#[derive(Debug)]
pub struct Pool<'c> {
    cases: Vec<&'c CaseEffects>,
    direction: Direction,
    bootstrap: Bootstrap,
    /// Different pools draw independently.
    set: u32,
    /// Draws by the number of cases.
    draws: HashMap<usize, Draws>,
}

impl<'c> Pool<'c> {
    /// A pool. Pools of different `set`s draw independently.
    pub fn new(cases: Vec<&'c CaseEffects>, direction: Direction, bootstrap: Bootstrap, set: u32) -> Self {
        Self { cases, direction, bootstrap, set, draws: HashMap::new() }
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
        let values: Vec<_> =
            self.cases.iter().map(|case| case.baselines.total_effect[measure].mean).collect();
        mean(&values, self.draws(values.len()))
    }

    /// Averages of an arm and a metric, `[classes, layers]`.
    pub fn averages(&mut self, arm: usize, measure: usize, layers: usize) -> Vec<Average> {
        let mut averages = Vec::with_capacity(CLASSES * layers);
        for class in 0..CLASSES {
            let wholes = self.wholes(arm, class, measure);
            for layer in 0..layers {
                let parts = self.cells(arm, class, measure, class * layers + layer);
                let draws = self.draws(parts.len());
                let (recovery, recovery_ci) = ratio(&parts, &wholes, draws);
                averages.push(Average { effect: mean(&parts, draws), recovery, recovery_ci });
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
