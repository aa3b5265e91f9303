//! The branching forward: one pass over the layers for all live rows of all runs.
//!
//! Written once over [`Kernels`]; what joins, is edited, is dropped and is read where was decided when the
//! [`ForwardBatch`] was made (`crate::plan`). Reading this file top to bottom is reading the model.

use std::collections::BTreeMap;
use std::ops::Range;

use super::elsewhere::{Elsewhere, Through};
use super::joint;
use super::output::{Part, RankOutput, join};
use super::shard::Shard;
use super::store::{Store, Stored};
use super::turns;
use super::weights::{Layer, Neurons, PositionWeights, Weights};
use crate::kernels::{Heads, Kernels, Norm, OnTheWay, OutOfMemory};
use crate::plan::batch::{
    AttentionBatch, EditRows, ForwardBatch, LayerBatch, ReadoutBatch, RowOp, Step, Tap, Values,
};
use crate::plan::output::{BatchOutput, larger};
use crate::spec::site::Site;

/// A model, or a rank's part of it, on a device, with the buffers that its rows pass through.
pub struct Decoder<K: Kernels> {
    kernels: K,
    weights: Weights<K>,
    shard: Shard,
    buffers: Buffers<K>,
    /// Keys and values that are kept from batch to batch.
    store: Store<K>,
    /// Of the batch at hand, if it needs tables of its own.
    turns: Option<Turns<K>>,
}

/// RoPE of one batch.
struct Turns<K: Kernels> {
    table: K::Rope,
    /// Row of the table for each initial row of the batch.
    rows: Vec<u32>,
}

/// `[rows, ..]` matrices, reused by every layer of every batch.
struct Buffers<K: Kernels> {
    /// Residual stream, `[rows, d]`.
    x: K::Matrix,
    /// Normed residual stream, `[rows, d]`.
    h: K::Matrix,
    /// Output of a sublayer, `[rows, d]`.
    y: K::Matrix,
    /// `[rows, h*e]`
    q: K::Matrix,
    /// `[rows, k*e]`
    k: K::Matrix,
    /// `[rows, k*e]`
    v: K::Matrix,
    /// `[rows, h*e]`
    z: K::Matrix,
    /// `[rows, f]`
    activation: K::Matrix,
    /// The gate before its activation, `[rows, f]`, where it is looked at.
    gate: K::Matrix,
    /// Attention scores and pattern, `[rows, h*keys]`, where they are held.
    scores: K::Matrix,
    /// Rows with one head each, `[rows*h, h*e]`, for `head_out`.
    one_head: K::Matrix,
}

impl<K: Kernels> Decoder<K> {
    /// Puts weights and buffers together.
    pub fn new(kernels: K, shard: Shard, weights: Weights<K>) -> Decoder<K> {
        let Heads { query, key_value, dim } = shard.attention();
        let (d, q, kv) = (shard.config().hidden_size, query * dim, key_value * dim);
        let buffers = Buffers {
            x: kernels.matrix(d),
            h: kernels.matrix(d),
            y: kernels.matrix(d),
            q: kernels.matrix(q),
            k: kernels.matrix(kv),
            v: kernels.matrix(kv),
            z: kernels.matrix(q),
            activation: kernels.matrix(shard.mlp.len()),
            gate: kernels.matrix(shard.mlp.len()),
            scores: kernels.scores_matrix(0),
            one_head: kernels.matrix(q),
        };
        let store = Store::empty(&kernels, &shard);
        Decoder { kernels, weights, shard, buffers, store, turns: None }
    }

    /// Makes room for keys and values of so many positions, which are kept from batch to batch.
    pub fn make_store(&mut self, slots: usize) -> Result<(), OutOfMemory> {
        self.store = Store::new(&self.kernels, &self.shard, slots)?;
        Ok(())
    }

    /// The device.
    pub fn kernels(&self) -> &K {
        &self.kernels
    }

    /// The device and the weights, without the buffers.
    pub fn into_parts(self) -> (K, Weights<K>) {
        (self.kernels, self.weights)
    }

    /// Computes a batch with a model that is not divided.
    pub fn forward(&mut self, batch: &ForwardBatch) -> Result<BatchOutput, OutOfMemory> {
        Ok(join(batch, vec![self.pass(batch)?]))
    }

