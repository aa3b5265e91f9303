//! What a block is made of, as data: the loader brings the weights that it names, the decoder computes what it says.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::rope::Rope;

/// What the blocks of a model are made of.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct BlockShape {
    /// The norm before attention, before the MLP and before the unembedding.
    pub norm: NormShape,
    /// How a token knows its position.
    pub positions: PositionShape,
    /// Which linear layers have a bias.
    pub bias: Biases,
    /// Whether each head of q and k is RMS-normed before it is rotated (Qwen3).
    pub head_norms: bool,
    /// What the MLP computes.
    pub mlp: MlpShape,
}

/// A norm with its constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct NormShape {
    /// Which norm.
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    pub eps: f64,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
}

/// How a token knows its position.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum PositionShape {
    /// Rotations of q and k.
    Rope(Rope),
    /// A vector for each position, added to the token's embedding.
    Learned,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Biases {
    /// Projections of q, k and v (Qwen2).
    pub qkv: bool,
    /// Attention's output projection.
    pub attention_output: bool,
    /// Both layers of the MLP.
    pub mlp: bool,
}

/// What an MLP computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpShape {
    /// `silu(x G^T) * (x U^T)`, projected down.
    GatedSilu,
    /// `gelu(x U^T + b)`, projected down; GELU by its approximation with tanh (`gelu_new`).
    GeluTanh,
}

impl Biases {
    /// None at all.
    pub const NONE: Biases = Biases { qkv: false, attention_output: false, mlp: false };
    /// Of every linear layer.
    pub const ALL: Biases = Biases { qkv: true, attention_output: true, mlp: true };
}

impl MlpShape {
    /// Whether the activation of one projection multiplies another.
    pub const fn has_gate(self) -> bool {
        matches!(self, MlpShape::GatedSilu)
    }

    /// Matrices `[rows, f]` that it is computed in: where something looks at the gate before it is activated, it has one of its own.
    pub const fn buffers(self) -> usize {
        if self.has_gate() { 2 } else { 1 }
    }

    /// Weight matrices, `[f, d]` or `[d, f]` each.
    pub const fn matrices(self) -> usize {
        match self {
            MlpShape::GatedSilu => 3,
            MlpShape::GeluTanh => 2,
        }
    }
}
