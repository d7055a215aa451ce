//! Which positions of the weight matrices a path may use.

use std::sync::Arc;

use serde::Serialize;
use sparse_kernels::{Bsr, Csr, CsrPattern, FormatError};

use super::Point;
use crate::models::{StoredLayer, StoredModel, StoredWeight};

/// A space that holds two networks of one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// The positions that either network has: a sparse network.
    Sparse,
    /// All positions: a dense network.
    Full,
}

impl Space {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::Full => "full",
        }
    }

    /// Both networks, stored alike: the same positions in the same order, with zeros where a network has no weight.
    ///
    /// In the sparse space, a layer that is dense in either network, or whose union is the whole matrix, is dense; one that
    /// is in blocks of the same size in both stays so; any other one is CSR.
    ///
    /// # Errors
    /// If a union has more entries than 32-bit positions allow.
    ///
    /// # Panics
    /// If the networks have not the same layers.
    ///
    /// # Cost
    /// O(nnz) in the sparse space, else O(positions).
    pub fn embed(self, [a, b]: [&StoredModel; 2]) -> Result<[StoredModel; 2], FormatError> {
        let (mut of_a, mut of_b) = (a.clone(), b.clone());
        assert_eq!(a.layers.len(), b.layers.len(), "both networks have the same layers");
        for (a, b) in of_a.layers.iter_mut().zip(&mut of_b.layers) {
            assert_eq!(a.weight.shape(), b.weight.shape(), "both networks have the same layers");
            let joined = match self {
                Self::Sparse => union(&a.weight, &b.weight)?,
                Self::Full => None,
            };
            [a.weight, b.weight] = joined.unwrap_or_else(|| [dense(a), dense(b)]);
        }
        Ok([of_a, of_b])
    }
}

impl Point {
    /// A network's place: layer by layer the stored weights, then the biases if there are any; then scale and shift of each
    /// normalisation. Running moments are not part of it.
    pub fn of(model: &StoredModel) -> Self {
        let of_layer = |layer: &StoredLayer| {
            let bias = (!layer.bias.is_empty()).then(|| layer.bias.clone());
            [Some(layer.weight.values().to_vec()), bias].into_iter().flatten()
        };
        let norms = model.parts.iter().flat_map(|parts| &parts.norms).map(|norm| norm.affine.clone());
        Self { arrays: model.layers.iter().flat_map(of_layer).chain(norms).collect() }
    }
}

fn dense(layer: &StoredLayer) -> StoredWeight {
    let [nrows, ncols] = layer.weight.shape();
    StoredWeight::Dense { nrows, ncols, values: layer.weight.to_dense() }
}

/// Both weights on the union of their patterns; none if that is to be stored dense.
fn union(a: &StoredWeight, b: &StoredWeight) -> Result<Option<[StoredWeight; 2]>, FormatError> {
    let entries = |weight: &StoredWeight| match weight {
        StoredWeight::Sparse(csr) => Some(csr.clone()),
        StoredWeight::BlockSparse(bsr) => Some(bsr.to_csr()),
        StoredWeight::Dense { .. } => None,
    };
    if let (StoredWeight::BlockSparse(a), StoredWeight::BlockSparse(b)) = (a, b)
        && a.pattern().block_size() == b.pattern().block_size()
    {
        let Some(merged) = Merged::new(a.pattern().blocks(), b.pattern().blocks())? else { return Ok(None) };
        let block_size = a.pattern().block_size();
        let joined = Arc::new(a.pattern().with_blocks(merged.pattern.clone())?);
        let [a, b] = merged.values([a.values(), b.values()], block_size[0] * block_size[1]);
        let weight = |values| Bsr::new(joined.clone(), values).map(StoredWeight::BlockSparse);
        return Ok(Some([weight(a)?, weight(b)?]));
    }
    let (Some(a), Some(b)) = (entries(a), entries(b)) else { return Ok(None) };
    let Some(merged) = Merged::new(a.pattern(), b.pattern())? else { return Ok(None) };
    let [a, b] = merged.values([a.values(), b.values()], 1);
    let weight = |values| Csr::new(merged.pattern.clone(), values).map(StoredWeight::Sparse);
    Ok(Some([weight(a)?, weight(b)?]))
}

/// The union of two patterns, and where each of its entries stands in either; `u32::MAX` where it does not.
struct Merged {
    pattern: Arc<CsrPattern>,
    maps: [Vec<u32>; 2],
}

