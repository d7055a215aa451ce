//! What a file holds.

use std::sync::Arc;

use sparse_kernels::{Csr, CsrPattern, FormatError};

use super::entries;
use super::error::ContentError;

/// A matrix as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Stored entries and their values.
    Sparse(Csr<f32>),
    /// Stored entries alone.
    Pattern(CsrPattern),
    /// All entries.
    Dense(DenseMatrix),
}

impl Matrix {
    /// Rows of the matrix.
    pub fn nrows(&self) -> usize {
        match self {
            Self::Sparse(matrix) => matrix.pattern().nrows(),
            Self::Pattern(pattern) => pattern.nrows(),
            Self::Dense(matrix) => matrix.nrows,
        }
    }

    /// Columns of the matrix.
    pub fn ncols(&self) -> usize {
        match self {
            Self::Sparse(matrix) => matrix.pattern().ncols(),
            Self::Pattern(pattern) => pattern.ncols(),
            Self::Dense(matrix) => matrix.ncols,
        }
    }

    /// The stored entries; of a dense matrix, those that are not zero.
    ///
    /// # Errors
    /// [`FormatError`] if a dense matrix is larger than 32-bit indices allow.
    pub fn into_pattern(self) -> Result<CsrPattern, FormatError> {
        match self {
            Self::Sparse(matrix) => Ok(Arc::unwrap_or_clone(Arc::clone(matrix.pattern()))),
            Self::Pattern(pattern) => Ok(pattern),
            Self::Dense(matrix) => matrix.pattern(),
        }
    }

    /// For messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Sparse(_) => "sparse matrix",
            Self::Pattern(_) => "pattern",
            Self::Dense(_) => "dense matrix",
        }
    }
}

/// A matrix with every entry, row-major: `values[row · ncols + column]`, `values.len() == nrows · ncols`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseMatrix {
    pub(super) nrows: usize,
    pub(super) ncols: usize,
    pub(super) values: Vec<f32>,
}

impl DenseMatrix {
    /// Joins a shape and its values.
    ///
    /// # Errors
    /// [`ContentError::DenseLength`] unless there are `nrows · ncols` values.
    pub fn new(nrows: usize, ncols: usize, values: Vec<f32>) -> Result<Self, ContentError> {
        match nrows.checked_mul(ncols) {
            Some(length) if length == values.len() => Ok(Self { nrows, ncols, values }),
            _ => Err(ContentError::DenseLength { nrows, ncols, got: values.len() }),
        }
    }

    /// As [`Self::new`], from values whose columns stand one after another.
    pub(super) fn from_columns(nrows: usize, ncols: usize, values: &[f32]) -> Result<Self, ContentError> {
        let mut by_row = Vec::with_capacity(values.len());
        // Without values there is nothing to do, whatever the number of rows.
        for row in 0..if values.is_empty() { 0 } else { nrows } {
            by_row.extend(values.iter().skip(row).step_by(nrows));
        }
        Self::new(nrows, ncols, by_row)
    }

    /// Rows of the matrix.
    pub fn nrows(&self) -> usize {
        self.nrows
    }

    /// Columns of the matrix.
    pub fn ncols(&self) -> usize {
        self.ncols
    }

    /// The values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, row after row.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The values of each row; none for a matrix without columns.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.ncols.max(1))
    }

    fn pattern(&self) -> Result<CsrPattern, FormatError> {
        // Both sizes fit before they are used as indices.
        let (nrows, ncols) = (entries::size("nrows", self.nrows as u64)?, entries::size("ncols", self.ncols as u64)?);
        let stored = |row: usize, values: &[f32]| {
            let columns = values.iter().enumerate().filter(|&(_, &value)| value != 0.0);
            columns.map(|(column, _)| (row as u32, column as u32)).collect::<Vec<_>>()
        };
        let positions = self.rows().enumerate().flat_map(|(row, values)| stored(row, values)).collect();
        CsrPattern::from_positions(nrows, ncols, positions)
    }
}
