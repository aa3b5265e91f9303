//! Remarks on a sweep: said once of all cases, with the number of those of which they hold.

use super::average::{Dominated, Place};
use super::cells::{ArmHead, CaseHead};
use super::flips::SignFlips;
use super::lints::{DAMAGE_FIX, NotFinite, norm_lost, useless};
use super::stats::estimate;
use super::sweep::Tally;
use crate::lower::lint::Lints;
use crate::spec::metric::MetricKind;
use crate::spec::sweep::{CORRUPTED, SweepSpec};

/// Remarks on the cases and what was written.
pub fn of_cases(spec: &SweepSpec, arms: &[ArmHead], cases: &[CaseHead], tally: &Tally) -> Lints {
    let (list, mut lints) = (spec.form.list(), Lints::default());
    let dropped = cases.iter().filter(|case| !case.kept);
    let dropped =
        dropped.map(|case| (case.id.as_str(), case.dropped.iter().map(|by| by.filter.as_str()).collect()));
    of_count(list, cases.len(), dropped, &mut lints);
    of_runs(spec, arms, cases, &mut lints);
    let mut found = NotFinite::default();
    found.count(cases.iter().filter(|case| case.is_not_finite()).count(), cases.len(), "cases", list);
    found.count(tally.not_finite as usize, tally.cells, "cells", "/arms");
    found.lint(&mut lints);
    norm_lost("/arms", tally.written, &mut lints);
    if tally.lost > 0 {
        let detail = format!("{} cells are null: the engine died of them, or memory ran out", tally.lost);
        let fix = "see `nulls`; all other cells are as if these had not been asked for";
        lints.warn("CELLS_LOST", "/arms", detail, fix);
    } else if tally.reached && tally.written.max_abs_delta == 0.0 {
        let detail = "no intervention changed any number".to_owned();
        lints.error("ZERO_CELLS_WRITTEN", "/arms", detail, "check the arms' sources");
    }
    lints
}

/// Remarks on averages: those that one case makes, and p-values that can't be small.
pub fn of_averages(spec: &SweepSpec, dominated: &[Dominated], test: Option<&SignFlips>, lints: &mut Lints) {
    for one in dominated {
        let Dominated { metric, case, averages: [some, of], mean, without, .. } = one;
        let first = in_words(&one.first, one.group.as_deref());
        let detail = format!(
            "{metric}: case {case:?} makes more than half of {some} of the {of} strongest averages, first of all of {first}: \
             {mean:.3}, without it {without:.3}"
        );
        let fix = "look at this case, leave it out, or ask for averages that one case doesn't decide: `\"aggregate\": \
                   {\"stats\": [\"median\", \"trimmed_mean\"]}`";
        lints.warn("ONE_CASE_DOMINATES", spec.form.list(), detail, fix);
    }
    if let Some(test) = test {
        out_of_reach(test, lints);
    }
}

/// A place for people.
fn in_words(at: &Place, group: Option<&str>) -> String {
    let mut words = vec![format!("arm {:?}", at.arm)];
    for (name, value) in [("layer", at.layer), ("position", at.position), ("head", at.head), ("dim", at.dim)]
    {
        words.extend(value.map(|value| format!("{name} {value}")));
    }
    words.extend(at.token_class.as_ref().map(|class| class.replace('_', " ")));
    words.extend(group.map(|group| format!("group {group:?}")));
    words.join(", ")
}

/// Fewer cases than this leave a standard error uncertain by more than a third of itself.
const FEW_CASES: usize = 5;
/// With fewer than this the percentile bootstrap is visibly too narrow.
const FEW_TO_DRAW: usize = 15;
/// Cases that a remark names, at most.
const NAMED: usize = 5;

/// Remarks on how many cases count, found at `at`, the list of cases. `dropped`: names of those that don't, with the filters
/// that they fail.
pub(super) fn of_count<'c>(
    at: &str,
    all: usize,
    dropped: impl IntoIterator<Item = (&'c str, Vec<&'c str>)>,
    lints: &mut Lints,
) {
    let dropped: Vec<String> =
        dropped.into_iter().map(|(id, filters)| format!("{id:?} ({})", filters.join(", "))).collect();
    let kept = all - dropped.len();
    if kept == 0 {
        let detail = format!("the filters drop all {all} cases");
        let fix = "choose prompts that the model answers, or lower the filters";
        lints.error("NO_CASE_KEPT", "/filters", detail, fix);
        return;
    }
    if !dropped.is_empty() {
        let what = if dropped.len() == 1 { "case is" } else { "cases are" };
        let detail =
            format!("{} of {all} {what} left out by the filters: {}", dropped.len(), listed(&dropped));
        let fix = "the averages are of the others; `\"filters\": {\"expect_top1\": false}` keeps cases that the model \
                   answers otherwise";
        lints.info("CASES_DROPPED", "/filters", detail, fix);
    }
    let fix = "tens of cases are usual";
    if kept == 1 {
        let detail = "one case: `se` is over its samples, and says nothing of other prompts".to_owned();
        lints.info("SMALL_N", at, detail, fix);
    } else if kept < FEW_CASES {
        let detail = format!("standard errors and intervals of {kept} cases are uncertain themselves");
        lints.info("SMALL_N", at, detail, fix);
    } else if kept < FEW_TO_DRAW {
        let detail = format!(
            "of {kept} cases the bootstrap's intervals (`ci`) are too narrow: with 6, those of 95 % cover 86 %; those by \
             Student's t (`ci_t`) hold"
        );
        lints.info("SMALL_N", at, detail, fix);
    }
}