    /// Computes this rank's part of a batch. Where the device of any rank has no room for it, all ranks say so, and all can
    /// go on with another batch.
    pub fn pass(&mut self, batch: &ForwardBatch) -> Result<RankOutput, OutOfMemory> {
        self.reserve(batch)?;
        let Decoder { kernels, weights, shard, buffers: b, store, turns } = self;
        let mut pass = Pass {
            kernels: &*kernels,
            heads: shard.attention(),
            keys: batch.keys as usize,
            block: head_block(batch, shard.attention()),
            slots: &batch.slots,
            in_store: batch.step.is_some(),
            shard: &*shard,
            weights: &*weights,
            positions: batch.positions.clone(),
            rope: turns.as_ref().map(|turns| &turns.table).or_else(|| weights.rope()),
            turned: turns.as_ref().map(|turns| turns.rows.clone()),
            log: kernels.log(),
            logged: Vec::new(),
            output: RankOutput::new(batch.edited),
        };
        kernels.embed(&weights.embedding, &batch.tokens, &mut b.x);
        pass.tap(Site::Embed, &batch.embed, &mut b.x, []);
        if let PositionWeights::Learned(table) = &weights.positions {
            kernels.add_positions(&mut b.x, table, &pass.positions);
        }
        let mut normed = false;
        let depth = batch.depth();
        for (index, (layer, tables)) in weights.layers.iter().zip(&batch.layers).enumerate().take(depth) {
            if !normed {
                pass.norm(&layer.attention_norm, tables, b);
            }
            pass.attention(layer, tables, &mut store.layers[index], b);
            // Where nothing looks at the sum, the next norm is taken on the way.
            let next = batch.layers.get(index + 1);
            normed = tables[Site::ResidPost].is_empty()
                && tables.lens.rows.is_empty()
                && next.is_none_or(|tables| tables[Site::ResidPre].is_empty());
            let norm = weights.layers.get(index + 1).map_or(&weights.final_norm, |next| &next.attention_norm);
            pass.mlp(layer, tables, normed.then_some(norm), b);
            pass.lens(&tables.lens, b);
        }
        if !normed && depth == batch.layers.len() {
            kernels.norm(&b.x, &weights.final_norm, &mut b.h);
        }
        pass.tap(Site::FinalNorm, &batch.final_norm, &mut b.h, []);
        for capture in &batch.logits.captures {
            let logits = kernels.logits(&b.h, &capture.rows, &weights.unembedding);
            pass.capture(Site::Logits, capture.capture, logits);
        }
        pass.score(&batch.readout, &b.h, &mut b.y);
        if let Some(step) = batch.step.as_ref().filter(|step| !step.draws.is_empty()) {
            pass.output.logits = kernels.logits(&b.h, &step.rows(), &weights.unembedding);
        }
        Ok(pass.finish())
    }

    /// Makes room in every buffer before anything is computed.
    fn reserve(&mut self, batch: &ForwardBatch) -> Result<(), OutOfMemory> {
        let Decoder { kernels, shard, buffers: b, turns, .. } = self;
        let heads = shard.attention();
        *turns = None;
        b.scores = kernels.scores_matrix(heads.query * batch.keys as usize);
        let isolated = head_block(batch, heads) * heads.query;
        let wanted = [
            (&mut b.x, batch.peak_rows),
            (&mut b.h, batch.peak_rows),
            (&mut b.y, batch.peak_rows.max(isolated)),
            (&mut b.q, batch.peak_rows),
            (&mut b.k, batch.peak_rows),
            (&mut b.v, batch.peak_rows),
            (&mut b.z, batch.peak_rows),
            (&mut b.activation, batch.peak_rows),
            (&mut b.gate, if batch.layers.iter().any(holds_gate) { batch.peak_rows } else { 0 }),
            (&mut b.scores, if batch.keys > 0 { batch.peak_rows } else { 0 }),
            (&mut b.one_head, isolated),
        ];
        let reserved = wanted.into_iter().try_for_each(|(buffer, rows)| kernels.reserve(buffer, rows));
        let reserved = reserved.and_then(|()| {
            let own = turns::of(&batch.lengths, &batch.positions, shard.config());
            *turns = own
                .map(|(table, rows)| Ok(Turns { table: kernels.rope_table(&table)?, rows }))
                .transpose()?;
            Ok(())
        });
        // A rank that stopped here alone would leave the others waiting for it.
        let missing = reserved.err().map_or(0, |OutOfMemory { bytes }| bytes.max(1));
        let of_ranks = kernels.exchange(vec![missing as f32]);
        let most = of_ranks.iter().flatten().copied().fold(0.0, f32::max);
        if most > 0.0 { Err(OutOfMemory { bytes: missing.max(most as u64) }) } else { Ok(()) }
    }
}

