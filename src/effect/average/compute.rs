//! Means over cases with their intervals: totals, rows and differences.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::table::{Entry, PlaceCases, PlaceKey, Table};
use super::{Average, Difference, Dominated, EACH_WITH_EACH, How, Key, Place, Total};
use crate::effect::bootstrap::{CaseEstimate, Draws, difference, mean, ratio, robust};
use crate::effect::cells::{CaseHead, Observed};
use crate::effect::stats::{self, Estimate};
use crate::spec::statistics::{Bootstrap, Stat};

/// Cases that are averaged together: all, or those of a group.
#[derive(Debug)]
struct Pool {
    group: Option<String>,
    /// Pools of different sets draw independently.
    set: u32,
    /// Whether each kept case belongs to it, by rank.
    member: Vec<bool>,
}

impl Pool {
    /// The place's entries in this pool, with their indices.
    fn entries<'p>(&'p self, place: &'p PlaceCases) -> impl Iterator<Item = (usize, &'p Entry)> {
        place.entries.iter().enumerate().filter(|(_, entry)| self.member[entry.rank as usize])
    }

    /// Each case's effect.
    fn effects(&self, place: &PlaceCases, metric: usize) -> Vec<Option<f64>> {
        self.entries(place).map(|(i, _)| place.effect(i, metric)).collect()
    }
}

/// Every pool, with what they are drawn from.
#[derive(Debug)]
pub(super) struct Pools<'t, 'o> {
    table: &'t Table<'o>,
    bootstrap: Bootstrap,
    stats: &'t [Stat],
    /// All cases, then each group's in the order in which cases name them.
    list: Vec<Pool>,
}

