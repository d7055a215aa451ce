//! Patterns to measure on.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rigl::topology::random_pattern;
use rigl::{TopologyError, nnz_for_density};
use sparse_kernels::random::Key;
use sparse_kernels::{CsrPattern, FormatError};
use thiserror::Error;

/// Why there is no pattern.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The file cannot be read.
    #[error("pattern: {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not an smtx file.
    #[error(
        "pattern: {}: {reason}; an .smtx file is `rows, columns, nnz`, a line of row offsets, a line of column indices",
        path.display()
    )]
    Smtx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file's numbers make no pattern.
    #[error("pattern: {}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// A density or size that makes no pattern.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A size that makes no pattern.
    #[error(transparent)]
    Size(#[from] FormatError),
}

/// `nnz_for_density` positions, each equally likely.
///
/// # Errors
/// [`PatternError`] if the size does not fit 32-bit indices.
pub fn uniform(nrows: usize, ncols: usize, density: f64, key: Key) -> Result<CsrPattern, PatternError> {
    Ok(random_pattern(nrows, ncols, nnz_for_density(nrows * ncols, density), key)?)
}

/// Rows whose lengths fall off as `rank^(-1/2)`, in random order; columns uniform within a row.
///
/// # Errors
/// [`PatternError`] if the size does not fit 32-bit indices.
pub fn power_law(nrows: usize, ncols: usize, density: f64, key: Key) -> Result<CsrPattern, PatternError> {
    let nnz = nnz_for_density(nrows * ncols, density) as f64;
    let order = shuffled(nrows, key.with_name("rows"));
    // The scale at which the rows, none longer than the matrix is wide, hold nnz entries: by bisection.
    let length = |rank: usize, scale: f64| (scale / ((rank + 1) as f64).sqrt()).min(ncols as f64);
    let (mut low, mut high) = (0.0, ncols as f64 * (nrows as f64).sqrt());
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let total: f64 = (0..nrows).map(|rank| length(rank, middle)).sum();
        if total < nnz { low = middle } else { high = middle }
    }
    let mut positions = Vec::new();
    let mut carry = 0.0;
    for (rank, &row) in order.iter().enumerate() {
        let wanted = length(rank, high) + carry;
        let count = (wanted.round().max(0.0) as usize).min(ncols);
        carry = wanted - count as f64;
        let columns = random_pattern(1, ncols, count, key.with(u64::from(row)))?;
        positions.extend(columns.row(0).iter().map(|&column| (row, column)));
    }
    Ok(CsrPattern::from_positions(nrows, ncols, positions)?)
}

/// Entries near the diagonal: each row holds one contiguous run.
///
/// # Errors
/// [`PatternError`] if the size does not fit 32-bit indices.
pub fn banded(nrows: usize, ncols: usize, density: f64) -> Result<CsrPattern, PatternError> {
    let nnz = nnz_for_density(nrows * ncols, density);
    let row = |row: usize| {
        let width = nnz * (row + 1) / nrows - nnz * row / nrows;
        let centre = row * ncols / nrows;
        let start = centre.saturating_sub(width / 2).min(ncols - width);
        (start..start + width).map(move |column| (row as u32, column as u32))
    };
    Ok(CsrPattern::from_positions(nrows, ncols, (0..nrows).flat_map(row).collect())?)
}

fn shuffled(count: usize, key: Key) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.sort_by_cached_key(|&i| (key.bits(u64::from(i)), i));
    order
}

/// A pattern of the Deep Learning Matrix Collection (Gale et al. 2020): a line `rows, columns, nnz`, a line of row
/// offsets and a line of column indices.
///
/// # Errors
/// [`PatternError`] if the file cannot be read or is not such a file.
pub fn smtx(path: &Path) -> Result<CsrPattern, PatternError> {
    let read = |source| PatternError::Read { path: path.to_owned(), source };
    let wrong = |reason: String| PatternError::Smtx { path: path.to_owned(), reason };
    let mut lines = BufReader::new(std::fs::File::open(path).map_err(read)?).lines();
    let mut numbers = |what: &str| -> Result<Vec<u32>, PatternError> {
        let line = lines.next().ok_or_else(|| wrong(format!("there is no line of {what}")))?.map_err(read)?;
        let number = |text: &str| text.parse().map_err(|_| wrong(format!("{text:?} among the {what} is no index")));
        line.split([' ', ',', '\t']).filter(|text| !text.is_empty()).map(number).collect()
    };
    let sizes = numbers("sizes")?;
    let &[nrows, ncols, nnz] = &sizes[..] else {
        return Err(wrong(format!("its first line has {} numbers instead of 3", sizes.len())));
    };
    let (row_offsets, mut col_indices) = (numbers("row offsets")?, numbers("column indices")?);
    if col_indices.len() != nnz as usize {
        return Err(wrong(format!("it has {} column indices instead of {nnz}", col_indices.len())));
    }
    // The collection does not promise sorted columns.
    for bounds in row_offsets.windows(2) {
        if let Some(row) = col_indices.get_mut(bounds[0] as usize..bounds[1] as usize) {
            row.sort_unstable();
        }
    }
    let pattern = CsrPattern::new(nrows as usize, ncols as usize, row_offsets, col_indices);
    pattern.map_err(|source| PatternError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn densities_are_as_asked() {
        for density in [0.5, 0.1, 0.02] {
            let key = Key::new(3);
            let wanted = nnz_for_density(100 * 230, density);
            assert_eq!(uniform(100, 230, density, key).unwrap().nnz(), wanted);
            assert_eq!(banded(100, 230, density).unwrap().nnz(), wanted);
            let power_law = power_law(100, 230, density, key).unwrap();
            assert!(power_law.nnz().abs_diff(wanted) <= 1, "{} instead of {wanted}", power_law.nnz());
            let longest = (0..100).map(|r| power_law.row(r).len()).max().unwrap();
            assert!(longest > 2 * wanted / 100 || longest == 230, "longest row {longest}");
        }
    }

    #[test]
    fn smtx_files_are_read_and_wrong_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = folder.path().join("a.smtx");
            std::fs::write(&path, text).unwrap();
            smtx(&path)
        };
        let pattern = file("2, 3, 3\n0 2 3 \n2 0 1 \n").unwrap();
        assert_eq!((pattern.row(0), pattern.row(1)), (&[0, 2][..], &[1][..]));
        for (text, part) in [
            ("", "no line of sizes"),
            ("2, 3\n0 0 0\n\n", "2 numbers"),
            ("2, 3, 3\n0 2 3\n0 1\n", "2 column indices instead of 3"),
            ("2, 3, 1\n0 9 1\n0\n", "backwards"),
            ("2, 3, x\n", "\"x\""),
            ("1, 2, 1\n0 1\n5\n", "column 5"),
        ] {
            let message = file(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
        assert!(smtx(&folder.path().join("none.smtx")).unwrap_err().to_string().contains("none.smtx"));
    }
}
