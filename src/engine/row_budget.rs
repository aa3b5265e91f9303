//! How many rows a forward batch may hold, and what rows cost.

use serde::{Deserialize, Serialize};

use crate::model::config::ModelConfig;
use crate::plan::cost::Cost;
use crate::plan::pack::{Size, Space};

/// More rows than this make a batch slow to finish without making it faster: past a few thousand rows the weights are read from
/// cache anyway, and a batch is the unit in which requests take turns.
const MOST_HOST_ROWS: usize = 8192;

/// The working memory of a rank, and what a row takes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of working memory.
    pub bytes: u64,
    /// Bytes of one row: its share of every buffer and of the tables.
    pub bytes_per_row: u64,
    /// Query heads whose scores a row may hold.
    pub heads: usize,
    /// More rows than this are of no use.
    pub most_rows: usize,
}

impl Room {
    /// So many bytes of this machine's memory, which all its ranks share: buffers are in f32.
    pub fn host(config: &ModelConfig, bytes: u64) -> Room {
        let (d, q, kv) = (config.hidden_size, config.q_width(), config.kv_width());
        let numbers = 3 * d + 2 * q + 2 * kv + config.block.mlp.buffers() * config.intermediate_size;
        let tables = 24 * config.num_layers;
        Room {
            bytes,
            bytes_per_row: (4 * numbers + tables) as u64,
            heads: config.num_heads,
            most_rows: MOST_HOST_ROWS,
        }
    }
}

/// The row budget with the model's costs per row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowBudget {
    /// Most rows of one batch.
    pub rows: usize,
    /// See [`Room::bytes_per_row`].
    pub bytes_per_row: u64,
    /// See [`Room::heads`].
    heads: u64,
    /// Operations of one row in one layer.
    flops_per_row_layer: f64,
    /// Operations of one readout.
    flops_per_readout: f64,
    /// Operations a second, measured.
    pub flops_per_second: f64,
    /// Seconds that a batch takes where several requests are on their way.
    quantum_s: f64,
    /// Share of the time that steps of generation get beside everything else.
    pub step_share: f64,
}

/// Quanta that a batch takes where there is one request only.
const ALONE: f64 = 5.0;
/// What [`Space::spread`] is, alone and beside others: what is computed more than once is at most a sixteenth, or a quarter. On
/// slow devices that makes pieces longer than a quantum.
const SPREAD: [u64; 2] = [16, 4];

impl RowBudget {
    /// Rows that fit the working memory of each rank.
    pub fn new(config: &ModelConfig, room: Room) -> RowBudget {
        let Room { bytes, bytes_per_row, heads, most_rows } = room;
        RowBudget {
            rows: usize::try_from(bytes / bytes_per_row).unwrap_or(most_rows).min(most_rows),
            bytes_per_row,
            heads: heads as u64,
            flops_per_row_layer: 2.0 * config.layer_parameters() as f64,
            flops_per_readout: 2.0 * (config.vocab_size * config.hidden_size) as f64,
            flops_per_second: 1e11,
            quantum_s: 0.1,
            step_share: 0.5,
        }
    }

    /// The budget where each row also holds its attention scores with up to `keys` keys.
    #[must_use]
    pub fn with_scores(self, keys: u32) -> RowBudget {
        let bytes_per_row = self.bytes_per_row + 4 * self.heads * u64::from(keys);
        let rows = (self.rows as u64 * self.bytes_per_row / bytes_per_row) as usize;
        RowBudget { rows, bytes_per_row, ..self }
    }

    /// The budget whose quantum has so many seconds, and of which steps of generation get such a share of the time.
    #[must_use]
    pub fn with_turns(self, quantum_s: f64, step_share: f64) -> RowBudget {
        RowBudget { quantum_s, step_share, ..self }
    }

    /// What a batch has room for, of plans that hold scores with so many keys, alone or beside others.
    pub fn space(&self, keys: u32, alone: bool) -> Space {
        let seconds = if alone { ALONE * self.quantum_s } else { self.quantum_s };
        Space {
            work: (seconds * self.flops_per_second / self.flops_per_row_layer).ceil() as u64,
            spread: SPREAD[usize::from(!alone)],
            readout: (self.flops_per_readout / self.flops_per_row_layer).ceil() as u64,
            ..Space::from(self.with_scores(keys).rows)
        }
    }

    /// Takes a measurement: this many row-layers and readouts took so many seconds.
    #[must_use]
    pub fn calibrated(self, row_layers: u64, readouts: u64, seconds: f64) -> RowBudget {
        RowBudget { flops_per_second: self.flops(row_layers, readouts) / seconds, ..self }
    }

    /// As measured at start.
    pub fn row_layers_per_second(&self) -> f64 {
        self.flops_per_second / self.flops_per_row_layer
    }

    /// Operations of the linear layers and the unembedding.
    pub fn flops(&self, row_layers: u64, readouts: u64) -> f64 {
        row_layers as f64 * self.flops_per_row_layer + readouts as f64 * self.flops_per_readout
    }

    /// What so many steps of generation cost, of so many rows each.
    pub fn step_cost(&self, rows: u64, steps: u64, layers: u64) -> Cost {
        let (rows, row_layers) = (rows * steps, rows * steps * layers);
        let flops = self.flops(row_layers, rows);
        Cost { rows, row_layers, flops, peak_bytes: 0, seconds: flops / self.flops_per_second }
    }

    /// What a plan of this size costs. But for the seconds, that depends on the plan and on the memory that batches have, never on
    /// how fast they are computed, how they are cut and who is in them.
    pub fn cost(&self, size: Size) -> Cost {
        Cost {
            rows: size.rows,
            row_layers: size.row_layers,
            flops: self.flops(size.row_layers, size.readouts),
            peak_bytes: size.rows.min(self.rows as u64) * self.bytes_per_row,
            seconds: self.flops(size.in_chunks, size.readouts) / self.flops_per_second,
        }
    }
}
