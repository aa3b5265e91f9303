//! What was found out of a device when it was opened.

use serde::{Deserialize, Serialize};

/// What a rank found of its device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Such as "cpu, 2 threads" or the name that a GPU's driver gives.
    pub name: String,
    /// Bytes of the rank's weights.
    pub weight_bytes: u64,
    /// Bytes that were free when these were loaded; of a CPU, of the machine.
    pub free_bytes: u64,
    /// Positions whose keys and values it has room to keep, and the bytes that they take.
    pub key_slots: u64,
    /// See `key_slots`.
    pub key_bytes: u64,
    /// How fast it is; unknown of a CPU.
    pub rates: Option<Rates>,
    /// How it adds up products with other ranks; nothing of a CPU, or of a rank alone.
    pub sums: Option<Sums>,
    /// What was found of each product; empty for a CPU, whose products are invariant by construction.
    pub products: Vec<Invariance>,
}

/// How GPUs add up what each has of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sums {
    /// They write into one another's memory.
    Peers,
    /// NCCL does it.
    Nccl,
}

impl Sums {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Sums::Peers => "writing into peers' memory",
            Sums::Nccl => "NCCL",
        }
    }
}

/// From how many rows on a product gives a row the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariance {
    /// Outputs of the weight.
    pub outputs: usize,
    /// Inputs of the weight.
    pub inputs: usize,
    /// Row counts from here on, up to the largest that are computed at once, give a row the same bits, whatever its place;
    /// products of few rows are padded to one of these. `None`: larger than any padding, so that bits depend on the batch.
    pub floor: Option<usize>,
}

/// How fast a device is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Operations a second of a large square product, 2 per multiply-add.
    pub square_flops: f64,
    /// The same when it goes on for a while: at the limit of a board's power the clock falls.
    pub sustained_flops: f64,
    /// Bytes a second of a copy in device memory, read and written.
    pub copy_bytes: f64,
}
