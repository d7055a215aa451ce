//! Pruning of a finished model.

use std::sync::Arc;

use rigl::topology::{kept_pattern, prune_by_magnitude, select_kept};
use rigl::{LayerDensity, TopologyError};
use sparse_kernels::{Bsr, Csr, CsrPattern, FormatError};

use super::ExchangeError;
use super::layers::pattern_where;
use crate::models::{Masking, StoredModel, StoredWeight};

/// Makes the nonzeros of dense layers their pattern, where zeros are the share `least` or more of the positions. A layer of
/// zeros alone stays dense, for it would have no weights; so does one that its network has always dense.
///
/// # Errors
/// [`ExchangeError::Format`] if a layer has more positions than 32-bit indices allow.
pub fn leave_out_zeros(model: &mut StoredModel, least: f64) -> Result<(), ExchangeError> {
    let architecture = model.architecture().map_err(ExchangeError::Architecture)?;
    for (layer, described) in model.layers.iter_mut().zip(&architecture.layers) {
        if described.masking == Masking::Never {
            continue;
        }
        let StoredWeight::Dense { values, .. } = &layer.weight else { continue };
        let (nnz, size) = (nonzeros(&layer.weight), values.len());
        if nnz > 0 && nnz < size && (size - nnz) as f64 >= least * size as f64 {
            layer.weight = without_zeros(&layer.weight)
                .map_err(|reason| ExchangeError::Format { layer: layer.name.clone(), reason })?;
        }
    }
    Ok(())
}

/// Weights of a model that are not zeros of dense layers.
pub fn own_nnz(model: &StoredModel) -> usize {
    model.layers.iter().map(|layer| nonzeros(&layer.weight)).sum()
}

/// All weights of a sparse layer: there, a zero is stored because the position exists.
fn nonzeros(weight: &StoredWeight) -> usize {
    match weight {
        StoredWeight::Dense { values, .. } => values.iter().filter(|&&value| value != 0.0).count(),
        stored => stored.nnz(),
    }
}

fn without_zeros(weight: &StoredWeight) -> Result<StoredWeight, FormatError> {
    let [nrows, ncols] = weight.shape();
    let values = weight.values();
    let pattern = Arc::new(pattern_where(nrows, ncols, |index| values[index] != 0.0)?);
    let nonzeros = values.iter().copied().filter(|&value| value != 0.0).collect();
    Ok(StoredWeight::Sparse(Csr::new(pattern, nonzeros)?))
}

/// Keeps of each layer the weights of largest magnitude, as many as its density gives it: one-shot magnitude pruning. Of a
/// layer in blocks those of the largest norm stay, in the nearest number to that, at least one. A layer that has no more
/// weights than that stays as it is; if it has fewer, a warning tells so. A dense layer that loses any keeps no zeros to reach
/// its density. Biases stay.
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
        let (mut wanted, nnz) = (density.nnz, layer.weight.nnz());
        let own = if nnz > wanted { nonzeros(&layer.weight) } else { nnz };
        if own < wanted {
            let name = &layer.name;
            tracing::warn!(
                "layer {name} has {own} weights, fewer than the {wanted} that its density allows; it is unchanged"
            );
            // A layer of zeros alone would have no weights left.
            wanted = if own > 0 { own } else { wanted };
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
        StoredModel { input: None, layers, parts: None }
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

    /// A pattern that a file tells by its zeros is taken, and never filled up with other zeros.
    #[test]
    fn zeros_of_dense_layers_are_a_pattern() {
        let half = dense(2, 2, &[0.0, 3.0, -0.0, 4.0]);
        let before = model(vec![half, dense(2, 2, &[1.0, 2.0, 0.0, 4.0]), dense(1, 2, &[0.0; 2])]);
        assert_eq!(own_nnz(&before), 5);
        let nnz = |model: &StoredModel| model.layers.iter().map(|l| l.weight.nnz()).collect::<Vec<_>>();
        let mut after = before.clone();
        leave_out_zeros(&mut after, 0.5).unwrap();
        assert_eq!(nnz(&after), [2, 4, 2]);
        let StoredWeight::Sparse(csr) = &after.layers[0].weight else { panic!("it is sparse") };
        assert_eq!(csr.pattern().positions().collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        assert_eq!(csr.values(), [3.0, 4.0]);
        let mut all = before.clone();
        leave_out_zeros(&mut all, 0.0).unwrap();
        assert_eq!(nnz(&all), [2, 3, 2]);
        // Three weights are allowed, two are there.
        let mut pruned = before.clone();
        prune(&mut pruned, &[wanted(3, 4), wanted(2, 4), wanted(1, 2)]).unwrap();
        assert_eq!(pruned.layers[0].weight, after.layers[0].weight);
        assert_eq!(nnz(&pruned), [2, 2, 1]);
        assert_eq!(pruned.layers[1].weight.to_dense(), [0.0, 2.0, 0.0, 4.0]);
    }

    #[test]
    fn a_layer_too_large_is_named() {
        // 2^32 positions that take no memory as long as nobody makes a pattern of them: the length is a lie.
        let weight = StoredWeight::Dense { nrows: 1 << 16, ncols: 1 << 16, values: vec![0.0; 4] };
        let layers = vec![StoredLayer { name: "fc9".to_owned(), weight, bias: vec![] }];
        let error = prune(&mut StoredModel { input: None, layers, parts: None }, &[wanted(1, 1 << 32)]).unwrap_err();
        assert!(error.to_string().starts_with("layer fc9: nnz is 4294967296, more than"), "{error}");
    }
}
