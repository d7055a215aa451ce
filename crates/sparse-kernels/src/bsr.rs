//! Block-sparse patterns and matrices: which blocks of a matrix are stored.

use std::sync::Arc;

use crate::pattern::check_size;
use crate::{Csr, CsrPattern, FormatError};

/// Which `r × c` blocks of an `nrows × ncols` matrix are stored, in block compressed sparse row order.
///
/// The blocks lie on a grid of `⌈nrows / r⌉ × ⌈ncols / c⌉`, and a [`CsrPattern`] of that shape says which are stored.
/// A value array holds them one after the other, each row-major, `[nnz_blocks][r][c]` (PyTorch's order): entry
/// (i, j) of block `b` stands at `(b · r + i) · c + j`.
///
/// Where `r` does not divide `nrows`, or `c` does not divide `ncols`, blocks at the edge reach beyond the matrix. Their
/// entries there are *padding*: stored and counted by [`Self::nnz`], but no part of the matrix. Products never read
/// them, and the sampled product writes 0 there.
///
/// Of a convolution, whose column `channel · taps + tap` is a channel's weight at one tap, a block spans channels of one tap:
/// the grid's columns are ordered by tap, then by channel ([`Self::with_taps`]). Entries and conversions speak of the
/// matrix's own columns.
///
/// Invariants, checked by every constructor and never broken afterwards (the pattern is immutable):
///
/// * `r` and `c` are 1, 2, 4, 8 or 16;
/// * the block pattern has `⌈nrows / r⌉` rows and `⌈ncols / c⌉` columns, and holds to the invariants of [`CsrPattern`];
/// * `nrows`, `ncols` and `nnz_blocks · r · c` are at most `u32::MAX - 1`.
///
/// All of these are *hard*: the kernels' unchecked loads rest on them.
///
/// ```
/// use sparse_kernels::BsrPattern;
/// // [[x x . . .]     3 × 5 in blocks of 2 × 2: a grid of 2 × 3,
/// //  [x x . . .]     whose last row and column are cut by the edge
/// //  [. . . . x]]
/// let pattern = BsrPattern::new(3, 5, [2, 2], vec![0, 1, 2], vec![0, 2])?;
/// assert_eq!((pattern.nnz_blocks(), pattern.nnz()), (2, 8));
/// let dense = pattern.to_dense(&[1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0])?;
/// assert_eq!(dense, [1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0]);
/// # Ok::<(), sparse_kernels::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BsrPattern {
    nrows: usize,
    ncols: usize,
    block_size: [usize; 2],
    taps: usize,
    blocks: Arc<CsrPattern>,
}

/// One stored entry of a block-sparse matrix that is no padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// Where its value stands.
    pub position: usize,
}

impl BsrPattern {
    /// Sizes that the rows and the columns of a block may have.
    pub const BLOCK_SIZES: [usize; 5] = [1, 2, 4, 8, 16];

    /// Checks every invariant and makes the pattern. `block_row_offsets` and `block_col_indices` are a [`CsrPattern`]'s
    /// arrays over the grid of blocks.
    ///
    /// # Errors
    /// The first invariant broken, as a [`FormatError`].
    ///
    /// # Cost
    /// O(nrows / r + nnz_blocks), no copy.
    pub fn new(
        nrows: usize,
        ncols: usize,
        block_size: [usize; 2],
        block_row_offsets: Vec<u32>,
        block_col_indices: Vec<u32>,
    ) -> Result<Self, FormatError> {
        let [block_rows, block_cols] = grid(nrows, ncols, block_size)?;
        let blocks = CsrPattern::new(block_rows, block_cols, block_row_offsets, block_col_indices)?;
        Self::from_blocks(nrows, ncols, block_size, Arc::new(blocks))
    }

    /// The pattern whose stored blocks are the entries of `blocks`.
    ///
    /// # Errors
    /// [`FormatError`] if the block size is none of [`Self::BLOCK_SIZES`], `blocks` has not the grid's shape, or a size
    /// does not fit.
    pub fn from_blocks(
        nrows: usize,
        ncols: usize,
        block_size: [usize; 2],
        blocks: Arc<CsrPattern>,
    ) -> Result<Self, FormatError> {
        let expected = grid(nrows, ncols, block_size)?;
        let got = [blocks.nrows(), blocks.ncols()];
        if got != expected {
            return Err(FormatError::BlockGrid { expected, got });
        }
        check_size("nrows", nrows as u64)?;
        check_size("ncols", ncols as u64)?;
        // At most 2^32 · 256.
        check_size("nnz", blocks.nnz() as u64 * (block_size[0] * block_size[1]) as u64)?;
        Ok(Self { nrows, ncols, block_size, taps: 1, blocks })
    }

