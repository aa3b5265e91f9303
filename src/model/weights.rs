//! A rank's weights on its device.

use std::ops::Range;

use super::architecture::{MlpShape, NormKind, Role, TensorKind};
use super::config::ModelConfig;
use super::shard::Shard;
use super::turns;
use crate::kernels::upload::{Piece, Upload};
use crate::kernels::{HeadNorms, Kernels, Norm, OutOfMemory, Output, Projections};

/// One block.
pub struct Layer<K: Kernels> {
    /// Before attention.
    pub attention_norm: Norm<K::Vector>,
    /// Query, key and value projections.
    pub qkv: Projections<K>,
    /// Norms of each head of q and of k before RoPE (Qwen3).
    pub head_norms: Option<HeadNorms<K::Vector>>,
    /// Output projection, `[d, h*e]`.
    pub o: Output<K>,
    /// Before the MLP.
    pub mlp_norm: Norm<K::Vector>,
    /// What makes the MLP's neurons.
    pub neurons: Neurons<K>,
    /// Down projection, `[d, f]`.
    pub down: Output<K>,
}

/// What an MLP's neurons are made with.
pub enum Neurons<K: Kernels> {
    /// Gate projection over up projection, `[2*f, d]`.
    Gated(K::Stack),
    /// Up projection, `[f, d]`, and its bias.
    Gelu(K::Stack, Option<K::Vector>),
}

/// What tells a token its position.
pub enum PositionWeights<K: Kernels> {
    /// Rotary tables.
    Rope(K::Rope),
    /// What is added to the embeddings, `[positions, d]`.
    Learned(K::Table),
}

/// All weights of a rank.
pub struct Weights<K: Kernels> {
    /// Token embedding, `[own vocabulary, d]`.
    pub embedding: K::Table,
    /// Positions.
    pub positions: PositionWeights<K>,
    /// The blocks.
    pub layers: Vec<Layer<K>>,
    /// Before the unembedding.
    pub final_norm: Norm<K::Vector>,
    /// `[own vocabulary, d]`; the embedding itself when tied.
    pub unembedding: K::Weight,
}

impl<K: Kernels> Weights<K> {
    /// The rotary tables, of models that have them.
    pub fn rope(&self) -> Option<&K::Rope> {
        match &self.positions {
            PositionWeights::Rope(rope) => Some(rope),
            PositionWeights::Learned(_) => None,
        }
    }
}

impl<K: Kernels> Neurons<K> {
    /// The weights.
    pub fn stack(&self) -> &K::Stack {
        let (Neurons::Gated(stack) | Neurons::Gelu(stack, _)) = self;
        stack
    }
}

#[cfg(feature = "cuda")]
impl Weights<crate::kernels::cuda::Cuda> {
    /// One weight of each shape that is multiplied with, and whether its product is unembedded: what
    /// [`crate::kernels::cuda::Cuda::probe`] wants to know.
    pub fn products(&self) -> Vec<(&crate::kernels::cuda::Weight, bool)> {
        let layer = self.layers.first();
        let of_layer =
            layer.map(|l| [l.qkv.stack.weight(), &l.o.weight, l.neurons.stack().weight(), &l.down.weight]);
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
    let source = Source { kernels, config, part: &part };
    let (d, e) = (config.hidden_size, config.head_dim);
    let heads = |of: &Range<usize>| of.start * e..of.end * e;
    let (q, kv, f) = (heads(&shard.heads), heads(&shard.kv_heads), shard.mlp.clone());
    let layer = |l: usize| {
        let of = |role: Role, own: &Range<usize>| (role, l, own.clone());
        let projections = [of(Role::Query, &q), of(Role::Key, &kv), of(Role::Value, &kv)];
        let head_norms = || {
            let (query, key) = (source.vector(Role::QueryNorm, l, e)?, source.vector(Role::KeyNorm, l, e)?);
            Ok::<_, E>(HeadNorms { query, key, eps: config.block.norm.eps as f32 })
        };
        let layer = Layer {
            attention_norm: source.norm(Role::AttentionNorm, l)?,
            qkv: Projections { stack: source.stack(&projections)?, bias: source.biases(&projections)? },
            head_norms: config.block.head_norms.then(head_norms).transpose()?,
            o: source.output(Role::AttentionOutput, l, &q)?,
            mlp_norm: source.norm(Role::MlpNorm, l)?,
            neurons: match config.block.mlp {
                MlpShape::GatedSilu => Neurons::Gated(source.stack(&[of(Role::Gate, &f), of(Role::Up, &f)])?),
                MlpShape::GeluTanh => {
                    let up = [of(Role::Up, &f)];
                    Neurons::Gelu(source.stack(&up)?, source.biases(&up)?)
                }
            },
            down: source.output(Role::Down, l, &f)?,
        };
        progress(l + 1);
        Ok::<_, E>(layer)
    };
    let tokens = |role: Role| source.piece(role, TensorKind::Weight, 0, shard.vocabulary.clone(), 0..d);
    let embedding = tokens(Role::Embedding)?;
    let unembedding = if config.tie_word_embeddings {
        kernels.weight(&embedding)?
    } else {
        kernels.weight(&tokens(Role::Unembedding)?)?
    };
    let positions = if let Some(table) = turns::of_all(config) {
        PositionWeights::Rope(kernels.rope_table(&table)?)
    } else {
        let rows = source.piece(Role::Positions, TensorKind::Weight, 0, 0..config.max_positions, 0..d)?;
        PositionWeights::Learned(kernels.table(&rows, 0)?)
    };
    Ok(Weights {
        embedding: kernels.table(&embedding, shard.vocabulary.start as u32)?,
        positions,
        layers: (0..config.num_layers).map(layer).collect::<Result<_, E>>()?,
        final_norm: source.norm(Role::FinalNorm, 0)?,
        unembedding,
    })
}

/// A checkpoint by the roles of its tensors, and the device they go to.
struct Source<'s, K, F> {
    kernels: &'s K,
    config: &'s ModelConfig,
    part: &'s F,
}

