//! What a device must be able to do for the branching forward: a handful of operations on packed rows.
//!
//! The forward (`crate::model::decoder`) is written once over [`Kernels`]. [`cpu::Cpu`] is the reference for every other
//! device. All of them keep one promise: **a row's result depends on that row's inputs alone**, never on how many
//! other rows share the matrix or where it stands among them. Effects of exactly zero rest on it.

pub mod cpu;
pub mod upload;

use std::sync::Arc;

use crate::plan::Score;
use crate::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};
use crate::plan::output::EditStats;

/// Width and constants of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads, `h`.
    pub query: usize,
    /// Key/value heads, `k`; divides `query`.
    pub key_value: usize,
    /// Dimension of one head, `e`.
    pub dim: usize,
}

/// Operations on packed rows. Matrices are `[rows, columns]`, row-major, in the compute dtype; outputs go to buffers
/// that are kept from layer to layer, so that nothing is allocated on the way. A failure of the device is fatal to
/// the engine, so nothing here returns an error.
pub trait Kernels {
    /// Packed rows in the device's memory.
    type Matrix;
    /// A linear layer's weight, `[out, in]`, laid out as the device likes it.
    type Weight;
    /// The embedding table, `[vocabulary, hidden]`.
    type Table;
    /// A norm's weight or a bias.
    type Vector;

    /// An empty buffer for rows of this width.
    fn matrix(&self, columns: usize) -> Self::Matrix;

    /// The same for attention scores, which stay in f32 whatever the compute dtype is.
    fn scores_matrix(&self, columns: usize) -> Self::Matrix;

    /// Number of rows.
    fn rows(&self, x: &Self::Matrix) -> usize;

    /// `out[i] = table[tokens[i]]`
    fn embed(&self, table: &Self::Table, tokens: &[u32], out: &mut Self::Matrix);

    /// RMS norm over each row: `out = x / sqrt(mean(x^2) + eps) * weight`, statistics in f32.
    fn rms_norm(&self, x: &Self::Matrix, weight: &Self::Vector, eps: f32, out: &mut Self::Matrix);

    /// RMS norm over each head's slice of a row, in place (Qwen3's q and k norm).
    fn head_norm(&self, x: &mut Self::Matrix, weight: &Self::Vector, eps: f32);

    /// `out = x W^T (+ bias)`
    fn linear(
        &self,
        x: &Self::Matrix,
        weight: &Self::Weight,
        bias: Option<&Self::Vector>,
        out: &mut Self::Matrix,
    );

    /// Rotates each head by its row's position, in place. `table`: see [`RopeTable`].
    fn rope(&self, x: &mut Self::Matrix, positions: &[u32], table: &RopeTable);

    /// Causal attention over packed rows (see [`AttentionBatch`]): `q [out rows, h*e]`, `k`, `v` `[in rows, k*e]`,
    /// `positions` of the outgoing rows. Softmax in f32. `out [out rows, h*e]` is the site `z`.
    #[expect(clippy::too_many_arguments, reason = "one operation, and every argument is one of its operands")]
    fn attention(
        &self,
        heads: Heads,
        q: &Self::Matrix,
        k: &Self::Matrix,
        v: &Self::Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Self::Matrix,
    );

    /// The first third of [`Kernels::attention`]: scaled scores of each row with its keys, `out [out rows, h*keys]` in
    /// f32, zero where a row has no key. `out` is a matrix of [`Kernels::scores_matrix`]. The three thirds together give
    /// the bits of the whole.
    fn scores(
        &self,
        heads: Heads,
        q: &Self::Matrix,
        k: &Self::Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Self::Matrix,
    );

    /// The second third: softmax of each head's scores over the row's keys, in place.
    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Self::Matrix);

    /// The last third: values weighed by the pattern, `out [out rows, h*e]`.
    fn weigh(
        &self,
        heads: Heads,
        pattern: &Self::Matrix,
        v: &Self::Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Self::Matrix,
    );

    /// `out[i * h + j]` is row `rows[i]` of `z` with all heads but `j` zeroed.
    fn isolate_heads(&self, heads: Heads, z: &Self::Matrix, rows: &[u32], out: &mut Self::Matrix);

    /// The gated activation `out = silu(x G^T) * (x U^T)`.
    fn gated(&self, x: &Self::Matrix, gate: &Self::Weight, up: &Self::Weight, out: &mut Self::Matrix);

    /// `x += y`
    fn add(&self, x: &mut Self::Matrix, y: &Self::Matrix);

    /// `out[i] = x[rows[i]]`
    fn gather(&self, x: &Self::Matrix, rows: &[u32], out: &mut Self::Matrix);

    /// Appends copies of rows.
    fn append(&self, x: &mut Self::Matrix, rows: &[u32]);

    /// Applies an edit and adds each row's sum of squared changes to `changes[edit.runs[i]]`. Indices were checked when
    /// the batch was made.
    fn edit(&self, x: &mut Self::Matrix, edit: &EditRows, changes: &mut [f64]) -> EditStats;

    /// Copies rows to the host, `[rows, columns]` in f32.
    fn read(&self, x: &Self::Matrix, rows: &[u32]) -> Vec<f32>;

    /// Logits of rows (after the final norm, `[n, hidden]`), `[n, vocabulary]` in f32.
    fn logits(&self, x: &Self::Matrix, rows: &[u32], unembed: &Self::Weight) -> Vec<f32>;

    /// Unembeds rows (after the final norm, `[n, hidden]`) and scores each against `readout`; logits in f32, sums over
    /// the vocabulary in f64. Logits of all rows are never held at once.
    fn score(&self, x: &Self::Matrix, unembed: &Self::Weight, readout: &ReadoutBatch) -> Vec<Score>;
}

/// The device has no room for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device's memory has no room for {bytes} more bytes")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: u64,
}

/// Cosines and sines of RoPE, `[positions, head_dim / 2]` each, computed in f64.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Half the head dimension.
    pub half: usize,
    /// `cos(position * frequency)`
    pub cos: Arc<[f32]>,
    /// `sin(position * frequency)`
    pub sin: Arc<[f32]>,
}

impl RopeTable {
    /// Tables for positions below `positions`.
    pub fn new(inverse_frequencies: &[f64], positions: usize) -> RopeTable {
        let angles = || (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| p as f64 * f));
        RopeTable {
            half: inverse_frequencies.len(),
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }
}
