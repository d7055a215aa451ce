//! Models for tests.

use std::sync::Arc;

use sparse_kernels::{Bsr, BsrPattern, Csr, CsrPattern};

use crate::models::{StoredLayer, StoredModel, StoredWeight};

/// Values that are easily lost: both zeros, the smallest of all, one without a short decimal form.
const VALUES: [f32; 4] = [0.1, -0.0, 1e-45, -3.4e38];

pub fn sparse(nrows: usize, ncols: usize, positions: &[(u32, u32)]) -> StoredWeight {
    let pattern = CsrPattern::from_positions(nrows, ncols, positions.to_vec()).unwrap();
    let values = (0..pattern.nnz()).map(|e| VALUES[e % 4]).collect();
    StoredWeight::Sparse(Csr::new(Arc::new(pattern), values).unwrap())
}

pub fn dense(nrows: usize, ncols: usize, values: &[f32]) -> StoredWeight {
    StoredWeight::Dense { nrows, ncols, values: values.to_vec() }
}

pub fn layer(name: &str, weight: StoredWeight) -> StoredLayer {
    let bias = (0..weight.shape()[0]).map(|row| VALUES[row % 4]).collect();
    StoredLayer { name: name.to_owned(), weight, bias }
}

/// A sparse layer with an empty row, and a dense one.
pub fn example() -> StoredModel {
    let first = sparse(3, 5, &[(0, 1), (0, 4), (2, 0), (2, 2), (2, 3)]);
    let second = dense(2, 3, &[0.5, 0.0, -0.0, 0.3, 1e-45, -7.0]);
    StoredModel { input: None, layers: vec![layer("fc1", first), layer("fc2", second)], parts: None }
}

/// A layer in blocks that reach beyond its edges, and a dense one.
pub fn blocks() -> StoredModel {
    let pattern = BsrPattern::new(3, 5, [2, 4], vec![0, 1, 3], vec![1, 0, 1]).unwrap();
    let values = (0..pattern.nnz()).map(|e| VALUES[e % 4]).collect();
    let first = StoredWeight::BlockSparse(Bsr::new(Arc::new(pattern), values).unwrap());
    let second = dense(2, 3, &[0.5, 0.0, -0.0, 0.3, 1e-45, -7.0]);
    StoredModel { input: None, layers: vec![layer("fc1", first), layer("fc2", second)], parts: None }
}

/// The same with every layer dense.
pub fn all_dense(model: &StoredModel) -> StoredModel {
    let mut model = model.clone();
    for layer in &mut model.layers {
        let [nrows, ncols] = layer.weight.shape();
        layer.weight = dense(nrows, ncols, &layer.weight.to_dense());
    }
    model
}

/// Equal, signs of zeros included.
#[track_caller]
pub fn assert_same(got: &StoredModel, expected: &StoredModel) {
    assert_eq!(got, expected);
    let bits = |model: &StoredModel| -> Vec<u32> {
        let values = model.layers.iter().flat_map(|layer| layer.weight.values().iter().chain(&layer.bias));
        values.map(|value| value.to_bits()).collect()
    };
    assert_eq!(bits(got), bits(expected));
}
