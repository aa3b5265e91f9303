//! The strongest averages, and how likely it is to find one as clear among so many where there is nothing.
//!
//! Strongest is what has the largest |mean|. Whether it is more than chance is another question, which |t| and the p-value
//! answer ([`crate::effect::flips`]): of many averages the largest may well be one that a single case makes.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::compute::plain_mean;
use super::table::{PlaceCases, Table};
use super::{How, Top};
use crate::effect::bootstrap::Draws;
use crate::effect::flips::{Effects, Flips, SignFlips};
use crate::effect::stats::finite;
use crate::spec::sweep::Order;

/// The set that these draws are; those of means count up from 0.
const SET: u32 = u32::MAX;
/// Below this share of the mean square, a drawn variance is what rounding leaves of 0.
const DUST: f64 = 1e-12;

/// One average of a metric.
struct Candidate<'t> {
    place: &'t PlaceCases,
    n: usize,
    mean: f64,
    se: Option<f64>,
    t: Option<f64>,
}

/// The `k` strongest averages of each metric, and how they were tested; not at all with fewer than two cases.
pub(super) fn strongest(table: &Table<'_>, how: &How, k: usize) -> (Vec<Top>, Option<SignFlips>) {
    // Cases without any cell, as those that an interrupted sweep hasn't come to, are not drawn.
    let mut slots = vec![None; table.order.len()];
    for entry in table.places.iter().flat_map(|place| &place.entries) {
        slots[entry.rank as usize] = Some(0);
    }
    let mut cases = 0;
    for slot in slots.iter_mut().flatten() {
        *slot = cases;
        cases += 1;
    }
    let flips = (cases > 1).then(|| Flips::new(cases, &how.bootstrap()));
    let metrics = 0..table.observed.metrics.len();
    let top = metrics.flat_map(|metric| of_metric(table, how, k, metric, &slots, flips)).collect();
    (top, flips.map(|flips| flips.how()))
}

fn of_metric(
    table: &Table<'_>,
    how: &How,
    k: usize,
    metric: usize,
    slots: &[Option<usize>],
    flips: Option<Flips>,
) -> Vec<Top> {
    let found: Vec<Candidate<'_>> =
        table.places.iter().filter_map(|place| candidate(place, metric)).collect();
    let mut order: Vec<usize> = (0..found.len()).collect();
    let strengths: Vec<f64> = found.iter().map(|one| strength(how.order, one.mean, one.se)).collect();
    let by_size = |a: &usize, b: &usize| found[*b].mean.abs().total_cmp(&found[*a].mean.abs());
    order.sort_by(|a, b| strengths[*b].total_cmp(&strengths[*a]).then_with(|| by_size(a, b)));
    order.truncate(k);
    let tested = flips.map(|flips| {
        let mut matrix = Matrix::new(&found, slots, flips.how().cases, metric);
        let p = flips.p_values(&Effects { values: &matrix.values, width: found.len() });
        matrix.centre(&found);
        (p, among(&found, &matrix, k, how))
    });
    let ranked = (1..).zip(&order).map(|(rank, i)| {
        let one = &found[*i];
        let of_several = tested.as_ref().filter(|_| one.n > 1);
        Top {
            rank,
            at: table.place(&one.place.key),
            metric: table.observed.metrics[metric].clone(),
            mean: one.mean,
            se: one.se,
            n: one.n,
            t: one.t,
            p_max_t: of_several.and_then(|(p, _)| p[*i]),
            stability: of_several.map(|(_, among)| f64::from(among[*i]) / f64::from(how.resamples.max(1))),
        }
    });
    ranked.collect()
}

fn candidate(place: &PlaceCases, metric: usize) -> Option<Candidate<'_>> {
    // What restores the answer itself has the whole effect by construction: no finding.
    if place.entries.iter().all(|entry| entry.trivial == entry.cells) {
        return None;
    }
    let over = plain_mean(place, metric);
    let (mean, n) = (over.mean?, over.n);
    let t = over.se.filter(|se| *se > 0.0).and_then(|se| finite(mean / se));
    Some(Candidate { place, n, mean, se: over.se, t })
}

/// What averages are ranked by: the size of the effect, or |t|, which has no end where a mean has no error.
fn strength(order: Order, mean: f64, se: Option<f64>) -> f64 {
    match (order, se) {
        (Order::Effect, _) => mean.abs(),
        (Order::T, None) => -1.0,
        (Order::T, Some(_)) if mean == 0.0 => 0.0,
        (Order::T, Some(se)) => (mean / se).abs(),
    }
}

/// Effects of cases and which of them an average has, `[cases, averages]`; 0 where it hasn't.
struct Matrix {
    values: Vec<f64>,
    present: Vec<f64>,
    cases: usize,
}

