//! The sparsity pattern: which entries of a matrix exist, apart from any values.

use crate::error::FormatError;

/// Which entries of an `nrows × ncols` matrix are stored, in compressed sparse row order.
///
/// Invariants, checked by [`CsrPattern::new`] and never broken afterwards (the pattern is immutable):
///
/// * `row_offsets.len() == nrows + 1`, `row_offsets[0] == 0`, `row_offsets[nrows] == nnz`, non-decreasing;
/// * `col_indices.len() == nnz`, and in each row strictly increasing and `< ncols`;
/// * `nrows`, `ncols` and `nnz` are at most `u32::MAX - 1`.
///
/// All of these are *hard*: the kernels' unchecked loads rest on them.
///
/// Weight, gradient and optimizer slots are plain value arrays over one shared `Arc<CsrPattern>`.
///
/// ```
/// use sparse_kernels::CsrPattern;
/// // [[x . x]
/// //  [. . .]
/// //  [. x .]]
/// let pattern = CsrPattern::new(3, 3, vec![0, 2, 2, 3], vec![0, 2, 1])?;
/// assert_eq!(pattern.nnz(), 3);
/// assert_eq!(pattern.row(0), &[0, 2]);
/// # Ok::<(), sparse_kernels::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrPattern {
    nrows: usize,
    ncols: usize,
    row_offsets: Vec<u32>,
    col_indices: Vec<u32>,
}

/// The largest size or index that a pattern can hold; one less than `u32::MAX`, which marks "none" in entry maps.
const MAX_INDEX: u64 = u32::MAX as u64 - 1;

impl CsrPattern {
    /// Checks every invariant and makes the pattern.
    ///
    /// # Errors
    /// The first invariant broken, as a [`FormatError`].
    ///
    /// # Cost
    /// O(nrows + nnz), no copy.
    pub fn new(nrows: usize, ncols: usize, row_offsets: Vec<u32>, col_indices: Vec<u32>) -> Result<Self, FormatError> {
        for (what, size) in [("nrows", nrows), ("ncols", ncols), ("nnz", col_indices.len())] {
            check_size(what, size as u64)?;
        }
        if row_offsets.len() != nrows + 1 {
            return Err(FormatError::OffsetsLength { nrows, got: row_offsets.len() });
        }
        if row_offsets[0] != 0 {
            return Err(FormatError::OffsetsStart { got: row_offsets[0] });
        }
        // All offsets are checked before any row is sliced.
        if let Some(row) = row_offsets.windows(2).position(|w| w[1] < w[0]) {
            return Err(FormatError::OffsetsDecrease { row, from: row_offsets[row], to: row_offsets[row + 1] });
        }
        let end = row_offsets[nrows];
        if end as usize != col_indices.len() {
            return Err(FormatError::OffsetsEnd { end, nnz: col_indices.len() });
        }
        for row in 0..nrows {
            let columns = &col_indices[row_offsets[row] as usize..row_offsets[row + 1] as usize];
            if let Some(w) = columns.windows(2).find(|w| w[1] <= w[0]) {
                return Err(FormatError::ColumnsUnsorted { row, column: w[1], previous: w[0] });
            }
            // Sorted, so the last one is the largest.
            if let Some(&column) = columns.last().filter(|&&c| c as usize >= ncols) {
                return Err(FormatError::ColumnOutside { row, column, ncols });
            }
        }
        Ok(Self { nrows, ncols, row_offsets, col_indices })
    }

    /// The pattern with every entry stored.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] if `nrows · ncols` does not fit 32-bit positions.
    pub fn full(nrows: usize, ncols: usize) -> Result<Self, FormatError> {
        check_size("nrows", nrows as u64)?;
        check_size("ncols", ncols as u64)?;
        check_size("nnz", nrows as u64 * ncols as u64)?;
        let row_offsets = (0..=nrows).map(|r| (r * ncols) as u32).collect();
        let col_indices = (0..nrows).flat_map(|_| 0..ncols as u32).collect();
        Self::new(nrows, ncols, row_offsets, col_indices)
    }

