//! Packed rows in host memory.

use std::sync::Arc;

/// `[rows, columns]` in row-major order. The storage only grows, so that a buffer used layer after layer is mapped once.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    columns: usize,
    rows: usize,
    storage: Vec<f32>,
    /// Whether numbers stay in f32 whatever the compute dtype is.
    full_precision: bool,
}

impl Matrix {
    /// No rows of this width.
    pub fn new(columns: usize) -> Matrix {
        Matrix { columns, rows: 0, storage: Vec::new(), full_precision: false }
    }

    /// The same for numbers that are never rounded to the compute dtype.
    pub fn full_precision(columns: usize) -> Matrix {
        Matrix { full_precision: true, ..Matrix::new(columns) }
    }

    /// Whether numbers stay in f32 whatever the compute dtype is.
    pub fn is_full_precision(&self) -> bool {
        self.full_precision
    }

    /// A matrix of given numbers, `[rows, columns]`.
    pub fn from_rows(columns: usize, data: Vec<f32>) -> Matrix {
        Matrix { columns, rows: data.len() / columns, storage: data, full_precision: false }
    }

    /// Rows of zeros. The system finds memory for them only as they are written.
    pub fn zeros(columns: usize, rows: usize) -> Matrix {
        Matrix { columns, rows, storage: vec![0.0; rows * columns], full_precision: false }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All numbers.
    pub fn data(&self) -> &[f32] {
        &self.storage[..self.rows * self.columns]
    }

    /// All numbers.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.storage[..self.rows * self.columns]
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.columns..][..self.columns]
    }

    /// One row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let columns = self.columns;
        &mut self.data_mut()[row * columns..][..columns]
    }

    /// Changes the number of rows; the contents of rows that were not there before are unspecified.
    pub fn set_rows(&mut self, rows: usize) {
        self.rows = rows;
        if self.storage.len() < rows * self.columns {
            self.storage.resize(rows * self.columns, 0.0);
        }
    }

    /// `out[i] = self[rows[i]]`
    pub fn gather(&self, rows: &[u32], out: &mut Matrix) {
        out.set_rows(rows.len());
        for (out, &row) in out.data_mut().chunks_exact_mut(self.columns).zip(rows) {
            out.copy_from_slice(self.row(row as usize));
        }
    }

    /// Appends copies of rows.
    pub fn append(&mut self, rows: &[u32]) {
        let (old, columns) = (self.rows, self.columns);
        self.set_rows(old + rows.len());
        for (i, &row) in rows.iter().enumerate() {
            let start = row as usize * columns;
            self.storage.copy_within(start..start + columns, (old + i) * columns);
        }
    }
}

/// A rank's rows of the embedding, `[own vocabulary, hidden]`. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct Table {
    /// One for each token owned.
    pub rows: Arc<Matrix>,
    /// The first token owned.
    pub first: u32,
}

impl Table {
    /// `out[i]` = row of `tokens[i]`; zeros where it is another rank's.
    pub fn look_up(&self, tokens: &[u32], out: &mut Matrix) {
        out.set_rows(tokens.len());
        for (out, token) in out.data_mut().chunks_exact_mut(self.rows.columns()).zip(tokens) {
            match token.checked_sub(self.first) {
                Some(own) if (own as usize) < self.rows.rows() => {
                    out.copy_from_slice(self.rows.row(own as usize));
                }
                _ => out.fill(0.0),
            }
        }
    }
}
