//! Result of a sweep: what `GET /v1/jobs/{id}/result` answers. It is stored once and says nothing of when or by whom it was
//! computed, so that a sweep that was interrupted gives the same bytes as one that was not.
//!
//! [`render()`] gives it as a file, [`picture()`] as a picture.

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

pub use picture::{Plot, picture};
pub use render::render;
pub use tables::Table;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::effect::average::{Averages, How, averages};
use crate::effect::cells::{ArmHead, CaseHead, Cells, Observed};
use crate::effect::sweep::{Part, derived};
use crate::lower::lint::Lints;
use crate::plan::output::EditStats;
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
    pub sigma: Option<Value>,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Every case, kept or dropped.
    pub cases: Vec<CaseHead>,
    /// Averages over the cases that count.
    pub averages: Averages,
    /// Quantities derived from the cells of each case and arm (`derive`): `{case, arm, metric, name, value}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub derived: Vec<Value>,
    /// What was written by the cells.
    pub receipt: EditStats,
    /// The cells themselves; left out with `"keep": {"per_case": false}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Cells>,
    /// Total effects below this are divided by nothing: `recovery` is null.
    pub min_total_effect: f64,
    /// Why numbers are null.
    #[serde(default)]
    pub nulls: Vec<Value>,
    /// Remarks.
    pub lints: Vec<Value>,
    /// How the numbers came about.
    pub provenance: Value,
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
    pub sigma: Option<Value>,
    /// Remarks found without running.
    pub lints: Vec<Value>,
    /// How the numbers came about.
    pub provenance: Value,
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
    let lints = facts.lints.iter().cloned().chain(remarks(&cases, &part, complete));
    let lints = lints.collect();
    let (receipt, lost) = (part.written, part.lost);
    let observed = Observed { metrics, arms: facts.arms.clone(), cases, cells: part.cells };
    let found = averages(&observed, &How::of(&spec.aggregate));
    let mut nulls = Vec::new();
    if lost > 0 {
        let reason =
            format!("{lost} cells could not be computed: the engine died of them, or memory ran out");
        nulls.push(json!({"pointer": "/cells", "reason": reason}));
    }
    let Observed { metrics, arms, cases, cells } = observed;
    SweepOutcome {
        model: facts.model.clone(),
        request: json_of(spec),
        complete,
        cells_done,
        cells_total,
        metrics,
        samples: facts.samples,
        sigma: facts.sigma.clone(),
        arms,
        cases,
        averages: found,
        derived,
        receipt,
        cells: spec.keep.per_case.then_some(cells),
        min_total_effect: crate::effect::MIN_TOTAL_EFFECT,
        nulls,
        lints,
        provenance: facts.provenance.clone(),
    }
}

/// Fewer cases than this leave a standard error uncertain by more than a third of itself.
const FEW_CASES: usize = 5;

/// Remarks on what was found.
fn remarks(cases: &[CaseHead], part: &Part, complete: bool) -> Vec<Value> {
    let mut lints = Lints::default();
    let kept = cases.iter().filter(|case| case.kept).count();
    let all = cases.len();
    if kept == 0 {
        let detail = format!("the filters drop all {all} cases");
        let fix = "choose prompts that the model answers, or lower the filters";
        lints.error("NO_CASE_KEPT", "/filters", detail, fix);
    } else if all > 1 && kept < FEW_CASES {
        let detail = format!("standard errors and intervals of {kept} cases are hardly known themselves");
        lints.info("SMALL_N", "/dataset", detail, "tens of cases are usual");
    }
    let reached = part.cells.exact_null.iter().any(|null| !null);
    if reached && part.written.max_abs_delta == 0.0 {
        let detail = "no intervention changed any number".to_owned();
        lints.error("ZERO_CELLS_WRITTEN", "/arms", detail, "check the arms' sources");
    }
    if !complete {
        let detail = "the sweep ended early, or is still computed: not all cells count".to_owned();
        lints.warn("INCOMPLETE", "", detail, "wait for the job, or submit the sweep again");
    }
    lints.0.iter().map(json_of).collect()
}

fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("BUG: requests and remarks have string keys and finite numbers")
}
