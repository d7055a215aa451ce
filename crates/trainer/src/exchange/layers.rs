//! Layers as files name them, and how they become those of a model.

use std::sync::Arc;

use autograd::init::{FanIn, Initializer};
use sparse_kernels::random::Key;
use sparse_kernels::{Csr, CsrPattern, FormatError};

use super::error::{ExchangeError, NotFinite};
use crate::checkpoint::CheckpointError;
use crate::formats::{DenseMatrix, Matrix, MatrixFormat};
use crate::models::{StoredLayer, StoredModel, StoredWeight};

/// A layer that has no place in a model yet.
#[derive(Debug)]
pub(super) struct NamedLayer {
    /// What messages call it.
    pub name: String,
    pub weight: StoredWeight,
    /// Zeros if there is none.
    pub bias: Option<Vec<f32>>,
}

/// Refuses what no network can compute with.
pub(super) fn check_finite(layers: &[NamedLayer]) -> Result<(), NotFinite> {
    layers.iter().try_for_each(|NamedLayer { name, weight, bias }| {
        check_finite_weight(name, weight)?;
        check_finite_vector(name, "bias", bias.as_deref().unwrap_or_default())
    })
}

pub(super) fn check_finite_weight(layer: &str, weight: &StoredWeight) -> Result<(), NotFinite> {
    let Some((index, got)) = first_not_finite(weight.values()) else { return Ok(()) };
    let at = |row: usize, column: usize| format!("row {row}, column {column}");
    let place = match weight {
        StoredWeight::Dense { ncols, .. } => at(index / ncols, index % ncols),
        StoredWeight::Sparse(csr) => match csr.pattern().positions().nth(index) {
            Some((row, column)) => at(row as usize, column as usize),
            None => format!("entry {index}"),
        },
        // Padding has no position in the matrix.
        StoredWeight::BlockSparse(_) => format!("entry {index} of the blocks"),
    };
    Err(NotFinite { layer: layer.to_owned(), what: "weight", place, got })
}

pub(super) fn check_finite_vector(layer: &str, what: &'static str, values: &[f32]) -> Result<(), NotFinite> {
    let Some((index, got)) = first_not_finite(values) else { return Ok(()) };
    Err(NotFinite { layer: layer.to_owned(), what, place: format!("entry {index}"), got })
}

fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

/// The model of these layers, from input to output, named as the trainer names them. A sparse weight that stores every
/// position, one by one or in blocks, becomes a dense one, as the trainer stores it.
///
/// # Errors
/// [`CheckpointError::Mismatch`], by the names that the layers came with, if they do not follow each other.
pub(super) fn chain(layers: Vec<NamedLayer>) -> Result<StoredModel, CheckpointError> {
    let stored = layers.into_iter().map(|NamedLayer { name, weight, bias }| {
        let [nrows, ncols] = weight.shape();
        // A matrix without columns can claim any number of rows; the check refuses it before they take memory.
        let bias = bias.unwrap_or_else(|| vec![0.0; if ncols == 0 { 0 } else { nrows }]);
        StoredLayer { name, weight: dense_if_full(weight), bias }
    });
    let mut model = StoredModel { input: None, layers: stored.collect(), parts: None };
    model.check_chain()?;
    for (index, layer) in model.layers.iter_mut().enumerate() {
        layer.name = model_name(index);
    }
    Ok(model)
}

/// The name of a model's layer, counted from 0; [`Architecture::of`](crate::models::Architecture::of) gives the same.
pub(super) fn model_name(index: usize) -> String {
    format!("fc{}", index + 1)
}

/// A weight that stores every position, one by one or in blocks, as a dense one.
pub(super) fn dense_if_full(weight: StoredWeight) -> StoredWeight {
    let [nrows, ncols] = weight.shape();
    match weight {
        StoredWeight::Sparse(csr) if nrows.checked_mul(ncols) == Some(csr.values().len()) => {
            StoredWeight::Dense { nrows, ncols, values: csr.values().to_vec() }
        }
        StoredWeight::BlockSparse(bsr) if bsr.pattern().nnz_blocks() == positions(bsr.pattern().blocks()) => {
            StoredWeight::Dense { nrows, ncols, values: bsr.to_dense() }
        }
        other => other,
    }
}

