//! Remarks that need results.

use super::arm::Baselines;
use super::measure::{first_logprob, value};
use super::nulls::{is_lost, is_not_finite};
use super::stats::difference;
use crate::lower::layout::{CaseLayout, Common, Grid, PatchLayout, RunLayout, TraceLayout};
use crate::lower::lint::Lints;
use crate::lower::measure::Measure;
use crate::plan::Score;
use crate::plan::output::{EditStats, Lost, Missing};
use crate::spec::metric::{MetricKind, Unit};
use crate::spec::read::escape;

/// A corruption that removes less than this share of the answer's probability is weak.
pub const WEAK_SHARE: f64 = 0.1;
/// A corruption that leaves less than this share of it is saturated.
pub const SATURATED_SHARE: f64 = 1e-3;
/// Runs whose log-probabilities (or requested logits) of a target are nearer than this many nats favour it alike: their
/// probabilities differ by less than a tenth, and there is nothing to transfer from one to the other.
pub const CONTRAST: f64 = 0.1;

/// Whether two runs show no contrast: every target set has nearly the same log-probability in both, and so have the
/// logits and logit differences that are asked for (which can differ where probabilities are saturated). Never so
/// without targets, or where a number isn't finite.
pub fn no_contrast(common: &Common, a: &Score, b: &Score) -> bool {
    let targets = &common.targets;
    let near = |a, b| difference(a, b).is_some_and(|d| d.abs() < CONTRAST);
    let alike = |name: &str| near(first_logprob(targets, name, a), first_logprob(targets, name, b));
    let of_logits = |m: &&Measure| m.metric.kind.facts().unit == Unit::Logits;
    let mut logits = common.measures.iter().filter(of_logits);
    !targets.sets.is_empty()
        && targets.sets.iter().all(|(name, _)| alike(name))
        && logits.all(|m| near(value(m, a, None), value(m, b, None)))
}

/// Whether no pair of these readouts shows a contrast; there must be a pair.
fn all_alike(common: &Common, scores: &[Score], readouts: &[usize]) -> bool {
    let pairs = || readouts.iter().enumerate().flat_map(|(i, a)| readouts[..i].iter().map(move |b| (*a, *b)));
    readouts.len() > 1 && pairs().all(|(a, b)| no_contrast(common, &scores[a], &scores[b]))
}

/// What to do about runs without contrast.
const NO_CONTRAST_FIX: &str = "choose prompts, or a target, on which the runs differ";

fn no_contrast_detail() -> String {
    format!("the runs' log-probabilities of every target agree within {CONTRAST} nats")
}

/// The remark that runs which are meant to differ show no contrast.
pub fn lint_no_contrast(pointer: &str, lints: &mut Lints) {
    lints.warn("NO_CONTRAST", pointer, no_contrast_detail(), NO_CONTRAST_FIX);
}

/// Remarks on clean runs. `unshared`: attributions whose logit is not finite.
pub fn run(layout: &RunLayout, scores: &[Score], unshared: usize, text: &dyn Fn(u32) -> String) -> Lints {
    let mut lints = Lints::default();
    let runs = &layout.common.runs;
    let tops: Vec<Option<u32>> = runs.iter().map(|(_, (_, readout))| scores[*readout].top1()).collect();
    let readouts: Vec<usize> = runs.iter().map(|(_, (_, readout))| *readout).collect();
    if all_alike(&layout.common, scores, &readouts) {
        // No more than worth knowing: clean runs need not be compared.
        lints.info("NO_CONTRAST", "/runs", no_contrast_detail(), NO_CONTRAST_FIX);
    } else if let [Some(first), _, ..] = tops[..]
        && tops.iter().all(|top| *top == Some(first))
    {
        let detail = format!("all runs favour {:?}", text(first));
        lints.info("NO_CONTRAST", "/runs", detail, "choose prompts with different answers");
    }
    let read = layout.lenses.iter().map(|key| {
        let cells = key.layers.len() * key.positions.len();
        (cells, scores[key.first..key.first + cells].iter().filter(|score| is_not_finite(score)).count())
    });
    let (all, lens) = read.fold((0, 0), |(all, bad), (cells, own)| (all + cells, bad + own));
    let mut found = NotFinite::of_runs(&layout.common, scores);
    found.count(lens, all, "readouts of the logit lens", "/read/logit_lens");
    found.count(unshared, layout.attribution.len(), "attributions", "/read/attribution");
    found.lint(&mut lints);
    lints
}

