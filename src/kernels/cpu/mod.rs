//! The CPU's kernels: f32 arithmetic on packed rows, vectorised at run time for the machine at hand, spread over a
//! pool of threads.
//!
//! Every reduction runs in an order fixed by the operation alone, so the bits of a row depend neither on the other
//! rows, nor on the number of threads, nor on the vector width of the machine.

// Arithmetic that is not inlined into a `vectorized` body is not compiled for the machine (see `lanes`).
#![allow(clippy::inline_always, reason = "run-time dispatch to an instruction set works by inlining")]

mod attention;
mod edit;
mod gemm;
mod lanes;
mod matrix;
mod score;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

pub use gemm::PackedWeight;
pub use matrix::{Matrix, Table};

pub use crate::spec::dtype::Dtype;

use super::{Heads, Kernels, OutOfMemory, Partial, Projections, RopeTable, RowChange};
use crate::comm::{Collective, Single};
use crate::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};
use lanes::{exp, sum_of_squares, vectorized};

/// Rounds numbers to what the dtype can hold.
#[inline(always)]
fn round(dtype: Dtype, values: &mut [f32]) {
    match dtype {
        Dtype::F32 => {}
        Dtype::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        Dtype::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
    }
}

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
        Cpu::of_ranks(threads, dtype, Box::new(Single))
    }

    /// One of several ranks.
    pub fn of_ranks(
        threads: usize,
        dtype: Dtype,
        ranks: Box<dyn Collective<[f32]> + Send + Sync>,
    ) -> Result<Cpu, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("kernels-{i}"))
            .build()?;
        Ok(Cpu { pool, dtype, ranks })
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
                round(dtype, rows);
            });
        });
    }
}

impl Cpu {
    /// RMS norm over each head's slice of a row, in place (Qwen3's q and k norm).
    fn head_norm(&self, x: &mut Matrix, weight: &[f32], eps: f32) {
        let width = weight.len();
        self.for_rows(x, |_, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for head in rows.chunks_exact_mut(width) {
                        let scale = 1.0 / (sum_of_squares(head) / width as f32 + eps).sqrt();
                        for (x, w) in head.iter_mut().zip(weight) {
                            *x = *x * scale * w;
                        }
                    }
                },
            );
        });
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
        self.pool.install(|| gemm::linear(x.data(), weight, bias, dtype, out.data_mut()));
    }

    /// Adds up the ranks' parts of a matrix, which were not rounded yet, and rounds the sum.
    fn sum_over_ranks(&self, x: &mut Matrix) {
        self.ranks.all_reduce(x.data_mut());
        self.for_rows(x, |_, _| {});
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
        self.sum_over_ranks(out);
    }

    fn rms_norm(&self, x: &Matrix, weight: &Vec<f32>, eps: f32, out: &mut Matrix) {
        out.set_rows(x.rows());
        let columns = x.columns();
        self.for_rows(out, |first, out| {
            let x = &x.data()[first * columns..][..out.len()];
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                        let scale = 1.0 / (sum_of_squares(x) / columns as f32 + eps).sqrt();
                        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * scale * w;
                        }
                    }
                },
            );
        });
    }

    fn project(
        &self,
        x: &Matrix,
        weights: &Projections<Cpu>,
        eps: f32,
        rotate: Option<(&[u32], &RopeTable)>,
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
        if let Some((q_norm, k_norm)) = &weights.norms {
            self.head_norm(q, q_norm, eps);
            self.head_norm(k, k_norm, eps);
        }
        if let Some((positions, table)) = rotate {
            self.rope(q, positions, table);
            self.rope(k, positions, table);
        }
    }

    fn linear(&self, x: &Matrix, weight: &PackedWeight, out: &mut Matrix) {
        self.product(x, weight, None, self.dtype, out);
    }

    fn row_parallel(&self, x: &Matrix, weight: &PackedWeight, out: &mut Matrix) {
        if self.ranks.size() == 1 {
            return self.linear(x, weight, out);
        }
        self.product(x, weight, None, Dtype::F32, out);
        self.sum_over_ranks(out);
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], table: &RopeTable) {
        let (columns, half) = (x.columns(), table.half);
        self.for_rows(x, |first, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for (row, &position) in rows.chunks_exact_mut(columns).zip(&positions[first..]) {
                        let cos = &table.cos[position as usize * half..][..half];
                        let sin = &table.sin[position as usize * half..][..half];
                        for head in row.chunks_exact_mut(2 * half) {
                            let (a, b) = head.split_at_mut(half);
                            for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                            }
                        }
                    }
                },
            );
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
        let width = q.columns();
        self.for_rows(out, |first, out| {
            vectorized(
                #[inline(always)]
                || {
                    let mut scores = attention::Scores::default();
                    for (i, out) in (first..).zip(out.chunks_exact_mut(width)) {
                        let keys = &batch.keys[batch.key_start[i] as usize..][..=positions[i] as usize];
                        attention::row(heads, q.row(i), k, v, keys, &mut scores, out);
                    }
                },
            );
        });
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
        let (width, stride) = (out.columns(), out.columns() / heads.query);
        self.for_rows(out, |first, out| {
            vectorized(
                #[inline(always)]
                || {
                    for (i, out) in (first..).zip(out.chunks_exact_mut(width)) {
                        let keys = &batch.keys[batch.key_start[i] as usize..][..=positions[i] as usize];
                        for (head, out) in out.chunks_exact_mut(stride).enumerate() {
                            let (live, rest) = out.split_at_mut(keys.len());
                            attention::head_scores(heads, head, q.row(i), k, keys, live);
                            rest.fill(0.0);
                        }
                    }
                },
            );
        });
    }

    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Matrix) {
        let (width, stride) = (scores.columns(), scores.columns() / heads.query);
        self.for_rows(scores, |first, rows| {
            vectorized(
                #[inline(always)]
                || {
                    for (i, row) in (first..).zip(rows.chunks_exact_mut(width)) {
                        for head in row.chunks_exact_mut(stride) {
                            attention::softmax(&mut head[..=positions[i] as usize]);
                        }
                    }
                },
            );
        });
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
        let (width, stride) = (out.columns(), pattern.columns() / heads.query);
        self.for_rows(out, |first, out| {
            vectorized(
                #[inline(always)]
                || {
                    for (i, out) in (first..).zip(out.chunks_exact_mut(width)) {
                        let keys = &batch.keys[batch.key_start[i] as usize..][..=positions[i] as usize];
                        let pattern = pattern.row(i);
                        for (head, out) in out.chunks_exact_mut(heads.dim).enumerate() {
                            attention::weigh(
                                heads,
                                head,
                                &pattern[head * stride..][..keys.len()],
                                v,
                                keys,
                                out,
                            );
                        }
                    }
                },
            );
        });
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
        self.pool.install(|| gemm::gated(x.data(), gate, up, self.dtype, out.data_mut()));
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) {
        let columns = x.columns();
        self.for_rows(x, |first, x| {
            let y = &y.data()[first * columns..][..x.len()];
            vectorized(
                #[inline(always)]
                || x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
            );
        });
    }

    fn gather(&self, x: &Matrix, rows: &[u32], out: &mut Matrix) {
        x.gather(rows, out);
    }

    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        x.append(rows);
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

/// `silu(gate) * up` for each pair, into `out`.
#[inline(always)]
fn gate_rows(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + exp(-g)) * u;
    }
}