/// Positions of a matrix whose sides fit 32 bits.
fn positions(pattern: &CsrPattern) -> usize {
    pattern.nrows() * pattern.ncols()
}

/// The positions of a matrix at which this holds of the row-major index.
pub(super) fn pattern_where(
    nrows: usize,
    ncols: usize,
    holds: impl Fn(usize) -> bool,
) -> Result<CsrPattern, FormatError> {
    let (mut row_offsets, mut col_indices) = (vec![0], Vec::new());
    // A matrix without columns can claim any number of rows.
    for row in 0..if ncols == 0 { 0 } else { nrows } {
        let columns = (0..ncols).filter(|column| holds(row * ncols + column));
        col_indices.extend(columns.map(|column| column as u32));
        row_offsets.push(u32::try_from(col_indices.len()).unwrap_or(u32::MAX));
    }
    CsrPattern::new(nrows, ncols, row_offsets, col_indices)
}

/// The weight of a matrix. A pattern gets the values that a new network of this seed has at its positions.
pub(super) fn weight_of(matrix: Matrix, layer: &str, seed: u64) -> Result<StoredWeight, FormatError> {
    Ok(match matrix {
        Matrix::Sparse(csr) => StoredWeight::Sparse(csr),
        Matrix::Dense(dense) => {
            let (nrows, ncols) = (dense.nrows(), dense.ncols());
            StoredWeight::Dense { nrows, ncols, values: dense.into_values() }
        }
        Matrix::Pattern(pattern) => {
            let key = Key::new(seed).with_name("weight").with_name(layer);
            let values = Initializer::XavierUniform.sparse(&pattern, FanIn::Dense, key);
            StoredWeight::Sparse(Csr::new(pattern.into(), values)?)
        }
    })
}

/// A layer's weight as a format holds it. Without `dense` it is what is stored: a dense layer is a dense matrix where the
/// format has such, and one with every entry stored where it has not.
pub(super) fn matrix_of(layer: &StoredLayer, format: MatrixFormat, dense: bool) -> Result<Matrix, ExchangeError> {
    let [nrows, ncols] = layer.weight.shape();
    let wrong = |reason| ExchangeError::Format { layer: layer.name.clone(), reason };
    let as_dense = match format {
        MatrixFormat::Npy => true,
        MatrixFormat::MatrixMarket => dense || matches!(layer.weight, StoredWeight::Dense { .. }),
        MatrixFormat::Npz | MatrixFormat::Smtx => false,
    };
    Ok(match &layer.weight {
        _ if as_dense => Matrix::Dense(DenseMatrix::new(nrows, ncols, whole(layer)?).expect("it has every position")),
        StoredWeight::Sparse(csr) => Matrix::Sparse(csr.clone()),
        // None of these formats has blocks of its own: all entries of the stored ones, zeros among them.
        StoredWeight::BlockSparse(bsr) => Matrix::Sparse(bsr.to_csr()),
        StoredWeight::Dense { values, .. } => {
            let pattern = Arc::new(CsrPattern::full(nrows, ncols).map_err(wrong)?);
            Matrix::Sparse(Csr::new(pattern, values.clone()).map_err(wrong)?)
        }
    })
}

