//! One case of a sweep: whether it counts, and its cells.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::arm::undefined;
use super::arm::{Readouts, paired, said, total_effect};
use super::cells::{ArmHead, CaseHead, CaseRun, Cells, DroppedBy, MetricColumns, Sampled};
use super::derived::{Cells as Line, Derived, Said, Strength};
use super::nulls::{is_lost, is_not_finite};
use super::stats::{difference, estimate, fraction};
use crate::lower::classes::class_of;
use crate::lower::layout::{ArmLayout, Axis, CaseLayout, Grid};
use crate::lower::measure::Measure;
use crate::plan::output::{EditStats, PlanOutput};
use crate::plan::{EditGroup, RunId, Score};
use crate::spec::metric::MetricKind;
use crate::spec::statistics::Filters;
use crate::spec::sweep::{CORRUPTED, SweepCase, SweepSpec, TARGET};

/// What some cells of a case gave: what is stored of a unit of work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The cells.
    pub cells: Cells,
    /// What the model says in each cell; empty where nothing derived needs it.
    pub said: Vec<Said>,
    /// Cells of which a sample could not be computed.
    pub lost: u32,
    /// What was written.
    pub written: EditStats,
    /// Cells of which a sample is not finite.
    pub not_finite: u32,
    /// What the cells gave in each sample, of a case that is averaged alone.
    pub sampled: Vec<Sampled>,
}

/// What remarks need of cells, which need not be held for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// How many there are.
    pub cells: usize,
    /// Those of which a sample could not be computed.
    pub lost: u32,
    /// Those of which a sample is not finite.
    pub not_finite: u32,
    /// Whether one of them can change the answer.
    pub reached: bool,
    /// What was written.
    pub written: EditStats,
}

impl Tally {
    /// Of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cells: self.cells + other.cells,
            lost: self.lost + other.lost,
            not_finite: self.not_finite + other.not_finite,
            reached: self.reached || other.reached,
            written: self.written.and(other.written),
        }
    }
}

/// Scores of some readouts of a plan, by their places in the whole plan.
#[derive(Debug)]
pub struct Scores {
    scores: Vec<Option<Score>>,
    /// For each readout the run whose row it really is, as the part of the plan counts runs.
    resolved: Vec<Option<RunId>>,
}

impl Scores {
    /// Of a plan of `len` readouts: `readouts` says which were computed, in the order of the output.
    pub fn new(len: usize, readouts: &[usize], output: PlanOutput, resolved: &[RunId]) -> Self {
        let mut all = Self { scores: vec![None; len], resolved: vec![None; len] };
        for ((readout, score), run) in readouts.iter().zip(output.scores).zip(resolved) {
            all.scores[*readout] = Some(score);
            all.resolved[*readout] = Some(*run);
        }
        all
    }

    fn is_not_finite(&self, readout: usize) -> bool {
        self.score(readout).is_some_and(is_not_finite)
    }
}

impl Readouts for Scores {
    fn score(&self, readout: usize) -> Option<&Score> {
        self.scores[readout].as_ref()
    }
}

/// The arms of a sweep, as its first case has them.
pub fn arm_heads(spec: &SweepSpec, layout: &CaseLayout) -> Vec<ArmHead> {
    let arms = spec.arms.iter().zip(layout.arms.iter());
    let head =
        |((name, arm), (_, built)): ((&str, &crate::spec::sweep::SweepArm), (&str, &ArmLayout))| ArmHead {
            name: name.to_owned(),
            axes: built.grid.axes.iter().map(|axis| axis.name.to_owned()).collect(),
            sites: arm.interventions.iter().map(|intervention| intervention.site.to_string()).collect(),
            base: arm.base.clone(),
            reference: arm.reference.clone(),
        };
    arms.map(head).collect()
}

