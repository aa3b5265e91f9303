//! Keys and values that a rank keeps from batch to batch, so that a text can go on without its earlier rows.
//!
//! A slot is one position of one run, the same in every layer. Who has which slot is decided elsewhere
//! (`crate::engine::slots`): here is only written and read what a batch names.

use super::shard::Shard;
use crate::kernels::{Heads, Kernels, OutOfMemory};

/// A rank's own keys and values of every slot.
pub struct Store<K: Kernels> {
    pub(super) layers: Vec<Stored<K>>,
}

/// Those of one layer: rotated keys and values, `[slots, k*e]`.
pub(super) struct Stored<K: Kernels> {
    pub(super) keys: K::Matrix,
    pub(super) values: K::Matrix,
}

impl<K: Kernels> Store<K> {
    /// Without a slot.
    pub(super) fn empty(kernels: &K, shard: &Shard) -> Store<K> {
        let matrix = || kernels.matrix(width(shard));
        let layers = (0..shard.config().num_layers).map(|_| Stored { keys: matrix(), values: matrix() });
        Store { layers: layers.collect() }
    }

    pub(super) fn new(kernels: &K, shard: &Shard, slots: usize) -> Result<Store<K>, OutOfMemory> {
        let matrix = || kernels.store(width(shard), slots);
        let layer = |_| Ok(Stored { keys: matrix()?, values: matrix()? });
        Ok(Store { layers: (0..shard.config().num_layers).map(layer).collect::<Result<_, _>>()? })
    }
}

/// Numbers of a slot's keys in one layer.
fn width(shard: &Shard) -> usize {
    let Heads { key_value, dim, .. } = shard.attention();
    key_value * dim
}

/// Bytes of a slot on this rank. `number`: bytes of one number.
pub fn bytes_per_slot(shard: &Shard, number: u64) -> u64 {
    2 * width(shard) as u64 * number * shard.config().num_layers as u64
}
