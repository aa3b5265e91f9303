//! The CPU's kernels: f32 arithmetic on packed rows, vectorised at run time for the machine at hand, spread over a
//! pool of threads.
//!
//! The loops themselves are in [`mediant_arithmetic`], whose every reduction runs in an order fixed by the operation alone.

mod edit;
mod score;
mod upload;

use std::ops::Range;
use std::sync::Arc;

pub use mediant_arithmetic::{Dtype, Matrix, PackedWeight, Table};
use mediant_arithmetic::{attention, gated, linear, rows};
use rayon::prelude::*;

use super::{Heads, Kernels, Norm, OnTheWay, OutOfMemory, Partial, Projections, RopeTable, RowChange};
use crate::comm::{Collective, Single};
use crate::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};

/// Rows per task in operations that treat rows one by one.
const ROWS_PER_TASK: usize = 32;

/// A pool of threads, the dtype that activations are kept in, and the other ranks.
pub struct Cpu {
    pool: rayon::ThreadPool,
    dtype: Dtype,
    ranks: Box<dyn Collective<[f32]> + Send + Sync>,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rank = (self.ranks.rank(), self.ranks.size());
        f.debug_struct("Cpu")
            .field("pool", &self.pool)
            .field("dtype", &self.dtype)
            .field("rank", &rank)
            .finish()
    }
}

impl Cpu {
    /// A device that shares the model with no other. `threads`: 0 for one per core.
    pub fn new(threads: usize, dtype: Dtype) -> Result<Cpu, rayon::ThreadPoolBuildError> {
        Ok(Cpu { pool: pool(threads).build()?, dtype, ranks: Box::new(Single) })
    }

    /// One of several ranks, on the thread that makes it: this thread is one of the pool's, so that products are not handed to
    /// another one. A thread is in one pool only.
    pub fn of_ranks(
        threads: usize,
        dtype: Dtype,
        ranks: Box<dyn Collective<[f32]> + Send + Sync>,
    ) -> Result<Cpu, rayon::ThreadPoolBuildError> {
        Ok(Cpu { pool: pool(threads).use_current_thread().build()?, dtype, ranks })
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// The dtype of weights and activations.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Runs `f(first row, rows)` over `x` a few rows at a time, on all threads.
    fn for_rows(&self, x: &mut Matrix, f: impl Fn(usize, &mut [f32]) + Sync) {
        let columns = x.columns();
        let dtype = if x.is_full_precision() { Dtype::F32 } else { self.dtype };
        self.pool.install(|| {
            x.data_mut().par_chunks_mut(ROWS_PER_TASK * columns).enumerate().for_each(|(i, rows)| {
                f(i * ROWS_PER_TASK, rows);
                rows::round(dtype, rows);
            });
        });
    }
}

impl Cpu {
    /// RMS norm over each head's slice of a row, in place (Qwen3's q and k norm).
    fn head_norm(&self, x: &mut Matrix, weight: &[f32], eps: f32) {
        self.for_rows(x, |_, rows| rows::rms_norm_in_place(rows, weight, eps));
    }

    fn product(
        &self,
        x: &Matrix,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        dtype: Dtype,
        out: &mut Matrix,
    ) {
        out.set_rows(x.rows());
        self.pool.install(|| linear(x.data(), weight, bias, dtype, out.data_mut()));
    }

    /// Adds up the ranks' parts of a matrix, which were not rounded yet, adds the bias, and rounds the sum.
    fn sum_over_ranks(&self, x: &mut Matrix, bias: Option<&[f32]>) {
        self.ranks.all_reduce(x.data_mut());
        self.for_rows(x, |_, x| {
            if let Some(bias) = bias {
                rows::add_to_each(x, bias);
            }
        });
    }
}

impl Kernels for Cpu {
    type Matrix = Matrix;
    type Weight = PackedWeight;
    type Stack = Vec<PackedWeight>;
    type Table = Table;
    type Vector = Vec<f32>;
    type Rope = RopeTable;
    type Log = Vec<RowChange>;

    fn matrix(&self, columns: usize) -> Matrix {
        Matrix::new(columns)
    }

    fn scores_matrix(&self, columns: usize) -> Matrix {
        Matrix::full_precision(columns)
    }

