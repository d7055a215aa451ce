//! Initial values.
//!
//! The value at a position is a function of the key and of the position (`row · ncols + column`) alone, so that a sparse
//! layer starts with the same number at a position as the dense one of the same key, up to the row's scale, whatever
//! else its pattern holds.

use sparse_kernels::random::Key;
use sparse_kernels::{BsrPattern, CsrPattern};

/// Distribution of initial weights. `fan_in` and `fan_out` are those of [`FanIn`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initializer {
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16).
    XavierUniform,
    /// The same of a convolution with so many taps, each of which an output channel's fan-out counts.
    XavierUniformConv {
        /// Taps of a filter.
        taps: usize,
    },
    /// Uniform in ±√(6 / fan_in): the variance is 2 / fan_in, for ReLU (He et al. 2015, equation 10).
    KaimingUniform,
    /// Normal with variance 2 / fan_in (He et al. 2015, equation 10).
    KaimingNormal,
    /// Normal with variance 1 / fan_in (LeCun et al. 1998; TensorFlow's variance scaling of factor 1).
    LecunNormal,
    /// Normal with deviation 0.01, whatever the layer.
    SmallNormal,
    /// Uniform in ±1 / √fan_in: PyTorch's of linear and recurrent layers.
    FanInUniform,
    /// Normal with this deviation for a dense row; of [`FanIn::Sparse`], √(ncols / fan_in) times as much.
    Normal {
        /// The deviation.
        deviation: f32,
    },
}

/// What counts as a row's fan-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanIn {
    /// All columns, stored or not: what the dense layer would have (RigL's choice).
    Dense,
    /// The row's stored entries (Evci et al. 2022, "Gradient flow in sparse neural networks"). For
    /// [`Initializer::XavierUniform`], fan-out is scaled alike: `nrows · stored / ncols`.
    Sparse,
}

impl Initializer {
    /// The values of a sparse matrix, one per stored entry, in storage order.
    ///
    /// # Cost
    /// O(nrows + nnz).
    pub fn sparse(self, pattern: &CsrPattern, fan_in: FanIn, key: Key) -> Vec<f32> {
        let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
        let mut values = Vec::with_capacity(pattern.nnz());
        for row in 0..nrows {
            let columns = pattern.row(row);
            let fan_in = match fan_in {
                FanIn::Dense => ncols,
                FanIn::Sparse => columns.len(),
            };
            let scale = self.scale(nrows, ncols, fan_in);
            let first = row as u64 * ncols as u64;
            values.extend(columns.iter().map(|&column| self.draw(scale, key, first + u64::from(column))));
        }
        values
    }

    /// The values of a block-sparse matrix, in storage order: those that [`Initializer::sparse`] draws at the same
    /// positions, and 0 in padding. A row's stored entries are those of its blocks, padding not counted.
    ///
    /// # Cost
    /// O(nrows + nnz).
    pub fn block_sparse(self, pattern: &BsrPattern, fan_in: FanIn, key: Key) -> Vec<f32> {
        let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
        let (mut values, mut stored) = (vec![0.0; pattern.nnz()], vec![0; nrows]);
        pattern.entries().for_each(|e| stored[e.row] += 1);
        let scale = |stored| match fan_in {
            FanIn::Dense => self.scale(nrows, ncols, ncols),
            FanIn::Sparse => self.scale(nrows, ncols, stored),
        };
        let scales: Vec<f32> = stored.into_iter().map(scale).collect();
        for e in pattern.entries() {
            values[e.position] = self.draw(scales[e.row], key, e.row as u64 * ncols as u64 + e.column as u64);
        }
        values
    }

    /// The values of a dense matrix, row-major.
    pub fn dense(self, nrows: usize, ncols: usize, key: Key) -> Vec<f32> {
        let scale = self.scale(nrows, ncols, ncols);
        (0..nrows as u64 * ncols as u64).map(|position| self.draw(scale, key, position)).collect()
    }

