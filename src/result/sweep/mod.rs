//! Result of a sweep: what `GET /v1/jobs/{id}/result` answers. It is stored once and says nothing of when or by whom it was
//! computed, so that a sweep that was interrupted gives the same bytes as one that was not.
//!
//! [`render()`] gives it as a file, [`picture()`] as a picture.

mod arm;
pub mod arrays;
mod bars;
mod dense;
#[cfg(test)]
mod example;
#[cfg(test)]
mod gallery;
mod heatmaps;
mod picture;
mod render;
pub mod tables;
#[cfg(test)]
mod tests;

pub use picture::picture;
pub use render::render;
pub use tables::Table;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::effect::average::{Averages, How, Total, averaged};
use crate::effect::cells::{ArmHead, CaseHead, Cells, Observed};
use crate::effect::sweep::{CaseDerived, Part, derived};
use crate::effect::sweep_lints::{of_averages, of_cases};
use crate::lower::layout::SigmaUsed;
use crate::lower::lint::Lint;
use crate::plan::output::{EditStats, Missing};
use crate::result::common::{NullReason, Nulls, Provenance};
use crate::spec::sweep::SweepSpec;

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SweepOutcome {
    /// The model.
    pub model: String,
    /// The request with every default.
    pub request: Value,
    /// Whether all of it was computed; not so of a sweep that was cancelled or failed, or is still running.
    pub complete: bool,
    /// Cells computed, dropped cases apart, each counted once whatever its samples.
    pub cells_done: u64,
    /// Cells of all cases that were not dropped.
    pub cells_total: u64,
    /// Metrics, as they were asked for.
    pub metrics: Vec<String>,
    /// Samples of each corrupted run; 1 without corruption or where it draws nothing.
    pub samples: u64,
    /// The size of the noise, the same for every case; null where it has none.
    pub sigma: Option<SigmaUsed>,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Every case, kept or dropped.
    pub cases: Vec<CaseHead>,
    /// Averages over the cases that count.
    pub averages: Averages,
    /// Quantities derived from the cells of each case and arm (`derive`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub derived: Vec<CaseDerived>,
    /// What was written by the cells.
    pub receipt: EditStats,
    /// The cells themselves; left out with `"keep": {"cells": false}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Cells>,
    /// Total effects below this are divided by nothing: `recovery` is null.
    pub min_total_effect: f64,
    /// Why numbers are null.
    #[serde(default)]
    #[schema(required = true)]
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// What a result says beside numbers: fixed when the sweep was submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepFacts {
    /// Name of the model.
    pub model: String,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Cells of each case.
    pub cells: Vec<u32>,
    /// Samples of each corrupted run.
    pub samples: u64,
    /// The size of the noise.
    pub sigma: Option<SigmaUsed>,
    /// Remarks found without running.
    pub lints: Vec<Lint>,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// Puts a result together from the cases whose unpatched runs are known, and the cells that are.
pub fn assemble(spec: &SweepSpec, facts: &SweepFacts, cases: Vec<CaseHead>, part: Part) -> SweepOutcome {
    let kept =
        cases.iter().zip(&facts.cells).filter(|(case, _)| case.kept).map(|(_, cells)| u64::from(*cells));
    let cells_total: u64 = kept.sum();
    let cells_done = part.cells.len() as u64;
    let complete = cases.len() == facts.cells.len() && cells_done == cells_total;
    let metrics: Vec<String> = spec.metrics.iter().map(ToString::to_string).collect();
    let derived = derived(spec, &facts.arms, &cases, &part);
    let mut lints = of_cases(spec, &facts.arms, &cases, &part.tally());
    let (receipt, lost) = (part.written, part.lost);
    let observed =
        Observed { metrics, arms: facts.arms.clone(), cases, cells: part.cells, sampled: part.sampled };
    let (found, dominated) = averaged(&observed, &How::of(&spec.aggregate));
    of_averages(spec, &dominated, found.test.as_ref(), &mut lints);
    if !complete {
        let detail = "the sweep ended early, or is still computed: not all cells count".to_owned();
        lints.warn("INCOMPLETE", "", detail, "wait for the job, or submit the sweep again");
    }
    let mut nulls = Nulls::default();
    if lost > 0 {
        let reason =
            format!("{lost} cells could not be computed: the engine died of them, or memory ran out");
        nulls.add("/cells", reason);
    }
    reasons(&observed, &found, receipt, spec.keep.cells, &mut nulls);
    let Observed { metrics, arms, cases, cells, .. } = observed;
    SweepOutcome {
        model: facts.model.clone(),
        request: json_of(spec),
        complete,
        cells_done,
        cells_total,
        metrics,
        samples: facts.samples,
        sigma: facts.sigma,
        arms,
        cases,
        averages: found,
        derived,
        receipt,
        cells: spec.keep.cells.then_some(cells),
        min_total_effect: crate::effect::MIN_TOTAL_EFFECT,
        nulls: nulls.0,
        lints: facts.lints.iter().cloned().chain(lints.0).collect(),
        provenance: facts.provenance.clone(),
    }
}

/// Why numbers are null: of the cases' unpatched runs, the cells, and the averages that these belong to.
fn reasons(observed: &Observed, found: &Averages, receipt: EditStats, cells: bool, nulls: &mut Nulls) {
    let Observed { metrics, arms, cases, cells: all, .. } = observed;
    let of_case: Vec<_> =
        cases.iter().map(|case| case.is_not_finite().then_some(Missing::NotFinite)).collect();
    nulls.array("/cases", &[cases.len()], &of_case);
    if cells {
        let unknown = |known: &[Option<bool>]| known.iter().filter(|known| known.is_none()).count();
        let none = |numbers: &[Option<f64>]| numbers.iter().filter(|number| number.is_none()).count();
        let reason = |n: usize| {
            let of = "have logits that are NaN or infinite";
            format!("not_finite: {n} of {} cells, or the runs that they are compared with, {of}", all.len())
        };
        for (name, mask) in [("exact_null", &all.exact_null), ("trivial", &all.trivial)] {
            nulls.one(format!("/cells/{name}"), Some(unknown(mask)).filter(|n| *n > 0).map(reason));
        }
        for (i, columns) in all.metrics.iter().enumerate() {
            for (name, numbers) in [("value", &columns.value), ("effect", &columns.effect)] {
                nulls.one(
                    format!("/cells/metrics/{i}/{name}"),
                    Some(none(numbers)).filter(|n| *n > 0).map(reason),
                );
            }
        }
    }
    let of_case = "not_finite: a number of a case that it is made of is null, see /cases and /cells";
    let of_total = |total: &Total| {
        let has_reference = arms.iter().any(|arm| arm.name == total.arm && arm.reference.is_some());
        let reason = match total.total_effect.mean {
            Some(_) => return None,
            None if !has_reference => "the arm has no reference run",
            None if total.total_effect.n == 0 => "no case was kept",
            None => of_case,
        };
        Some(reason)
    };
    let totals: Vec<_> = found.totals.iter().map(of_total).collect();
    nulls.array("/averages/totals", &[totals.len()], &totals);
    let rows: Vec<_> = found.rows.iter().map(|row| row.effect.mean.is_none().then_some(of_case)).collect();
    nulls.array("/averages/rows", &[rows.len()], &rows);
    let differences: Vec<_> =
        found.differences.iter().map(|row| row.difference.mean.is_none().then_some(of_case)).collect();
    nulls.array("/averages/differences", &[differences.len()], &differences);
    if !receipt.max_abs_delta.is_finite() {
        nulls.add("/receipt/max_abs_delta", "not_finite: a number was changed from or to NaN or infinity");
    }
    debug_assert!(all.metrics.is_empty() || all.metrics.len() == metrics.len());
}

fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("BUG: requests and remarks have string keys and finite numbers")
}
