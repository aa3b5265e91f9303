//! Result of a sweep: what `GET /v1/jobs/{id}/result` answers. It is stored once and says nothing of when or by whom it was
//! computed, so that a sweep that was interrupted gives the same bytes as one that was not.
//!
//! [`render::render`] gives it as a file, [`picture::picture`] as a picture.

pub mod arrays;
mod dense;
pub mod tables;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::effect::average::Averages;
use crate::effect::cells::{ArmHead, CaseHead, Cells};

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
