//! The CPU's kernels with a stopwatch around each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use mediant::kernels::cpu::{Cpu, Matrix, PackedWeight, Table};
use mediant::kernels::{
    Heads, Kernels, Norm, OnTheWay, OutOfMemory, Output, Partial, Projections, RopeTable, RowChange,
};
use mediant::model::config::ModelConfig;
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::model::weights::{Layer, Neurons, PositionWeights, Weights};
use mediant::plan::batch::{AttentionBatch, EditRows, ReadoutBatch};

/// Kernels that note how long each operation takes.
pub(super) struct Timed {
    cpu: Cpu,
    seconds: RefCell<BTreeMap<&'static str, f64>>,
}

impl Timed {
    /// The same decoder, timed.
    pub(super) fn around(decoder: Decoder<Cpu>, config: &ModelConfig) -> Decoder<Timed> {
        let (cpu, weights) = decoder.into_parts();
        let output = |o: Output<Cpu>| Output { weight: o.weight, bias: o.bias };
        let layer = |l: Layer<Cpu>| Layer {
            attention_norm: l.attention_norm,
            qkv: Projections { stack: l.qkv.stack, bias: l.qkv.bias },
            head_norms: l.head_norms,
            o: output(l.o),
            mlp_norm: l.mlp_norm,
            neurons: match l.neurons {
                Neurons::Gated(stack) => Neurons::Gated(stack),
                Neurons::Gelu(stack, bias) => Neurons::Gelu(stack, bias),
            },
            down: output(l.down),
        };
        let weights = Weights {
            embedding: weights.embedding,
            positions: match weights.positions {
                PositionWeights::Rope(rope) => PositionWeights::Rope(rope),
                PositionWeights::Learned(table) => PositionWeights::Learned(table),
            },
            layers: weights.layers.into_iter().map(layer).collect(),
            final_norm: weights.final_norm,
            unembedding: weights.unembedding,
        };
        Decoder::new(Timed { cpu, seconds: RefCell::default() }, Shard::whole(config), weights)
    }

    /// Seconds by operation so far.
    pub(super) fn seconds(&self) -> Vec<(&'static str, f64)> {
        self.seconds.borrow().iter().map(|(name, seconds)| (*name, *seconds)).collect()
    }

    fn time<T>(&self, name: &'static str, f: impl FnOnce(&Cpu) -> T) -> T {
        let started = Instant::now();
        let result = f(&self.cpu);
        *self.seconds.borrow_mut().entry(name).or_default() += started.elapsed().as_secs_f64();
        result
    }
}

impl Kernels for Timed {
    type Matrix = Matrix;
    type Weight = PackedWeight;
    type Stack = Vec<PackedWeight>;
    type Table = Table;
    type Vector = Vec<f32>;
    type Rope = RopeTable;
    type Log = Vec<RowChange>;

    fn matrix(&self, columns: usize) -> Matrix {
        self.cpu.matrix(columns)
    }

    fn rows(&self, x: &Matrix) -> usize {
        self.cpu.rows(x)
    }

    fn reserve(&self, x: &mut Matrix, rows: usize) -> Result<(), OutOfMemory> {
        self.cpu.reserve(x, rows)
    }

    fn embed(&self, table: &Table, tokens: &[u32], out: &mut Matrix) {
        self.time("rows", |cpu| cpu.embed(table, tokens, out));
    }

    fn add_positions(&self, x: &mut Matrix, table: &Table, positions: &[u32]) {
        self.time("rows", |cpu| cpu.add_positions(x, table, positions));
    }

    fn norm(&self, x: &Matrix, norm: &Norm<Vec<f32>>, out: &mut Matrix) {
        self.time("norm", |cpu| cpu.norm(x, norm, out));
    }

    fn project(
        &self,
        x: &Matrix,
        weights: &Projections<Timed>,
        on_the_way: OnTheWay<'_, Timed>,
        q: &mut Matrix,
        k: &mut Matrix,
        v: &mut Matrix,
    ) {
        // Clones of packed weights share the numbers.
        let Projections { stack, bias } = weights;
        let weights = Projections { stack: stack.clone(), bias: bias.clone() };
        let OnTheWay { norms, rotate } = on_the_way;
        self.time("project", |cpu| cpu.project(x, &weights, OnTheWay { norms, rotate }, q, k, v));
    }

    fn norm_heads(&self, heads: Heads, x: &mut Matrix, weight: &Vec<f32>, eps: f32) {
        self.time("norm", |cpu| cpu.norm_heads(heads, x, weight, eps));
    }

