//! The branching forward: one pass over the layers for all live rows of all runs.
//!
//! Written once over [`Kernels`]; what joins, is edited, is dropped and is read where was decided when the
//! [`ForwardBatch`] was made (`crate::plan`). Reading this file top to bottom is reading the model.

use super::config::ModelConfig;
use super::weights::{Layer, Linear, Weights};
use crate::kernels::{Heads, Kernels};
use crate::plan::batch::{AttentionBatch, ForwardBatch, LayerBatch, ReadoutBatch, Step, Tap};
use crate::plan::output::EditStats;
use crate::plan::{EditGroup, Score};
use crate::spec::site::Site;

/// A model on a device, with the buffers that its rows pass through.
pub struct Decoder<K: Kernels> {
    kernels: K,
    weights: Weights<K>,
    heads: Heads,
    eps: f32,
    buffers: Buffers<K>,
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
    /// Attention scores and pattern, `[rows, h*keys]`, where they are held.
    scores: K::Matrix,
    /// Rows with one head each, `[rows*h, h*e]`, for `head_out`.
    one_head: K::Matrix,
}

/// What a batch gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOutput {
    /// One per readout row: those of the lens, layer by layer, then the final ones.
    pub scores: Vec<Score>,
    /// (capture index, numbers `[positions, width]`)
    pub captures: Vec<(usize, Vec<f32>)>,
    /// What was written, by edit group.
    pub written: [EditStats; 3],
    /// Sum of squared changes by run of the batch, corruption apart.
    pub changes: Vec<f64>,
}

impl<K: Kernels> Decoder<K> {
    /// Puts weights and buffers together.
    pub fn new(kernels: K, config: &ModelConfig, weights: Weights<K>) -> Decoder<K> {
        let (d, q, kv) = (config.hidden_size, config.q_width(), config.kv_width());
        let buffers = Buffers {
            x: kernels.matrix(d),
            h: kernels.matrix(d),
            y: kernels.matrix(d),
            q: kernels.matrix(q),
            k: kernels.matrix(kv),
            v: kernels.matrix(kv),
            z: kernels.matrix(q),
            activation: kernels.matrix(config.intermediate_size),
            scores: kernels.scores_matrix(0),
            one_head: kernels.matrix(q),
        };
        let heads = Heads { query: config.num_heads, key_value: config.num_kv_heads, dim: config.head_dim };
        Decoder { kernels, weights, heads, eps: config.rms_norm_eps as f32, buffers }
    }

    /// The device.
    pub fn kernels(&self) -> &K {
        &self.kernels
    }

    /// The device and the weights, without the buffers.
    pub fn into_parts(self) -> (K, Weights<K>) {
        (self.kernels, self.weights)
    }

    /// Computes a batch.
    pub fn forward(&mut self, batch: &ForwardBatch) -> BatchOutput {
        let Decoder { kernels, weights, heads, eps, buffers: b } = self;
        let mut pass = Pass {
            kernels: &*kernels,
            heads: *heads,
            eps: *eps,
            weights: &*weights,
            positions: batch.positions.clone(),
            output: BatchOutput {
                scores: Vec::new(),
                captures: Vec::new(),
                written: [EditStats::default(); 3],
                changes: vec![0.0; batch.runs],
            },
        };
        b.scores = kernels.scores_matrix(heads.query * batch.keys as usize);
        kernels.embed(&weights.embedding, &batch.tokens, &mut b.x);
        pass.tap(&batch.embed, &mut b.x, []);
        for (layer, tables) in weights.layers.iter().zip(&batch.layers) {
            pass.attention(layer, tables, b);
            pass.mlp(layer, tables, b);
            pass.lens(&tables.lens, b);
        }
        kernels.rms_norm(&b.x, &weights.final_norm, *eps, &mut b.h);
        pass.tap(&batch.final_norm, &mut b.h, []);
        for capture in &batch.logits.captures {
            let logits = kernels.logits(&b.h, &capture.rows, &weights.unembedding);
            pass.output.captures.push((capture.capture, logits));
        }
        pass.score(&batch.readout, &b.h, &mut b.y);
        pass.output
    }
}

/// The state of one pass over the layers, besides the matrices.
struct Pass<'a, K: Kernels> {
    kernels: &'a K,
    weights: &'a Weights<K>,
    heads: Heads,
    eps: f32,
    /// Position of each row of `x`.
    positions: Vec<u32>,
    output: BatchOutput,
}

