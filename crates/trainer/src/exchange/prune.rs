//! Pruning of a finished model.

use std::sync::Arc;

use rigl::topology::{kept_pattern, prune_by_magnitude, select_kept};
use rigl::{LayerDensity, TopologyError};
use sparse_kernels::{Bsr, CsrPattern};

use super::ExchangeError;
use crate::models::{StoredModel, StoredWeight};

/// Keeps of each layer the weights of largest magnitude, as many as its density gives it: one-shot magnitude pruning. Of a
/// layer in blocks those of the largest norm stay, in the nearest number to that, at least one. A layer that has no more weights than that stays as it is; if it has fewer, a warning tells so. Biases stay.
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
            tracing::warn!(
                "layer {name} has {nnz} weights, fewer than the {wanted} that its density allows; it is unchanged"
            );
        }
        if nnz <= wanted {
            continue;
        }
        let wrong = |reason| ExchangeError::Prune { layer: layer.name.clone(), reason };
        let pattern = match &layer.weight {
            StoredWeight::BlockSparse(bsr) => {
                layer.weight = StoredWeight::BlockSparse(prune_blocks(bsr, wanted).map_err(wrong)?);
                continue;
            }
            StoredWeight::Sparse(csr) => csr.pattern().clone(),
            StoredWeight::Dense { nrows, ncols, .. } => {
                let full = CsrPattern::full(*nrows, *ncols);
                Arc::new(full.map_err(|reason| ExchangeError::Format { layer: layer.name.clone(), reason })?)
            }
        };
        let pruned = prune_by_magnitude(&pattern, layer.weight.values(), wanted);
        layer.weight = StoredWeight::Sparse(pruned.map_err(wrong)?);
    }
    Ok(())
}

/// The blocks of largest norm, with about `wanted` values.
fn prune_blocks(bsr: &Bsr, wanted: usize) -> Result<Bsr, TopologyError> {
    let pattern = bsr.pattern();
    let size = pattern.block_size()[0] * pattern.block_size()[1];
    let count = ((wanted + size / 2) / size).clamp(1, pattern.nnz_blocks());
    let kept = select_kept(&bsr.block_norms(), pattern.nnz_blocks() - count)?;
    let blocks = Arc::new(kept_pattern(pattern.blocks(), &kept)?);
    let values = bsr.values().chunks_exact(size).enumerate().filter(|(block, _)| kept.is_kept(*block));
    let values = values.flat_map(|(_, block)| block).copied().collect();
    Ok(Bsr::new(Arc::new(pattern.with_blocks(blocks)?), values)?)
}

#[cfg(test)]
mod tests {
    use sparse_kernels::BsrPattern;

    use super::super::testing::*;
    use super::*;
    use crate::models::StoredLayer;

    fn wanted(nnz: usize, size: usize) -> LayerDensity {
        LayerDensity { density: nnz as f64 / size as f64, nnz, size }
    }

    fn model(weights: Vec<StoredWeight>) -> StoredModel {
        let layers = weights.into_iter().map(|weight| layer("fc", weight)).collect();
        StoredModel { input: None, layers, convolutional: None }
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

    /// By norm: one large weight among zeros against many small ones. Half a block and more is one more.
    #[test]
    fn the_largest_blocks_stay() {
        let pattern = Arc::new(BsrPattern::full(2, 6, [2, 2]).unwrap());
        let values = [0.5, 0.5, 0.5, 0.5, 0.0, -0.9, 0.0, 0.0, 1.1, 0.0, 0.0, 0.0];
        let bsr = Bsr::new(pattern, values.to_vec()).unwrap();
        let before = model(vec![StoredWeight::BlockSparse(bsr)]);
        let pruned = |nnz| {
            let mut after = before.clone();
            prune(&mut after, &[wanted(nnz, 12)]).unwrap();
            (after.layers[0].weight.storage(), after.layers[0].weight.values().to_vec())
        };
        let bsr = "bsr2x2".to_owned();
        assert_eq!(pruned(6), (bsr.clone(), [&values[..4], &values[8..]].concat()));
        assert_eq!(pruned(5), (bsr.clone(), values[8..].to_vec()));
        assert_eq!(pruned(1), (bsr.clone(), values[8..].to_vec()));
        assert_eq!(pruned(12), (bsr, values.to_vec()));
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
        let error =
            prune(&mut StoredModel { input: None, layers, convolutional: None }, &[wanted(1, 1 << 32)]).unwrap_err();
        assert!(error.to_string().starts_with("layer fc9: nnz is 4294967296, more than"), "{error}");
    }
}