    /// The pattern of a convolution with so many taps, whose grid has the same stored blocks.
    ///
    /// # Errors
    /// [`FormatError::Taps`] unless `taps` divides the number of columns.
    pub fn with_taps(self, taps: usize) -> Result<Self, FormatError> {
        if taps == 0 || !self.ncols.is_multiple_of(taps) {
            return Err(FormatError::Taps { ncols: self.ncols, taps });
        }
        Ok(Self { taps, ..self })
    }

    /// The pattern of a matrix of this size, in blocks of this size, whose stored blocks are the entries of `blocks`.
    ///
    /// # Errors
    /// [`FormatError`] as [`Self::from_blocks`].
    pub fn with_blocks(&self, blocks: Arc<CsrPattern>) -> Result<Self, FormatError> {
        Ok(Self { taps: self.taps, ..Self::from_blocks(self.nrows, self.ncols, self.block_size, blocks)? })
    }

    /// The pattern with every block stored.
    ///
    /// # Errors
    /// [`FormatError`] as [`Self::from_blocks`].
    pub fn full(nrows: usize, ncols: usize, block_size: [usize; 2]) -> Result<Self, FormatError> {
        let [block_rows, block_cols] = grid(nrows, ncols, block_size)?;
        Self::from_blocks(nrows, ncols, block_size, Arc::new(CsrPattern::full(block_rows, block_cols)?))
    }

    /// The pattern of all blocks that hold an entry of `pattern`.
    ///
    /// # Errors
    /// [`FormatError`] as [`Self::from_blocks`].
    ///
    /// # Cost
    /// O(nnz log nnz) time in the entries of one row of blocks.
    pub fn from_csr(pattern: &CsrPattern, block_size: [usize; 2]) -> Result<Self, FormatError> {
        let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
        let [block_rows, _] = grid(nrows, ncols, block_size)?;
        let [r, c] = block_size;
        let mut offsets = vec![0u32];
        let mut columns: Vec<u32> = Vec::new();
        let mut row = Vec::new();
        for block_row in 0..block_rows {
            let rows = block_row * r..((block_row + 1) * r).min(nrows);
            row.clear();
            row.extend(rows.flat_map(|row| pattern.row(row)).map(|&column| column / c as u32));
            row.sort_unstable();
            row.dedup();
            columns.extend(&row);
            offsets.push(columns.len() as u32);
        }
        Self::new(nrows, ncols, block_size, offsets, columns)
    }

    /// Rows of the matrix.
    pub fn nrows(&self) -> usize {
        self.nrows
    }

    /// Columns of the matrix.
    pub fn ncols(&self) -> usize {
        self.ncols
    }

    /// Rows and columns of a block: `[r, c]`.
    pub fn block_size(&self) -> [usize; 2] {
        self.block_size
    }

    /// Taps of the convolution; 1 for any other matrix.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Which blocks of the grid are stored.
    pub fn blocks(&self) -> &Arc<CsrPattern> {
        &self.blocks
    }

    /// Stored blocks.
    pub fn nnz_blocks(&self) -> usize {
        self.blocks.nnz()
    }

    /// Stored values, padding included: `nnz_blocks · r · c`.
    pub fn nnz(&self) -> usize {
        self.blocks.nnz() * self.block_size[0] * self.block_size[1]
    }

    /// `nnz / (nrows · ncols)`, so above 1 for a full pattern with padding; 0 for a matrix without positions.
    pub fn density(&self) -> f64 {
        let positions = self.nrows as f64 * self.ncols as f64;
        if positions == 0.0 { 0.0 } else { self.nnz() as f64 / positions }
    }