    /// The pattern of the entries at `positions`, given as `(row, column)` in any order and possibly repeated.
    ///
    /// # Errors
    /// [`FormatError`] if a position lies outside the matrix or a size does not fit.
    ///
    /// # Cost
    /// O(nrows + n log n) time for `n` positions, which are sorted in place and deduplicated.
    pub fn from_positions(nrows: usize, ncols: usize, mut positions: Vec<(u32, u32)>) -> Result<Self, FormatError> {
        positions.sort_unstable();
        positions.dedup();
        check_size("nrows", nrows as u64)?;
        check_size("nnz", positions.len() as u64)?;
        if let Some(&(row, _)) = positions.last().filter(|p| p.0 as usize >= nrows) {
            return Err(FormatError::RowOutside { row, nrows });
        }
        let mut row_offsets = vec![0u32; nrows + 1];
        for &(row, _) in &positions {
            row_offsets[row as usize + 1] += 1;
        }
        for row in 0..nrows {
            row_offsets[row + 1] += row_offsets[row];
        }
        Self::new(nrows, ncols, row_offsets, positions.into_iter().map(|p| p.1).collect())
    }

    /// Rows of the matrix.
    pub fn nrows(&self) -> usize {
        self.nrows
    }

    /// Columns of the matrix.
    pub fn ncols(&self) -> usize {
        self.ncols
    }

    /// Stored entries.
    pub fn nnz(&self) -> usize {
        self.col_indices.len()
    }

    /// `nnz / (nrows · ncols)`; 0 for a matrix without positions.
    pub fn density(&self) -> f64 {
        let positions = self.nrows as f64 * self.ncols as f64;
        if positions == 0.0 { 0.0 } else { self.nnz() as f64 / positions }
    }

    /// Where each row starts in [`Self::col_indices`]; `nrows + 1` entries.
    pub fn row_offsets(&self) -> &[u32] {
        &self.row_offsets
    }

    /// The column of each stored entry, row after row.
    pub fn col_indices(&self) -> &[u32] {
        &self.col_indices
    }

    /// The positions of one row's entries in the value arrays.
    ///
    /// # Panics
    /// If `row >= nrows`.
    pub fn row_range(&self, row: usize) -> std::ops::Range<usize> {
        self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize
    }

    /// The columns stored in one row.
    ///
    /// # Panics
    /// If `row >= nrows`.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.col_indices[self.row_range(row)]
    }

    /// Every stored `(row, column)`, in storage order.
    pub fn positions(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.nrows).flat_map(move |row| self.row(row).iter().map(move |&column| (row as u32, column)))
    }

    /// The transposed pattern and, for each of its entries, where that entry stands in this one.
    ///
    /// # Cost
    /// O(nrows + ncols + nnz): a counting sort.
    pub fn transpose(&self) -> Transposed {
        let mut row_offsets = vec![0u32; self.ncols + 1];
        for &column in &self.col_indices {
            row_offsets[column as usize + 1] += 1;
        }
        for column in 0..self.ncols {
            row_offsets[column + 1] += row_offsets[column];
        }
        let mut next = row_offsets.clone();
        let mut col_indices = vec![0u32; self.nnz()];
        let mut permutation = vec![0u32; self.nnz()];
        for row in 0..self.nrows {
            for position in self.row_range(row) {
                let slot = &mut next[self.col_indices[position] as usize];
                col_indices[*slot as usize] = row as u32;
                permutation[*slot as usize] = position as u32;
                *slot += 1;
            }
        }
        // Rows were visited in order, so every transposed row is strictly increasing and the invariants hold.
        Transposed { pattern: Self { nrows: self.ncols, ncols: self.nrows, row_offsets, col_indices }, permutation }
    }
}

/// How many of sorted `columns` are below `bound`: looked for at `guess`, then farther and farther off. Halving the whole
/// list instead touches memory that is far away and not needed otherwise.
#[inline]
pub(crate) fn count_below(columns: &[u32], bound: usize, guess: usize) -> usize {
    let below = |&c: &u32| (c as usize) < bound;
    let guess = guess.min(columns.len());
    let (mut low, mut high, mut step) = (guess, guess, 1);
    while low > 0 && !below(&columns[low - 1]) {
        high = low - 1;
        low = high.saturating_sub(step);
        step *= 2;
    }
    while high < columns.len() && below(&columns[high]) {
        low = high + 1;
        high = (low + step).min(columns.len());
        step *= 2;
    }
    low + columns[low..high].partition_point(below)
}