    fn rows(&self, x: &Matrix) -> usize {
        x.rows()
    }

    fn reserve(&self, _x: &mut Matrix, _rows: usize) -> Result<(), OutOfMemory> {
        // The system promises memory that it does not have; what keeps a batch within it is the row budget.
        Ok(())
    }

    fn embed(&self, table: &Table, tokens: &[u32], out: &mut Matrix) {
        table.look_up(tokens, out);
        self.sum_over_ranks(out, None);
    }

    fn add_positions(&self, x: &mut Matrix, table: &Table, positions: &[u32]) {
        let columns = x.columns();
        self.for_rows(x, |first, x| {
            for (x, position) in x.chunks_exact_mut(columns).zip(&positions[first..]) {
                rows::add(x, table.rows.row(*position as usize));
            }
        });
    }

    fn norm(&self, x: &Matrix, norm: &Norm<Vec<f32>>, out: &mut Matrix) {
        out.set_rows(x.rows());
        let columns = x.columns();
        self.for_rows(out, |first, out| {
            let x = &x.data()[first * columns..][..out.len()];
            match norm {
                Norm::Rms { weight, eps } => rows::rms_norm(x, weight, *eps, out),
                Norm::Layer { weight, bias, eps } => rows::layer_norm(x, weight, bias, *eps, out),
            }
        });
    }

    fn project(
        &self,
        x: &Matrix,
        weights: &Projections<Cpu>,
        on_the_way: OnTheWay<'_, Cpu>,
        q: &mut Matrix,
        k: &mut Matrix,
        v: &mut Matrix,
    ) {
        let mut bias = weights.bias.as_deref();
        for (weight, out) in weights.stack.iter().zip([&mut *q, &mut *k, v]) {
            let (own, rest) = bias.map(|bias| bias.split_at(weight.outputs())).unzip();
            bias = rest;
            self.product(x, weight, own, self.dtype, out);
        }
        if let Some(norms) = on_the_way.norms {
            self.head_norm(q, &norms.query, norms.eps);
            self.head_norm(k, &norms.key, norms.eps);
        }
        if let Some((positions, table)) = on_the_way.rotate {
            self.rope(q, positions, table);
            self.rope(k, positions, table);
        }
    }

    fn norm_heads(&self, _: Heads, x: &mut Matrix, weight: &Vec<f32>, eps: f32) {
        self.head_norm(x, weight, eps);
    }

    fn linear(&self, x: &Matrix, weight: &PackedWeight, out: &mut Matrix) {
        self.product(x, weight, None, self.dtype, out);
    }

    fn row_parallel(&self, x: &Matrix, weight: &PackedWeight, bias: Option<&Vec<f32>>, out: &mut Matrix) {
        let bias = bias.map(Vec::as_slice);
        if self.ranks.size() == 1 {
            return self.product(x, weight, bias, self.dtype, out);
        }
        self.product(x, weight, None, Dtype::F32, out);
        self.sum_over_ranks(out, bias);
    }