/// What is not finite in a result: one remark says it, however much it is.
#[derive(Debug, Default)]
pub struct NotFinite {
    /// The first field that it is about, and what it is.
    at: Option<String>,
    parts: Vec<String>,
}

impl NotFinite {
    /// The named runs that are not.
    pub fn of_runs(common: &Common, scores: &[Score]) -> Self {
        let mut found = Self::default();
        let bad = common.runs.iter().filter(|(_, (_, readout))| is_not_finite(&scores[*readout]));
        let names: Vec<&str> = bad.map(|(name, _)| name).collect();
        if let Some(first) = names.first() {
            found.add(format!("run {}", quoted(&names)), format!("/runs/{}", escape(first)));
        }
        found
    }

    /// Counts what is not, of `all`.
    pub fn count(&mut self, bad: usize, all: usize, what: &str, at: &str) {
        if bad > 0 {
            self.add(format!("{bad} of {all} {what}"), at.to_owned());
        }
    }

    fn add(&mut self, part: String, at: String) {
        self.at.get_or_insert(at);
        self.parts.push(part);
    }

    /// The remark, if there is anything to remark on.
    pub fn lint(self, lints: &mut Lints) {
        let Some(at) = self.at else { return };
        let detail = format!(
            "logits are NaN or infinite: {}; whatever is made of them is null, see `nulls`",
            self.parts.join(", ")
        );
        lints.warn(
            "NOT_FINITE",
            at,
            detail,
            "if the model is served as f16, whose numbers end at 65504, serve it as bf16 or f32 (model.dtype); else write smaller \
             numbers (squares of a row must add up to less than 3e38), or look for NaN in the weights",
        );
    }
}

/// At most four names.
fn quoted(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(4).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > 4 { format!(" and {} more", names.len() - 4) } else { String::new() };
    shown.join(", ") + &more
}

/// Cells of grids with a sample that is not finite, and all of them.
fn not_finite_cells<'g>(grids: impl IntoIterator<Item = &'g Grid>, scores: &[Score]) -> (usize, usize) {
    let bad = |grid: &Grid, cell| grid.cell(cell).iter().any(|readout| is_not_finite(&scores[*readout]));
    let counts = grids.into_iter().map(|grid| {
        let bad = (0..grid.cells()).filter(|cell| bad(grid, *cell)).count();
        (bad, grid.cells())
    });
    counts.fold((0, 0), |(bad, all), (own, cells)| (bad + own, all + cells))
}

/// A remark on rows that were to keep their norm and were cancelled.
pub fn norm_lost(at: &str, written: EditStats, lints: &mut Lints) {
    if written.cancelled > 0 {
        let detail = format!(
            "norm_match could not keep the norm of {} of {} rows: what was added cancelled them, and they are zero",
            written.cancelled, written.cells
        );
        let fix = "choose another `coef` or source, or leave `norm_match` out";
        lints.warn("NORM_LOST", at, detail, fix);
    }
}

/// Remarks on a patch.
pub fn patch(layout: &PatchLayout, scores: &[Score], nulls: &[bool], written: EditStats) -> Lints {
    let mut lints = Lints::default();
    let common = &layout.case.common;
    let every = common.runs.iter().map(|(_, (_, readout))| *readout);
    let (compared, at) = match layout.normalise() {
        Some((zero, one)) => (vec![zero, one], "/normalise"),
        None => (every.collect(), "/runs"),
    };
    if all_alike(common, scores, &compared) {
        lint_no_contrast(at, &mut lints);
    } else {
        damage_as_success(layout, scores, &mut lints);
    }
    of_cells(&layout.case, scores, nulls, written, "/interventions", &mut lints);
    lints
}

/// Remarks on a trace.
pub fn trace(
    layout: &TraceLayout,
    scores: &[Score],
    nulls: &[bool],
    written: EditStats,
    text: &dyn Fn(u32) -> String,
) -> Lints {
    let mut lints = Lints::default();
    unexpected_answer(layout, scores, text, &mut lints);
    corruption(layout, scores, &mut lints);
    of_cells(&layout.case, scores, nulls, written, "/arms", &mut lints);
    lints
}

