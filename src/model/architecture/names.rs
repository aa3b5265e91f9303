//! Roles of tensors, and what checkpoints call them.

use super::Family;
use super::block::{MlpShape, NormKind, PositionShape};
use crate::model::config::ModelConfig;
use crate::spec::site::HeadKind;

/// What a tensor is to the model, whatever files call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token embedding, `[v, d]`.
    Embedding,
    /// Embedding of positions, `[positions, d]`.
    Positions,
    /// Norm before attention, `[d]`.
    AttentionNorm,
    /// Projection of queries, `[h*e, d]`.
    Query,
    /// Projection of keys, `[k*e, d]`.
    Key,
    /// Projection of values, `[k*e, d]`.
    Value,
    /// Norm of each query head, `[e]`.
    QueryNorm,
    /// Norm of each key head, `[e]`.
    KeyNorm,
    /// Attention's output projection, `[d, h*e]`.
    AttentionOutput,
    /// Norm before the MLP, `[d]`.
    MlpNorm,
    /// Projection of gates, `[f, d]`.
    Gate,
    /// Projection of neurons, `[f, d]`.
    Up,
    /// The MLP's output projection, `[d, f]`.
    Down,
    /// Norm before the unembedding, `[d]`.
    FinalNorm,
    /// Unembedding, `[v, d]`.
    Unembedding,
}

/// Weight or bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// A matrix, or what a norm multiplies with.
    Weight,
    /// What is added.
    Bias,
}

/// What files call the tensor of a role. Those of the same name lie over one another in one tensor, in the order of the family's
/// list.
#[derive(Debug, Clone, Copy)]
pub struct TensorName {
    role: Role,
    /// In checkpoints of `transformers`, `{}` for the layer; `.weight` or `.bias` follows.
    huggingface: &'static str,
    /// In GGUFs.
    gguf: &'static str,
    /// Whether `transformers` stores the weight `[in, out]`.
    in_by_out: bool,
    /// The heads whose rows GGUFs hold in pairs, as llama.cpp's rotary embedding reads them.
    pairs: Option<HeadKind>,
}

/// Where the tensor of a role lies in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Hugging Face's name of the tensor.
    pub name: String,
    /// Its first row there, `[out, in]`.
    pub first_row: usize,
}

/// A tensor of a model as checkpoints hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Hugging Face's name, by which it is asked for.
    pub name: String,
    /// llama.cpp's.
    pub gguf: String,
    /// What it is to the model; the first role of several.
    pub role: Role,
    /// Weight or bias.
    pub kind: TensorKind,
    /// `[out, in]`, or `[width]`.
    pub shape: Vec<usize>,
    /// Whether `transformers` stores it `[in, out]`.
    pub in_by_out: bool,
    /// Heads whose rows GGUFs hold in pairs.
    pub pairs: Option<usize>,
}

impl TensorKind {
    const ALL: [TensorKind; 2] = [TensorKind::Weight, TensorKind::Bias];

    const fn suffix(self) -> &'static str {
        match self {
            TensorKind::Weight => ".weight",
            TensorKind::Bias => ".bias",
        }
    }
}

impl TensorName {
    pub(super) const fn new(role: Role, huggingface: &'static str, gguf: &'static str) -> TensorName {
        TensorName { role, huggingface, gguf, in_by_out: false, pairs: None }
    }

    pub(super) const fn in_by_out(self) -> TensorName {
        TensorName { in_by_out: true, ..self }
    }

    pub(super) const fn in_pairs(self, heads: HeadKind) -> TensorName {
        TensorName { pairs: Some(heads), ..self }
    }

    fn in_layers(&self) -> bool {
        self.huggingface.contains("{}")
    }

    fn huggingface(&self, layer: usize, kind: TensorKind) -> String {
        filled(self.huggingface, layer, kind)
    }
}

fn filled(stem: &str, layer: usize, kind: TensorKind) -> String {
    stem.replace("{}", &layer.to_string()) + kind.suffix()
}