/// A case without its cells, in all metrics of the plan: those asked for, and the probability of the target, which filters
/// need, if it isn't one of them.
pub fn head(
    layout: &CaseLayout,
    case: &SweepCase,
    scores: &Scores,
    filters: &Filters,
    text: &dyn Fn(u32) -> String,
) -> CaseHead {
    let measures = &layout.common.measures;
    let clean = layout.clean;
    let reference = scores.top1(clean);
    let run = |name: &str, tokens: &[u32], readouts: &[usize]| CaseRun {
        name: name.to_owned(),
        tokens: tokens.to_vec(),
        top1: readouts.first().and_then(|readout| scores.top1(*readout)).map(text),
        not_finite: readouts.iter().filter(|readout| scores.is_not_finite(**readout)).count() as u32,
        values: measures
            .iter()
            .map(|measure| {
                estimate(readouts.iter().map(|readout| scores.value(measure, *readout, reference)))
            })
            .collect(),
    };
    let mut runs: Vec<CaseRun> = layout
        .common
        .runs
        .iter()
        .map(|(name, (tokens, readout))| run(name, &tokens.ids, std::slice::from_ref(readout)))
        .collect();
    if !layout.corrupted.is_empty() {
        runs.push(run(CORRUPTED, &layout.corrupted_tokens, &layout.corrupted));
    }
    let dropped = dropped(layout, scores, filters, text);
    CaseHead {
        id: case.id.clone(),
        group: case.group.clone(),
        kept: dropped.is_empty(),
        dropped,
        answers: ranks_first(layout, scores, TARGET),
        runs,
        subject: layout.subject.as_ref().map(|range| [range.start, range.end]),
        total_effect: layout
            .arms
            .iter()
            .map(|(_, arm)| measures.iter().map(|measure| total_effect(arm, measure, scores)).collect())
            .collect(),
    }
}

/// Whether the clean run's most probable token begins a member of a target.
fn ranks_first(layout: &CaseLayout, scores: &Scores, target: &str) -> Option<bool> {
    let clean = layout.clean;
    let context = scores.score(clean).map_or(0, |score| score.context);
    let (target, top1) = (layout.common.targets.of(context).get(target)?, scores.top1(clean));
    // There is no answer where the logits are not finite, and that is not the target either.
    Some(target.iter().any(|token| Some(token.id) == top1))
}

/// What the clean run answers, for a filter by it.
fn answer(top1: Option<u32>, text: &dyn Fn(u32) -> String) -> String {
    match top1 {
        Some(top1) => format!("the clean run's most probable token is {:?}", text(top1)),
        None => "the clean run has no most probable token, for its logits are NaN or infinite".to_owned(),
    }
}

/// Every filter that a case fails. What is filtered by is the probability of the target in the clean run.
fn dropped(
    layout: &CaseLayout,
    scores: &Scores,
    filters: &Filters,
    text: &dyn Fn(u32) -> String,
) -> Vec<DroppedBy> {
    let mut failed = Vec::new();
    let clean = layout.clean;
    let expected = filters.expect_top1.target();
    if expected.and_then(|target| ranks_first(layout, scores, target)) == Some(false) {
        failed.push(DroppedBy { filter: "expect_top1".to_owned(), detail: answer(scores.top1(clean), text) });
    }
    let is_prob = |m: &&Measure| (m.metric.kind, m.metric.of.as_str()) == (MetricKind::Prob, TARGET);
    let prob = layout.common.measures.iter().find(is_prob);
    let at = |readout: usize| prob.and_then(|prob| scores.value(prob, readout, None));
    let total = if layout.corrupted.is_empty() {
        let arm = layout.arms.iter().next().map(|(_, arm)| arm);
        arm.zip(prob).and_then(|(arm, prob)| total_effect(arm, prob, scores).mean)
    } else {
        estimate(layout.corrupted.iter().map(|corrupted| difference(at(clean), at(*corrupted)))).mean
    };
    let least = [
        ("min_clean_prob", filters.min_clean_prob, at(clean), "the target's clean probability"),
        ("min_total_effect", filters.min_total_effect, total, "the total effect on the target's probability"),
    ];
    for (filter, least, found, what) in least {
        let Some(least) = least.filter(|least| found.is_none_or(|found| found < *least)) else { continue };
        let found = found.map_or_else(|| "not finite".to_owned(), |found| format!("{found:.4e}"));
        failed.push(DroppedBy {
            filter: filter.to_owned(),
            detail: format!("{what} is {found}, less than {least}"),
        });
    }
    failed
}

/// Gives a token's text.
pub type Text<'t> = &'t dyn Fn(u32) -> String;

