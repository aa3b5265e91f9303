//! The strongest averages, and how likely it is to find one as strong among so many where there is nothing.
//!
//! Looking at the largest of a thousand averages needs another test than looking at one. The single-step max-statistic of
//! Westfall and Young (1993) asks how large the largest |t| of all gets when nothing is there: effects are centred, so that
//! every mean is 0, and sets of cases are drawn, one set for all averages at a time, so that averages that go together
//! stay together. That controls the chance of a single false finding among all averages of a metric.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::compute::plain_mean;
use super::table::{PlaceCases, Table};
use super::{How, Top};
use crate::effect::bootstrap::Draws;
use crate::effect::stats::finite;

/// The set that these draws are; those of means count up from 0.
const SET: u32 = u32::MAX;
/// An average takes part in the test if at most this share of drawn sets holds fewer than two different of its cases, or if
/// every case has it. In such sets |t| has no end, and with it the maximum over all averages.
const DEGENERATE: f64 = 1e-3;
/// Below this share of the mean square, a drawn variance is what rounding leaves of 0.
const DUST: f64 = 1e-12;

/// How an average is ranked: by the kind of its t, then by its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The same effect in every case.
    Constant,
    /// Takes part in the test.
    Tested,
    /// In too few cases to be tested.
    Few,
    /// Fewer than two cases, or no effect in any of them.
    Without,
}

/// One average of a metric.
struct Candidate<'t> {
    place: &'t PlaceCases,
    kind: Kind,
    n: usize,
    mean: f64,
    t: Option<f64>,
}

/// The `k` strongest averages of each metric.
pub(super) fn strongest(table: &Table<'_>, how: &How, k: usize) -> Vec<Top> {
    (0..table.observed.metrics.len()).flat_map(|metric| of_metric(table, how, k, metric)).collect()
}

fn of_metric(table: &Table<'_>, how: &How, k: usize, metric: usize) -> Vec<Top> {
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
    let found: Vec<Candidate<'_>> =
        table.places.iter().filter_map(|place| candidate(place, metric, cases)).collect();
    let mut order: Vec<usize> = (0..found.len()).collect();
    let by_t = |i: &usize| found[*i].t.unwrap_or(0.0).abs();
    let by_mean = |i: &usize| found[*i].mean.abs();
    order.sort_by(|a, b| {
        let kinds = found[*a].kind.cmp(&found[*b].kind);
        kinds.then_with(|| by_t(b).total_cmp(&by_t(a))).then_with(|| by_mean(b).total_cmp(&by_mean(a)))
    });
    order.truncate(k);

    let drawn = (cases > 1).then(|| draw(&found, &slots, cases, k, metric, how));
    let ranked = (1..).zip(&order).map(|(rank, i)| {
        let one = &found[*i];
        let p = drawn.as_ref().zip(one.t.filter(|_| one.kind == Kind::Tested)).map(|(drawn, t)| {
            let below = drawn.maxima.partition_point(|max| *max < t.abs());
            (1 + drawn.maxima.len() - below) as f64 / (drawn.maxima.len() + 1) as f64
        });
        let sets = how.resamples.max(1);
        let stability = drawn.as_ref().filter(|_| one.n > 1).map(|d| d.among[*i] as f64 / sets as f64);
        Top {
            rank,
            at: table.place(&one.place.key),
            metric: table.observed.metrics[metric].clone(),
            mean: one.mean,
            t: one.t,
            p_max_t: p,
            stability,
        }
    });
    ranked.collect()
}

/// `cases`: how many are drawn from.
fn candidate(place: &PlaceCases, metric: usize, cases: usize) -> Option<Candidate<'_>> {
    // What restores the answer itself has the whole effect by construction: no finding.
    if place.entries.iter().all(|entry| entry.trivial == entry.cells) {
        return None;
    }
    let over = plain_mean(place, metric);
    let (mean, n) = (over.mean?, over.n);
    let t = over.se.filter(|se| *se > 0.0).and_then(|se| finite(mean / se));
    let tested = n == cases || degenerate(n, cases) <= DEGENERATE;
    let kind = match (over.se, t) {
        (Some(_), None) if mean != 0.0 && tested => Kind::Constant,
        (Some(_), Some(_)) if tested => Kind::Tested,
        (Some(_), _) if mean != 0.0 || t.is_some() => Kind::Few,
        _ => Kind::Without,
    };
    Some(Candidate { place, kind, n, mean, t })
}

