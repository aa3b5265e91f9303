//! What a device must be able to do for the branching forward: a handful of operations on packed rows.
//!
//! The forward (`crate::model::decoder`) is written once over [`Kernels`]. [`cpu::Cpu`] is the reference for every other
//! device. All of them keep one promise: **a row's result depends on that row's inputs alone**, never on how many
//! other rows share the matrix or where it stands among them. Effects of exactly zero rest on it.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod edit;
pub mod facts;
mod score;
pub mod upload;

use std::ops::Range;
use std::sync::Arc;

pub use mediant_arithmetic::Heads;

use crate::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};
pub use score::{KlPart, Partial, merge};

/// Operations on the packed rows of one rank. Matrices are `[rows, columns]`, row-major, in the compute dtype; where ranks
/// share a model, the columns are this rank's own. Outputs go to buffers that are kept from layer to layer and were
/// [reserved](Kernels::reserve), so that they need not grow on the way. A failure of the device, or of another rank, is
/// fatal to the engine, so only the reservation returns an error.
pub trait Kernels {
    /// Packed rows in the device's memory.
    type Matrix;
    /// A linear layer's weight, `[out, in]`, laid out as the device likes it.
    type Weight;
    /// Several weights of the same inputs, multiplied as one: q, k and v; gate and up.
    type Stack;
    /// This rank's rows of the embedding, `[own vocabulary, hidden]`, with the first token id among them.
    type Table;
    /// A norm's weight or a bias.
    type Vector;
    /// Cosines and sines of RoPE where the device wants them.
    type Rope;
    /// What edits changed, row by row, not yet read.
    type Log;

    /// An empty buffer for rows of this width.
    fn matrix(&self, columns: usize) -> Self::Matrix;

    /// The same for attention scores, which stay in f32 whatever the compute dtype is.
    fn scores_matrix(&self, columns: usize) -> Self::Matrix;

    /// Number of rows.
    fn rows(&self, x: &Self::Matrix) -> usize;

    /// Makes room for so many rows, so that nothing below has to allocate for this matrix in the middle of a batch.
    fn reserve(&self, x: &mut Self::Matrix, rows: usize) -> Result<(), OutOfMemory>;

    /// `out[i]` = embedding of `tokens[i]`: a rank that does not own a token contributes zeros, and the ranks' rows are
    /// added up.
    fn embed(&self, table: &Self::Table, tokens: &[u32], out: &mut Self::Matrix);

    /// `x[i] += table[positions[i]]`: learned embeddings of positions, of which every rank has all.
    fn add_positions(&self, x: &mut Self::Matrix, table: &Self::Table, positions: &[u32]);

    /// `out` = the norm of each row of `x`, statistics in f32. A row whose squares add up to more than f32 holds comes out NaN,
    /// and so do heads in [`Kernels::norm_heads`].
    fn norm(&self, x: &Self::Matrix, norm: &Norm<Self::Vector>, out: &mut Self::Matrix);

    /// `x += y; out = norm(x)`: the bits of [`Kernels::add`] and [`Kernels::norm`] one after the other.
    fn add_norm(
        &self,
        x: &mut Self::Matrix,
        y: &Self::Matrix,
        norm: &Norm<Self::Vector>,
        out: &mut Self::Matrix,
    ) {
        self.add(x, y);
        self.norm(x, norm, out);
    }

    /// `q [rows, h*e]`, `k` and `v [rows, k*e]` of `x [rows, d]`, with bias where the model has one, and with what is done to q
    /// and k on the way. The bits of [`Kernels::norm_heads`] and [`Kernels::rope`] one after the other.
    fn project(
        &self,
        x: &Self::Matrix,
        weights: &Projections<Self>,
        on_the_way: OnTheWay<'_, Self>,
        q: &mut Self::Matrix,
        k: &mut Self::Matrix,
        v: &mut Self::Matrix,
    );

    /// RMS norm of each head of `x [rows, heads*e]` by a weight `[e]`, in place.
    fn norm_heads(&self, heads: Heads, x: &mut Self::Matrix, weight: &Self::Vector, eps: f32);

    /// Rotates each head by the row of the table that its row's position names, in place.
    fn rope(&self, x: &mut Self::Matrix, positions: &[u32], rope: &Self::Rope);

    /// Puts tables of RoPE where the device wants them.
    fn rope_table(&self, table: &RopeTable) -> Result<Self::Rope, OutOfMemory>;

    /// `out = x W^T` of this rank's share alone.
    fn linear(&self, x: &Self::Matrix, weight: &Self::Weight, out: &mut Self::Matrix);

    /// `out = x W^T` where `x` and the weight's inputs are divided over the ranks: the ranks' products are added up in the order
    /// of the ranks, then the bias, if there is one, is added, once. Of a single rank just the product and the bias.
    fn row_parallel(
        &self,
        x: &Self::Matrix,
        weight: &Self::Weight,
        bias: Option<&Self::Vector>,
        out: &mut Self::Matrix,
    );

    /// The gated activation `out = silu(x G^T) * (x U^T)`; `gate_up`: G over U.
    fn gated(&self, x: &Self::Matrix, gate_up: &Self::Stack, out: &mut Self::Matrix);

    /// The activation without a gate `out = gelu(x U^T + bias)`, GELU by its approximation with tanh; `up`: U alone.
    fn gelu(&self, x: &Self::Matrix, up: &Self::Stack, bias: Option<&Self::Vector>, out: &mut Self::Matrix);