/// Some cells of a case, counted through all arms. `alone`: whether the case is averaged with no other.
pub fn part(
    layout: &CaseLayout,
    case: u32,
    range: &Range<usize>,
    scores: &Scores,
    written: EditStats,
    alone: bool,
    text: Text<'_>,
) -> Part {
    let measures = &layout.common.measures;
    let mut part = Part { written, ..Part::default() };
    part.cells.metrics = vec![MetricColumns::default(); measures.len()];
    part.sampled.extend(alone.then(|| Sampled { case, effects: Vec::new() }));
    let mut first = 0;
    for (index, (_, arm)) in layout.arms.iter().enumerate() {
        let cells = arm.grid.cells();
        let own =
            range.start.clamp(first, first + cells) - first..range.end.clamp(first, first + cells) - first;
        for cell in own {
            add(&mut part, layout, arm, case, index as u32, cell, scores, text);
        }
        first += cells;
    }
    part
}

#[expect(clippy::too_many_arguments, reason = "the parts of one cell")]
fn add(
    part: &mut Part,
    layout: &CaseLayout,
    arm: &ArmLayout,
    case: u32,
    index: u32,
    cell: usize,
    scores: &Scores,
    text: Text<'_>,
) {
    let grid: &Grid = &arm.grid;
    let readouts = grid.cell(cell);
    let key = grid.key(cell);
    let class = key.position.zip(subject(layout, arm));
    let class = class.and_then(|(position, subject)| class_of(position, subject, arm.len));
    let cells = &mut part.cells;
    cells.case.push(case);
    cells.arm.push(index);
    cells.layer.push(key.layer);
    cells.position.push(key.position);
    cells.token_class.push(class.map(|class| class as u8));
    cells.head.push(key.head);
    cells.dim.push(key.dim);
    cells.source_layer.push(key.source_layer);
    let own = readouts.iter().any(|readout| scores.is_not_finite(*readout));
    let defined = !own && !arm.base.iter().any(|readout| scores.is_not_finite(*readout));
    part.not_finite += u32::from(own);
    cells.trivial.push(defined.then(|| grid.trivial[cell].is_some()));
    let null = |(sample, readout): (usize, &usize)| {
        let run = scores.resolved[*readout];
        run.is_some() && run == scores.resolved[arm.base_of(sample)]
    };
    cells.exact_null.push(defined.then(|| readouts.iter().enumerate().all(null)));
    let mut in_samples = Vec::new();
    for (measure, columns) in layout.common.measures.iter().zip(&mut cells.metrics) {
        let found = paired(arm, measure, scores, readouts);
        in_samples.extend_from_slice(&found.effects);
        let effect = estimate(found.effects);
        columns.value.push(estimate(found.values).mean);
        columns.effect.push(effect.mean);
        columns.effect_se.push(effect.se);
    }
    if let Some(sampled) = part.sampled.last_mut() {
        sampled.effects.push(in_samples);
    }
    if layout.says {
        part.said.push(said(arm, scores, cell, text));
    }
    let lost = readouts.iter().any(|readout| scores.score(*readout).is_none_or(is_lost));
    part.lost += u32::from(lost);
}

/// The subject's range in the run that is patched: its own, or the clean run's in a run of the same length.
fn subject(layout: &CaseLayout, arm: &ArmLayout) -> Option<Range<u32>> {
    let clean = &layout.common.runs.0[layout.clean_run].1.0;
    arm.subject.clone().or_else(|| layout.subject.clone().filter(|_| clean.len() == arm.len))
}

/// What the cells wrote.
pub fn written(output: &PlanOutput) -> EditStats {
    output.receipt(EditGroup::Patch)
}