    /// Every stored entry that is no padding, in the order of the values.
    pub fn entries(&self) -> impl Iterator<Item = BlockEntry> + '_ {
        let [r, c] = self.block_size;
        self.blocks.positions().enumerate().flat_map(move |(block, (block_row, block_col))| {
            let (top, left) = (block_row as usize * r, block_col as usize * c);
            let (rows, columns) = (r.min(self.nrows - top), c.min(self.ncols - left));
            (0..rows).flat_map(move |i| {
                let at = (block * r + i) * c;
                (0..columns).map(move |j| BlockEntry { row: top + i, column: self.column(left + j), position: at + j })
            })
        })
    }

    /// The matrix's column that stands at a place of the grid's order.
    fn column(&self, place: usize) -> usize {
        let channels = self.ncols / self.taps;
        place % channels * self.taps + place / channels
    }

    /// The same matrix entry by entry: the pattern of all entries that are no padding and, for each, where its value
    /// stands in this pattern's order.
    ///
    /// # Cost
    /// O(nrows + nnz), of a convolution with sorting of each row.
    pub fn to_csr(&self) -> (CsrPattern, Vec<u32>) {
        let mut row_offsets = vec![0u32; self.nrows + 1];
        self.entries().for_each(|e| row_offsets[e.row + 1] += 1);
        for row in 0..self.nrows {
            row_offsets[row + 1] += row_offsets[row];
        }
        let mut next = row_offsets.clone();
        let entries = row_offsets[self.nrows] as usize;
        let (mut col_indices, mut positions) = (vec![0u32; entries], vec![0u32; entries]);
        for e in self.entries() {
            let slot = &mut next[e.row];
            col_indices[*slot as usize] = e.column as u32;
            positions[*slot as usize] = e.position as u32;
            *slot += 1;
        }
        if self.taps > 1 {
            for row in row_offsets.windows(2) {
                let range = row[0] as usize..row[1] as usize;
                let mut sorted: Vec<_> = range.clone().map(|e| (col_indices[e], positions[e])).collect();
                sorted.sort_unstable();
                for (e, (column, position)) in range.zip(sorted) {
                    (col_indices[e], positions[e]) = (column, position);
                }
            }
        }
        let pattern = CsrPattern::new(self.nrows, self.ncols, row_offsets, col_indices);
        (pattern.expect("blocks are sorted and disjoint, so the entries of a row are"), positions)
    }

    /// The values of this pattern that equal the CSR matrix of `pattern` and `values`; 0 in what the blocks hold
    /// besides, padding included.
    ///
    /// # Errors
    /// [`FormatError`] if the shapes differ, there is not one value per entry of `pattern`, or an entry lies in no stored
    /// block.
    pub fn values_of_csr(&self, pattern: &CsrPattern, values: &[f32]) -> Result<Vec<f32>, FormatError> {
        let [r, c] = self.block_size;
        let (expected, got) = ([self.nrows, self.ncols], [pattern.nrows(), pattern.ncols()]);
        if expected != got {
            return Err(FormatError::BlockGrid { expected, got });
        }
        if values.len() != pattern.nnz() {
            return Err(FormatError::ValuesLength { nnz: pattern.nnz(), got: values.len() });
        }
        let mut blocks = vec![0.0; self.nnz()];
        for ((row, column), &value) in pattern.positions().zip(values) {
            let (row, column) = (row as usize, column as usize);
            let place = column % self.taps * (self.ncols / self.taps) + column / self.taps;
            let range = self.blocks.row_range(row / r);
            let block = self.blocks.row(row / r).binary_search(&((place / c) as u32));
            let block = range.start + block.map_err(|_| FormatError::NotStored { row, column })?;
            blocks[(block * r + row % r) * c + place % c] = value;
        }
        Ok(blocks)
    }

    /// The Frobenius norm of each stored block, `√(Σ value²)`, in the order of the blocks; padding counts like any other
    /// value, and is 0 in what this crate computes. Sums are in f64: no square of a finite value overflows or vanishes.
    ///
    /// # Errors
    /// [`FormatError::ValuesLength`] unless there is one value per stored entry.
    pub fn block_norms(&self, values: &[f32]) -> Result<Vec<f32>, FormatError> {
        self.check_values(values)?;
        let square = |value: &f32| f64::from(*value) * f64::from(*value);
        let norm = |block: &[f32]| block.iter().map(square).sum::<f64>().sqrt() as f32;
        Ok(values.chunks_exact(self.block_size[0] * self.block_size[1]).map(norm).collect())
    }

    fn check_values(&self, values: &[f32]) -> Result<(), FormatError> {
        let (nnz, got) = (self.nnz(), values.len());
        if got == nnz { Ok(()) } else { Err(FormatError::ValuesLength { nnz, got }) }
    }

    /// The whole matrix, row-major, zeros included: for tests and export.
    ///
    /// # Errors
    /// [`FormatError::ValuesLength`] unless there is one value per stored entry.
    pub fn to_dense(&self, values: &[f32]) -> Result<Vec<f32>, FormatError> {
        self.check_values(values)?;
        let mut dense = vec![0.0; self.nrows * self.ncols];
        self.entries().for_each(|e| dense[e.row * self.ncols + e.column] = values[e.position]);
        Ok(dense)
    }
}

