//! Matrices for the tests of all formats.

use std::sync::Arc;

use proptest::prelude::*;
use sparse_kernels::{Csr, CsrPattern};

use super::{DenseMatrix, Matrix, MatrixFormat};

/// Values whose bits formats lose easily.
const SPECIAL: [u32; 12] = [
    0,
    0x8000_0000, // -0
    1,           // the smallest denormal
    0x007f_ffff, // the largest
    0x0080_0000,
    0x7f7f_ffff, // the largest number
    0x7f80_0000, // ∞
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
    0x3dcc_cccd, // 0.1
    0x4b80_0001, // above 2^24
];

pub fn pattern(nrows: usize, ncols: usize, positions: &[(u32, u32)]) -> Matrix {
    Matrix::Pattern(CsrPattern::from_positions(nrows, ncols, positions.to_vec()).unwrap())
}

/// Entries in storage order.
pub fn sparse(nrows: usize, ncols: usize, entries: &[(u32, u32, f32)]) -> Matrix {
    let positions = entries.iter().map(|&(row, column, _)| (row, column)).collect();
    let pattern = CsrPattern::from_positions(nrows, ncols, positions).unwrap();
    Matrix::Sparse(Csr::new(Arc::new(pattern), entries.iter().map(|entry| entry.2).collect()).unwrap())
}

pub fn dense(nrows: usize, ncols: usize, values: &[f32]) -> Matrix {
    Matrix::Dense(DenseMatrix::new(nrows, ncols, values.to_vec()).unwrap())
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Equal in every bit of every value.
pub fn assert_same(got: &Matrix, expected: &Matrix) {
    match (got, expected) {
        (Matrix::Sparse(got), Matrix::Sparse(expected)) => {
            assert_eq!(got.pattern(), expected.pattern());
            assert_eq!(bits(got.values()), bits(expected.values()));
        }
        (Matrix::Dense(got), Matrix::Dense(expected)) => {
            assert_eq!((got.nrows, got.ncols), (expected.nrows, expected.ncols));
            assert_eq!(bits(&got.values), bits(&expected.values));
        }
        _ => assert_eq!(got, expected),
    }
}

/// The matrix with every NaN the same one: text has no more.
pub fn with_one_nan(mut matrix: Matrix) -> Matrix {
    let values = match &mut matrix {
        Matrix::Sparse(matrix) => matrix.values_mut(),
        Matrix::Dense(matrix) => &mut matrix.values,
        Matrix::Pattern(_) => return matrix,
    };
    values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = f32::NAN);
    matrix
}

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![prop::sample::select(SPECIAL.as_slice()), any::<u32>()].prop_map(f32::from_bits)
}

/// Without rows, without columns, with empty rows, full; every kind.
pub fn any_matrix() -> impl Strategy<Value = Matrix> {
    let shape = (0usize..7, 0usize..7, 0u8..4, 0usize..3);
    shape.prop_flat_map(|(nrows, ncols, chance, kind)| {
        let stored = (0u8..3).prop_map(move |dice| dice < chance);
        prop::collection::vec((stored, any_value()), nrows * ncols).prop_map(move |cells| {
            let entries = cells.iter().enumerate().filter(|(_, cell)| cell.0);
            let entries = entries.map(|(index, cell)| ((index / ncols) as u32, (index % ncols) as u32, cell.1));
            match kind {
                0 => sparse(nrows, ncols, &entries.collect::<Vec<_>>()),
                1 => pattern(nrows, ncols, &entries.map(|(row, column, _)| (row, column)).collect::<Vec<_>>()),
                _ => dense(nrows, ncols, &cells.iter().map(|cell| cell.1).collect::<Vec<_>>()),
            }
        })
    })
}

/// Reading must not panic, and what is read must be writable and readable again.
pub fn check_parsed(format: MatrixFormat, bytes: &[u8]) {
    let Ok(matrix) = format.parse(bytes) else { return };
    let written = format.to_bytes(&matrix).unwrap();
    // A claim of rows that one file backs with its length need not be backed by a shorter one.
    if matrix.nrows() < super::MAX_FREE_ROWS && matrix.ncols() < super::MAX_FREE_ROWS {
        assert_same(&with_one_nan(format.parse(&written).unwrap()), &with_one_nan(matrix));
    }
}
