//! Ragged attention: which rows share a tile, and the launch.
//!
//! With tensor cores (bf16 and f16) a tile is a handful of rows that share a key list, so that keys and values are read
//! once for all of their heads. Which rows share a tile does not enter a row's numbers.

use super::device::{Arg, Shape};
use super::{Cuda, Matrix};
use crate::kernels::Heads;
use crate::plan::batch::AttentionBatch;
use crate::spec::dtype::Dtype;

const NO_ROW: u32 = u32::MAX;

/// What of attention is done; see `source/attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Whole = 0,
    Scores = 1,
    Weigh = 2,
}

/// Where the operands lie; null where the mode has none.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) q: Arg,
    pub(super) k: Arg,
    pub(super) v: Arg,
    pub(super) scores: Arg,
    pub(super) out: Arg,
    /// Columns of a head of the scores.
    pub(super) stride: usize,
}

impl Operands {
    pub(super) const NONE: Operands =
        Operands { q: Arg::NULL, k: Arg::NULL, v: Arg::NULL, scores: Arg::NULL, out: Arg::NULL, stride: 0 };
}

impl Cuda {
    /// Attention, or a part of it, over the rows of `positions`.
    pub(super) fn attend(
        &self,
        mode: Mode,
        heads: Heads,
        operands: Operands,
        batch: &AttentionBatch,
        positions: &[u32],
    ) {
        let group = heads.query / heads.key_value;
        let (tiles, shape) = if self.has_tiles(heads) {
            let tiles = tiles(&batch.key_start[..positions.len()], 64 / group);
            let count = tiles.len() / (64 / group);
            (tiles, Shape { grid: (count as u32, heads.key_value as u32), block: 128, shared: 0 })
        } else {
            (Vec::new(), rows_shape(heads, positions))
        };
        let tables = [&tiles, &batch.keys, &batch.key_start, positions];
        let [tiles, keys, key_start, positions] = self.device.tables(tables.map(bytemuck::cast_slice));
        let args = [
            operands.q,
            operands.k,
            operands.v,
            tiles,
            keys,
            key_start,
            positions,
            operands.scores,
            operands.out,
            (heads.query as u32).into(),
            (heads.key_value as u32).into(),
            (operands.stride as u32).into(),
            (mode as u32).into(),
        ];
        self.device.launch("attention", shape, args);
    }

    /// The softmax by itself, in place.
    pub(super) fn soften(&self, heads: Heads, positions: &[u32], scores: &Matrix) {
        let (n, stride) = (positions.len(), scores.columns / heads.query);
        let shape = if self.has_tiles(heads) {
            Shape::blocks((4 * n * heads.query).div_ceil(256), 256)
        } else {
            Shape::blocks(n * heads.query, 128)
        };
        let args = [
            scores.start(),
            self.device.table(positions),
            (n as u32).into(),
            (heads.query as u32).into(),
            (stride as u32).into(),
        ];
        self.device.launch("softmax", shape, args);
    }

    /// Whether the kernel is the one on tensor cores: as `MMA` in its source.
    fn has_tiles(&self, heads: Heads) -> bool {
        let Heads { query, key_value, dim } = heads;
        self.dtype != Dtype::F32 && dim.is_multiple_of(16) && dim <= 128 && query / key_value <= 64
    }
}

/// A block for each row and head, with room for the longest row's scores.
fn rows_shape(heads: Heads, positions: &[u32]) -> Shape {
    let keys = positions.iter().max().map_or(0, |p| p + 1);
    Shape { grid: (positions.len() as u32, heads.query as u32), block: 128, shared: 4 * keys }
}

/// Rows that share a key list, `size` to a tile, filled up with [`NO_ROW`].
fn tiles(key_start: &[u32], size: usize) -> Vec<u32> {
    let mut rows: Vec<u64> =
        key_start.iter().zip(0u64..).map(|(start, row)| u64::from(*start) << 32 | row).collect();
    rows.sort_unstable();
    let mut tiles = Vec::with_capacity(rows.len() + rows.len() / 4);
    for list in rows.chunk_by(|a, b| a >> 32 == b >> 32) {
        for tile in list.chunks(size) {
            tiles.extend(tile.iter().map(|row| *row as u32));
            tiles.resize(tiles.len().next_multiple_of(size), NO_ROW);
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_tile_with_rows_of_its_own_list() {
        let key_start = [7, 0, 7, 7, 0, 3, 7];
        let tiles = tiles(&key_start, 2);
        assert_eq!(tiles, [1, 4, 5, NO_ROW, 0, 2, 3, 6]);
    }
}
