//! In which number format a model is held and computed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The format of weights and activations. Arithmetic is f32 in all of them; in the half formats each operation's result
/// is rounded, as it would be on a device that stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats: what the CPU is for.
    #[default]
    F32,
    /// bfloat16: half the memory, 8 bits of precision.
    Bf16,
    /// IEEE half: half the memory, 11 bits of precision, overflows at 65504.
    F16,
}

impl Dtype {
    /// Bytes of one weight.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The name used on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The nearest number of this format.
    pub fn rounded(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => half::bf16::from_f32(x).to_f32(),
            Self::F16 => half::f16::from_f32(x).to_f32(),
        }
    }
}