impl Merged {
    /// None if the union is the whole matrix.
    fn new<'p>(a: &'p CsrPattern, b: &'p CsrPattern) -> Result<Option<Self>, FormatError> {
        let (nrows, ncols) = (a.nrows(), a.ncols());
        let (mut row_offsets, mut col_indices) = (vec![0], Vec::new());
        let mut maps = [Vec::new(), Vec::new()];
        for row in 0..nrows {
            let entries = |pattern: &'p CsrPattern| {
                pattern.row_range(row).map(move |entry| (entry, pattern.col_indices()[entry])).peekable()
            };
            let mut rest = [entries(a), entries(b)];
            while let Some(column) = rest.iter_mut().filter_map(|rest| rest.peek().map(|&(_, column)| column)).min() {
                for (map, rest) in maps.iter_mut().zip(&mut rest) {
                    map.push(rest.next_if(|&(_, next)| next == column).map_or(u32::MAX, |(entry, _)| entry as u32));
                }
                col_indices.push(column);
            }
            // What does not fit is refused by the pattern.
            row_offsets.push(col_indices.len().try_into().unwrap_or(u32::MAX));
        }
        if col_indices.len() == nrows * ncols {
            return Ok(None);
        }
        let pattern = Arc::new(CsrPattern::new(nrows, ncols, row_offsets, col_indices)?);
        Ok(Some(Self { pattern, maps }))
    }

    /// The values of both, `size` for each entry, with zeros where one has none.
    fn values(&self, values: [&[f32]; 2], size: usize) -> [Vec<f32>; 2] {
        let spread = |(map, values): (&Vec<u32>, &[f32])| {
            let mut spread = vec![0.0; map.len() * size];
            for (to, &entry) in spread.chunks_exact_mut(size).zip(map).filter(|&(_, &entry)| entry != u32::MAX) {
                to.copy_from_slice(&values[entry as usize * size..][..size]);
            }
            spread
        };
        let [a, b] = [0, 1].map(|i| spread((&self.maps[i], values[i])));
        [a, b]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, Format, Init, Initialization};
    use rigl::LayerDensity;

    fn model(name: &str, format: &str, nnz: [usize; 2], seed: u64) -> StoredModel {
        let architecture = Architecture::of(&name.parse().unwrap());
        let density = |(layer, nnz): (&crate::models::WeightLayer, usize)| LayerDensity {
            density: nnz as f64 / layer.size() as f64,
            nnz,
            size: layer.size(),
        };
        let densities: Vec<_> = architecture.layers.iter().zip(nnz).map(density).collect();
        let format: Format = format.parse().unwrap();
        StoredModel::random(&architecture, &densities, Initialization::new(format, Init::DenseFanIn, seed)).unwrap()
    }

    /// Positions that are stored, row-major.
    fn stored(weight: &StoredWeight) -> Vec<bool> {
        let ones = match weight {
            StoredWeight::Sparse(csr) => {
                Csr::new(csr.pattern().clone(), vec![1.0; csr.values().len()]).unwrap().to_dense()
            }
            StoredWeight::BlockSparse(bsr) => {
                Bsr::new(bsr.pattern().clone(), vec![1.0; bsr.values().len()]).unwrap().to_dense()
            }
            StoredWeight::Dense { values, .. } => vec![1.0; values.len()],
        };
        ones.into_iter().map(|one| one != 0.0).collect()
    }

    /// CSR with CSR, blocks with blocks at the matrix's edges, blocks with CSR.
    #[test]
    fn the_sparse_space_is_the_union_of_both_patterns() {
        for (formats, expected) in [
            (["csr", "csr"], "csr"),
            (["bsr4x8", "bsr4x8"], "bsr4x8"),
            (["bsr4x8", "csr"], "csr"),
            (["bsr4x8", "bsr2x8"], "csr"),
        ] {
            let a = model("21-10-7", formats[0], [64, 32], 1);
            let b = model("21-10-7", formats[1], [64, 32], 2);
            let embedded = Space::Sparse.embed([&a, &b]).unwrap();
            for (i, original) in [&a, &b].into_iter().enumerate() {
                for (layer, before) in embedded[i].layers.iter().zip(&original.layers) {
                    assert_eq!(layer.weight.storage(), expected);
                    assert_eq!(layer.weight.to_dense(), before.weight.to_dense());
                    assert_eq!(layer.bias, before.bias);
                }
            }
            for layer in 0..2 {
                let [of_a, of_b] = [&a, &b].map(|model| stored(&model.layers[layer].weight));
                let union: Vec<_> = of_a.iter().zip(&of_b).map(|(a, b)| a | b).collect();
                let [first, second] = [0, 1].map(|i| &embedded[i].layers[layer].weight);
                assert_eq!(stored(first), union);
                assert_eq!(first.topology(), second.topology());
                assert!(union.iter().any(|stored| !stored), "the test needs a union with gaps");
            }
        }
    }

    #[test]
    fn what_is_dense_in_one_is_dense_in_both() {
        let a = model("20-10-3", "csr", [200, 4], 1);
        let b = model("20-10-3", "csr", [20, 5], 2);
        let [of_a, of_b] = Space::Sparse.embed([&a, &b]).unwrap();
        let storage = |model: &StoredModel| model.layers.iter().map(|l| l.weight.storage()).collect::<Vec<_>>();
        assert_eq!([storage(&of_a), storage(&of_b)], [["dense", "csr"], ["dense", "csr"]]);
        let full = Space::Full.embed([&a, &b]).unwrap();
        for (model, before) in full.iter().zip([&a, &b]) {
            assert_eq!(storage(model), ["dense", "dense"]);
            assert_eq!(model.layers[1].weight.to_dense(), before.layers[1].weight.to_dense());
        }
        // Two halves make a whole.
        let half = |columns: [u32; 2]| {
            let pattern = CsrPattern::new(1, 4, vec![0, 2], columns.to_vec()).unwrap();
            StoredWeight::Sparse(Csr::new(Arc::new(pattern), vec![1.0, 2.0]).unwrap())
        };
        assert_eq!(union(&half([0, 2]), &half([1, 3])).unwrap(), None);
        assert!(union(&half([0, 2]), &half([0, 3])).unwrap().is_some());
    }

    #[test]
    fn a_point_has_the_arrays_of_the_parameters() {
        let a = model("20-10-3", "csr", [50, 30], 1);
        let lengths: Vec<_> = Point::of(&a).arrays.iter().map(Vec::len).collect();
        assert_eq!(lengths, [50, 10, 30, 3]);
    }
}
