//! What the engine gives back for a plan.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::draw::Drawn;
use super::{EditGroup, Score};

/// Results of a plan, in the plan's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlanOutput {
    /// One per readout.
    pub scores: Vec<Score>,
    /// One per capture: `[positions, width]` in row-major order.
    pub captures: Vec<Vec<f32>>,
    /// What the edits of each group wrote, whatever the plan was cut into; see [`PlanOutput::receipt`].
    pub receipts: [EditStats; 3],
    /// What each run's own edits of groups Patch and Control changed, `[runs]`: the sum of `(new - old)^2` over edits,
    /// positions and columns. An edit that no readout can see is not computed and changes nothing.
    pub written: Vec<f64>,
    /// How many rows each run's own edits wrote, `[runs]`.
    pub cells: Vec<u64>,
    /// Why scores or captures could not be computed, if so: the first reason met. Which scores, they say themselves; captures
    /// that are lost are empty.
    pub lost: Option<Lost>,
    /// Number of the engine process that computed all of it: which has what the plan keeps. None: there were several.
    pub process: Option<u64>,
    /// What it cost.
    pub usage: Usage,
}

/// What a forward batch gives back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BatchOutput {
    /// One per readout row: those of the lens, layer by layer, then the final ones.
    pub scores: Vec<Score>,
    /// (capture index, numbers `[positions, width]`)
    pub captures: Vec<(usize, Vec<f32>)>,
    /// What was written, one for each row edited.
    pub written: Vec<RowWritten>,
    /// Of a step, one for each of its draws; none where a logit is NaN or infinite.
    pub drawn: Vec<Option<Drawn>>,
}

/// What edits wrote.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct EditStats {
    /// Rows written: positions, each counted once per edit.
    pub cells: u64,
    /// Numbers written.
    pub elements: u64,
    /// Largest absolute change of a number; null if one is not finite, as where edges of attention are cut.
    #[serde(with = "finite_or_null")]
    #[schema(value_type = Option<f32>)]
    pub max_abs_delta: f32,
    /// Of the rows, those that `norm_match` was to keep the norm of and could not: what was added cancelled them to zero.
    #[serde(default)]
    #[schema(required = false)]
    pub cancelled: u64,
}

/// What an edit did to one row.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RowWritten {
    /// Numbers written.
    pub elements: u32,
    /// Sum of squared changes.
    pub squared: f64,
    /// Sum of the squares of the numbers that were there.
    pub before: f64,
    /// Largest absolute change; NaN if one is not finite.
    pub largest: f32,
    /// Whether the row was to keep its norm and nothing was left of it.
    pub cancelled: bool,
}

/// Why a score has no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// It could not be computed.
    Lost(Lost),
    /// It was, but a logit is NaN or infinite.
    NotFinite,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(lost) => lost.fmt(f),
            Self::NotFinite => f.write_str("not_finite: logits are NaN or infinite"),
        }
    }
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
    /// Rows: positions of runs, those of each run once. As `/v1/plan` says, whatever was computed at the same time.
    pub rows: u64,
    /// Rows times the layers each passes through: what is charged. As `/v1/plan` says.
    pub row_layers: u64,
    /// Whether nothing of it was computed for this answer: an equal request had been computed before, or was being computed.
    /// Then nothing of it is charged, and no seconds are counted.
    pub cached: bool,
    /// Seconds of computation; of a forward batch that other requests had a part in, its own part by operations.
    pub seconds: f64,
    /// Seconds for which the engine was busy with other requests while this one waited for it.
    pub queue_seconds: f64,
    /// Pieces of other requests in its forward batches: the most in one.
    pub shared_with: u64,
    /// Memory planned at once, at most, weights left out.
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
            cached: self.is_cached_or_nothing() && other.is_cached_or_nothing() && self.rows + other.rows > 0,
            seconds: self.seconds + other.seconds,
            queue_seconds: self.queue_seconds + other.queue_seconds,
            shared_with: self.shared_with.max(other.shared_with),
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
            halved: self.halved + other.halved,
        }
    }
}

impl Usage {
    const fn is_cached_or_nothing(&self) -> bool {
        self.cached || self.rows == 0
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
            max_abs_delta: larger(self.max_abs_delta, other.max_abs_delta),
            cancelled: self.cancelled + other.cancelled,
        }
    }
}

impl From<RowWritten> for EditStats {
    fn from(row: RowWritten) -> Self {
        Self {
            cells: 1,
            elements: u64::from(row.elements),
            max_abs_delta: row.largest,
            cancelled: u64::from(row.cancelled),
        }
    }
}

/// The larger of two changes; NaN if one is not finite. `f32::max` would drop it, and the change with it.
pub fn larger(a: f32, b: f32) -> f32 {
    if a.is_finite() && b.is_finite() { a.max(b) } else { f32::NAN }
}

/// A number that is null where it is not finite: JSON has no other way to say it.
mod finite_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        number.is_finite().then_some(*number).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        Ok(Option::<f32>::deserialize(deserializer)?.unwrap_or(f32::NAN))
    }
}
