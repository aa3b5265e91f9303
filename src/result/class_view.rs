//! The view of a sweep that a trace with `cases` answers: from rows of averages to arrays of token classes and layers.

use std::collections::HashMap;

use super::cases::{
    CasePeak, CaseResult, CasesResponse, ClassArm, ClassEstimates, ClassRobust, ClassShares, GroupDifference,
    GroupResult,
};
use super::common::{Envelope, NdArray, NullReason, Nulls, Receipts};
use crate::effect::average::{Average, Averaged, Averages, CaseMean, Peak, Place};
use crate::effect::bootstrap::{CaseEstimate, Robust};
use crate::effect::cells::{CaseHead, CaseRun, Observed};
use crate::effect::stats::Estimate;
use crate::lower::layout::{CellKey, SigmaUsed};
use crate::lower::lint::Lint;
use crate::lower::measure::TargetToken;
use crate::plan::output::{Missing, Usage};
use crate::spec::cases::CasesSpec;
use crate::spec::metric::{Metric, MetricKind};
use crate::spec::named::Named;
use crate::spec::read::escape;
use crate::spec::select::TokenClass;
use crate::spec::sweep::{CLEAN, CORRUPTED, TARGET};
use crate::spec::trace::{Arm, Direction};

/// What the sweep of all traces gave.
#[derive(Debug)]
pub struct Traced {
    /// Averages.
    pub averages: Averages,
    /// Each case's target as it was understood.
    pub targets: Vec<Vec<TargetToken>>,
    /// Each arm's layers; none at sites without.
    pub layers: Vec<Option<Vec<u32>>>,
    /// The size of the noise.
    pub sigma: Option<SigmaUsed>,
    /// What was written.
    pub receipt: Receipts,
    /// Cost.
    pub usage: Usage,
    /// Remarks.
    pub lints: Vec<Lint>,
}

/// Puts a response together.
pub fn respond(
    spec: CasesSpec,
    averaged: &Averaged<'_>,
    traced: Traced,
    envelope: Envelope,
) -> CasesResponse {
    let Traced { averages: found, targets, layers, sigma, receipt, usage, lints } = traced;
    let observed = averaged.observed();
    let mut means: Vec<Vec<CaseMean>> = vec![Vec::new(); observed.cases.len()];
    if spec.keep.per_case {
        averaged.of_cases().for_each(|mean| means[mean.case as usize].push(mean));
    }
    let mut rows: HashMap<_, Vec<&Average>> = HashMap::new();
    for row in &found.rows {
        let key = (row.at.arm.as_str(), row.at.group.as_deref(), row.metric.as_str());
        rows.entry(key).or_default().push(row);
    }
    let mut peaks: HashMap<&str, Vec<&Peak>> = HashMap::new();
    found.peaks.iter().for_each(|peak| peaks.entry(&peak.case).or_default().push(peak));
    let view = View { spec: &spec, observed, averages: &found, rows, layers: &layers };
    let cases = observed.cases.iter().zip(targets).zip(means).map(|((head, target), means)| {
        view.case(head, target, peaks.get(head.id.as_str()).map_or(&[], Vec::as_slice), &means)
    });
    let cases: Vec<CaseResult> = cases.collect();
    let (total_effect, arms) = (view.total_effects(None), view.arms(None));
    let (groups, difference) = (view.groups(), view.difference());
    let mut nulls = view.nulls(&total_effect);
    of_cases(&cases, &mut nulls);
    of_averages(found.kept, &arms, &mut nulls);
    groups.iter().for_each(|(name, group)| of_group(name, group, &mut nulls));
    if receipt.patched.max_abs_delta.is_none() {
        let reason = "not_finite: a number was changed from or to NaN or infinity";
        nulls.add("/receipt/max_abs_delta", reason);
    }
    CasesResponse {
        id: envelope.id,
        model: envelope.model,
        cases,
        kept: found.kept,
        dropped: found.dropped,
        direction: spec.direction(),
        classes: TokenClass::ALL.iter().map(|(_, class)| *class).collect(),
        total_effect,
        sigma,
        samples: spec.corrupt.method.samples(),
        arms,
        groups,
        difference,
        min_total_effect: crate::effect::MIN_TOTAL_EFFECT,
        receipt,
        nulls: nulls.0,
        plots: Named::default(),
        lints,
        usage,
        provenance: envelope.provenance,
        request: spec,
    }
}

