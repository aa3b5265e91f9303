//! Kernels with one deliberate fault each: what the identity tests must be able to see.

use candle_core::{Device, Tensor};
use mediant::kernels::cpu::{Cpu, Matrix, PackedWeight};
use mediant::kernels::{Heads, Kernels, RopeTable};
use mediant::plan::Score;
use mediant::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};
use mediant::plan::output::EditStats;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Linear layers by candle's matmul, which picks its order of summation by the number of rows.
    LibraryGemm,
    /// Linear layers that cut the sum over inputs in two when there are many rows.
    SplitByRows,
    /// Attention whose sums are grouped by the longest sequence in the batch, as padding does.
    PaddedAttention,
}

/// The CPU's kernels but for one fault.
pub(crate) struct Faulty {
    pub(crate) inner: Cpu,
    pub(crate) fault: Fault,
}

/// A weight with its plain copy for the faulty paths.
pub(crate) struct Weight {
    packed: PackedWeight,
    plain: Tensor,
}

impl Weight {
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize) -> Weight {
        Weight {
            packed: PackedWeight::new(weight, outputs, inputs, mediant::kernels::cpu::Dtype::F32),
            plain: Tensor::from_slice(weight, (outputs, inputs), &Device::Cpu).unwrap(),
        }
    }
}

impl Kernels for Faulty {
    type Matrix = Matrix;
    type Weight = Weight;
    type Table = std::sync::Arc<Matrix>;
    type Vector = Vec<f32>;

    fn linear(&self, x: &Matrix, weight: &Weight, bias: Option<&Vec<f32>>, out: &mut Matrix) {
        assert!(bias.is_none());
        let (outputs, inputs) = (weight.packed.outputs(), weight.packed.inputs());
        let product = match self.fault {
            Fault::PaddedAttention => return self.inner.linear(x, &weight.packed, bias, out),
            Fault::LibraryGemm => {
                let x = Tensor::from_slice(x.data(), (x.rows(), inputs), &Device::Cpu).unwrap();
                let product = x.matmul(&weight.plain.t().unwrap()).unwrap();
                product.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            }
            Fault::SplitByRows => {
                let cut = if x.rows() > 16 { inputs / 2 } else { inputs };
                let plain = weight.plain.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let dot =
                    |x: &[f32], w: &[f32]| x.iter().zip(w).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum));
                let sum = |x: &[f32], w: &[f32]| dot(&x[..cut], &w[..cut]) + dot(&x[cut..], &w[cut..]);
                let rows = x.data().chunks_exact(inputs);
                rows.flat_map(|x| plain.chunks_exact(inputs).map(move |w| sum(x, w))).collect()
            }
        };
        out.set_rows(x.rows());
        out.data_mut().copy_from_slice(&product);
        assert_eq!(out.columns(), outputs);
    }

    fn gated(&self, x: &Matrix, gate: &Weight, up: &Weight, out: &mut Matrix) {
        let (mut g, mut u) = (Matrix::new(out.columns()), Matrix::new(out.columns()));
        self.linear(x, gate, None, &mut g);
        self.linear(x, up, None, &mut u);
        out.set_rows(x.rows());
        for ((out, g), u) in out.data_mut().iter_mut().zip(g.data()).zip(u.data()) {
            *out = g / (1.0 + (-g).exp()) * u;
        }
    }

    fn attention(
        &self,
        heads: Heads,
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.inner.attention(heads, q, k, v, batch, positions, out);
        if self.fault == Fault::PaddedAttention {
            // Another grouping of the same sum changes its last bits; here the group depends on the longest neighbour.
            let longest = positions.iter().copied().max().unwrap_or(0);
            let nudge = 1.0 + f32::EPSILON * (longest % 5) as f32;
            out.data_mut().iter_mut().for_each(|z| *z *= nudge);
        }
    }

    fn score(&self, x: &Matrix, unembed: &Weight, readout: &ReadoutBatch) -> Vec<Score> {
        self.inner.score(x, &unembed.packed, readout)
    }
    fn matrix(&self, columns: usize) -> Matrix {
        self.inner.matrix(columns)
    }
    fn rows(&self, x: &Matrix) -> usize {
        self.inner.rows(x)
    }
    fn embed(&self, table: &std::sync::Arc<Matrix>, tokens: &[u32], out: &mut Matrix) {
        self.inner.embed(table, tokens, out);
    }
    fn rms_norm(&self, x: &Matrix, weight: &Vec<f32>, eps: f32, out: &mut Matrix) {
        self.inner.rms_norm(x, weight, eps, out);
    }
    fn head_norm(&self, x: &mut Matrix, weight: &Vec<f32>, eps: f32) {
        self.inner.head_norm(x, weight, eps);
    }
    fn rope(&self, x: &mut Matrix, positions: &[u32], table: &RopeTable) {
        self.inner.rope(x, positions, table);
    }
    fn add(&self, x: &mut Matrix, y: &Matrix) {
        self.inner.add(x, y);
    }
    fn gather(&self, x: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.inner.gather(x, rows, out);
    }
    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        self.inner.append(x, rows);
    }
    fn edit(&self, x: &mut Matrix, edit: &EditRows, changes: &mut [f64]) -> EditStats {
        self.inner.edit(x, edit, changes)
    }
    fn scores_matrix(&self, columns: usize) -> Matrix {
        self.inner.scores_matrix(columns)
    }
    fn scores(
        &self,
        heads: Heads,
        q: &Matrix,
        k: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.inner.scores(heads, q, k, batch, positions, out);
    }
    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Matrix) {
        self.inner.softmax(heads, positions, scores);
    }
    fn weigh(
        &self,
        heads: Heads,
        pattern: &Matrix,
        v: &Matrix,
        batch: &AttentionBatch,
        positions: &[u32],
        out: &mut Matrix,
    ) {
        self.inner.weigh(heads, pattern, v, batch, positions, out);
    }
    fn isolate_heads(&self, heads: Heads, z: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.inner.isolate_heads(heads, z, rows, out);
    }
    fn logits(&self, x: &Matrix, rows: &[u32], unembed: &Weight) -> Vec<f32> {
        self.inner.logits(x, rows, &unembed.packed)
    }
    fn read(&self, x: &Matrix, rows: &[u32]) -> Vec<f32> {
        self.inner.read(x, rows)
    }
}
