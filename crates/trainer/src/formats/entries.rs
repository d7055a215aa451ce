//! From entries in a file's order to a matrix.

use std::sync::Arc;

use sparse_kernels::{Csr, CsrPattern, FormatError};

use super::error::{ContentError, MAX_FREE_ROWS, MAX_INDEX};

/// One stored entry: row, column, value.
pub(super) type Entry = (u32, u32, f32);

/// A number of rows, columns or entries that 32-bit indices allow.
pub(super) fn size(what: &'static str, got: u64) -> Result<usize, FormatError> {
    let size = usize::try_from(got).ok().filter(|_| got <= MAX_INDEX);
    size.ok_or(FormatError::TooLarge { what, got, max: MAX_INDEX })
}

/// Refuses more rows (or columns) than a file of so many bytes may claim.
pub(super) fn check_claim(what: &'static str, got: u64, file_bytes: usize) -> Result<(), ContentError> {
    let believed = (MAX_FREE_ROWS as u64).saturating_add(file_bytes as u64);
    if got > believed { Err(ContentError::Claim { what, got, file_bytes }) } else { Ok(()) }
}

/// A matrix from entries in any order. Those at one position are summed, in the order in which they stand.
///
/// # Cost
/// O(nrows + n log n) for `n` entries.
pub(super) fn from_entries(nrows: usize, ncols: usize, mut entries: Vec<Entry>) -> Result<Csr<f32>, ContentError> {
    // The sort is stable, which keeps the order of summation.
    entries.sort_by_key(|&(row, column, _)| (row, column));
    let mut positions = Vec::with_capacity(entries.len());
    let mut values = Vec::with_capacity(entries.len());
    for group in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let &[(row, column, first), ref rest @ ..] = group else { continue };
        positions.push((row, column));
        // A single value keeps its bits, NaN's among them.
        values.push(if rest.is_empty() { first } else { sum(row, column, group)? });
    }
    drop(entries);
    let pattern = CsrPattern::from_positions(nrows, ncols, positions)?;
    Ok(Csr::new(Arc::new(pattern), values)?)
}

fn sum(row: u32, column: u32, group: &[Entry]) -> Result<f32, ContentError> {
    let sum: f64 = group.iter().map(|entry| f64::from(entry.2)).sum();
    match sum as f32 {
        narrow if narrow.is_infinite() && sum.is_finite() => Err(ContentError::Sum { row, column, sum }),
        narrow => Ok(narrow),
    }
}

/// A matrix from the arrays of CSR, whose columns may be unsorted and repeated within a row.
pub(super) fn from_rows(
    nrows: usize,
    ncols: usize,
    row_offsets: Vec<u32>,
    col_indices: Vec<u32>,
    values: Vec<f32>,
) -> Result<Csr<f32>, ContentError> {
    let row = |bounds: &[u32]| match bounds {
        &[start, end] => col_indices.get(start as usize..end as usize),
        _ => None,
    };
    let increasing = |columns: &[u32]| columns.is_sorted_by(|a, b| a < b);
    // Offsets that are wrong are for `CsrPattern::new` to report.
    let sorts = offsets_fit(nrows, &row_offsets, col_indices.len())
        && !row_offsets.windows(2).all(|bounds| row(bounds).is_none_or(increasing));
    if sorts && values.len() == col_indices.len() {
        let rows = row_offsets.windows(2).zip(0u32..);
        let rows = rows.flat_map(|(bounds, row)| {
            bounds.first().into_iter().zip(bounds.last()).flat_map(move |(&start, &end)| (start..end).map(move |_| row))
        });
        let entries = rows.zip(&col_indices).zip(&values).map(|((row, &column), &value)| (row, column, value));
        return from_entries(nrows, ncols, entries.collect());
    }
    let pattern = CsrPattern::new(nrows, ncols, row_offsets, col_indices)?;
    Ok(Csr::new(Arc::new(pattern), values)?)
}

fn offsets_fit(nrows: usize, row_offsets: &[u32], nnz: usize) -> bool {
    row_offsets.len().checked_sub(1) == Some(nrows)
        && row_offsets.first() == Some(&0)
        && row_offsets.last().is_some_and(|&end| end as usize == nnz)
        && row_offsets.is_sorted()
}

/// The transposed matrix.
pub(super) fn transpose(matrix: &Csr<f32>) -> Result<Csr<f32>, ContentError> {
    let transposed = matrix.pattern().transpose();
    let values = transposed.permutation.iter().filter_map(|&entry| matrix.values().get(entry as usize).copied());
    Ok(Csr::new(Arc::new(transposed.pattern), values.collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_at_one_position_are_summed() {
        let entries = vec![(1, 0, 4.0), (0, 1, 1.0), (0, 1, 2.0), (0, 0, -0.0), (0, 1, 4.0)];
        let matrix = from_entries(2, 2, entries).unwrap();
        assert_eq!(matrix.to_dense(), [0.0, 7.0, 4.0, 0.0]);
        assert!(matrix.values()[0].is_sign_negative());
        let sum = |values: [f32; 2]| from_entries(1, 1, values.map(|value| (0, 0, value)).to_vec());
        assert_eq!(sum([f32::MAX, -f32::MAX]).unwrap().values(), [0.0]);
        assert_eq!(sum([f32::INFINITY, 1.0]).unwrap().values(), [f32::INFINITY]);
        let message = sum([f32::MAX; 2]).unwrap_err().to_string();
        assert!(message.starts_with("row 0, column 0 (counted from 0): the sum of several entries, 6.8"), "{message}");
        assert!(matches!(
            from_entries(1, 1, vec![(1, 0, 0.0)]),
            Err(ContentError::Format(FormatError::RowOutside { .. }))
        ));
    }

    #[test]
    fn rows_are_sorted_and_wrong_offsets_reported() {
        let matrix = from_rows(2, 4, vec![0, 3, 4], vec![2, 0, 2, 1], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(matrix.pattern().row(0), [0, 2]);
        assert_eq!(matrix.values(), [2.0, 4.0, 4.0]);
        let message =
            |offsets: &[u32]| from_rows(2, 4, offsets.to_vec(), vec![2, 0], vec![1.0; 2]).unwrap_err().to_string();
        assert!(message(&[0, 2]).contains("2 entries"));
        assert!(message(&[1, 2, 2]).contains("starts at 1"));
        assert!(message(&[0, 9, 2]).contains("backwards"));
        assert!(message(&[0, 1, 3]).contains("ends at 3"));
        assert!(message(&[]).contains("0 entries"));
        let outside = from_rows(1, 2, vec![0, 2], vec![5, 0], vec![1.0; 2]).unwrap_err().to_string();
        assert_eq!(outside, "row 0: column 5 is outside 0..2");
        assert!(from_rows(1, 2, vec![0, 2], vec![1, 0], vec![1.0]).is_err());
    }

    #[test]
    fn transposing_moves_the_values() {
        let matrix = from_entries(2, 3, vec![(0, 0, 1.0), (0, 2, 2.0), (1, 0, 3.0)]).unwrap();
        assert_eq!(transpose(&matrix).unwrap().to_dense(), [1.0, 3.0, 0.0, 0.0, 2.0, 0.0]);
    }
}