impl Matrix {
    fn new(found: &[Candidate<'_>], slots: &[Option<usize>], cases: usize, metric: usize) -> Self {
        let width = found.len();
        let (mut values, mut present) = (vec![0.0; cases * width], vec![0.0; cases * width]);
        for (i, one) in found.iter().enumerate() {
            for (at, entry) in one.place.entries.iter().enumerate() {
                let Some(slot) = slots[entry.rank as usize] else { continue };
                values[slot * width + i] = one.place.effect(at, metric).unwrap_or(one.mean);
                present[slot * width + i] = 1.0;
            }
        }
        Self { values, present, cases }
    }

    /// Takes each average's mean from its effects.
    fn centre(&mut self, found: &[Candidate<'_>]) {
        let rows = self.values.chunks_exact_mut(found.len().max(1));
        for (row, present) in rows.zip(self.present.chunks_exact(found.len().max(1))) {
            for ((x, is), one) in row.iter_mut().zip(present).zip(found) {
                *x -= is * one.mean;
            }
        }
    }
}

/// In how many drawn sets of cases each average is among the strongest `k`. The effects are centred.
fn among(found: &[Candidate<'_>], centred: &Matrix, k: usize, how: &How) -> Vec<u32> {
    let width = found.len();
    let draws = Draws::new(centred.cases, &how.bootstrap(), SET);
    let sets: Vec<&[u32]> = draws.sets().collect();
    if k >= width {
        return vec![sets.len() as u32; width];
    }
    // Sets are independent of each other and counts are whole numbers, so how they are shared out changes nothing.
    let parts = sets.par_chunks(64).map(|sets| {
        let mut sums = Sums::new(width);
        let mut strengths = vec![0.0; width];
        let mut order: Vec<u32> = Vec::with_capacity(width);
        let mut among = vec![0_u32; width];
        for set in sets {
            sums.add(set, centred);
            for (i, one) in found.iter().enumerate() {
                strengths[i] = sums
                    .mean_and_se(i)
                    .map_or(-1.0, |(shift, se)| strength(how.order, one.mean + shift, one.se.map(|_| se)));
            }
            order.clear();
            order.extend(0..width as u32);
            order.select_nth_unstable_by(k, |a, b| stronger(&strengths, *a as usize, *b as usize));
            for i in &order[..k] {
                among[*i as usize] += 1;
            }
        }
        among
    });
    let mut all = vec![0; width];
    for among in parts.collect::<Vec<_>>() {
        all.iter_mut().zip(among).for_each(|(sum, n)| *sum += n);
    }
    all
}

/// In a drawn set, as averages are ranked; the first of equals first.
fn stronger(strengths: &[f64], a: usize, b: usize) -> Ordering {
    strengths[b].total_cmp(&strengths[a]).then(a.cmp(&b))
}

/// Sums over a drawn set, of each average.
struct Sums {
    counts: Vec<u32>,
    cases: Vec<f64>,
    values: Vec<f64>,
    squares: Vec<f64>,
}

impl Sums {
    fn new(width: usize) -> Self {
        let zeros = vec![0.0; width];
        Self { counts: Vec::new(), cases: zeros.clone(), values: zeros.clone(), squares: zeros }
    }

    /// A set of cases; each case is added once, as often as it was drawn.
    fn add(&mut self, set: &[u32], centred: &Matrix) {
        self.counts.clear();
        self.counts.resize(centred.cases, 0);
        for case in set {
            self.counts[*case as usize] += 1;
        }
        for sums in [&mut self.cases, &mut self.values, &mut self.squares] {
            sums.fill(0.0);
        }
        let width = self.values.len();
        for (case, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (times, row) = (f64::from(*count), case * width..(case + 1) * width);
            let sums = self.cases.iter_mut().zip(&mut self.values).zip(&mut self.squares);
            let effects = centred.values[row.clone()].iter().zip(&centred.present[row]);
            for (((n, sum), square), (x, is)) in sums.zip(effects) {
                *n += times * is;
                *sum += times * x;
                *square += times * x * x;
            }
        }
    }

    /// Mean and standard error of an average's centred effects; none where no case of its was drawn.
    fn mean_and_se(&self, i: usize) -> Option<(f64, f64)> {
        let (n, sum, square) = (self.cases[i], self.values[i], self.squares[i]);
        if n == 0.0 {
            return None;
        }
        let mean = sum / n;
        let rest = square - sum * mean;
        let se = if n < 2.0 || rest <= DUST * square { 0.0 } else { (rest / (n - 1.0) / n).sqrt() };
        Some((mean, se))
    }
}
