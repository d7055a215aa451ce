//! What can be wrong with a matrix file.

use std::io;
use std::path::PathBuf;

use sparse_kernels::FormatError;
use zip::result::ZipError;

use super::format::MatrixFormat;
use super::unfold::UnfoldsTooFar;

/// Rows that a file may claim whatever its size. CSR stores four bytes for each, so that 4 MiB are the most that an
/// empty file can ask for; beyond it a file must have a byte a row, as any file does that was made from such a matrix
/// and has entries in its rows.
pub const MAX_FREE_ROWS: usize = 1 << 20;

/// The largest size or index of a [`sparse_kernels::CsrPattern`].
pub(super) const MAX_INDEX: u64 = u32::MAX as u64 - 1;

/// Why a matrix file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixFileError {
    /// The name's extension is not a known format.
    #[error(
        "{}: unknown file extension; it must be {}",
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
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// The file is of another kind.
    #[error("it is {what}, not {expected}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A text ends too early.
    #[error("the file ends before its {expected}")]
    Ends {
        /// What should follow.
        expected: &'static str,
    },
    /// A text has fewer entries than it announces.
    #[error("the file ends after {got} of the {expected} entries that it announces")]
    EndsWithin {
        /// Entries in the file.
        got: u64,
        /// Entries that it announces.
        expected: u64,
    },
    /// An archive cannot be opened.
    #[error("not a zip archive, so not an .npz file: {0}")]
    Zip(#[from] ZipError),
    /// An archive has two members of the same name, of which different programs pick different ones.
    #[error("the archive has several members of the same name")]
    DuplicateMembers,
    /// A member of an archive cannot be decompressed.
    #[error("array {name}: {source}")]
    Member {
        /// The array.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// Compressed input expands to more than is allowed.
    #[error(transparent)]
    UnfoldsTooFar(#[from] UnfoldsTooFar),
    /// An array of an archive is wrong.
    #[error("array {name}: {source}")]
    Array {
        /// The array.
        name: String,
        /// What is wrong with it.
        source: NpyError,
    },
    /// The file is no safetensors file.
    #[error("{0}")]
    Tensors(String),
    /// An archive lacks an array.
    #[error("there is no array {name}, which scipy.sparse.save_npz always writes")]
    MissingArray {
        /// The array.
        name: String,
    },
    /// An archive holds a sparse format that is not read.
    #[error("the sparse format is {got:?}; it must be csr, csc or coo (in SciPy, convert it with .tocsr())")]
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
        /// The other array.
        other: &'static str,
        /// Its length.
        expected: usize,
    },
    /// The content is not an array.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// More rows or columns than the file's size makes credible.
    #[error(
        "the file claims {got} {what} in {file_bytes} bytes; the most allowed are {} (2^20 plus one for each byte)",
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
    /// Finite entries at one position whose sum is infinite.
    #[error("row {row}, column {column} (counted from 0): the sum of several entries, {sum:e}, is beyond f32's range")]
    Sum {
        /// The row, from 0.
        row: u32,
        /// The column, from 0.
        column: u32,
        /// The sum.
        sum: f64,
    },
    /// The indices do not form a matrix.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The indices of a column-compressed matrix do not form a matrix.
    #[error("read as the csr matrix of its transpose: {0}")]
    Transposed(FormatError),
    /// The number of values does not match the shape.
    #[error("{got} values for a dense matrix of {nrows}×{ncols}")]
    DenseLength {
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
        /// Values given.
        got: usize,
    },
    /// A matrix where a vector is expected.
    #[error("the file holds a {nrows}×{ncols} {kind}; a vector is dense and has one column")]
    NotVector {
        /// What it is.
        kind: &'static str,
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
    },
    /// The format cannot hold such matrices.
    #[error("a {kind} cannot be written as {format}; write it as {instead}")]
    Unwritable {
        /// What was to be written.
        kind: &'static str,
        /// The format.
        format: MatrixFormat,
        /// Formats that can.
        instead: &'static str,
    },
}

/// What is wrong with a line of a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The first line is not that of the format.
    #[error(
        "it starts {got:?}; a Matrix Market file starts with a line like `%%MatrixMarket matrix coordinate real general`"
    )]
    Banner {
        /// How it starts.
        got: String,
    },
    /// A word of the first line is unknown, or does not go with the others.
    #[error("the {what} is {got:?}; it must be {expected}")]
    Word {
        /// What the word means.
        what: &'static str,
        /// The word.
        got: String,
        /// Accepted words.
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
        /// What the number means.
        what: &'static str,
        /// The word.
        got: String,
        /// What is accepted.
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
    #[error("{nrows} rows and {ncols} columns; a symmetric matrix is square")]
    NotSquare {
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
    },
    /// A skew-symmetric matrix with an entry on its diagonal.
    #[error("an entry on the diagonal; a skew-symmetric matrix has none")]
    Diagonal,
    /// Something follows the last entry.
    #[error("it is not blank, but the matrix is already complete")]
    Extra,
}

/// What is wrong with an array in NumPy's format.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// Not this format.
    #[error("it does not start with \\x93NUMPY, so it is not an .npy file")]
    Magic,
    /// A version that does not exist.
    #[error("the format version is {major}.{minor}; it must be 1.0, 2.0 or 3.0")]
    Version {
        /// Before the dot.
        major: u8,
        /// After it.
        minor: u8,
    },
    /// The header is wrong.
    #[error("byte {at} should be {expected}")]
    Header {
        /// The byte's position in the file.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// The number of bytes does not match the header.
    #[error(
        "{got} bytes of data; the shape {shape:?} of {dtype} needs {}",
        expected.map_or("more than fits in memory".to_owned(), |bytes| bytes.to_string())
    )]
    Length {
        /// Lengths of the dimensions.
        shape: Vec<u64>,
        /// The type of the elements.
        dtype: String,
        /// Expected bytes, if the number fits.
        expected: Option<usize>,
        /// Bytes in the file.
        got: usize,
    },
    /// An element type that is not supported.
    #[error("the element type is {got:?}; it must be {expected}")]
    Dtype {
        /// The type.
        got: String,
        /// Accepted types.
        expected: &'static str,
    },
    /// A wrong number of dimensions.
    #[error("it has {got} dimensions; it must have {expected}")]
    Dimensions {
        /// How many it has.
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
    /// A value that is not an index.
    #[error("entry {index} is {got}; it must be 0 to {MAX_INDEX}")]
    Index {
        /// Its place.
        index: usize,
        /// The value.
        got: i128,
    },
}

/// The start of a word from a file: enough to find it, short enough for a message.
pub(super) fn excerpt(word: &[u8]) -> String {
    const LONGEST: usize = 40;
    let text = String::from_utf8_lossy(word.get(..LONGEST).unwrap_or(word)).into_owned();
    if word.len() > LONGEST { text + "…" } else { text }
}
