//! What can be wrong with a matrix file.

use std::io;
use std::path::PathBuf;

use sparse_kernels::FormatError;
use zip::result::ZipError;

use super::MatrixFormat;
use super::entries::{MAX_FREE_ROWS, MAX_INDEX};
use super::unfold::UnfoldsTooFar;

/// Why a matrix file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixFileError {
    /// The name does not tell the format.
    #[error(
        "{}: the extension does not tell the format; it must be {}",
        path.display(),
        MatrixFormat::ALL.map(|format| format.to_string()).join(", ")
    )]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file's content is wrong, or would be.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ContentError>,
    },
}

/// What is wrong with the content of a matrix file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A line of a text is wrong.
    #[error("line {line}: {source}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// A text ends too early.
    #[error("it ends before its {expected}")]
    Ends {
        /// What should follow.
        expected: &'static str,
    },
    /// A text has fewer entries than it announces.
    #[error("it ends after {got} of the {expected} entries that it announces")]
    EndsWithin {
        /// Entries there are.
        got: u64,
        /// Entries there should be.
        expected: u64,
    },
    /// An archive cannot be opened.
    #[error("not a zip archive, as an .npz file is: {0}")]
    Zip(#[from] ZipError),
    /// An archive has two members of one name, of which programs pick different ones.
    #[error("the archive has several members of the same name")]
    DuplicateMembers,
    /// A member of an archive cannot be decompressed.
    #[error("array {name}: {source}")]
    Member {
        /// The array.
        name: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Compressed input unfolds to more than is allowed.
    #[error(transparent)]
    UnfoldsTooFar(#[from] UnfoldsTooFar),
    /// An array of an archive is wrong.
    #[error("array {name}: {source}")]
    Array {
        /// The array.
        name: &'static str,
        /// What is wrong with it.
        source: NpyError,
    },
    /// An archive lacks an array.
    #[error("there is no array {name}, which files of scipy.sparse.save_npz have")]
    MissingArray {
        /// The array.
        name: &'static str,
    },
    /// An archive holds a sparse format that is not read.
    #[error("its format is {got:?}; it must be csr, csc or coo (in SciPy, convert it with .tocsr())")]
    SparseFormat {
        /// The format.
        got: String,
    },
    /// Arrays that belong together differ in length.
    #[error("array {name} has {got} entries; array {other} has {expected}")]
    Lengths {
        /// The array.
        name: &'static str,
        /// Its length.
        got: usize,
        /// The array beside it.
        other: &'static str,
        /// That one's length.
        expected: usize,
    },
    /// The content is no array.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// More rows or columns than the file's size makes credible.
    #[error(
        "it claims {got} {what} in {file_bytes} bytes; more than {}, which is 2^20 and one for each byte, are not \
         believed",
        (MAX_FREE_ROWS as u64).saturating_add(*file_bytes as u64)
    )]
    Claim {
        /// `rows` or `columns`.
        what: &'static str,
        /// How many.
        got: u64,
        /// Size of the file.
        file_bytes: usize,
    },
    /// Entries at one position sum to an infinity that none of them is.
    #[error("row {row}, column {column} (counted from 0): several entries, whose sum {sum:e} is beyond f32's range")]
    Sum {
        /// The row, from 0.
        row: u32,
        /// The column, from 0.
        column: u32,
        /// The sum.
        sum: f64,
    },
    /// The indices make no matrix.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The indices of a column-compressed matrix make no matrix.
    #[error("as the csr matrix that is its transpose, {0}")]
    Transposed(FormatError),
    /// The number of values is not that of the shape.
    #[error("{got} values for a dense matrix of {nrows}×{ncols}")]
    DenseLength {
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
        /// Values given.
        got: usize,
    },
    /// A matrix that is no vector, where one is read.
    #[error("it holds a {nrows}×{ncols} {kind}; a vector is dense and has one column")]
    NotVector {
        /// What it is.
        kind: &'static str,
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
    },
    /// A format does not hold such matrices.
    #[error("a {kind} cannot be written as {format}; write it as {instead}")]
    Unwritable {
        /// What was to be written.
        kind: &'static str,
        /// The format.
        format: MatrixFormat,
        /// Formats that do.
        instead: &'static str,
    },
}

