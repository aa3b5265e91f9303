//! Response of `POST /v1/plan`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::lower::lint::Lint;
use crate::plan::cost::{Ceiling, Cost};

/// What a request would do and cost.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PlanResponse {
    /// The model.
    pub model: String,
    /// `run`, `patch`, `trace`, `sweep` or `generate`.
    pub kind: &'static str,
    /// The request in its long form.
    #[schema(value_type = Object)]
    pub request: Value,
    /// Runs: baselines, patched runs and controls.
    pub runs: usize,
    /// Readouts.
    pub readouts: usize,
    /// What it would cost.
    pub cost: Cost,
    /// The most that one request may cost.
    pub ceiling: Ceiling,
    /// Whether it would be let in.
    pub allowed: bool,
    /// Remarks that need no computation.
    pub lints: Vec<Lint>,
    /// SHA-256 of the resolved request and its token ids.
    pub plan_sha256: String,
}