/// The first few, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text = format!("{text} and {} more", names.len() - NAMED);
    }
    text
}

/// Remarks on the unpatched runs, and on what the averages rest on.
pub(super) fn of_runs(spec: &SweepSpec, arms: &[ArmHead], cases: &[CaseHead], lints: &mut Lints) {
    let kept: Vec<&CaseHead> = cases.iter().filter(|case| case.kept).collect();
    let unexpected: Vec<&&CaseHead> = kept.iter().filter(|case| case.answers == Some(false)).collect();
    if let Some(first) = unexpected.first() {
        let run = first.runs.iter().find(|run| run.name == spec.from());
        let top1 = run.and_then(|run| run.top1.as_deref()).unwrap_or_default();
        let detail = format!(
            "in {} of {} cases the clean run's most probable token is not in the target; of case {:?} it is {top1:?}",
            unexpected.len(),
            kept.len(),
            first.id
        );
        lints.info(
            "TARGET_NOT_TOP1",
            spec.form.list(),
            detail,
            "choose prompts that the model answers as expected",
        );
    }
    of_corruption(spec, &kept, lints);
    for (i, metric) in
        spec.metrics.iter().enumerate().filter(|(_, metric)| metric.kind.facts().falls_by_damage)
    {
        let total = |arm: usize| {
            let of_case = |case: &&CaseHead| case.total_effect.get(arm)?.get(i)?.mean;
            estimate(kept.iter().map(of_case)).mean
        };
        let own = |arm: &ArmHead| arm.base != CORRUPTED && arm.reference.as_deref() != Some(CORRUPTED);
        let mut found = arms.iter().enumerate().filter(|(_, arm)| own(arm));
        if let Some((arm, total)) =
            found.find_map(|(i, arm)| Some((arm, total(i).filter(|total| *total < 0.0)?)))
        {
            let detail = format!(
                "{metric}: on average {total:.3e} from {} to {} (arm {:?}), so whatever harms the run counts as recovery",
                arm.base,
                arm.reference.as_deref().unwrap_or_default(),
                arm.name
            );
            lints.info("DAMAGE_LOOKS_LIKE_SUCCESS", "/arms", detail, DAMAGE_FIX);
        }
    }
}

/// Remarks on a sweep's corrupted runs, said once of all cases.
fn of_corruption(spec: &SweepSpec, kept: &[&CaseHead], lints: &mut Lints) {
    let noise = spec.corrupt.as_ref().is_some_and(|corrupt| corrupt.method.draws().is_some());
    let mut told: Vec<&str> = Vec::new();
    for kind in [MetricKind::Prob, MetricKind::Logprob] {
        let metrics = spec.metrics.iter().enumerate().filter(|(_, metric)| metric.kind == kind);
        for (i, metric) in metrics {
            // Both kinds of a target say the same.
            if told.contains(&metric.of.as_str()) {
                continue;
            }
            told.push(&metric.of);
            let prob = |case: &CaseHead, name: &str| {
                let mean = case.runs.iter().find(|run| run.name == name)?.values.get(i)?.mean?;
                Some(if kind == MetricKind::Prob { mean } else { mean.exp() })
            };
            let found = kept.iter().filter_map(|case| {
                let (clean, corrupted) = (prob(case, spec.from())?, prob(case, CORRUPTED)?);
                let (code, fix) = useless(clean, corrupted, noise)?;
                Some((code, fix, case.id.as_str(), clean, corrupted))
            });
            let found: Vec<_> = found.collect();
            for code in ["CORRUPTION_HELPS", "WEAK_CORRUPTION", "SATURATED_CORRUPTION"] {
                let mut of_code = found.iter().filter(|(of, ..)| *of == code);
                let count = of_code.clone().count();
                let Some((_, fix, id, clean, corrupted)) = of_code.next() else { continue };
                let detail = format!(
                    "{} of {} cases; case {id:?}: prob:{} {clean:.3e} clean, {corrupted:.3e} corrupted",
                    count,
                    kept.len(),
                    metric.of
                );
                lints.warn(code, "/corrupt", detail, fix);
            }
        }
    }
}

/// The remark that no p-value can be small, however clear an effect is.
pub(super) fn out_of_reach(test: &SignFlips, lints: &mut Lints) {
    if test.smallest_p > 0.05 {
        let detail =
            format!("with {} cases the smallest p-value there can be is {}", test.cases, test.smallest_p);
        lints.info("P_OUT_OF_REACH", "/aggregate/topk", detail, "6 cases reach 0.031, 8 reach 0.008");
    }
}
