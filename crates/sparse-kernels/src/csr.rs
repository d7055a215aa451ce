//! A sparse matrix on the host: pattern and values.

use std::sync::Arc;

use crate::{CsrPattern, Element, FormatError};

/// A CSR matrix: a shared [`CsrPattern`] and one value per stored entry, in storage order.
///
/// ```
/// use std::sync::Arc;
/// use sparse_kernels::{Csr, CsrPattern};
/// let pattern = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1])?);
/// let w = Csr::new(pattern, vec![1.0f32, 2.0, 3.0])?;
/// assert_eq!(w.to_dense(), [1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
/// # Ok::<(), sparse_kernels::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Csr<T: Element = f32> {
    pattern: Arc<CsrPattern>,
    values: Vec<T>,
}

impl<T: Element> Csr<T> {
    /// Joins a pattern and its values.
    ///
    /// # Errors
    /// [`FormatError::ValuesLength`] unless there is one value per stored entry.
    pub fn new(pattern: Arc<CsrPattern>, values: Vec<T>) -> Result<Self, FormatError> {
        if values.len() != pattern.nnz() {
            return Err(FormatError::ValuesLength { nnz: pattern.nnz(), got: values.len() });
        }
        Ok(Self { pattern, values })
    }

    /// The pattern.
    pub fn pattern(&self) -> &Arc<CsrPattern> {
        &self.pattern
    }

    /// The stored values.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The stored values, to change in place.
    pub fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }

    /// The whole matrix, row-major, zeros included: for tests and export.
    pub fn to_dense(&self) -> Vec<T> {
        let mut dense = vec![T::default(); self.pattern.nrows() * self.pattern.ncols()];
        for ((row, column), &value) in self.pattern.positions().zip(&self.values) {
            dense[row as usize * self.pattern.ncols() + column as usize] = value;
        }
        dense
    }
}
