//! What the engine gives back for a plan.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EditGroup, Score};

/// Results of a plan, in the plan's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlanOutput {
    /// One per readout.
    pub scores: Vec<Score>,
    /// One per capture: `[positions, width]` in row-major order.
    pub captures: Vec<Vec<f32>>,
    /// What the edits of each group wrote; see [`PlanOutput::receipt`].
    pub receipts: [EditStats; 3],
    /// What each run's own edits of groups Patch and Control changed, `[runs]`: the sum of `(new - old)^2` over edits,
    /// positions and columns. An edit that no readout can see is not computed and changes nothing.
    pub written: Vec<f64>,
    /// Why scores or captures are missing, if some are: the first reason met. Which scores, they say themselves; captures
    /// that are missing are empty.
    pub lost: Option<Lost>,
    /// What it cost.
    pub usage: Usage,
}

/// What edits wrote.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct EditStats {
    /// Rows written: positions, each counted once per edit.
    pub cells: u64,
    /// Numbers written.
    pub elements: u64,
    /// Largest absolute change of a number.
    pub max_abs_delta: f32,
}

/// Why a part of a plan could not be computed, although it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// The engine died whenever it was computed, or of so much else of the plan that it was given up.
    EngineCrash,
    /// Memory ran out, although it was computed alone.
    OutOfMemory,
}

impl Lost {
    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EngineCrash => "engine_crash",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self {
            Self::EngineCrash => {
                "the engine died of this, or of so much beside it that the rest was given up"
            }
            Self::OutOfMemory => "memory ran out although this was computed alone",
        };
        write!(f, "{}: {words}", self.name())
    }
}

/// What a request cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, ToSchema)]
pub struct Usage {
    /// Rows computed: positions of runs.
    pub rows: u64,
    /// Rows times the layers each went through.
    pub row_layers: u64,
    /// Seconds of computation.
    pub seconds: f64,
    /// Seconds waited for the engine.
    pub queue_seconds: f64,
    /// Forward batches.
    pub chunks: u64,
    /// Largest memory planned at once, weights left out.
    pub peak_bytes: u64,
    /// Forward batches that were halved because memory ran out.
    pub halved: u64,
}

impl Usage {
    /// One after the other.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            row_layers: self.row_layers + other.row_layers,
            seconds: self.seconds + other.seconds,
            queue_seconds: self.queue_seconds + other.queue_seconds,
            chunks: self.chunks + other.chunks,
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
            halved: self.halved + other.halved,
        }
    }
}

impl PlanOutput {
    /// What the edits of a group wrote.
    pub fn receipt(&self, group: EditGroup) -> EditStats {
        self.receipts[group.index()]
    }
}

impl EditGroup {
    /// Index into [`PlanOutput::receipts`].
    pub const fn index(self) -> usize {
        match self {
            Self::Corruption => 0,
            Self::Patch => 1,
            Self::Control => 2,
        }
    }
}

impl EditStats {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cells: self.cells + other.cells,
            elements: self.elements + other.elements,
            max_abs_delta: self.max_abs_delta.max(other.max_abs_delta),
        }
    }
}
