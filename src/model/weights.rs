//! A decoder's weights on a device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::config::ModelConfig;
use crate::kernels::cpu::{Cpu, Matrix, PackedWeight};
use crate::kernels::{Kernels, RopeTable};

/// One block.
#[derive(Debug)]
pub struct Layer<K: Kernels> {
    /// Before attention.
    pub attention_norm: K::Vector,
    /// Query projection, `[h*e, d]`.
    pub q: Linear<K>,
    /// Key projection, `[k*e, d]`.
    pub k: Linear<K>,
    /// Value projection, `[k*e, d]`.
    pub v: Linear<K>,
    /// Norms of each head of q and k before RoPE (Qwen3).
    pub qk_norm: Option<(K::Vector, K::Vector)>,
    /// Output projection, `[d, h*e]`.
    pub o: K::Weight,
    /// Before the MLP.
    pub mlp_norm: K::Vector,
    /// Gate projection, `[f, d]`.
    pub gate: K::Weight,
    /// Up projection, `[f, d]`.
    pub up: K::Weight,
    /// Down projection, `[d, f]`.
    pub down: K::Weight,
}

/// A projection with an optional bias.
#[derive(Debug)]
pub struct Linear<K: Kernels> {
    /// `[out, in]`
    pub weight: K::Weight,
    /// `[out]`
    pub bias: Option<K::Vector>,
}

/// All weights.
#[derive(Debug)]
pub struct Weights<K: Kernels> {
    /// Token embedding, `[v, d]`.
    pub embedding: K::Table,
    /// The blocks.
    pub layers: Vec<Layer<K>>,
    /// Before the unembedding.
    pub final_norm: K::Vector,
    /// `[v, d]`; the embedding itself when tied.
    pub unembedding: K::Weight,
    /// Rotary tables for every position the model takes.
    pub rope: RopeTable,
}

/// Loads the weights for the CPU. `tensor` gives a checkpoint's tensor by its Hugging Face name in the shape that
/// [`ModelConfig`] implies; `progress` is told after each block.
///
/// # Panics
/// If a tensor has another number of elements than its shape says, which the loader checks.
pub fn load_cpu<E>(
    cpu: &Cpu,
    config: &ModelConfig,
    tensor: impl Fn(&str) -> Result<Tensor, E>,
    progress: impl Fn(usize),
) -> Result<Weights<Cpu>, E> {
    let numbers = |name: &str| -> Result<Vec<f32>, E> {
        let tensor = tensor(name)?;
        let numbers = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        Ok(numbers.expect("BUG: a tensor of floats in host memory can be widened and copied"))
    };
    let vector = |name: &str| numbers(name);
    let weight = |name: &str, outputs: usize, inputs: usize| -> Result<PackedWeight, E> {
        Ok(PackedWeight::new(&numbers(name)?, outputs, inputs, cpu.dtype()))
    };
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q_width, kv_width) = (config.q_width(), config.kv_width());
    let table = numbers("model.embed_tokens.weight")?;
    let unembedding = if config.tie_word_embeddings {
        PackedWeight::new(&table, config.vocab_size, d, cpu.dtype())
    } else {
        weight("lm_head.weight", config.vocab_size, d)?
    };
    let layers = (0..config.num_layers)
        .map(|l| {
            let name = |part: &str| format!("model.layers.{l}.{part}");
            let projection = |part: &str, outputs: usize| -> Result<Linear<Cpu>, E> {
                let bias = config.qkv_bias.then(|| vector(&name(&format!("self_attn.{part}.bias"))));
                let weight = weight(&name(&format!("self_attn.{part}.weight")), outputs, d)?;
                Ok(Linear { weight, bias: bias.transpose()? })
            };
            let qk_norm = if config.qk_norm {
                Some((vector(&name("self_attn.q_norm.weight"))?, vector(&name("self_attn.k_norm.weight"))?))
            } else {
                None
            };
            let layer = Layer {
                attention_norm: vector(&name("input_layernorm.weight"))?,
                q: projection("q_proj", q_width)?,
                k: projection("k_proj", kv_width)?,
                v: projection("v_proj", kv_width)?,
                qk_norm,
                o: weight(&name("self_attn.o_proj.weight"), d, q_width)?,
                mlp_norm: vector(&name("post_attention_layernorm.weight"))?,
                gate: weight(&name("mlp.gate_proj.weight"), f, d)?,
                up: weight(&name("mlp.up_proj.weight"), f, d)?,
                down: weight(&name("mlp.down_proj.weight"), d, f)?,
            };
            progress(l);
            Ok(layer)
        })
        .collect::<Result<_, E>>()?;
    Ok(Weights {
        embedding: Arc::new(Matrix::from_rows(d, table)),
        layers,
        final_norm: vector("model.norm.weight")?,
        unembedding,
        rope: RopeTable::new(&config.inverse_frequencies(), config.max_positions),
    })
}
