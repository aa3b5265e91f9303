//! A large matrix of a checkpoint, read where it lies.

use std::sync::Arc;

use rayon::prelude::*;

use crate::load::{LoadError, TensorSource};

/// Numbers that are in memory at once where the whole table is gone through.
const BLOCK: usize = 1 << 22;
/// Columns whose sums one thread keeps.
const COLUMNS: usize = 64;

/// A matrix `[rows, columns]` of a checkpoint. Nothing of it is kept.
pub(super) struct Table {
    tensors: Arc<dyn TensorSource>,
    name: String,
    rows: usize,
    columns: usize,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} [{}, {}])", self.name, self.rows, self.columns)
    }
}

impl Table {
    pub(super) fn new(tensors: &Arc<dyn TensorSource>, name: String, rows: usize, columns: usize) -> Table {
        Table { tensors: Arc::clone(tensors), name, rows, columns }
    }

    /// Rows as f32.
    pub(super) fn read(&self, rows: std::ops::Range<usize>) -> Result<Vec<f32>, LoadError> {
        let piece = self.tensors.part(&self.name, rows, 0..self.columns)?;
        let mut numbers = vec![0.0; piece.rows * piece.columns];
        let out = numbers.par_chunks_exact_mut(piece.columns.max(1)).enumerate();
        out.for_each(|(row, out)| piece.row(row, out));
        Ok(numbers)
    }

    /// One row.
    ///
    /// # Panics
    /// If the checkpoint, which was opened at start, can no longer be read: no request can help it, so what is in the middle
    /// of one is left with the [`LoadError`], and [`super::Service`] answers with that.
    pub(super) fn row(&self, row: usize) -> Vec<f32> {
        self.read_or_leave(row..row + 1)
    }

    fn read_or_leave(&self, rows: std::ops::Range<usize>) -> Vec<f32> {
        self.read(rows).unwrap_or_else(|error| std::panic::resume_unwind(Box::new(error)))
    }

    fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (rows, step) = (self.rows, (BLOCK / self.columns.max(1)).max(1));
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }

    /// `weights [n, rows] * table`, `[n, columns]`. Blocks of columns are computed side by side, each over all rows in
    /// order, so that a number's bits depend on nothing but its row of weights; the table is read once for all of these.
    ///
    /// # Panics
    /// As [`Table::row`].
    pub(super) fn product(&self, weights: &[f64]) -> Vec<f64> {
        let columns = self.columns;
        let n = weights.len() / self.rows;
        if n == 0 {
            return Vec::new();
        }
        // By block of columns, `[n, width]` each.
        let mut sums = vec![0.0; n * columns];
        for rows in self.blocks() {
            let values = self.read_or_leave(rows.clone());
            sums.par_chunks_mut(n * COLUMNS).enumerate().for_each(|(block, sums)| {
                let (first, width) = (block * COLUMNS, sums.len() / n);
                for (row, values) in rows.clone().zip(values.chunks_exact(columns)) {
                    let values = &values[first..first + width];
                    for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                        let weight = weights[i * self.rows + row];
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum += weight * f64::from(*value);
                        }
                    }
                }
            });
        }
        let row = |i: usize| {
            sums.chunks(n * COLUMNS).flat_map(move |sums| {
                let width = sums.len() / n;
                &sums[i * width..(i + 1) * width]
            })
        };
        (0..n).flat_map(row).copied().collect()
    }

    /// Standard deviation of all numbers (n - 1), summed in f64 in their order.
    pub(super) fn sigma(&self) -> Result<f64, LoadError> {
        let n = (self.rows * self.columns) as f64;
        let sum = |of: &dyn Fn(f64) -> f64| -> Result<f64, LoadError> {
            let mut sum = 0.0;
            for rows in self.blocks() {
                self.read(rows)?.iter().for_each(|x| sum += of(f64::from(*x)));
            }
            Ok(sum)
        };
        let mean = sum(&|x| x)? / n;
        let squares = sum(&|x| (x - mean).powi(2))?;
        Ok((squares / (n - 1.0)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    struct Numbers(Tensor);

    impl TensorSource for Numbers {
        fn tensor(&self, _: &str) -> Result<Tensor, LoadError> {
            Ok(self.0.clone())
        }
    }

    fn table(rows: usize, columns: usize, data: &[f32]) -> Table {
        let tensor = Tensor::from_slice(data, (rows, columns), &Device::Cpu).unwrap();
        let tensors: Arc<dyn TensorSource> = Arc::new(Numbers(tensor));
        Table::new(&tensors, "any".to_owned(), rows, columns)
    }

    #[test]
    fn products_with_the_embedding_matrix_are_those_of_the_definition() {
        // 3 columns fill no block, 130 two and a part of a third; the last table is read in several blocks of rows.
        for (n, rows, columns) in [(1, 5, 3), (4, 7, 64), (3, 11, 130), (2, 3, BLOCK / 2)] {
            let numbers = |len: usize, step: usize| (0..len).map(move |i| (i * step % 17) as f64 - 8.0);
            let weights: Vec<f64> = numbers(n * rows, 5).collect();
            let data: Vec<f32> = numbers(rows * columns, 3).map(|x| x as f32).collect();
            let expected: Vec<f64> = (0..n * columns)
                .map(|at| {
                    (0..rows)
                        .map(|r| {
                            weights[at / columns * rows + r] * f64::from(data[r * columns + at % columns])
                        })
                        .sum()
                })
                .collect();
            // Small integers: exact.
            assert_eq!(table(rows, columns, &data).product(&weights), expected);
        }
    }

    #[test]
    fn the_deviation_is_that_of_all_numbers_whatever_the_blocks() {
        let data: Vec<f32> = (0..3 * BLOCK / 2).map(|i| (i % 5) as f32).collect();
        let n = data.len() as f64;
        let mean = data.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let squares = data.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
        let found = table(3, BLOCK / 2, &data).sigma().unwrap();
        assert_eq!(found.to_bits(), (squares / (n - 1.0)).sqrt().to_bits());
    }
}