/// Why numbers of each case's unpatched runs are null.
fn of_cases(cases: &[CaseResult], nulls: &mut Nulls) {
    for (i, case) in cases.iter().enumerate() {
        let not_finite = Missing::NotFinite;
        nulls.one(format!("/cases/{i}/top1"), case.top1.is_none().then_some(not_finite));
        for (metric, clean) in case.clean.iter() {
            let mean = |of: &Named<Estimate>| of.get(metric).and_then(|estimate| estimate.mean);
            let fields = [
                ("clean", *clean),
                ("corrupted", mean(&case.corrupted)),
                ("total_effect", mean(&case.total_effect)),
            ];
            for (field, number) in fields {
                let at = format!("/cases/{i}/{field}/{}", escape(metric));
                nulls.one(at, number.is_none().then_some(not_finite));
            }
        }
    }
}

const fn average_reason(kept: usize) -> &'static str {
    if kept == 0 { "no case was kept" } else { "not_finite: a number of a case that it is made of is null" }
}

/// Why averages are null.
fn of_averages(kept: usize, arms: &Named<ClassArm>, nulls: &mut Nulls) {
    for (name, arm) in arms.iter() {
        for (metric, effects) in arm.effects.iter() {
            let of = |(mean, n): (&Option<f64>, &usize)| match (mean, n) {
                (Some(_), _) => None,
                (None, 0) if kept > 0 => Some("no case has this class"),
                (None, _) => Some(average_reason(kept)),
            };
            let reasons: Vec<_> = effects.mean.data.iter().zip(&effects.n.data).map(of).collect();
            let at = |what: &str| format!("/arms/{}/{what}/{}", escape(name), escape(metric));
            for field in ["mean", "se", "ci_low", "ci_high", "ci_t_low", "ci_t_high"] {
                nulls.array(&format!("{}/{field}", at("effects")), &effects.mean.shape, &reasons);
            }
            for field in ["value", "ci_low", "ci_high"] {
                nulls.array(&format!("{}/{field}", at("recovery")), &effects.mean.shape, &reasons);
            }
        }
    }
}

/// Why numbers of a group are null.
fn of_group(name: &str, group: &GroupResult, nulls: &mut Nulls) {
    let mut own = Nulls::default();
    for (metric, total) in group.total_effect.iter() {
        let reason = average_reason(group.kept);
        own.one(format!("/total_effect/{}", escape(metric)), total.mean.is_none().then_some(reason));
    }
    of_averages(group.kept, &group.arms, &mut own);
    let under = format!("/groups/{}", escape(name));
    let told = own.0.into_iter();
    nulls.0.extend(
        told.map(|null| NullReason { pointer: format!("{under}{}", null.pointer), reason: null.reason }),
    );
}

/// Number of token classes.
const CLASSES: usize = TokenClass::ALL.len();

/// What was found, and how it is laid out.
struct View<'v> {
    spec: &'v CasesSpec,
    observed: &'v Observed,
    averages: &'v Averages,
    /// Averages by arm, group and metric.
    rows: HashMap<(&'v str, Option<&'v str>, &'v str), Vec<&'v Average>>,
    layers: &'v [Option<Vec<u32>>],
}

impl<'v> View<'v> {
    /// The index of a place in an arm's arrays, `[classes, layers]`.
    fn cell(&self, arm: usize, at: &Place) -> Option<usize> {
        let class = TokenClass::ALL.iter().position(|(name, _)| at.token_class.as_deref() == Some(name))?;
        match (&self.layers[arm], at.layer) {
            (Some(layers), Some(layer)) => {
                Some(class * layers.len() + layers.iter().position(|l| *l == layer)?)
            }
            _ => Some(class),
        }
    }

