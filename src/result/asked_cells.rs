//! What the model says with cells of a trace, beside what it says without them.
//!
//! The tokens that are the most probable on average over samples are scored once more in all of them: no sample names all tokens.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::NullReason;
use crate::effect::stats::{Estimate, estimate};
use crate::effect::top::{candidates, probability, ranked, unnamed_by_all};
use crate::lower::facts::Words;
use crate::lower::layout::{CellKey, TraceLayout};
use crate::plan::Score;
use crate::plan::output::PlanOutput;

/// What the model says with a cell.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CellTokens {
    /// The arm.
    pub arm: String,
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Tokens that are among the most probable with the cell, in the clean or in the corrupted run, and those of the targets; the
    /// most probable with the cell first. Null where a run has no numbers.
    pub tokens: Option<Vec<CellToken>>,
}

/// A token with its probability in a patched run and in the runs that it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CellToken {
    /// Token id.
    pub id: u32,
    /// Its text; bytes that are no character of their own are written as `<E6>`.
    pub text: String,
    /// Where it is among the most probable; nowhere, if it is only a target's.
    pub top_of: Vec<TopOf>,
    /// Its probability with the cell, over samples.
    pub prob: Estimate,
    /// The same minus its probability in the run that is patched, paired by sample.
    pub effect: Estimate,
    /// Its probability in the clean run.
    pub clean: Option<f64>,
    /// Its probability in the corrupted run, over samples.
    pub corrupted: Estimate,
}

impl CellToken {
    /// Where it is among the most probable, as words with spaces between them.
    pub(super) fn tops(&self) -> String {
        self.top_of.iter().map(|of| of.name()).collect::<Vec<_>>().join(" ")
    }
}

/// A run of which a token is among the most probable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopOf {
    /// The patched run.
    Cell,
    /// The clean run.
    Clean,
    /// The corrupted run.
    Corrupted,
}

impl TopOf {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cell => "cell",
            Self::Clean => "clean",
            Self::Corrupted => "corrupted",
        }
    }
}

/// Readouts of the clean run, of the corrupted one and of each cell, with one of each sample.
fn groups(layout: &TraceLayout) -> Vec<Vec<usize>> {
    let case = &layout.case;
    let cells = layout.cells.iter().map(|(arm, cell)| case.arms.0[*arm].1.grid.cell(*cell).to_vec());
    [vec![case.clean], case.corrupted.clone()].into_iter().chain(cells).collect()
}

/// What is scored once more: nothing where no cell is named.
pub(super) fn readouts(layout: &TraceLayout) -> Vec<usize> {
    if layout.cells.is_empty() { Vec::new() } else { groups(layout).concat() }
}

/// The tokens that are then scored.
pub(super) fn wanted(layout: &TraceLayout, scores: &[Score]) -> Vec<u32> {
    let told = layout.spec.experiment.read.topk as usize;
    let mut ids = layout.case.common.targets.union.clone();
    for group in groups(layout) {
        ids.extend(candidates(&group.iter().map(|readout| &scores[*readout]).collect::<Vec<_>>(), told));
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What each cell says.
pub(super) fn tokens(
    layout: &TraceLayout,
    output: &PlanOutput,
    again: &PlanOutput,
    words: &dyn Words,
    nulls: &mut Vec<NullReason>,
) -> Vec<CellTokens> {
    let (case, told) = (&layout.case, layout.spec.experiment.read.topk as usize);
    let ids = wanted(layout, &output.scores);
    let mut rest = &again.scores[..];
    let groups: Vec<Group> = groups(layout)
        .iter()
        .map(|readouts| {
            let (own, others) = rest.split_at(readouts.len());
            rest = others;
            let before: Vec<&Score> = readouts.iter().map(|readout| &output.scores[*readout]).collect();
            Group::new(own, &before, told)
        })
        .collect();
    let [clean, corrupted, cells @ ..] = &groups[..] else { return Vec::new() };
    let of_targets = &case.common.targets.union;
    let asked = layout.cells.iter().zip(cells).enumerate();
    asked
        .map(|(i, ((arm, cell), own))| {
            let (name, layout) = &case.arms.0[*arm];
            let missing = [clean, corrupted, own].into_iter().find_map(|group| group.missing.clone());
            if let Some(reason) = &missing {
                nulls.push(NullReason { pointer: format!("/cells/{i}/tokens"), reason: reason.clone() });
            }
            // The run that is patched: of each sample, or one for all.
            let base = if layout.base[..] == case.corrupted[..] { corrupted } else { clean };
            let token = |at: usize| {
                let tops = [(TopOf::Cell, own), (TopOf::Clean, clean), (TopOf::Corrupted, corrupted)];
                let pairs = own.probs.iter().zip(base.probs.iter().cycle());
                CellToken {
                    id: ids[at],
                    text: words.text(ids[at]),
                    top_of: tops
                        .iter()
                        .filter(|(_, group)| group.top.contains(&at))
                        .map(|(of, _)| *of)
                        .collect(),
                    prob: own.means[at],
                    effect: estimate(pairs.map(|(own, base)| Some(own[at] - base[at]))),
                    clean: clean.means[at].mean,
                    corrupted: corrupted.means[at],
                }
            };
            let told = |at: &usize| {
                [own, clean, corrupted].iter().any(|group| group.top.contains(at))
                    || of_targets.contains(&ids[*at])
            };
            let tokens = missing.is_none().then(|| {
                let mut tokens: Vec<CellToken> = (0..ids.len()).filter(told).map(token).collect();
                tokens.sort_by(|a, b| b.prob.mean.unwrap_or(0.0).total_cmp(&a.prob.mean.unwrap_or(0.0)));
                tokens
            });
            CellTokens { arm: name.clone(), cell: layout.grid.key(*cell), tokens }
        })
        .collect()
}

/// The samples of one run, scored for all tokens that are told anywhere.
struct Group {
    /// Probability of each token, by sample.
    probs: Vec<Vec<f64>>,
    /// The same over samples.
    means: Vec<Estimate>,
    /// Tokens that are its most probable.
    top: Vec<usize>,
    /// Why it has no numbers, if so.
    missing: Option<String>,
}

impl Group {
    /// `before`: the same readouts, when each named the most probable tokens of its own.
    fn new(scores: &[Score], before: &[&Score], told: usize) -> Self {
        if let Some(missing) = scores.iter().chain(before.iter().copied()).find_map(|score| score.missing) {
            return Self { probs: vec![], means: vec![], top: vec![], missing: Some(missing.to_string()) };
        }
        let of = |score: &Score| score.logits.iter().map(|logit| probability(score, *logit)).collect();
        let probs: Vec<Vec<f64>> = scores.iter().map(of).collect();
        let tokens = probs.first().map_or(0, Vec::len);
        let means: Vec<Estimate> =
            (0..tokens).map(|at| estimate(probs.iter().map(|sample| Some(sample[at])))).collect();
        let values: Vec<Option<f64>> = means.iter().map(|mean| mean.mean).collect();
        Self { top: ranked(&values, told, unnamed_by_all(before)), probs, means, missing: None }
    }
}