/// A block-sparse matrix on the host: a shared [`BsrPattern`] and one value per stored entry, `[nnz_blocks][r][c]`.
/// Padding is 0.
///
/// ```
/// use std::sync::Arc;
/// use sparse_kernels::{Bsr, BsrPattern};
/// // The second block has one column inside the matrix, and one of padding.
/// let pattern = Arc::new(BsrPattern::new(2, 3, [2, 2], vec![0, 2], vec![0, 1])?);
/// let w = Bsr::new(pattern, vec![1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 6.0, 9.0])?;
/// assert_eq!(w.values()[4..], [5.0, 0.0, 6.0, 0.0]);
/// assert_eq!(w.to_dense(), [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
/// # Ok::<(), sparse_kernels::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Bsr {
    pattern: Arc<BsrPattern>,
    values: Vec<f32>,
}

impl Bsr {
    /// Joins a pattern and its values, of which those that are padding become 0.
    ///
    /// # Errors
    /// [`FormatError::ValuesLength`] unless there is one value per stored entry, padding included.
    ///
    /// # Cost
    /// O(nrows / r + nnz_blocks), and one pass over the blocks at the edge.
    pub fn new(pattern: Arc<BsrPattern>, mut values: Vec<f32>) -> Result<Self, FormatError> {
        pattern.check_values(&values)?;
        let [r, c] = pattern.block_size;
        for (block, (block_row, block_col)) in values.chunks_exact_mut(r * c).zip(pattern.blocks.positions()) {
            let rows = r.min(pattern.nrows - block_row as usize * r);
            let columns = c.min(pattern.ncols - block_col as usize * c);
            block[rows * c..].fill(0.0);
            if columns < c {
                block.chunks_exact_mut(c).for_each(|row| row[columns..].fill(0.0));
            }
        }
        Ok(Self { pattern, values })
    }

    /// The pattern.
    pub fn pattern(&self) -> &Arc<BsrPattern> {
        &self.pattern
    }

    /// The stored values, padding included.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The Frobenius norm of each stored block, see [`BsrPattern::block_norms`].
    pub fn block_norms(&self) -> Vec<f32> {
        self.pattern.block_norms(&self.values).expect("there is one value per stored entry")
    }

    /// The same matrix entry by entry, stored zeros of the blocks included, padding not.
    ///
    /// # Cost
    /// O(nrows + nnz).
    pub fn to_csr(&self) -> Csr<f32> {
        let (pattern, positions) = self.pattern.to_csr();
        let values = positions.iter().map(|&position| self.values[position as usize]).collect();
        Csr::new(Arc::new(pattern), values).expect("there is one position per entry")
    }

    /// The whole matrix, row-major, zeros included: for tests and export.
    pub fn to_dense(&self) -> Vec<f32> {
        self.pattern.to_dense(&self.values).expect("there is one value per stored entry")
    }
}

/// Rows and columns of the grid of blocks.
fn grid(nrows: usize, ncols: usize, block_size: [usize; 2]) -> Result<[usize; 2], FormatError> {
    expect_block_size(block_size)?;
    Ok([nrows.div_ceil(block_size[0]), ncols.div_ceil(block_size[1])])
}