/// Remarks on a case's runs and cells, whatever they are for. `at`: where the request says what is written.
fn of_cells(
    case: &CaseLayout,
    scores: &[Score],
    nulls: &[bool],
    written: EditStats,
    at: &str,
    lints: &mut Lints,
) {
    let grids = || case.arms.iter().map(|(_, arm)| &arm.grid);
    let mut found = NotFinite::of_runs(&case.common, scores);
    let bad = case.corrupted.iter().filter(|readout| is_not_finite(&scores[**readout])).count();
    found.count(bad, case.corrupted.len(), "corrupted runs", "/corrupt");
    let (bad, all) = not_finite_cells(grids(), scores);
    found.count(bad, all, "cells", at);
    found.lint(lints);
    norm_lost(at, written, lints);
    lost_cells(grids(), scores, at, lints);
    nothing_written(scores, nulls, written, at, lints);
}

/// Names the expected target and the clean run's answer if they differ. There is no answer where the run's logits are not
/// finite, and that is not what was expected either.
pub fn unexpected(layout: &TraceLayout, scores: &[Score]) -> Option<(String, Option<u32>)> {
    let sets = layout.case.common.targets.of(scores[layout.case.clean].context);
    let name = match &layout.spec.expect_top1 {
        Some(expected) => expected.0.clone(),
        None => sets.names().first().map(|name| (*name).to_owned()),
    }?;
    let top1 = scores[layout.case.clean].top1();
    let expected = sets.get(&name)?.iter().any(|token| Some(token.id) == top1);
    (!expected).then_some((name, top1))
}

fn unexpected_answer(
    layout: &TraceLayout,
    scores: &[Score],
    text: &dyn Fn(u32) -> String,
    lints: &mut Lints,
) {
    // What is not finite has a remark of its own.
    let Some((name, Some(top1))) = unexpected(layout, scores) else { return };
    let detail =
        format!("the clean run's most probable token is {:?}, which is not in target {name:?}", text(top1));
    let fix = "choose a prompt that the model answers as expected";
    if layout.spec.expect_top1.is_some() {
        lints.warn("TARGET_NOT_TOP1", "/expect_top1", detail, fix);
    } else {
        lints.info("TARGET_NOT_TOP1", format!("/targets/{}", escape(&name)), detail, fix);
    }
}

fn corruption(layout: &TraceLayout, scores: &[Score], lints: &mut Lints) {
    // Another prompt is meant to have another answer: that leaves its own distribution, which noise may not.
    let noise = layout.spec.corrupt.method.draws().is_some();
    for measure in layout.case.common.measures.iter().filter(|m| m.metric.kind == MetricKind::Prob) {
        let b = Baselines::new(&layout.case, measure, scores);
        let (Some(clean), Some(corrupted)) = (b.clean, b.corrupted_mean.mean) else { continue };
        if let Some((code, fix)) = useless(clean, corrupted, noise) {
            let detail = format!("{}: {clean:.3e} clean, {corrupted:.3e} corrupted", measure.metric);
            lints.warn(code, "/corrupt", detail, fix);
        }
    }
}

/// Why a corruption says little, from the answer's probability with and without it, and what to do.
pub(super) fn useless(clean: f64, corrupted: f64, noise: bool) -> Option<(&'static str, &'static str)> {
    if corrupted >= clean {
        let fix = "there is nothing to restore: corrupt other tokens, or choose a target that they support";
        return Some(("CORRUPTION_HELPS", fix));
    }
    if clean - corrupted < WEAK_SHARE * clean {
        let fix = if noise {
            "corrupt more tokens, or raise sigma"
        } else {
            "choose other tokens, on which the answer depends"
        };
        return Some(("WEAK_CORRUPTION", fix));
    }
    let saturated = noise && corrupted < SATURATED_SHARE * clean;
    saturated.then_some(("SATURATED_CORRUPTION", "corrupt fewer tokens, or lower sigma"))
}

/// A control whose mean effect is at least this share of the patch's is as large.
const AS_LARGE: f64 = 0.8;