    /// What `found` says of each cell of an arm; the default where it says nothing.
    fn array<'f, T: Default + Clone, F: 'f>(
        &self,
        arm: usize,
        found: impl Iterator<Item = &'f F>,
        of: impl Fn(&'f F) -> (&'f Place, T),
    ) -> Vec<T> {
        let mut array = vec![T::default(); CLASSES * self.depth(arm)];
        for (at, value) in found.map(of) {
            if let Some(cell) = self.cell(arm, at) {
                array[cell] = value;
            }
        }
        array
    }

    fn rows<'s>(&'s self, arm: &'s str, group: Option<&'s str>, metric: &'s str) -> &'s [&'v Average] {
        self.rows.get(&(arm, group, metric)).map_or(&[], Vec::as_slice)
    }

    fn depth(&self, arm: usize) -> usize {
        self.layers[arm].as_ref().map_or(1, Vec::len)
    }

    fn shape(&self, arm: usize) -> [usize; 2] {
        [CLASSES, self.depth(arm)]
    }

    /// Clean minus corrupted, which of noising is the negative of what its arms could reach at most.
    fn total(&self, reached: Estimate) -> Estimate {
        match self.spec.direction() {
            Direction::Denoising => reached,
            Direction::Noising => Estimate { mean: reached.mean.map(|x| 0.0 - x), ..reached },
        }
    }

    /// Mean total effects over all cases or a group's; all arms are between the same runs.
    fn total_effects(&self, group: Option<&str>) -> Named<CaseEstimate> {
        let first = self.observed.arms.first().map(|arm| arm.name.as_str());
        let totals = self.averages.totals.iter();
        let own = totals.filter(|total| Some(total.arm.as_str()) == first && total.group.as_deref() == group);
        let named = own.map(|total| {
            let total_effect = match self.spec.direction() {
                Direction::Denoising => total.total_effect,
                Direction::Noising => total.total_effect.negated(),
            };
            (total.metric.clone(), total_effect)
        });
        named.collect()
    }

    /// Why shares of these total effects are null.
    fn nulls(&self, totals: &Named<CaseEstimate>) -> Nulls {
        let mut nulls = Nulls::default();
        for (metric, total) in totals.iter() {
            let small = |mean: f64| mean.abs() < crate::effect::MIN_TOTAL_EFFECT;
            let reason = match total.mean {
                _ if self.averages.kept == 0 => "no case was kept".to_owned(),
                None => format!("not_finite: {metric} has no number in every case, see /cases"),
                Some(mean) if small(mean) => format!("the mean total effect is {mean:.1e}"),
                Some(_) => continue,
            };
            let at = |name: &str| format!("/arms/{}/recovery/{}", escape(name), escape(metric));
            for name in self.spec.arms.names() {
                nulls.add(at(name), &reason);
            }
            nulls.one(format!("/total_effect/{}", escape(metric)), total.mean.is_none().then_some(&reason));
        }
        nulls
    }

    fn arms(&self, group: Option<&str>) -> Named<ClassArm> {
        let arms = self.spec.arms.iter().enumerate();
        arms.map(|(index, (name, arm))| (name.to_owned(), self.arm(index, name, arm, group))).collect()
    }

