//! A rank's weights on its device.

use std::ops::Range;

use super::shard::Shard;
use super::turns;
use crate::kernels::upload::{Piece, Upload};
use crate::kernels::{Kernels, OutOfMemory, Projections};

/// One block.
pub struct Layer<K: Kernels> {
    /// Before attention.
    pub attention_norm: K::Vector,
    /// Query, key and value projections.
    pub qkv: Projections<K>,
    /// Output projection, `[d, h*e]`.
    pub o: K::Weight,
    /// Before the MLP.
    pub mlp_norm: K::Vector,
    /// Gate projection over up projection, `[2*f, d]`.
    pub gate_up: K::Stack,
    /// Down projection, `[d, f]`.
    pub down: K::Weight,
}

/// All weights of a rank.
pub struct Weights<K: Kernels> {
    /// Token embedding, `[own vocabulary, d]`.
    pub embedding: K::Table,
    /// The blocks.
    pub layers: Vec<Layer<K>>,
    /// Before the unembedding.
    pub final_norm: K::Vector,
    /// `[own vocabulary, d]`; the embedding itself when tied.
    pub unembedding: K::Weight,
    /// Rotary tables for every position the model takes.
    pub rope: K::Rope,
}

#[cfg(feature = "cuda")]
impl Weights<crate::kernels::cuda::Cuda> {
    /// One weight of each shape that is multiplied with, and whether its product is unembedded: what
    /// [`crate::kernels::cuda::Cuda::probe`] wants to know.
    pub fn products(&self) -> Vec<(&crate::kernels::cuda::Weight, bool)> {
        let layer = self.layers.first();
        let of_layer = layer.map(|l| [l.qkv.stack.weight(), &l.o, l.gate_up.weight(), &l.down]);
        let linear = of_layer.into_iter().flatten().map(|weight| (weight, false));
        linear.chain([(&self.unembedding, true)]).collect()
    }
}

/// Loads a rank's weights onto its device. `part` gives rows and columns of a checkpoint's tensor by its Hugging Face name, in the
/// shape that the configuration implies (a vector has one column); `progress` is told the number of blocks done after each.
pub fn load<'a, K, E>(
    kernels: &K,
    shard: &Shard,
    part: impl Fn(&str, Range<usize>, Range<usize>) -> Result<Piece<'a>, E>,
    progress: impl Fn(usize),
) -> Result<Weights<K>, E>
where
    K: Upload,
    E: From<OutOfMemory>,
{
    let config = shard.config();
    let (d, e) = (config.hidden_size, config.head_dim);
    let heads = |of: &Range<usize>| of.start * e..of.end * e;
    let (q, kv, f) = (heads(&shard.heads), heads(&shard.kv_heads), shard.mlp.clone());
    let vector = |name: &str, rows: Range<usize>| part(name, rows, 0..1);
    let norm = |name: &str, width: usize| Ok::<_, E>(kernels.vector(&[vector(name, 0..width)?])?);
    let tokens = |name: &str| part(name, shard.vocabulary.clone(), 0..d);
    let layer = |l: usize| {
        let name = |part: &str| format!("model.layers.{l}.{part}");
        let rows = |tensor: &str, rows: &Range<usize>| part(&name(tensor), rows.clone(), 0..d);
        let columns = |tensor: &str, columns: &Range<usize>| part(&name(tensor), 0..d, columns.clone());
        let projections = [("q_proj", &q), ("k_proj", &kv), ("v_proj", &kv)];
        let weight = |(of, own): (&str, &Range<usize>)| rows(&format!("self_attn.{of}.weight"), own);
        let bias =
            |(of, own): (&str, &Range<usize>)| vector(&name(&format!("self_attn.{of}.bias")), own.clone());
        let biases = || -> Result<_, E> {
            let biases = projections.into_iter().map(bias).collect::<Result<Vec<_>, E>>()?;
            Ok(kernels.vector(&biases)?)
        };
        let norms = || {
            let norm = |of: &str| norm(&name(&format!("self_attn.{of}.weight")), e);
            Ok::<_, E>((norm("q_norm")?, norm("k_norm")?))
        };
        let layer = Layer {
            attention_norm: norm(&name("input_layernorm.weight"), d)?,
            qkv: Projections {
                stack: kernels.stack(&projections.into_iter().map(weight).collect::<Result<Vec<_>, E>>()?)?,
                bias: config.qkv_bias.then(biases).transpose()?,
                norms: config.qk_norm.then(norms).transpose()?,
            },
            o: kernels.weight(&columns("self_attn.o_proj.weight", &q)?)?,
            mlp_norm: norm(&name("post_attention_layernorm.weight"), d)?,
            gate_up: kernels.stack(&[rows("mlp.gate_proj.weight", &f)?, rows("mlp.up_proj.weight", &f)?])?,
            down: kernels.weight(&columns("mlp.down_proj.weight", &f)?)?,
        };
        progress(l + 1);
        Ok::<_, E>(layer)
    };
    let embedding = tokens("model.embed_tokens.weight")?;
    let unembedding = if config.tie_word_embeddings {
        kernels.weight(&embedding)?
    } else {
        kernels.weight(&tokens("lm_head.weight")?)?
    };
    let rope = turns::of_all(config);
    Ok(Weights {
        embedding: kernels.table(&embedding, shard.vocabulary.start as u32)?,
        layers: (0..config.num_layers).map(layer).collect::<Result<_, E>>()?,
        final_norm: norm("model.norm.weight", d)?,
        unembedding,
        rope: kernels.rope_table(&rope)?,
    })
}
