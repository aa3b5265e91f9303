//! Response of `POST /v1/plan`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::lower::layout::Common;
use crate::lower::lint::Lint;
use crate::plan::Plan;
use crate::plan::cost::{Ceiling, Cost};
use crate::spec::dry_run::Planned;

/// What a request would do and cost.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PlanResponse {
    /// The model.
    pub model: String,
    /// `run`, `patch` or `trace`.
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

impl PlanResponse {
    /// Puts the answer together.
    pub fn new(
        model: &str,
        kind: Planned,
        request: Value,
        plan: &Plan,
        common: &Common,
        cost: Cost,
        ceiling: Ceiling,
    ) -> PlanResponse {
        PlanResponse {
            model: model.to_owned(),
            kind: kind.name(),
            request,
            runs: plan.runs.len(),
            readouts: plan.readouts.len(),
            cost,
            ceiling,
            allowed: ceiling.allows(&cost),
            lints: common.lints.0.clone(),
            plan_sha256: common.plan_sha256.clone(),
        }
    }
}