impl<'t, 'o> Pools<'t, 'o> {
    pub(super) fn new(observed: &Observed, table: &'t Table<'o>, how: &'t How) -> Self {
        let mut pools = vec![Pool { group: None, set: 0, member: vec![true; table.order.len()] }];
        let mut names: Vec<&str> = Vec::new();
        if how.by.contains(&Key::Group) {
            for name in observed.cases.iter().filter_map(|case| case.group.as_deref()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        // Sets go by name: a group's draws don't depend on which case comes first.
        let mut sorted = names.clone();
        sorted.sort_unstable();
        for name in names {
            let set = sorted.binary_search(&name).map_or(0, |i| i as u32) + 1;
            let of = |case: &u32| observed.cases[*case as usize].group.as_deref() == Some(name);
            let member = table.order.iter().map(of).collect();
            pools.push(Pool { group: Some(name.to_owned()), set, member });
        }
        Self { table, bootstrap: how.bootstrap(), stats: &how.stats, list: pools }
    }

    /// Total effects: of each pool, arm and metric.
    pub(super) fn totals(&self) -> Vec<Total> {
        let Observed { arms, metrics, .. } = self.table.observed;
        let mut totals = Vec::new();
        for pool in &self.list {
            let ranks: Vec<u32> =
                (0..self.table.order.len() as u32).filter(|rank| pool.member[*rank as usize]).collect();
            let draws = Draws::new(ranks.len(), &self.bootstrap, pool.set);
            for (i, arm) in arms.iter().enumerate() {
                for (j, metric) in metrics.iter().enumerate() {
                    let values: Vec<_> = ranks.iter().map(|rank| self.total(*rank, i, j)).collect();
                    let (arm, group) = (arm.name.clone(), pool.group.clone());
                    let over = match ranks[..] {
                        [one] => CaseEstimate::of_one(self.total_of(one, i, j).unwrap_or_default()),
                        _ => mean(&values, &draws),
                    };
                    let total_effect = CaseEstimate { robust: robust(&values, &draws, self.stats), ..over };
                    totals.push(Total { arm, group, metric: metric.clone(), total_effect });
                }
            }
        }
        totals
    }

    /// Averages of each pool, place and metric.
    pub(super) fn rows(&self) -> Vec<Average> {
        let mut jobs = Vec::new();
        for pool in &self.list {
            for place in &self.table.places {
                let n = pool.entries(place).count();
                if n > 0 {
                    let metrics = 0..self.table.observed.metrics.len();
                    jobs.extend(metrics.map(|metric| ([(pool.set, n)], (pool, place, metric))));
                }
            }
        }
        self.drawn(jobs, |[draws], (pool, place, metric)| {
            let effects = pool.effects(place, metric);
            let arm = place.key.arm as usize;
            let totals: Vec<_> =
                pool.entries(place).map(|(_, entry)| self.total(entry.rank, arm, metric)).collect();
            let (recovery, recovery_ci) = ratio(&effects, &totals, draws);
            let count = |of: fn(&Entry) -> usize| pool.entries(place).map(|(_, entry)| of(entry)).sum();
            let mut own = pool.entries(place);
            let over = match (own.next(), own.next()) {
                (Some((one, _)), None) => place.of_one(one, metric),
                _ => mean(&effects, draws),
            };
            Average {
                at: Place { group: pool.group.clone(), ..self.table.place(&place.key) },
                metric: self.table.observed.metrics[metric].clone(),
                effect: CaseEstimate { robust: robust(&effects, draws, self.stats), ..over },
                recovery,
                recovery_ci,
                cells: count(|entry| entry.cells),
                trivial: count(|entry| entry.trivial),
                exact_null: count(|entry| entry.exact_null),
                peaks: 0,
            }
        })
    }

    /// Differences between groups, then, if asked for, between arms.
    pub(super) fn differences(&self, arms: bool) -> Vec<Difference> {
        let mut all = self.between_groups();
        if arms {
            all.extend(self.between_arms());
        }
        all
    }

    /// Independent draws of both groups.
    fn between_groups(&self) -> Vec<Difference> {
        let groups = &self.list[1..];
        let last_first = if groups.len() > EACH_WITH_EACH { 1 } else { groups.len() };
        let mut jobs = Vec::new();
        for (i, a) in groups.iter().enumerate().take(last_first) {
            for b in &groups[i + 1..] {
                for place in &self.table.places {
                    let (n, m) = (a.entries(place).count(), b.entries(place).count());
                    if n > 0 && m > 0 {
                        let metrics = 0..self.table.observed.metrics.len();
                        jobs.extend(metrics.map(|metric| ([(a.set, n), (b.set, m)], (a, b, place, metric))));
                    }
                }
            }
        }
        self.drawn(jobs, |[first, second], (a, b, place, metric)| {
            let found = difference((&a.effects(place, metric), first), (&b.effects(place, metric), second));
            let name = |pool: &Pool| pool.group.clone().unwrap_or_default();
            Difference {
                over: Key::Group,
                a: name(a),
                b: name(b),
                at: self.table.place(&place.key),
                metric: self.table.observed.metrics[metric].clone(),
                difference: found,
            }
        })
    }

    /// Case by case, so that what cases have in common cancels.
    fn between_arms(&self) -> Vec<Difference> {
        let arms = &self.table.observed.arms;
        let placed: HashMap<PlaceKey, &PlaceCases> =
            self.table.places.iter().map(|place| (place.key, place)).collect();
        let mut jobs = Vec::new();
        for pool in &self.list {
            for (first, second) in pairs(arms.len() as u32) {
                for a in self.table.places.iter().filter(|place| place.key.arm == first) {
                    let key = PlaceKey { arm: second, ..a.key };
                    let Some(b) = placed.get(&key).copied() else { continue };
                    let n = pool.entries(a).count();
                    let ranks = |place| pool.entries(place).map(|(_, entry)| entry.rank);
                    if n > 0 && ranks(a).eq(ranks(b)) {
                        let metrics = 0..self.table.observed.metrics.len();
                        jobs.extend(metrics.map(|metric| ([(pool.set, n)], (pool, a, b, metric))));
                    }
                }
            }
        }
        self.drawn(jobs, |[draws], (pool, a, b, metric)| {
            let pairs = pool.effects(a, metric).into_iter().zip(pool.effects(b, metric));
            let differences: Vec<_> = pairs.map(|(a, b)| stats::difference(a, b)).collect();
            let name = |place: &PlaceCases| arms[place.key.arm as usize].name.clone();
            let at = Place { arm: String::new(), group: pool.group.clone(), ..self.table.place(&a.key) };
            Difference {
                over: Key::Arm,
                a: name(a),
                b: name(b),
                at,
                metric: self.table.observed.metrics[metric].clone(),
                difference: mean(&differences, draws),
            }
        })
    }

    /// A case's total effect.
    fn total(&self, rank: u32, arm: usize, metric: usize) -> Option<f64> {
        self.total_of(rank, arm, metric)?.mean
    }

    /// The same with its error over samples.
    fn total_of(&self, rank: u32, arm: usize, metric: usize) -> Option<Estimate> {
        self.case(rank).total_effect.get(arm)?.get(metric).copied()
    }

    fn case(&self, rank: u32) -> &'o CaseHead {
        &self.table.observed.cases[self.table.order[rank as usize] as usize]
    }

    /// Which of the strongest averages of each pool and metric, trivial ones apart, one case makes, by case.
    pub(super) fn dominated(&self, strongest: usize) -> Vec<Dominated> {
        let mut all: Vec<Dominated> = Vec::new();
        for pool in &self.list {
            for (metric, name) in self.table.observed.metrics.iter().enumerate() {
                let known = self.table.places.iter().filter_map(|place| {
                    let entries: Vec<&Entry> = pool.entries(place).map(|(_, entry)| entry).collect();
                    let effects: Vec<f64> = pool.effects(place, metric).into_iter().collect::<Option<_>>()?;
                    let trivial = entries.iter().all(|entry| entry.trivial == entry.cells);
                    let mean = stats::estimate(effects.iter().copied().map(Some)).mean?;
                    (!trivial).then_some((mean, place, entries, effects))
                });
                let mut known: Vec<_> = known.collect();
                known.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
                known.truncate(strongest);
                let of = known.len();
                let first = all.len();
                for (mean, place, entries, effects) in known {
                    let Some(at) = stats::dominating(&effects) else { continue };
                    let case = &self.case(entries[at].rank).id;
                    if let Some(same) = all[first..].iter_mut().find(|found| found.case == *case) {
                        same.averages[0] += 1;
                        continue;
                    }
                    let n = effects.len() as f64;
                    all.push(Dominated {
                        metric: name.clone(),
                        group: pool.group.clone(),
                        case: case.clone(),
                        averages: [1, of],
                        first: self.table.place(&place.key),
                        mean,
                        without: (mean * n - effects[at]) / (n - 1.0),
                    });
                }
            }
        }
        all
    }

    /// Answers jobs that need draws, in their order. Jobs on the same draws go together, so that few draws are held at a
    /// time: cases of many lengths have many numbers of cases by position.
    fn drawn<J: Send + Sync + Copy, R: Send, const D: usize>(
        &self,
        jobs: Vec<([(u32, usize); D], J)>,
        answer: impl Fn([&Draws; D], J) -> R + Sync,
    ) -> Vec<R> {
        let mut by_draws = BTreeMap::<_, Vec<(usize, J)>>::new();
        for (i, (sets, job)) in jobs.into_iter().enumerate() {
            by_draws.entry(sets).or_default().push((i, job));
        }
        let mut answers: Vec<(usize, R)> = by_draws
            .into_par_iter()
            .flat_map(|(sets, jobs)| {
                let draws = sets.map(|(set, n)| Draws::new(n, &self.bootstrap, set));
                let answers = jobs.into_par_iter().map(|(i, job)| (i, answer(draws.each_ref(), job)));
                answers.collect::<Vec<_>>()
            })
            .collect();
        answers.sort_by_key(|(i, _)| *i);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// Every two of `n`, the first before the second.
fn pairs(n: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..n).flat_map(move |first| (first + 1..n).map(move |second| (first, second)))
}

/// The mean of a place's cases in a metric, without an interval.
pub(super) fn plain_mean(place: &PlaceCases, metric: usize) -> CaseEstimate {
    let found = stats::estimate((0..place.entries.len()).map(|i| place.effect(i, metric)));
    CaseEstimate { mean: found.mean, se: found.se, n: place.entries.len(), ..CaseEstimate::default() }
}
