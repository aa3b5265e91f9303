//! Where in the model a value can be read or written.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place in the forward pass, named as in the field (`README.md` lists the peers' names).
///
/// The order is the order of computation inside a layer, so sites of one layer compare by time: keys and values come
/// before queries, because other positions see them.
/// Shapes are per position: `d` hidden size, `f` MLP width, `h` query heads, `k` key/value heads, `e` head dimension, `t`
/// keys (the position itself and those before it), `v` vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Token embedding, `[d]`. Has no layer.
    Embed,
    /// Residual stream entering the block, `[d]`; equals `resid_post` of the layer before.
    ResidPre,
    /// What q, k and v are projected from: `resid_pre` after the RMS norm, `[d]`.
    AttnIn,
    /// Keys before RoPE (after the head norm of models that have one), `[k, e]`.
    K,
    /// Values, `[k, e]`.
    V,
    /// Keys after RoPE, `[k, e]`.
    KRope,
    /// Queries before RoPE (after the head norm of models that have one), `[h, e]`.
    Q,
    /// Queries after RoPE, `[h, e]`.
    QRope,
    /// Scaled scores of the position's query with each key, before the softmax, `[h, t]`.
    Scores,
    /// Attention weights: softmax of the scores, `[h, t]`.
    Pattern,
    /// Attention-weighted values before the output projection, `[h, e]`: the per-head site.
    Z,
    /// Each head's share of `attn_out`, `z_h W_O,h`, `[h, d]`; computed where it is asked for.
    HeadOut,
    /// Attention sublayer's output, after the output projection, `[d]`.
    AttnOut,
    /// Residual stream after attention was added, `[d]`.
    ResidMid,
    /// What the MLP reads: `resid_mid` after the RMS norm, `[d]`.
    MlpIn,
    /// The MLP's neurons: `silu(gate) * up`, the input of its down projection, `[f]`.
    MlpAct,
    /// MLP's output, `[d]`.
    MlpOut,
    /// Residual stream leaving the block, `[d]` (the "hidden state" of the layer).
    ResidPost,
    /// The last residual stream after the final RMS norm, `[d]`. Has no layer.
    FinalNorm,
    /// Logits, `[v]`. Has no layer; read only.
    Logits,
}

/// Which heads a per-head site is divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// Query heads.
    Query,
    /// Key/value heads, each shared by a group of query heads.
    KeyValue,
}

impl Site {
    /// Every site, in the order of computation.
    pub const ALL: [Site; 20] = [
        Site::Embed,
        Site::ResidPre,
        Site::AttnIn,
        Site::K,
        Site::V,
        Site::KRope,
        Site::Q,
        Site::QRope,
        Site::Scores,
        Site::Pattern,
        Site::Z,
        Site::HeadOut,
        Site::AttnOut,
        Site::ResidMid,
        Site::MlpIn,
        Site::MlpAct,
        Site::MlpOut,
        Site::ResidPost,
        Site::FinalNorm,
        Site::Logits,
    ];

    /// The name used on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Site::Embed => "embed",
            Site::ResidPre => "resid_pre",
            Site::AttnIn => "attn_in",
            Site::K => "k",
            Site::V => "v",
            Site::KRope => "k_rope",
            Site::Q => "q",
            Site::QRope => "q_rope",
            Site::Scores => "scores",
            Site::Pattern => "pattern",
            Site::Z => "z",
            Site::HeadOut => "head_out",
            Site::AttnOut => "attn_out",
            Site::ResidMid => "resid_mid",
            Site::MlpIn => "mlp_in",
            Site::MlpAct => "mlp_act",
            Site::MlpOut => "mlp_out",
            Site::ResidPost => "resid_post",
            Site::FinalNorm => "final_norm",
            Site::Logits => "logits",
        }
    }

    /// The heads that the site is divided into.
    pub const fn heads(self) -> Option<HeadKind> {
        match self {
            Site::Q | Site::QRope | Site::Scores | Site::Pattern | Site::Z | Site::HeadOut => {
                Some(HeadKind::Query)
            }
            Site::K | Site::V | Site::KRope => Some(HeadKind::KeyValue),
            _ => None,
        }
    }

    /// Whether `heads` may be named here.
    pub const fn has_heads(self) -> bool {
        self.heads().is_some()
    }

    /// Whether the site stands once in every layer.
    pub const fn has_layer(self) -> bool {
        !matches!(self, Site::Embed | Site::FinalNorm | Site::Logits)
    }

    /// Whether the site's columns are keys: other positions of the prompt.
    pub const fn is_over_keys(self) -> bool {
        matches!(self, Site::Scores | Site::Pattern)
    }

    /// Whether values can be written here.
    pub const fn is_editable(self) -> bool {
        !matches!(self, Site::Logits)
    }

    /// Whether the site is the residual stream itself, i.e. all of a position's state at that point.
    pub const fn is_residual(self) -> bool {
        matches!(self, Site::Embed | Site::ResidPre | Site::ResidMid | Site::ResidPost)
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