    /// The first half of [`Kernels::gated`], `gate = x G^T` and `up = x U^T`, or of [`Kernels::gelu`], which has no gate:
    /// `up = x U^T + bias`.
    fn pre_activation(
        &self,
        x: &Self::Matrix,
        stack: &Self::Stack,
        bias: Option<&Self::Vector>,
        gate: Option<&mut Self::Matrix>,
        up: &mut Self::Matrix,
    );

    /// The second half, in place: `up = silu(gate) * up` or, without a gate, `up = gelu(up)`. Both halves together give the bits of
    /// the whole.
    fn activate(&self, gate: Option<&Self::Matrix>, up: &mut Self::Matrix);

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

    /// `x += y`
    fn add(&self, x: &mut Self::Matrix, y: &Self::Matrix);

    /// `out[i] = x[rows[i]]`
    fn gather(&self, x: &Self::Matrix, rows: &[u32], out: &mut Self::Matrix);

    /// Appends copies of rows.
    fn append(&self, x: &mut Self::Matrix, rows: &[u32]);

    /// A matrix of so many rows, for [`Kernels::keep`] to write; what they hold before is unspecified.
    fn store(&self, columns: usize, rows: usize) -> Result<Self::Matrix, OutOfMemory>;

    /// `store[slots[i]] = x[rows[i]]`; each slot once.
    fn keep(&self, x: &Self::Matrix, rows: &[u32], store: &mut Self::Matrix, slots: &[u32]);

    /// An empty log.
    fn log(&self) -> Self::Log;

    /// Applies an edit, in this matrix's own columns, as [`edit::edited`] defines it, and logs what it changed. Indices were
    /// checked when the batch was made.
    fn edit(&self, x: &mut Self::Matrix, edit: &EditRows, log: &mut Self::Log);

    /// What was logged: one entry per edited row, in order.
    fn changes(&self, log: Self::Log) -> Vec<RowChange>;

    /// Every rank's numbers, in the order of the ranks; as many from each. See [`crate::comm::Collective::exchange`].
    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]>;

    /// Copies rows to the host, `[rows, columns]` in f32.
    fn read(&self, x: &Self::Matrix, rows: &[u32]) -> Vec<f32>;

    /// Logits of rows (after the final norm, `[n, hidden]`) over this rank's vocabulary, `[n, own vocabulary]` in f32.
    fn logits(&self, x: &Self::Matrix, rows: &[u32], unembed: &Self::Weight) -> Vec<f32>;

    /// What this rank's part of the vocabulary, the ids `own`, says of each row of `x [n, hidden]`, which are the readout's
    /// rows after the final norm; logits in f32. The ranks' logits of the target tokens are added up on the way, zeros where a
    /// rank does not own one. Logits of all rows are never held at once.
    fn score(
        &self,
        x: &Self::Matrix,
        unembed: &Self::Weight,
        own: Range<u32>,
        readout: &ReadoutBatch,
    ) -> Vec<Partial>;
}

/// What a layer's queries, keys and values are made with.
pub struct Projections<K: Kernels + ?Sized> {
    /// Query, key and value projections, `[h*e + 2*k*e, d]`.
    pub stack: K::Stack,
    /// Their biases, one after the other.
    pub bias: Option<K::Vector>,
}

/// What is done to q and k as they come out of their projection, where nothing looks at them in between.
pub struct OnTheWay<'a, K: Kernels + ?Sized> {
    /// The norms of their heads, of models that have them.
    pub norms: Option<&'a HeadNorms<K::Vector>>,
    /// The rotation: positions of the rows, and the table.
    pub rotate: Option<(&'a [u32], &'a K::Rope)>,
}

/// RMS norms of each head of q and of each head of k.
#[derive(Debug, Clone)]
pub struct HeadNorms<V> {
    /// Weight for q, `[e]`.
    pub query: V,
    /// Weight for k, `[e]`.
    pub key: V,
    /// Epsilon of both.
    pub eps: f32,
}

/// What a sublayer's output is made with: a projection whose inputs are divided over the ranks.
pub struct Output<K: Kernels + ?Sized> {
    /// `[d, in]`
    pub weight: K::Weight,
    /// `[d]`, on every rank.
    pub bias: Option<K::Vector>,
}

/// A norm over the residual stream.
pub enum Norm<V> {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms {
        /// `[d]`
        weight: V,
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer {
        /// `[d]`
        weight: V,
        /// `[d]`
        bias: V,
        /// Added to the variance.
        eps: f32,
    },
}

/// What an edit changed in one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowChange {
    /// Sum of squared changes.
    pub squared: f64,
    /// Sum of the squares of the numbers that were there.
    pub before: f64,
    /// Largest absolute change; NaN if one is not finite.
    pub largest: f32,
    /// See [`edit::edited_row`].
    pub cancelled: bool,
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
    /// Tables for positions below `positions`. `factor`: what cosines and sines are multiplied by.
    pub fn new(inverse_frequencies: &[f64], factor: f64, positions: usize) -> RopeTable {
        let rows: Vec<_> = (0..positions).map(|position| (position, inverse_frequencies)).collect();
        RopeTable::of(&rows, inverse_frequencies.len(), factor)
    }

    /// A row for each position, turned by the inverse frequencies beside it, `half` of them.
    pub fn of(rows: &[(usize, &[f64])], half: usize, factor: f64) -> RopeTable {
        let each = |function: fn(f64) -> f64| {
            let row = |&(position, frequencies): &(usize, &[f64])| -> Vec<f32> {
                frequencies.iter().map(|f| (function(position as f64 * f) * factor) as f32).collect()
            };
            rows.iter().flat_map(row).collect()
        };
        RopeTable { half, cos: each(f64::cos), sin: each(f64::sin) }
    }
}