/// Checks that there are blocks of this size.
pub(crate) fn expect_block_size([r, c]: [usize; 2]) -> Result<(), FormatError> {
    let known = [r, c].iter().all(|size| BsrPattern::BLOCK_SIZES.contains(size));
    if known { Ok(()) } else { Err(FormatError::BlockSize { r, c }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_input_is_refused_by_name() {
        let new = BsrPattern::new;
        assert_eq!(new(4, 4, [3, 2], vec![0], vec![]), Err(FormatError::BlockSize { r: 3, c: 2 }));
        assert_eq!(new(4, 4, [0, 2], vec![0], vec![]), Err(FormatError::BlockSize { r: 0, c: 2 }));
        assert_eq!(new(5, 4, [4, 4], vec![0, 1], vec![0]), Err(FormatError::OffsetsLength { nrows: 2, got: 2 }));
        let outside = FormatError::ColumnOutside { row: 0, column: 1, ncols: 1 };
        assert_eq!(new(4, 4, [4, 4], vec![0, 1], vec![1]), Err(outside));
        let grid = FormatError::BlockGrid { expected: [1, 2], got: [1, 1] };
        let blocks = Arc::new(CsrPattern::full(1, 1).unwrap());
        assert_eq!(BsrPattern::from_blocks(4, 5, [4, 4], blocks), Err(grid));
        // The grid fits 32 bits, the values or the columns do not.
        let large = BsrPattern::full(1 << 16, 1 << 16, [16, 16]);
        assert!(matches!(large, Err(FormatError::TooLarge { what: "nnz", .. })), "{large:?}");
        let wide = new(1, 1 << 33, [1, 16], vec![0, 0], vec![]);
        assert!(matches!(wide, Err(FormatError::TooLarge { what: "ncols", .. })), "{wide:?}");
        assert!(matches!(new(usize::MAX, 1, [1, 1], vec![], vec![]), Err(FormatError::TooLarge { .. })));
        let pattern = new(2, 2, [1, 1], vec![0, 1, 1], vec![0]).unwrap();
        assert!(pattern.to_dense(&[]).is_err());
        let full = CsrPattern::full(2, 2).unwrap();
        let stray = pattern.values_of_csr(&full, &[1.0; 4]);
        assert_eq!(stray, Err(FormatError::NotStored { row: 0, column: 1 }));
        assert!(pattern.values_of_csr(&CsrPattern::full(2, 3).unwrap(), &[1.0; 6]).is_err());
    }

    proptest! {
        #[test]
        fn conversions_keep_the_matrix(
            nrows in 0usize..40, ncols in 0usize..40, r in prop::sample::select(BsrPattern::BLOCK_SIZES.to_vec()),
            c in prop::sample::select(BsrPattern::BLOCK_SIZES.to_vec()),
            raw in prop::collection::vec((0u32..40, 0u32..40), 0..60)
        ) {
            let inside = |&(row, column): &(u32, u32)| (row as usize) < nrows && (column as usize) < ncols;
            let csr = CsrPattern::from_positions(nrows, ncols, raw.into_iter().filter(inside).collect()).unwrap();
            let values: Vec<f32> = (1..=csr.nnz()).map(|i| i as f32).collect();
            let bsr = BsrPattern::from_csr(&csr, [r, c]).unwrap();
            let blocks = bsr.values_of_csr(&csr, &values).unwrap();
            let dense = crate::Csr::new(Arc::new(csr.clone()), values).unwrap().to_dense();
            prop_assert_eq!(&bsr.to_dense(&blocks).unwrap(), &dense);
            // Every block holds an entry.
            for block in blocks.chunks(r * c) {
                prop_assert!(block.iter().any(|&v| v != 0.0));
            }
            let (expanded, positions) = bsr.to_csr();
            let values: Vec<f32> = positions.iter().map(|&p| blocks[p as usize]).collect();
            prop_assert_eq!(expanded.nnz(), bsr.entries().count());
            prop_assert_eq!(&crate::Csr::new(Arc::new(expanded), values).unwrap().to_dense(), &dense);
            // By taps, other blocks hold the same entries.
            for taps in (2..5).filter(|&taps| ncols % taps == 0) {
                let by_tap = BsrPattern::full(nrows, ncols, [r, c]).unwrap().with_taps(taps).unwrap();
                let blocks = by_tap.values_of_csr(&csr, &(1..=csr.nnz()).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(&by_tap.to_dense(&blocks).unwrap(), &dense);
                let (all, positions) = by_tap.to_csr();
                prop_assert_eq!(&all, &CsrPattern::full(nrows, ncols).unwrap());
                prop_assert_eq!(&positions.iter().map(|&p| blocks[p as usize]).collect::<Vec<_>>(), &dense);
            }
            // Padding is made 0, whatever is given for it.
            let mut given = vec![f32::NAN; bsr.nnz()];
            bsr.entries().for_each(|e| given[e.position] = blocks[e.position]);
            let host = Bsr::new(Arc::new(bsr.clone()), given).unwrap();
            prop_assert_eq!(host.values(), &blocks[..]);
            prop_assert_eq!(&host.to_csr().to_dense(), &dense);
            let squares: f64 = host.block_norms().iter().map(|&n| f64::from(n).powi(2)).sum();
            let expected: f64 = dense.iter().map(|&v| f64::from(v).powi(2)).sum();
            prop_assert!((squares - expected).abs() <= 1e-6 * expected);
        }
    }
}
