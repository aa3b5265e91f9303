//! How a device takes weights: in pieces, each the slice of a tensor that a rank owns.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Kernels, OutOfMemory};

/// A slice of a tensor, `[rows, columns]`; of a vector, one column.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// Outputs of a linear layer; the length of a vector.
    pub rows: usize,
    /// Inputs of a linear layer; 1 for a vector.
    pub columns: usize,
    /// What is in it.
    pub content: Content<'a>,
}

/// The numbers of a [`Piece`], or how the device makes them.
#[derive(Debug, Clone)]
pub enum Content<'a> {
    /// From a checkpoint.
    Numbers(Numbers<'a>),
    /// Of a dummy model.
    Made(Made),
}

/// Numbers in the checkpoint's own format, in row-major order; borrowed where they lie in its file just so.
#[derive(Debug, Clone)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Bfloat16.
    Bf16(Cow<'a, [bf16]>),
    /// Half precision.
    F16(Cow<'a, [f16]>),
}

/// A slice of a tensor whose every value is a pure function of a key and its index, so that a device makes it by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Made {
    /// Of the whole tensor.
    pub key: u64,
    /// Mean of the values.
    pub mean: f32,
    /// Their standard deviation.
    pub std: f32,
    /// Whether the values are rounded to bf16, as those of a checkpoint are.
    pub bf16: bool,
    /// First row of the slice.
    pub first_row: usize,
    /// First column of the slice.
    pub first_column: usize,
    /// Columns of the whole tensor.
    pub width: usize,
}

impl Made {
    /// Value of the whole tensor at a row-major index.
    ///
    /// Four 16-bit parts of a counter's hash are added up: an Irwin-Hall sum, bell-shaped, within 3.47 standard deviations, and
    /// exact. The hash is `SplitMix64` (Steele, Lea and Flood 2014), whose n-th output is a function of key and n alone.
    pub fn value(&self, index: u64) -> f32 {
        let mut z = self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
        // The sum has mean 131070 and variance 4 (2^32 - 1) / 12.
        let unit = (sum as i64 - 131_070) as f32 * (1.0 / 37_837.227);
        let value = self.mean + self.std * unit;
        if self.bf16 { bf16::from_f32(value).to_f32() } else { value }
    }

    /// Row `row` of the slice, into `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let first = ((self.first_row + row) * self.width + self.first_column) as u64;
        for (index, out) in (first..).zip(out) {
            *out = self.value(index);
        }
    }
}

impl Piece<'_> {
    /// Row `row` as f32, into `out [columns]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.content {
            Content::Numbers(Numbers::F32(numbers)) => out.copy_from_slice(&numbers[range]),
            Content::Numbers(Numbers::Bf16(numbers)) => numbers[range].convert_to_f32_slice(out),
            Content::Numbers(Numbers::F16(numbers)) => numbers[range].convert_to_f32_slice(out),
            Content::Made(made) => made.row(row, out),
        }
    }

    /// All numbers as f32, row after row.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.rows * self.columns];
        numbers.chunks_exact_mut(self.columns).enumerate().for_each(|(row, out)| self.row(row, out));
        numbers
    }
}

/// A device that weights are loaded onto.
pub trait Upload: Kernels {
    /// A linear layer.
    fn weight(&self, piece: &Piece<'_>) -> Result<Self::Weight, OutOfMemory>;

    /// Linear layers of the same inputs, over one another: `[sum of rows, columns]`.
    fn stack(&self, pieces: &[Piece<'_>]) -> Result<Self::Stack, OutOfMemory>;

    /// Rows of the embedding, those of the tokens from `first` on.
    fn table(&self, piece: &Piece<'_>, first: u32) -> Result<Self::Table, OutOfMemory>;

    /// Vectors, one after the other.
    fn vector(&self, pieces: &[Piece<'_>]) -> Result<Self::Vector, OutOfMemory>;
}