    fn linear(&self, x: &Matrix, weight: &PackedWeight, out: &mut Matrix) {
        self.time("linear", |cpu| cpu.linear(x, weight, out));
    }

    fn row_parallel(&self, x: &Matrix, weight: &PackedWeight, bias: Option<&Vec<f32>>, out: &mut Matrix) {
        self.time("linear", |cpu| cpu.row_parallel(x, weight, bias, out));
    }

    fn rope_table(&self, table: &RopeTable) -> Result<RopeTable, OutOfMemory> {
        self.cpu.rope_table(table)
    }

    fn rope(&self, x: &mut Matrix, positions: &[u32], table: &RopeTable) {
        self.time("rope", |cpu| cpu.rope(x, positions, table));
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
        self.time("attention", |cpu| cpu.attention(heads, q, k, v, batch, positions, out));
    }

    fn gated(&self, x: &Matrix, gate_up: &Vec<PackedWeight>, out: &mut Matrix) {
        self.time("gated", |cpu| cpu.gated(x, gate_up, out));
    }

    fn gelu(&self, x: &Matrix, up: &Vec<PackedWeight>, bias: Option<&Vec<f32>>, out: &mut Matrix) {
        self.time("gelu", |cpu| cpu.gelu(x, up, bias, out));
    }

    fn pre_activation(
        &self,
        x: &Matrix,
        stack: &Vec<PackedWeight>,
        bias: Option<&Vec<f32>>,
        gate: Option<&mut Matrix>,
        up: &mut Matrix,
    ) {
        self.time("linear", |cpu| cpu.pre_activation(x, stack, bias, gate, up));
    }

    fn activate(&self, gate: Option<&Matrix>, up: &mut Matrix) {
        self.time("activate", |cpu| cpu.activate(gate, up));
    }

    fn add(&self, x: &mut Matrix, y: &Matrix) {
        self.time("add", |cpu| cpu.add(x, y));
    }

    fn gather(&self, x: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.time("rows", |cpu| cpu.gather(x, rows, out));
    }

    fn store(&self, columns: usize, rows: usize) -> Result<Matrix, OutOfMemory> {
        self.cpu.store(columns, rows)
    }
    fn keep(&self, x: &Matrix, rows: &[u32], store: &mut Matrix, slots: &[u32]) {
        self.time("rows", |cpu| cpu.keep(x, rows, store, slots));
    }
    fn append(&self, x: &mut Matrix, rows: &[u32]) {
        self.time("rows", |cpu| cpu.append(x, rows));
    }

    fn scores_matrix(&self, columns: usize) -> Matrix {
        self.cpu.scores_matrix(columns)
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
        self.time("attention", |cpu| cpu.scores(heads, q, k, batch, positions, out));
    }

    fn softmax(&self, heads: Heads, positions: &[u32], scores: &mut Matrix) {
        self.time("attention", |cpu| cpu.softmax(heads, positions, scores));
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
        self.time("attention", |cpu| cpu.weigh(heads, pattern, v, batch, positions, out));
    }

    fn isolate_heads(&self, heads: Heads, z: &Matrix, rows: &[u32], out: &mut Matrix) {
        self.time("rows", |cpu| cpu.isolate_heads(heads, z, rows, out));
    }

    fn logits(&self, x: &Matrix, rows: &[u32], unembed: &PackedWeight) -> Vec<f32> {
        self.time("score", |cpu| cpu.logits(x, rows, unembed))
    }

    fn log(&self) -> Vec<RowChange> {
        self.cpu.log()
    }

    fn edit(&self, x: &mut Matrix, edit: &EditRows, log: &mut Vec<RowChange>) {
        self.time("rows", |cpu| cpu.edit(x, edit, log));
    }

    fn changes(&self, log: Vec<RowChange>) -> Vec<RowChange> {
        self.cpu.changes(log)
    }

    fn exchange(&self, own: Vec<f32>) -> Arc<[Vec<f32>]> {
        self.cpu.exchange(own)
    }

    fn read(&self, x: &Matrix, rows: &[u32]) -> Vec<f32> {
        self.time("rows", |cpu| cpu.read(x, rows))
    }

    fn score(
        &self,
        x: &Matrix,
        unembed: &PackedWeight,
        own: Range<u32>,
        readout: &ReadoutBatch,
    ) -> Vec<Partial> {
        self.time("score", |cpu| cpu.score(x, unembed, own, readout))
    }
}