/// Rows whose heads are isolated at once for `head_out`: as many as the other buffers have room for.
fn head_block(batch: &ForwardBatch, heads: Heads) -> usize {
    let captured = |tap: &Tap| tap.captures.iter().map(|capture| capture.rows.len()).max().unwrap_or(0);
    let through = |tap: &Tap| {
        let edits = tap.steps.iter().filter_map(|step| match step {
            Step::Edit(edit) if edit.through.is_some() => Some(edit.rows.len()),
            _ => None,
        });
        edits.sum::<usize>().div_ceil(heads.query)
    };
    let taps = batch.layers.iter().map(|layer| &layer[Site::HeadOut]);
    let most = taps.map(|tap| captured(tap).max(through(tap))).max().unwrap_or(0);
    most.min((batch.peak_rows / heads.query).max(1))
}

/// Whether what the activation of a gated MLP gets is written or read in a layer.
fn holds_gate(tables: &LayerBatch) -> bool {
    !tables[Site::MlpGate].is_empty() || !tables[Site::MlpUp].is_empty()
}

/// `sum += numbers`
fn add(sum: &mut [f32], numbers: &[f32]) {
    for (sum, number) in sum.iter_mut().zip(numbers) {
        *sum += number;
    }
}

/// The state of one pass over the layers, besides the matrices.
struct Pass<'a, K: Kernels> {
    kernels: &'a K,
    weights: &'a Weights<K>,
    shard: &'a Shard,
    heads: Heads,
    /// Columns of a head at `scores` and `pattern`.
    keys: usize,
    /// Rows whose heads are isolated at once.
    block: usize,
    /// Where keys and values are kept.
    slots: &'a [u32],
    /// Whether keys are seen in the store, not in the batch.
    in_store: bool,
    /// Position of each row of `x`.
    positions: Vec<u32>,
    /// Cosines and sines, of models that have them.
    rope: Option<&'a K::Rope>,
    /// Row of these tables for each row of `x`, where it is not its position.
    turned: Option<Vec<u32>>,
    log: K::Log,
    /// What was logged, in order.
    logged: Vec<Logged>,
    output: RankOutput,
}

/// Which of the rows edited an entry of the log is about.
struct Logged {
    /// Where they stand among all that the batch edits; none of a step of the forward itself.
    first: Option<usize>,
    /// How many entries.
    count: usize,
    /// Whether this rank speaks for them.
    primary: bool,
}