    fn arm(&self, index: usize, name: &str, arm: &Arm, group: Option<&str>) -> ClassArm {
        let shape = self.shape(index);
        let (mut effects, mut recovery, mut histogram) =
            (Named::default(), Named::default(), Named::default());
        let mut all = Vec::new();
        for metric in &self.observed.metrics {
            let rows = self.rows(name, group, metric);
            let cells = self.array(index, rows.iter().copied(), |row| (&row.at, Some(row)));
            let estimates: Vec<CaseEstimate> =
                cells.iter().map(|row| row.map(|row| row.effect).unwrap_or_default()).collect();
            effects.0.push((metric.clone(), ClassEstimates::new(&shape, &estimates)));
            recovery.0.push((metric.clone(), ClassShares::new(&shape, &cells)));
            histogram.0.push((metric.clone(), counted(&shape, &cells, |row| row.peaks)));
            all = cells;
        }
        ClassArm {
            site: arm.site,
            window: arm.window,
            heads: arm.heads.clone(),
            layers: self.layers[index].clone(),
            effects,
            recovery,
            trivial: counted(&shape, &all, |row| row.trivial),
            exact_null: counted(&shape, &all, |row| row.exact_null),
            cells: counted(&shape, &all, |row| row.cells),
            argmax_histogram: histogram,
        }
    }

