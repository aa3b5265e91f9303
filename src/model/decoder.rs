//! The branching forward: one pass over the layers for all live rows of all runs.
//!
//! Written once over [`Kernels`]; what joins, is edited, is dropped and is read where was decided when the
//! [`ForwardBatch`] was made (`crate::plan`). Reading this file top to bottom is reading the model.

use super::config::ModelConfig;
use super::weights::{Layer, Linear, Weights};
use crate::kernels::{Heads, Kernels};
use crate::plan::Score;
use crate::plan::batch::{AttentionBatch, ForwardBatch, LayerBatch, Step, Tap};
use crate::plan::output::EditStats;

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
}

/// What a batch gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOutput {
    /// One per readout row.
    pub scores: Vec<Score>,
    /// (capture index, numbers `[positions, width]`)
    pub captures: Vec<(usize, Vec<f32>)>,
    /// What was written, by edit group.
    pub written: [EditStats; 3],
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
            captures: Vec::new(),
            written: [EditStats::default(); 3],
        };
        kernels.embed(&weights.embedding, &batch.tokens, &mut b.x);
        pass.tap(&batch.embed, &mut b.x, None);
        for (layer, tables) in weights.layers.iter().zip(&batch.layers) {
            pass.attention(layer, tables, b);
            pass.mlp(layer, tables, b);
        }
        kernels.gather(&b.x, &batch.readout.rows, &mut b.y);
        kernels.rms_norm(&b.y, &weights.final_norm, *eps, &mut b.h);
        let scores = kernels.score(&b.h, &weights.unembedding, &batch.readout);
        BatchOutput { scores, captures: pass.captures, written: pass.written }
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
    captures: Vec<(usize, Vec<f32>)>,
    written: [EditStats; 3],
}

impl<K: Kernels> Pass<'_, K> {
    /// `resid_pre` to `resid_mid`.
    fn attention(&mut self, layer: &Layer<K>, tables: &LayerBatch, b: &mut Buffers<K>) {
        self.tap(&tables.resid_pre, &mut b.x, None);
        self.kernels.rms_norm(&b.x, &layer.attention_norm, self.eps, &mut b.h);
        self.project(&layer.k, &b.h, &mut b.k);
        self.project(&layer.v, &b.h, &mut b.v);
        self.rotate(layer.qk_norm.as_ref().map(|(_, k)| k), &mut b.k);

        // From here on only the rows that something still needs, and those that begin to differ here.
        self.select(&tables.attention, b);
        self.project(&layer.q, &b.h, &mut b.q);
        self.rotate(layer.qk_norm.as_ref().map(|(q, _)| q), &mut b.q);
        self.kernels.attention(self.heads, &b.q, &b.k, &b.v, &tables.attention, &self.positions, &mut b.z);
        self.tap(&tables.z, &mut b.z, Some(&mut b.x));
        self.kernels.linear(&b.z, &layer.o, None, &mut b.y);
        self.tap(&tables.attn_out, &mut b.y, Some(&mut b.x));
        self.kernels.add(&mut b.x, &b.y);
        self.tap(&tables.resid_mid, &mut b.x, None);
    }

    /// `resid_mid` to `resid_post`.
    fn mlp(&mut self, layer: &Layer<K>, tables: &LayerBatch, b: &mut Buffers<K>) {
        self.kernels.rms_norm(&b.x, &layer.mlp_norm, self.eps, &mut b.h);
        self.kernels.gated(&b.h, &layer.gate, &layer.up, &mut b.activation);
        self.kernels.linear(&b.activation, &layer.down, None, &mut b.y);
        self.tap(&tables.mlp_out, &mut b.y, Some(&mut b.x));
        self.kernels.add(&mut b.x, &b.y);
        self.tap(&tables.resid_post, &mut b.x, None);
    }

    fn project(&self, linear: &Linear<K>, x: &K::Matrix, out: &mut K::Matrix) {
        self.kernels.linear(x, &linear.weight, linear.bias.as_ref(), out);
    }

    fn rotate(&self, norm: Option<&K::Vector>, x: &mut K::Matrix) {
        if let Some(norm) = norm {
            self.kernels.head_norm(x, norm, self.eps);
        }
        self.kernels.rope(x, &self.positions, &self.weights.rope);
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

    /// Joins, edits and captures at a site whose values are `site`. Inside a sublayer a joining branch brings along its
    /// parent's residual stream, `carried`: together they are all of its state.
    fn tap(&mut self, tap: &Tap, site: &mut K::Matrix, mut carried: Option<&mut K::Matrix>) {
        for step in &tap.steps {
            match step {
                Step::Join(parents) => {
                    self.kernels.append(site, parents);
                    if let Some(carried) = carried.as_deref_mut() {
                        self.kernels.append(carried, parents);
                    }
                    let joined: Vec<u32> = parents.iter().map(|&row| self.positions[row as usize]).collect();
                    self.positions.extend(joined);
                }
                Step::Edit(edit) => {
                    let written = &mut self.written[edit.group];
                    *written = written.and(self.kernels.edit(site, edit));
                }
            }
        }
        for capture in &tap.captures {
            self.captures.push((capture.capture, self.kernels.read(site, &capture.rows)));
        }
    }
}