/// What is wrong with a line of a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The first line is not that of the format.
    #[error("it begins {got:?}; a Matrix Market file begins `%%MatrixMarket matrix coordinate real general` or alike")]
    Banner {
        /// How it begins.
        got: String,
    },
    /// A word of the first line is not known, or not together with the others.
    #[error("the {what} is {got:?}; it must be {expected}")]
    Word {
        /// What the word tells.
        what: &'static str,
        /// The word.
        got: String,
        /// Words that would do.
        expected: &'static str,
    },
    /// A wrong number of words.
    #[error("it has {got} {what} instead of {expected}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: u64,
    },
    /// A word is not the number that it should be.
    #[error("{got:?} among the {what} is not {expected}")]
    Number {
        /// What the number tells.
        what: &'static str,
        /// The word.
        got: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A row or column that the matrix does not have.
    #[error("{what} {got} is outside 1..={max}")]
    Outside {
        /// `row` or `column`.
        what: &'static str,
        /// Its number.
        got: u64,
        /// The last one.
        max: usize,
    },
    /// A finite value that f32 cannot hold.
    #[error("{got:?} is beyond f32's range, which ends at 3.4e38")]
    Range {
        /// The value.
        got: String,
    },
    /// A symmetric matrix that is not square.
    #[error("{nrows} rows and {ncols} columns; a symmetric matrix has as many of both")]
    NotSquare {
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
    },
    /// A skew-symmetric matrix with an entry on its diagonal.
    #[error("an entry on the diagonal; a skew-symmetric matrix has none")]
    Diagonal,
    /// Something stands after the last entry.
    #[error("it is not blank, though the matrix is complete before it")]
    Extra,
}

/// What is wrong with an array in NumPy's format.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// Not this format.
    #[error("it does not begin with \\x93NUMPY, as an .npy file does")]
    Magic,
    /// A version that does not exist.
    #[error("it has version {major}.{minor} of the format; it must be 1.0, 2.0 or 3.0")]
    Version {
        /// Before the dot.
        major: u8,
        /// After it.
        minor: u8,
    },
    /// The header is not as it should be.
    #[error("byte {at} should be {expected}")]
    Header {
        /// The place in the file.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Not the bytes that the header announces.
    #[error(
        "{got} bytes of data; the shape {shape:?} of {dtype} needs {}",
        expected.map_or("more than memory has".to_owned(), |bytes| bytes.to_string())
    )]
    Length {
        /// Lengths of the dimensions.
        shape: Vec<u64>,
        /// The type of the elements.
        dtype: String,
        /// Bytes that there should be, if their number is one.
        expected: Option<usize>,
        /// Bytes there are.
        got: usize,
    },
    /// A type of elements that is not read.
    #[error("its type is {got:?}; it must be {expected}")]
    Dtype {
        /// The type.
        got: String,
        /// Types that would do.
        expected: &'static str,
    },
    /// A wrong number of dimensions.
    #[error("it has {got} dimensions; it must have {expected}")]
    Dimensions {
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: &'static str,
    },
    /// A wrong number of elements.
    #[error("it has {got} entries; it must have {expected}")]
    Entries {
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A finite value that f32 cannot hold.
    #[error("entry {index} is {got:e}, beyond f32's range, which ends at 3.4e38")]
    Range {
        /// Its place.
        index: usize,
        /// The value.
        got: f64,
    },
    /// A value that is no index.
    #[error("entry {index} is {got}; it must be 0 to {MAX_INDEX}")]
    Index {
        /// Its place.
        index: usize,
        /// The value.
        got: i128,
    },
}

/// The beginning of a word from a file: enough to find it, short enough for a message.
pub(super) fn excerpt(word: &[u8]) -> String {
    const LONGEST: usize = 40;
    let text = String::from_utf8_lossy(word.get(..LONGEST).unwrap_or(word)).into_owned();
    if word.len() > LONGEST { text + "…" } else { text }
}
