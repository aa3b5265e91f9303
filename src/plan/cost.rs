//! What a plan will cost, and what it may.

use serde::Serialize;
use utoipa::ToSchema;

/// What a plan will cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, ToSchema)]
pub struct Cost {
    /// Rows: positions of runs, those of each run once.
    pub rows: u64,
    /// Rows times the layers each passes through: what is charged, whatever else is computed at the same time.
    pub row_layers: u64,
    /// Floating-point operations, 2 per multiply-add: linear layers and unembedding.
    pub flops: f64,
    /// Memory at once, at most, weights left out.
    pub peak_bytes: u64,
    /// Seconds, from the rate measured when the server started.
    pub seconds: f64,
}

impl Cost {
    /// One after the other.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            row_layers: self.row_layers + other.row_layers,
            flops: self.flops + other.flops,
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
            seconds: self.seconds + other.seconds,
        }
    }
}

impl Cost {
    /// So many times, one after the other.
    #[must_use]
    pub fn times(&self, by: f64) -> Self {
        let times = |n: u64| (n as f64 * by) as u64;
        Self {
            rows: times(self.rows),
            row_layers: times(self.row_layers),
            flops: self.flops * by,
            peak_bytes: self.peak_bytes,
            seconds: self.seconds * by,
        }
    }
}

/// The most that one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Ceiling {
    /// Rows times layers.
    pub row_layers: u64,
    /// Estimated seconds.
    pub seconds: f64,
}

impl Ceiling {
    /// Whether a request of this cost is let in.
    pub fn allows(&self, cost: &Cost) -> bool {
        cost.row_layers <= self.row_layers && cost.seconds <= self.seconds
    }
}