impl<K: Kernels> Pass<'_, K> {
    /// `resid_pre`, and the norm after it.
    fn norm(&mut self, norm: &Norm<K::Vector>, tables: &LayerBatch, b: &mut Buffers<K>) {
        self.tap(Site::ResidPre, &tables[Site::ResidPre], &mut b.x, []);
        self.kernels.norm(&b.x, norm, &mut b.h);
    }

    /// `attn_norm` to `resid_mid`, and the norm after it.
    fn attention(
        &mut self,
        layer: &Layer<K>,
        tables: &LayerBatch,
        store: &mut Stored<K>,
        b: &mut Buffers<K>,
    ) {
        let (kernels, heads, rope) = (self.kernels, self.heads, self.rope);
        self.tap(Site::AttnNorm, &tables[Site::AttnNorm], &mut b.h, [&mut b.x]);
        // Rows that join in between copy rows of the same position: normed and rotated already or not, they come out the same.
        let between = [Site::K, Site::KNorm, Site::Q, Site::QNorm];
        let unseen = between.iter().all(|site| tables[*site].is_empty());
        let norms = layer.head_norms.as_ref();
        let on_the_way = OnTheWay {
            norms: norms.filter(|_| unseen),
            rotate: rope.filter(|_| unseen).map(|rope| (self.turned(), rope)),
        };
        kernels.project(&b.h, &layer.qkv, on_the_way, &mut b.q, &mut b.k, &mut b.v);
        self.tap(Site::K, &tables[Site::K], &mut b.k, [&mut b.v, &mut b.q, &mut b.x]);
        if let Some(norms) = norms.filter(|_| !unseen) {
            kernels.norm_heads(heads, &mut b.k, &norms.key, norms.eps);
        }
        self.tap(Site::KNorm, &tables[Site::KNorm], &mut b.k, [&mut b.v, &mut b.q, &mut b.x]);
        self.tap(Site::V, &tables[Site::V], &mut b.v, [&mut b.k, &mut b.q, &mut b.x]);
        if let Some(rope) = rope.filter(|_| !unseen) {
            kernels.rope(&mut b.k, self.turned(), rope);
        }
        self.tap(Site::KRope, &tables[Site::KRope], &mut b.k, [&mut b.v, &mut b.q, &mut b.x]);

        if !tables.kept.is_empty() {
            kernels.keep(&b.k, &tables.kept, &mut store.keys, self.slots);
            kernels.keep(&b.v, &tables.kept, &mut store.values, self.slots);
        }

        // From here on only the rows that something still needs, and those that begin to differ here.
        self.select(&tables.attention, b);
        self.tap(Site::Q, &tables[Site::Q], &mut b.q, [&mut b.x]);
        if let Some(norms) = norms.filter(|_| !unseen) {
            kernels.norm_heads(heads, &mut b.q, &norms.query, norms.eps);
        }
        self.tap(Site::QNorm, &tables[Site::QNorm], &mut b.q, [&mut b.x]);
        if let Some(rope) = rope.filter(|_| !unseen) {
            kernels.rope(&mut b.q, self.turned(), rope);
        }
        self.tap(Site::QRope, &tables[Site::QRope], &mut b.q, [&mut b.x]);
        let (keys, values) = if self.in_store { (&store.keys, &store.values) } else { (&b.k, &b.v) };
        if tables.holds_scores() {
            kernels.scores(heads, &b.q, keys, &tables.attention, &self.positions, &mut b.scores);
            self.tap(Site::Scores, &tables[Site::Scores], &mut b.scores, [&mut b.x]);
            kernels.softmax(heads, &self.positions, &mut b.scores);
            self.tap(Site::Pattern, &tables[Site::Pattern], &mut b.scores, [&mut b.x]);
            kernels.weigh(heads, &b.scores, values, &tables.attention, &self.positions, &mut b.z);
        } else {
            kernels.attention(heads, &b.q, keys, values, &tables.attention, &self.positions, &mut b.z);
        }
        self.tap(Site::Z, &tables[Site::Z], &mut b.z, [&mut b.x]);
        let elsewhere = self.head_out(&tables[Site::HeadOut], layer, b);
        kernels.row_parallel(&b.z, &layer.o.weight, layer.o.bias.as_ref(), &mut b.y);
        if !elsewhere.is_empty() {
            let (rows, written): (Vec<u32>, Vec<Vec<f32>>) = elsewhere.into_iter().unzip();
            let values = Values::Given(written.concat());
            self.put(&mut b.y, rows, None, RowOp::Add { values, coef: 1.0, norm_match: false });
        }
        self.tap(Site::AttnOut, &tables[Site::AttnOut], &mut b.y, [&mut b.x]);
        if tables[Site::ResidMid].is_empty() {
            kernels.add_norm(&mut b.x, &b.y, &layer.mlp_norm, &mut b.h);
        } else {
            kernels.add(&mut b.x, &b.y);
            self.tap(Site::ResidMid, &tables[Site::ResidMid], &mut b.x, []);
            kernels.norm(&b.x, &layer.mlp_norm, &mut b.h);
        }
    }

    /// `mlp_norm` to `resid_post`, and the norm after it if there is one.
    fn mlp(
        &mut self,
        layer: &Layer<K>,
        tables: &LayerBatch,
        norm: Option<&Norm<K::Vector>>,
        b: &mut Buffers<K>,
    ) {
        let kernels = self.kernels;
        self.tap(Site::MlpNorm, &tables[Site::MlpNorm], &mut b.h, [&mut b.x]);
        match &layer.neurons {
            Neurons::Gated(gate_up) if !holds_gate(tables) => {
                kernels.gated(&b.h, gate_up, &mut b.activation);
            }
            Neurons::Gated(gate_up) => {
                kernels.pre_activation(&b.h, gate_up, None, Some(&mut b.gate), &mut b.activation);
                self.tap(Site::MlpGate, &tables[Site::MlpGate], &mut b.gate, [&mut b.activation, &mut b.x]);
                self.tap(Site::MlpUp, &tables[Site::MlpUp], &mut b.activation, [&mut b.gate, &mut b.x]);
                kernels.activate(Some(&b.gate), &mut b.activation);
            }
            Neurons::Gelu(up, bias) if tables[Site::MlpPre].is_empty() => {
                kernels.gelu(&b.h, up, bias.as_ref(), &mut b.activation);
            }
            Neurons::Gelu(up, bias) => {
                kernels.pre_activation(&b.h, up, bias.as_ref(), None, &mut b.activation);
                self.tap(Site::MlpPre, &tables[Site::MlpPre], &mut b.activation, [&mut b.x]);
                kernels.activate(None, &mut b.activation);
            }
        }
        self.tap(Site::MlpAct, &tables[Site::MlpAct], &mut b.activation, [&mut b.x]);
        kernels.row_parallel(&b.activation, &layer.down.weight, layer.down.bias.as_ref(), &mut b.y);
        self.tap(Site::MlpOut, &tables[Site::MlpOut], &mut b.y, [&mut b.x]);
        match norm {
            Some(norm) => kernels.add_norm(&mut b.x, &b.y, norm, &mut b.h),
            None => kernels.add(&mut b.x, &b.y),
        }
        self.tap(Site::ResidPost, &tables[Site::ResidPost], &mut b.x, []);
    }

    /// Joins, edits and captures of what each head writes: its `z`, after `z` was read, through the output projection without its
    /// bias, which is no head's. Gives back what else is written, row by row: what heads wrote in other layers.
    fn head_out(&mut self, tap: &Tap, layer: &Layer<K>, b: &mut Buffers<K>) -> BTreeMap<u32, Vec<f32>> {
        let columns = self.shard.columns(Site::Z, self.keys);
        let mut elsewhere = Elsewhere::default();
        for step in &tap.steps {
            match step {
                Step::Join(parents) => {
                    elsewhere.join(parents, self.kernels.rows(&b.z));
                    self.kernels.append(&mut b.z, parents);
                    self.join(parents, [&mut b.x]);
                }
                Step::Edit(edit) => {
                    elsewhere.edit(edit, &columns);
                    self.edit(Site::Z, edit, &mut b.z);
                    if edit.through.is_some() && edit.instead.is_none() {
                        // What was written, and is logged, goes through the other layer's projection, not through this one's.
                        let held = columns.held(&columns.written(edit));
                        let own = held.start - columns.own.start..held.end - columns.own.start;
                        if !own.is_empty() {
                            self.put(&mut b.z, edit.rows.clone(), Some(own), RowOp::Zero);
                        }
                    }
                }
            }
        }
        for capture in &tap.captures {
            let mut numbers = Vec::new();
            for rows in capture.rows.chunks(self.block.max(1)) {
                self.kernels.isolate_heads(self.heads, &b.z, rows, &mut b.one_head);
                self.kernels.linear(&b.one_head, &layer.o.weight, &mut b.y);
                let all: Vec<u32> = (0..self.kernels.rows(&b.y) as u32).collect();
                numbers.extend(self.kernels.read(&b.y, &all));
            }
            self.add_heads(&elsewhere, &capture.rows, &mut numbers, b);
            self.capture(Site::HeadOut, capture.capture, numbers);
        }
        let mut written: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
        for Through { layer, rows, z } in elsewhere.through() {
            let numbers = self.projected(&z, layer, true, b);
            for (row, numbers) in rows.iter().zip(numbers.chunks_exact(numbers.len() / rows.len())) {
                add(written.entry(*row).or_insert_with(|| vec![0.0; numbers.len()]), numbers);
            }
        }
        written
    }

    /// Adds what heads wrote in other layers to the outputs of heads, `[rows, own heads, d]`.
    fn add_heads(&mut self, elsewhere: &Elsewhere, rows: &[u32], numbers: &mut [f32], b: &mut Buffers<K>) {
        let (heads, width) = (self.heads.query, self.heads.query * self.heads.dim);
        let of_row = numbers.len() / rows.len();
        for Through { layer, rows: there, z } in elsewhere.through() {
            for (row, numbers) in rows.iter().zip(numbers.chunks_exact_mut(of_row)) {
                let Ok(place) = there.binary_search(row) else { continue };
                let mut isolated = vec![0.0; heads * width];
                for (head, z) in z[place * width..][..width].chunks_exact(self.heads.dim).enumerate() {
                    isolated[head * (width + self.heads.dim)..][..z.len()].copy_from_slice(z);
                }
                add(numbers, &self.projected(&isolated, layer, false, b));
            }
        }
    }

    /// Rows of `z`, own columns, through the output projection of a layer, without its bias: of this rank's heads alone, or of the heads of
    /// all ranks.
    fn projected(&mut self, z: &[f32], layer: u32, all: bool, b: &mut Buffers<K>) -> Vec<f32> {
        let (kernels, o) = (self.kernels, &self.weights.layers[layer as usize].o.weight);
        let width = self.heads.query * self.heads.dim;
        let mut numbers = Vec::new();
        for z in z.chunks(width * self.heads.query * self.block.max(1)) {
            let rows: Vec<u32> = (0..(z.len() / width) as u32).collect();
            kernels.gather(&b.z, &vec![0; rows.len()], &mut b.one_head);
            self.put(&mut b.one_head, rows.clone(), None, RowOp::Replace(Values::Given(z.to_vec())));
            if all {
                kernels.row_parallel(&b.one_head, o, None, &mut b.y);
            } else {
                kernels.linear(&b.one_head, o, &mut b.y);
            }
            numbers.extend(kernels.read(&b.y, &rows));
        }
        numbers
    }

    /// Logit-lens readouts of the residual stream as it stands.
    fn lens(&mut self, readout: &ReadoutBatch, b: &mut Buffers<K>) {
        if readout.rows.is_empty() {
            return;
        }
        self.kernels.gather(&b.x, &readout.rows, &mut b.y);
        self.kernels.norm(&b.y, &self.weights.final_norm, &mut b.h);
        self.push_scores(readout, &b.h);
    }

    /// Readouts of normed rows.
    fn score(&mut self, readout: &ReadoutBatch, normed: &K::Matrix, gathered: &mut K::Matrix) {
        self.kernels.gather(normed, &readout.rows, gathered);
        self.push_scores(readout, gathered);
    }

    fn push_scores(&mut self, readout: &ReadoutBatch, x: &K::Matrix) {
        let (unembedding, own) = (&self.weights.unembedding, self.shard.tokens());
        self.output.partials.push(self.kernels.score(x, unembedding, own, readout));
    }

    fn select(&mut self, attention: &AttentionBatch, b: &mut Buffers<K>) {
        let incoming = self.kernels.rows(&b.x);
        let joined = match attention.out.split_at_checked(incoming) {
            // All rows stay where they are, and the rest joins them.
            Some((kept, joined)) if kept.iter().copied().eq(0..incoming as u32) => joined,
            _ => {
                self.kernels.gather(&b.x, &attention.out, &mut b.y);
                std::mem::swap(&mut b.x, &mut b.y);
                self.kernels.gather(&b.q, &attention.out, &mut b.z);
                std::mem::swap(&mut b.q, &mut b.z);
                for of_rows in self.of_rows() {
                    *of_rows = attention.out.iter().map(|&row| of_rows[row as usize]).collect();
                }
                return;
            }
        };
        if !joined.is_empty() {
            self.join(joined, [&mut b.x, &mut b.q]);
        }
    }

    /// Row of the tables of RoPE for each row of `x`.
    fn turned(&self) -> &[u32] {
        self.turned.as_deref().unwrap_or(&self.positions)
    }

    /// What is known of each row of `x`.
    fn of_rows(&mut self) -> impl Iterator<Item = &mut Vec<u32>> {
        [Some(&mut self.positions), self.turned.as_mut()].into_iter().flatten()
    }

    /// Appends copies of rows to all matrices of which rows are still to be read.
    fn join<const N: usize>(&mut self, parents: &[u32], matrices: [&mut K::Matrix; N]) {
        for matrix in matrices {
            self.kernels.append(matrix, parents);
        }
        for of_rows in self.of_rows() {
            let joined: Vec<u32> = parents.iter().map(|&row| of_rows[row as usize]).collect();
            of_rows.extend(joined);
        }
    }

    /// Joins, edits and captures at a site whose values are `x`. Inside a sublayer a joining branch brings along the
    /// other matrices that are still to be read, `carried`: together they are all of its state.
    fn tap<const N: usize>(
        &mut self,
        site: Site,
        tap: &Tap,
        x: &mut K::Matrix,
        mut carried: [&mut K::Matrix; N],
    ) {
        for step in &tap.steps {
            match step {
                Step::Join(parents) => {
                    self.kernels.append(x, parents);
                    self.join(parents, carried.each_mut().map(|matrix| &mut **matrix));
                }
                Step::Edit(edit) => self.edit(site, edit, x),
            }
        }
        for capture in &tap.captures {
            // Only the rank that speaks for its columns reads them.
            if self.shard.columns(site, self.keys).primary {
                let numbers = self.kernels.read(x, &capture.rows);
                self.capture(site, capture.capture, numbers);
            }
        }
    }

    fn edit(&mut self, site: Site, edit: &EditRows, x: &mut K::Matrix) {
        let columns = self.shard.columns(site, self.keys);
        let rows = edit.first..edit.first + edit.rows.len();
        if self.shard.rank == 0 {
            let elements = columns.written(edit).len() as u32;
            self.output.written[rows.clone()].iter_mut().for_each(|row| row.elements = elements);
        }
        let resolved;
        let edit = if joint::is_joint(self.shard, &columns, edit) {
            let (whole, cancelled) = joint::resolved(self.kernels, self.shard, site, self.keys, x, edit);
            for (row, cancelled) in self.output.written[rows.clone()].iter_mut().zip(cancelled) {
                row.cancelled = cancelled;
            }
            resolved = whole;
            &resolved
        } else {
            edit
        };
        if let Some(edit) = columns.localised(edit) {
            self.kernels.edit(x, &edit, &mut self.log);
            self.logged.push(Logged { first: Some(rows.start), count: rows.len(), primary: columns.primary });
        }
    }

    /// Writes rows of a matrix, in its own columns, as a step of the forward itself: it counts as no edit.
    fn put(&mut self, x: &mut K::Matrix, rows: Vec<u32>, columns: Option<Range<u32>>, op: RowOp) {
        let edit = EditRows { rows, first: 0, columns, op, instead: None, through: None };
        self.kernels.edit(x, &edit, &mut self.log);
        self.logged.push(Logged { first: None, count: edit.rows.len(), primary: false });
    }

    /// Keeps numbers read at a site, `[rows, own columns]`.
    fn capture(&mut self, site: Site, capture: usize, numbers: Vec<f32>) {
        let columns = self.shard.columns(site, self.keys).own;
        self.output.captures.push(Part { capture, columns, numbers });
    }

    /// Reads the log, and tells each row what was changed in it.
    fn finish(self) -> RankOutput {
        let Pass { kernels, log, logged, mut output, .. } = self;
        let mut changes = kernels.changes(log).into_iter();
        for Logged { first, count, primary } in logged {
            let own = changes.by_ref().take(count);
            let Some(first) = first else {
                own.for_each(drop);
                continue;
            };
            for (written, change) in output.written[first..first + count].iter_mut().zip(own) {
                written.largest = larger(written.largest, change.largest);
                written.cancelled |= change.cancelled;
                if primary {
                    written.squared += change.squared;
                    written.before += change.before;
                }
            }
        }
        output
    }
}
