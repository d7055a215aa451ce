//! Matrices in other programs' files: one matrix a file, the format told by the extension.
//!
//! | format | file | read as | written from |
//! | --- | --- | --- | --- |
//! | [`npz`] | `.npz` of `scipy.sparse.save_npz` | [`Matrix::Sparse`] | sparse; a pattern as ones |
//! | [`matrix_market`] | `.mtx` | sparse, pattern or dense, as its banner says | all three |
//! | [`smtx`] | `.smtx` of the Deep Learning Matrix Collection | [`Matrix::Pattern`] | pattern; sparse without its values |
//! | [`npy`] | `.npy` of `numpy.save` | [`Matrix::Dense`] | dense |
//!
//! Values become `f32`: they are rounded to the nearest, and a finite value beyond its range is an error. An explicit
//! zero stays a stored entry. Entries stored more than once are summed (in a pattern: merged), and columns need not be
//! sorted in the file.
//!
//! Files come from anywhere, so no claim in them is believed: sizes are checked before they are computed with, memory
//! grows with the bytes that are really there, compressed input has an [allowance](unfold), and what CSR needs for
//! rows that the file only claims is bounded by [`MAX_FREE_ROWS`].

pub mod arrays;
pub mod foreign;
pub mod matrix_market;
pub mod npy;
pub mod npz;
pub mod smtx;
pub mod unfold;

mod entries;
mod error;
mod format;
mod matrix;
mod text;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;

use crate::atomic_file::write_atomic;

pub use error::{ContentError, LineError, MAX_FREE_ROWS, MatrixFileError, NpyError};
pub use format::MatrixFormat;
pub use matrix::{DenseMatrix, Matrix};

impl MatrixFormat {
    /// The format of a file of this name; upper and lower case are the same.
    ///
    /// # Errors
    /// [`MatrixFileError::Extension`], which lists the known ones.
    pub fn from_path(path: &Path) -> Result<Self, MatrixFileError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let format = Self::ALL.into_iter().find(|format| extension.eq_ignore_ascii_case(format.extension()));
        format.ok_or_else(|| MatrixFileError::Extension { path: path.to_owned() })
    }

    /// The format of a file to read, whose name may also end in `.gz` or `.xz`.
    ///
    /// # Errors
    /// As [`Self::from_path`].
    pub fn of_source(path: &Path) -> Result<Self, MatrixFileError> {
        let folded = |end: &OsStr| end.eq_ignore_ascii_case("gz") || end.eq_ignore_ascii_case("xz");
        let plain = if path.extension().is_some_and(folded) { path.with_extension("") } else { path.to_owned() };
        Self::from_path(&plain).map_err(|_| MatrixFileError::Extension { path: path.to_owned() })
    }

    /// The matrix in a file's bytes.
    ///
    /// # Errors
    /// [`ContentError`] saying what is wrong and where.
    pub fn parse(self, bytes: &[u8]) -> Result<Matrix, ContentError> {
        match self {
            Self::Npz => npz::parse(bytes),
            Self::MatrixMarket => matrix_market::parse(bytes),
            Self::Smtx => smtx::parse(bytes),
            Self::Npy => npy::parse(bytes),
        }
    }

    /// The bytes of a file with this matrix. The same matrix gives the same bytes.
    ///
    /// # Errors
    /// [`ContentError::Unwritable`] if the format has no such matrices.
    pub fn to_bytes(self, matrix: &Matrix) -> Result<Vec<u8>, ContentError> {
        match self {
            Self::Npz => npz::to_bytes(matrix),
            Self::MatrixMarket => matrix_market::to_bytes(matrix),
            Self::Smtx => smtx::to_bytes(matrix),
            Self::Npy => npy::to_bytes(matrix),
        }
    }
}

/// Reads the matrix in a file; compressed with gzip or xz, if its first bytes say so. Its name may say so too
/// (`weights.smtx.xz`).
///
/// # Errors
/// [`MatrixFileError`] naming the file, what is wrong and where.
///
/// ```no_run
/// use trainer::formats::{self, Matrix};
/// let matrix = formats::read("weights.npz".as_ref())?;
/// println!("{} by {}", matrix.nrows(), matrix.ncols());
/// formats::write("weights.mtx".as_ref(), &matrix)?;
/// # Ok::<(), trainer::formats::MatrixFileError>(())
/// ```
pub fn read(path: &Path) -> Result<Matrix, MatrixFileError> {
    let format = MatrixFormat::of_source(path)?;
    format.parse(&read_unfolded(path)?).map_err(in_file(path))
}