    fn rope_table(&self, table: &RopeTable) -> Result<RopeTable, OutOfMemory> {
        Ok(table.clone())
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], table: &RopeTable) {
        let columns = x.columns();
        self.for_rows(x, |first, rows| {
            rows::rotate(rows, columns, &positions[first..], table.half, &table.cos, &table.sin);
        });
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
        out.set_rows(q.rows());
        let keys = seen(batch, positions);
        self.for_rows(out, |first, out| attention::attend(heads, q, first, k, v, keys.from(first), out));
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
        out.set_rows(q.rows());
        let (keys, stride) = (seen(batch, positions), out.columns() / heads.query);
        self.for_rows(out, |first, out| attention::scores(heads, q, first, k, keys.from(first), stride, out));
    }

    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Matrix) {
        let stride = scores.columns() / heads.query;
        self.for_rows(scores, |first, rows| attention::softmax(heads, &positions[first..], stride, rows));
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
        out.set_rows(pattern.rows());
        let keys = seen(batch, positions);
        self.for_rows(out, |first, out| attention::weigh(heads, pattern, first, v, keys.from(first), out));
    }

    fn isolate_heads(&self, heads: Heads, z: &Matrix, rows: &[u32], out: &mut Matrix) {
        out.set_rows(rows.len() * heads.query);
        out.data_mut().fill(0.0);
        for (i, &row) in rows.iter().enumerate() {
            for head in 0..heads.query {
                let columns = head * heads.dim..(head + 1) * heads.dim;
                out.row_mut(i * heads.query + head)[columns.clone()]
                    .copy_from_slice(&z.row(row as usize)[columns]);
            }
        }
    }

    fn gated(&self, x: &Matrix, gate_up: &Vec<PackedWeight>, out: &mut Matrix) {
        let [gate, up] = gate_up.as_slice() else { unreachable!("BUG: the loader stacks gate and up") };
        out.set_rows(x.rows());
        self.pool.install(|| gated(x.data(), gate, up, self.dtype, out.data_mut()));
    }

    fn gelu(&self, x: &Matrix, up: &Vec<PackedWeight>, bias: Option<&Vec<f32>>, out: &mut Matrix) {
        self.pre_activation(x, up, bias, None, out);
        self.activate(None, out);
    }

    fn pre_activation(
        &self,
        x: &Matrix,
        stack: &Vec<PackedWeight>,
        bias: Option<&Vec<f32>>,
        gate: Option<&mut Matrix>,
        up: &mut Matrix,
    ) {
        match (stack.as_slice(), gate) {
            ([gates, ups], Some(gate)) => {
                self.product(x, gates, None, self.dtype, gate);
                self.product(x, ups, None, self.dtype, up);
            }
            ([ups], None) => self.product(x, ups, bias.map(Vec::as_slice), self.dtype, up),
            _ => unreachable!("BUG: the loader stacks gate and up where there is a gate"),
        }
    }

    fn activate(&self, gate: Option<&Matrix>, up: &mut Matrix) {
        let columns = up.columns();
        self.for_rows(up, |first, up| match gate {
            Some(gate) => rows::gate_in_place(&gate.data()[first * columns..][..up.len()], up),
            None => rows::gelu(up),
        });
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) {
        let columns = x.columns();
        self.for_rows(x, |first, x| rows::add(x, &y.data()[first * columns..][..x.len()]));
    }

    fn gather(&self, x: &Matrix, rows: &[u32], out: &mut Matrix) {
        x.gather(rows, out);
    }

    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        x.append(rows);
    }

    fn store(&self, columns: usize, rows: usize) -> Result<Matrix, OutOfMemory> {
        Ok(Matrix::zeros(columns, rows))
    }

    fn keep(&self, x: &Matrix, rows: &[u32], store: &mut Matrix, slots: &[u32]) {
        for (&row, &slot) in rows.iter().zip(slots) {
            store.row_mut(slot as usize).copy_from_slice(x.row(row as usize));
        }
    }

    fn log(&self) -> Vec<RowChange> {
        Vec::new()
    }

    fn edit(&self, x: &mut Matrix, edit: &EditRows, log: &mut Vec<RowChange>) {
        edit::apply(x, edit, self.dtype, log);
    }

    fn changes(&self, log: Vec<RowChange>) -> Vec<RowChange> {
        log
    }

    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        self.ranks.exchange(own)
    }

    fn read(&self, x: &Matrix, rows: &[u32]) -> Vec<f32> {
        rows.iter().flat_map(|&row| x.row(row as usize)).copied().collect()
    }

    fn logits(&self, x: &Matrix, rows: &[u32], unembed: &PackedWeight) -> Vec<f32> {
        let rows = self.read(x, rows);
        self.pool.install(|| score::logits(&rows, x.columns(), unembed))
    }

    fn score(
        &self,
        x: &Matrix,
        unembed: &PackedWeight,
        own: Range<u32>,
        readout: &ReadoutBatch,
    ) -> Vec<Partial> {
        score::score(x, unembed, &own, readout, &self.pool, &*self.ranks)
    }
}

/// A pool of so many threads.
fn pool(threads: usize) -> rayon::ThreadPoolBuilder {
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("kernels-{i}"))
}

/// The keys of the batch's rows.
fn seen<'a>(batch: &'a AttentionBatch, positions: &'a [u32]) -> attention::Keys<'a> {
    attention::Keys { rows: &batch.keys, start: &batch.key_start, positions }
}