impl Part {
    /// Adds the cells that come after these.
    pub fn append(&mut self, mut other: Part) {
        let (cells, more) = (&mut self.cells, &mut other.cells);
        cells.case.append(&mut more.case);
        cells.arm.append(&mut more.arm);
        cells.layer.append(&mut more.layer);
        cells.position.append(&mut more.position);
        cells.token_class.append(&mut more.token_class);
        cells.head.append(&mut more.head);
        cells.dim.append(&mut more.dim);
        cells.source_layer.append(&mut more.source_layer);
        cells.trivial.append(&mut more.trivial);
        cells.exact_null.append(&mut more.exact_null);
        if cells.metrics.is_empty() {
            cells.metrics = std::mem::take(&mut more.metrics);
        } else {
            for (columns, more) in cells.metrics.iter_mut().zip(&mut more.metrics) {
                columns.value.append(&mut more.value);
                columns.effect.append(&mut more.effect);
                columns.effect_se.append(&mut more.effect_se);
            }
        }
        for more in other.sampled {
            match self.sampled.last_mut().filter(|last| last.case == more.case) {
                Some(last) => last.effects.extend(more.effects),
                None => self.sampled.push(more),
            }
        }
        self.said.append(&mut other.said);
        self.lost += other.lost;
        self.written = self.written.and(other.written);
        self.not_finite += other.not_finite;
    }

    /// What remarks need of it.
    pub fn tally(&self) -> Tally {
        let reached = self.cells.exact_null.iter().any(|null| *null != Some(true));
        let Self { lost, not_finite, written, .. } = *self;
        Tally { cells: self.cells.len(), lost, not_finite, reached, written }
    }
}

/// What is derived from the cells of one case and arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaseDerived {
    /// What was asked for.
    #[serde(flatten)]
    pub found: Derived,
    /// The case.
    pub case: String,
    /// The arm.
    pub arm: String,
}

/// Quantities derived from the cells of each case and arm, as `derive` asks for: `{case, arm, …}`.
pub fn derived(spec: &SweepSpec, arms: &[ArmHead], cases: &[CaseHead], part: &Part) -> Vec<CaseDerived> {
    if spec.derive.is_empty() {
        return Vec::new();
    }
    let cells = &part.cells;
    let mut found = Vec::new();
    let mut first = 0;
    while first < cells.len() {
        let (case, arm) = (cells.case[first], cells.arm[first]);
        let same = |i: &usize| cells.case[*i] == case && cells.arm[*i] == arm;
        let end = first + (first..cells.len()).take_while(same).count();
        let (head, arm_head) = (&cases[case as usize], &arms[arm as usize]);
        let axes = axes(arm_head, cells, first..end);
        // Of a sweep that ended early an arm may not be whole.
        if axes.iter().map(|axis| axis.values.len()).product::<usize>() == end - first {
            let trivial: Vec<bool> =
                cells.trivial[first..end].iter().map(|trivial| *trivial == Some(true)).collect();
            let trivial = &trivial[..];
            let said = || part.said[first..end].to_vec();
            let mut of_arm = Derived::new(&spec.derive, &axes, trivial, said);
            for (i, metric) in spec.metrics.iter().enumerate() {
                let whole = head.total_effect[arm as usize].get(i).and_then(|total| total.mean);
                let effects = &cells.metrics[i].effect[first..end];
                let normalised: Vec<Option<f64>> =
                    effects.iter().map(|effect| fraction(*effect, whole)).collect();
                let by = Strength::towards(whole);
                let undefined = undefined(whole);
                of_arm.add(
                    &metric.to_string(),
                    &Line {
                        axes: &axes,
                        trivial,
                        samples: 1,
                        effects,
                        normalised: &normalised,
                        undefined: undefined.as_deref(),
                        by,
                    },
                );
            }
            found.push(CaseDerived { found: of_arm, case: head.id.clone(), arm: arm_head.name.clone() });
        }
        first = end;
    }
    found
}

/// The axes of one case's cells of one arm.
fn axes(arm: &ArmHead, cells: &Cells, range: Range<usize>) -> Vec<Axis> {
    let axis = |(name, column): (&'static str, &[Option<u32>])| {
        let mut values: Vec<u32> = Vec::new();
        for value in column[range.clone()].iter().flatten() {
            if !values.contains(value) {
                values.push(*value);
            }
        }
        Axis { name, values }
    };
    let columns: [(&'static str, &[Option<u32>]); 5] = [
        ("layer", &cells.layer),
        ("position", &cells.position),
        ("head", &cells.head),
        ("dim", &cells.dim),
        ("source_layer", &cells.source_layer),
    ];
    let of = |name: &String| columns.iter().find(|(column, _)| column == name).copied();
    arm.axes.iter().filter_map(of).map(axis).collect()
}
