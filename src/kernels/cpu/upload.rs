//! Weights as the CPU keeps them: packed in the compute dtype; embeddings rounded to it and vectors, in f32.

use std::sync::Arc;

use mediant_arithmetic::rows;
use rayon::prelude::*;

use super::{Cpu, Matrix, PackedWeight, Table};
use crate::kernels::OutOfMemory;
use crate::kernels::upload::{Piece, Upload};

impl Upload for Cpu {
    fn weight(&self, piece: &Piece<'_>) -> Result<PackedWeight, OutOfMemory> {
        let row = |row: usize, out: &mut [f32]| piece.row(row, out);
        Ok(self.pool.install(|| PackedWeight::from_rows(&row, piece.rows, piece.columns, self.dtype)))
    }

    fn stack(&self, pieces: &[Piece<'_>]) -> Result<Vec<PackedWeight>, OutOfMemory> {
        pieces.iter().map(|piece| self.weight(piece)).collect()
    }

    fn table(&self, piece: &Piece<'_>, first: u32) -> Result<Table, OutOfMemory> {
        let mut numbers = vec![0.0; piece.rows * piece.columns];
        let lines = numbers.par_chunks_exact_mut(piece.columns).enumerate();
        let dtype = self.dtype;
        self.pool.install(|| {
            lines.for_each(|(row, out)| {
                piece.row(row, out);
                rows::round(dtype, out);
            });
        });
        Ok(Table { rows: Arc::new(Matrix::from_rows(piece.columns, numbers)), first })
    }

    fn vector(&self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, OutOfMemory> {
        Ok(pieces.iter().flat_map(Piece::to_f32).collect())
    }
}