/// The probability that `all` draws out of `all` cases hold fewer than two different of `n` of them.
fn degenerate(n: usize, all: usize) -> f64 {
    let (part, draws) = (n as f64 / all as f64, all as f64);
    let none = (1.0 - part).powf(draws);
    none + n as f64 * ((1.0 - part + 1.0 / all as f64).powf(draws) - none)
}

/// What drawn sets of cases gave.
struct Drawn {
    /// The largest |t| of centred effects over the averages that are tested, of each set, ascending.
    maxima: Vec<f64>,
    /// In how many sets each average is among the strongest `k`.
    among: Vec<u32>,
}

fn draw(
    found: &[Candidate<'_>],
    slots: &[Option<usize>],
    cases: usize,
    k: usize,
    metric: usize,
    how: &How,
) -> Drawn {
    let width = found.len();
    // Centred effects and which cases have them, `[cases, averages]`; 0 where one hasn't.
    let (mut centred, mut present) = (vec![0.0; cases * width], vec![0.0; cases * width]);
    for (i, one) in found.iter().enumerate() {
        for (at, entry) in one.place.entries.iter().enumerate() {
            let Some(slot) = slots[entry.rank as usize] else { continue };
            centred[slot * width + i] = one.place.effect(at, metric).unwrap_or(one.mean) - one.mean;
            present[slot * width + i] = 1.0;
        }
    }
    let draws = Draws::new(cases, &how.bootstrap(), SET);
    let sets: Vec<&[u32]> = draws.sets().collect();
    // Sets are independent of each other and counts are whole numbers, so how they are shared out changes nothing.
    let parts = sets.par_chunks(64).map(|sets| {
        let mut sums = Sums::new(width);
        let mut strengths = vec![0.0; width];
        let mut order: Vec<u32> = Vec::with_capacity(width);
        let (mut maxima, mut among) = (Vec::with_capacity(sets.len()), vec![0_u32; width]);
        for set in sets {
            sums.add(set, cases, &centred, &present);
            let mut max = 0.0_f64;
            for (i, one) in found.iter().enumerate() {
                let (shift, se) = sums.mean_and_se(i);
                if one.kind == Kind::Tested {
                    max = max.max(size(shift, se));
                }
                strengths[i] = size(one.mean + shift, se);
            }
            maxima.push(max);
            if k >= width {
                for n in &mut among {
                    *n += 1;
                }
                continue;
            }
            order.clear();
            order.extend(0..width as u32);
            order.select_nth_unstable_by(k, |a, b| stronger(found, &strengths, *a as usize, *b as usize));
            for i in &order[..k] {
                among[*i as usize] += 1;
            }
        }
        (maxima, among)
    });
    let mut all = Drawn { maxima: Vec::with_capacity(sets.len()), among: vec![0; width] };
    for (maxima, among) in parts.collect::<Vec<_>>() {
        all.maxima.extend(maxima);
        all.among.iter_mut().zip(among).for_each(|(sum, n)| *sum += n);
    }
    all.maxima.sort_unstable_by(f64::total_cmp);
    all
}

/// In a drawn set, as averages are ranked; the first of equals first.
fn stronger(found: &[Candidate<'_>], strengths: &[f64], a: usize, b: usize) -> Ordering {
    let kinds = found[a].kind.cmp(&found[b].kind);
    kinds.then_with(|| strengths[b].total_cmp(&strengths[a])).then(a.cmp(&b))
}

/// |t|: without end if a mean has no error, 0 if there is nothing.
fn size(mean: f64, se: f64) -> f64 {
    if mean == 0.0 { 0.0 } else { (mean / se).abs() }
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
    fn add(&mut self, set: &[u32], cases: usize, centred: &[f64], present: &[f64]) {
        self.counts.clear();
        self.counts.resize(cases, 0);
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
            for (((n, sum), square), (x, is)) in sums.zip(centred[row.clone()].iter().zip(&present[row])) {
                *n += times * is;
                *sum += times * x;
                *square += times * x * x;
            }
        }
    }

    /// Mean and standard error of an average's centred effects; 0 and 0 where no case of its was drawn.
    fn mean_and_se(&self, i: usize) -> (f64, f64) {
        let (n, sum, square) = (self.cases[i], self.values[i], self.squares[i]);
        if n == 0.0 {
            return (0.0, 0.0);
        }
        let mean = sum / n;
        let rest = square - sum * mean;
        let se = if n < 2.0 || rest <= DUST * square { 0.0 } else { (rest / (n - 1.0) / n).sqrt() };
        (mean, se)
    }
}