/// A file's bytes, unfolded if their beginning says that they are compressed.
fn read_unfolded(path: &Path) -> Result<Vec<u8>, MatrixFileError> {
    let failed = |source| MatrixFileError::Io { path: path.to_owned(), source };
    let mut bytes = fs::read(path).map_err(failed)?;
    if unfold::is_folded(&bytes) {
        let folded = std::mem::take(&mut bytes);
        unfold::unfold(&folded, &mut unfold::Allowance::new(folded.len() as u64))
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    Ok(bytes)
}

/// Writes a matrix so that the file is the old or the new one at any moment.
///
/// # Errors
/// [`MatrixFileError`] naming the file, if it cannot be written or its format has no such matrices.
pub fn write(path: &Path, matrix: &Matrix) -> Result<(), MatrixFileError> {
    let bytes = MatrixFormat::from_path(path)?.to_bytes(matrix).map_err(in_file(path))?;
    write_bytes(path, &bytes)
}

/// Reads a dense matrix of one column, such as a bias: a 1-D or n×1 `.npy` or an n×1 `.mtx`.
///
/// # Errors
/// [`MatrixFileError`] naming the file, also if it holds another matrix.
pub fn read_vector(path: &Path) -> Result<Vec<f32>, MatrixFileError> {
    match read(path)? {
        Matrix::Dense(matrix) if matrix.ncols == 1 => Ok(matrix.values),
        other => {
            let (kind, nrows, ncols) = (other.kind(), other.nrows(), other.ncols());
            Err(in_file(path)(ContentError::NotVector { kind, nrows, ncols }))
        }
    }
}

/// Writes a vector as [`read_vector`] reads it: a 1-D `.npy` or an n×1 `.mtx`.
///
/// # Errors
/// [`MatrixFileError`] naming the file, if it cannot be written or its format has no vectors.
pub fn write_vector(path: &Path, values: &[f32]) -> Result<(), MatrixFileError> {
    let format = MatrixFormat::from_path(path)?;
    let bytes = match format {
        MatrixFormat::Npy => Ok(npy::vector_to_bytes(values)),
        MatrixFormat::MatrixMarket => DenseMatrix::new(values.len(), 1, values.to_vec())
            .and_then(|column| matrix_market::to_bytes(&Matrix::Dense(column))),
        MatrixFormat::Npz | MatrixFormat::Smtx => {
            Err(ContentError::Unwritable { kind: "vector", format, instead: ".npy or .mtx" })
        }
    };
    write_bytes(path, &bytes.map_err(in_file(path))?)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), MatrixFileError> {
    write_atomic(path, bytes).map_err(|source| MatrixFileError::Io { path: path.to_owned(), source })
}

fn in_file(path: &Path) -> impl FnOnce(ContentError) -> MatrixFileError {
    move |source| MatrixFileError::Content { path: path.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use proptest::prelude::*;
    use sparse_kernels::FormatError;

    #[test]
    fn extensions_tell_formats() {
        for format in MatrixFormat::ALL {
            let path = format!("a/b.c.{}", format.extension());
            assert_eq!(MatrixFormat::from_path(path.as_ref()).unwrap(), format);
            assert_eq!(MatrixFormat::from_path(path.to_uppercase().as_ref()).unwrap(), format);
        }
        for path in ["weights", "weights.csv", ".npz", "a.npz/b", ""] {
            let message = read(path.as_ref()).unwrap_err().to_string();
            assert_eq!(
                message,
                format!(
                    "{path}: unknown file extension; it must be .npz (SciPy sparse), .mtx (Matrix \
                     Market), .smtx (DLMC pattern), .npy (NumPy array)"
                )
            );
            assert_eq!(write(path.as_ref(), &dense(1, 1, &[0.0])).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn files_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let matrix = sparse(2, 3, &[(0, 1, 1.5), (1, 0, -0.0)]);
        for format in [MatrixFormat::Npz, MatrixFormat::MatrixMarket] {
            let path = folder.path().join("matrix").with_extension(format.extension());
            write(&path, &matrix).unwrap();
            assert_same(&read(&path).unwrap(), &matrix);
        }
        let path = folder.path().join("matrix.npy");
        let message = write(&path, &matrix).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "{}: a sparse matrix cannot be written as .npy (NumPy array); write it as .npz or .mtx",
                path.display()
            )
        );
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.starts_with(&path.display().to_string()) && message.contains("NUMPY"), "{message}");
        let missing = read("no/such.npz".as_ref()).unwrap_err().to_string();
        assert!(missing.starts_with("no/such.npz: "), "{missing}");
    }

    /// By its first bytes, whatever its name says.
    #[test]
    fn compressed_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"%%MatrixMarket matrix array real general\n1 1\n2.5\n";
        for (name, ending) in
            [("a.mtx", ".gz"), ("b.mtx.gz", ".gz"), ("c.mtx", ".xz"), ("d.MTX.XZ", ".xz"), ("e.mtx.gz", "")]
        {
            let path = folder.path().join(name);
            fs::write(&path, crate::data::compressed::tests::folded(text, ending)).unwrap();
            assert_same(&read(&path).unwrap(), &dense(1, 1, &[2.5]));
        }
    }

    #[test]
    fn vectors_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        for values in [vec![], vec![1.5], vec![0.1, -0.0, f32::INFINITY, 1e-45]] {
            for name in ["v.npy", "v.mtx"] {
                let path = folder.path().join(name);
                write_vector(&path, &values).unwrap();
                assert_eq!(bits(&read_vector(&path).unwrap()), bits(&values));
            }
        }
        let path = folder.path().join("v.npz");
        let message = write_vector(&path, &[1.0]).unwrap_err().to_string();
        assert!(message.ends_with("a vector cannot be written as .npz (SciPy sparse); write it as .npy or .mtx"));
        write(&path, &sparse(2, 1, &[])).unwrap();
        let message = read_vector(&path).unwrap_err().to_string();
        assert!(message.ends_with("holds a 2×1 sparse matrix; a vector is dense and has one column"), "{message}");
        let path = folder.path().join("wide.npy");
        write(&path, &dense(1, 2, &[1.0, 2.0])).unwrap();
        let message = read_vector(&path).unwrap_err().to_string();
        assert!(message.ends_with("holds a 1×2 dense matrix; a vector is dense and has one column"), "{message}");
    }

    #[test]
    fn patterns_are_what_is_stored() {
        let positions = |matrix: Matrix| matrix.into_pattern().unwrap().positions().collect::<Vec<_>>();
        assert_eq!(positions(sparse(2, 2, &[(0, 0, 0.0), (1, 1, 2.0)])), [(0, 0), (1, 1)]);
        assert_eq!(positions(pattern(1, 2, &[(0, 1)])), [(0, 1)]);
        assert_eq!(positions(dense(2, 2, &[0.0, f32::NAN, 3.0, -0.0])), [(0, 1), (1, 0)]);
        assert_eq!(positions(dense(3, 0, &[])), []);
        let large = Matrix::Dense(DenseMatrix::new(0, 1 << 40, vec![]).unwrap());
        assert!(matches!(large.into_pattern(), Err(FormatError::TooLarge { what: "ncols", .. })));
        let error = DenseMatrix::new(usize::MAX, 2, vec![0.0]).unwrap_err().to_string();
        assert_eq!(error, format!("1 values for a dense matrix of {}×2", usize::MAX));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in MatrixFormat::ALL {
                check_parsed(format, &bytes);
            }
        }

        /// What is damaged is refused, or is a matrix that can be written and read.
        #[test]
        fn damaged_files_never_panic(
            matrix in any_matrix(), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<usize>()),
        ) {
            for format in MatrixFormat::ALL {
                let Ok(mut bytes) = format.to_bytes(&matrix) else { continue };
                let length = bytes.len();
                for &(at, byte) in &damage {
                    bytes[at % length] = byte;
                }
                bytes.truncate(cut.map_or(length, |cut| cut % length));
                check_parsed(format, &bytes);
            }
        }
    }
}
