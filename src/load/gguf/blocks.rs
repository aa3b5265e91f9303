//! Blocks of quantised numbers that the library does not read.

use half::f16;

/// Values of four bits in the IQ4 types.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of four bits (two of exponent, one of mantissa) in MXFP4.
const FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// A type of tensors whose values follow from a table or from digits. The other types of llama.cpp (IQ1 to IQ3) choose from
/// grids of hundreds of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    Iq4Nl,
    Iq4Xs,
    Tq1,
    Tq2,
    Mxfp4,
}

impl Blocks {
    /// By the number in files.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Some(match number {
            20 => Self::Iq4Nl,
            23 => Self::Iq4Xs,
            34 => Self::Tq1,
            35 => Self::Tq2,
            39 => Self::Mxfp4,
            _ => return None,
        })
    }

    /// Numbers of a block.
    pub(super) fn numbers(self) -> usize {
        match self {
            Self::Iq4Nl | Self::Mxfp4 => 32,
            Self::Iq4Xs | Self::Tq1 | Self::Tq2 => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Iq4Nl => 18,
            Self::Iq4Xs => 136,
            Self::Tq1 => 54,
            Self::Tq2 => 66,
            Self::Mxfp4 => 17,
        }
    }

    /// The numbers of whole blocks.
    pub(super) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(bytes.len() / self.bytes() * self.numbers());
        for block in bytes.chunks_exact(self.bytes()) {
            match self {
                Self::Iq4Nl => nibbles(&block[2..], half_at(block, 0), &IQ4, &mut out),
                Self::Mxfp4 => nibbles(&block[1..], half_power(block[0]), &FP4, &mut out),
                Self::Iq4Xs => {
                    let (scale, high) = (half_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
                    for (i, part) in block[8..].chunks_exact(16).enumerate() {
                        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
                        let own = i32::from(low) + (i32::from(high >> (2 * i) & 3) << 4) - 32;
                        nibbles(part, scale * own as f32, &IQ4, &mut out);
                    }
                }
                Self::Tq1 => {
                    let scale = half_at(block, 52);
                    // Five digits to a byte, as a fraction of 256: multiplying brings the next one to the front.
                    for (digits, powers) in [(0..32, 5), (32..48, 5), (48..52, 4)] {
                        for power in [1_u8, 3, 9, 27, 81].into_iter().take(powers) {
                            let digit =
                                |byte: &u8| f32::from((u16::from(byte.wrapping_mul(power)) * 3) >> 8) - 1.0;
                            out.extend(block[digits.clone()].iter().map(|byte| scale * digit(byte)));
                        }
                    }
                }
                Self::Tq2 => {
                    let scale = half_at(block, 64);
                    for part in block[..64].chunks_exact(32) {
                        for shift in [0, 2, 4, 6] {
                            let digit = |byte: &u8| f32::from(byte >> shift & 3) - 1.0;
                            out.extend(part.iter().map(|byte| scale * digit(byte)));
                        }
                    }
                }
            }
        }
        out
    }
}

/// Two numbers a byte: all low halves, then all high ones.
fn nibbles(bytes: &[u8], scale: f32, values: &[i8; 16], out: &mut Vec<f32>) {
    for shift in [0, 4] {
        out.extend(bytes.iter().map(|byte| scale * f32::from(values[usize::from(byte >> shift & 15)])));
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Half of two to the power `exponent - 127`, for values that are doubled.
fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}
