//! Patterns to measure on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rigl::topology::random_pattern;
use rigl::{TopologyError, nnz_for_density};
use sparse_kernels::random::Key;
use sparse_kernels::{BsrPattern, CsrPattern, FormatError};
use thiserror::Error;

use crate::formats::{self, MatrixFileError};

/// Why a pattern cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The file cannot be read, or holds no matrix.
    #[error("pattern: {0}")]
    File(#[from] MatrixFileError),
    /// The file's dense matrix is too large for a pattern.
    #[error("pattern: {}: {source}", path.display())]
    Dense {
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

crate::error::kinded!(Usage: PatternError);

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

/// The blocks that `place(block rows, block columns)` puts on the grid.
///
/// # Errors
/// [`PatternError`] if `place` fails or the size does not fit 32-bit indices.
pub fn in_blocks(
    nrows: usize,
    ncols: usize,
    block_size: [usize; 2],
    place: impl Fn(usize, usize) -> Result<CsrPattern, PatternError>,
) -> Result<BsrPattern, PatternError> {
    let blocks = place(nrows.div_ceil(block_size[0]), ncols.div_ceil(block_size[1]))?;
    Ok(BsrPattern::from_blocks(nrows, ncols, block_size, Arc::new(blocks))?)
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

/// The pattern of the matrix in a file: `.smtx` of the Deep Learning Matrix Collection (Gale et al. 2020), `.mtx` or
/// `.npz`. Of a dense matrix these are the entries that are not zero.
///
/// # Errors
/// [`PatternError`] naming the file, what is wrong and where.
pub fn from_file(path: &Path) -> Result<CsrPattern, PatternError> {
    let pattern = formats::read(path)?.into_pattern();
    pattern.map_err(|source| PatternError::Dense { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::compressed::tests::folded;

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
    fn files_of_every_format_are_read_and_wrong_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            from_file(&path)
        };
        let file = |name: &str, text: &str| bytes(name, text.as_bytes());
        let expected = CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1]).unwrap();
        let smtx = "2, 3, 3\n0 2 3 \n2 0 1 \n";
        let coordinates = "%%MatrixMarket matrix coordinate real general\n2 3 3\n1 1 5\n1 3 0\n2 2 7\n";
        let array = "%%MatrixMarket matrix array real general\n2 3\n5\n0\n0\n7\n1\n0\n";
        for (name, text) in [("a.smtx", smtx), ("a.mtx", coordinates), ("b.mtx", array)] {
            assert_eq!(file(name, text).unwrap(), expected, "{name}");
        }
        for ending in [".gz", ".xz"] {
            let folded = folded(smtx.as_bytes(), ending);
            assert_eq!(bytes(&format!("a.smtx{ending}"), &folded).unwrap(), expected, "{ending}");
            assert!(bytes(&format!("b.smtx{ending}"), &folded[..20]).is_err(), "{ending}");
        }
        for (name, text, part) in [
            ("a.smtx", "2, 3, 1\n0 9 1\n0\n", "backwards"),
            ("a.mtx", smtx, "line 1"),
            ("a.npz", smtx, "zip"),
            ("a.txt", smtx, ".smtx"),
            ("a.txt.xz", smtx, ".smtx"),
        ] {
            let message = file(name, text).unwrap_err().to_string();
            assert!(message.starts_with("pattern: ") && message.contains(name) && message.contains(part), "{message}");
        }
        assert!(from_file(&folder.path().join("none.smtx")).unwrap_err().to_string().contains("none.smtx"));
    }
}