    /// Bound or deviation of a row with `fan_in` inputs in a matrix of `nrows × ncols`.
    fn scale(self, nrows: usize, ncols: usize, fan_in: usize) -> f32 {
        let fan_in = fan_in as f64;
        let scale = match self {
            Initializer::XavierUniform | Initializer::XavierUniformConv { .. } => {
                let taps = if let Initializer::XavierUniformConv { taps } = self { taps } else { 1 };
                let fan_out = (nrows * taps) as f64 * fan_in / (ncols as f64).max(1.0);
                (6.0 / (fan_in + fan_out)).sqrt()
            }
            Initializer::KaimingUniform => (6.0 / fan_in).sqrt(),
            Initializer::KaimingNormal => (2.0 / fan_in).sqrt(),
            Initializer::LecunNormal => fan_in.recip().sqrt(),
            Initializer::SmallNormal => 0.01,
            Initializer::FanInUniform => fan_in.recip().sqrt(),
            Initializer::Normal { deviation } => f64::from(deviation) * (ncols as f64 / fan_in).sqrt(),
        };
        scale as f32
    }

    fn draw(self, scale: f32, key: Key, position: u64) -> f32 {
        match self {
            Initializer::XavierUniform
            | Initializer::XavierUniformConv { .. }
            | Initializer::KaimingUniform
            | Initializer::FanInUniform => scale * (2.0 * key.uniform(position) - 1.0),
            Initializer::KaimingNormal
            | Initializer::LecunNormal
            | Initializer::SmallNormal
            | Initializer::Normal { .. } => scale * key.normal(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Initializer; 3] = [Initializer::XavierUniform, Initializer::KaimingUniform, Initializer::KaimingNormal];

    #[test]
    fn a_position_has_its_value_whatever_the_pattern() {
        let key = Key::new(1).with_name("layer");
        let pattern = CsrPattern::new(3, 4, vec![0, 2, 2, 5], vec![1, 3, 0, 1, 2]).unwrap();
        for initializer in ALL {
            let dense = initializer.dense(3, 4, key);
            let sparse = initializer.sparse(&pattern, FanIn::Dense, key);
            let full = initializer.sparse(&CsrPattern::full(3, 4).unwrap(), FanIn::Sparse, key);
            assert_eq!(full, dense);
            let expected: Vec<f32> = pattern.positions().map(|(r, c)| dense[(r * 4 + c) as usize]).collect();
            assert_eq!(sparse, expected);
            // With the row's own fan-in, 2 and 3 of 4: the same numbers, scaled by √(4 / fan_in).
            let scaled = initializer.sparse(&pattern, FanIn::Sparse, key);
            for (i, (scaled, dense)) in scaled.iter().zip(&expected).enumerate() {
                let factor = (4.0 / if i < 2 { 2.0f32 } else { 3.0 }).sqrt();
                assert!((scaled - dense * factor).abs() <= 1e-6 * scaled.abs());
            }
        }
    }

    #[test]
    fn blocks_have_the_values_of_their_positions() {
        let key = Key::new(1).with_name("layer");
        for block_size in [[1, 1], [2, 2], [4, 8]] {
            let grid = [5usize.div_ceil(block_size[0]), 7usize.div_ceil(block_size[1])];
            let stored = (0..grid[0] as u32).map(|row| (row, row % grid[1] as u32)).collect();
            let blocks = CsrPattern::from_positions(grid[0], grid[1], stored).unwrap();
            let pattern = BsrPattern::from_blocks(5, 7, block_size, blocks.into()).unwrap();
            let (csr, positions) = pattern.to_csr();
            for initializer in ALL {
                for fan_in in [FanIn::Dense, FanIn::Sparse] {
                    let mut values = initializer.block_sparse(&pattern, fan_in, key);
                    let drawn: Vec<f32> = positions.iter().map(|&p| values[p as usize]).collect();
                    assert_eq!(drawn, initializer.sparse(&csr, fan_in, key));
                    positions.iter().for_each(|&p| values[p as usize] = 0.0);
                    assert!(values.iter().all(|&v| v == 0.0), "padding holds numbers");
                }
            }
        }
    }

    #[test]
    fn variances() {
        let (nrows, ncols) = (200, 300);
        for (initializer, expected) in ALL.into_iter().zip([2.0 / 500.0, 2.0 / 300.0, 2.0 / 300.0]) {
            let values = initializer.dense(nrows, ncols, Key::new(2));
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            // Five standard errors; a variance's is at most variance · √(2 / n).
            assert!(mean.abs() < 5.0 * (expected / n).sqrt(), "{initializer:?}: {mean}");
            assert!((variance - expected).abs() < 5.0 * expected * (2.0 / n).sqrt(), "{initializer:?}: {variance}");
        }
    }

    #[test]
    fn empty_shapes() {
        for initializer in ALL {
            assert!(initializer.dense(0, 3, Key::new(1)).is_empty());
            assert!(initializer.dense(3, 0, Key::new(1)).is_empty());
        }
    }
}