/// [`FormatError::TooLarge`] if `size` does not fit the indices.
pub(crate) fn check_size(what: &'static str, size: u64) -> Result<(), FormatError> {
    if size > MAX_INDEX { Err(FormatError::TooLarge { what, got: size, max: MAX_INDEX }) } else { Ok(()) }
}

/// A transposed pattern with its value permutation, made by [`CsrPattern::transpose`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transposed {
    /// The pattern of the transposed matrix.
    pub pattern: CsrPattern,
    /// `values_of_transpose[e] == values[permutation[e]]`; every position occurs once.
    pub permutation: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_input_is_refused_by_name() {
        let new = CsrPattern::new;
        assert_eq!(new(2, 2, vec![0, 1], vec![0]), Err(FormatError::OffsetsLength { nrows: 2, got: 2 }));
        assert_eq!(new(1, 2, vec![1, 1], vec![0]), Err(FormatError::OffsetsStart { got: 1 }));
        // Runs backwards, and its middle offset lies beyond the columns: must be found before any slice is taken.
        assert_eq!(
            new(2, 2, vec![0, 10, 2], vec![0, 1]),
            Err(FormatError::OffsetsDecrease { row: 1, from: 10, to: 2 })
        );
        assert_eq!(new(1, 2, vec![0, 2], vec![0]), Err(FormatError::OffsetsEnd { end: 2, nnz: 1 }));
        assert_eq!(new(1, 2, vec![0, 1], vec![2]), Err(FormatError::ColumnOutside { row: 0, column: 2, ncols: 2 }));
        let unsorted = FormatError::ColumnsUnsorted { row: 0, column: 1, previous: 1 };
        assert_eq!(new(1, 2, vec![0, 2], vec![1, 1]), Err(unsorted));
        assert!(matches!(new(1, 1 << 40, vec![0, 0], vec![]), Err(FormatError::TooLarge { what: "ncols", .. })));
        assert!(matches!(CsrPattern::full(1 << 20, 1 << 20), Err(FormatError::TooLarge { what: "nnz", .. })));
        let outside = CsrPattern::from_positions(2, 2, vec![(2, 0)]);
        assert_eq!(outside, Err(FormatError::RowOutside { row: 2, nrows: 2 }));
    }

    #[test]
    fn empty_shapes() {
        for (nrows, ncols) in [(0, 0), (0, 3), (3, 0)] {
            let pattern = CsrPattern::new(nrows, ncols, vec![0; nrows + 1], vec![]).unwrap();
            assert_eq!((pattern.nnz(), pattern.density()), (0, 0.0));
            assert_eq!(pattern.transpose().pattern.nrows(), ncols);
        }
    }

    proptest! {
        #[test]
        fn any_guess_counts_the_columns_below(
            mut columns in prop::collection::vec(0u32..50, 0..40), bound in 0usize..60, guess in 0usize..60
        ) {
            columns.sort_unstable();
            let expected = columns.iter().filter(|&&c| (c as usize) < bound).count();
            prop_assert_eq!(count_below(&columns, bound, guess), expected);
        }

        #[test]
        fn transposing_twice_is_the_identity(
            nrows in 1usize..20, ncols in 1usize..20, raw in prop::collection::vec((0u32..20, 0u32..20), 0..100)
        ) {
            let positions = raw.into_iter().map(|(r, c)| (r % nrows as u32, c % ncols as u32)).collect();
            let pattern = CsrPattern::from_positions(nrows, ncols, positions).unwrap();
            let once = pattern.transpose();
            let twice = once.pattern.transpose();
            prop_assert_eq!(&twice.pattern, &pattern);
            for (e, &p) in twice.permutation.iter().enumerate() {
                prop_assert_eq!(once.permutation[p as usize] as usize, e);
            }
            // The transposed pattern holds to the checked constructor's invariants.
            let t = once.pattern;
            let rebuilt = CsrPattern::new(t.nrows(), t.ncols(), t.row_offsets.clone(), t.col_indices.clone());
            prop_assert_eq!(rebuilt.unwrap(), t);
        }
    }
}
