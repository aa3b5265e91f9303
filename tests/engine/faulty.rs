//! Kernels with one deliberate fault each: what the identity tests must be able to see.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use mediant::kernels::cpu::{Cpu, Matrix, PackedWeight, Table};
use mediant::kernels::upload::{Piece, Upload};
use mediant::kernels::{
    Heads, Kernels, Norm, OnTheWay, OutOfMemory, Partial, Projections, RopeTable, RowChange,
};
use mediant::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Linear layers by candle's matmul, which picks its order of summation by the number of rows.
    LibraryGemm,
    /// Linear layers that cut the sum over inputs in two when there are many rows.
    SplitByRows,
    /// Attention whose sums are grouped by the longest sequence in the batch, as padding does.
    PaddedAttention,
    /// Keys and values that are kept a slot too early.
    KeepsOffByOne,
    /// Attention that sees the key after a row's own.
    SeesOneKeyTooMany,
    /// A device that has room for so many rows only.
    NoRoom { rows: usize },
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

impl Upload for Faulty {
    fn weight(&self, piece: &Piece<'_>) -> Result<Weight, OutOfMemory> {
        let plain = Tensor::from_vec(piece.to_f32(), (piece.rows, piece.columns), &Device::Cpu).unwrap();
        Ok(Weight { packed: self.inner.weight(piece)?, plain })
    }
    fn stack(&self, pieces: &[Piece<'_>]) -> Result<Vec<Weight>, OutOfMemory> {
        pieces.iter().map(|piece| self.weight(piece)).collect()
    }
    fn table(&self, piece: &Piece<'_>, first: u32) -> Result<Table, OutOfMemory> {
        self.inner.table(piece, first)
    }
    fn vector(&self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, OutOfMemory> {
        self.inner.vector(pieces)
    }
}

impl Kernels for Faulty {
    type Matrix = Matrix;
    type Weight = Weight;
    type Stack = Vec<Weight>;
    type Table = Table;
    type Vector = Vec<f32>;
    type Rope = RopeTable;
    type Log = Vec<RowChange>;

    fn linear(&self, x: &Matrix, weight: &Weight, out: &mut Matrix) {
        let (outputs, inputs) = (weight.packed.outputs(), weight.packed.inputs());
        let product = match self.fault {
            Fault::PaddedAttention
            | Fault::KeepsOffByOne
            | Fault::SeesOneKeyTooMany
            | Fault::NoRoom { .. } => {
                return self.inner.linear(x, &weight.packed, out);
            }
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

    fn row_parallel(&self, x: &Matrix, weight: &Self::Weight, bias: Option<&Self::Vector>, out: &mut Matrix) {
        assert!(bias.is_none());
        match self.fault {
            Fault::KeepsOffByOne | Fault::SeesOneKeyTooMany | Fault::NoRoom { .. } => {
                self.inner.row_parallel(x, &weight.packed, None, out);
            }
            _ => self.linear(x, weight, out),
        }
    }

    fn project(
        &self,
        x: &Matrix,
        weights: &Projections<Faulty>,
        on_the_way: OnTheWay<'_, Faulty>,
        q: &mut Matrix,
        k: &mut Matrix,
        v: &mut Matrix,
    ) {
        assert!(weights.bias.is_none() && on_the_way.norms.is_none());
        for (weight, out) in weights.stack.iter().zip([&mut *q, &mut *k, v]) {
            self.linear(x, weight, out);
        }
        if let Some((positions, table)) = on_the_way.rotate {
            self.inner.rope(q, positions, table);
            self.inner.rope(k, positions, table);
        }
    }

    fn gated(&self, x: &Matrix, gate_up: &Vec<Weight>, out: &mut Matrix) {
        let mut gate = Matrix::new(out.columns());
        self.pre_activation(x, gate_up, None, Some(&mut gate), out);
        self.activate(Some(&gate), out);
    }

    fn gelu(&self, _: &Matrix, _: &Vec<Weight>, _: Option<&Vec<f32>>, _: &mut Matrix) {
        unreachable!("faults are tried on the llama");
    }

    fn pre_activation(
        &self,
        x: &Matrix,
        stack: &Vec<Weight>,
        _: Option<&Vec<f32>>,
        gate: Option<&mut Matrix>,
        up: &mut Matrix,
    ) {
        self.linear(x, &stack[0], gate.expect("faults are tried on the llama"));
        self.linear(x, &stack[1], up);
    }

    fn activate(&self, gate: Option<&Matrix>, up: &mut Matrix) {
        self.inner.activate(gate, up);
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
        if self.fault == Fault::SeesOneKeyTooMany {
            let mut more = batch.clone();
            more.keys.push(0);
            let positions: Vec<u32> = positions.iter().map(|position| position + 1).collect();
            return self.inner.attention(heads, q, k, v, &more, &positions, out);
        }
        self.inner.attention(heads, q, k, v, batch, positions, out);
        if self.fault == Fault::PaddedAttention {
            // Another grouping of the same sum changes its last bits; here the group depends on the longest neighbour.
            let longest = positions.iter().copied().max().unwrap_or(0);
            let nudge = 1.0 + f32::EPSILON * (longest % 5) as f32;
            out.data_mut().iter_mut().for_each(|z| *z *= nudge);
        }
    }

    fn score(&self, x: &Matrix, unembed: &Weight, own: Range<u32>, readout: &ReadoutBatch) -> Vec<Partial> {
        self.inner.score(x, &unembed.packed, own, readout)
    }
    fn reserve(&self, x: &mut Matrix, rows: usize) -> Result<(), OutOfMemory> {
        match self.fault {
            Fault::NoRoom { rows: room } if rows > room => Err(OutOfMemory { bytes: 4096 }),
            _ => self.inner.reserve(x, rows),
        }
    }
    fn log(&self) -> Vec<RowChange> {
        self.inner.log()
    }
    fn changes(&self, log: Vec<RowChange>) -> Vec<RowChange> {
        self.inner.changes(log)
    }
    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        self.inner.exchange(own)
    }
    fn matrix(&self, columns: usize) -> Matrix {
        self.inner.matrix(columns)
    }
    fn rows(&self, x: &Matrix) -> usize {
        self.inner.rows(x)
    }
    fn embed(&self, table: &Table, tokens: &[u32], out: &mut Matrix) {
        self.inner.embed(table, tokens, out);
    }
    fn add_positions(&self, x: &mut Matrix, table: &Table, positions: &[u32]) {
        self.inner.add_positions(x, table, positions);
    }
    fn norm(&self, x: &Matrix, norm: &Norm<Vec<f32>>, out: &mut Matrix) {
        self.inner.norm(x, norm, out);
    }

    fn norm_heads(&self, heads: Heads, x: &mut Matrix, weight: &Vec<f32>, eps: f32) {
        self.inner.norm_heads(heads, x, weight, eps);
    }

    fn rope_table(&self, table: &RopeTable) -> Result<RopeTable, OutOfMemory> {
        self.inner.rope_table(table)
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
    fn store(&self, columns: usize, rows: usize) -> Result<Matrix, OutOfMemory> {
        self.inner.store(columns, rows)
    }
    fn keep(&self, x: &Matrix, rows: &[u32], store: &mut Matrix, slots: &[u32]) {
        match self.fault {
            // The last is kept where the one before it belongs.
            Fault::KeepsOffByOne => {
                let wrong: Vec<u32> = slots.iter().map(|slot| slot.saturating_sub(1)).collect();
                self.inner.keep(x, rows, store, &wrong);
            }
            _ => self.inner.keep(x, rows, store, slots),
        }
    }
    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        self.inner.append(x, rows);
    }
    fn edit(&self, x: &mut Matrix, edit: &EditRows, log: &mut Vec<RowChange>) {
        self.inner.edit(x, edit, log);
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