impl Family {
    /// Hugging Face's name of a tensor that llama.cpp calls so, if it is one of this family's.
    pub fn huggingface_name(&self, gguf: &str) -> Option<String> {
        let (stem, kind) =
            TensorKind::ALL.into_iter().find_map(|kind| Some((gguf.strip_suffix(kind.suffix())?, kind)))?;
        self.names.iter().find_map(|name| {
            let layer = match name.gguf.split_once("{}") {
                None => (stem == name.gguf).then_some(0),
                Some((before, after)) => stem.strip_prefix(before)?.strip_suffix(after)?.parse().ok(),
            };
            Some(name.huggingface(layer?, kind))
        })
    }
}

impl ModelConfig {
    /// Every tensor of the model: those outside of the blocks, then block by block.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        let mut all = self.tensors_of(0, false);
        all.extend((0..self.num_layers).flat_map(|layer| self.tensors_of(layer, true)));
        all
    }

    fn tensors_of(&self, layer: usize, in_layers: bool) -> Vec<StoredTensor> {
        let mut found: Vec<StoredTensor> = Vec::new();
        for name in self.family.names.iter().filter(|name| name.in_layers() == in_layers) {
            for kind in TensorKind::ALL {
                let Some(shape) = self.shape_of(name.role, kind) else { continue };
                let stored = name.huggingface(layer, kind);
                match found.iter_mut().find(|tensor| tensor.name == stored) {
                    Some(tensor) => tensor.shape[0] += shape[0],
                    None => found.push(self.stored(name, layer, kind, shape)),
                }
            }
        }
        found
    }

    fn stored(&self, name: &TensorName, layer: usize, kind: TensorKind, shape: Vec<usize>) -> StoredTensor {
        let heads = |of| match of {
            HeadKind::Query => self.num_heads,
            HeadKind::KeyValue => self.num_kv_heads,
        };
        StoredTensor {
            name: name.huggingface(layer, kind),
            gguf: filled(name.gguf, layer, kind),
            role: name.role,
            kind,
            in_by_out: name.in_by_out && kind == TensorKind::Weight,
            pairs: name.pairs.filter(|_| kind == TensorKind::Weight).map(heads),
            shape,
        }
    }

    /// Where the tensor of a role lies in a checkpoint; `None` if the model has none.
    pub fn place(&self, role: Role, kind: TensorKind, layer: usize) -> Option<TensorPlace> {
        self.shape_of(role, kind)?;
        let names = self.family.names;
        let at = names.iter().position(|name| name.role == role)?;
        let above = names[..at].iter().filter(|name| name.huggingface == names[at].huggingface);
        let first_row = above.filter_map(|name| Some(self.shape_of(name.role, kind)?[0])).sum();
        Some(TensorPlace { name: names[at].huggingface(layer, kind), first_row })
    }

    /// `[out, in]` or `[width]` of the tensor of a role; `None` if the model has none.
    #[expect(clippy::many_single_char_names, reason = "the letters of the shapes in `Site`")]
    pub fn shape_of(&self, role: Role, kind: TensorKind) -> Option<Vec<usize>> {
        let (d, f, e) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let (q, kv, v) = (self.q_width(), self.kv_width(), self.vocab_size);
        let block = &self.block;
        let norm_bias = block.norm.kind == NormKind::Layer;
        let (exists, shape, has_bias) = match role {
            Role::Embedding => (true, vec![v, d], false),
            Role::Positions => {
                (block.positions == PositionShape::Learned, vec![self.max_positions, d], false)
            }
            Role::AttentionNorm | Role::MlpNorm | Role::FinalNorm => (true, vec![d], norm_bias),
            Role::Query => (true, vec![q, d], block.bias.qkv),
            Role::Key | Role::Value => (true, vec![kv, d], block.bias.qkv),
            Role::QueryNorm | Role::KeyNorm => (block.head_norms, vec![e], false),
            Role::AttentionOutput => (true, vec![d, q], block.bias.attention_output),
            Role::Gate => (block.mlp == MlpShape::GatedSilu, vec![f, d], false),
            Role::Up => (true, vec![f, d], block.bias.mlp),
            Role::Down => (true, vec![d, f], block.bias.mlp),
            Role::Unembedding => (!self.tie_word_embeddings, vec![v, d], false),
        };
        match kind {
            TensorKind::Weight => exists.then_some(shape),
            TensorKind::Bias => (exists && has_bias).then(|| vec![shape[0]]),
        }
    }
}