/// Every position's weight, row-major. A small file can hold a sparse matrix of any size, so a lack of memory is an error
/// here.
pub(super) fn whole(layer: &StoredLayer) -> Result<Vec<f32>, ExchangeError> {
    let [nrows, ncols] = layer.weight.shape();
    let memory = || ExchangeError::Memory { layer: layer.name.clone(), nrows, ncols };
    let size = nrows.checked_mul(ncols).ok_or_else(memory)?;
    Vec::<f32>::new().try_reserve_exact(size).map_err(|_| memory())?;
    Ok(layer.weight.to_dense())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, Initialization, Network};

    fn named(name: &str, nrows: usize, ncols: usize) -> NamedLayer {
        let weight = StoredWeight::Dense { nrows, ncols, values: vec![1.0; nrows * ncols] };
        NamedLayer { name: name.to_owned(), weight, bias: None }
    }

    #[test]
    fn layers_get_the_models_names_and_zero_biases() {
        let model = chain(vec![named("a", 3, 4), named("b", 2, 3)]).unwrap();
        let names: Vec<_> = model.layers.iter().map(|l| l.name.as_str()).collect();
        let expected: Vec<_> = Architecture::of(&model.name()).layers.into_iter().map(|l| l.name).collect();
        assert_eq!(names, expected);
        assert_eq!(model.layers[0].bias, [0.0; 3]);
        let message = chain(vec![named("a", 3, 4), named("b", 2, 5)]).unwrap_err().to_string();
        assert_eq!(message, "layer b: the number of inputs is 5, expected 3, the outputs before it");
        assert_eq!(chain(vec![]).unwrap_err().to_string(), "the number of layers is 0, expected at least 1");
        // Nothing is allocated for rows without columns.
        let hollow = StoredWeight::Dense { nrows: usize::MAX, ncols: 0, values: vec![] };
        let message = chain(vec![NamedLayer { name: "a".into(), weight: hollow, bias: None }]).unwrap_err().to_string();
        assert!(message.starts_with("layer a: the number of outputs or inputs is 0"), "{message}");
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let mut layers = vec![named("a", 3, 4), named("b", 2, 3)];
        check_finite(&layers).unwrap();
        layers[1].bias = Some(vec![0.0, f32::NEG_INFINITY]);
        let message = |layers: &[NamedLayer]| check_finite(layers).unwrap_err().to_string();
        let expected = "layer b: the bias at entry 1 (counted from 0) is -inf; it must be finite";
        assert_eq!(message(&layers), expected);
        let mut values = vec![1.0; 12];
        values[6] = f32::NAN;
        layers[0].weight = StoredWeight::Dense { nrows: 3, ncols: 4, values };
        assert!(message(&layers).starts_with("layer a: the weight at row 1, column 2 (counted from 0) is NaN"));
        let pattern = CsrPattern::from_positions(3, 4, vec![(0, 1), (2, 3)]).unwrap();
        layers[0].weight = StoredWeight::Sparse(Csr::new(pattern.into(), vec![1.0, f32::INFINITY]).unwrap());
        assert!(message(&layers).contains("row 2, column 3 (counted from 0) is inf"));
    }

    #[test]
    fn a_full_weight_is_dense() {
        let full = Csr::new(Arc::new(CsrPattern::full(1, 2).unwrap()), vec![0.0, 3.0]).unwrap();
        let layer = NamedLayer { name: "a".into(), weight: StoredWeight::Sparse(full), bias: Some(vec![1.0]) };
        let model = chain(vec![layer]).unwrap();
        assert_eq!(model.layers[0].weight, StoredWeight::Dense { nrows: 1, ncols: 2, values: vec![0.0, 3.0] });
        // Stored zeros do not make a weight full, nor does their lack make it sparse.
        let dense = DenseMatrix::new(1, 2, vec![0.0, 0.0]).unwrap();
        assert_eq!(weight_of(Matrix::Dense(dense), "fc1", 0).unwrap().nnz(), 2);
    }

    #[test]
    fn a_patterns_values_are_those_of_a_new_network() {
        let cpu = sparse_kernels::cpu::Cpu::new(1, None).unwrap();
        let architecture = Architecture::of(&"5-4-3".parse().unwrap());
        let density = rigl::LayerDensity { density: 0.5, nnz: 7, size: 20 };
        let densities = [density, rigl::LayerDensity { nnz: 6, size: 12, ..density }];
        let initialization = Initialization::new(crate::models::Format::Csr, crate::models::Init::DenseFanIn, 9);
        let network = Network::new(&cpu, &architecture, &densities, initialization, 8).unwrap();
        for layer in &network.body.layers {
            let pattern = network.parameters.pattern(&cpu, layer.weight).unwrap();
            let weight = weight_of(Matrix::Pattern(CsrPattern::clone(pattern)), &layer.name, 9).unwrap();
            assert_eq!(weight.values(), network.parameters.download_values(&cpu, layer.weight).unwrap());
        }
    }
}