impl<K: Kernels> Pass<'_, K> {
    /// `resid_pre` to `resid_mid`.
    fn attention(&mut self, layer: &Layer<K>, tables: &LayerBatch, b: &mut Buffers<K>) {
        let (kernels, heads) = (self.kernels, self.heads);
        let (q_norm, k_norm) = layer.qk_norm.as_ref().map_or((None, None), |(q, k)| (Some(q), Some(k)));
        self.tap(&tables[Site::ResidPre], &mut b.x, []);
        kernels.rms_norm(&b.x, &layer.attention_norm, self.eps, &mut b.h);
        self.tap(&tables[Site::AttnIn], &mut b.h, [&mut b.x]);
        self.project(&layer.k, k_norm, &b.h, &mut b.k);
        self.project(&layer.v, None, &b.h, &mut b.v);
        self.tap(&tables[Site::K], &mut b.k, [&mut b.v, &mut b.h, &mut b.x]);
        self.tap(&tables[Site::V], &mut b.v, [&mut b.k, &mut b.h, &mut b.x]);
        kernels.rope(&mut b.k, &self.positions, &self.weights.rope);
        self.tap(&tables[Site::KRope], &mut b.k, [&mut b.v, &mut b.h, &mut b.x]);

        // From here on only the rows that something still needs, and those that begin to differ here.
        self.select(&tables.attention, b);
        self.project(&layer.q, q_norm, &b.h, &mut b.q);
        self.tap(&tables[Site::Q], &mut b.q, [&mut b.x]);
        kernels.rope(&mut b.q, &self.positions, &self.weights.rope);
        self.tap(&tables[Site::QRope], &mut b.q, [&mut b.x]);
        if tables.holds_scores() {
            kernels.scores(heads, &b.q, &b.k, &tables.attention, &self.positions, &mut b.scores);
            self.tap(&tables[Site::Scores], &mut b.scores, [&mut b.x]);
            kernels.softmax(heads, &self.positions, &mut b.scores);
            self.tap(&tables[Site::Pattern], &mut b.scores, [&mut b.x]);
            kernels.weigh(heads, &b.scores, &b.v, &tables.attention, &self.positions, &mut b.z);
        } else {
            kernels.attention(heads, &b.q, &b.k, &b.v, &tables.attention, &self.positions, &mut b.z);
        }
        self.tap(&tables[Site::Z], &mut b.z, [&mut b.x]);
        self.head_out(&tables[Site::HeadOut], layer, b);
        kernels.linear(&b.z, &layer.o, None, &mut b.y);
        self.tap(&tables[Site::AttnOut], &mut b.y, [&mut b.x]);
        kernels.add(&mut b.x, &b.y);
        self.tap(&tables[Site::ResidMid], &mut b.x, []);
    }

    /// `resid_mid` to `resid_post`.
    fn mlp(&mut self, layer: &Layer<K>, tables: &LayerBatch, b: &mut Buffers<K>) {
        let kernels = self.kernels;
        kernels.rms_norm(&b.x, &layer.mlp_norm, self.eps, &mut b.h);
        self.tap(&tables[Site::MlpIn], &mut b.h, [&mut b.x]);
        kernels.gated(&b.h, &layer.gate, &layer.up, &mut b.activation);
        self.tap(&tables[Site::MlpAct], &mut b.activation, [&mut b.x]);
        kernels.linear(&b.activation, &layer.down, None, &mut b.y);
        self.tap(&tables[Site::MlpOut], &mut b.y, [&mut b.x]);
        kernels.add(&mut b.x, &b.y);
        self.tap(&tables[Site::ResidPost], &mut b.x, []);
    }

    /// Captures of each head's share of the sublayer's output: `z` with the other heads zeroed, projected.
    fn head_out(&mut self, tap: &Tap, layer: &Layer<K>, b: &mut Buffers<K>) {
        for capture in &tap.captures {
            self.kernels.isolate_heads(self.heads, &b.z, &capture.rows, &mut b.one_head);
            self.kernels.linear(&b.one_head, &layer.o, None, &mut b.y);
            let all: Vec<u32> = (0..self.kernels.rows(&b.y) as u32).collect();
            self.output.captures.push((capture.capture, self.kernels.read(&b.y, &all)));
        }
    }

    /// Logit-lens readouts of the residual stream as it stands.
    fn lens(&mut self, readout: &ReadoutBatch, b: &mut Buffers<K>) {
        if readout.rows.is_empty() {
            return;
        }
        self.kernels.gather(&b.x, &readout.rows, &mut b.y);
        self.kernels.rms_norm(&b.y, &self.weights.final_norm, self.eps, &mut b.h);
        self.output.scores.extend(self.kernels.score(&b.h, &self.weights.unembedding, readout));
    }

    /// Readouts of normed rows.
    fn score(&mut self, readout: &ReadoutBatch, normed: &K::Matrix, gathered: &mut K::Matrix) {
        self.kernels.gather(normed, &readout.rows, gathered);
        self.output.scores.extend(self.kernels.score(gathered, &self.weights.unembedding, readout));
    }

    fn project(&self, linear: &Linear<K>, norm: Option<&K::Vector>, x: &K::Matrix, out: &mut K::Matrix) {
        self.kernels.linear(x, &linear.weight, linear.bias.as_ref(), out);
        if let Some(norm) = norm {
            self.kernels.head_norm(out, norm, self.eps);
        }
    }

    fn select(&mut self, attention: &AttentionBatch, b: &mut Buffers<K>) {
        if attention.identity {
            return;
        }
        self.kernels.gather(&b.x, &attention.out, &mut b.y);
        std::mem::swap(&mut b.x, &mut b.y);
        self.kernels.gather(&b.h, &attention.out, &mut b.y);
        std::mem::swap(&mut b.h, &mut b.y);
        self.positions = attention.out.iter().map(|&row| self.positions[row as usize]).collect();
    }

    /// Joins, edits and captures at a site whose values are `site`. Inside a sublayer a joining branch brings along the
    /// other matrices that are still to be read, `carried`: together they are all of its state.
    fn tap<const N: usize>(&mut self, tap: &Tap, site: &mut K::Matrix, mut carried: [&mut K::Matrix; N]) {
        for step in &tap.steps {
            match step {
                Step::Join(parents) => {
                    self.kernels.append(site, parents);
                    for carried in &mut carried {
                        self.kernels.append(carried, parents);
                    }
                    let joined: Vec<u32> = parents.iter().map(|&row| self.positions[row as usize]).collect();
                    self.positions.extend(joined);
                }
                Step::Edit(edit) => {
                    let corrupts = edit.group == EditGroup::Corruption.index();
                    let mut nowhere = vec![0.0; if corrupts { self.output.changes.len() } else { 0 }];
                    let changes = if corrupts { &mut nowhere } else { &mut self.output.changes };
                    let written = &mut self.output.written[edit.group];
                    *written = written.and(self.kernels.edit(site, edit, changes));
                }
            }
        }
        for capture in &tap.captures {
            self.output.captures.push((capture.capture, self.kernels.read(site, &capture.rows)));
        }
    }
}
