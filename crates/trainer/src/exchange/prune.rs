//! Pruning of a finished model.

use std::sync::Arc;

use rigl::LayerDensity;
use rigl::topology::prune_by_magnitude;
use sparse_kernels::CsrPattern;

use super::ExchangeError;
use crate::models::{StoredModel, StoredWeight};

/// Keeps of each layer the weights of largest magnitude, as many as its density gives it: one-shot magnitude pruning. A
/// layer that has no more weights than that stays as it is; if it has fewer, a warning tells so. Biases stay.
///
/// `densities` are in the order of the layers, as [`Sparsification::solve`](crate::models::Sparsification::solve) gives
/// them.
///
/// # Errors
/// [`ExchangeError::Format`] or [`ExchangeError::Prune`] if a dense layer has more positions than 32-bit indices allow.
///
/// # Cost
/// O(nnz) on average.
pub fn prune(model: &mut StoredModel, densities: &[LayerDensity]) -> Result<(), ExchangeError> {
    for (layer, density) in model.layers.iter_mut().zip(densities) {
        let (wanted, nnz) = (density.nnz, layer.weight.nnz());
        if nnz < wanted {
            let name = &layer.name;
            tracing::warn!("layer {name} has {nnz} weights, fewer than the {wanted} of its density; it stays as it is");
        }
        if nnz <= wanted {
            continue;
        }
        let pattern = match &layer.weight {
            StoredWeight::Sparse(csr) => csr.pattern().clone(),
            StoredWeight::Dense { nrows, ncols, .. } => {
                let full = CsrPattern::full(*nrows, *ncols);
                Arc::new(full.map_err(|reason| ExchangeError::Format { layer: layer.name.clone(), reason })?)
            }
        };
        let pruned = prune_by_magnitude(&pattern, layer.weight.values(), wanted);
        let pruned = pruned.map_err(|reason| ExchangeError::Prune { layer: layer.name.clone(), reason })?;
        layer.weight = StoredWeight::Sparse(pruned);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::models::StoredLayer;

    fn wanted(nnz: usize, size: usize) -> LayerDensity {
        LayerDensity { density: nnz as f64 / size as f64, nnz, size }
    }

    fn model(weights: Vec<StoredWeight>) -> StoredModel {
        let layers = weights.into_iter().map(|weight| layer("fc", weight)).collect();
        StoredModel { input: None, layers }
    }

    #[test]
    fn the_largest_weights_stay() {
        let before = model(vec![
            dense(2, 3, &[0.5, -0.1, -2.0, 0.0, 0.7, 0.5]),
            sparse(3, 2, &[(0, 0), (1, 1), (2, 0), (2, 1)]),
        ]);
        let mut after = before.clone();
        prune(&mut after, &[wanted(3, 6), wanted(2, 6)]).unwrap();
        let [first, second] = [0, 1].map(|i| &after.layers[i]);
        assert_eq!((first.weight.nnz(), first.weight.to_dense()), (3, vec![0.5, 0.0, -2.0, 0.0, 0.7, 0.0]));
        // Stored are 0.1, -0.0, 1e-45 and -3.4e38.
        assert_eq!((second.weight.nnz(), second.weight.to_dense()), (2, vec![0.1, 0.0, 0.0, 0.0, 0.0, -3.4e38]));
        let biases = |model: &StoredModel| model.layers.iter().map(|l| l.bias.clone()).collect::<Vec<_>>();
        assert_eq!(biases(&after), biases(&before));
    }

    #[test]
    fn layers_without_too_many_weights_stay() {
        let before = model(vec![
            dense(1, 2, &[0.0, 0.0]),
            sparse(2, 2, &[(0, 0), (1, 1)]),
            sparse(2, 2, &[(0, 0)]),
            sparse(2, 2, &[(0, 0)]),
        ]);
        let mut after = before.clone();
        prune(&mut after, &[wanted(2, 2), wanted(2, 4), wanted(2, 4), wanted(4, 4)]).unwrap();
        assert_same(&after, &before);
    }

    #[test]
    fn a_layer_too_large_is_named() {
        // 2^32 positions that take no memory as long as nobody makes a pattern of them: the length is a lie.
        let weight = StoredWeight::Dense { nrows: 1 << 16, ncols: 1 << 16, values: vec![0.0; 4] };
        let layers = vec![StoredLayer { name: "fc9".to_owned(), weight, bias: vec![] }];
        let error = prune(&mut StoredModel { input: None, layers }, &[wanted(1, 1 << 32)]).unwrap_err();
        assert!(error.to_string().starts_with("layer fc9: nnz is 4294967296, more than"), "{error}");
    }
}
