//! Weights on their way to the device: copied as they are where the checkpoint has the device's dtype, else rounded on the
//! host; dummy weights are made on the device.

use std::borrow::Cow;

use half::{bf16, f16};

use super::Cuda;
use super::device::{Arg, Buffer, Shape};
use crate::kernels::upload::{Content, Made, Numbers, Piece, Upload};
use crate::kernels::{OutOfMemory, RopeTable};
use crate::spec::dtype::Dtype;

/// A weight `[outputs, inputs]`.
pub struct Weight {
    buffer: Buffer,
    outputs: usize,
    inputs: usize,
}

/// Weights over one another.
pub struct Stack {
    pub(super) weight: Weight,
    /// Dimension of a head, for stacks of heads.
    dim: usize,
}

/// A rank's rows of the embedding.
pub struct Table {
    weight: Weight,
    first: u32,
}

/// Numbers in f32.
pub struct Vector(Buffer);

/// Cosines and sines, `[positions, dim / 2]` each.
pub struct Rope {
    cosines: Buffer,
    sines: Buffer,
    half: usize,
}

impl Weight {
    pub(super) fn start(&self) -> Arg {
        self.buffer.arg()
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }
}

impl Stack {
    /// The weights over one another.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }
}

impl Table {
    pub(super) fn start(&self) -> Arg {
        self.weight.start()
    }

    pub(super) fn first(&self) -> u32 {
        self.first
    }

    pub(super) fn own(&self) -> u32 {
        self.weight.outputs as u32
    }
}

impl Vector {
    pub(super) fn start(&self) -> Arg {
        self.0.arg()
    }
}

impl Rope {
    pub(super) fn cosines(&self) -> Arg {
        self.cosines.arg()
    }

    pub(super) fn sines(&self) -> Arg {
        self.sines.arg()
    }

    pub(super) fn dim(&self) -> usize {
        2 * self.half
    }
}

impl Upload for Cuda {
    fn weight(&self, piece: &Piece<'_>) -> Result<Weight, OutOfMemory> {
        self.stacked(std::slice::from_ref(piece))
    }

    fn stack(&self, pieces: &[Piece<'_>]) -> Result<Stack, OutOfMemory> {
        let weight = self.stacked(pieces)?;
        self.widest_stack.set(self.widest_stack.get().max(weight.outputs));
        Ok(Stack { weight, dim: self.head_dim })
    }

    fn table(&self, piece: &Piece<'_>, first: u32) -> Result<Table, OutOfMemory> {
        Ok(Table { weight: self.weight(piece)?, first })
    }

    fn vector(&self, pieces: &[Piece<'_>]) -> Result<Vector, OutOfMemory> {
        let numbers: Vec<f32> = pieces.iter().flat_map(Piece::to_f32).collect();
        self.floats(&numbers).map(Vector)
    }
}

impl Cuda {
    pub(super) fn rope_of(&self, table: &RopeTable) -> Result<Rope, OutOfMemory> {
        let (cosines, sines) = (self.floats(&table.cos)?, self.floats(&table.sin)?);
        Ok(Rope { cosines, sines, half: table.half })
    }

    fn floats(&self, numbers: &[f32]) -> Result<Buffer, OutOfMemory> {
        let buffer = self.device.allocate(4 * numbers.len())?;
        self.device.upload(numbers, &buffer, 0);
        Ok(buffer)
    }

    fn stacked(&self, pieces: &[Piece<'_>]) -> Result<Weight, OutOfMemory> {
        let inputs = pieces.first().map_or(0, |piece| piece.columns);
        let outputs: usize = pieces.iter().map(|piece| piece.rows).sum();
        let element = self.dtype.bytes() as usize;
        let buffer = self.device.allocate(outputs * inputs * element)?;
        let mut at = 0;
        for piece in pieces {
            match &piece.content {
                Content::Made(made) => self.make(made, piece.rows, piece.columns, buffer.at(at)),
                Content::Numbers(numbers) => match self.dtype {
                    Dtype::F32 => self.device.upload(&as_f32(numbers), &buffer, at),
                    Dtype::Bf16 => self.device.upload(&as_bf16(numbers), &buffer, at),
                    Dtype::F16 => self.device.upload(&as_f16(numbers), &buffer, at),
                },
            }
            at += piece.rows * piece.columns * element;
        }
        Ok(Weight { buffer, outputs, inputs })
    }

    pub(super) fn make(&self, made: &Made, rows: usize, columns: usize, out: Arg) {
        let args = [
            out,
            made.key.into(),
            made.mean.into(),
            made.std.into(),
            u32::from(made.bf16).into(),
            (rows as u64).into(),
            (columns as u64).into(),
            (made.first_row as u64).into(),
            (made.first_column as u64).into(),
            (made.width as u64).into(),
        ];
        self.device.launch("make", Shape::items(rows * columns), args);
        // A weight is used by whoever comes next, on any stream.
        self.device.synchronize();
    }
}

fn as_f32<'a>(numbers: &'a Numbers<'_>) -> Cow<'a, [f32]> {
    match numbers {
        Numbers::F32(x) => Cow::Borrowed(x),
        Numbers::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
        Numbers::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
    }
}

fn as_bf16<'a>(numbers: &'a Numbers<'_>) -> Cow<'a, [bf16]> {
    match numbers {
        Numbers::F32(x) => x.iter().map(|x| bf16::from_f32(*x)).collect(),
        Numbers::Bf16(x) => Cow::Borrowed(x),
        Numbers::F16(x) => x.iter().map(|x| bf16::from_f32(x.to_f32())).collect(),
    }
}

fn as_f16<'a>(numbers: &'a Numbers<'_>) -> Cow<'a, [f16]> {
    match numbers {
        Numbers::F32(x) => x.iter().map(|x| f16::from_f32(*x)).collect(),
        Numbers::Bf16(x) => x.iter().map(|x| f16::from_f32(x.to_f32())).collect(),
        Numbers::F16(x) => Cow::Borrowed(x),
    }
}