/// A part's own rows, in a layer.
type OwnRows = (Role, usize, Range<usize>);

impl<'a, K, F, E> Source<'_, K, F>
where
    K: Upload,
    F: Fn(&str, Range<usize>, Range<usize>) -> Result<Piece<'a>, E>,
    E: From<OutOfMemory>,
{
    /// Rows and columns of a part.
    fn piece(
        &self,
        role: Role,
        kind: TensorKind,
        layer: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Piece<'a>, E> {
        let place = self.config.place(role, kind, layer);
        let place = place.expect("BUG: the shape of the block says which parts there are");
        (self.part)(&place.name, place.first_row + rows.start..place.first_row + rows.end, columns)
    }

    /// The whole of a vector.
    fn vector(&self, role: Role, layer: usize, width: usize) -> Result<K::Vector, E> {
        Ok(self.kernels.vector(&[self.piece(role, TensorKind::Weight, layer, 0..width, 0..1)?])?)
    }

    /// A norm over the residual stream.
    fn norm(&self, role: Role, layer: usize) -> Result<Norm<K::Vector>, E> {
        let (d, eps) = (self.config.hidden_size, self.config.block.norm.eps as f32);
        let weight = self.vector(role, layer, d)?;
        Ok(match self.config.block.norm.kind {
            NormKind::Rms => Norm::Rms { weight, eps },
            NormKind::Layer => {
                let bias = self.piece(role, TensorKind::Bias, layer, 0..d, 0..1)?;
                Norm::Layer { weight, bias: self.kernels.vector(&[bias])?, eps }
            }
        })
    }

    /// Own rows of projections of the residual stream, over one another.
    fn stack(&self, parts: &[OwnRows]) -> Result<K::Stack, E> {
        let d = self.config.hidden_size;
        let piece =
            |(role, layer, rows): &OwnRows| self.piece(*role, TensorKind::Weight, *layer, rows.clone(), 0..d);
        let pieces = parts.iter().map(piece).collect::<Result<Vec<_>, E>>()?;
        Ok(self.kernels.stack(&pieces)?)
    }

    /// Their biases, one after the other, if they have any.
    fn biases(&self, parts: &[OwnRows]) -> Result<Option<K::Vector>, E> {
        let has = |(role, ..): &OwnRows| self.config.shape_of(*role, TensorKind::Bias).is_some();
        if !parts.iter().all(has) {
            return Ok(None);
        }
        let piece =
            |(role, layer, rows): &OwnRows| self.piece(*role, TensorKind::Bias, *layer, rows.clone(), 0..1);
        let pieces = parts.iter().map(piece).collect::<Result<Vec<_>, E>>()?;
        Ok(Some(self.kernels.vector(&pieces)?))
    }

    /// A projection to the residual stream: own columns of it, and the whole bias.
    fn output(&self, role: Role, layer: usize, columns: &Range<usize>) -> Result<Output<K>, E> {
        let d = self.config.hidden_size;
        let weight = self.piece(role, TensorKind::Weight, layer, 0..d, columns.clone())?;
        let bias = self.biases(&[(role, layer, 0..d)])?;
        Ok(Output { weight: self.kernels.weight(&weight)?, bias })
    }
}