    /// The groups, in the order in which the cases name them.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        if self.spec.aggregate.by_group() {
            for name in self.spec.cases.iter().filter_map(|case| case.group.as_deref()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    fn groups(&self) -> Named<GroupResult> {
        let groups = self.names().into_iter().map(|name| {
            let of = |case: &&CaseHead| case.group.as_deref() == Some(name);
            let (kept, dropped): (Vec<_>, Vec<_>) =
                self.observed.cases.iter().filter(of).partition(|case| case.kept);
            let result = GroupResult {
                kept: kept.len(),
                dropped: dropped.len(),
                total_effect: self.total_effects(Some(name)),
                arms: self.arms(Some(name)),
            };
            (name.to_owned(), result)
        });
        groups.collect()
    }

    /// The first group minus the second, where there are two.
    fn difference(&self) -> Option<GroupDifference> {
        let [first, second] = self.names()[..] else { return None };
        let arms = self.spec.arms.names().into_iter().enumerate().map(|(index, name)| {
            let metrics = self.observed.metrics.iter().map(|metric| {
                let found = self.averages.differences.iter();
                let found = found.filter(|one| one.at.arm == name && one.metric == *metric);
                let mut cells = self.array(index, found, |one| (&one.at, one.difference));
                // Where only one of them has the class, there is nothing but its cases.
                let rows = self.rows(name, None, metric);
                let counts = self.array(index, rows.iter().copied(), |row| (&row.at, row.effect.n));
                cells.iter_mut().zip(counts).for_each(|(cell, n)| cell.n = n);
                (metric.clone(), ClassEstimates::new(&self.shape(index), &cells))
            });
            (name.to_owned(), metrics.collect())
        });
        Some(GroupDifference { of: [first.to_owned(), second.to_owned()], effects: arms.collect() })
    }

    /// A case with its own peaks and means.
    fn case(
        &self,
        head: &CaseHead,
        target: Vec<TargetToken>,
        peaks: &[&Peak],
        means: &[CaseMean],
    ) -> CaseResult {
        let run = |name: &str| head.runs.iter().find(|run| run.name == name);
        let (clean, corrupted) = (run(CLEAN), run(CORRUPTED));
        let values = |run: Option<&CaseRun>| run.map(|run| run.values.clone()).unwrap_or_default();
        let totals = head.total_effect.first().cloned().unwrap_or_default();
        // The probability of the target decides, whether it is asked for or not.
        let prob = Metric::new(MetricKind::Prob, TARGET).to_string();
        let keys: Vec<String> = self.observed.metrics.iter().cloned().chain([prob]).collect();
        let named = |values: Vec<Estimate>| keys.iter().cloned().zip(values);
        let peaks = |arm: &str| -> Named<CasePeak> {
            let own = peaks.iter().filter(|peak| peak.at.arm == arm);
            own.filter_map(|peak| Some((peak.metric.clone(), CasePeak::of(peak)?))).collect()
        };
        let effects = |(arm, name): (usize, &str)| -> Named<NdArray<Option<f64>>> {
            let metrics = self.observed.metrics.iter().enumerate().map(|(metric, key)| {
                let own = means.iter().filter(|mean| (mean.at.arm.as_str(), mean.metric) == (name, metric));
                let cells = self.array(arm, own, |mean| (&mean.at, mean.effect));
                (key.clone(), NdArray::new(&self.shape(arm), cells))
            });
            metrics.collect()
        };
        let arms = || self.spec.arms.names().into_iter().filter(|_| head.kept).enumerate();
        CaseResult {
            id: head.id.clone(),
            group: head.group.clone(),
            kept: head.kept,
            dropped: head.dropped.clone(),
            tokens: clean.map(|run| run.tokens.clone()).unwrap_or_default(),
            subject: head.subject.unwrap_or_default(),
            target,
            top1: clean.and_then(|run| run.top1.clone()),
            clean: named(values(clean)).map(|(key, value)| (key, value.mean)).collect(),
            corrupted: named(values(corrupted)).collect(),
            total_effect: named(totals).map(|(key, total)| (key, self.total(total))).collect(),
            argmax: arms().map(|(_, name)| (name.to_owned(), peaks(name))).collect(),
            effects: arms()
                .filter(|_| self.spec.keep.per_case)
                .map(|(arm, name)| (name.to_owned(), effects((arm, name))))
                .collect(),
        }
    }
}

impl CasePeak {
    fn of(peak: &Peak) -> Option<Self> {
        let Place { layer, position, head, dim, source_layer, .. } = peak.at;
        let class = TokenClass::ALL.iter().find(|(name, _)| peak.at.token_class.as_deref() == Some(name))?.1;
        let cell = CellKey { layer, position, head, dim, source_layer };
        Some(Self { cell, class, effect: peak.effect, recovery: peak.recovery })
    }
}

/// A count of each cell.
fn counted(shape: &[usize], cells: &[Option<&Average>], of: impl Fn(&Average) -> usize) -> NdArray<usize> {
    NdArray::new(shape, cells.iter().map(|row| row.map_or(0, &of)).collect())
}

/// A robust average and its interval.
type RobustOf = fn(&Robust) -> (Option<f64>, Option<[f64; 2]>);

impl ClassEstimates {
    fn new(shape: &[usize], cells: &[CaseEstimate]) -> Self {
        let array =
            |of: &dyn Fn(&CaseEstimate) -> Option<f64>| NdArray::new(shape, cells.iter().map(of).collect());
        let robust = |of: RobustOf| {
            let of = |cell: &CaseEstimate| cell.robust.as_ref().map(of).unwrap_or_default();
            // Asked for if any cell has it; those of classes that no case has are null as their means are.
            cells.iter().any(|cell| of(cell).0.is_some()).then(|| ClassRobust {
                value: array(&|cell| of(cell).0),
                ci_low: array(&|cell| of(cell).1.map(|[low, _]| low)),
                ci_high: array(&|cell| of(cell).1.map(|[_, high]| high)),
            })
        };
        Self {
            mean: array(&|cell| cell.mean),
            se: array(&|cell| cell.se),
            ci_low: array(&|cell| cell.ci.map(|[low, _]| low)),
            ci_high: array(&|cell| cell.ci.map(|[_, high]| high)),
            ci_t_low: array(&|cell| cell.ci_t.map(|[low, _]| low)),
            ci_t_high: array(&|cell| cell.ci_t.map(|[_, high]| high)),
            median: robust(|robust| (robust.median, robust.median_ci)),
            trimmed_mean: robust(|robust| (robust.trimmed_mean, robust.trimmed_mean_ci)),
            n: NdArray::new(shape, cells.iter().map(|cell| cell.n).collect()),
        }
    }
}

impl ClassShares {
    fn new(shape: &[usize], cells: &[Option<&Average>]) -> Self {
        let array = |of: &dyn Fn(&Average) -> Option<f64>| {
            NdArray::new(shape, cells.iter().map(|row| row.and_then(of)).collect())
        };
        Self {
            value: array(&|cell| cell.recovery),
            ci_low: array(&|cell| cell.recovery_ci.map(|[low, _]| low)),
            ci_high: array(&|cell| cell.recovery_ci.map(|[_, high]| high)),
        }
    }
}