/// The remark that a control moves a metric about as far as the patch that it stands beside. `pairs`: the effects of both, of
/// the cells whose effect is not known beforehand.
pub fn control_as_large(
    at: &str,
    metric: &str,
    control: &str,
    pairs: impl IntoIterator<Item = (Option<f64>, Option<f64>)>,
    lints: &mut Lints,
) {
    let known = pairs.into_iter().filter_map(|(effect, control)| Some((effect?.abs(), control?.abs())));
    let (mut n, mut patch, mut other) = (0_u32, 0.0, 0.0);
    for (effect, control) in known {
        (n, patch, other) = (n + 1, patch + effect, other + control);
    }
    if n == 0 || patch == 0.0 || other < AS_LARGE * patch {
        return;
    }
    let (patch, other) = (patch / f64::from(n), other / f64::from(n));
    let detail = format!(
        "{metric}: the mean |effect| is {patch:.3e}, that of the control {control} {other:.3e}: any such change moves it as far"
    );
    let fix =
        "measure what only the right patch moves: kl to the source's run, or the logit difference to a foil";
    lints.warn("CONTROL_AS_LARGE", at, detail, fix);
}

/// What to do where damage can't be told from success.
pub(super) const DAMAGE_FIX: &str = "measure kl to the run that counts as 1, or a logit difference with a foil, which damage does not move one way";

/// The remark that the run that counts as 1 has less of the target than the one that counts as 0.
fn damage_as_success(layout: &PatchLayout, scores: &[Score], lints: &mut Lints) {
    let Some((zero, one)) = layout.normalise() else { return };
    for measure in layout.case.common.measures.iter().filter(|m| m.metric.kind.facts().falls_by_damage) {
        let at = |readout: usize| value(measure, &scores[readout], None);
        if let (Some(zero), Some(one)) = (at(zero), at(one))
            && one < zero
        {
            let detail = format!(
                "{}: {one:.3e} counts as 1 and {zero:.3e} as 0, so whatever harms the run goes towards 1",
                measure.metric
            );
            lints.warn("DAMAGE_LOOKS_LIKE_SUCCESS", "/normalise", detail, DAMAGE_FIX);
        }
    }
}

/// A remark that there are cells which could not be computed.
fn lost_cells<'g>(grids: impl IntoIterator<Item = &'g Grid>, scores: &[Score], at: &str, lints: &mut Lints) {
    let grids = grids.into_iter();
    let lost = |readout: &usize| match scores[*readout].missing {
        Some(Missing::Lost(lost)) => Some(lost),
        _ => None,
    };
    let of_cell = |grid: &Grid, cell| grid.cell(cell).iter().find_map(lost);
    let lost: Vec<Lost> =
        grids.flat_map(|grid| (0..grid.cells()).filter_map(move |cell| of_cell(grid, cell))).collect();
    if let Some(first) = lost.first() {
        let detail = format!("{} cells are null, {first}", lost.len());
        lints.warn(
            "CELLS_LOST",
            at,
            detail,
            "see `nulls`; all other cells are as if these had not been asked for",
        );
    }
}

fn nothing_written(scores: &[Score], nulls: &[bool], written: EditStats, at: &str, lints: &mut Lints) {
    let complete = !scores.iter().any(is_lost);
    if complete && written.cells == 0 && nulls.iter().any(|null| !null) {
        let detail = "no cell was written".to_owned();
        lints.error("ZERO_CELLS_WRITTEN", at, detail, "report this: the plan asked for edits");
    }
}

/// Remarks on the effects of one metric's cells, found at `at`, that are no larger than what the metric's value varies by
/// without any patch: `floor`, the largest difference between identical runs. `nulls`: cells whose effect is exactly 0 and
/// known to be. A warning if no effect is above the floor.
pub fn below_noise_floor(
    at: &str,
    metric: &str,
    effects: &[Option<f64>],
    nulls: &[bool],
    floor: f64,
    lints: &mut Lints,
) {
    let reached = effects.iter().zip(nulls).filter(|(_, null)| !**null);
    let sizes: Vec<f64> = reached.filter_map(|(effect, _)| effect.map(f64::abs)).collect();
    let below = sizes.iter().filter(|size| **size < floor).count();
    if below == 0 {
        return;
    }
    let detail =
        format!("{metric}: {below} of {} effects are below the noise floor of {floor:.1e}", sizes.len());
    if below == sizes.len() {
        let fix = "no effect can be told from rounding: choose another target or a stronger intervention";
        lints.warn("EFFECT_BELOW_NOISE_FLOOR", at, detail, fix);
    } else {
        lints.info("EFFECT_BELOW_NOISE_FLOOR", at, detail, "read them as 0");
    }
}
