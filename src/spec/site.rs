//! Where in the model a value can be read or written.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place in the forward pass, named as in the field (`README.md` lists the peers' names).
///
/// The order is the order of computation inside a layer, so sites of one layer compare by time.
/// Shapes are per position: `d` hidden size, `h` query heads, `e` head dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Token embedding, `[d]`. Has no layer.
    Embed,
    /// Residual stream entering the block, `[d]`; equals `resid_post` of the layer before.
    ResidPre,
    /// Attention-weighted values before the output projection, `[h, e]`: the per-head site.
    Z,
    /// Attention sublayer's output, after the output projection, `[d]`.
    AttnOut,
    /// Residual stream after attention was added, `[d]`.
    ResidMid,
    /// MLP's output, `[d]`.
    MlpOut,
    /// Residual stream leaving the block, `[d]` (the "hidden state" of the layer).
    ResidPost,
}

impl Site {
    /// Every site, in the order of computation.
    pub const ALL: [Site; 7] =
        [Site::Embed, Site::ResidPre, Site::Z, Site::AttnOut, Site::ResidMid, Site::MlpOut, Site::ResidPost];

    /// The name used on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Site::Embed => "embed",
            Site::ResidPre => "resid_pre",
            Site::Z => "z",
            Site::AttnOut => "attn_out",
            Site::ResidMid => "resid_mid",
            Site::MlpOut => "mlp_out",
            Site::ResidPost => "resid_post",
        }
    }

    /// Whether `heads` may be named here.
    pub const fn has_heads(self) -> bool {
        matches!(self, Site::Z)
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
